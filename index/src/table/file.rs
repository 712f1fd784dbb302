//! A table in a file, written while the table goes on changing.
//!
//! ```text
//!   header | block | block | ... | end           block = length (4), crc32 (4), entries
//!   entry  = tag (1), key length (2), deadline (8), version (8), length (8), key, value, tags if it has any
//!   tags   = count (2), then each: length (2), bytes           the highest bit of an entry's tag says that it has tags
//! ```
//!
//! Version 2 is version 1 with tags; a file without any is of version 1, so that an older program reads what it can understand.
//!
//! A checkpoint begins a [`Saving`] while nobody writes. From then on each stripe is written down once, as it is before its
//! first change: by the checkpoint's thread when it comes to it, or by the writer when it is about to change it. So the
//! file holds the table as it was at the beginning, and nobody waits for more than one stripe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Table;
use super::entry::{Entry, Times, Value};
use super::keyspace::{Keyspace, STRIPES, TagNames};
use super::objects::Object;
use super::tags::Tags;
use crate::directory::{Directory, DirectoryError, Readable, checksum};

const MAGIC: &[u8; 8] = b"locitabl";
/// The version of the format this program writes, and the newest it reads.
pub(crate) const TABLE_FILE_VERSION: u32 = 2;
const HEADER_BYTES: usize = 24;
const BLOCK_HEADER_BYTES: usize = 8;
/// A block is written out once it has so many bytes.
const BLOCK_BYTES: usize = 256 << 10;
const ENTRY_BYTES: usize = 1 + 2 + 8 + 8 + 8;
/// In an entry's tag: it has tags.
const TAGGED: u8 = 0x80;
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
    pub(super) fn spill<'e>(&self, stripe: usize, entries: impl Iterator<Item = &'e Entry>, tags: Option<&Tags>) {
        let mut spilled = self.spilled.lock().unwrap_or_else(PoisonError::into_inner);
        entries.for_each(|entry| encode(entry, tags, &mut spilled));
        self.wanted[stripe].store(false, Ordering::Relaxed);
    }
}

fn encode(entry: &Entry, tags: Option<&Tags>, out: &mut Vec<u8>) {
    let key = entry.key();
    let mut tags: Vec<&[u8]> = tags.into_iter().flat_map(|tags| tags.of(key)).collect();
    tags.sort_unstable();
    let tag = match entry.value() {
        Value::String(_) => 0,
        Value::Object(object) => object.tag(),
    };
    out.push(if tags.is_empty() { tag } else { tag | TAGGED });
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
    if !tags.is_empty() {
        out.extend_from_slice(&(tags.len() as u16).to_le_bytes());
        for tag in tags {
            out.extend_from_slice(&(tag.len() as u16).to_le_bytes());
            out.extend_from_slice(tag);
        }
    }
}

/// What is next in a block.
enum Next {
    Entry(Entry, TagNames),
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
    let mut rest = rest;
    let tags = match head[0] & TAGGED {
        0 => TagNames::new(),
        _ => match decode_tags(&mut rest) {
            Some(tags) => tags,
            None => return Next::Cut,
        },
    };
    *block = rest;
    let times = Times { deadline, noted: 0 };
    match head[0] & !TAGGED {
        0 if value.len() < u32::MAX as usize => Next::Entry(Entry::string(key, value, version, times, 0), tags),
        0 => Next::Damaged,
        tag => match Object::decode(tag, value).filter(|object| !object.is_empty()) {
            Some(object) => Next::Entry(Entry::object(key, object, version, times, 0), tags),
            None => Next::Damaged,
        },
    }
}

/// The tags of an entry; none: there is not all of them.
fn decode_tags(rest: &mut &[u8]) -> Option<TagNames> {
    let number = |rest: &mut &[u8]| {
        let (number, after) = rest.split_first_chunk()?;
        *rest = after;
        Some(usize::from(u16::from_le_bytes(*number)))
    };
    let mut tags = TagNames::new();
    for _ in 0..number(rest)? {
        let len = number(rest)?;
        let (tag, after) = rest.split_at_checked(len)?;
        *rest = after;
        tags.push(tag.into());
    }
    Some(tags)
}

/// Writes a table to a file as it is when this is made.
pub(crate) struct Writer {
    table: Arc<Table>,
    saving: Arc<Saving>,
    version: u32,
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
        let version = table.write(|keyspace| {
            keyspace.set_saving(Some(Arc::clone(&saving)));
            if keyspace.tags().is_some() { TABLE_FILE_VERSION } else { 1 }
        });
        Writer { table: Arc::clone(table), saving, version }
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
        header.extend_from_slice(&self.version.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
        file.write_all(&header)?;
        let mut block = Vec::with_capacity(BLOCK_BYTES * 2);
        for stripe in 0..STRIPES {
            self.table.read(|keyspace| {
                if self.saving.is_wanted(stripe) {
                    keyspace.stripe(stripe).for_each(|entry| encode(entry, keyspace.tags(), &mut block));
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
    if version == 0 || version > TABLE_FILE_VERSION {
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
                Next::Entry(entry, tags) => {
                    if !keyspace.load(entry, &tags) {
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

/// Reads all of a table's file and compares it with its checksums, entries aside. Before each part `go_on` is asked, with the
/// part's bytes; a no ends it, and is the answer.
pub(crate) fn check(file: &dyn Readable, go_on: &mut dyn FnMut(u64) -> bool) -> Result<bool, FileError> {
    let damaged = |offset: u64, what| FileError::Damaged { offset, what };
    let bytes = file.bytes()?;
    let read = |at: u64, len: usize, what| -> Result<Vec<u8>, FileError> {
        let end = at + len as u64;
        if end > bytes {
            return Err(damaged(at, what));
        }
        let mut read = Vec::with_capacity(len);
        file.read_range(at..end, &mut |part| read.extend_from_slice(part))?;
        Ok(read)
    };
    let number = |bytes: &[u8], at: usize| {
        bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |number| u32::from_le_bytes(*number))
    };
    let header = read(0, HEADER_BYTES, "it ends within its header")?;
    if number(&header, 20) != crc32fast::hash(&header[..20]) {
        return Err(damaged(0, "its header's checksum does not fit"));
    }
    let mut at = HEADER_BYTES as u64;
    loop {
        let head = read(at, BLOCK_HEADER_BYTES, "it ends before its end")?;
        let (len, crc) = (number(&head, 0), number(&head, 4));
        let start = at + BLOCK_HEADER_BYTES as u64;
        if len == END {
            let whole = crc == crc32fast::hash(&head[..4]) && start == bytes;
            return if whole { Ok(true) } else { Err(damaged(at, "its end is not where it should be")) };
        }
        let end = start + u64::from(len);
        if end > bytes {
            return Err(damaged(at, "it ends within a block"));
        }
        match checksum(file, start..end, go_on)? {
            Some(computed) if computed == crc => at = end,
            Some(_) => return Err(damaged(at, "a block's checksum does not fit")),
            None => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::RamDirectory;
    use crate::table::call::Chance;
    use crate::table::execute::tests::Trial;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn unhex(digits: &str) -> Vec<u8> {
        let digits = digits.trim();
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
        (0..digits.len()).step_by(2).map(byte).collect()
    }

    /// A table of these lines, in a file.
    fn written(lines: &[&str]) -> (Vec<u8>, u128) {
        let mut trial = Trial::new();
        for line in lines {
            assert!(!trial.line(line).starts_with("(error)"), "{line}");
        }
        let (table, directory) = (Arc::new(Table::of(trial.keyspace)), RamDirectory::new());
        assert!(Writer::begin(&table).write(&directory, "t", || true).expect("memory has room"));
        (directory.bytes("t").expect("it was written"), table.read(|keyspace| keyspace.sum()))
    }

    fn read_bytes(bytes: &[u8]) -> Result<Keyspace, FileError> {
        let directory = RamDirectory::new();
        directory.put("t", bytes);
        read(&directory, "t", 7)
    }

    fn check_bytes(bytes: &[u8]) -> Result<bool, FileError> {
        let directory = RamDirectory::new();
        directory.put("t", bytes);
        check(&crate::directory::Named { directory: &directory, name: "t" }, &mut |_| true)
    }

    const PLAIN: [&str; 3] = ["SET s text PX 5000", "HSET h f v g w", "LEASE.ACQUIRE l me 7000"];
    const TAGGED: [&str; 2] = ["TAG.SET s users:1 a", "TAG.SET h a"];

    #[test]
    fn version_1_never_changes_and_is_what_a_table_without_tags_has() {
        let (bytes, sum) = written(&PLAIN);
        assert_eq!(hex(&bytes), include_str!("../../golden/table-1.hex").trim());
        let keyspace = read_bytes(&unhex(include_str!("../../golden/table-1.hex"))).expect("it is a table");
        assert_eq!((keyspace.sum(), keyspace.len()), (sum, 3));
    }

    #[test]
    fn version_2_never_changes_and_has_the_tags() {
        let (bytes, sum) = written(&[&PLAIN[..], &TAGGED].concat());
        assert_eq!(hex(&bytes), include_str!("../../golden/table-2.hex").trim());
        let keyspace = read_bytes(&bytes).expect("it is a table");
        assert_eq!((keyspace.sum(), keyspace.len()), (sum, 3));
        assert_eq!(keyspace.tags_of(b"s", 0), [&b"a"[..], b"users:1"]);
        assert_eq!(keyspace.tagged(b"a", 0), [&b"h"[..], b"s"]);
    }

    #[test]
    fn damage_is_noticed_and_a_newer_version_named() {
        let (bytes, _) = written(&[&PLAIN[..], &TAGGED].concat());
        for len in 0..bytes.len() {
            assert!(read_bytes(&bytes[..len]).is_err(), "cut at {len}");
            assert!(check_bytes(&bytes[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read_bytes(&damaged).is_err(), "bit {bit}");
            assert!(check_bytes(&damaged).is_err(), "bit {bit}");
        }
        assert!(matches!(check_bytes(&bytes), Ok(true)));
        let mut newer = bytes;
        newer[8] = 3;
        let crc = crc32fast::hash(&newer[..20]).to_le_bytes();
        newer[20..24].copy_from_slice(&crc);
        assert!(matches!(read_bytes(&newer), Err(FileError::NewerVersion(3))));
    }

    #[test]
    fn entries_that_are_no_entries_are_an_error_and_no_panic() {
        let (bytes, _) = written(&[&PLAIN[..], &TAGGED].concat());
        let block = &bytes[HEADER_BYTES + BLOCK_HEADER_BYTES..bytes.len() - BLOCK_HEADER_BYTES];
        for seed in 0..3_000 {
            let (mut chance, mut damaged) = (Chance::new(seed), block.to_vec());
            for _ in 0..1 + chance.below(4) {
                let place = chance.below(damaged.len());
                damaged[place] = chance.next_u64() as u8;
            }
            let mut rest = &damaged[..];
            while let Next::Entry(..) = decode(&mut rest) {}
        }
    }
}
