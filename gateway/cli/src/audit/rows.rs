//! One time line of what the chain tells and what the records tell, as text, JSON or CSV; and sums over records.

use std::collections::HashMap;

use alloy::primitives::{Address, B256};
use eyre::Result;
use flytrap_policy::Event;
use flytrap_record::text::csv;
use flytrap_record::{Kind, Record};
use serde_json::{Value, json};

use super::Told;
use super::past::Past;
use super::records::room;
use super::words::{self, Names};
use crate::args::{Decision, Telling};
use crate::tell::{self, safe};
use crate::units::utc;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
    Csv,
}

/// One thing that happened.
#[derive(Debug)]
pub(super) enum Row {
    Chain(Told),
    Record(OfRecord),
}

/// A record, and what it stood on.
#[derive(Debug)]
pub(super) struct OfRecord {
    record: Record,
    gateway: Address,
    verified: bool,
    ground: Option<Ground>,
}

/// The event that an access stood on, or that took it away.
#[derive(Debug)]
struct Ground {
    tx: B256,
    height: u64,
    time: u64,
    what: String,
    why: Option<String>,
    purpose: Option<(&'static str, String)>,
}

impl Row {
    pub(super) fn of_record(
        record: Record,
        gateway: Address,
        verified: bool,
        past: &Past,
        names: &Names,
    ) -> Self {
        let ground = past.ground(&record).map(|entry| Ground {
            tx: entry.tx,
            height: entry.height,
            time: entry.time,
            what: words::what(&entry.event, None, names),
            why: words::why(&entry.event),
            purpose: words::purpose(&entry.event),
        });
        Self::Record(OfRecord { record, gateway, verified, ground })
    }

    /// Its place in the time line: what the chain says of a second comes before what was done in it.
    pub(super) fn place(&self) -> (u64, u64, u64, Address) {
        match self {
            Self::Chain(told) => {
                (told.entry.time, told.entry.height, told.entry.log_index, Address::ZERO)
            }
            Self::Record(of) => (of.record.first_at, u64::MAX, of.record.index, of.gateway),
        }
    }

    fn json(&self, names: &Names) -> Value {
        match self {
            Self::Chain(told) => told_json(told),
            Self::Record(of) => {
                let record = &of.record;
                json!({
                    "time": record.first_at, "until": record.last_at, "block": record.height, "gateway": of.gateway,
                    "verified": of.verified, "decision": decision_text(record.kind), "what": record_text(record, names),
                    "why": why_text(of), "topic": names.topics.get(&record.topic_id), "ground": of.ground.as_ref().map(ground_json),
                    "record": record,
                })
            }
        }
    }

    fn text(&self, names: &Names) -> String {
        match self {
            Self::Chain(told) => line(told),
            Self::Record(of) => {
                let record = &of.record;
                let mark = if of.verified {
                    String::new()
                } else {
                    format!("{}  ", tell::bad("UNVERIFIED"))
                };
                let head = format!(
                    "{}  record {} of gateway {}, at block {}",
                    times(record.first_at, record.last_at),
                    record.index,
                    of.gateway,
                    record.height
                );
                let why = why_text(of).map(|why| format!("\n    why: {why}")).unwrap_or_default();
                format!("{mark}{}\n    {}{why}", tell::faint(&head), record_text(record, names))
            }
        }
    }

    fn cells(&self, names: &Names) -> [String; COLUMNS.len()] {
        match self {
            Self::Chain(told) => {
                let entry = &told.entry;
                let topic = words::topic_of(&entry.event).unwrap_or_default();
                let (basis, purpose) = words::purpose(&entry.event).unwrap_or_default();
                [
                    utc(entry.time),
                    utc(entry.time),
                    entry.height.to_string(),
                    "chain".to_owned(),
                    entry.tx.to_string(),
                    String::new(),
                    chain_decision(&entry.event).map_or("", |_| "refused").to_owned(),
                    told.sender.map(|sender| sender.to_string()).unwrap_or_default(),
                    String::new(),
                    words_of_topic(topic),
                    names.topics.get(&topic).cloned().unwrap_or_default(),
                    told.what.clone(),
                    String::new(),
                    String::new(),
                    String::new(),
                    told.why.clone().unwrap_or_default(),
                    String::new(),
                    basis.to_owned(),
                    purpose,
                    "chain".to_owned(),
                ]
            }
            Self::Record(of) => {
                let OfRecord { record, gateway, verified, ground } = of;
                let (basis, purpose) =
                    ground.as_ref().and_then(|ground| ground.purpose.clone()).unwrap_or_default();
                [
                    utc(record.first_at),
                    utc(record.last_at),
                    record.height.to_string(),
                    gateway.to_string(),
                    String::new(),
                    record.index.to_string(),
                    decision_text(record.kind).unwrap_or_default().to_owned(),
                    words_of(record.wallet),
                    words_of(record.key),
                    words_of_topic(record.topic_id),
                    names.topics.get(&record.topic_id).cloned().unwrap_or_default(),
                    record.kind.word().to_owned(),
                    record.count.to_string(),
                    record.octets.to_string(),
                    record.country.clone(),
                    record.rule.clone(),
                    ground.as_ref().map(|ground| ground.tx.to_string()).unwrap_or_default(),
                    basis.to_owned(),
                    purpose,
                    if *verified { "yes" } else { "NO" }.to_owned(),
                ]
            }
        }
    }
}

const COLUMNS: [&str; 20] = [
    "from",
    "to",
    "block",
    "source",
    "transaction",
    "record",
    "decision",
    "wallet",
    "device",
    "topic id",
    "topic",
    "what",
    "count",
    "octets",
    "country",
    "why",
    "ground",
    "basis",
    "purpose",
    "verified",
];

/// Tells all rows.
pub(super) fn tell(form: Form, rows: &[Row], names: &Names) {
    match form {
        Form::Json => array(rows.iter().map(|row| row.json(names))),
        Form::Csv => {
            tell::line(csv(&COLUMNS));
            rows.iter().for_each(|row| tell::line(csv(&row.cells(names).map(|cell| safe(&cell)))));
        }
        Form::Text if rows.is_empty() => tell::line("Nothing is recorded about that."),
        Form::Text => rows.iter().for_each(|row| tell::line(row.text(names))),
    }
}

/// One element a line, so that nothing has to be held to write it.
fn array(rows: impl Iterator<Item = Value>) {
    let mut before = "[";
    for row in rows {
        tell::line(format!("{before}{}", tell::json(&row)));
        before = ",";
    }
    tell::line(if before == "[" { "[]" } else { "]" });
}

/// What the chain tells of one event.
pub(crate) fn line(told: &Told) -> String {
    let head = format!("{}  block {}  {}", utc(told.entry.time), told.entry.height, told.entry.tx);
    let why = told.why.as_ref().map(|why| format!("\n    why: {why}")).unwrap_or_default();
    format!("{}\n    {}{why}", tell::faint(&head), told.what)
}

fn told_json(told: &Told) -> Value {
    let mut row = json!({
        "time": told.entry.time, "block": told.entry.height, "tx": told.entry.tx, "sender": told.sender,
        "what": told.what, "why": told.why,
    });
    if let Ok(event) = serde_json::to_value(&told.entry.event) {
        row["event"] = event;
    }
    row
}

fn ground_json(ground: &Ground) -> Value {
    let (basis, purpose) = ground.purpose.clone().unwrap_or_default();
    json!({
        "tx": ground.tx, "block": ground.height, "time": ground.time, "what": ground.what, "why": ground.why,
        "basis": basis, "purpose": purpose,
    })
}

/// What became of it; nothing where nobody asked for anything.
pub(super) fn decision(kind: Kind) -> Option<Decision> {
    kind.decision().map(|decision| match decision {
        flytrap_record::Decision::Allowed => Decision::Allowed,
        flytrap_record::Decision::Refused => Decision::Refused,
    })
}

fn decision_text(kind: Kind) -> Option<&'static str> {
    decision(kind).map(|decision| match decision {
        Decision::Allowed => "allowed",
        Decision::Refused => "refused",
    })
}

const fn chain_decision(event: &Event) -> Option<Decision> {
    match event {
        Event::AlertRaised { .. } => Some(Decision::Refused),
        _ => None,
    }
}

/// Whether an event of the chain fits filters that are made for records: only what it says itself counts.
pub(super) fn fits(told: &Told, telling: &Telling) -> bool {
    let event = &told.entry.event;
    let is_of = |wanted: Address| matches!(event, Event::DeviceAuthorized { device, .. } | Event::DeviceRevoked { device, .. } if *device == wanted);
    telling.decision.is_none_or(|wanted| chain_decision(event) == Some(wanted))
        && telling.country.is_none()
        && telling.device.is_none_or(is_of)
}

pub(super) fn record_text(record: &Record, names: &Names) -> String {
    let who = if record.wallet.is_zero() {
        "somebody who proved nothing".to_owned()
    } else if record.key == record.wallet || record.key.is_zero() {
        names.wallet(record.wallet)
    } else {
        format!("{} by device key {}", names.wallet(record.wallet), names.wallet(record.key))
    };
    let topic = || names.topic(record.topic_id);
    let many = |one: &str, more: &str| match record.count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let messages = || many("message", "messages");
    let subject = || {
        if record.wallet.is_zero() { "an origin".to_owned() } else { names.wallet(record.wallet) }
    };
    let what = match record.kind {
        Kind::Published => {
            format!("{who} published {}, {} octets, on {}", messages(), record.octets, topic())
        }
        Kind::Delivered => {
            format!("{who} received {}, {} octets, on {}", messages(), record.octets, topic())
        }
        Kind::PublishRefused => {
            format!("{who} was refused to publish {} on {}", messages(), topic())
        }
        Kind::SubscribeRefused => {
            format!("{who} was refused {} on {}", many("filter", "filters"), topic())
        }
        Kind::DeliveryWithheld => format!("{who} was not given {} on {}", messages(), topic()),
        Kind::WillRefused => format!("{who} was refused {} on {}", many("will", "wills"), topic()),
        Kind::SessionEnded => {
            format!(
                "{who} lost {} on {}",
                many("subscription or session", "subscriptions or sessions"),
                topic()
            )
        }
        Kind::ProofFailed => format!("{who} failed with {}", many("proof", "proofs")),
        // The rule names the database.
        Kind::Started if record.rule.starts_with("countries ") => {
            return "a database of countries came into use".to_owned();
        }
        Kind::Started => return "the gateway started".to_owned(),
        Kind::Stopped => return "the gateway stopped".to_owned(),
        Kind::Erased => return format!("what was personal about {} was erased", subject()),
        Kind::Banned => return format!("{} was banned", subject()),
        Kind::BanLifted => return format!("a ban of {} was lifted", subject()),
        Kind::RulesChanged => return "other rules of the record came into force".to_owned(),
        Kind::NameDisclosed => {
            return format!("{who} told the gateway the hidden name of {}", topic());
        }
        Kind::NameErased => {
            return format!("{who} had the gateway forget the hidden name of {}", topic());
        }
    };
    let from =
        if record.country.is_empty() { "a country that is not known" } else { &record.country };
    format!("{what}, from {from}")
}

fn why_text(of: &OfRecord) -> Option<String> {
    let rule = (!of.record.rule.is_empty()).then(|| safe(&of.record.rule));
    let Some(ground) = &of.ground else { return rule };
    let why = ground.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    Some(format!(
        "{}: {}{why}, transaction {} in block {}, {}",
        rule.unwrap_or_default(),
        ground.what,
        ground.tx,
        ground.height,
        utc(ground.time)
    ))
}

pub(super) fn times(first: u64, last: u64) -> String {
    if first == last { utc(first) } else { format!("{} to {}", utc(first), utc(last)) }
}

fn words_of(address: Address) -> String {
    if address.is_zero() { String::new() } else { address.to_string() }
}

fn words_of_topic(topic: B256) -> String {
    if topic.is_zero() { String::new() } else { topic.to_string() }
}

/// Records added up.
#[derive(Debug, Default)]
pub(super) struct Sums(HashMap<Same, Sum>);

/// What records have in common that are added up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Same {
    wallet: Address,
    key: Address,
    topic: B256,
    kind: Kind,
    rule: String,
    country: String,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    records: u64,
    count: u64,
    octets: u64,
    first: u64,
    last: u64,
}

impl Sums {
    pub(super) fn add(&mut self, record: &Record) -> Result<()> {
        let same = Same {
            wallet: record.wallet,
            key: record.key,
            topic: record.topic_id,
            kind: record.kind,
            rule: record.rule.clone(),
            country: record.country.clone(),
        };
        room(self.0.len())?;
        let sum = self.0.entry(same).or_insert(Sum { first: u64::MAX, ..Sum::default() });
        sum.records += 1;
        // An unverified file may say any number.
        sum.count = sum.count.saturating_add(record.count);
        sum.octets = sum.octets.saturating_add(record.octets);
        sum.first = sum.first.min(record.first_at);
        sum.last = sum.last.max(record.last_at);
        Ok(())
    }

    /// Tells them, the first to happen first.
    pub(super) fn tell(&self, form: Form, names: &Names, verified: bool) {
        let mut sums: Vec<(&Same, &Sum)> = self.0.iter().collect();
        sums.sort_by_key(|(same, sum)| (sum.first, *same));
        if form == Form::Json {
            return array(sums.into_iter().map(|(same, sum)| {
                json!({
                    "wallet": same.wallet, "device": same.key, "topicId": same.topic, "topic": names.topics.get(&same.topic),
                    "kind": same.kind, "decision": decision_text(same.kind), "rule": same.rule, "country": same.country,
                    "records": sum.records, "count": sum.count, "octets": sum.octets, "first": sum.first, "last": sum.last,
                    "verified": verified,
                })
            }));
        }
        let head = [
            "what", "count", "octets", "records", "from", "to", "wallet", "device", "topic", "why",
            "country", "verified",
        ];
        let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
        rows.extend(sums.into_iter().map(|(same, sum)| {
            let name = names.topics.get(&same.topic);
            vec![
                same.kind.word().to_owned(),
                sum.count.to_string(),
                sum.octets.to_string(),
                sum.records.to_string(),
                utc(sum.first),
                utc(sum.last),
                words_of(same.wallet),
                words_of(same.key),
                name.map_or_else(|| words_of_topic(same.topic), |name| safe(name)),
                safe(&same.rule),
                if same.country.is_empty() { "unknown".to_owned() } else { same.country.clone() },
                if verified { "yes" } else { "NO" }.to_owned(),
            ]
        }));
        match form {
            Form::Csv => rows.iter().for_each(|row| tell::line(csv(row))),
            _ => tell::table(&rows),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A delivery of three messages.
    pub(in crate::audit) fn record(index: u64) -> Record {
        Record {
            index,
            kind: Kind::Delivered,
            wallet: Address::with_last_byte(3),
            key: Address::with_last_byte(4),
            session: 1,
            topic_id: B256::repeat_byte(5),
            epoch: 1,
            count: 3,
            octets: 30,
            first_at: 1_700_000_000,
            last_at: 1_700_000_004,
            height: 9,
            rule: "grant".to_owned(),
            country: "DE".to_owned(),
            personal: Vec::new().into(),
        }
    }

    #[test]
    fn a_record_is_told_with_who_what_where_and_why() {
        let mut names = Names::default();
        names.topics.insert(B256::repeat_byte(5), "ward/hr".into());
        let row =
            Row::of_record(record(7), Address::with_last_byte(9), true, &Past::of(vec![]), &names);
        let told = row.text(&names);
        for part in [
            "2023-11-14 22:13:20 UTC to 2023-11-14 22:13:24 UTC",
            "record 7 of gateway",
            "by device key 0x0000000000000000000000000000000000000004 received 3 messages, 30 octets, on `ward/hr`, from DE",
            "why: grant",
        ] {
            assert!(told.contains(part), "no {part}: {told}");
        }
        assert!(!told.contains("UNVERIFIED"));
        let row = Row::of_record(record(7), Address::ZERO, false, &Past::of(vec![]), &names);
        assert!(row.text(&names).starts_with("UNVERIFIED"), "{}", row.text(&names));
        assert_eq!(row.json(&names)["verified"], false);
        assert_eq!(row.cells(&names).last().map(String::as_str), Some("NO"));
    }

    #[test]
    fn no_cell_of_csv_is_a_formula_or_ends_its_row() {
        let cells = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "a,b", "say \"x\"\n", "plain", ""];
        assert_eq!(
            csv(&cells),
            "'=1+1,'+1,'-1,'@x,'\t=1,\"'\r=1\",\"a,b\",\"say \"\"x\"\"\n\",plain,"
        );
    }

    #[test]
    fn sums_have_a_row_for_each_country_and_span_all_their_records() {
        let mut sums = Sums::default();
        let abroad = Record { country: "RO".to_owned(), count: u64::MAX, ..record(3) };
        let later = Record { first_at: 1_700_000_100, last_at: 1_700_000_200, ..record(2) };
        for record in [&record(1), &later, &abroad, &abroad] {
            sums.add(record).expect("room");
        }
        let of = |country: &str| {
            let found = sums.0.iter().find(|(same, _)| same.country == country);
            found.map(|(_, sum)| (sum.records, sum.count, sum.first, sum.last))
        };
        assert_eq!(sums.0.len(), 2);
        assert_eq!(of("DE"), Some((2, 6, 1_700_000_000, 1_700_000_200)));
        assert_eq!(of("RO"), Some((2, u64::MAX, 1_700_000_000, 1_700_000_004)));
    }
}
