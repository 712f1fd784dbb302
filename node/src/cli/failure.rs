//! Why a command failed, and the exit code that says so to scripts.

use std::fmt::{self, Display};
use std::path::Path;
use std::process::ExitCode;

use loci_client::Error;

/// What `--help` says about exit codes. One for each variant of [`Kind`].
pub const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    the node refused it, or a condition does not hold, or a local file failed
  2    the command line is wrong
  3    there is no such record, collection or namespace
  4    the node cannot be reached, is not ready, or did not answer in time
  5    done in part: some records were refused and are in the dead-letter file
  130  interrupted";

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// Of which kind, for the exit code.
    pub kind: Kind,
    /// What failed and why, for people.
    pub message: String,
}

/// What scripts can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The node said no, or something here failed.
    Refused,
    /// The command line is wrong.
    Usage,
    /// What was asked for is not there.
    NotFound,
    /// Nobody answers.
    Unavailable,
    /// Some of it is done.
    Partial,
    /// Stopped by ctrl-c.
    Interrupted,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    pub fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Refused, message)
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    /// A file that could not be read or written.
    pub fn file(path: &Path, error: impl Display) -> Failure {
        Failure::refused(format!("{}: {error}", path.display()))
    }

    /// A call that failed, and what it was about.
    pub fn call(subject: impl Display, error: Error) -> Failure {
        let kind = match &error {
            Error::NotFound { .. } => Kind::NotFound,
            Error::Unavailable { .. } | Error::DeadlineExceeded { .. } | Error::Overloaded { .. } => Kind::Unavailable,
            Error::Address { .. } => Kind::Usage,
            _ => Kind::Refused,
        };
        Failure::new(kind, format!("{subject}: {error}"))
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Refused => 1,
            Kind::Usage => 2,
            Kind::NotFound => 3,
            Kind::Unavailable => 4,
            Kind::Partial => 5,
            Kind::Interrupted => 130,
        })
    }
}

impl Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}
