//! The contracts on the site's chain, from `script/Deploy.s.sol`.
//!
//! The script is the only place that knows how they are deployed. Running it costs seconds, and tests start many sites:
//! so its transactions are kept (git-ignored, under a name made from the sources) and sent again to the next fresh chain,
//! where the same code gives the same addresses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use alloy::primitives::keccak256;
use eyre::{Result, WrapErr, bail, eyre};
use serde_json::{Value, json};

use crate::chain::Chain;
use crate::ground::{Child, Ground};
use crate::tools;

/// How the contracts come onto the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deploy {
    /// The script's transactions, as an earlier run sent them; the script itself the first time.
    #[default]
    Replay,
    /// `forge script`, always.
    Script,
}

/// Deploys and returns the deployment file.
pub(crate) async fn deploy(
    ground: &Arc<Ground>,
    root: &Path,
    chain: &Chain,
    how: Deploy,
) -> Result<PathBuf> {
    let file = ground.path("deployment.json");
    match how {
        Deploy::Script => drop(script(ground, root, chain, &file).await?),
        Deploy::Replay => {
            let kept = root.join("cache").join("site").join(format!("{}.json", fingerprint(root)?));
            fs::create_dir_all(root.join("cache/site"))?;
            // One at a time runs the script; whoever waited finds its result.
            let lock = fs::File::create(root.join("cache/site/lock"))?;
            if !kept.is_file() {
                let lock =
                    tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
                if !kept.is_file() {
                    let transactions = script(ground, root, chain, &file).await?;
                    let deployment: Value = serde_json::from_slice(&fs::read(&file)?)?;
                    let text = json!({ "transactions": transactions, "deployment": deployment })
                        .to_string();
                    let unfinished = kept.with_extension(format!("{}", std::process::id()));
                    fs::write(&unfinished, text)?;
                    fs::rename(&unfinished, &kept)?;
                    return Ok(file);
                }
                drop(lock);
            }
            replay(chain, &kept, &file).await?;
        }
    }
    Ok(file)
}

/// A name for the sources as they are: every octet that decides what the script does.
fn fingerprint(root: &Path) -> Result<String> {
    let mut files = vec![root.join("foundry.toml"), root.join("package-lock.json")];
    let mut dirs = vec![root.join("src-sol")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).wrap_err_with(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.push(root.join("script/Deploy.s.sol"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text =
            fs::read(&file).wrap_err_with(|| format!("{} cannot be read", file.display()))?;
        all.extend_from_slice(keccak256(text).as_slice());
    }
    Ok(alloy::hex::encode(&keccak256(all)[..8]))
}

/// The compiler may need a part of it.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(300);

/// Runs the script; returns the transactions it sent.
async fn script(
    ground: &Arc<Ground>,
    root: &Path,
    chain: &Chain,
    file: &Path,
) -> Result<Vec<Value>> {
    let deployer = chain.key(0)?;
    let broadcast = ground.path("broadcast");
    // Scripts may write below `deployments/` only (`fs_permissions` in foundry.toml), so the file is fetched from there.
    let written = Written(root.join(format!("deployments/31337-{}.json", ground.name())));
    let mut command = Command::new(tools::foundry(root, "forge")?);
    command.current_dir(root);
    // Anvil strands transactions that arrive out of the order of their nonces while it makes a block, so one at a time.
    command.args(["script", "script/Deploy.s.sol", "--broadcast", "--slow", "--unlocked"]);
    command.args(["--rpc-url", chain.http().as_str()]);
    command.args(["--sender", &deployer.address().to_string()]);
    command
        .env("DEPLOYMENT_FILE", &written.0)
        .env("FOUNDRY_BROADCAST", &broadcast)
        .env("FOUNDRY_OFFLINE", "true");
    let wrapper = root.join("script/solc");
    if std::env::var_os("FOUNDRY_SOLC").is_none() && wrapper.is_file() {
        command.env("FOUNDRY_SOLC", wrapper);
    }
    let mut child = Child::spawn(ground, "forge", command)?;
    let status = child.wait(SCRIPT_TIMEOUT).await?;
    if !status.success() {
        bail!("the contracts were not deployed: {status}\n{}", child.tail());
    }
    if !written.0.is_file() {
        bail!("script/Deploy.s.sol wrote no {}\n{}", written.0.display(), child.tail());
    }
    fs::copy(&written.0, file)?;
    let latest = find(&broadcast, "run-latest.json")
        .ok_or_else(|| eyre!("forge left no record of its transactions\n{}", child.tail()))?;
    let record: Value = serde_json::from_slice(&fs::read(latest)?)?;
    let sent = record["transactions"]
        .as_array()
        .ok_or_else(|| eyre!("forge's record has no transactions"))?;
    Ok(sent.iter().map(|sent| sent["transaction"].clone()).collect())
}

/// A file that is gone when this is.
struct Written(PathBuf);

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path());
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    let dirs = entries.iter().filter(|path| path.is_dir() && !path.ends_with("dry-run"));
    entries
        .iter()
        .find(|path| path.ends_with(name))
        .cloned()
        .or_else(|| dirs.clone().find_map(|dir| find(dir, name)))
}

/// Sends an earlier run's transactions.
async fn replay(chain: &Chain, kept: &Path, file: &Path) -> Result<()> {
    let kept: Value = serde_json::from_slice(&fs::read(kept)?)?;
    let transactions = kept["transactions"]
        .as_array()
        .ok_or_else(|| eyre!("the kept deployment has no transactions"))?;
    let mut hashes = Vec::new();
    for transaction in transactions {
        let mut call = json!({ "gas": "0xe4e1c0" });
        for field in ["from", "to", "input", "value"] {
            if !transaction[field].is_null() {
                call[field] = transaction[field].clone();
            }
        }
        hashes.push(chain.send(call).await?);
    }
    for hash in hashes {
        let receipt = receipt(chain, &hash).await?;
        if receipt["status"] != "0x1" {
            bail!("a transaction of the deployment failed: {receipt}");
        }
    }
    let mut deployment = kept["deployment"].clone();
    deployment["chainId"] =
        chain.call("eth_chainId", json!([])).await.and_then(|id| number(&id))?.into();
    fs::write(file, deployment.to_string())?;
    Ok(())
}

async fn receipt(chain: &Chain, hash: &Value) -> Result<Value> {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let receipt = chain.call("eth_getTransactionReceipt", json!([hash])).await?;
        if !receipt.is_null() {
            return Ok(receipt);
        }
        if std::time::Instant::now() >= deadline {
            bail!("transaction {hash} got into no block: does the chain make blocks?");
        }
        tokio::time::sleep(crate::ground::TICK).await;
    }
}

fn number(hex: &Value) -> Result<u64> {
    let digits = hex.as_str().and_then(|text| text.strip_prefix("0x"));
    Ok(u64::from_str_radix(digits.ok_or_else(|| eyre!("{hex} is no number"))?, 16)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChainOptions;
    use flytrap_chain::Deployment;

    async fn code(chain: &Chain, file: &Path) -> Vec<Value> {
        let at = Deployment::read(file).expect("a deployment");
        let mut all = Vec::new();
        for (_, address) in at.addresses() {
            all.push(
                chain.call("eth_getCode", json!([address, "latest"])).await.expect("an answer"),
            );
        }
        all
    }

    #[tokio::test]
    async fn a_replayed_deployment_has_the_code_and_the_addresses_of_the_script() {
        let root = tools::project_root().expect("the project");
        let mut seen = Vec::new();
        for how in [Deploy::Script, Deploy::Replay, Deploy::Replay] {
            let ground = Ground::new().expect("a directory");
            let chain =
                Chain::start(&ground, &root, &ChainOptions::default()).await.expect("anvil");
            let file = deploy(&ground, &root, &chain, how).await.expect("contracts");
            let code = code(&chain, &file).await;
            assert!(
                code.iter().all(|code| code.as_str().is_some_and(|code| code.len() > 1_000)),
                "{code:?}"
            );
            seen.push((Deployment::read(&file).expect("a deployment"), code));
        }
        assert!(seen[0] == seen[1] && seen[1] == seen[2], "{seen:?}");
    }
}
