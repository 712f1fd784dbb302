//! Whole shards in one thread, with a made-up network, disks and stores, through the public interface
//! only. A seed is a reproduction.
//!
//! Messages are lost, doubled, late and out of order; members are cut off, killed and powered off with
//! writes in flight; logs are forgotten so that members need snapshots; members are added, promoted,
//! demoted and removed, several at once. Always:
//! - at most one leader a term, and it is a voter;
//! - what one member commits at an index is what every member commits there, ever;
//! - the members as of an index are the same for everyone, in logs, in snapshots and after a restart;
//! - a member commits every index once, in order, from where its store was;
//! - a read is told an index at least as new as everything committed anywhere when it began;
//! - who is told that it is removed is;
//! - with the faults gone, all members soon agree, no change stays half done, and a new write gets through.
//!
//! `LOCI_SEEDS=20000 cargo test --release -p loci-raft --test cluster` runs that many seeds with changes of
//! members; `LOCI_SEED_FIRST` says where to begin.

mod simulation;

use loci_raft::{Message, MessageKind};
use simulation::{Cluster, Counts};

fn run(seed: u64, size: u64, steps: usize) -> Counts {
    run_cluster(Cluster::new(seed, size), steps)
}

fn run_cluster(mut cluster: Cluster, steps: usize) -> Counts {
    for _ in 0..steps {
        cluster.step();
    }
    cluster.calm();
    cluster.compare_logs();
    cluster.counts
}

#[test]
fn three_members_agree_through_everything() {
    let mut total = Counts::default();
    for seed in 0..300 {
        let counts = run(seed, 3, 2500);
        total += counts;
    }
    println!("{total:?}");
    assert!(total.elections > 600 && total.crashes > 1000, "{total:?}");
    assert!(total.reads > 1000 && total.reads_lost > 10, "{total:?}");
    assert!(total.snapshots > 50 && total.proposed > 5000, "{total:?}");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |number| number.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn members_that_come_and_go_agree_through_everything() {
    let first = setting("LOCI_SEED_FIRST", 5000);
    let mut total = Counts::default();
    let seeds = setting("LOCI_SEEDS", 300);
    for seed in first..first + seeds {
        let mut cluster = Cluster::new(seed, 1 + 2 * (seed % 3));
        cluster.changing = true;
        total += run_cluster(cluster, 3000);
    }
    println!("{total:?}");
    assert!(seeds < 300 || total.changes > 3000 && total.removed > 100, "{total:?}");
    assert!(seeds < 300 || total.joints_restarted > 50 && total.leaders_removed > 20, "{total:?}");
    assert!(seeds < 300 || total.joined_by_copy > 20 && total.snapshots > 100, "{total:?}");
    assert!(seeds < 300 || total.reads > 1000 && total.reads_by_learners > 50, "{total:?}");
}

#[test]
fn five_members_agree_through_everything() {
    for seed in 0..40 {
        run(1000 + seed, 5, 3000);
    }
}

#[test]
fn one_member_agrees_with_itself_through_everything() {
    for seed in 0..60 {
        run(2000 + seed, 1, 1500);
    }
}

#[test]
fn a_seed_is_a_reproduction_to_the_byte() {
    let trace = |seed| {
        let mut cluster = Cluster::new(seed, 3);
        cluster.changing = true;
        for _ in 0..3000 {
            cluster.step();
        }
        cluster.calm();
        cluster.trace
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn a_message_of_another_kind_than_the_replica_knows_does_not_travel() {
    // The only kinds that come out of replicas in all these runs are those that a decoder accepts;
    // a snapshot says how far it reaches, the others do not.
    let mut cluster = Cluster::new(11, 3);
    let mut kinds = Vec::new();
    for _ in 0..3000 {
        cluster.step();
        for envelope in &cluster.net {
            let message = Message::decode(&envelope.bytes).unwrap();
            if !kinds.contains(&message.kind()) {
                kinds.push(message.kind());
            }
            let is_snapshot = message.kind() == MessageKind::Snapshot;
            assert_eq!(message.snapshot_index().is_some(), is_snapshot);
        }
    }
    assert!(kinds.len() >= 9, "{kinds:?}");
}
