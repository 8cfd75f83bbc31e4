//! Latency of messages that come at given rates, with different sizes and QoS, from one publisher to one subscriber.

use eyre::Result;
use flytrap_bench::rig::Order;

use crate::suite::stage::{Stage, spent};

/// Octets, QoS, messages a second: each of the three varied by itself, since all with all would be 48 cases of four targets.
const CASES: [(usize, u8, f64); 8] = [
    (64, 1, 100.0),
    (64, 0, 1_000.0),
    (64, 1, 1_000.0),
    (64, 2, 1_000.0),
    (64, 1, 10_000.0),
    (16, 1, 1_000.0),
    (1_024, 1, 1_000.0),
    (65_536, 1, 1_000.0),
];

pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    let targets = stage.broker.targets(None)?;
    let publisher = stage.client("rate-0", "bench/rate")?;
    let subscriber = stage.client("rated-0", "bench/rate")?;
    for (payload, qos, per_second) in CASES {
        let case = format!("{}, QoS {qos}, {per_second} a second", size(payload));
        let messages = stage.messages(per_second);
        for turn in stage.turns(targets.len()) {
            let target = &targets[turn];
            stage.rig.tell(&Order::OpenFlow {
                to: target.way.clone(),
                publishers: vec![publisher.clone()],
                from: target.way.clone(),
                subscribers: vec![subscriber.clone()],
                qos,
                payload,
            })?;
            let flow = Order::Flow { messages, per_second: Some(per_second), arrivals: messages };
            let (times, cpu) = spent(target.pid, || stage.rig.times(&flow))?;
            stage.rig.tell(&Order::Close)?;
            stage.put_times(&case, target.name, &times);
            if target.pid.is_some() {
                let each = cpu.as_secs_f64() * 1e6 / messages as f64;
                stage.put(&case, target.name, ("CPU per message", "µs"), each);
            }
        }
    }
    Ok(())
}

fn size(octets: usize) -> String {
    if octets < 1_024 { format!("{octets} B") } else { format!("{} KiB", octets / 1_024) }
}
