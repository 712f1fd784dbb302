//! Slots: the 16,384 parts that Redis Cluster cuts all keys into.
//!
//! ```text
//!   key --what stands in {...}, or all of it--> CRC16 --> slot
//! ```
//!
//! As in Redis Cluster (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>): of a key with `{...}` in
//! it, with something between the first `{` and the first `}` after it, only that is hashed.
//!
//! This file is compiled into `loci-wire`, too: clients look for a key where nodes have it, and neither package knows the other.

/// The number of slots.
pub const SLOTS: u16 = 16_384;

/// A key's slot.
pub fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % SLOTS
}

/// The part of a key that is hashed alone, if it has one.
pub fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&byte| byte == b'{')?;
    let after = &key[open + 1..];
    let close = after.iter().position(|&byte| byte == b'}').filter(|close| *close > 0)?;
    Some(&after[..close])
}

/// CRC-16/XMODEM: polynomial 0x1021, from 0.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let mut crc = (at as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { crc << 1 ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[at] = crc;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value in the specification");
        // As `CLUSTER KEYSLOT` of redis-server 7.0 says.
        for (key, expected) in [("foo", 12_182), ("bar", 5_061), ("hello", 866), ("", 0)] {
            assert_eq!(slot(key.as_bytes()), expected, "{key:?}");
        }
    }

    #[test]
    fn only_a_tag_that_is_not_empty_is_hashed_alone() {
        for (key, expected) in [
            ("{user1000}.following", Some("user1000")),
            ("foo{}{bar}", None),
            ("foo{{bar}}zap", Some("{bar")),
            ("foo{bar}{zap}", Some("bar")),
            ("foo{bar", None),
            ("}{a}", Some("a")),
        ] {
            assert_eq!(tag(key.as_bytes()), expected.map(str::as_bytes), "{key:?}");
        }
    }
}
