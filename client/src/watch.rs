//! Watching what changes: every change once, in the order of the log, on whichever node there is.
//!
//! When a connection breaks, a node stops, or the node had enough of waiting for a slow reader, the watch goes on elsewhere
//! from where it was; what it is told a second time then, it leaves out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use loci_wire::v1;
use loci_wire::v1::changes_client::ChangesClient;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::breaker::Verdict;
use crate::nodes::{Failed, Node};
use crate::silence::{QUIET, QUIET_WATCH};
use crate::wish::Wish;
use crate::{Client, Error, Filter, Parts, Record, Token};

/// Events that a stream holds ready for its reader.
const EVENTS_AHEAD: usize = 256;

/// What changes, from a token or from now on; see [`Collection::watch`](crate::Collection::watch) and [`Client::watch`].
///
/// ```no_run
/// # async fn example(notes: loci_client::Collection) -> Result<(), loci_client::Error> {
/// use loci_client::{Parts, WatchKind};
///
/// let mut watch = notes.watch().prefix("2024/").with_parts(Parts::default());
/// loop {
///     let event = watch.next().await?;
///     match event.kind {
///         WatchKind::Created | WatchKind::Replaced => println!("{:?}: {:?}", event.key, event.record),
///         other => println!("{:?}: {other:?}", event.key),
///     }
///     // Kept somewhere, `watch().from(token)` goes on here after a restart.
///     let token = watch.token();
/// }
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a watch does nothing until events are taken from it"]
pub struct Watch {
    client: Client,
    timeout: Duration,
    request: v1::WatchRequest,
    stream: Option<(Arc<Node>, Streaming<v1::WatchReply>)>,
    /// Since when the stream is waited on, however often it was asked meanwhile.
    waits_since: Instant,
    ready: VecDeque<WatchEvent>,
    /// Everything up to here was taken in.
    place: Token,
    /// Everything up to here was returned.
    returned: Token,
    /// The last event of each shard that was taken in: its entry, and its number there.
    last: BTreeMap<u32, (u64, u32)>,
}

/// A change of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchEvent {
    /// The collection.
    pub collection: String,
    /// The key; empty where the whole collection is meant.
    pub key: Bytes,
    /// What became of it.
    pub kind: WatchKind,
    /// Where it happened: shard, entry, and number in the entry name the change for good.
    pub shard: u32,
    /// The entry of the shard's log.
    pub index: u64,
    /// Which of the entry's changes it is, counted from 0.
    pub number: u32,
    /// The log's clock then.
    pub at: SystemTime,
    /// The version that the change gave the record.
    pub version: u64,
    /// The record as the change left it, if asked for, and unless it was replaced since and is no longer kept; then a later
    /// event tells so. Of a typed value only a string has a value.
    pub record: Option<Record>,
    /// Of a typed value, if parts were asked for: "string", "hash", "list", ...
    pub type_name: Option<String>,
}

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WatchKind {
    /// It is there, and was not before.
    Created,
    /// It is there, and something of it is different.
    Replaced,
    /// It was deleted.
    Deleted,
    /// Its deadline has passed.
    Expired,
    /// It had to make room.
    Evicted,
    /// It is there, but the filter does not take it any more.
    Left,
    /// All typed values of the collection are gone.
    Cleared,
    /// The collection is gone.
    Dropped,
}

impl WatchKind {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            WatchKind::Created => "created",
            WatchKind::Replaced => "replaced",
            WatchKind::Deleted => "deleted",
            WatchKind::Expired => "expired",
            WatchKind::Evicted => "evicted",
            WatchKind::Left => "left",
            WatchKind::Cleared => "cleared",
            WatchKind::Dropped => "dropped",
        }
    }

    fn from_wire(kind: v1::WatchKind) -> Option<WatchKind> {
        Some(match kind {
            v1::WatchKind::Unspecified => return None,
            v1::WatchKind::Created => WatchKind::Created,
            v1::WatchKind::Replaced => WatchKind::Replaced,
            v1::WatchKind::Deleted => WatchKind::Deleted,
            v1::WatchKind::Expired => WatchKind::Expired,
            v1::WatchKind::Evicted => WatchKind::Evicted,
            v1::WatchKind::Left => WatchKind::Left,
            v1::WatchKind::Cleared => WatchKind::Cleared,
            v1::WatchKind::Dropped => WatchKind::Dropped,
        })
    }
}

impl WatchEvent {
    fn from_wire(shard: u32, event: v1::WatchEvent) -> Result<WatchEvent, Error> {
        let kind = event.kind();
        let kind = WatchKind::from_wire(kind)
            .ok_or_else(|| Error::protocol(format!("a change of unknown kind {}", event.kind)))?;
        Ok(WatchEvent {
            collection: event.collection,
            key: event.key,
            kind,
            shard,
            index: event.index,
            number: event.number,
            at: UNIX_EPOCH.checked_add(Duration::from_millis(event.clock_millis)).unwrap_or(UNIX_EPOCH),
            version: event.version,
            record: event.record.map(Record::try_from).transpose()?,
            type_name: Some(event.r#type).filter(|name| !name.is_empty()),
        })
    }
}

impl Watch {
    pub(crate) fn new(client: Client, namespace: String, collections: Vec<String>, timeout: Duration) -> Watch {
        Watch {
            client,
            timeout,
            request: v1::WatchRequest { namespace, collections, ..Default::default() },
            stream: None,
            waits_since: Instant::now(),
            ready: VecDeque::new(),
            place: Token::default(),
            returned: Token::default(),
            last: BTreeMap::new(),
        }
    }

    /// This collection of the namespace, too.
    pub fn collection(mut self, name: impl Into<String>) -> Watch {
        self.request.collections.push(name.into());
        self
    }

    /// Only this key, and others that are named in the same way.
    pub fn key(mut self, key: impl Into<Bytes>) -> Watch {
        self.request.keys.push(key.into());
        self
    }

    /// Only keys that begin with this.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> Watch {
        self.request.prefix = prefix.into();
        self
    }

    /// Only records that this takes, before or after the change.
    pub fn filter(mut self, filter: impl Into<Option<Filter>>) -> Watch {
        self.request.filter = filter.into().map(Filter::into_wire);
        self
    }

    /// With these parts of records.
    pub fn with_parts(mut self, parts: Parts) -> Watch {
        self.request.parts = Some(parts.into());
        self
    }

    /// Everything after this; without it, everything from now on.
    pub fn from(mut self, token: Token) -> Watch {
        self.place = token.clone();
        self.returned = token;
        self
    }

    /// Everything up to here was returned: the place to go on from. Empty until the node was asked.
    pub fn token(&self) -> Token {
        self.returned.clone()
    }

    /// Asks the node, and waits until it says where the watch begins: everything that is written from then on is told.
    pub async fn begin(&mut self) -> Result<Token, Error> {
        while self.stream.is_none() {
            self.open().await?;
        }
        Ok(self.place.clone())
    }

    /// The next change, whenever there is one. After an error it can be asked again: nothing is lost.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                if self.ready.is_empty() {
                    self.returned = self.place.clone();
                }
                return Ok(event);
            }
            self.begin().await?;
            let Some((node, stream)) = &mut self.stream else { continue };
            let message = stream.message();
            match self.client.unless_silent_since(node, QUIET_WATCH, self.waits_since, message).await {
                Ok(Ok(Some(reply))) => {
                    self.client.nodes().ended(node, Verdict::Answered);
                    self.take(reply)?;
                }
                Ok(Ok(None)) => self.stream = None,
                Err(Failed { error, .. }) => {
                    self.stream = None;
                    tracing::debug!(%error, "a watch goes on");
                }
                Ok(Err(status)) => {
                    self.client.nodes().ended(node, Verdict::of(&status));
                    self.stream = None;
                    let error = Error::from_status(&status);
                    // Another node may have kept what this one has not.
                    if !error.is_transient() && !matches!(error, Error::TooOld { .. }) {
                        return Err(error);
                    }
                    tracing::debug!(%error, "a watch goes on");
                }
            }
        }
    }

    fn take(&mut self, reply: v1::WatchReply) -> Result<(), Error> {
        self.waits_since = Instant::now();
        let v1::WatchReply { events, token, shard } = reply;
        let last = self.last.get(&shard).copied();
        // Told before the stream broke, and told again because its entry had not ended.
        let events = events.into_iter().filter(|event| last.is_none_or(|last| last < (event.index, event.number)));
        let events: Result<Vec<_>, _> = events.map(|event| WatchEvent::from_wire(shard, event)).collect();
        // What cannot be read is asked for again, with all that came with it, so that nothing is passed over.
        let events = events.inspect_err(|_| self.stream = None)?;
        for event in events {
            self.last.insert(shard, (event.index, event.number));
            self.ready.push_back(event);
        }
        self.place.join(&Token::from_wire(token));
        if self.ready.is_empty() {
            self.returned = self.place.clone();
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), Error> {
        let from = (self.place.parts().next().is_some()).then(|| self.place.to_wire());
        let request = v1::WatchRequest { from, ..self.request.clone() };
        let mut asked = 0;
        let (node, reply, stream) = loop {
            asked += 1;
            match self.open_once(&request).await {
                // How far back a node goes is its own affair.
                Err(Error::TooOld { .. }) if asked < self.client.nodes().states().len() => {}
                opened => break opened?,
            }
        };
        self.stream = Some((node, stream));
        self.take(reply)
    }

    async fn open_once(
        &self,
        request: &v1::WatchRequest,
    ) -> Result<(Arc<Node>, v1::WatchReply, Streaming<v1::WatchReply>), Error> {
        let client = &self.client;
        client
            .retrying_errors(self.timeout, |deadline, not| {
                let node = client.nodes().choose(Wish::Any, not.as_ref());
                let remaining = deadline.saturating_duration_since(Instant::now());
                let request = client.request(request.clone(), remaining);
                async move {
                    let opened = async {
                        let mut changes = ChangesClient::new(node.channel())
                            .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
                            .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX);
                        let mut stream = changes.watch(request).await?.into_inner();
                        Ok::<_, tonic::Status>((stream.message().await?, stream))
                    };
                    match client.unless_silent(&node, QUIET, opened).await {
                        Err(failed) => Err((failed, Some(node))),
                        Ok(Ok((Some(reply), stream))) => {
                            client.nodes().ended(&node, Verdict::Answered);
                            Ok((node, reply, stream))
                        }
                        Ok(Ok((None, _))) => Err((Error::protocol("a watch without a reply").into(), Some(node))),
                        Ok(Err(status)) => {
                            client.nodes().ended(&node, Verdict::of(&status));
                            Err((Failed::of(&status), Some(node)))
                        }
                    }
                }
            })
            .await
    }

    /// The events as a stream, read a little ahead. Dropping it ends the watch.
    pub fn into_stream(mut self) -> impl Stream<Item = Result<WatchEvent, Error>> + Send + 'static {
        let (sender, receiver) = tokio::sync::mpsc::channel(EVENTS_AHEAD);
        tokio::spawn(async move {
            loop {
                let next = tokio::select! {
                    next = self.next() => next,
                    () = sender.closed() => return,
                };
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(index: u64, numbers: std::ops::Range<u32>, token: u64) -> v1::WatchReply {
        let event = |number| {
            let mut event = v1::WatchEvent { index, number, ..Default::default() };
            event.set_kind(v1::WatchKind::Created);
            event
        };
        let token = v1::Token { shard: 3, index: token, others: vec![] };
        v1::WatchReply { events: numbers.map(event).collect(), token: Some(token), shard: 3 }
    }

    #[tokio::test]
    async fn an_entry_that_is_told_again_is_returned_once() {
        let client = Client::builder().connect_lazy().unwrap();
        let mut watch = client.watch("default");
        watch.take(reply(7, 0..3, 6)).unwrap();
        watch.take(reply(7, 0..5, 7)).unwrap();
        watch.take(reply(8, 0..1, 8)).unwrap();
        assert_eq!(watch.token(), Token::default());
        let mut returned = Vec::new();
        while !watch.ready.is_empty() {
            let event = watch.next().await.unwrap();
            returned.push((event.index, event.number));
        }
        assert_eq!(returned, [(7, 0), (7, 1), (7, 2), (7, 3), (7, 4), (8, 0)]);
        assert_eq!(watch.token().parts().collect::<Vec<_>>(), [(3, 8)]);
    }

    #[tokio::test]
    async fn of_a_reply_that_cannot_be_read_nothing_is_taken() {
        let client = Client::builder().connect_lazy().unwrap();
        let mut watch = client.watch("default");
        watch.take(reply(7, 0..1, 7)).unwrap();
        let mut unreadable = reply(8, 0..3, 8);
        unreadable.events[1].kind = 99;
        for _ in 0..2 {
            assert!(watch.take(unreadable.clone()).is_err());
            assert_eq!((watch.ready.len(), watch.place.parts().collect::<Vec<_>>()), (1, vec![(3, 7)]));
        }
        watch.take(reply(8, 0..3, 8)).unwrap();
        assert_eq!(watch.ready.len(), 4);
    }
}
