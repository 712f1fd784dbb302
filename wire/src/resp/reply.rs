//! Replies read back, of either protocol: for tests, scripts and clients.
//!
//! [`ReplyDecoder`] works like the decoder of requests: the same bytes with more behind them go on where the last call
//! stopped. What is inside something else waits on a stack of its own, so depth is a limit and not the program's stack.

use std::fmt;

use super::{find, number};

/// A reply.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// A word such as `OK`.
    Status(Vec<u8>),
    /// What went wrong; begins with a code.
    Error(Vec<u8>),
    /// A whole number.
    Int(i64),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// Nothing. Of protocol 2: no string.
    Null,
    /// No array, of protocol 2.
    NullArray,
    /// Replies in order.
    Array(Vec<Reply>),
    /// Replies in no order.
    Set(Vec<Reply>),
    /// Names and values.
    Map(Vec<(Reply, Reply)>),
    /// Replies that answer nothing that was asked.
    Push(Vec<Reply>),
    /// A number with a fraction.
    Double(f64),
    /// Yes or no.
    Bool(bool),
    /// Digits of a whole number.
    BigNumber(Vec<u8>),
    /// Text and its format.
    Verbatim([u8; 3], Vec<u8>),
    /// A reply, and what is to be known about it.
    Attributed(Vec<(Reply, Reply)>, Box<Reply>),
}

/// How much of a reply is believed.
#[derive(Debug, Clone, Copy)]
pub struct ReplyLimits {
    /// Replies inside replies.
    pub depth_max: usize,
    /// Bytes of a whole reply.
    pub bytes_max: usize,
}

impl Default for ReplyLimits {
    fn default() -> ReplyLimits {
        ReplyLimits { depth_max: 64, bytes_max: 1 << 30 }
    }
}

/// Why bytes are no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyError {
    /// No kind of reply begins with it.
    Kind(u8),
    /// A number that is none.
    Number,
    /// A line or a string does not end where it must.
    LineEnd,
    /// Replies inside replies inside replies.
    TooDeep,
    /// More bytes than the limit.
    TooLarge,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplyError::Kind(byte) => write!(f, "no reply begins with byte {byte}"),
            ReplyError::Number => f.write_str("a number in the reply is none"),
            ReplyError::LineEnd => f.write_str("a line of the reply does not end where it must"),
            ReplyError::TooDeep => f.write_str("the reply has too many levels"),
            ReplyError::TooLarge => f.write_str("the reply is too large"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// Something that is not whole yet.
#[derive(Debug)]
struct Open {
    kind: u8,
    /// Replies still to come.
    left: u64,
    inside: Vec<Reply>,
}

/// Reads replies, each as its bytes arrive.
#[derive(Debug, Default)]
pub struct ReplyDecoder {
    limits: ReplyLimits,
    open: Vec<Open>,
    /// Everything before it has been understood.
    at: usize,
    /// No line ends between `at` and here.
    searched: usize,
    /// The string whose header was read: its kind and length.
    string: Option<(u8, usize)>,
}

impl ReplyDecoder {
    /// Before the first reply.
    pub fn new(limits: ReplyLimits) -> ReplyDecoder {
        ReplyDecoder { limits, ..ReplyDecoder::default() }
    }

    /// Reads one reply from the start of `input`, and says how many bytes it took; `None` if it is not all there. Then the
    /// next call gets the same bytes and more behind them.
    pub fn decode(&mut self, input: &[u8]) -> Result<Option<(Reply, usize)>, ReplyError> {
        loop {
            if self.at > self.limits.bytes_max {
                return Err(ReplyError::TooLarge);
            }
            let Some(mut reply) = self.part(input)? else {
                let too_large = input.len() > self.limits.bytes_max;
                return if too_large { Err(ReplyError::TooLarge) } else { Ok(None) };
            };
            // Puts what is whole into what it belongs to, as long as that makes the next one whole.
            loop {
                if let Some(part) = reply.take() {
                    let Some(open) = self.open.last_mut() else {
                        let taken = self.at;
                        (self.at, self.searched) = (0, 0);
                        return Ok(Some((part, taken)));
                    };
                    open.inside.push(part);
                    open.left -= 1;
                }
                match self.open.last() {
                    Some(open) if open.left == 0 => reply = self.open.pop().map(close),
                    _ => break,
                }
            }
        }
    }

    /// The next reply that has no parts, or `Some(None)` where one with parts begins.
    fn part(&mut self, input: &[u8]) -> Result<Option<Option<Reply>>, ReplyError> {
        if let Some((kind, length)) = self.string {
            return self.string_body(input, kind, length);
        }
        let Some(kind) = input.get(self.at).copied() else { return Ok(None) };
        let begin = self.at + 1;
        let Some(end) = find(input, self.searched.max(begin), b'\r') else {
            self.searched = input.len();
            return Ok(None);
        };
        self.searched = end;
        match input.get(end + 1) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(ReplyError::LineEnd),
        }
        let line = &input[begin..end];
        (self.at, self.searched) = (end + 2, end + 2);
        let reply = match kind {
            b'+' => Reply::Status(line.to_vec()),
            b'-' => Reply::Error(line.to_vec()),
            b':' => Reply::Int(number(line).ok_or(ReplyError::Number)?),
            b'_' if line.is_empty() => Reply::Null,
            b'#' if line == b"t" => Reply::Bool(true),
            b'#' if line == b"f" => Reply::Bool(false),
            b',' => Reply::Double(double(line).ok_or(ReplyError::Number)?),
            b'(' => {
                let digits = line.strip_prefix(b"-").or(line.strip_prefix(b"+")).unwrap_or(line);
                if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
                    return Err(ReplyError::Number);
                }
                Reply::BigNumber(line.to_vec())
            }
            b'$' if line == b"-1" => Reply::Null,
            b'*' if line == b"-1" => Reply::NullArray,
            b'$' | b'=' | b'!' => {
                let length = self.count(line)?;
                self.string = Some((kind, length));
                return self.string_body(input, kind, length);
            }
            b'*' | b'~' | b'>' | b'%' | b'|' => {
                if self.open.len() >= self.limits.depth_max {
                    return Err(ReplyError::TooDeep);
                }
                let count = self.count(line)? as u64;
                let left = match kind {
                    b'%' => count * 2,
                    // And the reply that it is about.
                    b'|' => count * 2 + 1,
                    _ => count,
                };
                self.open.push(Open { kind, left, inside: Vec::new() });
                return Ok(Some(None));
            }
            _ => return Err(ReplyError::Kind(kind)),
        };
        Ok(Some(Some(reply)))
    }

    /// A length or a count: never below zero, and of nothing is there more than there may be bytes.
    fn count(&self, line: &[u8]) -> Result<usize, ReplyError> {
        let count = number(line).and_then(|count| usize::try_from(count).ok()).ok_or(ReplyError::Number)?;
        if count > self.limits.bytes_max { Err(ReplyError::TooLarge) } else { Ok(count) }
    }

    fn string_body(&mut self, input: &[u8], kind: u8, length: usize) -> Result<Option<Option<Reply>>, ReplyError> {
        let end = self.at + length;
        match input.get(end..end + 2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err(ReplyError::LineEnd),
        }
        let bytes = &input[self.at..end];
        let reply = match kind {
            b'$' => Reply::Bulk(bytes.to_vec()),
            b'!' => Reply::Error(bytes.to_vec()),
            _ => match bytes {
                [a, b, c, b':', text @ ..] => Reply::Verbatim([*a, *b, *c], text.to_vec()),
                _ => return Err(ReplyError::LineEnd),
            },
        };
        self.string = None;
        (self.at, self.searched) = (end + 2, end + 2);
        Ok(Some(Some(reply)))
    }
}

fn double(line: &[u8]) -> Option<f64> {
    match line {
        b"inf" => Some(f64::INFINITY),
        b"-inf" => Some(f64::NEG_INFINITY),
        b"nan" | b"-nan" => Some(f64::NAN),
        [b'0'..=b'9' | b'-', rest @ ..] if rest.iter().all(|byte| b"0123456789.eE+-".contains(byte)) => {
            std::str::from_utf8(line).ok()?.parse().ok()
        }
        _ => None,
    }
}

/// The reply of which all parts are there.
fn close(open: Open) -> Reply {
    match open.kind {
        b'~' => Reply::Set(open.inside),
        b'>' => Reply::Push(open.inside),
        b'%' => Reply::Map(pairs(open.inside).0),
        b'|' => match pairs(open.inside) {
            (pairs, Some(reply)) => Reply::Attributed(pairs, Box::new(reply)),
            (pairs, None) => Reply::Map(pairs),
        },
        _ => Reply::Array(open.inside),
    }
}

/// Two by two, and what is left over.
fn pairs(replies: Vec<Reply>) -> (Vec<(Reply, Reply)>, Option<Reply>) {
    let mut pairs = Vec::with_capacity(replies.len() / 2);
    let mut replies = replies.into_iter();
    while let Some(name) = replies.next() {
        match replies.next() {
            Some(value) => pairs.push((name, value)),
            None => return (pairs, Some(name)),
        }
    }
    (pairs, None)
}
