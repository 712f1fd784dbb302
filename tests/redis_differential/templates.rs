//! What commands look like, in a small language, and commands made from it by chance.
//!
//! ```text
//! SET {s} {v} [EX {ttl}] [(NX|XX)]     a word, a thing to fill in, what may be left out, a choice
//! DEL <{k}>   ZUNION #<{z}>            one to four times; the same behind their count
//! ```

use loci_tests::chance::Chance;

/// A command's arguments.
pub type Args = Vec<Vec<u8>>;

/// The families, each with its commands.
pub const FAMILIES: &[(&str, &[&str])] = &[
    (
        "strings",
        &[
            "SET {s} {v}",
            "SET {s} {v} [(NX|XX)] [GET] [(EX {ttl}|PX {pttl}|EXAT {at}|PXAT {pat}|KEEPTTL)]",
            "SET {s} {v} [(EX {ttl}|PX {pttl}|KEEPTTL)] [GET] [(NX|XX)]",
            "GET {s}",
            "GETDEL {s}",
            "GETEX {s} [(EX {ttl}|PX {pttl}|EXAT {at}|PXAT {pat}|PERSIST)]",
            "GETSET {s} {v}",
            "SETNX {s} {v}",
            "SETEX {s} {ttl} {v}",
            "PSETEX {s} {pttl} {v}",
            "MGET <{k}>",
            "MSET <{s} {v}>",
            "MSETNX <{s} {v}>",
            "INCR {s}",
            "DECR {s}",
            "INCRBY {s} {i}",
            "DECRBY {s} {i}",
            "INCRBYFLOAT {s} {fl}",
            "APPEND {s} {v}",
            "STRLEN {s}",
            "GETRANGE {s} {idx} {idx}",
            "SUBSTR {s} {idx} {idx}",
            "SETRANGE {s} {n} {v}",
            "SET {s} {i}",
            "LCS {s} {s} [(LEN|IDX [MINMATCHLEN {n}] [WITHMATCHLEN])]",
        ],
    ),
    (
        "bits",
        &[
            "SETBIT {b} {off} {bit}",
            "GETBIT {b} {off}",
            "BITCOUNT {b} [{idx} {idx} [(BYTE|BIT)]]",
            "BITPOS {b} {bit} [{idx} [{idx} [(BYTE|BIT)]]]",
            "BITOP (AND|OR|XOR) {b} <{b}>",
            "BITOP NOT {b} {b}",
            "BITFIELD {b} <(GET {bt} {bo}|SET {bt} {bo} {i}|INCRBY {bt} {bo} {i}|OVERFLOW (WRAP|SAT|FAIL))>",
            "BITFIELD_RO {b} <GET {bt} {bo}>",
            "SET {b} {v}",
            "GET {b}",
        ],
    ),
    (
        "hashes",
        &[
            "HSET {h} <{f} {v}>",
            "HSET {h} <{f} {i}>",
            "HMSET {h} <{f} {v}>",
            "HSETNX {h} {f} {v}",
            "HGET {h} {f}",
            "HMGET {h} <{f}>",
            "HDEL {h} <{f}>",
            "HLEN {h}",
            "HEXISTS {h} {f}",
            "HKEYS {h}",
            "HVALS {h}",
            "HGETALL {h}",
            "HSTRLEN {h} {f}",
            "HINCRBY {h} {f} {i}",
            "HINCRBYFLOAT {h} {f} {fl}",
            "HRANDFIELD {h} [{i} [WITHVALUES]]",
        ],
    ),
    (
        "lists",
        &[
            "LPUSH {l} <{e}>",
            "RPUSH {l} <{e}>",
            "LPUSHX {l} <{e}>",
            "RPUSHX {l} <{e}>",
            "LPOP {l} [{n}]",
            "RPOP {l} [{n}]",
            "LLEN {l}",
            "LRANGE {l} {idx} {idx}",
            "LINDEX {l} {idx}",
            "LSET {l} {idx} {e}",
            "LREM {l} {idx} {e}",
            "LTRIM {l} {idx} {idx}",
            "LINSERT {l} (BEFORE|AFTER) {e} {e}",
            "LPOS {l} {e} [RANK {idx}] [COUNT {n}] [MAXLEN {n}]",
            "LMOVE {l} {l} (LEFT|RIGHT) (LEFT|RIGHT)",
            "RPOPLPUSH {l} {l}",
            "LMPOP #<{l}> (LEFT|RIGHT) [COUNT {n}]",
        ],
    ),
    (
        "sets",
        &[
            "SADD {t} <{m}>",
            "SADD {t} <{n}>",
            "SREM {t} <{m}>",
            "SCARD {t}",
            "SISMEMBER {t} {m}",
            "SMISMEMBER {t} <{m}>",
            "SMEMBERS {t}",
            "SPOP {t}",
            "SPOP {t} 100",
            "SRANDMEMBER {t} [{i}]",
            "SMOVE {t} {t} {m}",
            "SUNION <{t}>",
            "SINTER <{t}>",
            "SDIFF <{t}>",
            "SUNIONSTORE {t} <{t}>",
            "SINTERSTORE {t} <{t}>",
            "SDIFFSTORE {t} <{t}>",
            "SINTERCARD #<{t}> [LIMIT {n}]",
        ],
    ),
    (
        "sorted sets",
        &[
            "ZADD {z} <{sc} {m}>",
            "ZADD {z} <{sc} {m}>",
            "ZADD {z} <0 {m}>",
            "ZADD {z} [(NX|XX|GT|LT)] [CH] <{sc} {m}>",
            "ZADD {z} [(XX|NX)] [(GT|LT)] [CH] [INCR] {sc} {m}",
            "ZREM {z} <{m}>",
            "ZCARD {z}",
            "ZSCORE {z} {m}",
            "ZMSCORE {z} <{m}>",
            "ZINCRBY {z} {sc} {m}",
            "ZRANK {z} {m}",
            "ZREVRANK {z} {m}",
            "ZCOUNT {z} {min} {max}",
            "ZLEXCOUNT {z} {lmin} {lmax}",
            "ZRANGE {z} {idx} {idx} [REV] [WITHSCORES]",
            "ZRANGE {z} {min} {max} BYSCORE [LIMIT {n} {i}] [WITHSCORES]",
            "ZRANGE {z} {max} {min} BYSCORE REV [LIMIT {n} {i}] [WITHSCORES]",
            "ZRANGE {z} {lmin} {lmax} BYLEX [LIMIT {n} {i}]",
            "ZRANGE {z} {lmax} {lmin} BYLEX REV [LIMIT {n} {i}]",
            "ZREVRANGE {z} {idx} {idx} [WITHSCORES]",
            "ZRANGEBYSCORE {z} {min} {max} [WITHSCORES] [LIMIT {n} {i}]",
            "ZREVRANGEBYSCORE {z} {max} {min} [WITHSCORES] [LIMIT {n} {i}]",
            "ZRANGEBYLEX {z} {lmin} {lmax} [LIMIT {n} {i}]",
            "ZREVRANGEBYLEX {z} {lmax} {lmin} [LIMIT {n} {i}]",
            "ZREMRANGEBYRANK {z} {idx} {idx}",
            "ZREMRANGEBYSCORE {z} {min} {max}",
            "ZREMRANGEBYLEX {z} {lmin} {lmax}",
            "ZPOPMIN {z} [{n}]",
            "ZPOPMAX {z} [{n}]",
            "ZMPOP #<{z}> (MIN|MAX) [COUNT {n}]",
            "ZRANGESTORE {z} {z} {idx} {idx} [REV]",
            "ZRANGESTORE {z} {z} {min} {max} BYSCORE [LIMIT {n} {i}]",
            "ZUNION #<{z}> [AGGREGATE (SUM|MIN|MAX)] [WITHSCORES]",
            "ZINTER #<{z}> [AGGREGATE (SUM|MIN|MAX)] [WITHSCORES]",
            "ZDIFF #<{z}> [WITHSCORES]",
            "ZUNIONSTORE {z} #<{z}> [AGGREGATE (SUM|MIN|MAX)]",
            "ZUNIONSTORE {z} 2 {z} {t} WEIGHTS {fl} {n} [AGGREGATE (SUM|MIN|MAX)]",
            "ZINTERSTORE {z} 2 {z} {z} [WEIGHTS {sc} {sc}] [AGGREGATE (SUM|MIN|MAX)]",
            "ZDIFFSTORE {z} #<{z}>",
            "ZINTERCARD #<{z}> [LIMIT {n}]",
            "ZRANDMEMBER {z} [{i} [WITHSCORES]]",
        ],
    ),
    (
        "streams",
        &[
            "XADD {x} [NOMKSTREAM] [(MAXLEN|MINID) [(=|~)] {n}] {id} <{f} {v}>",
            "XADD {x} {id} <{f} {v}>",
            "XADD {x} {id} <{f} {v}>",
            "XADD {x} {n}-* {f} {v}",
            "XLEN {x}",
            "XRANGE {x} {xmin} {xmax} [COUNT {n}]",
            "XREVRANGE {x} {xmax} {xmin} [COUNT {n}]",
            "XDEL {x} <{id}>",
            "XTRIM {x} (MAXLEN|MINID) [=] {n}",
            "XREAD [COUNT {n}] STREAMS {x} {id}",
            "XREAD [COUNT {n}] STREAMS {x} {x} {id} {id}",
            "XSETID {x} {id} [ENTRIESADDED {n}] [MAXDELETEDID {id}]",
            "XGROUP CREATE {x} {gr} ({id}|$|0) [MKSTREAM] [ENTRIESREAD {n}]",
            "XGROUP CREATE {x} {gr} 0 MKSTREAM",
            "XGROUP DESTROY {x} {gr}",
            "XGROUP CREATECONSUMER {x} {gr} {co}",
            "XGROUP DELCONSUMER {x} {gr} {co}",
            "XGROUP SETID {x} {gr} ({id}|$|0) [ENTRIESREAD {n}]",
            "XREADGROUP GROUP {gr} {co} [COUNT {n}] [NOACK] STREAMS {x} (>|{id}|0)",
            "XREADGROUP GROUP {gr} {co} STREAMS {x} >",
            "XREADGROUP GROUP {gr} {co} [COUNT {n}] STREAMS {x} {x} > (>|0)",
            "XACK {x} {gr} <{id}>",
            "XPENDING {x} {gr}",
            "XPENDING {x} {gr} [IDLE {n}] {xmin} {xmax} {n} [{co}]",
            "XCLAIM {x} {gr} {co} 0 <{id}> [JUSTID] [FORCE] [RETRYCOUNT {n}]",
            "XCLAIM {x} {gr} {co} 100000 <{id}>",
            "XAUTOCLAIM {x} {gr} {co} 0 {xmin} [COUNT {n}] [JUSTID]",
            "XINFO STREAM {x}",
            "XINFO STREAM {x} FULL [COUNT {n}]",
            "XINFO GROUPS {x}",
            "XINFO CONSUMERS {x} {gr}",
        ],
    ),
    (
        "keys",
        &[
            "DEL <{k}>",
            "UNLINK <{k}>",
            "EXISTS <{k}>",
            "TOUCH <{k}>",
            "TYPE {k}",
            "RENAME {k} {k}",
            "RENAMENX {k} {k}",
            "COPY {k} {k} [DB {db}] [REPLACE]",
            "KEYS {glob}",
            "RANDOMKEY",
            "DBSIZE",
            "OBJECT ENCODING {enc}",
            "OBJECT REFCOUNT {nokey}",
            "OBJECT IDLETIME {k}",
            "PERSIST {k}",
            "SCAN 0 COUNT 1000 [MATCH {glob}] [TYPE (string|list|set|zset|hash|stream|nothing)]",
            "HSCAN {h} 0 COUNT 1000 [MATCH {glob}]",
            "SSCAN {t} 0 COUNT 1000 [MATCH {glob}]",
            "ZSCAN {z} 0 COUNT 1000 [MATCH {glob}]",
        ],
    ),
    (
        "deadlines",
        &[
            "EXPIRE {k} {ttl} [(NX|XX|GT|LT)]",
            "PEXPIRE {k} {pttl} [(NX|XX|GT|LT)]",
            "EXPIREAT {k} {at} [(NX|XX|GT|LT)]",
            "PEXPIREAT {k} {pat} [(NX|XX|GT|LT)]",
            "EXPIRE {k} (0|-1|-100)",
            "TTL {k}",
            "PTTL {k}",
            "EXPIRETIME {k}",
            "PEXPIRETIME {k}",
            "PERSIST {k}",
            "EXPIRE {k} {i} [{junk}]",
        ],
    ),
    (
        "sorting",
        &[
            "SORT {l} [BY {by}] [LIMIT {idx} {n}] [GET {get} [GET {get}]] [(ASC|DESC)] [ALPHA] [STORE {l}]",
            "SORT {l} ALPHA [(ASC|DESC)]",
            "SORT {t} ALPHA [LIMIT {n} {n}] [DESC] [STORE {l}]",
            "SORT {z} BY nosort [LIMIT {n} {n}] [DESC]",
            "SORT_RO {l} [ALPHA] [GET #]",
            "RPUSH {l} <{n}>",
            "SET w_{m} {n}",
            "HSET h_{m} f {v}",
        ],
    ),
    (
        "sketches",
        &["PFADD {p} <{v}>", "PFADD {p} <{m}>", "PFADD {p}", "PFCOUNT <{p}>", "PFMERGE {p} <{p}>", "GET {nokey}"],
    ),
    (
        "places",
        &[
            "GEOADD {g} [(NX|XX)] [CH] <{lon} {lat} {m}>",
            "GEOADD {g} <{lon} {lat} {m}>",
            "GEODIST {g} {m} {m} [(m|km|mi|ft)]",
            "GEOPOS {g} <{m}>",
            "GEOHASH {g} <{m}>",
            "GEOSEARCH {g} (FROMMEMBER {m}|FROMLONLAT {lon} {lat}) BYRADIUS {dist} (km|m|mi) (ASC|DESC) [COUNT {n}] [WITHDIST] [WITHCOORD] [WITHHASH]",
            "GEOSEARCH {g} FROMLONLAT {lon} {lat} BYBOX {dist} {dist} km (ASC|DESC) [WITHDIST]",
            "GEOSEARCHSTORE {g} {g} FROMLONLAT {lon} {lat} BYRADIUS {dist} km [STOREDIST]",
            "GEORADIUS {g} {lon} {lat} {dist} km (ASC|DESC) [WITHDIST] [COUNT {n}]",
            "GEORADIUSBYMEMBER {g} {m} {dist} km ASC",
            "ZRANGE {g} 0 -1 WITHSCORES",
        ],
    ),
    (
        "transactions",
        &[
            "MULTI",
            "MULTI",
            "EXEC",
            "EXEC",
            "EXEC",
            "DISCARD",
            "WATCH <{k}>",
            "UNWATCH",
            "SET {s} {i}",
            "INCR {s}",
            "GET {k}",
            "HSET {h} {f} {v}",
            "LPUSH {l} {e}",
            "nosuchcommand",
            "GET",
        ],
    ),
    (
        "the server",
        &[
            "SELECT {db}",
            "SELECT 0",
            "SWAPDB {db} {db}",
            "MOVE {k} {db}",
            "PING",
            "PING {v}",
            "ECHO {v}",
            "DBSIZE",
            "FLUSHDB [(ASYNC|SYNC)]",
            "PUBLISH {ch} {v}",
            "CLIENT GETNAME",
            "CLIENT SETNAME {m}",
            "TYPE {k}",
            "{junk} {k}",
            "OBJECT {junk} {k}",
            "XGROUP {junk} {x} {gr}",
            "CLIENT {junk}",
            "CONFIG {junk}",
            "COMMAND COUNT {junk}",
            "SCRIPT {junk}",
        ],
    ),
];

/// Scripts by their text and what they are given.
pub const SCRIPTS: &[(&str, &str)] = &[
    ("return redis.call('GET', KEYS[1])", "1 {k}"),
    ("return redis.call('SET', KEYS[1], ARGV[1])", "1 {s} {v}"),
    ("return redis.pcall('LPUSH', KEYS[1], ARGV[1])", "1 {k} {v}"),
    ("return redis.call('HGETALL', KEYS[1])", "1 {h}"),
    ("redis.setresp(3); return redis.call('HGETALL', KEYS[1])", "1 {h}"),
    (
        "redis.call('ZADD', KEYS[1], ARGV[1], 'a'); return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')",
        "1 {z} {sc}",
    ),
    ("return {1, 2.9, 'a', false, true, {1, {2}}, nil, 4}", "0"),
    ("return {ok = 'fine'}", "0"),
    ("return {err = 'BAD thing'}", "0"),
    ("return redis.error_reply('MY error')", "0"),
    ("return redis.status_reply('MY status')", "0"),
    ("return tostring(ARGV[1]) .. #ARGV .. #KEYS", "2 {k} {k} {v} {v}"),
    ("return redis.call('nosuch')", "0"),
    ("return redis.pcall('INCR', KEYS[1])", "1 {k}"),
    ("return redis.sha1hex(ARGV[1])", "0 {v}"),
    ("return cjson.encode({a = 1, b = {1, 2, 3}})", "0"),
    ("return cjson.decode(ARGV[1]).a[2]", "0 {json}"),
    ("return cmsgpack.unpack(cmsgpack.pack({1, 'two', 3.5}))", "0"),
    ("return {bit.band(12, 10), bit.bor(12, 10), bit.tohex(255)}", "0"),
    ("return struct.pack('>I2', 258)", "0"),
    ("return tonumber(ARGV[1])", "0 {fl}"),
    ("local t = {} for i = 1, 50 do t[i] = i end return t", "0"),
    ("return redis.call('INCRBYFLOAT', KEYS[1], ARGV[1])", "1 {s} {fl}"),
    ("return #redis.call('KEYS', '*')", "0"),
    ("x = 1", "0"),
    ("return undefinedglobal", "0"),
    ("return", "0"),
    ("this is no lua", "0"),
    ("local a = redis.call('SMEMBERS', KEYS[1]) table.sort(a) return a", "1 {t}"),
    ("redis.call('SET', KEYS[1], 1) redis.call('nosuch') return 1", "1 {s}"),
    ("return {redis.call('EXISTS', KEYS[1]), redis.call('TYPE', KEYS[1])}", "1 {k}"),
    ("redis.setresp(3) return redis.call('ZSCORE', KEYS[1], 'a')", "1 {z}"),
    ("return string.format('%.3f|%d|%s', ARGV[1], 3, 'x')", "0 {n}"),
    ("return {string.rep('ab', 3), string.reverse('abc'), ('x'):upper(), #'abc', table.concat({1,2,3}, '-')}", "0"),
    ("return loadstring('return 1+1')()", "0"),
    ("return pcall(function() error('boom') end)", "0"),
    ("return select('#', unpack({1,2,3}))", "0"),
];

/// Letters that name the kind of key which a command is for.
const KINDS: &[u8] = b"shltzxbpg";
const JUNK: &[&str] = &["", "x", "-1", "nan", "1e400", "99999999999999999999", "NX", "limit", "*", "0x10", " 1", "+5"];

/// Makes commands by chance.
pub struct Maker<'c> {
    pub chance: &'c mut Chance,
}

impl Maker<'_> {
    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.chance.index(words.len())]
    }

    /// A command of a family.
    pub fn command(&mut self, family: &str) -> Args {
        if family == "scripts" {
            let (text, rest) = SCRIPTS[self.chance.index(SCRIPTS.len())];
            let mut args = vec![self.pick(&["EVAL", "EVAL", "EVAL", "EVAL_RO"]).into(), text.into()];
            args.extend(self.fill(rest));
            return args;
        }
        let templates = FAMILIES.iter().find(|(name, _)| *name == family).expect("the family is there").1;
        let template = templates[self.chance.index(templates.len())];
        let mut args = self.fill(template);
        if self.chance.percent(4) {
            self.spoil(&mut args);
        }
        args
    }

    /// Something that is probably wrong.
    fn spoil(&mut self, args: &mut Args) {
        let at = 1 + self.chance.index(args.len());
        match self.chance.below(4) {
            0 if at < args.len() => drop(args.remove(at)),
            1 if at < args.len() => args[at] = self.pick(JUNK).into(),
            2 => args.insert(at.min(args.len()), self.pick(JUNK).into()),
            _ if at < args.len() => args.insert(at, args[at].clone()),
            _ => args.push(self.pick(JUNK).into()),
        }
    }

    /// What a template becomes.
    pub fn fill(&mut self, template: &str) -> Args {
        let mut args = Vec::new();
        self.sequence(template.as_bytes(), &mut args);
        args
    }

    fn sequence(&mut self, mut rest: &[u8], args: &mut Args) {
        while let Some(first) = rest.first() {
            match first {
                b' ' => rest = &rest[1..],
                b'[' => {
                    let (inside, after) = bracket(rest);
                    if self.chance.percent(40) {
                        self.sequence(inside, args);
                    }
                    rest = after;
                }
                b'(' => {
                    let (inside, after) = bracket(rest);
                    let choices = split_choices(inside);
                    let choice = choices[self.chance.index(choices.len())];
                    self.sequence(choice, args);
                    rest = after;
                }
                b'<' | b'#' if rest.len() > 1 && (*first == b'<' || rest[1] == b'<') => {
                    let counted = *first == b'#';
                    let (inside, after) = bracket(&rest[usize::from(counted)..]);
                    let times = 1 + self.chance.below(4) * self.chance.below(2);
                    if counted {
                        args.push(times.to_string().into_bytes());
                    }
                    (0..times).for_each(|_| self.sequence(inside, args));
                    rest = after;
                }
                _ => {
                    let mut word = Vec::new();
                    while let Some(byte) = rest.first().filter(|byte| !b" [(".contains(byte)) {
                        if *byte == b'{' {
                            let end = rest.iter().position(|byte| *byte == b'}').expect("a brace is closed");
                            let name = std::str::from_utf8(&rest[1..end]).expect("names are text");
                            word.extend(self.thing(name));
                            rest = &rest[end + 1..];
                        } else {
                            word.push(*byte);
                            rest = &rest[1..];
                        }
                    }
                    args.push(word);
                }
            }
        }
    }

    fn key(&mut self, kind: u8) -> Vec<u8> {
        let own = self.chance.percent(90);
        let kind = if own { kind } else { KINDS[self.chance.index(KINDS.len())] };
        vec![kind, b'1' + self.chance.below(3) as u8]
    }

    fn thing(&mut self, name: &str) -> Vec<u8> {
        let text: String = match name {
            "k" => {
                let kind = KINDS[self.chance.index(KINDS.len())];
                return self.key(kind);
            }
            "enc" => {
                let kind = b"shz"[self.chance.index(3)];
                return vec![kind, b'1' + self.chance.below(3) as u8];
            }
            "nokey" => "nokey".into(),
            _ if name.len() == 1 && KINDS.contains(&name.as_bytes()[0]) => return self.key(name.as_bytes()[0]),
            "v" => return self.value(),
            "e" => self.pick(&["a", "b", "c", "1", "2", "10", "-3", "", "3.5", "long element"]).into(),
            "f" => format!("f{}", self.chance.below(6)),
            "m" => self.pick(&["a", "b", "c", "d", "e", "1", "2", "aa", "B"]).into(),
            "gr" => self.pick(&["g1", "g2"]).into(),
            "co" => self.pick(&["c1", "c2"]).into(),
            "i" => match self.chance.below(12) {
                0 => "9223372036854775807".into(),
                1 => "-9223372036854775808".into(),
                2 => self.pick(JUNK).into(),
                _ => (self.chance.below(21) as i64 - 10).to_string(),
            },
            "n" => self.chance.below(12).to_string(),
            "idx" => (self.chance.below(14) as i64 - 6).to_string(),
            "fl" => self
                .pick(&[
                    "1.5", "-2.25", "0.1", "3", "1e3", "-0.5", "100", "1e-5", "3.0e2", "abc", "inf", "5.0e3", "nan",
                ])
                .into(),
            "sc" => match self.chance.below(10) {
                0 => self.pick(&["inf", "-inf", "+inf", "nan", "x", "1e300", "-0"]).into(),
                1..=3 => format!("{}.5", self.chance.below(6)),
                _ => (self.chance.below(9) as i64 - 2).to_string(),
            },
            "min" => self.bound(&["-inf", "(0", "(1", "0", "1", "-1", "2.5"]),
            "max" => self.bound(&["+inf", "inf", "5", "(3", "3", "(5", "10", "2.5"]),
            "lmin" => self.bound(&["-", "[a", "(a", "[b", "[1", "(", "[B"]),
            "lmax" => self.bound(&["+", "[c", "(d", "[e", "(b", "[aa"]),
            "xmin" => self.bound(&["-", "0", "1", "(2-1", "3-1", "5"]),
            "xmax" => self.bound(&["+", "9", "10-5", "(7-1", "4", "100"]),
            "id" => match self.chance.below(12) {
                0 => self.pick(&["0", "0-0", "5", "x", "1-x", "18446744073709551615-18446744073709551615"]).into(),
                _ => format!("{}-{}", 1 + self.chance.below(12), self.chance.below(4)),
            },
            "ttl" => (1_000 + self.chance.below(5) * 1_000).to_string(),
            "pttl" => (1_000_000 + self.chance.below(5) * 1_000_000).to_string(),
            // Years from now, and once in a while long ago.
            "at" => self.pick(&["4000000000", "4000001000", "4000002000", "1000"]).into(),
            "pat" => self.pick(&["4000000000000", "4000001000000", "4000002000000", "1000"]).into(),
            "off" => self.chance.below(200).to_string(),
            "bit" => self.pick(&["0", "1"]).into(),
            "bt" => self.pick(&["u8", "i8", "u4", "i5", "u63", "i64", "u1", "i16"]).into(),
            "bo" => self.pick(&["0", "3", "#1", "8", "#2", "100"]).into(),
            "glob" => {
                self.pick(&["*", "s*", "?1", "[shz]?", "*2", "[^s]*", "f[0-3]", "\\*", "[a-", "nothing", "**1"]).into()
            }
            "db" => self.pick(&["0", "1", "2", "15", "16", "x"]).into(),
            "ch" => self.pick(&["ch1", "ch2"]).into(),
            "by" => self.pick(&["w_*", "nosort", "h_*->f", "w*"]).into(),
            "get" => self.pick(&["w_*", "#", "h_*->f", "nothing*"]).into(),
            "lon" => self.pick(&["13.361389", "15.087269", "2.35", "-122.4", "0", "179.9", "181"]).into(),
            "lat" => self.pick(&["38.115556", "37.502669", "48.85", "37.77", "0", "-33.9", "86"]).into(),
            "dist" => self.pick(&["100", "200", "500", "20000", "1"]).into(),
            "json" => self.pick(&[r#"{"a":[1,2,3]}"#, r#"{"a":["x","y"]}"#, "{}", "bad"]).into(),
            "junk" => self.pick(JUNK).into(),
            other => unreachable!("{other} is not known"),
        };
        text.into_bytes()
    }

    fn bound(&mut self, words: &[&str]) -> String {
        let junk = ["x", "(", "nan", "", "(x"];
        if self.chance.percent(4) { self.pick(&junk).into() } else { self.pick(words).into() }
    }

    fn value(&mut self) -> Vec<u8> {
        match self.chance.below(12) {
            0 => Vec::new(),
            1 => {
                let len = self.chance.below(200) as usize;
                self.chance.bytes(len)
            }
            2 => b"\r\n\0\xff".to_vec(),
            3..=6 => (self.chance.below(40) as i64 - 10).to_string().into_bytes(),
            7 => b"10.5".to_vec(),
            _ => {
                let len = 1 + self.chance.below(6);
                (0..len).map(|_| b'a' + self.chance.below(4) as u8).collect()
            }
        }
    }
}

/// What is inside the bracket that `text` begins with, and what is behind it.
fn bracket(text: &[u8]) -> (&[u8], &[u8]) {
    let mut depth = 0;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'[' | b'(' | b'<' => depth += 1,
            b']' | b')' => depth -= 1,
            b'>' if text[0] == b'<' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&text[1..at], &text[at + 1..]);
        }
    }
    unreachable!("a bracket is not closed: {}", String::from_utf8_lossy(text))
}

fn split_choices(inside: &[u8]) -> Vec<&[u8]> {
    let (mut choices, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, byte) in inside.iter().enumerate() {
        match byte {
            b'[' | b'(' | b'<' => depth += 1,
            b']' | b')' => depth -= 1,
            b'|' if depth == 0 => {
                choices.push(&inside[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    choices.push(&inside[begin..]);
    choices
}
