//! What becomes of records when their disk is full, read-only, or their file is taken away (F09; the table in `docs/operations.md`).

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use alloy_primitives::Address;
use eyre::{Result, ensure};
use flytrap_record::{Kind, Record};
use flytrap_site::unix_now;

use crate::common::process::program;
use crate::common::{PATIENCE, Stage, V5, Way, http, run, until};
use crate::record::{anchors, check, counts, exported, publish_times as publish, ward};

/// A small disk of its own.
struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount.
    fn new(name: &str, size: &str) -> Result<Option<Self>> {
        let path = std::env::temp_dir().join(format!(
            "flytrap-{name}-{}-{}",
            std::process::id(),
            unix_now()
        ));
        fs::create_dir_all(&path)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path);
        if mount.output().is_ok_and(|done| done.status.success()) {
            return Ok(Some(Self(path)));
        }
        fs::remove_dir(&path)?;
        eprintln!("not tried: a small disk takes the right to mount one");
        Ok(None)
    }

    fn remount(&self, how: &str) -> Result<()> {
        let done =
            Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
        let _ = fs::remove_dir(&self.0);
    }
}

/// A site whose gateway keeps its state there.
async fn stage(state: &Path) -> Result<Stage> {
    ward(&format!("state_dir = \"{}\"\n", state.display())).await
}

async fn waits(stage: &Stage, wanted: bool) -> Result<()> {
    let health = stage.site.gateway()?.health();
    let look = || async {
        let waiting = http::metric(health, "flytrap_records_waiting").await?;
        Ok(((waiting > 0.0) == wanted).then_some(()))
    };
    until("records to wait, or not to", look).await
}

async fn all_there(stage: &Stage, publisher: Address, wanted: u64) -> Result<()> {
    let all =
        |records: &[Record]| counts(records, publisher).get(&Kind::Published) >= Some(&wanted);
    let (file, records) = exported(stage, all).await?;
    assert_eq!(counts(&records, publisher)[&Kind::Published], wanted);
    check(&fs::read_to_string(file)?, &anchors(stage).await?)?;
    Ok(())
}

#[test]
fn on_a_full_disk_records_wait_and_nothing_is_lost_when_there_is_room_again() -> Result<()> {
    run(async {
        let Some(disk) = Disk::new("full", "24m")? else { return Ok(()) };
        let stage = stage(&disk.0.join("state")).await?;
        let publisher = stage.site.wallets.publisher.address();
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish(&mut writer, "hospital/w1/hr/7", 3).await?;
        all_there(&stage, publisher, 3).await?;

        let filler = disk.0.join("filler");
        let mut file = File::create(&filler)?;
        while file.write_all(&[1; 4_096]).is_ok() {}
        publish(&mut writer, "hospital/w1/hr/7", 4).await?;
        waits(&stage, true).await?;
        let mut plain = stage.session(Way::plain(V5), &stage.stranger("plain")?).await?;
        publish(&mut plain, "open/t", 20).await?;
        let log = stage.site.gateway()?.child.log();
        ensure!(log.contains("records cannot be written"), "{log}");

        drop(file);
        fs::remove_file(&filler)?;
        waits(&stage, false).await?;
        publish(&mut writer, "hospital/w1/hr/7", 5).await?;
        all_there(&stage, publisher, 12).await
    })
}

#[test]
fn on_a_read_only_disk_the_gateway_does_not_start_and_says_why() -> Result<()> {
    run(async {
        let Some(disk) = Disk::new("read-only", "24m")? else { return Ok(()) };
        let mut stage = stage(&disk.0.join("state")).await?;
        let publisher = stage.site.wallets.publisher.address();
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish(&mut writer, "hospital/w1/hr/7", 3).await?;
        all_there(&stage, publisher, 3).await?;
        let config = stage.site.gateway()?.config.clone();
        stage.site.gateway_mut()?.child.kill();
        disk.remount("ro")?;
        let output = tokio::process::Command::new(program())
            .arg("run")
            .arg("--config")
            .arg(&config)
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await??;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && told.contains("state_dir") && told.contains("Read-only"),
            "{told}"
        );
        disk.remount("rw")?;
        stage.site.gateway_mut()?.restart().await?;
        all_there(&stage, publisher, 3).await
    })
}

#[test]
fn a_file_that_is_taken_away_is_missed_at_once_and_what_waited_is_written_when_it_is_back()
-> Result<()> {
    run(async {
        let dir = tempfile::tempdir()?;
        let state = dir.path().join("state");
        let stage = stage(&state).await?;
        let publisher = stage.site.wallets.publisher.address();
        let file =
            state.join(format!("records-{:#x}.sqlite", stage.site.wallets.gateway.address()));
        let away = state.join("away");
        let mut writer = stage.session(Way::plain(V5), &stage.publisher("belt")?).await?;
        publish(&mut writer, "hospital/w1/hr/7", 3).await?;
        all_there(&stage, publisher, 3).await?;
        fs::rename(&file, &away)?;
        publish(&mut writer, "hospital/w1/hr/7", 4).await?;
        waits(&stage, true).await?;
        let log = stage.site.gateway()?.child.log();
        ensure!(log.contains("was removed or replaced"), "{log}");
        fs::rename(&away, &file)?;
        waits(&stage, false).await?;
        publish(&mut writer, "hospital/w1/hr/7", 5).await?;
        all_there(&stage, publisher, 12).await
    })
}
