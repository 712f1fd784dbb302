//! The maps that a client has: which node leads which shard of a namespace, and which keys that has. How it comes to know is in
//! `loci_wire`'s module `route`.
//!
//! ```text
//!   namespace --> version, parts in the order of slots: up to which slot, shard, term, leader, who has it
//!   call: namespace, slots --where--> part     reply: shard 5 is led by N, in term 9, as of version 80 --take in-->
//!     as of the map's version or an older one: N leads the part with that shard, unless a greater term is known
//!     as of a newer one:                       the same, and the map is asked for
//!     of shard 1, if that is not older:        N leads all of the namespace: this is the map
//! ```
//!
//! Always: a map covers all slots. It is replaced by a newer one only, and what is known of leaders goes on to that. Maps and their
//! parts are bounded in number; when there are too many, all are forgotten, which costs detours.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use loci_wire::{CATALOG, SLOTS, v1};
use tokio::time::Instant;

use crate::wish::Span;

/// The most shards of a namespace.
const SHARDS_MAX: usize = 64;
/// The most nodes that a map may speak of.
const NODES_MAX: usize = 64;
/// The most parts of all maps together.
const PARTS_MAX: usize = 1 << 16;
/// How often a namespace's map is asked for at the most.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Where keys are, and who leads there. `N`: a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part<N> {
    last: u16,
    pub shard: u32,
    term: u64,
    pub leader: Option<N>,
    /// None: every node has it.
    pub holders: Arc<[N]>,
}

/// Of one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Map<N> {
    pub version: u64,
    parts: Vec<Part<N>>,
}

impl<N: Clone + PartialEq> Map<N> {
    /// What a node says, with nodes found by their addresses; none, if it is nonsense.
    pub fn read(reply: &v1::RouteReply, mut at: impl FnMut(&str) -> Option<N>) -> Option<Map<N>> {
        if reply.nodes.len() > NODES_MAX || reply.shards.len() > SHARDS_MAX {
            return None;
        }
        let nodes: HashMap<u64, N> =
            reply.nodes.iter().filter_map(|node| Some((node.member, at(&node.address)?))).collect();
        let mut next = 0;
        let mut parts = Vec::with_capacity(reply.shards.len());
        for part in &reply.shards {
            let last = u16::try_from(part.last_slot).ok().filter(|last| *last < SLOTS)?;
            if part.first_slot != next || part.last_slot < part.first_slot || part.holders.len() > NODES_MAX {
                return None;
            }
            next = part.last_slot + 1;
            let holders = part.holders.iter().filter_map(|member| nodes.get(member).cloned()).collect();
            let leader = nodes.get(&part.leader).cloned();
            parts.push(Part { last, shard: part.shard, term: part.term, leader, holders });
        }
        (next == u32::from(SLOTS)).then_some(Map { version: reply.version, parts })
    }

    /// Of a namespace that is all in one shard.
    fn whole(hint: &v1::Leader, leader: N) -> Map<N> {
        let part =
            Part { last: SLOTS - 1, shard: hint.shard, term: hint.term, leader: Some(leader), holders: Arc::default() };
        Map { version: hint.version, parts: vec![part] }
    }

    /// The part that has these slots, if one has all.
    fn part(&self, (least, most): Span) -> Option<&Part<N>> {
        let part = self.parts.get(self.parts.partition_point(|part| part.last < least))?;
        (most <= part.last).then_some(part)
    }

    /// Who leads all of it.
    fn leader(&self) -> Option<&N> {
        let (first, rest) = self.parts.split_first()?;
        let leader = first.leader.as_ref()?;
        rest.iter().all(|part| part.leader.as_ref() == Some(leader)).then_some(leader)
    }

    /// Takes in who leads a shard, unless a greater term is known.
    fn lead(&mut self, shard: u32, term: u64, leader: &N) {
        for part in self.parts.iter_mut().filter(|part| part.shard == shard && part.term <= term) {
            part.term = term;
            if part.leader.as_ref() != Some(leader) {
                part.leader = Some(leader.clone());
            }
        }
    }

    /// Whether that would change nothing.
    fn knows(&self, hint: &v1::Leader, leader: &N) -> bool {
        let mut of_shard = self.parts.iter().filter(|part| part.shard == hint.shard);
        hint.version <= self.version
            && of_shard
                .all(|part| part.term > hint.term || part.term == hint.term && part.leader.as_ref() == Some(leader))
    }
}

/// Where a call goes.
#[derive(Debug)]
pub(crate) struct Spot<N> {
    /// Who leads.
    pub leader: Option<N>,
    /// Who has it. None: every node, or it is not known.
    pub holders: Arc<[N]>,
    /// What the node is told that the client believes.
    pub known: Option<v1::KnownRoute>,
}

/// Of all namespaces.
#[derive(Debug)]
pub(crate) struct Routes<N> {
    known: RwLock<Known<N>>,
    asked: Mutex<HashMap<String, Instant>>,
}

#[derive(Debug)]
struct Known<N> {
    maps: HashMap<String, Map<N>>,
    /// Of all maps.
    parts: usize,
}

impl<N> Default for Routes<N> {
    fn default() -> Routes<N> {
        Routes { known: RwLock::new(Known { maps: HashMap::new(), parts: 0 }), asked: Mutex::default() }
    }
}

impl<N: Clone + PartialEq> Known<N> {
    fn put(&mut self, namespace: &str, map: Map<N>) {
        self.parts -= self.maps.remove(namespace).map_or(0, |old| old.parts.len());
        if self.parts + map.parts.len() > PARTS_MAX {
            self.maps.clear();
            self.parts = 0;
        }
        self.parts += map.parts.len();
        self.maps.insert(namespace.to_owned(), map);
    }
}

impl<N: Clone + PartialEq> Routes<N> {
    /// Where a call about these slots goes, or about all.
    pub fn spot(&self, namespace: &str, span: Option<Span>) -> Option<Spot<N>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let map = known.maps.get(namespace)?;
        Some(match span.and_then(|span| map.part(span)) {
            Some(part) => Spot {
                leader: part.leader.clone(),
                holders: part.holders.clone(),
                known: Some(v1::KnownRoute { version: map.version, shard: part.shard }),
            },
            None => Spot { leader: map.leader().cloned(), holders: Arc::default(), known: None },
        })
    }

    /// Takes in what a reply says of who leads; whether there is a newer map to be asked for.
    pub fn hint(&self, namespace: &str, hint: &v1::Leader, leader: N) -> bool {
        let read = self.known.read().unwrap_or_else(PoisonError::into_inner);
        // Nearly every one says what is known.
        if read.maps.get(namespace).is_some_and(|map| map.knows(hint, &leader)) {
            return false;
        }
        drop(read);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_newer = known.maps.get(namespace).is_none_or(|map| hint.version > map.version);
        if is_newer && hint.shard == CATALOG {
            let mut map = Map::whole(hint, leader);
            known.maps.get(namespace).into_iter().for_each(|old| take_over(&mut map, old));
            known.put(namespace, map);
        } else if let Some(map) = known.maps.get_mut(namespace) {
            map.lead(hint.shard, hint.term, &leader);
        }
        is_newer && hint.shard != CATALOG
    }

    /// Takes in a map, unless a newer one is there.
    pub fn learn(&self, namespace: &str, mut map: Map<N>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match known.maps.get(namespace) {
            Some(old) if old.version > map.version => {}
            old => {
                old.into_iter().for_each(|old| take_over(&mut map, old));
                known.put(namespace, map);
            }
        }
    }

    /// Whether a namespace's map may be asked for now: not for the time being, if that is so.
    pub fn asks(&self, namespace: &str, now: Instant) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.get(namespace).is_some_and(|last| now.saturating_duration_since(*last) < ASK_INTERVAL) {
            return false;
        }
        if asked.len() >= PARTS_MAX {
            asked.clear();
        }
        asked.insert(namespace.to_owned(), now);
        true
    }
}

/// What an older map has heard of leaders in greater terms is so in the newer one, too.
fn take_over<N: Clone + PartialEq>(map: &mut Map<N>, old: &Map<N>) {
    for part in &old.parts {
        if let Some(leader) = &part.leader {
            let is_newer = |own: &&mut Part<N>| own.shard == part.shard && own.term < part.term;
            for own in map.parts.iter_mut().filter(is_newer) {
                (own.term, own.leader) = (part.term, Some(leader.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Reply = v1::RouteReply;

    /// So many shards from this one on, the first led by member 1, the next by 2, and so on.
    fn reply(version: u64, first: u32, count: u32) -> Reply {
        let slots = u32::from(SLOTS);
        let shard = |at: u32| v1::RouteShard {
            shard: first + at,
            first_slot: (at * slots).div_ceil(count),
            last_slot: ((at + 1) * slots).div_ceil(count) - 1,
            leader: u64::from(at % 3) + 1,
            term: 5,
            holders: vec![1, 2, 3],
        };
        let nodes = (1..=3).map(|member| v1::RouteNode { member, address: format!("n{member}") }).collect();
        Reply { version, shards: (0..count).map(shard).collect(), nodes }
    }

    fn map(reply: &Reply) -> Option<Map<String>> {
        Map::read(reply, |address| Some(address.to_owned()))
    }

    fn hint(routes: &Routes<String>, shard: u32, term: u64, version: u64, leader: &str) -> bool {
        let hint = v1::Leader { shard, address: leader.into(), term, version };
        routes.hint("ns", &hint, leader.to_owned())
    }

    /// Who leads each of so many even parts, and in which shard it is.
    fn led(routes: &Routes<String>, parts: u16) -> Vec<(u32, String)> {
        let slot = |at: u16| at * (SLOTS / parts) + SLOTS / parts / 2;
        let spot = |at| routes.spot("ns", Some((slot(at), slot(at)))).unwrap();
        (0..parts).map(spot).map(|spot| (spot.known.unwrap().shard, spot.leader.unwrap_or_default())).collect()
    }

    fn pairs(expected: &[(u32, &str)]) -> Vec<(u32, String)> {
        expected.iter().map(|(shard, leader)| (*shard, (*leader).to_owned())).collect()
    }

    #[test]
    fn a_map_says_who_leads_the_shard_of_some_slots() {
        let routes = Routes::default();
        assert!(routes.spot("ns", None).is_none());
        routes.learn("ns", map(&reply(80, 5, 4)).unwrap());
        assert_eq!(led(&routes, 4), pairs(&[(5, "n1"), (6, "n2"), (7, "n3"), (8, "n1")]));
        for (span, shard) in
            [((0, 4_095), Some(5)), ((4_096, 4_096), Some(6)), ((0, 4_096), None), ((16_383, 16_383), Some(8))]
        {
            let spot = routes.spot("ns", Some(span)).unwrap();
            assert_eq!(
                spot.known.map(|known| (known.version, known.shard)),
                shard.map(|shard| (80, shard)),
                "{span:?}"
            );
            assert_eq!(spot.holders.len(), if shard.is_some() { 3 } else { 0 });
        }
        assert_eq!(routes.spot("ns", None).unwrap().leader, None, "several lead");
        for shard in 5..9 {
            assert!(!hint(&routes, shard, 6, 80, "n2"));
        }
        assert_eq!(routes.spot("ns", None).unwrap().leader.as_deref(), Some("n2"), "one leads all");
        assert!(routes.spot("other", None).is_none());
    }

    #[test]
    fn of_leaders_the_greater_term_counts_and_of_maps_the_greater_version() {
        let routes = Routes::default();
        routes.learn("ns", map(&reply(80, 5, 2)).unwrap());
        assert!(!hint(&routes, 5, 7, 60, "n3"), "an older version says nothing of the map, but of the leader");
        assert!(!hint(&routes, 5, 6, 80, "n2"));
        assert!(!hint(&routes, 9, 6, 80, "n2"), "there is no such shard");
        assert_eq!(led(&routes, 2), pairs(&[(5, "n3"), (6, "n2")]));
        routes.learn("ns", map(&reply(79, 9, 1)).unwrap());
        assert_eq!(led(&routes, 2), pairs(&[(5, "n3"), (6, "n2")]), "the older map is not taken");
        assert!(hint(&routes, 6, 8, 81, "n1"), "there is a newer one");
        assert_eq!(led(&routes, 2), pairs(&[(5, "n3"), (6, "n1")]));
        // It is asked of a node that has heard less of who leads.
        routes.learn("ns", map(&reply(81, 5, 3)).unwrap());
        assert_eq!(led(&routes, 3), pairs(&[(5, "n3"), (6, "n1"), (7, "n3")]));
        assert!(!hint(&routes, 5, 7, 81, "n3"));
    }

    #[test]
    fn a_namespace_without_shards_of_its_own_needs_no_map() {
        let routes = Routes::default();
        assert!(!hint(&routes, 1, 0, 0, "n1"), "from a node of an older version");
        assert_eq!(led(&routes, 1), pairs(&[(1, "n1")]));
        assert!(!hint(&routes, 1, 0, 0, "n2"));
        assert!(!hint(&routes, 1, 4, 50, "n3"));
        assert!(!hint(&routes, 1, 3, 60, "n1"), "a newer version, but of an older term");
        assert_eq!(led(&routes, 1), pairs(&[(1, "n3")]));
        // It is dropped, and made with shards.
        assert!(hint(&routes, 5, 2, 80, "n2"));
        routes.learn("ns", map(&reply(80, 5, 2)).unwrap());
        assert!(!hint(&routes, 1, 9, 70, "n1"), "from a node that has not heard of it");
        assert_eq!(led(&routes, 2), pairs(&[(5, "n1"), (6, "n2")]));
        // It is dropped, and made without.
        assert!(!hint(&routes, 1, 9, 90, "n1"));
        assert_eq!(led(&routes, 1), pairs(&[(1, "n1")]));
    }

    #[test]
    fn nonsense_is_no_map() {
        let good = reply(80, 5, 4);
        assert!(map(&good).is_some());
        let wrong: [fn(&mut Reply); 8] = [
            |reply| reply.shards.clear(),
            |reply| drop(reply.shards.pop()),
            |reply| drop(reply.shards.remove(0)),
            |reply| reply.shards.swap(1, 2),
            |reply| reply.shards[1].first_slot += 1,
            |reply| reply.shards[3].last_slot = u32::MAX,
            |reply| reply.shards[3].last_slot = 16_384,
            |reply| reply.nodes = vec![v1::RouteNode::default(); NODES_MAX + 1],
        ];
        for (number, change) in wrong.into_iter().enumerate() {
            let mut reply = good.clone();
            change(&mut reply);
            assert_eq!(map(&reply), None, "{number}");
        }
        // Who is not known leads nothing, and has nothing.
        let mut reply = good;
        reply.shards[0].leader = 9;
        reply.shards[0].holders = vec![9, 2];
        let map = Map::read(&reply, |address| (address != "n3").then(|| address.to_owned())).unwrap();
        assert_eq!((&map.parts[0].leader, &map.parts[2].leader), (&None, &None));
        assert_eq!(map.parts[0].holders[..], ["n2"]);
    }

    #[test]
    fn maps_take_bounded_memory() {
        let routes = Routes::default();
        let one = map(&reply(1, 2, SHARDS_MAX as u32)).unwrap();
        for number in 0..3 * PARTS_MAX / SHARDS_MAX {
            routes.learn(&number.to_string(), one.clone());
            let known = routes.known.read().unwrap();
            assert!(known.parts <= PARTS_MAX && known.maps.len() * SHARDS_MAX == known.parts, "{number}");
        }
        let now = Instant::now();
        for number in 0..2 * PARTS_MAX {
            let namespace = number.to_string();
            assert!(routes.asks(&namespace, now) && !routes.asks(&namespace, now));
        }
        assert!(routes.asked.lock().unwrap().len() <= PARTS_MAX);
        assert!(routes.asks("7", now + ASK_INTERVAL));
    }
}
