//! Mistakes that a program like ours could make, made on purpose: the simulation must find each.
//!
//! They are made around the real parts, not in them: by what is done at the log, by what a machine finds when it starts,
//! by what a door asks the shard for, by what members say to each other, by what a client repeats.

use loci_raft::MemberId;

use super::machine::DIGEST_KEY;
use super::{NOT_WELL, Violation};
use crate::chance::Chance;
use crate::segment_file::SegmentFile;

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// The log says that a batch is synced when it is only written.
    AcknowledgeBeforeSync,
    /// A shard's thread takes for synced what it only appended itself.
    AcknowledgeHere,
    /// Hard states are not written: a member that restarts does not know whom it voted for, nor in which term.
    ForgetTheVote,
    /// A member that lost its disk comes back empty under its old number.
    WipedMemberVotes,
    /// Recovery takes any bytes that it cannot read for a torn tail, and cuts the log there.
    CutAtAnyBadFrame,
    /// A renamed file's directory is not synced.
    ForgetTheNames,
    /// Whoever is asked for the latest answers with what it has.
    ReadWithoutAsking,
    /// A leader answers reads as long as it believes that it leads.
    ReadWhileLeading,
    /// A lease lasts longer than the promise that it rests on: a leader's clock runs at a third of the others' rate.
    LeaseTooLong,
    /// A write is repeated without the id of its request.
    RepeatWithoutId,
    /// What has expired is shown until an entry ends it.
    ShowExpired,
    /// A door asks only its own clock what has expired.
    ReadByOwnClock,
    /// A member that starts takes its own clock for the log's, and so lets expire what lives for the others.
    OwnClockForTheLogs,
    /// A checkpoint says that its last entry is not in it: who starts from it applies that entry once more.
    ApplyTwice,
    /// A snapshot says that the entry after its last is in it, too.
    SnapshotOffByOne,
    /// A snapshot arrives with a flipped bit, and all checksums are as if it belonged there.
    DamageInASnapshotIsNotNoticed,
    /// Other members take the place of old ones in one step, on each machine when it next starts: nobody waits for a majority
    /// of both the old and the new ones.
    ChangeInOneStep,
    /// Candidates ask learners, too, and count their votes.
    LearnersVoteCounts,
    /// A member that starts does not know of the changes of members in its log: it asks, and counts, who was removed.
    ForgetTheChanges,
    /// A snapshot that is taken while members change says that the change has ended.
    SnapshotEndsTheChange,
    /// A log that finds no space says that a batch is safe, and writes it once there is some.
    AcknowledgeWhenFull,
    /// A write for half of which there is space counts as done: what comes later stands behind the hole.
    HalfIsWritten,
    /// What one shard has forgotten counts as forgotten by all: files go that others need.
    ForgetForAll,
    /// Of a write for two shards, each gets what is in the frame of the other.
    FramesToAnotherShard,
    /// A sync answers all shards that ask for one while it runs.
    OneSyncForAllThatWait,
    /// A search does not look at what was written since the last checkpoint.
    SearchWithoutTheBuffer,
    /// A search looks at a view that others have replaced, and so shows versions that have ended.
    SearchOfAnEarlierView,
    /// A read at a token is answered with what is there.
    TokenWithoutWaiting,
    /// Who starts after the first time never answers a candidate that asks whether it would vote.
    SilentAfterARestart,
    /// A member whose snapshot broke off does not come for another.
    SnapshotNeverFetchedAgain,
    /// A process that starts does not notice a flipped bit in the embeddings of a segment.
    DamagedSegmentIsNotNoticed,
}

impl Planted {
    /// All of them, with the number of seeds within which each is found: about four times as many as it took.
    pub const ALL: [(Planted, u64); 31] = [
        (Planted::AcknowledgeBeforeSync, 10),
        (Planted::AcknowledgeHere, 10),
        (Planted::ForgetTheVote, 120),
        (Planted::WipedMemberVotes, 30),
        (Planted::CutAtAnyBadFrame, 10),
        (Planted::ForgetTheNames, 10),
        (Planted::ReadWithoutAsking, 10),
        (Planted::ReadWhileLeading, 80),
        (Planted::LeaseTooLong, 160),
        (Planted::RepeatWithoutId, 40),
        (Planted::ShowExpired, 10),
        (Planted::ReadByOwnClock, 40),
        (Planted::OwnClockForTheLogs, 10),
        (Planted::ApplyTwice, 10),
        (Planted::SnapshotOffByOne, 60),
        (Planted::DamageInASnapshotIsNotNoticed, 40),
        (Planted::ChangeInOneStep, 10),
        (Planted::LearnersVoteCounts, 10),
        (Planted::ForgetTheChanges, 20),
        (Planted::SnapshotEndsTheChange, 10),
        (Planted::AcknowledgeWhenFull, 100),
        (Planted::HalfIsWritten, 10),
        (Planted::ForgetForAll, 10),
        (Planted::FramesToAnotherShard, 20),
        (Planted::OneSyncForAllThatWait, 20),
        (Planted::SearchWithoutTheBuffer, 10),
        (Planted::SearchOfAnEarlierView, 10),
        (Planted::TokenWithoutWaiting, 10),
        (Planted::SilentAfterARestart, 10),
        (Planted::SnapshotNeverFetchedAgain, 40),
        (Planted::DamagedSegmentIsNotNoticed, 10),
    ];

    /// Whether this violation shows the mistake. That an empty member cannot catch up without a snapshot says nothing of
    /// what its vote does.
    pub fn is_shown_by(self, violation: &Violation) -> bool {
        match self {
            Planted::WipedMemberVotes => !violation.0.contains(NOT_WELL),
            // What they are about is that nothing goes on.
            Planted::SilentAfterARestart | Planted::SnapshotNeverFetchedAgain => violation.0.contains(NOT_WELL),
            _ => true,
        }
    }

    /// How many shards there are where it is made.
    pub fn shards(self) -> usize {
        match self {
            Planted::ForgetForAll | Planted::FramesToAnotherShard | Planted::OneSyncForAllThatWait => 2,
            _ => 1,
        }
    }

    /// Whether it matters only in the moments after a vote, or during a sync, so that elections and syncs must be cut short.
    pub fn needs_unrest(self) -> bool {
        matches!(
            self,
            Planted::ForgetTheVote
                | Planted::ChangeInOneStep
                | Planted::LearnersVoteCounts
                | Planted::OneSyncForAllThatWait
        )
    }

    /// How often members change, and how often a disk is full, where that is where it matters.
    pub fn changes_and_full_disks(self) -> (u64, u64) {
        match self {
            Planted::ChangeInOneStep | Planted::LearnersVoteCounts | Planted::ForgetTheChanges => (60, 0),
            Planted::SnapshotEndsTheChange => (300, 0),
            Planted::AcknowledgeWhenFull | Planted::HalfIsWritten => (0, 100),
            _ => (0, 0),
        }
    }

    /// Whether the members that a member has in force are compared with those that it must have. Where they are what the mistake
    /// is about, the simulation must find what comes of it.
    pub fn keeps_members(self) -> bool {
        !matches!(self, Planted::ChangeInOneStep | Planted::ForgetTheChanges)
    }

    /// Says in a message's bytes that it is for, or from, another member.
    pub fn readdress(bytes: &mut [u8], to: Option<MemberId>, from: Option<MemberId>) {
        let (checked, crc) = bytes.split_at_mut(bytes.len() - 4);
        for (at, member) in [(8, to), (16, from)] {
            if let Some(member) = member {
                checked[at..at + 8].copy_from_slice(&member.0.to_le_bytes());
            }
        }
        crc.copy_from_slice(&crc32fast::hash(checked).to_le_bytes());
    }

    /// Whether a message's bytes say no.
    pub fn is_no(bytes: &[u8]) -> bool {
        bytes[2] & 1 == 1
    }

    /// Flips a bit of the embeddings in a segment; its checksums fit.
    pub fn flip_embedding(segment: &[u8], chance: &mut Chance) -> Option<Vec<u8>> {
        const EMBEDDINGS: u16 = 22;
        // Of the first component, so that it is not padding: a bit of its fraction that any search notices.
        let mut file = SegmentFile::decode(segment)?;
        let row = chance.index((file.rows() as usize).max(1));
        let section = file.sections.iter_mut().find(|section| section.kind == EMBEDDINGS)?;
        *section.bytes.get_mut(row * 64 + 2)? ^= 1 << 6;
        Some(file.encode())
    }

    /// Makes a manifest say that another entry was its last, and that the log's clock was another; its checksums fit.
    pub fn falsify(manifest: &mut [u8], applied: u64, falsified: (u64, Option<u64>)) {
        Planted::rewrite(manifest, applied, |state| {
            state[..8].copy_from_slice(&falsified.0.to_le_bytes());
            if let Some(clock) = falsified.1 {
                state[8..16].copy_from_slice(&clock.to_le_bytes());
            }
        });
    }

    /// Flips a bit of the chain of entries that a manifest has; its checksums fit.
    pub fn flip_chain(manifest: &mut [u8], applied: u64) {
        Planted::rewrite(manifest, applied, |state| state[16] ^= 1);
    }

    /// Changes a manifest from its last entry on, and has its checksums fit.
    fn rewrite(manifest: &mut [u8], applied: u64, change: impl FnOnce(&mut [u8])) {
        const HEADER_BYTES: usize = 32;
        // The digest's key, the last entry, the clock and the chain's head stand one after the other.
        let known = [&DIGEST_KEY[..], &applied.to_le_bytes()].concat();
        let Some(at) = manifest.windows(known.len()).position(|window| window == known) else { return };
        change(&mut manifest[at + DIGEST_KEY.len()..]);
        let (header, body) = manifest.split_at_mut(HEADER_BYTES);
        header[24..28].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
    }
}
