//! Tags: what keys depend on, and dropping all that depends on something.
//!
//! ```text
//!   TAG.SET key [tag ..]      exactly these tags; 1: there is such a key
//!   TAG.ADD key tag [tag ..]  --> how many are new         TAG.REM key tag [tag ..]  --> how many it had
//!   TAG.OF key                --> its tags                 TAG.KEYS tag [tag ..]     --> the keys that have one of them
//!   TAG.COUNT tag [tag ..]    --> how many keys that is    TAG.DROP tag [tag ..]     --> how many keys went, all at once
//!   SET key value .. TAGS count tag [tag ..]               a string with its tags
//! ```

use super::super::call::Call;
use super::super::keyspace::{Keyspace, TAG_BYTES_MAX, TAGS_MAX};
use super::{DENYOOM, Done, Failure, Keys, READONLY, Run, Spec, WRITE, int};

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "tag.set", arity: -2, flags: WRITE | DENYOOM, keys: ONE, run: Run::Write(set) },
    Spec { name: "tag.add", arity: -3, flags: WRITE | DENYOOM, keys: ONE, run: Run::Write(add) },
    Spec { name: "tag.rem", arity: -3, flags: WRITE, keys: ONE, run: Run::Write(remove) },
    Spec { name: "tag.of", arity: 2, flags: READONLY, keys: ONE, run: Run::Read(tags_of) },
    Spec { name: "tag.keys", arity: -2, flags: READONLY, keys: Keys::None, run: Run::Read(keys) },
    Spec { name: "tag.count", arity: -2, flags: READONLY, keys: Keys::None, run: Run::Read(count) },
    Spec { name: "tag.drop", arity: -2, flags: WRITE, keys: Keys::None, run: Run::Write(drop_all) },
];

fn check(tags: &[&[u8]]) -> Done {
    if tags.iter().any(|tag| tag.is_empty() || tag.len() > TAG_BYTES_MAX) {
        return Err(format!("ERR a tag has 1 to {TAG_BYTES_MAX} bytes").into());
    }
    if tags.len() > TAGS_MAX {
        return Err(too_many());
    }
    Ok(())
}

fn too_many() -> Failure {
    format!("ERR a key has at most {TAGS_MAX} tags").into()
}

/// Reads `TAGS count tag [tag ..]` at the place of the word; the tags, and how many words they were besides it.
pub(super) fn tags_word<'a>(args: &[&'a [u8]], place: usize) -> Result<(Vec<&'a [u8]>, usize), Failure> {
    let count = int(args.get(place + 1).ok_or(Failure::Syntax)?)?;
    let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or(Failure::Syntax)?;
    let end = count.checked_add(place + 2).ok_or(Failure::Syntax)?;
    let tags = args.get(place + 2..end).ok_or(Failure::Syntax)?;
    check(tags)?;
    Ok((tags.to_vec(), count + 1))
}

/// Gives a key exactly these tags; says whether it is there.
pub(super) fn give(keyspace: &mut Keyspace, call: &Call<'_>, key: &[u8], tags: &[&[u8]]) -> bool {
    let changed = keyspace.retag(key, call.at(), |tagged| {
        tagged.clear();
        tags.iter().filter(|tag| tagged.add(tag)).count()
    });
    changed.is_some()
}

fn set(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let tags = &call.args[2..];
    check(tags)?;
    let is_there = give(keyspace, call, call.args[1], tags);
    call.out.flag(is_there);
    Ok(())
}

fn add(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, tags) = (call.args[1], &call.args[2..]);
    check(tags)?;
    let known = keyspace.tags_of(key, call.now);
    let mut new: Vec<&[u8]> = tags.iter().copied().filter(|tag| known.binary_search(tag).is_err()).collect();
    new.sort_unstable();
    new.dedup();
    if known.len() + new.len() > TAGS_MAX {
        return Err(too_many());
    }
    let added = match new.is_empty() {
        true => 0,
        false => {
            let all = keyspace.retag(key, call.at(), |tagged| new.iter().filter(|tag| tagged.add(tag)).count());
            all.unwrap_or(0)
        }
    };
    call.out.count(added);
    Ok(())
}

fn remove(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, tags) = (call.args[1], &call.args[2..]);
    let removed = keyspace.retag(key, call.at(), |tagged| tags.iter().filter(|tag| tagged.remove(tag)).count());
    call.out.count(removed.unwrap_or(0));
    Ok(())
}

fn tags_of(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let tags = keyspace.tags_of(call.args[1], call.now);
    call.out.set(tags.len());
    tags.iter().for_each(|tag| call.out.bulk(tag));
    Ok(())
}

/// The keys that have one of these tags, each once.
fn all<'k>(keyspace: &'k Keyspace, call: &Call<'_>) -> Vec<&'k [u8]> {
    let mut keys: Vec<&[u8]> = call.args[1..].iter().flat_map(|tag| keyspace.tagged(tag, call.now)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn keys(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let keys = all(keyspace, call);
    call.out.array(keys.len());
    keys.iter().for_each(|key| call.out.bulk(key));
    Ok(())
}

fn count(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let count = all(keyspace, call).len();
    call.out.count(count);
    Ok(())
}

fn drop_all(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let keys: Vec<Box<[u8]>> = all(keyspace, call).into_iter().map(Box::from).collect();
    let mut dropped = 0;
    for key in keys {
        if keyspace.remove(&key, call.at()) {
            keyspace.notify(b'g', "del", &key);
            dropped += 1;
        }
    }
    call.out.count(dropped);
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    #[test]
    fn what_is_tagged_goes_together_and_tags_go_with_what_they_were_on() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("SET a 1 EX 100 TAGS 2 users:1 users:2", "OK"),
            ("TAG.OF a", r#"~["users:1" "users:2"]"#),
            ("HSET h f v", "(integer) 1"),
            ("TAG.ADD h users:1 users:1 page", "(integer) 2"),
            ("TAG.ADD h users:1", "(integer) 0"),
            ("TAG.ADD nope x", "(integer) 0"),
            ("TAG.SET nope x", "(integer) 0"),
            ("TAG.KEYS users:1", r#"["a" "h"]"#),
            ("TAG.COUNT users:2 page", "(integer) 2"),
            ("HSET h f w", "(integer) 0"),
            ("TAG.OF h", r#"~["page" "users:1"]"#),
            ("TAG.REM h page nope", "(integer) 1"),
            ("RENAME h i", "OK"),
            ("TAG.OF i", r#"~["users:1"]"#),
            ("TAG.OF h", "~[]"),
            ("COPY i j", "(integer) 1"),
            ("TAG.KEYS users:1", r#"["a" "i" "j"]"#),
            ("INCR a", "(integer) 2"),
            ("APPEND a 5", "(integer) 2"),
            ("SETRANGE a 1 6", "(integer) 2"),
            ("INCRBYFLOAT a 1", r#""27""#),
            ("SET a 3 KEEPTTL", "OK"),
            ("TAG.OF a", r#"~["users:1" "users:2"]"#),
            ("SET a 4", "OK"),
            ("TAG.OF a", "~[]"),
            ("SET a 5 TAGS 1 users:1", "OK"),
            ("TAG.DROP users:1 users:2", "(integer) 3"),
            ("TAG.DROP users:1", "(integer) 0"),
            ("EXISTS a i j", "(integer) 0"),
            ("SET b 1 PX 50 TAGS 1 t", "OK"),
            ("RPUSH l 1", "(integer) 1"),
            ("TAG.SET l t u", "(integer) 1"),
            ("LPOP l", r#""1""#),
            ("TAG.KEYS t", r#"["b"]"#),
            ("TAG.SET b", "(integer) 1"),
            ("TAG.KEYS t", "[]"),
            ("TAG.SET b t", "(integer) 1"),
            ("SET c 1 TAGS 0", "(error) ERR syntax error"),
            ("SET c 1 TAGS 2 t", "(error) ERR syntax error"),
            ("SET c 1 TAGS x t", "(error) ERR value is not an integer or out of range"),
            ("SET c 1 TAGS 1 ", "(error) ERR a tag has 1 to 1024 bytes"),
            ("SET b 1 NX TAGS 1 u", "(nil)"),
            ("TAG.OF b", r#"~["t"]"#),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
        trial.now += 50;
        assert_eq!(trial.line("TAG.KEYS t"), "[]");
        assert_eq!(trial.line("TAG.OF b"), "~[]");
        assert_eq!(trial.line("INCR b"), "(integer) 1");
        assert_eq!(trial.line("TAG.OF b"), "~[]");
    }

    #[test]
    fn a_key_has_so_many_tags() {
        let mut trial = Trial::new();
        trial.line("SET a 1");
        let many = |from: usize, to: usize| (from..to).map(|tag| tag.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(trial.line(&format!("TAG.ADD a {}", many(0, 200))), "(integer) 200");
        assert_eq!(trial.line(&format!("TAG.ADD a {}", many(100, 257))), "(error) ERR a key has at most 256 tags");
        assert_eq!(trial.line(&format!("TAG.SET a {}", many(0, 257))), "(error) ERR a key has at most 256 tags");
        assert_eq!(trial.line("TAG.COUNT 5"), "(integer) 1");
    }
}
