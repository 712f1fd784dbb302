//! Shards that write to one log at the same time, and what is made ready for them.

use std::io;

use bytes::Bytes;
use loci_raft::{
    Change, Entry, EntryKind, FOUNDING_INDEX, FOUNDING_TERM, LogIndex, LogOptions, MemberId, Members, Replica,
    ReplicaOptions, founding,
};

use super::*;

const SHARDS: u32 = 3;
const ENTRIES: usize = 150;
const FILE_BYTES: u64 = 16 * HERE_BYTES_MAX;

/// What is in an entry: short, but for some that are too large to be synced where they are made.
fn data(shard: u32, number: usize) -> Vec<u8> {
    let bytes = if number.is_multiple_of(11) { 3 * HERE_BYTES_MAX as usize / 2 } else { 40 + number };
    (0..bytes).map(|at| (at + number * 7 + shard as usize) as u8).collect()
}

/// Writes entries as the only member of a shard; where they stand, and how often each way was taken.
fn write(shard: u32, opened: OpenedShard, reports: &Receiver<Report>) -> (Vec<LogIndex>, [usize; 2]) {
    let OpenedShard { state, reader, handle } = opened;
    let options =
        ReplicaOptions { shard: ShardId(shard), me: MemberId(1), applied: FOUNDING_INDEX, seed: shard.into() };
    let mut replica = Replica::restore(options, &state, reader).unwrap();
    let (mut places, mut ways) = (Vec::new(), [0; 2]);
    for number in 0..ENTRIES {
        places.push(replica.propose(data(shard, number)).unwrap().index);
        let mut waits_for = None;
        while replica.applied_index() < places[number] {
            let effects = replica.effects().unwrap();
            if !effects.append.is_empty() || effects.sync.is_some() {
                let size = |append: &Append| match &append.change {
                    Change::Entry(entry) => entry.data.len() as u64 + 128,
                    _ => 128,
                };
                let bytes = effects.append.iter().map(size).sum();
                let safety = if number % 3 == 0 { Safety::Written } else { Safety::Synced };
                let here = handle.append(effects.append, bytes, effects.sync, safety, number % 5 != 0);
                ways[usize::from(here)] += 1;
                if let Some(mark) = effects.sync {
                    if here { replica.synced(mark) } else { waits_for = Some(mark) }
                }
            } else if let Some(mark) = waits_for {
                while let Ok(report) = reports.recv_timeout(Duration::from_secs(30)) {
                    if report == Report::Synced(mark) {
                        replica.synced(mark);
                        waits_for = None;
                        break;
                    }
                }
                assert_eq!(waits_for, None, "shard {shard} is told that entry {number} is safe");
            }
            for committed in effects.committed {
                replica.applied(committed.index);
            }
        }
    }
    (places, ways)
}

#[test]
fn the_next_file_is_made_ready_whenever_there_is_none_and_nobody_asks() {
    let directory = tempfile::tempdir().unwrap();
    let options = LogOptions { file_bytes: FILE_BYTES, secret: 7 };
    let (log, _) = Log::open(FileDisk::open(directory.path()).unwrap(), options).unwrap();
    let figures = Arc::new(LogFigures::default());
    let (thread, _, opener) = LogThread::start(log, directory.path().into(), Arc::clone(&figures), Vec::new()).unwrap();
    let members = Arc::new(Members::voting([MemberId(1)]).unwrap());
    let begin: Begin = Box::new(move |_| founding(ShardId(1), &members));
    let (sender, reports) = channel();
    let listener: Listener = Box::new(move |report| {
        // The test may have heard all it waits for.
        let _ = sender.send(report);
    });
    let opened = opener.open(ShardId(1), listener, begin).unwrap().unwrap();
    let is_ready = || {
        let waited = (0..1_000).find(|_| {
            std::thread::sleep(Duration::from_millis(10));
            figures.stats().spares >= 1
        });
        waited.is_some()
    };
    assert!(is_ready(), "of a new log: {:?}", figures.stats());
    let files = figures.stats().files;
    write(1, opened, &reports);
    assert!(is_ready(), "after others were used: {:?}", figures.stats());
    assert!(figures.stats().files > files);
    drop(opener);
    thread.close().unwrap();
}

/// Whoever needs a file takes the spare that is on its way, and makes another only where that could not be made.
#[test]
fn an_append_takes_the_spare_that_is_on_its_way() {
    for could_be_made in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let options = LogOptions { file_bytes: 4096, secret: 7 };
        let (mut log, _) = Log::open(FileDisk::open(directory.path()).unwrap(), options).unwrap();
        log.append(&founding(ShardId(1), &Arc::new(Members::voting([MemberId(1)]).unwrap()))).unwrap();
        let (written, _first) = channel();
        let (wanted, _asked) = channel();
        let (made, made_spares) = channel();
        let figures = Arc::new(LogFigures::default());
        let path = directory.path().into();
        let mut owner = Owner::new(log, path, figures, Vec::new(), written, (wanted, made_spares));
        let making = owner.begin_spare().expect("there is none");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let result = if could_be_made { making.run() } else { Err(full()) };
        made.send((making, result)).unwrap();
        for index in 6..8 {
            let (kind, context, data) = (EntryKind::Normal, Bytes::new(), vec![7; 2500].into());
            let entry = Entry { index: LogIndex(index), term: FOUNDING_TERM, kind, context, data };
            let batch = [Append { shard: ShardId(1), change: Change::Entry(entry) }];
            owner.append(&batch, 2600, &mut Vec::new());
        }
        let stats = owner.log.stats();
        assert_eq!((stats.files, stats.spares), (2, 0), "the spare became the second file: {stats:?}");
        let names: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing is left of another: {names:?}");
    }
}

#[test]
fn shards_that_sync_by_themselves_and_by_the_thread_find_all_of_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let open =
        || Log::open(FileDisk::open(directory.path()).unwrap(), LogOptions { file_bytes: FILE_BYTES, secret: 7 });
    let (log, _) = open().unwrap();
    let figures = Arc::new(LogFigures::default());
    let (thread, _, opener) = LogThread::start(log, directory.path().into(), figures, Vec::new()).unwrap();
    let writing: Vec<_> = (1..=SHARDS)
        .map(|shard| {
            let (sender, reports) = channel();
            let members = Arc::new(Members::voting([MemberId(1)]).unwrap());
            let begin: Begin = Box::new(move |_| founding(ShardId(shard), &members));
            let listener: Listener = Box::new(move |report| {
                // The test may have heard all it waits for.
                let _ = sender.send(report);
            });
            let opened = opener.open(ShardId(shard), listener, begin).unwrap().unwrap();
            std::thread::spawn(move || write(shard, opened, &reports))
        })
        .collect();
    let written: Vec<_> = writing.into_iter().map(|writing| writing.join().unwrap()).collect();
    drop(opener);
    thread.close().unwrap();
    let ways = written.iter().fold([0; 2], |sum, (_, ways)| [sum[0] + ways[0], sum[1] + ways[1]]);
    assert!(ways[0] > 0 && ways[1] > 0, "both ways are taken: {ways:?}");

    let (log, _) = open().unwrap();
    for (shard, (places, _)) in (1..).zip(written) {
        let reader = log.reader(ShardId(shard)).unwrap();
        for (number, place) in places.iter().enumerate() {
            assert_eq!(reader.read(*place).unwrap().data, data(shard, number), "shard {shard}, entry {number}");
        }
    }
}
