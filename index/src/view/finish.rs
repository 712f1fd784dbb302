//! Making an answer of what was found: several lists fused, age taken off, hits grouped or chosen to be unlike each other.
//!
//! ```text
//!   lists of hits, one for each leaf --fuse--> candidates --decay--> in order of score --group | mmr | cut--> hits
//! ```
//!
//! Nothing is searched here, and of the collection only the rules are looked at. So the records may have come from stores elsewhere,
//! with as much of each as finishing looks at ([`Carried`]): the answer is the same.

use std::collections::BTreeMap;

use super::{Cancelled, Collection, CollectionView, Hit, RecordRef, SearchError};
use crate::ask::{Ask, AskError, Decay, Leaf, Mmr, Part, Query, Within, decay, diversity, fusion, similarity};
use crate::attributes::{self, ValueRef};
use crate::buffer::{Row, RowContent};
use crate::distance::Metric;
use crate::record::Position;

/// A record that came from a store elsewhere, or as much of it as finishing looks at: its key, the attributes that hits are grouped
/// or grow old by, and the embedding that they are like each other by.
pub struct Carried(Row);

impl Carried {
    /// With these [encoded](crate::attributes) attributes, and embeddings by their number, each as it is compared.
    pub fn new(key: &[u8], attributes: Vec<u8>, embeddings: Vec<Option<Box<[f32]>>>) -> Carried {
        let (attributes, embeddings) = (attributes.into(), embeddings.into());
        let content = RowContent { attributes, embeddings, ..RowContent::default() };
        Carried(Row::new(Position::ZERO, key, content, 0))
    }

    /// As what hits are of.
    pub fn record(&self) -> RecordRef<'_> {
        RecordRef::of_row(&self.0)
    }
}

impl CollectionView<'_> {
    /// The answer to an ask, made of what was found for each of its [leaves](Ask::leaves), in their order.
    ///
    /// Each list is of all parts of the collection ([`Leaf::best_of`]). Only the collection's rules are looked at.
    pub fn finish<'r>(
        &self,
        ask: &Ask,
        found: Vec<Vec<Hit<'r>>>,
        keep_going: &mut dyn FnMut() -> bool,
    ) -> Result<Vec<Hit<'r>>, AskError> {
        ask.check()?;
        Finishing::new(self.collection, ask, found, keep_going).answer()
    }
}

impl Leaf<'_> {
    /// The best of what was found for it in several parts, each searched by itself: as if they had been searched together.
    ///
    /// With groups of more than one hit, that is so only if each part was asked for the same groups: a part finds its own best groups, and
    /// one that is good elsewhere may be none of these.
    pub fn best_of<'r>(&self, mut hits: Vec<Hit<'r>>) -> Vec<Hit<'r>> {
        sort_best_first(&mut hits);
        match &self.group {
            Some(group) => super::group::of_candidates(group, self.k, hits),
            None => {
                hits.truncate(self.k);
                hits
            }
        }
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

/// What it takes to make an answer.
pub(super) struct Finishing<'a, 'v> {
    rules: &'a Collection,
    ask: &'a Ask,
    /// What the leaves found, as far as nothing has been made of it.
    found: std::vec::IntoIter<Vec<Hit<'v>>>,
    keep_going: &'a mut dyn FnMut() -> bool,
    /// How many distances were computed.
    pub compared: usize,
}

impl<'a, 'v> Finishing<'a, 'v> {
    pub fn new(
        rules: &'a Collection,
        ask: &'a Ask,
        found: Vec<Vec<Hit<'v>>>,
        keep_going: &'a mut dyn FnMut() -> bool,
    ) -> Finishing<'a, 'v> {
        Finishing { rules, ask, found: found.into_iter(), keep_going, compared: 0 }
    }

    pub fn answer(&mut self) -> Result<Vec<Hit<'v>>, AskError> {
        let ask = self.ask;
        let mut hits = self.hits(&ask.query, ask.candidates(), ask.within);
        if ask.is_grouped_while_searched() {
            return Ok(hits);
        }
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
    fn hits(&mut self, query: &Query, k: usize, within: Within) -> Vec<Hit<'v>> {
        match query {
            Query::Fuse { fusion, parts } => self.fuse(*fusion, parts, k, within),
            // In the order of the leaves.
            _ => self.found.next().expect("there is a list for each leaf"),
        }
    }

    fn metric(&self, field: u16) -> Option<Metric> {
        self.rules.fields.get(usize::from(field)).map(|field| field.metric)
    }

    fn fuse(&mut self, fusion: fusion::Fusion, parts: &[Part], k: usize, within: Within) -> Vec<Hit<'v>> {
        let mut records: BTreeMap<&'v [u8], RecordRef<'v>> = BTreeMap::new();
        let mut lists = Vec::with_capacity(parts.len());
        for part in parts {
            let hits = self.hits(&part.query, part.limit, Within::default());
            records.extend(hits.iter().map(|hit| (hit.record.key(), hit.record)));
            let list = hits.iter().map(|hit| (hit.record.key(), hit.score.unwrap_or(-hit.distance))).collect();
            lists.push((part.weight, list));
        }
        let fused = fusion::fuse(fusion, &lists).into_iter().filter_map(|(key, score)| {
            let record = *records.get(key)?;
            Some(Hit { distance: -score, score: Some(score), group: None, record })
        });
        fused.filter(|hit| within.takes(hit.distance, hit.score)).take(k).collect()
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
        let Some(field) = self.rules.fields.get(usize::from(mmr.field)) else {
            let collection = self.rules.name.to_string();
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
        self.compared += compared;
        Ok(chosen.ok_or(Cancelled)?.into_iter().map(|number| hits[number]).collect())
    }
}
