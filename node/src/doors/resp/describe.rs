//! COMMAND: what commands there are, for clients that ask where the keys of one are.

use loci_index::table::commands::{
    ADMIN, BLOCKING, DENYOOM, FAST, Keys, NOAUTH, NOSCRIPT, PUBSUB, READONLY, WRITE, is,
};
use loci_index::table::glob;

use super::acl::{CATEGORIES, is_in};
use super::commands::{self, Command};
use super::session::Session;

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
                    match commands::find(name) {
                        Some(command) => self.describe_one(command),
                        None => self.out.null_array(),
                    }
                }
            }
            names if is(what, "docs") => {
                let found: Vec<Command> = match names {
                    [] => commands::every(),
                    names => names.iter().filter_map(|name| commands::find(name)).collect(),
                };
                self.out.map(found.len());
                for command in found {
                    self.out.bulk(command.spec.name);
                    self.out.map(4);
                    let group =
                        CATEGORIES.iter().find(|category| is_in(command.spec, category) && **category != "read");
                    let arity = command.spec.arity.to_string();
                    for (key, value) in [
                        ("summary", "See the documentation of Redis."),
                        ("since", "1.0.0"),
                        ("group", group.copied().unwrap_or("generic")),
                        ("complexity", arity.as_str()),
                    ] {
                        self.out.bulk(key);
                        self.out.bulk(value);
                    }
                }
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
        let (first, last, step) = match spec.keys {
            Keys::None => (0, 0, 0),
            Keys::Range(first, last, step) => (first, last, step),
            Keys::Counted(_, _) | Keys::Found(_) => {
                flags.push("movablekeys");
                (0, 0, 0)
            }
        };
        out.set(flags.len());
        flags.iter().for_each(|flag| out.status(flag));
        [first, last, step].iter().for_each(|place| out.int(i64::from(*place)));
        let categories: Vec<_> = CATEGORIES.iter().filter(|category| is_in(spec, category)).collect();
        out.set(categories.len());
        categories.iter().for_each(|category| out.status(format!("@{category}")));
        // Tips, specifications of keys, parts.
        (0..3).for_each(|_| out.array(0));
    }

    fn keys_of(&mut self, args: &[&[u8]], flags: bool) {
        let Some(command) = commands::find(args[0]) else {
            return self.out.error("ERR Invalid command specified");
        };
        if !command.spec.takes(args.len()) {
            return self.out.error("ERR Invalid number of arguments specified for command");
        }
        let places = command.spec.key_places(args);
        if places.is_empty() {
            return self.out.error("ERR The command has no key arguments");
        }
        let keys: Vec<&[u8]> = places.into_iter().filter_map(|place| args.get(place).copied()).collect();
        self.out.array(keys.len());
        for key in keys {
            if flags {
                self.out.array(2);
                self.out.bulk(key);
                let flag: &[&str] = if command.spec.is(WRITE) { &["RW", "update"] } else { &["RO", "access"] };
                self.out.array(flag.len());
                flag.iter().for_each(|flag| self.out.status(flag));
            } else {
                self.out.bulk(key);
            }
        }
    }

    fn list_names(&mut self, rest: &[&[u8]]) {
        let every = commands::every().into_iter().map(|command| command.spec);
        let names: Vec<&str> = match rest {
            [] => every.map(|spec| spec.name).collect(),
            [by, kind, value] if is(by, "filterby") => match () {
                () if is(kind, "module") => Vec::new(),
                () if is(kind, "pattern") => {
                    every.map(|spec| spec.name).filter(|name| glob::matches(value, name.as_bytes())).collect()
                }
                () if is(kind, "aclcat") => {
                    let category = String::from_utf8_lossy(value).to_lowercase();
                    every.filter(|spec| is_in(spec, &category)).map(|spec| spec.name).collect()
                }
                () => return self.out.error("ERR syntax error"),
            },
            _ => return self.out.error("ERR syntax error"),
        };
        self.out.array(names.len());
        names.iter().for_each(|name| self.out.bulk(name));
    }
}
