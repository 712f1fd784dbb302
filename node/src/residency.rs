//! Which parts of the segments are kept in memory, so that the process stays within its budget when they do not all fit.
//!
//! | mapped segments take | state | what happens |
//! |---|---|---|
//! | no more than there is room | hot | all of it is read into memory before a search needs it |
//! | more, but what searches walk on fits | walk | graphs and codes are in memory; values and full embeddings come from the disk, page by page |
//! | more than that | cold | everything comes from the disk as it is needed; what searches walk on is given back last |
//!
//! Room is what the memory budget leaves beside buffers and queues. The system decides what to drop when the machine or its
//! container runs out; a process whose budget is lower than that gets no such help, so what it has mapped in memory is
//! counted four times a second while they do not fit, and a hand goes round the segments and gives back what is too much: first
//! what searches do not walk on.
//!
//! Always: this changes how fast a search is, never what it finds.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use loci_index::segment::Segment;
use loci_index::view::View;

use crate::memory::Budget;
use crate::shards::Shards;

/// How often what is in memory is counted.
const EVERY: Duration = Duration::from_millis(250);
/// So many turns pass between two counts while everything fits: counting reads a line for every page there is.
const TURNS_WHILE_HOT: u32 = 40;
/// Of the room, what searches walk on may take so much to be kept while the rest is not, in percent.
const WALK_PERCENT: u64 = 75;
/// Giving back goes on down to so much of the room, in percent, so that it is not needed again at once.
const DOWN_TO_PERCENT: u64 = 90;
/// So much is given back before it is counted again.
const STEP_BYTES_MIN: u64 = 4 << 20;
/// Counts for each turn: beyond them it goes on in the next one.
const STEPS_MAX: usize = 16;

/// What is kept in memory of the segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(u8)]
pub enum State {
    /// All.
    #[default]
    Hot = 0,
    /// What searches walk on.
    Walk = 1,
    /// What happens to be there.
    Cold = 2,
}

/// What there is and how much of it is in memory.
#[derive(Debug, Default)]
pub struct ResidencyFigures {
    mapped: AtomicU64,
    resident: AtomicU64,
    state: AtomicU8,
}

impl ResidencyFigures {
    /// Bytes of all segments.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped.load(Ordering::Relaxed)
    }

    /// How many of them were in this process's memory when they were last counted.
    pub fn resident_bytes(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// What is kept.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Hot,
            1 => State::Walk,
            _ => State::Cold,
        }
    }
}

/// What to keep, if so much is mapped, searches walk on so much of it, and there is so much room.
fn choose(mapped: u64, walked: u64, room: u64) -> State {
    if mapped <= room {
        State::Hot
    } else if walked <= room / 100 * WALK_PERCENT {
        State::Walk
    } else {
        State::Cold
    }
}

/// The running thread.
pub(crate) struct Residency {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Residency {
    /// Starts it for shards whose segments lie below a folder.
    pub fn start(
        shards: Shards,
        folder: &Path,
        budget: Arc<Budget>,
        figures: Arc<ResidencyFigures>,
    ) -> std::io::Result<Residency> {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut keeper = Keeper {
            shards,
            // As the system names it.
            folder: folder.canonicalize()?,
            budget,
            figures,
            advised: Vec::new(),
            uncounted: 0,
            hand: BEGINNING,
        };
        let stop = stopping.clone();
        let thread = std::thread::Builder::new().name("loci-residency".into()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                keeper.turn();
                std::thread::park_timeout(EVERY);
            }
        })?;
        Ok(Residency { stopping, thread })
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // A panic in it was told of; without it the system alone decides what is in memory.
        let _ = self.thread.join();
    }
}

struct Keeper {
    shards: Shards,
    folder: PathBuf,
    budget: Arc<Budget>,
    figures: Arc<ResidencyFigures>,
    /// The segments that were advised, ascending, and the state for which.
    advised: Vec<(File, State)>,
    /// Turns since the last count.
    uncounted: u32,
    /// Where giving back goes on: a segment, and a place in its file.
    hand: (File, u64),
}

/// A shard and the number of one of its segments.
type File = (u32, u64);

const BEGINNING: (File, u64) = ((0, 0), 0);

/// All segments that there are.
fn segments(views: &[(u32, Arc<View>)]) -> impl Iterator<Item = (File, &Segment)> {
    views.iter().flat_map(|(shard, view)| view.segments().map(|(file, segment)| ((*shard, file), segment)))
}

impl Keeper {
    fn turn(&mut self) {
        let views: Vec<_> = self.shards.handles().iter().map(|shard| (shard.id(), shard.newest())).collect();
        let (mut mapped, mut walked) = (0, 0);
        for (_, segment) in segments(&views) {
            mapped += segment.file_bytes();
            walked += segment.walked_bytes();
        }
        let room = self.budget.bytes().saturating_sub(self.budget.used());
        let state = choose(mapped, walked, room);
        self.figures.mapped.store(mapped, Ordering::Relaxed);
        if self.figures.state.swap(state as u8, Ordering::Relaxed) != state as u8 {
            let (mapped_mib, room_mib) = (mapped >> 20, room >> 20);
            tracing::info!(?state, mapped_mib, room_mib, "what is kept in memory of the segments has changed");
        }
        let changed = self.advise(&views, state);
        self.uncounted += 1;
        if state == State::Hot && !changed && self.uncounted < TURNS_WHILE_HOT {
            return;
        }
        self.uncounted = 0;
        let mut resident = resident_bytes(&self.folder);
        if state != State::Hot {
            if resident > room {
                // Once round, whatever the hand: of what searches do not walk on, each reads a few pages, hardly ever the same.
                let hand = std::mem::replace(&mut self.hand, BEGINNING);
                self.shed(&views, mapped, true);
                self.hand = hand;
                resident = resident_bytes(&self.folder);
            }
            for _ in 0..STEPS_MAX {
                if resident <= room || state == State::Walk {
                    break;
                }
                let excess = resident - room / 100 * DOWN_TO_PERCENT;
                // Only so much of what the hand passes is in memory.
                let pass = u128::from(excess) * u128::from(mapped) / u128::from(resident.max(1));
                let pass = u64::try_from(pass).unwrap_or(mapped);
                self.shed(&views, pass.clamp(STEP_BYTES_MIN.min(mapped), mapped), false);
                resident = resident_bytes(&self.folder);
            }
        }
        self.figures.resident.store(resident, Ordering::Relaxed);
    }

    /// Tells the system once for each segment and state. Whether there was anything to tell.
    fn advise(&mut self, views: &[(u32, Arc<View>)], state: State) -> bool {
        let mut advised: Vec<(File, State)> = Vec::with_capacity(self.advised.len());
        for (file, segment) in segments(views) {
            if self.advised.binary_search(&(file, state)).is_err() {
                match state {
                    State::Hot => segment.keep_hot(),
                    State::Walk => segment.keep_walk_hot(),
                    State::Cold => segment.keep_cold(),
                }
            }
            advised.push((file, state));
        }
        advised.sort_unstable();
        let changed = self.advised != advised;
        self.advised = advised;
        changed
    }

    /// Moves the hand on by so many bytes, round all segments, and gives back what it passes.
    fn shed(&mut self, views: &[(u32, Arc<View>)], mut bytes: u64, keep_walk: bool) {
        let mut segments: Vec<_> = segments(views).collect();
        segments.sort_unstable_by_key(|(file, _)| *file);
        let first = segments.partition_point(|(file, _)| *file < self.hand.0);
        let (before, from_hand) = segments.split_at(first);
        for (file, segment) in from_hand.iter().chain(before) {
            let from = if *file == self.hand.0 { self.hand.1 } else { 0 };
            let next = segment.shed(from, bytes, keep_walk);
            bytes = bytes.saturating_sub(next.unwrap_or(segment.file_bytes()).saturating_sub(from));
            self.hand = next.map_or(((file.0, file.1 + 1), 0), |next| (*file, next));
            if bytes == 0 {
                break;
            }
        }
        // Past the last segment, it begins anew.
        if segments.last().is_some_and(|(file, _)| self.hand.0 > *file) {
            self.hand = BEGINNING;
        }
    }
}

/// How many bytes of files below a folder are mapped in this process's memory; zero where the system does not tell.
pub(crate) fn resident_bytes(folder: &Path) -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let folder = folder.to_string_lossy();
    resident_in(&text, &folder)
}

fn resident_in(smaps: &str, folder: &str) -> u64 {
    let (mut ours, mut kibibytes) = (false, 0);
    for line in smaps.lines() {
        if let Some(resident) = line.strip_prefix("Rss:") {
            if ours {
                kibibytes += resident.trim().strip_suffix("kB").and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
            }
        } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            // The head of a mapping: addresses, rights, offset, device, number, path.
            let path = line.find('/').and_then(|at| line.get(at..)).unwrap_or_default();
            ours = path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        }
    }
    kibibytes * 1024
}

#[cfg(test)]
mod tests;
