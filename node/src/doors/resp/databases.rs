//! Databases: the sixteen that `SELECT` knows, each a collection of one namespace.
//!
//! ```text
//!   number n --> collection `dbN` of the namespace --> the shard that holds it: its view (reads), its log (writes)
//! ```
//!
//! A database is made, the ordinary way, when something is written to it first; until then it is empty for whoever reads.
//! Where a collection is, and its number, is remembered; whether that still holds is seen in the view that is read, and said
//! by the store that is written to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use loci_index::command::{Command, Durability, Envelope, Execution, Origin, Outcome, Refusal, Schema, Watched};
use loci_index::record::{CollectionId, Position};
use loci_index::table::eviction::Policy;
use loci_index::table::execute::Moment;
use loci_index::table::lookups::{self, Lookups};
use loci_index::table::{Keyspace, Table};
use loci_index::view::View;

use super::Door;
use crate::cluster::NotWritten;
use crate::doors::grpc::Failure;
use crate::gate::{self, Pass};
use crate::metrics::UnderWayOwned;
use crate::router::{Found, Route};
use crate::shard::{Level, ReadError, ShardHandle, WriteError};

/// How many there are.
pub const DATABASES: usize = 16;
/// So many milliseconds it is believed that a database has room, or none.
const FULL_FOR: u64 = 2;
/// What nobody leads is tried again after this.
const RETRY: Duration = Duration::from_millis(20);
/// A command that is at work has ended after about this.
pub const AT_WORK: Duration = Duration::from_millis(1);

static EMPTY: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::new(0)));

/// What is remembered of them.
pub struct Databases {
    namespace: String,
    /// Of those that are made.
    durability: Durability,
    /// By number; zero: not known.
    ids: [AtomicU64; DATABASES],
    home: ArcSwapOption<ShardHandle>,
}

/// What is asked of the log.
pub struct Calls {
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

/// One state of the databases, to read from.
pub struct Reading {
    view: Arc<View>,
    moment: Moment,
    /// The last database that was read.
    table: Option<(u8, Arc<Table>)>,
    /// What was looked for there and is not counted yet.
    looked: Lookups,
}

impl Clone for Reading {
    fn clone(&self) -> Reading {
        let (view, table) = (self.view.clone(), self.table.clone());
        Reading { view, moment: self.moment, table, looked: Lookups::default() }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.count();
    }
}

impl Databases {
    /// Of a namespace.
    pub fn new(namespace: String, durability: Durability) -> Databases {
        Databases { namespace, durability, ids: Default::default(), home: ArcSwapOption::empty() }
    }

    /// Where they are.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What a database's collection is called.
    pub fn name(database: u8) -> String {
        format!("db{database}")
    }

    /// Whether a database is there, as far as is remembered.
    pub fn is_known(&self, database: u8) -> bool {
        self.ids[usize::from(database)].load(Ordering::Relaxed) != 0
    }

    /// Forgets where they are.
    pub fn forget(&self) {
        self.home.store(None);
    }

    /// The database that a collection is, if it is one.
    pub fn number(&self, view: &View, id: CollectionId) -> Option<u8> {
        let known = self.ids.iter().position(|known| known.load(Ordering::Relaxed) == id.0);
        known.map(|number| number as u8).or_else(|| {
            let found = view.collection_by_id(id).filter(|found| found.namespace() == self.namespace)?;
            let number = found.name().strip_prefix("db")?.parse::<u8>().ok()?;
            (usize::from(number) < DATABASES && Databases::name(number) == found.name()).then_some(number)
        })
    }

    /// The table of a database in a view, if it is there.
    fn table(&self, view: &View, database: u8) -> Option<Arc<Table>> {
        let known = &self.ids[usize::from(database)];
        let id = known.load(Ordering::Relaxed);
        if id != 0
            && let Some(found) = view.collection_by_id(CollectionId(id))
        {
            return found.table().cloned();
        }
        if id != 0 {
            // Dropped: another of its name may be elsewhere.
            known.store(0, Ordering::Relaxed);
            self.home.store(None);
        }
        let found = view.collection(&self.namespace, &Databases::name(database))?;
        known.store(found.id().0, Ordering::Relaxed);
        found.table().cloned()
    }
}

impl Reading {
    /// When it is read, for a call.
    pub fn moment(&self) -> Moment {
        self.moment
    }

    /// Whether the command that wrote at this version may still be at work: more of it may change the same key, at the same
    /// version.
    pub fn is_changing(&self, version: u64) -> bool {
        version > Position::end_of(self.view.index()).get()
    }

    /// Whether a database is there.
    pub fn has(&self, databases: &Databases, database: u8) -> bool {
        databases.table(&self.view, database).is_some()
    }

    fn count(&mut self) {
        if let Some((_, table)) = &self.table {
            table.looked(std::mem::take(&mut self.looked));
        }
    }

    /// Reads a database for a command, and counts which keys are there.
    pub fn look_up<R>(&mut self, databases: &Databases, database: u8, read: impl FnOnce(&Keyspace) -> R) -> R {
        lookups::take();
        let result = self.read(databases, database, read);
        self.looked += lookups::take();
        result
    }

    /// Reads a database.
    pub fn read<R>(&mut self, databases: &Databases, database: u8, read: impl FnOnce(&Keyspace) -> R) -> R {
        if let Some((number, table)) = &self.table
            && *number == database
        {
            return table.read(read);
        }
        let table = databases.table(&self.view, database).unwrap_or_else(|| EMPTY.clone());
        self.count();
        let result = table.read(read);
        self.table = Some((database, table));
        result
    }
}

/// As Redis says that something cannot be done now.
fn unread(error: &ReadError) -> String {
    match error {
        ReadError::NotReady => "LOADING the node is still reading its log".into(),
        _ => format!("TRYAGAIN {error}"),
    }
}

fn unwritten(error: &NotWritten) -> String {
    match error {
        NotWritten::Here(WriteError::NotReady) => "LOADING the node is still reading its log".into(),
        NotWritten::Here(WriteError::MemoryFull { .. }) => {
            "OOM command not allowed when used memory > 'maxmemory'.".into()
        }
        NotWritten::Here(error @ WriteError::DiskFull { .. }) => format!("MISCONF {error}"),
        NotWritten::Here(error @ WriteError::TooLarge { .. }) => format!("ERR {error}"),
        NotWritten::Here(
            error @ (WriteError::Unconfirmed { .. } | WriteError::DeadlineExceeded | WriteError::Stopping),
        ) => format!("UNCONFIRMED {error}"),
        NotWritten::Here(error) => format!("TRYAGAIN {error}"),
        NotWritten::There(status) => {
            let failure = Failure::from_status(status);
            match failure.detail.reason.as_str() {
                "memory_full" => "OOM command not allowed when used memory > 'maxmemory'.".into(),
                "disk_full" => format!("MISCONF {}", failure.message),
                "unconfirmed" | "deadline_exceeded" | "stopping" => format!("UNCONFIRMED {}", failure.message),
                _ => format!("TRYAGAIN {}", failure.message),
            }
        }
    }
}

/// Whether nothing changed, and another node leads or soon will.
fn is_led_elsewhere(error: &NotWritten) -> bool {
    match error {
        NotWritten::Here(WriteError::NotLeader { .. }) => true,
        NotWritten::Here(_) => false,
        NotWritten::There(status) => Failure::from_status(status).detail.reason == "not_leader",
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
    /// Keys with a deadline.
    pub timed: usize,
}

impl Door {
    /// What all databases come to, as far as this node knows.
    pub fn totals(&self) -> Totals {
        let Ok(home) = self.home() else { return Totals::default() };
        let view = home.newest();
        let tables = (0..DATABASES as u8).filter_map(|database| self.databases.table(&view, database));
        tables.fold(Totals::default(), |mut totals, table| {
            totals.looked += table.lookups();
            table.read(|keyspace| {
                totals.expired += keyspace.expired();
                totals.evicted += keyspace.evicted();
                totals.bytes += keyspace.memory_bytes() as u64;
                totals.timed += keyspace.timed();
            });
            totals
        })
    }

    /// If any database is buffered: returns once all that was answered here is synced. All shards of a node share its log, so any
    /// write that is synced will do.
    pub async fn sync_buffered(&self) -> Result<(), String> {
        let view = self.home()?.newest();
        let is_buffered = |database: u8| {
            let found = view.collection(&self.databases.namespace, &Databases::name(database));
            found.is_some_and(|found| found.schema().durability == Durability::Buffered)
        };
        if !(0..DATABASES as u8).any(is_buffered) {
            return Ok(());
        }
        let command = Command::CreateNamespace { name: self.databases.namespace.clone() };
        let origin = Origin { principal: "redis".into(), ..Origin::default() };
        let catalog = self.cluster.catalog().clone();
        self.log(&catalog, Envelope { origin, command }, gate::deadline(None, gate::TIMEOUT_DEFAULT)).await.map(drop)
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
        let rules = self.eviction.load();
        let Some(own) = &rules.namespace else { return false };
        let totals = self.totals();
        let stays = |policy: Policy| policy == Policy::None || (policy.is_volatile() && totals.timed == 0);
        if own.bytes > 0 && totals.bytes > own.bytes && stays(own.policy.unwrap_or(Policy::None)) {
            return true;
        }
        // One with a budget of its own, where the policy is none.
        let Some(policy) = own.policy else { return false };
        let Ok(home) = self.home() else { return false };
        let view = home.newest();
        let found = view.collection(&own.name, &Databases::name(database));
        let budget = found.as_ref().map_or(0, |found| found.schema().eviction_bytes);
        let table = found.and_then(|found| found.table().cloned());
        let over = table.is_some_and(|table| table.read(|keyspace| keyspace.memory_bytes() as u64 > budget));
        budget > 0 && over && stays(policy)
    }

    /// The shard that holds the databases.
    pub fn home(&self) -> Result<ShardHandle, String> {
        if let Some(home) = &*self.databases.home.load() {
            return Ok(ShardHandle::clone(home));
        }
        self.find_home()
    }

    fn find_home(&self) -> Result<ShardHandle, String> {
        let catalog = self.cluster.catalog();
        let found = Route::find(&catalog.newest(), &self.databases.namespace);
        let home = match found {
            Found::Catalog => catalog.clone(),
            Found::BeingMade => return Err("TRYAGAIN the databases are just being made or dropped".into()),
            Found::Route(route) => match route.shards() {
                [shard] => self.cluster.shards().handle(*shard).ok_or("TRYAGAIN the shard does not run here yet")?,
                shards => {
                    return Err(format!(
                        "ERR namespace {:?} is spread over {} shards, and this door serves one: give --resp-namespace another",
                        self.databases.namespace,
                        shards.len()
                    ));
                }
            },
        };
        self.hub.attach(&home);
        if catalog.newest().has_namespace(&self.databases.namespace) {
            self.databases.home.store(Some(Arc::new(home.clone())));
        }
        Ok(home)
    }

    /// The state of the databases, as new as asked.
    pub async fn reading(&self, level: Level) -> Result<Reading, String> {
        let home = self.home()?;
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let view = home.view(level, Some(deadline)).await.map_err(|error| unread(&error))?;
        let moment = Moment { now: home.now(&view), version: view.index(), number: 0 };
        Ok(Reading { view, moment, table: None, looked: Lookups::default() })
    }

    /// Has the log carry out calls. None: a condition did not hold.
    pub async fn execute(&self, calls: Calls, origin: Origin) -> Result<Option<Vec<u8>>, String> {
        let passage = self.enter(calls.packed.len())?;
        self.execute_by(calls, origin, passage.deadline).await
    }

    /// Lets calls of so many bytes in, if there is room.
    pub fn enter(&self, bytes: usize) -> Result<Passage, String> {
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let pass = self.gate.enter(bytes).map_err(|full| format!("TRYAGAIN {full}"))?;
        Ok(Passage { deadline, _pass: pass, _under_way: self.metrics.under_way_owned() })
    }

    /// Has the log carry out calls that were let in.
    pub async fn execute_by(&self, calls: Calls, origin: Origin, deadline: Instant) -> Result<Option<Vec<u8>>, String> {
        for again in [false, true] {
            let home = self.home()?;
            let mut collections = Vec::with_capacity(calls.databases.len());
            for database in &calls.databases {
                let id = match self.databases.ids[usize::from(*database)].load(Ordering::Relaxed) {
                    0 => self.make(*database, deadline).await?,
                    id => id,
                };
                collections.push(id);
            }
            let execution = Execution {
                collections,
                calls: calls.packed.clone(),
                conditions: calls.conditions.clone(),
                atomic: calls.atomic,
            };
            let command = Command::Execute(Box::new(execution));
            match self.log(&home, Envelope { origin: origin.clone(), command }, deadline).await? {
                Outcome::Executed(tape) => return Ok(tape),
                Outcome::Refused(Refusal::UnknownCollection(_)) if !again => {
                    // Dropped; whoever writes makes it anew.
                    for database in &calls.databases {
                        self.databases.ids[usize::from(*database)].store(0, Ordering::Relaxed);
                    }
                    self.databases.home.store(None);
                }
                Outcome::Refused(Refusal::Unmet { unmet, .. }) => return Err(format!("{} {unmet}", unmet.kind())),
                Outcome::Refused(refusal) => return Err(format!("ERR {refusal}")),
                outcome => return Err(format!("ERR unexpected outcome {outcome:?}")),
            }
        }
        Err("TRYAGAIN a database is just being made or dropped".into())
    }

    /// Writes where the shard is led, also if that changes meanwhile.
    async fn log(&self, home: &ShardHandle, envelope: Envelope, deadline: Instant) -> Result<Outcome, String> {
        let cluster = self.cluster.of(home.clone());
        loop {
            match cluster.write(envelope.clone(), deadline).await {
                Ok(written) => return Ok(written.outcome),
                Err(error) if is_led_elsewhere(&error) && Instant::now() + RETRY < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(unwritten(&error)),
            }
        }
    }

    /// Makes a database, or finds it. Says the number of its collection.
    async fn make(&self, database: u8, deadline: Instant) -> Result<u64, String> {
        let _one_at_a_time = self.making.lock().await;
        let known = &self.databases.ids[usize::from(database)];
        let (namespace, name) = (self.databases.namespace.clone(), Databases::name(database));
        let home = self.home()?;
        let find = |view: &View| view.collection(&namespace, &name).map(|found| found.id().0);
        let view = home.view(Level::Latest, Some(deadline)).await.map_err(|error| unread(&error))?;
        if let Some(id) = find(&view) {
            known.store(id, Ordering::Relaxed);
            return Ok(id);
        }
        let origin = || Origin { principal: "redis".into(), ..Origin::default() };
        let catalog = self.cluster.catalog().clone();
        let envelope = |command| Envelope { origin: origin(), command };
        let make = Command::CreateNamespace { name: namespace.clone() };
        self.log(&catalog, envelope(make), deadline).await?;
        let schema = Schema { durability: self.databases.durability, ..Schema::default() };
        let make = Command::CreateCollection { namespace: namespace.clone(), name: name.clone(), schema };
        self.log(&catalog, envelope(make), deadline).await?;
        let failed = |failure: Failure| format!("TRYAGAIN {}", failure.message);
        self.cluster.install(&namespace, &name, deadline).await.map_err(failed)?;
        let home = self.find_home()?;
        let view = home.view(Level::Latest, Some(deadline)).await.map_err(|error| unread(&error))?;
        let id = find(&view).ok_or("TRYAGAIN the database is just being made or dropped")?;
        known.store(id, Ordering::Relaxed);
        Ok(id)
    }
}
