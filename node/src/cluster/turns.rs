//! Turns: of all nodes of a cluster one at a time stops to be repaired.
//!
//! ```text
//!   all that it needs is here --> its name into the book, if nobody's is there --> all others are there, or were waited for
//!     --> its name once more --> it stops and starts again --> the shards that it has are ready --> its name out of the book
//!
//!   somebody else's name is there --> wait; for one that does not come back no longer than GONE_FOR
//! ```
//!
//! Were two of three nodes away at the same moment nobody would have a majority. Others being there says nothing by itself: each
//! of two could see the other and go.
//!
//! The name is a record in the catalog, and whoever writes it names the version of what he replaces, or that there is none: of
//! two that see the same record one is refused, however old the view is that he read. The last that a node does before it goes
//! is to write its own name once more, so nobody goes who was taken for gone meanwhile. Where the catalog has no leader nobody
//! can write it, and nobody goes: there is no majority to spare.
//!
//! Always: from the moment that a node goes to the moment that the shards are ready again that it had no other goes, unless `GONE_FOR`
//! passes between the two.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use loci_raft::MemberId;

use super::Cluster;
use super::book::{self, Away};

/// One that has said for so long that it goes, and nothing since, does not come back soon. Longer than others are waited for.
const GONE_FOR: Duration = Duration::from_secs(900);
/// How long a name may take to be written.
const WRITE_TIME: Duration = Duration::from_secs(5);

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nobody's, or of one that is gone.
    Free,
    /// This node's, unless the view is old.
    Mine,
    /// Somebody else's.
    Others,
}

/// What a node knows of turns.
#[derive(Debug, Default)]
pub struct Turns {
    /// The shards that this node had when it was started and that are not back yet. Others may come meanwhile, and need hours for
    /// their first snapshot: nobody counts on those.
    missing: BTreeSet<u32>,
    /// The version of the name that was last seen, and since when.
    seen: Option<(u64, Instant)>,
}

impl Turns {
    /// Of a node that has just been started with these shards.
    pub fn starting_with(shards: impl IntoIterator<Item = u32>) -> Turns {
        Turns { missing: shards.into_iter().collect(), seen: None }
    }

    /// Whether all shards that it had are back.
    fn is_back(&mut self, is_back: impl Fn(u32) -> bool) -> bool {
        self.missing.retain(|shard| !is_back(*shard));
        self.missing.is_empty()
    }

    fn look(&mut self, there: Option<&(Away, u64)>, me: MemberId, now: Instant) -> Turn {
        let Some((away, version)) = there else {
            self.seen = None;
            return Turn::Free;
        };
        if away.member == me.0 {
            return Turn::Mine;
        }
        match self.seen {
            Some((seen, since)) if seen == *version && now - since >= GONE_FOR => Turn::Free,
            Some((seen, _)) if seen == *version => Turn::Others,
            _ => {
                self.seen = Some((*version, now));
                Turn::Others
            }
        }
    }

    /// Whether this node has it, as far as it knows.
    pub fn has(&mut self, cluster: &Cluster) -> bool {
        let there = book::away(&cluster.catalog().newest());
        self.look(there.as_ref(), cluster.me(), Instant::now()) == Turn::Mine
    }

    /// Takes the turn, or makes sure that this node still has it.
    pub async fn take(&mut self, cluster: &Cluster) -> bool {
        let (view, me) = (cluster.catalog().newest(), cluster.me());
        if self.look(book::away(&view).as_ref(), me, Instant::now()) == Turn::Others {
            return false;
        }
        let (deadline, catalog) = (Instant::now() + WRITE_TIME, cluster.of_catalog());
        let Some(envelope) = book::going(&view, me) else {
            // The book is an old one, without a place for it.
            for envelope in book::making() {
                if catalog.write(envelope, deadline).await.is_err() {
                    break;
                }
            }
            return false;
        };
        match catalog.write(envelope, deadline).await {
            Ok(written) => book::is_done(&written.outcome),
            Err(error) => {
                tracing::debug!(?error, "it could not be written down that this node goes");
                false
            }
        }
    }

    /// Gives the turn back, if this node has it and is all there.
    pub async fn give_back(&mut self, cluster: &Cluster) {
        let (view, me) = (cluster.catalog().newest(), cluster.me());
        let there = book::away(&view);
        let has = |shard| cluster.shards().handle(shard).is_none_or(|shard| shard.is_ready() || shard.is_removed());
        if !self.is_back(has) || self.look(there.as_ref(), me, Instant::now()) != Turn::Mine {
            return;
        }
        if let Some(envelope) = book::back(&view) {
            // What was not written is written the next time.
            let _ = cluster.of_catalog().write(envelope, Instant::now() + WRITE_TIME).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loci_index::command::{Entry, Envelope};
    use loci_index::directory::RamDirectory;
    use loci_index::store::{Store, StoreOptions};
    use loci_index::view::View;

    use super::*;

    struct Book {
        store: Store,
        index: u64,
    }

    impl Book {
        fn write(&mut self, envelope: Envelope) -> bool {
            self.index += 1;
            let entry = Entry { clock: self.index, commands: vec![envelope] }.encode();
            let outcomes = self.store.apply(self.index, &entry).expect("a command of the cluster's own");
            book::is_done(&outcomes[0])
        }
    }

    /// A node as others see it; `holds` is what it believes.
    #[derive(Default)]
    struct Node {
        turns: Turns,
        view: Option<Arc<View>>,
        holds: bool,
        away_until: Option<u64>,
    }

    /// Nodes of which all want to go again and again act in any order on views of any age, and some stay away for too long.
    #[test]
    fn no_two_nodes_are_away_at_once_unless_one_does_not_come_back() {
        let begun = Instant::now();
        let (mut gone_once, mut taken_over) = (0, 0);
        for seed in 0..300u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 20) % below
            };
            let directory = Arc::new(RamDirectory::new());
            let store = Store::create(directory, StoreOptions::default(), [1; 32], 0).unwrap();
            let mut book = Book { store, index: 0 };
            for envelope in book::making() {
                assert!(book.write(envelope));
            }
            let mut nodes: Vec<Node> = (0..4).map(|_| Node::default()).collect();
            let mut seconds = 0;
            for _ in 0..400 {
                seconds += next(30);
                let now = begun + Duration::from_secs(seconds);
                let at = next(4) as usize;
                let me = MemberId(at as u64 + 1);
                let others_away: Vec<u64> = nodes
                    .iter()
                    .enumerate()
                    .filter(|(other, node)| *other != at && node.away_until.is_some())
                    .map(|(_, node)| node.away_until.unwrap_or(0))
                    .collect();
                let node = &mut nodes[at];
                if node.away_until.is_some_and(|until| seconds < until) {
                    continue;
                }
                if node.view.is_none() || next(3) > 0 {
                    node.view = Some(book.store.view());
                }
                let view = node.view.clone().expect("it was read just now");
                if node.away_until.take().is_some() {
                    // It has started again, and remembers nothing.
                    (node.turns, node.holds) = (Turns::default(), false);
                    node.view = None;
                    let view = book.store.view();
                    if node.turns.look(book::away(&view).as_ref(), me, now) == Turn::Mine {
                        assert!(book.write(book::back(&view).unwrap()));
                    }
                    continue;
                }
                let turn = node.turns.look(book::away(&view).as_ref(), me, now);
                if turn == Turn::Others || !book.write(book::going(&view, me).unwrap()) {
                    node.holds = false;
                    continue;
                }
                node.view = Some(book.store.view());
                if !std::mem::replace(&mut node.holds, true) {
                    // Others are waited for.
                    continue;
                }
                for until in others_away {
                    assert!(until > seconds || until == u64::MAX, "seed {seed}: two are away at {seconds}");
                    taken_over += 1;
                    assert_eq!(until, u64::MAX, "seed {seed}: one goes while another is away that comes back");
                }
                gone_once += 1;
                node.away_until = Some(if next(40) == 0 { u64::MAX } else { seconds + 1 + next(200) });
            }
        }
        assert!(gone_once > 1_000 && taken_over > 10, "{gone_once} {taken_over}");
    }

    #[test]
    fn a_node_is_back_when_the_shards_are_that_it_had() {
        let mut turns = Turns::starting_with([1, 2, 4]);
        assert!(!turns.is_back(|shard| shard == 2));
        assert!(!turns.is_back(|shard| shard == 4), "1 is not");
        assert!(turns.is_back(|shard| shard == 1), "it has been given 5, which may take hours");
        assert!(turns.is_back(|_| false), "what was back once is back");
        assert!(Turns::default().is_back(|_| false));
    }

    #[test]
    fn whoever_stays_away_keeps_others_waiting_for_a_while() {
        let begun = Instant::now();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let away = |member: u64, version: u64| (Away { member }, version);
        let (me, mut turns) = (MemberId(2), Turns::default());
        assert_eq!(turns.look(None, me, at(0)), Turn::Free);
        assert_eq!(turns.look(Some(&away(2, 7)), me, at(0)), Turn::Mine);
        assert_eq!(turns.look(Some(&away(1, 8)), me, at(1)), Turn::Others);
        assert_eq!(turns.look(Some(&away(1, 8)), me, at(900)), Turn::Others);
        // It said it once more.
        assert_eq!(turns.look(Some(&away(1, 9)), me, at(901)), Turn::Others);
        assert_eq!(turns.look(Some(&away(1, 9)), me, at(1_800)), Turn::Others);
        assert_eq!(turns.look(Some(&away(1, 9)), me, at(1_801)), Turn::Free);
        assert_eq!(turns.look(Some(&away(3, 10)), me, at(1_802)), Turn::Others);
    }
}
