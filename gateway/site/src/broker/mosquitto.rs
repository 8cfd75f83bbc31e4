//! Mosquitto: the only one that is also started with TLS.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use eyre::Result;

use super::{Broker, BrokerKind, BrokerOptions, at_free_port, free_port, local, wanted};
use crate::authority::Identity;
use crate::ground::Ground;

pub(super) async fn start(
    ground: &Arc<Ground>,
    options: &BrokerOptions,
    identity: &Identity,
) -> Result<Broker> {
    let program = wanted(
        "mosquitto",
        "run `make setup`, or install the packages mosquitto and mosquitto-clients",
    )?;
    let file = ground.path("mosquitto.conf");
    let mut tls = None;
    let command = |plain| {
        tls = if options.tls { Some(free_port()?) } else { None };
        fs::write(&file, config(plain, tls, identity, &options.mosquitto_config)?)?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file);
        Ok(command)
    };
    let patience = Duration::from_secs(15);
    let (child, port) = at_free_port(ground, "mosquitto", patience, &[" running"], command).await?;
    Ok(Broker { tls: tls.map(local), ..Broker::new(child, BrokerKind::Mosquitto, port) })
}

fn config(plain: u16, tls: Option<u16>, identity: &Identity, more: &str) -> Result<String> {
    // As root it would give up its rights and then not be able to read the site's directory.
    let mut text = format!(
        "user root\npersistence false\nallow_anonymous true\nlog_type all\nlistener {plain} 127.0.0.1\n"
    );
    if let Some(port) = tls {
        let Identity { certificate, key } = identity;
        write!(
            text,
            "listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            certificate.display(),
            key.display()
        )?;
    }
    text.push_str(more);
    Ok(text)
}
