//! The records that gateways exported, each file checked against the chain before anything of it is told.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use alloy::primitives::{Address, B256};
use eyre::{Result, bail};
use flytrap_chain::wallet::Contracts;
use flytrap_policy::Event;
use flytrap_record::{Record, leaf};

use super::past::Past;
use crate::args::{Global, RecordsArgs};
use crate::tell::{self, bad, good};
use crate::verify;

/// Rows that are held in memory at most.
const MOST_ROWS: usize = 1_000_000;

/// A file of records.
#[derive(Debug)]
pub(super) struct Source {
    file: PathBuf,
    /// Who wrote it.
    pub(super) gateway: Address,
    /// Whether it is what the gateway anchored.
    pub(super) verified: bool,
    /// Records of which only the proof that they were there is left.
    pub(super) removed: u64,
}

/// Hands every record of the files to `each`, with the place of its file among those that are returned; one that is in two files
/// comes once. What was found about each file, and which anchored intervals are in none, is said beside the answer.
///
/// # Errors
/// If a file does not verify and the arguments do not ask for it in spite of that.
pub(super) async fn read(
    global: &Global,
    contracts: &Contracts,
    args: &RecordsArgs,
    past: &Past,
    mut each: impl FnMut(usize, Record) -> Result<()>,
) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = Vec::new();
    // What came from earlier files, by gateway. Not by number: a gateway that lost its disk begins again with number 1, and of a record in
    // one file only the proof may be left in another.
    let mut had: HashSet<(Address, B256)> = HashSet::new();
    let has_several = args.records.len() > 1;
    let mut intervals: BTreeMap<Address, Vec<(u64, u64)>> = BTreeMap::new();
    for file in &args.records {
        let head = verify::head(file)?;
        verify::is_about(global, contracts, &head)?;
        let anchors = verify::anchors(&past.entries, head.gateway);
        let mut new = Vec::new();
        let outcome = verify::check(file, &anchors, |record| {
            if has_several {
                let known = (head.gateway, leaf(&record.encode()));
                if had.contains(&known) {
                    return Ok(());
                }
                new.push(known);
            }
            each(sources.len(), record)
        })?;
        let name = tell::safe(&file.display().to_string());
        match &outcome {
            Ok(checked) => {
                tell::aside(&format!(
                    "{}  {name}: {} records in {} intervals are what gateway {} anchored",
                    good("PASS"),
                    checked.records,
                    checked.batches,
                    head.gateway
                ));
                if checked.removed > 0 {
                    tell::aside(&format!(
                        "of {} of them only the proof that they were there is left: what they said is in no answer",
                        checked.removed
                    ));
                }
                if checked.has_lost {
                    tell::aside(verify::LOST);
                }
                had.extend(new);
                intervals.entry(head.gateway).or_default().extend(checked.sequences);
            }
            Err(fault) => {
                tell::aside(&format!("{}  {name}: {fault}", bad("FAIL")));
                if !args.unverified {
                    bail!(
                        "{name} is not what gateway {} recorded and anchored, so nothing is told: leave it out, or see its records marked with --unverified",
                        head.gateway
                    );
                }
            }
        }
        let verified = outcome.is_ok();
        let removed = outcome.map_or(0, |checked| checked.removed);
        sources.push(Source { file: file.clone(), gateway: head.gateway, verified, removed });
    }
    tell_gaps(past, &intervals);
    for source in sources.iter().filter(|source| !source.verified) {
        tell::aside(&format!(
            "{}: what comes from {} is marked and proves nothing",
            bad("UNVERIFIED"),
            tell::safe(&source.file.display().to_string())
        ));
    }
    Ok(sources)
}

/// Says which intervals are anchored and in no file: of what happened then, nothing is in the answer.
fn tell_gaps(past: &Past, there: &BTreeMap<Address, Vec<(u64, u64)>>) {
    let mut missing: BTreeMap<Address, Vec<(u64, u64)>> = BTreeMap::new();
    for entry in &past.entries {
        let Event::Anchored { gateway, sequence, .. } = &entry.event else { continue };
        let ranges = there.get(gateway).map_or(&[][..], Vec::as_slice);
        if ranges.iter().any(|(first, last)| (*first..=*last).contains(sequence)) {
            continue;
        }
        let gaps = missing.entry(*gateway).or_default();
        match gaps.last_mut() {
            Some((_, last)) if *last + 1 == *sequence => *last = *sequence,
            _ => gaps.push((*sequence, *sequence)),
        }
    }
    for (gateway, gaps) in missing {
        let gaps: Vec<String> = gaps.iter().map(|(from, to)| format!("{from} to {to}")).collect();
        tell::aside(&format!(
            "not in these files: intervals {} of gateway {gateway}",
            gaps.join(", ")
        ));
    }
}

/// Refuses more than memory is meant to hold.
pub(super) fn room(held: usize) -> Result<()> {
    if held >= MOST_ROWS {
        bail!(
            "more than {MOST_ROWS} records fit: narrow with --from, --to and the other filters, or add up with --sum"
        );
    }
    Ok(())
}
