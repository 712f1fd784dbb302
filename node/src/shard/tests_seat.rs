//! The seat of a shard of one member, whose thread is the test's: what is done by whoever brings it, and what is left to the thread.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use loci_index::command::Durability;
use loci_raft::MessageKind;

use super::seat::Seated;
use super::tests_alone::{Alone, Ground, command_on};
use super::*;

/// A shard whose owner sits where others reach it.
struct Seats {
    handle: ShardHandle,
    events: Receiver<Event>,
    seated: Arc<Seated>,
    synced: u64,
    buffered: u64,
    _ground: Ground,
}

const BRINGS: TurnBy = TurnBy::Bringer { may_wait: false };
const BRINGS_AND_WAITS: TurnBy = TurnBy::Bringer { may_wait: true };

impl Seats {
    fn new() -> Seats {
        let mut alone = Alone::new();
        let (synced, buffered) =
            (alone.collection("s", Durability::Synced), alone.collection("b", Durability::Buffered));
        let (owner, handle, events, _ground) = alone.apart();
        let seated = Arc::new(Mutex::new(Some(owner)));
        handle.0.seat.open(&seated);
        let seats = Seats { handle, events, seated, synced, buffered, _ground };
        seats.turn();
        seats
    }

    fn increment(
        &self,
        turn: TurnBy,
        collection: u64,
    ) -> Pin<Box<impl Future<Output = Result<Written, WriteError>> + use<>>> {
        let terms = Terms { turn, ..Terms::default() };
        Box::pin(command_on(&self.handle, terms, collection, "", &["INCR", "n"]))
    }

    /// What is written at once, without a word to the thread. The log has other users, so that it may take more than one attempt.
    fn increment_here(&self, turn: TurnBy, collection: u64) -> Written {
        let attempt = |_| {
            let mut writing = self.increment(turn, collection);
            let written = now(writing.as_mut());
            match &written {
                Some(_) => assert!(self.events().is_empty(), "the thread is called for nothing"),
                None => drop(self.until(writing.as_mut())),
            }
            written
        };
        (0..50).find_map(attempt).expect("nobody is always at the log")
    }

    /// What waits for the thread.
    fn events(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Turns of the thread until a write is answered.
    fn until(&self, mut writing: Pin<&mut impl Future<Output = Result<Written, WriteError>>>) -> Written {
        loop {
            self.turn();
            if let Some(written) = now(writing.as_mut()) {
                return written;
            }
        }
    }

    /// What the thread would do.
    fn turn(&self) {
        let mut seat = self.seated.lock().unwrap();
        let owner = seat.as_mut().unwrap();
        self.events().into_iter().for_each(|event| owner.take(event).unwrap());
        owner.turn().unwrap();
    }
}

/// What a leader says to another member: here it is for nobody, and all that matters is when it is heard.
fn entries_for_another() -> Message {
    let mut alone = Alone::new();
    let (reply, _) = oneshot::channel();
    alone.owner.take(Event::Change { changes: vec![MemberChange::AddLearner(MemberId(2))], reply }).unwrap();
    loop {
        alone.turn();
        let sent = alone.sent.lock().unwrap();
        if let Some(message) = sent.iter().find(|message| message.kind() == MessageKind::Append) {
            return message.clone();
        }
    }
}

/// What is there after one look.
fn now<T>(writing: Pin<&mut impl Future<Output = Result<T, WriteError>>>) -> Option<T> {
    match writing.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done.unwrap()),
        Poll::Pending => None,
    }
}

#[test]
fn whoever_brings_a_write_does_it_where_nothing_has_to_be_waited_for() {
    let seats = Seats::new();
    let first = seats.increment_here(BRINGS, seats.buffered);
    let second = seats.increment_here(BRINGS_AND_WAITS, seats.synced);
    assert!(second.index > first.index);
    assert_eq!(seats.handle.0.view.load().index(), second.index);
    // Where it had to wait, and where nobody offers to, it is for the thread.
    for turn in [BRINGS, TurnBy::Shard] {
        let mut writing = seats.increment(turn, seats.synced);
        assert!(now(writing.as_mut()).is_none());
        assert!(matches!(seats.events()[..], [Event::Writes]));
        seats.until(writing.as_mut());
    }
}

#[test]
fn whoever_brings_a_write_leaves_it_to_the_thread_where_there_is_more_to_do() {
    let seats = Seats::new();
    // Another has the owner.
    let held = seats.seated.lock().unwrap();
    let mut first = seats.increment(BRINGS, seats.buffered);
    assert!(now(first.as_mut()).is_none());
    drop(held);
    // Others wait: they may be large, and their turn is before this one's.
    let mut second = seats.increment(BRINGS, seats.buffered);
    assert!(now(second.as_mut()).is_none());
    assert!(matches!(seats.events()[..], [Event::Writes]), "the thread is called once");
    let (first, second) = (seats.until(first.as_mut()), seats.until(second.as_mut()));
    assert_eq!(first.index, second.index, "one entry for both");
}

#[test]
fn what_another_member_says_is_not_taken_past_what_waits() {
    let seats = Seats::new();
    let handle = &seats.handle;
    let message = entries_for_another();
    assert!(handle.receive_here(vec![message.clone()]), "it is heard at once");
    assert!(seats.events().is_empty());
    handle.receive(message.clone());
    assert!(!handle.receive_here(vec![message.clone()]));
    let waiting = seats.events();
    assert!(matches!(waiting[..], [Event::Peer(_), Event::Peer(_)]));
    let mut seat = seats.seated.lock().unwrap();
    waiting.into_iter().for_each(|event| seat.as_mut().unwrap().take(event).unwrap());
    // Somebody has the owner.
    assert!(!handle.receive_here(vec![message.clone()]));
    let waiting = seats.events();
    assert!(matches!(waiting[..], [Event::Peer(_)]));
    waiting.into_iter().for_each(|event| seat.as_mut().unwrap().take(event).unwrap());
    drop(seat);
    assert!(handle.receive_here(vec![message.clone(), message.clone()]), "those that came together are taken at once");
    assert!(handle.receive_here(vec![message]), "nothing waits any more");
    assert!(seats.events().is_empty());
}
