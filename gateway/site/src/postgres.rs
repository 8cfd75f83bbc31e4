//! A PostgreSQL server of one's own: empty, durable, on a free port of this machine, gone when it is dropped.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, ensure, eyre};

use crate::authority::{Authority, Identity};
use crate::broker::free_port;
use crate::ground::{Child, Ground, TICK};
use crate::tools::on_path;

/// The server's user, who may do everything.
const USER: &str = "flytrap";
const PASSWORD: &str = "correct horse battery staple";
/// How long the server may take to come up, also after it was killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub struct Postgres {
    /// `None` before its first start.
    child: Option<Child>,
    port: u16,
    programs: PathBuf,
    /// Its files, and the user they belong to where that is not the one who runs this.
    dir: PathBuf,
    owner: Option<(u32, u32)>,
    authority: Authority,
    ground: Arc<Ground>,
}

impl Postgres {
    /// Makes an empty cluster and starts it, with TLS besides plain text.
    ///
    /// # Errors
    /// If PostgreSQL is not installed or does not come up, with the end of its log.
    pub fn start() -> Result<Self> {
        let programs = programs()?;
        let ground = Ground::new()?;
        let authority = Authority::new(&ground)?;
        let dir = ground.path("postgres");
        fs::create_dir(&dir)?;
        // It refuses to run as root.
        let owner = rustix::process::geteuid().is_root().then(unprivileged);
        if let Some((user, group)) = owner {
            chown(&dir, Some(user), Some(group))?;
            fs::set_permissions(ground.dir(), fs::Permissions::from_mode(0o711))?;
        }
        let identity = authority.identify("server")?;
        let mut server = Self { child: None, port: 0, programs, dir, owner, authority, ground };
        server.password_file()?;
        server.initialise(&identity)?;
        server.restart()?;
        Ok(server)
    }

    fn initialise(&self, identity: &Identity) -> Result<()> {
        let password = self.own("password", PASSWORD.as_bytes())?;
        let mut initdb = self.program("initdb");
        initdb.arg("--pgdata").arg(self.data()).args(["--username", USER]);
        initdb.args(["--encoding=UTF8", "--locale=C", "--no-sync", "--auth-local=trust"]);
        initdb.arg("--auth-host=scram-sha-256").arg("--pwfile").arg(&password);
        let done = initdb.output().wrap_err("`initdb` could not be started")?;
        ensure!(done.status.success(), "initdb: {}", String::from_utf8_lossy(&done.stderr));
        self.own("server.pem", &fs::read(&identity.certificate)?)?;
        self.own("server.key", &fs::read(&identity.key)?)?;
        Ok(())
    }

    /// A file of the server's own that only it can read.
    fn own(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.dir.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some((user, group)) = self.owner {
            chown(&path, Some(user), Some(group))?;
        }
        Ok(path)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env_clear().env("LC_ALL", "C").current_dir(&self.dir);
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }

    /// Kills it with SIGKILL, as a machine would that loses its power, but for its disk.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill();
        }
    }

    /// Has everything that it does stand still, or go on. What it has acknowledged to the network before, it still does.
    ///
    /// # Errors
    /// If there is no server.
    pub fn freeze(&self, still: bool) -> Result<()> {
        let signal =
            if still { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        for id in self.processes()? {
            let _ = rustix::process::kill_process(id, signal);
        }
        Ok(())
    }

    /// The server and its children.
    fn processes(&self) -> Result<Vec<rustix::process::Pid>> {
        let own = self.child.as_ref().ok_or_else(|| eyre!("PostgreSQL does not run"))?.id();
        let mut found = vec![own];
        for entry in fs::read_dir("/proc")?.flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent =
                stat.rsplit_once(')').and_then(|(_, rest)| rest.split(' ').nth(2)?.parse().ok());
            if parent == Some(own) {
                found.extend(entry.file_name().to_string_lossy().parse::<u32>());
            }
        }
        let id = |id: u32| i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw);
        Ok(found.into_iter().filter_map(id).collect())
    }

    /// Starts it again, ended before or not, on the port that it had.
    ///
    /// # Errors
    /// If it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.port == 0 {
                self.port = free_port()?;
            }
            if self.launch(deadline)? {
                return Ok(());
            }
            // Children of one that was killed may take a moment to notice, and nothing starts beside them.
            ensure!(Instant::now() < deadline, "PostgreSQL does not start:\n{}", self.tail());
            std::thread::sleep(10 * TICK);
        }
    }

    /// False if it ended by itself.
    fn launch(&mut self, deadline: Instant) -> Result<bool> {
        let mut command = self.program("postgres");
        command.arg("-D").arg(self.data());
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            format!("unix_socket_directories={}", self.dir.display()),
            "shared_buffers=16MB".to_owned(),
            "max_connections=60".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", self.dir.join("server.pem").display()),
            format!("ssl_key_file={}", self.dir.join("server.key").display()),
        ];
        for setting in &settings {
            command.args(["-c", setting]);
        }
        let child = self.child.insert(Child::spawn(&self.ground, "postgres", command)?);
        while Instant::now() < deadline {
            if child.ended().is_some() {
                return Ok(false);
            }
            let mut asked = Command::new(self.programs.join("pg_isready"));
            asked.args(["--quiet", "--host=127.0.0.1", "--port"]).arg(self.port.to_string());
            if asked.status()?.success() {
                return Ok(true);
            }
            std::thread::sleep(TICK);
        }
        bail!("PostgreSQL does not serve:\n{}", self.tail())
    }

    fn tail(&self) -> String {
        self.child.as_ref().map(Child::tail).unwrap_or_default()
    }

    /// Makes an empty database. Returns its URL, without the password.
    ///
    /// # Errors
    /// If there is one of that name.
    pub fn create(&self, database: &str) -> Result<String> {
        self.sql("postgres", &format!("CREATE DATABASE {database}"))?;
        Ok(format!("postgresql://{USER}@127.0.0.1:{}/{database}", self.port))
    }

    /// What `psql` answers, a line for each row.
    ///
    /// # Errors
    /// With its words, if the server refuses.
    pub fn sql(&self, database: &str, statement: &str) -> Result<String> {
        let mut psql = self.program("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--username", USER]);
        psql.args(["--set=ON_ERROR_STOP=1", "--dbname", database, "--port"]);
        psql.arg(self.port.to_string()).arg("--host").arg(&self.dir);
        let done = psql.args(["--command", statement]).output()?;
        ensure!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The user's password.
    #[must_use]
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    /// A file with the password, as a gateway wants it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn password_file(&self) -> Result<PathBuf> {
        let path = self.ground.path("database.password");
        crate::authority::write_secret(&path, &format!("{PASSWORD}\n"))?;
        Ok(path)
    }

    /// Who vouches for its certificate, which is for `localhost` and 127.0.0.1.
    #[must_use]
    pub fn ca_file(&self) -> &Path {
        &self.authority.certificate
    }

    /// Where the tables of a database are on disk; the log of what is written is not there.
    ///
    /// # Errors
    /// If there is no such database.
    pub fn tables(&self, database: &str) -> Result<PathBuf> {
        let number = "SELECT oid FROM pg_database WHERE datname = current_database()";
        Ok(self.data().join("base").join(self.sql(database, number)?))
    }
}

/// Where the server's programs are: Debian keeps them off the search path, one folder for each version. The newest.
fn programs() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").is_file())
        .collect();
    found.sort();
    let elsewhere = || on_path("initdb").and_then(|file| Some(file.parent()?.to_owned()));
    found.pop().map(|(_, bin)| bin).or_else(elsewhere).ok_or_else(|| {
        eyre!("PostgreSQL's `initdb` was not found: run `make setup`, or install the package postgresql")
    })
}

/// User and group of the package, or nobody's.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2);
        Some((ids.next()?.parse().ok()?, ids.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).unwrap_or((65_534, 65_534))
}
