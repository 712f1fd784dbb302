//! The manifest of format version 2, which a program before version 3 left behind. Its layout never changes; what is not
//! here is laid out as it was then.

use rkyv::{Archive, Deserialize, Serialize};

use super::SegmentFiles;
use crate::command::Schema;

/// See [`super::Manifest`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Manifest {
    pub digest_key: [u8; 32],
    pub applied: u64,
    pub clock: u64,
    pub chain_head: [u8; 32],
    pub next_collection: u64,
    pub next_file: u64,
    pub requests: Option<u64>,
    pub requests_evicted: u64,
    pub namespaces: Vec<String>,
    pub collections: Vec<CollectionFiles>,
}

/// See [`super::CollectionFiles`].
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct CollectionFiles {
    pub id: u64,
    pub namespace: String,
    pub name: String,
    pub schema: Schema,
    pub records: u64,
    pub bytes: u64,
    pub sum: u128,
    pub segments: Vec<SegmentFiles>,
}

impl From<Manifest> for super::Manifest {
    fn from(manifest: Manifest) -> super::Manifest {
        super::Manifest {
            digest_key: manifest.digest_key,
            applied: manifest.applied,
            clock: manifest.clock,
            chain_head: manifest.chain_head,
            next_collection: manifest.next_collection,
            next_file: manifest.next_file,
            requests: manifest.requests,
            requests_evicted: manifest.requests_evicted,
            namespaces: manifest.namespaces,
            collections: manifest.collections.into_iter().map(super::CollectionFiles::from).collect(),
            scripts: Vec::new(),
        }
    }
}

impl From<CollectionFiles> for super::CollectionFiles {
    fn from(files: CollectionFiles) -> super::CollectionFiles {
        super::CollectionFiles {
            id: files.id,
            namespace: files.namespace,
            name: files.name,
            schema: files.schema,
            records: files.records,
            bytes: files.bytes,
            sum: files.sum,
            segments: files.segments,
            table: None,
        }
    }
}
