//! The log's thread: what it does with what is queued, and with a sync that is done or failed.

use std::collections::VecDeque;
use std::sync::PoisonError;

use bytes::Bytes;
use loci_node::log_thread::{PINNED_FILES, PINNED_FILES_MAX, Report, Request};
use loci_node::shard::Event;
use loci_raft::{Append, Change, EntryKind, Log, LogError, SyncMark};

use super::disk::SimDisk;
use super::member::{Seat, shard_id};
use super::planted::Planted;
use super::shards::SHARDS_MAX;
use super::world::{Happening, World};
use super::{Checked, MICROS, MILLIS, Nanos, violation};

/// A log is asked for so many bytes more than twice what is needed, as the log's thread does it.
const RESERVED_MORE: u64 = 8192;
/// How often a shard is told that it pins the log.
const PINS_EVERY: Nanos = 100 * MILLIS;

impl World<'_> {
    /// What the log's thread does with what is queued: one write, and one sync for all shards, if any waits for it.
    pub(super) fn begin_log(&mut self, at: usize) -> Checked {
        let planted = self.run.planted;
        let machine = &mut self.machines[at];
        let Some(process) = &mut machine.process else { return Ok(()) };
        if !process.syncing.is_empty() || process.queue.is_empty() || process.full {
            return Ok(());
        }
        if planted == Some(Planted::FramesToAnotherShard) {
            mix_up(&mut process.queue);
        }
        let mut safe: Vec<(usize, SyncMark)> = Vec::new();
        let mut done = Ok(());
        let mut reports = Vec::new();
        let mut at_log = process.log.lock().unwrap_or_else(PoisonError::into_inner);
        while done.is_ok()
            && let Some(request) = process.queue.pop_front()
        {
            let taken = match &request {
                Request::Append { batch, .. } if planted == Some(Planted::ForgetTheVote) => {
                    let is_vote = |append: &&Append| matches!(append.change, Change::HardState(_));
                    at_log.log.append(&batch.iter().filter(|append| !is_vote(append)).cloned().collect::<Vec<_>>())
                }
                Request::Append { batch, .. } if planted == Some(Planted::ForgetForAll) => {
                    let forgotten = forgotten_by_others(&at_log.log, batch);
                    at_log.log.append(batch).and_then(|()| at_log.log.append(&forgotten))
                }
                Request::Append { batch, .. } => at_log.log.append(batch),
                Request::Reserve { bytes, .. } => at_log.log.reserve(2 * bytes + RESERVED_MORE),
                other => return violation(format!("a shard asked for {other:?} of a log without a thread")),
            };
            let mut is_safe = |to: usize, mark: Option<SyncMark>| {
                let Some(mark) = mark else { return };
                match safe.iter_mut().find(|(shard, _)| *shard == to) {
                    Some((_, last)) => *last = mark,
                    None => safe.push((to, mark)),
                }
            };
            match (taken, request) {
                (Ok(()), Request::Append { mark, bytes, to, .. }) => {
                    process.figures.done(bytes);
                    is_safe(to, mark);
                }
                (Ok(()), Request::Reserve { to, .. }) => reports.push((to, Report::Room)),
                (Err(LogError::Full { needed, .. }), request) => match request {
                    // An append waits until there is space, and what comes after it waits, in order.
                    Request::Append { mark, to, .. } => {
                        if planted == Some(Planted::AcknowledgeWhenFull) {
                            is_safe(to, mark);
                        }
                        reports.extend((0..self.shards.len()).map(|to| (to, Report::Full { needed_bytes: needed })));
                        self.reached.mark("appends that waited for space");
                        process.queue.push_front(request);
                        process.full = true;
                        break;
                    }
                    Request::Reserve { to, .. } => reports.push((to, Report::Full { needed_bytes: needed })),
                    _ => {}
                },
                (Err(error), _) => done = Err(error),
                (Ok(()), _) => {}
            }
        }
        let several = safe.len() > 1;
        let synced = !safe.is_empty();
        process.syncing = safe;
        let done = done.and_then(|()| at_log.log.write());
        drop(at_log);
        if let Err(error) = done {
            return self.log_failed(at, &error);
        }
        self.reached.count("syncs that several shards waited for", u64::from(several));
        if process.full {
            let life = machine.life;
            self.after(200 * MILLIS, Happening::Space { at, life });
        }
        for (shard, report) in reports {
            self.take(Seat { at, shard }, Event::Log(report))?;
        }
        let machine = &mut self.machines[at];
        if synced {
            let slow = machine.slow_until > self.now;
            let life = machine.life;
            let wait = match (slow, self.chance.below(50)) {
                (true, _) => self.chance.below(900 * MILLIS),
                (false, 0) => self.chance.below(60 * MILLIS),
                (false, _) => 80 * MICROS + self.chance.below(MILLIS),
            };
            self.after(wait, Happening::Synced { at, life });
        }
        Ok(())
    }

    pub(super) fn synced(&mut self, at: usize) -> Checked {
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        let mut safe = std::mem::take(&mut process.syncing);
        if safe.is_empty() {
            return Ok(());
        }
        if self.run.planted == Some(Planted::OneSyncForAllThatWait) {
            for request in &process.queue {
                if let Request::Append { mark: Some(mark), to, .. } = request
                    && safe.iter().all(|(shard, _)| shard != to)
                {
                    safe.push((*to, *mark));
                }
            }
        }
        let lies = self.run.planted == Some(Planted::AcknowledgeBeforeSync) && self.chance.below(20) > 0;
        let synced = if lies { Ok(()) } else { process.at_log().log.sync() };
        if let Err(error) = synced {
            return self.log_failed(at, &error);
        }
        self.trace.note(self.now, "synced", &[at as u64]);
        for (shard, mark) in safe {
            self.take(Seat { at, shard }, Event::Log(Report::Synced(mark)))?;
        }
        self.tell_who_pins(at)?;
        self.begin_log(at)
    }

    /// A log with many files tells the shard that the oldest is kept for, now and then.
    fn tell_who_pins(&mut self, at: usize) -> Checked {
        let Some(process) = &mut self.machines[at].process else { return Ok(()) };
        if self.now - process.told_pins < PINS_EVERY {
            return Ok(());
        }
        let stats = process.at_log().log.stats();
        let Some(shard) = stats.pinned_by.filter(|_| stats.files >= self.build.pinned_files) else { return Ok(()) };
        process.told_pins = self.now;
        self.reached.mark("shards told that they pin the log");
        // In proportion: the shards know how many are too many.
        let files = stats.files * PINNED_FILES / self.build.pinned_files;
        if files >= PINNED_FILES_MAX {
            self.reached.mark("shards told that they pin the log, whoever is being sent a snapshot");
        }
        self.take(Seat { at, shard: shard.0 as usize - 1 }, Event::Log(Report::Pins { files }))
    }

    /// The first failure of the log ends the process.
    pub(super) fn log_failed(&mut self, at: usize, error: &LogError) -> Checked {
        if !std::mem::take(&mut self.machines[at].sync_fails) {
            return violation(format!("the log of member {} failed by itself: {error}", self.machines[at].me));
        }
        self.reached.mark("processes that ended because a sync failed");
        self.kill(at);
        Ok(())
    }
}

/// Two entries of two shards that are written together get each other's data.
fn mix_up(queue: &mut VecDeque<Request>) {
    let mut first: Option<(usize, &mut Bytes)> = None;
    for request in queue {
        let Request::Append { batch, to, .. } = request else { continue };
        let mut entries = batch.iter_mut().filter_map(|append| match &mut append.change {
            Change::Entry(entry) if entry.kind == EntryKind::Normal => Some(&mut entry.data),
            _ => None,
        });
        let Some(data) = entries.next() else { continue };
        match &mut first {
            None => first = Some((*to, data)),
            Some((other, _)) if other == to => {}
            Some((_, others)) => return std::mem::swap(*others, data),
        }
    }
}

/// What the other shards forget, too, with a batch in which one forgets something.
fn forgotten_by_others(log: &Log<SimDisk>, batch: &[Append]) -> Vec<Append> {
    let forgets = |append: &&Append| matches!(append.change, Change::Forget { .. } | Change::Rebase { .. });
    let Some(forgets) = batch.iter().find(forgets) else { return Vec::new() };
    let others = (0..SHARDS_MAX).map(shard_id).filter(|shard| *shard != forgets.shard);
    let forgotten = others.filter_map(|shard| {
        let state = log.shard(shard)?;
        let (up_to, term) = (state.last, state.term_of(state.last)?);
        Some(Append { shard, change: Change::Forget { up_to, term } })
    });
    forgotten.collect()
}
