//! Transactions: MULTI gathers, EXEC has the log carry all of it out at once, WATCH makes that depend on keys.
//!
//! ```text
//!   MULTI, SET, GET, ..., EXEC --> { watched key: version, ... } + calls --> one command of the log, nobody sees a part of it
//! ```
//!
//! A watched key is remembered with the version that it had; the log's command does nothing if one has another by then. What
//! the door does itself (such as `SELECT`, `PING`) is done while the replies are written. Over several shards all keys are in one
//! slot, watched ones too.

use std::collections::HashSet;

use loci_index::command::Watched;
use loci_index::record::Position;
use loci_index::table::commands::{Run, is};
use loci_index::table::tape::Items;

use super::commands::{Command, Do, Way};
use super::databases::AT_WORK;
use super::pipeline::{Answer, Pending};
use super::places::Place;
use super::session::{Next, Session};
use crate::doors::looks::{Look, versions_of};

/// The most bytes that a transaction gathers, and the most calls.
const GATHERED_BYTES_MAX: usize = 32 << 20;
const GATHERED_CALLS_MAX: usize = 1 << 15;
/// FLUSHALL is a call for each database. All of them must have versions of their own in the entry that they are in.
const CALLS_MAX: usize = Position::COMMANDS_MAX - 1;
const _: () = assert!(GATHERED_CALLS_MAX < CALLS_MAX);
/// The most keys that a client watches.
const WATCHED_MAX: usize = 1 << 16;

/// Calls between MULTI and EXEC.
#[derive(Default)]
pub struct Gathered {
    pub(super) calls: Vec<(Command, Vec<Box<[u8]>>)>,
    bytes: usize,
    /// One of them was refused: EXEC does nothing.
    pub(super) broken: bool,
}

/// A watched key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    database: u8,
    pub(super) key: Box<[u8]>,
    /// Zero: it was not there.
    version: u64,
}

/// What becomes of a gathered call.
enum Step {
    /// The log does it; so many of its replies are one.
    Log(Answer),
    /// The same call for each of several databases.
    Merged(usize),
    /// Done here while the replies are written: the command of that name.
    Here(Do, &'static str, Vec<Box<[u8]>>),
    /// It cannot be done.
    Refused(String),
}

/// Whether it is refused between MULTI and EXEC.
fn is_not_gathered(command: Command) -> bool {
    let Way::Door(what) = command.way else { return false };
    matches!(what, Do::Auth | Do::Hello | Do::Monitor | Do::Move | Do::Subscribe | Do::PSubscribe | Do::SSubscribe)
        || matches!(command.spec.name, "save" | "shutdown")
}

impl Session {
    /// Gathers a call for EXEC.
    pub async fn gather_for_later(&mut self, command: Command, args: &[&[u8]]) -> Next {
        if is_not_gathered(command) {
            return self.refuse("ERR Command not allowed inside a transaction").await;
        }
        let Some(gathered) = &mut self.gathered else { return Next::Go };
        gathered.bytes += args.iter().map(|arg| arg.len() + 64).sum::<usize>();
        if gathered.bytes > GATHERED_BYTES_MAX || gathered.calls.len() >= GATHERED_CALLS_MAX {
            (gathered.broken, gathered.calls) = (true, Vec::new());
            return self.refuse("ERR the transaction is larger than may be").await;
        }
        gathered.calls.push((command, args.iter().map(|arg| Box::from(*arg)).collect()));
        self.out.status("QUEUED");
        Next::Go
    }

    /// MULTI.
    pub fn multi(&mut self) {
        match &self.gathered {
            Some(_) => self.out.error("ERR MULTI calls can not be nested"),
            None => {
                self.gathered = Some(Gathered::default());
                self.out.ok();
            }
        }
    }

    /// DISCARD.
    pub fn discard(&mut self) {
        match self.gathered.take() {
            None => self.out.error("ERR DISCARD without MULTI"),
            Some(_) => {
                self.watched.clear();
                self.out.ok();
            }
        }
    }

    /// WATCH.
    pub async fn watch(&mut self, keys: &[&[u8]]) {
        if self.gathered.is_some() {
            return self.out.error("ERR WATCH inside MULTI is not allowed");
        }
        if self.watched.len() + keys.len() > WATCHED_MAX {
            return self.out.error("ERR too many watched keys");
        }
        let database = self.database;
        let versions = loop {
            // What was read before may be older than what others have been told.
            self.read_anew();
            let Some(found) = self.ask_one(Look::Versions(keys)).await else { return };
            let Some(versions) = versions_of(&mut found.items()) else { return self.damaged_reply() };
            if !versions.iter().any(|version| found.is_changing(*version)) {
                break versions;
            }
            tokio::time::sleep(AT_WORK).await;
        };
        for (key, version) in keys.iter().zip(versions) {
            let watched = |known: &Watch| known.database == database && *known.key == **key;
            if !self.watched.iter().any(watched) {
                self.watched.push(Watch { database, key: Box::from(*key), version });
            }
        }
        self.out.ok();
    }

    /// EXEC.
    pub async fn exec(&mut self) {
        let Some(gathered) = self.gathered.take() else { return self.out.error("ERR EXEC without MULTI") };
        let watched = std::mem::take(&mut self.watched);
        if gathered.broken {
            return self.out.error("EXECABORT Transaction discarded because of previous errors.");
        }
        let place = match self.place_of_all(&gathered.calls, &watched).await {
            Ok(place) => place,
            Err(error) => return self.out.error(error),
        };
        // What the door does itself looks there too.
        self.go_to(place.clone());
        let mut pending = Pending::default();
        let mut database = self.database;
        let mut steps = Vec::with_capacity(gathered.calls.len());
        let mut there = Vec::new();
        if gathered.calls.iter().any(|(command, _)| command.way == Way::Door(Do::FlushAll)) {
            there = match self.door.databases_there().await {
                Ok(there) => there,
                Err(error) => return self.out.error(error),
            };
        }
        let mut own = HashSet::new();
        for (command, args) in gathered.calls {
            if self.tracking.is_some() {
                let borrowed: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
                match (command.way, &borrowed[..]) {
                    // It counts for what comes behind it, all of which is carried out before anything is answered.
                    (Way::Door(Do::Client), [_, what, word]) if is(what, "caching") => {
                        let _ = self.set_caching(word);
                    }
                    _ => self.remember_reads(command, &borrowed),
                }
                if self.wants_no_loop() && !matches!(command.spec.run, Run::Read(_)) {
                    let places = command.spec.key_places(&borrowed).into_iter();
                    own.extend(places.filter_map(|place| args.get(place).cloned()));
                }
            }
            steps.push(self.step((&mut pending, &place), &mut database, &there, command, args));
            // Scripts bring along what their caller may do.
            if pending.bytes() > GATHERED_BYTES_MAX {
                return self.out.error("EXECABORT Transaction discarded because it is larger than may be.");
            }
        }
        if pending.len() > CALLS_MAX {
            return self.out.error("EXECABORT Transaction discarded because it is larger than may be.");
        }
        let conditions: Vec<Watched> = watched
            .into_iter()
            .map(|Watch { database, key, version }| Watched {
                database: pending.place(&place, database),
                key: key.into(),
                version,
            })
            .collect();
        let mut tape = Vec::new();
        if !pending.is_empty() || !conditions.is_empty() {
            let mut calls = pending.into_calls(&place);
            (calls.conditions, calls.atomic) = (conditions, true);
            self.read_anew();
            self.writing(own);
            let done = self.door.execute(calls, self.origin()).await;
            self.writing(HashSet::new());
            match done {
                Ok(Some(replies)) => tape = replies,
                Ok(None) => return self.out.null_array(),
                Err(error) => return self.out.error(error),
            }
        }
        let mut items = Items::new(&tape);
        self.out.array(steps.len());
        for step in steps {
            match step {
                Step::Log(answer) => self.answer(&mut items, answer),
                Step::Merged(count) => {
                    for _ in 0..count {
                        items.whole();
                    }
                    self.out.ok();
                }
                Step::Here(what, name, args) => {
                    self.last = name;
                    let args: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
                    // None of these gathers, so none of them comes back here.
                    Box::pin(self.act(what, &args)).await;
                }
                Step::Refused(error) => self.out.error(error),
            }
        }
        self.last = "exec";
    }

    fn step(
        &mut self,
        (pending, place): (&mut Pending, &Place),
        database: &mut u8,
        there: &[u8],
        command: Command,
        args: Vec<Box<[u8]>>,
    ) -> Step {
        let borrowed: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
        // Who may do what can have changed.
        if let Err(reason) = self.may(command, &borrowed) {
            return Step::Refused(reason);
        }
        match command.way {
            Way::Door(Do::FlushAll) => {
                for number in there {
                    pending.push(place, *number, [&b"flushdb"[..]].into_iter(), Answer::Whole);
                }
                Step::Merged(there.len())
            }
            Way::Door(Do::SwapDb) => match super::act::swapped(&borrowed) {
                Ok((one, other)) => {
                    pending.push_swap(place, one, other);
                    Step::Log(Answer::Whole)
                }
                Err(error) => Step::Refused(error.into()),
            },
            Way::Door(what) => {
                if what == Do::Select
                    && let Some(selected) = super::act::database(&args[1])
                {
                    *database = selected;
                }
                Step::Here(what, command.spec.name, args)
            }
            Way::Publish => {
                let receivers = self.door.hub.receivers(&args[1], command.spec.name == "spublish");
                pending.push(place, *database, borrowed.into_iter(), Answer::Count(receivers));
                Step::Log(Answer::Count(receivers))
            }
            Way::Copy if super::act::other_database(&borrowed).is_some() => {
                Step::Refused("ERR COPY to another database is not supported inside a transaction".into())
            }
            Way::Read | Way::Keys | Way::Write | Way::Wait | Way::Copy => {
                let permits = self.permits(command.spec, &borrowed);
                pending.push_of(command.spec, place, *database, (&borrowed, &permits), Answer::Whole);
                Step::Log(Answer::Whole)
            }
        }
    }
}
