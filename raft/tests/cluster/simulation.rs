//! One shard's members with their disks, stores and network, and everything that can befall them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use loci_raft::{
    Append, Committed, EntryKind, FOUNDING_INDEX, FOUNDING_TERM, JOINING_INDEX, Log, LogIndex, LogOptions,
    MemberChange, MemberId, Members, MemoryDisk, Message, MessageError, Part, ProposeError, Proposed, Replica,
    ReplicaOptions, RestoreError, Role, ShardId, SyncMark, Term, beginning, founding, joining,
};

const SHARD: ShardId = ShardId(3);
const OPTIONS: LogOptions = LogOptions { file_bytes: 8192, secret: 99 };

struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn one_in(&mut self, odds: usize) -> bool {
        self.below(odds) == 0
    }
}

/// Numbers never come back, so there is an end to them.
const NUMBERS: u64 = 12;

/// A state machine: everything it was told, folded into one number, and the members as of there.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    pub applied: LogIndex,
    term: Term,
    digest: u64,
    pub members: Arc<Members>,
}

impl Store {
    fn new(applied: LogIndex, term: Term, members: &Arc<Members>) -> Store {
        Store { applied, term, digest: 0, members: Arc::clone(members) }
    }

    fn apply(&mut self, committed: &Committed) {
        assert_eq!(committed.index, self.applied.next(), "committed entries come in order");
        self.applied = committed.index;
        self.term = committed.term;
        for byte in &committed.data[..] {
            self.digest = self.digest.wrapping_mul(31).wrapping_add(u64::from(*byte) + 1);
        }
    }
}

pub struct Member {
    me: MemberId,
    disk: MemoryDisk,
    pub store: Store,
    /// What the store would come back with.
    checkpoint: Store,
    /// It has been started once.
    exists: bool,
    /// It knows that it is removed.
    retired: bool,
    pub running: Option<Running>,
}

pub struct Running {
    log: Log<MemoryDisk>,
    pub replica: Replica,
    /// On its way to the log's thread.
    queue: VecDeque<(Vec<Append>, Option<SyncMark>)>,
    /// Written and not synced.
    marks: Vec<SyncMark>,
    /// Reads asked, with what was committed anywhere at that moment.
    reads: BTreeMap<u64, LogIndex>,
    /// The store as of each snapshot offered.
    offered: Vec<Store>,
    /// The data of a snapshot that arrived before its message.
    arrived: Option<Store>,
}

pub struct Envelope {
    pub bytes: Bytes,
    from: usize,
    to: usize,
    snapshot: Option<Store>,
}

pub struct Cluster {
    seed: u64,
    chance: Chance,
    pub members: Vec<Member>,
    roster: Arc<Members>,
    pub net: Vec<Envelope>,
    /// Members that hear nobody and are not heard.
    cut: Vec<bool>,
    /// Everything that was ever committed anywhere.
    pub history: BTreeMap<LogIndex, (Term, Bytes)>,
    /// The members from each index on, as anybody ever saw them.
    rosters: BTreeMap<LogIndex, Arc<Members>>,
    leaders: BTreeMap<Term, MemberId>,
    asked: u64,
    /// A member dies so many times less often.
    calmness: usize,
    /// Members come and go.
    pub changing: bool,
    pub counts: Counts,
    /// Everything that ever left a replica, folded into one number.
    pub trace: u64,
}

#[derive(Debug, Default)]
pub struct Counts {
    pub elections: usize,
    pub crashes: usize,
    pub reads: usize,
    pub reads_by_learners: usize,
    pub reads_lost: usize,
    pub snapshots: usize,
    pub proposed: usize,
    pub changes: usize,
    pub joints_restarted: usize,
    pub removed: usize,
    pub leaders_removed: usize,
    pub joined_by_copy: usize,
    pub transfers: usize,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.reads += other.reads;
        self.reads_by_learners += other.reads_by_learners;
        self.reads_lost += other.reads_lost;
        self.snapshots += other.snapshots;
        self.proposed += other.proposed;
        self.changes += other.changes;
        self.joints_restarted += other.joints_restarted;
        self.removed += other.removed;
        self.leaders_removed += other.leaders_removed;
        self.joined_by_copy += other.joined_by_copy;
        self.transfers += other.transfers;
    }
}

impl Cluster {
    pub fn new(seed: u64, size: u64) -> Cluster {
        let roster = Arc::new(Members::voting((1..=size).map(MemberId)).unwrap());
        let member = |me| Member {
            me: MemberId(me),
            disk: MemoryDisk::new(),
            store: Store::new(FOUNDING_INDEX, FOUNDING_TERM, &roster),
            checkpoint: Store::new(FOUNDING_INDEX, FOUNDING_TERM, &roster),
            exists: me <= size,
            retired: false,
            running: None,
        };
        let mut cluster = Cluster {
            seed,
            chance: Chance(seed),
            members: (1..=NUMBERS).map(member).collect(),
            rosters: BTreeMap::from([(FOUNDING_INDEX, Arc::clone(&roster))]),
            roster,
            net: Vec::new(),
            cut: vec![false; NUMBERS as usize],
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            asked: 0,
            calmness: 1 + seed as usize % 4,
            changing: false,
            counts: Counts::default(),
            trace: 0,
        };
        for at in 0..size as usize {
            cluster.start(at);
        }
        cluster
    }

    fn start(&mut self, at: usize) {
        let seed = self.chance.next();
        let member = &mut self.members[at];
        assert!(member.running.is_none());
        member.disk.heal();
        let opened = Log::open(member.disk.clone(), OPTIONS);
        let (mut log, _) = opened.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        if log.shard(SHARD).is_none() {
            let begin = match member.checkpoint.applied {
                FOUNDING_INDEX => founding(SHARD, &self.roster),
                JOINING_INDEX => joining(SHARD, &member.checkpoint.members),
                index => beginning(SHARD, index, member.checkpoint.term, &member.checkpoint.members),
            };
            log.append(&begin).unwrap();
            log.sync().unwrap();
        }
        member.store = member.checkpoint.clone();
        let Store { applied, term, .. } = member.store;
        // The power failed while a snapshot was received.
        if log.shard(SHARD).unwrap().term_of(applied) != Some(term) {
            log.append(&beginning(SHARD, applied, term, &member.store.members)).unwrap();
            log.sync().unwrap();
        }
        let state = log.shard(SHARD).unwrap();
        let options = ReplicaOptions { shard: SHARD, me: member.me, applied, seed };
        let reader = log.reader(SHARD).unwrap();
        let replica = match Replica::restore(options, &state, reader) {
            Ok(replica) => replica,
            Err(RestoreError::NotAMember { .. }) => {
                self.retire(at);
                return;
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        };
        let Member { store, .. } = member;
        assert_eq!(replica.members(), &store.members, "seed {}: the members are those as of the store", self.seed);
        self.counts.joints_restarted += usize::from(store.members.joint());
        member.running = Some(Running {
            log,
            replica,
            queue: VecDeque::new(),
            marks: Vec::new(),
            reads: BTreeMap::new(),
            offered: Vec::new(),
            arrived: None,
        });
        self.effects(at);
    }

    /// A member knows that it is removed; it had better be true.
    fn retire(&mut self, at: usize) {
        let member = &mut self.members[at];
        let (_, latest) = self.rosters.last_key_value().expect("the founding is known");
        assert!(!latest.contains(member.me), "seed {}: {} is a member, and was told otherwise", self.seed, member.me);
        self.counts.removed += usize::from(!member.retired);
        member.retired = true;
        member.running = None;
    }

    fn crash(&mut self, at: usize) {
        let seed = self.chance.next();
        let member = &mut self.members[at];
        if member.running.take().is_some() {
            self.counts.crashes += 1;
            if seed.is_multiple_of(4) {
                member.disk.kill();
            } else {
                member.disk.crash(seed);
            }
        }
    }

    fn with(&mut self, at: usize, act: impl FnOnce(&mut Replica)) {
        if let Some(running) = &mut self.members[at].running {
            act(&mut running.replica);
            self.effects(at);
        }
    }

    /// Carries out what a replica asks for, except what the log's thread does.
    fn effects(&mut self, at: usize) {
        let seed = self.seed;
        let Member { me, store, checkpoint, running, .. } = &mut self.members[at];
        let Some(running) = running else { return };
        let mut removed = false;
        loop {
            let effects = running.replica.effects().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            if let Some(standing) = effects.standing {
                if standing.role == Role::Leader {
                    assert_eq!(standing.part, Part::Voter, "seed {seed}: only voters lead");
                }
                removed = standing.part == Part::Removed;
            }
            // An only voter leads before that is on its disk, and may lose it with the power; until then it
            // says nothing to anybody and commits nothing.
            let standing = running.replica.standing();
            if standing.role == Role::Leader && (standing.settled || !effects.send.is_empty()) {
                let known = self.leaders.insert(standing.term, *me);
                self.counts.elections += usize::from(known.is_none());
                let leader = known.unwrap_or(*me);
                assert_eq!(leader, *me, "seed {seed}: two leaders in term {}", standing.term);
            }
            for changed in &effects.members {
                let known = self.rosters.entry(changed.index).or_insert_with(|| Arc::clone(&changed.members));
                // A snapshot may begin between two changes, where nobody saw one.
                assert_eq!(*known, changed.members, "seed {seed}: the members as of {}", changed.index);
                self.trace = fold(self.trace, &changed.members.to_bytes());
                let led = self.leaders.get(&running.replica.standing().term) == Some(me);
                self.counts.leaders_removed += usize::from(led && !changed.members.contains(*me));
            }
            if let Some(snapshot) = effects.snapshot_received {
                let arrived = running.arrived.take().expect("the data came first");
                assert_eq!((arrived.applied, arrived.term), (snapshot.index, snapshot.term));
                assert_eq!(arrived.members, snapshot.members, "seed {seed}: a snapshot has the members as of it");
                (*store, *checkpoint) = (arrived.clone(), arrived);
                running.replica.applied(snapshot.index);
                self.counts.snapshots += 1;
            }
            if !effects.append.is_empty() {
                running.queue.push_back((effects.append, effects.sync));
            } else {
                assert_eq!(effects.sync, None);
            }
            for committed in effects.committed {
                store.apply(&committed);
                if let Some(changed) = effects.members.iter().find(|changed| changed.index == committed.index) {
                    store.members = Arc::clone(&changed.members);
                    self.counts.changes += 1;
                }
                self.trace = fold(self.trace, &committed.data);
                let entry = (committed.term, committed.data.clone());
                let known = self.history.entry(committed.index).or_insert_with(|| entry.clone());
                assert_eq!(*known, entry, "seed {seed}: index {} was committed twice", committed.index);
                running.replica.applied(committed.index);
            }
            for read in effects.reads {
                let at_least = running.reads.remove(&read.context).expect("answers are to questions");
                assert!(
                    read.index >= at_least,
                    "seed {seed}: a read at {} though {at_least} was committed",
                    read.index
                );
                self.counts.reads += 1;
                self.counts.reads_by_learners += usize::from(running.replica.standing().part == Part::Learner);
            }
            for context in effects.reads_lost {
                running.reads.remove(&context).expect("lost reads were asked");
                self.counts.reads_lost += 1;
            }
            if effects.snapshot_wanted.is_some() {
                // An older one is as good, if the log reaches back to it.
                if running.replica.start() > checkpoint.applied || self.chance.one_in(2) {
                    *checkpoint = store.clone();
                }
                assert_eq!(running.replica.members_at(checkpoint.applied).as_ref(), Some(&checkpoint.members));
                running.offered.push(checkpoint.clone());
                running.replica.offer_snapshot(checkpoint.applied);
            }
            for message in effects.send {
                let snapshot = match message.snapshot_index() {
                    Some(index) => {
                        let offered = running.offered.iter().find(|offered| offered.applied == index);
                        Some(offered.cloned().expect("only offered snapshots are sent"))
                    }
                    None => None,
                };
                assert_eq!(message.from(), *me);
                let to = message.to().0 as usize - 1;
                let bytes = Bytes::from(message.encode());
                self.trace = fold(self.trace, &bytes);
                self.net.push(Envelope { bytes, from: at, to, snapshot });
            }
            if !effects.more {
                break;
            }
        }
        // Most are shut down; some go on, and must not disturb.
        if removed && !self.chance.one_in(4) {
            self.retire(at);
        }
    }

    /// The log's thread takes everything queued. Whether it lived.
    fn log_turn(&mut self, at: usize, sync: bool) {
        let Some(running) = &mut self.members[at].running else {
            return;
        };
        let mut alive = true;
        for (append, mark) in running.queue.drain(..) {
            alive = alive && running.log.append(&append).is_ok();
            running.marks.extend(mark);
        }
        if sync && alive {
            alive = running.log.sync().is_ok();
            if alive {
                for mark in std::mem::take(&mut running.marks) {
                    running.replica.synced(mark);
                }
            }
        } else if alive {
            alive = running.log.write().is_ok();
        }
        if alive {
            self.effects(at);
        } else {
            self.crash(at);
        }
    }

    fn deliver(&mut self, which: usize, faults: bool) {
        let envelope = if faults && self.chance.one_in(20) {
            let Envelope { bytes, from, to, snapshot } = &self.net[which];
            Envelope { bytes: bytes.clone(), from: *from, to: *to, snapshot: snapshot.clone() }
        } else {
            self.net.swap_remove(which)
        };
        let Envelope { bytes, from, to, snapshot } = envelope;
        let lost = self.cut[from] || self.cut[to] || (faults && self.chance.one_in(25));
        let arrived = !lost && self.members[to].running.is_some();
        let has_snapshot = snapshot.is_some();
        if arrived {
            let message = Message::decode(&bytes).unwrap();
            self.with(to, |_| {});
            let running = self.members[to].running.as_mut().unwrap();
            if snapshot.is_some() {
                running.arrived = snapshot;
            }
            match running.replica.receive(message) {
                Ok(()) | Err(MessageError::Stranger { .. }) => {}
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
            self.effects(to);
        }
        if has_snapshot {
            let to = MemberId(to as u64 + 1);
            self.with(from, |replica| replica.snapshot_sent(to, arrived));
        } else if !arrived && self.chance.one_in(4) {
            let to = MemberId(to as u64 + 1);
            self.with(from, |replica| replica.unreachable(to));
        }
    }

    fn propose(&mut self, at: usize, count: usize) {
        for _ in 0..count {
            self.asked += 1;
            let length = if self.chance.one_in(30) { 9000 } else { 8 + self.chance.below(60) };
            let mut data = vec![self.chance.next() as u8; length];
            data[..8].copy_from_slice(&self.asked.to_le_bytes());
            let Some(running) = &mut self.members[at].running else {
                return;
            };
            let last = running.replica.last_index();
            match running.replica.propose(data) {
                Ok(proposed) => {
                    assert!(proposed.index > last);
                    self.counts.proposed += 1;
                }
                Err(ProposeError::NotLeader { .. } | ProposeError::Busy { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        self.effects(at);
    }

    fn read(&mut self, at: usize) {
        self.asked += 1;
        let committed = self.history.last_key_value().map_or(FOUNDING_INDEX, |(index, _)| *index);
        let Some(running) = &mut self.members[at].running else {
            return;
        };
        if running.replica.read(self.asked).is_ok() {
            running.reads.insert(self.asked, committed);
        }
        self.effects(at);
    }

    fn checkpoint_and_forget(&mut self, at: usize) {
        let keep = self.chance.below(12) as u64;
        let member = &mut self.members[at];
        let Some(running) = &mut member.running else {
            return;
        };
        member.checkpoint = member.store.clone();
        running.replica.forget(LogIndex(member.store.applied.0.saturating_sub(keep)));
        self.effects(at);
    }

    /// One of those who lead or believe it.
    fn a_leader(&mut self) -> Option<usize> {
        let leads =
            |member: &Member| member.running.as_ref().is_some_and(|r| r.replica.standing().role == Role::Leader);
        let leaders: Vec<usize> = (0..self.members.len()).filter(|at| leads(&self.members[*at])).collect();
        leaders.get(self.chance.below(leaders.len())).copied()
    }

    /// Asks a leader for a change, whatever comes of it.
    fn change(&mut self) {
        let Some(leader) = self.a_leader() else { return };
        let members = Arc::clone(self.members[leader].running.as_ref().unwrap().replica.members());
        let mut changes: Vec<MemberChange> = Vec::new();
        for _ in 0..=self.chance.below(3) {
            let one_of = |list: &[MemberId], chance: &mut Chance| list.get(chance.below(list.len())).copied();
            let change = match self.chance.below(10) {
                0..=3 if members.all().count() < 6 => {
                    let fresh = self.members.iter().find(|member| !member.exists).map(|member| member.me);
                    fresh.map(MemberChange::AddLearner)
                }
                4..=6 => one_of(members.learners(), &mut self.chance).map(MemberChange::Promote),
                7 => one_of(members.voters(), &mut self.chance).map(MemberChange::Demote),
                _ => {
                    let all: Vec<_> = members.all().collect();
                    one_of(&all, &mut self.chance).map(MemberChange::Remove)
                }
            };
            changes.extend(change.filter(|change| changes.iter().all(|other| other.member() != change.member())));
        }
        let replica = &mut self.members[leader].running.as_mut().unwrap().replica;
        if replica.change_members(&changes).is_err() {
            return;
        }
        for change in changes {
            if let MemberChange::AddLearner(member) = change {
                self.join(member, leader);
            }
        }
        self.effects(leader);
    }

    /// A new node starts for a member that is being added, and may never be.
    fn join(&mut self, me: MemberId, leader: usize) {
        let at = me.0 as usize - 1;
        let voters = self.members[leader].store.members.voters().to_vec();
        let known = Arc::new(Members::with_learners(voters, [me]).unwrap());
        let store = Store::new(JOINING_INDEX, Term(1), &known);
        self.members[at].exists = true;
        (self.members[at].store, self.members[at].checkpoint) = (store.clone(), store);
        if self.chance.one_in(2) {
            self.start(at);
        }
    }

    /// A joining node that has not begun gets a copy of another's store, as from a backup.
    fn copy(&mut self, at: usize) {
        let from = self.chance.below(self.members.len());
        let me = self.members[at].me;
        let joining = self.members[at].exists && self.members[at].checkpoint.applied == JOINING_INDEX;
        let copy = self.members[from].checkpoint.clone();
        if joining && copy.members.contains(me) && self.members[at].running.is_some() {
            self.members[at].running = None;
            self.members[at].checkpoint = copy;
            self.counts.joined_by_copy += 1;
            self.start(at);
        }
    }

    pub fn step(&mut self) {
        let count = self.members.iter().filter(|member| member.exists).count();
        let at = self.chance.below(count);
        if self.changing && self.chance.one_in(60) {
            self.change();
        }
        match self.chance.below(1000) {
            0..=249 => self.with(at, Replica::tick),
            250..=599 if !self.net.is_empty() => {
                let which = self.chance.below(self.net.len());
                self.deliver(which, true);
            }
            600..=789 => self.log_turn(at, true),
            790..=819 => self.log_turn(at, false),
            820..=899 => {
                let count = 1 + self.chance.below(5);
                self.propose(at, count);
            }
            900..=939 => self.read(at),
            940..=959 => self.checkpoint_and_forget(at),
            960..=963 => self.cut[at] = true,
            964..=966 => self.cut.fill(false),
            967..=971 => {
                let from = self.a_leader().unwrap_or(at);
                let to = MemberId(1 + self.chance.below(self.members.len()) as u64);
                let mut taken = false;
                self.with(from, |replica| taken = replica.transfer(to).is_ok());
                self.counts.transfers += usize::from(taken);
            }
            972..=975 if self.changing => self.copy(at),
            976..=981 if self.chance.one_in(self.calmness) => self.crash(at),
            982 => self.members[at].disk.fail_sync(1 + seed_part(self.chance.next())),
            984..=999 => self.start_if_it_should(at),
            _ => {}
        }
    }

    fn start_if_it_should(&mut self, at: usize) {
        let member = &self.members[at];
        if member.exists && !member.retired && member.running.is_none() {
            self.start(at);
        }
    }

    /// No more faults: everybody runs, hears and syncs. Ends when all agree and a new write is in.
    pub fn calm(&mut self) {
        self.cut.fill(false);
        let mut written = None;
        for _ in 0..400 {
            for at in 0..self.members.len() {
                self.start_if_it_should(at);
                self.members[at].disk.heal();
                self.with(at, Replica::tick);
                self.log_turn(at, true);
            }
            for _ in 0..4 {
                for _ in 0..self.net.len() {
                    self.deliver(0, false);
                }
                for at in 0..self.members.len() {
                    self.log_turn(at, true);
                }
            }
            let leader = self
                .members
                .iter()
                .position(|member| member.running.as_ref().is_some_and(|r| r.replica.standing().role == Role::Leader));
            if let Some(at) = leader {
                let running = self.members[at].running.as_mut().unwrap();
                let term = running.replica.standing().term;
                // What an earlier leader was given may be gone with it.
                written = written.filter(|proposed: &Proposed| {
                    let known = self.history.get(&proposed.index).map(|(term, _)| *term);
                    proposed.term == term || known == Some(proposed.term)
                });
                if written.is_none() {
                    written = running.replica.propose("the last one").ok();
                    self.effects(at);
                }
            }
            let (_, latest) = self.rosters.last_key_value().expect("the founding is known");
            let mut stores = latest.all().map(|member| &self.members[member.0 as usize - 1].store);
            let first = stores.next().expect("there is a member").clone();
            let settled = !latest.joint() && stores.all(|store| *store == first) && first.members == *latest;
            if let Some(proposed) = written
                && settled
                && first.applied >= proposed.index
            {
                let (term, data) = &self.history[&proposed.index];
                if *term == proposed.term {
                    assert_eq!(&data[..], b"the last one");
                    return;
                }
                written = None;
            }
        }
        let (_, latest) = self.rosters.last_key_value().expect("the founding is known");
        let mut told = format!("seed {}: no agreement in calm under {latest:?}", self.seed);
        for member in self.members.iter().filter(|member| member.exists) {
            let Member { me, store, retired, running, .. } = member;
            let replica = running.as_ref().map(|running| &running.replica);
            let progress = replica.map(Replica::progress);
            told += &format!("\n{me} retired {retired} {store:?}\n    {replica:?}\n    {progress:?}");
        }
        panic!("{told}");
    }

    /// Two logs that have an index and term in common have the entry in common.
    pub fn compare_logs(&self) {
        for one in &self.members {
            let Some(running) = &one.running else { continue };
            let reader = running.log.reader(SHARD).unwrap();
            for index in (reader.start().0 + 1..=reader.last().0).map(LogIndex) {
                let entry = reader.read(index).unwrap();
                if let Some((term, data)) = self.history.get(&index)
                    && index <= one.store.applied
                {
                    let normal = entry.kind == EntryKind::Normal;
                    assert_eq!((entry.term, normal), (*term, normal), "seed {}", self.seed);
                    assert!(!normal || entry.data == *data, "seed {}", self.seed);
                }
            }
        }
    }
}

fn fold(trace: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(trace.rotate_left(5) ^ bytes.len() as u64, |trace, byte| {
        (trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn seed_part(number: u64) -> u64 {
    number % 8
}
