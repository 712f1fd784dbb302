//! The doors: each translates one protocol, and does nothing else.
//!
//! | door | protocol |
//! |---|---|
//! | [`grpc`] | the native API: unary calls, streams, and the pipeline |
//! | [`resp`] | RESP2 and RESP3, for clients of Redis |

pub mod grpc;
pub mod resp;
