//! Distances from an f32 query to an embedding whose components are the bits of f16 (IEEE 754 binary16).
//!
//! f16 is only how components are stored: each is widened to f32 before it is multiplied, which processors do on the way
//! from memory.

use super::{Metric, cosine_from_dot};

/// The distance of an f32 query and an embedding of f16 bits, of the same dimension.
pub type HalfKernel = fn(&[f32], &[u16]) -> f32;

/// The kernels of one instruction set.
struct Set {
    name: &'static str,
    available: fn() -> bool,
    cosine: HalfKernel,
    dot: HalfKernel,
    squared_l2: HalfKernel,
}

impl Set {
    fn kernel(&self, metric: Metric) -> HalfKernel {
        match metric {
            Metric::Cosine => self.cosine,
            Metric::Dot => self.dot,
            Metric::SquaredL2 => self.squared_l2,
        }
    }
}

const SCALAR: Set = Set {
    name: "scalar",
    available: || true,
    cosine: |a, b| cosine_from_dot(scalar(a, b, |x, y| x * y)),
    dot: |a, b| -scalar(a, b, |x, y| x * y),
    squared_l2: |a, b| scalar(a, b, |x, y| (x - y) * (x - y)),
};

#[cfg(target_arch = "x86_64")]
const SETS: &[Set] = &[
    Set {
        name: "avx512",
        available: || is_x86_feature_detected!("avx512f"),
        // SAFETY: `half_kernels` hands a set out only if it is available, and nothing else calls this.
        cosine: |a, b| cosine_from_dot(unsafe { x86::avx512_dot(a, b) }),
        // SAFETY: as above.
        dot: |a, b| -unsafe { x86::avx512_dot(a, b) },
        // SAFETY: as above.
        squared_l2: |a, b| unsafe { x86::avx512_squared_l2(a, b) },
    },
    Set {
        name: "avx2",
        available: || {
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
        },
        // SAFETY: as above.
        cosine: |a, b| cosine_from_dot(unsafe { x86::avx2_dot(a, b) }),
        // SAFETY: as above.
        dot: |a, b| -unsafe { x86::avx2_dot(a, b) },
        // SAFETY: as above.
        squared_l2: |a, b| unsafe { x86::avx2_squared_l2(a, b) },
    },
    SCALAR,
];

#[cfg(target_arch = "aarch64")]
const SETS: &[Set] = &[
    Set {
        name: "neon",
        available: || std::arch::is_aarch64_feature_detected!("neon"),
        // SAFETY: `half_kernels` hands a set out only if it is available, and nothing else calls this.
        cosine: |a, b| cosine_from_dot(unsafe { arm::neon_dot(a, b) }),
        // SAFETY: as above.
        dot: |a, b| -unsafe { arm::neon_dot(a, b) },
        // SAFETY: as above.
        squared_l2: |a, b| unsafe { arm::neon_squared_l2(a, b) },
    },
    SCALAR,
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const SETS: &[Set] = &[SCALAR];

impl Metric {
    /// The fastest kernel for embeddings of f16 that this processor runs.
    pub fn half_kernel(self) -> HalfKernel {
        half_kernels(self).next().map_or(SCALAR.kernel(self), |(_, kernel)| kernel)
    }
}

/// Every such kernel of a metric that this processor runs, with its instruction set's name, fastest first.
pub fn half_kernels(metric: Metric) -> impl Iterator<Item = (&'static str, HalfKernel)> {
    SETS.iter().filter(|set| (set.available)()).map(move |set| (set.name, set.kernel(metric)))
}

fn scalar(a: &[f32], b: &[u16], term: impl Fn(f32, f32) -> f32) -> f32 {
    a.iter().zip(b).map(|(&x, &y)| term(x, half::f16::from_bits(y).to_f32())).sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Defines a sum over pairs of components in 16-wide registers: `$add` adds one pair of registers.
    macro_rules! avx512 {
        ($name:ident, |$x:ident, $y:ident, $sum:ident| $add:expr) => {
            #[target_feature(enable = "avx512f")]
            pub fn $name(a: &[f32], b: &[u16]) -> f32 {
                let len = a.len().min(b.len());
                let (a32, a) = a[..len].as_chunks::<32>();
                let (b32, b) = b[..len].as_chunks::<32>();
                let mut sums = [_mm512_setzero_ps(); 2];
                for (x, y) in a32.iter().zip(b32) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: `x` has 32 f32 and `y` 32 u16, `i` is below 2, and a load reads 16 of either.
                        let ($x, $y) = unsafe {
                            (
                                _mm512_loadu_ps(x.as_ptr().add(16 * i)),
                                _mm512_cvtph_ps(_mm256_loadu_si256(y.as_ptr().add(16 * i).cast())),
                            )
                        };
                        let $sum = *sum;
                        *sum = $add;
                    }
                }
                let [mut sum, s1] = sums;
                for (x, y) in a.chunks(16).zip(b.chunks(16)) {
                    // A masked load of 16-bit numbers takes more than AVX-512F; the last few are copied.
                    let (mut wide, mut narrow) = ([0.0f32; 16], [0u16; 16]);
                    wide[..x.len()].copy_from_slice(x);
                    narrow[..y.len()].copy_from_slice(y);
                    // SAFETY: both arrays have the 16 elements that a load reads.
                    let ($x, $y) = unsafe {
                        (_mm512_loadu_ps(wide.as_ptr()), _mm512_cvtph_ps(_mm256_loadu_si256(narrow.as_ptr().cast())))
                    };
                    let $sum = sum;
                    sum = $add;
                }
                _mm512_reduce_add_ps(_mm512_add_ps(sum, s1))
            }
        };
    }

    avx512!(avx512_dot, |x, y, sum| _mm512_fmadd_ps(x, y, sum));
    avx512!(avx512_squared_l2, |x, y, sum| {
        let d = _mm512_sub_ps(x, y);
        _mm512_fmadd_ps(d, d, sum)
    });

    /// As `avx512!`, in 8-wide registers.
    macro_rules! avx2 {
        ($name:ident, |$x:ident, $y:ident, $sum:ident| $add:expr) => {
            #[target_feature(enable = "avx2,fma,f16c")]
            pub fn $name(a: &[f32], b: &[u16]) -> f32 {
                let len = a.len().min(b.len());
                let mut sum = _mm256_setzero_ps();
                for (x, y) in a[..len].chunks(8).zip(b[..len].chunks(8)) {
                    let (mut wide, mut narrow) = ([0.0f32; 8], [0u16; 8]);
                    wide[..x.len()].copy_from_slice(x);
                    narrow[..y.len()].copy_from_slice(y);
                    // SAFETY: both arrays have the eight elements that a load reads.
                    let ($x, $y) = unsafe {
                        (_mm256_loadu_ps(wide.as_ptr()), _mm256_cvtph_ps(_mm_loadu_si128(narrow.as_ptr().cast())))
                    };
                    let $sum = sum;
                    sum = $add;
                }
                let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
                let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
                let sum = _mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum));
                _mm_cvtss_f32(sum)
            }
        };
    }

    avx2!(avx2_dot, |x, y, sum| _mm256_fmadd_ps(x, y, sum));
    avx2!(avx2_squared_l2, |x, y, sum| {
        let d = _mm256_sub_ps(x, y);
        _mm256_fmadd_ps(d, d, sum)
    });
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    /// Defines a sum over pairs of components in 4-wide registers: `$add` adds one pair of registers. Widening f16 is part
    /// of every such processor, unlike computing with it.
    macro_rules! neon {
        ($name:ident, |$x:ident, $y:ident, $sum:ident| $add:expr) => {
            #[target_feature(enable = "neon")]
            pub fn $name(a: &[f32], b: &[u16]) -> f32 {
                let len = a.len().min(b.len());
                let (a16, a) = a[..len].as_chunks::<16>();
                let (b16, b) = b[..len].as_chunks::<16>();
                let mut sums = [vdupq_n_f32(0.0); 4];
                for (x, y) in a16.iter().zip(b16) {
                    for (i, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: `x` and `y` are arrays of 16, `i` is below 4, and a load reads 4 of them from `4 * i`.
                        let (x, y) = unsafe { (vld1q_f32(x.as_ptr().add(4 * i)), vld1_u16(y.as_ptr().add(4 * i))) };
                        let ($x, $y, $sum) = (x, vcvt_f32_f16(vreinterpret_f16_u16(y)), *sum);
                        *sum = $add;
                    }
                }
                let [mut sum, s1, s2, s3] = sums;
                for (x, y) in a.chunks(4).zip(b.chunks(4)) {
                    let (mut wide, mut narrow) = ([0.0f32; 4], [0u16; 4]);
                    wide[..x.len()].copy_from_slice(x);
                    narrow[..y.len()].copy_from_slice(y);
                    // SAFETY: both arrays have the four elements that a load reads.
                    let (x, y) = unsafe { (vld1q_f32(wide.as_ptr()), vld1_u16(narrow.as_ptr())) };
                    let ($x, $y, $sum) = (x, vcvt_f32_f16(vreinterpret_f16_u16(y)), sum);
                    sum = $add;
                }
                vaddvq_f32(vaddq_f32(vaddq_f32(sum, s1), vaddq_f32(s2, s3)))
            }
        };
    }

    neon!(neon_dot, |x, y, sum| vfmaq_f32(sum, x, y));
    neon!(neon_squared_l2, |x, y, sum| {
        let d = vsubq_f32(x, y);
        vfmaq_f32(sum, d, d)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_agrees_with_the_textbook_at_every_length() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        for len in (0..=140).chain([384, 768, 1536]) {
            let a: Vec<f32> = (0..len).map(|_| next()).collect();
            let b: Vec<u16> = (0..len).map(|_| half::f16::from_f32(next()).to_bits()).collect();
            let pairs = || a.iter().zip(&b).map(|(&x, &y)| (f64::from(x), half::f16::from_bits(y).to_f64()));
            let dot: f64 = pairs().map(|(x, y)| x * y).sum();
            let squares: f64 = pairs().map(|(x, y)| (x - y) * (x - y)).sum();
            let all = [(Metric::Cosine, (1.0 - dot).max(0.0)), (Metric::Dot, -dot), (Metric::SquaredL2, squares)];
            for (metric, exact) in all {
                for (name, kernel) in half_kernels(metric) {
                    let got = f64::from(kernel(&a, &b));
                    let room = 1e-6 * (1.0 + len as f64);
                    assert!((got - exact).abs() <= room, "{name} {metric} length {len}: {got} for {exact}");
                    // What lies beyond the shorter one does not count.
                    let longer = [&b[..], &[0x7e00; 40]].concat();
                    assert_eq!(kernel(&a, &longer), kernel(&a, &b), "{name} {metric} length {len}");
                }
            }
        }
    }
}
