//! The simulation of whole clusters: many seeds, one seed twice, and mistakes made on purpose, each of which is found.
//!
//! `LOCI_SIM_SEEDS=1000..2000` runs others, `LOCI_SIM_SECONDS` longer, `LOCI_SIM_EXPLAIN=N` runs one seed and prints the
//! last of what happened in it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use loci_tests::sim::planted::Planted;
use loci_tests::sim::{Reached, Run, directed};
use loci_tests::{say, setting};

const COMMAND: &str = "cargo test -p loci-tests --test sim seeds -- --nocapture";
const LINES: usize = 200;
/// What a hundred seeds must have reached, or they prove less than they say.
const REACHED: &[&str] = &[
    "changes of members asked for",
    "checkpoints",
    "damaged messages refused",
    "elections",
    "entries replaced by another leader's",
    "fields seen to have expired",
    "files damaged while a process runs",
    "files gone on with",
    "bits flipped in what has come of a snapshot",
    "damaged files found by the scrub",
    "damaged files of snapshots noticed before they were taken in",
    "damaged files that were noticed at a start",
    "damaged pieces refused",
    "damaged stores that were fetched from another member",
    "machines with a damaged log",
    "power cuts soon after a snapshot had come",
    "receivers that ended in the middle of a snapshot",
    "senders that ended in the middle of a snapshot",
    "shards out of service because of a damaged file",
    "snapshots gone on with",
    "snapshots older than the sender's checkpoint when all had gone",
    "snapshots that broke off",
    "snapshots that came after an earlier one",
    "starts that failed because a file could not be read",
    "hashes named because fields had expired",
    "keys evicted",
    "keys removed because they had expired",
    "kills",
    "leaders asked to hand over",
    "bridges between two sides",
    "connections reset",
    "leaders that gave up",
    "machines cut off one after another",
    "leases seen",
    "limiters seen",
    "logs found closed",
    "machines that asked to join",
    "merges",
    "operations given up",
    "pauses",
    "power cuts",
    "power cuts in the middle of a checkpoint or merge",
    "processes that ended after such a sync, before anybody heard of it",
    "processes that ended because a sync failed",
    "processes that ended between such an append and its sync",
    "processes that stopped as they were told",
    "reads at a token that was waited for",
    "reads by a leader that is alone",
    "reads by a question to the leader",
    "reads by a round",
    "reads by the lease",
    "reads not answered in time",
    "reads of the latest that outlived a change of leader",
    "records seen to have expired",
    "recoveries that were interrupted",
    "requests repeated, and given their first outcome",
    "runs with several shards",
    "searches compared with an exact one",
    "sets seen",
    "shards told that they pin the log",
    "snapshots taken in",
    "snapshots with typed values taken in",
    "sorted sets seen",
    "steps of changes of members applied",
    "stores opened at a checkpoint",
    "streams with something pending seen",
    "syncs that several shards waited for",
    "tags seen",
    "times of day that jumped",
    "torn tails cut",
    "turns at which writes waited for a lead that is handed over",
    "leads handed on because of a disk",
    "typed values seen to have expired",
    "victims that were gone already",
    "writes at a member that stops",
    "writes on their way when leadership was lost",
    "writes on their way when their node died",
    "writes refused because the disk was full",
    "writes refused by a condition",
    "writes refused by a fence",
    "writes sent to a member that does not lead",
    "writes whose outcome nobody learnt",
    "writes whose outcome was learnt by asking again",
];

/// The seeds to run.
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("LOCI_SIM_SEEDS") else { return 0..100 };
    let range = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    range.unwrap_or_else(|| panic!("LOCI_SIM_SEEDS={text} is not like 0..100"))
}

fn run_of(seed: u64) -> Run {
    Run { seconds: setting("LOCI_SIM_SECONDS", 60), ..Run::of(seed) }
}

#[test]
fn seeds_find_nothing_wrong() {
    if let Ok(seed) = std::env::var("LOCI_SIM_EXPLAIN") {
        let seed = seed.parse().expect("LOCI_SIM_EXPLAIN is a seed");
        return say(&run_of(seed).explain(setting("LOCI_SIM_LINES", LINES as u64) as usize));
    }
    let seeds = seeds();
    let next = AtomicU64::new(seeds.start);
    let (reached, failed) = (Mutex::new((Reached::default(), 0, 0)), Mutex::new(Vec::new()));
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    match run_of(seed).run() {
                        Ok(summary) => {
                            let mut all = reached.lock().unwrap_or_else(PoisonError::into_inner);
                            all.0.add(&summary.reached);
                            all.1 += summary.nanos;
                            all.2 += u64::from(summary.undecided);
                        }
                        Err(violation) => {
                            say(&format!("seed {seed}: {}", violation.0));
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                        }
                    }
                }
            });
        }
    });
    let (reached, nanos, undecided) = reached.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    let (virtual_seconds, seconds) = (nanos / 1_000_000_000, began.elapsed().as_secs_f64());
    println!("{reached}");
    println!(
        "{} seeds, {virtual_seconds} virtual seconds in {seconds:.1} s on {workers} threads",
        seeds.end - seeds.start
    );
    println!("{undecided} histories undecided");
    let never: Vec<_> = REACHED.iter().filter(|what| reached.times(what) == 0).collect();
    println!("not reached: {never:?}");
    if let Some(first) = failed.first() {
        let explained = run_of(*first).explain(LINES);
        panic!(
            "{} seeds found something wrong: {failed:?}\n{explained}\nLOCI_SIM_SEEDS={first}..{} {COMMAND}",
            failed.len(),
            first + 1
        );
    }
    let are_many = seeds.end - seeds.start >= 100 && setting("LOCI_SIM_SECONDS", 60) >= 60;
    assert!(!are_many || never.is_empty(), "{never:?} did not happen once");
    assert!(undecided * 100 <= seeds.end - seeds.start, "{undecided} histories could not be decided");
}

/// It was so only for the last of them that asked.
#[test]
fn each_member_whose_acknowledgement_of_a_snapshot_was_lost_is_offered_it_again() {
    for seed in 0..5 {
        if let Err(violation) = directed::lost_acknowledgements_of_two_snapshots(seed) {
            panic!("seed {seed}: {}", violation.0);
        }
    }
}

#[test]
fn values_of_the_largest_size_reach_all_members() {
    if let Err(violation) = directed::values_at_the_limit(0) {
        panic!("{}", violation.0);
    }
}

#[test]
fn a_seed_is_a_reproduction_to_the_last_event() {
    for seed in [3, 7] {
        let run = Run { seconds: 20, ..Run::of(seed) };
        assert_eq!(run.run(), run.run(), "seed {seed}");
    }
}

/// Runs seeds until one finds the mistake.
fn find(planted: Planted, within: u64) {
    for seed in 0..within {
        let run = Run { planted: Some(planted), ..Run::of(seed) };
        if let Err(violation) = run.run()
            && planted.is_shown_by(&violation)
        {
            let first = violation.0.lines().next().unwrap_or_default().to_string();
            return println!("{planted:?} is found by seed {seed}: {first}");
        }
    }
    panic!("{planted:?} is not found by {within} seeds");
}

#[test]
fn mistakes_made_on_purpose_are_found() {
    for (planted, within) in Planted::ALL {
        find(planted, within);
    }
}
