//! Effects: what an entry changed, key by key, in few bytes.
//!
//! ```text
//! an entry:   | index | clock | count | length | its effects, so many bytes |                       numbers as varints
//! an effect:  | what 1 | place 2, if it is far | collection, if it is another | key length | key |
//!               '-- fate, 3 bits | typed | another collection | place: the same, the next or far, 2
//! ```
//!
//! Varints have seven bits a byte, the lowest first. Most effects of an entry are in the collection of the one before and at the
//! next place, so that they take two bytes and their key.
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
const FATE: u8 = 7;
/// Beside the fate: the key is that of a typed value.
const TYPED: u8 = 1 << 3;
/// It is in another collection than the one before.
const ELSEWHERE: u8 = 1 << 4;
/// It is at the next place, or at one that is told; else where the one before is.
const NEXT: u8 = 1 << 5;
const FAR: u8 = 1 << 6;

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
    /// The one with this number.
    pub fn from_u8(fate: u8) -> Option<Fate> {
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

/// Where an effect is; the next one tells what is different. The first comes after none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Before {
    collection: u64,
    place: u16,
}

/// The effects of one entry, as they are gathered.
#[derive(Debug, Default)]
pub struct Effects {
    count: u32,
    bytes: Vec<u8>,
    last: Before,
}

impl Effects {
    /// Without any.
    pub fn clear(&mut self) {
        (self.count, self.last) = (0, Before::default());
        self.bytes.clear();
        // One entry may have had very many.
        self.bytes.shrink_to(FATES_BYTES_KEPT);
    }

    /// One more.
    pub fn push(&mut self, effect: Effect<'_>) {
        let Effect { collection, position, fate, typed, key } = effect;
        self.count += 1;
        let before = std::mem::replace(&mut self.last, Before { collection: collection.0, place: position.place() });
        let step = match position.place().checked_sub(before.place) {
            Some(0) => 0,
            Some(1) => NEXT,
            _ => FAR,
        };
        let elsewhere = if collection.0 == before.collection { 0 } else { ELSEWHERE };
        self.bytes.push(fate as u8 | if typed { TYPED } else { 0 } | elsewhere | step);
        if step == FAR {
            self.bytes.extend_from_slice(&position.place().to_le_bytes());
        }
        if elsewhere != 0 {
            put_varint(collection.0, &mut self.bytes);
        }
        put_varint(key.len() as u64, &mut self.bytes);
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
        for number in [index, clock, u64::from(self.count), self.bytes.len() as u64] {
            put_varint(number, to);
        }
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
        let (index, clock) = (take_varint(bytes)?, take_varint(bytes)?);
        let count = u32::try_from(take_varint(bytes)?).map_err(|_| NoEffects)?;
        let length = usize::try_from(take_varint(bytes)?).map_err(|_| NoEffects)?;
        if index > Position::INDEX_MAX {
            return Err(NoEffects);
        }
        Ok(EntryEffects { index, clock, count, bytes: slice(bytes, length)? })
    }

    /// Its effects, in order. They end early where the bytes are no effects.
    pub fn iter(&self) -> impl Iterator<Item = Effect<'a>> + use<'a> {
        let (EntryEffects { index, mut bytes, .. }, mut before) = (*self, Before::default());
        std::iter::from_fn(move || next(index, &mut before, &mut bytes).ok())
    }

    /// Whether the bytes are as many effects as they say.
    pub fn is_whole(&self) -> bool {
        let (mut bytes, mut before) = (self.bytes, Before::default());
        let all = (0..self.count).all(|_| next(self.index, &mut before, &mut bytes).is_ok());
        all && bytes.is_empty()
    }
}

/// The effect after that one.
fn next<'a>(index: u64, before: &mut Before, bytes: &mut &'a [u8]) -> Result<Effect<'a>, NoEffects> {
    let [what] = array(bytes)?;
    let (fate, typed) = (Fate::from_u8(what & FATE).ok_or(NoEffects)?, what & TYPED != 0);
    before.place = match what & (NEXT | FAR) {
        0 => before.place,
        NEXT => before.place.checked_add(1).ok_or(NoEffects)?,
        FAR => u16::from_le_bytes(array(bytes)?),
        _ => return Err(NoEffects),
    };
    if what & ELSEWHERE != 0 {
        before.collection = take_varint(bytes)?;
    }
    let length = usize::try_from(take_varint(bytes)?).map_err(|_| NoEffects)?;
    let (key, position) = (slice(bytes, length)?, Position::new(index, usize::from(before.place)));
    Ok(Effect { collection: CollectionId(before.collection), position, fate, typed, key })
}

fn put_varint(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, NoEffects> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let [byte] = array(bytes)?;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            break;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(NoEffects)
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

    const EFFECTS: [(u16, u64, Fate, &[u8]); 6] = [
        (0, 7, Fate::Made, b"a"),
        (0, 7, Fate::Expired, b""),
        (1, 7, Fate::Deleted, b"b"),
        (3, u64::MAX, Fate::Dropped, b"n/c"),
        (2, u64::MAX, Fate::Made, b"n/d"),
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
            effects.encode(index, 1_000 + index, &mut bytes);
            assert_eq!(effects.bytes.len(), 4 + 2 + 3 + 17 + 7 + 306);
        }
        bytes
    }

    #[test]
    fn what_was_gathered_is_read() {
        let bytes = encoded();
        let mut rest = &bytes[..];
        for index in [5, 9] {
            let entry = EntryEffects::take(&mut rest).unwrap();
            assert_eq!((entry.index, entry.clock, entry.count), (index, 1_000 + index, 6));
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
    fn numbers_are_what_they_were_or_none() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(number, &mut bytes);
            for len in 0..bytes.len() {
                assert_eq!(take_varint(&mut &bytes[..len]), Err(NoEffects));
            }
            let mut rest = &bytes[..];
            assert_eq!((take_varint(&mut rest), rest.len()), (Ok(number), 0));
        }
        assert_eq!(take_varint(&mut &[0xff; 20][..]), Err(NoEffects));
        let larger = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 2];
        assert_eq!(take_varint(&mut &larger[..]), Err(NoEffects));
    }

    #[test]
    fn damaged_bytes_are_never_a_panic() {
        let bytes = encoded();
        for len in 0..bytes.len() {
            let mut rest = &bytes[..len];
            while let Ok(entry) = EntryEffects::take(&mut rest) {
                assert!(entry.is_whole() && entry.iter().count() == 6);
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
