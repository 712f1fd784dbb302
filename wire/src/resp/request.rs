//! Requests: arrays of bulk strings, and lines typed by hand.
//!
//! ```text
//! *2\r\n $3\r\n GET\r\n $5\r\n hello\r\n           two arguments, found where they lie
//! get "he\x6clo"\r\n                              the same, taken apart into the request's own bytes
//! ```
//!
//! [`Decoder::decode`] is given the bytes from the start of a request on, and given them again with more behind them when the
//! request was not whole. It remembers what it has read, so a request of any size that arrives in small pieces costs each
//! byte once. A [`Request`] that is used again allocates nothing once it has held as many arguments.

use std::fmt;

use super::{find, inline, number};

/// How much of one request is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Arguments, the command's name counted.
    pub args_max: usize,
    /// Bytes of one argument.
    pub bulk_bytes_max: usize,
    /// Bytes of a line: of a command typed by hand, or of a header.
    pub inline_bytes_max: usize,
    /// Bytes of the whole request as it is sent. Below 4 GiB.
    pub request_bytes_max: usize,
    /// Whether the client is known. It decides what is said about the limits.
    pub authenticated: bool,
}

impl Limits {
    /// For clients that may give commands.
    pub const OPEN: Limits = Limits {
        args_max: 1 << 20,
        bulk_bytes_max: 16 << 20,
        inline_bytes_max: 64 << 10,
        request_bytes_max: 64 << 20,
        authenticated: true,
    };

    /// For clients that have yet to say who they are: enough for `AUTH` and `HELLO`.
    pub const UNAUTHENTICATED: Limits = Limits {
        args_max: 10,
        bulk_bytes_max: 16 << 10,
        inline_bytes_max: 64 << 10,
        request_bytes_max: 256 << 10,
        authenticated: false,
    };
}

/// Why bytes are no request. The connection is of no use after one: where the next request begins is unknown.
///
/// The texts are those of Redis, which clients and tests look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolError {
    /// A line without an end.
    InlineTooLong,
    /// The header of an array without an end.
    MultibulkHeaderTooLong,
    /// The header of a bulk string without an end.
    BulkHeaderTooLong,
    /// A count that is none, or too many arguments.
    MultibulkLength,
    /// Too many arguments from somebody unknown.
    UnauthenticatedMultibulkLength,
    /// A length that is none, or too long a bulk string.
    BulkLength,
    /// Too long a bulk string from somebody unknown.
    UnauthenticatedBulkLength,
    /// Something else where a bulk string must begin.
    ExpectedBulk(u8),
    /// A bulk string that goes on after its end.
    ExpectedLineEnd,
    /// A quote that is not closed, or not followed by a space.
    UnbalancedQuotes,
    /// All arguments together are too large: the limit.
    RequestTooLarge(usize),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            ProtocolError::InlineTooLong => f.write_str("too big inline request"),
            ProtocolError::MultibulkHeaderTooLong => f.write_str("too big mbulk count string"),
            ProtocolError::BulkHeaderTooLong => f.write_str("too big bulk count string"),
            ProtocolError::MultibulkLength => f.write_str("invalid multibulk length"),
            ProtocolError::UnauthenticatedMultibulkLength => f.write_str("unauthenticated multibulk length"),
            ProtocolError::BulkLength => f.write_str("invalid bulk length"),
            ProtocolError::UnauthenticatedBulkLength => f.write_str("unauthenticated bulk length"),
            ProtocolError::ExpectedBulk(found) => {
                let shown = if found.is_ascii_graphic() { char::from(*found) } else { ' ' };
                write!(f, "expected '$', got '{shown}'")
            }
            ProtocolError::ExpectedLineEnd => f.write_str("expected CRLF after bulk string"),
            ProtocolError::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::RequestTooLarge(limit) => write!(f, "request is larger than {limit} bytes"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// Where an argument lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    begin: u32,
    end: u32,
}

/// The arguments of one request, of which the first is the command's name.
///
/// They lie in the bytes that were decoded; only those of a line are kept here, because quotes and escapes change them.
#[derive(Debug, Default)]
pub struct Request {
    spans: Vec<Span>,
    /// What the spans point into, if not into the input.
    line: Vec<u8>,
    is_line: bool,
}

impl Request {
    /// Without arguments, and without memory yet.
    pub const fn new() -> Request {
        Request { spans: Vec::new(), line: Vec::new(), is_line: false }
    }

    /// How many arguments there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none: a blank line or an empty array, which gets no answer.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// An argument. `input` is what the request was decoded from.
    pub fn get<'a>(&'a self, input: &'a [u8], index: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(index)?;
        self.bytes(input).get(span.begin as usize..span.end as usize)
    }

    /// All arguments in order. `input` is what the request was decoded from.
    pub fn args<'a>(
        &'a self,
        input: &'a [u8],
    ) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone {
        let bytes = self.bytes(input);
        self.spans.iter().map(move |span| bytes.get(span.begin as usize..span.end as usize).unwrap_or_default())
    }

    /// The bytes that this holds on to, in order to be used again.
    pub fn memory_bytes(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.line.capacity()
    }

    /// Forgets the arguments, and gives memory back if it is more than `bytes_max`.
    pub fn clear(&mut self, bytes_max: usize) {
        self.spans.clear();
        self.line.clear();
        self.is_line = false;
        if self.memory_bytes() > bytes_max {
            *self = Request::new();
        }
    }

    fn bytes<'a>(&'a self, input: &'a [u8]) -> &'a [u8] {
        if self.is_line { &self.line } else { input }
    }

    pub(super) fn push_line_arg(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.line.len() as u32;
        write(&mut self.line);
        self.spans.push(Span { begin, end: self.line.len() as u32 });
    }
}

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The first byte decides.
    Start,
    /// A command typed by hand.
    Line,
    /// The header of the array.
    Count,
    /// The header of a bulk string.
    Length,
    /// The bytes of a bulk string.
    Bulk(usize),
}

/// Reads requests, each as its bytes arrive.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Everything before it has been understood.
    at: usize,
    /// No line ends between `at` and here.
    searched: usize,
    /// Arguments still to come.
    left: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// Before the first request.
    pub const fn new() -> Decoder {
        Decoder { state: State::Start, at: 0, searched: 0, left: 0 }
    }

    /// Reads one request from the start of `input` into `request`, and says how many bytes it took; `None` if it is not all
    /// there. Then the next call gets the same request, the same bytes and more behind them. Limits may change between calls.
    pub fn decode(
        &mut self,
        input: &[u8],
        limits: &Limits,
        request: &mut Request,
    ) -> Result<Option<usize>, ProtocolError> {
        if self.state == State::Start {
            let Some(first) = input.first() else { return Ok(None) };
            request.spans.clear();
            request.line.clear();
            request.is_line = *first != b'*';
            self.state = if request.is_line { State::Line } else { State::Count };
            self.at = usize::from(!request.is_line);
            self.searched = self.at;
        }
        let taken = if self.state == State::Line {
            self.line(input, limits, request)?
        } else {
            self.array(input, limits, request)?
        };
        if taken.is_some() {
            *self = Decoder::new();
        }
        Ok(taken)
    }

    /// How many more bytes there must be before it is worth another look; at least 1. As announced, and so not to be trusted
    /// further than one is ready to allocate.
    pub fn missing(&self, input: &[u8]) -> usize {
        match self.state {
            State::Bulk(length) => (self.at + length + 2).saturating_sub(input.len()).max(1),
            _ => 1,
        }
    }

    /// Whether a request has begun and is not whole.
    pub fn is_within(&self) -> bool {
        self.state != State::Start
    }

    fn line(&mut self, input: &[u8], limits: &Limits, request: &mut Request) -> Result<Option<usize>, ProtocolError> {
        let Some(end) = find(input, self.searched, b'\n') else {
            self.searched = input.len();
            let too_long = input.len() > limits.inline_bytes_max;
            return if too_long { Err(ProtocolError::InlineTooLong) } else { Ok(None) };
        };
        if end > limits.inline_bytes_max {
            return Err(ProtocolError::InlineTooLong);
        }
        let line = &input[..end];
        inline::split(line.strip_suffix(b"\r").unwrap_or(line), request)?;
        if request.len() > limits.args_max {
            return Err(too_many(limits));
        }
        Ok(Some(end + 1))
    }

    fn array(&mut self, input: &[u8], limits: &Limits, request: &mut Request) -> Result<Option<usize>, ProtocolError> {
        if self.state == State::Count {
            let (long, wrong) = (ProtocolError::MultibulkHeaderTooLong, ProtocolError::MultibulkLength);
            let Some(count) = self.header(0, input, limits, long, wrong)? else { return Ok(None) };
            if count <= 0 {
                return Ok(Some(self.at));
            }
            self.left = usize::try_from(count).map_err(|_| wrong)?;
            if self.left > limits.args_max {
                return Err(too_many(limits));
            }
            self.state = State::Length;
        }
        loop {
            if self.state == State::Length {
                let Some(first) = input.get(self.at) else { return Ok(None) };
                if *first != b'$' {
                    return Err(ProtocolError::ExpectedBulk(*first));
                }
                let (long, wrong) = (ProtocolError::BulkHeaderTooLong, ProtocolError::BulkLength);
                let Some(length) = self.header(1, input, limits, long, wrong)? else { return Ok(None) };
                let length = usize::try_from(length).map_err(|_| wrong)?;
                if length > limits.bulk_bytes_max {
                    return Err(too_long(limits));
                }
                if self.at + length + 2 > limits.request_bytes_max.min(u32::MAX as usize) {
                    return Err(ProtocolError::RequestTooLarge(limits.request_bytes_max));
                }
                self.state = State::Bulk(length);
            }
            let State::Bulk(length) = self.state else { return Ok(None) };
            let end = self.at + length;
            match input.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Err(ProtocolError::ExpectedLineEnd),
                None => return Ok(None),
            }
            request.spans.push(Span { begin: self.at as u32, end: end as u32 });
            self.at = end + 2;
            self.searched = self.at;
            self.state = State::Length;
            self.left -= 1;
            if self.left == 0 {
                return Ok(Some(self.at));
            }
        }
    }

    /// The number of a header whose digits begin `skip` bytes further on; moves past it.
    fn header(
        &mut self,
        skip: usize,
        input: &[u8],
        limits: &Limits,
        too_long: ProtocolError,
        wrong: ProtocolError,
    ) -> Result<Option<i64>, ProtocolError> {
        let begin = self.at + skip;
        if let Some((value, after)) = short_header(input, begin) {
            (self.at, self.searched) = (after, after);
            return Ok(Some(value));
        }
        let Some(end) = find(input, self.searched.max(begin), b'\r') else {
            self.searched = input.len();
            return if input.len() - self.at > limits.inline_bytes_max { Err(too_long) } else { Ok(None) };
        };
        self.searched = end;
        match input.get(end + 1) {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(wrong),
        }
        self.at = end + 2;
        self.searched = self.at;
        number(&input[begin..end]).map(Some).ok_or(wrong)
    }
}

/// The number of a header that is all there and has few digits, as nearly every one has, and what follows it.
fn short_header(input: &[u8], begin: usize) -> Option<(i64, usize)> {
    let rest = input.get(begin..)?;
    let mut value = 0;
    for (at, byte) in rest.iter().take(8).enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'\r' if at > 0 && (rest[0] != b'0' || at == 1) && rest.get(at + 1) == Some(&b'\n') => {
                return Some((value, begin + at + 2));
            }
            _ => return None,
        }
    }
    None
}

fn too_many(limits: &Limits) -> ProtocolError {
    match limits.authenticated {
        true => ProtocolError::MultibulkLength,
        false => ProtocolError::UnauthenticatedMultibulkLength,
    }
}

fn too_long(limits: &Limits) -> ProtocolError {
    match limits.authenticated {
        true => ProtocolError::BulkLength,
        false => ProtocolError::UnauthenticatedBulkLength,
    }
}

/// Writes a request as a client does.
pub fn encode_request<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    super::writer::header(out, b'*', args.len() as u64);
    for arg in args {
        let arg = arg.as_ref();
        super::writer::header(out, b'$', arg.len() as u64);
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}
