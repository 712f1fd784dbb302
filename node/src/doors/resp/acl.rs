//! Who may do what: one password for all, or users with rules as `ACL SETUSER` gives them.
//!
//! ```text
//!   AUTH name password --> User { commands, keys, channels } --> asked before each call
//! ```
//!
//! Users are this node's, and end with it, but for the default one's password, which is an option of the node. Passwords are
//! kept as their digests and compared in constant time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use loci_index::table::commands::{BLOCKING, FAST, PUBSUB, READONLY, Spec, WRITE};
use loci_index::table::glob;

use super::sha256::{digest, hex};

/// The user of those who gave no name.
pub const DEFAULT: &str = "default";
/// The most users.
const USERS_MAX: usize = 10_000;

/// One rule about commands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    All,
    Category(&'static str),
    Command(String),
    /// Of a command that has others inside.
    Part(String, String),
}

/// What a user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// How it is called.
    pub name: String,
    /// Whether it may come in.
    pub enabled: bool,
    /// Whether any password will do.
    pub no_password: bool,
    passwords: Vec<[u8; 32]>,
    /// The last that says something of a command decides.
    commands: Vec<(bool, Which)>,
    /// Patterns, with what may be done: read, write.
    keys: Vec<(Vec<u8>, bool, bool)>,
    channels: Vec<Vec<u8>>,
}

/// The categories that are told apart here.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// Whether a command is in a category.
pub fn is_in(spec: &Spec, category: &str) -> bool {
    let name = spec.name;
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match category {
        "read" => spec.is(READONLY),
        "write" => spec.is(WRITE),
        "fast" => spec.is(FAST),
        "slow" => !spec.is(FAST),
        "blocking" => spec.is(BLOCKING),
        "pubsub" => spec.is(PUBSUB),
        "admin" => spec.is(loci_index::table::commands::ADMIN),
        "dangerous" => {
            spec.is(loci_index::table::commands::ADMIN)
                || matches!(name, "flushall" | "flushdb" | "keys" | "sort" | "info" | "swapdb" | "migrate" | "restore")
        }
        "connection" => {
            matches!(name, "auth" | "hello" | "ping" | "echo" | "quit" | "reset" | "select" | "client" | "command")
        }
        "transaction" => matches!(name, "multi" | "exec" | "discard" | "watch" | "unwatch"),
        "scripting" => begins(&["eval", "script", "fcall", "function"]),
        "keyspace" => matches!(
            name,
            "del"
                | "unlink"
                | "exists"
                | "touch"
                | "type"
                | "ttl"
                | "pttl"
                | "expiretime"
                | "pexpiretime"
                | "expire"
                | "pexpire"
                | "expireat"
                | "pexpireat"
                | "persist"
                | "rename"
                | "renamenx"
                | "copy"
                | "move"
                | "keys"
                | "scan"
                | "randomkey"
                | "dbsize"
                | "flushdb"
                | "flushall"
                | "object"
                | "swapdb"
                | "dump"
                | "restore"
        ),
        "string" => {
            begins(&["incr", "decr", "mset", "mget", "get", "set", "append", "strlen", "substr", "psetex", "lcs"])
                && !begins(&["getbit", "setbit"])
        }
        "bitmap" => begins(&["bit", "getbit", "setbit"]),
        "hash" => begins(&["h"]) && name != "hello",
        "list" => begins(&["l", "rp", "bl", "br"]) && !begins(&["lcs", "lastsave", "latency", "lolwut"]),
        "set" => begins(&[
            "sadd", "scard", "sdiff", "sinter", "sis", "smem", "smis", "smove", "spop", "srand", "srem", "sscan",
            "sunion",
        ]),
        "sortedset" => begins(&["z", "bz"]),
        "hyperloglog" => begins(&["pf"]),
        "geo" => begins(&["geo"]),
        "stream" => begins(&["x"]),
        _ => false,
    }
}

impl User {
    /// One that may do nothing.
    fn new(name: &str) -> User {
        User {
            name: name.into(),
            enabled: false,
            no_password: false,
            passwords: Vec::new(),
            commands: vec![(false, Which::All)],
            keys: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// The one that everybody is at first.
    fn first() -> User {
        let mut user = User::new(DEFAULT);
        for rule in ["on", "nopass", "~*", "&*", "+@all"] {
            user.apply(rule).expect("the rules are right");
        }
        user
    }

    /// Whether it may do everything.
    pub fn is_free(&self) -> bool {
        self.commands == [(true, Which::All)]
            && self.keys.iter().any(|(pattern, read, write)| pattern == b"*" && *read && *write)
            && self.channels.iter().any(|pattern| pattern == b"*")
    }

    /// Whether a password is its.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let given = digest(password);
        let same = |known: &[u8; 32]| known.iter().zip(given).fold(0, |different, (a, b)| different | (a ^ b)) == 0;
        self.enabled && (self.no_password || self.passwords.iter().fold(false, |found, known| found | same(known)))
    }

    /// Whether it may call a command.
    pub fn may_call(&self, spec: &Spec, part: Option<&[u8]>) -> bool {
        let last = self.commands.iter().rev().find(|(_, which)| match which {
            Which::All => true,
            Which::Category(category) => is_in(spec, category),
            Which::Command(name) => name == spec.name,
            Which::Part(name, wanted) => {
                name == spec.name && part.is_some_and(|part| part.eq_ignore_ascii_case(wanted.as_bytes()))
            }
        });
        last.is_some_and(|(allowed, _)| *allowed)
    }

    /// Whether it may use a key.
    pub fn may_use(&self, key: &[u8], writes: bool) -> bool {
        let fits = |(pattern, read, write): &(Vec<u8>, bool, bool)| {
            (if writes { *write } else { *read }) && glob::matches(pattern, key)
        };
        self.keys.iter().any(fits)
    }

    /// Whether it may publish to a channel, or subscribe to it; of a pattern, whether it is one of its own.
    pub fn may_hear(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.channels
            .iter()
            .any(|known| known == b"*" || if is_pattern { known == channel } else { glob::matches(known, channel) })
    }

    /// Applies one rule.
    fn apply(&mut self, rule: &str) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("ERR Error in ACL SETUSER modifier '{rule}': {reason}"));
        let lower = rule.to_ascii_lowercase();
        match lower.as_str() {
            "on" => self.enabled = true,
            "off" => self.enabled = false,
            "nopass" => (self.no_password, self.passwords) = (true, Vec::new()),
            "resetpass" => (self.no_password, self.passwords) = (false, Vec::new()),
            "allkeys" => self.keys = vec![(b"*".to_vec(), true, true)],
            "resetkeys" => self.keys.clear(),
            "allchannels" => self.channels = vec![b"*".to_vec()],
            "resetchannels" => self.channels.clear(),
            "allcommands" | "+@all" => self.commands = vec![(true, Which::All)],
            "nocommands" | "-@all" => self.commands = vec![(false, Which::All)],
            "reset" => *self = User::new(&self.name),
            "sanitize-payload" | "skip-sanitize-payload" | "clearselectors" => {}
            _ => match rule.split_at_checked(1) {
                Some((">", password)) => {
                    self.no_password = false;
                    let digest = digest(password.as_bytes());
                    if !self.passwords.contains(&digest) {
                        self.passwords.push(digest);
                    }
                }
                Some(("<", password)) => {
                    let digest = digest(password.as_bytes());
                    if !self.passwords.contains(&digest) {
                        return wrong("The password you are trying to remove from the user does not exist");
                    }
                    self.passwords.retain(|known| *known != digest);
                }
                Some((sign @ ("#" | "!"), text)) => {
                    let Some(digest) = from_hex(text) else {
                        return wrong(
                            "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters",
                        );
                    };
                    self.passwords.retain(|known| *known != digest);
                    if sign == "#" {
                        self.no_password = false;
                        self.passwords.push(digest);
                    }
                }
                Some(("~", pattern)) => self.add_key(pattern, true, true),
                Some(("%", rest)) => {
                    let Some((permissions, pattern)) = rest.split_once('~') else { return wrong("Syntax error") };
                    let permissions = permissions.to_ascii_uppercase();
                    if permissions.is_empty() || permissions.contains(|c| c != 'R' && c != 'W') {
                        return wrong("Syntax error");
                    }
                    self.add_key(pattern, permissions.contains('R'), permissions.contains('W'));
                }
                Some(("&", pattern)) => {
                    if !self.channels.iter().any(|known| known == pattern.as_bytes()) {
                        self.channels.push(pattern.into());
                    }
                }
                Some((sign @ ("+" | "-"), what)) => return self.add_command(sign == "+", what, rule),
                _ => return wrong("Syntax error"),
            },
        }
        Ok(())
    }

    fn add_key(&mut self, pattern: &str, read: bool, write: bool) {
        let rule = (pattern.as_bytes().to_vec(), read, write);
        if !self.keys.contains(&rule) {
            self.keys.push(rule);
        }
    }

    fn add_command(&mut self, allowed: bool, what: &str, rule: &str) -> Result<(), String> {
        let what = what.to_ascii_lowercase();
        let which = match (what.strip_prefix('@'), what.split_once('|')) {
            (Some(category), _) => match CATEGORIES.iter().find(|known| **known == category) {
                Some(category) => Which::Category(category),
                None => {
                    return Err(format!(
                        "ERR Error in ACL SETUSER modifier '{rule}': Unknown command or category name in ACL"
                    ));
                }
            },
            (None, Some((name, part))) => Which::Part(name.into(), part.into()),
            (None, None) => Which::Command(what.clone()),
        };
        if let Which::Command(name) | Which::Part(name, _) = &which
            && super::commands::find(name.as_bytes()).is_none()
        {
            return Err(format!("ERR Error in ACL SETUSER modifier '{rule}': Unknown command or category name in ACL"));
        }
        self.commands.retain(|(_, known)| *known != which);
        self.commands.push((allowed, which));
        Ok(())
    }

    /// Its rules about commands.
    pub fn command_rules(&self) -> String {
        let rules = self.commands.iter().map(|(allowed, which)| {
            let sign = if *allowed { '+' } else { '-' };
            match which {
                Which::All => format!("{sign}@all"),
                Which::Category(category) => format!("{sign}@{category}"),
                Which::Command(name) => format!("{sign}{name}"),
                Which::Part(name, part) => format!("{sign}{name}|{part}"),
            }
        });
        rules.collect::<Vec<_>>().join(" ")
    }

    /// Its patterns of keys.
    pub fn key_rules(&self) -> String {
        let rules = self.keys.iter().map(|(pattern, read, write)| {
            let pattern = String::from_utf8_lossy(pattern);
            match (read, write) {
                (true, true) => format!("~{pattern}"),
                (true, false) => format!("%R~{pattern}"),
                _ => format!("%W~{pattern}"),
            }
        });
        rules.collect::<Vec<_>>().join(" ")
    }

    /// Its patterns of channels.
    pub fn channel_rules(&self) -> String {
        let rules = self.channels.iter().map(|pattern| format!("&{}", String::from_utf8_lossy(pattern)));
        rules.collect::<Vec<_>>().join(" ")
    }

    /// Its flags.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        if self.no_password {
            flags.push("nopass");
        }
        flags.push("sanitize-payload");
        flags
    }

    /// The digests of its passwords.
    pub fn password_digests(&self) -> Vec<String> {
        self.passwords.iter().map(|digest| hex(digest)).collect()
    }

    /// Its line of `ACL LIST`.
    pub fn line(&self) -> String {
        let mut words = vec![format!("user {} {}", self.name, self.flags().join(" "))];
        words.extend(self.password_digests().into_iter().map(|digest| format!("#{digest}")));
        let channels = self.channel_rules();
        words.extend([self.key_rules(), if channels.is_empty() { "resetchannels".into() } else { channels }]);
        words.push(self.command_rules());
        words.retain(|word| !word.is_empty());
        words.join(" ")
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let lower = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    if text.len() != 64 || !text.as_bytes().iter().all(lower) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).ok()?;
    }
    Some(digest)
}

/// All users.
#[derive(Debug)]
pub struct Users {
    all: Mutex<BTreeMap<String, Arc<User>>>,
}

impl Users {
    /// The default one alone, with a password if there is one.
    pub fn new(password: Option<&str>) -> Users {
        let users = Users { all: Mutex::new([(DEFAULT.to_owned(), Arc::new(User::first()))].into()) };
        if let Some(password) = password {
            users.require(password);
        }
        users
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<User>>) -> R) -> R {
        change(&mut self.all.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sets the default user's password; without one any will do.
    pub fn require(&self, password: &str) {
        let rules = match password {
            "" => vec!["nopass".to_owned()],
            _ => vec!["resetpass".to_owned(), format!(">{password}")],
        };
        let rules: Vec<&[u8]> = rules.iter().map(String::as_bytes).collect();
        self.set(DEFAULT, &rules).expect("the rules are right");
    }

    /// The one of that name.
    pub fn get(&self, name: &str) -> Option<Arc<User>> {
        self.change(|all| all.get(name).cloned())
    }

    /// The default one, if it needs no password.
    pub fn anybody(&self) -> Option<Arc<User>> {
        self.get(DEFAULT).filter(|user| user.enabled && user.no_password)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<User>> {
        self.change(|all| all.values().cloned().collect())
    }

    /// Changes one, or makes it; all rules or none.
    pub fn set(&self, name: &str, rules: &[&[u8]]) -> Result<(), String> {
        self.change(|all| {
            if !all.contains_key(name) && all.len() >= USERS_MAX {
                return Err("ERR too many users".into());
            }
            let mut user = all.get(name).map_or_else(|| User::new(name), |user| User::clone(user));
            for rule in rules {
                let rule = std::str::from_utf8(rule).map_err(|_| "ERR a rule is UTF-8")?;
                user.apply(rule)?;
            }
            all.insert(name.to_owned(), Arc::new(user));
            Ok(())
        })
    }

    /// Removes one; whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        self.change(|all| all.remove(name).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(rules: &str) -> Arc<User> {
        let users = Users::new(None);
        let rules: Vec<&[u8]> = rules.split(' ').map(str::as_bytes).collect();
        users.set("u", &rules).unwrap();
        users.get("u").unwrap()
    }

    fn spec(name: &str) -> &'static Spec {
        super::super::commands::find(name.as_bytes()).unwrap().spec
    }

    #[test]
    fn the_last_rule_about_a_command_decides() {
        for (rules, name, may) in [
            ("on", "get", false),
            ("+@all", "get", true),
            ("+@all -@write", "set", false),
            ("+@all -@write", "get", true),
            ("+@read +set", "set", true),
            ("+@read +set", "append", false),
            ("+@all -get +@read", "get", true),
        ] {
            assert_eq!(user(rules).may_call(spec(name), None), may, "{rules}: {name}");
        }
        let user = user("+client|id");
        assert!(user.may_call(spec("client"), Some(b"ID")));
        assert!(!user.may_call(spec("client"), Some(b"kill")));
    }

    #[test]
    fn keys_channels_and_passwords_are_checked() {
        let user = user("on >pass ~a:* %R~b:* &c");
        assert!(user.accepts(b"pass") && !user.accepts(b"other"));
        assert!(user.may_use(b"a:1", true) && user.may_use(b"b:1", false));
        assert!(!user.may_use(b"b:1", true) && !user.may_use(b"c:1", false));
        assert!(user.may_hear(b"c", false) && !user.may_hear(b"d", false));
        assert_eq!(user.password_digests().len(), 1);
        let line = user.line();
        assert!(
            line.starts_with("user u on sanitize-payload #d74ff0ee") && line.ends_with("~a:* %R~b:* &c -@all"),
            "{line}"
        );
    }

    #[test]
    fn wrong_rules_change_nothing() {
        let users = Users::new(Some("secret"));
        assert!(users.anybody().is_none());
        assert!(users.set("u", &[b"on", b"+nonsense"]).is_err());
        assert!(users.get("u").is_none());
        assert!(users.get(DEFAULT).unwrap().accepts(b"secret"));
        assert!(users.get(DEFAULT).unwrap().is_free());
    }
}
