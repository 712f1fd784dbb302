//! Snapshots: the files of a shard's last checkpoint on their way to a member that cannot be told by entries alone.
//!
//! ```text
//!   serve:  checkpoint -> manifest -> every file that it names is opened -> head, bytes, bytes, ...
//!   fetch:  head -> files below shards/N.incoming, each synced -> SNAPSHOT -> directory synced
//!   install (the shard's owner, between two turns):
//!           shards/N -> shards/N.old, shards/N.incoming -> shards/N, parent synced; opened; shards/N.old removed
//! ```
//!
//! What is done with heads and pieces stands in [`coming`] and [`going`], which know neither streams nor time; here are those, and
//! the places where files lie.
//!
//! SNAPSHOT, little-endian, says where in the log the files stand:
//!
//! ```text
//! 0          8         12     16      24     32             36     40
//! | lociSNAP | version | zero | index | term | members: len | zero | members | crc32 |
//! ```
//!
//! Always:
//! - a directory with a SNAPSHOT is whole; one without is not, and is begun again;
//! - a stream that breaks is gone on with: whoever fetches says how much of which files it has, with checksums, and is sent
//!   the rest of those that begin like that;
//! - whenever the process ends, the next start finds either the old state or the new one ([`settle`]);
//! - what was received takes the place of a store only if it is newer, and every byte of it has been checked;
//! - a file is checked before its first piece is sent, and again when all of it was received: damage does not spread, and whoever
//!   has it hears of it.

pub mod coming;
pub mod going;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coming::Coming;
use going::Going;
use loci_index::directory::{Directory, DirectoryError, MmapDirectory, OpenFile, Readable};
use loci_index::store::{MANIFEST_FILE, Store, StoreError, StoreOptions, checkpoint_files};
use loci_raft::{FileDisk, LogIndex, MemberId, Members, Message, Term};
use loci_wire::v1;
use loci_wire::v1::snapshot_part::Part as Wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::Cluster;
use super::transfers::{Account, Direction, Transfers};
use crate::doors::grpc::Failure;
use crate::shard::{Damage, Fetching, FoundBy, Install, ShardHandle, StoreOpener};

/// Says where in the log the files beside it stand.
pub const SNAPSHOT_FILE: &str = "SNAPSHOT";
const MAGIC: &[u8; 8] = b"lociSNAP";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 40;
/// With as many members as a shard can have.
const SNAPSHOT_FILE_BYTES_MAX: u64 = 4096;
/// A file is sent in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces read and not sent.
const PIECES_WAITING: usize = 4;
/// How long a checkpoint may take that a snapshot is sent of.
const CHECKPOINT_TIME: Duration = Duration::from_secs(60);
/// No node sends more slowly than this, see [`PIECE_TIME`].
pub const PACE_MIN: u64 = 1 << 20;
/// How long the next piece may take to come.
const PIECE_TIME: Duration = Duration::from_secs(90);
/// No disk reads fewer bytes a second in order.
const READ_PACE_MIN: u64 = 8 << 20;
/// A file is not read more slowly than this before it is sent, twice if it looks damaged, see [`next_part`].
const CHECK_PACE_MIN: u64 = 4 * READ_PACE_MIN;
/// How often a checkpoint is made anew because the last did not know the member yet, or its files went away meanwhile.
const ATTEMPTS: usize = 5;

/// Where in the log a state stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The last entry in it.
    pub index: LogIndex,
    /// That entry's term.
    pub term: Term,
    /// The members as of that entry.
    pub members: Arc<Members>,
}

impl Stand {
    fn encode(&self) -> Vec<u8> {
        let mut members = Vec::new();
        self.members.encode(&mut members);
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(self.index.0.to_le_bytes());
        bytes.extend(self.term.0.to_le_bytes());
        bytes.extend((members.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(members);
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    /// What SNAPSHOT says; none if it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Stand> {
        let (checked, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
            return None;
        }
        let (head, members) = checked.split_first_chunk::<HEAD_BYTES>()?;
        let u32_at = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let u64_at = |at: usize| head.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        let right = head.starts_with(MAGIC) && u32_at(8)? == VERSION && u32_at(32)? as usize == members.len();
        let members = right.then(|| Members::decode(members).ok())??;
        Some(Stand { index: LogIndex(u64_at(16)?), term: Term(u64_at(24)?), members: Arc::new(members) })
    }

    /// What a directory's SNAPSHOT says; none if it has none.
    pub fn read(directory: &Path) -> io::Result<Option<Stand>> {
        let path = directory.join(SNAPSHOT_FILE);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => file.take(SNAPSHOT_FILE_BYTES_MAX).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match Stand::decode(&bytes) {
            Some(stand) => Ok(Some(stand)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))),
        }
    }
}

/// Beside the directory of a shard's store: where a snapshot is received, and where the store goes that it replaces.
fn beside(store: &Path, ending: &str) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn incoming(store: &Path) -> PathBuf {
    beside(store, ".incoming")
}

fn outgoing(store: &Path) -> PathBuf {
    beside(store, ".old")
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where the state stands that lies whole beside a store, if one does.
pub fn received(store: &Path) -> Option<Stand> {
    // One whose SNAPSHOT cannot be read is as good as none: it can be fetched again.
    Stand::read(&incoming(store)).ok().flatten()
}

/// Throws away what was received for a store.
pub fn drop_received(store: &Path) -> io::Result<()> {
    remove(&incoming(store))
}

/// Throws away what was received for a store if the log of its shard begins after it: it must not take the place even of a store
/// that cannot be read, for nothing goes on from there.
pub fn drop_older(store: &Path, log_start: LogIndex) -> io::Result<()> {
    match received(store) {
        Some(stand) if stand.index < log_start => drop_received(store),
        _ => Ok(()),
    }
}

/// The entry up to which the store in a directory holds the state; none if there is no store that can be opened.
fn checkpoint_of(store: &Path) -> Option<u64> {
    let directory = store.exists().then(|| MmapDirectory::open(store).ok())??;
    checkpoint_files(&directory as &dyn Directory).ok().map(|(_, applied, _)| applied)
}

/// Whether what was received is to take the place of a store that holds the state up to `there`, if it holds any: newer, and sound
/// in every byte.
pub fn is_better(new: Result<Arc<dyn Directory>, StoreError>, there: Option<u64>) -> bool {
    // Without one there is nothing to lose.
    let Some(there) = there else { return true };
    match new.and_then(|directory| Store::open(directory, StoreOptions::default())) {
        Ok(received) => received.applied() > there,
        Err(error) => {
            tracing::warn!(%error, "a snapshot that was received is damaged: it is dropped");
            false
        }
    }
}

/// Beside the directory of a shard's store: where it goes that is to be thrown away.
fn gone(store: &Path) -> PathBuf {
    beside(store, ".gone")
}

/// Whether a store was begun to be thrown away.
pub fn is_going(store: &Path) -> bool {
    gone(store).exists()
}

/// Sets a store aside that is to be thrown away: whenever the process ends after this, it is known that nobody needs it.
pub fn let_go(store: &Path) -> io::Result<()> {
    if !is_going(store) {
        match fs::rename(store, gone(store)) {
            // There was nothing in it: that it goes must be known all the same.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(gone(store))?,
            other => other?,
        }
    }
    sync_directory(store.parent().unwrap_or(Path::new(".")))
}

/// Throws away a store that was set aside, and what lies beside it.
pub fn throw_away(store: &Path) -> io::Result<()> {
    for path in [store.to_owned(), incoming(store), outgoing(store), beside(store, ".damaged")] {
        remove(&path)?;
    }
    remove(&gone(store))?;
    sync_directory(store.parent().unwrap_or(Path::new(".")))
}

/// Puts what was received in the place of the store, if it was received whole and is better; finishes what was begun.
pub fn settle(store: &Path) -> io::Result<()> {
    let (new, old) = (incoming(store), outgoing(store));
    let parent = store.parent().unwrap_or(Path::new("."));
    let whole = received(store).is_some();
    let there = if store.exists() { store } else { &old };
    let opened = || MmapDirectory::open(&new).map(|directory| Arc::new(directory) as _).map_err(StoreError::from);
    if whole && is_better(opened(), checkpoint_of(there)) {
        if store.exists() {
            remove(&old)?;
            fs::rename(store, &old)?;
        }
        fs::rename(&new, store)?;
        sync_directory(parent)?;
    } else if !store.exists() && old.exists() {
        // The received one had begun to take its place, and is not better after all.
        fs::rename(&old, store)?;
        sync_directory(parent)?;
    }
    remove(&new)?;
    remove(&old)
}

/// How fast snapshots leave a node, all of them together. Clones share it.
#[derive(Debug, Clone)]
pub struct Pace {
    bytes_per_second: Option<u64>,
    /// When the next piece may go.
    next: Arc<Mutex<Instant>>,
}

impl Pace {
    /// So many bytes a second; none: as fast as they can.
    pub fn new(bytes_per_second: Option<u64>) -> Pace {
        let bytes_per_second = bytes_per_second.map(|bytes| bytes.max(PACE_MIN));
        Pace { bytes_per_second, next: Arc::new(Mutex::new(Instant::now())) }
    }

    /// How fast one who sends reads a file before it sends any of it: as fast as it may be sent, but never so slowly that whoever
    /// waits for it gives up.
    fn of_reading(&self) -> Pace {
        Pace::new(self.bytes_per_second.map(|bytes| bytes.max(CHECK_PACE_MIN)))
    }

    /// How long a piece has to wait that wants to go now.
    fn take(&self, bytes: u64, now: Instant) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let goes = now.max(*next);
        *next = goes + Duration::from_secs_f64(bytes as f64 / rate as f64);
        goes - now
    }
}

/// The checksum of so many bytes at the beginning of a file.
fn checksum(file: &dyn Readable, bytes: u64) -> Result<u32, DirectoryError> {
    let mut hasher = crc32fast::Hasher::new();
    file.read_range(0..bytes, &mut |part| hasher.update(part))?;
    Ok(hasher.finalize())
}

/// What is left beside a store of a stream that broke: the files that need not be sent again from their beginnings.
pub async fn begun(store: &Path) -> Vec<v1::SnapshotBegun> {
    let into = incoming(store);
    if !into.exists() {
        return Vec::new();
    }
    // What cannot be read is sent again.
    beside_others(move || Ok(coming::begun(&FileDisk::open(&into)?)?)).await.unwrap_or_default()
}

/// Does what takes the disk long, while the caller's thread does other things.
async fn beside_others<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, coming::ComingError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|error| Status::internal(error.to_string()))?;
    Ok(done?)
}

/// Sends a snapshot to a member.
pub async fn serve(
    cluster: Cluster,
    files: PathBuf,
    pace: Pace,
    request: v1::SnapshotRequest,
) -> Result<ReceiverStream<Result<v1::SnapshotPart, Status>>, Status> {
    let v1::SnapshotRequest { member, have, .. } = request;
    let member = MemberId(member);
    let have = Arc::new(have);
    let fetching = cluster.shard().fetched_by(member);
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let Ok(stand) = tokio::time::timeout(CHECKPOINT_TIME, cluster.shard().checkpoint()).await else {
            let message = "no checkpoint could be made in time; is its disk full?";
            return Err(Failure::new(Code::Unavailable, "no_snapshot", message).into());
        };
        let stand = stand.map_err(Failure::from)?;
        if !cluster.shard().is_for(&stand, member) {
            // The checkpoint under way began before the member was let in.
            continue;
        }
        let (directory, have) = (files.clone(), have.clone());
        let opened = tokio::task::spawn_blocking(move || open_files(&directory, stand, &have)).await;
        match opened.map_err(|error| Status::internal(error.to_string()))? {
            Ok((head, opened)) => {
                tracing::info!(member = member.0, index = head.index, files = head.files.len(), "sending a snapshot");
                let (parts, stream) = mpsc::channel(PIECES_WAITING);
                let shard = cluster.shard().clone();
                let account = cluster.transfers().begin(shard.id(), Direction::Sent, member, bytes_of(&head));
                let pace = pace.clone();
                tokio::task::spawn_blocking(move || send(head, opened, &parts, (&shard, &account, &pace), fetching));
                return Ok(ReceiverStream::new(stream));
            }
            Err(error) => last = Some(error),
        }
    }
    let why = last.map_or_else(|| "the member takes no part in the shard".into(), |error| error.to_string());
    Err(Failure::new(Code::Unavailable, "no_snapshot", format!("no snapshot could be made: {why}; retry")).into())
}

/// The files of a checkpoint, each where its sending is to begin.
fn open_files(
    store: &Path,
    stand: Stand,
    have: &[v1::SnapshotBegun],
) -> io::Result<(v1::SnapshotHead, Going<OpenFile>)> {
    let which = fs::metadata(store)?.ino();
    // Somebody writes there.
    let directory = MmapDirectory::used(store);
    let (manifest, applied, names) = checkpoint_files(&directory as &dyn Directory).map_err(io::Error::other)?;
    if applied != stand.index.0 {
        return Err(io::Error::other("another checkpoint was made meanwhile"));
    }
    // What is open stays readable, whatever merges remove.
    let opened = names.iter().map(|name| Ok(OpenFile::new(File::open(store.join(name))?, name)));
    let mut opened: Vec<OpenFile> = opened.collect::<io::Result<_>>()?;
    if fs::metadata(store)?.ino() != which {
        return Err(io::Error::other("a snapshot was taken in meanwhile"));
    }
    // The manifest is replaced at every checkpoint: these are the bytes that name these files. Last, so that it is never there
    // before what it names.
    let mut copy = tempfile::tempfile()?;
    copy.write_all(&manifest)?;
    opened.push(OpenFile::new(copy, MANIFEST_FILE));
    Going::begin(&stand, opened, have).map_err(io::Error::other)
}

fn bytes_of(head: &v1::SnapshotHead) -> u64 {
    head.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
}

fn skipped_of(head: &v1::SnapshotHead) -> u64 {
    head.files.iter().map(|file| file.skipped).fold(0, u64::saturating_add)
}

fn send(
    head: v1::SnapshotHead,
    mut files: Going<OpenFile>,
    parts: &mpsc::Sender<Result<v1::SnapshotPart, Status>>,
    (shard, account, pace): (&ShardHandle, &Account, &Pace),
    fetching: Fetching,
) {
    let part = |wire| Ok(v1::SnapshotPart { part: Some(wire) });
    account.add(skipped_of(&head));
    let (index, bytes_of_all) = (LogIndex(head.index), bytes_of(&head));
    let reading = pace.of_reading();
    let mut go_on = |bytes| {
        std::thread::sleep(reading.take(bytes, Instant::now()));
        !parts.is_closed()
    };
    // The other side may have gone.
    let mut sent = parts.blocking_send(part(Wire::Head(head))).is_ok();
    while sent {
        let piece = match files.next(PIECE_BYTES, &mut go_on) {
            Ok(Some(piece)) => piece,
            Ok(None) => return fetching.has_all(index, bytes_of_all),
            Err(unsendable) => {
                let why = unsendable.to_string();
                if unsendable.error.is_damage() {
                    let what = unsendable.error.to_string();
                    shard.damage_found(Damage { file: unsendable.file, what, by: FoundBy::Snapshot });
                }
                // As above.
                let _ = parts.blocking_send(Err(Status::data_loss(why)));
                return;
            }
        };
        let bytes = piece.bytes.len() as u64;
        std::thread::sleep(pace.take(bytes, Instant::now()));
        sent = parts.blocking_send(part(Wire::Bytes(piece))).is_ok();
        account.add(if sent { bytes } else { 0 });
    }
}

/// The next part of a stream; of a file of so many bytes, all of which are read before its first.
async fn next_part(
    parts: &mut Streaming<v1::SnapshotPart>,
    file_bytes: u64,
) -> Result<Option<v1::SnapshotPart>, Status> {
    let time = PIECE_TIME + Duration::from_secs(file_bytes / READ_PACE_MIN);
    match tokio::time::timeout(time, parts.message()).await {
        Ok(part) => part,
        Err(_) => Err(Status::deadline_exceeded(format!("nothing came for {time:?}"))),
    }
}

/// Receives a snapshot into the directory beside `store`, whole and durable when this returns.
pub async fn fetch(
    store: &Path,
    mut parts: Streaming<v1::SnapshotPart>,
    (transfers, shard, from): (&Transfers, u32, MemberId),
) -> Result<Stand, Status> {
    let wrong = |what: &str| Status::from(coming::ComingError::Wrong(what.into()));
    let Some(v1::SnapshotPart { part: Some(Wire::Head(head)) }) = next_part(&mut parts, 0).await? else {
        return Err(wrong("it has no head"));
    };
    let account = transfers.begin(shard, Direction::Received, from, bytes_of(&head));
    let skipped = skipped_of(&head);
    if skipped > 0 {
        tracing::info!(shard, member = from.0, bytes = skipped, "going on with a snapshot that broke off");
        account.add(skipped);
    }
    let into = incoming(store);
    let mut coming = beside_others(move || Coming::begin(FileDisk::open(&into)?, head)).await?;
    while let Some(file_bytes) = coming.wants() {
        let Some(v1::SnapshotPart { part: Some(Wire::Bytes(piece)) }) = next_part(&mut parts, file_bytes).await? else {
            return Err(wrong("it ends early"));
        };
        let bytes = piece.bytes.len() as u64;
        coming = beside_others(move || coming.take(&piece).map(|()| coming)).await?;
        account.add(bytes);
    }
    beside_others(move || coming.finish()).await
}

/// What a running node does with a snapshot that the leader has for it: one at a time.
#[derive(Clone)]
pub struct Receiving {
    store: PathBuf,
    open: StoreOpener,
    under_way: Arc<AtomicBool>,
}

impl Receiving {
    /// For the shard whose store is at `store`, and is opened by `open`.
    pub fn new(store: PathBuf, open: StoreOpener) -> Receiving {
        Receiving { store, open, under_way: Arc::new(AtomicBool::new(false)) }
    }

    /// Fetches the snapshot's files from whoever sent its message, and then hands both to the shard. While one is being
    /// fetched others are ignored: the leader says it again.
    pub fn begin(&self, cluster: &Cluster, message: Message) {
        let Some(under_way) = self.hold() else { return };
        let (receiving, cluster) = (self.clone(), cluster.clone());
        tokio::spawn(async move {
            let from = message.from();
            if let Err(status) = receiving.receive(&cluster, message).await {
                tracing::warn!(member = from.0, error = status.message(), "a snapshot could not be fetched");
            }
            drop(under_way);
        });
    }

    /// Has nothing else fetched until what it gives is dropped; none: something is.
    pub fn hold(&self) -> Option<UnderWay> {
        (!self.under_way.swap(true, Ordering::AcqRel)).then(|| UnderWay(self.under_way.clone()))
    }

    /// Whether one is being fetched.
    pub fn is_under_way(&self) -> bool {
        self.under_way.load(Ordering::Acquire)
    }

    async fn receive(&self, cluster: &Cluster, message: Message) -> Result<(), Status> {
        let shard = cluster.shard();
        let have = begun(&self.store).await;
        let (id, member) = (shard.id(), cluster.me().0);
        let request = v1::SnapshotRequest { shard: id, member, have, ..v1::SnapshotRequest::default() };
        let parts = cluster.links().client(message.from())?.snapshot(request).await?.into_inner();
        let stand = fetch(&self.store, parts, (cluster.transfers(), shard.id(), message.from())).await?;
        tracing::info!(index = stand.index.0, "a snapshot was fetched");
        let (store, open) = (self.store.clone(), self.open.clone());
        let open = Box::new(move || {
            settle(&store).map_err(|error| format!("{}: {error}", store.display()))?;
            open()
        });
        shard.install(Install { message, stand, open }).await;
        // Of one that came too late.
        remove(&incoming(&self.store)).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Another may be fetched when this is gone.
pub struct UnderWay(Arc<AtomicBool>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use loci_index::command::{Action, Change, Command, Content, Entry, Envelope, Origin, Schema};

    use super::*;

    fn stand(index: u64) -> Stand {
        let members = Members::voting([MemberId(1), MemberId(2)]).unwrap();
        Stand { index: LogIndex(index), term: Term(7), members: Arc::new(members) }
    }

    /// A store that has applied so many entries and made a checkpoint.
    fn store(at: &Path, entries: u64) {
        fs::create_dir_all(at).unwrap();
        let directory: Arc<dyn Directory> = Arc::new(MmapDirectory::open(at).unwrap());
        let mut store = Store::create(directory.clone(), StoreOptions::default(), [7; 32], 5).unwrap();
        for number in 1..=entries {
            let command = Command::CreateNamespace { name: format!("n{number}") };
            let commands = vec![Envelope { origin: Origin::default(), command }];
            store.apply(5 + number, &Entry { clock: number, commands }.encode()).unwrap();
        }
        checkpoint(&mut store, &*directory);
    }

    fn checkpoint(store: &mut Store, directory: &dyn Directory) {
        store.request_checkpoint();
        while let Some(job) = store.next_job() {
            let done = job.run(directory, &AtomicBool::new(false));
            assert!(store.install(done).error.is_none());
        }
    }

    fn received(store_path: &Path, entries: u64) -> PathBuf {
        let new = incoming(store_path);
        store(&new, entries);
        fs::write(new.join(SNAPSHOT_FILE), stand(5 + entries).encode()).unwrap();
        new
    }

    #[tokio::test]
    async fn files_that_begin_as_they_should_are_gone_on_with_and_others_are_sent_anew() {
        let data = tempfile::tempdir().unwrap();
        let (source, target) = (data.path().join("1"), data.path().join("2"));
        store(&source, 6);
        let directory: Arc<dyn Directory> = Arc::new(MmapDirectory::open(&source).unwrap());
        let mut written = Store::open(directory.clone(), StoreOptions::default()).unwrap();
        let (namespace, name) = ("n1".to_owned(), "c".to_owned());
        let made = Command::CreateCollection { namespace, name, schema: Schema::default() };
        let content = Content { value: Some(vec![7; 10_000]), ..Content::default() };
        let change = Change { collection: 1, key: b"key".to_vec(), action: Action::Put(content) };
        let put = Command::Write { conditions: Vec::new(), changes: vec![change] };
        for (index, command) in [(12, made), (13, put)] {
            let commands = vec![Envelope { origin: Origin::default(), command }];
            written.apply(index, &Entry { clock: index, commands }.encode()).unwrap();
        }
        checkpoint(&mut written, &*directory);
        let (head, _) = open_files(&source, stand(13), &[]).unwrap();
        let manifest_bytes = head.files.last().expect("it has a manifest").bytes;
        let first = head.files.iter().find(|file| file.name != MANIFEST_FILE).expect("it has a file").clone();
        let whole = fs::read(source.join(&first.name)).unwrap();
        let into = incoming(&target);
        fs::create_dir_all(&into).unwrap();
        let half = whole.len() / 2;
        for (there, skipped) in [(&whole[..half], half as u64), (&whole[..], first.bytes), (&[7; 40][..], 0)] {
            fs::write(into.join(&first.name), there).unwrap();
            fs::write(into.join(MANIFEST_FILE), "of another checkpoint").unwrap();
            let have = begun(&target).await;
            assert_eq!(have.len(), 1, "the manifest is always sent");
            let (head, mut going) = open_files(&source, stand(13), &have).unwrap();
            let at = head.files.iter().position(|file| file.name == first.name).unwrap();
            assert_eq!(head.files[at].skipped, skipped);
            let mut coming = Coming::begin(FileDisk::open(&into).unwrap(), head).unwrap();
            let kept = fs::read(into.join(&first.name)).unwrap_or_default();
            assert_eq!(kept, whole[..skipped as usize]);
            let is_there = |name: &str| into.join(name).exists();
            assert!(!is_there(MANIFEST_FILE) || coming.wants() == Some(manifest_bytes));
            while coming.wants().is_some() {
                coming.take(&going.next(100, &mut |_| true).unwrap().unwrap()).unwrap();
            }
            assert!(going.next(100, &mut |_| true).unwrap().is_none());
            assert_eq!(coming.finish().unwrap(), stand(13));
            assert_eq!(fs::read(into.join(&first.name)).unwrap(), whole);
            assert_eq!(super::received(&target), Some(stand(13)));
            fs::remove_dir_all(&into).unwrap();
            fs::create_dir_all(&into).unwrap();
        }
    }

    #[test]
    fn all_that_is_sent_together_keeps_the_pace() {
        let (pace, now) = (Pace::new(Some(4 << 20)), Instant::now() + Duration::from_secs(1));
        let other = pace.clone();
        assert_eq!(pace.take(1 << 20, now), Duration::ZERO);
        assert_eq!(other.take(2 << 20, now), Duration::from_millis(250));
        assert_eq!(pace.take(1 << 20, now), Duration::from_millis(750));
        assert_eq!(pace.take(1 << 20, now + Duration::from_secs(5)), Duration::ZERO);
        assert_eq!(Pace::new(None).take(u64::MAX, now), Duration::ZERO);
        // Reading is paced by itself, and not too slowly.
        let reading = pace.of_reading();
        assert_eq!(reading.take(64 << 20, now), Duration::ZERO);
        assert_eq!(reading.take(1, now), Duration::from_secs(64 << 20) / CHECK_PACE_MIN as u32);
        assert_eq!(Pace::new(Some(64 << 20)).of_reading().bytes_per_second, Some(64 << 20));
        assert_eq!(Pace::new(None).of_reading().take(u64::MAX, now), Duration::ZERO);
    }

    #[test]
    fn a_stand_comes_back_from_its_bytes_and_damage_is_noticed() {
        let bytes = stand(9).encode();
        assert_eq!(Stand::decode(&bytes), Some(stand(9)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Stand::decode(&damaged), None, "byte {at}");
            assert_eq!(Stand::decode(&bytes[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn what_was_received_takes_the_place_of_an_older_store_only() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("1");
        store(&path, 3);
        for (entries, expected) in [(2, 8), (3, 8), (6, 11)] {
            let new = received(&path, entries);
            settle(&path).unwrap();
            assert_eq!(checkpoint_of(&path), Some(expected), "{entries} entries were received");
            assert!(!new.exists() && !outgoing(&path).exists());
        }
        assert_eq!(Stand::read(&path).unwrap(), Some(stand(11)));
    }

    #[test]
    fn what_was_received_incomplete_or_damaged_is_dropped() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("1");
        store(&path, 3);
        let new = received(&path, 6);
        fs::remove_file(new.join(SNAPSHOT_FILE)).unwrap();
        settle(&path).unwrap();
        assert_eq!(checkpoint_of(&path), Some(8));
        let new = received(&path, 6);
        fs::write(new.join(SNAPSHOT_FILE), "rotten").unwrap();
        settle(&path).unwrap();
        assert_eq!(checkpoint_of(&path), Some(8));
        let new = received(&path, 6);
        let mut manifest = fs::read(new.join(MANIFEST_FILE)).unwrap();
        let last = manifest.len() - 1;
        manifest[last] ^= 1;
        fs::write(new.join(MANIFEST_FILE), manifest).unwrap();
        settle(&path).unwrap();
        assert_eq!(checkpoint_of(&path), Some(8));
        assert!(!new.exists());
    }

    #[test]
    fn what_was_received_for_a_damaged_store_is_not_older_than_the_log() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("1");
        for (log_start, expected) in [(12, None), (11, Some(11))] {
            store(&path, 9);
            fs::write(path.join(MANIFEST_FILE), "damaged").unwrap();
            received(&path, 6);
            drop_older(&path, LogIndex(log_start)).unwrap();
            settle(&path).unwrap();
            assert_eq!(checkpoint_of(&path), expected, "the log begins after entry {log_start}");
            fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn a_start_finishes_what_another_left_between_the_two_names() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("1");
        store(&path, 3);
        received(&path, 6);
        // The old one has lost its name, the new one has not got it.
        fs::rename(&path, outgoing(&path)).unwrap();
        settle(&path).unwrap();
        assert_eq!(checkpoint_of(&path), Some(11));
        assert!(!outgoing(&path).exists());
        fs::rename(&path, outgoing(&path)).unwrap();
        settle(&path).unwrap();
        assert_eq!(checkpoint_of(&path), Some(11), "nothing was received: the old one gets its name back");
    }
}
