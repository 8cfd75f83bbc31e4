//! Steady traffic for as long as is asked for: does memory grow, do descriptors, does a message get lost?

use std::time::{Duration, Instant};

use eyre::{Result, ensure};
use flytrap_bench::rig::{Order, Way};
use serde::Serialize;

use super::stage::Stage;
use crate::process::{descriptors, resident};

/// Messages a second, of ten publishers to ten subscribers.
const PER_SECOND: f64 = 500.0;
/// Traffic between two looks. Each of them opens and closes its connections, so that what a session leaves behind shows.
const STEP: Duration = Duration::from_secs(10);

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Soak {
    pub(crate) messages: u64,
    pub(crate) looks: Vec<Look>,
}

/// After one step.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Look {
    pub(crate) seconds: f64,
    pub(crate) resident_octets: u64,
    pub(crate) descriptors: usize,
    pub(crate) worst_micros: f64,
}

/// Plays for so long. A message that does not arrive is an error.
pub(super) async fn run(stage: &mut Stage, length: Duration) -> Result<Soak> {
    let (publishers, subscribers) =
        (stage.clients("soak-pub", 10)?, stage.clients("soak-sub", 10)?);
    let (to, pid) = {
        let gateway = &stage.broker.gateway;
        (Way::plain(gateway.listener("mqtt")?), gateway.child.id())
    };
    let (began, mut soak) = (Instant::now(), Soak::default());
    while began.elapsed() < length {
        let step = STEP.min(length).as_secs_f64();
        let messages = flytrap_bench::spread::whole(PER_SECOND * step);
        stage.rig.tell(&Order::OpenFlow {
            to: to.clone(),
            publishers: publishers.clone(),
            from: to.clone(),
            subscribers: subscribers.clone(),
            qos: 1,
            payload: 64,
        })?;
        let order = Order::Flow { messages, per_second: Some(PER_SECOND), arrivals: messages };
        let times = stage.rig.times(&order)?;
        stage.rig.tell(&Order::Close)?;
        soak.messages += messages;
        let resident_octets = resident(pid);
        ensure!(resident_octets > 0, "the gateway has ended");
        soak.looks.push(Look {
            seconds: began.elapsed().as_secs_f64(),
            resident_octets,
            descriptors: descriptors(pid),
            worst_micros: times.micros.last().copied().unwrap_or_default(),
        });
        if soak.looks.len() % 30 == 1 {
            eprintln!(
                "soak: {:.0} s of {:.0} s, {} messages, {} kB resident",
                began.elapsed().as_secs_f64(),
                length.as_secs_f64(),
                soak.messages,
                resident_octets / 1_024
            );
        }
    }
    Ok(soak)
}
