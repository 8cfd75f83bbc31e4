//! The machine at hand, and what runs on it.

use std::fs;
use std::process::Command;

use flytrap_site::project_root;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Connections of ten thousand clients, at both of their ends and at the proxy, need more descriptors than most systems give at first.
const DESCRIPTORS: u64 = 65_536;

/// What a reader has to know of it, by name.
pub(super) fn facts() -> Vec<(String, String)> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or("unknown", |(_, value)| value.trim()).to_owned()
    };
    let (cpu, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split_whitespace().take(3).collect();
    let built = if cfg!(debug_assertions) {
        "without optimisation: the figures show that the programs work, and nothing else"
    } else {
        "release"
    };
    let kernel = read("/proc/sys/kernel/osrelease");
    [
        ("CPU", field(&cpu, "model name")),
        ("cores", cores.to_string()),
        ("memory", field(&memory, "MemTotal")),
        ("kernel", kernel.trim().to_owned()),
        ("load before (1, 5, 15 minutes)", load.join(", ")),
        ("build", built.to_owned()),
        ("commit", commit()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// Of the gateway; with a `+` if there are changes that are in no commit.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let root = project_root().ok()?;
        let done = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(hash) => {
            let is_clean = git(&["status", "--porcelain", "--untracked-files=no"]);
            hash + if is_clean.is_some_and(|changes| changes.is_empty()) { "" } else { "+" }
        }
        None => "unknown".to_owned(),
    }
}

/// Takes as many descriptors as are needed, or as the system allows: for this process and those that it starts.
pub(super) fn raise_descriptors() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(DESCRIPTORS);
    limit.current = Some(DESCRIPTORS.max(limit.current.unwrap_or(0)));
    limit.maximum = Some(most.max(DESCRIPTORS));
    if setrlimit(Resource::Nofile, limit).is_err() {
        // Only root may raise the upper bound.
        limit.current = Some(most.min(DESCRIPTORS));
        limit.maximum = Some(most);
        let _ = setrlimit(Resource::Nofile, limit);
    }
    getrlimit(Resource::Nofile).current.unwrap_or(DESCRIPTORS)
}
