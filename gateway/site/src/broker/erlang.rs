//! RabbitMQ and ejabberd: programs of the Erlang machine, which keep their files where they are told.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use eyre::{Result, WrapErr, eyre};

use super::{Broker, BrokerKind, SETUP, at_free_port, free_port, wanted};
use crate::ground::Ground;

/// They start in two to fifteen seconds, and slower on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// RabbitMQ's own start script; the one on the search path changes to another user first.
const RABBITMQ: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

pub(super) async fn rabbitmq(ground: &Arc<Ground>) -> Result<Broker> {
    if !Path::new(RABBITMQ).is_file() {
        return Err(eyre!("{RABBITMQ} does not exist: {SETUP}"));
    }
    let home = ground.path("rabbitmq");
    fs::create_dir_all(&home)?;
    fs::write(home.join("enabled_plugins"), "[rabbitmq_mqtt].\n")?;
    // Without a name server of its own it would start one for the whole machine that outlives it.
    let epmd = wanted("epmd", SETUP)?;
    let (names, name_port) = at_free_port(ground, "epmd", PATIENCE, &["running"], |port| {
        let mut command = Command::new(&epmd);
        command.args(["-d", "-address", "127.0.0.1", "-port", &port.to_string()]);
        Ok(command)
    })
    .await?;
    let command = |port| {
        let config = format!(
            "listeners.tcp = none\nmqtt.listeners.tcp.default = 127.0.0.1:{port}\nmqtt.allow_anonymous = true\n\
             disk_free_limit.absolute = 1MB\nlog.console = true\nlog.console.level = info\nlog.file = false\n"
        );
        fs::write(home.join("rabbitmq.conf"), config)?;
        let mut command = Command::new(RABBITMQ);
        command
            .env("HOME", &home)
            .env("ERL_EPMD_PORT", name_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", format!("flytrap{port}@localhost"))
            .env("RABBITMQ_DIST_PORT", free_port()?.to_string())
            .env("RABBITMQ_CONFIG_FILE", home.join("rabbitmq"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", home.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", home.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", home.join("log"))
            .env("RABBITMQ_PID_FILE", home.join("pid"));
        Ok(command)
    };
    let words = ["Server startup complete"];
    let (child, port) = at_free_port(ground, "rabbitmq", PATIENCE, &words, command).await?;
    let broker = Broker::new(child, BrokerKind::RabbitMq, port);
    Ok(Broker { _beside: Some(names), ..broker })
}

pub(super) async fn ejabberd(ground: &Arc<Ground>) -> Result<Broker> {
    let libraries = ejabberd_libraries(&wanted("ejabberdctl", SETUP)?)?;
    // Its control script changes to another user, who may not read here. Without a node's name it needs no name server.
    let erl = wanted("erl", SETUP)?;
    let home = ground.path("ejabberd");
    fs::create_dir_all(home.join("mnesia"))?;
    let command = |port| {
        let config = format!(
            "hosts: [localhost]\nloglevel: info\nauth_method: anonymous\nanonymous_protocol: both\n\
             allow_multiple_connections: true\nmodules:\n  mod_mqtt: {{}}\n\
             listen:\n  - {{port: {port}, ip: \"127.0.0.1\", module: mod_mqtt, backlog: 1000}}\n"
        );
        fs::write(home.join("ejabberd.yml"), config)?;
        let mut command = Command::new(&erl);
        command
            .current_dir(&home)
            .env("HOME", &home)
            .env("ERL_LIBS", &libraries)
            .env("EJABBERD_CONFIG_PATH", home.join("ejabberd.yml"))
            .env("EJABBERD_LOG_PATH", home.join("ejabberd.log"))
            .args(["-noinput", "-mnesia", "dir"])
            .arg(format!("\"{}\"", home.join("mnesia").display()))
            .args(["-s", "ejabberd"]);
        Ok(command)
    };
    let words = [" is started in ", "Start accepting TCP connections"];
    let (child, port) = at_free_port(ground, "ejabberd", PATIENCE, &words, command).await?;
    Ok(Broker::new(child, BrokerKind::Ejabberd, port))
}

/// Where its control script finds its modules.
fn ejabberd_libraries(script: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(script).wrap_err_with(|| script.display().to_string())?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("ERL_LIBS="));
    let folder = line.map(|value| PathBuf::from(value.trim_matches(['\'', '"'])));
    folder.ok_or_else(|| {
        eyre!("{} says nowhere where ejabberd's modules are (ERL_LIBS)", script.display())
    })
}
