//! Settings: what `CONFIG` reads and writes.
//!
//! Those that mean something here take effect; others of Redis are there with its defaults, can be set so that tools and
//! suites that set them go on, and change nothing. None outlives the node: what should is an option of `loci serve`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use loci_index::table::commands::parse_int;
use loci_index::table::eviction::Policy;
use loci_index::table::glob;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// It cannot be changed.
    Fixed,
    /// `yes` or `no`.
    Truth,
    /// A whole number, from the least to the greatest.
    Number(i64, i64),
    /// Bytes, with `kb`, `mb`, `gb` if one likes; so many at least.
    Bytes(u64),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Anything, unless its name says more.
    Text,
}

/// A number that C keeps in an `int` in Redis.
const INT: Form = Form::Number(0, i32::MAX as i64);
/// A number that it keeps in a longer one.
const LONG: Form = Form::Number(0, i64::MAX);
const BYTES: Form = Form::Bytes(0);

/// Names, how they are written, and what they are at first.
const SETTINGS: &[(&str, Form, &str)] = &[
    ("acl-pubsub-default", Form::Choice(&["allchannels", "resetchannels"]), "resetchannels"),
    ("acllog-max-len", LONG, "128"),
    ("active-defrag-cycle-max", Form::Number(1, 99), "25"),
    ("active-defrag-cycle-min", Form::Number(1, 99), "1"),
    ("active-defrag-ignore-bytes", BYTES, "104857600"),
    ("active-defrag-max-scan-fields", Form::Number(1, i32::MAX as i64), "1000"),
    ("active-defrag-threshold-lower", Form::Number(0, 1000), "10"),
    ("active-defrag-threshold-upper", Form::Number(0, 1000), "100"),
    ("active-expire-effort", Form::Number(1, 10), "1"),
    ("activedefrag", Form::Truth, "no"),
    ("activerehashing", Form::Truth, "yes"),
    ("aof-disable-auto-gc", Form::Truth, "no"),
    ("aof-load-truncated", Form::Truth, "yes"),
    ("aof-rewrite-incremental-fsync", Form::Truth, "yes"),
    ("aof-timestamp-enabled", Form::Truth, "no"),
    ("aof-use-rdb-preamble", Form::Truth, "yes"),
    ("appendfilename", Form::Fixed, "appendonly.aof"),
    ("appendfsync", Form::Choice(&["everysec", "always", "no"]), "always"),
    ("appendonly", Form::Truth, "yes"),
    ("auto-aof-rewrite-min-size", BYTES, "67108864"),
    ("auto-aof-rewrite-percentage", INT, "100"),
    ("bind", Form::Fixed, ""),
    ("busy-reply-threshold", LONG, "5000"),
    (
        "client-output-buffer-limit",
        Form::Text,
        "normal 67108864 1048576 60 slave 67108864 1048576 60 pubsub 33554432 1048576 60",
    ),
    ("client-query-buffer-limit", Form::Bytes(1 << 20), "67108864"),
    ("cluster-allow-pubsubshard-when-down", Form::Truth, "yes"),
    ("cluster-allow-reads-when-down", Form::Truth, "no"),
    ("cluster-allow-replica-migration", Form::Truth, "yes"),
    ("cluster-enabled", Form::Fixed, "no"),
    ("cluster-link-sendbuf-limit", BYTES, "0"),
    ("cluster-migration-barrier", INT, "1"),
    ("cluster-node-timeout", LONG, "15000"),
    ("cluster-replica-no-failover", Form::Truth, "no"),
    ("cluster-replica-validity-factor", INT, "10"),
    ("cluster-require-full-coverage", Form::Truth, "yes"),
    ("cluster-slave-no-failover", Form::Truth, "no"),
    ("cluster-slave-validity-factor", INT, "10"),
    ("crash-log-enabled", Form::Truth, "yes"),
    ("crash-memcheck-enabled", Form::Truth, "yes"),
    ("daemonize", Form::Fixed, "no"),
    ("databases", Form::Fixed, "16"),
    ("dbfilename", Form::Fixed, "dump.rdb"),
    ("dir", Form::Fixed, ""),
    ("dynamic-hz", Form::Truth, "yes"),
    ("enable-debug-command", Form::Fixed, "no"),
    ("hash-max-listpack-entries", LONG, "512"),
    ("hash-max-listpack-value", BYTES, "64"),
    ("hash-max-ziplist-entries", LONG, "512"),
    ("hash-max-ziplist-value", BYTES, "64"),
    ("hll-sparse-max-bytes", BYTES, "3000"),
    ("hz", INT, "10"),
    ("io-threads", Form::Fixed, "1"),
    ("jemalloc-bg-thread", Form::Truth, "yes"),
    ("latency-monitor-threshold", LONG, "0"),
    ("latency-tracking", Form::Truth, "yes"),
    ("lazyfree-lazy-eviction", Form::Truth, "no"),
    ("lazyfree-lazy-expire", Form::Truth, "no"),
    ("lazyfree-lazy-server-del", Form::Truth, "no"),
    ("lazyfree-lazy-user-del", Form::Truth, "no"),
    ("lazyfree-lazy-user-flush", Form::Truth, "no"),
    ("lfu-decay-time", INT, "1"),
    ("lfu-log-factor", INT, "10"),
    ("list-compress-depth", INT, "0"),
    ("list-max-listpack-size", Form::Number(i32::MIN as i64, i32::MAX as i64), "-2"),
    ("list-max-ziplist-size", Form::Number(i32::MIN as i64, i32::MAX as i64), "-2"),
    ("logfile", Form::Fixed, ""),
    ("loglevel", Form::Choice(&["debug", "verbose", "notice", "warning"]), "notice"),
    ("lua-time-limit", LONG, "5000"),
    ("maxclients", Form::Number(1, u32::MAX as i64), "10000"),
    ("maxmemory", BYTES, "0"),
    ("maxmemory-clients", BYTES, "0"),
    ("maxmemory-eviction-tenacity", Form::Number(0, 100), "10"),
    ("maxmemory-policy", Form::Text, "noeviction"),
    ("maxmemory-samples", Form::Number(1, i32::MAX as i64), "5"),
    ("min-replicas-max-lag", INT, "10"),
    ("min-replicas-to-write", INT, "0"),
    ("min-slaves-max-lag", INT, "10"),
    ("min-slaves-to-write", INT, "0"),
    ("no-appendfsync-on-rewrite", Form::Truth, "no"),
    ("notify-keyspace-events", Form::Text, ""),
    ("oom-score-adj", Form::Choice(&["no", "yes", "relative", "absolute"]), "no"),
    ("port", Form::Fixed, "6379"),
    ("propagation-error-behavior", Form::Choice(&["ignore", "panic", "panic-on-replicas"]), "ignore"),
    ("protected-mode", Form::Truth, "yes"),
    ("proto-max-bulk-len", Form::Bytes(1 << 20), "16777216"),
    ("rdb-del-sync-files", Form::Truth, "no"),
    ("rdb-save-incremental-fsync", Form::Truth, "yes"),
    ("rdbchecksum", Form::Fixed, "yes"),
    ("rdbcompression", Form::Truth, "yes"),
    ("repl-backlog-size", Form::Bytes(1), "1048576"),
    ("repl-backlog-ttl", LONG, "3600"),
    ("repl-disable-tcp-nodelay", Form::Truth, "no"),
    ("repl-diskless-load", Form::Choice(&["disabled", "on-empty-db", "swapdb"]), "disabled"),
    ("repl-diskless-sync", Form::Truth, "yes"),
    ("repl-diskless-sync-delay", INT, "5"),
    ("repl-diskless-sync-max-replicas", INT, "0"),
    ("repl-ping-replica-period", Form::Number(1, i32::MAX as i64), "10"),
    ("repl-ping-slave-period", Form::Number(1, i32::MAX as i64), "10"),
    ("repl-timeout", Form::Number(1, i32::MAX as i64), "60"),
    ("replica-announced", Form::Truth, "yes"),
    ("replica-ignore-disk-write-errors", Form::Truth, "no"),
    ("replica-ignore-maxmemory", Form::Truth, "yes"),
    ("replica-lazy-flush", Form::Truth, "no"),
    ("replica-priority", INT, "100"),
    ("replica-read-only", Form::Truth, "yes"),
    ("replica-serve-stale-data", Form::Truth, "yes"),
    ("replicaof", Form::Fixed, ""),
    ("requirepass", Form::Text, ""),
    ("sanitize-dump-payload", Form::Choice(&["no", "yes", "clients"]), "no"),
    ("save", Form::Text, ""),
    ("set-max-intset-entries", LONG, "512"),
    ("set-max-listpack-entries", LONG, "128"),
    ("set-max-listpack-value", BYTES, "64"),
    ("shutdown-timeout", INT, "10"),
    ("slave-ignore-maxmemory", Form::Truth, "yes"),
    ("slave-lazy-flush", Form::Truth, "no"),
    ("slave-priority", INT, "100"),
    ("slave-read-only", Form::Truth, "yes"),
    ("slave-serve-stale-data", Form::Truth, "yes"),
    ("slowlog-log-slower-than", Form::Number(-1, i64::MAX), "10000"),
    ("slowlog-max-len", LONG, "128"),
    ("stop-writes-on-bgsave-error", Form::Truth, "yes"),
    ("stream-node-max-bytes", BYTES, "4096"),
    ("stream-node-max-entries", LONG, "100"),
    ("supervised", Form::Fixed, "no"),
    ("tcp-backlog", Form::Fixed, "511"),
    ("tcp-keepalive", INT, "300"),
    ("timeout", INT, "0"),
    ("tls-port", Form::Fixed, "0"),
    ("tracking-table-max-keys", LONG, "1000000"),
    ("unixsocket", Form::Fixed, ""),
    ("zset-max-listpack-entries", LONG, "128"),
    ("zset-max-listpack-value", BYTES, "64"),
    ("zset-max-ziplist-entries", LONG, "128"),
    ("zset-max-ziplist-value", BYTES, "64"),
];

/// Earlier names, and those that came after them: both are the same setting.
const RENAMED: &[(&str, &str)] = &[
    ("cluster-slave-no-failover", "cluster-replica-no-failover"),
    ("cluster-slave-validity-factor", "cluster-replica-validity-factor"),
    ("hash-max-ziplist-entries", "hash-max-listpack-entries"),
    ("hash-max-ziplist-value", "hash-max-listpack-value"),
    ("list-max-ziplist-size", "list-max-listpack-size"),
    ("lua-time-limit", "busy-reply-threshold"),
    ("min-slaves-max-lag", "min-replicas-max-lag"),
    ("min-slaves-to-write", "min-replicas-to-write"),
    ("repl-ping-slave-period", "repl-ping-replica-period"),
    ("slave-ignore-maxmemory", "replica-ignore-maxmemory"),
    ("slave-lazy-flush", "replica-lazy-flush"),
    ("slave-priority", "replica-priority"),
    ("slave-read-only", "replica-read-only"),
    ("slave-serve-stale-data", "replica-serve-stale-data"),
    ("zset-max-ziplist-entries", "zset-max-listpack-entries"),
    ("zset-max-ziplist-value", "zset-max-listpack-value"),
];

fn newest_name(name: &str) -> &str {
    RENAMED.iter().find(|(earlier, _)| *earlier == name).map_or(name, |(_, newest)| newest)
}

/// What is set.
#[derive(Debug, Default)]
pub struct Settings {
    /// What is not what it was at first.
    changed: Mutex<BTreeMap<&'static str, String>>,
}

/// Why a setting stays as it is.
#[derive(Debug, PartialEq, Eq)]
pub enum SetError {
    /// There is none of that name.
    Unknown,
    /// With the reason.
    Refused(String),
}

fn known(name: &str) -> Option<&'static (&'static str, Form, &'static str)> {
    SETTINGS.iter().find(|(known, ..)| *known == name)
}

impl Settings {
    /// The values of all whose name a pattern matches.
    pub fn matching(&self, pattern: &[u8]) -> Vec<(&'static str, String)> {
        let pattern = pattern.to_ascii_lowercase();
        let matching = SETTINGS.iter().filter(|(name, ..)| glob::matches(&pattern, name.as_bytes()));
        matching.map(|(name, ..)| (*name, self.get(name))).collect()
    }

    /// A value; nothing if there is none of that name.
    pub fn get(&self, name: &str) -> String {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        let there = changed.get(newest_name(name)).cloned();
        there.unwrap_or_else(|| known(name).map_or_else(String::new, |(_, _, first)| (*first).to_owned()))
    }

    /// A value that was put, or set.
    pub fn given(&self, name: &str) -> Option<String> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).get(newest_name(name)).cloned()
    }

    /// Says what a setting is, also one that nobody can change.
    pub fn put(&self, name: &str, value: String) {
        if let Some((name, ..)) = known(newest_name(name)) {
            self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(name, value);
        }
    }

    /// What a value would be written as, or why it cannot be set.
    pub fn check(&self, name: &str, value: &str) -> Result<String, SetError> {
        let Some((_, form, _)) = known(name) else { return Err(SetError::Unknown) };
        let refused = |reason: &str| Err(SetError::Refused(reason.into()));
        match form {
            Form::Fixed => refused("can't set immutable config"),
            Form::Truth if matches!(value.to_ascii_lowercase().as_str(), "yes" | "no") => {
                Ok(value.to_ascii_lowercase())
            }
            Form::Truth => refused("argument must be 'yes' or 'no'"),
            Form::Number(least, most) => match parse_int(value.as_bytes()) {
                Some(number) if (*least..=*most).contains(&number) => Ok(value.into()),
                Some(_) => refused(&format!("argument must be between {least} and {most} inclusive")),
                None => refused("argument couldn't be parsed into an integer"),
            },
            // A share of all memory.
            Form::Bytes(_) if name == "maxmemory-clients" && is_percentage(value) => Ok(value.into()),
            Form::Bytes(_) if name == "maxmemory-clients" && bytes(value).is_none() => {
                refused("argument must be a memory or percent value")
            }
            Form::Bytes(least) => match bytes(value) {
                Some(bytes) if bytes >= *least => Ok(bytes.to_string()),
                Some(_) => refused(&format!("argument must be between {least} and {} inclusive", i64::MAX)),
                None => refused("argument must be a memory value"),
            },
            Form::Choice(words) => match words.iter().find(|word| word.eq_ignore_ascii_case(value)) {
                Some(word) => Ok((*word).into()),
                None => refused(&format!("argument(s) must be one of the following: {}", words.join(", "))),
            },
            Form::Text if name == "save" && !is_save(value) => refused("Invalid save parameters"),
            Form::Text if name == "client-output-buffer-limit" => {
                buffer_limits(value).map_err(|why| SetError::Refused(why.into()))
            }
            Form::Text if name == "notify-keyspace-events" => match notify::flags(value) {
                Some(flags) => Ok(notify::text(flags)),
                None => refused("Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
            },
            Form::Text if name == "maxmemory-policy" => match Policy::named(value) {
                Some(policy) => Ok(policy.name().into()),
                None => {
                    let names: Vec<_> = Policy::names().collect();
                    refused(&format!("argument(s) must be one of the following: {}", names.join(", ")))
                }
            },
            Form::Text => Ok(value.into()),
        }
    }
}

fn is_percentage(value: &str) -> bool {
    value.strip_suffix('%').is_some_and(|share| share.parse::<u8>().is_ok_and(|share| share <= 100))
}

/// When Redis would write its file: pairs of seconds and changes, or nothing.
fn is_save(value: &str) -> bool {
    let numbers: Option<Vec<i64>> = value.split_ascii_whitespace().map(|word| parse_int(word.as_bytes())).collect();
    numbers.is_some_and(|numbers| {
        numbers.len().is_multiple_of(2) && numbers.chunks_exact(2).all(|pair| pair[0] >= 1 && pair[1] >= 0)
    })
}

/// What may wait for clients of each kind, as it would be in a Redis: a hard limit, a soft one, and for so many seconds.
fn buffer_limits(value: &str) -> Result<String, &'static str> {
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err("Wrong number of arguments in buffer limit configuration.");
    }
    let mut written = Vec::new();
    for limit in words.chunks_exact(4) {
        if !["normal", "slave", "replica", "pubsub"].iter().any(|kind| kind.eq_ignore_ascii_case(limit[0])) {
            return Err("Invalid client class specified in buffer limit configuration.");
        }
        let wrong = "Error in hard, soft or soft_seconds setting in buffer limit configuration.";
        let seconds = parse_int(limit[3].as_bytes()).filter(|seconds| *seconds >= 0).ok_or(wrong)?;
        let [hard, soft] = [limit[1], limit[2]].map(|text| bytes(text).ok_or(wrong));
        written.push(format!("{} {} {} {seconds}", limit[0].to_ascii_lowercase(), hard?, soft?));
    }
    Ok(written.join(" "))
}

/// Bytes as they are written in a configuration: `100mb`.
fn bytes(text: &str) -> Option<u64> {
    let text = text.to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The letters of `notify-keyspace-events`.
pub mod notify {
    /// A channel for each key.
    pub const KEYSPACE: u32 = 1 << 30;
    /// A channel for each kind of event.
    pub const KEYEVENT: u32 = 1 << 31;
    const CLASSES: &[u8] = b"g$lshzxetdmn";
    /// What `A` stands for.
    const ALL: &[u8] = b"g$lshzxetd";

    /// The bit of a class of events.
    pub fn bit(class: u8) -> u32 {
        CLASSES.iter().position(|known| *known == class).map_or(0, |place| 1 << place)
    }

    /// From letters.
    pub fn flags(text: &str) -> Option<u32> {
        text.bytes().try_fold(0, |flags, letter| {
            Some(
                flags
                    | match letter {
                        b'K' => KEYSPACE,
                        b'E' => KEYEVENT,
                        b'A' => ALL.iter().fold(0, |all, class| all | bit(*class)),
                        class => match bit(class) {
                            0 => return None,
                            bit => bit,
                        },
                    },
            )
        })
    }

    /// As letters.
    pub fn text(flags: u32) -> String {
        let all = ALL.iter().fold(0, |all, class| all | bit(*class));
        let mut text = String::new();
        let mut rest = flags;
        if flags & all == all {
            text.push('A');
            rest &= !all;
        }
        text.extend(CLASSES.iter().filter(|class| rest & bit(**class) != 0).map(|class| char::from(*class)));
        for (bit, letter) in [(KEYSPACE, 'K'), (KEYEVENT, 'E')] {
            if flags & bit != 0 {
                text.push(letter);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_as_their_kind_is_written() {
        let settings = Settings::default();
        for (name, value, expected) in [
            ("maxmemory", "100mb", Ok("104857600")),
            ("maxmemory", "1x", Err(())),
            ("protected-mode", "NO", Ok("no")),
            ("protected-mode", "maybe", Err(())),
            ("databases", "3", Err(())),
            ("notify-keyspace-events", "KEA", Ok("AKE")),
            ("notify-keyspace-events", "Kl$", Ok("$lK")),
            ("notify-keyspace-events", "Q", Err(())),
            ("nonsense", "1", Err(())),
            ("maxmemory-clients", "10%", Ok("10%")),
            ("maxmemory-clients", "101%", Err(())),
            ("appendfsync", "EVERYSEC", Ok("everysec")),
            ("slowlog-log-slower-than", "-1", Ok("-1")),
            ("list-max-listpack-size", "-2", Ok("-2")),
            ("save", "900 1 60 1000", Ok("900 1 60 1000")),
            ("save", "", Ok("")),
            ("client-output-buffer-limit", "NORMAL 1mb 0 60", Ok("normal 1048576 0 60")),
        ] {
            assert_eq!(settings.check(name, value).as_deref().map_err(|_| ()), expected, "{name} {value}");
        }
    }

    #[test]
    fn nonsense_is_refused_in_the_words_of_redis() {
        let settings = Settings::default();
        let between = |least: i64, most: i64| format!("argument must be between {least} and {most} inclusive");
        let int = || "argument couldn't be parsed into an integer".to_owned();
        for (name, value, why) in [
            ("maxclients", "-5", between(1, 4_294_967_295)),
            ("maxclients", "0", between(1, 4_294_967_295)),
            ("maxclients", "many", int()),
            ("timeout", "-1", between(0, 2_147_483_647)),
            ("timeout", "05", int()),
            ("timeout", "", int()),
            ("slowlog-max-len", "-1", between(0, i64::MAX)),
            ("slowlog-max-len", "99999999999999999999", int()),
            ("slowlog-log-slower-than", "-2", between(-1, i64::MAX)),
            ("active-expire-effort", "11", between(1, 10)),
            ("list-max-listpack-size", "4294967296", between(-2_147_483_648, 2_147_483_647)),
            ("client-query-buffer-limit", "0", between(1_048_576, i64::MAX)),
            ("maxmemory-clients", "x", "argument must be a memory or percent value".into()),
            ("hash-max-listpack-value", "-1", "argument must be a memory value".into()),
            ("appendfsync", "nonsense", "argument(s) must be one of the following: everysec, always, no".into()),
            ("appendonly", "maybe", "argument must be 'yes' or 'no'".into()),
            ("save", "900", "Invalid save parameters".into()),
            ("save", "0 1", "Invalid save parameters".into()),
            (
                "client-output-buffer-limit",
                "normal 1 1",
                "Wrong number of arguments in buffer limit configuration.".into(),
            ),
            (
                "client-output-buffer-limit",
                "nobody 0 0 0",
                "Invalid client class specified in buffer limit configuration.".into(),
            ),
            (
                "client-output-buffer-limit",
                "normal x 0 0",
                "Error in hard, soft or soft_seconds setting in buffer limit configuration.".into(),
            ),
        ] {
            assert_eq!(settings.check(name, value), Err(SetError::Refused(why)), "{name} {value:?}");
        }
    }

    #[test]
    fn each_setting_is_at_first_what_it_could_be_set_to() {
        let settings = Settings::default();
        for (name, form, first) in SETTINGS.iter().filter(|(_, form, _)| *form != Form::Fixed) {
            assert_eq!(settings.check(name, first), Ok((*first).to_owned()), "{name} {form:?}");
        }
    }

    #[test]
    fn what_has_two_names_has_one_value() {
        for (earlier, newest) in RENAMED {
            let (settings, value) = (Settings::default(), "7".to_owned());
            assert_eq!(settings.get(earlier), settings.get(newest), "{earlier}");
            settings.put(earlier, value.clone());
            assert_eq!((settings.get(newest), settings.given(earlier)), (value.clone(), Some(value)), "{earlier}");
        }
    }

    #[test]
    fn patterns_find_names() {
        let settings = Settings::default();
        settings.put("save", "900 1".into());
        assert_eq!(settings.matching(b"SAVE"), [("save", "900 1".to_owned())]);
        assert_eq!(settings.matching(b"maxmemory*").len(), 5);
        assert!(settings.matching(b"*").len() > 125);
    }

    #[test]
    fn the_names_are_in_order() {
        assert!(SETTINGS.is_sorted_by_key(|(name, ..)| *name));
    }
}
