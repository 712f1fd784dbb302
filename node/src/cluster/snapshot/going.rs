//! What of a snapshot is to go: the files of a checkpoint, piece by piece, to wherever the pieces go.
//!
//! Always: a file is checked before its first piece goes, and what is damaged does not go.

use std::collections::VecDeque;

use loci_index::directory::{DirectoryError, Readable};
use loci_index::store::{MANIFEST_FILE, StoreError, check_file_twice};
use loci_wire::v1;

use super::{Stand, checksum};

/// A file that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("its own file is damaged: {error}")]
pub struct Unsendable {
    /// Its name.
    pub file: String,
    /// What is wrong with it.
    pub error: StoreError,
}

/// See the module's front page.
pub struct Going<F> {
    /// The next first.
    files: VecDeque<Leaving<F>>,
}

/// A file of which there is a part left to go.
struct Leaving<F> {
    file: F,
    gone: u64,
    bytes: u64,
    /// Whether every byte of it is what was written.
    sound: bool,
}

impl<F: Readable> Going<F> {
    /// These files, of which whoever is to get them has what `have` says. What is said first comes with it.
    pub fn begin(
        stand: &Stand,
        files: Vec<F>,
        have: &[v1::SnapshotBegun],
    ) -> Result<(v1::SnapshotHead, Going<F>), DirectoryError> {
        let (mut told, mut leaving) = (Vec::new(), VecDeque::new());
        for file in files {
            let (name, bytes) = (file.name().to_owned(), file.bytes()?);
            let begun = have.iter().find(|begun| begun.name == name && begun.bytes <= bytes);
            let skipped = match begun {
                Some(begun) if checksum(&file, begun.bytes)? == begun.crc32 => begun.bytes,
                _ => 0,
            };
            // The manifest is a copy of what was read and understood.
            let sound = name == MANIFEST_FILE;
            told.push(v1::SnapshotFile { name, bytes, skipped });
            leaving.push_back(Leaving { file, gone: skipped, bytes, sound });
        }
        let mut members = Vec::new();
        stand.members.encode(&mut members);
        let head = v1::SnapshotHead { index: stand.index.0, term: stand.term.0, members: members.into(), files: told };
        Ok((head, Going { files: leaving }))
    }

    /// The next piece, of so many bytes at most; none: that was all. A file is read before its first, twice if it looks damaged, and
    /// before each part of it `go_on` is asked, with the part's bytes; a no ends that.
    pub fn next(
        &mut self,
        bytes_max: usize,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<v1::SnapshotBytes>, Unsendable> {
        while self.files.front().is_some_and(|leaving| leaving.gone == leaving.bytes) {
            self.files.pop_front();
        }
        let Some(leaving) = self.files.front_mut() else { return Ok(None) };
        match leaving.piece(bytes_max, go_on) {
            Ok(piece) => Ok(Some(piece)),
            Err(error) => Err(Unsendable { file: leaving.file.name().to_owned(), error }),
        }
    }
}

impl<F: Readable> Leaving<F> {
    fn piece(&mut self, bytes_max: usize, go_on: &mut dyn FnMut(u64) -> bool) -> Result<v1::SnapshotBytes, StoreError> {
        if !self.sound {
            let again = |error: &StoreError| {
                tracing::warn!(file = self.file.name(), %error, "a file looks damaged, and is read once more");
            };
            check_file_twice(&self.file, go_on, again)?;
            self.sound = true;
        }
        let next = self.bytes.min(self.gone + bytes_max as u64);
        let mut piece = Vec::with_capacity((next - self.gone) as usize);
        self.file.read_range(self.gone..next, &mut |part| piece.extend_from_slice(part))?;
        self.gone = next;
        Ok(v1::SnapshotBytes { crc32: crc32fast::hash(&piece), bytes: piece.into() })
    }
}
