//! Certificates: read again while sessions live, kept where the new ones are wrong, chosen for each client, asked of clients.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::common::raw::{Connect, Publish, Raw};
use crate::common::websocket::{Framed, listener};
use crate::common::{EVERY_VERSION, PATIENCE, Stage, V5, V311, run, stock, until};
use eyre::{Result, WrapErr, ensure, eyre};
use flytrap_site::Identity;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use toml::{Table, Value};

/// The certificate and key of a listener, as files that can be exchanged.
fn install(stage: &Stage, identity: &Identity, name: &str) -> Result<(PathBuf, PathBuf)> {
    let dir = stage.site.dir();
    let (certificate, key) = (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
    fs::copy(&identity.certificate, &certificate)?;
    fs::copy(&identity.key, &key)?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    Ok((certificate, key))
}

fn tls((certificate, key): &(PathBuf, PathBuf)) -> Table {
    let path = |path: &Path| Value::String(path.display().to_string());
    [("certificate".to_owned(), path(certificate)), ("key".to_owned(), path(key))]
        .into_iter()
        .collect()
}

/// The certificate that the server shows.
async fn shown(stage: &Stage, address: SocketAddr) -> Result<CertificateDer<'static>> {
    let config = flytrap_gateway::tls::client_config(Some(&fs::read(stage.site.ca_file())?))?;
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    chain.first().cloned().map(CertificateDer::into_owned).ok_or_else(|| eyre!("no certificate"))
}

fn certificate(identity: &Identity) -> Result<CertificateDer<'static>> {
    CertificateDer::from_pem_file(&identity.certificate).wrap_err("a certificate")
}

/// SIGHUP, and the outcomes of it for the listener `fresh` so far.
async fn hang_up(stage: &Stage, outcome: &str) -> Result<()> {
    let before = reloads(stage, outcome).await?;
    stage.site.gateway()?.child.hang_up();
    until("the certificates to be read again", || async {
        Ok((reloads(stage, outcome).await? > before).then_some(()))
    })
    .await
}

async fn reloads(stage: &Stage, outcome: &str) -> Result<u64> {
    let (_, body) = stage.site.gateway()?.ask("metrics").await?;
    let series = format!("flytrap_tls_reloads_total{{listener=\"fresh\",outcome=\"{outcome}\"}} ");
    Ok(body.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default())
}

#[test]
fn new_certificates_are_shown_from_the_next_handshake_on_and_sessions_live_on() -> Result<()> {
    run(async {
        let mut stage = Stage::open_and_closed().await?;
        let (old, new) =
            (stage.site.authority.identify("old")?, stage.site.authority.identify("new")?);
        let files = install(&stage, &old, "installed")?;
        let (mut fresh, mut web) = (listener("fresh", "")?, listener("web", "websocket = {}")?);
        fresh.insert("tls".into(), tls(&files).into());
        web.insert("tls".into(), tls(&files).into());
        stage.listen_too(vec![fresh, web]).await?;
        let gateway = stage.site.gateway()?;
        let (address, web) = (gateway.listener("fresh")?, gateway.listener("web")?);
        assert_eq!(shown(&stage, address).await?, certificate(&old)?);

        let ca = stage.site.ca_file().to_owned();
        let mut sessions = Vec::new();
        for version in EVERY_VERSION {
            let login = |way: &str| stage.stranger(&format!("{way}-{}", version.level()));
            let mut client = Raw::tls(version, address, &ca).await?;
            assert_eq!(client.connect(&Connect::of(version, &login("tls")?)).await?, 0);
            sessions.push(client);
            let stream = crate::common::websocket::dial(web, Some(&ca)).await?;
            let mut client = Raw::over(version, Framed::open(stream, &[50]).await?);
            assert_eq!(client.connect(&Connect::of(version, &login("wss")?)).await?, 0);
            sessions.push(client);
        }
        // Half of a renewal: the old key does not belong to the new certificate.
        fs::copy(&new.certificate, &files.0)?;
        hang_up(&stage, "refused").await?;
        assert_eq!(shown(&stage, address).await?, certificate(&old)?, "half of it was applied");
        let log = stage.site.gateway()?.child.log();
        ensure!(log.contains("stay as they were") && log.contains("installed.key"), "{log}");
        // All of it, but others can read the key; then no key at all; then as it should be.
        fs::copy(&new.key, &files.1)?;
        fs::set_permissions(&files.1, fs::Permissions::from_mode(0o644))?;
        hang_up(&stage, "refused").await?;
        fs::rename(&files.1, files.1.with_extension("away"))?;
        hang_up(&stage, "refused").await?;
        assert_eq!(shown(&stage, address).await?, certificate(&old)?);
        assert_eq!(shown(&stage, web).await?, certificate(&old)?);
        fs::rename(files.1.with_extension("away"), &files.1)?;
        fs::set_permissions(&files.1, fs::Permissions::from_mode(0o600))?;
        hang_up(&stage, "ok").await?;
        assert_eq!(shown(&stage, address).await?, certificate(&new)?);
        until("the other listener to follow", || async {
            Ok((shown(&stage, web).await? == certificate(&new)?).then_some(()))
        })
        .await?;

        let spy = stage.site.spy("open/alive").await?;
        for (n, client) in (0_u8..).zip(&mut sessions) {
            client.publish_whole(&Publish::new("open/alive", &[n]).qos(1, 5)).await?;
            spy.until(PATIENCE, |heard| heard.payload == [n]).await?;
        }
        assert_eq!(sessions.len(), 6);
        Ok(())
    })
}

#[test]
fn a_gateway_without_tls_outlives_a_sighup() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let mut process = stage.spawn_gateway("plain", |table| {
            if let Some(all) = table.get_mut("listener").and_then(Value::as_array_mut) {
                all.retain(|listener| listener.get("tls").is_none());
            }
        })?;
        let address = process.listener("mqtt").await?;
        process.child.hang_up();
        let told = |log: &str| log.contains("SIGHUP").then_some(());
        process.child.until_logged("SIGHUP", PATIENCE, told).await?;
        let connect = Connect::of(V5, &stage.stranger("after")?);
        until("the gateway to serve", || async {
            Ok((Raw::plain(V5, address).await?.connect(&connect).await? == 0).then_some(()))
        })
        .await
    })
}

/// `openssl` with these arguments, and what it said.
async fn openssl(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await??;
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    Ok(said.concat())
}

/// A self-signed RSA identity.
async fn rsa(stage: &Stage) -> Result<(PathBuf, PathBuf)> {
    let files = (stage.site.dir().join("rsa.pem"), stage.site.dir().join("rsa.key"));
    let said = openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-keyout",
        &files.1.display().to_string(),
        "-out",
        &files.0.display().to_string(),
    ])
    .await?;
    ensure!(files.0.exists(), "{said}");
    fs::set_permissions(&files.1, fs::Permissions::from_mode(0o600))?;
    Ok(files)
}

#[test]
fn a_client_is_shown_the_first_certificate_that_it_can_verify() -> Result<()> {
    run(async {
        let mut stage = Stage::open_and_closed().await?;
        let mut table = tls(&install(&stage, &stage.site.authority.identify("ecdsa")?, "first")?);
        table.insert("also".into(), vec![Value::Table(tls(&rsa(&stage).await?))].into());
        let mut fresh = listener("fresh", "")?;
        fresh.insert("tls".into(), table.into());
        stage.listen_too(vec![fresh]).await?;
        let address = stage.site.gateway()?.listener("fresh")?.to_string();
        for (arguments, wanted) in [
            (&["-tls1_3"][..], "id-ecPublicKey"),
            (&["-tls1_2"], "id-ecPublicKey"),
            (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256:ECDSA+SHA256"], "id-ecPublicKey"),
            (&["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"], "rsaEncryption"),
            (&["-tls1_2", "-sigalgs", "RSA+SHA256"], "rsaEncryption"),
            (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "rsaEncryption"),
        ] {
            let said = openssl(&[&["s_client", "-connect", &address], arguments].concat()).await?;
            let pem = said
                .split_once("-----BEGIN CERTIFICATE-----")
                .and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"))
                .ok_or_else(|| eyre!("{arguments:?}: {said}"))?
                .0;
            let file = stage.site.dir().join("shown.pem");
            fs::write(
                &file,
                format!("-----BEGIN CERTIFICATE-----{pem}-----END CERTIFICATE-----\n"),
            )?;
            let shown =
                openssl(&["x509", "-noout", "-text", "-in", &file.display().to_string()]).await?;
            ensure!(
                shown.contains(&format!("Public Key Algorithm: {wanted}")),
                "{arguments:?}: {shown}"
            );
        }
        Ok(())
    })
}

#[test]
fn tls_1_2_sessions_are_resumed_by_ticket_and_not_across_a_reload() -> Result<()> {
    run(async {
        let mut stage = Stage::open_and_closed().await?;
        let files = install(&stage, &stage.site.authority.identify("tickets")?, "first")?;
        let mut fresh = listener("fresh", "")?;
        fresh.insert("tls".into(), tls(&files).into());
        stage.listen_too(vec![fresh]).await?;
        let address = stage.site.gateway()?.listener("fresh")?.to_string();
        let kept = stage.site.dir().join("session.pem").display().to_string();
        let connect = ["s_client", "-connect", &address, "-tls1_2"];
        let said = openssl(&[&connect[..], &["-sess_out", &kept]].concat()).await?;
        ensure!(said.contains("New, TLSv1.2") && said.contains("session ticket"), "{said}");
        let said = openssl(&[&connect[..], &["-sess_in", &kept]].concat()).await?;
        ensure!(said.contains("Reused, TLSv1.2"), "{said}");
        hang_up(&stage, "ok").await?;
        let said = openssl(&[&connect[..], &["-sess_in", &kept]].concat()).await?;
        ensure!(said.contains("New, TLSv1.2"), "{said}");
        Ok(())
    })
}

/// The certificate comes in addition to the proof, and instead of nothing.
#[test]
fn where_clients_need_a_certificate_those_without_one_of_that_authority_are_refused() -> Result<()>
{
    run(async {
        let mut stage = Stage::open_and_closed().await?;
        let mut table = tls(&install(&stage, &stage.site.authority.identify("asks")?, "first")?);
        let ca = stage.site.ca_file().display().to_string();
        table.insert("client_ca".into(), ca.clone().into());
        let (mut fresh, mut web) = (listener("fresh", "")?, listener("web", "websocket = {}")?);
        fresh.insert("tls".into(), table.clone().into());
        web.insert("tls".into(), table.into());
        stage.listen_too(vec![fresh, web]).await?;
        let gateway = stage.site.gateway()?;
        let (address, web) = (gateway.listener("fresh")?, gateway.listener("web")?);
        let good = stage.site.authority.identify("client")?;
        let foreign = rsa(&stage).await?;
        let target = stock::Target { address, ca: Some(stage.site.ca_file().to_owned()) };
        let spy = stage.site.spy("open/#").await?;
        for version in [V311, V5] {
            let publish = async |name: &str, login: bool, files: Option<(&Path, &Path)>| {
                let id = format!("{name}-{}", version.level());
                let login = if login { Some(stage.stranger(&id)?) } else { None };
                let mut more = vec!["-q".to_owned(), "1".to_owned()];
                if let Some((certificate, key)) = files {
                    more.extend(["--cert".to_owned(), certificate.display().to_string()]);
                    more.extend(["--key".to_owned(), key.display().to_string()]);
                }
                let more: Vec<&str> = more.iter().map(String::as_str).collect();
                stock::publish(&target, version, login.as_ref(), "open/cert", &id, &more).await
            };
            let with = Some((good.certificate.as_path(), good.key.as_path()));
            let said = publish("with", true, with).await?;
            ensure!(said.code == 0, "{said:?}");
            spy.until(PATIENCE, |heard| heard.payload.starts_with(b"with-")).await?;
            for (name, login, files) in [
                ("without", true, None),
                ("foreign", true, Some((foreign.0.as_path(), foreign.1.as_path()))),
                ("unproved", false, with),
            ] {
                let said = publish(name, login, files).await?;
                ensure!(said.code != 0, "{name} was served: {said:?}");
            }
        }
        // Over WebSocket the same, since TLS comes first.
        let stream = TcpStream::connect(web).await?;
        let config = flytrap_gateway::tls::client_config(Some(&fs::read(&ca)?))?;
        let name = ServerName::try_from("localhost")?;
        let refused = match TlsConnector::from(config).connect(name, stream).await {
            // With TLS 1.3 the client learns of it when it reads.
            Ok(stream) => Framed::open(Box::new(stream), &[1]).await.is_err(),
            Err(_) => true,
        };
        ensure!(refused, "a client without a certificate was served");
        let connects = stage.site.recorder()?.connects();
        for name in ["without", "foreign", "unproved"] {
            ensure!(!connects.iter().any(|c| c.client_id.contains(name)), "the broker saw {name}");
        }
        Ok(())
    })
}
