//! What one forwarded PUBLISH costs in the whole gateway: sockets, runtime, session and machine.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use eyre::{Result, WrapErr as _, bail, eyre};
use flytrap_gateway::config::Config;
use flytrap_gateway::{server, tls};
use flytrap_site::{Gateway, Site};
use tokio_util::sync::CancellationToken;

use flytrap_bench::ground;
use flytrap_bench::process::{Pinning, is_there, script};
use flytrap_bench::rig::{Answer, Case, Order, Rig, Way};
use serde_json::{Value, json};

use crate::{PATIENCE, allocations};

const CLIENTS: usize = 10;
/// Asking the node allocates and costs instructions too, by the second and not by the message.
const SELDOM: &str = "chain.poll = \"20s\"";

/// Prints allocations, and instructions where valgrind is there, and returns both.
pub(crate) async fn run() -> Result<Value> {
    let publish = Case::SMALL;
    let deliver = Case { deliver: true, ..publish };
    let two_lengths = |case| Case { two_lengths: true, ..case };
    let cases = [
        ("client to broker", publish),
        ("broker to client", deliver),
        ("client to broker, 64 and 63 in turn", two_lengths(publish)),
        ("broker to client, 64 and 63 in turn", two_lengths(deliver)),
    ];
    let dir = tempfile::tempdir()?;
    let own = std::env::current_exe()?;
    let mut kept = Vec::new();
    for (name, case) in cases {
        let (per_message, sentence) =
            allocations_of(dir.path(), &own, case).await.wrap_err("counting allocations")?;
        println!("  {name}, QoS 0, 64 octets: {sentence}");
        kept.push(json!({"case": name, "allocations": per_message}));
    }
    if !is_there("valgrind") {
        println!("  instructions: not counted, valgrind is missing");
        return Ok(kept.into());
    }
    let gateway = flytrap_site::gateway_program()?;
    for (name, case) in cases {
        let count = instructions_of(dir.path(), &gateway, case, 2_000)
            .await
            .wrap_err("counting instructions")?;
        println!("  {name}, QoS 0, 64 octets, 10 at a time: {count:.0} instructions");
        kept.push(json!({"case": format!("{name}, 10 at a time"), "instructions": count}));
    }
    // Long enough that starts, which differ by some 20 million instructions (TLS gathers entropy), cannot be seen in it.
    let single = Case { batch: 1, pace: Some(200), ..publish };
    let count = instructions_of(dir.path(), &gateway, single, 1_000)
        .await
        .wrap_err("counting instructions")?;
    println!("  client to broker, QoS 0, 64 octets, one at a time: {count:.0} instructions");
    kept.push(json!({"case": "client to broker, one at a time", "instructions": count}));
    Ok(kept.into())
}

async fn allocations_of(dir: &Path, own: &Path, case: Case) -> Result<(f64, String)> {
    const EACH: u64 = 50_000;
    let start = dir.join("counting-gateway");
    script(&start, &format!("export FLYTRAP_LOG=info\nexec '{}' \"$@\"", own.display()))?;
    let (site, mut rig, gateway) = begin(&start).await?;
    let counter: SocketAddr =
        std::fs::read_to_string(counter_file(&site.dir().join("gateway-ready.json")))?.parse()?;
    open(&mut rig, &site, &gateway, case)?;
    let before = count_at(counter)?;
    let messages = ran(rig.tell(&Order::Run { each: EACH })?)?;
    let made = count_at(counter)? - before;
    // What the rest of the process does meanwhile (it follows the chain) is not the messages' doing.
    let before = count_at(counter)?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let idle = count_at(counter)? - before;
    let per_message = made as f64 / messages as f64;
    Ok((
        per_message,
        format!(
            "{per_message:.4} allocations ({made} in all for {messages} messages; the same process makes {idle} a second when idle)"
        ),
    ))
}

/// The difference between many messages and `few`, so that start and end do not count.
async fn instructions_of(dir: &Path, gateway: &Path, case: Case, few: u64) -> Result<f64> {
    let start = dir.join("gateway-under-callgrind");
    let out = dir.join("callgrind.out");
    let body = format!(
        "export FLYTRAP_LOG=warn\nexec valgrind --tool=callgrind --callgrind-out-file='{}' '{}' \"$@\"",
        out.display(),
        gateway.display()
    );
    script(&start, &body)?;
    let (messages, less) = instructions_with(&start, case, few).await?;
    let (more_messages, more) = instructions_with(&start, case, 6 * few).await?;
    Ok((more - less) as f64 / (more_messages - messages) as f64)
}

/// Messages moved, and instructions from the gateway's start to its end.
async fn instructions_with(start: &Path, case: Case, each: u64) -> Result<(u64, u64)> {
    let (site, mut rig, mut gateway) = begin(start).await?;
    open(&mut rig, &site, &gateway, case)?;
    let messages = ran(rig.tell(&Order::Run { each })?)?;
    rig.tell(&Order::Close)?;
    gateway.child.stop(Duration::from_secs(60)).await?;
    let log = gateway.child.log();
    let count = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("Collected : "))
        .map(|(_, count)| count.trim().to_owned());
    let count =
        count.ok_or_else(|| eyre!("callgrind counted nothing\n{}", gateway.child.tail()))?;
    Ok((messages, count.parse()?))
}

async fn begin(program: &Path) -> Result<(Site, Rig, Gateway)> {
    let site = ground::site(program).await?;
    let rig = Rig::start(&std::env::current_exe()?, &Pinning::none(), PATIENCE)?;
    let who = ("gateway", &site.wallets.gateway);
    let gateway = ground::gateway(&site, who, rig.sink, SELDOM).await?;
    Ok((site, rig, gateway))
}

/// Opens, and lets every session come to a steady state.
fn open(rig: &mut Rig, site: &Site, gateway: &Gateway, case: Case) -> Result<()> {
    let clients = ground::clients(site, "bench", CLIENTS)?;
    rig.tell(&Order::Open { to: Way::plain(gateway.listener("mqtt")?), case, clients })?;
    rig.tell(&Order::Run { each: 1_000 })?;
    Ok(())
}

fn ran(said: Answer) -> Result<u64> {
    match said {
        Answer::Ran { messages, .. } => Ok(messages),
        other => bail!("the rig says {other:?}"),
    }
}

/// The gateway in this process, whose allocator counts. Whoever connects to the address in the counter file is told the count.
pub(crate) fn counted_gateway(config: &Path, ready_file: PathBuf) -> Result<()> {
    tls::install_provider();
    let config = Config::load(config)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    std::fs::write(counter_file(&ready_file), listener.local_addr()?.to_string())?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let told =
                stream.and_then(|mut stream| stream.write_all(&allocations::count().to_be_bytes()));
            if told.is_err() {
                return;
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(server::run(config, Some(ready_file), CancellationToken::new()))?;
    Ok(())
}

fn counter_file(ready_file: &Path) -> PathBuf {
    ready_file.with_extension("allocations")
}

fn count_at(counter: SocketAddr) -> Result<u64> {
    let mut octets = [0; 8];
    TcpStream::connect(counter)?.read_exact(&mut octets)?;
    Ok(u64::from_be_bytes(octets))
}
