//! The gateway's allocator, counting.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tikv_jemallocator::Jemalloc;

static COUNT: AtomicU64 = AtomicU64::new(0);

/// How often this process has asked for memory so far, or for more of it.
pub(crate) fn count() -> u64 {
    COUNT.load(Relaxed)
}

/// Counts what goes to the allocator that the gateway has.
pub(crate) struct Counting;

// SAFETY: everything is handed on unchanged; the counter touches no memory of the caller.
#[allow(unsafe_code, reason = "the one trait that an allocator has to implement is unsafe")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        unsafe { Jemalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        unsafe { Jemalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, octets: usize) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        unsafe { Jemalloc.realloc(memory, layout, octets) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { Jemalloc.dealloc(memory, layout) }
    }
}
