//! The kernels that every processor runs. Eight sums side by side leave the compiler free to use
//! what vector instructions there are by default.

use super::{Set, cosine_from_dot};

pub(super) static SET: Set = Set { name: "scalar", available: || true, cosine, dot, squared_l2 };

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    cosine_from_dot(product(a, b))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    -product(a, b)
}

fn squared_l2(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| (x - y) * (x - y))
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    sum(a, b, |x, y| x * y)
}

fn sum(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let len = a.len().min(b.len());
    let (a8, a_rest) = a[..len].as_chunks::<8>();
    let (b8, b_rest) = b[..len].as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (x, y) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += term(x[i], y[i]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(&x, &y)| term(x, y)).sum();
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sums;
    ((s0 + s4) + (s1 + s5)) + ((s2 + s6) + (s3 + s7)) + rest
}
