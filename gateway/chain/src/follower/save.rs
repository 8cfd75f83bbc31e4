//! Keeps a snapshot on disk, written by a thread of its own while the follower goes on.

use std::{path::PathBuf, sync::Arc, time::Duration};

use alloy::primitives::U256;
use flytrap_policy::Registry;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::Instant,
};
use tracing::{info, warn};

use crate::{Chain, ChainHealth, Deployment, Header, snapshot};

/// A state that has not changed is written again once it is so many blocks old, so that few are read at a start.
const OLD: u64 = 5_000;

/// See the module.
pub(super) struct Saver {
    path: PathBuf,
    every: Duration,
    last: Instant,
    /// Height and state that are on disk.
    kept: Option<(u64, Arc<Registry>)>,
    writing: Option<JoinHandle<()>>,
    /// What is on disk may be what was wrong.
    is_refused: bool,
}

impl Saver {
    pub(super) fn new(path: PathBuf, every: Duration) -> Self {
        let last = Instant::now();
        Self { path, every, last, kept: None, writing: None, is_refused: false }
    }

    /// What is on disk, if it is worth anything; says what is wrong with it otherwise.
    pub(super) async fn load(
        &mut self,
        deployment: &Deployment,
        broker_id: U256,
        health: &ChainHealth,
    ) -> Option<(Header, Registry)> {
        if self.is_refused {
            return None;
        }
        let (path, deployment) = (self.path.clone(), deployment.clone());
        let read = spawn_blocking(move || snapshot::read(&path, &deployment, broker_id));
        let wrong = match read.await {
            Ok(Ok(found)) => return found,
            Ok(Err(error)) => error.to_string(),
            Err(fault) => fault.to_string(),
        };
        health.count_snapshot_refused();
        self.is_refused = true;
        warn!(
            file = %self.path.display(),
            error = wrong,
            "the snapshot is of no use, the chain is read from the deployment on"
        );
        None
    }

    /// The state is built again from the chain: what is on disk is no help.
    pub(super) fn forget(&mut self) {
        self.is_refused = true;
        self.kept = None;
    }

    /// This is what is on disk.
    pub(super) fn keep(&mut self, height: u64, registry: &Registry) {
        self.kept = Some((height, Arc::new(registry.clone())));
    }

    /// Begins to write if it is time.
    pub(super) fn tick(
        &mut self,
        chain: &Chain,
        deployment: &Deployment,
        health: &Arc<ChainHealth>,
    ) {
        let is_busy = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if is_busy || self.last.elapsed() < self.every {
            return;
        }
        self.last = Instant::now();
        self.begin(chain, deployment, health, OLD);
    }

    /// Writes what is new, and returns when it is on disk.
    pub(super) async fn finish(
        &mut self,
        chain: &Chain,
        deployment: &Deployment,
        health: &Arc<ChainHealth>,
    ) {
        // One after the other: both write to the same place.
        self.written().await;
        self.begin(chain, deployment, health, 1);
        self.written().await;
    }

    async fn written(&mut self) {
        if let Some(writing) = self.writing.take()
            && let Err(fault) = writing.await
        {
            warn!(file = %self.path.display(), %fault, "writing a snapshot has ended by a fault");
        }
    }

    fn begin(
        &mut self,
        chain: &Chain,
        deployment: &Deployment,
        health: &Arc<ChainHealth>,
        old: u64,
    ) {
        // So deep that it will still be on the chain when it is read.
        let Some((block, registry)) = chain.deepest() else { return };
        let is_kept = self.kept.as_ref().is_some_and(|(height, kept)| {
            block.height < height.saturating_add(old) && Arc::ptr_eq(kept, &registry)
                || block.height <= *height
        });
        if is_kept {
            return;
        }
        self.kept = Some((block.height, registry.clone()));
        let (path, deployment, health) = (self.path.clone(), deployment.clone(), health.clone());
        self.writing = Some(spawn_blocking(move || {
            let began = Instant::now();
            match snapshot::write(&path, &deployment, &block, &registry) {
                Ok(()) => {
                    health.count_snapshot_written();
                    health.snapshot_at(block.height);
                    let (height, took) = (block.height, began.elapsed());
                    info!(height, ?took, "snapshot written");
                }
                Err(error) => {
                    health.count_snapshot_failed();
                    warn!(
                        file = %path.display(),
                        %error,
                        "no snapshot can be written: the next start will take longer; is the disk full, may this user write there?"
                    );
                }
            }
        }));
    }
}
