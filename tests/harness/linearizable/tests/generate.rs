//! Histories that are linearizable because they come from a store that does one call at a time: each call takes effect
//! at a random moment between its invocation and its end, and those whose answer is lost at any moment, or never.

use std::collections::BTreeMap;

use super::super::records::{Action, Change, Expect, Found, Key, Outcome};
use super::super::{CallId, History};
use crate::chance::Chance;

/// One copy of the records.
#[derive(Debug, Default)]
pub(super) struct Store {
    records: BTreeMap<Key, (Vec<u8>, u64)>,
    version: u64,
}

impl Store {
    fn seen(&self, key: &Key) -> Expect {
        self.records.get(key).map_or(Expect::Absent, |(_, version)| Expect::Version(*version))
    }

    /// Does one call.
    pub(super) fn call(&mut self, action: &Action) -> Outcome {
        let found = |(value, version): &(Vec<u8>, u64)| Found { value: Some(value.clone()), version: Some(*version) };
        let with = |prefix: &Vec<u8>| {
            let prefix = prefix.clone();
            self.records.iter().filter(move |(key, _)| key.starts_with(&prefix))
        };
        match action {
            Action::Get(keys) => Outcome::Records(keys.iter().map(|key| self.records.get(key).map(found)).collect()),
            Action::Scan(prefix) => {
                Outcome::Scanned(with(prefix).map(|(key, record)| (key.clone(), found(record))).collect())
            }
            Action::Count(prefix) => Outcome::Counted(with(prefix).count() as u64),
            Action::Write { conditions, changes } => {
                for (condition, (key, expect)) in conditions.iter().enumerate() {
                    let found = self.seen(key);
                    let holds = match expect {
                        Expect::Present => found != Expect::Absent,
                        other => found == *other,
                    };
                    if !holds {
                        return Outcome::Refused { condition, found };
                    }
                }
                self.version += 1;
                let mut existed = Vec::new();
                for (key, change) in changes {
                    let before = match change {
                        Change::Put(value) => self.records.insert(key.clone(), (value.clone(), self.version)),
                        Change::Delete => self.records.remove(key),
                    };
                    existed.push(before.is_some());
                }
                Outcome::Written { version: Some(self.version), existed: Some(existed) }
            }
        }
    }
}

/// What a load is like.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) clients: u64,
    /// Calls of each client.
    pub(super) calls: u64,
    pub(super) keys: u64,
    /// Different values; 0: as many as puts.
    pub(super) values: u64,
    /// Of a hundred calls, those whose answer is lost.
    pub(super) lost: u64,
    /// Of a hundred, those that are about several keys.
    pub(super) wide: u64,
    /// Of a hundred answers, those that tell no version.
    pub(super) untold: u64,
    /// How long a call takes at most.
    pub(super) slow: u64,
}

impl Plan {
    /// Clients that always have a call under way, on a few keys.
    pub(super) fn busy(clients: u64, calls: u64, keys: u64) -> Plan {
        Plan { clients, calls, keys, values: 0, lost: 5, wide: 0, untold: 0, slow: 100 }
    }

    fn key(&self, chance: &mut Chance) -> String {
        format!("k{}", chance.below(self.keys))
    }

    fn action(&self, chance: &mut Chance, number: usize, version: u64) -> Action {
        let value = match self.values {
            0 => format!("v{number}"),
            values => format!("v{}", chance.below(values)),
        };
        let (key, other) = (self.key(chance), self.key(chance));
        let version = version.saturating_sub(chance.below(3));
        if chance.percent(self.wide) {
            let expect = [Expect::Absent, Expect::Present, Expect::Version(version)][chance.index(3)];
            return match chance.below(6) {
                0 => Action::get_all(&[&key, &other]),
                1 => Action::scan("k"),
                2 => Action::count("k"),
                3 => Action::batch(&[(&other, expect)], &[(&key, Some(&value))]),
                4 => Action::batch(&[], &[(&key, Some(&value)), (&other, None)]),
                _ => Action::batch(&[(&key, expect)], &[(&key, Some(&value)), (&other, Some(&value))]),
            };
        }
        match chance.below(10) {
            0..4 => Action::get(&key),
            4..7 => Action::put(&key, &value),
            7 => Action::put_if_absent(&key, &value),
            8 => Action::put_if_version(&key, version, &value),
            _ => Action::delete(&key),
        }
    }
}

/// An answer that leaves out what not every door tells.
fn without_versions(outcome: Outcome) -> Outcome {
    let found = |found: Found| Found { version: None, ..found };
    match outcome {
        Outcome::Records(records) => Outcome::Records(records.into_iter().map(|record| record.map(found)).collect()),
        Outcome::Written { .. } => Outcome::Written { version: None, existed: None },
        other => other,
    }
}

enum Event {
    Begin(u64),
    Effect(CallId),
    End(u64, CallId, bool),
}

/// Runs a load. The same seed makes the same history.
pub(super) fn run(plan: &Plan, seed: u64) -> History<Action, Outcome> {
    let mut chance = Chance::new(seed);
    let mut store = Store::default();
    let mut history = History::new();
    let mut outcomes = BTreeMap::new();
    let mut left = vec![plan.calls; plan.clients as usize];
    // By time and, at the same time, by chance.
    let mut events: BTreeMap<(u64, u64), Event> = BTreeMap::new();
    for client in 0..plan.clients {
        events.insert((chance.below(plan.slow), chance.next_u64()), Event::Begin(client));
    }
    while let Some(((now, _), event)) = events.pop_first() {
        let mut at = |after: u64, event: Event, chance: &mut Chance| {
            events.insert((now + after, chance.next_u64()), event);
        };
        match event {
            Event::Begin(client) => {
                let action = plan.action(&mut chance, history.calls().len(), store.version);
                let id = history.invoke(client, now, action);
                let lost = chance.percent(plan.lost);
                let (effect, answer) = (1 + chance.below(plan.slow), 1 + chance.below(plan.slow));
                match (lost, chance.below(3)) {
                    (false, _) | (true, 0) => at(effect, Event::Effect(id), &mut chance),
                    (true, 1) => at(effect * 20, Event::Effect(id), &mut chance),
                    (true, _) => {}
                }
                at(effect + answer, Event::End(client, id, lost), &mut chance);
            }
            Event::Effect(id) => {
                let outcome = store.call(&history.call(id).action);
                let untold = chance.percent(plan.untold);
                outcomes.insert(id, if untold { without_versions(outcome) } else { outcome });
            }
            Event::End(client, id, lost) => {
                match outcomes.remove(&id) {
                    Some(outcome) if !lost => history.ok(id, now, outcome),
                    _ => history.unknown(id, now),
                }
                left[client as usize] -= 1;
                if left[client as usize] > 0 {
                    at(1 + chance.below(5), Event::Begin(client), &mut chance);
                }
            }
        }
    }
    history
}
