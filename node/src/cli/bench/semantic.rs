//! `bench semantic`: a semantic cache with many entries, asked for what it has and for what it has not.

use std::sync::Arc;

use clap::Args;
use futures_util::{StreamExt, stream};
use loci_client::{Answer, Entry, Error, Metric, Partition, SemanticCache};

use super::super::connect::Connection;
use super::super::demo::data::DataSet;
use super::super::failure::Failure;
use super::{DataSetArgs, Effort, Measured, drive, floor, report};

/// Entries that are written at a time.
const WRITERS: usize = 64;
/// A question that is the same in other words: so much of its embedding is changed, which makes a cosine distance of about 0.02.
const OTHER_WORDS: f32 = 0.2;

#[derive(Debug, Args)]
pub struct SemanticBench {
    #[command(flatten)]
    data: DataSetArgs,
    /// The collection. Made if it is not there; what was in it is dropped.
    #[arg(long, short, default_value = "bench-semantic")]
    collection: String,
    #[command(flatten)]
    effort: Effort,
    /// How many entries.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    entries: u32,
    /// Over how many partitions they are spread.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: u32,
    /// A question at most this far is the same.
    #[arg(long, default_value_t = 0.05)]
    threshold: f32,
    #[command(flatten)]
    connection: Connection,
}

/// A question with its partition, and the key of the entry that answers it, if one does.
struct Asked {
    partition: Partition,
    vector: Vec<f32>,
    key: Option<String>,
}

fn partition(number: u32) -> Partition {
    Partition::new().with("model", "bench").with("tenant", format!("t{number}"))
}

/// The same question in other words, told by its number.
fn in_other_words(vector: &[f32], number: u32) -> Vec<f32> {
    let length = vector.iter().map(|component| component * component).sum::<f32>().sqrt();
    let step = OTHER_WORDS * length / (vector.len() as f32).sqrt();
    let mut state = u64::from(number) + 1;
    let change = |component: &f32| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        component + if state >> 63 == 0 { step } else { -step }
    };
    vector.iter().map(change).collect()
}

pub async fn bench(args: SemanticBench) -> Result<(), Failure> {
    let set = DataSet::load(&args.data.data).map_err(Failure::refused)?;
    let vectors: Vec<&[f32]> =
        set.records.iter().filter_map(|record| Some(&record.embeddings.first()?.vector[..])).collect();
    if vectors.len() < args.entries as usize {
        let message = format!("--entries {}: the data set has {} embeddings", args.entries, vectors.len());
        return Err(Failure::usage(message));
    }
    let client = args.effort.client(&args.connection)?;
    let failed = |error| Failure::call(format!("collection {}", args.collection), error);
    let cache = client.semantic_cache(&args.connection.namespace, &args.collection).threshold(args.threshold);
    let dimension = vectors.first().map_or(0, |vector| vector.len()) as u32;
    cache.ensure(dimension, Metric::Cosine).await.map_err(failed)?;
    cache.drop_partition(&Partition::new()).await.map_err(failed)?;
    let puts = stream::iter((0..args.entries).zip(&vectors)).map(|(number, vector)| {
        let entry = Entry::new(vector.to_vec(), vec![b'a'; 500])
            .with_key(format!("entry-{number}"))
            .with_tag(format!("tag-{}", number % 100));
        let (cache, partition) = (&cache, partition(number % args.partitions));
        async move { cache.put(&partition, entry).await }
    });
    let mut puts = puts.buffer_unordered(WRITERS);
    while let Some(put) = puts.next().await {
        put.map_err(failed)?;
    }

    let step = (args.entries / 2_000).max(1);
    let there = (0..args.entries).step_by(step as usize).map(|number| Asked {
        partition: partition(number % args.partitions),
        vector: in_other_words(vectors[number as usize], number),
        key: Some(format!("entry-{number}")),
    });
    let others = set.queries.iter().zip(0..).map(|(query, number)| Asked {
        partition: partition(number % args.partitions),
        vector: query.vector.clone(),
        key: None,
    });
    let (there, others): (Arc<Vec<_>>, Arc<Vec<_>>) = (Arc::new(there.collect()), Arc::new(others.collect()));
    let found = share_found(&cache, &there).await.map_err(failed)?;
    let mut measured = Vec::new();
    for callers in args.effort.callers(&[1, 8]) {
        for (name, asked, recall) in
            [("get, of what is there", &there, Some(found)), ("get, of other questions", &others, None)]
        {
            let (cache, asked) = (cache.clone(), Arc::clone(asked));
            let driven = drive(callers, args.effort.time, move |caller, turn| {
                let (cache, asked) = (cache.clone(), Arc::clone(&asked));
                async move {
                    let one = &asked[(caller as usize * 7919 + turn as usize) % asked.len()];
                    cache.get(&one.partition, one.vector.clone()).await.map(|_| ())
                }
            })
            .await;
            measured.push(Measured { recall, ..Measured::of(name, driven) });
        }
        measured.push(Measured::of("floor (ping)", floor(&client, callers).await));
    }
    report("semantic", &measured, args.connection.json)
}

/// Which share of the questions that have an answer gets it.
async fn share_found(cache: &SemanticCache, asked: &[Asked]) -> Result<f64, Error> {
    let mut found = 0;
    for one in asked {
        if let Answer::Hit(hit) = cache.get(&one.partition, one.vector.clone()).await? {
            // Another may be as near: two entries of the set can have the same embedding.
            found += usize::from(
                one.key.as_ref().is_some_and(|key| hit.key.ends_with(format!("/{key}").as_bytes()))
                    || hit.distance < 0.03,
            );
        }
    }
    Ok(found as f64 / asked.len().max(1) as f64)
}
