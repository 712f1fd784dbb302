//! The node's memory budget: who uses how much of it, and whether there is room for another write.
//!
//! Accounted for: what the stores hold on the heap, the writes that wait, and what checkpoints and merges work in while
//! they run. What that leaves is for segments, which are mapped files: [`crate::residency`] keeps as much of them in memory
//! as there is room for. A write is refused for what is held, not for what is worked in: that ends by itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// A budget of bytes, shared by everything on a node that takes its share.
#[derive(Debug)]
pub struct Budget {
    bytes: u64,
    stores: AtomicU64,
    queues: AtomicU64,
    work: AtomicU64,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Budget {
        Budget { bytes, stores: AtomicU64::new(0), queues: AtomicU64::new(0), work: AtomicU64::new(0) }
    }

    /// How much there is in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of it is in use.
    pub fn used(&self) -> u64 {
        self.held() + self.work.load(Ordering::Relaxed)
    }

    /// How much of it is in use by what stays until it is deleted, written to a segment, or applied.
    pub fn held(&self) -> u64 {
        self.stores.load(Ordering::Relaxed) + self.queues.load(Ordering::Relaxed)
    }

    /// A store that used `before` bytes now uses `after`.
    pub(crate) fn store_changed(&self, before: u64, after: u64) {
        self.stores.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Work that takes so many bytes begins; it ends when what comes back is dropped.
    #[must_use]
    pub(crate) fn work(&self, bytes: u64) -> Working<'_> {
        self.work.fetch_add(bytes, Ordering::Relaxed);
        Working { budget: self, bytes }
    }

    /// A write of so many bytes begins to wait.
    pub(crate) fn enqueue(&self, bytes: u64) {
        self.queues.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A write of so many bytes no longer waits.
    pub(crate) fn dequeue(&self, bytes: u64) {
        self.queues.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Work that is being done.
pub(crate) struct Working<'b> {
    budget: &'b Budget,
    bytes: u64,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.budget.work.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_and_queues_share_one_budget() {
        let budget = Budget::new(100);
        budget.store_changed(0, 70);
        budget.enqueue(20);
        assert_eq!(budget.used(), 90);
        budget.store_changed(70, 10);
        budget.dequeue(20);
        assert_eq!(budget.used(), 10);
        assert_eq!(budget.bytes(), 100);
    }

    #[test]
    fn work_is_in_use_until_it_ends_but_is_not_held() {
        let budget = Budget::new(100);
        budget.store_changed(0, 10);
        let (merge, checkpoint) = (budget.work(60), budget.work(5));
        assert_eq!((budget.used(), budget.held()), (75, 10));
        drop(merge);
        assert_eq!((budget.used(), budget.held()), (15, 10));
        drop(checkpoint);
        assert_eq!((budget.used(), budget.held()), (10, 10));
    }
}
