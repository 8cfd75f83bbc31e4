//! The memory of a process that holds a key.

use std::io;

/// Keeps what is in memory from everyone else: no core file is written when the process dies, and no other process of this user can read
/// its memory. To be called before a key is read.
///
/// # Errors
/// The system's, where it cannot do that; the process then goes on with its memory as it was.
#[cfg(target_os = "linux")]
pub fn shut_memory() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// No core file is written when the process dies.
///
/// # Errors
/// The system's.
#[cfg(all(unix, not(target_os = "linux")))]
pub fn shut_memory() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}
