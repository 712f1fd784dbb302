//! Writes: to the log of a shard, wherever that is led.
//!
//! ```text
//!   led here ------> the shard's queue --------------------------------------------------> outcome
//!   led elsewhere -> a request id, the node that leads --answers--------------------------> outcome
//!                                          '--gone, or led no longer--> asked again, as soon as somebody leads
//!
//! The shard need not be on this node.
//! ```
//!
//! Always: what is handed on is carried out once. Whoever is asked again finds the request id in the state, if the one before has
//! done it. Where its outcome may have been let go since, for want of room, it is not carried out again, and nobody knows. What this
//! node led itself needs no id, and takes none of the room for outcomes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loci_index::command::{Envelope, Outcome};

use super::Door;
use super::places::Home;
use crate::cluster::NotWritten;
use crate::doors::grpc::Failure;
use crate::identity::RunId;
use crate::shard::{TurnBy, WriteError};

/// What nobody leads is tried again after this.
const RETRY: Duration = Duration::from_millis(20);

/// Request ids of this process.
pub struct RequestIds {
    /// No other process has it.
    run: RunId,
    next: AtomicU64,
}

impl RequestIds {
    /// Of a process.
    pub fn of(run: RunId) -> RequestIds {
        RequestIds { run, next: AtomicU64::new(0) }
    }

    /// Something to draw by chance from, another each time.
    pub fn draw(&self) -> u32 {
        (self.next.fetch_add(1, Ordering::Relaxed) as u32).wrapping_mul(0x9e37_79b9)
    }

    fn next(&self) -> Vec<u8> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        [&self.run.0[..], &number.to_le_bytes()].concat()
    }
}

impl Door {
    /// Writes where the shard is led, also if that changes meanwhile.
    pub async fn log(&self, home: &Home, envelope: Envelope, deadline: Instant) -> Result<Outcome, String> {
        self.log_by(TurnBy::Shard, home, envelope, deadline).await
    }

    /// The same, and says who takes the turn for it if it is led here.
    pub async fn log_by(
        &self,
        turn: TurnBy,
        home: &Home,
        mut envelope: Envelope,
        deadline: Instant,
    ) -> Result<Outcome, String> {
        let mut cluster = match home.here() {
            Some(shard) => self.cluster.of(shard.clone()).turn_by(turn),
            // Who leads it says whether there is room.
            None => self.cluster.within_room(),
        };
        let begun = match home.here() {
            Some(shard) => shard.newest().clock(),
            None => self.cluster.clock_of(home.id()),
        };
        // Once nobody knows what became of an attempt, this is so until one is answered.
        let mut unknown = None;
        let mut is_here = home.here().is_some();
        loop {
            if home.leader(&cluster) != Some(cluster.me()) && envelope.origin.request_id.is_empty() {
                envelope.origin.request_id = self.request_ids.next();
            }
            let written = match is_here {
                true => cluster.write(envelope.clone(), deadline).await,
                // Far larger than the rest, and seldom needed.
                false => Box::pin(cluster.write_in(home.id(), envelope.clone(), deadline)).await,
            };
            let error = match written {
                Ok(written) => return Ok(written.outcome),
                Err(error) => error,
            };
            let (said, may_be_done) = (unwritten(&error), is_unknown(&error));
            // The shard has just left this node.
            let has_left =
                is_here && matches!(error, NotWritten::Here(WriteError::Removed)) && !cluster.catalog().is_removed();
            is_here &= !has_left;
            let again = has_left
                || is_led_elsewhere(&error)
                || (may_be_done && !envelope.origin.request_id.is_empty())
                || (unknown.is_some() && is_busy(&error));
            if may_be_done && unknown.is_none() {
                unknown = Some(said.clone());
                cluster = cluster.asked_since(begun);
            }
            if !again || Instant::now() + RETRY >= deadline {
                return Err(unknown.unwrap_or(said));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn unwritten(error: &NotWritten) -> String {
    match error {
        NotWritten::Here(WriteError::NotReady) => "LOADING the node is still reading its log".into(),
        NotWritten::Here(WriteError::MemoryFull { .. } | WriteError::NoRoom { .. }) => {
            "OOM command not allowed when used memory > 'maxmemory'.".into()
        }
        NotWritten::Here(error @ WriteError::DiskFull { .. }) => format!("MISCONF {error}"),
        NotWritten::Here(error @ WriteError::TooLarge { .. }) => format!("ERR {error}"),
        NotWritten::Here(
            error @ (WriteError::Unconfirmed { .. }
            | WriteError::Forgotten
            | WriteError::DeadlineExceeded
            | WriteError::Stopping),
        ) => format!("UNCONFIRMED {error}"),
        NotWritten::Here(error) => format!("TRYAGAIN {error}"),
        NotWritten::There(status) => {
            let failure = Failure::from_status(status);
            match failure.detail.reason.as_str() {
                "memory_full" | "no_room" => "OOM command not allowed when used memory > 'maxmemory'.".into(),
                "disk_full" => format!("MISCONF {}", failure.message),
                "unconfirmed" | "forgotten" | "deadline_exceeded" | "stopping" => {
                    format!("UNCONFIRMED {}", failure.message)
                }
                _ => format!("TRYAGAIN {}", failure.message),
            }
        }
    }
}

/// Whether nobody knows what became of it, and another node may.
fn is_unknown(error: &NotWritten) -> bool {
    match error {
        NotWritten::Here(WriteError::Unconfirmed { .. }) => true,
        NotWritten::Here(_) => false,
        NotWritten::There(status) => {
            matches!(Failure::from_status(status).detail.reason.as_str(), "unconfirmed" | "stopping")
        }
    }
}

/// Whether nothing changed, and another node leads or soon will.
fn is_led_elsewhere(error: &NotWritten) -> bool {
    match error {
        NotWritten::Here(WriteError::NotLeader { .. }) => true,
        NotWritten::Here(_) => false,
        NotWritten::There(status) => {
            let reason = Failure::from_status(status).detail.reason;
            // One that was started again is believed to lead for a moment.
            matches!(reason.as_str(), "not_leader" | "no_such_shard" | "starting" | "removed")
        }
    }
}

/// Whether nothing changed, and the same node may take it in a moment.
fn is_busy(error: &NotWritten) -> bool {
    match error {
        NotWritten::Here(error) => matches!(error, WriteError::Overloaded { .. }),
        NotWritten::There(status) => Failure::from_status(status).detail.reason == "overloaded",
    }
}
