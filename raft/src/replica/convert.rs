//! Between our types and those of the crate `raft`, which nobody outside of this folder sees.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb;
use raft::eraftpb::MessageType;

use crate::entry::{Entry, EntryKind, HardState, LogIndex, MemberId, ShardId, Term};
use crate::members::{Members, MembersError};
use crate::message::{Message, MessageKind};

pub(super) fn entry_to_raft(entry: Entry) -> eraftpb::Entry {
    eraftpb::Entry {
        entry_type: match entry.kind {
            EntryKind::Normal => eraftpb::EntryType::EntryNormal,
            EntryKind::ConfChange => eraftpb::EntryType::EntryConfChange,
            EntryKind::ConfChangeV2 => eraftpb::EntryType::EntryConfChangeV2,
        },
        index: entry.index.0,
        term: entry.term.0,
        context: entry.context,
        data: entry.data,
        ..eraftpb::Entry::default()
    }
}

pub(super) fn entry_from_raft(entry: eraftpb::Entry) -> Entry {
    Entry {
        index: LogIndex(entry.index),
        term: Term(entry.term),
        kind: match entry.entry_type {
            eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            eraftpb::EntryType::EntryConfChange => EntryKind::ConfChange,
            eraftpb::EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
        },
        context: entry.context,
        data: entry.data,
    }
}

pub(super) fn hard_state_to_raft(state: &HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term.0,
        vote: state.vote.map_or(0, |member| member.0),
        commit: state.commit.0,
        ..eraftpb::HardState::default()
    }
}

pub(super) fn hard_state_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState {
        term: Term(state.term),
        vote: (state.vote != 0).then_some(MemberId(state.vote)),
        commit: LogIndex(state.commit),
    }
}

fn numbers(members: &[MemberId]) -> Vec<u64> {
    members.iter().map(|member| member.0).collect()
}

pub(super) fn members_to_raft(members: &Members) -> eraftpb::ConfState {
    eraftpb::ConfState {
        voters: numbers(members.voters()),
        learners: numbers(members.learners()),
        voters_outgoing: numbers(members.voters_outgoing()),
        learners_next: numbers(members.learners_next()),
        auto_leave: members.auto_leave(),
        ..eraftpb::ConfState::default()
    }
}

fn members_from_raft(state: &eraftpb::ConfState) -> Result<Members, MembersError> {
    let members = |numbers: &[u64]| numbers.iter().map(|number| MemberId(*number)).collect();
    Members::new(
        members(&state.voters),
        members(&state.learners),
        members(&state.voters_outgoing),
        members(&state.learners_next),
        state.auto_leave,
    )
}

pub(super) fn snapshot_to_raft(index: LogIndex, term: Term, members: &Members) -> eraftpb::Snapshot {
    let mut snapshot = eraftpb::Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = index.0;
    metadata.term = term.0;
    metadata.set_conf_state(members_to_raft(members));
    snapshot
}

/// The index, term and members of a snapshot in a ready, which came in as a checked message.
pub(super) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> Result<(LogIndex, Term, Arc<Members>), MembersError> {
    let metadata = snapshot.get_metadata();
    let members = members_from_raft(metadata.get_conf_state())?;
    Ok((LogIndex(metadata.index), Term(metadata.term), Arc::new(members)))
}

pub(super) fn message_to_raft(message: Message) -> eraftpb::Message {
    let msg_type = match message.kind {
        MessageKind::Append => MessageType::MsgAppend,
        MessageKind::AppendResponse => MessageType::MsgAppendResponse,
        MessageKind::RequestVote => MessageType::MsgRequestVote,
        MessageKind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
        MessageKind::Snapshot => MessageType::MsgSnapshot,
        MessageKind::Heartbeat => MessageType::MsgHeartbeat,
        MessageKind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        MessageKind::TimeoutNow => MessageType::MsgTimeoutNow,
        MessageKind::ReadIndex => MessageType::MsgReadIndex,
        MessageKind::ReadIndexResponse => MessageType::MsgReadIndexResp,
        MessageKind::RequestPreVote => MessageType::MsgRequestPreVote,
        MessageKind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
    };
    let mut out = eraftpb::Message {
        msg_type,
        to: message.to.0,
        from: message.from.0,
        term: message.term.0,
        reject: message.reject,
        commit: message.commit.0,
        commit_term: message.commit_term.0,
        reject_hint: message.reject_hint.0,
        ..eraftpb::Message::default()
    };
    if message.kind == MessageKind::Snapshot {
        if let Some(members) = message.snapshot_members() {
            out.set_snapshot(snapshot_to_raft(message.index, message.log_term, &members));
        }
        return out;
    }
    out.log_term = message.log_term.0;
    out.index = message.index.0;
    out.context = message.context;
    out.set_entries(message.entries.into_iter().map(entry_to_raft).collect::<Vec<_>>().into());
    out
}

/// A message of the core, unless it is one that never leaves a replica.
pub(super) fn message_from_raft(shard: ShardId, mut message: eraftpb::Message) -> Option<Message> {
    let kind = match message.msg_type {
        MessageType::MsgAppend => MessageKind::Append,
        MessageType::MsgAppendResponse => MessageKind::AppendResponse,
        MessageType::MsgRequestVote => MessageKind::RequestVote,
        MessageType::MsgRequestVoteResponse => MessageKind::RequestVoteResponse,
        MessageType::MsgSnapshot => MessageKind::Snapshot,
        MessageType::MsgHeartbeat => MessageKind::Heartbeat,
        MessageType::MsgHeartbeatResponse => MessageKind::HeartbeatResponse,
        MessageType::MsgTimeoutNow => MessageKind::TimeoutNow,
        MessageType::MsgReadIndex => MessageKind::ReadIndex,
        MessageType::MsgReadIndexResp => MessageKind::ReadIndexResponse,
        MessageType::MsgRequestPreVote => MessageKind::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => MessageKind::RequestPreVoteResponse,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => return None,
    };
    let (mut index, mut log_term) = (LogIndex(message.index), Term(message.log_term));
    let mut context = std::mem::take(&mut message.context);
    if kind == MessageKind::Snapshot {
        let (at, term, members) = snapshot_from_raft(message.get_snapshot()).ok()?;
        let mut bytes = Vec::with_capacity(members.encoded_bytes());
        members.encode(&mut bytes);
        (index, log_term, context) = (at, term, Bytes::from(bytes));
    }
    Some(Message {
        shard,
        to: MemberId(message.to),
        from: MemberId(message.from),
        kind,
        reject: message.reject,
        term: Term(message.term),
        log_term,
        index,
        commit: LogIndex(message.commit),
        commit_term: Term(message.commit_term),
        reject_hint: LogIndex(message.reject_hint),
        context,
        entries: message.take_entries().into_iter().map(entry_from_raft).collect(),
    })
}
