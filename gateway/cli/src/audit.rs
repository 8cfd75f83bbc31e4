//! `flytrap audit`: what happened, told in sentences: when, in which block and transaction, who, what, why.
//!
//! The chain tells what was granted, bought, ended and banned ([`story`]); the records that gateways exported tell what was done with
//! it ([`records`]). Both become rows of one time line ([`rows`]), each record beside the transaction that it stood on ([`past`]).
//! [`at`] replays the chain to one moment, [`roaming`] looks for keys in two countries at once. A file that does not verify is
//! refused, or marked in every row.

mod at;
mod past;
mod records;
mod roaming;
mod rows;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, U256};
use eyre::{Result, eyre};
use flytrap_chain::history::{self, Entry, Query};
use flytrap_chain::wallet::Contracts;
use flytrap_policy::Event;
use flytrap_record::Record;
use serde::Deserialize;
use serde_json::json;

use crate::args::{AuditAbout, AuditArgs, Global, Telling};
use crate::context::{block_time, id_of};
use crate::tell;
use crate::units::{Moment, word};
use crate::verify;
use past::Past;
pub(crate) use rows::line;
use rows::{Form, Row, Sums};
pub(crate) use words::Names;

/// Which part of the past.
#[derive(Clone, Debug, Default)]
pub(crate) struct Question {
    pub(crate) broker_id: U256,
    pub(crate) topic: Option<B256>,
    pub(crate) wallet: Option<Address>,
    pub(crate) from: Option<Moment>,
    pub(crate) to: Option<Moment>,
}

/// One thing that happened on chain, ready to be told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) entry: Entry,
    /// Who signed the transaction.
    pub(crate) sender: Option<Address>,
    /// Who did what.
    pub(crate) what: String,
    /// On which ground, where the event says so.
    pub(crate) why: Option<String>,
}

/// `flytrap audit …`
pub(crate) async fn audit(global: &Global, args: &AuditArgs) -> Result<()> {
    let mut names = Names::default();
    let mut question = Question {
        broker_id: global.broker_id(),
        from: args.from,
        to: args.to,
        ..Question::default()
    };
    let mut about = |name: &String| {
        let id = id_of(global, name);
        if word(name).is_err() {
            names.topics.insert(id, name.clone());
        }
        id
    };
    let telling = match &args.about {
        AuditAbout::Verify(args) => return verify::verify(global, args).await,
        AuditAbout::At(args) => return at::at(global, args).await,
        AuditAbout::Roaming { records } => {
            return roaming::roaming(global, &question, records).await;
        }
        AuditAbout::Topic { name, telling } => {
            question.topic = Some(about(name));
            telling
        }
        AuditAbout::Wallet { wallet, telling } => {
            question.wallet = Some(*wallet);
            telling
        }
        AuditAbout::Broker { telling } => telling,
        AuditAbout::Ask { who, topic, telling } => {
            question.wallet = *who;
            question.topic = topic.as_ref().map(&mut about);
            telling
        }
    };
    tell_all(global, &question, telling, names).await
}

/// Tells the chain's history and the records that fit, as one time line.
async fn tell_all(
    global: &Global,
    question: &Question,
    telling: &Telling,
    mut names: Names,
) -> Result<()> {
    let contracts = global.contracts().await?;
    let form = match (global.json, telling.csv) {
        (true, _) => Form::Json,
        (false, true) => Form::Csv,
        (false, false) => Form::Text,
    };
    if let Some(key) = question.wallet.or(telling.device) {
        tell_whose(&contracts, question, key).await?;
    }
    let mut rows = Vec::new();
    if !telling.sum {
        let told = story(&contracts, question, &mut names).await?;
        rows.extend(told.into_iter().filter(|told| rows::fits(told, telling)).map(Row::Chain));
    }
    if telling.records.records.is_empty() {
        rows::tell(form, &rows, &names);
        return Ok(());
    }
    let past = Past::read(&contracts, question.broker_id, &mut names).await?;
    let span = Span::of(&contracts, question).await?;
    let fits = |record: &Record| {
        let is_of = |key: Address| record.wallet == key || record.key == key;
        question.topic.is_none_or(|topic| record.topic_id == topic)
            && question.wallet.is_none_or(is_of)
            && telling.device.is_none_or(|device| record.key == device)
            && telling.country.as_ref().is_none_or(|country| *country == record.country)
            && telling.decision.is_none_or(|wanted| rows::decision(record.kind) == Some(wanted))
            && span.meets(record)
    };
    if telling.sum {
        let mut sums = Sums::default();
        let each = |_, record: Record| if fits(&record) { sums.add(&record) } else { Ok(()) };
        let sources = records::read(global, &contracts, &telling.records, &past, each).await?;
        sums.tell(form, &names, sources.iter().all(|source| source.verified));
        return Ok(());
    }
    let mut kept = Vec::new();
    let each = |source, record: Record| {
        if fits(&record) {
            records::room(kept.len())?;
            kept.push((source, record));
        }
        Ok(())
    };
    let sources = records::read(global, &contracts, &telling.records, &past, each).await?;
    rows.extend(kept.into_iter().map(|(source, record)| {
        let source = &sources[source];
        Row::of_record(record, source.gateway, source.verified, &past, &names)
    }));
    rows.sort_by_key(Row::place);
    rows::tell(form, &rows, &names);
    Ok(())
}

/// Seconds that are asked about, both included.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: u64,
    to: u64,
}

impl Span {
    async fn of(contracts: &Contracts, question: &Question) -> Result<Self> {
        let second = async |moment: Option<Moment>, open: u64| match moment {
            None => Ok(open),
            Some(Moment::Block(height)) => block_time(contracts, height).await,
            Some(moment) => Ok(moment.second(flytrap_site::unix_now()).unwrap_or(open)),
        };
        Ok(Self { from: second(question.from, 0).await?, to: second(question.to, u64::MAX).await? })
    }

    /// Whether any of what the record counts may have been then.
    fn meets(self, record: &Record) -> bool {
        self.from <= record.last_at && record.first_at <= self.to
    }
}

/// Says whose device key it is, if it is one.
async fn tell_whose(contracts: &Contracts, question: &Question, key: Address) -> Result<()> {
    let query = Query { broker_id: question.broker_id, wallet: Some(key), ..Query::default() };
    let entries = history::history(contracts.rpc(), contracts.deployment(), &query).await?;
    let wallet = entries.iter().rev().find_map(|entry| match entry.event {
        Event::DeviceAuthorized { wallet, device, .. } if device == key => Some(wallet),
        _ => None,
    });
    if let Some(wallet) = wallet {
        tell::aside(&format!(
            "{key} is or was a device key of {wallet}: what follows is about the key alone, ask for the wallet to see the rest"
        ));
    }
    Ok(())
}

/// Reads and tells the past; `names` is filled with the topics that it meets.
pub(crate) async fn story(
    contracts: &Contracts,
    question: &Question,
    names: &mut Names,
) -> Result<Vec<Told>> {
    let now = flytrap_site::unix_now();
    let block = |moment: Option<Moment>| match moment {
        Some(Moment::Block(height)) => Some(height),
        _ => None,
    };
    let query = Query {
        broker_id: question.broker_id,
        topic: question.topic,
        wallet: question.wallet,
        from: block(question.from),
        to: block(question.to),
        most: None,
        ..Query::default()
    };
    let mut entries = history::history(contracts.rpc(), contracts.deployment(), &query).await?;
    let from = question.from.and_then(|moment| moment.second(now)).unwrap_or(0);
    let to = question.to.and_then(|moment| moment.second(now)).unwrap_or(u64::MAX);
    entries.retain(|entry| from <= entry.time && entry.time <= to);
    learn(contracts, question, &entries, names).await?;
    let senders = senders(contracts, &entries).await?;
    let told = |entry: Entry| {
        let sender = senders.get(&entry.tx).copied();
        let (what, why) = (words::what(&entry.event, sender, names), words::why(&entry.event));
        Told { entry, sender, what, why }
    };
    Ok(entries.into_iter().map(told).collect())
}

/// Learns the names of the topics in `entries` that are not known yet, from their registration.
async fn learn(
    contracts: &Contracts,
    question: &Question,
    entries: &[Entry],
    names: &mut Names,
) -> Result<()> {
    let mut note = |event: &Event| {
        if let Event::TopicRegistered { topic_id, name, .. } = event {
            names.topics.insert(*topic_id, name.clone());
        }
    };
    entries.iter().for_each(|entry| note(&entry.event));
    let met: BTreeSet<B256> =
        entries.iter().filter_map(|entry| words::topic_of(&entry.event)).collect();
    for topic in met.into_iter().filter(|topic| !topic.is_zero()) {
        if !names.topics.contains_key(&topic) {
            let query =
                Query { broker_id: question.broker_id, topic: Some(topic), ..Query::default() };
            for entry in history::history(contracts.rpc(), contracts.deployment(), &query).await? {
                if let Event::TopicRegistered { topic_id, name, .. } = entry.event {
                    names.topics.insert(topic_id, name);
                }
            }
        }
    }
    Ok(())
}

/// Who signed each transaction: some events leave it to the transaction to say who acted.
async fn senders(contracts: &Contracts, entries: &[Entry]) -> Result<BTreeMap<B256, Address>> {
    #[derive(Debug, Deserialize)]
    struct Sent {
        from: Address,
    }
    let mut senders = BTreeMap::new();
    for tx in entries.iter().map(|entry| entry.tx).collect::<BTreeSet<_>>() {
        let sent: Option<Sent> =
            contracts.rpc().call("eth_getTransactionByHash", json!([tx])).await?;
        let sent =
            sent.ok_or_else(|| eyre!("the node has no transaction {tx}: ask another node"))?;
        senders.insert(tx, sent.from);
    }
    Ok(senders)
}
