//! A shard of one member with a real log, driven by hand.

use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use loci_index::command::{Action, Change, Command, Content, Durability, Envelope, Origin, Outcome, Schema};
use loci_index::directory::MmapDirectory;
use loci_index::store::StoreOptions;
use loci_raft::{FOUNDING_INDEX, FileDisk, Log, LogOptions, Members, ReplicaOptions, ShardId, founding};

use super::handle::Phase;
use super::*;
use crate::log_thread::{Begin, LogFigures, LogOpener, LogThread, SYNC_WITHIN};

/// A shard of one member with a log of its own on the disk, driven by hand.
struct Alone {
    handle: ShardHandle,
    owner: Owner,
    events: Receiver<Event>,
    log: Arc<LogFigures>,
    _opener: LogOpener,
    _folder: tempfile::TempDir,
}

impl Alone {
    fn new() -> Alone {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(FileDisk::open(folder.path().join("log")).unwrap(), LogOptions::default()).unwrap();
        let figures = Arc::new(LogFigures::default());
        let (_, _, opener) = LogThread::start(log, folder.path().into(), Arc::clone(&figures), Vec::new()).unwrap();
        let mailbox = Mailbox::new();
        let members = Arc::new(Members::voting([MemberId(1)]).unwrap());
        let begin: Begin = Box::new(move |_| founding(ShardId(1), &members));
        let opened = opener.open(ShardId(1), mailbox.listener(), begin).unwrap().unwrap();
        let options = ReplicaOptions { shard: ShardId(1), me: MemberId(1), applied: FOUNDING_INDEX, seed: 1 };
        let directory: Arc<dyn Directory> = Arc::new(MmapDirectory::open(folder.path()).unwrap());
        let budget = Arc::new(Budget::new(1 << 30));
        let jobs = jobs::Jobs::start(&directory, &mailbox.sender, &budget, opened.handle.syncer()).unwrap();
        let store = Store::create(directory, StoreOptions::default(), [7; 32], FOUNDING_INDEX.0).unwrap();
        let beginning = Beginning {
            id: 1,
            replica: Replica::restore(options, &opened.state, opened.reader).unwrap(),
            store,
            log: opened.handle,
            budget,
            clock: Arc::new(Clock::new()),
            outbox: Box::new(|_| {}),
            options: OwnerOptions {
                checkpoint_bytes: 1 << 30,
                buffers_bytes_max: 1 << 30,
                kept_bytes: 1 << 20,
                log_path: "the log".into(),
                eviction: Default::default(),
                history_bytes: 0,
            },
            history: None,
        };
        let (handle, owner, events) = make(mailbox, beginning, jobs);
        let mut alone = Alone { handle, owner, events, log: figures, _opener: opener, _folder: folder };
        while alone.handle.0.phase() != Phase::Ready {
            alone.turn();
        }
        alone
    }

    fn turn(&mut self) {
        for event in self.events.try_iter() {
            self.owner.take(event).unwrap();
        }
        self.owner.turn().unwrap();
    }

    fn write(&mut self, command: Command) -> Outcome {
        let handle = self.handle.clone();
        let mut writing = Box::pin(handle.write(Envelope { origin: Origin::default(), command }, None));
        loop {
            if let Poll::Ready(written) = writing.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                return written.unwrap().outcome;
            }
            self.turn();
        }
    }

    fn collection(&mut self, name: &str, durability: Durability) -> u64 {
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
