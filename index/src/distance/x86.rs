//! Kernels for AVX-512 and for AVX2 with FMA. Four sums side by side hide the latency of the
//! multiply-add; what does not fill a register is loaded under a mask (AVX-512) or added one by
//! one (AVX2).

use super::{Set, cosine_from_dot};
use std::arch::x86_64::*;

pub(super) static AVX512: Set = set!("avx512", || is_x86_feature_detected!("avx512f"), avx512_dot, avx512_squared_l2);

pub(super) static AVX2: Set =
    set!("avx2", || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"), avx2_dot, avx2_squared_l2);

/// Defines a sum over pairs of components in 16-wide registers: `$add` adds one pair of registers.
macro_rules! avx512 {
    ($name:ident, |$x:ident, $y:ident, $sum:ident| $add:expr) => {
        #[target_feature(enable = "avx512f")]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            let len = a.len().min(b.len());
            let (a64, a_rest) = a[..len].as_chunks::<64>();
            let (b64, b_rest) = b[..len].as_chunks::<64>();
            let mut sums = [_mm512_setzero_ps(); 4];
            for (x, y) in a64.iter().zip(b64) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `x` is an array of 64 f32, `i` is below 4, and an unaligned load reads 16 of them
                    // from `16 * i`.
                    let $x = unsafe { _mm512_loadu_ps(x.as_ptr().add(16 * i)) };
                    // SAFETY: so it is with `y`.
                    let $y = unsafe { _mm512_loadu_ps(y.as_ptr().add(16 * i)) };
                    let $sum = *sum;
                    *sum = $add;
                }
            }
            let [mut sum, s1, s2, s3] = sums;
            for (x, y) in a_rest.chunks(16).zip(b_rest.chunks(16)) {
                // `a_rest` and `b_rest` have the same length, and so have their chunks: 1 to 16.
                let mask = u16::MAX >> (16 - x.len());
                // SAFETY: the mask has as many bits as `x` has elements, and a masked load touches no others.
                let $x = unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) };
                // SAFETY: `y` has as many elements.
                let $y = unsafe { _mm512_maskz_loadu_ps(mask, y.as_ptr()) };
                let $sum = sum;
                sum = $add;
            }
            _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum, s1), _mm512_add_ps(s2, s3)))
        }
    };
}

avx512!(avx512_dot, |x, y, sum| _mm512_fmadd_ps(x, y, sum));
avx512!(avx512_squared_l2, |x, y, sum| {
    let d = _mm512_sub_ps(x, y);
    _mm512_fmadd_ps(d, d, sum)
});

/// As `avx512!`, in 8-wide registers; `$one` is the term of one pair of components.
macro_rules! avx2 {
    ($name:ident, |$x:ident, $y:ident, $sum:ident| $add:expr, $one:expr) => {
        #[target_feature(enable = "avx2,fma")]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            let len = a.len().min(b.len());
            let (a32, a_rest) = a[..len].as_chunks::<32>();
            let (b32, b_rest) = b[..len].as_chunks::<32>();
            let mut sums = [_mm256_setzero_ps(); 4];
            for (x, y) in a32.iter().zip(b32) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `x` is an array of 32 f32, `i` is below 4, and an unaligned load reads 8 of them from
                    // `8 * i`.
                    let $x = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) };
                    // SAFETY: so it is with `y`.
                    let $y = unsafe { _mm256_loadu_ps(y.as_ptr().add(8 * i)) };
                    let $sum = *sum;
                    *sum = $add;
                }
            }
            let (a8, a_rest) = a_rest.as_chunks::<8>();
            let (b8, b_rest) = b_rest.as_chunks::<8>();
            let [mut sum, s1, s2, s3] = sums;
            for (x, y) in a8.iter().zip(b8) {
                // SAFETY: `x` is an array of eight f32, all that an unaligned load reads.
                let $x = unsafe { _mm256_loadu_ps(x.as_ptr()) };
                // SAFETY: so is `y`.
                let $y = unsafe { _mm256_loadu_ps(y.as_ptr()) };
                let $sum = sum;
                sum = $add;
            }
            let one: fn(f32, f32) -> f32 = $one;
            let rest: f32 = a_rest.iter().zip(b_rest).map(|(&x, &y)| one(x, y)).sum();
            let sum = _mm256_add_ps(_mm256_add_ps(sum, s1), _mm256_add_ps(s2, s3));
            let sum = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
            let sum = _mm_add_ss(sum, _mm_shuffle_ps::<1>(sum, sum));
            _mm_cvtss_f32(sum) + rest
        }
    };
}

avx2!(avx2_dot, |x, y, sum| _mm256_fmadd_ps(x, y, sum), |x, y| x * y);
avx2!(
    avx2_squared_l2,
    |x, y, sum| {
        let d = _mm256_sub_ps(x, y);
        _mm256_fmadd_ps(d, d, sum)
    },
    |x, y| (x - y) * (x - y)
);
