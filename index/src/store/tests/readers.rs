//! Readers on other threads see consistent pictures while the owner applies and jobs run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{IndexKind, IndexSpec, SchemaChange};
use crate::filter::{Filter, Limit, Range};
use crate::view::{Effort, ScanRequest, SearchRequest, SearchScratch, ViewHandle};

#[test]
fn every_view_is_the_state_after_one_entry() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 1);
    let views = shard.store.views();
    let first = shard.log.len() as u64;
    // How many records there are after each entry.
    let counts = Mutex::new(vec![0u64; first as usize + 1]);
    let (done, checked) = (AtomicBool::new(false), AtomicU64::new(0));
    let (send_job, jobs) = std::sync::mpsc::channel::<Job>();
    let (send_done, finished) = std::sync::mpsc::channel();
    let directory = shard.directory.clone();
    std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (views, counts, done, checked) = (views.clone(), &counts, &done, &checked);
            scope.spawn(move || {
                let mut random = Random::new(reader + 77);
                let mut scratch = SearchScratch::new();
                while !done.load(Ordering::Acquire) {
                    let view = views.load();
                    let expected = {
                        let counts = counts.lock().unwrap();
                        counts.get(view.index() as usize).copied()
                    };
                    let Some(expected) = expected else { continue };
                    let collection = view.collection("n", "c").unwrap();
                    assert_eq!(collection.count(None, 0, &mut || true).unwrap(), expected);
                    let scan = ScanRequest {
                        after: None,
                        prefix: None,
                        filter: None,
                        limit: 9_999,
                        bytes_max: 1 << 30,
                        now: 0,
                    };
                    let page = collection.scan(&scan, &mut || true).unwrap();
                    assert_eq!(page.records.len() as u64, expected, "at {}", view.index());
                    let query = [random.float(), random.float(), random.float(), random.float()];
                    for effort in [Effort::Exact, Effort::default()] {
                        let request = SearchRequest {
                            field: 0,
                            query: &query,
                            k: 10_000,
                            effort,
                            filter: None,
                            max_distance: None,
                            now: 0,
                        };
                        let result = collection.search(&request, &mut scratch, &mut || true).unwrap();
                        assert_eq!(result.hits.len() as u64, expected);
                    }
                    for record in page.records {
                        let found = collection.get(record.key(), 0).expect("it was scanned");
                        assert_eq!(found.version(), record.version());
                        assert!(record.version() <= view.position().get());
                    }
                    checked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(move || {
            for job in jobs {
                let _ = send_done.send(job.run(&directory, &AtomicBool::new(false)));
            }
        });
        let mut random = Random::new(5);
        let (mut live, mut entry) = (std::collections::BTreeSet::new(), 0);
        // Until the readers have seen enough, however slow this machine is.
        while entry < 1_500 || checked.load(Ordering::Relaxed) < 50 {
            entry += 1;
            let mut changes = Vec::new();
            for _ in 0..1 + random.below(8) {
                let key = random.below(400);
                if random.chance(60) {
                    let embedding = (0..4).map(|_| random.float()).collect();
                    let content = Content { embeddings: vec![(0, embedding)], ..value("x") };
                    changes.push(change(c, &format!("k{key}"), Action::Put(content)));
                    live.insert(key);
                } else {
                    changes.push(delete(c, &format!("k{key}")));
                    live.remove(&key);
                }
            }
            counts.lock().unwrap().push(live.len() as u64);
            shard.command(write(changes));
            while let Some(job) = shard.store.next_job() {
                send_job.send(job).unwrap();
            }
            for done in finished.try_iter() {
                assert!(shard.store.install(done).error.is_none());
            }
        }
        done.store(true, Ordering::Release);
        drop(send_job);
    });
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
}

/// What a reader must find after each entry: all records, and those with a small number.
type Counts = Vec<(u64, u64)>;

fn few() -> Filter {
    let high = Some(Limit { value: Value::Int(3), inclusive: false });
    Filter::Range(vec!["n".into()], Range { low: None, high })
}

/// Counts and searches in the newest view, and is right about it. False: nobody knows yet what is right.
fn read(views: &ViewHandle, counts: &Mutex<Counts>, random: &mut Random, scratch: &mut SearchScratch) -> bool {
    let view = views.load();
    let expected = counts.lock().unwrap().get(view.index() as usize).copied();
    let Some((all, some)) = expected else { return false };
    let collection = view.collection("n", "c").unwrap();
    let filter = few();
    let query = [random.float(), random.float(), random.float(), random.float()];
    for (filter, expected) in [(None, all), (Some(&filter), some)] {
        assert_eq!(collection.count(filter, 0, &mut || true).unwrap(), expected, "at {}", view.index());
        for effort in [Effort::Exact, Effort::default()] {
            let request =
                SearchRequest { field: 0, query: &query, k: 10_000, effort, filter, max_distance: None, now: 0 };
            let hits = collection.search(&request, scratch, &mut || true).unwrap().hits;
            assert_eq!(hits.len() as u64, expected, "at {} by {effort:?}", view.index());
            assert!(hits.iter().all(|hit| filter.is_none_or(|filter| filter.takes(hit.record.attributes()))));
        }
    }
    true
}

struct Lives {
    shard: Shard,
    collection: u64,
    random: Random,
    /// The number of each live record.
    live: BTreeMap<u64, i64>,
    counts: Arc<Mutex<Counts>>,
    /// Segments that were to be linked anew and then were gone.
    relinked: usize,
}

impl Lives {
    fn command(&mut self, command: Command) {
        let some = self.live.values().filter(|number| **number < 3).count();
        self.counts.lock().unwrap().push((self.live.len() as u64, some as u64));
        self.shard.command(command);
    }

    fn write(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..1 + self.random.below(8) {
            let key = self.random.below(400);
            if self.random.chance(65) {
                let number = self.random.below(10) as i64;
                let attributes = attributes::encode(&Attributes::from([("n".into(), Value::Int(number))])).unwrap();
                let embeddings = vec![(0, (0..4).map(|_| self.random.float()).collect())];
                let content = Content { attributes, embeddings, ..Content::default() };
                changes.push(change(self.collection, &format!("k{key}"), Action::Put(content)));
                self.live.insert(key, number);
            } else {
                changes.push(delete(self.collection, &format!("k{key}")));
                self.live.remove(&key);
            }
        }
        self.command(write(changes));
    }

    /// The index comes, or goes again.
    fn alter(&mut self) {
        let path = vec!["n".to_owned()];
        let change = if self.random.chance(70) {
            let add = IndexSpec { path, kind: IndexKind::Value };
            SchemaChange { add_indexes: vec![add], ..SchemaChange::default() }
        } else {
            SchemaChange { remove_indexes: vec![path], ..SchemaChange::default() }
        };
        self.command(Command::AlterCollection { collection: self.collection, change });
    }

    /// From one start to the next death. What jobs wrote that nobody installed by then stays behind on the disk.
    fn life(&mut self) {
        let views = self.shard.store.views();
        let (done, checked) = (AtomicBool::new(false), AtomicU64::new(0));
        let (send_job, jobs) = std::sync::mpsc::channel::<Job>();
        let (send_done, finished) = std::sync::mpsc::channel();
        let directory = self.shard.directory.clone();
        let shared = Arc::clone(&self.counts);
        std::thread::scope(|scope| {
            for reader in 0..2u64 {
                let (views, counts, done, checked) = (views.clone(), Arc::clone(&shared), &done, &checked);
                scope.spawn(move || {
                    let (mut random, mut scratch) = (Random::new(reader + 91), SearchScratch::new());
                    while !done.load(Ordering::Acquire) {
                        let read = read(&views, &counts, &mut random, &mut scratch);
                        checked.fetch_add(u64::from(read), Ordering::Relaxed);
                    }
                });
            }
            scope.spawn(move || {
                for job in jobs {
                    let _ = send_done.send(job.run(&directory, &AtomicBool::new(false)));
                }
            });
            let mut asked = BTreeSet::new();
            let mut entry = 0;
            let relinked = self.relinked + 3;
            // Until enough has happened, however slow this machine is.
            while entry < 200 || checked.load(Ordering::Relaxed) < 10 || self.relinked < relinked {
                entry += 1;
                assert!(entry < 1_000_000, "nothing is linked anew");
                match self.random.below(20) {
                    0 => self.alter(),
                    _ => self.write(),
                }
                let there: BTreeSet<u64> =
                    self.shard.store.view().collection("n", "c").unwrap().graph_segments().into_iter().collect();
                self.relinked += asked.difference(&there).count();
                asked.retain(|file| there.contains(file));
                if let Some(&file) = there.first().filter(|_| self.random.chance(10)) {
                    self.shard.store.request_relink(file);
                    asked.insert(file);
                }
                while let Some(job) = self.shard.store.next_job() {
                    send_job.send(job).unwrap();
                }
                for done in finished.try_iter() {
                    assert!(self.shard.store.install(done).error.is_none());
                }
            }
            done.store(true, Ordering::Release);
            drop(send_job);
        });
    }
}

#[test]
fn searches_are_right_while_segments_are_merged_linked_anew_and_indexed_and_the_process_dies() {
    let mut shard = Shard::new(small());
    let collection = shard.collection("c", 1);
    let counts = Arc::new(Mutex::new(vec![(0, 0); shard.log.len() + 1]));
    let mut lives = Lives { shard, collection, random: Random::new(31), live: BTreeMap::new(), counts, relinked: 0 };
    for life in 0..6 {
        lives.life();
        let digest = lives.shard.store.digest();
        lives.shard.restart();
        assert_eq!(lives.shard.store.digest(), digest, "life {life}");
        assert_eq!(lives.shard.store.digest_from_records(), digest, "life {life}");
        assert!(read(&lives.shard.store.views(), &lives.counts, &mut Random::new(5), &mut SearchScratch::new()));
    }
    let add = IndexSpec { path: vec!["n".into()], kind: IndexKind::Value };
    let change = SchemaChange { add_indexes: vec![add], ..SchemaChange::default() };
    lives.command(Command::AlterCollection { collection, change });
    assert!(lives.shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    let view = lives.shard.store.view();
    assert!(view.segments().all(|(_, segment)| segment.has_index(&["n".into()])), "an index is not built");
    let files = lives.shard.files();
    let segments = files.iter().filter(|file| file.starts_with("segment-")).count();
    assert_eq!(segments, view.segments().count(), "what the dead left behind is gone: {files:?}");
}
