//! Values in the form of Redis: what `DUMP` gives and `RESTORE` takes, so that values travel to a Redis and back.
//!
//! ```text
//!   type (1), the value, version (2), CRC-64 of all before it (8)
//! ```
//!
//! | room | what is in it |
//! |---|---|
//! | [`wire`] | lengths, strings, compressed strings |
//! | [`packed`] | the small forms: listpack, ziplist, zipmap, intset |
//! | [`values`], [`streams`] | reading values; streams, reading and writing |
//! | [`write`] | writing values, always in the plain forms, which every version reads |
//!
//! Read are versions up to [`VERSION_MAX`]. Written is the lowest version that can hold the value.
//!
//! Always: what is read comes from outside, and takes no more than [`wire::EXPANDED_BYTES_MAX`] however it is compressed, and
//! however many entries of a stream share their names; one node holds no more than a million strings. What is damaged is refused
//! as a whole.

mod packed;
mod streams;
mod values;
mod wire;
mod write;

pub use values::read;
pub use write::write;

pub(super) use wire::{Reader, put_string};

/// The newest version that is read: that of Redis 7.4 and 8.
pub const VERSION_MAX: u16 = 12;

const TRAILER_BYTES: usize = 10;

/// The reflected polynomial of Jones.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

static TABLE: [u64; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = (byte as u64, 0);
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The checksum.
fn crc64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |crc, byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

/// Ends a payload with its version and its checksum.
pub fn seal(payload: &mut Vec<u8>, version: u16) {
    payload.extend_from_slice(&version.to_le_bytes());
    payload.extend_from_slice(&crc64(payload).to_le_bytes());
}

/// What a payload holds, if it is whole and not too new.
pub fn unseal(payload: &[u8]) -> Option<&[u8]> {
    let (content, trailer) = payload.split_at_checked(payload.len().checked_sub(TRAILER_BYTES)?)?;
    let (version, sum) = trailer.split_first_chunk::<2>()?;
    let whole = crc64(&payload[..payload.len() - 8]).to_le_bytes() == *sum;
    (whole && u16::from_le_bytes(*version) <= VERSION_MAX).then_some(content)
}

#[cfg(test)]
mod tests;
