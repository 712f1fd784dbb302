//! The store against a plain model, with checkpoints, merges, failures and crashes at random moments.

mod ask;
mod churn;
mod effects;
mod damage;
mod faults;
mod indexes;
mod installation;
mod leases;
mod model;
mod newest;
mod random;
mod readers;
mod recall;
mod relink;
mod removal;
mod rest;
mod tables;
mod turnover;
mod typed;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Done, Installed, Job, Store, StoreOptions};
use crate::command::{
    Action, Change, Command, Condition, Content, EmbeddingSpec, Entry, Envelope, Expect, Origin, Outcome, Schema,
};
use crate::directory::RamDirectory;
use crate::distance::Metric;
use crate::graph::GraphOptions;

/// A chance that comes from a seed alone (xorshift).
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// From -1 to 1.
    pub fn float(&mut self) -> f32 {
        self.below(1 << 24) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Small buffers and small graphs, so that a short test goes through all of it.
fn small() -> StoreOptions {
    StoreOptions {
        buffer_rows_max: 32,
        buffer_keys_max: 32,
        graph_rows_min: 64,
        graph: GraphOptions { m: 8, ef_construction: 48, threads: 1 },
        ..StoreOptions::default()
    }
}

/// A store with its directory and its log.
struct Shard {
    store: Store,
    directory: RamDirectory,
    options: StoreOptions,
    /// Entry `i + 1` and what became of it.
    log: Vec<(Vec<u8>, Vec<Outcome>)>,
}

impl Shard {
    fn new(options: StoreOptions) -> Shard {
        let directory = RamDirectory::new();
        let store = Store::create(Arc::new(directory.clone()), options.clone(), [3; 32], 0).unwrap();
        Shard { store, directory, options, log: Vec::new() }
    }

    fn entry(&mut self, clock: u64, commands: Vec<Envelope>) -> Vec<Outcome> {
        let entry = Entry { clock, commands }.encode();
        let outcomes = self.store.apply(self.log.len() as u64 + 1, &entry).unwrap();
        self.log.push((entry, outcomes.clone()));
        outcomes
    }

    fn command(&mut self, command: Command) -> Outcome {
        let clock = self.store.clock();
        self.entry(clock, vec![envelope(command)]).remove(0)
    }

    /// A namespace "n" with a collection of that many embeddings "e0", "e1"... of four components.
    fn collection(&mut self, name: &str, embeddings: usize) -> u64 {
        self.command(Command::CreateNamespace { name: "n".into() });
        let schema = Schema { embeddings: specs(embeddings, 4, Metric::SquaredL2), ..Schema::default() };
        match self.command(Command::CreateCollection { namespace: "n".into(), name: name.into(), schema }) {
            Outcome::Created { collection } => collection,
            other => panic!("{other:?}"),
        }
    }

    fn run(&self, job: Job) -> Done {
        job.run(&self.directory, &AtomicBool::new(false))
    }

    /// Runs jobs until there are none.
    fn rest(&mut self) -> Vec<Installed> {
        let mut installed = Vec::new();
        while let Some(job) = self.store.next_job() {
            let done = self.run(job);
            installed.push(self.store.install(done));
        }
        installed
    }

    /// Checkpoints and merges until there is nothing left to do.
    fn checkpoint(&mut self) -> Vec<Installed> {
        let mut all = Vec::new();
        loop {
            self.store.request_checkpoint();
            let installed = self.rest();
            if installed.is_empty() {
                return all;
            }
            all.extend(installed);
        }
    }

    /// The process dies, and a new one opens the store and applies the rest of the log.
    fn restart(&mut self) {
        self.store = Store::open(Arc::new(self.directory.clone()), self.options.clone()).unwrap();
        for index in self.store.applied() + 1..=self.log.len() as u64 {
            let (entry, outcomes) = &self.log[index as usize - 1];
            assert_eq!(self.store.apply(index, entry).unwrap(), *outcomes, "replaying entry {index}");
        }
    }

    fn disk_bytes(&self) -> usize {
        use crate::directory::Directory;
        let names = self.directory.list().unwrap();
        names.iter().map(|name| self.directory.bytes(name).map_or(0, |bytes| bytes.len())).sum()
    }

    fn files(&self) -> Vec<String> {
        use crate::directory::Directory;
        self.directory.list().unwrap()
    }
}

fn specs(count: usize, dimension: u32, metric: Metric) -> Vec<EmbeddingSpec> {
    (0..count).map(|i| EmbeddingSpec::new(format!("e{i}"), dimension, metric.code())).collect()
}

fn envelope(command: Command) -> Envelope {
    Envelope { origin: Origin::default(), command }
}

fn request(id: &[u8], command: Command) -> Envelope {
    let origin = Origin { principal: "ann".into(), request_id: id.to_vec(), ..Origin::default() };
    Envelope { origin, command }
}

fn write(changes: Vec<Change>) -> Command {
    Command::Write { conditions: Vec::new(), changes }
}

fn write_if(conditions: Vec<Condition>, changes: Vec<Change>) -> Command {
    Command::Write { conditions, changes }
}

fn condition(collection: u64, key: &str, expect: Expect) -> Condition {
    Condition { collection, key: key.into(), expect }
}

fn change(collection: u64, key: &str, action: Action) -> Change {
    Change { collection, key: key.into(), action }
}

fn value(text: &str) -> Content {
    Content { value: Some(text.into()), ..Content::default() }
}

fn put(collection: u64, key: &str, text: &str) -> Change {
    change(collection, key, Action::Put(value(text)))
}

fn delete(collection: u64, key: &str) -> Change {
    change(collection, key, Action::Delete)
}
