//! Hearing: what happens to typed values in a shard, told to a node that has no part in it and has clients who wait for it.
//!
//! ```text
//!   shard: entry applied --events--> queue --> stream --> the other node's door for clients of Redis
//!                                      '--full: the stream ends, and whoever hears begins anew
//! ```
//!
//! Always: a stream tells all that happens from its first reply on, in order, or ends. Whoever hears a new one knows nothing of what
//! happened before it, and acts as if all had changed. When somebody wants more, a reply says from where on it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use loci_index::table::Event;
use loci_index::view::View;
use loci_wire::v1;
use loci_wire::v1::heard;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Cluster;
use crate::doors::grpc::Failure;
use crate::shard::{Ear, Happened, ShardHandle, Wants};
use crate::watches::Watches;

/// What is told of one entry waits in a queue of so many, of so many bytes together.
const WAITING_MAX: usize = 4_096;
const WAITING_BYTES_MAX: usize = 32 << 20;
/// Replies that are on their way.
const ON_THEIR_WAY: usize = 16;
/// Whoever has not heard of the leader for so long does not know what happens.
const LAG_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether the shard still answers here.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is told, until it ends.
pub type Hearing = ReceiverStream<Result<v1::HearReply, Status>>;

/// What waits to be told, with its bytes.
type Waiting = (v1::HearReply, usize);

/// The end of the queue that the shard puts events into.
struct Queue {
    /// None: it was full once.
    sender: Mutex<Option<mpsc::Sender<Waiting>>>,
    bytes: Arc<AtomicUsize>,
    /// What is told: others listen to the shard too, and may want more.
    wants: Arc<Mutex<Wants>>,
}

impl Queue {
    fn put(&self, index: u64, happened: &Happened) {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = &*sender else { return };
        let wants = *self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(reply) = to_wire(index, happened, wants) else { return };
        let bytes = prost::Message::encoded_len(&reply);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= WAITING_BYTES_MAX;
        if !fits || queue.try_send((reply, bytes)).is_err() {
            *sender = None;
        }
    }
}

/// None: nothing that is wanted.
fn to_wire(index: u64, happened: &Happened, wants: Wants) -> Option<v1::HearReply> {
    let reply = v1::HearReply { index, ..v1::HearReply::default() };
    let events = match happened {
        Happened::Events(events) => events,
        Happened::Jumped => return Some(v1::HearReply { jumped: true, ..reply }),
        Happened::Begun(Wants { changes, names }) => {
            let begun = Some(v1::HearingBegun { changes: *changes, names: *names });
            return Some(v1::HearReply { begun, ..reply });
        }
    };
    let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    let events = events.iter().filter_map(|(collection, event)| {
        let event = match event {
            Event::Changed { key } => wants.changes.then(|| heard::Event::Changed(bytes(key)))?,
            Event::Flushed => wants.changes.then_some(heard::Event::Flushed(true))?,
            Event::Named { class, name, key } => wants.names.then(|| {
                let (class, name, key) = ((*class).into(), (*name).into(), bytes(key));
                heard::Event::Named(v1::NamedEvent { class, name, key })
            })?,
            Event::Published { channel, message, sharded } => {
                let (channel, message, sharded) = (bytes(channel), bytes(message), *sharded);
                heard::Event::Published(v1::PublishedMessage { channel, message, sharded })
            }
        };
        Some(v1::Heard { collection: collection.0, event: Some(event) })
    });
    let events: Vec<v1::Heard> = events.collect();
    (!events.is_empty()).then_some(v1::HearReply { events, ..reply })
}

/// Tells what happens in a shard from now on, as the first request wants it, and then as those that follow do.
pub fn tell(
    cluster: Cluster,
    shard: &ShardHandle,
    first: &v1::HearRequest,
    requests: Streaming<v1::HearRequest>,
    watches: Watches,
) -> Hearing {
    let (sender, waiting) = mpsc::channel(WAITING_MAX);
    let bytes = Arc::new(AtomicUsize::new(0));
    let wanted = Arc::new(Mutex::new(wants(first)));
    let queue = Queue { sender: Mutex::new(Some(sender)), bytes: bytes.clone(), wants: wanted.clone() };
    let tell = move |view: &View, happened: &Happened| queue.put(view.index(), happened);
    let ear = shard.listen(Arc::new(tell), wants(first));
    let (out, hearing) = mpsc::channel(ON_THEIR_WAY);
    let shard = shard.clone();
    tokio::spawn(async move {
        let end = tokio::select! {
            end = told(&bytes, waiting, &out) => end,
            end = asked(ear, &wanted, requests) => end,
            end = gone(cluster, shard) => end,
            () = watches.closed() => Failure::new(Code::Unavailable, "stopping", "the node is stopping"),
        };
        // Nobody may be left to hear it.
        let _ = out.try_send(Err(end.into()));
    });
    ReceiverStream::new(hearing)
}

fn wants(request: &v1::HearRequest) -> Wants {
    Wants { changes: request.changes, names: request.names }
}

fn nobody() -> Failure {
    Failure::new(Code::Cancelled, "gone", "nobody hears it any more")
}

/// Sends what waits, until there is nobody to send it to, or too much waited.
async fn told(
    bytes: &AtomicUsize,
    mut waiting: mpsc::Receiver<Waiting>,
    out: &mpsc::Sender<Result<v1::HearReply, Status>>,
) -> Failure {
    while let Some((reply, size)) = waiting.recv().await {
        bytes.fetch_sub(size, Ordering::Relaxed);
        if out.send(Ok(reply)).await.is_err() {
            return nobody();
        }
    }
    Failure::new(Code::ResourceExhausted, "slow", "what happened was not taken fast enough")
}

/// Listens as it is asked to, until nobody asks any more.
async fn asked(ear: Ear, wanted: &Mutex<Wants>, mut requests: Streaming<v1::HearRequest>) -> Failure {
    while let Ok(Some(request)) = requests.message().await {
        *wanted.lock().unwrap_or_else(PoisonError::into_inner) = wants(&request);
        ear.wants(wants(&request));
    }
    nobody()
}

/// Returns once the shard does not answer here any more, or hears nothing of its leader.
async fn gone(cluster: Cluster, shard: ShardHandle) -> Failure {
    let id = shard.id();
    while cluster.answers(id) && !shard.is_removed() && !shard.is_stopping() && shard.lag() < LAG_MAX {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Failure::new(Code::Unavailable, "no_such_shard", format!("shard {id} is not on this node any more, or is behind"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_taken_ends_the_queue() {
        let event = |bytes: usize| Event::Published {
            channel: Box::from([0; 1]),
            message: vec![0; bytes].into(),
            sharded: false,
        };
        let happened = |bytes| Happened::Events(vec![(loci_index::record::CollectionId(1), event(bytes))]);
        for (each, fit) in [(1, WAITING_MAX), (WAITING_BYTES_MAX / 4, 3), (WAITING_BYTES_MAX * 2, 1)] {
            let (sender, mut waiting) = mpsc::channel(WAITING_MAX);
            let queue = Queue { sender: Mutex::new(Some(sender)), bytes: Arc::default(), wants: Arc::default() };
            for _ in 0..=fit {
                queue.put(1, &happened(each));
            }
            // It is as if nothing had happened since: whoever takes must not believe that.
            queue.put(2, &happened(1));
            let mut taken = 0;
            while let Ok((reply, _)) = waiting.try_recv() {
                assert_eq!(reply.events.len(), 1);
                taken += 1;
            }
            assert_eq!((taken, waiting.is_closed()), (fit, true), "of {each} bytes");
        }
    }

    #[test]
    fn nobody_is_told_what_only_others_want() {
        let of = |event| (loci_index::record::CollectionId(1), event);
        let key = || Box::from(&b"k"[..]);
        let happened = Happened::Events(vec![
            of(Event::Changed { key: key() }),
            of(Event::Flushed),
            of(Event::Named { class: b'g', name: "del", key: key() }),
            of(Event::Published { channel: key(), message: key(), sharded: false }),
        ]);
        for (changes, names, count) in [(false, false, 1), (true, false, 3), (false, true, 2), (true, true, 4)] {
            let told = to_wire(7, &happened, Wants { changes, names }).expect("a message");
            assert_eq!((told.index, told.events.len()), (7, count), "{changes} {names}");
        }
        let changes = Happened::Events(vec![of(Event::Flushed)]);
        assert_eq!(to_wire(7, &changes, Wants::default()), None);
    }
}
