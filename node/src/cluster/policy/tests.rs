//! Members change as they are to, from whatever there is, and what the shard survives never becomes less.

use std::collections::BTreeMap;

use super::*;

#[test]
fn members_come_to_be_the_holders_step_by_step_and_there_are_never_fewer_voters() {
    // From every set of members to every set of holders of five nodes; whoever is added has caught up at the next look.
    let sets: Vec<Vec<u64>> = (1_u64..32).map(|bits| (1..=5).filter(|n| bits >> (n - 1) & 1 == 1).collect()).collect();
    let all = [1, 2, 3, 4, 5].map(|member| at(member, 9, true));
    for from in &sets {
        for to in &sets {
            let mut now = members(from, &[]);
            let mut me = MemberId(from[0]);
            let mut steps = 0;
            loop {
                steps += 1;
                assert!(steps < 30, "from {from:?} to {to:?}: {now:?}");
                match towards(&now, &all, 9, to, me) {
                    Step::Change(changes) => {
                        let next = now.enter(&changes).unwrap();
                        let next = if next.joint() { next.leave() } else { next };
                        let least = now.voters().len().min(to.len());
                        assert!(next.voters().len() >= least, "from {from:?} to {to:?}: {changes:?} of {now:?}");
                        assert!(next.voters().contains(&me), "whoever leads stays: {changes:?} of {now:?}");
                        now = next;
                    }
                    Step::GiveLead => {
                        me = *now.voters().iter().find(|voter| to.contains(&voter.0)).unwrap();
                    }
                    Step::Wait => break,
                }
            }
            let mut there: Vec<u64> = now.all().map(|member| member.0).collect();
            there.sort_unstable();
            assert_eq!(there, *to, "from {from:?}: {now:?}");
            let odd = if to.len().is_multiple_of(2) { to.len() - 1 } else { to.len() };
            assert!(now.voters().len() >= odd, "from {from:?} to {to:?}: {now:?}");
        }
    }
}

#[test]
fn who_has_not_caught_up_gets_no_vote_and_takes_nobodys() {
    let behind = [at(1, 9_000, true), at(2, 9_000, true), at(3, 9_000, true), at(4, 10, true)];
    let learning = members(&[1, 2, 3], &[4]);
    assert_eq!(towards(&learning, &behind, 9_000, &[1, 2, 4], MemberId(1)), Step::Wait);
    let there = [at(1, 9_000, true), at(2, 9_000, true), at(3, 0, false), at(4, 8_500, true)];
    let changes = vec![MemberChange::Remove(MemberId(3)), MemberChange::Promote(MemberId(4))];
    assert_eq!(towards(&learning, &there, 9_000, &[1, 2, 4], MemberId(1)), Step::Change(changes));
}

fn members(voters: &[u64], learners: &[u64]) -> Members {
    let ids = |numbers: &[u64]| numbers.iter().map(|number| MemberId(*number)).collect::<Vec<_>>();
    Members::with_learners(ids(voters), ids(learners)).unwrap()
}

fn at(member: u64, matched: u64, active: bool) -> MemberProgress {
    MemberProgress { member: MemberId(member), matched, active, snapshot: false }
}

fn promote(numbers: &[u64]) -> Vec<MemberChange> {
    numbers.iter().map(|number| MemberChange::Promote(MemberId(*number))).collect()
}

fn nobody(_: MemberId) -> bool {
    false
}

fn stays(_: MemberId) -> Fate {
    Fate::Stays
}

/// Of a shard in which three are to vote, led by its first voter.
fn changes(
    members: &Members,
    progress: &[MemberProgress],
    last: u64,
    fate: impl Fn(MemberId) -> Fate,
) -> Vec<MemberChange> {
    next(&Seen { members, progress, last, me: members.voters()[0], wanted: 3 }, fate)
}

#[test]
fn who_is_drained_gives_vote_and_lead_to_others_if_there_are_any() {
    let all = [at(1, 9, true), at(2, 9, true), at(3, 9, true), at(4, 9, true), at(5, 9, true)];
    let second = |member| if member == MemberId(2) { Fate::Drained } else { Fate::Stays };
    let changed = vec![MemberChange::Demote(MemberId(2)), MemberChange::Promote(MemberId(4))];
    assert_eq!(changes(&members(&[1, 2, 3], &[4]), &all, 9, second), changed);
    assert_eq!(changes(&members(&[1, 2, 3], &[]), &all, 9, second), [], "nobody could take its place");
    assert_eq!(changes(&members(&[1, 3, 4], &[2]), &all, 9, second), []);
    assert_eq!(changes(&members(&[1], &[2, 3, 4]), &all, 9, second), promote(&[3, 4]));
    let few = |_: MemberId| 0;
    let leads = |member: MemberId| if member == MemberId(2) { usize::MAX } else { few(member) };
    let first = |member| member == MemberId(1) || member == MemberId(2);
    assert_eq!(relief(MemberId(2), &members(&[1, 2, 3], &[4]), &all, 9, leads, first), Some(MemberId(3)));
}

#[test]
fn the_number_of_voters_is_odd() {
    let all = [at(1, 5_000, true), at(2, 5_000, true), at(3, 4_900, true), at(4, 10, true), at(5, 5_000, false)];
    assert_eq!(changes(&members(&[1], &[2]), &all, 5_000, stays), []);
    assert_eq!(changes(&members(&[1], &[2, 3]), &all, 5_000, stays), promote(&[2, 3]));
    assert_eq!(changes(&members(&[1, 2], &[3]), &all, 5_000, stays), promote(&[3]));
    assert_eq!(changes(&members(&[1], &[2, 4, 5]), &all, 5_000, stays), [], "two are not caught up");
    assert_eq!(changes(&members(&[1, 2, 3], &[4]), &all, 5_000, stays), []);
}

#[test]
fn a_lead_goes_to_whoever_leads_least_and_could() {
    let all = [at(1, 9_000, true), at(2, 9_000, true), at(3, 9_000, true), at(4, 9_000, true)];
    let voters = members(&[1, 2, 3], &[4]);
    let leads = |counts: [usize; 4]| move |member: MemberId| counts[member.0 as usize - 1];
    let me = MemberId(1);
    assert_eq!(
        relief(me, &voters, &all, 9_000, leads([3, 2, 1, 0]), nobody),
        Some(MemberId(3)),
        "a learner cannot lead"
    );
    assert_eq!(relief(me, &voters, &all, 9_000, leads([2, 2, 1, 0]), nobody), None, "one more is no reason");
    let away = [at(1, 9_000, true), at(2, 9_000, true), at(3, 9_000, false)];
    assert_eq!(relief(me, &voters, &away, 9_000, leads([4, 2, 0, 0]), nobody), Some(MemberId(2)));
    let behind = [at(1, 9_000, true), at(2, 7_000, true), at(3, 9_000, false)];
    assert_eq!(relief(me, &voters, &behind, 9_000, leads([4, 0, 0, 0]), nobody), None);
}

#[test]
fn a_voter_that_is_absent_is_replaced_by_one_that_is_ready() {
    let absent = |member| if member == MemberId(2) { Fate::Absent } else { Fate::Stays };
    let gone = |member| if member == MemberId(2) { Fate::Gone } else { Fate::Stays };
    let all = [at(1, 9, true), at(2, 3, false), at(3, 9, true), at(4, 9, true)];
    let replaced = vec![MemberChange::Demote(MemberId(2)), MemberChange::Promote(MemberId(4))];
    assert_eq!(changes(&members(&[1, 2, 3], &[4]), &all, 9, absent), replaced);
    assert_eq!(changes(&members(&[1, 2, 3], &[]), &all, 9, absent), [], "nobody could take its place");
    let removed = vec![MemberChange::Remove(MemberId(2)), MemberChange::Promote(MemberId(4))];
    assert_eq!(changes(&members(&[1, 2, 3], &[4]), &all, 9, gone), removed);
}

#[test]
fn who_has_nothing_yet_keeps_nobody_from_voting() {
    // Nobody reaches member 2, which the leader hears all the same.
    let all = [at(1, 34, true), at(2, 0, true), at(3, 33, true), at(4, 34, true)];
    assert_eq!(changes(&members(&[1], &[2, 3, 4]), &all, 34, stays), promote(&[4, 3]));
    assert_eq!(changes(&members(&[1], &[2, 3]), &all, 34, stays), [], "one of two that vote is no gain");
    let step = towards(&members(&[1], &[2, 3]), &all, 34, &[1, 2, 3], MemberId(1));
    assert_eq!(step, Step::Wait);
}

fn demote(numbers: &[u64]) -> Vec<MemberChange> {
    numbers.iter().map(|number| MemberChange::Demote(MemberId(*number))).collect()
}

#[test]
fn five_vote_if_five_are_to_and_three_again_if_three_are() {
    let all = [1, 2, 3, 4, 5, 6].map(|member| at(member, 9, true));
    let of = |wanted: usize, now: &Members, fate: &dyn Fn(MemberId) -> Fate| {
        next(&Seen { members: now, progress: &all, last: 9, me: MemberId(1), wanted }, fate)
    };
    let five = |now: &Members| of(5, now, &stays);
    assert_eq!(five(&members(&[1, 2, 3], &[4, 5, 6])), promote(&[4, 5]));
    assert_eq!(five(&members(&[1], &[2, 3, 4, 5])), promote(&[2, 3, 4, 5]));
    assert_eq!(five(&members(&[1, 2, 3], &[4])), [], "four survive no more than three");
    assert_eq!(five(&members(&[1, 2, 3, 4], &[5])), promote(&[5]));
    assert_eq!(five(&members(&[1, 2, 3, 4], &[])), demote(&[4]), "nor do they need one less");
    assert_eq!(five(&members(&[1, 2], &[])), [], "two stay two");
    let three = |now: &Members, fate: &dyn Fn(MemberId) -> Fate| of(3, now, fate);
    assert_eq!(three(&members(&[1, 2, 3, 4, 5], &[]), &stays), demote(&[5, 4]));
    let second = |member| if member == MemberId(2) { Fate::Drained } else { Fate::Stays };
    assert_eq!(three(&members(&[1, 2, 3, 4, 5], &[]), &second), demote(&[2, 5]), "who is drained goes first");
    // Of five one is drained, or two are dead, and there is nobody else.
    assert_eq!(of(5, &members(&[1, 2, 3, 4, 5], &[]), &second), demote(&[2, 5]));
    let dead = |member: MemberId| if member.0 <= 3 { Fate::Stays } else { Fate::Absent };
    assert_eq!(of(5, &members(&[1, 2, 3, 4, 5], &[]), &dead), demote(&[5, 4]));
    let one = |member| if member == MemberId(4) { Fate::Absent } else { Fate::Stays };
    assert_eq!(of(5, &members(&[1, 2, 3, 4, 5], &[]), &one), [], "four of five survive one, as three would");
}

/// A generator of numbers that repeat with their seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }
}

/// How a member of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Well,
    Drained,
    /// Not heard of just now.
    Away,
    /// Not heard of for long.
    Dead,
}

/// A shard that every node has, one of whose members leads it.
#[derive(Debug)]
struct Model {
    members: Members,
    states: BTreeMap<u64, State>,
    me: u64,
    wanted: usize,
}

impl Model {
    fn is_up(&self, member: MemberId) -> bool {
        matches!(self.states[&member.0], State::Well | State::Drained)
    }

    /// How many more may die; negative: nobody leads. Who is drained is as good as gone, unless that leaves no majority.
    fn spare(&self, members: &Members, state: impl Fn(State) -> bool) -> i64 {
        let voters = members.voters();
        let counted = voters.iter().filter(|voter| state(self.states[&voter.0])).count();
        counted as i64 - (voters.len() as i64 / 2 + 1)
    }

    fn changes(&self) -> Vec<MemberChange> {
        let progress: Vec<MemberProgress> = self.members.all().map(|m| at(m.0, 9, self.is_up(m))).collect();
        let fate = |member: MemberId| match self.states[&member.0] {
            State::Dead => Fate::Absent,
            State::Drained => Fate::Drained,
            State::Well | State::Away => Fate::Stays,
        };
        let me = MemberId(self.me);
        next(&Seen { members: &self.members, progress: &progress, last: 9, me, wanted: self.wanted }, fate)
    }

    /// Somebody leads who can; who is drained gives it to another.
    fn elect(&mut self) {
        let voters = self.members.voters();
        let up = |state| voters.iter().find(|voter| self.states[&voter.0] == state);
        if !voters.contains(&MemberId(self.me)) || self.states[&self.me] != State::Well {
            self.me = up(State::Well).or(up(State::Drained)).expect("a majority is up").0;
        }
    }

    fn leads(&self) -> bool {
        self.spare(&self.members, |state| matches!(state, State::Well | State::Drained)) >= 0
    }

    /// Makes changes until there are none.
    fn settle(&mut self, seed: u64) {
        for step in 0.. {
            assert!(step < 12, "seed {seed}: it does not come to an end: {self:?}");
            self.elect();
            let changes = self.changes();
            if changes.is_empty() {
                return;
            }
            let entered =
                self.members.enter(&changes).unwrap_or_else(|error| panic!("seed {seed}: {error}: {changes:?}"));
            let after = if entered.joint() { entered.leave() } else { entered };
            let before = &self.members;
            let what = || format!("seed {seed}: {changes:?} of {self:?}");
            let least = before.voters().len().min(3).min(self.wanted);
            assert!(after.voters().len() >= least, "fewer than three: {}", what());
            assert!(after.voters().len() <= before.voters().len().max(self.wanted), "too many: {}", what());
            assert!(
                !changes.contains(&MemberChange::Demote(MemberId(self.me))) || self.states[&self.me] != State::Well
            );
            for state in [&(|state| state == State::Well) as &dyn Fn(State) -> bool, &|state| {
                matches!(state, State::Well | State::Drained)
            }] {
                let target = (self.wanted as i64 - 1) / 2;
                let drains = self.states.values().any(|state| *state == State::Drained);
                // Of five with one drained no more is to be survived than of three.
                let target = if drains { target.min(1) } else { target };
                let (now, then) = (self.spare(before, state), self.spare(&after, state));
                assert!(then >= now.min(target), "it survives less, {then} and not {now}: {}", what());
            }
            self.members = after;
        }
    }

    /// Nothing more could be done.
    fn check(&self, seed: u64) {
        let voters = self.members.voters();
        let well = self.members.all().filter(|member| self.states[&member.0] == State::Well).count();
        let what = || format!("seed {seed}: {self:?}");
        assert!(voters.len() <= self.wanted && (voters.len() % 2 == 1 || voters.len() == 2), "{}", what());
        let unfit = |state: State| matches!(state, State::Drained | State::Dead);
        let spare = self.members.learners().iter().any(|learner| self.states[&learner.0] == State::Well);
        let bad = voters.iter().any(|voter| unfit(self.states[&voter.0]));
        assert!(!(bad && spare && voters.len() >= 3), "somebody could take its place: {}", what());
        let away = voters.iter().filter(|voter| matches!(self.states[&voter.0], State::Away | State::Dead)).count();
        if well + away >= self.wanted && well >= 3 {
            let waits = self.members.learners().iter().filter(|l| self.states[&l.0] == State::Well).count();
            assert!(voters.len() == self.wanted || voters.len() + waits <= 4, "more could vote: {}", what());
        }
    }
}

#[test]
fn from_whatever_there_is_those_vote_that_are_to_and_nothing_is_survived_less() {
    for seed in 0..20_000_u64 {
        let mut dice = Dice(seed);
        let count = 1 + dice.below(8) as u64;
        let voting = 1 + dice.below(count.min(6) as usize) as u64;
        let numbers = |range: std::ops::RangeInclusive<u64>| range.collect::<Vec<_>>();
        let mut model = Model {
            members: members(&numbers(1..=voting), &numbers(voting + 1..=count)),
            states: (1..=count).map(|member| (member, State::Well)).collect(),
            me: 1,
            wanted: [3, 5][dice.below(2)],
        };
        for _ in 0..6 {
            let all: Vec<u64> = model.members.all().map(|member| member.0).collect();
            let member = all[dice.below(all.len())];
            let before = model.states[&member];
            match dice.below(7) {
                0 => model.wanted = 8 - model.wanted,
                1 => {
                    let new = model.states.last_key_value().unwrap().0 + 1;
                    model.states.insert(new, State::Well);
                    model.members = model.members.enter(&[MemberChange::AddLearner(MemberId(new))]).unwrap().leave();
                }
                2 => drop(model.states.insert(member, State::Drained)),
                3 => drop(model.states.insert(member, State::Away)),
                4 => drop(model.states.insert(member, State::Dead)),
                _ => drop(model.states.insert(member, State::Well)),
            }
            if !model.leads() {
                model.states.insert(member, before);
            }
            model.settle(seed);
            model.check(seed);
        }
    }
}
