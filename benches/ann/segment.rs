//! loci as a library: one segment with its graph, written, opened and searched through the public API.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use loci_benches::Numbered;
use loci_index::directory::{Directory, MmapDirectory};
use loci_index::distance::Metric;
use loci_index::graph::GraphOptions;
use loci_index::graph::search::Scratch;
use loci_index::segment::{Effort, FieldSpec, Search, Segment, Spec, write};
use serde_json::{Value, json};

use crate::ladder::{Built, Cost, Engine, climb};
use crate::set::{K, Set};
use crate::{Args, machine, progress};

struct Ours {
    segment: Segment,
    scratch: Scratch,
    /// Of a vector, of its code with what is beside it, and of a node's links, in bytes.
    vector_bytes: u64,
    code_bytes: u64,
    link_bytes: u64,
}

impl Ours {
    fn run(&mut self, query: &[f32], ef: usize) {
        let search = Search { field: 0, query, k: K, effort: Effort::Graph { ef, budget: None } };
        let found = self.segment.nearest(&search, |_| true, || true, &mut self.scratch);
        let _ = found.expect("the query fits the segment");
    }
}

impl Engine for Ours {
    fn search(&mut self, query: &[f32], ef: usize, rows: &mut Vec<u32>) {
        self.run(query, ef);
        rows.clear();
        rows.extend(self.scratch.hits().iter().map(|hit| hit.row));
    }

    fn cost(&mut self, query: &[f32], ef: usize) -> Option<Cost> {
        self.run(query, ef);
        let (codes, vectors) = (self.scratch.codes_read() as u64, self.scratch.vectors_read() as u64);
        let bytes =
            codes * self.code_bytes + vectors * self.vector_bytes + self.scratch.hops() as u64 * self.link_bytes;
        Some(Cost { distances: codes + vectors, bytes })
    }
}

/// Builds, opens and searches.
pub fn measure(args: &Args, set: &Set, folder: &Path) -> Value {
    let directory = MmapDirectory::open(args.keep.as_deref().unwrap_or(folder)).expect("a folder of our own");
    let fields = [FieldSpec {
        name: "embedding".into(),
        dimension: set.dimension as u32,
        metric: Metric::Cosine,
        half: args.half,
        coded: !args.no_codes,
    }];
    let graph = GraphOptions { m: args.m, ef_construction: args.ef_construction, threads: args.threads };
    let spec =
        Spec { collection: 1, sparse: 0, texts: &[], fields: &fields, indexes: &[], graph: Some(graph), hash_seed: 1 };
    let rows = Numbered::new(set.dimension, &set.base);

    let spinner = progress("loci: building", None);
    machine::reset_peak();
    let (before, begun, cpu_begun) = (machine::memory("VmRSS"), Instant::now(), machine::process_seconds());
    if directory.is_empty().expect("the folder is read") {
        write(&directory, "set", &spec, &rows, &AtomicBool::new(false)).expect("the segment is written");
    }
    let segment = Segment::open(&directory, "set").expect("the segment opens");
    let (seconds, cpu_seconds) = (begun.elapsed().as_secs_f64(), machine::process_seconds() - cpu_begun);
    let peak = machine::memory("VmHWM").saturating_sub(before);
    // All of it in memory, as the other engines have theirs; the pages of the file count.
    segment.keep_hot();
    spinner.finish_and_clear();
    let built = Built {
        seconds,
        cpu_seconds,
        memory_bytes: machine::memory("VmRSS").saturating_sub(before),
        memory_peak_bytes: peak,
        index_bytes: segment.file_bytes(),
    };
    let vector_bytes = if args.half { 2 } else { 4 } * set.dimension as u64;
    let link_bytes = 8 * args.m as u64;
    let code_bytes = (set.dimension as u64).next_multiple_of(64) + 8;
    let group = confine(args, &segment);
    let mut ours = Ours { segment, scratch: Scratch::new(), vector_bytes, code_bytes, link_bytes };
    let name = match (args.no_codes, args.half) {
        (false, false) => "loci",
        (true, false) => "loci-no-codes",
        (false, true) => "loci-f16",
        (true, true) => "loci-f16-no-codes",
    };
    let mut row = climb(args, set, name, env!("CARGO_PKG_VERSION"), &built, &mut ours);
    if let Some(group) = group {
        row["engine"] = json!(format!("{name}-confined"));
        row["confined_peak_bytes"] = json!(group.peak());
        row["walked_bytes"] = json!(ours.segment.walked_bytes());
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        eprintln!(
            "{:.0} MB of memory at its peak while searching, {:.0} MB of them to walk on",
            megabytes(group.peak()),
            megabytes(ours.segment.walked_bytes())
        );
    }
    row
}

/// Goes where there is only so much memory, if that was asked for, and keeps there what searches walk on.
fn confine(args: &Args, segment: &Segment) -> Option<machine::Group> {
    let (mib, parent) = (args.memory_mib?, args.group.as_ref()?);
    // Pages belong to the group that first read them, so all are given back before.
    segment.shed(0, segment.file_bytes(), false);
    let group = machine::Group::enter(parent, mib << 20).unwrap_or_else(|error| {
        eprintln!("{}: {error}", parent.display());
        std::process::exit(2);
    });
    segment.keep_walk_hot();
    Some(group)
}
