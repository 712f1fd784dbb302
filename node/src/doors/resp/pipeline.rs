//! A pipeline: calls that came together and go to the log together.
//!
//! ```text
//!   SET, GET, INCR, ... of one read from the socket --> one command of the log, one sync --> replies, in order
//! ```
//!
//! What only reads goes this way too once something that writes waits before it: so it sees what was written.

use std::collections::HashSet;

use loci_index::command::Origin;
use loci_index::table::call::Packed;
use loci_index::table::commands::Spec;
use loci_index::table::tape::{Item, Items};

use super::databases::Calls;
use super::render;
use super::session::Session;

/// Calls go to the log once so many wait.
const CALLS_MAX: u32 = 4096;
/// Or so many bytes of them.
const BYTES_GOAL: usize = 1 << 20;

/// What is made of a call's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The client gets it.
    Whole,
    /// It is of no interest to the client.
    None,
    /// The client gets this number instead, unless it is an error.
    Count(usize),
}

/// Calls that wait.
#[derive(Default)]
pub struct Pending {
    /// The databases that they name by their place here.
    databases: Vec<u8>,
    packed: Packed,
    answers: Vec<Answer>,
    /// What the client changes, where its cache is not to be told of that.
    own: HashSet<Box<[u8]>>,
}

impl Pending {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// The place of a database among those that are named.
    pub fn place(&mut self, database: u8) -> u8 {
        let place = self.databases.iter().position(|known| *known == database).unwrap_or_else(|| {
            self.databases.push(database);
            self.databases.len() - 1
        });
        place as u8
    }

    /// One more.
    pub fn push<'a>(&mut self, database: u8, args: impl ExactSizeIterator<Item = &'a [u8]>, answer: Answer) {
        let place = self.place(database);
        self.packed.push(place, args);
        self.answers.push(answer);
    }

    fn is_full(&self) -> bool {
        self.packed.calls() >= CALLS_MAX || self.packed.len() >= BYTES_GOAL
    }

    /// As the log gets them, and what becomes of their replies.
    pub fn into_calls(self) -> (Calls, Vec<Answer>) {
        let calls = Calls {
            databases: self.databases,
            packed: self.packed.into_bytes(),
            conditions: Vec::new(),
            atomic: false,
        };
        (calls, self.answers)
    }
}

impl Session {
    /// Who writes, for the log.
    pub fn origin(&self) -> Origin {
        let principal = self.user.as_ref().map_or("", |user| &user.name);
        Origin { principal: format!("redis:{principal}").chars().take(200).collect(), ..Origin::default() }
    }

    /// Adds a call to those that wait.
    pub async fn gather(&mut self, spec: &Spec, args: &[&[u8]], answer: Answer) {
        let bytes: usize = args.iter().map(|arg| arg.len() + 4).sum();
        if self.pending.is_full() || (!self.pending.is_empty() && self.pending.packed.len() + bytes > BYTES_GOAL) {
            self.settle().await;
        }
        if self.wants_no_loop() {
            self.pending.own.extend(
                spec.key_places(args).into_iter().filter_map(|place| args.get(place)).map(|key| Box::from(*key)),
            );
        }
        let answer = if self.is_silent() { Answer::None } else { answer };
        self.pending.push(self.database, args.iter().copied(), answer);
    }

    /// Has the log carry out the calls that wait, and writes their replies.
    pub async fn settle(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut pending = std::mem::take(&mut self.pending);
        let own = std::mem::take(&mut pending.own);
        let (calls, answers) = pending.into_calls();
        // What is read next must see it.
        self.reading = None;
        self.writing(own);
        let done = self.door.execute(calls, self.origin()).await;
        self.writing(HashSet::new());
        let tape = match &done {
            Ok(Some(tape)) => tape.as_slice(),
            Ok(None) => &[],
            Err(error) => {
                let answered = answers.iter().filter(|answer| **answer != Answer::None);
                return answered.for_each(|_| self.out.error(error));
            }
        };
        let mut items = Items::new(tape);
        for answer in answers {
            self.answer(&mut items, answer);
        }
    }

    /// Writes the next reply of a tape.
    pub fn answer(&mut self, items: &mut Items<'_>, answer: Answer) {
        let whole = match answer {
            Answer::Whole => render::reply(items, &mut self.out),
            Answer::None => items.whole().is_some(),
            Answer::Count(count) => match items.clone().next() {
                Some(Item::Error(_)) => render::reply(items, &mut self.out),
                _ => {
                    self.out.int(count as i64);
                    items.whole().is_some()
                }
            },
        };
        if !whole {
            self.out.error("ERR the reply is damaged");
            self.closing = true;
        }
    }
}
