//! `flytrap-gateway export`: the records that are anchored, as a file for auditors.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flytrap_chain::signer::SignerError;
use flytrap_chain::wallet::Contracts;
use flytrap_chain::{Deployment, DeploymentError, WalletError};
use flytrap_record::export::{End, Head, Line, VERSION};
use serde::Serialize;

use super::store::{Place, Reader, StoreError};
use crate::config::{Config, Recording};

/// Batches that are looked up at once.
const AT_ONCE: u32 = 1_024;
/// Time between two words about how far it is.
const TELL: Duration = Duration::from_secs(2);

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The gateway has no key, so nothing of it is anchored.
    #[error(
        "`gateway.record` is off: this gateway anchors nothing, so there is nothing that a file could be checked against"
    )]
    NoAnchors,
    /// Whose records, a key management service has to say.
    #[error("the gateway's key: {0}")]
    Key(#[from] SignerError),
    /// The deployments file.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The node.
    #[error("which records are anchored cannot be asked: {0}")]
    Node(#[from] WalletError),
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("\"{path}\": {error}", path = .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Intervals.
    pub batches: u64,
    /// Records.
    pub records: u64,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records in {} anchored intervals", self.records, self.batches)
    }
}

/// Writes all anchored batches from this sequence number on to `to` (standard output without), which is whole or not there.
///
/// # Errors
/// [`ExportError`].
pub async fn export(
    config: &Config,
    from: u64,
    to: Option<&Path>,
) -> Result<Exported, ExportError> {
    let Recording::On(key) = &config.recording else { return Err(ExportError::NoAnchors) };
    let (gateway, broker_id) = (key.open().await?.address(), config.chain.broker_id);
    let deployment = Deployment::read(&config.chain.deployment)?;
    let head = Head {
        flytrap_records: VERSION,
        chain_id: deployment.chain_id,
        audit_log: deployment.audit_log,
        broker_id,
        gateway,
    };
    let contracts = Contracts::connect(config.chain.urls.clone(), deployment).await?;
    let last = contracts.last_anchor(broker_id, gateway).await?;
    let reader = Reader::open(&Place::of(config, gateway), gateway)?;
    let Some(path) = to else {
        let out = Out::new(io::stdout().lock(), PathBuf::from("standard output"));
        return write(out, head, &reader, from, last);
    };
    let unfinished = path.with_added_extension("unfinished");
    let wrong = |error| ExportError::Write { path: unfinished.clone(), error };
    // Who used what, when and from where is nobody's but the operator's.
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&unfinished).map_err(wrong)?;
    let out = Out::new(file.try_clone().map_err(wrong)?, unfinished.clone());
    let exported = write(out, head, &reader, from, last)?;
    file.sync_all().map_err(wrong)?;
    fs::rename(&unfinished, path).map_err(wrong)?;
    Ok(exported)
}

struct Out<W: Write> {
    out: BufWriter<W>,
    path: PathBuf,
}

impl<W: Write> Out<W> {
    fn new(out: W, path: PathBuf) -> Self {
        Self { out: BufWriter::with_capacity(1 << 16, out), path }
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), ExportError> {
        let written = serde_json::to_writer(&mut self.out, line).map_err(io::Error::from);
        let written = written.and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|error| ExportError::Write { path: self.path.clone(), error })
    }
}

fn write(
    mut out: Out<impl Write>,
    head: Head,
    reader: &Reader,
    from: u64,
    last: u64,
) -> Result<Exported, ExportError> {
    out.line(&Line::Head(head))?;
    let (mut batches, mut records, mut next) = (0, 0, from);
    let mut said = Instant::now();
    loop {
        let found = reader.batches(next, AT_ONCE)?;
        let anchored: Vec<_> = found.into_iter().filter(|batch| batch.sequence <= last).collect();
        let Some(end) = anchored.last() else { break };
        next = end.sequence.saturating_add(1);
        for batch in anchored {
            out.line(&Line::Batch(batch.clone()))?;
            reader.records(&batch, |line| {
                records += 1;
                out.line(&line)
            })?;
            batches += 1;
            if said.elapsed() >= TELL && io::stderr().is_terminal() {
                said = Instant::now();
                eprintln!("interval {} of {last}, {records} records", batch.sequence);
            }
        }
    }
    out.line(&Line::End(End { batches, records }))?;
    let Out { out, path } = out;
    // The file counts as written only when it is.
    out.into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|mut out| out.flush())
        .map_err(|error| ExportError::Write { path, error })?;
    Ok(Exported { batches, records })
}
