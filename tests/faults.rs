//! What the program does when the machine under it fails, or what it is given is not its own: it stops with a clear last
//! line, refuses with a name and what to do, or goes on as far as it can. It never guesses.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use loci_tests::api::{self, Api};
use loci_tests::chance::Chance;
use loci_tests::cluster::files_below;
use loci_tests::disks::{Ballast, Disk, Syncs};
use loci_tests::load::reason;
use loci_tests::process::{Node, PATIENCE, Start};
use loci_tests::{say, seed, skip};
use loci_wire::v1;
use tonic::Code;

async fn put(api: &mut Api, key: &str, value: &[u8]) -> Result<v1::WriteReply, tonic::Status> {
    let request = v1::PutRequest {
        collection: api::collection("things"),
        records: vec![api::record(key.as_bytes(), value)],
        ..Default::default()
    };
    api.records.put(request).await.map(tonic::Response::into_inner)
}

async fn values(api: &mut Api) -> BTreeMap<String, Vec<u8>> {
    let record = |record: v1::Record| {
        (String::from_utf8_lossy(&record.key).into_owned(), record.value.unwrap_or_default().to_vec())
    };
    api.all("things").await.into_iter().map(record).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_stops_the_process_and_loses_nothing_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::start(data.path()).await;
    let mut api = node.api().await;
    api.create("things", &[]).await;
    let tracer = match Syncs::inject(node.id(), "error=EIO:when=5+") {
        Ok(tracer) => tracer,
        Err(why) => {
            return skip("a_failed_sync_stops_the_process_and_loses_nothing_acknowledged", &why);
        }
    };
    let mut acknowledged = Vec::new();
    let failed = loop {
        let key = format!("key {}", acknowledged.len());
        match put(&mut api, &key, b"value").await {
            Ok(_) => acknowledged.push(key),
            Err(status) => break status,
        }
        assert!(acknowledged.len() < 1_000, "the sync that failed stopped nothing");
    };
    assert!(reason(&failed).is_none_or(|reason| reason != "disk_full"), "{failed:?}");
    let status = node.wait_end().expect("it stops by itself");
    drop(tracer);
    assert_eq!(status.code(), Some(3), "{}", node.log());
    let last = node.last_line();
    assert!(last.contains("stopped") && last.contains("sync"), "the last line is {last:?}");
    drop(node);
    let node = Node::start(data.path()).await;
    let found = values(&mut node.api().await).await;
    for key in &acknowledged {
        assert!(found.contains_key(key), "{key} was acknowledged");
    }
    assert!(found.len() <= acknowledged.len() + 1, "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers() {
    let disk = match Disk::small(48) {
        Ok(disk) => disk,
        Err(why) => return skip("a_full_disk_refuses_writes_serves_reads_and_recovers", &why),
    };
    let data = disk.path().join("data");
    let start = || Start::default().with(&["--log-file-mib", "1"]);
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    api.create("things", &[]).await;
    let mut acknowledged = BTreeMap::new();
    let value = |number: usize| vec![(number % 251) as u8; 50_000];
    let mut number = 0;
    for _ in 0..20 {
        number += 1;
        put(&mut api, &format!("key {number}"), &value(number)).await.unwrap();
        acknowledged.insert(format!("key {number}"), value(number));
    }
    let ballast = Ballast::fill(&disk.path());
    let refused = loop {
        number += 1;
        match put(&mut api, &format!("key {number}"), &value(number)).await {
            Ok(_) => acknowledged.insert(format!("key {number}"), value(number)),
            Err(status) => break status,
        };
        assert!(number < 2_000, "a full disk refuses nothing");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}\n{}", node.log());
    assert_eq!(reason(&refused).as_deref(), Some("disk_full"), "{refused:?}");
    assert!(values(&mut api).await == acknowledged, "reads go on and show what was acknowledged");
    // Still full: a restart serves reads too, and refuses writes as before.
    node.kill();
    let node = start().ready(&data).await;
    let mut api = node.api().await;
    assert!(values(&mut api).await == acknowledged, "a restart on a full disk shows what was acknowledged");
    drop(ballast);
    let begin = Instant::now();
    loop {
        number += 1;
        match put(&mut api, &format!("key {number}"), &value(number)).await {
            Ok(_) => break,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}\n{}", node.log());
                assert!(begin.elapsed() < PATIENCE, "there is room again, and writes are still refused: {status:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    acknowledged.insert(format!("key {number}"), value(number));
    assert!(values(&mut api).await == acknowledged);
    node.kill();
    let node = start().ready(&data).await;
    assert!(values(&mut node.api().await).await == acknowledged);
    node.kill();
}

/// A data directory with everything in it: segments, answered requests, and a log that goes on after them.
async fn furnish(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut chance = Chance::new(7);
    let node = Node::start(data).await;
    let mut api = node.api().await;
    api.create("things", &[("text", 8, v1::Metric::Cosine)]).await;
    let mut records = BTreeMap::new();
    for page in 0..9 {
        let record = |number: usize| {
            let components: Vec<f32> = (0..8).map(|_| chance.component()).collect();
            let mut record = api::record(format!("key {}", page * 1_000 + number).as_bytes(), b"value");
            record.embeddings = vec![api::embedding("text", &components)];
            record
        };
        let page: Vec<v1::Record> = (0..1_000).map(record).collect();
        records
            .extend(page.iter().map(|record| (String::from_utf8_lossy(&record.key).into_owned(), b"value".to_vec())));
        let request = v1::PutRequest {
            origin: api::origin(format!("page {}", records.len()).as_bytes()),
            collection: api::collection("things"),
            records: page,
            ..Default::default()
        };
        api.records.put(request).await.unwrap();
    }
    api.wait_indexed("things", PATIENCE).await;
    put(&mut api, "last", b"last").await.unwrap();
    records.insert("last".into(), b"last".to_vec());
    node.kill();
    records
}

fn copy_tree(from: &Path, to: &Path) {
    for file in files_below(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&file, target).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_directory_is_an_error_that_names_the_file_or_changes_nothing() {
    let seed = seed();
    let mut chance = Chance::new(seed);
    let whole = tempfile::tempdir().unwrap();
    let expected = furnish(whole.path()).await;
    let (mut refused, mut unharmed) = (0, 0);
    for file in files_below(whole.path()) {
        let name = file.strip_prefix(whole.path()).unwrap().to_str().unwrap().to_owned();
        let length = fs::metadata(&file).unwrap().len();
        if name == "LOCK" || length == 0 {
            continue;
        }
        let anywhere: Vec<u64> = (0..4).map(|_| chance.below(length)).collect();
        for at in [0, length / 2, length - 1].into_iter().chain(anywhere) {
            let bit = chance.below(8);
            let context = format!("LOCI_SEED={seed}: {name}, bit {bit} of byte {at} of {length}");
            let damaged = tempfile::tempdir().unwrap();
            copy_tree(whole.path(), damaged.path());
            let path = damaged.path().join(&name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[at as usize] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
            match Start::default().listen(damaged.path()) {
                Err(ended) => {
                    refused += 1;
                    let file = Path::new(&name).file_name().unwrap().to_str().unwrap();
                    assert!(ended.status.code().is_some_and(|code| code != 101), "{context}: {ended:?}");
                    assert!(ended.log.contains(file), "{context}: the error does not name {file}: {}", ended.log);
                }
                Ok(mut node) => {
                    unharmed += 1;
                    node.wait_ready().await;
                    let found = values(&mut node.api().await).await;
                    assert!(found == expected, "{context}: the node started, with other records");
                }
            }
        }
    }
    say(&format!("damage: {refused} refused with the file's name, {unharmed} where nothing lay"));
    assert!(refused > 20, "{refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_is_an_error_that_says_what_is_missing() {
    let whole = tempfile::tempdir().unwrap();
    let expected = furnish(whole.path()).await;
    let mut refused = Vec::new();
    for file in files_below(whole.path()) {
        let name = file.strip_prefix(whole.path()).unwrap();
        let base = name.file_name().unwrap().to_str().unwrap().to_owned();
        // The log's files beyond its end are only there to be used next.
        if base == "LOCK" || name.starts_with("log") {
            continue;
        }
        let lacking = tempfile::tempdir().unwrap();
        copy_tree(whole.path(), lacking.path());
        fs::remove_file(lacking.path().join(name)).unwrap();
        match Start::default().listen(lacking.path()) {
            Err(ended) => {
                assert!(ended.log.contains(&base) || base == "IDENTITY", "without {}: {}", name.display(), ended.log);
                refused.push(base);
            }
            // A kill can leave a file behind that the store no longer needs, or does not need yet.
            Ok(node) => {
                let found = values(&mut node.api().await).await;
                assert!(found == expected, "without {} the node starts with other records", name.display());
            }
        }
    }
    for needed in ["IDENTITY", "MANIFEST", "segment-"] {
        assert!(refused.iter().any(|name| name.starts_with(needed)), "{needed} is not needed? {refused:?}");
    }
    let lacking = tempfile::tempdir().unwrap();
    copy_tree(whole.path(), lacking.path());
    fs::remove_dir_all(lacking.path().join("log")).unwrap();
    let ended = Node::refused(lacking.path(), &[]);
    assert!(ended.log.contains("log"), "without its log: {}", ended.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_directory_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "all my work").unwrap();
    let ended = Node::refused(folder.path(), &[]);
    assert!(ended.log.contains("thesis.tex"), "{}", ended.log);
    assert_eq!(fs::read_to_string(folder.path().join("thesis.tex")).unwrap(), "all my work");
    let file = folder.path().join("thesis.tex");
    let ended = Node::refused(&file, &[]);
    assert!(ended.log.contains("thesis.tex"), "{}", ended.log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_a_newer_version_is_refused_and_not_touched() {
    let data = tempfile::tempdir().unwrap();
    assert!(Node::start(data.path()).await.terminate().success());
    let path = data.path().join("IDENTITY");
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] += 1;
    let end = bytes.len() - 4;
    let crc = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &bytes).unwrap();
    let before: Vec<_> = files_below(data.path()).into_iter().map(|file| (fs::read(&file).unwrap(), file)).collect();
    let ended = Node::refused(data.path(), &[]);
    assert!(ended.log.contains("IDENTITY") && ended.log.contains("newer"), "{}", ended.log);
    for (bytes, file) in before.iter().filter(|(_, file)| !file.ends_with("LOCK")) {
        assert!(fs::read(file).unwrap() == *bytes, "{} was changed", file.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_directory_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    let ended = Node::refused(data.path(), &[]);
    let path = data.path().to_str().unwrap();
    assert!(ended.log.contains(path) && ended.log.contains(&node.id().to_string()), "{}", ended.log);
    let mut api = node.api().await;
    api.create("things", &[]).await;
    put(&mut api, "key", b"value").await.unwrap();
    node.kill();
    // The lock goes with its holder, however it ended.
    Node::start(data.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_asked_for_answers_what_is_under_way_and_ends_well() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path()).await;
    let mut api = node.api().await;
    api.create("things", &[]).await;
    let mut tasks = Vec::new();
    for task in 0..8 {
        let mut api = node.api().await;
        tasks.push(tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                let key = format!("{task}/{number}");
                match put(&mut api, &key, b"value").await {
                    Ok(_) => acknowledged.push(key),
                    Err(_) => break,
                }
            }
            acknowledged
        }));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(node.terminate().success());
    let node = Node::start(data.path()).await;
    let found = values(&mut node.api().await).await;
    let mut count = 0;
    for task in tasks {
        for key in task.await.unwrap() {
            assert!(found.contains_key(&key), "{key} was acknowledged");
            count += 1;
        }
    }
    assert!(count > 0, "nothing was written");
    node.send_interrupt();
    let mut node = node;
    assert!(node.wait_end().expect("ctrl-c stops it").success());
}

#[test]
fn an_address_that_others_can_reach_needs_the_word_insecure() {
    let data = tempfile::tempdir().unwrap();
    let ended = Node::refused(data.path(), &["--listen", "0.0.0.0:0"]);
    assert!(ended.log.contains("--insecure") && ended.log.contains("0.0.0.0:0"), "{}", ended.log);
    assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
    assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0, "nothing is made by a refused start");
    let node = Start::default().with(&["--listen", "0.0.0.0:0", "--insecure"]).listen(data.path());
    assert!(node.is_ok_and(|node| node.address.starts_with("0.0.0.0:")));
}
