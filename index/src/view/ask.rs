//! Answering what was asked: each query finds its hits, and what was asked besides is made of them.
//!
//! ```text
//!   query --find--> candidates --decay--> in order of score --group | mmr | cut--> hits
//!             ^          |
//!             '-- fuse --'   each query finds its own
//! ```
//!
//! A query looks through all parts of the collection ([`super::Parts`]) before it hands out a hit. So whatever is made of
//! hits is made of those of the whole collection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::search::{SearchError, keep_nearest};
use super::{Cancelled, Collection, CollectionView, Hit, Parts, RecordRef, SearchRequest, SearchResult, SearchScratch};
use crate::ask::recommend::Strategy;
use crate::ask::{Ask, AskError, Decay, Example, LimitError, Mmr, Part, Query, Within, decay, diversity, recommend};
use crate::ask::{fusion, similarity};
use crate::attributes::{self, ValueRef};
use crate::distance::Metric;
use crate::filter::Filter;

/// So many hits are searched for at first where the nearest of them may not count.
const BEYOND_MIN: usize = 16;

/// What one question needs while it is answered.
pub(super) struct Asking<'a, 'v> {
    /// At least one, all with the same rules.
    pub parts: &'a [CollectionView<'v>],
    pub ask: &'a Ask,
    pub scratch: &'a mut SearchScratch,
    pub keep_going: &'a mut dyn FnMut() -> bool,
    /// Is told of every search by nearness, and of which part.
    pub watch: &'a mut dyn FnMut(usize, &SearchRequest<'_>, &SearchResult<'_>),
    /// What it has cost so far.
    pub cost: SearchResult<'v>,
}

impl<'v> CollectionView<'v> {
    /// Answers a question of any form. Hits come best first; with groups, those of a group stand together, and the groups
    /// come in the order of their best hits; with `mmr`, in the order of choice.
    pub fn ask(
        &self,
        ask: &Ask,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<SearchResult<'v>, AskError> {
        self.ask_watched(ask, scratch, keep_going, &mut |_, _| {})
    }

    /// The same, and `watch` is told of every search by nearness that it took.
    pub fn ask_watched(
        &self,
        ask: &Ask,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
        watch: &mut dyn FnMut(&SearchRequest<'_>, &SearchResult<'_>),
    ) -> Result<SearchResult<'v>, AskError> {
        let watch = &mut |_, request: &SearchRequest<'_>, found: &SearchResult<'_>| watch(request, found);
        Parts::new(std::slice::from_ref(self)).ask_watched(ask, scratch, keep_going, watch)
    }
}

impl<'v> Parts<'_, 'v> {
    /// Answers a question of any form, as [`CollectionView::ask`] would if all records lay in one store: the same hits, in
    /// the same order, with the same scores.
    pub fn ask(
        &self,
        ask: &Ask,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<SearchResult<'v>, AskError> {
        self.ask_watched(ask, scratch, keep_going, &mut |_, _, _| {})
    }

    /// The same, and `watch` is told of every search by nearness that it took, with the number of the part.
    pub fn ask_watched(
        &self,
        ask: &Ask,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
        watch: &mut dyn FnMut(usize, &SearchRequest<'_>, &SearchResult<'_>),
    ) -> Result<SearchResult<'v>, AskError> {
        ask.check()?;
        let cost = SearchResult { hits: Vec::new(), distances: 0, walked: 0, scanned: 0 };
        let mut asking = Asking { parts: self.0, ask, scratch, keep_going, watch, cost };
        let answer = asking.answer();
        // Whoever searches one part with the same scratch searches the first.
        asking.scratch.explaining.enter(0);
        Ok(SearchResult { hits: answer?, ..asking.cost })
    }
}

/// The examples of a recommendation.
#[derive(Clone, Copy)]
struct Examples<'a> {
    field: u16,
    liked: &'a [Cow<'a, [f32]>],
    disliked: &'a [Cow<'a, [f32]>],
    /// The keys of those that are records.
    except: &'a [Option<&'a [u8]>],
}

fn slices<'a>(vectors: &'a [Cow<'_, [f32]>]) -> Vec<&'a [f32]> {
    vectors.iter().map(|vector| &**vector).collect()
}

/// Both, or the one that there is.
pub(super) fn both<'f>(a: Option<&'f Filter>, b: Option<&'f Filter>) -> Option<Cow<'f, Filter>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Cow::Owned(Filter::And(vec![a.clone(), b.clone()]))),
        (one, other) => one.or(other).map(Cow::Borrowed),
    }
}

impl Within {
    /// Whether a hit is good enough. What is no number is not.
    pub(super) fn takes(&self, distance: f32, score: Option<f32>) -> bool {
        self.distance_min.is_none_or(|min| distance >= min)
            && self.distance_max.is_none_or(|max| distance <= max)
            && self.score_min.is_none_or(|min| score.is_none_or(|score| score >= min))
    }
}

/// Best first: by score if there are scores, else by distance; what is equally good by key.
pub(super) fn sort_best_first(hits: &mut [Hit<'_>]) {
    hits.sort_by(|a, b| {
        let by_score = b.score.unwrap_or(0.0).total_cmp(&a.score.unwrap_or(0.0));
        by_score.then(a.distance.total_cmp(&b.distance)).then_with(|| a.record.key().cmp(b.record.key()))
    });
}

impl<'v> Asking<'_, 'v> {
    fn answer(&mut self) -> Result<Vec<Hit<'v>>, AskError> {
        let ask = self.ask;
        let filter = ask.filter.as_deref();
        if let (Some(group), None, false) = (&ask.group, &ask.decay, matches!(ask.query, Query::Fuse { .. })) {
            return self.grouped(group, filter);
        }
        let candidates = ask
            .k
            .max(ask.decay.as_ref().map_or(0, |decay| decay.candidates))
            .max(ask.mmr.as_ref().map_or(0, |mmr| mmr.candidates))
            .max(if ask.group.is_some() { ask.candidates_fused() } else { 0 });
        let mut hits = self.find(&ask.query, filter, candidates, ask.within)?;
        if let Some(decay) = &ask.decay {
            self.decay(decay, &mut hits);
            hits.retain(|hit| ask.within.takes(hit.distance, hit.score));
        }
        if let Some(group) = &ask.group {
            return Ok(super::group::of_candidates(group, ask.k, hits));
        }
        if let Some(mmr) = &ask.mmr {
            return self.diversify(mmr, &hits);
        }
        hits.truncate(ask.k);
        Ok(hits)
    }

    /// The best hits of one query, best first.
    pub fn find(
        &mut self,
        query: &Query,
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        match query {
            Query::Near { field, example } => {
                let vector = self.vector(*field, example)?;
                let except = [example.key()];
                self.near(*field, &vector, &except, filter, k, within)
            }
            Query::Recommend { field, positive, negative, strategy } => {
                let (liked, disliked) = (self.vectors(*field, positive)?, self.vectors(*field, negative)?);
                let except: Vec<Option<&[u8]>> = positive.iter().chain(negative).map(Example::key).collect();
                if *strategy == Strategy::Nearest {
                    let examples = Examples { field: *field, liked: &liked, disliked: &disliked, except: &except };
                    return self.near_any(&examples, filter, k, within);
                }
                let target = recommend::target(&slices(&liked), &slices(&disliked));
                let mut target = target.ok_or(LimitError::NoPositiveExample)?;
                if let Some(metric) = self.metric(*field) {
                    metric.prepare(&mut target)?;
                }
                self.near(*field, &target, &except, filter, k, within)
            }
            Query::Sparse { field, vector } => self.find_sparse(*field, vector, filter, k, within),
            Query::Text { text, question } => self.find_text(*text, question, filter, k, within),
            Query::Fuse { fusion, parts } => self.fuse(*fusion, parts, filter, k, within),
        }
    }

    /// The metric of a field.
    fn metric(&self, field: u16) -> Option<Metric> {
        self.rules().fields.get(usize::from(field)).map(|field| field.metric)
    }

    /// What all parts have in common.
    pub(super) fn rules(&self) -> &'v Collection {
        self.parts[0].collection
    }

    fn vector<'e>(&self, field: u16, example: &'e Example) -> Result<Cow<'e, [f32]>, AskError>
    where
        'v: 'e,
    {
        match example {
            Example::Vector(vector) => Ok(Cow::Borrowed(vector)),
            Example::Key(key) => {
                let record = Parts(self.parts).get(key, self.ask.now);
                let record = record.ok_or_else(|| AskError::UnknownRecord(key.clone()))?;
                let vector = record.embedding(field).ok_or_else(|| {
                    let name = self.rules().schema.embeddings.get(usize::from(field)).map(|spec| spec.name.clone());
                    AskError::NoEmbedding { key: key.clone(), name: name.unwrap_or_default() }
                })?;
                Ok(vector)
            }
        }
    }

    fn vectors<'e>(&self, field: u16, examples: &'e [Example]) -> Result<Vec<Cow<'e, [f32]>>, AskError>
    where
        'v: 'e,
    {
        examples.iter().map(|example| self.vector(field, example)).collect()
    }

    fn near(
        &mut self,
        field: u16,
        vector: &[f32],
        except: &[Option<&[u8]>],
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        let named = except.iter().flatten().count();
        // Examples are not among their own hits, so as many more are asked for. How many are too near, nobody knows before.
        let mut wanted = match within.distance_min {
            Some(_) => k.max(BEYOND_MIN) + named,
            None => k + named,
        };
        loop {
            let request = SearchRequest {
                field,
                query: vector,
                k: wanted,
                effort: self.ask.effort,
                filter,
                max_distance: within.distance_max,
                now: self.ask.now,
            };
            let mut hits = Vec::new();
            for (number, part) in self.parts.iter().enumerate() {
                self.scratch.explaining.enter(number);
                let found = part.search(&request, self.scratch, self.keep_going)?;
                (self.watch)(number, &request, &found);
                self.cost.distances += found.distances;
                self.cost.walked += found.walked;
                self.cost.scanned += found.scanned;
                match number {
                    0 => hits = found.hits,
                    _ => hits.extend(found.hits),
                }
            }
            if self.parts.len() > 1 {
                keep_nearest(&mut hits, wanted);
            }
            let all = hits.len() < wanted;
            hits.retain(|hit| within.takes(hit.distance, None) && !except.contains(&Some(hit.record.key())));
            if all || hits.len() >= k || within.distance_min.is_none() {
                hits.truncate(k);
                return Ok(hits);
            }
            wanted *= 4;
        }
    }

    /// What is nearest to any of the positive examples, and not nearer to a negative one.
    fn near_any(
        &mut self,
        examples: &Examples<'_>,
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        let Examples { field, liked, disliked, except } = *examples;
        let kernel = self.rules().fields.get(usize::from(field)).map(|field| field.kernel);
        let mut wanted = k.max(BEYOND_MIN);
        // What is too near to one example is no better for being farther from another.
        let near_enough = Within { distance_min: None, ..within };
        loop {
            let mut found: BTreeMap<&'v [u8], Hit<'v>> = BTreeMap::new();
            // All that is nearer than this to an example has been found.
            let mut horizon = f32::INFINITY;
            for vector in liked {
                let hits = self.near(field, vector, except, filter, wanted, near_enough)?;
                if let Some(last) = hits.last().filter(|_| hits.len() >= wanted) {
                    horizon = horizon.min(last.distance);
                }
                for hit in hits {
                    let known = found.entry(hit.record.key()).or_insert(hit);
                    known.distance = known.distance.min(hit.distance);
                }
            }
            let whole = horizon == f32::INFINITY;
            let mut hits: Vec<Hit<'v>> = found.into_values().collect();
            hits.retain(|hit| (whole || hit.distance < horizon) && within.takes(hit.distance, None));
            let found = hits.len();
            hits.retain(|hit| match (kernel, hit.record.embedding(field)) {
                (Some(kernel), Some(own)) => disliked.iter().all(|vector| kernel(vector, &own) >= hit.distance),
                _ => false,
            });
            self.cost.distances += found * disliked.len();
            if whole || hits.len() >= k {
                sort_best_first(&mut hits);
                hits.truncate(k);
                return Ok(hits);
            }
            wanted *= 4;
        }
    }

    fn fuse(
        &mut self,
        fusion: fusion::Fusion,
        parts: &[Part],
        filter: Option<&Filter>,
        k: usize,
        within: Within,
    ) -> Result<Vec<Hit<'v>>, AskError> {
        let mut records: BTreeMap<&'v [u8], RecordRef<'v>> = BTreeMap::new();
        let mut lists = Vec::with_capacity(parts.len());
        for part in parts {
            let filter = both(filter, part.filter.as_ref());
            let hits = self.find(&part.query, filter.as_deref(), part.limit, Within::default())?;
            records.extend(hits.iter().map(|hit| (hit.record.key(), hit.record)));
            let list = hits.iter().map(|hit| (hit.record.key(), hit.score.unwrap_or(-hit.distance))).collect();
            lists.push((part.weight, list));
        }
        let fused = fusion::fuse(fusion, &lists).into_iter().filter_map(|(key, score)| {
            let record = *records.get(key)?;
            Some(Hit { distance: -score, score: Some(score), group: None, record })
        });
        Ok(fused.filter(|hit| within.takes(hit.distance, hit.score)).take(k).collect())
    }

    /// How good a hit of the ask's query is.
    fn relevance(&self, hit: &Hit<'_>) -> f64 {
        match (hit.score, self.near_metric()) {
            (Some(score), _) => f64::from(score),
            (None, Some(metric)) => similarity(metric, hit.distance),
            (None, None) => f64::from(-hit.distance),
        }
    }

    /// The metric of a query that is near an embedding.
    fn near_metric(&self) -> Option<Metric> {
        match self.ask.query {
            Query::Near { field, .. } | Query::Recommend { field, .. } => self.metric(field),
            Query::Sparse { .. } | Query::Text { .. } | Query::Fuse { .. } => None,
        }
    }

    fn decay(&self, decay: &Decay, hits: &mut [Hit<'v>]) {
        for hit in hits.iter_mut() {
            let age = match attributes::lookup(hit.record.attributes(), &decay.path) {
                Some(ValueRef::Timestamp(then)) => u64::try_from(i128::from(decay.now) - i128::from(then)).unwrap_or(0),
                _ => 0,
            };
            let left = decay::left(age, decay.half_life, decay.share);
            hit.score = Some(decay::score(self.relevance(hit), left) as f32);
        }
        sort_best_first(hits);
    }

    fn diversify(&mut self, mmr: &Mmr, hits: &[Hit<'v>]) -> Result<Vec<Hit<'v>>, AskError> {
        let Some(field) = self.rules().fields.get(usize::from(mmr.field)) else {
            let collection = self.rules().name.to_string();
            return Err(SearchError::UnknownField { collection, field: mmr.field }.into());
        };
        let mut relevance: Vec<f64> = hits.iter().map(|hit| self.relevance(hit)).collect();
        if self.near_metric().is_none() {
            diversity::spread(&mut relevance);
        }
        let embeddings: Vec<_> = hits.iter().map(|hit| hit.record.embedding(mmr.field)).collect();
        let mut compared = 0;
        let alike = |a: usize, b: usize| {
            compared += 1;
            let (a, b) = (embeddings[a].as_ref()?, embeddings[b].as_ref()?);
            Some(similarity(field.metric, (field.kernel)(&a[..], &b[..])))
        };
        let chosen = diversity::choose(&relevance, self.ask.k, mmr.lambda, alike, &mut *self.keep_going);
        self.cost.distances += compared;
        Ok(chosen.ok_or(Cancelled)?.into_iter().map(|number| hits[number]).collect())
    }

    pub(super) fn check_going(&mut self) -> Result<(), Cancelled> {
        if (self.keep_going)() { Ok(()) } else { Err(Cancelled) }
    }
}
