//! Slow: what took long: the log of slow commands (SLOWLOG) and the samples of LATENCY.
//!
//! A command that is not FAST is measured by itself; those that are only where somebody asks for what took less than a
//! millisecond. The time of a command that the log carries out is what it takes here; of a script, until it was answered.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loci_index::table::commands::is;

/// So many arguments are kept of a command, and so many bytes of each.
const ARGS_MAX: usize = 32;
const ARG_BYTES_MAX: usize = 128;
/// So many samples are kept of each kind of event.
const SAMPLES_MAX: usize = 160;
/// The most entries that may be kept.
const ENTRIES_MAX: usize = 1 << 16;

/// A command that took long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which one it is since the node was started.
    pub id: u64,
    /// When it was: seconds since 1970.
    pub at: u64,
    /// How long it took.
    pub micros: u64,
    /// Its arguments, or the beginning of them.
    pub args: Vec<Vec<u8>>,
    /// Who called it.
    pub address: SocketAddr,
    /// What that client calls itself.
    pub name: String,
}

/// See the module's front page.
#[derive(Debug)]
pub struct Slow {
    entries: Mutex<(u64, VecDeque<Entry>)>,
    /// In microseconds; negative: nothing is kept.
    slower_than: AtomicI64,
    most: AtomicU64,
    /// In milliseconds; zero: nothing is sampled.
    threshold: AtomicU64,
    samples: Mutex<BTreeMap<&'static str, Samples>>,
}

/// Of one kind of event.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// When, in seconds since 1970, and how long, in milliseconds; the oldest first.
    pub all: VecDeque<(u64, u64)>,
    /// The longest there was.
    pub worst: u64,
}

impl Default for Slow {
    fn default() -> Slow {
        Slow {
            entries: Mutex::default(),
            slower_than: AtomicI64::new(10_000),
            most: AtomicU64::new(128),
            threshold: AtomicU64::new(0),
            samples: Mutex::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The arguments as they are kept: secrets are not.
pub fn shown(args: &[&[u8]]) -> Vec<Vec<u8>> {
    let hidden: &dyn Fn(usize) -> bool = match args {
        [name, part, ..] if is(name, "acl") && ["setuser", "deluser", "getuser"].iter().any(|one| is(part, one)) => {
            &|place| place >= 2
        }
        [name, part, ..] if is(name, "config") && is(part, "set") => &|place| {
            let secret = |name: &&[u8]| ["requirepass", "masterauth", "masteruser"].iter().any(|one| is(name, one));
            place >= 3 && place % 2 == 1 && args.get(place - 1).is_some_and(secret)
        },
        _ => &|_| false,
    };
    let mut shown: Vec<Vec<u8>> = Vec::with_capacity(args.len().min(ARGS_MAX));
    for (place, arg) in args.iter().enumerate() {
        if place + 1 == ARGS_MAX && args.len() > ARGS_MAX {
            shown.push(format!("... ({} more arguments)", args.len() - ARGS_MAX + 1).into_bytes());
            break;
        }
        shown.push(match arg.len() {
            _ if hidden(place) => b"(redacted)".to_vec(),
            len if len > ARG_BYTES_MAX => {
                let more = format!("... ({} more bytes)", len - ARG_BYTES_MAX);
                [&arg[..ARG_BYTES_MAX], more.as_bytes()].concat()
            }
            _ => arg.to_vec(),
        });
    }
    shown
}

impl Slow {
    /// What is kept from now on.
    pub fn set(&self, name: &str, value: &str) {
        match name {
            "slowlog-log-slower-than" => self.slower_than.store(value.parse().unwrap_or(-1), Ordering::Relaxed),
            "slowlog-max-len" => {
                self.most.store(value.parse().unwrap_or(0), Ordering::Relaxed);
                let most = self.most();
                lock(&self.entries).1.truncate(most);
            }
            _ => self.threshold.store(value.parse().unwrap_or(0), Ordering::Relaxed),
        }
    }

    fn most(&self) -> usize {
        (self.most.load(Ordering::Relaxed) as usize).min(ENTRIES_MAX)
    }

    /// Whether also what is FAST is measured.
    pub fn is_eager(&self) -> bool {
        (0..1_000).contains(&self.slower_than.load(Ordering::Relaxed))
    }

    /// A command took so long.
    pub fn took(&self, took: Duration, args: &[&[u8]], fast: bool, by: (SocketAddr, &dyn Fn() -> String)) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let slower_than = self.slower_than.load(Ordering::Relaxed);
        if u64::try_from(slower_than).is_ok_and(|bound| micros >= bound) && self.most() > 0 {
            self.keep(micros, shown(args), by.0, by.1());
        }
        let threshold = self.threshold.load(Ordering::Relaxed);
        if threshold > 0 && micros / 1_000 >= threshold {
            self.sample(if fast { "fast-command" } else { "command" }, micros / 1_000);
        }
    }

    fn keep(&self, micros: u64, args: Vec<Vec<u8>>, address: SocketAddr, name: String) {
        let (id, entries) = &mut *lock(&self.entries);
        entries.push_front(Entry { id: *id, at: seconds(), micros, args, address, name });
        entries.truncate(self.most());
        *id += 1;
    }

    fn sample(&self, event: &'static str, millis: u64) {
        let mut samples = lock(&self.samples);
        let samples = samples.entry(event).or_default();
        samples.worst = samples.worst.max(millis);
        let now = seconds();
        match samples.all.back_mut() {
            // One a second: the longest.
            Some((at, longest)) if *at == now => *longest = (*longest).max(millis),
            _ => samples.all.push_back((now, millis)),
        }
        if samples.all.len() > SAMPLES_MAX {
            samples.all.pop_front();
        }
    }

    /// The newest entries, so many.
    pub fn entries(&self, count: usize) -> Vec<Entry> {
        lock(&self.entries).1.iter().take(count).cloned().collect()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        lock(&self.entries).1.len()
    }

    /// Forgets all entries.
    pub fn clear(&self) {
        lock(&self.entries).1.clear();
    }

    /// Samples by the kind of event.
    pub fn samples(&self) -> BTreeMap<&'static str, Samples> {
        lock(&self.samples).clone()
    }

    /// Forgets the samples of these kinds, or all. Says how many kinds that were.
    pub fn forget(&self, events: &[&[u8]]) -> usize {
        let mut samples = lock(&self.samples);
        let before = samples.len();
        samples.retain(|event, _| !events.is_empty() && !events.iter().any(|wanted| is(wanted, event)));
        before - samples.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(slower_than: &str, most: &str) -> Slow {
        let slow = Slow::default();
        slow.set("slowlog-log-slower-than", slower_than);
        slow.set("slowlog-max-len", most);
        slow
    }

    fn took(slow: &Slow, millis: u64, args: &[&[u8]]) {
        slow.took(Duration::from_millis(millis), args, false, ([127, 0, 0, 1].into(), 1).into_by());
    }

    trait By {
        fn into_by(self) -> (SocketAddr, &'static dyn Fn() -> String);
    }

    impl By for (std::net::IpAddr, u16) {
        fn into_by(self) -> (SocketAddr, &'static dyn Fn() -> String) {
            (self.into(), &|| "me".into())
        }
    }

    #[test]
    fn what_took_long_is_kept_the_newest_first_and_no_more_than_may_be() {
        let slow = slow("5000", "2");
        for millis in [4, 5, 6, 7] {
            took(&slow, millis, &[b"keys", b"*"]);
        }
        let entries = slow.entries(10);
        assert_eq!(entries.iter().map(|entry| (entry.id, entry.micros)).collect::<Vec<_>>(), [(2, 7_000), (1, 6_000)]);
        assert_eq!((slow.entries(1).len(), slow.len()), (1, 2));
        slow.set("slowlog-max-len", "1");
        assert_eq!(slow.len(), 1);
        slow.clear();
        assert_eq!(slow.len(), 0);
        slow.set("slowlog-log-slower-than", "-1");
        took(&slow, 1_000, &[b"keys"]);
        assert!(slow.len() == 0 && !slow.is_eager());
    }

    #[test]
    fn secrets_and_long_arguments_are_not_kept() {
        let text = |args: &[&[u8]]| {
            let shown = shown(args).into_iter().map(|arg| String::from_utf8(arg).unwrap());
            shown.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(&[b"ACL", b"setuser", b"u", b">pass"]), "ACL setuser (redacted) (redacted)");
        assert_eq!(
            text(&[b"config", b"set", b"hz", b"1", b"requirepass", b"x"]),
            "config set hz 1 requirepass (redacted)"
        );
        assert_eq!(text(&[b"set", b"k", &[b'x'; 200]]), format!("set k {}... (72 more bytes)", "x".repeat(128)));
        let many = [&b"a"[..]; 40];
        assert!(text(&many).ends_with("a ... (9 more arguments)"));
        assert_eq!(shown(&many).len(), 32);
    }

    #[test]
    fn samples_are_of_what_is_over_the_threshold() {
        let slow = slow("-1", "1");
        took(&slow, 50, &[b"keys"]);
        assert!(slow.samples().is_empty());
        slow.set("latency-monitor-threshold", "10");
        took(&slow, 9, &[b"keys"]);
        took(&slow, 50, &[b"keys"]);
        assert_eq!(slow.samples()["command"].worst, 50);
        assert_eq!((slow.forget(&[b"nothing"]), slow.forget(&[])), (0, 1));
    }
}
