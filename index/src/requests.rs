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
//!
//!   chunk:  | 17: hash, fingerprint, clock, version, where its names are | 18: ... |      of one length
//!           | principal id principal id ...                                       |      their names
//!           | outcomes that are more than a version                               |      few
//! ```
//!
//! There are very many, and as many leave as come: so they lie side by side, and none has memory of its own.

mod file;

use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;

use hashbrown::HashTable;
use rkyv::{Archive, Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::command::{Outcome, Refusal};
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
/// Principals and ids of a chunk take far less; room for more is not kept.
const NAMES_BYTES_KEPT: usize = 32 << 10;

/// A request that was answered, as files of version 1 hold it.
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
    fn kept(outcome: &Outcome) -> Outcome {
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
}

/// A request, to be looked for.
pub(crate) struct Asked<'a> {
    principal: &'a str,
    request_id: &'a [u8],
    hash: u32,
}

impl<'a> Asked<'a> {
    pub fn new(principal: &'a str, request_id: &'a [u8]) -> Asked<'a> {
        let hash = xxh3_64_with_seed(request_id, xxh3_64(principal.as_bytes())) as u32;
        Asked { principal, request_id, hash }
    }
}

/// One of a chunk.
#[derive(Clone, Copy)]
struct Kept {
    fingerprint: [u8; 16],
    clock: u64,
    /// The version that was written, or the outcome's place among the chunk's.
    outcome: u64,
    /// Of principal and id.
    hash: u32,
    /// Where its names begin.
    names: u32,
    principal_bytes: u32,
    id_bytes: u32,
    kind: OutcomeKind,
}

#[derive(Clone, Copy, PartialEq)]
enum OutcomeKind {
    /// One change was written, to a new record.
    Created,
    /// The same, to one that was there.
    Replaced,
    Other,
}

/// Requests that were answered one after the other.
#[derive(Clone, Default)]
struct Chunk {
    kept: Vec<Kept>,
    /// The principal of each and its id.
    names: Vec<u8>,
    others: Vec<Outcome>,
}

impl Chunk {
    fn get(&self, place: usize) -> Option<Answer<'_>> {
        Some(Answer { kept: self.kept.get(place)?, chunk: self })
    }

    /// Without any, but with the room that it had; far too much of that is given back.
    fn cleared(mut self) -> Chunk {
        self.kept.clear();
        self.names.clear();
        self.names.shrink_to(NAMES_BYTES_KEPT);
        Chunk { others: Vec::new(), ..self }
    }
}

/// A request that was answered, where it is kept.
#[derive(Clone, Copy)]
pub(crate) struct Answer<'a> {
    kept: &'a Kept,
    chunk: &'a Chunk,
}

impl<'a> Answer<'a> {
    fn principal(&self) -> &'a [u8] {
        &self.chunk.names[self.kept.names as usize..][..self.kept.principal_bytes as usize]
    }

    fn request_id(&self) -> &'a [u8] {
        let Kept { names, principal_bytes, id_bytes, .. } = *self.kept;
        &self.chunk.names[names as usize + principal_bytes as usize..][..id_bytes as usize]
    }

    /// Of the command.
    pub fn fingerprint(&self) -> [u8; 16] {
        self.kept.fingerprint
    }

    /// The outcome, if it is more than a version.
    fn other(&self) -> Option<&'a Outcome> {
        let place = (self.kept.kind == OutcomeKind::Other).then_some(self.kept.outcome)?;
        Some(&self.chunk.others[place as usize])
    }

    /// What became of it.
    pub fn outcome(&self) -> Outcome {
        let existed = vec![self.kept.kind == OutcomeKind::Replaced];
        self.other().map_or(Outcome::Written { version: self.kept.outcome, existed }, Outcome::clone)
    }

    /// What whoever asks again hears, with a command of this fingerprint.
    pub fn repeated(&self, fingerprint: [u8; 16]) -> Outcome {
        if self.fingerprint() == fingerprint { self.outcome() } else { Outcome::Refused(Refusal::RequestConflict) }
    }

    fn is(&self, asked: &Asked<'_>) -> bool {
        self.request_id() == asked.request_id && self.principal() == asked.principal.as_bytes()
    }

    /// From what is in it alone, so that every member counts the same.
    fn bytes(&self) -> usize {
        let outcome = match self.other() {
            None => 1,
            Some(Outcome::Written { existed, .. }) => existed.len(),
            Some(Outcome::Executed(replies)) => replies.as_ref().map_or(0, Vec::len),
            Some(Outcome::Refused(_)) => 64,
            Some(Outcome::Done | Outcome::Created { .. } | Outcome::Unchanged | Outcome::Removed(_)) => 0,
        };
        160 + self.principal().len() + self.request_id().len() + outcome
    }
}

/// The answered requests, oldest first, to be found by principal and request id.
pub(crate) struct Requests {
    budget: usize,
    chunks: VecDeque<Arc<Chunk>>,
    open: Chunk,
    /// One that left; its room is for the next.
    spare: Chunk,
    /// The number of the first one in the first chunk; a multiple of the chunk size.
    base: u64,
    /// The number of the oldest one that has not left.
    first: u64,
    /// The hash of each in the upper half, the lower half of its number in the lower: see [`held`].
    table: HashTable<u64>,
    bytes: usize,
    evicted: u64,
    /// Grows whenever what `picture` shows changes.
    changes: u64,
}

/// The table as it was, to be written on another thread.
pub(crate) struct RequestsPicture {
    chunks: Vec<Arc<Chunk>>,
    open: Chunk,
    skip: usize,
}

impl Requests {
    pub fn new(budget: usize) -> Requests {
        Requests {
            budget,
            chunks: VecDeque::new(),
            open: Chunk::default(),
            spare: Chunk::default(),
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
        self.base + (self.chunks.len() * CHUNK + self.open.kept.len()) as u64
    }

    fn at(&self, number: u64) -> Option<Answer<'_>> {
        let offset = usize::try_from(number.checked_sub(self.base)?).ok()?;
        match self.chunks.get(offset / CHUNK) {
            Some(chunk) => chunk.get(offset % CHUNK),
            None => self.open.get(offset - self.chunks.len() * CHUNK),
        }
    }

    /// What was answered to that request.
    pub fn find(&self, asked: &Asked<'_>) -> Option<Answer<'_>> {
        let of = |held: u64| {
            // Those that are kept are far fewer than half a number can tell apart.
            let after_base = (held as u32).wrapping_sub(self.base as u32);
            self.at(self.base + u64::from(after_base))
        };
        let is_it = |&held: &u64| (held >> 32) as u32 == asked.hash && of(held).is_some_and(|answer| answer.is(asked));
        of(*self.table.find(spread(asked.hash), is_it)?)
    }

    /// Brings near what [`Requests::find`] and [`Requests::remember`] look at.
    pub fn look_ahead(&self, asked: &Asked<'_>) {
        black_box(self.table.find(spread(asked.hash), |_| false));
    }

    /// The same of those that leave when so many more are remembered.
    pub fn look_at_leaving(&self, more: usize) {
        if self.bytes < self.budget / 2 {
            return;
        }
        for number in (self.first..self.next()).take(more) {
            let Some(oldest) = self.at(number) else { return };
            let hash = oldest.kept.hash;
            black_box(self.table.find(spread(hash), |&one| one == held(hash, number)));
        }
    }

    /// Whether a request that was answered at this clock or later may have left for want of room.
    pub fn may_have_left(&self, clock: u64) -> bool {
        self.evicted > 0 && self.at(self.first).is_none_or(|oldest| oldest.kept.clock >= clock)
    }

    /// Keeps an outcome. The caller has looked: this request is not in the table.
    pub fn remember(&mut self, asked: &Asked<'_>, fingerprint: [u8; 16], clock: u64, outcome: &Outcome) {
        let number = self.next();
        let open = &mut self.open;
        let (kind, outcome) = match outcome {
            Outcome::Written { version, existed } if existed.len() == 1 => {
                (if existed[0] { OutcomeKind::Replaced } else { OutcomeKind::Created }, *version)
            }
            outcome => {
                open.others.push(Answered::kept(outcome));
                (OutcomeKind::Other, open.others.len() as u64 - 1)
            }
        };
        // Principals and ids are bounded far below that.
        let length = |bytes: &[u8]| bytes.len() as u32;
        open.kept.push(Kept {
            fingerprint,
            clock,
            outcome,
            hash: asked.hash,
            names: length(&open.names),
            principal_bytes: length(asked.principal.as_bytes()),
            id_bytes: length(asked.request_id),
            kind,
        });
        open.names.extend_from_slice(asked.principal.as_bytes());
        open.names.extend_from_slice(asked.request_id);
        self.bytes += open.get(open.kept.len() - 1).map_or(0, |answer| answer.bytes());
        self.changes += 1;
        if open.kept.len() == CHUNK {
            let full = std::mem::replace(open, std::mem::take(&mut self.spare));
            self.chunks.push_back(Arc::new(full));
        }
        let hash_of = |held: &u64| spread((held >> 32) as u32);
        self.table.insert_unique(spread(asked.hash), held(asked.hash, number), hash_of);
        while self.bytes > self.budget && self.first < self.next() {
            self.leave();
            self.evicted += 1;
        }
    }

    /// Lets go of what has been kept long enough at this clock.
    pub fn expire(&mut self, clock: u64) {
        let is_old = |oldest: Answer<'_>| oldest.kept.clock.saturating_add(REQUEST_AGE_MAX_MILLIS) <= clock;
        while self.at(self.first).is_some_and(is_old) {
            self.leave();
        }
    }

    /// The oldest leaves.
    fn leave(&mut self) {
        let first = self.first;
        let Some(oldest) = self.at(first) else { return };
        let (bytes, hash) = (oldest.bytes(), oldest.kept.hash);
        let gone = held(hash, first);
        if let Ok(entry) = self.table.find_entry(spread(hash), |&held| held == gone) {
            entry.remove();
        }
        self.bytes -= bytes;
        self.changes += 1;
        self.first += 1;
        if self.first - self.base >= CHUNK as u64
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.base += CHUNK as u64;
            // A checkpoint may have it still.
            self.spare = Arc::into_inner(chunk).map_or_else(Chunk::default, Chunk::cleared);
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

/// What the table holds of a request: enough to tell it from most others, and to move it about, without a look at it.
fn held(hash: u32, number: u64) -> u64 {
    u64::from(hash) << 32 | u64::from(number as u32)
}

/// A hash as the table wants it: the upper bits matter as much as the lower.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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

    fn remember(requests: &mut Requests, answered: Answered) {
        let Answered { principal, request_id, fingerprint, clock, outcome } = answered;
        requests.remember(&Asked::new(&principal, &request_id), fingerprint, clock, &outcome);
    }

    fn owned(answer: Answer<'_>) -> Answered {
        Answered {
            principal: String::from_utf8(answer.principal().to_vec()).unwrap(),
            request_id: answer.request_id().to_vec(),
            fingerprint: answer.fingerprint(),
            clock: answer.kept.clock,
            outcome: answer.outcome(),
        }
    }

    fn found(requests: &Requests, number: u64) -> bool {
        let Answered { principal, request_id, .. } = answered(number);
        let found = requests.find(&Asked::new(&principal, &request_id)).map(owned);
        assert!(found.as_ref().is_none_or(|found| *found == answered(number)));
        found.is_some()
    }

    #[test]
    fn the_oldest_leave_when_there_is_no_room() {
        let each = counted_bytes(&answered(0));
        let mut requests = Requests::new(each * 1_000);
        for number in 0..3_000 {
            remember(&mut requests, answered(number));
        }
        assert_eq!((requests.len(), requests.evicted(), requests.bytes()), (1_000, 2_000, each * 1_000));
        for number in 0..3_000 {
            assert_eq!(found(&requests, number), number >= 2_000, "{number}");
            // The clock of each is its number.
            assert_eq!(requests.may_have_left(number), number <= 2_000, "{number}");
        }
        let mut roomy = Requests::new(each * 1_000);
        assert!(!roomy.may_have_left(0));
        remember(&mut roomy, answered(7));
        assert!(!roomy.may_have_left(7));
    }

    /// Names of any length, outcomes of each kind, and little room: against a list of what came, in order.
    #[test]
    fn the_table_is_what_a_plain_list_would_be() {
        for seed in 1..=20u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = move |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let budget = [2_000, 60_000, 400_000][seed as usize % 3];
            let (mut requests, mut list, mut evicted) = (Requests::new(budget), VecDeque::new(), 0);
            let (mut clock, mut pictures) = (0, VecDeque::new());
            for turn in 0..4_000u64 {
                clock += random(3) * [1, 100_000][random(2) as usize];
                let asked = Answered {
                    principal: "p".repeat(random(4) as usize * 20),
                    request_id: (0..random(40)).map(|_| random(2) as u8).collect(),
                    fingerprint: [turn as u8; 16],
                    clock,
                    outcome: match random(8) {
                        0 => Outcome::Done,
                        1 => Outcome::Executed(Some(vec![7; random(300) as usize])),
                        2 => Outcome::Refused(Refusal::UnknownCollection(turn)),
                        3 => Outcome::Written { version: turn, existed: vec![true; random(3) as usize] },
                        _ => Outcome::Written { version: turn, existed: vec![random(2) == 0] },
                    },
                };
                requests.expire(clock);
                let is_old = |one: &Answered| one.clock + REQUEST_AGE_MAX_MILLIS <= clock;
                while list.pop_front_if(|one| is_old(one)).is_some() {}
                let is_it = |one: &&Answered| one.principal == asked.principal && one.request_id == asked.request_id;
                let known = list.iter().find(is_it);
                let found = requests.find(&Asked::new(&asked.principal, &asked.request_id)).map(owned);
                assert_eq!(found.as_ref(), known, "seed {seed}, turn {turn}");
                if known.is_none() {
                    remember(&mut requests, asked.clone());
                    list.push_back(asked);
                    let bytes = |list: &VecDeque<Answered>| list.iter().map(counted_bytes).sum::<usize>();
                    while bytes(&list) > budget {
                        list.pop_front();
                        evicted += 1;
                    }
                    assert_eq!((requests.len(), requests.bytes()), (list.len(), bytes(&list)), "seed {seed}");
                    assert_eq!(requests.evicted(), evicted, "seed {seed}, turn {turn}");
                }
                // A picture stands still, whatever comes and goes; some are held for long.
                if random(300) == 0 {
                    pictures.push_back((requests.picture(), requests.picture().encode()));
                }
                if random(500) == 0 {
                    pictures.pop_front();
                }
            }
            for (picture, file) in pictures {
                assert_eq!(picture.encode(), file, "seed {seed}");
            }
            let back = Requests::decode(&requests.picture().encode(), budget, evicted).unwrap();
            for (number, one) in (back.first..).zip(&list) {
                assert_eq!(back.at(number).map(owned).as_ref(), Some(one), "seed {seed}");
            }
            assert_eq!((back.len(), back.bytes()), (list.len(), requests.bytes()), "seed {seed}");
        }
    }

    fn counted_bytes(answered: &Answered) -> usize {
        let outcome = match &answered.outcome {
            Outcome::Written { existed, .. } => existed.len(),
            Outcome::Executed(Some(replies)) => replies.len(),
            Outcome::Refused(_) => 64,
            _ => 0,
        };
        160 + answered.principal.len() + answered.request_id.len() + outcome
    }

    #[test]
    fn each_leaves_a_day_later_and_that_is_not_counted() {
        let mut requests = Requests::new(usize::MAX);
        for number in 0..1_000 {
            remember(&mut requests, answered(number));
        }
        requests.expire(REQUEST_AGE_MAX_MILLIS + 299);
        assert_eq!((requests.len(), requests.evicted()), (700, 0));
        assert!(!found(&requests, 299) && found(&requests, 300));
        requests.expire(u64::MAX);
        assert_eq!((requests.len(), requests.bytes()), (0, 0));
        remember(&mut requests, answered(5));
        assert!(found(&requests, 5));
    }

    #[test]
    fn the_file_brings_the_table_back() {
        let each = counted_bytes(&answered(0));
        let mut requests = Requests::new(each * 900);
        for number in 0..2_000 {
            remember(&mut requests, answered(number));
        }
        let file = requests.picture().encode();
        let mut back = Requests::decode(&file, each * 900, requests.evicted()).unwrap();
        for requests in [&mut requests, &mut back] {
            remember(requests, answered(2_000));
            assert_eq!((requests.len(), requests.evicted(), requests.bytes()), (900, 1_101, each * 900));
            assert!(!found(requests, 1_100) && found(requests, 1_101));
        }
        assert_eq!(back.picture().encode(), requests.picture().encode());
    }

    /// One of each kind of outcome that there was.
    fn of_every_kind() -> Requests {
        let mut requests = Requests::new(usize::MAX);
        remember(&mut requests, answered(7));
        for (number, outcome) in (8..).zip([
            Outcome::Done,
            Outcome::Created { collection: 3 },
            Outcome::Refused(Refusal::UnknownNamespace("n".into())),
            Outcome::Refused(Refusal::ConditionFailed { number: 1, key: b"k".into(), found: Found::Version(9) }),
            Outcome::Refused(Refusal::WrongEmbedding { change: 1, collection: 2, field: 3, dimension: 4 }),
            Outcome::Refused(Refusal::TooMany(5)),
        ]) {
            remember(&mut requests, Answered { outcome, ..answered(number) });
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
            remember(&mut requests, Answered { outcome, ..answered(number) });
        }
        let file = requests.picture().encode();
        let hex: String = file.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../golden/requests-2.hex").trim());
        let back = Requests::decode(&file, usize::MAX, 0).unwrap();
        let all = |requests: &Requests| (0..requests.next()).map(|at| requests.at(at).map(owned)).collect::<Vec<_>>();
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
        (0..3).for_each(|number| remember(&mut requests, answered(number)));
        check_damage(&requests.picture().encode(), |bytes| Requests::decode(bytes, usize::MAX, 0));
    }
}
