//! The directory: where files become memory, and the first of the two places where a machine can fail.
//!
//! ```text
//!   create("a") ---> a.tmp ---write---> sync ---rename---> a ---sync the directory---> done
//!                     |                                 |
//!                  dropped: removed                     |--- open: read-only memory, for searching
//!                                                       '--- read, read_range: copies, for checking
//! ```
//!
//! A file is written once. It gets its name only when all of it is on the disk, and never changes
//! afterwards, so a mapping of it never sees a truncation (which would kill the process with
//! SIGBUS). The one exception is a small file that is replaced whole, by `replace`; those are
//! read by copying and never mapped.
//!
//! Always: a name that `list` shows is a whole file. A reader that holds a mapping keeps it after
//! `remove`. Bulk checking reads by copying, because that is faster than faulting pages in and a
//! failing disk is then an error instead of a signal.

#![expect(unsafe_code, reason = "mapping a file into memory is unsafe by nature; this is the only module that does it")]

mod checked;
pub(crate) mod huge;
mod ram;

pub(crate) use checked::checksum;
pub use checked::{Named, OpenFile, Readable};
pub use ram::{Fault, RamDirectory};

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bulk reads copy this much at a time.
pub const READ_STEP_BYTES: usize = 1 << 20;
/// A longer name is refused; file systems stop at 255 and we add a suffix.
pub const NAME_BYTES_MAX: usize = 200;
/// No machine has smaller pages, and advice about parts of larger ones is refused, which does no harm.
const PAGE_BYTES: usize = 4096;
/// The size of a large page, where there are any.
const HUGE_BYTES: usize = 2 << 20;
const UNFINISHED: &str = ".tmp";

/// A place for files that are written once. Cheap calls come first; every error names the file.
pub trait Directory: Send + Sync + 'static {
    /// Starts a file. It gets its name when `finish` has made it durable; dropped before that, it
    /// never existed. Fails if the name is taken.
    fn create(&self, name: &str) -> Result<Box<dyn NewFile>, DirectoryError>;

    /// The file as read-only memory. An empty file is an error.
    fn open(&self, name: &str) -> Result<Arc<Mapped>, DirectoryError>;

    /// A copy of a small file; more than `bytes_max` is an error.
    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DirectoryError>;

    /// Shows a part of a file to `each`, in order, at most [`READ_STEP_BYTES`] at a time, without
    /// mapping it. A file that ends before the range does is an error.
    fn read_range(&self, name: &str, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError>;

    /// The names of all finished files, sorted.
    fn list(&self) -> Result<Vec<String>, DirectoryError>;

    /// Takes the name away, durably. Mappings that are held stay valid; a missing file is an error.
    fn remove(&self, name: &str) -> Result<(), DirectoryError>;

    /// Puts `bytes` under `name`, whole or not at all, durable when it returns. Only for files that
    /// are never mapped.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError>;

    /// The size of a file in bytes.
    fn len(&self, name: &str) -> Result<u64, DirectoryError>;

    /// Whether there are no finished files.
    fn is_empty(&self) -> Result<bool, DirectoryError> {
        Ok(self.list()?.is_empty())
    }
}

/// A file that is being written.
pub trait NewFile: Send {
    /// Appends.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DirectoryError>;

    /// How many bytes were appended.
    fn position(&self) -> u64;

    /// Overwrites bytes that were appended before; for a header that is known last.
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DirectoryError>;

    /// Makes the file durable and gives it its name.
    fn finish(self: Box<Self>) -> Result<(), DirectoryError>;
}

/// What went wrong with which file.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The name could leave the directory or hide in it.
    #[error(
        "{0:?} is not a file name we use: 1 to 200 of a-z A-Z 0-9 . _ - and neither a leading dot nor .tmp at the end"
    )]
    Name(String),
    /// There is no such file.
    #[error("file {0} does not exist")]
    Missing(String),
    /// A file is written once, and this one was.
    #[error("file {0} exists already and files are written once: choose another name")]
    Exists(String),
    /// The disk is full. Reads go on; free space and try again.
    #[error("no space left for file {0}: free some and try again")]
    Full(String),
    /// An empty file cannot be mapped and is never ours.
    #[error("file {0} is empty")]
    Empty(String),
    /// The caller expected a small file.
    #[error("file {file} has {bytes} bytes, at most {bytes_max} were expected")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size.
        bytes: u64,
        /// What the caller allowed.
        bytes_max: u64,
    },
    /// The file ends before the range that was asked for.
    #[error("file {file} has {bytes} bytes and ends before byte {wanted}")]
    Short {
        /// The file.
        file: String,
        /// Its size.
        bytes: u64,
        /// The end of the range.
        wanted: u64,
    },
    /// The operating system refused.
    #[error("cannot {action} file {file}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// What the operating system said.
        source: io::Error,
    },
}

impl DirectoryError {
    fn io(action: &'static str, file: impl Into<String>, source: io::Error) -> DirectoryError {
        let file = file.into();
        match source.kind() {
            io::ErrorKind::NotFound => DirectoryError::Missing(file),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DirectoryError::Full(file),
            _ => DirectoryError::Io { action, file, source },
        }
    }
}

fn check_name(name: &str) -> Result<(), DirectoryError> {
    let ok = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !name.starts_with('.')
        && !name.ends_with(UNFINISHED)
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if ok { Ok(()) } else { Err(DirectoryError::Name(name.to_string())) }
}

/// A finished file as read-only memory, aligned to at least 16 bytes.
pub struct Mapped {
    bytes: Bytes,
    name: String,
}

enum Bytes {
    Map(memmap2::Mmap),
    /// 16-byte words, so that what is aligned in a file is aligned here; the length is in bytes.
    Memory(Box<[u128]>, usize),
}

impl Mapped {
    /// The file's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Tells the system that this part will be read here and there: no read-ahead, so that a miss
    /// costs one page and evicts nothing. Advice only; nothing fails.
    pub fn advise_random(&self, range: Range<usize>) {
        self.advise(memmap2::Advice::Random, range);
    }

    /// Takes back what [`Mapped::advise_random`] said. Advice only; nothing fails.
    pub fn advise_normal(&self, range: Range<usize>) {
        self.advise(memmap2::Advice::Normal, range);
    }

    /// Gives the memory of this part back to the system; what is read again is read from the disk again. Of a range that
    /// begins or ends inside a page, that page stays. Advice only; nothing fails.
    pub fn page_out(&self, range: Range<usize>) {
        let Bytes::Map(map) = &self.bytes else { return };
        let (start, end) =
            (range.start.next_multiple_of(PAGE_BYTES), range.end.min(map.len()) / PAGE_BYTES * PAGE_BYTES);
        if start >= end {
            return;
        }
        #[cfg(target_os = "linux")]
        {
            let from = map.as_ptr().wrapping_add(start).cast_mut().cast();
            // SAFETY: from `start` to `end` is inside the mapping, which lives as long as `map`. This advice changes no byte of
            // it: the pages are those of a file and clean, and come back from the file when they are read.
            let taken = unsafe { rustix::mm::madvise(from, end - start, rustix::mm::Advice::LinuxPageOut) };
            if let Err(error) = taken {
                tracing::debug!(file = %self.name, %error, "memory advice was not taken");
            }
        }
    }

    /// Reads this part into memory now, if it fits. Advice only; nothing fails.
    pub fn populate(&self, range: Range<usize>) {
        #[cfg(target_os = "linux")]
        self.advise(memmap2::Advice::PopulateRead, range);
        #[cfg(not(target_os = "linux"))]
        self.advise(memmap2::Advice::WillNeed, range);
    }

    fn advise(&self, advice: memmap2::Advice, range: Range<usize>) {
        let Bytes::Map(map) = &self.bytes else { return };
        if range.start < range.end
            && range.end <= map.len()
            && let Err(error) = map.advise_range(advice, range.start, range.len())
        {
            tracing::debug!(file = %self.name, %error, "memory advice was not taken");
        }
    }

    fn from_slice(name: &str, bytes: &[u8]) -> Mapped {
        let mut words = vec![0u128; bytes.len().div_ceil(16)].into_boxed_slice();
        bytemuck::cast_slice_mut::<u128, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Mapped { bytes: Bytes::Memory(words, bytes.len()), name: name.to_string() }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Map(map) => map,
            Bytes::Memory(words, len) => &bytemuck::cast_slice::<u128, u8>(words)[..*len],
        }
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapped({}, {} bytes)", self.name, self.len())
    }
}

/// Asks for large pages for memory that was not written to yet, if there is enough of it. Advice only; nothing fails.
fn prefer_huge_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    let bytes = size_of_val(memory);
    // The advice is about whole pages, and only those that lie inside.
    let start = memory.as_mut_ptr().cast::<u8>();
    let skipped = start.align_offset(PAGE_BYTES).min(bytes);
    let inside = (bytes - skipped) / PAGE_BYTES * PAGE_BYTES;
    if inside < 2 * HUGE_BYTES {
        return;
    }
    #[cfg(target_os = "linux")]
    {
        let from = start.wrapping_add(skipped).cast();
        // SAFETY: the range is inside `memory`, which is lent to us alone. The advice says how the system keeps these pages
        // and changes no byte of them.
        let taken = unsafe { rustix::mm::madvise(from, inside, rustix::mm::Advice::LinuxHugepage) };
        if let Err(error) = taken {
            tracing::debug!(%error, "memory advice was not taken");
        }
    }
}

/// A directory of the file system.
#[derive(Debug)]
pub struct MmapDirectory {
    path: PathBuf,
}

impl MmapDirectory {
    /// Opens a directory, makes it if it is missing, and removes files that a crash left unfinished.
    pub fn open(path: impl Into<PathBuf>) -> Result<MmapDirectory, DirectoryError> {
        let path = path.into();
        let name = path.display().to_string();
        if !path.is_dir() {
            fs::create_dir_all(&path).map_err(|e| DirectoryError::io("make directory", &name, e))?;
            if let Some(parent) = path.parent() {
                // An empty parent is the current directory.
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                sync_directory(parent)?;
            }
        }
        let entries = fs::read_dir(&path).map_err(|e| DirectoryError::io("list directory", &name, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| DirectoryError::io("list directory", &name, e))?;
            let unfinished = entry.path();
            if unfinished.extension().is_some_and(|x| x == "tmp") && unfinished.is_file() {
                fs::remove_file(&unfinished)
                    .map_err(|e| DirectoryError::io("remove", unfinished.display().to_string(), e))?;
            }
        }
        Ok(MmapDirectory { path })
    }

    /// A directory that somebody else uses: nothing of it is made or removed.
    pub fn used(path: impl Into<PathBuf>) -> MmapDirectory {
        MmapDirectory { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn file(&self, name: &str) -> Result<(PathBuf, String), DirectoryError> {
        check_name(name)?;
        let path = self.path.join(name);
        let shown = path.display().to_string();
        Ok((path, shown))
    }

    fn start(&self, name: &str) -> Result<MmapNewFile, DirectoryError> {
        let (path, shown) = self.file(name)?;
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&unfinished).map_err(|e| DirectoryError::io("create", &shown, e))?;
        Ok(MmapNewFile {
            file: BufWriter::with_capacity(READ_STEP_BYTES, file),
            position: 0,
            unfinished: Unfinished(Some(unfinished)),
            path,
            shown,
            directory: self.path.clone(),
        })
    }
}

fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|e| DirectoryError::io("sync directory", path.display().to_string(), e))
}

impl Directory for MmapDirectory {
    fn create(&self, name: &str) -> Result<Box<dyn NewFile>, DirectoryError> {
        let (path, shown) = self.file(name)?;
        if path.exists() {
            return Err(DirectoryError::Exists(shown));
        }
        Ok(Box::new(self.start(name)?))
    }

    fn open(&self, name: &str) -> Result<Arc<Mapped>, DirectoryError> {
        let (path, shown) = self.file(name)?;
        let file = File::open(path).map_err(|e| DirectoryError::io("open", &shown, e))?;
        let bytes = file.metadata().map_err(|e| DirectoryError::io("open", &shown, e))?.len();
        if bytes == 0 {
            return Err(DirectoryError::Empty(shown));
        }
        let bytes =
            usize::try_from(bytes).map_err(|_| DirectoryError::io("map", &shown, io::ErrorKind::OutOfMemory.into()))?;
        // SAFETY: the mapping is read-only and private to this process's files: a finished file is
        // never written, truncated or renamed over by us (`create` refuses a taken name, `replace`
        // renames a new file into place and leaves this one's pages alone). Its length is what
        // the file had a moment ago, and only grows or stays.
        let map = unsafe { memmap2::MmapOptions::new().len(bytes).map(&file) }
            .map_err(|e| DirectoryError::io("map", &shown, e))?;
        Ok(Arc::new(Mapped { bytes: Bytes::Map(map), name: shown }))
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DirectoryError> {
        let (path, shown) = self.file(name)?;
        let file = File::open(path).map_err(|e| DirectoryError::io("open", &shown, e))?;
        let bytes = file.metadata().map_err(|e| DirectoryError::io("read", &shown, e))?.len();
        if bytes > bytes_max {
            return Err(DirectoryError::TooLarge { file: shown, bytes, bytes_max });
        }
        let mut out = Vec::new();
        file.take(bytes_max).read_to_end(&mut out).map_err(|e| DirectoryError::io("read", &shown, e))?;
        Ok(out)
    }

    fn read_range(&self, name: &str, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        let (path, shown) = self.file(name)?;
        let mut file = File::open(path).map_err(|e| DirectoryError::io("open", &shown, e))?;
        let bytes = file.metadata().map_err(|e| DirectoryError::io("read", &shown, e))?.len();
        if range.end > bytes {
            return Err(DirectoryError::Short { file: shown, bytes, wanted: range.end });
        }
        file.seek(SeekFrom::Start(range.start)).map_err(|e| DirectoryError::io("read", &shown, e))?;
        let mut left = range.end.saturating_sub(range.start);
        let mut step = vec![0u8; READ_STEP_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX))];
        while left > 0 {
            let take = step.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let part = &mut step[..take];
            file.read_exact(part).map_err(|e| DirectoryError::io("read", &shown, e))?;
            each(part);
            left -= take as u64;
        }
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>, DirectoryError> {
        let shown = self.path.display().to_string();
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| DirectoryError::io("list directory", &shown, e))? {
            let entry = entry.map_err(|e| DirectoryError::io("list directory", &shown, e))?;
            // A file with a name that is not ours is somebody else's; leave it alone.
            if let Ok(name) = entry.file_name().into_string()
                && check_name(&name).is_ok()
                && entry.path().is_file()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        let (path, shown) = self.file(name)?;
        fs::remove_file(path).map_err(|e| DirectoryError::io("remove", &shown, e))?;
        sync_directory(&self.path)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        let mut file = Box::new(self.start(name)?);
        file.write_all(bytes)?;
        file.finish()
    }

    fn len(&self, name: &str) -> Result<u64, DirectoryError> {
        let (path, shown) = self.file(name)?;
        Ok(fs::metadata(path).map_err(|e| DirectoryError::io("open", &shown, e))?.len())
    }
}

struct MmapNewFile {
    file: BufWriter<File>,
    position: u64,
    unfinished: Unfinished,
    path: PathBuf,
    shown: String,
    directory: PathBuf,
}

/// Removes the temporary file unless it got its name.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = self.0.take()
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(file = %path.display(), %error, "an unfinished file stays until restart");
        }
    }
}

impl NewFile for MmapNewFile {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.file.write_all(bytes).map_err(|e| DirectoryError::io("write", &self.shown, e))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DirectoryError> {
        let end = offset.saturating_add(bytes.len() as u64);
        assert!(end <= self.position, "only bytes that were appended are rewritten");
        let io = |e| DirectoryError::io("write", &self.shown, e);
        // Seeking a BufWriter flushes it first.
        self.file.seek(SeekFrom::Start(offset)).map_err(io)?;
        self.file.write_all(bytes).map_err(io)?;
        self.file.seek(SeekFrom::Start(self.position)).map_err(io)?;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<(), DirectoryError> {
        self.file.flush().map_err(|e| DirectoryError::io("write", &self.shown, e))?;
        self.file.get_ref().sync_all().map_err(|e| DirectoryError::io("sync", &self.shown, e))?;
        if let Some(unfinished) = &self.unfinished.0 {
            fs::rename(unfinished, &self.path).map_err(|e| DirectoryError::io("rename", &self.shown, e))?;
            self.unfinished.0 = None;
        }
        sync_directory(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(check: impl Fn(&dyn Directory)) {
        check(&RamDirectory::new());
        let place = tempfile::tempdir().expect("a temporary directory");
        check(&MmapDirectory::open(place.path().join("new/deep")).expect("opens"));
    }

    fn write(directory: &dyn Directory, name: &str, bytes: &[u8]) {
        let mut file = directory.create(name).expect("creates");
        file.write_all(bytes).expect("writes");
        file.finish().expect("finishes");
    }

    #[test]
    fn a_file_has_no_name_before_it_is_finished() {
        both(|directory| {
            let mut file = directory.create("a").expect("creates");
            file.write_all(b"hello").expect("writes");
            assert!(directory.is_empty().expect("lists"));
            assert!(matches!(directory.open("a"), Err(DirectoryError::Missing(_))));
            file.finish().expect("finishes");
            assert_eq!(directory.list().expect("lists"), ["a"]);
            assert_eq!(&**directory.open("a").expect("opens"), b"hello");
        });
    }

    #[test]
    fn a_file_that_is_dropped_never_existed() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let directory = MmapDirectory::open(place.path()).expect("opens");
        let mut file = directory.create("a").expect("creates");
        file.write_all(b"hello").expect("writes");
        drop(file);
        assert_eq!(fs::read_dir(place.path()).expect("lists").count(), 0);
    }

    #[test]
    fn what_a_crash_left_unfinished_is_removed_at_opening() {
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::write(place.path().join("a.tmp"), b"half").expect("writes");
        fs::write(place.path().join("b"), b"whole").expect("writes");
        let directory = MmapDirectory::open(place.path()).expect("opens");
        assert_eq!(directory.list().expect("lists"), ["b"]);
        assert!(!place.path().join("a.tmp").exists());
    }

    #[test]
    fn a_file_is_written_once() {
        both(|directory| {
            write(directory, "a", b"1");
            assert!(matches!(directory.create("a"), Err(DirectoryError::Exists(_))));
        });
    }

    #[test]
    fn a_header_can_be_written_last() {
        both(|directory| {
            let mut file = directory.create("a").expect("creates");
            file.write_all(b"....body").expect("writes");
            file.rewrite(0, b"head").expect("rewrites");
            file.write_all(b"tail").expect("writes");
            assert_eq!(file.position(), 12);
            file.finish().expect("finishes");
            assert_eq!(directory.read("a", 100).expect("reads"), b"headbodytail");
        });
    }

    #[test]
    fn replacing_is_whole_and_leaves_mappings_alone() {
        both(|directory| {
            directory.replace("a", b"old").expect("replaces");
            let old = directory.open("a").expect("opens");
            directory.replace("a", b"newer").expect("replaces");
            assert_eq!(&**old, b"old");
            assert_eq!(directory.read("a", 5).expect("reads"), b"newer");
            assert_eq!(directory.len("a").expect("has a length"), 5);
        });
    }

    #[test]
    fn a_mapping_outlives_the_name() {
        both(|directory| {
            write(directory, "a", b"hello");
            let held = directory.open("a").expect("opens");
            directory.remove("a").expect("removes");
            assert_eq!(&**held, b"hello");
            assert!(matches!(directory.remove("a"), Err(DirectoryError::Missing(_))));
        });
    }

    #[test]
    fn reading_is_bounded() {
        both(|directory| {
            write(directory, "a", b"hello");
            write(directory, "empty", b"");
            assert!(matches!(directory.read("a", 4), Err(DirectoryError::TooLarge { .. })));
            assert!(matches!(directory.open("empty"), Err(DirectoryError::Empty(_))));
            let mut seen: Vec<u8> = Vec::new();
            directory.read_range("a", 1..4, &mut |part| seen.extend(part)).expect("reads");
            assert_eq!(seen, b"ell");
            let short = directory.read_range("a", 1..6, &mut |_| {});
            assert!(matches!(short, Err(DirectoryError::Short { .. })));
        });
    }

    #[test]
    fn long_ranges_come_in_steps_and_in_order() {
        both(|directory| {
            let bytes: Vec<u8> = (0..READ_STEP_BYTES * 2 + 17).map(|i| (i % 251) as u8).collect();
            write(directory, "a", &bytes);
            let mut seen = Vec::new();
            let each = &mut |part: &[u8]| {
                assert!(part.len() <= READ_STEP_BYTES);
                seen.extend_from_slice(part);
            };
            directory.read_range("a", 3..bytes.len() as u64, each).expect("reads");
            assert!(seen == bytes[3..]);
        });
    }

    #[test]
    fn names_cannot_leave_the_directory() {
        both(|directory| {
            for name in ["", ".", "..", "a/b", "/a", "..\\a", ".hidden", "a.tmp", "a\0", "\u{e9}"] {
                assert!(matches!(directory.create(name), Err(DirectoryError::Name(_))), "{name:?}");
                assert!(matches!(directory.open(name), Err(DirectoryError::Name(_))), "{name:?}");
            }
        });
    }

    #[test]
    fn the_test_disk_fails_when_told_and_only_then() {
        let directory = RamDirectory::new();
        directory.fail_write(1, Fault::Full);
        let mut file = directory.create("a").expect("creates");
        file.write_all(b"1").expect("the first write is well");
        assert!(matches!(file.write_all(b"2"), Err(DirectoryError::Full(_))));
        drop(file);
        directory.fail_sync(0, Fault::Broken);
        let broken = directory.replace("b", b"x");
        assert!(matches!(broken, Err(DirectoryError::Io { .. })));
        directory.set_space(Some(3));
        assert!(matches!(directory.replace("b", b"four"), Err(DirectoryError::Full(_))));
        directory.set_space(None);
        directory.replace("b", b"four").expect("there is space again");
        assert_eq!(directory.list().expect("lists"), ["b"]);
    }
}
