//! What a log has promised: whoever opens it again must find it there, whatever happened to the disk in between.
//!
//! ```text
//!   append --> written --sync--> promised --open--> the vote of the newest term, the last entry: still there?
//! ```

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use loci_raft::{Append, Change, HardState, Log, LogError, LogIndex, LogOptions, Recovered, ShardId, Term};

use super::disk::SimDisk;
use super::member::StartError;
use super::planted::Planted;

/// What is known of a shard's part in a log.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    state: Option<HardState>,
    last: Option<(LogIndex, Term)>,
}

/// By shard: what was written, and what of it was synced. Stays when the process ends.
#[derive(Debug, Clone, Default)]
pub struct Promises(Arc<Mutex<BTreeMap<ShardId, (Known, Known)>>>);

impl Promises {
    fn written(&self, batch: &[Append]) {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Append { shard, change } in batch {
            let (written, synced) = shards.entry(*shard).or_default();
            match change {
                Change::HardState(state) => written.state = Some(*state),
                Change::Entry(entry) => {
                    written.last = Some((entry.index, entry.term));
                    // What it replaces is there or not, until the next sync.
                    synced.last = synced.last.filter(|(last, _)| *last < entry.index);
                }
                Change::Start { .. } => (written.last, synced.last) = (None, None),
                Change::Members(_) | Change::Forget { .. } | Change::Rebase { .. } => {}
            }
        }
    }

    fn synced(&self) {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shards.values_mut().for_each(|(written, synced)| *synced = *written);
    }

    /// What of it a log has forgotten that was opened just now. What was written and not synced is forgotten, too.
    fn check(&self, log: &Log<SimDisk>) -> Result<(), StartError> {
        let mut shards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, (written, promised)) in shards.iter_mut() {
            let state = log.shard(*shard);
            let kept = state.as_ref().map(|state| state.hard_state);
            let forgot = |what: String| Err(StartError::Forgot(format!("shard {shard}: {what}, not {kept:?}")));
            // A vote may be given, and be there, before it is synced.
            let holds = |kept: HardState, promised: HardState| {
                let same = kept.term == promised.term && (promised.vote.is_none() || kept.vote == promised.vote);
                same || kept.term > promised.term
            };
            if let Some(promised) = promised.state
                && !kept.is_some_and(|kept| holds(kept, promised))
            {
                return forgot(format!("{promised:?} was synced"));
            }
            if let Some((index, term)) = promised.last
                && !state.is_some_and(|state| state.start >= index || state.term_of(index) == Some(term))
            {
                return forgot(format!("entry {index} of term {term} was synced, and is not there"));
            }
            *written = *promised;
        }
        Ok(())
    }
}

/// A log that remembers what it promises.
pub struct PromisingLog {
    log: Log<SimDisk>,
    promises: Promises,
}

impl PromisingLog {
    /// Opens one, which must have kept what was promised.
    pub fn open(
        disk: SimDisk,
        options: LogOptions,
        promises: Promises,
        planted: Option<Planted>,
    ) -> Result<(PromisingLog, Recovered), StartError> {
        let (log, recovered) = Log::open(disk, options).map_err(StartError::Log)?;
        // Others find most of what is wrong with a log on purpose.
        if planted.is_none_or(|planted| planted == Planted::CutAtAnyBadFrame) {
            promises.check(&log)?;
        }
        Ok((PromisingLog { log, promises }, recovered))
    }

    /// As the log does it.
    pub fn append(&mut self, batch: &[Append]) -> Result<(), LogError> {
        self.log.append(batch)?;
        self.promises.written(batch);
        Ok(())
    }

    /// As the log does it.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.log.sync()?;
        self.promises.synced();
        Ok(())
    }

    /// As the log does it.
    pub fn close(self) -> Result<(), LogError> {
        self.log.close()?;
        self.promises.synced();
        Ok(())
    }
}

impl Deref for PromisingLog {
    type Target = Log<SimDisk>;

    fn deref(&self) -> &Log<SimDisk> {
        &self.log
    }
}

impl DerefMut for PromisingLog {
    fn deref_mut(&mut self) -> &mut Log<SimDisk> {
        &mut self.log
    }
}
