//! Which merge is next, of the segments of all collections.
//!
//! What is to be linked anew comes first, then what [`merge`] chooses, then segments that lack an index, and while nobody writes
//! whatever makes fewer of them. A segment whose file is damaged is in none of these, unless nothing in it lives.

use std::sync::Arc;

use super::{Merge, Merging, field_specs};
use crate::command::IndexSpec;
use crate::merge::{self, Candidate};
use crate::record::Position;
use crate::sealed::Sealed;
use crate::store::Store;
use crate::view::Collection;

/// What merging wants to know of a segment, and how many of its rows have an embedding.
fn candidate(sealed: &Sealed) -> (Candidate, u32) {
    if sealed.is_damaged() && sealed.ended() < sealed.len() {
        return (Candidate::NEVER, 0);
    }
    let fields = 0..sealed.segment.fields().len();
    let embedded = fields.clone().map(|field| sealed.segment.embeddings(field)).max().unwrap_or(0);
    let linked = fields.clone().all(|field| sealed.segment.has_graph(field));
    let unlinked = if linked { 0 } else { embedded };
    let bytes = sealed.segment.file_bytes();
    (Candidate { rows: sealed.len(), ended: sealed.ended(), bytes, unlinked }, embedded)
}

impl Store {
    /// The place of a segment that is to be linked anew: its collection's, and its own in there.
    fn next_relink(&mut self) -> Option<(usize, Vec<usize>)> {
        while let Some(file) = self.work.relink.pop_first() {
            for (place, state) in self.collections.iter().enumerate() {
                // One that is gone meanwhile needs nothing any more.
                let is_it = |sealed: &Arc<Sealed>| sealed.file == file && !sealed.is_damaged();
                if let Some(segment) = state.shared.segments.iter().position(is_it) {
                    return Some((place, vec![segment]));
                }
            }
        }
        None
    }

    /// The place of a segment that was written before one of its collection's indexes was declared.
    fn next_reindex(&self) -> Option<(usize, Vec<usize>)> {
        let lacks = |sealed: &Sealed, index: &IndexSpec| {
            !sealed.is_damaged() && sealed.segment.indexed().all(|there| there != index)
        };
        self.collections.iter().enumerate().find_map(|(place, state)| {
            let Collection { schema, segments, .. } = &*state.shared;
            let place_of = segments.iter().position(|sealed| schema.indexes.iter().any(|index| lacks(sealed, index)));
            Some((place, vec![place_of?]))
        })
    }

    pub(super) fn next_merge(&mut self) -> Option<Merge> {
        let graph_rows_min = self.options.graph_rows_min;
        let choices = self.collections.iter().enumerate().filter_map(|(place, state)| {
            let candidates: Vec<_> = state.shared.segments.iter().map(|sealed| candidate(sealed).0).collect();
            let (urgency, places) = merge::choose(&candidates, graph_rows_min)?;
            Some((urgency, place, places))
        });
        let chosen = choices.min().map(|(_, place, places)| (place, places));
        let relink = self.next_relink();
        let anew = relink.is_some();
        let mut at_rest = false;
        let (place, places) = match relink {
            Some(relink) => relink,
            None => chosen.or_else(|| self.next_reindex()).or_else(|| {
                at_rest = true;
                self.next_at_rest()
            })?,
        };
        let shared = Arc::clone(&self.collections[place].shared);
        let sources: Vec<_> = places.iter().filter_map(|&place| shared.segments.get(place).map(Arc::clone)).collect();
        let embedded: u64 = sources.iter().map(|sealed| u64::from(candidate(sealed).1)).sum();
        let ended: u64 = sources.iter().map(|sealed| u64::from(sealed.ended())).sum();
        let graph = (embedded >= u64::from(graph_rows_min) + ended).then_some(self.options.graph);
        let file = self.next_file();
        let files = sources.iter().map(|sealed| sealed.file).collect();
        self.work.merging = Some(Merging { sources: files, file, at_rest, ended: Vec::new() });
        Some(Merge {
            id: shared.id,
            fields: field_specs(&shared),
            schema: Arc::clone(&shared.schema),
            sources,
            position: Position::end_of(self.applied),
            file,
            graph,
            anew,
            at_rest,
            hash_seed: self.hash_seed(),
        })
    }

    /// Whether a merge is under way that is only for rest ([`Job::is_for_rest`]), while one waits that searches need: then
    /// its flag should be raised.
    pub fn is_kept_from_merging(&self) -> bool {
        let Some(merging) = self.work.merging.as_ref().filter(|merging| merging.at_rest && self.work.look) else {
            return false;
        };
        self.collections.iter().any(|state| {
            let others = state.shared.segments.iter().filter(|sealed| !merging.sources.contains(&sealed.file));
            let candidates: Vec<_> = others.map(|sealed| candidate(sealed).0).collect();
            merge::choose(&candidates, self.options.graph_rows_min).is_some()
        })
    }

    /// The place of a collection whose segments may as well be merged while nobody writes, and their own.
    fn next_at_rest(&self) -> Option<(usize, Vec<usize>)> {
        if !self.work.resting || self.work.checkpoint_running {
            return None;
        }
        self.collections.iter().enumerate().find_map(|(place, state)| {
            let candidates: Vec<_> = state.shared.segments.iter().map(|sealed| candidate(sealed).0).collect();
            Some((place, merge::choose_at_rest(&candidates)?))
        })
    }
}
