//! What calls on loci's records mean: gets, scans, counts, and writes of several changes under conditions.
//!
//! ```text
//!   record = absent | value, version
//!   write  = if every condition holds: all changes at once, with one version, greater than all before in its part
//!            otherwise: refused, saying which condition does not hold and what was found
//! ```
//!
//! A version is the position of a write in its shard's log: nobody knows it before an answer says it, and two writes
//! never share one. A write without an answer has a version too, which a later get may be the first to tell.
//!
//! - **A version that nothing tells** in the whole history needs no tracking: it only is none of the told ones. If nobody
//!   read the value either, such writes are all alike.
//! - **A get that tells value and version** of an unanswered write, and only one write put that value, says that this
//!   write took effect, when at the latest, and its version.
//! - **Any other** is a symbol in the state: bounds, and the place in the order of writes, until an answer tells it.
//!
//! Parts are connected by calls over several keys. These are atomic within one shard only, so a part lies in one shard,
//! and versions order all of its writes. A scan's prefix stands for the keys with that prefix that occur in the history.
//!
//! Always: before the first call there is no record.

use std::fmt;

use super::{History, Model, Part};

mod ready;

/// The key of a record.
pub type Key = Vec<u8>;

/// What must hold of a record before a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expect {
    /// There is none.
    Absent,
    /// There is one.
    Present,
    /// There is one, of this version.
    Version(u64),
}

/// One change of a write.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Change {
    /// The record has this value.
    Put(Vec<u8>),
    /// There is no record.
    Delete,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The records of these keys, at one moment.
    Get(Vec<Key>),
    /// All records whose keys begin with this, at one moment: a scan of one page.
    Scan(Vec<u8>),
    /// How many there are.
    Count(Vec<u8>),
    /// All changes in order, if the conditions hold.
    Write {
        /// What must hold before the first change.
        conditions: Vec<(Key, Expect)>,
        /// What changes.
        changes: Vec<(Key, Change)>,
    },
}

/// A record as a read shows it. What is `None` was not told, which fits everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Which write made it.
    pub version: Option<u64>,
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// To a get: each key's record in order, or that there is none.
    Records(Vec<Option<Found>>),
    /// To a scan: the records.
    Scanned(Vec<(Key, Found)>),
    /// To a count.
    Counted(u64),
    /// The write took effect.
    Written {
        /// Its version, if told.
        version: Option<u64>,
        /// For each change in order, if told: whether the record was there before it.
        existed: Option<Vec<bool>>,
    },
    /// The write had no effect: the conditions before this one hold, and this one does not.
    Refused {
        /// Its number, from 0.
        condition: usize,
        /// What was found instead. `Present` says that no version was told.
        found: Expect,
    },
}

impl Action {
    /// The record of a key.
    pub fn get(key: &str) -> Action {
        Action::Get(vec![key.into()])
    }

    /// The records of several keys at one moment.
    pub fn get_all(keys: &[&str]) -> Action {
        Action::Get(keys.iter().map(|key| key.as_bytes().to_vec()).collect())
    }

    /// All records whose keys begin with `prefix`, in one page.
    pub fn scan(prefix: &str) -> Action {
        Action::Scan(prefix.into())
    }

    /// How many records have keys that begin with `prefix`.
    pub fn count(prefix: &str) -> Action {
        Action::Count(prefix.into())
    }

    /// Puts whatever is there.
    pub fn put(key: &str, value: &str) -> Action {
        Action::batch(&[], &[(key, Some(value))])
    }

    /// Puts if there is no record.
    pub fn put_if_absent(key: &str, value: &str) -> Action {
        Action::batch(&[(key, Expect::Absent)], &[(key, Some(value))])
    }

    /// Puts if the record has this version.
    pub fn put_if_version(key: &str, version: u64, value: &str) -> Action {
        Action::batch(&[(key, Expect::Version(version))], &[(key, Some(value))])
    }

    /// Deletes.
    pub fn delete(key: &str) -> Action {
        Action::batch(&[], &[(key, None)])
    }

    /// Several changes at once: a value to put, or `None` to delete.
    pub fn batch(conditions: &[(&str, Expect)], changes: &[(&str, Option<&str>)]) -> Action {
        let change = |value: Option<&str>| value.map_or(Change::Delete, |value| Change::Put(value.into()));
        Action::Write {
            conditions: conditions.iter().map(|(key, expect)| (Key::from(*key), *expect)).collect(),
            changes: changes.iter().map(|(key, value)| (Key::from(*key), change(*value))).collect(),
        }
    }
}

impl Outcome {
    /// There is no such record.
    pub fn absent() -> Outcome {
        Outcome::Records(vec![None])
    }

    /// The record, with its version.
    pub fn record(value: &str, version: u64) -> Outcome {
        Outcome::Records(vec![Some(Found::new(value, version))])
    }

    /// The record's value; its version was not told.
    pub fn value(value: &str) -> Outcome {
        Outcome::Records(vec![Some(Found { value: Some(value.into()), version: None })])
    }

    /// The write took effect with this version.
    pub fn written(version: u64) -> Outcome {
        Outcome::Written { version: Some(version), existed: None }
    }

    /// The deletion took effect; whether there was a record, if there was just one key.
    pub fn deleted(existed: bool) -> Outcome {
        Outcome::Written { version: None, existed: Some(vec![existed]) }
    }

    /// The write's first condition does not hold.
    pub fn refused(found: Expect) -> Outcome {
        Outcome::Refused { condition: 0, found }
    }
}

impl Found {
    /// A record of which both are told.
    pub fn new(value: &str, version: u64) -> Found {
        Found { value: Some(value.into()), version: Some(version) }
    }
}

/// A check of histories of [`Action`] and [`Outcome`], for [`super::check`]. Holds the keys and values of one part.
#[derive(Debug)]
pub struct Records {
    keys: Vec<Key>,
    /// For each key, versions that answers mention and no known write made, in order: what a symbol can be.
    orphans: Vec<Vec<u64>>,
    /// The versions of known writes, in order.
    known: Vec<u64>,
    values: std::rc::Rc<Vec<Vec<u8>>>,
}

/// A record in a state. Values are numbers from 1; 0: there is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Slot {
    value: u32,
    version: Version,
}

/// Stands for all values that nobody read, of writes whose versions nobody told: it makes no difference which one it is.
const UNREAD: u32 = u32::MAX;

/// What is known of a record's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Version {
    /// It is none that the history tells.
    #[default]
    Untold,
    /// It is this.
    Known(u64),
    /// It is an orphan of its keys within the bounds of this symbol.
    Symbol(u32),
}

/// The records of a part; most parts have one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Slots {
    One(Slot),
    Many(Box<[Slot]>),
}

/// A part's records at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    slots: Slots,
    /// The greatest version known to be given.
    last: u64,
    /// Versions that may still be told, in the order of their writes: what each lies between.
    symbols: Vec<(u64, u64)>,
}

impl State {
    fn slots(&self) -> &[Slot] {
        match &self.slots {
            Slots::One(slot) => std::slice::from_ref(slot),
            Slots::Many(slots) => slots,
        }
    }

    fn slots_mut(&mut self) -> &mut [Slot] {
        match &mut self.slots {
            Slots::One(slot) => std::slice::from_mut(slot),
            Slots::Many(slots) => slots,
        }
    }

    /// Learns that a symbol is this version, if it can be.
    fn learn(&mut self, symbol: u32, version: u64) -> bool {
        let at = symbol as usize;
        let (after, before) = self.symbols[at];
        if version <= after || version >= before {
            return false;
        }
        for (other, bounds) in self.symbols.iter_mut().enumerate() {
            if other < at {
                bounds.1 = bounds.1.min(version);
            } else {
                bounds.0 = bounds.0.max(version);
            }
        }
        self.last = self.last.max(version);
        for slot in self.slots_mut() {
            if slot.version == Version::Symbol(symbol) {
                slot.version = Version::Known(version);
            }
        }
        true
    }
}

/// What a call needs to find in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Need {
    key: u32,
    /// No record. If not, one with this value, unless 0, and this version, if any.
    absent: bool,
    value: u32,
    version: Option<u64>,
    /// A version that it does not have.
    not_version: Option<u64>,
}

/// What version a write has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Made {
    /// It writes nothing, or nothing tells its version.
    Untold,
    /// This one.
    Known(u64),
    /// Some answer may tell it.
    Symbol,
}

/// A call with what it was told, keys and values as numbers.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Step {
    needs: Box<[Need]>,
    /// How many of these records there must be.
    count: Option<(Box<[u32]>, u64)>,
    /// The values that records have afterwards; 0: none.
    sets: Box<[(u32, u32)]>,
    made: Made,
    /// It contradicts itself.
    impossible: bool,
    /// Known versions up to this come before it, from this on after it.
    after: u64,
    before: u64,
}

impl Step {
    fn sets_key(&self, key: u32) -> bool {
        self.sets.iter().any(|(set, _)| *set == key)
    }
}

impl Records {
    /// Forgets symbols that no answer can tell any more, and all of their bounds that makes no difference, so that states
    /// look equal if nothing can tell them apart.
    fn forget(&self, state: &mut State) {
        if state.symbols.is_empty() {
            return;
        }
        let mut kept = Vec::with_capacity(state.symbols.len());
        for symbol in 0..state.symbols.len() {
            let (after, before) = state.symbols[symbol];
            let version = Version::Symbol(symbol as u32);
            let mut bounds: Option<(u64, u64)> = None;
            for (slot, orphans) in state.slots().iter().zip(&self.orphans).filter(|(slot, _)| slot.version == version) {
                debug_assert!(slot.value != 0, "what is not there has no version");
                let from = orphans.partition_point(|orphan| *orphan <= after);
                let until = orphans.partition_point(|orphan| *orphan < before);
                if from < until {
                    let (first, last) = (orphans[from], orphans[until - 1]);
                    let (least, most) = bounds.unwrap_or((first, last));
                    bounds = Some((least.min(first), most.max(last)));
                }
            }
            let new = bounds.map_or(Version::Untold, |_| Version::Symbol(kept.len() as u32));
            state.slots_mut().iter_mut().filter(|slot| slot.version == version).for_each(|slot| slot.version = new);
            kept.extend(bounds.map(|(least, most)| (least - 1, most.saturating_add(1))));
        }
        state.symbols = kept;
    }

    /// Whether a symbol's write may turn out to be older than a call, though no known write stands between them: all
    /// known ones with lower versions come before both.
    fn may_be_older(&self, unknown: &Step, step: &Step) -> bool {
        let orphans = |step: &Step| {
            let keys: Vec<usize> = step.sets.iter().map(|(key, _)| *key as usize).collect();
            keys.into_iter().flat_map(|key| &self.orphans[key])
        };
        let is_older = |version: u64| {
            let known = self.known.partition_point(|known| *known < version);
            let floor = known.checked_sub(1).map_or(0, |known| self.known[known]);
            orphans(unknown).any(|orphan| floor < *orphan && *orphan < version)
        };
        match step.made {
            Made::Known(version) => is_older(version),
            Made::Symbol => orphans(step).any(|orphan| is_older(*orphan)),
            Made::Untold => step.needs.iter().filter_map(|need| need.version).any(is_older),
        }
    }
}

impl Model for Records {
    type Action = Action;
    type Outcome = Outcome;
    type Step = Step;
    type State = State;

    fn parts(history: &History<Action, Outcome>) -> Vec<Part<Records>> {
        ready::parts(history)
    }

    fn start(&self) -> State {
        let slots = match self.keys.len() {
            1 => Slots::One(Slot::default()),
            keys => Slots::Many(vec![Slot::default(); keys].into()),
        };
        State { slots, last: 0, symbols: Vec::new() }
    }

    fn apply(&self, state: &State, step: &Step) -> Option<State> {
        if step.impossible {
            return None;
        }
        if let Made::Known(version) = step.made
            && version <= state.last
        {
            return None;
        }
        // The cheap refusals before anything is copied: most calls do not fit most states.
        for need in &step.needs {
            let slot = state.slots()[need.key as usize];
            let fits = match slot.version {
                _ if need.absent || slot.value == 0 => need.absent == (slot.value == 0),
                Version::Known(version) => {
                    need.version.is_none_or(|needed| needed == version) && need.not_version != Some(version)
                }
                Version::Untold => need.version.is_none(),
                Version::Symbol(_) => {
                    let orphans = &self.orphans[need.key as usize];
                    need.version.is_none_or(|version| orphans.binary_search(&version).is_ok())
                }
            };
            if !fits || need.value != 0 && need.value != slot.value {
                return None;
            }
        }
        if let Some((keys, count)) = &step.count {
            let found = keys.iter().filter(|key| state.slots()[**key as usize].value != 0).count();
            if found as u64 != *count {
                return None;
            }
        }
        let mut state = state.clone();
        for need in &step.needs {
            let (Some(needed), slot) = (need.version, state.slots()[need.key as usize]) else { continue };
            match slot.version {
                Version::Symbol(symbol) if !state.learn(symbol, needed) => return None,
                // Another record may just have told this one's version.
                Version::Known(version) if version != needed => return None,
                _ => {}
            }
        }
        let version = match step.made {
            Made::Untold => Version::Untold,
            Made::Known(version) if version <= state.last => return None,
            Made::Known(version) => {
                state.symbols.iter_mut().for_each(|(_, before)| *before = version.min(*before));
                state.last = version;
                Version::Known(version)
            }
            Made::Symbol => {
                // All known writes with lower versions came before, all with greater ones come later.
                let next = self.known.partition_point(|known| *known <= state.last);
                state.symbols.push((state.last, self.known.get(next).copied().unwrap_or(u64::MAX)));
                Version::Symbol(state.symbols.len() as u32 - 1)
            }
        };
        for &(key, value) in &step.sets {
            state.slots_mut()[key as usize] = if value == 0 { Slot::default() } else { Slot { value, version } };
        }
        self.forget(&mut state);
        Some(state)
    }

    fn observes(&self, step: &Step) -> bool {
        step.sets.is_empty() && step.made == Made::Untold
    }

    fn precedes(&self, first: &Step, second: &Step) -> bool {
        let in_front = matches!(first.made, Made::Known(version) if version <= second.after);
        let behind = matches!(second.made, Made::Known(version) if version >= first.before);
        in_front || behind
    }

    fn enables(&self, unknown: &Step, step: &Step) -> bool {
        if unknown.made == Made::Symbol && self.may_be_older(unknown, step) {
            return true;
        }
        let helps = |&(key, value): &(u32, u32)| {
            let fits = |need: &Need| match value {
                0 => need.absent,
                _ => {
                    let version_fits = need.version.is_none() || unknown.made == Made::Symbol;
                    !need.absent && (need.value == 0 || need.value == value) && version_fits
                }
            };
            let needed = step.needs.iter().any(|need| need.key == key && fits(need));
            let counted = step.count.as_ref().is_some_and(|(keys, _)| keys.contains(&key));
            // What overwrites a part of it leaves the rest.
            needed || counted || unknown.sets.len() > 1 && step.sets_key(key)
        };
        let would_not_fit = |need: &Need| !unknown.sets_key(need.key) && step.sets_key(need.key);
        unknown.sets.iter().any(helps) || unknown.needs.iter().any(would_not_fit)
    }

    fn may_follow(&self, state: &State, unknown: &Step) -> bool {
        // Only a symbol can become a version that is not there.
        unknown.needs.iter().all(|need| {
            need.version.is_none_or(|version| {
                state.slots()[need.key as usize].version == Version::Known(version)
                    || self.orphans[need.key as usize].binary_search(&version).is_ok()
            })
        })
    }

    fn replaces(&self, one: &Step, other: &Step) -> bool {
        let alike = one.sets == other.sets && one.made == other.made && one.count == other.count;
        alike && one.needs.len() < other.needs.len() && one.needs.iter().all(|need| other.needs.contains(need))
    }

    fn describe(&self, state: &State) -> String {
        let record = |(key, slot): (&Key, &Slot)| {
            let value = match slot.value {
                0 => return None,
                UNREAD => "a value that nobody read".into(),
                value => text(&self.values[value as usize - 1]),
            };
            let version = match slot.version {
                Version::Untold => "?".into(),
                Version::Known(version) => version.to_string(),
                Version::Symbol(symbol) => match state.symbols[symbol as usize] {
                    (after, u64::MAX) => format!("over {after}"),
                    (after, before) => format!("between {after} and {before}"),
                },
            };
            Some(format!("{}={value} (version {version})", text(key)))
        };
        let records: Vec<String> = self.keys.iter().zip(state.slots()).filter_map(record).collect();
        if records.is_empty() { "no record".into() } else { records.join(", ") }
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn joined<T>(of: &[T], words: impl Fn(&T) -> String) -> String {
    of.iter().map(words).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Absent => f.write_str("absent"),
            Expect::Present => f.write_str("present"),
            Expect::Version(version) => write!(f, "version {version}"),
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => f.write_str(&text(value))?,
            None => f.write_str("present")?,
        }
        self.version.map_or(Ok(()), |version| write!(f, " (version {version})"))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Get(keys) => write!(f, "get {}", joined(keys, |key| text(key))),
            Action::Scan(prefix) => write!(f, "scan {}*", text(prefix)),
            Action::Count(prefix) => write!(f, "count {}*", text(prefix)),
            Action::Write { conditions, changes } => {
                if !conditions.is_empty() {
                    write!(f, "if {}: ", joined(conditions, |(key, expect)| format!("{} {expect}", text(key))))?;
                }
                f.write_str(&joined(changes, |(key, change)| match change {
                    Change::Put(value) => format!("put {}={}", text(key), text(value)),
                    Change::Delete => format!("delete {}", text(key)),
                }))
            }
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Records(records) => {
                let record = |found: &Option<Found>| found.as_ref().map_or("absent".into(), Found::to_string);
                f.write_str(&joined(records, record))
            }
            Outcome::Scanned(records) if records.is_empty() => f.write_str("no record"),
            Outcome::Scanned(records) => f.write_str(&joined(records, |(key, found)| format!("{}={found}", text(key)))),
            Outcome::Counted(count) => write!(f, "{count}"),
            Outcome::Written { version, existed } => {
                f.write_str("done")?;
                version.map_or(Ok(()), |version| write!(f, ", version {version}"))?;
                let was = |existed: &bool| if *existed { "was there" } else { "was not there" }.into();
                existed.as_ref().map_or(Ok(()), |existed| write!(f, ", {}", joined(existed, was)))
            }
            Outcome::Refused { condition: 0, found } => write!(f, "refused, found {found}"),
            Outcome::Refused { condition, found } => write!(f, "refused, condition {condition} found {found}"),
        }
    }
}
