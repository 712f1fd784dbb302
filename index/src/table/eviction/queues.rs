//! The queues of S3-FIFO, on each group of stripes.
//!
//! ```text
//!            new key                      used meanwhile                 used again: once more round
//!   insert ----------> probation --------------------------> main <----------.
//!      |                   | not used                          |-------------'
//!      |                   v                                   v not used
//!      |                 evicted, a ghost for a while        evicted, a ghost for a while
//!      '- a ghost -> main
//! ```
//!
//! This is S3-FIFO (Yang et al., SOSP 2023), and two things besides. How large the part on probation is depends on which ghosts
//! come back, as in ARC (Megiddo and Modha, FAST 2003): those that left probation too early make it larger. And there is a
//! second way, for requests that go round more keys than fit, where whatever is let in goes before it is asked for again. There
//! probation is short, and who leaves it takes a place in main only from one that was used less; what was remembered of its use
//! counts. That is what TinyLFU does (Einziger et al., 2017), with two bits of use on the entry in place of a sketch. Which of
//! the two ways is taken is a [`Duel`].
//!
//! A key in a queue is four bytes: as much of its hash as finds it. Ghosts are two bytes for each key.

use std::collections::VecDeque;

use super::duel::{Duel, GROUPS, fullest, group_of, inverse_part};
use super::ghosts::{Ghost, Ghosts, USED_MAX};
use crate::table::allocated;
use crate::table::keyspace::{STRIPE_SHIFT, STRIPES, stripe_of};

/// A key in a queue: the part of its hash that tells the stripe, and most of what tells where in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::table) struct Token(u32);

const STRIPE_BITS: u32 = STRIPES.ilog2();

impl Token {
    /// Of a hash, the bits from this one on.
    pub const SHIFT: u32 = STRIPE_SHIFT + STRIPE_BITS - u32::BITS;

    pub fn of(hash: u64) -> Token {
        Token((hash >> Token::SHIFT) as u32)
    }

    pub fn stripe(self) -> usize {
        (self.0 >> (u32::BITS - STRIPE_BITS)) as usize
    }

    /// The least hash that has it.
    pub fn least_hash(self) -> u64 {
        u64::from(self.0) << Token::SHIFT
    }
}

/// First in, first out, in pieces, so that little memory is held for nothing.
#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Box<[Token; PIECE]>>,
    /// Where the first is in the first piece.
    first: usize,
    len: usize,
}

const PIECE: usize = 256;

impl Queue {
    fn push(&mut self, token: Token) {
        let at = self.first + self.len;
        if at == self.pieces.len() * PIECE {
            self.pieces.push_back(Box::new([Token(0); PIECE]));
        }
        self.pieces[at / PIECE][at % PIECE] = token;
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Token> {
        self.len = self.len.checked_sub(1)?;
        let token = self.pieces[0][self.first];
        self.first += 1;
        if self.first == PIECE {
            self.pieces.pop_front();
            self.first = 0;
        }
        Some(token)
    }

    fn bytes(&self) -> usize {
        self.pieces.len() * allocated(size_of::<[Token; PIECE]>())
            + allocated(self.pieces.capacity() * size_of::<Box<[Token; PIECE]>>())
    }

    /// Keeps those, in their order.
    fn retain(&mut self, mut keep: impl FnMut(Token) -> bool) {
        let mut kept = Queue::default();
        while let Some(token) = self.pop() {
            if keep(token) {
                kept.push(token);
            }
        }
        *self = kept;
    }
}

/// What became of a key in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::table) enum Found {
    /// It is not there any more.
    Gone,
    /// It has this hash, and was used so much since it was looked at.
    Used { hash: u64, used: u8 },
}

/// The part of the keys on probation, at first, at least and at most.
const SHARE: f64 = 0.1;
const SHARE_MIN: f64 = 0.02;
const SHARE_MAX: f64 = 0.9;
/// The same where main takes in only what was used more.
const SHARE_STRICT: f64 = 0.02;
/// There, what was used counts half as much after so many looks at a key.
const LOOKS: u64 = 8;

/// Queues of one group of stripes.
#[derive(Debug)]
struct Group {
    probation: Queue,
    main: Queue,
    share: f64,
    looks: u64,
}

impl Group {
    fn new() -> Group {
        Group { probation: Queue::default(), main: Queue::default(), share: SHARE, looks: 0 }
    }

    fn len(&self) -> usize {
        self.probation.len + self.main.len
    }

    fn on_probation(&self, share: f64) -> usize {
        ((self.len() as f64 * share) as usize).max(1)
    }

    /// The next victim, and how to remember it.
    fn next(&mut self, look: &impl Fn(Token) -> Found, cool: &impl Fn(Token, u8)) -> Option<(Token, u64, Ghost)> {
        loop {
            let of_probation = self.probation.len >= self.on_probation(self.share) || self.main.len == 0;
            if of_probation && let Some(token) = self.probation.pop() {
                match look(token) {
                    Found::Gone => {}
                    Found::Used { hash, used: 0 } => return Some((token, hash, Ghost { main: false, used: 1 })),
                    Found::Used { .. } => {
                        cool(token, 0);
                        self.main.push(token);
                    }
                }
                continue;
            }
            let token = self.main.pop()?;
            match look(token) {
                Found::Gone => {}
                Found::Used { hash, used: 0 } => return Some((token, hash, Ghost { main: true, used: 1 })),
                Found::Used { .. } => {
                    cool(token, 0);
                    self.main.push(token);
                }
            }
        }
    }

    /// The same, where who leaves probation needs to have been used more than who goes from main for it.
    fn next_strict(
        &mut self,
        look: &impl Fn(Token) -> Found,
        cool: &impl Fn(Token, u8),
    ) -> Option<(Token, u64, Ghost)> {
        while self.probation.len > self.on_probation(SHARE_STRICT) {
            let token = self.probation.pop()?;
            self.main.push(token);
        }
        let there = |queue: &mut Queue| {
            while let Some(token) = queue.pop() {
                if let Found::Used { hash, used } = look(token) {
                    return Some((token, hash, used.min(USED_MAX)));
                }
            }
            None
        };
        let leaves =
            if self.probation.len >= self.on_probation(SHARE_STRICT) { there(&mut self.probation) } else { None };
        let Some((held, held_hash, mut held_use)) = there(&mut self.main) else {
            let (token, hash, used) = leaves.or_else(|| there(&mut self.probation))?;
            return Some((token, hash, Ghost { main: false, used: used + 1 }));
        };
        self.looks += 1;
        if (self.looks / (self.main.len as u64 + 1)).is_multiple_of(LOOKS) {
            held_use /= 2;
            cool(held, held_use);
        }
        match leaves {
            Some((token, hash, used)) if used <= held_use => {
                self.main.push(held);
                Some((token, hash, Ghost { main: false, used: used + 1 }))
            }
            _ => {
                if let Some((token, ..)) = leaves {
                    self.main.push(token);
                }
                Some((held, held_hash, Ghost { main: true, used: held_use }))
            }
        }
    }
}

/// Who goes next, and who went lately.
#[derive(Debug)]
pub(in crate::table) struct Queues {
    groups: [Group; GROUPS],
    ghosts: Ghosts,
    duel: Duel,
    /// For so many keys are there ghosts.
    keys: usize,
}

impl Queues {
    /// Empty ones, where there are about so many keys.
    pub fn new(keys: usize) -> Queues {
        let groups = std::array::from_fn(|_| Group::new());
        Queues { groups, ghosts: Ghosts::new(keys), duel: Duel::default(), keys }
    }

    /// All that are queued are forgotten, to be queued anew.
    pub fn empty(&mut self) {
        for group in &mut self.groups {
            (group.probation, group.main) = (Queue::default(), Queue::default());
        }
    }

    /// A key that is there is queued.
    pub fn queue(&mut self, hash: u64) {
        self.groups[group_of(stripe_of(hash))].probation.push(Token::of(hash));
    }

    /// A key is new, one of so many. Says how much it counts as used.
    pub fn insert(&mut self, hash: u64, keys: usize) -> u8 {
        if keys > self.keys + self.keys / 2 || keys < self.keys / 2 {
            (self.ghosts, self.keys) = (Ghosts::new(keys), keys);
        }
        let number = group_of(stripe_of(hash));
        self.duel.miss(number, keys);
        let known = self.ghosts.take(hash);
        let group = &mut self.groups[number];
        let Some(ghost) = known else {
            group.probation.push(Token::of(hash));
            return 0;
        };
        if self.duel.is_second(number) {
            group.probation.push(Token::of(hash));
            return ghost.used;
        }
        let [of_probation, of_main] = self.ghosts.count().map(|count| count.max(1) as f64);
        let step = inverse_part(number) / keys.max(1) as f64;
        group.share += match ghost.main {
            true => -step * (of_probation / of_main).clamp(1.0, 10.0),
            false => step * (of_main / of_probation).clamp(1.0, 10.0),
        };
        group.share = group.share.clamp(SHARE_MIN, SHARE_MAX);
        group.main.push(Token::of(hash));
        0
    }

    /// How many keys are queued, those that are gone too.
    pub fn len(&self) -> usize {
        self.groups.iter().map(Group::len).sum()
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        let groups = self.groups.iter().map(|group| group.probation.bytes() + group.main.bytes());
        allocated(size_of::<Queues>()) + groups.sum::<usize>() + self.ghosts.bytes()
    }

    /// The next victim, where the groups have so many keys; takes it from those. `look` says what became of a key; `cool` sets
    /// how much it counts as used. None: the queues are empty where there are keys.
    pub fn next(
        &mut self,
        keys: &mut [usize; GROUPS],
        look: impl Fn(Token) -> Found,
        cool: impl Fn(Token, u8),
    ) -> Option<Token> {
        let number = fullest(*keys);
        let group = &mut self.groups[number];
        let (token, hash, ghost) = match self.duel.is_second(number) {
            true => group.next_strict(&look, &cool),
            false => group.next(&look, &cool),
        }?;
        keys[number] = keys[number].saturating_sub(1);
        self.ghosts.remember(hash, ghost);
        Some(token)
    }

    /// Forgets keys that are gone, or queued twice because they went and came again, once there are many.
    pub fn tidy(&mut self, keys: usize, there: impl Fn(Token) -> bool) {
        if self.len() <= keys + keys / 4 + 4_096 {
            return;
        }
        let mut seen = hashbrown::HashTable::with_capacity(keys);
        let spread = |token: &Token| u64::from(token.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut keep = |token: Token| {
            let new = there(token) && seen.find(spread(&token), |other| *other == token).is_none();
            if new {
                seen.insert_unique(spread(&token), token, spread);
            }
            new
        };
        for group in &mut self.groups {
            group.main.retain(&mut keep);
            group.probation.retain(&mut keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, VecDeque};

    use super::*;
    use crate::table::call::Chance;

    /// A cache of so many keys, all alike.
    struct Cache {
        room: usize,
        used: RefCell<BTreeMap<Token, (u64, u8)>>,
        queues: Queues,
    }

    impl Cache {
        fn new(room: usize) -> Cache {
            Cache { room, used: RefCell::default(), queues: Queues::new(room) }
        }

        fn get(&mut self, key: u64) -> bool {
            let hash = Chance::new(key).next_u64();
            let token = Token::of(hash);
            if let Some((_, used)) = self.used.borrow_mut().get_mut(&token) {
                *used = (*used + 1).min(3);
                return true;
            }
            let mut keys = [0; GROUPS];
            self.used.borrow().keys().for_each(|token| keys[group_of(token.stripe())] += 1);
            if self.used.borrow().len() >= self.room {
                let look = |token| match self.used.borrow().get(&token) {
                    Some((hash, used)) => Found::Used { hash: *hash, used: *used },
                    None => Found::Gone,
                };
                let cool = |token, used| {
                    self.used.borrow_mut().entry(token).and_modify(|entry| entry.1 = used);
                };
                let victim = self.queues.next(&mut keys, look, cool).expect("there are keys");
                self.used.borrow_mut().remove(&victim).expect("it is there");
            }
            let used = self.queues.insert(hash, self.room);
            self.used.borrow_mut().insert(token, (hash, used));
            false
        }
    }

    #[test]
    fn keys_that_are_used_outlive_a_scan() {
        let (mut cache, mut chance) = (Cache::new(1_000), Chance::new(1));
        let mut hits = 0;
        for round in 0..100_000u64 {
            // Nine of ten look at a few hundred keys; the tenth at one that nobody looks at again.
            if round % 10 == 0 {
                cache.get(1 << 40 | round);
            } else {
                hits += usize::from(cache.get(chance.below(800) as u64));
            }
        }
        assert!(hits > 87_000, "{hits} of 90000");
        assert_eq!(cache.queues.len(), 1_000);
    }

    #[test]
    fn of_a_loop_that_does_not_fit_much_is_found() {
        let mut cache = Cache::new(1_000);
        let hits = (0..60_000u64).filter(|round| cache.get(round % 1_500)).count();
        assert!(hits > 25_000, "{hits} of 60000");
    }

    #[test]
    fn a_token_tells_the_stripe_and_what_is_like_its_hash() {
        let mut chance = Chance::new(3);
        for _ in 0..20_000 {
            let hash = chance.next_u64();
            let token = Token::of(hash);
            assert_eq!((token.stripe(), Token::of(token.least_hash())), (stripe_of(hash), token));
        }
    }

    #[test]
    fn a_queue_is_first_in_first_out() {
        for seed in 0..20 {
            let (mut chance, mut queue, mut model) = (Chance::new(seed), Queue::default(), VecDeque::new());
            for step in 0..20_000 {
                // It grows, then it shrinks.
                if chance.below(100) < if step % 8_000 < 4_000 { 70 } else { 30 } {
                    let token = Token(chance.next_u64() as u32);
                    queue.push(token);
                    model.push_back(token);
                } else {
                    assert_eq!(queue.pop(), model.pop_front(), "seed {seed}, step {step}");
                }
                if step % 5_000 == 0 {
                    queue.retain(|token| token.0 % 3 > 0);
                    model.retain(|token| token.0 % 3 > 0);
                }
                assert_eq!(queue.len, model.len());
                assert!(queue.pieces.len() <= model.len() / PIECE + 2);
            }
        }
    }

    #[test]
    fn what_is_gone_or_queued_twice_is_forgotten_in_time() {
        let mut queues = Queues::new(1_000);
        let hash = |number: u64| Chance::new(number).next_u64();
        for number in 0..20_000 {
            queues.queue(hash(number / 2));
        }
        let there = (0..1_000).map(|number| Token::of(hash(number)));
        let there: std::collections::BTreeSet<Token> = there.collect();
        queues.tidy(1_000, |token| there.contains(&token));
        assert_eq!(queues.len(), there.len());
    }
}
