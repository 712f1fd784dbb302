//! From a filter to a way of searching one segment.
//!
//! A graph is walked until enough records are found that the filter takes: the fewer it takes, the longer the walk.
//! Looking at every row that the filter may take costs the same wherever they are: little where indexes say which rows
//! these are and they are few, a lot where every row has to be asked. Both costs are estimated in distances computed, and
//! the cheaper one is chosen. How many rows the filter takes is known where indexes cover it, and else guessed from a few
//! rows spread over those that it may take. A walk that turns out longer than looking at the rows is given up for that, so
//! a bad estimate costs twice the scan at most, and never a hit.

use std::fmt;

/// How many rows are looked at to guess how many the filter takes.
pub(crate) const SAMPLES: u32 = 128;

/// How to search one segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Plan {
    /// Look at every row that may be taken.
    Scan,
    /// Walk the graph, computing at most so many distances.
    Walk { budget: usize },
}

/// What is known of a segment and of what is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Situation {
    /// Rows with an embedding.
    pub embedded: u32,
    /// Whether these are linked in a graph.
    pub linked: bool,
    /// Candidates to keep, or, for an exact search, none.
    pub ef: Option<usize>,
    /// The share of rows that are taken, from 0 to 1: alive, and taken by the filter.
    pub share: f64,
    /// The share of rows that may be taken: those that a scan looks at.
    pub may: f64,
    /// Whether each of those has to be asked.
    pub asked: bool,
}

/// What a way costs, in distances, and why it was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    pub plan: Plan,
    pub why: Why,
}

/// Why a plan was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Why {
    /// The caller wants every row compared.
    ExactAsked,
    /// There is nothing to walk on.
    NoGraph,
    /// The estimated costs, in distances.
    Costs { scan: f64, walk: f64 },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::ExactAsked => f.write_str("exact search was asked for"),
            Why::NoGraph => f.write_str("too few records for a graph"),
            Why::Costs { scan, walk } if scan <= walk => {
                write!(f, "looking at the rows costs {scan:.0}, walking the graph {walk:.0}")
            }
            Why::Costs { scan, walk } => write!(f, "walking the graph costs {walk:.0}, looking at the rows {scan:.0}"),
        }
    }
}

/// Distances that a walk computes for each candidate it keeps.
const WALK_FACTOR: f64 = 16.0;
/// What it costs to look at a row's attributes, in distances.
const ASK_COST: f64 = 1.0;
/// What it costs to find out whether a row is alive and in a set of rows.
const LOOK_COST: f64 = 0.1;

/// The cheaper way.
pub(crate) fn choose(situation: &Situation) -> Choice {
    let Situation { embedded, linked, ef, share, may, asked } = *situation;
    let Some(ef) = ef else { return Choice { plan: Plan::Scan, why: Why::ExactAsked } };
    if !linked {
        return Choice { plan: Plan::Scan, why: Why::NoGraph };
    }
    let rows = f64::from(embedded);
    let each = if asked { ASK_COST } else { LOOK_COST };
    let scan = rows * (may * each + share);
    let walk = (ef as f64 * WALK_FACTOR / share.max(1e-6)).min(rows) * (1.0 + may * each);
    let plan = if walk < scan { Plan::Walk { budget: (scan as usize).max(1) } } else { Plan::Scan };
    Choice { plan, why: Why::Costs { scan, walk } }
}

/// Rows spread evenly over so many, about [`SAMPLES`] of them.
pub(crate) fn sample(rows: u32) -> impl Iterator<Item = u32> {
    (0..rows).step_by((rows / SAMPLES).max(1) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_for(embedded: u32, share: f64, indexed: bool, ef: usize) -> Plan {
        let may = if indexed { share } else { 1.0 };
        choose(&Situation { embedded, linked: true, ef: Some(ef), share, may, asked: !indexed }).plan
    }

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
            let plan = choose_for(rows, share, false, 64);
            assert_eq!(matches!(plan, Plan::Walk { .. }), walks, "{rows} {share} {plan:?}");
        }
        assert_eq!(choose_for(60_000, 1.0, false, 10_000), Plan::Scan, "so many candidates are most of the rows");
    }

    #[test]
    fn rows_that_indexes_name_are_looked_at_sooner() {
        for (rows, share, walks) in
            [(60_000, 0.5, true), (60_000, 0.1, false), (600_000, 0.1, true), (600_000, 0.01, false)]
        {
            let plan = choose_for(rows, share, true, 64);
            assert_eq!(matches!(plan, Plan::Walk { .. }), walks, "{rows} {share} {plan:?}");
        }
    }

    #[test]
    fn what_leaves_no_choice_is_said() {
        let situation = Situation { embedded: 9, linked: false, ef: Some(64), share: 1.0, may: 1.0, asked: false };
        assert_eq!(choose(&situation), Choice { plan: Plan::Scan, why: Why::NoGraph });
        assert_eq!(choose(&Situation { ef: None, ..situation }).why, Why::ExactAsked);
        let costs = choose(&Situation { linked: true, ..situation }).why;
        assert_eq!(costs.to_string(), "looking at the rows costs 10, walking the graph 10");
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
