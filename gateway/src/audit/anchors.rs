//! Anchors through the submitter's queue.

use flytrap_chain::{Anchor, Intent, SubmitterHandle};

use super::store::Closed;
use super::writer::Anchors;

impl Anchors for SubmitterHandle {
    async fn hand_over(&self, closed: Closed) -> Result<(), String> {
        let Closed { sequence, root, previous, count } = closed;
        let intent = Intent::Anchor(Anchor { sequence, root, previous, count });
        self.submit(intent).await.map(drop).map_err(|error| error.to_string())
    }
}
