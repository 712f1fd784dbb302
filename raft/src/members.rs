//! Who takes part in a shard.
//!
//! Learners and the two-step change of members (joint consensus) are in the type and in the formats;
//! so far a shard keeps the voters it was founded with.

use std::collections::BTreeSet;

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
    auto_leave: bool,
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
    /// Bytes that do not describe members.
    #[error("the description of the members is damaged")]
    Damaged,
}

impl Members {
    /// The members of a new shard, all of them voters.
    pub fn voting(voters: impl IntoIterator<Item = MemberId>) -> Result<Members, MembersError> {
        Members::new(voters.into_iter().collect(), vec![], vec![], vec![], false)
    }

    pub(crate) fn new(
        mut voters: Vec<MemberId>,
        mut learners: Vec<MemberId>,
        mut voters_outgoing: Vec<MemberId>,
        mut learners_next: Vec<MemberId>,
        auto_leave: bool,
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
        if learners_next.iter().any(|member| !outgoing.contains(member)) {
            return Err(MembersError::Damaged);
        }
        if auto_leave && voters_outgoing.is_empty() {
            return Err(MembersError::Damaged);
        }
        Ok(Members { voters, learners, voters_outgoing, learners_next, auto_leave })
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

    pub(crate) fn auto_leave(&self) -> bool {
        self.auto_leave
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

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        for list in lists {
            // At most MEMBERS_MAX, so a byte holds each count.
            out.push(list.len() as u8);
        }
        out.extend([u8::from(self.auto_leave), 0, 0, 0]);
        for member in lists.into_iter().flatten() {
            out.extend(member.0.to_le_bytes());
        }
    }

    pub(crate) fn encoded_bytes(&self) -> usize {
        let lists = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        8 + 8 * lists.into_iter().map(Vec::len).sum::<usize>()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Members, MembersError> {
        let Some((head, numbers)) = bytes.split_first_chunk::<8>() else {
            return Err(MembersError::Damaged);
        };
        let [voters, learners, outgoing, next, auto_leave, 0, 0, 0] = *head else {
            return Err(MembersError::Damaged);
        };
        let (numbers, rest) = numbers.as_chunks::<8>();
        let counts = [voters, learners, outgoing, next].map(usize::from);
        if !rest.is_empty() || numbers.len() != counts.iter().sum::<usize>() || auto_leave > 1 {
            return Err(MembersError::Damaged);
        }
        let mut numbers = numbers.iter().map(|number| MemberId(u64::from_le_bytes(*number)));
        let [voters, learners, outgoing, next] = counts.map(|count| numbers.by_ref().take(count).collect::<Vec<_>>());
        Members::new(voters, learners, outgoing, next, auto_leave == 1)
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
        let joint = Members::new(members(&[3, 1]), members(&[9]), members(&[1, 2]), members(&[2]), true).unwrap();
        let mut bytes = vec![];
        joint.encode(&mut bytes);
        assert_eq!(bytes.len(), joint.encoded_bytes());
        assert_eq!(Members::decode(&bytes), Ok(joint));
        for end in 0..bytes.len() {
            assert!(Members::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
