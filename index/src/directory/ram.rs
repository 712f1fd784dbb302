//! A directory in memory that fails on request: the twin of the real one, for tests of everything
//! above it.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Directory, DirectoryError, Mapped, NewFile, READ_STEP_BYTES, check_name};

/// The error of a disk that cannot read a block (`EIO`).
const UNREADABLE: i32 = 5;

/// Files in memory. Clones share them.
#[derive(Clone, Default)]
pub struct RamDirectory {
    disk: Arc<Mutex<Ram>>,
}

#[derive(Default)]
struct Ram {
    files: BTreeMap<String, Arc<Mapped>>,
    writes: u64,
    syncs: u64,
    fail_write: Option<(u64, Fault)>,
    fail_sync: Option<(u64, Fault)>,
    reads: u64,
    fail_read: Option<u64>,
    /// How many more bytes fit; none is without end.
    space: Option<u64>,
}

/// What a failing disk says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full.
    Full,
    /// The disk is broken.
    Broken,
}

impl Fault {
    fn error(self, action: &'static str, file: &str) -> DirectoryError {
        match self {
            Fault::Full => DirectoryError::Full(file.to_string()),
            Fault::Broken => {
                DirectoryError::Io { action, file: file.to_string(), source: io::Error::other("input/output error") }
            }
        }
    }
}

impl RamDirectory {
    /// An empty one that does not fail.
    pub fn new() -> RamDirectory {
        RamDirectory::default()
    }

    fn disk(&self) -> MutexGuard<'_, Ram> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `nth` write from now (0 is the next) fails, once.
    pub fn fail_write(&self, nth: u64, fault: Fault) {
        let mut disk = self.disk();
        disk.fail_write = Some((disk.writes + nth, fault));
    }

    /// The `nth` sync from now (0 is the next) fails, once.
    pub fn fail_sync(&self, nth: u64, fault: Fault) {
        let mut disk = self.disk();
        disk.fail_sync = Some((disk.syncs + nth, fault));
    }

    /// The `nth` read from now (1 is the next) fails as where a block cannot be read.
    pub fn fail_read(&self, nth: u64) {
        let mut disk = self.disk();
        disk.fail_read = Some(disk.reads + nth);
    }

    /// Takes back what [`RamDirectory::fail_read`] asked for.
    pub fn heal_reads(&self) {
        self.disk().fail_read = None;
    }

    /// Only this many more bytes fit; `None` is a disk without end.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.disk().space = bytes;
    }

    /// How many writes there were so far.
    pub fn writes(&self) -> u64 {
        self.disk().writes
    }

    /// A copy of a file's bytes.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.disk().files.get(name).map(|file| file.to_vec())
    }

    /// Puts any bytes under a name, as damage would; mappings that are held do not change.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let file = Arc::new(Mapped::from_slice(name, bytes));
        self.disk().files.insert(name.to_string(), file);
    }

    /// Flips one bit of a file, if it has that bit.
    pub fn flip(&self, name: &str, bit: usize) {
        if let Some(mut bytes) = self.bytes(name)
            && let Some(byte) = bytes.get_mut(bit / 8)
        {
            *byte ^= 1 << (bit % 8);
            self.put(name, &bytes);
        }
    }
}

impl Ram {
    fn write(&mut self, name: &str, bytes: usize) -> Result<(), DirectoryError> {
        let nth = self.writes;
        self.writes += 1;
        if let Some((_, fault)) = self.fail_write.take_if(|(at, _)| *at == nth) {
            return Err(fault.error("write", name));
        }
        if let Some(space) = &mut self.space {
            *space = space.checked_sub(bytes as u64).ok_or_else(|| DirectoryError::Full(name.to_string()))?;
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), DirectoryError> {
        let nth = self.syncs;
        self.syncs += 1;
        match self.fail_sync.take_if(|(at, _)| *at == nth) {
            Some((_, fault)) => Err(fault.error("sync", name)),
            None => Ok(()),
        }
    }

    fn read(&mut self, name: &str) -> Result<Arc<Mapped>, DirectoryError> {
        self.reads += 1;
        if self.fail_read == Some(self.reads) {
            let source = io::Error::from_raw_os_error(UNREADABLE);
            return Err(DirectoryError::Io { action: "read", file: name.to_string(), source });
        }
        self.get(name).map(Arc::clone)
    }

    fn get(&self, name: &str) -> Result<&Arc<Mapped>, DirectoryError> {
        check_name(name)?;
        self.files.get(name).ok_or_else(|| DirectoryError::Missing(name.to_string()))
    }
}

impl Directory for RamDirectory {
    fn create(&self, name: &str) -> Result<Box<dyn NewFile>, DirectoryError> {
        check_name(name)?;
        if self.disk().files.contains_key(name) {
            return Err(DirectoryError::Exists(name.to_string()));
        }
        let (directory, name) = (self.clone(), name.to_string());
        Ok(Box::new(RamNewFile { directory, name, bytes: Vec::new() }))
    }

    fn open(&self, name: &str) -> Result<Arc<Mapped>, DirectoryError> {
        let file = Arc::clone(self.disk().get(name)?);
        if file.is_empty() { Err(DirectoryError::Empty(name.to_string())) } else { Ok(file) }
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DirectoryError> {
        let file = self.disk().read(name)?;
        let bytes = file.len() as u64;
        if bytes > bytes_max {
            return Err(DirectoryError::TooLarge { file: name.to_string(), bytes, bytes_max });
        }
        Ok(file.to_vec())
    }

    fn read_range(&self, name: &str, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        let file = self.disk().read(name)?;
        let wanted = range.start.min(range.end) as usize..range.end as usize;
        let Some(part) = file.get(wanted) else {
            let (file, bytes) = (name.to_string(), file.len() as u64);
            return Err(DirectoryError::Short { file, bytes, wanted: range.end });
        };
        part.chunks(READ_STEP_BYTES).for_each(each);
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, DirectoryError> {
        Ok(self.disk().files.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        let mut disk = self.disk();
        disk.get(name)?;
        disk.files.remove(name);
        Ok(())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        check_name(name)?;
        let (directory, name) = (self.clone(), name.to_string());
        let mut file = Box::new(RamNewFile { directory, name, bytes: Vec::new() });
        file.write_all(bytes)?;
        file.finish()
    }

    fn len(&self, name: &str) -> Result<u64, DirectoryError> {
        Ok(self.disk().get(name)?.len() as u64)
    }
}

struct RamNewFile {
    directory: RamDirectory,
    name: String,
    bytes: Vec<u8>,
}

impl NewFile for RamNewFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.directory.disk().write(&self.name, bytes.len())?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.directory.disk().write(&self.name, 0)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let old = self.bytes.get_mut(start..start.saturating_add(bytes.len()));
        old.expect("only bytes that were appended are rewritten").copy_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), DirectoryError> {
        self.directory.disk().sync(&self.name)?;
        self.directory.put(&self.name, &self.bytes);
        Ok(())
    }
}
