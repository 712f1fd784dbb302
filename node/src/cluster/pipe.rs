//! Pipes: the connections on which messages of shards go from one node to another, without calls around them.
//!
//! ```text
//!   whoever sends --> socket            at once, where nothing waits before it
//!             \-----> queue --> driver --> socket             otherwise (bounded; full: the message is lost)
//!
//!   "LOCIPIPE" | version 1 u32 | cluster 16 bytes | to u64  -->  the node's socket, which tells it from a call by its first byte
//!                                                           <--  "+"
//!   | length u32 | message | length | message | ..          -->  door; an empty message each second
//!                                                           <--  "." each second
//! ```
//!
//! Little-endian. A node that will not, or does not yet, or is of a version that knows no pipes, closes it at once; the call
//! `Deliver` then says why, or carries the messages. A message has its own checksum.
//!
//! With HTTP/2 around every message, and a task that is called to send it, three nodes took a tenth fewer writes of 64 callers.
//!
//! Always: sending never waits; what is sent arrives in order and whole, or the pipe breaks; nothing of a sender that names
//! another cluster, or another member, is looked at.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use loci_raft::{MESSAGE_BYTES_MAX, MemberId, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::task::{coop, yield_now};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::identity::ClusterId;

/// What it begins with; a call begins with another byte.
const OPENING: &[u8; 8] = b"LOCIPIPE";
const VERSION: u32 = 1;
const HELLO_BYTES: usize = 8 + 4 + 16 + 8;
const OPENED: u8 = b'+';
const ALIVE: u8 = b'.';
const LENGTH_BYTES: usize = 4;
/// How long connecting may take, and the answer to the first bytes.
const OPENING_TIME: Duration = Duration::from_secs(1);
/// How often either end says that it is there.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// The sender gives up an end that says nothing for so long, which one that only waits for its disk does not,
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// and the other a sender of whom nothing is heard at so many looks.
const SILENT_LOOKS_MAX: u32 = 5;
/// A larger message is for the driver: whoever sends has more to do.
const AT_ONCE_BYTES_MAX: usize = 128 << 10;
/// Messages that wait: all that Raft has on its way to a member of each of eight shards.
const QUEUE: usize = 1024;
/// The driver takes about so much of them at a time.
const WRITE_BYTES: usize = 256 << 10;
/// Room for what is written, or was read, is not kept beyond it.
const KEPT_BYTES: usize = 1 << 20;
const READ_BYTES: usize = 64 << 10;

/// The end that sends.
pub struct Pipe {
    stream: TcpStream,
    waiting: Mutex<Waiting>,
    /// Something waits, or it broke.
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    /// What the socket did not take of a message that was sent at once.
    rest: Vec<u8>,
    queue: VecDeque<Message>,
    /// The driver has something in hand.
    is_driven: bool,
    is_broken: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.queue.is_empty() && !self.is_driven
    }
}

impl Pipe {
    /// Opens one to a member of a cluster at an address. Whatever is in the way, a call may get there.
    pub async fn open(address: &str, cluster: ClusterId, to: MemberId) -> Result<Arc<Pipe>, Error> {
        let opening = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut hello = [0; HELLO_BYTES];
            hello[..8].copy_from_slice(OPENING);
            hello[8..12].copy_from_slice(&VERSION.to_le_bytes());
            hello[12..28].copy_from_slice(&cluster.0);
            hello[28..].copy_from_slice(&to.0.to_le_bytes());
            stream.write_all(&hello).await?;
            // One that speaks HTTP/2 only may begin to.
            if stream.read_u8().await? == OPENED { Ok(stream) } else { Err(Error::from(ErrorKind::InvalidData)) }
        };
        let stream = timeout(OPENING_TIME, opening).await.map_err(|_| ErrorKind::TimedOut)??;
        Ok(Arc::new(Pipe { stream, waiting: Mutex::default(), changed: Notify::new() }))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, or says that it is lost.
    pub fn send(&self, message: Message) -> bool {
        let mut waiting = self.waiting();
        if waiting.is_broken || waiting.queue.len() >= QUEUE {
            return false;
        }
        if waiting.is_empty() && message.bytes() <= AT_ONCE_BYTES_MAX {
            self.send_at_once(&mut waiting, &message);
        } else {
            waiting.queue.push_back(message);
        }
        if !waiting.is_empty() {
            self.changed.notify_one();
        }
        !waiting.is_broken
    }

    fn send_at_once(&self, waiting: &mut Waiting, message: &Message) {
        frame(message, &mut waiting.rest);
        match self.stream.try_write(&waiting.rest) {
            Ok(bytes) if bytes == waiting.rest.len() => waiting.rest.clear(),
            Ok(bytes) => drop(waiting.rest.drain(..bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => waiting.is_broken = true,
        }
    }

    /// Writes what waits, until it breaks: why.
    pub async fn drive(&self) -> Error {
        let broke = tokio::select! {
            broke = self.write() => broke,
            broke = self.hear() => broke,
        };
        let mut waiting = self.waiting();
        waiting.is_broken = true;
        waiting.queue.clear();
        broke
    }

    async fn write(&self) -> Error {
        let mut alive = ticks();
        let mut bytes = Vec::new();
        loop {
            let is_due = tokio::select! {
                () = self.changed.notified() => false,
                _ = alive.tick() => true,
            };
            while self.take_some(&mut bytes, is_due) {
                let mut written = 0;
                while written < bytes.len() {
                    match self.stream.try_write(&bytes[written..]) {
                        Ok(more) => written += more,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {
                            if let Err(error) = self.stream.writable().await {
                                return error;
                            }
                        }
                        Err(error) => return error,
                    }
                    coop::consume_budget().await;
                }
                bytes.clear();
                bytes.shrink_to(KEPT_BYTES);
            }
            if self.waiting().is_broken {
                return ErrorKind::BrokenPipe.into();
            }
        }
    }

    /// Takes some of what waits in hand, or a sign that this end is there where one is due and nothing waits. Whether there was any.
    fn take_some(&self, bytes: &mut Vec<u8>, alive_is_due: bool) -> bool {
        let mut messages = Vec::new();
        {
            let mut waiting = self.waiting();
            let was_driven = waiting.is_driven;
            bytes.append(&mut waiting.rest);
            let mut more = bytes.len();
            while more < WRITE_BYTES
                && let Some(message) = waiting.queue.pop_front()
            {
                more += message.bytes();
                messages.push(message);
            }
            if more == 0 && alive_is_due && !was_driven {
                bytes.extend([0; LENGTH_BYTES]);
            }
            // Until it has been written, what comes waits behind it.
            waiting.is_driven = !bytes.is_empty() || !messages.is_empty();
            if !waiting.is_driven {
                return false;
            }
        }
        messages.iter().for_each(|message| frame(message, bytes));
        true
    }

    async fn hear(&self) -> Error {
        let mut bytes = [0; 64];
        loop {
            match timeout(SILENCE_MAX, self.stream.readable()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(_) => return ErrorKind::TimedOut.into(),
            }
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return ErrorKind::UnexpectedEof.into(),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return error,
            }
            coop::consume_budget().await;
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(ALIVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn frame(message: &Message, out: &mut Vec<u8>) {
    let length_at = out.len();
    out.extend([0; LENGTH_BYTES]);
    message.encode_to(out);
    let length = (out.len() - length_at - LENGTH_BYTES) as u32;
    out[length_at..][..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// Whether a connection is a pipe, by its first byte; waits for that.
pub async fn is_one(stream: &TcpStream) -> Result<bool, Error> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0] == OPENING[0])
}

/// Takes what comes on a pipe, until it ends or the other end says nothing any more. `is_me` says whether this is that member of that
/// cluster; `take` gets the messages that have come together, and whether its thread may wait for the disk, and says whether it may have.
pub async fn serve(
    mut stream: TcpStream,
    is_me: impl Fn(ClusterId, MemberId) -> bool,
    take: impl FnMut(&[Bytes], bool) -> bool,
) -> Result<(), Error> {
    let mut hello = [0; HELLO_BYTES];
    timeout(OPENING_TIME, stream.read_exact(&mut hello)).await.map_err(|_| ErrorKind::TimedOut)??;
    let mut fields = &hello[..];
    let (mut opening, mut cluster) = ([0; 8], [0; 16]);
    fields.copy_to_slice(&mut opening);
    let version = fields.get_u32_le();
    fields.copy_to_slice(&mut cluster);
    let to = MemberId(fields.get_u64_le());
    if opening != *OPENING || version != VERSION || !is_me(ClusterId(cluster), to) {
        return Ok(());
    }
    stream.write_all(&[OPENED]).await?;
    let (from, back) = stream.into_split();
    // On its own: whoever takes messages may wait for the disk meanwhile.
    let saying = tokio::spawn(say_alive(back));
    let ended = read(from, take).await;
    saying.abort();
    ended
}

async fn say_alive(mut back: OwnedWriteHalf) -> Result<(), Error> {
    let mut alive = ticks();
    loop {
        alive.tick().await;
        back.write_all(&[ALIVE]).await?;
    }
}

async fn read(mut from: OwnedReadHalf, mut take: impl FnMut(&[Bytes], bool) -> bool) -> Result<(), Error> {
    // Another thread has to be there for everything else, should this one wait for the disk.
    let may_wait = tokio::runtime::Handle::current().metrics().num_workers() > 1;
    let mut looks = ticks();
    let mut read = BytesMut::new();
    let mut messages = Vec::new();
    let mut silent_looks = 0;
    loop {
        if read.capacity() - read.len() < READ_BYTES / 4 {
            read.reserve(READ_BYTES);
        }
        tokio::select! {
            bytes = from.read_buf(&mut read) => {
                if bytes? == 0 {
                    return Ok(());
                }
                silent_looks = 0;
            }
            _ = looks.tick() => {
                silent_looks += 1;
                if silent_looks > SILENT_LOOKS_MAX {
                    return Err(ErrorKind::TimedOut.into());
                }
            }
        }
        while let Some(message) = take_message(&mut read)? {
            messages.push(message);
        }
        if messages.is_empty() {
            continue;
        }
        if messages.iter().map(Bytes::len).sum::<usize>() > KEPT_BYTES {
            // The room that it took goes with it.
            read = BytesMut::from(&read[..]);
        }
        let has_waited = take(&messages, may_wait);
        messages.clear();
        if has_waited {
            // What that made possible goes first.
            yield_now().await;
        }
    }
}

/// The next message that has come whole; those that only say that the sender is there are passed over.
fn take_message(read: &mut BytesMut) -> Result<Option<Bytes>, Error> {
    loop {
        let Some(length) = read.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length > MESSAGE_BYTES_MAX {
            return Err(Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes")));
        }
        if read.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        read.advance(LENGTH_BYTES);
        if length > 0 {
            return Ok(Some(read.split_to(length).freeze()));
        }
    }
}
