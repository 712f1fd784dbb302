//! The slow obvious checker: tries every order of all calls. It shares nothing with the fast one but the history.

use std::collections::{BTreeMap, BTreeSet};

use super::super::records::{Action, Change, Expect, Found, Key, Outcome};
use super::super::{Call, End, History};

/// Records with the number of the write that made each, and the versions of all writes, as far as they are known.
#[derive(Debug, Clone, Default)]
struct World {
    records: BTreeMap<Key, (Vec<u8>, usize)>,
    /// The part that a write belongs to, and its version.
    writes: Vec<(usize, Option<u64>)>,
}

impl World {
    fn has_version(&mut self, write: usize, version: u64) -> bool {
        // They count from 1.
        version != 0 && *self.writes[write].1.get_or_insert(version) == version
    }

    fn shows(&mut self, key: &Key, found: Option<&Found>) -> bool {
        match (self.records.get(key).cloned(), found) {
            (None, None) => true,
            (Some((value, write)), Some(found)) => {
                found.value.as_ref().is_none_or(|told| *told == value)
                    && found.version.is_none_or(|version| self.has_version(write, version))
            }
            _ => false,
        }
    }

    fn holds(&mut self, key: &Key, expect: Expect) -> bool {
        match expect {
            Expect::Absent => !self.records.contains_key(key),
            Expect::Present => self.records.contains_key(key),
            Expect::Version(version) => self.shows(key, Some(&Found { value: None, version: Some(version) })),
        }
    }

    /// Does the call and compares what it was told.
    fn call(&mut self, part: usize, action: &Action, outcome: Option<&Outcome>) -> bool {
        match (action, outcome) {
            (Action::Get(keys), Some(Outcome::Records(found))) => {
                keys.len() == found.len() && keys.iter().zip(found).all(|(key, found)| self.shows(key, found.as_ref()))
            }
            (Action::Scan(prefix), Some(Outcome::Scanned(found))) => {
                let keys: BTreeSet<&Key> = found.iter().map(|(key, _)| key).collect();
                let there = self.records.keys().filter(|key| key.starts_with(prefix));
                there.eq(keys) && found.iter().all(|(key, found)| self.shows(key, Some(found)))
            }
            (Action::Count(prefix), Some(Outcome::Counted(count))) => {
                self.records.keys().filter(|key| key.starts_with(prefix)).count() as u64 == *count
            }
            (Action::Write { conditions, .. }, Some(Outcome::Refused { condition, found })) => {
                let Some((key, expect)) = conditions.get(*condition) else { return false };
                let differs = match expect {
                    Expect::Absent => *found != Expect::Absent,
                    Expect::Present => *found == Expect::Absent,
                    Expect::Version(_) => expect != found,
                };
                let earlier = conditions[..*condition].iter().all(|(key, expect)| self.holds(key, *expect));
                differs && earlier && self.holds(key, *found)
            }
            (Action::Write { conditions, changes }, None | Some(Outcome::Written { .. })) => {
                if !conditions.iter().all(|(key, expect)| self.holds(key, *expect)) {
                    return false;
                }
                let (version, existed) = match outcome {
                    Some(Outcome::Written { version, existed }) => (*version, existed.clone()),
                    _ => (None, None),
                };
                let write = self.writes.len();
                self.writes.push((part, version));
                let mut found = Vec::new();
                for (key, change) in changes {
                    let before = match change {
                        Change::Put(value) => self.records.insert(key.clone(), (value.clone(), write)),
                        Change::Delete => self.records.remove(key),
                    };
                    found.push(before.is_some());
                }
                existed.is_none_or(|existed| existed == found)
            }
            _ => false,
        }
    }

    /// Whether versions grew with every write of a part.
    fn versions_grow(&self) -> bool {
        let mut last = BTreeMap::new();
        self.writes.iter().filter_map(|(part, version)| Some((part, (*version)?))).all(|(part, version)| {
            let last: &mut Option<u64> = last.entry(part).or_default();
            let grows = last.is_none_or(|last| last < version);
            *last = Some(version);
            grows
        })
    }
}

/// The keys of a call among all there are.
fn keys_of(action: &Action, outcome: Option<&Outcome>, all: &BTreeSet<Key>) -> BTreeSet<Key> {
    let with = |prefix: &Vec<u8>| all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
    let mut keys: BTreeSet<Key> = match action {
        Action::Get(keys) => keys.iter().cloned().collect(),
        Action::Scan(prefix) | Action::Count(prefix) => with(prefix),
        Action::Write { conditions, changes } => {
            // What was refused says nothing of what comes after the condition that did not hold.
            let (conditions, changes) = match outcome {
                Some(Outcome::Refused { condition, .. }) => {
                    (&conditions[..conditions.len().min(condition + 1)], &[][..])
                }
                _ => (&conditions[..], &changes[..]),
            };
            let changed = changes.iter().map(|(key, _)| key.clone());
            conditions.iter().map(|(key, _)| key.clone()).chain(changed).collect()
        }
    };
    if let Some(Outcome::Scanned(records)) = outcome {
        keys.extend(records.iter().map(|(key, _)| key.clone()));
    }
    keys
}

/// A number for each call that it shares with all it has a key in common with, directly or through others.
fn parts(calls: &[&Call<Action, Outcome>]) -> Vec<usize> {
    let none = BTreeSet::new();
    let all: BTreeSet<Key> = calls.iter().flat_map(|call| keys_of(&call.action, call.outcome(), &none)).collect();
    let keys: Vec<_> = calls.iter().map(|call| keys_of(&call.action, call.outcome(), &all)).collect();
    let mut parts: Vec<usize> = (0..calls.len()).collect();
    for _ in calls {
        for one in 0..calls.len() {
            for other in 0..calls.len() {
                if !keys[one].is_disjoint(&keys[other]) {
                    parts[one] = parts[one].min(parts[other]);
                }
            }
        }
    }
    parts
}

/// Whether there is an order that explains the history. Of calls that failed there is none, a read without an answer
/// joins nothing.
pub(super) fn explains(history: &History<Action, Outcome>) -> bool {
    let is_lost_read =
        |call: &Call<Action, Outcome>| call.end == End::Unknown && !matches!(call.action, Action::Write { .. });
    let calls: Vec<_> = history.calls().iter().filter(|call| call.end != End::Failed && !is_lost_read(call)).collect();
    let parts = parts(&calls);
    try_all(&calls, &parts, &(0..calls.len()).collect::<Vec<_>>(), &World::default())
}

fn try_all(calls: &[&Call<Action, Outcome>], parts: &[usize], rest: &[usize], world: &World) -> bool {
    let answered = |number: &&usize| calls[**number].outcome().is_some();
    if rest.iter().find(answered).is_none() && world.versions_grow() {
        return true;
    }
    rest.iter().any(|&next| {
        let call = calls[next];
        let too_early = rest.iter().filter(answered).any(|other| calls[*other].events.1 < call.events.0);
        let mut world = world.clone();
        if too_early || !world.call(parts[next], &call.action, call.outcome()) {
            return false;
        }
        let rest: Vec<usize> = rest.iter().copied().filter(|other| *other != next).collect();
        try_all(calls, parts, &rest, &world)
    })
}
