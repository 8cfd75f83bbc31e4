//! `flytrap-gateway records move`: from a file to PostgreSQL, and on as the same chain (issue 6, `docs/operations.md`).

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use eyre::{Result, ensure, eyre};
use flytrap_record::Kind;
use flytrap_site::Postgres;

use crate::common::process::program;
use crate::common::{PATIENCE, V5, Way, run};
use crate::postgres::database;
use crate::record::{anchors, check, counts, exported, publish_times as publish, ward};

fn go(config: &Path) -> Result<Output> {
    let mut command = Command::new(program());
    Ok(command.args(["records", "move", "--config"]).arg(config).output()?)
}

fn refused(config: &Path, wanted: &str) -> Result<()> {
    let output = go(config)?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && told.contains(wanted), "wanted {wanted}, got {told}");
    Ok(())
}

#[test]
fn records_move_from_a_file_to_a_database_and_an_export_of_both_times_verifies() -> Result<()> {
    run(async {
        let server = Postgres::start()?;
        let mut stage = ward("[audit]\ninterval = \"1s\"\n").await?;
        let publisher = stage.site.wallets.publisher.address();
        let gateway = stage.site.wallets.gateway.address();
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish(&mut writer, "hospital/w1/hr/7", 5).await?;
        exported(&stage, |records| counts(records, publisher).get(&Kind::Published) >= Some(&5))
            .await?;

        let config = stage.site.gateway()?.config.clone();
        let in_a_file = fs::read_to_string(&config)?;
        refused(&config, "`audit.database` is not set")?;
        let mut table: toml::Table = in_a_file.parse()?;
        let of_database: toml::Table = database(&server)?.parse()?;
        table.insert("audit".to_owned(), of_database["audit"].clone());
        let state = table["state_dir"].as_str().ok_or_else(|| eyre!("no state_dir"))?;
        let file = Path::new(state).join(format!("records-{gateway:#x}.sqlite"));
        let in_a_database = toml::to_string(&table)?;
        fs::write(&config, &in_a_database)?;
        refused(&config, "in use by another gateway")?;

        drop(writer);
        ensure!(stage.site.gateway_mut()?.child.stop(PATIENCE).await?.success());
        let before = fs::read(&file)?;
        let done = go(&config)?;
        let told = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(done.status.success(), "{told}{}", String::from_utf8_lossy(&done.stderr));
        ensure!(told.contains("read back and checked"), "{told}");
        ensure!(fs::read(&file)? == before, "the file was changed");
        refused(&config, "has records of gateway")?;

        stage.site.gateway_mut()?.restart().await?;
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish(&mut writer, "hospital/w1/hr/7", 7).await?;
        let (export, records) = exported(&stage, |records| {
            counts(records, publisher).get(&Kind::Published) >= Some(&12)
        })
        .await?;
        assert_eq!(counts(&records, publisher)[&Kind::Published], 12);
        assert_eq!(records.iter().map(|record| record.index).min(), Some(1));
        let kinds = |kind| records.iter().filter(|record| record.kind == kind).count();
        assert_eq!((kinds(Kind::Started), kinds(Kind::Stopped)), (2, 1));
        let checked = check(&fs::read_to_string(export)?, &anchors(&stage).await?)?;
        assert_eq!(checked.records, u64::try_from(records.len())?);
        ensure!(fs::read(&file)? == before, "the file is still used");
        ensure!(!told.contains(server.password()), "the password is told");
        Ok(())
    })
}
