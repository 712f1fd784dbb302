//! The handle in front of a shard whose thread does nothing, so that what waits stays waiting.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use loci_index::command::{Action, Change, Command, Content, Envelope, Origin};
use loci_index::directory::MmapDirectory;
use loci_index::store::StoreOptions;

use super::handle::{Phase, Shared};
use super::*;

struct Idle {
    handle: ShardHandle,
    events: Receiver<Event>,
    _directory: tempfile::TempDir,
}

fn idle(budget_bytes: u64) -> Idle {
    let directory = tempfile::tempdir().unwrap();
    let files = Arc::new(MmapDirectory::open(directory.path()).unwrap());
    let store = Store::create(files, StoreOptions::default(), [7; 32], 5).unwrap();
    let (sender, events) = channel();
    let budget = Arc::new(Budget::new(budget_bytes));
    let shared = Shared::new(
        1,
        loci_raft::MemberId(1),
        sender,
        &store,
        budget,
        Arc::new(Clock::new()),
        History::open(0, 1 << 20, None),
    );
    shared.set_phase(Phase::Ready);
    shared.leader.store(1, Ordering::Release);
    shared.lease.store(owner::FOREVER, Ordering::Release);
    Idle { handle: ShardHandle(Arc::new(shared)), events, _directory: directory }
}

fn write(action: Action) -> Envelope {
    let changes = vec![Change { collection: 1, key: b"k".to_vec(), action }];
    Envelope { origin: Origin::default(), command: Command::Write { conditions: vec![], changes } }
}

fn value(bytes: usize) -> Envelope {
    write(Action::Put(Content { value: Some(vec![1; bytes]), ..Content::default() }))
}

/// What has come, for which the thread was called with the first, and with the one that made it enough.
fn taken(handle: &ShardHandle, events: &Receiver<Event>) -> Vec<queue::Waiting> {
    let calls = events.try_iter().filter(|event| matches!(event, Event::Writes)).count();
    let mut waiting = VecDeque::new();
    handle.0.inbox.take(&mut Vec::new(), &mut waiting);
    let bytes = |writes: usize| waiting.iter().take(writes).map(|write| write.permit.bytes()).sum::<usize>();
    let enough = (1..=waiting.len()).find(|writes| bytes(*writes) >= inbox::GATHERED_BYTES);
    assert_eq!(calls, usize::from(!waiting.is_empty()) + usize::from(enough.is_some_and(|writes| writes > 1)));
    waiting.into()
}

/// Polls once: what is answered at once is answered by then.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn a_full_queue_refuses_at_once_and_says_when_to_come_back() {
    let Idle { handle, events, .. } = idle(1 << 30);
    let mut waiting = Vec::new();
    for _ in 0..QUEUE_WRITES_MAX {
        let mut future = Box::pin(handle.write(value(1), None));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        waiting.push(future);
    }
    let refused = at_once(handle.write(value(1), None)).expect("an answer at once");
    assert!(matches!(refused, Err(WriteError::Overloaded { .. })), "{refused:?}");
    assert_eq!(handle.status().queued, QUEUE_WRITES_MAX as u64);
    // Once the shard has dealt with them there is room again.
    drop(waiting);
    assert_eq!(taken(&handle, &events).len(), QUEUE_WRITES_MAX);
    assert!(at_once(handle.write(value(1), None)).is_none());
}

#[test]
fn writes_come_in_order_and_the_thread_is_called_for_the_first_of_those_it_takes_together() {
    let Idle { handle, events, .. } = idle(1 << 30);
    for round in 1..50 {
        let mut writes: Vec<_> = (0..round).map(|number| Box::pin(handle.write(value(number), None))).collect();
        for write in &mut writes {
            assert!(write.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let sizes: Vec<_> = taken(&handle, &events).iter().map(|write| write.permit.bytes()).collect();
        assert!(sizes.is_sorted() && sizes.len() == round, "{sizes:?}");
    }
}

#[test]
fn what_waits_when_the_thread_ends_and_what_comes_later_is_told_that_it_stops() {
    let Idle { handle, events, .. } = idle(1 << 30);
    let closing = inbox::Closing(Arc::clone(&handle.0));
    let mut waiting = Box::pin(handle.write(value(1), None));
    let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(poll().is_pending());
    drop(closing);
    assert_eq!(poll(), Poll::Ready(Err(WriteError::Stopping)));
    assert_eq!(at_once(handle.write(value(1), None)), Some(Err(WriteError::Stopping)));
    assert_eq!(events.try_iter().count(), 1, "nobody is called once it has ended");
}

#[test]
fn a_write_larger_than_an_entry_is_refused() {
    let Idle { handle, .. } = idle(1 << 30);
    let refused = at_once(handle.write(value(WRITE_BYTES_MAX), None)).unwrap();
    assert!(matches!(refused, Err(WriteError::TooLarge { .. })), "{refused:?}");
}

#[test]
fn without_memory_only_deletions_pass() {
    let Idle { handle, events: _events, .. } = idle(100_000);
    let refused = at_once(handle.write(value(100_000), None)).unwrap();
    assert!(matches!(refused, Err(WriteError::MemoryFull { budget_bytes: 100_000, .. })), "{refused:?}");
    handle.0.budget.store_changed(0, 100_001);
    let refused = at_once(handle.write(value(0), None)).unwrap();
    assert!(matches!(refused, Err(WriteError::MemoryFull { .. })), "{refused:?}");
    assert!(at_once(handle.write(write(Action::Delete), None)).is_none());
}

#[tokio::test]
async fn a_write_whose_deadline_passes_in_the_queue_is_never_begun() {
    let Idle { handle, events, .. } = idle(1 << 30);
    let past = handle.write(value(1), Some(Instant::now())).await;
    assert_eq!(past, Err(WriteError::Expired));
    assert!(events.try_recv().is_err());
    let late = handle.write(value(1), Some(Instant::now() + Duration::from_millis(5))).await;
    assert_eq!(late, Err(WriteError::Expired));
    let [write] = &taken(&handle, &events)[..] else { panic!("no write") };
    assert!(!write.turn.begin());
}

#[tokio::test]
async fn a_write_whose_deadline_passes_on_its_way_has_an_unknown_outcome() {
    let Idle { handle, events, .. } = idle(1 << 30);
    let late = handle.write(value(1), Some(Instant::now() + Duration::from_millis(20)));
    let begin = async {
        tokio::task::yield_now().await;
        let writes = taken(&handle, &events);
        assert!(writes[0].turn.begin());
        writes
    };
    let (late, _write) = tokio::join!(late, begin);
    assert_eq!(late, Err(WriteError::DeadlineExceeded));
}

#[test]
fn a_write_whose_caller_goes_away_is_never_begun() {
    let Idle { handle, events, .. } = idle(1 << 30);
    assert!(at_once(handle.write(value(1), None)).is_none());
    let [write] = &taken(&handle, &events)[..] else { panic!("no write") };
    assert!(!write.turn.begin());
}

#[tokio::test]
async fn a_lease_does_not_answer_while_others_may_have_applied_more() {
    let Idle { handle, events: _events, .. } = idle(1 << 30);
    handle.0.lease.store(owner::FOREVER - 1, Ordering::Release);
    handle.0.committed.store(5, Ordering::Release);
    assert_eq!(at_once(handle.view(Level::Latest, None)).expect("an answer at once").unwrap().index(), 5);
    // A majority of others has entry 6, which this member's own disk does not hold yet.
    handle.0.committed.store(6, Ordering::Release);
    assert!(at_once(handle.view(Level::Latest, None)).is_none());
    assert_eq!(at_once(handle.view(Level::Stale, None)).unwrap().unwrap().index(), 5);
}

#[test]
fn a_shard_that_starts_or_stops_says_so() {
    let Idle { handle, .. } = idle(1 << 30);
    handle.0.set_phase(Phase::Starting);
    assert_eq!(at_once(handle.write(value(1), None)), Some(Err(WriteError::NotReady)));
    assert_eq!(at_once(handle.view(Level::Latest, None)).unwrap().err(), Some(ReadError::NotReady));
    handle.0.set_phase(Phase::Stopping);
    assert_eq!(at_once(handle.write(value(1), None)), Some(Err(WriteError::Stopping)));
    assert_eq!(at_once(handle.view(Level::Stale, None)).unwrap().unwrap().index(), 5);
}

#[test]
fn a_checkpoint_from_before_a_member_came_again_is_not_for_it() {
    let Idle { handle, .. } = idle(1 << 20);
    let four = loci_raft::MemberId(4);
    handle.0.admitted.lock().unwrap().insert(four, 90);
    let stand = |index: u64, voters: &[u64]| {
        let members = loci_raft::Members::with_learners(voters.iter().copied().map(loci_raft::MemberId), []).unwrap();
        Stand { index: loci_raft::LogIndex(index), term: loci_raft::Term(3), members: Arc::new(members) }
    };
    assert!(!handle.is_for(&stand(89, &[1, 4]), four), "of its first life");
    assert!(handle.is_for(&stand(90, &[1, 4]), four));
    assert!(!handle.is_for(&stand(95, &[1]), four), "it has no part in it");
    assert!(handle.is_for(&stand(80, &[1, 4]), loci_raft::MemberId(1)), "who never went");
}
