//! The data directory: whose it is, and that one process at a time uses it.
//!
//! ```text
//!   DIR/LOCK        held exclusively while a node runs; has its process id
//!   DIR/CREATING    there only while the first start makes the rest; the node id it will have
//!   DIR/IDENTITY    which node this is (below)
//!   DIR/log/        the log of all shards
//!   DIR/shards/1/   the store of shard 1; beside it, for a while, one that is received or replaced (`cluster::snapshot`)
//! ```
//!
//! IDENTITY, 68 bytes, little-endian:
//!
//! ```text
//! 0          8          12     16          32            40           56       64      68
//! | lociNODE | version  | zero | node id   | made at, ms | cluster id | member | crc32 |
//! ```
//!
//! Version 1 ends before the cluster id, at a crc32 in 40..44: it is of a node that founded its own cluster, whose id is
//! the node's, and in which it is member 1.
//!
//! The first start makes CREATING, then everything else, then IDENTITY, and then removes CREATING; nothing is served
//! before. So a directory with CREATING and without IDENTITY never held anybody's data and is made afresh, and one
//! with neither, that is not empty, is somebody else's and is left alone.
//!
//! Always: whatever is not exactly what this program wrote is an error with a name and an offset, never a guess.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const MAGIC: &[u8; 8] = b"lociNODE";
/// The version of the data directory that this program makes, and the newest it opens.
pub const VERSION: u32 = 2;
const IDENTITY_BYTES: usize = 68;
const IDENTITY_1_BYTES: usize = 44;
/// A process id, and spaces.
const LOCK_BYTES: usize = 20;
const CHECKED_BYTES: usize = IDENTITY_BYTES - 4;
/// The member that founds a cluster.
pub const FOUNDER: u64 = 1;

const LOCK: &str = "LOCK";
const CREATING: &str = "CREATING";
const IDENTITY: &str = "IDENTITY";
const IDENTITY_NEW: &str = "IDENTITY.new";
const LOG: &str = "log";
const SHARDS: &str = "shards";
/// What the root of a file system may have of its own.
const NOT_OURS: &str = "lost+found";

/// Which node this is; made once, with its data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Random.
    pub node: NodeId,
    /// When the directory was made: milliseconds since 1970.
    pub created_millis: u64,
    /// Of which cluster it is a part; never another.
    pub cluster: ClusterId,
    /// Which member it is there; never given to another node.
    pub member: u64,
}

/// A cluster's name among all clusters there ever are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClusterId(pub [u8; 16]);

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A node's name among all nodes there ever are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeId(pub [u8; 16]);

impl std::fmt::Display for NodeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A process's name among all that ever run as nodes. Made at its start and never written down: so a node and a copy of its data
/// are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunId(pub [u8; 16]);

/// Why bytes are not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not as long as one.
    #[error("has {0} bytes instead of {IDENTITY_BYTES} or, in version 1, {IDENTITY_1_BYTES}")]
    WrongLength(usize),
    /// Does not begin like one.
    #[error("does not begin as the identity of a loci node")]
    WrongMagic,
    /// A newer program wrote it.
    #[error("has version {0}, newer than {VERSION}: this program is too old for it")]
    UnknownVersion(u32),
    /// It was whole once.
    #[error(
        "is damaged: its checksum says {stored:08x}, its bytes {computed:08x}; which node this is cannot be known any more. Of several \
         nodes: remove the old member and start with an empty directory and --join"
    )]
    Damaged {
        /// What is written.
        stored: u32,
        /// What should be.
        computed: u32,
        /// Where the checksum is.
        offset: u64,
    },
    /// The bytes that are zero in this version are not.
    #[error("has bytes set that version {VERSION} keeps zero")]
    NotZero,
}

impl IdentityError {
    /// Where in the file the trouble shows.
    pub fn offset(&self) -> u64 {
        match *self {
            IdentityError::WrongLength(length) => length.min(IDENTITY_BYTES) as u64,
            IdentityError::WrongMagic => 0,
            IdentityError::UnknownVersion(_) => 8,
            IdentityError::NotZero => 12,
            IdentityError::Damaged { offset, .. } => offset,
        }
    }
}

impl Identity {
    fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut bytes = [0; IDENTITY_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.node.0);
        bytes[32..40].copy_from_slice(&self.created_millis.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.cluster.0);
        bytes[56..64].copy_from_slice(&self.member.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Identity, IdentityError> {
        // Version 1 is shorter; only its length tells before its checksum is known to be right.
        if !matches!(bytes.len(), IDENTITY_BYTES | IDENTITY_1_BYTES) {
            return Err(IdentityError::WrongLength(bytes.len()));
        }
        let (checked, stored) = bytes.split_last_chunk::<4>().ok_or(IdentityError::WrongLength(bytes.len()))?;
        let part = |at: usize| checked.get(at..).unwrap_or_default();
        let u32_at = |at: usize| part(at).first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let u64_at = |at: usize| part(at).first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let id_at = |at: usize| part(at).first_chunk::<16>().copied().unwrap_or_default();
        if !bytes.starts_with(MAGIC) {
            return Err(IdentityError::WrongMagic);
        }
        let (stored, computed) = (u32::from_le_bytes(*stored), crc32fast::hash(checked));
        if stored != computed {
            return Err(IdentityError::Damaged { stored, computed, offset: checked.len() as u64 });
        }
        let version = u32_at(8);
        let length = match version {
            1 => IDENTITY_1_BYTES,
            VERSION => IDENTITY_BYTES,
            newer => return Err(IdentityError::UnknownVersion(newer)),
        };
        if bytes.len() != length {
            return Err(IdentityError::WrongLength(bytes.len()));
        }
        if u32_at(12) != 0 {
            return Err(IdentityError::NotZero);
        }
        let node = id_at(16);
        let (cluster, member) = if version == 1 { (node, FOUNDER) } else { (id_at(40), u64_at(56)) };
        Ok(Identity { node: NodeId(node), created_millis: u64_at(32), cluster: ClusterId(cluster), member })
    }
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process has it.
    #[error("data directory {path} is in use by another process{}: stop it first, or give another --data",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, if it said.
        pid: Option<u32>,
    },
    /// It is not empty, and not a node's.
    #[error(
        "{path} is not a loci data directory and not empty (it has {found:?}, and no file IDENTITY): give an empty or new directory, or \
         bring that file back if these are a node's data"
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Something that is in it.
        found: String,
    },
    /// The path is something else than a directory.
    #[error("{0} is not a directory")]
    NotADirectory(PathBuf),
    /// The identity is damaged, or newer than this program.
    #[error("{file} {error} (at offset {})", error.offset())]
    Identity {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: IdentityError,
    },
    /// A part that the first start made is gone.
    #[error("{0} is missing: this data directory is incomplete; restore it from a copy")]
    Missing(PathBuf),
    /// The disk says no.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
}

/// A locked data directory; unlocked when dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    /// Held for its lock.
    _lock: File,
    /// `None`: the first start has to fill the directory and then call [`DataDirectory::complete`].
    identity: Option<Identity>,
}

impl DataDirectory {
    /// Locks the directory, making it if it is missing, and finds out whose it is.
    pub fn open(path: &Path) -> Result<DataDirectory, DataError> {
        if path.exists() && !path.is_dir() {
            return Err(DataError::NotADirectory(path.into()));
        }
        make_directory(path)?;
        let lock = lock(path)?;
        let mut directory = DataDirectory { path: path.into(), _lock: lock, identity: None };
        let creating = directory.path.join(CREATING);
        match directory.read_identity()? {
            Some(identity) => {
                directory.identity = Some(identity);
                if creating.exists() {
                    remove_file(&creating)?;
                    sync_directory(path)?;
                }
                for part in [directory.log(), directory.shards()] {
                    if !part.is_dir() {
                        return Err(DataError::Missing(part));
                    }
                }
            }
            None => directory.begin()?,
        }
        Ok(directory)
    }

    /// Whose it is; `None` until the first start has called [`DataDirectory::complete`].
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Which node a new directory is going to be: the same again if the first start is interrupted and repeated.
    pub fn applicant(&self) -> Result<NodeId, DataError> {
        let creating = self.path.join(CREATING);
        let bytes = fs::read(&creating).map_err(failed("read", &creating))?;
        if let Ok(node) = bytes.try_into() {
            return Ok(NodeId(node));
        }
        let node = NodeId(random_bytes()?);
        let write = || {
            let file = OpenOptions::new().write(true).truncate(true).open(&creating)?;
            (&file).write_all(&node.0)?;
            file.sync_all()
        };
        write().map_err(failed("write", &creating))?;
        Ok(node)
    }

    /// Ends the first start: from now on the directory is this node's.
    pub fn complete(&mut self, identity: Identity) -> Result<(), DataError> {
        let temporary = self.path.join(IDENTITY_NEW);
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&identity.encode())?;
            file.sync_all()?;
            fs::rename(&temporary, self.path.join(IDENTITY))
        };
        write().map_err(failed("write", &temporary))?;
        sync_directory(&self.path)?;
        remove_file(&self.path.join(CREATING))?;
        sync_directory(&self.path)?;
        self.identity = Some(identity);
        Ok(())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where a shard's store is.
    pub fn shard(&self, shard: u32) -> PathBuf {
        self.shards().join(shard.to_string())
    }

    /// Where the stores of all shards are.
    pub fn shards(&self) -> PathBuf {
        self.path.join(SHARDS)
    }

    fn read_identity(&self) -> Result<Option<Identity>, DataError> {
        let file = self.path.join(IDENTITY);
        let mut bytes = Vec::new();
        match File::open(&file) {
            Ok(opened) => {
                // Whatever it is, no more of it is read than tells that it is too long.
                opened.take(IDENTITY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed("read", &file))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &file)(error)),
        }
        Identity::decode(&bytes).map(Some).map_err(|error| DataError::Identity { file, error })
    }

    /// Makes the empty parts of a new directory, over what an interrupted first start left.
    fn begin(&self) -> Result<(), DataError> {
        let creating = self.path.join(CREATING);
        if creating.exists() {
            for part in [self.log(), self.shards()] {
                if part.exists() {
                    fs::remove_dir_all(&part).map_err(failed("remove", &part))?;
                }
            }
        } else {
            let listing = fs::read_dir(&self.path).map_err(failed("list", &self.path))?;
            for entry in listing {
                let name = entry.map_err(failed("list", &self.path))?.file_name();
                if name != LOCK && name != NOT_OURS {
                    let found = name.to_string_lossy().into_owned();
                    return Err(DataError::Foreign { path: self.path.clone(), found });
                }
            }
            let file = File::create(&creating).map_err(failed("create", &creating))?;
            file.sync_all().map_err(failed("sync", &creating))?;
            sync_directory(&self.path)?;
        }
        make_directory(&self.log())?;
        make_directory(&self.shards())?;
        sync_directory(&self.path)
    }
}

/// So many bytes nobody can guess.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], DataError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; N];
    File::open(source).and_then(|mut file| file.read_exact(&mut bytes)).map_err(failed("read", source))?;
    Ok(bytes)
}

fn lock(directory: &Path) -> Result<File, DataError> {
    let path = directory.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // Best effort: the message is about the lock.
            let _ = (&file).take(LOCK_BYTES as u64).read_to_string(&mut pid);
            return Err(DataError::InUse { path: directory.into(), pid: pid.trim().parse().ok() });
        }
        Err(error) => return Err(failed("lock", &path)(error.into())),
    }
    // Only for the message of a second process, so a full disk is no reason to fail. Written over what is there, which
    // needs no room.
    let _ = file.write_all(format!("{:<LOCK_BYTES$}\n", std::process::id()).as_bytes());
    Ok(file)
}

/// Makes a directory that nobody else may look into. One that is there keeps its mode.
fn make_directory(path: &Path) -> Result<(), DataError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<(), DataError> {
    fs::remove_file(path).map_err(failed("remove", path))
}

fn sync_directory(path: &Path) -> Result<(), DataError> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(failed("sync", path))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DataError {
    let path = path.to_path_buf();
    move |error| DataError::Io { action, path, error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const EXAMPLE: Identity = Identity {
        node: NodeId([0xab; 16]),
        created_millis: 1_700_000_000_000,
        cluster: ClusterId([0xcd; 16]),
        member: 3,
    };

    fn made(path: &Path) -> DataDirectory {
        let mut directory = DataDirectory::open(path).unwrap();
        assert_eq!(directory.identity(), None);
        directory.complete(EXAMPLE).unwrap();
        directory
    }

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digits = hex.replace(' ', "");
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    #[test]
    fn version_2_never_changes() {
        let golden = "6c6f63694e4f4445 02000000 00000000 abababababababababababababababab 0068e5cf8b010000 \
                      cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd 0300000000000000";
        assert_eq!(EXAMPLE.encode()[..CHECKED_BYTES], bytes_of(golden));
        assert_eq!(Identity::decode(&EXAMPLE.encode()), Ok(EXAMPLE));
    }

    #[test]
    fn version_1_is_of_a_cluster_that_has_its_founders_name() {
        let golden = "6c6f63694e4f4445 01000000 00000000 abababababababababababababababab 0068e5cf8b010000";
        let founder = Identity { cluster: ClusterId([0xab; 16]), member: FOUNDER, ..EXAMPLE };
        assert_eq!(Identity::decode(&with_crc(bytes_of(golden))), Ok(founder));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for bit in 0..IDENTITY_BYTES * 8 {
            let mut bytes = EXAMPLE.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Identity::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_other_length_is_noticed() {
        let mut bytes = EXAMPLE.encode().to_vec();
        bytes.push(0);
        for length in (0..IDENTITY_BYTES).chain([IDENTITY_BYTES + 1]) {
            assert!(Identity::decode(&bytes[..length]).is_err(), "{length}");
        }
        // Whole, but not as long as its version is.
        let cut = with_crc(bytes[..IDENTITY_1_BYTES - 4].to_vec());
        assert_eq!(Identity::decode(&cut), Err(IdentityError::WrongLength(IDENTITY_1_BYTES)));
    }

    #[test]
    fn a_newer_version_is_told_apart_from_damage() {
        let mut bytes = EXAMPLE.encode();
        bytes[8] = 3;
        let crc = crc32fast::hash(&bytes[..CHECKED_BYTES]);
        bytes[CHECKED_BYTES..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Identity::decode(&bytes), Err(IdentityError::UnknownVersion(3)));
    }

    #[test]
    fn a_directory_remembers_whose_it_is_and_nobody_else_looks_into_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("made/on/demand");
        drop(made(&path));
        let directory = DataDirectory::open(&path).unwrap();
        assert_eq!(directory.identity(), Some(EXAMPLE));
        for part in [&path, &directory.log(), &directory.shards()] {
            assert_eq!(part.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", part.display());
        }
        assert!(!path.join(CREATING).exists());
    }

    #[test]
    fn a_second_process_is_told_who_is_there() {
        let parent = tempfile::tempdir().unwrap();
        let first = made(parent.path());
        let error = DataDirectory::open(parent.path()).unwrap_err();
        let DataError::InUse { path, pid } = &error else { panic!("{error}") };
        assert_eq!(path, parent.path());
        assert_eq!(*pid, Some(std::process::id()));
        assert!(error.to_string().contains(&parent.path().display().to_string()), "{error}");
        drop(first);
        DataDirectory::open(parent.path()).unwrap();
    }

    #[test]
    fn somebody_elses_directory_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.txt"), "years").unwrap();
        let error = DataDirectory::open(parent.path()).unwrap_err();
        assert!(matches!(&error, DataError::Foreign { found, .. } if found == "thesis.txt"), "{error}");
        assert_eq!(fs::read(parent.path().join("thesis.txt")).unwrap(), b"years");
        let error = DataDirectory::open(&parent.path().join("thesis.txt")).unwrap_err();
        assert!(matches!(error, DataError::NotADirectory(_)), "{error}");
    }

    #[test]
    fn the_root_of_a_fresh_file_system_counts_as_empty() {
        let parent = tempfile::tempdir().unwrap();
        fs::create_dir(parent.path().join(NOT_OURS)).unwrap();
        made(parent.path());
    }

    #[test]
    fn an_interrupted_first_start_is_begun_again() {
        let parent = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(parent.path()).unwrap();
        fs::write(directory.log().join("half"), "made").unwrap();
        fs::create_dir(directory.shard(1)).unwrap();
        drop(directory);
        let mut directory = DataDirectory::open(parent.path()).unwrap();
        assert_eq!(directory.identity(), None);
        assert!(!directory.log().join("half").exists());
        assert!(!directory.shard(1).exists());
        directory.complete(EXAMPLE).unwrap();
        fs::write(parent.path().join(CREATING), "").unwrap();
        drop(directory);
        assert_eq!(DataDirectory::open(parent.path()).unwrap().identity(), Some(EXAMPLE));
    }

    #[test]
    fn an_interrupted_first_start_is_of_the_same_node() {
        let parent = tempfile::tempdir().unwrap();
        let node = DataDirectory::open(parent.path()).unwrap().applicant().unwrap();
        assert_eq!(DataDirectory::open(parent.path()).unwrap().applicant().unwrap(), node);
        assert_ne!(node.0, [0; 16]);
    }

    #[test]
    fn damage_is_named_with_file_and_offset() {
        let parent = tempfile::tempdir().unwrap();
        drop(made(parent.path()));
        let file = parent.path().join(IDENTITY);
        let whole = fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        bytes[20] ^= 1;
        fs::write(&file, &bytes).unwrap();
        let message = DataDirectory::open(parent.path()).unwrap_err().to_string();
        assert!(message.contains("IDENTITY") && message.contains("offset 64"), "{message}");
        fs::write(&file, &whole[..7]).unwrap();
        let message = DataDirectory::open(parent.path()).unwrap_err().to_string();
        assert!(message.contains("has 7 bytes") && message.contains("offset 7"), "{message}");
        fs::write(&file, whole).unwrap();
        fs::remove_dir(parent.path().join(LOG)).unwrap();
        let error = DataDirectory::open(parent.path()).unwrap_err();
        assert!(matches!(error, DataError::Missing(_)), "{error}");
    }
}
