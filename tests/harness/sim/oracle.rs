//! The oracle: what every member must hold, worked out apart from the store by the slowest and plainest means.
//!
//! ```text
//!   first member that applies entry i ---> its bytes are the entry ---> oracle applies it to plain maps
//!   every other member that applies i ---> the same bytes?             state as of any index, for any key
//!   any two at the same index --------> the same chain and digest?     outcome of any command
//! ```
//!
//! Always: nothing here is forgotten, so every answer that any client ever gets can be compared with the state at exactly
//! the index that it was read at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use loci_index::command::{
    ArchivedAction, ArchivedCommand, ArchivedContent, ArchivedExecution, ArchivedExpect, ArchivedOrigin,
    ArchivedReclaim, Entry as Commands, Found, Origin, Outcome, Refusal, Unmet,
};
use loci_index::record::Position;
use loci_index::table::call::Unpacked;
use loci_index::table::tape::Tape;
use loci_raft::{Entry, EntryKind, FOUNDING_INDEX, FOUNDING_TERM, MemberId, Members, Term};

use super::{Checked, Reached, violation};
use crate::plain::{Kept, Loaded, Plain, When};

/// A collection's id and a key in it.
pub type Place = (u64, Vec<u8>);

/// A record as it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The position of the write that made it.
    pub version: u64,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its only embedding.
    pub embedding: Option<Vec<f32>>,
    /// When it stops existing; zero: never.
    pub deadline: u64,
}

/// What a member holds at an index, in two numbers.
type Sums = ([u8; 32], [u8; 32]);

/// See the module's front page.
pub struct Oracle {
    /// From the first entry after the founding: itself, the log's clock after it, its commands' outcomes.
    entries: Vec<Applied>,
    /// The members in force from each entry on that changed them.
    members: BTreeMap<u64, Arc<Members>>,
    records: BTreeMap<Place, Vec<(u64, Option<Record>)>>,
    /// Typed values as of the last entry, by collection.
    tables: BTreeMap<u64, Plain>,
    /// And as of each entry that changed them.
    typed: BTreeMap<Place, Vec<(u64, Option<Kept>)>>,
    loaded: Loaded,
    /// Calls on typed values in the entry that is being applied: each has a version of its own.
    calls: usize,
    reached: Reached,
    /// By principal and request id: in which entry it was carried out, and what was answered.
    requests: BTreeMap<(String, Vec<u8>), (u64, Outcome)>,
    sums: BTreeMap<u64, (Sums, MemberId)>,
    collections: u64,
    /// Requests that were answered again.
    repeated: u64,
}

struct Applied {
    entry: Entry,
    clock: u64,
    outcomes: Vec<Outcome>,
}

impl Oracle {
    /// Of a shard that these members found.
    pub fn new(founders: Arc<Members>) -> Oracle {
        Oracle {
            entries: Vec::new(),
            members: BTreeMap::from([(FOUNDING_INDEX.0, founders)]),
            records: BTreeMap::new(),
            tables: BTreeMap::new(),
            typed: BTreeMap::new(),
            loaded: Loaded::new(),
            calls: 0,
            reached: Reached::default(),
            requests: BTreeMap::new(),
            sums: BTreeMap::new(),
            collections: 0,
            repeated: 0,
        }
    }

    /// The last entry it knows.
    pub fn applied(&self) -> u64 {
        FOUNDING_INDEX.0 + self.entries.len() as u64
    }

    /// How many requests were repeated and got their first outcome.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    fn entry(&self, index: u64) -> Option<&Applied> {
        self.entries.get(usize::try_from(index.checked_sub(FOUNDING_INDEX.0 + 1)?).ok()?)
    }

    /// The log's clock as of an entry.
    pub fn clock(&self, index: u64) -> u64 {
        self.entry(index).map_or(0, |entry| entry.clock)
    }

    /// The term of an entry.
    pub fn term(&self, index: u64) -> Term {
        self.entry(index).map_or(FOUNDING_TERM, |applied| applied.entry.term)
    }

    /// The members in force as of an entry, which is the founding or comes later.
    pub fn members(&self, index: u64) -> &Arc<Members> {
        let known = self.members.range(..=index.max(FOUNDING_INDEX.0)).next_back();
        known.expect("the founders stand at the beginning").1
    }

    /// What became of the commands of an entry.
    pub fn outcomes(&self, index: u64) -> &[Outcome] {
        self.entry(index).map_or(&[], |entry| &entry.outcomes)
    }

    /// Whether an entry has nothing of a request, which was carried out in an earlier one, with that outcome: a leader that can log
    /// nothing says it again.
    pub fn is_said_again(&self, origin: &Origin, index: u64, outcome: &Outcome) -> bool {
        let first = self.requests.get(&(origin.principal.clone(), origin.request_id.clone()));
        first.is_some_and(|(first, known)| *first < index && known == outcome) && !self.carries(origin, index)
    }

    fn carries(&self, origin: &Origin, index: u64) -> bool {
        let is_it = |other: &ArchivedOrigin| {
            (other.principal.as_str(), &*other.request_id) == (&*origin.principal, &*origin.request_id)
        };
        let carries = |entry: &Applied| {
            Commands::access(&entry.entry.data, |entry| entry.commands.iter().any(|envelope| is_it(&envelope.origin)))
        };
        self.entry(index).is_some_and(|entry| carries(entry).unwrap_or(false))
    }

    /// A member has applied an entry: the first says what it is, the others must say the same.
    pub fn entry_applied(&mut self, member: MemberId, entry: &Entry) -> Checked {
        let (index, term) = (entry.index.0, entry.term);
        if index > self.applied() {
            return self.apply(entry);
        }
        match self.entry(index) {
            Some(known) if known.entry == *entry => Ok(()),
            _ => violation(format!(
                "member {member} applied another entry {index} (term {term}) than was applied before"
            )),
        }
    }

    /// A member holds this at an index.
    pub fn agree(&mut self, member: MemberId, index: u64, sums: Sums) -> Checked {
        let (first, who) = *self.sums.entry(index).or_insert((sums, member));
        if first == sums {
            return Ok(());
        }
        let what = if first.0 == sums.0 { "another digest" } else { "another chain of entries" };
        violation(format!("at entry {index} member {member} has {what} than member {who}"))
    }

    /// The record of a key as of an index, expired or not.
    pub fn record(&self, place: &Place, index: u64) -> Option<&Record> {
        as_of(self.records.get(place)?, index)
    }

    /// The records of a collection as of an index that have not expired by `now`, by key.
    pub fn live(&self, collection: u64, index: u64, now: u64) -> impl Iterator<Item = (&[u8], &Record)> {
        let now = now.max(self.clock(index));
        let places = self.records.range((collection, Vec::new())..(collection + 1, Vec::new()));
        places.filter_map(move |(place, _)| {
            let record = self.record(place, index)?;
            (record.deadline == 0 || record.deadline > now).then_some((&place.1[..], record))
        })
    }

    /// The typed value of a key as of an index, expired or not, alone in its database.
    pub fn typed(&self, collection: u64, key: &[u8], index: u64) -> Plain {
        let place = (collection, key.to_vec());
        let kept = self.typed.get(&place).and_then(|versions| as_of(versions, index));
        Plain::of(kept.map(|kept| (place.1, kept.clone())).into_iter().collect())
    }

    /// All typed values of a collection as of an index, expired or not.
    pub fn all_typed(&self, collection: u64, index: u64) -> Plain {
        let places = self.typed.range((collection, Vec::new())..(collection + 1, Vec::new()));
        let kept = places.filter_map(|(place, versions)| Some((place.1.clone(), as_of(versions, index)?.clone())));
        Plain::of(kept.collect())
    }

    /// Tells what happened to typed values.
    pub fn mark_tables(&self, reached: &mut Reached) {
        reached.add(&self.reached);
    }

    fn apply(&mut self, entry: &Entry) -> Checked {
        let index = entry.index.0;
        if index != self.applied() + 1 {
            return violation(format!("entry {index} was applied after {}", self.applied()));
        }
        self.calls = 0;
        let clock = self.clock(index - 1);
        let mut applied = Applied { entry: entry.clone(), clock, outcomes: Vec::new() };
        if entry.kind == EntryKind::Members {
            self.change_members(entry)?;
        } else if !entry.data.is_empty() {
            let read = Commands::access(&entry.data, |entry| {
                let clock = clock.max(entry.clock.to_native());
                let commands = entry.commands.iter().enumerate();
                let outcome = |(place, envelope): (usize, &loci_index::command::ArchivedEnvelope)| {
                    self.apply_envelope(Position::new(index, place), clock, &envelope.origin, &envelope.command)
                };
                (clock, commands.map(outcome).collect())
            });
            match read {
                Ok((clock, outcomes)) => (applied.clock, applied.outcomes) = (clock, outcomes),
                Err(error) => return violation(format!("entry {index} was applied and is damaged: {error}")),
            }
        }
        self.entries.push(applied);
        Ok(())
    }

    /// In two steps: the new voters beside the old, then the new alone.
    fn change_members(&mut self, entry: &Entry) -> Checked {
        let index = entry.index.0;
        let Ok(next) = Members::decode(&entry.data) else {
            return violation(format!("entry {index} changes members and is damaged"));
        };
        let now = self.members(index);
        let follows = if now.joint() { next == now.leave() } else { next.voters_outgoing() == now.voters() };
        if !follows {
            return violation(format!("entry {index} makes {next:?} of {now:?}"));
        }
        self.reached.mark("steps of changes of members applied");
        self.members.insert(index, Arc::new(next));
        Ok(())
    }

    fn apply_envelope(
        &mut self,
        at: Position,
        clock: u64,
        origin: &ArchivedOrigin,
        command: &ArchivedCommand,
    ) -> Outcome {
        let request = (origin.principal.as_str().to_owned(), origin.request_id.to_vec());
        if !request.1.is_empty()
            && let Some((_, outcome)) = self.requests.get(&request)
        {
            self.repeated += 1;
            return outcome.clone();
        }
        let outcome = self.apply_command(at, clock, command);
        if !request.1.is_empty() {
            self.requests.insert(request, (at.index(), outcome.clone()));
        }
        outcome
    }

    fn apply_command(&mut self, at: Position, clock: u64, command: &ArchivedCommand) -> Outcome {
        let (conditions, changes) = match command {
            ArchivedCommand::CreateNamespace { .. } => return Outcome::Done,
            ArchivedCommand::CreateCollection { .. } => {
                self.collections += 1;
                return Outcome::Created { collection: self.collections };
            }
            ArchivedCommand::Write { conditions, changes } => (conditions, changes),
            ArchivedCommand::Execute(execution) => return self.execute(at, clock, execution),
            ArchivedCommand::Reclaim(reclaim) => return self.reclaim(at, clock, reclaim),
            _ => panic!("the clients of the simulation send no such command"),
        };
        let now = |oracle: &Oracle, place: &Place| {
            let versions = oracle.records.get(place)?;
            let record = versions.last()?.1.as_ref()?;
            (record.deadline == 0 || record.deadline > clock).then_some(record.version)
        };
        for (number, condition) in (0..).zip(conditions.iter()) {
            let place = (condition.collection.to_native(), condition.key.to_vec());
            let nothing = Plain::default();
            let table = self.tables.get(&place.0).unwrap_or(&nothing);
            let unmet = match &condition.expect {
                ArchivedExpect::Lease(given) => table.lease_unmet(&place.1, given.to_native(), clock),
                ArchivedExpect::Value(expected) => table.value_unmet(&place.1, expected.to_native(), clock),
                _ => None,
            };
            if let Some(unmet) = unmet {
                return Outcome::Refused(Refusal::Unmet { number, unmet });
            }
            let found = now(self, &place);
            let holds = match condition.expect {
                ArchivedExpect::Absent => found.is_none(),
                ArchivedExpect::Present => found.is_some(),
                ArchivedExpect::Version(version) => found == Some(version.to_native()),
                // They hold.
                ArchivedExpect::Lease(_) | ArchivedExpect::Value(_) => true,
            };
            if !holds {
                let found = found.map_or(Found::Absent, Found::Version);
                return Outcome::Refused(Refusal::ConditionFailed { number, key: place.1, found });
            }
        }
        let mut existed = Vec::new();
        for change in changes.iter() {
            let place = (change.collection.to_native(), change.key.to_vec());
            let was = now(self, &place).is_some();
            let after = match &change.action {
                ArchivedAction::Put(content) => Some(made(at.get(), clock, content)),
                ArchivedAction::Delete => None,
                _ => panic!("the clients of the simulation send no such change"),
            };
            existed.push(was);
            if was || after.is_some() {
                self.records.entry(place).or_default().push((at.index(), after));
            }
        }
        Outcome::Written { version: at.get(), existed }
    }
}

impl Oracle {
    fn execute(&mut self, at: Position, now: u64, execution: &ArchivedExecution) -> Outcome {
        let collections: Vec<u64> = execution.collections.iter().map(|id| id.to_native()).collect();
        let unchanged = execution.conditions.iter().all(|watched| {
            let table = self.tables.get(&collections[usize::from(watched.database)]);
            let kept = table.and_then(|table| table.live(&watched.key, now));
            kept.map_or(0, |kept| kept.version) == watched.version.to_native()
        });
        if !unchanged {
            return Outcome::Executed(None);
        }
        if execution.atomic
            && let Some((number, unmet)) = self.unmet(&collections, &execution.calls, now)
        {
            return Outcome::Refused(Refusal::Unmet { number, unmet });
        }
        let (mut unpacked, mut args, mut out) = (Unpacked::new(&execution.calls), Vec::new(), Tape::new());
        while let Some(database) = unpacked.next_into(&mut args) {
            let table = self.tables.entry(collections[usize::from(database)]).or_default();
            let version = Position::new(at.index(), self.calls).get();
            self.calls += 1;
            table.call(&mut self.loaded, &args, When { now, version }, &mut out);
            self.reached.mark("calls on typed values applied");
        }
        collections.into_iter().for_each(|collection| self.note_changed(at, collection));
        Outcome::Executed(Some(out.into_bytes()))
    }

    /// The first guard of a transaction that does not hold.
    fn unmet(&self, collections: &[u64], calls: &[u8], now: u64) -> Option<(u32, Unmet)> {
        let (mut unpacked, mut args) = (Unpacked::new(calls), Vec::new());
        for number in 0.. {
            let database = unpacked.next_into(&mut args)?;
            if !matches!(args[0], b"LEASE.FENCE" | b"VERSION.IF") {
                continue;
            }
            let nothing = Plain::default();
            let table = self.tables.get(&collections[usize::from(database)]).unwrap_or(&nothing);
            if let Some(unmet) = table.unmet(&args, now) {
                return Some((number, unmet));
            }
        }
        None
    }

    fn reclaim(&mut self, at: Position, now: u64, reclaim: &ArchivedReclaim) -> Outcome {
        let collection = reclaim.collection.to_native();
        let Some(table) = self.tables.get_mut(&collection) else { return Outcome::Unchanged };
        for key in reclaim.keys.iter() {
            let live = table.live(key, now).is_some();
            // Whoever holds a lease relies on it.
            if reclaim.evicted && table.held(key, now).is_some() {
                self.reached.mark("victims that had become leases");
                continue;
            }
            let has_parts = live && table.keys()[&key[..]].fields().is_some();
            match (reclaim.evicted, live) {
                (true, true) => table.remove(key),
                (true, false) => self.reached.mark("victims that were gone already"),
                (false, true) if has_parts => self.reached.mark("hashes named because fields had expired"),
                (false, true) => self.reached.mark("keys named as expired that live"),
                (false, false) => self.reached.mark("keys removed because they had expired"),
            }
            if reclaim.evicted && live {
                self.reached.mark("keys evicted");
            }
        }
        self.note_changed(at, collection);
        Outcome::Done
    }

    fn note_changed(&mut self, at: Position, collection: u64) {
        let Some(table) = self.tables.get_mut(&collection) else { return };
        let changed: BTreeSet<Vec<u8>> = table.take_changed();
        for key in changed {
            let kept = table.keys().get(&key).cloned();
            self.typed.entry((collection, key)).or_default().push((at.index(), kept));
        }
    }
}

/// What there was as of an index.
fn as_of<T>(versions: &[(u64, Option<T>)], index: u64) -> Option<&T> {
    let until = versions.partition_point(|(begin, _)| *begin <= index);
    versions.get(until.checked_sub(1)?)?.1.as_ref()
}

fn made(version: u64, clock: u64, content: &ArchivedContent) -> Record {
    let embedding = content.embeddings.iter().next();
    Record {
        version,
        value: content.value.as_ref().map(|value| value.to_vec()),
        embedding: embedding.map(|embedding| embedding.1.iter().map(|component| component.to_native()).collect()),
        deadline: match content.ttl.to_native() {
            0 => content.deadline.to_native(),
            ttl => clock + ttl,
        },
    }
}
