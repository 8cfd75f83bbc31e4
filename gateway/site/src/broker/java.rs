//! HiveMQ CE and Moquette: the makers' own jars from Maven Central, as `gateway/site/brokers/*/pom.xml` pin them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use eyre::{Result, bail};

use super::{Broker, BrokerKind, SETUP, at_free_port, wanted};
use crate::ground::Ground;

/// They start in one to five seconds, and slower on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) async fn hivemq(ground: &Arc<Ground>, root: &Path) -> Result<Broker> {
    let jars = jars(root, "hivemq")?;
    let home = ground.path("hivemq");
    for folder in ["conf", "data", "extensions", "log"] {
        fs::create_dir_all(home.join(folder))?;
    }
    let start = root.join("gateway/site/brokers/hivemq/Start.java");
    let command = |port| {
        let config = format!(
            "<hivemq><listeners><tcp-listener><port>{port}</port><bind-address>127.0.0.1</bind-address></tcp-listener></listeners>\
             <persistence><mode>in-memory</mode></persistence>\
             <anonymous-usage-statistics><enabled>false</enabled></anonymous-usage-statistics></hivemq>"
        );
        fs::write(home.join("conf/config.xml"), config)?;
        let mut command = java(&jars)?;
        command.current_dir(&home).arg(&start).arg(&home);
        Ok(command)
    };
    let words = ["HiveMQ CE ", " serves"];
    let (child, port) = at_free_port(ground, "hivemq", PATIENCE, &words, command).await?;
    Ok(Broker::new(child, BrokerKind::HiveMq, port))
}

pub(super) async fn moquette(ground: &Arc<Ground>, root: &Path) -> Result<Broker> {
    let jars = jars(root, "moquette")?;
    let home = ground.path("moquette");
    fs::create_dir_all(home.join("config"))?;
    let command = |port| {
        let config = format!(
            "host 127.0.0.1\nport {port}\nallow_anonymous true\npersistence_enabled false\ntelemetry_enabled false\n"
        );
        fs::write(home.join("config/moquette.conf"), config)?;
        let mut command = java(&jars)?;
        command.current_dir(&home).arg(format!("-Dmoquette.path={}", home.display()));
        command.arg("io.moquette.broker.Server");
        Ok(command)
    };
    let words = ["Server started"];
    let (child, port) = at_free_port(ground, "moquette", PATIENCE, &words, command).await?;
    Ok(Broker::new(child, BrokerKind::Moquette, port))
}

fn java(jars: &Path) -> Result<Command> {
    let mut command = Command::new(wanted("java", SETUP)?);
    // What a test machine has of memory is not the broker's alone.
    command.args(["-Xmx256m", "-cp"]).arg(jars.join("*"));
    Ok(command)
}

fn jars(root: &Path, name: &str) -> Result<PathBuf> {
    let folder = root.join(".brokers").join(name);
    if !folder.join(".ready").is_file() {
        bail!("{} has no jars: {SETUP}", folder.display());
    }
    Ok(folder)
}
