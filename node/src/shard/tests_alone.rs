//! A shard of one member with a real log, driven by hand.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use arc_swap::ArcSwap;
use loci_index::command::{
    Action, Change, Command, Content, Durability, Envelope, Execution, Origin, Outcome, Refusal, Schema, SchemaChange,
};
use loci_index::directory::MmapDirectory;
use loci_index::store::StoreOptions;
use loci_index::table;
use loci_index::table::call::Packed;
use loci_index::table::eviction::{NamespaceRoom, Policy, Room};
use loci_index::view::View;
use loci_raft::{FOUNDING_INDEX, FileDisk, Log, LogOptions, Members, ReplicaOptions, ShardId, founding};

use super::handle::{Phase, SHORT_BYTES_MAX};
use super::*;
use crate::log_thread::{Begin, LogFigures, LogOpener, LogThread, Report, SYNC_WITHIN};

/// A shard of one member with a log of its own on the disk, driven by hand.
pub(super) struct Alone {
    pub handle: ShardHandle,
    pub owner: Owner,
    pub events: Receiver<Event>,
    /// What it has said to others.
    pub sent: Arc<Mutex<Vec<Message>>>,
    log: Arc<LogFigures>,
    ground: Ground,
}

/// What is under it.
pub(super) struct Ground {
    _opener: LogOpener,
    _closing: Closing,
    _folder: tempfile::TempDir,
}

/// Waits for the log's end, once nobody uses it any more: until then its folder has to be there.
struct Closing(Option<LogThread>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.take().map(LogThread::close);
    }
}

impl Alone {
    pub fn new() -> Alone {
        Alone::gathering(Duration::ZERO)
    }

    /// Behind an entry that is on its way writes gather for so long.
    fn gathering(gathering: Duration) -> Alone {
        Alone::made(1, Arc::default(), Siblings::default(), gathering)
    }

    /// Of a node that makes room by these rules, and has these shards.
    fn told(id: u32, eviction: Arc<ArcSwap<Room>>, siblings: Siblings) -> Alone {
        Alone::made(id, eviction, siblings, Duration::ZERO)
    }

    fn made(id: u32, eviction: Arc<ArcSwap<Room>>, siblings: Siblings, gathering: Duration) -> Alone {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(FileDisk::open(folder.path().join("log")).unwrap(), LogOptions::default()).unwrap();
        let figures = Arc::new(LogFigures::default());
        let (thread, _, opener) =
            LogThread::start(log, folder.path().into(), Arc::clone(&figures), Vec::new()).unwrap();
        let mailbox = Mailbox::new();
        let members = Arc::new(Members::voting([MemberId(1)]).unwrap());
        let begin: Begin = Box::new(move |_| founding(ShardId(1), &members));
        let opened = opener.open(ShardId(1), mailbox.listener(), begin).unwrap().unwrap();
        let options = ReplicaOptions { shard: ShardId(1), me: MemberId(1), applied: FOUNDING_INDEX, seed: 1 };
        let directory: Arc<dyn Directory> = Arc::new(MmapDirectory::open(folder.path()).unwrap());
        let sent = Arc::<Mutex<Vec<Message>>>::default();
        let budget = Arc::new(Budget::new(1 << 30));
        let jobs = jobs::Jobs::start(&directory, &mailbox.sender, &budget, opened.handle.syncer()).unwrap();
        let store = Store::create(directory, StoreOptions::default(), [7; 32], FOUNDING_INDEX.0).unwrap();
        let beginning = Beginning {
            id,
            replica: Replica::restore(options, &opened.state, opened.reader).unwrap(),
            store,
            log: opened.handle,
            budget,
            clock: Arc::new(Clock::new()),
            outbox: Box::new({
                let sent = sent.clone();
                move |message| sent.lock().unwrap().push(message)
            }),
            options: OwnerOptions {
                checkpoint_bytes: 1 << 30,
                buffers_bytes_max: 1 << 30,
                kept_bytes: 1 << 20,
                log_path: "the log".into(),
                eviction,
                siblings,
                history_bytes: 0,
                gathering,
            },
            history: None,
        };
        let (handle, owner, events) = make(mailbox, beginning, jobs);
        let mut alone = Alone {
            handle,
            owner,
            events,
            sent,
            log: figures,
            ground: Ground { _opener: opener, _closing: Closing(Some(thread)), _folder: folder },
        };
        while alone.handle.0.phase() != Phase::Ready {
            alone.turn();
        }
        alone
    }

    /// The owner, the others' way to it, and what has to stay while there is either.
    pub fn apart(self) -> (Owner, ShardHandle, Receiver<Event>, Ground) {
        (self.owner, self.handle, self.events, self.ground)
    }

    pub fn turn(&mut self) {
        for event in self.events.try_iter() {
            self.owner.take(event).unwrap();
        }
        self.owner.turn().unwrap();
    }

    /// Begins a write. Whether an entry is made of it at once.
    fn goes_on_its_way(&mut self, writing: Pin<&mut impl Future<Output = Result<Written, WriteError>>>) -> bool {
        assert!(writing.poll(&mut Context::from_waker(Waker::noop())).is_pending());
        for event in self.events.try_iter() {
            self.owner.take(event).unwrap();
        }
        self.owner.propose()
    }

    fn write(&mut self, command: Command) -> Outcome {
        let handle = self.handle.clone();
        let writing = async move { handle.write(Envelope { origin: Origin::default(), command }, None).await };
        self.until(writing).unwrap().outcome
    }

    /// Turns until a write is answered.
    fn until(&mut self, writing: impl Future<Output = Result<Written, WriteError>>) -> Result<Written, WriteError> {
        let mut writing = std::pin::pin!(writing);
        loop {
            if let Poll::Ready(written) = writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return written;
            }
            self.turn();
        }
    }

    /// A command on typed values that may not make a full collection larger, with a request id.
    fn command(
        &self,
        collection: u64,
        id: &str,
        words: &[&str],
    ) -> impl Future<Output = Result<Written, WriteError>> + use<> {
        self.command_on(Terms { within_room: true, ..Terms::default() }, collection, id, words)
    }

    fn command_on(
        &self,
        terms: Terms,
        collection: u64,
        id: &str,
        words: &[&str],
    ) -> impl Future<Output = Result<Written, WriteError>> + use<> {
        command_on(&self.handle, terms, collection, id, words)
    }

    /// Has it carried out.
    fn execute(&mut self, collection: u64, id: &str, words: &[&str]) -> Result<Outcome, WriteError> {
        let writing = self.command(collection, id, words);
        self.until(writing).map(|written| written.outcome)
    }

    pub fn collection(&mut self, name: &str, durability: Durability) -> u64 {
        self.write(Command::CreateNamespace { name: "n".into() });
        let schema = Schema { durability, ..Schema::default() };
        match self.write(Command::CreateCollection { namespace: "n".into(), name: name.into(), schema }) {
            Outcome::Created { collection } => collection,
            outcome => panic!("{outcome:?}"),
        }
    }

    fn put(&mut self, collection: u64) {
        let content = Content { value: Some(vec![1; 100]), ..Content::default() };
        let changes = vec![Change { collection, key: b"k".to_vec(), action: Action::Put(content) }];
        self.write(Command::Write { conditions: vec![], changes });
    }
}

/// A command on typed values.
pub(super) fn command_on(
    handle: &ShardHandle,
    terms: Terms,
    collection: u64,
    id: &str,
    words: &[&str],
) -> impl Future<Output = Result<Written, WriteError>> + use<> {
    let mut packed = Packed::new();
    packed.push(0, words.iter().map(|word| word.as_bytes()));
    let (collections, calls) = (vec![collection], packed.into_bytes());
    let execution = Execution { collections, conditions: Vec::new(), calls, atomic: false };
    let origin = Origin { request_id: id.as_bytes().to_vec(), ..Origin::default() };
    let (handle, command) = (handle.clone(), Command::Execute(execution.into()));
    async move { handle.write_as(Envelope { origin, command }, terms, None).await }
}

#[test]
fn what_is_only_written_is_synced_before_a_checkpoint_holds_it() {
    let mut alone = Alone::new();
    let (synced, buffered) = (alone.collection("s", Durability::Synced), alone.collection("b", Durability::Buffered));
    let before = alone.log.sync_seconds.count();
    alone.put(synced);
    assert_eq!(alone.log.sync_seconds.count(), before + 1);
    let begun = Instant::now();
    alone.put(buffered);
    let written = alone.log.sync_seconds.count();
    assert!(written == before + 1 || begun.elapsed() >= SYNC_WITHIN);
    let (reply, mut made) = oneshot::channel();
    alone.owner.take(Event::Checkpoint(reply)).unwrap();
    while made.try_recv().is_err() {
        alone.turn();
    }
    assert!(alone.log.sync_seconds.count() >= before + 2);
}

fn is_refused<T: std::fmt::Debug>(done: Result<T, WriteError>) -> bool {
    match done {
        Err(WriteError::NoRoom { namespace, collection }) => (&*namespace, &*collection) == ("n", "c"),
        _ => false,
    }
}

#[test]
fn what_finds_no_room_is_refused_unless_it_was_asked_for_before() {
    let large = "x".repeat(500_000);
    let mut alone = Alone::new();
    let collection = alone.collection("c", Durability::Synced);
    let change = SchemaChange {
        eviction_bytes: Some(400_000),
        eviction_policy: Some(Some(Policy::None)),
        ..SchemaChange::default()
    };
    alone.write(Command::AlterCollection { collection, change });
    let first = alone.execute(collection, "a", &["INCRBYFLOAT", "n", "1"]).unwrap();
    let filled = alone.execute(collection, "b", &["SET", "k", &large]).unwrap();
    assert!(is_refused(alone.execute(collection, "c", &["SET", "l", "1"])));
    assert!(is_refused(alone.execute(collection, "", &["SET", "l", "1"])), "without an id");
    assert_eq!(alone.execute(collection, "a", &["INCRBYFLOAT", "n", "1"]), Ok(first));
    assert_eq!(alone.execute(collection, "b", &["SET", "k", &large]), Ok(filled));
    assert!(
        alone.execute(collection, "d", &["GET", "k"]).is_ok() && alone.execute(collection, "e", &["DEL", "k"]).is_ok()
    );
    assert!(alone.execute(collection, "c", &["SET", "l", "1"]).is_ok(), "what was refused can be tried again");
}

#[test]
fn what_may_have_been_carried_out_and_forgotten_is_not_carried_out_again() {
    let large = "x".repeat(4_000_000);
    let mut alone = Alone::new();
    let collection = alone.collection("c", Durability::Synced);
    alone.execute(collection, "large", &["SET", "k", &large]).unwrap();
    let asked_since = alone.owner.store().clock();
    let first = alone.execute(collection, "a", &["INCR", "n"]).unwrap();
    let again = |alone: &mut Alone, id: &str, asked_since| {
        let writing = alone.command_on(Terms { asked_since, ..Terms::default() }, collection, id, &["INCR", "n"]);
        alone.until(writing).map(|written| written.outcome)
    };
    assert_eq!(again(&mut alone, "a", asked_since), Ok(first.clone()), "as long as it is remembered");
    assert!(again(&mut alone, "b", asked_since).is_ok(), "nothing was forgotten");
    std::thread::sleep(Duration::from_millis(5));
    for number in 0..12 {
        alone.execute(collection, &format!("get {number}"), &["GET", "k"]).unwrap();
    }
    assert!(!alone.owner.store().has_answered("", b"a"), "its outcome has left");
    assert_eq!(again(&mut alone, "a", asked_since), Err(WriteError::Forgotten));
    assert_eq!(again(&mut alone, "c", asked_since), Err(WriteError::Forgotten), "nobody knows that it was not");
    let lately = alone.owner.store().clock();
    assert!(again(&mut alone, "d", lately + 1).is_ok(), "what was asked for since cannot have been forgotten");
    assert!(again(&mut alone, "e", 0).is_ok(), "what was never asked for");
}

#[test]
fn a_request_under_way_is_asked_for_again_without_room() {
    let large = "x".repeat(500_000);
    let (eviction, siblings) = (Arc::<ArcSwap<Room>>::default(), Siblings::default());
    let mut alone = Alone::told(1, eviction.clone(), siblings);
    let collection = alone.collection("c", Durability::Synced);
    alone.execute(collection, "a", &["SET", "k", &large]).unwrap();
    let writing = alone.command(collection, "b", &["INCR", "n"]);
    let mut writing = std::pin::pin!(writing);
    assert!(alone.goes_on_its_way(writing.as_mut()));
    let own = NamespaceRoom { name: "n".into(), bytes: 1_000, all_bytes: 1_000, policy: Some(Policy::None) };
    eviction.store(Arc::new(Room { namespace: Some(own), ..Room::default() }));
    let again = alone.command(collection, "b", &["INCR", "n"]);
    let mut again = std::pin::pin!(again);
    assert!(alone.goes_on_its_way(again.as_mut()), "before the first is applied");
    let again = alone.until(again).unwrap();
    assert_eq!(alone.until(writing).unwrap().outcome, again.outcome);
    assert!(is_refused(alone.execute(collection, "c", &["INCR", "n"])));
}

#[test]
fn without_memory_a_request_is_refused_unless_it_was_asked_for_before() {
    let mut alone = Alone::new();
    let collection = alone.collection("c", Durability::Synced);
    let first = alone.execute(collection, "a", &["INCR", "n"]).unwrap();
    let writing = alone.command(collection, "b", &["INCR", "n"]);
    let mut writing = std::pin::pin!(writing);
    assert!(alone.goes_on_its_way(writing.as_mut()));
    let short = alone.handle.0.budget.bytes();
    alone.handle.0.budget.store_changed(0, short);
    let again = alone.command(collection, "b", &["INCR", "n"]);
    let mut again = std::pin::pin!(again);
    assert!(!alone.goes_on_its_way(again.as_mut()));
    assert_eq!(alone.until(again), Err(WriteError::Unconfirmed { shard: 1 }), "before the first is applied");
    let second = alone.until(writing).unwrap();
    let applied = alone.owner.store().applied();
    let again = alone.command(collection, "b", &["INCR", "n"]);
    assert_eq!(alone.until(again), Ok(Written { outcome: second.outcome, index: applied }));
    assert_eq!(alone.execute(collection, "a", &["INCR", "n"]), Ok(first));
    let large = "x".repeat(SHORT_BYTES_MAX);
    for (id, words) in [("c", &["INCR", "n"][..]), ("", &["INCR", "n"]), ("a", &["SET", "n", &large])] {
        let refused = alone.execute(collection, id, words);
        assert!(matches!(refused, Err(WriteError::MemoryFull { .. })), "{refused:?}");
    }
    assert_eq!(alone.owner.store().applied(), applied, "none of this is in the log");
    alone.handle.0.budget.store_changed(short, 0);
    assert!(alone.execute(collection, "c", &["INCR", "n"]).is_ok(), "what was refused can be tried again");
}

#[test]
fn on_a_full_disk_a_request_is_refused_unless_it_was_asked_for_before() {
    let mut alone = Alone::new();
    let collection = alone.collection("c", Durability::Synced);
    let full = || Event::Log(Report::Full { needed_bytes: 1 });
    let first = alone.execute(collection, "a", &["INCR", "n"]).unwrap();
    let writing = alone.command(collection, "b", &["INCR", "n"]);
    let mut writing = std::pin::pin!(writing);
    assert!(alone.goes_on_its_way(writing.as_mut()));
    let again = alone.command(collection, "b", &["INCR", "n"]);
    let mut again = std::pin::pin!(again);
    assert!(again.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    alone.owner.take(full()).unwrap();
    assert_eq!(alone.until(again), Err(WriteError::Unconfirmed { shard: 1 }), "before the first is applied");
    let second = alone.until(writing).unwrap();
    let applied = alone.owner.store().applied();
    alone.owner.take(full()).unwrap();
    let again = alone.command(collection, "b", &["INCR", "n"]);
    assert_eq!(alone.until(again), Ok(Written { outcome: second.outcome, index: applied }));
    assert_eq!(alone.execute(collection, "a", &["INCR", "n"]), Ok(first));
    let other = alone.execute(collection, "a", &["INCR", "m"]);
    assert_eq!(other, Ok(Outcome::Refused(Refusal::RequestConflict)));
    for id in ["c", ""] {
        let refused = alone.execute(collection, id, &["INCR", "n"]);
        assert!(matches!(refused, Err(WriteError::DiskFull { .. })), "{refused:?}");
    }
    assert_eq!(alone.owner.store().applied(), applied, "none of this is in the log");
}

#[test]
fn what_shards_may_take_together_is_used_up_in_all_of_them() {
    let large = "x".repeat(500_000);
    let own = NamespaceRoom { name: "n".into(), bytes: 600_000, all_bytes: 1_200_000, policy: None };
    let room = Arc::new(ArcSwap::from_pointee(Room { namespace: Some(own), ..Room::default() }));
    let siblings = Siblings::default();
    let [mut one, mut other] = [1, 2].map(|id| Alone::told(id, room.clone(), siblings.clone()));
    let [of_one, of_other] = [&mut one, &mut other].map(|shard| shard.collection("c", Durability::Synced));
    one.execute(of_one, "a", &["SET", "k", &large]).unwrap();
    one.execute(of_one, "b", &["SET", "l", &large]).unwrap();
    // It has more than its share, and the other needs less than its.
    one.execute(of_one, "c", &["SET", "m", "1"]).unwrap();
    other.execute(of_other, "a", &["SET", "k", &large]).unwrap();
    assert!(is_refused(one.execute(of_one, "d", &["SET", "n", "1"])));
    siblings.remove(2);
    one.execute(of_one, "d", &["SET", "n", "1"]).unwrap();
}

/// Of each of these values, set one after the other: how often the thread is called for it, and whether it then goes on its way; and
/// in which entry each is.
fn ways(values: &[&str]) -> (Vec<(usize, bool)>, Vec<u64>) {
    let mut alone = Alone::gathering(Duration::MAX);
    let collection = alone.collection("c", Durability::Synced);
    let keys: Vec<String> = (0..values.len()).map(|number| number.to_string()).collect();
    let mut writing: Vec<_> = std::iter::zip(&keys, values)
        .map(|(key, value)| Box::pin(alone.command(collection, key, &["SET", key, value])))
        .collect();
    let ways = writing.iter_mut().map(|write| {
        assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let mut calls = 0;
        for event in alone.events.try_iter() {
            calls += usize::from(matches!(event, Event::Writes));
            alone.owner.take(event).unwrap();
        }
        (calls, alone.owner.propose())
    });
    let ways = ways.collect();
    (ways, writing.into_iter().map(|write| alone.until(write).unwrap().index).collect())
}

#[test]
fn while_as_many_entries_are_on_their_way_as_may_be_the_thread_is_called_once() {
    let large = "x".repeat(64 << 10);
    let (ways, entries) = ways(&[large.as_str(); 6]);
    // Two go on their way; the third stays where it is, and those after it are found there with it.
    assert_eq!(ways, [(1, true), (1, true), (1, false), (0, false), (0, false), (0, false)]);
    assert_ne!(entries[0], entries[1]);
}

#[test]
fn small_writes_gather_while_an_entry_is_on_its_way_until_they_are_enough_for_the_next() {
    let half = "x".repeat(32 << 10);
    let (ways, entries) = ways(&["x", "x", "x", &half, "x", &half, "x", "x"]);
    let expected = [(1, true), (1, false), (0, false), (0, false), (0, false), (1, true), (1, false), (0, false)];
    assert_eq!(ways, expected);
    let first = entries[0];
    let [second, third] = [first + 1, first + 2];
    assert_eq!(entries, [first, second, second, second, second, second, third, third]);
}

#[test]
fn what_gathers_is_looked_at_once_its_time_is_up_however_late_the_thread_asks() {
    let gathering = Duration::from_millis(20);
    let mut alone = Alone::gathering(gathering);
    let collection = alone.collection("c", Durability::Synced);
    // Should this thread be held up in between, there is nothing to see.
    let gathers = (0..20).any(|_| {
        let mut writes = ["a", "b"].map(|key| Box::pin(alone.command(collection, key, &["SET", key, "1"])));
        let [first, second] = &mut writes;
        assert!(alone.goes_on_its_way(first.as_mut()));
        let gathers = !alone.goes_on_its_way(second.as_mut());
        if gathers {
            assert!(alone.owner.idle_for() <= gathering);
            std::thread::sleep(gathering);
            assert_eq!(alone.owner.idle_for(), Duration::ZERO);
        }
        writes.into_iter().for_each(|write| drop(alone.until(write).unwrap()));
        gathers
    });
    assert!(gathers);
}

/// What somebody was told, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Begun(Wants),
    Keys(Vec<String>),
}

fn ear(handle: &ShardHandle, wants: Wants) -> (Ear, Arc<Mutex<Vec<Heard>>>) {
    let heard = Arc::<Mutex<Vec<Heard>>>::default();
    let told = heard.clone();
    let shows = handle.clone();
    let tell = move |view: &View, happened: &Happened| {
        assert_eq!(view.index(), shows.newest().index(), "what is told of is shown");
        told.lock().unwrap().push(match happened {
            Happened::Begun(wants) => Heard::Begun(*wants),
            Happened::Jumped => panic!("no snapshot came"),
            Happened::Events(events) => Heard::Keys(
                events
                    .iter()
                    .filter_map(|(_, event)| match event {
                        table::Event::Changed { key } => Some(String::from_utf8_lossy(key).into_owned()),
                        _ => None,
                    })
                    .collect(),
            ),
        });
    };
    (handle.listen(Arc::new(tell), wants), heard)
}

#[test]
fn whoever_listens_is_told_from_when_on_and_then_misses_nothing() {
    let mut alone = Alone::new();
    let collection = alone.collection("c", Durability::Synced);
    let all = Wants { changes: true, names: false };
    let heard_of = |heard: &Arc<Mutex<Vec<Heard>>>| std::mem::take(&mut *heard.lock().unwrap());
    let keys = |key: &str| Heard::Keys(vec![key.to_owned()]);
    let (one, one_heard) = ear(&alone.handle, Wants::default());
    assert_eq!(heard_of(&one_heard), [], "not before the owner has had a turn: it may be at work");
    alone.turn();
    assert_eq!(heard_of(&one_heard), [Heard::Begun(Wants::default())]);
    alone.execute(collection, "a", &["SET", "a", "1"]).unwrap();
    assert_eq!(heard_of(&one_heard), [], "nobody wants it");
    one.wants(all);
    alone.turn();
    assert_eq!(heard_of(&one_heard), [Heard::Begun(all)]);
    alone.execute(collection, "b", &["SET", "b", "1"]).unwrap();
    assert_eq!(heard_of(&one_heard), [keys("b")]);
    // Another one, who wants less, hears what the first wants.
    let (other, other_heard) = ear(&alone.handle, Wants::default());
    alone.turn();
    alone.execute(collection, "c", &["SET", "c", "1"]).unwrap();
    assert_eq!(heard_of(&other_heard), [Heard::Begun(Wants::default()), keys("c")]);
    assert_eq!(heard_of(&one_heard), [Heard::Begun(all), keys("c")], "also what is told to all");
    drop(one);
    alone.execute(collection, "d", &["SET", "d", "1"]).unwrap();
    assert_eq!((heard_of(&one_heard), heard_of(&other_heard)), (vec![], vec![]), "nobody wants it any more");
    other.wants(all);
    alone.turn();
    alone.execute(collection, "e", &["SET", "e", "1"]).unwrap();
    assert_eq!(heard_of(&other_heard), [Heard::Begun(all), keys("e")]);
}
