//! A file that changes on the disk while the store is open: noticed, spread by nothing, and mended where memory can.

use std::ops::Range;
use std::sync::atomic::Ordering;

use super::*;
use crate::command::Execution;
use crate::directory::{Directory, DirectoryError, Mapped, Named, NewFile};
use crate::segment::SegmentError;
use crate::store::{JobError, JobKind, MANIFEST_FILE, Remedy, StoreError, check_file, check_file_twice, named_files};
use crate::table::call::Packed;

/// A shard with segments, ends, requests and a table on its disk, and more than one segment to merge.
fn shard() -> (Shard, u64) {
    let mut shard = Shard::new(StoreOptions { graph_rows_min: 1_000, ..small() });
    let c = shard.collection("c", 1);
    for round in 0..3u64 {
        let changes = (0..20).map(|i| {
            let content = Content { embeddings: vec![(0, vec![i as f32, round as f32, 0.0, 1.0])], ..value("text") };
            change(c, &format!("k{}", i + round * 13), Action::Put(content))
        });
        shard.entry(round, vec![request(format!("r{round}").as_bytes(), write(changes.collect()))]);
        let mut calls = Packed::new();
        calls.push(0, [&b"SET"[..], b"typed", format!("{round}").as_bytes()].into_iter());
        let execution = Execution { collections: vec![c], calls: calls.into_bytes(), ..Execution::default() };
        shard.command(Command::Execute(execution.into()));
        checkpoint(&mut shard);
    }
    shard.command(write(vec![delete(c, "k1")]));
    checkpoint(&mut shard);
    (shard, c)
}

/// One checkpoint, and no merge.
fn checkpoint(shard: &mut Shard) {
    shard.store.request_checkpoint();
    let job = shard.store.next_job().expect("something has changed");
    assert_eq!(job.kind(), JobKind::Checkpoint);
    let done = shard.run(job);
    assert!(shard.store.install(done).error.is_none());
}

fn check(directory: &RamDirectory, name: &str) -> Result<bool, StoreError> {
    check_file(&Named { directory, name }, &mut |_| true)
}

fn of_kind(shard: &Shard, kind: &str) -> Vec<String> {
    let files = named_files(&shard.directory).unwrap();
    files.into_iter().filter(|name| name.starts_with(kind)).collect()
}

#[test]
fn every_flipped_bit_of_every_file_is_noticed() {
    let (shard, _) = shard();
    let mut random = Random::new(1);
    for kind in [MANIFEST_FILE, "segment", "ends", "requests", "table"] {
        let name = of_kind(&shard, kind).remove(0);
        assert!(check(&shard.directory, &name).unwrap(), "{name} is sound");
        let whole = shard.directory.bytes(&name).unwrap();
        for _ in 0..2_000 {
            let bit = random.below(whole.len() as u64 * 8) as usize;
            shard.directory.flip(&name, bit);
            let error = check(&shard.directory, &name).expect_err("a flipped bit");
            assert!(error.to_string().contains(&name), "{error}");
            shard.directory.put(&name, &whole);
        }
        shard.directory.put(&name, &whole[..whole.len() - 1]);
        assert!(check(&shard.directory, &name).is_err(), "{name} is cut");
        shard.directory.put(&name, &whole);
        assert!(!check_file(&Named { directory: &shard.directory, name: &name }, &mut |_| false).unwrap());
    }
}

/// Segments of which one is damaged are merged as they would be at rest, or linked anew.
fn merged(relink: bool) {
    let (mut shard, c) = shard();
    let expected = shard.store.digest();
    let names = of_kind(&shard, "segment");
    assert!(names.len() >= 2);
    // The oldest, of which much has ended.
    let name = names.last().unwrap().clone();
    let whole = shard.directory.bytes(&name).unwrap();
    let value = whole.windows(4).position(|window| window == b"text").unwrap();
    shard.directory.flip(&name, value * 8);
    let files = shard.files();
    if relink {
        shard.store.request_relink(u64::from_str_radix(&name["segment-".len()..], 16).unwrap());
    } else {
        shard.store.rest();
    }
    let job = shard.store.next_job().expect("there is something to merge");
    assert_eq!(job.kind(), JobKind::Merge);
    let done = shard.run(job);
    let error = shard.store.install(done).error.expect("the merge comes to nothing");
    match &error {
        JobError::Damaged { file, error: SegmentError::Corrupt { offset, .. } } => {
            assert_eq!(*file, name);
            assert!(*offset <= value as u64 && *offset > 0);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((shard.files(), shard.store.digest()), (files, expected), "nothing was replaced");
    // It is left out from now on, and the others are merged.
    shard.entry(10_000, vec![envelope(write(vec![put(c, "later", "text")]))]);
    let expected = shard.store.digest();
    for _ in 0..3 {
        shard.store.rest();
        assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    }
    assert!(of_kind(&shard, "segment").contains(&name));
    assert_eq!(shard.store.digest(), expected);
    let reopened = Store::open(Arc::new(shard.directory.clone()), small());
    assert!(matches!(reopened, Err(StoreError::Segment(SegmentError::Corrupt { .. }))), "it is as damaged as before");
    // Once nothing of it lives any more it goes.
    let keys: Vec<String> = (0..60).map(|i| format!("k{i}")).collect();
    shard.entry(20_000, vec![envelope(write(keys.iter().map(|key| delete(c, key)).collect()))]);
    assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    assert!(!shard.files().contains(&name));
    shard.restart();
}

#[test]
fn a_merge_makes_no_damage_permanent_and_is_not_tried_again_with_the_damaged() {
    merged(false);
    merged(true);
}

/// A directory of which some readings of one file are wrong.
struct Misreading {
    inner: RamDirectory,
    file: String,
    bit: usize,
    /// So many of the next are.
    wrong: std::sync::atomic::AtomicU32,
}

impl Directory for Misreading {
    fn create(&self, name: &str) -> Result<Box<dyn NewFile>, DirectoryError> {
        self.inner.create(name)
    }

    fn open(&self, name: &str) -> Result<Arc<Mapped>, DirectoryError> {
        self.inner.open(name)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DirectoryError> {
        self.inner.read(name, bytes_max)
    }

    fn read_range(&self, name: &str, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        let (bit, has) = (self.bit, range.contains(&(self.bit as u64 / 8)));
        let wrong =
            || self.wrong.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        let flips = name == self.file && has && wrong();
        let mut at = range.start as usize;
        self.inner.read_range(name, range, &mut |part| {
            let mut part = part.to_vec();
            if flips && let Some(byte) = (bit / 8).checked_sub(at).and_then(|at| part.get_mut(at)) {
                *byte ^= 1 << (bit % 8);
            }
            at += part.len();
            each(&part);
        })
    }

    fn list(&self) -> Result<Vec<String>, DirectoryError> {
        self.inner.list()
    }

    fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        self.inner.remove(name)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.inner.replace(name, bytes)
    }

    fn len(&self, name: &str) -> Result<u64, DirectoryError> {
        self.inner.len(name)
    }
}

#[test]
fn one_wrong_reading_is_not_damage_and_two_can_be_taken_back() {
    for wrong in [1, 2] {
        let (mut shard, _) = shard();
        let expected = shard.store.digest();
        let file = of_kind(&shard, "segment").pop().unwrap();
        let whole = shard.directory.bytes(&file).unwrap();
        let bit = 8 * whole.windows(4).position(|window| window == b"text").unwrap();
        let misreading = Misreading { inner: shard.directory.clone(), file: file.clone(), bit, wrong: wrong.into() };
        let merge = |shard: &mut Shard| {
            shard.store.rest();
            let job = shard.store.next_job().expect("there is something to merge");
            assert_eq!(job.kind(), JobKind::Merge);
            let done = job.run(&misreading, &AtomicBool::new(false));
            shard.store.install(done).error
        };
        let files = shard.files();
        match merge(&mut shard).expect("nothing comes of it") {
            JobError::Misread { file: read, .. } if wrong == 1 => assert_eq!(read, file),
            JobError::Damaged { file: read, .. } if wrong == 2 => {
                assert_eq!(read, file);
                assert_eq!(shard.store.note_damage(&file), Remedy::Elsewhere);
                shard.store.note_sound(&file);
            }
            other => panic!("{wrong} readings are wrong: {other}"),
        }
        assert_eq!(shard.files(), files, "nothing was replaced");
        // As it is tried again where nobody writes.
        shard.store.request_checkpoint();
        assert!(merge(&mut shard).is_none(), "it is read right, and merged");
        checkpoint(&mut shard);
        assert!(!shard.files().contains(&file));
        assert_eq!(shard.store.digest(), expected);
        shard.restart();
    }
    let (shard, _) = shard();
    let file = of_kind(&shard, "segment").remove(0);
    for (wrong, expected) in [(0, Some(true)), (1, Some(true)), (2, None)] {
        let directory =
            Misreading { inner: shard.directory.clone(), file: file.clone(), bit: 9_000, wrong: wrong.into() };
        let mut told = 0;
        let checked = check_file_twice(&Named { directory: &directory, name: &file }, &mut |_| true, |_| told += 1);
        assert_eq!((checked.ok(), told), (expected, u32::from(wrong > 0)), "{wrong} readings are wrong");
    }
}

#[test]
fn what_memory_has_is_written_anew() {
    for kind in ["ends", "requests", "table", MANIFEST_FILE] {
        let (mut shard, _) = shard();
        let expected = shard.store.digest();
        let name = of_kind(&shard, kind).remove(0);
        shard.directory.flip(&name, 333);
        assert!(check(&shard.directory, &name).is_err());
        assert_eq!(shard.store.note_damage(&name), Remedy::Renewed);
        checkpoint(&mut shard);
        for name in named_files(&shard.directory).unwrap() {
            assert!(check(&shard.directory, &name).unwrap(), "{kind}: {name}");
        }
        assert_eq!(shard.files().contains(&name), kind == MANIFEST_FILE, "{kind}");
        shard.restart();
        assert_eq!(shard.store.digest(), expected, "{kind}");
    }
    let (mut shard, _) = shard();
    for name in ["segment-00000000000000ff", "SNAPSHOT", "x"] {
        assert_eq!(shard.store.note_damage(name), Remedy::NotNeeded, "{name}");
    }
    let name = of_kind(&shard, "segment").remove(0);
    assert_eq!(shard.store.note_damage(&name), Remedy::Elsewhere);
}

#[test]
fn a_damaged_segment_that_was_merged_away_is_gone_with_the_next_manifest() {
    let (mut shard, _) = shard();
    let expected = shard.store.digest();
    shard.store.rest();
    let job = shard.store.next_job().expect("there is something to merge");
    assert_eq!(job.kind(), JobKind::Merge);
    let file = job.sources().remove(0);
    let done = job.run(&shard.directory, &AtomicBool::new(false));
    assert!(shard.store.install(done).error.is_none());
    assert!(named_files(&shard.directory).unwrap().contains(&file), "nothing has replaced the manifest");
    shard.directory.flip(&file, 333);
    assert_eq!(shard.store.note_damage(&file), Remedy::Renewed);
    checkpoint(&mut shard);
    assert!(!shard.files().contains(&file));
    shard.restart();
    assert_eq!(shard.store.digest(), expected);
}

#[test]
fn a_newer_file_and_a_full_disk_are_not_damage() {
    assert!(StoreError::Missing.is_damage());
    assert!(StoreError::Damaged { file: "f".into(), offset: 0, what: String::new() }.is_damage());
    assert!(StoreError::Directory(DirectoryError::Missing("f".into())).is_damage());
    assert!(!StoreError::NewerVersion { file: "f".into(), version: 9, known: 1 }.is_damage());
    assert!(!StoreError::Directory(DirectoryError::Full("f".into())).is_damage());
    assert!(!StoreError::Segment(SegmentError::UnknownVersion { file: "f".into(), version: 9 }).is_damage());
}
