//! `loci ingest` on real files: interrupted at random, it neither loses nor duplicates; rows that are no records are told
//! with line and reason; and no file, however damaged, makes it panic, hang, or take memory without a limit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_tests::api::{self, Api};
use loci_tests::chance::Chance;
use loci_tests::data::{self, DataSet};
use loci_tests::fuzz;
use loci_tests::process::{Node, PATIENCE, Start, command};
use loci_tests::{say, seed, setting};
use loci_wire::v1;
use parquet::basic::{ConvertedType, Repetition, Type as PhysicalType};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;

fn shipped_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("data/wordnet-5k")
}

fn text(path: &Path) -> String {
    path.to_str().expect("paths are text").to_owned()
}

/// The arguments that ingest the shipped set, with progress and dead letters in a folder.
fn arguments(node: &Node, folder: &Path) -> Vec<String> {
    let set = shipped_folder();
    let mut words: Vec<String> =
        ["ingest", "-c", "memories", "--create", "--batch", "20", "--in-flight", "1"].map(String::from).into();
    let files = [
        ("--address", node.address.clone()),
        ("--vectors", text(&set.join("embeddings.npy"))),
        ("--progress", text(&folder.join("progress"))),
        ("--dead-letters", text(&folder.join("dead"))),
    ];
    words.extend(files.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
    words.push(text(&set.join("records.jsonl")));
    words
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// Everything is there, as it stands in the files.
async fn check_all(api: &mut Api, set: &DataSet) {
    let found: BTreeMap<_, _> =
        api.all("memories").await.into_iter().map(|record| (record.key.clone(), record)).collect();
    assert_eq!(found.len(), set.records.len());
    for number in 0..set.records.len() {
        let expected = set.record(number);
        let found = found.get(&expected.key).unwrap_or_else(|| panic!("{:?} is not there", expected.key));
        assert_eq!(found.value, expected.value);
        assert_eq!(found.attributes, expected.attributes);
        let components = api::components(&found.embeddings[0]);
        let near = components.iter().zip(set.embedding(number)).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "{:?} has another embedding", expected.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_killed_at_random_moments_neither_loses_nor_duplicates() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let set = data::shipped();
    let data = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    let arguments = arguments(&node, folder.path());
    let mut interrupted = 0;
    for _ in 0..4 {
        let mut child = command(&words(&arguments)).stdout(std::process::Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(10 + chance.below(200))).await;
        if child.try_wait().unwrap().is_none() {
            interrupted += 1;
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let output = command(&words(&arguments)).output().unwrap();
    assert!(output.status.success(), "LOCI_SEED={seed}: {output:?}");
    check_all(&mut node.api().await, &set).await;
    assert!(!folder.path().join("dead").exists(), "every row is a record");
    // Once more: a finished file is read from its beginning, and the records are the same.
    let output = command(&words(&arguments)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    check_all(&mut node.api().await, &set).await;
    say(&format!("ingest: interrupted {interrupted} times, {} records, 0 lost", set.records.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_whose_node_dies_goes_on_when_it_is_back() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let set = data::shipped();
    let data = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut node = Node::start(data.path()).await;
    let address = node.address.clone();
    let arguments = arguments(&node, folder.path());
    let mut output: Option<Output> = None;
    for _ in 0..3 {
        let child = command(&words(&arguments)).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(10 + chance.below(200))).await;
        node.kill();
        node = Start::default().with(&["--listen", &address]).ready(data.path()).await;
        // It went on by itself, or says that the node was not there.
        output = Some(child.wait_with_output().unwrap());
    }
    let code = output.unwrap().status.code();
    assert!(matches!(code, Some(0 | 4)), "LOCI_SEED={seed}: exit code {code:?}");
    let output = command(&words(&arguments)).output().unwrap();
    assert!(output.status.success(), "LOCI_SEED={seed}: {output:?}");
    check_all(&mut node.api().await, &set).await;
}

/// A node with a collection for small files, and where its progress goes.
struct Bench {
    node: Node,
    api: Api,
    folder: tempfile::TempDir,
    _data: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Bench {
        let data = tempfile::tempdir().unwrap();
        let node = Node::start(data.path()).await;
        let mut api = node.api().await;
        api.create("things", &[("text", 4, v1::Metric::SquaredL2)]).await;
        Bench { node, api, folder: tempfile::tempdir().unwrap(), _data: data }
    }

    fn ingest(&self, name: &str, bytes: &[u8]) -> Output {
        let file = self.folder.path().join(name);
        fs::write(&file, bytes).unwrap();
        let (file, dead, progress) = (text(&file), text(&self.dead()), text(&self.folder.path().join("progress")));
        let arguments = [
            "ingest",
            "-c",
            "things",
            "--restart",
            "--key-prefix",
            "row ",
            "--timeout",
            "20s",
            "--address",
            &self.node.address,
            "--progress",
            &progress,
            "--dead-letters",
            &dead,
            &file,
        ];
        command(&arguments).output().unwrap()
    }

    fn dead(&self) -> PathBuf {
        self.folder.path().join("dead")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_no_records_are_told_with_line_and_reason_and_the_rest_is_there() {
    let mut bench = Bench::new().await;
    let lines = [
        r#"{"key": "good", "text": "fine", "embedding": [1, 2, 3, 4]}"#,
        r#"{"key": "broken", "text"#,
        r#"{"key": "short", "embedding": [1, 2, 3]}"#,
        r#"[1, 2, 3]"#,
        r#"{"key": "wide", "embedding": [1, 2, 3, 1e300]}"#,
        r#"{"key": "worded", "embedding": ["one", 2, 3, 4]}"#,
        r#"{"key": "last", "attributes": {"a": {"b": [1, null, true]}}, "embedding": [0, 0, 0, 1]}"#,
    ];
    let output = bench.ingest("mixed.jsonl", lines.join("\n").as_bytes());
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let letters = fs::read_to_string(bench.dead()).unwrap();
    let letters: Vec<serde_json::Value> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<u64> = letters.iter().map(|letter| letter["line"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [2, 3, 4, 5, 6], "{letters:?}");
    for letter in &letters {
        assert!(letter["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{letter:?}");
    }
    let keys: Vec<_> = bench.api.all("things").await.into_iter().map(|record| record.key).collect();
    assert_eq!(keys, ["good", "last"]);
    // Files that are nothing at all are named, with what is wrong.
    let table: [(&str, &[u8]); 6] = [
        ("empty.npy", b""),
        ("text.npy", b"this is no numpy file"),
        ("short.fvecs", &[4, 0, 0, 0, 1, 2]),
        ("negative.fvecs", &[0xff; 20]),
        ("text.parquet", b"neither is this Parquet"),
        ("unknown.csv", b"a,b\n"),
    ];
    for (name, bytes) in table {
        let output = bench.ingest(name, bytes);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code().is_some_and(|code| code != 0 && code != 101), "{name}: {output:?}");
        assert!(said.contains(name), "{name} is not named: {said}");
    }
}

fn npy() -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let mut header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }".to_owned();
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend((0..12u8).flat_map(|number| f32::from(number).to_le_bytes()));
    bytes
}

fn fvecs() -> Vec<u8> {
    let row = |row: u8| {
        let components = (0..4u8).flat_map(move |number| f32::from(row + number).to_le_bytes());
        4i32.to_le_bytes().into_iter().chain(components)
    };
    (0..3).flat_map(row).collect()
}

fn jsonl() -> Vec<u8> {
    let lines = [
        r#"{"key": "a", "value": "v", "attributes": {"x": 1, "y": [true, null, "z"]}, "embedding": [1, 2, 3, 4]}"#,
        r#"{"key": "b", "text": "t", "embeddings": {"text": [0.5, -1e3, 3, 4]}, "ttl_millis": 60000}"#,
    ];
    lines.join("\n").into_bytes()
}

fn parquet_file() -> Vec<u8> {
    let primitive = |name: &str, kind, repetition| {
        let builder = Type::primitive_type_builder(name, kind).with_repetition(repetition);
        let converted = if kind == PhysicalType::BYTE_ARRAY { ConvertedType::UTF8 } else { ConvertedType::NONE };
        Arc::new(builder.with_converted_type(converted).build().unwrap())
    };
    let element = primitive("element", PhysicalType::FLOAT, Repetition::REQUIRED);
    let list = Type::group_type_builder("list").with_repetition(Repetition::REPEATED).with_fields(vec![element]);
    let embedding = Type::group_type_builder("embedding")
        .with_repetition(Repetition::REQUIRED)
        .with_converted_type(ConvertedType::LIST)
        .with_fields(vec![Arc::new(list.build().unwrap())]);
    let fields = vec![
        primitive("key", PhysicalType::BYTE_ARRAY, Repetition::REQUIRED),
        primitive("size", PhysicalType::INT64, Repetition::REQUIRED),
        Arc::new(embedding.build().unwrap()),
    ];
    let schema = Arc::new(Type::group_type_builder("schema").with_fields(fields).build().unwrap());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let keys = [ByteArray::from("a"), ByteArray::from("b")];
    column.typed::<ByteArrayType>().write_batch(&keys, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[1, 2], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let components: Vec<f32> = (0..8u8).map(f32::from).collect();
    let (defined, repeated) = ([1; 8], [0, 1, 1, 1, 0, 1, 1, 1]);
    column.typed::<FloatType>().write_batch(&components, Some(&defined), Some(&repeated)).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_makes_ingest_panic_hang_or_take_memory_without_limit() {
    let seed = seed();
    let seconds = setting("LOCI_FUZZ_SECONDS", 0);
    let mut bench = Bench::new().await;
    let seeds =
        [("a.jsonl", jsonl(), 2), ("a.npy", npy(), 3), ("a.fvecs", fvecs(), 3), ("a.parquet", parquet_file(), 2)];
    for (name, whole, records) in &seeds {
        let output = bench.ingest(name, whole);
        assert!(output.status.success(), "{name} is right: {output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&records.to_string()), "{name} has {records} records: {said}");
    }
    for (name, whole, _) in &seeds {
        let mut chance = Chance::new(seed);
        let target = format!("ingest-{}", name.rsplit('.').next().unwrap());
        let mut kept = fuzz::kept(&target);
        let corpus: Vec<Vec<u8>> = kept.iter().cloned().chain([whole.clone()]).collect();
        let (begin, mut tried, mut fine) = (Instant::now(), 0, 0);
        while if seconds > 0 { begin.elapsed().as_secs() < seconds } else { tried < 40 || !kept.is_empty() } {
            let mut input = corpus[chance.index(corpus.len())].clone();
            if let Some(known) = kept.pop() {
                input = known;
            } else if chance.percent(50) {
                fuzz::mutate_in_place(&mut chance, &mut input);
            } else {
                fuzz::mutate(&mut chance, &mut input, whole);
            }
            let started = Instant::now();
            let output = bench.ingest(name, &input);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let code = output.status.code();
            let well =
                code.is_some_and(|code| code != 101) && !said.contains("panicked") && started.elapsed() < PATIENCE;
            if !well {
                let kept = fuzz::keep(&target, &input);
                panic!("LOCI_SEED={seed}: {} ends {}: {said}", kept.display(), output.status);
            }
            fine += u64::from(code == Some(0));
            tried += 1;
        }
        say(&format!("fuzz ingest {name}: {tried} files in {:.1?}, {fine} of them fine, 0 panics", begin.elapsed()));
    }
    bench.node.wait_ready().await;
}
