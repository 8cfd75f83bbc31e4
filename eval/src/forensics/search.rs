//! The search, as docs/forensics.md has it: an auditor's commands, and what each answer leads to next.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use alloy_primitives::Address;
use eyre::{Result, WrapErr, ensure, eyre};
use flytrap_site::Site;
use serde_json::Value;

use super::Facts;

/// What an auditor has: the programs, a node, the deployment file. The export is made on the gateway's machine.
pub(super) struct Search {
    flytrap: PathBuf,
    gateway: PathBuf,
    config: PathBuf,
    records: PathBuf,
    /// Of every command.
    place: Vec<String>,
}

impl Search {
    pub(super) fn new(site: &Site, config: &std::path::Path) -> Result<Self> {
        let (rpc, broker) = (site.chain.http().to_string(), site.broker_id.to_string());
        let deployment = site.deployment_file.display().to_string();
        let place = ["--rpc", &rpc, "--deployment", &deployment, "--broker", &broker];
        Ok(Self {
            flytrap: flytrap_site::command_line()?,
            gateway: flytrap_site::gateway_program()?,
            config: config.to_owned(),
            records: site.dir().join("records.jsonl"),
            place: place.map(str::to_owned).to_vec(),
        })
    }

    pub(super) fn run(&self) -> Result<Facts> {
        let file = self.records.display().to_string();
        let config = self.config.display().to_string();
        self.tell("flytrap-gateway export --config gateway.toml --out records.jsonl", || {
            let mut export = Command::new(&self.gateway);
            export.args(["export", "--config", &config, "--out", &file]);
            output(export)
        })?;
        self.ask(&["audit", "verify", &file])?;

        // 1. A key in two countries at once.
        let roaming = self.ask(&["audit", "roaming", "--records", &file])?;
        let at_once: Vec<&Value> =
            list(&roaming).filter(|key| key["secondsBetween"] == 0).collect();
        ensure!(at_once.len() == 1, "{} keys were in two countries at once", at_once.len());
        let (device, wallet) = (address(&at_once[0]["key"])?, address(&at_once[0]["wallet"])?);
        let fewest = list(&at_once[0]["countries"]).min_by_key(|there| there["records"].as_u64());
        let country = fewest.and_then(|there| there["country"].as_str());
        let country = country.ok_or_else(|| eyre!("no country: {roaming}"))?.to_owned();

        // 2. What was done with it there.
        let (key, with) = (device.to_string(), ["--records", &file, "--sum"]);
        let there = ["audit", "ask", "--device", &key, "--country", &country];
        let sums = self.ask(&[&there[..], &with].concat())?;
        let mut topics: Vec<String> =
            list(&sums).filter_map(|sum| Some(sum["topic"].as_str()?.to_owned())).collect();
        topics.sort();
        topics.dedup();
        let numbers =
            |field: &str| list(&sums).filter_map(|sum| sum[field].as_u64()).collect::<Vec<u64>>();
        let first = numbers("first").into_iter().min().ok_or_else(|| eyre!("nothing: {sums}"))?;
        let last = numbers("last").into_iter().max().unwrap_or_default();
        let messages = numbers("count").into_iter().sum();

        // 3. Who else read there meanwhile.
        let mut readers = BTreeSet::new();
        let (from, to) = (first.to_string(), last.to_string());
        for topic in &topics {
            let asked = ["audit", "ask", "--topic", topic, "--from", &from, "--to", &to];
            let sums = self.ask(&[&asked[..], &["--decision", "allowed"], &with].concat())?;
            for sum in list(&sums).filter(|sum| sum["kind"] == "delivered") {
                ensure!(sum["verified"] == true, "unverified: {sum}");
                readers.insert(address(&sum["device"])?);
            }
        }
        readers.remove(&device);

        // 4. On which ground: the copy had the right that the device has.
        let ground = [&there[..], &["--records", &file]].concat();
        let rows = self.ask(&ground)?;
        let stood = list(&rows).filter(|row| row["ground"]["tx"].is_string()).count();
        ensure!(stood > 0 && stood == list(&rows).count(), "accesses without a grant: {rows}");
        let readers = readers.into_iter().collect();
        Ok(Facts { wallet, device, country, topics, first, last, messages, readers })
    }

    /// Asks `flytrap`, in JSON.
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let file = self.records.display().to_string();
        let shown = words.join(" ").replace(&file, "records.jsonl");
        let out = self.tell(&format!("flytrap {shown}"), || {
            let mut command = Command::new(&self.flytrap);
            command.args(&self.place).arg("--json").args(words);
            output(command)
        })?;
        serde_json::from_str(&out).wrap_err_with(|| format!("{shown}: {out}"))
    }

    fn tell<T>(&self, words: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = Instant::now();
        let done = act()?;
        println!("{:>6.1} s  {words}", began.elapsed().as_secs_f64());
        Ok(done)
    }
}

fn output(mut command: Command) -> Result<String> {
    let done = command.output()?;
    let err = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{command:?}: {err}");
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn address(value: &Value) -> Result<Address> {
    let text = value.as_str().ok_or_else(|| eyre!("no address: {value}"))?;
    Ok(text.parse()?)
}
