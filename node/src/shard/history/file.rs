//! Files of the history: what the entries changed that the log no longer has, so that a watch can go on across a restart.
//!
//! ```text
//! history-LAST:  0        8          12      16      24      32              40         44           48
//!                | magic  | version  | zero  | since | last  | body length   | body crc | header crc | body: entries ...
//! ```
//!
//! Little-endian; checksums are crc32, the header's over the 44 bytes before it. A file has what the entries after `since` up
//! to `last` changed ([`loci_index::effects`]), and one is written with each checkpoint, which is at its `last`. Entries after the
//! last checkpoint are applied again at a start, so they need no file.
//!
//! None of it is needed for the state: what is damaged, missing or does not join on to what follows is left out, and the history
//! begins later. So files are not synced: a power cut may cost what a watch could go back to, never what is stored.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use loci_index::effects::{Effect, Effects, EntryEffects, Fate};
use loci_index::record::{CollectionId, Position};

const MAGIC: &[u8; 8] = b"locihist";
/// Version 1 had entries of fixed widths, which are read and not written.
const VERSION: u32 = 2;
const HEADER_BYTES: usize = 48;
const PREFIX: &str = "history-";
/// Many of them may be nearly empty.
const FILES_MAX: usize = 256;

/// What one file has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// It has the entries after this one,
    pub since: u64,
    /// up to this one.
    pub last: u64,
    /// Their effects.
    pub body: Vec<u8>,
}

fn header(saved: &Saved) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for number in [saved.since, saved.last, saved.body.len() as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&crc32fast::hash(&saved.body).to_le_bytes());
    let header_crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&header_crc.to_le_bytes());
    bytes
}

/// What is in a file, if it is one of these versions and whole.
fn decode(mut bytes: Vec<u8>) -> Option<Saved> {
    let (header, body) = bytes.split_at_checked(HEADER_BYTES)?;
    let number = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    let crc = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?));
    if header[..8] != *MAGIC || crc(44)? != crc32fast::hash(&header[..44]) {
        return None;
    }
    if crc(12)? != 0 || number(32)? != body.len() as u64 || crc(40)? != crc32fast::hash(body) {
        return None;
    }
    let (since, last) = (number(16)?, number(24)?);
    let body = match crc(8)? {
        1 => upgraded(body)?,
        VERSION => {
            bytes.drain(..HEADER_BYTES);
            bytes
        }
        _ => return None,
    };
    let (mut rest, mut before) = (&body[..], since);
    while !rest.is_empty() {
        let entry = EntryEffects::take(&mut rest).ok().filter(EntryEffects::is_whole)?;
        if entry.index <= before || entry.index > last {
            return None;
        }
        before = entry.index;
    }
    Some(Saved { since, last, body })
}

/// Entries of version 1 as they are now: index 8, clock 8, count 4, length 4, and effects: fate and typed 1, place 2, collection 8,
/// key length 4, key.
fn upgraded(mut old: &[u8]) -> Option<Vec<u8>> {
    fn number<const N: usize>(from: &mut &[u8]) -> Option<u64> {
        let (bytes, rest) = from.split_first_chunk::<N>()?;
        *from = rest;
        let mut number = [0; 8];
        number[..N].copy_from_slice(bytes);
        Some(u64::from_le_bytes(number))
    }
    fn part<'b>(from: &mut &'b [u8], length: u64) -> Option<&'b [u8]> {
        let (part, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
        *from = rest;
        Some(part)
    }
    const TYPED: u8 = 0x80;
    let (mut new, mut effects) = (Vec::with_capacity(old.len()), Effects::default());
    while !old.is_empty() {
        let (index, clock) = (number::<8>(&mut old)?, number::<8>(&mut old)?);
        let (count, length) = (number::<4>(&mut old)?, number::<4>(&mut old)?);
        let mut rest = part(&mut old, length)?;
        if index > Position::INDEX_MAX {
            return None;
        }
        effects.clear();
        while !rest.is_empty() {
            let fate = number::<1>(&mut rest)? as u8;
            let position = Position::new(index, number::<2>(&mut rest)? as usize);
            let collection = CollectionId(number::<8>(&mut rest)?);
            let length = number::<4>(&mut rest)?;
            let (key, typed) = (part(&mut rest, length)?, fate & TYPED != 0);
            effects.push(Effect { collection, position, fate: Fate::from_u8(fate & !TYPED)?, typed, key });
        }
        if u64::from(effects.len()) != count {
            return None;
        }
        effects.encode(index, clock, &mut new);
    }
    Some(new)
}

fn path(folder: &Path, last: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{last:016x}"))
}

/// The files of a folder by their last entry, the newest first, with their sizes.
fn list(folder: &Path) -> Vec<(u64, u64)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let digits = name.to_str()?.strip_prefix(PREFIX)?;
        let last = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 16)?;
        Some((last, entry.metadata().ok()?.len()))
    };
    let mut files: Vec<_> = entries.flatten().filter_map(file).collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    files
}

/// Writes a file, and removes those that are older than so many bytes or files, or begin where this does.
pub fn write(folder: &Path, saved: &Saved, bytes_max: u64) -> io::Result<()> {
    // One at a time, and always the same name: what a crash left is written over.
    let temporary = folder.join("history.new");
    let written = write_whole(&temporary, saved).and_then(|()| fs::rename(&temporary, path(folder, saved.last)));
    if let Err(error) = written {
        // It may be for want of room that it could not be written.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    let mut bytes = 0;
    for (number, (last, size)) in list(folder).into_iter().enumerate() {
        bytes += size;
        let superseded = last < saved.last && last > saved.since;
        if last != saved.last && (bytes > bytes_max || superseded || number >= FILES_MAX) {
            fs::remove_file(path(folder, last))?;
        }
    }
    Ok(())
}

fn write_whole(path: &Path, saved: &Saved) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(&header(saved))?;
    file.write_all(&saved.body)
}

/// What the files have of the entries up to this one without a gap, the oldest first. Files that are of no use are removed.
pub fn read(folder: &Path, applied: u64, bytes_max: u64) -> Vec<Saved> {
    let (mut wanted, mut found) = (applied, Vec::new());
    for (last, size) in list(folder) {
        let is_next = last == wanted && size <= bytes_max;
        let saved = if is_next { fs::read(path(folder, last)).ok().and_then(decode) } else { None };
        match saved.filter(|saved| saved.last == last && saved.since < last) {
            Some(saved) => {
                wanted = saved.since;
                found.push(saved);
            }
            // Whatever comes before a gap is out of reach. What cannot be removed is passed over again next time.
            None => drop(fs::remove_file(path(folder, last))),
        }
    }
    found.reverse();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(saved: &Saved) -> Vec<u8> {
        [header(saved), saved.body.clone()].concat()
    }

    fn saved(since: u64, last: u64) -> Saved {
        let mut body = Vec::new();
        for index in since + 1..=last {
            let mut effects = Effects::default();
            let (collection, position) = (CollectionId(3), Position::new(index, 1));
            effects.push(Effect { collection, position, fate: Fate::Made, typed: false, key: b"key" });
            effects.encode(index, 1_000, &mut body);
        }
        Saved { since, last, body }
    }

    #[test]
    fn version_2_never_changes() {
        let hex: String = encode(&saved(6, 7)).iter().map(|byte| format!("{byte:02x}")).collect();
        let golden = "6c6f636968697374 02000000 00000000 0600000000000000 0700000000000000 0b00000000000000 0ac27042 97191678 \
                      07 e807 01 06 31 03 03 6b6579";
        assert_eq!(hex, golden.replace(' ', ""));
    }

    #[test]
    fn version_1_is_still_read() {
        let golden = "6c6f636968697374 01000000 00000000 0600000000000000 0700000000000000 2a00000000000000 2f402ae7 a587d70c \
                      0700000000000000 e803000000000000 01000000 12000000 01 0100 0300000000000000 03000000 6b6579";
        let digits = golden.replace(' ', "");
        let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        assert_eq!(decode(bytes.clone()), Some(saved(6, 7)));
        for len in 1..bytes.len() - HEADER_BYTES {
            assert_eq!(upgraded(&bytes[HEADER_BYTES..][..len]), None, "cut at {len}");
        }
        for bit in HEADER_BYTES * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = upgraded(&damaged[HEADER_BYTES..]);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = encode(&saved(6, 9));
        assert_eq!(decode(bytes.clone()), Some(saved(6, 9)));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(damaged), None, "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(bytes[..len].to_vec()), None, "cut at {len}");
        }
        let mut outside = saved(6, 9);
        outside.last = 8;
        assert_eq!(decode(encode(&outside)), None);
    }

    #[test]
    fn what_joins_on_is_read_and_the_rest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        for (since, last) in [(0, 5), (7, 9), (9, 12), (12, 20), (20, 30)] {
            write(at, &saved(since, last), 1 << 20).unwrap();
        }
        // The last checkpoint was not finished, and there is a gap after entry 5.
        assert_eq!(read(at, 20, 1 << 20), [saved(7, 9), saved(9, 12), saved(12, 20)]);
        assert_eq!(list(at).len(), 3);
        assert_eq!(read(at, 21, 1 << 20), []);
        assert_eq!(list(at).len(), 0);
        // A checkpoint that was begun, not finished, and begun anew.
        write(at, &saved(0, 5), 1 << 20).unwrap();
        write(at, &saved(5, 7), 1 << 20).unwrap();
        write(at, &saved(5, 8), 1 << 20).unwrap();
        assert_eq!(read(at, 8, 1 << 20), [saved(0, 5), saved(5, 8)]);
        // What cannot be put in place leaves nothing.
        fs::create_dir(path(at, 99)).unwrap();
        write(at, &saved(8, 99), 1 << 20).unwrap_err();
        assert!(!at.join("history.new").exists());
        fs::remove_dir(path(at, 99)).unwrap();
        // The oldest go.
        write(at, &saved(8, 9), 100).unwrap();
        assert_eq!(read(at, 9, 1 << 20), [saved(8, 9)]);
    }
}
