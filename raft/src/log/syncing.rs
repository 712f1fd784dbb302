//! A sync beside the log: what was written by a moment is synced while more is written.
//!
//! ```text
//!   log's thread:  begin_sync ------ append, write, append, write ------ end_sync
//!   anywhere:                 '--------- Syncing::run ---------------'
//! ```
//!
//! Always: what was written when it began is told to be safe only once it has ended well; and a sync of the same file by the
//! log itself waits for it. A system tells of a failed sync once: another one at the same time could go well, though what
//! was written is lost.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::{LiveFile, Log, LogError, failed_in};
use crate::disk::{Disk, DiskFile};

/// What was written by a moment, to be synced while more is written: see [`Log::begin_sync`].
#[derive(Debug)]
#[must_use = "what is not synced is lost with the power"]
pub struct Syncing<F> {
    file: Arc<F>,
    failed: Arc<Mutex<bool>>,
    sequence: u64,
    end: u64,
}

impl<F: DiskFile> Syncing<F> {
    /// Syncs, on whichever thread. A failure is for [`Log::end_sync`].
    pub fn run(&self) -> io::Result<()> {
        sync(&*self.file, &self.failed)
    }
}

/// Syncs a file that may be synced elsewhere at the same time. Once that has failed, none goes well any more.
pub(super) fn sync(file: &impl DiskFile, failed: &Mutex<bool>) -> io::Result<()> {
    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
    if *failed {
        return Err(io::Error::other("a sync just before it failed"));
    }
    let synced = file.sync_data();
    *failed = synced.is_err();
    synced
}

impl<D: Disk> Log<D> {
    /// Writes what is left to write, and gives what is to be synced then, beside the log; none: everything is. While it
    /// runs, the log goes on; once it has ended, [`Log::end_sync`] must hear of it.
    pub fn begin_sync(&mut self) -> Result<Option<Syncing<D::File>>, LogError> {
        self.write()?;
        if self.durable_end == self.end {
            return Ok(None);
        }
        let LiveFile { header, file, .. } = self.active();
        Ok(Some(Syncing {
            file: Arc::clone(file),
            failed: Arc::clone(&self.failed),
            sequence: header.sequence,
            end: self.end,
        }))
    }

    /// What was written when the sync began survives a power cut, if it went well; what came after it need not.
    pub fn end_sync(&mut self, syncing: &Syncing<D::File>, synced: io::Result<()>) -> Result<(), LogError> {
        self.check_alive()?;
        self.mortal(synced.map_err(failed_in("syncing", syncing.sequence)))?;
        self.syncs += 1;
        // A file that was followed by another meanwhile was synced then.
        if self.active().header.sequence == syncing.sequence {
            self.durable_end = self.durable_end.max(syncing.end);
        }
        // What made files needless may have been written while this ran.
        if self.durable_end != self.end || !self.buffer.is_empty() {
            return Ok(());
        }
        let recycled = self.recycle();
        self.mortal(recycled)
    }
}
