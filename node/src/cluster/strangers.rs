//! Strangers: addresses of this cluster at which somebody else answers, such as a node of another cluster that was started there
//! by mistake.
//!
//! Nothing is done with them: whoever is spoken to says by the cluster and the member that every call names that it is not meant.
//! They are told, in the log, in `loci cluster status` and as a metric, until nobody has met them for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Whoever was not met again for so long is gone.
const COUNTS_FOR: Duration = Duration::from_secs(8);
/// How often it is told.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// More addresses than a cluster has.
const ADDRESSES_MAX: usize = 1_000;

/// All that are known. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Strangers(Arc<Mutex<BTreeMap<String, Met>>>);

#[derive(Debug)]
struct Met {
    at: Instant,
    told: Instant,
    what: String,
}

impl Strangers {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Met>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One was met at an address. Says whether that is news.
    pub fn meet(&self, address: &str, what: &str) {
        let now = Instant::now();
        let mut all = self.lock();
        all.retain(|_, met| met.at.elapsed() < COUNTS_FOR);
        let known = all.get(address).filter(|met| met.what == what && met.told.elapsed() < TELL_EVERY);
        let told = known.map(|met| met.told);
        if told.is_none() {
            tracing::error!(
                address,
                what,
                "somebody else answers at an address of this cluster: it is left alone; see to what runs there"
            );
        }
        if all.len() < ADDRESSES_MAX || all.contains_key(address) {
            all.insert(address.to_owned(), Met { at: now, told: told.unwrap_or(now), what: what.to_owned() });
        }
    }

    /// Who was lately met at an address, for people.
    pub fn at(&self, address: &str) -> Option<String> {
        self.lock().get(address).filter(|met| met.at.elapsed() < COUNTS_FOR).map(|met| met.what.clone())
    }

    /// At how many addresses one was lately met.
    pub fn count(&self) -> usize {
        self.lock().values().filter(|met| met.at.elapsed() < COUNTS_FOR).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_met_is_known_by_the_address() {
        let strangers = Strangers::default();
        assert_eq!((strangers.count(), strangers.at("a:1")), (0, None));
        strangers.meet("a:1", "a node of cluster x");
        strangers.meet("a:1", "a node of cluster y");
        strangers.meet("b:2", "a node of cluster x");
        assert_eq!(strangers.at("a:1").as_deref(), Some("a node of cluster y"));
        assert_eq!((strangers.count(), strangers.at("c:3")), (2, None));
        (0..2 * ADDRESSES_MAX).for_each(|number| strangers.meet(&format!("d:{number}"), "x"));
        assert_eq!(strangers.count(), ADDRESSES_MAX);
    }
}
