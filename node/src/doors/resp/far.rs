//! Far: reading what other nodes have.
//!
//! ```text
//!   looks --the shard is here--> the state that the session reads --> tape
//!     '--it is not--> a node that has it, the one that leads first --Peers.Look--> tape
//! ```
//!
//! Commands that came together go together, in one look. Writes go to the log, wherever that is led: [`writes`](super::writes).

use std::time::Duration;

use bytes::Bytes;
use loci_index::record::Position;
use loci_index::table::call::{Packed, Unpacked};
use loci_index::table::execute::{self, Moment};
use loci_index::table::tape::{Item, Items, Tape};
use loci_wire::v1;

use super::Door;
use super::databases::{DATABASES, unread};
use super::places::{MOVED_ON, Place};
use super::session::Session;
use crate::doors::looks::{self, Look};
use crate::gate;
use crate::shard::Level;

/// What looks found.
pub struct Found {
    tape: Bytes,
    index: u64,
}

impl Found {
    /// What each of them found, in order.
    pub fn items(&self) -> Items<'_> {
        Items::new(&self.tape)
    }

    /// The same, to keep.
    pub fn into_tape(self) -> Bytes {
        self.tape
    }

    /// Whether the command that wrote at this version may still be at work: more of it may change the same key, at the same
    /// version.
    pub fn is_changing(&self, version: u64) -> bool {
        version > Position::end_of(self.index).get()
    }
}

/// How long it is looked for a node that has a shard; and by who only wants figures.
const LOOK_TIME: Duration = Duration::from_secs(5);
const FIGURES_TIME: Duration = Duration::from_millis(500);
/// The most that the replies to what came together take.
const REPLIES_BYTES_MAX: usize = 256 << 20;

impl Door {
    /// What packed looks find in a shard, wherever it is; databases by their places.
    pub async fn look_in(
        &self,
        level: Level,
        place: &Place,
        databases: &[u8],
        packed: Bytes,
        chance: u32,
    ) -> Result<Found, String> {
        let (mut rest, mut found): (Bytes, Option<(Vec<u8>, u64)>) = (packed, None);
        loop {
            let reply = self.look_once(level, place, databases, &rest, chance, LOOK_TIME).await?;
            rest = looks::without(&rest, reply.answered);
            let (mut tape, index) = match found {
                None if rest.is_empty() => return Ok(Found { tape: reply.tape, index: reply.index }),
                None => (reply.tape.to_vec(), reply.index),
                Some((mut tape, index)) => {
                    tape.extend_from_slice(&reply.tape);
                    (tape, index)
                }
            };
            if tape.len() > REPLIES_BYTES_MAX {
                let mut refused = Tape::new();
                let (mut unpacked, mut words) = (Unpacked::new(&rest), Vec::new());
                while unpacked.next_into(&mut words).is_some() {
                    refused.error(execute::ASKED_TOO_MUCH);
                }
                tape.extend_from_slice(refused.bytes());
                rest = Bytes::new();
            }
            if rest.is_empty() {
                return Ok(Found { tape: tape.into(), index });
            }
            found = Some((tape, index));
        }
    }

    /// How many keys each database has in a shard that is not here, and how many of them have a deadline. None: nobody says so soon.
    pub async fn count_in(&self, place: &Place) -> Option<Vec<(usize, usize)>> {
        let all: Vec<u8> = (0..DATABASES as u8).collect();
        let mut packed = Packed::new();
        for database in &all {
            packed.push(*database, Look::Counts.words(&mut Default::default()).into_iter());
        }
        let packed = packed.into_bytes().into();
        let reply = self.look_once(Level::Stale, place, &all, &packed, 0, FIGURES_TIME).await.ok()?;
        let mut items = Items::new(&reply.tape);
        let mut count = || match (items.next()?, items.next()?, items.next()?) {
            (Item::Array(2), Item::Int(all), Item::Int(timed)) => Some((all as usize, timed as usize)),
            _ => None,
        };
        all.iter().map(|_| count()).collect()
    }

    /// What the first of some looks find, as many as there is room for.
    async fn look_once(
        &self,
        level: Level,
        place: &Place,
        databases: &[u8],
        packed: &Bytes,
        chance: u32,
        look: Duration,
    ) -> Result<v1::LookReply, String> {
        let deadline = gate::deadline(None, gate::TIMEOUT_DEFAULT);
        let (catalog, stale) = (self.cluster.catalog(), matches!(level, Level::Stale));
        'again: for again in [true, false] {
            let homes = self.homes_of_at(place, level).await?;
            let shard = homes.shards().get(place.part()).ok_or(MOVED_ON)?.id();
            let mut collections = Vec::with_capacity(databases.len());
            for database in databases {
                if homes.id(*database).is_none() {
                    let view = catalog.view(level, Some(deadline)).await.map_err(|error| unread(&error))?;
                    if self.look_for(*database, &homes, &view).is_none() {
                        continue 'again;
                    }
                }
                collections.push(homes.id(*database).unwrap_or(0));
            }
            let request = v1::LookRequest { shard, collections, calls: packed.clone(), stale, chance };
            // Far larger than the rest, and every connection has room for it.
            let asking = Box::pin(self.calls.look_far(request, look, deadline));
            let reply = asking.await.map_err(|failure| format!("TRYAGAIN {}", failure.message))?;
            if reply.answered == 0 {
                return Err("TRYAGAIN another node gave no reply".into());
            }
            if reply.missing && again {
                // Dropped: another of its name may be there, or elsewhere.
                databases.iter().for_each(|database| homes.forget(*database));
                continue;
            }
            return Ok(reply);
        }
        Err(MOVED_ON.into())
    }
}

impl Session {
    /// What looks find in databases of this place, all of them in one state. None: an error was written.
    pub async fn ask(&mut self, looks: &[(u8, Look<'_>)]) -> Option<Found> {
        self.ask_at(self.level_far(), looks).await
    }

    /// The same, of a state that is as new as asked if other nodes have it.
    pub async fn ask_at(&mut self, level: Level, looks: &[(u8, Look<'_>)]) -> Option<Found> {
        let own = self.database;
        for (database, _) in looks {
            self.database = *database;
            let is_known = self.look().await.is_some();
            self.database = own;
            if !is_known {
                return None;
            }
        }
        let mut chance = self.chance();
        let reading = self.look().await?;
        if !reading.is_away() {
            let (mut tape, moment) = (Tape::new(), Moment { number: chance.next_u64() as u32, ..reading.moment() });
            for (database, look) in looks {
                reading.read(*database, |keyspace| look.run(keyspace, moment, &mut tape));
            }
            return Some(Found { tape: tape.into_bytes().into(), index: moment.version });
        }
        let (mut packed, mut databases) = (Packed::new(), Vec::new());
        for (database, look) in looks {
            let known = databases.iter().position(|known| known == database);
            let place = known.unwrap_or_else(|| {
                databases.push(*database);
                databases.len() - 1
            });
            packed.push(place as u8, look.words(&mut Default::default()).into_iter());
        }
        let packed = packed.into_bytes().into();
        match self.door.look_in(level, &self.place, &databases, packed, chance.next_u64() as u32).await {
            Ok(found) => Some(found),
            Err(error) => {
                self.out.error(error);
                None
            }
        }
    }

    /// What one look finds in the selected database.
    pub async fn ask_one(&mut self, look: Look<'_>) -> Option<Found> {
        let database = self.database;
        self.ask(&[(database, look)]).await
    }

    /// How new what other nodes are asked must be. Whoever keeps what it reads is told of changes by one of them, and reads of another.
    pub fn level_far(&self) -> Level {
        if self.tracking.is_some() { Level::Latest } else { self.level() }
    }
}
