//! Commands by name: those of the table, and those of the door itself.
//!
//! ```text
//!   name --find--> Command { spec, way }    way: read the table, write to the log, wait for it, or do it here
//! ```

use std::sync::LazyLock;

use loci_index::table::commands::{
    ADMIN, BLOCKING, FAST, Keys, NOAUTH, NOSCRIPT, PUBSUB, READONLY, Run, Spec, WRITE, all, is,
};

use super::facts::{self, Part};

/// How a command is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the newest view.
    Read,
    /// All keys, part by part.
    Keys,
    /// Through the log.
    Write,
    /// Through the log, to all members' subscribers.
    Publish,
    /// As it can be, and again until it could.
    Wait,
    /// Within a database through the log; from one to another here.
    Copy,
    /// Here.
    Door(Do),
}

/// What the door does itself: each is the command of its name, or several that are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Do {
    Acl,
    Asking,
    Auth,
    Client,
    Cluster,
    Command,
    Config,
    Debug,
    Discard,
    Echo,
    Exec,
    FlushAll,
    Hello,
    Info,
    LastSave,
    Latency,
    Lolwut,
    Memory,
    Module,
    Monitor,
    Move,
    Multi,
    Ping,
    PSubscribe,
    PubSub,
    PUnsubscribe,
    Quit,
    ReadOnly,
    ReadWrite,
    Refused,
    Reset,
    Role,
    Save,
    Select,
    SlowLog,
    SSubscribe,
    Subscribe,
    SUnsubscribe,
    SwapDb,
    Time,
    Unsubscribe,
    Unwatch,
    Wait,
    WaitAof,
    Watch,
}

/// A command.
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// What is known of it.
    pub spec: &'static Spec,
    /// How it is carried out.
    pub way: Way,
    /// Which one of all it is, for what is counted.
    pub number: u16,
    /// Whether its calls may go to the log together with those of other clients.
    pub light: bool,
    /// Its parts, each with arguments of its own.
    pub parts: &'static [Part],
}

/// Whether it writes about as much as it brings along, and answers little: then it may go to the log together with what other
/// clients call (unless it is SET with GET), because several of them never reach what bounds a command of the log: 64 MiB of
/// replies, and of growth beside what was brought along.
fn is_light(spec: &Spec) -> bool {
    matches!(
        spec.name,
        "set"
            | "setnx"
            | "setex"
            | "psetex"
            | "mset"
            | "msetnx"
            | "incr"
            | "incrby"
            | "incrbyfloat"
            | "decr"
            | "decrby"
            | "del"
            | "unlink"
            | "expire"
            | "pexpire"
            | "expireat"
            | "pexpireat"
            | "persist"
            | "hset"
            | "hsetnx"
            | "hmset"
            | "hdel"
            | "hincrby"
            | "hincrbyfloat"
            | "hexpire"
            | "hpexpire"
            | "lpush"
            | "rpush"
            | "lpushx"
            | "rpushx"
            | "lrem"
            | "ltrim"
            | "lset"
            | "sadd"
            | "srem"
            | "smove"
            | "zadd"
            | "zincrby"
            | "zrem"
            | "xadd"
            | "xack"
            | "xdel"
            | "pfadd"
            | "publish"
            | "spublish"
    )
}

const fn door(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec { name, arity, flags, keys, run: Run::Door }
}

const fn plain(name: &'static str, arity: i32, flags: u32) -> Spec {
    door(name, arity, flags, Keys::None)
}

static DOOR: &[(Spec, Do)] = &[
    (plain("acl", -2, ADMIN | NOSCRIPT), Do::Acl),
    (plain("asking", 1, FAST), Do::Asking),
    (plain("auth", -2, FAST | NOAUTH | NOSCRIPT), Do::Auth),
    (plain("bgrewriteaof", 1, ADMIN | NOSCRIPT), Do::Save),
    (plain("bgsave", -1, ADMIN | NOSCRIPT), Do::Save),
    (plain("client", -2, NOSCRIPT), Do::Client),
    (plain("cluster", -2, 0), Do::Cluster),
    (plain("command", -1, 0), Do::Command),
    (plain("config", -2, ADMIN | NOSCRIPT), Do::Config),
    (plain("debug", -2, ADMIN | NOSCRIPT), Do::Debug),
    (plain("discard", 1, FAST | NOSCRIPT), Do::Discard),
    (plain("echo", 2, FAST), Do::Echo),
    (plain("exec", 1, NOSCRIPT), Do::Exec),
    (plain("failover", -1, ADMIN | NOSCRIPT), Do::Refused),
    (plain("flushall", -1, WRITE), Do::FlushAll),
    (plain("hello", -1, FAST | NOAUTH | NOSCRIPT), Do::Hello),
    (plain("info", -1, 0), Do::Info),
    (plain("lastsave", 1, FAST), Do::LastSave),
    (plain("latency", -2, ADMIN | NOSCRIPT), Do::Latency),
    (plain("lolwut", -1, READONLY | FAST), Do::Lolwut),
    (plain("memory", -2, READONLY), Do::Memory),
    (plain("module", -2, ADMIN | NOSCRIPT), Do::Module),
    (plain("monitor", 1, ADMIN | NOSCRIPT), Do::Monitor),
    (door("move", 3, WRITE | FAST, Keys::Range(1, 1, 1)), Do::Move),
    (plain("multi", 1, FAST | NOSCRIPT), Do::Multi),
    (plain("ping", -1, FAST), Do::Ping),
    (plain("psubscribe", -2, PUBSUB | NOSCRIPT), Do::PSubscribe),
    (plain("pubsub", -2, PUBSUB), Do::PubSub),
    (plain("punsubscribe", -1, PUBSUB | NOSCRIPT), Do::PUnsubscribe),
    (plain("quit", -1, FAST | NOAUTH | NOSCRIPT), Do::Quit),
    (plain("readonly", 1, FAST), Do::ReadOnly),
    (plain("readwrite", 1, FAST), Do::ReadWrite),
    (plain("replicaof", 3, ADMIN | NOSCRIPT), Do::Refused),
    (plain("reset", 1, FAST | NOAUTH | NOSCRIPT), Do::Reset),
    (plain("role", 1, FAST), Do::Role),
    (plain("save", 1, ADMIN | NOSCRIPT), Do::Save),
    (plain("select", 2, FAST), Do::Select),
    (plain("shutdown", -1, ADMIN | NOSCRIPT), Do::Refused),
    (plain("slaveof", 3, ADMIN | NOSCRIPT), Do::Refused),
    (plain("slowlog", -2, ADMIN), Do::SlowLog),
    (plain("ssubscribe", -2, PUBSUB | NOSCRIPT), Do::SSubscribe),
    (plain("subscribe", -2, PUBSUB | NOSCRIPT), Do::Subscribe),
    (plain("sunsubscribe", -1, PUBSUB | NOSCRIPT), Do::SUnsubscribe),
    (plain("swapdb", 3, WRITE | FAST), Do::SwapDb),
    (plain("time", 1, FAST), Do::Time),
    (plain("unsubscribe", -1, PUBSUB | NOSCRIPT), Do::Unsubscribe),
    (plain("unwatch", 1, FAST | NOSCRIPT), Do::Unwatch),
    (plain("wait", 3, BLOCKING), Do::Wait),
    (plain("waitaof", 4, BLOCKING), Do::WaitAof),
    (door("watch", -2, FAST | NOSCRIPT, Keys::Range(1, -1, 1)), Do::Watch),
];

/// The longest name of a command.
const NAME_MAX: usize = 32;
/// Places of the table of names; many more than there are commands, so that most are found at once.
const PLACES: usize = 4096;

struct Names {
    places: Vec<Option<Command>>,
    count: u16,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let mut names = Names { places: vec![None; PLACES], count: 0 };
    for (spec, what) in DOOR {
        names.add(spec, Way::Door(*what));
    }
    for spec in all() {
        let way = match spec.run {
            // Of the door, and not known here.
            Run::Door | Run::Swap => continue,
            _ if spec.is(BLOCKING) => Way::Wait,
            _ if matches!(spec.name, "publish" | "spublish") => Way::Publish,
            _ if spec.name == "copy" => Way::Copy,
            _ if spec.name == "keys" => Way::Keys,
            Run::Read(_) => Way::Read,
            // A script reads and writes in the agreed order, also one that says it only reads.
            Run::Write(_) | Run::Script => Way::Write,
        };
        names.add(spec, way);
    }
    names
});

/// FNV-1a.
fn hash(name: &[u8]) -> usize {
    name.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
        as usize
}

impl Command {
    /// What is wrong with a call: a part that is not there, or that takes other arguments.
    pub fn wrong_part(&self, args: &[&[u8]]) -> Option<String> {
        let given = args.get(1).filter(|_| !self.parts.is_empty())?;
        let name = self.spec.name;
        match self.parts.iter().find(|part| is(given, part.name)) {
            Some(part) if part.takes(args.len()) => None,
            Some(part) => Some(format!("ERR wrong number of arguments for '{name}|{}' command", part.name)),
            None => {
                let given = String::from_utf8_lossy(&given[..given.len().min(128)]).into_owned();
                let upper = name.to_ascii_uppercase();
                Some(format!("ERR unknown subcommand '{}'. Try {upper} HELP.", given.replace(['\r', '\n'], " ")))
            }
        }
    }
}

impl Names {
    fn add(&mut self, spec: &'static Spec, way: Way) {
        let mut place = hash(spec.name.as_bytes()) % PLACES;
        while let Some(there) = &self.places[place] {
            if there.spec.name == spec.name {
                return;
            }
            place = (place + 1) % PLACES;
        }
        self.places[place] =
            Some(Command { spec, way, number: self.count, light: is_light(spec), parts: facts::parts(spec.name) });
        self.count += 1;
    }

    fn find(&self, name: &[u8]) -> Option<&Command> {
        let mut place = hash(name) % PLACES;
        while let Some(there) = &self.places[place] {
            if there.spec.name.as_bytes() == name {
                return Some(there);
            }
            place = (place + 1) % PLACES;
        }
        None
    }
}

/// The command of that name, in whatever case.
pub fn find(name: &[u8]) -> Option<Command> {
    let mut lower = [0; NAME_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    NAMES.find(lower).copied()
}

/// How many there are.
pub fn count() -> usize {
    NAMES.count.into()
}

/// All commands, in the order of their names.
pub fn every() -> Vec<Command> {
    let mut every: Vec<Command> = NAMES.places.iter().flatten().copied().collect();
    every.sort_by_key(|command| command.spec.name);
    every
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        let every = every();
        assert!(every.len() > DOOR.len() + 40);
        for command in every {
            let upper = command.spec.name.to_ascii_uppercase();
            assert!(std::ptr::eq(find(upper.as_bytes()).unwrap().spec, command.spec));
        }
        assert!(find(b"nonsense").is_none());
        assert!(find(&[b'x'; 1000]).is_none());
        assert!(find(b"").is_none());
    }

    /// The names in backticks of a row's cell.
    fn names(cell: &str) -> impl Iterator<Item = String> + '_ {
        cell.split('`').skip(1).step_by(2).map(str::to_ascii_lowercase)
    }

    #[test]
    fn the_page_says_of_every_command_whether_it_is_here() {
        let page = include_str!("../../../../docs/redis.md");
        let from = page.find("## Every command").expect("the page has the table");
        let rows = page[from..].lines().skip(1).take_while(|line| !line.starts_with("Errors that"));
        let cells = rows.filter(|row| row.starts_with('|')).map(|row| row.split('|').skip(1).collect::<Vec<_>>());
        let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
        for cells in cells {
            match cells.len() {
                4 => here.extend(names(cells[1]).chain(names(cells[2]))),
                _ => elsewhere.extend(names(cells[0])),
            }
        }
        here.sort_unstable();
        let every: Vec<_> = every().into_iter().map(|command| command.spec.name.to_owned()).collect();
        assert_eq!(here, every, "what docs/redis.md says and what there is");
        assert!(elsewhere.len() > 10);
        for name in elsewhere {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn parts_are_known_with_their_arguments() {
        for (line, wrong) in [
            ("config get x", None),
            ("CONFIG GET", Some("ERR wrong number of arguments for 'config|get' command")),
            ("config nope", Some("ERR unknown subcommand 'nope'. Try CONFIG HELP.")),
            ("xgroup create x g", Some("ERR wrong number of arguments for 'xgroup|create' command")),
            ("command", None),
            ("get k", None),
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert_eq!(find(args[0]).unwrap().wrong_part(&args).as_deref(), wrong, "{line}");
        }
    }

    #[test]
    fn scripts_know_what_only_doors_do() {
        use loci_index::table::commands::{OF_DOORS, find};
        let only_here = DOOR.iter().map(|(spec, _)| spec.name).filter(|name| find(name.as_bytes()).is_none());
        assert_eq!(only_here.collect::<Vec<_>>(), OF_DOORS);
    }

    #[test]
    fn what_the_door_does_is_in_order() {
        assert!(DOOR.is_sorted_by_key(|(spec, _)| spec.name));
    }
}
