//! `demo`: what loci is for, shown on a node of its own with real data.
//!
//! The node is this same program in another process, on a temporary directory; everything goes over gRPC, as any client's
//! calls do. Whatever ends the demo, an error or ctrl-c too, ends the node and removes the directory.

mod child;
pub mod data;

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use loci_client::{
    Client, Collection, Condition, Error, Filter, Hit, Ingest, IngestLimits, Metric, Record, Schema, Value,
};

use super::admin::hex;
use super::failure::{Failure, Kind};
use super::filter_language;
use super::ingest::interrupted;
use super::latencies::Latencies;
use super::output::{Rows, bytes_size, colours, grouped, print, printable, time_shown};
use child::{ChildNode, last_lines};
use data::{DataSet, Query};

/// The held-out queries that are shown: nothing special, only different from each other.
const SHOWN_QUERIES: [usize; 3] = [4, 17, 63];
const SEARCHES_PER_CALLER: usize = 400;
const CALLERS: [usize; 2] = [1, 8];
const TTL: Duration = Duration::from_millis(1500);
/// How long the background may take to build graphs before the figures are taken without waiting further.
const INDEX_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Keep the node's directory, to look at it or to serve it.
    #[arg(long)]
    keep: bool,
}

pub async fn demo(args: DemoArgs) -> Result<(), Failure> {
    let directory = tempfile::Builder::new().prefix("loci-demo-").disable_cleanup(args.keep).tempdir();
    let directory = directory.map_err(|error| Failure::file(&std::env::temp_dir(), error))?;
    let told = tokio::select! {
        told = story(directory.path()) => told,
        () = interrupted() => Err(Failure::new(Kind::Interrupted, "interrupted")),
    };
    let told = told.map_err(|mut failure| {
        failure.message.push_str(&last_lines(&directory.path().join("node.log")));
        failure
    });
    if args.keep {
        let data = directory.path().join("data");
        print(format!("\nKept: loci serve --data {}", data.display()))?;
    } else {
        directory.close().map_err(|error| Failure::refused(format!("temporary directory: {error}")))?;
    }
    told
}

fn heading(number: u32, title: &str) -> Result<(), Failure> {
    let line = format!("{number}  {title}");
    if colours() { print(format!("\n\x1b[1m{line}\x1b[0m")) } else { print(format!("\n{line}")) }
}

/// Prints something indented under its heading.
fn under(text: impl AsRef<str>) -> Result<(), Failure> {
    print(indented(text.as_ref()))
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("   {line}").trim_end().to_owned()).collect();
    lines.join("\n")
}

fn called(what: &'static str) -> impl Fn(Error) -> Failure {
    move |error| Failure::call(what, error)
}

async fn connect(address: &str) -> Result<Client, Failure> {
    let builder = Client::builder().address(address).connections(2).retries(20).principal("demo").task("demo");
    builder.connect().await.map_err(called("the demo's node"))
}

/// What the demo has learned on its way, for its last lines.
struct Figures {
    ingest: Duration,
    restart: Duration,
}

async fn story(directory: &Path) -> Result<(), Failure> {
    let set = load(directory)?;
    let (data, log) = (directory.join("data"), directory.join("node.log"));

    heading(1, "A node, its own process, on an empty directory")?;
    let begun = Instant::now();
    let node = ChildNode::start(&data, &log).map_err(Failure::refused)?;
    let client = connect(&node.address).await?;
    under(format!("{} on {}, ready after {}", node.address, data.display(), time_shown(begun.elapsed())))?;

    let memories = client.collection("default", "memories");
    let answers = client.collection("default", "answers");
    let ingest = ingest(&set, &memories, &answers).await?;
    nearest(&set, &memories).await?;
    filtered(&set, &memories).await?;
    expiring(&answers).await?;
    atomic(&set, &memories, &answers).await?;

    let (node, client, restart) = killed(&set, node, &client, &data, &log).await?;
    let memories = client.collection("default", "memories");
    closing(&set, &client, &memories, &Figures { ingest, restart }).await?;
    node.stop();
    Ok(())
}

fn load(directory: &Path) -> Result<DataSet, Failure> {
    let files = directory.join("wordnet-5k");
    let unpacked = std::fs::create_dir(&files).and_then(|()| data::unpack(&files));
    unpacked.map_err(|error| Failure::file(&files, error))?;
    let set = DataSet::load(&files).map_err(Failure::refused)?;
    std::fs::remove_dir_all(&files).map_err(|error| Failure::file(&files, error))?;
    Ok(set)
}

async fn ingest(set: &DataSet, memories: &Collection, answers: &Collection) -> Result<Duration, Failure> {
    heading(2, "Real records: WordNet glosses with MiniLM embeddings")?;
    let schema = Schema::default().with_embedding("", set.dimension(), Metric::Cosine);
    memories.create(schema).await.map_err(called("collection memories"))?;
    answers.create(Schema::default()).await.map_err(called("collection answers"))?;
    let limits = IngestLimits { batch_records: 250, ..IngestLimits::default() };
    let mut writer = Ingest::new(memories.clone(), limits);
    let records = set.records.clone();
    let begun = Instant::now();
    for record in records {
        writer.push(record).await.map_err(called("ingest"))?;
    }
    writer.flush().await.map_err(called("ingest"))?;
    let took = begun.elapsed();
    let count = memories.count(None).await.map_err(called("count"))?;
    let rate = count as f64 / took.as_secs_f64().max(1e-9);
    under(format!(
        "{} records written, on disk and searchable after {}: {} records/s",
        grouped(count),
        time_shown(took),
        grouped(rate as u64)
    ))?;
    Ok(took)
}

fn hits_shown(hits: &[Hit]) -> String {
    let mut rows = Rows::new(&[">distance", "text", "kind", "category", ">size"]);
    let shown = |hit: &Hit, name: &str| match hit.record.attribute(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Int(number)) => number.to_string(),
        _ => String::new(),
    };
    for hit in hits {
        rows.push([
            format!("{:.4}", hit.distance),
            hit.record.text().unwrap_or_default().to_owned(),
            shown(hit, "kind"),
            shown(hit, "category"),
            shown(hit, "size"),
        ]);
    }
    rows.text()
}

fn shown_queries(set: &DataSet) -> impl Iterator<Item = &Query> {
    SHOWN_QUERIES.iter().filter_map(|number| set.queries.get(*number))
}

async fn nearest(set: &DataSet, memories: &Collection) -> Result<(), Failure> {
    heading(3, "Nearest neighbours of texts that it has never seen")?;
    for (number, query) in shown_queries(set).enumerate() {
        let hits = memories.search(query.vector.clone()).k(4).hits().await.map_err(called("search"))?;
        let gap = if number > 0 { "\n" } else { "" };
        under(format!("{gap}near \"{}\"", printable(&query.text)))?;
        under(hits_shown(&hits))?;
    }
    Ok(())
}

async fn filtered(set: &DataSet, memories: &Collection) -> Result<(), Failure> {
    let text = "kind = \"verb\" and size < 60 and not category = \"verb.social\"";
    let filter: Filter = filter_language::parse(text).map_err(|error| Failure::refused(error.to_string()))?;
    heading(4, "The same, only among records that a filter takes")?;
    let count = memories.count(filter.clone()).await.map_err(called("count"))?;
    under(format!("{text}: {} records", grouped(count)))?;
    if let Some(query) = shown_queries(set).next() {
        let search = memories.search(query.vector.clone()).k(4).filter(filter);
        let hits = search.hits().await.map_err(called("search"))?;
        under(format!("near \"{}\"", printable(&query.text)))?;
        under(hits_shown(&hits))?;
    }
    Ok(())
}

async fn show_answer(answers: &Collection, key: &str, when: &str) -> Result<bool, Failure> {
    let found = answers.get(key.to_owned()).await.map_err(called("get"))?;
    let shown = match &found {
        Some(record) => format!("\"{}\"", record.text().unwrap_or_default()),
        None => "nothing".into(),
    };
    under(format!("{when:<30} {shown}"))?;
    Ok(found.is_some())
}

async fn expiring(answers: &Collection) -> Result<(), Failure> {
    heading(5, "A cached answer with a deadline")?;
    let key = "capital of France?";
    let record = Record::new(key).with_value("Paris").expires_in(TTL);
    answers.put(record).await.map_err(called("put"))?;
    let begun = Instant::now();
    show_answer(answers, key, &format!("get, at once ({} to live):", time_shown(TTL))).await?;
    tokio::time::sleep(TTL + Duration::from_millis(100)).await;
    let is_there = show_answer(answers, key, &format!("get, after {}:", time_shown(begun.elapsed()))).await?;
    if is_there { Err(Failure::refused("the cached answer outlived its deadline")) } else { Ok(()) }
}

async fn atomic(set: &DataSet, memories: &Collection, answers: &Collection) -> Result<(), Failure> {
    heading(6, "One atomic batch: a new memory, and the cached answer that it makes wrong is gone")?;
    let question = "how many moons has Saturn?";
    let cached = answers.put(Record::new(question).with_value("82")).await.map_err(called("put"))?;
    show_answer(answers, question, "cached before:").await?;
    let vector = set.queries.first().map(|query| query.vector.clone()).unwrap_or_default();
    let memory = Record::new("fact:saturn")
        .with_value("Saturn has 274 confirmed moons")
        .with_attribute("kind", "fact")
        .with_embedding(vector);
    let still_cached = Condition::version(question, cached.version).in_collection("answers");
    let batch = memories.batch().condition(still_cached).put(memory).delete_in("answers", question);
    let written = batch.clone().commit().await.map_err(called("batch"))?;
    under(format!("batch, if version is {:<9} done, version {}", cached.version, written.version))?;
    show_answer(answers, question, "cached after:").await?;
    show_answer(memories, "fact:saturn", "memory after:").await?;
    match batch.commit().await {
        Err(Error::ConditionFailed { version, .. }) => {
            let found = version.map_or("there is none".to_owned(), |version| format!("it is {version}"));
            under(format!("the same batch again:          refused, {found}; nothing changed"))
        }
        Err(error) => Err(Failure::call("batch", error)),
        Ok(_) => Err(Failure::refused("a batch was done although its condition does not hold")),
    }
}

async fn killed(
    set: &DataSet,
    node: ChildNode,
    client: &Client,
    data: &Path,
    log: &Path,
) -> Result<(ChildNode, Client, Duration), Failure> {
    heading(7, "kill -9, and a new process on the same directory")?;
    let before = state(set, client).await?;
    node.kill();
    let begun = Instant::now();
    let node = ChildNode::start(data, log).map_err(Failure::refused)?;
    let client = connect(&node.address).await?;
    let after = state(set, &client).await?;
    let took = begun.elapsed();
    let mut rows = Rows::new(&["", "before", "after"]);
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        rows.push([(*name).to_owned(), before.clone(), after.clone()]);
    }
    under(rows.text())?;
    if before != after {
        return Err(Failure::refused("the node is not what it was before it was killed"));
    }
    under(format!("first correct answer {} after the kill", time_shown(took)))?;
    Ok((node, client, took))
}

/// What must be the same before and after.
async fn state(set: &DataSet, client: &Client) -> Result<Vec<(&'static str, String)>, Failure> {
    let memories = client.collection("default", "memories");
    let mut keys = Vec::new();
    for query in shown_queries(set) {
        let hits = memories.search(query.vector.clone()).k(10).exact().hits().await.map_err(called("search"))?;
        keys.extend(hits.into_iter().map(|hit| (hit.record.key, hit.distance.to_bits())));
    }
    let count = memories.count(None).await.map_err(called("count"))?;
    let fact = memories.get("fact:saturn").await.map_err(called("get"))?;
    let stats = client.stats().await.map_err(called("stats"))?;
    let digest = stats.shards.first().map(|shard| hex(&shard.digest)).unwrap_or_default();
    let hits = blake3::hash(format!("{keys:?}").as_bytes()).to_hex();
    Ok(vec![
        ("memories", grouped(count)),
        ("the new memory", fact.map_or("gone".into(), |record| record.text().unwrap_or_default().into())),
        ("30 hits, hashed", hits[..16].to_owned()),
        ("digest of everything", digest.chars().take(16).collect()),
    ])
}

async fn closing(set: &DataSet, client: &Client, memories: &Collection, figures: &Figures) -> Result<(), Failure> {
    heading(8, "In figures, on this machine")?;
    under("waiting until the node, at rest, has sealed the records and built their graph")?;
    let stats = wait_until_indexed(memories).await?;
    let recall = recall(set, memories).await?;
    let mut rows = Rows::new(&["", ""]);
    let rate = set.records.len() as f64 / figures.ingest.as_secs_f64().max(1e-9);
    rows.push([
        "ingest".to_owned(),
        format!("{} records/s, every batch synced to disk before it was answered", grouped(rate as u64)),
    ]);
    rows.push(["recall@10".to_owned(), format!("{recall:.4} of the exact answer, {} queries", set.queries.len())]);
    rows.push(["restart".to_owned(), format!("{} from kill to correct answers", time_shown(figures.restart))]);
    let indexed = match stats.records.saturating_sub(stats.indexed_records) {
        0 => format!("all {} records are in a graph", grouped(stats.records)),
        rest => format!("{} records; {} more are compared exactly", grouped(stats.indexed_records), grouped(rest)),
    };
    rows.push(["indexed".to_owned(), indexed]);
    let segments = if stats.segments == 1 { "segment" } else { "segments" };
    rows.push(["on disk".to_owned(), format!("{} in {} {segments}", bytes_size(stats.disk_bytes), stats.segments)]);
    under(rows.text())?;
    let mut rows = Rows::new(&[">callers", ">searches/s", ">p50", ">p95", ">p99"]);
    for callers in CALLERS {
        let (latencies, took) = drive(set, client, callers).await?;
        let [p50, p95, p99] = latencies.percentiles([50.0, 95.0, 99.0]);
        let rate = latencies.count() as f64 / took.as_secs_f64().max(1e-9);
        rows.push([callers.to_string(), grouped(rate as u64), time_shown(p50), time_shown(p95), time_shown(p99)]);
    }
    print("")?;
    under(rows.text())
}

async fn wait_until_indexed(memories: &Collection) -> Result<loci_client::CollectionStats, Failure> {
    let begun = Instant::now();
    loop {
        let stats = memories.describe().await.map_err(called("collection memories"))?.stats;
        // A node that has had nothing to do for two seconds seals what it has, and builds the graph.
        if stats.indexed_records >= stats.records || begun.elapsed() > INDEX_WAIT {
            return Ok(stats);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The share of the ten nearest that the search finds. A record that the demo has added does not count.
async fn recall(set: &DataSet, memories: &Collection) -> Result<f64, Failure> {
    let mut found = 0;
    let mut wanted = 0;
    for query in &set.queries {
        let hits = memories.search(query.vector.clone()).k(11).hits().await.map_err(called("search"))?;
        let keys: HashSet<_> =
            hits.iter().map(|hit| &hit.record.key).filter(|key| **key != "fact:saturn").take(10).collect();
        let nearest = query.nearest.iter().take(10).filter_map(|row| set.records.get(*row));
        for record in nearest {
            wanted += 1;
            found += usize::from(keys.contains(&record.key));
        }
    }
    Ok(f64::from(found as u32) / f64::from(wanted.max(1)))
}

async fn drive(set: &DataSet, client: &Client, callers: usize) -> Result<(Latencies, Duration), Failure> {
    let vectors: Vec<Vec<f32>> = set.queries.iter().map(|query| query.vector.clone()).collect();
    let vectors = std::sync::Arc::new(vectors);
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..callers {
        let memories = client.collection("default", "memories");
        let vectors = vectors.clone();
        tasks.spawn(async move {
            let mut latencies = Latencies::default();
            for turn in 0..SEARCHES_PER_CALLER {
                let vector = vectors[(caller * 31 + turn) % vectors.len()].clone();
                let begun = Instant::now();
                memories.search(vector).k(10).hits().await?;
                latencies.add(begun.elapsed());
            }
            Ok::<_, Error>(latencies)
        });
    }
    let mut latencies = Latencies::default();
    while let Some(done) = tasks.join_next().await {
        let done = done.map_err(|error| Failure::refused(format!("a caller ended: {error}")))?;
        latencies.merge(done.map_err(called("search"))?);
    }
    Ok((latencies, begun.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_indented_and_have_no_trailing_spaces() {
        assert_eq!(indented("a\n\n  b "), "   a\n\n     b");
    }
}
