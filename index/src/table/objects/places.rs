//! Where elements lie in the indexes of objects: by a hash that no client can foretell.
//!
//! Whoever knew it could choose elements that all lie in the same place, and make every call on them look through all of them.
//! What is kept in an order never follows it, and sums never use it, so each process can have a secret of its own.

use std::sync::OnceLock;

use xxhash_rust::xxh3::xxh3_64_with_seed;

static SECRET: OnceLock<u64> = OnceLock::new();

/// From now on elements lie where this says. Does nothing once there is an element anywhere; without it the secret is zero.
pub fn keep_secret(secret: u64) {
    // Somebody was earlier.
    let _ = SECRET.set(secret);
}

/// The place of an element, or of a part of it that tells it from others.
pub(crate) fn place_of(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, *SECRET.get_or_init(|| 0))
}
