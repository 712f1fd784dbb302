//! What members say to each other: opaque outside of this crate, checked before it is believed.
//!
//! ```text
//! 0         1      2      3   4       8    16     24     32         40      48       56
//! | version | kind | flags| 0 | shard | to | from | term | log term | index | commit | commit term |
//! 64            72               76            80
//! | reject hint | context length | entry count | context | entries ... | crc32 of all before |
//!
//! entry    0      8      9       12               16            20  24
//!          | term | kind | 0 0 0 | context length | data length | 0 | context | data |
//! ```
//!
//! Little-endian. The entries of an append follow `index` one by one, so they do not say where they
//! stand. Flag 1 is "rejected". Entry kinds are those of the log; the data of one that changes members, and
//! the context of a snapshot, are members as [`Members`] lays them out. Our own layout, because the parser that the crate `raft` would bring
//! has a known way to exhaust the stack; and because entries here share the bytes they arrived in.
//!
//! Some messages that can be written down must never reach the raft core, which stops the process on
//! them. Those that are wrong by themselves are refused by [`Message::decode`], those that are wrong for
//! one replica by [`Replica::receive`](crate::Replica::receive).

use std::sync::Arc;

use bytes::Bytes;

use crate::entry::{ENTRY_BYTES_MAX, Entry, EntryKind, LogIndex, MemberId, ShardId, Term};
use crate::members::Members;

/// No message is longer. Only one that carries a single giant entry comes near.
pub const MESSAGE_BYTES_MAX: usize = ENTRY_BYTES_MAX + (1 << 20);
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 80;
const ENTRY_HEAD_BYTES: usize = 24;
const CRC_BYTES: usize = 4;
const CONTEXT_BYTES_MAX: usize = 1024;
/// Terms and indexes beyond it are lies: counting there takes longer than the hardware lives.
const NUMBER_MAX: u64 = 1 << 62;

/// One message from a member to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub(crate) shard: ShardId,
    pub(crate) to: MemberId,
    pub(crate) from: MemberId,
    pub(crate) kind: MessageKind,
    pub(crate) reject: bool,
    pub(crate) term: Term,
    pub(crate) log_term: Term,
    pub(crate) index: LogIndex,
    pub(crate) commit: LogIndex,
    pub(crate) commit_term: Term,
    pub(crate) reject_hint: LogIndex,
    pub(crate) context: Bytes,
    pub(crate) entries: Vec<Entry>,
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// Entries, and how far they are committed.
    Append,
    /// How far a member's log agrees.
    AppendResponse,
    /// May I lead?
    RequestVote,
    /// A vote.
    RequestVoteResponse,
    /// The log begins anew after a snapshot, whose data travels beside the messages.
    Snapshot,
    /// I lead.
    Heartbeat,
    /// I follow.
    HeartbeatResponse,
    /// Lead now, do not wait for a timeout.
    TimeoutNow,
    /// How new must a read be?
    ReadIndex,
    /// So new.
    ReadIndexResponse,
    /// Would I get your vote?
    RequestPreVote,
    /// You would, or not.
    RequestPreVoteResponse,
    /// As of this committed index, you take no part any more.
    Farewell,
    /// I am here and hear nobody. Only answered with a farewell.
    Present,
}

/// Why a message is not believed. The sender is broken or hostile, except where noted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Its bytes are not what was sent.
    #[error("a message of {0} bytes is damaged")]
    Damaged(usize),
    /// A newer program sent it.
    #[error("message version {0} is newer than {VERSION}; upgrade this node")]
    NewerVersion(u8),
    /// Longer than any message may be.
    #[error("a message of {0} bytes is longer than {MESSAGE_BYTES_MAX}")]
    TooLong(usize),
    /// It contradicts itself.
    #[error("a message from member {from} is invalid: {what}")]
    Invalid {
        /// Who says it sent it.
        from: MemberId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is for another shard or another member.
    #[error("a message for member {to} of shard {shard} arrived at the wrong one")]
    Misdirected {
        /// The shard it is for.
        shard: ShardId,
        /// The member it is for.
        to: MemberId,
    },
    /// The sender takes no part in the shard; it may have, until lately.
    #[error("member {from} takes no part in shard {shard}")]
    Stranger {
        /// The shard.
        shard: ShardId,
        /// The sender.
        from: MemberId,
    },
    /// The leader believes that this member has entries which it has not: **this member lost a part of
    /// its log**. It must not go on under its number; it can come back as a new member.
    #[error(
        "shard {shard}: the leader counts on entry {commit}, this member's log ends at {last}; \
         its disk lost entries, so let it rejoin as a new member"
    )]
    LostLog {
        /// The shard.
        shard: ShardId,
        /// What the leader says is committed here.
        commit: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
}

impl MessageKind {
    fn code(self) -> u8 {
        match self {
            MessageKind::Append => 3,
            MessageKind::AppendResponse => 4,
            MessageKind::RequestVote => 5,
            MessageKind::RequestVoteResponse => 6,
            MessageKind::Snapshot => 7,
            MessageKind::Heartbeat => 8,
            MessageKind::HeartbeatResponse => 9,
            MessageKind::TimeoutNow => 14,
            MessageKind::ReadIndex => 15,
            MessageKind::ReadIndexResponse => 16,
            MessageKind::RequestPreVote => 17,
            MessageKind::RequestPreVoteResponse => 18,
            // Ours; the core knows nothing of them.
            MessageKind::Farewell => 64,
            MessageKind::Present => 65,
        }
    }

    /// The kinds that travel. Proposals do not: only the leader proposes.
    fn from_code(code: u8) -> Option<MessageKind> {
        Some(match code {
            3 => MessageKind::Append,
            4 => MessageKind::AppendResponse,
            5 => MessageKind::RequestVote,
            6 => MessageKind::RequestVoteResponse,
            7 => MessageKind::Snapshot,
            8 => MessageKind::Heartbeat,
            9 => MessageKind::HeartbeatResponse,
            14 => MessageKind::TimeoutNow,
            15 => MessageKind::ReadIndex,
            16 => MessageKind::ReadIndexResponse,
            17 => MessageKind::RequestPreVote,
            18 => MessageKind::RequestPreVoteResponse,
            64 => MessageKind::Farewell,
            65 => MessageKind::Present,
            _ => return None,
        })
    }
}

impl Message {
    /// The shard it is about.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Whom it is for.
    pub fn to(&self) -> MemberId {
        self.to
    }

    /// Who sent it.
    pub fn from(&self) -> MemberId {
        self.from
    }

    /// What it is about.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// The entries it carries.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// For a [`MessageKind::Snapshot`]: the last index that the snapshot covers.
    pub fn snapshot_index(&self) -> Option<LogIndex> {
        (self.kind == MessageKind::Snapshot).then_some(self.index)
    }

    /// This message of a snapshot, about another that is at hand: of a committed state that is newer. One from a later term than
    /// the message's sender knows is none of its business: then the message stays what it is.
    pub fn for_snapshot(self, index: LogIndex, term: Term, members: &Members) -> Message {
        if term > self.term || self.snapshot_index().is_none_or(|own| own > index) {
            return self;
        }
        Message { index, log_term: term, context: members.to_bytes(), ..self }
    }

    /// How many bytes it is to send.
    pub fn bytes(&self) -> usize {
        let entries = self.entries.iter();
        HEAD_BYTES
            + CRC_BYTES
            + self.context.len()
            + entries.map(|entry| ENTRY_HEAD_BYTES + entry.context.len() + entry.data.len()).sum::<usize>()
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    /// Writes the bytes to send behind what is there.
    pub fn encode_to(&self, out: &mut Vec<u8>) {
        out.reserve(self.bytes());
        let start = out.len();
        out.extend([VERSION, self.kind.code(), u8::from(self.reject), 0]);
        out.extend(self.shard.0.to_le_bytes());
        for number in [
            self.to.0,
            self.from.0,
            self.term.0,
            self.log_term.0,
            self.index.0,
            self.commit.0,
            self.commit_term.0,
            self.reject_hint.0,
        ] {
            out.extend(number.to_le_bytes());
        }
        out.extend((self.context.len() as u32).to_le_bytes());
        out.extend((self.entries.len() as u32).to_le_bytes());
        out.extend(&self.context[..]);
        for entry in &self.entries {
            out.extend(entry.term.0.to_le_bytes());
            out.extend([entry.kind.code(), 0, 0, 0]);
            out.extend((entry.context.len() as u32).to_le_bytes());
            out.extend((entry.data.len() as u32).to_le_bytes());
            out.extend([0; 4]);
            out.extend(&entry.context[..]);
            out.extend(&entry.data[..]);
        }
        let crc = crc32fast::hash(&out[start..]);
        out.extend(crc.to_le_bytes());
    }

    /// Reads a message and checks everything that can be checked without a replica. Entries share
    /// `bytes`; beside them at most five times its length is allocated.
    pub fn decode(bytes: &Bytes) -> Result<Message, MessageError> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(MessageError::TooLong(bytes.len()));
        }
        let message = Message::parse(bytes)?;
        match message.wrong() {
            Some(what) => Err(MessageError::Invalid { from: message.from, what }),
            None => Ok(message),
        }
    }

    fn parse(bytes: &Bytes) -> Result<Message, MessageError> {
        let damaged = || MessageError::Damaged(bytes.len());
        let (checked, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or_else(damaged)?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        let mut rest = Cursor { bytes, at: 0, end: checked.len() };
        let [version, kind, reject, _] = rest.array().ok_or_else(damaged)?;
        if version != VERSION {
            return Err(MessageError::NewerVersion(version));
        }
        let shard = ShardId(rest.u32().ok_or_else(damaged)?);
        let mut numbers = [0; 8];
        for number in &mut numbers {
            *number = rest.u64().ok_or_else(damaged)?;
        }
        let [to, from, term, log_term, index, commit, commit_term, reject_hint] = numbers;
        let from = MemberId(from);
        let invalid = |what| MessageError::Invalid { from, what };
        let kind = MessageKind::from_code(kind).ok_or_else(|| invalid("an unknown kind"))?;
        let context = rest.u32().ok_or_else(damaged)? as usize;
        let count = rest.u32().ok_or_else(damaged)? as usize;
        let context = rest.take(context).ok_or_else(damaged)?;
        if count > rest.left() / ENTRY_HEAD_BYTES {
            return Err(damaged());
        }
        let mut entries = Vec::with_capacity(count);
        for at in 0..count as u64 {
            let term = Term(rest.u64().ok_or_else(damaged)?);
            let [kind, _, _, _] = rest.array().ok_or_else(damaged)?;
            let context = rest.u32().ok_or_else(damaged)? as usize;
            let data = rest.u32().ok_or_else(damaged)? as usize;
            rest.u32().ok_or_else(damaged)?;
            entries.push(Entry {
                index: LogIndex(index.saturating_add(1 + at)),
                term,
                kind: EntryKind::from_code(kind).ok_or_else(|| invalid("an unknown kind of entry"))?,
                context: rest.take(context).ok_or_else(damaged)?,
                data: rest.take(data).ok_or_else(damaged)?,
            });
        }
        if rest.left() != 0 {
            return Err(damaged());
        }
        Ok(Message {
            shard,
            to: MemberId(to),
            from,
            kind,
            reject: reject & 1 == 1,
            term: Term(term),
            log_term: Term(log_term),
            index: LogIndex(index),
            commit: LogIndex(commit),
            commit_term: Term(commit_term),
            reject_hint: LogIndex(reject_hint),
            context,
            entries,
        })
    }

    /// What is wrong with it whoever receives it.
    fn wrong(&self) -> Option<&'static str> {
        let numbers =
            [self.term.0, self.log_term.0, self.index.0, self.commit.0, self.commit_term.0, self.reject_hint.0];
        if numbers.iter().any(|number| *number >= NUMBER_MAX) {
            return Some("a number beyond all reason");
        }
        if self.to.0 == 0 || self.from.0 == 0 || self.to == self.from {
            return Some("a member that cannot be");
        }
        if self.context.len() > CONTEXT_BYTES_MAX {
            return Some("a context longer than any");
        }
        // Term 0 stands for "from myself" in the core, which then skips its own checks.
        if (self.term.0 == 0) != (self.kind == MessageKind::ReadIndex) {
            return Some("a term that this kind cannot have");
        }
        match self.kind {
            MessageKind::Append => self.wrong_entries(),
            MessageKind::ReadIndex | MessageKind::ReadIndexResponse => match &self.entries[..] {
                [entry] if entry.kind == EntryKind::Normal => None,
                _ => Some("a read without its one context"),
            },
            _ if !self.entries.is_empty() => Some("entries where none belong"),
            MessageKind::Snapshot if self.index.0 == 0 || self.log_term.0 == 0 => Some("a snapshot of nothing"),
            MessageKind::Snapshot if self.log_term > self.term => {
                Some("a snapshot from a later term than its sender's")
            }
            MessageKind::Snapshot if Members::decode(&self.context).is_err() => Some("a snapshot without members"),
            _ => None,
        }
    }

    fn wrong_entries(&self) -> Option<&'static str> {
        // A log begins after a snapshot at an index above 0; position 0 of term 0 would match beyond
        // the end of any log.
        if self.index.0 == 0 || self.log_term.0 == 0 {
            return Some("entries that follow nothing");
        }
        let mut term = self.log_term;
        for entry in &self.entries {
            if entry.term < term {
                return Some("an entry of an older term than the one before it");
            }
            if entry.kind == EntryKind::Members && (!entry.context.is_empty() || Members::decode(&entry.data).is_err())
            {
                return Some("a change of members that cannot be");
            }
            if entry.data.len() + entry.context.len() > ENTRY_BYTES_MAX {
                return Some("an entry larger than the largest");
            }
            term = entry.term;
        }
        (term > self.term).then_some("an entry of a later term than its sender's")
    }

    pub(crate) fn snapshot_members(&self) -> Option<Arc<Members>> {
        Members::decode(&self.context).ok().map(Arc::new)
    }
}

struct Cursor<'a> {
    bytes: &'a Bytes,
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    fn left(&self) -> usize {
        self.end - self.at
    }

    fn take(&mut self, len: usize) -> Option<Bytes> {
        if len > self.left() {
            return None;
        }
        let taken = self.bytes.slice(self.at..self.at + len);
        self.at += len;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        if N > self.left() {
            return None;
        }
        let array = self.bytes.get(self.at..self.at + N)?.try_into().ok()?;
        self.at += N;
        Some(array)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn append() -> Message {
        let entry = |index, term, data: &'static [u8]| Entry {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: Bytes::from_static(data),
        };
        Message {
            shard: ShardId(3),
            to: MemberId(1),
            from: MemberId(2),
            kind: MessageKind::Append,
            reject: false,
            term: Term(9),
            log_term: Term(7),
            index: LogIndex(40),
            commit: LogIndex(39),
            commit_term: Term(0),
            reject_hint: LogIndex(0),
            context: Bytes::new(),
            entries: vec![entry(41, 8, b"hello"), entry(42, 9, b"")],
        }
    }

    fn decode(message: &Message) -> Result<Message, MessageError> {
        Message::decode(&Bytes::from(message.encode()))
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn version_1_never_changes() {
        let golden = "01 03 00 00 03000000 0100000000000000 0200000000000000 0900000000000000 \
                      0700000000000000 2800000000000000 2700000000000000 0000000000000000 \
                      0000000000000000 00000000 02000000 \
                      0800000000000000 00 000000 00000000 05000000 00000000 68656c6c6f \
                      0900000000000000 00 000000 00000000 00000000 00000000 c8ae7554";
        assert_eq!(hex(&append().encode()), golden.replace(' ', ""));
        assert_eq!(decode(&append()), Ok(append()));
        assert_eq!(append().bytes(), append().encode().len());
    }

    #[test]
    fn a_change_of_members_travels_as_the_members_it_leads_to() {
        let mut message = append();
        let members = Members::voting([MemberId(1), MemberId(7)]).unwrap();
        message.entries[1].kind = EntryKind::Members;
        message.entries[1].data = members.to_bytes();
        assert_eq!(decode(&message), Ok(message.clone()));
        let tail = "0900000000000000 02 000000 00000000 18000000 00000000 \
                    02000000 00000000 0100000000000000 0700000000000000";
        let bytes = hex(&message.encode());
        assert!(bytes[..bytes.len() - 8].ends_with(&tail.replace(' ', "")), "{bytes}");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = append().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let result = Message::decode(&Bytes::from(flipped));
            assert_eq!(result, Err(MessageError::Damaged(bytes.len())), "bit {bit}");
        }
        for end in 0..bytes.len() {
            let cut = Bytes::copy_from_slice(&bytes[..end]);
            assert!(Message::decode(&cut).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn messages_that_contradict_themselves_are_refused() {
        let of_kind = |kind| Message { kind, entries: vec![], ..append() };
        let read = Message { term: Term(0), ..of_kind(MessageKind::ReadIndex) };
        let conf_change = {
            let mut message = append();
            message.entries[0].kind = EntryKind::Members;
            message
        };
        for (wrong, what) in [
            (Message { to: MemberId(0), ..append() }, "member that cannot be"),
            (Message { from: MemberId(1), ..append() }, "member that cannot be"),
            (Message { term: Term(0), ..append() }, "a term that this kind cannot have"),
            (Message { term: Term(1 << 62), ..append() }, "beyond all reason"),
            (Message { index: LogIndex(u64::MAX), ..append() }, "beyond all reason"),
            (Message { index: LogIndex(0), ..append() }, "follow nothing"),
            (Message { log_term: Term(0), ..append() }, "follow nothing"),
            (Message { log_term: Term(9), ..append() }, "an older term than the one before"),
            (Message { term: Term(8), ..append() }, "a later term than its sender's"),
            (Message { context: Bytes::from(vec![0; 1025]), ..append() }, "context longer"),
            (Message { kind: MessageKind::Heartbeat, ..append() }, "entries where none belong"),
            (read, "without its one context"),
            (of_kind(MessageKind::ReadIndexResponse), "without its one context"),
            (of_kind(MessageKind::Snapshot), "without members"),
            (conf_change, "change of members that cannot be"),
        ] {
            match decode(&wrong) {
                Err(MessageError::Invalid { from, what: said }) => {
                    assert!(said.contains(what), "{said} instead of {what}");
                    assert_eq!(from, wrong.from);
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }

    fn sealed(mut bytes: Vec<u8>) -> Bytes {
        let crc = crc32fast::hash(&bytes).to_le_bytes();
        bytes.extend(crc);
        Bytes::from(bytes)
    }

    #[test]
    fn kinds_that_must_not_travel_and_newer_versions_are_refused() {
        let mut bytes = Message { entries: vec![], ..append() }.encode();
        bytes.truncate(bytes.len() - 4);
        let known = [3, 4, 5, 6, 7, 8, 9, 14, 15, 16, 17, 18, 64, 65];
        for kind in (0..=255).filter(|kind| !known.contains(kind)) {
            bytes[1] = kind;
            let what = "an unknown kind";
            let refused = Err(MessageError::Invalid { from: MemberId(2), what });
            assert_eq!(Message::decode(&sealed(bytes.clone())), refused, "kind {kind}");
        }
        bytes[0] = 2;
        assert_eq!(Message::decode(&sealed(bytes)), Err(MessageError::NewerVersion(2)));
    }

    #[test]
    fn random_bytes_with_a_right_checksum_never_panic() {
        let mut chance = Chance::new(1);
        let good = append().encode();
        let mut accepted = 0;
        for _ in 0..100_000 {
            let mut bytes = good[..good.len() - 4].to_vec();
            for _ in 0..=chance.below(4) {
                let at = chance.below(bytes.len() as u64) as usize;
                bytes[at] = chance.next() as u8;
            }
            if chance.below(3) == 0 {
                bytes.truncate(chance.below(bytes.len() as u64) as usize);
            }
            accepted += usize::from(Message::decode(&sealed(bytes)).is_ok());
        }
        assert!(accepted > 1000, "{accepted}");
    }
}
