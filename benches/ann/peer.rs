//! The crate hnsw_rs with loci's own distance kernel, so that what differs is the graph and how it is kept.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use hnsw_rs::prelude::{Distance, Hnsw};
use loci_index::distance::{Kernel, Metric};
use serde_json::Value;

use crate::ladder::{Built, Cost, Engine, climb};
use crate::set::{K, Set};
use crate::{Args, machine, progress};

/// The crate makes copies of its distance; only what is shared by all can count.
static COUNTING: AtomicBool = AtomicBool::new(false);
static DISTANCES: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
struct Cosine(Kernel);

impl Distance<f32> for Cosine {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        if COUNTING.load(Ordering::Relaxed) {
            DISTANCES.fetch_add(1, Ordering::Relaxed);
        }
        // The crate asserts that no distance is negative, which rounding can make it.
        (self.0)(a, b).max(0.0)
    }
}

struct Peer<'s>(Hnsw<'s, f32, Cosine>);

impl Engine for Peer<'_> {
    fn search(&mut self, query: &[f32], ef: usize, rows: &mut Vec<u32>) {
        rows.clear();
        rows.extend(self.0.search(query, K, ef).iter().map(|hit| hit.d_id as u32));
    }

    fn cost(&mut self, query: &[f32], ef: usize) -> Option<Cost> {
        DISTANCES.store(0, Ordering::Relaxed);
        COUNTING.store(true, Ordering::Relaxed);
        self.0.search(query, K, ef);
        COUNTING.store(false, Ordering::Relaxed);
        let distances = DISTANCES.load(Ordering::Relaxed);
        // Of the links, which are pointers to pointers, nobody keeps count.
        Some(Cost { distances, bytes: distances * 4 * query.len() as u64 })
    }
}

/// Builds and searches.
pub fn measure(args: &Args, set: &Set) -> Value {
    let spinner = progress("hnsw_rs: building", None);
    machine::reset_peak();
    let (before, begun, cpu_begun) = (machine::memory("VmRSS"), Instant::now(), machine::process_seconds());
    let graph = Hnsw::new(args.m, set.len(), 16, args.ef_construction, Cosine(Metric::Cosine.kernel()));
    let rows: Vec<Vec<f32>> = (0..set.len()).map(|row| set.record(row).to_vec()).collect();
    let numbered: Vec<_> = rows.iter().enumerate().map(|(row, embedding)| (embedding, row)).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().expect("threads");
    pool.install(|| graph.parallel_insert(&numbered));
    let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), machine::process_seconds() - cpu_begun);
    let peak = machine::memory("VmHWM").saturating_sub(before);
    drop(numbered);
    drop(rows);
    spinner.finish_and_clear();
    let memory_bytes = machine::memory("VmRSS").saturating_sub(before);
    let built = Built { seconds, cpu_seconds, memory_bytes, memory_peak_bytes: peak, index_bytes: memory_bytes };
    climb(args, set, args.engine.name(), "0.3.5", &built, &mut Peer(graph))
}
