//! `bench ingest`: how fast records come in, and how fast the background indexes them.

use std::time::{Duration, Instant};

use clap::Args;
use loci_client::{CollectionStats, Ingest, IngestLimits, Metric, Schema};
use loci_index::store::StoreOptions;
use serde_json::json;

use super::super::connect::Connection;
use super::super::demo::data::DataSet;
use super::super::failure::Failure;
use super::super::output::{Rows, bytes_size, grouped, print, print_json, time_shown};
use super::DataSetArgs;

/// Without progress for so long, what is indexed now is all that will be: the rest waits in the buffer for more.
const QUIET: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct IngestBench {
    #[command(flatten)]
    data: DataSetArgs,
    /// The collection. It is made anew: one that is there is an error.
    #[arg(long, short, default_value = "bench")]
    collection: String,
    /// Records per batch.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Batches under way.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// Read the whole data set so many times, under new keys.
    #[arg(long, default_value_t = 1)]
    times: u32,
    #[command(flatten)]
    connection: Connection,
}

pub async fn bench(args: IngestBench) -> Result<(), Failure> {
    let set = DataSet::load(&args.data.data).map_err(Failure::refused)?;
    let client = args.connection.client()?;
    let collection = client.collection(&args.connection.namespace, &args.collection);
    let failed = |error| Failure::call(format!("collection {}", args.collection), error);
    let schema = Schema::default().with_embedding("", set.dimension(), Metric::Cosine);
    collection.create(schema).await.map_err(failed)?;

    let limits = IngestLimits {
        batch_records: args.batch as usize,
        in_flight: args.in_flight as usize,
        ..IngestLimits::default()
    };
    let mut ingest = Ingest::new(collection.clone(), limits);
    let begun = Instant::now();
    for time in 0..args.times {
        for record in &set.records {
            let mut record = record.clone();
            if time > 0 {
                record.key = [record.key.as_ref(), format!("#{time}").as_bytes()].concat().into();
            }
            ingest.push(record).await.map_err(failed)?;
        }
    }
    ingest.flush().await.map_err(failed)?;
    let searchable = begun.elapsed();
    let refused = ingest.take_refused();
    if let Some(first) = refused.first() {
        return Err(Failure::refused(format!("{} records refused, the first: {}", refused.len(), first.error)));
    }
    let pushed = ingest.pushed();

    let mut indexed = searchable;
    let mut stats = CollectionStats::default();
    loop {
        let now = collection.describe().await.map_err(failed)?.stats;
        if now.indexed_records > stats.indexed_records {
            indexed = begun.elapsed();
        }
        stats = now;
        let is_quiet = begun.elapsed().saturating_sub(indexed) >= QUIET;
        // So few records get no graph, wherever they are.
        let few_left =
            stats.records.saturating_sub(stats.indexed_records) < u64::from(StoreOptions::default().graph_rows_min);
        let all_in_graphs = stats.segments == stats.graph_segments;
        if stats.indexed_records >= stats.records || (is_quiet && (few_left || all_in_graphs)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let rate = |records: u64, time: Duration| records as f64 / time.as_secs_f64().max(1e-9);
    if args.connection.json {
        return print_json(&json!({
            "bench": "ingest",
            "records": pushed,
            "searchable_seconds": searchable.as_secs_f64(),
            "searchable_records_per_second": rate(pushed, searchable),
            "indexed_records": stats.indexed_records,
            "indexed_seconds": indexed.as_secs_f64(),
            "indexed_records_per_second": rate(stats.indexed_records, indexed),
            "segments": stats.segments,
            "disk_bytes": stats.disk_bytes,
            "memory_bytes": stats.memory_bytes,
        }));
    }
    let mut rows = Rows::new(&["until", ">records", ">time", ">records/s"]);
    rows.push([
        "acknowledged and searchable".to_owned(),
        grouped(pushed),
        time_shown(searchable),
        grouped(rate(pushed, searchable) as u64),
    ]);
    let name = if stats.indexed_records < stats.records { "indexed (the rest is compared exactly)" } else { "indexed" };
    rows.push([
        name.to_owned(),
        grouped(stats.indexed_records),
        time_shown(indexed),
        grouped(rate(stats.indexed_records, indexed) as u64),
    ]);
    print(rows.text())?;
    print(format!(
        " {} segments, {} on disk, {} in memory",
        stats.segments,
        bytes_size(stats.disk_bytes),
        bytes_size(stats.memory_bytes)
    ))
}
