//! Behind balancers: whose word about an address is taken, whose is not, and that bans and caps then judge the client it names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Publish, Raw};
use crate::common::websocket::{self as ws, Framed, GOOD, listener, request};
use crate::common::{PATIENCE, Stage, V5, V311, http, run, until};
use eyre::{Result, bail, ensure, eyre};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use toml::{Table, Value};

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::open_and_closed).await
}

/// The address of the balancer, which is believed. Others of this machine are not.
const BALANCER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 1.
fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 4711 1883\r\n").into_bytes()
}

/// A header of version 2 with TLVs.
pub(crate) fn v2(client: &str, tlvs: &[u8]) -> Vec<u8> {
    let client: Ipv4Addr = client.parse().expect("an address");
    let mut rest = [&client.octets()[..], &[198, 51, 100, 1], &[0x12, 0x67, 0x07, 0x5b]].concat();
    rest.extend_from_slice(tlvs);
    fixed(0x21, 0x11, &rest)
}

fn fixed(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// A gateway with a listener for each way through a balancer.
async fn gateway(stage: &Stage, name: &str, edit: impl FnOnce(&mut Table)) -> Result<Process> {
    let proxied = "proxy_protocol = \"required\"\ntrusted_peers = [\"127.0.0.2\"]\n";
    let consent = "allow_tokens_without_tls = true\n";
    let mut tls = listener("tls", proxied)?;
    tls.insert("tls".into(), stage.identity());
    let listeners = [
        listener("proxied", &format!("{proxied}{consent}"))?,
        tls,
        listener("plain", consent)?,
        listener(
            "web",
            &format!("trusted_peers = [\"127.0.0.2\", \"10.0.0.0/8\"]\n{consent}websocket = {{}}"),
        )?,
        listener(
            "both",
            &format!(
                "proxy_protocol = \"required\"\ntrusted_peers = [\"127.0.0.2\", \"10.0.0.0/8\"]\n{consent}websocket = {{}}"
            ),
        )?,
    ];
    let mut process = stage.spawn_gateway(name, |table| {
        table.insert("listener".into(), Value::Array(listeners.map(Value::Table).to_vec()));
        if let Some(gateway) = table.get_mut("gateway").and_then(Value::as_table_mut) {
            gateway.remove("key_file");
        }
        set(table, "gateway", "record", "off");
        set(table, "limits", "proof_beats_ban", false);
        set(table, "limits", "connect_deadline", "1s");
        edit(table);
    })?;
    let health = process.health().await?;
    until("the gateway to be ready", || async move {
        Ok(http::get(health, "/readyz").await.ok().filter(|(status, _)| *status == 200))
    })
    .await?;
    Ok(process)
}

async fn dial(from: IpAddr, address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a header and CONNECT; the code of the CONNACK, `None` if the connection ends without one.
async fn attempt(
    from: IpAddr,
    address: SocketAddr,
    header: &[u8],
    connect: &Connect,
) -> Result<Option<u8>> {
    let Ok(mut stream) = dial(from, address).await else { return Ok(None) };
    if stream.write_all(&[header, &connect.octets(V311)].concat()).await.is_err() {
        return Ok(None);
    }
    code(stream).await
}

async fn code(mut stream: TcpStream) -> Result<Option<u8>> {
    let mut connack = [0; 4];
    match tokio::time::timeout(PATIENCE, stream.read_exact(&mut connack)).await? {
        Ok(_) if connack[..2] == [0x20, 2] => Ok(Some(connack[3])),
        Ok(_) => bail!("no CONNACK: {connack:02x?}"),
        Err(_) => Ok(None),
    }
}

/// The address that the gateway took a session for.
async fn opened_as(process: &mut Process, wanted: &str) -> Result<()> {
    let wanted = format!("\"{wanted}");
    let found = |log: &str| {
        log.lines().any(|l| l.contains("session opened") && l.contains(&wanted)).then_some(())
    };
    process.child.until_logged(&wanted, PATIENCE, found).await
}

async fn dropped(process: &mut Process, reason: &str) -> Result<f64> {
    let (_, body) = http::get(process.health().await?, "/metrics").await?;
    let series = format!("flytrap_connections_dropped_total{{reason=\"{reason}\"}} ");
    Ok(body.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap_or_default())
}

/// W51.
#[test]
fn a_header_of_a_trusted_peer_names_the_client_in_both_versions_whole_or_cut() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "names", |_| {}).await?;
        let address = process.listener("proxied").await?;
        let tlvs = [&[0x02, 0, 4][..], b"host", &[0x05, 0, 2, 1, 2, 0xe0, 0, 0]].concat();
        for (n, header, seen) in [
            (1, v1("203.0.113.1"), "203.0.113.1:4711"),
            (2, v2("203.0.113.2", &[]), "203.0.113.2:4711"),
            (3, v2("203.0.113.3", &tlvs), "203.0.113.3:4711"),
            (4, b"PROXY TCP6 2001:db8::4 ::1 4711 1883\r\n".to_vec(), "[2001:db8::4]:4711"),
            (5, b"PROXY TCP6 ::ffff:203.0.113.5 ::1 4711 1883\r\n".to_vec(), "203.0.113.5:4711"),
            (6, b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.2:"),
            (7, fixed(0x20, 0, &[]), "127.0.0.2:"),
            (8, fixed(0x20, 0x11, &[9; 12]), "127.0.0.2:"),
        ] {
            let connect = Connect::of(V311, &stage.stranger(&format!("named-{n}"))?);
            assert_eq!(attempt(BALANCER, address, &header, &connect).await?, Some(0), "{seen}");
            opened_as(&mut process, seen).await?;
            // Octet by octet, the header cut at every place.
            let mut stream = dial(BALANCER, address).await?;
            for octet in header {
                stream.write_all(&[octet]).await?;
                tokio::task::yield_now().await;
            }
            stream.write_all(&connect.octets(V311)).await?;
            assert_eq!(code(stream).await?, Some(0), "cut: {seen}");
        }
        Ok(())
    })
}

/// THREATS A35.
#[test]
fn a_header_from_anyone_else_and_one_that_is_wrong_are_closed_and_the_broker_sees_nothing()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "refuses", |_| {}).await?;
        let (proxied, plain) =
            (process.listener("proxied").await?, process.listener("plain").await?);
        let connect = Connect::of(V311, &stage.stranger("unbelieved")?);
        for header in [v1("203.0.113.1"), v2("203.0.113.1", &[]), fixed(0x20, 0, &[]), vec![]] {
            assert_eq!(attempt(NOBODY, proxied, &header, &connect).await?, None, "{header:02x?}");
        }
        assert_eq!(dropped(&mut process, "untrusted_peer").await?, 4.0);
        let wrong = [
            vec![],
            v2("203.0.113.1", &[0x02, 0, 9, b'x']),
            v2("203.0.113.1", &[0x02, 0xff, 0xff]),
            v2("203.0.113.1", &[0x02]),
            fixed(0x21, 0x11, &[1; 11]),
            fixed(0x31, 0x11, &[1; 12]),
            fixed(0x21, 0x77, &[1; 12]),
            v2("203.0.113.1", &[0x04, 0x13, 0x88].into_iter().chain([0; 5000]).collect::<Vec<_>>()),
            b"PROXY TCP4 203.0.113.1 198.51.100.1 4711 99999\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.1\r\n".to_vec(),
            b"PROXY TCP9 203.0.113.1 198.51.100.1 1 1\r\n".to_vec(),
            [b"PROXY ", &[b'1'; 120][..], b"\r\n"].concat(),
        ];
        for header in &wrong {
            assert_eq!(attempt(BALANCER, proxied, header, &connect).await?, None, "{header:02x?}");
        }
        assert_eq!(dropped(&mut process, "proxy_header").await?, wrong.len() as f64);
        // Where none is expected a header is no MQTT, whoever sends it.
        for header in [v1("203.0.113.1"), v2("203.0.113.1", &[])] {
            assert_eq!(attempt(BALANCER, plain, &header, &connect).await?, None, "{header:02x?}");
        }
        let saw = stage.site.recorder()?.connects();
        ensure!(!saw.iter().any(|c| c.client_id.ends_with("-unbelieved")), "the broker saw it");
        ensure!(!process.child.log().contains("203.0.113.1"), "an address was believed");
        assert_eq!(attempt(BALANCER, proxied, &v1("203.0.113.9"), &connect).await?, Some(0));
        Ok(())
    })
}

#[test]
fn half_a_header_ends_at_the_deadline_that_counts_from_accept() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "half", |_| {}).await?;
        for name in ["proxied", "tls", "both"] {
            let address = process.listener(name).await?;
            for half in
                [&b""[..], b"PROXY TCP4 203.0.1", &SIGNATURE[..8], &v2("203.0.113.1", &[])[..20]]
            {
                let mut stream = dial(BALANCER, address).await?;
                let began = Instant::now();
                stream.write_all(half).await?;
                ensure!(ws::rest(&mut stream, PATIENCE).await.is_some(), "{name}: still open");
                let after = began.elapsed();
                ensure!(
                    after < Duration::from_secs(3) && after > Duration::from_millis(700),
                    "{name} {half:02x?}: {after:?}"
                );
            }
        }
        ensure!(dropped(&mut process, "deadline").await? >= 12.0);
        Ok(())
    })
}

/// The door judges the client that is named, and the balancer by nobody's failures.
#[test]
fn failures_ban_the_named_client_and_neither_the_balancer_nor_its_other_clients() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "bans", |_| {}).await?;
        let (proxied, plain) =
            (process.listener("proxied").await?, process.listener("plain").await?);
        let good = Connect::of(V311, &stage.stranger("banned")?);
        for n in 0..6 {
            let wrong = Connect::of(V311, &stage.wrong_proof(&format!("wrong-{n}"))?);
            assert_eq!(attempt(BALANCER, proxied, &v1("203.0.113.7"), &wrong).await?, Some(4));
        }
        for header in [v1("203.0.113.7"), v2("203.0.113.7", &[])] {
            assert_eq!(attempt(BALANCER, proxied, &header, &good).await?, None, "not banned");
        }
        assert_eq!(attempt(BALANCER, proxied, &v1("203.0.113.8"), &good).await?, Some(0));
        assert_eq!(attempt(BALANCER, proxied, &fixed(0x20, 0, &[]), &good).await?, Some(0));
        assert_eq!(attempt(BALANCER, plain, &[], &good).await?, Some(0), "the balancer is banned");
        Ok(())
    })
}

#[test]
fn the_share_of_an_origin_is_that_of_the_named_client() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process =
            gateway(stage, "shares", |table| set(table, "limits", "max_connections_per_origin", 2))
                .await?;
        let address = process.listener("proxied").await?;
        let mut held = Vec::new();
        for n in 0..6 {
            let client = format!("203.0.113.{}", n / 2);
            let connect = Connect::of(V311, &stage.stranger(&format!("share-{n}"))?);
            let mut stream = dial(BALANCER, address).await?;
            stream.write_all(&[v1(&client), connect.octets(V311)].concat()).await?;
            let mut connack = [0; 4];
            stream.read_exact(&mut connack).await?;
            assert_eq!(connack, [0x20, 2, 0, 0], "{n}");
            held.push(stream);
        }
        let connect = Connect::of(V311, &stage.stranger("share-more")?);
        for n in 0..3 {
            let header = v1(&format!("203.0.113.{n}"));
            assert_eq!(attempt(BALANCER, address, &header, &connect).await?, None, "{n}");
        }
        assert_eq!(dropped(&mut process, "origin_full").await?, 3.0);
        held.remove(0);
        until("the room to be free again", || async {
            Ok(attempt(BALANCER, address, &v1("203.0.113.0"), &connect).await?.filter(|c| *c == 0))
        })
        .await?;
        Ok(())
    })
}

#[test]
fn the_header_comes_before_tls_and_not_within_it() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "before-tls", |_| {}).await?;
        let address = process.listener("tls").await?;
        let config =
            flytrap_gateway::tls::client_config(Some(&std::fs::read(stage.site.ca_file())?))?;
        let connector = TlsConnector::from(config);
        let name = rustls::pki_types::ServerName::try_from("localhost")?;
        for (version, header) in [(V311, v1("203.0.113.21")), (V5, v2("203.0.113.22", &[]))] {
            let mut stream = dial(BALANCER, address).await?;
            stream.write_all(&header).await?;
            let mut client = Raw::over(version, connector.connect(name.clone(), stream).await?);
            let login = stage.stranger(&format!("before-tls-{}", version.level()))?;
            assert_eq!(client.connect(&Connect::of(version, &login)).await?, 0);
            assert_eq!(client.ping().await?, []);
        }
        opened_as(&mut process, "203.0.113.21:4711").await?;
        opened_as(&mut process, "203.0.113.22:4711").await?;
        let stream = dial(BALANCER, address).await?;
        ensure!(connector.connect(name, stream).await.is_err(), "TLS without a header");
        Ok(())
    })
}

/// A CONNECT over WebSocket: the code of its CONNACK, `None` if the connection ends without one.
async fn web_attempt(
    from: IpAddr,
    address: SocketAddr,
    header: &[u8],
    forwarded: &[&str],
    connect: &Connect,
) -> Result<Option<u8>> {
    let Ok(mut stream) = dial(from, address).await else { return Ok(None) };
    let headers: Vec<&str> = GOOD.into_iter().chain(forwarded.iter().copied()).collect();
    if stream.write_all(header).await.is_err() {
        return Ok(None);
    }
    let asked = ws::ask(&mut stream, &request("/mqtt", &headers)).await;
    let Ok((101, _)) = asked else { return Ok(None) };
    let octets = ws::frame(ws::BINARY, &connect.octets(V311));
    stream.write_all(&octets).await?;
    let mut frame = [0; 6];
    stream.read_exact(&mut frame).await?;
    Ok(Some(frame[5]))
}

/// THREATS A36.
#[test]
fn of_forwarded_for_the_right_most_hop_that_is_not_listed_counts_and_only_from_listed_peers()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "forwarded", |_| {}).await?;
        let web = process.listener("web").await?;
        let good = Connect::of(V311, &stage.stranger("forwarded")?);
        let wrong = |n: u32| {
            Ok::<_, eyre::Report>(Connect::of(V311, &stage.wrong_proof(&format!("f-{n}"))?))
        };
        // What the client claims stands on the left and changes; what the proxies saw is on the right.
        for n in 0..6 {
            let header = format!("X-Forwarded-For: 1.2.3.{n}, 203.0.113.31, 10.0.0.{n}");
            let code = web_attempt(BALANCER, web, &[], &[&header], &wrong(n)?).await?;
            assert_eq!(code, Some(4));
        }
        for claim in ["203.0.113.31", "9.9.9.9, 203.0.113.31", "9.9.9.9, 203.0.113.31, 10.9.9.9"] {
            let header = format!("X-Forwarded-For: {claim}");
            let code = web_attempt(BALANCER, web, &[], &[&header], &good).await?;
            assert_eq!(code, None, "{claim} was not banned");
        }
        for claim in ["203.0.113.32", "203.0.113.31, 203.0.113.32", "1.2.3.4"] {
            let header = format!("X-Forwarded-For: {claim}");
            let code = web_attempt(BALANCER, web, &[], &[&header], &good).await?;
            assert_eq!(code, Some(0), "{claim}");
        }
        let two = ["X-Forwarded-For: 203.0.113.33", "X-Forwarded-For: 203.0.113.31"];
        assert_eq!(web_attempt(BALANCER, web, &[], &two, &good).await?, None);
        // Without one the peer is itself, and what cannot be read is refused.
        assert_eq!(web_attempt(BALANCER, web, &[], &[], &good).await?, Some(0));
        let nonsense = ["X-Forwarded-For: 203.0.113.32, nonsense"];
        assert_eq!(web_attempt(BALANCER, web, &[], &nonsense, &good).await?, None);
        // From anyone else it means nothing: neither to escape a ban nor to put it on another.
        for n in 10..16 {
            let header = format!("X-Forwarded-For: 203.0.113.{n}");
            assert_eq!(web_attempt(NOBODY, web, &[], &[&header], &wrong(n)?).await?, Some(4));
        }
        let escape = ["X-Forwarded-For: 203.0.113.99"];
        assert_eq!(web_attempt(NOBODY, web, &[], &escape, &good).await?, None, "not banned");
        assert_eq!(web_attempt(BALANCER, web, &[], &escape, &good).await?, Some(0));
        opened_as(&mut process, "203.0.113.32:0").await
    })
}

#[test]
fn behind_both_kinds_of_proxies_each_speaks_for_the_one_before_it() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut process = gateway(stage, "both", |_| {}).await?;
        let both = process.listener("both").await?;
        let good = Connect::of(V311, &stage.stranger("both")?);
        let forwarded = ["X-Forwarded-For: 203.0.113.41"];
        // The balancer names a listed proxy, whose word is taken; or someone else, whose is not.
        let code = web_attempt(BALANCER, both, &v1("10.0.0.1"), &forwarded, &good).await?;
        assert_eq!(code, Some(0));
        opened_as(&mut process, "203.0.113.41:0").await?;
        let code = web_attempt(BALANCER, both, &v1("203.0.113.42"), &forwarded, &good).await?;
        assert_eq!(code, Some(0));
        opened_as(&mut process, "203.0.113.42:4711").await?;
        assert_eq!(web_attempt(NOBODY, both, &v1("10.0.0.1"), &forwarded, &good).await?, None);
        let stream = dial(BALANCER, both).await?;
        let mut stream = stream;
        stream.write_all(&v2("203.0.113.43", &[])).await?;
        let framed = Framed::open(Box::new(stream), &[7]).await?;
        let mut client = Raw::over(V5, framed);
        assert_eq!(client.connect(&Connect::of(V5, &stage.stranger("both-5")?)).await?, 0);
        client.publish_whole(&Publish::new("open/both", b"x").qos(2, 9)).await
    })
}

/// In front of the real broker: takes the header off each connection, as a broker that reads it does, and keeps it.
struct Reader {
    address: SocketAddr,
    headers: Arc<Mutex<Vec<Vec<u8>>>>,
    accept: JoinHandle<()>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Reader {
    async fn start(broker: SocketAddr) -> Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let headers = Arc::new(Mutex::new(Vec::new()));
        let kept = headers.clone();
        let accept = tokio::spawn(async move {
            while let Ok((mut gateway, _)) = socket.accept().await {
                let kept = kept.clone();
                tokio::spawn(async move {
                    let mut header = vec![0; 16];
                    gateway.read_exact(&mut header).await?;
                    if !header.starts_with(SIGNATURE) {
                        return Err(std::io::ErrorKind::InvalidData.into());
                    }
                    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
                    header.resize(16 + length, 0);
                    gateway.read_exact(&mut header[16..]).await?;
                    kept.lock().expect("no panic").push(header);
                    let mut broker = TcpStream::connect(broker).await?;
                    tokio::io::copy_bidirectional(&mut gateway, &mut broker).await
                });
            }
        });
        Ok(Self { address, headers, accept })
    }

    fn headers(&self) -> Vec<Vec<u8>> {
        self.headers.lock().expect("no panic").clone()
    }
}

#[test]
fn a_broker_that_reads_the_header_is_told_the_client_and_the_probes_own() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let reader = Reader::start(stage.site.broker.address()).await?;
        let mut process = gateway(stage, "sends", |table| {
            set(table, "broker", "address", reader.address.to_string());
            set(table, "broker", "send_proxy", true);
        })
        .await?;
        ensure!(!reader.headers().is_empty(), "ready without a probe");
        ensure!(
            reader.headers().iter().all(|header| *header == fixed(0x20, 0, &[])),
            "a probe is nobody's"
        );
        let proxied = process.listener("proxied").await?;
        let spy = stage.site.spy("open/told").await?;
        for (header, family, source) in [
            (v1("203.0.113.51"), 0x11, vec![203, 0, 113, 51]),
            (
                b"PROXY TCP6 2001:db8::52 ::1 4711 1883\r\n".to_vec(),
                0x21,
                vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x52],
            ),
        ] {
            let mut stream = dial(BALANCER, proxied).await?;
            stream.write_all(&header).await?;
            let mut client = Raw::over(V5, stream);
            assert_eq!(client.connect(&Connect::of(V5, &stage.stranger("told")?)).await?, 0);
            client.publish_whole(&Publish::new("open/told", &source).qos(1, 1)).await?;
            spy.until(PATIENCE, |heard| heard.payload == source).await?;
            let told = reader.headers().pop().ok_or_else(|| eyre!("no header"))?;
            assert_eq!(&told[12..14], [0x21, family], "{told:02x?}");
            assert_eq!(&told[16..16 + source.len()], source, "{told:02x?}");
            let ports = 16 + 2 * source.len();
            assert_eq!(&told[ports..ports + 2], 4711_u16.to_be_bytes(), "{told:02x?}");
            assert_eq!(&told[ports + 2..], proxied.port().to_be_bytes(), "{told:02x?}");
        }
        // A refused proof causes no connection, and so no header.
        let before = reader.headers().len();
        let wrong = Connect::of(V311, &stage.wrong_proof("untold")?);
        assert_eq!(attempt(BALANCER, proxied, &v1("203.0.113.53"), &wrong).await?, Some(4));
        ensure!(
            reader.headers()[before..].iter().all(|header| *header == fixed(0x20, 0, &[])),
            "the broker was told of a client without a proof"
        );
        Ok(())
    })
}
