//! Who leads, for clients that asked another node: the answer comes with the reply, so that they ask the leader next time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use loci_index::view::View;
use loci_raft::MemberId;
use loci_wire::v1;

use super::{Cluster, book};

/// How long an address is believed until the book is asked again.
const KEPT: Duration = Duration::from_secs(1);

/// What was last looked up, by shard.
#[derive(Debug, Default)]
pub struct Hints(Mutex<HashMap<u32, Known>>);

#[derive(Debug)]
struct Known {
    leader: MemberId,
    at: Instant,
    hint: v1::Leader,
}

impl Cluster {
    /// Where the leader of a shard is reached, and in which term it leads; not as of which version.
    pub fn hint(&self, shard: u32, leader: MemberId) -> Option<v1::Leader> {
        let mut known = self.shared.hints.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&shard)
            && known.leader == leader
            && known.at.elapsed() < KEPT
        {
            return Some(known.hint.clone());
        }
        let address = self.address_of(&self.catalog().newest(), leader)?;
        let hint = v1::Leader { shard, address, term: self.term_of(shard), version: 0 };
        known.insert(shard, Known { leader, at: Instant::now(), hint: hint.clone() });
        Some(hint)
    }

    /// Where a member's node is reached, as this view of the catalog has it.
    pub fn address_of(&self, catalog: &View, member: MemberId) -> Option<String> {
        if member == self.me() {
            return Some(self.address().to_owned());
        }
        Some(book::find(catalog, member)?.address)
    }
}
