//! Proofs besides user name and password, as a test makes them: answers to challenges, and wallets that are contracts.

use std::path::Path;
use std::process::Command;

use alloy::sol_types::SolValue;
use alloy_primitives::{Address, B256, Bytes};
use eyre::{Result, WrapErr, bail, ensure, eyre};
use flytrap_chain::keys::Key;
use flytrap_policy::credential::{self, Challenge};
use flytrap_site::Login;
use serde_json::{Value, json};

use super::raw::{Connect, Got, Raw, auth, property};
use super::{Stage, Way};

/// The authentication method.
pub const METHOD: &str = "FLYTRAP-EIP712";
/// What gateways of these tests are named.
pub const NAME: &str = "gateway.test";

alloy::sol! {
    /// `test-sol/ContractWallets.sol`.
    interface IOwnedWallet {
        function handOver(address to) external;
    }
}

/// A CONNECT without user name and password, and with these properties.
pub fn connect(client_id: &str, properties: Vec<u8>) -> Connect {
    Connect { client_id: client_id.into(), properties, ..Connect::anonymous() }
}

/// A CONNECT that asks for a challenge.
pub fn asking(client_id: &str) -> Connect {
    connect(client_id, property::authentication(METHOD, None))
}

/// A CONNECT with the login in the data of the method.
pub fn one_shot(login: &Login) -> Connect {
    connect(&login.client_id, property::authentication(METHOD, Some(&data_of(login))))
}

/// What stands in the data of the method.
pub fn data_of(login: &Login) -> Vec<u8> {
    format!("{}:{}", login.user_name, login.password).into_bytes()
}

/// A CONNECT with the login in user properties.
pub fn in_properties(login: &Login) -> Connect {
    let properties = [
        property::user("flytrap-address", &login.user_name),
        property::user("flytrap-token", &login.password),
    ];
    connect(&login.client_id, properties.concat())
}

/// The nonce in an AUTH that asks for an answer.
///
/// # Errors
/// If it is another packet.
pub fn nonce_in(got: &Got) -> Result<B256> {
    match got {
        Got::Auth { code: 0x18, method: Some(method), data: Some(data) } if method == METHOD => {
            ensure!(data.len() == 32, "a nonce of {} octets", data.len());
            Ok(B256::from_slice(data))
        }
        other => bail!("wanted a challenge, got {other:?}"),
    }
}

impl Stage {
    /// What `key` answers.
    pub fn answer(&self, key: &Key, client_id: &str, nonce: B256) -> Vec<u8> {
        self.answer_to(key, &Challenge { client_id, nonce, server: NAME })
    }

    /// What `key` answers to a question of one's own.
    pub fn answer_to(&self, key: &Key, asked: &Challenge<'_>) -> Vec<u8> {
        let digest = credential::challenge_digest(&self.site.place(), asked);
        credential::encode_answer(key.address(), &key.sign(&digest))
    }

    /// A client that was asked, and the nonce.
    ///
    /// # Errors
    /// If it is not asked.
    pub async fn asked(&self, way: Way, client_id: &str) -> Result<(Raw, B256)> {
        let mut client = self.dial(way).await?;
        let nonce = nonce_in(&client.connack(&asking(client_id)).await?)?;
        Ok((client, nonce))
    }

    /// A session that `key` has opened by an answer.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub async fn answered(&self, way: Way, key: &Key, client_id: &str) -> Result<Raw> {
        let (mut client, nonce) = self.asked(way, client_id).await?;
        client.send(auth(0x18, METHOD, Some(&self.answer(key, client_id, nonce)))).await?;
        match client.get().await? {
            Got::ConnAck { code: 0, method: Some(method), .. } if method == METHOD => Ok(client),
            other => bail!("wanted CONNACK with the method, got {other:?}"),
        }
    }

    /// Puts a contract of `test-sol/ContractWallets.sol` on chain.
    ///
    /// # Errors
    /// If it does not compile, or the node does not take it.
    pub async fn contract_wallet(&self, name: &str, owner: Option<Address>) -> Result<Address> {
        let mut code = bytecode(self.site.root(), name)?.to_vec();
        code.extend(owner.iter().flat_map(SolValue::abi_encode));
        let from = self.site.wallets.spare[1].address();
        let transaction = json!({ "from": from, "data": Bytes::from(code), "gas": "0x1e8480" });
        let hash = self.site.chain.send(transaction).await?;
        let receipt = self.receipt(&hash).await?;
        ensure!(receipt.ok, "{name} was not put on chain");
        let receipt = self.site.chain.call("eth_getTransactionReceipt", json!([hash])).await?;
        serde_json::from_value(receipt["contractAddress"].clone()).wrap_err("contractAddress")
    }

    /// A token of a contract wallet, signed by its owner.
    ///
    /// # Errors
    /// If the clock is past 2106.
    pub fn wallet_token(&self, wallet: Address, owner: &Key, client_id: &str) -> Result<Login> {
        let (from, to) = (flytrap_site::unix_now() - 60, flytrap_site::unix_now() + 3_600);
        let digest =
            credential::wallet_token_digest(&self.site.place(), wallet, client_id, from, to);
        let signature = owner.sign(&digest);
        let password =
            credential::encode_token(u32::try_from(from)?, u32::try_from(to)?, &signature);
        Ok(Login { user_name: wallet.to_string(), password, client_id: client_id.into() })
    }
}

/// What forge makes of a contract; it compiles where the sources are newer.
fn bytecode(root: &Path, name: &str) -> Result<Bytes> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let packaged = root.join("node_modules/@foundry-rs/forge-linux-amd64/bin/forge");
    let forge = if packaged.is_file() {
        packaged
    } else {
        flytrap_site::on_path("forge").ok_or_else(|| eyre!("forge is missing: run `make setup`"))?
    };
    let mut command = Command::new(forge);
    command.current_dir(root).env("FOUNDRY_OFFLINE", "true");
    command.args(["build", "test-sol/ContractWallets.sol"]);
    if std::env::var_os("FOUNDRY_SOLC").is_none() && root.join("script/solc").is_file() {
        command.env("FOUNDRY_SOLC", root.join("script/solc"));
    }
    let output = command.output().wrap_err("forge")?;
    ensure!(output.status.success(), "forge: {}", String::from_utf8_lossy(&output.stderr));
    let file = root.join(format!("out/ContractWallets.sol/{name}.json"));
    let text = std::fs::read(&file).wrap_err_with(|| file.display().to_string())?;
    let artifact: Value = serde_json::from_slice(&text)?;
    serde_json::from_value(artifact["bytecode"]["object"].clone()).wrap_err("bytecode")
}

/// The value of a counter with these words among its labels, 0 if there is none.
///
/// # Errors
/// If the gateway does not answer.
pub async fn counted(stage: &Stage, name: &str, labels: &[&str]) -> Result<f64> {
    let (_, body) = stage.site.gateway()?.ask("metrics").await?;
    let mut lines = body.lines().filter(|line| line.starts_with(name));
    let found = lines.find(|line| labels.iter().all(|label| line.contains(label)));
    Ok(found.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0))
}

/// Facts for a foreign client's CONNECT.
pub fn facts(method: Option<&str>, data: Option<&[u8]>, user: &[(&str, &str)]) -> Value {
    let mut facts = json!({});
    if let Some(method) = method {
        facts["method"] = method.into();
    }
    if let Some(data) = data {
        facts["data"] = String::from_utf8_lossy(data).into();
    }
    if !user.is_empty() {
        facts["user"] = json!(user);
    }
    facts
}
