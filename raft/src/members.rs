//! Who takes part in a shard, and how one set of members becomes another.
//!
//! ```text
//!                enter                                  leave
//!   voters 1 2 3 -----> voters 1 2 4, outgoing 1 2 3   -----> voters 1 2 4
//!   learner 4           both majorities must agree
//! ```
//!
//! Every change takes these two steps (joint consensus), also one that would be safe in a single step:
//! one way to do it is one way to get wrong. Each step is an entry that carries the members that result
//! from it whole, not what is different, so that whoever reads it knows where it led.
//!
//! Bytes, little-endian, in entries, messages and the log alike:
//!
//! ```text
//! 0        1          2          3              4      8
//! | voters | learners | outgoing | learners next| 0000 | numbers u64, one list after the other, ascending |
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::entry::MemberId;

/// The most members of all kinds that one shard can have.
pub const MEMBERS_MAX: usize = 64;

/// The members of a shard; always at least one voter, and no number twice in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    voters: Vec<MemberId>,
    learners: Vec<MemberId>,
    voters_outgoing: Vec<MemberId>,
    learners_next: Vec<MemberId>,
}

/// One part of a change of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member follows, without a vote.
    AddLearner(MemberId),
    /// A learner gets a vote.
    Promote(MemberId),
    /// A voter becomes a learner.
    Demote(MemberId),
    /// A member of any kind takes part no more. If its number comes again, it comes with nothing.
    Remove(MemberId),
}

impl MemberChange {
    /// Whom it is about.
    pub fn member(self) -> MemberId {
        let (MemberChange::AddLearner(member)
        | MemberChange::Promote(member)
        | MemberChange::Demote(member)
        | MemberChange::Remove(member)) = self;
        member
    }
}

/// What a member is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its agreement counts.
    Voter,
    /// It follows.
    Learner,
    /// It takes no part any more, but the others may not all know, and may still need its word: it must
    /// be kept running until it is [`Part::Removed`].
    Leaving,
    /// It takes no part.
    Removed,
}

/// Why a set of members cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// Nobody could ever agree on anything.
    #[error("a shard needs at least one voter")]
    NoVoters,
    /// 0 stands for nobody.
    #[error("member 0 does not exist; numbers begin at 1")]
    Zero,
    /// The same member twice where it may be once.
    #[error("member {0} is named twice")]
    Twice(MemberId),
    /// More than a shard can have.
    #[error("{0} members are more than {MEMBERS_MAX}")]
    TooMany(usize),
    /// A change of nothing.
    #[error("a change of members must change something")]
    Nothing,
    /// Added, but a member already.
    #[error("member {0} takes part already")]
    Already(MemberId),
    /// To be changed, but no member.
    #[error("member {0} takes no part in the shard")]
    Unknown(MemberId),
    /// Promoted, but not a learner.
    #[error("member {0} is not a learner; add it as one and let it catch up first")]
    NotALearner(MemberId),
    /// Demoted, but not a voter.
    #[error("member {0} is not a voter")]
    NotAVoter(MemberId),
    /// The last change has not ended.
    #[error("another change of members is under way")]
    UnderWay,
    /// Bytes that do not describe members.
    #[error("the description of the members is damaged")]
    Damaged,
}

impl Members {
    /// The members of a new shard, all of them voters.
    pub fn voting(voters: impl IntoIterator<Item = MemberId>) -> Result<Members, MembersError> {
        Members::new(voters.into_iter().collect(), vec![], vec![], vec![])
    }

    /// Voters, and learners beside them.
    pub fn with_learners(
        voters: impl IntoIterator<Item = MemberId>,
        learners: impl IntoIterator<Item = MemberId>,
    ) -> Result<Members, MembersError> {
        Members::new(voters.into_iter().collect(), learners.into_iter().collect(), vec![], vec![])
    }

    pub(crate) fn new(
        mut voters: Vec<MemberId>,
        mut learners: Vec<MemberId>,
        mut voters_outgoing: Vec<MemberId>,
        mut learners_next: Vec<MemberId>,
    ) -> Result<Members, MembersError> {
        let count = voters.len() + learners.len() + voters_outgoing.len() + learners_next.len();
        if count > MEMBERS_MAX {
            return Err(MembersError::TooMany(count));
        }
        if voters.is_empty() {
            return Err(MembersError::NoVoters);
        }
        for list in [&mut voters, &mut learners, &mut voters_outgoing, &mut learners_next] {
            list.sort_unstable();
        }
        // A member may be a voter of the old and the new set; it is a learner or a voter, not both.
        let mut incoming = BTreeSet::new();
        for member in voters.iter().chain(&learners) {
            if member.0 == 0 {
                return Err(MembersError::Zero);
            }
            if !incoming.insert(*member) {
                return Err(MembersError::Twice(*member));
            }
        }
        let mut outgoing = BTreeSet::new();
        for member in &voters_outgoing {
            if member.0 == 0 {
                return Err(MembersError::Zero);
            }
            if !outgoing.insert(*member) || learners.contains(member) {
                return Err(MembersError::Twice(*member));
            }
        }
        for pair in learners_next.windows(2) {
            if pair[0] == pair[1] {
                return Err(MembersError::Twice(pair[0]));
            }
        }
        // Who becomes a learner was a voter of the old set and is none of the new.
        if learners_next.iter().any(|member| !outgoing.contains(member) || incoming.contains(member)) {
            return Err(MembersError::Damaged);
        }
        Ok(Members { voters, learners, voters_outgoing, learners_next })
    }

    /// Whether somebody else than this member votes, and so has what is agreed on, or nearly.
    pub fn votes_another(&self, me: MemberId) -> bool {
        self.voters().iter().any(|voter| *voter != me)
    }

    /// Those whose agreement counts, in ascending order.
    pub fn voters(&self) -> &[MemberId] {
        &self.voters
    }

    /// Those who follow without a vote.
    pub fn learners(&self) -> &[MemberId] {
        &self.learners
    }

    /// During a change of members: the voters of the old set.
    pub fn voters_outgoing(&self) -> &[MemberId] {
        &self.voters_outgoing
    }

    pub(crate) fn learners_next(&self) -> &[MemberId] {
        &self.learners_next
    }

    /// Whether a change is half done, so that both the old and the new voters must agree.
    pub fn joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// What a member is entitled to.
    pub fn part(&self, member: MemberId) -> Part {
        if self.voters.contains(&member) || self.voters_outgoing.contains(&member) {
            Part::Voter
        } else if self.learners.contains(&member) {
            Part::Learner
        } else {
            Part::Removed
        }
    }

    /// Whether this member's agreement is all that it takes.
    pub fn only_voter(&self, member: MemberId) -> bool {
        self.voters == [member] && (self.voters_outgoing.is_empty() || self.voters_outgoing == [member])
    }

    /// The first step of a change: these members, while the old voters still have their say.
    pub fn enter(&self, changes: &[MemberChange]) -> Result<Members, MembersError> {
        if self.joint() {
            return Err(MembersError::UnderWay);
        }
        if changes.is_empty() {
            return Err(MembersError::Nothing);
        }
        let mut voters: BTreeSet<MemberId> = self.voters.iter().copied().collect();
        let mut learners: BTreeSet<MemberId> = self.learners.iter().copied().collect();
        let mut learners_next = Vec::new();
        let mut named = BTreeSet::new();
        for change in changes {
            let member = change.member();
            if member.0 == 0 {
                return Err(MembersError::Zero);
            }
            if !named.insert(member) {
                return Err(MembersError::Twice(member));
            }
            let part = self.part(member);
            match change {
                MemberChange::AddLearner(_) if part != Part::Removed => return Err(MembersError::Already(member)),
                MemberChange::AddLearner(_) => drop(learners.insert(member)),
                _ if part == Part::Removed => return Err(MembersError::Unknown(member)),
                MemberChange::Promote(_) if part != Part::Learner => return Err(MembersError::NotALearner(member)),
                MemberChange::Promote(_) => {
                    learners.remove(&member);
                    voters.insert(member);
                }
                MemberChange::Demote(_) if part != Part::Voter => return Err(MembersError::NotAVoter(member)),
                MemberChange::Demote(_) => {
                    voters.remove(&member);
                    learners_next.push(member);
                }
                MemberChange::Remove(_) => {
                    voters.remove(&member);
                    learners.remove(&member);
                }
            }
        }
        let (voters, learners) = (voters.into_iter().collect(), learners.into_iter().collect());
        Members::new(voters, learners, self.voters.clone(), learners_next)
    }

    /// The second step: the new voters alone. The same members, if no change is half done.
    pub fn leave(&self) -> Members {
        let mut learners = self.learners.clone();
        learners.extend(&self.learners_next);
        learners.sort_unstable();
        Members { voters: self.voters.clone(), learners, voters_outgoing: vec![], learners_next: vec![] }
    }

    /// Whether an entry may lead from these members to those.
    pub(crate) fn precedes(&self, next: &Members) -> bool {
        if self.joint() { *next == self.leave() } else { next.voters_outgoing == self.voters }
    }

    /// Whether a member takes part in any role.
    pub fn contains(&self, member: MemberId) -> bool {
        [&self.voters, &self.learners, &self.voters_outgoing].into_iter().any(|list| list.contains(&member))
    }

    /// Everyone who takes part, in ascending order, each once.
    pub fn all(&self) -> impl Iterator<Item = MemberId> + use<> {
        let all: BTreeSet<MemberId> =
            self.voters.iter().chain(&self.learners).chain(&self.voters_outgoing).copied().collect();
        all.into_iter()
    }

    /// Appends the bytes that stand for these members.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        for list in lists {
            // At most MEMBERS_MAX, so a byte holds each count.
            out.push(list.len() as u8);
        }
        out.extend([0; 4]);
        for member in lists.into_iter().flatten() {
            out.extend(member.0.to_le_bytes());
        }
    }

    /// The bytes that stand for these members.
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(self.encoded_bytes());
        self.encode(&mut bytes);
        Bytes::from(bytes)
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        8 + 8 * lists.into_iter().map(Vec::len).sum::<usize>()
    }

    /// The members that some bytes stand for.
    pub fn decode(bytes: &[u8]) -> Result<Members, MembersError> {
        let Some((head, numbers)) = bytes.split_first_chunk::<8>() else {
            return Err(MembersError::Damaged);
        };
        let [voters, learners, outgoing, next, 0, 0, 0, 0] = *head else {
            return Err(MembersError::Damaged);
        };
        let (numbers, rest) = numbers.as_chunks::<8>();
        let counts = [voters, learners, outgoing, next].map(usize::from);
        if !rest.is_empty() || numbers.len() != counts.iter().sum::<usize>() {
            return Err(MembersError::Damaged);
        }
        let mut numbers = numbers.iter().map(|number| MemberId(u64::from_le_bytes(*number)));
        let [voters, learners, outgoing, next] = counts.map(|count| numbers.by_ref().take(count).collect::<Vec<_>>());
        Members::new(voters, learners, outgoing, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(numbers: &[u64]) -> Vec<MemberId> {
        numbers.iter().map(|number| MemberId(*number)).collect()
    }

    #[test]
    fn impossible_members_are_refused() {
        assert_eq!(Members::voting([]), Err(MembersError::NoVoters));
        assert_eq!(Members::voting(members(&[0])), Err(MembersError::Zero));
        assert_eq!(Members::voting(members(&[3, 3])), Err(MembersError::Twice(MemberId(3))));
        assert_eq!(Members::voting((1..66).map(MemberId)), Err(MembersError::TooMany(65)));
    }

    #[test]
    fn members_come_back_from_their_bytes() {
        let joint = Members::new(members(&[3, 1]), members(&[9]), members(&[1, 2]), members(&[2])).unwrap();
        let mut bytes = vec![];
        joint.encode(&mut bytes);
        assert_eq!(bytes.len(), joint.encoded_bytes());
        assert_eq!(Members::decode(&bytes), Ok(joint));
        for end in 0..bytes.len() {
            assert!(Members::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_change_passes_through_both_sets_of_voters() {
        use MemberChange::{AddLearner, Demote, Promote, Remove};
        let id = MemberId;
        let before = Members::with_learners(members(&[1, 2, 3]), members(&[4])).unwrap();
        let joint = before.enter(&[Promote(id(4)), Remove(id(3)), Demote(id(2)), AddLearner(id(5))]).unwrap();
        assert_eq!(joint, Members::new(members(&[1, 4]), members(&[5]), members(&[1, 2, 3]), members(&[2])).unwrap());
        assert!(joint.joint() && before.precedes(&joint) && joint.precedes(&joint.leave()));
        assert_eq!(joint.leave(), Members::with_learners(members(&[1, 4]), members(&[2, 5])).unwrap());
        assert_eq!(joint.part(id(3)), Part::Voter, "until the change has ended");
        assert_eq!(joint.leave().part(id(3)), Part::Removed);
        assert!(!before.precedes(&joint.leave()) && !joint.precedes(&before));
        assert_eq!(joint.enter(&[Remove(id(1))]), Err(MembersError::UnderWay));
    }

    #[test]
    fn impossible_changes_are_refused() {
        use MemberChange::{AddLearner, Demote, Promote, Remove};
        let id = MemberId;
        let now = Members::with_learners(members(&[1]), members(&[2])).unwrap();
        for (changes, error) in [
            (vec![], MembersError::Nothing),
            (vec![Remove(id(1))], MembersError::NoVoters),
            (vec![Demote(id(1))], MembersError::NoVoters),
            (vec![Remove(id(7))], MembersError::Unknown(id(7))),
            (vec![Promote(id(7))], MembersError::Unknown(id(7))),
            (vec![Promote(id(1))], MembersError::NotALearner(id(1))),
            (vec![Demote(id(2))], MembersError::NotAVoter(id(2))),
            (vec![AddLearner(id(2))], MembersError::Already(id(2))),
            (vec![AddLearner(id(0))], MembersError::Zero),
            (vec![AddLearner(id(3)), Promote(id(3))], MembersError::Twice(id(3))),
            ((3..70).map(|number| AddLearner(id(number))).collect(), MembersError::TooMany(70)),
        ] {
            assert_eq!(now.enter(&changes), Err(error), "{changes:?}");
        }
    }

    #[test]
    fn bytes_that_the_core_would_stop_at_are_refused() {
        let of = |lists: [&[u64]; 4]| {
            let mut bytes: Vec<u8> = lists.iter().map(|list| list.len() as u8).collect();
            bytes.extend([0; 4]);
            bytes.extend(lists.into_iter().flatten().flat_map(|number| number.to_le_bytes()));
            Members::decode(&bytes)
        };
        assert!(of([&[1], &[2], &[1, 3], &[3]]).is_ok());
        for wrong in [
            [&[1_u64][..], &[], &[1], &[1]],
            [&[1], &[3], &[1, 3], &[3]],
            [&[1], &[], &[1], &[4]],
            [&[1], &[], &[], &[1]],
            [&[], &[], &[1], &[]],
            [&[1], &[1], &[], &[]],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        let mut bytes = Members::voting(members(&[1])).unwrap().to_bytes().to_vec();
        bytes[4] = 1;
        assert_eq!(Members::decode(&bytes), Err(MembersError::Damaged));
    }
}
