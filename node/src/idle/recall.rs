//! A recall that is known: some searches are run again, exactly, on the view that they saw.
//!
//! Recall is the share of the nearest records that were found: of the hits that an exact search has, how many the search
//! had too. A hit counts if it is no farther than the farthest of the exact ones, so that among equally near records it does
//! not matter which were found. Which searches are sampled depends on nothing but how many there were.
//!
//! Always: at most [`WAITING_MAX`] samples wait, none longer than [`AGE_MAX`]: each holds the view that it saw, and with it
//! memory. What is dropped is counted, with the reason.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use loci_index::filter::Filter;
use loci_index::record::CollectionId;
use loci_index::view::{Effort, SearchRequest, SearchResult, SearchScratch, View};

use super::Pace;
use crate::residency::State;

/// So many samples wait.
pub const WAITING_MAX: usize = 64;
/// One that waited longer is dropped.
pub const AGE_MAX: Duration = Duration::from_secs(30);
/// A collection's recall is that of so many samples, the last ones.
pub const WINDOW: usize = 1_000;
/// After an exact search the thread rests so many times as long as it took: a tenth of a processor at the most.
pub const REST_TIMES: u32 = 9;

/// Why samples were dropped, as the metric's label has it.
pub const REASONS: [&str; 4] = ["queue_full", "too_old", "busy", "memory"];
const QUEUE_FULL: usize = 0;
const TOO_OLD: usize = 1;
const BUSY: usize = 2;
const MEMORY: usize = 3;

/// A search as it was run, and how far its hits are.
struct Sample {
    at: Instant,
    view: Arc<View>,
    collection: CollectionId,
    field: u16,
    query: Vec<f32>,
    k: usize,
    filter: Option<Filter>,
    max_distance: Option<f32>,
    now: u64,
    distances: Vec<f32>,
}

/// The samples that wait.
pub(crate) struct Samples(Receiver<Sample>);

impl Samples {
    /// The next sample, if there is one before long.
    pub(super) fn wait(&self, longest: Duration) -> Option<Waiting> {
        self.0.recv_timeout(longest).ok().map(Waiting)
    }
}

/// A sample whose turn has come.
pub(super) struct Waiting(Sample);

/// What is known of one collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// Searches run again since the start.
    pub samples: u64,
    /// Hits that the searches of the window had of those that they should have had.
    pub found: u64,
    /// Hits that they should have had.
    pub nearest: u64,
}

impl Known {
    /// From 0 to 1; `None` if nothing is known yet.
    pub fn recall(&self) -> Option<f64> {
        (self.nearest > 0).then(|| self.found as f64 / self.nearest as f64)
    }
}

#[derive(Default)]
struct Tally {
    known: Known,
    /// Found and nearest of the last samples.
    window: VecDeque<(u32, u32)>,
}

/// Chooses samples, and knows what came of them.
pub struct Recall {
    /// One of so many searches; zero: none.
    one_in: u32,
    searches: AtomicU64,
    queue: Sender<Sample>,
    tallies: Mutex<BTreeMap<u64, Tally>>,
    dropped: [AtomicU64; REASONS.len()],
}

impl Recall {
    /// Samples one of so many searches; zero: none.
    pub(crate) fn new(one_in: u32) -> (Arc<Recall>, Samples) {
        let (queue, samples) = bounded(WAITING_MAX);
        let recall = Recall {
            one_in,
            searches: AtomicU64::new(0),
            queue,
            tallies: Mutex::default(),
            dropped: Default::default(),
        };
        (Arc::new(recall), Samples(samples))
    }

    /// A search was answered; if it is chosen, it will be run again. Costs nothing but a count if not.
    pub fn offer(
        &self,
        view: &Arc<View>,
        collection: CollectionId,
        request: &SearchRequest<'_>,
        result: &SearchResult<'_>,
    ) {
        if self.one_in == 0 || request.effort == Effort::Exact || request.k == 0 {
            return;
        }
        let number = self.searches.fetch_add(1, Ordering::Relaxed);
        // Not every so many-th: whoever asks the same questions in turn would have the same one judged each time.
        if !mixed(number).is_multiple_of(u64::from(self.one_in)) {
            return;
        }
        let sample = Sample {
            at: Instant::now(),
            view: view.clone(),
            collection,
            field: request.field,
            query: request.query.to_vec(),
            k: request.k,
            filter: request.filter.cloned(),
            max_distance: request.max_distance,
            now: request.now,
            distances: result.hits.iter().map(|hit| hit.distance).collect(),
        };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(sample) {
            self.drop_one(QUEUE_FULL);
        }
    }

    /// Runs a sampled search again, exactly, and notes how many of the nearest it had.
    pub(super) fn judge(&self, Waiting(sample): Waiting, pace: &Pace, scratch: &mut SearchScratch) {
        if sample.at.elapsed() > AGE_MAX {
            return self.drop_one(TOO_OLD);
        }
        if pace.residency.state() != State::Hot {
            return self.drop_one(MEMORY);
        }
        let Some(collection) = sample.view.collection_by_id(sample.collection) else { return };
        let request = SearchRequest {
            field: sample.field,
            query: &sample.query,
            k: sample.k,
            effort: Effort::Exact,
            filter: sample.filter.as_ref(),
            max_distance: sample.max_distance,
            now: sample.now,
        };
        let mut waited = Duration::ZERO;
        match collection.search(&request, scratch, &mut || pace.go_on(&mut waited)) {
            Ok(exact) => {
                let nearest: Vec<f32> = exact.hits.iter().map(|hit| hit.distance).collect();
                self.note(sample.collection, found(&sample.distances, &nearest), nearest.len() as u32);
            }
            // Stopped, or kept waiting for too long.
            Err(_) => self.drop_one(BUSY),
        }
    }

    fn note(&self, collection: CollectionId, found: u32, nearest: u32) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let Tally { known, window } = tallies.entry(collection.0).or_default();
        known.samples += 1;
        known.found += u64::from(found);
        known.nearest += u64::from(nearest);
        window.push_back((found, nearest));
        if window.len() > WINDOW
            && let Some((found, nearest)) = window.pop_front()
        {
            known.found -= u64::from(found);
            known.nearest -= u64::from(nearest);
        }
    }

    fn drop_one(&self, reason: usize) {
        self.dropped[reason].fetch_add(1, Ordering::Relaxed);
    }

    /// What is known of a collection.
    pub fn known(&self, collection: CollectionId) -> Known {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.get(&collection.0).map_or_else(Known::default, |tally| tally.known)
    }

    /// How many samples were dropped, by reason.
    pub fn dropped(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REASONS.into_iter().zip(&self.dropped).map(|(reason, count)| (reason, count.load(Ordering::Relaxed)))
    }

    /// Forgets the collections that a view no longer has.
    pub(super) fn forget_dropped(&self, is_there: impl Fn(CollectionId) -> bool) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.retain(|id, _| is_there(CollectionId(*id)));
    }
}

impl std::fmt::Debug for Recall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recall(one in {})", self.one_in)
    }
}

/// How many of the found distances belong to the nearest.
fn found(found: &[f32], nearest: &[f32]) -> u32 {
    let Some(farthest) = nearest.last() else { return 0 };
    let count = found.iter().filter(|distance| *distance <= farthest).count();
    count.min(nearest.len()) as u32
}

/// The number, stirred (splitmix64): every bit of it depends on every bit.
fn mixed(number: u64) -> u64 {
    let x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_if_it_is_as_near_as_the_farthest_of_the_nearest() {
        for (had, nearest, expected) in [
            (&[0.1, 0.2, 0.3][..], &[0.1, 0.2, 0.3][..], 3),
            (&[0.1, 0.3, 0.4], &[0.1, 0.2, 0.3], 2),
            // Of equally near records any will do.
            (&[0.5, 0.5], &[0.5, 0.5], 2),
            (&[], &[0.1], 0),
            (&[0.1], &[], 0),
            (&[0.1], &[0.1, 0.2], 1),
        ] {
            assert_eq!(found(had, nearest), expected, "{had:?} {nearest:?}");
        }
    }

    #[test]
    fn the_window_forgets_the_oldest_and_the_count_does_not() {
        let (recall, _samples) = Recall::new(1);
        let id = CollectionId(7);
        assert_eq!(recall.known(id).recall(), None);
        for _ in 0..WINDOW {
            recall.note(id, 5, 10);
        }
        assert_eq!(recall.known(id).recall(), Some(0.5));
        for _ in 0..WINDOW {
            recall.note(id, 10, 10);
        }
        let known = recall.known(id);
        assert_eq!((known.recall(), known.samples), (Some(1.0), 2 * WINDOW as u64));
    }

    #[test]
    fn about_one_in_so_many_is_chosen_and_not_in_step_with_anything() {
        for (one_in, period) in [(10, 10), (100, 50), (7, 14)] {
            let chosen: Vec<u64> = (0..100_000).filter(|n| mixed(*n).is_multiple_of(one_in)).collect();
            let expected = 100_000 / one_in;
            assert!(chosen.len().abs_diff(expected as usize) < expected as usize / 5, "{one_in}: {}", chosen.len());
            let mut turns = vec![0; period as usize];
            chosen.iter().for_each(|n| turns[(n % period) as usize] += 1);
            assert!(turns.iter().all(|turn| *turn > 0), "one in {one_in} misses a turn of {period}: {turns:?}");
        }
    }
}
