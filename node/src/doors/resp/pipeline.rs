//! A pipeline: calls that came together and go to the log together.
//!
//! ```text
//!   SET, GET, INCR, ... of one read from the socket --> one command of the log, one sync --> replies, in order
//! ```
//!
//! What only reads goes this way too once something waits before it: so it sees what was written. And where other nodes have what it
//! reads: what came together is asked together. A share of which all only reads is not logged, wherever it is.
//!
//! Over several shards each gets its share of the calls, all at the same time. The replies come in the order of the calls, and
//! what becomes of one share says nothing about another.

use std::collections::HashSet;
use std::time::Instant;

use futures_util::future::join_all;
use loci_index::command::Origin;
use loci_index::table::call::Packed;
use loci_index::table::commands::{FAST, Keys, Run, Spec, int_text};
use loci_index::table::slots::Within;
use loci_index::table::tape::{Item, Items};

use super::databases::{Calls, origin_of};
use super::lanes::Fate;
use super::places::Place;
use super::session::Session;
use super::{render, slow};

/// Calls go to the log once so many wait.
const CALLS_MAX: usize = 4096;
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
    /// What each place gets; the first is kept for the next calls.
    shares: Vec<Share>,
    /// What is made of each reply, and in which share its call is.
    answers: Vec<(Answer, u8)>,
    /// Which commands they are, for what is counted.
    numbers: Vec<u16>,
    /// What the client changes, where its cache is not to be told of that.
    own: HashSet<Box<[u8]>>,
}

/// The calls for one place.
#[derive(Default)]
struct Share {
    place: Place,
    /// The databases that they name by their place here.
    databases: Vec<u8>,
    packed: Packed,
    /// Not only calls that may go together with those of others.
    heavy: bool,
    /// Not only calls that read.
    writes: bool,
    /// Not only calls that are short.
    long: bool,
}

impl Share {
    /// The place of a database among those that are named.
    fn number(&mut self, database: u8) -> u8 {
        let number = self.databases.iter().position(|known| *known == database).unwrap_or_else(|| {
            self.databases.push(database);
            self.databases.len() - 1
        });
        number as u8
    }

    /// As the log gets them, to keep what is here as well.
    fn calls(&self) -> Calls {
        let (place, databases, packed) = (self.place.clone(), self.databases.clone(), self.packed.clone().into_bytes());
        Calls { place, databases, packed, conditions: Vec::new(), atomic: false }
    }
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

    /// The share of a place.
    fn share(&mut self, place: &Place) -> usize {
        if self.answers.is_empty() {
            // The first that is used again.
            match self.shares.first_mut() {
                Some(first) => first.place = place.clone(),
                None => self.shares.push(Share { place: place.clone(), ..Share::default() }),
            }
            return 0;
        }
        self.shares.iter().position(|share| share.place.is(place)).unwrap_or_else(|| {
            self.shares.push(Share { place: place.clone(), ..Share::default() });
            self.shares.len() - 1
        })
    }

    /// The number of a database among those that are named to the log in a place.
    pub fn place(&mut self, place: &Place, database: u8) -> u8 {
        let share = self.share(place);
        self.shares[share].number(database)
    }

    /// One more.
    pub fn push<'a>(
        &mut self,
        place: &Place,
        database: u8,
        args: impl ExactSizeIterator<Item = &'a [u8]>,
        answer: Answer,
    ) {
        let number = self.share(place);
        let share = &mut self.shares[number];
        let database = share.number(database);
        share.packed.push(database, args);
        self.answers.push((answer, number as u8));
    }

    /// One more of a command. A script is told what its caller may do, if that is not everything, and which keys it may reach where
    /// there are others elsewhere.
    pub fn push_of(
        &mut self,
        spec: &Spec,
        place: &Place,
        database: u8,
        (args, permits): (&[&[u8]], &[Vec<u8>]),
        answer: Answer,
    ) {
        let runs = matches!((spec.run, spec.keys), (Run::Script, Keys::Counted(..)));
        if !runs || !place.is_chosen() && permits.is_empty() {
            return self.push(place, database, args.iter().copied(), answer);
        }
        let (mut words, count): (Vec<&[u8]>, _) = (Vec::new(), int_text(permits.len() as i64));
        if !permits.is_empty() {
            words.extend([&b"script"[..], b"as", &count].into_iter().chain(permits.iter().map(|rule| &**rule)));
        }
        let within = place.slot().map_or(Within::Nothing, Within::Slot).text();
        if place.is_chosen() {
            words.extend([&b"script"[..], b"within", within.as_bytes()]);
        }
        words.extend(args);
        self.push(place, database, words.into_iter(), answer);
    }

    /// Exchanges what two databases hold.
    pub fn push_swap(&mut self, place: &Place, one: u8, other: u8) {
        let numbers = [self.place(place, one), self.place(place, other)].map(|number| int_text(number.into()));
        self.push(place, one, [&b"swapdb"[..], &numbers[0], &numbers[1]].into_iter(), Answer::Whole);
    }

    /// How many bytes they take.
    pub fn bytes(&self) -> usize {
        self.shares.iter().map(|share| share.packed.len()).sum()
    }

    fn is_full(&self) -> bool {
        self.answers.len() >= CALLS_MAX || self.bytes() >= BYTES_GOAL || self.shares.len() > usize::from(u8::MAX)
    }

    /// Without calls again, and without the memory of very many.
    fn clear(&mut self) {
        if self.bytes() > KEPT_MAX {
            *self = Pending::default();
        }
        self.shares.truncate(1);
        if let Some(share) = self.shares.first_mut() {
            share.databases.clear();
            share.packed.clear();
            (share.heavy, share.writes, share.long) = (false, false, false);
        }
        self.answers.clear();
        self.numbers.clear();
        self.own.clear();
    }

    /// As the log gets them: all of them are for this place.
    pub fn into_calls(mut self, place: &Place) -> Calls {
        let share = match self.shares.is_empty() {
            true => Share::default(),
            false => self.shares.swap_remove(0),
        };
        let (place, databases, packed) = (place.clone(), share.databases, share.packed.into_bytes());
        Calls { place, databases, packed, conditions: Vec::new(), atomic: false }
    }
}

impl Session {
    /// Who writes, for the log.
    pub fn origin(&self) -> Origin {
        origin_of(&self.principal)
    }

    /// Adds a call to those that wait.
    pub async fn gather(&mut self, spec: &'static Spec, args: &[&[u8]], answer: Answer) {
        let permits = self.permits(spec, args);
        let permitted: usize = permits.iter().map(|rule| rule.len() + 4).sum();
        let bytes = args.iter().map(|arg| arg.len() + 4).sum::<usize>() + permitted;
        if self.pending.is_full() || (!self.pending.is_empty() && self.pending.bytes() + bytes > BYTES_GOAL) {
            self.settle().await;
        }
        if self.wants_no_loop() && !matches!(spec.run, Run::Read(_)) {
            self.pending.own.extend(
                spec.key_places(args).into_iter().filter_map(|place| args.get(place)).map(|key| Box::from(*key)),
            );
        }
        if matches!(spec.run, Run::Script) {
            let before = self.script.replace(slow::shown(args));
            // One that waits with others is told by itself only where somebody asks for everything.
            if let Some(before) = before.filter(|_| self.door.slow.is_eager()) {
                self.script_took(&before, Instant::now());
            }
        }
        let answer = if self.is_silent() { Answer::None } else { answer };
        let light = self.is_light(spec, args);
        self.pending.push_of(spec, &self.place, self.database, (args, &permits), answer);
        self.pending.numbers.push(self.number());
        if let Some((_, share)) = self.pending.answers.last() {
            let share = &mut self.pending.shares[usize::from(*share)];
            share.heavy |= !light;
            share.writes |= !matches!(spec.run, Run::Read(_));
            share.long |= !spec.is(FAST);
        }
    }

    /// Has the log carry out the calls that wait, and writes their replies.
    pub async fn settle(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let own = std::mem::take(&mut self.pending.own);
        // What is read next must see it.
        self.read_anew();
        self.writing(own);
        let mut pending = std::mem::take(&mut self.pending);
        let several: Vec<Fate>;
        let one: Fate;
        let fates = match &pending.shares[..] {
            [share] => {
                one = self.carry_out(share).await;
                std::slice::from_ref(&one)
            }
            shares => {
                several = join_all(shares.iter().map(|share| self.carry_out(share))).await;
                &several
            }
        };
        self.writing(HashSet::new());
        self.took_until_now();
        let mut replies = Replies::new(fates);
        for ((answer, share), number) in pending.answers.iter().zip(&pending.numbers) {
            self.reply_at = self.out.len();
            match fates.get(usize::from(*share)) {
                Some(Fate::Done(_)) => self.answer(replies.of(*share), *answer),
                Some(Fate::Failed(error)) if *answer != Answer::None => self.out.error(error),
                // Nobody refuses what goes alone because of others.
                _ => continue,
            }
            self.note_error(Some(*number));
        }
        self.reply_at = self.out.len();
        pending.clear();
        self.pending = pending;
    }

    async fn carry_out(&self, share: &Share) -> Fate {
        let looks = (!share.writes).then(|| self.level_far());
        // What is here is looked at at once.
        let together = if share.writes { !share.heavy } else { !share.long && self.door.is_away(&share.place) };
        if together {
            let Share { place, databases, packed, .. } = share;
            let fate = self.lane.submit(&self.door, looks, place, databases, &self.principal, packed).await;
            if !matches!(fate, Fate::Alone) {
                return fate;
            }
        }
        if looks.is_some() {
            // Far larger than the rest, and seldom needed.
            return Box::pin(self.look_at_share(share)).await;
        }
        match self.door.execute(share.calls(), self.origin()).await {
            Ok(tape) => Fate::Done(tape.unwrap_or_default().into()),
            Err(error) => Fate::Failed(error),
        }
    }

    /// What calls say that only read.
    async fn look_at_share(&self, share: &Share) -> Fate {
        let packed = share.packed.clone().into_bytes().into();
        let found = self.door.look_in(self.level_far(), &share.place, &share.databases, packed, self.draws()).await;
        match found {
            Ok(found) => Fate::Done(found.into_tape()),
            Err(error) => Fate::Failed(error),
        }
    }

    /// Something stands where a reply should.
    pub fn damaged_reply(&mut self) {
        self.out.error("ERR the reply is damaged");
        self.closing = true;
    }

    /// What waited was answered: what is measured begins anew, and a script was as slow as that.
    fn took_until_now(&mut self) {
        let now = Instant::now();
        if let Some(script) = self.script.take() {
            self.script_took(&script, now);
        }
        self.measured = Some(now);
    }

    fn script_took(&self, script: &[Vec<u8>], now: Instant) {
        let Some(since) = self.measured else { return };
        let args: Vec<&[u8]> = script.iter().map(|arg| &arg[..]).collect();
        let name = || self.client.facts().name.clone();
        self.door.slow.took(now - since, &args, false, (self.client.address, &name));
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
            self.damaged_reply();
        }
    }
}

/// The replies of one share, or of each of several.
enum Replies<'t> {
    One(Items<'t>),
    Several(Vec<Items<'t>>),
}

impl<'t> Replies<'t> {
    fn new(fates: &'t [Fate]) -> Replies<'t> {
        let items = |fate: &'t Fate| match fate {
            Fate::Done(tape) => Items::new(tape),
            _ => Items::new(&[]),
        };
        match fates {
            [one] => Replies::One(items(one)),
            several => Replies::Several(several.iter().map(items).collect()),
        }
    }

    /// Those of a share, which there is.
    fn of(&mut self, share: u8) -> &mut Items<'t> {
        match self {
            Replies::One(items) => items,
            Replies::Several(all) => &mut all[usize::from(share)],
        }
    }
}
