//! The traps that lie around the raft core, one by one. Whole clusters run in `tests/cluster.rs`.

use super::*;
use crate::disk::MemoryDisk;
use crate::log::{Log, LogOptions, ReadError};
use crate::members::MemberChange;

pub(super) const SHARD: ShardId = ShardId(1);
const OPTIONS: LogOptions = LogOptions { file_bytes: 64 << 10, secret: 1 };

pub(super) struct Bench {
    disk: MemoryDisk,
    pub(super) log: Log<MemoryDisk>,
    pub(super) replica: Replica,
    pub(super) committed: Vec<Committed>,
    pub(super) changed: Vec<MembersChanged>,
    pub(super) sent: Vec<Message>,
}

pub(super) fn options(me: u64, applied: u64) -> ReplicaOptions {
    ReplicaOptions { shard: SHARD, me: MemberId(me), applied: LogIndex(applied), seed: 5 }
}

pub(super) fn founded(voters: u64) -> (MemoryDisk, Log<MemoryDisk>) {
    let disk = MemoryDisk::new();
    let (mut log, _) = Log::open(disk.clone(), OPTIONS).unwrap();
    let members = Arc::new(Members::voting((1..=voters).map(MemberId)).unwrap());
    log.append(&founding(SHARD, &members)).unwrap();
    log.sync().unwrap();
    (disk, log)
}

impl Bench {
    pub(super) fn new(voters: u64) -> Bench {
        let (disk, log) = founded(voters);
        Bench::start(disk, log, options(1, 5)).unwrap()
    }

    pub(super) fn start(
        disk: MemoryDisk,
        log: Log<MemoryDisk>,
        options: ReplicaOptions,
    ) -> Result<Bench, RestoreError> {
        let state = log.shard(SHARD).unwrap();
        let replica = Replica::restore(options, &state, log.reader(SHARD).unwrap())?;
        Ok(Bench { disk, log, replica, committed: vec![], changed: vec![], sent: vec![] })
    }

    /// Power off and on again.
    pub(super) fn restart(self, applied: u64) -> Result<Bench, RestoreError> {
        let Bench { disk, log, .. } = self;
        drop(log);
        disk.crash(1);
        let (log, _) = Log::open(disk.clone(), OPTIONS).unwrap();
        Bench::start(disk, log, options(1, applied))
    }

    /// Everything that can be done, including the disk's part.
    pub(super) fn settle(&mut self) {
        loop {
            let effects = self.replica.effects().unwrap();
            self.log.append(&effects.append).unwrap();
            self.log.sync().unwrap();
            self.sent.extend(effects.send);
            self.changed.extend(effects.members);
            for committed in effects.committed {
                self.replica.applied(committed.index);
                self.committed.push(committed);
            }
            match effects.sync {
                Some(mark) => self.replica.synced(mark),
                None if !effects.more => break,
                None => {}
            }
        }
    }

    pub(super) fn message(&self, kind: MessageKind, term: u64) -> Message {
        Message {
            shard: SHARD,
            to: MemberId(1),
            from: MemberId(2),
            kind,
            reject: false,
            term: Term(term),
            log_term: Term(0),
            index: LogIndex(0),
            commit: LogIndex(0),
            commit_term: Term(0),
            reject_hint: LogIndex(0),
            context: Bytes::new(),
            entries: vec![],
        }
    }

    /// An append of member 2, who leads, right behind the founding.
    pub(super) fn append(&self, term: u64, entries: &[&'static str]) -> Message {
        let entry = |(at, data): (usize, &&'static str)| Entry {
            index: LogIndex(6 + at as u64),
            term: Term(term),
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: Bytes::from_static(data.as_bytes()),
        };
        Message {
            index: FOUNDING_INDEX,
            log_term: FOUNDING_TERM,
            entries: entries.iter().enumerate().map(entry).collect(),
            ..self.message(MessageKind::Append, term)
        }
    }

    /// Makes member 1 of three the leader of term 6.
    pub(super) fn lead(&mut self) {
        for _ in 0..2 * ELECTION_TICKS {
            self.replica.tick();
        }
        self.settle();
        for kind in [MessageKind::RequestPreVoteResponse, MessageKind::RequestVoteResponse] {
            self.replica.receive(self.message(kind, 6)).unwrap();
            self.settle();
        }
        assert_eq!(self.replica.standing().role, Role::Leader);
    }

    /// Member 3 says that it has nothing but what the shard was founded with.
    fn has_nothing(&self) -> Message {
        Message {
            from: MemberId(3),
            reject: true,
            index: FOUNDING_INDEX,
            reject_hint: FOUNDING_INDEX,
            log_term: FOUNDING_TERM,
            ..self.message(MessageKind::AppendResponse, 6)
        }
    }

    pub(super) fn acknowledge(&mut self, index: u64) {
        let term = self.replica.term().0;
        let response = Message { index: LogIndex(index), ..self.message(MessageKind::AppendResponse, term) };
        self.replica.receive(response).unwrap();
        self.settle();
    }
}

#[test]
fn the_only_voter_leads_at_once_and_its_log_begins_behind_the_founding() {
    let mut bench = Bench::new(1);
    bench.settle();
    let leads =
        Standing { role: Role::Leader, term: Term(6), leader: Some(MemberId(1)), part: Part::Voter, settled: true };
    assert_eq!(bench.replica.standing(), leads);
    let proposed = bench.replica.propose("a").unwrap();
    assert_eq!(proposed, Proposed { index: LogIndex(7), term: Term(6) });
    bench.settle();
    let data: Vec<_> = bench.committed.iter().map(|entry| (entry.index.0, &entry.data[..])).collect();
    assert_eq!(data, [(6, &b""[..]), (7, b"a")]);
    assert_eq!(bench.log.shard(SHARD).unwrap().start, LogIndex(5));
    assert!(bench.sent.is_empty());
}

#[test]
fn a_restarted_single_member_commits_everything_after_what_its_store_holds() {
    let mut bench = Bench::new(1);
    for data in ["a", "b", "c"] {
        bench.replica.propose(data).unwrap();
        bench.settle();
    }
    let mut bench = bench.restart(7).unwrap();
    bench.settle();
    let data: Vec<_> = bench.committed.iter().map(|entry| (entry.index.0, &entry.data[..])).collect();
    assert_eq!(data, [(8, &b"b"[..]), (9, b"c"), (10, b"")]);
}

#[test]
fn a_commit_index_on_disk_may_be_older_than_the_store() {
    let mut bench = Bench::new(1);
    for data in ["a", "b", "c"] {
        bench.replica.propose(data).unwrap();
        bench.settle();
    }
    let commit = bench.log.shard(SHARD).unwrap().hard_state.commit;
    assert!(commit < LogIndex(9), "{commit}");
    let mut bench = bench.restart(9).unwrap();
    assert!(bench.replica.committed_index() >= LogIndex(9));
    bench.settle();
    assert_eq!(bench.committed.len(), 1, "only the new term's entry");
}

#[test]
fn a_store_and_a_log_that_do_not_fit_are_refused() {
    let mut bench = Bench::new(1);
    bench.replica.propose("a").unwrap();
    bench.settle();
    bench.replica.forget(LogIndex(7));
    bench.settle();
    let refused = |applied| {
        let state = bench.log.shard(SHARD).unwrap();
        Replica::restore(options(1, applied), &state, bench.log.reader(SHARD).unwrap()).unwrap_err()
    };
    assert!(matches!(refused(6), RestoreError::StoreBehind { .. }));
    assert!(matches!(refused(8), RestoreError::LogBehind { .. }));
    let state = bench.log.shard(SHARD).unwrap();
    let reader = bench.log.reader(SHARD).unwrap();
    let stranger = Replica::restore(options(9, 7), &state, reader.clone());
    assert!(matches!(stranger, Err(RestoreError::NotAMember { .. })));
    let mut lying = state;
    lying.hard_state.commit = LogIndex(100);
    let missing = Replica::restore(options(1, 7), &lying, reader);
    assert!(matches!(missing, Err(RestoreError::CommitMissing { .. })));
}

#[test]
fn everything_proposed_in_a_turn_is_one_batch_and_one_message_a_member() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    bench.sent.clear();
    for number in 0..50 {
        let proposed = bench.replica.propose(vec![number; 100]).unwrap();
        assert_eq!(proposed.index, LogIndex(7 + u64::from(number)));
    }
    let effects = bench.replica.effects().unwrap();
    assert_eq!(effects.append.len(), 51, "the entries and one hard state");
    assert!(effects.sync.is_some());
    assert_eq!(effects.send.len(), 1, "member 3 has not answered yet, so it gets nothing");
    assert_eq!(effects.send[0].entries(), 50);
    assert!(!effects.more);
}

#[test]
fn a_leader_goes_on_while_syncs_are_on_their_way_and_commits_what_a_majority_has() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    let mut marks = vec![];
    for data in ["a", "b", "c"] {
        bench.replica.propose(data).unwrap();
        let effects = bench.replica.effects().unwrap();
        assert!(effects.send.iter().any(|message| message.kind() == MessageKind::Append));
        bench.log.append(&effects.append).unwrap();
        marks.extend(effects.sync);
    }
    assert_eq!(marks.len(), 3);
    // A majority without this member: committed, but not to be applied here before it is on disk.
    bench.log.write().unwrap();
    let response = Message { index: LogIndex(9), ..bench.message(MessageKind::AppendResponse, 6) };
    bench.replica.receive(response.clone()).unwrap();
    bench.replica.receive(Message { from: MemberId(3), ..response }).unwrap();
    assert_eq!(bench.replica.committed_index(), LogIndex(9));
    assert!(bench.replica.effects().unwrap().committed.is_empty());
    bench.log.sync().unwrap();
    bench.replica.synced(marks[1]);
    assert_eq!(bench.replica.effects().unwrap().committed.len(), 2);
    bench.replica.synced(marks[2]);
    assert_eq!(bench.replica.effects().unwrap().committed.len(), 1);
}

#[test]
fn promises_wait_for_the_disk() {
    let mut bench = Bench::new(3);
    let asks = Message { index: FOUNDING_INDEX, log_term: FOUNDING_TERM, ..bench.message(MessageKind::RequestVote, 9) };
    bench.replica.receive(asks).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(effects.send.is_empty(), "a vote left before it was written down");
    let vote = effects.sync.unwrap();
    bench.log.append(&effects.append).unwrap();

    bench.replica.receive(bench.append(9, &["a"])).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(effects.send.is_empty(), "an acknowledgement left before its entry was synced");
    let entry = effects.sync.unwrap();
    bench.log.append(&effects.append).unwrap();

    // The same entry again: nothing new to write, but the answer still depends on the one before.
    bench.replica.receive(bench.append(9, &["a"])).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(effects.append.is_empty() && effects.sync.is_none() && effects.send.is_empty());

    bench.log.sync().unwrap();
    bench.replica.synced(vote);
    let sent = bench.replica.effects().unwrap().send;
    assert_eq!(sent.iter().map(Message::kind).collect::<Vec<_>>(), [MessageKind::RequestVoteResponse]);
    bench.replica.synced(entry);
    let sent = bench.replica.effects().unwrap().send;
    assert_eq!(sent.iter().map(Message::kind).collect::<Vec<_>>(), [MessageKind::AppendResponse; 2]);
}

#[test]
fn reads_wait_until_a_leader_knows_what_is_committed() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.replica.read(1), Err(ReadRefused::NoLeader));
    bench.lead();
    assert_eq!(bench.replica.read(1), Err(ReadRefused::NotReady));
    bench.acknowledge(6);
    bench.replica.read(1).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(effects.reads.is_empty(), "one member is no majority");
    let heartbeat = effects.send.iter().find(|message| message.to() == MemberId(2)).unwrap();
    let response = Message { context: heartbeat.context.clone(), ..bench.message(MessageKind::HeartbeatResponse, 6) };
    bench.replica.receive(response).unwrap();
    let reads = bench.replica.effects().unwrap().reads;
    assert_eq!(reads, [ReadReady { context: 1, index: LogIndex(6) }]);
}

#[test]
fn a_read_whose_question_was_lost_is_asked_again_and_lost_with_the_leader() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    bench.replica.read(7).unwrap();
    let first = bench.replica.effects().unwrap().send[0].context.clone();
    let mut asked = vec![];
    for _ in 0..ELECTION_TICKS {
        bench.replica.tick();
        asked.extend(bench.replica.effects().unwrap().send);
    }
    assert!(asked.iter().any(|message| !message.context.is_empty() && message.context != first));
    bench.replica.receive(bench.append(8, &[])).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert_eq!(effects.reads_lost, [7]);
    assert_eq!(effects.standing.unwrap().leader, Some(MemberId(2)));
}

#[test]
fn answers_to_an_earlier_start_are_nobodys() {
    let mut bench = Bench::new(3);
    bench.replica.receive(bench.append(9, &["a"])).unwrap();
    bench.settle();
    bench.replica.read(1).unwrap();
    let question = bench.replica.effects().unwrap().send.pop().unwrap();
    assert_eq!(question.kind(), MessageKind::ReadIndex);
    let answer = |context: Bytes| {
        let entries = vec![Entry {
            index: LogIndex(0),
            term: Term(0),
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: context,
        }];
        let message = bench.message(MessageKind::ReadIndexResponse, 9);
        Message { index: LogIndex(6), entries, ..message }
    };
    let right = answer(question.entries[0].data.clone());
    let mut earlier = question.entries[0].data.to_vec();
    earlier[8] ^= 1;
    let wrong = answer(Bytes::from(earlier));
    bench.replica.receive(wrong).unwrap();
    assert!(bench.replica.effects().unwrap().reads.is_empty());
    bench.replica.receive(right).unwrap();
    assert_eq!(bench.replica.effects().unwrap().reads.len(), 1);
}

#[test]
fn proposals_are_refused_with_a_reason() {
    let mut bench = Bench::new(3);
    assert_eq!(bench.replica.propose("a"), Err(ProposeError::NotLeader { leader: None }));
    bench.lead();
    assert_eq!(bench.replica.propose(""), Err(ProposeError::Empty));
    let large = vec![0; ENTRY_BYTES_MAX + 1];
    assert_eq!(bench.replica.propose(large), Err(ProposeError::TooLarge(ENTRY_BYTES_MAX + 1)));
    let mebibyte = Bytes::from(vec![1; 1 << 20]);
    let taken = (0..200).take_while(|_| bench.replica.propose(mebibyte.clone()).is_ok()).count();
    assert_eq!(taken, 128);
    assert!(matches!(bench.replica.propose(mebibyte), Err(ProposeError::Busy { .. })));
    bench.replica.receive(bench.append(8, &[])).unwrap();
    let leader = Some(MemberId(2));
    assert_eq!(bench.replica.propose("a"), Err(ProposeError::NotLeader { leader }));
}

#[test]
fn a_member_that_was_restarted_gives_no_vote_for_one_election_timeout() {
    let mut bench = Bench::new(3);
    bench.replica.receive(bench.append(9, &["a"])).unwrap();
    bench.settle();
    let mut bench = bench.restart(5).unwrap();
    let asks = Message {
        from: MemberId(3),
        index: LogIndex(6),
        log_term: Term(9),
        ..bench.message(MessageKind::RequestVote, 10)
    };
    for _ in 0..ELECTION_TICKS {
        bench.replica.receive(asks.clone()).unwrap();
        bench.settle();
        assert!(bench.sent.is_empty());
        bench.replica.tick();
    }
    bench.replica.receive(asks).unwrap();
    bench.settle();
    assert_eq!(bench.sent.pop().map(|vote| (vote.kind, vote.reject)), Some((MessageKind::RequestVoteResponse, false)));
}

#[test]
fn messages_that_would_stop_the_core_are_refused() {
    let mut bench = Bench::new(3);
    let past = Message { commit: LogIndex(100), ..bench.message(MessageKind::Heartbeat, 9) };
    assert!(matches!(
        bench.replica.receive(past),
        Err(MessageError::LostLog { commit: LogIndex(100), last: LogIndex(5), .. })
    ));
    let stranger = Message { from: MemberId(9), ..bench.message(MessageKind::HeartbeatResponse, 9) };
    assert!(matches!(bench.replica.receive(stranger), Err(MessageError::Stranger { .. })));
    let astray = Message { to: MemberId(2), from: MemberId(3), ..bench.append(9, &[]) };
    assert!(matches!(bench.replica.receive(astray), Err(MessageError::Misdirected { .. })));
    let other = Message { shard: ShardId(7), ..bench.append(9, &[]) };
    assert!(matches!(bench.replica.receive(other), Err(MessageError::Misdirected { .. })));
    bench.lead();
    let ahead = Message { index: LogIndex(50), ..bench.message(MessageKind::AppendResponse, 6) };
    assert!(matches!(bench.replica.receive(ahead), Err(MessageError::Invalid { .. })));
    bench.settle();
}

#[test]
fn a_vote_that_comes_before_the_candidates_own_disk_is_ready_does_not_count() {
    let mut bench = Bench::new(3);
    bench.replica.receive(bench.append(9, &["a"])).unwrap();
    let unsynced = bench.replica.effects().unwrap();
    for _ in 0..2 * ELECTION_TICKS {
        bench.replica.tick();
    }
    assert_eq!(bench.replica.standing().role, Role::Candidate);
    for kind in [MessageKind::RequestPreVoteResponse, MessageKind::RequestVoteResponse] {
        bench.replica.receive(bench.message(kind, 10)).unwrap();
    }
    assert_eq!(bench.replica.standing().role, Role::Candidate);
    bench.log.append(&unsynced.append).unwrap();
    bench.log.sync().unwrap();
    bench.replica.synced(unsynced.sync.unwrap());
    bench.settle();
    for kind in [MessageKind::RequestPreVoteResponse, MessageKind::RequestVoteResponse] {
        bench.replica.receive(bench.message(kind, 10)).unwrap();
        bench.settle();
    }
    assert_eq!(bench.replica.standing().role, Role::Leader);
}

#[test]
fn a_damaged_log_ends_the_replica_and_nothing_leaves_it() {
    let mut bench = Bench::new(1);
    bench.replica.propose("payload").unwrap();
    bench.settle();
    let Bench { disk, log, .. } = bench;
    let mut bench = Bench::start(disk, log, options(1, 5)).unwrap();
    let bytes = bench.disk.bytes("0000000000000001.log").unwrap();
    let at = bytes.windows(7).position(|window| window == b"payload").unwrap();
    bench.disk.flip("0000000000000001.log", at as u64 * 8);
    let mut ended = false;
    for _ in 0..10 {
        match bench.replica.effects() {
            Ok(effects) => {
                assert!(effects.committed.iter().all(|entry| entry.index < LogIndex(7)));
                bench.log.append(&effects.append).unwrap();
                bench.log.sync().unwrap();
                effects.sync.into_iter().for_each(|mark| bench.replica.synced(mark));
            }
            Err(ReplicaError::Log(ReadError::Damaged { index, .. })) => {
                assert_eq!(index, LogIndex(7));
                ended = true;
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(ended);
    assert!(matches!(bench.replica.effects(), Err(ReplicaError::Dead)));
}

/// The entries and commit indexes of appends to a member.
fn appends(sent: &[Message], to: u64) -> Vec<(usize, u64)> {
    let appends = sent.iter().filter(|message| message.kind() == MessageKind::Append && message.to() == MemberId(to));
    appends.map(|message| (message.entries(), message.commit.0)).collect()
}

#[test]
fn others_are_told_of_a_commit_with_the_next_entry_or_at_once() {
    let mut bench = Bench::new(3);
    bench.lead();
    for member in [2, 3] {
        let response =
            Message { index: LogIndex(6), from: MemberId(member), ..bench.message(MessageKind::AppendResponse, 6) };
        bench.replica.receive(response).unwrap();
    }
    bench.settle();
    bench.replica.propose("a").unwrap();
    bench.settle();
    bench.sent.clear();
    // Nothing follows.
    bench.acknowledge(7);
    assert_eq!([appends(&bench.sent, 2), appends(&bench.sent, 3)], [vec![(0, 7)], vec![(0, 7)]]);
    bench.replica.propose("b").unwrap();
    bench.settle();
    bench.sent.clear();
    // Something does, before anybody asked for effects.
    let response = Message { index: LogIndex(8), ..bench.message(MessageKind::AppendResponse, 6) };
    bench.replica.receive(response).unwrap();
    bench.replica.propose("c").unwrap();
    bench.settle();
    assert_eq!([appends(&bench.sent, 2), appends(&bench.sent, 3)], [vec![(1, 8)], vec![(1, 8)]]);
    // And nobody needs more than that.
    bench.sent.clear();
    bench.settle();
    assert!(bench.sent.is_empty());
}

#[test]
fn an_entry_that_others_have_can_be_applied_once_it_is_on_this_disk_too() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    bench.replica.propose("a").unwrap();
    let effects = bench.replica.effects().unwrap();
    bench.log.append(&effects.append).unwrap();
    let response = Message { index: LogIndex(7), ..bench.message(MessageKind::AppendResponse, 6) };
    bench.replica.receive(response).unwrap();
    let other = Message { from: MemberId(3), index: LogIndex(7), ..bench.message(MessageKind::AppendResponse, 6) };
    bench.replica.receive(other).unwrap();
    assert_eq!((bench.replica.committed_index(), bench.replica.appliable_index()), (LogIndex(7), LogIndex(6)));
    assert!(bench.replica.effects().unwrap().committed.is_empty());
    bench.log.sync().unwrap();
    bench.replica.synced(effects.sync.unwrap());
    assert_eq!(bench.replica.appliable_index(), LogIndex(7));
    assert_eq!(bench.replica.effects().unwrap().committed.len(), 1);
}

#[test]
fn a_member_that_lacks_a_damaged_entry_is_sent_a_snapshot_from_beyond_it() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    let large = Bytes::from(vec![3; 1 << 20]);
    for index in 7..27 {
        let data = if index == 7 { Bytes::from_static(b"payload") } else { large.clone() };
        bench.replica.propose(data).unwrap();
        bench.settle();
        bench.acknowledge(index);
    }
    let files = (1..9).map(|number| format!("{number:016x}.log"));
    let mut found = files.filter_map(|file| {
        let bytes = bench.disk.bytes(&file)?;
        Some((file, bytes.windows(7).position(|window| window == b"payload")?))
    });
    let (file, at) = found.next_back().unwrap();
    bench.disk.flip(&file, at as u64 * 8);
    bench.replica.offer_snapshot(LogIndex(6));
    let behind = bench.has_nothing();
    let alive = Message { from: MemberId(3), ..bench.message(MessageKind::HeartbeatResponse, 6) };
    bench.replica.receive(alive.clone()).unwrap();
    bench.replica.receive(behind).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(matches!(effects.unread, Some(ReadError::Damaged { index: LogIndex(7), .. })), "{:?}", effects.unread);
    // What was offered ends before it.
    assert_eq!((effects.snapshot_wanted, bench.replica.unreadable()), (Some(MemberId(3)), LogIndex(7)));
    bench.replica.offer_snapshot(LogIndex(20));
    bench.replica.receive(alive).unwrap();
    let effects = bench.replica.effects().unwrap();
    assert!(effects.unread.is_none(), "it is told once");
    let to_it = effects.send.iter().filter(|message| message.to() == MemberId(3));
    assert_eq!(to_it.filter_map(Message::snapshot_index).collect::<Vec<_>>(), [LogIndex(20)]);
    // What is new is nothing that it needs the damaged entry for.
    let proposed = bench.replica.propose("new").unwrap();
    bench.settle();
    bench.acknowledge(proposed.index.0);
    assert_eq!(bench.committed.last().unwrap().index, proposed.index);
}

#[test]
fn entries_that_memory_let_go_of_are_read_from_the_log() {
    let mut bench = Bench::new(3);
    bench.lead();
    bench.acknowledge(6);
    let large = Bytes::from(vec![3; 1 << 20]);
    for index in 7..47 {
        bench.replica.propose(large.clone()).unwrap();
        bench.settle();
        bench.acknowledge(index);
    }
    assert_eq!(bench.committed.len(), 41);
    bench.sent.clear();
    let behind = bench.has_nothing();
    bench.replica.receive(behind).unwrap();
    let has = Message { from: MemberId(3), index: FOUNDING_INDEX, ..bench.message(MessageKind::AppendResponse, 6) };
    bench.replica.receive(has).unwrap();
    bench.settle();
    let appends = bench.sent.iter().filter(|message| message.to() == MemberId(3));
    let got: usize = appends.map(Message::entries).sum();
    assert!(got >= 41, "member 3 got {got} entries");
}

#[test]
fn a_member_behind_what_the_log_keeps_is_sent_a_snapshot() {
    let mut bench = Bench::new(3);
    bench.lead();
    for index in 7..20 {
        bench.replica.propose("x").unwrap();
        bench.settle();
        bench.acknowledge(index);
    }
    bench.replica.forget(LogIndex(15));
    bench.settle();
    let behind = bench.has_nothing();
    let alive = Message { from: MemberId(3), ..bench.message(MessageKind::HeartbeatResponse, 6) };
    bench.replica.receive(alive.clone()).unwrap();
    bench.replica.receive(behind).unwrap();
    bench.replica.receive(alive.clone()).unwrap();
    assert_eq!(bench.replica.effects().unwrap().snapshot_wanted, Some(MemberId(3)));
    bench.replica.offer_snapshot(LogIndex(19));
    bench.replica.receive(alive).unwrap();
    let sent = bench.replica.effects().unwrap().send;
    let snapshot = sent.iter().find(|message| message.kind() == MessageKind::Snapshot).unwrap();
    assert_eq!(snapshot.snapshot_index(), Some(LogIndex(19)));
    assert_eq!(snapshot.to(), MemberId(3));
    // Until it has it no change may need its word.
    let remove = |member| [MemberChange::Remove(MemberId(member))];
    assert_eq!(bench.replica.change_members(&remove(2)), Err(ChangeError::NoQuorum { alive: 1, needed: 2 }));
    bench.replica.change_members(&remove(3)).unwrap();
}

/// The bytes of members that may or may not follow these, and may not be possible at all.
fn random_members(now: &Members, chance: &mut Chance) -> Bytes {
    let mut list = |odds| (1..=4).filter(|_| chance.below(odds) == 0).map(MemberId).collect::<Vec<_>>();
    let lists = [list(2), list(4), list(2), list(6)];
    let next = match chance.below(4) {
        0 => now.leave(),
        1 => Members::new(lists[0].clone(), lists[1].clone(), now.voters().to_vec(), lists[3].clone())
            .unwrap_or_else(|_| now.clone()),
        2 => Members::voting((1..=3).map(MemberId)).unwrap_or_else(|_| now.clone()),
        _ => {
            let mut bytes: Vec<u8> = lists.iter().map(|list| list.len() as u8).collect();
            bytes.extend([0; 4]);
            bytes.extend(lists.iter().flatten().flat_map(|member| member.0.to_le_bytes()));
            return bytes.into();
        }
    };
    next.to_bytes()
}

/// A message with every number drawn from what could matter.
fn random_message(bench: &Bench, chance: &mut Chance) -> Message {
    const KINDS: [MessageKind; 14] = [
        MessageKind::Append,
        MessageKind::AppendResponse,
        MessageKind::RequestVote,
        MessageKind::RequestVoteResponse,
        MessageKind::Snapshot,
        MessageKind::Heartbeat,
        MessageKind::HeartbeatResponse,
        MessageKind::TimeoutNow,
        MessageKind::ReadIndex,
        MessageKind::ReadIndexResponse,
        MessageKind::RequestPreVote,
        MessageKind::RequestPreVoteResponse,
        MessageKind::Farewell,
        MessageKind::Present,
    ];
    let replica = &bench.replica;
    let (term, last) = (replica.term().0, replica.last_index().0);
    let mut near = |number: u64| match chance.below(400) {
        0..=19 => 0,
        20..=59 => 5,
        60 => NUMBER_HUGE,
        _ => (number + chance.below(5)).saturating_sub(2),
    };
    let (index, commit, reject_hint) = (near(last), near(last), near(last));
    let (term, log_term, commit_term) = (near(term), near(term), near(term));
    let kind = KINDS[chance.below(14) as usize];
    let term = if kind == MessageKind::ReadIndex { 0 } else { term };
    let mut message = Message {
        from: MemberId(2 + chance.below(3)),
        reject: chance.below(2) == 0,
        term: Term(term),
        log_term: Term(log_term),
        index: LogIndex(index),
        commit: LogIndex(commit),
        commit_term: Term(commit_term),
        reject_hint: LogIndex(reject_hint),
        ..bench.message(kind, 0)
    };
    let entries = match kind {
        MessageKind::Append => chance.below(4),
        MessageKind::ReadIndex | MessageKind::ReadIndexResponse => 1,
        _ => 0,
    };
    for at in 0..entries {
        let changes = kind == MessageKind::Append && chance.below(4) == 0;
        message.entries.push(Entry {
            index: LogIndex(message.index.0 + 1 + at),
            term: Term(log_term + chance.below(2)),
            kind: if changes { EntryKind::Members } else { EntryKind::Normal },
            context: Bytes::new(),
            data: if changes {
                random_members(replica.members(), chance)
            } else {
                Bytes::from(vec![1; chance.below(40) as usize])
            },
        });
    }
    message.context = match kind {
        MessageKind::Snapshot => random_members(replica.members(), chance),
        MessageKind::RequestVote if chance.below(3) == 0 => "CampaignTransfer".into(),
        _ if chance.below(4) == 0 => vec![7; 24].into(),
        _ => Bytes::new(),
    };
    message
}

fn random_change(chance: &mut Chance) -> MemberChange {
    let member = MemberId(1 + chance.below(4));
    match chance.below(4) {
        0 => MemberChange::AddLearner(member),
        1 => MemberChange::Promote(member),
        2 => MemberChange::Demote(member),
        _ => MemberChange::Remove(member),
    }
}

const NUMBER_HUGE: u64 = (1 << 62) - 1;

#[test]
fn no_message_can_stop_a_replica() {
    let (mut taken, mut changed) = (0, 0);
    for seed in 0..1500 {
        let mut chance = Chance::new(seed);
        let mut bench = Bench::new(3);
        let mut marks = VecDeque::new();
        for _ in 0..300 {
            match chance.below(24) {
                20..=21 => {
                    let effects = bench.replica.effects().unwrap();
                    bench.log.append(&effects.append).unwrap();
                    marks.extend(effects.sync);
                    bench.changed.extend(effects.members);
                    if let Some(last) = effects.committed.last() {
                        bench.replica.applied(last.index);
                    }
                }
                22 => {
                    bench.log.sync().unwrap();
                    marks.pop_front().into_iter().for_each(|mark| bench.replica.synced(mark));
                }
                0..=2 => bench.replica.tick(),
                3 => drop(bench.replica.propose("x")),
                4 => drop(bench.replica.read(1)),
                5 => bench.settle(),
                6 => match chance.below(4) {
                    0 => bench.replica.forget(bench.replica.applied_index()),
                    1 => bench.replica.offer_snapshot(bench.replica.applied_index()),
                    2 => drop(bench.replica.change_members(&[random_change(&mut chance), random_change(&mut chance)])),
                    _ => drop(bench.replica.change_members(&[random_change(&mut chance)])),
                },
                _ => {
                    let message = random_message(&bench, &mut chance);
                    let bytes = Bytes::from(message.encode());
                    if let Ok(message) = Message::decode(&bytes) {
                        taken += usize::from(bench.replica.receive(message).is_ok());
                    }
                }
            }
        }
        bench.settle();
        changed += bench.changed.len();
    }
    assert!(taken > 10_000 && changed > 500, "{taken} {changed}");
}

#[test]
fn a_member_does_not_campaign_before_its_snapshot_is_on_the_disk() {
    let mut bench = Bench::new(3);
    let mut members = vec![];
    bench.replica.members().encode(&mut members);
    let snapshot = Message {
        index: LogIndex(50),
        log_term: Term(7),
        context: members.into(),
        ..bench.message(MessageKind::Snapshot, 9)
    };
    bench.replica.receive(snapshot).unwrap();
    let effects = bench.replica.effects().unwrap();
    let received = effects.snapshot_received.unwrap();
    assert_eq!((received.index, received.term), (LogIndex(50), Term(7)));
    assert!(effects.send.is_empty(), "the acknowledgement waits for the disk");
    bench.replica.receive(bench.message(MessageKind::TimeoutNow, 9)).unwrap();
    for _ in 0..3 * ELECTION_TICKS {
        bench.replica.tick();
    }
    assert_eq!(bench.replica.standing().role, Role::Follower);
    bench.log.append(&effects.append).unwrap();
    bench.log.sync().unwrap();
    bench.replica.synced(effects.sync.unwrap());
    bench.settle();
    assert_eq!(bench.sent[0].kind(), MessageKind::AppendResponse);
    assert_eq!(bench.replica.applied_index(), LogIndex(50));
    bench.replica.receive(bench.message(MessageKind::TimeoutNow, 9)).unwrap();
    assert_eq!(bench.replica.standing().role, Role::Candidate);
    assert_eq!(bench.log.shard(SHARD).unwrap().start, LogIndex(50));
}
