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

use std::time::{Duration, Instant};

use loci_raft::MemberId;

use crate::shard::{Event, ShardHandle};

/// How long a member may take to come for a snapshot, and to take in what it fetched.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// What has become of a snapshot that a member comes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// It has come.
    Begins,
    /// It has all of it.
    Whole,
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

/// Those that were made and not given up.
#[derive(Debug, Default)]
pub struct Offers(Vec<Offer>);

impl Offers {
    fn of(&mut self, member: MemberId, now: Instant) -> &mut Offer {
        let at = self.0.iter().position(|offer| offer.member == member).unwrap_or_else(|| {
            self.0.push(Offer { member, fetches: 0, since: now });
            self.0.len() - 1
        });
        &mut self.0[at]
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
            Fetch::Whole | Fetch::Broken => offer.fetches = offer.fetches.saturating_sub(1),
        }
        let broken = what == Fetch::Broken && offer.fetches == 0;
        self.0.retain(|offer| !broken || offer.member != member);
        broken
    }

    /// Whether somebody fetches one just now.
    pub fn any_fetched(&self) -> bool {
        self.0.iter().any(|offer| offer.fetches > 0)
    }

    /// Members that are waited for no longer: they are to be asked where they stand.
    pub fn given_up(&mut self, now: Instant) -> Vec<MemberId> {
        let is_late = |offer: &Offer| offer.fetches == 0 && now - offer.since >= ANSWER_TIME;
        let late = self.0.iter().filter(|offer| is_late(offer)).map(|offer| offer.member).collect();
        self.0.retain(|offer| !is_late(offer));
        late
    }
}

/// A member fetches a snapshot's files, until this is gone.
pub struct Fetching {
    shard: ShardHandle,
    member: MemberId,
    whole: bool,
}

impl Fetching {
    /// It has all of them.
    pub fn has_all(mut self) {
        self.whole = true;
    }
}

impl Drop for Fetching {
    fn drop(&mut self) {
        self.shard.fetch(self.member, if self.whole { Fetch::Whole } else { Fetch::Broken });
    }
}

impl ShardHandle {
    /// Says that a member comes for the files of a snapshot.
    pub fn fetched_by(&self, member: MemberId) -> Fetching {
        self.fetch(member, Fetch::Begins);
        Fetching { shard: self.clone(), member, whole: false }
    }

    fn fetch(&self, member: MemberId, what: Fetch) {
        // A shard that has ended waits for nobody.
        let _ = self.0.events.send(Event::Fetch { member, what });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(!offers.fetch(two, Fetch::Begins, at(12)) && offers.any_fetched());
        offers.told(two, at(100));
        assert_eq!(offers.given_up(at(300)), []);
        assert!(!offers.fetch(two, Fetch::Whole, at(400)) && !offers.any_fetched());
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
        assert!(!offers.any_fetched());
        assert_eq!(offers.given_up(now + ANSWER_TIME), []);
    }
}
