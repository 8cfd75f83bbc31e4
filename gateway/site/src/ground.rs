//! The ground a site stands on: one temporary directory, and the certainty that no child process outlives it.
//!
//! A child that is dropped is killed by its [`Child`]. For the ends that run no destructor (a second Ctrl-C, SIGKILL, an
//! aborting test runner) there is the *warden*: a shell waiting on a pipe that only this process holds. When the pipe
//! closes, for whatever reason, it kills the process groups listed in the directory and removes the directory.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, eyre};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// How often conditions are looked at again. Waiting is always under a deadline.
pub(crate) const TICK: Duration = Duration::from_millis(10);

const WARDEN: &str = r#"while read -r _; do :; done
while read -r group; do kill -s KILL -- "-$group"; done < "$1/groups"
rm -rf -- "$1""#;

/// A temporary directory with its warden.
#[derive(Debug)]
pub(crate) struct Ground {
    groups: Mutex<BTreeSet<i32>>,
    warden: std::process::Child,
    dir: TempDir,
}

impl Ground {
    /// Makes the directory and sets the warden.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let dir = tempfile::Builder::new()
            .prefix("flytrap-site-")
            .tempdir()
            .wrap_err("no temporary directory for the site: is TMPDIR writable?")?;
        fs::write(dir.path().join("groups"), "")?;
        let mut warden = Command::new("sh");
        warden.args(["-c", WARDEN, "flytrap-warden"]).arg(dir.path()).stdin(Stdio::piped());
        warden.stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut warden, 0);
        let warden = warden.spawn().wrap_err("`sh` could not be started")?;
        Ok(Arc::new(Self { groups: Mutex::new(BTreeSet::new()), warden, dir }))
    }

    /// A path inside the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The directory's own name, which no other site has.
    pub(crate) fn name(&self) -> String {
        self.dir().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    fn note(&self, group: i32, lives: bool) {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if lives {
            groups.insert(group);
        } else {
            groups.remove(&group);
        }
        let text: String = groups.iter().map(|group| format!("{group}\n")).collect();
        // Nothing is lost if this fails: destructors are the first line, the warden is the second.
        let _ = fs::write(self.path("groups"), text);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // All children hold this ground, so they are gone by now. What is left is the directory.
        let _ = self.warden.kill();
        let _ = self.warden.wait();
    }
}

/// A child process in a process group of its own, writing into a log file, killed when dropped.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: std::process::Child,
    group: Pid,
    log: PathBuf,
    ended: Option<ExitStatus>,
    ground: Arc<Ground>,
}

impl Child {
    /// Starts `command`; its output goes to `<name>.log` in the site's directory.
    pub(crate) fn spawn(ground: &Arc<Ground>, name: &str, mut command: Command) -> Result<Self> {
        let log = ground.path(&format!("{name}.log"));
        let out = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let process = command
            .spawn()
            .wrap_err_with(|| format!("`{program}` could not be started for {name}"))?;
        let group = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let group = group.ok_or_else(|| eyre!("{name} has no process id"))?;
        ground.note(group.as_raw_nonzero().get(), true);
        Ok(Self { name: name.into(), process, group, log, ended: None, ground: ground.clone() })
    }

    /// What it has written so far, standard output and errors in one.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The file it writes into.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// Its process id, for looking at its memory and descriptors.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended, or `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().ok().flatten();
            if self.ended.is_some() {
                self.ground.note(self.group.as_raw_nonzero().get(), false);
            }
        }
        self.ended
    }

    /// Stops the process without ending it (SIGSTOP), as a machine that hangs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run on after [`Child::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to reload (SIGHUP).
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Asks it to end (SIGTERM) without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it still runs after `patience`.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} still runs after {patience:?}\n{}", self.name, self.tail());
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// SIGTERM, then waits.
    ///
    /// # Errors
    /// If it still runs after `patience`.
    pub async fn stop(&mut self, patience: Duration) -> Result<ExitStatus> {
        self.terminate();
        self.wait(patience).await
    }

    /// SIGKILL to it and whatever it started.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(Signal::KILL);
            self.ended = self.process.wait().ok();
            self.ground.note(self.group.as_raw_nonzero().get(), false);
        }
    }

    /// Waits until `look` finds something in the log.
    ///
    /// # Errors
    /// If it ends or `patience` does before: with the end of the log.
    pub async fn until_logged<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            let ended = self.ended();
            if let Some(found) = look(&self.log()) {
                return Ok(found);
            }
            if let Some(status) = ended {
                bail!("{} ended with {status} before {what}\n{}", self.name, self.tail());
            }
            if Instant::now() >= deadline {
                bail!("{} did not come to {what} in {patience:?}\n{}", self.name, self.tail());
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The last lines of the log, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(40)..];
        format!("--- end of the log of {} ---\n{}", self.name, last.join("\n"))
    }

    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // It may have ended by itself in between, which is what was wanted.
            let _ = kill_process_group(self.group, signal);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(ground: &Arc<Ground>) -> Child {
        let mut command = Command::new("sh");
        // Two processes, so that killing the first alone would leave the second.
        command.args(["-c", "sleep 300 & echo $!; wait"]);
        Child::spawn(ground, "sleeper", command).expect("sh")
    }

    fn runs(pid: &str) -> bool {
        // A zombie has ended; whoever inherited it has only not looked yet.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    async fn until_gone(pid: &str, dir: &Path) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while runs(pid) || dir.exists() {
            assert!(Instant::now() < deadline, "runs: {}, directory: {}", runs(pid), dir.exists());
            tokio::time::sleep(TICK).await;
        }
    }

    fn first_line(log: &str) -> Option<String> {
        log.split_once('\n').map(|(line, _)| line.to_owned())
    }

    #[tokio::test]
    async fn dropping_a_child_ends_what_it_started_and_the_directory() {
        let ground = Ground::new().expect("a directory");
        let mut child = sleeper(&ground);
        let grandchild = child
            .until_logged("its child", Duration::from_secs(10), first_line)
            .await
            .expect("a pid");
        let dir = ground.dir().to_owned();
        assert!(runs(&grandchild) && dir.exists());
        drop((child, ground));
        until_gone(&grandchild, &dir).await;
    }

    /// Set for the copy of this program that is going to be killed.
    const VICTIM: &str = "FLYTRAP_SITE_VICTIM";

    /// Starts a child, says which, and waits to be killed.
    async fn victim() {
        let ground = Ground::new().expect("a directory");
        let mut child = sleeper(&ground);
        let grandchild = child
            .until_logged("its child", Duration::from_secs(10), first_line)
            .await
            .expect("a pid");
        println!("\nvictim {grandchild} {}", ground.dir().display());
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    #[tokio::test]
    async fn killing_the_owner_ends_its_children_and_the_directory() {
        if std::env::var_os(VICTIM).is_some() {
            return victim().await;
        }
        let ground = Ground::new().expect("a directory");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(VICTIM, "1");
        let this = "ground::tests::killing_the_owner_ends_its_children_and_the_directory";
        command.args(["--exact", this, "--nocapture"]);
        let mut owner = Child::spawn(&ground, "owner", command).expect("this program again");
        let said = |log: &str| {
            let line = log.lines().find_map(|line| line.strip_prefix("victim "))?;
            let (pid, dir) = line.split_once(' ')?;
            log.ends_with('\n').then(|| (pid.to_owned(), PathBuf::from(dir)))
        };
        let (grandchild, dir) =
            owner.until_logged("the victim", Duration::from_secs(20), said).await.expect("a line");
        assert!(runs(&grandchild) && dir.exists());
        owner.kill();
        until_gone(&grandchild, &dir).await;
    }
}
