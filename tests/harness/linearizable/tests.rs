//! Histories of which it is known whether an order exists, by hand and by generation.

use std::sync::{Arc, Mutex};
use std::thread;

use super::records::{Action, Expect, Found, Outcome, Records};
use super::{CallId, End, History, Model, Part, Recorder, STATES_MAX, Verdict, check};
use brute::explains;
use generate::Store;

mod brute;
mod generate;
mod random;

type Row = (u64, u64, u64, Action, End<Outcome>);

/// What a client asked for and was told between two moments.
fn told(client: u64, from: u64, until: u64, action: Action, outcome: Outcome) -> Row {
    (client, from, until, action, End::Ok(outcome))
}

fn unknown(client: u64, from: u64, action: Action) -> Row {
    (client, from, from + 1, action, End::Unknown)
}

fn failed(client: u64, from: u64, until: u64, action: Action) -> Row {
    (client, from, until, action, End::Failed)
}

fn history(rows: &[Row]) -> History<Action, Outcome> {
    History::from_times(rows.to_vec())
}

/// A history, a line for each call, with the events between which it ran.
fn listed(history: &History<Action, Outcome>) -> String {
    let line = |call: &super::Call<Action, Outcome>| {
        let answer = match &call.end {
            End::Ok(outcome) => outcome.to_string(),
            end => format!("{end:?}"),
        };
        format!("client {} {:?}: {} -> {answer}\n", call.client, call.events, call.action)
    };
    history.calls().iter().map(line).collect()
}

fn good(rows: &[Row]) {
    let history = history(rows);
    check::<Records>(&history, STATES_MAX).expect_linearizable("a good history");
    assert!(explains(&history), "the slow checker agrees");
}

fn bad(rows: &[Row]) {
    let history = history(rows);
    let report = check::<Records>(&history, STATES_MAX);
    assert!(report.verdict.is_violation(), "{:?}\n{}", report.verdict, listed(&history));
    assert!(!explains(&history), "the slow checker agrees");
}

fn put(client: u64, from: u64, until: u64, key: &str, value: &str, version: u64) -> Row {
    told(client, from, until, Action::put(key, value), Outcome::written(version))
}

fn get(client: u64, from: u64, until: u64, key: &str, found: Option<(&str, u64)>) -> Row {
    let outcome = found.map_or(Outcome::absent(), |(value, version)| Outcome::record(value, version));
    told(client, from, until, Action::get(key), outcome)
}

#[test]
fn calls_one_after_another_must_agree_with_one_copy() {
    good(&[]);
    good(&[put(0, 1, 2, "a", "x", 5), get(1, 3, 4, "a", Some(("x", 5)))]);
    bad(&[put(0, 1, 2, "a", "x", 5), get(1, 3, 4, "a", Some(("y", 5)))]);
    bad(&[put(0, 1, 2, "a", "x", 5), get(1, 3, 4, "a", Some(("x", 6)))]);
    bad(&[put(0, 1, 2, "a", "x", 5), put(0, 3, 4, "a", "y", 4)]);
    bad(&[put(0, 1, 2, "a", "x", 5), put(0, 3, 4, "a", "y", 5)]);
}

#[test]
fn a_read_beside_a_write_sees_either_state() {
    let first = put(0, 1, 2, "a", "x", 5);
    let second = put(0, 3, 8, "a", "y", 6);
    good(&[first.clone(), second.clone(), get(1, 4, 5, "a", Some(("x", 5)))]);
    good(&[first.clone(), second.clone(), get(1, 4, 5, "a", Some(("y", 6)))]);
    good(&[first.clone(), second.clone(), get(1, 4, 5, "a", Some(("x", 5))), get(1, 6, 7, "a", Some(("y", 6)))]);
    // Once seen, it stays: also for another client, and while the write still runs.
    bad(&[first.clone(), second.clone(), get(1, 4, 5, "a", Some(("y", 6))), get(1, 6, 7, "a", Some(("x", 5)))]);
    bad(&[first, second, get(1, 4, 5, "a", Some(("y", 6))), get(2, 6, 7, "a", Some(("x", 5)))]);
}

#[test]
fn a_stale_read_is_refused_though_each_client_alone_could_be_right() {
    // Sequentially consistent: client 1 could have come first, but it did not.
    bad(&[put(0, 1, 2, "a", "x", 5), get(1, 3, 4, "a", None)]);
    bad(&[put(0, 1, 2, "a", "x", 5), put(0, 3, 4, "a", "y", 6), get(1, 5, 6, "a", Some(("x", 5)))]);
    good(&[put(0, 1, 4, "a", "x", 5), get(1, 3, 5, "a", None)]);
}

#[test]
fn two_clients_do_not_see_two_writes_in_two_orders() {
    let value = |client, from, value| told(client, from, from + 1, Action::get("a"), Outcome::value(value));
    let write = |client, value| {
        let outcome = Outcome::Written { version: None, existed: None };
        told(client, 1, 20, Action::put("a", value), outcome)
    };
    let writes = [write(0, "x"), write(1, "y")];
    good(&[&writes[..], &[value(2, 3, "x"), value(2, 5, "y"), value(3, 4, "x"), value(3, 6, "y")]].concat());
    bad(&[&writes[..], &[value(2, 3, "x"), value(2, 5, "y"), value(3, 4, "y"), value(3, 6, "x")]].concat());
}

#[test]
fn a_lost_update_is_refused() {
    let start = put(0, 1, 2, "a", "0", 5);
    let swap = |client, until, value, version| {
        told(client, 3, until, Action::put_if_version("a", 5, value), Outcome::written(version))
    };
    bad(&[start.clone(), swap(1, 6, "1", 6), swap(2, 7, "2", 7)]);
    let lost = Action::put_if_version("a", 5, "2");
    let refused = |found| told(2, 3, 7, lost.clone(), Outcome::refused(found));
    good(&[start.clone(), swap(1, 6, "1", 6), refused(Expect::Version(6))]);
    bad(&[start.clone(), swap(1, 6, "1", 6), refused(Expect::Absent)]);
    bad(&[start.clone(), swap(1, 6, "1", 6), refused(Expect::Version(5))]);
    bad(&[start, refused(Expect::Version(6))]);
}

#[test]
fn only_one_of_two_inserts_wins() {
    let insert = |client, value, outcome| told(client, 1, 5, Action::put_if_absent("a", value), outcome);
    good(&[insert(0, "x", Outcome::written(5)), insert(1, "y", Outcome::refused(Expect::Version(5)))]);
    good(&[insert(0, "x", Outcome::written(5)), insert(1, "y", Outcome::refused(Expect::Present))]);
    bad(&[insert(0, "x", Outcome::written(5)), insert(1, "y", Outcome::written(6))]);
    bad(&[insert(0, "x", Outcome::refused(Expect::Present)), insert(1, "y", Outcome::refused(Expect::Present))]);
    let delete = |existed| told(2, 2, 4, Action::delete("a"), Outcome::deleted(existed));
    good(&[insert(0, "x", Outcome::written(5)), insert(1, "y", Outcome::written(6)), delete(true)]);
    bad(&[insert(0, "x", Outcome::written(5)), insert(1, "y", Outcome::written(6)), delete(false)]);
}

#[test]
fn a_record_is_deleted_once() {
    let delete = |client, from, existed| told(client, from, from + 9, Action::delete("a"), Outcome::deleted(existed));
    let start = put(0, 1, 2, "a", "x", 5);
    good(&[start.clone(), delete(1, 3, true), delete(2, 4, false)]);
    good(&[start.clone(), delete(1, 3, false), delete(2, 4, true)]);
    bad(&[start.clone(), delete(1, 3, true), delete(2, 4, true)]);
    bad(&[start.clone(), delete(1, 3, false), delete(2, 4, false)]);
    bad(&[start.clone(), delete(1, 3, true), get(0, 20, 21, "a", Some(("x", 5)))]);
    // A version does not come back with the key.
    bad(&[start.clone(), delete(1, 3, true), put(0, 20, 21, "a", "x", 5)]);
    good(&[start, delete(1, 3, true), put(0, 20, 21, "a", "x", 6)]);
}

#[test]
fn a_failed_write_never_comes_back() {
    let start = put(0, 1, 2, "a", "x", 5);
    let write = Action::put("a", "y");
    good(&[start.clone(), failed(1, 3, 4, write.clone()), get(0, 5, 6, "a", Some(("x", 5)))]);
    bad(&[start.clone(), failed(1, 3, 4, write.clone()), get(0, 5, 6, "a", Some(("y", 6)))]);
    good(&[start, unknown(1, 3, write), get(0, 5, 6, "a", Some(("y", 6)))]);
}

#[test]
fn an_unknown_write_appears_late_or_never_but_once() {
    let start = put(0, 1, 2, "a", "x", 5);
    let write = unknown(1, 3, Action::put("a", "y"));
    let old = |from| get(0, from, from + 1, "a", Some(("x", 5)));
    let new = |from| get(2, from, from + 1, "a", Some(("y", 9)));
    good(&[start.clone(), write.clone(), old(5), old(7)]);
    good(&[start.clone(), write.clone(), old(5), old(7), new(100)]);
    bad(&[start.clone(), write.clone(), old(5), new(7), old(9)]);
    // Overwritten, it does not appear again.
    let over = put(0, 10, 11, "a", "z", 12);
    good(&[start.clone(), write.clone(), new(5), over.clone(), get(0, 20, 21, "a", Some(("z", 12)))]);
    bad(&[start.clone(), write.clone(), new(5), over.clone(), new(20)]);
    bad(&[start.clone(), write.clone(), over.clone(), new(20)]);
    good(&[start.clone(), write.clone(), over, get(2, 20, 21, "a", Some(("y", 14)))]);
    // It has one version.
    bad(&[start, write, new(5), get(2, 7, 8, "a", Some(("y", 10)))]);
}

#[test]
fn a_value_from_the_future_is_refused() {
    bad(&[get(0, 1, 2, "a", Some(("x", 5))), put(1, 3, 4, "a", "x", 5)]);
    bad(&[get(0, 1, 2, "a", Some(("x", 5))), unknown(1, 3, Action::put("a", "x"))]);
    bad(&[get(0, 1, 2, "a", Some(("x", 5)))]);
    good(&[get(0, 1, 4, "a", Some(("x", 5))), put(1, 3, 5, "a", "x", 5)]);
}

#[test]
fn unknown_writes_of_one_value_are_told_apart_by_their_versions() {
    let write = |client, from| unknown(client, from, Action::put("a", "x"));
    let seen = |from, version| get(9, from, from + 1, "a", Some(("x", version)));
    good(&[write(0, 1), write(1, 2), seen(5, 7), seen(7, 8)]);
    bad(&[write(0, 1), write(1, 2), seen(5, 8), seen(7, 7)]);
    bad(&[write(0, 1), write(1, 2), seen(5, 7), seen(7, 8), seen(9, 9)]);
    good(&[write(0, 1), write(1, 6), seen(3, 7), seen(5, 8)]);
    bad(&[write(0, 1), write(1, 7), seen(3, 7), seen(5, 8)]);
    // A refusal tells a version without a value.
    let refused = |from, found| {
        told(8, from, from + 1, Action::put_if_version("a", 1, "y"), Outcome::refused(Expect::Version(found)))
    };
    good(&[write(0, 1), refused(3, 7), seen(5, 7)]);
    bad(&[write(0, 1), refused(3, 7), seen(5, 8)]);
    good(&[write(0, 1), write(1, 1), refused(3, 7), seen(5, 8)]);
    bad(&[write(0, 1), write(1, 1), refused(3, 7), put(2, 5, 6, "a", "z", 8), seen(7, 7)]);
    bad(&[put(2, 1, 2, "a", "z", 8), write(0, 3), refused(5, 7)]);
}

#[test]
fn unknown_writes_can_build_on_each_other() {
    let insert = unknown(0, 1, Action::put_if_absent("a", "x"));
    let delete = unknown(1, 2, Action::delete("a"));
    let start = put(2, 0, 1, "a", "s", 5);
    let seen = get(3, 10, 11, "a", Some(("x", 9)));
    good(&[start.clone(), insert.clone(), delete.clone(), seen.clone()]);
    bad(&[start.clone(), insert.clone(), seen.clone()]);
    // The deletion is used up.
    let insert_again = unknown(4, 12, Action::put_if_absent("a", "y"));
    let seen_again = get(3, 20, 21, "a", Some(("y", 12)));
    bad(&[start, insert, delete, seen, insert_again, seen_again]);
}

#[test]
fn a_batch_is_seen_as_a_whole() {
    let both = Action::batch(&[], &[("a", Some("1")), ("b", Some("1"))]);
    let get_both = |from, a: Option<(&str, u64)>, b: Option<(&str, u64)>| {
        let found = |record: Option<(&str, u64)>| record.map(|(value, version)| Found::new(value, version));
        told(5, from, from + 1, Action::get_all(&["a", "b"]), Outcome::Records(vec![found(a), found(b)]))
    };
    let write = told(0, 1, 9, both.clone(), Outcome::written(5));
    good(&[write.clone(), get_both(3, None, None), get_both(5, Some(("1", 5)), Some(("1", 5)))]);
    bad(&[write.clone(), get_both(3, Some(("1", 5)), None)]);
    // One key after the other, by single reads: still one moment.
    bad(&[write.clone(), get(3, 2, 3, "a", Some(("1", 5))), get(3, 4, 5, "b", None)]);
    good(&[write.clone(), get(3, 2, 3, "a", None), get(3, 4, 5, "b", Some(("1", 5)))]);
    // One that nobody answered: what one key shows holds for the other.
    let lost = unknown(0, 1, both);
    good(&[lost.clone(), get(3, 2, 3, "a", Some(("1", 7))), get(3, 4, 5, "b", Some(("1", 7)))]);
    bad(&[lost.clone(), get(3, 2, 3, "a", Some(("1", 7))), get(3, 4, 5, "b", Some(("1", 8)))]);
    bad(&[lost.clone(), get(3, 2, 3, "a", Some(("1", 7))), get(3, 4, 5, "b", None)]);
    bad(&[lost, put(1, 2, 3, "b", "2", 9), get(3, 4, 5, "a", Some(("1", 7))), get(3, 6, 7, "b", Some(("1", 7)))]);
}

#[test]
fn conditions_are_on_the_state_before_the_batch() {
    let move_it = |outcome| {
        let action = Action::batch(&[("a", Expect::Present), ("b", Expect::Absent)], &[("a", None), ("b", Some("1"))]);
        told(0, 3, 4, action, outcome)
    };
    let start = put(1, 1, 2, "a", "1", 5);
    good(&[start.clone(), move_it(Outcome::written(6)), get(1, 5, 6, "a", None), get(1, 7, 8, "b", Some(("1", 6)))]);
    bad(&[start.clone(), move_it(Outcome::written(6)), get(1, 5, 6, "a", Some(("1", 5)))]);
    bad(&[move_it(Outcome::written(6))]);
    good(&[move_it(Outcome::refused(Expect::Absent))]);
    bad(&[start.clone(), move_it(Outcome::refused(Expect::Absent))]);
    let second = Outcome::Refused { condition: 1, found: Expect::Version(7) };
    bad(&[start.clone(), move_it(second.clone())]);
    good(&[start, put(1, 2, 3, "b", "2", 7), move_it(second)]);
}

#[test]
fn keys_that_no_call_joins_are_checked_apart() {
    let rows: Vec<Row> = (0..40).map(|key| put(key, 1, 2, &format!("k{key}"), "x", 5 + key)).collect();
    assert_eq!(check::<Records>(&history(&rows), STATES_MAX).parts, 40);
    // Versions of different parts say nothing about each other: they may lie in different shards.
    good(&[put(0, 1, 2, "a", "x", 9), put(0, 3, 4, "b", "x", 5), get(0, 5, 6, "a", Some(("x", 9)))]);
}

#[test]
fn scans_and_counts_see_one_moment() {
    let start = [put(0, 1, 2, "k/1", "x", 5), put(0, 3, 9, "k/2", "y", 6), put(0, 3, 4, "other", "z", 7)];
    let scan = |from, found: &[(&str, &str, u64)]| {
        let record = |(key, value, version): &(&str, &str, u64)| (key.as_bytes().to_vec(), Found::new(value, *version));
        told(1, from, from + 1, Action::scan("k/"), Outcome::Scanned(found.iter().map(record).collect()))
    };
    let count = |from, count| told(2, from, from + 1, Action::count("k/"), Outcome::Counted(count));
    let with = |rows: &[Row]| [&start[..], rows].concat();
    good(&with(&[scan(5, &[("k/1", "x", 5)]), count(7, 2)]));
    good(&with(&[scan(5, &[("k/1", "x", 5), ("k/2", "y", 6)]), count(7, 2)]));
    bad(&with(&[scan(5, &[("k/1", "x", 5), ("k/2", "y", 6)]), count(7, 1)]));
    bad(&with(&[scan(11, &[("k/1", "x", 5)])]));
    bad(&with(&[scan(11, &[("k/2", "y", 6)])]));
    bad(&with(&[count(5, 3)]));
    bad(&with(&[count(5, 0)]));
}

#[test]
fn answers_that_contradict_themselves_are_refused() {
    let two = Action::get_all(&["a", "b"]);
    bad(&[told(0, 1, 2, two, Outcome::absent())]);
    bad(&[told(0, 1, 2, Action::get("a"), Outcome::written(3))]);
    bad(&[told(0, 1, 2, Action::put("a", "x"), Outcome::refused(Expect::Absent))]);
    let twice = Action::batch(&[], &[("a", Some("x")), ("a", None)]);
    let existed = |second| Outcome::Written { version: Some(5), existed: Some(vec![false, second]) };
    good(&[told(0, 1, 2, twice.clone(), existed(true)), get(0, 3, 4, "a", None)]);
    bad(&[told(0, 1, 2, twice, existed(false))]);
}

#[test]
fn an_explanation_shows_the_order_and_what_does_not_fit() {
    let rows = [
        put(0, 10, 20, "a", "x", 5),
        put(0, 30, 60, "a", "y", 6),
        get(1, 40, 50, "a", Some(("y", 6))),
        unknown(3, 55, Action::put("a", "w")),
        get(2, 70, 80, "a", Some(("x", 5))),
        put(4, 75, 90, "a", "z", 7),
    ];
    let Verdict::Violation(explanation) = check::<Records>(&history(&rows), STATES_MAX).verdict else {
        panic!("the read is stale");
    };
    assert_eq!(explanation.stuck, CallId(4));
    assert_eq!(explanation.prefix, [0, 1, 2].map(CallId));
    assert_eq!(explanation.beside, [CallId(5)]);
    let expected = "\
no order has a place for this call of client 2:
  #4 [70..80] get a -> x (version 5)
calls in one of the longest orders, and then those that have no place in it:
            1. client 0   |-|                     #0 [10..20] put a=x -> done, version 5
            2. client 0       |-------|           #1 [30..60] put a=y -> done, version 6
            3. client 1         |-|               #2 [40..50] get a -> y (version 6)
  does not fit client 2                 |---|     #4 [70..80] get a -> x (version 5)
    beside it client 4                   |---|   #5 [75..90] put a=z -> done, version 7
     no answer client 3             |----------> #3 [55..56] put a=w -> no answer
the state then, in this order or another as long:
  a=y (version 6)
";
    let lines = |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let (found, expected): (Vec<String>, Vec<String>) = (lines(&explanation.to_string()), lines(expected));
    assert_eq!(found, expected, "{explanation}");
}

#[test]
fn work_that_runs_out_is_neither_yes_nor_no() {
    let history = generate::run(&generate::Plan::busy(8, 50, 1), 7);
    let report = check::<Records>(&history, 10);
    assert!(matches!(report.verdict, Verdict::Undecided { .. }), "{:?}", report.verdict);
    assert!(!report.verdict.is_linearizable() && !report.verdict.is_violation());
    let claimed = thread::spawn(move || report.expect_linearizable("a history without an answer")).join();
    assert!(claimed.is_err(), "undecided must not pass");
    // A violation elsewhere is found all the same.
    let mut history = history;
    let id = history.invoke(0, 0, Action::get("zzz"));
    history.ok(id, 0, Outcome::record("from nowhere", 1));
    assert!(check::<Records>(&history, 10).verdict.is_violation());
}

#[test]
fn threads_record_what_a_lock_protects() {
    let recorder = Recorder::new();
    let store = Arc::new(Mutex::new(Store::default()));
    let threads: Vec<_> = (0..4)
        .map(|client| {
            let (recorder, store) = (recorder.clone(), store.clone());
            thread::spawn(move || {
                for number in 0..100 {
                    let action = match number % 3 {
                        0 => Action::put("a", &format!("{client}-{number}")),
                        1 => Action::get("a"),
                        _ => Action::delete("a"),
                    };
                    let id = recorder.invoke(client, action.clone());
                    let outcome = store.lock().expect("no thread panics").call(&action);
                    match number % 20 {
                        3 => recorder.unknown(id),
                        _ => recorder.ok(id, outcome),
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no thread panics"));
    let refused = recorder.invoke(9, Action::put("a", "never sent"));
    recorder.failed(refused);
    let history = recorder.snapshot();
    assert_eq!(history.calls().len(), 401);
    check::<Records>(&history, STATES_MAX).expect_linearizable("what a lock protects");
}

/// A queue as Herlihy and Wing have it, with nothing promised beyond what it does.
struct Queue;

impl Model for Queue {
    type Action = String;
    type Outcome = String;
    type Step = (Option<String>, Option<String>);
    type State = Vec<String>;

    fn parts(history: &History<String, String>) -> Vec<Part<Queue>> {
        let step = |action: &String, outcome: Option<&String>| {
            (action.strip_prefix("enqueue ").map(String::from), outcome.cloned())
        };
        vec![Part::whole(Queue, history, step)]
    }

    fn start(&self) -> Vec<String> {
        Vec::new()
    }

    fn apply(&self, state: &Vec<String>, (enqueued, outcome): &Self::Step) -> Option<Vec<String>> {
        let mut state = state.clone();
        match (enqueued, outcome) {
            (Some(item), _) => state.push(item.clone()),
            (None, _) if state.is_empty() => return None,
            (None, outcome) => {
                let first = state.remove(0);
                if outcome.as_ref().is_some_and(|outcome| *outcome != first) {
                    return None;
                }
            }
        }
        Some(state)
    }

    fn describe(&self, state: &Vec<String>) -> String {
        state.join(" ")
    }
}

#[test]
fn any_model_can_be_checked() {
    let check = |rows: &[(u64, u64, u64, &str, Option<&str>)]| {
        let end = |outcome: Option<&str>| outcome.map_or(End::Unknown, |outcome| End::Ok(outcome.into()));
        let row = |&(client, from, until, action, outcome): &(u64, u64, u64, &str, Option<&str>)| {
            (client, from, until, action.to_string(), end(outcome))
        };
        check::<Queue>(&History::from_times(rows.iter().map(row)), STATES_MAX).verdict
    };
    // Herlihy and Wing, Linearizability, figure 1: H1, H3, H4 are, H2 is not.
    let (x, y, take) = ("enqueue x", "enqueue y", "dequeue");
    let ok = Some("");
    let beside = [(0, 1, 4, x, ok), (1, 2, 3, y, ok)];
    let apart = [(0, 1, 2, x, ok), (1, 3, 4, y, ok)];
    let with = |rows: &[_], more: &[_]| [rows, more].concat();
    let (took_x, took_y) = ((1, 5, 6, take, Some("x")), (0, 5, 7, take, Some("y")));
    assert!(check(&with(&beside, &[took_x, took_y])).is_linearizable());
    assert!(check(&with(&beside, &[took_y])).is_linearizable());
    assert!(check(&with(&apart, &[took_x])).is_linearizable());
    assert!(check(&with(&apart, &[took_y])).is_violation());
    assert!(check(&with(&apart, &[took_x, (2, 8, 9, take, Some("x"))])).is_violation());
    // A dequeue that nobody answered took the first item, or did not.
    let lost = (3, 3, 4, take, None);
    assert!(check(&with(&apart, &[lost, took_y])).is_linearizable());
    assert!(check(&with(&apart, &[lost, took_x])).is_linearizable());
    assert!(check(&with(&apart, &[lost, (4, 8, 9, take, Some("y")), (4, 10, 11, take, Some("x"))])).is_violation());
    // It takes one item, not two.
    let three = with(&apart, &[(2, 5, 6, "enqueue z", ok), lost, (4, 8, 9, take, Some("z"))]);
    assert!(check(&three).is_violation());
}
