//! The doors: each translates one protocol, and does nothing else.
//!
//! | door | protocol |
//! |---|---|
//! | [`grpc`] | the native API: unary calls, streams, and the pipeline |

pub mod grpc;
