//! Damage: what is done about a file that is no longer what was written.
//!
//! ```text
//!   merge --> new segment --> sources sound? --yes--> installed
//!                                   |
//!   check_file: any file, any time  '--no--> the new one goes, the error names file and place
//!                  |                                |
//!                  '--> note_damage <---------------'
//!                         a segment       never read by a merge again; its records are somewhere else, if anywhere
//!                         anything else   memory has what was in it: the next checkpoint writes it anew
//! ```
//!
//! Sources are checked after they were read: what is damaged stays so, and whoever reads it later sees it too. One reading is not
//! believed, because memory and cables err too: what is right the next time was read wrong, and the merge with it, which is done
//! again. And what was found damaged twice and is right later can be read again ([`Store::note_sound`]).
//!
//! Always:
//! - what is wrong under a checksum never comes to lie under a right one;
//! - what counts as damaged was found so of two readings.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Job, JobError, Task};
use crate::directory::{Directory, DirectoryError, Named, Readable, checksum};
use crate::framed::{self, FramedError};
use crate::manifest::{FileName, MANIFEST_FILE};
use crate::record::Position;
use crate::sealed::Sealed;
use crate::segment::{self, SegmentError};
use crate::store::{Store, StoreError, checkpoint_files};
use crate::table::file::{self, FileError, TABLE_FILE_VERSION};
use crate::way;

/// What can be done about a damaged file of a store that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It holds records that nothing here has besides. It is read as before, but nothing of it is written elsewhere.
    Elsewhere,
    /// Memory has what was in it, and it will be written anew.
    Renewed,
    /// It is no file of this store, or none any more.
    NotNeeded,
}

/// Reads all of a store's file and compares it with its checksums. Before each part `go_on` is asked, with the part's bytes; a no
/// ends it, and is the answer.
pub fn check_file(file: &dyn Readable, go_on: &mut dyn FnMut(u64) -> bool) -> Result<bool, StoreError> {
    let name = file.name();
    match FileName::parse(name) {
        Some(FileName::Segment(_)) => Ok(segment::check(file, go_on)?),
        Some(FileName::Table(_)) => file::check(file, go_on).map_err(|error| match error {
            FileError::Foreign => StoreError::Foreign { file: name.into() },
            FileError::NewerVersion(version) => {
                StoreError::NewerVersion { file: name.into(), version, known: TABLE_FILE_VERSION }
            }
            FileError::Damaged { offset, what } => StoreError::Damaged { file: name.into(), offset, what: what.into() },
            FileError::Directory(error) => StoreError::Directory(error),
        }),
        Some(FileName::Ends(_) | FileName::Requests(_)) => check_framed(file, go_on),
        None if name == MANIFEST_FILE => check_framed(file, go_on),
        // Whoever has put it there knows what it is to be.
        None => Ok(true),
    }
}

fn check_framed(file: &dyn Readable, go_on: &mut dyn FnMut(u64) -> bool) -> Result<bool, StoreError> {
    let damaged = |what: String, offset: u64| StoreError::Damaged { file: file.name().into(), offset, what };
    let bytes = file.bytes()?;
    let mut header = Vec::new();
    file.read_range(0..bytes.min(framed::HEADER_BYTES as u64), &mut |part| header.extend_from_slice(part))?;
    let header = header.first_chunk().ok_or_else(|| damaged("it ends within its header".into(), bytes))?;
    let (length, crc) = framed::promised(header).map_err(|error| match error {
        FramedError::Damaged { what, offset } => damaged(what, offset),
        error => damaged(error.to_string(), 0),
    })?;
    let body = framed::HEADER_BYTES as u64..bytes;
    let start = body.start;
    if body.end - start != length {
        return Err(damaged(format!("its body has {} bytes instead of {length}", body.end - start), start));
    }
    match checksum(file, body, go_on)? {
        Some(computed) if computed == crc => Ok(true),
        Some(_) => Err(damaged("its body's checksum does not fit".into(), start)),
        None => Ok(false),
    }
}

/// The files that a store needs to be opened again, the manifest first.
pub fn named_files(directory: &dyn Directory) -> Result<Vec<String>, StoreError> {
    let (_, _, files) = checkpoint_files(directory)?;
    Ok([MANIFEST_FILE.to_owned()].into_iter().chain(files).collect())
}

/// What a merge has written, if what it read is sound: of sources of which it read anything.
pub(super) fn sound(
    written: Result<Option<Arc<Sealed>>, JobError>,
    directory: &dyn Directory,
    sources: &[Arc<Sealed>],
    position: Position,
    cancel: &AtomicBool,
) -> Result<Option<Arc<Sealed>>, JobError> {
    let disk = matches!(&written, Err(JobError::Directory(_) | JobError::Segment(SegmentError::Directory(_))));
    if disk || matches!(&written, Err(JobError::Cancelled)) {
        return written;
    }
    for sealed in sources {
        if (0..sealed.len()).all(|row| sealed.end(row) <= position) {
            continue;
        }
        let name = FileName::Segment(sealed.file).to_string();
        let mut go_on = |_| {
            way::give();
            !cancel.load(Ordering::Relaxed)
        };
        let file = Named { directory, name: &name };
        let error = match segment::check(&file, &mut go_on) {
            Ok(true) => continue,
            Ok(false) => return Err(JobError::Cancelled),
            Err(error) if is_damaged(&error) => error,
            Err(error) => return Err(error.into()),
        };
        return Err(match segment::check(&file, &mut go_on) {
            // What was written of it may be what was read wrong.
            Ok(true) => JobError::Misread { file: name, error },
            Ok(false) => JobError::Cancelled,
            Err(error) if is_damaged(&error) => JobError::Damaged { file: name, error },
            Err(error) => error.into(),
        });
    }
    written
}

/// Reads all of a store's file as [`check_file`] does, and where it looks damaged once more: then `again` is told of the first
/// error. What is said is what the last reading found.
pub fn check_file_twice(
    file: &dyn Readable,
    go_on: &mut dyn FnMut(u64) -> bool,
    again: impl FnOnce(&StoreError),
) -> Result<bool, StoreError> {
    match check_file(file, go_on) {
        Err(error) if error.is_damage() => again(&error),
        other => return other,
    }
    check_file(file, go_on)
}

/// The error of a disk that cannot read a block (`EIO`).
const UNREADABLE: i32 = 5;

impl StoreError {
    /// Whether the store, or a file of it, is damaged, and not only in the wrong hands.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Missing | StoreError::Foreign { .. } | StoreError::Damaged { .. } => true,
            StoreError::Segment(error) => is_damaged(error),
            StoreError::Directory(error) => is_unreadable(error),
            StoreError::Exists | StoreError::NewerVersion { .. } => false,
        }
    }
}

fn is_damaged(error: &SegmentError) -> bool {
    match error {
        SegmentError::Corrupt { .. } | SegmentError::NotASegment(_) => true,
        SegmentError::Directory(error) => is_unreadable(error),
        _ => false,
    }
}

fn is_unreadable(error: &DirectoryError) -> bool {
    match error {
        DirectoryError::Missing(_)
        | DirectoryError::Empty(_)
        | DirectoryError::TooLarge { .. }
        | DirectoryError::Short { .. } => true,
        DirectoryError::Io { source, .. } => source.raw_os_error() == Some(UNREADABLE),
        DirectoryError::Name(_) | DirectoryError::Exists(_) | DirectoryError::Full(_) => false,
    }
}

impl Job {
    /// The files whose records it writes again.
    pub fn sources(&self) -> Vec<String> {
        match &self.0 {
            Task::Checkpoint(_) => Vec::new(),
            Task::Merge(merge) => {
                merge.sources.iter().map(|sealed| FileName::Segment(sealed.file).to_string()).collect()
            }
        }
    }
}

impl Store {
    /// Takes in that one of its files is not what was written.
    pub fn note_damage(&mut self, name: &str) -> Remedy {
        let work = &mut self.work;
        match FileName::parse(name) {
            Some(FileName::Segment(number)) => {
                let mut segments = self.collections.iter().flat_map(|state| &state.shared.segments);
                if let Some(sealed) = segments.find(|sealed| sealed.file == number) {
                    sealed.note_damage();
                    return Remedy::Elsewhere;
                }
                // Merged away, and the manifest names it until there is another: whoever opened the store would read it.
                let is_made = work.merging.as_ref().is_some_and(|merging| merging.file == number);
                if is_made || !work.files.contains(&FileName::Segment(number)) {
                    return Remedy::NotNeeded;
                }
            }
            Some(FileName::Ends(number)) => work.ends.retain(|_, (_, file)| *file != number),
            Some(FileName::Requests(number)) => {
                work.requests = work.requests.filter(|(_, file)| *file != Some(number));
            }
            Some(FileName::Table(number)) => {
                for state in &mut self.collections {
                    state.table.saved = state.table.saved.filter(|(_, file)| *file != number);
                }
            }
            None if name == MANIFEST_FILE => {}
            None => return Remedy::NotNeeded,
        }
        work.outdated = true;
        self.request_checkpoint();
        Remedy::Renewed
    }

    /// Takes in that a segment's file is what was written after all: it can be merged again.
    pub fn note_sound(&mut self, name: &str) {
        let Some(FileName::Segment(number)) = FileName::parse(name) else { return };
        let segments = self.collections.iter().flat_map(|state| &state.shared.segments);
        segments.filter(|sealed| sealed.file == number).for_each(|sealed| sealed.note_sound());
        self.work.look = true;
    }
}
