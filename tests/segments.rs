//! Segments that lie: one part of a whole segment says something else, and every checksum is right. No such file makes
//! opening, reading, searching, checking or merging it panic or hang; it is refused by name, or there are answers.
//!
//! ```text
//!   a store's segment --> taken apart --> numbers, lengths, sections changed --> put together, signed
//!                                                                                   |
//!       opened; read; searched in every way; written over, linked anew, merged  <---'
//! ```
//!
//! `LOCI_FUZZ_SECONDS=60` makes the documented run of a minute for each kind of segment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use loci_index::ask::{Ask, Decay, Example, Group, Mmr, Query, Within};
use loci_index::attributes::{self, Attributes, Value};
use loci_index::command::{
    Action, Change, Codes, Command, Content, EmbeddingSpec, Entry, Envelope, IndexKind, IndexSpec, Language, Origin,
    Outcome, Schema, SparseSpec, Storage, TextSpec,
};
use loci_index::directory::{Directory, RamDirectory};
use loci_index::distance::Metric;
use loci_index::filter::{Filter, Limit, Range};
use loci_index::graph::GraphOptions;
use loci_index::sparse::SparseVector;
use loci_index::store::{Store, StoreOptions};
use loci_index::view::{CollectionView, Effort, ScanRequest, SearchRequest, SearchScratch};
use loci_tests::chance::Chance;
use loci_tests::fuzz::{self, Mutate, Target};
use loci_tests::say;
use loci_tests::segment_file::SegmentFile;

const COLLECTION: u64 = 1;
/// Longer than any key of an attribute index.
const LONG_TEXT: usize = 2_000;
/// Nothing that is asked here takes so many steps.
const PATIENCE: u32 = 1_000_000;

fn options() -> StoreOptions {
    let graph = GraphOptions { m: 4, ef_construction: 32, threads: 1 };
    StoreOptions { graph_rows_min: 16, graph, ..StoreOptions::default() }
}

fn index(path: &str, kind: IndexKind) -> IndexSpec {
    IndexSpec { path: vec![path.into()], kind }
}

fn indexes() -> Vec<IndexSpec> {
    let names = ["number", "ten", "list", "mixed", "nothing"];
    let mut indexes: Vec<_> = names.map(|name| index(name, IndexKind::Value)).into();
    indexes.push(index("name", IndexKind::Substring));
    indexes
}

/// Every way to keep and to compare embeddings, with sparse ones, texts and indexes.
fn whole_schema() -> Schema {
    let embedding = |name: &str, dimension, metric: Metric, storage, codes| EmbeddingSpec {
        storage,
        codes,
        ..EmbeddingSpec::new(name, dimension, metric.code())
    };
    let text = |language| TextSpec { path: vec!["name".into()], language };
    Schema {
        embeddings: vec![
            embedding("coded", 8, Metric::Cosine, Storage::F32, Codes::Int8),
            embedding("half", 6, Metric::SquaredL2, Storage::F16, Codes::Int8),
            embedding("half-uncoded", 5, Metric::Dot, Storage::F16, Codes::None),
            embedding("uncoded", 4, Metric::SquaredL2, Storage::F32, Codes::None),
        ],
        sparse: vec![SparseSpec { name: "words".into() }, SparseSpec { name: "seldom".into() }],
        texts: vec![text(Language::English)],
        indexes: indexes(),
        ..Schema::default()
    }
}

fn record_attributes(number: u64) -> Vec<u8> {
    let mixed = match number % 6 {
        0 => Value::Null,
        1 => Value::Bool(number.is_multiple_of(4)),
        2 => Value::Float(number as f64 / 3.0),
        3 => Value::Timestamp(1_700_000_000_000_000 + number as i64),
        4 => Value::String("x".repeat(if number == 4 { LONG_TEXT } else { 3 })),
        _ => Value::List(vec![Value::Int(number as i64 % 4), Value::String("y".into())]),
    };
    let mut all = Attributes::from([
        ("number".into(), Value::Int(number as i64)),
        ("ten".into(), Value::Int(number as i64 % 10)),
        ("mixed".into(), mixed),
        ("when".into(), Value::Timestamp(1_700_000_000_000_000 + number as i64)),
    ]);
    if !number.is_multiple_of(3) {
        all.insert("name".into(), Value::String(format!("the name of number{} is common", number % 70)));
        all.insert("list".into(), Value::List(vec![Value::Int(number as i64 % 5), Value::String("element".into())]));
    }
    attributes::encode(&all).unwrap()
}

fn content(number: u64, schema: &Schema) -> Content {
    let mut chance = Chance::new(number);
    let mut embeddings = Vec::new();
    for (field, spec) in (0..).zip(&schema.embeddings) {
        let mut components: Vec<f32> = (0..spec.dimension).map(|_| chance.component()).collect();
        if spec.storage == Storage::F16 {
            components.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        }
        Metric::from_code(spec.metric).unwrap().prepare(&mut components).unwrap();
        if number % 7 != u64::from(field) {
            embeddings.push((field, components));
        }
    }
    let sparse = if schema.sparse.is_empty() || number.is_multiple_of(4) {
        vec![]
    } else {
        vec![(0, vec![(number as u32 % 5, 1.0), (7 + number as u32 % 40, -0.5), (1_000 + number as u32, 2.0)])]
    };
    Content {
        value: (!number.is_multiple_of(5)).then(|| vec![number as u8; number as usize % 50]),
        attributes: record_attributes(number),
        embeddings,
        deadline: if number.is_multiple_of(9) { 1 << 40 } else { 0 },
        sparse,
        ..Content::default()
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("key {number:04}").into_bytes()
}

fn entry(commands: Vec<Command>) -> Vec<u8> {
    let commands = commands.into_iter().map(|command| Envelope { origin: Origin::default(), command }).collect();
    Entry { clock: 1_000, commands }.encode()
}

fn write(changes: impl Iterator<Item = (u64, Action)>) -> Vec<u8> {
    let change = |(number, action)| Change { collection: COLLECTION, key: key(number), action };
    entry(vec![Command::Write { conditions: vec![], changes: changes.map(change).collect() }])
}

/// Runs jobs until there are none, or until there have been enough for a store that keeps failing. Says what failed.
fn run_jobs(store: &mut Store, directory: &RamDirectory) -> String {
    let mut failed = String::new();
    for _ in 0..8 {
        let Some(job) = store.next_job() else { break };
        let done = store.install(job.run(directory, &AtomicBool::new(false)));
        failed += &done.error.map_or(String::new(), |error| format!(" {error}"));
    }
    failed
}

/// The files of a store whose records are all in one segment.
struct Files {
    all: BTreeMap<String, Vec<u8>>,
    segment: String,
    records: u64,
}

impl Files {
    fn new(schema: &Schema, records: u64) -> Files {
        let directory = Arc::new(RamDirectory::new());
        let mut store = Store::create(directory.clone(), options(), [7; 32], 0).unwrap();
        let namespace = String::from("default");
        let create =
            Command::CreateCollection { namespace: namespace.clone(), name: "c".into(), schema: schema.clone() };
        let entries = [
            entry(vec![Command::CreateNamespace { name: namespace }, create]),
            write((0..records).map(|number| (number, Action::Put(content(number, schema))))),
        ];
        for (index, entry) in (1..).zip(&entries) {
            let outcomes = store.apply(index, entry).unwrap();
            assert!(!outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))), "{outcomes:?}");
        }
        for _ in 0..3 {
            store.request_checkpoint();
            assert_eq!(run_jobs(&mut store, &directory), "");
        }
        let names = directory.list().unwrap();
        let all: BTreeMap<_, _> =
            names.into_iter().map(|name| (name.clone(), directory.bytes(&name).unwrap())).collect();
        let segments: Vec<&String> = all.keys().filter(|name| name.starts_with("segment-")).collect();
        let [segment] = segments[..] else { panic!("{segments:?}") };
        Files { segment: segment.clone(), all, records }
    }

    /// Opens the store with other bytes in place of its segment, and does everything with it.
    fn use_with(&self, segment: &[u8]) -> String {
        let directory = Arc::new(RamDirectory::new());
        for (name, bytes) in &self.all {
            directory.put(name, if *name == self.segment { segment } else { bytes });
        }
        let mut store = match Store::open(directory.clone(), options()) {
            Ok(store) => store,
            Err(error) => return error.to_string(),
        };
        let seen = look(&store, self.records);
        // It is written over, linked anew and merged with what is new.
        let view = store.view();
        let schema = view.collections().next().expect("the manifest has it").schema().clone();
        let linked = view.collections().next().map(|collection| collection.graph_segments()).unwrap_or_default();
        drop(view);
        linked.iter().for_each(|&file| store.request_relink(file));
        let mut failed = if self.records.is_multiple_of(2) { run_jobs(&mut store, &directory) } else { String::new() };
        let changes = (0..self.records + 30).filter_map(|number| match number % 3 {
            _ if number >= self.records => Some((number, Action::Put(content(number, &schema)))),
            0 => Some((number, Action::Delete)),
            1 if number % 2 == 0 => Some((number, Action::Put(content(number + 1_000, &schema)))),
            _ => None,
        });
        let applied = store.apply(store.applied() + 1, &write(changes)).is_ok();
        store.request_checkpoint();
        failed += &run_jobs(&mut store, &directory);
        let after = look(&store, self.records);
        format!("{seen}; written {applied}{failed}; {after}")
    }
}

fn filters() -> Vec<Filter> {
    let at = |name: &str| vec![name.to_owned()];
    let limit = |value| Some(Limit { value, inclusive: true });
    let between = |name, low, high| Filter::Range(at(name), Range { low: limit(low), high: limit(high) });
    vec![
        Filter::Equal(at("ten"), Value::Int(3)),
        Filter::In(at("number"), (0..400).step_by(3).map(Value::Int).collect()),
        between("number", Value::Int(5), Value::Int(200)),
        between("number", Value::Int(700), Value::Int(2_100)),
        between("ten", Value::Int(2), Value::Int(8)),
        between("name", Value::String("a".into()), Value::String("the name of number5".into())),
        Filter::Prefix(at("name"), "the name of number1".into()),
        Filter::HasText(at("name"), "number2".into()),
        Filter::HasText(at("name"), "e ".into()),
        Filter::HasElement(at("list"), Value::Int(2)),
        Filter::HasElement(at("mixed"), Value::String("y".into())),
        Filter::Equal(at("mixed"), Value::String("x".repeat(LONG_TEXT))),
        Filter::Not(Box::new(Filter::Equal(at("mixed"), Value::Bool(true)))),
        Filter::IsTrue(Box::new(between("mixed", Value::Float(0.0), Value::Float(9.0)))),
        Filter::Or(vec![Filter::IsNull(at("mixed")), Filter::Equal(at("mixed"), Value::Timestamp(3))]),
        Filter::And(vec![Filter::Exists(at("name")), Filter::Not(Box::new(Filter::Exists(at("nothing"))))]),
    ]
}

/// Reads and searches everything there is, in every way. Says roughly what there was, and what was refused.
fn look(store: &Store, records: u64) -> String {
    let view = store.view();
    let mut scratch = SearchScratch::new();
    let (mut said, mut bytes) = (String::new(), 0);
    for collection in view.collections() {
        for number in (0..records).step_by(7) {
            let Some(record) = collection.get(&key(number), 0) else { continue };
            bytes += record.value().map_or(0, <[u8]>::len) + record.attributes().len();
            bytes += attributes::decode(record.attributes()).map_or(0, |attributes| attributes.len());
            bytes += (0..5).filter_map(|field| record.embedding(field)).map(|found| found.len()).sum::<usize>();
            bytes += (0..3).filter_map(|field| record.sparse(field)).map(<[u8]>::len).sum::<usize>();
        }
        let all = filters();
        for filter in all.iter().map(Some).chain([None]) {
            let request = ScanRequest { after: None, prefix: None, filter, limit: 99, bytes_max: 1 << 20, now: 0 };
            let scanned = collection.scan(&request, &mut || true);
            bytes += scanned.map_or(0, |page| page.records.iter().map(|record| record.key().len()).sum());
            bytes += collection.count(filter, 0, &mut || true).map_or(0, |count| count as usize);
            said += &near(&collection, filter, &mut scratch);
        }
        said += &words(&collection, &mut scratch);
        for file in collection.graph_segments() {
            let checked = collection.check_found(file, 0..u32::MAX, &mut scratch, &mut || true);
            said +=
                &checked.map_or_else(|error| error.to_string(), |checked| format!(" graph {}", checked.checked > 0));
        }
        said += if collection.stats().segments.is_empty() { " empty" } else { " sealed" };
    }
    let digest = store.digest_from_records();
    said += if digest == store.digest() { " whole" } else { " other" };
    if bytes > 0 { said + " read" } else { said }
}

fn near(collection: &CollectionView<'_>, filter: Option<&Filter>, scratch: &mut SearchScratch) -> String {
    let mut refused = String::new();
    for (field, spec) in (0..).zip(&collection.schema().embeddings) {
        let query = vec![0.5; spec.dimension as usize];
        for (k, effort) in [(10, Effort::default()), (3, Effort::Exact), (500, Effort::Ef(20))] {
            // Every other one explains itself, which counts on the way.
            if k == 10 {
                scratch.explain(|| 0);
            }
            let request = SearchRequest { field, query: &query, k, effort, filter, max_distance: None, now: 0 };
            match collection.search(&request, scratch, &mut || true) {
                Ok(found) => assert!(found.hits.len() <= k),
                Err(error) => refused += &error.to_string(),
            }
            let _ = scratch.explanation();
        }
    }
    refused
}

/// What is asked beside nearness, and what is made of hits.
fn words(collection: &CollectionView<'_>, scratch: &mut SearchScratch) -> String {
    let weights = SparseVector::new((0..50).map(|dimension| (dimension, 1.0)).collect()).unwrap();
    let at = |name: &str| vec![name.to_owned()];
    let ask = |query| Ask {
        query,
        k: 10,
        effort: Effort::default(),
        filter: None,
        within: Within::default(),
        decay: None,
        mmr: None,
        group: None,
        now: 0,
    };
    let example = |number| Query::Near { field: 0, example: Example::Key(key(number)) };
    let decay = Decay { path: at("when"), half_life: 9, share: 0.5, now: 1_700_000_000_001_000, candidates: 100 };
    let asks = [
        ask(Query::Sparse { field: 0, vector: weights.clone() }),
        ask(Query::Sparse { field: 1, vector: weights }),
        ask(Query::Text { text: 0, question: "the common name of number5 and number60, numbers".into() }),
        ask(example(1)),
        Ask { decay: Some(decay), ..ask(example(2)) },
        Ask { mmr: Some(Mmr { lambda: 0.5, candidates: 40, field: 0 }), ..ask(example(3)) },
        Ask { group: Some(Group { path: at("ten"), hits: 2 }), ..ask(example(4)) },
    ];
    let mut refused = String::new();
    for ask in &asks {
        let mut asked = 0;
        let mut keep_going = || {
            asked += 1;
            assert!(asked < PATIENCE, "it does not come to an end: {ask:?}");
            true
        };
        refused +=
            &collection.ask(ask, scratch, &mut keep_going).err().map_or(String::new(), |error| error.to_string());
    }
    refused
}

/// Sections of these kinds must have been read after they were changed, and opened all the same, or what they lead to was
/// never tried. Others, such as offsets, have only one right form.
fn check_lies(name: &str, schema: &Schema, records: u64, believed: &[u16]) {
    let files = Files::new(schema, records);
    let whole = files.all[&files.segment].clone();
    let taken_apart = SegmentFile::decode(&whole).expect("it is whole");
    assert_eq!(taken_apart.encode(), whole, "the test knows the format");
    assert_eq!(u64::from(taken_apart.rows()), records);
    let answer = files.use_with(&whole);
    assert!(answer.contains(" whole") && !answer.contains("other"), "{answer}");
    let mut opened: BTreeMap<u16, u64> = BTreeMap::new();
    fuzz::run(Target {
        name,
        seeds: vec![whole],
        inputs: 1_000,
        mutate: Mutate::By(&|chance, bytes| {
            if let Some(mut file) = SegmentFile::decode(bytes) {
                file.damage(chance);
                *bytes = file.encode();
            }
        }),
        mend: &|_| {},
        decode: &mut |input| {
            let answer = files.use_with(input);
            if let Some(file) = SegmentFile::decode(input).filter(|_| answer.contains("; ")) {
                let at = |file: &SegmentFile, i: usize| file.sections.get(i).map(|s| (s.kind, s.bytes.clone()));
                for (i, section) in taken_apart.sections.iter().enumerate() {
                    if at(&file, i).is_some_and(|(kind, bytes)| kind == section.kind && bytes != section.bytes) {
                        *opened.entry(section.kind).or_default() += 1;
                    }
                }
            }
            answer
        },
    });
    say(&format!("{name}: so many were believed by kind of section: {opened:?}"));
    for kind in believed {
        assert!(opened.contains_key(kind), "no changed section of kind {kind} was believed");
    }
}

#[test]
fn no_lie_in_a_segment_of_every_kind_of_embedding_makes_it_panic() {
    check_lies("segment-embeddings", &whole_schema(), 120, &[22, 23, 24, 25, 26, 27, 30, 41, 42, 50]);
}

/// So many rows that an index has marks.
#[test]
fn no_lie_in_large_attribute_indexes_makes_them_panic() {
    let schema = Schema { indexes: indexes(), ..Schema::default() };
    check_lies("segment-indexes", &schema, 2_401, &[30]);
}

/// What is due is ended by its key.
#[test]
fn a_record_with_a_deadline_that_its_key_does_not_lead_to_is_refused() {
    const SLOTS: u16 = 11;
    let files = Files::new(&Schema::default(), 50);
    let whole = SegmentFile::decode(&files.all[&files.segment]).expect("it is whole");
    let slots = whole.sections.iter().position(|section| section.kind == SLOTS).expect("every segment has slots");
    for slot in 0..whole.sections[slots].bytes.len() / 8 {
        let mut lying = whole.clone();
        lying.sections[slots].bytes[slot * 8..][..8].fill(0xff);
        let answer = files.use_with(&lying.encode());
        assert!(answer.contains("not found by its key") || answer.contains("; written true"), "{answer}");
    }
    let mut lying = whole;
    lying.sections[slots].bytes.fill(0xff);
    let answer = files.use_with(&lying.encode());
    assert!(answer.contains("row 0 has a deadline and is not found by its key"), "{answer}");
}

/// Bytes are counted when a record is written, and what it takes is asked of the segment when it goes.
#[test]
fn a_record_that_is_larger_than_all_that_was_counted_can_be_deleted() {
    const VALUE_OFFSETS: u16 = 7;
    const VALUE_BYTES: u16 = 8;
    const LONGER: u64 = 1 << 20;
    let files = Files::new(&Schema::default(), 50);
    let mut lying = SegmentFile::decode(&files.all[&files.segment]).expect("it is whole");
    for section in &mut lying.sections {
        match section.kind {
            // Its last records have values that are longer, the last but one of which is deleted.
            VALUE_OFFSETS => {
                let (offsets, _) = section.bytes.as_chunks_mut::<8>();
                let last = offsets.len() - 2;
                offsets[last..].iter_mut().for_each(|at| *at = (u64::from_le_bytes(*at) + LONGER).to_le_bytes());
            }
            VALUE_BYTES => section.bytes.resize(section.bytes.len() + LONGER as usize, 0),
            _ => {}
        }
    }
    let answer = files.use_with(&lying.encode());
    assert!(answer.contains("; written true"), "{answer}");
}
