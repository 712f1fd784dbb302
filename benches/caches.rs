//! Requests to caches, made up by rules, and loci's table as a cache that answers them.
//!
//! ```text
//!   trace: key, key, .. --> there? a hit : put it --> over its bytes? the policy's victims go
//! ```
//!
//! A trace is the same everywhere: no clock, chance from a fixed seed. Keys have 16 bytes and values 100, so what caches hold
//! in as many bytes is decided by what they keep besides.

use std::collections::{BTreeSet, HashMap};

use loci_index::table::At;
use loci_index::table::call::Chance;
use loci_index::table::eviction::Policy;
use loci_index::table::keyspace::Keyspace;

/// What every value is.
pub const VALUE: [u8; 100] = [b'v'; 100];
/// Proposals name at most so many keys at once, as in the store.
const VICTIMS_MAX: usize = 1_024;

/// A key of a trace, as caches know it.
pub fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let (mut place, mut rest) = (16, number);
    while rest > 0 {
        place -= 1;
        key[place] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// What is asked for, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trace {
    /// Few keys often and many seldom, by Zipf's law.
    Zipf,
    /// The same, and one of five requests belongs to a scan of keys that nobody asks for again.
    ZipfWithScans,
    /// The same law, but which keys are asked for often changes all the time.
    ShiftingZipf,
    /// The same keys again and again in the same order, a half more than fit.
    Loop,
    /// A loop of a half more than fit, and as many requests by Zipf's law.
    LoopAndZipf,
}

impl Trace {
    /// All of them.
    pub const ALL: [Trace; 5] =
        [Trace::Zipf, Trace::ZipfWithScans, Trace::ShiftingZipf, Trace::Loop, Trace::LoopAndZipf];

    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Trace::Zipf => "zipf",
            Trace::ZipfWithScans => "zipf with scans",
            Trace::ShiftingZipf => "shifting zipf",
            Trace::Loop => "loop",
            Trace::LoopAndZipf => "loop and zipf",
        }
    }

    /// So many requests, for caches that have room for about `room` keys.
    pub fn requests(self, room: usize, requests: usize) -> Vec<u64> {
        const SCANNED: u64 = 1 << 40;
        const LOOPED: u64 = 1 << 39;
        let mut chance = Chance::new(7);
        let exponent = if self == Trace::ShiftingZipf { 1.0 } else { 0.9 };
        let zipf = Zipf::new(room * 4, exponent);
        let looped = (room + room / 2) as u64;
        let mut turn = 0;
        let mut next = |at: usize| match self {
            Trace::Zipf => zipf.draw(&mut chance),
            // Scans are of a quarter of the room each, and come at a stretch.
            Trace::ZipfWithScans if at % (room * 5 / 4) >= room => SCANNED + at as u64,
            Trace::ZipfWithScans => zipf.draw(&mut chance),
            // In twice as many requests as fit, the tenth of the keys that fit has changed.
            Trace::ShiftingZipf => (zipf.draw(&mut chance) + at as u64 / 20) % (room as u64 * 4),
            Trace::LoopAndZipf if chance.below(2) == 0 => zipf.draw(&mut chance),
            Trace::Loop | Trace::LoopAndZipf => {
                turn += 1;
                LOOPED + turn % looped
            }
        };
        (0..requests).map(&mut next).collect()
    }
}

/// Ranks by Zipf's law, each as a number that says nothing of its rank.
struct Zipf {
    below: Vec<f64>,
}

impl Zipf {
    fn new(keys: usize, exponent: f64) -> Zipf {
        let mut sum = 0.0;
        let below = (1..=keys).map(|rank| {
            sum += 1.0 / (rank as f64).powf(exponent);
            sum
        });
        Zipf { below: below.collect() }
    }

    fn draw(&self, chance: &mut Chance) -> u64 {
        let sum = self.below.last().copied().unwrap_or_default();
        let at = (chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * sum;
        self.below.partition_point(|below| *below <= at) as u64
    }
}

/// Something that holds some of the keys that it is given.
pub trait Cache {
    /// Whether a key is there.
    fn get(&mut self, key: &[u8; 16]) -> bool;
    /// It is from now on, and others may go.
    fn put(&mut self, key: &[u8; 16]);
    /// How many keys are there.
    fn held(&mut self) -> usize;
}

/// How many of a trace's requests find their key, of a hundred.
pub fn hits(cache: &mut dyn Cache, trace: &[u64]) -> f64 {
    let mut hits = 0;
    for number in trace {
        let key = key_of(*number);
        if cache.get(&key) {
            hits += 1;
        } else {
            cache.put(&key);
        }
    }
    f64::from(hits) * 100.0 / trace.len() as f64
}

/// loci's table with a budget.
pub struct Loci {
    keyspace: Keyspace,
    budget: usize,
    policy: Policy,
    version: u64,
    chance: Chance,
}

/// The only time there is.
const NOW: u64 = 1_800_000_000_000;

impl Loci {
    /// An empty one of so many bytes.
    pub fn new(budget: usize, policy: Policy) -> Loci {
        Loci { keyspace: Keyspace::new(1), budget, policy, version: 0, chance: Chance::new(1) }
    }

    /// What it takes.
    pub fn bytes(&self) -> usize {
        self.keyspace.memory_bytes()
    }
}

impl Cache for Loci {
    fn get(&mut self, key: &[u8; 16]) -> bool {
        matches!(self.keyspace.string(key, NOW), Ok(Some(_)))
    }

    fn put(&mut self, key: &[u8; 16]) {
        // As in the log, where writes and what makes room for them have positions.
        self.version += 1 << 16;
        let at = At { version: self.version, now: NOW };
        self.keyspace.set_string(key, &VALUE, 0, at);
        if self.keyspace.memory_bytes() > self.budget {
            for victim in self.keyspace.victims(self.budget, self.policy, VICTIMS_MAX, &mut self.chance) {
                self.keyspace.remove(&victim, at);
            }
        }
    }

    fn held(&mut self) -> usize {
        self.keyspace.len()
    }
}

/// How many of a hundred requests would find their key in a cache of so many keys that knew what is asked for later.
pub fn best(trace: &[u64], room: usize) -> f64 {
    let mut next_of = vec![usize::MAX; trace.len()];
    let mut last = HashMap::new();
    for (at, key) in trace.iter().enumerate().rev() {
        if let Some(next) = last.insert(*key, at) {
            next_of[at] = next;
        }
    }
    let (mut held, mut order, mut hits) = (HashMap::new(), BTreeSet::new(), 0);
    for (at, key) in trace.iter().enumerate() {
        if let Some(next) = held.remove(key) {
            order.remove(&(next, *key));
            hits += 1;
        }
        if next_of[at] == usize::MAX {
            continue;
        }
        held.insert(*key, next_of[at]);
        order.insert((next_of[at], *key));
        if held.len() > room
            && let Some((_, key)) = order.pop_last()
        {
            held.remove(&key);
        }
    }
    f64::from(hits) * 100.0 / trace.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each policy must at least find, in hundredths: one or two less than it found when this was written.
    const FLOORS: &[(Trace, Policy, f64)] = &[
        (Trace::Zipf, Policy::S3Fifo, 72.8),
        (Trace::Zipf, Policy::Lru, 67.1),
        (Trace::Zipf, Policy::Lfu, 72.6),
        (Trace::Zipf, Policy::Random, 58.7),
        (Trace::ZipfWithScans, Policy::S3Fifo, 57.0),
        (Trace::ZipfWithScans, Policy::Lru, 47.3),
        (Trace::ZipfWithScans, Policy::Lfu, 54.6),
        (Trace::ZipfWithScans, Policy::Random, 38.2),
        (Trace::ShiftingZipf, Policy::S3Fifo, 75.1),
        (Trace::ShiftingZipf, Policy::Lru, 75.1),
        (Trace::ShiftingZipf, Policy::Lfu, 66.6),
        (Trace::ShiftingZipf, Policy::Random, 66.6),
        (Trace::Loop, Policy::S3Fifo, 47.8),
        (Trace::Loop, Policy::Lru, 0.0),
        (Trace::Loop, Policy::Lfu, 50.8),
        (Trace::Loop, Policy::Random, 50.7),
        (Trace::LoopAndZipf, Policy::S3Fifo, 41.6),
        (Trace::LoopAndZipf, Policy::Lru, 24.6),
        (Trace::LoopAndZipf, Policy::Lfu, 42.4),
        (Trace::LoopAndZipf, Policy::Random, 32.1),
    ];

    #[test]
    fn policies_find_no_less_than_they_did() {
        const ROOM: usize = 10_000;
        let mut failed = Vec::new();
        for trace in Trace::ALL {
            let requests = trace.requests(ROOM, 300_000);
            println!("{}: at best {:.1}", trace.name(), best(&requests, ROOM));
            for policy in [Policy::S3Fifo, Policy::Lru, Policy::Lfu, Policy::Random] {
                let mut cache = Loci::new(32_768 + ROOM * 160, policy);
                let found = hits(&mut cache, &requests);
                println!("  {:<12} {found:.1} of {} keys in {} bytes", policy.name(), cache.held(), cache.bytes());
                let floor = FLOORS.iter().find(|(of, by, _)| (*of, *by) == (trace, policy));
                if floor.is_none_or(|(.., floor)| found < *floor) {
                    failed.push((trace, policy, found));
                }
            }
        }
        assert!(failed.is_empty(), "{failed:?}");
    }

    #[test]
    fn a_cache_that_knows_the_future_finds_what_can_be_found() {
        assert_eq!(best(&[1, 2, 3, 1, 2, 3], 2), 100.0 / 3.0);
        assert_eq!(best(&[1, 1, 1, 1], 1), 75.0);
    }
}
