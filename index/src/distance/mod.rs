//! Distance: how far two embeddings are from each other, as fast as the processor can say it.
//!
//! | metric | what a hit shows | smaller is nearer, from | needs |
//! |---|---|---|---|
//! | cosine | 1 - cos(a, b) | 0 to 2 | embeddings of length 1: [`Metric::prepare`] makes them so |
//! | dot | -(a . b) | any number | nothing |
//! | squared L2 | sum (a - b)^2 | 0 | nothing |
//!
//! A [`Kernel`] is a plain function of two slices, chosen once by what the processor can do
//! ([`Metric::kernel`]) and then called without asking again. There is one per metric and
//! instruction set, in `x86` and `arm`; `scalar` is the one that every processor runs and that the
//! others are tested against. Kernels read as many components as the shorter slice has.
//!
//! Codes of one byte a component ([`crate::codes`]) have kernels of their own, in `code`.

#![expect(unsafe_code, reason = "vector instructions and prefetching are unsafe by nature")]

/// A [`Set`] of an inner product and a squared distance that need instructions which `available`
/// knows the processor to have.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! set {
    ($name:literal, $available:expr, $dot:ident, $squared_l2:ident) => {
        Set {
            name: $name,
            available: $available,
            // SAFETY: `sets` hands a set out only if it is available, and nothing else calls this.
            cosine: |a, b| cosine_from_dot(unsafe { $dot(a, b) }),
            // SAFETY: as above.
            dot: |a, b| -unsafe { $dot(a, b) },
            // SAFETY: as above.
            squared_l2: |a, b| unsafe { $squared_l2(a, b) },
        }
    };
}

#[cfg(target_arch = "aarch64")]
mod arm;
mod code;
mod half;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use self::half::{HalfKernel, half_kernels};
pub use code::{CodeKernels, all_code_kernels, code_kernels};

/// The distance of two embeddings of the same dimension.
pub type Kernel = fn(&[f32], &[f32]) -> f32;

/// What "near" means in a collection. The numbers are those of the files and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Metric {
    /// 1 - cosine of the angle. Embeddings are stored with length 1.
    Cosine = 1,
    /// The negated inner product, so that smaller is nearer.
    Dot = 2,
    /// The squared Euclidean distance.
    SquaredL2 = 3,
}

/// Why an embedding cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EmbeddingError {
    /// A component is NaN or infinite, or so large that its square is.
    #[error("embedding component {position} is not a finite number of reasonable size: send finite f32 values")]
    NotFinite {
        /// Which component, counted from 0.
        position: usize,
    },
    /// All components are zero, so there is no angle.
    #[error("an embedding of length zero has no cosine distance: leave it out or use another metric")]
    Zero,
}

impl Metric {
    /// The metric's number in files.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The metric of a number, if it is one.
    pub fn from_code(code: u8) -> Option<Metric> {
        [Metric::Cosine, Metric::Dot, Metric::SquaredL2].into_iter().find(|m| m.code() == code)
    }

    /// The metric's name, as in messages and command lines.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::Dot => "dot",
            Metric::SquaredL2 => "squared-l2",
        }
    }

    /// The fastest kernel that this processor runs.
    pub fn kernel(self) -> Kernel {
        let set = sets().next().unwrap_or(&scalar::SET);
        set.kernel(self)
    }

    /// Makes an embedding, of a record or of a query, ready for this metric's kernel: checks that it
    /// is finite and, for cosine, gives it length 1. Doing it twice changes nothing that matters.
    pub fn prepare(self, embedding: &mut [f32]) -> Result<(), EmbeddingError> {
        match self {
            Metric::Cosine => normalise(embedding),
            Metric::Dot | Metric::SquaredL2 => finite(embedding),
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Beyond this a squared distance of two embeddings of 16,384 components may not fit an f32.
const COMPONENT_MAX: f32 = 1e16;

fn finite(embedding: &[f32]) -> Result<(), EmbeddingError> {
    match embedding.iter().position(|x| x.is_nan() || x.abs() > COMPONENT_MAX) {
        Some(position) => Err(EmbeddingError::NotFinite { position }),
        None => Ok(()),
    }
}

/// Gives an embedding length 1, in f64, so that equal inputs stay equal on every machine.
pub fn normalise(embedding: &mut [f32]) -> Result<(), EmbeddingError> {
    finite(embedding)?;
    let squares: f64 = embedding.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if squares == 0.0 {
        return Err(EmbeddingError::Zero);
    }
    let length = squares.sqrt();
    for x in embedding {
        *x = (f64::from(*x) / length) as f32;
    }
    Ok(())
}

/// The kernels of one instruction set.
struct Set {
    name: &'static str,
    /// Whether this processor has the instructions; a kernel of the set is called only if it does.
    available: fn() -> bool,
    cosine: Kernel,
    dot: Kernel,
    squared_l2: Kernel,
}

impl Set {
    fn kernel(&self, metric: Metric) -> Kernel {
        match metric {
            Metric::Cosine => self.cosine,
            Metric::Dot => self.dot,
            Metric::SquaredL2 => self.squared_l2,
        }
    }
}

/// The sets that this processor runs, fastest first.
fn sets() -> impl Iterator<Item = &'static Set> {
    #[cfg(target_arch = "x86_64")]
    const SETS: &[&Set] = &[&x86::AVX512, &x86::AVX2, &scalar::SET];
    #[cfg(target_arch = "aarch64")]
    const SETS: &[&Set] = &[&arm::NEON, &scalar::SET];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const SETS: &[&Set] = &[&scalar::SET];
    SETS.iter().copied().filter(|set| (set.available)())
}

/// Every kernel of a metric that this processor runs, with its instruction set's name, fastest
/// first: for benchmarks, and to say at start which one is in use.
pub fn kernels(metric: Metric) -> impl Iterator<Item = (&'static str, Kernel)> {
    sets().map(move |set| (set.name, set.kernel(metric)))
}

/// 1 - cos from the inner product of two embeddings of length 1. Rounding may leave the product a
/// little over 1, and a distance is never negative. NaN stays NaN.
fn cosine_from_dot(dot: f32) -> f32 {
    let distance = 1.0 - dot;
    if distance < 0.0 { 0.0 } else { distance }
}

/// Asks the processor to fetch what will be read soon.
#[inline(always)]
pub(crate) fn prefetch<T>(slice: &[T]) {
    /// After these the processor's own prefetcher has understood.
    const LINES: usize = 8;
    #[cfg(target_arch = "x86_64")]
    for line in 0..size_of_val(slice).div_ceil(64).min(LINES) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let place = slice.as_ptr().cast::<i8>().wrapping_add(64 * line);
        // SAFETY: a hint that reads nothing and never faults, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(place) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (slice, LINES);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift, mapped to -1..1.
    fn random(seed: u64, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// In f64, as the textbook has it.
    fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
        let pairs = || a.iter().zip(b).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        let dot: f64 = pairs().map(|(x, y)| x * y).sum();
        match metric {
            Metric::Cosine => (1.0 - dot).max(0.0),
            Metric::Dot => -dot,
            Metric::SquaredL2 => pairs().map(|(x, y)| (x - y) * (x - y)).sum(),
        }
    }

    const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::SquaredL2];

    #[test]
    fn every_kernel_agrees_with_the_textbook() {
        for len in (0..=69).chain([384, 768, 1536]) {
            for seed in 1..4 {
                let (a, b) = (random(seed, len), random(seed + 77, len));
                for metric in METRICS {
                    let exact = exact(metric, &a, &b);
                    let scale: f64 = a.iter().zip(&b).map(|(x, y)| f64::from((x * y).abs())).sum();
                    for (name, kernel) in kernels(metric) {
                        let got = f64::from(kernel(&a, &b));
                        let error = (got - exact).abs();
                        assert!(
                            error <= 1e-6 * (1.0 + scale + exact.abs()),
                            "{name} {metric} len {len} seed {seed}: {got} for {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_kernel_never_reads_beyond_the_shorter_slice() {
        // What lies beyond is NaN, which no sum survives.
        for len in 0..=69 {
            let mut a = random(5, len);
            let b = random(6, len);
            let short = a.clone();
            a.extend([f32::NAN; 64]);
            for metric in METRICS {
                for (name, kernel) in kernels(metric) {
                    let (long, whole) = (kernel(&a, &b), kernel(&short, &b));
                    assert_eq!(long.to_bits(), whole.to_bits(), "{name} {metric} len {len}");
                    assert_eq!(kernel(&b, &a).to_bits(), kernel(&b, &short).to_bits());
                }
            }
        }
    }

    #[test]
    fn the_distance_to_oneself_is_nothing() {
        for len in [1, 3, 100, 384, 1536] {
            for seed in 0..50 {
                let mut a = random(seed + 1, len);
                for (name, kernel) in kernels(Metric::SquaredL2) {
                    assert_eq!(kernel(&a, &a), 0.0, "{name}");
                }
                normalise(&mut a).expect("is not zero");
                for (name, kernel) in kernels(Metric::Cosine) {
                    let distance = kernel(&a, &a);
                    assert!((0.0..1e-6).contains(&distance), "{name} seed {seed}: {distance}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        for metric in METRICS {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
                let mut embedding = [1.0, 2.0, bad];
                let refused = metric.prepare(&mut embedding);
                assert_eq!(refused, Err(EmbeddingError::NotFinite { position: 2 }), "{metric}");
            }
        }
        assert_eq!(Metric::Cosine.prepare(&mut [0.0, -0.0]), Err(EmbeddingError::Zero));
        assert_eq!(Metric::Dot.prepare(&mut [0.0, 0.0]), Ok(()));
        let mut tiny = [1e-30f32, 0.0];
        Metric::Cosine.prepare(&mut tiny).expect("has a direction");
        assert_eq!(tiny, [1.0, 0.0]);
    }

    #[test]
    fn the_numbers_in_files_never_change() {
        assert_eq!(METRICS.map(Metric::code), [1, 2, 3]);
        assert_eq!(METRICS.map(|m| Metric::from_code(m.code())), METRICS.map(Some));
        assert_eq!([0, 4, 255].map(Metric::from_code), [None; 3]);
    }
}
