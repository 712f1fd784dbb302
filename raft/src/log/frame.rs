//! Frames: how the log's files are laid out. Little-endian throughout.
//!
//! ```text
//! file      | header, 512 bytes | opening: one `state` frame per shard | frames ... | zeros or stale |
//!
//! header    0       8        12   16        24      28   32     40           48            508
//!           | magic | version| 0  | sequence| secret| 0  | bytes| opening_end| previous_end| 0.. crc |
//!
//! frame     0     4     8       12     13      16
//!           | len | crc | shard | kind | 0 0 0 | payload, len bytes | zeros to a multiple of 8 |
//! ```
//!
//! `bytes` is the length of the file, `opening_end` where its opening ends, `previous_end` where the
//! frames of the file before it end. A frame's crc covers everything in it but the crc, begins from
//! `secret ^ sequence`, and so a frame that an earlier use of the file left behind is never valid.
//!
//! | kind | name       | payload |
//! |------|------------|---------|
//! | 1    | entry      | index u64, term u64, entry kind u8, 0 0 0, context length u32, context, data |
//! | 2    | hard state | term u64, vote u64 (0: nobody), commit u64 |
//! | 3    | members    | four counts u8, 0 0 0 0, numbers u64 each |
//! | 4    | start      | index u64, term u64, members |
//! | 5    | forget     | last forgotten index u64, its term u64 |
//! | 6    | mark       | durable end u64: this file was synced up to there before this batch was written |
//! | 7    | end        | sequence of the next file u64; the last frame of every file but the newest |
//! | 8    | close      | durable end u64; the log was closed here, everything before it is synced |
//! | 9    | state      | start index u64, start term u64, last index u64, last term u64, hard state, members |
//! | 10   | pad        | zeros, up to where a sector begins |
//! | 11   | rebase     | last forgotten index u64, its term u64, the members as of it |
//!
//! The members in frames 3, 4, 9 and 11 are those as of where the log starts; what came later stands in
//! entries of kind 2, whose data are members. Frame 3 is read and written by nobody so far.
//!
//! Version 1 has neither entries of kind 2 nor frames of kind 11: a program that knows only that version
//! would go on with the wrong members. So a file becomes version 2 when the first of them is written, and
//! so do all that follow it; a log whose members never changed stays version 1.
//!
//! Kinds 6 to 8 and 10 carry shard 0. A close frame stands behind a pad, at the beginning of a sector, so
//! that no single sector holds both the last frames and the proof that they were there.

use bytes::Bytes;

use crate::entry::{ENTRY_BYTES_MAX, Entry, EntryKind, HardState, LogIndex, MemberId, ShardId, Term};

pub(super) const MAGIC: [u8; 8] = *b"locilog\0";
/// The newest that is known.
pub(super) const VERSION: u32 = 2;
/// What a log begins with.
pub(super) const VERSION_FIRST: u32 = 1;
pub(super) const HEADER_BYTES: u64 = 512;
/// What a disk writes or loses as a whole.
pub(super) const SECTOR_BYTES: u64 = 512;
pub(super) const FRAME_HEAD_BYTES: usize = 16;
const ALIGN: usize = 8;
/// A frame that carries one number: mark, end or close.
pub(super) const NUMBER_FRAME_BYTES: u64 = 24;
pub(super) const ENTRY_HEAD_BYTES: usize = 24;
/// No frame is longer; a length beyond it is damage, and is not believed far enough to allocate it.
pub(super) const PAYLOAD_BYTES_MAX: usize = ENTRY_BYTES_MAX + ENTRY_HEAD_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Entry = 1,
    HardState = 2,
    Members = 3,
    Start = 4,
    Forget = 5,
    Mark = 6,
    End = 7,
    Close = 8,
    State = 9,
    Pad = 10,
    Rebase = 11,
}

impl Kind {
    fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            1 => Kind::Entry,
            2 => Kind::HardState,
            3 => Kind::Members,
            4 => Kind::Start,
            5 => Kind::Forget,
            6 => Kind::Mark,
            7 => Kind::End,
            8 => Kind::Close,
            9 => Kind::State,
            10 => Kind::Pad,
            11 => Kind::Rebase,
            _ => return None,
        })
    }
}

/// The first sector of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub version: u32,
    pub sequence: u64,
    pub secret: u32,
    pub bytes: u64,
    pub opening_end: u64,
    pub previous_end: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    Foreign,
    NewerVersion(u32),
    Damaged,
}

impl Header {
    pub(super) fn salt(&self) -> u32 {
        self.secret ^ self.sequence as u32
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut out = [0; HEADER_BYTES as usize];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.version.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..28].copy_from_slice(&self.secret.to_le_bytes());
        out[32..40].copy_from_slice(&self.bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.opening_end.to_le_bytes());
        out[48..56].copy_from_slice(&self.previous_end.to_le_bytes());
        let crc = crc32fast::hash(&out[..508]);
        out[508..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Header, HeaderError> {
        if bytes.len() < MAGIC.len() || bytes[..8] != MAGIC {
            return Err(HeaderError::Foreign);
        }
        let Some((head, _)) = bytes.split_first_chunk::<512>() else {
            return Err(HeaderError::Damaged);
        };
        if crc32fast::hash(&head[..508]) != u32_at(head, 508) {
            return Err(HeaderError::Damaged);
        }
        let version = u32_at(head, 8);
        if version > VERSION {
            return Err(HeaderError::NewerVersion(version));
        }
        let header = Header {
            version,
            sequence: u64_at(head, 16),
            secret: u32_at(head, 24),
            bytes: u64_at(head, 32),
            opening_end: u64_at(head, 40),
            previous_end: u64_at(head, 48),
        };
        if header.opening_end < HEADER_BYTES || header.opening_end > header.bytes {
            return Err(HeaderError::Damaged);
        }
        Ok(header)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
}

/// The bytes a frame with this much payload takes.
pub(super) fn frame_bytes(payload: usize) -> u64 {
    (FRAME_HEAD_BYTES + payload).next_multiple_of(ALIGN) as u64
}

/// Writes one frame; `payload` appends what is in it.
pub(super) fn encode(out: &mut Vec<u8>, salt: u32, shard: ShardId, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; FRAME_HEAD_BYTES]);
    payload(out);
    let len = (out.len() - start - FRAME_HEAD_BYTES) as u32;
    out.resize(out.len().next_multiple_of(ALIGN).max(start + FRAME_HEAD_BYTES), 0);
    let frame = &mut out[start..];
    frame[..4].copy_from_slice(&len.to_le_bytes());
    frame[8..12].copy_from_slice(&shard.0.to_le_bytes());
    frame[12] = kind as u8;
    let crc = checksum(frame, salt);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
}

pub(super) fn encode_number(out: &mut Vec<u8>, salt: u32, kind: Kind, number: u64) {
    encode(out, salt, ShardId(0), kind, |out| out.extend(number.to_le_bytes()));
}

/// Writes a pad from `at`, so that the next frame begins a sector.
pub(super) fn encode_pad(out: &mut Vec<u8>, salt: u32, at: u64) {
    let next = (at + FRAME_HEAD_BYTES as u64).next_multiple_of(SECTOR_BYTES);
    let payload = (next - at) as usize - FRAME_HEAD_BYTES;
    encode(out, salt, ShardId(0), Kind::Pad, |out| out.resize(out.len() + payload, 0));
}

fn checksum(frame: &[u8], salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// The bytes that the frame beginning here says it takes, if that can be.
pub(super) fn claimed_bytes(head: &[u8; FRAME_HEAD_BYTES]) -> Option<u64> {
    let len = u32_at(head, 0) as usize;
    Kind::from_code(head[12])?;
    (len <= PAYLOAD_BYTES_MAX).then(|| frame_bytes(len))
}

/// A frame whose checksum was right.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub shard: ShardId,
    pub kind: Kind,
    pub payload: &'a [u8],
}

/// Reads a frame that fills `bytes` exactly; none unless every bit is as it was written.
pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Frame<'_>> {
    let head = bytes.first_chunk::<FRAME_HEAD_BYTES>()?;
    if claimed_bytes(head)? != bytes.len() as u64 || checksum(bytes, salt) != u32_at(head, 4) {
        return None;
    }
    let len = u32_at(head, 0) as usize;
    Some(Frame {
        shard: ShardId(u32_at(head, 8)),
        kind: Kind::from_code(head[12])?,
        payload: bytes.get(FRAME_HEAD_BYTES..FRAME_HEAD_BYTES + len)?,
    })
}

/// The number in a mark, end or close frame.
pub(super) fn number(payload: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(payload.try_into().ok()?))
}

pub(super) fn encode_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.extend(entry.index.0.to_le_bytes());
    out.extend(entry.term.0.to_le_bytes());
    out.extend([entry.kind.code(), 0, 0, 0]);
    out.extend((entry.context.len() as u32).to_le_bytes());
    out.extend(&entry.context[..]);
    out.extend(&entry.data[..]);
}

pub(super) fn entry_payload_bytes(entry: &Entry) -> usize {
    ENTRY_HEAD_BYTES + entry.context.len() + entry.data.len()
}

/// Index, term and kind of an entry, without its data.
pub(super) fn entry_head(payload: &[u8]) -> Option<(LogIndex, Term, EntryKind)> {
    let head = payload.first_chunk::<ENTRY_HEAD_BYTES>()?;
    let kind = EntryKind::from_code(head[16])?;
    let context = u32_at(head, 20) as usize;
    (context <= payload.len() - ENTRY_HEAD_BYTES).then(|| (LogIndex(u64_at(head, 0)), Term(u64_at(head, 8)), kind))
}

/// An entry whose context and data share the frame's bytes.
pub(super) fn entry(frame: &Bytes, payload: &[u8]) -> Option<Entry> {
    let (index, term, kind) = entry_head(payload)?;
    let data_at = ENTRY_HEAD_BYTES + u32_at(payload, 20) as usize;
    Some(Entry {
        index,
        term,
        kind,
        context: frame.slice_ref(payload.get(ENTRY_HEAD_BYTES..data_at)?),
        data: frame.slice_ref(payload.get(data_at..)?),
    })
}

pub(super) const HARD_STATE_BYTES: usize = 24;

pub(super) fn encode_hard_state(out: &mut Vec<u8>, state: &HardState) {
    out.extend(state.term.0.to_le_bytes());
    out.extend(state.vote.map_or(0, |member| member.0).to_le_bytes());
    out.extend(state.commit.0.to_le_bytes());
}

pub(super) fn hard_state(payload: &[u8]) -> Option<HardState> {
    let vote = u64_at(payload, 8);
    (payload.len() == HARD_STATE_BYTES).then(|| HardState {
        term: Term(u64_at(payload, 0)),
        vote: (vote != 0).then_some(MemberId(vote)),
        commit: LogIndex(u64_at(payload, 16)),
    })
}

/// An index and its term.
pub(super) fn encode_position(out: &mut Vec<u8>, index: LogIndex, term: Term) {
    out.extend(index.0.to_le_bytes());
    out.extend(term.0.to_le_bytes());
}

/// An index and its term, and what follows them.
pub(super) fn position(payload: &[u8]) -> Option<(LogIndex, Term, &[u8])> {
    let (head, rest) = payload.split_first_chunk::<16>()?;
    Some((LogIndex(u64_at(head, 0)), Term(u64_at(head, 8)), rest))
}
