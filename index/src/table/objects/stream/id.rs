//! Ids: when an entry came, in milliseconds since 1970, and which one of that millisecond it is.

/// The id of an entry: `milliseconds-number`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Which one of the millisecond.
    pub seq: u64,
}

impl Id {
    /// The least; no entry has it.
    pub const MIN: Id = Id { ms: 0, seq: 0 };
    /// The greatest.
    pub const MAX: Id = Id { ms: u64::MAX, seq: u64::MAX };

    /// The one after it.
    pub fn next(self) -> Option<Id> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_add(1)?, seq: 0 }),
        }
    }

    /// The one before it.
    pub fn prev(self) -> Option<Id> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(Id { ms: self.ms, seq }),
            None => Some(Id { ms: self.ms.checked_sub(1)?, seq: u64::MAX }),
        }
    }

    /// From `ms` or `ms-seq`; `seq` stands for what is missing.
    pub fn parse(text: &[u8], seq: u64) -> Option<Id> {
        match text.iter().position(|&byte| byte == b'-') {
            Some(at) => Some(Id { ms: number(&text[..at])?, seq: number(&text[at + 1..])? }),
            None => Some(Id { ms: number(text)?, seq }),
        }
    }

    /// From `ms-*`: the milliseconds.
    pub fn parse_open(text: &[u8]) -> Option<u64> {
        number(text.strip_suffix(b"-*")?)
    }

    /// As text.
    pub fn text(self) -> String {
        format!("{}-{}", self.ms, self.seq)
    }

    /// Its bytes, in the order of ids.
    pub fn bytes(self) -> [u8; 16] {
        ((u128::from(self.ms) << 64) | u128::from(self.seq)).to_be_bytes()
    }

    /// From its bytes.
    pub fn from_bytes(bytes: [u8; 16]) -> Id {
        let number = u128::from_be_bytes(bytes);
        Id { ms: (number >> 64) as u64, seq: number as u64 }
    }
}

/// A whole number that is not negative. Like Redis, it takes leading zeros, spaces before it and a plus here.
fn number(text: &[u8]) -> Option<u64> {
    if text.len() > 127 {
        return None;
    }
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t'..=b'\r');
    let text = &text[text.iter().take_while(|byte| blank(byte)).count()..];
    let text = text.strip_prefix(b"+").unwrap_or(text);
    if text.is_empty() {
        return None;
    }
    let digit = |number: u64, byte: &u8| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    };
    text.iter().try_fold(0, digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_neighbours_and_is_read_as_it_is_written() {
        for (text, id) in [
            ("0-0", Some(Id::MIN)),
            ("18446744073709551615-18446744073709551615", Some(Id::MAX)),
            ("7", Some(Id { ms: 7, seq: 5 })),
            (" \t7-+5", Some(Id { ms: 7, seq: 5 })),
            ("+07- 5", Some(Id { ms: 7, seq: 5 })),
            ("7 -5", None),
            ("7-5 ", None),
            (" ", None),
            ("+", None),
            ("++7", None),
            ("7-", None),
            ("-7", None),
            ("", None),
            ("1-2-3", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(Id::parse(text.as_bytes(), 5), id, "{text}");
        }
        for id in [Id { ms: 3, seq: 0 }, Id { ms: 3, seq: u64::MAX }, Id { ms: 3, seq: 9 }] {
            assert_eq!(id.next().and_then(Id::prev), Some(id));
            assert_eq!(Id::parse(id.text().as_bytes(), 0), Some(id));
            assert_eq!(Id::from_bytes(id.bytes()), id);
        }
        assert_eq!((Id::MIN.prev(), Id::MAX.next()), (None, None));
        assert_eq!((Id::parse_open(b"5-*"), Id::parse_open(b"5-1"), Id::parse_open(b"-*")), (Some(5), None, None));
    }
}
