//! The names that the games are played with: few, so that things meet.

use alloy_primitives::Address;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What can be registered, and who plays.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Names that topics are registered with.
    pub(super) topics: Vec<String>,
    /// Keys of all clients, for their branches.
    pub(super) keys: Vec<Address>,
}

/// Top names.
const TOPS: usize = 8;

impl Names {
    pub(super) fn new(keys: Vec<Address>) -> Self {
        let topics = (0..TOPS)
            .flat_map(|top| ["", "/a", "/a/x", "/b"].map(|below| format!("t{top}{below}")))
            .collect();
        Self { topics, keys }
    }
}

fn pick<'a>(rng: &mut StdRng, among: &[&'a str]) -> &'a str {
    among.choose(rng).copied().unwrap_or_default()
}

/// A name to publish to: mostly one that may be registered or lies below one, now and then one that only looks like it.
pub(super) fn name(rng: &mut StdRng, names: &Names, key: Address) -> String {
    let topic = names.topics.choose(rng).cloned().unwrap_or_default();
    match rng.random_range(0..24) {
        0..13 => topic,
        13..16 => format!("{topic}/{}", pick(rng, &["c", "x", "a/x/y"])),
        16..19 => format!("{topic}/{key:#x}{}", pick(rng, &["", "/v"])),
        19 => {
            let other = names.keys.choose(rng).copied().unwrap_or_default();
            format!("{topic}/{other:#x}/v")
        }
        20 => topic.to_uppercase(),
        21 => match rng.random_range(0..4) {
            0 => format!("{topic}/"),
            1 => format!("/{topic}"),
            2 => topic.replacen('/', "//", 1),
            _ => format!("{topic} "),
        },
        22 => pick(rng, &["$SYS/broker/x", "$CONTROL/dynamic-security/v1", "$share/g/t0"]).into(),
        _ => pick(rng, &["u/none", "t", "t9"]).into(),
    }
}

/// A filter to subscribe to.
pub(super) fn filter(rng: &mut StdRng, names: &Names, key: Address) -> String {
    let topic = names.topics.choose(rng).cloned().unwrap_or_default();
    match rng.random_range(0..24) {
        0..9 => topic,
        9..14 => format!("{topic}/#"),
        14 => format!("{topic}/+"),
        15 => format!("{topic}/+/x"),
        16 => topic.replacen('t', "+/t", 1),
        17 => pick(rng, &["#", "+", "+/a", "+/a/#", "/#"]).into(),
        18 => format!("$share/g/{topic}"),
        19 => format!("$share/g/{topic}/#"),
        20 => format!("{topic}/{key:#x}/#"),
        21 => {
            let other = names.keys.choose(rng).copied().unwrap_or_default();
            format!("{topic}/{other:#x}/{}", pick(rng, &["#", "v"]))
        }
        22 => pick(rng, &["$SYS/#", "$SYS/broker/uptime", "$CONTROL/#"]).into(),
        _ => format!("{topic}/"),
    }
}
