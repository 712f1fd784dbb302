//! Looking ahead: what the next commands of an entry will look at is brought from memory all at once.
//!
//! ```text
//!   each by itself:  place [ wait ] row [ wait ] key [ wait ] | place [ wait ] row [ wait ] key [ wait ] | ...
//!   ahead:           places of all [ wait ] rows of all [ wait ] keys of all [ wait ] | each finds all of it at hand
//! ```
//!
//! A processor waits for many places in memory at a time, as long as it knows them: what one look-up reads depends on what it has
//! read, what several read does not.
//!
//! Always: nothing that is read here decides anything. Whoever looks it up later does all of it again.

use std::hint::black_box;

use super::Store;
use crate::buffer::{Buffer, Row};
use crate::command::{ArchivedChange, ArchivedCommand, ArchivedEnvelope};
use crate::record::CollectionId;
use crate::requests::Asked;
use crate::view::Collection;

/// So many commands at a time: what they look at is still at hand when it is their turn.
pub(super) const AHEAD: usize = 32;
/// Of fewer there is nothing to be gained.
const AHEAD_MIN: usize = 4;

impl Store {
    /// What envelopes will look at, at most [`AHEAD`] of them.
    pub(super) fn look_ahead(&self, envelopes: &[ArchivedEnvelope]) {
        if envelopes.len() < AHEAD_MIN {
            return;
        }
        let mut with_ids = 0;
        for envelope in envelopes {
            let origin = &envelope.origin;
            if !origin.request_id.is_empty() {
                with_ids += 1;
                self.requests.look_ahead(&Asked::new(&origin.principal, &origin.request_id));
            }
        }
        self.requests.look_at_leaving(with_ids);
        self.look_at_keys(envelopes.iter().filter_map(|envelope| match &envelope.command {
            ArchivedCommand::Write { changes, .. } => changes.first(),
            _ => None,
        }));
    }

    /// What changes of one write will look at, at most [`AHEAD`] of them.
    pub(super) fn look_ahead_in(&self, changes: &[ArchivedChange]) {
        if changes.len() >= AHEAD_MIN {
            self.look_at_keys(changes.iter());
        }
    }

    fn look_at_keys<'e>(&self, changes: impl Iterator<Item = &'e ArchivedChange>) {
        let mut seen = 0u64;
        let mut keys: [Option<(&Collection, &[u8])>; AHEAD] = [None; AHEAD];
        for (room, change) in keys.iter_mut().zip(changes) {
            let Some(place) = self.place(CollectionId(change.collection.to_native())) else { continue };
            let shared = &*self.collections[place].shared;
            *room = Some((shared, &change.key));
            for buffer in &shared.buffers {
                seen ^= buffer.look(&change.key);
            }
        }
        let mut places: [Option<(&Buffer, u32)>; AHEAD] = [None; AHEAD];
        for (room, (shared, key)) in places.iter_mut().zip(keys.iter().flatten()) {
            *room = shared.buffers.iter().find_map(|buffer| Some((&**buffer, buffer.guess(key)?)));
            if room.is_none() {
                for sealed in &shared.segments {
                    seen ^= sealed.segment.look(key);
                }
            }
        }
        let mut rows: [Option<&Row>; AHEAD] = [None; AHEAD];
        for (room, (buffer, number)) in rows.iter_mut().zip(places.iter().flatten()) {
            *room = buffer.row(*number);
            seen ^= room.map_or(0, |row| row.end().get() ^ row.hash as u64);
        }
        for row in rows.iter().flatten() {
            seen ^= row.key().first().map_or(0, |byte| u64::from(*byte));
        }
        black_box(seen);
    }
}
