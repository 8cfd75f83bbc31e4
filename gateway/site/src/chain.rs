//! The chain: an anvil of the site's own.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use alloy::providers::{DynProvider, Provider, ProviderBuilder};
use eyre::{Result, WrapErr, eyre};
use flytrap_chain::keys::Key;
use serde_json::{Value, json};
use url::Url;

use crate::ground::{Child, Ground};
use crate::tools;

/// How the chain makes blocks.
#[derive(Clone, Debug, Default)]
pub struct ChainOptions {
    /// A block each so long; without, one for every transaction at once.
    pub block_time: Option<Duration>,
    /// The chain id, 31337 unless said otherwise.
    pub chain_id: Option<u64>,
}

/// A running anvil.
#[derive(Debug)]
pub struct Chain {
    /// The process; freeze and thaw it to make the node hang.
    pub child: Child,
    port: u16,
    keys: Vec<Key>,
    provider: DynProvider,
    /// Anvil gives two transactions of one account the same nonce if it is asked for both at once.
    sending: tokio::sync::Mutex<()>,
}

impl Chain {
    pub(crate) async fn start(
        ground: &Arc<Ground>,
        root: &std::path::Path,
        options: &ChainOptions,
    ) -> Result<Self> {
        Self::start_at(ground, root, options, 0, "anvil").await
    }

    /// A second chain, on a given port, for tests in which a node comes back as another.
    pub(crate) async fn start_at(
        ground: &Arc<Ground>,
        root: &std::path::Path,
        options: &ChainOptions,
        port: u16,
        name: &str,
    ) -> Result<Self> {
        let mut command = Command::new(tools::foundry(root, "anvil")?);
        // Without a number after --prune-history reorganisations fail, without the option anvil fills the home directory.
        command.args([
            "--host",
            "127.0.0.1",
            "--prune-history",
            "128",
            "--port",
            &port.to_string(),
        ]);
        if let Some(time) = options.block_time {
            command.args(["--block-time", &time.as_secs_f64().to_string()]);
        }
        if let Some(id) = options.chain_id {
            command.args(["--chain-id", &id.to_string()]);
        }
        let mut child = Child::spawn(ground, name, command)?;
        let (port, keys) = child
            .until_logged("listening", Duration::from_secs(30), |log| {
                Some((listening(log)?, keys(log)))
            })
            .await?;
        let keys: Vec<Key> = keys.iter().filter_map(|key| Key::from_hex(key)).collect();
        let http: Url = format!("http://127.0.0.1:{port}").parse()?;
        let provider =
            ProviderBuilder::new().disable_recommended_fillers().connect_http(http).erased();
        Ok(Self { child, port, keys, provider, sending: tokio::sync::Mutex::default() })
    }

    /// The node's address for HTTP.
    #[must_use]
    pub fn http(&self) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}", self.port)).expect("a port makes no URL invalid")
    }

    /// The node's address for WebSocket.
    #[must_use]
    pub fn ws(&self) -> Url {
        Url::parse(&format!("ws://127.0.0.1:{}", self.port)).expect("a port makes no URL invalid")
    }

    /// The port of both.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For reading; it fills and signs nothing.
    #[must_use]
    pub fn provider(&self) -> &DynProvider {
        &self.provider
    }

    pub(crate) fn key(&self, index: usize) -> Result<Key> {
        self.keys.get(index).cloned().ok_or_else(|| eyre!("anvil has no account {index}"))
    }

    /// One call to the node with whatever it answers.
    ///
    /// # Errors
    /// If the node does not answer or refuses.
    pub async fn call(&self, method: &'static str, params: Value) -> Result<Value> {
        self.provider.raw_request(method.into(), params).await.wrap_err(method)
    }

    /// Lets one of anvil's own accounts send a transaction, and says its hash. However many ask, each gets a nonce of its own.
    ///
    /// # Errors
    /// If the node does not answer or does not take it.
    pub async fn send(&self, transaction: Value) -> Result<Value> {
        let _one_at_a_time = self.sending.lock().await;
        self.call("eth_sendTransaction", json!([transaction])).await
    }

    /// Height of the newest block.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn height(&self) -> Result<u64> {
        Ok(self.provider.get_block_number().await?)
    }

    /// Time of the newest block, Unix seconds.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn time(&self) -> Result<u64> {
        let block = self.provider.get_block(alloy::eips::BlockId::latest()).await?;
        Ok(block.ok_or_else(|| eyre!("the node has no newest block"))?.header.timestamp)
    }

    /// Makes `blocks` empty blocks at once.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn mine(&self, blocks: u64) -> Result<()> {
        self.call("anvil_mine", json!([format!("{blocks:#x}"), "0x1"])).await.map(drop)
    }

    /// Moves the clock forward and makes a block.
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn pass(&self, seconds: u64) -> Result<()> {
        self.call("evm_increaseTime", json!([seconds])).await?;
        self.call("evm_mine", json!([])).await.map(drop)
    }

    /// Replaces the last `depth` blocks by empty ones.
    ///
    /// # Errors
    /// If the node does not answer or cannot go back so far.
    pub async fn reorganise(&self, depth: u64) -> Result<()> {
        self.call("anvil_reorg", json!([depth, []])).await.map(drop)
    }

    /// Holds transactions back in the pool (`false`), or makes a block for each again (`true`).
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn automine(&self, on: bool) -> Result<()> {
        self.call("evm_setAutomine", json!([on])).await.map(drop)
    }
}

fn listening(log: &str) -> Option<u16> {
    let line = log.lines().find_map(|line| line.strip_prefix("Listening on "))?;
    line.rsplit_once(':')?.1.trim().parse().ok()
}

/// The private keys that anvil lists at start, which everyone knows: `(0) 0x…`, 64 digits.
fn keys(log: &str) -> Vec<String> {
    let key = |line: &str| {
        let (_, key) = line.strip_prefix('(')?.split_once(") ")?;
        (key.len() == 66 && key.starts_with("0x")).then(|| key.to_owned())
    };
    log.lines().filter_map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "Available Accounts\n==================\n\n(0) 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 (10000.000000000000000000 ETH)\n\n\
        Private Keys\n==================\n\n(0) 0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\n\nListening on 127.0.0.1:43211\n";

    #[test]
    fn port_and_keys_are_read_from_what_anvil_says() {
        assert_eq!(listening(LOG), Some(43211));
        assert_eq!(keys(LOG).len(), 1);
        assert_eq!(listening("Private Keys\n"), None);
    }

    #[tokio::test]
    async fn the_chain_mines_passes_time_and_reorganises() {
        let ground = Ground::new().expect("a directory");
        let root = tools::project_root().expect("the project");
        let chain = Chain::start(&ground, &root, &ChainOptions::default()).await.expect("anvil");
        chain.mine(3).await.expect("blocks");
        assert_eq!(chain.height().await.expect("a height"), 3);
        let before = chain.time().await.expect("a time");
        chain.pass(3600).await.expect("an hour");
        assert!(chain.time().await.expect("a time") >= before + 3600);
        let hash = async || {
            chain.call("eth_getBlockByNumber", json!(["0x3", false])).await.expect("a block")["hash"].clone()
        };
        let orphan = hash().await;
        chain.reorganise(2).await.expect("a reorganisation");
        assert_ne!(hash().await, orphan);
    }

    #[tokio::test]
    async fn an_account_that_sends_much_at_once_loses_nothing() {
        let ground = Ground::new().expect("a directory");
        let root = tools::project_root().expect("the project");
        let options =
            ChainOptions { block_time: Some(Duration::from_millis(50)), ..ChainOptions::default() };
        let chain = Chain::start(&ground, &root, &options).await.expect("anvil");
        let account = chain.key(0).expect("an account").address();
        let call = json!({"from": account, "to": account, "value": "0x1", "gas": "0x5208"});
        let some = async || {
            for _ in 0..25 {
                chain.send(call.clone()).await.expect("a hash");
            }
        };
        tokio::join!(some(), some(), some(), some());
        let pending = chain.call("eth_getTransactionCount", json!([account, "pending"])).await;
        assert_eq!(pending.expect("a nonce"), "0x64");
    }
}
