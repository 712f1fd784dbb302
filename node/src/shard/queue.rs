//! The queue in front of a shard: how much may wait, and what waits.
//!
//! A write takes a [`Permit`] for its bytes and holds it until it is answered, so the bounds cover what is queued and what
//! is on its way to the disk. Without room the caller is told at once.
//!
//! Always: exactly one of the two sides decides what becomes of a waiting write. The shard's owner *begins* it, just
//! before it is logged; the caller *abandons* it when its deadline passes or it goes away. Whoever comes second finds
//! the state taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use loci_index::command::{Action, Change, Command, Content, ENTRY_BYTES_MAX, Envelope, Schema};
use loci_index::table::call::Unpacked;
use loci_index::table::commands;
use tokio::sync::oneshot;

use super::{Terms, WriteError, Written};
use crate::memory::Budget;
use crate::trace::Spot;

/// The most writes that may wait.
pub const QUEUE_WRITES_MAX: usize = 16_384;
/// The most bytes of writes that may wait.
pub const QUEUE_BYTES_MAX: usize = 192 << 20;
/// Two of the largest writes fit, so that one can be gathered while the other is on its way.
const _: () = assert!(QUEUE_BYTES_MAX >= 2 * ENTRY_BYTES_MAX);
/// What a write may take at most: an entry, less what the entry itself adds.
pub const WRITE_BYTES_MAX: usize = ENTRY_BYTES_MAX - (64 << 10);

const RETRY_AFTER_MIN: Duration = Duration::from_millis(5);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const ABANDONED: u8 = 2;

/// Counts what waits.
#[derive(Debug)]
pub(super) struct Queue {
    writes: AtomicUsize,
    bytes: AtomicUsize,
    /// How long the last answered write waited, in microseconds.
    wait_micros: AtomicU64,
    budget: Arc<Budget>,
}

/// Room for one write; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    queue: Arc<Queue>,
    bytes: usize,
}

/// One write on its way.
#[derive(Debug)]
pub struct Waiting {
    pub envelope: Envelope,
    /// On which it is made.
    pub terms: Terms,
    pub permit: Permit,
    pub since: Instant,
    pub turn: Turn,
    /// Where its trace is, if it is recorded.
    pub spot: Option<Spot>,
    pub reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// Which side decides what becomes of a write: see the module's front page.
#[derive(Debug, Clone)]
pub struct Turn(Arc<AtomicU8>);

impl Queue {
    pub fn new(budget: Arc<Budget>) -> Arc<Queue> {
        Arc::new(Queue {
            writes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            wait_micros: AtomicU64::new(0),
            budget,
        })
    }

    /// Room for a write of so many bytes, or when to ask again.
    pub fn admit(self: &Arc<Queue>, bytes: usize) -> Result<Permit, Duration> {
        let writes = self.writes.fetch_add(1, Ordering::Relaxed) + 1;
        let waiting = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.budget.enqueue(bytes as u64);
        let permit = Permit { queue: self.clone(), bytes };
        if writes > QUEUE_WRITES_MAX || waiting > QUEUE_BYTES_MAX { Err(self.retry_after()) } else { Ok(permit) }
    }

    /// How many writes wait.
    pub fn len(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    /// Their bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Tells how long an answered write had waited.
    pub fn answered_after(&self, wait: Duration) {
        self.wait_micros.store(wait.as_micros() as u64, Ordering::Relaxed);
    }

    /// About as long as a write now waits.
    fn retry_after(&self) -> Duration {
        Duration::from_micros(self.wait_micros.load(Ordering::Relaxed)).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }
}

impl Permit {
    /// For how many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.queue.writes.fetch_sub(1, Ordering::Relaxed);
        self.queue.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.queue.budget.dequeue(self.bytes as u64);
    }
}

impl Turn {
    pub fn new() -> Turn {
        Turn(Arc::new(AtomicU8::new(WAITING)))
    }

    /// The owner is about to log the write. False: the caller has abandoned it.
    pub fn begin(&self) -> bool {
        self.0.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller no longer waits. False: the write is already on its way.
    pub fn abandon(&self) -> bool {
        self.0.compare_exchange(WAITING, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// The most bytes that the envelope can take in an entry.
///
/// An archive pads every part to a multiple of its alignment and stores a fixed part for each; the allowances below
/// are larger than these are.
pub(in crate::shard) fn envelope_bytes(envelope: &Envelope) -> usize {
    const ENVELOPE: usize = 512;
    const PART: usize = 192;
    let origin = &envelope.origin;
    let origin_bytes =
        origin.principal.len() + origin.task.len() + origin.trace.len() + origin.request_id.len() + ENVELOPE;
    let command_bytes = match &envelope.command {
        Command::CreateNamespace { name } | Command::DropNamespace { name } => name.len(),
        Command::CreateCollection { namespace, name, schema } => {
            namespace.len() + name.len() + schema_bytes(schema) + PART
        }
        Command::InstallCollection(wanted) => {
            wanted.namespace.len() + wanted.name.len() + schema_bytes(&wanted.schema) + 2 * PART
        }
        Command::AlterCollection { change, .. } => {
            let added = change.add_indexes.iter().map(|index| path_bytes(&index.path));
            PART + added.chain(change.remove_indexes.iter().map(|path| path_bytes(path))).sum::<usize>()
        }
        Command::DropCollection { .. } => PART,
        Command::Execute(execution) => {
            let watched = execution.conditions.iter().map(|watched| watched.key.len() + PART).sum::<usize>();
            execution.calls.len() + watched + (execution.collections.len() + 1) * PART
        }
        Command::Remove(removal) => removal.filter.len() + PART,
        Command::Reclaim(reclaim) => reclaim.keys.iter().map(|key| key.len() + 16).sum::<usize>() + PART,
        Command::Write { conditions, changes } => {
            let conditions: usize = conditions.iter().map(|condition| condition.key.len() + PART).sum();
            conditions + changes.iter().map(change_bytes).sum::<usize>()
        }
    };
    return origin_bytes + command_bytes;

    fn schema_bytes(schema: &Schema) -> usize {
        let embeddings: usize = schema.embeddings.iter().map(|spec| spec.name.len() + PART).sum();
        let sparse: usize = schema.sparse.iter().map(|spec| spec.name.len() + PART).sum();
        let texts: usize = schema.texts.iter().map(|text| path_bytes(&text.path)).sum();
        let indexes: usize = schema.indexes.iter().map(|index| path_bytes(&index.path)).sum();
        embeddings + sparse + texts + indexes
    }

    fn path_bytes(path: &[String]) -> usize {
        path.iter().map(|name| name.len() + PART).sum::<usize>() + PART
    }

    fn change_bytes(change: &Change) -> usize {
        let action = match &change.action {
            Action::Put(content) => content_bytes(content),
            Action::Merge { content, remove_attributes, .. } => {
                content_bytes(content) + remove_attributes.iter().map(|name| name.len() + PART).sum::<usize>()
            }
            Action::Delete | Action::DeleteVersion(_) => 0,
        };
        change.key.len() + action + PART
    }

    fn content_bytes(content: &Content) -> usize {
        let embeddings: usize = content.embeddings.iter().map(|(_, vector)| 4 * vector.len() + PART).sum();
        let sparse: usize = content.sparse.iter().map(|(_, vector)| 8 * vector.len() + PART).sum();
        content.value.as_ref().map_or(0, Vec::len) + content.attributes.len() + embeddings + sparse + PART
    }
}

/// Whether a command only frees memory, and so may pass when there is none left.
pub(super) fn only_frees(command: &Command) -> bool {
    match command {
        Command::DropNamespace { .. } | Command::DropCollection { .. } => true,
        Command::Write { changes, .. } => {
            changes.iter().all(|change| matches!(change.action, Action::Delete | Action::DeleteVersion(_)))
        }
        // What a call does is for its command to say; a door that knows asks for those that only free by themselves.
        Command::Execute(execution) => only_calls_that_free(&execution.calls),
        Command::Reclaim(_) | Command::Remove(_) => true,
        // It may drop another collection, but is not sent for that.
        Command::InstallCollection(_) => false,
        Command::CreateNamespace { .. } | Command::CreateCollection { .. } | Command::AlterCollection { .. } => false,
    }
}

/// Whether no call makes the data larger.
pub(super) fn only_calls_that_free(calls: &[u8]) -> bool {
    let (mut unpacked, mut args) = (Unpacked::new(calls), Vec::new());
    while unpacked.next_into(&mut args).is_some() {
        if commands::find(args[0]).is_some_and(|spec| commands::needs_room(spec, &args)) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use loci_index::command::{
        Condition, Entry, Expect, IndexKind, IndexSpec, Installation, Language, Origin, SchemaChange, SparseSpec,
        TextSpec,
    };

    use super::*;

    fn queue() -> Arc<Queue> {
        Queue::new(Arc::new(Budget::new(1 << 30)))
    }

    #[test]
    fn the_queue_is_bounded_by_count() {
        let queue = queue();
        let permits: Vec<_> = (0..QUEUE_WRITES_MAX).map(|_| queue.admit(1).unwrap()).collect();
        assert_eq!(queue.admit(1).unwrap_err(), RETRY_AFTER_MIN);
        assert_eq!(queue.len(), QUEUE_WRITES_MAX);
        queue.answered_after(Duration::from_secs(9));
        assert_eq!(queue.admit(1).unwrap_err(), RETRY_AFTER_MAX);
        drop(permits);
        assert_eq!(queue.len(), 0);
        assert_eq!(queue.budget.used(), 0);
    }

    #[test]
    fn the_queue_is_bounded_by_bytes() {
        let queue = queue();
        let first = queue.admit(QUEUE_BYTES_MAX - 10).unwrap();
        queue.admit(11).unwrap_err();
        let second = queue.admit(10).unwrap();
        assert_eq!(queue.budget.used(), QUEUE_BYTES_MAX as u64);
        drop((first, second));
        queue.admit(WRITE_BYTES_MAX).unwrap();
    }

    #[test]
    fn a_write_is_begun_or_abandoned_never_both() {
        let turn = Turn::new();
        assert!(turn.begin());
        assert!(!turn.abandon());
        let turn = Turn::new();
        assert!(turn.abandon());
        assert!(!turn.begin());
    }

    #[test]
    fn an_entry_is_never_larger_than_its_envelopes_were_said_to_be() {
        let content = |n: usize| Content {
            value: Some(vec![7; n]),
            attributes: vec![8; n % 13],
            embeddings: (0..n % 3).map(|field| (field as u16, vec![1.0; n])).collect(),
            deadline: 9,
            ttl: 0,
            sparse: (0..n % 3).map(|field| (field as u16, vec![(5, 1.0); n])).collect(),
        };
        let index = |n: usize| IndexSpec { path: vec!["i".repeat(n); 1 + n % 5], kind: IndexKind::Substring };
        for n in 0..120 {
            let change = |action| Change { collection: 1, key: vec![1; n % 17], action };
            let merge = Action::Merge {
                content: content(n + 1),
                remove_attributes: vec!["x".repeat(n); n % 4],
                remove_deadline: true,
            };
            let changes = [Action::Put(content(n)), merge, Action::Delete, Action::DeleteVersion(3)].map(change);
            let conditions = vec![Condition { collection: 1, key: vec![2; n], expect: Expect::Version(3) }; n % 5];
            let origin = Origin {
                principal: "p".repeat(n),
                task: "t".repeat(n % 7),
                trace: "r".into(),
                request_id: vec![1; n % 64],
            };
            let schema = Schema {
                embeddings: vec![loci_index::command::EmbeddingSpec::new("e".repeat(n), 3, 1); n % 16],
                sparse: vec![SparseSpec { name: "s".repeat(n) }; n % 3],
                texts: vec![TextSpec { path: vec!["t".repeat(n); 1 + n % 3], language: Language::Plain }; n % 4],
                indexes: vec![index(n); n % 7],
                ..Schema::default()
            };
            let change = SchemaChange {
                add_indexes: vec![index(n); n % 3],
                remove_indexes: vec![index(n).path; n % 4],
                ..SchemaChange::default()
            };
            let (namespace, name) = ("n".repeat(n), "c".repeat(n % 9));
            let installation = Installation { collection: 9, namespace, name, schema: schema.clone() };
            let commands = [
                Command::InstallCollection(installation.into()),
                Command::AlterCollection { collection: 7, change },
                Command::Write { conditions, changes: changes.into() },
                Command::CreateNamespace { name: "n".repeat(n) },
                Command::CreateCollection { namespace: "n".repeat(n), name: "c".into(), schema },
                Command::DropCollection { collection: 4 },
            ];
            let commands: Vec<_> =
                commands.map(|command| Envelope { origin: origin.clone(), command }).into_iter().collect();
            let said: usize = commands.iter().map(envelope_bytes).sum();
            let bytes = Entry { clock: 1, commands }.encode().len();
            assert!(bytes <= said, "{n}: {bytes} bytes, said {said}");
        }
    }

    #[test]
    fn only_deletions_pass_when_memory_is_used_up() {
        let write = |actions: &[Action]| {
            let change = |action: &Action| Change { collection: 1, key: vec![1], action: action.clone() };
            Command::Write { conditions: vec![], changes: actions.iter().map(change).collect() }
        };
        assert!(only_frees(&write(&[Action::Delete, Action::DeleteVersion(1)])));
        assert!(!only_frees(&write(&[Action::Delete, Action::Put(Content::default())])));
        assert!(only_frees(&Command::DropCollection { collection: 1 }));
        assert!(!only_frees(&Command::CreateNamespace { name: "a".into() }));
        let (namespace, name) = ("a".into(), "b".into());
        let installation = Installation { collection: 1, namespace, name, schema: Schema::default() };
        assert!(!only_frees(&Command::InstallCollection(installation.into())));
    }
}
