//! Databases: the sixteen that `SELECT` knows, each a collection of one namespace.
//!
//! ```text
//!   number n --> collection `dbN` of the namespace --> the shards that hold it: their views (reads), their logs (writes)
//! ```
//!
//! A database is made, the ordinary way, when something is written to it first; until then it is empty for whoever reads.
//! Where a collection is, and its number, is remembered ([`places`](super::places)); whether that still holds is seen in the view
//! that is read, and said by the store that is written to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use futures_util::future::try_join_all;
use loci_index::command::{Command, Durability, Envelope, Execution, Origin, Outcome, Refusal, Schema, Watched};
use loci_index::record::CollectionId;
use loci_index::table::eviction::Policy;
use loci_index::table::execute::Moment;
use loci_index::table::lookups::{self, Lookups};
use loci_index::table::{Keyspace, Table, ahead};
use loci_index::view::View;

use super::Door;
use super::places::{Home, Homes, MOVED_ON, Place};
use crate::doors::grpc::Failure;
use crate::gate::{self, Pass};
use crate::metrics::UnderWayOwned;
use crate::shard::{Level, ReadError, ShardHandle, TurnBy};

/// How many there are.
pub const DATABASES: usize = 16;
/// So many milliseconds it is believed that a database has room, or none.
const FULL_FOR: u64 = 2;
/// A command that is at work has ended after about this.
pub const AT_WORK: Duration = Duration::from_millis(1);

static EMPTY: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::new(0)));

/// What is remembered of them.
pub struct Databases {
    namespace: String,
    /// Of those that are made.
    durability: Durability,
    /// Clients are told which node leads what.
    is_cluster: bool,
    /// Where they are.
    pub(super) homes: ArcSwapOption<Homes>,
    /// Whether each call has to be asked for its keys: there are several shards, or it is not known yet.
    pub(super) spread: AtomicBool,
}

/// What is asked of the log.
pub struct Calls {
    /// The shard.
    pub place: Place,
    /// The databases that the calls name by their place here.
    pub databases: Vec<u8>,
    /// Packed.
    pub packed: Vec<u8>,
    /// What must hold first; databases by their place.
    pub conditions: Vec<Watched>,
    /// Nobody sees a part of them.
    pub atomic: bool,
}

/// Who writes, for the log.
pub fn origin_of(principal: &str) -> Origin {
    Origin { principal: principal.into(), ..Origin::default() }
}

/// Calls that were let in, for as long as they are under way.
pub struct Passage {
    /// When they must have ended.
    pub deadline: Instant,
    _pass: Pass,
    _under_way: UnderWayOwned,
}

/// One state of the databases, to read from; or that they are to be read elsewhere.
pub struct Reading {
    homes: Arc<Homes>,
    /// None: other nodes have them.
    view: Option<Arc<View>>,
    moment: Moment,
    /// The databases that are not there, as bits.
    absent: u16,
    /// The last database that was read.
    table: Option<(u8, Arc<Table>)>,
    /// What was looked for there and is not counted yet.
    looked: Lookups,
}

const _: () = assert!(DATABASES <= u16::BITS as usize);

impl Clone for Reading {
    fn clone(&self) -> Reading {
        let (homes, view, table) = (self.homes.clone(), self.view.clone(), self.table.clone());
        Reading { homes, view, moment: self.moment, absent: self.absent, table, looked: Lookups::default() }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.count();
    }
}

impl Databases {
    /// Of a namespace; for a cluster's clients or not.
    pub fn new(namespace: String, durability: Durability, is_cluster: bool) -> Databases {
        Databases { namespace, durability, is_cluster, homes: ArcSwapOption::empty(), spread: AtomicBool::new(true) }
    }

    /// Where they are.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether clients are told which node leads what, and are to go there.
    pub fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// What a database's collection is called.
    pub fn name(database: u8) -> String {
        format!("db{database}")
    }

    /// Forgets where they are.
    pub fn forget(&self) {
        self.homes.store(None);
    }

    /// The database that a collection is, if it is one.
    pub fn number(&self, view: &View, id: CollectionId) -> Option<u8> {
        let known = self.homes.load().as_ref().and_then(|homes| homes.number(id.0));
        known.or_else(|| {
            let found = view.collection_by_id(id).filter(|found| found.namespace() == self.namespace)?;
            let number = found.name().strip_prefix("db")?.parse::<u8>().ok()?;
            (usize::from(number) < DATABASES && Databases::name(number) == found.name()).then_some(number)
        })
    }
}

impl Reading {
    /// When it is read, for a call.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Whether other nodes have what is to be read.
    pub fn is_away(&self) -> bool {
        self.view.is_none()
    }

    /// Whether it is known if a database is there.
    pub fn knows(&self, database: u8) -> bool {
        self.homes.id(database).is_some() || self.absent & (1 << database) != 0
    }

    /// The table of a database, if it is there.
    fn find(&self, database: u8) -> Option<Arc<Table>> {
        let id = self.homes.id(database)?;
        match self.view.as_ref()?.collection_by_id(CollectionId(id)) {
            Some(found) => found.table().cloned(),
            None => {
                // Dropped: another of its name may be elsewhere.
                self.homes.forget(database);
                None
            }
        }
    }

    fn count(&mut self) {
        if let Some((_, table)) = &self.table {
            table.looked(std::mem::take(&mut self.looked));
        }
    }

    /// Reads a database for a command, and counts which keys are there.
    pub fn look_up<R>(&mut self, database: u8, read: impl FnOnce(&Keyspace) -> R) -> R {
        lookups::take();
        let result = self.read(database, read);
        self.looked += lookups::take();
        result
    }

    /// Looks ahead for keys that are read next, if the database is the last that was.
    pub fn look_ahead<'k>(&self, database: u8, keys: impl Iterator<Item = &'k [u8]>) {
        if let Some((number, table)) = &self.table
            && *number == database
        {
            table.read(|keyspace| ahead::look_ahead(keys.map(|key| (keyspace, key))));
        }
    }

    /// Reads a database.
    pub fn read<R>(&mut self, database: u8, read: impl FnOnce(&Keyspace) -> R) -> R {
        if let Some((number, table)) = &self.table
            && *number == database
        {
            return table.read(read);
        }
        let table = self.find(database).unwrap_or_else(|| EMPTY.clone());
        self.count();
        let result = table.read(read);
        self.table = Some((database, table));
        result
    }
}

/// Whether another node may say more.
fn is_of_this_node(error: &ReadError) -> bool {
    matches!(error, ReadError::Damaged { .. } | ReadError::Removed | ReadError::NotReady | ReadError::Stopping)
}

/// As Redis says that something cannot be done now.
pub fn unread(error: &ReadError) -> String {
    match error {
        ReadError::NotReady => "LOADING the node is still reading its log".into(),
        _ => format!("TRYAGAIN {error}"),
    }
}

/// What the databases hold, and what became of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Totals {
    /// Keys that readers looked for.
    pub looked: Lookups,
    /// Keys that expired since the node was started.
    pub expired: u64,
    /// Keys that were evicted since then.
    pub evicted: u64,
    /// What they take in memory.
    pub bytes: u64,
}

impl Door {
    /// What all databases come to, as far as this node knows.
    pub fn totals(&self) -> Totals {
        self.tables().into_iter().flatten().fold(Totals::default(), |mut totals, table| {
            totals.looked += table.lookups();
            table.read(|keyspace| {
                totals.expired += keyspace.expired();
                totals.evicted += keyspace.evicted();
                totals.bytes += keyspace.memory_bytes() as u64;
            });
            totals
        })
    }

    /// If any database is buffered: returns once all that was answered here is synced. All shards of a node share its log, so any
    /// write that is synced will do.
    pub async fn sync_buffered(&self) -> Result<(), String> {
        let homes = self.homes()?;
        let view = self.cluster.catalog().newest();
        let is_buffered = |database: u8| {
            let found = view.collection(&self.databases.namespace, &Databases::name(database));
            found.is_some_and(|found| found.schema().durability == Durability::Buffered)
        };
        if !(0..DATABASES as u8).any(is_buffered) {
            return Ok(());
        }
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let envelope = || Envelope {
            origin: Origin { principal: "redis".into(), ..Origin::default() },
            command: Command::CreateNamespace { name: self.databases.namespace.clone() },
        };
        if homes.here().next().is_some() {
            self.log(&Home::Here(self.cluster.catalog().clone()), envelope(), deadline).await?;
        }
        // Those that are not here have logs of their own nodes.
        let away = homes.shards().iter().filter(|home| home.here().is_none());
        try_join_all(away.map(|home| self.log(home, envelope(), deadline))).await.map(drop)
    }

    /// The tables of all databases, by shard, as far as this node knows.
    fn tables(&self) -> Vec<Vec<Arc<Table>>> {
        let Ok(homes) = self.homes() else { return Vec::new() };
        let tables = |shard: &ShardHandle| {
            let view = shard.newest();
            let table =
                |database| view.collection(&self.databases.namespace, &Databases::name(database))?.table().cloned();
            (0..DATABASES as u8).filter_map(table).collect()
        };
        homes.here().map(tables).collect()
    }

    /// Whether writes may have to be refused before the node's memory is used up.
    pub fn limits_memory(&self) -> bool {
        self.figures.limits_memory.load(Ordering::Relaxed)
    }

    /// Whether a database has no more room, and nothing in it may make any; as it was a moment ago.
    pub fn is_full(&self, database: u8) -> bool {
        let at = &self.figures.full[usize::from(database)];
        let now = self.started.elapsed().as_millis() as u64 + 2 * FULL_FOR;
        let known = at.load(Ordering::Relaxed);
        // Another thread may have looked a moment later.
        if now.saturating_sub(known >> 1) < FULL_FOR {
            return known & 1 == 1;
        }
        let full = self.has_no_room(database);
        at.store(now << 1 | u64::from(full), Ordering::Relaxed);
        full
    }

    fn has_no_room(&self, database: u8) -> bool {
        let (rules, name) = (self.eviction.load(), Databases::name(database));
        let Ok(homes) = self.homes() else { return false };
        // Of those that are not here who leads them says so.
        let views: Vec<_> = homes.here().map(ShardHandle::newest).collect();
        let over = |view: &Arc<View>| {
            view.collection(self.databases.namespace(), &name).is_some_and(|found| rules.is_over_budget(&found))
        };
        views.iter().any(over) || rules.is_over_in_all(&views, self.databases.namespace())
    }

    /// What becomes of keys of a database where there is no more room, for clients that ask: what its collection says, or what was
    /// given for all databases; where neither is so, what its budget goes by if it has one.
    pub fn policy_of(&self, database: u8) -> Policy {
        let (rules, catalog) = (self.eviction.load(), self.cluster.catalog().newest());
        let namespace = self.databases.namespace();
        let found = catalog.collection(namespace, &Databases::name(database));
        let schema = found.map_or_else(Schema::default, |found| found.schema().clone());
        match schema.eviction_bytes {
            0 => rules.policy_together(namespace, &schema),
            _ => rules.policy_of(namespace, &schema),
        }
    }

    /// Looks whether writes to the databases may have to be refused for want of room, before the node's memory is used up.
    pub fn look_for_limits(&self) {
        let (rules, catalog) = (self.eviction.load(), self.cluster.catalog().newest());
        let namespace = self.databases.namespace();
        let keeps = |database: u8| {
            let found = catalog.collection(namespace, &Databases::name(database));
            found.is_some_and(|found| {
                found.schema().eviction_bytes > 0 && rules.policy_of(namespace, found.schema()).keeps_all(0)
            })
        };
        let limited = rules.namespace.as_ref().is_some_and(|own| own.bytes > 0) || (0..DATABASES as u8).any(keeps);
        self.figures.limits_memory.store(limited, Ordering::Relaxed);
    }

    /// The state of the databases in a shard, as new as asked; it is known whether this database is there.
    pub async fn reading(&self, level: Level, place: &Place, database: u8) -> Result<Reading, String> {
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let mut again = true;
        loop {
            let homes = self.homes_of_at(place, level).await?;
            let Some(shard) = homes.shards().get(place.part()).ok_or(MOVED_ON)?.here() else {
                return self.reading_away(homes, level, database, deadline).await;
            };
            let view = match shard.view(level, Some(deadline)).await {
                Ok(view) => view,
                // It may not be here any more, or be out of service.
                Err(error) if again && !homes.are_with_the_catalog() && is_of_this_node(&error) => {
                    homes.leave();
                    again = false;
                    continue;
                }
                Err(error) => return Err(unread(&error)),
            };
            let is_there = |id: u64| view.collection_by_id(CollectionId(id)).is_some();
            if again && homes.id(database).is_some_and(|id| !is_there(id)) {
                // Dropped: another of its name may be there, or elsewhere.
                homes.forget(database);
                again = false;
                continue;
            }
            let moment = Moment { now: shard.now(&view), version: view.index(), number: 0 };
            let mut absent = 0;
            if homes.id(database).is_none() {
                let catalog = match homes.are_with_the_catalog() {
                    true => view.clone(),
                    false => {
                        let catalog = self.cluster.catalog();
                        catalog.view(level, Some(deadline)).await.map_err(|error| unread(&error))?
                    }
                };
                match self.look_for(database, &homes, &catalog) {
                    Some(true) => {}
                    Some(false) => absent = 1 << database,
                    None if again => {
                        again = false;
                        continue;
                    }
                    None => return Err(MOVED_ON.into()),
                }
            }
            return Ok(Reading { homes, view: Some(view), moment, absent, table: None, looked: Lookups::default() });
        }
    }

    /// That the databases are to be read elsewhere.
    async fn reading_away(
        &self,
        homes: Arc<Homes>,
        level: Level,
        database: u8,
        deadline: Instant,
    ) -> Result<Reading, String> {
        let mut absent = 0;
        if homes.id(database).is_none() {
            let catalog = self.cluster.catalog().view(level, Some(deadline)).await.map_err(|error| unread(&error))?;
            match self.look_for(database, &homes, &catalog) {
                Some(true) => {}
                Some(false) => absent = 1 << database,
                None => return Err(MOVED_ON.into()),
            }
        }
        let moment = Moment { now: 0, version: 0, number: 0 };
        Ok(Reading { homes, view: None, moment, absent, table: None, looked: Lookups::default() })
    }

    /// Looks for a database in a view of the catalog: whether it is there. None: they are in other shards by now.
    pub fn look_for(&self, database: u8, homes: &Homes, catalog: &View) -> Option<bool> {
        if !homes.are_as(catalog, &self.databases.namespace) {
            homes.leave();
            return None;
        }
        let found = catalog.collection(&self.databases.namespace, &Databases::name(database));
        if let Some(found) = &found {
            homes.set_id(database, found.id().0);
        }
        Some(found.is_some())
    }

    /// The databases that are there.
    pub async fn databases_there(&self) -> Result<Vec<u8>, String> {
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let catalog = self.cluster.catalog();
        let view = catalog.view(Level::Latest, Some(deadline)).await.map_err(|error| unread(&error))?;
        let is_there =
            |database: &u8| view.collection(&self.databases.namespace, &Databases::name(*database)).is_some();
        Ok((0..DATABASES as u8).filter(is_there).collect())
    }

    /// Has the log carry out calls. None: a condition did not hold.
    pub async fn execute(&self, calls: Calls, origin: Origin) -> Result<Option<Vec<u8>>, String> {
        let passage = self.enter(calls.packed.len())?;
        self.execute_by(TurnBy::Shard, calls, origin, passage.deadline).await
    }

    /// Lets calls of so many bytes in, if there is room.
    pub fn enter(&self, bytes: usize) -> Result<Passage, String> {
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let pass = self.gate.enter(bytes).map_err(|full| format!("TRYAGAIN {full}"))?;
        Ok(Passage { deadline, _pass: pass, _under_way: self.metrics.under_way_owned() })
    }

    /// Has the log carry out calls that were let in.
    pub async fn execute_by(
        &self,
        turn: TurnBy,
        calls: Calls,
        origin: Origin,
        deadline: Instant,
    ) -> Result<Option<Vec<u8>>, String> {
        for again in [false, true] {
            let homes = self.homes_of(&calls.place)?;
            let home = homes.shards().get(calls.place.part()).ok_or(MOVED_ON)?;
            let mut collections = Vec::with_capacity(calls.databases.len());
            for database in &calls.databases {
                match homes.id(*database) {
                    Some(id) => collections.push(id),
                    None => collections.extend(Box::pin(self.make(*database, &homes, home, deadline)).await?),
                }
            }
            if collections.len() < calls.databases.len() {
                homes.leave();
                continue;
            }
            let execution = Execution {
                collections,
                calls: calls.packed.clone(),
                conditions: calls.conditions.clone(),
                atomic: calls.atomic,
            };
            let command = Command::Execute(Box::new(execution));
            match self.log_by(turn, home, Envelope { origin: origin.clone(), command }, deadline).await? {
                Outcome::Executed(tape) => return Ok(tape),
                Outcome::Refused(Refusal::UnknownCollection(_)) if !again => {
                    // Dropped; whoever writes makes it anew.
                    calls.databases.iter().for_each(|database| homes.forget(*database));
                }
                Outcome::Refused(Refusal::Unmet { unmet, .. }) => return Err(format!("{} {unmet}", unmet.kind())),
                Outcome::Refused(refusal) => return Err(format!("ERR {refusal}")),
                outcome => return Err(format!("ERR unexpected outcome {outcome:?}")),
            }
        }
        Err(MOVED_ON.into())
    }

    /// Makes a database, or finds it. Says the number of its collection; none: the databases are in other shards by now.
    async fn make(&self, database: u8, homes: &Homes, home: &Home, deadline: Instant) -> Result<Option<u64>, String> {
        let _one_at_a_time = self.making.lock().await;
        let (namespace, name) = (self.databases.namespace.clone(), Databases::name(database));
        let catalog = self.cluster.catalog().clone();
        let logged = Home::Here(catalog.clone());
        let origin = || Origin { principal: "redis".into(), ..Origin::default() };
        let envelope = |command| Envelope { origin: origin(), command };
        for made in [false, true] {
            let view = catalog.view(Level::Latest, Some(deadline)).await.map_err(|error| unread(&error))?;
            if !homes.are_as(&view, &namespace) {
                return Ok(None);
            }
            let Some(id) = view.collection(&namespace, &name).map(|found| found.id().0) else {
                if made {
                    break;
                }
                self.log(&logged, envelope(Command::CreateNamespace { name: namespace.clone() }), deadline).await?;
                let schema = Schema { durability: self.databases.durability, ..Schema::default() };
                let (namespace, name) = (namespace.clone(), name.clone());
                self.log(&logged, envelope(Command::CreateCollection { namespace, name, schema }), deadline).await?;
                continue;
            };
            let is_there = match home.here() {
                Some(shard) => {
                    let view = shard.view(Level::Latest, Some(deadline)).await.map_err(|error| unread(&error))?;
                    view.collection_by_id(CollectionId(id)).is_some()
                }
                None => false,
            };
            if !is_there {
                let failed = |failure: Failure| format!("TRYAGAIN {}", failure.message);
                self.cluster.install(&namespace, &name, deadline).await.map_err(failed)?;
            }
            homes.set_id(database, id);
            return Ok(Some(id));
        }
        Err("TRYAGAIN the database is just being made or dropped".into())
    }
}
