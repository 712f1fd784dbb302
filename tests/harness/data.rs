//! Real data: the set that is shipped, and larger ones beside the repository (`LOCI_DATA`).

use std::fs;
use std::path::{Path, PathBuf};

use loci_wire::v1;
use serde_json::Value;

use crate::say;

/// Records with embeddings, held-out queries, and the exact nearest of each.
pub struct DataSet {
    /// The folder's name.
    pub name: String,
    /// One for each record: key, text and attributes.
    pub records: Vec<Line>,
    /// Components per embedding.
    pub dimension: usize,
    /// Of the records, one after the other.
    pub embeddings: Vec<f32>,
    /// Of the queries, one after the other.
    pub queries: Vec<f32>,
    /// The numbers of the nearest records of each query, best first.
    pub nearest: Vec<Vec<u32>>,
}

/// A record of a set, without its embedding.
pub struct Line {
    /// Its key.
    pub key: String,
    /// Its text.
    pub text: String,
    /// Its attributes as JSON.
    pub attributes: serde_json::Map<String, Value>,
}

/// The set that is shipped: 5,000 records.
pub fn shipped() -> DataSet {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository");
    DataSet::load(&root.join("data/wordnet-5k"))
}

/// A larger set of that name from the folder that `LOCI_DATA` names; says what is missing if it is not there.
pub fn larger(name: &str) -> Option<DataSet> {
    let Some(folder) = std::env::var_os("LOCI_DATA") else {
        say(&format!("skipped: data set {name}: LOCI_DATA is not set (docs/testing.md says how to build such a set)"));
        return None;
    };
    let folder = PathBuf::from(folder).join(name);
    // Tests run in their package's folder, people set paths where they are: at the top.
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository");
    let folder = if folder.is_dir() { folder } else { top.join(folder) };
    if !folder.is_dir() {
        say(&format!("skipped: data set {name}: {} is not there", folder.display()));
        return None;
    }
    Some(DataSet::load(&folder))
}

impl DataSet {
    /// Reads a set; panics with what is wrong with it.
    pub fn load(folder: &Path) -> DataSet {
        let (embeddings, dimension) = floats(&folder.join("embeddings.npy"));
        let (queries, queries_dimension) = floats(&folder.join("queries.npy"));
        assert_eq!(dimension, queries_dimension, "{}", folder.display());
        let nearest = integers(&folder.join("ground_truth.npy"));
        let path = folder.join("records.jsonl");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let line = |line: &str| {
            let mut value: Value = serde_json::from_str(line).expect("each line is JSON");
            let mut take = |name: &str| value.get_mut(name).map(Value::take).unwrap_or_default();
            let (key, text, attributes) = (take("key"), take("text"), take("attributes"));
            let Value::Object(attributes) = attributes else { panic!("attributes are an object") };
            Line {
                key: key.as_str().expect("a key is text").into(),
                text: text.as_str().unwrap_or_default().into(),
                attributes,
            }
        };
        let records: Vec<Line> = text.lines().map(line).collect();
        assert_eq!(records.len() * dimension, embeddings.len(), "{}", folder.display());
        assert_eq!(nearest.len() * dimension, queries.len(), "{}", folder.display());
        let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        DataSet { name, records, dimension, embeddings, queries, nearest }
    }

    /// The embedding of a record.
    pub fn embedding(&self, record: usize) -> &[f32] {
        &self.embeddings[record * self.dimension..][..self.dimension]
    }

    /// A query.
    pub fn query(&self, query: usize) -> &[f32] {
        &self.queries[query * self.dimension..][..self.dimension]
    }

    /// A record as it is put.
    pub fn record(&self, number: usize) -> v1::Record {
        let line = &self.records[number];
        let attributes = line.attributes.iter().map(|(name, value)| (name.clone(), attribute(value)));
        v1::Record {
            key: line.key.clone().into(),
            value: Some(line.text.clone().into()),
            attributes: attributes.collect(),
            embeddings: vec![crate::api::embedding("", self.embedding(number))],
            ..Default::default()
        }
    }
}

/// A JSON value as an attribute.
pub fn attribute(value: &Value) -> v1::Value {
    use v1::value::Kind;
    v1::Value {
        kind: Some(match value {
            Value::Null => Kind::Null(true),
            Value::Bool(bool) => Kind::Bool(*bool),
            Value::Number(number) => match number.as_i64() {
                Some(int) => Kind::Int(int),
                None => Kind::Float(number.as_f64().expect("a JSON number fits")),
            },
            Value::String(text) => Kind::String(text.clone()),
            Value::Array(values) => Kind::List(v1::ListValue { values: values.iter().map(attribute).collect() }),
            Value::Object(map) => {
                let values = map.iter().map(|(name, value)| (name.clone(), attribute(value))).collect();
                Kind::Map(v1::MapValue { values })
            }
        }),
    }
}

/// The element type, the shape and the bytes of a `.npy` file of two dimensions in C order.
fn npy(path: &Path) -> (String, [usize; 2], Vec<u8>) {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let wrong = || -> ! { panic!("{} is not a two-dimensional .npy file in C order", path.display()) };
    if bytes.len() < 10 || !bytes.starts_with(b"\x93NUMPY\x01") {
        wrong();
    }
    let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let header = String::from_utf8_lossy(&bytes[10..header_end]).into_owned();
    if !header.contains("'fortran_order': False") {
        wrong();
    }
    let part = |begin: &str, end: char| {
        let rest = header.split_once(begin).map(|(_, rest)| rest.trim_start());
        rest.and_then(|rest| rest.split_once(end)).map(|(part, _)| part.to_owned()).unwrap_or_else(|| wrong())
    };
    let kind = part("'descr': '", '\'');
    let shape: Vec<usize> = part("'shape': (", ')').split(',').filter_map(|side| side.trim().parse().ok()).collect();
    let [rows, columns] = shape[..] else { wrong() };
    (kind, [rows, columns], bytes[header_end..].to_vec())
}

fn floats(path: &Path) -> (Vec<f32>, usize) {
    let (kind, [rows, columns], bytes) = npy(path);
    let floats: Vec<f32> = match kind.as_str() {
        "<f4" => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        "<f2" => bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        _ => panic!("{}: elements of type {kind} are not floats", path.display()),
    };
    assert_eq!(floats.len(), rows * columns, "{}", path.display());
    (floats, columns)
}

fn integers(path: &Path) -> Vec<Vec<u32>> {
    let (kind, [_, columns], bytes) = npy(path);
    assert_eq!(kind, "<i4", "{}", path.display());
    let numbers: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    numbers.chunks_exact(columns).map(<[u32]>::to_vec).collect()
}
