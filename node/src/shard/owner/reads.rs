//! Reads that must be as new as every write answered before they began, and the lease that answers most of them at once.
//!
//! ```text
//!   reads -> waiting -> (one round for all that wait: who still follows me?) -> index -> (applied) -> answered
//!                                         \--> lease: until begun + LEASE nobody else can lead
//! ```
//!
//! A round asks the leader, which asks a majority, how far the log is committed; a member that follows asks its leader. One
//! round at a time is on its way, and one more may be, so that reads that come while a round is under way do not wait for
//! two.
//!
//! The lease counts from when the round **began**. A follower that answered the round votes for nobody until it has heard
//! nothing for [`ELECTION_TICKS`] of its ticks, of which the first may be as short as nothing; what is left is shortened by
//! a part for clocks that run at different rates. A member that has just started gives no vote for as long. Leadership that
//! is handed over ends the lease first. A leader without other members needs nobody's agreement: its lease has no end, and is
//! ended before a change of members is proposed.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loci_raft::{ELECTION_TICKS, Role, Term};
use tokio::sync::oneshot;

use super::{Owner, Phase, TICK};

/// How long after the beginning of a round its leader may answer reads on its own: the least time that a follower keeps its
/// promise, less a tenth, which is more than clocks differ by in a second.
const LEASE: Duration = Duration::from_millis((ELECTION_TICKS as u64 - 1) * TICK.as_millis() as u64 / 10 * 9);
/// A lease that is in use is renewed when this much of it is left.
const RENEW: Duration = Duration::from_millis(LEASE.as_millis() as u64 / 2);
/// Rounds on their way.
const ROUNDS_MAX: usize = 2;
/// The lease of a leader without other members.
pub const FOREVER: u64 = u64::MAX;

/// Who waits; told when the published view is new enough, dropped when it never will be.
pub type Reader = oneshot::Sender<()>;

/// What is known of reads.
#[derive(Default)]
pub(super) struct Reads {
    waiting: Vec<Reader>,
    /// On their way, by the number that the replica knows them by.
    rounds: BTreeMap<u64, Round>,
    rounds_asked: u64,
    /// Answered, and waiting for this entry to be applied.
    ready: BTreeMap<u64, Vec<Round>>,
}

struct Round {
    begun: Instant,
    term: Term,
    readers: Vec<Reader>,
}

impl Reads {
    /// A read waits.
    pub fn wait(&mut self, reader: Reader) {
        self.waiting.push(reader);
    }

    /// Nobody will answer these rounds: their reads wait for another.
    pub fn lost(&mut self, contexts: Vec<u64>) {
        for context in contexts {
            if let Some(round) = self.rounds.remove(&context) {
                self.waiting.extend(round.readers);
            }
        }
    }
}

impl Owner {
    /// Begins a round if anybody needs one; whether it did.
    pub(super) fn ask_for_reads(&mut self) -> bool {
        self.reads.waiting.retain(|reader| !reader.is_closed());
        let starting =
            self.shared.phase() == Phase::Starting && self.reads.rounds.is_empty() && self.reads.ready.is_empty();
        if !(starting || !self.reads.waiting.is_empty() || self.lease_wants_renewal()) {
            return false;
        }
        if self.reads.rounds.len() >= ROUNDS_MAX {
            return false;
        }
        let context = self.reads.rounds_asked;
        // Refused while nobody leads, or the leader is too new: then at the next turn.
        if self.replica.read(context).is_err() {
            return false;
        }
        self.reads.rounds_asked += 1;
        let readers = std::mem::take(&mut self.reads.waiting);
        let term = self.replica.standing().term;
        self.reads.rounds.insert(context, Round { begun: self.now, term, readers });
        true
    }

    fn lease_wants_renewal(&self) -> bool {
        let shared = &*self.shared;
        if self.replica.standing().role != Role::Leader || !shared.lease_used.load(Ordering::Relaxed) {
            return false;
        }
        let left = shared.lease.load(Ordering::Relaxed).saturating_sub(shared.clock.micros_of(self.now));
        left < RENEW.as_micros() as u64 && self.reads.rounds.is_empty() && self.reads.ready.is_empty()
    }

    /// A round was answered: reads that waited for it may be as old as this entry.
    pub(super) fn read_confirmed(&mut self, context: u64, index: u64) {
        if let Some(round) = self.reads.rounds.remove(&context) {
            self.reads.ready.entry(index).or_default().push(round);
        }
    }

    /// Answers the reads whose entry is applied.
    pub(super) fn answer_reads(&mut self) {
        while let Some(first) = self.reads.ready.first_entry()
            && *first.key() <= self.store.applied()
        {
            for round in first.remove() {
                self.extend_lease(&round);
                for reader in round.readers {
                    // It may have gone.
                    let _ = reader.send(());
                }
                if self.shared.phase() == Phase::Starting {
                    self.become_ready();
                }
            }
        }
    }

    fn extend_lease(&mut self, round: &Round) {
        let standing = self.replica.standing();
        if standing.role != Role::Leader || standing.term != round.term || !self.may_have_lease() {
            return;
        }
        let members = self.replica.members();
        // Not with learners: one of them may show an entry that this member has yet to apply.
        let alone = members.all().eq([self.replica.me()]);
        let until = if alone { FOREVER } else { self.shared.clock.micros_of(round.begun + LEASE) };
        // Renewed only if somebody uses it until then.
        self.shared.lease_used.store(false, Ordering::Relaxed);
        self.shared.lease.fetch_max(until, Ordering::Release);
    }

    /// From now on reads ask again.
    pub(super) fn end_lease(&mut self) {
        self.shared.lease.store(0, Ordering::Release);
    }
}
