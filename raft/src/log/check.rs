//! Checking: the files of a running log that are full, read again and compared with their checksums.
//!
//! ```text
//!   | file 7 (full) | file 8 (full) | file 9 .....        a full one: header, frames without a gap, an end frame
//!       '---------------'--- LogChecker, any thread       the newest is being written: nobody checks it
//! ```
//!
//! Opening a log reads every file that is in use, and refuses what is damaged, whatever of it still matters. So what is damaged
//! is better found while the log runs: once every shard has forgotten what stands in it and before it, it goes.
//!
//! What was read here is dropped from memory: nobody needs it soon, and who reads a file again reads it from the disk.
//!
//! A file may be freed, and used again, while it is read: what is read then is wrong, and the file is full no longer.

use std::sync::Arc;

use super::frame::{self, FRAME_HEAD_BYTES, HEADER_BYTES, Kind};
use super::reader::OpenFiles;
use super::recover::{Window, read_header};
use super::{Log, LogError, failed, file_name};
use crate::disk::Disk;
use crate::entry::ShardId;

/// Who reads is asked before so many bytes whether he may.
const STEP_BYTES: u64 = 1 << 20;

/// What came of checking a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is what was written.
    Sound,
    /// It is not one of the log's full files, or no longer.
    Gone,
    /// Whoever was asked said no.
    Stopped,
}

/// Checks the full files of a log while its owner writes. Cheap to clone.
#[derive(Clone)]
pub struct LogChecker(Arc<OpenFiles>);

impl std::fmt::Debug for LogChecker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogChecker").field(&self.full()).finish()
    }
}

impl LogChecker {
    /// The full files by number, oldest first.
    pub fn full(&self) -> Vec<u64> {
        let mut sequences = self.0.sequences();
        sequences.pop();
        sequences
    }

    /// Whether a file is full, and in use.
    pub fn is_full(&self, sequence: u64) -> bool {
        self.full().contains(&sequence)
    }

    /// A file's name.
    pub fn name(sequence: u64) -> String {
        file_name(sequence)
    }

    /// The number of the file with this name.
    pub fn number(name: &str) -> Option<u64> {
        super::recover::number_in(name, "")
    }

    /// Reads all of a full file and compares it with its checksums. Before each part `go_on` is asked, with the part's bytes; a no
    /// ends it. [`LogError::Damaged`] is what it says of a file that is not what was written, and that is
    /// [still full](LogChecker::is_full).
    pub fn check(&self, sequence: u64, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Checked, LogError> {
        if !self.is_full(sequence) {
            return Ok(Checked::Gone);
        }
        let Some(file) = self.0.file(sequence) else { return Ok(Checked::Gone) };
        let checked = check(&*file, sequence, go_on);
        file.drop_cached(0, u64::MAX);
        if checked.is_err() && !self.is_full(sequence) { Ok(Checked::Gone) } else { checked }
    }
}

fn check(
    file: &dyn crate::disk::DiskFile,
    sequence: u64,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Checked, LogError> {
    let name = file_name(sequence);
    let header = read_header(file, &name, sequence)?;
    let damaged = |offset, what| LogError::Damaged { file: name.clone(), offset, what };
    let mut window = Window::new(HEADER_BYTES, header.bytes);
    let (mut at, mut allowed) = (HEADER_BYTES, HEADER_BYTES);
    loop {
        while allowed < at + FRAME_HEAD_BYTES as u64 {
            if !go_on(STEP_BYTES.min(header.bytes.saturating_sub(allowed))) {
                return Ok(Checked::Stopped);
            }
            allowed += STEP_BYTES;
        }
        let head = window.get(file, at, FRAME_HEAD_BYTES as u64).map_err(failed("reading", &name))?;
        let claimed = head.and_then(|head| head.first_chunk()).and_then(frame::claimed_bytes);
        let bytes = claimed.ok_or_else(|| damaged(at, "a frame that was synced"))?;
        let frame = window.get(file, at, bytes).map_err(failed("reading", &name))?;
        let frame = frame.and_then(|bytes| frame::decode(bytes, header.salt()));
        let frame = frame.ok_or_else(|| damaged(at, "a frame that was synced"))?;
        if (at < header.opening_end) != (frame.kind == Kind::State) {
            return Err(damaged(at, "where its opening ends"));
        }
        if frame.kind == Kind::End {
            return Ok(Checked::Sound);
        }
        at += bytes;
    }
}

impl<D: Disk> Log<D> {
    /// Checks its full files from now on.
    pub fn checker(&self) -> LogChecker {
        LogChecker(Arc::clone(&self.open_files))
    }

    /// The shards that have entries in a file or in those before it, which are kept for them.
    pub fn kept_for(&self, sequence: u64) -> Vec<ShardId> {
        let has = |known: &super::Shard| {
            let index = known.index.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            index.places.front().is_some_and(|place| place.file <= sequence)
        };
        self.shards.iter().filter(|(_, known)| has(known)).map(|(shard, _)| *shard).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{OPTIONS, entry, forget, hard_state, start};
    use super::*;
    use crate::chance::Chance;
    use crate::disk::MemoryDisk;

    const ONE: ShardId = ShardId(1);
    const TWO: ShardId = ShardId(2);

    /// A log of several files, of two shards.
    fn log(disk: &MemoryDisk) -> Log<MemoryDisk> {
        let (mut log, _) = Log::open(disk.clone(), OPTIONS).unwrap();
        log.append(&[start(ONE, 5, 5), start(TWO, 5, 5)]).unwrap();
        for index in 6..40 {
            let data = vec![index as u8; 300];
            log.append(&[entry(ONE, index, 5, &data), hard_state(ONE, 5, 1, index - 1)]).unwrap();
            if index < 10 {
                log.append(&[entry(TWO, index, 5, &data)]).unwrap();
            }
            log.sync().unwrap();
        }
        log
    }

    #[test]
    fn full_files_are_sound_and_every_flipped_bit_of_one_is_found() {
        let disk = MemoryDisk::new();
        let log = log(&disk);
        let checker = log.checker();
        let full = checker.full();
        assert!(full.len() >= 3, "{full:?}");
        for sequence in &full {
            assert_eq!(checker.check(*sequence, &mut |_| true).unwrap(), Checked::Sound);
            assert_eq!(checker.check(*sequence, &mut |_| false).unwrap(), Checked::Stopped);
        }
        for none in [0, full[full.len() - 1] + 1, 99] {
            assert_eq!(checker.check(none, &mut |_| true).unwrap(), Checked::Gone, "{none}");
        }
        let name = file_name(full[1]);
        let whole = disk.bytes(&name).unwrap();
        let mut window = Window::new(HEADER_BYTES, whole.len() as u64);
        let file = disk.open(&name).unwrap();
        let mut end = HEADER_BYTES;
        while let Some(head) = window.get(&file, end, FRAME_HEAD_BYTES as u64).unwrap()
            && let Some(bytes) = head.first_chunk().and_then(frame::claimed_bytes)
        {
            end += bytes;
        }
        let (mut chance, mut found) = (Chance::new(3), 0);
        for _ in 0..3_000 {
            let bit = chance.next() % (end * 8);
            disk.flip(&name, bit);
            // Zeros behind a number in an end frame's padding are not there: all of it is under a checksum.
            match checker.check(full[1], &mut |_| true) {
                Err(LogError::Damaged { file, offset, .. }) => {
                    assert_eq!(file, name);
                    assert!(offset <= bit / 8, "bit {bit}: {offset}");
                    found += 1;
                }
                Err(LogError::Foreign { .. } | LogError::NewerVersion { .. }) => found += 1,
                other => panic!("bit {bit} of {}: {other:?}", end * 8),
            }
            disk.flip(&name, bit);
        }
        assert_eq!(found, 3_000);
        // Others are as they were.
        assert_eq!(checker.check(full[0], &mut |_| true).unwrap(), Checked::Sound);
    }

    #[test]
    fn what_memory_has_wrong_is_read_from_the_disk_the_second_time() {
        let disk = MemoryDisk::new();
        let log = log(&disk);
        let (checker, reader) = (log.checker(), log.reader(ONE).unwrap());
        let first = checker.full()[0];
        let bit = (HEADER_BYTES + 1_000) * 8;
        disk.misread(&file_name(first), bit);
        assert!(checker.check(first, &mut |_| true).is_err());
        assert_eq!(checker.check(first, &mut |_| true).unwrap(), Checked::Sound);
        // Wherever it is, whoever reads the entry there finds it right.
        for at in (0..OPTIONS.file_bytes).step_by(50) {
            disk.misread(&file_name(first), at * 8);
            for index in 6..20 {
                reader.read(crate::entry::LogIndex(index)).unwrap();
            }
        }
    }

    #[test]
    fn a_file_that_was_found_damaged_is_not_used_again() {
        for spoilt in [false, true] {
            let disk = MemoryDisk::new();
            let mut log = log(&disk);
            let before = log.stats();
            let first = log.checker().full()[0];
            log.spoil(99);
            if spoilt {
                log.spoil(first);
            }
            // All that is in the first file, and nothing of what follows.
            let mut index = 6;
            while log.kept_for(first).contains(&ONE) {
                log.append(&[forget(ONE, index, 5), forget(TWO, 9, 5)][..if index == 9 { 2 } else { 1 }]).unwrap();
                log.sync().unwrap();
                index += 1;
            }
            if index <= 9 {
                log.append(&[forget(TWO, 9, 5)]).unwrap();
                log.sync().unwrap();
            }
            let after = log.stats();
            assert!(!disk.list().unwrap().contains(&file_name(first)));
            let freed = before.files - after.files;
            assert_eq!(
                after.spares - before.spares,
                (freed - usize::from(spoilt)).min(crate::log::SPARES_KEPT),
                "{before:?} {after:?}"
            );
            assert!(log.spoilt.is_empty());
        }
    }

    #[test]
    fn a_damaged_file_goes_once_nobody_needs_what_stands_there_and_the_log_opens_again() {
        let disk = MemoryDisk::new();
        let mut log = log(&disk);
        let checker = log.checker();
        let damaged = checker.full()[2];
        let name = file_name(damaged);
        disk.flip(&name, (HEADER_BYTES + 400) * 8);
        assert!(checker.check(damaged, &mut |_| true).is_err());
        assert!(Log::open(disk.copy(), OPTIONS).is_err(), "so it would not start");
        assert_eq!(log.kept_for(damaged), [ONE, TWO]);
        log.append(&[forget(TWO, 9, 5)]).unwrap();
        log.sync().unwrap();
        assert_eq!(log.kept_for(damaged), [ONE]);
        log.append(&[forget(ONE, 39, 5)]).unwrap();
        log.sync().unwrap();
        assert_eq!(log.kept_for(damaged), []);
        assert_eq!(checker.check(damaged, &mut |_| true).unwrap(), Checked::Gone);
        let (log, _) = Log::open(disk.copy(), OPTIONS).unwrap();
        assert_eq!(log.shard(ONE).unwrap().hard_state.commit.0, 38, "what was promised is known");
    }

    #[test]
    fn files_are_checked_while_they_are_written_freed_and_used_again() {
        let disk = MemoryDisk::new();
        let mut log = log(&disk);
        let checker = log.checker();
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_done = Arc::clone(&done);
        let checking = std::thread::spawn(move || {
            let mut sound = 0;
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                for sequence in checker.full() {
                    match checker.check(sequence, &mut |_| true) {
                        Ok(Checked::Sound) => sound += 1,
                        Ok(_) => {}
                        // The end frame of the newest full one is written a moment after its successor is there.
                        Err(first) => match checker.check(sequence, &mut |_| true) {
                            Ok(_) => {}
                            Err(error) => panic!("{first}, then {error}"),
                        },
                    }
                }
            }
            sound
        });
        for index in 40..4_000u64 {
            log.append(&[entry(ONE, index, 5, &[index as u8; 200])]).unwrap();
            log.sync().unwrap();
            if index % 50 == 0 {
                log.append(&[forget(ONE, index - 30, 5), forget(TWO, 9, 5)][..if index == 50 { 2 } else { 1 }])
                    .unwrap();
            }
            std::thread::yield_now();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(checking.join().unwrap() > 0);
    }
}
