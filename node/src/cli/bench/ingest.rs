//! `bench ingest`: how fast records come in, and how fast the background indexes them.

use std::time::{Duration, Instant};

use clap::Args;
use loci_client::{Collection, CollectionStats, Error, Ingest, IngestLimits, Metric, Schema};
use loci_index::store::StoreOptions;
use serde_json::json;

use super::super::connect::Connection;
use super::super::demo::data::DataSet;
use super::super::failure::Failure;
use super::super::output::{Rows, bytes_size, grouped, print, print_json, time_shown};
use super::DataSetArgs;

/// With nothing changed for so long, nothing will, where all that is left is too little for a graph.
const QUIET: Duration = Duration::from_secs(5);
/// Where more is left, but perhaps nowhere enough of it together.
const QUIET_UNSURE: Duration = Duration::from_secs(60);
/// Where somewhere there is enough for a graph: the node cannot build it.
const QUIET_BUILDING: Duration = Duration::from_secs(600);

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

    let (stats, indexed) = until_indexed(&collection, begun).await.map_err(failed)?;
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
            " {} records are in no graph: too few of them lie together, and they are compared one by one",
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
async fn until_indexed(collection: &Collection, begun: Instant) -> Result<(CollectionStats, Duration), Error> {
    let mut stats = collection.describe().await?.stats;
    let (mut indexed, mut changed) = (begun.elapsed(), begun.elapsed());
    while stats.indexed_records < stats.records && begun.elapsed().saturating_sub(changed) < patience(&stats) {
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
    }
    Ok((stats, indexed))
}

/// How long nothing may change before no more records will be in graphs.
///
/// A shard builds one once enough records without are in its segments together. Of several shards it is not known here how
/// these records lie, but at most so many shards have some as there are segments without a graph.
fn patience(stats: &CollectionStats) -> Duration {
    let enough = u64::from(StoreOptions::default().graph_rows_min);
    let left = stats.records.saturating_sub(stats.indexed_records);
    let sealed = left.saturating_sub(stats.buffer_records);
    let without = u64::from(stats.segments.saturating_sub(stats.graph_segments));
    if left < enough {
        QUIET
    } else if without == 0 || sealed < enough * without {
        QUIET_UNSURE
    } else {
        QUIET_BUILDING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_waits_as_long_as_more_records_can_be_in_graphs() {
        let stats = |indexed_records, buffer_records, segments, graph_segments| CollectionStats {
            records: 60_000,
            indexed_records,
            buffer_records,
            segments,
            graph_segments,
            ..CollectionStats::default()
        };
        let table = [
            ("too few for a graph, in a segment", stats(58_977, 0, 5, 4), QUIET),
            ("too few for a graph, in memory", stats(58_977, 1_023, 4, 4), QUIET),
            ("too few for a graph in a segment, and more in memory", stats(57_000, 2_100, 5, 4), QUIET_UNSURE),
            ("more in memory", stats(57_000, 3_000, 4, 4), QUIET_UNSURE),
            ("too few in each of three segments of three shards", stats(57_300, 0, 7, 4), QUIET_UNSURE),
            ("enough in one of three segments, whatever lies where", stats(56_928, 0, 7, 4), QUIET_BUILDING),
            ("enough in one segment", stats(58_976, 0, 5, 4), QUIET_BUILDING),
            ("the only segment", stats(0, 0, 1, 0), QUIET_BUILDING),
            ("nothing is sealed yet", stats(0, 60_000, 0, 0), QUIET_UNSURE),
        ];
        for (what, stats, expected) in table {
            assert_eq!(patience(&stats), expected, "{what}");
        }
    }
}
