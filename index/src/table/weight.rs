//! How much a call has to walk over: whoever serves many clients on one thread reads what is large elsewhere, and a script may
//! make calls without end, most of which do not tell by their replies what they took.
//!
//! Estimates, from what the keys hold and from how much of it was asked for, that cost a look at each key.

use super::commands::{FAST, Spec, is, parse_int};
use super::keyspace::Keyspace;
use super::objects::STRING_BYTES;

/// Keys that take less together are read at once.
const LIGHT_BYTES: usize = 1 << 20;
/// Of larger ones, so many elements are.
const LIGHT_ELEMENTS: u64 = 10_000;

/// How many elements of a large value a call asks for, if it says so. Bytes of a string count less.
fn asked(spec: &Spec, args: &[&[u8]]) -> Option<u64> {
    let between = |divisor: u64| {
        let (first, last) = (parse_int(args.get(2)?)?, parse_int(args.get(3)?)?);
        // From one end to somewhere: not known.
        ((first < 0) == (last < 0)).then(|| last.abs_diff(first) / divisor)
    };
    match spec.name {
        "lrange" | "zrange" | "zrevrange" if args.len() == 4 || args.get(4).is_some_and(|it| is(it, "withscores")) => {
            between(1)
        }
        "getrange" | "substr" => between(64),
        "hscan" | "sscan" | "zscan" | "scan" | "xrange" | "xrevrange" => {
            let count = args.windows(2).find(|pair| is(pair[0], "count")).map(|pair| pair[1]);
            match count {
                Some(count) => u64::try_from(parse_int(count)?).ok(),
                None if spec.name.ends_with("scan") => Some(10),
                None => None,
            }
        }
        "srandmember" | "hrandfield" | "zrandmember" => {
            args.get(2).map_or(Some(1), |count| parse_int(count).map(i64::unsigned_abs))
        }
        "lindex" | "zscore" | "object" => Some(1),
        _ => None,
    }
}

/// Whether a read takes so long that others should not wait for it.
pub fn is_heavy(keyspace: &Keyspace, spec: &Spec, args: &[&[u8]], now: u64) -> bool {
    if spec.is(FAST) && !matches!(spec.name, "mget" | "hmget") {
        return false;
    }
    let places = spec.key_places(args);
    let bytes = places.into_iter().filter_map(|place| keyspace.bytes_of(args.get(place)?, now)).sum::<usize>();
    let is_large = bytes > LIGHT_BYTES || spec.name == "scan";
    is_large && asked(spec, args).is_none_or(|elements| elements > LIGHT_ELEMENTS)
}

/// In steps of a script (of about 20 ns), what a call walks over without a word of it in its reply. The same on every member.
///
/// Searches of places (`GEOSEARCH`) are taken to look at a quarter of a set: it is not known beforehand.
pub fn walked(keyspace: &Keyspace, spec: &Spec, args: &[&[u8]], now: u64) -> u64 {
    let named = |option: &str| args.windows(2).find(|pair| is(pair[0], option)).and_then(|pair| parse_int(pair[1]));
    // How many elements the keys have that are read, in order.
    let lens = || -> Vec<u64> {
        // What is stored into comes first, but for `SORT` and `GEORADIUS`, which say so at the end.
        let stores = spec.name.ends_with("store") || spec.name == "bitop";
        let keys = spec.key_places(args).into_iter().skip(usize::from(stores));
        keys.filter_map(|place| Some(keyspace.elements_of(args.get(place)?, now) as u64)).collect()
    };
    let first = || lens().first().copied().unwrap_or(0);
    // Of a string, where the call says from which byte to which.
    let bytes = |place: usize| match args.get(place..) {
        Some([start, end]) => match (parse_int(start), parse_int(end)) {
            (Some(start), Some(end)) if (start < 0) == (end < 0) => {
                first().min(start.abs_diff(end) / STRING_BYTES as u64)
            }
            _ => first(),
        },
        _ => first(),
    };
    // Most calls of scripts are.
    if spec.is(FAST) {
        return 0;
    }
    match spec.name {
        "lrem" | "linsert" => first() / 4,
        "lpos" => named("maxlen").filter(|most| *most > 0).map_or(u64::MAX, |most| most as u64).min(first()) / 4,
        "sinter" | "sintercard" | "sinterstore" | "zinter" | "zintercard" | "zinterstore" => {
            let lens = lens();
            2 * lens.len() as u64 * lens.iter().min().copied().unwrap_or(0)
        }
        "sunion" | "sunionstore" | "zunion" | "zunionstore" => 4 * lens().iter().sum::<u64>(),
        "sdiff" | "sdiffstore" => {
            let lens = lens();
            2 * (lens.len() as u64 * lens.first().unwrap_or(&0)).min(2 * lens.iter().sum::<u64>())
        }
        "zdiff" | "zdiffstore" => {
            let lens = lens();
            2 * lens.len() as u64 * lens.first().unwrap_or(&0)
        }
        "sort" | "sort_ro" => 16 * first(),
        name if name.starts_with("geosearch") || name.starts_with("georadius") => first() / 4,
        "sscan" | "hscan" | "zscan" => named("count").map_or(10, i64::unsigned_abs).min(first()),
        "scan" => named("count").map_or(10, i64::unsigned_abs).min(keyspace.len() as u64),
        "bitcount" => bytes(2),
        "bitpos" => bytes(3),
        "bitop" => lens().iter().sum(),
        "pfmerge" => SKETCH_STEPS * lens().len() as u64,
        "pfcount" if args.len() > 2 => SKETCH_STEPS * lens().len() as u64,
        "lcs" => lens().iter().map(|len| (len + 1) * STRING_BYTES as u64).product::<u64>() / 8,
        _ => 0,
    }
}

/// What it takes to add one sketch to another, in steps.
const SKETCH_STEPS: u64 = 500;

#[cfg(test)]
mod tests {
    use super::super::commands::find;
    use super::super::execute::tests::Trial;
    use super::*;

    #[test]
    fn what_a_script_is_charged_is_what_is_walked_over() {
        let mut trial = Trial::new();
        for number in 0..1_000 {
            trial.line(&format!("RPUSH l {number}"));
            trial.line(&format!("SADD s {number}"));
            trial.line(&format!("ZADD z {number} {number}"));
        }
        trial.line("SADD few 1 2 3");
        trial.line("SETRANGE text 63999 x");
        for (line, steps) in [
            ("LREM l 1 x", 250),
            ("LREM nothing 1 x", 0),
            ("LPOS l x", 250),
            ("LPOS l x MAXLEN 40", 10),
            ("LINSERT l BEFORE x y", 250),
            ("LPUSH l x", 0),
            ("SINTER s few", 12),
            ("SINTERCARD 2 s s", 4_000),
            ("SINTERSTORE s few few", 12),
            ("SUNION s few", 4_012),
            ("ZUNIONSTORE s 2 z few", 4_012),
            ("ZINTERSTORE s 2 z nothing", 0),
            ("SDIFF few s", 12),
            ("SDIFF s few few few few few few few", 4_084),
            ("ZDIFFSTORE x 2 few z", 12),
            ("SORT l LIMIT 0 1", 16_000),
            ("SSCAN s 0", 10),
            ("HSCAN nothing 0 COUNT 100", 0),
            ("ZSCAN z 0 COUNT 5000", 1_000),
            ("SCAN 0 COUNT 100000", 5),
            ("BITCOUNT text", 1_000),
            ("BITCOUNT text 0 639", 9),
            ("BITCOUNT text 0 -1", 1_000),
            ("BITPOS text 1", 1_000),
            ("BITPOS text 1 -640 -1", 9),
            ("BITOP NOT x text", 1_000),
            ("PFCOUNT a", 0),
            ("PFCOUNT a b", 1_000),
            ("GEOSEARCH z FROMMEMBER 1 BYRADIUS 1 km", 250),
            ("LCS text nothing", 1_001 * 64 * 8),
            ("ZRANGE z 0 -1", 0),
            ("GET text", 0),
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert_eq!(walked(&trial.keyspace, find(args[0]).expect("a command"), &args, trial.now), steps, "{line}");
        }
    }

    #[test]
    fn what_walks_over_much_is_heavy() {
        let mut trial = Trial::new();
        trial.line("ZADD small 1 a");
        let long = "x".repeat(20);
        for part in 0..30 {
            let members: Vec<String> = (0..1_000).map(|number| format!("{number} {long}{part}.{number}")).collect();
            trial.line(&format!("ZADD large {}", members.join(" ")));
        }
        trial.line("SETRANGE text 3000000 x");
        for (line, heavy) in [
            ("zrange small 0 -1", false),
            ("zrange large 0 -1", true),
            ("zrange large 0 99", false),
            ("zrange large -50 -1 WITHSCORES", false),
            ("zrange large 0 20000", true),
            ("zrange large 0 99 BYSCORE", true),
            ("zrangebyscore large 0 99", true),
            ("zscan large 0", false),
            ("zscan large 0 COUNT 500000", true),
            ("zscore large x", false),
            ("zunion 2 small large", true),
            ("zcard large", false),
            ("zrandmember large 5", false),
            ("zrandmember large -1000000", true),
            ("mget text text", true),
            ("scan 0", false),
            ("scan 0 COUNT 500000", true),
            ("getrange text 0 100", false),
            ("getrange text 0 2000000", true),
            ("bitcount text", true),
            ("zrange nothing 0 -1", false),
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            assert_eq!(is_heavy(&trial.keyspace, find(args[0]).expect("a command"), &args, trial.now), heavy, "{line}");
        }
    }
}
