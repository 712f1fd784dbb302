//! How much a read has to walk over: whoever serves many clients on one thread reads what is large elsewhere.
//!
//! An estimate, from what its keys take and from how much of it was asked for, that costs a look at each key.

use super::commands::{FAST, Spec, is, parse_int};
use super::keyspace::Keyspace;

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

#[cfg(test)]
mod tests {
    use super::super::commands::find;
    use super::super::execute::tests::Trial;
    use super::*;

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
