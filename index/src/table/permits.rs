//! What a script may do whose caller may not do everything.
//!
//! ```text
//!   SCRIPT AS count rule .. EVAL ..        rule: -command | ~pattern | %R~pattern | %W~pattern
//! ```
//!
//! The door knows its users, and writes down before the call what it found: the commands that this one may not use, and patterns of
//! the keys that it may read or write. So a script does the same on every member, whoever is known there, and whenever it is applied.
//!
//! Always: without rules everything is allowed. What writes to a key needs a pattern that allows to read it too, for it may give
//! what was there.

use super::commands::{Spec, WRITE};
use super::glob;

/// Rules, as they stand in the call.
#[derive(Debug, Clone, Copy, Default)]
pub struct Permits<'a>(&'a [&'a [u8]]);

/// Why a call of a script is refused; as Redis 7.0 says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// For the command.
    Command,
    /// For one of its keys.
    Key,
    /// For keys that the elements of what is sorted name.
    Sorted,
}

impl Refused {
    /// For the script.
    pub fn text(self) -> &'static str {
        match self {
            Refused::Command => "ERR The user executing the script can't run this command or subcommand",
            Refused::Key => {
                "ERR The user executing the script can't access at least one of the keys mentioned in the command arguments"
            }
            Refused::Sorted => "ERR BY option of SORT denied due to insufficient ACL permissions.",
        }
    }
}

/// The patterns by which SORT reads keys that are in nobody's list: whatever the elements say.
pub fn others_sorted_by<'a>(spec: &Spec, args: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    let sorts = matches!(spec.name, "sort" | "sort_ro");
    let options = if sorts { args.get(2..).unwrap_or_default() } else { &[] };
    let names = |word: &[u8]| word.eq_ignore_ascii_case(b"by") || word.eq_ignore_ascii_case(b"get");
    let patterns = options.windows(2).filter(move |pair| names(pair[0])).map(|pair| pair[1]);
    patterns.filter(|pattern| pattern.contains(&b'*'))
}

impl<'a> Permits<'a> {
    /// Of a call that begins with `count rule ..`; and the call itself. None: it is none.
    pub fn split(args: &'a [&'a [u8]]) -> Option<(Permits<'a>, &'a [&'a [u8]])> {
        let (count, rest) = args.split_first()?;
        let count = usize::try_from(super::commands::parse_int(count)?).ok()?;
        let (rules, call) = rest.split_at_checked(count)?;
        Some((Permits(rules), call))
    }

    /// What it costs to ask about a call, in bytes that are looked at.
    pub fn cost(self, args: &[&[u8]]) -> u64 {
        let (rules, call) = (self.0.iter().map(|rule| rule.len()), args.iter().map(|arg| arg.len()));
        if self.0.is_empty() { 0 } else { (rules.sum::<usize>() + self.0.len() * call.sum::<usize>()) as u64 }
    }

    /// Whether a command may not be used, whatever its arguments are.
    pub fn forbid(self, name: &[u8]) -> bool {
        self.0.iter().any(|rule| rule.strip_prefix(b"-").is_some_and(|forbidden| forbidden.eq_ignore_ascii_case(name)))
    }

    /// What stands in the way of a call.
    pub fn refuse(self, spec: &Spec, args: &[&[u8]]) -> Option<Refused> {
        if self.0.is_empty() {
            return None;
        }
        if self.forbid(spec.name.as_bytes()) {
            return Some(Refused::Command);
        }
        let writes = spec.is(WRITE);
        let places = spec.key_places(args);
        if places.into_iter().filter_map(|place| args.get(place)).any(|key| !self.allow(key, writes)) {
            return Some(Refused::Key);
        }
        let reads_all = || self.0.iter().any(|rule| matches!(*rule, b"~*" | b"%R~*"));
        (others_sorted_by(spec, args).next().is_some() && !reads_all()).then_some(Refused::Sorted)
    }

    /// Whether a key may be used.
    fn allow(self, key: &[u8], writes: bool) -> bool {
        let fits = |pattern: Option<&[u8]>| pattern.is_some_and(|pattern| glob::matches(pattern, key));
        self.0.iter().any(|rule| fits(rule.strip_prefix(b"~")) || !writes && fits(rule.strip_prefix(b"%R~")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::commands::find;
    use super::*;

    fn refuse(rules: &str, line: &str) -> Option<Refused> {
        let rules: Vec<&[u8]> = rules.split_whitespace().map(str::as_bytes).collect();
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        Permits(&rules).refuse(find(args[0]).expect("a command"), &args)
    }

    #[test]
    fn a_script_may_do_what_its_caller_may() {
        for (rules, line, expected) in [
            ("", "flushdb", None),
            ("", "set any v", None),
            ("-keys ~*", "get k", None),
            ("-keys ~*", "keys *", Some(Refused::Command)),
            ("~a:*", "get a:1", None),
            ("~a:*", "get b:1", Some(Refused::Key)),
            ("~a:* ~b:*", "mget a:1 b:1", None),
            ("~a:*", "mget a:1 b:1", Some(Refused::Key)),
            ("~a:* %R~b:*", "get b:1", None),
            ("~a:* %R~b:*", "set b:1 v", Some(Refused::Key)),
            ("%W~b:*", "set b:1 v", Some(Refused::Key)),
            ("~a:*", "dbsize", None),
            ("~a:*", "sort a:1", None),
            ("~a:*", "sort a:1 by w* get *", Some(Refused::Sorted)),
            ("~*", "sort a:1 by w*", None),
            ("-get", "set k v", Some(Refused::Key)),
        ] {
            assert_eq!(refuse(rules, line), expected, "{rules}: {line}");
        }
    }

    #[test]
    fn what_a_script_may_call_besides_is_asked_about_too() {
        use super::super::execute::{Moment, tests::text};
        use super::super::{keyspace::Keyspace, scripting::Scripts, tape::Tape};

        let (mut scripts, mut keyspace) = (Scripts::default(), Keyspace::new(1));
        for (rules, code, expected) in [
            ("~*", "return redis.call('PING')", "PONG"),
            ("-ping ~*", "return redis.call('echo', 'x')", r#""x""#),
            ("-ping ~*", "return redis.pcall('PING')", ""),
            ("-ping ~*", "return redis.pcall('ping', 'x')", ""),
            ("-echo ~*", "return redis.pcall('echo', 'x')", ""),
            ("-time ~*", "return redis.pcall('time')", ""),
            ("-ping ~*", "return tostring(redis.acl_check_cmd('ping'))", r#""false""#),
            ("-ping ~*", "return tostring(redis.acl_check_cmd('time'))", r#""true""#),
        ] {
            let (count, mut out) = (rules.split(' ').count().to_string(), Tape::new());
            let mut args: Vec<&[u8]> = vec![b"script", b"as", count.as_bytes()];
            args.extend(rules.split(' ').map(str::as_bytes));
            args.extend([b"eval", code.as_bytes(), b"0"]);
            scripts.call(&mut keyspace, &args, Moment { now: 1, version: 1, number: 0 }, &mut out);
            let refused = format!("(error) {}", Refused::Command.text());
            assert_eq!(text(out.bytes()), if expected.is_empty() { &refused } else { expected }, "{rules}: {code}");
        }
    }

    #[test]
    fn rules_stand_before_the_call() {
        let args: Vec<&[u8]> = vec![b"2", b"~a", b"-get", b"eval", b"x", b"0"];
        let (permits, call) = Permits::split(&args).expect("rules");
        assert_eq!(permits.0, &args[1..3]);
        assert_eq!(call, &args[3..]);
        for wrong in ["", "x", "-1", "3 a b", "9223372036854775807"] {
            let wrong: Vec<&[u8]> = wrong.split(' ').map(str::as_bytes).collect();
            assert!(Permits::split(&wrong).is_none());
        }
    }
}
