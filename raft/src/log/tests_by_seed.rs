//! The log beside its model through crashes, failed syncs, full disks and restarts, by seed.

use super::tests::{Model, OPTIONS, change, contents, entry, follow, forget, hard_state, members, open, rebase, start};
use super::*;
use crate::chance::Chance;
use crate::disk::{Disk, MemoryDisk};

type MemoryFile = <MemoryDisk as Disk>::File;

/// Draws a change that can follow the model.
fn random_change(model: &Model, chance: &mut Chance) -> Append {
    let shard = ShardId(1 + chance.below(3) as u32);
    let Some(known) = model.get(&shard) else {
        return start(shard, 5, 5);
    };
    let last = known.entries.last_key_value().map_or(known.start.0, |(index, _)| *index);
    let term = known.entries.last_key_value().map_or(known.start.1, |(_, entry)| entry.term);
    match chance.below(100) {
        0..=59 => {
            let length = if chance.below(40) == 0 { 6000 } else { chance.below(400) };
            let data = vec![chance.next() as u8; length as usize];
            entry(shard, last.0 + 1, term.0 + chance.below(10) / 9, &data)
        }
        60..=69 if last > known.start.0 => {
            // Another leader's entries replace a suffix.
            let count = last.0 - known.start.0.0;
            let index = known.start.0.0 + 1 + chance.below(count);
            entry(shard, index, term.0 + 1, &[chance.next() as u8; 30])
        }
        70..=74 => change(shard, last.0 + 1, term.0, &[1 + chance.below(9), 20]),
        75..=84 if last > known.start.0 => {
            let up_to = LogIndex(last.0 - chance.below((last.0 - known.start.0.0).min(20)));
            let term = known.entries[&up_to].term.0;
            let changed = known.entries.range(..=up_to).rev().find(|(_, entry)| entry.kind == EntryKind::Members);
            match changed.map(|(_, entry)| Members::decode(&entry.data).unwrap()) {
                Some(members) => {
                    rebase(shard, up_to.0, term, &members.voters().iter().map(|m| m.0).collect::<Vec<_>>())
                }
                None => forget(shard, up_to.0, term),
            }
        }
        85 => start(shard, last.0 + chance.below(5), term.0.max(1)),
        86..=88 => {
            let change = Change::Members(members(&[1 + chance.below(9), 20]));
            Append { shard, change }
        }
        _ => {
            let term = known.hard_state.term.0 + chance.below(3);
            hard_state(shard, term, 1 + chance.below(3), chance.below(9))
        }
    }
}

/// Whether it went wrong other than for lack of space.
fn ends_log<T>(done: &Result<T, LogError>) -> bool {
    matches!(done, Err(error) if !matches!(error, LogError::Full { .. }))
}

/// Runs a log beside its model through crashes and faults. Everything synced must be there after each
/// crash, and after it a beginning of what followed.
fn run_model(seed: u64, steps: usize) -> [u64; 2] {
    let mut chance = Chance::new(seed);
    let disk = MemoryDisk::new();
    let (mut log, _) = open(&disk);
    let mut synced = Model::new();
    let mut model = Model::new();
    let mut unsynced: Vec<Append> = Vec::new();
    let mut written = 0;
    let mut recycled = 0;
    let mut making: Option<MakingSpare<MemoryFile>> = None;
    let mut spares = 0;
    for step in 0..steps {
        let mut died = false;
        match chance.below(100) {
            0..=69 => {
                let mut batch = Vec::new();
                let mut draft = model.clone();
                for _ in 0..=chance.below(4) {
                    let change = random_change(&draft, &mut chance);
                    follow(&mut draft, &change);
                    batch.push(change);
                }
                match log.append(&batch) {
                    Ok(()) => model = draft,
                    Err(LogError::Full { .. }) => continue,
                    Err(_) => died = true,
                }
                unsynced.extend(batch);
                if making.is_none() && chance.below(2) == 0 {
                    let begun = log.begin_spare();
                    died |= ends_log(&begun);
                    making = begun.ok().flatten();
                }
            }
            70..=74 => {
                died = log.write().is_err();
                if !died {
                    written = unsynced.len();
                }
            }
            // Beside the log, which goes on meanwhile.
            75..=79 => {
                let (begun, count) = (log.begin_sync(), unsynced.len());
                let before = model.clone();
                died = begun.is_err();
                written = if died { written } else { count };
                let begun = begun.ok().flatten();
                // The log may have gone on to another file before it runs.
                let late = chance.below(2) == 0;
                let mut result = begun.as_ref().filter(|_| !late).map(Syncing::run);
                for _ in 0..chance.below(4) {
                    let change = random_change(&model, &mut chance);
                    let mut draft = model.clone();
                    follow(&mut draft, &change);
                    match log.append(std::slice::from_ref(&change)) {
                        Ok(()) => model = draft,
                        Err(LogError::Full { .. }) => break,
                        Err(_) => died = true,
                    }
                    unsynced.push(change);
                }
                if let Some(syncing) = begun {
                    let result = result.take().unwrap_or_else(|| syncing.run());
                    died |= log.end_sync(&syncing, result).is_err();
                }
                if !died {
                    synced = before;
                    unsynced.drain(..count);
                    written = 0;
                }
            }
            80..=89 => {
                died = log.sync().is_err();
                if !died {
                    synced = model.clone();
                    unsynced.clear();
                    written = 0;
                }
            }
            90 => disk.fail_sync(1 + chance.below(6)),
            91 => disk.fail_write(1 + chance.below(6)),
            92 => {
                let capacity = disk.used() + chance.below(3) * 4096;
                disk.set_capacity((chance.below(2) == 0).then_some(capacity));
            }
            // What was begun beside the log is done.
            93 => {
                if let Some(spare) = making.take() {
                    let made = spare.run();
                    let ended = log.end_spare(spare, made);
                    died = ends_log(&ended);
                    spares += u64::from(ended.is_ok());
                    let left = || disk.list().unwrap().iter().any(|name| name.ends_with(".tmp"));
                    assert!(died || !left(), "seed {seed} step {step}: half a file is left");
                }
            }
            94 => {
                recycled += log.stats().recycled;
                making = None;
                disk.set_capacity(None);
                let closed = log.close().is_ok();
                disk.heal();
                let (reopened, recovered) = open(&disk);
                log = reopened;
                if closed {
                    assert!(recovered.clean, "seed {seed} step {step}");
                    synced = model.clone();
                    unsynced.clear();
                    written = 0;
                } else {
                    died = true;
                }
            }
            95..=96 => died = true,
            _ => {
                assert!(!log.dead);
                making = None;
                disk.kill();
                disk.heal();
                disk.set_capacity(None);
                recycled += log.stats().recycled;
                log = open(&disk).0;
                let found = contents(&log);
                model = beginning(&synced, &unsynced, written, &found)
                    .unwrap_or_else(|| panic!("seed {seed} step {step}: killed: {found:#?}"));
                synced = model.clone();
                unsynced.clear();
                written = 0;
            }
        }
        if died {
            making = None;
            disk.heal();
            disk.set_capacity(None);
            recycled += log.stats().recycled;
            // A process that died of a failed sync may come back on a machine that did not.
            if chance.below(3) == 0 {
                disk.kill();
            } else {
                disk.crash(chance.next());
            }
            log = match Log::open(disk.clone(), OPTIONS) {
                Ok((log, _)) => log,
                Err(error) => panic!("seed {seed} step {step}: {error}"),
            };
            let found = contents(&log);
            model = beginning(&synced, &unsynced, 0, &found)
                .unwrap_or_else(|| panic!("seed {seed} step {step}: crashed: {found:#?}\nsynced: {synced:#?}"));
            synced = model.clone();
            unsynced.clear();
            written = 0;
        }
    }
    assert_eq!(contents_after_write(&mut log), model, "seed {seed}");
    [recycled + log.stats().recycled, spares]
}

fn contents_after_write(log: &mut Log<MemoryDisk>) -> Model {
    log.disk().heal();
    log.write().unwrap();
    contents(log)
}

/// The state that was found, if it is the synced one followed by a beginning of what came later, at
/// least so many changes long.
fn beginning(synced: &Model, later: &[Append], at_least: usize, found: &Model) -> Option<Model> {
    let mut model = synced.clone();
    for count in 0..=later.len() {
        if count >= at_least && model == *found {
            return Some(model);
        }
        if let Some(append) = later.get(count) {
            follow(&mut model, append);
        }
    }
    None
}

#[test]
fn whatever_happens_what_was_synced_is_there_and_unchanged() {
    let (mut recycled, mut spares) = (0, 0);
    for seed in 0..60 {
        let [freed, made] = run_model(seed, 400);
        (recycled, spares) = (recycled + freed, spares + made);
    }
    assert!(recycled > 100, "only {recycled} files were used again");
    assert!(spares > 20, "only {spares} files were made ready beside the log");
}
