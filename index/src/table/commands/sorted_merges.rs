//! Several sorted sets: their union, intersection and difference. Plain sets are sorted sets whose scores are one.

use std::cmp::Ordering;

use hashbrown::HashTable;

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::super::objects::set::Member;
use super::super::objects::{Set, Sorted, place_of};
use super::lists::at_least;
use super::sorted::{read, write};
use super::sorted_ranges::store;
use super::{DENYOOM, Done, Failure, Keys, Spec, int, is, parse_double};

const READ: Keys = Keys::Counted(1, None);
const STORE: Keys = Keys::Counted(2, Some(1));

pub(super) const SPECS: &[Spec] = &[
    read("zunion", -3, READ, 0, |keyspace, call| answer(keyspace, call, Merge::Union)),
    read("zinter", -3, READ, 0, |keyspace, call| answer(keyspace, call, Merge::Inter)),
    read("zdiff", -3, READ, 0, |keyspace, call| answer(keyspace, call, Merge::Diff)),
    read("zintercard", -3, READ, 0, zintercard),
    write("zunionstore", -4, STORE, DENYOOM, |keyspace, call| keep(keyspace, call, Merge::Union, "zunionstore")),
    write("zinterstore", -4, STORE, DENYOOM, |keyspace, call| keep(keyspace, call, Merge::Inter, "zinterstore")),
    write("zdiffstore", -4, STORE, DENYOOM, |keyspace, call| keep(keyspace, call, Merge::Diff, "zdiffstore")),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Merge {
    Union,
    Inter,
    Diff,
}

/// How the scores of one member become one.
#[derive(Debug, Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            // Infinities of both signs come to nothing.
            Aggregate::Sum => or_zero(one + other),
            Aggregate::Min if other < one => other,
            Aggregate::Max if other > one => other,
            Aggregate::Min | Aggregate::Max => one,
        }
    }
}

fn or_zero(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// What is merged: the members of one key.
#[derive(Clone, Copy)]
enum Source<'k> {
    Nothing,
    Sorted(&'k Sorted),
    Set(&'k Set),
}

/// A member with its score.
type Scored<'k> = (Member<'k>, f64);

impl<'k> Source<'k> {
    fn of(keyspace: &'k Keyspace, key: &[u8], now: u64) -> Result<Source<'k>, Failure> {
        if let Ok(set) = keyspace.object::<Set>(key, now) {
            return Ok(set.map_or(Source::Nothing, Source::Set));
        }
        Ok(keyspace.object::<Sorted>(key, now)?.map_or(Source::Nothing, Source::Sorted))
    }

    fn len(self) -> usize {
        match self {
            Source::Nothing => 0,
            Source::Sorted(sorted) => sorted.len(),
            Source::Set(set) => set.len(),
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Nothing => None,
            Source::Sorted(sorted) => sorted.score(member),
            Source::Set(set) => set.contains(member).then_some(1.0),
        }
    }

    fn iter(self) -> Box<dyn Iterator<Item = Scored<'k>> + 'k> {
        match self {
            Source::Nothing => Box::new(std::iter::empty()),
            Source::Sorted(sorted) => {
                Box::new(sorted.iter(0..sorted.len()).map(|(member, score)| (Member::Text(member), score)))
            }
            Source::Set(set) => Box::new(set.iter().map(|member| (member, 1.0))),
        }
    }
}

/// The sources that a call names, whose count is at `place`, and its words after them.
fn sources<'k, 'a>(
    keyspace: &'k Keyspace,
    call: &Call<'a>,
    place: usize,
) -> Result<(Vec<Source<'k>>, &'a [&'a [u8]]), Failure> {
    let count = int(call.args[place])?;
    if count < 1 {
        let name = String::from_utf8_lossy(call.args[0]).to_lowercase();
        return Err(format!("ERR at least 1 input key is needed for '{name}' command").into());
    }
    let rest = &call.args[place + 1..];
    let (keys, options) =
        usize::try_from(count).ok().and_then(|count| rest.split_at_checked(count)).ok_or(Failure::Syntax)?;
    let sources = keys.iter().map(|key| Source::of(keyspace, key, call.now));
    Ok((sources.collect::<Result<_, _>>()?, options))
}

struct Merged<'k> {
    /// In order.
    members: Vec<Scored<'k>>,
    with_scores: bool,
}

fn merge<'k>(
    keyspace: &'k Keyspace,
    call: &Call<'_>,
    place: usize,
    merge: Merge,
    storing: bool,
) -> Result<Merged<'k>, Failure> {
    let (sources, options) = sources(keyspace, call, place)?;
    let (mut weights, mut aggregate, mut with_scores) = (vec![1.0; sources.len()], Aggregate::Sum, false);
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match () {
            () if merge != Merge::Diff && is(word, "weights") && words.len() >= sources.len() => {
                for (weight, text) in weights.iter_mut().zip(&mut words) {
                    *weight = parse_double(text).ok_or("ERR weight value is not a float")?;
                }
            }
            () if merge != Merge::Diff && is(word, "aggregate") && words.len() > 0 => {
                let word = words.next().copied().unwrap_or_default();
                aggregate = match () {
                    () if is(word, "sum") => Aggregate::Sum,
                    () if is(word, "min") => Aggregate::Min,
                    () if is(word, "max") => Aggregate::Max,
                    () => return Err(Failure::Syntax),
                };
            }
            () if !storing && is(word, "withscores") => with_scores = true,
            () => return Err(Failure::Syntax),
        }
    }
    let mut weighted: Vec<(Source<'k>, f64)> = sources.into_iter().zip(weights).collect();
    if merge != Merge::Diff {
        // The order decides to what a sum of fractions is rounded.
        weighted.sort_by_key(|(source, _)| source.len());
    }
    let mut members = match merge {
        Merge::Union => union(&weighted, aggregate),
        Merge::Inter => inter(&weighted, aggregate, usize::MAX),
        Merge::Diff => diff(&weighted),
    };
    members.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap_or(Ordering::Equal).then_with(|| a.0.cmp(&*b.0)));
    Ok(Merged { members, with_scores })
}

fn union<'k>(sources: &[(Source<'k>, f64)], aggregate: Aggregate) -> Vec<Scored<'k>> {
    let (mut members, mut places) = (Vec::<Scored<'k>>::new(), HashTable::<usize>::new());
    for (source, weight) in sources {
        for (member, score) in source.iter() {
            let (hash, score) = (place_of(&member), or_zero(weight * score));
            match places.find(hash, |place| *members[*place].0 == *member) {
                Some(place) => members[*place].1 = aggregate.of(members[*place].1, score),
                None => {
                    members.push((member, score));
                    places.insert_unique(hash, members.len() - 1, |place| place_of(&members[*place].0));
                }
            }
        }
    }
    members
}

fn inter<'k>(sources: &[(Source<'k>, f64)], aggregate: Aggregate, most: usize) -> Vec<Scored<'k>> {
    let Some(((first, weight), rest)) = sources.split_first() else { return Vec::new() };
    let all = first.iter().filter_map(|(member, score)| {
        rest.iter()
            .try_fold(or_zero(weight * score), |sum, (source, weight)| {
                source.score(&member).map(|score| aggregate.of(sum, weight * score))
            })
            .map(|score| (member, score))
    });
    all.take(most).collect()
}

fn diff<'k>(sources: &[(Source<'k>, f64)]) -> Vec<Scored<'k>> {
    let Some(((first, _), rest)) = sources.split_first() else { return Vec::new() };
    first.iter().filter(|(member, _)| rest.iter().all(|(source, _)| source.score(member).is_none())).collect()
}

fn answer(keyspace: &Keyspace, call: &mut Call<'_>, how: Merge) -> Done {
    let Merged { members, with_scores } = merge(keyspace, call, 1, how, false)?;
    if with_scores {
        call.out.pairs(members.len());
    } else {
        call.out.array(members.len());
    }
    for (member, score) in members {
        call.out.bulk(&member);
        if with_scores {
            call.out.double(score);
        }
    }
    Ok(())
}

fn keep(keyspace: &mut Keyspace, call: &mut Call<'_>, how: Merge, event: &'static str) -> Done {
    let mut result = Sorted::default();
    for (member, score) in merge(keyspace, call, 2, how, true)?.members {
        result.insert(&member, score);
    }
    store(keyspace, call, result, event);
    Ok(())
}

fn zintercard(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (sources, options) = sources(keyspace, call, 1)?;
    let mut most = 0;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let number = words.next().filter(|_| is(word, "limit")).ok_or(Failure::Syntax)?;
        most = at_least(number, 0, "ERR LIMIT can't be negative")?;
    }
    let mut weighted: Vec<_> = sources.into_iter().map(|source| (source, 1.0)).collect();
    weighted.sort_by_key(|(source, _)| source.len());
    let most = if most == 0 { usize::MAX } else { most };
    call.out.count(inter(&weighted, Aggregate::Sum, most).len());
    Ok(())
}
