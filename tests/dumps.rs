//! Dumps of typed values that are damaged under a checksum that fits: `RESTORE` takes or refuses them, and what it takes
//! can be used in every way. The harness of fuzzing says how inputs are made; `LOCI_FUZZ_SECONDS=60` makes the longer run.

use loci_index::table::call::Chance;
use loci_index::table::eviction::Policy;
use loci_index::table::execute::{self, Moment};
use loci_index::table::keyspace::Keyspace;
use loci_index::table::tape::{Item, Tape};
use loci_tests::fuzz::{self, Mutate, Target};

/// Seals what a dump holds with the checksum that fits.
fn mend_dump(dump: &mut [u8]) {
    if let Some((sealed, sum)) = dump.split_last_chunk_mut::<8>().map(|(sealed, sum)| (&*sealed, sum)) {
        *sum = xxhash_rust::xxh3::xxh3_64(sealed).to_le_bytes();
    }
}

#[test]
fn no_dump_makes_restore_panic() {
    let call = |keyspace: &mut Keyspace, args: &[&[u8]]| {
        let mut out = Tape::new();
        let spec = execute::find(args).expect("a command");
        execute::write(keyspace, spec, args, Moment { now: 1_000_000, version: 7, number: 0 }, &mut out);
        out
    };
    let mut made = Keyspace::new(1);
    let many = |name: &str, what: &dyn Fn(usize) -> String, count: usize| {
        let each = (0..count).map(what).collect::<Vec<_>>().join(" ");
        format!("{name} {each}")
    };
    let lines = [
        "SET string text".to_string(),
        "SETRANGE text 3 text".into(),
        "RPUSH list a bc def".into(),
        many("RPUSH long", &|n| format!("element-{n}"), 900),
        "HSET hash f v g w".into(),
        "HSETEX timed EX 100 FIELDS 2 f v g w".into(),
        many("HSET large", &|n| format!("field:{n} value"), 600),
        "SADD numbers 1 -2 70000".into(),
        "SADD words a b c".into(),
        many("SADD members", &|n| format!("m{n}"), 300),
        "ZADD sorted 1 a 2.5 b -inf c".into(),
        many("ZADD ranks", &|n| format!("{n} m{n}"), 200),
        "XADD stream 1-1 f v g w".into(),
        "XADD stream 2-1 f v g w".into(),
        "XGROUP CREATE stream group 0".into(),
        "XREADGROUP GROUP group me COUNT 1 STREAMS stream >".into(),
        "PFADD things a b c".into(),
        "RL.BUCKET bucket 5 1 2".into(),
        "RL.WINDOW window 5 1000 2".into(),
    ];
    for line in &lines {
        let tape = call(&mut made, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
        assert!(!matches!(tape.items().next(), Some(Item::Error(_))), "{line}");
    }
    let keys: Vec<Vec<u8>> = made.keys().map(<[u8]>::to_vec).collect();
    let mut dumps = Vec::new();
    for key in &keys {
        let tape = call(&mut made, &[b"DUMP", key]);
        let Some(Item::Bulk(dump)) = tape.items().next() else { panic!("{key:?} is there") };
        dumps.push(dump.to_vec());
    }
    // What is believed is used: read in every way, changed, counted, and written down once more.
    let uses = [
        "TYPE k",
        "OBJECT ENCODING k",
        "GET k",
        "STRLEN k",
        "APPEND k x",
        "INCR k",
        "LRANGE k 0 -1",
        "LINDEX k -1",
        "LPOP k",
        "LINSERT k BEFORE a b",
        "LTRIM k 1 -2",
        "HGETALL k",
        "HSET k f 1 new v",
        "HDEL k f g",
        "HPEXPIRE k 5 FIELDS 1 new",
        "HRANDFIELD k 3",
        "SMEMBERS k",
        "SADD k new",
        "SPOP k",
        "SISMEMBER k a",
        "ZRANGE k 0 -1 WITHSCORES",
        "ZADD k 3 new",
        "ZRANK k new",
        "ZRANGEBYSCORE k 0 10",
        "ZPOPMIN k",
        "XRANGE k - +",
        "XADD k * f v",
        "XINFO STREAM k FULL",
        "XREADGROUP GROUP group me STREAMS k >",
        "XTRIM k MAXLEN 1",
        "PFCOUNT k",
        "PFADD k x",
        "RL.BUCKET k 5 1 1",
        "RL.WINDOW k 5 1000 1",
        "DUMP k",
    ];
    let uses = uses.map(|line| line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    fuzz::run(Target {
        name: "dump",
        seeds: dumps,
        inputs: 20_000,
        mutate: Mutate::Anyhow,
        mend: &|bytes| mend_dump(bytes),
        decode: &mut |input| {
            let mut keyspace = Keyspace::new(1);
            let restored = call(&mut keyspace, &[b"RESTORE", b"k", b"0", input]);
            let Some(Item::Status(_)) = restored.items().next() else {
                return format!("{:?}", restored.items().next());
            };
            let dumped = call(&mut keyspace, &[b"DUMP", b"k"]);
            let mut kinds = String::new();
            for args in &uses {
                let tape = call(&mut keyspace, args);
                kinds.push(if matches!(tape.items().next(), Some(Item::Error(_))) { 'e' } else { 'o' });
            }
            assert_eq!(keyspace.sum(), keyspace.sum_from_entries());
            let victims = keyspace.victims(1, Policy::S3Fifo, 10, &mut Chance::new(1));
            assert!(victims.len() <= keyspace.len());
            format!("{kinds} {}", "x".repeat(dumped.len().ilog2() as usize))
        },
    });
}
