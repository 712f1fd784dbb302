//! From a filter to a way of searching one segment.
//!
//! A graph is walked until enough records are found that the filter takes: the fewer it takes, the longer the walk.
//! Looking at every row costs the same whatever the filter. Both costs are estimated in distances computed, from how
//! many of a few sampled rows are taken, and the cheaper one is chosen. A walk that turns out longer than looking at
//! every row is given up for that, so a bad estimate costs twice the scan at most, and never a hit.

/// How many rows are looked at to guess how many the filter takes.
pub(crate) const SAMPLES: u32 = 128;

/// How to search one segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plan {
    /// Look at every row.
    Scan,
    /// Walk the graph, computing at most so many distances.
    Walk { budget: usize },
}

/// Distances that a walk computes for each candidate it keeps.
const WALK_FACTOR: f64 = 16.0;
/// What it costs to find out whether the filter takes a row, in distances.
const FILTER_COST: f64 = 1.0;

/// `share` is how many of the segment's `rows` are taken, from 0 to 1.
pub(crate) fn choose(rows: u32, share: f64, filtered: bool, ef: usize) -> Plan {
    let rows = f64::from(rows);
    let each = if filtered { FILTER_COST } else { 0.1 };
    let scan = rows * (each + share);
    let walk = (ef as f64 * WALK_FACTOR / share.max(1e-6)).min(rows) * (1.0 + each);
    if walk < scan { Plan::Walk { budget: (scan as usize).max(1) } } else { Plan::Scan }
}

/// Rows spread evenly over a segment, about [`SAMPLES`] of them.
pub(crate) fn sample(rows: u32) -> impl Iterator<Item = u32> {
    (0..rows).step_by((rows / SAMPLES).max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_taken_rows_are_scanned_and_many_are_walked_to() {
        for (rows, share, walks) in [
            (60_000, 1.0, true),
            (60_000, 0.5, true),
            (60_000, 0.1, true),
            (60_000, 0.01, false),
            (60_000, 0.0, false),
            (500, 1.0, false),
            (0, 0.0, false),
        ] {
            let plan = choose(rows, share, true, 64);
            assert_eq!(matches!(plan, Plan::Walk { .. }), walks, "{rows} {share} {plan:?}");
        }
        assert_eq!(choose(60_000, 1.0, true, 10_000), Plan::Scan, "so many candidates are most of the rows");
    }

    #[test]
    fn samples_are_spread_over_all_rows() {
        assert_eq!(sample(0).count(), 0);
        assert_eq!(sample(5).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let rows: Vec<u32> = sample(100_000).collect();
        assert!(rows.len() >= SAMPLES as usize && rows.len() <= 2 * SAMPLES as usize);
        assert!(*rows.last().unwrap() > 99_000);
    }
}
