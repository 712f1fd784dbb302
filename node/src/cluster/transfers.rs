//! Transfers: how far snapshots on their way have come, and what all of them came to, for figures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use loci_raft::MemberId;

/// Which way a snapshot goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From this node to another.
    Sent,
    /// From another to this one.
    Received,
}

impl Direction {
    /// As metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Sent => "sent",
            Direction::Received => "received",
        }
    }
}

/// All snapshots of a node.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    under_way: Vec<Arc<Snapshot>>,
    ended: BTreeMap<(u32, Direction), Totals>,
}

#[derive(Debug)]
struct Snapshot {
    shard: u32,
    direction: Direction,
    member: MemberId,
    bytes: AtomicU64,
    bytes_total: u64,
}

/// What all snapshots of a shard in one direction came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Those that arrived whole, as far as this node knows.
    pub whole: u64,
    /// Bytes of files, of those under way and of those that broke off too.
    pub bytes: u64,
}

/// A snapshot under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnderWay {
    /// Of which shard.
    pub shard: u32,
    /// Which way.
    pub direction: Direction,
    /// The other member.
    pub member: MemberId,
    /// Bytes of files that have gone, or come.
    pub bytes: u64,
    /// Of so many.
    pub bytes_total: u64,
}

/// Keeps account of one snapshot until it is dropped.
#[derive(Debug)]
pub struct Account {
    transfers: Transfers,
    snapshot: Arc<Snapshot>,
}

impl Transfers {
    /// A snapshot of so many bytes is on its way to or from a member.
    pub fn begin(&self, shard: u32, direction: Direction, member: MemberId, bytes_total: u64) -> Account {
        let snapshot = Arc::new(Snapshot { shard, direction, member, bytes: AtomicU64::new(0), bytes_total });
        self.known(|known| known.under_way.push(Arc::clone(&snapshot)));
        Account { transfers: self.clone(), snapshot }
    }

    /// Those under way.
    pub fn under_way(&self) -> Vec<UnderWay> {
        self.known(|known| known.under_way.iter().map(|snapshot| snapshot.shown()).collect())
    }

    /// What all came to, by shard and direction.
    pub fn totals(&self) -> BTreeMap<(u32, Direction), Totals> {
        self.known(|known| {
            let mut totals = known.ended.clone();
            for snapshot in &known.under_way {
                totals.entry((snapshot.shard, snapshot.direction)).or_default().bytes += snapshot.shown().bytes;
            }
            totals
        })
    }

    fn known<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Snapshot {
    fn shown(&self) -> UnderWay {
        let Snapshot { shard, direction, member, ref bytes, bytes_total } = *self;
        UnderWay { shard, direction, member, bytes: bytes.load(Ordering::Relaxed), bytes_total }
    }
}

impl Account {
    /// So many more bytes have gone, or come.
    pub fn add(&self, bytes: u64) {
        self.snapshot.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let UnderWay { shard, direction, bytes, bytes_total, .. } = self.snapshot.shown();
        self.transfers.known(|known| {
            known.under_way.retain(|snapshot| !Arc::ptr_eq(snapshot, &self.snapshot));
            let totals = known.ended.entry((shard, direction)).or_default();
            totals.bytes += bytes;
            totals.whole += u64::from(bytes == bytes_total);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_while_a_snapshot_is_under_way_and_after_and_only_whole_ones_are_counted() {
        let transfers = Transfers::default();
        let first = transfers.begin(1, Direction::Sent, MemberId(2), 100);
        let second = transfers.begin(1, Direction::Sent, MemberId(3), 50);
        first.add(60);
        second.add(20);
        let under_way = transfers.under_way();
        assert_eq!(under_way.len(), 2);
        assert_eq!((under_way[0].member, under_way[0].bytes, under_way[0].bytes_total), (MemberId(2), 60, 100));
        let total = |whole, bytes| BTreeMap::from([((1, Direction::Sent), Totals { whole, bytes })]);
        assert_eq!(transfers.totals(), total(0, 80));
        first.add(40);
        drop(first);
        assert_eq!(transfers.totals(), total(1, 120));
        drop(second);
        assert_eq!(transfers.totals(), total(1, 120), "what broke off is not whole");
        assert!(transfers.under_way().is_empty());
    }
}
