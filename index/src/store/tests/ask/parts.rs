//! The same records once in one store and once spread over several: whatever is asked, the answers are the same.

use std::borrow::Cow;

use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::ask::{Leaf, both};
use crate::command::{Installation, Schema};
use crate::filter::{Limit, Range};
use crate::text::Corpus;
use crate::view::{Carried, CollectionView, Parts, ScanRequest, SearchRequest, SearchResult, View};

/// All records in one store, and each in one of several.
struct Spread {
    whole: World,
    parts: Vec<World>,
}

impl Spread {
    fn new(parts: usize) -> Spread {
        let whole = World::new();
        let part = |_| {
            // Ids that somebody else gave out, as for parts of one collection.
            let mut part = World { shard: Shard::new(small()), collection: 9, known: BTreeMap::new() };
            let schema: Schema = whole.shard.store.view().collection("n", "c").unwrap().schema().clone();
            let installation = Installation { collection: 9, namespace: "n".into(), name: "c".into(), schema };
            part.shard.command(Command::InstallCollection(installation.into()));
            part
        };
        let parts = (0..parts).map(part).collect();
        Spread { whole, parts }
    }

    /// Does the same to the store that has everything and to the one that has the key.
    fn both(&mut self, random: &mut Random, key: &str, change: impl Fn(&mut World, &mut Random)) {
        let part = xxh3_64(key.as_bytes()) % self.parts.len() as u64;
        let again = &mut Random(random.0);
        change(&mut self.parts[part as usize], again);
        change(&mut self.whole, random);
    }

    fn worlds(&mut self) -> impl Iterator<Item = &mut World> {
        self.parts.iter_mut().chain([&mut self.whole])
    }

    fn churn(seed: u64, steps: usize) -> (Spread, Random) {
        let mut random = Random::new(seed);
        let mut spread = Spread::new(1 + seed as usize % 5);
        for step in 0..steps {
            let key = format!("k{}", random.below(200));
            let (deleted, deadline) = (random.chance(15), random.chance(15).then(|| 1 + random.below(2_000)));
            spread.both(&mut random, &key, |world, random| match deleted {
                true => world.delete(&key),
                false => {
                    world.put(random, key.clone());
                    let content = Content { deadline: deadline.unwrap_or(0), ..Content::default() };
                    let merge = Action::Merge { content, remove_attributes: vec![], remove_deadline: false };
                    world.shard.command(write(vec![change(world.collection, &key, merge)]));
                }
            });
            // Each at its own moments, so that no part is laid out as the whole is.
            let part = random.below(spread.parts.len() as u64 + 1) as usize;
            let one = &mut spread.worlds().nth(part).unwrap().shard;
            match random.below(30) {
                0 => one.store.request_checkpoint(),
                1..10 => drop(one.rest()),
                _ => {}
            }
            if step % 50 == 49 {
                let clock = random.below(600);
                spread.worlds().for_each(|world| drop(world.shard.entry(clock, vec![])));
            }
        }
        (spread, random)
    }

    fn views(&self) -> Vec<Arc<View>> {
        self.parts.iter().map(|part| part.shard.store.view()).collect()
    }
}

fn collections(views: &[Arc<View>]) -> Vec<CollectionView<'_>> {
    views.iter().map(|view| view.collection("n", "c").unwrap()).collect()
}

fn example(random: &mut Random) -> Example {
    match random.chance(50) {
        true => Example::Key(format!("k{}", random.below(200)).into()),
        false => Example::Vector(embedding(random)),
    }
}

/// Of any form; fusions so deep as they may be.
fn query(random: &mut Random, depth: usize) -> Query {
    match random.below(if depth < 2 { 8 } else { 6 }) {
        0 | 1 => Query::Near { field: EMBEDDING, example: example(random) },
        2 => Query::Sparse { field: 1, vector: SparseVector::new(weights(random)).unwrap() },
        3 => {
            let words: Vec<String> = (0..1 + random.below(3)).map(|_| word(random)).collect();
            Query::Text { text: 1, question: words.join(" ") }
        }
        4 | 5 => {
            let positive = (0..1 + random.below(3)).map(|_| example(random)).collect();
            let negative = (0..random.below(3)).map(|_| example(random)).collect();
            let strategy = if random.chance(50) { Strategy::Mean } else { Strategy::Nearest };
            Query::Recommend { field: EMBEDDING, positive, negative, strategy }
        }
        _ => {
            let parts = (0..1 + random.below(3)).map(|_| Part {
                query: query(random, depth + 1),
                filter: random.chance(30).then(|| filter(random)),
                limit: 1 + random.below(40) as usize,
                weight: 0.5 + random.below(3) as f32,
            });
            let parts = parts.collect();
            let fusion = match random.chance(50) {
                true => Fusion::Weighted,
                false => Fusion::ReciprocalRank { k: 60.0 },
            };
            Query::Fuse { fusion, parts }
        }
    }
}

fn filter(random: &mut Random) -> Filter {
    let low = Some(Limit { value: Value::Timestamp(random.below(12_000) as i64), inclusive: true });
    match random.below(3) {
        0 => of_group(random.below(4) as i64),
        1 => Filter::Not(Box::new(of_group(random.below(4) as i64))),
        _ => Filter::Range(vec!["at".into()], Range { low, high: None }),
    }
}

fn question(random: &mut Random) -> Ask {
    let query = query(random, 0);
    let bound = |random: &mut Random| random.chance(15).then(|| random.below(40) as f32);
    let within = Within {
        distance_min: bound(random),
        distance_max: bound(random),
        score_min: random.chance(10).then(|| random.float()),
    };
    let candidates = 1 + random.below(60) as usize;
    let decay = random.chance(20).then(|| {
        let (half_life, share) = (1 + random.below(5_000), random.below(5) as f32 / 4.0);
        Decay { path: vec!["at".into()], half_life, share, now: NOW, candidates }
    });
    let group = random.chance(25).then(|| Group { path: vec!["g".into()], hits: 1 + random.below(3) as usize });
    let mmr = (group.is_none() && random.chance(25)).then(|| {
        let lambda = random.below(11) as f32 / 10.0;
        Mmr { lambda, candidates, field: EMBEDDING }
    });
    Ask {
        filter: random.chance(40).then(|| filter(random).into()),
        within,
        decay,
        group,
        mmr,
        now: random.below(2_000),
        ..ask(query, [1, 3, 20, 1_000][random.below(4) as usize])
    }
}

fn told(answer: Result<Vec<Found>, AskError>) -> Result<Vec<Found>, String> {
    answer.map_err(|error| error.to_string())
}

/// Every example that is a record, with its embedding, which may be in any part.
fn resolved(parts: &Parts<'_, '_>, query: &Query, now: u64) -> Result<Query, AskError> {
    let found = |example: &Example| match example {
        Example::Key(key) => {
            let record = parts.get(key, now).ok_or_else(|| AskError::UnknownRecord(key.clone()))?;
            let none = || AskError::NoEmbedding { key: key.clone(), name: "e0".into() };
            let vector = record.embedding(EMBEDDING).ok_or_else(none)?.into_owned();
            Ok(Example::Found { key: key.clone(), vector })
        }
        other => Ok(other.clone()),
    };
    let all = |examples: &[Example]| examples.iter().map(found).collect::<Result<Vec<_>, AskError>>();
    Ok(match query {
        Query::Near { field, example } => Query::Near { field: *field, example: found(example)? },
        Query::Recommend { field, positive, negative, strategy } => {
            let (positive, negative) = (all(positive)?, all(negative)?);
            Query::Recommend { field: *field, positive, negative, strategy: *strategy }
        }
        other => other.clone(),
    })
}

/// What a part found, carried away from it.
fn carried(found: &[Hit<'_>]) -> Vec<(f32, Option<f32>, Carried)> {
    let own = |hit: &Hit<'_>| {
        let embeddings = (0..2).map(|field| hit.record.embedding(field).map(|own| own.into_owned().into())).collect();
        let record = Carried::new(hit.record.key(), hit.record.attributes().to_vec(), embeddings);
        (hit.distance, hit.score, record)
    };
    found.iter().map(own).collect()
}

/// Asks each part by itself, and makes one answer of what they say: the keys, scores and groups of its hits.
fn apart(parts: &[CollectionView<'_>], ask: &Ask) -> Result<Vec<Told>, AskError> {
    let mut scratch = SearchScratch::new();
    ask.check()?;
    let mut lists = Vec::new();
    for leaf in ask.leaves() {
        let query = resolved(&Parts::new(parts), leaf.query, ask.now)?;
        let mut leaf = Leaf { query: &query, ..leaf };
        let mut all: Option<Corpus> = None;
        for part in parts {
            let counted = Parts::new(std::slice::from_ref(part)).count_words(&leaf, &mut scratch, &mut || true)?;
            match (&mut all, counted) {
                (Some(all), Some(counted)) => all.join(&counted),
                (_, counted) => all = counted,
            }
        }
        leaf.corpus = all;
        let mut found = |leaf: &Leaf<'_>| {
            let mut all = Vec::new();
            for part in parts {
                let part = Parts::new(std::slice::from_ref(part));
                all.extend(carried(&part.find(leaf, &mut scratch, &mut || true, &mut |_, _, _| {})?.hits));
            }
            Ok::<_, AskError>(all)
        };
        // Which groups come first, and then all their hits.
        if let Some(group) = leaf.group.clone().filter(|group| group.hits > 1) {
            let first =
                Leaf { group: Some(Cow::Owned(Group { hits: 1, ..group.clone().into_owned() })), ..leaf.clone() };
            let heads = found(&first)?;
            let heads = first.best_of(heads.iter().map(hit).collect());
            let values = heads.iter().filter_map(|hit| hit.group?.to_value()).collect();
            leaf.filter =
                both(leaf.filter, Some(&Filter::In(group.path.clone(), values))).map(|of| Cow::Owned(of.into_owned()));
        }
        let hits = found(&leaf)?;
        let best: Vec<Vec<u8>> =
            leaf.best_of(hits.iter().map(hit).collect()).iter().map(|hit| hit.record.key().to_vec()).collect();
        let place = |found: &(f32, Option<f32>, Carried)| best.iter().position(|key| *key == found.2.record().key());
        let mut hits: Vec<_> = hits.into_iter().filter_map(|found| Some((place(&found)?, found))).collect();
        hits.sort_by_key(|(place, _)| *place);
        lists.push(hits.into_iter().map(|(_, found)| found).collect::<Vec<_>>());
    }
    let found = lists.iter().map(|list| list.iter().map(hit).collect()).collect();
    let hits = parts[0].finish(ask, found, &mut || true)?;
    Ok(hits.iter().map(Told::of).collect())
}

fn hit((distance, score, record): &(f32, Option<f32>, Carried)) -> Hit<'_> {
    Hit { distance: *distance, score: *score, group: None, record: record.record() }
}

/// What an answer says of a hit, wherever its record is.
#[derive(Debug, PartialEq)]
struct Told {
    key: Vec<u8>,
    distance: u32,
    score: Option<u32>,
}

impl Told {
    fn of(hit: &Hit<'_>) -> Told {
        let score = hit.score.map(f32::to_bits);
        Told { key: hit.record.key().to_vec(), distance: hit.distance.to_bits(), score }
    }
}

/// How many answers had hits, and how many were errors.
fn compare(seed: u64) -> (usize, usize) {
    let (spread, mut random) = Spread::churn(seed, 300);
    let (views, whole) = (spread.views(), spread.whole.shard.store.view());
    let (collections, whole) = (collections(&views), whole.collection("n", "c").unwrap());
    let parts = Parts::new(&collections);
    let (mut full, mut errors) = (0, 0);
    let mut scratch = SearchScratch::new();
    for round in 0..60 {
        let ask = question(&mut random);
        let found = |hits: &[Hit<'_>]| hits.iter().map(Found::of).collect::<Vec<_>>();
        let got = told(parts.ask(&ask, &mut scratch, &mut || true).map(|answer| found(&answer.hits)));
        let expected = told(whole.ask(&ask, &mut scratch, &mut || true).map(|answer| found(&answer.hits)));
        // To the last bit, scores too: what they are made of are the same numbers in the same order.
        assert_eq!(got, expected, "round {round}: {ask:?}");
        let told = |hits: &[Hit<'_>]| hits.iter().map(Told::of).collect::<Vec<_>>();
        let whole_told = whole.ask(&ask, &mut scratch, &mut || true).map(|answer| told(&answer.hits));
        let (whole_told, apart) =
            (whole_told.map_err(|e| e.to_string()), apart(&collections, &ask).map_err(|e| e.to_string()));
        assert_eq!(apart, whole_told, "round {round}, each part by itself: {ask:?}");
        full += usize::from(expected.as_ref().is_ok_and(|found| !found.is_empty()));
        errors += usize::from(expected.is_err());

        let (filter, now) = (random.chance(50).then(|| self::filter(&mut random)), random.below(2_000));
        let counts = [parts.count(filter.as_ref(), now, &mut || true), whole.count(filter.as_ref(), now, &mut || true)];
        assert_eq!(counts[0], counts[1], "round {round}: {filter:?}");
        let key = format!("k{}", random.below(200)).into_bytes();
        let attributes = |record: crate::view::RecordRef<'_>| record.attributes().to_vec();
        assert_eq!(parts.get(&key, now).map(attributes), whole.get(&key, now).map(attributes));

        let prefix = ["", "k1", "k", "x"][random.below(4) as usize].as_bytes();
        let mut after = None::<Vec<u8>>;
        loop {
            let request = ScanRequest {
                after: after.as_deref(),
                prefix: Some(prefix),
                filter: filter.as_ref(),
                limit: 1 + random.below(40) as usize,
                bytes_max: 1 + random.below(2_000) as usize,
                now,
            };
            let page = |page: crate::view::ScanPage<'_>| {
                (page.records.iter().map(|record| record.key().to_vec()).collect::<Vec<_>>(), page.next)
            };
            let got = page(parts.scan(&request, &mut || true).unwrap());
            assert_eq!(got, page(whole.scan(&request, &mut || true).unwrap()), "round {round}: {request:?}");
            after = got.1;
            if after.is_none() {
                break;
            }
        }
    }
    (full, errors)
}

#[test]
fn records_that_are_spread_over_several_stores_are_found_as_in_one() {
    let (mut full, mut errors) = (0, 0);
    for seed in 1..=15 {
        let counts = std::panic::catch_unwind(|| compare(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
        full += counts.0;
        errors += counts.1;
    }
    assert!(full > 300 && errors > 20, "the test went past something: {full} {errors}");
}

#[test]
fn steps_and_watchers_say_in_which_part_a_search_was() {
    let (spread, _) = Spread::churn(3, 200);
    assert_eq!(spread.parts.len(), 4);
    let views = spread.views();
    let collections = collections(&views);
    let sparse = SparseVector::new((0..30).map(|dimension| (dimension, 1.0)).collect()).unwrap();
    for query in [near(&[0.0; 4]), text(&["w0"]), Query::Sparse { field: 1, vector: sparse }] {
        let is_near = matches!(query, Query::Near { .. });
        let ask = ask(query, 1_000);
        let explain = |parts: &[CollectionView<'_>]| {
            let (mut scratch, mut watched) = (SearchScratch::new(), Vec::new());
            scratch.explain(|| 0);
            let watch = &mut |part: usize, _: &SearchRequest<'_>, found: &SearchResult<'_>| {
                watched.push((part, found.hits.len()))
            };
            let found = Parts::new(parts).ask_watched(&ask, &mut scratch, &mut || true, watch).unwrap();
            (found.hits.len(), scratch.explanation().steps, watched)
        };
        let (hits, steps, watched) = explain(&collections);
        let (mut hits_alone, mut watched_alone) = (0, Vec::new());
        for (number, collection) in collections.iter().enumerate() {
            let (hits, alone, watched) = explain(&[*collection]);
            assert!(!alone.is_empty() && alone.iter().all(|step| step.part == 0));
            let theirs = steps.iter().filter(|step| step.part == number);
            let what = |step: &crate::view::Step| (step.segment, step.rows, step.way);
            assert_eq!(theirs.map(what).collect::<Vec<_>>(), alone.iter().map(what).collect::<Vec<_>>());
            hits_alone += hits;
            watched_alone.extend(watched.into_iter().map(|(_, hits)| (number, hits)));
        }
        assert_eq!(hits, hits_alone);
        assert_eq!((watched.len() == 4, &watched), (is_near, &watched_alone));
    }
}

#[test]
fn every_no_stops_an_answer_from_several_parts() {
    let (spread, _) = Spread::churn(4, 300);
    let views = spread.views();
    let collections = collections(&views);
    let parts = Parts::new(&collections);
    let all = SparseVector::new((0..30).map(|dimension| (dimension, 1.0)).collect()).unwrap();
    for query in [text(&["w0", "w1"]), Query::Sparse { field: 1, vector: all }] {
        let ask = ask(query, 5);
        let answer = |limit: usize| {
            let mut asked = 0;
            let mut keep_going = || {
                asked += 1;
                asked <= limit
            };
            let answer = parts.ask(&ask, &mut SearchScratch::new(), &mut keep_going).map(|answer| answer.hits.len());
            (answer, asked)
        };
        let (whole, asked) = answer(usize::MAX);
        assert!(whole.is_ok() && asked > collections.len(), "asked {asked} times");
        for limit in 0..asked {
            let (stopped, asked) = answer(limit);
            assert!(matches!(stopped, Err(AskError::Search(crate::view::SearchError::Cancelled(_)))), "{stopped:?}");
            assert_eq!(asked, limit + 1);
        }
    }
}
