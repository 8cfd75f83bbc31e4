//! Audit rules (DESIGN section 7, W77): what a file of the operator sends on chain, into the record, or answers with a ban, and how it is exchanged.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use alloy_primitives::hex;
use eyre::{Result, ensure};
use flytrap_chain::bindings::IAuditLog::AlertRaised;
use flytrap_record::{Kind, Record};

use crate::common::process::program;
use crate::common::raw::{Got, Publish, Raw};
use crate::common::{CLOSED, PATIENCE, PUBLIC, RETAIN, Stage, Topic, V5, V311, Way, run, until};
use crate::record::{anchors, check, counts, export, exported};

const ALERT: &str =
    "AlertRaised(uint256,bytes32,address,address,uint8,uint32,uint64,uint64,bytes32)";

/// A stage whose gateway has rules.
struct Ruled {
    stage: Stage,
    closed: Topic,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Ruled {
    async fn new(rules: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("rules.toml");
        std::fs::write(&file, rules)?;
        let stage =
            Stage::configured(&format!("[audit]\nrules = \"{}\"\n", file.display())).await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        let closed = stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
        stage.topic_with("closed/other", RETAIN, CLOSED, CLOSED).await?;
        stage.caught_up().await?;
        Ok(Self { stage, closed, file, _dir: dir })
    }

    /// How often the rules were read again so far.
    async fn reloads(&self, outcome: &str) -> Result<u64> {
        let (_, body) = self.stage.site.gateway()?.ask("metrics").await?;
        let series = format!("flytrap_rules_reloads_total{{outcome=\"{outcome}\"}} ");
        Ok(body
            .lines()
            .find_map(|line| line.strip_prefix(&series)?.parse().ok())
            .unwrap_or_default())
    }

    /// Waits until they were read so often.
    async fn reloaded(&self, outcome: &str, times: u64) -> Result<()> {
        until("the rules to be read again", || async {
            Ok((self.reloads(outcome).await? >= times).then_some(()))
        })
        .await
    }
}

async fn refused_publish(client: &mut Raw, topic: &str) -> Result<()> {
    client.send(Publish::new(topic, b"x").qos(1, 1).octets(V5)).await?;
    ensure!(matches!(client.get().await?, Got::Ack { code: 0x87, .. }), "not refused");
    Ok(())
}

fn of_kind(records: &[Record], kind: Kind) -> Vec<&Record> {
    records.iter().filter(|record| record.kind == kind).collect()
}

/// The one kind of refusal that was chosen, on the one topic, is told to the chain; the others are not, and stay in the record.
#[test]
fn a_chosen_refusal_goes_on_chain_and_the_others_only_into_the_record() -> Result<()> {
    run(async {
        let ruled = Ruled::new(
            "[[rule]]\nname = \"spying\"\non = [\"subscribe-refused\"]\ntopics = [\"closed\"]\nthen = [\"record\", \"chain\"]\n\
             [[rule]]\nname = \"rest\"\non = [\"subscribe-refused\", \"publish-refused\"]\nthen = [\"record\"]\n",
        )
        .await?;
        let stage = &ruled.stage;
        let stranger = stage.site.wallets.stranger.address();
        let mut client = stage.session(Way::plain(V5), &stage.stranger("curious")?).await?;
        refused_publish(&mut client, "closed/t").await?;
        assert_eq!(client.subscribe(&[("closed/other/t", 0)]).await?, [0x87]);
        assert_eq!(client.subscribe(&[("closed/t", 0)]).await?, [0x87]);
        let alerts = until("the alert on chain", || async {
            Ok(Some(stage.logs(ALERT).await?).filter(|logs| !logs.is_empty()))
        })
        .await?;
        let all = |records: &[Record]| {
            of_kind(records, Kind::SubscribeRefused).iter().map(|r| r.count).sum::<u64>() == 2
        };
        let (_, records) = exported(stage, all).await?;
        assert_eq!(of_kind(&records, Kind::PublishRefused).len(), 1);
        // What came later than all of it settles that nothing else is under way.
        assert_eq!(client.subscribe(&[("closed/t", 0)]).await?, [0x87]);
        let alerts = until("the next alert", || async {
            Ok(Some(stage.logs(ALERT).await?).filter(|logs| logs.len() > alerts.len()))
        })
        .await?;
        for log in &alerts {
            let alert: AlertRaised = log.read()?;
            assert_eq!((alert.kind, alert.wallet, alert.topicId), (1, stranger, ruled.closed.id));
        }
        Ok(())
    })
}

/// A rule bans whoever goes past its rate, at once, on chain too; ban and end of ban are records.
#[test]
fn a_rule_bans_whoever_exceeds_its_rate_and_bans_are_records() -> Result<()> {
    run(async {
        for version in [V311, V5] {
            let ruled = Ruled::new(
                "[[rule]]\nname = \"guessing\"\non = [\"subscribe-refused\"]\nbranches = [\"closed\"]\nmore_than = 2\nwithin = \"1h\"\nthen = [\"record\"]\nban = \"1h\"\n",
            )
            .await?;
            let stage = &ruled.stage;
            let (stranger, way) = (stage.site.wallets.stranger.address(), Way::plain(version));
            let mut client = stage.session(way, &stage.stranger("guesser")?).await?;
            for name in ["closed/1", "closed/other/2"] {
                client.subscribe(&[(name, 0)]).await?;
            }
            assert_eq!(client.ping().await?, [], "as many as are borne");
            client.send(raw_subscribe(version)).await?;
            let ended = client.ended(PATIENCE).await?;
            if version == V5 {
                let told = matches!(ended.last(), Some(Got::Disconnect { code: 0x98, .. }));
                ensure!(told, "{ended:?}");
            }
            let banned = |records: &[Record]| !of_kind(records, Kind::Banned).is_empty();
            let (_, records) = exported(stage, banned).await?;
            let [ban] = of_kind(&records, Kind::Banned)[..] else { panic!("{records:?}") };
            assert_eq!((ban.wallet, ban.count), (stranger, 1));
            ensure!(ban.rule.starts_with("rule until "), "{}", ban.rule);
            until("the ban on chain", || async {
                let bans = stage
                    .logs("WalletBanned(uint256,address,address,uint64,bytes32,string)")
                    .await?;
                Ok((bans.len() == 1).then_some(()))
            })
            .await?;

            let mut lift = Command::new(program());
            lift.args(["bans", "--config"]).arg(&stage.site.gateway()?.config);
            let lifted = lift.args(["lift", &stranger.to_string()]).output()?;
            ensure!(lifted.status.success(), "{}", String::from_utf8_lossy(&lifted.stderr));
            let lifted = |records: &[Record]| !of_kind(records, Kind::BanLifted).is_empty();
            let (file, records) = exported(stage, lifted).await?;
            let lift = of_kind(&records, Kind::BanLifted)[0];
            assert_eq!((lift.wallet, lift.rule.as_str()), (stranger, "operator"));
            check(&std::fs::read_to_string(file)?, &anchors(stage).await?)?;
        }
        Ok(())
    })
}

fn raw_subscribe(version: crate::common::Version) -> Vec<u8> {
    let mut octets = vec![0x82, 0, 0, 7];
    if version == V5 {
        octets.push(0);
    }
    octets.extend([0, 8]);
    octets.extend(b"closed/3");
    octets.push(0);
    octets[1] = u8::try_from(octets.len() - 2).unwrap_or_default();
    octets
}

const RECORD_OPEN: &str = "[[rule]]\nname = \"all of it\"\non = [\"published\"]\nbranches = [\"open\"]\nthen = [\"record\"]\n";

/// A rule that nothing matches.
const RECORD_NOTHING: &str = "[[rule]]\nname = \"nothing\"\non = [\"will-refused\"]\nbranches = [\"nowhere\"]\nthen = [\"record\"]\n";

/// By SIGHUP and by a change of the file alone; a file that is wrong keeps the old rules and is told with its line. Which rules were in
/// force is in the record.
#[test]
fn rules_are_exchanged_while_running_and_a_wrong_file_keeps_the_old_ones() -> Result<()> {
    run(async {
        let ruled = Ruled::new(RECORD_NOTHING).await?;
        let stage = &ruled.stage;
        let publisher = stage.site.wallets.publisher.address();
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("pump")?).await?;
        let mut id = 0;
        let mut publish = async |times: u16| -> Result<()> {
            for _ in 0..times {
                id += 1;
                writer.publish_whole(&Publish::new("open/t", b"21.5").qos(1, id)).await?;
            }
            Ok(())
        };
        // Telemetry: only counted, until a rule wants it.
        publish(5).await?;
        std::fs::write(&ruled.file, RECORD_OPEN)?;
        stage.site.gateway()?.child.hang_up();
        ruled.reloaded("ok", 1).await?;
        publish(7).await?;
        let published = |wanted: u64| {
            move |records: &[Record]| {
                counts(records, publisher).get(&Kind::Published) >= Some(&wanted)
            }
        };
        let (_, records) = exported(stage, published(7)).await?;
        assert_eq!(counts(&records, publisher)[&Kind::Published], 7);

        let wrong = RECORD_OPEN.replace("branches = [\"open\"]", "branches = [\"open/#\"]");
        std::fs::write(&ruled.file, wrong)?;
        ruled.reloaded("refused", 1).await?;
        let log = stage.site.gateway()?.child.log();
        ensure!(log.contains("stay as they were") && log.contains("rules.toml:4:13"), "{log}");
        publish(4).await?;
        let series = "flytrap_rules_total{rule=\"all of it\"} 11";
        until("the old rules to hold", || async {
            let (_, body) = stage.site.gateway()?.ask("metrics").await?;
            Ok(body.lines().any(|line| line == series).then_some(()))
        })
        .await?;
        assert_eq!(ruled.reloads("refused").await?, 1, "told once");

        // Another file in its place, as editors and Kubernetes do it, and no signal.
        let next = ruled.file.with_extension("new");
        std::fs::write(&next, RECORD_NOTHING)?;
        let before = ruled.reloads("ok").await?;
        std::fs::rename(&next, &ruled.file)?;
        ruled.reloaded("ok", before + 1).await?;
        let changed = |records: &[Record]| of_kind(records, Kind::RulesChanged).len() >= 2;
        let (_, records) = exported(stage, changed).await?;
        assert_eq!(counts(&records, publisher)[&Kind::Published], 11);
        let told: Vec<&str> =
            of_kind(&records, Kind::RulesChanged).iter().map(|r| r.rule.as_str()).collect();
        let hash = |text: &str| hex::encode(alloy_primitives::keccak256(text));
        assert_eq!(told, [hash(RECORD_OPEN), hash(RECORD_NOTHING)]);
        assert_eq!(of_kind(&records, Kind::Started)[0].rule, hash(RECORD_NOTHING));
        Ok(())
    })
}

/// `check-config` says what each rule does, and what it keeps from the auditor.
#[test]
fn check_config_explains_each_rule_and_notes_what_is_kept_from_the_record() -> Result<()> {
    run(async {
        let quiet = "[[rule]]\nname = \"quiet\"\non = [\"delivered\"]\nthen = [\"count\"]\n";
        let ruled = Ruled::new(quiet).await?;
        let config = &ruled.stage.site.gateway()?.config;
        let checked = Command::new(program()).arg("check-config").arg(config).output()?;
        let text = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(checked.status.success(), "a note is no error: {text}");
        for line in [
            "ok    audit rule \"quiet\": each delivered is only counted",
            "ok    built-in audit rule \"sensitive topics\": each published, delivered on a sensitive topic is recorded",
            "NOTE  rule \"quiet\" keeps accesses to sensitive topics out of the record",
        ] {
            ensure!(text.contains(line), "{line} is not in\n{text}");
        }
        let log = ruled.stage.site.gateway()?.child.log();
        ensure!(log.contains("keeps accesses to sensitive topics out of the record"), "{log}");
        Ok(())
    })
}

/// W79: what is not to be kept goes while the gateway runs, in small steps, and what is left verifies: of refusals the proof that they
/// were there, of old intervals nothing.
#[test]
fn what_is_past_its_retention_goes_and_what_is_left_verifies() -> Result<()> {
    run(async {
        let kept = "[audit.retention]\nall = \"12s\"\nrefusals = \"3s\"\n";
        let stage = Stage::configured(kept).await?;
        stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
        stage.caught_up().await?;
        let mut client = stage.session(Way::plain(V5), &stage.stranger("curious")?).await?;
        refused_publish(&mut client, "closed/t").await?;
        let refused = |records: &[Record]| !of_kind(records, Kind::PublishRefused).is_empty();
        let (file, _) = exported(&stage, refused).await?;
        let look = || async {
            // Age counts by the earlier of both clocks. The chain's stands still while nothing happens there, and must not run ahead:
            // what is recorded has the later one.
            if stage.site.chain.time().await? < flytrap_site::unix_now() {
                stage.site.chain.mine(1).await?;
            }
            export(&stage, &file)?;
            let checked = check(&std::fs::read_to_string(&file)?, &anchors(&stage).await?)?;
            ensure!(checked.removed == 0 || checked.sequences.is_some_and(|(first, _)| first == 1));
            Ok((checked.removed == 1).then_some(()))
        };
        until("the refusal to be empty", look).await?;
        let text = std::fs::read_to_string(&file)?;
        let stranger = format!("{:#x}", stage.site.wallets.stranger.address());
        ensure!(!text.to_lowercase().contains(&stranger), "{text}");

        // The newest interval stays until there is another, so something has to happen.
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            ensure!(Instant::now() < deadline, "the first intervals are still there");
            refused_publish(&mut client, "closed/t").await?;
            export(&stage, &file)?;
            let checked = check(&std::fs::read_to_string(&file)?, &anchors(&stage).await?)?;
            if checked.sequences.is_some_and(|(first, _)| first > 2) {
                break;
            }
            // As an interval of the site's gateway.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let (_, body) = stage.site.gateway()?.ask("metrics").await?;
        ensure!(body.contains("flytrap_records_removed_total"), "{body}");
        Ok(())
    })
}
