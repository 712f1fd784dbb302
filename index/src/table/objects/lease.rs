//! Leases: who holds something, and under which number.
//!
//! ```text
//!   key (the lease's name) -> holder, number        held until the key's deadline
//! ```
//!
//! The number is the position of the call that gave the lease away. Positions only grow, whatever becomes of the lease in
//! between: so nothing needs to be remembered of a lease that is over for the next number to be larger.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Kind, variant};
use crate::table::allocated;

const NUMBER_BYTES: usize = 8;

/// Who holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    number: u64,
    holder: Box<[u8]>,
}

impl Lease {
    /// One that is held by somebody under this number.
    pub fn new(number: u64, holder: &[u8]) -> Lease {
        Lease { number, holder: holder.into() }
    }

    /// The number under which it is held; never zero.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who holds it.
    pub fn holder(&self) -> &[u8] {
        &self.holder
    }

    /// Under another number, because it comes to another place: what counted there before must not count again.
    pub fn renumber(&mut self, number: u64) {
        self.number = number;
    }
}

impl Kind for Lease {
    const NAME: &'static str = "lease";
    const TAG: u8 = 22;

    variant!(Lease);

    fn encoding(&self) -> &'static str {
        "lease"
    }

    fn heap_bytes(&self) -> usize {
        allocated(self.holder.len())
    }

    fn is_empty(&self) -> bool {
        false
    }

    fn sum(&self) -> u64 {
        xxh3_64_with_seed(&self.holder, self.number)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.holder);
    }

    fn decode(bytes: &[u8]) -> Option<Lease> {
        let (number, holder) = bytes.split_first_chunk::<NUMBER_BYTES>()?;
        let number = u64::from_le_bytes(*number);
        (number != 0).then(|| Lease::new(number, holder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_comes_back_as_it_was_and_damage_makes_none() {
        let lease = Lease::new(7 << 16 | 3, b"worker-1");
        let mut bytes = Vec::new();
        lease.encode(&mut bytes);
        assert_eq!(bytes, [3, 0, 7, 0, 0, 0, 0, 0, b'w', b'o', b'r', b'k', b'e', b'r', b'-', b'1']);
        assert_eq!(Lease::decode(&bytes), Some(lease.clone()));
        let other = Lease::new(lease.number(), b"worker-2");
        assert_ne!(lease.sum(), other.sum());
        for len in 0..NUMBER_BYTES {
            assert_eq!(Lease::decode(&bytes[..len]), None);
        }
        assert_eq!(Lease::decode(&[0; 9]), None);
    }
}
