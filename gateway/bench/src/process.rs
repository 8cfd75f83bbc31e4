//! Processes under test: where they run, and what they have cost.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use eyre::{Result, WrapErr};
use rustix::process::{Resource, getrlimit};

/// The core that load, proxy and sink share, so that a proxy cannot look cheap by using a second one.
const CORE: &str = "1";

/// How a program is started so that measurements repeat.
#[derive(Clone, Debug)]
pub struct Pinning {
    before: Vec<&'static str>,
}

impl Pinning {
    /// One core and a real-time priority, as far as this machine allows it.
    #[must_use]
    pub fn find() -> Self {
        let ways: [&[&str]; 2] =
            [&["chrt", "-r", "1", "taskset", "-c", CORE], &["taskset", "-c", CORE]];
        let allowed = |way: &&&[&str]| {
            let mut trial = Command::new(way[0]);
            trial
                .args(&way[1..])
                .arg("true")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            trial.status().is_ok_and(|status| status.success())
        };
        Self { before: ways.iter().find(allowed).map(|way| way.to_vec()).unwrap_or_default() }
    }

    /// Wherever the system puts it, for what is counted and not timed.
    #[must_use]
    pub fn none() -> Self {
        Self { before: Vec::new() }
    }

    /// As a reader understands it.
    #[must_use]
    pub fn sentence(&self) -> String {
        match self.before.first() {
            Some(&"chrt") => {
                format!("load, proxy and sink share core {CORE} at real-time priority")
            }
            Some(_) => format!(
                "load, proxy and sink share core {CORE} at normal priority (chrt is not allowed): expect noise"
            ),
            None => "not pinned (neither chrt nor taskset is allowed): the figures say little"
                .to_owned(),
        }
    }

    /// A command line that starts `program` so.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        match self.before.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        }
    }

    /// The same as a script, for those that take a program and not a command line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn script(&self, program: &Path, to: &Path) -> Result<()> {
        script(
            to,
            &format!(
                "export FLYTRAP_LOG=info\nexec {} '{}' \"$@\"",
                self.before.join(" "),
                program.display()
            ),
        )
    }
}

/// Writes a shell script that can be run.
///
/// # Errors
/// If it cannot be written.
pub fn script(to: &Path, body: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(to, format!("#!/bin/sh\n{body}\n"))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
        .wrap_err("the script cannot be made executable")
}

/// CPU time of a process so far, all threads, user and system, to the nanosecond.
///
/// # Errors
/// If it has ended.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).wrap_err("the process has ended")? {
        let statistics = fs::read_to_string(task?.path().join("schedstat"))?;
        let spent: u64 = statistics.split_whitespace().next().unwrap_or_default().parse()?;
        sum += spent;
    }
    Ok(Duration::from_nanos(sum))
}

/// Connections that a proxy can have at once: it needs a descriptor at each side, and some for itself.
#[must_use]
pub fn most_connections() -> u64 {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (descriptors.saturating_sub(1_000) / 2).min(40_000)
}

/// Whether a program is on the search path.
#[must_use]
pub fn is_there(program: &str) -> bool {
    flytrap_site::on_path(program).is_some()
}
