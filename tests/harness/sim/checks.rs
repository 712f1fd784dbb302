//! Whether everything is as it must be: after every turn of a member, and at the end.

use loci_index::record::CollectionId;
use loci_index::view::ScanRequest;
use loci_raft::{FOUNDING_INDEX, Role};

use super::clients::{KEYS, NEAR};
use super::planted::Planted;
use super::world::World;
use super::{Checked, violation};

/// How much slower a clock runs that makes a lease last too long.
const SLOWED: u64 = 330_000;

impl World<'_> {
    /// A member had a turn: what it applied must be what all apply, and nothing may have gone back.
    pub(super) fn observe(&mut self, at: usize) -> Checked {
        let machine = &mut self.machines[at];
        let me = machine.me;
        let installed = machine.stand().map_or(0, |stand| stand.index.0);
        let Some(process) = &mut machine.process else { return Ok(()) };
        let (store, replica) = (process.driven.owner.store(), process.driven.owner.replica());
        let applied = store.applied();
        if applied < process.compared {
            return violation(format!("member {me} had applied entry {}, and now {applied}", process.compared));
        }
        if installed > process.compared && installed <= applied {
            self.reached.mark("snapshots taken in");
            if store.tables_bytes() > 0 {
                self.reached.mark("snapshots with typed values taken in");
            }
            process.compared = installed;
        }
        for index in process.compared + 1..=applied {
            let Some((term, data)) = machine.entries.get(&index) else {
                return violation(format!("member {me} applied entry {index}, which its log never had"));
            };
            self.oracle.entry_applied(me, index, *term, data)?;
        }
        process.compared = applied;
        let applied_more = applied > machine.applied;
        machine.applied = machine.applied.max(applied);
        // Who joins has nothing before the first snapshot.
        if applied <= self.oracle.applied() && applied >= FOUNDING_INDEX.0 {
            self.oracle.agree(me, applied, (store.chain_head(), store.digest()))?;
        }
        let committed = replica.committed_index().0;
        if committed < process.committed {
            return violation(format!("member {me} knew entry {} to be committed, now {committed}", process.committed));
        }
        process.committed = committed;
        let standing = replica.standing();
        if standing != process.standing {
            let (was, is) = (process.standing.role, standing.role);
            process.standing = standing;
            process.standings += 1;
            self.trace.note(self.now, "stands", &[at as u64, standing.term.0, u64::from(is == Role::Leader)]);
            if was == Role::Leader && is != Role::Leader {
                self.reached.mark("leaders that gave up");
            }
            if is == Role::Leader && was != Role::Leader {
                self.reached.mark("elections");
            }
            if self.run.planted == Some(Planted::LeaseTooLong) {
                let rate = if is == Role::Leader { SLOWED } else { machine.rate };
                process.set_pace(rate, self.now);
            }
        }
        if standing.role == Role::Leader {
            let first = *self.leaders.entry(standing.term.0).or_insert(at);
            if first != at {
                let (term, first) = (standing.term, self.machines[first].me);
                return violation(format!("members {first} and {me} both lead in term {term}"));
            }
        }
        if applied_more {
            self.trace.note(self.now, "applied", &[at as u64, applied]);
        }
        Ok(())
    }

    /// Whether all members have come to the same state.
    pub(super) fn all_alike(&self) -> bool {
        let all = self.oracle.applied();
        let Some(members) = self.in_force() else { return false };
        members.into_iter().map(|at| &self.machines[at]).all(|machine| {
            let process = machine.process.as_ref().filter(|_| machine.is_awake(self.now));
            process.is_some_and(|process| {
                let owner = &process.driven.owner;
                let applied = owner.store().applied() == all && owner.replica().last_index().0 == all;
                applied && !process.stopping && process.driven.handle.is_ready()
            })
        })
    }

    /// How all members stand, for a message.
    pub(super) fn describe(&self) -> String {
        let member = |machine: &super::machine::Machine| match &machine.process {
            None => format!("member {} is down", machine.me),
            Some(process) => {
                let ready = if process.driven.handle.is_ready() { "" } else { ", not ready" };
                format!("{:?}{ready}", process.driven.owner.replica())
            }
        };
        let members: Vec<String> = self.machines.iter().map(member).collect();
        let busy = self.clients.iter().filter(|client| !client.is_idle()).count();
        format!("{busy} clients wait; {}", members.join("; "))
    }

    /// At the end: every member holds what the oracle holds, and the history has an order. Whether it could not be decided.
    pub(super) fn check_end(&mut self) -> Checked<bool> {
        let index = self.oracle.applied();
        let Some(members) = self.in_force() else { return violation("nobody leads at the end") };
        for machine in members.iter().map(|at| &self.machines[*at]) {
            let me = machine.me;
            let Some(handle) = machine.handle() else { return violation(format!("member {me} is down")) };
            let view = handle.newest();
            let now = handle.now(&view);
            for id in [KEYS, NEAR] {
                let Some(collection) = view.collection_by_id(CollectionId(id)) else {
                    return violation(format!("member {me} lost collection {id}"));
                };
                let limit = usize::MAX;
                let request = ScanRequest { after: None, prefix: None, filter: None, limit, bytes_max: limit, now };
                let Ok(page) = collection.scan(&request, &mut || true) else { return violation("a scan was stopped") };
                let mut expected = self.oracle.live(id, index, now);
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
        self.check_tables(&members)?;
        self.reached.count("requests repeated, and given their first outcome", self.oracle.repeated());
        self.reached.count("entries applied", index);
        self.oracle.mark_tables(&mut self.reached);
        let (numbers, undecided) = self.histories.check()?;
        self.trace.note(self.now, "checked", &numbers);
        Ok(undecided)
    }
}
