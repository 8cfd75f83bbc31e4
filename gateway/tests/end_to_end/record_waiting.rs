//! Sessions that wait for the record: what they still hear, and what is said of what never got there (SECURITY.md, `docs/operations.md`).

use std::path::Path;
use std::time::{Duration, Instant};

use eyre::{Result, ensure, eyre};
use flytrap_record::{Kind, Record};
use flytrap_site::{Packet, unix_now};
use futures::future::try_join_all;

use crate::common::raw::{Connect, Got, PINGREQ, Publish, Raw, Will};
use crate::common::{BOUND, CLOSED, PATIENCE, RETAIN, Right, Stage, V5, Way, http, run, until};
use crate::record::{SENSITIVE, counts, exported};

/// Sessions whose records fill what may wait for the disk: 1,024 in line, the few that the writer holds already, and some that find no room.
const FILLING: usize = 1_300;
const WARD: &str = "hospital/w1/hr";
const NAME: &str = "hospital/w1/hr/7";
const CONFIG: &str = "[audit]\ninterval = \"1s\"\n[limits]\ndrain = \"2s\"\n";

/// What keeps the gateway from writing records for as long as it lives. Before, everything is in an anchored interval: what is written next is
/// then the first of what comes, and not an interval for which the writer waits while more gathers than it takes at once.
async fn holder(stage: &Stage) -> Result<rusqlite::Connection> {
    exported(stage, |records| !records.is_empty()).await?;
    let table = stage.config()?;
    let state = table["state_dir"].as_str().ok_or_else(|| eyre!("no state_dir"))?;
    let gateway = stage.site.wallets.gateway.address();
    let file = Path::new(state).join(format!("records-{gateway:#x}.sqlite"));
    let holder = rusqlite::Connection::open(&file)?;
    holder.busy_timeout(PATIENCE)?;
    holder.execute_batch("BEGIN IMMEDIATE")?;
    Ok(holder)
}

/// The publisher's sessions publish once each and leave, until there is no room for records any more.
async fn fill(stage: &Stage) -> Result<()> {
    for from in (0..FILLING).step_by(20) {
        try_join_all((from..from + 20).map(|n| publish_and_leave(stage, n))).await?;
    }
    Ok(())
}

async fn publish_and_leave(stage: &Stage, n: usize) -> Result<()> {
    let login = stage.publisher(&format!("filling-{n}"))?;
    let mut client = stage.session(Way::plain(V5), &login).await?;
    client.publish_whole(&Publish::new(NAME, b"x").qos(1, 1)).await?;
    client.send([0xE0, 0]).await?;
    client.ended(PATIENCE).await?;
    Ok(())
}

/// A session with a will on what it publishes to.
async fn session(stage: &Stage, key: &flytrap_chain::keys::Key, client_id: &str) -> Result<Raw> {
    let login = stage.site.token(key, client_id)?;
    let will = Will { topic: NAME.into(), payload: client_id.into(), qos: 1, retain: false };
    let connect = Connect { will: Some(will), ..Connect::of(V5, &login) };
    stage.session_of(Way::plain(V5), &connect).await
}

/// Publishes, until that waits for the record and nothing of it is read any more.
async fn waits(client: &mut Raw) -> Result<()> {
    client.publish_whole(&Publish::new(NAME, b"counted").qos(1, 1)).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        client.send(PINGREQ).await?;
        if client.next(Duration::from_secs(3)).await.is_err() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it does not wait");
    }
}

/// When the broker was told of the orderly end of the session with this client id.
fn left(stage: &Stage, client_id: &str) -> Option<Instant> {
    let seen = stage.seen_of(client_id).ok()?;
    let goodbye = |packet: &Packet| matches!(packet, Packet::Other { kind: 14, .. });
    seen.iter().find(|seen| goodbye(&seen.packet)).map(|seen| seen.at)
}

/// While nothing can be recorded, sessions that wait for it end by a ban, a revocation and the end of a grant as any other: at once, with their will taken back,
/// and without a word of what they said meanwhile.
#[test]
fn who_waits_for_the_record_hears_of_bans_revocations_and_the_end_of_a_grant() -> Result<()> {
    run(async {
        let stage = Stage::configured(CONFIG).await?;
        let wallets = &stage.site.wallets;
        let topic = stage.topic_with(WARD, SENSITIVE, CLOSED, CLOSED).await?;
        let aside = stage.topic_with("aside", RETAIN, CLOSED, CLOSED).await?;
        let spy = stage.site.spy("#").await?;
        let [banned, revoked] = &wallets.spare;
        let (reader, ending) = (&wallets.reader, &wallets.stranger);
        for key in [&wallets.publisher, banned, revoked, reader] {
            stage.grant(&topic, key.address(), Right::Publish).await?;
        }
        stage.grant(&aside, reader.address(), Right::Subscribe).await?;
        stage.caught_up().await?;
        let holder = holder(&stage).await?;
        fill(&stage).await?;

        let end = stage.site.chain.time().await? + 1_800;
        stage.grant_until(&topic, ending.address(), Right::Publish, end).await?;
        stage.caught_up().await?;
        let mut sessions = Vec::new();
        for (key, id) in
            [(banned, "banned"), (revoked, "revoked"), (reader, "reading"), (ending, "ending")]
        {
            sessions.push((session(&stage, key, id).await?, id));
        }
        assert_eq!(sessions[2].0.subscribe(&[("aside/#", 0)]).await?, [0]);
        for (client, id) in &mut sessions {
            waits(client).await?;
            let late = format!("late of {id}");
            client.publish(&Publish::new(NAME, late.as_bytes()).qos(1, 2)).await?;
        }
        ensure!(sessions.iter().all(|(_, id)| left(&stage, id).is_none()), "one has ended");

        // A filter is taken back although its session goes on waiting.
        stage.revoke(&aside, reader.address(), Right::Subscribe).await?;
        stage.ban_wallet(banned.address(), unix_now() + 600).await?;
        stage.revoke(&topic, revoked.address(), Right::Publish).await?;
        stage.caught_up().await?;
        let seen = Instant::now();
        let recorder = stage.site.recorder()?;
        recorder.until(PATIENCE, |broker| broker.saw_unsubscribe("aside/#")).await?;
        for (at, code) in [(0, 0x98), (1, 0x87), (3, 0x87)] {
            let (client, id) = &mut sessions[at];
            if at == 3 {
                ensure!(left(&stage, id).is_none(), "it has ended before its grant");
                stage.site.chain.pass(1_801).await?;
            }
            recorder.until(PATIENCE, |_| left(&stage, id).is_some()).await?;
            let told = client.ended(PATIENCE).await?;
            ensure!(
                matches!(told.last(), Some(Got::Disconnect { code: found, .. }) if *found == code),
                "{id}: {told:?}"
            );
            // The disk is not waited for, which answers that it is busy every five seconds.
            let after = left(&stage, id).map(|at| at.saturating_duration_since(seen));
            ensure!(at == 3 || after < Some(4 * BOUND), "{id}: {after:?}");
        }

        // Who has its right still goes on when there is room, with what it said meanwhile.
        holder.execute_batch("ROLLBACK")?;
        let (reading, _) = &mut sessions[2];
        spy.until(PATIENCE, |heard| heard.payload == b"late of reading").await?;
        reading.ping().await?;
        for id in ["banned", "revoked", "ending"] {
            let late = format!("late of {id}");
            ensure!(!spy.heard().iter().any(|heard| heard.payload == late.as_bytes()), "{late}");
            ensure!(!spy.heard().iter().any(|heard| heard.payload == id.as_bytes()), "will {id}");
        }
        // Nothing that went through is missing.
        let filling = wallets.publisher.address();
        let whole = |records: &[Record]| {
            counts(records, filling).get(&Kind::Published) >= Some(&(FILLING as u64))
                && counts(records, reader.address()).get(&Kind::Published) >= Some(&2)
        };
        let (_, records) = exported(&stage, whole).await?;
        assert_eq!(counts(&records, filling)[&Kind::Published], FILLING as u64);
        assert_eq!(counts(&records, reader.address())[&Kind::Published], 2);
        for key in [banned, revoked, ending] {
            assert_eq!(counts(&records, key.address())[&Kind::Published], 1);
        }
        Ok(())
    })
}

/// A gateway that is stopped while nothing can be recorded says how much is lost, of sessions too that were waiting; and that is what is missing afterwards.
#[test]
fn what_is_not_written_when_a_stop_has_no_more_time_is_counted_and_said() -> Result<()> {
    run(async {
        let mut stage = Stage::configured(CONFIG).await?;
        let topic = stage.topic_with(WARD, SENSITIVE, CLOSED, CLOSED).await?;
        let publisher = stage.site.wallets.publisher.address();
        stage.grant(&topic, publisher, Right::Publish).await?;
        stage.caught_up().await?;
        let health = stage.site.gateway()?.health();
        let written = || async {
            let written = http::metric(health, "flytrap_records_total").await?;
            Ok((written > 0.0).then_some(()))
        };
        until("the start to be recorded", written).await?;
        let holder = holder(&stage).await?;
        fill(&stage).await?;
        let mut waiting = session(&stage, &stage.site.wallets.publisher, "waiting").await?;
        waits(&mut waiting).await?;
        let mut stranger = stage.session(Way::plain(V5), &stage.stranger("curious")?).await?;
        for n in 0..3 {
            stranger.publish(&Publish::new(NAME, b"x").qos(0, n)).await?;
        }
        stranger.ping().await?;

        let child = &mut stage.site.gateway_mut()?.child;
        child.terminate();
        let told = |log: &str| {
            let line = log.lines().find(|line| line.contains("has not written these records"))?;
            serde_json::from_str::<serde_json::Value>(line).ok()
        };
        let lost = child.until_logged("what is lost", PATIENCE, told).await?;
        let ended = child.wait(PATIENCE).await?;
        ensure!(ended.success(), "{ended}");
        assert_eq!(lost["accesses"], FILLING as u64 + 1, "{lost}");
        assert_eq!(lost["refusals"], 1, "three equal ones are one record: {lost}");
        assert_eq!(lost["level"], "ERROR", "{lost}");

        holder.execute_batch("ROLLBACK")?;
        drop(holder);
        stage.site.gateway_mut()?.restart().await?;
        let starts = |records: &[Record]| {
            records.iter().filter(|record| record.kind == Kind::Started).count() == 2
        };
        let (_, records) = exported(&stage, starts).await?;
        assert_eq!(counts(&records, publisher).get(&Kind::Published), None);
        Ok(())
    })
}
