//! Small files that are read whole: a checked header, then one archive.
//!
//! ```text
//! 0        8          12       16            24         28           32
//! | magic  | version  | zero   | body length | body crc | header crc | body: rkyv archive ...
//! ```
//!
//! Little-endian; both checksums are crc32. The header's covers the 28 bytes before it and is verified before any of
//! them is believed; the body's is verified before the archive is looked at, and the archive is bounds-checked on top.
//! Nothing follows the body.

use rkyv::util::AlignedVec;

/// The header's size.
pub(crate) const HEADER_BYTES: usize = 32;

/// What kind of file it is.
pub(crate) struct Kind {
    pub magic: &'static [u8; 8],
    /// The version this program writes, and the newest it reads.
    pub version: u32,
    /// The most bytes such a file may have.
    pub bytes_max: u64,
}

/// Why bytes are not such a file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramedError {
    #[error("it is not ours")]
    Foreign,
    #[error("it has version {0}")]
    UnknownVersion(u32),
    #[error("{what}, at byte {offset}")]
    Damaged { what: String, offset: u64 },
}

fn damaged(what: impl Into<String>, offset: usize) -> FramedError {
    FramedError::Damaged { what: what.into(), offset: offset as u64 }
}

/// The file's bytes.
pub(crate) fn encode(kind: &Kind, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(kind.magic);
    bytes.extend_from_slice(&kind.version.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let header_crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&header_crc.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The length of the body and its checksum, by a header whose own checksum is right.
pub(crate) fn promised(header: &[u8; HEADER_BYTES]) -> Result<(u64, u32), FramedError> {
    if u32_at(header, 28) != crc32fast::hash(&header[..28]) {
        return Err(damaged("its header's checksum does not fit", 0));
    }
    Ok((u64::from(u32_at(header, 16)) | u64::from(u32_at(header, 20)) << 32, u32_at(header, 24)))
}

fn u32_at(header: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// The verified body, aligned for an archive.
pub(crate) fn decode(kind: &Kind, bytes: &[u8]) -> Result<AlignedVec<16>, FramedError> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(damaged("it ends within its header", bytes.len()));
    };
    if header[..8] != *kind.magic {
        return Err(FramedError::Foreign);
    }
    let (length, crc) = promised(header)?;
    let version = u32_at(header, 8);
    if version != kind.version {
        return Err(FramedError::UnknownVersion(version));
    }
    let body = &bytes[HEADER_BYTES..];
    if length != body.len() as u64 {
        return Err(damaged(format!("its body has {} bytes instead of {length}", body.len()), HEADER_BYTES));
    }
    if crc != crc32fast::hash(body) {
        return Err(damaged("its body's checksum does not fit", HEADER_BYTES));
    }
    let mut aligned = AlignedVec::new();
    aligned.extend_from_slice(body);
    Ok(aligned)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What every small file must stand: any bit flipped, any end missing, is an error and not a panic.
    pub(crate) fn check_damage<T, E>(file: &[u8], read: impl Fn(&[u8]) -> Result<T, E>) {
        assert!(read(file).is_ok(), "the file is whole");
        for bit in 0..file.len() * 8 {
            let mut damaged = file.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..file.len() {
            assert!(read(&file[..len]).is_err(), "cut at {len}");
        }
        assert!(read(&[file, b"x"].concat()).is_err(), "something follows");
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let kind = |version| Kind { magic: b"locitest", version, bytes_max: 100 };
        let file = encode(&kind(2), b"body");
        assert_eq!(decode(&kind(1), &file).err(), Some(FramedError::UnknownVersion(2)));
        check_damage(&file, |bytes| decode(&kind(2), bytes));
    }
}
