//! A segment gives back what was put in, and notices every change to its bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::directory::{Directory, Fault, MmapDirectory, RamDirectory};
use crate::graph::search::Scratch;
use crate::graph::{EF_DEFAULT, GraphOptions};
use crate::scan::Finish;

/// Rows in memory.
#[derive(Default)]
struct Table(Vec<Owned>);

#[derive(Clone, Default)]
struct Owned {
    key: Vec<u8>,
    begin: u64,
    deadline: u64,
    hash: u128,
    value: Option<Vec<u8>>,
    attributes: Vec<u8>,
    embeddings: Vec<Option<Vec<f32>>>,
}

impl Rows for Table {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn row(&self, i: usize) -> Row<'_> {
        let row = &self.0[i];
        Row {
            key: &row.key,
            begin: row.begin,
            deadline: row.deadline,
            hash: row.hash,
            value: row.value.as_deref(),
            attributes: &row.attributes,
        }
    }

    fn embedding(&self, i: usize, field: usize) -> Option<Cow<'_, [f32]>> {
        self.0[i].embeddings.get(field)?.as_deref().map(Cow::Borrowed)
    }
}

fn field(name: &str, dimension: u32, metric: Metric) -> FieldSpec {
    FieldSpec { name: name.to_string(), dimension, metric, half: false, coded: true }
}

const GRAPH: Option<GraphOptions> = Some(GraphOptions { m: 8, ef_construction: 64, threads: 2 });

fn spec(fields: &[FieldSpec], graph: Option<GraphOptions>) -> Spec<'_> {
    Spec { collection: 7, fields, indexes: &[], sparse: 0, texts: &[], graph, hash_seed: 99 }
}

fn seal(directory: &dyn Directory, name: &str, spec: &Spec<'_>, table: &Table) -> Segment {
    let written = write(directory, name, spec, table, &AtomicBool::new(false)).expect("writes");
    let segment = Segment::open(directory, name).expect("opens");
    assert_eq!(written.rows, segment.len());
    assert_eq!(written.file_bytes, segment.file_bytes());
    assert_eq!(written.file_bytes, directory.len(name).expect("has a length"));
    segment
}

/// `keys` keys of which every third has several versions, with all kinds of presence and absence.
fn mixed(keys: u32) -> (Vec<FieldSpec>, Table) {
    let fields = vec![
        field("text", 5, Metric::Cosine),
        FieldSpec { half: true, coded: false, ..field("image", 16, Metric::SquaredL2) },
        field("nobody has it", 3, Metric::Dot),
    ];
    let mut table = Table::default();
    for i in 0..keys {
        let versions = if i % 3 == 0 { 1 + i % 4 } else { 1 };
        for version in (0..versions).rev() {
            let mut text: Vec<f32> = (0..5).map(|c| ((i * 7 + version + c) % 11) as f32 - 4.5).collect();
            Metric::Cosine.prepare(&mut text).expect("is a good embedding");
            let image = (0..16).map(|c| ((i + c * version) % 13) as f32).collect();
            table.0.push(Owned {
                key: format!("key-{i:05}").into_bytes(),
                begin: u64::from(i + 1000 * version),
                deadline: u64::from(i % 5) << 40,
                hash: u128::from(i) << 100 | u128::from(version),
                value: match i % 4 {
                    0 => None,
                    1 => Some(Vec::new()),
                    _ => Some(vec![i as u8; (i % 300) as usize]),
                },
                attributes: vec![version as u8; (i % 7) as usize],
                embeddings: vec![(i % 5 != 0).then_some(text), (i % 2 == 0).then_some(image)],
            });
        }
    }
    (fields, table)
}

fn check_equal(segment: &Segment, table: &Table) {
    assert_eq!(segment.len() as usize, table.0.len());
    let mut keys: BTreeMap<&[u8], (u32, u32)> = BTreeMap::new();
    for (i, row) in (0u32..).zip(&table.0) {
        assert_eq!(segment.key(i), row.key);
        assert_eq!(segment.begin(i), row.begin);
        assert_eq!(segment.deadline(i), row.deadline);
        assert_eq!(segment.hash(i), row.hash);
        assert_eq!(segment.value(i), row.value.as_deref());
        assert_eq!(segment.attributes(i), row.attributes);
        for number in 0..segment.fields().len() {
            assert_eq!(segment.embedding(number, i), table.embedding(i as usize, number));
        }
        keys.entry(&row.key).or_insert((i, i)).1 = i + 1;
    }
    for (key, (first, end)) in &keys {
        assert_eq!(segment.find(key), *first..*end);
        assert_eq!(segment.lower_bound(key), *first);
        let after = [*key, &[0]].concat();
        assert!(segment.find(&after).is_empty());
        assert_eq!(segment.lower_bound(&after), *end);
    }
    assert!(segment.find(b"").is_empty() && segment.find(b"no such key").is_empty());
    // What is not there is nothing, and no panic.
    for row in [segment.len(), u32::MAX] {
        assert_eq!((segment.key(row), segment.attributes(row)), (&[][..], &[][..]));
        assert_eq!((segment.value(row), segment.embedding(0, row)), (None, None));
        assert_eq!((segment.begin(row), segment.deadline(row), segment.hash(row)), (0, 0, 0));
    }
    assert_eq!(segment.embedding(usize::MAX, 0), None);
}

#[test]
fn a_segment_gives_back_what_was_put_in() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let directories: [&dyn Directory; 2] = [&MmapDirectory::open(place.path()).expect("opens"), &RamDirectory::new()];
    for directory in directories {
        for (i, keys) in [0, 1, 2, 50, 1000].into_iter().enumerate() {
            for graph in [None, GRAPH] {
                let (fields, table) = mixed(keys);
                let name = format!("{i}-{}", graph.is_some());
                let segment = seal(directory, &name, &spec(&fields, graph), &table);
                assert_eq!(segment.fields(), fields);
                assert_eq!(segment.collection(), 7);
                assert_eq!(segment.has_graph(1), graph.is_some());
                assert!(!segment.has_graph(3));
                segment.keep_cold();
                segment.keep_hot();
                check_equal(&segment, &table);
            }
        }
    }
}

#[test]
fn a_cache_segment_needs_no_embeddings() {
    let (_, table) = mixed(100);
    let segment = seal(&RamDirectory::new(), "a", &spec(&[], GRAPH), &table);
    check_equal(&segment, &table);
}

#[test]
fn a_segment_outlives_its_name() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let directory = MmapDirectory::open(place.path()).expect("opens");
    let (fields, table) = mixed(100);
    let segment = seal(&directory, "a", &spec(&fields, GRAPH), &table);
    directory.remove("a").expect("removes");
    check_equal(&segment, &table);
}

#[test]
fn the_graph_finds_the_rows_that_a_scan_finds() {
    let (fields, table) = mixed(1000);
    let directory = RamDirectory::new();
    // Several threads build a graph that depends on who comes first, and most embeddings here are equal to others, of which a walk may
    // then miss a few.
    let graph = GRAPH.map(|graph| GraphOptions { threads: 1, ..graph });
    let segment = seal(&directory, "a", &spec(&fields, graph), &table);
    let flat = seal(&directory, "b", &spec(&fields, None), &table);
    let mut scratch = Scratch::new();
    let mut find = |segment: &Segment, field, query: &[f32], effort, every: u32| {
        let ask = Search { field, query, k: 10, effort };
        let finish = segment.nearest(&ask, |row| row % every == 0, || true, &mut scratch).expect("fits the field");
        assert_eq!(finish, Finish::Complete);
        assert!(scratch.distances() > 0);
        scratch.hits().to_vec()
    };
    let beam = Effort::Graph { ef: EF_DEFAULT, budget: None };
    for number in [0, 1] {
        for row in (0..segment.len()).step_by(13) {
            let Some(query) = segment.embedding(number, row).map(Cow::into_owned) else {
                continue;
            };
            for every in [1, 3, 50] {
                let exact = find(&segment, number, &query, Effort::Exact, every);
                assert_eq!(find(&flat, number, &query, beam, every), exact);
                let graph = find(&segment, number, &query, beam, every);
                assert!(graph.iter().all(|hit| hit.row % every == 0));
                // Many embeddings are equal, so compare distances.
                let distances =
                    |hits: &[crate::scan::Hit]| -> Vec<f32> { hits.iter().map(|hit| hit.distance).collect() };
                assert_eq!(distances(&graph), distances(&exact), "row {row} every {every}");
                let kernel = fields[number].metric.kernel();
                for hit in &graph {
                    let embedding = segment.embedding(number, hit.row).expect("has an embedding");
                    let off = (kernel(&query, &embedding) - hit.distance).abs();
                    assert!(off <= 1e-5 * (1.0 + hit.distance), "row {row}: off by {off}");
                }
            }
        }
    }
}

#[test]
fn a_query_that_does_not_fit_is_an_error() {
    let (fields, table) = mixed(50);
    let segment = seal(&RamDirectory::new(), "a", &spec(&fields, GRAPH), &table);
    for (field, query) in [(0, &[1.0; 4][..]), (0, &[]), (3, &[1.0; 5])] {
        let ask = Search { field, query, k: 1, effort: Effort::Exact };
        let refused = segment.nearest(&ask, |_| true, || true, &mut Scratch::new());
        assert!(matches!(refused, Err(SegmentError::Query { .. })));
    }
    let ask = Search { field: 2, query: &[1.0; 3], k: 5, effort: Effort::Graph { ef: 64, budget: None } };
    let mut scratch = Scratch::new();
    let finish = segment.nearest(&ask, |_| true, || true, &mut scratch).expect("fits");
    assert_eq!((finish, scratch.hits().len()), (Finish::Complete, 0));
}

/// A small segment with a bit of everything.
fn small() -> (RamDirectory, Vec<u8>) {
    let directory = RamDirectory::new();
    let (fields, table) = mixed(9);
    let graph = Some(GraphOptions { m: 8, ef_construction: 64, threads: 1 });
    seal(&directory, "a", &spec(&fields[..1], graph), &table);
    let bytes = directory.bytes("a").expect("is there");
    (directory, bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn version_2_never_changes() {
    let (_, mut bytes) = small();
    // What codes hold in the rest of their lines is not a part of the version: whoever does not know of it passes it over.
    forget_what_is_beside(&mut bytes);
    assert_eq!(hex(&bytes[..64]), GOLDEN_HEADER.replace([' ', '\n'], ""));
    assert_eq!(bytes.len(), GOLDEN_BYTES);
    assert_eq!(xxhash_rust::xxh3::xxh3_128(&bytes), GOLDEN_HASH);
}

/// Writes the first field's codes, of 5 components, as they were written before they held what is beside them.
fn forget_what_is_beside(bytes: &mut [u8]) {
    let codes = section_of(bytes, Kind::Codes);
    assert!(bytes[codes.clone()].chunks(64).all(|code| code[56..] != [128; 8]));
    bytes[codes].chunks_mut(64).for_each(|code| code[5..].fill(128));
    sign(bytes);
}

/// Where the first section of a kind lies.
fn section_of(bytes: &[u8], kind: Kind) -> std::ops::Range<usize> {
    let count = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes")) as usize;
    let mut entries = bytes[HEADER_BYTES..].chunks(ENTRY_BYTES).take(count);
    let entry = entries.find(|entry| entry[..2] == (kind as u16).to_le_bytes()).expect("is there");
    let number = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().expect("8 bytes")) as usize;
    number(8)..number(8) + number(16)
}

#[test]
fn codes_that_hold_nothing_but_codes_find_the_same() {
    let directory = RamDirectory::new();
    let (fields, table) = mixed(200);
    let segment = seal(&directory, "a", &spec(&fields[..1], GRAPH), &table);
    let mut bytes = directory.bytes("a").expect("is there");
    forget_what_is_beside(&mut bytes);
    let old = open_damaged(&directory, &bytes).expect("opens");
    for (row, effort) in
        (0..segment.len()).flat_map(|row| [Effort::Codes, Effort::Graph { ef: 10, budget: None }].map(|e| (row, e)))
    {
        let Some(query) = segment.embedding(0, row) else { continue };
        let ask = Search { field: 0, query: &query, k: 5, effort };
        let [found, found_in_old] = [&segment, &old].map(|segment| {
            let mut scratch = Scratch::new();
            let finish = segment.nearest(&ask, |_| true, || true, &mut scratch).expect("fits");
            (finish, scratch.hits().to_vec())
        });
        assert_eq!(found, found_in_old, "row {row}, {effort:?}");
    }
}

const GOLDEN_HEADER: &str = "
    4c4f4349 53454700 02000000 13000000
    00400100 00000000 0e000000 00000000
    63000000 00000000 07000000 00000000
    00000000 00000000 dab3cfb5 e8724fdf";
const GOLDEN_BYTES: usize = 81_920;
const GOLDEN_HASH: u128 = 29_444_583_202_013_475_408_505_636_346_790_700_376;

fn open_damaged(directory: &RamDirectory, bytes: &[u8]) -> Result<Segment, SegmentError> {
    directory.put("b", bytes);
    Segment::open(directory, "b")
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (directory, mut bytes) = small();
    for at in 0..bytes.len() {
        // In the padding one bit of each byte will do: a crc knows no difference.
        let bits = if bytes[at] == 0 && at >= 4096 { at % 8..at % 8 + 1 } else { 0..8 };
        for bit in bits {
            bytes[at] ^= 1 << bit;
            let opened = open_damaged(&directory, &bytes);
            assert!(
                matches!(opened, Err(SegmentError::Corrupt { .. } | SegmentError::NotASegment(_))),
                "byte {at} bit {bit}"
            );
            bytes[at] ^= 1 << bit;
        }
    }
    open_damaged(&directory, &bytes).expect("is whole again");
}

#[test]
fn every_cut_is_noticed() {
    let (directory, bytes) = small();
    for len in (0..bytes.len()).filter(|len| *len < 5000 || len % 61 == 0 || len % 4096 < 3) {
        let opened = open_damaged(&directory, &bytes[..len]);
        assert!(matches!(opened, Err(SegmentError::Corrupt { .. } | SegmentError::NotASegment(_))), "{len} bytes");
    }
    for extra in [1, 4095, 4096] {
        let longer = [&bytes[..], &vec![0; extra]].concat();
        let opened = open_damaged(&directory, &longer);
        assert!(matches!(opened, Err(SegmentError::Corrupt { offset: 16, .. })), "{extra} more");
    }
}

#[test]
fn every_lost_sector_is_noticed() {
    let (directory, bytes) = small();
    for sector in (0..bytes.len()).step_by(512) {
        let mut damaged = bytes.clone();
        damaged[sector..sector + 512].fill(0);
        if damaged == bytes {
            continue;
        }
        let opened = open_damaged(&directory, &damaged);
        assert!(
            matches!(opened, Err(SegmentError::Corrupt { .. } | SegmentError::NotASegment(_))),
            "sector at {sector}"
        );
    }
}

/// Puts right checksums over whatever the bytes say now.
pub(crate) fn sign(bytes: &mut [u8]) {
    let count = u32::from_le_bytes(bytes[12..16].try_into().expect("4 bytes")) as usize;
    let table_end = (HEADER_BYTES + count * ENTRY_BYTES).next_multiple_of(PAGE as usize);
    for at in (0..count).map(|i| HEADER_BYTES + i * ENTRY_BYTES) {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let start = number(at + 8) as usize;
        let end = (start.saturating_add(number(at + 16) as usize)).checked_next_multiple_of(4096);
        if let Some(section) = bytes.get(start..end.unwrap_or(0)) {
            let crc = crc32fast::hash(section).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&crc);
        }
    }
    let crc = crc32fast::hash(&bytes[HEADER_BYTES..table_end]).to_le_bytes();
    bytes[56..60].copy_from_slice(&crc);
    let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
}

#[test]
fn a_newer_version_is_not_taken_for_damage() {
    let (directory, mut bytes) = small();
    bytes[8] = 3;
    sign(&mut bytes);
    let opened = open_damaged(&directory, &bytes);
    assert!(matches!(opened, Err(SegmentError::UnknownVersion { version: 3, .. })));
    bytes[8] = 0;
    sign(&mut bytes);
    assert!(matches!(open_damaged(&directory, &bytes), Err(SegmentError::Corrupt { .. })));
}

#[test]
fn a_foreign_file_is_not_taken_for_a_segment() {
    let directory = RamDirectory::new();
    for bytes in [&b"x"[..], b"LOCISEF\0 and more", &[0; 5000], b"\x7fELF"] {
        assert!(matches!(open_damaged(&directory, bytes), Err(SegmentError::NotASegment(_))));
    }
}

#[test]
fn nonsense_under_right_checksums_opens_or_not_but_never_panics() {
    let (directory, bytes) = small();
    let mut refused = 0;
    let mut state = 5u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for _ in 0..20_000 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + next() % 3 {
            // In the header, the table, or the used beginning of a section.
            let page = next() % (bytes.len() / 4096);
            let at = page * 4096 + next() % 640;
            damaged[at] = [0, 1, 0x7f, 0xff, next() as u8][next() % 5];
        }
        damaged[..8].copy_from_slice(&MAGIC);
        damaged[8..12].copy_from_slice(&VERSION.to_le_bytes());
        if usize::from(damaged[13]) + usize::from(damaged[14]) + usize::from(damaged[15]) > 0 {
            continue;
        }
        sign(&mut damaged);
        let Ok(segment) = open_damaged(&directory, &damaged) else {
            refused += 1;
            continue;
        };
        let mut scratch = Scratch::new();
        for row in 0..segment.len().min(100) {
            let key = segment.key(row).to_vec();
            segment.find(&key);
            segment.lower_bound(&key);
            let _ = (segment.value(row), segment.attributes(row), segment.hash(row));
            let query = segment.embedding(0, row).unwrap_or(Cow::Borrowed(&[1.0; 5]));
            for effort in [Effort::Exact, Effort::Graph { ef: 10, budget: None }] {
                let ask = Search { field: 0, query: &query, k: 3, effort };
                let _ = segment.nearest(&ask, |_| true, || true, &mut scratch);
            }
        }
    }
    assert!(refused > 1000, "only {refused} were refused");
}

#[test]
fn a_failing_disk_is_a_typed_error_and_leaves_no_file() {
    let (fields, table) = mixed(50);
    let spec = spec(&fields, GRAPH);
    let writes = {
        let directory = RamDirectory::new();
        seal(&directory, "a", &spec, &table);
        directory.writes()
    };
    let never = AtomicBool::new(false);
    for nth in 0..writes {
        let directory = RamDirectory::new();
        directory.fail_write(nth, Fault::Full);
        let failed = write(&directory, "a", &spec, &table, &never);
        let full = matches!(failed, Err(SegmentError::Directory(DirectoryError::Full(_))));
        assert!(full, "write {nth}: {failed:?}");
        assert!(directory.is_empty().expect("lists"));
        seal(&directory, "a", &spec, &table);
    }
    let directory = RamDirectory::new();
    directory.fail_sync(0, Fault::Broken);
    let failed = write(&directory, "a", &spec, &table, &never);
    assert!(matches!(failed, Err(SegmentError::Directory(DirectoryError::Io { .. }))));
    assert!(directory.is_empty().expect("lists"));
}

#[test]
fn what_is_not_a_segment_is_not_written() {
    let directory = RamDirectory::new();
    let never = AtomicBool::new(false);
    let (fields, table) = mixed(20);
    let refused = |change: &dyn Fn(&mut Vec<Owned>)| {
        let mut rows = table.0.clone();
        change(&mut rows);
        let failed = write(&directory, "a", &spec(&fields, None), &Table(rows), &never);
        assert!(directory.is_empty().expect("lists"));
        match failed {
            Err(SegmentError::Rows { row, .. }) => row,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|rows| rows.swap(1, 9)), 2);
    // Row 3 is the newer version of row 4's key.
    assert_eq!(refused(&|rows| rows[5].begin = rows[4].begin), 5);
    assert_eq!(refused(&|rows| rows[1].embeddings[0] = Some(vec![1.0; 4])), 1);
    for bad in [0, DIMENSION_MAX + 1] {
        let fields = [field("a", bad, Metric::Dot)];
        let failed = write(&directory, "a", &spec(&fields, None), &table, &never);
        assert!(matches!(failed, Err(SegmentError::Spec { .. })));
    }
    let cancelled = AtomicBool::new(true);
    let failed = write(&directory, "a", &spec(&fields, GRAPH), &table, &cancelled);
    assert!(matches!(failed, Err(SegmentError::Cancelled(_))));
    let bad = Some(GraphOptions { m: 1, ef_construction: 10, threads: 1 });
    let failed = write(&directory, "a", &spec(&fields, bad), &table, &never);
    assert!(matches!(failed, Err(SegmentError::Graph { .. })));
    assert!(directory.is_empty().expect("lists"));
}

#[test]
fn a_search_that_finds_nothing_to_accept_can_still_be_stopped() {
    let (fields, table) = mixed(1000);
    let segment = seal(&RamDirectory::new(), "a", &spec(&fields, None), &table);
    let query = [1.0; 5];
    for effort in [Effort::Exact, Effort::Codes] {
        let ask = Search { field: 0, query: &query, k: 3, effort };
        let mut scratch = Scratch::new();
        let stopped = segment.nearest(&ask, |_| false, || false, &mut scratch).expect("fits the field");
        assert_eq!(stopped, Finish::Stopped);
        let all = 0..segment.len();
        let stopped = segment.nearest_of(&ask, all, |_| false, || false, &mut scratch).expect("fits the field");
        assert_eq!(stopped, Finish::Stopped);
    }
}

#[test]
fn a_walk_past_rows_can_be_stopped_before_all_rows_are_counted() {
    let (fields, table) = mixed(1000);
    let segment = seal(&RamDirectory::new(), "a", &spec(&fields, GRAPH), &table);
    let ask = Search { field: 0, query: &[1.0; 5], k: 3, effort: Effort::Graph { ef: 64, budget: None } };
    let mut scratch = Scratch::new();
    let mut counted = 0;
    let rows = (0..segment.len()).inspect(|_| counted += 1);
    let stopped = segment.nearest_past(&ask, rows, || false, &mut scratch).expect("fits the field");
    assert_eq!((stopped, scratch.hits().len()), (Some(Finish::Stopped), 0));
    assert!(counted < segment.len() / 2, "{counted} of {}", segment.len());
    let whole = segment.nearest_past(&ask, 0..segment.len(), || true, &mut scratch).expect("fits the field");
    assert_eq!((whole, scratch.hits().len()), (Some(Finish::Complete), 3));
}
