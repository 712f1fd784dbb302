//! A table in a file, written while the table goes on changing.
//!
//! ```text
//!   header | block | block | ... | end           block = length (4), crc32 (4), entries
//!   entry  = tag (1), key length (2), deadline (8), version (8), length (8), key, value
//! ```
//!
//! A checkpoint begins a [`Saving`] while nobody writes. From then on each stripe is written down once, as it is before its
//! first change: by the checkpoint's thread when it comes to it, or by the writer when it is about to change it. So the
//! file holds the table as it was at the beginning, and nobody waits for more than one stripe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Table;
use super::entry::{Entry, Times, Value};
use super::keyspace::{Keyspace, STRIPES};
use super::objects::Object;
use crate::directory::{Directory, DirectoryError};

const MAGIC: &[u8; 8] = b"locitabl";
/// The version of the format this program writes, and the newest it reads.
pub(crate) const TABLE_FILE_VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
const BLOCK_HEADER_BYTES: usize = 8;
/// A block is written out once it has so many bytes.
const BLOCK_BYTES: usize = 256 << 10;
const ENTRY_BYTES: usize = 1 + 2 + 8 + 8 + 8;
/// Stands in the place of a block's length after the last.
const END: u32 = u32::MAX;

/// A checkpoint of one table under way.
pub(crate) struct Saving {
    wanted: Box<[AtomicBool]>,
    /// Stripes that the writer wrote down because it was about to change them.
    spilled: Mutex<Vec<u8>>,
}

impl Saving {
    fn new() -> Saving {
        Saving { wanted: (0..STRIPES).map(|_| AtomicBool::new(true)).collect(), spilled: Mutex::new(Vec::new()) }
    }

    /// Whether a stripe was not written down yet.
    pub fn is_wanted(&self, stripe: usize) -> bool {
        self.wanted[stripe].load(Ordering::Relaxed)
    }

    /// What was written down and waits to be taken.
    pub fn spilled_bytes(&self) -> usize {
        self.spilled.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Writes a stripe down before it changes.
    pub(super) fn spill<'e>(&self, stripe: usize, entries: impl Iterator<Item = &'e Entry>) {
        let mut spilled = self.spilled.lock().unwrap_or_else(PoisonError::into_inner);
        entries.for_each(|entry| encode(entry, &mut spilled));
        self.wanted[stripe].store(false, Ordering::Relaxed);
    }
}

fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let key = entry.key();
    let tag = match entry.value() {
        Value::String(_) => 0,
        Value::Object(object) => object.tag(),
    };
    out.push(tag);
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.extend_from_slice(&entry.times().deadline.to_le_bytes());
    out.extend_from_slice(&entry.version().to_le_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(key);
    let before = out.len();
    match entry.value() {
        Value::String(value) => out.extend_from_slice(value),
        Value::Object(object) => object.encode(out),
    }
    let len = (out.len() - before) as u64;
    out[at..at + 8].copy_from_slice(&len.to_le_bytes());
}

/// What is next in a block.
enum Next {
    Entry(Entry),
    /// There is not all of an entry.
    Cut,
    Damaged,
}

/// The next entry of a block.
fn decode(block: &mut &[u8]) -> Next {
    let Some((head, rest)) = block.split_first_chunk::<ENTRY_BYTES>() else { return Next::Cut };
    let key_len = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap_or_default());
    let (deadline, version) = (number(3), number(11));
    let Some((key, rest)) = rest.split_at_checked(key_len) else { return Next::Cut };
    let Some((value, rest)) = rest.split_at_checked(usize::try_from(number(19)).unwrap_or(usize::MAX)) else {
        return Next::Cut;
    };
    *block = rest;
    let times = Times { deadline, noted: 0 };
    match head[0] {
        0 if value.len() < u32::MAX as usize => Next::Entry(Entry::string(key, value, version, times, 0)),
        0 => Next::Damaged,
        tag => match Object::decode(tag, value).filter(|object| !object.is_empty()) {
            Some(object) => Next::Entry(Entry::object(key, object, version, times, 0)),
            None => Next::Damaged,
        },
    }
}

/// Writes a table to a file as it is when this is made.
pub(crate) struct Writer {
    table: Arc<Table>,
    saving: Arc<Saving>,
}

/// Stops the saving, however writing ended.
impl Drop for Writer {
    fn drop(&mut self) {
        self.table.write(|keyspace| keyspace.set_saving(None));
    }
}

impl Writer {
    /// Begins. Only the table's writer may, and only one at a time.
    pub fn begin(table: &Arc<Table>) -> Writer {
        let saving = Arc::new(Saving::new());
        table.write(|keyspace| keyspace.set_saving(Some(Arc::clone(&saving))));
        Writer { table: Arc::clone(table), saving }
    }

    /// Writes the file. `go_on` is asked now and then, and ends it early: then there is no file, and it says no.
    pub fn write(
        self,
        directory: &dyn Directory,
        name: &str,
        mut go_on: impl FnMut() -> bool,
    ) -> Result<bool, DirectoryError> {
        let mut file = directory.create(name)?;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&TABLE_FILE_VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        file.write_all(&header)?;
        let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
        for stripe in 0..STRIPES {
            self.table.read(|keyspace| {
                if self.saving.is_wanted(stripe) {
                    keyspace.stripe(stripe).for_each(|entry| encode(entry, &mut block));
                    // Nobody changes the stripe while it is read.
                    self.saving.wanted[stripe].store(false, Ordering::Relaxed);
                }
            });
            let spilled = std::mem::take(&mut *self.saving.spilled.lock().unwrap_or_else(PoisonError::into_inner));
            block.extend_from_slice(&spilled);
            if block.len() >= BLOCK_BYTES {
                if !go_on() {
                    return Ok(false);
                }
                write_block(&mut *file, &mut block)?;
            }
        }
        let spilled = std::mem::take(&mut *self.saving.spilled.lock().unwrap_or_else(PoisonError::into_inner));
        block.extend_from_slice(&spilled);
        if !block.is_empty() {
            write_block(&mut *file, &mut block)?;
        }
        file.write_all(&END.to_le_bytes())?;
        file.write_all(&crc32fast::hash(&END.to_le_bytes()).to_le_bytes())?;
        file.finish()?;
        Ok(true)
    }
}

fn write_block(file: &mut dyn crate::directory::NewFile, block: &mut Vec<u8>) -> Result<(), DirectoryError> {
    // A block is about a stripe: far below what its length can say, unless a stripe holds gigabytes; then it is cut, which
    // may be anywhere, because blocks are put together again when they are read.
    for part in block.chunks(1 << 30) {
        file.write_all(&(part.len() as u32).to_le_bytes())?;
        file.write_all(&crc32fast::hash(part).to_le_bytes())?;
        file.write_all(part)?;
    }
    block.clear();
    Ok(())
}

/// Why a file is no table.
#[derive(Debug)]
pub(crate) enum FileError {
    Foreign,
    NewerVersion(u32),
    Damaged { offset: u64, what: &'static str },
    Directory(DirectoryError),
}

impl From<DirectoryError> for FileError {
    fn from(error: DirectoryError) -> FileError {
        FileError::Directory(error)
    }
}

/// Reads a table from a file.
pub(crate) fn read(directory: &dyn Directory, name: &str, seed: u64) -> Result<Keyspace, FileError> {
    let damaged = |offset: usize, what| FileError::Damaged { offset: offset as u64, what };
    let mapped = directory.open(name)?;
    let file: &[u8] = &mapped;
    let header = file.first_chunk::<HEADER_BYTES>().ok_or(damaged(0, "it ends within its header"))?;
    if header[..8] != *MAGIC {
        return Err(FileError::Foreign);
    }
    if header[20..] != crc32fast::hash(&header[..20]).to_le_bytes() {
        return Err(damaged(0, "its header's checksum does not fit"));
    }
    let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
    if version != TABLE_FILE_VERSION {
        return Err(FileError::NewerVersion(version));
    }
    let mut keyspace = Keyspace::new(seed);
    let (mut at, mut left) = (HEADER_BYTES, Vec::new());
    loop {
        let head = file.get(at..at + BLOCK_HEADER_BYTES).ok_or(damaged(at, "it ends before its end"))?;
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len == END {
            let whole = crc == crc32fast::hash(&head[..4]) && at + BLOCK_HEADER_BYTES == file.len() && left.is_empty();
            return if whole { Ok(keyspace) } else { Err(damaged(at, "its end is not where it should be")) };
        }
        let start = at + BLOCK_HEADER_BYTES;
        let block = file.get(start..start + len as usize).ok_or(damaged(at, "it ends within a block"))?;
        if crc32fast::hash(block) != crc {
            return Err(damaged(at, "a block's checksum does not fit"));
        }
        let joined;
        let mut rest = if left.is_empty() {
            block
        } else {
            left.extend_from_slice(block);
            joined = std::mem::take(&mut left);
            &joined[..]
        };
        loop {
            match decode(&mut rest) {
                Next::Entry(entry) => {
                    if !keyspace.load(entry) {
                        return Err(damaged(at, "a key is there twice"));
                    }
                }
                Next::Damaged => return Err(damaged(at, "a value is not what it should be")),
                Next::Cut => break,
            }
        }
        // Only a block that was cut ends within an entry.
        if !rest.is_empty() && (len as usize) < 1 << 30 {
            return Err(damaged(at, "an entry is not what it should be"));
        }
        left = rest.to_vec();
        at = start + len as usize;
    }
}
