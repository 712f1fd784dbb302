//! A connection: bytes in, requests taken, bytes out.
//!
//! ```text
//!   socket --> input --decoder--> requests of one read, one after the other --> replies --> output --> socket
//!                                              \--> one command of the log for those that write
//! ```
//!
//! One buffer is read into again and again, and what the requests of one read are answered is sent with one write. As long as
//! the client does not take its replies, requests go on being read up to [`OUTPUT_HIGH`] bytes of replies; then nothing more
//! is read from it. Where more than [`OUTPUT_STALLED`] bytes wait or nothing more is read, it is cut off after [`STALL_MAX`] without a byte taken.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loci_wire::resp::{Decoder, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Door;
use super::blocking::Blocked;
use super::client::Client;
use super::lanes::Lane;
use super::session::{Next, Session};

/// What a connection has to read into at first, and again once it holds nothing.
const INPUT_FIRST: usize = 4 << 10;
/// What is read at a time at most, unless a larger argument is announced.
const READ_MAX: usize = 64 << 10;
/// What is made room for at a time, whatever is announced.
const ANNOUNCED_MAX: usize = 1 << 20;
/// A client whose request waits may send so much more meanwhile.
const AHEAD_MAX: usize = 64 << 10;
/// Requests are taken until so many bytes of replies wait to be sent.
const OUTPUT_HIGH: usize = 64 << 20;
/// A client that has more than this waiting has to take some of it.
const OUTPUT_STALLED: usize = 1 << 20;
/// Messages of others are taken as long as less than this waits to be sent.
const MESSAGES_HIGH: usize = 1 << 20;
/// Buffers that grew beyond this are given back.
const KEPT_MAX: usize = 64 << 10;
/// The same of what requests are taken apart into.
const KEPT_ARGS_MAX: usize = 4 << 10;
/// How long a client that has many replies waiting may take none of them.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long a client may take to say who it is.
const NAMELESS_MAX: Duration = Duration::from_secs(60);

/// Serves a client until it leaves, or has to.
pub async fn serve(stream: std::net::TcpStream, door: Arc<Door>, lane: Arc<Lane>, client: Arc<Client>) {
    let mut session = Session::new(door, lane, client);
    // On the lane's own thread.
    let Ok(stream) = TcpStream::from_std(stream) else { return session.end() };
    let mut blocked = None;
    run(&mut session, stream, &mut blocked).await;
    if let Some(blocked) = blocked {
        session.stop_waiting(&blocked);
    }
    session.end();
}

/// The bytes that came.
struct Input {
    bytes: Vec<u8>,
    /// Everything before it was taken.
    at: usize,
    /// How much is read at a time.
    step: usize,
}

impl Input {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Gives room back, or makes some: at least as much as is read at a time.
    fn make_room(&mut self, announced: usize) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            if self.bytes.capacity() > KEPT_MAX {
                self.bytes = Vec::with_capacity(INPUT_FIRST);
                self.step = INPUT_FIRST;
            }
        } else if self.at > 0 {
            self.bytes.drain(..self.at);
        }
        self.at = 0;
        let wanted = announced.clamp(self.step, ANNOUNCED_MAX);
        if self.bytes.capacity() - self.bytes.len() < wanted.min(INPUT_FIRST) || announced > self.step {
            self.bytes.reserve(wanted);
        }
    }

    /// So many bytes came; more are read the next time if there was no room for all.
    fn came(&mut self, count: usize) {
        if count >= self.step && self.bytes.len() == self.bytes.capacity() {
            self.step = (self.step * 2).min(READ_MAX);
        }
    }
}

/// An empty vector in the memory of another.
fn emptied<'b>(mut args: Vec<&[u8]>) -> Vec<&'b [u8]> {
    args.clear();
    // There is nothing to map, and the memory stays.
    args.into_iter().map(|_| -> &'b [u8] { &[] }).collect()
}

async fn run(session: &mut Session, mut stream: TcpStream, blocked: &mut Option<Box<Blocked>>) {
    let (mut reader, mut writer) = stream.split();
    let client = session.client.clone();
    let mut input = Input { bytes: Vec::with_capacity(INPUT_FIRST), at: 0, step: INPUT_FIRST };
    let (mut decoder, mut request, mut spare) = (Decoder::new(), Request::new(), Vec::new());
    // Since when nothing was taken of what waits.
    let (mut sent, mut stalled) = (0, None);
    // Of so many requests it is at hand what they are about.
    let mut ahead = 0usize;
    loop {
        if let Some(waiting) = blocked
            && session.go_on(waiting).await
        {
            session.stop_waiting(waiting);
            *blocked = None;
        }
        while blocked.is_none() && !session.closing && session.out.len() - sent < OUTPUT_HIGH {
            match decoder.decode(&input.bytes[input.at..], session.limits(), &mut request) {
                Ok(Some(taken)) => {
                    if !request.is_empty() {
                        let mut args = emptied(std::mem::take(&mut spare));
                        args.extend(request.args(input.rest()));
                        if let Next::Wait(waiting) = session.take(&args).await {
                            *blocked = Some(waiting);
                        }
                        spare = emptied(args);
                    }
                    input.at += taken;
                    ahead = ahead.saturating_sub(1);
                    if ahead == 0 {
                        ahead = session.look_ahead(input.rest());
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    session.settle().await;
                    session.out.error(format!("ERR {error}"));
                    session.closing = true;
                }
            }
        }
        session.settle().await;
        session.read_anew();
        session.waits_until = None;
        session.tell(input.bytes.len() - input.at, session.out.len() - sent);
        if session.out.len() - sent < MESSAGES_HIGH {
            // What the client is too slow for stays where it is counted.
            client.take_messages(session.out.bytes_mut());
        }
        if client.is_killed() {
            return;
        }
        let unsent = session.out.len() - sent;
        if session.closing && unsent == 0 {
            return;
        }
        if !decoder.is_within() {
            request.clear(KEPT_MAX);
        }
        if spare.capacity() > KEPT_ARGS_MAX {
            spare = Vec::new();
        }
        let may_read =
            !session.closing && unsent < OUTPUT_HIGH && (blocked.is_none() || input.bytes.len() - input.at < AHEAD_MAX);
        let must_take = unsent > OUTPUT_STALLED || unsent > 0 && !may_read;
        stalled = if must_take { stalled.or_else(|| Some(Instant::now())) } else { None };
        if may_read {
            let announced = decoder.missing(input.rest());
            input.make_room(announced);
        }
        let until = [
            blocked.as_ref().and_then(|blocked| blocked.until),
            stalled.map(|since| since + STALL_MAX),
            session.user.is_none().then(|| client.since + NAMELESS_MAX),
            session.idle_until(),
        ];
        let until = until.into_iter().flatten().min();
        tokio::select! {
            biased;
            written = writer.write(&session.out.bytes()[sent..]), if unsent > 0 => match written {
                Ok(count) if count > 0 => {
                    session.door.figures.output_bytes.fetch_add(count as u64, Ordering::Relaxed);
                    (sent, stalled) = (sent + count, None);
                    if sent == session.out.len() {
                        sent = 0;
                        session.out.truncate(0);
                        if session.out.bytes_mut().capacity() > KEPT_MAX {
                            *session.out.bytes_mut() = Vec::new();
                        }
                    }
                }
                _ => return,
            },
            read = reader.read_buf(&mut input.bytes), if may_read => match read {
                Ok(0) => {
                    if blocked.is_some() {
                        return;
                    }
                    // What it asked is still answered.
                    session.closing = true;
                }
                Ok(count) => {
                    session.door.figures.input_bytes.fetch_add(count as u64, Ordering::Relaxed);
                    session.lane.has_read();
                    input.came(count);
                }
                Err(_) => return,
            },
            () = client.wake.notified() => {}
            () = sleep_until(until), if until.is_some() => {
                let waits_on = blocked.as_ref().and_then(|blocked| blocked.until).is_some_and(|end| end <= Instant::now());
                if !waits_on {
                    return;
                }
            }
        }
    }
}

async fn sleep_until(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_grows_with_what_comes_and_gives_room_back() {
        let mut input = Input { bytes: Vec::with_capacity(INPUT_FIRST), at: 0, step: INPUT_FIRST };
        for _ in 0..10 {
            input.make_room(1);
            let room = input.bytes.capacity() - input.bytes.len();
            input.bytes.extend(std::iter::repeat_n(0, room));
            input.came(room);
        }
        assert_eq!(input.step, READ_MAX);
        input.at = input.bytes.len();
        input.make_room(1);
        assert_eq!((input.bytes.len(), input.bytes.capacity()), (0, INPUT_FIRST));
        input.bytes.extend_from_slice(b"abcdef");
        input.at = 4;
        input.make_room(1 << 30);
        assert_eq!(input.rest(), b"ef");
        assert!(input.bytes.capacity() <= 2 * ANNOUNCED_MAX + INPUT_FIRST);
    }

    #[test]
    fn memory_for_arguments_is_used_again() {
        let (bytes, mut args) = (vec![1u8; 10], Vec::with_capacity(100));
        args.push(&bytes[..3]);
        let place = args.as_ptr() as usize;
        let again: Vec<&[u8]> = emptied(args);
        assert_eq!((again.len(), again.capacity(), again.as_ptr() as usize), (0, 100, place));
    }
}
