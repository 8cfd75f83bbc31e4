//! Whoever made the broker, a user sees the same wherever the specification fixes it: the same behaviours are played behind each.
//!
//! Each test starts one broker, unmodified, with a site of its own. Mosquitto and aedes are always there; for the others
//! `make e2e BROKER=...` brings and runs them. What a broker cannot do (`docs/brokers.md`) is left out here by name.

use std::future::Future;

use crate::common::process::set;
use crate::common::raw::{
    Connect, Delivery, Got, Publish, Raw, Will, acknowledge, property, unsubscribe,
};
use crate::common::{
    CLOSED, EVERY_VERSION, PATIENCE, PUBLIC, RETAIN, Right, Stage, V5, V31, V311, Version, Way,
    http, refused_filter, run, until,
};
use eyre::{Result, WrapErr, bail, ensure, eyre};
use flytrap_site::{BrokerKind, BrokerOptions, Login, Packet, SiteOptions};

#[test]
fn behind_mosquitto_a_user_sees_what_the_specification_fixes() -> Result<()> {
    everything_behind(BrokerKind::Mosquitto)
}

#[test]
fn behind_aedes_a_user_sees_what_the_specification_fixes() -> Result<()> {
    everything_behind(BrokerKind::Aedes)
}

#[test]
#[ignore = "run by `make e2e BROKER=rabbitmq`"]
fn behind_rabbitmq_a_user_sees_what_the_specification_fixes() -> Result<()> {
    everything_behind(BrokerKind::RabbitMq)
}

#[test]
#[ignore = "run by `make e2e BROKER=ejabberd`"]
fn behind_ejabberd_a_user_sees_what_the_specification_fixes() -> Result<()> {
    everything_behind(BrokerKind::Ejabberd)
}

#[test]
#[ignore = "run by `make e2e BROKER=hivemq`"]
fn behind_hivemq_a_user_sees_what_the_specification_fixes() -> Result<()> {
    everything_behind(BrokerKind::HiveMq)
}

#[test]
#[ignore = "run by `make e2e BROKER=moquette`"]
fn behind_moquette_a_user_sees_what_the_specification_fixes() -> Result<()> {
    everything_behind(BrokerKind::Moquette)
}

/// THREATS B16. To RabbitMQ `secret.x` is `secret/x`: who owns the one publishes to those who read the other.
#[test]
#[ignore = "run by `make e2e BROKER=rabbitmq`"]
fn behind_rabbitmq_names_it_takes_for_others_reach_others_without_the_dialect_and_nobody_with_it()
-> Result<()> {
    run(async {
        let stage = stage(BrokerKind::RabbitMq).await?;
        let stranger = stage.site.wallets.stranger.address();
        let reader = stage.site.wallets.reader.address();
        let (secret, hers) = (stage.topic("secret").await?, stage.topic("secret.x").await?);
        stage.grant(&secret, reader, Right::Subscribe).await?;
        stage.grant(&hers, stranger, Right::Publish).await?;
        stage.grant(&hers, stranger, Right::Subscribe).await?;
        let mut plain =
            stage.spawn_gateway("plain", |table| set(table, "broker", "dialect", "plain"))?;
        let (health, undefended) = (plain.health().await?, plain.listener("mqtt").await?);
        ready(health).await?;
        stage.caught_up().await?;
        let session = async |gateway, login: Login| -> Result<Raw> {
            let mut client = Raw::plain(V311, gateway).await?;
            ensure!(client.connect(&Connect::of(V311, &login)).await? == 0, "{login:?}");
            Ok(client)
        };

        let mut victim = stage.session(Way::plain(V311), &stage.reader("victim")?).await?;
        assert_eq!(victim.subscribe(&[("secret/x", 0)]).await?, [0]);
        let mut eve = session(undefended, stage.stranger("eve")?).await?;
        eve.publish_whole(&Publish::new("secret.x", b"forged").qos(1, 1)).await?;
        let forged = victim.delivery().await?;
        assert_eq!((forged.topic.as_str(), &forged.payload[..]), ("secret/x", &b"forged"[..]));

        let mut eve = stage.session(Way::plain(V311), &stage.stranger("eve")?).await?;
        stage.site.recorder()?.rewind();
        for (n, name) in (1..).zip(["secret.x", "secret.x/y", "secret.x/*"]) {
            eve.publish_whole(&Publish::new(name, b"forged again").qos(1, n)).await?;
        }
        let filters = [("secret.x", 1), ("secret.x/#", 0), ("secret.x/+/*", 0)];
        assert_eq!(eve.subscribe(&filters).await?, [0x80; 3]);
        let will = Will {
            topic: "secret.x".into(),
            payload: b"forged at last".to_vec(),
            qos: 0,
            retain: false,
        };
        let login = stage.stranger("eves-will")?;
        let connect = Connect { will: Some(will), ..Connect::of(V311, &login) };
        assert_eq!(stage.dial(Way::plain(V311)).await?.connect(&connect).await?, 5);
        // The owner, who may publish on both, marks the end.
        let owner = stage.site.token(&stage.site.wallets.topic_owner, "owner")?;
        let mut owner = stage.session(Way::plain(V311), &owner).await?;
        owner.publish_whole(&Publish::new("secret/x", b"genuine").qos(1, 9)).await?;
        assert_eq!(victim.delivery().await?.payload, b"genuine");
        let seen = stage.site.recorder()?;
        assert_eq!(seen.publishes().len(), 1, "{:?}", seen.publishes());
        assert_eq!(seen.subscribed(), []);
        Ok(())
    })
}

/// A site with this broker: below `open` everyone may do everything, below `plain` too but retain, below `closed` nobody anything.
async fn stage(kind: BrokerKind) -> Result<Stage> {
    let options = SiteOptions {
        broker: BrokerOptions { kind, ..BrokerOptions::default() },
        ..SiteOptions::default()
    };
    let stage = Stage::with(options).await?;
    eprintln!("{}", stage.site.broker.describe());
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    let plain = crate::common::Traits { retain: false, ..RETAIN };
    stage.topic_with("plain", plain, PUBLIC, PUBLIC).await?;
    stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
    stage.caught_up().await?;
    Ok(stage)
}

async fn ready(health: std::net::SocketAddr) -> Result<()> {
    let look = || async { Ok((http::get(health, "/readyz").await?.0 == 200).then_some(())) };
    until("readiness", look).await
}

/// Plays every behaviour, also after one that failed, and tells which did.
fn everything_behind(kind: BrokerKind) -> Result<()> {
    run(async {
        let stage = stage(kind).await?;
        let mut failed = Vec::new();
        let mut told = |what: &str, outcome: Result<()>| match outcome {
            Ok(()) => eprintln!("  {what}: as it should be"),
            Err(error) => failed.push(format!("{what}: {error:?}")),
        };
        told("versions that it does not speak", versions(&stage).await);
        for version in spoken(&stage) {
            let one = One { stage: &stage, version };
            one.played("proof", one.proof(), &mut told).await;
            one.played("publish", one.publish(), &mut told).await;
            one.played("subscribe", one.subscribe(), &mut told).await;
            one.played("names", one.names(), &mut told).await;
            one.played("retained messages", one.retained(), &mut told).await;
            one.played("will", one.will(), &mut told).await;
            one.played("revocation", one.revocation(), &mut told).await;
            one.played("takeover", one.takeover(), &mut told).await;
            one.played("session that lasts", one.lasting(), &mut told).await;
            one.played("unsubscribe", one.unsubscribe(), &mut told).await;
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!("behind {}:\n{}", stage.site.broker.describe(), failed.join("\n"))
    })
}

fn spoken(stage: &Stage) -> Vec<Version> {
    let broker = &stage.site.broker;
    let speaks = |version: &Version| match *version {
        V31 => broker.speaks_mqtt31(),
        V5 => broker.speaks_mqtt5(),
        _ => true,
    };
    EVERY_VERSION.into_iter().filter(speaks).collect()
}

/// The highest `QoS` that it carries through.
fn highest_qos(stage: &Stage) -> u8 {
    if stage.site.broker.kind() == BrokerKind::RabbitMq { 1 } else { 2 }
}

/// A client learns at once that its version is not spoken. Of MQTT 5 the gateway knows, and does not ask the broker each time.
async fn versions(stage: &Stage) -> Result<()> {
    for version in EVERY_VERSION {
        if spoken(stage).contains(&version) {
            continue;
        }
        let id = format!("unspoken-{}", version.level());
        let connect = Connect::of(version, &stage.stranger(&id)?);
        let code = stage.dial(Way::plain(version)).await?.connect(&connect).await?;
        let wanted = match (version, stage.site.broker.kind()) {
            (V5, _) => 0x84,
            // With MQTT 3.1 these take a client id of 23 octets at most, and the gateway's have more.
            (_, BrokerKind::Aedes) => 2,
            (_, BrokerKind::Moquette) => 3,
            _ => 1,
        };
        ensure!(code == wanted, "{version:?}: {code:#04x}, wanted {wanted:#04x}");
        ensure!(version != V5 || stage.seen_of(&id)?.is_empty(), "the broker was asked");
    }
    Ok(())
}

/// One version on the stage.
#[derive(Clone, Copy)]
struct One<'a> {
    stage: &'a Stage,
    version: Version,
}

impl One<'_> {
    async fn played(
        &self,
        what: &str,
        play: impl Future<Output = Result<()>>,
        told: &mut impl FnMut(&str, Result<()>),
    ) {
        let play = tokio::time::timeout(6 * PATIENCE, play).await;
        let outcome = play.unwrap_or_else(|_| Err(eyre!("it did not come to its end")));
        told(&format!("{what}, {:?}", self.version), outcome);
    }

    fn word(&self, what: &str) -> String {
        format!("{what}-{}", self.version.level())
    }

    async fn open(&self, id: &str) -> Result<Raw> {
        let login = self.stage.stranger(&self.word(id))?;
        self.stage.session(Way::plain(self.version), &login).await
    }

    /// A reader of everything below `base`, at the highest `QoS`.
    async fn reader(&self, base: &str) -> Result<Raw> {
        let mut reader = self.open(&format!("reader-of-{}", base.replace('/', "-"))).await?;
        let highest = highest_qos(self.stage);
        let codes = reader.subscribe(&[(&format!("{base}/#"), highest)]).await?;
        ensure!(codes == [highest], "SUBACK {codes:02x?}");
        Ok(reader)
    }

    fn seen(&self, topic: &str) -> Result<bool> {
        Ok(self.stage.site.recorder()?.saw_publish(topic))
    }

    async fn proof(&self) -> Result<()> {
        let id = self.word("no-proof");
        let other = self.stage.stranger("somebody-else")?;
        let login = Login { client_id: id.clone(), ..other };
        let mut client = self.stage.dial(Way::plain(self.version)).await?;
        let code = client.connect(&Connect::of(self.version, &login)).await?;
        let wanted = if self.version == V5 { 0x86 } else { 4 };
        ensure!(code == wanted, "{code:#04x}, wanted {wanted:#04x}");
        ensure!(self.stage.seen_of(&id)?.is_empty(), "the broker was asked");
        let mut client = self.open("proof").await?;
        ensure!(client.ping().await?.is_empty(), "something came before PINGRESP");
        Ok(())
    }

    /// Each allowed message arrives once, no refused one reaches the broker, and whoever sent it goes on.
    async fn publish(&self) -> Result<()> {
        let base = format!("open/{}", self.word("publish"));
        let mut reader = self.reader(&base).await?;
        let mut publisher = self.open("publisher").await?;
        let mut wanted = Vec::new();
        for qos in 0..=2_u8 {
            let refused = format!("closed/{}-{qos}", self.word("publish"));
            publisher.publish(&Publish::new(&refused, b"?").qos(qos, u16::from(qos))).await?;
            self.refusal(&mut publisher, qos).await?;
            if qos > highest_qos(self.stage) {
                continue;
            }
            let (topic, id) = (format!("{base}/{qos}"), 10 + u16::from(qos));
            let message = Publish::new(&topic, topic.as_bytes()).qos(qos, id);
            publisher.publish_whole(&message).await.wrap_err_with(|| format!("QoS {qos}"))?;
            wanted.push(topic);
        }
        let end = format!("{base}/end");
        publisher.publish_whole(&Publish::new(&end, b"end").qos(1, 20)).await?;
        let mut got = Vec::new();
        // The end may overtake what went by another QoS.
        for delivery in deliveries(&mut reader, wanted.len() + 1).await? {
            ensure!(
                delivery.payload == b"end" || delivery.payload == delivery.topic.as_bytes(),
                "{delivery:?}"
            );
            got.push(delivery.topic);
        }
        wanted.push(end);
        got.sort();
        wanted.sort();
        ensure!(got == wanted, "{got:?}, wanted {wanted:?}");
        ensure!(reader.ping().await?.is_empty(), "something came twice");
        for qos in 0..=2 {
            let refused = format!("closed/{}-{qos}", self.word("publish"));
            ensure!(!self.seen(&refused)?, "{refused} reached the broker");
        }
        Ok(())
    }

    /// What a refused PUBLISH is answered with.
    async fn refusal(&self, publisher: &mut Raw, qos: u8) -> Result<()> {
        let no = if self.version == V5 { 0x87 } else { 0 };
        let wanted = match qos {
            0 => return ensured(publisher.ping().await?.is_empty(), "QoS 0 was answered"),
            1 => 4,
            _ => 5,
        };
        match publisher.get().await? {
            Got::Ack { kind, id, code, .. }
                if kind == wanted && id == u16::from(qos) && code == no => {}
            other => bail!("QoS {qos}: {other:?}"),
        }
        if qos == 2 && self.version != V5 {
            publisher.send(acknowledge(0x62, 2)).await?;
            let answer = publisher.get().await?;
            ensure!(matches!(answer, Got::Ack { kind: 7, id: 2, .. }), "{answer:?}");
        }
        Ok(())
    }

    /// One code per filter in order, and the broker is asked for the allowed ones only.
    async fn subscribe(&self) -> Result<()> {
        let id = self.word("subscribe");
        let mut client = self.open("subscribe").await?;
        let filters = [
            ("open/a", 0),
            ("closed/a", 1),
            ("open/b/+", 1),
            ("$SYS/#", 0),
            ("#", 0),
            ("open/c", 2),
        ];
        let no = refused_filter(self.version);
        let codes = client.subscribe(&filters).await?;
        let wanted = [0, no, 1, no, no, highest_qos(self.stage)];
        ensure!(codes == wanted, "{codes:02x?}, wanted {wanted:02x?}");
        let asked: Vec<_> = self
            .stage
            .seen_of(&id)?
            .into_iter()
            .filter_map(|seen| match seen.packet {
                Packet::Subscribe { filters, .. } => Some(filters),
                _ => None,
            })
            .flatten()
            .map(|(filter, _)| filter)
            .collect();
        ensure!(asked == ["open/a", "open/b/+", "open/c"], "the broker was asked for {asked:?}");
        ensured(client.subscribe(&[("closed/#", 0)]).await? == [no], "all refused")
    }

    /// A name arrives as it was sent, whatever it is written with, or is refused because this broker would take it for another.
    async fn names(&self) -> Result<()> {
        let base = format!("open/{}", self.word("names"));
        let mut reader = self.reader(&base).await?;
        let mut publisher = self.open("names").await?;
        let taken = if self.stage.site.broker.kind() == BrokerKind::RabbitMq { ".*" } else { "" };
        let mut wanted = Vec::new();
        for character in (' '..='~').filter(|character| !"+#/".contains(*character)).chain(['é']) {
            for name in [
                format!("{base}/a{character}b"),
                format!("{base}/{character}"),
                format!("{base}/{character}/c"),
            ] {
                publisher.publish(&Publish::new(&name, name.as_bytes())).await?;
                if !taken.contains(character) {
                    wanted.push(name);
                }
            }
        }
        let end = format!("{base}/end");
        publisher.publish_whole(&Publish::new(&end, end.as_bytes())).await?;
        wanted.push(end);
        for (wanted, delivery) in wanted.iter().zip(deliveries(&mut reader, wanted.len()).await?) {
            ensure!(
                delivery.topic == *wanted && delivery.payload == wanted.as_bytes(),
                "{delivery:?}, wanted {wanted}"
            );
        }
        Ok(())
    }

    async fn retained(&self) -> Result<()> {
        let topic = format!("open/{}", self.word("retained"));
        let plain = format!("plain/{}", self.word("retained"));
        let mut publisher = self.open("retainer").await?;
        publisher.publish_whole(&Publish::new(&topic, b"kept").qos(1, 1).retained()).await?;
        publisher.publish(&Publish::new(&plain, b"?").retained()).await?;
        publisher.ping().await?;
        ensure!(!self.seen(&plain)?, "a retained message reached the broker where none may be");
        let kept = self.found_retained("late", &topic, 1).await?;
        let [kept] = &kept[..] else { bail!("wanted one retained message, got {kept:?}") };
        ensure!(kept.retain && kept.payload == b"kept" && kept.topic == topic, "{kept:?}");
        publisher.publish_whole(&Publish::new(&topic, b"").qos(1, 2).retained()).await?;
        let gone = self.found_retained("later", &topic, 0).await?;
        ensured(gone.is_empty(), "a retained message outlived its deletion")
    }

    /// What a new subscriber gets, so many at least, before the next message.
    async fn found_retained(&self, id: &str, topic: &str, least: usize) -> Result<Vec<Delivery>> {
        let mut reader = self.open(id).await?;
        let mut found = Vec::new();
        reader.send(crate::common::raw::subscribe(self.version, 7, &[(topic, 0)])).await?;
        let mut subscribed = false;
        // Retained messages may come before SUBACK and after it.
        while !subscribed || found.len() < least {
            match reader.get().await? {
                Got::SubAck { id: 7, codes, .. } if codes == [0] => subscribed = true,
                Got::Publish(delivery) => found.push(delivery),
                other => bail!("{other:?}"),
            }
        }
        let mut marker = self.open(&format!("{id}-marker")).await?;
        marker.publish_whole(&Publish::new(topic, b"mark").qos(1, 1)).await?;
        loop {
            let delivery = reader.delivery().await?;
            if delivery.payload == b"mark" {
                return Ok(found);
            }
            found.push(delivery);
        }
    }

    /// It fires when the client is lost, not when it says goodbye, and never where it may not.
    async fn will(&self) -> Result<()> {
        let base = format!("open/{}", self.word("will"));
        let mut reader = self.reader(&base).await?;
        let with_will = async |id: &str, topic: &str| -> Result<Result<Raw, u8>> {
            let will =
                Will { topic: topic.into(), payload: b"lost".to_vec(), qos: 1, retain: false };
            let login = self.stage.stranger(&self.word(id))?;
            let connect = Connect { will: Some(will), ..Connect::of(self.version, &login) };
            let mut client = self.stage.dial(Way::plain(self.version)).await?;
            Ok(match client.connect(&connect).await? {
                0 => Ok(client),
                code => Err(code),
            })
        };
        let accepted = |client: Result<Raw, u8>| client.map_err(|code| eyre!("{code:#04x}"));
        let mut leaves = accepted(with_will("leaves", &format!("{base}/left")).await?)?;
        let lost = accepted(with_will("lost", &format!("{base}/lost")).await?)?;
        leaves.send(crate::common::raw::DISCONNECT).await?;
        leaves.ended(PATIENCE).await?;
        drop(lost);
        let fired = deliveries(&mut reader, 1).await?;
        ensure!(fired[0].topic == format!("{base}/lost"), "{fired:?}");
        let id = self.word("forbidden");
        let code = match with_will("forbidden", "closed/will").await? {
            Ok(_) => bail!("a will where none may be was accepted"),
            Err(code) => code,
        };
        let wanted = if self.version == V5 { 0x87 } else { 5 };
        ensure!(code == wanted, "{code:#04x}, wanted {wanted:#04x}");
        ensure!(self.stage.seen_of(&id)?.is_empty(), "the broker was asked");
        ensured(reader.ping().await?.is_empty(), "another will fired")
    }

    /// ACCEPTANCE W11 behind this broker.
    async fn revocation(&self) -> Result<()> {
        let (stage, name) = (self.stage, self.word("revocation"));
        let wallet = stage.site.wallets.reader.address();
        let topic = stage.topic_with(&name, RETAIN, PUBLIC, CLOSED).await?;
        stage.grant(&topic, wallet, Right::Subscribe).await?;
        stage.caught_up().await?;
        let mut reader = stage.session(Way::plain(self.version), &stage.reader(&name)?).await?;
        let other = format!("open/{name}");
        ensure!(reader.subscribe(&[(&name, 1), (&other, 1)]).await? == [1, 1], "SUBACK");
        let mut publisher = self.open("revocation-publisher").await?;
        publisher.publish_whole(&Publish::new(&name, b"before").qos(1, 1)).await?;
        ensure!(deliveries(&mut reader, 1).await?[0].payload == b"before", "before");
        stage.revoke(&topic, wallet, Right::Subscribe).await?;
        let unsubscribed = |tape: &flytrap_site::Recorder| tape.saw_unsubscribe(&name);
        stage.site.recorder()?.until(PATIENCE, unsubscribed).await?;
        publisher.publish_whole(&Publish::new(&name, b"after").qos(1, 2)).await?;
        publisher.publish_whole(&Publish::new(&other, b"marker").qos(1, 3)).await?;
        let next = deliveries(&mut reader, 1).await?;
        ensure!(next[0].payload == b"marker", "after the revocation came {next:?}");
        let codes = reader.subscribe(&[(&name, 1)]).await?;
        ensured(codes == [refused_filter(self.version)], "it was granted again")
    }

    /// The second connection of a client id ends the first.
    async fn takeover(&self) -> Result<()> {
        let mut first = self.open("twice").await?;
        ensure!(first.ping().await?.is_empty(), "PINGRESP");
        let mut second = self.open("twice").await?;
        first.ended(PATIENCE).await.wrap_err("the first connection")?;
        ensured(second.ping().await?.is_empty(), "the second does not go on")
    }

    async fn lasting(&self) -> Result<()> {
        let topic = format!("open/{}", self.word("lasting"));
        let login = self.stage.stranger(&self.word("lasting"))?;
        let v5 = self.version == V5;
        let keep = Connect {
            clean: false,
            properties: if v5 { property::session_expiry(300) } else { Vec::new() },
            ..Connect::of(self.version, &login)
        };
        // MQTT 3.1 has no flag for it.
        let presence = self.version != V31;
        let connect = async |connect: &Connect| -> Result<(Raw, bool)> {
            let mut client = self.stage.dial(Way::plain(self.version)).await?;
            match client.connack(connect).await? {
                Got::ConnAck { code: 0, present, .. } => Ok((client, present)),
                other => bail!("{other:?}"),
            }
        };
        let (mut client, present) = connect(&keep).await?;
        ensure!(!present, "a session was there before");
        ensure!(client.subscribe(&[(&topic, 1)]).await? == [1], "SUBACK");
        client.send(crate::common::raw::DISCONNECT).await?;
        client.ended(PATIENCE).await?;
        let mut publisher = self.open("lasting-publisher").await?;
        publisher.publish_whole(&Publish::new(&topic, b"meanwhile").qos(1, 1)).await?;
        let (mut client, present) = connect(&keep).await?;
        ensure!(present || !presence, "the session is gone");
        let kept = deliveries(&mut client, 1).await?;
        ensure!(kept[0].payload == b"meanwhile", "{kept:?}");
        client.send(crate::common::raw::DISCONNECT).await?;
        client.ended(PATIENCE).await?;
        let clean = Connect::of(self.version, &login);
        let (mut client, present) = connect(&clean).await?;
        ensure!(!present, "a clean session was there before");
        publisher.publish_whole(&Publish::new(&topic, b"for nobody").qos(1, 2)).await?;
        ensured(client.ping().await?.is_empty(), "a subscription outlived its session")
    }

    async fn unsubscribe(&self) -> Result<()> {
        let base = format!("open/{}", self.word("unsubscribe"));
        let (gone, stays) = (format!("{base}/gone"), format!("{base}/stays"));
        let mut reader = self.open("unsubscribe").await?;
        ensure!(reader.subscribe(&[(&gone, 1), (&stays, 1)]).await? == [1, 1], "SUBACK");
        reader.send(unsubscribe(self.version, 5, &[&gone])).await?;
        let answer = reader.get().await?;
        ensure!(answer == Got::UnsubAck { id: 5 }, "{answer:?}");
        let mut publisher = self.open("unsubscribe-publisher").await?;
        publisher.publish_whole(&Publish::new(&gone, b"?").qos(1, 1)).await?;
        publisher.publish_whole(&Publish::new(&stays, b"!").qos(1, 2)).await?;
        let next = deliveries(&mut reader, 1).await?;
        ensured(next[0].topic == stays, "what was unsubscribed still comes")
    }
}

fn ensured(holds: bool, otherwise: &'static str) -> Result<()> {
    ensure!(holds, otherwise);
    Ok(())
}

/// So many messages, each acknowledged as its `QoS` wants.
async fn deliveries(reader: &mut Raw, count: usize) -> Result<Vec<Delivery>> {
    let (mut got, mut unreleased) = (Vec::new(), 0);
    while got.len() < count || unreleased > 0 {
        let next = reader.get().await;
        match next.wrap_err_with(|| format!("{} of {count} came: {got:?}", got.len()))? {
            Got::Publish(delivery) => {
                match delivery.qos {
                    1 => reader.send(acknowledge(0x40, delivery.id)).await?,
                    2 => {
                        unreleased += 1;
                        reader.send(acknowledge(0x50, delivery.id)).await?;
                    }
                    _ => {}
                }
                got.push(delivery);
            }
            Got::Ack { kind: 6, id, .. } => {
                unreleased -= 1;
                reader.send(acknowledge(0x70, id)).await?;
            }
            other => bail!("{other:?}"),
        }
    }
    Ok(got)
}
