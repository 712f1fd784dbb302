//! Pipes: the connections on which messages of shards go from one node to another, without calls around them.
//!
//! ```text
//!   whoever sends --> what waits (bounded) --> socket       written at once by whoever sends, where nothing waits before it,
//!                                                           otherwise by the task that drives the pipe
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
//! Without HTTP/2 around every message, and a task that is called to send it, three nodes take an eighth more writes of 64 callers.
//!
//! Always: sending never waits; what is sent arrives in order and whole, or the pipe breaks; nothing of a sender that names
//! another cluster, or another member, is looked at.

#[cfg(test)]
mod tests;

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use loci_raft::{MESSAGE_BYTES_MAX, MemberId, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

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
/// A larger message is for the task: whoever sends has more to do.
const AT_ONCE_BYTES_MAX: usize = 128 << 10;
/// The task writes so much at a time, lest others wait who send.
const WRITE_BYTES: usize = 256 << 10;
/// What waits may be so much, and one message more.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Room for what waits, and for what is read, is not kept beyond it.
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
    bytes: Vec<u8>,
    /// So many of them are written.
    written: usize,
    is_broken: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.written == self.bytes.len()
    }

    /// Takes note of what was written.
    fn wrote(&mut self, bytes: usize) {
        self.written += bytes;
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
            self.bytes.shrink_to(KEPT_BYTES);
        } else if self.written >= WAITING_BYTES_MAX / 2 {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

impl Pipe {
    /// Opens one to a member of a cluster at an address; none if the other end closes it.
    pub async fn open(address: &str, cluster: ClusterId, to: MemberId) -> Result<Option<Arc<Pipe>>, Error> {
        let opening = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let mut hello = [0; HELLO_BYTES];
            hello[..8].copy_from_slice(OPENING);
            hello[8..12].copy_from_slice(&VERSION.to_le_bytes());
            hello[12..28].copy_from_slice(&cluster.0);
            hello[28..].copy_from_slice(&to.0.to_le_bytes());
            let mut answer = [0];
            let answered = match stream.write_all(&hello).await {
                Ok(()) => stream.read(&mut answer).await,
                Err(error) => Err(error),
            };
            match answered {
                Ok(1) if answer == [OPENED] => Ok(Some(stream)),
                // One that speaks HTTP/2 only may begin to say so.
                Ok(_) => Ok(None),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let opened = timeout(OPENING_TIME, opening).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))?;
        Ok(opened.map(|stream| Arc::new(Pipe { stream, waiting: Mutex::default(), changed: Notify::new() })))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a message, or says that it is lost.
    pub fn send(&self, message: &Message) -> bool {
        let mut waiting = self.waiting();
        if waiting.is_broken || waiting.bytes.len() - waiting.written >= WAITING_BYTES_MAX {
            return false;
        }
        let is_first = waiting.is_empty();
        let bytes = message.bytes();
        waiting.bytes.extend((bytes as u32).to_le_bytes());
        message.encode_to(&mut waiting.bytes);
        if is_first && bytes <= AT_ONCE_BYTES_MAX {
            self.write(&mut waiting);
        }
        if !waiting.is_empty() {
            self.changed.notify_one();
        }
        !waiting.is_broken
    }

    /// Writes some of what waits, if the socket takes anything.
    fn write(&self, waiting: &mut Waiting) {
        let end = waiting.bytes.len().min(waiting.written + WRITE_BYTES);
        match self.stream.try_write(&waiting.bytes[waiting.written..end]) {
            Ok(bytes) => waiting.wrote(bytes),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                waiting.is_broken = true;
                self.changed.notify_one();
            }
        }
    }

    /// Writes what waits, until it breaks: why.
    pub async fn drive(&self) -> Error {
        let broke = tokio::select! {
            broke = self.write_rest() => broke,
            broke = self.hear() => broke,
        };
        self.waiting().is_broken = true;
        broke
    }

    async fn write_rest(&self) -> Error {
        let mut alive = interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.changed.notified() => {}
                _ = alive.tick() => {
                    let mut waiting = self.waiting();
                    if waiting.is_empty() {
                        waiting.bytes.extend([0; LENGTH_BYTES]);
                    }
                }
            }
            loop {
                {
                    let mut waiting = self.waiting();
                    if waiting.is_broken {
                        return ErrorKind::BrokenPipe.into();
                    }
                    if waiting.is_empty() {
                        break;
                    }
                    self.write(&mut waiting);
                }
                if let Err(error) = self.stream.writable().await {
                    return error;
                }
                tokio::task::coop::consume_budget().await;
            }
        }
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
        }
    }
}

/// Whether a connection is a pipe, by its first byte; waits for that.
pub async fn is_one(stream: &TcpStream) -> Result<bool, Error> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0] == OPENING[0])
}

/// Takes what comes on a pipe, until it ends or the other end says nothing any more. `is_me` says whether this is that member of that
/// cluster; `take` gets the messages that have come together, and whether its thread may wait for the disk.
pub async fn serve(
    mut stream: TcpStream,
    is_me: impl Fn(ClusterId, MemberId) -> bool,
    mut take: impl FnMut(&[Bytes], bool),
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
    // Another thread has to be there for everything else, should this one wait for the disk.
    let may_wait = tokio::runtime::Handle::current().metrics().num_workers() > 1;
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut read = BytesMut::new();
    let mut messages = Vec::new();
    let mut silent_looks = 0;
    loop {
        if read.capacity() - read.len() < READ_BYTES / 4 {
            read.reserve(READ_BYTES);
        }
        tokio::select! {
            bytes = stream.read_buf(&mut read) => {
                if bytes? == 0 {
                    return Ok(());
                }
                silent_looks = 0;
            }
            _ = alive.tick() => {
                silent_looks += 1;
                if silent_looks > SILENT_LOOKS_MAX {
                    return Err(ErrorKind::TimedOut.into());
                }
                stream.write_all(&[ALIVE]).await?;
            }
        }
        while let Some(message) = take_message(&mut read)? {
            messages.push(message);
        }
        if !messages.is_empty() {
            take(&messages, may_wait);
            messages.clear();
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
