//! Files that are read to be checked: in parts, from the beginning to the end, once.
//!
//! ```text
//!   a part of an OpenFile:  in memory already? --yes--> copied, and left as it is
//!                                              '--no--> read from the disk, copied, and let go again
//! ```
//!
//! What is only read for its checksum is not needed again soon, so checking a cold file pushes nothing out of memory that is
//! hot. What a mapping holds stays in any case.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::{Directory, DirectoryError, MmapDirectory, READ_STEP_BYTES, check_name};

/// So much is looked for in memory at a time.
const PART_BYTES: usize = 256 << 10;

/// A file that can be read in parts.
pub trait Readable {
    /// Its name in its directory.
    fn name(&self) -> &str;

    /// Its size.
    fn bytes(&self) -> Result<u64, DirectoryError>;

    /// Shows a part of it to `each`, in order, at most [`READ_STEP_BYTES`] at a time. A file that ends
    /// before the range does is an error.
    fn read_range(&self, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError>;
}

/// The checksum of a part. Before each step of it `go_on` is asked, with the step's bytes; after a no there is none.
pub(crate) fn checksum(
    file: &dyn Readable,
    range: Range<u64>,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<u32>, DirectoryError> {
    let (mut at, mut hasher) = (range.start, crc32fast::Hasher::new());
    while at < range.end {
        let next = range.end.min(at + READ_STEP_BYTES as u64);
        if !go_on(next - at) {
            return Ok(None);
        }
        file.read_range(at..next, &mut |part| hasher.update(part))?;
        at = next;
    }
    Ok(Some(hasher.finalize()))
}

/// A file by its name: each part is looked up anew.
pub struct Named<'a> {
    /// Where it is.
    pub directory: &'a dyn Directory,
    /// Its name.
    pub name: &'a str,
}

impl Readable for Named<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn bytes(&self) -> Result<u64, DirectoryError> {
        self.directory.len(self.name)
    }

    fn read_range(&self, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        self.directory.read_range(self.name, range, each)
    }
}

/// A file that is open: all parts are of the same one, whatever becomes of its name.
pub struct OpenFile {
    file: File,
    name: String,
}

impl MmapDirectory {
    /// Opens a file to be checked.
    pub fn open_to_check(&self, name: &str) -> Result<OpenFile, DirectoryError> {
        check_name(name)?;
        let file = File::open(self.path().join(name)).map_err(|e| DirectoryError::io("open", name, e))?;
        Ok(OpenFile::new(file, name))
    }
}

impl OpenFile {
    /// A file of ours that is open, and its name. Where it is read next does not change.
    pub fn new(file: File, name: &str) -> OpenFile {
        #[cfg(target_os = "linux")]
        {
            // Reading ahead would have the next part in memory, and nobody would know that it was not there before.
            let advised = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random);
            if let Err(error) = advised {
                tracing::debug!(file = name, %error, "advice was not taken");
            }
        }
        OpenFile { file, name: name.to_owned() }
    }

    /// How much of the part at `offset` is in memory; that much was copied.
    #[cfg(target_os = "linux")]
    fn read_resident(&self, part: &mut [u8], offset: u64) -> usize {
        use rustix::io::{ReadWriteFlags, preadv2};
        let mut parts = [std::io::IoSliceMut::new(part)];
        // A file system that cannot say has nothing in memory, as far as anybody knows.
        preadv2(&self.file, &mut parts, offset, ReadWriteFlags::NOWAIT).unwrap_or(0)
    }

    #[cfg(not(target_os = "linux"))]
    fn read_resident(&self, _: &mut [u8], _: u64) -> usize {
        0
    }

    /// Lets go of what was read only for this.
    fn let_go(&self, offset: u64, bytes: usize) {
        #[cfg(target_os = "linux")]
        {
            let len = std::num::NonZeroU64::new(bytes as u64);
            // Advice only: without it more stays in memory than is needed.
            let _ = rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::DontNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, bytes);
    }
}

impl Readable for OpenFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn bytes(&self) -> Result<u64, DirectoryError> {
        let metadata = self.file.metadata().map_err(|e| DirectoryError::io("read", &self.name, e))?;
        Ok(metadata.len())
    }

    fn read_range(&self, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        let bytes = self.bytes()?;
        if range.end > bytes {
            return Err(DirectoryError::Short { file: self.name.clone(), bytes, wanted: range.end });
        }
        let left = range.end.saturating_sub(range.start);
        let mut buffer = vec![0; PART_BYTES.min(usize::try_from(left).unwrap_or(PART_BYTES))];
        let mut at = range.start;
        while at < range.end {
            let take = buffer.len().min(usize::try_from(range.end - at).unwrap_or(PART_BYTES));
            let part = &mut buffer[..take];
            let resident = self.read_resident(part, at).min(take);
            if resident < take {
                let from = at + resident as u64;
                self.file
                    .read_exact_at(&mut part[resident..], from)
                    .map_err(|e| DirectoryError::io("read", &self.name, e))?;
                self.let_go(from, take - resident);
            }
            each(part);
            at += take as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_of_the_file_that_was_opened() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let directory = MmapDirectory::open(place.path()).expect("opens");
        let bytes: Vec<u8> = (0..PART_BYTES * 3 + 17).map(|i| (i % 251) as u8).collect();
        let mut file = directory.create("a").expect("creates");
        file.write_all(&bytes).expect("writes");
        file.finish().expect("finishes");
        let opened = directory.open_to_check("a").expect("opens");
        directory.replace("a", b"another").expect("replaces");
        let read = |range: Range<u64>| {
            let mut seen = Vec::new();
            opened.read_range(range, &mut |part| seen.extend_from_slice(part)).map(|()| seen)
        };
        let end = opened.bytes().expect("it has a size");
        for range in [0..end, 3..end - 5, 4096..PART_BYTES as u64 + 4096, 7..7] {
            let expected = &bytes[range.start as usize..range.end as usize];
            assert!(read(range.clone()).expect("reads") == expected, "{range:?}");
        }
        assert!(matches!(read(0..end + 1), Err(DirectoryError::Short { .. })));
        assert!(matches!(directory.open_to_check("../a"), Err(DirectoryError::Name(_))));
        assert!(matches!(directory.open_to_check("b"), Err(DirectoryError::Missing(_))));
    }
}
