//! `bench search`: rate, latency and recall of searches, and what they cost the node.
//!
//! The node's processor time is that of its whole process, for each search: also of what it does besides, such as running
//! some searches again to know its recall (`loci serve --recall-one-in 0 --walk-rate 0` has it do nothing else). Of several nodes
//! it is that of the one which is asked for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use loci_client::{Client, Collection, Consistency, Error, Filter, Parts, Search};

use super::super::connect::{Connection, filter};
use super::super::demo::data::DataSet;
use super::super::failure::Failure;
use super::super::output::grouped;
use super::background::Background;
use super::{Cpu, DataSetArgs, Driven, Effort, Measured, drive, floor, report};

/// Queries whose exact answer under the filter is found out first.
const FILTERED_QUERIES: usize = 100;

#[derive(Debug, Args)]
pub struct SearchBench {
    #[command(flatten)]
    data: DataSetArgs,
    /// The collection, with the records of the data set.
    #[arg(long, short, default_value = "bench")]
    collection: String,
    #[command(flatten)]
    effort: Effort,
    /// Hits per query.
    #[arg(short, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    k: u32,
    /// How many candidates to keep; the node chooses unless this does.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ef: u32,
    /// Compare with every record.
    #[arg(long)]
    exact: bool,
    /// Only records that this takes; recall is then against the exact search with the same filter.
    #[arg(long, value_parser = filter)]
    filter: Option<Filter>,
    /// All calls on one stream.
    #[arg(long)]
    pipeline: bool,
    /// Whatever the node that is asked has, however old: of several addresses each is asked in turn.
    #[arg(long)]
    stale: bool,
    /// Return values and attributes too, not only keys.
    #[arg(long)]
    whole: bool,
    /// Measure again while so many records a second come in: those of the data set under new keys, which are deleted at the
    /// end. 0: as fast as the node takes them.
    #[arg(long, value_name = "RECORDS")]
    while_ingesting: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

/// A query and the keys of its exact answer.
struct Asked {
    vector: Vec<f32>,
    nearest: HashSet<Bytes>,
}

pub async fn bench(args: SearchBench) -> Result<(), Failure> {
    let set = DataSet::load(&args.data.data).map_err(Failure::refused)?;
    let client = args.effort.client(&args.connection)?;
    let (namespace, name) = (&args.connection.namespace, &args.collection);
    let failed = |error| Failure::call(format!("collection {name}"), error);
    let unary = client.collection(namespace, name);
    let asked = match &args.filter {
        None => asked(&set, args.k as usize)?,
        Some(filter) => asked_filtered(&set, &unary, args.k, filter).await.map_err(failed)?,
    };
    let asked = Arc::new(asked);
    let parts = if args.whole { Parts::default() } else { Parts::NONE };
    let collection = if args.pipeline { client.pipeline().collection(namespace, name) } else { unary };
    let collection = if args.stale { collection.with_consistency(Consistency::Stale) } else { collection };
    let search = Query {
        k: args.k,
        ef: args.ef,
        exact: args.exact,
        filter: args.filter.clone(),
        collection: collection.with_parts(parts),
    };
    let recall = recall(&search, &asked).await.map_err(failed)?;

    let mut measured = Vec::new();
    let way = match (args.pipeline, args.stale) {
        (false, false) => "search",
        (false, true) => "search, stale",
        (true, false) => "search, pipelined",
        (true, true) => "search, pipelined, stale",
    };
    for callers in args.effort.callers(&[1, 8, 64]) {
        let (driven, cpu) = searches(&client, &search, &asked, callers, args.effort.time).await.map_err(failed)?;
        measured.push(Measured { recall: Some(recall), cpu: Some(cpu), ..Measured::of(way, driven) });
        measured.push(Measured::of("floor (ping)", floor(&client, callers).await));
    }
    if let Some(rate) = args.while_ingesting {
        let (connection, of) = (args.connection.clone(), name.clone());
        let background = Background::start(move || connection.collection(&of), Arc::new(set.records), rate);
        for callers in args.effort.callers(&[1, 8, 64]) {
            let (driven, _) = searches(&client, &search, &asked, callers, args.effort.time).await.map_err(failed)?;
            let of = |way| format!("{way}, {} records/s coming in", grouped(background.rate() as u64));
            measured.push(Measured::of(of(way), driven));
            measured.push(Measured::of(of("floor (ping)"), floor(&client, callers).await));
        }
        background.finish(&client.collection(namespace, name)).await?;
    }
    report("search", &measured, args.connection.json)
}

/// Searches from so many callers for a time, and what each cost the node.
async fn searches(
    client: &Client,
    search: &Query,
    asked: &Arc<Vec<Asked>>,
    callers: u32,
    time: Duration,
) -> Result<(Driven, Cpu), Error> {
    let (search, asked) = (search.clone(), asked.clone());
    let before = client.stats().await?;
    let driven = drive(callers, time, move |caller, turn| {
        let number = (caller as usize * 7919 + turn as usize) % asked.len();
        let search = search.of(&asked[number].vector);
        async move { search.hits().await.map(|_| ()) }
    })
    .await;
    let cpu = Cpu::between(&before, &client.stats().await?, driven.latencies.count());
    Ok((driven, cpu))
}

#[derive(Clone)]
struct Query {
    collection: Collection,
    k: u32,
    ef: u32,
    exact: bool,
    filter: Option<Filter>,
}

impl Query {
    fn of(&self, vector: &[f32]) -> Search {
        let search = self.collection.search(vector).k(self.k).ef(self.ef).filter(self.filter.clone());
        if self.exact { search.exact() } else { search }
    }
}

fn asked(set: &DataSet, k: usize) -> Result<Vec<Asked>, Failure> {
    let known = set.queries.iter().map(|query| query.nearest.len()).min().unwrap_or(0);
    if k > known {
        return Err(Failure::usage(format!("-k {k}: the ground truth has the nearest {known}")));
    }
    let nearest = |rows: &[usize]| rows.iter().filter_map(|row| Some(set.records.get(*row)?.key.clone())).collect();
    let asked =
        set.queries.iter().map(|query| Asked { vector: query.vector.clone(), nearest: nearest(&query.nearest[..k]) });
    Ok(asked.collect())
}

async fn asked_filtered(set: &DataSet, collection: &Collection, k: u32, filter: &Filter) -> Result<Vec<Asked>, Error> {
    let mut asked = Vec::new();
    for query in set.queries.iter().take(FILTERED_QUERIES) {
        let search = collection.search(query.vector.clone()).k(k).filter(filter.clone()).parts(Parts::NONE);
        let hits = search.exact().hits().await?;
        asked.push(Asked {
            vector: query.vector.clone(),
            nearest: hits.into_iter().map(|hit| hit.record.key).collect(),
        });
    }
    Ok(asked)
}

/// The share of the exact answers that the search finds. Where there is nothing to find, nothing is missed.
async fn recall(search: &Query, asked: &[Asked]) -> Result<f64, Error> {
    let (mut found, mut wanted) = (0, 0);
    for one in asked {
        let hits = search.of(&one.vector).hits().await?;
        wanted += one.nearest.len();
        found += hits.iter().filter(|hit| one.nearest.contains(&hit.record.key)).count();
    }
    Ok(if wanted == 0 { 1.0 } else { found as f64 / wanted as f64 })
}
