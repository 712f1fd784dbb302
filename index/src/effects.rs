//! Effects: what an entry changed, key by key, in few bytes.
//!
//! ```text
//! an entry:   | index 8 | clock 8 | count 4 | length 4 | its effects, so many bytes |
//! an effect:  | fate and typed 1 | place 2 | collection 8 | key length 4 | key |
//! ```
//!
//! Effects are no part of the state: they are gathered while an entry is applied, where somebody wants them, and are the
//! same on every member that applied it. What a record holds is not among them: it is looked up where it lies, by the
//! position that wrote it.
//!
//! Always: effects are in the order in which they took effect, and the same entry has the same effects wherever it is
//! applied, so that an entry's index and the number of an effect in it name a change for good.

use crate::record::{CollectionId, Position};

/// One command may have very many effects; room for more than this is given back.
const FATES_BYTES_KEPT: usize = 1 << 20;
/// Beside the fate: the key is that of a typed value.
const TYPED: u8 = 0x80;

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Fate {
    /// It is there, and was not before.
    Made = 1,
    /// It is there, and whatever was there before is replaced.
    Replaced = 2,
    /// It was deleted.
    Deleted = 3,
    /// Its deadline has passed.
    Expired = 4,
    /// It had to make room.
    Evicted = 5,
    /// All typed values of the collection are gone. The key is empty.
    Cleared = 6,
    /// The collection is gone with all that was in it. The key is `namespace/name`.
    Dropped = 7,
}

impl Fate {
    fn from_u8(fate: u8) -> Option<Fate> {
        use Fate::{Cleared, Deleted, Dropped, Evicted, Expired, Made, Replaced};
        [Made, Replaced, Deleted, Expired, Evicted, Cleared, Dropped].into_iter().find(|known| *known as u8 == fate)
    }

    /// Whether the key is there now.
    pub fn is_there(self) -> bool {
        matches!(self, Fate::Made | Fate::Replaced)
    }
}

/// One change of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effect<'a> {
    /// The collection.
    pub collection: CollectionId,
    /// Of the command that changed it: the version that a record has which it wrote.
    pub position: Position,
    /// What became of the key.
    pub fate: Fate,
    /// Whether it is the key of a typed value, not of a record.
    pub typed: bool,
    /// The key.
    pub key: &'a [u8],
}

/// The effects of one entry, as they are gathered.
#[derive(Debug, Default)]
pub struct Effects {
    count: u32,
    bytes: Vec<u8>,
}

impl Effects {
    /// Without any.
    pub fn clear(&mut self) {
        self.count = 0;
        self.bytes.clear();
        // One entry may have had very many.
        self.bytes.shrink_to(FATES_BYTES_KEPT);
    }

    /// One more.
    pub fn push(&mut self, effect: Effect<'_>) {
        let Effect { collection, position, fate, typed, key } = effect;
        self.count += 1;
        self.bytes.push(fate as u8 | if typed { TYPED } else { 0 });
        self.bytes.extend_from_slice(&position.place().to_le_bytes());
        self.bytes.extend_from_slice(&collection.0.to_le_bytes());
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the entry at `index` with its effects to these bytes.
    pub fn encode(&self, index: u64, clock: u64, to: &mut Vec<u8>) {
        to.extend_from_slice(&index.to_le_bytes());
        to.extend_from_slice(&clock.to_le_bytes());
        to.extend_from_slice(&self.count.to_le_bytes());
        to.extend_from_slice(&(self.bytes.len() as u32).to_le_bytes());
        to.extend_from_slice(&self.bytes);
    }
}

/// An entry with its effects, read from bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryEffects<'a> {
    /// Its index.
    pub index: u64,
    /// Its clock: milliseconds since 1970.
    pub clock: u64,
    /// How many effects it has.
    pub count: u32,
    bytes: &'a [u8],
}

/// These bytes are no effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no effects")]
pub struct NoEffects;

impl<'a> EntryEffects<'a> {
    /// Takes the first entry off these bytes.
    pub fn take(bytes: &mut &'a [u8]) -> Result<EntryEffects<'a>, NoEffects> {
        let index = u64::from_le_bytes(array(bytes)?);
        let clock = u64::from_le_bytes(array(bytes)?);
        let count = u32::from_le_bytes(array(bytes)?);
        let length = u32::from_le_bytes(array(bytes)?);
        if index > Position::INDEX_MAX {
            return Err(NoEffects);
        }
        Ok(EntryEffects { index, clock, count, bytes: slice(bytes, length as usize)? })
    }

    /// Its effects, in order. They end early where the bytes are no effects.
    pub fn iter(&self) -> impl Iterator<Item = Effect<'a>> + use<'a> {
        let EntryEffects { index, mut bytes, .. } = *self;
        std::iter::from_fn(move || next(index, &mut bytes).ok())
    }

    /// Whether the bytes are as many effects as they say.
    pub fn is_whole(&self) -> bool {
        let mut bytes = self.bytes;
        let all = (0..self.count).all(|_| next(self.index, &mut bytes).is_ok());
        all && bytes.is_empty()
    }
}

fn next<'a>(index: u64, bytes: &mut &'a [u8]) -> Result<Effect<'a>, NoEffects> {
    let [fate] = array(bytes)?;
    let place = u16::from_le_bytes(array(bytes)?);
    let collection = CollectionId(u64::from_le_bytes(array(bytes)?));
    let length = u32::from_le_bytes(array(bytes)?);
    let key = slice(bytes, length as usize)?;
    let (fate, typed) = (Fate::from_u8(fate & !TYPED).ok_or(NoEffects)?, fate & TYPED != 0);
    let position = Position::new(index, usize::from(place));
    Ok(Effect { collection, position, fate, typed, key })
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NoEffects> {
    let (first, rest) = bytes.split_first_chunk().ok_or(NoEffects)?;
    *bytes = rest;
    Ok(*first)
}

fn slice<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], NoEffects> {
    let (first, rest) = bytes.split_at_checked(length).ok_or(NoEffects)?;
    *bytes = rest;
    Ok(first)
}

/// What became of keys of one collection, as they are gathered before it is known which collection and command it was.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    bytes: Vec<u8>,
}

impl Fates {
    /// One more.
    pub fn push(&mut self, fate: Fate, key: &[u8]) {
        self.bytes.push(fate as u8);
        self.bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(key);
    }

    /// How far it is filled, for [`Fates::truncate`].
    pub fn mark(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets those after the mark.
    pub fn truncate(&mut self, mark: usize) {
        self.bytes.truncate(mark);
    }

    /// Moves them to the effects of an entry.
    #[inline]
    pub fn drain(&mut self, position: Position, collection: CollectionId, to: &mut Effects) {
        if self.bytes.is_empty() {
            return;
        }
        let mut bytes = &self.bytes[..];
        while let (Ok([fate]), Ok(length)) = (array(&mut bytes), array(&mut bytes).map(u32::from_le_bytes)) {
            if let (Ok(key), Some(fate)) = (slice(&mut bytes, length as usize), Fate::from_u8(fate)) {
                to.push(Effect { collection, position, fate, typed: true, key });
            }
        }
        if self.bytes.capacity() > FATES_BYTES_KEPT {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EFFECTS: [(u16, u64, Fate, &[u8]); 4] = [
        (0, 7, Fate::Made, b"a"),
        (0, 7, Fate::Expired, b""),
        (3, u64::MAX, Fate::Dropped, b"n/c"),
        (65_535, 1, Fate::Replaced, &[0; 300]),
    ];

    fn encoded() -> Vec<u8> {
        let mut bytes = Vec::new();
        for index in [5, 9] {
            let mut effects = Effects::default();
            for (place, collection, fate, key) in EFFECTS {
                let (position, collection) = (Position::new(index, place.into()), CollectionId(collection));
                effects.push(Effect { collection, position, fate, typed: place > 0, key });
            }
            let before = bytes.len();
            effects.encode(index, 1_000 + index, &mut bytes);
            assert_eq!(bytes.len() - before, 24 + effects.bytes.len());
        }
        bytes
    }

    #[test]
    fn what_was_gathered_is_read() {
        let bytes = encoded();
        let mut rest = &bytes[..];
        for index in [5, 9] {
            let entry = EntryEffects::take(&mut rest).unwrap();
            assert_eq!((entry.index, entry.clock, entry.count), (index, 1_000 + index, 4));
            assert!(entry.is_whole());
            let read: Vec<_> =
                entry.iter().map(|e| (e.position.place(), e.collection.0, e.fate, e.key.to_vec())).collect();
            let expected: Vec<_> = EFFECTS.map(|(place, id, fate, key)| (place, id, fate, key.to_vec())).into();
            assert_eq!(read, expected);
            assert!(entry.iter().all(|effect| effect.position.index() == index));
            assert!(entry.iter().all(|effect| effect.typed == (effect.position.place() > 0)));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn damaged_bytes_are_never_a_panic() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            let mut rest = &bytes[..len];
            while let Ok(entry) = EntryEffects::take(&mut rest) {
                assert!(entry.is_whole() && entry.iter().count() == 4);
            }
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut rest = &damaged[..];
            while let Ok(entry) = EntryEffects::take(&mut rest) {
                let _ = (entry.is_whole(), entry.iter().count());
            }
        }
    }

    #[test]
    fn what_is_taken_back_is_forgotten() {
        let mut fates = Fates::default();
        fates.push(Fate::Made, b"kept");
        let mark = fates.mark();
        fates.push(Fate::Deleted, b"kept");
        fates.push(Fate::Made, b"other");
        fates.truncate(mark);
        let mut effects = Effects::default();
        fates.drain(Position::new(4, 2), CollectionId(8), &mut effects);
        let mut bytes = Vec::new();
        effects.encode(4, 0, &mut bytes);
        let entry = EntryEffects::take(&mut &bytes[..]).unwrap();
        let position = Position::new(4, 2);
        let effect = Effect { collection: CollectionId(8), position, fate: Fate::Made, typed: true, key: b"kept" };
        assert_eq!(entry.iter().collect::<Vec<_>>(), [effect]);
        assert_eq!(fates.mark(), 0);
    }
}
