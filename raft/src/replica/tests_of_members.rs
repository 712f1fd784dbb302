//! Changes of members on one replica, case by case. Whole clusters change in `tests/cluster`.

use super::tests::{Bench, SHARD, founded, options};
use super::*;
use crate::members::{MemberChange, MembersError};

const TWO: MemberId = MemberId(2);

/// A single member that leads, has committed entry 6, and has added learner 2.
fn with_learner() -> Bench {
    let mut bench = Bench::new(1);
    bench.settle();
    bench.replica.change_members(&[MemberChange::AddLearner(TWO)]).unwrap();
    bench.settle();
    bench.settle();
    bench
}

fn changes(bench: &Bench) -> Vec<(u64, bool)> {
    bench.changed.iter().map(|changed| (changed.index.0, changed.members.joint())).collect()
}

#[test]
fn a_change_takes_two_entries_and_is_left_by_itself() {
    let bench = with_learner();
    assert_eq!(changes(&bench), [(7, true), (8, false)]);
    assert_eq!(bench.replica.members().learners(), [TWO]);
    assert!(bench.committed.iter().all(|entry| entry.data.is_empty()), "changes of members are not for the store");
    assert_eq!(bench.log.shard(SHARD).unwrap().changes, [LogIndex(7), LogIndex(8)]);
    assert_eq!(bench.replica.members_at(LogIndex(6)).unwrap().learners(), []);
    assert!(bench.replica.members_at(LogIndex(7)).unwrap().joint());
    assert_eq!(bench.replica.members_at(LogIndex(99)), None);
}

#[test]
fn changes_are_refused_with_a_reason() {
    let mut bench = Bench::new(3);
    let add = [MemberChange::AddLearner(MemberId(4))];
    assert_eq!(bench.replica.change_members(&add), Err(ChangeError::NotLeader { leader: None }));
    bench.lead();
    assert_eq!(bench.replica.change_members(&add), Err(ChangeError::TooNew));
    bench.acknowledge(6);
    assert_eq!(bench.replica.change_members(&[]), Err(MembersError::Nothing.into()));
    let unknown = [MemberChange::Remove(MemberId(9))];
    assert_eq!(bench.replica.change_members(&unknown), Err(MembersError::Unknown(MemberId(9)).into()));
    bench.replica.change_members(&add).unwrap();
    assert_eq!(bench.replica.change_members(&add), Err(ChangeError::UnderWay), "before it is committed");
    bench.settle();
    bench.acknowledge(7);
    assert!(bench.replica.members().joint());
    assert_eq!(bench.replica.change_members(&add), Err(ChangeError::UnderWay), "before it has ended");
    bench.settle();
    bench.acknowledge(8);
    assert!(!bench.replica.members().joint());
    let promote = [MemberChange::Promote(MemberId(4))];
    let behind =
        ChangeError::NotCaughtUp { member: MemberId(4), matched: LogIndex(0), last: bench.replica.last_index() };
    assert_eq!(bench.replica.change_members(&promote), Err(behind));
    bench.replica.transfer(TWO).unwrap();
    assert_eq!(bench.replica.change_members(&promote), Err(ChangeError::Transferring));
}

#[test]
fn a_change_that_would_leave_too_few_living_voters_is_refused() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    // Member 3 says nothing for long, member 2 does.
    for _ in 0..3 * ELECTION_TICKS {
        bench.replica.tick();
        let alive = Message { index: LogIndex(6), ..bench.message(MessageKind::HeartbeatResponse, 6) };
        bench.replica.receive(alive).unwrap();
        bench.settle();
    }
    let progress = bench.replica.progress();
    assert_eq!(progress.iter().map(|progress| progress.member.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((progress[1].silent_ticks, progress[2].silent_ticks), (0, 3 * ELECTION_TICKS));
    let wrong = bench.replica.change_members(&[MemberChange::Remove(TWO)]);
    assert_eq!(wrong, Err(ChangeError::NoQuorum { alive: 1, needed: 2 }));
    bench.replica.change_members(&[MemberChange::Remove(MemberId(3))]).unwrap();
}

#[test]
fn a_restarted_member_has_the_members_as_of_its_store_and_takes_later_steps_again() {
    for applied in 5..=9 {
        let bench = with_learner().restart(applied).unwrap();
        let state = bench.log.shard(SHARD).unwrap();
        let replica = Replica::restore(options(1, applied), &state, bench.log.reader(SHARD).unwrap()).unwrap();
        let members = replica.members();
        assert_eq!(members.joint(), applied == 7, "{applied}");
        assert_eq!(members.contains(TWO), applied >= 7, "{applied}");
        let mut bench = bench;
        for _ in 0..3 {
            bench.settle();
        }
        let again = changes(&bench);
        let expected: Vec<_> = [(7, true), (8, false)].into_iter().filter(|(index, _)| *index > applied).collect();
        assert_eq!(again, expected, "{applied}");
        assert_eq!(bench.replica.members().learners(), [TWO]);
        assert!(bench.replica.standing().settled, "the only voter leads at once");
    }
}

/// Should the term be lost with the power, the same member would lead it again, with other entries.
#[test]
fn nothing_of_a_term_leaves_its_only_voter_before_the_term_is_on_the_disk() {
    let mut bench = with_learner().restart(8).unwrap();
    bench.replica.propose("a").unwrap();
    let heard = Message { index: LogIndex(8), ..bench.message(MessageKind::AppendResponse, 7) };
    bench.replica.receive(heard).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(effects.send.is_empty());
    bench.log.append(&effects.append).unwrap();
    bench.log.sync().unwrap();
    bench.replica.synced(effects.sync.unwrap());
    let sent = bench.replica.effects().unwrap().send;
    assert!(sent.iter().any(|message| message.kind() == MessageKind::Append), "{sent:?}");
}

#[test]
fn what_is_forgotten_leaves_the_members_behind() {
    let mut bench = with_learner();
    bench.replica.forget(LogIndex(7));
    bench.replica.forget(LogIndex(8));
    bench.settle();
    let state = bench.log.shard(SHARD).unwrap();
    assert_eq!((state.start, state.members.learners(), &state.changes[..]), (LogIndex(8), &[TWO][..], &[][..]));
    let bench = bench.restart(8).unwrap();
    assert_eq!(bench.replica.members().learners(), [TWO]);
}

/// A step in the log says that the one before it is committed, whatever the hard state says.
#[test]
fn a_step_proves_that_the_step_before_it_is_committed() {
    let (_, mut log) = founded(3);
    let founders = log.shard(SHARD).unwrap().members;
    let enter = founders.enter(&[MemberChange::Remove(MemberId(3))]).unwrap();
    let entry = |index, members: &Members| Append {
        shard: SHARD,
        change: Change::Entry(Entry {
            index: LogIndex(index),
            term: Term(6),
            kind: EntryKind::Members,
            context: Bytes::new(),
            data: members.to_bytes(),
        }),
    };
    log.append(&[entry(6, &enter), entry(7, &enter.leave())]).unwrap();
    log.sync().unwrap();
    let state = log.shard(SHARD).unwrap();
    let replica = Replica::restore(options(1, 5), &state, log.reader(SHARD).unwrap()).unwrap();
    assert_eq!(replica.committed_index(), LogIndex(6));
}

#[test]
fn members_that_cannot_follow_change_nothing() {
    let mut bench = Bench::new(3);
    let other = Members::voting([MemberId(1), MemberId(9)]).unwrap();
    let mut append = bench.append(9, &["a", "b"]);
    append.entries[0].kind = EntryKind::Members;
    append.entries[0].data = other.to_bytes();
    append.commit = LogIndex(7);
    bench.replica.receive(append).unwrap();
    bench.settle();
    bench.settle();
    assert_eq!(bench.committed.len(), 2);
    assert!(bench.changed.is_empty() && bench.committed[0].data.is_empty());
    assert_eq!(bench.replica.members().voters().len(), 3);
}

/// An append of member 2 with which member 1 is removed, both steps committed.
fn removal(bench: &Bench) -> Message {
    let enter = bench.replica.members().enter(&[MemberChange::Remove(MemberId(1))]).unwrap();
    let mut append = bench.append(9, &["enter", "leave"]);
    for (entry, members) in append.entries.iter_mut().zip([&enter, &enter.leave()]) {
        entry.kind = EntryKind::Members;
        entry.data = members.to_bytes();
    }
    Message { commit: LogIndex(7), ..append }
}

#[test]
fn a_removed_member_stays_until_it_hears_farewell() {
    let mut bench = Bench::new(3);
    bench.replica.receive(removal(&bench)).unwrap();
    bench.settle();
    bench.settle();
    assert_eq!(bench.replica.standing().part, Part::Leaving);
    bench.replica.forget(LogIndex(7));
    bench.settle();
    let mut bench = bench.restart(7).unwrap();
    assert_eq!(bench.replica.standing().part, Part::Leaving, "also after a restart");
    for _ in 0..5 * ELECTION_TICKS {
        bench.replica.tick();
        bench.settle();
    }
    assert!(!bench.sent.is_empty(), "it asks what is the matter");
    assert!(bench.sent.iter().all(|message| message.kind() == MessageKind::Present), "it wants nothing for itself");
    let farewell = Message { index: LogIndex(8), ..bench.message(MessageKind::Farewell, 9) };
    bench.replica.receive(farewell).unwrap();
    bench.settle();
    assert_eq!(bench.replica.standing().part, Part::Removed);
    bench.replica.forget(LogIndex(7));
    bench.settle();
    let bench = bench.restart(7).unwrap();
    assert_eq!(bench.replica.standing().part, Part::Leaving, "until it hears it again");
}

#[test]
fn a_member_that_missed_its_removal_believes_only_who_knows_more() {
    let mut bench = Bench::new(3);
    bench.replica.receive(bench.append(9, &["a", "b"])).unwrap();
    bench.settle();
    let told = |index| Message { index: LogIndex(index), ..bench.message(MessageKind::Farewell, 9) };
    let (old, new) = (told(5), told(50));
    bench.replica.receive(old).unwrap();
    assert_eq!(bench.replica.standing().part, Part::Voter);
    bench.replica.receive(new).unwrap();
    assert_eq!(bench.replica.standing().part, Part::Removed);
    for _ in 0..5 * ELECTION_TICKS {
        bench.replica.tick();
        bench.settle();
    }
    assert!(!bench.sent.iter().any(|message| message.kind() == MessageKind::RequestPreVote), "it does not disturb");
}

#[test]
fn a_leader_answers_strangers_with_a_farewell_and_lets_candidates_ask() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    bench.sent.clear();
    let present = Message { from: MemberId(9), ..bench.message(MessageKind::Present, 4) };
    bench.replica.receive(present).unwrap();
    bench.settle();
    let said: Vec<_> = bench.sent.iter().map(|message| (message.to().0, message.kind())).collect();
    assert_eq!(said, [(9, MessageKind::Farewell)]);
    let reads = Message { from: MemberId(9), term: Term(0), ..bench.message(MessageKind::ReadIndex, 0) };
    assert!(matches!(bench.replica.receive(reads), Err(MessageError::Stranger { .. })));
}

#[test]
fn a_joining_member_takes_no_farewell_before_it_has_begun() {
    let (disk, mut log) = founded(1);
    let members = Arc::new(Members::with_learners([TWO], [MemberId(1)]).unwrap());
    log.append(&joining(SHARD, &members)).unwrap();
    log.sync().unwrap();
    let mut bench = Bench::start(disk, log, options(1, JOINING_INDEX.0)).unwrap();
    let farewell = Message { index: LogIndex(8), ..bench.message(MessageKind::Farewell, 9) };
    bench.replica.receive(farewell).unwrap();
    assert_eq!(bench.replica.standing().part, Part::Learner);
    for _ in 0..5 * ELECTION_TICKS {
        bench.replica.tick();
    }
    assert_eq!(bench.replica.standing().role, Role::Follower, "a learner does not ask for votes");
    // It may have had entries before that count on it, and cannot tell whose log has them.
    for kind in [MessageKind::RequestPreVote, MessageKind::RequestVote] {
        let asks = Message { term: Term(9), index: LogIndex(100), log_term: Term(8), ..bench.message(kind, 100) };
        bench.replica.receive(asks).unwrap();
        bench.settle();
        let answers = [MessageKind::RequestPreVoteResponse, MessageKind::RequestVoteResponse];
        assert!(bench.sent.iter().all(|message| !answers.contains(&message.kind())), "{:?}", bench.sent);
    }
}

#[test]
fn a_question_that_comes_too_early_is_answered_when_the_leader_can() {
    let mut bench = Bench::new(3);
    bench.lead();
    let entries = vec![Entry {
        index: LogIndex(1),
        term: Term(0),
        kind: EntryKind::Normal,
        context: Bytes::new(),
        data: Bytes::from_static(b"twenty-four bytes of it."),
    }];
    let question = Message { term: Term(0), entries, ..bench.message(MessageKind::ReadIndex, 0) };
    bench.replica.receive(question).unwrap();
    bench.settle();
    bench.acknowledge(6);
    bench.settle();
    let round = bench.sent.iter().rev().find(|message| !message.context.is_empty()).unwrap().context.clone();
    bench.replica.receive(Message { context: round, ..bench.message(MessageKind::HeartbeatResponse, 6) }).unwrap();
    bench.settle();
    let answer = bench.sent.iter().find(|message| message.kind() == MessageKind::ReadIndexResponse).unwrap();
    assert_eq!((answer.to(), answer.index), (TWO, LogIndex(6)));
}

#[test]
fn learners_and_half_removed_voters_cannot_be_handed_the_shard() {
    let mut bench = with_learner();
    assert_eq!(bench.replica.transfer(TWO), Err(TransferError::Unfit(TWO)));
    let mut bench = {
        bench = Bench::new(3);
        bench.lead();
        bench.acknowledge(6);
        bench
    };
    bench.replica.change_members(&[MemberChange::Remove(TWO)]).unwrap();
    bench.settle();
    bench.acknowledge(7);
    assert!(bench.replica.members().joint());
    assert_eq!(bench.replica.transfer(TWO), Err(TransferError::Unfit(TWO)));
    // To one that never answers: given up after an election timeout.
    bench.replica.transfer(MemberId(3)).unwrap();
    assert!(matches!(bench.replica.propose("a"), Err(ProposeError::Busy { .. })));
    for _ in 0..=ELECTION_TICKS {
        bench.replica.tick();
        for from in [2, 3].map(MemberId) {
            bench.replica.receive(Message { from, ..bench.message(MessageKind::HeartbeatResponse, 6) }).unwrap();
        }
    }
    assert!(bench.replica.propose("a").is_ok());
}
