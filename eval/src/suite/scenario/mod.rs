//! What is measured, one file for each subject. A scenario counts what arrived, and fails if that is not what was sent.

mod connections;
mod fanout;
mod grants;
mod idle;
mod rates;
mod recording;
mod rights;
mod throughput;
mod trips;

use std::future::Future;
use std::pin::Pin;

use eyre::Result;

use super::stage::Stage;

/// Something that is measured.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// For `--only`, and in the raw data.
    pub(crate) name: &'static str,
    /// For the report.
    pub(crate) title: &'static str,
    /// What was done, in a sentence or two.
    pub(crate) how: &'static str,
    pub(crate) play: Play,
}

type Play = for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

macro_rules! scenario {
    ($name:literal, $title:literal, $how:literal, $play:path) => {
        Scenario { name: $name, title: $title, how: $how, play: |stage| Box::pin($play(stage)) }
    };
}

/// All of them, in the order of the report.
pub(crate) const ALL: &[Scenario] = &[
    scenario!(
        "trips",
        "Round trips",
        "One client at a real broker, each question at its scheduled time; a question that waits for the one before counts the waiting. CONNECT is a new connection and a signature checked by FlyTrap; the session is CONNECT, SUBSCRIBE, ten PUBLISH of QoS 1 and DISCONNECT.",
        trips::play
    ),
    scenario!(
        "throughput",
        "Throughput and CPU per message, plain",
        "Ten connections, each on a topic of its own, into a sink. Batches: ten messages in a write, the next when they have arrived. Flood: fifty in a write, as fast as they are taken.",
        throughput::plain
    ),
    scenario!(
        "throughput-tls",
        "Throughput and CPU per message, TLS",
        "The same; FlyTrap, HAProxy and nginx end TLS with one and the same certificate.",
        throughput::tls
    ),
    scenario!(
        "rates",
        "Latency at given rates",
        "One publisher, one subscriber, a real broker. Latency is counted from the moment at which a message was due until the subscriber has it.",
        rates::play
    ),
    scenario!(
        "many",
        "Many to many, fan-out, fan-in",
        "A real broker, QoS 1. Many to many: ten publishers with ten subscribers, flat out. Fan-out: one publisher, all subscribe to its topic. Fan-in: many publishers, five subscribers that share one subscription.",
        fanout::play
    ),
    scenario!(
        "logins",
        "Connection storms",
        "Clients connect to a sink as fast as they are let in, 32 at a time, and leave; FlyTrap checks a signature, the others nothing. TLS: full handshakes.",
        connections::logins
    ),
    scenario!(
        "passwords",
        "Logins at a real broker",
        "The same at Mosquitto: the CPU time of gateway and broker together, beside Mosquitto alone with a password file of ten users.",
        connections::passwords
    ),
    scenario!(
        "once",
        "Clients that publish once",
        "Each client connects to a real broker, publishes one message of QoS 1, waits for PUBACK and leaves; 64 at a time.",
        connections::once
    ),
    scenario!(
        "idle",
        "Resident memory of idle sessions",
        "Sessions that logged in and say nothing. Each round has processes of its own, since memory that was once used is not given back; the growth of resident memory is divided by their number after two seconds of quiet.",
        idle::play
    ),
    scenario!(
        "grants",
        "Many grants in the mirror",
        "Two chains: on one a wallet has ten grants, on the other as many as the table says, each for a registered topic. CPU time of publishing and of connecting; Mosquitto with an access list of as many entries of one user; and the time from the start of the process to ready, with the mirror on disk.",
        grants::play
    ),
    scenario!(
        "changes",
        "PINGREQ while grants change",
        "One client pings 200 times a second while transactions on chain change grants of the same broker.",
        rights::changes
    ),
    scenario!(
        "recording",
        "Recording on and off",
        "Publishing to a topic that is marked sensitive, with the default rules, which count each message in a durable record, and with a rule that only counts.",
        recording::play
    ),
    scenario!(
        "revocation",
        "Revocation and purchase",
        "From the block that revokes being visible at the node to the last message delivered to a live session (as make revocations, smaller), and from the block that sells being visible to the first SUBSCRIBE that succeeds. The site follows the chain each 50 ms.",
        rights::play
    ),
];
