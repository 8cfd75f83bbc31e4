//! W50, FR2: for as long as no node answers what happens is recorded, and anchored once one does: nothing is lost, nothing is there twice.
//!
//! `make node-away N=3600` takes the node away for an hour.

use std::time::{Duration, Instant};

use eyre::{Result, ensure};
use flytrap_record::{Kind, Record};

use crate::common::raw::{Connect, Publish};
use crate::common::{CLOSED, Right, Stage, V5, Way, run};
use crate::record::{self, SENSITIVE};

/// How long what has piled up may take to be anchored.
const DRAIN: Duration = Duration::from_secs(300);

#[test]
fn what_happens_while_no_node_answers_is_anchored_once_when_one_does() -> Result<()> {
    run(without_a_node(Duration::from_secs(6), Duration::from_millis(100)))
}

#[test]
#[ignore = "takes as long as it is told: make node-away"]
fn what_happens_in_as_many_seconds_as_asked_is_anchored_once() -> Result<()> {
    let seconds = std::env::var("SECONDS_AWAY").ok().and_then(|text| text.parse().ok());
    run(without_a_node(Duration::from_secs(seconds.unwrap_or(3_600)), Duration::from_millis(500)))
}

async fn without_a_node(away: Duration, pace: Duration) -> Result<()> {
    let stage = Stage::configured(
        "[chain]\nstale_after = \"20h\"\ndistrust_after = \"24h\"\n[limits]\nfailures = 0\n",
    )
    .await?;
    let topic = stage.topic_with("hospital/w1/hr", SENSITIVE, CLOSED, CLOSED).await?;
    let wallets = &stage.site.wallets;
    let (reader, writer) = (wallets.reader.address(), wallets.publisher.address());
    stage.grant(&topic, reader, Right::Subscribe).await?;
    stage.grant(&topic, writer, Right::Publish).await?;
    stage.caught_up().await?;
    let way = Way::plain(V5);
    let life = away.as_secs() + 3_600;
    let token = |key, id| stage.site.token_of_life(key, id, life);
    let mut from = stage.session(way, &token(&wallets.publisher, "belt")?).await?;
    let mut to = stage.session(way, &token(&wallets.reader, "monitor")?).await?;
    assert_eq!(to.subscribe(&[("hospital/w1/hr/#", 0)]).await?, [0]);

    let before = record::anchors(&stage).await?.len();
    stage.site.chain.child.freeze();
    let (began, mut messages, mut guesses) = (Instant::now(), 0_u64, 0_u64);
    while began.elapsed() < away {
        let publish = Publish::new("hospital/w1/hr/7", b"beat").qos(1, 9);
        from.publish_whole(&publish).await?;
        to.delivery().await?;
        messages += 1;
        if messages.is_multiple_of(10) {
            let wrong = Connect::of(V5, &stage.wrong_proof("guess")?);
            assert_ne!(stage.dial(way).await?.connect(&wrong).await?, 0);
            guesses += 1;
        }
        tokio::time::sleep(pace).await;
    }
    stage.site.chain.child.thaw();

    let file = stage.site.dir().join("records.jsonl");
    let total = |records: &[Record], kind| -> u64 {
        records.iter().filter(|record| record.kind == kind).map(|record| record.count).sum()
    };
    let back = Instant::now();
    let records = loop {
        ensure!(
            back.elapsed() < DRAIN,
            "not everything is anchored {DRAIN:?} after the node is back"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        record::export(&stage, &file)?;
        let records = record::records(&file)?;
        let of_each = [Kind::Published, Kind::Delivered].map(|kind| total(&records, kind));
        if of_each.iter().all(|count| *count >= messages)
            && total(&records, Kind::ProofFailed) >= guesses
        {
            break records;
        }
    };
    let took = back.elapsed();
    assert_eq!(record::counts(&records, writer), [(Kind::Published, messages)].into());
    assert_eq!(record::counts(&records, reader), [(Kind::Delivered, messages)].into());
    assert_eq!(total(&records, Kind::ProofFailed), guesses);
    let anchors = record::anchors(&stage).await?;
    record::check(&std::fs::read_to_string(&file)?, &anchors)?;
    ensure!(anchors.len() > before, "nothing was anchored");
    println!(
        "{messages} messages and {guesses} failed proofs in {away:?} without a node, in {} anchors {took:?} after it was back",
        anchors.len() - before
    );
    Ok(())
}
