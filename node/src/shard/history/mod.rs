//! The history: what the newest entries changed, for whoever watches.
//!
//! ```text
//!   entry applied --its effects--> tail --full--> chunk, chunk, chunk ... the oldest go once all take more than they may
//!                                    \              |
//!                     read(after) <---'-------------'   whole entries in order, as many as were asked for
//! ```
//!
//! Watchers read it at their own pace: it is the only buffer there is for those who fall behind, and its bound is the bound
//! for all of them. Nothing else waits for a watcher, and an entry costs the same whoever watches: its effects are copied
//! into the tail, and what fills the tail becomes a chunk.
//!
//! With each checkpoint what is new in it goes to a file ([`file`]), from which a start takes it back in: what came before the
//! checkpoint is not applied again.
//!
//! Always:
//! - it takes no more than it may and one chunk, unless a single entry has more effects than that;
//! - it holds every entry after `since` up to the last that was applied, or those without effects are known to have none;
//! - a reader gets whole entries, none twice, and is told when what it asks for is no longer here.

mod file;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use loci_index::effects::{Effects, EntryEffects};

use file::Saved;

/// A tail of more bytes becomes a chunk.
const CHUNK_BYTES: usize = 64 << 10;
/// What files may be larger than the history: by what a single entry can have.
const ENTRY_BYTES_MAX: u64 = 256 << 20;

/// Whole entries with their effects, one after the other.
#[derive(Debug)]
struct Chunk {
    /// The last entry in it.
    last: u64,
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Everything after this entry is here.
    since: u64,
    /// The last entry.
    last: u64,
    chunks: VecDeque<Arc<Chunk>>,
    /// Of the chunks.
    bytes: usize,
    tail: Vec<u8>,
    /// Entries in the tail, each with where it begins.
    places: Vec<(u64, usize)>,
    /// Up to here it is in files, or on its way there.
    saved: u64,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Whole entries: [`EntryEffects`], one after the other. Those without effects are left out.
    pub bytes: Vec<u8>,
    /// All entries up to this one are accounted for.
    pub up_to: u64,
}

/// What was asked for is no longer here, or never was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Everything after this entry is here.
    pub since: u64,
}

/// See the module's front page.
#[derive(Debug)]
pub struct History {
    bytes_max: usize,
    folder: Option<PathBuf>,
    inner: Mutex<Inner>,
    writing: Mutex<Option<JoinHandle<()>>>,
}

impl History {
    /// Up to the entry that was applied last, of so many bytes; zero: none is kept. `folder`: where files of it are, if anywhere.
    pub fn open(applied: u64, bytes_max: usize, folder: Option<PathBuf>) -> History {
        let folder = folder.filter(|_| bytes_max > 0);
        let history = History {
            bytes_max,
            folder,
            inner: Mutex::new(Inner { since: applied, last: applied, saved: applied, ..Inner::default() }),
            writing: Mutex::default(),
        };
        if let Some(folder) = &history.folder {
            let inner = &mut *history.lock();
            for saved in file::read(folder, applied, bytes_max as u64 + ENTRY_BYTES_MAX) {
                history.take_in(inner, &saved);
            }
        }
        history
    }

    fn take_in(&self, inner: &mut Inner, saved: &Saved) {
        if inner.chunks.is_empty() && inner.bytes == 0 {
            inner.since = inner.since.min(saved.since);
        }
        let (mut rest, mut begun) = (&saved.body[..], &saved.body[..]);
        while let Ok(entry) = EntryEffects::take(&mut rest) {
            let length = begun.len() - rest.len();
            if length >= CHUNK_BYTES || rest.is_empty() {
                self.add_chunk(inner, Chunk { last: entry.index, bytes: begun[..length].to_vec() });
                begun = rest;
            }
        }
    }

    /// One more chunk; the oldest go.
    fn add_chunk(&self, inner: &mut Inner, chunk: Chunk) {
        inner.bytes += chunk.bytes.len();
        inner.chunks.push_back(Arc::new(chunk));
        // Of one entry with very many effects at least this much is kept.
        while inner.bytes > self.bytes_max
            && inner.chunks.len() > 1
            && let Some(oldest) = inner.chunks.pop_front()
        {
            inner.bytes -= oldest.bytes.len();
            inner.since = oldest.last;
        }
    }

    /// A checkpoint of everything that was applied begins: what is not in a file is written to one, meanwhile.
    pub(super) fn save(&self) {
        let Some(folder) = self.folder.clone() else { return };
        let mut writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        join(&mut writing);
        let (chunks, mut saved) = {
            let inner = &mut *self.lock();
            let since = inner.saved.max(inner.since);
            if since >= inner.last {
                return;
            }
            let saved = Saved { since, last: inner.last, body: Vec::new() };
            inner.saved = inner.last;
            let first = inner.chunks.partition_point(|chunk| chunk.last <= since);
            let mut chunks: Vec<_> = inner.chunks.range(first..).cloned().collect();
            chunks.push(Arc::new(Chunk { last: inner.last, bytes: inner.tail.clone() }));
            (chunks, saved)
        };
        let bytes_max = self.bytes_max as u64;
        let write = move || {
            for chunk in &chunks {
                saved.body.extend_from_slice(after(&chunk.bytes, saved.since));
            }
            if let Err(error) = file::write(&folder, &saved, bytes_max) {
                // Then a watch cannot go on from before the checkpoint once the node was started again.
                tracing::warn!(%error, "the history of changes could not be written");
            }
        };
        match std::thread::Builder::new().name("loci-history".into()).spawn(write) {
            Ok(thread) => *writing = Some(thread),
            Err(error) => tracing::warn!(%error, "the history of changes could not be written"),
        }
    }

    /// Waits until what is being written is.
    pub(super) fn settle(&self) {
        join(&mut self.writing.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any is kept.
    pub fn is_kept(&self) -> bool {
        self.bytes_max > 0
    }

    /// Everything after this entry is here.
    pub fn since(&self) -> u64 {
        self.lock().since
    }

    /// What it takes.
    pub fn bytes(&self) -> usize {
        let inner = self.lock();
        inner.bytes + inner.tail.len()
    }

    /// The entry after the last was applied.
    pub(super) fn push(&self, index: u64, clock: u64, effects: &Effects) {
        let inner = &mut *self.lock();
        inner.last = index;
        if effects.is_empty() {
            return;
        }
        inner.places.push((index, inner.tail.len()));
        effects.encode(index, clock, &mut inner.tail);
        if inner.tail.len() < CHUNK_BYTES {
            return;
        }
        let mut bytes = Vec::with_capacity(CHUNK_BYTES);
        std::mem::swap(&mut bytes, &mut inner.tail);
        // A tail that grew beyond its chunk has room that nobody needs.
        bytes.shrink_to_fit();
        inner.places.clear();
        self.add_chunk(inner, Chunk { last: index, bytes });
    }

    /// The state was replaced by another, as of this entry: what led there is not known.
    pub(super) fn jump(&self, index: u64) {
        *self.lock() = Inner { since: index, last: index, saved: index, ..Inner::default() };
    }

    /// Entries after this one, as many as take about so many bytes, at least one if there is one.
    pub fn read(&self, after: u64, bytes_max: usize) -> Result<Piece, Lost> {
        let (chunks, mut piece) = {
            let inner = self.lock();
            if after < inner.since {
                return Err(Lost { since: inner.since });
            }
            if after >= inner.last {
                return Ok(Piece { bytes: Vec::new(), up_to: after });
            }
            let first = inner.chunks.partition_point(|chunk| chunk.last <= after);
            let mut bytes = 0;
            let enough = |chunk: &&Arc<Chunk>| {
                let more = bytes < bytes_max;
                bytes += chunk.bytes.len();
                more
            };
            let chunks: Vec<_> = inner.chunks.range(first..).take_while(enough).cloned().collect();
            if !chunks.is_empty() {
                (chunks, Piece { bytes: Vec::new(), up_to: after })
            } else {
                let place = inner.places.partition_point(|(index, _)| *index <= after);
                let from = inner.places.get(place).map_or(inner.tail.len(), |(_, from)| *from);
                (chunks, Piece { bytes: inner.tail[from..].to_vec(), up_to: inner.last })
            }
        };
        for chunk in &chunks {
            piece.bytes.extend_from_slice(self::after(&chunk.bytes, after));
            piece.up_to = chunk.last;
        }
        Ok(piece)
    }
}

/// Of whole entries those after one.
fn after(bytes: &[u8], index: u64) -> &[u8] {
    let (mut rest, mut found) = (bytes, bytes);
    while let Ok(entry) = EntryEffects::take(&mut rest) {
        if entry.index > index {
            break;
        }
        found = rest;
    }
    found
}

fn join(writing: &mut Option<JoinHandle<()>>) {
    if let Some(thread) = writing.take() {
        // It says itself what failed.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use loci_index::effects::{Effect, Fate};
    use loci_index::record::{CollectionId, Position};
    use loci_index::table::call::Chance;

    use super::*;

    fn indexes(mut bytes: &[u8]) -> Vec<u64> {
        let mut indexes = Vec::new();
        while !bytes.is_empty() {
            let entry = EntryEffects::take(&mut bytes).unwrap();
            assert!(entry.is_whole());
            indexes.push(entry.index);
        }
        indexes
    }

    #[test]
    fn readers_at_any_pace_get_every_entry_once_or_are_told() {
        for seed in 0..200 {
            let mut chance = Chance::new(seed);
            let start = chance.below(3) as u64;
            let history = History::open(start, 1 + chance.below(400 << 10), None);
            let (mut with_effects, mut last) = (Vec::new(), start);
            let mut readers = [(start, 0); 3];
            for _ in 0..chance.below(600) {
                last += 1;
                let mut effects = Effects::default();
                for _ in 0..chance.below(4) {
                    let key = vec![7; chance.below(3_000)];
                    let (collection, position) = (CollectionId(1), Position::new(last, 0));
                    effects.push(Effect { collection, position, fate: Fate::Made, typed: false, key: &key });
                }
                if !effects.is_empty() {
                    with_effects.push(last);
                }
                history.push(last, 0, &effects);
                let chunk = CHUNK_BYTES + 16_000;
                assert!(history.bytes() <= history.bytes_max.max(chunk) + chunk);
                for (after, _) in &mut readers {
                    if chance.below(20) > 0 {
                        continue;
                    }
                    match history.read(*after, 1 + chance.below(200 << 10)) {
                        Err(Lost { since }) => {
                            assert!(since > *after && history.since() == since, "seed {seed}");
                            *after = since;
                        }
                        Ok(piece) => {
                            let expected: Vec<u64> = with_effects
                                .iter()
                                .copied()
                                .filter(|index| *index > *after && *index <= piece.up_to)
                                .collect();
                            assert_eq!(indexes(&piece.bytes), expected, "seed {seed}");
                            assert!(piece.up_to > *after || *after == last, "seed {seed}: it goes on");
                            *after = piece.up_to;
                        }
                    }
                }
            }
            history.jump(last + 5);
            assert_eq!(history.read(last, 1), Err(Lost { since: last + 5 }));
            assert_eq!(history.read(last + 5, 1), Ok(Piece { bytes: vec![], up_to: last + 5 }));
        }
    }

    #[test]
    fn a_start_finds_what_checkpoints_wrote() {
        for seed in 0..60 {
            let mut chance = Chance::new(seed);
            let folder = tempfile::tempdir().unwrap();
            let open = |applied| History::open(applied, 300 << 10, Some(folder.path().to_owned()));
            // What the history would be without restarts, from its first entry on.
            let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
            let (mut history, mut last, mut checkpoint) = (open(0), 0, 0);
            for _ in 0..chance.below(400) {
                match chance.below(30) {
                    0 => {
                        history.save();
                        checkpoint = last;
                    }
                    1 => {
                        // Begun, and not finished.
                        history.save();
                        history.settle();
                        history = open(checkpoint);
                        last = checkpoint;
                    }
                    2 => {
                        history.settle();
                        history = open(checkpoint);
                        last = checkpoint;
                    }
                    _ => {
                        last += 1;
                        let mut effects = Effects::default();
                        for number in 0..last % 4 {
                            let key = vec![7; (last * 31 + number) as usize % 2_000];
                            let (collection, position) = (CollectionId(1), Position::new(last, 0));
                            effects.push(Effect { collection, position, fate: Fate::Made, typed: false, key: &key });
                        }
                        let mut bytes = Vec::new();
                        effects.encode(last, 0, &mut bytes);
                        all.retain(|(index, _)| *index != last);
                        if !effects.is_empty() {
                            all.push((last, bytes));
                        }
                        history.push(last, 0, &effects);
                    }
                }
                let since = history.since();
                assert!(since <= checkpoint.max(last), "seed {seed}");
                let mut expected: Vec<_> = all.iter().filter(|(index, _)| (since + 1..=last).contains(index)).collect();
                expected.sort();
                let (mut at, mut found) = (since, Vec::new());
                while at < last {
                    let piece = history.read(at, 1 << 20).unwrap();
                    found.extend_from_slice(&piece.bytes);
                    at = piece.up_to;
                }
                let expected: Vec<u8> = expected.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
                assert_eq!(found, expected, "seed {seed}: from {since} to {last}");
            }
        }
    }
}
