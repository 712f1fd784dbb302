//! Places: the shards that hold the databases, and which of them a call goes to.
//!
//! ```text
//!   catalog --namespace--> homes: shards, in the order of their slots, and the databases' numbers --slot--> place: one of them
//!                            each of them is here, or on other nodes, which are asked ([`far`](super::far))
//! ```
//!
//! A shard is on other nodes if its namespace is on some of the nodes only (`--replicas`), and while it is out of service here.
//! Which are here is looked again now and then, and when one turns out not to be.
//!
//! Always:
//! - shards and numbers are read from one view of the catalog, and numbers are given out once. So whoever believes what is no
//!   longer so reads nothing and writes nothing: the shard has no collection of that number, and it is looked again;
//! - a place that was found among some shards is never used among others: the same key may be elsewhere there;
//! - with one shard, and without the cluster mode, no call is asked for its keys.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use loci_index::record::CollectionId;
use loci_index::table::eviction::{NamespaceRoom, Room};
use loci_index::view::View;
use loci_raft::MemberId;

use super::Door;
use super::databases::{DATABASES, Databases, unread};
use crate::cluster::{Cluster, book};
use crate::gate;
use crate::router::{self, Found, Route};
use crate::shard::{Level, ShardHandle};

/// What is said where a call belongs to shards that are the databases' no longer.
pub const MOVED_ON: &str = "TRYAGAIN the databases were just made, or dropped and made anew";

/// A shard that holds databases.
pub enum Home {
    /// It is here.
    Here(ShardHandle),
    /// Other nodes have it.
    Away(Away),
}

/// A shard that other nodes have.
pub struct Away {
    shard: u32,
    /// It is here, too, but out of service: what it says is not to be believed, what happens to it is so.
    own: Option<ShardHandle>,
    /// Who led it last, as far as is known; zero: nobody.
    led_by: AtomicU64,
}

impl Home {
    fn away(shard: u32, own: Option<ShardHandle>) -> Home {
        let own = own.filter(|own| own.is_out_of_service() && !own.is_removed());
        Home::Away(Away { shard, own, led_by: AtomicU64::new(0) })
    }

    /// Which shard it is.
    pub fn id(&self) -> u32 {
        match self {
            Home::Here(shard) => shard.id(),
            Home::Away(away) => away.shard,
        }
    }

    /// It, if it is here.
    pub fn here(&self) -> Option<&ShardHandle> {
        match self {
            Home::Here(shard) => Some(shard),
            Home::Away(_) => None,
        }
    }

    /// It, if what happens to it is told here.
    pub fn heard_here(&self) -> Option<&ShardHandle> {
        match self {
            Home::Here(shard) => Some(shard),
            Home::Away(away) => away.own.as_ref(),
        }
    }

    /// Who leads it, as far as this node knows.
    pub fn leader(&self, cluster: &Cluster) -> Option<MemberId> {
        match self {
            Home::Here(shard) => shard.leader(),
            Home::Away(away) => {
                let leader = cluster.leader_of(away.shard)?;
                away.led_by.store(leader.0, Ordering::Relaxed);
                Some(leader)
            }
        }
    }

    /// The same; where nobody does, who did last.
    pub fn last_leader(&self, cluster: &Cluster) -> Option<MemberId> {
        match self {
            Home::Here(shard) => shard.last_leader(),
            Home::Away(away) => self
                .leader(cluster)
                .or_else(|| Some(away.led_by.load(Ordering::Relaxed)).filter(|id| *id != 0).map(MemberId)),
        }
    }
}

/// The shards that hold the databases.
pub struct Homes {
    /// In the order of the slots that they hold.
    shards: Vec<Home>,
    /// Of a namespace with shards of its own.
    route: Option<Route>,
    /// Numbers of the databases' collections; zero: not known.
    ids: [AtomicU64; DATABASES],
    /// It turned out that this is no longer so.
    left: AtomicBool,
}

impl Homes {
    /// All shards.
    pub fn shards(&self) -> &[Home] {
        &self.shards
    }

    /// Those that are here.
    pub fn here(&self) -> impl Iterator<Item = &ShardHandle> {
        self.shards.iter().filter_map(Home::here)
    }

    /// The number of a database's collection, if it is known.
    pub fn id(&self, database: u8) -> Option<u64> {
        Some(self.ids[usize::from(database)].load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// It is this one.
    pub fn set_id(&self, database: u8, id: u64) {
        self.ids[usize::from(database)].store(id, Ordering::Relaxed);
    }

    /// The database whose collection has a number.
    pub fn number(&self, id: u64) -> Option<u8> {
        self.ids.iter().position(|known| known.load(Ordering::Relaxed) == id).map(|number| number as u8)
    }

    /// The collection of a database is another, or in other shards: the next who asks looks again.
    pub fn forget(&self, database: u8) {
        self.set_id(database, 0);
        self.leave();
    }

    /// It is not so any more: the next who asks looks again.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Whether they are where the catalog is.
    pub fn are_with_the_catalog(&self) -> bool {
        self.route.is_none()
    }

    /// Whether a view of the catalog says the same.
    pub fn are_as(&self, catalog: &View, namespace: &str) -> bool {
        match Route::find(catalog, namespace) {
            Found::Catalog => self.route.is_none(),
            Found::BeingMade => false,
            Found::Route(route) => self.route.as_ref() == Some(&route),
        }
    }
}

/// Where a call goes. Without more, where all keys are.
#[derive(Clone, Default)]
pub struct Place {
    /// Among these; none: there is one shard.
    homes: Option<Arc<Homes>>,
    part: usize,
    /// The slot of its keys, if it has keys.
    slot: Option<u16>,
}

impl Place {
    /// The shard of a slot.
    pub fn of_slot(homes: &Arc<Homes>, slot: u16) -> Place {
        Place { homes: Some(homes.clone()), part: router::part(slot, homes.shards.len()), slot: Some(slot) }
    }

    /// One of the shards, for a call that is about no slot.
    pub fn of_part(homes: &Arc<Homes>, part: usize) -> Place {
        Place { homes: Some(homes.clone()), part, slot: None }
    }

    /// Which of the shards it is.
    pub fn part(&self) -> usize {
        self.part
    }

    /// Whether there was something to choose.
    pub fn is_chosen(&self) -> bool {
        self.homes.is_some()
    }

    /// The slot, if it is of one.
    pub fn slot(&self) -> Option<u16> {
        self.slot
    }

    /// Whether it is the same shard.
    pub fn is(&self, other: &Place) -> bool {
        self.part == other.part
            && match (&self.homes, &other.homes) {
                (None, None) => true,
                (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.route == other.route,
                _ => false,
            }
    }
}

impl Databases {
    /// The shards, if that is known.
    pub fn known(&self) -> Option<Arc<Homes>> {
        self.homes.load_full().filter(|homes| !homes.is_left())
    }

    /// Whether each call has to be asked for its keys.
    pub fn are_spread(&self) -> bool {
        self.spread.load(Ordering::Relaxed)
    }
}

/// Whether a shard is on some of the nodes only.
fn is_placed(catalog: &View, shard: u32) -> bool {
    book::shard(catalog, shard).is_some_and(|(line, _)| line.is_placed())
}

impl Door {
    /// The shards, as this node has heard.
    pub fn homes(&self) -> Result<Arc<Homes>, String> {
        match self.databases.known() {
            Some(homes) => Ok(homes),
            None => self.find_homes(&self.cluster.catalog().newest()),
        }
    }

    /// The shards; where they are not known, as a catalog that is as new as asked says.
    pub async fn homes_at(&self, level: Level) -> Result<Arc<Homes>, String> {
        if let Some(homes) = self.databases.known() {
            return Ok(homes);
        }
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let view = self.cluster.catalog().view(level, Some(deadline)).await.map_err(|error| unread(&error))?;
        self.find_homes(&view)
    }

    /// A shard, where it is.
    fn home(&self, catalog: &View, id: u32) -> Result<Home, String> {
        let placed = is_placed(catalog, id);
        match self.cluster.shards().handle(id) {
            Some(shard) if placed && !self.cluster.answers(id) => Ok(Home::away(id, Some(shard))),
            Some(shard) if shard.is_out_of_service() => Ok(Home::away(id, Some(shard))),
            Some(shard) => Ok(Home::Here(shard)),
            None if placed => Ok(Home::away(id, None)),
            None => Err("TRYAGAIN not all shards of the databases run here yet".into()),
        }
    }

    /// The shards as a view of the catalog has them. They are remembered if the namespace is there.
    pub fn find_homes(&self, catalog: &View) -> Result<Arc<Homes>, String> {
        let _one_at_a_time = self.finding.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(homes) = self.databases.known() {
            return Ok(homes);
        }
        let (shards, route) = match Route::find(catalog, self.databases.namespace()) {
            Found::Catalog => (vec![Home::Here(self.cluster.catalog().clone())], None),
            Found::BeingMade => return Err("TRYAGAIN the databases are just being made or dropped".into()),
            Found::Route(route) => {
                let shards = route.shards().iter().map(|shard| self.home(catalog, *shard));
                (shards.collect::<Result<Vec<Home>, String>>()?, Some(route))
            }
        };
        self.hub.attend(&shards, &self.cluster, &self.runtime);
        let homes = Arc::new(Homes { shards, route, ids: Default::default(), left: AtomicBool::new(false) });
        if catalog.has_namespace(self.databases.namespace()) {
            // What was known of the databases is known among the same shards, wherever they are by now.
            let before = self.databases.homes.load_full().filter(|before| before.route == homes.route);
            for (home, known) in homes.shards.iter().zip(before.iter().flat_map(|before| &before.shards)) {
                if let (Home::Away(away), Home::Away(known)) = (home, known) {
                    away.led_by.store(known.led_by.load(Ordering::Relaxed), Ordering::Relaxed);
                }
            }
            for (id, known) in homes.ids.iter().zip(before.iter().flat_map(|before| &before.ids)) {
                let known = known.load(Ordering::Relaxed);
                let is_there = catalog.collection_by_id(CollectionId(known)).is_some();
                id.store(if is_there { known } else { 0 }, Ordering::Relaxed);
            }
            self.databases.homes.store(Some(homes.clone()));
            let spread = self.databases.is_cluster() || homes.shards.len() > 1;
            self.databases.spread.store(spread, Ordering::Relaxed);
            self.share_room(homes.shards.len());
        }
        Ok(homes)
    }

    /// Whether each shard is still here, or still is not.
    fn are_where_they_were(&self, homes: &Homes, catalog: &View) -> bool {
        homes.are_with_the_catalog()
            || homes.shards.iter().all(|home| match (home, self.home(catalog, home.id())) {
                (Home::Here(shard), Ok(Home::Here(_))) => !shard.is_removed(),
                (Home::Away(_), Ok(Home::Away(_))) => true,
                _ => false,
            })
    }

    /// Each shard makes room by itself, for an equal share.
    fn share_room(&self, shards: usize) {
        let bytes = self.room_bytes() / shards.max(1) as u64;
        if self.eviction.load().namespace.as_ref().is_some_and(|own| own.bytes != bytes) {
            self.eviction.rcu(|room| {
                let own = room.namespace.clone().unwrap_or_default();
                Room { namespace: Some(NamespaceRoom { bytes, ..own }), ..(**room).clone() }
            });
        }
    }

    /// What CONFIG says that the databases may take; zero: as much as there is.
    pub fn room_bytes(&self) -> u64 {
        let bytes = self.settings.get("maxmemory").parse().unwrap_or(0);
        if bytes == self.status.budget().bytes() { 0 } else { bytes }
    }

    /// Looks whether what is remembered is still so. Whoever only listens has nobody else who does.
    pub fn look_again(&self) {
        let view = self.cluster.catalog().newest();
        if let Some(homes) = self.databases.known()
            && !(homes.are_as(&view, self.databases.namespace()) && self.are_where_they_were(&homes, &view))
        {
            homes.leave();
        }
        self.hub.rest();
        self.look_for_limits();
        // Where they are not yet, the next look finds them.
        let _ = self.homes();
    }

    /// Which shard a place is in, as far as is known.
    pub fn shard_of(&self, place: &Place) -> Option<u32> {
        let homes = self.databases.homes.load();
        homes.as_ref().and_then(|homes| homes.shards.get(place.part)).map(Home::id)
    }

    /// Whether other nodes have the shard of a place, as far as is known.
    pub fn is_away(&self, place: &Place) -> bool {
        let homes = self.databases.homes.load();
        homes.as_ref().and_then(|homes| homes.shards.get(place.part)).is_some_and(|home| home.here().is_none())
    }

    /// The shards that a place is among.
    pub fn homes_of(&self, place: &Place) -> Result<Arc<Homes>, String> {
        match &place.homes {
            Some(homes) if !homes.is_left() => Ok(homes.clone()),
            Some(homes) => still_among(homes, self.homes()?),
            None => only(self.homes()?),
        }
    }

    /// The same, as new as asked where they are not known.
    pub async fn homes_of_at(&self, place: &Place, level: Level) -> Result<Arc<Homes>, String> {
        match &place.homes {
            Some(homes) if !homes.is_left() => Ok(homes.clone()),
            Some(homes) => still_among(homes, self.homes_at(level).await?),
            None => only(self.homes_at(level).await?),
        }
    }
}

fn still_among(before: &Homes, now: Arc<Homes>) -> Result<Arc<Homes>, String> {
    if before.route == now.route { Ok(now) } else { Err(MOVED_ON.into()) }
}

/// What has no place belongs to the only shard.
fn only(homes: Arc<Homes>) -> Result<Arc<Homes>, String> {
    if homes.shards.len() == 1 { Ok(homes) } else { Err(MOVED_ON.into()) }
}
