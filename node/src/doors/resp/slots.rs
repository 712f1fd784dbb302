//! Slots: which shard a request goes to, and which node, where the databases are spread over several.
//!
//! ```text
//!   request --its keys--> no slot: any shard | all shards      (DBSIZE, FLUSHALL: everywhere)
//!                     '-> one slot --> its shard ------------> read or written here, wherever it is led
//!                     |                  '-- cluster mode, led by another --> MOVED slot host:port
//!                     '-> several --> CROSSSLOT
//! ```
//!
//! All keys of a call, of a transaction with what it watches, and of a script are in one slot, not only in one shard: so a program
//! that works goes on working with any number of shards, and with a Redis Cluster, whose clients look for that themselves. A script
//! that makes up keys of other slots is refused where it does so. Messages go through the shard of their channel's slot, so
//! that those of one channel keep their order.
//!
//! In the cluster mode (`--resp-cluster`) a node answers for the keys of the shards that it leads, and tells who leads the others;
//! after READONLY it answers reads of all of them from what it has. Nothing ever moves from one shard to another, so nobody is
//! told to ASK.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::table::commands::{READONLY, Run, is};
use loci_index::table::slots::{Span, is_of_all, slot};
use loci_raft::MemberId;

use super::Door;
use super::act::other_database;
use super::commands::{Command, Do, Way};
use super::places::{Homes, Place};
use super::session::Session;
use super::transactions::Watch;
use crate::cluster::book;
use crate::shard::Level;

const CROSSSLOT: &str = "CROSSSLOT Keys in request don't hash to the same slot";
/// How long a request waits for somebody to lead its shard.
pub const LEADER_WAIT: Duration = Duration::from_secs(2);
/// How often it looks.
pub const LEADER_LOOK: Duration = Duration::from_millis(10);

/// How far a request reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// One place, or none at all.
    Place,
    /// All shards.
    All,
}

/// What a call is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// The connection or the server.
    Nothing,
    /// Keys.
    Keys(Span),
    /// A channel of this slot.
    Channel(u16),
    /// All keys.
    All,
}

/// What a call is about.
fn about(command: Command, args: &[&[u8]]) -> About {
    let spec = command.spec;
    match command.way {
        Way::Publish => About::Channel(args.get(1).map_or(0, |channel| slot(channel))),
        Way::Door(Do::FlushAll) => About::All,
        Way::Door(Do::Memory) => match args {
            [_, what, key, ..] if is(what, "usage") => About::Keys(Span::One(slot(key))),
            _ => About::Nothing,
        },
        Way::Door(Do::Watch | Do::Move) => About::Keys(Span::of(spec, args)),
        Way::Door(_) => About::Nothing,
        _ if is_of_all(spec) => About::All,
        _ => About::Keys(Span::of(spec, args)),
    }
}

/// Where another node's clients of Redis connect.
pub struct Address {
    /// As it is known to the other nodes.
    pub host: String,
    /// As it says, or else the same as here.
    pub port: u16,
}

impl Door {
    /// Where the clients of a member connect, if the book knows it.
    pub fn address_of(&self, member: MemberId) -> Option<Address> {
        book::find(&self.cluster.catalog().newest(), member).map(|line| self.address_in(&line))
    }

    /// The same, as a line of the book has it.
    pub fn address_in(&self, line: &book::Line) -> Address {
        let host = line.address.rsplit_once(':').map_or(line.address.as_str(), |(host, _)| host);
        let port = if line.resp == 0 { self.port() } else { line.resp };
        Address { host: host.trim_start_matches('[').trim_end_matches(']').to_owned(), port }
    }

    /// Whether this node leads one of the shards.
    pub fn leads(&self, homes: &Homes, part: usize) -> bool {
        homes.shards().get(part).is_some_and(|home| home.leader(&self.cluster) == Some(self.cluster.me()))
    }

    /// The shards that this node answers for where a command is about all keys: all; among a cluster's clients those that it leads, or
    /// none that it writes to if it leads none.
    pub fn own_parts(&self, homes: &Homes, writes: bool) -> Result<Vec<usize>, String> {
        let all = 0..homes.shards().len();
        if !self.databases.is_cluster() {
            return Ok(all.collect());
        }
        let led: Vec<usize> = all.clone().filter(|part| self.leads(homes, *part)).collect();
        match (led.is_empty(), writes) {
            (false, _) => Ok(led),
            (true, false) => Ok(all.collect()),
            (true, true) => Err("READONLY You can't write against a read only replica.".into()),
        }
    }

    /// Says who leads a slot's shard, if it is another node.
    /// The requests that came together wait together, no longer than one alone.
    async fn redirect(
        &self,
        homes: &Homes,
        place: &Place,
        slot: u16,
        waits_until: &mut Option<Instant>,
    ) -> Result<(), String> {
        let Some(home) = homes.shards().get(place.part()) else { return Ok(()) };
        let leader = || home.leader(&self.cluster);
        if leader() == Some(self.cluster.me()) {
            return Ok(());
        }
        let until = *waits_until.get_or_insert_with(|| Instant::now() + LEADER_WAIT);
        let leader = loop {
            match leader() {
                Some(leader) => break leader,
                None if Instant::now() < until => tokio::time::sleep(LEADER_LOOK).await,
                None => return Err("CLUSTERDOWN Hash slot not served".into()),
            }
        };
        if leader == self.cluster.me() {
            return Ok(());
        }
        match self.address_of(leader) {
            Some(Address { host, port }) => Err(format!("MOVED {slot} {host}:{port}")),
            None => Err("CLUSTERDOWN Hash slot not served".into()),
        }
    }
}

impl Session {
    /// Finds where a request goes, which is where the session looks from then on.
    pub async fn find_place(&mut self, command: Command, args: &[&[u8]]) -> Result<Reach, String> {
        let about = about(command, args);
        if self.door.databases.is_cluster() {
            not_of_clusters(command, args)?;
        }
        if about == About::Nothing && command.way != Way::Door(Do::SwapDb) {
            return Ok(Reach::Place);
        }
        let homes = self.door.homes_at(self.level()).await?;
        if homes.shards().len() == 1 && !self.door.databases.is_cluster() {
            self.go_to(Place::default());
            return Ok(Reach::Place);
        }
        let place = match about {
            About::Nothing => {
                return Err("ERR SWAPDB is not there where databases are spread over several shards".into());
            }
            About::All => return Ok(Reach::All),
            About::Keys(Span::Several) => return Err(CROSSSLOT.into()),
            About::Channel(slot) => Place::of_slot(&homes, slot),
            About::Keys(Span::None) => self.any_place(&homes),
            About::Keys(Span::One(slot)) => {
                let place = Place::of_slot(&homes, slot);
                let reads = command.spec.is(READONLY)
                    || matches!(command.way, Way::Read | Way::Door(Do::Memory))
                    || matches!((command.way, command.spec.run), (Way::Wait, Run::Read(_)));
                if self.door.databases.is_cluster() && !(self.stale && reads) {
                    self.door.redirect(&homes, &place, slot, &mut self.waits_until).await?;
                }
                place
            }
        };
        self.go_to(place);
        Ok(Reach::Place)
    }

    /// Where something goes that is about no key: a shard that is led here, if there is one, or is here.
    fn any_place(&self, homes: &Arc<Homes>) -> Place {
        let led = (0..homes.shards().len()).find(|part| self.door.leads(homes, *part));
        let here = || homes.shards().iter().position(|home| home.here().is_some());
        Place::of_part(homes, led.or_else(here).unwrap_or(0))
    }

    /// Where a transaction goes: all of its keys are in one slot.
    pub async fn place_of_all(
        &mut self,
        calls: &[(Command, Vec<Box<[u8]>>)],
        watched: &[Watch],
    ) -> Result<Place, String> {
        if !self.door.databases.are_spread() {
            return Ok(Place::default());
        }
        let homes = self.door.homes_at(Level::Latest).await?;
        if homes.shards().len() == 1 && !self.door.databases.is_cluster() {
            return Ok(Place::default());
        }
        let mut span = watched.iter().map(|watch| Span::One(slot(&watch.key))).fold(Span::None, Span::and);
        let mut channel = None;
        for (command, args) in calls {
            let args: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
            match about(*command, &args) {
                About::Keys(its) => span = span.and(its),
                About::Channel(slot) => channel = channel.or(Some(slot)),
                About::Nothing | About::All => {}
            }
        }
        match (span, channel) {
            (Span::Several, _) => Err(CROSSSLOT.into()),
            (Span::One(slot), _) | (Span::None, Some(slot)) => Ok(Place::of_slot(&homes, slot)),
            (Span::None, None) => Ok(self.any_place(&homes)),
        }
    }
}

/// A cluster has one database.
fn not_of_clusters(command: Command, args: &[&[u8]]) -> Result<(), String> {
    let refused = match command.way {
        Way::Door(Do::Select) if args.get(1).is_some_and(|number| *number != b"0") => "SELECT is",
        Way::Door(Do::Move) => "MOVE is",
        Way::Door(Do::SwapDb) => "SWAPDB is",
        Way::Copy if other_database(args).is_some_and(|number| number != b"0") => "Copying to another database is",
        _ => return Ok(()),
    };
    Err(format!("ERR {refused} not allowed in cluster mode"))
}

#[cfg(test)]
mod tests {
    use loci_index::table::commands::Keys;

    use super::super::commands;
    use super::*;

    fn of(line: &str) -> About {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        about(commands::find(args[0]).expect("a command"), &args)
    }

    #[test]
    fn a_request_is_about_its_keys_its_channel_or_all() {
        let foo = About::Keys(Span::One(slot(b"foo")));
        for (line, expected) in [
            ("GET foo", foo),
            ("MGET foo {foo}1", foo),
            ("MGET foo bar", About::Keys(Span::Several)),
            ("BLPOP foo bar 1", About::Keys(Span::Several)),
            ("BLPOP foo 1", foo),
            ("WATCH foo bar", About::Keys(Span::Several)),
            ("WATCH foo", foo),
            ("MOVE foo 1", foo),
            ("COPY foo a{foo} DB 1", foo),
            ("MEMORY USAGE foo", foo),
            ("MEMORY STATS", About::Nothing),
            ("EVAL x 1 foo", foo),
            ("FCALL x 0", About::Keys(Span::None)),
            ("PUBLISH foo m", About::Channel(slot(b"foo"))),
            ("SPUBLISH foo m", About::Channel(slot(b"foo"))),
            ("DBSIZE", About::All),
            ("SCAN 0", About::All),
            ("KEYS *", About::All),
            ("RANDOMKEY", About::All),
            ("FLUSHDB", About::All),
            ("FLUSHALL", About::All),
            ("SCRIPT LOAD x", About::All),
            ("FUNCTION LIST", About::All),
            ("TAG.DROP t", About::All),
            ("TAG.KEYS t", About::All),
            ("TAG.OF foo", foo),
            ("PING", About::Nothing),
            ("SELECT 1", About::Nothing),
            ("EXEC", About::Nothing),
            ("SUBSCRIBE foo", About::Nothing),
        ] {
            assert_eq!(of(line), expected, "{line}");
        }
    }

    #[test]
    fn every_command_without_keys_has_its_answer() {
        let all: Vec<&str> = commands::every()
            .into_iter()
            .filter(|command| !matches!(command.way, Way::Door(_)) && is_of_all(command.spec))
            .map(|command| command.spec.name)
            .collect();
        let expected = [
            "dbsize",
            "flushdb",
            "function",
            "keys",
            "randomkey",
            "scan",
            "script",
            "tag.count",
            "tag.drop",
            "tag.keys",
        ];
        assert_eq!(all, expected, "each of them is in `everywhere`");
        let keyed = commands::every()
            .into_iter()
            .filter(|command| matches!(command.way, Way::Door(_)) && !matches!(command.spec.keys, Keys::None));
        assert_eq!(keyed.map(|command| command.spec.name).collect::<Vec<_>>(), ["move", "watch"]);
    }
}
