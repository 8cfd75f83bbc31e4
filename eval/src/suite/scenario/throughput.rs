//! Batches through each target into the sink: throughput, and what a message costs.

use eyre::Result;
use flytrap_bench::rig::Case;
use flytrap_bench::spread::whole;

use crate::suite::stage::{Stage, Target};

/// Connections at once, each on a topic of its own.
const CLIENTS: usize = 10;

const SMALL: Case = Case::SMALL;
const FLOOD: Case = Case { batch: 50, lockstep: false, ..SMALL };

const PLAIN: &[(&str, Case)] = &[
    ("64 B, QoS 0, batches", SMALL),
    ("64 B, QoS 1, batches", Case { qos: 1, ..SMALL }),
    ("64 B, QoS 2, batches", Case { qos: 2, ..SMALL }),
    ("64 B, QoS 0, to the clients", Case { deliver: true, ..SMALL }),
    ("1 KiB, QoS 0, batches", Case { payload: 1024, ..SMALL }),
    ("16 B, QoS 0, flood", Case { payload: 16, ..FLOOD }),
    ("64 B, QoS 0, flood", FLOOD),
    ("1 KiB, QoS 0, flood", Case { payload: 1024, ..FLOOD }),
    ("64 KiB, QoS 0, flood", Case { payload: 65_536, batch: 2, ..FLOOD }),
    ("64 B, QoS 0, 2,000 a second one by one", Case { batch: 1, pace: Some(200), ..SMALL }),
];

const TLS: &[(&str, Case)] =
    &[("64 B, QoS 0, batches", SMALL), ("1 KiB, QoS 0, batches", Case { payload: 1024, ..SMALL })];

pub(super) async fn plain(stage: &mut Stage) -> Result<()> {
    let targets = stage.sink.targets(None)?;
    cases(stage, &targets, PLAIN)
}

pub(super) async fn tls(stage: &mut Stage) -> Result<()> {
    let targets = stage.sink.targets(Some(&stage.ca()))?;
    cases(stage, &targets, TLS)
}

fn cases(stage: &mut Stage, targets: &[Target], cases: &[(&str, Case)]) -> Result<()> {
    let clients = stage.clients("batch", CLIENTS)?;
    for (name, case) in cases {
        // How many messages make a round of the wanted length: what the slowest of trials says.
        let mut slowest = case.pace.map_or(f64::INFINITY, |pace| f64::from(pace) * CLIENTS as f64);
        if case.pace.is_none() {
            let trial = if case.payload > 10_000 { 200 } else { 2_000 };
            for target in targets {
                let round = stage.rig.round(&target.way, target.pid, *case, &clients, trial)?;
                slowest = slowest.min(round.per_second);
            }
        }
        let each = whole(slowest * stage.plan.seconds / CLIENTS as f64);
        for turn in stage.turns(targets.len()) {
            let target = &targets[turn];
            let round = stage.rig.round(&target.way, target.pid, *case, &clients, each)?;
            stage.put(name, target.name, ("throughput", "messages/s"), round.per_second);
            if target.pid.is_some() {
                stage.put(name, target.name, ("CPU per message", "ns"), round.cpu_ns);
            }
        }
    }
    Ok(())
}
