//! `bench get`, `bench put`, `bench mixed`: records by key, each call on its own and on one stream.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::FutureExt as _;
use loci_client::{Collection, Ingest, IngestLimits, Record, Schema};

use super::super::connect::{Connection, bytes_count, duration};
use super::super::failure::Failure;
use super::paced::{Steady, steady};
use super::{Effort, Measured, drive, floor, report};

/// More rows of a table than anybody reads.
const STRETCHES_MAX: u128 = 10_000;

#[derive(Debug, Args)]
pub struct KeysBench {
    /// The collection, without embeddings. Made if it is not there, and left there.
    #[arg(long, short, default_value = "bench-keys")]
    collection: String,
    #[command(flatten)]
    effort: Effort,
    /// How many keys.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    keys: u32,
    /// The size of a value: 100, 4KiB, 1MiB.
    #[arg(long, default_value = "100", value_parser = bytes_count)]
    value_bytes: u64,
    /// Only calls of their own, or only the stream. [default: both]
    #[arg(long, value_enum)]
    only: Option<Way>,
    /// So many calls a second, all callers together, and how they went in each second (--every) of the time. A call counts from
    /// when it was due. [default: as fast as they go]
    #[arg(long, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// With --rate: in stretches of so long.
    #[arg(long, value_parser = duration, default_value = "1s", requires = "rate")]
    every: Duration,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Way {
    Unary,
    Pipelined,
}

/// What the callers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    Get,
    Put,
    /// Nine reads to one write.
    Mixed,
}

impl Load {
    fn name(self) -> &'static str {
        match self {
            Load::Get => "get",
            Load::Put => "put",
            Load::Mixed => "mixed",
        }
    }

    fn writes(self, turn: u64) -> bool {
        match self {
            Load::Get => false,
            Load::Put => true,
            Load::Mixed => turn.is_multiple_of(10),
        }
    }
}

fn key(number: u32) -> String {
    format!("key-{number:08}")
}

/// Spreads the calls over the keys, the same way every time.
fn spread(caller: u32, turn: u64, keys: u32) -> u32 {
    let mixed = (u64::from(caller) << 32 ^ turn).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) % u64::from(keys)) as u32
}

pub async fn bench(args: KeysBench, load: Load) -> Result<(), Failure> {
    let value_bytes = usize::try_from(args.value_bytes).map_err(|_| Failure::usage("--value-bytes is too large"))?;
    if args.rate.is_some() && args.effort.time.as_millis() > args.every.as_millis() * STRETCHES_MAX {
        return Err(Failure::usage(format!("--every is too short: there are at most {STRETCHES_MAX} stretches")));
    }
    let client = args.effort.client(&args.connection)?;
    let (namespace, name) = (&args.connection.namespace, &args.collection);
    let unary = client.collection(namespace, name);
    let failed = |error| Failure::call(format!("collection {name}"), error);
    unary.ensure(Schema::default()).await.map_err(failed)?;
    let value = bytes::Bytes::from(vec![b'v'; value_bytes]);
    if load != Load::Put {
        fill(&unary, args.keys, &value).await?;
    }

    let mut measured = Vec::new();
    for callers in args.effort.callers(&[1, 64]) {
        for way in [Way::Unary, Way::Pipelined] {
            if args.only.is_some_and(|only| only != way) {
                continue;
            }
            let (collection, way) = match way {
                Way::Unary => (unary.clone(), "unary"),
                Way::Pipelined => (client.pipeline().collection(namespace, name), "pipelined"),
            };
            let collection = Arc::new(collection);
            let (keys, value) = (args.keys, value.clone());
            let call = move |caller: u32, turn: u64| {
                let (collection, value) = (Arc::clone(&collection), value.clone());
                let key = key(spread(caller, turn, keys));
                async move {
                    match load.writes(turn + u64::from(caller)) {
                        true => (1, collection.put(Record::new(key).with_value(value)).await.map(|_| ())),
                        false => (0, collection.get(key).await.map(|_| ())),
                    }
                }
            };
            if let Some(rate) = args.rate {
                let plan = Steady { callers, rate, time: args.effort.time, every: args.every };
                measured.extend(steady(plan, ["get", "put"], call).await);
                continue;
            }
            let driven =
                drive(callers, args.effort.time, move |caller, turn| call(caller, turn).map(|(_, outcome)| outcome))
                    .await;
            measured.push(Measured::of(format!("{}, {way}", load.name()), driven));
        }
        if args.rate.is_none() {
            measured.push(Measured::of("floor (ping, unary)", floor(&client, callers).await));
        }
    }
    measured.retain(|one| one.driven.latencies.count() > 0 || one.driven.errors > 0);
    report(load.name(), &measured, args.connection.json)
}

/// Something to read under every key.
async fn fill(collection: &Collection, keys: u32, value: &bytes::Bytes) -> Result<(), Failure> {
    let failed = |error| Failure::call(format!("collection {}", collection.name()), error);
    let mut ingest = Ingest::new(collection.clone(), IngestLimits::default());
    for number in 0..keys {
        ingest.push(Record::new(key(number)).with_value(value.clone())).await.map_err(failed)?;
    }
    ingest.flush().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_spread_over_all_keys() {
        let hit: std::collections::HashSet<u32> = (0..10_000).map(|turn| spread(3, turn, 100)).collect();
        assert_eq!(hit.len(), 100);
    }
}
