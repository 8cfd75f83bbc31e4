//! Short forms of what `flytrap-eval` does, for every run of the tests.

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
        p99_ms: 5_000,
        gateway_only: false,
    }))
}

/// EV3 in small: what a script hides is found by an auditor's commands, to the second and the message.
#[test]
fn a_copied_credential_is_found_with_an_auditors_commands() -> Result<()> {
    run(forensics::run(&forensics::Options { records: 6_000, seed: Some(5) }))
}

/// The program itself, since it starts itself again as load and sink. Returns whether it succeeded, what it said, and its page.
fn measure(only: &str, more: &[&str]) -> Result<(bool, String, String)> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let out = tempfile::tempdir()?;
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_flytrap-eval"));
    program.args(["eval", "--tiny", "--only", only, "--out"]).arg(out.path()).args(more);
    let done = program.output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let page = std::fs::read_to_string(out.path().join("eval.html"));
    let raw = std::fs::read_to_string(out.path().join("eval.csv"));
    ensure!(raw.is_ok_and(|raw| raw.starts_with("scenario,case,")), "no raw data: {said}");
    Ok((done.status.success(), said, page?))
}

/// EV4 in small: real parts, every target in turn, one page with every table.
#[test]
fn what_is_measured_arrives_and_becomes_a_page_with_every_table() -> Result<()> {
    let (ended_well, said, page) = measure("trips,once,passwords", &["--soak", "2s"])?;
    ensure!(ended_well, "{said}");
    let parts = [
        "Must reach",
        "Round trips",
        "Clients that publish once",
        "Logins at a real broker",
        "messages of QoS 1 through the gateway",
        "Attacks",
        "Forensics",
        "<svg",
    ];
    for part in parts {
        ensure!(page.contains(part), "the page has no {part}");
    }
    for row in ["<td>CONNECT with signature</td>", "<td>PINGREQ</td>", "<td>10 users</td>"] {
        ensure!(page.contains(row), "the page has no {row}");
    }
    Ok(())
}

/// A sink that loses one message in a hundred is noticed, and nothing is told of it as if it had been measured.
#[test]
fn what_does_not_arrive_fails_the_run_and_is_told() -> Result<()> {
    let (ended_well, said, page) = measure("throughput-tls", &["--lossy-sink"])?;
    ensure!(!ended_well, "lost messages are not noticed: {said}");
    ensure!(said.contains("messages have arrived"), "not told: {said}");
    ensure!(page.contains("Failed: after"), "the page does not tell it");
    ensure!(
        !page.contains("<td>64 B, QoS 0, batches</td>"),
        "the page has figures of lost messages"
    );
    Ok(())
}
