//! How often caches find what they are asked for, in as many bytes each: loci's policies beside moka, quick_cache and Redis.
//!
//! `cargo bench -p loci-benches --bench cache -- [--bytes 16777216] [--requests 2000000] [--redis HOST:PORT]`
//!
//! Bytes are those that the process grows by, measured for the libraries in a process of their own that is full of keys, and
//! for Redis what it says of itself besides what it takes when it is empty. What is at that address is emptied, and its
//! `maxmemory` changed; `benches/peers/caches.sh` starts one for this and stops it again.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use loci_benches::caches::{Cache, Loci, Trace, VALUE, best, hits, key_of};
use loci_index::table::eviction::Policy;

type Key = [u8; 16];
type Value = Box<[u8]>;

/// moka; sizes are counted in entries.
struct Moka(moka::sync::Cache<Key, Value>, u32);

impl Moka {
    fn new(entries: usize) -> Moka {
        Moka(moka::sync::Cache::new(entries as u64), 0)
    }
}

impl Cache for Moka {
    fn get(&mut self, key: &Key) -> bool {
        self.0.get(key).is_some()
    }

    fn put(&mut self, key: &Key) {
        self.0.insert(*key, VALUE.into());
        self.1 += 1;
        // What it would do in the background.
        if self.1.is_multiple_of(64) {
            self.0.run_pending_tasks();
        }
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
        Ok(Redis { stream: BufReader::new(TcpStream::connect(address)?) })
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
        match line.trim_end().split_at(1) {
            ("$", len) if len != "-1" => {
                let mut text = vec![0; len.parse::<usize>().map_err(std::io::Error::other)? + 2];
                self.stream.read_exact(&mut text)?;
                Ok(text)
            }
            ("-", error) => Err(std::io::Error::other(error.to_string())),
            (_, rest) => Ok(rest.into()),
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

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

const FULL: usize = 400_000;

fn cache_of(name: &str, entries: usize) -> Box<dyn Cache> {
    match name {
        "moka" => Box::new(Moka::new(entries)),
        _ => Box::new(Quick::new(entries)),
    }
}

/// What an entry of a library takes, in this process, which does nothing else.
fn entry_bytes(name: &str) -> usize {
    let before = resident();
    let mut cache = cache_of(name, FULL);
    (0..FULL as u64 * 2).for_each(|number| cache.put(&key_of(number)));
    let entries = cache.held();
    (resident() - before) / entries
}

fn entry_bytes_elsewhere(name: &str) -> usize {
    let me = std::env::current_exe().expect("a program knows where it is");
    let output = Command::new(me).args(["--entry-bytes", name]).output().expect("it runs again");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("it says a number")
}

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    if let Some(name) = option("--entry-bytes") {
        println!("{}", entry_bytes(&name));
        return Ok(());
    }
    let number = |name: &str, otherwise: usize| option(name).map_or(otherwise, |text| text.parse().expect("a number"));
    let (bytes, requests) = (number("--bytes", 16 << 20), number("--requests", 2_000_000));
    let mut redis = option("--redis").map(|address| Redis::new(&address)).transpose()?;
    let peers = ["moka", "quick_cache"].map(|name| (name, entry_bytes_elsewhere(name)));
    println!("{bytes} bytes each; an entry of 116 bytes takes in {peers:?}");
    // Traces are made for a cache without any bytes besides.
    let room = bytes / 160;
    for trace in Trace::ALL {
        let asked = trace.requests(room, requests);
        println!("\n{}: {requests} requests", trace.name());
        let row = |name: &str, hits: f64, keys: usize| println!("  {name:<24} {hits:>6.2} %  {keys:>8} keys");
        row("best possible", best(&asked, room), room);
        for policy in [Policy::S3Fifo, Policy::Lru, Policy::Lfu] {
            let mut cache = Loci::new(bytes, policy);
            let found = hits(&mut cache, &asked);
            row(&format!("loci {}", policy.name()), found, cache.held());
        }
        for (name, entry_bytes) in peers {
            for (what, entries) in [("", bytes / entry_bytes), (", as many keys", room)] {
                let mut cache = cache_of(name, entries);
                let found = hits(&mut *cache, &asked);
                row(&format!("{name}{what}"), found, cache.held());
            }
        }
        if let Some(redis) = &mut redis {
            for policy in ["allkeys-lru", "allkeys-lfu"] {
                let (found, keys) = redis.hits(policy, bytes, &asked)?;
                row(&format!("redis {policy}"), found, keys);
            }
        }
    }
    Ok(())
}
