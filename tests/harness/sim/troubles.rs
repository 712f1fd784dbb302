//! What is wrong with the files that a process finds when it starts, or while it runs.
//!
//! ```text
//!   a bit is flipped; a sector never got there, or got to another's place    noticed, or the process does not start
//!   a reading fails, once                                                    it does not start, and does later
//! ```
//!
//! Of the log's newest file only that is damaged which something behind it says was synced: a last batch that was synced and is
//! gone cannot be told from one that never was.

use loci_index::directory::{Directory, Named};
use loci_index::store::{StoreError, check_file_twice, checkpoint_files};
use loci_node::shard::{Damage, FoundBy};
use loci_raft::{Disk, LogError};

use super::machine::{Machine, Rotten};
use super::member::{Seat, StartError};
use super::world::{Happening, World};
use super::{Checked, MILLIS, SECONDS, violation};
use crate::chance::Chance;

const SECTOR: usize = 512;

/// What is wrong when a process starts.
pub enum Trouble {
    /// The power fails once more.
    Interrupted,
    /// A reading fails.
    Unreadable,
    /// A file is damaged.
    Rotten(Rotten),
}

/// Damages some of the first bytes of a file; whether they are others now.
fn damage(bytes: &mut [u8], end: usize, chance: &mut Chance) -> bool {
    let end = end.min(bytes.len());
    let (sectors, before) = (end / SECTOR, bytes.to_vec());
    match chance.below(4) {
        0 if sectors > 0 => {
            let at = chance.index(sectors) * SECTOR;
            bytes[at..at + SECTOR].fill(0);
        }
        1 if sectors > 1 => {
            let (from, to) = (chance.index(sectors) * SECTOR, chance.index(sectors) * SECTOR);
            bytes.copy_within(from..from + SECTOR, to);
        }
        _ if end > 0 => {
            let bit = chance.index(end * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        _ => {}
    }
    bytes != before
}

/// How far the log's file is known to have been synced, by what stands in it.
fn covered(bytes: &[u8]) -> usize {
    const FRAME_BYTES: usize = 24;
    const KIND: std::ops::Range<usize> = 8..16;
    const MARK: [u8; 8] = [0, 0, 0, 0, 6, 0, 0, 0];
    const CLOSE: [u8; 8] = [0, 0, 0, 0, 8, 0, 0, 0];
    let u32_at = |at: usize| bytes[at..].first_chunk().map_or(0, |number| u32::from_le_bytes(*number));
    let u64_at = |at: usize| bytes[at..].first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    // The file's number and its secret, which stand in its header, are mixed into its checksums: what an earlier use left says nothing.
    let salt = u32_at(24) ^ u64_at(16) as u32;
    let durable = |at: usize| {
        let frame = &bytes[at..at + FRAME_BYTES];
        let is_mark = frame[..4] == [8, 0, 0, 0] && (frame[KIND] == MARK || frame[KIND] == CLOSE);
        let mut hasher = crc32fast::Hasher::new_with_initial(salt);
        hasher.update(&frame[..4]);
        hasher.update(&frame[8..]);
        (is_mark && hasher.finalize() == u32_at(at + 4)).then(|| u64_at(at + 16) as usize)
    };
    let opening_end = u64_at(40) as usize;
    let marks = (0..bytes.len().saturating_sub(FRAME_BYTES)).step_by(8).filter_map(durable);
    marks.chain([opening_end]).max().unwrap_or(0)
}

impl Machine {
    /// Damages a file of the log, or of a store, where somebody must notice.
    pub fn rot(&mut self, chance: &mut Chance) -> Option<Rotten> {
        if chance.percent(50) { self.rot_log(chance) } else { self.rot_store(chance) }
    }

    fn rot_log(&mut self, chance: &mut Chance) -> Option<Rotten> {
        const PREVIOUS_END: usize = 48;
        let memory = &self.disk.memory;
        let names = Disk::list(memory).unwrap_or_default();
        let mut names: Vec<String> = names.into_iter().filter(|name| !name.starts_with("spare")).collect();
        names.sort_unstable();
        let at = chance.below(names.len() as u64 + 1) as usize;
        let name = names.get(at)?.clone();
        let bytes = memory.bytes(&name)?;
        let end = match names.get(at + 1).and_then(|next| memory.bytes(next)) {
            Some(next) => next.get(PREVIOUS_END..)?.first_chunk().map(|end| u64::from_le_bytes(*end) as usize)?,
            None => covered(&bytes),
        };
        let mut damaged = bytes.clone();
        damage(&mut damaged, end, chance).then(|| {
            memory.damage(&name, |bytes| *bytes = damaged.clone());
            Rotten { name, bytes, damaged, store_of: None }
        })
    }

    fn rot_store(&mut self, chance: &mut Chance) -> Option<Rotten> {
        let shard = if self.members.len() == 1 { 0 } else { chance.index(self.members.len()) };
        let member = &mut self.members[shard];
        let names = member.place.store.list().ok()?;
        let name = names.get(chance.below(names.len() as u64 + 1) as usize)?.clone();
        let bytes = member.place.store.bytes(&name)?;
        let mut damaged = bytes.clone();
        let end = damaged.len();
        damage(&mut damaged, end, chance).then(|| {
            member.place.store.put(&name, &damaged);
            member.rotten = true;
            Rotten { name, bytes, damaged, store_of: Some(shard) }
        })
    }

    /// Puts the file back as it was.
    pub fn mend(&mut self, rotten: Rotten) {
        match rotten.store_of {
            None => self.disk.memory.damage(&rotten.name, |bytes| *bytes = rotten.bytes.clone()),
            Some(shard) => self.members[shard].place.store.put(&rotten.name, &rotten.bytes),
        }
    }

    /// Whether a process that has started must have read a file as it is: a store may have removed it as left over, and a snapshot
    /// may have taken its place.
    pub fn is_needed(&self, rotten: &Rotten) -> bool {
        let there = |shard: usize| self.members[shard].place.store.bytes(&rotten.name);
        rotten.store_of.is_none_or(|shard| there(shard).as_ref() == Some(&rotten.damaged))
    }
}

impl World<'_> {
    /// What is wrong with a machine that starts, if anything is.
    pub(super) fn draw_trouble(&mut self, at: usize) -> Option<Trouble> {
        if !self.troubled {
            return None;
        }
        let machine = &mut self.machines[at];
        if self.chance.percent(self.menu.start_fails) {
            let nth = 1 + self.chance.below(3);
            if self.chance.percent(50) {
                machine.disk.memory.fail_sync(nth);
            } else {
                machine.disk.memory.fail_write(nth);
            }
            return Some(Trouble::Interrupted);
        }
        // Alone, it is given back what it had.
        let rots = self.chance.percent(self.menu.rot) && (self.machines.len() == 1 || self.may_be_damaged(at));
        if rots && let Some(rotten) = self.machines[at].rot(&mut self.chance) {
            self.reached.mark("files damaged when a process starts");
            return Some(Trouble::Rotten(rotten));
        }
        if self.chance.percent(self.menu.unreadable) && self.may_be_damaged(at) {
            let nth = 1 + self.chance.below(8);
            let shard = self.any_shard();
            let machine = &self.machines[at];
            if self.chance.percent(50) {
                machine.disk.memory.fail_read(nth);
            } else {
                machine.members[shard].place.store.fail_read(nth);
            }
            return Some(Trouble::Unreadable);
        }
        None
    }

    /// A process did not start: it must have a reason, and its machine comes back as the documents say.
    pub(super) fn start_failed(&mut self, at: usize, error: StartError, trouble: Option<Trouble>) -> Checked {
        let machine = &mut self.machines[at];
        let (me, alone) = (machine.me, self.machines.len() == 1);
        let machine = &mut self.machines[at];
        let was_damaged = match &error {
            StartError::Store { shard, error } => {
                let known = machine.members[*shard].damaged || machine.members[*shard].rotten;
                error.is_damage() && (known || trouble.is_some())
            }
            _ => false,
        };
        match (trouble, error) {
            (_, StartError::Forgot(what)) => {
                return violation(format!("the log of member {me} forgot something: {what}"));
            }
            (Some(Trouble::Interrupted), _) => {
                self.reached.mark("recoveries that were interrupted");
                machine.disk.memory.crash(self.chance.next_u64());
                self.start_later(at);
            }
            (Some(Trouble::Rotten(rotten)), error) if alone => {
                self.reached.mark("damaged files that were noticed at a start");
                // Nothing was changed, so whoever puts the file back from a copy can start.
                self.trace.note(self.now, "is put back", &[u64::from(matches!(error, StartError::Log(_)))]);
                machine.mend(rotten);
                self.start_later(at);
            }
            (Some(Trouble::Rotten(rotten)), StartError::Log(error)) if rotten.store_of.is_none() => {
                self.reached.mark("damaged files that were noticed at a start");
                let named = match &error {
                    LogError::Damaged { file, .. } | LogError::Missing { file } => !file.is_empty(),
                    LogError::Foreign { file } | LogError::NewerVersion { file, .. } => *file == rotten.name,
                    LogError::MissingEntries { .. } => true,
                    _ => false,
                };
                if !named {
                    return violation(format!("member {me} found damage in {} and says: {error}", rotten.name));
                }
                machine.refused = true;
                self.trace.note(self.now, "is refused", &[at as u64]);
                self.reached.mark("machines with a damaged log");
                self.after(SECONDS, Happening::Replace { at, by: None });
            }
            (_, StartError::Store { shard, .. }) if was_damaged => {
                self.reached.mark("damaged stores that were fetched from another member");
                machine.members[shard].damaged = true;
                let life = machine.life;
                self.after(MILLIS, Happening::Mend { seat: Seat { at, shard }, life });
            }
            (Some(Trouble::Unreadable), _) => {
                self.reached.mark("starts that failed because a file could not be read");
                self.start_later(at);
            }
            (_, error) => {
                let error = error.in_words();
                return violation(format!("member {me} cannot start: {error}"));
            }
        }
        Ok(())
    }

    /// A bit of a store is flipped while its process runs, which reads it again sooner or later.
    pub(super) fn rot_while_running(&mut self, at: usize) {
        if self.machines[at].process.is_none() || !self.may_be_damaged(at) {
            return;
        }
        let Some(rotten) = self.machines[at].rot_store(&mut self.chance) else { return };
        let Some(shard) = rotten.store_of else { return };
        self.reached.mark("files damaged while a process runs");
        let wait = self.chance.below(10 * SECONDS);
        self.after(wait, Happening::Scrub { seat: Seat { at, shard } });
    }

    /// A shard's files are read and compared with their checksums.
    pub(super) fn scrub(&mut self, seat: Seat) {
        // A file that is found well here need not be all that was damaged: there are those that no checkpoint names yet.
        let machine = &self.machines[seat.at];
        let (Some(handle), store) = (machine.handle(seat.shard), &machine.members[seat.shard].place.store) else {
            return;
        };
        for (file, error) in damaged_files(store) {
            if handle.is_damaged(&file) {
                continue;
            }
            self.reached.mark("damaged files found by the scrub");
            handle.damage_found(Damage { file, what: error.to_string(), by: FoundBy::Scrub });
        }
        self.wake(seat);
    }

    /// At the end no member's store has anything that is not what was written.
    pub(super) fn check_files(&self, shard: usize, members: &[usize]) -> Checked {
        for machine in members.iter().map(|at| &self.machines[*at]) {
            if let Some((file, error)) = damaged_files(&machine.members[shard].place.store).pop() {
                return violation(format!("at the end file {file} of member {} is damaged: {error}", machine.me));
            }
        }
        Ok(())
    }
}

/// The files of a store's last checkpoint that are not what was written.
fn damaged_files(store: &dyn Directory) -> Vec<(String, StoreError)> {
    let names = match checkpoint_files(store) {
        Ok((_, _, names)) => names,
        Err(error) => return vec![("MANIFEST".into(), error)],
    };
    let check = |name: String| {
        let checked = check_file_twice(&Named { directory: store, name: &name }, &mut |_| true, |_| ());
        checked.err().filter(StoreError::is_damage).map(|error| (name, error))
    };
    names.into_iter().filter_map(check).collect()
}
