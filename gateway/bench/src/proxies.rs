//! What the gateway is measured beside: HAProxy and nginx, which pass on octets and look at none, and a Mosquitto of our own choice.
//! Each is one process with one thread, so that its CPU time is its whole cost.

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr as _, bail, ensure, eyre};
use flytrap_site::Identity;

use crate::process::{Pinning, most_connections};

/// A process that listens, once plain and once with TLS. It ends when dropped.
#[derive(Debug)]
pub struct Listening {
    child: Child,
    /// Plain TCP.
    pub plain: SocketAddr,
    /// TLS with the given certificate.
    pub tls: SocketAddr,
    /// As it says itself.
    pub version: String,
}

/// Where a proxy is put, and what it needs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// How it is started.
    pub pinning: &'a Pinning,
    /// For its files; each process has a folder of its own.
    pub dir: &'a Path,
    /// Certificate and key that its clients see.
    pub identity: &'a Identity,
}

/// HAProxy in TCP mode.
///
/// # Errors
/// If it is missing or does not listen.
pub fn haproxy(place: Place<'_>, broker: SocketAddr) -> Result<Listening> {
    let program = wanted("haproxy")?;
    let version = said(Command::new(&program).arg("-v"))?;
    let version = version.split_whitespace().nth(2).unwrap_or("?").to_owned();
    let most = most_connections();
    let pem = place.dir.join("haproxy.pem");
    let parts = [&place.identity.certificate, &place.identity.key].map(fs::read_to_string);
    let [certificate, key] = parts;
    fs::write(&pem, certificate? + &key?)?;
    start(place, version, |plain, tls| {
        let config = place.dir.join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "global\n  maxconn {most}\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 24h\n  \
                 timeout server 24h\nlisten plain\n  bind {plain}\n  server broker {broker}\nlisten tls\n  bind {tls} ssl crt {}\n  \
                 server broker {broker}\n",
                pem.display()
            ),
        )?;
        let mut command = place.pinning.command(&program);
        command.arg("-db").arg("-f").arg(config);
        Ok(command)
    })
}

/// nginx with its stream module.
///
/// # Errors
/// If it or its module is missing, or it does not listen.
pub fn nginx(place: Place<'_>, broker: SocketAddr) -> Result<Listening> {
    let program = wanted("nginx")?;
    let output = Command::new(&program).arg("-v").output()?;
    let version =
        String::from_utf8_lossy(&output.stderr).trim().replace("nginx version: nginx/", "");
    // Each side of a connection counts here.
    let most = 2 * most_connections();
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load = if module.is_file() {
        format!("load_module {};\n", module.display())
    } else {
        String::new()
    };
    start(place, version, |plain, tls| {
        let (dir, config) = (place.dir.display(), place.dir.join("nginx.conf"));
        let Identity { certificate, key } = place.identity;
        fs::write(
            &config,
            format!(
                "{load}daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr crit;\n\
                 events {{ worker_connections {most}; }}\nstream {{\n  tcp_nodelay on;\n  \
                 proxy_timeout 24h;\n  server {{ listen {plain}; proxy_pass {broker}; }}\n  server {{\n    listen {tls} ssl;\n    \
                 ssl_certificate {};\n    ssl_certificate_key {};\n    proxy_pass {broker};\n  }}\n}}\n",
                certificate.display(),
                key.display()
            ),
        )?;
        let mut command = place.pinning.command(&program);
        command.arg("-e").arg("stderr").arg("-p").arg(place.dir).arg("-c").arg(config);
        Ok(command)
    })
}

/// Mosquitto without bounds that would lose messages of a load; with `users` it asks for user name and password.
///
/// # Errors
/// If it is missing or does not listen.
pub fn mosquitto(
    place: Place<'_>,
    users: &[(String, String)],
    acl: Option<&str>,
) -> Result<Listening> {
    let program = wanted("mosquitto")?;
    let output = Command::new(&program).arg("-h").output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version =
        text.lines().next().and_then(|line| line.split_whitespace().last()).unwrap_or("?");
    let mut access = String::from("allow_anonymous true\n");
    if !users.is_empty() {
        let file = place.dir.join("passwords");
        fs::write(&file, "")?;
        for (user_name, password) in users {
            let mut add = Command::new(wanted("mosquitto_passwd")?);
            let status = add.arg("-b").arg(&file).args([user_name, password]).status()?;
            ensure!(status.success(), "mosquitto_passwd says {status}");
        }
        access = format!("allow_anonymous false\npassword_file {}\n", file.display());
    }
    if let Some(acl) = acl {
        let file = place.dir.join("acl");
        fs::write(&file, acl)?;
        writeln!(access, "acl_file {}", file.display())?;
    }
    start(place, version.to_owned(), |plain, tls| {
        let config = place.dir.join("mosquitto.conf");
        let Identity { certificate, key } = place.identity;
        fs::write(
            &config,
            format!(
                "user root\npersistence false\nlog_type error\nset_tcp_nodelay true\nmax_queued_messages 0\n\
                 max_inflight_messages 100\n{access}listener {} 127.0.0.1\nlistener {} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
                plain.port(),
                tls.port(),
                certificate.display(),
                key.display()
            ),
        )?;
        let mut command = place.pinning.command(&program);
        command.arg("-c").arg(config);
        Ok(command)
    })
}

impl Listening {
    /// `chrt` and `taskset` replace themselves by what they start, so this is the program itself.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mosquitto reads a list of 100,000 entries for half a minute. One whose port is taken ends at once.
const STARTING: Duration = Duration::from_secs(180);

/// They cannot say which port they took, so two are found for them; another program may take one first, so it is tried again.
fn start(
    place: Place<'_>,
    version: String,
    command: impl Fn(SocketAddr, SocketAddr) -> Result<Command>,
) -> Result<Listening> {
    let log = place.dir.join("log");
    for _ in 0..5 {
        // Both are held until both are known, or they could be the same.
        let free = [TcpListener::bind(("127.0.0.1", 0))?, TcpListener::bind(("127.0.0.1", 0))?];
        let (plain, tls) = (free[0].local_addr()?, free[1].local_addr()?);
        drop(free);
        let out = fs::File::create(&log)?;
        let mut command = command(plain, tls)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().wrap_err_with(|| format!("{:?}", command.get_program()))?;
        let mut listening = Listening { child, plain, tls, version: version.clone() };
        let deadline = Instant::now() + STARTING;
        loop {
            if [plain, tls].iter().all(|address| TcpStream::connect(address).is_ok()) {
                return Ok(listening);
            }
            if listening.child.try_wait()?.is_some() || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    bail!("not listening after five attempts:\n{}", fs::read_to_string(log)?)
}

fn wanted(name: &str) -> Result<PathBuf> {
    flytrap_site::on_path(name)
        .ok_or_else(|| eyre!("`{name}` is missing: `script/setup measuring` brings it as root"))
}

fn said(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
}
