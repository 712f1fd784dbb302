//! What clients ask of a cluster while things go wrong, and what must be true of the answers.
//!
//! ```text
//!   gets, puts, conditions, deletions of a few keys that all share --> history --> has an order that explains all answers
//!   memories with embeddings, of keys of one's own --> a search at once finds what was acknowledged
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use loci_client::{Client, Condition, Error, PutOptions, Record};
use tokio::task::JoinHandle;

use super::Cluster;
use crate::chance::Chance;
use crate::linearizable::records::{Action, Expect, Outcome, Records};
use crate::linearizable::{Recorder, STATES_MAX, check};

/// Of the memories' embeddings.
pub const DIMENSION: u32 = 8;
const CLIENTS: u64 = 6;
const KEYS: u64 = 4;
/// Keys of each client's memories.
const MEMORIES: u64 = 20;

/// The history of all clients' calls.
pub type Calls = Recorder<Action, Outcome>;

/// Clients at work.
pub struct Load {
    /// What they asked and were told.
    pub calls: Arc<Calls>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Visitor>>,
}

/// What a load came to.
#[derive(Debug)]
pub struct Report {
    /// The longest time in which no call of some client succeeded.
    pub longest: Duration,
    /// How many calls were made.
    pub calls: usize,
}

impl Load {
    /// Begins one. Every history begins with nothing there, so each round has keys of its own.
    pub fn begin(cluster: &Cluster, round: u64, chance: &mut Chance) -> Load {
        let (calls, stop) = (Arc::new(Calls::new()), Arc::new(AtomicBool::new(false)));
        let clients = (0..CLIENTS).map(|number| {
            let client = Visitor {
                client: cluster.client(),
                namespace: cluster.namespace(),
                round,
                number,
                chance: chance.fork(),
                calls: calls.clone(),
                known: vec![None; KEYS as usize],
                written: 0,
                memories: Default::default(),
                longest: Duration::ZERO,
                last: Instant::now(),
            };
            tokio::spawn(client.run(stop.clone()))
        });
        Load { clients: clients.collect(), calls, stop }
    }

    /// A key of this round's.
    pub fn key(round: u64, at: usize) -> String {
        format!("round {round}, key {at}")
    }

    /// Ends it. Fails if an answer was wrong.
    pub async fn end(self, what: &str) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for client in self.clients {
            longest = longest.max(client.await.expect("a client finds nothing wrong").longest);
        }
        let history = self.calls.snapshot();
        check::<Records>(&history, STATES_MAX).expect_linearizable(what);
        Report { longest, calls: history.calls().len() }
    }
}

/// One client: one call at a time.
struct Visitor {
    client: Client,
    namespace: &'static str,
    round: u64,
    number: u64,
    chance: Chance,
    calls: Arc<Calls>,
    /// The versions of the shared keys, as last told.
    known: Vec<Option<u64>>,
    written: u64,
    /// The own memories that were acknowledged.
    memories: std::collections::BTreeMap<u64, Vec<f32>>,
    longest: Duration,
    last: Instant,
}

impl Visitor {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Visitor {
        while !stop.load(Ordering::Relaxed) {
            match self.chance.below(100) {
                0..8 => self.remember().await,
                8..16 => self.recall().await,
                _ => self.call().await,
            }
            tokio::time::sleep(Duration::from_millis(self.chance.below(20))).await;
        }
        self
    }

    fn succeeded(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }

    fn memory_key(&self, at: u64) -> String {
        format!("round {}, client {}, memory {at}", self.round, self.number)
    }

    /// Writes a memory.
    async fn remember(&mut self) {
        let at = self.chance.below(MEMORIES);
        let embedding: Vec<f32> = (0..DIMENSION).map(|_| self.chance.component()).collect();
        let memories = self.client.collection(self.namespace, "memories");
        // Should it fail, either can be there.
        self.memories.remove(&at);
        let record = Record::new(self.memory_key(at)).with_embedding(embedding.clone());
        if memories.put(record).await.is_ok() {
            self.memories.insert(at, embedding);
            self.succeeded();
        }
    }

    /// Searches for a memory that was acknowledged: nothing can be nearer than itself.
    async fn recall(&mut self) {
        let Some((at, embedding)) = self.memories.iter().nth(self.chance.index(MEMORIES as usize)) else { return };
        let memories = self.client.collection(self.namespace, "memories");
        let key = self.memory_key(*at);
        if let Ok(hits) = memories.search(embedding.clone()).k(1).hits().await {
            let first = hits.first().map(|hit| String::from_utf8_lossy(&hit.record.key).into_owned());
            assert_eq!(first.as_deref(), Some(key.as_str()), "an acknowledged memory is not found: {hits:?}");
            self.succeeded();
        }
    }

    /// A call on a key that all share.
    async fn call(&mut self) {
        let cache = self.client.collection(self.namespace, "cache");
        let (number, calls) = (self.number, self.calls.clone());
        let at = self.chance.index(KEYS as usize);
        let key = Load::key(self.round, at);
        self.written += 1;
        let value = format!("{number}.{}", self.written);
        let record = || Record::new(key.clone()).with_value(value.clone());
        let (id, outcome) = match (self.chance.below(100), self.known[at]) {
            (0..45, _) => {
                let id = calls.invoke(number, Action::get(&key));
                let found = cache.get(key.clone()).await;
                (id, found.map(|found| answer(found.as_ref())))
            }
            (45..60, Some(version)) => {
                let id = calls.invoke(number, Action::put_if_version(&key, version, &value));
                let conditions = vec![Condition::version(key.clone(), version)];
                let options = PutOptions { conditions, ..PutOptions::default() };
                let written = cache.put_with([record()], options).await;
                (id, written.map(|written| (Outcome::written(written.version), Some(written.version))))
            }
            (60..70, _) => {
                let id = calls.invoke(number, Action::delete(&key));
                (id, cache.delete(key.clone()).await.map(|existed| (Outcome::deleted(existed), None)))
            }
            _ => {
                let id = calls.invoke(number, Action::put(&key, &value));
                let written = cache.put(record()).await;
                (id, written.map(|written| (Outcome::written(written.version), Some(written.version))))
            }
        };
        match outcome {
            Ok((outcome, version)) => {
                calls.ok(id, outcome);
                self.known[at] = version;
                self.succeeded();
            }
            Err(Error::ConditionFailed { version, .. }) => {
                let found = version.map_or(Expect::Absent, Expect::Version);
                calls.ok(id, Outcome::refused(found));
                self.known[at] = version;
                self.last = Instant::now();
            }
            Err(_) => calls.unknown(id),
        }
    }
}

/// What a get was told, and the version.
pub fn answer(found: Option<&Record>) -> (Outcome, Option<u64>) {
    match found {
        None => (Outcome::absent(), None),
        Some(record) => {
            let text = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
            (Outcome::record(&text, record.version), Some(record.version))
        }
    }
}
