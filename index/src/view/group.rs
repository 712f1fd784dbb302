//! At most so many hits for each value of an attribute, and never fewer groups than there are.
//!
//! ```text
//!   1. the best hits, again and again without the groups that are full,
//!      until there are k groups or nothing is left                          --> which groups, in the order of their best
//!   2. the best hits of the groups that are not full, until they are        --> all their hits
//! ```
//!
//! A search that fills its answer finds a new group or fills one, so there are at most about two searches for each group,
//! and mostly one in all. What is asked of fused or decayed hits is grouped as it is: those are a set of candidates, not
//! something to search further in.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Hit;
use super::ask::Asking;
use super::finish::sort_best_first;
use crate::ask::{AskError, Group, both};
use crate::attributes::{self, Value, ValueRef};
use crate::filter::Filter;

/// So many hits for each group are searched for at once, even if fewer are wanted: values are seldom spread evenly.
const WANTED_PER_GROUP: usize = 4;

/// What makes a group: equal values, as filters compare them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'v> {
    Bool(bool),
    Int(i64),
    /// A number that no `i64` is, by its bits.
    Float(u64),
    String(&'v str),
    Timestamp(i64),
}

impl<'v> Key<'v> {
    /// `None`: that is not one value.
    fn of(value: ValueRef<'v>) -> Option<Key<'v>> {
        const TWO_63: f64 = 9_223_372_036_854_775_808.0;
        match value {
            ValueRef::Bool(value) => Some(Key::Bool(value)),
            ValueRef::Int(value) => Some(Key::Int(value)),
            ValueRef::Float(value) if value.trunc() == value && (-TWO_63..TWO_63).contains(&value) => {
                Some(Key::Int(value as i64))
            }
            ValueRef::Float(value) => Some(Key::Float(value.to_bits())),
            ValueRef::String(value) => Some(Key::String(value)),
            ValueRef::Timestamp(value) => Some(Key::Timestamp(value)),
            ValueRef::Null | ValueRef::List(_) | ValueRef::Map(_) => None,
        }
    }

    fn to_value(&self) -> Value {
        match *self {
            Key::Bool(value) => Value::Bool(value),
            Key::Int(value) => Value::Int(value),
            Key::Float(bits) => Value::Float(f64::from_bits(bits)),
            Key::String(value) => Value::String(value.to_owned()),
            Key::Timestamp(value) => Value::Timestamp(value),
        }
    }
}

/// Groups in the order in which they were found.
struct Groups<'a, 'v> {
    group: &'a Group,
    places: BTreeMap<Key<'v>, usize>,
    hits: Vec<Vec<Hit<'v>>>,
}

impl<'a, 'v> Groups<'a, 'v> {
    fn new(group: &'a Group) -> Groups<'a, 'v> {
        Groups { group, places: BTreeMap::new(), hits: Vec::new() }
    }

    /// Takes hits in, best first; some may be known.
    fn add(&mut self, hits: Vec<Hit<'v>>) {
        for mut hit in hits {
            let Some(value) = attributes::lookup(hit.record.attributes(), &self.group.path) else { continue };
            let Some(key) = Key::of(value) else { continue };
            hit.group = Some(value);
            let place = *self.places.entry(key).or_insert(self.hits.len());
            if place == self.hits.len() {
                self.hits.push(Vec::new());
            }
            let group = &mut self.hits[place];
            if group.len() < self.group.hits && group.iter().all(|known| known.record.key() != hit.record.key()) {
                group.push(hit);
            }
        }
    }

    fn len(&self) -> usize {
        self.hits.len()
    }

    /// How many hits there are in all of them.
    fn hits_len(&self) -> usize {
        self.hits.iter().map(Vec::len).sum()
    }

    /// The values of the groups that are full, or of those that are not.
    fn values(&self, full: bool) -> Vec<Value> {
        let chosen = self.places.iter().filter(|(_, place)| (self.hits[**place].len() >= self.group.hits) == full);
        chosen.map(|(key, _)| key.to_value()).collect()
    }

    /// Lets go of all but the first groups.
    fn truncate(&mut self, k: usize) {
        self.hits.truncate(k);
        self.places.retain(|_, place| *place < k);
    }

    fn into_hits(self) -> Vec<Hit<'v>> {
        let sorted = self.hits.into_iter().map(|mut hits| {
            sort_best_first(&mut hits);
            hits
        });
        sorted.flatten().collect()
    }
}

/// The groups of hits that were found otherwise, best first.
pub(super) fn of_candidates<'v>(group: &Group, k: usize, hits: Vec<Hit<'v>>) -> Vec<Hit<'v>> {
    let mut groups = Groups::new(group);
    groups.add(hits);
    groups.truncate(k);
    groups.into_hits()
}

impl<'v> Asking<'_, 'v> {
    /// The `k` best groups.
    pub(super) fn grouped(&mut self, group: &Group) -> Result<Vec<Hit<'v>>, AskError> {
        let leaf = self.leaf;
        let filter = || leaf.filter.as_deref().map(Cow::Borrowed);
        let mut groups = Groups::new(group);
        let mut wanted = leaf.k * group.hits.max(WANTED_PER_GROUP);
        let path = || group.path.clone();
        loop {
            let full = groups.values(true);
            // Unknown where there is no value, so such records are not taken.
            let others = Filter::Not(Box::new(Filter::In(path(), full.clone())));
            let there =
                Filter::And(vec![Filter::Exists(path()), Filter::Not(Box::new(Filter::IsNull(path()))), others]);
            let narrowed = both(filter(), Some(&there));
            let hits = self.find(leaf.query, narrowed.as_deref(), wanted, leaf.within)?;
            let (all, before) = (hits.len() < wanted, groups.len());
            groups.add(hits);
            if all || groups.len() >= leaf.k {
                break;
            }
            // Lists and maps are in no group, but in the way.
            if groups.len() == before && groups.values(true).len() == full.len() {
                wanted *= 2;
            }
        }
        groups.truncate(leaf.k);
        loop {
            let open = groups.values(false);
            if open.is_empty() {
                break;
            }
            let wanted = open.len() * group.hits;
            let theirs = Filter::In(path(), open);
            let narrowed = both(filter(), Some(&theirs));
            let hits = self.find(leaf.query, narrowed.as_deref(), wanted, leaf.within)?;
            let (all, before) = (hits.len() < wanted, groups.hits_len());
            groups.add(hits);
            // More hits than there are in those groups are always some new ones, unless an index says of a record what it is not.
            if all || groups.hits_len() == before {
                break;
            }
        }
        groups.truncate(leaf.k);
        Ok(groups.into_hits())
    }
}
