//! What is stored, and two ways to find it: by key and by nearness.
//!
//! ```text
//!   entry bytes ---> Store::apply ---> buffer --(seal)--> segment --(merge)--> segment
//!   (from the log)       |                 \                 |                   /
//!                        '--> View  <-------'-----------------'-----------------'
//!                              get, scan, count, search: no lock, no await
//! ```
//!
//! The [`store::Store`] is the only writer and has one owner. It is a function of the entries it was given: it reads no clock,
//! draws no random number and starts no thread, so that every member that applied the same entries holds the same
//! records. Readers hold a [`view::View`], a picture that no longer changes.
//!
//! This crate knows nothing of agreement, of sockets or of clients: a change reaches it as a command in an entry,
//! and files through [`directory::Directory`].

pub mod record;
pub mod attributes;
pub mod filter;
pub mod attribute_index;
pub mod command;
pub mod directory;
pub mod distance;
mod codes;
pub mod scan;
pub mod inverted;
pub mod sparse;
pub mod text;
pub mod graph;
pub mod segment;
mod buffer;
mod sealed;
pub mod view;
pub mod way;
mod plan;
pub mod ask;
pub mod store;
pub mod table;
pub mod effects;
mod requests;
mod framed;
mod manifest;
mod merge;

#[cfg(test)]
mod real_set;
