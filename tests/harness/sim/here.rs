//! A shard's own thread at the log: what is small is appended and synced there, in the middle of the owner's turn.
//!
//! ```text
//!   turn --> append --> sync --> told that it is safe --> applied, answers and messages leave
//!         ^          ^        ^
//!         '----------'--------'-- the power fails, or the process is killed
//! ```
//!
//! Always: of a turn that ends within nothing leaves the machine. What was appended and not synced may be gone.

use loci_node::log_thread::Safety;
use loci_raft::{Append, Change, LogError};

use super::planted::Planted;
use super::promises::PromisingLog;
use crate::chance::Chance;

/// Of so many appends one is the last thing that a process does, while things go wrong.
const ENDS_ONE_IN: u64 = 1_500;
/// Of a hundred times so often another shard is at the log.
const BUSY_PERCENT: u64 = 35;

/// How a process ended while its shard was at the log.
#[derive(Debug)]
pub enum End {
    /// With the power.
    Power,
    /// It was killed.
    Kill,
    /// A sync failed.
    Failed(LogError),
}

/// A log, and what is known of the threads that use it.
pub struct AtLog {
    /// The log.
    pub log: PromisingLog,
    /// The log's thread syncs, or the disk is slow.
    pub busy: bool,
    /// Things go wrong.
    pub troubled: bool,
    /// What the shard's thread appended since somebody looked.
    pub appended: Vec<Append>,
    /// How often it did, and how many of these ended the process before the sync, and after it.
    pub counts: [u64; 3],
    /// How the process ended in this turn, if it did.
    pub end: Option<End>,
    chance: Chance,
    planted: Option<Planted>,
}

impl AtLog {
    /// Nobody is at the log.
    pub fn new(log: PromisingLog, chance: Chance, planted: Option<Planted>) -> AtLog {
        let (appended, counts) = (Vec::new(), [0; 3]);
        AtLog { log, busy: false, troubled: false, appended, counts, end: None, chance, planted }
    }

    /// Appends and syncs as the shard's thread does; whether that was possible, and the process lives.
    pub fn append_here(&mut self, batch: &[Append], safety: Safety) -> bool {
        // What is only to be written the log's thread syncs here, too.
        if safety != Safety::Synced || self.end.is_some() || self.busy || self.chance.percent(BUSY_PERCENT) {
            return false;
        }
        let moment = if self.troubled { self.chance.below(ENDS_ONE_IN) } else { u64::MAX };
        let end = if self.chance.percent(70) { End::Power } else { End::Kill };
        if moment == 0 {
            self.end = Some(end);
            return false;
        }
        let forgets = self.planted == Some(Planted::ForgetTheVote);
        let is_kept = |append: &&Append| !forgets || !matches!(append.change, Change::HardState(_));
        let kept: Vec<Append> = batch.iter().filter(is_kept).cloned().collect();
        match self.log.append(&kept) {
            Ok(()) => {}
            // The log's thread waits for space.
            Err(LogError::Full { .. }) => return false,
            Err(error) => {
                self.end = Some(End::Failed(error));
                return false;
            }
        }
        self.counts[0] += 1;
        self.appended.extend_from_slice(batch);
        if moment == 1 {
            self.counts[1] += 1;
            self.end = Some(end);
            return false;
        }
        if self.planted == Some(Planted::AcknowledgeHere) && self.chance.below(20) > 0 {
            return true;
        }
        self.end = match (self.log.sync(), moment) {
            (Err(error), _) => Some(End::Failed(error)),
            (Ok(()), 2) => {
                self.counts[2] += 1;
                Some(end)
            }
            (Ok(()), _) => None,
        };
        self.end.is_none()
    }
}
