//! How often caches find what they are asked for, in as many bytes each: loci's policies beside moka, quick_cache and Redis.
//!
//! `benches/peers/caches.sh [--bytes 16777216] [--requests 2000000]` starts a Redis for this and stops it again. What is at the
//! address of `--redis HOST:PORT` is emptied, and its `maxmemory` changed.
//!
//! ```text
//!   bytes --> loci: its budget      libraries: as many entries as the allocator gives so many bytes for      Redis: maxmemory
//!   trace --> key there? a hit : put it                                                          --> hits of a hundred, keys
//! ```
//!
//! Bytes are those that the allocator has given out: a table of loci's counts them by itself, Redis says `used_memory`, of which
//! is taken off what it says when it is empty, and for a library a process of its own is filled with twice as many keys as it is
//! to hold, again and again with other numbers, until the largest is found that fits.

#[path = "../../../caches.rs"]
mod caches;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use caches::{Cache, Loci, Trace, VALUE, best, hits, key_of};
use loci_index::table::eviction::Policy;

type Key = [u8; 16];
type Value = Box<[u8]>;

/// moka; sizes are counted in entries.
struct Moka(moka::sync::Cache<Key, Value>, u32);

impl Moka {
    fn new(entries: usize) -> Moka {
        Moka(moka::sync::Cache::new(entries as u64), 0)
    }

    /// What it would do in the background.
    fn tick(&mut self) {
        self.1 += 1;
        if self.1.is_multiple_of(64) {
            self.0.run_pending_tasks();
        }
    }
}

impl Cache for Moka {
    fn get(&mut self, key: &Key) -> bool {
        self.tick();
        self.0.get(key).is_some()
    }

    fn put(&mut self, key: &Key) {
        self.tick();
        self.0.insert(*key, VALUE.into());
    }

    fn held(&mut self) -> usize {
        self.0.run_pending_tasks();
        self.0.entry_count() as usize
    }
}

/// quick_cache.
struct Quick(quick_cache::unsync::Cache<Key, Value>);

impl Quick {
    fn new(entries: usize) -> Quick {
        Quick(quick_cache::unsync::Cache::new(entries))
    }
}

impl Cache for Quick {
    fn get(&mut self, key: &Key) -> bool {
        self.0.get(key).is_some()
    }

    fn put(&mut self, key: &Key) {
        self.0.insert(*key, VALUE.into());
    }

    fn held(&mut self) -> usize {
        self.0.len()
    }
}

/// So many keys, of which the one goes that was used least lately.
struct Lru {
    entries: usize,
    turn: u64,
    turns: HashMap<Key, u64>,
    order: BTreeMap<u64, Key>,
}

impl Lru {
    fn new(entries: usize) -> Lru {
        Lru { entries, turn: 0, turns: HashMap::new(), order: BTreeMap::new() }
    }
}

impl Cache for Lru {
    fn get(&mut self, key: &Key) -> bool {
        let Some(turn) = self.turns.get_mut(key) else { return false };
        self.turn += 1;
        self.order.remove(turn);
        *turn = self.turn;
        self.order.insert(self.turn, *key);
        true
    }

    fn put(&mut self, key: &Key) {
        self.turn += 1;
        self.turns.insert(*key, self.turn);
        self.order.insert(self.turn, *key);
        if self.order.len() > self.entries
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.turns.remove(&oldest);
        }
    }

    fn held(&mut self) -> usize {
        self.order.len()
    }
}

/// Redis, by its protocol.
struct Redis {
    stream: BufReader<TcpStream>,
}

/// Gets each key, and puts it if it is not there: as a client does, without its journeys.
const SCRIPT: &str = "local hits = 0 \
    for _, key in ipairs(KEYS) do \
        if redis.call('GET', key) then hits = hits + 1 else redis.call('SET', key, ARGV[1]) end \
    end return hits";
/// Redis makes room before a script and not within.
const AT_ONCE: usize = 16;

impl Redis {
    fn new(address: &str) -> std::io::Result<Redis> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Redis { stream: BufReader::new(stream) })
    }

    fn call(&mut self, words: &[&[u8]]) -> std::io::Result<Vec<u8>> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        match line.trim_end().split_at_checked(1) {
            Some(("$", len)) if len != "-1" => {
                let mut text = vec![0; len.parse::<usize>().map_err(std::io::Error::other)? + 2];
                self.stream.read_exact(&mut text)?;
                Ok(text)
            }
            Some(("-", error)) => Err(std::io::Error::other(error.to_string())),
            Some((_, rest)) => Ok(rest.into()),
            None => Err(std::io::Error::other("it hung up")),
        }
    }

    fn number(&mut self, section: &str, field: &str) -> std::io::Result<u64> {
        let text = self.call(&[b"INFO", section.as_bytes()])?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.trim().parse().ok());
        value.ok_or_else(|| std::io::Error::other(format!("no {field}")))
    }

    /// Of a hundred requests so many hits, and the keys that are there at the end.
    fn hits(&mut self, policy: &str, bytes: usize, trace: &[u64]) -> std::io::Result<(f64, usize)> {
        self.call(&[b"CONFIG", b"SET", b"maxmemory", b"0"])?;
        self.call(&[b"CONFIG", b"SET", b"maxmemory-policy", policy.as_bytes()])?;
        self.call(&[b"FLUSHALL", b"SYNC"])?;
        let empty = self.number("memory", "used_memory")?;
        self.call(&[b"CONFIG", b"SET", b"maxmemory", (empty + bytes as u64).to_string().as_bytes()])?;
        let mut hits = 0;
        for some in trace.chunks(AT_ONCE) {
            let keys: Vec<Key> = some.iter().map(|number| key_of(*number)).collect();
            let count = keys.len().to_string();
            let mut words: Vec<&[u8]> = vec![b"EVAL", SCRIPT.as_bytes(), count.as_bytes()];
            words.extend(keys.iter().map(|key| &key[..]));
            words.push(&VALUE);
            let reply = self.call(&words)?;
            hits += String::from_utf8_lossy(&reply).trim().parse::<usize>().map_err(std::io::Error::other)?;
        }
        let keys = String::from_utf8_lossy(&self.call(&[b"DBSIZE"])?).parse().unwrap_or(0);
        Ok((hits as f64 * 100.0 / trace.len() as f64, keys))
    }
}

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

fn given_out() -> usize {
    // SAFETY: the function takes nothing, gives a plain structure back, and may be called at any time by any thread.
    let info = unsafe { mallinfo2() };
    info.uordblks + info.hblkhd
}

fn cache_of(name: &str, entries: usize) -> Box<dyn Cache> {
    match name {
        "moka" => Box::new(Moka::new(entries)),
        _ => Box::new(Quick::new(entries)),
    }
}

/// What a library takes with so many entries, in this process, which does nothing else.
fn bytes_of(name: &str, entries: usize) -> usize {
    let before = given_out();
    let mut cache = cache_of(name, entries);
    (0..entries as u64 * 2).for_each(|number| cache.put(&key_of(number)));
    cache.held();
    given_out() - before
}

fn bytes_of_elsewhere(name: &str, entries: usize) -> usize {
    let me = std::env::current_exe().expect("a program knows where it is");
    let output = Command::new(me).args(["--bytes-of", name, "--entries", &entries.to_string()]).output();
    let output = output.expect("it runs again");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("it says a number")
}

/// The most entries for which a library takes so many bytes, to a hundredth.
fn entries_of(name: &str, bytes: usize) -> usize {
    let (mut fit, mut over) = (bytes / 1_024, bytes / 116);
    while over - fit > fit / 100 {
        let between = fit.midpoint(over);
        if bytes_of_elsewhere(name, between) <= bytes {
            fit = between;
        } else {
            over = between;
        }
    }
    fit
}

/// What was found, by cache and trace.
#[derive(Default)]
struct Table(Vec<(String, Vec<(f64, usize)>)>);

impl Table {
    fn add(&mut self, name: &str, found: f64, keys: usize) {
        eprintln!("  {name:<44} {found:>5.1} of a hundred, {keys:>8} keys");
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, row)) => row.push((found, keys)),
            None => self.0.push((name.into(), vec![(found, keys)])),
        }
    }

    fn print(&self) {
        let names: Vec<&str> = Trace::ALL.iter().map(|trace| trace.name()).collect();
        println!("\n| cache | keys | {} |\n|---|---|{}", names.join(" | "), "---|".repeat(names.len()));
        for (name, row) in &self.0 {
            let cells: Vec<String> = row.iter().map(|(found, _)| format!("{found:.1}")).collect();
            let keys = row.iter().map(|(_, keys)| *keys).max().unwrap_or(0);
            println!("| {name} | {keys} | {} |", cells.join(" | "));
        }
    }
}

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let number = |name: &str, otherwise: usize| option(name).map_or(otherwise, |text| text.parse().expect("a number"));
    if let Some(name) = option("--bytes-of") {
        println!("{}", bytes_of(&name, number("--entries", 0)));
        return Ok(());
    }
    let (bytes, requests) = (number("--bytes", 16 << 20), number("--requests", 2_000_000));
    let mut redis = option("--redis").map(|address| Redis::new(&address)).transpose()?;
    let peers = match option("--only-loci") {
        Some(_) => Vec::new(),
        None => ["moka", "quick_cache"].map(|name| (name, entries_of(name, bytes))).to_vec(),
    };
    println!("{bytes} bytes each, {requests} requests; entries for which libraries take so many bytes: {peers:?}");
    // Traces are made for a cache without any bytes besides.
    let room = bytes / 160;
    let mut table = Table::default();
    for trace in Trace::ALL {
        let asked = trace.requests(room, requests);
        eprintln!("{}", trace.name());
        table.add("at best, with as many keys as loci", best(&asked, bytes / 170), bytes / 170);
        for policy in [Policy::S3Fifo, Policy::Lru, Policy::Lfu, Policy::Random] {
            let mut cache = Loci::new(bytes, policy);
            let found = hits(&mut cache, &asked);
            assert!(cache.bytes() <= bytes + 4_096, "{} of {bytes} bytes", cache.bytes());
            table.add(&format!("loci {}", policy.name()), found, cache.held());
        }
        for (name, entries) in &peers {
            let mut cache = cache_of(name, *entries);
            let found = hits(&mut *cache, &asked);
            table.add(name, found, cache.held());
        }
        if let Some(redis) = &mut redis {
            for policy in ["allkeys-lru", "allkeys-lfu"] {
                let (found, keys) = redis.hits(policy, bytes, &asked)?;
                table.add(&format!("redis {policy}"), found, keys);
                if policy == "allkeys-lru" {
                    let mut cache = Lru::new(keys);
                    let found = hits(&mut cache, &asked);
                    table.add("exactly LRU, with as many keys as Redis", found, keys);
                }
            }
        }
    }
    table.print();
    Ok(())
}
