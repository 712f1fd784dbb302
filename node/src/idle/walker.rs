//! The walker: goes through all segments with a graph, again and again, and searches for each record by its own embedding.
//!
//! A record that is not found that way is lost to every search that goes by the graph, although it is there. Building leaves
//! none such; if there is one all the same (a fault of ours, or of the machine's memory while the graph was built), its
//! segment is linked anew, and the walker says so. A collection's segments are linked anew once, then at the earliest after
//! a minute, two, four, ...: what linking does not mend, linking again will not mend either.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use loci_index::record::CollectionId;
use loci_index::view::{CollectionView, SearchScratch, View};

use super::Pace;
use crate::shard::ShardHandle;

/// Records looked for before anything else gets its turn.
const STRETCH: u32 = 32;
/// What was not walked in its second is not made up for.
const CREDIT_MAX: Duration = Duration::from_secs(1);
const AGAIN_MIN: Duration = Duration::from_secs(60);
const AGAIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// What the walker has seen of one collection since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Embeddings searched for.
    pub checked: u64,
    /// Of these, how many were not found.
    pub unfound: u64,
    /// How often a segment was linked anew for that.
    pub relinks: u64,
}

/// What the walker tells.
#[derive(Debug, Default)]
pub struct WalkerFigures {
    collections: Mutex<BTreeMap<u64, Walked>>,
    rounds: AtomicU64,
}

impl WalkerFigures {
    /// What was seen of a collection.
    pub fn walked(&self, collection: CollectionId) -> Walked {
        let collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        collections.get(&collection.0).copied().unwrap_or_default()
    }

    /// How often everything was walked through.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Forgets the collections that are not there any more.
    pub(super) fn forget_dropped(&self, is_there: impl Fn(CollectionId) -> bool) {
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        collections.retain(|id, _| is_there(CollectionId(*id)));
    }

    fn change(&self, collection: CollectionId, change: impl FnOnce(&mut Walked)) {
        let mut collections = self.collections.lock().unwrap_or_else(PoisonError::into_inner);
        change(collections.entry(collection.0).or_default());
    }
}

/// Where the walker is, and what it may do.
pub(super) struct Walker {
    shard: ShardHandle,
    figures: Arc<WalkerFigures>,
    /// The next row to look at: of a collection, of a segment. There may be no such any more.
    at: (CollectionId, u64, u32),
    /// Whether this round has looked at anything.
    looked: bool,
    /// Records that may be looked for now.
    credit: f64,
    last: Instant,
    /// When a collection may be linked anew again, and how long it had to wait.
    again: BTreeMap<u64, (Instant, Duration)>,
    /// The segments that are about to be replaced, and until when that is believed.
    replaced: BTreeMap<u64, Instant>,
}

const BEGINNING: (CollectionId, u64, u32) = (CollectionId(0), 0, 0);

impl Walker {
    pub fn new(shard: ShardHandle, figures: Arc<WalkerFigures>) -> Walker {
        Walker {
            shard,
            figures,
            at: BEGINNING,
            looked: false,
            credit: 0.0,
            last: Instant::now(),
            again: BTreeMap::new(),
            replaced: BTreeMap::new(),
        }
    }

    /// Walks as far as `rate`, records a second, allows since the last turn.
    pub fn turn(&mut self, rate: f64, pace: &Pace, scratch: &mut SearchScratch) {
        let gained = self.last.elapsed().min(CREDIT_MAX).as_secs_f64() * rate;
        self.last = Instant::now();
        self.credit = (self.credit + gained).min(rate.max(1.0));
        let view = self.shard.newest();
        let mut waited = Duration::ZERO;
        while self.credit >= 1.0 && pace.go_on(&mut waited) {
            let Some((collection, file, row)) = self.next(&view) else {
                self.at = BEGINNING;
                self.figures.rounds.fetch_add(u64::from(self.looked), Ordering::Relaxed);
                self.looked = false;
                self.replaced.retain(|_, until| Instant::now() < *until);
                self.again.retain(|id, _| view.collection_by_id(CollectionId(*id)).is_some());
                return;
            };
            self.walk(collection, file, row, scratch, &mut || pace.go_on(&mut waited));
        }
    }

    /// The first segment from where the walker is, and the row to go on from.
    fn next<'v>(&self, view: &'v View) -> Option<(CollectionView<'v>, u64, u32)> {
        let (id, file, row) = self.at;
        view.collections().filter(|collection| collection.id() >= id).find_map(|collection| {
            let (file, row) = if collection.id() == id { (file, row) } else { (0, 0) };
            let mut segments = collection.graph_segments().into_iter();
            let next = segments.find(|found| *found >= file && !self.replaced.contains_key(found))?;
            Some((collection, next, if next == file { row } else { 0 }))
        })
    }

    fn walk(
        &mut self,
        collection: CollectionView<'_>,
        file: u64,
        row: u32,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
    ) {
        let id = collection.id();
        self.looked = true;
        let stretch = row..row.saturating_add(STRETCH);
        let checked = match collection.check_found(file, stretch, scratch, keep_going) {
            Ok(checked) => checked,
            Err(error) => {
                tracing::warn!(collection = collection.name(), %error, "a segment could not be walked through");
                self.at = (id, file + 1, 0);
                return;
            }
        };
        // Rows that have ended cost a little too.
        self.credit -= (checked.checked as f64).max(1.0);
        self.at = checked.next.map_or((id, file + 1, 0), |next| (id, file, next));
        let unfound = checked.unfound.len() as u64;
        self.figures.change(id, |walked| {
            walked.checked += checked.checked;
            walked.unfound += unfound;
        });
        let Some(key) = checked.unfound.first() else { return };
        let relink = self.may_relink(id, file);
        tracing::warn!(
            namespace = collection.namespace(),
            collection = collection.name(),
            unfound,
            key = %String::from_utf8_lossy(key),
            relink,
            "records are not found by their own embedding"
        );
        if relink {
            self.figures.change(id, |walked| walked.relinks += 1);
            self.shard.relink(file);
            // The rest of it will be walked through as part of the segment that takes its place.
            self.at = (id, file + 1, 0);
        }
    }

    fn may_relink(&mut self, collection: CollectionId, file: u64) -> bool {
        let now = Instant::now();
        let waits = match self.again.get(&collection.0) {
            Some((until, _)) if now < *until => return false,
            Some((_, waited)) => (*waited * 2).min(AGAIN_MAX),
            None => AGAIN_MIN,
        };
        self.again.insert(collection.0, (now + waits, waits));
        self.replaced.insert(file, now + waits);
        true
    }
}
