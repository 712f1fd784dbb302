//! `bench`: drives a running node and measures it.
//!
//! ```text
//! callers (tasks) --call, wait, call, wait--> the node      for a time; every call's time is kept
//! ```
//!
//! Each table has the floor beside it: what a call costs that asks for nothing, from as many callers. What is above the floor
//! is the node's work. With one machine for both, the callers' own work is in all of it.

mod ingest;
mod background;
mod keys;
mod paced;
mod search;
mod semantic;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use loci_client::{Client, Error, NodeStats};
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::connect::{Connection, duration};
use super::failure::Failure;
use super::latencies::Latencies;
use super::output::{Rows, grouped, print, print_json, time_shown};

/// How long the floor is measured.
const FLOOR_TIME: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Write a data set, until everything is searchable and until everything is indexed.
    Ingest(ingest::IngestBench),
    /// Search, with recall against the data set's ground truth.
    Search(Box<search::SearchBench>),
    /// Read records by key.
    Get(keys::KeysBench),
    /// Write records by key.
    Put(keys::KeysBench),
    /// Nine reads to one write.
    Mixed(keys::KeysBench),
    /// A semantic cache: answers found by the nearness of their questions.
    Semantic(semantic::SemanticBench),
}

/// How hard and how long.
#[derive(Debug, Clone, Args)]
pub struct Effort {
    /// How many callers at a time; several numbers are measured one after the other.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=4096))]
    concurrency: Vec<u32>,
    /// How long each measurement takes.
    #[arg(long, default_value = "3s", value_parser = duration)]
    time: Duration,
    /// Connections to the node.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,
}

/// Where records, queries and ground truth are.
#[derive(Debug, Clone, Args)]
pub struct DataSetArgs {
    /// Directory with records.jsonl, embeddings.npy, queries.jsonl, queries.npy and ground_truth.npy.
    #[arg(long, value_name = "DIR", env = "LOCI_BENCH_DATA")]
    data: PathBuf,
}

pub async fn bench(command: BenchCommand) -> Result<(), Failure> {
    match command {
        BenchCommand::Ingest(args) => ingest::bench(args).await,
        BenchCommand::Search(args) => search::bench(*args).await,
        BenchCommand::Get(args) => keys::bench(args, keys::Load::Get).await,
        BenchCommand::Put(args) => keys::bench(args, keys::Load::Put).await,
        BenchCommand::Mixed(args) => keys::bench(args, keys::Load::Mixed).await,
        BenchCommand::Semantic(args) => semantic::bench(args).await,
    }
}

impl Effort {
    fn callers(&self, default: &[u32]) -> Vec<u32> {
        if self.concurrency.is_empty() { default.to_vec() } else { self.concurrency.clone() }
    }

    fn client(&self, connection: &Connection) -> Result<Client, Failure> {
        connection.client_of(self.connections as usize)
    }
}

/// What so many callers did in a time.
#[derive(Debug, Default)]
struct Driven {
    callers: u32,
    took: Duration,
    latencies: Latencies,
    errors: u64,
    first_error: Option<Error>,
}

impl Driven {
    fn rate(&self) -> f64 {
        self.latencies.count() as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Each caller makes calls one after the other until the time is over. `call` gets the caller and its how-manieth call it is.
async fn drive<F, Fut>(callers: u32, time: Duration, call: F) -> Driven
where
    F: Fn(u32, u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Error>> + Send,
{
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let call = call.clone();
        tasks.spawn(async move {
            let mut driven = Driven::default();
            let mut turn = 0;
            while begun.elapsed() < time {
                let begun = Instant::now();
                match call(caller, turn).await {
                    Ok(()) => driven.latencies.add(begun.elapsed()),
                    Err(error) => {
                        driven.errors += 1;
                        driven.first_error.get_or_insert(error);
                    }
                }
                turn += 1;
            }
            driven
        });
    }
    let mut all = Driven { callers, ..Driven::default() };
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(driven) => {
                all.latencies.merge(driven.latencies);
                all.errors += driven.errors;
                all.first_error = all.first_error.or(driven.first_error);
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    all.took = begun.elapsed();
    all
}

/// What a call costs that asks for nothing.
async fn floor(client: &Client, callers: u32) -> Driven {
    let client = client.clone();
    drive(callers, FLOOR_TIME, move |_, _| {
        let client = client.clone();
        async move { client.ping().await.map(|_| ()) }
    })
    .await
}

/// One line of a table of measurements.
struct Measured {
    name: String,
    driven: Driven,
    recall: Option<f64>,
    cpu: Option<Cpu>,
}

/// The node's processor time for each call.
#[derive(Debug, Clone, Copy)]
struct Cpu {
    /// Of the whole process.
    whole: Duration,
    /// What of it is not finding the hits of searches.
    outside: Duration,
}

impl Cpu {
    /// Between two moments in which so many calls were answered.
    fn between(before: &NodeStats, after: &NodeStats, calls: usize) -> Cpu {
        let calls = u32::try_from(calls).unwrap_or(u32::MAX).max(1);
        let whole = after.cpu.saturating_sub(before.cpu);
        let outside = whole.saturating_sub(after.search_cpu.saturating_sub(before.search_cpu));
        Cpu { whole: whole / calls, outside: outside / calls }
    }
}

impl Measured {
    fn of(name: impl Into<String>, driven: Driven) -> Measured {
        Measured { name: name.into(), driven, recall: None, cpu: None }
    }
}

/// Prints the measurements; recall where there is one. Fails if no call succeeded.
fn report(title: &str, measured: &[Measured], json: bool) -> Result<(), Failure> {
    let has_recall = measured.iter().any(|one| one.recall.is_some());
    if json {
        let rows: Vec<Json> = measured.iter().map(measured_json).collect();
        print_json(&json!({ "bench": title, "measurements": rows }))?;
    } else {
        let mut columns = vec!["load", ">callers", ">calls/s", ">p50", ">p95", ">p99", ">errors"];
        if has_recall {
            columns.push(">recall");
        }
        let has_cpu = measured.iter().any(|one| one.cpu.is_some());
        if has_cpu {
            columns.extend([">node CPU", ">outside search"]);
        }
        let mut rows = Rows::new(&columns);
        for one in measured {
            let [p50, p95, p99] = one.driven.latencies.percentiles([50.0, 95.0, 99.0]);
            let mut cells = vec![
                one.name.clone(),
                one.driven.callers.to_string(),
                grouped(one.driven.rate() as u64),
                time_shown(p50),
                time_shown(p95),
                time_shown(p99),
                grouped(one.driven.errors),
            ];
            if has_recall {
                cells.push(one.recall.map_or(String::new(), |recall| format!("{recall:.4}")));
            }
            if has_cpu {
                let shown = |part: fn(Cpu) -> Duration| one.cpu.map_or(String::new(), |cpu| time_shown(part(cpu)));
                cells.extend([shown(|cpu| cpu.whole), shown(|cpu| cpu.outside)]);
            }
            rows.push(cells);
        }
        print(rows.text())?;
    }
    match measured.iter().find_map(|one| one.driven.first_error.clone()) {
        Some(error) => Err(Failure::call(format!("some calls of bench {title} failed, the first"), error)),
        None => Ok(()),
    }
}

fn measured_json(one: &Measured) -> Json {
    let [p50, p95, p99] =
        one.driven.latencies.percentiles([50.0, 95.0, 99.0]).map(|time| u64::try_from(time.as_micros()).unwrap_or(0));
    json!({
        "load": one.name,
        "callers": one.driven.callers,
        "calls": one.driven.latencies.count(),
        "calls_per_second": one.driven.rate(),
        "p50_micros": p50,
        "p95_micros": p95,
        "p99_micros": p99,
        "errors": one.driven.errors,
        "recall": one.recall,
        "cpu_nanos": one.cpu.map(|cpu| cpu.whole.as_nanos() as u64),
        "cpu_outside_nanos": one.cpu.map(|cpu| cpu.outside.as_nanos() as u64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_call_is_counted_as_done_or_failed() {
        let call = |caller: u32, turn: u64| async move {
            tokio::task::yield_now().await;
            match (caller, turn % 2) {
                (1, 1) => Err(Error::Unavailable { message: "no".into() }),
                _ => Ok(()),
            }
        };
        let driven = drive(2, Duration::from_millis(20), call).await;
        assert!(driven.latencies.count() > 0 && driven.errors > 0);
        assert!(matches!(driven.first_error, Some(Error::Unavailable { .. })));
    }

    #[test]
    fn measurements_have_a_stable_shape() {
        let mut driven = Driven { callers: 8, took: Duration::from_secs(2), ..Driven::default() };
        driven.latencies.add(Duration::from_micros(100));
        driven.latencies.add(Duration::from_micros(300));
        let expected = json!({"load": "search", "callers": 8, "calls": 2, "calls_per_second": 1.0, "p50_micros": 100,
            "p95_micros": 300, "p99_micros": 300, "errors": 0, "recall": null, "cpu_nanos": null,
            "cpu_outside_nanos": null});
        assert_eq!(measured_json(&Measured::of("search", driven)), expected);
    }
}
