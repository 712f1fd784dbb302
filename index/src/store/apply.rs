//! Applying an entry: what each command does to the state.
//!
//! A write is staged first, on the side, and takes effect only if all of it can: so nothing has to be undone. Within one
//! write the last change of a key is the one that is stored; nobody ever sees the earlier ones.

use std::borrow::Cow;
use std::collections::{BTreeMap, btree_map};

use super::ahead::AHEAD;
use super::{Old, Store, digest};
use crate::attributes;
use crate::buffer::{Row, RowContent};
use crate::command::{
    ArchivedAction, ArchivedChange, ArchivedCommand, ArchivedCondition, ArchivedContent, ArchivedEntry,
    ArchivedEnvelope, ArchivedExpect, ArchivedRemoval, Entry, EntryError, Envelope, Found, Origin, Outcome, Refusal,
};
use crate::effects::Fate;
use crate::filter::Filter;
use crate::record::{ATTRIBUTES_BYTES_MAX, CollectionId, Position};
use crate::requests::Asked;
use crate::sparse;
use crate::way::Steps;

/// The most expired records that one entry ends. What is left counts as absent all the same, and is ended by the entries
/// that follow.
pub const DUE_PER_ENTRY_MAX: usize = 1_024;

/// A change takes a few microseconds; a write has up to ten thousand.
const STEPS: u32 = 64;

/// Why an entry was not applied. The state is what it was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Entries are applied one after the other.
    #[error("entry {found} cannot be applied: the next one is {expected}")]
    OutOfOrder {
        /// The index that comes next.
        expected: u64,
        /// The index that was given.
        found: u64,
    },
    /// The bytes are not an entry.
    #[error("entry {index} cannot be applied: {source}")]
    Entry {
        /// Which entry.
        index: u64,
        /// What is wrong with it.
        source: EntryError,
    },
}

/// What becomes of one record in a write.
struct Staged<'e> {
    /// The collection's place among the store's.
    place: usize,
    /// The version that has not ended, expired or not.
    old: Option<Old>,
    /// Whether there is a record, as things stand.
    exists: bool,
    /// What it holds, if this write has already changed it.
    new: Option<RowContent<'e>>,
    touched: bool,
}

impl Store {
    /// Applies the entry at `index`, which must be the next one, and says what became of each command. No bytes at all
    /// are an entry that carries nothing for the store; it only counts.
    ///
    /// Readers see all of the entry at once, when this returns.
    pub fn apply(&mut self, index: u64, entry: &[u8]) -> Result<Vec<Outcome>, ApplyError> {
        let expected = self.applied + 1;
        if index != expected {
            return Err(ApplyError::OutOfOrder { expected, found: index });
        }
        let mut outcomes = Vec::new();
        self.effects.clear();
        if !entry.is_empty() {
            outcomes = Entry::access(entry, |entry| self.apply_entry(index, entry))
                .map_err(|source| ApplyError::Entry { index, source })?;
            self.chain_head = digest::chain(&self.chain_head, index, entry);
        }
        self.applied = index;
        self.publish();
        Ok(outcomes)
    }

    fn apply_entry(&mut self, index: u64, entry: &ArchivedEntry) -> Vec<Outcome> {
        // Whatever a leader's clock did, the log's never goes back.
        self.clock = self.clock.max(entry.clock.to_native());
        self.calls = 0;
        self.requests.expire(self.clock);
        self.end_due(Position::new(index, 0));
        let mut outcomes = Vec::with_capacity(entry.commands.len());
        for envelopes in entry.commands.chunks(AHEAD) {
            self.look_ahead(envelopes);
            for envelope in envelopes {
                let at = Position::new(index, outcomes.len());
                outcomes.push(self.apply_envelope(at, envelope));
            }
        }
        outcomes
    }

    /// Ends what has expired, the earliest first.
    fn end_due(&mut self, at: Position) {
        for _ in 0..DUE_PER_ENTRY_MAX {
            let Some(&(deadline, id)) = self.due.first() else { return };
            if deadline > self.clock {
                return;
            }
            let place = self.place(id).expect("a dropped collection's deadlines are dropped with it");
            let state = &mut self.collections[place];
            let (_, key) = state.deadlines.first().expect("only collections with deadlines are due").clone();
            let old = state.find(&key).expect("deadlines are those of records that have not ended");
            self.end(place, &key, old, at);
            self.note_effect(at, id, Fate::Expired, &key);
        }
    }

    fn end(&mut self, place: usize, key: &[u8], old: Old, at: Position) {
        let state = &mut self.collections[place];
        self.work.note_end(&state.shared, old.location);
        state.end(key, old, at, &mut self.due);
    }

    fn apply_envelope(&mut self, at: Position, envelope: &ArchivedEnvelope) -> Outcome {
        let origin = &envelope.origin;
        let (principal, request_id) = (origin.principal.as_str(), &*origin.request_id);
        if request_id.is_empty() {
            return self.apply_command(at, &envelope.command);
        }
        let fingerprint = digest::fingerprint(&envelope.command);
        let asked = Asked::new(principal, request_id);
        if let Some(answered) = self.requests.find(&asked) {
            return answered.repeated(fingerprint);
        }
        let outcome = self.apply_command(at, &envelope.command);
        self.requests.remember(&asked, fingerprint, self.clock, &outcome);
        outcome
    }

    /// What a command comes to whose request was answered, if that is still known: its first outcome, or that it was another command.
    pub fn answered(&self, envelope: Envelope) -> Option<Outcome> {
        let Origin { principal, request_id, .. } = &envelope.origin;
        let answered = self.requests.find(&Asked::new(principal, request_id)).filter(|_| !request_id.is_empty())?;
        let entry = Entry { clock: 0, commands: vec![envelope] }.encode();
        let fingerprint = Entry::access(&entry, |entry| digest::fingerprint(&entry.commands[0].command)).ok()?;
        Some(answered.repeated(fingerprint))
    }

    fn apply_command(&mut self, at: Position, command: &ArchivedCommand) -> Outcome {
        let outcome = match command {
            ArchivedCommand::CreateNamespace { name } => self.create_namespace(name),
            ArchivedCommand::DropNamespace { name } => self.drop_namespace(at, name),
            ArchivedCommand::CreateCollection { namespace, name, schema } => {
                self.create_collection(namespace, name, schema)
            }
            ArchivedCommand::AlterCollection { collection, change } => {
                self.alter_collection(collection.to_native(), change)
            }
            ArchivedCommand::DropCollection { collection } => self.drop_collection(at, collection.to_native()),
            ArchivedCommand::Write { conditions, changes } => self.write(at, conditions, changes),
            ArchivedCommand::InstallCollection(installation) => self.install_collection(at, installation),
            ArchivedCommand::Execute(execution) => self.execute(at, execution),
            ArchivedCommand::Reclaim(reclaim) => self.reclaim(at, reclaim),
            ArchivedCommand::Remove(removal) => self.remove(at, removal),
        };
        outcome.unwrap_or_else(Outcome::Refused)
    }

    fn write(
        &mut self,
        at: Position,
        conditions: &[ArchivedCondition],
        changes: &[ArchivedChange],
    ) -> Result<Outcome, Refusal> {
        for (number, condition) in (0..).zip(conditions) {
            self.check_condition(number, condition)?;
        }
        let mut existed = Vec::with_capacity(changes.len());
        if let [change] = changes {
            let mut record = self.before(change)?;
            existed.push(self.stage(at, 0, change, &mut record)?);
            self.take_effect(at, change.collection.to_native(), &change.key, record);
            return Ok(Outcome::Written { version: at.get(), existed });
        }
        // What is staged is large: the map only says where it is.
        let (mut staged, mut places) = (Vec::with_capacity(changes.len()), BTreeMap::new());
        let mut steps = Steps::of(STEPS);
        for (number, change) in (0..).zip(changes) {
            steps.step();
            if existed.len().is_multiple_of(AHEAD) {
                self.look_ahead_in(&changes[existed.len()..changes.len().min(existed.len() + AHEAD)]);
            }
            let place = match places.entry((change.collection.to_native(), &*change.key)) {
                btree_map::Entry::Occupied(known) => *known.get(),
                btree_map::Entry::Vacant(new) => {
                    staged.push(Some(self.before(change)?));
                    *new.insert(staged.len() - 1)
                }
            };
            let record = staged[place].as_mut().expect("nothing is taken before all is staged");
            existed.push(self.stage(at, number, change, record)?);
        }
        for ((id, key), place) in places {
            steps.step();
            self.take_effect(at, id, key, staged[place].take().expect("each is one key's"));
        }
        Ok(Outcome::Written { version: at.get(), existed })
    }

    /// What there is of a record before a write.
    fn before<'e>(&self, change: &ArchivedChange) -> Result<Staged<'e>, Refusal> {
        let id = change.collection.to_native();
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let old = self.collections[place].find(&change.key);
        let exists = old.is_some_and(|old| self.is_live(&old));
        Ok(Staged { place, old, exists, new: None, touched: false })
    }

    /// Does to a record what a write has staged.
    fn take_effect(&mut self, at: Position, id: u64, key: &[u8], record: Staged<'_>) {
        let Staged { place, old, exists, new, touched } = record;
        if !touched {
            return;
        }
        if let Some(old) = old {
            self.end(place, key, old, at);
        }
        match (exists, old) {
            (true, None) => self.note_effect(at, CollectionId(id), Fate::Made, key),
            (true, Some(_)) => self.note_effect(at, CollectionId(id), Fate::Replaced, key),
            (false, Some(_)) => self.note_effect(at, CollectionId(id), Fate::Deleted, key),
            (false, None) => {}
        }
        if let Some(content) = new.filter(|_| exists) {
            let hash = digest::of_content(&self.digest_key, id, key, at.get(), &content);
            let row = Row::new(at, key, content, hash);
            self.collections[place].insert(row, &mut self.buffered_bytes, &mut self.due);
            self.work.note_buffer(&self.options, &self.collections[place].shared, self.buffered_bytes);
        }
    }

    /// Removes what a filter takes of what is there now, changes of the same entry before this one included.
    fn remove(&mut self, at: Position, removal: &ArchivedRemoval) -> Result<Outcome, Refusal> {
        let id = removal.collection.to_native();
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let filter = Filter::decode(&removal.filter).map_err(|_| Refusal::InvalidFilter)?;
        let view = self.view_within(at);
        let Some(collection) = view.collection_by_id(CollectionId(id)) else { return Ok(Outcome::Removed(0)) };
        let keys = collection.keys_where(&filter, self.clock);
        let mut steps = Steps::of(STEPS);
        let mut removed = 0;
        for key in &keys {
            steps.step();
            if let Some(old) = self.collections[place].find(key) {
                self.end(place, key, old, at);
                self.note_effect(at, CollectionId(id), Fate::Deleted, key);
                removed += 1;
            }
        }
        Ok(Outcome::Removed(removed))
    }

    fn is_live(&self, old: &Old) -> bool {
        old.deadline == 0 || old.deadline > self.clock
    }

    fn check_condition(&self, number: u32, condition: &ArchivedCondition) -> Result<(), Refusal> {
        let id = condition.collection.to_native();
        let place = self.place(CollectionId(id)).ok_or(Refusal::UnknownCollection(id))?;
        let found = self.collections[place].find(&condition.key).filter(|old| self.is_live(old));
        let found = found.map_or(Found::Absent, |old| Found::Version(old.version));
        let holds = match &condition.expect {
            ArchivedExpect::Lease(given) => {
                return self.check_lease(number, place, &condition.key, given.to_native());
            }
            ArchivedExpect::Value(expected) => {
                return self.check_value(number, place, &condition.key, expected.to_native());
            }
            ArchivedExpect::Absent => found == Found::Absent,
            ArchivedExpect::Present => found != Found::Absent,
            ArchivedExpect::Version(version) => found == Found::Version(version.to_native()),
        };
        if holds { Ok(()) } else { Err(Refusal::ConditionFailed { number, key: condition.key.to_vec(), found }) }
    }

    /// Works one change out, and says whether it found a record (for a deletion of a version: of that version).
    fn stage<'e>(
        &self,
        at: Position,
        number: u32,
        change: &'e ArchivedChange,
        record: &mut Staged<'e>,
    ) -> Result<bool, Refusal> {
        let (id, place) = (change.collection.to_native(), record.place);
        let existed = record.exists;
        match &change.action {
            ArchivedAction::Put(content) => {
                record.new = Some(self.content(id, place, number, content)?);
                record.exists = true;
                record.touched = true;
            }
            ArchivedAction::Merge { content, remove_attributes, remove_deadline } => {
                let over = self.content(id, place, number, content)?;
                let mut under = match record.new.take() {
                    Some(new) => new,
                    None => {
                        record.old.filter(|_| existed).map_or_else(RowContent::default, |old| self.copy(place, old))
                    }
                };
                let remove = remove_attributes.iter().map(|name| name.as_str());
                let merged = attributes::merge(&under.attributes, &over.attributes, remove);
                let merged = merged.filter(|merged| merged.len() <= ATTRIBUTES_BYTES_MAX);
                under.attributes = merged.ok_or(Refusal::AttributesTooLarge { change: number })?.into();
                under.value = over.value.or(under.value);
                under.embeddings = over
                    .embeddings
                    .into_iter()
                    .enumerate()
                    .map(|(field, given)| given.or_else(|| under.embeddings.get_mut(field)?.take()))
                    .collect();
                under.sparse = over
                    .sparse
                    .into_iter()
                    .enumerate()
                    .map(|(field, given)| given.or_else(|| under.sparse.get_mut(field)?.take()))
                    .collect();
                if over.deadline != 0 || *remove_deadline {
                    under.deadline = over.deadline;
                }
                record.new = Some(under);
                record.exists = true;
                record.touched = true;
            }
            ArchivedAction::Delete => {
                record.new = None;
                record.exists = false;
                record.touched |= existed;
            }
            ArchivedAction::DeleteVersion(version) => {
                let current = if record.new.is_some() { Some(at.get()) } else { record.old.map(|old| old.version) };
                let is_it = existed && current == Some(version.to_native());
                if is_it {
                    record.new = None;
                    record.exists = false;
                    record.touched = true;
                }
                return Ok(is_it);
            }
        }
        Ok(existed)
    }

    fn content<'e>(
        &self,
        collection: u64,
        place: usize,
        change: u32,
        content: &'e ArchivedContent,
    ) -> Result<RowContent<'e>, Refusal> {
        let fields = &self.collections[place].shared.fields;
        let mut embeddings: Box<[Option<Box<[f32]>>]> = vec![None; fields.len()].into();
        for embedding in content.embeddings.iter() {
            let (number, components) = (embedding.0.to_native(), &embedding.1);
            let field = fields.get(usize::from(number)).filter(|field| field.dimension == components.len());
            let room = embeddings.get_mut(usize::from(number));
            let (Some(_), Some(room)) = (field, room) else {
                let dimension = components.len() as u32;
                return Err(Refusal::WrongEmbedding { change, collection, field: number, dimension });
            };
            *room = Some(components.iter().map(|component| component.to_native()).collect());
        }
        let mut sparse: Box<[Option<Box<[u8]>>]> =
            vec![None; self.collections[place].shared.schema.sparse.len()].into();
        for (number, weights) in content.sparse.iter().map(|sparse| (sparse.0.to_native(), &sparse.1)) {
            let weights: Vec<_> = weights.iter().map(|weight| (weight.0.to_native(), weight.1.to_native())).collect();
            let (Some(room), true) = (sparse.get_mut(usize::from(number)), sparse::is_valid(&weights)) else {
                let dimension = weights.len() as u32;
                return Err(Refusal::WrongEmbedding { change, collection, field: number, dimension });
            };
            *room = Some(sparse::encode(&weights).flatten().collect());
        }
        Ok(RowContent {
            value: content.value.as_ref().map(|value| Cow::Borrowed(&value[..])),
            attributes: Cow::Borrowed(&content.attributes),
            embeddings,
            sparse,
            deadline: match content.ttl.to_native() {
                0 => content.deadline.to_native(),
                ttl => self.clock.saturating_add(ttl),
            },
        })
    }

    /// What a stored record holds.
    fn copy(&self, place: usize, old: Old) -> RowContent<'static> {
        let state = &self.collections[place];
        let Some(record) = state.record(old.location) else { return RowContent::default() };
        let fields = 0..state.shared.fields.len() as u16;
        let sparse = 0..state.shared.schema.sparse.len() as u16;
        RowContent {
            value: record.value().map(|value| Cow::Owned(value.to_vec())),
            attributes: Cow::Owned(record.attributes().to_vec()),
            sparse: sparse.map(|field| record.sparse(field).map(Box::from)).collect(),
            embeddings: fields.map(|field| record.embedding(field).map(|found| found.into())).collect(),
            deadline: record.deadline(),
        }
    }
}
