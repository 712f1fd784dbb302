//! Random commands, at random moments a job, a failing disk, a crash; after each step the store is what the model is.

use super::model::{Model, ModelCollection};
use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{
    Durability, IndexKind, IndexSpec, Installation, Language, Policy, SchemaChange, SparseSpec, TextSpec,
};
use crate::directory::Fault;
use crate::filter::{Filter, Limit, Range};
use crate::record::CollectionId;
use crate::view::{Effort, ScanRequest, SearchRequest, SearchScratch, View};

const KEYS: u64 = 150;

fn key(random: &mut Random) -> String {
    let prefix = ["a", "b", "b/"][random.below(3) as usize];
    format!("{prefix}{}", random.below(KEYS / 3))
}

fn embedding(random: &mut Random) -> Vec<f32> {
    // Few different ones, so that equal distances are common.
    (0..4).map(|_| random.below(4) as f32).collect()
}

fn content(random: &mut Random, clock: u64, fields: usize, sparse_fields: usize) -> Content {
    let mut attributes = Attributes::new();
    for name in ["n", "m"] {
        if random.chance(70) {
            attributes.insert(name.into(), Value::Int(random.below(10) as i64));
        }
    }
    let value = random.chance(80).then(|| vec![random.below(256) as u8; random.below(40) as usize]);
    let mut embeddings = Vec::new();
    for field in 0..fields as u16 {
        if random.chance(80) {
            embeddings.push((field, embedding(random)));
        }
    }
    let wrong = random.chance(2);
    if wrong {
        embeddings.push((random.below(3) as u16, vec![1.0; 3]));
    }
    let mut sparse = Vec::new();
    for field in 0..sparse_fields as u16 {
        if random.chance(60) {
            sparse.push((field, (0..1 + random.below(4) as u32).map(|at| (at * 7, random.float() + 2.0)).collect()));
        }
    }
    if random.chance(1) {
        let weight = if random.chance(50) { 1.0 } else { f32::INFINITY };
        sparse.push((random.below(3) as u16, vec![(3, weight)]));
    }
    let deadline = if random.chance(15) { (clock + random.below(400)).saturating_sub(20) } else { 0 };
    let ttl = if random.chance(10) { random.below(200) } else { 0 };
    Content { value, attributes: attributes::encode(&attributes).unwrap(), embeddings, deadline, ttl, sparse }
}

fn command(random: &mut Random, model: &Model) -> Command {
    let namespace = |random: &mut Random| format!("n{}", random.below(3));
    let known: Vec<u64> = model.collections.keys().copied().collect();
    let collection = |random: &mut Random| {
        if known.is_empty() || random.chance(2) {
            random.below(20)
        } else {
            known[random.below(known.len() as u64) as usize]
        }
    };
    match random.below(if model.collections.is_empty() { 4 } else { 200 }) {
        0 | 1 => Command::CreateNamespace { name: namespace(random) },
        2 | 3 => {
            let (name, schema) = (format!("c{}", random.below(2)), schema(random));
            Command::CreateCollection { namespace: namespace(random), name, schema }
        }
        7 => Command::InstallCollection(installation(random, model, collection).into()),
        4 if random.chance(30) => Command::DropNamespace { name: namespace(random) },
        5 if random.chance(30) => Command::DropCollection { collection: collection(random) },
        6 => {
            let durability = random.chance(50).then_some(Durability::Buffered);
            let retention_millis = random.chance(50).then_some(5);
            let eviction_policy = match random.below(4) {
                0 => Some(None),
                1 => Some(Some(policy(random))),
                _ => None,
            };
            let change = SchemaChange {
                durability,
                retention_millis,
                eviction_policy,
                add_indexes: if random.chance(50) { vec![index(random)] } else { vec![] },
                remove_indexes: if random.chance(30) { vec![index(random).path] } else { vec![] },
                ..SchemaChange::default()
            };
            Command::AlterCollection { collection: collection(random), change }
        }
        _ => {
            let version = |random: &mut Random, id: u64, key: &str| {
                let record = model.collections.get(&id).and_then(|c| c.records.get(key.as_bytes()));
                record.map_or(1, |record| record.version) + u64::from(random.chance(20))
            };
            let mut conditions = Vec::new();
            while random.chance(15) {
                let (id, key) = (collection(random), key(random));
                let expect = match random.below(3) {
                    0 => Expect::Absent,
                    1 => Expect::Present,
                    _ => Expect::Version(version(random, id, &key)),
                };
                conditions.push(condition(id, &key, expect));
            }
            let mut changes = Vec::new();
            for _ in 0..1 + random.below(6) {
                let (id, key) = (collection(random), key(random));
                let schema = model.collections.get(&id).map(|c| &c.schema);
                let fields = schema.map_or((0, 0), |schema| (schema.embeddings.len(), schema.sparse.len()));
                let action = match random.below(10) {
                    0..=4 => Action::Put(content(random, model.clock, fields.0, fields.1)),
                    5 | 6 => Action::Merge {
                        content: content(random, model.clock, fields.0, fields.1),
                        remove_attributes: if random.chance(30) { vec!["m".into()] } else { vec![] },
                        remove_deadline: random.chance(30),
                    },
                    7 => Action::DeleteVersion(version(random, id, &key)),
                    _ => Action::Delete,
                };
                changes.push(change(id, &key, action));
            }
            write_if(conditions, changes)
        }
    }
}

fn policy(random: &mut Random) -> Policy {
    [Policy::S3Fifo, Policy::Lfu, Policy::None][random.below(3) as usize]
}

fn schema(random: &mut Random) -> Schema {
    let embeddings = specs(random.below(3) as usize, 4, Metric::SquaredL2);
    let indexes = if random.chance(50) { vec![index(random)] } else { vec![] };
    let sparse = (0..random.below(3)).map(|i| SparseSpec { name: format!("s{i}") }).collect();
    let text = TextSpec { path: vec!["n".into()], language: Language::Plain };
    let eviction_policy = random.chance(20).then(|| policy(random));
    Schema { embeddings, sparse, texts: vec![text], indexes, eviction_policy, ..Schema::default() }
}

/// Of a collection that is there, alike or nearly, or of any id: below those that are there, between them, or beyond.
fn installation(random: &mut Random, model: &Model, known: impl Fn(&mut Random) -> u64) -> Installation {
    let id = known(random);
    if let Some(there) = model.collections.get(&id).filter(|_| random.chance(60)) {
        let (namespace, name, mut schema) = (there.namespace.clone(), there.name.clone(), there.schema.clone());
        if random.chance(60) {
            schema.indexes = if random.chance(70) { vec![index(random)] } else { vec![] };
            schema.eviction_bytes = random.below(2);
        }
        let collection = if random.chance(80) { id } else { id + random.below(3) };
        return Installation { collection, namespace, name, schema };
    }
    let collection = 1 + random.below(model.collections.last_key_value().map_or(5, |(last, _)| last + 3));
    let (namespace, name) = (format!("n{}", random.below(3)), format!("c{}", random.below(2)));
    Installation { collection, namespace, name, schema: schema(random) }
}

/// A few request ids, so that they are used again, by the same command and by others.
fn envelopes(random: &mut Random, model: &Model, sent: &mut Vec<Envelope>) -> Vec<Envelope> {
    let mut envelopes = Vec::new();
    for _ in 0..random.below(4) {
        let envelope = if !sent.is_empty() && random.chance(10) {
            sent[random.below(sent.len() as u64) as usize].clone()
        } else if random.chance(30) {
            request(&random.below(200).to_le_bytes(), command(random, model))
        } else {
            envelope(command(random, model))
        };
        if !envelope.origin.request_id.is_empty() {
            sent.push(envelope.clone());
        }
        envelopes.push(envelope);
    }
    envelopes
}

fn index(random: &mut Random) -> IndexSpec {
    let path = vec![["n", "m"][random.below(2) as usize].into()];
    IndexSpec { path, kind: if random.chance(50) { IndexKind::Value } else { IndexKind::Substring } }
}

/// About one attribute that may be indexed, or two.
fn filter(random: &mut Random) -> Filter {
    let low = Some(Limit { value: Value::Int(random.below(10) as i64), inclusive: true });
    let above = Filter::Range(vec!["n".into()], Range { low, high: None });
    let other = Filter::Equal(vec!["m".into()], Value::Int(random.below(10) as i64));
    match random.below(5) {
        0 => other,
        1 => Filter::And(vec![above, Filter::Not(Box::new(other))]),
        2 => Filter::Or(vec![above, other]),
        3 => Filter::Not(Box::new(Filter::IsTrue(Box::new(other)))),
        _ => above,
    }
}

/// Everything that can be read of one collection is what the model has.
fn compare_collection(random: &mut Random, view: &View, id: u64, model: &ModelCollection, clock: u64) {
    let found = view.collection(&model.namespace, &model.name).expect("the model has it");
    assert_eq!((found.id(), found.schema()), (CollectionId(id), &model.schema));
    let now = clock + random.below(300);
    let filter = random.chance(50).then(|| filter(random));
    let takes = |attributes: &Attributes| {
        filter.as_ref().is_none_or(|filter| filter.takes(&attributes::encode(attributes).unwrap()))
    };
    let live = || model.records.iter().filter(|(_, record)| record.deadline == 0 || record.deadline > now);
    let matching = || live().filter(|(_, record)| takes(&record.attributes));

    for _ in 0..20 {
        let key = key(random).into_bytes();
        let expected = live().find(|(k, _)| **k == key).map(|(_, record)| record);
        let got = found.get(&key, now);
        assert_eq!(got.map(|record| record.version()), expected.map(|record| record.version));
        if let (Some(got), Some(expected)) = (got, expected) {
            assert_eq!(got.value(), expected.value.as_deref());
            assert_eq!(attributes::decode(got.attributes()).unwrap(), expected.attributes);
            assert_eq!(got.deadline(), expected.deadline);
            for field in 0..3 {
                assert_eq!(got.embedding(field).as_deref(), expected.embeddings.get(&field).map(|e| &e[..]));
                let sparse = got.sparse(field).map(|bytes| crate::sparse::decode(bytes).collect::<Vec<_>>());
                assert_eq!(sparse.as_ref(), expected.sparse.get(&field));
            }
        }
    }

    let count = found.count(filter.as_ref(), now, &mut || true).unwrap();
    assert_eq!(count, matching().count() as u64);

    let prefix = ["", "b", "b/", "c"][random.below(4) as usize].as_bytes();
    let expected: Vec<(Vec<u8>, u64)> =
        matching().filter(|(key, _)| key.starts_with(prefix)).map(|(key, r)| (key.clone(), r.version)).collect();
    let (mut got, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let request = ScanRequest {
            after: after.as_deref(),
            prefix: Some(prefix),
            filter: filter.as_ref(),
            limit: 1 + random.below(40) as usize,
            bytes_max: 1 + random.below(2_000) as usize,
            now,
        };
        let page = found.scan(&request, &mut || true).unwrap();
        got.extend(page.records.iter().map(|record| (record.key().to_vec(), record.version())));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(got, expected);

    let kernel = Metric::SquaredL2.kernel();
    for field in 0..model.schema.embeddings.len() as u16 {
        let query = embedding(random);
        let k = 1 + random.below(30) as usize;
        let max_distance = random.chance(30).then(|| random.below(20) as f32);
        let mut expected: Vec<(f32, &[u8])> = matching()
            .filter_map(|(key, record)| Some((kernel(&query, record.embeddings.get(&field)?), &key[..])))
            .filter(|(distance, _)| max_distance.is_none_or(|max| *distance <= max))
            .collect();
        expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        expected.truncate(k);
        let mut request = SearchRequest {
            field,
            query: &query,
            k,
            effort: Effort::Exact,
            filter: filter.as_ref(),
            max_distance,
            now,
        };
        let mut scratch = SearchScratch::new();
        let result = found.search(&request, &mut scratch, &mut || true).unwrap();
        let got: Vec<(f32, &[u8])> = result.hits.iter().map(|hit| (hit.distance, hit.record.key())).collect();
        assert_eq!(got, expected);
        request.effort = Effort::default();
        let result = found.search(&request, &mut scratch, &mut || true).unwrap();
        // By graph the distances may be a little worse, but never are there fewer, or wrong ones.
        if max_distance.is_none() {
            assert_eq!(result.hits.len(), expected.len());
        }
        for hit in result.hits {
            let record = &model.records[hit.record.key()];
            assert_eq!(kernel(&query, &record.embeddings[&field]), hit.distance);
            assert!(takes(&record.attributes));
        }
    }
}

fn compare(random: &mut Random, shard: &Shard, model: &Model) {
    let view = shard.store.view();
    assert_eq!((view.index(), view.clock()), (model.index, model.clock));
    assert_eq!(view.namespaces().collect::<Vec<_>>(), model.namespaces);
    let ids: Vec<u64> = view.collections().map(|collection| collection.id().0).collect();
    assert_eq!(ids, model.collections.keys().copied().collect::<Vec<_>>());
    for (&id, collection) in &model.collections {
        compare_collection(random, &view, id, collection, model.clock);
    }
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
    assert_eq!(view.digest(), shard.store.digest());
    let bytes: u64 =
        model.collections.values().flat_map(|c| &c.records).map(|(key, record)| record_bytes(key, record)).sum();
    let expired = shard.store.due().is_some_and(|due| due <= model.clock);
    assert!(expired || view.stats().bytes == bytes, "{} bytes instead of {bytes}", view.stats().bytes);
}

fn record_bytes(key: &[u8], record: &super::model::ModelRecord) -> u64 {
    let embeddings: usize = record.embeddings.values().map(|e| e.len() * 4).sum();
    let sparse: usize = record.sparse.values().map(|weights| weights.len() * 8).sum();
    let attributes = attributes::encode(&record.attributes).unwrap().len();
    (key.len() + record.value.as_ref().map_or(0, Vec::len) + attributes + embeddings + sparse) as u64
}

/// Returns how often what happened, to see that all of it does.
fn run(seed: u64, steps: u64) -> [u64; 5] {
    let mut random = Random::new(seed);
    let mut shard = Shard::new(StoreOptions { garbage_bytes_max: 64 << 10, ..small() });
    // The same log on a store that never runs a job.
    let mut twin = Shard::new(StoreOptions { buffer_rows_max: u32::MAX, ..StoreOptions::default() });
    let mut model = Model::default();
    let (mut sent, mut jobs, mut done) = (Vec::new(), Vec::new(), Vec::new());
    let [mut checkpoints, mut merges, mut failures, mut restarts, mut graphs] = [0; 5];
    let mut clock = 1_000_000;
    for step in 0..steps {
        // The clock of a new leader may be behind.
        clock = (clock + random.below(30)).saturating_sub(random.below(15));
        let commands = envelopes(&mut random, &model, &mut sent);
        let expected = model.apply(clock, &commands);
        assert_eq!(shard.entry(clock, commands.clone()), expected, "step {step}");
        twin.entry(clock, commands);
        assert_eq!(shard.store.digest(), twin.store.digest(), "step {step}");
        assert_eq!(shard.store.chain_head(), twin.store.chain_head());

        if random.chance(5) {
            shard.store.request_checkpoint();
            if random.chance(30) {
                shard.store.rest();
            }
        }
        if random.chance(3) {
            // As if it did not lead to every record.
            let linked = shard.store.view().collections().flat_map(|c| c.graph_segments()).next();
            linked.into_iter().for_each(|file| shard.store.request_relink(file));
        }
        if random.chance(50) {
            jobs.extend(shard.store.next_job());
        }
        // A job is started, runs, and is installed at different moments.
        if !jobs.is_empty() && random.chance(50) {
            let job: Job = jobs.swap_remove(random.below(jobs.len() as u64) as usize);
            match random.below(20) {
                0 => shard.directory.fail_write(random.below(12), Fault::Full),
                1 => shard.directory.fail_sync(random.below(4), Fault::Broken),
                _ => {}
            }
            done.push(job.run(&shard.directory, &AtomicBool::new(random.chance(3))));
        }
        if !done.is_empty() && random.chance(50) {
            let installed = shard.store.install(done.swap_remove(0));
            match (installed.error, installed.kind) {
                (Some(_), _) => failures += 1,
                (None, super::super::JobKind::Checkpoint) => checkpoints += 1,
                (None, super::super::JobKind::Merge) => merges += 1,
            }
        }
        if random.chance(1) {
            jobs.clear();
            done.clear();
            shard.restart();
            restarts += 1;
            assert_eq!(shard.store.digest(), twin.store.digest(), "after a restart, step {step}");
        }
        if step % 16 == 0 {
            compare(&mut random, &shard, &model);
            let view = shard.store.view();
            graphs +=
                view.collections().flat_map(|c| c.stats().segments).filter(|segment| segment.graph).count() as u64;
        }
    }
    compare(&mut random, &twin, &model);
    shard.restart();
    shard.checkpoint();
    compare(&mut random, &shard, &model);
    let segments: usize = shard.store.view().collections().map(|c| c.stats().segments.len()).sum();
    let files = shard.files();
    assert_eq!(files.iter().filter(|file| file.starts_with("segment-")).count(), segments, "{files:?}");
    assert!(!files.iter().any(|file| file.ends_with(".tmp")));
    [checkpoints, merges, failures, restarts, graphs]
}

#[test]
fn the_store_is_what_the_model_is() {
    let mut totals = [0; 5];
    for seed in 1..=16 {
        let outcome = std::panic::catch_unwind(|| run(seed, 2_000));
        let counts = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    let [checkpoints, merges, failures, restarts, graphs] = totals;
    assert!(
        checkpoints > 100 && merges > 100 && failures > 20 && restarts > 20 && graphs > 100,
        "the test went past something: {totals:?}"
    );
}
