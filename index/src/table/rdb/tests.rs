//! What a Redis dumped is read, what is written is read again, and damage is refused.

use super::*;
use crate::table::call::Chance;
use crate::table::execute::tests::{Trial, text};
use crate::table::objects::Object;
use crate::table::tape::{Item, Items};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap()).collect()
}

#[test]
fn the_checksum_is_that_of_redis() {
    assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
}

/// As redis-server 7.0.15 dumped them, with what they are.
const OF_REDIS: &[(&str, &str, &str)] = &[
    ("000568656c6c6f0a006372df766534200a", "GET k", "\"hello\""),
    ("00c0f90a005e26d130d7a242ab", "GET k", "\"-7\""),
    ("00c215cd5b070a00a4b7c909e0e9379e", "GET k", "\"123456789\""),
    ("00c30b40780361626361e069020162630a00c494a1702ae23e06", "GETRANGE k 114 -1", "\"abcabc\""),
    (
        "120102c325406516650000000500816102dfff02f270110104f400f2052a0120150309e04678e03c000148ff0a0099e4d269a61a80f9",
        "LRANGE k 0 3",
        "[\"a\" \"-1\" \"70000\" \"5000000000\"]",
    ),
    ("0b1404000000030000000100000002000000701101000a0085d5c1065b1dd055", "SMEMBERS k", "~[\"1\" \"2\" \"70000\"]"),
    ("02030163016101620a00d51bc2f0968e69c3", "SMEMBERS k", "~[\"c\" \"a\" \"b\"]"),
    ("1012120000000400816602817602816e020c01ff0a0001369481d35b8974", "HGETALL k", "{\"f\" \"v\" \"n\" \"12\"}"),
    ("040201660176016ec00c0a002acab7136ca4a7ab", "HGETALL k", "{\"f\" \"v\" \"n\" \"12\"}"),
    (
        "111d1d0000000600816202842d696e660581610283312e35048163020301ff0a002970c58fcde6fc31",
        "ZRANGE k 0 -1",
        "[\"b\" \"a\" \"c\"]",
    ),
    (
        "0503016300000000000008400161000000000000f83f0162000000000000f0ff0a009aa25325610ceafb",
        "ZSCORE k a",
        "(double) 1.5",
    ),
    (
        "13011000000000000000010000000000000001404a4a0000001f000301010102018161028162020001020100010001010102010501030100010\
         10103010401050100010401dfff0201018163020501060102010501dfff02070108010501ff030600010101020401016700008\
         1ffffffffffffffff00010469646c653c0a4526a2010000000a006b086da7d73e3f44",
        "XRANGE k - +",
        "[[\"1-1\" [\"a\" \"1\" \"b\" \"2\"]] [\"5-0\" [\"c\" \"5\"]] [\"6-0\" [\"a\" \"7\" \"b\" \"8\"]]]",
    ),
    (
        "1202020c0c00000001008378787804ff020c0c00000001008379797904ff0a00f1700d323e9f5efa",
        "LRANGE k 0 -1",
        "[\"xxx\" \"yyy\"]",
    ),
];

#[test]
fn what_a_redis_dumped_is_read() {
    for (payload, line, expected) in OF_REDIS {
        let mut trial = Trial::new();
        let payload = bytes(payload);
        assert_eq!(text(trial.call(&[b"RESTORE", b"k", b"0", &payload]).bytes()), "OK", "{line} {expected}");
        assert_eq!(trial.line(line), *expected);
    }
}

#[test]
fn the_older_forms_are_read() {
    // a, 2, 300: each with the length of the one before; then a, b, c, 5.
    let list = |entries: &str, count: u8| {
        let mut out = vec![0; 8];
        out.extend([count, 0]);
        out.extend(bytes(entries));
        out.push(255);
        let total = out.len() as u32;
        out[..4].copy_from_slice(&total.to_le_bytes());
        out
    };
    let ziplist = list("00016103f302c02c01", 3);
    let pairs = list("00016103016203016303f6", 4);
    let zipmap = bytes("010166010076ff");
    let old_scores = bytes("0302016103312e350162fe");
    let quick = {
        let mut out = vec![14, 2];
        for _ in 0..2 {
            put_string(&mut out, &ziplist);
        }
        out
    };
    let of = |kind: u8, node: &[u8]| {
        let mut out = vec![kind];
        put_string(&mut out, node);
        out
    };
    for (content, line, expected) in [
        (of(10, &ziplist), "LRANGE k 0 -1", "[\"a\" \"2\" \"300\"]"),
        (quick, "LLEN k", "(integer) 6"),
        (of(13, &pairs), "HGETALL k", "{\"a\" \"b\" \"c\" \"5\"}"),
        (of(9, &zipmap), "HGETALL k", "{\"f\" \"v\"}"),
        (old_scores, "ZSCORE k b", "(double) inf"),
    ] {
        let mut trial = Trial::new();
        let mut payload = content;
        seal(&mut payload, 6);
        assert_eq!(text(trial.call(&[b"RESTORE", b"k", b"0", &payload]).bytes()), "OK", "{line}");
        assert_eq!(trial.line(line), expected);
    }
}

fn dump(trial: &mut Trial) -> Vec<u8> {
    let tape = trial.call(&[b"DUMP", b"k"]);
    match Items::new(tape.bytes()).next() {
        Some(Item::Bulk(payload)) => payload.to_vec(),
        other => unreachable!("k is there: {other:?}"),
    }
}

/// Lines that make a value of some kind.
fn lines(chance: &mut Chance) -> Vec<String> {
    let count = 1 + chance.below(300);
    let kind = chance.below(6);
    let mut lines = Vec::new();
    for at in 0..count {
        let element = match chance.below(5) {
            0 => format!("{}", chance.next_u64() as i64 >> chance.below(64)),
            1 => "x".repeat(1 + chance.below(200)),
            2 => "y".repeat(4000 + chance.below(300)),
            _ => format!("e{}", chance.below(1000)),
        };
        lines.push(match kind {
            0 if at == 0 => format!("SET k {element}"),
            0 => format!("APPEND k {element}"),
            1 => format!("RPUSH k {element}"),
            2 => format!("SADD k {element}"),
            3 => format!("ZADD k {} {element}", chance.next_u64() as i64 as f64 / 7.0),
            4 if at % 9 == 8 && chance.below(2) == 0 => format!("HPEXPIRE k {} FIELDS 1 a", 5000 + chance.below(9)),
            4 => format!("HSET k {} {element}", if at == 0 { "a".into() } else { format!("f{}", chance.below(500)) }),
            _ if at == 20 => "XGROUP CREATE k g 0".into(),
            _ if at > 20 && at % 7 == 0 => {
                format!("XREADGROUP GROUP g c{} COUNT 3 STREAMS k >", chance.below(3))
            }
            _ if at > 30 && at % 11 == 0 => format!("XDEL k {}-1", 1 + chance.below(at)),
            _ => format!("XADD k {}-1 {} {element}", at + 1, if chance.below(9) == 0 { "odd" } else { "f" }),
        });
    }
    lines
}

#[test]
fn every_value_comes_back_and_damage_is_refused_or_harmless() {
    for seed in 0..400u64 {
        let mut chance = Chance::new(seed);
        let mut trial = Trial::new();
        for line in lines(&mut chance) {
            assert!(!trial.line(&line).starts_with("(error) ERR u"), "seed {seed}: {line}");
        }
        let kind = trial.line("TYPE k");
        if kind == "none" {
            continue;
        }
        let payload = dump(&mut trial);
        let mut copy = Trial::new();
        assert_eq!(text(copy.call(&[b"RESTORE", b"k", b"0", &payload]).bytes()), "OK", "seed {seed}: {kind}");
        assert_eq!(dump(&mut copy), payload, "seed {seed}: {kind}");
        let sums = [&trial, &copy].map(|trial| match trial.keyspace.copy_of(b"k", trial.now).unwrap().value {
            crate::table::keyspace::TakenValue::String(value) => value.len() as u64,
            crate::table::keyspace::TakenValue::Object(Object::Text(text)) => text.bytes().len() as u64,
            crate::table::keyspace::TakenValue::Object(object) => object.sum(),
        });
        assert_eq!(sums[0], sums[1], "seed {seed}: {kind}");
        for _ in 0..30 {
            let mut damaged = payload[..payload.len() - TRAILER_BYTES].to_vec();
            for _ in 0..=chance.below(3) {
                let at = chance.below(damaged.len());
                damaged[at] = chance.next_u64() as u8;
            }
            if chance.below(4) == 0 {
                damaged.truncate(chance.below(damaged.len()));
            }
            seal(&mut damaged, 12);
            let reply = text(copy.call(&[b"RESTORE", b"k", b"0", &damaged, b"REPLACE"]).bytes());
            assert!(reply == "OK" || reply == "(error) ERR Bad data format", "seed {seed}: {reply}");
        }
    }
}

#[test]
fn entries_of_a_stream_do_not_multiply_the_names_that_they_share() {
    let dump = |entries: usize, name_bytes: usize| {
        let mut node = packed::Listpack::new();
        node.string(entries.to_string().as_bytes());
        node.string(b"0");
        node.string(b"1");
        node.string(&vec![b'n'; name_bytes]);
        node.string(b"0");
        for number in 0..entries {
            for text in ["2", "0", &(number + 1).to_string(), "v", "4"] {
                node.string(text.as_bytes());
            }
        }
        let mut payload = vec![values::types::STREAM];
        wire::put_number(&mut payload, 1);
        wire::put_string(&mut payload, &[0; 16]);
        wire::put_string(&mut payload, &node.into_bytes());
        for number in [entries as u64, 0, entries as u64, 0] {
            wire::put_number(&mut payload, number);
        }
        seal(&mut payload, 9);
        payload
    };
    for (entries, name_bytes, reply) in
        [(1_000, 10, "OK"), (30, 1 << 20, "OK"), (1_000, 1 << 20, "(error) ERR Bad data format")]
    {
        let mut trial = Trial::new();
        let payload = dump(entries, name_bytes);
        assert_eq!(text(trial.call(&[b"RESTORE", b"k", b"0", &payload]).bytes()), reply, "{entries} x {name_bytes}");
    }
}

#[test]
fn a_node_with_too_many_strings_is_refused() {
    let mut node = packed::Listpack::new();
    for _ in 0..(1 << 20) + 1 {
        node.string(b"1");
    }
    assert_eq!(packed::listpack(&node.into_bytes()), None);
}

#[test]
fn what_is_compressed_does_not_grow_beyond_its_bound() {
    // A copy of the byte before, as long as one can be, again and again.
    let mut packed = vec![0, b'x'];
    for _ in 0..300_000 {
        packed.extend([0xe0, 255, 0]);
    }
    let whole = 1 + 300_000 * 264usize;
    let mut payload = vec![0, 0xc3];
    for number in [packed.len(), whole] {
        payload.push(0x80);
        payload.extend((number as u32).to_be_bytes());
    }
    payload.extend(packed);
    seal(&mut payload, 9);
    let mut trial = Trial::new();
    assert_eq!(text(trial.call(&[b"RESTORE", b"k", b"0", &payload]).bytes()), "(error) ERR Bad data format");
}
