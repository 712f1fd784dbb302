//! About the server: CONFIG, INFO, MEMORY, ROLE, as tools that know Redis ask for them.
//!
//! Every node takes reads and writes of every client, so each says that it is a master; among a cluster's clients one that leads
//! nothing says whom it follows.

use std::fmt::Write;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use loci_index::table::commands::{is, parse_int};
use loci_index::table::eviction::{NamespaceRoom, Policy, Room};

use super::databases::{DATABASES, Databases, Totals};
use super::pipeline::Answer;
use super::places::Place;
use super::session::Session;
use super::settings::{SetError, notify};
use super::slots::Address;
use super::{Door, SERVER_VERSION};
use crate::doors::looks::Look;
use crate::shard::Level;

/// Why a name is refused.
pub const WRONG_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";
/// The longest name of a client.
const NAME_BYTES_MAX: usize = 512;

/// A name that a client may have.
pub fn client_name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    (text.len() <= NAME_BYTES_MAX && text.chars().all(|c| ('!'..='~').contains(&c))).then(|| text.to_owned())
}

/// When the state was last written down as a whole: seconds since 1970.
pub fn last_saved(door: &Door) -> u64 {
    let homes = door.homes().ok();
    let shards = homes.iter().flat_map(|homes| homes.here());
    let at = shards.map(|shard| shard.status().checkpoint_at_millis).min().unwrap_or(0);
    (if at == 0 { door.status.started_millis() } else { at }) / 1_000
}

fn human(bytes: u64) -> String {
    let units = [(1u64 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, letter)) => format!("{:.2}{letter}", bytes as f64 / *unit as f64),
        None => format!("{bytes}B"),
    }
}

/// What the process has in memory.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

const SECTIONS: [&str; 12] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cpu",
    "modules",
    "commandstats",
    "errorstats",
    "latencystats",
    "cluster",
];

impl Session {
    /// CONFIG.
    pub fn config(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [_, ..] if is(what, "get") => {
                let mut found: Vec<(&'static str, String)> = Vec::new();
                for pattern in rest {
                    for (name, value) in self.door.settings.matching(pattern) {
                        let value = match name {
                            "maxmemory-policy" => self.door.policy_of(self.database).name().to_owned(),
                            _ => value,
                        };
                        if !found.iter().any(|(known, _)| *known == name) {
                            found.push((name, value));
                        }
                    }
                }
                self.out.map(found.len());
                for (name, value) in found {
                    self.out.bulk(name);
                    self.out.bulk(value);
                }
            }
            [_, _, ..] if is(what, "set") && rest.len().is_multiple_of(2) => self.set(rest),
            [] if is(what, "resetstat") => {
                self.door.figures.reset();
                self.door.stats.reset();
                *self.door.forgotten.lock().unwrap_or_else(PoisonError::into_inner) = self.door.totals();
                self.out.ok();
            }
            [] if is(what, "rewrite") => self.out.error("ERR The server is running without a config file"),
            [] if is(what, "help") => {
                self.help("CONFIG", &["GET <pattern>", "SET <directive> <value>", "RESETSTAT", "REWRITE"]);
            }
            _ => self.no_part("CONFIG", what),
        }
    }

    fn set(&mut self, pairs: &[&[u8]]) {
        let mut wanted: Vec<(String, String)> = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let name = String::from_utf8_lossy(pair[0]).to_lowercase();
            let failed =
                |reason: String| format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}");
            let Ok(value) = std::str::from_utf8(pair[1]) else {
                return self.out.error(failed("argument is not text".into()));
            };
            if wanted.iter().any(|(known, _)| *known == name) {
                return self.out.error(failed("duplicate parameter".into()));
            }
            match self.door.settings.check(&name, value) {
                Ok(value) => wanted.push((name, value)),
                Err(SetError::Unknown) => {
                    return self
                        .out
                        .error(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"));
                }
                Err(SetError::Refused(reason)) => return self.out.error(failed(reason)),
            }
        }
        for (name, value) in wanted {
            match name.as_str() {
                "notify-keyspace-events" => {
                    self.door.hub.set_notify(super::settings::notify::flags(&value).unwrap_or(0));
                }
                "maxmemory" | "maxmemory-policy" => {
                    self.door.settings.put(&name, value);
                    self.door.make_room();
                    continue;
                }
                "slowlog-log-slower-than" | "slowlog-max-len" | "latency-monitor-threshold" => {
                    self.door.slow.set(&name, &value);
                }
                "timeout" => self.door.figures.timeout.store(value.parse().unwrap_or(0), Ordering::Relaxed),
                "requirepass" => self.door.users.require(&value),
                "maxclients" => {
                    let most = value.parse().unwrap_or(usize::MAX);
                    self.door.figures.connections_max.store(most, Ordering::Relaxed);
                }
                _ => {}
            }
            self.door.settings.put(&name, value);
        }
        self.out.ok();
    }

    /// INFO.
    pub async fn info(&mut self, args: &[&[u8]]) {
        let asked = |section: &str| {
            let usual = !matches!(section, "commandstats" | "latencystats");
            args.len() == 1 && usual
                || args[1..].iter().any(|word| {
                    is(word, section) || is(word, "all") || is(word, "everything") || (is(word, "default") && usual)
                })
        };
        let mut text = String::new();
        for section in SECTIONS {
            if asked(section) {
                if !text.is_empty() {
                    text.push_str("\r\n");
                }
                self.section(section, &mut text);
            }
        }
        if asked("keyspace") {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            text.push_str("# Keyspace\r\n");
            for (database, keys, timed) in self.keyspaces().await {
                let _ = write!(text, "db{database}:keys={keys},expires={timed},avg_ttl=0,subexpiry=0\r\n");
            }
        }
        self.out.verbatim(*b"txt", text);
    }

    /// Databases that have keys, how many, and how many of them have a deadline.
    async fn keyspaces(&mut self) -> Vec<(u8, usize, usize)> {
        let Ok(homes) = self.door.homes_at(Level::Stale).await else { return Vec::new() };
        let Ok(parts) = self.door.own_parts(&homes, false) else { return Vec::new() };
        let mut counts = [(0, 0); DATABASES];
        let (here, away): (Vec<usize>, Vec<usize>) =
            parts.into_iter().partition(|part| homes.shards().get(*part).is_some_and(|home| home.here().is_some()));
        for shard in here.into_iter().filter_map(|part| homes.shards().get(part)?.here()) {
            let view = shard.newest();
            for (database, (keys, timed)) in (0..).zip(&mut counts) {
                let found = view.collection(self.door.databases.namespace(), &Databases::name(database));
                if let Some(table) = found.and_then(|found| found.table().cloned()) {
                    let (here, with_deadline) = table.read(|keyspace| (keyspace.len(), keyspace.timed()));
                    (*keys, *timed) = (*keys + here, *timed + with_deadline);
                }
            }
        }
        // What nobody says soon is left out.
        let places: Vec<Place> = away.into_iter().map(|part| Place::of_part(&homes, part)).collect();
        for counted in join_all(places.iter().map(|place| self.door.count_in(place))).await.into_iter().flatten() {
            for ((keys, timed), (here, with_deadline)) in counts.iter_mut().zip(counted) {
                (*keys, *timed) = (*keys + here, *timed + with_deadline);
            }
        }
        let counts = (0..).zip(counts).map(|(database, (keys, timed))| (database, keys, timed));
        counts.filter(|(_, keys, _)| *keys > 0).collect()
    }

    fn section(&self, section: &str, text: &mut String) {
        let door = &*self.door;
        let title = format!("# {}{}\r\n", section[..1].to_uppercase(), &section[1..]);
        text.push_str(if section == "cpu" { "# CPU\r\n" } else { &title });
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a string does not fail.
            let _ = write!(text, "{name}:{value}\r\n");
        };
        let home = door.homes().ok().and_then(|homes| homes.here().next().cloned());
        let is_cluster = door.databases.is_cluster();
        match section {
            "server" => {
                let uptime = door.started.elapsed().as_secs();
                line("redis_version", &SERVER_VERSION);
                line("redis_git_sha1", &"00000000");
                line("redis_git_dirty", &0);
                line("redis_build_id", &"0");
                line("redis_mode", &if is_cluster { "cluster" } else { "standalone" });
                line("loci_version", &env!("CARGO_PKG_VERSION"));
                line("os", &std::env::consts::OS);
                line("arch_bits", &usize::BITS);
                line("multiplexing_api", &"epoll");
                line("process_id", &std::process::id());
                line("process_supervised", &"no");
                line("run_id", &format_args!("{}00000000", door.status.node()));
                line("tcp_port", &door.port());
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                line("server_time_usec", &now.as_micros());
                line("uptime_in_seconds", &uptime);
                line("uptime_in_days", &(uptime / 86_400));
                line("hz", &10);
                line("configured_hz", &10);
                line("lru_clock", &(now.as_secs() & 0xff_ffff));
                line("executable", &"");
                line("config_file", &"");
                line("io_threads_active", &0);
            }
            "clients" => {
                let (counts, clients) = (door.hub.counts(), door.clients.all());
                let watched: Vec<usize> = clients.iter().map(|client| client.facts().watched).collect();
                line("connected_clients", &door.clients.len());
                line("cluster_connections", &0);
                line("maxclients", &door.figures.connections_max.load(Ordering::Relaxed));
                line("client_recent_max_input_buffer", &0);
                line("client_recent_max_output_buffer", &0);
                line("blocked_clients", &counts[3]);
                line("tracking_clients", &counts[4]);
                line("pubsub_clients", &clients.iter().filter(|client| client.facts().subscriptions != [0; 3]).count());
                line("watching_clients", &watched.iter().filter(|keys| **keys > 0).count());
                line("total_watched_keys", &watched.iter().sum::<usize>());
            }
            "memory" => {
                let budget = door.status.budget();
                let (used, peak) = door.memory_used();
                let (dataset, resident) = (door.totals().bytes, resident_bytes().unwrap_or(used));
                line("used_memory", &used);
                line("used_memory_human", &human(used));
                line("used_memory_rss", &resident);
                line("used_memory_rss_human", &human(resident));
                line("used_memory_peak", &peak);
                line("used_memory_peak_human", &human(peak));
                line("used_memory_overhead", &used.saturating_sub(dataset));
                line("used_memory_dataset", &dataset);
                line("total_system_memory", &budget.bytes());
                line("total_system_memory_human", &human(budget.bytes()));
                let maxmemory = door.settings.get("maxmemory");
                line("maxmemory", &maxmemory);
                line("maxmemory_human", &human(maxmemory.parse().unwrap_or(0)));
                line("maxmemory_policy", &door.policy_of(self.database).name());
                line("mem_fragmentation_ratio", &format_args!("{:.2}", resident as f64 / used.max(1) as f64));
                line("mem_allocator", &"libc");
                line("active_defrag_running", &0);
                line("lazyfree_pending_objects", &0);
            }
            "persistence" => {
                line("loading", &i32::from(!door.status.is_ready()));
                line("async_loading", &0);
                line("rdb_changes_since_last_save", &0);
                line("rdb_bgsave_in_progress", &0);
                line("rdb_last_save_time", &last_saved(door));
                line("rdb_last_bgsave_status", &"ok");
                line("rdb_last_bgsave_time_sec", &0);
                line("rdb_current_bgsave_time_sec", &-1);
                line("aof_enabled", &1);
                line("aof_rewrite_in_progress", &0);
                line("aof_rewrite_scheduled", &0);
                line("aof_last_bgrewrite_status", &"ok");
                line("aof_last_write_status", &"ok");
            }
            "stats" => {
                let (figures, counts, totals) = (&door.figures, door.hub.counts(), door.since_reset());
                line("total_connections_received", &door.clients.seen());
                line("total_commands_processed", &door.stats.calls());
                line("instantaneous_ops_per_sec", &door.stats.rate());
                line("total_net_input_bytes", &figures.input_bytes.load(Ordering::Relaxed));
                line("total_net_output_bytes", &figures.output_bytes.load(Ordering::Relaxed));
                line("rejected_connections", &figures.rejected.load(Ordering::Relaxed));
                line("sync_full", &0);
                line("sync_partial_ok", &0);
                line("sync_partial_err", &0);
                line("expired_keys", &totals.expired);
                line("evicted_keys", &totals.evicted);
                line("evicted_clients", &0);
                line("keyspace_hits", &totals.looked.hits);
                line("keyspace_misses", &totals.looked.misses);
                line("pubsub_channels", &counts[0]);
                line("pubsub_patterns", &counts[1]);
                line("pubsubshard_channels", &counts[2]);
                line("latest_fork_usec", &0);
                line("tracking_total_keys", &0);
                line("total_error_replies", &door.stats.error_replies());
            }
            "replication" => {
                let members = home.as_ref().and_then(|home| home.members());
                let others = members.map_or(0, |members| members.voters().len().saturating_sub(1));
                let applied = home.map_or(0, |home| home.newest().index());
                let followed = self.followed();
                line("role", &if followed.is_some() { "slave" } else { "master" });
                if let Some(Address { host, port }) = followed {
                    line("master_host", &host);
                    line("master_port", &port);
                    line("master_link_status", &"up");
                    line("slave_repl_offset", &applied);
                }
                line("connected_slaves", &others);
                line("master_failover_state", &"no-failover");
                line("master_replid", &format_args!("{}00000000", door.status.node()));
                line("master_replid2", &"0000000000000000000000000000000000000000");
                line("master_repl_offset", &applied);
                line("second_repl_offset", &-1);
                line("repl_backlog_active", &0);
                line("repl_backlog_size", &1_048_576);
                line("repl_backlog_first_byte_offset", &0);
                line("repl_backlog_histlen", &0);
            }
            "cpu" => {
                let (user, system) = crate::cpu_time::process_cpu_seconds();
                line("used_cpu_sys", &format_args!("{system:.6}"));
                line("used_cpu_user", &format_args!("{user:.6}"));
                // It has none.
                line("used_cpu_sys_children", &0.0);
                line("used_cpu_user_children", &0.0);
            }
            "commandstats" => {
                for (name, stat) in door.stats.used() {
                    let [calls, micros, rejected, failed] = [&stat.calls, &stat.micros, &stat.rejected, &stat.failed]
                        .map(|count| count.load(Ordering::Relaxed));
                    let each = micros as f64 / calls.max(1) as f64;
                    let text = format!(
                        "calls={calls},usec={micros},usec_per_call={each:.2},rejected_calls={rejected},failed_calls={failed}"
                    );
                    line(&format!("cmdstat_{name}"), &text);
                }
            }
            "errorstats" => {
                for (code, count) in door.stats.errors() {
                    line(&format!("errorstat_{code}"), &format_args!("count={count}"));
                }
            }
            "latencystats" => {
                for (name, stat) in door.stats.used() {
                    let histogram = stat.histogram();
                    let Some((_, all)) = histogram.last() else { continue };
                    let part = |share: f64| {
                        let wanted = *all as f64 * share;
                        histogram.iter().find(|(_, sum)| *sum as f64 >= wanted).map_or(0, |(micros, _)| *micros)
                    };
                    let text = format!("p50={}.000,p99={}.000,p99.9={}.000", part(0.5), part(0.99), part(0.999));
                    line(&format!("latency_percentiles_usec_{name}"), &text);
                }
            }
            "cluster" => line("cluster_enabled", &i32::from(is_cluster)),
            _ => {}
        }
    }

    /// MEMORY.
    pub async fn memory(&mut self, args: &[&[u8]]) {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [key, options @ ..] if is(what, "usage") => {
                if let Err(error) = samples(options) {
                    return self.out.error(error);
                }
                if let Some(found) = self.ask_one(Look::Bytes(key)).await {
                    self.answer(&mut found.items(), Answer::Whole);
                }
            }
            [] if is(what, "doctor") => {
                self.out.verbatim(*b"txt", "Hi Sam, I can't find any memory issue in your instance. I can only account for what occurs on this base.\n");
            }
            [] if is(what, "stats") => {
                let (used, peak) = self.door.memory_used();
                let keys: usize = self.keyspaces().await.iter().map(|(_, keys, _)| keys).sum();
                let dataset = self.door.totals().bytes;
                self.out.map(4);
                for (name, value) in [
                    ("peak.allocated", peak),
                    ("total.allocated", used),
                    ("keys.count", keys as u64),
                    ("dataset.bytes", dataset),
                ] {
                    self.out.bulk(name);
                    self.out.int(value as i64);
                }
            }
            [] if is(what, "malloc-stats") => {
                self.out.verbatim(*b"txt", "Stats not supported for the current allocator")
            }
            [] if is(what, "purge") => self.out.ok(),
            [] if is(what, "help") => {
                self.help("MEMORY", &["DOCTOR", "MALLOC-STATS", "PURGE", "STATS", "USAGE <key> [SAMPLES <count>]"]);
            }
            _ => self.no_part("MEMORY", what),
        }
    }

    /// ROLE.
    pub fn role(&mut self) {
        let homes = self.door.homes().ok();
        let applied = homes.and_then(|homes| Some(homes.here().next()?.newest().index())).unwrap_or(0);
        match self.followed() {
            Some(Address { host, port }) => {
                self.out.array(5);
                self.out.bulk("slave");
                self.out.bulk(host);
                self.out.int(port.into());
                self.out.bulk("connected");
                self.out.int(applied as i64);
            }
            None => {
                self.out.array(3);
                self.out.bulk("master");
                self.out.int(applied as i64);
                self.out.array(0);
            }
        }
    }

    /// Among a cluster's clients: whom a node that leads nothing follows, as far as they can be told.
    pub fn followed(&self) -> Option<Address> {
        let door = &*self.door;
        let homes = door.homes().ok().filter(|_| door.databases.is_cluster())?;
        if (0..homes.shards().len()).any(|part| door.leads(&homes, part)) {
            return None;
        }
        homes.shards().iter().find_map(|home| door.address_of(home.leader(&door.cluster)?))
    }
}

impl Door {
    /// What CONFIG says of memory is what makes room from now on.
    fn make_room(&self) {
        let shards = self.databases.known().map_or(1, |homes| homes.shards().len());
        let all_bytes = self.room_bytes();
        let bytes = all_bytes / shards.max(1) as u64;
        let policy = self.settings.given("maxmemory-policy").and_then(|name| Policy::named(&name));
        self.figures.full.iter().for_each(|full| full.store(0, Ordering::Relaxed));
        self.eviction.rcu(|room| {
            let name = self.databases.namespace().to_owned();
            Room { namespace: Some(NamespaceRoom { name, bytes, all_bytes, policy }), ..(**room).clone() }
        });
        self.look_for_limits();
    }

    /// What the node has in memory of its budget, and the most that it was seen to have.
    pub fn memory_used(&self) -> (u64, u64) {
        let used = self.status.budget().used();
        (used, self.figures.peak_bytes.fetch_max(used, Ordering::Relaxed).max(used))
    }

    /// What became of keys since CONFIG RESETSTAT.
    fn since_reset(&self) -> Totals {
        let (mut totals, before) = (self.totals(), *self.forgotten.lock().unwrap_or_else(PoisonError::into_inner));
        totals.expired = totals.expired.saturating_sub(before.expired);
        totals.evicted = totals.evicted.saturating_sub(before.evicted);
        totals.looked.hits = totals.looked.hits.saturating_sub(before.looked.hits);
        totals.looked.misses = totals.looked.misses.saturating_sub(before.looked.misses);
        totals
    }
}

/// What MEMORY USAGE may be told beside the key. How many elements are looked at makes no difference: what a value takes is known.
fn samples(mut options: &[&[u8]]) -> Result<(), &'static str> {
    while let [word, rest @ ..] = options {
        let [count, rest @ ..] = rest else { return Err("ERR syntax error") };
        if !is(word, "samples") {
            return Err("ERR syntax error");
        }
        match parse_int(count) {
            Some(0..) => options = rest,
            Some(_) => return Err("ERR syntax error"),
            None => return Err("ERR value is not an integer or out of range"),
        }
    }
    Ok(())
}

/// What follows from a setting that was given when the node was started.
pub fn first_notify(door: &Door) {
    let flags = notify::flags(&door.settings.get("notify-keyspace-events")).unwrap_or(0);
    door.hub.set_notify(flags);
}
