//! Giving way: a member whose disk is full, or does not keep up, hands its lead to another.
//!
//! ```text
//!   append(mark) --> waits since then --synced(mark)--> quick: well | slow, several times in a row: gives way
//!                                    \--not for long--> stalled: gives way
//! ```
//!
//! A leader applies and answers nothing that its own disk has not taken, whatever the others have. So one bad disk of three would
//! keep all writers waiting, and would not end: the leader lives, and nobody stands against it. As a follower it costs nothing.
//!
//! Always: the lead is handed on no more often than [`AGAIN_FULL`] and [`AGAIN_SLOW`] say. Where all disks are bad it must not fly
//! round.

use std::time::{Duration, Instant};

use loci_raft::{MemberId, Role, SyncMark};

use super::Owner;

/// Between two times that the lead is handed on because the disk is full.
const AGAIN_FULL: Duration = Duration::from_secs(5);
/// The same because it is slow.
const AGAIN_SLOW: Duration = Duration::from_secs(10);
/// A sync that takes so long is waited for no longer.
const STALLED: Duration = Duration::from_millis(500);
/// A disk that takes this long,
const SLOW: Duration = Duration::from_millis(200);
/// so many times in a row, is slow.
const SLOW_TIMES: u32 = 4;

/// What a member knows of its disk.
#[derive(Debug, Default)]
pub struct Disk {
    /// The last append that is to be synced.
    newest: Option<SyncMark>,
    /// What was appended first of all that is not synced, or since when more waits after the last sync.
    waits: Option<(SyncMark, Instant)>,
    /// How many syncs in a row were slow.
    slow: u32,
    /// When the lead was last handed on because of it.
    gave_way: Option<Instant>,
}

impl Disk {
    /// Something is on its way to it.
    pub fn appended(&mut self, mark: SyncMark, now: Instant) {
        self.newest = Some(mark);
        self.waits.get_or_insert((mark, now));
    }

    /// It has what was appended until then.
    pub fn synced(&mut self, mark: SyncMark, now: Instant) {
        let Some((_, since)) = self.waits.take_if(|(waits, _)| *waits <= mark) else { return };
        self.slow = if now.saturating_duration_since(since) >= SLOW { self.slow + 1 } else { 0 };
        self.waits = self.newest.filter(|newest| *newest > mark).map(|newest| (newest, now));
    }

    /// Whether others had better not wait for it.
    fn is_bad(&self, now: Instant) -> bool {
        self.slow >= SLOW_TIMES || self.waits.is_some_and(|(_, since)| now.saturating_duration_since(since) >= STALLED)
    }

    /// When the lead was last handed on because of it.
    pub fn gave_way(&self) -> Option<Instant> {
        self.gave_way
    }
}

impl Owner {
    /// Hands the lead on, if this member has it and its disk is slow.
    pub(super) fn give_way_if_slow(&mut self) {
        if self.disk.is_bad(self.now) {
            self.give_way("slow", AGAIN_SLOW);
        }
    }

    /// The same, as the disk is full.
    pub(super) fn give_way_as_full(&mut self) {
        self.give_way("full", AGAIN_FULL);
    }

    /// Hands the lead to the member that is nearest to having everything, if there is one.
    fn give_way(&mut self, why: &str, again: Duration) {
        let leads = self.replica.standing().role == Role::Leader;
        let lately = self.disk.gave_way.is_some_and(|at| self.now - at < again);
        if !leads || lately || self.replica.hands_over() {
            return;
        }
        let Some(next) = self.fit_to_lead() else { return };
        let shard = self.shared.id;
        match self.hand_over(next) {
            Ok(()) => {
                self.disk.gave_way = Some(self.now);
                tracing::warn!(shard, member = next.0, "the disk is {why}: another member is to lead");
            }
            Err(error) => tracing::warn!(shard, %error, "the disk is {why}, and nobody takes the lead"),
        }
    }

    /// The voter that was heard of lately and has most of the log.
    fn fit_to_lead(&self) -> Option<MemberId> {
        let me = self.replica.me();
        let voters = self.replica.members().voters();
        let known = self.replica.progress().into_iter();
        let fit = known.filter(|known| {
            let active = known.silent_ticks <= super::members::ACTIVE_TICKS && known.snapshot.is_none();
            known.member != me && active && voters.contains(&known.member)
        });
        fit.max_by_key(|known| known.matched).map(|known| known.member)
    }
}
