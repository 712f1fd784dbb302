//! Settings: what `CONFIG` reads and writes.
//!
//! Those that mean something here take effect; others of Redis are there with its defaults, can be set so that tools and
//! suites that set them go on, and change nothing. None outlives the node: what should is an option of `loci serve`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use loci_index::table::eviction::Policy;
use loci_index::table::glob;

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// It cannot be changed.
    Fixed,
    /// `yes` or `no`.
    Truth,
    /// A whole number.
    Number,
    /// Bytes, with `kb`, `mb`, `gb` if one likes.
    Bytes,
    /// Anything.
    Text,
}

/// Names, how they are written, and what they are at first.
const SETTINGS: &[(&str, Form, &str)] = &[
    ("acl-pubsub-default", Form::Text, "resetchannels"),
    ("acllog-max-len", Form::Number, "128"),
    ("active-expire-effort", Form::Number, "1"),
    ("activedefrag", Form::Truth, "no"),
    ("activerehashing", Form::Truth, "yes"),
    ("aof-load-truncated", Form::Truth, "yes"),
    ("aof-rewrite-incremental-fsync", Form::Truth, "yes"),
    ("aof-use-rdb-preamble", Form::Truth, "yes"),
    ("appendfilename", Form::Fixed, "appendonly.aof"),
    ("appendfsync", Form::Text, "always"),
    ("appendonly", Form::Text, "yes"),
    ("auto-aof-rewrite-min-size", Form::Bytes, "67108864"),
    ("auto-aof-rewrite-percentage", Form::Number, "100"),
    ("bind", Form::Fixed, ""),
    ("busy-reply-threshold", Form::Number, "5000"),
    (
        "client-output-buffer-limit",
        Form::Text,
        "normal 67108864 1048576 60 slave 67108864 1048576 60 pubsub 33554432 1048576 60",
    ),
    ("client-query-buffer-limit", Form::Bytes, "67108864"),
    ("cluster-enabled", Form::Fixed, "no"),
    ("cluster-node-timeout", Form::Number, "15000"),
    ("daemonize", Form::Fixed, "no"),
    ("databases", Form::Fixed, "16"),
    ("dbfilename", Form::Fixed, "dump.rdb"),
    ("dir", Form::Fixed, ""),
    ("dynamic-hz", Form::Truth, "yes"),
    ("enable-debug-command", Form::Fixed, "no"),
    ("hash-max-listpack-entries", Form::Number, "512"),
    ("hash-max-listpack-value", Form::Number, "64"),
    ("hash-max-ziplist-entries", Form::Number, "512"),
    ("hash-max-ziplist-value", Form::Number, "64"),
    ("hll-sparse-max-bytes", Form::Bytes, "3000"),
    ("hz", Form::Number, "10"),
    ("io-threads", Form::Fixed, "1"),
    ("latency-monitor-threshold", Form::Number, "0"),
    ("latency-tracking", Form::Truth, "yes"),
    ("lazyfree-lazy-eviction", Form::Truth, "no"),
    ("lazyfree-lazy-expire", Form::Truth, "no"),
    ("lazyfree-lazy-server-del", Form::Truth, "no"),
    ("lazyfree-lazy-user-del", Form::Truth, "no"),
    ("lazyfree-lazy-user-flush", Form::Truth, "no"),
    ("lfu-decay-time", Form::Number, "1"),
    ("lfu-log-factor", Form::Number, "10"),
    ("list-compress-depth", Form::Number, "0"),
    ("list-max-listpack-size", Form::Number, "-2"),
    ("list-max-ziplist-size", Form::Number, "-2"),
    ("logfile", Form::Fixed, ""),
    ("loglevel", Form::Text, "notice"),
    ("lua-time-limit", Form::Number, "5000"),
    ("maxclients", Form::Number, "10000"),
    ("maxmemory", Form::Bytes, "0"),
    ("maxmemory-clients", Form::Bytes, "0"),
    ("maxmemory-policy", Form::Text, "noeviction"),
    ("maxmemory-samples", Form::Number, "5"),
    ("min-replicas-max-lag", Form::Number, "10"),
    ("min-replicas-to-write", Form::Number, "0"),
    ("no-appendfsync-on-rewrite", Form::Truth, "no"),
    ("notify-keyspace-events", Form::Text, ""),
    ("port", Form::Fixed, "6379"),
    ("protected-mode", Form::Truth, "yes"),
    ("proto-max-bulk-len", Form::Bytes, "16777216"),
    ("rdbchecksum", Form::Fixed, "yes"),
    ("rdbcompression", Form::Truth, "yes"),
    ("repl-backlog-size", Form::Bytes, "1048576"),
    ("repl-diskless-sync", Form::Truth, "yes"),
    ("repl-diskless-sync-delay", Form::Number, "5"),
    ("repl-timeout", Form::Number, "60"),
    ("replica-read-only", Form::Truth, "yes"),
    ("replica-serve-stale-data", Form::Truth, "yes"),
    ("replicaof", Form::Fixed, ""),
    ("requirepass", Form::Text, ""),
    ("save", Form::Text, ""),
    ("set-max-intset-entries", Form::Number, "512"),
    ("set-max-listpack-entries", Form::Number, "128"),
    ("set-max-listpack-value", Form::Number, "64"),
    ("slave-read-only", Form::Truth, "yes"),
    ("slowlog-log-slower-than", Form::Number, "10000"),
    ("slowlog-max-len", Form::Number, "128"),
    ("stop-writes-on-bgsave-error", Form::Truth, "yes"),
    ("stream-node-max-bytes", Form::Bytes, "4096"),
    ("stream-node-max-entries", Form::Number, "100"),
    ("supervised", Form::Fixed, "no"),
    ("tcp-backlog", Form::Fixed, "511"),
    ("tcp-keepalive", Form::Number, "300"),
    ("timeout", Form::Number, "0"),
    ("tls-port", Form::Fixed, "0"),
    ("tracking-table-max-keys", Form::Number, "1000000"),
    ("unixsocket", Form::Fixed, ""),
    ("zset-max-listpack-entries", Form::Number, "128"),
    ("zset-max-listpack-value", Form::Number, "64"),
    ("zset-max-ziplist-entries", Form::Number, "128"),
    ("zset-max-ziplist-value", Form::Number, "64"),
];

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
        let there = changed.get(name).cloned();
        there.unwrap_or_else(|| known(name).map_or_else(String::new, |(_, _, first)| (*first).to_owned()))
    }

    /// A value that was put, or set.
    pub fn given(&self, name: &str) -> Option<String> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Says what a setting is, also one that nobody can change.
    pub fn put(&self, name: &str, value: String) {
        if let Some((name, ..)) = known(name) {
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
            Form::Number if value.parse::<i64>().is_ok() => Ok(value.into()),
            Form::Number => refused("argument couldn't be parsed into an integer"),
            Form::Bytes => match bytes(value) {
                Some(bytes) => Ok(bytes.to_string()),
                None => refused("argument must be a memory value"),
            },
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
        ] {
            assert_eq!(settings.check(name, value).as_deref().map_err(|_| ()), expected, "{name} {value}");
        }
    }

    #[test]
    fn patterns_find_names() {
        let settings = Settings::default();
        settings.put("save", "900 1".into());
        assert_eq!(settings.matching(b"SAVE"), [("save", "900 1".to_owned())]);
        assert_eq!(settings.matching(b"maxmemory*").len(), 4);
        assert!(settings.matching(b"*").len() > 80);
    }

    #[test]
    fn the_names_are_in_order() {
        assert!(SETTINGS.is_sorted_by_key(|(name, ..)| *name));
    }
}
