//! How octets come in and go out: TLS of both versions, plain text where it must not carry secrets, IPv6, TLS towards the broker.

use std::net::SocketAddr;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::common::process::set;
use crate::common::raw::{self, Connect, Got, Publish, Raw, Will};
use crate::common::{PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, Way, http, run, stock, until};
use eyre::{Result, bail, ensure, eyre};
use flytrap_site::{BrokerOptions, SiteOptions};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;
use toml::{Table, Value};

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn open(stage: Stage) -> Result<Stage> {
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(|| async { open(Stage::new().await?).await }).await
}

/// A client that speaks one version of TLS and no other; stock clients only name the oldest they take.
fn one_version(
    stage: &Stage,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(stage.site.ca_file())? {
        roots.add(certificate?)?;
    }
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[version]);
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

#[test]
fn tls_1_2_alone_and_1_3_alone_are_served() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for version in [V311, V5] {
                let config = one_version(stage, tls)?;
                let mut client = Raw::tls_with(version, stage.site.mqtts()?, config).await?;
                let login = stage.stranger(&format!("{:?}-{}", tls.version, version.level()))?;
                assert_eq!(
                    client.connect(&Connect::of(version, &login)).await?,
                    0,
                    "{:?}",
                    tls.version
                );
                assert_eq!(client.ping().await?, [], "{:?}", tls.version);
            }
        }
        Ok(())
    })
}

#[test]
fn tls_1_2_and_1_3_are_served_to_a_stock_client() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("open/#").await?;
        for tls in ["tlsv1.2", "tlsv1.3"] {
            for version in [V311, V5] {
                let payload = format!("{tls}-{}", version.level());
                let login = stage.stranger(&payload)?;
                let said = stock::publish(
                    &stage.target(true)?,
                    version,
                    Some(&login),
                    "open/tls",
                    &payload,
                    &["-q", "1", "--tls-version", tls],
                )
                .await?;
                ensure!(said.code == 0, "{payload}: {said:?}");
                spy.until(PATIENCE, |heard| heard.payload == payload.as_bytes()).await?;
            }
        }
        Ok(())
    })
}

/// `openssl s_client` with one version of TLS; did it come to a session?
async fn handshake(address: SocketAddr, version: &str) -> Result<bool> {
    let mut command = Command::new("openssl");
    // Level 0, since the client itself would otherwise not try the old ones.
    command.args([
        "s_client",
        "-connect",
        &address.to_string(),
        version,
        "-cipher",
        "ALL:@SECLEVEL=0",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let done = tokio::time::timeout(PATIENCE, command.output()).await??;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    // A session has a cipher; without one it says `Cipher is (NONE)`.
    Ok(said.contains("Cipher is ") && !said.contains("Cipher is (NONE)"))
}

#[test]
fn tls_1_0_and_1_1_are_refused() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let address = stage.site.mqtts()?;
        for (version, wanted) in [("-tls1_2", true), ("-tls1", false), ("-tls1_1", false)] {
            assert_eq!(handshake(address, version).await?, wanted, "{version}");
        }
        Ok(())
    })
}

/// A stream that hands on one octet at a time, so that each becomes a TLS record of its own.
struct Drip<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Drip<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Drip<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// THREATS A32: records of one octet are TLS all the same, and an end without close_notify is a client that was lost.
#[test]
fn tls_by_single_octets_is_served_and_cut_off_without_a_goodbye_lets_the_will_fire() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("open/drip/#").await?;
        for tls in [&rustls::version::TLS12, &rustls::version::TLS13] {
            for fires in [false, true] {
                let name = format!("drip-{:?}-{fires}", tls.version);
                let topic = format!("open/drip/{name}");
                let socket = TcpStream::connect(stage.site.mqtts()?).await?;
                let connector = TlsConnector::from(one_version(stage, tls)?);
                // The handshake itself comes by single octets as well.
                let stream =
                    connector.connect(ServerName::try_from("localhost")?, Drip(socket)).await?;
                let mut client = Raw::over(V311, Drip(stream));
                let will =
                    Will { topic: topic.clone(), payload: b"gone".to_vec(), qos: 1, retain: false };
                let connect =
                    Connect { will: Some(will), ..Connect::of(V311, &stage.stranger(&name)?) };
                assert_eq!(client.connect(&connect).await?, 0);
                client.publish_whole(&Publish::new("open/drip/x", b"x").qos(2, 3)).await?;
                if !fires {
                    client.send(raw::DISCONNECT).await?;
                    assert_eq!(client.ended(PATIENCE).await?, []);
                }
                drop(client);
                if fires {
                    spy.until(PATIENCE, |heard| heard.topic == topic).await?;
                }
            }
            ensure!(!spy.heard_on(&format!("open/drip/drip-{:?}-false", tls.version)));
        }
        Ok(())
    })
}

#[test]
fn plain_octets_at_the_tls_port_are_closed_and_the_next_client_is_served() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for octets in [
            Connect::of(V311, &stage.stranger("plain")?).octets(V311),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0x16, 3, 1, 0xff, 0xff],
        ] {
            let mut client = Raw::plain(V311, stage.site.mqtts()?).await?;
            client.send(&octets).await?;
            // What comes back, if anything, is a TLS alert (21), never MQTT.
            if octets[0] != 0x16 {
                while let Ok(Some(answer)) = client.next(Duration::from_secs(2)).await {
                    ensure!(answer[0] == 21, "{answer:02x?}");
                }
            }
            let mut honest = stage.session(Way::tls(V311), &stage.stranger("honest")?).await?;
            assert_eq!(honest.ping().await?, []);
        }
        ensure!(
            !stage
                .site
                .recorder()?
                .connects()
                .iter()
                .any(|connect| connect.client_id.ends_with("-plain")),
            "the broker saw it"
        );
        Ok(())
    })
}

#[test]
fn a_token_in_plain_text_is_refused_unless_the_listener_allows_it_and_counts_as_no_failure()
-> Result<()> {
    run(async {
        let mut stage = open(Stage::new().await?).await?;
        let mut table = stage.config()?;
        let listeners = table
            .get_mut("listener")
            .and_then(Value::as_array_mut)
            .ok_or_else(|| eyre!("no listeners"))?;
        let plain = listeners
            .iter_mut()
            .filter_map(Value::as_table_mut)
            .find(|listener| listener["name"].as_str() == Some("mqtt"));
        let was = plain.and_then(|listener| listener.remove("allow_tokens_without_tls"));
        ensure!(was == Some(Value::Boolean(true)), "the site does not allow it any more");
        std::fs::write(&stage.site.gateway()?.config, toml::to_string(&table)?)?;
        stage.site.gateway_mut()?.restart().await?;
        let login = stage.stranger("secret")?;
        for version in [V311, V5] {
            // Ten, so that they would ban if they counted.
            for _ in 0..10 {
                let mut client = stage.dial(Way::plain(version)).await?;
                let Got::ConnAck { code, .. } =
                    client.connack(&Connect::of(version, &login)).await?
                else {
                    bail!("no CONNACK")
                };
                assert_eq!(code, if version == V5 { 0x87 } else { 5 });
                assert_eq!(client.ended(PATIENCE).await?, []);
            }
            assert_eq!(stage.session(Way::tls(version), &login).await?.ping().await?, []);
        }
        let device = stage
            .device(stage.site.wallets.spare[0].address(), 1, "device", crate::common::FAR)
            .await?;
        stage.caught_up().await?;
        let code =
            stage.dial(Way::plain(V5)).await?.connect(&Connect::of(V5, &device.login)).await?;
        assert_eq!(code, 0x87, "a device password is a bearer secret as well");
        assert_eq!(stage.session(Way::tls(V5), &device.login).await?.ping().await?, []);
        Ok(())
    })
}

#[test]
fn a_listener_on_ipv6_serves_and_an_ipv4_client_of_a_dual_one_is_its_ipv4_origin() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut gateway = stage.spawn_gateway("six", |table| {
            let listener = |name: &str, bind: &str| {
                let mut listener = Table::new();
                listener.insert("name".into(), name.into());
                listener.insert("bind".into(), bind.into());
                listener.insert("allow_tokens_without_tls".into(), true.into());
                Value::Table(listener)
            };
            table.insert(
                "listener".into(),
                Value::Array(vec![listener("six", "[::1]:0"), listener("dual", "[::]:0")]),
            );
            set(table, "limits", "proof_beats_ban", false);
        })?;
        let (six, dual) = (gateway.listener("six").await?, gateway.listener("dual").await?);
        let spy = stage.site.spy("open/#").await?;
        for version in [V311, V5] {
            let login = stage.stranger(&format!("six-{}", version.level()))?;
            let connect = Connect::of(version, &login);
            let mut client = until("the gateway to be in step", || async {
                let mut client = Raw::plain(version, six).await?;
                Ok((client.connect(&connect).await? == 0).then_some(client))
            })
            .await?;
            client.publish(&Publish::new("open/six", login.client_id.as_bytes()).qos(1, 1)).await?;
            spy.until(PATIENCE, |heard| heard.payload == login.client_id.as_bytes()).await?;
            let target = stock::Target { address: six, ca: None };
            let said =
                stock::publish(&target, version, Some(&login), "open/six", "stock", &["-q", "1"])
                    .await?;
            ensure!(said.code == 0, "{said:?}");
        }
        // Failures that come in as ::ffff:127.0.0.1 are those of 127.0.0.1, and not of ::1.
        let mapped = SocketAddr::from(([127, 0, 0, 1], dual.port()));
        for n in 0..6 {
            let code = Raw::plain(V311, mapped)
                .await?
                .connect(&Connect::of(V311, &stage.wrong_proof(&format!("mapped-{n}"))?))
                .await?;
            assert_eq!(code, 4);
        }
        let good = Connect::of(V311, &stage.stranger("good")?);
        let banned = raw::attempt(V311, [127, 0, 0, 1].into(), mapped, &good).await?;
        assert_eq!(banned, None, "127.0.0.1 was not banned");
        assert_eq!(Raw::plain(V311, six).await?.connect(&good).await?, 0, "::1 is another origin");
        Ok(())
    })
}

fn upstream_tls(table: &mut Table, key: &str, value: &str) {
    let tls = table.get_mut("broker").and_then(|broker| broker.get_mut("tls"));
    if let Some(tls) = tls.and_then(Value::as_table_mut) {
        tls.insert(key.into(), value.into());
    }
}

/// W29, THREATS A33.
#[test]
fn tls_towards_the_broker_is_verified_and_without_it_there_is_no_connection() -> Result<()> {
    run(async {
        let broker = BrokerOptions { tls: true, ..BrokerOptions::default() };
        let stage =
            open(Stage::with(SiteOptions { broker, ..SiteOptions::default() }).await?).await?;
        let spy = stage.site.spy("open/#").await?;
        for way in Way::ALL {
            let payload = format!("through-{}", way.word());
            let mut client = stage.session(way, &stage.stranger(&payload)?).await?;
            client.publish(&Publish::new("open/x", payload.as_bytes()).qos(1, 1)).await?;
            spy.until(PATIENCE, |heard| heard.payload == payload.as_bytes()).await?;
        }

        let foreign = stage.site.dir().join("foreign.pem");
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=foreign",
                "-keyout",
                "/dev/null",
                "-out",
            ])
            .arg(&foreign)
            .output()
            .await?;
        ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let foreign = foreign.display().to_string();
        let cases =
            [("authority", "ca", foreign.as_str()), ("host", "server_name", "broker.example")];
        for (what, key, value) in cases {
            let mut gateway = stage
                .spawn_gateway(&format!("wrong-{what}"), |table| upstream_tls(table, key, value))?;
            let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
            let body = until("readiness to name the broker's TLS", || async {
                let (status, body) = http::get(health, "/readyz").await?;
                ensure!(status == 503, "ready with a broker of the wrong {what}: {body}");
                Ok((body.contains("no TLS with the broker") && body.contains("fresh at"))
                    .then_some(body))
            })
            .await?;
            ensure!(body.contains("certificate"), "{body}");
            for version in [V311, V5] {
                let login = stage.stranger(&format!("wrong-{what}-{}", version.level()))?;
                let code =
                    Raw::plain(version, mqtt).await?.connect(&Connect::of(version, &login)).await?;
                assert_eq!(code, if version == V5 { 0x88 } else { 3 }, "{what}");
            }
            ensure!(
                !stage.site.broker.child.log().contains(&format!("-wrong-{what}")),
                "the broker saw the client"
            );
        }
        Ok(())
    })
}
