//! Who may do what: one password for all, or users with rules as `ACL SETUSER` gives them.
//!
//! ```text
//!   AUTH name password --> User { commands, keys, channels, selectors } --> asked before each call
//! ```
//!
//! A session looks again who it is once any user has changed, so that new rules hold for connections that are open.
//!
//! Users are this node's, and end with it, but for the default one's password, which is an option of the node. Passwords are
//! kept as their digests and compared in constant time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use loci_index::table::commands::{
    self as table_commands, ADMIN, BLOCKING, FAST, Keys, NOSCRIPT, PUBSUB, READONLY, Run, Spec, WRITE,
};
use loci_index::table::glob;
use loci_index::table::permits::others_sorted_by;

use super::describe::needs;
use super::facts::{self, Part};
use super::sha256::{digest, hex};

/// The user of those who gave no name.
pub const DEFAULT: &str = "default";
/// The most users.
const USERS_MAX: usize = 10_000;
/// The most selectors of a user.
const SELECTORS_MAX: usize = 64;

/// One rule about commands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    All,
    Category(&'static str),
    Command(String),
    /// Of a command that has others inside.
    Part(String, String),
}

/// What is allowed: by a user's own rules, or by one of its selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// The last that says something of a command decides.
    commands: Vec<(bool, Which)>,
    /// Patterns, with what may be done: read, write.
    keys: Vec<(Vec<u8>, bool, bool)>,
    channels: Vec<Vec<u8>>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// How it is called.
    pub name: String,
    /// Whether it may come in.
    pub enabled: bool,
    /// Whether any password will do.
    pub no_password: bool,
    passwords: Vec<[u8; 32]>,
    rules: Rules,
    /// What is refused by the rules may be allowed by one of these.
    selectors: Vec<Rules>,
}

/// What a call would do.
pub struct Wanted<'c> {
    /// The command.
    pub spec: &'static Spec,
    /// With its arguments.
    pub args: &'c [&'c [u8]],
    /// Channels that it names, and whether they are patterns.
    pub channels: (&'c [&'c [u8]], bool),
}

/// Why a call is refused; what came nearest to being allowed is the greatest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// For the command.
    Command,
    /// For this key.
    Key(Vec<u8>),
    /// For this channel.
    Channel(Vec<u8>),
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

/// Whether a command is in a category. Of one that has parts, each is in categories of its own.
pub fn is_in(spec: &Spec, part: Option<&Part>, category: &str) -> bool {
    let name = spec.name;
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    // Scripts read and write what they are allowed to, call by call.
    let runs = matches!((spec.run, spec.keys), (Run::Script, Keys::Counted(..)));
    let has = |flag: u32| match part {
        Some(part) => part.flags & flag != 0,
        None => spec.is(flag) && !runs && facts::parts(name).is_empty(),
    };
    let sorts = matches!(name, "sort" | "sort_ro");
    let is_admin = || has(ADMIN) || matches!(name, "role" | "lastsave");
    if part.is_none() && !facts::parts(name).is_empty() && name != "command" {
        return category == "slow";
    }
    match category {
        "read" => has(READONLY),
        "write" => has(WRITE),
        "fast" => spec.is(FAST),
        "slow" => !spec.is(FAST),
        "blocking" => spec.is(BLOCKING) && !matches!(name, "wait" | "waitaof"),
        "pubsub" => has(PUBSUB),
        "admin" => is_admin(),
        "dangerous" => {
            is_admin()
                || matches!(
                    name,
                    "flushall" | "flushdb" | "tag.drop" | "keys" | "info" | "swapdb" | "migrate" | "restore"
                )
                || sorts
        }
        "connection" => {
            matches!(
                name,
                "asking"
                    | "auth"
                    | "client"
                    | "command"
                    | "echo"
                    | "hello"
                    | "ping"
                    | "quit"
                    | "readonly"
                    | "readwrite"
                    | "reset"
                    | "select"
                    | "wait"
                    | "waitaof"
            )
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
            let prefixes = [
                "append", "decr", "delex", "digest", "get", "incr", "lcs", "mget", "mset", "psetex", "set", "strlen",
                "substr",
            ];
            begins(&prefixes) && !begins(&["getbit", "setbit"])
        }
        "bitmap" => begins(&["bit", "getbit", "setbit"]),
        "hash" => begins(&["h"]) && name != "hello",
        "list" => {
            sorts || begins(&["l", "rp", "bl", "br"]) && !begins(&["lcs", "lastsave", "latency", "lease.", "lolwut"])
        }
        "set" => {
            let prefixes = [
                "sadd", "scard", "sdiff", "sinter", "sis", "smem", "smis", "smove", "spop", "srand", "srem", "sscan",
                "sunion",
            ];
            sorts || begins(&prefixes)
        }
        "sortedset" => sorts || begins(&["z", "bz"]),
        "hyperloglog" => begins(&["pf"]),
        "geo" => begins(&["geo"]),
        "stream" => begins(&["x"]),
        _ => false,
    }
}

/// What stands before a pattern of keys.
fn permission(read: bool, write: bool) -> &'static [u8] {
    match (read, write) {
        (true, true) => b"~",
        (true, false) => b"%R~",
        _ => b"%W~",
    }
}

impl Rules {
    fn none() -> Rules {
        Rules { commands: vec![(false, Which::All)], keys: Vec::new(), channels: Vec::new() }
    }

    fn is_free(&self) -> bool {
        self.commands == [(true, Which::All)]
            && self.keys.iter().any(|(pattern, read, write)| pattern == b"*" && *read && *write)
            && self.channels.iter().any(|pattern| pattern == b"*")
    }

    /// Whether a command may be called, with this first argument.
    fn may_call(&self, spec: &Spec, first: Option<&[u8]>) -> bool {
        let part = first.and_then(|first| facts::part_of(spec.name, first));
        let last = self.commands.iter().rev().find(|(_, which)| match which {
            Which::All => true,
            Which::Category(category) => is_in(spec, part, category),
            Which::Command(name) => name == spec.name,
            Which::Part(name, wanted) => {
                name == spec.name && first.is_some_and(|first| first.eq_ignore_ascii_case(wanted.as_bytes()))
            }
        });
        last.is_some_and(|(allowed, _)| *allowed)
    }

    /// Whether a command may be called, whatever it is to do.
    fn may_call_all(&self, spec: &Spec) -> bool {
        let mut parts = facts::parts(spec.name).iter().filter(|part| part.name != "help").peekable();
        match parts.peek() {
            None => self.may_call(spec, None),
            Some(_) => parts.all(|part| self.may_call(spec, Some(part.name.as_bytes()))),
        }
    }

    fn may_use(&self, key: &[u8], (reads, writes): (bool, bool)) -> bool {
        let fits = |(pattern, read, write): &(Vec<u8>, bool, bool)| {
            (*read || !reads) && (*write || !writes) && glob::matches(pattern, key)
        };
        self.keys.iter().any(fits)
    }

    fn may_read_all(&self) -> bool {
        self.keys.iter().any(|(pattern, reads, _)| *reads && pattern == b"*")
    }

    fn may_hear(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.channels
            .iter()
            .any(|known| known == b"*" || if is_pattern { known == channel } else { glob::matches(known, channel) })
    }

    fn check(&self, wanted: &Wanted<'_>) -> Result<(), Denied> {
        let Wanted { spec, args, channels: (channels, is_pattern) } = wanted;
        if !self.may_call(spec, args.get(1).copied()) {
            return Err(Denied::Command);
        }
        // A part of a command, which has no keys of its own.
        let measured = spec.name == "memory" && args.get(1).is_some_and(|part| part.eq_ignore_ascii_case(b"usage"));
        for place in spec.key_places(args).into_iter().chain(measured.then_some(2)) {
            let Some(key) = args.get(place) else { continue };
            if !self.may_use(key, needs(spec, args, place)) {
                return Err(Denied::Key(key.to_vec()));
            }
        }
        if let Some(pattern) = others_sorted_by(spec, args).find(|_| !self.may_read_all()) {
            return Err(Denied::Key(pattern.to_vec()));
        }
        match channels.iter().find(|channel| !self.may_hear(channel, *is_pattern)) {
            Some(channel) => Err(Denied::Channel(channel.to_vec())),
            None => Ok(()),
        }
    }

    /// The same for the calls of a script, as the log has it: see [`loci_index::table::permits`].
    fn permits(&self) -> Vec<Vec<u8>> {
        let callable = |spec: &&Spec| matches!(spec.run, Run::Read(_) | Run::Write(_)) && !spec.is(NOSCRIPT);
        // What is said of a part, or of a first argument, or of channels, is not told apart there.
        let in_part = |spec: &&Spec| {
            let of_it = |which: &Which| matches!(which, Which::Part(name, _) if name == spec.name);
            self.commands.iter().any(|(allowed, which)| !allowed && of_it(which))
        };
        let hears_all = self.channels.iter().any(|pattern| pattern == b"*");
        let unheard = |spec: &&Spec| !hears_all && matches!(spec.name, "publish" | "spublish");
        let denied = table_commands::all()
            .filter(callable)
            .filter(|spec| !self.may_call_all(spec) || in_part(spec) || unheard(spec));
        // What scripts may call besides is known to the door.
        let besides = table_commands::OF_SCRIPTS.iter().filter_map(|name| super::commands::find(name.as_bytes()));
        let besides = besides.map(|command| command.spec).filter(|spec| !self.may_call_all(spec) || in_part(spec));
        let mut rules: Vec<Vec<u8>> =
            denied.chain(besides).map(|spec| format!("-{}", spec.name).into_bytes()).collect();
        let all_keys = |(pattern, read, write): &(Vec<u8>, bool, bool)| pattern == b"*" && *read && *write;
        if !rules.is_empty() || !self.keys.iter().any(all_keys) {
            rules.extend(self.keys.iter().map(|(pattern, read, write)| [permission(*read, *write), pattern].concat()));
        }
        if rules.is_empty() && !self.keys.iter().any(all_keys) {
            // Without rules everything would be allowed.
            rules.push(b"-".to_vec());
        }
        rules
    }

    /// Applies one rule. None: it is none about commands, keys or channels.
    fn apply(&mut self, rule: &str) -> Option<Result<(), String>> {
        let wrong = |reason: &str| Some(Err(format!("ERR Error in ACL SETUSER modifier '{rule}': {reason}")));
        match rule.to_ascii_lowercase().as_str() {
            "allkeys" | "~*" => self.keys = vec![(b"*".to_vec(), true, true)],
            "resetkeys" => self.keys.clear(),
            "allchannels" | "&*" => self.channels = vec![b"*".to_vec()],
            "resetchannels" => self.channels.clear(),
            "allcommands" | "+@all" => self.commands = vec![(true, Which::All)],
            "nocommands" | "-@all" => self.commands = vec![(false, Which::All)],
            _ => match rule.split_at_checked(1)? {
                ("~" | "%", _) if self.keys == [(b"*".to_vec(), true, true)] => {
                    return wrong(
                        "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. \
                         Try 'resetkeys' to start with an empty list of patterns",
                    );
                }
                ("&", _) if self.channels == [b"*"] => {
                    return wrong(
                        "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any \
                         effect. Try 'resetchannels' to start with an empty list of channels",
                    );
                }
                ("~", pattern) => self.add_key(pattern, true, true),
                ("%", rest) => {
                    let Some((permissions, pattern)) = rest.split_once('~') else { return wrong("Syntax error") };
                    let permissions = permissions.to_ascii_uppercase();
                    if permissions.is_empty() || permissions.contains(|c| c != 'R' && c != 'W') {
                        return wrong("Syntax error");
                    }
                    self.add_key(pattern, permissions.contains('R'), permissions.contains('W'));
                }
                ("&", pattern) => {
                    if !self.channels.iter().any(|known| known == pattern.as_bytes()) {
                        self.channels.push(pattern.into());
                    }
                }
                (sign @ ("+" | "-"), what) => return Some(self.add_command(sign == "+", what, rule)),
                _ => return None,
            },
        }
        Some(Ok(()))
    }

    fn add_key(&mut self, pattern: &str, read: bool, write: bool) {
        let rule = (pattern.as_bytes().to_vec(), read, write);
        if !self.keys.contains(&rule) {
            self.keys.push(rule);
        }
    }

    fn add_command(&mut self, allowed: bool, what: &str, rule: &str) -> Result<(), String> {
        let what = what.to_ascii_lowercase();
        let unknown = || format!("ERR Error in ACL SETUSER modifier '{rule}': Unknown command or category name in ACL");
        let which = match (what.strip_prefix('@'), what.split_once('|')) {
            (Some(category), _) => {
                let known = CATEGORIES.iter().find(|known| **known == category);
                Which::Category(known.ok_or_else(unknown)?)
            }
            (None, Some((name, part))) => Which::Part(name.into(), part.into()),
            (None, None) => Which::Command(what.clone()),
        };
        match &which {
            Which::Command(name) if super::commands::find(name.as_bytes()).is_none() => return Err(unknown()),
            Which::Part(name, part) => {
                let command = super::commands::find(name.as_bytes()).ok_or_else(unknown)?;
                if !command.parts.is_empty() && !command.parts.iter().any(|known| known.name == part) {
                    return Err(unknown());
                }
            }
            _ => {}
        }
        // A rule about a whole command takes the place of those about its parts.
        self.commands.retain(|(_, known)| match (&which, known) {
            (Which::Command(name), Which::Part(of, _)) => name != of,
            _ => *known != which,
        });
        self.commands.push((allowed, which));
        Ok(())
    }

    /// Those about commands.
    pub fn commands(&self) -> String {
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

    /// The patterns of keys.
    pub fn keys(&self) -> String {
        let rules = self.keys.iter().map(|(pattern, read, write)| {
            String::from_utf8_lossy(&[permission(*read, *write), pattern].concat()).into_owned()
        });
        rules.collect::<Vec<_>>().join(" ")
    }

    /// The patterns of channels.
    pub fn channels(&self) -> String {
        let rules = self.channels.iter().map(|pattern| format!("&{}", String::from_utf8_lossy(pattern)));
        rules.collect::<Vec<_>>().join(" ")
    }

    fn line(&self) -> String {
        let channels = self.channels();
        let mut words = vec![self.keys(), if channels.is_empty() { "resetchannels".into() } else { channels }];
        words.push(self.commands());
        words.retain(|word| !word.is_empty());
        words.join(" ")
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
            rules: Rules::none(),
            selectors: Vec::new(),
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
        self.rules.is_free()
    }

    /// Whether a password is its.
    pub fn accepts(&self, password: &[u8]) -> bool {
        let given = digest(password);
        let same = |known: &[u8; 32]| known.iter().zip(given).fold(0, |different, (a, b)| different | (a ^ b)) == 0;
        self.enabled && (self.no_password || self.passwords.iter().fold(false, |found, known| found | same(known)))
    }

    /// Whether it may do that, by its rules or by one of its selectors.
    pub fn check(&self, wanted: &Wanted<'_>) -> Result<(), Denied> {
        let mut denied = match self.rules.check(wanted) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        for selector in &self.selectors {
            match selector.check(wanted) {
                Ok(()) => return Ok(()),
                Err(other) => denied = denied.max(other),
            }
        }
        Err(denied)
    }

    /// What the calls of a script may do that this user runs: by those rules that allow the script. Empty: everything.
    pub fn permits(&self, wanted: &Wanted<'_>) -> Vec<Vec<u8>> {
        let runs = matches!((wanted.spec.run, wanted.spec.keys), (Run::Script, Keys::Counted(..)));
        if !runs || self.is_free() {
            return Vec::new();
        }
        let mut all = [&self.rules].into_iter().chain(&self.selectors);
        all.find(|rules| rules.check(wanted).is_ok()).unwrap_or(&self.rules).permits()
    }

    /// Applies one rule.
    fn apply(&mut self, rule: &str) -> Result<(), String> {
        let wrong = |reason: &str| Err(format!("ERR Error in ACL SETUSER modifier '{rule}': {reason}"));
        match rule.to_ascii_lowercase().as_str() {
            "on" => self.enabled = true,
            "off" => self.enabled = false,
            "nopass" => (self.no_password, self.passwords) = (true, Vec::new()),
            "resetpass" => (self.no_password, self.passwords) = (false, Vec::new()),
            "reset" => *self = User::new(&self.name),
            "clearselectors" => self.selectors.clear(),
            "sanitize-payload" | "skip-sanitize-payload" => {}
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
                Some(("(", rest)) => {
                    let Some(inside) = rest.strip_suffix(')') else { return wrong("Syntax error") };
                    if self.selectors.len() >= SELECTORS_MAX {
                        return wrong("too many selectors");
                    }
                    let mut selector = Rules::none();
                    for rule in inside.split_ascii_whitespace() {
                        match selector.apply(rule) {
                            Some(done) => done?,
                            None => return wrong("Syntax error"),
                        }
                    }
                    self.selectors.push(selector);
                }
                _ => return self.rules.apply(rule).unwrap_or_else(|| wrong("Syntax error")),
            },
        }
        Ok(())
    }

    /// Its own rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Its selectors.
    pub fn selectors(&self) -> &[Rules] {
        &self.selectors
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
        words.push(self.rules.line());
        words.extend(self.selectors.iter().map(|selector| format!("({})", selector.line())));
        words.join(" ")
    }
}

/// Rules with the parts of each selector put together, which may be given as several.
fn whole_rules(rules: &[&[u8]]) -> Result<Vec<String>, String> {
    let mut whole: Vec<String> = Vec::with_capacity(rules.len());
    let mut open = false;
    for rule in rules {
        let rule = std::str::from_utf8(rule).map_err(|_| "ERR a rule is UTF-8")?;
        match whole.last_mut() {
            Some(last) if open => {
                last.push(' ');
                last.push_str(rule);
                open = !rule.ends_with(')');
            }
            _ => {
                open = rule.starts_with('(') && !rule.ends_with(')');
                whole.push(rule.to_owned());
            }
        }
    }
    match whole.pop() {
        Some(last) if open => {
            let first = last.split(' ').next().unwrap_or_default();
            Err(format!("ERR Unmatched parenthesis in acl selector starting at '{first}'."))
        }
        last => {
            whole.extend(last);
            Ok(whole)
        }
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
    /// Grows whenever one changes, so that sessions look again who they are.
    changes: AtomicU64,
}

impl Users {
    /// The default one alone, with a password if there is one.
    pub fn new(password: Option<&str>) -> Users {
        let all = Mutex::new([(DEFAULT.to_owned(), Arc::new(User::first()))].into());
        let users = Users { all, changes: AtomicU64::new(0) };
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

    /// Grows whenever a user changes.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
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
        let rules = whole_rules(rules)?;
        let done = self.change(|all| {
            if !all.contains_key(name) && all.len() >= USERS_MAX {
                return Err("ERR too many users".into());
            }
            let mut user = all.get(name).map_or_else(|| User::new(name), |user| User::clone(user));
            for rule in &rules {
                user.apply(rule)?;
            }
            all.insert(name.to_owned(), Arc::new(user));
            Ok(())
        });
        self.changes.fetch_add(1, Ordering::Release);
        done
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

    fn check(user: &User, line: &str) -> Result<(), Denied> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let channels = if args[0] == b"publish" { &args[1..2] } else { &args[..0] };
        user.check(&Wanted { spec: spec(line.split(' ').next().unwrap()), args: &args, channels: (channels, false) })
    }

    #[test]
    fn scripts_may_do_what_their_caller_may() {
        let permits = |rules: &str| {
            let args: [&[u8]; 3] = [b"eval", b"return 0", b"0"];
            let rules = user(rules).permits(&Wanted { spec: spec("eval"), args: &args, channels: (&[], false) });
            rules.into_iter().map(|rule| String::from_utf8(rule).unwrap()).collect::<Vec<_>>().join(" ")
        };
        for (rules, expected) in [
            ("on +@all ~* &*", ""),
            ("on +@all ~*", "-publish -spublish ~*"),
            ("on +@all ~* &* -xgroup|destroy", "-xgroup ~*"),
            ("on +@all ~a* %R~b* &*", "~a* %R~b*"),
            ("on +@all ~* &* -flushall", ""),
            ("on +@all ~* &* -flushdb -keys", "-flushdb -keys ~*"),
            ("on +@all ~* &* -ping -echo", "-echo -ping ~*"),
            ("on +@all ~* &* -time", "-time ~*"),
            ("on -@all (+@all ~c* &*)", "~c*"),
            ("on +@all &*", "-"),
        ] {
            let mut told: Vec<String> = permits(rules).split(' ').map(str::to_owned).collect();
            let mut expected: Vec<&str> = expected.split(' ').collect();
            told.sort();
            expected.sort();
            assert_eq!(told, expected, "{rules}");
        }
        assert!(permits("on +eval +get ~*").contains("-set ") && !permits("on +eval +get ~*").contains("-get "));
        assert_eq!(check(&user("on +get ~* &*"), "eval return 0"), Err(Denied::Command));
    }

    #[test]
    fn the_last_rule_about_a_command_decides() {
        for (rules, line, may) in [
            ("on ~*", "get k", false),
            ("+@all ~*", "get k", true),
            ("+@all -@write ~*", "set k v", false),
            ("+@all -@write ~*", "get k", true),
            ("+@read +set ~*", "set k v", true),
            ("+@read +set ~*", "append k v", false),
            ("+@all -get +@read ~*", "get k", true),
            ("+client|id", "client ID", true),
            ("+client|id", "client kill", false),
            ("+config|get -config", "config get x", false),
            ("+@all -@dangerous", "client kill", false),
            ("+@all -@admin", "client pause 1", false),
            ("+@all -@dangerous", "client id", true),
            ("+@all -@connection", "client id", false),
            ("+@all -@admin", "acl whoami", true),
            ("+@all -@admin", "acl list", false),
            ("+@all -@admin", "config help", true),
            ("+@all -@admin", "role", false),
            ("+@all -@dangerous", "lastsave", false),
            ("+@all -@dangerous", "cluster nodes", true),
            ("+@all -@dangerous", "cluster reset", false),
            ("+@read", "eval_ro return 0", false),
            ("+@read", "memory stats", false),
            ("+@all -@write", "eval return 0", true),
            ("+@all -@write", "fcall f 0", true),
            ("+@all -@write", "xgroup help", true),
            ("+@all -@write ~*", "xgroup destroy x g", false),
            ("+@all -@write", "function flush", false),
            ("+@all -@write", "function list", true),
            ("+@list ~*", "sort k", true),
            ("+@all -@connection", "wait 0 0", false),
        ] {
            assert_eq!(check(&user(rules), line).is_ok(), may, "{rules}: {line}");
        }
    }

    #[test]
    fn keys_channels_and_passwords_are_checked() {
        let user = user("on >pass ~a:* %R~b:* %W~w:* &c +@all");
        assert!(user.accepts(b"pass") && !user.accepts(b"other"));
        let key = |key: &str| Err(Denied::Key(key.into()));
        for (line, expected) in [
            ("set a:1 v", Ok(())),
            ("get b:1", Ok(())),
            ("set b:1 v", key("b:1")),
            ("get c:1", key("c:1")),
            // What a command only writes need not be readable.
            ("set w:1 v", Ok(())),
            ("set w:1 v ex 10 nx", Ok(())),
            ("set w:1 v get", key("w:1")),
            ("bitfield b:1 get u8 0", Ok(())),
            ("bitfield b:1 get u8 0 set u8 0 1", key("b:1")),
            ("xgroup create w:1 g 0", Ok(())),
            ("xgroup create b:1 g 0", key("b:1")),
            ("object encoding w:1", Ok(())),
            ("memory usage w:1", Ok(())),
            ("del w:1", Ok(())),
            ("get w:1", key("w:1")),
            ("lmove b:1 w:1 left left", key("b:1")),
            ("copy b:1 w:1", Ok(())),
            ("sort a:1 by nosort get #", Ok(())),
            ("sort a:1 by w_*", key("w_*")),
            ("sort a:1 limit 0 1 get # get secret:*->f", key("secret:*->f")),
            ("sort_ro a:1 GET secret:*", key("secret:*")),
            ("publish c m", Ok(())),
            ("publish d m", Err(Denied::Channel(b"d".to_vec()))),
        ] {
            assert_eq!(check(&user, line), expected, "{line}");
        }
        assert_eq!(user.password_digests().len(), 1);
        let line = user.line();
        assert!(
            line.starts_with("user u on sanitize-payload #d74ff0ee") && line.ends_with("~a:* %R~b:* %W~w:* &c +@all"),
            "{line}"
        );
    }

    #[test]
    fn selectors_allow_what_the_rules_do_not() {
        let users = Users::new(None);
        let before = users.changes();
        users.set("u", &[b"on", b"nopass", b"+get", b"~a", b"(+set", b"~b)", b"(+@all ~c &x)"]).unwrap();
        assert!(users.changes() > before);
        let user = users.get("u").unwrap();
        for (line, expected) in [
            ("get a", Ok(())),
            ("set a v", Err(Denied::Key(b"a".to_vec()))),
            ("set b v", Ok(())),
            ("get b", Err(Denied::Key(b"b".to_vec()))),
            ("set c v", Ok(())),
        ] {
            assert_eq!(check(&user, line), expected, "{line}");
        }
        assert_eq!(
            user.line(),
            "user u on nopass sanitize-payload ~a resetchannels -@all +get (~b resetchannels -@all +set) (~c &x +@all)"
        );
        for (rules, error) in [
            (&[&b"(+get"[..], b"~a"][..], "ERR Unmatched parenthesis in acl selector starting at '(+get'."),
            (&[b"(on)"], "ERR Error in ACL SETUSER modifier '(on)': Syntax error"),
        ] {
            assert_eq!(users.set("v", rules), Err(error.to_owned()));
        }
        users.set("u", &[b"clearselectors"]).unwrap();
        assert!(users.get("u").unwrap().selectors().is_empty());
    }

    #[test]
    fn wrong_rules_change_nothing() {
        let users = Users::new(Some("secret"));
        assert!(users.anybody().is_none());
        assert!(users.set("u", &[b"on", b"+nonsense"]).is_err());
        assert!(users.set("u", &[b"on", b"+config|nonsense"]).is_err());
        assert!(users.get("u").is_none());
        assert!(users.get(DEFAULT).unwrap().accepts(b"secret"));
        assert!(users.get(DEFAULT).unwrap().is_free());
    }
}
