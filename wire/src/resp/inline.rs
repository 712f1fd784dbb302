//! A command typed by hand: words, `"with \"escapes\" and \x41"` or `'without'`, as Redis takes them apart.

use super::request::{ProtocolError, Request};

/// Takes a line apart into the arguments of `request`.
pub(super) fn split(line: &[u8], request: &mut Request) -> Result<(), ProtocolError> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        // What C calls a space and Rust does not.
        while let [b'\x0b', after @ ..] = rest {
            rest = after.trim_ascii_start();
        }
        // Redis takes a line to end at a zero byte.
        if matches!(rest, [] | [0, ..]) {
            return Ok(());
        }
        let mut left = Err(ProtocolError::UnbalancedQuotes);
        request.push_line_arg(|out| left = word(rest, out));
        rest = left?;
    }
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == b'\x0b'
}

/// Unquotes the first word into `out`, and returns what follows it.
fn word<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [0, ..] => return Ok(rest),
            [byte, ..] if is_space(*byte) => return Ok(rest),
            [b'"', after @ ..] => return double_quoted(after, out),
            [b'\'', after @ ..] => return single_quoted(after, out),
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [0, ..] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', after @ ..] => return closed(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                out.push(nibble(*high) << 4 | nibble(*low));
                rest = after;
            }
            [b'\\', escaped, after @ ..] => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                rest = after;
            }
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [] | [0, ..] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', after @ ..] => return closed(after),
            [b'\\', b'\'', after @ ..] => {
                out.push(b'\'');
                rest = after;
            }
            [byte, after @ ..] => {
                out.push(*byte);
                rest = after;
            }
        }
    }
}

/// A closing quote ends the word, so a space or nothing must follow.
fn closed(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if *byte != 0 && !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
