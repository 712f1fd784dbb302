//! Guards: calls that demand something before anything else of a transaction is done.
//!
//! ```text
//!   MULTI, LEASE.FENCE n 7, VERSION.IF k 5, SET k v, EXEC --> all guards hold? --> SET
//!                                                                  '--no--> nothing is done, EXEC says which and why
//! ```
//!
//! Alone a guard only answers. Between the calls of a transaction it is asked first of all, wherever it stands, and about
//! the state before the transaction: so that what follows is done under it or not at all. A guard that cannot be understood
//! stops a transaction too.

use super::commands::{self, Failure, GUARD, Spec, parse_int};
use super::keyspace::Keyspace;
use super::objects::Lease;
use crate::command::Unmet;

/// The number under which a lease is held now.
pub fn held(keyspace: &Keyspace, name: &[u8], now: u64) -> Option<u64> {
    // What is no lease is not held.
    keyspace.object::<Lease>(name, now).ok().flatten().map(Lease::number)
}

/// What is otherwise, if a lease that is held under the number `held` (zero: not at all) is not held under `given`.
pub fn lease_unmet(held: u64, name: &[u8], given: u64) -> Option<Unmet> {
    (held == 0 || held != given).then(|| Unmet::Lease { name: name.into(), given, held })
}

/// What is otherwise, if a value of version `found` (zero: none) has not the version `expected`.
pub fn value_unmet(found: u64, key: &[u8], expected: u64) -> Option<Unmet> {
    (found != expected).then(|| Unmet::Value { key: key.into(), expected, found })
}

/// The guard that a call is, if it is one.
pub fn find(args: &[&[u8]]) -> Option<&'static Spec> {
    let name = args.first()?;
    // All of them have one, and hardly any other command does.
    if !name.contains(&b'.') {
        return None;
    }
    commands::find(name).filter(|spec| spec.is(GUARD))
}

/// What is otherwise than a guard demands.
pub fn unmet(keyspace: &Keyspace, spec: &Spec, args: &[&[u8]], now: u64) -> Option<Unmet> {
    let unclear = |text: &str| Some(Unmet::Unclear { text: text.into() });
    let (pairs, odd) = args[1..].as_chunks::<2>();
    if pairs.is_empty() || !odd.is_empty() {
        return unclear(&format!("wrong number of arguments for '{}' command", spec.name));
    }
    for [key, number] in pairs {
        let Ok(number) = number_of(number) else { return unclear("value is not an integer or out of range") };
        let unmet = match spec.name {
            "lease.fence" => lease_unmet(held(keyspace, key, now).unwrap_or(0), key, number),
            _ => value_unmet(keyspace.version(key, now).unwrap_or(0), key, number),
        };
        if unmet.is_some() {
            return unmet;
        }
    }
    None
}

/// A version, or the number of a lease.
pub(super) fn number_of(text: &[u8]) -> Result<u64, Failure> {
    parse_int(text).and_then(|number| u64::try_from(number).ok()).ok_or(Failure::NotInteger)
}

impl From<Unmet> for Failure {
    fn from(unmet: Unmet) -> Failure {
        format!("{} {unmet}", unmet.kind()).into()
    }
}

/// The keys of a guard: each is followed by its number.
pub(super) const KEYS: commands::Keys = commands::Keys::Range(1, -1, 2);
