//! Scripts and functions, as far as they are commands, and `SWAPDB`: what reaches further than one keyspace.
//! [`scripting`](super::super::scripting) and the store carry them out.

use super::{DENYOOM, FAST, Keys, NOSCRIPT, READONLY, Run, Spec, WRITE, is};

/// What is said where code of clients does not run.
pub const SCRIPTS_OFF: &str = "ERR scripts and functions are turned off on this node (loci serve --no-scripts)";

/// Whether a call runs code of a client, or takes it in. What is left of `SCRIPT` and `FUNCTION` looks at what is kept, or removes it.
pub fn brings_code(spec: &Spec, args: &[&[u8]]) -> bool {
    let others: &[&str] = match spec.name {
        "script" => &["exists", "flush", "help", "kill"],
        "function" => &["delete", "dump", "flush", "help", "kill", "list", "stats"],
        _ => &[],
    };
    matches!(spec.run, Run::Script) && !args.get(1).is_some_and(|what| others.iter().any(|other| is(what, other)))
}

/// Commands about a connection or the server, which doors carry out themselves: no script reaches a door.
pub const OF_DOORS: &[&str] = &[
    "acl",
    "asking",
    "auth",
    "bgrewriteaof",
    "bgsave",
    "client",
    "cluster",
    "command",
    "config",
    "debug",
    "discard",
    "echo",
    "exec",
    "failover",
    "flushall",
    "hello",
    "info",
    "lastsave",
    "latency",
    "lolwut",
    "memory",
    "module",
    "monitor",
    "move",
    "multi",
    "ping",
    "psubscribe",
    "pubsub",
    "punsubscribe",
    "quit",
    "readonly",
    "readwrite",
    "replicaof",
    "reset",
    "role",
    "save",
    "select",
    "shutdown",
    "slaveof",
    "slowlog",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "time",
    "unsubscribe",
    "unwatch",
    "wait",
    "waitaof",
    "watch",
];

/// Those of them that scripts may call all the same: they say nothing of a connection.
pub const OF_SCRIPTS: &[&str] = &["echo", "ping", "time"];

/// Whether a command is one of these, in whatever case.
pub fn is_of_scripts(name: &[u8]) -> bool {
    OF_SCRIPTS.iter().any(|known| is(name, known))
}

/// Whether a command is one of those, in whatever case.
pub fn is_of_doors(name: &[u8]) -> bool {
    OF_DOORS.iter().any(|known| is(name, known))
}

const fn eval(name: &'static str, flags: u32) -> Spec {
    Spec { name, arity: -3, flags: NOSCRIPT | flags, keys: Keys::Counted(2, None), run: Run::Script }
}

pub(super) const SPECS: &[Spec] = &[
    eval("eval", WRITE | DENYOOM),
    eval("evalsha", WRITE | DENYOOM),
    eval("eval_ro", READONLY),
    eval("evalsha_ro", READONLY),
    eval("fcall", WRITE | DENYOOM),
    eval("fcall_ro", READONLY),
    Spec { name: "function", arity: -2, flags: NOSCRIPT, keys: Keys::None, run: Run::Script },
    // Of the places that the databases have among those of the command.
    Spec { name: "swapdb", arity: 3, flags: WRITE | FAST, keys: Keys::None, run: Run::Swap },
    Spec { name: "script", arity: -2, flags: NOSCRIPT, keys: Keys::None, run: Run::Script },
];
