//! The gateway beside HAProxy in TCP mode: the same load, the same sink, in turns.

use eyre::{Result, WrapErr as _, eyre};
use flytrap_bench::ground;
use flytrap_bench::process::Pinning;
use flytrap_bench::proxies::{self, Place};
use flytrap_bench::rig::{Case, Client, Rig, Round, Way};
use flytrap_bench::spread::{Spread, whole};
use serde_json::{Value, json};

use crate::PATIENCE;

/// Connections at once, each on a topic of its own.
const CLIENTS: usize = 10;

const SMALL: Case = Case::SMALL;

/// What is compared.
const CASES: [(&str, Case); 8] = [
    ("publish, QoS 0, 64 octets", SMALL),
    ("publish, QoS 1, 64 octets", Case { qos: 1, ..SMALL }),
    ("deliver, QoS 0, 64 octets", Case { deliver: true, ..SMALL }),
    ("publish, QoS 0, 1 KiB", Case { payload: 1024, ..SMALL }),
    ("flood, QoS 0, 64 octets", Case { batch: 50, lockstep: false, ..SMALL }),
    (
        "flood, QoS 0, 64 and 63 octets",
        Case { two_lengths: true, batch: 50, lockstep: false, ..SMALL },
    ),
    ("flood, QoS 0, 1 KiB", Case { payload: 1024, batch: 50, lockstep: false, ..SMALL }),
    ("one by one, 2,000 a second", Case { batch: 1, pace: Some(200), ..SMALL }),
];

/// Runs the comparison, prints a table, and returns what was measured.
pub(crate) async fn run(rounds: u32, seconds: f64) -> Result<Value> {
    let pinning = Pinning::find();
    println!("{}; {rounds} rounds of about {seconds} s each, in turns", pinning.sentence());

    let program = flytrap_site::gateway_program()?;
    let dir = tempfile::tempdir()?;
    let start = dir.path().join("gateway-pinned");
    pinning.script(&program, &start)?;
    let mut rig = Rig::start(&std::env::current_exe()?, &pinning, PATIENCE)?;
    let site = ground::site(&start).await?;
    let who = ("gateway", &site.wallets.gateway);
    let gateway = ground::gateway(&site, who, rig.sink, "chain.poll = \"500ms\"\n").await?;
    let identity = site.authority.identify("proxy")?;
    let place = Place { pinning: &pinning, dir: dir.path(), identity: &identity };
    let haproxy = proxies::haproxy(place, rig.sink)?;
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
    let theirs = (Way::plain(haproxy.plain), haproxy.pid());
    let ours = (Way::plain(gateway.listener("mqtt")?), gateway.child.id());
    let mut kept = Vec::new();
    for (name, case) in CASES {
        let clients = ground::clients(&site, "bench", CLIENTS)?;
        let pairs =
            pairs(&mut rig, case, &clients, &theirs, &ours, rounds, seconds).wrap_err(name)?;
        print_row(name, &pairs)?;
        let told = |of: &Round| json!({"per_second": of.per_second, "cpu_ns": of.cpu_ns});
        let rounds: Vec<Value> = pairs
            .iter()
            .map(|(theirs, ours)| json!({"haproxy": told(theirs), "gateway": told(ours)}))
            .collect();
        kept.push(json!({"case": name, "rounds": rounds}));
    }
    Ok(json!({"haproxy": haproxy.version, "placed": pinning.sentence(), "cases": kept}))
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
    theirs: &(Way, u32),
    ours: &(Way, u32),
    rounds: u32,
    seconds: f64,
) -> Result<Vec<(Round, Round)>> {
    let mut round = |(way, pid): &(Way, u32), each| rig.round(way, Some(*pid), case, clients, each);
    // How many messages make a round of the wanted length: a guess, then what the slower of two trials says.
    let per_second = match case.pace {
        Some(pace) => pace.into(),
        None => {
            let trial = 20_000;
            let slower = f64::min(round(theirs, trial)?.per_second, round(ours, trial)?.per_second);
            slower / clients.len() as f64
        }
    };
    let each = whole(per_second * seconds);
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
