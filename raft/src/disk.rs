//! The disk: one directory of files, the place where this machine can fail under the log.
//!
//! ```text
//!            Disk                                  Disk::File
//!   list  create  open  rename  remove      read_at  write_all_at  sync_data  len
//!   sync_directory
//! ```
//!
//! What the log may rely on, and nothing more:
//! - bytes written before a successful [`DiskFile::sync_data`] survive a power cut;
//! - a sector (512 bytes) that was not synced is afterwards old or new, torn in the middle at worst
//!   into a beginning that is new and a rest that is old;
//! - created, renamed and removed names survive once [`Disk::sync_directory`] has returned;
//! - after a failed sync nothing is known about what was written since the one before.
//!
//! [`FileDisk`] is a real directory, [`MemoryDisk`] its twin that loses, tears and refuses on request.

mod memory;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use memory::MemoryDisk;

/// The system keeps what it read in pieces of at most so many bytes.
#[cfg(target_os = "linux")]
const CACHED_BYTES_MAX: u64 = 2 << 20;

/// One directory of files where a machine can fail.
pub trait Disk: Send + 'static {
    /// An open file.
    type File: DiskFile;

    /// The names of all files, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Makes a new, empty file for reading and writing; an error if the name is taken.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Gives a file another name, replacing a file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes every create, rename and remove so far survive a power cut.
    fn sync_directory(&self) -> io::Result<()>;
}

/// An open file of a [`Disk`]. One thread writes; any number may read at the same time.
pub trait DiskFile: Send + Sync + 'static {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes, growing the file when they reach beyond its end.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes everything written so far, and the length, survive a power cut.
    fn sync_data(&self) -> io::Result<()>;

    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Lets memory forget what it has of a part, if it keeps any, so that the next reading is one of the disk. May do nothing.
    fn drop_cached(&self, _offset: u64, _bytes: u64) {}
}

/// A directory of the file system, held by one process at a time.
#[derive(Debug)]
pub struct FileDisk {
    path: PathBuf,
    /// Open for syncing, and locked for as long as this value lives.
    directory: File,
}

impl FileDisk {
    /// Opens the directory, making it if it is missing, and locks it.
    ///
    /// Fails with [`io::ErrorKind::WouldBlock`] when another process holds it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<FileDisk> {
        let path = path.as_ref().to_path_buf();
        if !path.is_dir() {
            fs::create_dir_all(&path)?;
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
        }
        let directory = File::open(&path)?;
        rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            let kind = io::Error::from(error).kind();
            io::Error::new(kind, format!("{} is in use by another process", path.display()))
        })?;
        Ok(FileDisk { path, directory })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Disk for FileDisk {
    type File = File;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        // What is in it is nobody else's business.
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn drop_cached(&self, offset: u64, bytes: u64) {
        // What is cached in one piece goes only if all of it is meant.
        let start = offset / CACHED_BYTES_MAX * CACHED_BYTES_MAX;
        let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(CACHED_BYTES_MAX));
        // None: all that follows.
        let len = end.and_then(|end| std::num::NonZeroU64::new(end - start));
        // Advice only: a file system without a disk, and what is being written, keep what they have.
        let _ = rustix::fs::fadvise(self, start, len, rustix::fs::Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<D: Disk>(disk: &D) {
        let file = disk.create("a").unwrap();
        file.drop_cached(0, 0);
        assert!(disk.create("a").is_err());
        assert!(disk.open("b").is_err());
        file.write_all_at(b"hello", 3).unwrap();
        file.sync_data().unwrap();
        assert_eq!(file.len().unwrap(), 8);
        file.drop_cached(5, 1);
        file.drop_cached(7, u64::MAX);
        let mut bytes = [9; 10];
        assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 8);
        assert_eq!(&bytes, b"\0\0\0hello\x09\x09");
        assert_eq!(file.read_at(&mut bytes, 100).unwrap(), 0);
        disk.create("b").unwrap();
        disk.rename("a", "b").unwrap();
        disk.sync_directory().unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        assert_eq!(disk.open("b").unwrap().len().unwrap(), 8);
        disk.remove("b").unwrap();
        assert!(disk.remove("b").is_err());
        assert!(disk.list().unwrap().is_empty());
    }

    #[test]
    fn a_directory_and_its_twin_in_memory_behave_alike() {
        let directory = tempfile::tempdir().unwrap();
        check(&FileDisk::open(directory.path().join("made/on/demand")).unwrap());
        check(&MemoryDisk::new());
    }

    #[test]
    fn a_directory_belongs_to_one_process() {
        let directory = tempfile::tempdir().unwrap();
        let first = FileDisk::open(directory.path()).unwrap();
        let second = FileDisk::open(directory.path()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        assert!(second.to_string().contains("in use"), "{second}");
        drop(first);
        FileDisk::open(directory.path()).unwrap();
    }
}
