//! Where clients are, by databases that are exchanged while sessions live (US5, FR8, W13, THREATS B31).
//!
//! Clients come by a balancer that names their addresses; judged is what the broker saw.

use std::fs;

use eyre::{Result, ensure, eyre};
use flytrap_record::Kind;
use flytrap_site::{Login, unix_now};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::common::process::program;
use crate::common::raw::{Connect, Got, Publish, Raw, Will};
use crate::common::websocket::listener;
use crate::common::{
    CLOSED, PATIENCE, PUBLIC, RETAIN, Right, Stage, Topic, Traits, V5, V311, Version,
    refused_filter, run, until,
};
use crate::proxy_protocol::v2;
use crate::record::exported;

const GB: &str = "81.2.69.142";
const DE: &str = "5.1.65.1";
const US: &str = "8.8.8.8";
/// In no database.
const NOWHERE: &str = "9.9.9.9";
const FR_V6: &str = "2a01:e0a::7";

/// IPv4 of all these, one octet wide; `gb` is what is said of the first.
fn ipv4(gb: &str) -> String {
    let header = "# Generated: Thu, 25 Jun 2026 04:33:59 GMT\n";
    // 5.1.65.0/24, 8.8.8.0/24, 10.0.0.0/8, 81.2.69.0/24, 127.0.0.0/8
    format!(
        "{header}83968256,83968511,DE\n134744064,134744319,US\n167772160,184549375,GB\n\
         1359103232,1359103487,{gb}\n2130706432,2147483647,GB\n"
    )
}
const IPV6: &str = "2a01:e00::,2a01:e3f:ffff:ffff:ffff:ffff:ffff:ffff,FR\n";

/// A site whose gateway takes a balancer's word, with topics: `land` with countries, `open` for all. Its databases are not there yet.
async fn stage(only: &[[u8; 2]], config: &str, traits: Traits) -> Result<(Stage, Topic)> {
    let config = format!("[countries]\ndatabases = [\"geoip\", \"geoip6\"]\n{config}");
    let mut stage = Stage::configured(&config).await?;
    let proxied = "proxy_protocol = \"required\"\ntrusted_peers = [\"127.0.0.1\"]\nallow_tokens_without_tls = true";
    stage.listen_too(vec![listener("proxied", proxied)?]).await?;
    let land = stage.topic_with("land", traits, CLOSED, CLOSED).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    let wallets = &stage.site.wallets;
    stage.grant(&land, wallets.reader.address(), Right::Subscribe).await?;
    stage.grant(&land, wallets.publisher.address(), Right::Publish).await?;
    stage.set_countries(&land, only).await?;
    stage.caught_up().await?;
    Ok((stage, land))
}

impl Stage {
    fn install(&self, name: &str, text: &[u8]) -> Result<()> {
        let (path, beside) = (self.site.dir().join(name), self.site.dir().join("beside"));
        fs::write(&beside, text)?;
        Ok(fs::rename(beside, path)?)
    }

    /// How often a country database was read so far with this outcome.
    async fn reads(&self, outcome: &str) -> Result<u64> {
        let (_, body) = self.site.gateway()?.ask("metrics").await?;
        let series = format!("flytrap_country_database_reads_total{{outcome=\"{outcome}\"}} ");
        let told = body.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
        Ok(told.unwrap_or_default())
    }

    /// SIGHUP, until the databases were read with these outcomes.
    async fn hang_up(&self, outcomes: &[&str]) -> Result<()> {
        let mut before = Vec::new();
        for outcome in outcomes {
            before.push((outcome, self.reads(outcome).await?));
        }
        self.site.gateway()?.child.hang_up();
        for (outcome, before) in before {
            until("the databases to be read", || async {
                Ok((self.reads(outcome).await? > before).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// A session of a client whose address a balancer tells.
    async fn from(&self, address: &str, version: Version, connect: &Connect) -> Result<Raw> {
        let mut stream = TcpStream::connect(self.site.gateway()?.listener("proxied")?).await?;
        let header = match address.contains(':') {
            true => format!("PROXY TCP6 {address} 2001:db8::1 4711 1883\r\n").into_bytes(),
            false => v2(address, &[]),
        };
        stream.write_all(&header).await?;
        let mut client = Raw::over(version, stream);
        let code = client.connect(connect).await?;
        ensure!(code == 0, "{address}: {} was refused with {code:#04x}", connect.client_id);
        Ok(client)
    }

    async fn login(&self, address: &str, version: Version, login: &Login) -> Result<Raw> {
        self.from(address, version, &Connect::of(version, login)).await
    }
}

/// Publishes with QoS 1; the code of the PUBACK, 0 where it says that nobody has subscribed.
async fn publish(client: &mut Raw, topic: &str, payload: &[u8], id: u16) -> Result<u8> {
    client.publish(&Publish::new(topic, payload).qos(1, id)).await?;
    match client.get().await? {
        Got::Ack { kind: 4, id: got, code: 0 | 0x10, .. } if got == id => Ok(0),
        Got::Ack { kind: 4, id: got, code, .. } if got == id => Ok(code),
        other => Err(eyre!("no PUBACK: {other:?}")),
    }
}

/// What an MQTT 3.1.1 client is told of a refused PUBLISH is what it is told of any other.
fn refused(version: Version) -> u8 {
    if version == V5 { 0x87 } else { 0 }
}

/// US5, without the time that it takes.
#[test]
fn a_topic_is_served_to_its_countries_and_to_nobody_from_elsewhere_or_nowhere() -> Result<()> {
    run(async {
        let only = [*b"DE", *b"FR", *b"GB"];
        let (stage, land) = stage(&only, "poll = \"1h\"", RETAIN).await?;
        let spy = stage.site.spy("#").await?;
        // Without its databases the gateway serves what needs none.
        let owner = &stage.site.wallets.topic_owner;
        let mut early = stage.login(GB, V5, &stage.site.token(owner, "early")?).await?;
        assert_eq!(publish(&mut early, "land", b"too early", 1).await?, 0x87);
        assert_eq!(publish(&mut early, "open", b"early", 2).await?, 0);
        stage.install("geoip", ipv4("GB").as_bytes())?;
        stage.install("geoip6", IPV6.as_bytes())?;
        stage.hang_up(&["ok"]).await?;

        let mapped = format!("::ffff:{GB}");
        let places = [
            (GB, true),
            (DE, true),
            (FR_V6, true),
            (&mapped, true),
            (US, false),
            (NOWHERE, false),
            // Files say something of them, and they say nothing of where anyone is.
            ("10.1.2.3", false),
            ("127.0.0.9", false),
            ("fd00::1", false),
            ("2a01:f00::1", false),
        ];
        for version in [V311, V5] {
            for (n, (address, is_served)) in places.into_iter().enumerate() {
                let id = |who: &str| format!("{who}-{n}-{}", version.level());
                let mut reads = stage.login(address, version, &stage.reader(&id("r"))?).await?;
                let code = if is_served { 0 } else { refused_filter(version) };
                let codes = reads.subscribe(&[("land", 0), ("open", 0)]).await?;
                assert_eq!(codes, [code, 0], "{address}");
                let mut writes = stage.login(address, version, &stage.publisher(&id("p"))?).await?;
                let payload = id("payload").into_bytes();
                let code = if is_served { 0 } else { refused(version) };
                assert_eq!(publish(&mut writes, "land", &payload, 7).await?, code, "{address}");
                assert_eq!(publish(&mut writes, "open", &payload, 8).await?, 0, "{address}");
                let heard = |topic: &'static str| {
                    let payload = payload.clone();
                    move |p: &flytrap_site::Publish| p.topic == topic && p.payload == payload
                };
                spy.until(PATIENCE, heard("open")).await?;
                assert_eq!(spy.heard().iter().any(heard("land")), is_served, "{address}");
                if is_served {
                    assert_eq!(reads.delivery().await?.topic, "land", "{address}");
                }
                assert_eq!(reads.delivery().await?.topic, "open", "{address}");
            }
        }

        // The owner shuts a country out: what is open from there ends, and nothing else.
        let mut from_de = stage.login(DE, V5, &stage.reader("stays-de")?).await?;
        let mut from_gb = stage.login(GB, V5, &stage.reader("stays-gb")?).await?;
        for client in [&mut from_de, &mut from_gb] {
            assert_eq!(client.subscribe(&[("land", 0), ("open", 0)]).await?, [0, 0]);
        }
        stage.set_countries(&land, &[*b"FR", *b"GB"]).await?;
        stage.caught_up().await?;
        stage.site.recorder()?.until(PATIENCE, |seen| seen.saw_unsubscribe("land")).await?;
        let mut broker = stage.direct(V5, "").await?;
        broker.publish(&Publish::new("land", b"after")).await?;
        broker.publish(&Publish::new("open", b"after")).await?;
        assert_eq!(from_gb.delivery().await?.topic, "land");
        for client in [&mut from_gb, &mut from_de] {
            assert_eq!(client.delivery().await?.topic, "open");
        }
        Ok(())
    })
}

/// Whom an exchange takes a right loses it on the session that is open, whom it gives one has it there; others notice nothing.
#[test]
fn a_database_that_is_exchanged_moves_sessions_that_are_open() -> Result<()> {
    run(async {
        let (stage, _) = stage(&[*b"GB"], "poll = \"50ms\"", RETAIN).await?;
        let spy = stage.site.spy("#").await?;
        stage.install("geoip", ipv4("GB").as_bytes())?;
        let ok = async |wanted: u64| {
            until("an exchange", || async {
                Ok((stage.reads("ok").await? >= wanted).then_some(()))
            })
            .await
        };
        ok(1).await?;
        let recorder = stage.site.recorder()?;
        let mut exchanges = 1;
        for version in [V311, V5] {
            let id = |who: &str| format!("{who}-{}", version.level());
            let owner = &stage.site.wallets.topic_owner;
            let mut moves =
                stage.login(GB, version, &stage.site.token(owner, &id("moves"))?).await?;
            let mut stays = stage.login(US, version, &stage.stranger(&id("stays"))?).await?;
            // One session has both, so that what ends its reading shows when its writing has.
            let reads = format!("land/{}/reads", version.level());
            let writes = format!("land/{}/writes", version.level());
            assert_eq!(moves.subscribe(&[(&reads, 0), ("open", 0)]).await?, [0, 0]);
            assert_eq!(stays.subscribe(&[("open", 0)]).await?, [0]);
            assert_eq!(publish(&mut moves, &writes, b"before", 1).await?, 0);
            let will =
                Will { topic: writes.clone(), payload: id("will").into(), qos: 0, retain: false };
            let login = stage.site.token(owner, &id("wills"))?;
            let connect = Connect { will: Some(will), ..Connect::of(version, &login) };
            let mut wills = stage.from(GB, version, &connect).await?;

            stage.install("geoip", ipv4("US").as_bytes())?;
            exchanges += 1;
            ok(exchanges).await?;
            recorder.until(PATIENCE, |seen| seen.saw_unsubscribe(&reads)).await?;
            let payload = id("from elsewhere").into_bytes();
            assert_eq!(publish(&mut moves, &writes, &payload, 2).await?, refused(version));
            let mut broker = stage.direct(V5, "").await?;
            broker.publish(&Publish::new(&reads, b"withheld")).await?;
            let marker = id("marker").into_bytes();
            broker.publish(&Publish::new("open", &marker)).await?;
            assert_eq!(
                moves.delivery().await?.payload,
                marker,
                "something came after the exchange"
            );
            assert_eq!(stays.delivery().await?.payload, marker);
            let ended = wills.ended(PATIENCE).await?;
            if version == V5 {
                assert!(matches!(ended[..], [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");
            }

            stage.install("geoip", ipv4("GB").as_bytes())?;
            exchanges += 1;
            ok(exchanges).await?;
            assert_eq!(publish(&mut moves, &writes, b"back", 3).await?, 0);
            assert_eq!(moves.subscribe(&[(&reads, 0)]).await?, [0]);
            broker.publish(&Publish::new(&reads, b"again")).await?;
            assert_eq!(moves.delivery().await?.payload, b"again");
            spy.until(PATIENCE, |heard| heard.topic == writes && heard.payload == b"back").await?;
            for unwanted in [payload, id("will").into_bytes()] {
                assert!(spy.heard().iter().all(|heard| heard.payload != unwanted), "{version:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_database_that_is_wrong_leaves_the_one_in_use_and_every_session_as_they_are() -> Result<()> {
    run(async {
        let (mut stage, _) = stage(&[*b"GB"], "poll = \"1h\"", RETAIN).await?;
        stage.install("geoip", ipv4("GB").as_bytes())?;
        stage.hang_up(&["ok", "refused"]).await?;
        let spy = stage.site.spy("land").await?;
        let mut writes = stage.login(GB, V5, &stage.publisher("goes-on")?).await?;
        let good = ipv4("GB");
        let wrong: [&[u8]; 7] = [
            b"",
            b"\0\xFF garbage",
            b"\xAB\xCD\xEFMaxMind.com",
            &good.as_bytes()[..good.len() - 3],
            b"9,9,GB\n1,1,GB\n",
            b"1,99999999999999999999,GB\n",
            b"1,2,Great Britain\n",
        ];
        for (n, text) in wrong.into_iter().enumerate() {
            stage.install("geoip", text)?;
            let refused = stage.reads("refused").await?;
            stage.site.gateway()?.child.hang_up();
            // The other file is missing still, and says so each time.
            until("both to be refused", || async {
                Ok((stage.reads("refused").await? >= refused + 2).then_some(()))
            })
            .await?;
            let payload = [u8::try_from(n)?];
            assert_eq!(publish(&mut writes, "land", &payload, 5).await?, 0, "{n}");
            spy.until(PATIENCE, |heard| heard.payload == payload).await?;
            let mut fresh = stage.login(GB, V5, &stage.publisher(&format!("fresh-{n}"))?).await?;
            assert_eq!(publish(&mut fresh, "land", b"fresh", 5).await?, 0, "{n}");
        }
        let log = stage.site.gateway()?.child.log();
        ensure!(log.contains("the one in use stays") && log.contains("line 2"), "{log}");

        // A start with nothing usable serves what needs no country.
        stage.reconfigure(|_| Ok(())).await?;
        stage.caught_up().await?;
        let mut writes = stage.login(GB, V5, &stage.publisher("restarted")?).await?;
        assert_eq!(publish(&mut writes, "land", b"unknown", 1).await?, 0x87);
        assert_eq!(publish(&mut writes, "open", b"served", 2).await?, 0);
        assert!(spy.heard().iter().all(|heard| heard.payload != b"unknown"));
        let missing = stage.site.gateway()?.metric("country_databases_missing").await?;
        assert!((missing - 2.0).abs() < 0.1, "{missing}");
        Ok(())
    })
}

#[test]
fn without_a_database_a_rule_refuses_everybody_and_the_log_says_why_once() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let topic = stage.topic_with("land", RETAIN, PUBLIC, PUBLIC).await?;
        stage.set_countries(&topic, &[*b"GB"]).await?;
        stage.caught_up().await?;
        let mut client =
            stage.session(crate::common::Way::plain(V5), &stage.stranger("somewhere")?).await?;
        for id in 1..=3 {
            assert_eq!(publish(&mut client, "land", b"", id).await?, 0x87);
        }
        assert_eq!(publish(&mut client, "open", b"", 4).await?, 0);
        let told = stage.site.gateway()?.child.log();
        assert_eq!(told.matches("`countries.databases` names no file").count(), 1, "{told}");
        Ok(())
    })
}

#[test]
fn a_check_of_the_configuration_tells_what_is_in_each_database() -> Result<()> {
    run(async {
        let (stage, _) = stage(&[*b"GB"], "", RETAIN).await?;
        let config = stage.site.gateway()?.config.display().to_string();
        let check = || {
            let arguments = ["check-config", &config, "--offline"];
            let done = std::process::Command::new(program()).args(arguments).output()?;
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            eyre::Ok((done.status.success(), said))
        };
        stage.install("geoip", ipv4("GB").as_bytes())?;
        stage.install("geoip6", b"2a01::,2a00::,FR\n")?;
        let (is_right, said) = check()?;
        let found = "geoip of 25 Jun 2026, 5 ranges of IPv4 and 0 of IPv6";
        ensure!(!is_right && said.contains(found), "{said}");
        let wrong = "line 1: its last address comes before its first";
        let line = said.lines().find(|line| line.contains(wrong));
        ensure!(line.is_some_and(|line| line.starts_with("WRONG")), "{said}");
        stage.install("geoip6", IPV6.as_bytes())?;
        let (is_right, said) = check()?;
        ensure!(is_right && said.contains("0 ranges of IPv4 and 1 of IPv6"), "{said}");
        Ok(())
    })
}

/// FR7: where. What is recorded rests on the database that was last recorded before it began.
#[test]
fn records_name_the_country_and_the_database_that_says_so() -> Result<()> {
    run(async {
        let sensitive = Traits { sensitive: true, ..RETAIN };
        let (stage, _) = stage(&[*b"FR", *b"GB"], "poll = \"1h\"", sensitive).await?;
        stage.install("geoip", ipv4("GB").as_bytes())?;
        stage.hang_up(&["ok"]).await?;
        let mut writes = stage.login(GB, V5, &stage.publisher("moves")?).await?;
        for id in 1..=3 {
            assert_eq!(publish(&mut writes, "land", b"one", id).await?, 0);
        }
        let exchanged = unix_now();
        stage.install("geoip", ipv4("FR").as_bytes())?;
        stage.hang_up(&["ok"]).await?;
        for id in 4..=5 {
            assert_eq!(publish(&mut writes, "land", b"two", id).await?, 0);
        }
        let mut elsewhere = stage.login(US, V5, &stage.publisher("elsewhere")?).await?;
        assert_eq!(publish(&mut elsewhere, "land", b"no", 1).await?, 0x87);

        // Twice for who was here at the exchange, and never for a packet.
        let (_, body) = stage.site.gateway()?.ask("metrics").await?;
        ensure!(body.contains("flytrap_country_lookups_total{answer=\"found\"} 3\n"), "{body}");

        let publisher = stage.site.wallets.publisher.address();
        let (_, records) = exported(&stage, |records| {
            let count =
                |kind| records.iter().filter(|r| r.kind == kind).map(|r| r.count).sum::<u64>();
            (count(Kind::Published), count(Kind::PublishRefused)) == (5, 1)
        })
        .await?;
        let of = |kind: Kind| {
            let all = records.iter().filter(|r| r.kind == kind && r.wallet == publisher);
            all.map(|r| (r.country.as_str(), r.count, r.rule.as_str())).collect::<Vec<_>>()
        };
        // Counts may come in several records, never mixed.
        let published = |country| {
            of(Kind::Published)
                .iter()
                .filter(|told| told.0 == country)
                .map(|told| told.1)
                .sum::<u64>()
        };
        assert_eq!((published("GB"), published("FR")), (3, 2));
        assert_eq!(of(Kind::PublishRefused), [("US", 1, "country")]);
        let databases: Vec<_> = records
            .iter()
            .filter(|r| r.kind == Kind::Started && r.rule.starts_with("countries 25 Jun 2026 "))
            .collect();
        let [first, second] = databases[..] else { return Err(eyre!("{databases:?}")) };
        assert!(first.rule.ends_with(" geoip") && first.rule != second.rule);
        assert!(first.first_at <= exchanged && exchanged <= second.first_at);
        let after = records.iter().filter(|r| r.country == "FR");
        assert!(after.clone().count() > 0);
        assert!(after.into_iter().all(|r| r.index > second.index && r.first_at >= second.first_at));
        Ok(())
    })
}
