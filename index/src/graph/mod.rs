//! The graph: the fast way to find what is near, built once when a segment is sealed (HNSW, Malkov
//! and Yashunin 2016), then only read.
//!
//! Nodes are the embeddings of one field of a segment, counted from 0 in row order. Every node is in
//! layer 0 with up to 2M links; about one in M is also in layer 1 with up to M links, one in M^2 in
//! layer 2, and so on. A search goes greedily from the entry through the upper layers, then keeps
//! the `ef` nearest it has seen on layer 0 until nothing nearer is linked.
//!
//! ```text
//!  layer 0: u32 x nodes x 2M               upper: u32 words
//!  +--------------------------+            +---------+---+--------+---------+-------------+
//!  | node 0: link link ... -1 |            | nodes   | M | layers | entries | entry ids   |
//!  | node 1: link link ... -1 |            +---------+---+--------+---------+-------------+
//!  | ...                      |            | layer 1: count                               |
//!  +--------------------------+            |   node ids   u32 x count                     |
//!  a link is a node id; u32::MAX fills     |   below      u32 x count                     |
//!  what is not used; with M = 16 the links |   links      u32 x count x M  (places)       |
//!  of a node are two cache lines           +----------------------------------------------+
//!                                          | layer 2: ...                                 |
//!                                          +----------------------------------------------+
//! ```
//!
//! In an upper layer a node is known by its *place*, its number in that layer; links are places, and
//! `below` says the place of the same node one layer down (in layer 1: its node id). So a search
//! never looks anything up. The first entry is where the descent starts: place 0 of the top layer.
//! All entries are also starting points on layer 0.
//!
//! Always, after `build`: every node can be walked to from the entries on layer 0, and every node is found by its own
//! embedding in its top 10 at [`EF_DEFAULT`] (or ten others that are no farther are). Nodes that cannot be linked so are
//! made entries. A graph read from a file is not trusted: a link that leads nowhere is passed over.
//!
//! `beam` is the walk that everything here is made of; `link` puts nodes in, `graft` takes over a graph that is there,
//! `mend` makes the above true.

mod beam;
pub mod build;
mod graft;
mod link;
mod mend;
pub(crate) mod order;
pub mod search;

pub use graft::Seed;

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::distance::{HalfKernel, Kernel, Metric, prefetch};

/// How many candidates a search keeps when its caller does not say. Recall@10 on the real data
/// sets is 0.98 to 0.99 here, and twice that effort gains more than half of what is missing.
pub const EF_DEFAULT: usize = 64;

/// Fills unused links.
pub(crate) const NO_LINK: u32 = u32::MAX;

/// How a graph is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphOptions {
    /// Links of a node in the upper layers; twice as many in layer 0. 2 to 128.
    pub m: usize,
    /// How many candidates are considered for a node's links. At least `m`.
    pub ef_construction: usize,
    /// How many threads build.
    pub threads: usize,
}

impl Default for GraphOptions {
    fn default() -> GraphOptions {
        GraphOptions { m: 16, ef_construction: 200, threads: 1 }
    }
}

/// A graph as two arrays, ready to be written or searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatGraph {
    /// Layer 0.
    pub layer0: Vec<u32>,
    /// What is above it, and the head.
    pub upper: Vec<u32>,
}

impl FlatGraph {
    /// The graph as a search wants it; `None` if the arrays do not fit together.
    pub fn shape(&self) -> Option<GraphShape> {
        GraphShape::read(self.layer0.len(), &self.upper)
    }
}

/// Where everything is in the upper words; read once when a segment opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphShape {
    nodes: u32,
    m: usize,
    entries: Vec<u32>,
    /// From layer 1 up.
    layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    ids: Range<usize>,
    below: Range<usize>,
    links: Range<usize>,
}

/// More layers than this no graph has: with M = 2, 2^32 nodes reach 32.
const LAYERS_MAX: usize = 32;

impl GraphShape {
    /// Reads the head; `None` if the words do not make a graph with a layer 0 of this length.
    pub fn read(layer0_len: usize, upper: &[u32]) -> Option<GraphShape> {
        let [nodes, m, layer_count, entry_count, rest @ ..] = upper else {
            return None;
        };
        let (m, layer_count) = (*m as usize, *layer_count as usize);
        let entries = rest.get(..*entry_count as usize)?.to_vec();
        let whole = (1..=128).contains(&m)
            && layer_count <= LAYERS_MAX
            && (*nodes as usize).checked_mul(2 * m) == Some(layer0_len)
            && entries.iter().all(|entry| entry < nodes)
            && entries.is_empty() == (*nodes == 0);
        if !whole {
            return None;
        }
        let mut at = 4 + entries.len();
        let mut layers = Vec::with_capacity(layer_count);
        for _ in 0..layer_count {
            let count = *upper.get(at)? as usize;
            let ids = at + 1..(at + 1).checked_add(count)?;
            let below = ids.end..ids.end.checked_add(count)?;
            let links = below.end..below.end.checked_add(count.checked_mul(m)?)?;
            at = links.end;
            if at > upper.len() || count == 0 {
                return None;
            }
            layers.push(Layer { ids, below, links });
        }
        (at == upper.len()).then_some(GraphShape { nodes: *nodes, m, entries, layers })
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> u32 {
        self.nodes
    }

    /// How many links a node has room for in layer 0.
    pub(crate) fn width(&self) -> usize {
        2 * self.m
    }
}

/// A graph that is lent for a search.
#[derive(Clone, Copy)]
pub struct GraphRef<'a> {
    shape: &'a GraphShape,
    layer0: &'a [u32],
    upper: &'a [u32],
}

impl<'a> GraphRef<'a> {
    /// Puts a shape and the arrays it was read from together.
    pub fn new(shape: &'a GraphShape, layer0: &'a [u32], upper: &'a [u32]) -> GraphRef<'a> {
        GraphRef { shape, layer0, upper }
    }

    /// The links of a node on layer 0; none of a node that is not there.
    pub(crate) fn links(&self, node: u32) -> impl Iterator<Item = u32> + use<'a> {
        let width = self.shape.width();
        let start = node as usize * width;
        let links = self.layer0.get(start..start + width).unwrap_or_default();
        links.iter().copied().take_while(|&link| link != NO_LINK)
    }

    /// Asks the processor to fetch a node's links.
    #[inline]
    pub(crate) fn prefetch_links(&self, node: u32) {
        let width = self.shape.width();
        let start = node as usize * width;
        if let Some(links) = self.layer0.get(start..start + width) {
            prefetch(links);
        }
    }

    pub(crate) fn entries(&self) -> &'a [u32] {
        &self.shape.entries
    }

    pub(crate) fn m(&self) -> usize {
        self.shape.m
    }

    pub(crate) fn nodes(&self) -> usize {
        self.shape.nodes as usize
    }

    fn layers(&self) -> impl DoubleEndedIterator<Item = &'a Layer> + use<'a> {
        self.shape.layers.iter()
    }

    /// The nodes of a layer, by their places.
    fn members(&self, layer: &Layer) -> impl Iterator<Item = u32> + use<'a> {
        self.upper.get(layer.ids.clone()).unwrap_or_default().iter().copied()
    }

    fn node_at(&self, layer: &Layer, place: u32) -> Option<u32> {
        self.upper.get(layer.ids.clone())?.get(place as usize).copied()
    }

    fn below(&self, layer: &Layer, place: u32) -> Option<u32> {
        self.upper.get(layer.below.clone())?.get(place as usize).copied()
    }

    fn upper_links(&self, layer: &Layer, place: u32) -> impl Iterator<Item = u32> + use<'a> {
        let start = place as usize * self.shape.m;
        let links = self.upper.get(layer.links.clone()).unwrap_or_default();
        let links = links.get(start..start + self.shape.m).unwrap_or_default();
        links.iter().copied().take_while(|&link| link != NO_LINK)
    }
}

/// The embeddings of a graph's nodes, in one array.
#[derive(Clone, Copy)]
pub struct Vectors<'a> {
    components: Components<'a>,
    stride: usize,
    dimension: usize,
}

#[derive(Clone, Copy)]
enum Components<'a> {
    F32(&'a [f32], Kernel),
    F16(&'a [u16], HalfKernel),
}

impl<'a> Vectors<'a> {
    /// `dimension` components at each multiple of `stride`, compared by this metric.
    pub fn new(metric: Metric, floats: &'a [f32], stride: usize, dimension: usize) -> Vectors<'a> {
        Vectors::with_kernel(metric.kernel(), floats, stride, dimension)
    }

    pub(crate) fn with_kernel(kernel: Kernel, floats: &'a [f32], stride: usize, dimension: usize) -> Vectors<'a> {
        Vectors { components: Components::F32(floats, kernel), stride, dimension }
    }

    /// The same for components that are the bits of f16.
    pub fn halves(metric: Metric, bits: &'a [u16], stride: usize, dimension: usize) -> Vectors<'a> {
        Vectors { components: Components::F16(bits, metric.half_kernel()), stride, dimension }
    }

    /// How far a node is from a query; farther than everything if there is no such node.
    #[inline]
    pub fn distance(&self, query: &[f32], node: u32) -> f32 {
        let start = node as usize * self.stride;
        let range = start..start + self.dimension;
        match self.components {
            Components::F32(floats, kernel) => floats.get(range).map_or(f32::INFINITY, |x| kernel(query, x)),
            Components::F16(bits, kernel) => bits.get(range).map_or(f32::INFINITY, |x| kernel(query, x)),
        }
    }

    /// How far some nodes are from a query.
    pub(crate) fn distances(&self, query: &[f32], nodes: &[u32], into: &mut Vec<f32>) {
        /// So many embeddings are on their way while one is compared.
        const AHEAD: usize = 4;
        into.clear();
        nodes.iter().take(AHEAD).for_each(|&node| self.prefetch(node));
        for (i, &node) in nodes.iter().enumerate() {
            if let Some(&later) = nodes.get(i + AHEAD) {
                self.prefetch(later);
            }
            into.push(self.distance(query, node));
        }
    }

    /// Asks the processor to fetch an embedding that will be compared soon.
    #[inline]
    fn prefetch(&self, node: u32) {
        let start = node as usize * self.stride;
        let range = start..start + self.dimension;
        match self.components {
            Components::F32(floats, _) => floats.get(range).map_or((), prefetch),
            Components::F16(bits, _) => bits.get(range).map_or((), prefetch),
        }
    }
}
