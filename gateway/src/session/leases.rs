//! The permits that one direction of a session used last.

use flytrap_policy::{Lease, Permit};

/// A few leases, found by the end of the topic name, so that a session that speaks of several topics in turn asks the registry
/// about each of them once per change of the mirror and not once per message.
#[derive(Default)]
pub(crate) struct Leases {
    slots: Vec<Lease>,
}

/// Enough for a session that goes round a handful of topics; takes no memory before the first PUBLISH.
const SLOTS: usize = 16;

impl Leases {
    /// The one lease that can be for `topic`.
    #[inline]
    pub(crate) fn slot(&mut self, topic: &[u8]) -> &mut Lease {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, Lease::default);
        }
        // Names of one session mostly differ in their last octets.
        let end = match topic.last_chunk::<4>() {
            Some(end) => u32::from_le_bytes(*end),
            None => topic.iter().fold(0, |hash, octet| (hash << 8) | u32::from(*octet)),
        };
        let hash = end.wrapping_mul(0x9E37_79B1) >> 28;
        &mut self.slots[hash as usize]
    }
}

/// Octets of the longest name that is leased: a longer one is judged each time, so that leases stay small.
const LONGEST_LEASED: usize = 256;

/// Remembers a permit, unless the name is too long to be kept.
pub(crate) fn lease_short(lease: &mut Lease, permit: &Permit, version: u64, name: &[u8]) {
    if name.len() <= LONGEST_LEASED {
        lease.keep(permit, version, name);
    }
}
