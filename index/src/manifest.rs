//! The manifest: which files make up the store, and the small state as of the last checkpoint.
//!
//! It is the one file that is replaced, whole and last: whatever it names was durable before. Together with the log's
//! entries after `applied` it is the store. Files that it does not name are leftovers and are removed at open.
//!
//! ```text
//!   MANIFEST ---> segment-<n>   records, sorted by key, with or without a graph
//!            ---> ends-<n>      which versions of one segment have ended
//!            ---> requests-<n>  requests that were answered
//!            ---> table-<n>     the typed values of one collection
//! ```

mod v1;
mod v2;

use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::command::Schema;
use crate::framed::{self, FramedError, Kind};

/// The manifest's name.
pub const MANIFEST_FILE: &str = "MANIFEST";
/// The version of the manifest this program writes, and the newest it reads. It reads all before it, too.
pub const MANIFEST_VERSION: u32 = 4;

const MANIFEST: Kind = Kind { magic: b"locimani", version: MANIFEST_VERSION, bytes_max: 64 << 20 };
const MANIFEST_1: Kind = Kind { version: 1, ..MANIFEST };
const MANIFEST_2: Kind = Kind { version: 2, ..MANIFEST };
/// Without a collection that has an eviction policy of its own: so whatever an older program can understand, it reads.
const MANIFEST_3: Kind = Kind { version: 3, ..MANIFEST };
const ENDS: Kind = Kind { magic: b"lociends", version: 1, bytes_max: 1 << 36 };

/// A file is known by its number; numbers are never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FileName {
    Segment(u64),
    Ends(u64),
    Requests(u64),
    Table(u64),
}

impl FileName {
    fn parts(self) -> (&'static str, u64) {
        match self {
            FileName::Segment(number) => ("segment-", number),
            FileName::Ends(number) => ("ends-", number),
            FileName::Requests(number) => ("requests-", number),
            FileName::Table(number) => ("table-", number),
        }
    }

    /// The file that has this name, if it is one of ours.
    pub fn parse(name: &str) -> Option<FileName> {
        let [segment, ends, requests, table] = ["segment-", "ends-", "requests-", "table-"].map(|kind| {
            let number = name.strip_prefix(kind)?;
            u64::from_str_radix(number, 16).ok().filter(|_| number.len() == 16)
        });
        let file = segment.map(FileName::Segment).or(ends.map(FileName::Ends));
        let file = file.or(requests.map(FileName::Requests)).or(table.map(FileName::Table));
        file.filter(|file| file.to_string() == name)
    }

    pub fn number(self) -> u64 {
        self.parts().1
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, number) = self.parts();
        write!(f, "{kind}{number:016x}")
    }
}

/// Everything in the manifest.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub digest_key: [u8; 32],
    /// The last entry that is in it.
    pub applied: u64,
    pub clock: u64,
    pub chain_head: [u8; 32],
    pub next_collection: u64,
    pub next_file: u64,
    /// The number of the file of answered requests, if there are any.
    pub requests: Option<u64>,
    pub requests_evicted: u64,
    pub namespaces: Vec<String>,
    /// Ascending by id.
    pub collections: Vec<CollectionFiles>,
    /// The scripts that were loaded, in order.
    pub scripts: Vec<Vec<u8>>,
}

/// One collection in the manifest.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct CollectionFiles {
    pub id: u64,
    pub namespace: String,
    pub name: String,
    pub schema: Schema,
    pub records: u64,
    pub bytes: u64,
    /// The sum of the live records' hashes.
    pub sum: u128,
    /// Newest first.
    pub segments: Vec<SegmentFiles>,
    /// Its typed values, if it ever had any.
    pub table: Option<TableFile>,
}

/// The typed values of one collection in the manifest.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct TableFile {
    /// The number of the file; none: it is empty.
    pub file: Option<u64>,
    pub keys: u64,
    pub sum: u128,
}

/// One segment in the manifest, by the numbers of its files.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct SegmentFiles {
    pub segment: u64,
    pub ends: Option<u64>,
}

impl Manifest {
    pub const FILE_BYTES_MAX: u64 = MANIFEST.bytes_max;

    pub fn encode(&self) -> Vec<u8> {
        let body = rkyv::to_bytes::<rancor::Error>(self).expect("serializing into memory does not fail");
        let has_policy = |collection: &CollectionFiles| collection.schema.eviction_policy.is_some();
        framed::encode(if self.collections.iter().any(has_policy) { &MANIFEST } else { &MANIFEST_3 }, &body)
    }

    pub fn decode(bytes: &[u8]) -> Result<Manifest, FramedError> {
        match framed::decode(&MANIFEST, bytes) {
            Err(FramedError::UnknownVersion(3)) => {
                let body = framed::decode(&MANIFEST_3, bytes)?;
                rkyv::from_bytes::<Manifest, rancor::Error>(&body).map_err(damaged)
            }
            Err(FramedError::UnknownVersion(2)) => {
                let body = framed::decode(&MANIFEST_2, bytes)?;
                Ok(rkyv::from_bytes::<v2::Manifest, rancor::Error>(&body).map_err(damaged)?.into())
            }
            Err(FramedError::UnknownVersion(1)) => {
                let body = framed::decode(&MANIFEST_1, bytes)?;
                Ok(rkyv::from_bytes::<v1::Manifest, rancor::Error>(&body).map_err(damaged)?.into())
            }
            body => rkyv::from_bytes::<Manifest, rancor::Error>(&body?).map_err(damaged),
        }
    }

    /// All files it names.
    pub fn files(&self) -> impl Iterator<Item = FileName> {
        let segments = self.collections.iter().flat_map(|collection| &collection.segments);
        let segments =
            segments.flat_map(|s| [Some(FileName::Segment(s.segment)), s.ends.map(FileName::Ends)]).flatten();
        let tables = self.collections.iter().filter_map(|collection| collection.table.as_ref()?.file);
        segments.chain(self.requests.map(FileName::Requests)).chain(tables.map(FileName::Table))
    }
}

/// Which versions of one segment have ended.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Ends {
    /// The segment's number.
    pub segment: u64,
    /// Row and end, ascending by row.
    pub ends: Vec<(u32, u64)>,
}

impl Ends {
    pub const FILE_BYTES_MAX: u64 = ENDS.bytes_max;

    pub fn encode(&self) -> Vec<u8> {
        let body = rkyv::to_bytes::<rancor::Error>(self).expect("serializing into memory does not fail");
        framed::encode(&ENDS, &body)
    }

    pub fn decode(bytes: &[u8]) -> Result<Ends, FramedError> {
        let body = framed::decode(&ENDS, bytes)?;
        rkyv::from_bytes::<Ends, rancor::Error>(&body).map_err(damaged)
    }
}

fn damaged(error: rancor::Error) -> FramedError {
    FramedError::Damaged { what: error.to_string(), offset: framed::HEADER_BYTES as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Codes, EmbeddingSpec, IndexKind, IndexSpec, Language, Policy, SparseSpec, Storage, TextSpec};
    use crate::framed::tests::check_damage;

    /// What version 1 could say.
    fn sample_1() -> Manifest {
        let embedding = EmbeddingSpec::new("text", 384, 1);
        Manifest {
            digest_key: [7; 32],
            applied: 1234,
            clock: 1_700_000_000_000,
            chain_head: [9; 32],
            next_collection: 4,
            next_file: 77,
            requests: Some(70),
            requests_evicted: 5,
            namespaces: vec!["default".into(), "team".into()],
            collections: vec![CollectionFiles {
                id: 3,
                namespace: "default".into(),
                name: "memories".into(),
                schema: Schema { embeddings: vec![embedding], ..Schema::default() },
                records: 12,
                bytes: 3456,
                sum: 1 << 100,
                segments: vec![SegmentFiles { segment: 75, ends: None }, SegmentFiles { segment: 60, ends: Some(76) }],
                table: None,
            }],
            scripts: Vec::new(),
        }
    }

    /// The same, with everything that version 3 added.
    fn sample() -> Manifest {
        let mut manifest = sample_2();
        manifest.collections[0].table = Some(TableFile { file: Some(74), keys: 5, sum: 1 << 90 });
        manifest.scripts = vec![b"return 1".to_vec()];
        manifest
    }

    /// The same, with everything that version 4 added.
    fn sample_4() -> Manifest {
        let mut manifest = sample();
        manifest.collections[0].schema.eviction_policy = Some(Policy::Lfu);
        manifest
    }

    /// The same, with everything that version 2 added.
    fn sample_2() -> Manifest {
        let mut manifest = sample_1();
        let schema = &mut manifest.collections[0].schema;
        schema.embeddings[0].storage = Storage::F16;
        schema.embeddings[0].codes = Codes::None;
        schema.sparse = vec![SparseSpec { name: "words".into() }];
        schema.texts = vec![TextSpec { path: vec!["body".into()], language: Language::English }];
        schema.indexes = vec![IndexSpec { path: vec!["author".into(), "name".into()], kind: IndexKind::Substring }];
        manifest
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn golden_1() -> Vec<u8> {
        bytes_of(include_str!("../golden/manifest-1.hex"))
    }

    fn golden_2() -> Vec<u8> {
        bytes_of(include_str!("../golden/manifest-2.hex"))
    }

    fn bytes_of(digits: &str) -> Vec<u8> {
        let digits = digits.trim();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    #[test]
    fn earlier_versions_are_still_read() {
        assert_eq!(Manifest::decode(&golden_1()).unwrap(), sample_1());
        assert_eq!(Manifest::decode(&golden_2()).unwrap(), sample_2());
    }

    #[test]
    fn the_format_never_changes() {
        assert_eq!(hex(&sample().encode()), include_str!("../golden/manifest-3.hex").trim());
        assert_eq!(hex(&sample_4().encode()), include_str!("../golden/manifest-4.hex").trim());
        let ends = Ends { segment: 60, ends: vec![(0, 1 << 16), (9, 7 << 16 | 3)] };
        assert_eq!(hex(&ends.encode()), include_str!("../golden/ends-1.hex").trim());
        assert_eq!(Manifest::decode(&sample().encode()).unwrap(), sample());
        assert_eq!(Manifest::decode(&sample_4().encode()).unwrap(), sample_4());
        assert_eq!(Ends::decode(&ends.encode()).unwrap(), ends);
    }

    #[test]
    fn damage_is_noticed() {
        check_damage(&sample().encode(), Manifest::decode);
        check_damage(&sample_4().encode(), Manifest::decode);
        check_damage(&golden_1(), Manifest::decode);
        check_damage(&golden_2(), Manifest::decode);
        check_damage(&Ends { segment: 60, ends: vec![(0, 1 << 16)] }.encode(), Ends::decode);
    }

    #[test]
    fn it_names_its_files_and_knows_their_names() {
        let names: Vec<String> = sample().files().map(|file| file.to_string()).collect();
        let expected = [
            "segment-000000000000004b",
            "segment-000000000000003c",
            "ends-000000000000004c",
            "requests-0000000000000046",
            "table-000000000000004a",
        ];
        assert_eq!(names, expected);
        for file in sample().files() {
            assert_eq!(FileName::parse(&file.to_string()), Some(file));
        }
        for foreign in ["MANIFEST", "segment-4b", "segment-000000000000004B", "segment-+00000000000004b", "x"] {
            assert_eq!(FileName::parse(foreign), None, "{foreign}");
        }
    }
}
