//! Says when something is due, to some microseconds: the runtime's own timers know milliseconds only.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// Moments at equal distances, each told when it has come, also if those before it are still being worked off: whoever falls behind
/// hears of all that were due meanwhile, and measures from when they were.
pub(super) struct Metronome {
    due: mpsc::UnboundedReceiver<Instant>,
}

impl Metronome {
    /// `count` moments, so many in a second.
    pub(super) fn start(count: u64, per_second: f64) -> Self {
        let (tell, due) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            // A moment to come, so that the first is as good as the others.
            let began = Instant::now() + Duration::from_millis(2);
            for number in 0..count {
                let moment = began + Duration::from_secs_f64(number as f64 / per_second);
                std::thread::sleep(moment.saturating_duration_since(Instant::now()));
                if tell.send(moment).is_err() {
                    return;
                }
            }
        });
        Self { due }
    }

    /// The next moment once it has come; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Instant> {
        self.due.recv().await
    }
}
