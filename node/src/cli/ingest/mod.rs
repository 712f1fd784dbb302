//! `ingest`: the records of files, in bounded memory, resumable.
//!
//! ```text
//! reader thread: Source -> check --rows--> [ channel ] --> Ingest (batches under way) --> the node
//!                                             |                      |
//!                                        rows pending <--- acknowledged, refused
//!                                             |
//!                         in the order of the file: dead letters, then the progress file
//! ```
//!
//! Always: the progress file says less than or as much as is written. Records are put by key, so what a second run writes
//! again is the same record: nothing is lost, nothing is there twice. A progress file belongs to one file with one
//! fingerprint, one set of options, one node and collection; where any of them differs, reading starts at the beginning.

mod check;
mod dead_letters;
mod progress;

use std::collections::VecDeque;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use loci_client::{Collection, Error, Ingest, IngestLimits, Metric, Record, Schema};
use serde_json::json;
use tokio::sync::mpsc;

use super::admin::MetricName;
use super::connect::Connection;
use super::failure::{Failure, Kind};
use super::json::Fields;
use super::output::{grouped, print, print_json, time_shown};
use super::source::{Position, Row, Size, Source, SourceError, Spec};
use check::Check;
use dead_letters::DeadLetters;
use progress::Progress;

/// Rows that the reader hands over at once, and how many such parcels wait.
const PARCEL_ROWS: usize = 64;
const PARCELS_AHEAD: usize = 4;
const PROGRESS_SAVED_EVERY: Duration = Duration::from_secs(1);
const PROGRESS_PRINTED_EVERY: Duration = Duration::from_secs(5);
/// How long an interrupted ingest waits for what is under way.
const LAST_WAIT: Duration = Duration::from_secs(5);
/// Rows among which `--create` looks for one to learn the embeddings from.
const ROWS_LOOKED_AT: usize = 1000;

const HELP: &str = "\
Formats, by the name of the file:
  .jsonl .ndjson   a JSON object a line: {\"key\", \"value\" or \"text\", \"attributes\": {..}, \"embedding\": [..],
                   \"embeddings\": {\"name\": [..]}, \"ttl_millis\", \"deadline\"}; with --vectors, row i of a .npy file is
                   the embedding of line i
  .npy             float16, float32 or float64, a row a record; needs --key-prefix
  .fvecs           needs --key-prefix
  .parquet         a row a record; columns that are neither key, value nor embedding become attributes

Rows that are no records go to the dead-letter file, with line and reason, and the exit code is 5.
An ingest that was interrupted goes on where it stopped when the same command is run again. A file that has changed is
read from its beginning. Records are put by key, so nothing is written twice.";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct IngestArgs {
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The collection.
    #[arg(long, short)]
    collection: String,
    /// A .npy file with the embeddings of the JSONL file's lines.
    #[arg(long, value_name = "FILE.npy")]
    vectors: Option<PathBuf>,
    /// Field or column of the key.
    #[arg(long, value_name = "NAME", default_value = "key")]
    key_field: String,
    /// Rows without a key get this and their number, counted from 0.
    #[arg(long, value_name = "TEXT")]
    key_prefix: Option<String>,
    /// Field or column of the value. [default: value, or else text]
    #[arg(long, value_name = "NAME")]
    value_field: Option<String>,
    /// Field or column of the attributes.
    #[arg(long, value_name = "NAME", default_value = "attributes")]
    attributes_field: String,
    /// Field or column of the embedding.
    #[arg(long, value_name = "NAME", default_value = "embedding")]
    embedding_field: String,
    /// Other fields of a JSON object become attributes too. Columns of Parquet always do.
    #[arg(long)]
    flatten: bool,
    /// Which embedding of the collection it is, if there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    embedding: String,
    /// Make the collection if it is not there, with the dimension that the first record has.
    #[arg(long)]
    create: bool,
    /// With --create: how far apart two embeddings are.
    #[arg(long, default_value = "cosine", requires = "create")]
    metric: MetricName,
    /// Where rows that are no records go. [default: FILE.dead.jsonl in this directory]
    #[arg(long, value_name = "FILE")]
    dead_letters: Option<PathBuf>,
    /// Where it is noted how far a file is read. [default: in the user's state directory]
    #[arg(long, value_name = "FILE")]
    progress: Option<PathBuf>,
    /// Read from the beginning, whatever is noted.
    #[arg(long)]
    restart: bool,
    /// Records per batch.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Batches under way.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    #[command(flatten)]
    connection: Connection,
}

/// What became of one file.
#[derive(Debug, Default)]
struct Outcome {
    written: u64,
    refused: u64,
    /// Rows that an earlier run had done.
    skipped: u64,
    took: Duration,
    dead_letters: Option<PathBuf>,
}

impl IngestArgs {
    fn spec(&self, file: &Path) -> Spec {
        Spec {
            path: file.into(),
            vectors: self.vectors.clone(),
            fields: Fields {
                key: self.key_field.clone(),
                value: self.value_field.clone(),
                attributes: self.attributes_field.clone(),
                embedding: self.embedding_field.clone(),
                rest_as_attributes: self.flatten,
            },
            embedding: self.embedding.clone(),
            key_prefix: self.key_prefix.clone(),
        }
    }
}

pub async fn ingest(args: IngestArgs) -> Result<(), Failure> {
    if args.files.len() > 1 {
        for (option, is_set) in [
            ("--vectors", args.vectors.is_some()),
            ("--dead-letters", args.dead_letters.is_some()),
            ("--progress", args.progress.is_some()),
        ] {
            if is_set {
                return Err(Failure::usage(format!("{option} is about one file, and {} are given", args.files.len())));
            }
        }
    }
    let client = args.connection.client()?;
    let collection = client.collection(&args.connection.namespace, &args.collection);
    let failed = |error| Failure::call(format!("collection {}", args.collection), error);
    if args.create {
        let schema = schema_of(args.spec(&args.files[0]), args.metric.into())?;
        collection.ensure(schema).await.map_err(failed)?;
    }
    let schema = collection.describe().await.map_err(failed)?.schema;
    let node = client.stats().await.map_err(failed)?.node;

    let mut refused = 0;
    for file in &args.files {
        let job = Job {
            spec: args.spec(file),
            check: Check::new(&schema),
            collection: collection.clone(),
            limits: IngestLimits {
                batch_records: args.batch as usize,
                in_flight: args.in_flight as usize,
                ..IngestLimits::default()
            },
            dead_letters: args.dead_letters.clone().unwrap_or_else(|| dead_letters::default_path(file)),
            progress: args.progress.clone(),
            restart: args.restart,
            node: node.clone(),
        };
        let outcome = job.run(interrupted()).await?;
        report(&args, file, &outcome)?;
        refused += outcome.refused;
    }
    match refused {
        0 => Ok(()),
        refused => {
            let message = format!("{} rows are no records: see the dead-letter file", grouped(refused));
            Err(Failure::new(Kind::Partial, message))
        }
    }
}

fn report(args: &IngestArgs, file: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let rate = outcome.written as f64 / outcome.took.as_secs_f64().max(1e-9);
    if args.connection.json {
        return print_json(&json!({
            "file": file.display().to_string(),
            "written": outcome.written,
            "refused": outcome.refused,
            "skipped": outcome.skipped,
            "seconds": outcome.took.as_secs_f64(),
            "records_per_second": rate,
            "dead_letters": outcome.dead_letters.as_ref().map(|path| path.display().to_string()),
        }));
    }
    let mut text = format!(
        "{}: {} records in {}, {}/s",
        file.display(),
        grouped(outcome.written),
        time_shown(outcome.took),
        grouped(rate as u64)
    );
    if outcome.skipped > 0 {
        text.push_str(&format!("; {} rows were done before", grouped(outcome.skipped)));
    }
    if let Some(path) = &outcome.dead_letters {
        text.push_str(&format!("; {} refused, in {}", grouped(outcome.refused), path.display()));
    }
    print(text)
}

/// The embeddings that the first record of a file has.
fn schema_of(spec: Spec, metric: Metric) -> Result<Schema, Failure> {
    let path = spec.path.clone();
    let failed = |error: SourceError| Failure::file(&path, error);
    let mut source = Source::open(spec, Position::default()).map_err(failed)?;
    for _ in 0..ROWS_LOOKED_AT {
        let Some(row) = source.next().map_err(failed)? else {
            break;
        };
        if let Ok(record) = row.outcome {
            let with = |schema: Schema, embedding: &loci_client::Embedding| {
                schema.with_embedding(&embedding.name, embedding.vector.len() as u32, metric)
            };
            return Ok(record.embeddings.iter().fold(Schema::default(), with));
        }
    }
    Err(Failure::file(&path, "--create found no record to learn the embeddings from"))
}

/// Resolves when the user or the system wants the program to end.
pub async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// One file on its way into a collection.
struct Job {
    spec: Spec,
    check: Check,
    collection: Collection,
    limits: IngestLimits,
    dead_letters: PathBuf,
    progress: Option<PathBuf>,
    restart: bool,
    node: String,
}

/// A row that is read and not yet settled.
struct Pending {
    /// Which push it was; none: it is no record.
    number: Option<u64>,
    line: u64,
    after: Position,
    key: Bytes,
    excerpt: String,
    refusal: Option<String>,
}

type Parcel = Result<Vec<Row>, SourceError>;

impl Job {
    async fn run(self, interrupted: impl Future<Output = ()>) -> Result<Outcome, Failure> {
        let begun = Instant::now();
        let path = self.spec.path.clone();
        let mut progress = Progress::new(&self.spec, &self.collection, &self.node, self.progress.clone())
            .map_err(|error| Failure::file(&path, error))?;
        if !self.restart {
            self.pick_up(&mut progress).await?;
        }
        let from = progress.position;
        let mut letters = DeadLetters::open(&self.dead_letters, progress.dead_letter_bytes)
            .map_err(|error| Failure::file(&self.dead_letters, error))?;
        let source = Source::open(self.spec.clone(), from).map_err(|error| Failure::file(&path, error))?;
        let meter = Meter::new(&path, source.size(), from);
        let parcels = read_ahead(source, self.check.clone());

        let mut run = Run {
            ingest: Ingest::new(self.collection.clone(), self.limits),
            pending: VecDeque::new(),
            progress,
            saved: Instant::now(),
            meter,
            written_before: 0,
        };
        run.written_before = run.progress.written;
        let skipped = from.rows;
        let mut interrupted = std::pin::pin!(interrupted);
        let end = run.take_all(parcels, &mut letters, interrupted.as_mut()).await;
        run.meter.finish();
        // Whatever the end was, what is acknowledged is noted.
        let noted = run.note(&mut letters);
        let outcome = Outcome {
            written: run.progress.written - run.written_before,
            refused: run.progress.refused,
            skipped,
            took: begun.elapsed(),
            dead_letters: letters.path_if_any(),
        };
        match end {
            Ok(true) => {
                noted?;
                run.progress.remove().map_err(|error| Failure::file(&path, error))?;
                Ok(outcome)
            }
            Ok(false) => {
                noted?;
                let message = format!(
                    "{}: interrupted after {} rows; the same command goes on from there",
                    path.display(),
                    grouped(run.progress.position.rows)
                );
                Err(Failure::new(Kind::Interrupted, message))
            }
            Err(mut failure) => {
                let rows = grouped(run.progress.position.rows);
                failure.message.push_str(&format!(
                    "\n{rows} rows of {} are done; the same command goes on from there",
                    path.display()
                ));
                Err(failure)
            }
        }
    }

    /// Goes on from an earlier run, if there was one with this file and the records are still there.
    async fn pick_up(&self, progress: &mut Progress) -> Result<(), Failure> {
        let path = self.spec.path.display();
        let earlier = match progress.load() {
            Ok(Some(earlier)) => earlier,
            Ok(None) => return Ok(()),
            Err(reason) => {
                eprintln!("{path}: {reason}: reading from the beginning");
                return Ok(());
            }
        };
        let last = earlier.last_key.clone();
        if !last.is_empty() {
            let found = self.collection.get(last).await;
            let found = found.map_err(|error| Failure::call(self.collection.name(), error))?;
            if found.is_none() {
                eprintln!("{path}: the records of the earlier run are gone: reading from the beginning");
                return Ok(());
            }
        }
        eprintln!("{path}: going on after {} rows", grouped(earlier.position.rows));
        *progress = earlier;
        Ok(())
    }
}

/// Reads on a thread of its own, so that parsing and sending overlap.
fn read_ahead(mut source: Source, check: Check) -> mpsc::Receiver<Parcel> {
    let (sender, receiver) = mpsc::channel(PARCELS_AHEAD);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut rows = Vec::new();
            let mut bytes = 0;
            let mut end = None;
            while rows.len() < PARCEL_ROWS && bytes < 1 << 20 && end.is_none() {
                match source.next() {
                    Ok(Some(mut row)) => {
                        row.outcome = row.outcome.and_then(|record| check.checked(record));
                        bytes += row.outcome.as_ref().map_or(0, Record::bytes_estimate);
                        rows.push(row);
                    }
                    Ok(None) => end = Some(Ok(())),
                    Err(error) => end = Some(Err(error)),
                }
            }
            if !rows.is_empty() && sender.blocking_send(Ok(rows)).is_err() {
                return;
            }
            match end {
                None => {}
                Some(Ok(())) => return,
                // Nobody listens if the ingest has ended before.
                Some(Err(error)) => return drop(sender.blocking_send(Err(error))),
            }
        }
    });
    receiver
}

struct Run {
    ingest: Ingest,
    pending: VecDeque<Pending>,
    progress: Progress,
    saved: Instant,
    meter: Meter,
    written_before: u64,
}

impl Run {
    /// Whether everything was read and written; false: interrupted.
    async fn take_all(
        &mut self,
        mut parcels: mpsc::Receiver<Parcel>,
        letters: &mut DeadLetters,
        mut interrupted: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<bool, Failure> {
        let path = self.progress.file.clone();
        let name = self.progress.collection.clone();
        let failed = |error: Error| Failure::call(format!("{}: collection {name}", path.display()), error);
        loop {
            let parcel = tokio::select! {
                biased;
                () = interrupted.as_mut() => return Ok(self.let_finish().await),
                parcel = parcels.recv() => parcel,
            };
            let rows = match parcel {
                None => break,
                Some(Ok(rows)) => rows,
                Some(Err(error)) => {
                    self.ingest.flush().await.map_err(failed)?;
                    return Err(Failure::file(&path, error));
                }
            };
            for row in rows {
                let mut pending = Pending {
                    number: None,
                    line: row.line,
                    after: row.after,
                    key: Bytes::new(),
                    excerpt: row.excerpt,
                    refusal: None,
                };
                match row.outcome {
                    Err(reason) => {
                        pending.refusal = Some(reason);
                        self.pending.push_back(pending);
                    }
                    Ok(record) => {
                        pending.number = Some(self.ingest.pushed());
                        pending.key = record.key.clone();
                        self.pending.push_back(pending);
                        tokio::select! {
                            biased;
                            () = interrupted.as_mut() => return Ok(self.let_finish().await),
                            pushed = self.ingest.push(record) => pushed.map_err(failed)?,
                        }
                    }
                }
            }
            self.settle(letters)?;
            if self.saved.elapsed() >= PROGRESS_SAVED_EVERY {
                self.note(letters)?;
            }
        }
        tokio::select! {
            biased;
            () = interrupted.as_mut() => return Ok(self.let_finish().await),
            flushed = self.ingest.flush() => flushed.map_err(failed)?,
        }
        Ok(true)
    }

    async fn let_finish(&mut self) -> bool {
        // Whether it was enough is seen by what is acknowledged.
        drop(tokio::time::timeout(LAST_WAIT, self.ingest.flush()).await);
        false
    }

    /// Lets go of the rows, from the first on, that are written or refused for good.
    fn settle(&mut self, letters: &mut DeadLetters) -> Result<(), Failure> {
        for refused in self.ingest.take_refused() {
            let found = self.pending.iter_mut().find(|pending| pending.number == Some(refused.number));
            if let Some(pending) = found {
                pending.refusal = Some(refused.error.to_string());
            }
        }
        let acknowledged = self.ingest.acknowledged();
        while let Some(first) = self.pending.front() {
            if first.number.is_some_and(|number| number >= acknowledged) {
                break;
            }
            match &first.refusal {
                Some(reason) => {
                    self.progress.refused += 1;
                    letters
                        .write(&self.progress.file, first.line, reason, &first.excerpt)
                        .map_err(|error| Failure::file(letters.path(), error))?;
                }
                None => {
                    self.progress.written += 1;
                    self.progress.last_key = first.key.clone();
                }
            }
            self.progress.position = first.after;
            self.pending.pop_front();
        }
        self.meter.show(self.progress.position, self.progress.written - self.written_before, self.progress.refused);
        Ok(())
    }

    fn note(&mut self, letters: &mut DeadLetters) -> Result<(), Failure> {
        self.settle(letters)?;
        self.progress.dead_letter_bytes = letters.sync().map_err(|error| Failure::file(letters.path(), error))?;
        self.saved = Instant::now();
        self.progress.save().map_err(|error| Failure::refused(format!("progress file: {error}")))
    }
}

/// How far it is: a bar on a terminal, a line now and then elsewhere.
struct Meter {
    bar: ProgressBar,
    size: Size,
    name: String,
    begun: Instant,
    printed: Instant,
}

impl Meter {
    fn new(path: &Path, size: Size, from: Position) -> Meter {
        let total = match size {
            Size::Rows(rows) => rows,
            Size::Bytes(bytes) => bytes,
        };
        let bar = ProgressBar::new(total);
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3}% {msg}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        let name = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        bar.set_prefix(name.clone());
        bar.set_position(Meter::done(size, from));
        bar.reset_eta();
        let now = Instant::now();
        Meter { bar, size, name, begun: now, printed: now }
    }

    fn done(size: Size, position: Position) -> u64 {
        match size {
            Size::Rows(_) => position.rows,
            Size::Bytes(_) => position.bytes,
        }
    }

    fn show(&mut self, position: Position, written: u64, refused: u64) {
        let done = Meter::done(self.size, position);
        self.bar.set_position(done);
        let rate = written as f64 / self.begun.elapsed().as_secs_f64().max(0.001);
        let mut message = format!("{} records, {}/s", grouped(written), grouped(rate as u64));
        if refused > 0 {
            message.push_str(&format!(", {} refused", grouped(refused)));
        }
        if self.bar.is_hidden() && self.printed.elapsed() >= PROGRESS_PRINTED_EVERY {
            self.printed = Instant::now();
            let total = self.bar.length().unwrap_or(0).max(1);
            eprintln!("{}: {:>3}% {message}", self.name, done * 100 / total);
        }
        self.bar.set_message(message);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
