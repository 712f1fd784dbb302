//! Records that come in while something else is measured.
//!
//! They are those of the data set under new keys, in the same collection, so that what is measured has to look among them too.
//! Ground truth does not know them; they are deleted again at the end. Whoever writes them is not whoever is measured: the writer
//! has a thread and connections of its own, so that what is measured waits for it only in the node, and for the processors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use loci_client::{Collection, Error, Ingest, IngestLimits, Record};
use loci_index::way;
use tokio::runtime::Builder;
use tokio::task::JoinHandle;

use super::super::failure::Failure;

/// So many batches a second, if the rate allows: smaller ones come in more evenly, larger ones cost less.
const BATCHES_PER_SECOND: u32 = 20;
const BATCH_MAX: u32 = 500;
const IN_FLIGHT: usize = 4;
/// So many records are made in some ten microseconds.
const RECORDS_AT_ONCE: usize = 16;
/// Keys of one deletion.
const DELETE_KEYS: usize = 5_000;

/// Writes records until it is told to stop.
pub struct Background {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    begun: Instant,
    task: JoinHandle<Result<Vec<Bytes>, Failure>>,
}

impl Background {
    /// Begins to write, so many records a second; zero: as fast as they are taken.
    ///
    /// `connect` makes the connection that the records go through.
    pub fn start(
        connect: impl FnOnce() -> Result<Collection, Failure> + Send + 'static,
        records: Arc<Vec<Record>>,
        rate: u32,
    ) -> Background {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let told = (stop.clone(), acknowledged.clone());
        let task = tokio::task::spawn_blocking(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime =
                runtime.map_err(|error| Failure::refused(format!("cannot write while measuring: {error}")))?;
            runtime.block_on(async { run(connect()?, records, rate, told).await.map_err(failed) })
        });
        Background { stop, acknowledged, begun: Instant::now(), task }
    }

    /// Records written a second, since the start.
    pub fn rate(&self) -> f64 {
        self.acknowledged.load(Ordering::Relaxed) as f64 / self.begun.elapsed().as_secs_f64().max(1e-9)
    }

    /// Ends it, and deletes what it wrote.
    pub async fn finish(self, collection: &Collection) -> Result<(), Failure> {
        self.stop.store(true, Ordering::Relaxed);
        let keys = match self.task.await {
            Ok(written) => written?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        for keys in keys.chunks(DELETE_KEYS) {
            collection.delete_many(keys.iter().cloned()).await.map_err(failed)?;
        }
        Ok(())
    }
}

fn failed(error: Error) -> Failure {
    Failure::call("the records that come in meanwhile", error)
}

async fn run(
    collection: Collection,
    records: Arc<Vec<Record>>,
    rate: u32,
    (stop, acknowledged): (Arc<AtomicBool>, Arc<AtomicU64>),
) -> Result<Vec<Bytes>, Error> {
    let batch = if rate == 0 { BATCH_MAX } else { (rate / BATCHES_PER_SECOND).clamp(1, BATCH_MAX) };
    let limits = IngestLimits { batch_records: batch as usize, in_flight: IN_FLIGHT, ..IngestLimits::default() };
    let mut ingest = Ingest::new(collection, limits);
    let (begun, mut keys) = (Instant::now(), Vec::new());
    while !stop.load(Ordering::Relaxed) && !records.is_empty() {
        let number = keys.len();
        if rate > 0 && number.is_multiple_of(batch as usize) {
            let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
        }
        if number.is_multiple_of(RECORDS_AT_ONCE) {
            // On a machine of its own the writer would keep nobody waiting either.
            way::give();
        }
        let mut record = records[number % records.len()].clone();
        record.key = [b"background ", number.to_string().as_bytes(), b" ", &record.key].concat().into();
        keys.push(record.key.clone());
        ingest.push(record).await?;
        acknowledged.store(ingest.acknowledged(), Ordering::Relaxed);
    }
    ingest.flush().await?;
    Ok(keys)
}
