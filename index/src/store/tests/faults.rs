//! A disk that fails or is full leaves the store whole, in memory and on the disk.

use std::ops::Range;

use super::*;
use crate::directory::{Directory, DirectoryError, Fault, Mapped, NewFile};
use crate::store::JobKind;

/// A shard with something to checkpoint and, where asked, to merge.
fn shard() -> (Shard, u64) {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 1);
    for round in 0..5 {
        let changes = (0..20).map(|i| {
            let content = Content { embeddings: vec![(0, vec![i as f32, round as f32, 0.0, 1.0])], ..value("x") };
            change(c, &format!("k{}", (i + round * 13) % 70), Action::Put(content))
        });
        let id = format!("r{round}");
        shard.entry(round, vec![request(id.as_bytes(), write(changes.collect()))]);
        if round < 4 {
            shard.store.request_checkpoint();
            let job = shard.store.next_job().unwrap();
            let done = shard.run(job);
            assert!(shard.store.install(done).error.is_none());
        }
    }
    shard.command(write(vec![delete(c, "k1"), put(c, "k200", "y")]));
    shard.store.request_checkpoint();
    (shard, c)
}

fn digest(shard: &Shard) -> [u8; 32] {
    let digest = shard.store.digest();
    assert_eq!(digest, shard.store.digest_from_records());
    digest
}

/// Runs the next job of that kind on a disk that was made to fail. False: it did not come to that.
fn check(kind: JobKind, restart: bool, fail: &dyn Fn(&RamDirectory)) -> bool {
    let (mut shard, c) = shard();
    let expected = digest(&shard);
    let mut jobs: Vec<Job> = std::iter::from_fn(|| shard.store.next_job()).collect();
    jobs.sort_by_key(|job| job.kind() != kind);
    assert_eq!(jobs[0].kind(), kind);
    fail(&shard.directory);
    let done = shard.run(jobs.remove(0));
    let installed = shard.store.install(done);
    let failed = installed.error.is_some();
    assert_eq!(installed.forget_up_to.is_some(), kind == JobKind::Checkpoint && !failed);
    assert_eq!(digest(&shard), expected);
    for job in jobs {
        let done = shard.run(job);
        let _ = shard.store.install(done);
    }
    assert_eq!(digest(&shard), expected);

    // The one that went on goes on, and what is on the disk opens and the log brings the rest.
    if restart {
        shard.restart();
        assert_eq!(digest(&shard), expected);
    }
    shard.command(write(vec![put(c, "later", "z")]));
    let expected = digest(&shard);
    // A fault that was not met before may be met now, once.
    shard.checkpoint();
    assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    assert_eq!(digest(&shard), expected);
    let reopened = Store::open(Arc::new(shard.directory.clone()), small()).unwrap();
    assert_eq!((reopened.applied(), reopened.digest()), (shard.log.len() as u64, expected));
    failed
}

#[test]
fn every_failed_write_and_sync_leaves_the_store_whole() {
    for kind in [JobKind::Checkpoint, JobKind::Merge] {
        for fault in [Fault::Full, Fault::Broken] {
            for restart in [false, true] {
                let failed = |fail: &dyn Fn(&RamDirectory)| check(kind, restart, fail);
                let writes = (0..).take_while(|&nth| failed(&|directory| directory.fail_write(nth, fault))).count();
                let syncs = (0..).take_while(|&nth| failed(&|directory| directory.fail_sync(nth, fault))).count();
                assert!(writes > 3 && syncs > 0, "{kind:?} {fault:?}: {writes} writes, {syncs} syncs");
            }
        }
    }
}

#[test]
fn a_store_goes_on_through_a_full_disk_and_catches_up_when_there_is_room() {
    let (mut shard, c) = shard();
    shard.directory.set_space(Some(100));
    for round in 0..6u64 {
        let mut failed = 0;
        while let Some(job) = shard.store.next_job() {
            let done = shard.run(job);
            failed += usize::from(shard.store.install(done).error.is_some());
            assert!(failed < 3, "a failing job waits for the clock");
        }
        let changes = (0..40).map(|i| put(c, &format!("full{round}-{i}"), "x"));
        shard.entry(10_000 * (round + 1), vec![envelope(write(changes.collect()))]);
        digest(&shard);
    }
    let expected = digest(&shard);
    let files = shard.files();
    shard.directory.set_space(None);
    assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    assert_eq!(digest(&shard), expected);
    assert_ne!(shard.files(), files);
    let stats = shard.store.view().stats();
    assert!(stats.segments <= 4, "{stats:?}");
    shard.restart();
    assert_eq!(shard.store.applied(), shard.log.len() as u64);
    assert_eq!(digest(&shard), expected);
}

#[test]
fn a_cancelled_job_leaves_no_file_and_keeps_no_checkpoint_waiting() {
    let (mut shard, _) = shard();
    let files = shard.files();
    let jobs: Vec<Job> = std::iter::from_fn(|| shard.store.next_job()).collect();
    assert_eq!(jobs.iter().map(Job::kind).collect::<Vec<_>>(), [JobKind::Checkpoint, JobKind::Merge]);
    for job in jobs {
        let done = job.run(&shard.directory, &AtomicBool::new(true));
        assert!(shard.store.install(done).error.is_some());
    }
    assert_eq!(shard.files(), files);
    // A stop cancels the merge under way, and what earlier merges built must still get into the manifest.
    assert_eq!(shard.store.next_job().map(|job| job.kind()), Some(JobKind::Checkpoint));
}

/// A directory that replaces a file and then says that it failed, as one does whose last sync fails.
struct Uncertain(RamDirectory);

impl Directory for Uncertain {
    fn create(&self, name: &str) -> Result<Box<dyn NewFile>, DirectoryError> {
        self.0.create(name)
    }

    fn open(&self, name: &str) -> Result<Arc<Mapped>, DirectoryError> {
        self.0.open(name)
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, DirectoryError> {
        self.0.read(name, bytes_max)
    }

    fn read_range(&self, name: &str, range: Range<u64>, each: &mut dyn FnMut(&[u8])) -> Result<(), DirectoryError> {
        self.0.read_range(name, range, each)
    }

    fn list(&self) -> Result<Vec<String>, DirectoryError> {
        self.0.list()
    }

    fn remove(&self, name: &str) -> Result<(), DirectoryError> {
        self.0.remove(name)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DirectoryError> {
        self.0.replace(name, bytes)?;
        Err(DirectoryError::Full(name.into()))
    }

    fn len(&self, name: &str) -> Result<u64, DirectoryError> {
        self.0.len(name)
    }
}

#[test]
fn a_manifest_that_was_replaced_though_it_was_said_to_have_failed_is_whole() {
    let (mut shard, c) = shard();
    let expected = digest(&shard);
    let applied = shard.store.applied();
    let job = shard.store.next_job().unwrap();
    let done = job.run(&Uncertain(shard.directory.clone()), &AtomicBool::new(false));
    let installed = shard.store.install(done);
    assert!(installed.error.is_some() && installed.forget_up_to.is_none());
    let reopened = Store::open(Arc::new(shard.directory.clone()), small()).unwrap();
    assert_eq!((reopened.applied(), reopened.digest()), (applied, expected), "the new manifest holds");

    // And the store that was told so goes on.
    shard.command(write(vec![put(c, "later", "z")]));
    let expected = digest(&shard);
    assert!(shard.checkpoint().iter().all(|installed| installed.error.is_none()));
    let reopened = Store::open(Arc::new(shard.directory.clone()), small()).unwrap();
    assert_eq!(reopened.digest(), expected);
    let segments = shard.store.view().stats().segments as usize;
    let files = shard.files();
    assert_eq!(files.iter().filter(|file| file.starts_with("segment-")).count(), segments, "{files:?}");
}
