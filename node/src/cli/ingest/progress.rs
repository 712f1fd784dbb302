//! How far a file is read: a small JSON file, replaced as a whole.
//!
//! Its name is a hash of everything that says what goes where (file, options, namespace, collection); its content tells
//! which state of the file and which node it is about.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use loci_client::Collection;
use serde::{Deserialize, Serialize};

use crate::cli::json::{from_base64, to_base64};
use crate::cli::source::{Position, Spec};

const VERSION: u32 = 1;
/// Of the file, to notice that it is another one: what a change does not touch is noticed by size and time.
const HEAD_BYTES: u64 = 64 << 10;

/// How far one file is read into one collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    path: PathBuf,
    pub file: PathBuf,
    pub collection: String,
    node: String,
    fingerprint: Vec<Fingerprint>,
    /// Everything before it is written or refused.
    pub position: Position,
    pub written: u64,
    pub refused: u64,
    pub dead_letter_bytes: u64,
    /// The last record that is written.
    pub last_key: Bytes,
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fingerprint {
    bytes: u64,
    modified_micros: u64,
    head: String,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    file: String,
    collection: String,
    node: String,
    fingerprint: Vec<Fingerprint>,
    rows: u64,
    bytes: u64,
    written: u64,
    refused: u64,
    dead_letter_bytes: u64,
    last_key_base64: String,
}

impl Fingerprint {
    fn of(path: &Path) -> io::Result<Fingerprint> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok(Fingerprint {
            bytes: metadata.len(),
            modified_micros: modified.as_micros() as u64,
            head: blake3::hash(&head).to_hex().to_string(),
        })
    }
}

impl Progress {
    /// At the beginning of the file. Without `path` it is kept in the user's state directory.
    pub fn new(spec: &Spec, collection: &Collection, node: &str, path: Option<PathBuf>) -> io::Result<Progress> {
        let file = spec.path.canonicalize()?;
        let named = format!("{}/{}", collection.namespace(), collection.name());
        let path = path.unwrap_or_else(|| {
            let what = format!("{named}\n{}\n{:?}", file.display(), Spec { path: file.clone(), ..spec.clone() });
            let name = blake3::hash(what.as_bytes()).to_hex();
            state_directory().join(format!("ingest-{}.json", &name[..16]))
        });
        let mut fingerprint = vec![Fingerprint::of(&file)?];
        if let Some(vectors) = &spec.vectors {
            fingerprint.push(Fingerprint::of(vectors)?);
        }
        Ok(Progress {
            path,
            file,
            collection: named,
            node: node.into(),
            fingerprint,
            position: Position::default(),
            written: 0,
            refused: 0,
            dead_letter_bytes: 0,
            last_key: Bytes::new(),
        })
    }

    /// What an earlier run noted; none: there was none. An error says why what it noted is of no use.
    pub fn load(&self) -> Result<Option<Progress>, String> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", self.path.display())),
        };
        let damaged = || format!("{} is damaged", self.path.display());
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
        if stored.version != VERSION {
            return Err(format!("{} has version {}, not {VERSION}", self.path.display(), stored.version));
        }
        if stored.file != self.file.display().to_string() || stored.collection != self.collection {
            return Err(format!("{} is about another file or collection", self.path.display()));
        }
        if stored.fingerprint != self.fingerprint {
            return Err("it has changed since the earlier run".into());
        }
        if stored.node != self.node {
            return Err("the earlier run wrote to another node".into());
        }
        Ok(Some(Progress {
            position: Position { rows: stored.rows, bytes: stored.bytes },
            written: stored.written,
            refused: stored.refused,
            dead_letter_bytes: stored.dead_letter_bytes,
            last_key: from_base64(&stored.last_key_base64).ok_or_else(damaged)?.into(),
            ..self.clone()
        }))
    }

    /// Replaces what was noted before.
    pub fn save(&self) -> io::Result<()> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let stored = Stored {
            version: VERSION,
            file: self.file.display().to_string(),
            collection: self.collection.clone(),
            node: self.node.clone(),
            fingerprint: self.fingerprint.clone(),
            rows: self.position.rows,
            bytes: self.position.bytes,
            written: self.written,
            refused: self.refused,
            dead_letter_bytes: self.dead_letter_bytes,
            last_key_base64: to_base64(&self.last_key),
        };
        let temporary = self.path.with_extension("tmp");
        let mut output = File::create(&temporary)?;
        output.write_all(serde_json::to_string(&stored)?.as_bytes())?;
        output.sync_data()?;
        std::fs::rename(&temporary, &self.path)
    }

    /// The file is done: reading it again is a new run.
    pub fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn state_directory() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    state.map_or_else(|| ".loci".into(), |state| state.join("loci"))
}

#[cfg(test)]
mod tests {
    use loci_client::Client;

    use super::*;
    use crate::cli::json::Fields;

    struct Case {
        directory: tempfile::TempDir,
        collection: Collection,
    }

    impl Case {
        fn new() -> Case {
            let directory = tempfile::tempdir().expect("a temporary directory");
            std::fs::write(directory.path().join("r.jsonl"), "{}\n").expect("written");
            let client = Client::builder().connect_lazy().expect("an address");
            Case { directory, collection: client.collection("default", "notes") }
        }

        fn progress(&self, node: &str) -> Progress {
            let spec = Spec {
                path: self.directory.path().join("r.jsonl"),
                vectors: None,
                fields: Fields::default(),
                embedding: String::new(),
                key_prefix: None,
            };
            let path = self.directory.path().join("progress.json");
            Progress::new(&spec, &self.collection, node, Some(path)).expect("the file is there")
        }
    }

    #[tokio::test]
    async fn what_is_noted_comes_back_until_the_file_is_done() {
        let case = Case::new();
        let mut progress = case.progress("n1");
        assert_eq!(progress.load(), Ok(None));
        progress.position = Position { rows: 7, bytes: 70 };
        progress.written = 6;
        progress.refused = 1;
        progress.last_key = Bytes::from_static(b"k\xff");
        progress.save().expect("saved");
        assert_eq!(case.progress("n1").load(), Ok(Some(progress.clone())));
        progress.remove().expect("removed");
        assert_eq!(case.progress("n1").load(), Ok(None));
    }

    #[tokio::test]
    async fn a_changed_file_another_node_and_damage_are_noticed() {
        let case = Case::new();
        case.progress("n1").save().expect("saved");
        assert!(case.progress("n2").load().expect_err("another node").contains("another node"));
        std::fs::write(case.directory.path().join("r.jsonl"), "[]\n").expect("written");
        assert!(case.progress("n1").load().expect_err("changed").contains("changed"));
        std::fs::write(case.directory.path().join("progress.json"), "{").expect("written");
        assert!(case.progress("n1").load().expect_err("damaged").contains("damaged"));
    }
}
