//! Typed values by key: what a cache holds, and the commands on it.
//!
//! ```text
//!   calls (packed) --> execute --> commands/*: read or write --> Keyspace --> stripes: key -> Entry
//!                         |                                         |                      |
//!                         '--> Tape: the replies                    '--> Events            '--> string, or an Object
//! ```
//!
//! A [`Table`] is the typed part of one collection. Its one writer is the store, which applies calls in the order of the
//! log; readers share it. A call locks the table for as long as it runs, which is how a reader sees all of a call or
//! nothing of it; nobody awaits anything under the lock.
//!
//! Always:
//! - a call is a function of the table, its arguments, its position in the log and the log's clock. What depends on
//!   chance draws it from the position; what is stored in an order keeps it over a restart;
//! - what has expired by the log's clock is not there for a call, and not there for a reader whose clock says so;
//! - what a table takes in memory is known to the byte, as far as the allocator's rounding is known;
//! - a checkpoint sees the table as it was when it was begun, while the writer goes on.

pub mod tape;
pub mod call;
pub mod lookups;
pub mod glob;
mod cells;
pub mod slab;
mod entry;
mod stripe;
pub mod ahead;
pub mod objects;
pub mod keyspace;
pub mod events;
mod tags;
mod wheel;
pub mod eviction;
pub mod commands;
mod slot;
pub mod slots;
pub mod guards;
pub mod execute;
pub mod script;
pub mod scripting;
pub mod permits;
pub mod weight;
mod functions;
pub mod rdb;
pub(crate) mod file;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard, TryLockError};

use lookups::Lookups;

pub use events::{Event, Events, Listening};
pub use keyspace::{At, Keyspace};

/// The typed part of one collection, shared by its writer, its readers and a checkpoint.
pub struct Table {
    inner: RwLock<Keyspace>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Table {
    /// An empty one. `seed` decides where keys lie, and should be known to no client.
    pub fn new(seed: u64) -> Table {
        Table::of(Keyspace::new(seed))
    }

    pub(crate) fn of(keyspace: Keyspace) -> Table {
        Table { inner: RwLock::new(keyspace), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Reads it: `read` sees the table as it stands between two calls.
    pub fn read<R>(&self, read: impl FnOnce(&Keyspace) -> R) -> R {
        // A call that panicked leaves the process, so the lock is never poisoned by one that was believed.
        read(&self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts what readers looked for.
    pub fn looked(&self, looked: Lookups) {
        if looked.hits > 0 {
            self.hits.fetch_add(looked.hits, Ordering::Relaxed);
        }
        if looked.misses > 0 {
            self.misses.fetch_add(looked.misses, Ordering::Relaxed);
        }
    }

    /// What readers looked for here since this member began.
    pub fn lookups(&self) -> Lookups {
        Lookups { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }

    /// Changes it. Only the store may.
    pub(crate) fn write<R>(&self, write: impl FnOnce(&mut Keyspace) -> R) -> R {
        write(&mut self.lock())
    }

    /// Whether nobody has it just now.
    pub(crate) fn is_free(&self) -> bool {
        !matches!(self.inner.try_write(), Err(TryLockError::WouldBlock))
    }

    /// As `write`, unless that would mean waiting.
    pub(crate) fn write_if_free(&self, write: impl FnOnce(&mut Keyspace)) {
        match self.inner.try_write() {
            Ok(mut keyspace) => write(&mut keyspace),
            Err(TryLockError::Poisoned(poisoned)) => write(&mut poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    /// As `write`, for as long as the guard is held.
    pub(crate) fn lock(&self) -> RwLockWriteGuard<'_, Keyspace> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an allocation of so many bytes takes: the allocator keeps eight bytes of its own and rounds up to sixteen.
pub(crate) const fn allocated(bytes: usize) -> usize {
    if bytes == 0 {
        return 0;
    }
    let rounded = (bytes + 8 + 15) & !15;
    if rounded < 32 { 32 } else { rounded }
}
