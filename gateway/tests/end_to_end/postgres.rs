//! Records in PostgreSQL: several gateways, one history, and a server that is away, killed and back (issue 6, F09; the table in
//! `docs/operations.md`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::Address;
use eyre::{Result, ensure, eyre};
use flytrap_chain::bindings::IAuditLog::Anchored;
use flytrap_record::export::{Anchor, Checked};
use flytrap_record::{Kind, Record};
use flytrap_site::{Gateway, Postgres};
use toml::Table;

use crate::common::process::program;
use crate::common::raw::{Connect, Raw};
use crate::common::{PATIENCE, Stage, V5, Way, http, run, until, watch_log};
use crate::record::{check, counts, publish_times as publish, records, ward};

/// A database of its own, and the configuration of gateways that use it.
pub(super) fn database(server: &Postgres) -> Result<String> {
    let (url, password) = (server.create("records")?, server.password_file()?);
    Ok(format!(
        "[audit]\ninterval = \"1s\"\n[audit.database]\nurl = \"{url}\"\npassword_file = \"{}\"\n",
        password.display()
    ))
}

/// A site whose gateway keeps its records there.
async fn stage(server: &Postgres) -> Result<Stage> {
    ward(&database(server)?).await
}

/// Exports until that gateway's file has so many messages of the publisher, and checks it against the chain.
async fn verified(
    stage: &Stage,
    config: &Path,
    gateway: Address,
    wanted: u64,
) -> Result<(Checked, Vec<Record>)> {
    let publisher = stage.site.wallets.publisher.address();
    let file = stage.site.dir().join(format!("{gateway}.jsonl"));
    let look = || async {
        export(config, &file)?;
        let found = records(&file)?;
        let published = counts(&found, publisher).get(&Kind::Published).copied();
        Ok((published >= Some(wanted)).then_some(found))
    };
    let found = until("the records to be anchored", look).await?;
    assert_eq!(counts(&found, publisher)[&Kind::Published], wanted);
    let mut anchors = BTreeMap::new();
    for log in stage.logs("Anchored(uint256,address,uint64,bytes32,bytes32,uint64)").await? {
        let event = log.read::<Anchored>()?;
        if event.gateway == gateway {
            let anchor = Anchor { root: event.root, previous: event.previous, count: event.count };
            ensure!(anchors.insert(event.sequence, anchor).is_none(), "{} twice", event.sequence);
        }
    }
    let checked = check(&std::fs::read_to_string(&file)?, &anchors)?;
    assert_eq!(checked.head.gateway, gateway);
    Ok((checked, found))
}

fn export(config: &Path, file: &PathBuf) -> Result<()> {
    let mut command = Command::new(program());
    let done = command.arg("export").arg("--config").arg(config).arg("--out").arg(file).output()?;
    ensure!(done.status.success(), "export: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

async fn session(gateway: &Gateway, stage: &Stage, client_id: &str) -> Result<Raw> {
    let mut client = Raw::plain(V5, gateway.listener("mqtt")?).await?;
    let code = client.connect(&Connect::of(V5, &stage.publisher(client_id)?)).await?;
    ensure!(code == 0, "{client_id} was refused with {code:#04x}");
    Ok(client)
}

async fn waits(gateway: &Gateway, wanted: bool) -> Result<()> {
    let look = || async {
        let waiting = http::metric(gateway.health(), "flytrap_records_waiting").await?;
        Ok(((waiting > 0.0) == wanted).then_some(()))
    };
    until("records to wait, or not to", look).await
}

#[test]
fn two_gateways_record_into_one_database_and_each_ones_export_verifies() -> Result<()> {
    run(async {
        let server = Postgres::start()?;
        let stage = stage(&server).await?;
        let site = &stage.site;
        let (own, other) = (site.wallets.gateway.address(), site.wallets.other_gateway.address());
        let owner = site.wallet(&site.wallets.broker_owner).await?;
        owner.set_gateway(site.broker_id, other, "mqtts://second.example").await?;
        let second = site.start_gateway("second", &site.wallets.other_gateway, "").await?;
        watch_log(site.dir().join("second.log"))?;
        let mut here = stage.session(Way::plain(V5), &stage.publisher("here")?).await?;
        let mut there = session(&second, &stage, "there").await?;
        publish(&mut here, "hospital/w1/hr/7", 7).await?;
        publish(&mut there, "hospital/w1/hr/7", 11).await?;
        let (of_own, found) = verified(&stage, &site.gateway()?.config, own, 7).await?;
        assert_eq!(of_own.records, u64::try_from(found.len())?);
        verified(&stage, &second.config, other, 11).await?;
        assert_eq!(
            server.sql("records", "SELECT count(DISTINCT gateway) FROM flytrap.record")?,
            "2"
        );
        let state: Table = std::fs::read_to_string(&second.config)?.parse()?;
        let state = state["state_dir"].as_str().ok_or_else(|| eyre!("no state_dir"))?;
        for file in std::fs::read_dir(state)?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            ensure!(!name.starts_with("records-"), "{name} beside the database");
        }

        // The same key, another state directory: another process of the same gateway.
        let mut double = stage.spawn_gateway("double", |_| {})?;
        let ended = double.child.wait(2 * PATIENCE).await?;
        let log = double.child.log();
        ensure!(!ended.success() && log.contains("written by another process"), "{log}");
        ensure!(!log.contains(server.password()), "the password is in the log");

        // What is personal is erased at the gateway that is asked, as in a file.
        let erase = |gateway: &Gateway| -> Result<String> {
            let wallet = site.wallets.publisher.address().to_string();
            let mut command = Command::new(program());
            command.arg("erase").arg("--config").arg(&gateway.config).arg(wallet);
            let output = command.output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let keys = || server.sql("records", "SELECT count(*) FROM flytrap.subject");
        let before: u64 = keys()?.parse()?;
        ensure!(erase(&second)?.contains("Erased"));
        ensure!(erase(&second)?.contains("nothing to erase"));
        assert_eq!(keys()?.parse::<u64>()?, before - 1);
        verified(&stage, &second.config, other, 11).await?;
        Ok(())
    })
}

/// SIGKILL to the server while messages go through, three times: sessions on sensitive topics wait at worst, others do not, and in the end everything is
/// there once.
#[test]
fn a_database_that_is_killed_under_load_loses_no_record_and_gets_none_twice() -> Result<()> {
    run(async {
        let mut server = Postgres::start()?;
        let stage = stage(&server).await?;
        let gateway = stage.site.gateway()?;
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        let mut plain = stage.session(Way::plain(V5), &stage.stranger("plain")?).await?;
        let mut sent: u64 = 0;
        for round in 0..3_u16 {
            publish(&mut writer, "hospital/w1/hr/7", 20).await?;
            server.kill();
            publish(&mut writer, "hospital/w1/hr/7", 5 + round).await?;
            waits(gateway, true).await?;
            publish(&mut plain, "open/t", 20).await?;
            let log = gateway.child.log();
            ensure!(log.contains("records cannot be written"), "{log}");
            tokio::task::block_in_place(|| server.restart())?;
            waits(gateway, false).await?;
            sent += u64::from(25 + round);
        }
        let own = stage.site.wallets.gateway.address();
        let (checked, found) = verified(&stage, &gateway.config, own, sent).await?;
        assert_eq!(checked.records, u64::try_from(found.len())?);
        ensure!(!gateway.child.log().contains(server.password()), "the password is in the log");
        Ok(())
    })
}

#[test]
fn without_its_database_a_gateway_does_not_start_and_says_which_it_misses() -> Result<()> {
    run(async {
        let mut server = Postgres::start()?;
        let mut stage = stage(&server).await?;
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish(&mut writer, "hospital/w1/hr/7", 3).await?;
        let own = stage.site.wallets.gateway.address();
        let config = stage.site.gateway()?.config.clone();
        verified(&stage, &config, own, 3).await?;
        stage.site.gateway_mut()?.child.stop(PATIENCE).await?;

        server.kill();
        let mut away = stage.launch("away", &config)?;
        let ended = away.wait(2 * PATIENCE).await?;
        let log = away.log();
        let named = format!("PostgreSQL database \\\"records\\\" at 127.0.0.1:{}", server.port());
        ensure!(!ended.success() && log.contains("no connection"), "{log}");
        ensure!(log.contains(&named) || log.contains(&named.replace('\\', "")), "{log}");

        // One that comes while the gateway waits for it is taken.
        let mut waiting = stage.launch("waiting", &config)?;
        let cannot = |log: &str| log.contains("cannot be opened yet").then_some(());
        waiting.until_logged("its first try", PATIENCE, cannot).await?;
        tokio::task::block_in_place(|| server.restart())?;
        let listens = |log: &str| log.contains("listening on").then_some(());
        waiting.until_logged("its listeners", PATIENCE, listens).await?;
        Ok(())
    })
}
