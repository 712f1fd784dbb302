//! Verifying: what opening a log would say of it, file by file, with nothing changed on the disk.
//!
//! ```text
//!   | file 7: damaged | file 8 ......... | file 9 ..... : ???      each is read as opening reads it (`recover`)
//!                     '-- the reading starts anew here, as it can wherever a file begins: all damage is found
//! ```
//!
//! A process may use the log meanwhile: files come and go, and the newest grows while it is read. So what is wrong is looked for a
//! second time, both times on the disk and not in memory, and only what is there twice, at the same place, is told.
//!
//! What opening cannot tell, this cannot either: the last batch, synced and then damaged before anything was written behind it,
//! looks like a torn tail.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::recover::{Names, Replay, Scanned, check_full, check_newest, damaged, dirt, has_frames, read_header};
use super::{Cut, LiveFile, LogError, failed, file_name};
use crate::disk::DiskFile;
use crate::entry::{LogIndex, ShardId};

/// What was found in a log's directory.
#[derive(Debug, Default)]
pub struct VerifiedLog {
    /// Its files, oldest first; those that are missing, or are not the log's, too. Not those that wait to be used.
    pub files: Vec<VerifiedFile>,
    /// What it keeps of each shard: the last entry before that, and the last. Nothing where anything is damaged.
    pub kept: BTreeMap<ShardId, (LogIndex, LogIndex)>,
    /// Nothing was damaged at the last reading: what is kept of no shard is not in the log.
    pub whole: bool,
}

/// What was found of one file of a log.
#[derive(Debug, Default)]
pub struct VerifiedFile {
    /// Its name.
    pub name: String,
    /// Its sound frames.
    pub frames: u64,
    /// Where they end.
    pub bytes: u64,
    /// Why no log with it opens.
    pub damage: Option<LogError>,
    /// A torn tail, or what an earlier use of the file left, which is no damage: it was not closed, and the next opening cuts it.
    pub cut: Option<Cut>,
}

impl VerifiedLog {
    /// Reads every frame of the log in a directory, which may be in use. Changes nothing.
    pub fn read(directory: &Path) -> Result<VerifiedLog, LogError> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        twice(|| fs::read_dir(directory)?.map(name).collect(), |name| File::open(directory.join(name)))
    }
}

fn twice<F: DiskFile>(
    list: impl Fn() -> io::Result<Vec<String>>,
    open: impl Fn(&str) -> io::Result<F>,
) -> Result<VerifiedLog, LogError> {
    let reading = || Ok(once(list().map_err(failed("listing", "the directory of the log"))?, &open));
    let first: VerifiedLog = reading()?;
    if first.files.iter().all(|file| file.damage.is_none()) {
        return Ok(first);
    }
    let mut second: VerifiedLog = reading()?;
    let told = |file: &VerifiedFile| file.damage.as_ref().map(ToString::to_string);
    for file in &mut second.files {
        let before = first.files.iter().find(|before| before.name == file.name);
        if before.and_then(told) != told(file) {
            file.damage = None;
        }
    }
    Ok(second)
}

fn once<F: DiskFile>(names: Vec<String>, open: &impl Fn(&str) -> io::Result<F>) -> VerifiedLog {
    let Names { sequences, foreign, .. } = Names::sorted(names);
    let mut found = VerifiedLog::default();
    let (mut replay, mut begins, mut whole) = (Replay::default(), true, true);
    let newest = sequences.last().copied();
    whole &= foreign.is_empty();
    for file in foreign {
        let name = file.clone();
        found.files.push(VerifiedFile { name, damage: Some(LogError::Foreign { file }), ..VerifiedFile::default() });
    }
    let mut later = sequences.into_iter().map(|sequence| (sequence, open_file(sequence, open))).peekable();
    while let Some((sequence, here)) = later.next() {
        let next = later.peek();
        let mut file = VerifiedFile { name: file_name(sequence), ..VerifiedFile::default() };
        let successor = next.and_then(|(_, next)| next.as_ref().ok()).filter(|next| follows(sequence, next));
        let is_newest = newest == Some(sequence);
        let checked = here.and_then(|here| {
            let is_bare =
                |next: &LiveFile<F>| newest == Some(next.header.sequence) && !has_frames(next).unwrap_or(true);
            let mut scanned = Scanned::new(here.header);
            let read = replay.read_file(&here, begins, &mut scanned);
            (file.frames, file.bytes) = (scanned.frames, scanned.end);
            let checked = read.and_then(|()| match successor {
                Some(next) => check_full(&here, &scanned, next.header.previous_end, is_bare(next)),
                None if is_newest => check_newest(&here, &scanned),
                None if scanned.ended => Ok(()),
                None => Err(damaged(&here, scanned.end, "a frame that was synced")),
            });
            if checked.is_ok() && is_newest && !scanned.closed {
                let bytes = dirt(&here, scanned.end, |_, _| Ok(()))?;
                // Unless it was written meanwhile.
                let mut again = Scanned::new(here.header);
                Replay::default().read_file(&here, true, &mut again)?;
                let cut = Cut { file: file_name(sequence), offset: scanned.end, bytes };
                file.cut = Some(cut).filter(|cut| cut.bytes > 0 && again == scanned);
            }
            here.file.drop_cached(0, u64::MAX);
            checked
        });
        file.damage = checked.err();
        begins = file.damage.is_some();
        found.files.push(file);
        if let Some((next, _)) = next
            && *next != sequence + 1
        {
            let (name, file) = (file_name(sequence + 1), file_name(sequence + 1));
            let damage = Some(LogError::Missing { file });
            found.files.push(VerifiedFile { name, damage, ..VerifiedFile::default() });
            begins = true;
        }
        if begins {
            (replay, whole) = (Replay::default(), false);
        }
    }
    if whole {
        match (replay.check_entries(), found.files.first_mut()) {
            (Err(missing), Some(oldest)) => oldest.damage = Some(missing),
            _ => (found.kept, found.whole) = (replay.kept(), true),
        }
    }
    found
}

fn follows<F>(sequence: u64, next: &LiveFile<F>) -> bool {
    next.header.sequence.checked_sub(1) == Some(sequence)
}

fn open_file<F: DiskFile>(sequence: u64, open: impl Fn(&str) -> io::Result<F>) -> Result<LiveFile<F>, LogError> {
    let name = file_name(sequence);
    let file = open(&name).map_err(failed("opening", &name))?;
    file.drop_cached(0, u64::MAX);
    let header = read_header(&file, &name, sequence)?;
    Ok(LiveFile { header, file: Arc::new(file), live: 0 })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::super::tests::{OPTIONS, entry, forget, start, worked_log};
    use super::super::{FRAME_HEAD_BYTES, HEADER_BYTES, Log};
    use super::*;
    use crate::chance::Chance;
    use crate::disk::{Disk, FileDisk, MemoryDisk};

    fn verify(disk: &MemoryDisk) -> VerifiedLog {
        twice(|| disk.list(), |name| disk.open(name)).unwrap()
    }

    fn damages(found: &VerifiedLog) -> Vec<(&str, String)> {
        let damaged = |file: &VerifiedFile| Some(file.damage.as_ref()?.to_string());
        found.files.iter().filter_map(|file| Some((&file.name[..], damaged(file)?))).collect()
    }

    fn bytes(disk: &MemoryDisk) -> BTreeMap<String, Vec<u8>> {
        disk.list().unwrap().into_iter().map(|name| (name.clone(), disk.bytes(&name).unwrap())).collect()
    }

    /// What it says is what opening says, and nothing has changed. Gives what opening said.
    fn check(disk: &MemoryDisk, what: &str) -> Result<Option<Cut>, String> {
        let before = bytes(disk);
        let found = verify(disk);
        assert!(bytes(disk) == before, "{what}: the disk has changed");
        let cuts = found.files.iter().find_map(|file| file.cut.clone());
        match Log::open(disk.copy(), OPTIONS) {
            Ok((log, recovered)) => {
                assert_eq!(damages(&found), [], "{what}");
                assert_eq!(cuts, recovered.cut, "{what}");
                let kept = recovered.shards.iter().map(|(shard, state)| (*shard, (state.start, state.last)));
                assert_eq!(found.kept, kept.collect(), "{what}");
                assert_eq!(found.files.len(), recovered.files, "{what}");
                let read: u64 = found.files.iter().map(|file| file.bytes - HEADER_BYTES).sum();
                assert_eq!(read, recovered.bytes, "{what}");
                assert!(found.files.iter().all(|file| file.frames > 0) || log.shards.is_empty(), "{what}");
                Ok(recovered.cut)
            }
            Err(error) => {
                let said = error.to_string();
                let damages = damages(&found);
                assert_eq!(damages.len(), 1, "{what}: {damages:?}");
                assert_eq!(damages[0].1, said, "{what}");
                assert!(found.kept.is_empty() && cuts.is_none(), "{what}");
                Err(said)
            }
        }
    }

    #[test]
    fn of_every_flipped_bit_it_says_what_opening_says() {
        let (mut refused, mut cut) = (0, 0);
        for close in [true, false] {
            let (disk, ..) = worked_log(close);
            assert_eq!(check(&disk, "whole"), Ok(None));
            for name in disk.list().unwrap() {
                for bit in (0..4096 * 8).step_by(29) {
                    disk.flip(&name, bit);
                    match check(&disk, &format!("close {close}, {name} bit {bit}")) {
                        Ok(found) => cut += u64::from(found.is_some()),
                        Err(said) => refused += u64::from(said.contains(&name)),
                    }
                    disk.flip(&name, bit);
                }
            }
        }
        assert!(refused > 1_000 && cut > 30, "{refused} {cut}");
    }

    #[test]
    fn after_every_power_cut_it_says_what_opening_says() {
        let mut cut = 0;
        for seed in 0..300 {
            let disk = MemoryDisk::new();
            let (mut log, mut chance) = (Log::open(disk.clone(), OPTIONS).unwrap().0, Chance::new(seed));
            log.append(&[start(ShardId(1), 5, 5)]).unwrap();
            for index in 6..6 + chance.below(60) {
                log.append(&[entry(ShardId(1), index, 6, &vec![7; chance.below(900) as usize])]).unwrap();
                if chance.below(3) > 0 {
                    log.write().unwrap();
                }
                if chance.below(3) == 0 {
                    log.sync().unwrap();
                }
            }
            disk.crash(seed);
            cut += u64::from(check(&disk, &format!("seed {seed}")).unwrap().is_some());
        }
        assert!(cut > 30, "{cut}");
    }

    #[test]
    fn all_damage_is_named_and_what_is_sound_is_counted() {
        let (disk, ..) = worked_log(true);
        let names = disk.list().unwrap();
        assert!(names.len() >= 3, "{names:?}");
        let sound = verify(&disk);
        let offset = (HEADER_BYTES + FRAME_HEAD_BYTES as u64) * 8;
        for name in &names {
            disk.flip(name, offset);
        }
        let found = verify(&disk);
        assert_eq!(damages(&found).iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
        assert!(damages(&found).iter().all(|(name, what)| what.contains(name) && what.contains("damaged at byte")));
        disk.flip(&names[1], offset);
        let found = verify(&disk);
        assert_eq!((found.files[1].frames, found.files[1].bytes), (sound.files[1].frames, sound.files[1].bytes));
        assert_eq!(damages(&found).len(), names.len() - 1);
        disk.flip(&names[0], offset);
        disk.lose(&names[1]);
        disk.put("notes.txt", b"hello".to_vec());
        let found = verify(&disk);
        let named: Vec<_> = damages(&found).iter().map(|(name, _)| name.to_string()).collect();
        assert_eq!(named, [&["notes.txt".to_owned()], &names[1..]].concat());
    }

    #[test]
    fn what_only_memory_has_wrong_is_no_damage() {
        let (disk, ..) = worked_log(true);
        for name in disk.list().unwrap() {
            disk.misread(&name, (HEADER_BYTES + 100) * 8);
            assert_eq!(damages(&verify(&disk)), []);
        }
    }

    #[test]
    fn a_log_that_is_written_meanwhile_is_sound() {
        let directory = tempfile::tempdir().unwrap();
        let (mut log, _) = Log::open(FileDisk::open(directory.path()).unwrap(), OPTIONS).unwrap();
        log.append(&[start(ShardId(1), 5, 5)]).unwrap();
        log.sync().unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let verifying = scope.spawn(|| {
                let mut rounds = 0;
                while !done.load(Ordering::Relaxed) {
                    let found = VerifiedLog::read(directory.path()).unwrap();
                    assert_eq!(damages(&found), []);
                    rounds += 1;
                }
                rounds
            });
            for index in 6..3_000 {
                log.append(&[entry(ShardId(1), index, 5, &[index as u8; 300])]).unwrap();
                log.sync().unwrap();
                if index % 40 == 0 {
                    log.append(&[forget(ShardId(1), index - 30, 5)]).unwrap();
                }
            }
            done.store(true, Ordering::Relaxed);
            assert!(verifying.join().unwrap() > 3);
        });
    }
}
