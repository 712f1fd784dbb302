//! Where a scan goes on: opaque to clients, checked when it comes back.
//!
//! ```text
//! 0         1               9                   13
//! | version | collection id | crc of prefix and | last key ... | crc of all before |
//! |         |               | filter            |              | (the last 4)      |
//! ```
//!
//! The checksums are against mistakes, not against malice: a made-up cursor reads nothing that its maker may not read.

use loci_index::filter::Filter;
use loci_index::record::CollectionId;

use super::status::Failure;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 17;

/// Makes and reads the cursors of one scan.
pub struct Cursor {
    collection: CollectionId,
    question: u32,
}

impl Cursor {
    /// For a scan of this collection with this prefix and filter.
    pub fn new(collection: CollectionId, prefix: &[u8], filter: Option<&Filter>) -> Cursor {
        let mut question = crc32fast::Hasher::new();
        question.update(&(prefix.len() as u64).to_le_bytes());
        question.update(prefix);
        // Not the bytes the client sent: maps have no order on the wire.
        question.update(format!("{filter:?}").as_bytes());
        Cursor { collection, question: question.finalize() }
    }

    /// A cursor that goes on after this key.
    pub fn encode(&self, last: &[u8]) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.collection.0.to_le_bytes());
        bytes.extend_from_slice(&self.question.to_le_bytes());
        bytes.extend_from_slice(last);
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// The key to go on after. `None` if the cursor is empty: from the beginning.
    pub fn decode(&self, cursor: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        if cursor.is_empty() {
            return Ok(None);
        }
        let refuse = |why: &str| {
            Err(Failure::invalid("invalid_cursor", format!("the cursor {why}; begin the scan again without one")))
        };
        let Some((body, crc)) = cursor.split_last_chunk::<4>().filter(|_| cursor.len() >= FIXED_BYTES) else {
            return refuse("is not one of ours");
        };
        if body[0] != VERSION || u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return refuse("is not one of ours");
        }
        let (fixed, last) = body.split_at(FIXED_BYTES - 4);
        if fixed[1..9] != self.collection.0.to_le_bytes() {
            return refuse("belongs to another collection, or to one that was dropped");
        }
        if fixed[9..] != self.question.to_le_bytes() {
            return refuse("belongs to a scan with another prefix or filter");
        }
        Ok(Some(last.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_only_where_it_came_from() {
        let cursor = Cursor::new(CollectionId(7), b"a", None);
        let bytes = cursor.encode(b"key");
        assert_eq!(cursor.decode(&bytes).unwrap(), Some(b"key".to_vec()));
        assert_eq!(cursor.decode(b"").unwrap(), None);
        for other in [
            Cursor::new(CollectionId(8), b"a", None),
            Cursor::new(CollectionId(7), b"b", None),
            Cursor::new(CollectionId(7), b"a", Some(&Filter::Constant(true))),
        ] {
            assert!(other.decode(&bytes).is_err());
        }
        for len in 1..bytes.len() {
            assert!(cursor.decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(cursor.decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
