//! The gate: how much may be under way, and until when.
//!
//! ```text
//!   door --> gate: room for it? until when? --> router, shards
//!                    no: overloaded, at once
//! ```
//!
//! Every call takes a [`Pass`] and gives it back when it ends, however it ends. A call that finds no room is refused at once
//! and says when to come back: a queue in front of the gate would only make everybody late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most calls under way, all doors together.
pub const CALLS_MAX: usize = 16_384;
/// The most bytes of requests under way, all doors together.
pub const REQUEST_BYTES_MAX: usize = 256 << 20;
/// How long a call may take that does not say.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// How long a call may take at the most.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// When to come back after a refusal.
pub const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Bytes are counted in these, since a semaphore counts up to a few hundred million on small machines.
const GRAIN: usize = 1024;

const _: () = assert!(loci_wire::MESSAGE_BYTES_MAX < REQUEST_BYTES_MAX, "every allowed request can pass");

/// Lets calls in as long as there is room.
#[derive(Clone)]
pub struct Gate {
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// The right to be under way.
pub struct Pass {
    _call: OwnedSemaphorePermit,
    _bytes: Option<OwnedSemaphorePermit>,
}

/// There is no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node has as many calls under way as it may; try again in a moment")]
pub struct Full;

impl Default for Gate {
    fn default() -> Gate {
        Gate::new(CALLS_MAX, REQUEST_BYTES_MAX)
    }
}

impl Gate {
    /// With room for that many calls and request bytes.
    pub fn new(calls: usize, bytes: usize) -> Gate {
        Gate { calls: Arc::new(Semaphore::new(calls)), bytes: Arc::new(Semaphore::new(bytes / GRAIN)) }
    }

    /// Lets in a call whose request has that many bytes.
    pub fn enter(&self, bytes: usize) -> Result<Pass, Full> {
        let call = Arc::clone(&self.calls).try_acquire_owned().map_err(|_| Full)?;
        let bytes = match bytes / GRAIN {
            0 => None,
            grains => {
                let grains = u32::try_from(grains).map_err(|_| Full)?;
                Some(Arc::clone(&self.bytes).try_acquire_many_owned(grains).map_err(|_| Full)?)
            }
        };
        Ok(Pass { _call: call, _bytes: bytes })
    }
}

/// When a call must have ended that may take this long, or does not say.
pub fn deadline(timeout: Option<Duration>, default: Duration) -> Instant {
    Instant::now() + timeout.unwrap_or(default).min(TIMEOUT_MAX)
}

/// What a `grpc-timeout` header says: up to eight digits and a unit, as the gRPC protocol has it.
pub fn grpc_timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_fits_once_others_left() {
        let gate = Gate::new(2, 10 * GRAIN);
        let first = gate.enter(8 * GRAIN).unwrap();
        assert!(gate.enter(3 * GRAIN).is_err());
        let second = gate.enter(2 * GRAIN).unwrap();
        drop(first);
        let third = gate.enter(8 * GRAIN).unwrap();
        assert!(gate.enter(0).is_err());
        drop((second, third));
        assert!(gate.enter(0).is_ok());
    }

    #[test]
    fn a_timeout_header_is_read_as_the_protocol_says() {
        for (header, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("123456789n", None),
            ("5", None),
            ("m", None),
            ("", None),
            ("-1m", None),
            ("1\u{b5}", None),
        ] {
            assert_eq!(grpc_timeout(header), expected, "{header:?}");
        }
    }
}
