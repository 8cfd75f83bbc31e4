//! Short forms of `make shadow` and `make attack`, for every run of the tests.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use eyre::{Result, ensure};
use flytrap_eval::{attack, forensics, shadow};
use flytrap_site::raw::Version;

/// One at a time: what is measured here is spoilt by neighbours.
static ALONE: Mutex<()> = Mutex::new(());

fn run<T>(test: impl Future<Output = Result<T>>) -> Result<T> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    flytrap_eval::install_provider();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(test)
}

fn options(operations: u64) -> shadow::Options {
    shadow::Options { operations, seed: Some(7), clients: 12, only: None, without_gateway: false }
}

#[test]
fn of_random_operations_none_gets_through_that_may_not_and_none_is_refused_that_may() -> Result<()>
{
    for version in [Version::V311, Version::V5] {
        let played = run(shadow::play(&options(4_000), version, 7))?.found;
        ensure!(played.leaks == 0 && played.false_refusals == 0, "{played:#?}");
        ensure!(
            played.publishes_forwarded > 100
                && played.deliveries > 100
                && played.filters_refused > 50,
            "too little happened: {played:#?}"
        );
    }
    Ok(())
}

/// The judge can fail: with the gateway left out it finds leaks of every kind.
#[test]
fn without_a_gateway_the_second_opinion_finds_leaks() -> Result<()> {
    let options = shadow::Options { without_gateway: true, ..options(1_500) };
    let found = run(shadow::play(&options, Version::V5, 7))?.found;
    for fault in ["PublishForwarded", "FilterForwarded", "Delivered"] {
        ensure!(found.faults.contains_key(fault), "no {fault}: {found:#?}");
    }
    Ok(())
}

#[test]
fn attacks_that_succeed_on_a_plain_broker_fail_through_the_gateway() -> Result<()> {
    let only = ["A08", "A15", "A17", "B01", "B02", "B04", "B12", "B18", "C06", "D05"];
    run(attack::run(&attack::Options {
        only: only.map(str::to_owned).to_vec(),
        seconds: 2,
        // What is measured here is whether, on whatever machine builds this; how fast is for the whole command.
        p99_ms: 1_000,
        gateway_only: false,
    }))
}

/// EV3 in small: what a script hides is found by an auditor's commands, to the second and the message.
#[test]
fn a_copied_credential_is_found_with_an_auditors_commands() -> Result<()> {
    run(forensics::run(&forensics::Options { records: 6_000, seed: Some(5) }))
}
