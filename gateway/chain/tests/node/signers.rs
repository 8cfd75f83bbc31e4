//! A signer in another process: asked in time, believed in nothing.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::Encodable2718,
    primitives::{Address, Bytes, Signature, TxKind, U64, U128, U256},
};
use flytrap_chain::{
    Alarm, Signer,
    keys::Key,
    signer::{RemoteSigner, RemoteSignerConfig, SignerError},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    task::JoinHandle,
};
use url::Url;

use crate::{
    site::key,
    submitting::{Submitting, banned, config, gateway, nonce, site},
};

/// What the signer does with what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// With the transaction's meaning beside its octets, as geth's own signer answers.
    Wordy,
    /// Signs with another key.
    Impostor,
    /// Signs the transaction with another receiver.
    Altering,
    /// Signs for another chain.
    Elsewhere,
    /// Holds another key only.
    Keyless,
    Garbage,
    /// Answers with more than a transaction can have.
    Endless,
    /// Says that it does not want to.
    Unwilling,
    /// Never answers.
    Silent,
}

/// A signer of this test's own, over HTTP.
struct Harness {
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Harness {
    async fn tcp(manner: Manner) -> (Self, Arc<RemoteSigner>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (manner, asked) = (Arc::new(Mutex::new(manner)), Arc::<Mutex<_>>::default());
        let shared = (manner.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.0.clone(), shared.1.clone()));
            }
        });
        (Self { manner, asked, task }, remote(&url))
    }

    fn unix(path: PathBuf) -> (Self, Arc<RemoteSigner>) {
        let listener = UnixListener::bind(&path).unwrap();
        let (manner, asked) = (Arc::new(Mutex::new(Manner::Honest)), Arc::<Mutex<_>>::default());
        let shared = (manner.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.0.clone(), shared.1.clone()));
            }
        });
        (Self { manner, asked, task }, remote(&format!("unix:{}", path.display())))
    }

    fn behave(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn signed(&self) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|method| *method == "eth_signTransaction").count()
    }
}

fn remote(url: &str) -> Arc<RemoteSigner> {
    let (url, address) = (Url::parse(url).unwrap(), gateway().address());
    RemoteSigner::new(RemoteSignerConfig { url, address, ca: None }).unwrap()
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut octets = Vec::new();
    loop {
        let request = loop {
            if let Some((head, body)) = split(&octets) {
                octets.drain(..head + body.len());
                break body;
            }
            match stream.read_buf(&mut octets).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        };
        let request: Value = serde_json::from_slice(&request).unwrap();
        let manner = *manner.lock().unwrap();
        let method = request["method"].as_str().unwrap().to_owned();
        asked.lock().unwrap().push(method.clone());
        let body = match (manner, method.as_str()) {
            (Manner::Silent, _) => std::future::pending().await,
            (_, "eth_signTransaction") => answer(manner, &request),
            (Manner::Keyless, "eth_accounts") => ok(&request, json!([key(4).address()])),
            (_, "eth_accounts") => ok(&request, json!([key(4).address(), gateway().address()])),
            (Manner::Elsewhere, "eth_chainId") => ok(&request, json!("0x1")),
            // As signers do that know of no chain.
            _ => json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "Method not found"}})
                .to_string(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Length of the head and the body of a request that has come in full.
fn split(octets: &[u8]) -> Option<(usize, Vec<u8>)> {
    let head = octets.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&octets[..head]).to_lowercase();
    let length = text.split("content-length:").nth(1)?.lines().next()?.trim().parse().ok()?;
    Some((head, octets.get(head..)?.get(..length)?.to_vec()))
}

fn ok(request: &Value, result: Value) -> String {
    json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string()
}

fn answer(manner: Manner, request: &Value) -> String {
    match manner {
        Manner::Garbage => return ok(request, json!("0x02c0")),
        Manner::Endless => return ok(request, json!(format!("0x{}", "00".repeat(1 << 20)))),
        Manner::Unwilling => {
            return json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32000, "message": "locked"}})
                .to_string();
        }
        _ => {}
    }
    let asked = &request["params"][0];
    assert_eq!(asked["from"].as_str().unwrap().parse::<Address>().unwrap(), gateway().address());
    let number = |name: &str| asked[name].as_str().unwrap().parse::<U128>().unwrap().to::<u128>();
    let receiver: Address = asked["to"].as_str().unwrap().parse().unwrap();
    let chain_id = asked["chainId"].as_str().unwrap().parse::<U64>().unwrap().to();
    let tx = TxEip1559 {
        chain_id: if manner == Manner::Elsewhere { 1 } else { chain_id },
        nonce: u64::try_from(number("nonce")).unwrap(),
        gas_limit: u64::try_from(number("gas")).unwrap(),
        max_fee_per_gas: number("maxFeePerGas"),
        max_priority_fee_per_gas: number("maxPriorityFeePerGas"),
        to: TxKind::Call(if manner == Manner::Altering { Address::ZERO } else { receiver }),
        value: asked["value"].as_str().unwrap().parse::<U256>().unwrap(),
        input: asked["data"].as_str().unwrap().parse::<Bytes>().unwrap(),
        ..TxEip1559::default()
    };
    let signs: Key = if manner == Manner::Impostor { key(4) } else { gateway() };
    let signature = Signature::from_raw_array(&signs.sign(&tx.signature_hash())).unwrap();
    let signed = TxEnvelope::from(tx.into_signed(signature));
    let raw = Bytes::from(signed.encoded_2718());
    match manner {
        Manner::Wordy => ok(request, json!({"raw": raw, "tx": signed})),
        _ => ok(request, json!(raw)),
    }
}

#[tokio::test]
async fn a_signer_elsewhere_signs_the_gateways_transactions_over_http_and_a_unix_socket() {
    let place = tempfile::tempdir().unwrap();
    for manner in [Manner::Honest, Manner::Wordy] {
        let site = site().await;
        let end = site.soon().await;
        let state = tempfile::tempdir().unwrap();
        let (harness, signer) = match manner {
            Manner::Wordy => Harness::tcp(manner).await,
            _ => Harness::unix(place.path().join("signer.sock")),
        };
        let signer = Signer::Remote(signer);
        let submitting = Submitting::start(&site, config(&site, state.path()), signer);
        submitting.ban(1, end).await;
        submitting.drained().await;
        assert_eq!((banned(&site).await, harness.signed()), (vec![1], 1));
        assert_eq!(nonce(&site, gateway().address()).await, U256::ONE);
    }
}

#[tokio::test]
async fn a_wrong_answer_of_a_signer_is_refused_told_and_never_sent() {
    let site = site().await;
    let end = site.soon().await;
    let state = tempfile::tempdir().unwrap();
    let (harness, signer) = Harness::tcp(Manner::Keyless).await;
    let signer = Signer::Remote(signer);
    let mut cases = 0;
    for (manner, alarm, words) in [
        (Manner::Keyless, Alarm::SignerWrong, "holds no key for"),
        (Manner::Elsewhere, Alarm::SignerWrong, "for chain 1"),
        (Manner::Impostor, Alarm::SignerWrong, "signed as"),
        (Manner::Altering, Alarm::SignerWrong, "the receiver differs"),
        (Manner::Elsewhere, Alarm::SignerWrong, "the chain id differs"),
        (Manner::Garbage, Alarm::SignerWrong, "it is no transaction"),
        (Manner::Endless, Alarm::SignerWrong, "more than 262144 octets"),
        (Manner::Unwilling, Alarm::SignerAway, "locked"),
    ] {
        harness.behave(manner);
        let submitting = Submitting::start(&site, config(&site, state.path()), signer.clone());
        if cases == 0 {
            submitting.ban(1, end).await;
        }
        let told = submitting.alarmed(alarm).await;
        assert!(told.contains(words), "{manner:?}: {told}");
        let health = submitting.handle.health();
        assert_eq!((health.sent(), health.queued_bans()), (0, 1), "{manner:?}");
        submitting.kill().await;
        cases += 1;
    }
    assert_eq!(cases, 8);
    assert!(harness.signed() >= 5);
    assert_eq!(nonce(&site, gateway().address()).await, U256::ZERO);
    harness.behave(Manner::Honest);
    let submitting = Submitting::start(&site, config(&site, state.path()), signer);
    submitting.drained().await;
    let health = submitting.handle.health();
    assert_eq!((banned(&site).await, health.alarms()), (vec![1], vec![]));
}

#[tokio::test]
async fn a_signer_that_never_answers_is_given_up_in_time() {
    let (_harness, signer) = Harness::tcp(Manner::Silent).await;
    let signer = Signer::Remote(signer);
    let started = std::time::Instant::now();
    let checked = signer.check(31337).await;
    assert!(matches!(checked, Err(SignerError::Away(_))), "{checked:?}");
    let took = started.elapsed();
    assert!(took > Duration::from_secs(8) && took < Duration::from_secs(15), "{took:?}");
}
