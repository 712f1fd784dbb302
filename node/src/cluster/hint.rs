//! Who leads, for clients that asked another node: the answer comes with the reply, so that they ask the leader next time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use loci_raft::MemberId;
use loci_wire::v1;

use super::book;
use crate::shard::ShardHandle;

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

impl Hints {
    /// Who leads a shard, if that is known and not member `me`. The book is in the shard `catalog`.
    pub fn of(&self, shard: &ShardHandle, catalog: &ShardHandle, me: MemberId) -> Option<v1::Leader> {
        let leader = shard.leader().filter(|leader| *leader != me)?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&shard.id())
            && known.leader == leader
            && known.at.elapsed() < KEPT
        {
            return Some(known.hint.clone());
        }
        let line = book::find(&catalog.newest(), leader)?;
        let hint = v1::Leader { shard: shard.id(), address: line.address };
        known.insert(shard.id(), Known { leader, at: Instant::now(), hint: hint.clone() });
        Some(hint)
    }
}
