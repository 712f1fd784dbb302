//! How a search went, into protobuf.

use std::sync::OnceLock;
use std::time::Instant;

use loci_index::view::{Covered, Explanation, Step, Way};
use loci_wire::v1;

/// Nanoseconds since the first call: what searches measure themselves by.
pub fn nanos() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// For a reply. `shard` says which shard a part is in.
pub fn reply(explanation: Explanation, shard: impl Fn(usize) -> u32) -> v1::Explanation {
    let steps = explanation.steps.into_iter().map(|of| step(&shard, of));
    v1::Explanation { steps: steps.collect(), total_nanos: explanation.total_nanos }
}

fn step(shard: impl Fn(usize) -> u32, step: Step) -> v1::SearchStep {
    let way = match step.way {
        Way::Scan => v1::SearchWay::Scan,
        Way::Walk => v1::SearchWay::Walk,
        Way::WalkThenScan => v1::SearchWay::WalkThenScan,
        Way::Lists => v1::SearchWay::Lists,
        Way::WalkPast => v1::SearchWay::WalkPast,
    };
    let cover = match step.covered {
        Covered::Unfiltered => v1::FilterCover::Unfiltered,
        Covered::Whole => v1::FilterCover::Whole,
        Covered::Part => v1::FilterCover::Part,
        Covered::Nothing => v1::FilterCover::Nothing,
    };
    v1::SearchStep {
        segment: step.segment,
        rows: step.rows,
        way: way.into(),
        why: step.why,
        cover: cover.into(),
        estimated_share: step.estimated,
        actual_share: step.actual,
        asked: step.asked,
        codes_read: step.codes,
        vectors_read: step.vectors,
        hops: step.hops,
        filter_nanos: step.filter_nanos,
        plan_nanos: step.plan_nanos,
        find_nanos: step.find_nanos,
        shard: shard(step.part),
    }
}
