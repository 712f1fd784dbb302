//! From a filter to a way of searching one segment.
//!
//! A graph is walked until enough records are found that the filter takes: the fewer it takes, the longer the walk.
//! Looking at every row that the filter may take costs the same wherever they are: little where indexes say which rows
//! these are and they are few, a lot where every row has to be asked. Both costs are estimated in distances computed, and
//! the cheapest one is chosen. In between, where some rows are taken and indexes say which, the graph is walked *past* rows
//! that are not: they are gone through without being compared with. How many rows the filter takes is known where indexes cover it, and else guessed from a few
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
    /// Walk the graph past rows that are not taken, computing at most so many distances.
    Past { budget: usize },
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
    /// The estimated costs, in distances. Going past rows is not always possible.
    Costs { scan: f64, walk: f64, past: Option<f64> },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::ExactAsked => f.write_str("exact search was asked for"),
            Why::NoGraph => f.write_str("too few records for a graph"),
            Why::Costs { scan, walk, past } => {
                write!(f, "looking at the rows costs {scan:.0}, walking the graph {walk:.0}")?;
                past.map_or(Ok(()), |past| write!(f, ", walking it past rows that are not taken {past:.0}"))
            }
        }
    }
}

/// Distances that a walk computes for each candidate it keeps.
pub(crate) const WALK_FACTOR: f64 = 16.0;
/// Hops that a walk past rows takes for each candidate it keeps, and distances that it computes in each.
const PAST_HOPS: f64 = 1.2;
const PAST_DISTANCES: f64 = 24.0;
/// What it costs to read the links of a row that is gone past, and to find out which of those are taken.
const PAST_LINK_COST: f64 = 1.5;
/// What it costs to note that a row is taken, before the walk.
const PAST_ROW_COST: f64 = 0.2;
/// Links of a row, about.
const LINKS: f64 = 32.0;
/// Of fewer taken rows than this share, too few are behind the links of another for a walk to lead to all of them.
const PAST_SHARE_MIN: f64 = 0.02;
/// Of more, nearly every link leads to one.
const PAST_SHARE_MAX: f64 = 0.4;
/// What it costs to look at a row's attributes, in distances.
const ASK_COST: f64 = 1.0;
/// What it costs to find out whether a row is alive and in a set of rows.
const LOOK_COST: f64 = 0.1;
/// What a distance costs in a scan: the rows lie farther apart than what a walk comes to.
const SCAN_COST: f64 = 1.4;

/// The cheaper way.
pub(crate) fn choose(situation: &Situation) -> Choice {
    let Situation { embedded, linked, ef, share, may, asked } = *situation;
    let Some(ef) = ef else { return Choice { plan: Plan::Scan, why: Why::ExactAsked } };
    if !linked {
        return Choice { plan: Plan::Scan, why: Why::NoGraph };
    }
    let rows = f64::from(embedded);
    let each = if asked { ASK_COST } else { LOOK_COST };
    let scan = rows * (may * each + share * SCAN_COST);
    // A walk that comes everywhere is no better than a scan.
    let walk = (ef as f64 * WALK_FACTOR / share.max(1e-6)).min(rows * SCAN_COST) * (1.0 + may * each);
    // Many rows are asked about, so it must be cheap to know which are taken.
    let can_pass = !asked && (PAST_SHARE_MIN..=PAST_SHARE_MAX).contains(&share);
    let passed = (1.0 / share.max(1e-6)).min(LINKS);
    let past = can_pass
        .then_some(ef as f64 * PAST_HOPS * (PAST_DISTANCES + passed * PAST_LINK_COST) + rows * share * PAST_ROW_COST);
    let budget = (scan as usize).max(1);
    let plan = match past {
        Some(past) if past < walk && past < scan => Plan::Past { budget },
        _ if walk < scan => Plan::Walk { budget },
        _ => Plan::Scan,
    };
    Choice { plan, why: Why::Costs { scan, walk, past } }
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
        for (rows, share, expected) in [
            (60_000, 1.0, "Walk"),
            (60_000, 0.5, "Walk"),
            (60_000, 0.1, "Past"),
            (60_000, 0.02, "Scan"),
            (600_000, 0.05, "Past"),
            // Too few to be led to from one another.
            (600_000, 0.01, "Scan"),
        ] {
            let plan = format!("{:?}", choose_for(rows, share, true, 64));
            assert!(plan.starts_with(expected), "{rows} {share} {plan}");
        }
    }

    #[test]
    fn what_leaves_no_choice_is_said() {
        let situation = Situation { embedded: 9, linked: false, ef: Some(64), share: 1.0, may: 1.0, asked: false };
        assert_eq!(choose(&situation), Choice { plan: Plan::Scan, why: Why::NoGraph });
        assert_eq!(choose(&Situation { ef: None, ..situation }).why, Why::ExactAsked);
        let costs = choose(&Situation { linked: true, ..situation }).why;
        assert_eq!(costs.to_string(), "looking at the rows costs 14, walking the graph 14");
        let some = Situation { embedded: 500_000, linked: true, share: 0.05, may: 0.05, ..situation };
        let said = choose(&some).why.to_string();
        assert!(said.contains(", walking it past rows that are not taken "), "{said}");
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
