//! Watches: who watches, how much they were told, and the end of all of them when the node stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// The most at a time.
pub const WATCHERS_MAX: u64 = 4_096;

/// Why a watch was ended by the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutOff {
    /// Its client did not take what it was told.
    Slow,
    /// It fell behind what is kept.
    Behind,
}

#[derive(Debug)]
struct Inner {
    watchers: AtomicU64,
    events: AtomicU64,
    slow: AtomicU64,
    behind: AtomicU64,
    closed: watch::Sender<bool>,
}

/// All of them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watches(Arc<Inner>);

impl Default for Watches {
    fn default() -> Watches {
        let zero = AtomicU64::default;
        let (watchers, events, slow, behind) = (zero(), zero(), zero(), zero());
        Watches(Arc::new(Inner { watchers, events, slow, behind, closed: watch::Sender::new(false) }))
    }
}

/// One watch, which has ended when this is dropped.
#[derive(Debug)]
pub struct Watching(Watches);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watches {
    /// One more, if there is room.
    pub fn begin(&self) -> Option<Watching> {
        let watching = Watching(self.clone());
        (self.0.watchers.fetch_add(1, Ordering::Relaxed) < WATCHERS_MAX).then_some(watching)
    }

    /// So many events were sent.
    pub fn sent(&self, events: usize) {
        self.0.events.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// One was ended.
    pub fn cut_off(&self, why: CutOff) {
        let count = if why == CutOff::Slow { &self.0.slow } else { &self.0.behind };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends all, those that are begun later too.
    pub fn close(&self) {
        self.0.closed.send_replace(true);
    }

    /// Waits until they are to end.
    pub async fn closed(&self) {
        // The sender lives as long as this.
        let _ = self.0.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// How many there are.
    pub fn watchers(&self) -> u64 {
        self.0.watchers.load(Ordering::Relaxed)
    }

    /// How many events were sent.
    pub fn events(&self) -> u64 {
        self.0.events.load(Ordering::Relaxed)
    }

    /// How many were ended, and why.
    pub fn cuts(&self) -> [(&'static str, u64); 2] {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("slow", read(&self.0.slow)), ("behind", read(&self.0.behind))]
    }
}
