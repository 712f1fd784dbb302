//! The disk's twin for tests and simulations: it loses, tears and refuses on request, and a seed
//! repeats what it did.
//!
//! Each file is what a program sees, what the medium holds, and the sectors in which the two may
//! differ. A crash decides sector by sector which side wins, and lets a beginning of the directory
//! changes since the last directory sync come true.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Disk, DiskFile};
use crate::chance::Chance;

const SECTOR: usize = 512;
/// The error of a disk that cannot read a block (`EIO`).
const UNREADABLE: i32 = 5;

/// A directory in memory. Clones are the same directory, as two handles to one disk are.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of a [`MemoryDisk`]. A crash of the disk closes it.
#[derive(Debug)]
pub struct MemoryFile {
    state: Arc<Mutex<State>>,
    id: u64,
    life: u64,
}

#[derive(Debug, Default)]
struct State {
    contents: BTreeMap<u64, Contents>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    changes: Vec<Change>,
    next_id: u64,
    /// Counts crashes; a file opened in an earlier life is closed.
    life: u64,
    capacity: Option<u64>,
    syncs: u64,
    writes: u64,
    fail_sync: Option<u64>,
    fail_write: Option<u64>,
    reads: u64,
    fail_read: Option<u64>,
    /// Bits that are read wrong, by file, until what memory has of them is dropped.
    misread: BTreeMap<u64, u64>,
}

#[derive(Debug, Default)]
struct Contents {
    seen: Vec<u8>,
    durable: Vec<u8>,
    unsynced: BTreeSet<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Change::Create(name, id) => {
                names.insert(name.clone(), *id);
            }
            Change::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
            Change::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl MemoryDisk {
    /// An empty directory on a disk without limits or faults.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// The power fails. Of the sectors written since their file's last sync a random subset reaches
    /// the medium, some of them torn; of the directory changes since the last directory sync, a
    /// random beginning. Every open file is closed. Faults asked for and the capacity stay.
    pub fn crash(&self, seed: u64) {
        let mut chance = Chance::new(seed);
        let mut state = self.lock();
        state.life += 1;
        let changes = std::mem::take(&mut state.changes);
        let kept = chance.below(changes.len() as u64 + 1) as usize;
        let mut names = std::mem::take(&mut state.durable_names);
        for change in &changes[..kept] {
            change.apply(&mut names);
        }
        state.names = names.clone();
        state.durable_names = names;
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.contents.retain(|id, _| live.contains(id));
        // All, none, or some in between: each is its own kind of accident.
        let odds = [0, 10, 50, 90, 100][chance.below(5) as usize];
        for contents in state.contents.values_mut() {
            contents.crash(odds, &mut chance);
        }
    }

    /// The process dies but the machine lives: nothing is lost, every open file is closed.
    pub fn kill(&self) {
        self.lock().life += 1;
    }

    /// The `nth` sync from now fails (1 is the next), and what it should have made durable never
    /// will be, although reads still show it: later syncs succeed, as on a real kernel.
    pub fn fail_sync(&self, nth: u64) {
        let mut state = self.lock();
        state.fail_sync = Some(state.syncs + nth);
    }

    /// The `nth` write from now fails (1 is the next) after half of its bytes.
    pub fn fail_write(&self, nth: u64) {
        let mut state = self.lock();
        state.fail_write = Some(state.writes + nth);
    }

    /// The `nth` read from now fails (1 is the next) as where a block cannot be read.
    pub fn fail_read(&self, nth: u64) {
        let mut state = self.lock();
        state.fail_read = Some(state.reads + nth);
    }

    /// Takes back what [`MemoryDisk::fail_sync`], [`MemoryDisk::fail_write`] and [`MemoryDisk::fail_read`] asked for.
    pub fn heal(&self) {
        let mut state = self.lock();
        state.fail_sync = None;
        state.fail_write = None;
        state.fail_read = None;
    }

    /// Limits the bytes of all files together: beyond it a write fails as on a full disk.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files together.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// Syncs of files and of the directory so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Flips one bit of a file, on the medium and in sight.
    ///
    /// # Panics
    /// When there is no such file or bit.
    pub fn flip(&self, name: &str, bit: u64) {
        self.damage(name, |bytes| bytes[(bit / 8) as usize] ^= 1 << (bit % 8));
    }

    /// Has one bit of a file read wrong until somebody drops what memory has of it. The medium has it right.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn misread(&self, name: &str, bit: u64) {
        let mut state = self.lock();
        let id = *state.names.get(name).expect("what is read wrong is in an existing file");
        state.misread.insert(id, bit);
    }

    /// Changes a file behind everyone's back, on the medium and in sight.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let id = *state.names.get(name).expect("damage names an existing file");
        let contents = state.contents.get_mut(&id).expect("a named file has contents");
        change(&mut contents.seen);
        contents.durable = contents.seen.clone();
        contents.unsynced.clear();
    }

    /// Forgets a file behind everyone's back.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn lose(&self, name: &str) {
        let mut state = self.lock();
        state.names.remove(name).expect("lose names an existing file");
        state.durable_names.remove(name);
    }

    /// A copy of everything in sight, all of it durable, without the faults.
    pub fn copy(&self) -> MemoryDisk {
        let state = self.lock();
        let mut copy = State { next_id: state.next_id, ..State::default() };
        for (name, id) in &state.names {
            let seen = state.contents[id].seen.clone();
            let contents = Contents { durable: seen.clone(), seen, unsynced: BTreeSet::new() };
            copy.contents.insert(*id, contents);
            copy.names.insert(name.clone(), *id);
        }
        copy.durable_names = copy.names.clone();
        MemoryDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// The bytes of a file in sight.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let id = state.names.get(name)?;
        Some(state.contents[id].seen.clone())
    }

    /// Puts a file there, durable at once.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let contents = Contents { durable: bytes.clone(), seen: bytes, unsynced: BTreeSet::new() };
        state.contents.insert(id, contents);
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn file(&self, id: u64, life: u64) -> MemoryFile {
        MemoryFile { state: Arc::clone(&self.state), id, life }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no file {name}"))
}

impl State {
    fn used(&self) -> u64 {
        self.names.values().map(|id| self.contents[id].seen.len() as u64).sum()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.fail_sync == Some(self.syncs) {
            return Err(io::Error::other("sync failed on request"));
        }
        Ok(())
    }
}

impl Contents {
    fn crash(&mut self, odds: u64, chance: &mut Chance) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let length = if self.seen.len() > self.durable.len() {
            let grown = (self.seen.len() - self.durable.len()) as u64;
            match odds {
                0 => self.durable.len(),
                100 => self.seen.len(),
                _ => self.durable.len() + chance.below(grown + 1) as usize,
            }
        } else {
            self.seen.len()
        };
        self.durable.resize(length, 0);
        for sector in unsynced {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(length);
            if start >= end || chance.below(100) >= odds {
                continue;
            }
            // One in four is torn: only its beginning arrived.
            let torn = odds != 100 && chance.below(4) == 0;
            let end = if torn { start + chance.below((end - start) as u64) as usize } else { end };
            self.durable[start..end].copy_from_slice(&self.seen[start..end]);
        }
        self.seen.clone_from(&self.durable);
    }

    fn sync(&mut self) {
        let length = self.seen.len();
        self.durable.resize(length, 0);
        for sector in std::mem::take(&mut self.unsynced) {
            let start = (sector * SECTOR).min(length);
            let end = (start + SECTOR).min(length);
            self.durable[start..end].copy_from_slice(&self.seen[start..end]);
        }
    }
}

impl Disk for MemoryDisk {
    type File = MemoryFile;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<MemoryFile> {
        let mut state = self.lock();
        if state.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is there")));
        }
        let id = state.next_id;
        state.next_id += 1;
        state.contents.insert(id, Contents::default());
        state.change(Change::Create(name.to_owned(), id));
        Ok(self.file(id, state.life))
    }

    fn open(&self, name: &str) -> io::Result<MemoryFile> {
        let state = self.lock();
        let id = *state.names.get(name).ok_or_else(|| missing(name))?;
        Ok(self.file(id, state.life))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(from) {
            return Err(missing(from));
        }
        state.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(name) {
            return Err(missing(name));
        }
        state.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.count_sync()?;
        state.changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

impl MemoryFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.state);
        if state.life != self.life {
            return Err(io::Error::other("the machine went down since this file was opened"));
        }
        Ok(state)
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.state()?;
        state.reads += 1;
        if state.fail_read == Some(state.reads) {
            return Err(io::Error::from_raw_os_error(UNREADABLE));
        }
        let Some(contents) = state.contents.get(&self.id) else {
            return Ok(0);
        };
        let start = (offset.min(contents.seen.len() as u64)) as usize;
        let read = buffer.len().min(contents.seen.len() - start);
        buffer[..read].copy_from_slice(&contents.seen[start..start + read]);
        if let Some(bit) = state.misread.get(&self.id)
            && let Some(at) = (bit / 8).checked_sub(start as u64)
            && let Some(byte) = buffer[..read].get_mut(at as usize)
        {
            *byte ^= 1 << (bit % 8);
        }
        Ok(read)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.writes += 1;
        let fails = state.fail_write == Some(state.writes);
        let used = state.used();
        let capacity = state.capacity.unwrap_or(u64::MAX);
        let Some(contents) = state.contents.get_mut(&self.id) else {
            return Err(io::Error::other("the file is gone"));
        };
        let length = contents.seen.len() as u64;
        let grown = (offset + bytes.len() as u64).saturating_sub(length);
        let room = capacity.saturating_sub(used);
        let (bytes, error) = if fails {
            (&bytes[..bytes.len() / 2], Some(io::Error::other("write failed on request")))
        } else if grown > room {
            let fitting = (bytes.len() as u64).saturating_sub(grown - room) as usize;
            let full = io::Error::new(io::ErrorKind::StorageFull, "no space left on the disk");
            (&bytes[..fitting], Some(full))
        } else {
            (bytes, None)
        };
        if !bytes.is_empty() {
            let (start, end) = (offset as usize, offset as usize + bytes.len());
            if contents.seen.len() < end {
                contents.seen.resize(end, 0);
            }
            contents.seen[start..end].copy_from_slice(bytes);
            contents.unsynced.extend(start / SECTOR..=(end - 1) / SECTOR);
        }
        error.map_or(Ok(()), Err)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        let counted = state.count_sync();
        let Some(contents) = state.contents.get_mut(&self.id) else {
            return Err(io::Error::other("the file is gone"));
        };
        if let Err(error) = counted {
            // The kernel marks the pages clean: nothing will ever write them again.
            contents.unsynced.clear();
            return Err(error);
        }
        contents.sync();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let state = self.state()?;
        Ok(state.contents.get(&self.id).map_or(0, |contents| contents.seen.len() as u64))
    }

    fn drop_cached(&self, offset: u64, bytes: u64) {
        // Closed by a crash, it has nothing in memory.
        let Ok(mut state) = self.state() else { return };
        let dropped = |bit: &u64| (offset..offset.saturating_add(bytes)).contains(&(bit / 8));
        if state.misread.get(&self.id).is_some_and(dropped) {
            state.misread.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &MemoryDisk, name: &str) -> Vec<u8> {
        disk.bytes(name).unwrap()
    }

    #[test]
    fn synced_bytes_survive_every_crash_and_unsynced_ones_only_some() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..200 {
            let disk = MemoryDisk::new();
            let file = disk.create("a").unwrap();
            file.write_all_at(&[1; 2048], 0).unwrap();
            file.sync_data().unwrap();
            disk.sync_directory().unwrap();
            file.write_all_at(&[2; 1024], 512).unwrap();
            disk.crash(seed);
            assert!(file.len().is_err(), "seed {seed}: an old handle still works");
            let bytes = read(&disk, "a");
            assert_eq!(bytes.len(), 2048);
            assert!(bytes[..512].iter().all(|byte| *byte == 1), "seed {seed}");
            assert!(bytes[1536..].iter().all(|byte| *byte == 1), "seed {seed}");
            let new = bytes[512..1536].iter().filter(|byte| **byte == 2).count();
            kept += usize::from(new == 1024);
            lost += usize::from(new == 0);
        }
        assert!(kept > 10 && lost > 10, "kept {kept}, lost {lost}");
    }

    #[test]
    fn names_survive_from_the_directory_sync_on() {
        for seed in 0..50 {
            let disk = MemoryDisk::new();
            disk.create("a").unwrap();
            disk.sync_directory().unwrap();
            disk.rename("a", "b").unwrap();
            disk.create("c").unwrap();
            disk.crash(seed);
            let names = disk.list().unwrap();
            let possible = [vec!["a"], vec!["b"], vec!["b", "c"]];
            assert!(possible.iter().any(|kept| names == *kept), "seed {seed}: {names:?}");
        }
    }

    #[test]
    fn after_a_failed_sync_the_next_one_lies() {
        let disk = MemoryDisk::new();
        let file = disk.create("a").unwrap();
        disk.sync_directory().unwrap();
        disk.fail_sync(1);
        file.write_all_at(b"gone", 0).unwrap();
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(read(&disk, "a"), b"gone");
        disk.crash(4);
        assert_ne!(read(&disk, "a"), b"gone");
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(10));
        let file = disk.create("a").unwrap();
        file.write_all_at(b"12345678", 0).unwrap();
        let error = file.write_all_at(b"9abc", 8).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&disk, "a"), b"123456789a");
        file.write_all_at(b"x", 0).unwrap();
        disk.set_capacity(None);
        file.write_all_at(b"9abc", 8).unwrap();
    }
}
