//! Clients: what they ask for, whom, how long they wait, and what they make of the answers.
//!
//! ```text
//!   begin -> attempt -> (network) -> call on a node -> (network) -> answer
//!              ^                                                      |
//!              '---- not done: another node --------------------------+--> done, failed
//!              '---- nobody knows: the same request id again ---------'--> unknown
//! ```
//!
//! Each client does one thing at a time. A future of the shard's handle is polled by hand whenever the shard had a turn.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loci_index::command::{
    Action, Change, Command, Condition, Content, EmbeddingSpec, Envelope, Expect, Found, Origin, Outcome, Refusal,
    Schema,
};
use loci_index::distance::Metric;
use loci_index::view::View;
use loci_node::shard::{Level, ReadError, ShardHandle, WriteError, Written};

use super::histories::{Action as Recorded, Entry, Told};
use super::tables::{self, Drawn, VALUES, Words};
use super::{MILLIS, Nanos};
use crate::chance::Chance;
use crate::linearizable::{records, values};
use crate::plain::key_place;

/// The cache keyspace.
pub const KEYS: u64 = 1;
/// The collection with embeddings.
pub const NEAR: u64 = 2;
/// Components of an embedding.
pub const DIMENSION: usize = 4;
const NAMESPACE: &str = "n";
const FIELD: &str = "e";

/// What a client asks for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A write.
    Write(Box<Envelope>),
    /// A read, as new as that.
    Read(Level, What),
}

/// What a read reads.
#[derive(Debug, Clone)]
pub enum What {
    /// Records by key, from one view.
    Get(u64, Vec<Vec<u8>>),
    /// How many keys there are.
    Count,
    /// The nearest to this.
    Search(Vec<f32>, usize),
    /// A typed value, by a call that only looks.
    Look(u64, Words),
}

/// An answer on its way.
pub enum Reply {
    /// To a write.
    Wrote(Result<Written, WriteError>),
    /// To a read: the view, and what time it was there.
    Read(Result<Seen, ReadError>),
    /// Nobody listens there: the request was never taken.
    Refused,
    /// The connection broke after the request was sent.
    Broken,
}

/// What a read found.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The view's index.
    pub index: u64,
    /// For the history.
    pub told: Option<Told>,
}

/// Which attempt of which client an answer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The client.
    pub client: usize,
    /// Its how many-th operation.
    pub operation: u64,
    /// Its how many-th attempt.
    pub attempt: u32,
}

enum Waiting {
    Write(Pin<Box<dyn Future<Output = Result<Written, WriteError>>>>),
    View(Pin<Box<dyn Future<Output = Result<Arc<View>, ReadError>>>>),
}

/// What a polled call came to.
pub enum Polled {
    /// A write was answered.
    Wrote(Result<Written, WriteError>),
    /// A view is there.
    View(Result<Arc<View>, ReadError>),
}

/// A call that waits on a node.
pub struct Call {
    /// Whose.
    pub ticket: Ticket,
    /// What for.
    pub ask: Ask,
    /// The changes of standing that the process had seen when it came.
    pub standings: u64,
    /// Whether it was polled before.
    pub waited: bool,
    /// The client asked for the latest.
    pub latest: bool,
    /// What had been answered when it did.
    pub floor: u64,
    waiting: Waiting,
}

impl Call {
    /// Begins a call.
    pub fn new(ticket: Ticket, ask: Ask, handle: &ShardHandle) -> Call {
        let handle = handle.clone();
        let waiting = match &ask {
            Ask::Write(envelope) => {
                let envelope = envelope.clone();
                Waiting::Write(Box::pin(async move { handle.write(*envelope, None).await }))
            }
            Ask::Read(level, _) => {
                let level = *level;
                Waiting::View(Box::pin(async move { handle.view(level, None).await }))
            }
        };
        Call { ticket, ask, standings: 0, waited: false, latest: false, floor: 0, waiting }
    }

    /// What came of it, if anything did yet.
    pub fn poll(&mut self) -> Option<Polled> {
        let context = &mut Context::from_waker(Waker::noop());
        let polled = match &mut self.waiting {
            Waiting::Write(future) => future.as_mut().poll(context).map(Polled::Wrote),
            Waiting::View(future) => future.as_mut().poll(context).map(Polled::View),
        };
        match polled {
            Poll::Ready(polled) => Some(polled),
            Poll::Pending => {
                self.waited = true;
                None
            }
        }
    }
}

/// What a client is doing.
pub struct Operation {
    /// In which shard.
    pub shard: usize,
    /// What it asks for.
    pub ask: Ask,
    /// In the history, if it belongs there.
    pub call: Option<Entry>,
    /// How often it has asked.
    pub attempt: u32,
    /// Some attempt may have taken effect.
    pub unknown: bool,
    /// Whom it asks.
    pub node: usize,
    /// When it gives up.
    pub give_up_at: Nanos,
    /// What had been answered to anybody when it began: a read of the latest, or a write, must be newer.
    pub floor: u64,
}

/// How clients behave in a run.
#[derive(Debug, Clone)]
pub struct Habits {
    /// How many there are.
    pub clients: usize,
    /// On how many keys.
    pub keys: u64,
    /// The longest pause between two operations.
    pub pause: Nanos,
    /// How long one attempt may take.
    pub attempt: Nanos,
    /// How long an operation may take.
    pub patience: Nanos,
    /// Of a hundred operations so many write.
    pub writes: u64,
    /// Of a hundred operations so many are about typed values.
    pub typed: u64,
    /// What chooses the kind of value that each key stands for.
    pub turn: u64,
    /// Of a hundred writes so many have a request id.
    pub ids: u64,
    /// Of a hundred operations so many go to any node, not to the one that is thought to lead.
    pub anywhere: u64,
    /// Of a thousand requests, and answers, so many are lost.
    pub lost: u64,
    /// Whether some operations span keys, which makes the history one part.
    pub spans: bool,
}

impl Habits {
    /// Draws what a seed's clients are like.
    pub fn draw(chance: &mut Chance) -> Habits {
        Habits {
            clients: 1 + chance.index(8),
            keys: 1 + chance.below(6),
            pause: [100, 250, 500, 1000][chance.index(4)] * MILLIS,
            attempt: (400 + chance.below(2600)) * MILLIS,
            patience: (2000 + chance.below(8000)) * MILLIS,
            writes: 20 + chance.below(60),
            ids: [0, 50, 90, 100][chance.index(4)],
            anywhere: [5, 30, 80][chance.index(3)],
            lost: [0, 0, 5, 30][chance.index(4)],
            spans: chance.percent(50),
            typed: [0, 40, 60, 90][chance.index(4)],
            turn: chance.below(8),
        }
    }
}

/// See the module's front page.
pub struct Client {
    /// Its number.
    pub number: usize,
    /// How many operations it has begun.
    pub operations: u64,
    /// The one under way.
    pub operation: Option<Operation>,
    /// What it must do before anything else, until it is done: the last of it first.
    pub script: Vec<(usize, Command)>,
    /// What it knows of each shard.
    pub known: Vec<Known>,
    requests: u64,
}

/// What a client knows of a shard.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Where its last answer stands.
    pub token: u64,
    /// The node that it thinks leads.
    pub node: usize,
    /// A version that it saw lately.
    seen_version: u64,
    /// A record of its own that expires.
    timed: Option<Vec<u8>>,
    /// A typed value that it looked at lately.
    seen: Option<tables::Seen>,
    /// A lease that was held lately, and its number.
    lease: Option<(Vec<u8>, u64)>,
}

impl Known {
    /// A condition on a lease or a typed value, under which a record is written.
    fn condition(&self, chance: &mut Chance) -> Option<Condition> {
        match (&self.lease, &self.seen) {
            (Some((name, number)), _) if chance.percent(70) => {
                Some(Condition { collection: VALUES, key: name.clone(), expect: Expect::Lease(*number) })
            }
            (_, Some(seen)) => {
                let (collection, key) = (seen.collection, seen.key.clone());
                Some(Condition { collection, key, expect: Expect::Value(seen.version) })
            }
            _ => None,
        }
    }
}

impl Client {
    /// A client of so many shards that has done nothing.
    pub fn new(number: usize, shards: usize) -> Client {
        let known = vec![Known::default(); shards];
        Client { number, operations: 0, operation: None, script: Vec::new(), known, requests: 0 }
    }

    /// What makes the collections that all others use.
    pub fn preparation(cache_bytes: u64) -> Vec<Command> {
        let near = Schema {
            embeddings: vec![EmbeddingSpec::new(FIELD, DIMENSION as u32, Metric::SquaredL2 as u8)],
            ..Schema::default()
        };
        let collection =
            |name: &str, schema| Command::CreateCollection { namespace: NAMESPACE.into(), name: name.into(), schema };
        // The last one is taken first.
        vec![
            collection("cache", Schema { eviction_bytes: cache_bytes, ..Schema::default() }),
            collection("values", Schema::default()),
            collection("near", near),
            collection("keys", Schema::default()),
            Command::CreateNamespace { name: NAMESPACE.into() },
        ]
    }

    /// A write that shows that writes get through.
    pub fn probe() -> Command {
        put_record(KEYS, "probe".into(), vec![1])
    }

    fn envelope(&mut self, command: Command, with_id: bool) -> Box<Envelope> {
        self.requests += 1;
        let request_id = if with_id { self.requests.to_le_bytes().to_vec() } else { Vec::new() };
        let principal = format!("client {}", self.number);
        Box::new(Envelope { origin: Origin { principal, request_id, ..Origin::default() }, command })
    }

    /// The next command of the script and its shard, which is repeated until it is answered.
    pub fn scripted(&mut self) -> Option<(usize, Ask)> {
        let (shard, command) = self.script.last()?.clone();
        Some((shard, Ask::Write(self.envelope(command, true))))
    }

    /// What it wants to do next in a shard.
    pub fn draw(&mut self, shard: usize, chance: &mut Chance, habits: &Habits) -> Ask {
        let value = format!("{}.{}", self.number, self.operations);
        let known = &mut self.known[shard];
        let drawn = Drawn { keys: habits.keys, turn: habits.turn, value: &value, lease: known.lease.clone() };
        let typed = chance.percent(habits.typed);
        let key = |chance: &mut Chance| format!("k{}", chance.below(habits.keys)).into_bytes();
        if !chance.percent(habits.writes) {
            let own = chance.percent(60);
            let level = match chance.below(10) {
                0..=5 => Level::Latest,
                6..=7 if own => Level::AtLeast(known.token),
                6..=8 => Level::AtLeast(known.token),
                _ => Level::Stale,
            };
            let what = match chance.below(20) {
                _ if typed => {
                    let (collection, call) = tables::draw_look(chance, &drawn);
                    What::Look(collection, call)
                }
                0..=2 => What::Search((0..DIMENSION).map(|_| chance.component()).collect(), 1 + chance.index(5)),
                3..=5 if known.timed.is_some() => What::Get(KEYS, known.timed.iter().cloned().collect()),
                6..=7 if habits.spans => What::Get(KEYS, vec![key(chance), key(chance)]),
                8 if habits.spans => What::Count,
                _ => What::Get(KEYS, vec![key(chance)]),
            };
            return Ask::Read(level, what);
        }
        if typed {
            let command = match known.condition(chance).filter(|_| chance.percent(8)) {
                Some(condition) => {
                    let key = format!("f{}", chance.below(3)).into_bytes();
                    let content = Content { value: Some(value.into_bytes()), ..Content::default() };
                    write(vec![condition], vec![put(KEYS, key, content)])
                }
                None => tables::draw(chance, &drawn, known.seen.as_ref()),
            };
            let with_id = chance.percent(habits.ids);
            return Ask::Write(self.envelope(command, with_id));
        }
        let value = value.into_bytes();
        let content = Content { value: Some(value.clone()), ..Content::default() };
        let first = key(chance);
        let condition = |key: &[u8], expect| vec![Condition { collection: KEYS, key: key.to_vec(), expect }];
        let command = match chance.below(20) {
            0..=1 => write(vec![], vec![delete(KEYS, first)]),
            2..=3 => write(condition(&first, Expect::Absent), vec![put(KEYS, first, content)]),
            4..=5 => write(condition(&first, Expect::Version(known.seen_version)), vec![put(KEYS, first, content)]),
            6 => write(condition(&first, Expect::Present), vec![delete(KEYS, first)]),
            7..=8 if habits.spans && habits.keys > 1 => {
                let second = loop {
                    let second = key(chance);
                    if second != first {
                        break second;
                    }
                };
                let other = if chance.percent(30) { delete(KEYS, second) } else { put(KEYS, second, content.clone()) };
                write(vec![], vec![put(KEYS, first, content), other])
            }
            9..=10 => {
                // A key is used once, so that only time can end its record.
                let key = format!("t{}.{}", self.number, self.operations).into_bytes();
                known.timed = Some(key.clone());
                let ttl = 50 + chance.below(4000);
                write(vec![], vec![put(KEYS, key, Content { ttl, ..content })])
            }
            11..=13 => {
                let key = format!("e{}", chance.below(12)).into_bytes();
                let embedding = (0..DIMENSION).map(|_| chance.component()).collect();
                let near = put(NEAR, key.clone(), Content { embeddings: vec![(0, embedding)], ..content.clone() });
                let change = if chance.percent(20) { delete(NEAR, key) } else { near };
                write(vec![], vec![change])
            }
            _ => write(vec![], vec![put(KEYS, first, content)]),
        };
        let with_id = chance.percent(habits.ids);
        Ask::Write(self.envelope(command, with_id))
    }

    /// An answer arrived.
    pub fn learn(&mut self, shard: usize, index: u64, told: Option<&Told>) {
        let known = &mut self.known[shard];
        known.token = known.token.max(index);
        if let Some(Told::Looked(_, seen)) = told {
            known.seen = Some(seen.clone());
            if let (VALUES, Some(number)) = (seen.collection, seen.lease) {
                known.lease = Some((seen.key.clone(), number));
            }
        }
        let Some(Told::Record(told)) = told else { return };
        let version = match told {
            records::Outcome::Written { version, .. } => *version,
            records::Outcome::Records(found) => found.iter().flatten().find_map(|found| found.version),
            records::Outcome::Refused { found: records::Expect::Version(version), .. } => Some(*version),
            _ => None,
        };
        known.seen_version = version.unwrap_or(known.seen_version);
    }
}

/// A command that puts one record.
pub fn put_record(collection: u64, key: String, value: Vec<u8>) -> Command {
    write(vec![], vec![put(collection, key.into_bytes(), Content { value: Some(value), ..Content::default() })])
}

fn write(conditions: Vec<Condition>, changes: Vec<Change>) -> Command {
    Command::Write { conditions, changes }
}

fn put(collection: u64, key: Vec<u8>, content: Content) -> Change {
    Change { collection, key, action: Action::Put(content) }
}

fn delete(collection: u64, key: Vec<u8>) -> Change {
    Change { collection, key, action: Action::Delete }
}

/// Whether a key is one of those whose history must be linearizable: what expires is not, by nature.
fn is_recorded(collection: u64, key: &[u8]) -> bool {
    collection == KEYS && key.first() == Some(&b'k')
}

/// What stands in a history, if this belongs there.
pub fn recorded(ask: &Ask) -> Option<Recorded> {
    match ask {
        Ask::Read(Level::Latest, What::Look(VALUES, call)) if tables::is_recorded(&call[key_place(call)]) => {
            Some(Recorded::of_call(call.clone()))
        }
        Ask::Write(envelope) if matches!(envelope.command, Command::Execute(_)) => {
            tables::only_call(&envelope.command).map(Recorded::of_call)
        }
        ask => record_of(ask).map(Recorded::Record),
    }
}

fn record_of(ask: &Ask) -> Option<records::Action> {
    match ask {
        Ask::Read(Level::Latest, What::Count) => Some(records::Action::Count(b"k".to_vec())),
        Ask::Read(Level::Latest, What::Get(collection, keys)) => {
            keys.iter().all(|key| is_recorded(*collection, key)).then(|| records::Action::Get(keys.clone()))
        }
        Ask::Read(..) => None,
        Ask::Write(envelope) => {
            let Command::Write { conditions, changes } = &envelope.command else { return None };
            if !changes.iter().all(|change| is_recorded(change.collection, &change.key)) {
                return None;
            }
            let expect = |condition: &Condition| {
                let expect = match condition.expect {
                    Expect::Absent => records::Expect::Absent,
                    Expect::Present => records::Expect::Present,
                    Expect::Version(version) => records::Expect::Version(version),
                    Expect::Lease(_) | Expect::Value(_) => panic!("records are all that is written here"),
                };
                (condition.key.clone(), expect)
            };
            let change = |change: &Change| {
                let after = match &change.action {
                    Action::Put(content) => records::Change::Put(content.value.clone().unwrap_or_default()),
                    _ => records::Change::Delete,
                };
                (change.key.clone(), after)
            };
            Some(records::Action::Write {
                conditions: conditions.iter().map(expect).collect(),
                changes: changes.iter().map(change).collect(),
            })
        }
    }
}

/// What a history says of a write's outcome.
pub fn told(outcome: &Outcome) -> Option<Told> {
    match outcome {
        Outcome::Executed(Some(tape)) => Some(Told::Value(values::Outcome(tape.clone()))),
        outcome => record_told(outcome).map(Told::Record),
    }
}

fn record_told(outcome: &Outcome) -> Option<records::Outcome> {
    match outcome {
        Outcome::Written { version, existed } => {
            Some(records::Outcome::Written { version: Some(*version), existed: Some(existed.clone()) })
        }
        Outcome::Refused(Refusal::ConditionFailed { number, found, .. }) => {
            let found = match found {
                Found::Absent => records::Expect::Absent,
                Found::Version(version) => records::Expect::Version(*version),
            };
            Some(records::Outcome::Refused { condition: *number as usize, found })
        }
        _ => None,
    }
}
