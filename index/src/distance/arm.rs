//! Kernels for NEON, which every 64-bit ARM processor has.

use super::{Set, cosine_from_dot};
use std::arch::aarch64::*;

pub(super) static NEON: Set =
    set!("neon", || std::arch::is_aarch64_feature_detected!("neon"), neon_dot, neon_squared_l2);

/// Defines a sum over pairs of components in 4-wide registers: `$add` adds one pair of registers,
/// `$one` is the term of one pair of components.
macro_rules! neon {
    ($name:ident, |$x:ident, $y:ident, $sum:ident| $add:expr, $one:expr) => {
        #[target_feature(enable = "neon")]
        fn $name(a: &[f32], b: &[f32]) -> f32 {
            let len = a.len().min(b.len());
            let (a16, a_rest) = a[..len].as_chunks::<16>();
            let (b16, b_rest) = b[..len].as_chunks::<16>();
            let mut sums = [vdupq_n_f32(0.0); 4];
            for (x, y) in a16.iter().zip(b16) {
                for (i, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: `x` and `y` are arrays of 16 f32, `i` is below 4, and a load reads 4
                    // of them from `4 * i`.
                    let ($x, $y) = unsafe { (vld1q_f32(x.as_ptr().add(4 * i)), vld1q_f32(y.as_ptr().add(4 * i))) };
                    let $sum = *sum;
                    *sum = $add;
                }
            }
            let one: fn(f32, f32) -> f32 = $one;
            let rest: f32 = a_rest.iter().zip(b_rest).map(|(&x, &y)| one(x, y)).sum();
            let [s0, s1, s2, s3] = sums;
            vaddvq_f32(vaddq_f32(vaddq_f32(s0, s1), vaddq_f32(s2, s3))) + rest
        }
    };
}

neon!(neon_dot, |x, y, sum| vfmaq_f32(sum, x, y), |x, y| x * y);
neon!(
    neon_squared_l2,
    |x, y, sum| {
        let d = vsubq_f32(x, y);
        vfmaq_f32(sum, d, d)
    },
    |x, y| (x - y) * (x - y)
);
