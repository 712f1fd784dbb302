//! Opening a log: reading every frame back, and telling a torn tail from damage.
//!
//! ```text
//!  file 7 ......... end(8) | file 8 ......... end(9) | file 9  mark frames mark frames : ???
//!  must verify to its end, where the header of the     the newest: verifies up to here :
//!  next file says it is                                a later mark that calls : durable: damage
//!                                                      none: a torn tail, wiped with zeros
//! ```
//!
//! The tail is wiped, not just skipped: a frame that was never synced must not become readable again
//! when new frames happen to end where it begins.
//!
//! Every file's opening must say what the frames before it amount to; the first file's opening is where
//! the reading starts.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, RwLock};

use super::frame::{self, FRAME_HEAD_BYTES, Frame, HEADER_BYTES, Header, HeaderError, Kind, NUMBER_FRAME_BYTES};
use super::reader::{OpenFiles, Place, ShardIndex};
use super::summary::{self, Step, Summary};
use super::{Cut, LiveFile, Log, LogError, LogOptions, Recovered, Shard, Spare, failed, file_name};
use crate::disk::{Disk, DiskFile};
use crate::entry::{LogIndex, ShardId};
use crate::members::Members;

const READ_BYTES: usize = 4 << 20;
const WIPE_BYTES: usize = 64 << 10;

pub(super) fn open<D: Disk>(disk: D, options: LogOptions) -> Result<(Log<D>, Recovered), LogError> {
    let Names { sequences, spares, .. } = list(&disk)?;
    let spares_made = spares.iter().filter_map(|name| number_in(name, "spare-")).max().unwrap_or(0);
    let mut log = Log {
        disk,
        options,
        files: VecDeque::new(),
        spares: Vec::new(),
        spares_made,
        spoilt: BTreeSet::new(),
        buffer: Vec::new(),
        end: HEADER_BYTES,
        durable_end: HEADER_BYTES,
        closed_end: None,
        shards: BTreeMap::new(),
        open_files: Arc::new(OpenFiles::default()),
        failed: Arc::default(),
        unpublished: Vec::new(),
        dead: false,
        syncs: 0,
        bytes_written: 0,
        recycled: 0,
    };
    for name in spares {
        let file = log.disk.open(&name).map_err(failed("opening", &name))?;
        let bytes = file.len().map_err(failed("measuring", &name))?;
        log.spares.push(Spare { name, bytes });
    }
    let mut recovered = Recovered { shards: BTreeMap::new(), clean: true, cut: None, files: sequences.len(), bytes: 0 };
    if sequences.is_empty() {
        log.start_file(1, 0, 0, frame::VERSION_FIRST)?;
        log.end = log.active().header.opening_end;
        log.durable_end = log.end;
        return Ok((log, recovered));
    }
    for pair in sequences.windows(2) {
        if pair[1] != pair[0] + 1 {
            return Err(LogError::Missing { file: file_name(pair[0] + 1) });
        }
    }
    for sequence in sequences {
        let name = file_name(sequence);
        let file = log.disk.open(&name).map_err(failed("opening", &name))?;
        let header = read_header(&file, &name, sequence)?;
        let file = Arc::new(file);
        let shared = Arc::clone(&file) as Arc<dyn DiskFile>;
        log.open_files.insert(sequence, shared, header.salt());
        log.files.push_back(LiveFile { header, file, live: 0 });
    }
    let mut replay = Replay::default();
    for at in 0..log.files.len() {
        let next = log.files.get(at + 1).map(|file| file.header);
        let here = &log.files[at];
        let mut scanned = Scanned::new(here.header);
        replay.read_file(here, at == 0, &mut scanned)?;
        recovered.bytes += scanned.end - HEADER_BYTES;
        match next {
            Some(next) => {
                let successor = &log.files[at + 1];
                let bare = at + 2 == log.files.len() && !has_frames(successor)?;
                check_full(here, &scanned, next.previous_end, bare)?;
                if bare {
                    finish(here, &scanned, next)?;
                }
            }
            None => {
                let name = file_name(here.header.sequence);
                check_newest(here, &scanned)?;
                recovered.clean = scanned.closed;
                if !scanned.closed {
                    let bytes = wipe(here, scanned.end)?;
                    if bytes > 0 {
                        recovered.cut = Some(Cut { file: name.clone(), offset: scanned.end, bytes });
                    }
                }
                // A close mark too may be there to be read and not on the medium.
                rewrite(here, scanned.durable, scanned.end)?;
                here.file.sync_data().map_err(failed("syncing", &name))?;
                let directory = "the directory of the log";
                log.disk.sync_directory().map_err(failed("syncing", directory))?;
                log.end = scanned.end;
                log.durable_end = scanned.end;
                log.closed_end = scanned.closed.then_some(scanned.end);
            }
        }
    }
    replay.check_entries()?;
    for (shard, part) in replay.shards {
        let index = Arc::new(RwLock::new(part.index));
        log.shards.insert(shard, Shard { summary: part.summary, index });
        if let Some(state) = log.shard(shard) {
            recovered.shards.insert(shard, state);
        }
    }
    for file in &mut log.files {
        file.live = replay.live.get(&file.header.sequence).copied().unwrap_or(0);
    }
    Ok((log, recovered))
}

#[derive(Default)]
pub(super) struct Names {
    /// Of the files in use, ascending.
    pub sequences: Vec<u64>,
    spares: Vec<String>,
    /// What a crash left half made.
    unfinished: Vec<String>,
    /// What is not the log's.
    pub foreign: Vec<String>,
}

impl Names {
    pub(super) fn sorted(all: Vec<String>) -> Names {
        let mut names = Names::default();
        for name in all {
            if let Some(sequence) = number_in(&name, "").filter(|_| name.ends_with(".log")) {
                names.sequences.push(sequence);
            } else if number_in(&name, "spare-").is_none() {
                names.foreign.push(name);
            } else if name.ends_with(".log") {
                names.spares.push(name);
            } else {
                names.unfinished.push(name);
            }
        }
        names.sequences.sort_unstable();
        names.spares.sort_unstable();
        names
    }
}

/// The names in the directory, and removes what a crash left half made.
fn list<D: Disk>(disk: &D) -> Result<Names, LogError> {
    let mut names = Names::sorted(disk.list().map_err(failed("listing", "the directory of the log"))?);
    if let Some(file) = names.foreign.pop() {
        return Err(LogError::Foreign { file });
    }
    for name in names.unfinished.drain(..) {
        disk.remove(&name).map_err(failed("removing", &name))?;
    }
    Ok(names)
}

/// The number in a name of ours: a prefix, 16 digits, `.log` or `.tmp`.
pub(super) fn number_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let digits = digits.strip_suffix(".log").or_else(|| digits.strip_suffix(".tmp"))?;
    let ours = digits.len() == 16 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    ours.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

pub(super) fn read_header<F: DiskFile + ?Sized>(file: &F, name: &str, sequence: u64) -> Result<Header, LogError> {
    let damaged = |offset, what| LogError::Damaged { file: name.to_owned(), offset, what };
    let mut bytes = [0; HEADER_BYTES as usize];
    let read = file.read_at(&mut bytes, 0).map_err(failed("reading", name))?;
    let header = match Header::decode(&bytes[..read]) {
        Ok(header) => header,
        Err(HeaderError::Foreign) => {
            return Err(LogError::Foreign { file: name.to_owned() });
        }
        Err(HeaderError::NewerVersion(version)) => {
            return Err(LogError::NewerVersion { file: name.to_owned(), version });
        }
        Err(HeaderError::Damaged) => return Err(damaged(0, "its header")),
    };
    if header.sequence != sequence {
        return Err(damaged(16, "it is another file of the log under this name"));
    }
    let length = file.len().map_err(failed("measuring", name))?;
    if length < header.bytes {
        return Err(damaged(length, "it is shorter than it was"));
    }
    Ok(header)
}

pub(super) fn damaged<F>(file: &LiveFile<F>, offset: u64, what: &'static str) -> LogError {
    LogError::Damaged { file: file_name(file.header.sequence), offset, what }
}

/// How far a file could be read.
#[derive(PartialEq, Eq)]
pub(super) struct Scanned {
    /// Where the valid frames end; an end frame is not counted.
    pub end: u64,
    /// How many there are, without an end frame.
    pub frames: u64,
    /// An end frame stands there.
    pub ended: bool,
    /// The last frame is a close mark.
    pub closed: bool,
    /// Some frame says that everything before this was synced.
    durable: u64,
}

impl Scanned {
    /// Nothing so far.
    pub(super) fn new(header: Header) -> Scanned {
        Scanned { end: HEADER_BYTES, frames: 0, ended: false, closed: false, durable: header.opening_end }
    }
}

/// Checks that a file that has a successor is whole. `bare`: the successor is the newest and has no frames. Only then can the
/// end frame be missing, or be there and not on the medium.
pub(super) fn check_full<F>(
    here: &LiveFile<F>,
    scanned: &Scanned,
    previous_end: u64,
    bare: bool,
) -> Result<(), LogError> {
    if scanned.end < previous_end {
        return Err(damaged(here, scanned.end, "a frame that was synced"));
    }
    if scanned.end > previous_end {
        return Err(damaged(here, previous_end, "frames after its end"));
    }
    if !bare && !scanned.ended {
        return Err(damaged(here, scanned.end, "its end frame"));
    }
    Ok(())
}

/// Writes the end frame that may be missing.
fn finish<F: DiskFile>(here: &LiveFile<F>, scanned: &Scanned, next: Header) -> Result<(), LogError> {
    let name = file_name(here.header.sequence);
    let mut end = Vec::new();
    frame::encode_number(&mut end, here.header.salt(), Kind::End, next.sequence);
    here.file.write_all_at(&end, scanned.end).map_err(failed("writing", &name))?;
    here.file.sync_data().map_err(failed("syncing", &name))
}

/// Checks that the newest file is whole as far as it is known to be synced.
pub(super) fn check_newest<F: DiskFile>(here: &LiveFile<F>, scanned: &Scanned) -> Result<(), LogError> {
    if scanned.ended {
        return Err(LogError::Missing { file: file_name(here.header.sequence.saturating_add(1)) });
    }
    if !scanned.closed && (durable_beyond(here, scanned.end)? || scanned.end < here.header.opening_end) {
        return Err(damaged(here, scanned.end, "a frame that was synced"));
    }
    Ok(())
}

/// Whether any frame stands behind a file's opening, valid or not, torn or not.
pub(super) fn has_frames<F: DiskFile>(file: &LiveFile<F>) -> Result<bool, LogError> {
    // The first frame behind an opening is a mark, which begins a sector's worth of plain bytes.
    let name = file_name(file.header.sequence);
    let mut bytes = [0; NUMBER_FRAME_BYTES as usize];
    let read = file.file.read_at(&mut bytes, file.header.opening_end).map_err(failed("reading", &name))?;
    Ok(frame::decode(&bytes[..read], file.header.salt()).is_some())
}

/// Whether a later frame says that the bytes at `offset` had been synced.
fn durable_beyond<F: DiskFile>(file: &LiveFile<F>, offset: u64) -> Result<bool, LogError> {
    let name = file_name(file.header.sequence);
    let salt = file.header.salt();
    let mut window = Window::new(offset, file.header.bytes);
    let mut at = offset;
    while let Some(bytes) = window.get(&*file.file, at, NUMBER_FRAME_BYTES).map_err(failed("reading", &name))? {
        if bytes[0] == 8
            && let Some(frame) = frame::decode(bytes, salt)
            && let Some(number) = frame::number(frame.payload)
        {
            match frame.kind {
                Kind::Mark | Kind::Close if number > offset => return Ok(true),
                Kind::End if at > offset => return Ok(true),
                _ => {}
            }
        }
        at += 8;
    }
    Ok(false)
}

/// Writes again what was read: after a failed sync the process that died of it left bytes that can be
/// read and that no later sync will write, unless they are written anew.
fn rewrite<F: DiskFile>(file: &LiveFile<F>, from: u64, to: u64) -> Result<(), LogError> {
    let name = file_name(file.header.sequence);
    let mut bytes = vec![0; WIPE_BYTES];
    let mut at = from;
    while at < to {
        let want = WIPE_BYTES.min((to - at) as usize);
        let read = file.file.read_at(&mut bytes[..want], at).map_err(failed("reading", &name))?;
        if read == 0 {
            break;
        }
        file.file.write_all_at(&bytes[..read], at).map_err(failed("writing", &name))?;
        at += read as u64;
    }
    Ok(())
}

/// Zeros what lies beyond `offset`; says how many bytes were not zero.
fn wipe<F: DiskFile>(file: &LiveFile<F>, offset: u64) -> Result<u64, LogError> {
    dirt(file, offset, |part, at| {
        part.fill(0);
        file.file.write_all_at(part, at)
    })
}

/// How many bytes beyond `offset` are not zero; `each` part that has any is given away.
pub(super) fn dirt<F: DiskFile>(
    file: &LiveFile<F>,
    offset: u64,
    mut each: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> Result<u64, LogError> {
    let name = file_name(file.header.sequence);
    let mut bytes = vec![0; WIPE_BYTES];
    let mut found = 0;
    let mut at = offset;
    while at < file.header.bytes {
        let want = WIPE_BYTES.min((file.header.bytes - at) as usize);
        let read = file.file.read_at(&mut bytes[..want], at).map_err(failed("reading", &name))?;
        let dirty = bytes[..read].iter().filter(|byte| **byte != 0).count() as u64;
        if dirty > 0 {
            found += dirty;
            each(&mut bytes[..read], at).map_err(failed("writing", &name))?;
        }
        if read == 0 {
            break;
        }
        at += read as u64;
    }
    Ok(found)
}

/// A piece of a file in memory, read in big steps.
pub(super) struct Window {
    bytes: Vec<u8>,
    start: u64,
    /// Nothing beyond this offset is looked at.
    limit: u64,
}

impl Window {
    pub(super) fn new(start: u64, limit: u64) -> Window {
        Window { bytes: Vec::new(), start, limit }
    }

    /// `len` bytes at `at`, which never goes back; none if the file does not have that many.
    pub(super) fn get<F: DiskFile + ?Sized>(&mut self, file: &F, at: u64, len: u64) -> io::Result<Option<&[u8]>> {
        if at.checked_add(len).is_none_or(|end| end > self.limit) {
            return Ok(None);
        }
        let have = self.start + self.bytes.len() as u64;
        if at + len > have {
            let passed = (at - self.start).min(self.bytes.len() as u64) as usize;
            self.bytes.drain(..passed);
            self.start = at;
            let old = self.bytes.len();
            let want = (len as usize).max(READ_BYTES).min((self.limit - at) as usize);
            self.bytes.resize(want, 0);
            let read = file.read_at(&mut self.bytes[old..], at + old as u64)?;
            self.bytes.truncate(old + read);
        }
        let from = (at - self.start) as usize;
        Ok(self.bytes.get(from..from + len as usize))
    }
}

/// The log as far as it has been read back.
#[derive(Default)]
pub(super) struct Replay {
    shards: BTreeMap<ShardId, Part>,
    /// Entries still needed, by file.
    live: BTreeMap<u64, u64>,
}

struct Part {
    summary: Option<Summary>,
    index: ShardIndex,
}

impl Replay {
    /// Reads the file that follows what was read, or the first one. Where that fails, `scanned` says how far it came.
    pub(super) fn read_file<F: DiskFile>(
        &mut self,
        file: &LiveFile<F>,
        first: bool,
        scanned: &mut Scanned,
    ) -> Result<(), LogError> {
        let header = file.header;
        let name = file_name(header.sequence);
        let salt = header.salt();
        let mut window = Window::new(HEADER_BYTES, header.bytes);
        let mut opened = 0;
        loop {
            let at = scanned.end;
            if at == header.opening_end && !first && opened != self.shards.len() {
                return Err(damaged(file, at, "an opening that leaves out a shard"));
            }
            let reading = failed("reading", &name);
            let head = window.get(&*file.file, at, FRAME_HEAD_BYTES as u64).map_err(reading)?;
            let claimed = head.and_then(|head| head.first_chunk()).and_then(frame::claimed_bytes);
            let Some(bytes) = claimed else { break };
            let reading = failed("reading", &name);
            let frame = window.get(&*file.file, at, bytes).map_err(reading)?;
            let Some(frame) = frame.and_then(|bytes| frame::decode(bytes, salt)) else {
                break;
            };
            // A state frame behind the opening is the rest of a longer one that never got its name.
            if (at < header.opening_end) != (frame.kind == Kind::State) {
                break;
            }
            let taken = match frame.kind {
                Kind::State => {
                    opened += 1;
                    self.open_shard(&frame, first)
                }
                Kind::Mark | Kind::Close => frame::number(frame.payload)
                    .map(|number| scanned.durable = scanned.durable.max(number))
                    .ok_or("a frame that cannot be read"),
                Kind::Pad => Ok(()),
                Kind::End => {
                    scanned.ended = true;
                    return Ok(());
                }
                _ => self.take(&frame, header.sequence, at, bytes),
            };
            taken.map_err(|what| damaged(file, at, what))?;
            scanned.closed = frame.kind == Kind::Close;
            scanned.end = at + bytes;
            scanned.frames += 1;
        }
        Ok(())
    }

    /// Checks that no entry is missing which must be there.
    pub(super) fn check_entries(&self) -> Result<(), LogError> {
        for (shard, part) in &self.shards {
            if let Some((first, last)) = part.index.missing() {
                return Err(LogError::MissingEntries { shard: *shard, first, last });
            }
        }
        Ok(())
    }

    /// What the log keeps of each shard: the last entry before it, and its last.
    pub(super) fn kept(&self) -> BTreeMap<ShardId, (LogIndex, LogIndex)> {
        let summaries = self.shards.iter().filter_map(|(shard, part)| Some((*shard, part.summary.as_ref()?)));
        summaries.map(|(shard, summary)| (shard, (summary.start, summary.last))).collect()
    }

    fn open_shard(&mut self, frame: &Frame<'_>, first: bool) -> Result<(), &'static str> {
        let summary = Summary::decode(frame.payload).ok_or("a frame that cannot be read")?;
        if !first {
            let known = self.shards.get(&frame.shard).and_then(|part| part.summary.as_ref());
            return if known == Some(&summary) { Ok(()) } else { Err("an opening that contradicts the files before") };
        }
        let index = ShardIndex::new(summary.start, summary.last);
        let part = Part { summary: Some(summary), index };
        match self.shards.insert(frame.shard, part) {
            None => Ok(()),
            Some(_) => Err("an opening that names a shard twice"),
        }
    }

    fn take(&mut self, frame: &Frame<'_>, sequence: u64, offset: u64, bytes: u64) -> Result<(), &'static str> {
        let step = step(frame).ok_or("a frame that cannot be read")?;
        let part = self.shards.entry(frame.shard).or_insert_with(|| {
            let nothing = LogIndex(0);
            Part { summary: None, index: ShardIndex::new(nothing, nothing) }
        });
        summary::follow(&mut part.summary, &step)?;
        let place = match step {
            Step::Entry(_, term, _) => {
                *self.live.entry(sequence).or_default() += 1;
                Some(Place { term, file: sequence, offset: offset as u32, bytes: bytes as u32 })
            }
            _ => None,
        };
        let live = &mut self.live;
        part.index.follow(&step, place, |gone| {
            if let Some(live) = live.get_mut(&gone) {
                *live -= 1;
            }
        });
        Ok(())
    }
}

fn step(frame: &Frame<'_>) -> Option<Step> {
    let payload = frame.payload;
    Some(match frame.kind {
        Kind::Entry => {
            let (index, term, kind) = frame::entry_head(payload)?;
            Step::Entry(index, term, kind)
        }
        Kind::HardState => Step::HardState(frame::hard_state(payload)?),
        Kind::Members => Step::Members(Arc::new(Members::decode(payload).ok()?)),
        Kind::Start => {
            let (index, term, members) = frame::position(payload)?;
            Step::Start(index, term, Arc::new(Members::decode(members).ok()?))
        }
        Kind::Forget => {
            let (up_to, term, rest) = frame::position(payload)?;
            rest.is_empty().then_some(Step::Forget(up_to, term))?
        }
        Kind::Rebase => {
            let (up_to, term, members) = frame::position(payload)?;
            Step::Rebase(up_to, term, Arc::new(Members::decode(members).ok()?))
        }
        Kind::Mark | Kind::End | Kind::Close | Kind::State | Kind::Pad => return None,
    })
}
