//! What is known of a shard as a whole, apart from its members.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use loci_raft::{MemberId, Members};

use super::histories::Histories;
use super::oracle::Oracle;
use super::world::World;

/// So many shards share each machine's log at most.
pub const SHARDS_MAX: usize = 3;

/// See the module's front page.
pub struct Shard {
    /// Those that found it.
    pub founders: Arc<Members>,
    /// Members whose removal was asked for.
    pub may_be_gone: BTreeSet<MemberId>,
    /// What every member must hold.
    pub oracle: Oracle,
    /// What clients were told.
    pub histories: Histories,
    /// Who led in which term.
    pub leaders: BTreeMap<u64, usize>,
    /// The newest index that any answer stood at.
    pub answered: u64,
}

impl Shard {
    /// A shard in which nothing has happened yet.
    pub fn new(founders: Arc<Members>) -> Shard {
        Shard {
            oracle: Oracle::new(Arc::clone(&founders)),
            founders,
            may_be_gone: BTreeSet::new(),
            histories: Histories::default(),
            leaders: BTreeMap::new(),
            answered: 0,
        }
    }
}

impl World<'_> {
    /// Any of the shards.
    pub(super) fn any_shard(&mut self) -> usize {
        // A run with one shard makes the choices that it always made.
        if self.shards.len() == 1 { 0 } else { self.chance.index(self.shards.len()) }
    }
}
