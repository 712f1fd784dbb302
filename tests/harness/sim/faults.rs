//! What goes wrong in a run: which faults, how often, drawn for each seed.
//!
//! Each seed has its own menu, in which many dishes are missing: a run with everything at once finds other things than one
//! with only partitions.

use super::{MILLIS, Nanos, SECONDS};
use crate::chance::Chance;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A machine loses its power.
    PowerCut,
    /// The one that leads does.
    LeaderPowerCut,
    /// A process is killed; its machine lives.
    Kill,
    /// A process is told to stop.
    Stop,
    /// A process is stopped by a signal for a while.
    Pause,
    /// The one that leads is.
    LeaderPause,
    /// Nobody hears a member, which hears nobody.
    Isolate,
    /// The one that leads is isolated.
    IsolateLeader,
    /// Two halves.
    Split,
    /// One link is cut in one direction.
    OneWay,
    /// All links work again.
    Heal,
    /// A time of day jumps.
    ClockJump,
    /// A sync of the log fails.
    SyncFails,
    /// Syncs of the log take long for a while.
    SlowDisk,
    /// A write or sync of a checkpoint fails.
    JobFails,
    /// The one that leads asks another to lead.
    Transfer,
    /// Everything loses its power at once.
    Blackout,
    /// Somebody is to join, to get a vote, to lose it, or to go.
    Change,
    /// There is no space for another file of the log, for a while.
    DiskFull,
    /// Two sides that reach each other only through one machine, which itself reaches all.
    Bridge,
    /// One machine after the other is cut off, and comes back, in another order.
    Swizzle,
    /// All that is on its way between two machines is lost, as where a connection is reset.
    Reset,
    /// A file of a store changes while its process runs.
    Rot,
}

const MENU: [(Fault, &str, u64); 17] = [
    (Fault::PowerCut, "power cut", 10),
    (Fault::LeaderPowerCut, "power cut of the leader", 8),
    (Fault::Kill, "kill", 8),
    (Fault::Stop, "stop", 5),
    (Fault::Pause, "pause", 6),
    (Fault::LeaderPause, "pause of the leader", 8),
    (Fault::Isolate, "isolation", 6),
    (Fault::IsolateLeader, "isolation of the leader", 10),
    (Fault::Split, "split", 5),
    (Fault::OneWay, "one-way cut", 8),
    (Fault::Heal, "network healed", 20),
    (Fault::ClockJump, "time of day jumps", 5),
    (Fault::SyncFails, "next sync fails", 3),
    (Fault::SlowDisk, "slow disk", 6),
    (Fault::JobFails, "next job fails", 5),
    (Fault::Transfer, "transfer", 6),
    (Fault::Blackout, "blackout", 1),
];

/// A seed's faults.
#[derive(Debug, Clone)]
pub struct Menu {
    weights: Vec<(Fault, &'static str, u64)>,
    /// How often members change, beside the weights of the others.
    pub changes: u64,
    /// How often a disk is full, beside them.
    pub full: u64,
    /// How often the network fails in one of its rarer ways, beside them.
    pub links: u64,
    /// The longest time between two faults.
    pub every: Nanos,
    /// How long a machine is down at most.
    pub down: Nanos,
    /// How long a process is stopped by a signal at most.
    pub paused: Nanos,
    /// Of a hundred starts so many are cut short by another power cut.
    pub start_fails: u64,
    /// Of a hundred starts so many find a damaged file.
    pub rot: u64,
    /// Of a hundred starts so many cannot read a file.
    pub unreadable: u64,
    /// How often a file is damaged while its process runs, beside the weights of the others.
    pub rots: u64,
    /// Of a hundred checkpoints and merges so many end in a power cut.
    pub job_dies: u64,
}

impl Menu {
    /// Draws one.
    pub fn draw(chance: &mut Chance) -> Menu {
        let mut weights = Vec::new();
        for (fault, name, weight) in MENU {
            let served = fault == Fault::Heal || chance.percent(60);
            weights.push((fault, name, if served { weight * (1 + chance.below(4)) } else { 0 }));
        }
        Menu {
            weights,
            changes: 0,
            full: 0,
            links: 0,
            every: [300 * MILLIS, SECONDS, 3 * SECONDS, 8 * SECONDS][chance.index(4)],
            down: [100 * MILLIS, SECONDS, 5 * SECONDS][chance.index(3)],
            paused: [200 * MILLIS, 2 * SECONDS, 6 * SECONDS][chance.index(3)],
            start_fails: [0, 10, 40][chance.index(3)],
            rot: [0, 0, 20][chance.index(3)],
            unreadable: 0,
            rots: 0,
            job_dies: [0, 2, 10][chance.index(3)],
        }
    }

    /// One in which elections and syncs are cut short: for a mistake that matters only in the moments after a vote, or meanwhile.
    pub fn restless(chance: &mut Chance) -> Menu {
        let served = [
            Fault::PowerCut,
            Fault::LeaderPowerCut,
            Fault::IsolateLeader,
            Fault::Split,
            Fault::OneWay,
            Fault::Heal,
            Fault::SlowDisk,
        ];
        let weights = MENU
            .into_iter()
            .filter(|(fault, ..)| served.contains(fault))
            .map(|(fault, name, weight)| (fault, name, weight + 10));
        let weights = weights.collect();
        Menu {
            weights,
            every: 400 * MILLIS,
            down: 100 * MILLIS,
            start_fails: 0,
            rot: 0,
            job_dies: 0,
            ..Menu::draw(chance)
        }
    }

    /// What goes wrong next, and its name.
    pub fn choose(&self, chance: &mut Chance) -> (Fault, &'static str) {
        let others: u64 = self.weights.iter().map(|(.., weight)| weight).sum();
        let mut at = chance.below(others + self.changes + self.full + self.links + self.rots);
        if at >= others + self.changes + self.full + self.links {
            return (Fault::Rot, "rot");
        }
        if at >= others + self.changes + self.full {
            return [(Fault::Bridge, "bridge"), (Fault::Swizzle, "swizzle"), (Fault::Reset, "reset")][chance.index(3)];
        }
        if at >= others + self.changes {
            return (Fault::DiskFull, "full disk");
        }
        if at >= others {
            return (Fault::Change, "change of members");
        }
        for (fault, name, weight) in &self.weights {
            if at < *weight {
                return (*fault, name);
            }
            at -= weight;
        }
        (Fault::Heal, "network healed")
    }
}
