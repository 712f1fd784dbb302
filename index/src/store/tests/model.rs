//! What the store must do, said plainly: maps and loops.

use std::collections::BTreeMap;

use crate::attributes::{self, Attributes};
use crate::command::{
    Action, Change, Command, Condition, Content, Envelope, Expect, Found, Installation, Outcome, Refusal, Schema,
    SchemaChange,
};
use crate::record::Position;
use crate::requests::REQUEST_AGE_MAX_MILLIS;

#[derive(Clone, Default, Debug, PartialEq)]
pub struct ModelRecord {
    pub value: Option<Vec<u8>>,
    pub attributes: Attributes,
    pub embeddings: BTreeMap<u16, Vec<f32>>,
    pub sparse: BTreeMap<u16, Vec<(u32, f32)>>,
    pub deadline: u64,
    pub version: u64,
}

#[derive(Clone)]
pub struct ModelCollection {
    pub namespace: String,
    pub name: String,
    pub schema: Schema,
    pub records: BTreeMap<Vec<u8>, ModelRecord>,
}

#[derive(Default)]
pub struct Model {
    pub index: u64,
    pub clock: u64,
    pub namespaces: Vec<String>,
    pub collections: BTreeMap<u64, ModelCollection>,
    made: u64,
    requests: BTreeMap<(String, Vec<u8>), (Command, Outcome, u64)>,
}

impl Model {
    pub fn apply(&mut self, clock: u64, commands: &[Envelope]) -> Vec<Outcome> {
        self.index += 1;
        self.clock = self.clock.max(clock);
        let clock = self.clock;
        self.requests.retain(|_, (_, _, at)| *at + REQUEST_AGE_MAX_MILLIS > clock);
        self.expire();
        commands.iter().enumerate().map(|(place, envelope)| self.envelope(place, envelope)).collect()
    }

    fn expire(&mut self) {
        for collection in self.collections.values_mut() {
            collection.records.retain(|_, record| record.deadline == 0 || record.deadline > self.clock);
        }
    }

    fn envelope(&mut self, place: usize, envelope: &Envelope) -> Outcome {
        let clock = self.clock;
        self.expire();
        let Envelope { origin, command } = envelope;
        if origin.request_id.is_empty() {
            return self.command(place, command).unwrap_or_else(Outcome::Refused);
        }
        let id = (origin.principal.clone(), origin.request_id.clone());
        if let Some((first, outcome, _)) = self.requests.get(&id) {
            return if first == command { outcome.clone() } else { Outcome::Refused(Refusal::RequestConflict) };
        }
        let outcome = self.command(place, command).unwrap_or_else(Outcome::Refused);
        self.requests.insert(id, (command.clone(), outcome.clone(), clock));
        outcome
    }

    fn command(&mut self, place: usize, command: &Command) -> Result<Outcome, Refusal> {
        match command {
            Command::CreateNamespace { name } if self.namespaces.contains(name) => {
                Err(Refusal::AlreadyExists(name.clone()))
            }
            Command::CreateNamespace { name } => {
                self.namespaces.push(name.clone());
                self.namespaces.sort();
                Ok(Outcome::Done)
            }
            Command::DropNamespace { name } => {
                let place = self.namespaces.iter().position(|n| n == name);
                self.namespaces.remove(place.ok_or(Refusal::UnknownNamespace(name.clone()))?);
                self.collections.retain(|_, collection| collection.namespace != *name);
                Ok(Outcome::Done)
            }
            Command::CreateCollection { namespace, name, schema } => {
                if !self.namespaces.contains(namespace) {
                    return Err(Refusal::UnknownNamespace(namespace.clone()));
                }
                if self.collections.values().any(|c| c.namespace == *namespace && c.name == *name) {
                    return Err(Refusal::AlreadyExists(name.clone()));
                }
                self.made += 1;
                let (namespace, name, schema) = (namespace.clone(), name.clone(), schema.clone());
                let collection = ModelCollection { namespace, name, schema, records: BTreeMap::new() };
                self.collections.insert(self.made, collection);
                Ok(Outcome::Created { collection: self.made })
            }
            Command::AlterCollection { collection, change } => {
                let found = self.collections.get_mut(collection).ok_or(Refusal::UnknownCollection(*collection))?;
                let SchemaChange { durability, retention_millis, add_indexes, remove_indexes, .. } = change;
                let SchemaChange { eviction_bytes, eviction_policy, .. } = change;
                found.schema.eviction_policy = eviction_policy.unwrap_or(found.schema.eviction_policy);
                found.schema.durability = durability.unwrap_or(found.schema.durability);
                found.schema.retention_millis = retention_millis.unwrap_or(found.schema.retention_millis);
                found.schema.eviction_bytes = eviction_bytes.unwrap_or(found.schema.eviction_bytes);
                let indexes = &mut found.schema.indexes;
                indexes.retain(|index| !remove_indexes.contains(&index.path));
                for added in add_indexes {
                    let place = indexes.iter().position(|index| index.path == added.path);
                    place.map(|place| indexes.remove(place));
                    indexes.insert(place.unwrap_or(indexes.len()), added.clone());
                }
                Ok(Outcome::Done)
            }
            Command::DropCollection { collection } => {
                self.collections.remove(collection).ok_or(Refusal::UnknownCollection(*collection))?;
                Ok(Outcome::Done)
            }
            Command::Write { conditions, changes } => self.write(place, conditions, changes),
            Command::InstallCollection(wanted) => self.install(wanted),
            Command::Execute(_) | Command::Reclaim(_) | Command::Remove(_) => {
                unreachable!("these have models of their own")
            }
        }
    }

    fn install(&mut self, wanted: &Installation) -> Result<Outcome, Refusal> {
        let Installation { collection: id, namespace, name, schema } = wanted;
        if let Some(found) = self.collections.get_mut(id) {
            if (&found.namespace, &found.name) != (namespace, name) {
                let there = format!("collection {id} as {}/{}", found.namespace, found.name);
                return Err(Refusal::AlreadyExists(there));
            }
            let rest = |schema: &Schema| (schema.embeddings.clone(), schema.sparse.clone(), schema.texts.clone());
            if rest(&found.schema) != rest(schema) {
                let why = format!("collection {id} has other embeddings, sparse vectors or texts; drop it first");
                return Err(Refusal::InvalidSchema(why));
            }
            let before = std::mem::replace(&mut found.schema, schema.clone());
            return Ok(if before == *schema { Outcome::Unchanged } else { Outcome::Done });
        }
        let is_same = |other: &ModelCollection| (&other.namespace, &other.name) == (namespace, name);
        if let Some((newer, _)) = self.collections.iter().find(|(other, found)| *other > id && is_same(found)) {
            return Err(Refusal::AlreadyExists(format!("{namespace}/{name} as collection {newer}")));
        }
        self.collections.retain(|_, other| !is_same(other));
        if !self.namespaces.contains(namespace) {
            self.namespaces.push(namespace.clone());
            self.namespaces.sort();
        }
        let (namespace, name, schema) = (namespace.clone(), name.clone(), schema.clone());
        self.collections.insert(*id, ModelCollection { namespace, name, schema, records: BTreeMap::new() });
        self.made = self.made.max(*id);
        Ok(Outcome::Created { collection: *id })
    }

    fn write(&mut self, place: usize, conditions: &[Condition], changes: &[Change]) -> Result<Outcome, Refusal> {
        let version = Position::new(self.index, place).get();
        for (number, Condition { collection, key, expect }) in (0..).zip(conditions) {
            let found = self.collections.get(collection).ok_or(Refusal::UnknownCollection(*collection))?;
            let found = found.records.get(key).map_or(Found::Absent, |record| Found::Version(record.version));
            let holds = match expect {
                Expect::Absent => found == Found::Absent,
                Expect::Present => found != Found::Absent,
                Expect::Version(version) => found == Found::Version(*version),
                Expect::Lease(_) | Expect::Value(_) => unreachable!("the model has no typed values"),
            };
            if !holds {
                return Err(Refusal::ConditionFailed { number, key: key.clone(), found });
            }
        }
        let clock = self.clock;
        let mut after = self.collections.clone();
        let mut existed = Vec::new();
        for (number, Change { collection, key, action }) in (0..).zip(changes) {
            let id = *collection;
            let collection = after.get_mut(&id).ok_or(Refusal::UnknownCollection(id))?;
            let old = collection.records.get(key).cloned();
            existed.push(old.is_some());
            let check = |content: &Content| {
                let wrong = content.embeddings.iter().find(|(field, embedding)| {
                    let spec = collection.schema.embeddings.get(usize::from(*field));
                    spec.is_none_or(|spec| spec.dimension as usize != embedding.len())
                });
                let wrong = wrong.map(|(field, embedding)| (*field, embedding.len() as u32));
                let known = collection.schema.sparse.len();
                let wrong_sparse = content.sparse.iter().find(|(field, weights)| {
                    usize::from(*field) >= known || weights.is_empty() || weights.iter().any(|(_, w)| !w.is_finite())
                });
                let wrong = wrong.or(wrong_sparse.map(|(field, weights)| (*field, weights.len() as u32)));
                wrong.map_or(Ok(()), |(field, dimension)| {
                    Err(Refusal::WrongEmbedding { change: number, collection: id, field, dimension })
                })
            };
            let new = match action {
                Action::Put(content) => {
                    check(content)?;
                    Some(own(content, version, clock))
                }
                Action::Merge { content, remove_attributes, remove_deadline } => {
                    check(content)?;
                    let mut record = old.unwrap_or_default();
                    let over = own(content, version, clock);
                    record.value = over.value.or(record.value);
                    record.attributes.extend(over.attributes);
                    record.attributes.retain(|name, _| !remove_attributes.contains(name));
                    record.embeddings.extend(over.embeddings);
                    record.sparse.extend(over.sparse);
                    if over.deadline != 0 || *remove_deadline {
                        record.deadline = over.deadline;
                    }
                    Some(ModelRecord { version, ..record })
                }
                Action::Delete => None,
                Action::DeleteVersion(wanted) => {
                    let is_it = old.as_ref().is_some_and(|old| old.version == *wanted);
                    *existed.last_mut().unwrap() = is_it;
                    old.filter(|_| !is_it)
                }
            };
            match new {
                Some(new) => drop(collection.records.insert(key.clone(), new)),
                None => drop(collection.records.remove(key)),
            }
        }
        self.collections = after;
        Ok(Outcome::Written { version, existed })
    }
}

fn own(content: &Content, version: u64, clock: u64) -> ModelRecord {
    ModelRecord {
        value: content.value.clone(),
        attributes: attributes::decode(&content.attributes).unwrap(),
        embeddings: content.embeddings.iter().cloned().collect(),
        sparse: content.sparse.iter().cloned().collect(),
        deadline: if content.ttl == 0 { content.deadline } else { clock + content.ttl },
        version,
    }
}
