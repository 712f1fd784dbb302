//! Mistakes that a program like ours could make, made on purpose: the simulation must find each.
//!
//! They are made around the real parts, not in them: by what is done at the log, by what a machine finds when it starts,
//! by what a door asks the shard for, by what a client repeats.

use super::machine::DIGEST_KEY;
use super::{NOT_WELL, Violation};

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
}

impl Planted {
    /// All of them, with the number of seeds within which each is found: about four times as many as it took.
    pub const ALL: [(Planted, u64); 15] = [
        (Planted::AcknowledgeBeforeSync, 10),
        (Planted::AcknowledgeHere, 10),
        (Planted::ForgetTheVote, 120),
        (Planted::WipedMemberVotes, 30),
        (Planted::CutAtAnyBadFrame, 10),
        (Planted::ForgetTheNames, 10),
        (Planted::ReadWithoutAsking, 10),
        (Planted::ReadWhileLeading, 80),
        (Planted::LeaseTooLong, 120),
        (Planted::RepeatWithoutId, 40),
        (Planted::ShowExpired, 10),
        (Planted::ReadByOwnClock, 150),
        (Planted::OwnClockForTheLogs, 10),
        (Planted::ApplyTwice, 10),
        (Planted::SnapshotOffByOne, 60),
    ];

    /// Whether this violation shows the mistake. That an empty member cannot catch up without a snapshot says nothing of
    /// what its vote does.
    pub fn is_shown_by(self, violation: &Violation) -> bool {
        self != Planted::WipedMemberVotes || !violation.0.contains(NOT_WELL)
    }

    /// Makes a manifest say that another entry was its last, and that the log's clock was another; its checksums fit.
    pub fn falsify(manifest: &mut [u8], applied: u64, falsified: (u64, Option<u64>)) {
        const HEADER_BYTES: usize = 32;
        // The digest's key, the last entry and the clock stand one after the other.
        let known = [&DIGEST_KEY[..], &applied.to_le_bytes()].concat();
        let Some(at) = manifest.windows(known.len()).position(|window| window == known) else { return };
        let at = at + DIGEST_KEY.len();
        manifest[at..at + 8].copy_from_slice(&falsified.0.to_le_bytes());
        if let Some(clock) = falsified.1 {
            manifest[at + 8..at + 16].copy_from_slice(&clock.to_le_bytes());
        }
        let (header, body) = manifest.split_at_mut(HEADER_BYTES);
        header[24..28].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        let crc = crc32fast::hash(&header[..28]);
        header[28..].copy_from_slice(&crc.to_le_bytes());
    }
}
