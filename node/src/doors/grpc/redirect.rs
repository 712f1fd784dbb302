//! What clients are told beside an answer of the node that answers without a detour, and the map by which they find it. How
//! they talk about that is in `loci_wire`'s module `route`.
//!
//! ```text
//!   request --keys, the newest catalog here--> the one shard that it is about --answered--> who leads it, if
//!     another than this node does, or the client believes in another shard, or there is a newer map than the client's
//! ```
//!
//! Always: nothing here decides where a call is answered. It is looked at what the client believes only to tell it more.

use loci_raft::MemberId;
use loci_wire::{About, v1};
use tonic::Code;

use super::calls::Calls;
use super::convert::{self, NAMESPACE_DEFAULT};
use super::status::Failure;
use crate::cluster::book;
use crate::router::{Found, Route, slot, slots_of};
use crate::shards::CATALOG;

/// What a call is about, and what its client believes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Subject {
    /// None: several shards.
    shard: Option<u32>,
    version: u64,
    known: Option<v1::KnownRoute>,
}

impl Subject {
    /// Of a call about the catalog.
    pub fn catalog() -> Subject {
        Subject { shard: Some(CATALOG), ..Subject::default() }
    }
}

/// The shard that has all keys that a request names; none: they are in several, or it names none.
fn one_shard(route: &Route, request: &(impl About + ?Sized)) -> Option<u32> {
    if let [shard] = route.shards() {
        return Some(*shard);
    }
    // Shards have slots in order: what has the least and the greatest has all.
    let mut span: Option<(u16, u16)> = None;
    request.each_key(&mut |key| {
        let slot = slot(key);
        span = Some(span.map_or((slot, slot), |(least, most)| (least.min(slot), most.max(slot))));
    });
    let (least, most) = span?;
    let shard = route.shard_of(least);
    (route.shard_of(most) == shard).then_some(shard)
}

impl Calls {
    /// What a call is about, as this node's catalog has it.
    pub fn subject(&self, request: &(impl About + ?Sized), known: Option<v1::KnownRoute>) -> Subject {
        let namespace = match request.namespace() {
            "" => NAMESPACE_DEFAULT,
            namespace => namespace,
        };
        let catalog = self.cluster.catalog().newest();
        match Route::find(&catalog, namespace) {
            Found::Catalog => Subject { shard: Some(CATALOG), version: catalog.position().get(), known },
            Found::BeingMade => Subject::default(),
            Found::Route(route) => Subject { shard: one_shard(&route, request), version: route.version(), known },
        }
    }

    /// What the client of a call is told, now that it is answered.
    pub fn redirect(&self, subject: &Subject) -> Option<v1::Leader> {
        let Subject { shard: Some(shard), version, known } = *subject else { return None };
        let leader = self.cluster.leader_of(shard)?;
        if leader == self.cluster.me() {
            let known = known?;
            if known.shard == shard && (shard == CATALOG || known.version >= self.changed(shard, version)) {
                return None;
            }
        }
        let version = if shard == CATALOG { version } else { self.changed(shard, version) };
        Some(v1::Leader { version, ..self.cluster.hint(shard, leader)? })
    }

    /// At which position of the catalog's log it last changed where a shard is of a namespace whose line is of this version.
    fn changed(&self, shard: u32, version: u64) -> u64 {
        if !self.cluster.sightings().any() {
            return version;
        }
        let placed = book::shard(&self.cluster.catalog().newest(), shard).filter(|(line, _)| line.is_placed());
        placed.map_or(version, |(_, changed)| changed.max(version))
    }

    /// The map of a namespace, as this node has it.
    pub fn route(&self, request: v1::RouteRequest) -> Result<v1::RouteReply, Failure> {
        let namespace = convert::namespace_name(request.namespace)?;
        let catalog = self.cluster.catalog().newest();
        let route = match Route::find(&catalog, &namespace) {
            Found::Catalog => None,
            Found::BeingMade => {
                let message = format!("namespace {namespace:?} is just being made or dropped; retry");
                return Err(Failure::new(Code::Unavailable, "being_made", message));
            }
            Found::Route(route) => Some(route),
        };
        let ids = route.as_ref().map_or(&[CATALOG][..], Route::shards);
        let mut version = route.as_ref().map_or(catalog.position().get(), Route::version);
        let mut spoken_of = std::collections::BTreeSet::new();
        let mut shards = Vec::with_capacity(ids.len());
        for (part, shard) in ids.iter().enumerate() {
            let slots = slots_of(part, ids.len());
            let placed = book::shard(&catalog, *shard).filter(|(line, _)| line.is_placed());
            let holders = placed.map_or_else(Vec::new, |(line, changed)| {
                version = version.max(changed);
                line.holders
            });
            let leader = self.cluster.leader_of(*shard);
            spoken_of.extend(holders.iter().copied().map(MemberId).chain(leader));
            shards.push(v1::RouteShard {
                shard: *shard,
                first_slot: (*slots.start()).into(),
                last_slot: (*slots.end()).into(),
                leader: leader.map_or(0, |leader| leader.0),
                term: leader.map_or(0, |_| self.cluster.term_of(*shard)),
                holders,
            });
        }
        let nodes = spoken_of.into_iter().filter_map(|member| {
            let address = self.cluster.address_of(&catalog, member)?;
            Some(v1::RouteNode { member: member.0, address })
        });
        Ok(v1::RouteReply { version, shards, nodes: nodes.collect() })
    }
}
