//! Spares: files of zeros that are ready to become the next file of the log.
//!
//! ```text
//!   log's owner:  begin_spare -------- append, write, sync, ... -------- end_spare: it has a name, and can be used
//!   anywhere:          '--------- MakingSpare::run: zeros, synced ----------'
//! ```
//!
//! To write a file of zeros takes as long as thousands of appends, so the next is made beside the log as soon as the last one is
//! used. Whoever needs one and cannot wait for it makes another.
//!
//! Always: a spare has its name once all of it is on the disk. What was not finished is removed, at the next start at the latest.

use std::io;

use super::{Log, LogError, Spare, failed, is_full};
use crate::disk::{Disk, DiskFile};

const ZEROS: &[u8] = &[0; 1 << 20];

/// A spare on its way: see [`Log::begin_spare`].
#[derive(Debug)]
#[must_use = "what is begun takes space until it is ended"]
pub struct MakingSpare<F> {
    file: F,
    number: u64,
    bytes: u64,
}

impl<F: DiskFile> MakingSpare<F> {
    /// Writes it, on whichever thread. A failure is for [`Log::end_spare`].
    pub fn run(&self) -> io::Result<()> {
        // Little by little, lest the log's own syncs wait for all of it.
        self.write(true)
    }

    fn write(&self, syncs_each: bool) -> io::Result<()> {
        let mut done = 0;
        while done < self.bytes {
            let zeros = &ZEROS[..ZEROS.len().min((self.bytes - done) as usize)];
            self.file.write_all_at(zeros, done)?;
            done += zeros.len() as u64;
            if syncs_each || done == self.bytes {
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

impl<D: Disk> Log<D> {
    /// Begins to make a spare file, so that no append has to wait for one; none: there is one.
    ///
    /// [`LogError::Full`] leaves the log as usable as it was.
    pub fn begin_spare(&mut self) -> Result<Option<MakingSpare<D::File>>, LogError> {
        self.check_alive()?;
        if !self.lacks_spare() {
            return Ok(None);
        }
        let begun = self.begin_spare_of(self.options.file_bytes);
        self.mortal(begun).map(Some)
    }

    /// A spare that was begun is made, or could not be. [`LogError::Full`] leaves nothing half made, and the log as usable as it
    /// was.
    pub fn end_spare(&mut self, making: MakingSpare<D::File>, made: io::Result<()>) -> Result<(), LogError> {
        self.check_alive()?;
        let ended = self.end_spare_of(&making, made);
        self.mortal(ended)
    }

    /// Whether there is none. A smaller one, of when files were smaller, does not count.
    pub fn lacks_spare(&self) -> bool {
        !self.spares.iter().any(|spare| spare.bytes >= self.options.file_bytes)
    }

    /// Makes a spare at once.
    pub(super) fn make_spare(&mut self, bytes: u64) -> Result<(), LogError> {
        let making = self.begin_spare_of(bytes)?;
        let made = making.write(false);
        self.end_spare_of(&making, made)
    }

    fn begin_spare_of(&mut self, bytes: u64) -> Result<MakingSpare<D::File>, LogError> {
        self.spares_made += 1;
        let number = self.spares_made;
        let unfinished = unfinished_name(number);
        match self.disk.create(&unfinished) {
            Ok(file) => Ok(MakingSpare { file, number, bytes }),
            Err(source) => Err(not_made(bytes, unfinished, source)),
        }
    }

    fn end_spare_of(&mut self, making: &MakingSpare<D::File>, made: io::Result<()>) -> Result<(), LogError> {
        let unfinished = unfinished_name(making.number);
        if let Err(source) = made {
            // If it cannot be removed now, the next start does it.
            let _ = self.disk.remove(&unfinished);
            return Err(not_made(making.bytes, unfinished, source));
        }
        let name = spare_name(making.number);
        self.disk.rename(&unfinished, &name).map_err(failed("naming", &name))?;
        self.disk.sync_directory().map_err(failed("syncing the directory of", &name))?;
        self.spares.push(Spare { name, bytes: making.bytes });
        Ok(())
    }
}

pub(super) fn spare_name(number: u64) -> String {
    format!("spare-{number:016x}.log")
}

fn unfinished_name(number: u64) -> String {
    format!("spare-{number:016x}.tmp")
}

fn not_made(bytes: u64, unfinished: String, source: io::Error) -> LogError {
    match is_full(&source) {
        true => LogError::Full { needed: bytes, source },
        false => LogError::Io { action: "making", file: unfinished, source },
    }
}
