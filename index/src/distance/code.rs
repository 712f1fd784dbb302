//! The inner product of a code and a coded query: unsigned bytes times signed bytes, summed exactly in 32 bits.
//!
//! A code is a component as a byte, 128 for zero (see [`crate::codes`]). The instruction that this is made for (VPDPBUSD)
//! multiplies unsigned with signed bytes, hence the two kinds. Nothing is rounded, so every kernel gives the same
//! number; 16,384 components of the greatest size sum up to 531 million, which fits.
//!
//! A search compares with all links of a node at once, so there is a kernel for many rows too: it has the next rows on
//! their way while it multiplies, and is called once.

use super::prefetch;

/// The kernels of one instruction set. Both sum `code[i] * query[i]`, as far as the shorter slice goes.
#[derive(Clone, Copy)]
pub struct CodeKernels {
    /// The instruction set's name.
    pub name: &'static str,
    /// Of one code.
    pub one: fn(&[u8], &[i8]) -> i32,
    /// Of each of some rows, `stride` bytes each, into `sums`; 0 for a row that is not there.
    pub many: RowsKernel,
    available: fn() -> bool,
}

/// Rows, how long each is, which are wanted, the query, and where the sums go.
pub type RowsKernel = fn(&[u8], usize, &[u32], &[i8], &mut Vec<i32>);

/// The fastest that this processor runs. Asks what it can do, so ask once.
pub fn code_kernels() -> CodeKernels {
    all_code_kernels().next().unwrap_or(SCALAR)
}

/// All that this processor runs, fastest first.
pub fn all_code_kernels() -> impl Iterator<Item = CodeKernels> {
    CANDIDATES.iter().copied().filter(|candidate| (candidate.available)())
}

/// So many rows are on their way while one is multiplied.
const AHEAD: usize = 6;

/// The sums of many rows by way of the sums of one. Inlined into a function that has the instructions of `one`.
#[inline(always)]
fn each_row(rows: &[u8], stride: usize, wanted: &[u32], sums: &mut Vec<i32>, one: impl Fn(&[u8]) -> i32) {
    let row = |row: u32| rows.get(row as usize * stride..(row as usize + 1) * stride);
    sums.clear();
    for &ahead in wanted.iter().take(AHEAD) {
        row(ahead).into_iter().for_each(prefetch);
    }
    for (i, &wanted_row) in wanted.iter().enumerate() {
        if let Some(&ahead) = wanted.get(i + AHEAD) {
            row(ahead).into_iter().for_each(prefetch);
        }
        sums.push(row(wanted_row).map_or(0, &one));
    }
}

const SCALAR: CodeKernels = CodeKernels {
    name: "scalar",
    available: || true,
    one: scalar,
    many: |rows, stride, wanted, query, sums| each_row(rows, stride, wanted, sums, |code| scalar(code, query)),
};

#[cfg(target_arch = "x86_64")]
const CANDIDATES: &[CodeKernels] = &[
    CodeKernels {
        name: "avx512-vnni",
        available: || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
        },
        // SAFETY: kernels are handed out only if they are available, and nothing else calls this.
        one: |code, query| unsafe { x86::avx512_vnni(code, query) },
        // SAFETY: as above.
        many: |rows, stride, wanted, query, sums| unsafe {
            x86::avx512_vnni_rows(rows, stride, wanted, query, sums);
        },
    },
    CodeKernels {
        name: "avx2",
        available: || is_x86_feature_detected!("avx2"),
        // SAFETY: as above.
        one: |code, query| unsafe { x86::avx2(code, query) },
        // SAFETY: as above.
        many: |rows, stride, wanted, query, sums| unsafe { x86::avx2_rows(rows, stride, wanted, query, sums) },
    },
    SCALAR,
];

#[cfg(target_arch = "aarch64")]
const CANDIDATES: &[CodeKernels] = &[
    CodeKernels {
        name: "neon",
        available: || std::arch::is_aarch64_feature_detected!("neon"),
        // SAFETY: kernels are handed out only if they are available, and nothing else calls this.
        one: |code, query| unsafe { arm::neon(code, query) },
        // SAFETY: as above.
        many: |rows, stride, wanted, query, sums| unsafe { arm::neon_rows(rows, stride, wanted, query, sums) },
    },
    SCALAR,
];

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const CANDIDATES: &[CodeKernels] = &[SCALAR];

fn scalar(code: &[u8], query: &[i8]) -> i32 {
    code.iter().zip(query).map(|(&c, &q)| i32::from(c) * i32::from(q)).sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{each_row, scalar};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn avx512_vnni(code: &[u8], query: &[i8]) -> i32 {
        let len = code.len().min(query.len());
        let (code128, code) = code[..len].as_chunks::<128>();
        let (query128, query) = query[..len].as_chunks::<128>();
        let mut sums = [_mm512_setzero_si512(); 2];
        for (c, q) in code128.iter().zip(query128) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `c` and `q` are arrays of 128 bytes, `i` is below 2, and an unaligned load reads 64 of them.
                let (c, q) = unsafe {
                    (
                        _mm512_loadu_si512(c.as_ptr().add(64 * i).cast()),
                        _mm512_loadu_si512(q.as_ptr().add(64 * i).cast()),
                    )
                };
                *sum = _mm512_dpbusd_epi32(*sum, c, q);
            }
        }
        let [mut sum, s1] = sums;
        for (c, q) in code.chunks(64).zip(query.chunks(64)) {
            // `code` and `query` have the same length, and so have their chunks: 1 to 64.
            let mask = u64::MAX >> (64 - c.len());
            // SAFETY: the mask has as many bits as `c` and `q` have elements, and a masked load touches no others.
            let (c, q) = unsafe {
                (_mm512_maskz_loadu_epi8(mask, c.as_ptr().cast()), _mm512_maskz_loadu_epi8(mask, q.as_ptr()))
            };
            sum = _mm512_dpbusd_epi32(sum, c, q);
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(sum, s1))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub fn avx512_vnni_rows(rows: &[u8], stride: usize, wanted: &[u32], query: &[i8], sums: &mut Vec<i32>) {
        each_row(rows, stride, wanted, sums, |code| avx512_vnni(code, query));
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2_rows(rows: &[u8], stride: usize, wanted: &[u32], query: &[i8], sums: &mut Vec<i32>) {
        each_row(rows, stride, wanted, sums, |code| avx2(code, query));
    }

    #[target_feature(enable = "avx2")]
    pub fn avx2(code: &[u8], query: &[i8]) -> i32 {
        let len = code.len().min(query.len());
        let (code32, code) = code[..len].as_chunks::<32>();
        let (query32, query) = query[..len].as_chunks::<32>();
        let mut sums = [_mm256_setzero_si256(); 2];
        for (c, q) in code32.iter().zip(query32) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: `c` and `q` are arrays of 32 bytes, `i` is below 2, and an unaligned load reads 16 of them.
                let (c, q) = unsafe {
                    (_mm_loadu_si128(c.as_ptr().add(16 * i).cast()), _mm_loadu_si128(q.as_ptr().add(16 * i).cast()))
                };
                // As 16-bit numbers, of which two products fit a 32-bit sum; bytes alone would saturate.
                let products = _mm256_madd_epi16(_mm256_cvtepu8_epi16(c), _mm256_cvtepi8_epi16(q));
                *sum = _mm256_add_epi32(*sum, products);
            }
        }
        let sum = _mm256_add_epi32(sums[0], sums[1]);
        let sum = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b00_00_11_10>(sum));
        let sum = _mm_add_epi32(sum, _mm_shuffle_epi32::<0b00_00_00_01>(sum));
        _mm_cvtsi128_si32(sum) + scalar(code, query)
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{each_row, scalar};
    use std::arch::aarch64::*;

    #[target_feature(enable = "neon")]
    pub fn neon_rows(rows: &[u8], stride: usize, wanted: &[u32], query: &[i8], sums: &mut Vec<i32>) {
        each_row(rows, stride, wanted, sums, |code| neon(code, query));
    }

    #[target_feature(enable = "neon")]
    pub fn neon(code: &[u8], query: &[i8]) -> i32 {
        let len = code.len().min(query.len());
        let (code8, code) = code[..len].as_chunks::<8>();
        let (query8, query) = query[..len].as_chunks::<8>();
        let mut sums = [vdupq_n_s32(0); 2];
        for (c, q) in code8.iter().zip(query8) {
            // SAFETY: `c` and `q` are arrays of eight bytes, all that a load reads.
            let (c, q) = unsafe { (vld1_u8(c.as_ptr()), vld1_s8(q.as_ptr())) };
            let (c, q) = (vreinterpretq_s16_u16(vmovl_u8(c)), vmovl_s8(q));
            sums[0] = vmlal_s16(sums[0], vget_low_s16(c), vget_low_s16(q));
            sums[1] = vmlal_high_s16(sums[1], c, q);
        }
        vaddvq_s32(vaddq_s32(sums[0], sums[1])) + scalar(code, query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_gives_the_same_sum_at_every_length() {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for len in (0..=300).chain([384, 768, 1536, 16_384]) {
            let code: Vec<u8> = (0..len).map(|_| next() as u8).collect();
            let query: Vec<i8> = (0..len).map(|_| next() as i8).collect();
            let exact: i64 = code.iter().zip(&query).map(|(&c, &q)| i64::from(c) * i64::from(q)).sum();
            for CodeKernels { name, one, .. } in all_code_kernels() {
                assert_eq!(i64::from(one(&code, &query)), exact, "{name} length {len}");
                // What lies beyond the shorter one does not count.
                let longer = [&code[..], &[255; 70]].concat();
                assert_eq!(i64::from(one(&longer, &query)), exact, "{name} length {len}");
            }
        }
    }

    #[test]
    fn many_rows_give_what_each_gives_and_a_missing_one_nothing() {
        let rows: Vec<u8> = (0..64 * 20).map(|i| (i * 7 % 251) as u8).collect();
        let query: Vec<i8> = (0..64).map(|i| (i * 5 % 127) as i8).collect();
        let wanted: Vec<u32> = (0..20).rev().chain([20, u32::MAX, 3, 3]).collect();
        for CodeKernels { name, one, many, .. } in all_code_kernels() {
            let mut sums = vec![1, 2, 3];
            many(&rows, 64, &wanted, &query, &mut sums);
            let each = |&row: &u32| rows.chunks(64).nth(row as usize).map_or(0, |code| one(code, &query));
            assert_eq!(sums, wanted.iter().map(each).collect::<Vec<_>>(), "{name}");
        }
    }

    #[test]
    fn the_greatest_sum_does_not_overflow() {
        for CodeKernels { name, one, .. } in all_code_kernels() {
            assert_eq!(one(&[255; 16_384], &[127; 16_384]), 16_384 * 255 * 127, "{name}");
            assert_eq!(one(&[255; 16_384], &[-128; 16_384]), -16_384 * 255 * 128, "{name}");
        }
    }
}
