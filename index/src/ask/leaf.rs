//! The leaves of an ask: what it looks for by itself, before anything is made of it.
//!
//! ```text
//!                        .--> leaf, searched in every part of the collection --> the best of all parts --.
//!   Ask --leaves-------->|                                                                               |--finish--> hits
//!                        '--> leaf, ...                                                                --'
//! ```
//!
//! A query that fuses nothing is one leaf; a fusion has the leaves of its queries, in their order. Where an ask wants groups of
//! hits that were neither fused nor decayed, its leaf does: a search that knows of groups finds as many as are asked for.
//!
//! Always: no leaf needs to know what another found, and the best of all parts of a collection are among the best of each. So parts
//! may be searched apart from each other, wherever they are, if each knows what only all of them tell: the embedding of a record
//! that is searched near to ([`Example::Found`]), and how often words occur ([`Leaf::corpus`]).

use std::borrow::Cow;

use super::{Ask, Group, Query, Within};
use crate::filter::Filter;
use crate::text::Corpus;
use crate::view::Effort;

#[cfg(doc)]
use super::Example;

/// A query that fuses nothing, with all that it takes to find its hits.
#[derive(Debug, Clone)]
pub struct Leaf<'a> {
    /// What hits are like. A fusion has no hits here.
    pub query: &'a Query,
    /// Only records that this takes.
    pub filter: Option<Cow<'a, Filter>>,
    /// How many hits, or with a group, how many groups.
    pub k: usize,
    /// Which hits are good enough.
    pub within: Within,
    /// At most so many per value.
    pub group: Option<Cow<'a, Group>>,
    /// How hard to search by nearness.
    pub effort: Effort,
    /// Records that have expired by then are left out: milliseconds since 1970.
    pub now: u64,
    /// What was counted over all texts for a query by words. None: it is counted over the parts that are searched.
    pub corpus: Option<Corpus>,
}

/// Both, or the one that there is.
pub(crate) fn both<'f>(a: Option<Cow<'f, Filter>>, b: Option<&'f Filter>) -> Option<Cow<'f, Filter>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Cow::Owned(Filter::And(vec![a.into_owned(), b.clone()]))),
        (a, b) => a.or(b.map(Cow::Borrowed)),
    }
}

impl Ask {
    /// What it looks for, in the order in which [`CollectionView::finish`](crate::view::CollectionView::finish) wants what was found.
    pub fn leaves(&self) -> Vec<Leaf<'_>> {
        let group = self.group.as_ref().filter(|_| self.is_grouped_while_searched());
        let k = if group.is_some() { self.k } else { self.candidates() };
        let whole = Leaf {
            query: &self.query,
            filter: self.filter.as_deref().map(Cow::Borrowed),
            k,
            within: self.within,
            group: group.map(Cow::Borrowed),
            effort: self.effort,
            now: self.now,
            corpus: None,
        };
        let mut leaves = Vec::new();
        whole.split(&mut leaves);
        leaves
    }

    /// Whether groups are searched for, and not made of a set of candidates.
    pub(crate) fn is_grouped_while_searched(&self) -> bool {
        self.group.is_some() && self.decay.is_none() && !matches!(self.query, Query::Fuse { .. })
    }

    /// How many of the query's best hits all else is made of.
    pub(crate) fn candidates(&self) -> usize {
        self.k
            .max(self.decay.as_ref().map_or(0, |decay| decay.candidates))
            .max(self.mmr.as_ref().map_or(0, |mmr| mmr.candidates))
            .max(if self.group.is_some() { self.candidates_fused() } else { 0 })
    }
}

impl<'a> Leaf<'a> {
    fn split(self, leaves: &mut Vec<Leaf<'a>>) {
        let Query::Fuse { parts, .. } = self.query else {
            leaves.push(self);
            return;
        };
        for part in parts {
            let filter = both(self.filter.clone(), part.filter.as_ref());
            let (query, k, within) = (&part.query, part.limit, Within::default());
            Leaf { query, filter, k, within, group: None, ..self.clone() }.split(leaves);
        }
    }
}
