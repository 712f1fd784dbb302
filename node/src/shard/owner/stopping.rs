//! The way down: what waits is answered, a last checkpoint is made.

use std::time::{Duration, Instant};

use super::{Owner, Phase};
use crate::shard::WriteError;

/// How long the writes that wait when the node stops may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long the last checkpoint may take. Without it the next start reads more of the log.
const LAST_CHECKPOINT_TIME: Duration = Duration::from_secs(10);

pub(super) enum Stopping {
    /// Until everything that waits is answered.
    Draining {
        until: Instant,
    },
    /// Until the last checkpoint is made.
    Checkpointing {
        until: Instant,
    },
    Done,
}

impl Owner {
    pub(super) fn begin_stopping(&mut self) {
        if self.stopping.is_none() {
            self.shared.set_phase(Phase::Stopping);
            self.jobs.cancel_merges();
            self.stopping = Some(Stopping::Draining { until: self.now + DRAIN_TIME });
        }
    }

    pub(super) fn go_on_stopping(&mut self) {
        if let Some(Stopping::Draining { until }) = self.stopping {
            let idle = self.waiting.is_empty() && self.proposed.is_empty();
            if !idle && self.now < until {
                return;
            }
            self.refuse_waiting(&WriteError::Stopping);
            self.store.request_checkpoint();
            self.stopping = Some(Stopping::Checkpointing { until: self.now + LAST_CHECKPOINT_TIME });
        }
        if let Some(Stopping::Checkpointing { until }) = self.stopping {
            let late = self.now >= until;
            if late {
                let shard = self.shared.id;
                tracing::warn!(shard, "the last checkpoint took too long: the next start reads more of the log");
            }
            // One that fails is not tried again: the store waits for its clock to move on first.
            if late || (self.work.rests() && !self.start_last_checkpoint()) {
                self.stopping = Some(Stopping::Done);
            }
        }
    }
}
