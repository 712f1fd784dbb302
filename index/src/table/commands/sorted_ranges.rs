//! Ranges of sorted sets: by rank, by score, by the order of members; read, stored, counted and removed.

use std::ops::Range;

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::super::objects::Sorted;
use super::lists::span;
use super::sorted::{read, tell, write};
use super::{DENYOOM, Done, FAST, Failure, Keys, Spec, int, is, parse_float, without_blanks};

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const SPECS: &[Spec] = &[
    read("zrange", -4, ONE, 0, |keyspace, call| zrange(keyspace, call, Form { by: None, reverse: None })),
    read("zrevrange", -4, ONE, 0, |keyspace, call| {
        zrange(keyspace, call, Form { by: Some(By::Rank), reverse: Some(true) })
    }),
    read("zrangebyscore", -4, ONE, 0, |keyspace, call| {
        zrange(keyspace, call, Form { by: Some(By::Score), reverse: Some(false) })
    }),
    read("zrevrangebyscore", -4, ONE, 0, |keyspace, call| {
        zrange(keyspace, call, Form { by: Some(By::Score), reverse: Some(true) })
    }),
    read("zrangebylex", -4, ONE, 0, |keyspace, call| {
        zrange(keyspace, call, Form { by: Some(By::Lex), reverse: Some(false) })
    }),
    read("zrevrangebylex", -4, ONE, 0, |keyspace, call| {
        zrange(keyspace, call, Form { by: Some(By::Lex), reverse: Some(true) })
    }),
    write("zrangestore", -5, Keys::Range(1, 2, 1), DENYOOM, zrangestore),
    read("zcount", 4, ONE, FAST, |keyspace, call| count(keyspace, call, By::Score)),
    read("zlexcount", 4, ONE, FAST, |keyspace, call| count(keyspace, call, By::Lex)),
    write("zremrangebyrank", 4, ONE, 0, |keyspace, call| remove(keyspace, call, By::Rank, "zremrangebyrank")),
    write("zremrangebyscore", 4, ONE, 0, |keyspace, call| remove(keyspace, call, By::Score, "zremrangebyscore")),
    write("zremrangebylex", 4, ONE, 0, |keyspace, call| remove(keyspace, call, By::Lex, "zremrangebylex")),
];

/// What a range is a range of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// What a command's name says of its ranges; what it leaves open its options may say.
struct Form {
    by: Option<By>,
    reverse: Option<bool>,
}

/// A range of a sorted set.
enum Bounds<'a> {
    Rank(i64, i64),
    Score(ScoreEdge, ScoreEdge),
    Lex(LexEdge<'a>, LexEdge<'a>),
}

#[derive(Debug, Clone, Copy)]
struct ScoreEdge {
    score: f64,
    open: bool,
}

#[derive(Debug, Clone, Copy)]
enum LexEdge<'a> {
    Least,
    Most,
    At { member: &'a [u8], open: bool },
}

impl ScoreEdge {
    fn of(text: &[u8]) -> Result<ScoreEdge, Failure> {
        let (open, text) = match text {
            [b'(', rest @ ..] => (true, rest),
            text => (false, text),
        };
        // No digits at all are read as zero.
        let number = without_blanks(text);
        let score = if text.is_empty() { Some(0.0) } else { parse_float(number).or_else(|| beyond(number)) };
        Ok(ScoreEdge { score: score.ok_or("ERR min or max is not a float")?, open })
    }
}

/// A number that is too large for one is an edge beyond all scores.
fn beyond(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.trim() == *text)?;
    text.parse::<f64>().ok().filter(|number| number.is_infinite())
}

impl LexEdge<'_> {
    fn of(text: &[u8]) -> Result<LexEdge<'_>, Failure> {
        match text {
            b"-" => Ok(LexEdge::Least),
            b"+" => Ok(LexEdge::Most),
            [b'(', member @ ..] => Ok(LexEdge::At { member, open: true }),
            [b'[', member @ ..] => Ok(LexEdge::At { member, open: false }),
            _ => Err("ERR min or max not valid string range item".into()),
        }
    }
}

impl Bounds<'_> {
    fn of<'a>(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Bounds<'a>, Failure> {
        Ok(match by {
            By::Rank => Bounds::Rank(int(min)?, int(max)?),
            By::Score => Bounds::Score(ScoreEdge::of(min)?, ScoreEdge::of(max)?),
            By::Lex => Bounds::Lex(LexEdge::of(min)?, LexEdge::of(max)?),
        })
    }

    /// The ranks that it means, counted from the lowest score.
    fn ranks(&self, sorted: &Sorted) -> Range<usize> {
        let (start, end) = match *self {
            Bounds::Rank(start, end) => return span(sorted.len(), start, end),
            Bounds::Score(min, max) => (
                sorted.count_by_score(|score| score < min.score || (min.open && score == min.score)),
                sorted.count_by_score(|score| score < max.score || (!max.open && score == max.score)),
            ),
            Bounds::Lex(min, max) => (before(sorted, min, true), before(sorted, max, false)),
        };
        start..end.max(start)
    }
}

/// How many members are before an edge: those that it leaves out at the beginning, or lets in up to the end.
fn before(sorted: &Sorted, edge: LexEdge<'_>, beginning: bool) -> usize {
    match edge {
        LexEdge::Least => 0,
        LexEdge::Most => sorted.len(),
        LexEdge::At { member, open } if open == beginning => sorted.count_by_member(|other| other <= member),
        LexEdge::At { member, .. } => sorted.count_by_member(|other| other < member),
    }
}

/// A range with what is wanted of it.
struct Wanted<'a> {
    bounds: Bounds<'a>,
    reverse: bool,
    offset: i64,
    limit: i64,
    with_scores: bool,
}

impl Wanted<'_> {
    /// Reads the range at `place`, and the options after it.
    fn of<'a>(call: &Call<'a>, place: usize, form: Form, storing: bool) -> Result<Wanted<'a>, Failure> {
        let Form { mut by, mut reverse } = form;
        let (mut offset, mut limit, mut with_scores) = (0, -1, false);
        let mut words = call.args[place + 2..].iter();
        while let Some(word) = words.next() {
            match () {
                () if is(word, "withscores") && !storing => with_scores = true,
                () if is(word, "limit") && words.len() >= 2 => {
                    let mut number = || int(words.next().copied().unwrap_or_default());
                    (offset, limit) = (number()?, number()?);
                }
                () if is(word, "rev") && reverse.is_none() => reverse = Some(true),
                () if is(word, "bylex") && by.is_none() => by = Some(By::Lex),
                () if is(word, "byscore") && by.is_none() => by = Some(By::Score),
                () => return Err(Failure::Syntax),
            }
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            let text = "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
            return Err(text.into());
        }
        if with_scores && by == By::Lex {
            return Err("ERR syntax error, WITHSCORES not supported in combination with BYLEX".into());
        }
        let (first, second) = (call.args[place], call.args[place + 1]);
        let (min, max) = if reverse && by != By::Rank { (second, first) } else { (first, second) };
        Ok(Wanted { bounds: Bounds::of(by, min, max)?, reverse, offset, limit, with_scores })
    }

    fn ranks(&self, sorted: &Sorted) -> Range<usize> {
        let ranks = self.bounds.ranks(sorted);
        if matches!(self.bounds, Bounds::Rank(..)) {
            let len = sorted.len();
            return if self.reverse { len - ranks.end..len - ranks.start } else { ranks };
        }
        // A negative offset skips all, a negative limit is none.
        let skipped = usize::try_from(self.offset).unwrap_or(usize::MAX).min(ranks.len());
        let kept = usize::try_from(self.limit).unwrap_or(usize::MAX).min(ranks.len() - skipped);
        if self.reverse {
            let end = ranks.end - skipped;
            end - kept..end
        } else {
            let start = ranks.start + skipped;
            start..start + kept
        }
    }
}

fn zrange(keyspace: &Keyspace, call: &mut Call<'_>, form: Form) -> Done {
    let wanted = Wanted::of(call, 2, form, false)?;
    let Some(sorted) = keyspace.object::<Sorted>(call.args[1], call.now)? else {
        call.out.array(0);
        return Ok(());
    };
    let ranks = wanted.ranks(sorted);
    if wanted.with_scores {
        call.out.pairs(ranks.len());
    } else {
        call.out.array(ranks.len());
    }
    let mut put = |(member, score): (&[u8], f64)| {
        call.out.bulk(member);
        if wanted.with_scores {
            call.out.double(score);
        }
    };
    if wanted.reverse {
        sorted.iter(ranks).rev().for_each(&mut put);
    } else {
        sorted.iter(ranks).for_each(&mut put);
    }
    Ok(())
}

/// Gives the first key what a command came to, and replies with how many members that has.
pub(super) fn store(keyspace: &mut Keyspace, call: &mut Call<'_>, sorted: Sorted, event: &'static str) {
    store_at(keyspace, call, call.args[1], sorted, event);
}

/// The same of any key.
pub(super) fn store_at(keyspace: &mut Keyspace, call: &mut Call<'_>, key: &[u8], sorted: Sorted, event: &'static str) {
    let len = sorted.len();
    let was_there = keyspace.contains(key, call.now);
    if len > 0 {
        keyspace.put(key, sorted, 0, call.at());
        keyspace.notify(b'z', event, key);
    } else if was_there {
        keyspace.remove(key, call.at());
        keyspace.notify(b'g', "del", key);
    }
    call.out.count(len);
}

fn zrangestore(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let wanted = Wanted::of(call, 3, Form { by: None, reverse: None }, true)?;
    let mut result = Sorted::default();
    if let Some(sorted) = keyspace.object::<Sorted>(call.args[2], call.now)? {
        for (member, score) in sorted.iter(wanted.ranks(sorted)) {
            result.insert(member, score);
        }
    }
    store(keyspace, call, result, "zrangestore");
    Ok(())
}

fn count(keyspace: &Keyspace, call: &mut Call<'_>, by: By) -> Done {
    let bounds = Bounds::of(by, call.args[2], call.args[3])?;
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    call.out.count(sorted.map_or(0, |sorted| bounds.ranks(sorted).len()));
    Ok(())
}

fn remove(keyspace: &mut Keyspace, call: &mut Call<'_>, by: By, event: &'static str) -> Done {
    let key = call.args[1];
    let bounds = Bounds::of(by, call.args[2], call.args[3])?;
    let removed = keyspace.edit(key, call.at(), |sorted: &mut Sorted| {
        let ranks = bounds.ranks(sorted);
        let count = ranks.len();
        sorted.remove_ranks(ranks, |_, _| ());
        ((count, sorted.len()), count > 0)
    })?;
    let (count, left) = removed.unwrap_or_default();
    if count > 0 {
        tell(keyspace, event, key, left);
    }
    call.out.count(count);
    Ok(())
}
