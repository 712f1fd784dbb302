//! Random commands for a real redis-server and for the server that is to answer like it.
//!
//! ```text
//! seed --> steps --> both servers --> compare each reply, and at the end every key
//!                        a difference --> drop steps as long as it stays --> print what is left
//! ```
//!
//! Keys are few, so that commands meet keys of other types. Three connections take part: one that does most, one that
//! interferes and blocks, and one that listens.
//!
//! | setting | what |
//! |---|---|
//! | `LOCI_REDIS=HOST:PORT` | the server to be compared; without it a second redis-server, which tries the test itself |
//! | `LOCI_DIFF_COMMANDS=N` | how many commands, 3,000 unless said otherwise |
//! | `LOCI_SEED=N` | the first seed; each sequence has the next one |
//! | `LOCI_DIFF_FAMILIES=A,B` | only commands of these families |
//! | `LOCI_DIFF_FAILURES=N` | ends after as many different failures, 12 unless said otherwise |
//! | `LOCI_DIFF_STRICT=1` | compares errors word by word |
//! | `LOCI_DIFF_KNOWN=A,B` | commands that are left out |
//!
//! What differs on purpose, or because a later version of Redis differs from 7.0, is in [`known`], with its reason.

mod compare;
mod known;
mod servers;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use loci_tests::chance::Chance;
use loci_tests::{say, seed, setting};
use loci_wire::resp::Reply;
use servers::{Connection, RedisServer};
use templates::{Args, FAMILIES, Maker};

/// One thing that is done to both servers.
#[derive(Debug, Clone)]
enum Step {
    /// A command on one of the connections.
    Call(usize, Args),
    /// A command that may wait for what the others do, on the second connection.
    Block(Args, Vec<Args>),
    /// A command on the connection that listens, with everything that comes for it.
    Listen(Args),
    /// Time passes.
    Sleep(u64),
}

/// What happens in one sequence.
#[derive(Debug, Clone)]
struct Sequence {
    protocol: u64,
    /// Whether the third connection hears of every change.
    notify: bool,
    steps: Vec<Step>,
}

struct Settings {
    families: Vec<String>,
    known: BTreeSet<String>,
    strict: bool,
}

fn words(name: &str) -> Vec<String> {
    let text = std::env::var(name).unwrap_or_default();
    text.split(',').filter(|word| !word.is_empty()).map(String::from).collect()
}

fn settings() -> Settings {
    let mut families = words("LOCI_DIFF_FAMILIES");
    if families.is_empty() {
        families = FAMILIES.iter().map(|(name, _)| (*name).to_string()).collect();
        families.extend(["scripts", "blocking", "listening", "passing time"].map(String::from));
    }
    let known = words("LOCI_DIFF_KNOWN").iter().map(|word| word.to_uppercase()).collect();
    Settings { families, known, strict: setting("LOCI_DIFF_STRICT", 0) == 1 }
}

const BLOCKING: &[(&str, &[&str])] = &[
    ("BLPOP {l} {l} 0.3", &["RPUSH {l} <{e}>", "LPUSH {l} <{e}>"]),
    ("BRPOP {l} {k} 0.3", &["RPUSH {l} <{e}>"]),
    ("BLMOVE {l} {l} (LEFT|RIGHT) (LEFT|RIGHT) 0.3", &["RPUSH {l} <{e}>"]),
    ("BRPOPLPUSH {l} {l} 0.3", &["RPUSH {l} {e}"]),
    ("BLMPOP 0.3 #<{l}> (LEFT|RIGHT) [COUNT {n}]", &["RPUSH {l} <{e}>"]),
    ("BZPOPMIN {z} {z} 0.3", &["ZADD {z} <{sc} {m}>"]),
    ("BZPOPMAX {z} 0.3", &["ZADD {z} <{sc} {m}>", "ZUNIONSTORE {z} 1 {z}"]),
    ("BZMPOP 0.3 #<{z}> (MIN|MAX) [COUNT {n}]", &["ZADD {z} <{sc} {m}>"]),
    ("XREAD BLOCK 300 STREAMS {x} $", &["XADD {x} 50-1 f v", "XADD {x} 60-* f v"]),
    ("XREADGROUP GROUP {gr} {co} BLOCK 300 STREAMS {x} >", &["XADD {x} 70-1 f v", "DEL {x}"]),
    ("BLPOP {l} {l} 0.3", &["RENAME {l} {l}", "RPUSH {l} {e}", "COPY {l} {l} REPLACE"]),
];

fn make(seed: u64, settings: &Settings) -> Sequence {
    let mut chance = Chance::new(seed);
    let protocol = 2 + chance.below(2);
    // A sequence keeps to a few families, so that they get to somewhere.
    let mut families: Vec<&str> = settings.families.iter().map(String::as_str).collect();
    chance.shuffle(&mut families);
    families.truncate(1 + chance.below(4) as usize);
    // When what has expired is removed, and so counted or heard of, is each server's business.
    let passing = families.contains(&"passing time");
    let notify = chance.percent(15) && !passing;
    let count = 10 + chance.below(70);
    let mut maker = Maker { chance: &mut chance };
    let mut steps = Vec::new();
    while (steps.len() as u64) < count {
        let family = families[maker.chance.index(families.len())];
        let step = match family {
            "blocking" => {
                let (template, wakes) = BLOCKING[maker.chance.index(BLOCKING.len())];
                let block = maker.fill(template);
                let wakes = (0..1 + maker.chance.below(2)).map(|_| wakes[maker.chance.index(wakes.len())]);
                let wakes: Vec<&str> = wakes.collect();
                Step::Block(block, wakes.into_iter().map(|wake| maker.fill(wake)).collect())
            }
            "listening" => match maker.chance.below(4) {
                0 => Step::Listen(maker.fill("(SUBSCRIBE|UNSUBSCRIBE) [{ch} [{ch}]]")),
                1 => Step::Listen(maker.fill("(PSUBSCRIBE|PUNSUBSCRIBE) [(ch*|*1|c?2)]")),
                2 => Step::Call(0, maker.fill("PUBLISH {ch} {v}")),
                _ => Step::Call(0, maker.fill("PUBSUB (CHANNELS|NUMSUB {ch} {ch}|NUMPAT|CHANNELS c*)")),
            },
            "passing time" => match maker.chance.below(5) {
                0 => Step::Sleep(5),
                1 => Step::Call(0, maker.fill("PEXPIRE {k} 10")),
                2 => Step::Call(0, maker.fill("SET {s} {v} PX 10")),
                3 => Step::Call(0, maker.fill("(SET {s} {v}|LPUSH {l} {e}|HSET {h} {f} {v}|INCR {s}|SADD {t} {m})")),
                _ => Step::Call(0, maker.fill("(GET {s}|EXISTS {k}|TTL {nokey}|KEYS *|TYPE {k}|EXPIRE {k} 1000)")),
            },
            _ => {
                let at = usize::from(maker.chance.percent(12));
                Step::Call(at, maker.command(family))
            }
        };
        let name = |args: &Args| String::from_utf8_lossy(&args[0]).to_uppercase();
        let known = match &step {
            Step::Call(_, args) | Step::Block(args, _) | Step::Listen(args) => settings.known.contains(&name(args)),
            Step::Sleep(_) => false,
        };
        let counted = matches!(&step, Step::Call(_, args) if passing && name(args) == "DBSIZE");
        if !known && !counted {
            steps.push(step);
        }
    }
    Sequence { protocol, notify, steps }
}

/// One server as a sequence sees it.
struct Side {
    address: String,
    connections: Vec<Connection>,
}

impl Side {
    fn open(address: &str, sequence: &Sequence) -> Side {
        let mut connections: Vec<Connection> = (0..3).map(|_| Connection::open(address)).collect();
        connections[0].say("FLUSHALL").ok();
        let events = if sequence.notify { "KEA" } else { "" };
        connections[0].call(&["CONFIG", "SET", "notify-keyspace-events", events].map(|word| word.into())).ok();
        for connection in &mut connections {
            connection.say(&format!("HELLO {}", sequence.protocol)).ok();
        }
        if sequence.notify {
            connections[2].drain(Some(&["PSUBSCRIBE", "__key*"].map(|word| word.into()))).ok();
        }
        Side { address: address.into(), connections }
    }
}

/// Where two servers went apart.
#[derive(Debug, Clone)]
struct Difference {
    at: usize,
    command: Args,
    replies: [String; 2],
    /// The replies of commands themselves.
    raw: Option<[Reply; 2]>,
    /// Why it stays, if it does.
    known: Option<&'static str>,
}

fn shown(reply: &Result<Reply, String>) -> String {
    match reply {
        Ok(reply) => compare::Shown(reply).to_string(),
        Err(error) => error.clone(),
    }
}

/// Elements that each of the two would have taken are taken from the other, so that both go on alike.
fn pop_one(args: &Args, sides: &mut [Side; 2], at: usize, replies: &[Result<Reply, String>; 2]) -> bool {
    let name = String::from_utf8_lossy(&args[0]).to_uppercase();
    if name != "SPOP" || args.len() != 2 {
        return false;
    }
    let [Ok(Reply::Bulk(left)), Ok(Reply::Bulk(right))] = replies else { return false };
    if left != right {
        for (side, other) in sides.iter_mut().zip([right, left]) {
            side.connections[at].call(&[b"SREM".to_vec(), args[1].clone(), other.clone()]).ok();
        }
    }
    true
}

/// Runs a sequence on both, and says where they first differ.
fn run(sequence: &Sequence, addresses: &[String; 2], strict: bool) -> Option<Difference> {
    let mut sides = [Side::open(&addresses[0], sequence), Side::open(&addresses[1], sequence)];
    let mut difference = differ(sequence, &mut sides, strict)?;
    difference.known = known::reason(&difference, sequence, addresses);
    Some(difference)
}

fn differ(sequence: &Sequence, sides: &mut [Side; 2], strict: bool) -> Option<Difference> {
    // What each connection has queued, to compare what it becomes.
    let mut queued: [Option<Vec<Args>>; 3] = [const { None }; 3];
    let mut passing = false;
    let differ = |at: usize, command: &Args, replies: [String; 2]| Difference {
        at,
        command: command.clone(),
        replies,
        raw: None,
        known: None,
    };
    let went_apart = |at: usize, (command, [left, right]): (Args, [Result<Reply, String>; 2])| Difference {
        at,
        command,
        replies: [shown(&left), shown(&right)],
        raw: left.ok().zip(right.ok()).map(|(left, right)| [left, right]),
        known: None,
    };
    for (number, step) in sequence.steps.iter().enumerate() {
        match step {
            Step::Sleep(millis) => std::thread::sleep(Duration::from_millis(*millis)),
            Step::Listen(args) => {
                let came = sides.each_mut().map(|side| side.connections[2].drain(Some(args)));
                if let Some(replies) = listened_differently(args, &came, strict) {
                    return Some(differ(number, args, replies));
                }
            }
            Step::Block(args, wakes) => {
                sides.iter_mut().for_each(|side| side.connections[1].send(args));
                std::thread::sleep(Duration::from_millis(15));
                for wake in wakes {
                    let replies = sides.each_mut().map(|side| side.connections[0].call(wake));
                    if let Some(apart) = disagree(wake, &replies, &queued[0], strict) {
                        return Some(went_apart(number, apart));
                    }
                    queue(&mut queued[0], wake, &replies[0]);
                    // Who waits may take what came a moment later.
                    std::thread::sleep(Duration::from_millis(10));
                }
                let replies = sides.each_mut().map(|side| side.connections[1].receive());
                if let Some(apart) = disagree(args, &replies, &queued[1], strict) {
                    return Some(went_apart(number, apart));
                }
                queue(&mut queued[1], args, &replies[0]);
            }
            Step::Call(at, args) => {
                passing |= is_short_lived(args);
                sides.iter_mut().for_each(|side| side.connections[*at].send(args));
                let replies = sides.each_mut().map(|side| side.connections[*at].receive());
                let popped = pop_one(args, sides, *at, &replies);
                if !popped && let Some(apart) = disagree(args, &replies, &queued[*at], strict) {
                    return Some(went_apart(number, apart));
                }
                queue(&mut queued[*at], args, &replies[0]);
                // A value that is about to end would be there for one and gone for the other.
                if is_short_lived(args) || passing && args[0].eq_ignore_ascii_case(b"EXEC") {
                    std::thread::sleep(Duration::from_millis(25));
                }
            }
        }
        let hears = sequence.notify || matches!(step, Step::Call(_, args) if args[0] == b"PUBLISH");
        if hears {
            let came = sides.each_mut().map(|side| side.connections[2].drain(None));
            let what = match step {
                Step::Call(_, args) | Step::Block(args, _) | Step::Listen(args) => {
                    let mut what = vec![b"what is heard of".to_vec()];
                    what.extend(args.iter().cloned());
                    what
                }
                Step::Sleep(_) => continue,
            };
            if let Some(replies) = listened_differently(&what, &came, strict) {
                return Some(differ(number, &what, replies));
            }
        }
    }
    let [left, right] = sides.each_mut().map(|side| everything(&side.address));
    for (key, value) in &left {
        if right.get(key) != Some(value) {
            let other = right.get(key).cloned().unwrap_or_else(|| "nothing".into());
            let what = vec![b"the state of".to_vec(), key.clone().into_bytes()];
            return Some(differ(sequence.steps.len(), &what, [value.clone(), other]));
        }
    }
    let more = right.into_iter().find(|(key, _)| !left.contains_key(key))?;
    let what = vec![b"the state of".to_vec(), more.0.into_bytes()];
    Some(differ(sequence.steps.len(), &what, ["nothing".into(), more.1]))
}

/// Whether a command lets something live for some milliseconds only.
fn is_short_lived(args: &Args) -> bool {
    args.len() > 2 && args.last().is_some_and(|last| last == b"10") && {
        args[0] == b"PEXPIRE" || args[args.len() - 2] == b"PX"
    }
}

/// Keeps what a connection has queued.
fn queue(queued: &mut Option<Vec<Args>>, args: &Args, reply: &Result<Reply, String>) {
    let fine = |status: &str| matches!(reply, Ok(Reply::Status(text)) if text == status.as_bytes());
    match String::from_utf8_lossy(&args[0]).to_uppercase().as_str() {
        "MULTI" if fine("OK") => *queued = Some(Vec::new()),
        "EXEC" | "DISCARD" if args.len() == 1 => *queued = None,
        _ if fine("QUEUED") => queued.get_or_insert_default().push(args.clone()),
        _ => {}
    }
}

/// Of what is heard, the order of messages to several subscriptions is each server's business, and so is when it notices
/// that something has expired.
fn listened_differently(args: &Args, came: &[Result<Vec<Reply>, String>; 2], strict: bool) -> Option<[String; 2]> {
    let all = args.len() == 1;
    let mut heard = came.clone();
    for replies in heard.iter_mut().flatten() {
        replies.retain(|reply| !format!("{}", compare::Shown(reply)).contains("expired"));
        if all {
            // Which channel is left first is open, but not how many are left after it.
            replies.iter_mut().for_each(|reply| match reply {
                Reply::Array(parts) | Reply::Push(parts) if parts.len() == 3 => drop(parts.remove(1)),
                _ => {}
            });
        }
        replies.sort_by_key(|reply| format!("{reply:?}"));
    }
    let same = match &heard {
        [Ok(left), Ok(right)] => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| compare::same(args, left, right, strict))
        }
        [left, right] => left == right,
    };
    let text = |came: &Result<Vec<Reply>, String>| match came {
        Ok(replies) => replies.iter().map(|reply| compare::Shown(reply).to_string()).collect::<Vec<_>>().join(" "),
        Err(error) => error.clone(),
    };
    (!same).then(|| came.each_ref().map(text))
}

/// What they answered differently, if anything. After `EXEC`, each part is compared as its own command is.
fn disagree(
    args: &Args,
    replies: &[Result<Reply, String>; 2],
    queued: &Option<Vec<Args>>,
    strict: bool,
) -> Option<(Args, [Result<Reply, String>; 2])> {
    let whole = || Some((args.clone(), replies.clone()));
    let [Ok(left), Ok(right)] = replies else {
        return if matches!(replies, [Err(left), Err(right)] if left == right) { None } else { whole() };
    };
    let exec = args[0].eq_ignore_ascii_case(b"EXEC");
    if let (true, Some(queued), Reply::Array(lefts), Reply::Array(rights)) = (exec, queued, left, right) {
        if lefts.len() != rights.len() || queued.len() != lefts.len() {
            return whole();
        }
        let mut parts = queued.iter().zip(lefts.iter().zip(rights));
        let apart = parts.find(|(args, (left, right))| !compare::same(args, left, right, strict));
        return apart.map(|(args, (left, right))| (args.clone(), [left, right].map(|reply| Ok(reply.clone()))));
    }
    if compare::same(args, left, right, strict) { None } else { whole() }
}

/// Every key of the first databases, in words.
fn everything(address: &str) -> BTreeMap<String, String> {
    let mut connection = Connection::open(address);
    let mut found = BTreeMap::new();
    for database in [0, 1, 2, 15] {
        connection.say(&format!("SELECT {database}")).ok();
        let Ok(Reply::Array(keys)) = connection.say("KEYS *") else {
            found.insert(format!("{database}"), "no keys".into());
            continue;
        };
        for key in keys {
            let Reply::Bulk(key) = key else { continue };
            let mut ask = |words: &[&str]| {
                let mut args: Args = words.iter().map(|word| word.as_bytes().to_vec()).collect();
                if let Some(place) = args.iter_mut().find(|arg| arg.as_slice() == b"KEY") {
                    *place = key.clone();
                }
                (connection.call(&args).unwrap_or(Reply::Null), args)
            };
            let (kind, _) = ask(&["TYPE", "KEY"]);
            let kind = match &kind {
                Reply::Status(kind) => String::from_utf8_lossy(kind).into_owned(),
                _ => "?".into(),
            };
            let (mut value, _) = match kind.as_str() {
                "string" => ask(&["GET", "KEY"]),
                "hash" => ask(&["HGETALL", "KEY"]),
                "list" => ask(&["LRANGE", "KEY", "0", "-1"]),
                "set" => ask(&["SMEMBERS", "KEY"]),
                "zset" => ask(&["ZRANGE", "KEY", "0", "-1", "WITHSCORES"]),
                "stream" => ask(&["XRANGE", "KEY", "-", "+"]),
                _ => (Reply::Null, Vec::new()),
            };
            compare::forget_cached_count(&mut value);
            match &mut value {
                Reply::Array(parts) if kind == "hash" => parts.iter_mut().for_each(compare::forget_digits),
                value => compare::forget_digits(value),
            }
            if let Reply::Array(parts) = &mut value {
                match kind.as_str() {
                    "set" => parts.sort_by_key(|part| format!("{part:?}")),
                    "hash" => {
                        let mut pairs: Vec<_> = parts.chunks(2).map(<[Reply]>::to_vec).collect();
                        pairs.sort_by_key(|pair| format!("{pair:?}"));
                        *parts = pairs.concat();
                    }
                    // Of scores the number counts, not the digits.
                    "zset" => parts.iter_mut().skip(1).step_by(2).for_each(|score| {
                        if let Reply::Bulk(bytes) = score {
                            let text = String::from_utf8_lossy(bytes);
                            *score = text.parse().map_or(Reply::Null, Reply::Double);
                        }
                    }),
                    _ => {}
                }
            }
            let (ttl, _) = ask(&["TTL", "KEY"]);
            let ttl = match ttl {
                Reply::Int(seconds) if seconds > 0 => "some".into(),
                other => compare::Shown(&other).to_string(),
            };
            let name = format!("{database}:{}", String::from_utf8_lossy(&key));
            found.insert(name, format!("{kind} {} ttl {ttl}", compare::Shown(&value)));
        }
    }
    found
}

/// Leaves out what the difference does not need.
fn shrink(mut sequence: Sequence, found: Difference, addresses: &[String; 2], strict: bool) -> (Sequence, Difference) {
    sequence.steps.truncate(found.at + 1);
    let mut best = found;
    let mut size = sequence.steps.len().div_ceil(2).max(1);
    let mut budget = 400;
    loop {
        let mut begin = 0;
        while begin < sequence.steps.len() && budget > 0 {
            let mut fewer = sequence.clone();
            fewer.steps.drain(begin..(begin + size).min(sequence.steps.len()));
            budget -= 1;
            match run(&fewer, addresses, strict) {
                Some(difference)
                    if difference.known.is_none() && difference.command.first() == best.command.first() =>
                {
                    fewer.steps.truncate(difference.at + 1);
                    (sequence, best) = (fewer, difference);
                }
                _ => begin += size,
            }
        }
        if size == 1 || budget == 0 {
            return (sequence, best);
        }
        size = size.div_ceil(2);
    }
}

fn line(args: &Args) -> String {
    let plain = |arg: &Vec<u8>| !arg.is_empty() && arg.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'"');
    let word = |arg: &Vec<u8>| match plain(arg) {
        true => String::from_utf8_lossy(arg).into_owned(),
        false => format!("\"{}\"", arg.escape_ascii()),
    };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn report(seed: u64, sequence: &Sequence, difference: &Difference) -> String {
    let mut text = format!("LOCI_SEED={seed} HELLO {}", sequence.protocol);
    if sequence.notify {
        text.push_str(", keyspace events");
    }
    for step in &sequence.steps {
        match step {
            Step::Call(0, args) => text.push_str(&format!("\n    {}", line(args))),
            Step::Call(at, args) => text.push_str(&format!("\n    [{at}] {}", line(args))),
            Step::Listen(args) => text.push_str(&format!("\n    [2] {}", line(args))),
            Step::Sleep(millis) => text.push_str(&format!("\n    ({millis} ms)")),
            Step::Block(args, wakes) => {
                text.push_str(&format!("\n    [1] {} while", line(args)));
                wakes.iter().for_each(|wake| text.push_str(&format!("\n        {}", line(wake))));
            }
        }
    }
    let [redis, ours] = &difference.replies;
    format!("{text}\n  {}\n  redis: {redis}\n  other: {ours}", line(&difference.command))
}

/// What makes two failures one: the command and how the two answered, without what is in them.
fn signature(difference: &Difference) -> String {
    let form = |reply: &str| reply.chars().filter(|c| c.is_alphabetic() || *c == '(').take(24).collect::<String>();
    let name = difference.command.iter().take(if difference.command[0].contains(&b' ') { 2 } else { 1 });
    let name: Vec<String> = name.map(|word| String::from_utf8_lossy(word).to_uppercase()).collect();
    format!("{name:?} {} {}", form(&difference.replies[0]), form(&difference.replies[1]))
}

/// Compares until enough commands were run; the failures, each shrunk.
fn compare_all(addresses: &[String; 2], commands: u64, settings: &Settings) -> (u64, Vec<String>) {
    let (mut done, mut seed) = (0, seed());
    let (mut seen, mut failures, mut known) = (BTreeSet::new(), Vec::new(), BTreeMap::new());
    let failures_max = setting("LOCI_DIFF_FAILURES", 12);
    while done < commands && (failures.len() as u64) < failures_max {
        let sequence = make(seed, settings);
        done += sequence.steps.len() as u64;
        let mut difference = run(&sequence, addresses, settings.strict);
        if difference.as_ref().is_some_and(|difference| difference.known.is_none()) {
            // On a busy machine a wait may be over before what it waits for comes.
            let again = run(&sequence, addresses, settings.strict);
            if again.is_none() {
                *known.entry("it did not show again").or_insert(0) += 1;
            }
            difference = again;
        }
        if let Some(reason) = difference.as_ref().and_then(|difference| difference.known) {
            *known.entry(reason).or_insert(0) += 1;
        } else if let Some(difference) = difference
            && seen.insert(signature(&difference))
        {
            let (sequence, difference) = shrink(sequence, difference, addresses, settings.strict);
            seen.insert(signature(&difference));
            failures.push(report(seed, &sequence, &difference));
            say(failures.last().expect("one was just found"));
        }
        seed += 1;
    }
    known.iter().for_each(|(reason, times)| say(&format!("{times:>6} times: {reason}")));
    (done, failures)
}

#[test]
fn every_command_is_answered_as_redis_answers_it() {
    let Some(redis) = RedisServer::start() else {
        return say("skipped: there is no redis-server here to compare with");
    };
    let given = std::env::var("LOCI_REDIS").ok();
    let twin = if given.is_none() { RedisServer::start() } else { None };
    let other = given.or_else(|| twin.as_ref().map(|twin| twin.address.clone()));
    let addresses = [redis.address.clone(), other.expect("there is one to compare with")];
    let (done, failures) = compare_all(&addresses, setting("LOCI_DIFF_COMMANDS", 3_000), &settings());
    say(&format!("{done} commands on both, {} kinds of differences", failures.len()));
    assert!(failures.is_empty(), "{} kinds of differences", failures.len());
}

#[test]
fn a_server_that_differs_is_noticed_and_little_is_left_of_what_shows_it() {
    let (Some(redis), Some(twin)) = (RedisServer::start(), RedisServer::start()) else {
        return say("skipped: there is no redis-server here to compare with");
    };
    let mut connection = Connection::open(&twin.address);
    connection.say("CONFIG SET hash-max-listpack-entries 2").expect("it is set");
    let settings = Settings { families: vec!["hashes".into(), "keys".into()], known: BTreeSet::new(), strict: false };
    let addresses = [redis.address.clone(), twin.address.clone()];
    for seed in 0..500 {
        let sequence = make(seed, &settings);
        if let Some(difference) = run(&sequence, &addresses, false) {
            let (sequence, difference) = shrink(sequence, difference, &addresses, false);
            assert_eq!(difference.command[0], b"OBJECT", "{}", report(seed, &sequence, &difference));
            assert!(sequence.steps.len() <= 4, "{}", report(seed, &sequence, &difference));
            return;
        }
    }
    panic!("a planted difference was not noticed");
}
