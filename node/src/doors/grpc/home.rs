//! Where the records of a call are: in the shard that holds the catalog, or spread over the shards of their namespace.
//!
//! ```text
//!   namespace --the newest catalog here--> its shards? --no, but maybe not yet--> the catalog as new as the call asks
//!                                             |                                        |
//!                                   views of those that hold the keys          the view of the catalog
//! ```
//!
//! Always: where a namespace's records are, and its collections' numbers, are read from one view of the catalog, and every shard
//! that is read or written has the collections under the same numbers, which are given out once. So what is written never goes
//! to a shard where nobody looks for it, and what is read together was made together. A namespace with shards of its own has its
//! collections in the catalog too, but no records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;
use loci_index::view::{CollectionView, View};
use loci_wire::v1;
use tonic::Code;

use super::status::Failure;
use crate::cluster::Cluster;
use crate::router::{Found, Route};
use crate::shard::{Level, ReadError, ShardHandle};
use crate::shards::CATALOG;
use crate::trace;

/// A collection as it is called: namespace and name.
pub type Name = (String, String);

/// One shard's view.
#[derive(Clone)]
pub struct Part {
    /// The shard.
    pub shard: ShardHandle,
    /// Its state.
    pub view: Arc<View>,
}

/// What a read looks at: views of one or more shards, in each of which the collection is.
#[derive(Clone)]
pub struct Reading {
    parts: Vec<Part>,
    route: Option<Route>,
    name: Name,
}

/// What of a namespace a call is about.
#[derive(Clone, Copy)]
pub enum Wanted<'k> {
    /// All of its records.
    All,
    /// Those with these keys.
    Keys(&'k [Bytes]),
}

impl Wanted<'_> {
    /// Which shards hold that.
    pub fn shards(self, route: &Route) -> Vec<u32> {
        match self {
            Wanted::All => route.shards().to_vec(),
            Wanted::Keys(keys) => {
                keys.iter().map(|key| route.shard(key)).collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }
}

/// How new a read of a shard must be.
fn level(consistency: Option<&v1::Consistency>, shard: u32) -> Option<Level> {
    use v1::consistency::Level as Wire;
    match consistency.and_then(|consistency| consistency.level.as_ref()) {
        None | Some(Wire::Latest(_)) => Some(Level::Latest),
        Some(Wire::Stale(_)) => Some(Level::Stale),
        Some(Wire::Token(token)) => {
            let part = [token].into_iter().chain(&token.others).find(|part| part.shard == shard);
            part.map(|part| Level::AtLeast(part.index))
        }
    }
}

/// Of a token that says nothing about any of these shards.
fn foreign(consistency: Option<&v1::Consistency>, shards: &[u32]) -> Failure {
    let given = match consistency.and_then(|consistency| consistency.level.as_ref()) {
        Some(v1::consistency::Level::Token(token)) => token.shard,
        _ => 0,
    };
    let message = match shards {
        [shard] => format!("the token is of shard {given}, these records are in shard {shard}"),
        _ => format!("the token is of shard {given}, these records are in shards {shards:?}"),
    };
    Failure::invalid("foreign_token", message)
}

/// Whether a token says something about one of these shards at least.
pub fn check_token(consistency: Option<&v1::Consistency>, shards: &[u32]) -> Result<(), Failure> {
    match shards.iter().all(|shard| level(consistency, *shard).is_none()) {
        true => Err(foreign(consistency, shards)),
        false => Ok(()),
    }
}

/// The collection of that name in a view.
pub fn find<'v>(view: &'v View, (namespace, name): &Name) -> Result<CollectionView<'v>, Failure> {
    view.collection(namespace, name).ok_or_else(|| {
        let message = format!("collection {name:?} does not exist in namespace {namespace:?}; create it first");
        Failure::new(Code::NotFound, "unknown_collection", message)
    })
}

/// A shard that runs here.
pub fn running(cluster: &Cluster, shard: u32) -> Result<ShardHandle, Failure> {
    let missing = || {
        let message = format!("shard {shard} does not run on this node yet; retry");
        Failure::new(Code::Unavailable, "no_such_shard", message)
    };
    cluster.held(shard).ok_or_else(missing)
}

/// Where a call's records are.
pub enum Place {
    /// Where the catalog is, of which this is a view as new as the call asks.
    Catalog(Arc<View>),
    /// In these shards, says this view of the catalog.
    Shards(Route, Arc<View>),
}

/// Where the records of a namespace are. The first time around what this node has heard of the catalog will do; if that does not
/// fit what the shards say, `again`. Where another node asks, in the shards that it asks for, or an error: it may have read another
/// catalog, and what is not there must neither be acknowledged nor count as nothing.
pub async fn place(
    cluster: &Cluster,
    namespace: &str,
    consistency: Option<&v1::Consistency>,
    again: bool,
    deadline: Instant,
) -> Result<Place, Failure> {
    let catalog = cluster.catalog();
    if !again {
        let newest = catalog.newest();
        if let Found::Route(route) = Route::find(&newest, namespace)
            && cluster.asks_within(route.shards())
        {
            return Ok(Place::Shards(route, newest));
        }
    }
    let asked = level(consistency, CATALOG);
    let view = catalog.view(asked.filter(|_| !again).unwrap_or(Level::Latest), Some(deadline)).await?;
    match Route::find(&view, namespace) {
        Found::Route(route) if cluster.asks_within(route.shards()) => Ok(Place::Shards(route, view)),
        Found::Route(_) => Err(other_shards()),
        Found::Catalog if cluster.is_only() => Err(other_shards()),
        Found::BeingMade => Err(being_made(namespace)),
        // A token of shards that are none of this namespace's.
        Found::Catalog if asked.is_none() => Err(foreign(consistency, &[CATALOG])),
        Found::Catalog => Ok(Place::Catalog(view)),
    }
}

/// Whether a shard has the collections of these names under the catalog's numbers. If not, either has not heard of something.
fn agree(catalog: &View, shard: &View, names: &[Name]) -> bool {
    let id = |view: &View, (namespace, name): &Name| view.collection(namespace, name).map(|found| found.id());
    names.iter().all(|name| id(catalog, name).is_some_and(|expected| id(shard, name) == Some(expected)))
}

/// The one shard that has all of these keys of a collection, if this node leads it and need not ask whether it still does: with
/// its view, as `view` gives it, and how the namespace is spread, if it is.
fn led_here<'k>(
    cluster: &Cluster,
    name: &Name,
    keys: impl Iterator<Item = &'k [u8]>,
    view: impl FnOnce(&ShardHandle) -> Option<Arc<View>>,
) -> Option<(ShardHandle, Arc<View>, Option<Route>)> {
    let catalog = cluster.catalog();
    let newest = catalog.newest();
    match Route::find(&newest, &name.0) {
        Found::BeingMade => None,
        Found::Catalog => {
            // That its records are spread over shards would stand among the catalog's own: they are believed only while they are
            // what was written.
            let view = catalog.view_at_once()?;
            let is_there = matches!(Route::find(&view, &name.0), Found::Catalog) && find(&view, name).is_ok();
            is_there.then(|| (catalog.clone(), view, None))
        }
        Found::Route(route) => {
            let shard = cluster.held(one_shard(&route, keys).ok()?)?;
            let view = view(&shard)?;
            agree(&newest, &view, std::slice::from_ref(name)).then_some((shard, view, Some(route)))
        }
    }
}

/// Nobody can say yet where a namespace's records are.
pub fn being_made(namespace: &str) -> Failure {
    let message = format!("namespace {namespace:?} is just being made or dropped; retry");
    Failure::new(Code::Unavailable, "being_made", message)
}

/// Another node asks for shards that the namespace does not have, as this node's catalog says.
pub fn other_shards() -> Failure {
    let message = "the namespace is in other shards than the node that asks believes; retry";
    Failure::new(Code::Unavailable, "being_made", message)
}

/// Why catalog and shards do not agree about these collections, the catalog being as new as can be.
fn disagreement(catalog: &View, names: &[Name]) -> Failure {
    match names.iter().find_map(|name| find(catalog, name).err()) {
        Some(failure) => failure,
        None => {
            let message = "a collection is just being made or dropped in all shards; retry";
            Failure::new(Code::Unavailable, "being_made", message)
        }
    }
}

impl Reading {
    /// Of some keys, where it can be had without waiting for anything: this node leads the one shard that has all of them, and need
    /// not ask whether it still does. None of what is recorded in a trace is read so.
    pub fn at_once(
        cluster: &Cluster,
        name: &Name,
        keys: &[Bytes],
        consistency: Option<&v1::Consistency>,
    ) -> Option<Reading> {
        if cluster.is_only() || trace::here().is_some() || level(consistency, CATALOG) != Some(Level::Latest) {
            return None;
        }
        let keys = keys.iter().map(|key| &key[..]);
        let (shard, view, route) = led_here(cluster, name, keys, ShardHandle::view_at_once)?;
        Some(Reading { parts: vec![Part { shard, view }], route, name: name.clone() })
    }

    /// Views as new as asked.
    pub async fn new(
        cluster: &Cluster,
        name: Name,
        wanted: Wanted<'_>,
        consistency: Option<&v1::Consistency>,
        deadline: Instant,
    ) -> Result<Reading, Failure> {
        for again in [false, true] {
            let (route, catalog) = match place(cluster, &name.0, consistency, again, deadline).await? {
                Place::Shards(route, catalog) => (route, catalog),
                Place::Catalog(view) => {
                    find(&view, &name)?;
                    let parts = vec![Part { shard: cluster.catalog().clone(), view }];
                    return Ok(Reading { parts, route: None, name });
                }
            };
            let shards = cluster.among(wanted.shards(&route));
            if !cluster.is_only() {
                check_token(consistency, &shards)?;
            }
            let views = shards.iter().map(|&id| async move {
                let shard = running(cluster, id)?;
                // What a token does not mention may be as old as it likes.
                let level = level(consistency, id).unwrap_or(Level::Stale);
                let view = shard.view(level, Some(deadline)).await?;
                Ok::<_, Failure>(Part { shard, view })
            });
            let parts = try_join_all(views).await?;
            if parts.iter().all(|part| agree(&catalog, &part.view, std::slice::from_ref(&name))) {
                return Ok(Reading { parts, route: Some(route), name });
            }
            if again {
                return Err(disagreement(&catalog, &[name]));
            }
        }
        unreachable!("the second time around it is decided")
    }

    /// The views.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The collection in each of them.
    pub fn collections(&self) -> Result<Vec<CollectionView<'_>>, Failure> {
        self.parts.iter().map(|part| find(&part.view, &self.name)).collect()
    }

    /// The number of the view that has a key.
    pub fn part(&self, key: &[u8]) -> usize {
        let Some(route) = &self.route else { return 0 };
        let shard = route.shard(key);
        self.parts.iter().position(|part| part.shard.id() == shard).unwrap_or(0)
    }

    /// How the namespace is spread, if it has shards of its own.
    pub fn route(&self) -> Option<&Route> {
        self.route.as_ref()
    }

    /// Where it stands, for a reply.
    pub fn token(&self) -> Option<v1::Token> {
        token(self.parts.iter().map(|part| (part.shard.id(), part.view.index())))
    }

    /// The time by which it is decided what has expired: the same for all parts.
    pub fn now(&self) -> u64 {
        self.parts.iter().map(|part| part.shard.now(&part.view)).max().unwrap_or(0)
    }

    /// By how much it may be behind, if it may.
    pub fn lag_millis(&self, consistency: Option<&v1::Consistency>) -> u64 {
        match consistency.and_then(|consistency| consistency.level.as_ref()) {
            Some(v1::consistency::Level::Stale(_)) => {
                self.parts.iter().map(|part| part.shard.lag().as_millis() as u64).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// Where several shards' logs stand, as one token.
pub fn token(parts: impl IntoIterator<Item = (u32, u64)>) -> Option<v1::Token> {
    let mut tokens = parts.into_iter().map(|(shard, index)| v1::Token { shard, index, others: Vec::new() });
    let first = tokens.next()?;
    Some(v1::Token { others: tokens.collect(), ..first })
}

/// Where a write goes: a shard, and a view of it that has the collections it names.
#[derive(Clone)]
pub struct Home {
    /// The shard.
    pub cluster: Cluster,
    /// As new as every write answered before. Whoever reads records in it looks first whether they are what was written
    /// ([`Home::sound`]).
    pub view: Arc<View>,
}

impl Home {
    /// A shard, for a write to collections with these names; none if it and this view of the catalog do not agree about them.
    async fn of_shard(
        cluster: &Cluster,
        shard: u32,
        catalog: &View,
        names: &[Name],
        deadline: Instant,
    ) -> Result<Option<Home>, Failure> {
        let handle = running(cluster, shard)?;
        let view = handle.view_for_writes(Some(deadline)).await?;
        Ok(agree(catalog, &view, names).then(|| Home { cluster: cluster.of(handle), view }))
    }

    /// Where a write to collections of a namespace goes: `shards` says which ones of a route it needs. In their order; one, if
    /// the records are where the catalog is.
    pub async fn all(
        cluster: &Cluster,
        namespace: &str,
        names: &[Name],
        shards: impl Fn(&Route) -> Result<Vec<u32>, Failure>,
        deadline: Instant,
    ) -> Result<(Option<Route>, Vec<Home>), Failure> {
        for again in [false, true] {
            let (route, catalog) = match place(cluster, namespace, None, again, deadline).await? {
                Place::Shards(route, catalog) => (route, catalog),
                Place::Catalog(view) => return Ok((None, vec![Home::of_catalog(cluster, view)])),
            };
            let wanted = cluster.among(shards(&route)?);
            let homes = wanted.iter().map(|shard| Home::of_shard(cluster, *shard, &catalog, names, deadline));
            let homes: Option<Vec<Home>> = try_join_all(homes).await?.into_iter().collect();
            if let Some(homes) = homes {
                return Ok((Some(route), homes));
            }
            if again {
                return Err(disagreement(&catalog, names));
            }
        }
        unreachable!("the second time around it is decided")
    }

    /// The same, where it can be said without waiting for anything: this node leads the one shard that has all of these keys, and
    /// need not ask whether it still does. None of what is recorded in a trace is done so.
    pub fn at_once<'k>(cluster: &Cluster, name: &Name, keys: impl Iterator<Item = &'k [u8]>) -> Option<Home> {
        if cluster.is_only() || trace::here().is_some() {
            return None;
        }
        let (shard, view, _) = led_here(cluster, name, keys, ShardHandle::view_for_writes_at_once)?;
        Some(Home { cluster: cluster.of(shard), view })
    }

    /// The shard that holds the catalog.
    fn of_catalog(cluster: &Cluster, view: Arc<View>) -> Home {
        Home { cluster: cluster.of_catalog(), view }
    }

    /// An error where the records in the view may not be what was written.
    pub fn sound(&self) -> Result<(), Failure> {
        let shard = self.cluster.shard();
        match shard.is_out_of_service() {
            true => Err(ReadError::Damaged { shard: shard.id() }.into()),
            false => Ok(()),
        }
    }

    /// The milliseconds since 1970 by which it is decided what has expired.
    pub fn now(&self) -> u64 {
        self.cluster.shard().now(&self.view)
    }
}

/// The one shard that holds all of these keys.
pub fn one_shard<'k>(route: &Route, keys: impl IntoIterator<Item = &'k [u8]>) -> Result<u32, Failure> {
    let mut all = keys.into_iter().map(|key| (key, route.shard(key)));
    let Some((first, shard)) = all.next() else { return Ok(route.shards().first().copied().unwrap_or(CATALOG)) };
    match all.find(|(_, other)| *other != shard) {
        None => Ok(shard),
        Some((other, its)) => {
            let message = format!(
                "keys {:?} and {:?} are in different shards, {shard} and {its}: what is written together must be in one; give \
                 the keys a common {{tag}}, or spread the call if each record may be written for itself",
                String::from_utf8_lossy(first),
                String::from_utf8_lossy(other),
            );
            Err(Failure::invalid("several_shards", message))
        }
    }
}
