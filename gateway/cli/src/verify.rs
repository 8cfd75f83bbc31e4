//! `flytrap audit verify`: a gateway's exported records against the anchors on chain. Needs the file, a node and the contracts' addresses.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::Path;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_chain::history::{self, Entry, Query};
use flytrap_chain::wallet::Contracts;
use flytrap_policy::Event;
use flytrap_record::Record;
use flytrap_record::export::{Anchor, Checked, Checker, Fault, Head, Line, MOST_LINE};
use serde_json::json;

use crate::args::{Global, VerifyArgs};
use crate::context::id_of;
use crate::tell;
use crate::units::utc;

/// Time between two words about how far it is.
const TELL: Duration = Duration::from_secs(2);

/// An anchor, and where it stands on chain.
#[derive(Debug)]
pub(crate) struct Placed {
    anchor: Anchor,
    height: u64,
    time: u64,
    tx: B256,
}

/// Said of a file whose first number is not what the chain's earlier anchors come to.
pub(crate) const LOST: &str = "The gateway began its records anew before these, or went on from an older copy of them: what it had not anchored by then is lost.";

/// `flytrap audit verify FILE`
pub(crate) async fn verify(global: &Global, args: &VerifyArgs) -> Result<()> {
    let contracts = global.contracts().await?;
    let head = head(&args.file)?;
    is_about(global, &contracts, &head)?;
    let query = Query { broker_id: head.broker_id, wallet: Some(head.gateway), ..Query::default() };
    let entries = history::history(contracts.rpc(), contracts.deployment(), &query).await?;
    let placed = anchors(&entries, head.gateway);
    let checked = match check(&args.file, &placed, |_| Ok(()))? {
        Ok(checked) => checked,
        Err(fault) => {
            if global.json {
                tell::line(json!({ "verified": false, "fault": fault.to_string() }).to_string());
            } else {
                tell::line(format!("{}  {fault}", tell::bad("FAIL")));
            }
            bail!("the file is not what gateway {} recorded and anchored", head.gateway);
        }
    };
    told(global, &checked, &placed);
    if args.topic.is_some() || args.wallet.is_some() || args.show {
        show(global, args)?;
    }
    Ok(())
}

/// Checks a file against the gateway's anchors, and hands every record that stands in it to `each`, also those after what is wrong with it.
pub(crate) fn check(
    file: &Path,
    placed: &BTreeMap<u64, Placed>,
    mut each: impl FnMut(Record) -> Result<()>,
) -> Result<Result<Checked, Fault>> {
    let anchors = placed.iter().map(|(sequence, placed)| (*sequence, placed.anchor)).collect();
    let mut checker = Ok(Checker::default());
    let mut said = Instant::now();
    lines(file, |number, line, read| {
        let record = match &mut checker {
            Ok(so_far) => match so_far.take(line) {
                Ok(record) => record,
                Err(fault) => {
                    checker = Err(fault);
                    record_in(line)
                }
            },
            Err(_) => record_in(line),
        };
        if said.elapsed() >= TELL {
            said = Instant::now();
            tell::aside(&format!("line {number}, {read} % of the file"));
        }
        record.map_or(Ok(()), &mut each)
    })?;
    Ok(checker.and_then(|checker| checker.finish(&anchors)))
}

/// The record in a line that nothing vouches for.
fn record_in(line: &[u8]) -> Option<Record> {
    match serde_json::from_slice(line) {
        Ok(Line::Record(line)) if line.record.check().is_ok() => Some(line.record),
        _ => None,
    }
}

/// The first line.
pub(crate) fn head(file: &Path) -> Result<Head> {
    let mut found = None;
    let mut first = read(file)?.take(u64::try_from(MOST_LINE).unwrap_or(u64::MAX));
    let mut line = Vec::new();
    first.read_until(b'\n', &mut line).wrap_err_with(|| file.display().to_string())?;
    if let Ok(Line::Head(head)) = serde_json::from_slice(line.trim_ascii_end()) {
        found = Some(head);
    }
    found.ok_or_else(|| {
        eyre!(
            "{} does not begin like a file of records: make one with `flytrap-gateway export`",
            file.display()
        )
    })
}

/// Whether the file is of the broker and contracts that were asked about: it may claim any others.
pub(crate) fn is_about(global: &Global, contracts: &Contracts, head: &Head) -> Result<()> {
    let deployment = contracts.deployment();
    let wanted = (deployment.chain_id, deployment.audit_log, global.broker_id());
    if head.is_of(wanted.0, wanted.1, wanted.2) {
        return Ok(());
    }
    bail!(
        "the file is about broker {} and audit log {} on chain {}; asked was about broker {}, audit log {}, chain {}: name the right ones with --broker, --deployment and --rpc",
        head.broker_id,
        head.audit_log,
        head.chain_id,
        wanted.2,
        wanted.1,
        wanted.0
    )
}

/// All anchors of the gateway among these events, by their numbers.
pub(crate) fn anchors(entries: &[Entry], of: Address) -> BTreeMap<u64, Placed> {
    let anchors = entries.iter().filter_map(|entry| match entry.event {
        Event::Anchored { gateway, sequence, root, previous, count, .. } if gateway == of => {
            let anchor = Anchor { root, previous, count };
            let (height, time, tx) = (entry.height, entry.time, entry.tx);
            Some((sequence, Placed { anchor, height, time, tx }))
        }
        _ => None,
    });
    anchors.collect()
}

fn told(global: &Global, checked: &Checked, placed: &BTreeMap<u64, Placed>) {
    let Checked { head, batches, records, removed, sequences, later, has_lost } = checked;
    let (first, last) = sequences.unwrap_or_default();
    let of_file = || placed.range(first..=last);
    if global.json {
        let anchors: Vec<_> = of_file()
            .map(|(sequence, p)| json!({ "sequence": sequence, "block": p.height, "time": p.time, "tx": p.tx, "records": p.anchor.count }))
            .collect();
        let answer = json!({
            "verified": true, "gateway": head.gateway, "records": records, "removed": removed, "intervals": batches,
            "first": first, "last": last, "later": later, "lostBefore": has_lost, "anchors": anchors,
        });
        tell::line(answer.to_string());
        return;
    }
    tell::line(format!(
        "{}  {records} records in {batches} intervals of gateway {} are what it anchored on chain {}",
        tell::good("PASS"),
        head.gateway,
        head.chain_id
    ));
    for (sequence, p) in of_file() {
        tell::line(tell::faint(&format!(
            "interval {sequence}: {} records, {}  block {}  {}",
            p.anchor.count,
            utc(p.time),
            p.height,
            p.tx
        )));
    }
    if first > 1 {
        tell::line(format!(
            "Intervals 1 to {} are not in the file: not kept any longer, or left out with --from.",
            first - 1
        ));
    }
    if *has_lost {
        tell::line(LOST);
    }
    if *removed > 0 {
        tell::line(format!(
            "Of {removed} records only the proof that they were there is left: what they said is not kept any longer."
        ));
    }
    if *later > 0 {
        tell::line(format!("{later} later intervals are on chain and not in the file."));
    }
}

/// The records that were asked for, one a line.
fn show(global: &Global, args: &VerifyArgs) -> Result<()> {
    let topic = args.topic.as_ref().map(|name| id_of(global, name));
    lines(&args.file, |_, line, _| {
        let Ok(Line::Record(line)) = serde_json::from_slice(line) else { return Ok(()) };
        let record = &line.record;
        let is_wanted = topic.is_none_or(|topic| topic == record.topic_id)
            && args.wallet.is_none_or(|wallet| wallet == record.wallet);
        if is_wanted && global.json {
            tell::line(tell::json(&json!(record)));
        } else if is_wanted {
            tell::line(row(record));
        }
        Ok(())
    })
}

fn row(record: &Record) -> String {
    let kind = serde_json::to_value(record.kind).ok();
    let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
    let who = if record.wallet == Address::ZERO {
        "nobody who proved anything".to_owned()
    } else if record.key == record.wallet {
        record.wallet.to_string()
    } else {
        format!("{} by device {}", record.wallet, record.key)
    };
    let from = if record.country.is_empty() { "unknown" } else { &record.country };
    format!(
        "{} to {}  {kind} {} x, {} octets  {who}  topic {}  {}  from {from}  at block {}",
        utc(record.first_at),
        utc(record.last_at),
        record.count,
        record.octets,
        record.topic_id,
        tell::safe(&record.rule),
        record.height
    )
}

fn read(file: &Path) -> Result<BufReader<File>> {
    let opened = File::open(file).wrap_err_with(|| format!("cannot read {}", file.display()))?;
    Ok(BufReader::with_capacity(1 << 20, opened))
}

/// Hands each line to `each`, with its number and how much of the file has been read, in per cent. No line is held that is longer than
/// such a file has.
fn lines(file: &Path, mut each: impl FnMut(u64, &[u8], u64) -> Result<()>) -> Result<()> {
    let mut input = read(file)?;
    let size = input.get_ref().metadata().map_or(0, |about| about.len()).max(1);
    let most = u64::try_from(MOST_LINE + 1).unwrap_or(u64::MAX);
    let (mut line, mut number, mut taken) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let octets = input.by_ref().take(most).read_until(b'\n', &mut line)?;
        if octets == 0 {
            return Ok(());
        }
        number += 1;
        taken += u64::try_from(octets).unwrap_or(u64::MAX);
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        each(number, text, taken.saturating_mul(100) / size)?;
    }
}
