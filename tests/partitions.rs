//! Three nodes as processes of their own, under load, while what is between them or under them fails: links are cut in both
//! directions, in one, and slow; the one that leads is stopped by a signal for longer than its lease; disks are full, slow, and lose
//! their power. Every history is linearizable, every acknowledged memory is found, and all members end in the same state.
//!
//! A proxy before each node cuts its links, so this is also what the program's connections do when they break, are kept alive
//! and made again. `LOCI_ROUNDS=100` makes the documented long run of each; `LOCI_SEED` chooses the load.

use std::time::{Duration, Instant};

use loci_client::{Client, Record};
use loci_tests::chance::Chance;
use loci_tests::cluster::links::Link;
use loci_tests::cluster::load::{Load, answer};
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::disks::{Ballast, Disk, Syncs};
use loci_tests::linearizable::records::Action;
use loci_tests::process::PATIENCE;
use loci_tests::{say, seed, setting, skip};

const CUT: Link = Link { cut: true, delay: Duration::ZERO };
/// How long a link stays cut at least: longer than an election takes and than a dead connection is noticed after.
const BROKEN: Duration = Duration::from_millis(2_500);

/// Writes, whoever leads; fails if nobody does before long.
async fn must_write(client: &Client, what: &str) {
    let begun = Instant::now();
    loop {
        let written = client.collection("default", "cache").put(Record::new("probe").with_value("probe")).await;
        match written {
            Ok(_) => return,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{what}: no write gets through: {error}"),
        }
    }
}

/// What is done to the links of a cluster whose `leader` leads.
const CUTS: [&str; 7] = [
    "the leader is cut off",
    "nobody hears the leader",
    "the leader hears nobody",
    "the leader and one other are cut off from each other",
    "one that follows is cut off",
    "one that follows is not heard",
    "all links are slow",
];

fn cut(cluster: &Cluster, leader: usize, how: usize) {
    let links = cluster.links.as_ref().expect("there are proxies");
    let others: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    match how {
        0 => links.between(&[leader], &others, CUT),
        1 => others.iter().for_each(|other| links.set(leader, *other, CUT)),
        2 => others.iter().for_each(|other| links.set(*other, leader, CUT)),
        3 => links.between(&[leader], &others[..1], CUT),
        4 => links.between(&[others[0]], &[leader, others[1]], CUT),
        5 => [leader, others[1]].into_iter().for_each(|to| links.set(others[0], to, CUT)),
        _ => {
            let slow = Link { cut: false, delay: Duration::from_millis(60) };
            links.between(&[leader], &others, slow);
            links.between(&others[..1], &others[1..], slow);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_break_cost_no_acknowledged_write_and_no_stale_read() {
    let (rounds, seed) = (setting("LOCI_ROUNDS", CUTS.len() as u64), seed());
    let mut chance = Chance::new(seed);
    let cluster = Cluster::start(Plan { links: true, ..Plan::default() }).await;
    let (mut longest, mut made) = (Duration::ZERO, 0);
    for round in 0..rounds {
        let how = round as usize % CUTS.len();
        let load = Load::begin(&cluster, round, &mut chance);
        tokio::time::sleep(Duration::from_millis(200 + chance.below(300))).await;
        let leader = cluster.leader().await;
        cut(&cluster, leader, how);
        tokio::time::sleep(BROKEN).await;
        // Most can still speak with each other.
        must_write(&cluster.client(), CUTS[how]).await;
        cluster.links.as_ref().expect("there are proxies").heal();
        tokio::time::sleep(Duration::from_millis(300 + chance.below(500))).await;
        let report = load.end(&format!("{} in round {round} of LOCI_SEED={seed}", CUTS[how])).await;
        longest = longest.max(report.longest);
        made += report.calls;
    }
    cluster.same_state().await;
    say(&format!("{rounds} times links broke under {made} calls; nothing succeeded for {longest:?} at the worst"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_stopped_and_goes_on_answers_nothing_stale() {
    let (rounds, seed) = (setting("LOCI_ROUNDS", 3), seed());
    let mut chance = Chance::new(seed);
    let cluster = Cluster::start(Plan::default()).await;
    let (mut made, mut after) = (0, 0);
    for round in 0..rounds {
        let load = Load::begin(&cluster, round, &mut chance);
        tokio::time::sleep(Duration::from_millis(200 + chance.below(300))).await;
        let leader = cluster.leader().await;
        cluster.node(leader).send_stop();
        // While it stands still others lead and write; these reads wait in its socket, and it answers them first of all when
        // it goes on.
        let asked: Vec<_> = (0..16)
            .map(|number| {
                let (client, calls) = (cluster.client_of(leader), load.calls.clone());
                let (key, wait) = (Load::key(round, number % 4), Duration::from_millis(number as u64 * 120));
                tokio::spawn(async move {
                    tokio::time::sleep(wait).await;
                    let id = calls.invoke(100 + number as u64, Action::get(&key));
                    match client.collection("default", "cache").get(key).await {
                        Ok(found) => calls.ok(id, answer(found.as_ref()).0),
                        Err(_) => calls.failed(id),
                    }
                })
            })
            .collect();
        tokio::time::sleep(BROKEN).await;
        let next = cluster.leader_but(Some(leader)).await;
        must_write(&cluster.client_of(next), "the leader is stopped").await;
        cluster.node(leader).send_go_on();
        for asked in asked {
            after += u64::from(asked.await.is_ok());
        }
        tokio::time::sleep(Duration::from_millis(chance.below(500))).await;
        made += load.end(&format!("round {round} of LOCI_SEED={seed}")).await.calls;
    }
    cluster.same_state().await;
    assert!(after > 0, "nothing was asked of a leader that stood still");
    say(&format!(
        "{rounds} leaders stopped for {BROKEN:?} under {made} calls, {after} of them to the one that stood still"
    ));
}

/// Puts until something is so. Every put must get through, however full one disk is.
async fn fill_until(cluster: &Cluster, what: &str, is_so: impl AsyncFn() -> bool) -> u64 {
    let client = cluster.client();
    let cache = client.collection("default", "cache");
    let begun = Instant::now();
    let mut written = 0;
    while !is_so().await {
        for _ in 0..8 {
            let record = Record::new(format!("large {}", written % 16)).with_value(vec![7; 50_000]);
            let put = cache.put(record).await;
            assert!(put.is_ok(), "{what}: {put:?} after {written} writes\n{}", cluster.logs());
            written += 1;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: it is not so after {written} writes");
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_one_node_stops_no_write() {
    let name = "a_full_disk_of_one_node_stops_no_write";
    let (rounds, seed) = (setting("LOCI_ROUNDS", 2), seed());
    let mut chance = Chance::new(seed);
    let mut disks = Vec::new();
    for _ in 0..3 {
        match Disk::small(96) {
            Ok(disk) => disks.push(disk),
            Err(why) => return skip(name, &why),
        }
    }
    let data = disks.iter().enumerate().map(|(number, disk)| (number, disk.path().join("data"))).collect();
    let cluster = Cluster::start(Plan { data, ..Plan::default() }).await;
    let mut made = 0;
    for round in 0..rounds {
        let load = Load::begin(&cluster, round, &mut chance);
        let leader = cluster.leader().await;
        // Of the one that leads, then of one that follows.
        let full = if round % 2 == 0 { leader } else { (leader + 1) % 3 };
        let ballast = Ballast::fill(&disks[full].path());
        if full == leader {
            fill_until(&cluster, "the leader's disk is full", async || {
                let described = cluster.client().describe_cluster().await;
                let leads = described.iter().find_map(|described| {
                    described.members.iter().find(|member| Some(member.member) == described.leader)
                });
                leads.is_some_and(|member| member.address != cluster.advertised(full))
            })
            .await;
        } else {
            fill_until(&cluster, "the disk of one that follows is full", async || {
                cluster.node(full).log().contains("the disk is full")
            })
            .await;
        }
        must_write(&cluster.client(), "one disk is full").await;
        drop(ballast);
        made += load.end(&format!("round {round} of LOCI_SEED={seed}")).await.calls;
        cluster.same_state().await;
    }
    say(&format!("{rounds} full disks under {made} calls"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_one_node_costs_no_acknowledged_write() {
    let name = "a_power_cut_of_one_node_costs_no_acknowledged_write";
    let (rounds, seed) = (setting("LOCI_ROUNDS", 3), seed());
    let mut chance = Chance::new(seed);
    let mut disks = Vec::new();
    for _ in 0..3 {
        match Disk::image(128) {
            Ok(disk) => disks.push(disk),
            Err(why) => return skip(name, &why),
        }
    }
    let data = disks.iter().enumerate().map(|(number, disk)| (number, disk.path().join("data"))).collect();
    let mut cluster = Cluster::start(Plan { data, ..Plan::default() }).await;
    let mut made = 0;
    for round in 0..rounds {
        let load = Load::begin(&cluster, round, &mut chance);
        tokio::time::sleep(Duration::from_millis(200 + chance.below(600))).await;
        let leader = cluster.leader().await;
        let struck = if chance.percent(60) { leader } else { (leader + 1) % 3 };
        // It says nothing more from here on: what the file system says of a sync while it is being shut down may be false.
        let node = cluster.nodes[struck].take().expect("it runs");
        node.send_stop();
        disks[struck].cut();
        node.kill();
        must_write(&cluster.client(), "the power of one is cut").await;
        tokio::time::sleep(Duration::from_millis(chance.below(500))).await;
        disks[struck].restore();
        cluster.start_again(struck).await;
        tokio::time::sleep(Duration::from_millis(chance.below(300))).await;
        made += load.end(&format!("round {round} of LOCI_SEED={seed}")).await.calls;
        cluster.same_state().await;
    }
    cluster.nodes.clear();
    say(&format!("{rounds} power cuts of one of three under {made} calls"));
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_become_slow_cost_no_acknowledged_write() {
    let (rounds, seed) = (setting("LOCI_ROUNDS", 4), seed());
    let mut chance = Chance::new(seed);
    let cluster = Cluster::start(Plan::default()).await;
    let (mut made, mut longest) = (0, Duration::ZERO);
    for round in 0..rounds {
        let load = Load::begin(&cluster, round, &mut chance);
        let leader = cluster.leader().await;
        // Each sync takes so much longer: of the one that leads, of one that follows, of all three, and of the leader's so long that
        // it stands still.
        let (slow, millis) = match round % 4 {
            0 => (vec![leader], 300),
            1 => (vec![(leader + 1) % 3], 300),
            2 => (vec![0, 1, 2], 100),
            _ => (vec![leader], 3_000),
        };
        let inject =
            |number: &usize| Syncs::inject(cluster.node(*number).id(), &format!("delay_exit={}", millis * 1_000));
        let syncs: Result<Vec<Syncs>, String> = slow.iter().map(inject).collect();
        let syncs = match syncs {
            Ok(syncs) => syncs,
            Err(why) => return skip("disks_that_become_slow_cost_no_acknowledged_write", &why),
        };
        tokio::time::sleep(BROKEN).await;
        must_write(&cluster.client(), "disks are slow").await;
        // Nobody waits for the disk of one that leads for longer than it takes to notice.
        assert!(
            slow != [leader] || cluster.leader().await != leader,
            "{millis} ms a sync and it leads still\n{}",
            cluster.logs()
        );
        tokio::task::spawn_blocking(|| drop(syncs)).await.expect("the tracer ends");
        tokio::time::sleep(Duration::from_millis(300 + chance.below(300))).await;
        let report = load.end(&format!("{millis} ms a sync of {slow:?} in round {round} of LOCI_SEED={seed}")).await;
        longest = longest.max(report.longest);
        made += report.calls;
        cluster.same_state().await;
    }
    say(&format!("{rounds} times disks were slow under {made} calls; nothing succeeded for {longest:?} at the worst"));
}
