//! What is recorded, that it is exact, and that the chain proves it (US1, FR7, W74, W75, THREATS H).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::Address;
use eyre::{Result, ensure, eyre};
use flytrap_chain::bindings::IAuditLog::Anchored;
use flytrap_record::export::{Anchor, Checked, Checker, Fault, Line};
use flytrap_record::{Kind, Record};
use flytrap_site::unix_now;

use crate::common::process::program;
use crate::common::raw::{Connect, Got, Publish, Raw};
use crate::common::{
    CLOSED, PATIENCE, PUBLIC, RETAIN, Right, Stage, Topic, Traits, V5, V311, Way, http, run, until,
};

pub(super) const SENSITIVE: Traits = Traits { retain: true, sensitive: true, own_branch: false };
const ANCHORED: &str = "Anchored(uint256,address,uint64,bytes32,bytes32,uint64)";

/// A site with a sensitive topic that nobody may use yet.
pub(super) async fn hospital() -> Result<(Stage, Topic)> {
    let stage = Stage::new().await?;
    let topic = stage.topic_with("hospital/w1/hr", SENSITIVE, CLOSED, CLOSED).await?;
    stage.caught_up().await?;
    Ok((stage, topic))
}

/// A site of this configuration with a sensitive topic that the publisher may write to, and a plain one.
pub(super) async fn ward(config: &str) -> Result<Stage> {
    let stage = Stage::configured(config).await?;
    let topic = stage.topic_with("hospital/w1/hr", SENSITIVE, CLOSED, CLOSED).await?;
    stage.grant(&topic, stage.site.wallets.publisher.address(), Right::Publish).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

pub(super) async fn publish_times(client: &mut Raw, topic: &str, times: u16) -> Result<()> {
    for n in 1..=times {
        client.publish_whole(&Publish::new(topic, b"x").qos(1, n)).await?;
    }
    Ok(())
}

/// The gateway's anchors, by their numbers, as a node tells them.
pub(super) async fn anchors(stage: &Stage) -> Result<BTreeMap<u64, Anchor>> {
    let mut all = BTreeMap::new();
    for log in stage.logs(ANCHORED).await? {
        let event = log.read::<Anchored>()?;
        let anchor = Anchor { root: event.root, previous: event.previous, count: event.count };
        ensure!(
            all.insert(event.sequence, anchor).is_none(),
            "interval {} is anchored twice",
            event.sequence
        );
    }
    Ok(all)
}

/// Waits until so many records are anchored, and exports them.
pub(crate) async fn exported(
    stage: &Stage,
    wanted: impl Fn(&[Record]) -> bool,
) -> Result<(PathBuf, Vec<Record>)> {
    let file = stage.site.dir().join("records.jsonl");
    let look = || async {
        export(stage, &file)?;
        let records = records(&file)?;
        Ok(wanted(&records).then_some(records))
    };
    let records = until("the records to be anchored", look).await?;
    Ok((file, records))
}

pub(super) fn export(stage: &Stage, file: &Path) -> Result<()> {
    let mut command = Command::new(program());
    command.arg("export").arg("--config").arg(&stage.site.gateway()?.config).arg("--out").arg(file);
    let done = command.output()?;
    ensure!(done.status.success(), "export: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

pub(super) fn records(file: &Path) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for line in std::fs::read_to_string(file)?.lines() {
        if let Line::Record(line) = serde_json::from_str(line)? {
            all.push(line.record);
        }
    }
    Ok(all)
}

pub(super) fn check(text: &str, anchors: &BTreeMap<u64, Anchor>) -> Result<Checked, Fault> {
    let mut checker = Checker::default();
    for line in text.lines() {
        checker.take(line.as_bytes())?;
    }
    checker.finish(anchors)
}

/// All that is said of a wallet: how many times each kind of thing happened.
pub(super) fn counts(records: &[Record], wallet: Address) -> BTreeMap<Kind, u64> {
    let mut counts = BTreeMap::new();
    for record in records.iter().filter(|record| record.wallet == wallet) {
        *counts.entry(record.kind).or_default() += record.count;
    }
    counts
}

async fn publish(client: &mut Raw, payloads: std::ops::Range<u32>) -> Result<()> {
    for n in payloads {
        let payload = format!("beat-{n}");
        let publish = Publish::new("hospital/w1/hr/7", payload.as_bytes()).qos(1, 9);
        client.publish_whole(&publish).await?;
    }
    Ok(())
}

/// Where it is wanted each message has its own time, and its own leaf.
#[test]
fn each_message_on_a_sensitive_topic_is_a_record_of_its_own_where_that_is_wanted() -> Result<()> {
    run(async {
        let stage = ward("[audit]\neach_message = true").await?;
        let publisher = stage.site.wallets.publisher.address();
        let mut client = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish_times(&mut client, "hospital/w1/hr/7", 9).await?;
        publish_times(&mut client, "open/x", 3).await?;
        let whole = |records: &[Record]| counts(records, publisher).values().sum::<u64>() >= 9;
        let (file, records) = exported(&stage, whole).await?;
        let of_publisher: Vec<_> =
            records.iter().filter(|record| record.wallet == publisher).collect();
        let single = |record: &&&Record| {
            (record.kind, record.count, record.octets) == (Kind::Published, 1, 1)
        };
        assert_eq!(of_publisher.iter().filter(single).count(), 9, "{of_publisher:?}");
        assert_eq!(of_publisher.len(), 9);
        check(&std::fs::read_to_string(&file)?, &anchors(&stage).await?)?;
        Ok(())
    })
}

/// US1, the part of it that the record answers: who accessed, how often, when, on what ground; who tried and failed.
#[test]
fn accesses_to_a_sensitive_topic_are_counted_exactly_and_the_chain_proves_them() -> Result<()> {
    run(async {
        for version in [V311, V5] {
            let (stage, topic) = hospital().await?;
            let wallets = &stage.site.wallets;
            let (reader, publisher) = (wallets.reader.address(), wallets.publisher.address());
            let second = wallets.spare[0].address();
            for (wallet, right) in [
                (reader, Right::Subscribe),
                (second, Right::Subscribe),
                (publisher, Right::Publish),
            ] {
                stage.grant(&topic, wallet, right).await?;
            }
            stage.caught_up().await?;
            let began = unix_now();
            let way = Way::plain(version);
            let mut first = subscriber(&stage, way, &wallets.reader, "monitor").await?;
            let mut writer = stage.session(way, &stage.publisher("belt")?).await?;
            publish(&mut writer, 0..5).await?;
            let mut late = subscriber(&stage, way, &wallets.spare[0], "study").await?;
            publish(&mut writer, 5..10).await?;
            for _ in 0..5 {
                late.delivery().await?;
            }
            let mut stranger = stage.session(way, &stage.stranger("curious")?).await?;
            stranger.subscribe(&[("hospital/w1/hr/7", 0)]).await?;
            stage.revoke(&topic, second, Right::Subscribe).await?;
            stage.caught_up().await?;
            publish(&mut writer, 10..15).await?;
            for _ in 0..15 {
                first.delivery().await?;
            }
            let wrong = Connect::of(version, &stage.wrong_proof("guess")?);
            assert_ne!(stage.dial(way).await?.connect(&wrong).await?, 0);

            let total = |records: &[Record], kind| -> u64 {
                records.iter().filter(|record| record.kind == kind).map(|record| record.count).sum()
            };
            let whole = |records: &[Record]| {
                let of_each = [Kind::Published, Kind::Delivered, Kind::ProofFailed]
                    .map(|k| total(records, k));
                of_each.iter().zip([15, 20, 1]).all(|(found, wanted)| *found >= wanted)
            };
            let (file, records) = exported(&stage, whole).await?;
            assert_eq!(counts(&records, publisher), [(Kind::Published, 15)].into());
            assert_eq!(counts(&records, reader), [(Kind::Delivered, 15)].into());
            let of_second = counts(&records, second);
            assert_eq!(of_second.get(&Kind::Delivered), Some(&5), "{of_second:?}");
            let stranger = counts(&records, wallets.stranger.address());
            assert_eq!(stranger, [(Kind::SubscribeRefused, 1)].into());
            assert_eq!(counts(&records, Address::ZERO).get(&Kind::ProofFailed), Some(&1));
            for record in &records {
                let is_access = matches!(record.kind, Kind::Published | Kind::Delivered);
                ensure!(!is_access || record.topic_id == topic.id, "{record:?}");
                ensure!(!is_access || record.rule == "grant", "{record:?}");
                ensure!(
                    began <= record.last_at + 5 && record.last_at <= unix_now() + 5,
                    "{record:?}"
                );
            }
            let octets: u64 =
                records.iter().filter(|r| r.kind == Kind::Published).map(|r| r.octets).sum();
            assert_eq!(octets, 10 * 6 + 5 * 7, "payloads beat-0 to beat-14");

            // The file and a node, nothing else.
            let text = std::fs::read_to_string(&file)?;
            let on_chain = anchors(&stage).await?;
            let checked = check(&text, &on_chain)?;
            assert_eq!(checked.records, u64::try_from(records.len())?);
            assert_eq!(checked.head.gateway, wallets.gateway.address());
            // One octet of one record; a line before it may tell of an interval of one.
            let changed = text.replacen("\"count\":1,\"octets\"", "\"count\":2,\"octets\"", 1);
            ensure!(changed != text, "nothing was changed");
            ensure!(matches!(check(&changed, &on_chain), Err(Fault::Changed { .. })));
            // What no file and no log may hold: who was where.
            for secret in ["monitor", "belt", "curious", "127.0.0.1"] {
                ensure!(!text.contains(secret), "{secret} can be read in the export");
            }
        }
        Ok(())
    })
}

async fn subscriber(
    stage: &Stage,
    way: Way,
    key: &flytrap_chain::keys::Key,
    client_id: &str,
) -> Result<Raw> {
    let mut client = stage.session(way, &stage.site.token(key, client_id)?).await?;
    assert_eq!(client.subscribe(&[("hospital/w1/hr/#", 0)]).await?, [0]);
    Ok(client)
}

/// PG3, W48: an hour of allowed telemetry in small.
#[test]
fn plain_telemetry_leaves_counters_and_no_record() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("plain")?).await?;
        for n in 0..200 {
            writer.publish_whole(&Publish::new("open/t", b"21.5").qos(1, n % 9 + 1)).await?;
        }
        // What is refused is recorded, and comes after everything that was allowed.
        writer.send(Publish::new("closed/t", b"21.5").qos(1, 10).octets(V5)).await?;
        ensure!(matches!(writer.get().await?, Got::Ack { code: 0x87, .. }), "not refused");
        let is_refusal = |record: &Record| record.kind == Kind::PublishRefused;
        let (_, records) = exported(&stage, |records| records.iter().any(is_refusal)).await?;
        let kinds: Vec<Kind> = records.iter().map(|record| record.kind).collect();
        assert_eq!(kinds, [Kind::Started, Kind::PublishRefused]);
        ensure!(anchors(&stage).await?.len() <= 2, "anchors without records");
        Ok(())
    })
}

/// F01 in small: what was on the disk is anchored after a kill, once, and the chain of records goes on.
#[test]
fn a_killed_gateway_goes_on_where_its_records_ended_and_says_that_it_was_killed() -> Result<()> {
    run(async {
        let (mut stage, topic) = hospital().await?;
        let publisher = stage.site.wallets.publisher.address();
        stage.grant(&topic, publisher, Right::Publish).await?;
        stage.caught_up().await?;
        let mut sent = 0;
        for round in 0..3_u32 {
            let mut writer =
                stage.session(Way::plain(V5), &stage.publisher(&format!("r{round}"))?).await?;
            publish(&mut writer, 0..10).await?;
            // Its end hands the counts over at once; from the answer to this on the disk has them.
            writer.send([0xE0, 0x00]).await?;
            writer.ended(PATIENCE).await?;
            sent += 10;
            let health = stage.site.gateway()?.health();
            let written = || async {
                let written = http::metric(health, "flytrap_records_total").await?;
                Ok((written >= 2.0).then_some(()))
            };
            until("the record to be written", written).await?;
            stage.site.gateway_mut()?.restart().await?;
        }
        let all = |records: &[Record]| {
            counts(records, publisher).get(&Kind::Published) >= Some(&sent)
                && records.iter().filter(|record| record.kind == Kind::Started).count() >= 4
        };
        let (file, records) = exported(&stage, all).await?;
        assert_eq!(counts(&records, publisher).get(&Kind::Published), Some(&sent));
        assert!(
            !records.iter().any(|record| record.kind == Kind::Stopped),
            "it was killed each time"
        );
        check(&std::fs::read_to_string(&file)?, &anchors(&stage).await?)?;
        Ok(())
    })
}

/// F09: while the disk takes nothing, what must be recorded waits, what need not goes on, and nothing is lost.
#[test]
fn while_records_cannot_be_written_sensitive_sessions_wait_and_others_do_not() -> Result<()> {
    run(async {
        let (stage, topic) = hospital().await?;
        let publisher = stage.site.wallets.publisher.address();
        stage.grant(&topic, publisher, Right::Publish).await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        stage.caught_up().await?;
        let table = stage.config()?;
        let state = table["state_dir"].as_str().ok_or_else(|| eyre!("no state_dir"))?;
        let gateway = stage.site.wallets.gateway.address();
        let file = Path::new(state).join(format!("records-{gateway:#x}.sqlite"));
        let holder = rusqlite::Connection::open(&file)?;
        holder.execute_batch("BEGIN IMMEDIATE")?;
        let mut sensitive = stage.session(Way::plain(V5), &stage.publisher("hr")?).await?;
        publish(&mut sensitive, 0..3).await?;
        let health = stage.site.gateway()?.health();
        let waits = || async {
            let waiting = http::metric(health, "flytrap_records_waiting").await?;
            Ok((waiting > 0.0).then_some(()))
        };
        until("records to wait", waits).await?;
        let mut plain = stage.session(Way::plain(V5), &stage.stranger("plain")?).await?;
        for n in 1..20 {
            plain.publish_whole(&Publish::new("open/t", b"21.5").qos(1, n)).await?;
        }
        holder.execute_batch("ROLLBACK")?;
        publish(&mut sensitive, 3..6).await?;
        let all = |records: &[Record]| counts(records, publisher).get(&Kind::Published) >= Some(&6);
        let (_, records) = exported(&stage, all).await?;
        assert_eq!(counts(&records, publisher).get(&Kind::Published), Some(&6));
        Ok(())
    })
}

/// THREATS H: what is personal is erased on the word of whoever runs the gateway, and what is left proves the same.
#[test]
fn what_is_personal_is_erased_and_the_records_prove_the_same() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("pump-7")?).await?;
        writer.send(Publish::new("closed/t", b"x").qos(1, 1).octets(V5)).await?;
        ensure!(matches!(writer.get().await?, Got::Ack { code: 0x87, .. }), "not refused");
        let is_refusal = |record: &Record| record.kind == Kind::PublishRefused;
        exported(&stage, |records| records.iter().any(is_refusal)).await?;

        let wallet = stage.site.wallets.publisher.address();
        let gateway = stage.site.gateway()?;
        let erase = || -> Result<String> {
            let mut command = Command::new(program());
            command.arg("erase").arg("--config").arg(&gateway.config).arg(wallet.to_string());
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        ensure!(erase()?.contains("Erased"));
        ensure!(erase()?.contains("nothing to erase"));
        let erased = |record: &Record| record.kind == Kind::Erased && record.wallet == wallet;
        let two = |records: &[Record]| records.iter().filter(|r| erased(r)).count() == 2;
        let (_, records) = exported(&stage, two).await?;
        ensure!(records.iter().any(is_refusal), "the record stays");
        Ok(())
    })
}
