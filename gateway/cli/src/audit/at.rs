//! `flytrap audit at`: one topic at one second. Who was entitled, by replay of the chain's events into the gateways' own registry; who did use
//! it, who tried and was refused, and who could and never did, by the gateways' records.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use eyre::Result;
use flytrap_chain::entitled::{self, But, Entitled, Ground};
use flytrap_policy::{Right, Topic};
use flytrap_record::{Kind, Record};
use serde_json::{Value, json};

use super::past::{self, Past};
use super::words::{self, Names};
use super::{records, rows};
use crate::args::{AtArgs, Decision, Global};
use crate::broker::{right_text, traits_text};
use crate::context::{self, State};
use crate::countries::rule_text;
use crate::tell::{self, safe};
use crate::units::{Span, utc};

/// What the records say about the topic around that second.
#[derive(Debug, Default)]
struct Used {
    /// What was going on then, refused or not.
    then: Vec<Record>,
    /// Wallets that used each right at any time.
    ever: BTreeSet<(Address, Right)>,
    read: bool,
    verified: bool,
    /// Records of which only the proof is left.
    removed: u64,
}

/// `flytrap audit at TOPIC MOMENT`
pub(super) async fn at(global: &Global, args: &AtArgs) -> Result<()> {
    let contracts = global.contracts().await?;
    let state = context::state(&contracts, global.broker_id(), &[], Some(args.moment)).await?;
    let topic = match state.topic(&args.topic) {
        Ok(topic) => topic,
        // A name below a topic is governed by it.
        Err(none) => state.registry.governing(&args.topic).ok_or(none)?,
    };
    let now = state.now();
    let mut names = Names::default();
    let past = Past::read(&contracts, global.broker_id(), &mut names).await?;
    let entitled = entitled::entitled(&state.registry, &state.entries, topic, now);
    let mut used =
        Used { read: !args.records.records.is_empty(), verified: true, ..Used::default() };
    if used.read {
        let Span(within) = args.within.unwrap_or(Span(0));
        let each = |_, record: Record| {
            if record.topic_id != topic.id {
                return Ok(());
            }
            if rows::decision(record.kind) == Some(Decision::Allowed)
                && let Some(right) = past::right(record.kind)
            {
                records::room(used.ever.len())?;
                used.ever.insert((record.wallet, right));
            }
            let (from, to) = (now.saturating_sub(within), now.saturating_add(within));
            if record.first_at <= to && from <= record.last_at {
                records::room(used.then.len())?;
                used.then.push(record);
            }
            Ok(())
        };
        let sources = records::read(global, &contracts, &args.records, &past, each).await?;
        used.verified = sources.iter().all(|source| source.verified);
        used.removed = sources.iter().map(|source| source.removed).sum();
        used.then.sort_by_key(|record| (record.wallet, record.kind, record.first_at, record.index));
    }
    if global.json {
        tell::line(tell::json(&as_json(&state, topic, &entitled, &used)));
    } else {
        as_text(&state, topic, &entitled, &used, &names);
    }
    Ok(())
}

/// Who held a right then and is in no record as having used it.
fn idle<'a>(
    entitled: &'a [Entitled<'a>],
    used: &'a Used,
) -> impl Iterator<Item = (Address, Right)> + 'a {
    entitled::idle(entitled, |wallet, right| used.ever.contains(&(wallet, right)))
}

fn as_json(state: &State, topic: &Topic, entitled: &[Entitled<'_>], used: &Used) -> Value {
    let entitlement = |of: &Entitled<'_>| {
        let since = of
            .since
            .as_ref()
            .map(|at| json!({ "tx": at.tx, "block": at.height, "time": at.time, "why": words::why(&at.event) }));
        json!({ "wallet": of.wallet, "ground": of.ground.word(), "right": of.right, "until": of.until, "but": of.but.map(But::word), "since": since })
    };
    let of = |still: bool| -> Vec<Value> {
        entitled.iter().filter(|of| of.but.is_none() == still).map(entitlement).collect()
    };
    let records = |wanted: Decision| -> Vec<&Record> {
        used.then.iter().filter(|record| rows::decision(record.kind) == Some(wanted)).collect()
    };
    let idle: Vec<Value> = idle(entitled, used)
        .map(|(wallet, right)| json!({ "wallet": wallet, "right": right }))
        .collect();
    let known = used.read && topic.traits.sensitive;
    json!({
        "topic": &*topic.name, "topicId": topic.id, "epoch": topic.epoch, "time": state.now(), "block": state.height,
        "sensitive": topic.traits.sensitive, "countries": rule_text(&topic.countries), "public": entitled::public(topic),
        "entitled": of(true), "wasEntitled": of(false),
        "used": used.read.then(|| records(Decision::Allowed)), "refused": used.read.then(|| records(Decision::Refused)),
        "neverUsed": known.then_some(idle), "verified": used.read.then_some(used.verified), "removed": used.read.then_some(used.removed),
    })
}

fn as_text(state: &State, topic: &Topic, entitled: &[Entitled<'_>], used: &Used, names: &Names) {
    let name = if topic.name.is_empty() { topic.id.to_string() } else { safe(&topic.name) };
    tell::line(tell::strong(&format!(
        "`{name}` at {}, as of block {} of {}",
        utc(state.now()),
        state.height,
        utc(state.time)
    )));
    tell::line(format!(
        "epoch {}, {}, from {} countries",
        topic.epoch,
        traits_text(topic.traits),
        rule_text(&topic.countries)
    ));
    tell::line("Entitled:");
    for right in entitled::public(topic) {
        tell::line(format!(
            "    every wallet that is neither blocked nor banned may {}",
            right_text(right)
        ));
    }
    let what = |of: &Entitled<'_>| match (of.ground, of.right) {
        (_, Some(right)) => format!("may {}", right_text(right)),
        (Ground::Manager, None) => "manages it".to_owned(),
        _ => "owns it, and may publish and subscribe".to_owned(),
    };
    let since = |of: &Entitled<'_>| {
        of.since.as_ref().map_or_else(String::new, |at| {
            let why = words::why(&at.event).map(|why| format!(", why: {why}")).unwrap_or_default();
            format!("\n        {}, block {}, transaction {}{why}", utc(at.time), at.height, at.tx)
        })
    };
    for of in entitled.iter().filter(|of| of.but.is_none()) {
        let until = of.until.map(|until| format!(" until {}", utc(until))).unwrap_or_default();
        tell::line(format!("    {} {}{until}{}", of.wallet, what(of), since(of)));
    }
    let mut lost = entitled.iter().filter(|of| of.but.is_some()).peekable();
    if lost.peek().is_some() {
        tell::line("Was entitled, and was not at that second:");
    }
    for of in lost {
        let until = of.until.map(|until| format!(" until {}", utc(until))).unwrap_or_default();
        let but = of.but.map(But::word).unwrap_or_default();
        tell::line(format!("    {} {}{until}, {but}{}", of.wallet, what(of), since(of)));
    }
    if !used.read {
        tell::line("Who used it is in the gateways' records: name their files with --records.");
        return;
    }
    let mark = if used.verified { String::new() } else { format!("{}  ", tell::bad("UNVERIFIED")) };
    for (title, wanted) in [("Used it:", Decision::Allowed), ("Was refused:", Decision::Refused)] {
        tell::line(title);
        let mut none = true;
        for record in used.then.iter().filter(|record| rows::decision(record.kind) == Some(wanted))
        {
            none = false;
            tell::line(format!(
                "    {mark}{}  {}{}",
                rows::times(record.first_at, record.last_at),
                rows::record_text(record, names),
                if record.rule.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", safe(&record.rule))
                }
            ));
        }
        if none {
            tell::line("    nobody, as far as these records go");
        }
    }
    if !topic.traits.sensitive {
        tell::line(
            "The topic was not sensitive then: messages were counted, and not recorded for anybody.",
        );
        return;
    }
    tell::line("Could, and never did in these records:");
    if used.removed > 0 {
        tell::line(format!("    (what {} removed records said is not known)", used.removed));
    }
    let mut none = true;
    for (wallet, right) in idle(entitled, used) {
        none = false;
        tell::line(format!("    {wallet} {}", right_text(right)));
    }
    if none {
        tell::line("    nobody");
    }
    let ended = used.then.iter().filter(|record| record.kind == Kind::SessionEnded).count();
    if ended > 0 {
        tell::line(format!("{ended} times a session or subscription was ended then."));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy::primitives::{B256, U256};
    use flytrap_policy::{Event, NamingPolicy, Offer, Registry, Stamp, Traits, topic_id};

    use super::*;
    use crate::explain::explain;

    const OWNER: Address = Address::with_last_byte(1);
    const READER: Address = Address::with_last_byte(2);
    const BLOCKED: Address = Address::with_last_byte(3);
    const ENDED: Address = Address::with_last_byte(4);

    fn state(second: u64) -> State {
        let broker_id = U256::ONE;
        let topic_id = topic_id(broker_id, "ward");
        let granted = |wallet, until| Event::AccessGranted {
            broker_id,
            topic_id,
            wallet,
            right: Right::Subscribe,
            epoch: 1,
            until,
            by: OWNER,
            fee_wei: U256::ZERO,
            purpose: B256::ZERO,
            note: "care".to_owned(),
        };
        let events = [
            Event::BrokerCreated {
                broker_id,
                owner: OWNER,
                policy: NamingPolicy::Open,
                name: "T".into(),
            },
            Event::TopicRegistered {
                broker_id,
                topic_id,
                owner: OWNER,
                epoch: 1,
                name: "ward".into(),
                traits: Traits { sensitive: true, ..Traits::default() },
                publish_offer: Offer::default(),
                subscribe_offer: Offer::default(),
            },
            granted(READER, 1_000),
            granted(BLOCKED, 1_000),
            granted(ENDED, 500),
            Event::WalletBlocked {
                broker_id,
                topic_id,
                wallet: BLOCKED,
                by: OWNER,
                purpose: B256::ZERO,
                note: String::new(),
            },
        ];
        let mut registry = Registry::new(broker_id);
        for event in &events {
            registry.apply(event, Stamp { height: 1, time: 1 }).expect("a consistent history");
        }
        State { registry, height: 1, time: 1, at: Some(second), entries: Vec::new() }
    }

    /// What is listed as entitled is what a gateway would have let through at that second, and nobody else.
    #[test]
    fn entitled_is_whom_a_gateway_would_have_served() {
        let mut looked_at = 0;
        for second in [499, 500, 999, 1_000] {
            let state = state(second);
            let topic = state.registry.topic("ward").expect("registered");
            for of in entitled::entitled(&state.registry, &[], topic, second) {
                let answer = explain(&state, of.wallet, None, Right::Subscribe, "ward/1", false);
                assert_eq!(of.but.is_none(), answer.allowed, "{of:?} at {second}: {answer:?}");
                looked_at += 1;
            }
        }
        assert_eq!(looked_at, 4 * 4, "owner and three grants each time");
    }

    #[test]
    fn who_is_in_no_record_never_did() {
        let state = state(400);
        let topic = state.registry.topic("ward").expect("registered");
        let all = entitled::entitled(&state.registry, &[], topic, 400);
        let used = Used {
            ever: [(READER, Right::Subscribe), (OWNER, Right::Publish)].into(),
            read: true,
            ..Used::default()
        };
        let idle: BTreeMap<Address, Right> = idle(&all, &used).collect();
        assert_eq!(idle, [(OWNER, Right::Subscribe), (ENDED, Right::Subscribe)].into());
    }
}
