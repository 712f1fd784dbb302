//! Every form of query against what looking at every record says, wherever the records lie.

mod parts;

use std::collections::BTreeMap;

use super::*;
use crate::ask::fusion::Fusion;
use crate::ask::recommend::Strategy;
use crate::ask::{Ask, AskError, Decay, Example, Group, LimitError, Mmr, Part, Query, Within};
use crate::attributes::{self, Attributes, Value, ValueRef};
use crate::command::{IndexKind, IndexSpec, Language, SparseSpec, TextSpec};
use crate::directory::Directory;
use crate::filter::Filter;
use crate::sparse::SparseVector;
use crate::view::{Covered, Effort, Explanation, Hit, SearchScratch, Way};

#[derive(Clone)]
struct Known {
    embedding: Option<Vec<f32>>,
    weights: Vec<(u32, f32)>,
    words: Vec<String>,
    group: Option<i64>,
    at: Option<i64>,
}

/// A store with all kinds of records, and what is in it.
struct World {
    shard: Shard,
    collection: u64,
    known: BTreeMap<String, Known>,
}

const EMBEDDING: u16 = 0;
const NOW: i64 = 10_000;

impl World {
    fn new() -> World {
        let mut shard = Shard::new(small());
        shard.command(Command::CreateNamespace { name: "n".into() });
        let schema = Schema {
            embeddings: specs(1, 4, Metric::SquaredL2),
            sparse: vec![SparseSpec { name: "s0".into() }, SparseSpec { name: "s1".into() }],
            texts: vec![
                TextSpec { path: vec!["other".into()], language: Language::Plain },
                TextSpec { path: vec!["doc".into(), "body".into()], language: Language::English },
            ],
            indexes: vec![IndexSpec { path: vec!["g".into()], kind: IndexKind::Value }],
            ..Schema::default()
        };
        let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
        let Outcome::Created { collection } = shard.command(create) else { panic!("it was created") };
        World { shard, collection, known: BTreeMap::new() }
    }

    fn put(&mut self, random: &mut Random, key: String) {
        let known = Known {
            embedding: random.chance(85).then(|| embedding(random)),
            weights: if random.chance(80) { weights(random) } else { vec![] },
            words: (0..random.below(12)).map(|_| word(random)).collect(),
            group: random.chance(90).then(|| [random.below(4), random.below(40)][random.below(2) as usize] as i64),
            at: random.chance(90).then(|| random.below(12_000) as i64),
        };
        let mut attributes = Attributes::new();
        if !known.words.is_empty() {
            let body = Value::String(known.words.join(" "));
            attributes.insert("doc".into(), Value::Map(Attributes::from([("body".into(), body)])));
        }
        // Equal numbers are one group, whatever their kind; a list is none.
        match known.group {
            Some(group) if group % 2 == 0 => drop(attributes.insert("g".into(), Value::Float(group as f64))),
            Some(group) => drop(attributes.insert("g".into(), Value::Int(group))),
            None => drop(attributes.insert("g".into(), Value::List(vec![Value::Int(1)]))),
        }
        if let Some(at) = known.at {
            attributes.insert("at".into(), Value::Timestamp(at));
        }
        let content = Content {
            attributes: attributes::encode(&attributes).unwrap(),
            embeddings: known.embedding.iter().map(|embedding| (EMBEDDING, embedding.clone())).collect(),
            sparse: if known.weights.is_empty() { vec![] } else { vec![(1, known.weights.clone())] },
            ..Content::default()
        };
        self.shard.command(write(vec![change(self.collection, &key, Action::Put(content))]));
        self.known.insert(key, known);
    }

    fn delete(&mut self, key: &str) {
        self.shard.command(write(vec![delete(self.collection, key)]));
        self.known.remove(key);
    }

    /// Some written, some written again, some deleted; sealed and merged now and then.
    fn churn(seed: u64, steps: usize) -> (World, Random) {
        let (mut world, mut random) = (World::new(), Random::new(seed));
        for _ in 0..steps {
            let key = format!("k{}", random.below(250));
            if random.chance(15) {
                world.delete(&key);
            } else {
                world.put(&mut random, key);
            }
            if random.chance(2) {
                world.shard.store.request_checkpoint();
            }
            if random.chance(30) {
                world.shard.rest();
            }
        }
        (world, random)
    }

    fn ask(&self, ask: &Ask) -> Result<Vec<Found>, AskError> {
        let view = self.shard.store.view();
        let collection = view.collection("n", "c").unwrap();
        let found = collection.ask(ask, &mut SearchScratch::new(), &mut || true)?;
        Ok(found.hits.iter().map(Found::of).collect())
    }

    /// The same, and how it was found.
    fn explain(&self, ask: &Ask) -> (Vec<Found>, Explanation) {
        let view = self.shard.store.view();
        let mut scratch = SearchScratch::new();
        scratch.explain(|| 0);
        let found = view.collection("n", "c").unwrap().ask(ask, &mut scratch, &mut || true).unwrap();
        (found.hits.iter().map(Found::of).collect(), scratch.explanation())
    }

    /// Everything with a distance, in order.
    fn nearest(&self, distance: impl Fn(&Known) -> Option<f32>) -> Vec<Found> {
        let found = self.known.iter().filter_map(|(key, known)| {
            Some(Found { key: key.clone(), distance: distance(known)?, score: None, group: None })
        });
        let mut found: Vec<Found> = found.collect();
        found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.key.as_bytes().cmp(b.key.as_bytes())));
        found
    }

    fn near(&self, to: &[f32]) -> Vec<Found> {
        self.nearest(|known| Some(squared(known.embedding.as_ref()?, to)))
    }

    fn near_sparse(&self, to: &[(u32, f32)]) -> Vec<Found> {
        self.nearest(|known| {
            let theirs = |dimension| known.weights.iter().find(|(other, _)| *other == dimension).map(|(_, w)| *w);
            let products: Vec<f64> =
                to.iter().filter_map(|(at, w)| Some(f64::from(*w) * f64::from(theirs(*at)?))).collect();
            (!products.is_empty()).then(|| (0.0 - products.iter().sum::<f64>()) as f32)
        })
    }

    /// BM25 from the formula.
    fn text(&self, words: &[&str]) -> Vec<Found> {
        let texts: Vec<&Known> = self.known.values().filter(|known| !known.words.is_empty()).collect();
        let n = texts.len() as f64;
        let average = texts.iter().map(|known| known.words.len()).sum::<usize>() as f64 / n;
        let times = |known: &Known, word: &str| known.words.iter().filter(|other| *other == word).count() as f64;
        let mut found = self.nearest(|known| {
            let mut score = 0.0;
            for word in words {
                let with = texts.iter().filter(|known| times(known, word) > 0.0).count() as f64;
                let idf = (1.0 + (n - with + 0.5) / (with + 0.5)).ln();
                let f = times(known, word);
                score += idf * f * 2.2 / (f + 1.2 * (0.25 + 0.75 * known.words.len() as f64 / average));
            }
            (score > 0.0).then_some(-score as f32)
        });
        found.iter_mut().for_each(|found| found.score = Some(-found.distance));
        found
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Found {
    key: String,
    distance: f32,
    score: Option<f32>,
    group: Option<i64>,
}

impl Found {
    fn of(hit: &Hit<'_>) -> Found {
        let group = hit.group.map(|value| match value {
            ValueRef::Int(group) => group,
            ValueRef::Float(group) => group as i64,
            other => panic!("grouped by {other:?}"),
        });
        let key = String::from_utf8(hit.record.key().to_vec()).unwrap();
        Found { key, distance: hit.distance, score: hit.score, group }
    }

    fn value(&self) -> f32 {
        self.score.unwrap_or(-self.distance)
    }
}

fn squared(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn embedding(random: &mut Random) -> Vec<f32> {
    // Few different ones, so that equal distances are common, and all sums are exact.
    (0..4).map(|_| random.below(6) as f32).collect()
}

fn weights(random: &mut Random) -> Vec<(u32, f32)> {
    let weights: BTreeMap<u32, f32> =
        (0..1 + random.below(6)).map(|_| (random.below(30) as u32, 1.0 + random.below(8) as f32)).collect();
    weights.into_iter().collect()
}

/// Stems that are their own.
fn word(random: &mut Random) -> String {
    let range = [4, 40][random.below(2) as usize];
    format!("w{}", random.below(range))
}

fn ask(query: Query, k: usize) -> Ask {
    let within = Within::default();
    Ask { query, k, effort: Effort::Exact, filter: None, within, decay: None, mmr: None, group: None, now: 0 }
}

fn near(to: &[f32]) -> Query {
    Query::Near { field: EMBEDDING, example: Example::Vector(to.to_vec()) }
}

fn text(words: &[&str]) -> Query {
    // As people write them: the stems are the same.
    Query::Text { text: 1, question: words.join(", ").to_uppercase() }
}

/// The same hits in the same order, with the values that floating point makes of sums in another order.
fn alike(found: Vec<Found>, mut expected: Vec<Found>, k: usize) -> Result<(), String> {
    expected.truncate(k);
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
    let same = |a: &Found, b: &Found| a.key == b.key && a.group == b.group && close(a.value(), b.value());
    let all = found.len() == expected.len() && found.iter().zip(&expected).all(|(a, b)| same(a, b));
    if all { Ok(()) } else { Err(format!("found {found:?}\nexpected {expected:?}")) }
}

fn check_all(seeds: std::ops::Range<u64>, check: impl Fn(&World, &mut Random) -> Result<(), String>) {
    for seed in seeds {
        let (world, mut random) = World::churn(seed, 500);
        for round in 0..6 {
            check(&world, &mut random).unwrap_or_else(|wrong| panic!("seed {seed} round {round}: {wrong}"));
        }
    }
}

fn same(found: Vec<Found>, expected: Vec<Found>) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("found {found:?}\nexpected {expected:?}")) }
}

fn of_group(group: i64) -> Filter {
    Filter::Equal(vec!["g".into()], Value::Int(group))
}

#[test]
fn words_are_found_with_the_scores_of_the_formula() {
    check_all(1..9, |world, random| {
        let words: Vec<String> = (0..1 + random.below(4)).map(|_| word(random)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let expected = world.text(&words);
        for k in [3, 1_000] {
            alike(world.ask(&ask(text(&words), k)).unwrap(), expected.clone(), k)?;
        }
        // A filter chooses among the hits and leaves their scores alone.
        let filtered = Ask { filter: Some(of_group(2).into()), ..ask(text(&words), 1_000) };
        let expected: Vec<Found> =
            expected.into_iter().filter(|found| world.known[&found.key].group == Some(2)).collect();
        alike(world.ask(&filtered).unwrap(), expected, 1_000)
    });
}

#[test]
fn scores_do_not_depend_on_where_records_lie() {
    let mut worlds = [World::new(), World::new(), World::new()];
    for (place, world) in worlds.iter_mut().enumerate() {
        let mut random = Random::new(77);
        for step in 0..400 {
            let key = format!("k{}", random.below(150));
            if random.chance(20) {
                world.delete(&key);
            } else {
                world.put(&mut random, key);
            }
            match place {
                0 => {}
                1 if step % 25 == 0 => drop(world.shard.checkpoint()),
                1 => {}
                _ if step == 399 => drop(world.shard.checkpoint()),
                _ => {}
            }
        }
    }
    worlds[1].shard.restart();
    let mut random = Random::new(78);
    for _ in 0..20 {
        let words = [word(&mut random), word(&mut random)];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let [a, b, c] = worlds.each_ref().map(|world| world.ask(&ask(text(&words), 1_000)).unwrap());
        assert_eq!((&a, &b), (&b, &c), "to the last bit");
        let query = Query::Sparse { field: 1, vector: SparseVector::new(weights(&mut random)).unwrap() };
        let [a, b, c] = worlds.each_ref().map(|world| world.ask(&ask(query.clone(), 1_000)).unwrap());
        assert_eq!((&a, &b), (&b, &c));
    }
}

#[test]
fn sparse_embeddings_are_found_by_their_inner_product() {
    check_all(11..17, |world, random| {
        let weights = weights(random);
        let query = Query::Sparse { field: 1, vector: SparseVector::new(weights.clone()).unwrap() };
        let mut expected = world.near_sparse(&weights);
        expected.truncate(20);
        same(world.ask(&ask(query, 20)).unwrap(), expected)?;
        let nothing = Query::Sparse { field: 0, vector: SparseVector::new(weights).unwrap() };
        same(world.ask(&ask(nothing, 20)).unwrap(), vec![])
    });
}

#[test]
fn everything_between_two_distances_is_found() {
    check_all(21..27, |world, random| {
        let to = embedding(random);
        let all = world.near(&to);
        let (low, high) = (random.below(10) as f32, random.below(30) as f32);
        for (distance_min, distance_max) in [(Some(low), Some(high)), (Some(low), None), (None, Some(high))] {
            let within = Within { distance_min, distance_max, score_min: None };
            for k in [5, 1_000] {
                let expected = all.iter().filter(|found| {
                    distance_min.is_none_or(|min| found.distance >= min)
                        && distance_max.is_none_or(|max| found.distance <= max)
                });
                let expected = expected.take(k).cloned().collect();
                same(world.ask(&Ask { within, ..ask(near(&to), k) }).unwrap(), expected)?;
            }
        }
        Ok(())
    });
}

#[test]
fn fusion_puts_together_what_each_query_finds() {
    check_all(31..37, |world, random| {
        let (to, words, sparse) = (embedding(random), [word(random), word(random)], weights(random));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let limits = [30usize, 10 + random.below(40) as usize, 25];
        let factors = [1.0, 0.5 + random.below(4) as f32, 0.25];
        let group = random.below(4) as i64;
        let mut by_group = world.near(&to);
        by_group.retain(|found| world.known[&found.key].group == Some(group));
        let lists = [by_group, world.text(&words), world.near_sparse(&sparse)];
        let part = |place: usize, query, filter| Part { query, filter, limit: limits[place], weight: factors[place] };
        let parts = vec![
            part(0, near(&to), Some(of_group(group))),
            part(1, text(&words), None),
            part(2, Query::Sparse { field: 1, vector: SparseVector::new(sparse.clone()).unwrap() }, None),
        ];
        for fusion in [Fusion::ReciprocalRank { k: 60.0 }, Fusion::Weighted] {
            let mut scores: BTreeMap<&str, f64> = BTreeMap::new();
            for (place, list) in lists.iter().enumerate() {
                let list: Vec<_> = list.iter().take(limits[place]).collect();
                let (Some(best), Some(worst)) = (list.first(), list.last()) else { continue };
                let spread = f64::from(best.value()) - f64::from(worst.value());
                for (rank, found) in list.iter().enumerate() {
                    let part = match fusion {
                        Fusion::ReciprocalRank { k } => 1.0 / (f64::from(k) + rank as f64 + 1.0),
                        Fusion::Weighted if spread == 0.0 => 1.0,
                        Fusion::Weighted => (f64::from(found.value()) - f64::from(worst.value())) / spread,
                    };
                    *scores.entry(&found.key).or_default() += f64::from(factors[place]) * part;
                }
            }
            let expected = scores.into_iter().map(|(key, score)| {
                let score = score as f32;
                Found { key: key.to_owned(), distance: -score, score: Some(score), group: None }
            });
            let mut expected: Vec<Found> = expected.collect();
            expected.sort_by(|a, b| b.value().total_cmp(&a.value()));
            let query = Query::Fuse { fusion, parts: parts.clone() };
            alike(world.ask(&ask(query, 10)).unwrap(), expected, 10).map_err(|wrong| format!("{fusion:?}: {wrong}"))?;
        }
        Ok(())
    });
}

/// The first `k` groups of all records in order, each with its first `hits`.
fn groups(world: &World, all: Vec<Found>, k: usize, hits: usize) -> Vec<Found> {
    let mut groups: Vec<(i64, Vec<Found>)> = Vec::new();
    for found in all {
        let Some(group) = world.known[&found.key].group else { continue };
        let found = Found { group: Some(group), ..found };
        match groups.iter_mut().find(|(other, _)| *other == group) {
            Some((_, known)) if known.len() < hits => known.push(found),
            Some(_) => {}
            None => groups.push((group, vec![found])),
        }
    }
    groups.into_iter().take(k).flat_map(|(_, found)| found).collect()
}

#[test]
fn groups_are_as_many_and_as_full_as_there_are() {
    check_all(41..47, |world, random| {
        let (to, words) = (embedding(random), [word(random)]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for (k, hits) in [(1, 1), (3, 2), (8, 1), (5, 30), (60, 3), (100, 100)] {
            let group = Some(Group { path: vec!["g".into()], hits });
            let found = world.ask(&Ask { group: group.clone(), ..ask(near(&to), k) }).unwrap();
            same(found, groups(world, world.near(&to), k, hits)).map_err(|wrong| format!("{k} of {hits}: {wrong}"))?;
            let found = world.ask(&Ask { group, ..ask(text(&words), k) }).unwrap();
            alike(found, groups(world, world.text(&words), k, hits), 10_000)?;
        }
        Ok(())
    });
}

#[test]
fn recommendations_are_near_the_mean_and_away_from_the_other() {
    check_all(51..57, |world, random| {
        let embedded: Vec<&String> =
            world.known.iter().filter(|(_, known)| known.embedding.is_some()).map(|(key, _)| key).collect();
        let mut some = |count: usize| -> Vec<String> {
            (0..count).map(|_| embedded[random.below(embedded.len() as u64) as usize].clone()).collect()
        };
        // Means of two or four are exact.
        let (liked, disliked) = (some(2), some(4));
        let mean = |keys: &[String], place: usize| {
            let of = |key: &String| world.known[key].embedding.as_ref().map_or(0.0, |embedding| embedding[place]);
            keys.iter().map(of).sum::<f32>() / keys.len() as f32
        };
        for disliked in [disliked, vec![]] {
            let target: Vec<f32> = (0..4)
                .map(|place| match disliked.is_empty() {
                    true => mean(&liked, place),
                    false => 2.0 * mean(&liked, place) - mean(&disliked, place),
                })
                .collect();
            let mut expected = world.near(&target);
            expected.retain(|found| !liked.contains(&found.key) && !disliked.contains(&found.key));
            expected.truncate(15);
            let examples = |keys: &[String]| keys.iter().map(|key| Example::Key(key.as_bytes().to_vec())).collect();
            let (positive, negative): (Vec<_>, Vec<_>) = (examples(&liked), examples(&disliked));
            let query = |strategy| {
                let (positive, negative) = (Vec::clone(&positive), Vec::clone(&negative));
                ask(Query::Recommend { field: EMBEDDING, positive, negative, strategy }, 15)
            };
            same(world.ask(&query(Strategy::Mean)).unwrap(), expected)?;
            let nearest = |keys: &[String], own: &[f32]| {
                let of = |key: &String| squared(own, world.known[key].embedding.as_ref().unwrap());
                keys.iter().map(of).fold(f32::INFINITY, f32::min)
            };
            let mut expected = world.nearest(|known| {
                let own = known.embedding.as_ref()?;
                let distance = nearest(&liked, own);
                (distance <= nearest(&disliked, own)).then_some(distance)
            });
            expected.retain(|found| !liked.contains(&found.key) && !disliked.contains(&found.key));
            same(world.ask(&query(Strategy::Nearest)).unwrap(), expected.iter().take(15).cloned().collect())?;
            let within = Within { distance_min: Some(3.0), distance_max: Some(12.0), score_min: None };
            expected.retain(|found| (3.0..=12.0).contains(&found.distance));
            expected.truncate(15);
            same(world.ask(&Ask { within, ..query(Strategy::Nearest) }).unwrap(), expected)?;
        }
        Ok(())
    });
}

#[test]
fn diverse_hits_are_those_of_choosing_one_by_one() {
    check_all(61..67, |world, random| {
        let to = embedding(random);
        let lambda = random.below(11) as f32 / 10.0;
        let candidates: Vec<Found> = world.near(&to).into_iter().take(40).collect();
        let like = |distance: f32| 1.0 / (1.0 + f64::from(distance));
        let mut expected: Vec<Found> = Vec::new();
        while expected.len() < 12 {
            let mut best: Option<(f64, &Found)> = None;
            for found in candidates.iter().filter(|found| !expected.contains(found)) {
                let own = world.known[&found.key].embedding.as_ref().unwrap();
                let closest = expected
                    .iter()
                    .map(|other| like(squared(own, world.known[&other.key].embedding.as_ref().unwrap())))
                    .fold(f64::NEG_INFINITY, f64::max);
                let worth = match expected.is_empty() {
                    true => like(found.distance),
                    false => f64::from(lambda) * like(found.distance) - (1.0 - f64::from(lambda)) * closest,
                };
                if best.is_none_or(|(other, _)| worth > other) {
                    best = Some((worth, found));
                }
            }
            expected.extend(best.map(|(_, found)| found.clone()));
        }
        let mmr = Some(Mmr { lambda, candidates: 40, field: EMBEDDING });
        same(world.ask(&Ask { mmr, ..ask(near(&to), 12) }).unwrap(), expected)
    });
}

#[test]
fn old_records_lose_score_by_half_lives() {
    check_all(71..77, |world, random| {
        let (to, half_life, share) = (embedding(random), 1 + random.below(5_000), random.below(5) as f32 / 4.0);
        let words = [word(random)];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        for (query, candidates) in [(near(&to), world.near(&to)), (text(&words), world.text(&words))] {
            let scored = candidates.into_iter().take(50).map(|found| {
                let age = world.known[&found.key].at.map_or(0, |at| (NOW - at).max(0));
                let left = 1.0 - share + share * 0.5f32.powf(age as f32 / half_life as f32);
                let relevance = found.score.unwrap_or(1.0 / (1.0 + found.distance));
                Found { score: Some(relevance * left), ..found }
            });
            let mut expected: Vec<Found> = scored.collect();
            expected.sort_by(|a, b| b.value().total_cmp(&a.value()));
            let decay = Some(Decay { path: vec!["at".into()], half_life, share, now: NOW, candidates: 50 });
            let found = world.ask(&Ask { decay: decay.clone(), ..ask(query.clone(), 10) }).unwrap();
            alike(found, expected.clone(), 10)?;
            let within = Within { score_min: expected.get(4).map(Found::value), ..Within::default() };
            let good = world.ask(&Ask { decay: decay.clone(), within, ..ask(query, 10) }).unwrap();
            if good.len() > expected.len() || !good.iter().all(|hit| hit.score >= within.score_min) {
                return Err(format!("{good:?} of at least {:?}", within.score_min));
            }
        }
        Ok(())
    });
}

#[test]
fn an_answer_explains_itself_whatever_its_form() {
    let (mut world, mut random) = World::churn(9, 300);
    world.shard.checkpoint();
    (0..10).for_each(|number| world.put(&mut random, format!("new{number}")));
    let segments = world.shard.store.view().structure.collections[0].segments.len();
    let all: Vec<(u32, f32)> = (0..30).map(|dimension| (dimension, 1.0)).collect();
    let sparse = Query::Sparse { field: 1, vector: SparseVector::new(all).unwrap() };
    for (query, way) in [(text(&["w0"]), Way::Lists), (sparse.clone(), Way::Lists), (near(&[0.0; 4]), Way::Scan)] {
        for filter in [None, Some(Arc::new(of_group(2)))] {
            let covered = filter.as_ref().map_or(Covered::Unfiltered, |_| Covered::Whole);
            let (_, explanation) = world.explain(&Ask { filter, ..ask(query.clone(), 5) });
            let (memory, steps): (Vec<_>, Vec<_>) =
                explanation.steps.into_iter().partition(|step| step.segment.is_none());
            assert!(matches!(&memory[..], [step] if (step.rows, step.way) == (10, Way::Scan)), "{memory:?}");
            assert_eq!(steps.len(), segments);
            assert!(steps.iter().all(|step| step.way == way && step.covered == covered));
        }
    }
    let part = |query| Part { query, filter: None, limit: 5, weight: 1.0 };
    let fusion = Query::Fuse { fusion: Fusion::Weighted, parts: vec![part(text(&["w0"])), part(sparse)] };
    assert_eq!(world.explain(&ask(fusion, 5)).1.steps.len(), 2 * (1 + segments));
}

#[test]
fn an_index_of_words_of_another_version_is_passed_over() {
    let (mut world, mut random) = World::churn(13, 300);
    world.shard.checkpoint();
    let (index, scan) = (Way::Lists, Way::Scan);
    let ask = ask(text(&["w0", "w1", "w17"]), 1_000);
    let (before, explanation) = world.explain(&ask);
    let ways = |explanation: Explanation| explanation.steps.iter().skip(1).map(|step| step.way).collect::<Vec<_>>();
    assert!(ways(explanation).iter().all(|way| *way == index));
    for name in world.shard.files().iter().filter(|name| name.starts_with("segment-")) {
        let mut bytes = world.shard.directory.bytes(name).unwrap();
        let number = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        for entry in (0..number(&bytes, 12) as usize).map(|entry| 64 + 32 * entry) {
            if bytes[entry..entry + 2] == [50, 0] {
                let section = number(&bytes, entry + 8) as usize;
                bytes[section + 1] += 1;
            }
        }
        crate::segment::tests::sign(&mut bytes);
        world.shard.directory.remove(name).unwrap();
        world.shard.directory.put(name, &bytes);
    }
    world.shard.restart();
    let (after, explanation) = world.explain(&ask);
    assert!(ways(explanation).iter().all(|way| *way == scan));
    assert_eq!(before, after);
    // What is written from now on has an index again.
    (0..300).for_each(|number| world.put(&mut random, format!("k{number}")));
    world.shard.checkpoint();
    let (found, explanation) = world.explain(&ask);
    assert!(ways(explanation).contains(&index));
    alike(found, world.text(&["w0", "w1", "w17"]), 1_000).unwrap();
}

#[test]
fn what_cannot_be_answered_says_why() {
    let (world, _) = World::churn(5, 60);
    let why = |query: Query| world.ask(&ask(query, 5)).unwrap_err().to_string();
    let key = |key: &str| Example::Key(key.into());
    let bare = world.known.iter().find(|(_, known)| known.embedding.is_none()).map(|(key, _)| key.clone()).unwrap();
    for (query, expected) in [
        (Query::Near { field: 0, example: key("none") }, "there is no record \"none\" to search near to"),
        (Query::Near { field: 0, example: key(&bare) }, "has no embedding \"e0\""),
        (Query::Near { field: 7, example: Example::Vector(vec![1.0]) }, "has no embedding number 7"),
        (Query::Text { text: 2, question: "a".into() }, "declares no text number 2"),
        (Query::Text { text: 0, question: "?".into() }, "there is no word"),
        (
            Query::Sparse { field: 2, vector: SparseVector::new(vec![(1, 1.0)]).unwrap() },
            "has no sparse embedding number 2",
        ),
        (
            Query::Recommend { field: 0, positive: vec![], negative: vec![], strategy: Strategy::Mean },
            "at least one positive example",
        ),
    ] {
        let message = why(query);
        assert!(message.contains(expected), "{message}");
    }
    let too_many = ask(near(&[0.0; 4]), crate::ask::HITS_MAX + 1);
    assert!(matches!(world.ask(&too_many), Err(AskError::Limit(LimitError::OutOfBounds { .. }))));
    assert_eq!(world.ask(&ask(text(&["w1"]), 0)).unwrap(), []);
}

#[test]
fn every_form_stops_when_told() {
    let mut world = World::new();
    let mut random = Random::new(3);
    for number in 0..2_500 {
        world.put(&mut random, format!("k{number}"));
    }
    let everything = SparseVector::new((0..30).map(|dimension| (dimension, 1.0)).collect()).unwrap();
    for _ in 0..2 {
        for query in
            [near(&[0.0; 4]), text(&["w0", "w1", "w2", "w3"]), Query::Sparse { field: 1, vector: everything.clone() }]
        {
            let view = world.shard.store.view();
            let collection = view.collection("n", "c").unwrap();
            let stopped = collection.ask(&ask(query, 5), &mut SearchScratch::new(), &mut || false);
            assert!(matches!(stopped, Err(AskError::Search(crate::view::SearchError::Cancelled(_)))), "{stopped:?}");
        }
        world.shard.checkpoint();
    }
}
