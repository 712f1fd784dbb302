//! `bench ingest`: how fast records come in, and how fast the background indexes them.

use std::time::{Duration, Instant};

use clap::Args;
use loci_client::{Client, Collection, CollectionStats, Error, Ingest, IngestLimits, Metric, Schema};
use loci_index::store::StoreOptions;
use serde_json::json;

use super::super::connect::Connection;
use super::super::demo::data::DataSet;
use super::super::failure::Failure;
use super::super::output::{Rows, bytes_size, grouped, print, print_json, time_shown};
use super::DataSetArgs;

/// How often it is looked at whether anything still happens.
const QUIET: Duration = Duration::from_secs(5);
/// Nothing that the node does takes so long without being seen: it is busy with something else.
const PATIENCE: Duration = Duration::from_secs(600);
/// A node that builds graphs uses a processor; one that uses less than this part of one builds none.
const IDLE_PART: u32 = 5;

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

    let (stats, indexed) = until_indexed(&client, &collection, begun).await.map_err(failed)?;
    let indexed = indexed.max(searchable);
    let rate = |records: u64, time: Duration| records as f64 / time.as_secs_f64().max(1e-9);
    if args.connection.json {
        return print_json(&json!({
            "bench": "ingest",
            "records": pushed,
            "searchable_seconds": searchable.as_secs_f64(),
            "searchable_records_per_second": rate(pushed, searchable),
            "indexed_records": stats.indexed_records,
            "unindexed_records": stats.records.saturating_sub(stats.indexed_records),
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
    rows.push([
        "indexed".to_owned(),
        grouped(stats.indexed_records),
        time_shown(indexed),
        grouped(rate(stats.indexed_records, indexed) as u64),
    ]);
    print(rows.text())?;
    let unindexed = stats.records.saturating_sub(stats.indexed_records);
    if unindexed > 0 {
        print(format!(
            " {} records are in no graph and will be in none before more come: they are compared one by one",
            grouped(unindexed)
        ))?;
    }
    print(format!(
        " {} segments, {} on disk, {} in memory",
        stats.segments,
        bytes_size(stats.disk_bytes),
        bytes_size(stats.memory_bytes)
    ))
}

/// Waits until all records are in graphs, or until no more will be. How it is then, and how long after `begun` the last of them
/// came into a graph.
async fn until_indexed(
    client: &Client,
    collection: &Collection,
    begun: Instant,
) -> Result<(CollectionStats, Duration), Error> {
    let mut stats = collection.describe().await?.stats;
    let (mut indexed, mut changed) = (begun.elapsed(), begun.elapsed());
    let mut looked = (begun.elapsed(), client.stats().await?.cpu);
    while stats.indexed_records < stats.records {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = collection.describe().await?.stats;
        if now.indexed_records > stats.indexed_records {
            indexed = begun.elapsed();
        }
        let parts = |stats: &CollectionStats| (stats.indexed_records, stats.segments, stats.buffer_records);
        if parts(&now) != parts(&stats) {
            changed = begun.elapsed();
        }
        stats = now;
        let took = begun.elapsed().saturating_sub(looked.0);
        if took >= QUIET {
            let cpu = client.stats().await?.cpu;
            let is_idle = cpu.saturating_sub(looked.1) * IDLE_PART < took;
            if nothing_more_comes(&stats, begun.elapsed().saturating_sub(changed), is_idle) {
                break;
            }
            looked = (begun.elapsed(), cpu);
        }
    }
    Ok((stats, indexed))
}

/// Whether records that are in no graph will stay so, if nothing has changed for so long.
fn nothing_more_comes(stats: &CollectionStats, unchanged: Duration, is_idle: bool) -> bool {
    let left = stats.records.saturating_sub(stats.indexed_records);
    // So few records get no graph, wherever they are; those in memory get none before more come.
    let few_left = left < u64::from(StoreOptions::default().graph_rows_min);
    let all_in_graphs = stats.segments == stats.graph_segments;
    unchanged >= PATIENCE || (unchanged >= QUIET && (few_left || all_in_graphs || is_idle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_nothing_more_will_be_in_a_graph() {
        let seconds = Duration::from_secs;
        let stats = |records, indexed_records, segments, graph_segments| CollectionStats {
            records,
            indexed_records,
            segments,
            graph_segments,
            ..CollectionStats::default()
        };
        // Segments of 900 records without a graph in each of several shards, or one beside many in memory.
        let small = stats(60_000, 57_300, 7, 4);
        let all_in_graphs = stats(60_000, 57_300, 4, 4);
        let few_left = stats(60_000, 59_100, 5, 4);
        let table = [
            ("a node that still builds", &small, seconds(20), false, false),
            ("a node that rests", &small, seconds(5), true, true),
            ("one that rested just now", &small, seconds(4), true, false),
            ("one that never rests", &small, seconds(600), false, true),
            ("the rest is in memory", &all_in_graphs, seconds(5), false, true),
            ("it may still come out of memory", &all_in_graphs, seconds(4), false, false),
            ("too few for a graph", &few_left, seconds(5), false, true),
        ];
        for (what, stats, unchanged, is_idle, ends) in table {
            assert_eq!(nothing_more_comes(stats, unchanged, is_idle), ends, "{what}");
        }
    }
}
