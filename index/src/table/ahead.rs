//! Looking ahead: what lies at the keys of the next calls is brought from memory, of all of them at the same time.
//!
//! ```text
//!   each by itself:  head [ wait ] place [ wait ] entry [ wait ] end | head [ wait ] place [ wait ] entry ...
//!   ahead:           heads of all [ wait ] places of all [ wait ] entries of all [ wait ] ends of all
//! ```
//!
//! What one step reads tells where the next is, so that a processor can wait for more than one only if it is told of several. Of a
//! million keys a pipeline of sixteen reads takes two thirds of the time, and one of sixteen writes seven eighths.
//!
//! Always: nothing that is read here decides anything. Whoever looks for the key later does all of it again.

use super::Keyspace;

/// So many keys at a time: what lies there is still at hand when it is their turn.
pub const AHEAD: usize = 32;
/// What is longer is no key that many calls are about.
const KEY_BYTES_MAX: usize = 128;

/// Looks at what lies at these keys, at most [`AHEAD`] of them.
pub fn look_ahead<'k>(keys: impl Iterator<Item = (&'k Keyspace, &'k [u8])>) {
    let mut known: [Option<(&Keyspace, u64)>; AHEAD] = [None; AHEAD];
    let mut count = 0;
    for (room, (keyspace, key)) in known.iter_mut().zip(keys.filter(|(_, key)| key.len() <= KEY_BYTES_MAX)) {
        *room = Some((keyspace, keyspace.look_at_head(key)));
        count += 1;
    }
    // One by itself waits for everything anyway.
    if count > 1 {
        for step in [Keyspace::look_at_place, Keyspace::look_at_entry, Keyspace::look_at_end] {
            known.iter().flatten().for_each(|(keyspace, hash)| step(keyspace, *hash));
        }
    }
}
