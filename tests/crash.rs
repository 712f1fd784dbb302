//! The program is killed at random moments under a mixed load. After each restart every acknowledged write is there,
//! nothing unacknowledged is half there, a repeated request takes effect once, and the digest is the one that the
//! acknowledged history must have.
//!
//! `LOCI_KILLS=200` makes the documented long run of it; `LOCI_SEED` chooses the load.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use loci_tests::chance::Chance;
use loci_tests::load::{self, COLLECTIONS, Shared, Writer};
use loci_tests::process::{Node, Start};
use loci_tests::{disks, model, say, seed, setting, skip};

const WRITERS: u64 = 8;

/// What happens to the node while it is written to.
enum Blow<'d> {
    Kill,
    Terminate,
    PowerCut(&'d disks::Disk),
}

/// A load that goes on over restarts.
struct Run {
    writers: Vec<Writer>,
    chance: Chance,
    digest_key: [u8; 32],
    acknowledged: u64,
    refused: u64,
    records: usize,
}

impl Run {
    async fn begin(data: &Path, seed: u64) -> Run {
        let node = Node::start(data).await;
        let mut api = node.api().await;
        for collection in COLLECTIONS {
            api.create(collection.name, collection.embeddings).await;
        }
        assert!(node.terminate().success());
        let mut chance = Chance::new(seed);
        let writers = (0..WRITERS).map(|number| Writer::new(number, chance.fork())).collect();
        Run { writers, chance, digest_key: load::digest_key(data), acknowledged: 0, refused: 0, records: 0 }
    }

    /// Starts the node, checks what it knows, writes for a while, and strikes.
    async fn round(&mut self, data: &Path, blow: Blow<'_>) -> Result<(), String> {
        // Now and then it dies on its way up as well, once or twice in a row.
        while self.chance.percent(20) {
            let after = Duration::from_millis(self.chance.below(60));
            Start::default().with(&["--log-file-mib", "1"]).killed_after(data, after);
        }
        // A small log file makes the log forget its front, and start files anew, within a short run.
        let mut node = Start::default().with(&["--log-file-mib", "1"]).ready(data).await;
        self.verify(&node).await.map_err(|wrong| format!("{wrong}\n--- the node's log:\n{}", node.log()))?;
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        for mut writer in self.writers.drain(..) {
            let (api, shared) = (node.api().await, Arc::clone(&shared));
            tasks.push(tokio::spawn(async move {
                let result = writer.run(api, shared).await;
                (writer, result)
            }));
        }
        let millis = 20 + self.chance.below(400);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        match blow {
            Blow::Kill => node.send_kill(),
            Blow::Terminate => node.send_terminate(),
            Blow::PowerCut(disk) => {
                shared.cut.store(true, Ordering::SeqCst);
                disk.cut();
                node.send_kill();
            }
        }
        let mut wrong = Vec::new();
        for task in tasks {
            let (writer, result) = task.await.expect("a writer does not panic");
            wrong.extend(result.err());
            self.writers.push(writer);
        }
        match blow {
            Blow::Terminate => {
                let status = node.wait_end();
                assert!(status.is_some_and(|status| status.success()), "it was asked to stop: {status:?}");
            }
            Blow::Kill | Blow::PowerCut(_) => node.kill(),
        }
        if let Blow::PowerCut(disk) = blow {
            disk.restore();
        }
        self.acknowledged += shared.acknowledged.load(Ordering::Relaxed);
        self.refused += shared.refused.load(Ordering::Relaxed);
        // So that no short-lived record is left at the next look, whose digest could then be either.
        let fleeting = shared.fleeting_until.load(Ordering::Relaxed);
        let left = fleeting.saturating_sub(load::now_millis());
        if self.chance.percent(50) {
            tokio::time::sleep(Duration::from_millis(left.min(3_000))).await;
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    async fn verify(&mut self, node: &Node) -> Result<(), String> {
        let mut api = node.api().await;
        let found = load::find_all(&mut api).await;
        let known: usize = self.writers.iter().map(|writer| writer.model.records.len()).sum();
        self.records = self.records.max(known);
        for writer in &mut self.writers {
            writer.resolve(&found, &mut api).await?;
        }
        let owned = |place: &model::Place| self.writers.iter().any(|writer| writer.model.get(place).is_some());
        let after = load::find_all(&mut api).await;
        if let Some(stranger) = after.records.keys().find(|place| !owned(place)) {
            return Err(format!("{stranger:?} is there, and nobody wrote it"));
        }
        self.verify_digest(&mut api, &after).await
    }

    /// Short-lived records leave the store when its clock passes their deadlines, which it does by itself.
    async fn verify_digest(&mut self, api: &mut loci_tests::api::Api, found: &model::Found) -> Result<(), String> {
        for writer in &mut self.writers {
            writer.model.check(found).map_err(|wrong| wrong.join("\n"))?;
        }
        let mut tries = 0;
        loop {
            let stats = api.node_stats().await;
            let shard = stats.shards.first().ok_or("the node has no shard")?;
            let lives = |held: &model::Held| match held.deadline {
                model::Deadline::Never => true,
                model::Deadline::At(deadline) => deadline > shard.clock_millis,
                model::Deadline::Between(..) => false,
            };
            let records = self.writers.iter().flat_map(|writer| &writer.model.records).filter(|(_, held)| lives(held));
            let expected = model::digest(&self.digest_key, "default", &COLLECTIONS, records);
            if shard.digest == expected[..] {
                return Ok(());
            }
            tries += 1;
            if tries == 200 {
                let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
                return Err(format!(
                    "the digest is {}, that of the acknowledged history {}; {} records in the node, {} in the model",
                    text(&shard.digest),
                    text(&expected),
                    shard.records,
                    self.writers.iter().map(|writer| writer.model.records.len()).sum::<usize>(),
                ));
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    fn report(&self, what: &str) {
        say(&format!(
            "{what}: {} writes acknowledged, {} refused as they had to be, up to {} records, 0 lost",
            self.acknowledged, self.refused, self.records
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9_and_nothing_is_half_there() {
    let (seed, kills) = (seed(), setting("LOCI_KILLS", 20));
    let data = tempfile::tempdir().unwrap();
    let mut run = Run::begin(data.path(), seed).await;
    for number in 0..kills {
        // Now and then a stop that was asked for, whose way through a restart is another.
        let blow = if number % 10 == 9 { Blow::Terminate } else { Blow::Kill };
        if let Err(wrong) = run.round(data.path(), blow).await {
            panic!("LOCI_SEED={seed}, restart {number}: {wrong}");
        }
    }
    let node = Node::start(data.path()).await;
    if let Err(wrong) = run.verify(&node).await {
        panic!("LOCI_SEED={seed}, at the end: {wrong}");
    }
    assert!(run.acknowledged > kills, "the load hardly wrote: {} writes", run.acknowledged);
    run.report(&format!("{kills} kills"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_power_cuts() {
    let (seed, cuts) = (seed(), setting("LOCI_CUTS", 5));
    let disk = match disks::Disk::image(256) {
        Ok(disk) => disk,
        Err(why) => return skip("what_was_acknowledged_survives_power_cuts", &why),
    };
    let data = disk.path().join("data");
    let mut run = Run::begin(&data, seed).await;
    for number in 0..cuts {
        if let Err(wrong) = run.round(&data, Blow::PowerCut(&disk)).await {
            panic!("LOCI_SEED={seed}, cut {number}: {wrong}");
        }
    }
    let node = Node::start(&data).await;
    if let Err(wrong) = run.verify(&node).await {
        panic!("LOCI_SEED={seed}, at the end: {wrong}");
    }
    node.kill();
    assert!(run.acknowledged > cuts, "the load hardly wrote: {} writes", run.acknowledged);
    run.report(&format!("{cuts} power cuts"));
}
