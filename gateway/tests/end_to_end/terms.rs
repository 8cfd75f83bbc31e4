//! Terms of a topic that bind everyone, its owner too: countries, and names that are not known.

use crate::common::raw::{Got, Publish};
use crate::common::{PATIENCE, Right, Stage, V5, V311, Way, refused_filter, run};
use eyre::{Result, eyre};

/// A client whose country is not known, as all of them are until there is a source, may not use a topic with a rule.
#[test]
fn a_country_rule_takes_effect_on_live_sessions_of_reader_and_owner_until_it_is_lifted()
-> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let spy = stage.site.spy("land/#").await?;
        let reader = stage.site.wallets.reader.address();
        for way in [Way::plain(V311), Way::tls(V5)] {
            let (name, other) =
                (format!("land/{}", way.word()), format!("land/other-{}", way.word()));
            let (topic, keep) = (stage.topic(&name).await?, stage.topic(&other).await?);
            for topic in [&topic, &keep] {
                stage.grant(topic, reader, Right::Subscribe).await?;
            }
            stage.caught_up().await?;
            let login = stage.reader(&format!("land-{}", way.word()))?;
            let mut reads = stage.session(way, &login).await?;
            assert_eq!(reads.subscribe(&[(&name, 0), (&other, 0)]).await?, [0, 0]);
            let owner = &stage.site.wallets.topic_owner;
            let login = stage.site.token(owner, &format!("land-own-{}", way.word()))?;
            let mut owns = stage.session(way, &login).await?;
            owns.publish(&Publish::new(&name, b"before").qos(1, 1)).await?;
            assert!(matches!(owns.get().await?, Got::Ack { kind: 4, code: 0, .. }));
            assert_eq!(reads.delivery().await?.payload, b"before");

            stage.set_countries(&topic, &[*b"GB"]).await?;
            stage.caught_up().await?;
            let refused = if way.version == V5 { 0x87 } else { 0 };
            owns.publish(&Publish::new(&name, b"from nowhere").qos(1, 2)).await?;
            let Got::Ack { kind: 4, id: 2, code, .. } = owns.get().await? else {
                return Err(eyre!("no PUBACK"));
            };
            assert_eq!(code, refused, "{way:?}: the owner is bound too");
            // What is published past the gateway is withheld from the subscription there was.
            let mut broker = stage.direct(V5, "").await?;
            broker.publish(&Publish::new(&name, b"withheld")).await?;
            broker.publish(&Publish::new(&other, b"marker")).await?;
            assert_eq!(reads.delivery().await?.payload, b"marker", "{way:?}");
            let no = refused_filter(way.version);
            assert_eq!(reads.subscribe(&[(&name, 0), ("land/#", 0)]).await?, [no, no], "{way:?}");
            spy.until(PATIENCE, |heard| heard.topic == other).await?;
            assert!(spy.heard().iter().all(|heard| heard.payload != b"from nowhere"), "{way:?}");

            stage.set_countries(&topic, &[]).await?;
            stage.caught_up().await?;
            assert_eq!(reads.subscribe(&[(&name, 0)]).await?, [0], "{way:?}");
            owns.publish(&Publish::new(&name, b"after").qos(1, 3)).await?;
            assert_eq!(reads.delivery().await?.payload, b"after", "{way:?}");
        }
        Ok(())
    })
}

#[test]
fn below_a_topic_with_a_hidden_one_nothing_passes_but_on_its_own_name() -> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let spy = stage.site.spy("ward/#").await?;
        for way in [Way::plain(V311), Way::tls(V5)] {
            let topic = stage.topic(&format!("ward/{}", way.word())).await?;
            stage.caught_up().await?;
            let (own, below) = (topic.name.clone(), format!("{}/bed", topic.name));
            let wide = format!("{own}/#");
            let login = stage
                .site
                .token(&stage.site.wallets.topic_owner, &format!("ward-{}", way.word()))?;
            let mut owner = stage.session(way, &login).await?;
            assert_eq!(owner.subscribe(&[(&wide, 0)]).await?, [0], "{way:?}");

            stage.hide_below(&topic, alloy_primitives::B256::repeat_byte(7)).await?;
            stage.caught_up().await?;
            let no = refused_filter(way.version);
            let asked = [(own.as_str(), 0), (below.as_str(), 0), (wide.as_str(), 0)];
            // A session with nothing left to wait for may have been ended, so this is a new one.
            let login = stage
                .site
                .token(&stage.site.wallets.topic_owner, &format!("ward2-{}", way.word()))?;
            let mut owner = stage.session(way, &login).await?;
            assert_eq!(owner.subscribe(&asked).await?, [0, no, no], "{way:?}");
            owner.publish(&Publish::new(&below, b"whose").qos(1, 1)).await?;
            let Got::Ack { kind: 4, id: 1, code, .. } = owner.get().await? else {
                return Err(eyre!("no PUBACK"));
            };
            assert_eq!(code, if way.version == V5 { 0x87 } else { 0 }, "{way:?}");
            owner.publish(&Publish::new(&own, b"mine")).await?;
            assert_eq!(owner.delivery().await?.payload, b"mine", "{way:?}");
            spy.until(PATIENCE, |heard| heard.topic == own).await?;
            assert!(!spy.heard_on(&below), "{way:?}");
        }
        Ok(())
    })
}
