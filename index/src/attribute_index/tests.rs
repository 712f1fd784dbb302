//! Random attributes and filters: what indexes say beside what looking at each row says.

use super::truth::settle;
use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{IndexKind, IndexSpec};
use crate::filter::{Filter, Limit, Path, Range};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

fn path(text: &str) -> Path {
    text.split('.').map(String::from).collect()
}

fn text(random: &mut Random) -> String {
    match random.below(12) {
        0 => String::new(),
        1 => "a".repeat(INDEXED_TEXT_BYTES_MAX + random.below(3) as usize),
        2 => "caf\u{e9}\u{10ffff}".into(),
        3 => "\u{ff}".into(),
        _ => (0..random.below(9)).map(|_| *random.pick(&['a', 'b', 'c', '\u{e9}'])).collect(),
    }
}

/// A value that a record or, with `any`, only a filter has.
fn value(random: &mut Random, depth: u64, any: bool) -> Value {
    const INTS: [i64; 9] = [i64::MIN, i64::MIN + 1, -2, -1, 0, 1, 2, i64::MAX - 1, i64::MAX];
    const FLOATS: [f64; 12] = [
        f64::NEG_INFINITY,
        -9_223_372_036_854_775_808.0,
        -1.5,
        -1.0,
        -0.0,
        0.0,
        1e-300,
        0.5,
        1.0,
        9_223_372_036_854_775_807.0,
        1e300,
        f64::INFINITY,
    ];
    match random.below(if depth < 2 { 12 } else { 9 }) {
        0 => Value::Null,
        1 => Value::Bool(random.chance(50)),
        2 => Value::Int(*random.pick(&INTS)),
        3 => Value::Int(random.below(40) as i64 - 20),
        4 if any && random.chance(10) => Value::Float(f64::NAN),
        4 => Value::Float(*random.pick(&FLOATS)),
        5 => Value::Timestamp(*random.pick(&INTS)),
        6 => Value::Timestamp(random.below(5) as i64),
        7 | 8 => Value::String(text(random)),
        9 | 10 => Value::List((0..random.below(4)).map(|_| value(random, depth + 1, any)).collect()),
        _ => {
            let names = (0..random.below(3)).map(|_| *random.pick(&["x", "y", "a"]));
            Value::Map(
                names.collect::<Vec<_>>().into_iter().map(|n| (n.into(), value(random, depth + 1, any))).collect(),
            )
        }
    }
}

const PATHS: [&str; 6] = ["a", "b", "m.x", "m.y", "plain", "none"];

/// Attributes of which the same path has many kinds, or mostly one.
fn attributes(random: &mut Random) -> Vec<u8> {
    let mut map = Attributes::new();
    for name in ["a", "b", "m"] {
        if random.chance(85) {
            map.insert(name.into(), value(random, 0, false));
        }
    }
    if random.chance(70) {
        let inner = ["x", "y"].map(|name| (name.into(), value(random, 1, false)));
        map.insert("m".into(), Value::Map(inner.into()));
    }
    map.insert("plain".into(), Value::Int(random.below(50) as i64));
    attributes::encode(&map).unwrap()
}

fn filter(random: &mut Random, depth: u64) -> Filter {
    let at = |random: &mut Random| path(PATHS[random.below(6) as usize]);
    let limit = |random: &mut Random| {
        random.chance(70).then(|| Limit { value: value(random, 0, true), inclusive: random.chance(50) })
    };
    let parts = |random: &mut Random| (0..random.below(4)).map(|_| filter(random, depth + 1)).collect();
    match random.below(if depth < 4 { 14 } else { 9 }) {
        0 => Filter::Equal(at(random), value(random, 0, true)),
        1 => Filter::In(at(random), (0..random.below(5)).map(|_| value(random, 0, true)).collect()),
        2 | 3 => Filter::Range(at(random), Range { low: limit(random), high: limit(random) }),
        4 => Filter::Exists(at(random)),
        5 => Filter::IsNull(at(random)),
        6 => Filter::Prefix(at(random), text(random)),
        7 => Filter::HasText(at(random), text(random)),
        8 => Filter::HasElement(at(random), value(random, 1, true)),
        9 | 10 => Filter::And(parts(random)),
        11 => Filter::Or(parts(random)),
        12 => Filter::Not(Box::new(filter(random, depth + 1))),
        _ if random.chance(80) => Filter::IsTrue(Box::new(filter(random, depth + 1))),
        _ => Filter::Constant(random.chance(50)),
    }
}

/// The index of a path over rows with these attributes.
fn index(rows: &[Vec<u8>], at: &str, kind: IndexKind) -> AlignedSection {
    let spec = IndexSpec { path: path(at), kind };
    let section = build(&spec, rows.len() as u32, |row| &rows[row as usize], || false).unwrap();
    let section = AlignedSection::new(&section);
    assert_eq!(describe(section.bytes()), Some((spec, rows.len() as u32, true)));
    section
}

/// A section where a file would have it: at a multiple of 8.
struct AlignedSection {
    words: Vec<u64>,
    len: usize,
}

impl AlignedSection {
    fn new(bytes: &[u8]) -> AlignedSection {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        AlignedSection { words, len: bytes.len() }
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice::<u64, u8>(&self.words)[..self.len]
    }
}

/// Both sides of a filter, by the indexes of some paths, beside what each row says.
fn check(rows: &[Vec<u8>], indexes: &[(Path, AlignedSection)], filter: &Filter, what: &str) -> bool {
    let index_of = |path: &Path| {
        let (_, section) = indexes.iter().find(|(of, _)| of == path)?;
        IndexRef::read(section.bytes())
    };
    let mut exact = true;
    for wanted in [true, false] {
        let expected: Vec<u32> = (0..)
            .zip(rows)
            .filter(|(_, attributes)| filter.evaluate(attributes) == Some(wanted))
            .map(|(row, _)| row)
            .collect();
        let truth = truth(filter, wanted, rows.len() as u32, &index_of);
        exact &= truth.is_exact();
        for row in truth.sure.iter_from(0) {
            assert!(expected.binary_search(&row).is_ok(), "{what}, {wanted}: row {row} is not one of {filter:?}");
            assert!(truth.may().contains(row), "{what}: what is sure may be");
        }
        let look = |row: u32| filter.evaluate(&rows[row as usize]) == Some(wanted);
        assert_eq!(settle(truth, look), expected, "{what}, {wanted}: {filter:?}");
    }
    exact
}

#[test]
fn indexes_say_what_looking_at_each_row_says_whatever_the_attributes_and_the_filter() {
    let mut exact = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        // Beyond 2,048 rows there are marks.
        let count = *random.pick(&[0, 1, 5, 64, 300, 300, 300, 4_500]);
        let rows: Vec<Vec<u8>> = (0..count).map(|_| attributes(&mut random)).collect();
        let kind = |random: &mut Random| *random.pick(&[IndexKind::Value, IndexKind::Substring]);
        let mut indexes: Vec<(Path, AlignedSection)> = Vec::new();
        for at in PATHS {
            if seed % 2 == 0 || random.chance(60) {
                indexes.push((path(at), index(&rows, at, kind(&mut random))));
            }
        }
        for number in 0..if count > 1_000 { 25 } else { 60 } {
            let filter = filter(&mut random, 0);
            exact += u32::from(check(&rows, &indexes, &filter, &format!("seed {seed}, filter {number}")));
        }
    }
    assert!(exact > 1_000, "most filters are covered, and it shows: {exact}");
}

/// Rows with numbers, skewed: a third have one value, others few or one row each.
fn skewed(count: u64) -> Vec<Vec<u8>> {
    let mut random = Random(9);
    let number = |random: &mut Random| match random.below(3) {
        0 => 500,
        1 => random.below(20) as i64 * 50,
        _ => random.below(count) as i64,
    };
    let row = |random: &mut Random| {
        let word = format!("word {:05} of the list", random.below(count / 4));
        let map = [("n".into(), Value::Int(number(random))), ("w".into(), Value::String(word))];
        attributes::encode(&Attributes::from(map)).unwrap()
    };
    (0..count).map(|_| row(&mut random)).collect()
}

#[test]
fn ranges_over_many_rows_are_exact_wherever_they_begin_and_end() {
    let rows = skewed(20_000);
    let indexes = vec![(path("n"), index(&rows, "n", IndexKind::Value))];
    let mut random = Random(1);
    for number in 0..60 {
        let mut end = || random.below(30_000) as i64 - 5_000;
        let (low, high) = (end(), end());
        let limit = |value, inclusive| Some(Limit { value: Value::Int(value), inclusive });
        let range = Range { low: limit(low, number % 2 == 0), high: limit(high, number % 3 == 0) };
        let exact = check(&rows, &indexes, &Filter::Range(path("n"), range), &format!("{low} to {high}"));
        assert!(exact);
    }
    for value in [500, 50, 0, 950, -1, 19_999] {
        let one = Filter::Equal(path("n"), Value::Int(value));
        let few = Filter::In(path("n"), (0..40).map(|n| Value::Int(value + n * 25)).collect());
        assert!(check(&rows, &indexes, &one, "one") && check(&rows, &indexes, &few, "few"));
    }
}

#[test]
fn texts_that_contain_something_are_found_with_grams_and_without() {
    let rows = skewed(8_000);
    for kind in [IndexKind::Value, IndexKind::Substring] {
        let indexes = vec![(path("w"), index(&rows, "w", kind))];
        for part in ["", "0", "01", "012", "word 0", "00123 of", "of the list", "lost", "word 01999 of the list", "zzz"]
        {
            let filter = Filter::HasText(path("w"), part.into());
            assert!(check(&rows, &indexes, &filter, part), "{kind:?} {part:?}");
        }
    }
}

#[test]
fn an_index_over_too_many_bytes_is_left_out_and_says_so() {
    let rows = skewed(1_000);
    let build = |path_of: &str, bytes_max| {
        let spec = IndexSpec { path: path(path_of), kind: IndexKind::Value };
        let attributes_of = |row: u32| &rows[row as usize][..];
        let section = build::build_within(&spec, 1_000, attributes_of, || false, bytes_max, 0).unwrap();
        describe(AlignedSection::new(&section).bytes()).map(|(found, rows, readable)| {
            assert_eq!((found, rows), (spec, 1_000));
            readable
        })
    };
    // At most 250 different texts, with a byte more each.
    assert_eq!(build("w", 250 * 23), Some(true));
    assert_eq!(build("w", 200 * 23), Some(false));
    assert_eq!(build("n", 1_000), Some(false));
}

#[test]
fn a_substring_index_of_too_many_pieces_does_without_them() {
    let rows = skewed(1_000);
    let spec = IndexSpec { path: path("w"), kind: IndexKind::Substring };
    let build = |grams_max| {
        let attributes_of = |row: u32| &rows[row as usize][..];
        let section = build::build_within(&spec, 1_000, attributes_of, || false, usize::MAX, grams_max).unwrap();
        vec![(path("w"), AlignedSection::new(&section))]
    };
    // At most 250 different texts of 22 bytes.
    let (with, without) = (build(250 * 20), build(1_000));
    assert!(without[0].1.len + 1_000 < with[0].1.len);
    for part in ["word 0012", "list", "nothing"] {
        let filter = Filter::HasText(path("w"), part.into());
        assert!(check(&rows, &with, &filter, part) && check(&rows, &without, &filter, part));
    }
}

/// Another way to say the same.
fn rewritten(random: &mut Random, filter: &Filter) -> Filter {
    let not = |filter: Filter| Filter::Not(Box::new(filter));
    let said = match filter {
        Filter::And(parts) if random.chance(70) => {
            let parts: Vec<Filter> = parts.iter().map(|part| not(rewritten(random, part))).collect();
            not(Filter::Or(parts))
        }
        Filter::Or(parts) => {
            let mut parts: Vec<Filter> = parts.iter().map(|part| rewritten(random, part)).collect();
            parts.reverse();
            Filter::Or(parts)
        }
        Filter::In(path, values) if !values.is_empty() => {
            Filter::Or(values.iter().map(|value| Filter::Equal(path.clone(), value.clone())).collect())
        }
        Filter::Equal(path, value) => Filter::In(path.clone(), vec![value.clone(); 2]),
        Filter::Range(path, Range { low: Some(low), high: Some(high) }) => {
            let end = |limit: &Limit| Some(Limit { value: limit.value.clone(), inclusive: !limit.inclusive });
            // Neither below the one nor above the other.
            let below = Filter::Range(path.clone(), Range { low: None, high: end(low) });
            let above = Filter::Range(path.clone(), Range { low: end(high), high: None });
            not(Filter::Or(vec![below, above]))
        }
        Filter::Not(part) => not(rewritten(random, part)),
        Filter::IsTrue(part) => Filter::IsTrue(Box::new(rewritten(random, part))),
        other => other.clone(),
    };
    match random.below(4) {
        0 => not(not(said)),
        1 => Filter::And(vec![said]),
        2 => Filter::Or(vec![said.clone(), said]),
        _ => said,
    }
}

/// Whether saying a range by its two ends apart is the same: one end that has no order with a value, and another that has,
/// make the whole unknown, but may decide an `or`. Then it is not.
fn differs_apart(filter: &Filter) -> bool {
    match filter {
        Filter::Range(_, Range { low: Some(low), high: Some(high) }) => {
            std::mem::discriminant(&low.value) != std::mem::discriminant(&high.value)
        }
        Filter::And(parts) | Filter::Or(parts) => parts.iter().any(differs_apart),
        Filter::Not(part) | Filter::IsTrue(part) => differs_apart(part),
        // Null is equal to nothing, and no part of a list of several.
        Filter::Equal(_, value) => *value == Value::Null,
        Filter::In(_, values) => values.contains(&Value::Null),
        _ => false,
    }
}

#[test]
fn equivalent_filters_take_the_same_rows() {
    let mut compared = 0;
    for seed in 0..12 {
        let mut random = Random(1_000 + seed);
        let rows: Vec<Vec<u8>> = (0..250).map(|_| attributes(&mut random)).collect();
        let indexes: Vec<(Path, AlignedSection)> =
            PATHS.iter().map(|at| (path(at), index(&rows, at, IndexKind::Value))).collect();
        let index_of = |path: &Path| {
            let (_, section) = indexes.iter().find(|(of, _)| of == path)?;
            IndexRef::read(section.bytes())
        };
        for number in 0..60 {
            let filter = filter(&mut random, 0);
            if differs_apart(&filter) {
                continue;
            }
            let other = rewritten(&mut random, &filter);
            let rows_of = |filter: &Filter| {
                let truth = truth(filter, true, rows.len() as u32, &index_of);
                settle(truth, |row| filter.takes(&rows[row as usize]))
            };
            assert_eq!(rows_of(&filter), rows_of(&other), "seed {seed}, filter {number}: {filter:?} and {other:?}");
            compared += 1;
        }
    }
    assert!(compared > 300, "{compared}");
}

#[test]
fn building_stops_when_told() {
    let spec = IndexSpec { path: path("a"), kind: IndexKind::Value };
    assert_eq!(build(&spec, 5, |_| &[], || true), None);
}

/// Asks everything of an index whose bytes may be anything.
fn exercise(section: &[u8], filters: &[Filter]) {
    let section = AlignedSection::new(section);
    let Some((_, rows, readable)) = describe(section.bytes()) else { return };
    // The segment's reader compares this with its own number of rows before it believes any of it.
    if !readable || rows > 10_000 {
        return;
    }
    for filter in filters {
        let truth = truth(filter, true, rows, &|_: &Path| IndexRef::read(section.bytes()));
        assert!(truth.sure.iter_from(0).take(100_000).count() < 100_000);
        assert!(truth.may().iter_from(3).take(100_000).count() < 100_000);
        truth.may().contains(7);
        truth.sure.len();
    }
}

#[test]
fn no_damage_to_an_index_makes_reading_it_panic() {
    let mut random = Random(5);
    let filters: Vec<Filter> = (0..12).map(|_| filter(&mut random, 3)).collect();
    for (count, kind) in [(40, IndexKind::Substring), (2_500, IndexKind::Value)] {
        let rows: Vec<Vec<u8>> = (0..count).map(|_| attributes(&mut random)).collect();
        let section = index(&rows, "a", kind);
        let section = section.bytes();
        let head = HEAD_BYTES + 8 * PARTS;
        let bits = (0..head * 8).chain((0..600).map(|_| random.below(section.len() as u64 * 8) as usize));
        for bit in bits.collect::<Vec<_>>() {
            let mut damaged = section.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            exercise(&damaged, &filters);
        }
        for _ in 0..200 {
            exercise(&section[..random.below(section.len() as u64) as usize], &filters);
        }
        for _ in 0..200 {
            let mut damaged = section.to_vec();
            let at = head + 4 * random.below((section.len() - head) as u64 / 4) as usize;
            damaged[at..at + 4].copy_from_slice(&[[0; 4], [255; 4], [255, 255, 0, 0]][random.below(3) as usize]);
            exercise(&damaged, &filters);
        }
    }
}

#[test]
fn the_format_never_changes() {
    let value = |value: Value| attributes::encode(&Attributes::from([("a".into(), value)])).unwrap();
    let rows = [
        value(Value::Int(3)),
        value(Value::Float(2.5)),
        value(Value::String("noun".into())),
        vec![],
        value(Value::Null),
        value(Value::List(vec![Value::Int(3), Value::Bool(true), Value::Int(3)])),
        value(Value::Timestamp(-1)),
        value(Value::String("nouns".into())),
    ];
    let spec = IndexSpec { path: path("a"), kind: IndexKind::Substring };
    let section = build(&spec, rows.len() as u32, |row| &rows[row as usize], || false).unwrap();
    let hex: String = section.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("../../golden/attribute-index-1.hex").trim());
}
