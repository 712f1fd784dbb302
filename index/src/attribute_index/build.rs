//! Building an index when a segment is written: one pass over the rows, then sorting of the different values.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::key::{self, KINDS, Key, text_of};
use super::rows::words_of;
use super::{HEAD_BYTES, INDEX_GRAMS_MAX, INDEX_VALUES_BYTES_MAX, MARKED_ROWS_MIN, MARKS, PARTS, Part, VERSION, grams};
use crate::attributes::{self, ValueRef};
use crate::command::{IndexKind, IndexSpec};

/// The different values of a table, and which rows have them, as they come.
#[derive(Default)]
struct Gathering {
    /// The keys one after the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
    table: HashTable<u32>,
    /// Number of the value and row, rows ascending.
    pairs: Vec<(u32, u32)>,
    rest: Vec<u32>,
}

/// The same, sorted.
#[derive(Default)]
struct Sorted {
    bytes: Vec<u8>,
    offsets: Vec<u32>,
    starts: Vec<u32>,
    rows: Vec<u32>,
    rest: Vec<u32>,
}

fn key_at<'a>(bytes: &'a [u8], ends: &[usize], number: u32) -> &'a [u8] {
    let number = number as usize;
    let start = if number == 0 { 0 } else { ends[number - 1] };
    &bytes[start..ends[number]]
}

impl Gathering {
    fn add(&mut self, row: u32, key: Key) {
        let key = match key {
            Key::None => return,
            Key::Long => {
                if self.rest.last() != Some(&row) {
                    self.rest.push(row);
                }
                return;
            }
            Key::Bytes(key) => key,
        };
        let Gathering { bytes, ends, table, pairs, .. } = self;
        let found = table.find(xxh3_64(&key), |&number| key_at(bytes, ends, number) == key).copied();
        let number = found.unwrap_or_else(|| {
            let number = ends.len() as u32;
            bytes.extend_from_slice(&key);
            ends.push(bytes.len());
            table.insert_unique(xxh3_64(&key), number, |&number| xxh3_64(key_at(bytes, ends, number)));
            number
        });
        pairs.push((number, row));
    }

    /// A row counts once for a value.
    fn sort(self) -> Sorted {
        let Gathering { bytes, ends, table, pairs, rest } = self;
        drop(table);
        let mut order: Vec<u32> = (0..ends.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| key_at(&bytes, &ends, a).cmp(key_at(&bytes, &ends, b)));
        let mut sorted = Sorted { offsets: vec![0], starts: vec![0], rest, ..Sorted::default() };
        let mut places = vec![0u32; ends.len()];
        for (place, &number) in (0..).zip(&order) {
            places[number as usize] = place;
            sorted.bytes.extend_from_slice(key_at(&bytes, &ends, number));
            sorted.offsets.push(sorted.bytes.len() as u32);
        }
        // Counted, then put in their places in the order of their rows.
        let mut last = vec![u32::MAX; ends.len()];
        let mut counts = vec![0u32; ends.len()];
        for &(number, row) in &pairs {
            let place = places[number as usize] as usize;
            counts[place] += u32::from(last[place] != row);
            last[place] = row;
        }
        let mut start = 0;
        for count in &counts {
            start += count;
            sorted.starts.push(start);
        }
        let mut next = sorted.starts.clone();
        last.fill(u32::MAX);
        sorted.rows = vec![0; start as usize];
        for (number, row) in pairs {
            let place = places[number as usize] as usize;
            if last[place] != row {
                sorted.rows[next[place] as usize] = row;
                next[place] += 1;
                last[place] = row;
            }
        }
        sorted
    }
}

/// The section of an index over rows whose encoded attributes `attributes_of` says. `None` if `stop` said to.
pub(crate) fn build<'r>(
    spec: &IndexSpec,
    rows: u32,
    attributes_of: impl Fn(u32) -> &'r [u8],
    stop: impl Fn() -> bool,
) -> Option<Vec<u8>> {
    build_within(spec, rows, attributes_of, stop, INDEX_VALUES_BYTES_MAX, INDEX_GRAMS_MAX)
}

pub(super) fn build_within<'r>(
    spec: &IndexSpec,
    rows: u32,
    attributes_of: impl Fn(u32) -> &'r [u8],
    stop: impl Fn() -> bool,
    bytes_max: usize,
    grams_max: usize,
) -> Option<Vec<u8>> {
    let (mut values, mut elements) = (Gathering::default(), Gathering::default());
    let mut kinds = [const { Vec::new() }; KINDS];
    let mut counts = [0u32; KINDS];
    for row in 0..rows {
        if row.is_multiple_of(4096) && stop() {
            return None;
        }
        let Some(value) = attributes::lookup(attributes_of(row), &spec.path) else { continue };
        let (kind, key) = key::of_ref(value);
        let bits: &mut Vec<u64> = &mut kinds[kind as usize];
        bits.resize(words_of(rows), 0);
        bits[row as usize / 64] |= 1 << (row % 64);
        counts[kind as usize] += 1;
        values.add(row, key);
        if let ValueRef::List(list) = value {
            list.iter().for_each(|element| elements.add(row, key::of_ref(element).1));
        }
        if values.bytes.len() + elements.bytes.len() > bytes_max {
            return Some(left_out(spec, rows));
        }
    }
    let some = (0..KINDS).filter(|&kind| counts[kind] != 0 && counts[kind] != rows);
    let kind_bits: Vec<u64> = some.flat_map(|kind| std::mem::take(&mut kinds[kind])).collect();
    let values = values.sort();
    let (places, marks) = marks(&values, rows);
    let elements = elements.sort();
    let (grams, gram_starts, gram_values) = match spec.kind {
        IndexKind::Substring => gather_grams(&values, grams_max),
        IndexKind::Value => Default::default(),
    };

    let mut parts: [&[u8]; PARTS] = [&[]; PARTS];
    let path = path_bytes(&spec.path);
    let mut put = |part: Part, bytes| parts[part as usize] = bytes;
    put(Part::Path, &path);
    put(Part::Kinds, bytemuck::cast_slice(&counts));
    put(Part::KindBits, bytemuck::cast_slice(&kind_bits));
    put(Part::ValueOffsets, bytemuck::cast_slice(&values.offsets));
    put(Part::ValueBytes, &values.bytes);
    put(Part::ValueStarts, bytemuck::cast_slice(&values.starts));
    put(Part::ValueRows, bytemuck::cast_slice(&values.rows));
    put(Part::ValueRest, bytemuck::cast_slice(&values.rest));
    put(Part::MarkPlaces, bytemuck::cast_slice(&places));
    put(Part::MarkBits, bytemuck::cast_slice(&marks));
    put(Part::ElementOffsets, bytemuck::cast_slice(&elements.offsets));
    put(Part::ElementBytes, &elements.bytes);
    put(Part::ElementStarts, bytemuck::cast_slice(&elements.starts));
    put(Part::ElementRows, bytemuck::cast_slice(&elements.rows));
    put(Part::ElementRest, bytemuck::cast_slice(&elements.rest));
    put(Part::Grams, bytemuck::cast_slice(&grams));
    put(Part::GramStarts, bytemuck::cast_slice(&gram_starts));
    put(Part::GramValues, bytemuck::cast_slice(&gram_values));
    Some(assemble(spec.kind, rows, false, &parts))
}

/// The section of an index that was too large to build.
fn left_out(spec: &IndexSpec, rows: u32) -> Vec<u8> {
    let path = path_bytes(&spec.path);
    let mut parts: [&[u8]; PARTS] = [&[]; PARTS];
    parts[Part::Path as usize] = &path;
    assemble(spec.kind, rows, true, &parts)
}

/// The machine is little-endian (see the segment's front page), so numbers are in the file's order already.
fn assemble(kind: IndexKind, rows: u32, left_out: bool, parts: &[&[u8]; PARTS]) -> Vec<u8> {
    let kind: u32 = match kind {
        IndexKind::Value => 1,
        IndexKind::Substring => 2,
    };
    let mut section = Vec::new();
    for number in [VERSION, kind, rows, u32::from(left_out)] {
        section.extend_from_slice(&number.to_le_bytes());
    }
    debug_assert_eq!(section.len(), HEAD_BYTES);
    for part in parts {
        section.extend_from_slice(&(part.len() as u64).to_le_bytes());
    }
    for part in parts {
        section.extend_from_slice(part);
        section.resize(section.len().next_multiple_of(8), 0);
    }
    section
}

fn path_bytes(path: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in path {
        bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes
}

/// Places where values begin, never far apart unless one value has so many rows, and the rows before each as bits.
fn marks(values: &Sorted, rows: u32) -> (Vec<u32>, Vec<u64>) {
    let count = values.rows.len();
    if count < MARKED_ROWS_MIN {
        return Default::default();
    }
    let apart = (count / MARKS) as u32;
    let (mut places, mut bits, mut last) = (Vec::new(), Vec::new(), 0);
    let mut before = vec![0u64; words_of(rows)];
    for (number, &place) in values.starts.iter().enumerate() {
        let next = values.starts.get(number + 1).copied().unwrap_or(place);
        // Before and after a value that many rows have, and wherever the last mark is far away.
        if place > last && (place - last >= apart || next - place >= apart) {
            for row in &values.rows[last as usize..place as usize] {
                before[*row as usize / 64] |= 1 << (row % 64);
            }
            places.push(place);
            bits.extend_from_slice(&before);
            last = place;
        }
    }
    (places, bits)
}

/// Every three-byte piece of the texts among the values, and the values it is in. None of them if there are too many.
fn gather_grams(values: &Sorted, grams_max: usize) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let mut pairs: Vec<u64> = Vec::new();
    let mut of_one = Vec::new();
    for (number, ends) in (0u64..).zip(values.offsets.windows(2)) {
        let Some(text) = text_of(&values.bytes[ends[0] as usize..ends[1] as usize]) else { continue };
        of_one.clear();
        of_one.extend(grams(text).map(|gram| u64::from(gram) << 32 | number));
        of_one.sort_unstable();
        of_one.dedup();
        if pairs.len() + of_one.len() > grams_max {
            return Default::default();
        }
        pairs.extend_from_slice(&of_one);
    }
    pairs.sort_unstable();
    let (mut grams, mut starts, mut numbers) = (Vec::new(), Vec::new(), Vec::with_capacity(pairs.len()));
    for pair in pairs {
        let gram = (pair >> 32) as u32;
        if grams.last() != Some(&gram) {
            grams.push(gram);
            starts.push(numbers.len() as u32);
        }
        numbers.push(pair as u32);
    }
    starts.push(numbers.len() as u32);
    (grams, starts, numbers)
}
