//! Requests that were answered: a repeated one gets its first outcome.
//!
//! Kept for a day of the log's clock within a byte budget; the oldest leave first, and those that left early, for want
//! of room, are counted. The table is part of the store's state: it changes only with applied entries, alike on every
//! member, and it is in every checkpoint.
//!
//! Replies to commands on typed values may be as large as the whole budget. Of larger ones than a few MiB only that they were
//! is kept: a repetition is not carried out again, and is told so in place of each reply.
//!
//! ```text
//!   chunks of 256, shared with a checkpoint that is being written      open chunk
//!   [ ..leaving | 17 18 ... ][ ... ][ ... ]                            [ ... 1023 ]
//! ```

mod file;

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use rkyv::{Archive, Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::command::Outcome;
use crate::table::tape::{Items, Tape};

/// How long an outcome is kept, in milliseconds of the log's clock.
pub const REQUEST_AGE_MAX_MILLIS: u64 = 24 * 60 * 60 * 1000;
/// The most bytes that all kept outcomes take.
pub const REQUEST_BYTES_MAX: usize = 32 << 20;

/// Replies of more bytes are not kept.
pub const REPLIES_BYTES_MAX: usize = 4 << 20;
/// What a repetition gets in place of each reply that was not kept.
const REPLY_NOT_KEPT: &str =
    "DONE this was carried out before, and its replies were too large to be kept: read what it did";

const CHUNK: usize = 256;

/// A request that was answered.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct Answered {
    pub principal: String,
    pub request_id: Vec<u8>,
    /// Of the command.
    pub fingerprint: [u8; 16],
    /// The log's clock when it was applied.
    pub clock: u64,
    pub outcome: Outcome,
}

impl Answered {
    /// What is kept of an outcome.
    pub fn kept(outcome: &Outcome) -> Outcome {
        match outcome {
            Outcome::Executed(Some(replies)) if replies.len() > REPLIES_BYTES_MAX => {
                let (mut items, mut short) = (Items::new(replies), Tape::new());
                while items.whole().is_some() {
                    short.error(REPLY_NOT_KEPT);
                }
                Outcome::Executed(Some(short.into_bytes()))
            }
            outcome => outcome.clone(),
        }
    }

    /// From what is in it alone, so that every member counts the same.
    fn bytes(&self) -> usize {
        let outcome = match &self.outcome {
            Outcome::Written { existed, .. } => existed.len(),
            Outcome::Executed(replies) => replies.as_ref().map_or(0, Vec::len),
            Outcome::Refused(_) => 64,
            Outcome::Done | Outcome::Created { .. } | Outcome::Unchanged | Outcome::Removed(_) => 0,
        };
        160 + self.principal.len() + self.request_id.len() + outcome
    }
}

/// The answered requests, oldest first, to be found by principal and request id.
pub(crate) struct Requests {
    budget: usize,
    chunks: VecDeque<Arc<[Answered]>>,
    open: Vec<Answered>,
    /// The number of the first one in the first chunk; a multiple of the chunk size.
    base: u64,
    /// The number of the oldest one that has not left.
    first: u64,
    table: HashTable<u64>,
    bytes: usize,
    evicted: u64,
    /// Grows whenever what `picture` shows changes.
    changes: u64,
}

/// The table as it was, to be written on another thread.
pub(crate) struct RequestsPicture {
    chunks: Vec<Arc<[Answered]>>,
    open: Vec<Answered>,
    skip: usize,
}

impl Requests {
    pub fn new(budget: usize) -> Requests {
        Requests {
            budget,
            chunks: VecDeque::new(),
            open: Vec::new(),
            base: 0,
            first: 0,
            table: HashTable::new(),
            bytes: 0,
            evicted: 0,
            changes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many left for want of room.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    pub fn set_evicted(&mut self, evicted: u64) {
        self.evicted = evicted;
    }

    pub fn changes(&self) -> u64 {
        self.changes
    }

    fn next(&self) -> u64 {
        self.base + (self.chunks.len() * CHUNK + self.open.len()) as u64
    }

    fn at(&self, number: u64) -> Option<&Answered> {
        let offset = usize::try_from(number.checked_sub(self.base)?).ok()?;
        match self.chunks.get(offset / CHUNK) {
            Some(chunk) => chunk.get(offset % CHUNK),
            None => self.open.get(offset - self.chunks.len() * CHUNK),
        }
    }

    /// What was answered to that request.
    pub fn find(&self, principal: &str, request_id: &[u8]) -> Option<&Answered> {
        let is_it =
            |number: &u64| self.at(*number).is_some_and(|a| a.principal == principal && a.request_id == request_id);
        self.at(*self.table.find(hash(principal, request_id), is_it)?)
    }

    /// Whether a request that was answered at this clock or later may have left for want of room.
    pub fn may_have_left(&self, clock: u64) -> bool {
        self.evicted > 0 && self.at(self.first).is_none_or(|oldest| oldest.clock >= clock)
    }

    /// Keeps an outcome. The caller has looked: this request is not in the table.
    pub fn remember(&mut self, answered: Answered) {
        let number = self.next();
        self.bytes += answered.bytes();
        self.changes += 1;
        let hashed = hash(&answered.principal, &answered.request_id);
        self.open.push(answered);
        if self.open.len() == CHUNK {
            self.chunks.push_back(std::mem::take(&mut self.open).into());
        }
        // The table asks for hashes only while it grows; it is borrowed then, so the parts are named one by one.
        let Requests { table, chunks, open, base, .. } = self;
        let hash_of = |number: &u64| {
            let offset = (*number - *base) as usize;
            let answered = match chunks.get(offset / CHUNK) {
                Some(chunk) => &chunk[offset % CHUNK],
                None => &open[offset - chunks.len() * CHUNK],
            };
            hash(&answered.principal, &answered.request_id)
        };
        table.insert_unique(hashed, number, hash_of);
        while self.bytes > self.budget && self.first < self.next() {
            self.leave();
            self.evicted += 1;
        }
    }

    /// Lets go of what has been kept long enough at this clock.
    pub fn expire(&mut self, clock: u64) {
        while self.at(self.first).is_some_and(|oldest| oldest.clock.saturating_add(REQUEST_AGE_MAX_MILLIS) <= clock) {
            self.leave();
        }
    }

    /// The oldest leaves.
    fn leave(&mut self) {
        let first = self.first;
        let Some(oldest) = self.at(first) else { return };
        let (bytes, hashed) = (oldest.bytes(), hash(&oldest.principal, &oldest.request_id));
        if let Ok(entry) = self.table.find_entry(hashed, |&number| number == first) {
            entry.remove();
        }
        self.bytes -= bytes;
        self.changes += 1;
        self.first += 1;
        if self.first - self.base >= CHUNK as u64 && self.chunks.pop_front().is_some() {
            self.base += CHUNK as u64;
        }
    }

    pub fn picture(&self) -> RequestsPicture {
        RequestsPicture {
            chunks: self.chunks.iter().map(Arc::clone).collect(),
            open: self.open.clone(),
            skip: (self.first - self.base) as usize,
        }
    }
}

fn hash(principal: &str, request_id: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&(principal.len() as u64).to_le_bytes());
    hasher.update(principal.as_bytes());
    hasher.update(request_id);
    hasher.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Found, Refusal};
    use crate::framed::tests::check_damage;
    use crate::table::tape::Item;

    fn answered(number: u64) -> Answered {
        Answered {
            principal: format!("p{}", number % 3),
            request_id: number.to_le_bytes().to_vec(),
            fingerprint: [number as u8; 16],
            clock: number,
            outcome: Outcome::Written { version: number, existed: vec![true] },
        }
    }

    fn found(requests: &Requests, number: u64) -> bool {
        let Answered { principal, request_id, .. } = answered(number);
        let found = requests.find(&principal, &request_id);
        assert!(found.is_none_or(|found| *found == answered(number)));
        found.is_some()
    }

    #[test]
    fn the_oldest_leave_when_there_is_no_room() {
        let each = answered(0).bytes();
        let mut requests = Requests::new(each * 1_000);
        for number in 0..3_000 {
            requests.remember(answered(number));
        }
        assert_eq!((requests.len(), requests.evicted(), requests.bytes()), (1_000, 2_000, each * 1_000));
        for number in 0..3_000 {
            assert_eq!(found(&requests, number), number >= 2_000, "{number}");
            // The clock of each is its number.
            assert_eq!(requests.may_have_left(number), number <= 2_000, "{number}");
        }
        let mut roomy = Requests::new(each * 1_000);
        assert!(!roomy.may_have_left(0));
        roomy.remember(answered(7));
        assert!(!roomy.may_have_left(7));
    }

    #[test]
    fn each_leaves_a_day_later_and_that_is_not_counted() {
        let mut requests = Requests::new(usize::MAX);
        for number in 0..1_000 {
            requests.remember(answered(number));
        }
        requests.expire(REQUEST_AGE_MAX_MILLIS + 299);
        assert_eq!((requests.len(), requests.evicted()), (700, 0));
        assert!(!found(&requests, 299) && found(&requests, 300));
        requests.expire(u64::MAX);
        assert_eq!((requests.len(), requests.bytes()), (0, 0));
        requests.remember(answered(5));
        assert!(found(&requests, 5));
    }

    #[test]
    fn the_file_brings_the_table_back() {
        let each = answered(0).bytes();
        let mut requests = Requests::new(each * 900);
        for number in 0..2_000 {
            requests.remember(answered(number));
        }
        let file = requests.picture().encode();
        let mut back = Requests::decode(&file, each * 900, requests.evicted()).unwrap();
        for requests in [&mut requests, &mut back] {
            requests.remember(answered(2_000));
            assert_eq!((requests.len(), requests.evicted(), requests.bytes()), (900, 1_101, each * 900));
            assert!(!found(requests, 1_100) && found(requests, 1_101));
        }
        assert_eq!(back.picture().encode(), requests.picture().encode());
    }

    /// One of each kind of outcome that there was.
    fn of_every_kind() -> Requests {
        let mut requests = Requests::new(usize::MAX);
        requests.remember(answered(7));
        for (number, outcome) in (8..).zip([
            Outcome::Done,
            Outcome::Created { collection: 3 },
            Outcome::Refused(Refusal::UnknownNamespace("n".into())),
            Outcome::Refused(Refusal::ConditionFailed { number: 1, key: b"k".into(), found: Found::Version(9) }),
            Outcome::Refused(Refusal::WrongEmbedding { change: 1, collection: 2, field: 3, dimension: 4 }),
            Outcome::Refused(Refusal::TooMany(5)),
        ]) {
            requests.remember(Answered { outcome, ..answered(number) });
        }
        requests
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let hex = hex.trim();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn version_1_is_read_as_ever() {
        let file = bytes_of(include_str!("../golden/requests-1.hex"));
        let requests = Requests::decode(&file, usize::MAX, 0).unwrap();
        assert_eq!(requests.picture().encode(), of_every_kind().picture().encode());
        check_damage(&file, |bytes| Requests::decode(bytes, usize::MAX, 0));
    }

    #[test]
    fn version_2_never_changes() {
        let mut requests = of_every_kind();
        for (number, outcome) in (14..).zip([
            Outcome::Written { version: 1 << 40, existed: vec![false] },
            Outcome::Written { version: 1 << 40, existed: vec![true] },
            Outcome::Written { version: 3, existed: vec![] },
            Outcome::Written { version: 3, existed: vec![true, false] },
            Outcome::Executed(None),
            Outcome::Executed(Some(b"tape".into())),
            Outcome::Removed(3),
        ]) {
            requests.remember(Answered { outcome, ..answered(number) });
        }
        let file = requests.picture().encode();
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../golden/requests-2.hex").trim());
        let back = Requests::decode(&file, usize::MAX, 0).unwrap();
        let all = |requests: &Requests| (0..requests.next()).map(|at| requests.at(at).cloned()).collect::<Vec<_>>();
        assert_eq!(all(&back), all(&requests));
    }

    #[test]
    fn of_large_replies_only_that_they_were_is_kept() {
        let executed = |each: usize| {
            let mut tape = Tape::new();
            for _ in 0..3 {
                tape.array(2);
                tape.int(1);
                tape.bulk(&vec![0; each]);
            }
            Outcome::Executed(Some(tape.into_bytes()))
        };
        let small = executed(REPLIES_BYTES_MAX / 3 - 100);
        assert_eq!(Answered::kept(&small), small);
        let Outcome::Executed(Some(kept)) = Answered::kept(&executed(REPLIES_BYTES_MAX / 3)) else { panic!() };
        let items: Vec<_> = Items::new(&kept).collect();
        assert_eq!(items, [Item::Error(REPLY_NOT_KEPT.as_bytes()); 3]);
        // So others have room beside each.
        assert!(REPLIES_BYTES_MAX * 8 <= REQUEST_BYTES_MAX && kept.len() < 1_000);
    }

    #[test]
    fn damage_to_the_file_is_noticed() {
        let mut requests = Requests::new(usize::MAX);
        (0..3).for_each(|number| requests.remember(answered(number)));
        check_damage(&requests.picture().encode(), |bytes| Requests::decode(bytes, usize::MAX, 0));
    }
}
