//! Reading an index where it lies.

use std::ops::Range;

use bytemuck::AnyBitPattern;

use super::key::{self, KINDS, Kind, text_of};
use super::rows::{Gathered, RowSet, words_of};
use super::{HEAD_BYTES, PARTS, Part, VERSION, grams};
use crate::command::{IndexKind, IndexSpec};

/// Looking through so many bytes of different texts is quicker than looking at rows.
const LOOK_THROUGH_BYTES_MAX: usize = 1 << 20;

/// An index that is lent to answer a filter.
#[derive(Clone, Copy)]
pub(crate) struct IndexRef<'a> {
    rows: u32,
    kinds: [u32; KINDS],
    kind_bits: [Option<&'a [u64]>; KINDS],
    values: Table<'a>,
    mark_places: &'a [u32],
    mark_bits: &'a [u64],
    elements: Table<'a>,
    grams: &'a [u32],
    gram_starts: &'a [u32],
    gram_values: &'a [u32],
}

/// Different values, sorted by key, and the rows of each.
#[derive(Clone, Copy)]
struct Table<'a> {
    offsets: &'a [u32],
    bytes: &'a [u8],
    starts: &'a [u32],
    rows: &'a [u32],
    rest: &'a [u32],
}

/// Where each part lies in the section.
struct Layout {
    kind: IndexKind,
    rows: u32,
    left_out: bool,
    parts: [Range<usize>; PARTS],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn layout(section: &[u8]) -> Option<Layout> {
    if u32_at(section, 0)? != VERSION {
        return None;
    }
    let kind = match u32_at(section, 4)? {
        1 => IndexKind::Value,
        2 => IndexKind::Substring,
        _ => return None,
    };
    let mut parts = [const { 0..0 }; PARTS];
    let mut next = HEAD_BYTES + 8 * PARTS;
    for (number, part) in parts.iter_mut().enumerate() {
        let at = HEAD_BYTES + 8 * number;
        let bytes = u64::from_le_bytes(section.get(at..at + 8)?.try_into().ok()?);
        let end = next.checked_add(usize::try_from(bytes).ok()?).filter(|end| *end <= section.len())?;
        *part = next..end;
        next = end.checked_next_multiple_of(8)?;
    }
    Some(Layout { kind, rows: u32_at(section, 8)?, left_out: u32_at(section, 12)? != 0, parts })
}

/// What index a section is of, how many rows it is over, and whether it can answer (rather than being left out). `None`:
/// it is of a version that is not known, or makes no sense.
pub(crate) fn describe(section: &[u8]) -> Option<(IndexSpec, u32, bool)> {
    let layout = layout(section)?;
    let mut bytes = section.get(layout.parts[Part::Path as usize].clone())?;
    let mut path = Vec::new();
    while !bytes.is_empty() {
        let len = u32_at(bytes, 0)? as usize;
        let end = len.checked_add(4)?;
        path.push(std::str::from_utf8(bytes.get(4..end)?).ok()?.to_owned());
        bytes = bytes.get(end..)?;
    }
    let readable = !layout.left_out && IndexRef::read(section).is_some();
    (readable || layout.left_out).then_some((IndexSpec { path, kind: layout.kind }, layout.rows, readable))
}

impl<'a> IndexRef<'a> {
    /// The index in a section that [`describe`] called readable.
    pub fn read(section: &'a [u8]) -> Option<IndexRef<'a>> {
        let Layout { rows, parts, .. } = layout(section)?;
        let bytes = |part: Part| section.get(parts[part as usize].clone()).unwrap_or_default();
        fn numbers<T: AnyBitPattern>(bytes: &[u8]) -> Option<&[T]> {
            bytemuck::try_cast_slice(bytes).ok()
        }
        let kinds: [u32; KINDS] = numbers(bytes(Part::Kinds))?.try_into().ok()?;
        let mut all_bits = numbers::<u64>(bytes(Part::KindBits))?;
        let mut kind_bits = [None; KINDS];
        for (bits, &count) in kind_bits.iter_mut().zip(&kinds) {
            if count != 0 && count != rows {
                let (own, others) = all_bits.split_at_checked(words_of(rows))?;
                (*bits, all_bits) = (Some(own), others);
            }
        }
        let table = |offsets, bytes_of, starts, rows, rest| {
            let table = Table {
                offsets: numbers(bytes(offsets))?,
                bytes: bytes(bytes_of),
                starts: numbers(bytes(starts))?,
                rows: numbers(bytes(rows))?,
                rest: numbers(bytes(rest))?,
            };
            let whole = !table.starts.is_empty() && table.offsets.len() == table.starts.len();
            whole.then_some(table)
        };
        let index = IndexRef {
            rows,
            kinds,
            kind_bits,
            values: table(Part::ValueOffsets, Part::ValueBytes, Part::ValueStarts, Part::ValueRows, Part::ValueRest)?,
            mark_places: numbers(bytes(Part::MarkPlaces))?,
            mark_bits: numbers(bytes(Part::MarkBits))?,
            elements: table(
                Part::ElementOffsets,
                Part::ElementBytes,
                Part::ElementStarts,
                Part::ElementRows,
                Part::ElementRest,
            )?,
            grams: numbers(bytes(Part::Grams))?,
            gram_starts: numbers(bytes(Part::GramStarts))?,
            gram_values: numbers(bytes(Part::GramValues))?,
        };
        (index.mark_places.len().checked_mul(words_of(rows))? == index.mark_bits.len()).then_some(index)
    }

    /// The rows with a value of this kind.
    pub(super) fn of_kind(&self, kind: Kind) -> RowSet<'a> {
        match self.kind_bits[kind as usize] {
            Some(bits) => RowSet::of_bits(self.rows, bits),
            None if self.kinds[kind as usize] == 0 => RowSet::none(self.rows),
            None => RowSet::all(self.rows),
        }
    }

    /// The rows with any value at all.
    pub fn present(&self) -> RowSet<'a> {
        self.not_null().or(self.of_kind(Kind::Null))
    }

    /// The rows with any value but null.
    pub fn not_null(&self) -> RowSet<'a> {
        let kinds = [Kind::Bool, Kind::Number, Kind::Text, Kind::Timestamp, Kind::List, Kind::Other];
        kinds.map(|kind| self.of_kind(kind)).into_iter().fold(RowSet::none(self.rows), RowSet::or)
    }

    /// The rows whose text is too long for a key.
    pub fn long_texts(&self) -> RowSet<'a> {
        RowSet::of_list(self.rows, self.values.rest)
    }

    /// The rows whose list has such a text in it.
    pub fn long_elements(&self) -> RowSet<'a> {
        RowSet::of_list(self.rows, self.elements.rest)
    }

    /// The rows with one of these keys.
    pub fn with_keys<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> RowSet<'a> {
        let numbers = keys.filter_map(|key| self.values.find(key));
        self.with_values(numbers)
    }

    /// The rows whose key lies from `low` on and before `high`.
    pub fn between(&self, low: &[u8], high: Option<&[u8]>) -> RowSet<'a> {
        let first = self.values.lower_bound(low);
        let end = high.map_or(self.values.len(), |high| self.values.lower_bound(high));
        self.slice(first, end)
    }

    /// The rows whose list has an element with this key.
    pub fn lists_with(&self, key: &[u8]) -> RowSet<'a> {
        match self.elements.find(key) {
            Some(number) => RowSet::of_list(self.rows, self.elements.rows_of(number, number + 1)),
            None => RowSet::none(self.rows),
        }
    }

    fn with_values(&self, mut numbers: impl Iterator<Item = usize>) -> RowSet<'a> {
        let Some(first) = numbers.next() else { return RowSet::none(self.rows) };
        let Some(second) = numbers.next() else { return self.slice(first, first + 1) };
        let mut gathered = Gathered::new(self.rows);
        // Values that many rows have come as bits.
        let mut large = RowSet::none(self.rows);
        for number in [first, second].into_iter().chain(numbers) {
            let rows = self.values.rows_of(number, number + 1);
            if rows.len() > 4 * words_of(self.rows) {
                large = large.or(self.slice(number, number + 1));
            } else {
                gathered.add(rows);
            }
        }
        large.or(gathered.finish())
    }

    /// The rows of the values from one number up to another.
    fn slice(&self, first: usize, end: usize) -> RowSet<'a> {
        if first >= end {
            return RowSet::none(self.rows);
        }
        let (low, high) = (self.values.start(first), self.values.start(end));
        let rows = self.values.rows_of(first, end);
        // With marks near both ends, most rows come as bits.
        let before = |place: usize| match place {
            0 => Some((0, None)),
            place => self.mark(place).map(|(distance, bits)| (distance, Some(bits))),
        };
        let (Some((low_distance, low_bits)), Some((high_distance, Some(high_bits)))) = (before(low), before(high))
        else {
            return RowSet::of_list_of_any_order(self.rows, rows, end - first);
        };
        if low_distance + high_distance + 2 * words_of(self.rows) >= rows.len() {
            return RowSet::of_list_of_any_order(self.rows, rows, end - first);
        }
        if low_distance == 0 && high_distance == 0 && low_bits.is_none() {
            return RowSet::of_bits(self.rows, high_bits);
        }
        let mut words = high_bits.to_vec();
        if let Some(low_bits) = low_bits {
            words.iter_mut().zip(low_bits).for_each(|(word, low)| *word &= !low);
        }
        // A mark lies at or before its place: what is between them belongs to it too.
        let between = |distance: usize, place: usize| self.values.rows.get(place - distance..place).unwrap_or_default();
        let mut flip = |row: &u32, on: bool| {
            if let Some(word) = words.get_mut(*row as usize / 64) {
                let bit = 1 << (row % 64);
                *word = if on { *word | bit } else { *word & !bit };
            }
        };
        between(high_distance, high).iter().for_each(|row| flip(row, true));
        between(low_distance, low).iter().for_each(|row| flip(row, false));
        RowSet::of_bits(self.rows, words)
    }

    /// The last mark at or before a place: how far before, and its bits.
    fn mark(&self, place: usize) -> Option<(usize, &'a [u64])> {
        let number = self.mark_places.partition_point(|&mark| mark as usize <= place).checked_sub(1)?;
        let words = words_of(self.rows);
        let bits = self.mark_bits.get(number * words..(number + 1) * words)?;
        Some((place - self.mark_places[number] as usize, bits))
    }

    /// The rows whose text has `part` in it: those that surely do, and those that may. `None`: looking at rows is quicker.
    pub fn with_text(&self, part: &str) -> Option<(RowSet<'a>, RowSet<'a>)> {
        let part = part.as_bytes();
        let (low, high) = key::tags(Kind::Text)?;
        let texts = self.values.lower_bound(&[low])..self.values.lower_bound(&[high + 1]);
        let has = |number: &usize| text_of(self.values.key(*number)).is_some_and(|text| contains(text, part));
        if self.gram_starts.is_empty() || part.len() < 3 {
            if self.values.bytes_of(texts.clone()) > LOOK_THROUGH_BYTES_MAX {
                return None;
            }
            let found = self.with_values(texts.filter(has));
            return Some((found.clone(), found));
        }
        let mut lists: Vec<&[u32]> = Vec::new();
        for gram in grams(part) {
            let Ok(place) = self.grams.binary_search(&gram) else {
                return Some((RowSet::none(self.rows), RowSet::none(self.rows)));
            };
            let (start, end) = (self.gram_starts.get(place)?, self.gram_starts.get(place + 1)?);
            lists.push(self.gram_values.get(*start as usize..*end as usize)?);
        }
        lists.sort_by_key(|list| list.len());
        let (rarest, others) = lists.split_first()?;
        // A few lists rule out nearly all that all of them would.
        let others = &others[..others.len().min(4)];
        let candidates = rarest.iter().filter(|number| others.iter().all(|list| list.binary_search(number).is_ok()));
        let candidates: Vec<usize> = candidates.map(|&number| number as usize).collect();
        if part.len() == 3 {
            let found = self.with_values(candidates.into_iter());
            return Some((found.clone(), found));
        }
        let bytes: usize = candidates.iter().map(|&number| self.values.key(number).len()).sum();
        if bytes > LOOK_THROUGH_BYTES_MAX {
            return Some((RowSet::none(self.rows), self.with_values(candidates.into_iter())));
        }
        let found = self.with_values(candidates.into_iter().filter(has));
        Some((found.clone(), found))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    // Whole texts: their searcher is for text, and a part of a text is found in its bytes or not at all.
    match (std::str::from_utf8(text), std::str::from_utf8(part)) {
        (Ok(text), Ok(part)) => text.contains(part),
        _ => false,
    }
}

impl<'a> Table<'a> {
    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn key(&self, number: usize) -> &'a [u8] {
        let ends = (self.offsets.get(number), self.offsets.get(number + 1));
        let (Some(&start), Some(&end)) = ends else { return &[] };
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    /// The first value whose key is not before this one.
    fn lower_bound(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        let place = self.lower_bound(key);
        (place < self.len() && self.key(place) == key).then_some(place)
    }

    fn start(&self, number: usize) -> usize {
        self.starts.get(number).map_or(self.rows.len(), |&start| start as usize)
    }

    fn rows_of(&self, first: usize, end: usize) -> &'a [u32] {
        self.rows.get(self.start(first)..self.start(end)).unwrap_or_default()
    }

    /// How many bytes the keys of these values take.
    fn bytes_of(&self, numbers: Range<usize>) -> usize {
        let at = |number: usize| self.offsets.get(number).copied().unwrap_or(0) as usize;
        at(numbers.end).saturating_sub(at(numbers.start))
    }
}
