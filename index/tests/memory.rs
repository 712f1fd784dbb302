//! What a table says that it takes in memory, against what the allocator says: for every kind of value, few elements and
//! many, and after most of it changed.
//!
//! Each kind alone in its process, because the allocator knows of all memory and not of whose it is.
//! `LOCI_KEYS=1000000` takes that many keys for the kinds that are small.

#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![expect(unsafe_code, reason = "the allocator's own figures come from the C library")]

use loci_index::table::call::Chance;
use loci_index::table::eviction::Policy;
use loci_index::table::execute::{self, Moment};
use loci_index::table::keyspace::Keyspace;
use loci_index::table::slab;
use loci_index::table::tape::Tape;

/// What the allocator has given out, as `mallinfo2(3)` says it.
#[repr(C)]
struct Mallinfo2 {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    hblks: usize,
    hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

unsafe extern "C" {
    fn mallinfo2() -> Mallinfo2;
}

/// Bytes given out: from its heaps, as mappings of their own, and as places of slabs, which it knows nothing of.
fn given_out() -> usize {
    // SAFETY: the function takes nothing, gives a plain structure back, and may be called at any time by any thread.
    let info = unsafe { mallinfo2() };
    info.uordblks + info.hblkhd + slab::figures().given_out
}

/// A table that is filled.
struct Filled {
    keyspace: Keyspace,
    version: u64,
    tape: Tape,
}

const NOW: u64 = 1_800_000_000_000;

impl Filled {
    fn call(&mut self, args: &[&[u8]]) {
        self.version += 1;
        let moment = Moment { now: NOW, version: self.version, number: 0 };
        let spec = execute::find(args).expect("a command");
        self.tape.truncate(0);
        // As the store does it before each call.
        self.keyspace.begin_growth(u64::MAX);
        execute::write(&mut self.keyspace, spec, args, moment, &mut self.tape);
        assert_ne!(self.tape.bytes().first(), Some(&2), "{}", String::from_utf8_lossy(self.tape.bytes()));
    }

    /// A call in words; `#` stands for a key.
    fn line(&mut self, key: &[u8], line: &str) {
        let args: Vec<&[u8]> = line.split(' ').map(|word| if word == "#" { key } else { word.as_bytes() }).collect();
        self.call(&args);
    }
}

type Fill = fn(&mut Filled, &[u8], usize, &mut Chance);

/// A kind of value in one of its forms: its name, how many keys have one, and how it is made.
const FORMS: &[(&str, usize, Fill)] = &[
    ("strings of 100 bytes", 1, |table, key, _, _| table.call(&[b"SET", key, &[b'x'; 100]])),
    ("strings with deadlines", 1, |table, key, n, _| {
        table.call(&[b"SET", key, &[b'x'; 40], b"PX", (1 + n).to_string().as_bytes()]);
    }),
    ("strings of any length", 1, |table, key, _, chance| table.call(&[b"SET", key, &vec![b'x'; chance.below(400)]])),
    ("strings of 20 kB", 200, |table, key, _, _| table.call(&[b"SET", key, &[b'x'; 20_000]])),
    ("strings that were added to", 1, |table, key, _, chance| {
        for _ in 0..1 + chance.below(5) {
            table.call(&[b"APPEND", key, &[b'x'; 30]]);
        }
    }),
    ("numbers", 1, |table, key, _, _| table.line(key, "INCRBY # 123456")),
    ("bitmaps", 10, |table, key, n, _| table.line(key, &format!("SETBIT # {} 1", n % 10_000))),
    ("packed hashes", 5, |table, key, n, _| {
        (0..8).for_each(|field| table.line(key, &format!("HSET # field:{field} value:{n}")));
    }),
    ("hashes of long values", 20, |table, key, n, _| {
        (0..10).for_each(|field| table.line(key, &format!("HSET # field:{field} {n:0>120}")));
    }),
    ("large hashes", 1_000, |table, key, n, _| {
        (0..1_000).for_each(|field| table.line(key, &format!("HSET # field:{field} value:{n}")));
    }),
    ("hashes whose fields end", 1_000, |table, key, n, _| {
        (0..600).for_each(|field| table.line(key, &format!("HSETEX # EX {} FIELDS 1 f:{field} {n}", 100 + field)));
    }),
    ("packed sets of numbers", 5, |table, key, n, _| {
        (0..10).for_each(|member| table.line(key, &format!("SADD # {}", member * 1_000 + n)));
    }),
    ("packed sets of words", 5, |table, key, n, _| {
        (0..10).for_each(|member| table.line(key, &format!("SADD # word:{member}:{n}")));
    }),
    ("large sets of numbers", 500, |table, key, n, _| {
        (0..400).for_each(|member| table.line(key, &format!("SADD # {}", member * 1_000 + n)));
    }),
    ("large sets of words", 1_000, |table, key, n, _| {
        (0..1_000).for_each(|member| table.line(key, &format!("SADD # word:{member}:{n}")));
    }),
    ("packed sorted sets", 5, |table, key, n, chance| {
        (0..8).for_each(|member| table.line(key, &format!("ZADD # {}.5 member:{member}:{n}", chance.below(1_000))));
    }),
    ("large sorted sets", 1_000, |table, key, n, chance| {
        (0..1_000).for_each(|member| table.line(key, &format!("ZADD # {}.5 member:{member}:{n}", chance.below(1_000))));
    }),
    ("short lists", 5, |table, key, n, _| {
        (0..10).for_each(|element| table.line(key, &format!("RPUSH # element:{element}:{n}")));
    }),
    ("long lists", 1_000, |table, key, n, _| {
        (0..2_000).for_each(|element| table.line(key, &format!("LPUSH # element:{element}:{n}")));
    }),
    ("short streams", 10, |table, key, n, _| {
        (0..5).for_each(|entry| table.line(key, &format!("XADD # {}-1 field value:{n}", entry + 1)));
    }),
    ("long streams with readers", 1_000, |table, key, n, _| {
        (0..1_000).for_each(|entry| table.line(key, &format!("XADD # {}-1 field value:{n}", entry + 1)));
        table.line(key, "XGROUP CREATE # group 0");
        table.line(key, "XREADGROUP GROUP group consumer COUNT 300 STREAMS # >");
    }),
    ("counters of different things", 100, |table, key, n, _| {
        (0..100).for_each(|thing| table.line(key, &format!("PFADD # {thing}:{n}")));
    }),
    ("token buckets", 5, |table, key, _, _| table.call(&[b"RL.BUCKET", key, b"100", b"0.001", b"3"])),
    ("leases", 1, |table, key, n, _| table.line(key, &format!("LEASE.ACQUIRE # holder:{n} 10000000"))),
    ("strings with a tag of their own", 2, |table, key, n, _| {
        table.line(key, &format!("SET # value TAGS 1 row:{n:0>9}"))
    }),
    ("strings that share tags", 2, |table, key, n, _| {
        table.line(key, &format!("SET # value TAGS 3 all table:{} row:{}", n % 7, n % 1_000));
    }),
    ("sliding windows", 5, |table, key, _, _| table.call(&[b"RL.WINDOW", key, b"100", b"10000000", b"3"])),
];

fn key_of(number: usize) -> Vec<u8> {
    format!("key:{number:0>12}").into_bytes()
}

/// Of what the allocator gave out, the table may be off by so much.
const OFF_MAX: f64 = 0.05;

fn compare(what: &str, table: &Filled, before: usize, worst: &mut f64) {
    let (said, taken, keys) = (table.keyspace.memory_bytes(), given_out() - before, table.keyspace.len());
    let off = said as f64 / taken as f64 - 1.0;
    println!(
        "{what:<40} {keys:>8} keys {:>8.1} bytes a key, said {:>8.1}: {:>+5.1} %",
        taken as f64 / keys as f64,
        said as f64 / keys as f64,
        off * 100.0
    );
    if off.abs() > worst.abs() {
        *worst = off;
    }
    // Nobody says of free places between others that he takes them, so that they must not be many.
    let slab::Figures { in_memory, in_memory_max, .. } = slab::figures();
    assert!(in_memory <= in_memory_max, "{what}: {in_memory} bytes of slabs are in memory, not {in_memory_max}");
}

/// Names the form that a process measures.
const FORM: &str = "LOCI_MEMORY_FORM";

/// How far off a table of one form is at the most.
fn measure(fill: Fill, name: &str, count: usize) -> f64 {
    let (mut chance, mut worst) = (Chance::new(7), 0.0);
    // What is made once for all tables is there before.
    let mut first = Filled { keyspace: Keyspace::new(1), version: 0, tape: Tape::new() };
    fill(&mut first, &key_of(0), 0, &mut chance);
    drop(first.keyspace.victims(0, Policy::S3Fifo, 1, &mut chance));
    drop(first);
    let before = given_out();
    // What a table takes that has no keys is not what is looked at here, but must not be in the way.
    let mut table = Filled { keyspace: Keyspace::new(1), version: 0, tape: Tape::new() };
    (0..count).for_each(|number| fill(&mut table, &key_of(number), number, &mut chance));
    compare(name, &table, before, &mut worst);
    // Some go, some are made anew, some grow: nothing is forgotten.
    for number in 0..count / 2 {
        table.call(&[b"DEL", &key_of(number * 2)]);
    }
    for number in 0..count / 4 {
        fill(&mut table, &key_of(number * 2), number + 1, &mut chance);
    }
    compare("  half removed, half of these made anew", &table, before, &mut worst);
    // Where there is a budget, queues say who goes next.
    let budget = table.keyspace.memory_bytes() - 1;
    drop(table.keyspace.victims(budget, Policy::S3Fifo, 100, &mut chance));
    compare("  with a budget", &table, before, &mut worst);
    worst
}

/// Each form in a process of its own: what one leaves free in pieces decides how much more than it asks for the next is given.
#[test]
fn a_table_takes_what_it_says() {
    let keys: usize = std::env::var("LOCI_KEYS").map_or(100_000, |text| text.parse().expect("LOCI_KEYS is a number"));
    if let Ok(form) = std::env::var(FORM) {
        let (name, part, fill) = FORMS.iter().find(|(name, ..)| *name == form).expect("a form");
        let worst = measure(*fill, name, keys / part);
        assert!(worst.abs() <= OFF_MAX, "{name}: {:+.1} %", worst * 100.0);
        return;
    }
    let program = std::env::current_exe().expect("the test is a program");
    let mut off = Vec::new();
    for (name, ..) in FORMS {
        let arguments = ["a_table_takes_what_it_says", "--exact", "--nocapture"];
        // Pieces that a thread keeps to use again count as given out, so none are kept.
        let mut run = std::process::Command::new(&program);
        run.args(arguments).env(FORM, name).env("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");
        let run = run.output().expect("it runs");
        let said = String::from_utf8_lossy(&run.stdout);
        said.lines().filter(|line| line.contains(" bytes a key")).for_each(|line| println!("{line}"));
        if !run.status.success() {
            off.push(format!("{name}: {}", String::from_utf8_lossy(&run.stderr)));
        }
    }
    assert!(off.is_empty(), "{}", off.join("\n"));
}
