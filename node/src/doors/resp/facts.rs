//! Facts: what Redis says of its commands and their parts: the group, since when, what is done to which key.
//!
//! Clients ask for them by COMMAND; the groups are those of the metrics, and parts with their arities are checked before a
//! command is carried out or gathered. Where a command has keys of several kinds, each kind begins at a place.

use loci_index::table::commands::{ADMIN, PUBSUB, READONLY, WRITE, is};

/// What is known of a command.
#[derive(Debug, Clone, Copy)]
pub struct Fact {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub group: &'static str,
    /// The version of Redis that had it first.
    pub since: &'static str,
    /// What is done to keys, from a place on.
    pub keys: &'static [(usize, &'static str)],
}

/// What is known of a part of a command.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// How many arguments it takes, the command and itself among them; at least so many if it is negative.
    pub arity: i32,
    /// What it is like, where parts differ: whether it writes, only reads, is about the server, or about subscriptions.
    pub flags: u32,
}

impl Part {
    /// Whether it may have so many arguments.
    pub fn takes(&self, arguments: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { arguments >= wanted } else { arguments == wanted }
    }
}

/// What is known of a command of Redis.
pub fn of(name: &str) -> Option<&'static Fact> {
    FACTS.binary_search_by(|fact| fact.name.cmp(name)).ok().map(|place| &FACTS[place])
}

/// The part of a command of that name, in whatever case.
pub fn part_of(command: &str, part: &[u8]) -> Option<&'static Part> {
    parts(command).iter().find(|known| is(part, known.name))
}

/// What it is about; commands that Redis does not have are about limits.
pub fn group(name: &str) -> &'static str {
    of(name).map_or("limits", |fact| fact.group)
}

/// The parts of a command; none: it has none.
pub fn parts(name: &str) -> &'static [Part] {
    PARTS.iter().find(|(known, _)| *known == name).map_or(&[], |(_, parts)| parts)
}

const fn fact(
    name: &'static str,
    group: &'static str,
    since: &'static str,
    keys: &'static [(usize, &'static str)],
) -> Fact {
    Fact { name, group, since, keys }
}

const fn part(name: &'static str, arity: i32) -> Part {
    Part { name, arity, flags: 0 }
}

const fn admin(name: &'static str, arity: i32) -> Part {
    Part { name, arity, flags: ADMIN }
}

const fn reads(name: &'static str, arity: i32) -> Part {
    Part { name, arity, flags: READONLY }
}

const fn writes(name: &'static str, arity: i32) -> Part {
    Part { name, arity, flags: WRITE }
}

const fn about_messages(name: &'static str, arity: i32) -> Part {
    Part { name, arity, flags: PUBSUB }
}

#[rustfmt::skip]
static FACTS: &[Fact] = &[
    fact("acl", "server", "6.0.0", &[]),
    fact("append", "string", "2.0.0", &[(1, "RW insert")]),
    fact("asking", "cluster", "3.0.0", &[]),
    fact("auth", "connection", "1.0.0", &[]),
    fact("bgrewriteaof", "server", "1.0.0", &[]),
    fact("bgsave", "server", "1.0.0", &[]),
    fact("bitcount", "bitmap", "2.6.0", &[(1, "RO access")]),
    fact("bitfield", "bitmap", "3.2.0", &[(1, "RW access update")]),
    fact("bitfield_ro", "bitmap", "6.0.0", &[(1, "RO access")]),
    fact("bitop", "bitmap", "2.6.0", &[(2, "OW update"), (3, "RO access")]),
    fact("bitpos", "bitmap", "2.8.7", &[(1, "RO access")]),
    fact("blmove", "list", "6.2.0", &[(1, "RW access delete"), (2, "RW insert")]),
    fact("blmpop", "list", "7.0.0", &[(2, "RW access delete")]),
    fact("blpop", "list", "2.0.0", &[(1, "RW access delete")]),
    fact("brpop", "list", "2.0.0", &[(1, "RW access delete")]),
    fact("brpoplpush", "list", "2.2.0", &[(1, "RW access delete"), (2, "RW insert")]),
    fact("bzmpop", "sorted_set", "7.0.0", &[(2, "RW access delete")]),
    fact("bzpopmax", "sorted_set", "5.0.0", &[(1, "RW access delete")]),
    fact("bzpopmin", "sorted_set", "5.0.0", &[(1, "RW access delete")]),
    fact("client", "connection", "2.4.0", &[]),
    fact("cluster", "cluster", "3.0.0", &[]),
    fact("command", "server", "2.8.13", &[]),
    fact("config", "server", "2.0.0", &[]),
    fact("copy", "generic", "6.2.0", &[(1, "RO access"), (2, "OW update")]),
    fact("dbsize", "server", "1.0.0", &[]),
    fact("debug", "server", "1.0.0", &[]),
    fact("decr", "string", "1.0.0", &[(1, "RW access update")]),
    fact("decrby", "string", "1.0.0", &[(1, "RW access update")]),
    fact("del", "generic", "1.0.0", &[(1, "RM delete")]),
    fact("discard", "transactions", "2.0.0", &[]),
    fact("dump", "generic", "2.6.0", &[(1, "RO access")]),
    fact("echo", "connection", "1.0.0", &[]),
    fact("eval", "scripting", "2.6.0", &[(2, "RW access update")]),
    fact("eval_ro", "scripting", "7.0.0", &[(2, "RO access")]),
    fact("evalsha", "scripting", "2.6.0", &[(2, "RW access update")]),
    fact("evalsha_ro", "scripting", "7.0.0", &[(2, "RO access")]),
    fact("exec", "transactions", "1.2.0", &[]),
    fact("exists", "generic", "1.0.0", &[(1, "RO")]),
    fact("expire", "generic", "1.0.0", &[(1, "RW update")]),
    fact("expireat", "generic", "1.2.0", &[(1, "RW update")]),
    fact("expiretime", "generic", "7.0.0", &[(1, "RO access")]),
    fact("failover", "server", "6.2.0", &[]),
    fact("fcall", "scripting", "7.0.0", &[(2, "RW access update")]),
    fact("fcall_ro", "scripting", "7.0.0", &[(2, "RO access")]),
    fact("flushall", "server", "1.0.0", &[]),
    fact("flushdb", "server", "1.0.0", &[]),
    fact("function", "scripting", "7.0.0", &[]),
    fact("geoadd", "geo", "3.2.0", &[(1, "RW update")]),
    fact("geodist", "geo", "3.2.0", &[(1, "RO access")]),
    fact("geohash", "geo", "3.2.0", &[(1, "RO access")]),
    fact("geopos", "geo", "3.2.0", &[(1, "RO access")]),
    fact("georadius", "geo", "3.2.0", &[(1, "RO access"), (2, "OW update")]),
    fact("georadius_ro", "geo", "3.2.10", &[(1, "RO access")]),
    fact("georadiusbymember", "geo", "3.2.0", &[(1, "RO access"), (2, "OW update")]),
    fact("georadiusbymember_ro", "geo", "3.2.10", &[(1, "RO access")]),
    fact("geosearch", "geo", "6.2.0", &[(1, "RO access")]),
    fact("geosearchstore", "geo", "6.2.0", &[(1, "OW update"), (2, "RO access")]),
    fact("get", "string", "1.0.0", &[(1, "RO access")]),
    fact("getbit", "bitmap", "2.2.0", &[(1, "RO access")]),
    fact("getdel", "string", "6.2.0", &[(1, "RW access delete")]),
    fact("getex", "string", "6.2.0", &[(1, "RW access update")]),
    fact("getrange", "string", "2.4.0", &[(1, "RO access")]),
    fact("getset", "string", "1.0.0", &[(1, "RW access update")]),
    fact("hdel", "hash", "2.0.0", &[(1, "RW delete")]),
    fact("hello", "connection", "6.0.0", &[]),
    fact("hexists", "hash", "2.0.0", &[(1, "RO")]),
    fact("hexpire", "hash", "7.4.0", &[(1, "RW update")]),
    fact("hexpireat", "hash", "7.4.0", &[(1, "RW update")]),
    fact("hexpiretime", "hash", "7.4.0", &[(1, "RO access")]),
    fact("hget", "hash", "2.0.0", &[(1, "RO access")]),
    fact("hgetall", "hash", "2.0.0", &[(1, "RO access")]),
    fact("hincrby", "hash", "2.0.0", &[(1, "RW access update")]),
    fact("hincrbyfloat", "hash", "2.6.0", &[(1, "RW access update")]),
    fact("hkeys", "hash", "2.0.0", &[(1, "RO access")]),
    fact("hlen", "hash", "2.0.0", &[(1, "RO")]),
    fact("hmget", "hash", "2.0.0", &[(1, "RO access")]),
    fact("hmset", "hash", "2.0.0", &[(1, "RW update")]),
    fact("hpersist", "hash", "7.4.0", &[(1, "RW update")]),
    fact("hpexpire", "hash", "7.4.0", &[(1, "RW update")]),
    fact("hpexpireat", "hash", "7.4.0", &[(1, "RW update")]),
    fact("hpexpiretime", "hash", "7.4.0", &[(1, "RO access")]),
    fact("hpttl", "hash", "7.4.0", &[(1, "RO access")]),
    fact("hrandfield", "hash", "6.2.0", &[(1, "RO access")]),
    fact("hscan", "hash", "2.8.0", &[(1, "RO access")]),
    fact("hset", "hash", "2.0.0", &[(1, "RW update")]),
    fact("hsetnx", "hash", "2.0.0", &[(1, "RW insert")]),
    fact("hstrlen", "hash", "3.2.0", &[(1, "RO")]),
    fact("httl", "hash", "7.4.0", &[(1, "RO access")]),
    fact("hvals", "hash", "2.0.0", &[(1, "RO access")]),
    fact("incr", "string", "1.0.0", &[(1, "RW access update")]),
    fact("incrby", "string", "1.0.0", &[(1, "RW access update")]),
    fact("incrbyfloat", "string", "2.6.0", &[(1, "RW access update")]),
    fact("info", "server", "1.0.0", &[]),
    fact("keys", "generic", "1.0.0", &[]),
    fact("lastsave", "server", "1.0.0", &[]),
    fact("latency", "server", "2.8.13", &[]),
    fact("lcs", "string", "7.0.0", &[(1, "RO access")]),
    fact("lindex", "list", "1.0.0", &[(1, "RO access")]),
    fact("linsert", "list", "2.2.0", &[(1, "RW insert")]),
    fact("llen", "list", "1.0.0", &[(1, "RO")]),
    fact("lmove", "list", "6.2.0", &[(1, "RW access delete"), (2, "RW insert")]),
    fact("lmpop", "list", "7.0.0", &[(1, "RW access delete")]),
    fact("lolwut", "server", "5.0.0", &[]),
    fact("lpop", "list", "1.0.0", &[(1, "RW access delete")]),
    fact("lpos", "list", "6.0.6", &[(1, "RO access")]),
    fact("lpush", "list", "1.0.0", &[(1, "RW insert")]),
    fact("lpushx", "list", "2.2.0", &[(1, "RW insert")]),
    fact("lrange", "list", "1.0.0", &[(1, "RO access")]),
    fact("lrem", "list", "1.0.0", &[(1, "RW delete")]),
    fact("lset", "list", "1.0.0", &[(1, "RW update")]),
    fact("ltrim", "list", "1.0.0", &[(1, "RW delete")]),
    fact("memory", "server", "4.0.0", &[]),
    fact("mget", "string", "1.0.0", &[(1, "RO access")]),
    fact("module", "server", "4.0.0", &[]),
    fact("monitor", "server", "1.0.0", &[]),
    fact("move", "generic", "1.0.0", &[(1, "RW access update")]),
    fact("mset", "string", "1.0.1", &[(1, "OW update")]),
    fact("msetnx", "string", "1.0.1", &[(1, "OW insert")]),
    fact("multi", "transactions", "1.2.0", &[]),
    fact("object", "generic", "2.2.3", &[]),
    fact("persist", "generic", "2.2.0", &[(1, "RW update")]),
    fact("pexpire", "generic", "2.6.0", &[(1, "RW update")]),
    fact("pexpireat", "generic", "2.6.0", &[(1, "RW update")]),
    fact("pexpiretime", "generic", "7.0.0", &[(1, "RO access")]),
    fact("pfadd", "hyperloglog", "2.8.9", &[(1, "RW insert")]),
    fact("pfcount", "hyperloglog", "2.8.9", &[(1, "RW access")]),
    fact("pfmerge", "hyperloglog", "2.8.9", &[(1, "RW access insert"), (2, "RO access")]),
    fact("ping", "connection", "1.0.0", &[]),
    fact("psetex", "string", "2.6.0", &[(1, "OW update")]),
    fact("psubscribe", "pubsub", "2.0.0", &[]),
    fact("pttl", "generic", "2.6.0", &[(1, "RO access")]),
    fact("publish", "pubsub", "2.0.0", &[]),
    fact("pubsub", "pubsub", "2.8.0", &[]),
    fact("punsubscribe", "pubsub", "2.0.0", &[]),
    fact("quit", "connection", "1.0.0", &[]),
    fact("randomkey", "generic", "1.0.0", &[]),
    fact("readonly", "cluster", "3.0.0", &[]),
    fact("readwrite", "cluster", "3.0.0", &[]),
    fact("rename", "generic", "1.0.0", &[(1, "RW access delete"), (2, "OW update")]),
    fact("renamenx", "generic", "1.0.0", &[(1, "RW access delete"), (2, "OW insert")]),
    fact("replicaof", "server", "5.0.0", &[]),
    fact("reset", "connection", "6.2.0", &[]),
    fact("restore", "generic", "2.6.0", &[(1, "OW update")]),
    fact("role", "server", "2.8.12", &[]),
    fact("rpop", "list", "1.0.0", &[(1, "RW access delete")]),
    fact("rpoplpush", "list", "1.2.0", &[(1, "RW access delete"), (2, "RW insert")]),
    fact("rpush", "list", "1.0.0", &[(1, "RW insert")]),
    fact("rpushx", "list", "2.2.0", &[(1, "RW insert")]),
    fact("sadd", "set", "1.0.0", &[(1, "RW insert")]),
    fact("save", "server", "1.0.0", &[]),
    fact("scan", "generic", "2.8.0", &[]),
    fact("scard", "set", "1.0.0", &[(1, "RO")]),
    fact("script", "scripting", "2.6.0", &[]),
    fact("sdiff", "set", "1.0.0", &[(1, "RO access")]),
    fact("sdiffstore", "set", "1.0.0", &[(1, "OW update"), (2, "RO access")]),
    fact("select", "connection", "1.0.0", &[]),
    fact("set", "string", "1.0.0", &[(1, "RW access update")]),
    fact("setbit", "bitmap", "2.2.0", &[(1, "RW access update")]),
    fact("setex", "string", "2.0.0", &[(1, "OW update")]),
    fact("setnx", "string", "1.0.0", &[(1, "OW insert")]),
    fact("setrange", "string", "2.2.0", &[(1, "RW update")]),
    fact("shutdown", "server", "1.0.0", &[]),
    fact("sinter", "set", "1.0.0", &[(1, "RO access")]),
    fact("sintercard", "set", "7.0.0", &[(1, "RO access")]),
    fact("sinterstore", "set", "1.0.0", &[(1, "OW update"), (2, "RO access")]),
    fact("sismember", "set", "1.0.0", &[(1, "RO")]),
    fact("slaveof", "server", "1.0.0", &[]),
    fact("slowlog", "server", "2.2.12", &[]),
    fact("smembers", "set", "1.0.0", &[(1, "RO access")]),
    fact("smismember", "set", "6.2.0", &[(1, "RO access")]),
    fact("smove", "set", "1.0.0", &[(1, "RW access delete"), (2, "RW insert")]),
    fact("sort", "generic", "1.0.0", &[(1, "RO access"), (2, "OW update")]),
    fact("sort_ro", "generic", "7.0.0", &[(1, "RO access"), (2, "RO access")]),
    fact("spop", "set", "1.0.0", &[(1, "RW access delete")]),
    fact("spublish", "pubsub", "7.0.0", &[(1, "not_key")]),
    fact("srandmember", "set", "1.0.0", &[(1, "RO access")]),
    fact("srem", "set", "1.0.0", &[(1, "RW delete")]),
    fact("sscan", "set", "2.8.0", &[(1, "RO access")]),
    fact("ssubscribe", "pubsub", "7.0.0", &[(1, "not_key")]),
    fact("strlen", "string", "2.2.0", &[(1, "RO")]),
    fact("subscribe", "pubsub", "2.0.0", &[]),
    fact("substr", "string", "1.0.0", &[(1, "RO access")]),
    fact("sunion", "set", "1.0.0", &[(1, "RO access")]),
    fact("sunionstore", "set", "1.0.0", &[(1, "OW update"), (2, "RO access")]),
    fact("sunsubscribe", "pubsub", "7.0.0", &[(1, "not_key")]),
    fact("swapdb", "server", "4.0.0", &[]),
    fact("time", "server", "2.6.0", &[]),
    fact("touch", "generic", "3.2.1", &[(1, "RO")]),
    fact("ttl", "generic", "1.0.0", &[(1, "RO access")]),
    fact("type", "generic", "1.0.0", &[(1, "RO")]),
    fact("unlink", "generic", "4.0.0", &[(1, "RM delete")]),
    fact("unsubscribe", "pubsub", "2.0.0", &[]),
    fact("unwatch", "transactions", "2.2.0", &[]),
    fact("wait", "generic", "3.0.0", &[]),
    fact("waitaof", "generic", "7.2.0", &[]),
    fact("watch", "transactions", "2.2.0", &[(1, "RO")]),
    fact("xack", "stream", "5.0.0", &[(1, "RW update")]),
    fact("xadd", "stream", "5.0.0", &[(1, "RW update")]),
    fact("xautoclaim", "stream", "6.2.0", &[(1, "RW delete")]),
    fact("xclaim", "stream", "5.0.0", &[(1, "RW update")]),
    fact("xdel", "stream", "5.0.0", &[(1, "RW delete")]),
    fact("xgroup", "stream", "5.0.0", &[]),
    fact("xinfo", "stream", "5.0.0", &[]),
    fact("xlen", "stream", "5.0.0", &[(1, "RO")]),
    fact("xpending", "stream", "5.0.0", &[(1, "RO access")]),
    fact("xrange", "stream", "5.0.0", &[(1, "RO access")]),
    fact("xread", "stream", "5.0.0", &[(0, "RO access")]),
    fact("xreadgroup", "stream", "5.0.0", &[(0, "RO access")]),
    fact("xrevrange", "stream", "5.0.0", &[(1, "RO access")]),
    fact("xsetid", "stream", "5.0.0", &[(1, "RW update")]),
    fact("xtrim", "stream", "5.0.0", &[(1, "RW delete")]),
    fact("zadd", "sorted_set", "1.2.0", &[(1, "RW update")]),
    fact("zcard", "sorted_set", "1.2.0", &[(1, "RO")]),
    fact("zcount", "sorted_set", "2.0.0", &[(1, "RO access")]),
    fact("zdiff", "sorted_set", "6.2.0", &[(1, "RO access")]),
    fact("zdiffstore", "sorted_set", "6.2.0", &[(1, "OW update"), (2, "RO access")]),
    fact("zincrby", "sorted_set", "1.2.0", &[(1, "RW access update")]),
    fact("zinter", "sorted_set", "6.2.0", &[(1, "RO access")]),
    fact("zintercard", "sorted_set", "7.0.0", &[(1, "RO access")]),
    fact("zinterstore", "sorted_set", "2.0.0", &[(1, "OW update"), (2, "RO access")]),
    fact("zlexcount", "sorted_set", "2.8.9", &[(1, "RO access")]),
    fact("zmpop", "sorted_set", "7.0.0", &[(1, "RW access delete")]),
    fact("zmscore", "sorted_set", "6.2.0", &[(1, "RO access")]),
    fact("zpopmax", "sorted_set", "5.0.0", &[(1, "RW access delete")]),
    fact("zpopmin", "sorted_set", "5.0.0", &[(1, "RW access delete")]),
    fact("zrandmember", "sorted_set", "6.2.0", &[(1, "RO access")]),
    fact("zrange", "sorted_set", "1.2.0", &[(1, "RO access")]),
    fact("zrangebylex", "sorted_set", "2.8.9", &[(1, "RO access")]),
    fact("zrangebyscore", "sorted_set", "1.0.5", &[(1, "RO access")]),
    fact("zrangestore", "sorted_set", "6.2.0", &[(1, "OW update"), (2, "RO access")]),
    fact("zrank", "sorted_set", "2.0.0", &[(1, "RO access")]),
    fact("zrem", "sorted_set", "1.2.0", &[(1, "RW delete")]),
    fact("zremrangebylex", "sorted_set", "2.8.9", &[(1, "RW delete")]),
    fact("zremrangebyrank", "sorted_set", "2.0.0", &[(1, "RW delete")]),
    fact("zremrangebyscore", "sorted_set", "1.2.0", &[(1, "RW delete")]),
    fact("zrevrange", "sorted_set", "1.2.0", &[(1, "RO access")]),
    fact("zrevrangebylex", "sorted_set", "2.8.9", &[(1, "RO access")]),
    fact("zrevrangebyscore", "sorted_set", "2.2.0", &[(1, "RO access")]),
    fact("zrevrank", "sorted_set", "2.0.0", &[(1, "RO access")]),
    fact("zscan", "sorted_set", "2.8.0", &[(1, "RO access")]),
    fact("zscore", "sorted_set", "1.2.0", &[(1, "RO access")]),
    fact("zunion", "sorted_set", "6.2.0", &[(1, "RO access")]),
    fact("zunionstore", "sorted_set", "2.0.0", &[(1, "OW update"), (2, "RO access")]),
];

#[rustfmt::skip]
static PARTS: &[(&str, &[Part])] = &[
    ("acl", &[
        part("cat", -2), admin("deluser", -3), admin("dryrun", -4), part("genpass", -2), admin("getuser", 3),
        part("help", 2), admin("list", 2), admin("load", 2), admin("log", -2), admin("save", 2), admin("setuser", -3),
        admin("users", 2), part("whoami", 2),
    ]),
    ("client", &[
        part("caching", 3), part("getname", 2), part("getredir", 2), part("help", 2), part("id", 2), part("info", 2),
        admin("kill", -3), admin("list", -2), admin("no-evict", 3), part("no-touch", 3), admin("pause", -3),
        part("reply", 3), part("setinfo", 4), part("setname", 3), part("tracking", -3), part("trackinginfo", 2),
        admin("unblock", -3), admin("unpause", 2),
    ]),
    ("cluster", &[
        admin("addslots", -3), admin("addslotsrange", -4), admin("bumpepoch", 2), admin("count-failure-reports", 3),
        part("countkeysinslot", 3), admin("delslots", -3), admin("delslotsrange", -4), admin("failover", -2),
        admin("flushslots", 2), admin("forget", 3), part("getkeysinslot", 4), part("help", 2), part("info", 2),
        part("keyslot", 3), part("links", 2), admin("meet", -4), part("myid", 2), part("myshardid", 2),
        part("nodes", 2), admin("replicas", 3), admin("replicate", 3), admin("reset", -2), admin("saveconfig", 2),
        admin("set-config-epoch", 3), admin("setslot", -4), part("shards", 2), admin("slaves", 3), part("slots", 2),
    ]),
    ("command", &[
        part("count", 2), part("docs", -2), part("getkeys", -3), part("getkeysandflags", -3), part("help", 2),
        part("info", -2), part("list", -2),
    ]),
    ("config", &[
        admin("get", -3), part("help", 2), admin("resetstat", 2), admin("rewrite", 2), admin("set", -4),
    ]),
    ("function", &[
        writes("delete", 3), part("dump", 2), writes("flush", -2), part("help", 2), part("kill", 2), part("list", -2),
        writes("load", -3), writes("restore", -3), part("stats", 2),
    ]),
    ("latency", &[
        admin("doctor", 2), admin("graph", 3), part("help", 2), admin("histogram", -2), admin("history", 3),
        admin("latest", 2), admin("reset", -2),
    ]),
    ("memory", &[
        part("doctor", 2), part("help", 2), part("malloc-stats", 2), part("purge", 2), part("stats", 2),
        reads("usage", -3),
    ]),
    ("module", &[
        part("help", 2), admin("list", 2), admin("load", -3), admin("loadex", -3), admin("unload", 3),
    ]),
    ("object", &[
        reads("encoding", 3), reads("freq", 3), part("help", 2), reads("idletime", 3), reads("refcount", 3),
    ]),
    ("pubsub", &[
        about_messages("channels", -2), part("help", 2), about_messages("numpat", 2), about_messages("numsub", -2),
        about_messages("shardchannels", -2), about_messages("shardnumsub", -2),
    ]),
    ("script", &[
        part("debug", 3), part("exists", -3), part("flush", -2), part("help", 2), part("kill", 2), part("load", 3),
    ]),
    ("slowlog", &[
        admin("get", -2), part("help", 2), admin("len", 2), admin("reset", 2),
    ]),
    ("xgroup", &[
        writes("create", -5), writes("createconsumer", 5), writes("delconsumer", 5), writes("destroy", 4),
        part("help", 2), writes("setid", -5),
    ]),
    ("xinfo", &[
        reads("consumers", 4), reads("groups", 3), part("help", 2), reads("stream", -3),
    ]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_in_order_and_of_commands_that_are_here() {
        assert!(FACTS.is_sorted_by_key(|fact| fact.name));
        for fact in FACTS {
            assert!(super::super::commands::find(fact.name.as_bytes()).is_some(), "{}", fact.name);
        }
        for (name, parts) in PARTS {
            assert!(super::super::commands::find(name.as_bytes()).is_some(), "{name}");
            assert!(parts.is_sorted_by_key(|part| part.name), "{name}");
        }
        assert_eq!(group("rl.bucket"), "limits");
    }
}
