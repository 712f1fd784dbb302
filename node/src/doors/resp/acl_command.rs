//! ACL: users and what they may do.

use loci_index::table::commands::{is, parse_int};

use super::acl::{CATEGORIES, DEFAULT, is_in};
use super::commands;
use super::session::Session;
use super::sha256::hex;
use crate::identity::random_bytes;

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
                    Ok(()) => {
                        if self.user.as_ref().is_some_and(|user| user.name == name) {
                            let user = self.door.users.get(name);
                            self.be(user);
                        }
                        self.out.ok();
                    }
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
                let every = commands::every().into_iter().map(|command| command.spec);
                let names: Vec<&str> = every.filter(|spec| is_in(spec, &category)).map(|spec| spec.name).collect();
                self.out.array(names.len());
                names.iter().for_each(|name| self.out.bulk(name));
            }
            [] | [_] if is(what, "genpass") => {
                let bits = rest.first().map_or(Some(256), |bits| parse_int(bits));
                let Some(bits) = bits.filter(|bits| (1..=4096).contains(bits)) else {
                    return self.out.error(
                        "ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up to 4096",
                    );
                };
                match random_bytes::<512>() {
                    Ok(bytes) => self.out.bulk(&hex(&bytes)[..(bits as usize).div_ceil(4)]),
                    Err(error) => self.out.error(format!("ERR {error}")),
                }
            }
            [] | [_] if is(what, "log") => match rest.first() {
                Some(word) if is(word, "reset") => self.out.ok(),
                _ => self.out.array(0),
            },
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
        for (name, rules) in
            [("commands", user.command_rules()), ("keys", user.key_rules()), ("channels", user.channel_rules())]
        {
            self.out.bulk(name);
            self.out.bulk(rules);
        }
        self.out.bulk("selectors");
        self.out.array(0);
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
        if !user.may_call(spec, call.get(1).copied()) {
            let text = format!("User {} has no permissions to run the '{}' command", user.name, spec.name);
            return self.out.bulk(text);
        }
        let mut keys = spec.key_places(call).into_iter().filter_map(|place| call.get(place));
        let writes = spec.is(loci_index::table::commands::WRITE);
        match keys.find(|key| !user.may_use(key, writes)) {
            None => self.out.ok(),
            Some(key) => {
                let key = String::from_utf8_lossy(key).into_owned();
                self.out.bulk(format!("User {} has no permissions to access the '{key}' key", user.name));
            }
        }
    }
}
