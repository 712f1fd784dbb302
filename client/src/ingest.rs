//! Writing many records: batched, several batches at a time, with bounded memory.
//!
//! ```text
//! push --> [ batch ] --full--> under way (at most `in_flight`) --> acknowledged
//!                                   `-- refused: halved until the record is found
//! ```
//!
//! Always: records with the same key are written in the order of their pushes, so the last one wins: a key that is on its
//! way is waited for. `acknowledged()` counts from the first push without gaps: everything below it is written or refused.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_request::Call};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::{Collection, Error, Record};

/// Between attempts of a batch, once the client's own retries are used up.
const PATIENT_PAUSE: Duration = Duration::from_millis(500);

/// How much an [`Ingest`] holds and how long it waits.
#[derive(Debug, Clone, Copy)]
pub struct IngestLimits {
    /// Records per batch, at most 10,000.
    pub batch_records: usize,
    /// Bytes per batch, about.
    pub batch_bytes: usize,
    /// Batches under way.
    pub in_flight: usize,
    /// How long a batch is tried again while the node is unavailable or overloaded.
    pub patience: Duration,
}

impl Default for IngestLimits {
    fn default() -> IngestLimits {
        IngestLimits { batch_records: 1000, batch_bytes: 4 << 20, in_flight: 4, patience: Duration::from_secs(60) }
    }
}

/// A record that the node does not take; the others of its batch were written.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    /// Which push it was, counted from 0.
    pub number: u64,
    /// Its key.
    pub key: Bytes,
    /// Why.
    pub error: Error,
}

/// A writer of many records.
///
/// ```no_run
/// # async fn example(notes: loci_client::Collection) -> Result<(), loci_client::Error> {
/// use loci_client::{Ingest, IngestLimits, Record};
///
/// let mut ingest = Ingest::new(notes, IngestLimits::default());
/// for number in 0..1_000_000 {
///     ingest.push(Record::new(format!("n{number}"))).await?;
/// }
/// ingest.flush().await?;
/// assert!(ingest.take_refused().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ingest {
    collection: Collection,
    limits: IngestLimits,
    batch: Vec<v1::Record>,
    batch_bytes: usize,
    pushed: u64,
    under_way: JoinSet<Done>,
    /// Of the batch and of those under way.
    keys: HashSet<Bytes>,
    /// Batches that are done while one before them is not: first record and how many.
    ahead: BTreeMap<u64, u64>,
    acknowledged: u64,
    refused: Vec<Refused>,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Done {
    first: u64,
    keys: Vec<Bytes>,
    outcome: Result<Vec<Refused>, Error>,
}

impl Ingest {
    /// A writer to this collection.
    pub fn new(collection: Collection, limits: IngestLimits) -> Ingest {
        Ingest {
            collection,
            limits: IngestLimits {
                batch_records: limits.batch_records.clamp(1, 10_000),
                in_flight: limits.in_flight.max(1),
                ..limits
            },
            batch: Vec::new(),
            batch_bytes: 0,
            pushed: 0,
            under_way: JoinSet::new(),
            keys: HashSet::new(),
            ahead: BTreeMap::new(),
            acknowledged: 0,
            refused: Vec::new(),
            failed: None,
        }
    }

    /// Takes a record. Waits while as much is under way as may be. After an error the ingest is over: what
    /// [`acknowledged`](Ingest::acknowledged) counts is written, the rest may be.
    pub async fn push(&mut self, record: Record) -> Result<(), Error> {
        self.alive()?;
        let bytes = record.bytes_estimate();
        if self.keys.contains(&record.key) {
            self.flush().await?;
        }
        let is_full =
            self.batch.len() >= self.limits.batch_records || self.batch_bytes + bytes > self.limits.batch_bytes;
        if is_full && !self.batch.is_empty() {
            self.dispatch().await?;
        }
        self.keys.insert(record.key.clone());
        self.batch.push(record.into());
        self.batch_bytes += bytes;
        self.pushed += 1;
        Ok(())
    }

    /// Waits until everything pushed is written or refused.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.alive()?;
        self.dispatch().await?;
        while !self.under_way.is_empty() {
            self.settle().await?;
        }
        Ok(())
    }

    /// How many records were pushed.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// How many records, from the first push on, are written or refused.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The records that the node did not take since the last time this was asked.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    fn alive(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    async fn dispatch(&mut self) -> Result<(), Error> {
        // What is done is noticed also when there is room, so that `acknowledged` keeps up.
        while let Some(done) = self.under_way.try_join_next() {
            self.note(done)?;
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        while self.under_way.len() >= self.limits.in_flight {
            self.settle().await?;
        }
        let records = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let first = self.pushed - records.len() as u64;
        let collection = self.collection.clone();
        let patience = self.limits.patience;
        self.under_way.spawn(async move {
            let keys = records.iter().map(|record| record.key.clone()).collect();
            let outcome = write(&collection, first, records, patience).await;
            Done { first, keys, outcome }
        });
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), Error> {
        match self.under_way.join_next().await {
            Some(done) => self.note(done),
            None => Ok(()),
        }
    }

    fn note(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<(), Error> {
        let done = match done {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => {
                    let message = format!("the runtime stopped: {error}");
                    return self.fail(Error::Unavailable { message });
                }
            },
        };
        for key in &done.keys {
            self.keys.remove(key);
        }
        match done.outcome {
            Ok(refused) => self.refused.extend(refused),
            Err(error) => return self.fail(error),
        }
        self.ahead.insert(done.first, done.keys.len() as u64);
        while let Some(count) = self.ahead.remove(&self.acknowledged) {
            self.acknowledged += count;
        }
        Ok(())
    }

    fn fail(&mut self, error: Error) -> Result<(), Error> {
        self.failed = Some(error.clone());
        Err(error)
    }
}

/// Writes the records, halving what the node refuses until only the refused ones are left.
async fn write(
    collection: &Collection,
    first: u64,
    records: Vec<v1::Record>,
    patience: Duration,
) -> Result<Vec<Refused>, Error> {
    let mut refused = Vec::new();
    let mut parts = vec![(first, records)];
    while let Some((first, records)) = parts.pop() {
        let put = v1::PutRequest {
            origin: collection.client().origin(),
            collection: collection.wire_name(),
            records,
            mode: v1::PutMode::Replace.into(),
            spread: true,
            ..Default::default()
        };
        let error = match put_patiently(collection, &put, patience).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        if !matches!(error, Error::InvalidArgument { .. } | Error::TooLarge { .. }) {
            return Err(error);
        }
        let mut records = put.records;
        if let [record] = records.as_slice() {
            refused.push(Refused { number: first, key: record.key.clone(), error });
            continue;
        }
        let middle = records.len() / 2;
        let second_half = records.split_off(middle);
        parts.push((first + middle as u64, second_half));
        parts.push((first, records));
    }
    Ok(refused)
}

/// All attempts have the same request id.
async fn put_patiently(collection: &Collection, put: &v1::PutRequest, patience: Duration) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let error = match collection.write(Call::Put(Box::new(put.clone()))).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        let may_pass =
            matches!(error, Error::Unavailable { .. } | Error::Overloaded { .. } | Error::DeadlineExceeded { .. });
        if !may_pass || begun.elapsed() >= patience {
            return Err(error);
        }
        tracing::debug!(%error, "trying the batch again");
        sleep(PATIENT_PAUSE).await;
    }
}
