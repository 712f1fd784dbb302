//! Making a store, and opening one after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Deadlines, Location, State, Store, StoreOptions, catalog, empty_views, jobs::Work, new_buffer};
use crate::directory::{Directory, DirectoryError};
use crate::effects::Effects;
use crate::framed::FramedError;
use crate::manifest::{CollectionFiles, Ends, FileName, MANIFEST_FILE, MANIFEST_VERSION, Manifest};
use crate::record::{CollectionId, Position};
use crate::requests::{REQUEST_BYTES_MAX, Requests};
use crate::sealed::Sealed;
use crate::segment::{Segment, SegmentError};
use crate::table::scripting::Scripts;
use crate::view::{Collection, Live, Structure};

/// Why a store cannot be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no store here.
    #[error("there is no store here: file {MANIFEST_FILE} does not exist")]
    Missing,
    /// There is a store already.
    #[error("there is a store here already: open it, or choose an empty directory")]
    Exists,
    /// A file of ours has a name that somebody else's file took.
    #[error("file {file} is not ours: choose a directory that only this program uses")]
    Foreign {
        /// The file.
        file: String,
    },
    /// A newer program wrote it. The file is fine.
    #[error("file {file} has version {version}, newer than {known}: use the program that wrote it, or a newer one")]
    NewerVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u32,
        /// The newest that this program reads.
        known: u32,
    },
    /// It was whole once and is damaged now.
    #[error("file {file} is damaged at byte {offset}: {what}; restore this node from the other members or a backup")]
    Damaged {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A segment cannot be opened.
    #[error("{0}")]
    Segment(#[from] SegmentError),
    /// The directory failed.
    #[error("{0}")]
    Directory(#[from] DirectoryError),
}

impl StoreError {
    pub(super) fn framed(file: impl ToString, known: u32, error: FramedError) -> StoreError {
        let file = file.to_string();
        match error {
            FramedError::Foreign => StoreError::Foreign { file },
            FramedError::UnknownVersion(version) => StoreError::NewerVersion { file, version, known },
            FramedError::Damaged { what, offset } => StoreError::Damaged { file, offset, what },
        }
    }
}

/// Something in a file that was written whole does not fit something in another.
pub(super) fn unfit(file: impl ToString, what: impl Into<String>) -> StoreError {
    StoreError::Damaged { file: file.to_string(), offset: 0, what: what.into() }
}

impl Store {
    /// Makes an empty store whose next entry is the one after `applied`. It is durable when this returns.
    ///
    /// All members of a shard must be given the same `digest_key`, drawn at random and known to no client.
    pub fn create(
        directory: Arc<dyn Directory>,
        options: StoreOptions,
        digest_key: [u8; 32],
        applied: u64,
    ) -> Result<Store, StoreError> {
        match directory.len(MANIFEST_FILE) {
            Ok(_) => return Err(StoreError::Exists),
            Err(DirectoryError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let manifest = Manifest {
            digest_key,
            applied,
            clock: 0,
            chain_head: [0; 32],
            next_collection: 1,
            next_file: 1,
            requests: None,
            requests_evicted: 0,
            namespaces: Vec::new(),
            collections: Vec::new(),
            scripts: Vec::new(),
        };
        directory.replace(MANIFEST_FILE, &manifest.encode())?;
        Store::from_manifest(directory, options, manifest)
    }

    /// Opens the store as of its last checkpoint; the log's entries after [`Store::applied`] are to be applied again.
    /// Checks every byte of every file, and removes files that a crash left over.
    pub fn open(directory: Arc<dyn Directory>, options: StoreOptions) -> Result<Store, StoreError> {
        let (_, manifest) = read_manifest(&*directory)?;
        Store::from_manifest(directory, options, manifest)
    }

    fn from_manifest(
        directory: Arc<dyn Directory>,
        options: StoreOptions,
        manifest: Manifest,
    ) -> Result<Store, StoreError> {
        let mut namespaces: BTreeMap<String, BTreeMap<String, CollectionId>> =
            manifest.namespaces.iter().map(|name| (name.clone(), BTreeMap::new())).collect();
        if manifest.applied >= Position::INDEX_MAX {
            return Err(unfit(MANIFEST_FILE, format!("entry {} is more than there can be", manifest.applied)));
        }
        let (mut collections, mut due, mut ends) = (Vec::<State>::new(), BTreeSet::new(), BTreeMap::new());
        for files in &manifest.collections {
            let mut state = open_collection(&*directory, files, &mut ends)?;
            super::tables::open(&*directory, files, &manifest.digest_key, &mut state)?;
            let id = state.shared.id;
            let ascending = collections.last().is_none_or(|last| last.shared.id < id);
            let named = namespaces.get_mut(&files.namespace).map(|names| names.insert(files.name.clone(), id));
            if !ascending || named != Some(None) || id.0 >= manifest.next_collection {
                return Err(unfit(MANIFEST_FILE, format!("collection {} does not fit the others", id.0)));
            }
            due.extend(state.first_due().map(|deadline| (deadline, id)));
            collections.push(state);
        }
        let requests = match manifest.requests.map(FileName::Requests) {
            None => {
                let mut none = Requests::new(REQUEST_BYTES_MAX);
                none.set_evicted(manifest.requests_evicted);
                none
            }
            Some(file) => {
                let bytes = read(&*directory, file, Requests::FILE_BYTES_MAX)?;
                Requests::decode(&bytes, REQUEST_BYTES_MAX, manifest.requests_evicted)
                    .map_err(|error| StoreError::framed(file, 1, error))?
            }
        };
        let last_file = remove_leftovers(&*directory, &manifest)?;
        let structure = Arc::new(Structure {
            namespaces: BTreeMap::new(),
            collections: Vec::new(),
            catalog_hash: [0; 32],
            digest_key: manifest.digest_key,
        });
        let mut store = Store {
            options,
            digest_key: manifest.digest_key,
            applied: manifest.applied,
            clock: manifest.clock,
            chain_head: manifest.chain_head,
            namespaces,
            collections,
            due,
            scripts: Scripts::of(manifest.scripts.clone()),
            calls: 0,
            listening: Default::default(),
            events: Vec::new(),
            effects: Effects::default(),
            next_collection: manifest.next_collection,
            next_file: manifest.next_file.max(last_file + 1),
            buffered_bytes: 0,
            views: empty_views(&structure),
            structure,
            restructured: true,
            work: Work::opened(&manifest, requests.changes(), ends),
            requests,
            directory,
        };
        store.publish();
        Ok(store)
    }
}

/// The bytes of the last checkpoint's manifest, the entry up to which it holds the state, and the files that it names, all
/// of which are needed to open a copy of it elsewhere.
pub fn checkpoint_files(directory: &dyn Directory) -> Result<(Vec<u8>, u64, Vec<String>), StoreError> {
    let (bytes, manifest) = read_manifest(directory)?;
    let files = manifest.files().map(|file| file.to_string()).collect();
    Ok((bytes, manifest.applied, files))
}

fn read_manifest(directory: &dyn Directory) -> Result<(Vec<u8>, Manifest), StoreError> {
    let bytes = match directory.read(MANIFEST_FILE, Manifest::FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(DirectoryError::Missing(_)) => return Err(StoreError::Missing),
        Err(error) => return Err(error.into()),
    };
    let manifest =
        Manifest::decode(&bytes).map_err(|error| StoreError::framed(MANIFEST_FILE, MANIFEST_VERSION, error))?;
    Ok((bytes, manifest))
}

fn read(directory: &dyn Directory, file: FileName, bytes_max: u64) -> Result<Vec<u8>, StoreError> {
    match directory.read(&file.to_string(), bytes_max) {
        Err(DirectoryError::Missing(file)) => Err(unfit(file, "the manifest names it, and it is not there")),
        other => Ok(other?),
    }
}

fn open_collection(
    directory: &dyn Directory,
    files: &CollectionFiles,
    ends: &mut BTreeMap<u64, (u32, u64)>,
) -> Result<State, StoreError> {
    let wrong = |what: &str| unfit(MANIFEST_FILE, format!("collection {}: {what}", files.id));
    catalog::check_schema(&files.schema).map_err(|error| wrong(&error.to_string()))?;
    let fields = catalog::fields(&files.schema).ok_or_else(|| wrong("unknown metric"))?;
    let mut segments = Vec::new();
    for segment_files in &files.segments {
        let name = FileName::Segment(segment_files.segment);
        let segment = Segment::open(directory, &name.to_string()).map_err(|error| match error {
            SegmentError::Directory(DirectoryError::Missing(file)) => {
                unfit(file, "the manifest names it, and it is not there")
            }
            error => StoreError::Segment(error),
        })?;
        let same_fields = segment.fields().len() == fields.len()
            && segment
                .fields()
                .iter()
                .zip(fields.iter())
                .all(|(a, b)| a.dimension as usize == b.dimension && a.metric == b.metric);
        if segment.collection() != files.id || !same_fields {
            return Err(unfit(name, format!("it does not belong to collection {}", files.id)));
        }
        let sealed = Sealed::new(segment, segment_files.segment);
        if let Some(number) = segment_files.ends {
            let file = FileName::Ends(number);
            let bytes = read(directory, file, Ends::FILE_BYTES_MAX)?;
            let decoded = Ends::decode(&bytes).map_err(|error| StoreError::framed(file, 1, error))?;
            let ascending = decoded.ends.is_sorted_by(|a, b| a.0 < b.0);
            let in_range = decoded.ends.last().is_none_or(|(row, _)| *row < sealed.len());
            // A version that is said to have ended at no time would be counted as gone, and found all the same.
            let ended = decoded.ends.iter().all(|&(_, end)| Position::from_u64(end) != Position::NEVER);
            if decoded.segment != segment_files.segment || !ascending || !in_range || !ended {
                return Err(unfit(file, format!("it does not fit {name}")));
            }
            for &(row, end) in &decoded.ends {
                sealed.set_end(row, Position::from_u64(end));
            }
            ends.insert(segment_files.segment, (sealed.ended(), number));
        }
        segments.push(Arc::new(sealed));
    }
    let mut state = State::new(Collection {
        id: CollectionId(files.id),
        namespace: files.namespace.as_str().into(),
        name: files.name.as_str().into(),
        schema: Arc::new(files.schema.clone()),
        fields,
        buffers: vec![new_buffer()],
        segments,
        table: None,
    });
    let mut records = 0;
    let mut deadlines = Deadlines::new();
    for (s, sealed) in state.shared.segments.iter().enumerate() {
        records += u64::from(sealed.len()) - u64::from(sealed.ended());
        for row in 0..sealed.len() {
            let deadline = sealed.segment.deadline(row);
            if deadline == 0 || sealed.end(row) != Position::NEVER {
                continue;
            }
            let key = sealed.segment.key(row);
            // What is due is ended by its key, so the key must lead to it.
            if state.find(key).is_none_or(|found| found.location != Location::Segment(s, row)) {
                let name = FileName::Segment(sealed.file);
                return Err(unfit(name, format!("its row {row} has a deadline and is not found by its key")));
            }
            deadlines.insert((deadline, key.into()));
        }
    }
    state.deadlines = deadlines;
    if records != files.records {
        return Err(wrong(&format!("{records} records instead of {}", files.records)));
    }
    state.live = Live { records, timed: state.deadlines.len() as u64, bytes: files.bytes };
    state.sum = files.sum;
    Ok(state)
}

/// Removes our files that the manifest does not name, and says the highest number there was.
fn remove_leftovers(directory: &dyn Directory, manifest: &Manifest) -> Result<u64, StoreError> {
    let needed: BTreeSet<FileName> = manifest.files().collect();
    let mut last = 0;
    for name in directory.list()? {
        let Some(file) = FileName::parse(&name) else { continue };
        last = last.max(file.number());
        if !needed.contains(&file)
            && let Err(error) = directory.remove(&name)
        {
            tracing::warn!(file = name, %error, "a leftover file stays");
        }
    }
    Ok(last)
}
