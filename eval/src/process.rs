//! What a process costs, as the system tells it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

/// Resident octets, 0 if the process is gone.
pub(crate) fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS:").unwrap_or(0) * 1024
}

/// Open descriptors.
pub(crate) fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn status(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

/// CPU time so far, all threads, user and system, seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> =
        text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks =
        |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5), in ticks of 10 ms.
    (ticks(11) + ticks(12)) / 100.0
}

/// How long each thread of a process has been ready and not been let run since its start, by its id.
pub(crate) fn kept_waiting(pid: u32) -> BTreeMap<OsString, Duration> {
    let of = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let waited = text.split_whitespace().nth(1)?.parse().ok()?;
        Some((task.file_name(), Duration::from_nanos(waited)))
    };
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().filter_map(of).collect()
}

/// The most that one thread waited between two looks.
pub(crate) fn longest_wait(
    before: &BTreeMap<OsString, Duration>,
    after: &BTreeMap<OsString, Duration>,
) -> Duration {
    let waited = |(task, waited): (&OsString, &Duration)| {
        waited.saturating_sub(before.get(task).copied().unwrap_or_default())
    };
    after.iter().map(waited).max().unwrap_or_default()
}
