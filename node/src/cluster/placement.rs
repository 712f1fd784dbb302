//! Placement: which nodes have a member of which shard, for shards that are not on every node.
//!
//! ```text
//!   where the catalog is led, twice a second: nodes, who holds what --next--> one move, or none --> the shard's line in the book
//!   the node that is to hold it:      starts it, as a learner with nothing
//!   the node that leads the shard:    adds the learner; once it has caught up it votes, in the place of whoever is to go (policy)
//!   the node that has lost its part:  ends it, throws its files away, takes itself out of `leaving` (hosting)
//! ```
//!
//! How many members a shard is to have can change: `loci namespace replicas` has every namespace say how many it wants, and where
//! the catalog is led the most of that is written into the shard's line. Then members come or go, one at a time.
//!
//! A move is one line of the book, written in the place of the one that it was decided by. There is one at a time in the whole
//! cluster, and a pause after it; the snapshot that it takes goes at the pace of all snapshots (`--snapshot-mib-per-second`).
//!
//! Always ([`next`]):
//! - no node holds a shard twice, and none holds one again before it has thrown away what it had;
//! - a shard has as many holders as before a move, or more; one fewer only if it has more than it is to have, or if a node was
//!   removed and no other can take its place;
//! - who is to be emptied (drained, removed, silent for long) ends without a shard if others can take them;
//! - the numbers of shards that nodes hold come to differ by one at the most, with no more moves than that takes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use loci_raft::MemberId;

use super::book::{self, ShardLine};
use super::{Cluster, sightings};

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Who has not answered for so long gets no member.
pub const FIT_FOR: Duration = Duration::from_secs(5);
/// The least time before a move without which nothing is wrong, and before another.
const PAUSE: Duration = Duration::from_secs(3);
const PAUSE_SHORT: Duration = Duration::from_millis(500);
const WRITE_TIME: Duration = Duration::from_secs(5);

/// A node, as far as placement is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Which.
    pub member: u64,
    /// It may get members.
    pub fit: bool,
    /// It is to have none.
    pub leaves: bool,
    /// It is to have none only because nobody has heard of it for long: what it alone holds is not there without it.
    pub silent: bool,
    /// It will never come back.
    pub gone: bool,
}

/// Who holds a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// By how many it is to be held.
    pub replicas: usize,
    /// By whom.
    pub holders: Vec<u64>,
    /// Who may still have what was in it.
    pub leaving: Vec<u64>,
    /// Who leads it; nobody: nothing can be moved.
    pub leader: Option<u64>,
}

/// One change of who holds what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which shard.
    pub shard: u32,
    /// Who is to hold it no longer.
    pub from: Option<u64>,
    /// Who is to hold it.
    pub to: Option<u64>,
    /// Nothing is wrong without it but that some hold more than others.
    pub evens: bool,
}

/// How many shards each node holds that may get more.
fn loads(nodes: &[Node], shards: &BTreeMap<u32, Held>) -> BTreeMap<u64, usize> {
    let mut loads: BTreeMap<u64, usize> = nodes.iter().filter(|node| node.fit).map(|node| (node.member, 0)).collect();
    for holder in shards.values().flat_map(|held| &held.holders) {
        if let Some(load) = loads.get_mut(holder) {
            *load += 1;
        }
    }
    loads
}

/// Who could take a shard: the one that holds the fewest.
fn taker(loads: &BTreeMap<u64, usize>, held: &Held) -> Option<u64> {
    let free = loads.iter().filter(|(member, _)| !held.holders.contains(member) && !held.leaving.contains(member));
    free.min_by_key(|(member, load)| (**load, **member)).map(|(member, _)| *member)
}

/// The next move that is to be made, if any.
pub fn next(nodes: &[Node], shards: &BTreeMap<u32, Held>) -> Option<Move> {
    let loads = loads(nodes, shards);
    let of = |member: &u64| nodes.iter().find(|node| node.member == *member);
    let movable = || shards.iter().filter(|(_, held)| held.leader.is_some());
    for (shard, held) in movable().filter(|(_, held)| held.holders.len() > held.replicas) {
        // Who is not to have any, or does not answer, or holds most; not who leads, if it can be another.
        let worth = |member: &&u64| {
            let node = of(member);
            let leaves = node.is_none_or(|node| node.leaves);
            (
                !leaves,
                node.is_some_and(|node| node.fit),
                held.leader == Some(**member),
                loads.get(*member).map_or(0, |load| usize::MAX - load),
                **member,
            )
        };
        if let Some(from) = held.holders.iter().min_by_key(worth) {
            return Some(Move { shard: *shard, from: Some(*from), to: None, evens: false });
        }
    }
    for (shard, held) in movable() {
        let leaves = |member: &&u64| of(member).is_none_or(|node| node.leaves);
        for from in held.holders.iter().filter(leaves) {
            let to = taker(&loads, held);
            let gone = of(from).is_none_or(|node| node.gone) && held.holders.len() > 1;
            if to.is_some() || gone {
                return Some(Move { shard: *shard, from: Some(*from), to, evens: false });
            }
        }
    }
    for (shard, held) in movable().filter(|(_, held)| held.holders.len() < held.replicas) {
        if let Some(to) = taker(&loads, held) {
            return Some(Move { shard: *shard, from: None, to: Some(to), evens: false });
        }
    }
    // From whoever holds most to whoever holds least, among those that can.
    let mut best: Option<(usize, Move)> = None;
    for (shard, held) in movable() {
        let from = held.holders.iter().filter_map(|member| Some((*loads.get(member)?, *member)));
        let Some((most, from)) = from.max() else { continue };
        let Some(to) = taker(&loads, held) else { continue };
        let more = most.saturating_sub(loads[&to]);
        if more >= 2 && best.is_none_or(|(found, _)| more > found) {
            best = Some((more, Move { shard: *shard, from: Some(from), to: Some(to), evens: true }));
        }
    }
    best.map(|(_, found)| found)
}

/// The nodes that a new shard begins on: those that hold the fewest, an odd number of them.
pub fn founders(nodes: &[Node], shards: &BTreeMap<u32, Held>, replicas: usize) -> Vec<u64> {
    let mut loads: Vec<(usize, u64)> = loads(nodes, shards).into_iter().map(|(member, load)| (load, member)).collect();
    loads.sort_unstable();
    let count = replicas.min(loads.len());
    // As many as make sense: of two voters either could stop the shard.
    let count = if count.is_multiple_of(2) { count.saturating_sub(1) } else { count };
    let mut found: Vec<u64> = loads.into_iter().take(count).map(|(_, member)| member).collect();
    found.sort_unstable();
    found
}

impl Held {
    /// As the book says.
    pub fn of(line: &ShardLine, leader: Option<u64>) -> Held {
        let ShardLine { replicas, holders, leaving, .. } = line.clone();
        Held { replicas: replicas as usize, holders, leaving, leader }
    }
}

impl Move {
    /// The line after it.
    fn applied_to(&self, line: &ShardLine, gone: impl Fn(u64) -> bool) -> ShardLine {
        let mut line = ShardLine { moved: true, ..line.clone() };
        line.holders.retain(|holder| Some(*holder) != self.from);
        line.holders.extend(self.to);
        line.holders.sort_unstable();
        line.leaving.extend(self.from.filter(|from| !gone(*from)));
        line
    }
}

/// All nodes, as this one sees them.
pub fn nodes(cluster: &Cluster) -> Vec<Node> {
    let lines = book::read(&cluster.catalog().newest());
    let node = |(member, line): (MemberId, book::Line)| {
        let silent = if member == cluster.me() { Duration::ZERO } else { cluster.sightings().silent(member) };
        let told = line.removed || line.drained;
        let leaves = told || silent >= cluster.replace_after();
        Node { member: member.0, fit: !leaves && silent < FIT_FOR, leaves, silent: leaves && !told, gone: line.removed }
    };
    let mut nodes: Vec<Node> = lines.into_iter().map(node).collect();
    if nodes.is_empty() {
        // A cluster of one has no book of its members.
        nodes.push(Node { member: cluster.me().0, fit: true, leaves: false, silent: false, gone: false });
    }
    nodes
}

/// Shards that are on some nodes only.
pub fn placed(cluster: &Cluster) -> BTreeMap<u32, ShardLine> {
    book::shards(&cluster.catalog().newest()).into_iter().filter(|(_, line)| line.is_placed()).collect()
}

fn all_held(cluster: &Cluster, shards: &BTreeMap<u32, ShardLine>) -> BTreeMap<u32, Held> {
    shards.iter().map(|(id, line)| (*id, Held::of(line, cluster.led(*id).map(|part| part.leader)))).collect()
}

/// Whether there is a move to be made, or one under way.
pub fn pending(cluster: &Cluster) -> bool {
    let (nodes, shards) = (nodes(cluster), placed(cluster));
    let held = all_held(cluster, &shards);
    let leaves = |member: &u64| nodes.iter().any(|node| node.member == *member && !node.silent);
    next(&nodes, &held).is_some()
        || shards.iter().any(|(id, line)| is_moving(cluster, *id, line, &nodes) || line.leaving.iter().any(leaves))
}

/// Whether the members of a shard are not yet what its line wants. One whose holders cannot all be reached, or that nobody leads, is
/// not waited for: it may never come to be so.
fn is_moving(cluster: &Cluster, id: u32, line: &ShardLine, nodes: &[Node]) -> bool {
    let fit = |member: &u64| nodes.iter().any(|node| node.member == *member && node.fit);
    if !line.holders.iter().all(fit) {
        return false;
    }
    let Some(part) = cluster.led(id) else { return false };
    let mut all: Vec<u64> = part.voters.iter().chain(&part.learners).copied().collect();
    all.sort_unstable();
    let votes = part.voters.len() == line.holders.len() || part.voters.len() + 1 == line.holders.len();
    part.changing || all != line.holders || !votes
}

/// Looks where shards are, and where they are to be, for as long as the node runs.
pub async fn look_after(cluster: Cluster) {
    tokio::join!(sightings::run(cluster.clone()), run(cluster));
}

async fn run(cluster: Cluster) {
    let mut rested = Instant::now();
    let mut leads_since = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let catalog = cluster.catalog();
        if catalog.leader() != Some(cluster.me()) {
            leads_since = Instant::now();
            continue;
        }
        if leads_since.elapsed() < PAUSE {
            // Whoever led before may have begun something.
            continue;
        }
        let view = catalog.newest();
        let shards = placed(&cluster);
        if shards.is_empty() {
            continue;
        }
        let nodes = nodes(&cluster);
        let gone = |member: u64| nodes.iter().any(|node| node.member == member && node.gone);
        let namespaces = book::namespaces(&view);
        let mut lines = Vec::new();
        for (id, line) in &shards {
            // A number that was removed from the cluster never comes back.
            let leaving = line.leaving.iter().copied().filter(|member| !gone(*member)).collect();
            let wanted = ShardLine { leaving, replicas: line.wanted(*id, &namespaces), ..line.clone() };
            if wanted != *line {
                lines.push((*id, wanted));
            }
        }
        if lines.is_empty() {
            if shards.iter().any(|(id, line)| is_moving(&cluster, *id, line, &nodes)) {
                rested = Instant::now();
                continue;
            }
            let held = all_held(&cluster, &shards);
            let Some(wanted) = next(&nodes, &held) else { continue };
            if rested.elapsed() < if wanted.evens { PAUSE } else { PAUSE_SHORT } {
                continue;
            }
            let Some(line) = shards.get(&wanted.shard) else { continue };
            tracing::info!(
                shard = wanted.shard,
                from = wanted.from,
                to = wanted.to,
                evens = wanted.evens,
                "a shard's member is moved"
            );
            lines.push((wanted.shard, wanted.applied_to(line, gone)));
        }
        for (id, line) in lines {
            let Some((there, version)) = book::shard(&view, id) else { continue };
            if shards.get(&id) != Some(&there) {
                continue;
            }
            let Some(envelope) = book::moving(&view, id, version, &line) else { continue };
            // Refused if the line is another by now.
            if let Err(error) = cluster.of_catalog().write(envelope, Instant::now() + WRITE_TIME).await {
                tracing::info!(shard = id, ?error, "who holds a shard could not be written down");
            }
        }
        rested = Instant::now();
    }
}

/// How long a node may be silent until others get its members, unless the options say.
pub const REPLACE_AFTER: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    /// A generator of numbers that repeat with their seed.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) as usize) % bound
        }
    }

    fn good(member: u64) -> Node {
        Node { member, fit: true, leaves: false, silent: false, gone: false }
    }

    fn held(replicas: usize, holders: &[u64]) -> Held {
        Held { replicas, holders: holders.to_vec(), leaving: Vec::new(), leader: holders.first().copied() }
    }

    /// Makes moves until there are none; the old holder throws its part away at once.
    fn settle(nodes: &[Node], shards: &mut BTreeMap<u32, Held>, seed: u64) -> usize {
        let most = 4 * shards.values().map(|held| held.replicas).sum::<usize>() + 4;
        for made in 0.. {
            assert!(made <= most, "seed {seed}: it does not come to an end");
            let Some(wanted) = next(nodes, shards) else { return made };
            let held = shards.get_mut(&wanted.shard).unwrap();
            let before = held.holders.len();
            if let Some(from) = wanted.from {
                assert!(held.holders.contains(&from), "seed {seed}");
                held.holders.retain(|holder| *holder != from);
            }
            if let Some(to) = wanted.to {
                assert!(!held.holders.contains(&to), "seed {seed}: two members on node {to}");
                assert!(nodes.iter().any(|node| node.member == to && node.fit), "seed {seed}");
                held.holders.push(to);
            }
            let gone = wanted.from.is_some_and(|from| nodes.iter().any(|node| node.member == from && node.gone));
            let few = held.holders.len() < before;
            assert!(!few || gone || before > held.replicas, "seed {seed}: fewer than before");
            let stays = |member: u64| nodes.iter().any(|node| node.member == member && node.fit && !node.leaves);
            assert!(
                !few || wanted.from != held.leader || !held.leader.is_some_and(stays),
                "seed {seed}: the leader goes"
            );
            if held.leader.is_some_and(|leader| !held.holders.contains(&leader)) {
                held.leader = held.holders.first().copied();
            }
            assert!(held.holders.len() <= held.replicas.max(before), "seed {seed}");
        }
        unreachable!()
    }

    #[test]
    fn placement_comes_to_an_end_where_all_is_even_and_nobody_keeps_what_he_is_not_to_have() {
        for seed in 0..3_000_u64 {
            let mut dice = Dice(seed);
            let count = 1 + dice.below(8) as u64;
            let mut nodes: Vec<Node> = (1..=count).map(good).collect();
            let mut shards = BTreeMap::new();
            for id in 2..2 + dice.below(20) as u32 {
                let replicas = [1, 3, 5][dice.below(3)];
                shards.insert(id, held(replicas, &founders(&nodes, &shards, replicas)));
            }
            for _ in 0..4 {
                match dice.below(5) {
                    4 => shards.values_mut().for_each(|held| {
                        // Somebody wants another number.
                        if dice.below(2) == 0 {
                            held.replicas = [1, 3, 5][dice.below(3)];
                        }
                    }),
                    0 => nodes.push(good(nodes.len() as u64 + 1)),
                    1 => {
                        let at = dice.below(nodes.len());
                        let removed = dice.below(2) == 0;
                        nodes[at] = Node { fit: false, leaves: true, gone: removed, ..nodes[at] };
                    }
                    2 => {
                        // Just not heard of: it gets nothing, and keeps what it has.
                        let at = dice.below(nodes.len());
                        nodes[at].fit = false;
                    }
                    _ => {
                        let at = dice.below(nodes.len());
                        if !nodes[at].gone {
                            nodes[at] = good(nodes[at].member);
                        }
                    }
                }
                settle(&nodes, &mut shards, seed);
                let fit = nodes.iter().filter(|node| node.fit).count();
                for (id, held) in &shards {
                    let mut once = held.holders.clone();
                    once.sort_unstable();
                    once.dedup();
                    assert_eq!(once.len(), held.holders.len(), "seed {seed}: shard {id} twice on a node");
                    let silent =
                        nodes.iter().filter(|n| !n.fit && !n.leaves && held.holders.contains(&n.member)).count();
                    if fit + silent >= held.replicas {
                        let kept = held.holders.iter().filter(|holder| nodes[**holder as usize - 1].leaves).count();
                        assert!(
                            kept == 0 && held.holders.len() == held.replicas,
                            "seed {seed}: shard {id} is held by {:?} of {nodes:?}",
                            held.holders
                        );
                    }
                }
                let loads = loads(&nodes, &shards);
                let (least, most) = (loads.values().min(), loads.values().max());
                let uneven = most.unwrap_or(&0) - least.unwrap_or(&0) >= 2;
                assert!(!uneven, "seed {seed}: {loads:?} of {nodes:?}");
                assert_eq!(settle(&nodes, &mut shards, seed), 0, "seed {seed}");
            }
        }
    }

    #[test]
    fn a_new_node_gets_what_makes_all_even_and_nothing_else_moves() {
        let mut shards: BTreeMap<u32, Held> = (2..10).map(|id| (id, held(3, &[1, 2, 3]))).collect();
        let nodes: Vec<Node> = (1..=4).map(good).collect();
        assert_eq!(settle(&nodes, &mut shards, 0), 6, "24 members on four nodes");
        assert_eq!(settle(&nodes[..4], &mut shards, 0), 0);
    }

    #[test]
    fn what_nobody_leads_is_not_moved() {
        let away = Node { leaves: true, fit: false, ..good(3) };
        let nodes = [good(1), good(2), away, good(4)];
        let shards = BTreeMap::from([(2, Held { leader: None, ..held(3, &[1, 2, 3]) }), (3, held(3, &[1, 2, 3]))]);
        assert_eq!(next(&nodes, &shards).map(|found| found.shard), Some(3));
    }

    #[test]
    fn nobody_holds_again_what_he_has_not_thrown_away() {
        let leaving = Held { leaving: vec![4], ..held(3, &[1, 2, 3]) };
        let away = Node { leaves: true, fit: false, ..good(3) };
        let shards = BTreeMap::from([(2, leaving)]);
        assert_eq!(next(&[good(1), good(2), away, good(4)], &shards), None);
        let other = next(&[good(1), good(2), away, good(4), good(5)], &shards);
        assert_eq!(other.map(|found| (found.from, found.to)), Some((Some(3), Some(5))));
    }

    #[test]
    fn a_line_says_who_has_left_unless_he_is_gone_for_good() {
        let line = ShardLine {
            founders: vec![1, 2, 3],
            digest_key: String::new(),
            replicas: 3,
            holders: vec![1, 2, 3],
            leaving: vec![],
            moved: false,
        };
        let moved = Move { shard: 2, from: Some(2), to: Some(4), evens: true };
        let after = moved.applied_to(&line, |_| false);
        assert_eq!((after.holders, after.leaving, after.moved), (vec![1, 3, 4], vec![2], true));
        assert_eq!(moved.applied_to(&line, |member| member == 2).leaving, Vec::<u64>::new());
    }
}
