//! A client of the Arduino class, with 256 octets for any packet: its CONNECT with a token fits, and it publishes and receives.

use std::path::PathBuf;
use std::process::Stdio;

use crate::common::{PATIENCE, Stage, run};
use eyre::{Result, WrapErr, ensure};
use flytrap_site::Login;
use tokio::process::Command;
use tokio::time::timeout;

/// Compiles `clients/small.c` with whatever compiler there is; without one nothing of the gateway could have been built.
async fn small(stage: &Stage) -> Result<PathBuf> {
    let program = stage.site.dir().join("small");
    let source = stage.site.root().join("gateway/tests/end_to_end/clients/small.c");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let done = Command::new(&compiler)
        .args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&program, &source])
        .status()
        .await
        .wrap_err(compiler)?;
    ensure!(done.success(), "small.c does not compile");
    Ok(program)
}

/// Runs it, and returns what it said.
async fn said(
    stage: &Stage,
    program: &PathBuf,
    login: &Login,
    topics: [&str; 2],
    payload: &str,
) -> Result<String> {
    let address = stage.site.mqtt()?;
    let child = Command::new(program)
        .args([&address.ip().to_string(), &address.port().to_string()])
        .args([&login.client_id, &login.user_name, &login.password])
        .args(topics)
        .arg(payload)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let done = timeout(2 * PATIENCE, child.wait_with_output()).await.wrap_err("it hangs")??;
    Ok(String::from_utf8(done.stdout)?)
}

#[test]
fn a_client_with_a_buffer_of_256_octets_logs_in_publishes_and_receives() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let program = small(&stage).await?;
        // The longest name that such a client can have beside a token.
        for client_id in ["s".to_owned(), "s".repeat(96)] {
            let login = stage.stranger(&client_id)?;
            let heard =
                said(&stage, &program, &login, ["open/small", "open/small"], "21.5").await?;
            let octets: Vec<usize> = heard
                .lines()
                .filter_map(|line| line.strip_prefix("connect ")?.parse().ok())
                .collect();
            ensure!(matches!(octets[..], [..=256]), "{heard}");
            ensure!(heard.contains("connack 0\nsuback 0\nmessage open/small 21.5\n"), "{heard}");
        }
        Ok(())
    })
}

#[test]
fn the_same_client_is_refused_what_it_may_not_and_without_a_proof() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let program = small(&stage).await?;
        let login = stage.stranger("small")?;
        // Nothing comes for it, and after its own patience it says so.
        let heard = said(&stage, &program, &login, ["closed/small", "closed/small"], "no").await?;
        ensure!(heard.contains("connack 0\nsuback 128\nfail"), "{heard}");
        let stolen = Login { client_id: "another".into(), ..login };
        let heard = said(&stage, &program, &stolen, ["open/small", "open/small"], "no").await?;
        ensure!(heard.contains("connack 4\n") && !heard.contains("suback"), "{heard}");
        ensure!(!stage.site.recorder()?.seen().iter().any(|seen| {
            matches!(&seen.packet, flytrap_site::Packet::Publish(publish) if publish.topic.starts_with("closed"))
        }));
        Ok(())
    })
}
