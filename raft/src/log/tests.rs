//! The log against everything a disk can do to it, with a plain model of what it should hold.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;

use super::*;
use crate::chance::Chance;
use crate::disk::{FileDisk, MemoryDisk};
use crate::entry::{Entry, EntryKind, HardState, MemberId, Term};

pub(super) const OPTIONS: LogOptions = LogOptions { file_bytes: 4096, secret: 0x5eed };
const ONE: ShardId = ShardId(1);
const TWO: ShardId = ShardId(2);

pub(super) fn members(voters: &[u64]) -> Arc<Members> {
    Arc::new(Members::voting(voters.iter().map(|voter| MemberId(*voter))).unwrap())
}

pub(super) fn start(shard: ShardId, index: u64, term: u64) -> Append {
    let (index, term) = (LogIndex(index), Term(term));
    Append { shard, change: Change::Start { index, term, members: members(&[1, 2, 3]) } }
}

pub(super) fn entry(shard: ShardId, index: u64, term: u64, data: &[u8]) -> Append {
    let entry = Entry {
        index: LogIndex(index),
        term: Term(term),
        kind: EntryKind::Normal,
        context: Bytes::new(),
        data: Bytes::copy_from_slice(data),
    };
    Append { shard, change: Change::Entry(entry) }
}

/// An entry that leads to other members.
pub(super) fn change(shard: ShardId, index: u64, term: u64, voters: &[u64]) -> Append {
    let Append { change, .. } = entry(shard, index, term, &members(voters).to_bytes());
    let Change::Entry(entry) = change else { unreachable!("an entry was asked for") };
    Append { shard, change: Change::Entry(Entry { kind: EntryKind::Members, ..entry }) }
}

pub(super) fn rebase(shard: ShardId, up_to: u64, term: u64, voters: &[u64]) -> Append {
    let (up_to, term) = (LogIndex(up_to), Term(term));
    Append { shard, change: Change::Rebase { up_to, term, members: members(voters) } }
}

pub(super) fn hard_state(shard: ShardId, term: u64, vote: u64, commit: u64) -> Append {
    let state = HardState { term: Term(term), vote: Some(MemberId(vote)), commit: LogIndex(commit) };
    Append { shard, change: Change::HardState(state) }
}

pub(super) fn forget(shard: ShardId, up_to: u64, term: u64) -> Append {
    Append { shard, change: Change::Forget { up_to: LogIndex(up_to), term: Term(term) } }
}

/// What a shard's log should hold, kept the obvious way.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelShard {
    pub(super) start: (LogIndex, Term),
    pub(super) hard_state: HardState,
    pub(super) members: Arc<Members>,
    pub(super) entries: BTreeMap<LogIndex, Entry>,
}

pub(super) type Model = BTreeMap<ShardId, ModelShard>;

pub(super) fn follow(model: &mut Model, append: &Append) {
    if let Change::Start { index, term, members } = &append.change {
        let before = model.get(&append.shard).map(|shard| shard.hard_state);
        let shard = ModelShard {
            start: (*index, *term),
            hard_state: before.unwrap_or_default(),
            members: Arc::clone(members),
            entries: BTreeMap::new(),
        };
        model.insert(append.shard, shard);
        return;
    }
    let shard = model.get_mut(&append.shard).unwrap();
    match &append.change {
        Change::Start { .. } => {}
        Change::Entry(entry) => {
            shard.entries.split_off(&entry.index);
            shard.entries.insert(entry.index, entry.clone());
        }
        Change::HardState(state) => shard.hard_state = *state,
        Change::Members(members) => shard.members = Arc::clone(members),
        Change::Forget { up_to, term } | Change::Rebase { up_to, term, .. } => {
            shard.start = (*up_to, *term);
            shard.entries = shard.entries.split_off(&up_to.next());
            if let Change::Rebase { members, .. } = &append.change {
                shard.members = Arc::clone(members);
            }
        }
    }
}

fn model_of(appends: &[Append]) -> Model {
    let mut model = Model::new();
    appends.iter().for_each(|append| follow(&mut model, append));
    model
}

/// Everything that can be read from a log, with every entry read from the disk.
pub(super) fn contents<D: Disk>(log: &Log<D>) -> Model {
    let mut model = Model::new();
    for shard in log.shards.keys() {
        let (Some(state), Some(reader)) = (log.shard(*shard), log.reader(*shard)) else {
            continue;
        };
        assert_eq!((reader.start(), reader.last()), (state.start, state.last));
        let indexes = (state.start.0 + 1..=state.last.0).map(LogIndex);
        let entries: BTreeMap<_, _> = indexes.map(|index| (index, reader.read(index).unwrap())).collect();
        let mut terms: Vec<(LogIndex, Term)> = Vec::new();
        for entry in entries.values() {
            assert_eq!(reader.term(entry.index), Some(entry.term));
            if terms.last().is_none_or(|(_, term)| *term != entry.term) {
                terms.push((entry.index, entry.term));
            }
        }
        assert_eq!(terms, state.terms);
        let changes = entries.values().filter(|entry| entry.kind == EntryKind::Members);
        assert_eq!(changes.map(|entry| entry.index).collect::<Vec<_>>(), state.changes);
        let shard_model = ModelShard {
            start: (state.start, state.start_term),
            hard_state: state.hard_state,
            members: state.members,
            entries,
        };
        model.insert(*shard, shard_model);
    }
    model
}

pub(super) fn open(disk: &MemoryDisk) -> (Log<MemoryDisk>, Recovered) {
    Log::open(disk.clone(), OPTIONS).unwrap()
}

fn log_with(appends: &[Append]) -> (MemoryDisk, Log<MemoryDisk>) {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    log.append(appends).unwrap();
    log.sync().unwrap();
    (disk, log)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks bytes from `at` on, one golden frame after the other; where they end.
fn check_golden(bytes: &[u8], mut at: usize, golden: &[&str]) -> usize {
    for golden in golden {
        let golden = golden.replace(' ', "");
        let end = at + golden.len() / 2;
        assert_eq!(hex(&bytes[at..end]), golden, "at {at}");
        at = end;
    }
    at
}

#[test]
fn version_1_never_changes() {
    let (disk, mut log) = log_with(&[start(TWO, 5, 5)]);
    log.append(&[
        entry(TWO, 6, 7, b"hello"),
        hard_state(TWO, 7, 1, 5),
        Append { shard: TWO, change: Change::Members(members(&[9])) },
        forget(TWO, 6, 7),
    ])
    .unwrap();
    log.close().unwrap();
    let bytes = disk.bytes("0000000000000001.log").unwrap();
    let header = "6c6f63696c6f6700 01000000 00000000 0100000000000000 ed5e0000 00000000 \
                  0010000000000000 0002000000000000 0000000000000000";
    let at = check_golden(&bytes, 0, &[header]);
    assert!(bytes[at..508].iter().all(|byte| *byte == 0));
    let frames = [
        "bda512fb",
        "08000000 98b558b7 00000000 06 000000 0002000000000000",
        "30000000 1fad109e 02000000 04 000000 0500000000000000 0500000000000000 03000000 00000000 \
         0100000000000000 0200000000000000 0300000000000000",
        "08000000 eb5d9b31 00000000 06 000000 5802000000000000",
        "1d000000 4223c9e6 02000000 01 000000 0600000000000000 0700000000000000 00000000 00000000 \
         68656c6c6f 000000",
        "18000000 0c13b2bf 02000000 02 000000 0700000000000000 0100000000000000 0500000000000000",
        "10000000 b750d054 02000000 03 000000 01000000 00000000 0900000000000000",
        "10000000 25278038 02000000 05 000000 0600000000000000 0700000000000000",
        "e8000000 c5568dba 00000000 0a 000000",
    ];
    let at = check_golden(&bytes, 508, &frames);
    assert!(bytes[at..1024].iter().all(|byte| *byte == 0));
    let close = "08000000 8776fb2b 00000000 08 000000 0803000000000000";
    let at = check_golden(&bytes, 1024, &[close]);
    assert!(bytes[at..].iter().all(|byte| *byte == 0));

    // Where one file ends and the next begins.
    let (mut log, _) = open(&disk);
    log.append(&[entry(TWO, 7, 7, b"x"), entry(TWO, 8, 7, &[1; 3000])]).unwrap();
    log.sync().unwrap();
    let bytes = disk.bytes("0000000000000001.log").unwrap();
    let frames = [
        "08000000 3caad67b 00000000 06 000000 1804000000000000",
        "19000000 3127375a 02000000 01 000000 0700000000000000 0700000000000000 00000000 00000000 \
         78 00000000000000",
        "08000000 a3ef47f9 00000000 07 000000 0200000000000000",
    ];
    check_golden(&bytes, 1048, &frames);
    let bytes = disk.bytes("0000000000000002.log").unwrap();
    let header = "6c6f63696c6f6700 01000000 00000000 0200000000000000 ed5e0000 00000000 \
                  0020000000000000 5802000000000000 6004000000000000";
    check_golden(&bytes, 0, &[header]);
    let frames = [
        "0e61bacb",
        "48000000 20393750 02000000 09 000000 0600000000000000 0700000000000000 0700000000000000 \
         0700000000000000 0700000000000000 0100000000000000 0500000000000000 01000000 00000000 \
         0900000000000000",
        "08000000 2110329e 00000000 06 000000 5802000000000000",
    ];
    check_golden(&bytes, 508, &frames);
}

#[test]
fn version_2_begins_with_the_first_change_of_members_and_never_changes() {
    let (disk, mut log) = log_with(&[start(TWO, 5, 5), entry(TWO, 6, 5, b"a")]);
    let version = |name: &str| disk.bytes(name).unwrap()[8];
    assert_eq!(version("0000000000000001.log"), 1);
    log.append(&[entry(TWO, 7, 5, b"b"), change(TWO, 8, 5, &[9]), entry(TWO, 9, 5, b"c"), rebase(TWO, 8, 5, &[9])])
        .unwrap();
    log.write().unwrap();
    assert_eq!(version("0000000000000001.log"), 1);
    log.sync().unwrap();
    assert_eq!(version("0000000000000002.log"), 2);
    assert!(disk.bytes("0000000000000001.log").is_none(), "everything in it is forgotten");
    let bytes = disk.bytes("0000000000000002.log").unwrap();
    let frames = [
        "28000000 1ce6779c 02000000 01 000000 0800000000000000 0500000000000000 02 000000 00000000 \
         01000000 00000000 0900000000000000",
        "19000000 8eadfe76 02000000 01 000000 0900000000000000 0500000000000000 00000000 00000000 \
         63 00000000000000",
        "20000000 d4f50fc3 02000000 0b 000000 0800000000000000 0500000000000000 01000000 00000000 \
         0900000000000000",
    ];
    check_golden(&bytes, 640, &frames);
}

#[test]
fn what_was_synced_comes_back() {
    let appends = [
        start(ONE, 5, 5),
        start(TWO, 9, 6),
        entry(ONE, 6, 6, b"a"),
        entry(TWO, 10, 7, b"b"),
        entry(ONE, 7, 6, b"lost to another leader"),
        hard_state(ONE, 8, 2, 6),
        entry(ONE, 7, 8, b"c"),
        entry(ONE, 8, 8, b""),
        forget(ONE, 6, 6),
    ];
    let (disk, log) = log_with(&appends);
    assert_eq!(contents(&log), model_of(&appends));
    disk.crash(1);
    let (log, recovered) = open(&disk);
    assert!(!recovered.clean);
    assert_eq!(contents(&log), model_of(&appends));
    log.close().unwrap();
    let (log, recovered) = open(&disk);
    assert!(recovered.clean);
    assert_eq!(recovered.cut, None);
    assert_eq!(contents(&log), model_of(&appends));
    // Closing twice without a change in between leaves no second mark.
    let before = disk.bytes("0000000000000001.log");
    log.close().unwrap();
    assert_eq!(disk.bytes("0000000000000001.log"), before);
}

#[test]
fn changes_that_cannot_follow_are_refused_and_change_nothing() {
    let appends = [start(ONE, 5, 5), entry(ONE, 6, 6, b"a"), hard_state(ONE, 6, 1, 5)];
    let (_, mut log) = log_with(&appends);
    for wrong in [
        entry(TWO, 1, 1, b"no start"),
        entry(ONE, 9, 6, b"gap"),
        entry(ONE, 5, 6, b"covered by the snapshot"),
        entry(ONE, 7, 4, b"older than the snapshot"),
        hard_state(ONE, 5, 1, 5),
        forget(ONE, 8, 6),
        forget(ONE, 4, 4),
        start(TWO, 0, 1),
    ] {
        let batch = [entry(ONE, 7, 6, b"fine"), wrong.clone()];
        let refused = log.append(&batch);
        assert!(matches!(refused, Err(LogError::Misuse { .. })), "{wrong:?}: {refused:?}");
    }
    log.sync().unwrap();
    assert_eq!(contents(&log), model_of(&appends));
}

/// Two and a half files: entries of two shards, an overwritten suffix, a forgotten beginning.
pub(super) fn worked_log(close: bool) -> (MemoryDisk, Vec<Append>, Vec<Append>) {
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let mut appends = vec![start(ONE, 5, 5), start(TWO, 5, 5)];
    for step in 0..19 {
        let data = vec![step as u8; 150];
        appends.push(entry(ONE, 6 + step, 6, &data));
        appends.push(hard_state(TWO, 6 + step, 1, 5));
        appends.push(entry(TWO, 6 + step % 7, 6 + step / 7, &data[..40]));
    }
    appends.push(forget(ONE, 9, 6));
    for append in &appends {
        log.append(std::slice::from_ref(append)).unwrap();
        log.sync().unwrap();
    }
    let last_batch = vec![entry(ONE, 24, 9, b"last"), entry(ONE, 25, 9, b"very last")];
    log.append(&last_batch).unwrap();
    log.sync().unwrap();
    if close {
        log.close().unwrap();
    }
    (disk, appends, last_batch)
}

/// Opens a damaged copy; what comes back must be an error or one of these states, never anything else.
fn check_damage(disk: &MemoryDisk, possible: &[Model], what: &str) -> Result<usize, LogError> {
    let (log, _) = Log::open(disk.clone(), OPTIONS)?;
    let found = contents(&log);
    match possible.iter().position(|model| *model == found) {
        Some(at) => Ok(at),
        None => panic!("{what}: the log opened with data that was never there: {found:#?}"),
    }
}

/// The states after each beginning of the last batch.
fn prefixes(appends: &[Append], last_batch: &[Append]) -> Vec<Model> {
    (0..=last_batch.len()).map(|count| model_of(&[appends, &last_batch[..count]].concat())).collect()
}

fn used_end(disk: &MemoryDisk, name: &str) -> u64 {
    let bytes = disk.bytes(name).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| (at as u64 + 1).next_multiple_of(8))
}

#[test]
fn every_flipped_bit_of_a_closed_log_is_an_error() {
    let (disk, appends, last_batch) = worked_log(true);
    let whole = [model_of(&[&appends[..], &last_batch].concat())];
    let names = disk.list().unwrap();
    assert!(names.len() >= 3, "{names:?}");
    let (open, ..) = worked_log(false);
    for (at, name) in names.iter().enumerate() {
        let newest = at + 1 == names.len();
        let end = used_end(&disk, name);
        let frames_end = used_end(&open, name);
        for bit in 0..end * 8 {
            disk.flip(name, bit);
            let result = check_damage(&disk.copy(), &whole, &format!("{name} bit {bit}"));
            disk.flip(name, bit);
            // The pad and the close mark say only that the log was closed.
            let in_close = newest && bit / 8 >= frames_end;
            assert_eq!(result.is_ok(), in_close, "{name} byte {} bit {bit}: {result:?}", bit / 8);
        }
        // Nobody reads behind the last frame.
        for bit in (end * 8..4096 * 8).step_by(509) {
            disk.flip(name, bit);
            check_damage(&disk.copy(), &whole, &format!("{name} bit {bit}")).unwrap();
            disk.flip(name, bit);
        }
    }
}

#[test]
fn a_flipped_bit_behind_the_last_mark_cuts_only_what_follows_it() {
    let (disk, appends, last_batch) = worked_log(false);
    let possible = prefixes(&appends, &last_batch);
    let name = disk.list().unwrap().pop().unwrap();
    let end = used_end(&disk, &name);
    let batch = 24 + 24 + 16 + 8 + 24 + 16 + 16;
    let mut seen = [0; 3];
    for bit in 0..end * 8 {
        disk.flip(&name, bit);
        match check_damage(&disk.copy(), &possible, &format!("bit {bit}")) {
            Ok(at) => {
                assert!(bit / 8 >= end - batch, "bit {bit} was cut though it had been synced");
                assert!(at < 2, "bit {bit} was not noticed");
                seen[at] += 1;
            }
            Err(_) => {
                seen[2] += 1;
                assert!(bit / 8 < end - batch, "bit {bit} was not known to be synced");
            }
        }
        disk.flip(&name, bit);
    }
    assert!(seen.iter().all(|count| *count > 100), "{seen:?}");
}

#[test]
fn a_log_that_was_cut_anywhere_is_an_error() {
    let (disk, ..) = worked_log(true);
    for name in disk.list().unwrap() {
        for length in 0..4096 {
            let copy = disk.copy();
            copy.damage(&name, |bytes| bytes.truncate(length));
            let result = Log::open(copy.clone(), OPTIONS);
            assert!(result.is_err(), "{name} cut to {length} bytes opened");
        }
    }
}

#[test]
fn a_zeroed_sector_is_an_error_or_behind_the_end() {
    let (disk, appends, last_batch) = worked_log(true);
    let whole = [model_of(&[&appends[..], &last_batch].concat())];
    let (open, ..) = worked_log(false);
    for name in disk.list().unwrap() {
        for sector in 0..8 {
            let copy = disk.copy();
            let zeroed = sector * 512..sector * 512 + 512;
            copy.damage(&name, |bytes| bytes[zeroed.clone()].fill(0));
            let changed = zeroed.start < used_end(&open, &name) as usize;
            let result = check_damage(&copy, &whole, &format!("{name} sector {sector}"));
            assert_eq!(result.is_err(), changed, "{name} sector {sector}: {result:?}");
        }
    }
}

#[test]
fn a_missing_file_is_an_error() {
    let (disk, ..) = worked_log(true);
    for name in disk.list().unwrap() {
        let copy = disk.copy();
        copy.lose(&name);
        let result = Log::open(copy, OPTIONS).map(|_| ()).unwrap_err();
        let named = match result {
            LogError::Missing { file } => file == name,
            LogError::MissingEntries { .. } => true,
            _ => false,
        };
        assert!(named, "{name}");
    }
}

#[test]
fn other_files_are_named_and_left_alone() {
    let (disk, ..) = worked_log(true);
    let foreign = |disk: &MemoryDisk, name: &str| match Log::open(disk.clone(), OPTIONS) {
        Err(LogError::Foreign { file }) => assert_eq!(file, name),
        other => panic!("{:?}", other.map(|_| ())),
    };
    let copy = disk.copy();
    copy.put("notes.txt", b"hello".to_vec());
    foreign(&copy, "notes.txt");
    let copy = disk.copy();
    copy.put("0000000000000004.log", vec![7; 4096]);
    foreign(&copy, "0000000000000004.log");
    let copy = disk.copy();
    copy.damage("0000000000000001.log", |bytes| bytes.clear());
    foreign(&copy, "0000000000000001.log");
    assert_eq!(copy.list().unwrap().len(), disk.list().unwrap().len());
}

#[test]
fn a_newer_format_is_told_from_damage() {
    let (disk, _) = log_with(&[start(ONE, 5, 5)]);
    disk.damage("0000000000000001.log", |bytes| {
        bytes[8] = 9;
        let crc = crc32fast::hash(&bytes[..508]);
        bytes[508..512].copy_from_slice(&crc.to_le_bytes());
    });
    match Log::open(disk, OPTIONS).map(|_| ()) {
        Err(LogError::NewerVersion { version: 9, file }) => {
            assert_eq!(file, "0000000000000001.log");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn forgotten_files_are_used_again_and_their_old_frames_are_not_read() {
    let (disk, mut log) = log_with(&[start(ONE, 5, 5), hard_state(ONE, 7, 3, 5)]);
    for index in 6..400 {
        log.append(&[entry(ONE, index, 7, &[index as u8; 200])]).unwrap();
        if index > 16 {
            log.forget(ONE, LogIndex(index - 10)).unwrap();
        }
        log.sync().unwrap();
    }
    let stats = log.stats();
    assert!(stats.recycled > 10, "{stats:?}");
    assert!(stats.files <= 3 && stats.spares <= 2, "{stats:?}");
    assert_eq!(stats.entries, 10);
    assert_eq!(stats.bytes, disk.used());
    let before = contents(&log);
    disk.crash(3);
    let (log, _) = open(&disk);
    assert_eq!(contents(&log), before);
    assert_eq!(before[&ONE].hard_state.vote, Some(MemberId(3)));
    let reader = log.reader(ONE).unwrap();
    assert!(matches!(reader.read(LogIndex(20)), Err(ReadError::Forgotten { .. })));
    assert!(matches!(reader.read(LogIndex(400)), Err(ReadError::Beyond { .. })));
}

#[test]
fn a_shard_that_keeps_an_old_file_is_named() {
    let (_, mut log) = log_with(&[start(ONE, 5, 5), start(TWO, 5, 5), entry(TWO, 6, 6, b"idle")]);
    for index in 6..60 {
        log.append(&[entry(ONE, index, 7, &[1; 200])]).unwrap();
    }
    log.forget(ONE, LogIndex(59)).unwrap();
    log.sync().unwrap();
    assert_eq!(log.stats().pinned_by, Some(TWO));
    log.forget(TWO, LogIndex(6)).unwrap();
    log.sync().unwrap();
    assert_eq!(log.stats().pinned_by, None);
    assert_eq!(log.stats().files, 1);
}

#[test]
fn an_entry_larger_than_a_file_gets_a_larger_file() {
    let giant = vec![7; 100_000];
    let appends = [
        start(ONE, 5, 5),
        entry(ONE, 6, 6, b"before"),
        entry(ONE, 7, 6, &giant),
        entry(ONE, 8, 6, b"after"),
        entry(ONE, 9, 6, &giant),
    ];
    let (disk, log) = log_with(&appends);
    assert_eq!(contents(&log), model_of(&appends));
    disk.crash(5);
    let (mut log, _) = open(&disk);
    assert_eq!(contents(&log), model_of(&appends));
    log.forget(ONE, LogIndex(9)).unwrap();
    log.append(&[entry(ONE, 10, 6, &[1; 3000])]).unwrap();
    log.sync().unwrap();
    log.append(&[entry(ONE, 11, 6, &[1; 3000])]).unwrap();
    log.forget(ONE, LogIndex(10)).unwrap();
    log.sync().unwrap();
    assert!(disk.used() < 5 * 4096, "{} bytes are kept", disk.used());
}

#[test]
fn a_full_disk_refuses_and_recovers_without_a_restart() {
    let (disk, mut log) = log_with(&[start(ONE, 5, 5)]);
    let mut appends = vec![start(ONE, 5, 5)];
    disk.set_capacity(Some(disk.used() + 4096 + 1000));
    assert!(matches!(log.reserve(20_000), Err(LogError::Full { .. })));
    assert!(log.room() > 4096, "what fitted is kept");
    let mut full = None;
    for index in 6..100 {
        let batch = [entry(ONE, index, 6, &[1; 700]), hard_state(ONE, index, 1, 5)];
        match log.append(&batch) {
            Ok(()) => appends.extend(batch),
            Err(error) => {
                full = Some(error);
                break;
            }
        }
        log.sync().unwrap();
    }
    assert!(matches!(full, Some(LogError::Full { needed: 4096, .. })), "{full:?}");
    assert!(appends.len() > 10);
    // Not even a half-made file is left, and the log goes on.
    assert!(disk.list().unwrap().iter().all(|name| name.ends_with(".log")));
    assert_eq!(contents(&log), model_of(&appends));
    log.append(&[forget(ONE, 6, 6)]).unwrap();
    log.sync().unwrap();
    disk.set_capacity(None);
    let last = contents(&log)[&ONE].entries.last_key_value().unwrap().0.0;
    log.reserve(20_000).unwrap();
    assert!(log.room() >= 20_000);
    log.append(&[entry(ONE, last + 1, 100, &[2; 3000])]).unwrap();
    log.sync().unwrap();
    let before = contents(&log);
    disk.crash(1);
    assert_eq!(contents(&open(&disk).0), before);
}

#[test]
fn a_close_mark_that_could_not_be_synced_is_written_again_at_the_next_start() {
    for seed in 0..40 {
        let disk = MemoryDisk::new();
        let mut log = Log::open(disk.clone(), OPTIONS).unwrap().0;
        log.append(&[start(ONE, 5, 5), entry(ONE, 6, 6, b"a")]).unwrap();
        log.sync().unwrap();
        disk.fail_sync(1);
        assert!(log.close().is_err());
        // The process ends, the kernel lives: the mark can be read, and no later sync will write it.
        disk.kill();
        let mut log = Log::open(disk.clone(), OPTIONS).unwrap().0;
        for index in 7..9 {
            log.append(&[entry(ONE, index, 6, b"b")]).unwrap();
            log.sync().unwrap();
        }
        disk.crash(seed);
        let (log, _) = Log::open(disk, OPTIONS).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(log.shard(ONE).unwrap().last, LogIndex(8), "seed {seed}");
    }
}

#[test]
fn the_first_failed_sync_is_the_end() {
    let (disk, mut log) = log_with(&[start(ONE, 5, 5)]);
    disk.fail_sync(1);
    log.append(&[entry(ONE, 6, 6, b"gone")]).unwrap();
    assert!(matches!(log.sync(), Err(LogError::Io { action: "syncing", .. })));
    assert!(matches!(log.sync(), Err(LogError::Dead)));
    assert!(matches!(log.append(&[]), Err(LogError::Dead)));
    assert!(matches!(log.reserve(1), Err(LogError::Dead)));
    disk.crash(1);
    let (log, _) = open(&disk);
    assert_eq!(contents(&log), model_of(&[start(ONE, 5, 5)]));
}

#[test]
fn readers_see_entries_or_that_they_are_forgotten_while_the_log_is_written() {
    let (_, mut log) = log_with(&[start(ONE, 5, 5), entry(ONE, 6, 6, &[6; 300])]);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let (reader, done) = (log.reader(ONE).unwrap(), Arc::clone(&done));
            thread::spawn(move || {
                let mut chance = Chance::new(seed);
                let mut read = 0;
                while !done.load(Ordering::Relaxed) {
                    let (start, last) = (reader.start(), reader.last());
                    let index = LogIndex(start.0 + 1 + chance.below(last.0 - start.0 + 1));
                    match reader.read(index) {
                        Ok(entry) => {
                            assert_eq!(entry.data, vec![index.0 as u8; 300]);
                            read += 1;
                        }
                        Err(ReadError::Forgotten { .. } | ReadError::Beyond { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                read
            })
        })
        .collect();
    for index in 7..3000 {
        log.append(&[entry(ONE, index, 6, &[index as u8; 300])]).unwrap();
        if index % 5 == 0 && index > 30 {
            log.forget(ONE, LogIndex(index - 12)).unwrap();
        }
        log.sync().unwrap();
    }
    done.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    assert!(log.stats().recycled > 50);
}

#[test]
fn damage_under_a_running_log_is_noticed_when_it_is_read() {
    let (disk, log) = log_with(&[start(ONE, 5, 5), entry(ONE, 6, 6, b"abc")]);
    let at = used_end(&disk, "0000000000000001.log") - 8;
    disk.flip("0000000000000001.log", at * 8);
    match log.reader(ONE).unwrap().read(LogIndex(6)) {
        Err(ReadError::Damaged { file, .. }) => assert_eq!(file, "0000000000000001.log"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_real_directory_holds_the_same_log() {
    let directory = tempfile::tempdir().unwrap();
    let disk = || FileDisk::open(directory.path()).unwrap();
    let mut appends = vec![start(ONE, 5, 5)];
    appends.extend((6..60).map(|index| entry(ONE, index, 6, &[index as u8; 300])));
    appends.push(forget(ONE, 40, 6));
    let (mut log, _) = Log::open(disk(), OPTIONS).unwrap();
    for append in &appends {
        log.append(std::slice::from_ref(append)).unwrap();
        log.sync().unwrap();
    }
    assert!(log.stats().recycled > 0);
    // Killed: nothing is lost while the machine lives.
    drop(log);
    let (log, recovered) = Log::open(disk(), OPTIONS).unwrap();
    assert!(!recovered.clean);
    assert_eq!(contents(&log), model_of(&appends));
    log.close().unwrap();
    let (log, recovered) = Log::open(disk(), OPTIONS).unwrap();
    assert!(recovered.clean);
    assert_eq!(contents(&log), model_of(&appends));
}

#[test]
fn a_block_that_cannot_be_read_is_damage_and_a_read_that_is_interrupted_is_not() {
    let failed = |code| {
        let source = std::io::Error::from_raw_os_error(code);
        ReadError::Io { file: "a file".into(), offset: 0, source }
    };
    let (eio, eintr) = (5, 4);
    assert_eq!(failed(eio).damaged_file(), Some("a file"));
    assert_eq!(failed(eintr).damaged_file(), None);
}
