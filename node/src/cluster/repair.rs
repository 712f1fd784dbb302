//! Repair: a node whose store is damaged takes it out of service and gets the state from another member.
//!
//! ```text
//!   start: the store cannot be read, the log can, and says that there are other members
//!     --> ask those of PEERS and --join --> their state, fetched beside the damaged one, at or after the start of the own log
//!     --> shards/N -> shards/N.damaged, the fetched one -> shards/N --> opened --> shards/N.damaged removed
//!     --> told: an error in the node's log, a metric, a note in the book that `loci cluster status` shows
//! ```
//!
//! What is mended is the store, which holds nothing that was promised to anybody: every entry in it is committed, and the
//! others have it. The promises of a member (whom it voted for, what it has acknowledged) are in its **log**, which stays as it
//! is: where it knows the entry at which the fetched state stands it goes on after that, and where it does not, everything in
//! it is older than that state, or was never committed.
//!
//! A damaged log is not mended. Whoever has forgotten a vote could give it again, and whoever has forgotten an entry that it
//! acknowledged could help to elect somebody who never had it. Such a node does not start; what it was can only be removed
//! from the cluster (`loci cluster remove`), and it comes back with an empty directory, as a new member that has promised
//! nothing.
//!
//! PEERS, beside the stores, has the addresses of the other members, one on a line: the book is in the store that cannot be
//! read. It is a hint, and may be missing or old.
//!
//! Always:
//! - the damaged store is there until another was fetched whole, and a process that ends in between begins again;
//! - nothing is repaired on a single node, or from a node of another cluster;
//! - a file of a newer program is not damaged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use loci_index::directory::DirectoryError;
use loci_index::segment::SegmentError;
use loci_index::store::StoreError;
use loci_raft::{LogIndex, MemberId, ShardState};
use loci_wire::v1;
use tonic::Status;

use super::snapshot::{self, Stand};
use super::transfers::Transfers;
use super::{Cluster, book, formation, links};
use crate::identity::{ClusterId, Identity};

/// Has the addresses of the others.
const PEERS_FILE: &str = "PEERS";
/// More than the addresses of all members that there can be.
const PEERS_BYTES_MAX: u64 = 1 << 16;
/// How often the others are asked again.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often it is told what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// How often the book is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a note may take to be written.
const NOTE_TIME: Duration = Duration::from_secs(5);
/// The error of a disk that cannot read a block (`EIO`).
const UNREADABLE: i32 = 5;

/// Whether a store that does not open is damaged, and not only in the wrong hands.
pub fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Missing | StoreError::Foreign { .. } | StoreError::Damaged { .. } => true,
        StoreError::Segment(SegmentError::Corrupt { .. } | SegmentError::NotASegment(_)) => true,
        StoreError::Segment(SegmentError::Directory(error)) | StoreError::Directory(error) => match error {
            DirectoryError::Missing(_)
            | DirectoryError::Empty(_)
            | DirectoryError::TooLarge { .. }
            | DirectoryError::Short { .. } => true,
            DirectoryError::Io { source, .. } => source.raw_os_error() == Some(UNREADABLE),
            DirectoryError::Name(_) | DirectoryError::Exists(_) | DirectoryError::Full(_) => false,
        },
        StoreError::Segment(_) | StoreError::Exists | StoreError::NewerVersion { .. } => false,
    }
}

/// Whether a member's log says that there are others.
pub fn has_others(state: &ShardState, me: MemberId) -> bool {
    // What a change in the log says is not read here: that there was one is enough, for who is alone changes nothing.
    state.members.all().any(|member| member != me) || !state.changes.is_empty()
}

/// A store that is to be mended.
pub struct Patient<'a> {
    /// Which node this is.
    pub identity: &'a Identity,
    /// The shard.
    pub shard: u32,
    /// Where its files are.
    pub store: &'a Path,
    /// What is wrong with them.
    pub what: &'a str,
    /// Its log begins after this entry.
    pub start: LogIndex,
}

impl Patient<'_> {
    fn damaged(&self) -> PathBuf {
        let mut name = self.store.as_os_str().to_owned();
        name.push(".damaged");
        name.into()
    }

    /// Gets the state from whoever has it, however long that takes, and puts it in the place of the damaged one.
    pub async fn mend(&self, addresses: &[String]) -> io::Result<()> {
        let begun = Instant::now();
        tracing::error!(
            shard = self.shard,
            store = %self.store.display(),
            what = self.what,
            "the store is damaged: it is out of service, and fetched from another member"
        );
        let stand = self.fetch(addresses).await;
        let damaged = self.damaged();
        remove(&damaged)?;
        match fs::rename(self.store, &damaged) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        snapshot::settle(self.store)?;
        let millis = begun.elapsed().as_millis() as u64;
        tracing::warn!(shard = self.shard, index = stand.index.0, millis, "the store was fetched and takes its place");
        Ok(())
    }

    /// The fetched one can be read: nobody needs the other any more.
    pub fn discharge(&self) -> io::Result<()> {
        remove(&self.damaged())
    }

    async fn fetch(&self, addresses: &[String]) -> Stand {
        let mut told: Option<Instant> = None;
        loop {
            let mut waits_for = Vec::new();
            for address in addresses {
                match self.fetch_from(address).await {
                    Ok(stand) if stand.index >= self.start => return stand,
                    Ok(stand) => waits_for.push(format!(
                        "{address}, whose state stands at entry {}, before this node's log begins",
                        stand.index.0
                    )),
                    Err(status) => waits_for.push(format!("{address}, which says: {}", status.message())),
                }
            }
            if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                told = Some(Instant::now());
                let waits_for = waits_for.join("; ");
                tracing::error!(shard = self.shard, waits_for, "nobody has the state of the damaged store yet");
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    async fn fetch_from(&self, address: &str) -> Result<Stand, Status> {
        let Identity { cluster, member, .. } = *self.identity;
        let there = formation::who(address).await?;
        let theirs = <[u8; 16]>::try_from(&there.cluster[..]).map(ClusterId);
        if theirs.ok() != Some(cluster) || there.member == member {
            return Err(Status::failed_precondition("it is another cluster's node, or this one"));
        }
        let request = v1::SnapshotRequest {
            shard: self.shard,
            member,
            damage: self.what.to_owned(),
            have: snapshot::begun(self.store).await,
        };
        let from = MemberId(there.member);
        let parts = links::member_at(address, cluster, from)?.snapshot(request).await?.into_inner();
        snapshot::fetch(self.store, parts, (&Transfers::default(), self.shard, from)).await
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The addresses that a data directory remembers.
pub fn remembered(data: &Path) -> BTreeSet<String> {
    let mut text = String::new();
    let read = File::open(data.join(PEERS_FILE))
        .and_then(|file| io::Read::read_to_string(&mut io::Read::take(file, PEERS_BYTES_MAX), &mut text));
    // A hint that is missing or unreadable is none.
    if read.is_err() {
        return BTreeSet::new();
    }
    text.lines().filter(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned()).collect()
}

/// Remembers them.
fn remember(data: &Path, addresses: &BTreeSet<String>) -> io::Result<()> {
    let temporary = data.join("PEERS.new");
    let mut file = File::create(&temporary)?;
    for address in addresses {
        writeln!(file, "{address}")?;
    }
    file.sync_all()?;
    fs::rename(temporary, data.join(PEERS_FILE))
}

/// Keeps PEERS as the book is, for as long as the node runs.
pub async fn remember_peers(cluster: Cluster, data: PathBuf) {
    let mut known = remembered(&data);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let lines = book::read(&cluster.shard().newest());
        let others = lines.into_iter().filter(|(member, line)| *member != cluster.me() && !line.removed);
        let others: BTreeSet<String> = others.map(|(_, line)| line.address).collect();
        if others == known || others.is_empty() {
            continue;
        }
        match remember(&data, &others) {
            Ok(()) => known = others,
            Err(error) => tracing::debug!(%error, "the addresses of the others could not be written down"),
        }
    }
}

/// Sees to it that the book says what was repaired at this start; nothing, if nothing was.
pub async fn note(cluster: Cluster, note: String) {
    loop {
        match book::find(&cluster.shard().newest(), cluster.me()) {
            // It has never been in a cluster of several.
            None if note.is_empty() => return,
            Some(line) if line.note == note => return,
            _ => {}
        }
        if let Err(failure) = cluster.write_note(&note, Instant::now() + NOTE_TIME).await {
            tracing::debug!(error = failure.message, "what was repaired could not be written into the book");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_remembered_and_a_missing_hint_is_none() {
        let data = tempfile::tempdir().unwrap();
        assert!(remembered(data.path()).is_empty());
        let addresses: BTreeSet<String> = ["a:1", "b:2"].map(str::to_owned).into();
        remember(data.path(), &addresses).unwrap();
        assert_eq!(remembered(data.path()), addresses);
        fs::write(data.path().join(PEERS_FILE), [0xff, 0xfe]).unwrap();
        assert!(remembered(data.path()).is_empty());
    }

    #[test]
    fn a_newer_file_and_a_full_disk_are_not_damage() {
        assert!(is_damage(&StoreError::Missing));
        assert!(is_damage(&StoreError::Damaged { file: "f".into(), offset: 0, what: String::new() }));
        assert!(is_damage(&StoreError::Directory(DirectoryError::Missing("f".into()))));
        assert!(!is_damage(&StoreError::NewerVersion { file: "f".into(), version: 9, known: 1 }));
        assert!(!is_damage(&StoreError::Directory(DirectoryError::Full("f".into()))));
        assert!(!is_damage(&StoreError::Segment(SegmentError::UnknownVersion { file: "f".into(), version: 9 })));
    }
}
