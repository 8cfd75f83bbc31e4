//! ACCEPTANCE US8, FR5 and W31 to W35: more than five consecutive failed proofs ban the origin, here and on chain.
//!
//! An origin is an address of this machine: 127.0.0.1 attacks, 127.0.0.2 and up are others.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::common::raw::{self, Connect, Raw};
use crate::common::{PATIENCE, Stage, V5, V311, Version, run, until};
use alloy_primitives::B256;
use eyre::{Result, bail, ensure, eyre};
use flytrap_chain::bindings::IBrokerRegistry;
use flytrap_site::{Login, token_between, unix_now};

fn local(last: u8) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(127, 0, 0, last))
}

/// What became of one attempt from 127.0.0.`from`, see [`raw::attempt`].
async fn attempt(
    stage: &Stage,
    from: u8,
    version: Version,
    connect: &Connect,
) -> Result<Option<u8>> {
    raw::attempt(version, local(from), stage.site.mqtt()?, connect).await
}

fn refused(version: Version) -> Option<u8> {
    Some(if version == V5 { 0x86 } else { 4 })
}

/// Six ways to fail, each of another kind.
fn six_failures(stage: &Stage, version: Version) -> Result<Vec<(&'static str, Connect)>> {
    let key = &stage.site.wallets.stranger;
    let of = |login: &Login| Connect::of(version, login);
    let good = stage.stranger("six")?;
    let mut elsewhere = stage.site.place();
    elsewhere.chain_id += 1;
    let now = unix_now();
    let another = stage.reader("six")?;
    Ok(vec![
        ("no proof", Connect { client_id: "six".into(), ..Connect::anonymous() }),
        ("no base64", of(&Login { password: "!".repeat(99), ..good.clone() })),
        ("another key's signature", of(&Login { user_name: good.user_name.clone(), ..another })),
        ("another chain", of(&flytrap_site::token(key, &elsewhere, "six", 600)?)),
        ("expired", of(&token_between(key, &stage.site.place(), "six", now - 100, now)?)),
        ("another client id", of(&stage.wrong_proof("six")?)),
    ])
}

#[test]
fn the_sixth_consecutive_failure_bans_and_the_fifth_does_not_whatever_its_kind() -> Result<()> {
    run(async {
        for version in [V311, V5] {
            let stage = Stage::configured("[limits]\nproof_beats_ban = false").await?;
            let kinds = six_failures(&stage, version)?;
            assert_eq!(kinds.len(), 6);
            for (kind, connect) in &kinds[..5] {
                assert_eq!(
                    attempt(&stage, 1, version, connect).await?,
                    refused(version),
                    "{version:?}: {kind}"
                );
            }
            // Five failures do not ban: a good proof is taken, and sets the count back.
            let good = Connect::of(version, &stage.stranger("good")?);
            assert_eq!(
                attempt(&stage, 1, version, &good).await?,
                Some(0),
                "{version:?}: after five failures"
            );
            for (kind, connect) in &kinds[1..] {
                assert_eq!(
                    attempt(&stage, 1, version, connect).await?,
                    refused(version),
                    "{version:?}: {kind}, second round"
                );
            }
            assert_eq!(
                attempt(&stage, 1, version, &good).await?,
                Some(0),
                "{version:?}: five more after a success"
            );
            ensure!(stage.origin_bans().await?.is_empty(), "{version:?}: banned after five");
            for (kind, connect) in &kinds {
                assert_eq!(
                    attempt(&stage, 1, version, connect).await?,
                    refused(version),
                    "{version:?}: {kind}, third round"
                );
            }
            assert_eq!(
                attempt(&stage, 1, version, &good).await?,
                None,
                "{version:?}: closed unread after the sixth"
            );
            // The other origin is not concerned, nor is it by the ban on chain.
            let other = Connect::of(version, &stage.stranger("other")?);
            assert_eq!(
                attempt(&stage, 2, version, &other).await?,
                Some(0),
                "{version:?}: another origin"
            );
            ensure!(
                !stage
                    .site
                    .recorder()?
                    .connects()
                    .iter()
                    .any(|connect| connect.client_id.ends_with("-six")),
                "the broker saw a failed proof"
            );
        }
        Ok(())
    })
}

#[test]
fn a_ban_is_on_chain_once_as_a_pseudonym_by_the_gateways_key_and_names_no_address() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nproof_beats_ban = false").await?;
        for (_, connect) in &six_failures(&stage, V5)? {
            attempt(&stage, 3, V5, connect).await?;
        }
        let bans = until("the ban on chain", || async {
            Ok(Some(stage.origin_bans().await?).filter(|bans| !bans.is_empty()))
        })
        .await?;
        let [log] = bans.as_slice() else { bail!("wanted one ban, got {bans:?}") };
        let ban: IBrokerRegistry::OriginBanned = log.read()?;
        assert_eq!(ban.by, stage.site.wallets.gateway.address());
        let until_is =
            ban.until.checked_sub(unix_now()).ok_or_else(|| eyre!("the ban is over already"))?;
        ensure!((590..=600).contains(&until_is), "a ban of {until_is} s, wanted about 600");
        ensure!(!ban.origin.is_zero() && !ban.evidence.is_zero(), "{ban:?}");

        // Whatever the gateway wrote on chain: no address as text or in four octets at the end of a word, no proof.
        let (from, input) = stage.transaction(log.tx).await?;
        assert_eq!(from, stage.site.wallets.gateway.address());
        let written = [&input[..], &log.data[..], &log.topics.concat()].concat();
        for wanted in [&b"127.0.0"[..], &[127, 0, 0, 3], b"six"] {
            ensure!(
                !written.windows(wanted.len()).any(|window| window == wanted),
                "{wanted:02x?} is on chain"
            );
        }
        for (kind, connect) in six_failures(&stage, V5)? {
            let Some(password) = connect.password.filter(|password| !password.is_empty()) else {
                continue;
            };
            ensure!(
                !written.windows(password.len()).any(|window| window == password),
                "a proof ({kind}) is on chain"
            );
        }
        // A bare hash of the address would be no pseudonym: anyone could try all of them.
        for guess in [
            &b"127.0.0.3"[..],
            &[127, 0, 0, 3],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 3],
        ] {
            ensure!(
                B256::from(*alloy_primitives::keccak256(guess)) != ban.origin,
                "the pseudonym is a bare hash"
            );
        }
        Ok(())
    })
}

#[test]
fn of_33_parallel_failures_exactly_one_ban_comes() -> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let (mut waiting, address) = (Vec::new(), stage.site.mqtt()?);
        for n in 0..33 {
            let connect = Connect::of(V5, &stage.wrong_proof(&format!("parallel-{n}"))?);
            // All are connected before the first proof is on its way.
            waiting.push((Raw::plain_from(V5, local(4), address).await?, connect));
        }
        let tasks: Vec<_> = waiting
            .into_iter()
            .map(|(mut client, connect)| {
                tokio::spawn(async move {
                    let sent = client.send(connect.octets(V5)).await;
                    if sent.is_err() { Ok(None) } else { client.next(PATIENCE).await }
                })
            })
            .collect();
        let mut looked_at = 0;
        for task in tasks {
            looked_at += usize::from(task.await??.is_some());
        }
        ensure!(looked_at >= 6, "only {looked_at} proofs were looked at, none of the six that ban");
        until("a ban on chain", || async {
            Ok((!stage.origin_bans().await?.is_empty()).then_some(()))
        })
        .await?;
        // Something later by the same queue, so that a second ban would be there: a ban of another origin.
        for (_, connect) in &six_failures(&stage, V311)? {
            attempt(&stage, 5, V311, connect).await?;
        }
        let bans = until("the second origin's ban", || async {
            Ok(Some(stage.origin_bans().await?).filter(|bans| bans.len() >= 2))
        })
        .await?;
        let origins: Vec<B256> = bans.iter().map(|log| log.topics[2]).collect();
        ensure!(bans.len() == 2 && origins[0] != origins[1], "{origins:?}");
        Ok(())
    })
}

#[test]
fn a_ban_ends_by_itself() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nproof_beats_ban = false\nban = \"2s\"").await?;
        let good = Connect::of(V5, &stage.stranger("patient")?);
        for (_, connect) in &six_failures(&stage, V5)? {
            attempt(&stage, 6, V5, connect).await?;
        }
        let banned = std::time::Instant::now();
        assert_eq!(attempt(&stage, 6, V5, &good).await?, None);
        until("the end of the ban", || async {
            Ok(attempt(&stage, 6, V5, &good).await?.filter(|code| *code == 0))
        })
        .await?;
        // The chain counts whole seconds.
        let lasted = banned.elapsed();
        ensure!(
            (Duration::from_millis(1_000)..Duration::from_millis(4_500)).contains(&lasted),
            "a ban of 2 s lasted {lasted:?}"
        );
        Ok(())
    })
}

#[test]
fn a_ban_that_the_broker_owner_lifts_on_chain_ends_at_once() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nproof_beats_ban = false").await?;
        let good = Connect::of(V311, &stage.stranger("lifted")?);
        for (_, connect) in &six_failures(&stage, V311)? {
            attempt(&stage, 7, V311, connect).await?;
        }
        let bans = until("the ban on chain", || async {
            Ok(Some(stage.origin_bans().await?).filter(|bans| !bans.is_empty()))
        })
        .await?;
        stage.caught_up().await?;
        assert_eq!(attempt(&stage, 7, V311, &good).await?, None, "banned");
        stage.unban(true, bans[0].topics[2]).await?;
        stage.caught_up().await?;
        until("the door to open", || async {
            Ok(attempt(&stage, 7, V311, &good).await?.filter(|code| *code == 0))
        })
        .await?;
        Ok(())
    })
}

/// ACCEPTANCE W35: the record on chain is what other gateways, and this one after a restart, go by.
#[test]
fn a_ban_outlives_a_restart_and_holds_at_a_second_gateway_with_the_same_pseudonym_key() -> Result<()>
{
    run(async {
        let mut stage = Stage::configured("[limits]\nproof_beats_ban = false").await?;
        let good = Connect::of(V5, &stage.stranger("twice")?);
        for (_, connect) in &six_failures(&stage, V5)? {
            attempt(&stage, 8, V5, connect).await?;
        }
        until("the ban on chain", || async {
            Ok((!stage.origin_bans().await?.is_empty()).then_some(()))
        })
        .await?;
        stage.site.gateway_mut()?.restart().await?;
        assert_eq!(attempt(&stage, 8, V5, &good).await?, None, "after a restart");
        assert_eq!(attempt(&stage, 9, V5, &good).await?, Some(0), "another origin");

        let state: toml::Table = std::fs::read_to_string(&stage.site.gateway()?.config)?.parse()?;
        let state = state
            .get("state_dir")
            .and_then(toml::Value::as_str)
            .ok_or_else(|| eyre!("no state_dir"))?;
        let key = format!(
            "[audit]\npseudonym_key_file = \"{state}/pseudonym.key\"\n[limits]\nproof_beats_ban = false"
        );
        let second =
            stage.site.start_gateway("second", &stage.site.wallets.other_gateway, &key).await?;
        crate::common::watch_log(stage.site.dir().join("second.log"))?;
        let address = second.listener("mqtt")?;
        assert_eq!(
            raw::attempt(V5, local(8), address, &good).await?,
            None,
            "the second gateway let it in"
        );
        assert_eq!(
            raw::attempt(V5, local(9), address, &good).await?,
            Some(0),
            "another origin there"
        );
        Ok(())
    })
}

/// THREATS A25: honest devices behind the attacker's address, with the default configuration.
#[test]
fn a_valid_proof_beats_the_ban_of_its_origin() -> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let good = Connect::of(V5, &stage.stranger("honest")?);
        for (_, connect) in &six_failures(&stage, V5)? {
            attempt(&stage, 10, V5, connect).await?;
        }
        assert_eq!(
            attempt(&stage, 10, V5, &good).await?,
            None,
            "the attempt right after the ban is closed unread"
        );
        until("the honest device", || async {
            Ok(attempt(&stage, 10, V5, &good).await?.filter(|code| *code == 0))
        })
        .await?;
        Ok(())
    })
}

/// ACCEPTANCE W37, and FR5: a session that is open is untouched by what others do from its address.
#[test]
fn refused_subscribes_do_not_ban_and_an_open_session_outlives_the_ban_of_its_origin() -> Result<()>
{
    run(async {
        let stage = Stage::configured("[limits]\nproof_beats_ban = false").await?;
        let login = stage.stranger("open")?;
        let mut open = Raw::plain_from(V5, local(11), stage.site.mqtt()?).await?;
        assert_eq!(open.connect(&Connect::of(V5, &login)).await?, 0);
        for _ in 0..20 {
            assert_eq!(open.subscribe(&[("not/mine", 0)]).await?, [0x87]);
        }
        assert_eq!(
            attempt(&stage, 11, V5, &Connect::of(V5, &stage.stranger("beside")?)).await?,
            Some(0)
        );
        for (_, connect) in &six_failures(&stage, V5)? {
            attempt(&stage, 11, V5, connect).await?;
        }
        assert_eq!(
            attempt(&stage, 11, V5, &Connect::of(V5, &stage.stranger("late")?)).await?,
            None
        );
        assert_eq!(open.ping().await?, []);
        Ok(())
    })
}
