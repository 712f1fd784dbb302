//! Typed values in real nodes: killed while a checkpoint is written, and so far behind that a snapshot has to come.
//!
//! Each writer has a database and a plain model of it. What was sent at once and not answered may have been carried out up
//! to any call, and no further.
//!
//! `LOCI_KILLS=50` makes a longer run; `LOCI_SEED` chooses the calls.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loci_index::table::tape::Tape;
use loci_tests::chance::Chance;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::plain::{Field, Group, Handed, Kept, Loaded, Plain, Typed, When};
use loci_tests::process::{PATIENCE, Start};
use loci_tests::resp::{Client, text};
use loci_tests::sim::tables::{self, Drawn, Words};
use loci_tests::{say, seed, setting};

const DATABASES: u64 = 4;
/// Calls that are sent at once.
const AT_ONCE: usize = 50;
/// Keys on which any call is made, and keys that make a checkpoint large.
const KEYS: u64 = 40;
const LARGE_KEYS: u64 = 300;
const LARGE_BYTES: usize = 4_000;

/// Who writes to one database, and what is in it.
struct Writer {
    database: u64,
    chance: Chance,
    plain: Plain,
    loaded: Loaded,
    /// Counts calls.
    calls: u64,
    /// What was sent last and not answered.
    open: Vec<Words>,
}

impl Writer {
    fn new(database: u64, chance: Chance) -> Writer {
        Writer { database, chance, plain: Plain::default(), loaded: Loaded::new(), calls: 0, open: Vec::new() }
    }

    fn draw(&mut self) -> Words {
        self.calls += 1;
        let value = format!("{}.{}", self.database, self.calls);
        if self.chance.percent(70) {
            let drawn = Drawn { keys: KEYS, turn: 0, value: &value, lease: None };
            return tables::any_call(&mut self.chance, "k", &drawn, false);
        }
        let key = format!("large{}", self.chance.below(LARGE_KEYS));
        let mut large = value.into_bytes();
        large.resize(LARGE_BYTES, b'.');
        vec![b"SET".to_vec(), key.into_bytes(), large]
    }

    fn carry_out(plain: &mut Plain, loaded: &mut Loaded, call: &Words) -> Tape {
        let (args, mut out): (Vec<&[u8]>, _) = (call.iter().map(Vec::as_slice).collect(), Tape::new());
        plain.call(loaded, &args, When { now: 1, version: 1 }, &mut out);
        out
    }

    /// Writes until the node is gone, or it is enough.
    fn run(&mut self, address: &str, written: &AtomicU64, enough: &AtomicBool) {
        let Some(mut client) = Client::open(address) else { return };
        if !client.send(&[vec!["SELECT".to_string(), self.database.to_string()]]) || client.reply().is_none() {
            return;
        }
        while !enough.load(Ordering::Relaxed) {
            self.open = (0..AT_ONCE).map(|_| self.draw()).collect();
            client.send(&self.open);
            let replies: Vec<_> = (0..AT_ONCE).map_while(|_| client.reply()).collect();
            let answered: Vec<Words> = self.open.drain(..replies.len()).collect();
            for call in &answered {
                Writer::carry_out(&mut self.plain, &mut self.loaded, call);
            }
            written.fetch_add(answered.len() as u64, Ordering::Relaxed);
            if !self.open.is_empty() {
                return;
            }
        }
    }

    /// Compares the database with what it must be, and learns what became of what was not answered.
    fn check(&mut self, address: &str) {
        let found = contents(address, self.database, false);
        for carried_out in 0.. {
            if found == in_words(&self.plain) {
                return self.open.clear();
            }
            if carried_out == self.open.len() {
                break;
            }
            let call = self.open[carried_out].clone();
            Writer::carry_out(&mut self.plain, &mut self.loaded, &call);
        }
        let expected = in_words(&self.plain);
        let differ: Vec<_> = expected.iter().filter(|(key, value)| found.get(*key) != Some(value)).take(5).collect();
        let strange: Vec<_> = found.keys().filter(|key| !expected.contains_key(*key)).take(5).collect();
        panic!(
            "database {}: {} keys of {}, {} calls not answered; not as expected: {differ:?}; unexpected: {strange:?}",
            self.database,
            found.len(),
            expected.len(),
            self.open.len()
        );
    }
}

/// Keys with their values, in words.
type InWords = BTreeMap<String, String>;

fn in_words(plain: &Plain) -> InWords {
    let lossy = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let word = |kept: &Kept| match &kept.value {
        Typed::Text(text) => lossy(text),
        Typed::List(list) => format!("[{}]", list.iter().map(lossy).collect::<Vec<_>>().join(" ")),
        Typed::Hash(hash) => {
            let pair = |(name, field): (&Vec<u8>, &Field)| format!("{} {}", lossy(name), lossy(&field.value));
            let pairs: BTreeSet<String> = hash.iter().map(pair).collect();
            format!("{pairs:?}")
        }
        Typed::Set(set) => format!("{:?}", set.iter().map(lossy).collect::<BTreeSet<String>>()),
        Typed::Sorted(sorted) => {
            let mut ranked: Vec<(i64, String)> = sorted.iter().map(|(name, score)| (*score, lossy(name))).collect();
            ranked.sort_unstable();
            let words: Vec<String> = ranked.iter().map(|(score, name)| format!("{name} {score}")).collect();
            format!("[{}]", words.join(" "))
        }
        Typed::Stream(stream) => {
            let entry = |(id, fields): (&(u64, u64), &Vec<Vec<u8>>)| {
                format!("[{}-{} [{}]]", id.0, id.1, fields.iter().map(lossy).collect::<Vec<_>>().join(" "))
            };
            let entries: Vec<String> = stream.entries.iter().map(entry).collect();
            let pending = |group: &Group| -> String {
                let handed = |(id, handed): (&(u64, u64), &Handed)| {
                    format!("{}-{} {} {}", id.0, id.1, lossy(&handed.to), handed.count)
                };
                group.pending.iter().map(handed).collect::<Vec<_>>().join(" ")
            };
            let groups: Vec<String> =
                stream.groups.iter().map(|(name, group)| format!("{} {}", lossy(name), pending(group))).collect();
            format!("[{}] {groups:?}", entries.join(" "))
        }
        Typed::Lease(..) | Typed::Limiter(_) => panic!("nobody here makes one"),
    };
    plain.keys().iter().map(|(key, kept)| (lossy(key), word(kept))).collect()
}

/// Everything in a database, as a node has it: the newest, or what it has itself.
fn contents(address: &str, database: u64, own: bool) -> InWords {
    let mut client = Client::open(address).expect("the node listens");
    assert_eq!(client.line(&format!("SELECT {database}")), "OK");
    if own {
        assert_eq!(client.line("READONLY"), "OK");
    }
    let loci_wire::resp::Reply::Array(keys) = client.call("KEYS *") else { panic!("no keys") };
    let keys: Vec<String> = keys.iter().map(text).collect();
    let mut found = InWords::new();
    for key in keys {
        let value = match client.line(&format!("TYPE {key}")).as_str() {
            "string" => client.line(&format!("GET {key}")),
            "list" => client.line(&format!("LRANGE {key} 0 -1")),
            "hash" => {
                let loci_wire::resp::Reply::Array(parts) = client.call(&format!("HGETALL {key}")) else {
                    panic!("{key}")
                };
                let parts: Vec<String> = parts.iter().map(text).collect();
                let pairs: BTreeSet<String> = parts.chunks(2).map(|pair| pair.join(" ")).collect();
                format!("{pairs:?}")
            }
            "set" => {
                let loci_wire::resp::Reply::Array(members) = client.call(&format!("SMEMBERS {key}")) else {
                    panic!("{key}")
                };
                format!("{:?}", members.iter().map(text).collect::<BTreeSet<String>>())
            }
            "zset" => client.line(&format!("ZRANGE {key} 0 -1 WITHSCORES")),
            "stream" => {
                let entries = client.line(&format!("XRANGE {key} - +"));
                format!("{entries} {:?}", groups_of(&mut client, &key))
            }
            other => panic!("{key} is a {other}"),
        };
        found.insert(key, value);
    }
    found
}

/// The groups of a stream, and what each has handed out: whom to, how often.
fn groups_of(client: &mut Client, key: &str) -> Vec<String> {
    let array = |reply| match reply {
        loci_wire::resp::Reply::Array(parts) => parts,
        other => panic!("{key}: {other:?}"),
    };
    let mut groups = Vec::new();
    for group in array(client.call(&format!("XINFO GROUPS {key}"))) {
        let name = text(&array(group)[1]);
        let pending = array(client.call(&format!("XPENDING {key} {name} - + 1000000")));
        let handed = pending.into_iter().map(|handed| {
            let parts: Vec<String> = array(handed).iter().map(text).collect();
            format!("{} {} {}", parts[0], parts[1], parts[3])
        });
        groups.push(format!("{name} {}", handed.collect::<Vec<_>>().join(" ")));
    }
    groups
}

/// Whether a table is just being written in a data directory.
fn is_writing(data: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(data.join("shards/1")) else { return false };
    files.flatten().any(|file| {
        let name = file.file_name().to_string_lossy().into_owned();
        name.starts_with("table-") && name.ends_with(".tmp")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_several_databases_survive_kill_9_in_the_middle_of_a_checkpoint() {
    let (seed, kills) = (seed(), setting("LOCI_KILLS", 4));
    let mut chance = Chance::new(seed);
    let data = tempfile::tempdir().unwrap();
    let mut writers: Vec<Writer> = (0..DATABASES).map(|number| Writer::new(number, chance.fork())).collect();
    let (written, mut in_the_middle) = (Arc::new(AtomicU64::new(0)), 0);
    let start = || Start::default().with(&["--resp", "127.0.0.1:0", "--log-file-mib", "1"]);
    for round in 0..kills {
        let node = start().ready(data.path()).await;
        let address = node.resp.clone().expect("the door is open");
        let at = address.clone();
        let checking = tokio::task::spawn_blocking(move || {
            writers.iter_mut().for_each(|writer| writer.check(&at));
            writers
        });
        writers = checking.await.unwrap_or_else(|error| panic!("LOCI_SEED={seed}, round {round}: {error}"));
        let mut threads = Vec::new();
        for mut writer in writers.drain(..) {
            let (address, written) = (address.clone(), Arc::clone(&written));
            threads.push(tokio::task::spawn_blocking(move || {
                writer.run(&address, &written, &AtomicBool::new(false));
                writer
            }));
        }
        // A checkpoint comes after some megabytes; the moment of its writing is short.
        let begun = Instant::now();
        while !is_writing(data.path()) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_micros(chance.below(30_000)));
        node.kill();
        in_the_middle += u64::from(is_writing(data.path()));
        for thread in threads {
            let writer = thread.await;
            writers.push(writer.unwrap_or_else(|error| panic!("LOCI_SEED={seed}, round {round}: {error}")));
        }
    }
    let node = start().ready(data.path()).await;
    let address = node.resp.clone().expect("the door is open");
    let checked = tokio::task::spawn_blocking(move || writers.iter_mut().for_each(|writer| writer.check(&address)));
    checked.await.unwrap_or_else(|error| panic!("LOCI_SEED={seed}, at the end: {error}"));
    let written = written.load(Ordering::Relaxed);
    assert!(in_the_middle > 0, "LOCI_SEED={seed}: no checkpoint was under way at any of {kills} kills");
    say(&format!(
        "tables: {kills} kills, {in_the_middle} in the middle of a checkpoint, {written} calls answered, none lost"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_far_behind_gets_the_tables_in_a_snapshot() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let options = ["--resp", "127.0.0.1:0"].map(String::from).to_vec();
    let mut cluster = Cluster::start(Plan { options, ..Plan::default() }).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    let address = cluster.node(leader).resp.clone().expect("the door is open");
    let mut writers: Vec<Writer> = (0..DATABASES).map(|number| Writer::new(number, chance.fork())).collect();
    // It has some of them.
    let (written, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut threads = Vec::new();
    for mut writer in writers.drain(..) {
        let (address, written, enough) = (address.clone(), Arc::clone(&written), Arc::clone(&enough));
        threads.push(tokio::task::spawn_blocking(move || {
            writer.run(&address, &written, &enough);
            writer
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.nodes[behind].take().expect("it runs").kill();
    // The log keeps four megabytes behind a checkpoint, which comes after sixteen.
    let begun = Instant::now();
    while written.load(Ordering::Relaxed) < 30_000 && begun.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    enough.store(true, Ordering::Relaxed);
    for thread in threads {
        writers.push(thread.await.unwrap_or_else(|error| panic!("LOCI_SEED={seed}: {error}")));
    }
    cluster.start_again(behind).await;
    cluster.same_state().await;
    let log = cluster.node(behind).log();
    assert!(log.contains("a snapshot was fetched"), "LOCI_SEED={seed}: it caught up without one: {log}");
    let address = cluster.node(behind).resp.clone().expect("the door is open");
    let compared = tokio::task::spawn_blocking(move || {
        for writer in &writers {
            assert!(writer.open.is_empty());
            assert!(
                contents(&address, writer.database, true) == in_words(&writer.plain),
                "database {}",
                writer.database
            );
        }
    });
    compared.await.unwrap_or_else(|error| panic!("LOCI_SEED={seed}: {error}"));
}
