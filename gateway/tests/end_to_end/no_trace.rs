//! No log line, no metric and no octet towards the broker holds a proof or a nonce: ACCEPTANCE W18; THREATS A34.

use crate::common::process::set;
use crate::common::proofs::{METHOD, NAME, data_of, in_properties, nonce_in, one_shot};
use crate::common::raw::{Connect, Got, Publish, Raw, auth};
use crate::common::{FAR, PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, http, run, until};
use alloy_primitives::B256;
use eyre::{Result, bail, ensure};
use flytrap_site::Login;

/// As it came, and as a program would print octets.
fn shapes(secret: &[u8]) -> Vec<Vec<u8>> {
    let digits = hex::encode(secret);
    let list = secret.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
    vec![
        secret.to_vec(),
        digits.clone().into_bytes(),
        digits.to_uppercase().into_bytes(),
        list.into_bytes(),
    ]
}

fn holds(octets: &[u8], wanted: &[u8]) -> bool {
    octets.windows(wanted.len()).any(|window| window == wanted)
}

#[test]
fn no_log_no_metric_and_no_octet_to_the_broker_holds_a_proof() -> Result<()> {
    run(async {
        let stage = Stage::configured("[broker]\nprobe_interval = \"1h\"").await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        let wallets = &stage.site.wallets;
        let device = stage.device(wallets.spare[0].address(), 3, "device", FAR).await?;
        let contract =
            stage.contract_wallet("OwnedWallet", Some(wallets.publisher.address())).await?;
        // Every line that there is, of this program and of all that it is made of.
        let (config, _) = stage.write_config("traced", |table| {
            set(table, "gateway", "name", NAME);
            set(table, "authentication", "contract_wallets", true);
            set(table, "authentication", "single_use_tokens", true);
            set(table, "limits", "failures", 1000);
        })?;
        let mut command = std::process::Command::new(crate::common::process::program());
        command.arg("run").arg("--config").arg(&config).env("FLYTRAP_LOG", "trace");
        let child = stage.site.spawn("traced", command)?;
        let log = child.log_file().to_owned();
        let mut gateway = crate::common::process::Process {
            child,
            config,
            state: stage.site.dir().join("traced-state"),
        };
        let (plain, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        let address = gateway.listener("mqtts").await?;
        let ca = stage.site.ca_file();

        let mut secrets: Vec<Vec<u8>> = Vec::new();
        let mut keep = |login: &Login| {
            let password = login.password.as_bytes();
            secrets.push(password.to_vec());
            if let Ok(octets) = decode(&login.password) {
                secrets.push(octets[octets.len().min(9)..].to_vec());
                secrets.push(octets);
            }
        };
        let token = |id: &str| stage.stranger(id);
        let (first, second, third) = (token("t-1")?, token("t-2")?, token("t-3")?);
        let renewed = stage.site.token_of_life(&wallets.stranger, "t-3", 7_000)?;
        let wrong = stage.wrong_proof("t-4")?;
        let by_wallet = stage.wallet_token(contract, &wallets.publisher, "t-5")?;
        let by_eve = stage.wallet_token(contract, &wallets.stranger, "t-6")?;
        let mut wrong_device = device.login.clone();
        wrong_device.password = crate::common::device_of(4, "device")?.login.password;
        for login in [
            &first,
            &second,
            &third,
            &renewed,
            &wrong,
            &by_wallet,
            &by_eve,
            &device.login,
            &wrong_device,
        ] {
            keep(login);
        }
        let cases = [
            (V311, Connect::of(V311, &first), 0),
            (V311, Connect::of(V311, &first), 4),
            (V5, in_properties(&second), 0),
            (V5, one_shot(&third), 0),
            (V5, Connect::of(V5, &wrong), 0x86),
            (V5, in_properties(&wrong), 0x86),
            (V5, one_shot(&wrong), 0x86),
            (V5, Connect::of(V5, &by_wallet), 0),
            (V5, Connect::of(V5, &by_eve), 0x86),
            (V5, Connect::of(V5, &device.login), 0),
            (V311, Connect::of(V311, &wrong_device), 4),
            (
                V5,
                Connect { properties: one_shot(&wrong).properties, ..in_properties(&wrong) },
                0x86,
            ),
        ];
        let mut sessions = Vec::new();
        for (n, (version, connect, wanted)) in cases.iter().enumerate() {
            let mut client = if n % 2 == 0 {
                Raw::tls(*version, address, ca).await?
            } else {
                Raw::plain(*version, plain).await?
            };
            assert_eq!(client.connect(connect).await?, *wanted, "case {n}");
            if *wanted == 0 {
                client.publish_whole(&Publish::new("open/x", b"x").qos(1, 1)).await?;
                sessions.push(client);
            }
        }
        // A renewal by token, and one by answer.
        let session = &mut sessions[2];
        session.send(auth(0x19, METHOD, Some(&data_of(&renewed)))).await?;
        ensure!(matches!(session.get().await?, Got::Auth { code: 0, .. }));
        let mut client = Raw::tls(V5, address, ca).await?;
        let asked = async |client: &mut Raw, octets: Vec<u8>| -> Result<B256> {
            client.send(octets).await?;
            nonce_in(&client.get().await?)
        };
        let key = &wallets.reader;
        let nonce = asked(&mut client, crate::common::proofs::asking("t-7").octets(V5)).await?;
        let answer = stage.answer(key, "t-7", nonce);
        secrets.extend([nonce.to_vec(), answer[21..].to_vec()]);
        client.send(auth(0x18, METHOD, Some(&answer))).await?;
        ensure!(matches!(client.get().await?, Got::ConnAck { code: 0, .. }));
        let nonce = asked(&mut client, auth(0x19, METHOD, None)).await?;
        let answer = stage.answer(key, "another", nonce);
        secrets.extend([nonce.to_vec(), answer[21..].to_vec()]);
        client.send(auth(0x18, METHOD, Some(&answer))).await?;
        let ended = client.ended(PATIENCE).await?;
        ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");

        let (_, metrics) = http::get(health, "/metrics").await?;
        let (upstream, logged) =
            (stage.site.recorder()?.octets_from_gateway(), std::fs::read(&log)?);
        ensure!(
            holds(&logged, b"session opened") && holds(&logged, b"TRACE"),
            "an empty log proves nothing"
        );
        ensure!(holds(&upstream, b"-t-7"), "nor does an empty wire");
        assert_eq!(secrets.len(), 9 * 3 + 4);
        for secret in &secrets {
            for shape in shapes(secret) {
                for (place, octets) in
                    [("log", &logged[..]), ("metrics", metrics.as_bytes()), ("wire", &upstream)]
                {
                    if holds(octets, &shape) {
                        bail!("the {place} holds {}", String::from_utf8_lossy(&shape));
                    }
                }
            }
        }
        Ok(())
    })
}

/// Base64url without padding.
fn decode(text: &str) -> Result<Vec<u8>> {
    let (mut octets, mut bits, mut held) = (Vec::new(), 0_u32, 0_u32);
    for c in text.bytes() {
        let value = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            .iter()
            .position(|known| *known == c);
        let Some(value) = value.and_then(|value| u32::try_from(value).ok()) else {
            bail!("`{c}` is not of the alphabet")
        };
        (held, bits) = ((held << 6 | value) & 0xFFFF, bits + 6);
        if bits >= 8 {
            bits -= 8;
            octets.push(u8::try_from(held >> bits & 0xFF)?);
        }
    }
    Ok(octets)
}
