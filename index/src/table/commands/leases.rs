//! Leases: one holder at a time, and a number by which whoever held one before is told apart.
//!
//! ```text
//!   LEASE.ACQUIRE name holder milliseconds   --> the number, larger than any that was given for this name; null: another holds it
//!   LEASE.RENEW name number milliseconds     --> 1 if it is held under this number, and is from now on for so long
//!   LEASE.RELEASE name number                --> 1 if it was held under this number, and is not any more
//!   LEASE.GET name                           --> holder, number, milliseconds left; null: nobody holds it
//!   LEASE.FENCE name number [name number ..] --> OK if all are held under these numbers; a guard: see `guards`
//! ```
//!
//! A lease is a key with a deadline, by the log's clock. Whoever asks for one that it holds gets a new number, and the old
//! one counts no more: an answer that was lost does no harm, and neither do two processes that call themselves the same.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::{DENYOOM, Done, FAST, Failure, GUARD, Keys, NOSCRIPT, READONLY, Run, Spec, WRITE, int};
use crate::table::guards;
use crate::table::objects::Lease;

const ONE: Keys = Keys::Range(1, 1, 1);
/// The longest time of a lease: more than thirty years.
const MILLIS_MAX: i64 = 1 << 40;
/// The longest name of a holder.
const HOLDER_BYTES_MAX: usize = 1_024;

pub(super) const SPECS: &[Spec] = &[
    // All calls of a script have one position, and so would its leases have one number.
    Spec {
        name: "lease.acquire",
        arity: 4,
        flags: WRITE | DENYOOM | FAST | NOSCRIPT,
        keys: ONE,
        run: Run::Write(acquire),
    },
    Spec { name: "lease.renew", arity: 4, flags: WRITE | FAST, keys: ONE, run: Run::Write(renew) },
    Spec { name: "lease.release", arity: 3, flags: WRITE | FAST, keys: ONE, run: Run::Write(release) },
    Spec { name: "lease.get", arity: 2, flags: READONLY | FAST, keys: ONE, run: Run::Read(get) },
    Spec { name: "lease.fence", arity: -3, flags: READONLY | FAST | GUARD, keys: guards::KEYS, run: Run::Read(guard) },
];

fn until(call: &Call<'_>) -> Result<u64, Failure> {
    let millis = int(call.args[3])?;
    if !(1..=MILLIS_MAX).contains(&millis) {
        return Err(format!("ERR the time of a lease must be from 1 to {MILLIS_MAX} milliseconds").into());
    }
    Ok(call.now.saturating_add(millis as u64))
}

fn acquire(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (name, holder, until) = (call.args[1], call.args[2], until(call)?);
    if holder.is_empty() || holder.len() > HOLDER_BYTES_MAX {
        return Err(format!("ERR a holder has a name of 1 to {HOLDER_BYTES_MAX} bytes").into());
    }
    if keyspace.object::<Lease>(name, call.now)?.is_some_and(|lease| lease.holder() != holder) {
        call.out.null();
        return Ok(());
    }
    keyspace.put(name, Lease::new(call.version, holder), until, call.at());
    keyspace.notify(b'g', "lease.acquire", name);
    call.out.int(call.version as i64);
    Ok(())
}

/// Whether the lease that a call names is held under the number that it gives.
fn is_held(keyspace: &Keyspace, call: &Call<'_>) -> Result<bool, Failure> {
    let number = guards::number_of(call.args[2])?;
    Ok(keyspace.object::<Lease>(call.args[1], call.now)?.is_some_and(|lease| lease.number() == number))
}

fn renew(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (until, held) = (until(call)?, is_held(keyspace, call)?);
    if held {
        keyspace.set_deadline(call.args[1], until, call.at());
        keyspace.notify(b'g', "expire", call.args[1]);
    }
    call.out.flag(held);
    Ok(())
}

fn release(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let held = is_held(keyspace, call)?;
    if held && keyspace.remove(call.args[1], call.at()) {
        keyspace.notify(b'g', "del", call.args[1]);
    }
    call.out.flag(held);
    Ok(())
}

fn get(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let (name, now) = (call.args[1], call.now);
    let Some(lease) = keyspace.object::<Lease>(name, now)? else {
        call.out.null_array();
        return Ok(());
    };
    call.out.map(3);
    call.out.bulk(b"holder");
    call.out.bulk(lease.holder());
    call.out.bulk(b"number");
    call.out.int(lease.number() as i64);
    call.out.bulk(b"milliseconds");
    let deadline = keyspace.deadline(name, now).unwrap_or(0);
    call.out.int(if deadline == 0 { -1 } else { deadline.saturating_sub(now) as i64 });
    Ok(())
}

/// What a guard says alone.
pub(super) fn guard(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let spec = guards::find(call.args).ok_or(Failure::Syntax)?;
    match guards::unmet(keyspace, spec, call.args, call.now) {
        Some(unmet) => Err(unmet.into()),
        None => {
            call.out.ok();
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::Trial;

    #[test]
    fn one_holds_a_lease_at_a_time_and_every_number_is_larger_than_the_last() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("LEASE.ACQUIRE l a 100", "(integer) 65536"),
            ("LEASE.ACQUIRE l b 100", "(nil)"),
            ("LEASE.FENCE l 65536", "OK"),
            ("LEASE.FENCE l 65537", r#"(error) FENCED lease "l" is held under number 65536, not 65537"#),
            ("LEASE.GET l", r#"{"holder" "a" "number" (integer) 65536 "milliseconds" (integer) 100}"#),
            ("LEASE.ACQUIRE l a 200", "(integer) 393216"),
            ("LEASE.RENEW l 65536 500", "(integer) 0"),
            ("PTTL l", "(integer) 200"),
            ("LEASE.RENEW l 393216 500", "(integer) 1"),
            ("PTTL l", "(integer) 500"),
            ("LEASE.RELEASE l 65536", "(integer) 0"),
            ("TYPE l", "lease"),
            ("LEASE.RELEASE l 393216", "(integer) 1"),
            ("LEASE.RELEASE l 393216", "(integer) 0"),
            ("LEASE.FENCE l 393216", r#"(error) FENCED lease "l" is not held, number 393216 no longer counts"#),
            ("LEASE.ACQUIRE l b 100", "(integer) 1048576"),
            ("DEL l", "(integer) 1"),
            ("LEASE.FENCE l 1048576", r#"(error) FENCED lease "l" is not held, number 1048576 no longer counts"#),
            ("LEASE.ACQUIRE l b 100", "(integer) 1245184"),
            ("SET l x", "OK"),
            ("LEASE.FENCE l 1245184", r#"(error) FENCED lease "l" is not held, number 1245184 no longer counts"#),
            ("LEASE.ACQUIRE l b 9", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("LEASE.ACQUIRE m b 0", "(error) ERR the time of a lease must be from 1 to 1099511627776 milliseconds"),
            ("LEASE.ACQUIRE m b x", "(error) ERR value is not an integer or out of range"),
            ("LEASE.ACQUIRE m  9", "(error) ERR a holder has a name of 1 to 1024 bytes"),
            ("LEASE.FENCE m 0", r#"(error) FENCED lease "m" is not held, number 0 no longer counts"#),
            ("LEASE.FENCE m 1 n", "(error) ERR wrong number of arguments for 'lease.fence' command"),
            ("LEASE.GET m", "(nil)"),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
    }

    #[test]
    fn a_lease_is_over_at_its_time_and_another_may_have_it() {
        let mut trial = Trial::new();
        assert_eq!(trial.line("LEASE.ACQUIRE l a 100"), "(integer) 65536");
        trial.now += 99;
        assert_eq!(trial.line("LEASE.FENCE l 65536"), "OK");
        trial.now += 1;
        assert!(trial.line("LEASE.FENCE l 65536").starts_with("(error) FENCED"));
        assert_eq!(trial.line("LEASE.RENEW l 65536 100"), "(integer) 0");
        assert_eq!(trial.line("LEASE.ACQUIRE l b 100"), "(integer) 327680");
    }

    #[test]
    fn a_lease_under_another_name_has_another_number() {
        let mut trial = Trial::new();
        assert_eq!(trial.line("LEASE.ACQUIRE l a 100"), "(integer) 65536");
        assert_eq!(trial.line("COPY l m"), "(integer) 1");
        assert!(trial.line("LEASE.FENCE m 65536").starts_with("(error) FENCED"));
        assert_eq!(trial.line("LEASE.FENCE l 65536 m 131072"), "OK");
        assert_eq!(trial.line("RENAME l m"), "OK");
        assert!(trial.line("LEASE.FENCE m 65536").starts_with("(error) FENCED"));
        assert_eq!(trial.line("LEASE.FENCE m 327680"), "OK");
    }
}
