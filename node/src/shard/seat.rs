//! The seat: where a shard's owner is, and who takes a turn with it.
//!
//! ```text
//!   the shard's thread, whenever an event has come ------> [ owner ] everything that waits
//!   whoever brings a write, if there is nothing else ----> [ owner ] that write
//!   the door to other members, with the entries of one --> [ owner ] those
//! ```
//!
//! To wake a thread, and to be woken by it, takes longer than most turns. So who has something to do at once does it at once:
//! 50 Redis clients make 137,000 buffered writes a second rather than 105,000, one has a synced write back in 0.17 ms rather than
//! 0.25, and 64 callers of three nodes make a tenth more.
//!
//! Always:
//! - one at a time has the owner. Whoever does not get it at once leaves what it brings to the thread, which waits for it;
//! - what another member says is taken in the order in which it came: nothing is taken past what waits for the thread;
//! - what is left to do after a turn that was not the thread's, the thread is called for;
//! - a panic in a turn, or an error after which the owner must not go on, stops the process, on whichever thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::Duration;

use loci_raft::{Message, MessageKind};

use super::{Event, Fatal, Owner, ShardHandle};
use crate::fatal;

/// A larger message is for the thread: whoever brings it has others to serve.
const HERE_BYTES_MAX: usize = 128 << 10;

/// Who takes the turn for a write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TurnBy {
    /// The shard's thread.
    #[default]
    Shard,
    /// Whoever brings it, if there is nothing else to do, and nobody else to agree.
    Bringer {
        /// Whether it may wait for a sync.
        may_wait: bool,
    },
}

/// An owner that has not ended.
pub(super) type Seated = Mutex<Option<Owner>>;

/// The way to it; none, where a shard has no thread.
#[derive(Debug, Default)]
pub(super) struct Seat {
    seated: OnceLock<Weak<Seated>>,
    /// Messages of other members that wait for the thread.
    messages: AtomicUsize,
}

fn lock(seated: &Seated) -> MutexGuard<'_, Option<Owner>> {
    // A panic of whoever held it has stopped the process.
    seated.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Seat {
    /// Lets others than the thread take turns.
    pub fn open(&self, owner: &Arc<Seated>) {
        // There is one thread, which does so once.
        let _ = self.seated.set(Arc::downgrade(owner));
    }

    /// A message has been taken that waited for the thread.
    pub fn message_taken(&self) {
        self.messages.fetch_sub(1, Ordering::AcqRel);
    }

    /// Does something with the owner, unless somebody else has it.
    fn with<R>(&self, act: impl FnOnce(&mut Owner) -> Result<R, Fatal>) -> Option<R> {
        let seated = self.seated.get()?.upgrade()?;
        let mut seated = match seated.try_lock() {
            Ok(seated) => seated,
            Err(TryLockError::WouldBlock | TryLockError::Poisoned(_)) => return None,
        };
        let owner = seated.as_mut()?;
        match fatal::guard("shard", || act(owner)) {
            Ok(done) => Some(done),
            Err(Fatal(reason)) => fatal::stop(&reason),
        }
    }
}

impl ShardHandle {
    /// Takes the turn for the write that has just come, if that is all there is to do; otherwise the thread has to be called.
    pub(super) fn take_turn(&self, by: TurnBy) -> bool {
        let TurnBy::Bringer { may_wait } = by else { return false };
        let turn = |owner: &mut Owner| {
            if !owner.has_one_write(may_wait) {
                return Ok(false);
            }
            owner.act()?;
            Ok(owner.may_rest())
        };
        self.0.leads_alone() && self.0.seat.with(turn) == Some(true)
    }

    /// Hands the shard's thread a message of another member.
    pub fn receive(&self, message: Message) {
        self.0.seat.messages.fetch_add(1, Ordering::AcqRel);
        // A shard that has ended takes part in nothing.
        let _ = self.0.events.send(Event::Peer(message));
    }

    /// The same, or takes it here and now if it brings not too many entries: what they cost most is the sync, for which whoever
    /// calls has to be ready to wait.
    pub fn receive_here(&self, message: Message) {
        let seat = &self.0.seat;
        let is_small = message.kind() == MessageKind::Append && message.bytes() <= HERE_BYTES_MAX;
        let mut message = Some(message);
        if is_small && seat.messages.load(Ordering::Acquire) == 0 {
            let rests = seat.with(|owner| {
                if let Some(message) = message.take() {
                    owner.hear(message)?;
                }
                owner.act()?;
                Ok(owner.may_rest())
            });
            if rests == Some(false) {
                // As above.
                let _ = self.0.events.send(Event::Writes);
            }
        }
        if let Some(message) = message {
            self.receive(message);
        }
    }
}

/// Drives an owner until it has stopped.
pub(super) fn run(seated: &Seated, events: &Receiver<Event>) -> Result<(), Fatal> {
    let mut idle = Duration::ZERO;
    loop {
        let first = events.recv_timeout(idle);
        let mut seat = lock(seated);
        let Some(owner) = seat.as_mut() else { return Ok(()) };
        match first {
            Ok(event) => owner.take(event)?,
            Err(RecvTimeoutError::Timeout) => {}
            // The node is gone without a word; so is everybody who could wait.
            Err(RecvTimeoutError::Disconnected) => break,
        }
        while let Ok(event) = events.try_recv() {
            owner.take(event)?;
        }
        owner.turn()?;
        if owner.is_done() {
            break;
        }
        idle = owner.idle_for();
    }
    let owner = lock(seated).take();
    owner.map_or(Ok(()), Owner::finish)
}
