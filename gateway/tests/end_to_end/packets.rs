//! ACCEPTANCE W1 to W8, W10: single packets of an open session, octet by octet, judged at the broker's socket.

use crate::common::raw::{
    Connect, Got, Publish, acknowledge, property, subscribe, text, unsubscribe,
};
use crate::common::{EVERY_VERSION, PATIENCE, Right, Stage, V5, V311, Way, refused_filter, run};
use eyre::{Result, bail, ensure};
use flytrap_site::Packet;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::open_and_closed).await
}

/// W3, W6: the broker is asked for the allowed filters only, and its codes are merged with the refusals in the client's order.
#[test]
fn one_suback_with_the_same_id_and_the_codes_of_broker_and_gateway_in_the_clients_order()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        for version in EVERY_VERSION {
            let id = format!("merge-{}", version.level());
            let mut client = stage.session(Way::plain(version), &stage.stranger(&id)?).await?;
            let no = refused_filter(version);
            let filters = [
                ("closed/a", 2),
                ("open/a", 2),
                ("closed/b", 0),
                ("open/b", 1),
                ("open/c", 0),
                ("closed/c", 1),
            ];
            client.send(subscribe(version, 0xfffe, &filters)).await?;
            let Got::SubAck { id: 0xfffe, codes, .. } = client.get().await? else {
                bail!("no SUBACK with the id")
            };
            assert_eq!(codes, [no, 2, no, 1, 0, no], "{version:?}");
            assert_eq!(client.ping().await?, [], "{version:?}: one SUBACK only");
            let asked: Vec<_> = stage
                .seen_of(&id)?
                .into_iter()
                .filter_map(|seen| match seen.packet {
                    Packet::Subscribe { id, filters } => Some((id, filters)),
                    _ => None,
                })
                .collect();
            let wanted = [("open/a", 2), ("open/b", 1), ("open/c", 0)]
                .map(|(filter, qos)| (filter.to_owned(), qos));
            assert_eq!(
                asked,
                [(0xfffe, wanted.to_vec())],
                "{version:?}: what the broker was asked"
            );

            // All refused: the broker is not asked, the answer is the gateway's.
            client.send(subscribe(version, 0xfffe, &[("closed/a", 2), ("closed/b", 1)])).await?;
            let Got::SubAck { id: 0xfffe, codes, .. } = client.get().await? else {
                bail!("no SUBACK with the id")
            };
            assert_eq!(codes, [no, no], "{version:?}");
            // Malformed for a topic filter: an empty level is fine, a `#` inside is not.
            client.send(subscribe(version, 9, &[("open/#/a", 0)])).await?;
            client.ended(PATIENCE).await?;
            let asked = stage
                .seen_of(&id)?
                .iter()
                .filter(|seen| matches!(seen.packet, Packet::Subscribe { .. }))
                .count();
            assert_eq!(asked, 1, "{version:?}");
        }
        Ok(())
    })
}

/// W7.
#[test]
fn two_hundred_subscribes_are_granted_their_qos_every_time() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for version in [V311, V5] {
            let mut client = stage
                .session(Way::plain(version), &stage.stranger(&format!("w7-{}", version.level()))?)
                .await?;
            // All at once, so that answers could be mixed up.
            let octets: Vec<u8> = (1..=200)
                .flat_map(|id| {
                    subscribe(
                        version,
                        id,
                        &[("open/0", 0), ("closed", 1), ("open/1", 1), ("open/2", 2)],
                    )
                })
                .collect();
            client.send(octets).await?;
            for wanted in 1..=200 {
                let Got::SubAck { id, codes, .. } = client.get().await? else { bail!("no SUBACK") };
                assert_eq!(
                    (id, codes.as_slice()),
                    (wanted, &[0, refused_filter(version), 1, 2][..]),
                    "{version:?}"
                );
            }
        }
        Ok(())
    })
}

/// W4, W5 and the table of DESIGN section 4.
#[test]
fn a_refused_publish_is_answered_by_its_version_and_qos_and_the_broker_never_sees_it() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("closed/#").await?;
        for version in EVERY_VERSION {
            let id = format!("refused-{}", version.level());
            let mut client = stage.session(Way::plain(version), &stage.stranger(&id)?).await?;
            let code = if version == V5 { 0x87 } else { 0 };

            client.publish(&Publish::new("closed/x", b"qos 0")).await?;
            assert_eq!(client.ping().await?, [], "{version:?}: nothing answers QoS 0");

            client.publish(&Publish::new("closed/x", b"qos 1").qos(1, 0xfffe)).await?;
            let Got::Ack { kind: 4, id: 0xfffe, code: found, reason } = client.get().await? else {
                bail!("no PUBACK")
            };
            assert_eq!((found, reason.is_some()), (code, version == V5), "{version:?}: QoS 1");

            // Twice, since after the refusal the packet id is free again.
            for round in 0..2 {
                client.publish(&Publish::new("closed/x", b"qos 2").qos(2, 0xfffe)).await?;
                let Got::Ack { kind: 5, id: 0xfffe, code: found, .. } = client.get().await? else {
                    bail!("no PUBREC")
                };
                assert_eq!(found, code, "{version:?}: QoS 2, round {round}");
                if version != V5 {
                    client.send(acknowledge(0x62, 0xfffe)).await?;
                    let Got::Ack { kind: 7, id: 0xfffe, .. } = client.get().await? else {
                        bail!("no PUBCOMP")
                    };
                }
            }
            // And usable for what is allowed, at every QoS.
            client.publish(&Publish::new("open/x", b"").qos(1, 0xfffe)).await?;
            let Got::Ack { kind: 4, id: 0xfffe, .. } = client.get().await? else {
                bail!("no PUBACK")
            };
            client.publish(&Publish::new("open/x", b"").qos(2, 0xfffe)).await?;
            let Got::Ack { kind: 5, id: 0xfffe, .. } = client.get().await? else {
                bail!("no PUBREC")
            };
            client.send(acknowledge(0x62, 0xfffe)).await?;
            let Got::Ack { kind: 7, id: 0xfffe, .. } = client.get().await? else {
                bail!("no PUBCOMP")
            };

            let published = stage.seen_of(&id)?.into_iter().filter_map(|seen| match seen.packet {
                Packet::Publish(publish) if publish.topic != "open/x" => Some(publish),
                _ => None,
            });
            assert_eq!(published.collect::<Vec<_>>(), [], "{version:?}: what the broker saw");
        }
        ensure!(
            !spy.heard().iter().any(|heard| heard.topic.starts_with("closed")),
            "a refused message came through"
        );
        Ok(())
    })
}

/// [MQTT-4.6.0-2]: PUBACKs come in the order of the PUBLISHes, whoever gives them.
#[test]
fn acknowledgements_of_broker_and_gateway_come_in_the_order_of_the_publishes() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for version in [V311, V5] {
            let mut client = stage
                .session(
                    Way::plain(version),
                    &stage.stranger(&format!("order-{}", version.level()))?,
                )
                .await?;
            let topic = |id: u16| if id.is_multiple_of(3) { "closed/o" } else { "open/o" };
            let octets: Vec<u8> = (1..=300)
                .flat_map(|id| Publish::new(topic(id), b"x").qos(1, id).octets(version))
                .collect();
            client.send(octets).await?;
            for wanted in 1..=300 {
                let Got::Ack { kind: 4, id, code, .. } = client.get().await? else {
                    bail!("no PUBACK")
                };
                assert_eq!(id, wanted, "{version:?}");
                assert_eq!(code == 0x87, version == V5 && wanted % 3 == 0, "{version:?}: {id}");
            }
        }
        Ok(())
    })
}

/// A 3.1.1 listener may close on a refused publish instead.
#[test]
fn with_deny_action_close_a_3_1_1_client_is_closed_unanswered_and_one_of_5_is_told() -> Result<()> {
    run(async {
        let listener = "[[listener]]\nname = \"mqtt\"\nbind = \"127.0.0.1:0\"\nallow_tokens_without_tls = true\ndeny_action = \"close\"";
        let stage = Stage::configured(listener).await?;
        for qos in 0..3 {
            let mut client =
                stage.session(Way::plain(V311), &stage.stranger(&format!("close-{qos}"))?).await?;
            client.publish(&Publish::new("closed", b"x").qos(qos, 1)).await?;
            assert_eq!(client.ended(PATIENCE).await?, [], "QoS {qos}");
        }
        let mut client = stage.session(Way::plain(V5), &stage.stranger("told")?).await?;
        client.publish(&Publish::new("closed", b"x").qos(1, 1)).await?;
        let Got::Ack { code: 0x87, .. } = client.get().await? else { bail!("no PUBACK 0x87") };
        ensure!(!stage.site.recorder()?.saw_publish("closed"), "the broker saw it");
        Ok(())
    })
}

/// W8.
#[test]
fn properties_of_a_message_arrive_octet_by_octet_and_repeated_ones_in_their_order() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            let way = Way { version: V5, tls };
            let mut reader =
                stage.session(way, &stage.stranger(&format!("props-r-{tls}"))?).await?;
            let mut publisher =
                stage.session(way, &stage.stranger(&format!("props-p-{tls}"))?).await?;
            let topic = format!("open/props-{tls}");
            assert_eq!(reader.subscribe(&[(&topic, 1)]).await?, [1]);
            let mut properties = vec![0x01, 1];
            properties.extend([&[0x03][..], &text("text/plain; charset=utf-8")].concat());
            properties.extend([&[0x08][..], &text("open/answers")].concat());
            properties.extend([&[0x09][..], &[0, 4, 0, 0xff, 0, 0x80]].concat());
            for value in ["first", "", "third \u{1F41D}"] {
                properties.extend(property::user("same", value));
            }
            publisher
                .publish(
                    &Publish::new(&topic, "\u{1F41D}".as_bytes())
                        .qos(1, 1)
                        .with(properties.clone()),
                )
                .await?;
            let delivery = reader.delivery().await?;
            let values: Vec<_> =
                delivery.user.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(values, [("same", "first"), ("same", ""), ("same", "third \u{1F41D}")]);
            // Brokers may order properties of different kinds as they like; Mosquitto's own order is what a direct reader gets.
            let mut direct = stage.direct(V5, "").await?;
            assert_eq!(direct.subscribe(&[(&topic, 1)]).await?, [1]);
            publisher
                .publish(&Publish::new(&topic, b"again").qos(1, 2).with(properties.clone()))
                .await?;
            assert_eq!(direct.delivery().await?.properties, reader.delivery().await?.properties);
            // Towards the broker they are the client's own octets.
            ensure!(stage.site.recorder()?.saw_octets(&properties), "the broker got other octets");
        }
        Ok(())
    })
}

/// W10.
#[test]
fn an_alias_means_what_it_was_set_to_also_when_that_was_refused_and_nothing_else() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("#").await?;
        let way = Way::plain(V5);
        let id = "aliases";
        let mut client = stage.dial(way).await?;
        let Got::ConnAck { code: 0, aliases, .. } =
            client.connack(&Connect::of(V5, &stage.stranger(id)?)).await?
        else {
            bail!("refused")
        };
        ensure!(aliases >= 3, "the broker takes {aliases} aliases");
        let aliased = |topic: &'static str, payload: &'static [u8], packet, alias| {
            Publish::new(topic, payload).qos(1, packet).with(property::alias(alias))
        };
        let mut code_of = async |publish: Publish<'_>| -> Result<u8> {
            client.publish(&publish).await?;
            match client.get().await? {
                Got::Ack { kind: 4, id, code, .. } if id == publish.id => Ok(code),
                other => bail!("{other:?}"),
            }
        };
        let good = |code| code == 0 || code == 0x10;
        ensure!(good(code_of(aliased("open/alias", b"set", 1, 1)).await?));
        ensure!(good(code_of(aliased("", b"used", 2, 1)).await?));
        // Set by a packet that is refused: the broker never saw it, the client means it from now on.
        assert_eq!(code_of(aliased("closed/alias", b"no", 3, 2)).await?, 0x87);
        assert_eq!(code_of(aliased("", b"no again", 4, 2)).await?, 0x87);
        // An alias that meant an allowed name is set to a refused one: it must not mean the old name any more.
        assert_eq!(code_of(aliased("closed/alias", b"changed", 5, 1)).await?, 0x87);
        assert_eq!(code_of(aliased("", b"after the change", 6, 1)).await?, 0x87);
        // And back again.
        ensure!(good(code_of(aliased("open/back", b"back", 7, 1)).await?));
        ensure!(good(code_of(aliased("", b"back again", 8, 1)).await?));
        spy.until(PATIENCE, |heard| heard.payload == b"back again").await?;
        let ours: Vec<_> = spy
            .heard()
            .into_iter()
            .filter(|heard| heard.topic.contains("alias") || heard.topic == "open/back")
            .map(|heard| (heard.topic, heard.payload))
            .collect();
        let wanted = [
            ("open/alias", "set"),
            ("open/alias", "used"),
            ("open/back", "back"),
            ("open/back", "back again"),
        ];
        assert_eq!(
            ours,
            wanted.map(|(topic, payload)| (topic.to_owned(), payload.as_bytes().to_vec()))
        );

        // An alias nobody set, and one beyond what the broker takes.
        for (n, alias) in [(0, 3), (1, aliases.saturating_add(1)), (2, 0)] {
            let mut client = stage.session(way, &stage.stranger(&format!("no-alias-{n}"))?).await?;
            let topic = if n == 0 { "" } else { "open/x" };
            client.publish(&Publish::new(topic, b"?").with(property::alias(alias))).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(
                matches!(ended.as_slice(), [Got::Disconnect { code: 0x94 | 0x82 | 0x81, .. }]),
                "alias {alias}: {ended:?}"
            );
            ensure!(
                !stage
                    .seen_of(&format!("no-alias-{n}"))?
                    .iter()
                    .any(|seen| matches!(seen.packet, Packet::Publish(_))),
                "the broker saw it"
            );
        }
        Ok(())
    })
}

/// W2 for retained messages: those of a name the reader may not read stay with the broker, also under a filter that was granted.
#[test]
fn a_retained_message_is_judged_like_any_other() -> Result<()> {
    run(async {
        let stage = Stage::configured("[access]\nwildcards = \"narrow\"").await?;
        let reader = stage.site.wallets.reader.address();
        let open = stage.topic("house").await?;
        stage.topic("house/safe").await?;
        stage.grant(&open, reader, Right::Subscribe).await?;
        stage.caught_up().await?;
        let mut broker = stage.direct(V5, "").await?;
        for name in ["house/safe/code", "house/a", "house/z"] {
            broker.publish(&Publish::new(name, name.as_bytes()).qos(1, 1).retained()).await?;
            broker.get().await?;
        }
        for way in Way::ALL {
            let mut client =
                stage.session(way, &stage.reader(&format!("retained-{}", way.word()))?).await?;
            assert_eq!(client.subscribe(&[("house/#", 1)]).await?, [1]);
            let mut got = vec![client.delivery().await?.topic, client.delivery().await?.topic];
            got.sort();
            assert_eq!(got, ["house/a", "house/z"], "{way:?}");
            broker.publish(&Publish::new("house/mark", b"mark")).await?;
            assert_eq!(
                client.delivery().await?.payload,
                b"mark",
                "{way:?}: nothing else was delivered"
            );
        }
        Ok(())
    })
}

#[test]
fn a_retained_publish_is_refused_where_the_topic_takes_none() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for version in [V311, V5] {
            let mut client = stage
                .session(
                    Way::plain(version),
                    &stage.stranger(&format!("retain-{}", version.level()))?,
                )
                .await?;
            client.publish(&Publish::new("plain/x", b"retained").qos(1, 1).retained()).await?;
            let Got::Ack { id: 1, code, .. } = client.get().await? else { bail!("no PUBACK") };
            assert_eq!(code, if version == V5 { 0x87 } else { 0 });
            client.publish(&Publish::new("plain/x", b"not retained").qos(1, 2)).await?;
            let Got::Ack { id: 2, code: 0 | 0x10, .. } = client.get().await? else {
                bail!("no PUBACK")
            };
        }
        let published = stage.site.recorder()?.publishes();
        ensure!(
            !published.iter().any(|publish| publish.topic == "plain/x" && publish.retain),
            "a retained message went to the broker"
        );
        ensure!(
            published.iter().any(|publish| publish.topic == "plain/x"),
            "nothing went to the broker"
        );
        Ok(())
    })
}

#[test]
fn unsubscribe_ends_the_delivery_and_the_broker_gets_it_as_it_came() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            let id = format!("unsub-{}", way.word());
            let (topic, mark) = (format!("open/{id}"), format!("open/{id}-mark"));
            let mut client = stage.session(way, &stage.stranger(&id)?).await?;
            assert_eq!(client.subscribe(&[(&topic, 0), (&mark, 0)]).await?, [0, 0]);
            client.send(unsubscribe(way.version, 0xfffe, &[&topic, "closed/never"])).await?;
            let Got::UnsubAck { id: 0xfffe } = client.get().await? else { bail!("no UNSUBACK") };
            let mut broker = stage.direct(V311, "").await?;
            broker.publish(&Publish::new(&topic, b"no")).await?;
            broker.publish(&Publish::new(&mark, b"mark")).await?;
            assert_eq!(client.delivery().await?.payload, b"mark", "{way:?}");
        }
        Ok(())
    })
}
