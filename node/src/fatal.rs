//! The end: how the process stops when going on could lose or corrupt what it was trusted with.
//!
//! The last line on standard error says why; the exit code is [`EXIT_CODE`]. Nothing is flushed or closed: the next start
//! finds out what is on the disk.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The exit code of a process that could not go on.
pub const EXIT_CODE: i32 = 3;

/// Stops the process at once.
pub fn stop(reason: &str) -> ! {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("stopped: {reason}");
    } else {
        eprintln!("loci: stopped: {reason}");
    }
    std::process::exit(EXIT_CODE)
}

/// Runs what owns state that nobody can do without; a panic in it stops the process.
pub(crate) fn guard<R>(thread: &str, run: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied().map(String::from);
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            stop(&format!("the {thread} thread panicked: {said}"))
        }
    }
}
