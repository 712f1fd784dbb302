//! Between our types and those of the crate `raft`, which nobody outside of this folder sees.

use std::collections::BTreeSet;
use std::sync::Arc;

use raft::eraftpb;
use raft::eraftpb::MessageType;

use crate::entry::{Entry, EntryKind, HardState, LogIndex, MemberId, ShardId, Term};
use crate::members::{Members, MembersError};
use crate::message::{Message, MessageKind};

pub(super) fn entry_to_raft(entry: Entry) -> eraftpb::Entry {
    eraftpb::Entry {
        entry_type: match entry.kind {
            EntryKind::Normal => eraftpb::EntryType::EntryNormal,
            // The core only counts these. It would parse the data of one that it is asked to propose, which
            // is why they are appended behind its back.
            EntryKind::Members => eraftpb::EntryType::EntryConfChangeV2,
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
            eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Members,
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
        ..eraftpb::ConfState::default()
    }
}

pub(super) fn members_from_raft(state: &eraftpb::ConfState) -> Result<Members, MembersError> {
    let members = |numbers: &[u64]| numbers.iter().map(|number| MemberId(*number)).collect();
    Members::new(
        members(&state.voters),
        members(&state.learners),
        members(&state.voters_outgoing),
        members(&state.learners_next),
    )
}

/// What the core is told so that it gets from these members to those, which they precede.
pub(super) fn change_to_raft(before: &Members, after: &Members) -> eraftpb::ConfChangeV2 {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    let mut change = eraftpb::ConfChangeV2::default();
    if before.joint() {
        // Nothing is what it takes for "leave".
        return change;
    }
    // Left by whoever leads, see `membership`; the core's own way forgets it when leadership moves.
    change.set_transition(eraftpb::ConfChangeTransition::Explicit);
    let everyone: BTreeSet<MemberId> = before.all().chain(after.all()).collect();
    for member in everyone {
        let learns = after.learners().contains(&member) || after.learners_next().contains(&member);
        let kind = if after.voters().contains(&member) {
            AddNode
        } else if learns {
            AddLearnerNode
        } else {
            RemoveNode
        };
        let mut single = eraftpb::ConfChangeSingle { node_id: member.0, ..eraftpb::ConfChangeSingle::default() };
        single.set_change_type(kind);
        change.changes.push(single);
    }
    change
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

/// A message for the core; none for the kinds that are not its business.
pub(super) fn message_to_raft(message: Message) -> Option<eraftpb::Message> {
    let msg_type = match message.kind {
        MessageKind::Farewell | MessageKind::Present => return None,
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
        return Some(out);
    }
    out.log_term = message.log_term.0;
    out.index = message.index.0;
    out.context = message.context;
    out.set_entries(message.entries.into_iter().map(entry_to_raft).collect::<Vec<_>>().into());
    Some(out)
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
        (index, log_term, context) = (at, term, members.to_bytes());
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
