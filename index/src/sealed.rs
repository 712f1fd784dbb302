//! A segment in use: the file, which never changes, and the ends of its versions, which lie in memory and do.
//!
//! Most segments have few ended versions, and a new one has none: the ends take no memory until the first.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::record::Position;
use crate::segment::Segment;

/// A segment with the ends of its versions.
pub(crate) struct Sealed {
    pub segment: Segment,
    /// The number in its file's name; larger is newer.
    pub file: u64,
    ends: OnceLock<Box<[AtomicU64]>>,
    ended: AtomicU32,
    damaged: AtomicBool,
}

impl Sealed {
    /// A segment none of whose versions has ended.
    pub fn new(segment: Segment, file: u64) -> Sealed {
        Sealed { segment, file, ends: OnceLock::new(), ended: AtomicU32::new(0), damaged: AtomicBool::new(false) }
    }

    /// How many rows there are, ended ones too.
    pub fn len(&self) -> u32 {
        self.segment.len()
    }

    /// How many of them have ended.
    pub fn ended(&self) -> u32 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Notes that its file is not what was written: nothing of it may be written elsewhere.
    pub fn note_damage(&self) {
        self.damaged.store(true, Ordering::Relaxed);
    }

    /// Notes that its file is what was written after all.
    pub fn note_sound(&self) {
        self.damaged.store(false, Ordering::Relaxed);
    }

    /// Whether its file is not what was written.
    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub fn end(&self, row: u32) -> Position {
        match self.ends.get().and_then(|ends| ends.get(row as usize)) {
            Some(end) => Position::from_u64(end.load(Ordering::Relaxed)),
            None => Position::NEVER,
        }
    }

    /// Ends a version. Only one thread may do this, and once for each row.
    pub fn set_end(&self, row: u32, end: Position) {
        let never = || (0..self.len()).map(|_| AtomicU64::new(Position::NEVER.get())).collect();
        if let Some(place) = self.ends.get_or_init(never).get(row as usize) {
            place.store(end.get(), Ordering::Relaxed);
            self.ended.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The ended rows, with their ends.
    pub fn ends(&self) -> impl Iterator<Item = (u32, Position)> {
        let ends = self.ends.get().map_or(&[][..], |ends| ends);
        (0..).zip(ends).filter_map(|(row, end)| {
            let end = end.load(Ordering::Relaxed);
            (end != Position::NEVER.get()).then_some((row, Position::from_u64(end)))
        })
    }

    pub fn visible_at(&self, row: u32, position: Position) -> bool {
        Position::from_u64(self.segment.begin(row)) <= position && position < self.end(row)
    }

    /// The version of a key that `position` can see.
    pub fn find(&self, key: &[u8], position: Position) -> Option<u32> {
        self.segment.find(key).find(|&row| self.visible_at(row, position))
    }

    /// The version of a key that has not ended.
    pub fn find_live(&self, key: &[u8]) -> Option<u32> {
        self.segment.find(key).find(|&row| self.end(row) == Position::NEVER)
    }

    /// What it takes in memory besides the mapped file.
    pub fn memory_bytes(&self) -> usize {
        self.ends.get().map_or(0, |ends| ends.len() * size_of::<AtomicU64>()) + size_of::<Sealed>()
    }
}
