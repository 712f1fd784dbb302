//! Appending to the log with one sync per batch, beside what the disk does by itself: a write and a sync of the same
//! bytes into a file written before.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

use loci_raft::{
    Append, Change, Entry, EntryKind, FileDisk, Log, LogIndex, LogOptions, MemberId, Members, ShardId, Term,
};

const RECORD_BYTES: usize = 256;
const SHARD: ShardId = ShardId(1);

fn log(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    group.sample_size(20);
    for batch in [1, 16, 256] {
        group.throughput(Throughput::Elements(batch));
        let folder = tempfile::tempdir().expect("a temporary directory");
        let disk = FileDisk::open(folder.path()).expect("it can be opened");
        let (mut log, _) = Log::open(disk, LogOptions::default()).expect("an empty directory is an empty log");
        let start = LogIndex(5);
        let members = Arc::new(Members::voting([MemberId(1)]).expect("one member is a group"));
        let founding = Append { shard: SHARD, change: Change::Start { index: start, term: Term(5), members } };
        log.append(&[founding]).expect("it has room");
        let mut last = start;
        group.bench_function(BenchmarkId::new("append and sync", batch), |bench| {
            bench.iter(|| {
                let entries: Vec<_> = (0..batch)
                    .map(|_| {
                        last = last.next();
                        let data = vec![7; RECORD_BYTES].into();
                        let entry = Entry {
                            index: last,
                            term: Term(5),
                            kind: EntryKind::Normal,
                            data,
                            context: Vec::new().into(),
                        };
                        Append { shard: SHARD, change: Change::Entry(entry) }
                    })
                    .collect();
                log.append(&entries).and_then(|()| log.write()).and_then(|()| log.sync()).expect("the disk works");
                if last.0.is_multiple_of(100_000) {
                    log.forget(SHARD, last).expect("the disk works");
                }
            });
        });
        let path = folder.path().join("bare");
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).expect("it can be made");
        let bytes = vec![7; RECORD_BYTES * batch as usize];
        file.write_all_at(&vec![0; 64 << 20], 0).and_then(|()| file.sync_all()).expect("the disk has room");
        let mut at = 0;
        group.bench_function(BenchmarkId::new("bare write and sync", batch), |bench| {
            bench.iter(|| {
                file.write_all_at(black_box(&bytes), at).and_then(|()| file.sync_data()).expect("the disk works");
                at = (at + bytes.len() as u64) % (60 << 20);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, log);
criterion_main!(benches);
