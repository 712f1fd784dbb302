//! What of a snapshot has come: its files, taken in piece by piece from wherever the pieces come.
//!
//! ```text
//!   begun --> asked for the rest of those files --> head --> begin --> take, take, ... --> finish --> SNAPSHOT
//!     ^                                                        |
//!     '------------- whatever breaks off in between -----------'
//! ```
//!
//! Always:
//! - a piece that is not what was sent is not written, and a file that is not what was checkpointed is not kept;
//! - SNAPSHOT gets its name last, when every file is durable and was read again.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use loci_index::directory::{DirectoryError, Readable};
use loci_index::store::{MANIFEST_FILE, check_file};
use loci_raft::{Disk, DiskFile, LogIndex, Members, Term};
use loci_wire::v1;
use tonic::Status;

use super::{PIECE_BYTES, SNAPSHOT_FILE, SNAPSHOT_FILE_BYTES_MAX, Stand, checksum};

/// What SNAPSHOT is called until it is durable.
const UNFINISHED: &str = "SNAPSHOT.new";

/// Why a snapshot is not taken in. Either way it can be asked for again.
#[derive(Debug, thiserror::Error)]
pub enum ComingError {
    /// This node's disk failed.
    #[error("cannot write the snapshot: {0}")]
    Disk(#[from] io::Error),
    /// What came is not what a sender sends.
    #[error("the snapshot is not what was promised: {0}")]
    Wrong(String),
}

impl From<ComingError> for Status {
    fn from(error: ComingError) -> Status {
        match error {
            ComingError::Disk(_) => Status::internal(error.to_string()),
            ComingError::Wrong(_) => Status::data_loss(error.to_string()),
        }
    }
}

fn wrong(what: impl Into<String>) -> ComingError {
    ComingError::Wrong(what.into())
}

/// Where the state stands that lies whole in a directory, if one does.
pub fn stand_in(disk: &impl Disk) -> io::Result<Option<Stand>> {
    if !disk.list()?.iter().any(|name| name == SNAPSHOT_FILE) {
        return Ok(None);
    }
    let mut bytes = vec![0; SNAPSHOT_FILE_BYTES_MAX as usize];
    let read = disk.open(SNAPSHOT_FILE)?.read_at(&mut bytes, 0)?;
    Ok(Stand::decode(&bytes[..read]))
}

/// What is left in a directory of a stream that broke: the files that need not be sent again from their beginnings.
pub fn begun(disk: &impl Disk) -> io::Result<Vec<v1::SnapshotBegun>> {
    let names = disk.list()?;
    // One that is whole was not wanted: it is dropped.
    if names.iter().any(|name| name == SNAPSHOT_FILE) {
        return Ok(Vec::new());
    }
    let mut have = Vec::new();
    // The manifest is small, and another each time.
    for name in names.into_iter().filter(|name| name != MANIFEST_FILE) {
        let file = Received { file: disk.open(&name)?, name: &name };
        let bytes = file.file.len()?;
        if bytes > 0 {
            let crc32 = checksum(&file, bytes).map_err(io::Error::other)?;
            have.push(v1::SnapshotBegun { name, bytes, crc32 });
        }
    }
    Ok(have)
}

/// See the module's front page.
pub struct Coming<D: Disk> {
    disk: D,
    stand: Stand,
    names: Vec<String>,
    /// Of which nothing was taken yet, the next first.
    waiting: VecDeque<v1::SnapshotFile>,
    file: Option<Growing<D::File>>,
}

/// A file of which there is a part.
struct Growing<F> {
    file: F,
    there: u64,
    bytes: u64,
}

impl<D: Disk> Coming<D> {
    /// Begins with what a sender says first. Of what is left in the directory only the files stay that are gone on with.
    pub fn begin(disk: D, head: v1::SnapshotHead) -> Result<Coming<D>, ComingError> {
        let members = Members::decode(&head.members).map_err(|error| wrong(error.to_string()))?;
        let stand = Stand { index: LogIndex(head.index), term: Term(head.term), members: Arc::new(members) };
        for v1::SnapshotFile { name, bytes, skipped } in &head.files {
            if name.contains('/') || name.starts_with('.') || name == SNAPSHOT_FILE {
                return Err(wrong("a file has a name that ours never have"));
            }
            if skipped > bytes {
                return Err(wrong("more of a file is not sent than there is"));
            }
        }
        let left = disk.list()?;
        if left.iter().any(|name| name == SNAPSHOT_FILE) {
            // First, so that nothing counts as whole any more.
            disk.remove(SNAPSHOT_FILE)?;
            disk.sync_directory()?;
        }
        let goes_on = |name: &str| head.files.iter().any(|file| file.skipped > 0 && file.name == name);
        for name in left.iter().filter(|name| *name != SNAPSHOT_FILE && !goes_on(name)) {
            disk.remove(name)?;
        }
        let names = head.files.iter().map(|file| file.name.clone()).collect();
        let mut coming = Coming { disk, stand, names, waiting: head.files.into(), file: None };
        coming.next_file()?;
        Ok(coming)
    }

    /// How large the file is that the next piece is of; none: everything is there.
    pub fn wants(&self) -> Option<u64> {
        self.file.as_ref().map(|growing| growing.bytes)
    }

    /// Takes the next piece.
    pub fn take(&mut self, piece: &v1::SnapshotBytes) -> Result<(), ComingError> {
        let Some(growing) = &mut self.file else { return Err(wrong("it goes on after its end")) };
        let grown = growing.there + piece.bytes.len() as u64;
        if grown > growing.bytes {
            return Err(wrong("a file is longer than it was said"));
        }
        if piece.bytes.is_empty() || crc32fast::hash(&piece.bytes) != piece.crc32 {
            return Err(wrong("a piece is damaged"));
        }
        growing.file.write_all_at(&piece.bytes, growing.there)?;
        growing.there = grown;
        self.next_file()
    }

    /// Opens the next file of which something is to come, once all of this one is there.
    fn next_file(&mut self) -> Result<(), ComingError> {
        loop {
            match &self.file {
                Some(growing) if growing.there < growing.bytes => return Ok(()),
                Some(growing) => growing.file.sync_data()?,
                None => {}
            }
            let Some(v1::SnapshotFile { name, bytes, skipped }) = self.waiting.pop_front() else {
                self.file = None;
                return Ok(());
            };
            let file = if skipped > 0 { self.disk.open(&name)? } else { self.disk.create(&name)? };
            if file.len()? != skipped {
                return Err(wrong("more of a file is not sent than is there"));
            }
            self.file = Some(Growing { file, there: skipped, bytes });
        }
    }

    /// Reads everything again and makes it durable. What is damaged is not gone on with.
    pub fn finish(self) -> Result<Stand, ComingError> {
        if self.file.is_some() {
            return Err(wrong("it ends early"));
        }
        for name in &self.names {
            let opened = self.disk.open(name).map(|file| Received { file, name });
            let checked = opened.map(|file| check_file(&file, &mut |_| true));
            let error = match checked {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            // What cannot be removed is found damaged again.
            let _ = self.disk.remove(name);
            return Err(wrong(error));
        }
        let file = self.disk.create(UNFINISHED)?;
        file.write_all_at(&self.stand.encode(), 0)?;
        file.sync_data()?;
        self.disk.sync_directory()?;
        self.disk.rename(UNFINISHED, SNAPSHOT_FILE)?;
        self.disk.sync_directory()?;
        Ok(self.stand)
    }
}

/// A file that has come, to be read.
struct Received<'n, F> {
    file: F,
    name: &'n str,
}

impl<F: DiskFile> Received<'_, F> {
    fn io(&self, error: io::Error) -> DirectoryError {
        DirectoryError::Io { action: "read", file: self.name.to_owned(), source: error }
    }
}

impl<F: DiskFile> Readable for Received<'_, F> {
    fn name(&self) -> &str {
        self.name
    }

    fn bytes(&self) -> Result<u64, DirectoryError> {
        self.file.len().map_err(|error| self.io(error))
    }

    fn read_range(&self, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        let mut at = range.start;
        let mut part = vec![0; PIECE_BYTES.min(range.end.saturating_sub(at) as usize)];
        while at < range.end {
            let wanted = part.len().min((range.end - at) as usize);
            let read = self.file.read_at(&mut part[..wanted], at).map_err(|error| self.io(error))?;
            if read == 0 {
                return Err(DirectoryError::Short { file: self.name.to_owned(), bytes: at, wanted: range.end });
            }
            each(&part[..read]);
            at += read as u64;
        }
        Ok(())
    }
}
