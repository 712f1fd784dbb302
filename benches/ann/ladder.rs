//! A ladder of efforts: what each rung finds and costs, and what it comes to at a given recall.

use std::hint::black_box;
use std::time::Instant;

use serde_json::{Value, json};

use crate::machine;
use crate::set::{K, Set};
use crate::{Args, progress};

/// The efforts, as `benches/peers/measure.py` has them.
pub const RUNGS: [usize; 18] = [10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768];
/// The recalls that figures are given at.
pub const RECALLS: [f64; 4] = [0.90, 0.95, 0.98, 0.99];

/// What one search cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Distances computed.
    pub distances: u64,
    /// Bytes of codes, vectors and links that were read.
    pub bytes: u64,
}

/// Something that can be searched.
pub trait Engine {
    /// Puts the nearest rows into `rows`.
    fn search(&mut self, query: &[f32], ef: usize, rows: &mut Vec<u32>);

    /// Searches once more and says what it costs; `None` for what is not known.
    fn cost(&mut self, query: &[f32], ef: usize) -> Option<Cost>;
}

/// What building took.
pub struct Built {
    /// Seconds by the clock.
    pub seconds: f64,
    /// Seconds of processor time.
    pub cpu_seconds: f64,
    /// What the process has grown by.
    pub memory_bytes: u64,
    /// The most that it had grown by.
    pub memory_peak_bytes: u64,
    /// Of the index, vectors included.
    pub index_bytes: u64,
}

/// How many of the ten nearest are among what was found.
pub fn hits(found: &[u32], truth: &[u32; K]) -> usize {
    truth.iter().filter(|row| found.contains(row)).count()
}

/// The p-th part of sorted values.
pub fn quantile(sorted: &[f64], p: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * p) as usize).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// Climbs the ladder and makes the engine's row. Prints it before the first rung and with each, so that what was measured is
/// known even if the rest takes too long.
pub fn climb(args: &Args, set: &Set, name: &str, version: &str, built: &Built, engine: &mut impl Engine) -> Value {
    let mut row = json!({
        "engine": name,
        "version": version,
        "set": set.name,
        "n": set.len(),
        "d": set.dimension,
        "queries": set.queries().len(),
        "m": args.m,
        "ef_construction": args.ef_construction,
        "threads": args.threads,
        "build_seconds": built.seconds,
        "build_cpu_seconds": built.cpu_seconds,
        "memory_bytes": built.memory_bytes,
        "memory_peak_bytes": built.memory_peak_bytes,
        "index_bytes": built.index_bytes,
        "vector_bytes": set.base.len() * 4,
        "ladder": [],
    });
    println!("{row}");
    let bar = progress(&format!("{name}: searching"), Some(RUNGS.len() as u64));
    let mut ladder = Vec::new();
    for ef in RUNGS {
        let rung = rung(args, set, ef, engine);
        bar.inc(1);
        let recall = rung["recall"].as_f64().unwrap_or(0.0);
        ladder.push(rung);
        row["ladder"] = json!(ladder);
        row["process_bytes_after_search"] = json!(machine::memory("VmRSS"));
        println!("{row}");
        if recall >= args.recall_max {
            break;
        }
    }
    bar.finish_and_clear();
    row
}

fn rung(args: &Args, set: &Set, ef: usize, engine: &mut impl Engine) -> Value {
    let mut rows = Vec::new();
    let (mut found, mut total, mut known) = (0, Cost::default(), true);
    for (query, truth) in set.queries().zip(&set.truth) {
        engine.search(query, ef, &mut rows);
        found += hits(&rows, truth);
        match engine.cost(query, ef) {
            Some(cost) => {
                total.distances += cost.distances;
                total.bytes += cost.bytes;
            }
            None => known = false,
        }
    }
    let count = set.queries().len() as f64;
    let (mut wall, mut cpu) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..args.passes.max(1) {
        let (begun, cpu_begun) = (Instant::now(), machine::thread_seconds());
        for query in set.queries() {
            engine.search(query, ef, &mut rows);
            black_box(rows.len());
        }
        wall = wall.min(begun.elapsed().as_secs_f64());
        cpu = cpu.min(machine::thread_seconds() - cpu_begun);
    }
    let mut micros: Vec<f64> = set
        .queries()
        .take(1000)
        .map(|query| {
            let begun = Instant::now();
            engine.search(query, ef, &mut rows);
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    micros.sort_by(f64::total_cmp);
    let mut rung = json!({
        "ef": ef,
        "recall": found as f64 / (count * K as f64),
        "qps": count / wall,
        "qps_cpu": if cpu > 0.0 { count / cpu } else { count / wall },
        "p50_us": quantile(&micros, 0.5),
        "p99_us": quantile(&micros, 0.99),
    });
    if known {
        rung["distances"] = json!(total.distances as f64 / count);
        rung["bytes_read"] = json!(total.bytes as f64 / count);
    }
    rung
}

/// A rung's value `of` where the ladder reaches a recall: between two rungs its logarithm runs straight over the
/// logarithm of what recall lacks.
fn at_recall(ladder: &[Value], recall: f64, of: &str) -> Option<f64> {
    let number = |rung: &Value, name: &str| rung.get(name).and_then(Value::as_f64);
    let lack = |recall: f64| -(1.0 - recall).max(1e-5).ln();
    let mut below: Option<(f64, f64)> = None;
    for rung in ladder {
        let (reached, value) = (lack(number(rung, "recall")?), number(rung, of)?);
        if reached >= lack(recall) {
            return Some(match below {
                Some((before, value_before)) if reached > before => {
                    let part = (lack(recall) - before) / (reached - before);
                    ((1.0 - part) * value_before.ln() + part * value.ln()).exp()
                }
                _ => value,
            });
        }
        below = Some((reached, value));
    }
    None
}

/// The row for people, on standard error.
pub fn show(row: &Value) {
    let empty = Vec::new();
    let ladder = row["ladder"].as_array().unwrap_or(&empty);
    let megabytes = |name: &str| row[name].as_f64().unwrap_or(0.0) / 1e6;
    eprintln!(
        "{} on {}: {} x {}; built in {:.1} s ({:.1} s of processor time) on {} threads; index {:.0} MB, process grew by \
         {:.0} MB, {:.0} MB at its peak",
        row["engine"].as_str().unwrap_or_default(),
        row["set"].as_str().unwrap_or_default(),
        row["n"],
        row["d"],
        row["build_seconds"].as_f64().unwrap_or(0.0),
        row["build_cpu_seconds"].as_f64().unwrap_or(0.0),
        row["threads"],
        megabytes("index_bytes"),
        megabytes("memory_bytes"),
        megabytes("memory_peak_bytes"),
    );
    eprintln!(
        "{:>5} {:>8} {:>9} {:>9} {:>8} {:>8} {:>9} {:>9}",
        "ef", "recall", "qps", "qps cpu", "p50 us", "p99 us", "distances", "KB"
    );
    for rung in ladder {
        let number = |name: &str| rung.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        eprintln!(
            "{:>5} {:>8.4} {:>9.0} {:>9.0} {:>8.1} {:>8.1} {:>9.0} {:>9.1}",
            rung["ef"],
            number("recall"),
            number("qps"),
            number("qps_cpu"),
            number("p50_us"),
            number("p99_us"),
            number("distances"),
            number("bytes_read") / 1e3,
        );
    }
    for recall in RECALLS {
        if let Some(qps) = at_recall(ladder, recall, "qps") {
            let distances = at_recall(ladder, recall, "distances").unwrap_or(f64::NAN);
            eprintln!("at recall {recall:.2}: {qps:.0} queries/s, {distances:.0} distances each");
        }
    }
}
