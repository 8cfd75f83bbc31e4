//! Wallets that are contracts (ERC-1271): ACCEPTANCE W27; THREATS A22, A28, A29, A30.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::common::process::{Process, set};
use crate::common::proofs::{IOwnedWallet, METHOD, NAME, asking, data_of, nonce_in, one_shot};
use crate::common::raw::{Connect, Got, Publish, attempt, auth};
use crate::common::relay::Relay;
use crate::common::{PATIENCE, PUBLIC, RETAIN, Right, Stage, V5, V311, Way, http, run, until};
use alloy_primitives::Address;
use eyre::{Result, bail, ensure};
use flytrap_policy::credential::{Challenge, encode_answer, encode_token, wallet_challenge_digest};
use flytrap_site::{Login, unix_now};
use tokio::sync::OnceCell;
use toml::Value;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

const TAKEN: &str = "[authentication]\ncontract_wallets = true\n[limits]\nfailures = 1000\n[broker]\nprobe_interval = \"1h\"";

async fn stage() -> Result<&'static Stage> {
    let start = || async {
        let stage = Stage::configured(&format!("{TAKEN}\n[gateway]\nname = \"{NAME}\"")).await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        stage.caught_up().await?;
        Ok(stage)
    };
    STAGE.get_or_try_init(start).await
}

fn refused(way: Way) -> u8 {
    if way.version == V5 { 0x86 } else { 4 }
}

#[test]
fn a_contract_wallet_logs_in_by_its_owners_signature_and_its_grants_count() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let owner = &stage.site.wallets.publisher;
        let wallet = stage.contract_wallet("OwnedWallet", Some(owner.address())).await?;
        let topic = stage.topic("contract").await?;
        stage.grant(&topic, wallet, Right::Publish).await?;
        stage.caught_up().await?;
        for way in Way::ALL {
            let id = format!("contract-{}", way.word());
            let login = stage.wallet_token(wallet, owner, &id)?;
            let mut client = stage.session(way, &login).await?;
            client.publish_whole(&Publish::new("contract/x", b"x").qos(1, 1)).await?;
            let wanted = format!("{}-{id}", hex::encode(wallet));
            let connects = stage.site.recorder()?.connects();
            ensure!(connects.iter().any(|connect| connect.client_id == wanted), "{connects:?}");
            ensure!(!stage.site.recorder()?.saw_octets(login.password.as_bytes()));
        }
        // By a longer signature, of which the contract reads the beginning.
        let (from, to) = (unix_now() - 60, unix_now() + 600);
        let digest = flytrap_policy::credential::wallet_token_digest(
            &stage.site.place(),
            wallet,
            "long",
            from,
            to,
        );
        let long = [&owner.sign(&digest)[..], &[7; 130]].concat();
        let password = encode_token(u32::try_from(from)?, u32::try_from(to)?, &long);
        let login = Login { user_name: wallet.to_string(), password, client_id: "long".into() };
        stage.session(Way::tls(V311), &login).await?.ping().await?;
        // By an answer to a challenge.
        let (mut client, nonce) = stage.asked(Way::plain(V5), "asked").await?;
        let asked = Challenge { client_id: "asked", nonce, server: NAME };
        let digest = wallet_challenge_digest(&stage.site.place(), wallet, &asked);
        let answer = encode_answer(wallet, &owner.sign(&digest));
        client.send(auth(0x18, METHOD, Some(&answer))).await?;
        match client.get().await? {
            Got::ConnAck { code: 0, .. } => Ok(()),
            other => bail!("{other:?}"),
        }
    })
}

/// A29: many wallets have one owner, and bind nothing to themselves.
#[test]
fn a_signature_for_one_wallet_opens_no_other_of_the_same_owner_nor_the_owners_account() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        let owner = &stage.site.wallets.reader;
        let one = stage.contract_wallet("OwnedWallet", Some(owner.address())).await?;
        let two = stage.contract_wallet("OwnedWallet", Some(owner.address())).await?;
        for way in Way::ALL {
            let good = stage.wallet_token(one, owner, "replayed")?;
            let as_other = |who: Address| Login { user_name: who.to_string(), ..good.clone() };
            let of_account = stage.reader("replayed")?;
            let of_account_as_wallet = Login { user_name: one.to_string(), ..of_account.clone() };
            for wrong in [as_other(two), as_other(owner.address()), of_account_as_wallet] {
                let mut client = stage.dial(way).await?;
                let code = client.connect(&Connect::of(way.version, &wrong)).await?;
                assert_eq!(code, refused(way), "{way:?} {}", wrong.user_name);
            }
            stage.session(way, &good).await?.ping().await?;
            stage.session(way, &of_account).await?.ping().await?;
        }
        Ok(())
    })
}

#[test]
fn a_wallet_that_was_handed_over_is_its_new_owners() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let (old, new) = (&stage.site.wallets.stranger, &stage.site.wallets.other_reader);
        let wallet = stage.contract_wallet("OwnedWallet", Some(old.address())).await?;
        let (by_old, by_new) =
            (stage.wallet_token(wallet, old, "sold")?, stage.wallet_token(wallet, new, "sold")?);
        let code = async |login: &Login| {
            stage.dial(Way::tls(V5)).await?.connect(&Connect::of(V5, login)).await
        };
        assert_eq!((code(&by_old).await?, code(&by_new).await?), (0, 0x86));
        let call = IOwnedWallet::handOverCall { to: new.address() };
        let receipt =
            stage.send(old.address(), wallet, alloy_primitives::U256::ZERO, &call).await?;
        ensure!(receipt.ok);
        assert_eq!((code(&by_old).await?, code(&by_new).await?), (0x86, 0));
        Ok(())
    })
}

/// A29: she harms nobody but herself, whatever her contract does.
#[test]
fn hostile_contracts_are_refused_in_time_or_open_their_own_session_only() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let eve = &stage.site.wallets.stranger;
        let mut canary = stage.session(Way::tls(V5), &stage.publisher("canary")?).await?;
        for name in ["LoopingWallet", "LongWindedWallet", "RevertingWallet"] {
            let wallet = stage.contract_wallet(name, None).await?;
            for way in Way::ALL {
                let login = stage.wallet_token(wallet, eve, name)?;
                let began = Instant::now();
                let code =
                    stage.dial(way).await?.connect(&Connect::of(way.version, &login)).await?;
                assert_eq!(code, refused(way), "{name} {way:?}");
                ensure!(began.elapsed() < Duration::from_secs(3), "{name}: {:?}", began.elapsed());
            }
            assert_eq!(canary.ping().await?, []);
        }
        // Whoever says yes to all is whoever says so, and nobody else.
        let yes = stage.contract_wallet("YesWallet", None).await?;
        let login = stage.wallet_token(yes, eve, "canary")?;
        let mut session = stage.session(Way::tls(V5), &login).await?;
        assert_eq!(session.subscribe(&[("open/#", 0)]).await?, [0]);
        assert_eq!(canary.ping().await?, [], "nobody else's session was taken over");
        let wanted = format!("{}-canary", hex::encode(yes));
        ensure!(stage.site.recorder()?.connects().iter().any(|c| c.client_id == wanted));
        // What says yes in every second block is asked anew each time. Others make blocks too.
        let fickle = stage.contract_wallet("FickleWallet", None).await?;
        let login = stage.wallet_token(fickle, eve, "fickle")?;
        let mut said = [Vec::new(), Vec::new()];
        while said.iter().any(|codes| codes.len() < 2) {
            let height = stage.site.chain.height().await?;
            let code = stage.dial(Way::tls(V5)).await?.connect(&Connect::of(V5, &login)).await?;
            if stage.site.chain.height().await? == height {
                said[usize::from(height % 2 == 1)].push(code);
            }
            ensure!(said.iter().all(|codes| codes.len() < 20), "{said:02x?}");
            stage.site.chain.mine(1).await?;
        }
        for codes in &mut said {
            codes.dedup();
        }
        said.sort_unstable();
        assert_eq!(said, [[0], [0x86]]);
        Ok(())
    })
}

#[test]
fn an_account_without_code_is_nobodys_contract() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let eve = &stage.site.wallets.stranger;
        for claimed in [stage.site.wallets.publisher.address(), Address::repeat_byte(0xEE)] {
            let login = stage.wallet_token(claimed, eve, "codeless")?;
            let mut client = stage.dial(Way::tls(V5)).await?;
            assert_eq!(client.connect(&Connect::of(V5, &login)).await?, 0x86);
        }
        Ok(())
    })
}

/// A30: EIP-7702 puts code where there is a key.
#[test]
fn a_key_whose_account_got_code_signs_as_before() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let key = &stage.site.wallets.spare[0];
        let reverting = stage.contract_wallet("RevertingWallet", None).await?;
        let code = format!("0xef0100{}", hex::encode(reverting));
        stage.site.chain.call("anvil_setCode", serde_json::json!([key.address(), code])).await?;
        for way in Way::ALL {
            let login = stage.site.token(key, &format!("delegated-{}", way.word()))?;
            stage.session(way, &login).await?.ping().await?;
        }
        Ok(())
    })
}

#[test]
fn a_wallets_session_is_renewed_by_another_signature() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let owner = &stage.site.wallets.publisher;
        let wallet = stage.contract_wallet("OwnedWallet", Some(owner.address())).await?;
        let login = stage.wallet_token(wallet, owner, "renewed")?;
        let mut client = stage.session_of(Way::tls(V5), &one_shot(&login)).await?;
        client.send(auth(0x19, METHOD, Some(&data_of(&login)))).await?;
        ensure!(matches!(client.get().await?, Got::Auth { code: 0, .. }));
        assert_eq!(client.ping().await?, []);
        Ok(())
    })
}

/// A gateway behind a relay that can be shut, and the relay.
async fn behind_a_relay(
    stage: &Stage,
    name: &str,
    contract_wallets: bool,
) -> Result<(Relay, Process)> {
    let relay = Relay::start(([127, 0, 0, 1], stage.site.chain.port()).into(), true).await?;
    let url = format!("http://{}", relay.address());
    let mut gateway = stage.spawn_gateway(name, |table| {
        set(table, "chain", "urls", Value::Array(vec![url.into()]));
        set(table, "chain", "poll", "1s");
        set(table, "authentication", "contract_wallets", contract_wallets);
        set(table, "limits", "failures", 5);
        set(table, "limits", "proof_beats_ban", false);
    })?;
    let health = gateway.health().await?;
    until("readiness", || async {
        Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
    })
    .await?;
    Ok((relay, gateway))
}

/// A22: nobody is banned for a node that is away, and keys need none.
#[test]
fn while_no_node_answers_contract_wallets_are_told_to_come_again_and_nobody_is_blamed() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        let owner = &stage.site.wallets.publisher;
        let wallet = stage.contract_wallet("OwnedWallet", Some(owner.address())).await?;
        let (relay, mut gateway) = behind_a_relay(stage, "away", true).await?;
        let address = gateway.listener("mqtt").await?;
        let from = IpAddr::from(Ipv4Addr::new(127, 0, 8, 1));
        relay.shut();
        for n in 0..8 {
            let (version, wanted) = if n % 2 == 0 { (V5, 0x88) } else { (V311, 3) };
            let login = stage.wallet_token(wallet, owner, &format!("away-{n}"))?;
            let began = Instant::now();
            let code = attempt(version, from, address, &Connect::of(version, &login)).await?;
            assert_eq!(code, Some(wanted), "attempt {n}");
            ensure!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
        let by_key = Connect::of(V5, &stage.stranger("away")?);
        assert_eq!(attempt(V5, from, address, &by_key).await?, Some(0), "a key needs no node");
        relay.open();
        let login = stage.wallet_token(wallet, owner, "back")?;
        let back = Connect::of(V5, &login);
        until("the wallet to be let in", || async {
            Ok((attempt(V5, from, address, &back).await? == Some(0)).then_some(()))
        })
        .await
    })
}

/// A28: by default no claim, however made, causes a question; and where wallets are taken, the ban ends the questions.
#[test]
fn where_contract_wallets_are_not_taken_no_claim_reaches_a_node() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let owner = &stage.site.wallets.publisher;
        let wallet = stage.contract_wallet("YesWallet", None).await?;
        for taken in [false, true] {
            let (relay, mut gateway) =
                behind_a_relay(stage, if taken { "taken" } else { "not-taken" }, taken).await?;
            let (address, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
            let calls = || async {
                let (_, body) = http::get(health, "/metrics").await?;
                let line = body.lines().find(|line| {
                    line.starts_with("flytrap_rpc_requests_total") && line.contains("\"eth_call\"")
                });
                let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
                Ok::<_, eyre::Report>(value.unwrap_or(0.0))
            };
            let before = calls().await?;
            let from = IpAddr::from(Ipv4Addr::new(127, 0, 9, 1 + u8::from(taken)));
            let stranger = Address::repeat_byte(0xE1);
            for n in 0..12 {
                let login = stage.wallet_token(stranger, owner, &format!("claim-{n}"))?;
                let code = attempt(V5, from, address, &Connect::of(V5, &login)).await?;
                assert_eq!(code, if n < 6 { Some(0x86) } else { None }, "{taken} {n}");
            }
            let asked = calls().await? - before;
            assert_eq!(asked, if taken { 6.0 } else { 0.0 }, "{taken}");
            let from = IpAddr::from(Ipv4Addr::new(127, 0, 9, 5 + u8::from(taken)));
            let login = stage.wallet_token(wallet, owner, "yes")?;
            let code = attempt(V5, from, address, &Connect::of(V5, &login)).await?;
            assert_eq!(code, Some(if taken { 0 } else { 0x86 }));
            drop(relay);
        }
        Ok(())
    })
}

/// Whoever has no token may still be challenged; the contract is asked about the nonce.
#[test]
fn an_answer_for_a_wallet_by_another_than_its_owner_is_refused() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let (owner, eve) = (&stage.site.wallets.publisher, &stage.site.wallets.stranger);
        let wallet = stage.contract_wallet("OwnedWallet", Some(owner.address())).await?;
        let mut client = stage.dial(Way::tls(V5)).await?;
        let nonce = nonce_in(&client.connack(&asking("wallet-by-eve")).await?)?;
        let asked = Challenge { client_id: "wallet-by-eve", nonce, server: NAME };
        let digest = wallet_challenge_digest(&stage.site.place(), wallet, &asked);
        let answer = encode_answer(wallet, &eve.sign(&digest));
        client.send(auth(0x18, METHOD, Some(&answer))).await?;
        let ended = client.ended(PATIENCE).await?;
        ensure!(matches!(ended.as_slice(), [Got::ConnAck { code: 0x87, .. }]), "{ended:?}");
        Ok(())
    })
}
