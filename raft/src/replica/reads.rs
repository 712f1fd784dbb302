//! Reads: how new must one be that begins now? Asked of the leader, on every member alike.
//!
//! The core forgets questions: those that reach a leader before it has committed in its term, and those
//! whose messages are lost. So a leader that is too new keeps them until it can answer, whoever asked
//! asks again after an election timeout, and gives up when leadership moves.

use super::effects::{ReadRefused, Role};
use super::{ELECTION_TICKS, READS_MAX, Replica, convert};
use crate::message::Message;

pub(super) struct PendingRead {
    pub(super) context: u64,
    waited: u32,
}

impl Replica {
    /// Asks how new a read must be that begins now, on any member that knows a leader. The answer comes as
    /// [`Effects::reads`](crate::Effects::reads) under the same context, or as
    /// [`Effects::reads_lost`](crate::Effects::reads_lost); one answer is enough for any number of reads
    /// that begin together. An answer means that a majority followed the leader at a moment after this call.
    pub fn read(&mut self, context: u64) -> Result<(), ReadRefused> {
        self.flush();
        if self.reads.len() >= READS_MAX {
            return Err(ReadRefused::Busy(self.reads.len()));
        }
        // The core drops such reads without a word.
        if self.role() == Role::Leader && !self.node.raft.commit_to_current_term() {
            return Err(ReadRefused::NotReady);
        }
        if self.leader().is_none() {
            return Err(ReadRefused::NoLeader);
        }
        self.ask_read(context);
        Ok(())
    }

    /// Keeps another member's question until this leader can answer it. Whether it did.
    pub(super) fn keep_early_read(&mut self, message: &Message) -> bool {
        let early = !self.node.raft.commit_to_current_term();
        if early && self.early_reads.len() < READS_MAX {
            self.early_reads.push(message.clone());
        }
        early
    }

    /// Answers the questions that came too early.
    pub(super) fn take_early_reads(&mut self) {
        if self.early_reads.is_empty() {
            return;
        }
        if self.role() != Role::Leader {
            self.early_reads.clear();
        } else if self.node.raft.commit_to_current_term() {
            for message in std::mem::take(&mut self.early_reads) {
                // Refused like any message that is of no use: whoever asked asks again.
                let _ = convert::message_to_raft(message).map(|message| self.node.step(message));
            }
        }
    }

    /// Finds the read that the core's answer is for, unless it was answered or given up.
    pub(super) fn answered(&mut self, context: &[u8]) -> Option<PendingRead> {
        let (numbers, []) = context.as_chunks::<8>() else {
            return None;
        };
        let [me, start_id, asked] = *numbers else {
            return None;
        };
        let ours = u64::from_le_bytes(me) == self.me.0 && u64::from_le_bytes(start_id) == self.start_id;
        if ours { self.reads.remove(&u64::from_le_bytes(asked)) } else { None }
    }

    /// A read whose question or answer was lost is asked again.
    pub(super) fn retry_reads(&mut self) {
        let mut late = Vec::new();
        for (asked, read) in &mut self.reads {
            read.waited += 1;
            if read.waited >= ELECTION_TICKS {
                late.push(*asked);
            }
        }
        for asked in late {
            if let Some(read) = self.reads.remove(&asked) {
                if self.leader().is_some() {
                    self.ask_read(read.context);
                } else {
                    self.reads_lost.push(read.context);
                }
            }
        }
    }

    fn ask_read(&mut self, context: u64) {
        self.reads_asked += 1;
        self.reads.insert(self.reads_asked, PendingRead { context, waited: 0 });
        let mut bytes = Vec::with_capacity(24);
        for number in [self.me.0, self.start_id, self.reads_asked] {
            bytes.extend(number.to_le_bytes());
        }
        self.node.read_index(bytes);
    }
}
