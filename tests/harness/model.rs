//! What the node must still know: the acknowledged history, as plain maps.
//!
//! Each writer has keys of its own and at most one write whose outcome it does not know, because the node died before it
//! answered. After a restart every key is as it was last acknowledged; the keys of the unknown write are all as before
//! it or all as after it, nothing in between. What is found is then the new truth.
//!
//! The digest is computed here by its documented rule and from this model alone: the hash of each record that is
//! remembered, summed up; it shares no code with the store but blake3 and the encoding of attributes.

use std::collections::BTreeMap;

use loci_index::attributes::{self, Value};
use loci_index::distance::Metric;
use loci_wire::v1;

use crate::api;

/// A collection the model knows, with its number in the order in which they were made, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Collection {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: &'static str,
    /// Its embeddings: name, dimension, metric.
    pub embeddings: &'static [(&'static str, u32, v1::Metric)],
}

/// Where a record is.
pub type Place = (Collection, Vec<u8>);

/// When a record stops existing, as far as its writer knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Never.
    Never,
    /// At this moment of the node's clock.
    At(u64),
    /// Between these: the node added a time to live to its own clock.
    Between(u64, u64),
}

/// A record as it must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Zero: not known yet.
    pub version: u64,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its attributes.
    pub attributes: BTreeMap<String, v1::Value>,
    /// Its embeddings by their place in the collection, made ready for their metric.
    pub embeddings: BTreeMap<usize, Vec<f32>>,
    /// Its deadline.
    pub deadline: Deadline,
}

impl Held {
    /// The record that a put makes. A time to live counts from `now`, or up to a minute later.
    pub fn put(collection: Collection, record: &v1::Record, now: u64) -> Held {
        let embedding = |embedding: &v1::Embedding| {
            let mut place = collection.embeddings.iter().enumerate();
            let (place, (_, _, metric)) =
                place.find(|(_, (name, ..))| *name == embedding.name).expect("the load uses embeddings that are there");
            let mut components = api::components(embedding);
            let metric = match metric {
                v1::Metric::Cosine => Metric::Cosine,
                v1::Metric::Dot => Metric::Dot,
                _ => Metric::SquaredL2,
            };
            metric.prepare(&mut components).expect("the load uses embeddings that are fine");
            (place, components)
        };
        Held {
            version: 0,
            value: record.value.as_ref().map(|value| value.to_vec()),
            attributes: record.attributes.clone().into_iter().collect(),
            embeddings: record.embeddings.iter().map(embedding).collect(),
            deadline: match (record.deadline_millis, record.ttl_millis) {
                (0, 0) => Deadline::Never,
                (0, ttl) => Deadline::Between(now + ttl, now + ttl + 60_000),
                (deadline, _) => Deadline::At(deadline),
            },
        }
    }

    /// The record that a merge into this one makes.
    pub fn merged(&self, over: Held, remove: &[String], remove_deadline: bool) -> Held {
        let mut merged = self.clone();
        merged.version = 0;
        merged.value = over.value.or(merged.value);
        merged.attributes.extend(over.attributes);
        merged.attributes.retain(|name, _| !remove.contains(name));
        merged.embeddings.extend(over.embeddings);
        if over.deadline != Deadline::Never || remove_deadline {
            merged.deadline = over.deadline;
        }
        merged
    }

    /// Whether the found record is this one; `None` if so, what differs otherwise.
    fn difference(&self, collection: Collection, found: &v1::Record) -> Option<String> {
        let mut differences = Vec::new();
        if self.version != 0 && self.version != found.version {
            differences.push(format!("version {} instead of {}", found.version, self.version));
        }
        if self.value.as_deref() != found.value.as_deref() {
            let lengths = (found.value.as_ref().map(|value| value.len()), self.value.as_ref().map(Vec::len));
            differences.push(format!("another value (lengths {lengths:?})"));
        }
        let attributes: BTreeMap<_, _> = found.attributes.clone().into_iter().collect();
        if attributes != self.attributes {
            differences.push(format!("attributes {attributes:?} instead of {:?}", self.attributes));
        }
        let embedding = |embedding: &v1::Embedding| {
            let place = collection.embeddings.iter().position(|(name, ..)| *name == embedding.name);
            (place.expect("an embedding of the collection"), api::components(embedding))
        };
        if found.embeddings.iter().map(embedding).collect::<BTreeMap<_, _>>() != self.embeddings {
            differences.push("other embeddings".into());
        }
        let deadline_fits = match self.deadline {
            Deadline::Never => found.deadline_millis == 0,
            Deadline::At(deadline) => found.deadline_millis == deadline,
            Deadline::Between(first, last) => (first..=last).contains(&found.deadline_millis),
        };
        if !deadline_fits {
            differences.push(format!("deadline {} instead of {:?}", found.deadline_millis, self.deadline));
        }
        (!differences.is_empty()).then(|| differences.join(", "))
    }
}

/// What was found in the node, and when it was looked for: milliseconds since 1970 before and after.
pub struct Found {
    /// All records.
    pub records: BTreeMap<Place, v1::Record>,
    /// Before.
    pub before: u64,
    /// After.
    pub after: u64,
}

/// A write whose outcome is not known.
#[derive(Debug, Clone)]
pub struct Pending {
    /// What the records that it touches are if it took effect.
    pub after: BTreeMap<Place, Option<Held>>,
}

/// One writer's keys, as they must be.
#[derive(Debug, Default, Clone)]
pub struct Model {
    /// As last acknowledged.
    pub records: BTreeMap<Place, Held>,
    /// What may or may not have happened since.
    pub pending: Option<Pending>,
}

/// What became of a write whose outcome was not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolved {
    /// It took effect, and wrote this version (zero: it wrote no record).
    Took(u64),
    /// It did not.
    DidNot,
    /// Both look the same.
    Either,
}

impl Model {
    /// The record there, if there must be one.
    pub fn get(&self, place: &Place) -> Option<&Held> {
        self.records.get(place)
    }

    /// Takes on an acknowledged write that gave the records this version.
    pub fn acknowledge(&mut self, after: BTreeMap<Place, Option<Held>>, version: u64) {
        for (place, held) in after {
            match held {
                Some(held) => self.records.insert(place, Held { version, ..held }),
                None => self.records.remove(&place),
            };
        }
    }

    /// Compares one key with what was found there; `None` if it is as it must be.
    fn difference(place: &Place, held: Option<&Held>, found: &Found) -> Option<String> {
        let record = found.records.get(place);
        let name = || format!("{} {:?}", place.0.name, String::from_utf8_lossy(&place.1));
        match (held, record) {
            (None, None) => None,
            (None, Some(record)) => Some(format!("{} is there, of version {}", name(), record.version)),
            (Some(held), None) => {
                let may_be_gone = match held.deadline {
                    Deadline::Never => false,
                    Deadline::At(first) | Deadline::Between(first, _) => first <= found.after,
                };
                (!may_be_gone).then(|| format!("{} of version {} is not there", name(), held.version))
            }
            (Some(held), Some(record)) => {
                let difference = held.difference(place.0, record);
                let expired = record.deadline_millis != 0 && record.deadline_millis <= found.before;
                let expired = expired.then(|| format!("deadline {} has passed", record.deadline_millis));
                difference.or(expired).map(|difference| format!("{}: {difference}", name()))
            }
        }
    }

    /// Compares everything with what was found, and takes on what is found of the unknown write. `Err`: what is wrong.
    pub fn check(&mut self, found: &Found) -> Result<Resolved, Vec<String>> {
        let pending = self.pending.take().unwrap_or(Pending { after: BTreeMap::new() });
        let known = self.records.iter().filter(|(place, _)| !pending.after.contains_key(place));
        let mut wrong: Vec<String> =
            known.filter_map(|(place, held)| Self::difference(place, Some(held), found)).collect();
        let before = |place| Self::difference(place, self.records.get(place), found);
        let as_before: Vec<String> = pending.after.keys().filter_map(before).collect();
        let after = |(place, held): (&Place, &Option<Held>)| Self::difference(place, held.as_ref(), found);
        let mut as_after: Vec<String> = pending.after.iter().filter_map(after).collect();
        let written = pending.after.iter().filter(|(_, held)| held.is_some()).map(|(place, _)| place);
        let mut versions = written.filter_map(|place| found.records.get(place)).map(|record| record.version);
        let version = versions.next().unwrap_or(0);
        if versions.any(|other| other != version) {
            as_after.push("its records have several versions".into());
        }
        let resolved = match (as_before.is_empty(), as_after.is_empty()) {
            (true, true) => Resolved::Either,
            (true, false) => Resolved::DidNot,
            (false, true) => Resolved::Took(version),
            (false, false) => {
                wrong.push(format!("half of a write: not as before: {as_before:?}; not as after: {as_after:?}"));
                Resolved::Either
            }
        };
        if !wrong.is_empty() {
            return Err(wrong);
        }
        if let Resolved::Took(version) = resolved {
            self.acknowledge(pending.after, version);
        }
        // What has expired is forgotten, and a deadline that the node worked out is known now.
        self.records.retain(|place, _| found.records.contains_key(place));
        for (place, held) in &mut self.records {
            if let Some(record) = found.records.get(place) {
                held.version = record.version;
                held.deadline = match record.deadline_millis {
                    0 => Deadline::Never,
                    deadline => Deadline::At(deadline),
                };
            }
        }
        Ok(resolved)
    }
}

/// The digest that a store must have in which exactly these records live, by the rule in `index/src/store/digest.rs`.
pub fn digest<'a>(
    key: &[u8; 32],
    namespace: &str,
    collections: &[Collection],
    records: impl Iterator<Item = (&'a Place, &'a Held)>,
) -> [u8; 32] {
    let part = |hasher: &mut blake3::Hasher, bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let mut sum = 0u128;
    for ((collection, record_key), held) in records {
        let mut hasher = blake3::Hasher::new_keyed(key);
        hasher.update(&collection.id.to_le_bytes());
        part(&mut hasher, record_key);
        hasher.update(&held.version.to_le_bytes());
        let deadline = match held.deadline {
            Deadline::Never => 0,
            Deadline::At(deadline) => deadline,
            Deadline::Between(..) => {
                panic!("a record whose deadline is not known cannot be in a digest")
            }
        };
        hasher.update(&deadline.to_le_bytes());
        hasher.update(&[u8::from(held.value.is_some())]);
        part(&mut hasher, held.value.as_deref().unwrap_or_default());
        let named = held.attributes.iter().map(|(name, value)| (name.clone(), stored(value))).collect();
        part(&mut hasher, &attributes::encode(&named).expect("attributes within their limits"));
        for (place, components) in &held.embeddings {
            hasher.update(&(*place as u64).to_le_bytes());
            let bytes: Vec<u8> = components.iter().flat_map(|component| component.to_le_bytes()).collect();
            part(&mut hasher, &bytes);
        }
        let hash = hasher.finalize();
        let first = hash.as_bytes().first_chunk::<16>().expect("a hash has 32 bytes");
        sum = sum.wrapping_add(u128::from_le_bytes(*first));
    }
    let mut catalog = blake3::Hasher::new();
    part(&mut catalog, namespace.as_bytes());
    catalog.update(&u64::MAX.to_le_bytes());
    for collection in collections {
        catalog.update(&collection.id.to_le_bytes());
        part(&mut catalog, namespace.as_bytes());
        part(&mut catalog, collection.name.as_bytes());
        for (name, dimension, metric) in collection.embeddings {
            part(&mut catalog, name.as_bytes());
            catalog.update(&u64::from(*dimension).to_le_bytes());
            catalog.update(&(*metric as u64).to_le_bytes());
        }
        catalog.update(&u64::MAX.to_le_bytes());
        catalog.update(&[0]);
        catalog.update(&[0; 16]);
    }
    catalog.update(&(collections.len() as u64 + 1).to_le_bytes());
    let mut whole = blake3::Hasher::new_keyed(key);
    whole.update(&sum.to_le_bytes());
    whole.update(catalog.finalize().as_bytes());
    *whole.finalize().as_bytes()
}

fn stored(value: &v1::Value) -> Value {
    use v1::value::Kind;
    match value.kind.as_ref().expect("the load sets every value") {
        Kind::Null(_) => Value::Null,
        Kind::Bool(bool) => Value::Bool(*bool),
        Kind::Int(int) => Value::Int(*int),
        Kind::Float(float) => Value::Float(*float),
        Kind::String(text) => Value::String(text.clone()),
        Kind::TimestampMicros(micros) => Value::Timestamp(*micros),
        Kind::List(list) => Value::List(list.values.iter().map(stored).collect()),
        Kind::Map(map) => Value::Map(map.values.iter().map(|(name, value)| (name.clone(), stored(value))).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Collection = Collection { id: 1, name: "plain", embeddings: &[] };

    fn held(value: &str, version: u64) -> Held {
        Held { version, ..Held::put(PLAIN, &api::record(b"", value.as_bytes()), 0) }
    }

    fn found(records: &[(&str, &str, u64)]) -> Found {
        let record = |&(key, value, version): &(&str, &str, u64)| {
            let record = v1::Record { version, ..api::record(key.as_bytes(), value.as_bytes()) };
            ((PLAIN, key.as_bytes().to_vec()), record)
        };
        Found { records: records.iter().map(record).collect(), before: 0, after: 0 }
    }

    fn place(key: &str) -> Place {
        (PLAIN, key.as_bytes().to_vec())
    }

    /// `a` and `b` were acknowledged; a write of `b` and `c` was not.
    fn model() -> Model {
        Model {
            records: BTreeMap::from([(place("a"), held("1", 1)), (place("b"), held("2", 2))]),
            pending: Some(Pending {
                after: BTreeMap::from([(place("b"), Some(held("3", 0))), (place("c"), Some(held("4", 0)))]),
            }),
        }
    }

    #[test]
    fn the_model_takes_all_of_an_unknown_write_or_nothing_of_it() {
        let check = |records: &[(&str, &str, u64)]| model().check(&found(records)).ok();
        assert_eq!(check(&[("a", "1", 1), ("b", "2", 2)]), Some(Resolved::DidNot));
        assert_eq!(check(&[("a", "1", 1), ("b", "3", 5), ("c", "4", 5)]), Some(Resolved::Took(5)));
        assert_eq!(check(&[("a", "1", 1), ("b", "3", 5), ("c", "4", 6)]), None);
        assert_eq!(check(&[("a", "1", 1), ("b", "3", 5)]), None);
        assert_eq!(check(&[("a", "1", 1), ("b", "2", 2), ("c", "4", 5)]), None);
    }

    #[test]
    fn the_model_notices_what_was_lost_or_changed() {
        let check = |records: &[(&str, &str, u64)]| model().check(&found(records)).is_err();
        assert!(check(&[("b", "2", 2)]));
        assert!(check(&[("a", "0", 1), ("b", "2", 2)]));
        assert!(check(&[("a", "1", 3), ("b", "2", 2)]));
    }

    #[test]
    fn every_part_of_a_record_changes_the_digest() {
        let of = |held: &Held| digest(&[1; 32], "default", &[PLAIN], [(&place("a"), held)].into_iter());
        let base = held("1", 1);
        let others = [
            held("2", 1),
            held("1", 2),
            Held { value: None, ..base.clone() },
            Held { deadline: Deadline::At(5), ..base.clone() },
            Held { attributes: BTreeMap::from([("x".into(), api::int(1))]), ..base.clone() },
            Held { embeddings: BTreeMap::from([(0, vec![1.0])]), ..base.clone() },
        ];
        for other in others {
            assert_ne!(of(&base), of(&other), "{other:?}");
        }
        assert_eq!(of(&base), of(&base.clone()));
    }
}
