//! Whether everything is as it must be: after every turn of a member, and at the end.

use loci_index::record::CollectionId;
use loci_index::view::ScanRequest;
use loci_raft::{FOUNDING_INDEX, LogIndex, Role};

use super::clients::{KEYS, NEAR};
use super::member::Seat;
use super::planted::Planted;
use super::shards::Shard;
use super::world::World;
use super::{Checked, violation};

/// How much slower a clock runs that makes a lease last too long.
const SLOWED: u64 = 330_000;

impl World<'_> {
    /// A member had a turn: what it applied must be what all apply, and nothing may have gone back.
    pub(super) fn observe(&mut self, seat: Seat) -> Checked {
        let Seat { at, shard } = seat;
        let machine = &mut self.machines[at];
        let (me, rate) = (machine.me, machine.rate);
        let member = &mut machine.members[shard];
        let installed = member.stand().map_or(0, |stand| stand.index.0);
        let Some(process) = &mut machine.process else { return Ok(()) };
        let running = &mut process.running[shard];
        let (store, replica) = (running.driven.owner.store(), running.driven.owner.replica());
        let Shard { oracle, leaders, .. } = &mut self.shards[shard];
        let applied = store.applied();
        if applied < running.compared {
            return violation(format!("member {me} had applied entry {}, and now {applied}", running.compared));
        }
        if installed > running.compared && installed <= applied {
            self.reached.mark("snapshots taken in");
            if store.tables_bytes() > 0 {
                self.reached.mark("snapshots with typed values taken in");
            }
            running.compared = installed;
        }
        for index in running.compared + 1..=applied {
            let Some(entry) = member.entries.get(&index) else {
                return violation(format!("member {me} applied entry {index}, which its log never had"));
            };
            oracle.entry_applied(me, entry)?;
        }
        running.compared = applied;
        let applied_more = applied > member.applied;
        member.applied = member.applied.max(applied);
        // Who joins has nothing before the first snapshot.
        if applied <= oracle.applied() && applied >= FOUNDING_INDEX.0 {
            oracle.agree(me, applied, (store.chain_head(), store.digest()))?;
            let known = oracle.members(applied);
            if let Some(members) = replica.members_at(LogIndex(applied))
                && members != *known
                && self.run.planted.is_none_or(Planted::keeps_members)
            {
                return violation(format!("member {me} has {members:?} at entry {applied}, where they are {known:?}"));
            }
        }
        let committed = replica.committed_index().0;
        if committed < running.committed {
            return violation(format!("member {me} knew entry {} to be committed, now {committed}", running.committed));
        }
        running.committed = committed;
        let standing = replica.standing();
        if standing != running.standing {
            let (was, is) = (running.standing.role, standing.role);
            running.standing = standing;
            running.standings += 1;
            self.trace.note(
                self.now,
                "stands",
                &[at as u64, shard as u64, standing.term.0, u64::from(is == Role::Leader)],
            );
            if was == Role::Leader && is != Role::Leader {
                self.reached.mark("leaders that gave up");
            }
            if is == Role::Leader && was != Role::Leader {
                self.reached.mark("elections");
            }
            if self.run.planted == Some(Planted::LeaseTooLong) {
                let rate = if is == Role::Leader { SLOWED } else { rate };
                process.set_pace(rate, self.now);
            }
        }
        if standing.role == Role::Leader {
            let first = *leaders.entry(standing.term.0).or_insert(at);
            if first != at {
                let (term, first) = (standing.term, self.machines[first].me);
                return violation(format!("members {first} and {me} both lead in term {term}"));
            }
        }
        if applied_more {
            self.trace.note(self.now, "applied", &[at as u64, shard as u64, applied]);
        }
        Ok(())
    }

    /// Whether all members have come to the same state, and no file of theirs is damaged.
    pub(super) fn all_alike(&self) -> bool {
        (0..self.shards.len()).all(|shard| {
            let all = self.shards[shard].oracle.applied();
            let Some(members) = self.in_force(shard) else { return false };
            let alike = members.iter().map(|at| &self.machines[*at]).all(|machine| {
                let process = machine.process.as_ref().filter(|_| machine.is_awake(self.now));
                process.is_some_and(|process| {
                    let driven = &process.running[shard].driven;
                    let owner = &driven.owner;
                    let applied = owner.store().applied() == all && owner.replica().last_index().0 == all;
                    applied && !process.stopping && driven.handle.is_ready()
                })
            });
            alike && self.check_files(shard, &members).is_ok()
        })
    }

    /// How all members stand, for a message.
    pub(super) fn describe(&self) -> String {
        let member = |machine: &super::machine::Machine| match &machine.process {
            None => format!("member {} is down", machine.me),
            Some(process) => {
                let shards = process.running.iter().map(|running| {
                    let ready = if running.driven.handle.is_ready() { "" } else { ", not ready" };
                    format!("{:?}{ready}", running.driven.owner.replica())
                });
                shards.collect::<Vec<_>>().join(", ")
            }
        };
        let members: Vec<String> = self.machines.iter().map(member).collect();
        let known = (0..self.shards.len()).map(|shard| {
            let known = self.leader(shard).and_then(|at| self.members_of(Seat { at, shard }));
            known.map_or("none".into(), |members| format!("{members:?}"))
        });
        let known: Vec<String> = known.collect();
        let busy = self.clients.iter().filter(|client| !client.is_idle()).count();
        let damaged = (0..self.shards.len()).filter_map(|shard| {
            let members = self.in_force(shard)?;
            self.check_files(shard, &members).err().map(|violation| violation.0)
        });
        let damaged: Vec<String> = damaged.collect();
        let (members, known, damaged) = (members.join("; "), known.join("; "), damaged.join("; "));
        format!("{busy} clients wait; {members}; in force: {known}; damaged: {damaged}")
    }

    /// At the end: every member holds what the oracle holds, and the history has an order. Whether it could not be decided.
    pub(super) fn check_end(&mut self) -> Checked<bool> {
        let mut undecided = false;
        for shard in 0..self.shards.len() {
            undecided |= self.check_end_of(shard)?;
        }
        Ok(undecided)
    }

    fn check_end_of(&mut self, shard: usize) -> Checked<bool> {
        let Shard { oracle, histories, .. } = &self.shards[shard];
        let index = oracle.applied();
        let Some(members) = self.in_force(shard) else { return violation("nobody leads at the end") };
        for machine in members.iter().map(|at| &self.machines[*at]) {
            let me = machine.me;
            let Some(handle) = machine.handle(shard) else { return violation(format!("member {me} is down")) };
            let view = handle.newest();
            let now = handle.now(&view);
            for id in [KEYS, NEAR] {
                let Some(collection) = view.collection_by_id(CollectionId(id)) else {
                    return violation(format!("member {me} lost collection {id}"));
                };
                let limit = usize::MAX;
                let request = ScanRequest { after: None, prefix: None, filter: None, limit, bytes_max: limit, now };
                let Ok(page) = collection.scan(&request, &mut || true) else { return violation("a scan was stopped") };
                let mut expected = oracle.live(id, index, now);
                for found in page.records {
                    let same = expected.next().is_some_and(|(key, record)| {
                        key == found.key()
                            && record.version == found.version()
                            && record.value.as_deref() == found.value()
                            && record.deadline == found.deadline()
                            && record.embedding.as_deref() == found.embedding(0).as_deref()
                    });
                    if !same {
                        return violation(format!("at the end member {me} holds {found:?} in collection {id}"));
                    }
                }
                if let Some((key, record)) = expected.next() {
                    return violation(format!("at the end member {me} lacks {key:?} in collection {id}: {record:?}"));
                }
            }
        }
        self.check_tables(shard, &members)?;
        self.check_files(shard, &members)?;
        self.reached.count("requests repeated, and given their first outcome", oracle.repeated());
        self.reached.count("entries applied", index);
        oracle.mark_tables(&mut self.reached);
        let (numbers, undecided) = histories.check()?;
        self.trace.note(self.now, "checked", &numbers);
        Ok(undecided)
    }
}
