//! Whole shards in one thread, with a made-up network, disks and stores, through the public interface
//! only. A seed is a reproduction.
//!
//! Messages are lost, doubled, late and out of order; members are cut off, killed and powered off with
//! writes in flight; logs are forgotten so that members need snapshots. Always:
//! - at most one leader a term;
//! - what one member commits at an index is what every member commits there, ever;
//! - a member commits every index once, in order, from where its store was;
//! - a read is told an index at least as new as everything committed anywhere when it began;
//! - with the faults gone, everyone soon agrees, and a new write gets through.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use loci_raft::{
    Append, Committed, FOUNDING_INDEX, FOUNDING_TERM, Log, LogIndex, LogOptions, MemberId, Members, MemoryDisk,
    Message, MessageKind, ProposeError, Replica, ReplicaOptions, Role, ShardId, SyncMark, Term, beginning, founding,
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

/// A state machine: everything it was told, folded into one number.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Store {
    applied: LogIndex,
    term: Term,
    digest: u64,
}

impl Store {
    fn new() -> Store {
        Store { applied: FOUNDING_INDEX, term: FOUNDING_TERM, digest: 0 }
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

struct Member {
    me: MemberId,
    disk: MemoryDisk,
    store: Store,
    /// What the store would come back with.
    checkpoint: Store,
    running: Option<Running>,
}

struct Running {
    log: Log<MemoryDisk>,
    replica: Replica,
    /// On its way to the log's thread.
    queue: VecDeque<(Vec<Append>, Option<SyncMark>)>,
    /// Written and not synced.
    marks: Vec<SyncMark>,
    /// Reads asked, with what was committed anywhere at that moment.
    reads: BTreeMap<u64, LogIndex>,
    /// The store as of the snapshot offered last.
    offered: Option<Store>,
    /// The data of a snapshot that arrived before its message.
    arrived: Option<Store>,
}

struct Envelope {
    bytes: Bytes,
    from: usize,
    to: usize,
    snapshot: Option<Store>,
}

struct Cluster {
    seed: u64,
    chance: Chance,
    members: Vec<Member>,
    roster: Arc<Members>,
    net: Vec<Envelope>,
    /// Members that hear nobody and are not heard.
    cut: Vec<bool>,
    /// Everything that was ever committed anywhere.
    history: BTreeMap<LogIndex, (Term, Bytes)>,
    leaders: BTreeMap<Term, MemberId>,
    asked: u64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    elections: usize,
    crashes: usize,
    reads: usize,
    reads_lost: usize,
    snapshots: usize,
    proposed: usize,
}

impl Cluster {
    fn new(seed: u64, size: u64) -> Cluster {
        let roster = Arc::new(Members::voting((1..=size).map(MemberId)).unwrap());
        let member = |me| Member {
            me: MemberId(me),
            disk: MemoryDisk::new(),
            store: Store::new(),
            checkpoint: Store::new(),
            running: None,
        };
        let mut cluster = Cluster {
            seed,
            chance: Chance(seed),
            members: (1..=size).map(member).collect(),
            roster,
            net: Vec::new(),
            cut: vec![false; size as usize],
            history: BTreeMap::new(),
            leaders: BTreeMap::new(),
            asked: 0,
            counts: Counts::default(),
        };
        for at in 0..cluster.members.len() {
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
            assert_eq!(member.checkpoint, Store::new(), "seed {}: a log was lost", self.seed);
            log.append(&founding(SHARD, &self.roster)).unwrap();
            log.sync().unwrap();
        }
        member.store = member.checkpoint;
        let Store { applied, term, .. } = member.store;
        // The power failed while a snapshot was received.
        if log.shard(SHARD).unwrap().term_of(applied) != Some(term) {
            log.append(&beginning(SHARD, applied, term, &self.roster)).unwrap();
            log.sync().unwrap();
        }
        let state = log.shard(SHARD).unwrap();
        let options = ReplicaOptions { shard: SHARD, me: member.me, applied, seed };
        let reader = log.reader(SHARD).unwrap();
        let replica =
            Replica::restore(options, &state, reader).unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        member.running = Some(Running {
            log,
            replica,
            queue: VecDeque::new(),
            marks: Vec::new(),
            reads: BTreeMap::new(),
            offered: None,
            arrived: None,
        });
        self.effects(at);
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
        loop {
            let effects = running.replica.effects().unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            if let Some(standing) = effects.standing
                && standing.role == Role::Leader
            {
                let leader = *self.leaders.entry(standing.term).or_insert(*me);
                assert_eq!(leader, *me, "seed {seed}: two leaders in term {}", standing.term);
                self.counts.elections += 1;
            }
            if let Some(snapshot) = effects.snapshot_received {
                let arrived = running.arrived.take().expect("the data came first");
                assert_eq!((arrived.applied, arrived.term), (snapshot.index, snapshot.term));
                (*store, *checkpoint) = (arrived, arrived);
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
            }
            for context in effects.reads_lost {
                running.reads.remove(&context).expect("lost reads were asked");
                self.counts.reads_lost += 1;
            }
            if effects.snapshot_wanted.is_some() {
                *checkpoint = *store;
                running.offered = Some(*store);
                running.replica.offer_snapshot(store.applied);
            }
            for message in effects.send {
                let snapshot = match message.snapshot_index() {
                    Some(index) => {
                        let offered = running.offered.filter(|offered| offered.applied == index);
                        Some(offered.expect("only offered snapshots are sent"))
                    }
                    None => None,
                };
                assert_eq!(message.from(), *me);
                let to = message.to().0 as usize - 1;
                let bytes = Bytes::from(message.encode());
                self.net.push(Envelope { bytes, from: at, to, snapshot });
            }
            if !effects.more {
                break;
            }
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
            Envelope { bytes: bytes.clone(), from: *from, to: *to, snapshot: *snapshot }
        } else {
            self.net.swap_remove(which)
        };
        let Envelope { bytes, from, to, snapshot } = envelope;
        let lost = self.cut[from] || self.cut[to] || (faults && self.chance.one_in(25));
        let arrived = !lost && self.members[to].running.is_some();
        if arrived {
            let message = Message::decode(&bytes).unwrap();
            self.with(to, |_| {});
            let running = self.members[to].running.as_mut().unwrap();
            if snapshot.is_some() {
                running.arrived = snapshot;
            }
            running.replica.receive(message).unwrap_or_else(|error| panic!("{error}"));
            self.effects(to);
        }
        if snapshot.is_some() {
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
        member.checkpoint = member.store;
        running.replica.forget(LogIndex(member.store.applied.0.saturating_sub(keep)));
        self.effects(at);
    }

    fn step(&mut self) {
        let at = self.chance.below(self.members.len());
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
            976..=981 => self.crash(at),
            982 => self.members[at].disk.fail_sync(1 + seed_part(self.chance.next())),
            983 => {
                let to = MemberId(1 + self.chance.below(self.members.len()) as u64);
                self.with(at, |replica| {
                    let _ = replica.transfer(to);
                });
            }
            984..=999 if self.members[at].running.is_none() => self.start(at),
            _ => {}
        }
    }

    /// No more faults: everybody runs, hears and syncs. Ends when all agree and a new write is in.
    fn calm(&mut self) {
        self.cut.fill(false);
        let mut written = None;
        for _ in 0..400 {
            for at in 0..self.members.len() {
                if self.members[at].running.is_none() {
                    self.start(at);
                }
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
            if let Some(at) = leader
                && written.is_none()
            {
                let running = self.members[at].running.as_mut().unwrap();
                written = running.replica.propose("the last one").ok();
                self.effects(at);
            }
            let settled = self.members.iter().all(|member| member.store == self.members[0].store);
            if let Some(proposed) = written
                && settled
                && self.members[0].store.applied >= proposed.index
            {
                let (term, data) = &self.history[&proposed.index];
                if *term == proposed.term {
                    assert_eq!(&data[..], b"the last one");
                    return;
                }
                written = None;
            }
        }
        let members: Vec<_> = self.members.iter().map(|m| (m.store, m.running.as_ref().map(|r| &r.replica))).collect();
        panic!("seed {}: no agreement in calm: {members:#?}", self.seed);
    }

    /// Two logs that have an index and term in common have the entry in common.
    fn compare_logs(&self) {
        for one in &self.members {
            let reader = one.running.as_ref().unwrap().log.reader(SHARD).unwrap();
            for index in (reader.start().0 + 1..=reader.last().0).map(LogIndex) {
                let entry = reader.read(index).unwrap();
                if let Some((term, data)) = self.history.get(&index) {
                    assert_eq!((entry.term, &entry.data), (*term, data), "seed {}", self.seed);
                }
            }
        }
    }
}

fn seed_part(number: u64) -> u64 {
    number % 8
}

fn run(seed: u64, size: u64, steps: usize) -> Counts {
    let mut cluster = Cluster::new(seed, size);
    for _ in 0..steps {
        cluster.step();
    }
    cluster.calm();
    cluster.compare_logs();
    cluster.counts
}

#[test]
fn three_members_agree_through_everything() {
    let mut total = Counts::default();
    for seed in 0..300 {
        let counts = run(seed, 3, 2500);
        total.elections += counts.elections;
        total.crashes += counts.crashes;
        total.reads += counts.reads;
        total.reads_lost += counts.reads_lost;
        total.snapshots += counts.snapshots;
        total.proposed += counts.proposed;
    }
    println!("{total:?}");
    assert!(total.elections > 600 && total.crashes > 1000, "{total:?}");
    assert!(total.reads > 1000 && total.reads_lost > 10, "{total:?}");
    assert!(total.snapshots > 50 && total.proposed > 5000, "{total:?}");
}

#[test]
fn five_members_agree_through_everything() {
    for seed in 0..40 {
        run(1000 + seed, 5, 3000);
    }
}

#[test]
fn one_member_agrees_with_itself_through_everything() {
    for seed in 0..60 {
        run(2000 + seed, 1, 1500);
    }
}

#[test]
fn a_seed_is_a_reproduction() {
    let trace = |seed| {
        let mut cluster = Cluster::new(seed, 3);
        for _ in 0..1500 {
            cluster.step();
        }
        let stores: Vec<_> = cluster.members.iter().map(|member| member.store).collect();
        let net: Vec<_> = cluster.net.iter().map(|envelope| envelope.bytes.clone()).collect();
        (stores, net, cluster.history)
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7).2, trace(8).2);
}

#[test]
fn a_message_of_another_kind_than_the_replica_knows_does_not_travel() {
    // The only kinds that come out of replicas in all these runs are those that a decoder accepts;
    // a snapshot says how far it reaches, the others do not.
    let mut cluster = Cluster::new(11, 3);
    let mut kinds = Vec::new();
    for _ in 0..3000 {
        cluster.step();
        for envelope in &cluster.net {
            let message = Message::decode(&envelope.bytes).unwrap();
            if !kinds.contains(&message.kind()) {
                kinds.push(message.kind());
            }
            let is_snapshot = message.kind() == MessageKind::Snapshot;
            assert_eq!(message.snapshot_index().is_some(), is_snapshot);
        }
    }
    assert!(kinds.len() >= 9, "{kinds:?}");
}
