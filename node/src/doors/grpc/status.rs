//! Errors as gRPC statuses: a code that generic clients understand, a message that says what to do, and a detail with a
//! stable reason for programs.

use std::time::Duration;

use loci_index::ask::AskError;
use loci_index::command::{Expect, Found, Refusal, Unmet};
use loci_index::view::SearchError;
use loci_wire::v1::{CallError, ErrorDetail};
use tonic::{Code, Status};

use crate::gate;
use crate::search_threads::RunError;
use crate::shard::{ChangeError, ReadError, WriteError};
use crate::shards::CATALOG;

/// When to come back after a refusal for want of memory or disk.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A call that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The gRPC status code.
    pub code: Code,
    /// For people.
    pub message: String,
    /// For programs.
    pub detail: ErrorDetail,
}

impl Failure {
    /// With a reason and nothing more to tell.
    pub fn new(code: Code, reason: &str, message: impl Into<String>) -> Failure {
        let detail = ErrorDetail { reason: reason.into(), ..Default::default() };
        Failure { code, message: message.into(), detail }
    }

    /// The request can never work.
    pub fn invalid(reason: &str, message: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidArgument, reason, message)
    }

    /// As another node said it.
    pub fn from_status(status: &Status) -> Failure {
        let detail = loci_wire::decode_detail(status.details()).unwrap_or_default();
        Failure { code: status.code(), message: status.message().to_owned(), detail }
    }

    /// About one of several records, queries or conditions.
    pub fn number(mut self, number: usize) -> Failure {
        self.detail.number = u32::try_from(number).unwrap_or(u32::MAX);
        self
    }

    /// Says what the condition that does not hold had expected of a record.
    pub fn expected(mut self, expects: &[Expect]) -> Failure {
        if self.detail.reason != "condition_failed" || self.detail.expected != 0 {
            return self;
        }
        match expects.get(self.detail.number as usize) {
            Some(Expect::Version(version)) => {
                self.detail.expected = *version;
                self.message = format!("{}; version {version} was expected", self.message);
            }
            Some(Expect::Absent) => self.message = format!("{}; none was expected", self.message),
            Some(Expect::Present) => self.message = format!("{}; one was expected", self.message),
            Some(Expect::Lease(_) | Expect::Value(_)) | None => {}
        }
        self
    }

    /// It can work later.
    pub fn retry_after(mut self, after: Duration) -> Failure {
        self.detail.retry_after_millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The call's time is up. A write may have taken effect, or may still.
    pub fn late(write: bool) -> Failure {
        let message = if write {
            "the deadline has passed; the write may or may not take effect: repeat it with the same request id to learn which"
        } else {
            "the deadline has passed"
        };
        Failure::new(Code::DeadlineExceeded, "deadline_exceeded", message)
    }

    /// As an answer on a pipeline.
    pub fn into_call_error(self) -> CallError {
        CallError { code: self.code as i32, message: self.message, detail: Some(self.detail) }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let details = loci_wire::encode_detail(failure.code as i32, &failure.message, &failure.detail);
        Status::with_details(failure.code, failure.message, details.into())
    }
}

impl From<gate::Full> for Failure {
    fn from(full: gate::Full) -> Failure {
        Failure::new(Code::ResourceExhausted, "overloaded", full.to_string()).retry_after(gate::RETRY_AFTER)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let message = refusal.to_string();
        match refusal {
            Refusal::ConditionFailed { number, found, key } => {
                let mut failure =
                    Failure::new(Code::FailedPrecondition, "condition_failed", message).number(number as usize);
                failure.detail.key = key.into();
                if let Found::Version(version) = found {
                    failure.detail.version = version;
                }
                failure
            }
            Refusal::Unmet { number, unmet } => {
                let (reason, key, expected, found) = match unmet {
                    Unmet::Lease { name, given, held } => ("fenced", name, given, held),
                    Unmet::Value { key, expected, found } => ("condition_failed", key, expected, found),
                    Unmet::Unclear { .. } => {
                        return Failure::invalid("invalid_condition", message).number(number as usize);
                    }
                };
                let mut failure = Failure::new(Code::FailedPrecondition, reason, message).number(number as usize);
                (failure.detail.key, failure.detail.expected) = (key.into(), expected);
                failure.detail.version = found;
                failure
            }
            Refusal::UnknownNamespace(_) => Failure::new(Code::NotFound, "unknown_namespace", message),
            Refusal::UnknownCollection(_) => Failure::new(Code::NotFound, "unknown_collection", message),
            Refusal::AlreadyExists(_) => Failure::new(Code::AlreadyExists, "already_exists", message),
            Refusal::WrongEmbedding { change, .. } => {
                Failure::invalid("wrong_embedding", message).number(change as usize)
            }
            Refusal::AttributesTooLarge { change } => {
                Failure::invalid("attributes_too_large", message).number(change as usize)
            }
            Refusal::RequestConflict => Failure::new(Code::Aborted, "request_conflict", message),
            Refusal::InvalidSchema(_) => Failure::invalid("invalid_schema", message),
            Refusal::TooMany(_) => Failure::new(Code::FailedPrecondition, "too_many", message),
            Refusal::InvalidFilter => Failure::invalid("invalid_filter", message),
        }
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Failure {
        let message = error.to_string();
        match error {
            WriteError::Overloaded { retry_after } => {
                Failure::new(Code::ResourceExhausted, "overloaded", message).retry_after(retry_after)
            }
            WriteError::DiskFull { .. } => {
                Failure::new(Code::ResourceExhausted, "disk_full", message).retry_after(FULL_RETRY_AFTER)
            }
            WriteError::MemoryFull { .. } => {
                Failure::new(Code::ResourceExhausted, "memory_full", message).retry_after(FULL_RETRY_AFTER)
            }
            WriteError::NoRoom { .. } => Failure::new(Code::ResourceExhausted, "no_room", message),
            WriteError::TooLarge { .. } => Failure::invalid("write_too_large", message),
            WriteError::NotLeader { .. } => Failure::new(Code::Unavailable, "not_leader", message),
            WriteError::Unconfirmed { .. } => Failure::new(Code::Unavailable, "unconfirmed", message),
            WriteError::Forgotten => Failure::new(Code::Aborted, "forgotten", message),
            WriteError::Expired => Failure::new(Code::DeadlineExceeded, "deadline_exceeded", message),
            WriteError::DeadlineExceeded => Failure::late(true),
            WriteError::NotReady => Failure::new(Code::Unavailable, "starting", message),
            WriteError::Removed => Failure::new(Code::Unavailable, "removed", message),
            WriteError::Stopping => Failure::new(Code::Unavailable, "stopping", message),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        let message = error.to_string();
        match error {
            ReadError::DeadlineExceeded { .. } => Failure::new(Code::DeadlineExceeded, "deadline_exceeded", message),
            ReadError::Unconfirmed { .. } => Failure::new(Code::Unavailable, "no_leader", message),
            ReadError::Behind { .. } => Failure::new(Code::Unavailable, "behind", message),
            // Without the catalog a node can answer next to nothing.
            ReadError::Damaged { shard: CATALOG } => Failure::new(Code::Unavailable, "damaged", message),
            ReadError::Damaged { .. } => Failure::new(Code::Unavailable, "shard_damaged", message),
            ReadError::NotReady => Failure::new(Code::Unavailable, "starting", message),
            ReadError::Removed => Failure::new(Code::Unavailable, "removed", message),
            ReadError::Stopping => Failure::new(Code::Unavailable, "stopping", message),
        }
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Failure {
        let message = error.to_string();
        match error {
            ChangeError::NotLeader => Failure::new(Code::Unavailable, "not_leader", message),
            ChangeError::Busy => Failure::new(Code::Unavailable, "change_under_way", message),
            ChangeError::Refused(_) => Failure::new(Code::FailedPrecondition, "change_refused", message),
            ChangeError::DeadlineExceeded => Failure::new(Code::DeadlineExceeded, "deadline_exceeded", message),
            ChangeError::Stopping => Failure::new(Code::Unavailable, "stopping", message),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        let message = error.to_string();
        match error {
            RunError::Overloaded { retry_after } => {
                Failure::new(Code::ResourceExhausted, "overloaded", message).retry_after(retry_after)
            }
            RunError::DeadlineExceeded => Failure::late(false),
            RunError::Stopping => Failure::new(Code::Unavailable, "stopping", message),
            RunError::Panicked => Failure::new(Code::Internal, "panicked", message),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Failure {
        let message = error.to_string();
        match error {
            AskError::Search(error) => error.into(),
            AskError::Limit(_) => Failure::invalid("out_of_bounds", message),
            AskError::Question(_) => Failure::invalid("invalid_text", message),
            AskError::UnknownText(_) => Failure::invalid("unknown_text", message),
            AskError::UnknownSparse(_) => Failure::invalid("unknown_embedding", message),
            AskError::UnknownRecord(_) => Failure::new(Code::NotFound, "unknown_record", message),
            AskError::NoEmbedding { .. } => Failure::new(Code::FailedPrecondition, "no_embedding", message),
            AskError::CountedOtherwise => Failure::new(Code::FailedPrecondition, "counted_otherwise", message),
            AskError::Examples(_) => Failure::invalid("invalid_embedding", message),
        }
    }
}

impl From<SearchError> for Failure {
    fn from(error: SearchError) -> Failure {
        let message = error.to_string();
        match error {
            SearchError::Cancelled(_) => Failure::late(false),
            SearchError::UnknownField { .. } => Failure::invalid("unknown_embedding", message),
            SearchError::WrongDimension { .. } => Failure::invalid("wrong_dimension", message),
            SearchError::Segment(_) => Failure::new(Code::DataLoss, "damaged_segment", message),
        }
    }
}
