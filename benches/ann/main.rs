//! A whole data set through loci and through hnsw_rs: how fast, how exact, at what cost.
//!
//! ```text
//!   base.npy --> segment::write --> Segment::open --> nearest(ef) for a ladder of ef     --engine loci
//!            \-> hnsw_rs, with loci's distance kernel ------> search(ef), the same ladder  --engine hnsw_rs
//!            '-> Store: entries, checkpoints, merges -------> filtered searches            --filtered
//! ```
//!
//! Each engine prints its row as a line of JSON on standard output, first without and then with more and more of the ladder, as
//! `benches/peers/measure.py` does for the Python libraries, and a table for people on standard error; `benches/peers/run.py` puts all of them side by side.
//!
//! `cargo run --release -p loci-benches --bin ann -- SETS/minilm-60k`
#![forbid(unsafe_code)]

mod filtered;
mod ladder;
mod machine;
mod peer;
mod segment;
mod set;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use set::Set;

/// Measures nearest-neighbour search on a data set.
#[derive(Parser)]
#[command(name = "ann")]
struct Args {
    /// Folder with base.npy (or embeddings.npy), queries.npy and gt.npy (or ground_truth.npy).
    set: PathBuf,
    /// Which engine.
    #[arg(long, value_enum, default_value_t = EngineName::Loci)]
    engine: EngineName,
    /// Measure filtered searches through a store instead, beside unfiltered ones and exact scans.
    #[arg(long)]
    filtered: bool,
    /// Links of a node; twice as many in the lowest layer.
    #[arg(long, default_value_t = 16)]
    m: usize,
    /// Candidates considered for a node's links.
    #[arg(long, default_value_t = 200)]
    ef_construction: usize,
    /// Threads that build. Searching is always one.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// loci: walk on the full components instead of codes of one byte each.
    #[arg(long)]
    no_codes: bool,
    /// loci: keep the full components as f16.
    #[arg(long)]
    half: bool,
    /// Only so many of the queries; 0: all, or 300 with --filtered.
    #[arg(long, default_value_t = 0)]
    queries: usize,
    /// Only so many of the records, whose nearest are then computed; 0: all.
    #[arg(long, default_value_t = 0)]
    records: usize,
    /// Passes over the queries at each rung; the fastest counts.
    #[arg(long, default_value_t = 3)]
    passes: usize,
    /// loci: search within so many MiB of memory, pages of the file among them, with graph and codes read into it before;
    /// needs --group.
    #[arg(long, requires = "group")]
    memory_mib: Option<u64>,
    /// A memory control group that can have children, as `LOCI_CGROUP` in the tests.
    #[arg(long)]
    group: Option<PathBuf>,
    /// The ladder ends at the first rung beyond this recall.
    #[arg(long, default_value_t = 0.9985)]
    recall_max: f64,
    /// Where loci's segment is kept; the one that is there from another time is searched, and none is built.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Where files are written; they are removed afterwards. [default: the system's folder for temporary files]
    #[arg(long)]
    scratch: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum EngineName {
    /// A segment with its graph.
    Loci,
    /// The crate hnsw_rs, with the same distance kernel.
    #[value(name = "hnsw_rs")]
    HnswRs,
}

impl EngineName {
    fn name(self) -> &'static str {
        match self {
            EngineName::Loci => "loci",
            EngineName::HnswRs => "hnsw_rs",
        }
    }
}

/// A bar for something whose end is known; a spinner if it is not.
fn progress(what: &str, len: Option<u64>) -> ProgressBar {
    let bar = len.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = if len.is_some() { "{msg:24} {wide_bar} {pos}/{len} {eta}" } else { "{msg:24} {spinner} {elapsed}" };
    bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
    bar.set_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn main() {
    let args = Args::parse();
    let queries = if args.filtered && args.queries == 0 { 300 } else { args.queries };
    let set = Set::load(&args.set, args.records, queries).unwrap_or_else(|error| {
        eprintln!("{}: {error}", args.set.display());
        std::process::exit(2);
    });
    let scratch = match &args.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.expect("a folder for temporary files");
    if args.filtered {
        filtered::measure(&args, &set, scratch.path());
        return;
    }
    let row = match args.engine {
        EngineName::Loci => segment::measure(&args, &set, scratch.path()),
        EngineName::HnswRs => peer::measure(&args, &set),
    };
    println!("{row}");
    ladder::show(&row);
}
