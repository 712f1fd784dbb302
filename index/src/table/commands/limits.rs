//! Limits: how often something may be done, decided and counted in one call.
//!
//! ```text
//!   RL.BUCKET key capacity refill-per-second [cost]       a bucket of tokens that fills steadily
//!   RL.WINDOW key limit window-milliseconds [cost]        so much within any window that ends now
//!   --> allowed (1 or 0), how much is left, milliseconds until it may be tried again (-1: never), and until all is there
//! ```
//!
//! A cost of zero only asks. What is refused is not counted. The key goes by itself once the limiter would say what a new
//! one says. The rule comes with each call, so that it may change while the key is there.

use super::super::call::Call;
use super::super::keyspace::{At, Keyspace};
use super::{DENYOOM, Done, FAST, Failure, Keys, Run, Spec, WRITE, int};
use crate::table::objects::Limiter;
use crate::table::objects::limiter::{BucketRule, TOKEN, Verdict, WindowRule};

const ONE: Keys = Keys::Range(1, 1, 1);
/// The most of anything that a rule may say: enough for all, and no sum of it overflows.
const AMOUNT_MAX: i64 = 1 << 40;
/// Digits after the point of a rate.
const RATE_DIGITS: usize = 3;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "rl.bucket", arity: -4, flags: WRITE | DENYOOM | FAST, keys: ONE, run: Run::Write(bucket) },
    Spec { name: "rl.window", arity: -4, flags: WRITE | DENYOOM | FAST, keys: ONE, run: Run::Write(window) },
];

fn amount(text: &[u8], least: i64, what: &str) -> Result<u64, Failure> {
    let given = int(text)?;
    if (least..=AMOUNT_MAX).contains(&given) {
        return Ok(given as u64);
    }
    Err(format!("ERR {what} must be from {least} to {AMOUNT_MAX}").into())
}

fn cost(call: &Call<'_>) -> Result<u64, Failure> {
    match call.args[4..] {
        [] => Ok(1),
        [cost] => amount(cost, 0, "the cost"),
        _ => Err(Failure::Syntax),
    }
}

/// Tokens each second, with up to three digits after the point, as what flows in each millisecond.
fn rate(text: &[u8]) -> Result<u64, Failure> {
    let invalid = || Failure::from("ERR the rate must be above zero, with at most three digits after the point");
    let (whole, part) = match text.iter().position(|byte| *byte == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b"0"[..]),
    };
    if part.is_empty() || part.len() > RATE_DIGITS || !part.iter().all(u8::is_ascii_digit) {
        return Err(invalid());
    }
    let whole = amount(whole, 0, "the rate")?;
    let digits = part.iter().chain(std::iter::repeat(&b'0')).take(RATE_DIGITS);
    let part = digits.fold(0, |part, digit| part * 10 + u64::from(digit - b'0'));
    // A thousandth of a token a second is one unit a millisecond.
    const { assert!(TOKEN == 1_000 * 1_000) };
    Some(whole * 1_000 + part).filter(|rate| *rate > 0).ok_or_else(invalid)
}

fn reply(call: &mut Call<'_>, verdict: Verdict) {
    call.out.array(4);
    call.out.flag(verdict.allowed);
    call.out.int(verdict.remaining as i64);
    call.out.int(verdict.retry_after.map_or(-1, |after| after as i64));
    call.out.int(i64::try_from(verdict.reset_after).unwrap_or(i64::MAX));
}

fn bucket(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, now) = (call.args[1], call.now);
    let capacity = amount(call.args[2], 1, "the capacity")?;
    let (rule, cost) = (BucketRule { capacity, refill: rate(call.args[3])? }, cost(call)?);
    let found = match keyspace.object::<Limiter>(key, now)? {
        Some(limiter) => Some(limiter.as_bucket().ok_or(Failure::WrongType)?),
        None => None,
    };
    let (verdict, used) = rule.ask(found, cost, now);
    if verdict.allowed && cost > 0 {
        let deadline = now.saturating_add(verdict.reset_after);
        let at = call.at();
        keyspace.keeping_tags(key, at, |keyspace| keyspace.put(key, Limiter::bucket(used, now), deadline, at));
    }
    reply(call, verdict);
    Ok(())
}

fn window(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (key, now) = (call.args[1], call.now);
    let limit = amount(call.args[2], 1, "the limit")?;
    let millis = amount(call.args[3], 1, "the window")?;
    let (rule, cost) = (WindowRule { limit, millis }, cost(call)?);
    let verdict = match keyspace.object::<Limiter>(key, now)? {
        Some(limiter) if !limiter.is_window() => return Err(Failure::WrongType),
        Some(limiter) => limiter.ask(rule, cost, now),
        None => Limiter::window().ask(rule, cost, now),
    };
    if verdict.allowed && cost > 0 {
        take(keyspace, key, rule, cost, call.at())?;
    }
    reply(call, verdict);
    Ok(())
}

fn take(keyspace: &mut Keyspace, key: &[u8], rule: WindowRule, cost: u64, at: At) -> Result<(), Failure> {
    let end = keyspace.edit(key, at, |limiter: &mut Limiter| (limiter.take(rule, cost, at.now), true))?;
    match end {
        Some(end) => {
            keyspace.set_deadline(key, end, at);
        }
        None => {
            let mut limiter = Limiter::window();
            let end = limiter.take(rule, cost, at.now);
            keyspace.put(key, limiter, end, at);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    #[test]
    fn limits_are_kept() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("RL.BUCKET k 3 1", "[(integer) 1 (integer) 2 (integer) 0 (integer) 1000]"),
            ("RL.BUCKET k 3 1 2", "[(integer) 1 (integer) 0 (integer) 0 (integer) 3000]"),
            ("RL.BUCKET k 3 1 2", "[(integer) 0 (integer) 0 (integer) 2000 (integer) 3000]"),
            ("RL.BUCKET k 3 0.5 0", "[(integer) 1 (integer) 0 (integer) 0 (integer) 6000]"),
            ("RL.BUCKET k 3 1 4", "[(integer) 0 (integer) 0 (integer) -1 (integer) 3000]"),
            ("PTTL k", "(integer) 3000"),
            ("TYPE k", "limiter"),
            ("OBJECT ENCODING k", r#""bucket""#),
            ("RL.WINDOW k 3 1000", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("RL.WINDOW w 3 1000 2", "[(integer) 1 (integer) 1 (integer) 0 (integer) 1000]"),
            ("RL.WINDOW w 3 1000", "[(integer) 1 (integer) 0 (integer) 0 (integer) 1000]"),
            ("RL.WINDOW w 3 1000", "[(integer) 0 (integer) 0 (integer) 1000 (integer) 1000]"),
            ("RL.WINDOW w 3 1000 4", "[(integer) 0 (integer) 0 (integer) -1 (integer) 1000]"),
            ("RL.WINDOW w 3 1000 0", "[(integer) 1 (integer) 0 (integer) 0 (integer) 1000]"),
            ("PTTL w", "(integer) 1000"),
            ("RL.BUCKET w 3 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("RL.BUCKET n 0 1", "(error) ERR the capacity must be from 1 to 1099511627776"),
            ("RL.BUCKET n 3 0", "(error) ERR the rate must be above zero, with at most three digits after the point"),
            (
                "RL.BUCKET n 3 0.0001",
                "(error) ERR the rate must be above zero, with at most three digits after the point",
            ),
            ("RL.BUCKET n 3 x", "(error) ERR value is not an integer or out of range"),
            ("RL.BUCKET n 3 1 -1", "(error) ERR the cost must be from 0 to 1099511627776"),
            ("RL.WINDOW n 3 0", "(error) ERR the window must be from 1 to 1099511627776"),
            ("RL.WINDOW n 3 1000 1 1", "(error) ERR syntax error"),
            ("EXISTS n", "(integer) 0"),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }

    #[test]
    fn a_limiter_lets_through_again_when_it_said_and_then_goes() {
        let mut trial = Trial::new();
        assert_eq!(trial.line("RL.BUCKET k 1 2"), "[(integer) 1 (integer) 0 (integer) 0 (integer) 500]");
        trial.now += 499;
        assert_eq!(trial.line("RL.BUCKET k 1 2"), "[(integer) 0 (integer) 0 (integer) 1 (integer) 1]");
        trial.now += 1;
        assert_eq!(trial.line("EXISTS k"), "(integer) 0");
        assert_eq!(trial.line("RL.BUCKET k 1 2"), "[(integer) 1 (integer) 0 (integer) 0 (integer) 500]");
        assert_eq!(trial.line("RL.WINDOW w 1 500"), "[(integer) 1 (integer) 0 (integer) 0 (integer) 500]");
        trial.now += 500;
        assert_eq!(trial.line("EXISTS w"), "(integer) 0");
    }
}
