//! Readers on other threads see consistent pictures while the owner applies and jobs run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::view::{Effort, ScanRequest, SearchRequest, SearchScratch};

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
