//! Every form of search through the real program: the examples of docs/search.md as they stand there, the limits, and the
//! same answers after a crash.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use loci_client::{
    Client, Collection, Cover, Decay, Diversity, Error, Fusion, Hit, Language, Metric, Query, Recommend, Record,
    Schema, Value, Way, attribute,
};
use loci_tests::api::{collection, embedding, record};
use loci_tests::chance::Chance;
use loci_tests::load::reason;
use loci_tests::process::{Node, program};
use loci_wire::v1::{self, query::Near};
use tonic::Code;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

fn document(name: &str) -> String {
    std::fs::read_to_string(root().join("docs").join(name)).expect("the document is there")
}

fn docs() -> String {
    document("search.md")
}

/// The fenced blocks of the document: language and text, in order.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// Runs lines of shell in which `loci` is the program and the node is this one.
fn shell(lines: &str, address: &str) -> String {
    let folder = program().parent().expect("a program lies in a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-e", "-c", lines]).current_dir(root()).env("PATH", path).env("LOCI_ADDRESS", address);
    let output = command.output().expect("a shell runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{lines}{errors}");
    String::from_utf8(output.stdout).expect("output is text")
}

/// Whether the output has these lines at its left, in order. Lines between them only continue the last columns.
fn check_output(lines: &str, output: &str, expected: &str) {
    let continues = |line: &&str| line.starts_with("            ");
    let found: Vec<&str> = output.lines().filter(|line| !continues(line)).collect();
    let expected: Vec<&str> = expected.lines().collect();
    let fits = found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| a.starts_with(b));
    assert!(fits, "{lines}\n{output}\nis not\n{}", expected.join("\n"));
}

async fn notes(node: &Node) -> Collection {
    Client::connect(&node.address).await.expect("it answers").collection("default", "notes")
}

fn keys(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| std::str::from_utf8(&hit.record.key).expect("keys are text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_in_the_document_print_what_it_says() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::start(data.path()).await;
    let compared = check_commands(&docs(), &node).await;
    assert!(compared >= 10, "only {compared} outputs are compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_about_indexes_print_what_the_document_says() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::start(data.path()).await;
    assert_eq!(check_commands(&document("filter.md"), &node).await, 1);
    let notes = Client::connect(&node.address).await.expect("it answers").collection("default", "places");
    let schema = notes.describe().await.expect("it is there").schema;
    let paths: Vec<&str> = schema.indexes.iter().map(|index| index.path.as_str()).collect();
    assert_eq!(paths, ["source", "body", "year"]);
    let port = attribute("source").equals("port");
    let found = notes.search_many().near_key("harbour-1").filter(port).k(2).explain().found().await;
    let [explanation] = &found.expect("it finds").explanations[..] else { panic!("one query, one explanation") };
    let [step] = &explanation.steps[..] else { panic!("all notes are in memory: {explanation:?}") };
    assert_eq!((step.segment, step.rows, step.way, step.cover), (None, 8, Way::Scan, Cover::Nothing));
}

/// Runs every command of a document, and says how many outputs it shows.
async fn check_commands(document: &str, node: &Node) -> usize {
    let blocks = blocks(document);
    let mut compared = 0;
    for (number, (language, lines)) in blocks.iter().enumerate() {
        if language != "sh" {
            continue;
        }
        let (lines, address) = (lines.clone(), node.address.clone());
        let output = tokio::task::spawn_blocking({
            let lines = lines.clone();
            move || shell(&lines, &address)
        });
        let output = output.await.expect("the shell ran");
        if let Some((language, expected)) = blocks.get(number + 1)
            && language == "text"
        {
            check_output(&lines, &output, expected);
            compared += 1;
        }
    }
    compared
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_in_the_document_finds_what_the_commands_find() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::start(data.path()).await;
    let notes = notes(&node).await;
    let source = examples(&notes, &node.address).await.expect("the examples run");
    // What is shown is what ran, but for how it is indented.
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let source = plain(source);
    let shown: Vec<String> =
        blocks(&docs()).into_iter().filter(|(language, _)| language == "rust").map(|(_, text)| text).collect();
    assert!(shown.len() >= 10);
    for example in shown {
        assert!(source.contains(&plain(&example)), "this example of the document is not run:\n{example}");
    }
}

/// Runs the document's examples, and says where they stand.
async fn examples(notes: &Collection, address: &str) -> Result<&'static str, Error> {
    let schema = Schema::default()
        .with_embedding("", 4, Metric::Cosine)
        .with_sparse("terms")
        .with_text("body", Language::English);
    notes.ensure(schema).await?;
    let pictures = pictures(address).await?;

    let (lines, address) = ("loci ingest docs/examples/notes.jsonl --collection notes", address.to_owned());
    tokio::task::spawn_blocking(move || shell(lines, &address)).await.expect("the notes are there");

    let near = notes.search([0.9, 0.1, 0.0, 0.1]).k(2).hits().await?;
    let like = notes.search_like("harbour-1").k(1).hits().await?;
    assert_eq!((keys(&near), keys(&like)), (vec!["harbour-1", "harbour-2"], vec!["harbour-2"]));
    assert_eq!((near[0].score, &near[0].group), (None, &None));

    let both = Fusion::reciprocal_rank()
        .and(Query::near([0.9, 0.1, 0.0, 0.1]).embedding("caption"))
        .and(Query::near([0.5, 0.2, 0.5]).embedding("colour").weight(2.0));
    let fused = pictures.find(both).hits().await?;
    assert_eq!(keys(&fused), ["dusk", "dawn", "noon"]);

    let found = notes.search_many().near([0.9, 0.1, 0.0, 0.1]).near_key("ferry-1").k(2).found().await?;
    let (first, second) = (&found.queries[0], &found.queries[1]);
    assert_eq!((keys(first), keys(second)), (vec!["harbour-1", "harbour-2"], vec!["ferry-2", "harbour-2"]));

    let ring = notes.search([0.9, 0.1, 0.0, 0.1]).min_distance(0.1).max_distance(0.7).exact().hits().await?;
    assert_eq!(keys(&ring), ["ferry-1", "ferry-2", "market-1"]);

    let words = notes.search_text("body", "closing the harbours").k(3).hits().await?;
    assert_eq!(keys(&words), ["harbour-1", "storm-1", "ferry-1"]);
    assert_eq!(words[0].score, Some(-words[0].distance));

    let sparse = notes.find(Query::near_sparse([(101, 1.0), (105, 0.5)])).k(3).hits().await?;
    assert_eq!(keys(&sparse), ["harbour-1", "ferry-1", "ferry-2"]);
    assert_eq!(sparse[0].distance, -1.5);

    let both = Fusion::reciprocal_rank()
        .and(Query::text("body", "sunday pilots"))
        .and(Query::near([0.9, 0.1, 0.0, 0.1]).filter(attribute("source").equals("port")).limit(50).weight(0.5));
    let fused = notes.find(both).k(3).hits().await?;
    assert_eq!(fused.len(), 3);
    // The best by words, and the nearest of its port.
    assert_eq!(keys(&fused)[0], "harbour-1");
    assert!(fused.is_sorted_by(|a, b| a.score >= b.score));

    let like_these = Recommend::new().like_key("harbour-1").like_key("storm-1").unlike_key("market-1");
    let recommended = notes.find(like_these).k(2).hits().await?;
    assert_eq!(keys(&recommended), ["harbour-2", "harbour-3"]);

    let like_any = Recommend::new().by_nearest().like_key("harbour-1").like_key("storm-1").unlike_key("market-1");
    let recommended = notes.find(like_any).k(3).hits().await?;
    assert_eq!(keys(&recommended), ["harbour-2", "harbour-3", "ferry-1"]);

    let groups = notes.search([0.9, 0.1, 0.0, 0.1]).group_by("source", 2).k(2).hits().await?;
    assert_eq!(groups[2].group, Some(Value::String("office".into())));
    assert_eq!(keys(&groups), ["harbour-1", "harbour-2", "harbour-3"]);

    let diverse = notes.search([0.9, 0.1, 0.0, 0.1]).diverse(Diversity { lambda: 0.3, ..Diversity::default() });
    let diverse = diverse.k(3).hits().await?;
    assert_eq!(keys(&diverse), ["harbour-1", "storm-1", "market-2"]);

    let week = Duration::from_secs(7 * 24 * 3600);
    let decay = Decay { now: Some(UNIX_EPOCH + Duration::from_secs(1_769_817_600)), ..Decay::new("seen", week) };
    let fresh = notes.search([0.9, 0.1, 0.0, 0.1]).decay(decay).k(3).hits().await?;
    assert_eq!(keys(&fresh), ["harbour-3", "ferry-1", "harbour-2"]);

    Ok(include_str!("search.rs"))
}

/// The document's pictures, beside its notes.
async fn pictures(address: &str) -> Result<Collection, Error> {
    let pictures = Client::connect(address).await?.collection("default", "pictures");
    let schema =
        Schema::default().with_embedding("caption", 4, Metric::Cosine).with_embedding("colour", 3, Metric::SquaredL2);
    pictures.ensure(schema).await?;
    let both = |key: &'static str, caption: [f32; 4], colour: [f32; 3]| {
        Record::new(key).with_named_embedding("caption", caption).with_named_embedding("colour", colour)
    };
    let noon = Record::new("noon").with_named_embedding("caption", [0.0, 0.9, 0.3, 0.0]);
    let dawn = both("dawn", [0.9, 0.1, 0.0, 0.1], [0.9, 0.5, 0.2]);
    pictures.put_many([dawn, both("dusk", [0.8, 0.3, 0.0, 0.2], [0.5, 0.2, 0.4]), noon]).await?;
    Ok(pictures)
}

fn some_record(chance: &mut Chance, number: u64) -> Record {
    let words = (0..2 + chance.below(10)).map(|_| format!("word{}", chance.below(30))).collect::<Vec<_>>().join(" ");
    let vector: Vec<f32> = (0..8).map(|_| chance.below(9) as f32 - 4.0).collect();
    let weights: std::collections::BTreeMap<u32, f32> =
        (0..3).map(|_| (chance.below(40) as u32, 1.0 + chance.below(5) as f32)).collect();
    Record::new(format!("k{number:04}"))
        .with_attribute("body", words)
        .with_attribute("group", chance.below(6) as i64)
        .with_attribute("seen", Value::Timestamp(chance.below(1_000_000) as i64))
        .with_embedding(vector)
        .with_sparse("terms", weights)
}

/// What every form of search finds.
async fn all_forms(notes: &Collection) -> Vec<Vec<Hit>> {
    let vector = vec![1.0, -2.0, 0.5, 3.0, 0.0, 1.0, -1.0, 2.0];
    let near = || Query::near(vector.clone());
    let words = || Query::text("", "word3 word7 word21");
    let weights = || Query::near_sparse([(3, 1.0), (17, 2.0), (30, 0.5)]);
    let fusion = Fusion::reciprocal_rank().and(near()).and(words()).and(weights().weight(2.0));
    let weighted = Fusion::weighted().and(near().limit(30)).and(Fusion::reciprocal_rank().and(words()).and(weights()));
    let liked = Recommend::new().like_key("k0001").like(vector.clone()).unlike_key("k0002");
    let decay =
        Decay { now: Some(UNIX_EPOCH + Duration::from_secs(2)), ..Decay::new("seen", Duration::from_millis(300)) };
    let ask = |query: Query| notes.find(query).k(20).exact();
    let mut found = Vec::new();
    for search in [
        ask(near()),
        ask(words()),
        ask(weights()),
        ask(fusion.into()),
        ask(weighted.into()),
        ask(liked.clone().into()),
        ask(liked.by_nearest().into()),
        ask(near()).group_by("group", 3),
        ask(words()).group_by("group", 2).k(4),
        ask(near()).diverse(Diversity::default()),
        ask(words()).diverse(Diversity::default()),
        ask(near()).decay(decay.clone()),
        ask(words()).decay(decay).min_score(0.1),
        ask(words()).filter(attribute("group").equals(2)),
        ask(near()).min_distance(20.0).max_distance(60.0),
        ask(near().filter(attribute("group").equals(3))).filter(attribute("seen").exists()),
    ] {
        found.push(search.hits().await.expect("it is answered"));
    }
    found
}

/// The hits for "word3 word7 word21" have the scores of the formula, over all records there are.
async fn check_words(notes: &Collection, hits: &[Hit]) {
    let mut texts: Vec<(Vec<u8>, Vec<String>)> = Vec::new();
    let mut scan = notes.scan();
    while let Some(page) = scan.next_page().await.expect("it is read") {
        for record in page.records {
            let Some(Value::String(body)) = record.attributes.get("body") else { panic!("every record has a text") };
            texts.push((record.key.to_vec(), body.split(' ').map(String::from).collect()));
        }
    }
    let n = texts.len() as f64;
    let average = texts.iter().map(|(_, words)| words.len()).sum::<usize>() as f64 / n;
    let times = |words: &[String], word: &str| words.iter().filter(|other| *other == word).count() as f64;
    let score = |words: &[String]| -> f64 {
        let part = |word: &str| {
            let with = texts.iter().filter(|(_, words)| times(words, word) > 0.0).count() as f64;
            let (idf, f) = ((1.0 + (n - with + 0.5) / (with + 0.5)).ln(), times(words, word));
            idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * words.len() as f64 / average))
        };
        ["word3", "word7", "word21"].map(part).iter().sum()
    };
    let mut expected: Vec<(f64, &[u8])> = texts.iter().map(|(key, words)| (score(words), &key[..])).collect();
    expected.retain(|(score, _)| *score > 0.0);
    expected.sort_by(|a, b| (b.0 as f32).total_cmp(&(a.0 as f32)).then(a.1.cmp(b.1)));
    expected.truncate(20);
    assert_eq!(hits.len(), expected.len());
    for (hit, (score, key)) in hits.iter().zip(&expected) {
        let close = hit.score.is_some_and(|found| (f64::from(found) - score).abs() < 1e-4);
        assert!(
            close && hit.record.key == *key,
            "{hit:?} where {score} {:?} is expected",
            String::from_utf8_lossy(key)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_after_a_crash_and_however_records_lie() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut node = Node::start(data.path()).await;
    let mut collection = notes(&node).await;
    let schema = Schema::default()
        .with_embedding("text", 8, Metric::SquaredL2)
        .with_sparse("terms")
        .with_text("body", Language::Plain);
    collection.create(schema.clone()).await.expect("it is created");
    let described = collection.describe().await.expect("it is described").schema;
    assert_eq!((described.sparse, described.texts), (schema.sparse, schema.texts));
    let mut chance = Chance::new(5);
    for round in 0..4 {
        let records = (0..150).map(|_| {
            let number = chance.below(400);
            (number, some_record(&mut chance, number))
        });
        // One change for each key.
        let records: std::collections::BTreeMap<u64, Record> = records.collect();
        collection.put_many(records.into_values()).await.expect("they are written");
        collection.put(some_record(&mut chance, 1)).await.expect("it is written");
        collection.put(some_record(&mut chance, 2)).await.expect("it is written");
        let before = all_forms(&collection).await;
        assert!(before.iter().all(|hits| !hits.is_empty()), "round {round}");
        let in_group = |hit: &Hit| hit.record.attributes.get("group") == Some(&Value::Int(3));
        assert!(before.last().is_some_and(|hits| hits.iter().all(in_group)), "round {round}");
        check_words(&collection, &before[1]).await;
        node.kill();
        node = Node::start(data.path()).await;
        collection = notes(&node).await;
        let after = all_forms(&collection).await;
        for (form, (before, after)) in before.iter().zip(&after).enumerate() {
            assert_eq!(before, after, "form {form} in round {round}");
        }
        // What was stored is what was given.
        let parts = collection.clone().with_parts(loci_client::Parts::ALL);
        let stored = parts.get("k0001").await.expect("it is read").expect("it is there");
        assert_eq!(stored.sparse[0].name, "terms");
        assert!(stored.sparse[0].weights.is_sorted_by(|a, b| a.0 < b.0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_metric_returns_its_own_distance() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::start(data.path()).await;
    let schema = Schema::default()
        .with_embedding("cosine", 2, Metric::Cosine)
        .with_embedding("dot", 2, Metric::Dot)
        .with_embedding("l2", 2, Metric::SquaredL2);
    let notes = notes(&node).await;
    notes.create(schema).await.expect("it is created");
    let vector = [3.0, -4.0];
    let record = ["cosine", "dot", "l2"]
        .into_iter()
        .fold(Record::new("k"), |record, name| record.with_named_embedding(name, vector));
    notes.put(record).await.expect("it is written");
    // The cosine of these is 4 / 5, their product 4 * 2, their difference (-3, 2).
    for (name, expected) in [("cosine", 0.2), ("dot", -8.0), ("l2", 13.0)] {
        for search in [notes.search([0.0, -2.0]), notes.search([0.0, -2.0]).exact()] {
            let hits = search.embedding(name).hits().await.expect("it finds");
            assert!(hits.len() == 1 && (hits[0].distance - expected).abs() < 1e-6, "{name}: {hits:?}");
        }
    }
}

fn query(near: Near) -> v1::Query {
    v1::Query { near: Some(near), ..Default::default() }
}

fn text_query(text: &str) -> v1::Query {
    query(Near::Text(v1::TextQuery { path: String::new(), text: text.into() }))
}

fn fuse(queries: Vec<v1::Query>) -> v1::Query {
    query(Near::Fuse(v1::Fusion { queries, method: None }))
}

fn sparse(dimensions: &[u32], weights: &[f32]) -> v1::SparseEmbedding {
    v1::SparseEmbedding { name: "terms".into(), dimensions: dimensions.to_vec(), weights: weights.to_vec() }
}

fn search(query: v1::Query) -> v1::SearchRequest {
    v1::SearchRequest { collection: collection("notes"), queries: vec![query], ..Default::default() }
}

/// Requests at a limit, which are answered, and one past it or plainly wrong, which are refused by that reason.
fn requests() -> Vec<(v1::SearchRequest, Option<&'static str>)> {
    let fine = |request| (request, None);
    let wrong = |request, reason| (request, Some(reason));
    let near = || query(Near::Embedding(embedding("", &[1.0, 0.0, 0.0, 0.0])));
    let group = |k, hits, path: &str| v1::SearchRequest {
        k,
        group_by: Some(v1::GroupBy { path: path.into(), hits }),
        ..search(near())
    };
    let mmr = |k, lambda, candidates| {
        let name = String::new();
        v1::SearchRequest { k, mmr: Some(v1::Mmr { lambda: Some(lambda), candidates, name }), ..search(near()) }
    };
    let decay = |half_life_millis, share, candidates| {
        let path = "seen".into();
        let decay = v1::Decay { path, half_life_millis, share: Some(share), now_micros: None, candidates };
        v1::SearchRequest { decay: Some(decay), ..search(near()) }
    };
    let recommend = |positive: usize, negative: usize| {
        let example = v1::Example { of: Some(v1::example::Of::Embedding(embedding("", &[1.0, 0.5, 0.0, 0.0]))) };
        let (positive, negative) = (vec![example.clone(); positive], vec![example; negative]);
        search(query(Near::Recommend(v1::Recommendation { positive, negative, strategy: 2 })))
    };
    let with_strategy = |strategy| {
        let positive = vec![v1::Example { of: Some(v1::example::Of::Key("k".into())) }];
        search(query(Near::Recommend(v1::Recommendation { positive, negative: vec![], strategy })))
    };
    let words = |count: usize| (0..count).map(|number| format!("w{number} ")).collect::<String>();
    let weights = |count: u32| {
        let weights = (0..count).map(|dimension| (dimension, 1.0)).unzip::<u32, f32, Vec<_>, Vec<_>>();
        search(query(Near::Sparse(sparse(&weights.0, &weights.1))))
    };
    let limit = |limit| v1::Query { limit, ..text_query("a") };
    let weight = |weight| v1::Query { weight: Some(weight), ..text_query("a") };
    let at_path = |path: &str| query(Near::Text(v1::TextQuery { path: path.into(), text: "a".into() }));
    vec![
        fine(search(text_query(&words(1_024)))),
        wrong(search(text_query(&words(1_025))), "invalid_text"),
        fine(search(text_query(&"a".repeat(64 << 10)))),
        wrong(search(text_query(&"a".repeat((64 << 10) + 1))), "invalid_text"),
        wrong(search(text_query("...")), "invalid_text"),
        fine(search(at_path("body"))),
        wrong(search(at_path("title")), "unknown_text"),
        fine(weights(10_000)),
        wrong(weights(10_001), "invalid_embedding"),
        wrong(search(query(Near::Sparse(sparse(&[1], &[1.0, 2.0])))), "invalid_embedding"),
        wrong(search(query(Near::Sparse(sparse(&[1, 1], &[1.0, 2.0])))), "invalid_embedding"),
        wrong(search(query(Near::Sparse(sparse(&[1], &[f32::NAN])))), "invalid_embedding"),
        wrong(search(query(Near::Sparse(sparse(&[1], &[0.0])))), "invalid_embedding"),
        wrong(
            search(query(Near::Sparse(v1::SparseEmbedding { name: "other".into(), ..sparse(&[1], &[1.0]) }))),
            "unknown_embedding",
        ),
        fine(search(fuse(vec![text_query("a"); 16]))),
        wrong(search(fuse(vec![text_query("a"); 17])), "out_of_bounds"),
        wrong(search(fuse(vec![])), "out_of_bounds"),
        fine(search(fuse(vec![fuse(vec![text_query("a")])]))),
        wrong(search(fuse(vec![fuse(vec![fuse(vec![text_query("a")])])])), "out_of_bounds"),
        wrong(search((0..30).fold(text_query("a"), |inner, _| fuse(vec![inner]))), "out_of_bounds"),
        fine(search(fuse(vec![limit(10_000)]))),
        wrong(search(fuse(vec![limit(10_001)])), "out_of_bounds"),
        wrong(search(fuse(vec![weight(-1.0)])), "out_of_bounds"),
        wrong(search(fuse(vec![weight(f32::NAN)])), "out_of_bounds"),
        fine(recommend(100, 100)),
        wrong(recommend(101, 0), "out_of_bounds"),
        wrong(recommend(1, 101), "out_of_bounds"),
        wrong(recommend(0, 1), "out_of_bounds"),
        wrong(with_strategy(3), "invalid_query"),
        fine(group(100, 100, "source")),
        wrong(group(101, 100, "source"), "out_of_bounds"),
        wrong(group(1, 101, "source"), "out_of_bounds"),
        wrong(group(1, 1, ""), "invalid_path"),
        wrong(group(1, 1, "a..b"), "invalid_path"),
        fine(mmr(1_000, 1.0, 1_000)),
        wrong(mmr(1_001, 1.0, 1_000), "out_of_bounds"),
        wrong(mmr(1, 1.0, 1_001), "out_of_bounds"),
        wrong(mmr(1, 1.1, 10), "out_of_bounds"),
        wrong(v1::SearchRequest { group_by: group(1, 1, "a").group_by, ..mmr(1, 0.5, 10) }, "out_of_bounds"),
        fine(decay(1, 1.0, 10_000)),
        wrong(decay(0, 1.0, 10), "out_of_bounds"),
        wrong(decay(1, 2.0, 10), "out_of_bounds"),
        wrong(decay(1, 1.0, 10_001), "out_of_bounds"),
        wrong(v1::SearchRequest { min_distance: Some(f32::NAN), ..search(near()) }, "invalid_distance"),
        wrong(v1::SearchRequest { min_score: Some(f32::NAN), ..search(near()) }, "invalid_distance"),
        wrong(search(v1::Query::default()), "invalid_query"),
        wrong(
            search(query(Near::Recommend(v1::Recommendation {
                positive: vec![v1::Example { of: None }],
                negative: vec![],
                strategy: 0,
            }))),
            "invalid_query",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_by_name() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Node::start(data.path()).await;
    let schema =
        Schema::default().with_embedding("", 4, Metric::Cosine).with_sparse("terms").with_text("body", Language::Plain);
    notes(&node).await.create(schema).await.expect("it is created");
    let mut api = node.api().await;
    for (number, (request, expected)) in requests().into_iter().enumerate() {
        let answer = api.records.search(request.clone()).await;
        match (answer, expected) {
            (Ok(_), None) => {}
            (Err(status), Some(expected)) => {
                assert_eq!(status.code(), Code::InvalidArgument, "request {number}: {status:?}");
                assert_eq!(reason(&status).as_deref(), Some(expected), "request {number}: {status:?}");
            }
            (answer, expected) => panic!("request {number}: {answer:?} instead of {expected:?}"),
        }
    }
    // Missing examples are told from wrong ones.
    let missing = api.records.search(search(query(Near::Key("nobody".into())))).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing).as_deref()), (Code::NotFound, Some("unknown_record")));
    let put =
        |records: Vec<v1::Record>| v1::PutRequest { collection: collection("notes"), records, ..Default::default() };
    api.records.put(put(vec![record(b"bare", b"")])).await.expect("it is written");
    let bare = api.records.search(search(query(Near::Key("bare".into())))).await.unwrap_err();
    assert_eq!((bare.code(), reason(&bare).as_deref()), (Code::FailedPrecondition, Some("no_embedding")));
    for (given, expected) in [
        (vec![sparse(&[1, 1], &[1.0, 1.0])], "invalid_embedding"),
        (vec![sparse(&[1], &[f32::INFINITY])], "invalid_embedding"),
        (vec![sparse(&[1], &[1.0]), sparse(&[2], &[1.0])], "duplicate_embedding"),
        (vec![v1::SparseEmbedding { name: "x".into(), ..sparse(&[1], &[1.0]) }], "unknown_embedding"),
    ] {
        let refused = api.records.put(put(vec![v1::Record { sparse: given, ..record(b"k", b"") }])).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_deref()), (Code::InvalidArgument, Some(expected)));
    }
}
