//! Owners of hidden topics tell gateways their names, and have them forgotten: in force where it was told, at once, over restarts, and
//! nowhere to be found afterwards.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use alloy_primitives::{Address, B256, U256, hex};
use eyre::{Result, ensure, eyre};
use flytrap_chain::bindings::ITopicRegistry;
use flytrap_chain::keys::Key;
use flytrap_policy::credential::name_request_digest;
use flytrap_policy::{NameRequest, NameWish, name_commitment};
use flytrap_record::{Kind, Record};
use flytrap_site::{Gateway, command_line, unix_now};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::common::http::{self, Answer};
use crate::common::raw::{Got, Publish, Raw};
use crate::common::{PATIENCE, PUBLIC, RETAIN, Right, Stage, Topic, V5, V311, Way, run};
use crate::record::exported;

const API: &str = "[api]\nbind = \"127.0.0.1:0\"\naccess = \"token\"\ntoken_file = \"TOKEN\"";
const TOKEN: &str = "a-token-of-the-operator-0123456789abcdef";
const PERSON: &str = "jane-doe-4711";
const NAME: &str = "ward/jane-doe-4711";
const SALT: B256 = B256::repeat_byte(0x5A);

/// A gateway whose API shows nothing without its operator's token, and a topic to hide below.
async fn ward(more: &str) -> Result<(Stage, Topic, TempDir)> {
    let dir = tempfile::tempdir()?;
    let token = dir.path().join("token");
    fs::write(&token, TOKEN)?;
    set_mode(&token)?;
    let config = API.replace("TOKEN", &token.display().to_string());
    let stage = Stage::configured(&format!("{config}\n{more}")).await?;
    let topic = stage.topic("ward").await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok((stage, topic, dir))
}

fn set_mode(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
}

fn api(gateway: &Gateway) -> Result<SocketAddr> {
    gateway.api().ok_or_else(|| eyre!("no API"))
}

/// What the owner does at the command line, whether it works, and all it says.
async fn owner(stage: &Stage, words: &[&str]) -> Result<(bool, String)> {
    let mut command = Command::new(command_line()?);
    command.env_clear().current_dir(stage.site.dir()).kill_on_drop(true).arg("--json");
    command.arg("--rpc").arg(stage.site.chain.http().as_str());
    command.arg("--deployment").arg(&stage.site.deployment_file);
    command.arg("--broker").arg(stage.site.broker_id.to_string());
    command.env("FLYTRAP_KEY_FILE", stage.site.key_file("topic-owner"));
    let done = command.args(words).output().await?;
    let told = [done.stdout, done.stderr].concat();
    Ok((done.status.success(), String::from_utf8_lossy(&told).into_owned()))
}

/// Tells one gateway a name, or has it forget it; whether that was new.
async fn asks(stage: &Stage, gateway: &Gateway, words: &[&str]) -> Result<Value> {
    let url = format!("http://{}", api(gateway)?);
    let (is_done, told) = owner(stage, &[words, &["--url", &url]].concat()).await?;
    ensure!(is_done, "{words:?}: {told}");
    Ok(serde_json::from_str::<Value>(&told)?["gateways"][0].clone())
}

/// A request of the owner's key, as anybody could keep it.
struct Request {
    path: String,
    body: Value,
}

impl Request {
    fn signed(stage: &Stage, by: &Key, of: Address, topic: B256, is_told: bool, at: u64) -> Self {
        let wish = match is_told {
            true => NameWish::Disclose { salt: SALT, name: NAME },
            false => NameWish::Erase,
        };
        let request = NameRequest {
            owner: of,
            topic_id: topic,
            epoch: 1,
            issued_at: at,
            expires_at: at + 600,
            wish,
        };
        let signature = by.sign(&name_request_digest(&stage.site.place(), &request));
        let mut body = json!({
            "owner": of, "epoch": 1, "issuedAt": at, "expiresAt": at + 600, "signature": hex::encode_prefixed(signature),
        });
        let mut path = format!("/v1/topics/{topic}/name");
        match is_told {
            true => (body["salt"], body["name"]) = (json!(SALT), json!(NAME)),
            false => path.push_str("/erase"),
        }
        Self { path, body }
    }

    async fn sent(&self, to: SocketAddr) -> Result<Answer> {
        post(to, &self.path, &[], &self.body.to_string()).await
    }
}

async fn post(to: SocketAddr, path: &str, more: &[(&str, &str)], body: &str) -> Result<Answer> {
    let host = to.to_string();
    let mut headers = vec![("Host", host.as_str()), ("Content-Type", "application/json")];
    headers.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    headers.extend_from_slice(more);
    http::send(to, "POST", path, &headers, body).await
}

/// The files below a folder that have the name in them, whole or as part of a page.
fn holding(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path)?);
        } else if path.is_file() {
            let octets = fs::read(&path)?;
            if octets.windows(PERSON.len()).any(|part| part == PERSON.as_bytes()) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

fn state_of(stage: &Stage, name: &str) -> PathBuf {
    stage.site.dir().join(format!("{name}-state"))
}

async fn beat(writer: &mut Raw, id: u16, payload: &[u8]) -> Result<u8> {
    writer.publish(&Publish::new(NAME, payload).qos(1, id)).await?;
    match writer.get().await? {
        Got::Ack { kind: 4, code, .. } => Ok(code),
        other => Err(eyre!("{other:?} for a PUBACK")),
    }
}

#[test]
fn a_name_is_in_force_where_its_owner_told_it_until_it_is_erased_and_then_nowhere_to_be_found()
-> Result<()> {
    run(async {
        let (mut stage, _, _dir) = ward("").await?;
        let spy = stage.site.spy("ward/#").await?;
        let other = &stage.site.wallets.other_gateway;
        let second = stage.site.start_gateway("second", other, "").await?;
        let (is_done, told) =
            owner(&stage, &["topic", "hide", "ward", NAME, "--sensitive"]).await?;
        ensure!(is_done, "{told}");
        let told: Value = serde_json::from_str(&told)?;
        let word = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        let (id, salt) = (word("topicId"), word("salt"));
        let hidden = Topic { name: NAME.to_owned(), id: id.parse()? };
        stage.grant(&hidden, stage.site.wallets.reader.address(), Right::Subscribe).await?;
        stage.grant(&hidden, stage.site.wallets.publisher.address(), Right::Publish).await?;
        stage.caught_up().await?;

        let way = Way::plain(V5);
        let mut reader = stage.session(way, &stage.reader("monitor")?).await?;
        let mut writer = stage.session(way, &stage.publisher("belt")?).await?;
        assert_eq!(reader.subscribe(&[(NAME, 0), ("open/x", 0)]).await?, [0x87, 0]);
        assert_eq!(beat(&mut writer, 1, b"too early").await?, 0x87);

        let disclose = ["topic", "disclose", id.as_str(), NAME, "--salt", salt.as_str()];
        let first = asks(&stage, stage.site.gateway()?, &disclose).await?;
        assert_eq!((&first["known"], &first["changed"]), (&json!(true), &json!(true)), "{first}");
        let again = asks(&stage, stage.site.gateway()?, &disclose).await?;
        assert_eq!(again["changed"], false, "{again}");

        assert_eq!(reader.subscribe(&[(NAME, 0), ("ward/john", 0)]).await?, [0, 0x87]);
        assert_eq!(beat(&mut writer, 2, b"61").await?, 0);
        assert_eq!(reader.delivery().await?.payload, b"61");
        for way in [Way::plain(V311), Way::tls(V5)] {
            let mut stranger =
                stage.session(way, &stage.stranger(&format!("curious-{}", way.word()))?).await?;
            let no = crate::common::refused_filter(way.version);
            assert_eq!(stranger.subscribe(&[(NAME, 0)]).await?, [no]);
            stranger.publish(&Publish::new(NAME, b"made up").qos(1, 1)).await?;
            stranger.get().await?;
        }
        spy.until(PATIENCE, |heard| heard.topic == NAME).await?;
        let heard: Vec<_> = spy.heard().into_iter().map(|heard| heard.payload).collect();
        assert_eq!(heard, [b"61"], "at the broker");
        // A gateway that was not told refuses.
        let login = stage.reader("monitor-2")?;
        let mut elsewhere = Raw::plain(V5, second.listener("mqtt")?).await?;
        assert_eq!(elsewhere.connect(&crate::common::raw::Connect::of(V5, &login)).await?, 0);
        assert_eq!(elsewhere.subscribe(&[(NAME, 0)]).await?, [0x87]);

        let of_topic = |records: &[Record], kind| {
            records.iter().filter(|one| one.topic_id == hidden.id && one.kind == kind).count()
        };
        exported(&stage, |all| of_topic(all, Kind::Delivered) > 0).await?;
        stage.site.gateway_mut()?.restart().await?;
        let mut reader = stage.session(way, &stage.reader("monitor")?).await?;
        let mut writer = stage.session(way, &stage.publisher("belt")?).await?;
        assert_eq!(reader.subscribe(&[(NAME, 0), ("open/x", 0)]).await?, [0, 0]);
        assert_eq!(beat(&mut writer, 1, b"62").await?, 0);
        assert_eq!(reader.delivery().await?.payload, b"62");
        let file = state_of(&stage, "gateway").join("hidden-names.sqlite");
        assert_eq!(
            holding(&state_of(&stage, "gateway"))?,
            [file],
            "where it has to be, and nowhere else"
        );

        let erased = asks(&stage, stage.site.gateway()?, &["topic", "forget-name", &id]).await?;
        assert_eq!(
            (&erased["known"], &erased["changed"]),
            (&json!(false), &json!(true)),
            "{erased}"
        );
        assert_eq!(holding(&state_of(&stage, "gateway"))?, Vec::<PathBuf>::new());
        // What is published past the gateway is not delivered any more, and nobody publishes through it.
        let mut broker = stage.direct(V5, "").await?;
        broker.publish(&Publish::new(NAME, b"withheld")).await?;
        broker.publish(&Publish::new("open/x", b"marker")).await?;
        assert_eq!(reader.delivery().await?.payload, b"marker");
        assert_eq!(beat(&mut writer, 2, b"too late").await?, 0x87);
        stage.site.gateway_mut()?.restart().await?;
        let mut reader = stage.session(way, &stage.reader("monitor")?).await?;
        assert_eq!(reader.subscribe(&[(NAME, 0)]).await?, [0x87]);
        assert!(spy.heard().iter().all(|heard| heard.payload != b"too late"));

        let (file, records) = exported(&stage, |all| of_topic(all, Kind::NameErased) > 0).await?;
        let told: Vec<_> = records
            .iter()
            .filter(|one| matches!(one.kind, Kind::NameDisclosed | Kind::NameErased))
            .map(|one| (one.kind, one.wallet, one.topic_id))
            .collect();
        let whose = stage.owner();
        assert_eq!(
            told,
            [(Kind::NameDisclosed, whose, hidden.id), (Kind::NameErased, whose, hidden.id)]
        );
        for place in
            [file, stage.site.dir().join("gateway.log"), stage.site.dir().join("second.log")]
        {
            assert!(!fs::read_to_string(&place)?.contains(PERSON), "{}", place.display());
        }
        assert_eq!(holding(&state_of(&stage, "gateway"))?, Vec::<PathBuf>::new());
        Ok(())
    })
}

#[test]
fn a_kept_request_does_not_bring_an_erased_name_back_not_even_after_a_kill() -> Result<()> {
    run(async {
        let (mut stage, topic, _dir) = ward("").await?;
        let id = stage.hide_below(&topic, name_commitment(SALT, NAME)).await?;
        stage.caught_up().await?;
        let (key, whose, now) = (stage.site.wallets.topic_owner.clone(), stage.owner(), unix_now());
        let kept = Request::signed(&stage, &key, whose, id, true, now - 5);
        let erase = Request::signed(&stage, &key, whose, id, false, now - 3);
        let to = api(stage.site.gateway()?)?;
        assert_eq!(kept.sent(to).await?.json()?["changed"], true);
        assert_eq!(erase.sent(to).await?.json()?["changed"], true);
        assert_eq!(erase.sent(to).await?.json()?["changed"], false);
        stage.site.gateway_mut()?.restart().await?;
        let to = api(stage.site.gateway()?)?;
        let refused = kept.sent(to).await?;
        assert_eq!(refused.status, 409, "{}", refused.body);
        assert!(!refused.body.contains(PERSON), "{}", refused.body);
        let login = stage.site.token(&key, "owner")?;
        let mut owner = stage.session(Way::plain(V5), &login).await?;
        assert_eq!(owner.subscribe(&[(NAME, 0)]).await?, [0x87]);
        assert_eq!(holding(&state_of(&stage, "gateway"))?, Vec::<PathBuf>::new());
        // The owner can tell it again.
        let newer = Request::signed(&stage, &key, whose, id, true, now - 2);
        assert_eq!(newer.sent(to).await?.json()?["changed"], true);
        assert_eq!(owner.subscribe(&[(NAME, 0)]).await?, [0]);
        // Deleted, the topic governs nothing, and a damaged file is never read as if nothing had been said.
        let file = state_of(&stage, "gateway").join("hidden-names.sqlite");
        fs::write(&file, "no database at all")?;
        let why = stage.site.gateway_mut()?.restart().await.expect_err("a damaged file");
        assert!(format!("{why:#}").contains("hidden-names.sqlite"), "{why:#}");
        fs::remove_file(&file)?;
        stage.site.gateway_mut()?.restart().await?;
        let mut owner = stage.session(Way::plain(V5), &stage.site.token(&key, "owner")?).await?;
        assert_eq!(owner.subscribe(&[(NAME, 0)]).await?, [0x87]);
        Ok(())
    })
}

/// Or it would stay in the file within another's, and govern.
#[test]
fn a_name_that_is_erased_takes_those_along_that_begin_with_it() -> Result<()> {
    run(async {
        let (stage, topic, _dir) = ward("").await?;
        let (key, below) = (&stage.site.wallets.topic_owner, format!("{NAME}/pulse"));
        let id = stage.hide_below(&topic, name_commitment(SALT, NAME)).await?;
        let above = Topic { name: NAME.to_owned(), id };
        let nested = stage.hide_below(&above, name_commitment(SALT, &below)).await?;
        stage.caught_up().await?;
        let (gateway, salt) = (stage.site.gateway()?, SALT.to_string());
        for (id, name) in [(id, NAME), (nested, &below)] {
            let told = ["topic", "disclose", &id.to_string(), name, "--salt", &salt];
            assert_eq!(asks(&stage, gateway, &told).await?["changed"], true, "{name}");
        }
        let mut owner = stage.session(Way::plain(V5), &stage.site.token(key, "owner")?).await?;
        assert_eq!(owner.subscribe(&[(&below, 0), ("open/x", 0)]).await?, [0, 0]);
        let erase = ["topic", "forget-name", &id.to_string()];
        assert_eq!(asks(&stage, gateway, &erase).await?["changed"], true);
        assert_eq!(holding(&state_of(&stage, "gateway"))?, Vec::<PathBuf>::new());
        // On the open session too.
        let mut broker = stage.direct(V5, "").await?;
        broker.publish(&Publish::new(&below, b"withheld")).await?;
        broker.publish(&Publish::new("open/x", b"marker")).await?;
        assert_eq!(owner.delivery().await?.payload, b"marker");
        let erased = |records: &[Record]| {
            let of = |id| move |one: &Record| (one.kind, one.topic_id) == (Kind::NameErased, id);
            [id, nested].map(|id| records.iter().filter(|one| of(id)(one)).count())
        };
        let (_, records) = exported(&stage, |all| erased(all).iter().sum::<usize>() > 1).await?;
        assert_eq!(erased(&records), [1, 1]);
        Ok(())
    })
}

/// Each has all sessions judge again.
#[test]
fn a_change_uses_up_the_rate_of_six_requests() -> Result<()> {
    run(async {
        let (stage, topic, _dir) = ward("requests_per_second = 1").await?;
        let id = stage.hide_below(&topic, name_commitment(SALT, NAME)).await?;
        stage.caught_up().await?;
        let (key, to) = (&stage.site.wallets.topic_owner, api(stage.site.gateway()?)?);
        let (begun, mut followed) = (Instant::now(), 0);
        let answer = loop {
            let at = unix_now() - 100 + followed / 2;
            let request = Request::signed(&stage, key, stage.owner(), id, followed % 2 == 0, at);
            let answer = request.sent(to).await?;
            if answer.status != 200 {
                break answer;
            }
            followed += 1;
        };
        assert_eq!(answer.status, 429, "{}", answer.body);
        // Ten seconds' requests are there at first, and the last of them may be for a change.
        assert!((2..=(15 + begun.elapsed().as_secs()) / 6).contains(&followed), "{followed}");
        Ok(())
    })
}

#[test]
fn only_what_the_owner_signed_is_followed_and_no_refusal_tells_the_name() -> Result<()> {
    run(async {
        let (stage, topic, _dir) = ward("allowed_origins = [\"https://console.example\"]").await?;
        let id = stage.hide_below(&topic, name_commitment(SALT, NAME)).await?;
        stage.caught_up().await?;
        let wallets = &stage.site.wallets;
        let (key, whose, now, to) =
            (&wallets.topic_owner, stage.owner(), unix_now(), api(stage.site.gateway()?)?);
        let good = Request::signed(&stage, key, whose, id, true, now);
        let (path, body) = (good.path.clone(), good.body.to_string());
        let foreign = Request::signed(&stage, &wallets.stranger, whose, id, true, now);
        let own =
            Request::signed(&stage, &wallets.stranger, wallets.stranger.address(), id, true, now);
        let nowhere = Request::signed(&stage, key, whose, B256::repeat_byte(1), true, now);
        let late = Request::signed(&stage, key, whose, id, true, now - 700);
        for (request, status) in [(&foreign, 403), (&own, 403), (&nowhere, 404), (&late, 400)] {
            let answer = request.sent(to).await?;
            assert_eq!(answer.status, status, "{}", answer.body);
            assert!(!answer.body.contains(PERSON), "{}", answer.body);
        }
        let long = format!("{{\"name\": \"{}\"}}", "x".repeat(9_000));
        let broken = body.replace("\"epoch\":1", &format!("\"epoch\":\"{NAME}\""));
        let more = body.replace("\"epoch\":1", "\"epoch\":1,\"else\":1");
        let text: [(&str, &str); 1] = [("Content-Type", "text/plain")];
        let page = [("Origin", "https://evil.example")];
        let host = [("Host", "evil.example")];
        let named = format!("/v1/topics/{}/name", NAME.replace('/', "%2F"));
        type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], u16);
        let cases: [Case<'_>; 8] = [
            (&path, &long, &[], 413),
            (&path, &broken, &[], 400),
            (&path, &more, &[], 400),
            (&path, "{", &[], 400),
            (&path, &body, &text, 415),
            (&path, &body, &page, 403),
            (&path, &body, &host, 421),
            (&named, &body, &[], 400),
        ];
        for (path, body, headers, status) in cases {
            let answer = post(to, path, headers, body).await?;
            assert_eq!(answer.status, status, "{path} {headers:?}: {}", answer.body);
            assert!(!answer.body.contains(PERSON), "{}", answer.body);
        }
        let (host, bearer) = (to.to_string(), format!("Bearer {TOKEN}"));
        for (method, path) in [("GET", path.as_str()), ("PUT", &path), ("POST", "/v1/topics")] {
            let answer =
                http::ask(to, method, path, &[("Host", &host), ("Authorization", &bearer)]).await?;
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
            assert!(!answer.header("allow").is_empty(), "{method} {path}");
        }
        // Nobody is shown anything here without the token, the owner's signature is enough all the same.
        let page = [("Origin", "https://console.example")];
        let answer = post(to, &path, &page, &body).await?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), "https://console.example");
        let shown = http::ask(
            to,
            "GET",
            &format!("/v1/topics/{id}"),
            &[("Host", &host), ("Authorization", &bearer)],
        )
        .await?;
        assert_eq!((shown.status, &shown.json()?["name"]), (200, &Value::Null));
        let log = fs::read_to_string(stage.site.dir().join("gateway.log"))?;
        assert!(!log.contains(PERSON) && log.contains(&id.to_string()), "{log}");
        Ok(())
    })
}

#[test]
fn the_contract_that_owns_a_topic_tells_its_name_by_its_owners_signature() -> Result<()> {
    run(async {
        let (stage, topic, _dir) = ward("[authentication]\ncontract_wallets = true").await?;
        let id = stage.hide_below(&topic, name_commitment(SALT, NAME)).await?;
        let key = &stage.site.wallets.reader;
        let wallet = stage.contract_wallet("OwnedWallet", Some(key.address())).await?;
        let registry = stage.site.deployment.topic_registry;
        let chain = &stage.site.chain;
        chain.call("anvil_impersonateAccount", json!([wallet])).await?;
        chain.call("anvil_setBalance", json!([wallet, "0xde0b6b3a7640000"])).await?;
        let offer = ITopicRegistry::offerTopicOwnershipCall { topicId: id, candidate: wallet };
        ensure!(stage.send(stage.owner(), registry, U256::ZERO, &offer).await?.ok, "the offer");
        let accept = ITopicRegistry::acceptTopicOwnershipCall { topicId: id };
        ensure!(stage.send(wallet, registry, U256::ZERO, &accept).await?.ok, "the acceptance");
        stage.caught_up().await?;
        let to = api(stage.site.gateway()?)?;
        let former =
            Request::signed(&stage, &stage.site.wallets.topic_owner, wallet, id, true, unix_now());
        assert_eq!(former.sent(to).await?.status, 403, "the owner before");
        let request = Request::signed(&stage, key, wallet, id, true, unix_now());
        let answer = request.sent(to).await?;
        assert_eq!(
            (answer.status, &answer.json()?["changed"]),
            (200, &json!(true)),
            "{}",
            answer.body
        );
        Ok(())
    })
}

/// The block that registered the topic is orphaned and comes again; the topic is deleted and registered anew.
#[test]
fn a_name_holds_for_the_registration_it_was_told_for_also_where_that_comes_again() -> Result<()> {
    run(async {
        let (stage, topic, _dir) = ward("").await?;
        let chain = &stage.site.chain;
        let snapshot = chain.call("evm_snapshot", json!([])).await?;
        let commitment = name_commitment(SALT, NAME);
        let id = stage.hide_below(&topic, commitment).await?;
        stage.caught_up().await?;
        let (key, whose) = (&stage.site.wallets.topic_owner, stage.owner());
        let to = api(stage.site.gateway()?)?;
        let told = Request::signed(&stage, key, whose, id, true, unix_now());
        assert_eq!(told.sent(to).await?.status, 200);
        let mut session = stage.session(Way::plain(V5), &stage.site.token(key, "owner")?).await?;
        assert_eq!(session.subscribe(&[(NAME, 0), ("ward/john", 0)]).await?, [0, 0]);

        chain.call("evm_revert", json!([snapshot])).await?;
        assert_eq!(stage.hide_below(&topic, commitment).await?, id);
        stage.site.chain.mine(2).await?;
        stage.caught_up().await?;
        let mut session = stage.session(Way::plain(V5), &stage.site.token(key, "again")?).await?;
        assert_eq!(session.subscribe(&[(NAME, 0)]).await?, [0], "of the same registration");

        let registry = stage.site.deployment.topic_registry;
        let delete = ITopicRegistry::deleteTopicCall { topicId: id };
        ensure!(stage.send(whose, registry, U256::ZERO, &delete).await?.ok, "the deletion");
        assert_eq!(stage.hide_below(&topic, commitment).await?, id);
        stage.caught_up().await?;
        let mut session = stage.session(Way::plain(V5), &stage.site.token(key, "anew")?).await?;
        assert_eq!(session.subscribe(&[(NAME, 0)]).await?, [0x87], "of another registration");
        Ok(())
    })
}
