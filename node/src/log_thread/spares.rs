//! Spares: the next file of the log is made ready as soon as the last one that was is used, by a thread of its own.
//!
//! ```text
//!   append --no spare left--> wanted --> begin (at the log) --> zeros (beside it) --> made --> end (at the log)
//!                                                                                      '--> whoever has the log and needs the file
//! ```
//!
//! Always: what was made is handed over without the log, for which whoever needs the file may be waiting; who needs one waits for that
//! on its way, and makes another only if there is none: so a spare never holds the space that an append waits for.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Mutex, Weak};
use std::time::{Duration, Instant};

use loci_raft::{LogError, MakingSpare};

use super::{Owner, RETRY_EVERY, lock};

/// How long none is made ready that nobody needs yet, at the most, after there was no space for it: others need what there is.
const NO_SPARE_FOR_MAX: Duration = Duration::from_secs(30);

/// A spare, and what came of making it.
pub(super) type MadeSpare = (MakingSpare<File>, io::Result<()>);

/// How the next spare is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SpareIs {
    /// Nobody makes one.
    Left,
    /// The thread is told.
    Wanted,
    /// The thread is at it.
    Begun,
}

/// Makes the spares that are wanted, beside the log, until that is closed.
pub(super) fn make_spares(owner: &Weak<Mutex<Owner>>, wanted: &Receiver<()>, made: &Sender<MadeSpare>) {
    while wanted.recv().is_ok() {
        let Some(begun) = owner.upgrade().map(|owner| lock(&owner).begin_spare()) else { return };
        let Some(making) = begun else { continue };
        let result = making.run();
        // Whoever has the log may take it before this thread has the log.
        if made.send((making, result)).is_err() {
            return;
        }
        let Some(owner) = owner.upgrade() else { return };
        lock(&owner).take_made_spare();
    }
}

impl Owner {
    /// Has a spare made if there is none.
    pub(super) fn want_spare(&mut self) {
        if self.log.lacks_spare() && self.spare == SpareIs::Left && self.no_spare_until <= Instant::now() {
            self.spare = SpareIs::Wanted;
            // The thread ends only with the log, or the process.
            let _ = self.wanted_spares.send(());
        }
    }

    pub(super) fn begin_spare(&mut self) -> Option<MakingSpare<File>> {
        let begun = self.log.begin_spare();
        let making = self.spare_or_space(begun).flatten();
        self.spare = if making.is_some() { SpareIs::Begun } else { SpareIs::Left };
        making
    }

    fn take_made_spare(&mut self) {
        if let Ok(made) = self.made_spares.try_recv() {
            self.end_spare(made);
        }
    }

    /// Whether there is not so much room without a spare that is not there yet.
    pub(super) fn lacks_room(&self, room: u64) -> bool {
        self.log.lacks_spare() && self.log.room() < room
    }

    /// Waits for the spare that is being made, if so much room needs one: it is there sooner than another would be, and takes what
    /// space there is.
    pub(super) fn await_spare(&mut self, room: u64) {
        if self.spare == SpareIs::Begun
            && self.lacks_room(room)
            && let Ok(made) = self.made_spares.recv()
        {
            self.end_spare(made);
        }
    }

    fn end_spare(&mut self, (making, made): MadeSpare) {
        self.spare = SpareIs::Left;
        let ended = self.log.end_spare(making, made);
        if self.spare_or_space(ended).is_some() {
            self.no_spare_for = RETRY_EVERY;
            self.set_full(false);
            self.publish();
        }
    }

    /// None: there was no space for a spare. Nothing needs it yet; whoever does will say so.
    fn spare_or_space<T>(&mut self, done: Result<T, LogError>) -> Option<T> {
        match done {
            Ok(done) => Some(done),
            Err(LogError::Full { .. }) => {
                self.no_spare_until = Instant::now() + self.no_spare_for;
                self.no_spare_for = (2 * self.no_spare_for).min(NO_SPARE_FOR_MAX);
                None
            }
            Err(error) => self.die(&error),
        }
    }
}
