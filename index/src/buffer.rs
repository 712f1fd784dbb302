//! The buffer: the newest records of one collection, in memory, searched exactly.
//!
//! ```text
//!   table:  key hash -> newest row of that key          rows, in the order they were written
//!           [ . | 7 | . | 4 | ... ]  each with its hash [0][1][2][3][4][5][6][7]
//!                 |                                               ^        |
//!                 '-------------------------------------------------------'  row 7's `older` is row 4
//! ```
//!
//! One thread writes, any number read at the same time, and nobody holds a lock: rows are only ever added, each row and
//! each table is written once before it can be reached, and the end of a row's version is one atomic number. A reader
//! sees rows that are newer than its view, and passes over them: their version begins after the view's position.
//!
//! Always: rows are in the order of their `begin`. At any position at most one row of a key is visible.

pub(crate) mod codes;
mod row;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use xxhash_rust::xxh3::xxh3_64;

pub(crate) use row::{Row, RowContent};

use crate::command::TextSpec;
use crate::record::Position;
use crate::text::Words;

/// The first run of rows; each further run is as long as all before it.
const FIRST_RUN: usize = 64;
/// Enough runs for more rows than a `u32` counts.
const RUNS: usize = 28;
/// The first table's slots; each further table has twice as many.
const FIRST_TABLE: usize = 128;
const TABLES: usize = 27;
const NONE: u32 = u32::MAX;
/// A slot of a table holds the low half of a key's hash, from which its place follows, above the row; this one no row.
const EMPTY: u64 = u64::MAX;

/// The newest records of one collection.
pub(crate) struct Buffer {
    runs: [OnceLock<Box<[OnceLock<Row>]>>; RUNS],
    tables: [OnceLock<Box<[AtomicU64]>>; TABLES],
    /// Which table is in use.
    table: AtomicUsize,
    len: AtomicU32,
    bytes: AtomicUsize,
    /// How many keys the table holds; only the writer looks.
    keys: AtomicU32,
    /// What the words of rows take that were searched.
    words_bytes: AtomicUsize,
    /// For each run, for each block of its rows and each field of these, the codes, once somebody has searched for some.
    codes: [OnceLock<Box<[OnceLock<codes::Block>]>>; RUNS],
    codes_bytes: AtomicUsize,
}

impl Buffer {
    pub fn new() -> Buffer {
        Buffer {
            runs: [const { OnceLock::new() }; RUNS],
            tables: [const { OnceLock::new() }; TABLES],
            table: AtomicUsize::new(0),
            len: AtomicU32::new(0),
            bytes: AtomicUsize::new(0),
            keys: AtomicU32::new(0),
            words_bytes: AtomicUsize::new(0),
            codes: [const { OnceLock::new() }; RUNS],
            codes_bytes: AtomicUsize::new(0),
        }
    }

    /// How many rows there are, ended ones too.
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// What was written to it takes in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What the words take in memory that searches have found in it.
    pub fn words_bytes(&self) -> usize {
        self.words_bytes.load(Ordering::Relaxed)
    }

    /// What the codes take in memory that searches have made.
    pub fn codes_bytes(&self) -> usize {
        self.codes_bytes.load(Ordering::Relaxed)
    }

    /// The words of each text of one of its rows. They are taken apart once, by whoever asks first.
    pub fn words<'a>(&self, row: &'a Row, texts: &[TextSpec]) -> &'a [Words] {
        row.words.get_or_init(|| {
            let words = |text: &TextSpec| Words::of_attribute(row.attributes(), &text.path, text.language);
            let all: Box<[Words]> = texts.iter().map(words).collect();
            self.words_bytes.fetch_add(all.iter().map(Words::bytes).sum(), Ordering::Relaxed);
            all
        })
    }

    pub fn row(&self, row: u32) -> Option<&Row> {
        let (run, place) = run_of(row);
        self.runs[run].get()?.get(place)?.get()
    }

    /// The rows that `position` can see, with their numbers, in the order they were written.
    pub fn visible(&self, position: Position) -> impl Iterator<Item = (u32, &Row)> {
        self.rows().take_while(move |(_, row)| row.begin <= position).filter(move |(_, row)| position < row.end())
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &Row)> {
        let mut left = self.len() as usize;
        let mut first = 0;
        self.runs.iter().enumerate().flat_map(move |(run, rows)| {
            let take = left.min(run_length(run));
            let from = first;
            left -= take;
            first += take as u32;
            let rows = rows.get().map_or(&[][..], |rows| &rows[..take]);
            (from..).zip(rows).filter_map(|(number, row)| Some((number, row.get()?)))
        })
    }

    /// The version of a key that `position` can see.
    pub fn find(&self, key: &[u8], position: Position) -> Option<(u32, &Row)> {
        self.versions(key).find(|(_, row)| row.visible_at(position))
    }

    /// The version of a key that has not ended. Only the writer may ask.
    pub fn find_live(&self, key: &[u8]) -> Option<(u32, &Row)> {
        self.versions(key).next().filter(|(_, row)| row.end() == Position::NEVER)
    }

    /// The versions of a key, newest first.
    fn versions(&self, key: &[u8]) -> impl Iterator<Item = (u32, &Row)> {
        let mut next = self.newest(key);
        std::iter::from_fn(move || {
            let number = next.take()?;
            let row = self.row(number)?;
            let older = row.older.load(Ordering::Relaxed);
            next = (older != NONE).then_some(older);
            Some((number, row))
        })
    }

    fn newest(&self, key: &[u8]) -> Option<u32> {
        let table = self.tables[self.table.load(Ordering::Acquire)].get()?;
        let slot = self.slot(table, hash(key), key)?;
        Some(row_of(slot.load(Ordering::Acquire))).filter(|row| *row != NONE)
    }

    /// The first place that a look for the key looks at, whatever is in it.
    pub fn look(&self, key: &[u8]) -> u64 {
        let table = self.tables[self.table.load(Ordering::Acquire)].get();
        let slot = table.and_then(|table| probe(table, hash(key)).next());
        slot.map_or(EMPTY, |slot| slot.load(Ordering::Relaxed))
    }

    /// The row that is most likely the newest of the key, if there is one; it is not looked at.
    pub fn guess(&self, key: &[u8]) -> Option<u32> {
        let table = self.tables[self.table.load(Ordering::Acquire)].get()?;
        let hash = hash(key);
        let slots = probe(table, hash).map(|slot| slot.load(Ordering::Acquire));
        let found = slots.take_while(|found| *found != EMPTY).find(|found| hash_of(*found) == hash);
        found.map(row_of)
    }

    /// The key's slot, or the empty one where it would be.
    fn slot<'a>(&self, table: &'a [AtomicU64], hash: u32, key: &[u8]) -> Option<&'a AtomicU64> {
        probe(table, hash).find(|slot| {
            let found = slot.load(Ordering::Acquire);
            found == EMPTY || hash_of(found) == hash && self.row(row_of(found)).is_some_and(|row| row.key() == key)
        })
    }

    /// Adds a version, and says its row. Only one thread may do this.
    pub fn push(&self, row: Row) -> u32 {
        let number = self.len.load(Ordering::Relaxed);
        assert!(number < NONE, "a buffer is sealed long before its rows are too many to count");
        let (run, place) = run_of(number);
        let rows = self.runs[run].get_or_init(|| (0..run_length(run)).map(|_| OnceLock::new()).collect());
        self.bytes.fetch_add(row.memory_bytes(), Ordering::Relaxed);
        let table = self.table_with_room();
        let hash = hash(row.key());
        let slot = self.slot(table, hash, row.key()).expect("a table is never full");
        let older = row_of(slot.load(Ordering::Relaxed));
        row.older.store(older, Ordering::Relaxed);
        if older == NONE {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
        assert!(rows[place].set(row).is_ok(), "a row is written once, by one thread");
        slot.store(slot_of(hash, number), Ordering::Release);
        self.len.store(number + 1, Ordering::Release);
        number
    }

    /// The table in use, or one of twice the size once it is half full.
    fn table_with_room(&self) -> &[AtomicU64] {
        let current = self.table.load(Ordering::Relaxed);
        let table = self.tables[current].get_or_init(|| self.empty_table(current));
        if (self.keys.load(Ordering::Relaxed) as usize) < table.len() / 2 {
            return table;
        }
        let larger = self.empty_table(current + 1);
        for slot in table {
            let held = slot.load(Ordering::Relaxed);
            // The keys are different ones: each takes the first place that is free.
            let free = |slot: &&AtomicU64| slot.load(Ordering::Relaxed) == EMPTY;
            if held != EMPTY
                && let Some(slot) = probe(&larger, hash_of(held)).find(free)
            {
                slot.store(held, Ordering::Relaxed);
            }
        }
        let larger = self.tables[current + 1].get_or_init(|| larger);
        self.table.store(current + 1, Ordering::Release);
        larger
    }

    fn empty_table(&self, number: usize) -> Box<[AtomicU64]> {
        let slots = FIRST_TABLE << number;
        self.bytes.fetch_add(slots * size_of::<AtomicU64>(), Ordering::Relaxed);
        (0..slots).map(|_| AtomicU64::new(EMPTY)).collect()
    }
}

fn hash(key: &[u8]) -> u32 {
    xxh3_64(key) as u32
}

fn slot_of(hash: u32, row: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(row)
}

fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// [`NONE`] for an empty slot.
fn row_of(slot: u64) -> u32 {
    slot as u32
}

/// The slots where a hash may be, in order.
fn probe(table: &[AtomicU64], hash: u32) -> impl Iterator<Item = &AtomicU64> {
    let mask = table.len() - 1;
    (0..table.len()).map(move |step| &table[(hash as usize).wrapping_add(step) & mask])
}

/// Which run a row lies in, and where in it.
fn run_of(row: u32) -> (usize, usize) {
    let row = row as usize;
    let run = (row / FIRST_RUN + 1).ilog2() as usize;
    (run, row - FIRST_RUN * ((1 << run) - 1))
}

fn run_length(run: usize) -> usize {
    FIRST_RUN << run
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn row(index: u64, key: &str) -> Row {
        let content = RowContent { deadline: index, ..RowContent::default() };
        Row::new(Position::new(index, 0), key.as_bytes(), content, 0)
    }

    #[test]
    fn every_row_has_its_place() {
        let mut expected = (0, 0);
        for row in 0..10_000 {
            assert_eq!(run_of(row), expected, "row {row}");
            expected.1 += 1;
            if expected.1 == run_length(expected.0) {
                expected = (expected.0 + 1, 0);
            }
        }
        let (run, place) = run_of(NONE - 1);
        assert!(run < RUNS && place < run_length(run));
    }

    #[test]
    fn the_words_of_a_row_are_taken_apart_and_counted_once() {
        use crate::attributes::{Attributes, Value, encode};
        let attributes = encode(&Attributes::from([("t".into(), Value::String("b a b".into()))])).unwrap();
        let content = RowContent { attributes: attributes.into(), ..RowContent::default() };
        let buffer = Buffer::new();
        buffer.push(Row::new(Position::new(1, 0), b"k", content, 0));
        let texts = [TextSpec { path: vec!["t".into()], language: crate::command::Language::Plain }];
        let (row, written) = (buffer.row(0).unwrap(), buffer.bytes());
        assert_eq!(buffer.words_bytes(), 0);
        for _ in 0..2 {
            let [words] = buffer.words(row, &texts) else { panic!("one text") };
            assert_eq!((words.length(), words.times("b")), (3, 2));
            assert_eq!((buffer.words_bytes(), buffer.bytes()), (words.bytes(), written));
        }
    }

    #[test]
    fn a_guess_is_right_where_hashes_differ() {
        let buffer = Buffer::new();
        assert_eq!((buffer.look(b"k0"), buffer.guess(b"k0")), (EMPTY, None));
        for index in 0..1_000u64 {
            buffer.push(row(index + 1, &format!("k{}", index % 700)));
        }
        for key in 0..1_000 {
            let key = format!("k{key}");
            assert_eq!(buffer.guess(key.as_bytes()), buffer.newest(key.as_bytes()), "{key}");
            buffer.look(key.as_bytes());
        }
    }

    #[test]
    fn each_position_sees_its_own_version_of_a_key() {
        let buffer = Buffer::new();
        for index in 1..=5_000u64 {
            let key = format!("k{}", index % 700);
            if let Some((_, old)) = buffer.find_live(key.as_bytes()) {
                old.set_end(Position::new(index, 0));
            }
            buffer.push(row(index, &key));
        }
        for at in [0, 1, 699, 700, 701, 2_345, 5_000] {
            let position = Position::end_of(at);
            assert_eq!(buffer.visible(position).count() as u64, at.min(700), "at {at}");
            for key in 0..700 {
                let newest = (1..=at).rev().find(|index| index % 700 == key);
                let found = buffer.find(format!("k{key}").as_bytes(), position);
                assert_eq!(found.map(|(_, row)| row.deadline), newest, "key {key} at {at}");
            }
        }
        assert!(buffer.find(b"other", Position::end_of(5_000)).is_none());
    }

    #[test]
    fn readers_find_everything_up_to_their_position_while_rows_are_added() {
        let buffer = Arc::new(Buffer::new());
        let applied = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Acquire) {
                        let at = applied.load(Ordering::Acquire);
                        let position = Position::end_of(at);
                        assert_eq!(buffer.visible(position).count() as u64, at.min(100));
                        if at > 0 {
                            let key = format!("k{}", at % 100);
                            let (_, row) = buffer.find(key.as_bytes(), position).expect("it was written");
                            assert_eq!(row.deadline, at);
                        }
                    }
                });
            }
            for index in 1..=20_000u64 {
                let key = format!("k{}", index % 100);
                let old = buffer.find_live(key.as_bytes()).map(|(number, _)| number);
                buffer.push(row(index, &key));
                if let Some(old) = old.and_then(|number| buffer.row(number)) {
                    old.set_end(Position::new(index, 0));
                }
                applied.store(index, Ordering::Release);
            }
            done.store(true, Ordering::Release);
        });
    }
}
