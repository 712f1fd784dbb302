//! Acting: the commands that the door carries out itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loci_index::command::Watched;
use loci_index::table::commands::{int_text, is, parse_float, parse_int};
use loci_wire::resp::Protocol;

use super::acl::DEFAULT;
use super::commands::{Command, Do};
use super::databases::{AT_WORK, DATABASES};
use super::hub::Kind;
use super::pipeline::{Answer, Pending};
use super::places::Home;
use super::session::Session;
use super::{SERVER_VERSION, server};
use crate::doors::looks::{Look, Whole, versions_of, whole_of};

/// The longest that DEBUG SLEEP waits.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// How often a value is taken anew that others change at the same time.
const CARRIES_MAX: usize = 10;

/// The number of a database.
pub fn database(text: &[u8]) -> Option<u8> {
    parse_int(text).filter(|number| (0..DATABASES as i64).contains(number)).map(|number| number as u8)
}

/// The two databases of SWAPDB.
pub fn swapped(args: &[&[u8]]) -> Result<(u8, u8), &'static str> {
    let number = |text: &[u8], wrong| match (parse_int(text), database(text)) {
        (_, Some(database)) => Ok(database),
        (Some(_), None) => Err("ERR DB index is out of range"),
        (None, None) => Err(wrong),
    };
    let one = number(args[1], "ERR invalid first DB index")?;
    Ok((one, number(args[2], "ERR invalid second DB index")?))
}

/// The database that COPY is to copy to, if it names one.
pub fn other_database<'a>(args: &[&'a [u8]]) -> Option<&'a [u8]> {
    let place = args.iter().skip(3).position(|word| is(word, "db"))?;
    args.get(place + 4).copied()
}

impl Session {
    /// Carries one out. What waits for the log was settled.
    pub async fn act(&mut self, what: Do, args: &[&[u8]]) {
        match what {
            Do::Ping => self.ping(args),
            Do::Echo => self.out.bulk(args[1]),
            Do::Select => self.select(args[1]),
            Do::Hello => self.hello(args),
            Do::Auth => self.auth(args),
            Do::Quit => {
                self.out.ok();
                self.closing = true;
            }
            Do::Reset => self.reset(),
            Do::Multi => self.multi(),
            Do::Exec => self.exec().await,
            Do::Discard => self.discard(),
            Do::Watch => self.watch(&args[1..]).await,
            Do::Unwatch => {
                self.watched.clear();
                self.out.ok();
            }
            Do::Subscribe => self.subscribe(Kind::Channel, &args[1..]),
            Do::PSubscribe => self.subscribe(Kind::Pattern, &args[1..]),
            Do::SSubscribe => self.subscribe(Kind::Sharded, &args[1..]),
            Do::Unsubscribe => self.unsubscribe(Kind::Channel, &args[1..]),
            Do::PUnsubscribe => self.unsubscribe(Kind::Pattern, &args[1..]),
            Do::SUnsubscribe => self.unsubscribe(Kind::Sharded, &args[1..]),
            Do::PubSub => self.pubsub(args),
            Do::Monitor => {
                self.client.facts().monitor = true;
                self.door.hub.monitor(&self.client);
                self.out.ok();
            }
            Do::Client => self.client_command(args).await,
            Do::Acl => self.acl(args),
            Do::Command => self.describe(args),
            Do::Cluster => self.cluster(args).await,
            Do::Config => self.config(args),
            Do::Info => self.info(args).await,
            Do::Memory => self.memory(args).await,
            Do::SlowLog => self.slow_log(args),
            Do::Latency => self.latency(args),
            Do::Debug => self.debug(args).await,
            Do::Role => self.role(),
            Do::Time => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.out.array(2);
                self.out.bulk_int(now.as_secs() as i64);
                self.out.bulk_int(i64::from(now.subsec_micros()));
            }
            Do::LastSave => {
                let saved = server::last_saved(&self.door);
                self.out.int(saved as i64);
            }
            Do::Save => match self.last {
                "bgsave" => self.out.status("Background saving started"),
                "bgrewriteaof" => self.out.status("Background append only file rewriting started"),
                _ => self.out.ok(),
            },
            Do::Wait => self.wait_for_members(args),
            Do::WaitAof => {
                // What was answered is on the disks of a majority, or soon on this one's.
                if let Err(error) = self.door.sync_buffered().await {
                    return self.out.error(error);
                }
                let others = self.others();
                self.out.array(2);
                self.out.int(1);
                self.out.int(others as i64);
            }
            Do::ReadOnly => {
                self.stale = true;
                self.read_anew();
                self.out.ok();
            }
            Do::ReadWrite => {
                self.stale = false;
                self.read_anew();
                self.out.ok();
            }
            Do::Asking => self.out.ok(),
            Do::FlushAll => self.flush_all(args).await,
            Do::Move => self.move_key(args).await,
            Do::SwapDb => self.swap(args).await,
            Do::Lolwut => {
                let text = format!("loci {} answers as\nRedis ver. {SERVER_VERSION}\n", env!("CARGO_PKG_VERSION"));
                self.out.verbatim(*b"txt", text);
            }
            Do::Module => match args[1] {
                word if is(word, "list") => self.out.array(0),
                word if is(word, "help") => self.help("MODULE", &["LIST"]),
                _ => self.out.error("ERR modules are not supported: nothing is loaded into this server"),
            },
            // It follows nobody as it is.
            Do::Refused if matches!(args, [_, no, one] if is(no, "no") && is(one, "one")) => self.out.ok(),
            Do::Refused => {
                let text = match self.last {
                    "shutdown" => "ERR a node is stopped by a signal (SIGTERM), not by its clients",
                    "failover" => "ERR which node leads is agreed on by the nodes: see `loci cluster`",
                    _ => "ERR nodes find their members themselves: see `loci cluster`",
                };
                self.out.error(text);
            }
        }
    }

    fn ping(&mut self, args: &[&[u8]]) {
        if self.out.protocol() == Protocol::Two && self.subscribed() > 0 {
            self.out.array(2);
            self.out.bulk("pong");
            return self.out.bulk(args.get(1).copied().unwrap_or_default());
        }
        match args {
            [_] => self.out.status("PONG"),
            [_, text] => self.out.bulk(text),
            _ => self.out.error("ERR wrong number of arguments for 'ping' command"),
        }
    }

    fn select(&mut self, text: &[u8]) {
        match (parse_int(text), database(text)) {
            (_, Some(database)) => {
                self.database = database;
                self.out.ok();
            }
            (Some(_), None) => self.out.error("ERR DB index is out of range"),
            (None, None) => self.out.error("ERR value is not an integer or out of range"),
        }
    }

    fn hello(&mut self, args: &[&[u8]]) {
        let mut protocol = None;
        if let Some(version) = args.get(1) {
            protocol = match parse_int(version) {
                Some(2) => Some(Protocol::Two),
                Some(3) => Some(Protocol::Three),
                Some(_) => return self.out.error("NOPROTO unsupported protocol version"),
                None => return self.out.error("ERR Protocol version is not an integer or out of range"),
            };
        }
        let (mut user, mut name) = (None, None);
        let mut place = 2;
        while let Some(word) = args.get(place) {
            let rest = &args[place + 1..];
            match rest {
                [who, password, ..] if is(word, "auth") => {
                    match self.known(who, password) {
                        Some(known) => user = Some(known),
                        None => {
                            self.note_refusal("auth", b"HELLO", &String::from_utf8_lossy(who));
                            return self.out.error("WRONGPASS invalid username-password pair or user is disabled.");
                        }
                    }
                    place += 3;
                }
                [given, ..] if is(word, "setname") => {
                    let Some(given) = server::client_name(given) else {
                        return self.out.error(server::WRONG_NAME);
                    };
                    name = Some(given);
                    place += 2;
                }
                _ => {
                    let word = String::from_utf8_lossy(word);
                    return self.out.error(format!("ERR Syntax error in HELLO option '{word}'"));
                }
            }
        }
        if user.is_some() {
            self.be(user);
        }
        if self.user.is_none() {
            return self.out.error(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
                 option can be used to authenticate the client and select the RESP protocol version at the same time",
            );
        }
        if let Some(protocol) = protocol {
            self.speak(protocol);
        }
        if let Some(name) = name {
            self.client.facts().name = name;
        }
        self.out.map(7);
        for (key, value) in [("server", "redis"), ("version", SERVER_VERSION)] {
            self.out.bulk(key);
            self.out.bulk(value);
        }
        self.out.bulk("proto");
        self.out.int(if self.out.protocol() == Protocol::Three { 3 } else { 2 });
        self.out.bulk("id");
        self.out.int(self.client.id as i64);
        let mode = if self.door.databases.is_cluster() { "cluster" } else { "standalone" };
        let role = if self.followed().is_some() { "replica" } else { "master" };
        for (key, value) in [("mode", mode), ("role", role)] {
            self.out.bulk(key);
            self.out.bulk(value);
        }
        self.out.bulk("modules");
        self.out.array(0);
    }

    fn known(&self, name: &[u8], password: &[u8]) -> Option<std::sync::Arc<super::acl::User>> {
        let user = self.door.users.get(std::str::from_utf8(name).ok()?)?;
        user.accepts(password).then_some(user)
    }

    fn auth(&mut self, args: &[&[u8]]) {
        let (name, password) = match args {
            [_, password] => {
                if self.door.users.anybody().is_some() {
                    return self.out.error(
                        "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                         configuration is correct?",
                    );
                }
                (DEFAULT.as_bytes(), *password)
            }
            [_, name, password] => (*name, *password),
            _ => return self.out.error("ERR syntax error"),
        };
        match self.known(name, password) {
            Some(user) => {
                self.be(Some(user));
                self.out.ok();
            }
            None => {
                self.note_refusal("auth", b"AUTH", &String::from_utf8_lossy(name));
                self.out.error("WRONGPASS invalid username-password pair or user is disabled.");
            }
        }
    }

    fn reset(&mut self) {
        self.gathered = None;
        self.watched.clear();
        self.unsubscribe_all();
        self.track_no_more();
        self.door.hub.monitor_no_more(self.client.id);
        self.database = 0;
        self.stale = false;
        self.replies = super::session::Replies::On;
        self.speak(Protocol::Two);
        let anybody = self.door.users.anybody();
        self.be(anybody);
        let mut facts = self.client.facts();
        facts.name.clear();
        (facts.monitor, facts.no_evict, facts.no_touch) = (false, false, false);
        drop(facts);
        self.out.status("RESET");
    }

    /// How many other members have what was answered.
    fn others(&self) -> usize {
        let homes = self.door.homes().ok();
        let first = homes.as_ref().and_then(|homes| homes.shards().first());
        match first {
            Some(Home::Here(shard)) => shard.members().map_or(0, |members| members.voters().len() / 2),
            Some(home) => self.door.cluster.sighted(home.id()).map_or(0, |part| part.voters.len() / 2),
            None => 0,
        }
    }

    /// WAIT. What was answered is on a majority's disks already, which is what it is asked for.
    fn wait_for_members(&mut self, args: &[&[u8]]) {
        if parse_int(args[1]).is_none() {
            return self.out.error("ERR value is not an integer or out of range");
        }
        let Some(millis) = parse_int(args[2]) else {
            return self.out.error("ERR timeout is not an integer or out of range");
        };
        if millis < 0 {
            return self.out.error("ERR timeout is negative");
        }
        let others = self.others();
        self.out.int(others as i64);
    }

    async fn flush_all(&mut self, args: &[&[u8]]) {
        match self.door.homes_at(self.level()).await {
            Ok(homes) => self.flush_everywhere(&homes, &[0], args).await,
            Err(error) => self.out.error(error),
        }
    }

    /// COPY: within a database the log does it.
    pub async fn copy(&mut self, command: Command, args: &[&[u8]]) {
        let Some(other) = other_database(args) else {
            return self.gather(command.spec, args, Answer::Whole).await;
        };
        self.settle().await;
        let Some(other) = database(other) else {
            return self.out.error(match parse_int(other) {
                Some(_) => "ERR DB index is out of range",
                None => "ERR value is not an integer or out of range",
            });
        };
        let place = args.iter().skip(3).position(|word| is(word, "db")).unwrap_or(0) + 3;
        let words: Vec<&[u8]> =
            args.iter().enumerate().filter(|(at, _)| *at != place && *at != place + 1).map(|(_, arg)| *arg).collect();
        if other == self.database {
            return self.gather(command.spec, &words, Answer::Whole).await;
        }
        let replace = match words[3..] {
            [] => false,
            [word] if is(word, "replace") => true,
            _ => return self.out.error("ERR syntax error"),
        };
        self.carry(args[1], args[2], other, replace, false).await;
    }

    async fn move_key(&mut self, args: &[&[u8]]) {
        let Some(other) = database(args[2]) else {
            return match parse_int(args[2]) {
                Some(_) => self.out.error("ERR DB index is out of range"),
                None => self.out.error("ERR value is not an integer or out of range"),
            };
        };
        if other == self.database {
            return self.out.error("ERR source and destination objects are the same");
        }
        self.carry(args[1], args[1], other, false, true).await;
    }

    /// Takes a value from one database to another, if neither key changes meanwhile.
    async fn carry(&mut self, from: &[u8], to: &[u8], other: u8, replace: bool, moves: bool) {
        for _ in 0..CARRIES_MAX {
            let (database, place) = (self.database, self.place.clone());
            self.read_anew();
            let looks = [(database, Look::Whole(from)), (other, Look::Versions(&[to]))];
            let Some(found) = self.ask(&looks).await else { return };
            let mut items = found.items();
            let (Some(whole), Some(there)) = (whole_of(&mut items), versions_of(&mut items)) else {
                return self.damaged_reply();
            };
            let Some(Whole { version, deadline, value, tags }) = whole else { return self.out.int(0) };
            let value = match value {
                Ok(value) => value,
                Err(error) => return self.out.error(error),
            };
            let there = there.first().copied().filter(|version| *version != 0);
            if there.is_some() && !replace {
                return self.out.int(0);
            }
            if [Some(version), there].into_iter().flatten().any(|version| found.is_changing(version)) {
                tokio::time::sleep(AT_WORK).await;
                continue;
            }
            let mut pending = Pending::default();
            let until = int_text(deadline);
            let restore: [&[u8]; 6] = [b"restore", to, &until, value, b"replace", b"absttl"];
            pending.push(&place, other, restore.into_iter(), Answer::None);
            if !tags.is_empty() {
                let call: Vec<&[u8]> = [&b"tag.set"[..], to].into_iter().chain(tags).collect();
                pending.push(&place, other, call.into_iter(), Answer::None);
            }
            if moves {
                pending.push(&place, database, [&b"del"[..], from].into_iter(), Answer::None);
            }
            let conditions = [(database, from, version), (other, to, there.unwrap_or(0))];
            let conditions = conditions.map(|(database, key, version)| {
                let database = pending.place(&place, database);
                Watched { database, key: key.into(), version }
            });
            let mut calls = pending.into_calls(&place);
            (calls.conditions, calls.atomic) = (conditions.into(), true);
            self.read_anew();
            match self.door.execute(calls, self.origin()).await {
                Ok(Some(_)) => return self.out.int(1),
                Ok(None) => {}
                Err(error) => return self.out.error(error),
            }
        }
        self.out.error("TRYAGAIN others change the keys at the same time");
    }

    /// SWAPDB: one call of the log that names both databases by their places.
    async fn swap(&mut self, args: &[&[u8]]) {
        let (one, other) = match swapped(args) {
            Ok((one, other)) if one == other => return self.out.ok(),
            Ok(both) => both,
            Err(error) => return self.out.error(error),
        };
        let mut pending = Pending::default();
        pending.push_swap(&self.place, one, other);
        let calls = pending.into_calls(&self.place);
        self.read_anew();
        match self.door.execute(calls, self.origin()).await {
            Ok(_) => self.out.ok(),
            Err(error) => self.out.error(error),
        }
    }

    async fn debug(&mut self, args: &[&[u8]]) {
        match args {
            [_, word, seconds] if is(word, "sleep") => {
                let Some(seconds) = parse_float(seconds).filter(|seconds| *seconds >= 0.0) else {
                    return self.out.error("ERR value is not a valid float");
                };
                tokio::time::sleep(Duration::try_from_secs_f64(seconds).unwrap_or(SLEEP_MAX).min(SLEEP_MAX)).await;
                self.out.ok();
            }
            [_, word, ..]
                if ["jmap", "set-active-expire", "quicklist-packed-threshold", "change-repl-id", "stringmatch-len"]
                    .iter()
                    .any(|known| is(word, known)) =>
            {
                self.out.ok();
            }
            [_, word, ..] if is(word, "reload") || is(word, "loadaof") => {
                // What was answered is on the disk, and would be read again as it is.
                self.out.ok();
            }
            [_, word] if is(word, "help") => self.help("DEBUG", &["SLEEP <seconds>"]),
            [_, word, ..] if is(word, "digest") => self.out.status("0000000000000000000000000000000000000000"),
            [_, word, ..] => self.no_part("DEBUG", word),
            _ => self.out.error("ERR syntax error"),
        }
    }

    /// There is no such part of a command.
    pub fn no_part(&mut self, command: &str, part: &[u8]) {
        let part = String::from_utf8_lossy(&part[..part.len().min(128)]).into_owned();
        self.out
            .error(format!("ERR unknown subcommand or wrong number of arguments for '{part}'. Try {command} HELP."));
    }

    /// What parts a command has.
    pub fn help(&mut self, command: &str, parts: &[&str]) {
        self.out.array(parts.len() + 3);
        self.out.status(format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        parts.iter().for_each(|part| self.out.status(part));
        self.out.status("HELP");
        self.out.status("    Print this help.");
    }
}
