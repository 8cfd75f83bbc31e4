//! A file that an auditor can check with nothing but a node.
//!
//! One JSON object a line: a [`Head`], then for each batch a [`BatchLine`] and its records in their order, and at last an [`End`], whose absence shows
//! that the file was cut. In place of a record that was not kept so long a [`RemovedLine`] may stand. The file holds whole batches, since of a part nobody could tell what was left out.
//! [`Checker`] reads it line by line, holds one batch's hashes at most, and compares with the anchors that the chain has.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use crate::{Batch, Record, leaf, link, top};

/// Version of the file's format.
pub const VERSION: u32 = 1;
/// Octets of the longest line that is read.
pub const MOST_LINE: usize = 64 * 1024;
/// Records of the largest batch that is read, and that a gateway makes.
pub const MOST_RECORDS: u64 = 1 << 20;

/// Whose records these are, and where their anchors are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Head {
    /// [`VERSION`].
    pub flytrap_records: u32,
    /// The chain.
    pub chain_id: u64,
    /// The contract.
    pub audit_log: Address,
    /// The broker.
    pub broker_id: U256,
    /// The gateway that wrote them.
    pub gateway: Address,
}

impl Head {
    /// Whether the file is about these contracts and this broker. It may claim any others, whose anchors would be other ones.
    #[must_use]
    pub fn is_of(&self, chain_id: u64, audit_log: Address, broker_id: U256) -> bool {
        (self.chain_id, self.audit_log, self.broker_id) == (chain_id, audit_log, broker_id)
    }
}

/// The batch that the next records are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchLine {
    /// Number of its anchor.
    pub sequence: u64,
    /// Number of its first record.
    pub first: u64,
    /// How many they are.
    pub count: u64,
    /// Link of the record before the first.
    pub before: B256,
}

/// One record, with the link that it makes, so that a change is found where it is and not only in which batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecordLine {
    /// The record.
    pub record: Record,
    /// Its link.
    pub link: B256,
}

/// What is left of a record that was not kept for as long as its batch: its leaf, by which the batch still verifies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RemovedLine {
    /// Its number.
    pub index: u64,
    /// Its leaf.
    pub leaf: B256,
    /// Its link.
    pub link: B256,
}

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct End {
    /// Batches in the file.
    pub batches: u64,
    /// Records in the file, those included of which only the leaf is left.
    pub records: u64,
}

/// Any line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line {
    /// The first.
    Head(Head),
    /// Before each batch.
    Batch(BatchLine),
    /// One record.
    Record(Box<RecordLine>),
    /// What is left of one.
    Removed(RemovedLine),
    /// The last.
    End(End),
}

/// An anchor as the chain has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anchor {
    /// Root of the batch.
    pub root: B256,
    /// Root of the anchor before.
    pub previous: B256,
    /// How many records.
    pub count: u64,
}

/// What is wrong with a file. The first thing that is found, for after it nothing can be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not a line of such a file.
    #[error("line {line} is none of such a file: {why}")]
    Line {
        /// Which, from 1.
        line: u64,
        /// Why.
        why: String,
    },
    /// A line that has no place here.
    #[error("line {line}: {found} where {wanted} was to come")]
    Order {
        /// Which, from 1.
        line: u64,
        /// What stands there.
        found: &'static str,
        /// What had to.
        wanted: &'static str,
    },
    /// Of another version.
    #[error("the file has version {found}, this program reads {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// A record is not what it was when the gateway wrote it.
    #[error("record {index} was changed, moved or taken from elsewhere")]
    Changed {
        /// Its number, or the one it should have.
        index: u64,
    },
    /// Records are missing between two that are there.
    #[error("a gap: records {from} to {to} are missing")]
    Gap {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// Batches are missing.
    #[error("a gap: interval {from} to {to} (anchors on chain by these numbers) is missing")]
    MissingBatches {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
    },
    /// The chain knows nothing of a batch.
    #[error("interval {sequence} has no anchor on chain")]
    NoAnchor {
        /// Its number.
        sequence: u64,
    },
    /// The chain tells another story about a batch.
    #[error(
        "interval {sequence} is not what was anchored: its records come to {found}, the chain has {anchored}"
    )]
    NotAnchored {
        /// Its number.
        sequence: u64,
        /// Root of what is in the file.
        found: B256,
        /// Root on chain.
        anchored: B256,
    },
    /// The anchors themselves do not follow each other: the node does not tell everything, or not the truth.
    #[error("anchor {sequence} does not follow the one before it: ask another node")]
    Anchors {
        /// Its number.
        sequence: u64,
    },
    /// The file says how much it holds, and holds something else.
    #[error(
        "the file ends with {found} records in {batches} intervals and says that there are {said}"
    )]
    Count {
        /// Records found.
        found: u64,
        /// Batches found.
        batches: u64,
        /// Records that it says it has.
        said: u64,
    },
    /// The file has no end.
    #[error("the file was cut after line {line}")]
    Cut {
        /// The last line.
        line: u64,
    },
}

/// What was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Whose records.
    pub head: Head,
    /// Batches, each equal to its anchor.
    pub batches: u64,
    /// Records, those included that were removed.
    pub records: u64,
    /// Records of which only the leaf is left: that they were there is proved, and nothing of what they said.
    pub removed: u64,
    /// First and last anchor, if there is one.
    pub sequences: Option<(u64, u64)>,
    /// Anchors on chain after the last one in the file.
    pub later: u64,
    /// Before the first batch there are more records on chain than numbers: the gateway began anew, or went on from an older copy of its
    /// records. What it had not anchored by then is lost.
    pub has_lost: bool,
}

/// Reads a file line by line.
#[derive(Debug, Default)]
pub struct Checker {
    line: u64,
    head: Option<Head>,
    open: Option<Open>,
    batches: Vec<Found>,
    records: u64,
    removed: u64,
    /// Number of the record that must come next and the link it stands on, once the first batch has said so.
    next: Option<(u64, B256)>,
    ended: bool,
}

#[derive(Debug)]
struct Open {
    batch: BatchLine,
    leaves: Vec<B256>,
}

/// What the records of a batch come to.
#[derive(Debug, Clone, Copy)]
struct Found {
    sequence: u64,
    root: B256,
    first: u64,
    count: u64,
}

impl Checker {
    /// Takes the next line, without its end. Returns the record that stands there, if one does.
    ///
    /// # Errors
    /// The first [`Fault`]; feed nothing more then.
    pub fn take(&mut self, text: &[u8]) -> Result<Option<Record>, Fault> {
        self.line += 1;
        if text.len() > MOST_LINE {
            let why = format!("it has more than {MOST_LINE} octets");
            return Err(Fault::Line { line: self.line, why });
        }
        let line: Line = serde_json::from_slice(text)
            .map_err(|error| Fault::Line { line: self.line, why: error.to_string() })?;
        if self.ended {
            return Err(self.order("a line", "nothing"));
        }
        match (line, &self.head) {
            (Line::Head(head), None) => {
                if head.flytrap_records != VERSION {
                    return Err(Fault::Version { found: head.flytrap_records });
                }
                self.head = Some(head);
                Ok(None)
            }
            (Line::Head(_), Some(_)) => Err(self.order("a second head", "a batch or the end")),
            (_, None) => Err(self.order("something else", "the head")),
            (Line::Batch(batch), Some(_)) => self.begin(batch).map(|()| None),
            (Line::Record(line), Some(_)) => self.record(*line).map(Some),
            (Line::Removed(line), Some(_)) => self.removed(&line).map(|()| None),
            (Line::End(end), Some(_)) => self.end(&end).map(|()| None),
        }
    }

    fn order(&self, found: &'static str, wanted: &'static str) -> Fault {
        Fault::Order { line: self.line, found, wanted }
    }

    fn begin(&mut self, batch: BatchLine) -> Result<(), Fault> {
        if let Some(open) = &self.open {
            return Err(missing(open));
        }
        if batch.count == 0 || batch.count > MOST_RECORDS || batch.first == 0 {
            let why = format!("a batch of {} records from {}", batch.count, batch.first);
            return Err(Fault::Line { line: self.line, why });
        }
        if let Some(last) = self.batches.last()
            && batch.sequence != last.sequence.saturating_add(1)
        {
            let (from, to) = (last.sequence.saturating_add(1), batch.sequence.saturating_sub(1));
            return Err(Fault::MissingBatches { from, to });
        }
        match self.next {
            Some((index, before)) if (batch.first, batch.before) != (index, before) => {
                return Err(match batch.first.checked_sub(index) {
                    Some(missing @ 1..) => Fault::Gap { from: index, to: index + missing - 1 },
                    _ => Fault::Changed { index },
                });
            }
            _ => self.next = Some((batch.first, batch.before)),
        }
        self.open = Some(Open { batch, leaves: Vec::new() });
        Ok(())
    }

    fn record(&mut self, line: RecordLine) -> Result<Record, Fault> {
        let RecordLine { record, link } = line;
        let is_sound = record.check().is_ok();
        self.leaf(record.index, leaf(&record.encode()), link, is_sound)?;
        Ok(record)
    }

    fn removed(&mut self, line: &RemovedLine) -> Result<(), Fault> {
        self.leaf(line.index, line.leaf, line.link, true)?;
        self.removed += 1;
        Ok(())
    }

    /// The next leaf of the batch that is open, which says that it is of record `found` and makes the link `said`.
    fn leaf(&mut self, found: u64, leaf: B256, said: B256, is_sound: bool) -> Result<(), Fault> {
        let (Some(open), Some((index, before))) = (&mut self.open, self.next) else {
            return Err(self.order("a record", "a batch or the end"));
        };
        if found > index && found - open.batch.first < open.batch.count {
            return Err(Fault::Gap { from: index, to: found - 1 });
        }
        let link = link(before, leaf);
        if found != index || link != said || !is_sound {
            return Err(Fault::Changed { index });
        }
        open.leaves.push(leaf);
        self.records += 1;
        self.next = Some((index.saturating_add(1), link));
        if u64::try_from(open.leaves.len()) == Ok(open.batch.count) {
            let Open { batch, leaves } = open;
            let root = Batch {
                first: batch.first,
                count: batch.count,
                before: batch.before,
                top: top(leaves.drain(..)),
            }
            .root();
            let BatchLine { sequence, first, count, .. } = *batch;
            self.batches.push(Found { sequence, root, first, count });
            self.open = None;
        }
        Ok(())
    }

    fn end(&mut self, end: &End) -> Result<(), Fault> {
        if let Some(open) = &self.open {
            return Err(missing(open));
        }
        let batches = u64::try_from(self.batches.len()).unwrap_or(u64::MAX);
        if (end.batches, end.records) != (batches, self.records) {
            return Err(Fault::Count { found: self.records, batches, said: end.records });
        }
        self.ended = true;
        Ok(())
    }

    /// The file is over: compares every batch with its anchor. `anchors` are those of the gateway in [`Head`], by their sequence numbers.
    ///
    /// # Errors
    /// The first [`Fault`].
    pub fn finish(self, anchors: &BTreeMap<u64, Anchor>) -> Result<Checked, Fault> {
        let (Some(head), true) = (self.head, self.ended) else {
            return Err(Fault::Cut { line: self.line });
        };
        let mut before: Option<(u64, B256)> = None;
        for (sequence, anchor) in anchors {
            let (wanted, previous) = before.map_or((1, B256::ZERO), |(n, root)| (n + 1, root));
            if (*sequence, anchor.previous) != (wanted, previous) {
                return Err(Fault::Anchors { sequence: *sequence });
            }
            before = Some((*sequence, anchor.root));
        }
        for found in &self.batches {
            let sequence = found.sequence;
            let anchor = anchors.get(&sequence).ok_or(Fault::NoAnchor { sequence })?;
            if (anchor.root, anchor.count) != (found.root, found.count) {
                let (found, anchored) = (found.root, anchor.root);
                return Err(Fault::NotAnchored { sequence, found, anchored });
            }
        }
        let sequences = self.batches.first().zip(self.batches.last());
        let sequences = sequences.map(|(first, last)| (first.sequence, last.sequence));
        let last_there = sequences.map_or(0, |(_, last)| last);
        let later = anchors.range(last_there.saturating_add(1)..).count();
        let has_lost = self.batches.first().is_some_and(|batch| {
            let before = anchors.range(..batch.sequence).map(|(_, anchor)| anchor.count);
            before.fold(0, u64::saturating_add) != batch.first - 1
        });
        Ok(Checked {
            head,
            batches: u64::try_from(self.batches.len()).unwrap_or(u64::MAX),
            records: self.records,
            removed: self.removed,
            sequences,
            later: u64::try_from(later).unwrap_or(u64::MAX),
            has_lost,
        })
    }
}

fn missing(open: &Open) -> Fault {
    let there = u64::try_from(open.leaves.len()).unwrap_or(u64::MAX);
    let last = open.batch.first.saturating_add(open.batch.count) - 1;
    Fault::Gap { from: open.batch.first.saturating_add(there), to: last }
}

#[cfg(test)]
mod mutations;

#[cfg(test)]
mod tests {
    use rand::prelude::*;

    use super::*;
    use crate::Kind;

    /// A gateway's records in batches of these sizes: the lines of the file, and the anchors.
    fn file(sizes: &[u64]) -> (Vec<String>, BTreeMap<u64, Anchor>) {
        let text = |line: &Line| serde_json::to_string(line).expect("JSON");
        let head = Head {
            flytrap_records: VERSION,
            chain_id: 31_337,
            audit_log: Address::repeat_byte(1),
            broker_id: U256::ONE,
            gateway: Address::repeat_byte(2),
        };
        let mut lines = vec![text(&Line::Head(head))];
        let (mut anchors, mut index, mut at, mut previous) =
            (BTreeMap::new(), 1, B256::ZERO, B256::ZERO);
        for (sequence, &count) in (1..).zip(sizes) {
            let (first, before) = (index, at);
            lines.push(text(&Line::Batch(BatchLine { sequence, first, count, before })));
            let mut leaves = Vec::new();
            for _ in 0..count {
                let record = record(index);
                leaves.push(leaf(&record.encode()));
                at = link(at, leaf(&record.encode()));
                lines.push(text(&Line::Record(Box::new(RecordLine { record, link: at }))));
                index += 1;
            }
            let root = Batch { first, count, before, top: top(leaves) }.root();
            anchors.insert(sequence, Anchor { root, previous, count });
            previous = root;
        }
        let batches = u64::try_from(sizes.len()).expect("few");
        lines.push(text(&Line::End(End { batches, records: index - 1 })));
        (lines, anchors)
    }

    fn record(index: u64) -> Record {
        Record {
            index,
            kind: Kind::Delivered,
            wallet: Address::repeat_byte(3),
            key: Address::repeat_byte(4),
            session: 7,
            topic_id: B256::repeat_byte(5),
            epoch: 1,
            count: 10 + index,
            octets: 100 * index,
            first_at: 1_000 + index,
            last_at: 1_005 + index,
            height: index,
            rule: "grant".to_owned(),
            country: "DE".to_owned(),
            personal: vec![0xAB; 40].into(),
        }
    }

    fn check(lines: &[String], anchors: &BTreeMap<u64, Anchor>) -> Result<Checked, Fault> {
        let mut checker = Checker::default();
        for line in lines {
            checker.take(line.as_bytes())?;
        }
        checker.finish(anchors)
    }

    #[test]
    fn a_file_as_the_gateway_wrote_it_is_found_right() {
        let (lines, anchors) = file(&[3, 1, 5]);
        let checked = check(&lines, &anchors).expect("right");
        assert_eq!((checked.batches, checked.records, checked.later), (3, 9, 0));
        assert_eq!(checked.sequences, Some((1, 3)));
        let (nothing, _) = file(&[]);
        assert_eq!(check(&nothing, &anchors).expect("right").later, 3);
    }

    /// Takes the content of a line's record away.
    fn remove(line: &mut String) {
        let Ok(Line::Record(kept)) = serde_json::from_str(line) else {
            panic!("no record: {line}")
        };
        let RecordLine { record, link } = *kept;
        let removed = RemovedLine { index: record.index, leaf: leaf(&record.encode()), link };
        *line = serde_json::to_string(&Line::Removed(removed)).expect("JSON");
    }

    #[test]
    fn what_is_left_of_removed_records_proves_the_rest_and_is_told() {
        let (mut lines, anchors) = file(&[3, 1, 5]);
        // A record in the middle, a whole batch, the last.
        for at in [3, 6, 12] {
            remove(&mut lines[at]);
        }
        let checked = check(&lines, &anchors).expect("right");
        assert_eq!((checked.records, checked.removed), (9, 3));
        for changed in [lines[3].replace("\"index\":2", "\"index\":1"), lines[12].replace("9", "8")]
        {
            let mut file = lines.clone();
            file[3] = changed;
            assert!(check(&file, &anchors).is_err());
        }
        lines.remove(3);
        assert_eq!(check(&lines, &anchors), Err(Fault::Gap { from: 2, to: 2 }));
    }

    #[test]
    fn a_file_that_begins_later_is_right_and_one_with_a_hole_is_not() {
        let (lines, anchors) = file(&[3, 1, 5]);
        let end = |batches, records| {
            serde_json::to_string(&Line::End(End { batches, records })).expect("JSON")
        };
        let mut later = [&lines[..1], &lines[5..]].concat();
        *later.last_mut().expect("the end") = end(2, 6);
        let checked = check(&later, &anchors).expect("right");
        assert_eq!((checked.sequences, checked.records), (Some((2, 3)), 6));
        assert!(!checked.has_lost);
        // The chain has more records before than the numbers say: the file is of a gateway that began anew.
        let mut lost = anchors.clone();
        lost.get_mut(&1).expect("the first").count += 1;
        assert!(check(&later, &lost).expect("right as far as it goes").has_lost);
        let mut hole = [&lines[..5], &lines[7..]].concat();
        *hole.last_mut().expect("the end") = end(2, 8);
        assert_eq!(check(&hole, &anchors), Err(Fault::MissingBatches { from: 2, to: 2 }));
    }

    #[test]
    fn what_was_left_out_is_named() {
        let (lines, anchors) = file(&[3, 1, 5]);
        // Lines: head, batch, 3 records, batch, record, batch, 5 records, end.
        let without =
            |from: usize, to: usize| -> Vec<String> { [&lines[..from], &lines[to..]].concat() };
        let cases = [
            (without(3, 4), Fault::Gap { from: 2, to: 2 }),
            (without(4, 5), Fault::Gap { from: 3, to: 3 }),
            (without(5, 7), Fault::MissingBatches { from: 2, to: 2 }),
            (without(9, 11), Fault::Gap { from: 6, to: 7 }),
            (without(13, 14), Fault::Cut { line: 13 }),
            (without(7, 13), Fault::Count { found: 4, batches: 2, said: 9 }),
            (without(0, 1), Fault::Order { line: 1, found: "something else", wanted: "the head" }),
        ];
        for (lines, wanted) in cases {
            assert_eq!(check(&lines, &anchors), Err(wanted));
        }
    }

    #[test]
    fn a_whole_story_made_up_afterwards_differs_from_the_chain() {
        let (_, anchors) = file(&[3, 1]);
        let (shorter, _) = file(&[2, 2]);
        assert!(matches!(check(&shorter, &anchors), Err(Fault::NotAnchored { sequence: 1, .. })));
        let (longer, _) = file(&[3, 1, 1]);
        assert_eq!(check(&longer, &anchors), Err(Fault::NoAnchor { sequence: 3 }));
        let mut torn = anchors;
        torn.remove(&1);
        assert_eq!(check(&longer, &torn), Err(Fault::Anchors { sequence: 2 }));
    }

    #[test]
    fn lines_from_anywhere_are_refused_without_a_panic() {
        let rng = &mut StdRng::seed_from_u64(2);
        for _ in 0..2_000 {
            let octets: Vec<u8> = (0..rng.random_range(0..200)).map(|_| rng.random()).collect();
            assert!(matches!(Checker::default().take(&octets), Err(Fault::Line { line: 1, .. })));
        }
        let endless = vec![b' '; MOST_LINE + 1];
        assert!(matches!(Checker::default().take(&endless), Err(Fault::Line { .. })));
    }
}
