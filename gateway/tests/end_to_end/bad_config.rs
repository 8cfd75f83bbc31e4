//! What is wrong with a configuration ends the start with a message that names the line, what was found and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::process::{self, set};
use crate::common::{PATIENCE, Stage, http, run, until};
use eyre::{Result, ensure, eyre};
use serde_json::json;
use tokio::sync::OnceCell;
use toml::{Table, Value};

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::new).await
}

/// Runs the program to its end.
async fn program(arguments: &[&str]) -> Result<(Output, String)> {
    let mut command = tokio::process::Command::new(process::program());
    command.args(arguments).kill_on_drop(true);
    let done = tokio::time::timeout(PATIENCE, command.output())
        .await
        .map_err(|_| eyre!("it still runs: {arguments:?}"))??;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    Ok((done, said))
}

async fn refused(file: &Path, wanted: &[&str], what: &str) -> Result<String> {
    let (done, said) = program(&["run", "--config", &file.display().to_string()]).await?;
    ensure!(!done.status.success(), "{what}: it ended with success:\n{said}");
    for word in wanted {
        ensure!(said.contains(word), "{what}: no {word:?} in:\n{said}");
    }
    ensure!(!said.contains("panicked"), "{what}: {said}");
    Ok(said)
}

/// The line of a configuration file that has `text`, as a message names it.
fn place(file: &Path, text: &str) -> Result<String> {
    let lines = fs::read_to_string(file)?;
    let line = lines
        .lines()
        .position(|line| line.contains(text))
        .ok_or_else(|| eyre!("no {text:?} in {}", file.display()))?;
    Ok(format!("{}:{}:", file.display(), line + 1))
}

type Edit = Box<dyn FnOnce(&mut Table, &Stage)>;

struct Case {
    what: &'static str,
    edit: Edit,
    /// Text in the line that the message has to name.
    line: &'static str,
    /// What it has to say.
    says: &'static [&'static str],
}

fn case(
    what: &'static str,
    line: &'static str,
    says: &'static [&'static str],
    edit: impl FnOnce(&mut Table, &Stage) + 'static,
) -> Case {
    Case { what, edit: Box::new(edit), line, says }
}

fn listener(table: &mut Table, index: usize) -> &mut Table {
    let listeners = table.get_mut("listener").and_then(Value::as_array_mut).expect("listeners");
    listeners[index].as_table_mut().expect("a listener")
}

fn cases() -> Vec<Case> {
    vec![
        case("unknown key", "brokr_id", &["unknown field `brokr_id`", "broker_id"], |table, _| {
            set(table, "chain", "brokr_id", 1)
        }),
        case("unknown section", "limit]", &["unknown field `limit`", "limits"], |table, _| {
            set(table, "limit", "failures", 5)
        }),
        case(
            "wrong type",
            "confirmations",
            &["invalid type: string \"many\"", "expected u64"],
            |table, _| set(table, "chain", "confirmations", "many"),
        ),
        case("no duration", "poll", &["`50` is no duration", "such as"], |table, _| {
            set(table, "chain", "poll", "50")
        }),
        case("no node URL", "urls", &["scheme `ftp`", "wanted http"], |table, _| {
            set(table, "chain", "urls", Value::Array(vec!["ftp://127.0.0.1:1".into()]));
        }),
        case("no port", "address", &["has no port", "127.0.0.1:1883"], |table, _| {
            set(table, "broker", "address", "127.0.0.1")
        }),
        case("broker id 0", "broker_id", &["integer `0`", "from 1 on"], |table, _| {
            set(table, "chain", "broker_id", 0)
        }),
        case(
            "missing deployment",
            "deployment",
            &["no-such.json", "No such file", "deploy"],
            |table, _| {
                set(table, "chain", "deployment", "no-such.json");
            },
        ),
        case("missing key file", "key_file", &["no-such.key", "No such file"], |table, _| {
            set(table, "gateway", "key_file", "no-such.key")
        }),
        case("no key at all", "gateway]", &["has no key", "record"], |table, _| {
            table.insert("gateway".into(), Value::Table(Table::new()));
        }),
        case("missing certificate", "certificate", &["no-such.pem", "No such file"], |table, _| {
            let tls = listener(table, 1).get_mut("tls").and_then(Value::as_table_mut).expect("TLS");
            tls.insert("certificate".into(), "no-such.pem".into());
        }),
        case("a key that is no key", "key_file", &["key"], |table, stage| {
            let file = stage.site.dir().join("empty.key");
            fs::write(&file, "not a key\n").expect("a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
            set(table, "gateway", "key_file", file.display().to_string());
        }),
        case(
            "two listeners of one name",
            "name = \"mqtt\"",
            &["two listeners are named `mqtt`"],
            |table, _| {
                listener(table, 1).insert("name".into(), "mqtt".into());
            },
        ),
        case(
            "plain text for everyone",
            "0.0.0.0:0",
            &["plain text and reachable from outside", "allow_tokens_without_tls"],
            |table, _| {
                let listener = listener(table, 0);
                listener.insert("bind".into(), "0.0.0.0:0".into());
                listener.remove("allow_tokens_without_tls");
            },
        ),
        case(
            "distrust before staleness",
            "distrust_after",
            &["shorter than `chain.stale_after`"],
            |table, _| {
                set(table, "chain", "distrust_after", "1s");
            },
        ),
        case(
            "a limit out of range",
            "max_packet_octets",
            &["`limits.max_packet_octets` is 1", "wanted 128"],
            |table, _| {
                set(table, "limits", "max_packet_octets", 1);
            },
        ),
    ]
}

#[test]
fn each_mistake_in_the_file_is_named_with_its_line_what_was_found_and_what_to_do() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let cases = cases();
        assert_eq!(cases.len(), 16);
        for (n, Case { what, edit, line, says }) in cases.into_iter().enumerate() {
            let (file, _) = stage.write_config(&format!("bad-{n}"), |table| edit(table, stage))?;
            // Two listeners of one name: the second is the mistake.
            let line = if what.starts_with("two") { String::new() } else { place(&file, line)? };
            let said = refused(&file, says, what).await?;
            ensure!(said.contains(&line), "{what}: no {line} in:\n{said}");
            // The same by `check-config`, which starts nothing.
            let (done, said) = program(&["check-config", &file.display().to_string()]).await?;
            ensure!(
                !done.status.success() && says.iter().all(|word| said.contains(word)),
                "{what}, check-config: {said}"
            );
        }
        Ok(())
    })
}

#[test]
fn several_mistakes_are_told_at_once() -> Result<()> {
    run(async {
        let (file, _) = stage().await?.write_config("several", |table| {
            set(table, "chain", "deployment", "no-such.json");
            set(table, "gateway", "key_file", "no-such.key");
            set(table, "limits", "max_packet_octets", 1);
        })?;
        refused(&file, &["no-such.json", "no-such.key", "max_packet_octets"], "several")
            .await
            .map(drop)
    })
}

#[test]
fn a_file_that_is_missing_empty_or_no_toml_is_refused() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let file = stage.site.dir().join(name);
            fs::write(&file, text)?;
            Ok(file)
        };
        refused(
            &stage.site.dir().join("nowhere.toml"),
            &["nowhere.toml", "cannot read the configuration file"],
            "missing",
        )
        .await?;
        refused(&write("empty.toml", "")?, &["empty.toml", "missing field"], "empty").await?;
        refused(&write("broken.toml", "[chain\n")?, &["broken.toml:1:"], "broken").await?;
        Ok(())
    })
}

#[test]
fn a_key_that_others_can_read_is_refused_and_never_printed() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for (section, name) in [("gateway", "key_file"), ("audit", "pseudonym_key_file")] {
            let secret = "9c".repeat(32);
            let file = stage.site.dir().join(format!("exposed-{section}.key"));
            fs::write(&file, &secret)?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
            let (config, _) = stage.write_config(&format!("exposed-{section}"), |table| {
                set(table, section, name, file.display().to_string())
            })?;
            let said =
                refused(&config, &[&file.display().to_string(), "0644", "chmod 600"], name).await?;
            ensure!(said.contains(&place(&config, name)?), "{said}");
            ensure!(!said.to_lowercase().contains(&secret), "the secret was printed");
        }
        Ok(())
    })
}

fn changed_deployment(
    stage: &Stage,
    name: &str,
    edit: impl FnOnce(&mut serde_json::Value),
) -> Result<String> {
    let mut deployment: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&stage.site.deployment_file)?)?;
    edit(&mut deployment);
    let file = stage.site.dir().join(name);
    fs::write(&file, deployment.to_string())?;
    Ok(file.display().to_string())
}

#[test]
fn an_address_with_a_wrong_checksum_is_refused() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let good = stage.site.deployment.topic_registry.to_checksum(None);
        // One letter in the other case.
        let at = good
            .rfind(|c: char| c.is_ascii_alphabetic())
            .ok_or_else(|| eyre!("an address without letters"))?;
        let letter = &good[at..=at];
        let other = if letter.chars().all(char::is_lowercase) {
            letter.to_uppercase()
        } else {
            letter.to_lowercase()
        };
        let bad = format!("{}{other}{}", &good[..at], &good[at + 1..]);
        let file = changed_deployment(stage, "checksum.json", |deployment| {
            deployment["topicRegistry"] = json!(bad)
        })?;
        let (config, _) = stage
            .write_config("checksum", |table| set(table, "chain", "deployment", file.clone()))?;
        refused(&config, &["topicRegistry", &bad, "checksum"], "checksum").await.map(drop)
    })
}

#[test]
fn a_node_on_another_chain_is_refused() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let file =
            changed_deployment(stage, "chain.json", |deployment| deployment["chainId"] = json!(1))?;
        let (config, _) =
            stage.write_config("chain", |table| set(table, "chain", "deployment", file.clone()))?;
        refused(&config, &["chain 31337", "chain 1"], "wrong chain").await.map(drop)
    })
}

#[test]
fn a_contract_without_code_is_refused() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let nobody = "0x00000000000000000000000000000000000000Aa";
        let nobody = nobody.parse::<alloy_primitives::Address>()?.to_checksum(None);
        for contract in
            ["brokerRegistry", "topicRegistry", "accessMarket", "deviceRegistry", "auditLog"]
        {
            let file = changed_deployment(stage, &format!("{contract}.json"), |deployment| {
                deployment[contract] = json!(nobody)
            })?;
            let (config, _) = stage
                .write_config(contract, |table| set(table, "chain", "deployment", file.clone()))?;
            refused(
                &config,
                &[contract, &nobody, "has no code on chain 31337", "deploy"],
                contract,
            )
            .await?;
        }
        Ok(())
    })
}

#[test]
fn a_port_that_is_taken_is_refused_for_clients_and_for_health() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let address = taken.local_addr()?.to_string();
        let (config, _) = stage.write_config("taken", |table| {
            listener(table, 0).insert("bind".into(), address.clone().into());
        })?;
        refused(&config, &[&address, "(`mqtt`)", "another program has this port"], "listener")
            .await?;
        let (config, _) = stage
            .write_config("taken-health", |table| set(table, "health", "bind", address.clone()))?;
        refused(&config, &[&address, "another program has this port"], "health").await.map(drop)
    })
}

/// THREATS F19.
#[test]
fn a_state_directory_in_use_is_refused_to_a_second_gateway() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let config = stage.site.gateway()?.config.clone();
        refused(&config, &["state_dir", "in use by another gateway"], "state").await?;
        let health = stage.site.gateway()?.health();
        until("the first to go on", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await
    })
}

#[test]
fn check_config_finds_nothing_wrong_with_the_sites_own_and_health_knows_ready_from_away()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let (done, said) =
            program(&["check-config", &stage.site.gateway()?.config.display().to_string()]).await?;
        ensure!(done.status.success() && said.contains("ok") && !said.contains("WRONG"), "{said}");
        let (done, said) =
            program(&["health", &stage.site.gateway()?.health().to_string()]).await?;
        ensure!(done.status.success(), "{said}");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let (done, said) = program(&["health", &nobody, "--timeout", "1"]).await?;
        ensure!(!done.status.success() && said.contains(&nobody), "{said}");
        let mut waits = stage.spawn_gateway("waits", |table| {
            set(table, "broker", "address", nobody.clone());
        })?;
        let (done, said) = program(&["health", &waits.health().await?.to_string()]).await?;
        ensure!(!done.status.success() && said.contains("not ready (HTTP 503)"), "{said}");
        let version = Command::new(process::program()).arg("--version").output()?;
        ensure!(version.status.success());
        Ok(())
    })
}
