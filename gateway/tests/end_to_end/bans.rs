//! DESIGN section 6, THREATS A27, A31, D12, D14, D15, ACCEPTANCE US8, W34 to W37, W43: wallets banned for what they did, bans that
//! outlive the process, bans by an operator, and what the log says of them.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::common::onchain::{Log, subject};
use crate::common::process::{program, set};
use crate::common::raw::{self, Connect, Got, Publish, Raw, Will};
use crate::common::{
    CLOSED, FAR, PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, Version, Way, http, run, until,
};
use alloy_primitives::Address;
use eyre::{Result, bail, ensure, eyre};
use flytrap_chain::bindings::IBrokerRegistry;
use flytrap_site::{Login, unix_now};
use regex_lite::Regex;
use serde_json::Value;

/// Alerts fold refusals; here only bans are of interest, so they may wait.
const TWENTY: &str = "[conduct]\nrefusals = 20\nwindow = \"1h\"\nban = \"1h\"\n";

async fn stage(config: &str) -> Result<Stage> {
    let stage = Stage::configured(config).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
    stage.caught_up().await?;
    Ok(stage)
}

async fn wallet_bans(stage: &Stage) -> Result<Vec<Log>> {
    use alloy::sol_types::SolEvent as _;
    stage.logs(IBrokerRegistry::WalletBanned::SIGNATURE).await
}

fn banned(version: Version) -> u8 {
    if version == V5 { 0x8a } else { 5 }
}

async fn login(stage: &Stage, version: Version, login: &Login) -> Result<u8> {
    let mut client = stage.dial(Way::plain(version)).await?;
    client.connect(&Connect::of(version, login)).await
}

/// Publishes `times` where nobody may, without a word of it to the broker.
async fn offend(client: &mut Raw, times: usize) -> Result<()> {
    for n in 0..times {
        client.publish(&Publish::new(&format!("closed/{n}"), b"x")).await?;
    }
    Ok(())
}

fn local(last: u8) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(127, 0, 0, last))
}

/// ACCEPTANCE W34 to W37: as many refusals as are borne ban nobody, one more ends every session of the wallet at once, before the
/// chain has it, here and after a restart, and at a second gateway once the chain has it.
#[test]
fn a_wallet_that_goes_too_far_is_out_at_once_after_a_restart_and_at_every_gateway() -> Result<()> {
    run(async {
        for version in [V311, V5] {
            let mut stage = stage(TWENTY).await?;
            let way = Way::plain(version);
            let spy = stage.site.spy("open/#").await?;
            let mut first = stage.session(way, &stage.stranger("first")?).await?;
            let will =
                Will { topic: "open/will".into(), payload: b"w".to_vec(), qos: 0, retain: false };
            let second =
                Connect { will: Some(will), ..Connect::of(version, &stage.stranger("second")?) };
            let mut second = stage.session_of(way, &second).await?;
            let mut other = stage.session(way, &stage.reader("other")?).await?;
            stage.site.chain.automine(false).await?;

            offend(&mut first, 20).await?;
            assert_eq!(first.ping().await?, [], "{version:?}: as many as are borne");
            assert_eq!(login(&stage, version, &stage.stranger("fresh")?).await?, 0);
            let began = Instant::now();
            offend(&mut first, 1).await?;
            for session in [&mut first, &mut second] {
                let ended = session.ended(PATIENCE).await?;
                ensure!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
                match version {
                    V5 => ensure!(
                        matches!(
                            ended.last(),
                            Some(Got::Disconnect { code: 0x98, reason: Some(_) })
                        ),
                        "{ended:?}"
                    ),
                    _ => assert_eq!(ended, []),
                }
            }
            assert_eq!(login(&stage, version, &stage.stranger("back")?).await?, banned(version));
            assert_eq!(other.ping().await?, [], "{version:?}: another wallet, same address");
            // The will of a banned wallet is taken back, though the chain would let it fire.
            other.publish(&Publish::new("open/mark", b"m")).await?;
            spy.until(PATIENCE, |heard| heard.topic == "open/mark").await?;
            ensure!(!spy.heard_on("open/will"), "{version:?}: the will fired");

            assert_eq!(wallet_bans(&stage).await?.len(), 0, "no block was made yet");
            let state = stage.site.dir().join("gateway-state");
            written(&state, &format!("{:#x}", stage.site.wallets.stranger.address())).await?;
            stage.site.gateway_mut()?.restart().await?;
            assert_eq!(
                login(&stage, version, &stage.stranger("later")?).await?,
                banned(version),
                "{version:?}: after a restart, before the chain has it"
            );
            assert_eq!(login(&stage, version, &stage.reader("later")?).await?, 0);

            stage.site.chain.automine(true).await?;
            stage.site.chain.mine(1).await?;
            let bans = until("the ban on chain", || async {
                Ok(Some(wallet_bans(&stage).await?).filter(|bans| !bans.is_empty()))
            })
            .await?;
            let [log] = bans.as_slice() else { bail!("wanted one ban, got {bans:?}") };
            let ban: IBrokerRegistry::WalletBanned = log.read()?;
            assert_eq!(ban.by, stage.site.wallets.gateway.address());
            assert_eq!(ban.wallet, stage.site.wallets.stranger.address());
            assert_eq!(ban.reason, "too many refused actions");
            ensure!(!ban.evidence.is_zero());
            let left = ban.until.saturating_sub(unix_now());
            ensure!((3_500..=3_600).contains(&left), "{left} s");
            let evidence = evidence_of(&stage, &ban.evidence.to_string())?;
            assert_eq!(alloy_primitives::keccak256(evidence), ban.evidence);

            let second =
                stage.site.start_gateway("second", &stage.site.wallets.other_gateway, "").await?;
            crate::common::watch_log(stage.site.dir().join("second.log"))?;
            let mut client = Raw::plain(version, second.listener("mqtt")?).await?;
            let connect = Connect::of(version, &stage.stranger("elsewhere")?);
            assert_eq!(client.connect(&connect).await?, banned(version), "the second gateway");
            ensure!(
                !stage.site.recorder()?.publishes().iter().any(|p| p.topic.starts_with("closed")),
                "the broker saw a refused publish"
            );
        }
        Ok(())
    })
}

/// Waits until a ban is in the ledger on the disk, with no transaction open.
async fn written(state: &Path, subject: &str) -> Result<()> {
    until("the ban on the disk", || async {
        let ledger = std::fs::read(state.join("bans.sqlite"))?;
        let open = std::fs::metadata(state.join("bans.sqlite-journal")).is_ok_and(|f| f.len() > 0);
        let there = ledger.windows(subject.len()).any(|window| window == subject.as_bytes());
        Ok((there && !open).then_some(()))
    })
    .await
}

/// The evidence behind a hash, from the gateway's log.
fn evidence_of(stage: &Stage, hash: &str) -> Result<String> {
    let log = std::fs::read_to_string(stage.site.dir().join("gateway.log"))?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = lines.filter(|line| line["evidence_hash"] == hash);
    let line = found.next().ok_or_else(|| eyre!("no line with {hash}"))?;
    Ok(line["evidence"].as_str().unwrap_or_default().to_owned())
}

/// A ban ends by itself; one that its owner lifts on chain ends at once; and a device that goes too far costs its fleet nothing.
#[test]
fn a_ban_ends_by_itself_and_a_device_is_banned_without_its_wallet() -> Result<()> {
    run(async {
        let stage = stage("[conduct]\nrefusals = 20\nwindow = \"1h\"\nban = \"3s\"\n").await?;
        let wallet = stage.site.wallets.stranger.address();
        let device = stage.device(wallet, 1, "device", FAR).await?;
        let sister = stage.device(wallet, 2, "sister", FAR).await?;
        stage.caught_up().await?;
        let way = Way::plain(V5);
        let mut bad = stage.session(way, &device.login).await?;
        let mut good = stage.session(way, &sister.login).await?;
        let mut owner = stage.session(way, &stage.stranger("itself")?).await?;
        offend(&mut bad, 21).await?;
        let ended = bad.ended(PATIENCE).await?;
        ensure!(matches!(ended.last(), Some(Got::Disconnect { code: 0x98, .. })), "{ended:?}");
        assert_eq!(login(&stage, V5, &device.login).await?, 0x8a);
        assert_eq!(good.ping().await?, []);
        assert_eq!(owner.ping().await?, []);
        let began = Instant::now();
        until("the end of the ban", || async {
            Ok((login(&stage, V5, &device.login).await? == 0).then_some(()))
        })
        .await?;
        ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        Ok(())
    })
}

/// Nobody is banned for what others do, and the broker's owner never is.
#[test]
fn what_others_do_is_held_against_nobody_and_the_brokers_owner_is_never_banned() -> Result<()> {
    run(async {
        let stage = stage(&format!("{TWENTY}[access]\nwildcards = \"narrow\"\n")).await?;
        let way = Way::plain(V5);
        // It hears of everything below a wildcard, and may have only a part: the rest is withheld.
        let mut narrow = stage.session(way, &stage.reader("narrow")?).await?;
        assert_eq!(narrow.subscribe(&[("#", 0)]).await?, [0]);
        let mut broker = stage.direct(V311, "").await?;
        for n in 0..100 {
            broker.publish(&Publish::new(&format!("closed/{n}"), b"x")).await?;
        }
        broker.publish(&Publish::new("open/mark", b"m")).await?;
        assert_eq!(narrow.delivery().await?.topic, "open/mark");
        assert_eq!(narrow.ping().await?, []);

        let owner = stage.site.token(&stage.site.wallets.broker_owner, "owner")?;
        let mut owner = stage.session(way, &owner).await?;
        offend(&mut owner, 100).await?;
        assert_eq!(owner.ping().await?, []);
        let owner = stage.site.token(&stage.site.wallets.broker_owner, "owner-again")?;
        assert_eq!(login(&stage, V5, &owner).await?, 0);
        Ok(())
    })
}

/// Faults and flapping are held against a wallet as well, each by its own measure.
#[test]
fn sessions_ended_by_faults_and_endless_reconnecting_ban_too() -> Result<()> {
    run(async {
        let stage = stage("[conduct]\nfaults = 3\nconnects = 30\nwindow = \"1h\"\n").await?;
        let broken = stage.publisher("broken")?;
        for _ in 0..4 {
            let mut client = stage.session(Way::plain(V311), &broken).await?;
            client.send([0x36, 0]).await?;
            client.ended(PATIENCE).await?;
        }
        until("the ban", || async { Ok((login(&stage, V311, &broken).await? == 5).then_some(())) })
            .await?;
        let mut codes = Vec::new();
        for n in 0..32 {
            codes.push(login(&stage, V5, &stage.stranger(&format!("flap-{n}"))?).await?);
        }
        assert_eq!(codes[..30], [0; 30]);
        assert_eq!(codes[30..], [0x8a; 2]);
        let (_, metrics) = http::get(stage.site.gateway()?.health(), "/metrics").await?;
        for cause in ["faults", "connects"] {
            let series = format!("flytrap_wallet_bans_total{{cause=\"{cause}\"}} 1");
            ensure!(metrics.lines().any(|line| line == series), "no {series} in\n{metrics}");
        }
        Ok(())
    })
}

/// THREATS A27: without a chain to put it on, a ban of an origin outlives a kill all the same; and a damaged ledger frees nobody.
#[test]
fn bans_outlive_a_kill_where_nothing_goes_on_chain_and_a_damaged_ledger_is_told() -> Result<()> {
    run(async {
        let mut stage = stage("").await?;
        let mut gateway = stage.spawn_gateway("alone", |table| {
            set(table, "gateway", "record", "off");
            if let Some(gateway) = table.get_mut("gateway").and_then(toml::Value::as_table_mut) {
                gateway.remove("key_file");
            }
            set(table, "limits", "proof_beats_ban", false);
        })?;
        let mut mqtt = gateway.listener("mqtt").await?;
        let good = Connect::of(V5, &stage.stranger("good")?);
        let open = async |gateway: std::net::SocketAddr, last| -> Result<()> {
            until("an open door", || async {
                Ok(raw::attempt(V5, local(last), gateway, &good).await?.filter(|code| *code == 0))
            })
            .await
            .map(drop)
        };
        open(mqtt, 2).await?;
        for _ in 0..6 {
            let wrong = Connect::of(V5, &stage.wrong_proof("wrong")?);
            assert_eq!(raw::attempt(V5, local(1), mqtt, &wrong).await?, Some(0x86));
        }
        assert_eq!(raw::attempt(V5, local(1), mqtt, &good).await?, None);
        written(&gateway.state, "127.0.0.1").await?;
        let (_, before) = bans(&gateway.state, &["list", "--json"])?;
        gateway.child.kill();
        gateway.child = stage.launch("alone-again", &gateway.config)?;
        mqtt = gateway.listener("mqtt").await?;
        open(mqtt, 2).await?;
        assert_eq!(raw::attempt(V5, local(1), mqtt, &good).await?, None, "after a kill");
        let (_, after) = bans(&gateway.state, &["list", "--json"])?;
        assert_eq!(after, before);
        ensure!(after.contains("127.0.0.1"), "{after}");

        // What the ledger has and the chain was never told, it is told once there is a key.
        gateway.child.kill();
        stage.site.gateway_mut()?.child.kill();
        let state = gateway.state.clone();
        let (telling, _) = stage.write_config("telling", |table| {
            table.insert("state_dir".into(), state.display().to_string().into());
        })?;
        let mut child = stage.launch("telling", &telling)?;
        until("the ban on chain", || async {
            Ok((!stage.origin_bans().await?.is_empty()).then_some(()))
        })
        .await?;
        child.kill();

        let ledger = gateway.state.join("bans.sqlite");
        let octets = std::fs::read(&ledger)?;
        std::fs::write(&ledger, octets.iter().map(|octet| !octet).collect::<Vec<_>>())?;
        gateway.child = stage.launch("alone-damaged", &gateway.config)?;
        let status = gateway.child.wait(PATIENCE).await?;
        ensure!(!status.success());
        let log = gateway.child.log();
        ensure!(log.contains("bans.sqlite") && log.contains("remove it"), "{log}");
        Ok(())
    })
}

/// `flytrap-gateway bans` on a state directory: whether it succeeded, and all that it said.
fn bans(state: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let Output { status, stdout, stderr } = Command::new(program())
        .arg("bans")
        .arg("--state-dir")
        .arg(state)
        .args(arguments)
        .output()?;
    let said = [stdout, stderr].map(|octets| String::from_utf8_lossy(&octets).into_owned());
    Ok((status.success(), said.concat()))
}

#[test]
fn an_operator_lists_adds_and_lifts_bans_with_effect_at_once_here_and_on_chain() -> Result<()> {
    run(async {
        let mut stage = stage("").await?;
        let table = stage.config()?;
        let state = table["state_dir"].as_str().map(Path::new).ok_or_else(|| eyre!("none"))?;
        let state = state.to_owned();
        let done = |arguments: &[&str]| -> Result<String> {
            let (success, said) = bans(&state, arguments)?;
            ensure!(success, "{arguments:?}: {said}");
            Ok(said)
        };
        let mode = std::fs::metadata(state.join("control.sock"))?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ensure!(done(&["list"])?.contains("Nobody is banned"));

        // A wallet: its open session ends, it is refused, it is on chain with the reason.
        let wallet = stage.site.wallets.stranger.address();
        let name = format!("{wallet:#x}");
        let mut open = stage.session(Way::plain(V5), &stage.stranger("open")?).await?;
        let mut other = stage.session(Way::plain(V5), &stage.reader("other")?).await?;
        let began = Instant::now();
        let said = done(&["add", &name, "--for", "2h", "--reason", "sold its key"])?;
        ensure!(said.contains("open sessions ended: 1"), "{said}");
        let ended = open.ended(PATIENCE).await?;
        ensure!(matches!(ended.last(), Some(Got::Disconnect { code: 0x98, .. })), "{ended:?}");
        ensure!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(login(&stage, V311, &stage.stranger("back")?).await?, 5);
        let on_chain = async || -> Result<Vec<IBrokerRegistry::WalletBanned>> {
            wallet_bans(&stage).await?.iter().map(Log::read).collect()
        };
        let made = until("the ban on chain", || async {
            Ok(on_chain().await?.into_iter().find(|ban| ban.wallet == wallet))
        })
        .await?;
        assert_eq!(made.reason, "sold its key");
        stage.caught_up().await?;
        let listed: Value = serde_json::from_str(done(&["list", "--json"])?.trim())?;
        assert_eq!(listed["subject"], name);
        assert_eq!((&listed["by"], &listed["on_chain"]), (&"operator".into(), &true.into()));
        assert_eq!(listed["reason"], "sold its key");
        assert_eq!(listed["until"], made.until);

        // Lifted: by the gateway's own key, on chain too.
        let said = done(&["lift", &name])?;
        ensure!(said.contains("on its way to the chain"), "{said}");
        until("the wallet to be let in", || async {
            Ok((login(&stage, V5, &stage.stranger("again")?).await? == 0).then_some(()))
        })
        .await?;
        let until_is: u64 = stage
            .read(
                stage.site.deployment.broker_registry,
                &IBrokerRegistry::bannedUntilCall {
                    brokerId: stage.site.broker_id,
                    kind: 0,
                    subject: subject(wallet),
                },
            )
            .await?;
        ensure!(until_is <= unix_now(), "still banned on chain until {until_is}");

        // A ban of the owner's own is not the gateway's to lift, and it says so.
        stage.ban_wallet(wallet, unix_now() + 1_000).await?;
        stage.caught_up().await?;
        let said = done(&["lift", &name])?;
        ensure!(said.contains("flytrap ban lift"), "{said}");
        assert_eq!(login(&stage, V5, &stage.stranger("owners")?).await?, 0x8a);

        // An address and a network: those who come from there, open or new; nobody else.
        let mqtt = stage.site.mqtt()?;
        for (n, name) in [(40, "127.0.0.40"), (51, "127.0.0.48/29")] {
            let good = Connect::of(V5, &stage.reader(&format!("from-{n}"))?);
            let mut inside = Raw::plain_from(V5, local(n), mqtt).await?;
            assert_eq!(inside.connect(&good).await?, 0);
            done(&["add", name, "--for", "1h"])?;
            inside.ended(PATIENCE).await?;
            assert_eq!(raw::attempt(V5, local(n), mqtt, &good).await?, None, "{name}");
            assert_eq!(raw::attempt(V5, local(60), mqtt, &good).await?, Some(0), "{name}");
        }
        assert_eq!(other.ping().await?, []);
        stage.site.gateway_mut()?.restart().await?;
        let mqtt = stage.site.mqtt()?;
        let good = Connect::of(V5, &stage.reader("network")?);
        assert_eq!(raw::attempt(V5, local(51), mqtt, &good).await?, None, "after a restart");
        let said = done(&["lift", "127.0.0.48/29"])?;
        ensure!(said.contains("Lifted here"), "{said}");
        assert_eq!(raw::attempt(V5, local(51), mqtt, &good).await?, Some(0));

        // What cannot be done is said.
        let owner = format!("{:#x}", stage.broker_owner());
        for (arguments, word) in [
            (vec!["lift", "127.0.0.77"], "is not banned"),
            (vec!["add", "0.0.0.0/0"], "everyone"),
            (vec!["add", "nonsense"], "wanted a wallet"),
            (vec!["add", &name, "--for", "31d"], "29 d"),
            (vec!["add", &owner], "owns the broker"),
            (vec!["add", "127.0.0.77", "--reason", "a\nb"], "control characters"),
        ] {
            let (success, said) = bans(&state, &arguments)?;
            ensure!(!success && said.contains(word), "{arguments:?}: {said}");
        }
        stage.site.gateway_mut()?.child.kill();
        let (success, said) = bans(&state, &["list"])?;
        ensure!(!success && said.contains("no gateway runs"), "{said}");
        Ok(())
    })
}

/// The very filters that `docs/abuse.md` gives for fail2ban; `<ADDR>` is its word for an address.
fn filters() -> Result<Vec<Regex>> {
    let manual = std::fs::read_to_string(flytrap_site::project_root()?.join("docs/abuse.md"))?;
    let lines = manual.lines().filter_map(|line| {
        let line = line.trim().strip_prefix("failregex =").unwrap_or(line.trim());
        line.trim().strip_prefix('^').map(|_| line.trim().to_owned())
    });
    let filters: Result<Vec<_>, _> =
        lines.map(|line| Regex::new(&line.replace("<ADDR>", "(?<addr>[0-9a-fA-F:.]+)"))).collect();
    let filters = filters?;
    ensure!(filters.len() == 2, "wanted two filters in docs/abuse.md, got {filters:?}");
    Ok(filters)
}

/// THREATS D14
#[test]
fn each_failed_proof_and_each_ban_is_one_line_that_fail2ban_can_read() -> Result<()> {
    run(async {
        let stage = stage(TWENTY).await?;
        let mqtt = stage.site.mqtt()?;
        // What the client says is nowhere in it, however it is dressed up.
        let evil = "\u{202e}\",\"message\":\"failed proof from 192.0.2.66: y";
        for n in 0..6 {
            let id = if n == 3 { evil.to_owned() } else { format!("log-{n}") };
            let wrong = Connect::of(V311, &stage.wrong_proof(&id)?);
            raw::attempt(V311, local(70), mqtt, &wrong).await?;
        }
        let mut bad = Raw::plain_from(V5, local(71), mqtt).await?;
        assert_eq!(bad.connect(&Connect::of(V5, &stage.stranger("bad")?)).await?, 0);
        offend(&mut bad, 21).await?;
        bad.ended(PATIENCE).await?;
        let log = until("the lines", || async {
            let log = std::fs::read_to_string(stage.site.dir().join("gateway.log"))?;
            Ok((log.matches("\"banned ").count() >= 2).then_some(log))
        })
        .await?;
        let filters = filters()?;
        let found = |filter: &Regex| -> Vec<String> {
            let matches = log.lines().filter_map(|line| filter.captures(line));
            matches.map(|found| found["addr"].to_owned()).collect()
        };
        assert_eq!(found(&filters[0]), ["127.0.0.70"; 6], "failed proofs");
        let mut banned = found(&filters[1]);
        banned.sort();
        assert_eq!(banned, ["127.0.0.70", "127.0.0.71"], "bans");
        ensure!(!log.contains("192.0.2.66"), "a client's own words are in the log");
        let line = log.lines().find(|line| line.contains("banned 0x")).unwrap_or_default();
        let line: Value = serde_json::from_str(line)?;
        let wallet: Address = stage.site.wallets.stranger.address();
        let message = line["message"].as_str().unwrap_or_default();
        let start = format!("banned {wallet:#x} from 127.0.0.71 until ");
        ensure!(
            message.starts_with(&start) && message.ends_with(": too many refused actions"),
            "{message}"
        );
        Ok(())
    })
}
