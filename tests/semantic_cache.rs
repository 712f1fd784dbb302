//! The semantic cache through the real program, against a slow and obvious model; and the example of docs/semantic-cache.md as it
//! stands there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use loci_client::{Answer, Client, Entry, Metric, Partition, SemanticCache};
use loci_tests::chance::Chance;
use loci_tests::process::{Node, PATIENCE, Start, program};
use loci_tests::seed;

const DIMENSION: usize = 6;
const THRESHOLD: f32 = 0.15;
const MARGIN: f32 = 0.2;

async fn start(data: &Path, options: &[&str]) -> (Node, Client) {
    let node = Start::default().with(options).ready(data).await;
    let client = Client::builder().address(&node.address).connect_lazy().expect("an address");
    (node, client)
}

/// What an entry is to be.
#[derive(Debug, Clone)]
struct Kept {
    partition: (u64, u64),
    vector: Vec<f32>,
    tags: BTreeSet<String>,
}

fn partition((tenant, model): (u64, u64)) -> Partition {
    Partition::new().with("tenant", format!("t{tenant}")).with("model", format!("m={model}&x"))
}

fn vector(chance: &mut Chance) -> Vec<f32> {
    // Few directions, and a little beside them, so that there are hits, near misses and misses.
    let direction = chance.index(DIMENSION);
    let spread = [0.05, 0.3, 0.7][chance.index(3)];
    (0..DIMENSION).map(|at| f32::from(u8::from(at == direction)) + spread * chance.component()).collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    (1.0 - dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}

async fn check(cache: &SemanticCache, model: &BTreeMap<String, Kept>, asked: &Kept, what: &str) {
    let of_partition = model.iter().filter(|(_, kept)| kept.partition == asked.partition);
    let nearest = of_partition.map(|(key, kept)| (distance(&kept.vector, &asked.vector), key));
    let nearest = nearest.min_by(|a, b| a.0.total_cmp(&b.0));
    let answer = cache.get(&partition(asked.partition), asked.vector.clone()).await.unwrap();
    let near = |a: f32, b: f32| (a - b).abs() < 1e-4;
    match (&answer, nearest) {
        (Answer::Hit(found), Some((expected, _))) => {
            assert!(near(found.distance, expected) && expected < THRESHOLD + 1e-4, "{what}: {found:?}, not {expected}");
            let key = String::from_utf8_lossy(&found.key).into_owned();
            let kept = model.get(&key).unwrap_or_else(|| panic!("{what}: {key} is not there"));
            assert_eq!(kept.partition, asked.partition, "{what}: {key} is of another partition");
            let given = key.rsplit('/').next().unwrap_or_default();
            assert_eq!(found.text(), Some(&*format!("answer of {given}")), "{what}");
            assert_eq!(found.tags.iter().cloned().collect::<BTreeSet<_>>(), kept.tags, "{what}");
        }
        (Answer::NearMiss(found), Some((expected, _))) => {
            let within = (THRESHOLD - 1e-4..THRESHOLD + MARGIN + 1e-4).contains(&expected);
            assert!(near(found.distance, expected) && within, "{what}: {found:?}, not {expected}");
            assert!(found.value.is_empty());
        }
        (Answer::Miss, None) => {}
        (Answer::Miss, Some((expected, _))) => assert!(expected > THRESHOLD + MARGIN - 1e-4, "{what}: {expected}"),
        (answer, None) => panic!("{what}: {answer:?}, where there is nothing"),
    }
}

async fn random(client: &Client, namespace: &str, seed: u64) {
    let mut chance = Chance::new(seed);
    let cache = client.semantic_cache(namespace, "answers").threshold(THRESHOLD).margin(MARGIN);
    cache.ensure(DIMENSION as u32, Metric::Cosine).await.unwrap();
    let mut model: BTreeMap<String, Kept> = BTreeMap::new();
    for step in 0..400 {
        let what = format!("LOCI_SEED={seed}, {namespace}, step {step}");
        let kept = Kept {
            partition: (chance.below(3), chance.below(2)),
            vector: vector(&mut chance),
            tags: (0..chance.below(3)).map(|_| format!("g{}", chance.below(5))).collect(),
        };
        match chance.below(40) {
            0 => {
                let tags: BTreeSet<String> =
                    (0..1 + chance.below(2)).map(|_| format!("g{}", chance.below(5))).collect();
                let before = model.len();
                let dropped = if chance.below(2) == 0 {
                    model.retain(|_, kept| kept.tags.is_disjoint(&tags));
                    cache.drop_tagged(tags).await.unwrap()
                } else {
                    let tenant = chance.below(3);
                    model.retain(|_, kept| kept.partition.0 != tenant || kept.tags.is_disjoint(&tags));
                    cache.drop_tagged_in(&Partition::new().with("tenant", format!("t{tenant}")), tags).await.unwrap()
                };
                assert_eq!(dropped.entries as usize, before - model.len(), "{what}");
            }
            1 => {
                let before = model.len();
                model.retain(|_, other| other.partition != kept.partition);
                let dropped = cache.drop_partition(&partition(kept.partition)).await.unwrap();
                assert_eq!(dropped.entries as usize, before - model.len(), "{what}");
            }
            2..22 => {
                let key = format!("k{}", chance.below(150));
                let mut entry = Entry::new(kept.vector.clone(), format!("answer of {key}")).with_key(key.clone());
                for tag in &kept.tags {
                    entry = entry.with_tag(tag);
                }
                let put = cache.put(&partition(kept.partition), entry).await.unwrap();
                let stored = String::from_utf8_lossy(&put.key).into_owned();
                assert!(stored.ends_with(&format!("/{key}")), "{what}: {stored}");
                assert_eq!(put.replaced, model.insert(stored, kept).is_some(), "{what}");
            }
            _ => {
                let cache = if chance.below(2) == 0 { cache.clone() } else { cache.clone().exact() };
                check(&cache, &model, &kept, &what).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_as_a_list_would_that_is_looked_through() {
    let (seed, data) = (seed(), tempfile::tempdir().unwrap());
    let (_node, client) = start(data.path(), &[]).await;
    client.create_namespace_with("wide", 3).await.unwrap();
    random(&client, "default", seed).await;
    random(&client, "wide", seed.wrapping_add(1)).await;
}

/// A metric of the node.
async fn metric(address: &str, line: &str) -> u64 {
    let address = address.to_owned();
    let page = tokio::task::spawn_blocking(move || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).expect("metrics are served");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        page
    });
    let page = page.await.unwrap();
    page.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_expire_survive_a_kill_and_are_counted() {
    let data = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let metrics = port.to_string();
    let (node, client) = start(data.path(), &["--metrics", &metrics]).await;
    let cache = client.semantic_cache("default", "answers").threshold(0.1).margin(0.2);
    cache.ensure(2, Metric::Cosine).await.unwrap();
    let (here, there) = (Partition::new().with("tenant", "a"), Partition::new().with("tenant", "b"));
    cache.put(&here, Entry::new([1.0, 0.0], "stays").with_question("?")).await.unwrap();
    let short = Duration::from_millis(700);
    cache.put(&there, Entry::new([1.0, 0.0], "goes").expires_in(short)).await.unwrap();
    let again = cache.put(&here, Entry::new([1.0, 0.0], "stays, newer")).await.unwrap();
    assert!(again.replaced, "the same question has one answer");

    assert_eq!(cache.get(&here, [1.0, 0.05]).await.unwrap().hit().unwrap().text(), Some("stays, newer"));
    assert!(matches!(cache.get(&here, [1.0, 0.8]).await.unwrap(), Answer::NearMiss(near) if near.value.is_empty()));
    assert_eq!(cache.get(&here, [-1.0, 0.0]).await.unwrap(), Answer::Miss);
    assert_eq!(cache.get(&Partition::new(), [1.0, 0.0]).await.unwrap(), Answer::Miss);
    assert_eq!(cache.get(&here.clone().with("model", "m"), [1.0, 0.0]).await.unwrap(), Answer::Miss);
    for (result, count) in [("hit", 1), ("near_miss", 1), ("miss", 3)] {
        let line = format!("loci_semantic_gets_total{{result=\"{result}\"}}");
        assert_eq!(metric(&metrics, &line).await, count, "{result}");
    }
    let begun = Instant::now();
    while cache.get(&there, [1.0, 0.0]).await.unwrap() != Answer::Miss {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.kill();
    let (_node, client) = start(data.path(), &[]).await;
    let cache = client.semantic_cache("default", "answers").threshold(0.1);
    assert_eq!(cache.get(&here, [1.0, 0.0]).await.unwrap().hit().unwrap().text(), Some("stays, newer"));
    assert_eq!(cache.get(&there, [1.0, 0.0]).await.unwrap(), Answer::Miss);
    for (wrong, reason) in [
        (cache.put(&here, Entry::new([1.0], "x")).await.map(|_| ()), "wrong_dimension"),
        (cache.put(&here.clone().with("a.b", "x"), Entry::new([1.0, 0.0], "x")).await.map(|_| ()), "invalid_partition"),
        (cache.put(&here, Entry::new([1.0, 0.0], "x").with_tag("")).await.map(|_| ()), "invalid_tag"),
        (cache.drop_tagged([""; 0]).await.map(|_| ()), "wrong_count"),
        (cache.clone().threshold(f32::NAN).get(&here, [1.0, 0.0]).await.map(|_| ()), "invalid_distance"),
    ] {
        assert_eq!(wrong.unwrap_err().reason(), Some(reason));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_document_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("it is there");
    let (document, example) = (read("docs/semantic-cache.md"), read("client/examples/semantic_cache.rs"));
    let lines = example.lines().skip_while(|line| !line.contains("[the example of"));
    let lines = lines.skip(1).take_while(|line| !line.contains("the example ends]"));
    let shown: Vec<&str> = lines.map(|line| line.strip_prefix("    ").unwrap_or(line)).collect();
    assert!(document.contains(&shown.join("\n")), "the document shows the example as it is:\n{}", shown.join("\n"));

    let data = tempfile::tempdir().unwrap();
    let (node, _client) = start(data.path(), &[]).await;
    let target = program().parent().and_then(Path::parent).expect("a program lies in TARGET/PROFILE");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut run = Command::new(cargo);
    run.args(["run", "--quiet", "--package", "loci-client", "--example", "semantic_cache", "--target-dir"]).arg(target);
    let output = run.current_dir(root).env("LOCI_ADDRESS", &node.address).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(document.contains(&said), "the document shows what it says:\n{said}");
}
