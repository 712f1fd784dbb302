//! RESP, the protocol of Redis, versions 2 and 3: what its clients send and what they are answered. No logic, no I/O.
//!
//! ```text
//! bytes from the socket --> Decoder --> Request: where each argument lies in those bytes
//! bytes to the socket   <-- Writer  <-- one call for each part of a reply, whatever the client's protocol
//! bytes of a reply      --> ReplyDecoder --> Reply                    (for tests, scripts and other clients)
//! ```
//!
//! A command sees one kind of reply, that of protocol 3. [`Writer`] translates for clients of protocol 2: a map becomes a flat
//! array, a set and a push an array, a double and a verbatim text a bulk string, a boolean a number.
//!
//! Always: reading takes time and memory in proportion to the bytes that came, never to the lengths that they announce, and
//! no byte is looked at again because more of the request arrived later. What is too large or too deep is an error.

mod ahead;
mod request;
mod inline;
mod writer;
mod double;
mod reply;

pub use ahead::likely_keys;
pub use double::{DOUBLE_BYTES_MAX, double_text};
pub use reply::{Reply, ReplyDecoder, ReplyError, ReplyLimits};
pub use request::{Decoder, Limits, ProtocolError, Request, encode_request};
pub use writer::{Deferred, Protocol, Writer};

#[cfg(test)]
mod tests;

/// The number in a header. As strict as Redis: no plus, no leading zero, no space.
fn number(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.split_first()? {
        (b'-', digits) => (true, digits),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    let mut value: i64 = 0;
    for digit in digits {
        let digit = i64::from(digit.wrapping_sub(b'0'));
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(digit)? } else { value.checked_add(digit)? };
    }
    Some(value)
}

/// Where the first `byte` at or after `from` is.
fn find(input: &[u8], from: usize, byte: u8) -> Option<usize> {
    input.get(from..)?.iter().position(|found| *found == byte).map(|at| from + at)
}
