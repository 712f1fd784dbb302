//! `put`, `get`, `delete`, `scan`, `count`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use loci_client::{Condition, Filter, Parts, PutMode, PutOptions, Record};
use serde_json::{Value as Json, json};

use super::connect::{Connection, duration, filter};
use super::failure::{Failure, Kind};
use super::json::{Fields, record_from_json, record_to_json, sparse_from_json, value_from_json, vector_from_json};
use super::output::{Rows, attributes_shown, bytes_shown, grouped, print, print_json};
use super::source::npy::NpyReader;

/// What `--help` says about filters.
pub const FILTER_HELP: &str = "\
Filters:
  kind = \"noun\" and size >= 10 and not tags has \"old\"
  tests:   = != < <= > >=, in (..), not in (..), between A and B, has ELEMENT, contains \"TEXT\",
           prefix \"TEXT\", exists, is null, is not null
  values:  \"text\", 10, 2.5, true, false, @2024-01-31, @2024-01-31T12:00:00Z
  names:   author.name goes into maps; other characters stand in backticks
  A test of an attribute that is missing or null is unknown, and so is its \"not\"; is_true(..) makes it false.";

#[derive(Debug, Args)]
pub struct PutArgs {
    /// The collection.
    collection: String,
    /// The record's key. Not with --record.
    #[arg(required_unless_present = "record")]
    key: Option<String>,
    /// Its value.
    #[arg(conflicts_with = "value_file")]
    value: Option<String>,
    /// Read the value from a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// An attribute, NAME=VALUE. The value is read as JSON if it is JSON, else as text.
    #[arg(long = "attribute", short, value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    /// An embedding: a JSON list, or a .json or .npy file; with several in the collection NAME=....
    #[arg(long = "embedding", short, value_name = "VECTOR")]
    embeddings: Vec<String>,
    /// A sparse embedding: {"DIMENSION": WEIGHT, ..}; with several in the collection NAME=....
    #[arg(long = "sparse", value_name = "WEIGHTS")]
    sparse: Vec<String>,
    /// The record stops existing so long from now: 500ms, 30s, 7d.
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// The whole record as JSON; - reads it from standard input.
    #[arg(long, value_name = "JSON", conflicts_with_all = ["key", "value", "value_file", "attributes", "embeddings", "sparse", "ttl"])]
    record: Option<String>,
    /// Fail if there is one.
    #[arg(long, conflicts_with_all = ["update", "merge"])]
    insert: bool,
    /// Fail if there is none.
    #[arg(long, conflicts_with = "merge")]
    update: bool,
    /// Keep what the record has and this does not say.
    #[arg(long)]
    merge: bool,
    /// Only if the record has this version.
    #[arg(long, value_name = "VERSION")]
    if_version: Option<u64>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub struct GetArgs {
    /// The collection.
    collection: String,
    /// The keys.
    #[arg(required = true)]
    keys: Vec<String>,
    /// Read the embeddings too.
    #[arg(long)]
    embeddings: bool,
    /// Print only the value, as it is.
    #[arg(long, conflicts_with = "json")]
    raw: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub struct DeleteArgs {
    /// The collection.
    collection: String,
    /// The keys.
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    keys: Vec<String>,
    /// Delete every record that this takes.
    #[arg(long, value_parser = filter)]
    filter: Option<Filter>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub struct ScanArgs {
    /// The collection.
    collection: String,
    /// Only keys that begin with this.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Only records that this takes.
    #[arg(long, value_parser = filter)]
    filter: Option<Filter>,
    /// At most so many; 0: all. JSON is one record a line.
    #[arg(long, default_value_t = 100)]
    limit: u64,
    /// Read the embeddings too, which only JSON shows.
    #[arg(long)]
    embeddings: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub struct CountArgs {
    /// The collection.
    collection: String,
    /// Only records that this takes.
    #[arg(long, value_parser = filter)]
    filter: Option<Filter>,
    #[command(flatten)]
    connection: Connection,
}

fn standard_input() -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    match std::io::stdin().read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::refused(format!("standard input: {error}"))),
    }
}

/// The record that the options of `put` describe.
fn record_of(args: &PutArgs) -> Result<Record, Failure> {
    if let Some(text) = &args.record {
        let bytes = if text == "-" { standard_input()? } else { text.clone().into_bytes() };
        let json = serde_json::from_slice(&bytes).map_err(|error| Failure::usage(format!("--record: {error}")))?;
        let record = record_from_json(json, &Fields::default())
            .map_err(|reason| Failure::usage(format!("--record: {reason}")))?;
        if record.key.is_empty() {
            return Err(Failure::usage("--record: there is no \"key\""));
        }
        return Ok(record);
    }
    let mut record = Record::new(args.key.clone().unwrap_or_default());
    if let Some(value) = &args.value {
        record = record.with_value(value.clone());
    }
    if let Some(path) = &args.value_file {
        record = record.with_value(match path.as_os_str().to_str() {
            Some("-") => standard_input()?,
            _ => std::fs::read(path).map_err(|error| Failure::file(path, error))?,
        });
    }
    for text in &args.attributes {
        let Some((name, value)) = text.split_once('=') else {
            return Err(Failure::usage(format!("--attribute {text:?}: write NAME=VALUE")));
        };
        let json = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        let value = value_from_json(json).map_err(|reason| Failure::usage(format!("--attribute {name}: {reason}")))?;
        record = record.with_attribute(name, value);
    }
    for text in &args.embeddings {
        let (name, vector) = match text.split_once('=') {
            Some((name, vector)) if !text.starts_with('[') => (name, vector),
            _ => ("", text.as_str()),
        };
        let [vector] = <[_; 1]>::try_from(vectors(vector, "--embedding")?)
            .map_err(|rows| Failure::usage(format!("--embedding: {} rows where one is wanted", rows.len())))?;
        record = record.with_named_embedding(name, vector);
    }
    for text in &args.sparse {
        let (name, weights) = match text.split_once('=') {
            Some((name, weights)) if !text.trim_start().starts_with('{') => (name, weights),
            _ => ("", text.as_str()),
        };
        record = record.with_sparse(name, sparse_weights(weights, "--sparse")?);
    }
    if let Some(ttl) = args.ttl {
        record = record.expires_in(ttl);
    }
    Ok(record)
}

/// The weights of a sparse embedding from their JSON.
pub fn sparse_weights(text: &str, option: &str) -> Result<Vec<(u32, f32)>, Failure> {
    let wrong = |reason: String| Failure::usage(format!("{option}: {reason}"));
    let json: Json = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    sparse_from_json(&json).map_err(wrong)
}

/// A JSON list, a list of such lists, or a file that has one.
pub fn vectors(text: &str, option: &str) -> Result<Vec<Vec<f32>>, Failure> {
    let path = Path::new(text);
    if text.trim_start().starts_with('[') {
        return vectors_of_json(text.as_bytes(), option);
    }
    if path.extension().is_some_and(|extension| extension == "npy") {
        let mut reader = NpyReader::open(path).map_err(|error| Failure::file(path, error))?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row().map_err(|error| Failure::file(path, error))? {
            rows.push(row);
        }
        return Ok(rows);
    }
    let bytes = std::fs::read(path).map_err(|error| Failure::file(path, error))?;
    vectors_of_json(&bytes, &format!("{option} {text}"))
}

fn vectors_of_json(bytes: &[u8], named: &str) -> Result<Vec<Vec<f32>>, Failure> {
    let wrong = |reason: String| Failure::usage(format!("{named}: {reason}"));
    let json: Json = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
    let rows = match &json {
        Json::Array(rows) if rows.first().is_some_and(Json::is_array) => rows.as_slice(),
        _ => std::slice::from_ref(&json),
    };
    rows.iter().map(|row| vector_from_json(row).map_err(wrong)).collect()
}

pub async fn put(args: PutArgs) -> Result<(), Failure> {
    let record = record_of(&args)?;
    let key = record.key.clone();
    let options = PutOptions {
        mode: match (args.insert, args.update, args.merge) {
            (true, _, _) => PutMode::Insert,
            (_, true, _) => PutMode::Update,
            (_, _, true) => PutMode::Merge,
            _ => PutMode::Replace,
        },
        conditions: args.if_version.map(|version| Condition::version(key.clone(), version)).into_iter().collect(),
        ..PutOptions::default()
    };
    let collection = args.connection.collection(&args.collection)?;
    let written = collection
        .put_with([record], options)
        .await
        .map_err(|error| Failure::call(format!("{} {}", args.collection, bytes_shown(&key, 80)), error))?;
    let existed = written.existed.first().copied().unwrap_or(false);
    if args.connection.json {
        let (shard, index) = written.token.parts().next().unwrap_or_default();
        return print_json(&json!({"version": written.version, "existed": existed,
            "token": {"shard": shard, "index": index}}));
    }
    let did = if existed { "replaced" } else { "inserted" };
    print(format!("{} {did}, version {}", bytes_shown(&key, 80), written.version))
}

pub async fn get(args: GetArgs) -> Result<(), Failure> {
    let collection = args
        .connection
        .collection(&args.collection)?
        .with_parts(Parts { embeddings: args.embeddings, ..Parts::default() });
    let found =
        collection.get_many(args.keys.iter().cloned()).await.map_err(|error| Failure::call(&args.collection, error))?;
    let missing: Vec<&str> =
        args.keys.iter().zip(&found).filter(|(_, record)| record.is_none()).map(|(key, _)| key.as_str()).collect();
    if args.raw {
        use std::io::Write;
        let mut output = std::io::stdout().lock();
        for record in found.iter().flatten() {
            let value = record.value.as_deref().unwrap_or_default();
            output.write_all(value).map_err(|error| Failure::refused(format!("standard output: {error}")))?;
        }
        output.flush().map_err(|error| Failure::refused(format!("standard output: {error}")))?;
    } else if args.connection.json {
        let records: Vec<Json> =
            found.iter().map(|record| record.as_ref().map_or(Json::Null, record_to_json)).collect();
        print_json(&json!({ "records": records }))?;
    } else if missing.len() < found.len() {
        let found: Vec<&Record> = found.iter().flatten().collect();
        print(records_table(&found))?;
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Kind::NotFound, format!("{}: no record {}", args.collection, missing.join(", "))))
}

fn records_table(records: &[&Record]) -> String {
    let mut rows = Rows::new(&["key", "value", "attributes", ">version", "deadline"]);
    for record in records {
        rows.push([
            bytes_shown(&record.key, 60),
            record.value.as_ref().map_or(String::new(), |value| bytes_shown(value, 200)),
            attributes_shown(record),
            record.version.to_string(),
            match record.deadline {
                Some(loci_client::Deadline::At(moment)) => super::json::moment_to_text(moment),
                _ => String::new(),
            },
        ]);
    }
    rows.text()
}

pub async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let collection = args.connection.collection(&args.collection)?;
    let failed = |error| Failure::call(&args.collection, error);
    let by_keys = args.filter.is_none();
    let deleted = match args.filter {
        Some(filter) => collection.delete_where(filter).await,
        None => collection.delete_many(args.keys).await,
    };
    let deleted = deleted.map_err(failed)?.deleted;
    if args.connection.json {
        print_json(&json!({ "deleted": deleted }))?;
    } else {
        print(format!("{} deleted", grouped(deleted)))?;
    }
    if by_keys && deleted == 0 {
        return Err(Failure::new(Kind::NotFound, format!("{}: no such record", args.collection)));
    }
    Ok(())
}

pub async fn scan(args: ScanArgs) -> Result<(), Failure> {
    let page = if args.limit == 0 { 1000 } else { args.limit.min(1000) as u32 };
    let mut scan = args
        .connection
        .collection(&args.collection)?
        .with_parts(Parts { embeddings: args.embeddings, ..Parts::default() })
        .scan()
        .prefix(args.prefix.clone())
        .filter(args.filter.clone())
        .page_records(page);
    let mut printed = 0;
    while args.limit == 0 || printed < args.limit {
        let Some(page) = scan.next_page().await.map_err(|error| Failure::call(&args.collection, error))? else {
            return Ok(());
        };
        let wanted = if args.limit == 0 { page.records.len() } else { (args.limit - printed) as usize };
        let records: Vec<&Record> = page.records.iter().take(wanted).collect();
        printed += records.len() as u64;
        if args.connection.json {
            for record in records {
                print_json(&record_to_json(record))?;
            }
        } else if !records.is_empty() {
            print(records_table(&records))?;
        }
        if page.cursor.is_none() && page.records.len() <= wanted {
            return Ok(());
        }
    }
    eprintln!("there are more: --limit 0 prints all");
    Ok(())
}

pub async fn count(args: CountArgs) -> Result<(), Failure> {
    let collection = args.connection.collection(&args.collection)?;
    let count = collection.count(args.filter).await.map_err(|error| Failure::call(&args.collection, error))?;
    if args.connection.json {
        return print_json(&json!({ "count": count }));
    }
    print(grouped(count))
}
