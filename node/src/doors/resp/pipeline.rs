//! A pipeline: calls that came together and go to the log together.
//!
//! ```text
//!   SET, GET, INCR, ... of one read from the socket --> one command of the log, one sync --> replies, in order
//! ```
//!
//! What only reads goes this way too once something that writes waits before it: so it sees what was written.

use std::collections::HashSet;
use std::time::Instant;

use loci_index::command::Origin;
use loci_index::table::call::Packed;
use loci_index::table::commands::{Run, Spec, int_text};
use loci_index::table::tape::{Item, Items};

use super::databases::{Calls, origin_of};
use super::lanes::Fate;
use super::session::Session;
use super::{render, slow};

/// Calls go to the log once so many wait.
const CALLS_MAX: u32 = 4096;
/// Or so many bytes of them.
const BYTES_GOAL: usize = 1 << 20;

/// Memory for more bytes of calls is given back once they are answered.
const KEPT_MAX: usize = 16 << 10;

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
    /// Not only calls that may go together with those of others.
    heavy: bool,
    /// Which commands they are, for what is counted.
    numbers: Vec<u16>,
    /// What the client changes, where its cache is not to be told of that.
    own: HashSet<Box<[u8]>>,
}

impl Pending {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.answers.len()
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

    /// Exchanges what two databases hold.
    pub fn push_swap(&mut self, one: u8, other: u8) {
        let places = [self.place(one), self.place(other)].map(|place| int_text(place.into()));
        self.push(one, [&b"swapdb"[..], &places[0], &places[1]].into_iter(), Answer::Whole);
    }

    fn is_full(&self) -> bool {
        self.packed.calls() >= CALLS_MAX || self.packed.len() >= BYTES_GOAL
    }

    /// As the log gets them, to keep what is here as well.
    fn calls(&self) -> Calls {
        let (databases, packed) = (self.databases.clone(), self.packed.clone().into_bytes());
        Calls { databases, packed, conditions: Vec::new(), atomic: false }
    }

    /// Without calls again, and without the memory of very many.
    fn clear(&mut self) {
        if self.packed.len() > KEPT_MAX {
            *self = Pending::default();
        }
        self.databases.clear();
        self.packed.clear();
        self.answers.clear();
        self.numbers.clear();
        self.own.clear();
        self.heavy = false;
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
        origin_of(&self.principal)
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
        if matches!(spec.run, Run::Script) {
            self.script = Some(slow::shown(args));
        }
        let answer = if self.is_silent() { Answer::None } else { answer };
        self.pending.heavy |= !self.is_light(spec, args);
        self.pending.push(self.database, args.iter().copied(), answer);
        self.pending.numbers.push(self.number());
    }

    /// Has the log carry out the calls that wait, and writes their replies.
    pub async fn settle(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let own = std::mem::take(&mut self.pending.own);
        // What is read next must see it.
        self.reading = None;
        self.writing(own);
        let Pending { databases, packed, heavy, .. } = &self.pending;
        let mut fate = match heavy {
            true => Fate::Alone,
            false => self.lane.submit(&self.door, databases, &self.principal, packed).await,
        };
        if matches!(fate, Fate::Alone) {
            let calls = self.pending.calls();
            fate = match self.door.execute(calls, self.origin()).await {
                Ok(tape) => Fate::Done(tape.unwrap_or_default().into()),
                Err(error) => Fate::Failed(error),
            };
        }
        self.writing(HashSet::new());
        self.took_until_now();
        let mut pending = std::mem::take(&mut self.pending);
        let answers = pending.answers.iter().zip(&pending.numbers);
        match fate {
            Fate::Done(tape) => {
                let mut items = Items::new(&tape);
                for (answer, number) in answers {
                    self.reply_at = self.out.len();
                    self.answer(&mut items, *answer);
                    self.note_error(Some(*number));
                }
            }
            // Nobody refuses what goes alone because of others.
            Fate::Alone => {}
            Fate::Failed(error) => {
                for (_, number) in answers.filter(|(answer, _)| **answer != Answer::None) {
                    self.reply_at = self.out.len();
                    self.out.error(&error);
                    self.note_error(Some(*number));
                }
            }
        }
        self.reply_at = self.out.len();
        pending.clear();
        self.pending = pending;
    }

    /// What waited was answered: what is measured begins anew, and a script was as slow as that.
    fn took_until_now(&mut self) {
        let now = Instant::now();
        let since = self.measured.replace(now);
        if let (Some(script), Some(since)) = (self.script.take(), since) {
            let args: Vec<&[u8]> = script.iter().map(|arg| &arg[..]).collect();
            let name = || self.client.facts().name.clone();
            self.door.slow.took(now - since, &args, false, (self.client.address, &name));
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
