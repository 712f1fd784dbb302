//! How a search went, for people and for scripts.

use loci_client::{Cover, Explanation, Step, Way};
use serde_json::{Value as Json, json};

use super::output::{Rows, grouped, time_shown};

fn way_name(way: Way) -> &'static str {
    match way {
        Way::Scan => "scan",
        Way::Walk => "walk",
        Way::WalkThenScan => "walk, then scan",
        Way::Lists => "lists",
        Way::WalkPast => "walk past",
        Way::Other => "other",
    }
}

fn cover_name(cover: Cover) -> &'static str {
    match cover {
        Cover::Unfiltered => "no filter",
        Cover::Whole => "index",
        Cover::Part => "index in part",
        Cover::Nothing => "each row",
        Cover::Other => "other",
    }
}

fn share_shown(share: f64) -> String {
    match share * 100.0 {
        percent if percent >= 10.0 => format!("{percent:.0} %"),
        percent if percent >= 0.1 || percent == 0.0 => format!("{percent:.1} %"),
        percent => format!("{percent:.3} %"),
    }
}

/// The shard is worth saying where there are several.
fn part_shown(step: &Step, several: bool) -> String {
    let part = step.segment.map_or_else(|| "memory".to_owned(), |segment| format!("segment {segment}"));
    if several { format!("shard {}, {part}", step.shard) } else { part }
}

/// One table of what was done, and below it why.
pub fn shown(explanation: &Explanation) -> String {
    let mut rows = Rows::new(&[
        "part",
        ">rows",
        "way",
        "filter by",
        ">expected",
        ">taken",
        ">codes",
        ">vectors",
        ">hops",
        ">filter",
        ">plan",
        ">find",
    ]);
    let several = explanation.steps.windows(2).any(|pair| pair[0].shard != pair[1].shard);
    for step in &explanation.steps {
        rows.push([
            part_shown(step, several),
            grouped(step.rows),
            way_name(step.way).to_owned(),
            cover_name(step.cover).to_owned(),
            share_shown(step.estimated_share),
            share_shown(step.actual_share),
            grouped(step.codes_read),
            grouped(step.vectors_read),
            grouped(step.hops),
            time_shown(step.filter),
            time_shown(step.plan),
            time_shown(step.find),
        ]);
    }
    let reasons = explanation.steps.iter().map(|step| format!("\n{}: {}", part_shown(step, several), step.why));
    let steps: std::time::Duration = explanation.steps.iter().map(|step| step.filter + step.plan + step.find).sum();
    let rest = explanation.total.saturating_sub(steps);
    let total =
        format!("\nin all {}, {} of it to put the hits together", time_shown(explanation.total), time_shown(rest));
    format!("{}{}{total}", rows.text(), reasons.collect::<String>())
}

/// The same as JSON.
pub fn to_json(explanation: &Explanation) -> Json {
    let step = |step: &Step| {
        json!({
            "shard": step.shard,
            "segment": step.segment,
            "rows": step.rows,
            "way": way_name(step.way),
            "why": step.why,
            "filter_by": cover_name(step.cover),
            "estimated_share": step.estimated_share,
            "actual_share": step.actual_share,
            "asked": step.asked,
            "codes_read": step.codes_read,
            "vectors_read": step.vectors_read,
            "hops": step.hops,
            "filter_micros": step.filter.as_nanos() as f64 / 1e3,
            "plan_micros": step.plan.as_nanos() as f64 / 1e3,
            "find_micros": step.find.as_nanos() as f64 / 1e3,
        })
    };
    let steps: Vec<Json> = explanation.steps.iter().map(step).collect();
    json!({ "steps": steps, "total_micros": explanation.total.as_nanos() as f64 / 1e3 })
}
