//! COMMAND: what commands there are, for clients that ask where the keys of one are.

use loci_index::table::commands::{
    ADMIN, BLOCKING, DENYOOM, FAST, Keys, NOAUTH, NOSCRIPT, PUBSUB, READONLY, Spec, WRITE, is,
};
use loci_index::table::glob;

use super::acl::{CATEGORIES, is_in};
use super::acl_command::names_in;
use super::commands::{self, Command, Do, Way};
use super::facts::{self, Part};
use super::session::Session;
use loci_wire::resp::Writer;

const FLAGS: [(u32, &str); 9] = [
    (WRITE, "write"),
    (READONLY, "readonly"),
    (DENYOOM, "denyoom"),
    (ADMIN, "admin"),
    (PUBSUB, "pubsub"),
    (NOSCRIPT, "noscript"),
    (BLOCKING, "blocking"),
    (FAST, "fast"),
    (NOAUTH, "no_auth"),
];

/// A command, or one with a part: `config|get`.
/// What clients of a cluster are told of whom to ask, and of how replies are put together, in the words of Redis
/// (<https://redis.io/docs/latest/develop/reference/command-tips/>).
const TIPS: [(&[&str], &[&str]); 11] = [
    (&["dbsize"], &["request_policy:all_shards", "response_policy:agg_sum"]),
    (&["keys"], &["request_policy:all_shards", "nondeterministic_output_order"]),
    (
        &["flushall", "flushdb", "ping", "function|load", "function|delete", "function|flush", "function|restore"],
        &["request_policy:all_shards", "response_policy:all_succeeded"],
    ),
    (&["del", "exists", "unlink", "touch"], &["request_policy:multi_shard", "response_policy:agg_sum"]),
    (&["mget"], &["request_policy:multi_shard"]),
    (&["mset"], &["request_policy:multi_shard", "response_policy:all_succeeded"]),
    (&["randomkey"], &["request_policy:all_shards", "nondeterministic_output"]),
    (&["scan"], &["nondeterministic_output", "request_policy:special"]),
    (
        &["config|set", "script|load", "script|flush", "slowlog|reset", "latency|reset"],
        &["request_policy:all_nodes", "response_policy:all_succeeded"],
    ),
    (&["script|exists"], &["request_policy:all_shards", "response_policy:agg_logical_and"]),
    (&["wait"], &["request_policy:all_shards", "response_policy:agg_min"]),
];

fn tips(out: &mut Writer, name: &str) {
    let tips = TIPS.iter().find(|(names, _)| names.contains(&name)).map_or(&[][..], |(_, tips)| tips);
    out.array(tips.len());
    tips.iter().for_each(|tip| out.bulk(tip));
}

fn named(name: &[u8]) -> Option<(Command, Option<&'static Part>)> {
    let Some(bar) = name.iter().position(|byte| *byte == b'|') else { return Some((commands::find(name)?, None)) };
    let command = commands::find(&name[..bar])?;
    let part = command.parts.iter().find(|part| is(&name[bar + 1..], part.name))?;
    Some((command, Some(part)))
}

/// The first key, the last one and the step from one to the next; of keys that have to be looked for those that are always there.
/// Clients look for the channels of a slot there too.
fn range(spec: &Spec, part: Option<&Part>) -> [i32; 3] {
    let kinds = facts::of(spec.name).map_or(&[][..], |fact| fact.keys);
    match (spec.keys, part) {
        // Each part has its own.
        (_, None) if !facts::parts(spec.name).is_empty() => [0; 3],
        (_, Some(part)) if part.name == "help" => [0; 3],
        (_, Some(part)) if (spec.name, part.name) == ("memory", "usage") => [2, 2, 1],
        (Keys::Range(first, last, step), _) => [first, last, step],
        (Keys::Counted(_, Some(destination)), _) => [destination as i32, destination as i32, 1],
        (Keys::Found(_), _) if kinds.first().is_some_and(|(first, _)| *first == 1) => [1, 1, 1],
        (Keys::None, _) if kinds == [(1, "not_key")] => [1, if spec.arity < 0 { -1 } else { 1 }, 1],
        _ => [0; 3],
    }
}

/// What a call does to the key at a place.
fn kind_of(spec: &Spec, args: &[&[u8]], place: usize) -> &'static str {
    let gets = || args.iter().skip(3).any(|word| is(word, "get"));
    let part = |name| args.get(1).is_some_and(|part| is(part, name));
    match spec.name {
        "set" if !gets() => return "OW update",
        "bitfield" if !args.iter().skip(2).any(|word| is(word, "set") || is(word, "incrby")) => return "RO access",
        "xgroup" if part("create") || part("createconsumer") => return "RW insert",
        "xgroup" if part("destroy") || part("delconsumer") => return "RW delete",
        "xgroup" => return "RW update",
        // Neither tells anything of what is in it.
        "object" | "memory" => return "RO",
        _ => {}
    }
    let fact = facts::of(spec.name).filter(|fact| !fact.keys.is_empty());
    let Some(fact) = fact else { return if spec.is(WRITE) { "RW access update" } else { "RO access" } };
    fact.keys.iter().rev().find(|(from, _)| *from <= place).unwrap_or(&fact.keys[0]).1
}

/// Whether a call reads what is in the key at a place, and whether it writes it.
pub fn needs(spec: &Spec, args: &[&[u8]], place: usize) -> (bool, bool) {
    // Of a command that Redis does not have nothing more is known.
    if facts::of(spec.name).is_none() {
        return (!spec.is(WRITE), spec.is(WRITE));
    }
    let kind = kind_of(spec, args, place);
    (kind.contains("access"), ["insert", "update", "delete"].iter().any(|word| kind.contains(word)))
}

impl Session {
    /// COMMAND.
    pub fn describe(&mut self, args: &[&[u8]]) {
        let Some(what) = args.get(1) else {
            let every = commands::every();
            self.out.array(every.len());
            return every.into_iter().for_each(|command| self.describe_one(command));
        };
        let rest = &args[2..];
        match rest {
            [] if is(what, "count") => self.out.int(commands::every().len() as i64),
            [] if is(what, "info") => self.describe(&args[..1]),
            names if is(what, "info") => {
                self.out.array(names.len());
                for name in names {
                    match named(name) {
                        Some((command, None)) => self.describe_one(command),
                        Some((command, Some(part))) => self.describe_part(command, part),
                        None => self.out.null(),
                    }
                }
            }
            names if is(what, "docs") => {
                let found: Vec<Command> = match names {
                    [] => commands::every(),
                    names => names.iter().filter_map(|name| commands::find(name)).collect(),
                };
                self.out.map(found.len());
                found.into_iter().for_each(|command| self.document(command));
            }
            [_, ..] if is(what, "getkeys") || is(what, "getkeysandflags") => {
                self.keys_of(rest, is(what, "getkeysandflags"))
            }
            _ if is(what, "list") => self.list_names(rest),
            [] if is(what, "help") => self.help(
                "COMMAND",
                &[
                    "(no subcommand)",
                    "COUNT",
                    "LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <value>]",
                    "INFO [<command-name> ...]",
                    "DOCS [<command-name> ...]",
                    "GETKEYS <full-command>",
                    "GETKEYSANDFLAGS <full-command>",
                ],
            ),
            _ => self.no_part("COMMAND", what),
        }
    }

    fn describe_one(&mut self, command: Command) {
        let spec = command.spec;
        let out = &mut self.out;
        out.array(10);
        out.bulk(spec.name);
        out.int(i64::from(spec.arity));
        let mut flags: Vec<&str> = FLAGS.iter().filter(|(flag, _)| spec.is(*flag)).map(|(_, name)| *name).collect();
        if matches!(spec.keys, Keys::Counted(..) | Keys::Found(_)) {
            flags.push("movablekeys");
        }
        out.set(flags.len());
        flags.iter().for_each(|flag| out.status(flag));
        range(spec, None).iter().for_each(|place| out.int(i64::from(*place)));
        let categories: Vec<_> = CATEGORIES.iter().filter(|category| is_in(spec, None, category)).collect();
        out.set(categories.len());
        categories.iter().for_each(|category| out.status(format!("@{category}")));
        tips(out, spec.name);
        // Specifications of keys.
        out.array(0);
        out.array(command.parts.len());
        command.parts.iter().for_each(|part| self.describe_part(command, part));
    }

    /// A part of a command, which is described like one.
    fn describe_part(&mut self, command: Command, part: &Part) {
        let spec = command.spec;
        let out = &mut self.out;
        out.array(10);
        out.bulk(format!("{}|{}", spec.name, part.name));
        out.int(i64::from(part.arity));
        let common = if part.name == "help" { 0 } else { spec.flags & !(ADMIN | PUBSUB | READONLY | WRITE) };
        let has = |flag: u32| (common | part.flags) & flag != 0;
        let flags: Vec<&str> = FLAGS.iter().filter(|(flag, _)| has(*flag)).map(|(_, name)| *name).collect();
        out.set(flags.len());
        flags.iter().for_each(|flag| out.status(flag));
        range(spec, Some(part)).iter().for_each(|place| out.int(i64::from(*place)));
        let categories: Vec<_> = CATEGORIES.iter().filter(|category| is_in(spec, Some(part), category)).collect();
        out.set(categories.len());
        categories.iter().for_each(|category| out.status(format!("@{category}")));
        tips(out, &format!("{}|{}", spec.name, part.name));
        (0..2).for_each(|_| out.array(0));
    }

    /// What is said of a command, for COMMAND DOCS.
    fn document(&mut self, command: Command) {
        let name = command.spec.name;
        let fact = facts::of(name);
        self.out.bulk(name);
        self.out.map(3 + usize::from(!command.parts.is_empty()));
        let since = fact.map_or(env!("CARGO_PKG_VERSION"), |fact| fact.since);
        let what = format!("about: {}", facts::group(name).replace('_', " "));
        for (key, value) in [("summary", what.as_str()), ("since", since), ("group", facts::group(name))] {
            self.out.bulk(key);
            self.out.bulk(value.replace("sorted_set", "sorted-set"));
        }
        if !command.parts.is_empty() {
            self.out.bulk("subcommands");
            self.out.map(command.parts.len());
            for part in command.parts {
                self.out.bulk(format!("{name}|{}", part.name));
                self.out.map(3);
                let what = format!("see {} HELP", name.to_ascii_uppercase());
                for (key, value) in [("summary", what.as_str()), ("since", since), ("group", facts::group(name))] {
                    self.out.bulk(key);
                    self.out.bulk(value);
                }
            }
        }
    }

    fn keys_of(&mut self, args: &[&[u8]], flags: bool) {
        let Some(command) = commands::find(args[0]) else {
            return self.out.error("ERR Invalid command specified");
        };
        if !command.spec.takes(args.len()) || command.wrong_part(args).is_some() {
            return self.out.error("ERR Invalid number of arguments specified for command");
        }
        let mut places = command.spec.key_places(args);
        // The one part of a command of the door that has a key.
        if command.way == Way::Door(Do::Memory) && is(args[1], "usage") {
            places.push(2);
        }
        if places.is_empty() {
            return self.out.error("ERR The command has no key arguments");
        }
        let keys: Vec<(usize, &[u8])> =
            places.into_iter().filter_map(|place| Some((place, *args.get(place)?))).collect();
        self.out.array(keys.len());
        for (place, key) in keys {
            if flags {
                self.out.array(2);
                self.out.bulk(key);
                let kind = kind_of(command.spec, args, place);
                self.out.set(kind.split(' ').count());
                kind.split(' ').for_each(|flag| self.out.status(flag));
            } else {
                self.out.bulk(key);
            }
        }
    }

    fn list_names(&mut self, rest: &[&[u8]]) {
        if rest.is_empty() {
            let every = commands::every();
            let parts =
                every.iter().flat_map(|command| command.parts.iter().map(move |part| (command.spec.name, part.name)));
            let parts = parts.map(|(name, part)| format!("{name}|{part}"));
            let names: Vec<String> = every.iter().map(|command| command.spec.name.to_owned()).chain(parts).collect();
            self.out.array(names.len());
            return names.iter().for_each(|name| self.out.bulk(name));
        }
        let names: Vec<String> = match rest {
            [by, kind, value] if is(by, "filterby") => match () {
                () if is(kind, "module") => Vec::new(),
                () if is(kind, "pattern") => {
                    let every = commands::every().into_iter().map(|command| command.spec.name);
                    every.filter(|name| glob::matches(value, name.as_bytes())).map(str::to_owned).collect()
                }
                () if is(kind, "aclcat") => names_in(&String::from_utf8_lossy(value).to_lowercase()),
                () => return self.out.error("ERR syntax error"),
            },
            _ => return self.out.error("ERR syntax error"),
        };
        self.out.array(names.len());
        names.iter().for_each(|name| self.out.bulk(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_where_keys_are_as_redis_does() {
        for (name, expected) in [
            ("get", [1, 1, 1]),
            ("mset", [1, -1, 2]),
            ("ping", [0, 0, 0]),
            ("eval", [0, 0, 0]),
            ("xread", [0, 0, 0]),
            ("zunion", [0, 0, 0]),
            ("zunionstore", [1, 1, 1]),
            ("sort", [1, 1, 1]),
            ("georadiusbymember", [1, 1, 1]),
            ("publish", [0, 0, 0]),
            ("spublish", [1, 1, 1]),
            ("ssubscribe", [1, -1, 1]),
            ("sunsubscribe", [1, -1, 1]),
            ("memory", [0, 0, 0]),
            ("memory|usage", [2, 2, 1]),
            ("memory|stats", [0, 0, 0]),
            ("object", [0, 0, 0]),
            ("object|encoding", [2, 2, 1]),
            ("object|help", [0, 0, 0]),
            ("xgroup|create", [2, 2, 1]),
        ] {
            let (command, part) = named(name.as_bytes()).expect("a command");
            assert_eq!(range(command.spec, part), expected, "{name}");
        }
    }
}
