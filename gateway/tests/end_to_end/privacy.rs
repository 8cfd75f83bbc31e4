//! Nothing personal is on chain, in no form that a dictionary could reverse (W66, THREATS H; docs/privacy.md).
//!
//! A whole run: accesses to a sensitive topic and a hidden one, refusals, failed proofs up to a ban, an erasure. Then all that any node has of
//! it is searched: every transaction's input, every log, and the storage of every contract.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use alloy_primitives::{B256, keccak256};
use eyre::{Result, ensure, eyre};
use flytrap_site::Login;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::common::process::program;
use crate::common::raw::{Connect, Publish, Raw};
use crate::common::{CLOSED, PUBLIC, RETAIN, Right, Stage, Traits, V5, run, until};

/// Where the attacker sits, and where honest clients do: addresses that nothing else on this machine has.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 77, 88, 99);
const HONEST: Ipv4Addr = Ipv4Addr::new(127, 66, 55, 44);
/// Below a registered topic, so not registered itself.
const NAME: &str = "hospital/w1/hr/jane-doe";
const HIDDEN: &str = "open/ward-of-jane";
const PAYLOAD: &str = "pulse of jane: 61";
const CLIENTS: [&str; 4] = ["belt-4711", "monitor-0815", "curious-mallory", "guess-1234"];

/// A dictionary: every secret as it is, padded as contracts pad, and hashed as one would who wants to look unreadable. In hexadecimal.
fn dictionary() -> Vec<(String, String)> {
    let mut words: Vec<(String, Vec<u8>)> = Vec::new();
    for text in CLIENTS.iter().chain(&[NAME, HIDDEN, PAYLOAD, "jane-doe"]) {
        words.push(((*text).to_owned(), text.as_bytes().to_vec()));
    }
    for address in [ATTACKER, HONEST] {
        words.push((address.to_string(), address.to_string().into_bytes()));
        let (four, mapped) = (address.octets(), address.to_ipv6_mapped().octets());
        words.push((format!("{address} mapped"), mapped.to_vec()));
        words.push((format!("{address} as a word"), [&[0; 28][..], &four].concat()));
        words.push((format!("{address} as bytes4"), [&four[..], &[0; 28]].concat()));
    }
    let mut forms = Vec::new();
    let mut hashed = |word: &str, octets: &[u8]| {
        for (by, hash) in
            [("keccak", keccak256(octets).0), ("sha256", Sha256::digest(octets).into())]
        {
            // Cut as an address or a pseudonym may be.
            forms.push((format!("{by} of {word}"), hex::encode(&hash[..16])));
            forms.push((format!("end of {by} of {word}"), hex::encode(&hash[16..])));
        }
    };
    for (word, octets) in &words {
        hashed(word, octets);
        // As `abi.encode` of a string or bytes has it.
        let mut encoded = B256::with_last_byte(32).to_vec();
        encoded.extend(B256::with_last_byte(u8::try_from(octets.len()).unwrap_or(u8::MAX)));
        encoded.extend(octets);
        encoded.resize(encoded.len().next_multiple_of(32), 0);
        hashed(&format!("encoded {word}"), &encoded);
    }
    // Four octets alone may be anybody's; hashed they are nobody else's.
    hashed("the attacker's four octets", &ATTACKER.octets());
    hashed("the honest four octets", &HONEST.octets());
    forms.extend(words.into_iter().map(|(word, octets)| (word, hex::encode(octets))));
    forms
}

/// Everything a node has, as hexadecimal text: inputs, logs, storage.
async fn on_chain(stage: &Stage) -> Result<[(&'static str, String); 3]> {
    let chain = &stage.site.chain;
    let mut inputs = String::new();
    for height in 0..=chain.height().await? {
        let block =
            chain.call("eth_getBlockByNumber", json!([format!("{height:#x}"), true])).await?;
        for transaction in block["transactions"].as_array().into_iter().flatten() {
            inputs.push_str(transaction["input"].as_str().unwrap_or_default());
            inputs.push('\n');
        }
    }
    let all = json!([{"fromBlock": "0x0", "toBlock": "latest"}]);
    let logs = chain.call("eth_getLogs", all).await?.to_string();
    let dump = chain.call("anvil_dumpState", json!([])).await?;
    let packed = hex::decode(dump.as_str().unwrap_or_default().trim_start_matches("0x"))?;
    let state: Value = serde_json::from_slice(&unpacked(&packed)?)?;
    let storage = state["accounts"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_, account)| account["storage"].to_string())
        .collect::<String>();
    Ok([("input", inputs), ("log", logs), ("storage", storage)])
}

fn unpacked(octets: &[u8]) -> Result<Vec<u8>> {
    let mut gzip =
        Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut to, octets) = (gzip.stdin.take().ok_or_else(|| eyre!("no pipe"))?, octets.to_vec());
    let writing = std::thread::spawn(move || to.write_all(&octets));
    let done = gzip.wait_with_output()?;
    let written = writing.join().map_err(|_| eyre!("writing to gzip"))?;
    ensure!(done.status.success() && written.is_ok(), "gzip: {}", done.status);
    Ok(done.stdout)
}

fn found(places: &[(&'static str, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (word, form) in dictionary() {
        for (place, text) in places {
            if text.contains(&form) {
                found.push(format!("{word} in {place}"));
            }
        }
    }
    found
}

async fn session(stage: &Stage, login: &Login) -> Result<Raw> {
    let mut client = Raw::plain_from(V5, IpAddr::from(HONEST), stage.site.mqtt()?).await?;
    assert_eq!(client.connect(&Connect::of(V5, login)).await?, 0);
    Ok(client)
}

#[test]
fn no_calldata_log_or_storage_of_a_whole_run_holds_anything_personal() -> Result<()> {
    run(async {
        let sensitive = Traits { sensitive: true, ..RETAIN };
        let stage = Stage::configured("[limits]\nfailures = 5").await?;
        let topic = stage.topic_with("hospital/w1/hr", sensitive, CLOSED, CLOSED).await?;
        let open = stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        let salt = B256::repeat_byte(0x5A);
        let commitment = keccak256([salt.as_slice(), HIDDEN.as_bytes()].concat());
        stage.hide_below(&open, commitment).await?;
        let wallets = &stage.site.wallets;
        stage.grant(&topic, wallets.reader.address(), Right::Subscribe).await?;
        stage.grant(&topic, wallets.publisher.address(), Right::Publish).await?;
        stage.caught_up().await?;
        let mut reader = session(&stage, &stage.reader(CLIENTS[1])?).await?;
        assert_eq!(reader.subscribe(&[("hospital/w1/hr/#", 0)]).await?, [0]);
        let mut writer = session(&stage, &stage.publisher(CLIENTS[0])?).await?;
        for id in 1..5 {
            let publish = Publish::new(NAME, PAYLOAD.as_bytes()).qos(1, id);
            writer.publish_whole(&publish).await?;
            reader.delivery().await?;
        }
        let mut stranger = session(&stage, &stage.stranger(CLIENTS[2])?).await?;
        assert_eq!(stranger.subscribe(&[(NAME, 0)]).await?, [0x87]);
        for _ in 0..7 {
            let wrong = Connect::of(V5, &stage.wrong_proof(CLIENTS[3])?);
            let address = stage.site.mqtt()?;
            let Ok(mut client) = Raw::plain_from(V5, IpAddr::from(ATTACKER), address).await else {
                continue;
            };
            let _ = client.connack(&wrong).await;
        }
        let mut erase = Command::new(program());
        erase.arg("erase").arg("--config").arg(&stage.site.gateway()?.config);
        let erased = erase.arg(wallets.reader.address().to_string()).output()?;
        ensure!(erased.status.success(), "{}", String::from_utf8_lossy(&erased.stderr));

        // Only where there is something of each kind does an empty search mean anything.
        let anchored = "Anchored(uint256,address,uint64,bytes32,bytes32,uint64)";
        let raised =
            "AlertRaised(uint256,bytes32,address,address,uint8,uint32,uint64,uint64,bytes32)";
        let all_there = || async {
            let bans = stage.origin_bans().await?.len();
            let (anchors, alerts) =
                (stage.logs(anchored).await?.len(), stage.logs(raised).await?.len());
            Ok((bans > 0 && anchors > 1 && alerts > 0).then_some(()))
        };
        until("a ban, an alert and anchors on chain", all_there).await?;
        let mut places = on_chain(&stage).await?;
        let name = hex::encode("hospital/w1/hr");
        ensure!(
            places[0].1.contains(&name) && places[1].1.contains(&name),
            "the public name is public"
        );
        let owner = hex::encode(stage.owner());
        ensure!(places[2].1.contains(&owner), "the storage has the owner");
        assert_eq!(found(&places), Vec::<String>::new());

        // The search can find: the same with one pseudonym made without a key.
        places[2].1.push_str(&hex::encode(keccak256(ATTACKER.octets())));
        places[1].1.push_str(&hex::encode(CLIENTS[0]));
        assert_eq!(found(&places).len(), 3, "{:?}", found(&places));
        Ok(())
    })
}
