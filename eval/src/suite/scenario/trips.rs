//! Round trips of one client.

use eyre::Result;
use flytrap_bench::rig::{Order, Trip};

use crate::suite::stage::Stage;

const TRIPS: [(&str, Trip, f64); 5] = [
    ("CONNECT with signature", Trip::Connect, 200.0),
    ("SUBSCRIBE", Trip::Subscribe, 500.0),
    ("PUBLISH QoS 1", Trip::Publish, 500.0),
    ("PINGREQ", Trip::Ping, 500.0),
    ("session", Trip::Session, 50.0),
];

pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    let targets = stage.broker.targets(None)?;
    let client = stage.client("trip-0", "bench/trip")?;
    for (case, trip, per_second) in TRIPS {
        let count = u32::try_from(stage.messages(per_second))?;
        for turn in stage.turns(targets.len()) {
            let target = &targets[turn];
            let (to, client) = (target.way.clone(), client.clone());
            let times = stage.rig.times(&Order::Trips { to, client, trip, count, per_second })?;
            stage.put_times(case, target.name, &times);
        }
    }
    Ok(())
}
