//! The fast checker against the slow one, on thousands of small histories, and on long ones that it must get through.

use super::super::records::{Action, Found, Outcome, Records};
use super::super::{End, History, STATES_MAX, Verdict, check};
use super::brute::explains;
use super::generate::{Plan, run};
use super::listed;
use crate::chance::Chance;
use crate::{seed, setting};

fn small(chance: &mut Chance) -> Plan {
    let clients = 2 + chance.below(2);
    Plan {
        clients,
        calls: 6 / clients,
        keys: 1 + chance.below(3),
        values: [0, 1, 2][chance.index(3)],
        lost: [0, 20, 50][chance.index(3)],
        wide: [0, 30, 60][chance.index(3)],
        untold: [0, 0, 30][chance.index(3)],
        slow: 5,
    }
}

/// Another history: an answer, an end or a moment is no longer what it was.
fn mutate(history: &History<Action, Outcome>, chance: &mut Chance) -> History<Action, Outcome> {
    // Odd moments lie between events.
    let row = |call: &super::super::Call<Action, Outcome>| {
        let until = if call.events.1 == u64::MAX { u64::MAX } else { call.events.1 * 2 };
        (call.client, call.events.0 * 2, until, call.action.clone(), call.end.clone())
    };
    let mut rows: Vec<_> = history.calls().iter().map(row).collect();
    let others: Vec<End<Outcome>> = rows.iter().map(|row| row.4.clone()).collect();
    let (_, from, until, _, end) = &mut rows[chance.index(others.len())];
    match chance.below(6) {
        0 if *until != u64::MAX => {
            let moved = *from + 1 + chance.below(*until - *from);
            if chance.percent(50) { *until = moved.max(*from) } else { *from = moved.min(*until) }
        }
        1 => *end = others[chance.index(others.len())].clone(),
        2 if chance.percent(30) => *end = End::Failed,
        _ => match end {
            End::Ok(Outcome::Records(records)) => {
                let record = &mut records[0];
                *record = match record.take() {
                    Some(_) if chance.percent(30) => None,
                    Some(found) if chance.percent(50) => Some(Found { version: Some(1 + chance.below(8)), ..found }),
                    found => Some(Found {
                        value: Some(format!("v{}", chance.below(6)).into()),
                        version: found.and_then(|found| found.version).or(Some(1 + chance.below(8))),
                    }),
                };
            }
            End::Ok(Outcome::Scanned(records)) => drop(records.pop()),
            End::Ok(Outcome::Counted(count)) => *count += 1,
            End::Ok(Outcome::Written { version, existed }) => match existed {
                Some(existed) if chance.percent(50) => existed[0] = !existed[0],
                _ => *version = Some(1 + chance.below(8)),
            },
            End::Ok(refused) => *refused = Outcome::written(1 + chance.below(8)),
            other => *other = End::Failed,
        },
    }
    History::from_times(rows)
}

#[test]
fn the_fast_checker_agrees_with_the_slow_one() {
    let seed = seed();
    let (mut accepted, mut refused) = (0u32, 0u32);
    for number in 0..setting("LOCI_HISTORIES", 4_000) {
        let mut chance = Chance::new(seed.wrapping_add(number));
        let plan = small(&mut chance);
        let mut history = run(&plan, chance.next_u64());
        let sure = check::<Records>(&history, STATES_MAX);
        assert!(sure.verdict.is_linearizable(), "seed {seed} + {number}: {:?}\n{}", sure.verdict, listed(&history));
        for _ in 0..1 + chance.below(3) {
            history = mutate(&history, &mut chance);
        }
        let expected = explains(&history);
        let verdict = check::<Records>(&history, STATES_MAX).verdict;
        let agrees = if expected { verdict.is_linearizable() } else { verdict.is_violation() };
        assert!(agrees, "seed {seed} + {number}: {expected}, {verdict:?}\n{}", listed(&history));
        *if expected { &mut accepted } else { &mut refused } += 1;
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(
        accepted.min(refused) * 10 > accepted.max(refused),
        "{accepted} accepted, {refused} refused: too one-sided"
    );
}

/// Loads whose histories a simulation would make, and calls of each client.
fn long(calls: u64) -> Vec<(&'static str, Plan)> {
    let busy = Plan::busy(10, calls, 4);
    vec![
        ("4 keys", busy.clone()),
        ("1 key", Plan { keys: 1, ..busy.clone() }),
        ("4 keys, 5 values", Plan { values: 5, ..busy.clone() }),
        ("4 keys, some answers without versions", Plan { untold: 20, ..busy.clone() }),
        ("8 keys, joined by batches", Plan { keys: 8, wide: 10, ..busy }),
    ]
}

#[test]
fn long_histories_are_decided() {
    let seed = seed();
    for (name, plan) in long(setting("LOCI_CALLS", 100)) {
        let history = run(&plan, seed);
        let began = std::time::Instant::now();
        let report = check::<Records>(&history, STATES_MAX);
        let took = began.elapsed();
        let rate = report.calls as f64 / took.as_secs_f64();
        println!("{name}: {} calls, {} states, {took:.1?}, {rate:.0} calls/s", report.calls, report.states);
        // With many keys in one part the work may run out, and then it must say so.
        match report.verdict {
            Verdict::Undecided { .. } if plan.wide > 0 => println!("{name}: undecided"),
            _ => report.expect_linearizable(&format!("seed {seed}, {name}")),
        }
    }
}

#[test]
fn one_stale_read_in_a_long_history_is_found() {
    let seed = seed();
    let mut found = 0;
    for (name, plan) in long(setting("LOCI_CALLS", 100)) {
        let history = run(&plan, seed);
        // A read late in the history is told what a read of the same key was told long before and is no longer so.
        let told = |call: &super::super::Call<Action, Outcome>| match (&call.action, call.outcome()) {
            (Action::Get(keys), Some(Outcome::Records(records))) if keys.len() == 1 => {
                Some((keys[0].clone(), records[0].clone()?.version?))
            }
            _ => None,
        };
        let calls = history.calls();
        let early = (0..calls.len()).find(|number| told(&calls[*number]).is_some()).expect("there are gets");
        let (key, version) = told(&calls[early]).expect("it is one");
        let late = (0..calls.len())
            .rfind(|number| told(&calls[*number]).is_some_and(|(other, newer)| other == key && newer > version));
        let late = late.expect("there are later ones");
        let rows: Vec<_> = (0..)
            .zip(calls)
            .map(|(number, call)| {
                let end = if number == late { calls[early].end.clone() } else { call.end.clone() };
                (call.client, call.events.0, call.events.1, call.action.clone(), end)
            })
            .collect();
        let began = std::time::Instant::now();
        let report = check::<Records>(&History::from_times(rows), STATES_MAX);
        let took = began.elapsed();
        println!("{name}: {} calls, {} states, {took:.1?}", report.calls, report.states);
        match &report.verdict {
            Verdict::Linearizable => panic!("seed {seed}, {name}: call {late} reads what call {early} read"),
            Verdict::Violation(explanation) => {
                assert!(explanation.prefix.len() > 10, "{explanation}");
                found += 1;
            }
            Verdict::Undecided { .. } => println!("{name}: undecided"),
        }
    }
    // To know that there is no order, all must be tried, and where values are many and answers few the work may run out.
    assert!(found >= 2, "seed {seed}: found in {found} of the loads only");
}
