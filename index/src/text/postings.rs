//! The words of a segment's texts, and in which rows each is.
//!
//! ```text
//! 0          1         2      4      8       12     16      24       32
//! | language | version | zero | rows | words | zero | texts | length |
//!
//! lengths    u32 x rows       how many words each row's text has; 0: none
//! entries    words x          | end of the word u64 | end of its rows u64 | rows u32 | zero u32 |
//! word bytes                  the words one after the other, ascending
//! rows of words               for each row: what its number is greater by than the one before (the first: than -1), and
//!                             how often the word is there; both as varints (seven bits a byte, low first)
//! ```
//!
//! Little-endian. `texts` counts the rows with at least one word, `length` all their words. Nothing here believes the
//! bytes: what does not fit reads as "no such word" or "no more rows".

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Words, words};
use crate::command::Language;

const HEADER_BYTES: usize = 32;
const ENTRY_BYTES: usize = 24;

/// The rows of one word while they are gathered.
#[derive(Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// One more than the last row.
    next: u32,
    rows: u32,
}

/// Gathers the words of a segment's texts.
pub struct Writer {
    language: Language,
    lengths: Vec<u32>,
    words: Vec<(Box<str>, Gathered)>,
    /// Where each word stands in `words`.
    places: HashTable<u32>,
    seed: u64,
    texts: u64,
    length: u64,
}

impl Writer {
    /// Nothing gathered yet. The seed is that of a hash table; best a number that clients cannot know.
    pub fn new(language: Language, seed: u64) -> Writer {
        let (words, places) = (Vec::new(), HashTable::new());
        Writer { language, lengths: Vec::new(), words, places, seed, texts: 0, length: 0 }
    }

    fn gathered(&mut self, word: &str) -> &mut Gathered {
        let Writer { words, places, seed, .. } = self;
        let hash = |word: &str| xxh3_64_with_seed(word.as_bytes(), *seed);
        let known = places.find(hash(word), |&place| *words[place as usize].0 == *word).copied();
        let place = known.unwrap_or_else(|| {
            let place = words.len() as u32;
            words.push((word.into(), Gathered::default()));
            places.insert_unique(hash(word), place, |&place| hash(&words[place as usize].0));
            place
        });
        &mut words[place as usize].1
    }

    /// The next row's text.
    pub fn push(&mut self, words: &Words) {
        let row = self.lengths.len() as u32;
        self.lengths.push(words.length());
        self.texts += u64::from(words.length() > 0);
        self.length += u64::from(words.length());
        for (word, count) in words.iter() {
            let gathered = self.gathered(word);
            put_varint(row + 1 - gathered.next, &mut gathered.bytes);
            put_varint(count, &mut gathered.bytes);
            gathered.next = row + 1;
            gathered.rows += 1;
        }
    }

    /// Hands out the index's bytes, part by part.
    pub fn write<E>(self, mut out: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut words = self.words;
        words.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut header = vec![words::code(self.language), words::VERSION, 0, 0];
        header.extend((self.lengths.len() as u32).to_le_bytes());
        header.extend((words.len() as u32).to_le_bytes());
        header.extend([0; 4]);
        header.extend(self.texts.to_le_bytes());
        header.extend(self.length.to_le_bytes());
        out(&header)?;
        self.lengths.iter().try_for_each(|length| out(&length.to_le_bytes()))?;
        let (mut word_end, mut rows_end) = (0u64, 0u64);
        for (word, gathered) in &words {
            word_end += word.len() as u64;
            rows_end += gathered.bytes.len() as u64;
            out(&word_end.to_le_bytes())?;
            out(&rows_end.to_le_bytes())?;
            out(&gathered.rows.to_le_bytes())?;
            out(&[0; 4])?;
        }
        words.iter().try_for_each(|(word, _)| out(word.as_bytes()))?;
        words.iter().try_for_each(|(_, gathered)| out(&gathered.bytes))
    }
}

fn put_varint(mut number: u32, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u32::from(byte & 0x7f);
        if shift == 28 && byte > 0x0f {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// An index where it lies in its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Index<'a> {
    rows: u32,
    words: u32,
    texts: u64,
    length: u64,
    lengths: &'a [u8],
    entries: &'a [u8],
    word_bytes: &'a [u8],
    row_bytes: &'a [u8],
}

struct Entry {
    word: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
    count: u32,
}

impl<'a> Index<'a> {
    /// The index that `bytes` are, if they are one of this language, of words as this program makes them.
    pub fn open(bytes: &'a [u8], language: Language) -> Option<Index<'a>> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        if header[0] != words::code(language) || header[1] != words::VERSION {
            return None;
        }
        let (rows, words) = (u32_at(header, 4)?, u32_at(header, 8)?);
        let (lengths, rest) = rest.split_at_checked((rows as usize).checked_mul(4)?)?;
        let (entries, rest) = rest.split_at_checked((words as usize).checked_mul(ENTRY_BYTES)?)?;
        let (word_len, rows_len) = match words.checked_sub(1) {
            Some(last) => {
                let at = last as usize * ENTRY_BYTES;
                (usize::try_from(u64_at(entries, at)?).ok()?, usize::try_from(u64_at(entries, at + 8)?).ok()?)
            }
            None => (0, 0),
        };
        let (word_bytes, row_bytes) = rest.split_at_checked(word_len)?;
        if row_bytes.len() != rows_len {
            return None;
        }
        let (texts, length) = (u64_at(header, 16)?, u64_at(header, 24)?);
        Some(Index { rows, words, texts, length, lengths, entries, word_bytes, row_bytes })
    }

    /// How many rows it is about.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// How many of them have at least one word.
    pub fn texts(&self) -> u64 {
        self.texts
    }

    /// How many words they have together.
    pub fn total_length(&self) -> u64 {
        self.length
    }

    /// How many words a row's text has.
    pub fn length(&self, row: u32) -> u32 {
        u32_at(self.lengths, (row as usize).saturating_mul(4)).unwrap_or(0)
    }

    fn entry(&self, number: u32) -> Option<Entry> {
        let at = number as usize * ENTRY_BYTES;
        let ends = |at: usize| Some((u64_at(self.entries, at)?, u64_at(self.entries, at + 8)?));
        let (word_start, rows_start) = match number {
            0 => (0, 0),
            _ => ends(at.checked_sub(ENTRY_BYTES)?)?,
        };
        let (word_end, rows_end) = ends(at)?;
        let range = |start: u64, end: u64| Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?);
        let (word, rows) = (range(word_start, word_end)?, range(rows_start, rows_end)?);
        Some(Entry { word, rows, count: u32_at(self.entries, at + 16)? })
    }

    /// The rows that have this word; no rows if none has it.
    pub fn find(&self, word: &str) -> Postings<'a> {
        let at = |number: u32| self.entry(number).and_then(|entry| self.word_bytes.get(entry.word)).unwrap_or_default();
        let (mut low, mut high) = (0, self.words);
        while low < high {
            let middle = low + (high - low) / 2;
            if at(middle) < word.as_bytes() {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let found = self.entry(low).filter(|_| low < self.words && at(low) == word.as_bytes());
        let (bytes, left) =
            found.map_or((&[][..], 0), |entry| (self.row_bytes.get(entry.rows).unwrap_or_default(), entry.count));
        Postings { bytes, next: 0, rows: self.rows, left }
    }
}

/// The rows of a word, ascending, each with how often the word is there.
#[derive(Debug, Clone)]
pub struct Postings<'a> {
    bytes: &'a [u8],
    /// One more than the last row.
    next: u32,
    rows: u32,
    left: u32,
}

impl Postings<'_> {
    /// How many rows are to come.
    pub fn left(&self) -> u32 {
        self.left
    }
}

impl Iterator for Postings<'_> {
    type Item = (u32, u32);

    fn next(&mut self) -> Option<(u32, u32)> {
        self.left = self.left.checked_sub(1)?;
        let step = take_varint(&mut self.bytes)?;
        let count = take_varint(&mut self.bytes)?;
        self.next = self.next.checked_add(step).filter(|&next| step > 0 && next <= self.rows)?;
        Some((self.next - 1, count))
    }
}
