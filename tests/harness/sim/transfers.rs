//! Snapshots on their way: in pieces, by the program's own sending and receiving, over streams that are made up.
//!
//! ```text
//!   message arrives --> asks --> checkpoint --> head, piece, piece, ... --> SNAPSHOT --> taken in
//!     (nothing is being fetched)      |             |                          |
//!                                     '-------------+--------------------------'-- the stream breaks, or a process ends: what has
//!                                                                                 come stays, and is gone on with
//! ```
//!
//! A machine whose store is damaged fetches one in the same way, from any other member that has it.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loci_index::directory::{DirectoryError, RamDirectory, Readable};
use loci_index::store::{MANIFEST_FILE, Store, checkpoint_files};
use loci_node::cluster::snapshot::Stand;
use loci_node::cluster::snapshot::coming::{Coming, ComingError, begun};
use loci_node::cluster::snapshot::going::{Going, Unsendable};
use loci_node::shard::{Damage, Event, Fetching, FoundBy, Install, ReadError, ShardHandle};
use loci_raft::{Disk, LogIndex, MemoryDisk, Message};
use loci_wire::v1;
use tokio::sync::oneshot;

use super::member::Seat;
use super::planted::Planted;
use super::world::{Happening, World};
use super::{Checked, MILLIS, Nanos, SECONDS, violation};
use crate::chance::Chance;

/// A stream on which nothing moves for so long is given up.
const STALLED: Nanos = 8 * SECONDS;
/// How long a checkpoint may take that a snapshot is sent of.
const CHECKPOINT_TIME: Nanos = 60 * SECONDS;
/// How often a checkpoint is asked for before a sender gives up.
const ATTEMPTS: usize = 5;
/// How soon a machine with a damaged store asks again.
const MEND_EVERY: Nanos = 500 * MILLIS;

/// What streams are like in a run.
#[derive(Debug, Clone)]
pub struct Streams {
    /// The most bytes of a piece.
    piece_bytes: usize,
    /// The longest time between two pieces.
    pace: Nanos,
    /// Of a thousand pieces so many are the last of their stream.
    broken: u64,
    /// Of a thousand pieces so many arrive with a flipped bit.
    damaged: u64,
    /// Of a thousand pieces so many find a bit of what came before them flipped on the disk.
    rotten: u64,
    /// Of a hundred snapshots so many arrive whole at a machine that loses its power then.
    cut: u64,
}

impl Streams {
    /// Draws what a seed's are like.
    pub fn draw(chance: &mut Chance) -> Streams {
        Streams {
            piece_bytes: [64, 256, 1024, 1 << 20][chance.index(4)],
            pace: [MILLIS, 20 * MILLIS, 200 * MILLIS][chance.index(3)],
            broken: [0, 5, 30][chance.index(3)],
            damaged: [0, 5, 30][chance.index(3)],
            rotten: [0, 0, 10][chance.index(3)],
            cut: [0, 10, 40][chance.index(3)],
        }
    }

    /// The same, in pieces of so many bytes.
    pub fn in_pieces_of(&self, piece_bytes: usize) -> Streams {
        Streams { piece_bytes, ..self.clone() }
    }

    /// On which nothing goes wrong.
    pub fn fair(&self) -> Streams {
        Streams { broken: 0, damaged: 0, rotten: 0, cut: 0, pace: MILLIS, ..self.clone() }
    }
}

/// What a snapshot is fetched for.
pub enum Purpose {
    /// Its message came, which is handed over with it.
    TakeIn(Box<Message>),
    /// The store is damaged.
    Mend,
}

/// A snapshot on its way.
pub struct Transfer {
    shard: usize,
    from: usize,
    to: usize,
    /// The processes at both ends when it began; a machine that has none yet is at its next one.
    lives: (u64, u64),
    began: Nanos,
    /// Nothing has moved since.
    stalled: Nanos,
    purpose: Purpose,
    stage: Stage,
}

type Checkpoint = Pin<Box<dyn Future<Output = Result<Stand, ReadError>>>>;

enum Stage {
    Asks,
    /// For the sender's checkpoint.
    Waits {
        checkpoint: Checkpoint,
        attempts: usize,
        fetching: Fetching,
    },
    Streams(Box<Stream>),
    Whole(Stand),
    Installs(oneshot::Receiver<()>),
}

struct Stream {
    /// Until all has gone.
    going: Option<(Going<Held>, Fetching)>,
    /// What is read and has not gone: whoever sends reads the next piece at once.
    next: Option<Result<Option<v1::SnapshotBytes>, Unsendable>>,
    /// Once the head has come.
    coming: Option<Coming<MemoryDisk>>,
    parts: VecDeque<Part>,
    /// When the last of them arrives.
    last_arrives: Nanos,
    index: LogIndex,
    bytes: u64,
}

enum Part {
    Head(v1::SnapshotHead),
    Piece {
        piece: v1::SnapshotBytes,
        damaged: bool,
    },
    /// The sender has found a file damaged.
    Refused,
}

/// What happens next on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The sender is asked.
    Asks,
    /// The sender's checkpoint takes too long.
    Late,
    /// A piece goes.
    Sends,
    /// One comes.
    Comes,
    /// All of it is there.
    Whole,
    /// An end hears that the other is gone.
    Broken,
}

/// A file that is open: what it has does not change.
struct Held {
    name: String,
    bytes: Vec<u8>,
}

impl Readable for Held {
    fn name(&self) -> &str {
        &self.name
    }

    fn bytes(&self) -> Result<u64, DirectoryError> {
        Ok(self.bytes.len() as u64)
    }

    fn read_range(&self, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        let wanted = range.end;
        let part = self.bytes.get(range.start as usize..range.end as usize);
        let short = || DirectoryError::Short { file: self.name.clone(), bytes: self.bytes.len() as u64, wanted };
        each(part.ok_or_else(short)?);
        Ok(())
    }
}

fn checkpoint_of(handle: &ShardHandle) -> Checkpoint {
    let handle = handle.clone();
    Box::pin(async move { handle.checkpoint().await })
}

impl World<'_> {
    /// A shard of a machine fetches a snapshot, unless it is at one already.
    pub(super) fn begin_transfer(&mut self, from: usize, seat: Seat, purpose: Purpose) {
        if self.is_fetching(seat) {
            return self.reached.mark("snapshots not fetched because another was");
        }
        let Seat { at: to, shard } = seat;
        let gives_up = self.run.planted == Some(Planted::SnapshotNeverFetchedAgain);
        if gives_up && self.machines[to].members[shard].broken_off {
            return;
        }
        let lives = (self.machines[from].life, self.machines[to].life);
        self.transfers_begun += 1;
        let number = self.transfers_begun;
        let (began, stage) = (self.now, Stage::Asks);
        self.trace.note(self.now, "fetches", &[from as u64, to as u64, number]);
        if !begun(&self.machines[to].members[shard].place.incoming).unwrap_or_default().is_empty() {
            self.reached.mark("snapshots gone on with");
        }
        let transfer = Transfer { shard, from, to, lives, began, stalled: began, purpose, stage };
        self.transfers.insert(number, transfer);
        let wait = self.chance.below(5 * MILLIS);
        self.after(wait, Happening::Transfer { number, step: Step::Asks });
    }

    /// Whether a machine's shard is fetching a snapshot.
    pub(super) fn is_fetching(&self, seat: Seat) -> bool {
        self.transfers.values().any(|transfer| (transfer.to, transfer.shard) == (seat.at, seat.shard))
    }

    /// The machine whose process does that, if the stream is still there.
    pub(super) fn acts(&self, number: u64, step: Step) -> Option<usize> {
        let transfer = self.transfers.get(&number)?;
        match step {
            Step::Asks | Step::Sends | Step::Late => Some(transfer.from),
            Step::Comes | Step::Whole => Some(transfer.to),
            Step::Broken => None,
        }
    }

    /// Something happens on a stream.
    pub(super) fn transfer(&mut self, number: u64, step: Step) -> Checked {
        let Some(transfer) = self.transfers.get_mut(&number) else { return Ok(()) };
        let (from, to) = (transfer.from, transfer.to);
        let lives = (self.machines[from].life, self.machines[to].life);
        let sends = self.machines[from].process.is_some();
        let takes = matches!(transfer.purpose, Purpose::Mend) || self.machines[to].process.is_some();
        let over = matches!(transfer.stage, Stage::Whole(_) | Stage::Installs(_));
        let gone = transfer.lives.1 != lives.1 || !takes || (!over && (transfer.lives.0 != lives.0 || !sends));
        if step == Step::Broken || gone || (!over && self.network.is_reset(from, to, transfer.began)) {
            if step != Step::Broken || gone || !over {
                self.break_transfer(number);
            }
            return Ok(());
        }
        if !over && (self.network.is_cut(from, to) || self.network.is_cut(to, from)) {
            if self.now - transfer.stalled > STALLED {
                self.break_transfer(number);
            } else {
                self.after(100 * MILLIS, Happening::Transfer { number, step });
            }
            return Ok(());
        }
        transfer.stalled = self.now;
        match step {
            Step::Asks => self.ask_for_snapshot(number),
            Step::Late if matches!(transfer.stage, Stage::Waits { .. }) => self.break_transfer(number),
            Step::Late | Step::Broken => {}
            Step::Sends => self.send_piece(number),
            Step::Comes => return self.part_comes(number),
            Step::Whole => return self.hand_over_snapshot(number),
        }
        Ok(())
    }

    /// A stream is over before its end. Whoever mends a store asks again.
    fn break_transfer(&mut self, number: u64) {
        let Some(transfer) = self.transfers.remove(&number) else { return };
        let Transfer { shard, from, to, lives, purpose, stage, .. } = transfer;
        self.trace.note(self.now, "breaks off", &[from as u64, to as u64, number]);
        if matches!(stage, Stage::Streams(_)) {
            self.machines[to].members[shard].broken_off = true;
            self.reached.mark("snapshots that broke off");
        }
        // The sender's shard hears of it.
        drop(stage);
        self.wake(Seat { at: from, shard });
        if matches!(purpose, Purpose::Mend) && self.machines[to].life == lives.1 {
            self.after(MEND_EVERY, Happening::Mend { seat: Seat { at: to, shard }, life: lives.1 });
        }
    }

    /// A process has ended: the other ends of its streams hear of it, and nothing of what it fetched is on its way any more.
    pub(super) fn end_transfers(&mut self, at: usize) {
        let ends = |transfer: &Transfer| transfer.from == at || transfer.to == at;
        let ending = self.transfers.iter().filter(|(_, transfer)| ends(transfer));
        let numbers: Vec<(u64, bool)> = ending.map(|(number, transfer)| (*number, transfer.to == at)).collect();
        for (number, fetched) in numbers {
            let streams = self.transfers.get(&number).is_some_and(|known| matches!(known.stage, Stage::Streams(_)));
            match fetched {
                true => {
                    self.reached.count("receivers that ended in the middle of a snapshot", u64::from(streams));
                    self.break_transfer(number);
                }
                false => {
                    self.reached.count("senders that ended in the middle of a snapshot", u64::from(streams));
                    let wait = self.chance.below(300 * MILLIS);
                    self.after(wait, Happening::Transfer { number, step: Step::Broken });
                }
            }
        }
    }

    fn ask_for_snapshot(&mut self, number: u64) {
        let Some(transfer) = self.transfers.get_mut(&number) else { return };
        let (from, shard, member) = (transfer.from, transfer.shard, self.machines[transfer.to].me);
        let Some(handle) = self.machines[from].handle(shard) else { return self.break_transfer(number) };
        let fetching = handle.fetched_by(member);
        transfer.stage = Stage::Waits { checkpoint: checkpoint_of(handle), attempts: 1, fetching };
        self.after(CHECKPOINT_TIME, Happening::Transfer { number, step: Step::Late });
        self.wake(Seat { at: from, shard });
    }

    /// A shard has had a turn: what waits for it goes on.
    pub(super) fn poll_transfers(&mut self, seat: Seat) -> Checked {
        let concerns = |transfer: &Transfer| {
            let at = match transfer.stage {
                Stage::Waits { .. } => transfer.from,
                Stage::Installs(_) => transfer.to,
                _ => return false,
            };
            transfer.shard == seat.shard && at == seat.at
        };
        let numbers: Vec<u64> =
            self.transfers.iter().filter(|(_, transfer)| concerns(transfer)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(transfer) = self.transfers.get_mut(&number) else { continue };
            match &mut transfer.stage {
                Stage::Waits { checkpoint, .. } => {
                    match checkpoint.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                        Poll::Pending => {}
                        Poll::Ready(Ok(stand)) => self.checkpoint_is_there(number, stand)?,
                        Poll::Ready(Err(_)) => self.break_transfer(number),
                    }
                }
                Stage::Installs(done) => {
                    let waits = done.try_recv() == Err(oneshot::error::TryRecvError::Empty);
                    if !waits {
                        self.machines[seat.at].members[seat.shard].place.drop_received();
                        self.transfers.remove(&number);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A sender has made a checkpoint: its files are opened, and the head goes.
    fn checkpoint_is_there(&mut self, number: u64, stand: Stand) -> Checked {
        let Some(transfer) = self.transfers.get_mut(&number) else { return Ok(()) };
        let Transfer { shard, from, to, .. } = *transfer;
        let Stage::Waits { attempts, .. } = &mut transfer.stage else { return Ok(()) };
        let member = self.machines[to].me;
        let Some(running) = self.machines[from].running(shard) else { return Ok(()) };
        if let Some(known) = running.driven.owner.replica().members_at(stand.index)
            && known != stand.members
        {
            return violation(format!("member {from} keeps other members with its checkpoint than its log has"));
        }
        let place = &self.machines[from].members[shard].place;
        let opened = if running.driven.handle.is_for(&stand, member) { open(&place.store, &stand) } else { None };
        let Some(mut files) = opened else {
            *attempts += 1;
            let (again, fails) = (checkpoint_of(&running.driven.handle), *attempts > ATTEMPTS);
            if fails {
                self.break_transfer(number);
            } else if let Stage::Waits { checkpoint, .. } = &mut transfer.stage {
                *checkpoint = again;
                self.reached.mark("checkpoints made anew for a snapshot");
                self.wake(Seat { at: from, shard });
            }
            return Ok(());
        };
        let stand = self.falsify_snapshot(shard, stand, &mut files);
        let have = begun(&self.machines[to].members[shard].place.incoming).unwrap_or_default();
        let (head, going) = match Going::begin(&stand, files, &have) {
            Ok(begun) => begun,
            Err(error) => return violation(format!("what is open cannot be read: {error}")),
        };
        let bytes = head.files.iter().map(|file| file.bytes).sum();
        self.reached.count("files gone on with", head.files.iter().filter(|file| file.skipped > 0).count() as u64);
        let Some(transfer) = self.transfers.get_mut(&number) else { return Ok(()) };
        let Stage::Waits { fetching, .. } = std::mem::replace(&mut transfer.stage, Stage::Asks) else { return Ok(()) };
        transfer.stage = Stage::Streams(Box::new(Stream {
            going: Some((going, fetching)),
            next: None,
            coming: None,
            parts: VecDeque::new(),
            last_arrives: 0,
            index: stand.index,
            bytes,
        }));
        self.part_goes(number, Part::Head(head));
        self.after(0, Happening::Transfer { number, step: Step::Sends });
        Ok(())
    }

    /// Makes the mistakes that are made where a snapshot is sent.
    fn falsify_snapshot(&self, shard: usize, stand: Stand, files: &mut [Held]) -> Stand {
        let Stand { index, term, members } = stand;
        let oracle = &self.shards[shard].oracle;
        match self.run.planted {
            // The mistake can be made where there is an entry after the last.
            Some(Planted::SnapshotOffByOne) if index.0 < oracle.applied() => {
                if let Some(manifest) = files.iter_mut().find(|file| file.name == MANIFEST_FILE) {
                    Planted::falsify(&mut manifest.bytes, index.0, (index.0 + 1, None));
                }
                let next = index.next();
                Stand { index: next, term: oracle.term(next.0), members }
            }
            Some(Planted::DamageInASnapshotIsNotNoticed) => {
                if let Some(manifest) = files.iter_mut().find(|file| file.name == MANIFEST_FILE) {
                    Planted::flip_chain(&mut manifest.bytes, index.0);
                }
                Stand { index, term, members }
            }
            Some(Planted::SnapshotEndsTheChange) => Stand { index, term, members: Arc::new(members.leave()) },
            _ => Stand { index, term, members },
        }
    }

    /// A part is on its way, behind those before it.
    fn part_goes(&mut self, number: u64, part: Part) {
        let weather = &self.network.weather;
        let arrives = self.now + weather.delay + self.chance.below(weather.jitter + 1);
        let Some(Stage::Streams(stream)) = self.transfers.get_mut(&number).map(|transfer| &mut transfer.stage) else {
            return;
        };
        stream.parts.push_back(part);
        stream.last_arrives = stream.last_arrives.max(arrives);
        let when = stream.last_arrives;
        self.at(when, Happening::Transfer { number, step: Step::Comes });
    }

    fn send_piece(&mut self, number: u64) {
        let streams = self.streams.clone();
        if self.chance.below(1000) < streams.broken {
            return self.break_transfer(number);
        }
        let Some(transfer) = self.transfers.get_mut(&number) else { return };
        let seat = Seat { at: transfer.from, shard: transfer.shard };
        let Stage::Streams(stream) = &mut transfer.stage else { return };
        let Some((going, _)) = &mut stream.going else { return };
        let piece = stream.next.take().unwrap_or_else(|| going.next(streams.piece_bytes, &mut |_| true));
        match piece {
            Ok(Some(mut piece)) => {
                let next = going.next(streams.piece_bytes, &mut |_| true);
                let was_last = matches!(next, Ok(None));
                stream.next = Some(next);
                let damaged = self.chance.below(1000) < streams.damaged;
                if damaged {
                    let mut bytes = piece.bytes.to_vec();
                    let bit = self.chance.index(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    piece.bytes = bytes.into();
                }
                self.part_goes(number, Part::Piece { piece, damaged });
                let wait = if was_last { 0 } else { self.chance.below(streams.pace + 1) };
                self.after(wait, Happening::Transfer { number, step: Step::Sends });
            }
            Ok(None) => {
                let (index, bytes) = (stream.index, stream.bytes);
                let newer = self.machines[seat.at].handle(seat.shard).map_or(0, |handle| handle.status().checkpoint);
                self.reached.count(
                    "snapshots older than the sender's checkpoint when all had gone",
                    u64::from(newer > index.0),
                );
                if let Some((_, fetching)) = stream.going.take() {
                    fetching.has_all(index, bytes);
                }
                self.wake(seat);
            }
            Err(unsendable) => {
                if let Some(handle) = self.machines[seat.at].handle(seat.shard)
                    && unsendable.error.is_damage()
                {
                    self.reached.mark("damaged files found by whoever sends a snapshot");
                    let what = unsendable.error.to_string();
                    handle.damage_found(Damage { file: unsendable.file, what, by: FoundBy::Snapshot });
                }
                self.part_goes(number, Part::Refused);
                self.wake(seat);
            }
        }
    }

    fn part_comes(&mut self, number: u64) -> Checked {
        let Some(transfer) = self.transfers.get_mut(&number) else { return Ok(()) };
        let Transfer { to, shard, .. } = *transfer;
        let Stage::Streams(stream) = &mut transfer.stage else { return Ok(()) };
        let Some(part) = stream.parts.pop_front() else { return Ok(()) };
        let place = self.machines[to].members[shard].place.clone();
        let taken = match part {
            Part::Refused => Err(ComingError::Wrong("the sender's own file is damaged".into())),
            Part::Head(head) => Coming::begin(place.incoming.clone(), head).map(|coming| stream.coming = Some(coming)),
            Part::Piece { piece, damaged } => {
                let Some(coming) = &mut stream.coming else { return Ok(()) };
                let taken = coming.take(&piece);
                if damaged && taken.is_err() {
                    self.reached.mark("damaged pieces refused");
                }
                if damaged && taken.is_ok() {
                    return violation(format!("member {} took in a damaged piece of a snapshot", to + 1));
                }
                taken
            }
        };
        if let Err(error) = taken {
            self.trace.note(self.now, "refuses", &[u64::from(crc32fast::hash(error.to_string().as_bytes()))]);
            self.break_transfer(number);
            return Ok(());
        }
        if self.chance.below(1000) < self.streams.rotten {
            rot(&place.incoming, &mut self.chance);
            self.reached.mark("bits flipped in what has come of a snapshot");
        }
        let Some(coming) = stream.coming.take_if(|coming| coming.wants().is_none()) else { return Ok(()) };
        match coming.finish() {
            Ok(stand) => {
                transfer.stage = Stage::Whole(stand);
                let wait = self.chance.below(2 * MILLIS);
                self.after(wait, Happening::Transfer { number, step: Step::Whole });
                if self.chance.below(100) < self.streams.cut {
                    // Before it is taken in, meanwhile, or soon after.
                    let (life, wait) = (self.machines[to].life, self.chance.below(4 * MILLIS));
                    self.after(wait, Happening::PowerCut { at: to, life });
                }
            }
            Err(_) => {
                self.reached.mark("damaged files of snapshots noticed before they were taken in");
                self.break_transfer(number);
            }
        }
        Ok(())
    }

    /// A snapshot is here: its shard takes it in, or its machine starts with it.
    fn hand_over_snapshot(&mut self, number: u64) -> Checked {
        let Some(transfer) = self.transfers.get_mut(&number) else { return Ok(()) };
        let seat = Seat { at: transfer.to, shard: transfer.shard };
        let Stage::Whole(stand) = &transfer.stage else { return Ok(()) };
        let stand = stand.clone();
        let Purpose::TakeIn(message) = &transfer.purpose else {
            self.transfers.remove(&number);
            return self.mended(seat);
        };
        if self.machines[seat.at].members[seat.shard].stand().is_some() {
            self.reached.mark("snapshots that came after an earlier one");
        }
        let message = (**message).clone();
        let (place, options) = (self.machines[seat.at].members[seat.shard].place.clone(), self.build.store_options());
        let open = Box::new(move || {
            place.settle();
            Store::open(Arc::new(place.store.clone()), options).map_err(|error| error.to_string())
        });
        let (done, taken_in) = oneshot::channel();
        transfer.stage = Stage::Installs(taken_in);
        self.take(seat, Event::Install { install: Box::new(Install { message, stand, open }), done })
    }
}

/// The files of a checkpoint, as they are just now; none if it is another's.
fn open(store: &RamDirectory, stand: &Stand) -> Option<Vec<Held>> {
    let (manifest, _, names) = checkpoint_files(store).ok().filter(|(_, applied, _)| *applied == stand.index.0)?;
    let held = |name: String| store.bytes(&name).map(|bytes| Held { name, bytes });
    let mut files: Vec<Held> = names.into_iter().map(held).collect::<Option<_>>()?;
    files.push(Held { name: MANIFEST_FILE.into(), bytes: manifest });
    Some(files)
}

/// Flips a bit of some file.
fn rot(disk: &MemoryDisk, chance: &mut Chance) {
    let mut names = disk.list().unwrap_or_default();
    names.sort_unstable();
    let name = &names[chance.index(names.len())];
    let bits = disk.bytes(name).map_or(0, |bytes| bytes.len() as u64 * 8);
    if bits > 0 {
        disk.flip(name, chance.below(bits));
    }
}
