//! Three nodes as processes of their own, under load: the one that leads is killed again and again. Every acknowledged write
//! is there, every read is as new as it must be (the history of all clients is linearizable), all members end in the same
//! state, and it is told how long clients saw nothing.
//!
//! `LOCI_KILLS=200` makes the documented long run of it; `LOCI_SEED` chooses the load.

use std::time::Duration;

use loci_tests::chance::Chance;
use loci_tests::cluster::load::Load;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::{say, seed, setting};

/// How long each round lasts, at least.
const ROUND: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_costs_no_acknowledged_write_and_no_stale_read() {
    let kills = setting("LOCI_KILLS", 5);
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan::default()).await;
    let (mut gaps, mut made) = (Vec::new(), 0);
    for round in 0..kills {
        let load = Load::begin(&cluster, round, &mut chance);
        tokio::time::sleep(Duration::from_millis(300 + chance.below(400))).await;
        let leader = cluster.leader().await;
        cluster.nodes[leader].take().expect("it runs").kill();
        tokio::time::sleep(ROUND).await;
        cluster.start_again(leader).await;
        tokio::time::sleep(Duration::from_millis(chance.below(500))).await;
        let report = load.end(&format!("round {round} of LOCI_SEED={seed}")).await;
        gaps.push(report.longest);
        made += report.calls;
    }
    cluster.same_state().await;
    gaps.sort();
    say(&format!(
        "{kills} leaders killed under {made} calls; nothing succeeded for {:?} at the middle, {:?} at the worst",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    ));
}
