//! Typed values in the store: calls that are applied, what has to go, and what a restart needs.
//!
//! ```text
//!   Execute: conditions hold? --> lock the tables --> calls, a few at a time (or all: atomic) --> replies
//!   Reclaim: keys that have expired, or victims that the leader chose
//! ```
//!
//! A collection gets its table with the first call on it. What has expired is not there for any call, but takes room until
//! a command of the leader removes it: so all members have the same keys at the same entry. Which keys to look at, and which
//! have to make room, is each member's own knowledge and no part of the state.
//!
//! Always: what two calls leave under a key has two versions, also where both are of one entry.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLockWriteGuard};

use super::jobs::JobError;
use super::open::unfit;
use super::{State, Store, StoreError};
use crate::command::{ArchivedExecution, ArchivedReclaim, Command, Outcome, Reclaim, Refusal};
use crate::directory::Directory;
use crate::effects::{Effect, Effects, Fate};
use crate::manifest::{CollectionFiles, FileName, TableFile};
use crate::record::{CollectionId, Position};
use crate::table::call::{Chance, Unpacked};
use crate::table::commands::{Run, Spec, parse_int};
use crate::table::eviction::{Policy, Room};
use crate::table::execute::{
    self, ASKED_TOO_MUCH, GROWTH_BYTES_MAX, GROWTH_TOGETHER_BYTES_MAX, Moment, TAKEN_BYTES_MAX,
};
use crate::table::file::{self, FileError, TABLE_FILE_VERSION};
use crate::table::guards;
use crate::table::tape::{Item, Items, Tape};
use crate::table::{At, Event, Keyspace, Listening, Table, ahead, lookups, slab};

/// Readers wait for no more calls than this, unless they are to see them as one.
const CALLS_PER_LOCK: usize = 32;
/// Once replies to the calls of one command take so much, the rest of the calls is refused. Every member makes all replies.
const REPLIES_BYTES_MAX: usize = 64 << 20;
/// What those are answered.
const REPLIES_REFUSED: &str =
    "ERR not carried out: the replies to the calls that came together take more than 64 MiB; send fewer at a time";
/// Writes of a transaction are carried out all the same. Their replies are left out from then on if they are longer than this.
const REPLY_BYTES_MIN: usize = 1 << 10;
/// What those are answered.
const REPLY_LEFT_OUT: &str = "ERR carried out, but the reply is left out: it, or the replies to the calls that came together, would take too much";
/// The most keys of one collection that one command removes.
const RECLAIM_MAX: usize = 1_024;

/// What the owner keeps of a table besides what readers see.
#[derive(Default)]
pub(super) struct TableState {
    /// The sum of its keys' hashes.
    pub sum: u128,
    /// What its changes counted when it was last written to a file, and the number of that file.
    pub saved: Option<(u64, u64)>,
}

/// A table that is to be written down.
pub(super) struct Saved {
    id: CollectionId,
    table: Arc<Table>,
    writer: file::Writer,
    /// What its changes counted when it was begun.
    changes: u64,
    file: u64,
}

/// A table that was written.
pub(super) struct WrittenTable {
    id: CollectionId,
    table: Arc<Table>,
    changes: u64,
    file: u64,
}

/// Writes tables to files.
pub(super) fn write(
    tables: Vec<Saved>,
    directory: &dyn Directory,
    cancel: &AtomicBool,
    created: &mut Vec<FileName>,
) -> Result<Vec<WrittenTable>, JobError> {
    let mut written = Vec::with_capacity(tables.len());
    for Saved { id, table, writer, changes, file } in tables {
        created.push(FileName::Table(file));
        let name = FileName::Table(file).to_string();
        if !writer.write(directory, &name, || !cancel.load(Ordering::Relaxed))? {
            return Err(JobError::Cancelled);
        }
        written.push(WrittenTable { id, table, changes, file });
    }
    Ok(written)
}

/// Looks ahead for what the next calls are about: nearly always the first argument is a key.
fn look_ahead<'c: 't, 't, K: Deref<Target = Keyspace>>(
    mut calls: Unpacked<'c>,
    tables: &'t [K],
    args: &mut Vec<&'c [u8]>,
) {
    let of_call = || {
        let keyspace = tables.get(usize::from(calls.next_into(args)?));
        Some(keyspace.and_then(|keyspace| Some((&**keyspace, *args.get(1)?))))
    };
    ahead::look_ahead(std::iter::from_fn(of_call).take(CALLS_PER_LOCK).flatten());
}

/// Where keys lie is decided by a part of the digest's key that no client knows.
fn seed_of(digest_key: &[u8; 32]) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *digest_key;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Reads a collection's table, if it has one.
pub(super) fn open(
    directory: &dyn Directory,
    files: &CollectionFiles,
    digest_key: &[u8; 32],
    state: &mut State,
) -> Result<(), StoreError> {
    let Some(saved) = &files.table else { return Ok(()) };
    let seed = seed_of(digest_key);
    let keyspace = match saved.file {
        None => Keyspace::new(seed),
        Some(number) => {
            let name = FileName::Table(number).to_string();
            file::read(directory, &name, seed).map_err(|error| match error {
                FileError::Foreign => StoreError::Foreign { file: name },
                FileError::NewerVersion(version) => {
                    StoreError::NewerVersion { file: name, version, known: TABLE_FILE_VERSION }
                }
                FileError::Damaged { offset, what } => StoreError::Damaged { file: name, offset, what: what.into() },
                FileError::Directory(crate::directory::DirectoryError::Missing(file)) => {
                    unfit(file, "the manifest names it, and it is not there")
                }
                FileError::Directory(error) => StoreError::Directory(error),
            })?
        }
    };
    if keyspace.len() as u64 != saved.keys || keyspace.sum() != saved.sum {
        let what = format!("the typed values of collection {} are not those that were written", files.id);
        return Err(unfit(saved.file.map_or("MANIFEST".into(), |file| FileName::Table(file).to_string()), what));
    }
    state.table = TableState { sum: saved.sum, saved: saved.file.map(|file| (keyspace.changes(), file)) };
    let mut shared = (*state.shared).clone();
    shared.table = Some(Arc::new(Table::of(keyspace)));
    state.shared = Arc::new(shared);
    Ok(())
}

/// What calls that stand together demand before any of them is carried out.
fn check_guards(tables: &[Arc<Table>], calls: &[u8], now: u64) -> Result<(), Refusal> {
    let (mut unpacked, mut args) = (Unpacked::new(calls), Vec::new());
    for number in 0.. {
        let Some(database) = unpacked.next_into(&mut args) else { break };
        let Some(spec) = guards::find(&args) else { continue };
        let Some(table) = tables.get(usize::from(database)) else { continue };
        if let Some(unmet) = table.read(|keyspace| guards::unmet(keyspace, spec, &args, now)) {
            return Err(Refusal::Unmet { number, unmet });
        }
    }
    Ok(())
}

impl Store {
    /// Tells what [`Store::take_events`] listens to from now on.
    pub fn listen(&mut self, listening: Listening) {
        for table in self.collections.iter().filter_map(|state| state.shared.table.as_ref()) {
            table.write(|keyspace| keyspace.listen(listening.clone()));
        }
        self.listening = listening;
    }

    /// What happened to typed values since this was asked last, in order, where somebody listens.
    pub fn take_events(&mut self) -> Vec<(CollectionId, Event)> {
        std::mem::take(&mut self.events)
    }

    /// What the entry that was applied last changed, where somebody wants to know.
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// Notes an effect, if somebody wants to know.
    pub(super) fn note_effect(&mut self, at: Position, collection: CollectionId, fate: Fate, key: &[u8]) {
        if self.listening.has_effects() {
            self.effects.push(Effect { collection, position: at, fate, typed: false, key });
        }
    }

    /// The table of the collection at a place; made if there is none.
    fn table(&mut self, place: usize) -> Arc<Table> {
        if let Some(table) = &self.collections[place].shared.table {
            return Arc::clone(table);
        }
        let table = Arc::new(Table::new(seed_of(&self.digest_key)));
        table.write(|keyspace| keyspace.listen(self.listening.clone()));
        self.reshape(place, |collection| collection.table = Some(Arc::clone(&table)));
        table
    }

    /// Takes in that tables were written.
    pub(super) fn tables_written(&mut self, written: Vec<WrittenTable>) {
        for WrittenTable { id, table, changes, file } in written {
            // Dropped meanwhile, even if it is there anew: its file goes.
            let is_it = |place: &usize| {
                self.collections[*place].shared.table.as_ref().is_some_and(|other| Arc::ptr_eq(other, &table))
            };
            if let Some(place) = self.place(id).filter(is_it) {
                self.collections[place].table.saved = Some((changes, file));
            }
        }
    }

    /// What writers had to write down for checkpoints under way. Where it is much, nobody should write for a moment.
    pub fn spilled_bytes(&self) -> usize {
        let tables = self.collections.iter().filter_map(|state| state.shared.table.as_ref());
        tables.map(|table| table.read(Keyspace::spilled_bytes)).sum()
    }

    /// What the manifest says of a collection's table, and the table itself if it has to be written to that end.
    pub(super) fn save_table(&mut self, place: usize) -> (Option<TableFile>, Option<Saved>) {
        let Some(table) = self.collections[place].shared.table.clone() else { return (None, None) };
        let (keys, changes) = table.read(|keyspace| (keyspace.len() as u64, keyspace.changes()));
        let (id, state) = (self.collections[place].shared.id, &self.collections[place].table);
        let (sum, current) = (state.sum, state.saved.filter(|(then, _)| *then == changes));
        let saved = (keys > 0 && current.is_none()).then(|| {
            let file = self.next_file();
            Saved { id, table: Arc::clone(&table), writer: file::Writer::begin(&table), changes, file }
        });
        let file = saved.as_ref().map(|saved| saved.file).or(current.map(|(_, file)| file));
        (Some(TableFile { file, keys, sum }), saved)
    }

    pub(super) fn execute(&mut self, at: Position, execution: &ArchivedExecution) -> Result<Outcome, Refusal> {
        let mut places = Vec::with_capacity(execution.collections.len());
        for id in execution.collections.iter().map(|id| id.to_native()) {
            let place = self.place(CollectionId(id)).filter(|place| !places.contains(place));
            places.push(place.ok_or(Refusal::UnknownCollection(id))?);
        }
        self.settle_one(at);
        let tables: Vec<_> = places.iter().map(|place| self.table(*place)).collect();
        let now = self.clock;
        let unchanged = execution.conditions.iter().all(|watched| {
            let version = |keyspace: &Keyspace| keyspace.version(&watched.key, now).unwrap_or(0);
            tables.get(usize::from(watched.database)).map(|table| table.read(version))
                == Some(watched.version.to_native())
        });
        if !unchanged {
            return Ok(Outcome::Executed(None));
        }
        if execution.atomic {
            check_guards(&tables, &execution.calls, now)?;
        }
        let (mut unpacked, mut args, mut out) = (Unpacked::new(&execution.calls), Vec::new(), Tape::new());
        let (mut number, mut more) = (0, true);
        let growth = if execution.atomic { GROWTH_TOGETHER_BYTES_MAX } else { GROWTH_BYTES_MAX };
        tables.iter().for_each(|table| table.write(|keyspace| keyspace.begin_growth(growth)));
        while more {
            let mut locked: Vec<_> = tables.iter().map(|table| table.lock()).collect();
            let until = if execution.atomic { usize::MAX } else { CALLS_PER_LOCK };
            for turn in 0..until {
                if turn % CALLS_PER_LOCK == 0 {
                    look_ahead(unpacked.clone(), &locked, &mut args);
                }
                let Some(database) = unpacked.next_into(&mut args) else {
                    more = false;
                    break;
                };
                let moment = Moment { now, version: self.next_version(at), number };
                number += 1;
                let (before, too_much) = (out.len(), out.len() > REPLIES_BYTES_MAX);
                let must = |spec: &Spec| execution.atomic && !execute::asks(spec);
                match (locked.get_mut(usize::from(database)), execute::find(&args)) {
                    // Calls that write may answer with as much as those that read: GETEX, scripts.
                    (Some(_), Ok(spec)) if too_much && !must(spec) => out.error(REPLIES_REFUSED),
                    (Some(keyspace), Ok(spec)) if matches!(spec.run, Run::Script) => {
                        self.scripts.call(keyspace, &args, moment, &mut out);
                    }
                    (Some(_), Ok(spec)) if matches!(spec.run, Run::Swap) => swap(&mut locked, &args, &mut out),
                    (Some(keyspace), Ok(spec)) => {
                        lookups::take();
                        // Of reads among others it is not said that their own reply is too long: it need not be.
                        let (room, refusal) = match (execute::asks(spec), too_much) {
                            (true, _) if before == 0 => (REPLIES_BYTES_MAX, ASKED_TOO_MUCH),
                            (true, _) => (REPLIES_BYTES_MAX.saturating_sub(before), REPLIES_REFUSED),
                            (false, true) => (REPLY_BYTES_MIN, REPLY_LEFT_OUT),
                            (false, false) => (TAKEN_BYTES_MAX, REPLY_LEFT_OUT),
                        };
                        if !execute::write_within(keyspace, spec, &args, moment, room, &mut out) {
                            out.error(refusal);
                        }
                        if matches!(spec.run, Run::Read(_)) {
                            tables[usize::from(database)].looked(lookups::take());
                        }
                    }
                    (Some(_), Err(failure)) => out.error(failure.text()),
                    (None, _) => out.error("ERR there is no such database here"),
                }
                // A script's.
                let is_failure = || matches!(Items::new(&out.bytes()[before..]).next(), Some(Item::Error(_)));
                if too_much && out.len() - before > REPLY_BYTES_MIN && !is_failure() {
                    out.truncate(before);
                    out.error(REPLY_LEFT_OUT);
                }
                // Each call gives what it changes a version of its own.
                let version = Position::from_u64(moment.version);
                for (keyspace, id) in locked.iter_mut().zip(execution.collections.iter()) {
                    keyspace.events.drain_fates(version, CollectionId(id.to_native()), &mut self.effects);
                }
            }
            for ((keyspace, place), id) in locked.iter_mut().zip(&places).zip(execution.collections.iter()) {
                self.collections[*place].table.sum = keyspace.sum();
                let id = CollectionId(id.to_native());
                self.events.extend(keyspace.events.take().into_iter().map(|event| (id, event)));
            }
        }
        self.work.note_calls();
        Ok(Outcome::Executed(Some(out.into_bytes())))
    }

    /// The version of what the next call changes. Those who make entries put fewer calls into one than there are places.
    fn next_version(&mut self, at: Position) -> u64 {
        let place = self.calls.min(Position::COMMANDS_MAX - 1);
        self.calls += 1;
        Position::new(at.index(), place).get()
    }

    /// Whether the lease of that name in a collection is held under that number.
    pub(super) fn check_lease(&self, number: u32, place: usize, name: &[u8], given: u64) -> Result<(), Refusal> {
        let table = self.collections[place].shared.table.as_ref();
        let held = table.and_then(|table| table.read(|keyspace| guards::held(keyspace, name, self.clock)));
        let unmet = guards::lease_unmet(held.unwrap_or(0), name, given);
        unmet.map_or(Ok(()), |unmet| Err(Refusal::Unmet { number, unmet }))
    }

    /// Whether the typed value under that key in a collection has that version.
    pub(super) fn check_value(&self, number: u32, place: usize, key: &[u8], expected: u64) -> Result<(), Refusal> {
        let table = self.collections[place].shared.table.as_ref();
        let found = table.and_then(|table| table.read(|keyspace| keyspace.version(key, self.clock)));
        let unmet = guards::value_unmet(found.unwrap_or(0), key, expected);
        unmet.map_or(Ok(()), |unmet| Err(Refusal::Unmet { number, unmet }))
    }

    /// What all tables take in memory. A checkpoint writes those that changed, whole.
    pub fn tables_bytes(&self) -> u64 {
        let tables = self.collections.iter().filter_map(|state| state.shared.table.as_ref());
        tables.map(|table| table.read(|keyspace| keyspace.memory_bytes()) as u64).sum()
    }

    /// Has some table, with each entry another, move a little of what should move, unless somebody is reading in it: an entry waits
    /// for no table but its own.
    fn settle_one(&self, at: Position) {
        if slab::are_sparse()
            && let Some(state) = self.collections.get(at.index() as usize % self.collections.len().max(1))
            && let Some(table) = &state.shared.table
        {
            table.write_if_free(Keyspace::settle_in_passing);
        }
    }

    pub(super) fn reclaim(&mut self, at: Position, reclaim: &ArchivedReclaim) -> Result<Outcome, Refusal> {
        self.settle_one(at);
        let id = reclaim.collection.to_native();
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let Some(table) = self.collections[place].shared.table.clone() else { return Ok(Outcome::Unchanged) };
        let moment = At { version: at.get(), now: self.clock };
        let mut keyspace = table.lock();
        let keys = reclaim.keys.iter().map(|key| &key[..]);
        if reclaim.evicted {
            for key in keys {
                if keyspace.evict(key, moment) {
                    keyspace.note_evicted();
                    keyspace.notify(b'e', "evicted", key);
                }
            }
        } else {
            keyspace.remove_expired(keys, moment.now);
        }
        self.collections[place].table.sum = keyspace.sum();
        keyspace.events.drain_fates(at, CollectionId(id), &mut self.effects);
        self.events.extend(keyspace.events.take().into_iter().map(|event| (CollectionId(id), event)));
        Ok(Outcome::Done)
    }

    /// When keys of tables have to be looked at next: milliseconds since 1970.
    pub(super) fn tables_due(&self) -> Option<u64> {
        let tables = self.collections.iter().filter_map(|state| state.shared.table.as_ref());
        tables.filter_map(|table| table.read(Keyspace::next_due)).min()
    }

    /// How far the tables of each collection with a limit must shrink, with the policy for it: what a collection may take
    /// alone, and what those of a namespace may take together, each giving way by its share.
    fn limits(&self, room: &Room) -> Vec<(usize, usize, Policy)> {
        let bytes_of = |state: &State| {
            let table = state.shared.table.as_ref()?;
            Some(table.read(Keyspace::memory_bytes))
        };
        let mut limits = Vec::new();
        let mut together = Vec::new();
        let namespace = room.namespace.as_ref().filter(|own| own.bytes > 0);
        for (place, state) in self.collections.iter().enumerate() {
            let (schema, name) = (&state.shared.schema, &state.shared.namespace);
            let own = schema.eviction_bytes as usize;
            let is_one_of_many = namespace.is_some_and(|namespace| *namespace.name == **name);
            if own == 0 && !is_one_of_many {
                continue;
            }
            let Some(bytes) = bytes_of(state) else { continue };
            if own > 0 && bytes > own {
                limits.push((place, own, room.policy_of(name, schema)));
            }
            if is_one_of_many {
                together.push((place, bytes, room.policy_together(name, schema)));
            }
        }
        let total: usize = together.iter().map(|(_, bytes, _)| bytes).sum();
        if let Some(namespace) = namespace
            && let Some(over) = total.checked_sub(namespace.bytes as usize).filter(|over| *over > 0)
        {
            // Those that evict nothing leave it to the others.
            together.retain(|(.., policy)| *policy != Policy::None);
            let giving: usize = together.iter().map(|(_, bytes, _)| bytes).sum();
            limits.extend(together.into_iter().map(|(place, bytes, policy)| {
                let share = (over as u128 * bytes as u128).div_ceil(giving.max(1) as u128) as usize;
                (place, bytes.saturating_sub(share), policy)
            }));
        }
        limits.retain(|(.., policy)| *policy != Policy::None);
        limits
    }

    /// Whether anything has to make room as soon as there is too much of it.
    pub fn is_limited(&self, room: &Room) -> bool {
        let together = room.namespace.as_ref().is_some_and(|own| own.bytes > 0);
        together || self.collections.iter().any(|state| state.shared.schema.eviction_bytes > 0)
    }

    /// Commands for the next entry, if this member leads: what has to make room, and what has expired by `now`. A key is named
    /// once, and once more some time later if it is still there.
    pub fn reclaims(&mut self, now: u64, room: &Room) -> Vec<Command> {
        let mut commands = Vec::new();
        for (place, budget, policy) in self.limits(room) {
            let state = &self.collections[place];
            let Some(table) = &state.shared.table else { continue };
            let mut chance = Chance::new(self.applied);
            let victims = table.write(|keyspace| keyspace.victims(budget, policy, RECLAIM_MAX, &mut chance));
            let keys: Vec<Vec<u8>> = victims.into_iter().map(Into::into).collect();
            if !keys.is_empty() {
                let reclaim = Reclaim { collection: state.shared.id.0, keys, evicted: true };
                commands.push(Command::Reclaim(reclaim.into()));
            }
        }
        commands.extend(self.expiries(now));
        commands
    }

    /// What of this is about keys that have expired by `now`. A member that does not lead asks too, and forgets when it had to look.
    pub fn expiries(&mut self, now: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        for state in &self.collections {
            let Some(table) = &state.shared.table else { continue };
            if table.read(|keyspace| keyspace.next_due().is_none_or(|due| due > now)) {
                continue;
            }
            let keys: Vec<Vec<u8>> =
                table.write(|keyspace| keyspace.due(now, RECLAIM_MAX)).into_iter().map(Into::into).collect();
            if !keys.is_empty() {
                let reclaim = Reclaim { collection: state.shared.id.0, keys, evicted: false };
                commands.push(Command::Reclaim(reclaim.into()));
            }
        }
        commands
    }
}

/// Exchanges what two of the databases hold, which are named by their places.
fn swap(locked: &mut [RwLockWriteGuard<'_, Keyspace>], args: &[&[u8]], out: &mut Tape) {
    let place = |arg: &[u8]| parse_int(arg).and_then(|place| usize::try_from(place).ok());
    let (Some(one), Some(other)) = (place(args[1]), place(args[2])) else { return out.error("ERR invalid DB index") };
    let (low, high) = (one.min(other), one.max(other));
    if high >= locked.len() {
        return out.error("ERR there is no such database here");
    }
    if low < high {
        let (before, after) = locked.split_at_mut(high);
        Keyspace::swap(&mut before[low], &mut after[0]);
    }
    out.ok();
}
