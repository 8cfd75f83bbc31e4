//! `flytrap device`: keys that act for a wallet, and how the things that hold them log in.

use alloy::primitives::Address;
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_chain::keys::Key;
use flytrap_policy::{Event, credential};
use rand::TryRngCore;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::access::joined;
use crate::args::{self, Global};
use crate::context::done;
use crate::settings::{Format, Server, Settings};
use crate::tell;
use crate::units::utc;

/// `flytrap device …`
pub(crate) async fn device(global: &Global, command: &args::Device) -> Result<()> {
    use args::Device as D;
    match command {
        D::Add(add) => add_device(global, add).await?,
        D::Authorize { device_key_file, end } => {
            let wallet = global.wallet().await?;
            let keys: Vec<Key> = device_key_file
                .iter()
                .map(|file| Key::read(file, None))
                .collect::<Result<_, _>>()?;
            let until = end.second(wallet.block_time().await?)?;
            let sent = match &keys[..] {
                [key] => wallet.authorize_device_key(key, until).await?,
                keys => {
                    wallet.authorize_device_keys(&keys.iter().collect::<Vec<_>>(), until).await?
                }
            };
            let devices: Vec<Address> = keys.iter().map(Key::address).collect();
            let acts = if devices.len() == 1 { "acts" } else { "act" };
            let sentence = format!(
                "{} {acts} for {} until {}.",
                joined(&devices),
                wallet.address(),
                utc(until)
            );
            done(global, &sentence, &sent, json!({ "devices": devices, "until": until }));
        }
        D::Revoke { devices } => {
            let wallet = global.wallet().await?;
            let sent = match devices[..] {
                [device] => wallet.revoke_device(device).await?,
                _ => wallet.revoke_devices(devices).await?,
            };
            let acts = if devices.len() == 1 { "acts" } else { "act" };
            let sentence = format!("{} {acts} for you no more.", joined(devices));
            done(global, &sentence, &sent, json!({}));
        }
        D::RevokeAll => {
            let sent = global.wallet().await?.revoke_all_devices().await?;
            done(global, "No device key acts for you any more.", &sent, json!({}));
        }
        D::List { wallet } => {
            let whose = match wallet {
                Some(wallet) => *wallet,
                None => global.key().wrap_err("name a wallet with --wallet, or")?.address(),
            };
            list_devices(global, whose).await?;
        }
    }
    Ok(())
}

async fn add_device(global: &Global, add: &args::AddDevice) -> Result<()> {
    let wallet = global.wallet().await?;
    // Everything that can be wrong is found before anything is on chain.
    let server = match &add.server {
        Some(server) => server.clone(),
        None => gateway_on_chain(global).await?,
    };
    let until = add.end.second(wallet.block_time().await?)?;
    let password = new_password()?;
    let key = device_key(&password)?;
    let user_name = key.address().to_string();
    let settings = Settings {
        server,
        ca_file: add.ca_file.clone(),
        client_id: add.client_id.clone().unwrap_or_else(|| default_client_id(key.address())),
        user_name,
        password,
        topic: add.topic.clone(),
    };
    let format = if global.json { Format::Json } else { add.format };
    let rendered = settings.render(format)?;
    let sent = wallet.authorize_device_key(&key, until).await?;
    if format == Format::Json {
        let mut facts = settings.json();
        if let Some(facts) = facts.as_object_mut() {
            facts.insert("until".to_owned(), until.into());
        }
        done(&Global { json: true, ..global.clone() }, "", &sent, facts);
        return Ok(());
    }
    tell::line(rendered.as_str());
    // Beside the settings and not among them, so that these can be piped to where they belong.
    let over = if settings.server.tls {
        ""
    } else {
        ", but takes it over TLS only unless its configuration says otherwise"
    };
    tell::aside(&format!(
        "The device acts for {} until {}. The gateway stores no password{over}; it is shown this once. Transaction {} in block {}.",
        wallet.address(),
        utc(until),
        sent.tx,
        sent.height
    ));
    Ok(())
}

/// Where the first gateway that says so can be found.
async fn gateway_on_chain(global: &Global) -> Result<Server> {
    let state = global.state(&global.contracts().await?, &[]).await?;
    let uris = || state.registry.gateways().map(|(_, uri)| uri);
    match uris().find_map(|uri| uri.parse().ok()) {
        Some(server) => Ok(server),
        None => bail!(
            "no gateway of broker {} says on chain where it is ({}): name one with --server mqtts://host",
            global.broker,
            uris().map(tell::safe).collect::<Vec<_>>().join(", ")
        ),
    }
}

fn default_client_id(device: Address) -> String {
    format!("device-{}", alloy::hex::encode(&device[..4]))
}

async fn list_devices(global: &Global, whose: Address) -> Result<()> {
    let state = global.state(&global.contracts().await?, &[whose]).await?;
    let now = state.now();
    let mut keys: Vec<Address> = state
        .entries
        .iter()
        .filter_map(|entry| match entry.event {
            Event::DeviceAuthorized { wallet, device, .. } if wallet == whose => Some(device),
            _ => None,
        })
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let known = |key: &Address| state.registry.device(*key).filter(|device| device.wallet == whose);
    let rows: Vec<_> = keys
        .iter()
        .filter_map(|key| {
            Some((*key, known(key)?.until, state.registry.wallet_of(*key, now) == Some(whose)))
        })
        .collect();
    if global.json {
        let rows = rows
            .iter()
            .map(|(key, until, acts)| json!({ "device": key, "until": until, "acts": acts }));
        tell::line(Value::Array(rows.collect()).to_string());
        return Ok(());
    }
    let mut table = vec![vec!["DEVICE".to_owned(), "STATE".into()]];
    table.extend(rows.iter().map(|(key, until, acts)| {
        let text = if *acts { format!("acts until {}", utc(*until)) } else { "ended".to_owned() };
        vec![key.to_string(), text]
    }));
    tell::table(&table);
    Ok(())
}

/// 20 octets of the system's randomness, as a device password.
fn new_password() -> Result<Zeroizing<String>> {
    let mut seed = Zeroizing::new([0; 20]);
    rand::rngs::OsRng
        .try_fill_bytes(seed.as_mut_slice())
        .wrap_err("the system gives no randomness")?;
    Ok(Zeroizing::new(credential::device_password(&seed)))
}

fn device_key(password: &str) -> Result<Key> {
    let key = credential::device_key(password.as_bytes())?;
    let digits = Zeroizing::new(alloy::hex::encode(key.secret().as_slice()));
    Key::from_hex(&digits).ok_or_else(|| eyre!("the password gives no key: try again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_passwords_are_27_characters_and_never_the_same() {
        let (one, other) =
            (new_password().expect("randomness"), new_password().expect("randomness"));
        assert_eq!(one.len(), 27);
        assert_ne!(one, other);
        assert_ne!(
            device_key(&one).expect("a key").address(),
            device_key(&other).expect("a key").address()
        );
    }
}
