//! The seat: where a shard's owner is, and who takes a turn with it.
//!
//! ```text
//!   the shard's thread, whenever an event has come ------> [ owner ] everything that waits
//!   whoever brings a write, if there is nothing else ----> [ owner ] that write
//!   the door to other members, with entries of one ------> [ owner ] those
//! ```
//!
//! To wake a thread, and to be woken by it, takes longer than most turns. So who has something to do at once does it at once:
//! 50 Redis clients make 137,000 buffered writes a second rather than 105,000, one has a synced write back in 0.17 ms rather than
//! 0.25, and 64 callers of three nodes make a tenth more.
//!
//! Always:
//! - one at a time has the owner. Whoever does not get it at once leaves what it brings to the thread, which waits for it, and has it
//!   next;
//! - who brings a write does that one: not what others bring meanwhile, nor what takes long, nor what would wait for a large read;
//! - what another member says is taken in the order in which it came: nothing is taken past what waits for the thread;
//! - what is left to do after a turn that was not the thread's, the thread is called for;
//! - a panic in a turn, or an error after which the owner must not go on, stops the process, on whichever thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::time::Duration;

use loci_raft::{Message, MessageKind};
use tokio::runtime::Handle;

use super::{Event, Fatal, Owner, ShardHandle};
use crate::fatal;

/// More is for the thread: whoever brings it has others to serve.
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
    /// The thread waits for it: nobody else is to have it next.
    wanted: AtomicBool,
    /// Of those who take messages of other members.
    runtime: OnceLock<Handle>,
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
        if self.wanted.load(Ordering::Acquire) {
            return None;
        }
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

    /// The owner, for the thread, which waits for it.
    fn wait<'s>(&self, seated: &'s Seated) -> MutexGuard<'s, Option<Owner>> {
        if let Ok(owner) = seated.try_lock() {
            return owner;
        }
        // Of threads that serve connections the one that looks for what comes may be the one that has the owner, and waits for the
        // disk: another is to look.
        if let Some(runtime) = self.runtime.get() {
            runtime.spawn(std::future::ready(()));
        }
        self.wanted.store(true, Ordering::Release);
        let owner = lock(seated);
        self.wanted.store(false, Ordering::Release);
        owner
    }
}

impl ShardHandle {
    /// Takes the turn for the write that has just come, if that is all there is to do; otherwise the thread has to be called.
    pub(super) fn take_turn(&self, by: TurnBy) -> bool {
        let TurnBy::Bringer { may_wait } = by else { return false };
        self.0.leads_alone() && self.0.seat.with(|owner| owner.do_one_write(may_wait)) == Some(true)
    }

    /// Hands the shard's thread a message of another member.
    pub fn receive(&self, message: Message) {
        self.0.seat.messages.fetch_add(1, Ordering::AcqRel);
        // A shard that has ended takes part in nothing.
        let _ = self.0.events.send(Event::Peer(message));
    }

    /// The same of those that came together, or takes one turn for them here and now if they bring not too many entries, and says that it
    /// did: what they cost most is the sync, for which whoever calls has to be ready to wait, as for the table of a collection that
    /// somebody reads much of. On a thread of a runtime of several: if it has to wait for longer than a tick, another is called to look
    /// after the rest.
    pub fn receive_here(&self, messages: Vec<Message>) -> bool {
        let seat = &self.0.seat;
        let are_appends = messages.iter().all(|message| message.kind() == MessageKind::Append);
        let are_small = || messages.iter().map(Message::bytes).sum::<usize>() <= HERE_BYTES_MAX;
        if !are_appends || !are_small() || seat.messages.load(Ordering::Acquire) > 0 {
            messages.into_iter().for_each(|message| self.receive(message));
            return false;
        }
        if let (None, Ok(runtime)) = (seat.runtime.get(), Handle::try_current()) {
            // Somebody else's is the same.
            let _ = seat.runtime.set(runtime);
        }
        let mut messages = messages;
        let rests = seat.with(|owner| {
            for message in std::mem::take(&mut messages) {
                owner.hear(message)?;
            }
            owner.act()?;
            Ok(owner.may_rest())
        });
        if rests == Some(false) {
            // As above.
            let _ = self.0.events.send(Event::Writes);
        }
        // If somebody else has the owner.
        messages.into_iter().for_each(|message| self.receive(message));
        rests.is_some()
    }
}

/// Drives an owner until it has stopped.
pub(super) fn run(shard: &ShardHandle, seated: &Seated, events: &Receiver<Event>) -> Result<(), Fatal> {
    let seat = &shard.0.seat;
    let mut idle = Duration::ZERO;
    loop {
        let first = events.recv_timeout(idle);
        let mut owner = seat.wait(seated);
        let Some(owner) = owner.as_mut() else { return Ok(()) };
        match turn(owner, first, events) {
            Ok(true) => idle = owner.idle_for(),
            Ok(false) => break,
            // Before anybody else has it.
            Err(Fatal(reason)) => fatal::stop(&reason),
        }
    }
    let owner = lock(seated).take();
    owner.map_or(Ok(()), Owner::finish)
}

/// A turn for all that has come. Whether there is to be another.
fn turn(owner: &mut Owner, first: Result<Event, RecvTimeoutError>, events: &Receiver<Event>) -> Result<bool, Fatal> {
    match first {
        Ok(event) => owner.take(event)?,
        Err(RecvTimeoutError::Timeout) => {}
        // The node is gone without a word; so is everybody who could wait.
        Err(RecvTimeoutError::Disconnected) => return Ok(false),
    }
    while let Ok(event) = events.try_recv() {
        owner.take(event)?;
    }
    owner.turn()?;
    Ok(!owner.is_done())
}
