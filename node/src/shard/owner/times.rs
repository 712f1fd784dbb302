//! Times: when what happened to an entry, for the traces of the writes in it.
//!
//! ```text
//!   waiting ----> proposed ----> synced here ---->|                      queue, log
//!                    '----------- committed ------'----> applied         replicate, apply
//! ```
//!
//! The member that proposed an entry knows whose writes are in it. The others read from the entry in which traces it is to be
//! found. Nothing is kept of an entry without a traced write, and nothing is looked at while no traces are exported.

use std::time::Instant;

use loci_index::command::Entry;
use loci_raft::{Proposed, Role, SyncMark};

use super::Owner;
use super::writes::{Batch, Waiter};
use crate::trace::{self, Spot};

/// Of an entry on its way.
pub(super) struct Times {
    proposed: Instant,
    /// What the log says when it is synced here.
    mark: Option<SyncMark>,
    synced: Option<Instant>,
}

/// An entry that was applied before it was synced here: a majority of others was faster.
pub(super) struct Late {
    proposed: Instant,
    mark: SyncMark,
    spots: Vec<Spot>,
}

impl Times {
    /// Of an entry that is proposed now, if anybody wants to know.
    pub fn begin(waiters: &[Waiter], now: Instant) -> Option<Times> {
        let wanted = trace::is_on() && waiters.iter().any(|waiter| waiter.spot.is_some());
        // As of the turn's beginning, unless one of them came during it.
        let proposed = waiters.iter().map(|waiter| waiter.since).fold(now, Instant::max);
        wanted.then_some(Times { proposed, mark: None, synced: None })
    }
}

impl Owner {
    /// What was proposed goes to the log, which will say so once it is synced.
    pub(super) fn note_append(&mut self, mark: SyncMark) {
        for times in self.proposed.iter_mut().filter_map(|batch| batch.times.as_mut()) {
            times.mark.get_or_insert(mark);
        }
    }

    /// The log has synced what it was given until then.
    pub(super) fn note_synced(&mut self, mark: SyncMark) {
        let now = self.now;
        for times in self.proposed.iter_mut().filter_map(|batch| batch.times.as_mut()) {
            if times.mark.is_some_and(|own| own <= mark) {
                times.synced.get_or_insert(now);
            }
        }
        for late in self.late.extract_if(.., |late| late.mark <= mark) {
            for spot in &late.spots {
                spot.step("log", late.proposed, now, []);
            }
        }
    }

    /// An entry was applied: `begun` says since when, if anything is traced.
    pub(super) fn note_applied(&mut self, applied: Proposed, data: &[u8], begun: Option<Instant>) {
        let Some(begun) = begun else { return };
        let ended = Instant::now();
        match self.proposed.iter().find(|batch| batch.proposed == applied) {
            Some(batch) => {
                let late = self.record(batch, begun, ended);
                self.late.extend(late);
            }
            None if self.replica.standing().role == Role::Leader => {}
            None => self.record_others(applied.index.0, data, begun, ended),
        }
    }

    /// What is to be recorded once the entry is synced here, if it is not.
    fn record(&self, batch: &Batch, begun: Instant, ended: Instant) -> Option<Late> {
        let times = batch.times.as_ref()?;
        let mut late = Vec::new();
        let numbers = [("loci.index", batch.proposed.index.0), ("loci.shard", self.shared.id.into())];
        let commands = [("loci.commands", batch.waiters.len() as u64)];
        for Waiter { since, spot, .. } in &batch.waiters {
            let Some(spot) = spot else { continue };
            spot.step("queue", *since, times.proposed, commands);
            let replicate = spot.step("replicate", times.proposed, begun, numbers);
            spot.step("apply", begun, ended, self.applying(batch.proposed.index.0));
            match (replicate, times.synced) {
                (Some(replicate), Some(synced)) => drop(replicate.step("log", times.proposed, synced, [])),
                (Some(replicate), None) => late.push(replicate),
                (None, _) => {}
            }
        }
        let mark = times.mark.filter(|_| !late.is_empty())?;
        Some(Late { proposed: times.proposed, mark, spots: late })
    }

    fn record_others(&self, index: u64, data: &[u8], begun: Instant, ended: Instant) {
        // What could not be read was not applied.
        let _ = Entry::access(data, |entry| {
            for envelope in entry.commands.iter() {
                if let Some(spot) = trace::of_entry(&envelope.origin.trace) {
                    spot.step("apply", begun, ended, self.applying(index));
                }
            }
        });
    }

    fn applying(&self, index: u64) -> [(&'static str, u64); 3] {
        [("loci.index", index), ("loci.shard", self.shared.id.into()), ("loci.member", self.replica.me().0)]
    }
}
