//! What members say to each other: messages, which the network may lose.

use std::sync::PoisonError;

use bytes::Bytes;
use loci_raft::{MemberId, Message, MessageKind};

use super::member::Seat;
use super::planted::Planted;
use super::transfers::Purpose;
use super::world::{Happening, World};

impl World<'_> {
    /// Sends what the shard has for others.
    pub(super) fn send(&mut self, seat: Seat) {
        let Seat { at, shard } = seat;
        let Some(running) = self.machines[at].running(shard) else { return };
        let messages: Vec<Message> =
            std::mem::take(&mut *running.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        for message in messages {
            let to = message.to().0 as usize - 1;
            let mut bytes = message.encode();
            if self.run.planted == Some(Planted::LearnersVoteCounts) {
                self.let_learners_vote(seat, &message, &mut bytes);
            }
            let is_answer = message.kind() == MessageKind::RequestPreVoteResponse;
            if is_answer && self.run.planted == Some(Planted::SilentAfterARestart) && self.machines[at].life > 1 {
                continue;
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
        if message.kind() == MessageKind::Snapshot {
            // Its data come first.
            let purpose = Purpose::TakeIn(Box::new(message));
            return self.begin_transfer(from, Seat { at: to, shard }, purpose);
        }
        if let Some(handle) = self.machines[to].handle(shard) {
            handle.receive(message);
        }
        self.wake(Seat { at: to, shard });
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
