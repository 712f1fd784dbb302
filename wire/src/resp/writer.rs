//! Replies, for clients of either protocol.
//!
//! | written | protocol 3 | protocol 2 |
//! |---|---|---|
//! | null, null array | `_` | `$-1`, `*-1` |
//! | map of n pairs | `%n` | `*2n` |
//! | set, push of n | `~n`, `>n` | `*n` |
//! | double | `,1.5` | `$3 1.5` |
//! | boolean | `#t` | `:1` |
//! | big number, verbatim text | `(123`, `=7 txt:abc` | `$3 123`, `$3 abc` |
//! | attribute | `\|n` | nothing |
//!
//! An array whose length is known only at its end begins with [`Writer::deferred_array`]: room is left for the length, and
//! what is over is closed by one move of the bytes behind it.

use super::double::{DOUBLE_BYTES_MAX, double_text};
use super::reply::Reply;

/// The version of the protocol that a client speaks. `HELLO` changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Every client understands it, and it is spoken until another is asked for.
    #[default]
    Two,
    /// With maps, sets, doubles, booleans and pushes.
    Three,
}

/// The header of something whose length is written later: see [`Writer::finish`].
#[derive(Debug)]
#[must_use = "its header is missing until it is finished"]
pub struct Deferred {
    at: usize,
    kind: u8,
    /// How many elements one of what is counted makes.
    times: u64,
}

/// The longest header: kind, 20 digits, line end.
const HEADER_BYTES_MAX: usize = 23;

/// Gathers replies as bytes.
#[derive(Debug, Default)]
pub struct Writer {
    out: Vec<u8>,
    protocol: Protocol,
}

impl Writer {
    /// Without bytes yet.
    pub const fn new(protocol: Protocol) -> Writer {
        Writer { out: Vec::new(), protocol }
    }

    /// Goes on behind what is in `out`.
    pub const fn over(out: Vec<u8>, protocol: Protocol) -> Writer {
        Writer { out, protocol }
    }

    /// What the replies from here on are written in.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Changes the protocol of what follows.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// The bytes themselves, to be sent, shortened or taken.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// What was written, for good.
    pub fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// Forgets what was written after this many bytes.
    pub fn truncate(&mut self, len: usize) {
        self.out.truncate(len);
    }

    /// Bytes that are replies already.
    pub fn raw(&mut self, replies: &[u8]) {
        self.out.extend_from_slice(replies);
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A word that says how it went.
    pub fn status(&mut self, text: impl AsRef<[u8]>) {
        self.line(b'+', text.as_ref());
    }

    /// An error; the text begins with its code, such as `ERR` or `WRONGTYPE`.
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        self.line(b'-', text.as_ref());
    }

    /// A whole number.
    pub fn int(&mut self, value: i64) {
        match value {
            0 => self.out.extend_from_slice(b":0\r\n"),
            1 => self.out.extend_from_slice(b":1\r\n"),
            _ => {
                let mut digits = [0; 20];
                self.line(b':', decimal(value, &mut digits));
            }
        }
    }

    /// A string of any bytes.
    pub fn bulk(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.out.reserve(bytes.len() + HEADER_BYTES_MAX + 2);
        header(&mut self.out, b'$', bytes.len() as u64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A whole number as a string.
    pub fn bulk_int(&mut self, value: i64) {
        let mut digits = [0; 20];
        self.bulk(decimal(value, &mut digits));
    }

    /// A double as a string, in both protocols.
    pub fn bulk_double(&mut self, value: f64) {
        let mut buffer = [0; DOUBLE_BYTES_MAX];
        self.bulk(double_text(value, &mut buffer));
    }

    /// A string that is not there.
    pub fn null(&mut self) {
        self.either(b"$-1\r\n", b"_\r\n");
    }

    /// An array that is not there.
    pub fn null_array(&mut self) {
        self.either(b"*-1\r\n", b"_\r\n");
    }

    /// The string, or none.
    pub fn bulk_or_null(&mut self, bytes: Option<impl AsRef<[u8]>>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    /// That many replies follow.
    pub fn array(&mut self, count: usize) {
        header(&mut self.out, b'*', count as u64);
    }

    /// That many pairs of a name and a value follow.
    pub fn map(&mut self, count: usize) {
        let (kind, times) = self.map_kind();
        header(&mut self.out, kind, count as u64 * times);
    }

    /// That many replies follow, in no order.
    pub fn set(&mut self, count: usize) {
        let kind = self.kind(b'~');
        header(&mut self.out, kind, count as u64);
    }

    /// That many replies follow, which answer nothing that was asked.
    pub fn push(&mut self, count: usize) {
        let kind = self.kind(b'>');
        header(&mut self.out, kind, count as u64);
    }

    /// A number with a fraction, or infinity.
    pub fn double(&mut self, value: f64) {
        if self.protocol == Protocol::Two {
            return self.bulk_double(value);
        }
        let mut buffer = [0; DOUBLE_BYTES_MAX];
        self.line(b',', double_text(value, &mut buffer));
    }

    /// Yes or no.
    pub fn bool(&mut self, value: bool) {
        match value {
            true => self.either(b":1\r\n", b"#t\r\n"),
            false => self.either(b":0\r\n", b"#f\r\n"),
        }
    }

    /// A whole number of any size, as digits.
    pub fn big_number(&mut self, digits: impl AsRef<[u8]>) {
        match self.protocol {
            Protocol::Two => self.bulk(digits),
            Protocol::Three => self.line(b'(', digits.as_ref()),
        }
    }

    /// Text to be shown as it is; its format is `txt` or `mkd`.
    pub fn verbatim(&mut self, format: [u8; 3], text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        if self.protocol == Protocol::Two {
            return self.bulk(text);
        }
        header(&mut self.out, b'=', text.len() as u64 + 4);
        self.out.extend_from_slice(&format);
        self.out.push(b':');
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// What is to be known about the reply that follows: `count` pairs, which `pairs` writes. Only for those who understand it.
    pub fn attribute(&mut self, count: usize, pairs: impl FnOnce(&mut Writer)) {
        if self.protocol == Protocol::Three {
            header(&mut self.out, b'|', count as u64);
            pairs(self);
        }
    }

    /// An array whose length is told to [`Writer::finish`].
    pub fn deferred_array(&mut self) -> Deferred {
        self.deferred(b'*', 1)
    }

    /// A map whose number of pairs is told to [`Writer::finish`].
    pub fn deferred_map(&mut self) -> Deferred {
        let (kind, times) = self.map_kind();
        self.deferred(kind, times)
    }

    /// A set whose length is told to [`Writer::finish`].
    pub fn deferred_set(&mut self) -> Deferred {
        self.deferred(self.kind(b'~'), 1)
    }

    /// Writes the header of what was deferred. What was deferred last is finished first.
    pub fn finish(&mut self, deferred: Deferred, count: usize) {
        let mut bytes = [0; HEADER_BYTES_MAX];
        let mut digits = [0; 20];
        let digits = decimal((count as u64 * deferred.times) as i64, &mut digits);
        let len = digits.len() + 3;
        bytes[0] = deferred.kind;
        bytes[1..=digits.len()].copy_from_slice(digits);
        bytes[len - 2..len].copy_from_slice(b"\r\n");
        let place = deferred.at..deferred.at + DEFERRED_BYTES;
        assert!(place.end <= self.out.len(), "what was deferred last is finished first, and is not cut off");
        if len <= DEFERRED_BYTES {
            self.out[deferred.at..deferred.at + len].copy_from_slice(&bytes[..len]);
            if len < DEFERRED_BYTES {
                self.out.copy_within(place.end.., deferred.at + len);
                self.out.truncate(self.out.len() - (DEFERRED_BYTES - len));
            }
        } else {
            self.out.splice(place, bytes[..len].iter().copied());
        }
    }

    /// A whole reply that exists as a value.
    pub fn reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Status(text) => self.status(text),
            Reply::Error(text) => self.error(text),
            Reply::Int(value) => self.int(*value),
            Reply::Bulk(bytes) => self.bulk(bytes),
            Reply::Null => self.null(),
            Reply::NullArray => self.null_array(),
            Reply::Double(value) => self.double(*value),
            Reply::Bool(value) => self.bool(*value),
            Reply::BigNumber(digits) => self.big_number(digits),
            Reply::Verbatim(format, text) => self.verbatim(*format, text),
            Reply::Array(replies) => {
                self.array(replies.len());
                replies.iter().for_each(|reply| self.reply(reply));
            }
            Reply::Set(replies) => {
                self.set(replies.len());
                replies.iter().for_each(|reply| self.reply(reply));
            }
            Reply::Push(replies) => {
                self.push(replies.len());
                replies.iter().for_each(|reply| self.reply(reply));
            }
            Reply::Map(pairs) => {
                self.map(pairs.len());
                self.pairs(pairs);
            }
            Reply::Attributed(pairs, reply) => {
                self.attribute(pairs.len(), |writer| writer.pairs(pairs));
                self.reply(reply);
            }
        }
    }

    fn pairs(&mut self, pairs: &[(Reply, Reply)]) {
        for (name, value) in pairs {
            self.reply(name);
            self.reply(value);
        }
    }

    fn deferred(&mut self, kind: u8, times: u64) -> Deferred {
        let at = self.out.len();
        self.out.extend_from_slice(&[0; DEFERRED_BYTES]);
        Deferred { at, kind, times }
    }

    fn either(&mut self, two: &[u8], three: &[u8]) {
        let bytes = if self.protocol == Protocol::Two { two } else { three };
        self.out.extend_from_slice(bytes);
    }

    /// What stands for an array of protocol 3 alone.
    fn kind(&self, three: u8) -> u8 {
        if self.protocol == Protocol::Two { b'*' } else { three }
    }

    fn map_kind(&self) -> (u8, u64) {
        if self.protocol == Protocol::Two { (b'*', 2) } else { (b'%', 1) }
    }

    /// A line, in which no other line may begin.
    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.push(kind);
        let begin = self.out.len();
        self.out.extend_from_slice(text);
        if let Some(line) = self.out.get_mut(begin..) {
            line.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
        }
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Room for the header of 100 to 999 elements. Any other length moves the bytes behind it once.
const DEFERRED_BYTES: usize = 6;

/// Kind, number, line end.
pub(super) fn header(out: &mut Vec<u8>, kind: u8, count: u64) {
    if count < 10 {
        return out.extend_from_slice(&[kind, b'0' + count as u8, b'\r', b'\n']);
    }
    let mut digits = [0; 20];
    out.push(kind);
    out.extend_from_slice(decimal(count as i64, &mut digits));
    out.extend_from_slice(b"\r\n");
}

const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut at = 0;
    while at < 100 {
        pairs[at] = [b'0' + (at / 10) as u8, b'0' + (at % 10) as u8];
        at += 1;
    }
    pairs
};

/// A number in decimal, two digits at a time.
pub(super) fn decimal(value: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut rest = value.unsigned_abs();
    let mut begin = buffer.len();
    while rest >= 10 {
        let pair = PAIRS[(rest % 100) as usize];
        rest /= 100;
        begin -= 2;
        buffer[begin..begin + 2].copy_from_slice(&pair);
    }
    if rest > 0 || begin == buffer.len() {
        begin -= 1;
        buffer[begin] = b'0' + rest as u8;
    }
    if value < 0 {
        begin -= 1;
        buffer[begin] = b'-';
    }
    &buffer[begin..]
}
