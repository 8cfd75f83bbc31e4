//! Many clients on one broker at once: many to many, fan-out and fan-in.

use eyre::Result;
use flytrap_bench::rig::{Client, Order};

use crate::suite::stage::{Stage, spent};

/// Subscribers that share one subscription.
const SHARING: usize = 5;
const PAYLOAD: usize = 64;

pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    // Each subscriber hears one publisher, flat out.
    let (publishers, subscribers) =
        (stage.clients("many-pub", 10)?, stage.clients("many-sub", 10)?);
    let each = stage.messages(2_000.0);
    case(stage, "10 to 10, flat out", publishers, subscribers, (each * 10, None), each * 10)?;

    for full in [100, 1_000] {
        let count = stage.plan.clients(full);
        let publisher = vec![stage.client("fan-0", "bench/fan")?];
        let mut subscribers = stage.clients("fan-sub", count)?;
        for subscriber in &mut subscribers {
            subscriber.topic = "bench/fan".into();
        }
        // So slow that a broker of one thread can hand on what comes.
        let per_second = 5_000.0 / count as f64;
        let messages = stage.messages(per_second).max(5);
        let name = format!("1 to {count}");
        let arrivals = messages * count as u64;
        case(stage, &name, publisher, subscribers, (messages, Some(per_second)), arrivals)?;
    }

    let count = stage.plan.clients(1_000);
    let publishers = stage.clients("in-pub", count)?;
    let mut subscribers = stage.clients("in-sub", SHARING)?;
    for subscriber in &mut subscribers {
        subscriber.topic = "$share/five/bench/#".into();
    }
    let per_second = 1_000.0;
    let messages = stage.messages(per_second);
    let name = format!("{count} to {SHARING} that share");
    case(stage, &name, publishers, subscribers, (messages, Some(per_second)), messages)
}

fn case(
    stage: &mut Stage,
    name: &str,
    publishers: Vec<Client>,
    subscribers: Vec<Client>,
    (messages, per_second): (u64, Option<f64>),
    arrivals: u64,
) -> Result<()> {
    let targets = stage.broker.targets(None)?;
    for turn in stage.turns(targets.len()) {
        let target = &targets[turn];
        stage.rig.tell(&Order::OpenFlow {
            to: target.way.clone(),
            publishers: publishers.clone(),
            from: target.way.clone(),
            subscribers: subscribers.clone(),
            qos: 1,
            payload: PAYLOAD,
        })?;
        let flow = Order::Flow { messages, per_second, arrivals };
        let (times, cpu) = spent(target.pid, || stage.rig.times(&flow))?;
        stage.rig.tell(&Order::Close)?;
        stage.put_times(name, target.name, &times);
        let deliveries = arrivals as f64;
        stage.put(name, target.name, ("throughput", "deliveries/s"), deliveries / times.seconds);
        if target.pid.is_some() {
            let each = cpu.as_secs_f64() * 1e6 / deliveries;
            stage.put(name, target.name, ("CPU per delivery", "µs"), each);
        }
    }
    Ok(())
}
