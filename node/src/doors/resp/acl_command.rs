//! ACL: users and what they may do.

use loci_index::table::commands::{is, parse_int};

use super::acl::{CATEGORIES, DEFAULT, Denied, Rules, Wanted, is_in};
use super::acl_log::Refusal;
use super::commands::{self, Command, Do, Way};
use super::session::Session;
use super::sha256::hex;
use crate::identity::random_bytes;

/// What a call would do.
pub fn wanted<'c>(command: Command, args: &'c [&'c [u8]]) -> Wanted<'c> {
    let (channels, is_pattern) = match command.way {
        Way::Publish => (&args[1..2], false),
        Way::Door(Do::Subscribe | Do::SSubscribe) => (&args[1..], false),
        Way::Door(Do::PSubscribe) => (&args[1..], true),
        _ => (&args[..0], false),
    };
    Wanted { spec: command.spec, args, channels: (channels, is_pattern) }
}

/// A command's name, with that of its part.
pub fn full_name(command: Command, args: &[&[u8]]) -> String {
    let part = args.get(1).and_then(|given| command.parts.iter().find(|part| is(given, part.name)));
    part.map_or(command.spec.name.to_owned(), |part| format!("{}|{}", command.spec.name, part.name))
}

/// The commands of a category, and the parts of commands.
pub fn names_in(category: &str) -> Vec<String> {
    let of = |command: Command| {
        let spec = command.spec;
        let parts = command.parts.iter().filter(move |part| is_in(spec, Some(part), category));
        let whole = is_in(spec, None, category).then(|| spec.name.to_owned());
        whole.into_iter().chain(parts.map(move |part| format!("{}|{}", spec.name, part.name)))
    };
    commands::every().into_iter().flat_map(of).collect()
}

impl Session {
    /// ACL.
    pub fn acl(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [] if is(what, "whoami") => {
                let name = self.user.as_ref().map_or(DEFAULT, |user| &user.name).to_owned();
                self.out.bulk(name);
            }
            [] if is(what, "list") => {
                let users = self.door.users.all();
                self.out.array(users.len());
                users.iter().for_each(|user| self.out.bulk(user.line()));
            }
            [] if is(what, "users") => {
                let users = self.door.users.all();
                self.out.array(users.len());
                users.iter().for_each(|user| self.out.bulk(&user.name));
            }
            [name] if is(what, "getuser") => self.user_rules(name),
            [name, rules @ ..] if is(what, "setuser") => {
                let Ok(name) = std::str::from_utf8(name) else {
                    return self.out.error("ERR Usernames can't contain spaces or null characters");
                };
                if name.contains([' ', '\0']) || name.is_empty() {
                    return self.out.error("ERR Usernames can't contain spaces or null characters");
                }
                match self.door.users.set(name, rules) {
                    Ok(()) => self.out.ok(),
                    Err(error) => self.out.error(error),
                }
            }
            [_, ..] if is(what, "deluser") => {
                let names: Vec<String> = rest.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                if names.iter().any(|name| name == DEFAULT) {
                    return self.out.error("ERR The 'default' user cannot be removed");
                }
                let removed = names.iter().filter(|name| self.door.users.remove(name)).count();
                for client in self.door.clients.all() {
                    if names.contains(&client.facts().user) {
                        client.kill();
                    }
                }
                self.out.int(removed as i64);
            }
            [] if is(what, "cat") => {
                self.out.array(CATEGORIES.len());
                CATEGORIES.iter().for_each(|category| self.out.bulk(category));
            }
            [category] if is(what, "cat") => {
                let category = String::from_utf8_lossy(category).to_lowercase();
                if !CATEGORIES.contains(&&*category) {
                    return self.out.error(format!("ERR Unknown category '{category}'"));
                }
                let names = names_in(&category);
                self.out.array(names.len());
                names.iter().for_each(|name| self.out.bulk(name));
            }
            [] | [_] if is(what, "genpass") => {
                let Some(bits) = rest.first().map_or(Some(256), |bits| parse_int(bits)) else {
                    return self.out.error("ERR value is not an integer or out of range");
                };
                let Some(bits) = Some(bits).filter(|bits| (1..=4096).contains(bits)) else {
                    return self.out.error(
                        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
                    );
                };
                match random_bytes::<512>() {
                    Ok(bytes) => self.out.bulk(&hex(&bytes)[..(bits as usize).div_ceil(4)]),
                    Err(error) => self.out.error(format!("ERR {error}")),
                }
            }
            [] | [_] if is(what, "log") => self.acl_log(rest.first().copied()),
            [name, call @ ..] if is(what, "dryrun") && !call.is_empty() => self.dry_run(name, call),
            [] if is(what, "save") || is(what, "load") => {
                self.out.error("ERR This Redis instance is not configured to use an ACL file.");
            }
            [] if is(what, "help") => self.help(
                "ACL",
                &[
                    "CAT [<category>]",
                    "DELUSER <username> [<username> ...]",
                    "DRYRUN <username> <command> [<arg> ...]",
                    "GETUSER <username>",
                    "GENPASS [<bits>]",
                    "LIST",
                    "LOG [<count> | RESET]",
                    "SETUSER <username> <attribute> [<attribute> ...]",
                    "USERS",
                    "WHOAMI",
                ],
            ),
            _ => self.no_part("ACL", what),
        }
    }

    fn user_rules(&mut self, name: &[u8]) {
        let user = std::str::from_utf8(name).ok().and_then(|name| self.door.users.get(name));
        let Some(user) = user else { return self.out.null() };
        self.out.map(6);
        self.out.bulk("flags");
        let flags = user.flags();
        self.out.set(flags.len());
        flags.iter().for_each(|flag| self.out.bulk(flag));
        self.out.bulk("passwords");
        let digests = user.password_digests();
        self.out.array(digests.len());
        digests.iter().for_each(|digest| self.out.bulk(digest));
        self.rules(user.rules());
        self.out.bulk("selectors");
        self.out.array(user.selectors().len());
        for selector in user.selectors() {
            self.out.map(3);
            self.rules(selector);
        }
    }

    fn rules(&mut self, rules: &Rules) {
        for (name, rules) in [("commands", rules.commands()), ("keys", rules.keys()), ("channels", rules.channels())] {
            self.out.bulk(name);
            self.out.bulk(rules);
        }
    }

    fn acl_log(&mut self, word: Option<&[u8]>) {
        let count = match word {
            Some(word) if is(word, "reset") => {
                self.door.acl_log.clear();
                return self.out.ok();
            }
            Some(word) => match parse_int(word) {
                Some(count) => usize::try_from(count).unwrap_or(0),
                None => return self.out.error("ERR value is not an integer or out of range"),
            },
            None => 10,
        };
        let entries = self.door.acl_log.entries(count);
        self.out.array(entries.len());
        for entry in entries {
            self.out.map(10);
            self.out.bulk("count");
            self.out.int(entry.count as i64);
            for (name, text) in [("reason", entry.refusal.reason), ("context", entry.refusal.context)] {
                self.out.bulk(name);
                self.out.bulk(text);
            }
            self.out.bulk("object");
            self.out.bulk(&entry.refusal.object);
            self.out.bulk("username");
            self.out.bulk(&entry.refusal.user);
            self.out.bulk("age-seconds");
            self.out.double((entry.age().as_secs_f64() * 1e3).round() / 1e3);
            self.out.bulk("client-info");
            self.out.bulk(&entry.client);
            for (name, number) in [
                ("entry-id", entry.id),
                ("timestamp-created", entry.times[0]),
                ("timestamp-last-updated", entry.times[1]),
            ] {
                self.out.bulk(name);
                self.out.int(number as i64);
            }
        }
    }

    /// Notes that somebody was refused something.
    pub fn note_refusal(&self, reason: &'static str, object: &[u8], user: &str) {
        let context = if self.gathered.is_some() { "multi" } else { "toplevel" };
        let most = self.door.settings.get("acllog-max-len").parse().unwrap_or(128);
        let refusal = Refusal { reason, context, object: object.to_vec(), user: user.to_owned() };
        self.door.acl_log.note(refusal, self.client.line(), most);
    }

    fn dry_run(&mut self, name: &[u8], call: &[&[u8]]) {
        let user = std::str::from_utf8(name).ok().and_then(|name| self.door.users.get(name));
        let Some(user) = user else {
            let name = String::from_utf8_lossy(name).into_owned();
            return self.out.error(format!("ERR User '{name}' not found"));
        };
        let Some(command) = commands::find(call[0]) else {
            let name = String::from_utf8_lossy(call[0]).into_owned();
            return self.out.error(format!("ERR Command '{name}' not found"));
        };
        let spec = command.spec;
        if !spec.takes(call.len()) {
            return self.out.error(format!("ERR wrong number of arguments for '{}' command", spec.name));
        }
        let denied = match user.check(&wanted(command, call)) {
            Ok(()) => return self.out.ok(),
            Err(denied) => denied,
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = &user.name;
        let why = match denied {
            Denied::Command => {
                format!("User {name} has no permissions to run the '{}' command", full_name(command, call))
            }
            Denied::Key(key) => format!("User {name} has no permissions to access the '{}' key", text(&key)),
            Denied::Channel(channel) => {
                format!("User {name} has no permissions to access the '{}' channel", text(&channel))
            }
        };
        self.out.bulk(why);
    }
}
