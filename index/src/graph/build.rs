//! Building a graph.
//!
//! ```text
//!   embeddings --code--> bytes --link, on all threads--> lists --mend, check--> flat arrays
//!                          ^                               ^
//!                          '-- or a copy of the f32        '-- the largest graph there was, without what has gone
//! ```
//!
//! **On codes.** Linking compares embeddings with each other a few thousand times each, and waits for memory meanwhile: on
//! codes ([`crate::codes`]) it is three times as fast and takes a quarter of the memory, and which links a node gets
//! hardly depends on the last bit. A collection that wants no codes, or whose embeddings codes do not serve, is linked
//! on a copy of the embeddings.
//!
//! **Dot.** The inner product is no metric: nothing says that a node is near itself. We link for the squared L2 distance
//! after giving each embedding one more component, sqrt(R^2 - |x|^2), where R is the greatest length: all embeddings then
//! have length R. For a query with 0 in that component the squared distance is |q|^2 + R^2 - 2 q.x, so nearest there is
//! the greatest inner product here, and a search by plain `-dot` walks that graph exactly as a search by that distance
//! would. (Bachrach and others, 2014.)

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use super::beam::{self, Distances};
use super::graft::{Seed, graft, levels_of};
use super::link::{Growing, Pairs};
use super::mend::{self, Draft};
use super::search::looked_at_again;
use super::{FlatGraph, GraphOptions, NO_LINK, Vectors};
use crate::codes::{self, Beside, CodedQuery, Codes};
use crate::directory::huge;
use crate::distance::{CodeKernels, Kernel, Metric, code_kernels};
use crate::scan::Nearest;
use crate::way;

pub use super::mend::Mended;

/// Why there is no graph.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The caller's flag was raised.
    #[error("building the graph was cancelled")]
    Cancelled,
    /// The options are outside what a graph can have.
    #[error(
        "graph options m={m}, ef_construction={ef_construction}, threads={threads} are out of range: m 2 to 128, ef_construction m to 10000, threads 1 to 1024"
    )]
    Options {
        /// As asked.
        m: usize,
        /// As asked.
        ef_construction: usize,
        /// As asked.
        threads: usize,
    },
    /// More nodes than a graph numbers.
    #[error("a graph holds at most 1073741824 embeddings, not {0}")]
    TooMany(usize),
    /// An embedding's dimension differs from the first one's.
    #[error("embedding {node} has {got} components, the first one has {expected}")]
    Dimension {
        /// Which.
        node: usize,
        /// Its dimension.
        got: usize,
        /// The first one's.
        expected: usize,
    },
}

/// What a graph is built of.
#[derive(Clone, Copy)]
pub struct Embeddings<'a, 'v> {
    /// How they are compared; each is prepared for it.
    pub metric: Metric,
    /// How many there are.
    pub len: usize,
    /// Each of them. Asked for in order, twice.
    pub get: &'a (dyn Fn(usize) -> Cow<'v, [f32]> + Sync),
    /// Whether to make codes of them.
    pub coded: bool,
}

/// A graph, and the codes it was built on.
pub struct Built {
    /// The graph, if one was asked for. Node `i` is embedding `i`.
    pub graph: Option<FlatGraph>,
    /// What had to be mended.
    pub mended: Mended,
    pub(crate) codes: Option<Encoded>,
}

/// The codes of all embeddings.
pub(crate) struct Encoded {
    pub mean: Vec<f32>,
    pub rows: Vec<u8>,
    pub beside: Vec<Beside>,
}

/// Builds the graph of embeddings, anew or starting from another graph of some of them. Needs memory for the codes and the
/// links, or for a copy of the embeddings and the links: see [`working_bytes`].
pub fn build(
    embeddings: &Embeddings<'_, '_>,
    options: &GraphOptions,
    seed: Option<&Seed<'_>>,
    cancel: &AtomicBool,
) -> Result<Built, BuildError> {
    let GraphOptions { m, ef_construction, threads } = *options;
    if !(2..=128).contains(&m) || !(m..=10_000).contains(&ef_construction) || !(1..=1024).contains(&threads) {
        return Err(BuildError::Options { m, ef_construction, threads });
    }
    if embeddings.len > beam::NODES_MAX {
        return Err(BuildError::TooMany(embeddings.len));
    }
    check(cancel)?;
    let encoded = if embeddings.coded { encode(embeddings, cancel)? } else { None };
    let (graph, mended) = match &encoded {
        Some(encoded) => build_on(&CodedPairs::new(embeddings, encoded), embeddings.len, options, seed, cancel)?,
        None => build_on(&FloatPairs::new(embeddings, cancel)?, embeddings.len, options, seed, cancel)?,
    };
    Ok(Built { graph: Some(graph), mended, codes: encoded })
}

/// About how many bytes of memory building takes at its peak, beside the embeddings that it asks for.
pub(crate) fn working_bytes(embeddings: usize, dimension: usize, coded: bool, options: &GraphOptions) -> u64 {
    let compared = if coded { codes::stride_of(dimension) + CODED_BESIDE_BYTES } else { 4 * (dimension + 1) };
    // On average less than one link more above layer 0 for every two nodes, with their places.
    let links = 4 * (2 * options.m + 4);
    // The links and the codes are put into another order when all else is done; before that, nodes are looked for.
    let again = if coded { links + codes::stride_of(dimension) } else { links };
    (embeddings * (compared + links + again.max(mend::NODE_BYTES))) as u64
}

/// Beside a code, for searching and for building.
const CODED_BESIDE_BYTES: usize = size_of::<Beside>() + size_of::<[f32; 3]>();

/// The codes alone, for embeddings that are looked at one by one.
pub fn without_graph(embeddings: &Embeddings<'_, '_>, cancel: &AtomicBool) -> Result<Built, BuildError> {
    let codes = if embeddings.coded { encode(embeddings, cancel)? } else { None };
    Ok(Built { graph: None, mended: Mended::default(), codes })
}

/// So many components take some fifty microseconds.
const COMPONENTS: usize = 16 << 10;

pub(super) fn check(cancel: &AtomicBool) -> Result<(), BuildError> {
    if cancel.load(Ordering::Relaxed) { Err(BuildError::Cancelled) } else { Ok(()) }
}

fn build_on<P: Pairs>(
    pairs: &P,
    len: usize,
    options: &GraphOptions,
    seed: Option<&Seed<'_>>,
    cancel: &AtomicBool,
) -> Result<(FlatGraph, Mended), BuildError> {
    if len <= 2 * options.m + 1 {
        // There is room for everybody to be linked with everybody.
        return Ok((complete(len, options.m), Mended::default()));
    }
    let given = seed.map(|seed| levels_of(seed, len));
    let level = |node: u32| given.as_ref().and_then(|levels| *levels.get(node as usize)?);
    let growing = Growing::new(len, options, level);
    if let Some(seed) = seed {
        graft(&growing, seed, pairs, options.threads, cancel);
    }
    check(cancel)?;
    if !growing.link_all(pairs, |node| level(node).is_some(), options.threads, cancel) {
        return Err(BuildError::Cancelled);
    }
    let (layer0, upper) = growing.into_layers();
    let mut draft = Draft::new(layer0, &upper, options.m);
    drop(upper);
    let mut mended = Mended { unreachable: draft.reach_all(pairs, cancel)?, ..Mended::default() };
    draft.find_all(pairs, options.threads, &mut mended, cancel)?;
    Ok((draft.finish(), mended))
}

fn complete(len: usize, m: usize) -> FlatGraph {
    let len = len as u32;
    let mut layer0 = vec![NO_LINK; len as usize * 2 * m];
    for (node, links) in (0..len).zip(layer0.chunks_exact_mut(2 * m)) {
        let others = (0..len).filter(|&other| other != node);
        links.iter_mut().zip(others).for_each(|(link, other)| *link = other);
    }
    let mut upper = vec![len, m as u32, 0, u32::from(len > 0)];
    upper.extend((len > 0).then_some(0));
    FlatGraph { layer0, upper }
}

/// Shows every embedding in order, checked.
fn each(
    embeddings: &Embeddings<'_, '_>,
    cancel: &AtomicBool,
    mut see: impl FnMut(usize, &[f32]),
) -> Result<(), BuildError> {
    let (mut expected, mut seen) = (None, 0);
    for i in 0..embeddings.len {
        if i.is_multiple_of(1024) {
            check(cancel)?;
        }
        let embedding = (embeddings.get)(i);
        let expected = *expected.get_or_insert(embedding.len());
        if embedding.len() != expected {
            return Err(BuildError::Dimension { node: i, got: embedding.len(), expected });
        }
        see(i, &embedding);
        seen += embedding.len();
        if seen >= COMPONENTS {
            seen = 0;
            way::give();
        }
    }
    Ok(())
}

/// The codes of all embeddings, unless codes do not serve them.
pub(crate) fn encode(embeddings: &Embeddings<'_, '_>, cancel: &AtomicBool) -> Result<Option<Encoded>, BuildError> {
    if embeddings.len == 0 {
        return Ok(None);
    }
    let mut mean = codes::Mean::default();
    each(embeddings, cancel, |_, embedding| mean.add(embedding))?;
    let mean = mean.finish();
    let stride = codes::stride_of(mean.len());
    let mut rows = huge::room_for(embeddings.len * stride);
    rows.resize(embeddings.len * stride, 0u8);
    let mut beside = Vec::with_capacity(embeddings.len);
    each(embeddings, cancel, |i, embedding| {
        beside.push(codes::encode(embeddings.metric, &mean, embedding, &mut rows[i * stride..(i + 1) * stride]));
    })?;
    let encoded = Encoded { mean, rows, beside };
    Ok(encoded.serves(embeddings).then_some(encoded))
}

impl Encoded {
    /// Puts the codes into another order: `order` says which comes first, second, and so on.
    pub fn arrange(&mut self, order: &[u32]) {
        let stride = codes::stride_of(self.mean.len());
        let mut rows = Vec::with_capacity(self.rows.len());
        for &from in order {
            rows.extend_from_slice(&self.rows[from as usize * stride..(from as usize + 1) * stride]);
        }
        self.rows = rows;
        self.beside = order.iter().map(|&from| self.beside[from as usize]).collect();
    }

    /// Whether the codes find what is near: for a few of the embeddings, the nearest among some thousand are found by codes,
    /// as a search does it, and in full.
    fn serves(&self, embeddings: &Embeddings<'_, '_>) -> bool {
        let dimension = self.mean.len();
        let take = |count: usize| (0..embeddings.len).step_by((embeddings.len / count).max(1)).take(count);
        let rows: Vec<u32> = take(TRIED_ROWS).map(|row| row as u32).collect();
        let full: Vec<Cow<'_, [f32]>> = rows.iter().map(|&row| (embeddings.get)(row as usize)).collect();
        let (kernel, codes) = (embeddings.metric.kernel(), Codes::new(&self.rows, &self.beside, dimension));
        let (mut query, mut sums, mut distances) = (CodedQuery::default(), Vec::new(), Vec::new());
        let (mut near, mut found, mut all) = (Nearest::new(), 0, 0);
        let again = looked_at_again(TRIED_K);
        for place in (0..rows.len()).step_by((rows.len() / TRIED_QUERIES).max(1)) {
            near.reset(TRIED_K);
            (0..).zip(&full).for_each(|(i, embedding)| near.offer(kernel(&full[place], embedding), i));
            near.settle(TRIED_K);
            let exact: Vec<u32> = near.hits().iter().map(|hit| hit.row).collect();
            query.set(embeddings.metric, &self.mean, &full[place]);
            codes.distances(&query, &rows, &mut sums, &mut distances);
            near.reset(again);
            (0..).zip(&distances).for_each(|(i, &distance)| near.offer(distance, i));
            near.settle(again);
            // What is farther by codes than so many others is lost, unless it is a copy of one that is not.
            let farthest = near.hits().last().map_or(f32::INFINITY, |hit| hit.distance);
            found += exact.iter().filter(|&&row| distances[row as usize] <= farthest).count();
            all += exact.len();
        }
        found as f64 >= all as f64 * SERVING_RECALL
    }
}

/// So many embeddings are tried out, spread over all, with so many of them as queries for so many hits each.
const TRIED_ROWS: usize = 2_048;
const TRIED_QUERIES: usize = 32;
const TRIED_K: usize = 10;
/// Codes that find less than this of the nearest do not serve.
const SERVING_RECALL: f64 = 0.98;

/// Embeddings by their codes, as far from each other as squared L2 has it, with the component that dot needs besides.
struct CodedPairs<'a> {
    rows: &'a [u8],
    dimension: usize,
    stride: usize,
    beside: PairBeside,
    kernels: CodeKernels,
}

/// Squared length without the mean, scale, and the component for dot.
enum PairBeside {
    Apart(Vec<[f32; 3]>),
    /// As the codes' rows hold it, whose biases are to be taken so many times.
    Inside(f32),
}

#[derive(Default)]
struct Coded {
    bytes: Vec<i8>,
    offset: i32,
    beside: [f32; 3],
}

impl<'a> CodedPairs<'a> {
    fn new(embeddings: &Embeddings<'_, '_>, encoded: &'a Encoded) -> CodedPairs<'a> {
        let (dimension, metric) = (encoded.mean.len(), embeddings.metric);
        let twice = if metric == Metric::Cosine { 2.0 } else { 1.0 };
        let apart = || huge::room_for(embeddings.len);
        let beside = match metric {
            Metric::Dot => {
                let (lifted, mut beside) = (Lift::new(embeddings), apart());
                for (i, [_, scale]) in encoded.beside.iter().enumerate() {
                    let embedding = (embeddings.get)(i);
                    let centred = embedding.iter().zip(&encoded.mean).map(|(&x, &m)| f64::from(x - m));
                    let squares: f64 = centred.map(|x| x * x).sum();
                    beside.push([squares as f32, *scale, lifted.of(&embedding)]);
                }
                PairBeside::Apart(beside)
            }
            _ if codes::has_room(dimension) => PairBeside::Inside(twice),
            _ => {
                let mut beside: Vec<[f32; 3]> = apart();
                beside.extend(encoded.beside.iter().map(|[bias, scale]| [bias * twice, *scale, 0.0]));
                PairBeside::Apart(beside)
            }
        };
        let stride = codes::stride_of(dimension);
        CodedPairs { rows: &encoded.rows, dimension, stride, beside, kernels: code_kernels() }
    }

    fn row(&self, node: u32) -> &[u8] {
        let start = node as usize * self.stride;
        &self.rows[start..start + self.stride]
    }

    #[inline]
    fn beside(&self, node: u32) -> [f32; 3] {
        match &self.beside {
            PairBeside::Apart(beside) => beside[node as usize],
            PairBeside::Inside(times) => {
                let [bias, scale] = codes::beside_in(self.row(node));
                [bias * times, scale, 0.0]
            }
        }
    }
}

impl Pairs for CodedPairs<'_> {
    type Prepared = Coded;

    fn prepare(&self, node: u32, into: &mut Coded) {
        into.bytes.clear();
        into.bytes.extend(self.row(node)[..self.dimension].iter().map(|&code| (code ^ 0x80) as i8));
        into.bytes.resize(self.stride, 0);
        into.offset = 128 * into.bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>();
        into.beside = self.beside(node);
    }

    #[inline]
    fn distance(&self, from: &Coded, node: u32) -> f32 {
        from.distance((self.kernels.one)(self.row(node), &from.bytes), self.beside(node))
    }

    fn same(&self, a: u32, b: u32) -> bool {
        self.beside(a) == self.beside(b) && self.row(a) == self.row(b)
    }

    fn distances(&self, from: &Coded, nodes: &[u32], into: &mut Distances) {
        let Distances { all, sums } = into;
        (self.kernels.many)(self.rows, self.stride, nodes, &from.bytes, sums);
        all.clear();
        all.extend(nodes.iter().zip(sums).map(|(&node, sum)| from.distance(*sum, self.beside(node))));
    }
}

impl Coded {
    #[inline]
    fn distance(&self, sum: i32, [squares, scale, lift]: [f32; 3]) -> f32 {
        let [own_squares, own_scale, own_lift] = self.beside;
        let lifted = own_lift - lift;
        own_squares + squares - 2.0 * own_scale * scale * (sum - self.offset) as f32 + lifted * lifted
    }
}

/// The component that gives all embeddings the same length.
struct Lift {
    greatest: f64,
}

impl Lift {
    fn new(embeddings: &Embeddings<'_, '_>) -> Lift {
        Lift { greatest: (0..embeddings.len).map(|i| squares(&(embeddings.get)(i))).fold(0.0, f64::max) }
    }

    fn of(&self, embedding: &[f32]) -> f32 {
        (self.greatest - squares(embedding)).max(0.0).sqrt() as f32
    }
}

fn squares(embedding: &[f32]) -> f64 {
    embedding.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// A copy of the embeddings, for dot with one component more.
struct FloatPairs {
    floats: Vec<f32>,
    dimension: usize,
    kernel: Kernel,
}

impl FloatPairs {
    fn new(embeddings: &Embeddings<'_, '_>, cancel: &AtomicBool) -> Result<FloatPairs, BuildError> {
        let lift = (embeddings.metric == Metric::Dot).then(|| Lift::new(embeddings));
        let (mut floats, mut dimension) = (Vec::new(), 0);
        each(embeddings, cancel, |_, embedding| {
            floats.extend_from_slice(embedding);
            floats.extend(lift.as_ref().map(|lift| lift.of(embedding)));
            dimension = embedding.len() + usize::from(lift.is_some());
        })?;
        let metric = if lift.is_some() { Metric::SquaredL2 } else { embeddings.metric };
        Ok(FloatPairs { floats, dimension, kernel: metric.kernel() })
    }

    fn vectors(&self) -> Vectors<'_> {
        Vectors::with_kernel(self.kernel, &self.floats, self.dimension, self.dimension)
    }

    fn row(&self, node: u32) -> &[f32] {
        let start = node as usize * self.dimension;
        &self.floats[start..start + self.dimension]
    }
}

impl Pairs for FloatPairs {
    type Prepared = u32;

    fn prepare(&self, node: u32, into: &mut u32) {
        *into = node;
    }

    #[inline]
    fn distance(&self, from: &u32, node: u32) -> f32 {
        (self.kernel)(self.row(*from), self.row(node))
    }

    fn same(&self, a: u32, b: u32) -> bool {
        self.row(a) == self.row(b)
    }

    fn distances(&self, from: &u32, nodes: &[u32], into: &mut Distances) {
        self.vectors().distances(self.row(*from), nodes, &mut into.all);
    }
}
