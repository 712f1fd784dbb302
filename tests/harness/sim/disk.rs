//! Disks that break promises: one under a log that forgets the names of files, one under a store that dies in the middle of
//! a job.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use loci_index::directory::{Directory, DirectoryError, Mapped, NewFile, RamDirectory};
use loci_raft::{Disk, DiskFile, MemoryDisk};

use super::planted::Planted;

/// A disk in memory, under a log. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    /// What it is.
    pub memory: MemoryDisk,
    full: Arc<AtomicBool>,
    planted: Option<Planted>,
}

impl SimDisk {
    /// An empty one.
    pub fn new(planted: Option<Planted>) -> SimDisk {
        SimDisk { memory: MemoryDisk::new(), full: Arc::default(), planted }
    }

    /// Limits the bytes of all files together, or does not any more.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.full.store(bytes.is_some(), Ordering::Relaxed);
        self.memory.set_capacity(bytes);
    }

    fn file(&self, file: <MemoryDisk as Disk>::File) -> SimFile {
        let half = self.planted == Some(Planted::HalfIsWritten);
        SimFile { file, half: half.then(|| self.full.clone()) }
    }
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub struct SimFile {
    file: <MemoryDisk as Disk>::File,
    /// Planted: while this is so, half of what is written is not, and nobody says so.
    half: Option<Arc<AtomicBool>>,
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_there = offset + bytes.len() as u64 <= self.file.len()?;
        let half = is_there && self.half.as_ref().is_some_and(|full| full.load(Ordering::Relaxed));
        self.file.write_all_at(if half { &bytes[..bytes.len() / 2] } else { bytes }, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.memory.list()
    }

    fn create(&self, name: &str) -> io::Result<Self::File> {
        self.memory.create(name).map(|file| self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Self::File> {
        self.memory.open(name).map(|file| self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.memory.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.memory.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        if self.planted == Some(Planted::ForgetTheNames) { Ok(()) } else { self.memory.sync_directory() }
    }
}

/// A directory that takes so many changes and no more, as a machine does whose power is cut. A file is a change when it gets
/// its name: until then it never existed.
#[derive(Clone)]
pub struct DyingDirectory {
    files: RamDirectory,
    left: Arc<AtomicU64>,
}

impl DyingDirectory {
    /// One that dies after so many changes.
    pub fn new(files: RamDirectory, changes: u64) -> DyingDirectory {
        DyingDirectory { files, left: Arc::new(AtomicU64::new(changes)) }
    }

    /// Whether it has died, or the next change would be its last moment.
    pub fn is_dead(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    fn change(&self, file: &str) -> Result<(), DirectoryError> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let dead = || io::Error::other("the power is gone");
        taken.map(drop).map_err(|_| DirectoryError::Io { action: "write", file: file.to_string(), source: dead() })
    }
}

impl Directory for DyingDirectory {
    fn create(&self, name: &str) -> Result<Box<dyn NewFile>, DirectoryError> {
        let (directory, name, file) = (self.clone(), name.to_string(), self.files.create(name)?);
        Ok(Box::new(DyingFile { directory, name, file }))
    }

    fn open(&self, name: &str) -> Result<Arc<Mapped>, DirectoryError> {
        self.files.open(name)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DirectoryError> {
        self.files.read(name, bytes_max)
    }

    fn read_range(&self, name: &str, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        self.files.read_range(name, range, each)
    }

    fn list(&self) -> Result<Vec<String>, DirectoryError> {
        self.files.list()
    }

    fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        self.change(name)?;
        self.files.remove(name)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.change(name)?;
        self.files.replace(name, bytes)
    }

    fn len(&self, name: &str) -> Result<u64, DirectoryError> {
        self.files.len(name)
    }
}

struct DyingFile {
    directory: DyingDirectory,
    name: String,
    file: Box<dyn NewFile>,
}

impl NewFile for DyingFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.file.write_all(bytes)
    }

    fn position(&self) -> u64 {
        self.file.position()
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.file.rewrite(offset, bytes)
    }

    fn finish(self: Box<Self>) -> Result<(), DirectoryError> {
        self.directory.change(&self.name)?;
        self.file.finish()
    }
}
