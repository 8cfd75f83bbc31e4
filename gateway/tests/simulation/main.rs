//! The session machine, simulated under a seed: a hostile client, a hostile broker and a restless chain, against a naive model.
//!
//! `world` is the chain, once as registries that the machine is given and once as rules told naively; `peers` are the two ends; `model` says
//! what has to come out of each packet, to the octet; `play` is the driver that holds the machine against it. Nothing here shares code with
//! the machine, with the registry's judge or with the gateway's reading of MQTT.
//!
//! `make simulate N=1000000` runs so many steps, `make simulate SEED=7` plays one history again and tells it. A history that fails is made
//! shorter as long as it still does.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]
#![allow(unreachable_pub, reason = "the modules of one test program")]

mod model;
mod peers;
mod play;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use play::{Act, Fault, Met, Play};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Steps of one history.
const STEPS: usize = 400;
/// Steps of a run that nobody asked to be longer.
const SHORT: u64 = 12_000;

fn acts(seed: u64) -> Vec<Act> {
    let mut rng = StdRng::seed_from_u64(!seed);
    (0..STEPS).map(|_| rng.next_u64()).collect()
}

fn played(seed: u64, acts: &[Act], is_told: bool) -> (Result<(), Fault>, Play) {
    let mut play = Play::new(seed, is_told);
    for (step, act) in acts.iter().enumerate() {
        // A panic is a failure like any other, and wants its history told.
        let done = catch_unwind(AssertUnwindSafe(|| play.act(*act)));
        if let Err(what) = done.unwrap_or_else(|_| Err("it panicked, as told above".into())) {
            return (Err(Fault { step, what }), play);
        }
    }
    (Ok(()), play)
}

/// Leaves out what the failure does not need, for a while.
fn shrunk(seed: u64, mut acts: Vec<Act>) -> Vec<Act> {
    let began = Instant::now();
    let mut size = acts.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < acts.len() && began.elapsed() < Duration::from_secs(20) {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match played(seed, &fewer, false).0 {
                Err(Fault { step, .. }) => {
                    fewer.truncate(step + 1);
                    acts = fewer;
                }
                Ok(()) => at += size,
            }
        }
        size /= 2;
    }
    acts
}

/// One history; a failure is told with all that is needed to play it again.
fn history(seed: u64, is_told: bool) -> Result<Met, String> {
    let acts = acts(seed);
    let (done, mut play) = played(seed, &acts, is_told);
    let Err(fault) = done else {
        for line in play.told.take().unwrap_or_default() {
            println!("  {line}");
        }
        return Ok(play.met);
    };
    let short = shrunk(seed, acts[..=fault.step].to_vec());
    let (done, play) = played(seed, &short, true);
    let mut told = format!(
        "seed {seed}, step {}: {}\nshrunk to {} steps:\n",
        fault.step,
        fault.what,
        short.len()
    );
    for line in play.told.unwrap_or_default() {
        told += &format!("  {line}\n");
    }
    if let Err(fault) = done {
        told += &format!("  -> {}\n", fault.what);
    }
    told += &format!("play it again: make simulate SEED={seed}");
    Err(told)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// DESIGN section 4, all of it, at once.
#[test]
fn whatever_happens_exactly_what_is_allowed_comes_out() {
    if let Some(seed) = number("SEED") {
        match history(seed, true) {
            Ok(met) => println!("seed {seed}: {STEPS} steps, nothing wrong; {met:?}"),
            Err(told) => panic!("{told}"),
        }
        return;
    }
    let steps = number("N").unwrap_or(SHORT);
    let first = number("FROM").unwrap_or(1);
    let (began, mut met) = (Instant::now(), Met::default());
    let mut told = Instant::now();
    for nth in 0..steps.div_ceil(STEPS as u64) {
        match history(first + nth, false) {
            Ok(more) => met.add(&more),
            Err(fault) => panic!("{fault}"),
        }
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            println!("{} of {steps} steps", (nth + 1) * STEPS as u64);
        }
    }
    println!("{steps} steps in {:.1?}, seeds from {first}: {met:#?}", began.elapsed());
    if steps < SHORT {
        return;
    }
    // A run that met nothing proves nothing.
    let each = [met.sessions, met.to_broker, met.to_client, met.refused, met.taken_back, met.alike];
    assert!(each.iter().all(|count| *count > 20), "{met:?}");
    for ending in ["ClientLeft", "ClientFault", "BrokerFault", "KeepAlive", "Denied", "Refused"] {
        assert!(met.ends.contains_key(ending), "nothing ended with {ending}: {met:?}");
    }
}
