//! The gateway beside HAProxy in TCP mode: the same load, the same sink, in turns.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr as _, bail, eyre};
use flytrap_site::Gateway;

use crate::ground;
use crate::process::{Pinning, cpu_time};
use crate::rig::{Answer, Case, Client, Order};
use crate::table::Spread;

/// Connections at once, each on a topic of its own.
const CLIENTS: usize = 10;

const SMALL: Case =
    Case { deliver: false, qos: 0, payload: 64, batch: 10, lockstep: true, pace: None };

/// What is compared.
const CASES: [(&str, Case); 7] = [
    ("publish, QoS 0, 64 octets", SMALL),
    ("publish, QoS 1, 64 octets", Case { qos: 1, ..SMALL }),
    ("deliver, QoS 0, 64 octets", Case { deliver: true, ..SMALL }),
    ("publish, QoS 0, 1 KiB", Case { payload: 1024, ..SMALL }),
    ("flood, QoS 0, 64 octets", Case { batch: 50, lockstep: false, ..SMALL }),
    ("flood, QoS 0, 1 KiB", Case { payload: 1024, batch: 50, lockstep: false, ..SMALL }),
    ("one by one, 2,000 a second", Case { batch: 1, pace: Some(200), ..SMALL }),
];

/// One round through one proxy.
#[derive(Clone, Copy, Debug)]
struct Round {
    per_second: f64,
    cpu_ns: f64,
}

/// Runs the comparison and prints a table.
pub(crate) async fn run(rounds: u32, seconds: f64) -> Result<()> {
    let pinning = Pinning::find();
    println!("{}; {rounds} rounds of about {seconds} s each, in turns", pinning.sentence());

    let program = std::env::current_exe()?.with_file_name("flytrap-gateway");
    if !program.is_file() {
        bail!("{} is missing: build it in the same profile", program.display());
    }
    let dir = tempfile::tempdir()?;
    let start = dir.path().join("gateway-pinned");
    pinning.script(&program, &start)?;
    let mut rig = Rig::start(&pinning)?;
    let site = ground::site(&start).await?;
    let gateway = ground::gateway(&site, rig.sink, "poll = \"500ms\"").await?;
    let haproxy = HaProxy::start(&pinning, dir.path(), rig.sink)?;
    println!("HAProxy {}; FlyTrap {}", haproxy.version, env!("CARGO_PKG_VERSION"));
    println!(
        "{CLIENTS} connections; 10 messages in a write, and the next write when they have arrived; a flood: 50 in a write, \
         as many as are taken"
    );

    println!(
        "\n{:<31} {:>10} {:>10}  {:<22} {:>9} {:>9}  {:<22}",
        "", "HAProxy", "gateway", "gateway / HAProxy", "HAProxy", "gateway", "gateway / HAProxy"
    );
    println!(
        "{:<31} {:>21}  {:<22} {:>19}  {:<22}",
        "", "messages per second", "median (spread)", "CPU ns per message", "median (spread)"
    );
    for (name, case) in CASES {
        let clients = ground::clients(&site, CLIENTS)?;
        let pairs =
            pairs(&mut rig, case, &clients, &haproxy, &gateway, rounds, seconds).wrap_err(name)?;
        print_row(name, &pairs)?;
    }
    Ok(())
}

fn print_row(name: &str, pairs: &[(Round, Round)]) -> Result<()> {
    let spread = |of: &dyn Fn(&(Round, Round)) -> f64| {
        Spread::of(pairs.iter().map(of)).ok_or_else(|| eyre!("no rounds"))
    };
    println!(
        "{name:<31} {:>10.0} {:>10.0}  {:<22} {:>9.0} {:>9.0}  {:<22}",
        spread(&|pair| pair.0.per_second)?.median,
        spread(&|pair| pair.1.per_second)?.median,
        spread(&|pair| pair.1.per_second / pair.0.per_second)?.text(),
        spread(&|pair| pair.0.cpu_ns)?.median,
        spread(&|pair| pair.1.cpu_ns)?.median,
        spread(&|pair| pair.1.cpu_ns / pair.0.cpu_ns)?.text(),
    );
    Ok(())
}

/// Rounds in turns, HAProxy first and second alternately, so that drift of the machine hits both.
fn pairs(
    rig: &mut Rig,
    case: Case,
    clients: &[Client],
    haproxy: &HaProxy,
    gateway: &Gateway,
    rounds: u32,
    seconds: f64,
) -> Result<Vec<(Round, Round)>> {
    let ours = (gateway.listener("mqtt")?, gateway.child.id());
    let theirs = (haproxy.address, haproxy.pid());
    let mut round = |(proxy, pid), each| rig.round(proxy, pid, case, clients, each);
    // How many messages make a round of the wanted length: a guess, then what the slower of two trials says.
    let each = match case.pace {
        Some(pace) => whole(f64::from(pace) * seconds),
        None => {
            let trial = 20_000;
            let slower = f64::min(round(theirs, trial)?.per_second, round(ours, trial)?.per_second);
            whole(slower * seconds / clients.len() as f64)
        }
    };
    (0..rounds)
        .map(|number| {
            if number % 2 == 0 {
                let first = round(theirs, each)?;
                Ok((first, round(ours, each)?))
            } else {
                let first = round(ours, each)?;
                Ok((round(theirs, each)?, first))
            }
        })
        .collect()
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a number of messages of one round is far below 2^53"
)]
fn whole(messages: f64) -> u64 {
    messages.max(1.0) as u64
}

/// The process with load and sink.
pub(crate) struct Rig {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub(crate) sink: SocketAddr,
}

impl Rig {
    pub(crate) fn start(pinning: &Pinning) -> Result<Self> {
        let mut command = pinning.command(&std::env::current_exe()?);
        let mut child = command.arg("rig").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().ok_or_else(|| eyre!("no pipe to the rig"))?;
        let answers =
            BufReader::new(child.stdout.take().ok_or_else(|| eyre!("no pipe from the rig"))?);
        let mut rig = Self { child, orders, answers, sink: SocketAddr::from(([127, 0, 0, 1], 0)) };
        match rig.hear()? {
            Answer::Sink(address) => rig.sink = address,
            other => bail!("the rig says {other:?}"),
        }
        Ok(rig)
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).wrap_err("the rig has ended")
    }

    pub(crate) fn tell(&mut self, order: &Order) -> Result<Answer> {
        serde_json::to_writer(&mut self.orders, order)?;
        writeln!(self.orders)?;
        self.orders.flush()?;
        match self.hear()? {
            Answer::Failed(why) => bail!("{why}"),
            said => Ok(said),
        }
    }

    /// Opens, moves `each` messages for each client, closes; what the proxy has cost in between.
    fn round(
        &mut self,
        proxy: SocketAddr,
        pid: u32,
        case: Case,
        clients: &[Client],
        each: u64,
    ) -> Result<Round> {
        self.tell(&Order::Open { proxy, case, clients: clients.to_vec() })?;
        // The first messages settle leases and buffers, and are no steady state.
        self.tell(&Order::Run { each: u64::from(case.batch) })?;
        let before = cpu_time(pid)?;
        let said = self.tell(&Order::Run { each })?;
        let spent = cpu_time(pid)?.saturating_sub(before);
        self.tell(&Order::Close)?;
        let Answer::Ran { messages, seconds } = said else { bail!("the rig says {said:?}") };
        let messages = messages as f64;
        Ok(Round { per_second: messages / seconds, cpu_ns: spent.as_secs_f64() * 1e9 / messages })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct HaProxy {
    child: Child,
    address: SocketAddr,
    version: String,
}

impl HaProxy {
    fn start(pinning: &Pinning, dir: &Path, broker: SocketAddr) -> Result<Self> {
        let program =
            flytrap_site::on_path("haproxy").ok_or_else(|| eyre!("haproxy is missing"))?;
        let said = Command::new(&program).arg("-v").output()?.stdout;
        let version =
            String::from_utf8_lossy(&said).split_whitespace().nth(2).unwrap_or("?").to_owned();
        // It cannot say which port it took, so one is found for it.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let config = dir.join("haproxy.cfg");
        fs::write(
            &config,
            format!(
                "global\n  maxconn 1000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
                 timeout server 1h\nlisten mqtt\n  bind {address}\n  server sink {broker}\n"
            ),
        )?;
        let child = pinning
            .command(&program)
            .arg("-db")
            .arg("-f")
            .arg(&config)
            .stdin(Stdio::null())
            .spawn()?;
        let haproxy = Self { child, address, version };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("HAProxy does not listen on {address}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(haproxy)
    }

    /// `chrt` and `taskset` replace themselves by what they start, so this is HAProxy itself.
    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
