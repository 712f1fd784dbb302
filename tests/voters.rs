//! Five voters: any two nodes die at once, the leader among them, and nothing acknowledged is lost or waits for them. How many
//! vote can be set while clients are at work, is kept, and comes to be so whoever is drained, goes or comes.
//!
//! `LOCI_PAIRS=20` makes a long run of it; `LOCI_SEED` chooses the load and who dies.

use std::time::{Duration, Instant};

use loci_client::{ClusterDescription, Error};
use loci_tests::chance::Chance;
use loci_tests::cluster::load::Load;
use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::PATIENCE;
use loci_tests::{say, seed, setting};

/// How long clients go on without the two.
const WITHOUT: Duration = Duration::from_millis(2_500);
/// In what time a call of each client must succeed, two nodes or not: elections take a second, and machines can be busy.
const SILENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);
/// Five nodes at a time are enough for one machine.
static FIVE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits until so many vote in every shard, and says what there is then.
async fn voting(cluster: &Cluster, wanted: usize, what: &str) -> ClusterDescription {
    let (client, begun) = (cluster.client(), Instant::now());
    loop {
        let described = client.describe_cluster().await;
        if let Ok(described) = &described
            && described.leader.is_some()
            && described.shards.len() > 1
            && described.shards.iter().all(|shard| shard.voters.len() == wanted)
        {
            return described.clone();
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {wanted} do not vote: {described:?}\n{}", cluster.logs());
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_five_voters_that_die_at_once_cost_no_acknowledged_write_and_stop_nothing() {
    let _alone = FIVE.lock().await;
    let pairs = setting("LOCI_PAIRS", 3);
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { shards: 2, nodes: 5, ..Plan::default() }).await;
    let client = cluster.client();
    assert_eq!(client.describe_cluster().await.unwrap().voters, 3, "where nobody has said anything");
    for wrong in [0, 1, 2, 4, 6, 7] {
        let refused = client.set_voters(wrong).await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })), "{wrong}: {refused:?}");
    }
    let mut longest = Duration::ZERO;
    for round in 0..pairs {
        let load = Load::begin(&cluster, round, &mut chance);
        if round == 0 {
            // Under load, and asked of any node.
            cluster.client_of(chance.index(5)).set_voters(5).await.unwrap();
        }
        let what = format!("round {round} of LOCI_SEED={seed}");
        assert_eq!(voting(&cluster, 5, &what).await.voters, 5);
        tokio::time::sleep(Duration::from_millis(300 + chance.below(400))).await;
        let leader = cluster.leader().await;
        let second = (leader + 1 + chance.index(4)) % 5;
        let both = [leader, second].map(|number| cluster.nodes[number].take().expect("it runs"));
        both.into_iter().for_each(loci_tests::process::Node::kill);
        tokio::time::sleep(WITHOUT).await;
        cluster.start_again(leader).await;
        cluster.start_again(second).await;
        let report = load.end(&what).await;
        assert!(report.longest < SILENCE, "{what}: nothing succeeded for {:?}\n{}", report.longest, cluster.logs());
        longest = longest.max(report.longest);
    }
    say(&format!(
        "{pairs} pairs of five nodes killed, each with the leader; nothing succeeded for {longest:?} at the worst"
    ));

    // Three again, under load, and the leader stays.
    let load = Load::begin(&cluster, pairs, &mut chance);
    let before = voting(&cluster, 5, "all are back").await;
    client.set_voters(3).await.unwrap();
    let after = voting(&cluster, 3, "three are to vote again").await;
    assert_eq!((after.leader, after.voters), (before.leader, 3));
    client.set_voters(5).await.unwrap();
    voting(&cluster, 5, "and five").await;
    load.end(&format!("changes of LOCI_SEED={seed}")).await;
    // It is kept.
    for number in 0..5 {
        assert!(cluster.nodes[number].take().expect("it runs").terminate().success());
    }
    let again = (0..5).map(|number| loci_tests::cluster::begin(cluster.data(number), cluster.start_of(number)));
    let again: Vec<_> = again.map(tokio::spawn).collect();
    for (number, node) in again.into_iter().enumerate() {
        cluster.nodes[number] = Some(node.await.unwrap());
    }
    assert_eq!(voting(&cluster, 5, "after a start of all").await.voters, 5);
    cluster.same_state().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_five_vote_one_can_be_drained_and_replaced_and_five_vote_again() {
    let _alone = FIVE.lock().await;
    let seed = seed();
    let mut chance = Chance::new(seed);
    let mut cluster = Cluster::start(Plan { shards: 2, nodes: 4, ..Plan::default() }).await;
    let client = cluster.client();
    client.set_voters(5).await.unwrap();
    voting(&cluster, 3, "there are four nodes").await;
    cluster.add().await;
    let five = voting(&cluster, 5, "the fifth has come").await;
    let load = Load::begin(&cluster, 0, &mut chance);
    // There is no sixth: three vote without the one that is drained, the leader here, and five when it may again.
    let drained = five.leader.unwrap();
    client.drain_member(drained).await.unwrap();
    let three = voting(&cluster, 3, "one is drained").await;
    assert!(three.shards.iter().all(|shard| !shard.voters.contains(&drained)), "{three:?}");
    client.undrain_member(drained).await.unwrap();
    voting(&cluster, 5, "it may vote again").await;
    // One goes for good, and a new one comes.
    client.drain_member(drained).await.unwrap();
    client.remove_member(drained).await.unwrap();
    voting(&cluster, 3, "one is gone").await;
    cluster.add().await;
    let now = voting(&cluster, 5, "another has come").await;
    assert!(now.shards.iter().all(|shard| !shard.voters.contains(&drained)), "{now:?}");
    // One that goes without having been drained, where a sixth has come.
    cluster.add().await;
    let gone = now.members.iter().find(|member| member.part == "voter" && Some(member.member) != now.leader).unwrap();
    let number = cluster.addresses.iter().position(|address| *address == gone.address).unwrap();
    cluster.nodes[number].take().expect("it runs").kill();
    client.remove_member(gone.member).await.unwrap();
    let now = voting(&cluster, 5, "the sixth votes in its place").await;
    assert!(now.shards.iter().all(|shard| !shard.voters.contains(&gone.member)), "{now:?}");
    load.end(&format!("LOCI_SEED={seed}\n{}", cluster.logs())).await;
}
