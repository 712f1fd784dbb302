//! Lanes: the threads that serve connections, and how what they write goes to the log together.
//!
//! ```text
//!   connections of a lane --calls--> group (same shard, databases, user) --one command, one sync--> replies, cut apart
//! ```
//!
//! A lane is one thread with its share of the connections. It sleeps and wakes once for all of them, and hands the log what
//! they wrote as one command: the price of a command, of its sync and of waking those who wait is paid once for many clients
//! (a `SET` of one of 50 clients took 30 us of the processors by itself, and takes 15 in a group). While
//! [`UNDER_WAY_MAX`] groups of a lane are on their way to the disk of a shard, the next is gathered; shards do not wait for each other.
//!
//! Where groups are not done at once none takes more than about half of those who write ([`Crowd`]). All of them in one would all wait for
//! the disk, and then the disk for all of them; so the replies to one half are written while the other half is synced.
//!
//! What waits for no sync is done on the lane's own thread ([`TurnBy::Bringer`]), all of it in one group. So is what does, where few
//! write and few read: they lose less by a sync that keeps the lane than by two changes of threads.
//!
//! Short reads of a shard that other nodes have go together in the same way, in one look.
//!
//! Always: the calls of one client stay together and in order, and it has its replies before it sends more. What waits here was let
//! in by the gate and has a deadline. Only light calls come here, so that what one client does is never refused because of what
//! others do; when memory is full, each is tried by itself, because some only free it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::poll;
use loci_index::table::call::Packed;
use loci_index::table::tape::Items;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::Door;
use super::databases::{Calls, Passage, origin_of};
use super::far::Found;
use super::places::Place;
use crate::shard::{Level, TurnBy};

/// So many groups of a lane are on their way to the disk of a shard.
const UNDER_WAY_MAX: usize = 2;
/// So few go together even if they are all.
const PARTS_MIN: usize = 8;
/// Where the lane has read more often than this since the last group, a sync would keep too many waiting.
const READS_MAX: u64 = 2 * PARTS_MIN as u64;
/// A group takes no more calls once it has so many bytes of them; whoever has more by itself goes alone.
const GROUP_BYTES_GOAL: usize = 1 << 20;
/// A larger group is for the shard's thread: the lane reads and writes meanwhile.
const HERE_BYTES_MAX: usize = 256 << 10;
/// Room for so many bytes of others' calls is made at first, at most.
const ROOM_BYTES_MAX: usize = 64 << 10;
/// Connections of a lane that ends may take so long to notice.
const END_TIME: Duration = Duration::from_secs(2);

const LATE: &str = "TRYAGAIN the deadline passed before it was begun; nothing changed";

/// What became of calls that went with others'.
#[derive(Debug)]
pub enum Fate {
    /// These are the replies.
    Done(Bytes),
    /// Nothing was done: they have to go alone.
    Alone,
    /// It is not known to have been done.
    Failed(String),
}

/// One thread's connections.
pub struct Lane {
    /// How often something came from one of them.
    reads: Arc<AtomicU64>,
    /// What is on its way to the first shard.
    first: Arc<Queue>,
    /// The same of the others, once there was something for them.
    others: Mutex<Vec<Arc<Queue>>>,
    /// What is read of shards that other nodes have.
    looks: Mutex<Vec<Arc<Queue>>>,
    connections: AtomicUsize,
    is_empty: Notify,
}

/// Groups for one shard.
struct Queue {
    /// The lane's.
    reads: Arc<AtomicU64>,
    waiting: Mutex<Waiting>,
    gathered: Notify,
}

#[derive(Default)]
struct Waiting {
    groups: VecDeque<Group>,
    crowd: Crowd,
    /// How often the lane had read when the last group went.
    reads: u64,
}

/// How many write at a time.
#[derive(Default)]
struct Crowd {
    /// Whether the last group was not done at once: most likely it waited for the disk.
    waits: bool,
    /// Parts that wait or are on their way.
    parts: usize,
    /// How many those were lately, at the most.
    lately: usize,
}

/// A group on its way to the disk, until the next may go.
struct UnderWay {
    queue: Arc<Queue>,
    parts: usize,
    turn: TurnBy,
    _permit: OwnedSemaphorePermit,
}

struct Group {
    /// Calls that only read, of another node: as new as this.
    looks: Option<Level>,
    place: Place,
    databases: Vec<u8>,
    principal: Arc<str>,
    packed: Packed,
    parts: Vec<Part>,
}

struct Part {
    calls: u32,
    bytes: usize,
    passage: Passage,
    reply: oneshot::Sender<Fate>,
}

/// All of them.
pub struct Lanes {
    lanes: Vec<(Arc<Lane>, tokio::runtime::Handle)>,
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Lane {
    fn new() -> Lane {
        let reads = Arc::default();
        Lane {
            first: Queue::of(&reads),
            reads,
            others: Mutex::default(),
            looks: Mutex::default(),
            connections: AtomicUsize::new(0),
            is_empty: Notify::new(),
        }
    }

    /// Something came from one of its connections.
    pub(super) fn has_read(&self) {
        // By the lane's own thread alone.
        self.reads.store(self.reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Has the log carry out light calls together with those of others; or, if they only read, has another node say what they find.
    /// They are copied.
    pub(super) async fn submit(
        &self,
        door: &Arc<Door>,
        looks: Option<Level>,
        place: &Place,
        databases: &[u8],
        principal: &Arc<str>,
        packed: &Packed,
    ) -> Fate {
        if packed.len() > GROUP_BYTES_GOAL {
            return Fate::Alone;
        }
        let passage = match door.enter(packed.len()) {
            Ok(passage) => passage,
            Err(error) => return Fate::Failed(error),
        };
        let (reply, answer) = oneshot::channel();
        let part = Part { calls: packed.calls(), bytes: packed.len(), passage, reply };
        let queue = self.queue(place.part(), looks.is_some(), door);
        {
            let Waiting { groups, crowd, .. } = &mut *queue.lock();
            let parts_max = crowd.joins();
            let takes = |group: &&mut Group| {
                group.parts.len() < parts_max
                    && group.looks == looks
                    && group.databases == databases
                    && group.place.is(place)
                    && group.principal == *principal
                    && group.packed.len() + packed.len() <= GROUP_BYTES_GOAL
            };
            match groups.iter_mut().rev().find(takes) {
                Some(group) => {
                    group.packed.append(packed);
                    group.parts.push(part);
                }
                None => {
                    let mut all = Packed::new();
                    all.reserve((crowd.lately * packed.len()).min(ROOM_BYTES_MAX).max(packed.len()));
                    all.append(packed);
                    groups.push_back(Group {
                        looks,
                        place: place.clone(),
                        databases: databases.to_vec(),
                        principal: principal.clone(),
                        packed: all,
                        parts: vec![part],
                    });
                }
            }
        }
        queue.gathered.notify_one();
        answer.await.unwrap_or_else(|_| Fate::Failed("UNCONFIRMED the node is stopping".into()))
    }

    /// The queue of a shard. On the lane's own thread.
    fn queue(&self, part: usize, looks: bool, door: &Arc<Door>) -> Arc<Queue> {
        let (queues, place) = match (looks, part.checked_sub(1)) {
            (true, _) => (&self.looks, part),
            (false, Some(other)) => (&self.others, other),
            (false, None) => return self.first.clone(),
        };
        let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
        while queues.len() <= place {
            let queue = Queue::of(&self.reads);
            tokio::spawn(queue.clone().run(door.clone()));
            queues.push(queue);
        }
        queues[place].clone()
    }

    /// Serves a connection on this lane.
    fn serve(self: Arc<Lane>, serving: impl Future<Output = ()>) -> impl Future<Output = ()> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        let leaving = Leaving(self);
        async move {
            serving.await;
            drop(leaving);
        }
    }
}

impl Queue {
    fn of(reads: &Arc<AtomicU64>) -> Arc<Queue> {
        Arc::new(Queue { reads: reads.clone(), waiting: Mutex::default(), gathered: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next group, and who takes the turn for it.
    fn take(&self) -> Option<(Group, TurnBy)> {
        let mut waiting = self.lock();
        let group = waiting.groups.pop_front()?;
        let reads = self.reads.load(Ordering::Relaxed);
        let since = reads - std::mem::replace(&mut waiting.reads, reads);
        let may_wait = waiting.crowd.lately <= PARTS_MIN && since <= READS_MAX;
        let is_small = group.packed.len() <= HERE_BYTES_MAX;
        Some((group, if is_small { TurnBy::Bringer { may_wait } } else { TurnBy::Shard }))
    }

    /// Sends groups to the log, for ever.
    async fn run(self: Arc<Queue>, door: Arc<Door>) {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        loop {
            // Never closed.
            let Ok(permit) = under_way.clone().acquire_owned().await else { return };
            let (group, turn) = loop {
                if let Some(next) = self.take() {
                    break next;
                }
                self.gathered.notified().await;
                // Whoever else has something to say by now says it first.
                tokio::task::yield_now().await;
            };
            let under_way = UnderWay { queue: self.clone(), parts: group.parts.len(), turn, _permit: permit };
            let mut going = Box::pin(group.carry_out(door.clone(), under_way));
            // At once, before the replies to the one before it are written.
            if poll!(&mut going).is_pending() {
                tokio::spawn(going);
            }
        }
    }
}

impl Crowd {
    /// One more waits. How many a group may take just now.
    fn joins(&mut self) -> usize {
        self.parts += 1;
        self.lately = self.lately.max(self.parts);
        if self.waits { (self.lately / 2 + 1).max(PARTS_MIN) } else { usize::MAX }
    }

    /// So many are about to be answered.
    fn leave(&mut self, parts: usize) {
        // Most of them are back in a moment.
        self.lately -= (self.lately - self.parts).div_ceil(8);
        self.parts -= parts;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.queue.lock().crowd.leave(self.parts);
    }
}

/// One connection less, however it ends.
struct Leaving(Arc<Lane>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if self.0.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.is_empty.notify_one();
        }
    }
}

impl Group {
    /// Lets go of parts that have waited too long. They are the first.
    fn give_up_late(&mut self) {
        let now = Instant::now();
        let late = self.parts.iter().take_while(|part| part.passage.deadline <= now).count();
        for Part { calls, bytes, reply, .. } in self.parts.drain(..late) {
            self.packed.cut_off(bytes, calls);
            // Whoever left meanwhile needs no reply.
            let _ = reply.send(Fate::Failed(LATE.into()));
        }
    }

    async fn carry_out(mut self, door: Arc<Door>, under_way: UnderWay) {
        self.give_up_late();
        let Group { looks, place, databases, principal, packed, parts } = self;
        let Some(deadline) = parts.first().map(|part| part.passage.deadline) else { return };
        if let Some(level) = looks {
            let (packed, chance) = (packed.into_bytes().into(), door.request_ids.draw());
            let found = Box::pin(door.look_in(level, &place, &databases, packed, chance)).await;
            drop(under_way);
            return answer(parts, found.map(Found::into_tape));
        }
        let calls = Calls { place, databases, packed: packed.into_bytes(), conditions: Vec::new(), atomic: false };
        let counts = door.metrics.redis();
        counts.gathered.fetch_add(1, Ordering::Relaxed);
        counts.gathered_parts.fetch_add(parts.len() as u64, Ordering::Relaxed);
        let mut executing = pin!(door.execute_by(under_way.turn, calls, origin_of(&principal), deadline));
        let at_once = poll!(&mut executing);
        if !matches!(at_once, Poll::Ready(Err(_))) {
            under_way.queue.lock().crowd.waits = at_once.is_pending();
        }
        let done = match at_once {
            Poll::Ready(done) => done,
            Poll::Pending => executing.await,
        };
        // The next group goes before the replies of this one are written.
        drop(under_way);
        answer(parts, done.map(|tape| Bytes::from(tape.unwrap_or_default())));
    }
}

/// Gives each part of a group its replies.
fn answer(parts: Vec<Part>, done: Result<Bytes, String>) {
    let tape = match done {
        Ok(tape) => tape,
        Err(error) => {
            // Some of them may only free memory.
            let alone = parts.len() > 1 && error.starts_with("OOM ");
            let fate = || if alone { Fate::Alone } else { Fate::Failed(error.clone()) };
            // Whoever left meanwhile needs no reply.
            return parts.into_iter().for_each(|part| drop(part.reply.send(fate())));
        }
    };
    let replies = cut(&tape, parts.iter().map(|part| part.calls));
    for (place, part) in parts.into_iter().enumerate() {
        let fate = match &replies {
            Some(replies) => Fate::Done(replies[place].clone()),
            None => Fate::Failed("UNCONFIRMED the replies are damaged".into()),
        };
        drop(part.reply.send(fate));
    }
}

/// Cuts a tape apart that holds the replies to so many calls each. None: it does not.
fn cut(tape: &Bytes, calls: impl Iterator<Item = u32>) -> Option<Vec<Bytes>> {
    let mut items = Items::new(tape);
    let mut cut_one = |calls: u32| {
        let from = tape.len() - items.rest().len();
        for _ in 0..calls {
            items.whole()?;
        }
        Some(tape.slice(from..tape.len() - items.rest().len()))
    };
    let replies = calls.map(&mut cut_one).collect::<Option<Vec<Bytes>>>()?;
    items.rest().is_empty().then_some(replies)
}

impl Lanes {
    /// So many threads; none of them serves anybody yet.
    pub(super) fn start(count: usize, door: &Arc<Door>) -> std::io::Result<Lanes> {
        let stop = watch::Sender::new(false);
        let (mut lanes, mut threads) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let lane = Arc::new(Lane::new());
            lanes.push((lane.clone(), runtime.handle().clone()));
            let (door, mut stopping) = (door.clone(), stop.subscribe());
            let thread = std::thread::Builder::new().name(format!("loci-resp-{number}")).spawn(move || {
                runtime.block_on(async move {
                    tokio::spawn(lane.first.clone().run(door));
                    // Whoever could say so is gone: the same.
                    let _ = stopping.wait_for(|stop| *stop).await;
                    let until = Instant::now() + END_TIME;
                    while lane.connections.load(Ordering::Relaxed) > 0 {
                        if tokio::time::timeout_at(until.into(), lane.is_empty.notified()).await.is_err() {
                            break;
                        }
                    }
                });
            })?;
            threads.push(thread);
        }
        Ok(Lanes { lanes, threads, stop })
    }

    /// Serves a connection on the lane that has the fewest.
    pub fn serve<S>(&self, serving: impl FnOnce(Arc<Lane>) -> S)
    where
        S: Future<Output = ()> + Send + 'static,
    {
        let least = self.lanes.iter().min_by_key(|(lane, _)| lane.connections.load(Ordering::Relaxed));
        let Some((lane, runtime)) = least else { return };
        runtime.spawn(lane.clone().serve(serving(lane.clone())));
    }

    /// Ends the threads once their connections have left; blocks until then, seconds at the most.
    pub fn stop(self) {
        self.stop.send_replace(true);
        // A panic in one has been told.
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

#[cfg(test)]
mod tests {
    use loci_index::table::tape::{Item, Tape};

    use super::*;

    #[test]
    fn a_group_is_half_of_those_who_write_and_follows_how_many_do() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.joins(), usize::MAX, "nobody waits for anything");
        crowd.leave(1);
        crowd.waits = true;
        assert_eq!((0..PARTS_MIN).map(|_| crowd.joins()).max(), Some(PARTS_MIN), "few go together");
        let largest = (PARTS_MIN..50).map(|_| crowd.joins()).last();
        assert_eq!(largest, Some(26));
        // They go and come back in halves.
        for _ in 0..100 {
            crowd.leave(25);
            assert!((0..25).all(|_| crowd.joins() == 26));
        }
        // Only three are left.
        crowd.leave(47);
        let rounds = (0..).take_while(|_| {
            crowd.leave(1);
            crowd.joins() > PARTS_MIN
        });
        assert!(rounds.count() < 20);
        for _ in 0..30 {
            crowd.leave(3);
            (0..3).for_each(|_| assert!(crowd.joins() >= PARTS_MIN));
        }
        assert_eq!(crowd.lately, 3, "as few as in the beginning");
        crowd.leave(3);
        assert_eq!(crowd.parts, 0);
    }

    #[test]
    fn everybody_has_the_replies_to_what_it_called() {
        let mut tape = Tape::new();
        tape.ok();
        tape.array(2);
        tape.bulk(b"one");
        tape.int(2);
        tape.error("ERR no");
        tape.int(7);
        let tape = Bytes::from(tape.into_bytes());
        let replies = cut(&tape, [1, 1, 2].into_iter()).expect("so many there are");
        let items: Vec<Vec<Item<'_>>> = replies.iter().map(|replies| Items::new(replies).collect()).collect();
        assert_eq!(
            items,
            [
                vec![Item::Status(b"OK")],
                vec![Item::Array(2), Item::Bulk(b"one"), Item::Int(2)],
                vec![Item::Error(b"ERR no"), Item::Int(7)],
            ]
        );
        for calls in [&[1, 1][..], &[1, 1, 3], &[]] {
            assert_eq!(cut(&tape, calls.iter().copied()), None, "{calls:?}");
        }
    }
}
