//! Tokens that count once: ACCEPTANCE W21; THREATS A01, A02.

use crate::common::proofs::{METHOD, data_of, in_properties, one_shot};
use crate::common::raw::{Connect, Got, auth};
use crate::common::{FAR, PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, Way, run};
use eyre::{Result, ensure};
use tokio::task::JoinSet;

const ONCE: &str = "[authentication]\nsingle_use_tokens = true\n[limits]\nfailures = 1000\n[broker]\nprobe_interval = \"1h\"";

async fn start() -> Result<Stage> {
    let stage = Stage::configured(ONCE).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

/// A captured CONNECT, octet by octet, right away and after the victim has left.
#[test]
fn a_captured_token_is_refused_the_second_time_in_whatever_place() -> Result<()> {
    run(async {
        let stage = start().await?;
        for way in Way::ALL {
            let login = stage.stranger(&format!("once-{}", way.word()))?;
            let connect = Connect::of(way.version, &login);
            let mut victim = stage.session_of(way, &connect).await?;
            victim.ping().await?;
            let before = stage.site.recorder()?.connections().0;
            let code = if way.version == V5 { 0x86 } else { 4 };
            for _ in 0..2 {
                let mut thief = stage.dial(way).await?;
                assert_eq!(thief.connect(&connect).await?, code, "{way:?}");
            }
            if way.version == V5 {
                for connect in [in_properties(&login), one_shot(&login)] {
                    let mut thief = stage.dial(way).await?;
                    assert_eq!(thief.connect(&connect).await?, code, "{way:?}");
                }
            }
            // She is not taken over: the broker never heard of the thief.
            assert_eq!(victim.ping().await?, []);
            assert_eq!(stage.site.recorder()?.connections().0, before, "{way:?}");
            drop(victim);
            let mut thief = stage.dial(way).await?;
            assert_eq!(thief.connect(&connect).await?, code, "{way:?}: after she left");
        }
        Ok(())
    })
}

#[test]
fn a_used_token_stays_used_over_a_kill_of_the_gateway() -> Result<()> {
    run(async {
        let mut stage = start().await?;
        let used = Connect::of(V5, &stage.stranger("killed")?);
        let unused = Connect::of(V5, &stage.publisher("killed")?);
        // The very moment that it was accepted.
        stage.session_of(Way::tls(V5), &used).await?;
        stage.site.gateway_mut()?.child.kill();
        stage.site.gateway_mut()?.restart().await?;
        let mut thief = stage.dial(Way::tls(V5)).await?;
        assert_eq!(thief.connect(&used).await?, 0x86);
        let mut other = stage.dial(Way::tls(V5)).await?;
        assert_eq!(other.connect(&unused).await?, 0, "a token that was not used");
        Ok(())
    })
}

#[test]
fn of_twenty_uses_at_once_one_opens_a_session() -> Result<()> {
    run(async {
        let stage = start().await?;
        let connect = Connect::of(V311, &stage.stranger("at-once")?);
        let mut clients = JoinSet::new();
        for _ in 0..20 {
            let (mut client, connect) = (stage.dial(Way::plain(V311)).await?, connect.clone());
            clients.spawn(async move { (client.connect(&connect).await, client) });
        }
        let (mut accepted, mut refused, mut kept) = (0, 0, Vec::new());
        while let Some(done) = clients.join_next().await {
            let (code, client) = done?;
            match code? {
                0 => accepted += 1,
                4 => refused += 1,
                other => eyre::bail!("{other:#04x}"),
            }
            kept.push(client);
        }
        assert_eq!((accepted, refused), (1, 19));
        let connects = stage.site.recorder()?.connects();
        let seen = connects.iter().filter(|connect| connect.client_id.ends_with("-at-once"));
        assert_eq!(seen.count(), 1, "sessions at the broker");
        Ok(())
    })
}

#[test]
fn a_renewal_uses_its_token_as_well() -> Result<()> {
    run(async {
        let stage = start().await?;
        let id = "renewing";
        let first = stage.stranger(id)?;
        // Another second, another token.
        let second = stage.site.token_of_life(&stage.site.wallets.stranger, id, 7_200)?;
        let mut client = stage.dial(Way::tls(V5)).await?;
        assert_eq!(client.connect(&one_shot(&first)).await?, 0);
        client.send(auth(0x19, METHOD, Some(&data_of(&second)))).await?;
        ensure!(matches!(client.get().await?, Got::Auth { code: 0, .. }));
        let mut thief = stage.dial(Way::tls(V5)).await?;
        assert_eq!(thief.connect(&one_shot(&second)).await?, 0x86);
        let mut other = stage.dial(Way::tls(V5)).await?;
        let third = stage.site.token_of_life(&stage.site.wallets.stranger, id, 7_300)?;
        assert_eq!(other.connect(&one_shot(&third)).await?, 0);
        other.send(auth(0x19, METHOD, Some(&data_of(&first)))).await?;
        let ended = other.ended(PATIENCE).await?;
        ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");
        Ok(())
    })
}

/// They are for devices that cannot be given anything new; their key's end on chain ends them.
#[test]
fn device_passwords_count_more_than_once() -> Result<()> {
    run(async {
        let stage = start().await?;
        let owner = stage.site.wallets.spare[0].address();
        let device = stage.device(owner, 9, "again", FAR).await?;
        stage.caught_up().await?;
        for _ in 0..3 {
            stage.session(Way::tls(V311), &device.login).await?.ping().await?;
        }
        Ok(())
    })
}

#[test]
fn where_tokens_may_be_used_again_they_may() -> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let login = stage.stranger("again")?;
        for _ in 0..3 {
            stage.session(Way::tls(V5), &login).await?.ping().await?;
        }
        ensure!(!stage.site.dir().join("gateway-state/used-tokens.sqlite").exists());
        Ok(())
    })
}
