//! Finding the nearest rows of a segment: over its graph, or by comparing with each row that may be one.
//!
//! Comparing with each is exact, by the embeddings themselves, if that is asked for. Otherwise, where there are codes,
//! these are compared, and the embeddings of a few more than were asked for: nearly exact, for a quarter of the bytes.

use super::read::Segment;
use super::{SegmentError, read};
use crate::graph::search::{CodeScan, Query, Scratch, search, search_coded};
use crate::scan::Finish;

/// Rows are looked at so many at a time, and `keep_going` is asked in between.
const ROWS_PER_QUESTION: usize = 256;

/// How hard to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// Compare with the embedding of every accepted row.
    Exact,
    /// Compare with the code of every accepted row and look at the embeddings of the nearest. Where there are no codes, as
    /// `Exact`.
    Codes,
    /// Walk the graph; a segment without one is searched by `Codes`.
    Graph {
        /// How many candidates to keep ([`crate::graph::EF_DEFAULT`]); at least k are.
        ef: usize,
        /// How many distances may be computed before giving up; `None` is no limit.
        budget: Option<usize>,
    },
}

/// What to look for in a segment.
#[derive(Debug, Clone, Copy)]
pub struct Search<'q> {
    /// Which embedding, by its place in [`Segment::fields`].
    pub field: usize,
    /// The embedding to be near to, prepared for the field's metric ([`crate::distance::Metric::prepare`]).
    pub query: &'q [f32],
    /// How many rows to find.
    pub k: usize,
    /// How hard to search.
    pub effort: Effort,
}

impl Segment {
    /// Finds the nearest rows that `accept` agrees to. They are then in `scratch.hits()`, nearest first; `keep_going` is asked
    /// every now and then whether they are still wanted.
    pub fn nearest(
        &self,
        ask: &Search<'_>,
        accept: impl Fn(u32) -> bool,
        keep_going: impl FnMut() -> bool,
        scratch: &mut Scratch,
    ) -> Result<Finish, SegmentError> {
        let field = self.asked_field(ask)?;
        let node_rows = self.cast::<u32>(&field.node_rows);
        if let Effort::Graph { ef, budget } = ask.effort
            && let Some(graph) = self.graph(ask.field)
        {
            let row_of = |node: u32| node_rows.get(node as usize).copied();
            let accept = |node: u32| row_of(node).is_some_and(&accept);
            let query = Query { vector: ask.query, k: ask.k, ef, budget, past: false };
            let vectors = self.vectors(field);
            let finish = match self.code_book(field) {
                Some(book) => search_coded(graph, &book, vectors, &query, accept, keep_going, scratch),
                None => search(graph, vectors, &query, accept, keep_going, scratch),
            };
            scratch.nearest().translate(row_of);
            return Ok(finish);
        }
        let nodes = (0..).zip(node_rows.iter().copied());
        Ok(self.compare(field, ask, nodes, accept, keep_going, scratch))
    }

    /// Finds the nearest of some rows by walking the graph past all others ([`Query::past`]). `None`: there is no graph.
    pub fn nearest_past(
        &self,
        ask: &Search<'_>,
        rows: impl Iterator<Item = u32>,
        mut keep_going: impl FnMut() -> bool,
        scratch: &mut Scratch,
    ) -> Result<Option<Finish>, SegmentError> {
        let field = self.asked_field(ask)?;
        let (Effort::Graph { ef, budget }, Some(graph)) = (ask.effort, self.graph(ask.field)) else { return Ok(None) };
        // Each node is asked about several times: by one bit that is quick.
        let mut taken = scratch.borrow_bits(graph.nodes());
        for (number, row) in (1..).zip(rows) {
            if usize::is_multiple_of(number, ROWS_PER_QUESTION) && !keep_going() {
                scratch.give_back_bits(taken);
                scratch.nearest().reset(ask.k);
                return Ok(Some(Finish::Stopped));
            }
            let Some(node) = self.node(ask.field, row) else { continue };
            if let Some(word) = taken.get_mut(node as usize / 64) {
                *word |= 1 << (node % 64);
            }
        }
        let accept = |node: u32| taken.get(node as usize / 64).is_some_and(|word| word >> (node % 64) & 1 == 1);
        let query = Query { vector: ask.query, k: ask.k, ef, budget, past: true };
        let vectors = self.vectors(field);
        let finish = match self.code_book(field) {
            Some(book) => search_coded(graph, &book, vectors, &query, accept, keep_going, scratch),
            None => search(graph, vectors, &query, accept, keep_going, scratch),
        };
        scratch.give_back_bits(taken);
        let node_rows = self.cast::<u32>(&field.node_rows);
        scratch.nearest().translate(|node| node_rows.get(node as usize).copied());
        Ok(Some(finish))
    }

    /// Finds the nearest of those of some rows that `accept` agrees to, without looking at any others.
    pub fn nearest_of(
        &self,
        ask: &Search<'_>,
        rows: impl Iterator<Item = u32>,
        accept: impl Fn(u32) -> bool,
        keep_going: impl FnMut() -> bool,
        scratch: &mut Scratch,
    ) -> Result<Finish, SegmentError> {
        let field = self.asked_field(ask)?;
        let nodes = rows.filter_map(|row| Some((self.node(ask.field, row)?, row)));
        Ok(self.compare(field, ask, nodes, accept, keep_going, scratch))
    }

    fn asked_field(&self, ask: &Search<'_>) -> Result<&read::Field, SegmentError> {
        let field = self.fields.get(ask.field).filter(|field| field.dimension == ask.query.len());
        field.ok_or_else(|| SegmentError::Query {
            file: self.name().to_owned(),
            field: ask.field,
            got: ask.query.len(),
        })
    }

    /// Compares with each of some nodes, given with their rows, that `accept` agrees to: of equally near ones the first rows are
    /// found.
    fn compare(
        &self,
        field: &read::Field,
        ask: &Search<'_>,
        nodes: impl Iterator<Item = (u32, u32)>,
        accept: impl Fn(u32) -> bool,
        mut keep_going: impl FnMut() -> bool,
        scratch: &mut Scratch,
    ) -> Finish {
        let book = self.code_book(field).filter(|_| ask.effort != Effort::Exact);
        let mut scan = CodeScan::new(book.as_ref(), self.vectors(field), ask.query, ask.k, scratch);
        let mut nodes = nodes.peekable();
        while nodes.peek().is_some() {
            // So many are looked at between two questions, however few of them are accepted.
            scan.compare((&mut nodes).take(ROWS_PER_QUESTION).filter(|&(_, row)| accept(row)));
            if nodes.peek().is_some() && !keep_going() {
                scan.finish();
                return Finish::Stopped;
            }
        }
        scan.finish();
        Finish::Complete
    }
}
