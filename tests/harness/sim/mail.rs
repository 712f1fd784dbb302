//! What members say to each other: messages, which the network may lose, and snapshots.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use loci_index::store::checkpoint_files;
use loci_node::cluster::snapshot::Stand;
use loci_node::shard::Event;
use loci_raft::{LogIndex, MemberId, Members, Message, MessageKind, Part};

use super::member::Seat;
use super::planted::Planted;
use super::world::{Happening, World};
use super::{Checked, MILLIS, violation};

impl World<'_> {
    /// Sends what the shard has for others.
    pub(super) fn send(&mut self, seat: Seat) {
        let Seat { at, shard } = seat;
        let Some(running) = self.machines[at].running(shard) else { return };
        let messages: Vec<Message> =
            std::mem::take(&mut *running.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        for message in messages {
            let to = message.to().0 as usize - 1;
            if let Some(index) = message.snapshot_index() {
                self.trace.note(self.now, "snapshot", &[at as u64, to as u64, index.0]);
                let wait = self.chance.below(200 * MILLIS);
                self.after(wait, Happening::Snapshot { from: at, to, bytes: Bytes::from(message.encode()) });
                continue;
            }
            let mut bytes = message.encode();
            if self.run.planted == Some(Planted::LearnersVoteCounts) {
                self.let_learners_vote(seat, &message, &mut bytes);
            }
            let delays = self.network.travel(&mut self.chance, at, to);
            if delays.is_empty() || self.machines[to].process.is_none() {
                // A connection that does not work is noticed, sometimes.
                if self.chance.percent(20)
                    && let Some(handle) = self.machines[at].handle(shard)
                {
                    handle.unreachable(message.to());
                    self.wake(seat);
                }
            }
            if self.chance.below(10_000) < self.network.weather.damaged {
                let bit = self.chance.below(bytes.len() as u64 * 8);
                bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
            }
            let bytes = Bytes::from(bytes);
            for delay in delays {
                self.after(delay, Happening::Arrives { from: at, to, bytes: bytes.clone(), sent: self.now });
            }
        }
    }

    pub(super) fn arrives(&mut self, from: usize, to: usize, bytes: &Bytes) {
        if self.network.is_cut(from, to) {
            return;
        }
        self.trace.note(self.now, "arrives", &[from as u64, to as u64, u64::from(crc32fast::hash(bytes))]);
        if self.machines[to].process.is_none() {
            return;
        }
        let Ok(message) = Message::decode(bytes) else { return self.reached.mark("damaged messages refused") };
        let shard = message.shard().0 as usize - 1;
        if let Some(handle) = self.machines[to].handle(shard) {
            handle.receive(message);
        }
        self.wake(Seat { at: to, shard });
    }

    /// A snapshot's message is handed over with its files, which are fetched until they are here.
    pub(super) fn snapshot_arrives(&mut self, from: usize, to: usize, bytes: Bytes) -> Checked {
        let reachable = !self.network.is_cut(from, to) && !self.network.is_cut(to, from);
        if !reachable || self.machines[from].process.is_none() || self.machines[to].process.is_none() {
            self.after(300 * MILLIS, Happening::Snapshot { from, to, bytes });
            return Ok(());
        }
        let Ok(message) = Message::decode(&bytes) else { return violation("a snapshot's message is damaged") };
        let shard = message.shard().0 as usize - 1;
        let source = self.machines[from].members[shard].directory.clone();
        let Ok((_, applied, _)) = checkpoint_files(&source) else { return Ok(()) };
        // The mistake can be made where there is an entry after the last.
        let oracle = &self.shards[shard].oracle;
        let off = self.run.planted == Some(Planted::SnapshotOffByOne) && applied < oracle.applied();
        let applied = applied + u64::from(off);
        let (index, term) = (LogIndex(applied), oracle.term(applied));
        let Some(running) = self.machines[from].running(shard) else { return Ok(()) };
        let (owner, real) = (&running.driven.owner, LogIndex(applied - u64::from(off)));
        let known = owner.replica().members_at(real);
        // What the program would send, where it has it in memory.
        let stand = Some(owner.checkpoint()).filter(|stand| stand.index == real);
        if let (Some(stand), Some(known)) = (stand, &known)
            && stand.members != *known
        {
            return violation(format!("member {from} keeps other members with its checkpoint than its log has"));
        }
        let known = stand.map(|stand| Arc::clone(&stand.members)).or(known);
        // Whoever is no member as of it is not given one.
        let takes_part = |members: &Arc<Members>| members.part(self.machines[to].me) != Part::Removed;
        let Some(members) = known.filter(takes_part) else { return Ok(()) };
        let members = match self.run.planted {
            Some(Planted::SnapshotEndsTheChange) => Arc::new(members.leave()),
            _ => members,
        };
        let stand = Stand { index, term, members };
        if let Some(install) = self.machines[to].members[shard].install(message, stand, &source, &self.build) {
            let (done, _) = tokio::sync::oneshot::channel();
            self.take(Seat { at: to, shard }, Event::Install { install: Box::new(install), done })?;
        }
        Ok(())
    }

    /// A candidate's question goes to learners, too, and where one says yes a voter seems to.
    fn let_learners_vote(&mut self, seat: Seat, message: &Message, bytes: &mut [u8]) {
        let Seat { at, shard } = seat;
        match message.kind() {
            MessageKind::RequestVote | MessageKind::RequestPreVote => {
                let learners = self.members_of(seat).map_or(Vec::new(), |members| members.learners().to_vec());
                for learner in learners {
                    let (mut copy, to) = (bytes.to_vec(), learner.0 as usize - 1);
                    Planted::readdress(&mut copy, Some(learner), None);
                    for delay in self.network.travel(&mut self.chance, at, to) {
                        self.after(
                            delay,
                            Happening::Arrives { from: at, to, bytes: Bytes::from(copy.clone()), sent: self.now },
                        );
                    }
                }
            }
            MessageKind::RequestVoteResponse | MessageKind::RequestPreVoteResponse if !Planted::is_no(bytes) => {
                let Some(members) = self.members_of(Seat { at: message.to().0 as usize - 1, shard }) else { return };
                let others = members.voters().iter().copied().filter(|voter| *voter != message.to());
                let others: Vec<MemberId> = others.collect();
                if members.learners().contains(&message.from()) && !others.is_empty() {
                    let voter = others[self.chance.index(others.len())];
                    Planted::readdress(bytes, None, Some(voter));
                    self.reached.mark("votes of learners that were counted");
                }
            }
            _ => {}
        }
    }
}
