//! Scripts: commands that are programs, in the Lua of Redis.
//!
//! ```text
//!   entry ---> Engine::run(script, keys, arguments) ---> redis.call ---> Host (the table)
//!                 |                                          |
//!                 '--- heap, steps, bytes: one run's own <---' replies
//! ```
//!
//! A script is a command of the log and is carried out by every member, so its outcome must be a function of the script, its
//! keys and arguments and what the host answers. It is, because
//! - every run starts from the same heap. The libraries are built once and are read-only, for scripts and for us; all else
//!   that a run makes has numbers from the same first number on, and is cut off when the run ends.
//! - nothing that a script can see comes from outside: no address (tables are walked in an order made of contents and of those
//!   numbers, and `tostring` shows them), no clock, no C library (numbers are printed, parsed and raised to powers by code of our
//!   own or in software), no chance but a generator that is seeded alike for every run, no sign of a NaN.
//! - budgets are counts: instructions and the work of library functions in steps, objects in bytes of a fixed price list. When
//!   to collect what is unreachable is decided by that count. So a run that ends over its budget does so at the same
//!   instruction everywhere, and a script that would run for ever ends everywhere.
//! - a function is called on its library loaded anew, so that nothing is left over from one call to the next;
//! - compiled scripts are kept by their digest, and compiling is a function of the source.
//!
//! This holds between members with the same version of this module; how many steps something takes is part of it.
//!
//! The interpreter is our own, in safe code. The usual one in C cannot keep the promise above: string comparison, garbage
//! collection, hash chains and the library's loops run inside one of its instructions, and no count bounds them; and its known
//! ways out of the sandbox have been the worst holes of Redis.

mod lua;
pub(crate) mod library;
mod engine;
#[cfg(test)]
mod tests;

pub use engine::{Engine, ScriptFlags, Used};
pub use library::{Registered, is_name};

use sha1::{Digest, Sha1};

/// A reply of a command or of a script.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// A short text such as `OK`.
    Status(Vec<u8>),
    /// Code and message, without the dash.
    Error(Vec<u8>),
    /// A whole number.
    Int(i64),
    /// Bytes.
    Bulk(Vec<u8>),
    /// Nothing there.
    Null,
    /// Replies in order.
    Array(Vec<Reply>),
    /// Keys and values, which are an array in RESP2.
    Map(Vec<(Reply, Reply)>),
    /// Members, which are an array in RESP2.
    Set(Vec<Reply>),
    /// A number with a fraction, which is a text in RESP2.
    Double(f64),
    /// Yes or no, which is 1 or 0 in RESP2.
    Bool(bool),
    /// Digits, which are a text in RESP2.
    BigNumber(Vec<u8>),
    /// A text and what it is, such as `txt`.
    Verbatim {
        /// Three letters.
        format: [u8; 3],
        /// The text.
        text: Vec<u8>,
    },
}

/// What a script reaches through `redis`.
pub trait Host {
    /// Carries out a command. Its reply may have any form; a script that has not asked for RESP3 is given the RESP2 form of it.
    fn call(&mut self, arguments: &[&[u8]], resp3: bool) -> Reply;

    /// What the last command cost beyond the ordinary, in steps. It must be the same on every member.
    fn spent(&mut self) -> u64 {
        0
    }

    /// Whether the caller may carry out a command; nothing if there is no such command.
    fn may(&mut self, arguments: &[&[u8]]) -> Option<bool> {
        Some(!arguments.is_empty())
    }

    /// A line for the log of the node; level 0 is debugging, 3 a warning.
    fn log(&mut self, level: u8, text: &[u8]) {
        let _ = (level, text);
    }
}

/// What one run may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// An instruction is one step; library functions count their work in steps of about the same time, some 20 ns.
    pub steps: u64,
    /// Texts, tables, functions and the stack, collected or not.
    pub memory_bytes: usize,
    /// What the reply may take.
    pub reply_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { steps: 50_000_000, memory_bytes: 64 << 20, reply_bytes: 64 << 20 }
    }
}

/// A budget of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Of steps.
    Steps,
    /// Of memory.
    Memory,
    /// Of the reply.
    Reply,
}

/// Why there is no reply of a script. What it did so far must not have an effect.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScriptError {
    /// The source is not a script; the message is what Redis says.
    #[error("{0}")]
    Compile(String),
    /// It used up a budget.
    #[error("script over its budget of {0}")]
    OverBudget(Budget),
}

/// A source with its name, which is computed once.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    source: Box<[u8]>,
    digest: [u8; 20],
}

impl Script {
    /// Names a source; whether it is a script, [`Engine::check`] says.
    pub fn new(source: &[u8]) -> Script {
        Script { source: source.into(), digest: sha1_of(source) }
    }

    /// What was given.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// The name.
    pub fn sha1(&self) -> String {
        hex(&self.digest)
    }
}

/// The name of a script: the SHA-1 of its source, in lower-case hexadecimal.
pub fn sha1_hex(source: &[u8]) -> String {
    hex(&sha1_of(source))
}

fn hex(digest: &[u8; 20]) -> String {
    let mut hex = String::with_capacity(40);
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            hex.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    hex
}

fn sha1_of(source: &[u8]) -> [u8; 20] {
    Sha1::digest(source).into()
}
