//! From a history of records to parts that can be searched: keys and values become numbers, prefixes become keys, keys
//! that occur together fall into one part, and what the history tells about versions is found out beforehand.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::rc::Rc;

use super::super::{Call, CallId, End, History, Part, Span};
use super::{Action, Change, Expect, Found, Key, Made, Need, Outcome, Records, Step, UNREAD};

/// The keys and values of a whole history as numbers.
struct Names<'h> {
    keys: BTreeMap<&'h [u8], u32>,
    values: HashMap<&'h [u8], u32>,
}

impl<'h> Names<'h> {
    fn of(calls: &[(CallId, &'h Call<Action, Outcome>)]) -> (Names<'h>, Vec<Vec<u8>>) {
        let mut keys = BTreeMap::new();
        let mut values = HashMap::new();
        let mut listed: Vec<Vec<u8>> = Vec::new();
        let mut value = |value: &'h [u8]| {
            values.entry(value).or_insert_with(|| {
                listed.push(value.to_vec());
                listed.len() as u32
            });
        };
        for (_, call) in calls {
            match &call.action {
                Action::Get(of) => keys.extend(of.iter().map(|key| (key.as_slice(), 0))),
                Action::Scan(_) | Action::Count(_) => {}
                Action::Write { conditions, changes } => {
                    keys.extend(conditions.iter().map(|(key, _)| (key.as_slice(), 0)));
                    keys.extend(changes.iter().map(|(key, _)| (key.as_slice(), 0)));
                    for (_, change) in changes {
                        if let Change::Put(put) = change {
                            value(put);
                        }
                    }
                }
            }
            match call.outcome() {
                Some(Outcome::Records(records)) => {
                    records.iter().flatten().filter_map(|found| found.value.as_deref()).for_each(&mut value);
                }
                Some(Outcome::Scanned(records)) => {
                    keys.extend(records.iter().map(|(key, _)| (key.as_slice(), 0)));
                    records.iter().filter_map(|(_, found)| found.value.as_deref()).for_each(&mut value);
                }
                _ => {}
            }
        }
        for (number, name) in (0..).zip(keys.values_mut()) {
            *name = number;
        }
        (Names { keys, values }, listed)
    }

    fn key(&self, key: &[u8]) -> u32 {
        self.keys[key]
    }

    fn with_prefix(&self, prefix: &[u8]) -> Vec<u32> {
        let from = self.keys.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, number)| *number).collect()
    }

    fn found(&self, key: u32, found: &Found) -> Need {
        let value = found.value.as_deref().map_or(0, |value| self.values[value]);
        Need { value, version: found.version, ..Need::present(key) }
    }

    /// A step without what only the whole history tells.
    fn step(&self, call: &Call<Action, Outcome>) -> Step {
        let mut step = Step {
            needs: Box::default(),
            count: None,
            sets: Box::default(),
            made: Made::Untold,
            impossible: false,
            after: 0,
            before: u64::MAX,
        };
        let mut needs = Vec::new();
        match (&call.action, call.outcome()) {
            (Action::Get(keys), Some(Outcome::Records(records))) => {
                step.impossible = keys.len() != records.len();
                for (key, found) in keys.iter().zip(records) {
                    let key = self.key(key);
                    needs.push(found.as_ref().map_or(Need::absent(key), |found| self.found(key, found)));
                }
            }
            (Action::Scan(prefix), Some(Outcome::Scanned(records))) => {
                let mut rest: BTreeSet<u32> = self.with_prefix(prefix).into_iter().collect();
                for (key, found) in records {
                    let key = self.key(key);
                    step.impossible |= !rest.remove(&key);
                    needs.push(self.found(key, found));
                }
                needs.extend(rest.into_iter().map(Need::absent));
            }
            (Action::Count(prefix), Some(Outcome::Counted(count))) => {
                step.count = Some((self.with_prefix(prefix).into(), *count));
            }
            (Action::Write { conditions, .. }, Some(Outcome::Refused { condition, found })) => {
                let held = conditions.iter().take(*condition);
                needs.extend(held.map(|(key, expect)| Need::that(self.key(key), *expect)));
                match conditions.get(*condition) {
                    Some((key, expect)) => {
                        let contradicts = match (expect, found) {
                            (Expect::Present | Expect::Version(_), Expect::Absent) => false,
                            (Expect::Version(expected), Expect::Version(found)) => expected == found,
                            (Expect::Absent, Expect::Present | Expect::Version(_)) => false,
                            (Expect::Version(_), Expect::Present) => false,
                            (Expect::Absent, Expect::Absent) | (Expect::Present, _) => true,
                        };
                        step.impossible = contradicts;
                        let not_version = match (expect, found) {
                            (Expect::Version(expected), Expect::Present) => Some(*expected),
                            _ => None,
                        };
                        needs.push(Need { not_version, ..Need::that(self.key(key), *found) });
                    }
                    None => step.impossible = true,
                }
            }
            (Action::Write { conditions, changes }, outcome) => {
                let (version, existed) = match outcome {
                    Some(Outcome::Written { version, existed }) => (*version, existed.as_deref()),
                    Some(_) => {
                        step.impossible = true;
                        (None, None)
                    }
                    None => (None, None),
                };
                step.impossible |= existed.is_some_and(|existed| existed.len() != changes.len());
                needs.extend(conditions.iter().map(|(key, expect)| Need::that(self.key(key), *expect)));
                let mut sets: Vec<(u32, u32)> = Vec::new();
                for (number, (key, change)) in changes.iter().enumerate() {
                    let key = self.key(key);
                    let value = match change {
                        Change::Put(value) => self.values[value.as_slice()],
                        Change::Delete => 0,
                    };
                    let existed = existed.and_then(|existed| existed.get(number).copied());
                    match (sets.iter_mut().find(|(set, _)| *set == key), existed) {
                        (Some((_, earlier)), existed) => {
                            step.impossible |= existed.is_some_and(|existed| existed != (*earlier != 0));
                            *earlier = value;
                            continue;
                        }
                        (None, Some(true)) => needs.push(Need::present(key)),
                        (None, Some(false)) => needs.push(Need::absent(key)),
                        (None, None) => {}
                    }
                    sets.push((key, value));
                }
                step.made = version.map_or(Made::Untold, Made::Known);
                // What deletes what is not there only looks.
                let is_absent = |key: u32| needs.iter().any(|need| need.key == key && need.absent);
                if outcome.is_some() && sets.iter().all(|&(key, value)| value == 0 && is_absent(key)) {
                    sets.clear();
                }
                sets.sort_unstable();
                step.sets = sets.into();
            }
            (Action::Get(_) | Action::Scan(_) | Action::Count(_), _) => step.impossible = true,
        }
        step.needs = needs.into();
        step
    }
}

impl Records {
    fn new(values: Rc<Vec<Vec<u8>>>) -> Records {
        Records { keys: Vec::new(), orphans: Vec::new(), known: Vec::new(), values }
    }
}

impl Need {
    fn present(key: u32) -> Need {
        Need { key, absent: false, value: 0, version: None, not_version: None }
    }

    fn absent(key: u32) -> Need {
        Need { absent: true, ..Need::present(key) }
    }

    fn that(key: u32, expect: Expect) -> Need {
        match expect {
            Expect::Absent => Need::absent(key),
            Expect::Present => Need::present(key),
            Expect::Version(version) => Need { version: Some(version), ..Need::present(key) },
        }
    }
}

impl Step {
    fn keys(&self) -> impl Iterator<Item = u32> {
        let needed = self.needs.iter().map(|need| need.key);
        let counted = self.count.iter().flat_map(|(keys, _)| keys.iter().copied());
        needed.chain(counted).chain(self.sets.iter().map(|(key, _)| *key))
    }

    /// The records that this puts: key and value.
    fn puts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.sets.iter().copied().filter(|(_, value)| *value != 0)
    }

    fn is_version_open(&self) -> bool {
        self.made == Made::Untold && self.puts().next().is_some()
    }
}

/// See [`super::Model::parts`].
pub(super) fn parts(history: &History<Action, Outcome>) -> Vec<Part<Records>> {
    let numbered = (0..).map(CallId).zip(history.calls());
    // A read without an answer says nothing and does nothing.
    let counts = |(_, call): &(CallId, &Call<_, _>)| match call.end {
        End::Ok(_) => true,
        End::Failed => false,
        End::Unknown => matches!(call.action, Action::Write { .. }),
    };
    let calls: Vec<_> = numbered.filter(counts).collect();
    let (names, values) = Names::of(&calls);
    let mut spans: Vec<Span<Step>> = calls.iter().map(|(id, call)| Span::of(*id, call, names.step(call))).collect();
    let orphans = tell_versions(&mut spans);
    place_by_versions(&mut spans);

    let part_of = connect(names.keys.len(), &spans);
    let mut local = vec![0; names.keys.len()];
    let values = Rc::new(values);
    let mut parts: BTreeMap<u32, Part<Records>> = BTreeMap::new();
    for (key, number) in &names.keys {
        let part = parts.entry(part_of[*number as usize]);
        let part = part.or_insert_with(|| Part { model: Records::new(values.clone()), steps: Vec::new() });
        local[*number as usize] = part.model.keys.len() as u32;
        part.model.keys.push(Key::from(*key));
        part.model.orphans.push(orphans.get(number).cloned().unwrap_or_default());
    }
    let mut keyless = Vec::new();
    for mut span in spans {
        let Some(first) = span.step.keys().next() else {
            keyless.push(span);
            continue;
        };
        let number = |key: &mut u32| *key = local[*key as usize];
        span.step.needs.iter_mut().for_each(|need| number(&mut need.key));
        span.step.sets.iter_mut().for_each(|(key, _)| number(key));
        span.step.count.iter_mut().flat_map(|(keys, _)| keys.iter_mut()).for_each(number);
        let part = parts.get_mut(&part_of[first as usize]).expect("every key is in a part");
        if let Made::Known(version) = span.step.made {
            part.model.known.push(version);
        }
        part.steps.push(span);
    }
    parts.values_mut().for_each(|part| part.model.known.sort_unstable());
    let mut parts: Vec<Part<Records>> = parts.into_values().filter(|part| !part.steps.is_empty()).collect();
    // What is about no key at all is right or wrong by itself.
    if !keyless.is_empty() {
        parts.push(Part { model: Records::new(values), steps: keyless });
    }
    parts
}

/// Finds the version of writes that did not tell it but which a read shows, and which versions of each key are mentioned
/// that no known write made.
fn tell_versions(spans: &mut [Span<Step>]) -> HashMap<u32, Vec<u64>> {
    // For each key and value, the writes that put it.
    let mut writers: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    let mut made = HashSet::new();
    for (number, span) in spans.iter().enumerate() {
        for put in span.step.puts() {
            writers.entry(put).or_default().push(number);
            if let Made::Known(version) = span.step.made {
                made.insert((put.0, version));
            }
        }
    }
    // What is told: by which of the returns first, if at all.
    let mut shown: HashMap<usize, (u64, u64)> = HashMap::new();
    for span in spans.iter() {
        for need in &span.step.needs {
            // A value of 0 is no value, and has no writer.
            let written = writers.get(&(need.key, need.value)).map(Vec::as_slice);
            let (Some(until), Some(version), Some([writer])) = (span.until, need.version, written) else { continue };
            let writes = &spans[*writer];
            let is_told = writes.step.is_version_open() && !made.contains(&(need.key, version));
            if is_told && writes.from < until {
                let first = shown.entry(*writer).or_insert((until, version));
                *first = (*first).min((until, version));
            }
        }
    }
    for (writer, (until, version)) in shown {
        // Before the read returns, so before its event.
        spans[writer].until = Some(spans[writer].until.unwrap_or(u64::MAX).min(until - 1));
        spans[writer].step.made = Made::Known(version);
        made.extend(spans[writer].step.puts().map(|(key, _)| (key, version)).collect::<Vec<_>>());
    }
    let needs = || spans.iter().flat_map(|span| span.step.needs.iter());
    let mut orphans: HashMap<u32, Vec<u64>> = HashMap::new();
    for need in needs() {
        orphans
            .entry(need.key)
            .or_default()
            .extend(need.version.filter(|version| !made.contains(&(need.key, *version))));
    }
    orphans.retain(|_, orphans| {
        orphans.sort_unstable();
        orphans.dedup();
        !orphans.is_empty()
    });
    let read: HashSet<(u32, u32)> = needs().map(|need| (need.key, need.value)).collect();
    for Span { step, .. } in spans.iter_mut().filter(|span| span.step.is_version_open()) {
        if step.puts().any(|(key, _)| orphans.contains_key(&key)) {
            step.made = Made::Symbol;
        }
        let unread = step.sets.iter_mut().filter(|(key, value)| *value != 0 && !read.contains(&(*key, *value)));
        unread.for_each(|(_, value)| *value = UNREAD);
    }
    orphans
}

/// Says of each answered call between which versions it stands.
fn place_by_versions(spans: &mut [Span<Step>]) {
    let mut versions: HashMap<u32, Vec<u64>> = HashMap::new();
    for span in spans.iter() {
        if let Made::Known(version) = span.step.made {
            for (key, _) in &span.step.sets {
                versions.entry(*key).or_default().push(version);
            }
        }
    }
    versions.values_mut().for_each(|versions| versions.sort_unstable());
    for Span { step, .. } in spans {
        if let Made::Known(version) = step.made {
            (step.after, step.before) = (version.saturating_sub(1), version.saturating_add(1));
            continue;
        }
        for need in &step.needs {
            let Some(found) = need.version else { continue };
            step.after = step.after.max(found);
            let of_key = versions.get(&need.key).map_or(&[][..], Vec::as_slice);
            let next = of_key.partition_point(|version| *version <= found);
            step.before = step.before.min(of_key.get(next).copied().unwrap_or(u64::MAX));
        }
    }
}

/// The part of each key: keys that a call joins are in the same one.
fn connect(keys: usize, spans: &[Span<Step>]) -> Vec<u32> {
    let mut leader: Vec<u32> = (0..keys as u32).collect();
    fn find(leader: &mut [u32], mut key: u32) -> u32 {
        while leader[key as usize] != key {
            leader[key as usize] = leader[leader[key as usize] as usize];
            key = leader[key as usize];
        }
        key
    }
    for span in spans {
        let mut keys = span.step.keys();
        let Some(first) = keys.next() else { continue };
        for key in keys {
            let (one, other) = (find(&mut leader, first), find(&mut leader, key));
            leader[one.max(other) as usize] = one.min(other);
        }
    }
    (0..keys as u32).map(|key| find(&mut leader, key)).collect()
}
