//! The log of refusals: who was refused what (ACL LOG).

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Refusals that are alike count as one as long as the last is no older.
const ALIKE_WITHIN: Duration = Duration::from_secs(60);
/// The most entries that may be kept.
const ENTRIES_MAX: usize = 10_000;
/// Of what was refused, so much is kept.
const OBJECT_BYTES_MAX: usize = 128;

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `auth`, `command`, `key` or `channel`.
    pub reason: &'static str,
    /// `toplevel`, or `multi` between MULTI and EXEC.
    pub context: &'static str,
    /// The command, key or channel.
    pub object: Vec<u8>,
    /// Who it was.
    pub user: String,
}

/// Refusals that are alike.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What was refused.
    pub refusal: Refusal,
    /// How often.
    pub count: u64,
    /// Which one of all it is.
    pub id: u64,
    /// The client that was refused last, as CLIENT LIST shows it.
    pub client: String,
    /// When the first was and when the last: milliseconds since 1970.
    pub times: [u64; 2],
    since: Instant,
    last: Instant,
}

impl Entry {
    /// How long ago the first was.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// See the module's front page.
#[derive(Debug, Default)]
pub struct AclLog {
    /// The newest first; the next number.
    entries: Mutex<(VecDeque<Entry>, u64)>,
}

impl AclLog {
    /// Notes a refusal; keeps at most so many.
    pub fn note(&self, mut refusal: Refusal, client: String, most: usize) {
        refusal.object.truncate(OBJECT_BYTES_MAX);
        let now = Instant::now();
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let (entries, next) = &mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let alike = |entry: &Entry| entry.refusal == refusal && now - entry.last <= ALIKE_WITHIN;
        let entry = match entries.iter().position(alike).and_then(|place| entries.remove(place)) {
            Some(entry) => {
                Entry { count: entry.count + 1, client, times: [entry.times[0], millis], last: now, ..entry }
            }
            None => {
                *next += 1;
                Entry { refusal, count: 1, id: *next - 1, client, times: [millis; 2], since: now, last: now }
            }
        };
        entries.push_front(entry);
        entries.truncate(most.min(ENTRIES_MAX));
    }

    /// The newest, so many.
    pub fn entries(&self, count: usize) -> Vec<Entry> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).0.iter().take(count).cloned().collect()
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_are_alike_are_one_entry_and_the_oldest_leave() {
        let log = AclLog::default();
        let refusal =
            |object: &str| Refusal { reason: "command", context: "toplevel", object: object.into(), user: "u".into() };
        for object in ["get", "set", "get", "del"] {
            log.note(refusal(object), "client".into(), 2);
        }
        let entries = log.entries(10);
        let seen: Vec<_> = entries.iter().map(|entry| (&entry.refusal.object[..], entry.count, entry.id)).collect();
        assert_eq!(seen, [(&b"del"[..], 1, 2), (b"get", 2, 0)]);
        log.clear();
        assert!(log.entries(10).is_empty());
    }
}
