//! Offers: snapshots that members were told of, and when the leader no longer waits for what becomes of one.
//!
//! ```text
//!   told of it --> comes for it --> has it all --> says that it took it in
//!     |  ANSWER_TIME  |   breaks off   |  ANSWER_TIME  |
//!     +---------------+----------------+---------------> told again
//! ```
//!
//! A member that is told of a snapshot is told of no entries before it says that it has it, and any message can be lost. While it
//! fetches, which takes as long as it takes, nothing is lost; otherwise the leader asks after a while where it stands. One that
//! is still at it does not mind being asked.
//!
//! Asking is one thing, and what the log keeps for it another:
//!
//! ```text
//!   comes for it --> has it all --> has read it thrice and opened it --> follows the log
//!     the log is kept long  .. as long as that many bytes may take ..       |  until it has what the log keeps for everybody
//! ```
//!
//! A member says nothing while it takes in what it has, which of tens of GB takes minutes. Were the log cut meanwhile it would
//! need another snapshot, and another. One that is dead is waited for no longer than it might have taken.

use std::time::{Duration, Instant};

use loci_raft::{LogIndex, MemberId};

use crate::shard::{Event, ShardHandle};

/// How long a member may take to come for a snapshot, and to take in what it fetched.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// The log is kept for a member that takes a snapshot in so long at least, each time since more of it was heard,
const TAKE_IN_TIME: Duration = Duration::from_secs(60);
/// and a second for so many bytes of it: it reads them three times, from a disk that may be slow.
const TAKE_IN_PACE: u64 = (8 << 20) / 3;

/// What has become of a snapshot that a member comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// It has come.
    Begins,
    /// It has all of it: so many bytes, which hold everything up to this entry.
    Whole {
        /// The last entry in it.
        index: LogIndex,
        /// Of all its files.
        bytes: u64,
    },
    /// It has gone before it had all.
    Broken,
}

#[derive(Debug)]
struct Offer {
    member: MemberId,
    /// How often it is fetching just now.
    fetches: u32,
    /// Since when something is waited for.
    since: Instant,
}

/// A snapshot that a member has fetched, and that it takes in, or goes on after.
#[derive(Debug)]
struct Taking {
    member: MemberId,
    index: LogIndex,
    /// How long it may take until something is heard of it,
    time: Duration,
    /// and since when it is waited for.
    since: Instant,
    /// What it has of the log, as far as was heard.
    matched: LogIndex,
}

/// Those that were made and not given up.
#[derive(Debug, Default)]
pub struct Offers {
    made: Vec<Offer>,
    taking: Vec<Taking>,
}

impl Offers {
    fn of(&mut self, member: MemberId, now: Instant) -> &mut Offer {
        let at = self.made.iter().position(|offer| offer.member == member).unwrap_or_else(|| {
            self.made.push(Offer { member, fetches: 0, since: now });
            self.made.len() - 1
        });
        &mut self.made[at]
    }

    /// A member is told of a snapshot.
    pub fn told(&mut self, member: MemberId, now: Instant) {
        self.of(member, now).since = now;
    }

    /// A member comes for one, or goes. Whether it has to be asked where it stands at once.
    pub fn fetch(&mut self, member: MemberId, what: Fetch, now: Instant) -> bool {
        let offer = self.of(member, now);
        offer.since = now;
        match what {
            Fetch::Begins => offer.fetches += 1,
            Fetch::Whole { .. } | Fetch::Broken => offer.fetches = offer.fetches.saturating_sub(1),
        }
        let broken = what == Fetch::Broken && offer.fetches == 0;
        if let Fetch::Whole { index, bytes } = what {
            let time = TAKE_IN_TIME + Duration::from_secs(bytes / TAKE_IN_PACE);
            self.taking.retain(|taking| taking.member != member);
            self.taking.push(Taking { member, index, time, since: now, matched: LogIndex(0) });
        }
        self.made.retain(|offer| !broken || offer.member != member);
        broken
    }

    /// Whether somebody fetches one just now, or takes in what he fetched and goes on from there: he needs what the log has after
    /// it.
    pub fn any_under_way(&self) -> bool {
        !self.taking.is_empty() || self.made.iter().any(|offer| offer.fetches > 0)
    }

    /// Takes in how much of the log each member has, as far as was heard; none of one that takes no part, and of all once another
    /// leads. Who has all up to `kept`, after which the log is kept for everybody, is waited for no longer.
    pub fn heard(&mut self, matched: impl Fn(MemberId) -> Option<LogIndex>, kept: LogIndex, now: Instant) {
        self.taking.retain_mut(|taking| {
            let Some(matched) = matched(taking.member) else { return false };
            if matched > taking.matched {
                (taking.matched, taking.since) = (matched, now);
            }
            matched < taking.index.max(kept) && now - taking.since < taking.time
        });
    }

    /// Members that are waited for no longer: they are to be asked where they stand.
    pub fn given_up(&mut self, now: Instant) -> Vec<MemberId> {
        let is_late = |offer: &Offer| offer.fetches == 0 && now - offer.since >= ANSWER_TIME;
        let late = self.made.iter().filter(|offer| is_late(offer)).map(|offer| offer.member).collect();
        self.made.retain(|offer| !is_late(offer));
        late
    }
}

/// A member fetches a snapshot's files, until this is gone.
pub struct Fetching {
    shard: ShardHandle,
    member: MemberId,
    ends: Fetch,
}

impl Fetching {
    /// It has all of them: so many bytes, which hold everything up to this entry.
    pub fn has_all(mut self, index: LogIndex, bytes: u64) {
        self.ends = Fetch::Whole { index, bytes };
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.shard.fetch(self.member, self.ends);
    }
}

impl ShardHandle {
    /// Says that a member comes for the files of a snapshot.
    pub fn fetched_by(&self, member: MemberId) -> Fetching {
        self.fetch(member, Fetch::Begins);
        Fetching { shard: self.clone(), member, ends: Fetch::Broken }
    }

    fn fetch(&self, member: MemberId, what: Fetch) {
        // A shard that has ended waits for nobody.
        let _ = self.0.events.send(Event::Fetch { member, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Fetch = Fetch::Whole { index: LogIndex(100), bytes: 30 << 30 };

    #[test]
    fn a_member_is_asked_again_when_nothing_has_come_of_its_snapshot() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let (one, two) = (MemberId(1), MemberId(2));
        let mut offers = Offers::default();
        offers.told(one, at(0));
        offers.told(two, at(5));
        assert_eq!(offers.given_up(at(9)), []);
        assert_eq!(offers.given_up(at(10)), [one], "it did not come");
        assert_eq!(offers.given_up(at(11)), []);
        // However long it takes.
        assert!(!offers.fetch(two, Fetch::Begins, at(12)) && offers.any_under_way());
        offers.told(two, at(100));
        assert_eq!(offers.given_up(at(300)), []);
        assert!(!offers.fetch(two, WHOLE, at(400)));
        assert_eq!(offers.given_up(at(409)), []);
        assert_eq!(offers.given_up(at(410)), [two], "what it said was lost, or it needs longer");
    }

    #[test]
    fn one_that_broke_off_is_offered_again_at_once_unless_another_has_begun() {
        let now = Instant::now();
        let mut offers = Offers::default();
        assert!(!offers.fetch(MemberId(3), Fetch::Begins, now));
        assert!(!offers.fetch(MemberId(3), Fetch::Begins, now), "again, before the first was missed");
        assert!(!offers.fetch(MemberId(3), Fetch::Broken, now));
        assert!(offers.fetch(MemberId(3), Fetch::Broken, now));
        assert!(!offers.any_under_way());
        assert_eq!(offers.given_up(now + ANSWER_TIME), []);
    }

    #[test]
    fn the_log_is_kept_until_a_snapshot_is_taken_in_and_gone_on_from() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let (one, two) = (MemberId(1), MemberId(2));
        let mut offers = Offers::default();
        offers.told(one, at(0));
        offers.fetch(one, Fetch::Begins, at(1));
        offers.fetch(one, WHOLE, at(100));
        let heard = |offers: &mut Offers, matched: [Option<u64>; 2], kept, seconds| {
            let of = |member| matched[usize::from(member == two)].map(LogIndex);
            offers.heard(of, LogIndex(kept), at(seconds));
            offers.any_under_way()
        };
        // It says nothing while it reads thirty GiB, however often it is asked.
        for seconds in [110, 130, 1_000, 10_000] {
            offers.given_up(at(seconds));
            assert!(heard(&mut offers, [Some(3), Some(0)], 90, seconds), "after {seconds} seconds");
            offers.told(one, at(seconds));
        }
        // It has it: but not yet what was written meanwhile.
        assert!(heard(&mut offers, [Some(100), Some(0)], 5_000, 10_001));
        assert!(heard(&mut offers, [Some(4_999), Some(0)], 5_000, 10_002));
        assert!(!heard(&mut offers, [Some(5_000), Some(0)], 5_000, 10_003), "it can go on as everybody can");
        // One that is never heard of again, one that is removed, and of one that does not lead any more.
        let time = TAKE_IN_TIME.as_secs() + (30 << 30) / TAKE_IN_PACE;
        offers.fetch(two, WHOLE, at(20_000));
        assert!(heard(&mut offers, [None, Some(0)], 0, 20_000 + time - 1));
        assert!(!heard(&mut offers, [None, Some(0)], 0, 20_000 + time), "it is dead");
        offers.fetch(two, WHOLE, at(50_000));
        assert!(!heard(&mut offers, [Some(0), None], 0, 50_001));
        assert!(time < 5 * 3_600, "{time}");
    }
}
