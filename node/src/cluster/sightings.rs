//! Sightings: where the shards are that not every node has a part in, as their own nodes say.
//!
//! ```text
//!   every second, once the book has such a shard: each other node --Parts--> which shards it has, who leads each, who votes
//!   a call for a shard that is not here --> who leads it? --> there; wrong: ask its holders anew, and again
//! ```
//!
//! What is seen is a hint, a second old: whoever acts on it is told by the node that he goes to, or by the version of what he
//! writes, if it is no longer so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use loci_raft::MemberId;
use loci_wire::v1;

use super::placement::FIT_FOR;
use super::{Cluster, book};
use crate::shard::ShardHandle;
use crate::shards::CATALOG;

/// How often all other nodes are asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two looks for the same shard there is at least this, however many want to know.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How long one of them may take to answer.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// What a node said longer ago than this counts no more.
const COUNTS_FOR: Duration = Duration::from_secs(4);

/// What other nodes said of their shards.
#[derive(Debug, Default)]
pub struct Sightings {
    known: Mutex<HashMap<MemberId, Seen>>,
    /// When somebody last looked for a shard.
    looked: Mutex<HashMap<u32, Instant>>,
    /// Whether there are shards that not every node has a part in, as far as was looked.
    any: AtomicBool,
}

#[derive(Debug)]
struct Seen {
    /// When it answered last; when it was first asked, if it never has.
    at: Instant,
    /// It has answered.
    heard: bool,
    parts: Vec<v1::ShardPart>,
}

impl Sightings {
    fn known<T>(&self, work: impl FnOnce(&mut HashMap<MemberId, Seen>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there are shards that not every node has a part in, as far as was looked.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether nobody has looked for a shard for a moment; whoever asks does.
    fn may_look(&self, shard: u32) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = looked.get(&shard).is_none_or(|at| now - *at >= LOOK_AGAIN_AFTER);
        if may {
            looked.insert(shard, now);
        }
        may
    }

    /// How long a node has not answered; of one that never has, long enough to be given nothing.
    pub fn silent(&self, member: MemberId) -> Duration {
        self.known(|known| match known.get(&member) {
            Some(seen) if seen.heard => seen.at.elapsed(),
            Some(seen) => seen.at.elapsed().max(FIT_FOR),
            None => FIT_FOR,
        })
    }

    /// Whether a node said lately that a shard does not answer there.
    pub fn is_not_ready(&self, member: MemberId, shard: u32) -> bool {
        self.of(shard).iter().any(|(said_by, part)| *said_by == member && !part.ready)
    }

    /// Whether a node said lately that a shard answers there.
    pub fn is_ready(&self, member: MemberId, shard: u32) -> bool {
        self.of(shard).iter().any(|(said_by, part)| *said_by == member && part.ready)
    }

    /// What was lately said of a shard, and by whom.
    fn of(&self, shard: u32) -> Vec<(MemberId, v1::ShardPart)> {
        self.known(|known| {
            let lately = known.iter().filter(|(_, seen)| seen.at.elapsed() < COUNTS_FOR);
            let parts = lately.flat_map(|(member, seen)| seen.parts.iter().map(|part| (*member, part)));
            parts.filter(|(_, part)| part.shard == shard).map(|(member, part)| (member, part.clone())).collect()
        })
    }
}

/// A shard's part of this node, for others.
pub fn part(shard: &ShardHandle) -> v1::ShardPart {
    let (members, last) = (shard.members(), shard.newest().index());
    let leader = shard.leader().filter(|_| shard.status().role == "leader");
    let others = shard.progress().into_iter().filter(|known| leader.is_some_and(|own| own != known.member));
    let ids = |members: &[MemberId]| members.iter().map(|member| member.0).collect();
    v1::ShardPart {
        shard: shard.id(),
        leader: shard.leader().map_or(0, |leader| leader.0),
        term: shard.status().term,
        voters: members.as_ref().map_or_else(Vec::new, |members| ids(members.voters())),
        learners: members.as_ref().map_or_else(Vec::new, |members| ids(members.learners())),
        changing: members.as_ref().is_some_and(|members| members.joint()),
        records: shard.newest().stats().records,
        ready: shard.is_ready() && !shard.is_out_of_service(),
        clock: shard.newest().clock(),
        progress: others
            .map(|known| v1::MemberProgress {
                member: known.member.0,
                active: known.active,
                lag: last.saturating_sub(known.matched),
                snapshot: known.snapshot,
            })
            .collect(),
    }
}

/// The word of whoever leads counts most, then that of the newest term.
fn best(said: Vec<(MemberId, v1::ShardPart)>) -> Option<(MemberId, v1::ShardPart)> {
    said.into_iter().max_by_key(|(member, part)| (part.leader == member.0, part.term, part.leader != 0))
}

impl Cluster {
    /// A shard that runs here and in which this node is to have a part.
    pub fn held(&self, id: u32) -> Option<ShardHandle> {
        let handle = self.shards().handle(id)?;
        let is_holder = || book::shard(&self.catalog().newest(), id).is_none_or(|(line, _)| line.is_held_by(self.me()));
        // Who is to go and leads still answers: the one that comes may need long.
        let is_wanted = || is_holder() || handle.leader() == Some(self.me());
        let here = !handle.is_removed() && (!self.sightings().any() || is_wanted());
        here.then_some(handle)
    }

    /// Whether a shard answers here. One that is out of service does not, though it takes part.
    pub fn answers(&self, id: u32) -> bool {
        self.held(id).is_some_and(|shard| shard.is_ready() && !shard.is_out_of_service())
    }

    /// What the node that leads a shard says of it, if that was seen lately; this one's own word, if it leads.
    pub fn led(&self, id: u32) -> Option<v1::ShardPart> {
        if let Some(shard) = self.shards().handle(id)
            && shard.leader() == Some(self.me())
        {
            return Some(part(&shard));
        }
        best(self.sightings().of(id)).filter(|(member, part)| part.leader == member.0).map(|(_, part)| part)
    }

    /// The best that is known of a shard.
    pub fn sighted(&self, id: u32) -> Option<v1::ShardPart> {
        let own = self.shards().handle(id).map(|shard| (self.me(), part(&shard)));
        best(self.sightings().of(id).into_iter().chain(own).collect()).map(|(_, part)| part)
    }

    /// Who leads a shard, wherever it is, as far as this node knows.
    pub fn leader_of(&self, id: u32) -> Option<MemberId> {
        if let Some(leader) = self.held(id).and_then(|shard| shard.leader()) {
            return Some(leader);
        }
        best(self.sightings().of(id)).map(|(_, part)| part.leader).filter(|leader| *leader != 0).map(MemberId)
    }

    /// How many shards with records of some namespace nobody leads, as far as this node knows.
    pub fn unled(&self) -> usize {
        let namespaces = book::namespaces(&self.catalog().newest());
        let used: BTreeSet<u32> =
            namespaces.values().flat_map(|line| line.shards.iter().copied()).chain([CATALOG]).collect();
        used.into_iter().filter(|id| self.leader_of(*id).is_none()).count()
    }

    /// The term in which it does.
    pub fn term_of(&self, id: u32) -> u64 {
        match self.held(id) {
            Some(shard) => shard.status().term,
            None => best(self.sightings().of(id)).map_or(0, |(_, part)| part.term),
        }
    }

    /// What a shard's log has as its clock, or had: in milliseconds, zero if nothing was heard.
    pub fn clock_of(&self, id: u32) -> u64 {
        let own = self.shards().handle(id).map(|shard| shard.newest().clock());
        let said = self.sightings().of(id).into_iter().map(|(_, part)| part.clock);
        said.chain(own).max().unwrap_or(0)
    }

    /// Nodes that answer for a shard, the one that leads it first; then, if nobody was seen, those that the book names.
    pub fn answering(&self, id: u32) -> Vec<MemberId> {
        let leader = self.leader_of(id);
        let said = self.sightings().of(id);
        let mut ready: Vec<MemberId> = said.iter().filter(|(_, part)| part.ready).map(|(member, _)| *member).collect();
        ready.sort_unstable();
        let named = book::shard(&self.catalog().newest(), id).map_or_else(Vec::new, |(line, _)| line.holders);
        let mut all: Vec<MemberId> = leader.into_iter().chain(ready).chain(named.into_iter().map(MemberId)).collect();
        all.retain(|member| *member != self.me());
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|member| seen.insert(*member));
        all
    }

    /// Asks nodes for their shards.
    pub async fn look_at(&self, members: impl IntoIterator<Item = MemberId>) {
        let asked = members.into_iter().filter(|member| *member != self.me()).map(|member| async move {
            self.sightings().known(|known| {
                known.entry(member).or_insert_with(|| Seen { at: Instant::now(), heard: false, parts: Vec::new() });
            });
            let asking = async { self.links().client(member)?.parts(v1::PartsRequest {}).await };
            if let Ok(Ok(reply)) = tokio::time::timeout(ANSWER_TIME, asking).await {
                let seen = Seen { at: Instant::now(), heard: true, parts: reply.into_inner().parts };
                self.sightings().known(|known| known.insert(member, seen));
            }
        });
        join_all(asked).await;
    }

    /// Asks those that may know where a shard is, unless that was done a moment ago.
    pub async fn look_for(&self, id: u32) {
        if !self.sightings().may_look(id) {
            return;
        }
        let named = book::shard(&self.catalog().newest(), id).map_or_else(Vec::new, |(line, _)| line.holders);
        self.look_at(named.into_iter().map(MemberId)).await;
    }
}

/// Looks for as long as the node runs.
pub async fn run(cluster: Cluster) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let view = cluster.catalog().newest();
        let placed: BTreeMap<u32, book::ShardLine> = book::shards(&view);
        let any = placed.values().any(book::ShardLine::is_placed);
        cluster.sightings().any.store(any, Ordering::Relaxed);
        if !any {
            continue;
        }
        let lines = book::read(&view);
        cluster.sightings().known(|known| known.retain(|member, _| lines.get(member).is_some_and(|l| !l.removed)));
        let others: Vec<MemberId> = lines.iter().filter(|(_, line)| !line.removed).map(|(member, _)| *member).collect();
        cluster.look_at(others).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_that_a_shard_is_out_of_service_is_not_ready_and_who_said_nothing_may_be() {
        let sightings = Sightings::default();
        let part = |shard, ready| v1::ShardPart { shard, ready, ..v1::ShardPart::default() };
        let seen = Seen { at: Instant::now(), heard: true, parts: vec![part(2, true), part(3, false)] };
        sightings.known(|known| known.insert(MemberId(1), seen));
        let not_ready = |member, shard| sightings.is_not_ready(MemberId(member), shard);
        assert!(not_ready(1, 3) && !not_ready(1, 2) && !not_ready(1, 4) && !not_ready(2, 3));
    }

    #[test]
    fn the_word_of_the_newest_leader_counts() {
        let said = |member: u64, leader: u64, term: u64| {
            (MemberId(member), v1::ShardPart { shard: 2, leader, term, ..v1::ShardPart::default() })
        };
        let best = |said: Vec<(MemberId, v1::ShardPart)>| best(said).map(|(member, _)| member.0);
        assert_eq!(best(vec![]), None);
        assert_eq!(best(vec![said(1, 0, 5), said(2, 3, 5)]), Some(2), "who knows of one");
        assert_eq!(best(vec![said(1, 2, 6), said(2, 2, 6), said(3, 2, 6)]), Some(2), "who leads");
        assert_eq!(best(vec![said(1, 1, 4), said(2, 2, 6)]), Some(2), "and not long ago");
    }
}
