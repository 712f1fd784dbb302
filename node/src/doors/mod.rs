//! The doors: each translates one protocol, and does nothing else.
//!
//! | door | protocol |
//! |---|---|
//! | [`grpc`] | the native API: unary calls, streams, and the pipeline |
//! | [`resp`] | RESP2 and RESP3, for clients of Redis |
//!
//! [`looks`]: what the latter asks of typed values to read, here or of another node.

pub mod grpc;
pub mod looks;
pub mod resp;
