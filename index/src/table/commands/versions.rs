//! Versions: what a key was when it was read, so that it is changed only if it is that still.
//!
//! ```text
//!   VERSION.OF key [key ..]                 --> a version each; 0: there is no such key
//!   VERSION.GET key                         --> version and value of a string
//!   VERSION.SET key version value [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]  --> the new version
//!   VERSION.DEL key version                 --> 1
//!   VERSION.IF key version [key version ..] --> OK; a guard: see `guards`
//! ```
//!
//! A version is the position in the log of the call that changed a key last, of whatever kind its value is: no other call has
//! it, and it grows. It is kept with every key for `WATCH` anyway, so that it takes no room. What does not fit is an error
//! that names the key with both versions, and nothing is changed.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::leases::guard;
use super::strings::{deadline_word, store};
use super::{DENYOOM, Done, FAST, Failure, GUARD, Keys, READONLY, Run, Spec, WRITE, is};
use crate::table::guards;

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const SPECS: &[Spec] = &[
    Spec {
        name: "version.of",
        arity: -2,
        flags: READONLY | FAST,
        keys: Keys::Range(1, -1, 1),
        run: Run::Read(version_of),
    },
    Spec { name: "version.get", arity: 2, flags: READONLY | FAST, keys: ONE, run: Run::Read(get) },
    Spec { name: "version.set", arity: -4, flags: WRITE | DENYOOM, keys: ONE, run: Run::Write(set) },
    Spec { name: "version.del", arity: 3, flags: WRITE | FAST, keys: ONE, run: Run::Write(delete) },
    Spec { name: "version.if", arity: -3, flags: READONLY | FAST | GUARD, keys: guards::KEYS, run: Run::Read(guard) },
];

fn version_of(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    call.out.array(call.args.len() - 1);
    for key in &call.args[1..] {
        call.out.int(keyspace.version(key, call.now).unwrap_or(0) as i64);
    }
    Ok(())
}

fn get(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let value = keyspace.string(call.args[1], call.now)?;
    call.out.array(2);
    call.out.int(keyspace.version(call.args[1], call.now).unwrap_or(0) as i64);
    call.out.bulk_or_null(value);
    Ok(())
}

/// Whether a key has the version that a call demands.
fn check(keyspace: &Keyspace, call: &Call<'_>) -> Done {
    let (key, expected) = (call.args[1], guards::number_of(call.args[2])?);
    let found = keyspace.version(key, call.now).unwrap_or(0);
    guards::value_unmet(found, key, expected).map_or(Ok(()), |unmet| Err(unmet.into()))
}

fn set(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let key = call.args[1];
    let deadline = match call.args.len() {
        4 => 0,
        5 if is(call.args[4], "keepttl") => keyspace.deadline(key, call.now).unwrap_or(0),
        6 => deadline_word(call, 4, "version.set")?.ok_or(Failure::Syntax)?,
        _ => return Err(Failure::Syntax),
    };
    check(keyspace, call)?;
    match call.args.len() {
        5 => keyspace.keeping_tags(key, call.at(), |keyspace| {
            store(keyspace, call, key, call.args[3], deadline, "set");
        }),
        _ => store(keyspace, call, key, call.args[3], deadline, "set"),
    }
    if deadline != 0 {
        keyspace.notify(b'g', "expire", key);
    }
    call.out.int(keyspace.version(key, call.now).unwrap_or(0) as i64);
    Ok(())
}

fn delete(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    check(keyspace, call)?;
    let was_there = keyspace.remove(call.args[1], call.at());
    if was_there {
        keyspace.notify(b'g', "del", call.args[1]);
    }
    call.out.flag(was_there);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    #[test]
    fn a_key_is_changed_only_if_it_is_what_it_was() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("VERSION.GET k", "[(integer) 0 (nil)]"),
            ("VERSION.SET k 5 a", r#"(error) CONFLICT key "k" is absent, version 5 was expected"#),
            ("VERSION.SET k 0 a", "(integer) 196608"),
            ("VERSION.SET k 0 b", r#"(error) CONFLICT key "k" has version 196608, none was expected"#),
            ("VERSION.GET k", r#"[(integer) 196608 "a"]"#),
            ("VERSION.SET k 196608 b EX 100", "(integer) 393216"),
            ("VERSION.SET k 196608 c", r#"(error) CONFLICT key "k" has version 393216, version 196608 was expected"#),
            ("TTL k", "(integer) 100"),
            ("VERSION.SET k 393216 c KEEPTTL", "(integer) 589824"),
            ("TTL k", "(integer) 100"),
            ("HSET h f v", "(integer) 1"),
            ("VERSION.OF k h nope", "[(integer) 589824 (integer) 720896 (integer) 0]"),
            ("VERSION.IF k 589824 h 720896 nope 0", "OK"),
            ("HSET h f w", "(integer) 0"),
            ("VERSION.IF h 720896", r#"(error) CONFLICT key "h" has version 917504, version 720896 was expected"#),
            ("VERSION.GET h", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("VERSION.DEL h 720896", r#"(error) CONFLICT key "h" has version 917504, version 720896 was expected"#),
            ("VERSION.DEL h 917504", "(integer) 1"),
            ("VERSION.DEL h 0", "(integer) 0"),
            ("VERSION.SET k x c", "(error) ERR value is not an integer or out of range"),
            ("VERSION.SET k 5 c NX", "(error) ERR syntax error"),
            ("VERSION.SET k 5 c EX 0", "(error) ERR invalid expire time in 'version.set' command"),
            ("GET k", r#""c""#),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }
}
