//! Answering what was asked: each leaf of it finds its hits, and the answer is made of them.
//!
//! ```text
//!   ask --leaves--> each searched in all parts --> lists of hits --finish--> hits
//! ```
//!
//! A leaf ([`Leaf`]) looks through all parts of the collection ([`super::Parts`]) before it hands out a hit. So whatever is made of
//! hits ([`super::finish`]) is made of those of the whole collection.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::finish::{Finishing, sort_best_first};
use super::search::keep_nearest;
use super::{Cancelled, Collection, CollectionView, Hit, Parts, SearchRequest, SearchResult, SearchScratch};
use crate::ask::recommend::{self, Strategy};
use crate::ask::{Ask, AskError, Example, Leaf, LimitError, Query, Within};
use crate::distance::Metric;
use crate::filter::Filter;
use crate::text::Corpus;

/// So many hits are searched for at first where the nearest of them may not count.
const BEYOND_MIN: usize = 16;

/// What one leaf needs while it is searched.
pub(super) struct Asking<'a, 'v> {
    /// At least one, all with the same rules.
    pub parts: &'a [CollectionView<'v>],
    pub leaf: &'a Leaf<'a>,
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
        let mut cost = SearchResult { hits: Vec::new(), distances: 0, walked: 0, scanned: 0 };
        let mut lists = Vec::new();
        for leaf in ask.leaves() {
            let found = self.find(&leaf, scratch, keep_going, watch)?;
            cost.distances += found.distances;
            cost.walked += found.walked;
            cost.scanned += found.scanned;
            lists.push(found.hits);
        }
        let mut finishing = Finishing::new(self.0[0].collection, ask, lists, keep_going);
        cost.hits = finishing.answer()?;
        cost.distances += finishing.compared;
        Ok(cost)
    }

    /// The best hits of one leaf, best first; with groups, those of a group together.
    pub fn find(
        &self,
        leaf: &Leaf<'_>,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
        watch: &mut dyn FnMut(usize, &SearchRequest<'_>, &SearchResult<'_>),
    ) -> Result<SearchResult<'v>, AskError> {
        let cost = SearchResult { hits: Vec::new(), distances: 0, walked: 0, scanned: 0 };
        let mut asking = Asking { parts: self.0, leaf, scratch, keep_going, watch, cost };
        let found = match &leaf.group {
            Some(group) => asking.grouped(group),
            None => asking.find(leaf.query, leaf.filter.as_deref(), leaf.k, leaf.within),
        };
        // Whoever searches one part with the same scratch searches the first.
        asking.scratch.explaining.enter(0);
        Ok(SearchResult { hits: found?, ..asking.cost })
    }

    /// Counts for a leaf that is by words what it takes to score them, as [`Leaf::corpus`] of those who search other parts. None: the
    /// leaf is not by words.
    pub fn count_words(
        &self,
        leaf: &Leaf<'_>,
        scratch: &mut SearchScratch,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Option<Corpus>, AskError> {
        let Query::Text { text, question } = leaf.query else { return Ok(None) };
        let cost = SearchResult { hits: Vec::new(), distances: 0, walked: 0, scanned: 0 };
        let watch = &mut |_, _: &SearchRequest<'_>, _: &SearchResult<'_>| {};
        let mut asking = Asking { parts: self.0, leaf, scratch, keep_going, watch, cost };
        let counted = asking.count_question(*text, question);
        asking.scratch.explaining.enter(0);
        counted.map(Some)
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

impl<'v> Asking<'_, 'v> {
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
            // Its queries are leaves of their own.
            Query::Fuse { .. } => Ok(Vec::new()),
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
            Example::Vector(vector) | Example::Found { vector, .. } => Ok(Cow::Borrowed(vector)),
            Example::Key(key) => {
                let record = Parts(self.parts).get(key, self.leaf.now);
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
                effort: self.leaf.effort,
                filter,
                max_distance: within.distance_max,
                now: self.leaf.now,
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

    pub(super) fn check_going(&mut self) -> Result<(), Cancelled> {
        if (self.keep_going)() { Ok(()) } else { Err(Cancelled) }
    }
}
