//! `make verify-mutations`: a file that was changed in any way is found out, or says the same as before.
//!
//! What changes it is a coin, one octet or line at a time, and a forger who knows the format, keeps numbers, links and the end of the file
//! consistent, and has another gateway's file to take from. The anchors are what neither can change.

use std::collections::BTreeMap;

use rand::prelude::*;
use serde_json::Value;

use super::*;
use crate::Kind;

const CHAIN: u64 = 31_337;
const AUDIT_LOG: Address = Address::repeat_byte(1);
const BROKER: U256 = U256::ONE;

/// What the chain has of each gateway.
type Anchors = BTreeMap<Address, BTreeMap<u64, Anchor>>;

/// What the verifier says of a file: the same as `flytrap audit verify`, with the chain's answers given.
fn verify(octets: &[u8], anchors: &Anchors) -> Result<Checked, String> {
    let mut checker = Checker::default();
    let mut head = None;
    // As a reader of lines sees it: a last line without an end is one too, and after the last end comes nothing.
    let text = octets.strip_suffix(b"\n").unwrap_or(octets);
    for line in text.split(|octet| *octet == b'\n') {
        if head.is_none()
            && let Ok(Line::Head(found)) = serde_json::from_slice(line)
        {
            head = Some(found);
        }
        checker.take(line).map_err(|fault| fault.to_string())?;
    }
    let head = head.ok_or("no head")?;
    if !head.is_of(CHAIN, AUDIT_LOG, BROKER) {
        return Err("it is about something else".to_owned());
    }
    let none = BTreeMap::new();
    checker.finish(anchors.get(&head.gateway).unwrap_or(&none)).map_err(|fault| fault.to_string())
}

/// What a file says, however it is written.
fn meaning(octets: &[u8]) -> Option<Vec<Line>> {
    let text = octets.strip_suffix(b"\n").unwrap_or(octets);
    text.split(|octet| *octet == b'\n').map(|line| serde_json::from_slice(line).ok()).collect()
}

fn written(lines: &[Line]) -> Vec<u8> {
    let mut octets = Vec::new();
    for line in lines {
        octets.extend(serde_json::to_vec(line).expect("JSON"));
        octets.push(b'\n');
    }
    octets
}

/// Any record, such as a gateway could write.
fn record(rng: &mut StdRng, index: u64) -> Record {
    let first_at = rng.random_range(1_700_000_000..1_800_000_000);
    let wallet = Address::repeat_byte(rng.random_range(1..6));
    Record {
        index,
        kind: *Kind::ALL.choose(rng).expect("kinds"),
        wallet,
        key: if rng.random() { wallet } else { Address::repeat_byte(rng.random_range(6..9)) },
        session: rng.random_range(0..50),
        topic_id: B256::repeat_byte(rng.random_range(0..4)),
        epoch: rng.random_range(0..3),
        count: rng.random_range(1..2_000),
        octets: rng.random_range(0..100_000),
        first_at,
        last_at: first_at + rng.random_range(0..60),
        height: rng.random_range(0..1_000_000),
        rule: (*["grant", "owner", "public", "no-grant", ""].choose(rng).expect("rules"))
            .to_owned(),
        country: (*["DE", "GB", "US", ""].choose(rng).expect("countries")).to_owned(),
        personal: (0..rng.random_range(0..80)).map(|_| rng.random()).collect::<Vec<u8>>().into(),
    }
}

/// A gateway's file of these batches, with every number and link as it has to be, and its anchors.
fn consistent(gateway: Address, batches: &[Vec<Record>]) -> (Vec<Line>, BTreeMap<u64, Anchor>) {
    let head = Head {
        flytrap_records: VERSION,
        chain_id: CHAIN,
        audit_log: AUDIT_LOG,
        broker_id: BROKER,
        gateway,
    };
    let mut lines = vec![Line::Head(head)];
    let (mut anchors, mut index, mut at, mut previous) =
        (BTreeMap::new(), 0, B256::ZERO, B256::ZERO);
    for (sequence, records) in (1..).zip(batches) {
        let count = u64::try_from(records.len()).expect("few");
        let (first, before) = (index + 1, at);
        lines.push(Line::Batch(BatchLine { sequence, first, count, before }));
        let mut leaves = Vec::new();
        for record in records {
            index += 1;
            let record = Record { index, ..record.clone() };
            leaves.push(leaf(&record.encode()));
            at = link(at, leaf(&record.encode()));
            lines.push(match index % 7 {
                // Past its retention.
                3 => Line::Removed(RemovedLine { index, leaf: leaf(&record.encode()), link: at }),
                _ => Line::Record(Box::new(RecordLine { record, link: at })),
            });
        }
        let root = Batch { first, count, before, top: top(leaves) }.root();
        anchors.insert(sequence, Anchor { root, previous, count });
        previous = root;
    }
    let batches = u64::try_from(batches.len()).expect("few");
    lines.push(Line::End(End { batches, records: index }));
    (lines, anchors)
}

fn batches(rng: &mut StdRng) -> Vec<Vec<Record>> {
    (0..rng.random_range(2..7))
        .map(|_| (0..rng.random_range(1..12)).map(|_| record(rng, 1)).collect())
        .collect()
}

/// A value that could have stood in this one's place.
fn other_value(rng: &mut StdRng, value: &Value) -> Value {
    match value {
        Value::Number(number) => {
            let number = number.as_u64().unwrap_or_default();
            let others = [number.wrapping_add(1), number.wrapping_sub(1), 0, rng.random()];
            (*others.choose(rng).expect("some")).into()
        }
        Value::String(text) if text.starts_with("0x") && text.len() > 2 => {
            let mut octets = text.clone().into_bytes();
            let at = rng.random_range(2..octets.len());
            octets[at] = *b"0123456789abcdef".choose(rng).expect("digits");
            String::from_utf8_lossy(&octets).into_owned().into()
        }
        Value::String(_) => {
            let words = ["published", "delivered", "erased", "owner", "FR", "", "0x", "0x00"];
            (*words.choose(rng).expect("words")).into()
        }
        other => other.clone(),
    }
}

/// Another value in a random field of a line.
fn other_field(rng: &mut StdRng, line: &Line) -> Vec<u8> {
    let mut json = serde_json::to_value(line).expect("JSON");
    let mut place = &mut json;
    while let Value::Object(fields) = place {
        let names: Vec<String> = fields.keys().cloned().collect();
        let name = names.choose(rng).expect("fields").clone();
        place = &mut place[&name];
    }
    *place = other_value(rng, place);
    serde_json::to_vec(&json).expect("JSON")
}

/// What a forger has at hand.
struct Forger<'a> {
    rng: &'a mut StdRng,
    gateway: Address,
    batches: Vec<Vec<Record>>,
    lines: Vec<Line>,
    /// Another gateway's file, whose anchors are on chain too.
    others: Vec<Line>,
    other_batches: Vec<Vec<Record>>,
}

type Way = fn(&mut Forger<'_>) -> Vec<u8>;

/// Each way to change a file, and what to call it.
const WAYS: [(&str, Way); 15] = [
    ("octet changed", |forger| {
        let mut octets = written(&forger.lines);
        let at = forger.rng.random_range(0..octets.len());
        octets[at] = forger.rng.random();
        octets
    }),
    ("octets taken out", |forger| {
        let mut octets = written(&forger.lines);
        let from = forger.rng.random_range(0..octets.len());
        let to = (from + forger.rng.random_range(1..40)).min(octets.len());
        octets.drain(from..to);
        octets
    }),
    ("octets put in", |forger| {
        let mut octets = written(&forger.lines);
        let at = forger.rng.random_range(0..=octets.len());
        let more: Vec<u8> =
            (0..forger.rng.random_range(1..9)).map(|_| forger.rng.random()).collect();
        octets.splice(at..at, more);
        octets
    }),
    ("cut", |forger| {
        let mut octets = written(&forger.lines);
        octets.truncate(forger.rng.random_range(0..octets.len()));
        octets
    }),
    ("line taken out", |forger| {
        let at = forger.any_line();
        forger.lines.remove(at);
        written(&forger.lines)
    }),
    ("line doubled", |forger| {
        let (from, to) = (forger.any_line(), forger.rng.random_range(0..=forger.lines.len()));
        forger.lines.insert(to, forger.lines[from].clone());
        written(&forger.lines)
    }),
    ("lines swapped", |forger| {
        let (one, other) = (forger.any_line(), forger.any_line());
        forger.lines.swap(one, other);
        written(&forger.lines)
    }),
    ("field changed", |forger| {
        let at = forger.any_line();
        let changed = other_field(forger.rng, &forger.lines[at]);
        let mut octets = written(&forger.lines[..at]);
        octets.extend(changed);
        octets.push(b'\n');
        octets.extend(written(&forger.lines[at + 1..]));
        octets
    }),
    ("record changed, links made right", |forger| {
        let (batch, at) = forger.any_record();
        let line = Line::Record(Box::new(RecordLine {
            record: forger.batches[batch][at].clone(),
            link: B256::ZERO,
        }));
        if let Ok(Line::Record(changed)) = serde_json::from_slice(&other_field(forger.rng, &line)) {
            forger.batches[batch][at] = changed.record;
        }
        forger.forged()
    }),
    ("record taken out, links made right", |forger| {
        let (batch, at) = forger.any_record();
        forger.batches[batch].remove(at);
        forger.batches.retain(|batch| !batch.is_empty());
        forger.forged()
    }),
    ("record made up, links made right", |forger| {
        let (batch, at) = forger.any_record();
        let made_up = record(forger.rng, 1);
        forger.batches[batch].insert(at, made_up);
        forger.forged()
    }),
    ("batches in another order, links made right", |forger| {
        let count = forger.batches.len();
        let (one, other) = (forger.rng.random_range(0..count), forger.rng.random_range(0..count));
        forger.batches.swap(one, other);
        forger.forged()
    }),
    ("batches left out at the end, count made right", |forger| {
        let keep = forger.rng.random_range(0..forger.batches.len());
        forger.batches.truncate(keep);
        forger.forged()
    }),
    ("lines of another gateway", |forger| {
        let (at, from) = (forger.any_line(), forger.rng.random_range(0..forger.others.len()));
        let to = forger.rng.random_range(from..forger.others.len()) + 1;
        let end = (at + forger.rng.random_range(0..4)).min(forger.lines.len());
        forger.lines.splice(at..end, forger.others[from..to].iter().cloned());
        written(&forger.lines)
    }),
    ("records of another gateway, links made right", |forger| {
        let (batch, at) = forger.any_record();
        let from = forger.rng.random_range(0..forger.other_batches.len());
        forger.batches[batch].splice(at..at, forger.other_batches[from].iter().cloned());
        forger.forged()
    }),
];

impl Forger<'_> {
    fn any_line(&mut self) -> usize {
        self.rng.random_range(0..self.lines.len())
    }

    fn any_record(&mut self) -> (usize, usize) {
        let batch = self.rng.random_range(0..self.batches.len());
        (batch, self.rng.random_range(0..self.batches[batch].len()))
    }

    fn forged(&self) -> Vec<u8> {
        written(&consistent(self.gateway, &self.batches).0)
    }
}

/// Issue 6: N=1000 by `make verify-mutations`, fewer with all other tests. A change that leaves the meaning as it was does not count.
#[test]
fn every_random_change_of_a_file_is_found() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (many, seed) = (asked("N").unwrap_or(200), asked("SEED").unwrap_or_else(rand::random));
    let rng = &mut StdRng::seed_from_u64(seed);
    let (gateway, other) = (Address::repeat_byte(0xAA), Address::repeat_byte(0xBB));
    let (mut found, mut same) = (BTreeMap::<&str, u64>::new(), 0);
    // In turn, so that each is tried as often. One that changed nothing is tried again.
    let (mut ways, mut counted) = (WAYS.iter().cycle().peekable(), 0_u64);
    while counted < many {
        let (mine, theirs) = (batches(rng), batches(rng));
        let (lines, of_mine) = consistent(gateway, &mine);
        let (others, of_theirs) = consistent(other, &theirs);
        let anchors = Anchors::from([(gateway, of_mine), (other, of_theirs)]);
        let whole = written(&lines);
        let before = verify(&whole, &anchors).expect("a file as it was written");
        let (way, change) = *ways.peek().copied().expect("a cycle has no end");
        let mut forger = Forger {
            rng,
            gateway,
            batches: mine,
            lines: lines.clone(),
            others,
            other_batches: theirs,
        };
        let changed = change(&mut forger);
        if meaning(&changed).as_deref() == Some(&lines[..]) {
            same += 1;
            continue;
        }
        // A shorter file is one that the gateway could have written earlier: then the verifier says how many intervals came later.
        let said = verify(&changed, &anchors);
        assert!(
            said.as_ref() != Ok(&before),
            "seed {seed}: {way}: not found, and the file passes:\n{}",
            String::from_utf8_lossy(&changed)
        );
        assert!(
            said.as_ref().is_ok_and(|checked| checked.later > 0) || said.is_err(),
            "seed {seed}: {way}: {said:?}"
        );
        *found.entry(way).or_default() += 1;
        counted += 1;
        ways.next();
    }
    println!("{many} changes, all found; {same} more said the same in other octets; SEED={seed}");
    for (way, count) in &found {
        println!("{count:>8}  {way}");
    }
    assert!(many < 150 || found.len() == WAYS.len(), "not every way was tried: {found:?}");
}
