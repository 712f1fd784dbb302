//! The machinery of the tests that run the real program: start it, load it, kill it, and say what it must still know.
//!
//! ```text
//!   load (tasks with seeds) --gRPC--> node process (killed, cut off, starved)
//!        \-- what was sent, what was answered --> model --> must agree with what the node says after a restart
//! ```
//!
//! A test that lacks something (root, a tool, a data set) says so with [`skip`], on standard error where the test runner
//! does not swallow it, and never passes silently.

use std::io::Write;
use std::sync::LazyLock;

pub mod api;
pub mod chance;
pub mod cluster;
pub mod data;
pub mod disks;
pub mod fuzz;
pub mod linearizable;
pub mod load;
pub mod model;
pub mod plain;
pub mod process;
pub mod resp;
pub mod sim;
pub mod segment_file;
pub mod spread;

/// Says something past the test runner, which shows what a test prints only if it fails.
pub fn say(text: &str) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Says that a test, or a part of one, did not run, and why.
pub fn skip(test: &str, why: &str) {
    say(&format!("skipped: {test}: {why}"));
}

/// A number from the environment, for the longer runs.
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}

/// The seed of this run: `LOCI_SEED`, or one drawn from the clock. Printed with every failure of the tests that use it.
pub fn seed() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = setting("LOCI_SEED", now.map_or(1, |now| now.as_micros() as u64));
        // Not `say`: the runner shows it exactly when it is wanted, with a failure.
        println!("LOCI_SEED={seed}");
        seed
    });
    *SEED
}
