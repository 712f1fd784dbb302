//! The inbox: writes on their way to the shard's thread.
//!
//! ```text
//!   callers --put--> [ w | w | w | ... ] --take: all at once--> the shard's thread
//!              '-- whoever puts the first in calls the thread, and who makes it enough for an entry: two events, however many come
//! ```
//!
//! A thread that lets writes gather while an entry is on its way, or has as many on their way as there may be, takes nothing: they
//! stay here meanwhile, and nobody wakes it for them. It has a look whenever one of its entries is done.
//!
//! Whoever puts the first in may do it himself instead of calling the thread ([`seat`](super::seat)).
//!
//! Always: if there is anything, the thread has been called since the inbox was emptied, or whoever put the first in is about to do it,
//! or to call. Whoever comes once it has closed is told
//! so; what was in it then goes unanswered, which its callers take for the shard's end.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::Shared;
use super::queue::Waiting;

/// So much is worth an entry of its own, while another is on its way.
pub(super) const GATHERED_BYTES: usize = 64 << 10;
/// Room for so many is kept; there may be far more for a moment.
const ROOM_KEPT: usize = 1_024;

/// See the module's front page.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    writes: Vec<Waiting>,
    bytes: usize,
    closed: bool,
}

/// The thread has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a write in. Whether the thread has to be called.
    pub fn put(&self, write: Waiting) -> Result<bool, Closed> {
        let mut inner = self.lock();
        if inner.closed {
            drop(inner);
            return Err(Closed);
        }
        let was_enough = inner.bytes >= GATHERED_BYTES;
        inner.bytes += write.permit.bytes();
        inner.writes.push(write);
        Ok(inner.writes.len() == 1 || (inner.bytes >= GATHERED_BYTES && !was_enough))
    }

    /// Adds all that is in it to what waits, in order. `spare` is empty, and lends its room.
    pub fn take(&self, spare: &mut Vec<Waiting>, waiting: &mut VecDeque<Waiting>) {
        let mut inner = self.lock();
        std::mem::swap(&mut inner.writes, spare);
        inner.bytes = 0;
        drop(inner);
        waiting.extend(spare.drain(..));
        spare.shrink_to(ROOM_KEPT);
    }
}

/// Closes the inbox once the thread that takes from it has gone, in whichever way.
pub(super) struct Closing(pub Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut inner = self.0.inbox.lock();
        inner.closed = true;
        let left = std::mem::take(&mut inner.writes);
        drop(inner);
        // Their callers go on, and may ask for locks.
        drop(left);
    }
}
