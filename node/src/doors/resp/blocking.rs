//! Blocking commands: tried, and tried again when something happened to one of their keys, until their time is up.
//!
//! ```text
//!   BLPOP k 5 --try--> a value: answered
//!                 \--> nothing: in the queue of k --woken--> try --> ...
//!                                                \--time up, unblocked--> nothing
//! ```
//!
//! Those who wait for a key are woken one after the other, the first first. What is tried goes through the log only if the
//! key is there, so that waiting costs the log nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::table::Keyspace;
use loci_index::table::call::Chance;
use loci_index::table::commands::{Run, is, parse_float, parse_int};
use loci_index::table::execute::{self, Moment};
use loci_index::table::tape::{Item, Items, Tape};

use super::client::Unblock;
use super::commands::Command;
use super::hub::Waiter;
use super::pipeline::Answer;
use super::render;
use super::session::{Next, Session};
use crate::doors::looks::{Look, bulks_of};
use crate::shard::Level;

/// The longest wait there is; longer ones are this long.
const WAIT_MAX: Duration = Duration::from_secs(u32::MAX as u64);

/// A command that waits.
pub struct Blocked {
    command: Command,
    args: Vec<Box<[u8]>>,
    /// Its place in the queues of its keys.
    waiter: Arc<Waiter>,
    /// When its time is up, if ever.
    pub until: Option<Instant>,
    /// What it says then.
    nothing: Vec<u8>,
}

/// How long a command may wait. None: it does not want to.
fn patience(command: Command, args: &[&[u8]]) -> Option<Option<Duration>> {
    let millis = |text: &[u8]| {
        let millis = parse_int(text).filter(|millis| *millis >= 0)?;
        Some((millis > 0).then(|| Duration::from_millis(millis as u64).min(WAIT_MAX)))
    };
    let seconds = |text: Option<&&[u8]>| {
        let seconds = parse_float(text?).filter(|seconds| *seconds >= 0.0)?;
        Some((seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(WAIT_MAX).min(WAIT_MAX)))
    };
    match command.spec.name {
        "xread" | "xreadgroup" => {
            let streams = args.iter().position(|arg| is(arg, "streams")).unwrap_or(args.len());
            let block = args[..streams].iter().skip(1).position(|arg| is(arg, "block"))?;
            millis(args.get(block + 2)?)
        }
        "blmpop" | "bzmpop" => seconds(args.get(1)),
        "brpoplpush" => seconds(args.get(3)),
        "blmove" => seconds(args.get(5)),
        _ => seconds(args.last()),
    }
}

/// The type of value that it waits for.
fn awaited(name: &str) -> &'static str {
    match name.as_bytes()[1] {
        b'z' => "zset",
        b'r' if name.starts_with('x') => "stream",
        _ => "list",
    }
}

/// Whether what is taken is put to another key.
fn is_move(name: &str) -> bool {
    matches!(name, "blmove" | "brpoplpush")
}

fn is_nothing(tape: &[u8]) -> bool {
    matches!(Items::new(tape).next(), Some(Item::Null | Item::NullArray))
}

fn is_wrong_type(tape: &[u8]) -> bool {
    matches!(Items::new(tape).next(), Some(Item::Error(text)) if text.starts_with(b"WRONGTYPE"))
}

impl Session {
    /// Tries a blocking command; says to wait if there was nothing.
    pub async fn try_or_wait(&mut self, command: Command, args: &[&[u8]]) -> Next {
        let patience = patience(command, args);
        if patience.is_none() || self.is_silent() {
            match command.spec.run {
                Run::Read(_) => {
                    self.settle().await;
                    if let Some(tape) = self.read_tape(command, args).await {
                        render::reply(&mut Items::new(&tape), &mut self.out);
                    }
                }
                _ => self.gather(command.spec, args, Answer::Whole).await,
            }
            return Next::Go;
        }
        self.settle().await;
        // What is wrong with the arguments is wrong also where there is no key, and so is the reply when there is nothing.
        let dry = dry_run(command, args);
        let nothing = match is_nothing(&dry) {
            // Whoever waited in vain is told with an array, whatever the reply would have been.
            true if !is_move(command.spec.name) => dry,
            found_nothing if found_nothing || command.spec.name == "xreadgroup" => {
                let mut tape = Tape::new();
                tape.null_array();
                tape.into_bytes()
            }
            _ => {
                render::reply(&mut Items::new(&dry), &mut self.out);
                return Next::Go;
            }
        };
        let Some(args) = self.concrete(command, args).await else { return Next::Go };
        let borrowed: Vec<&[u8]> = args.iter().map(|arg| &**arg).collect();
        let keys = command.spec.key_places(&borrowed).into_iter().filter_map(|place| borrowed.get(place).copied());
        let waiter = Waiter::new(self.client.clone(), self.database, keys);
        // In the queue before the first look.
        self.door.hub.wait(&waiter);
        self.door.hub.heard(self.door.shard_of(&self.place)).await;
        let until = patience.flatten().map(|patience| Instant::now() + patience);
        let mut blocked = Blocked { command, args, waiter, until, nothing };
        match self.attempt(&mut blocked, true).await {
            true => {
                self.door.hub.leave(&blocked.waiter);
                Next::Go
            }
            false => {
                self.client.facts().blocked = true;
                Next::Wait(Box::new(blocked))
            }
        }
    }

    /// Tries; whether it was answered.
    async fn attempt(&mut self, blocked: &mut Blocked, first: bool) -> bool {
        let Blocked { command, args, waiter, .. } = blocked;
        let (command, args) = (*command, args.iter().map(|arg| &**arg).collect::<Vec<&[u8]>>());
        let database = self.database;
        if self.tracking.is_some() && !first {
            self.remember_reads(command, &args);
        }
        self.read_anew();
        let places = command.spec.key_places(&args).into_iter();
        let keys: Vec<&[u8]> = places.filter_map(|place| args.get(place).copied()).collect();
        // Who told that something happened may be ahead of who is asked.
        let Some(found) = self.ask_at(Level::Latest, &[(database, Look::Types(&keys))]).await else { return true };
        let Some(types) = bulks_of(&mut found.items()) else {
            self.damaged_reply();
            return true;
        };
        // What is taken from comes before what it is put to.
        let from = if is_move(command.spec.name) { 1 } else { types.len() };
        let awaited = Some(awaited(command.spec.name).as_bytes());
        let is_awaited = types.iter().take(from).any(|kind| *kind == awaited);
        let is_there = types.iter().any(Option::is_some);
        if !is_there && command.spec.name != "xreadgroup" {
            return false;
        }
        let tape = match command.spec.run {
            Run::Read(_) => match self.ask_at(Level::Latest, &[(database, Look::Command(command.spec, &args))]).await {
                Some(found) => found.into_tape(),
                None => return true,
            },
            _ => {
                let mut pending = super::pipeline::Pending::default();
                pending.push(&self.place, database, args.iter().copied(), Answer::Whole);
                let calls = pending.into_calls(&self.place);
                match self.door.execute(calls, self.origin()).await {
                    Ok(tape) => tape.unwrap_or_default().into(),
                    Err(error) => {
                        self.out.error(error);
                        return true;
                    }
                }
            }
        };
        self.read_anew();
        // A value of another type wakes nobody. But where one of the awaited type came, the command fails if another key is wrong.
        let goes_on = !first && !is_awaited && command.spec.name != "xreadgroup";
        if is_nothing(&tape) || (goes_on && is_wrong_type(&tape)) {
            // It may be for another who waits for the same key.
            self.door.hub.pass_on(waiter);
            return false;
        }
        self.answer(&mut Items::new(&tape), Answer::Whole);
        if matches!(command.spec.run, Run::Read(_)) {
            // What was read is still there for others.
            self.door.hub.pass_on(waiter);
        }
        true
    }

    /// Something happened: whether the wait is over.
    pub async fn go_on(&mut self, blocked: &mut Blocked) -> bool {
        if let Some(how) = self.client.take_unblock() {
            match how {
                Unblock::Timeout => self.give_up(blocked),
                Unblock::Error => self.out.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            }
            return true;
        }
        // What came before the time was up is served, however late this is looked at.
        if blocked.waiter.take_ready() && self.attempt(blocked, false).await {
            return true;
        }
        let over = blocked.until.is_some_and(|until| Instant::now() >= until);
        if over {
            self.give_up(blocked);
        }
        over
    }

    fn give_up(&mut self, blocked: &Blocked) {
        render::reply(&mut Items::new(&blocked.nothing), &mut self.out);
    }

    /// The wait is over, however it ended.
    pub fn stop_waiting(&mut self, blocked: &Blocked) {
        self.door.hub.leave(&blocked.waiter);
        self.client.facts().blocked = false;
        self.caching_ends(Some(blocked.command));
        // One that came too late.
        self.client.take_unblock();
    }

    /// The arguments with what `$` means now in its place: the last entry of each stream.
    async fn concrete(&mut self, command: Command, args: &[&[u8]]) -> Option<Vec<Box<[u8]>>> {
        let mut settled = None;
        if command.spec.name == "xread" && args.contains(&&b"$"[..]) {
            let found = self.ask_one(Look::Settled(args)).await?;
            settled = bulks_of(&mut found.items()).map(|args| args.into_iter().flatten().map(Box::from).collect());
        }
        Some(settled.unwrap_or_else(|| args.iter().map(|arg| Box::from(*arg)).collect()))
    }
}

/// What a command says where there are no keys at all.
fn dry_run(command: Command, args: &[&[u8]]) -> Vec<u8> {
    let mut keyspace = Keyspace::new(Chance::new(0).next_u64());
    let mut tape = Tape::new();
    let moment = Moment { now: 1, version: 1, number: 0 };
    execute::write(&mut keyspace, command.spec, args, moment, &mut tape);
    tape.into_bytes()
}
