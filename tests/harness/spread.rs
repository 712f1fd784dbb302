//! Databases of clients of Redis that are spread over several shards, beside one that is not.

use std::collections::BTreeSet;

use loci_wire::resp::Reply;

use crate::chance::Chance;
use crate::resp::{Client, text};

/// Calls lines, which have these replies.
pub fn check(client: &mut Client, lines: &[(&str, &str)]) {
    for (line, expected) in lines {
        assert_eq!(client.line(line), *expected, "{line}");
    }
}

/// The words of a line.
pub fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

/// The words of a list, sorted.
pub fn sorted(reply: &Reply) -> Vec<String> {
    let Reply::Array(items) = reply else { panic!("a list: {reply:?}") };
    let mut words: Vec<String> = items.iter().map(text).collect();
    words.sort();
    words
}

/// All keys that a scan sees.
pub fn scanned(client: &mut Client, more: &str) -> BTreeSet<String> {
    let (mut cursor, mut found) = ("0".to_owned(), BTreeSet::new());
    for _ in 0..100_000 {
        let Reply::Array(parts) = client.call(&format!("SCAN {cursor}{more}")) else { panic!("a cursor and keys") };
        found.extend(sorted(&parts[1]));
        cursor = text(&parts[0]);
        if cursor == "0" {
            return found;
        }
    }
    panic!("a scan without end")
}

/// A line about keys of one slot each; what is in one line has a common tag.
pub fn a_line(chance: &mut Chance) -> String {
    let tag = chance.below(40);
    let key = |chance: &mut Chance| format!("{{t{tag}}}{}", chance.below(3));
    let (one, other, number) = (key(chance), key(chance), chance.below(100));
    match chance.below(30) {
        0..=4 => format!("SET {one} {number}"),
        5..=7 => format!("GET {one}"),
        8 => format!("INCR {one}"),
        9 => format!("DEL {one} {other}"),
        10 => format!("MSET {one} {number} {other} x"),
        11 => format!("MGET {one} {other} {{t{tag}}}9"),
        12 => format!("RPUSH l{one} {number}"),
        13 => format!("LRANGE l{one} 0 -1"),
        14 => format!("LMOVE l{one} l{other} LEFT RIGHT"),
        15 => format!("SADD s{one} {number} {}", number / 2),
        16 => format!("SCARD s{one}"),
        17 => format!("EXISTS {one} {other} l{one}"),
        18 => format!("RENAME {one} {other}"),
        19 => format!("TTL {one}"),
        20 => format!("APPEND {one} x"),
        21 => "DBSIZE".into(),
        22 => format!("EVAL return{{redis.call('INCR',KEYS[1]),ARGV[1]}} 1 n{one} {number}"),
        23 => format!("TYPE s{one}"),
        24 => format!("SET {one} {number} TAGS 1 about{}", number % 5),
        25 => format!("TAG.COUNT about{}", number % 5),
        26 if number < 10 => format!("TAG.DROP about{}", number % 5),
        27 if number < 3 => "FLUSHDB".into(),
        28 => format!("SELECT {}", number % 3),
        29 => format!("COPY {one} {other} REPLACE"),
        _ => "PING".into(),
    }
}

/// Clients of databases that are spread are answered like one of a database that is not; so many calls, each batch by any of them.
pub fn answer_as_one(one: &mut Client, wide: &mut [Client], seed: u64, steps: u64) {
    let mut chance = Chance::new(seed);
    let mut step = 0;
    while step < steps {
        let wide = &mut wide[chance.below(wide.len() as u64) as usize];
        // Some one after the other, some all at once, some as a transaction.
        let count = 1 + chance.below(40);
        let mut lines: Vec<String> = (0..count).map(|_| a_line(&mut chance)).collect();
        if chance.below(4) == 0 {
            let tag = chance.below(40);
            lines = (0..6).map(|number| format!("APPEND {{t{tag}}}{} y", number % 3)).collect();
            lines.insert(0, "MULTI".into());
            lines.push("EXEC".into());
        }
        lines.insert(0, format!("SELECT {}", chance.below(3)));
        let calls: Vec<Vec<&str>> = lines.iter().map(|line| words(line)).collect();
        for client in [&mut *one, &mut *wide] {
            assert!(client.send(&calls), "the node is there");
        }
        for line in &lines {
            let replies = [&mut *one, &mut *wide].map(|client| text(&client.reply().expect("a reply")));
            assert_eq!(replies[0], replies[1], "{line}, LOCI_SEED={seed}, among {lines:#?}");
        }
        step += lines.len() as u64;
        if chance.below(10) == 0 {
            let keys = [&mut *one, &mut *wide].map(|client| sorted(&client.call("KEYS *")));
            assert_eq!(keys[0], keys[1], "LOCI_SEED={seed}");
            let all: BTreeSet<String> = keys[0].iter().cloned().collect();
            for more in ["", " COUNT 1", " COUNT 100 MATCH *"] {
                assert_eq!(scanned(wide, more), all, "SCAN 0{more}, LOCI_SEED={seed}");
            }
            for _ in 0..5 {
                let drawn = wide.line("RANDOMKEY");
                assert!(all.contains(&drawn) || (all.is_empty() && drawn == "nothing"), "{drawn}, LOCI_SEED={seed}");
            }
        }
    }
}
