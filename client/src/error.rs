//! What can go wrong with a call, sorted by what the caller can do next.

use std::time::Duration;

use loci_wire::v1;
use tonic::{Code, Status};

use crate::Token;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The call can never work as it is; the message says what to change.
    #[error("{message}")]
    InvalidArgument {
        /// What is wrong, for people.
        message: String,
        /// The same for programs: `wrong_dimension`, `invalid_key`, ...; empty if the node gave none.
        reason: String,
        /// Which record or query of the call it is about, counted from 0.
        number: u32,
    },
    /// There is no such namespace or collection.
    #[error("{message}")]
    NotFound {
        /// What is missing, for people.
        message: String,
        /// The same for programs.
        reason: String,
    },
    /// There is one already.
    #[error("{message}")]
    AlreadyExists {
        /// What is there, for people.
        message: String,
    },
    /// A condition of the write does not hold; nothing was changed.
    #[error("{message}")]
    ConditionFailed {
        /// Which condition, for people.
        message: String,
        /// Which condition (or, with an insert or update, which record), counted from 0.
        number: u32,
        /// The version that the record has; none: there is no record.
        version: Option<u64>,
    },
    /// A lease that the write names is not held under the number that it gives: nothing was changed, and who tries is not its
    /// holder any more.
    #[error("{message}")]
    Fenced {
        /// Which lease, for people.
        message: String,
        /// The number under which it is held now; none: nobody holds it.
        held: Option<u64>,
    },
    /// A command on typed values did nothing, and says why: a word in capitals that says of which kind it is, and what is wrong.
    #[error("{message}")]
    Command {
        /// What the command answered.
        message: String,
    },
    /// The state does not allow the call, for another reason than a condition of the write.
    #[error("{message}")]
    Refused {
        /// Why, for people.
        message: String,
        /// The same for programs.
        reason: String,
    },
    /// The request id was used before, for another command.
    #[error("{message}")]
    RequestConflict {
        /// Which, for people.
        message: String,
    },
    /// The message is larger than both sides allow: send less at once.
    #[error("{message}")]
    TooLarge {
        /// What is too large, for people.
        message: String,
    },
    /// A watch cannot go on from its token: what came after it is no longer kept. Read anew what is wanted, and watch from the
    /// token of that read.
    #[error("{message}")]
    TooOld {
        /// How far back the node goes, for people.
        message: String,
        /// The same as a token.
        oldest: Token,
    },
    /// The node has too much to do, or no space on its disk.
    #[error("{message}")]
    Overloaded {
        /// What is short, for people.
        message: String,
        /// When to try again; none: trying again soon will not help.
        retry_after: Option<Duration>,
    },
    /// No node answers, or none that can: it is starting, stopping, or out of reach. A write may or may not have been done,
    /// and can be sent again with the same request id.
    #[error("{message}")]
    Unavailable {
        /// Who does not answer and why.
        message: String,
    },
    /// The time that the call was given is over. A write may or may not have been done.
    #[error("{message}")]
    DeadlineExceeded {
        /// What took too long.
        message: String,
    },
    /// Files of the node are damaged.
    #[error("{message}")]
    DataLoss {
        /// Which, for people.
        message: String,
    },
    /// The principal may not do this.
    #[error("{message}")]
    Denied {
        /// What, for people.
        message: String,
    },
    /// An address that is none.
    #[error("address {address:?}: {message}")]
    Address {
        /// As it was given.
        address: String,
        /// What is wrong with it.
        message: String,
    },
    /// The node answered what no node should.
    #[error("unexpected answer: {message}")]
    Protocol {
        /// What it answered.
        message: String,
    },
    /// Something else, with the name of the gRPC status.
    #[error("{code}: {message}")]
    Other {
        /// The gRPC status code's name.
        code: String,
        /// What the node said.
        message: String,
    },
}

impl Error {
    /// Whether the same call, sent again a little later, can succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Unavailable { .. } | Error::Overloaded { retry_after: Some(_), .. })
    }

    /// The stable name of the reason, if the node gave one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Error::InvalidArgument { reason, .. } | Error::NotFound { reason, .. } | Error::Refused { reason, .. } => {
                Some(reason.as_str()).filter(|reason| !reason.is_empty())
            }
            Error::ConditionFailed { .. } => Some("condition_failed"),
            Error::Fenced { .. } => Some("fenced"),
            Error::TooOld { .. } => Some("token_too_old"),
            _ => None,
        }
    }

    /// The same, after an attempt that failed: where time ran out, that says why.
    pub(crate) fn after(self, before: Option<&Error>) -> Error {
        match (self, before) {
            (Error::DeadlineExceeded { message }, Some(before)) => {
                Error::DeadlineExceeded { message: format!("{message}; tried before that: {before}") }
            }
            (error, _) => error,
        }
    }

    pub(crate) fn from_status(status: &Status) -> Error {
        use std::error::Error as _;
        let detail = loci_wire::decode_detail(status.details()).unwrap_or_default();
        // A status that came over the wire has no source: with one, the connection broke or was never made.
        let local = status.source().is_some();
        match status.code() {
            Code::Cancelled if status.message().contains("Timeout expired") => {
                Error::DeadlineExceeded { message: "the call took longer than it was given".into() }
            }
            Code::Unknown | Code::Internal | Code::Cancelled if local => {
                Error::Unavailable { message: format!("the connection broke: {}", innermost(status)) }
            }
            Code::Cancelled => Error::Unavailable { message: format!("the call was cancelled: {}", status.message()) },
            Code::Unavailable if local => {
                Error::Unavailable { message: format!("no connection: {}", innermost(status)) }
            }
            code => Error::from_parts(code, status.message(), detail),
        }
    }

    pub(crate) fn from_call(error: v1::CallError) -> Error {
        let detail = error.detail.unwrap_or_default();
        Error::from_parts(Code::from_i32(error.code), &error.message, detail)
    }

    fn from_parts(code: Code, message: &str, detail: v1::ErrorDetail) -> Error {
        let message = if message.is_empty() { code.description().to_owned() } else { message.to_owned() };
        let reason = detail.reason;
        match code {
            Code::InvalidArgument => Error::InvalidArgument { message, reason, number: detail.number },
            Code::NotFound => Error::NotFound { message, reason },
            Code::AlreadyExists => Error::AlreadyExists { message },
            Code::FailedPrecondition if reason.is_empty() || reason == "condition_failed" => Error::ConditionFailed {
                message,
                number: detail.number,
                version: Some(detail.version).filter(|&version| version != 0),
            },
            Code::FailedPrecondition if reason == "fenced" => {
                Error::Fenced { message, held: Some(detail.version).filter(|&number| number != 0) }
            }
            Code::FailedPrecondition => Error::Refused { message, reason },
            Code::Aborted => Error::RequestConflict { message },
            Code::OutOfRange if reason == "token_too_old" => {
                let (shard, index) = (detail.number, detail.version);
                Error::TooOld { message, oldest: Token::from_wire(Some(v1::Token { shard, index, others: vec![] })) }
            }
            Code::OutOfRange => Error::TooLarge { message },
            Code::ResourceExhausted => Error::Overloaded {
                message,
                retry_after: Some(detail.retry_after_millis).filter(|&millis| millis != 0).map(Duration::from_millis),
            },
            Code::Unavailable => Error::Unavailable { message },
            Code::DeadlineExceeded => Error::DeadlineExceeded { message },
            Code::DataLoss => Error::DataLoss { message },
            Code::PermissionDenied | Code::Unauthenticated => Error::Denied { message },
            code => Error::Other { code: format!("{code:?}"), message },
        }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Error {
        Error::Protocol { message: message.into() }
    }
}

/// The last cause in the chain: "connection refused" rather than "transport error".
fn innermost(status: &Status) -> String {
    let mut error: &dyn std::error::Error = status;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, detail: v1::ErrorDetail) -> Error {
        let details = loci_wire::encode_detail(code as i32, "because", &detail);
        Error::from_status(&Status::with_details(code, "because", details.into()))
    }

    #[test]
    fn details_become_fields() {
        let detail =
            v1::ErrorDetail { reason: "condition_failed".into(), number: 3, version: 17, ..Default::default() };
        let expected = Error::ConditionFailed { message: "because".into(), number: 3, version: Some(17) };
        assert_eq!(status(Code::FailedPrecondition, detail), expected);
    }

    #[test]
    fn where_time_runs_out_the_last_failure_says_why() {
        let late = || Error::DeadlineExceeded { message: "the deadline has passed".into() };
        let before = Error::Unavailable { message: "shard 5: member 2 does not answer".into() };
        let message = late().after(Some(&before)).to_string();
        assert_eq!(message, "the deadline has passed; tried before that: shard 5: member 2 does not answer");
        assert_eq!(late().after(None), late());
        assert_eq!(before.clone().after(Some(&late())), before);
    }

    #[test]
    fn overload_is_transient_only_when_the_node_says_when_to_come_back() {
        let detail = v1::ErrorDetail { retry_after_millis: 40, ..Default::default() };
        assert!(status(Code::ResourceExhausted, detail).is_transient());
        assert!(!status(Code::ResourceExhausted, v1::ErrorDetail::default()).is_transient());
    }

    #[test]
    fn details_that_are_no_detail_are_ignored() {
        let garbage = Status::with_details(Code::NotFound, "gone", vec![0xff; 7].into());
        let expected = Error::NotFound { message: "gone".into(), reason: String::new() };
        assert_eq!(Error::from_status(&garbage), expected);
    }

    #[test]
    fn an_error_of_a_broken_connection_is_unavailable() {
        let broken = std::io::Error::new(std::io::ErrorKind::ConnectionReset, "reset by peer");
        let error = Error::from_status(&Status::from_error(Box::new(broken)));
        assert!(error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("reset by peer"), "{error}");
    }
}
