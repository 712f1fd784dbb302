//! Reading typed values for the door for clients of Redis of another node.

use std::time::Instant;

use loci_index::record::CollectionId;
use loci_index::table::execute::Moment;
use loci_wire::v1;
use tonic::Code;

use super::super::calls::{Calls, REPLY_BYTES_MAX, too_large_reply};
use super::super::home::running;
use super::super::status::Failure;
use super::{OLDER_NODE, Patience, Question, Said, other_reply};
use crate::doors::looks::{Asked, NoReply};
use crate::shard::Level;

impl Calls {
    /// What calls say that only read, in a shard that is here.
    pub async fn look(&self, request: v1::LookRequest, deadline: Instant) -> Result<v1::LookReply, Failure> {
        let shard = running(&self.cluster, request.shard)?;
        let level = if request.stale { Level::Stale } else { Level::Latest };
        let view = shard.view(level, Some(deadline)).await?;
        let mut missing = false;
        let table = |id: &u64| {
            let found = view.collection_by_id(CollectionId(*id));
            missing |= *id != 0 && found.is_none();
            found?.table().cloned()
        };
        let (index, now, tables) = (view.index(), shard.now(&view), request.collections.iter().map(table).collect());
        let moment = Moment { now, version: index, number: request.chance };
        let asked = Asked { tables, calls: request.calls, moment, bytes_max: REPLY_BYTES_MAX };
        let answered = match asked.is_short() {
            true => asked.answer(),
            false => self.search.run(deadline, move |_, _| asked.answer()).await?,
        };
        match answered {
            Ok(tape) => Ok(v1::LookReply { tape: tape.into_bytes().into(), index, missing }),
            Err(NoReply::TooLarge) => Err(too_large_reply()),
            Err(NoReply::Unknown) => {
                let message =
                    "one of the calls is not known here, or does not only read: this node may be of an older version";
                Err(Failure::new(Code::Unimplemented, OLDER_NODE, message))
            }
        }
    }

    /// The same, of a node that has the shard.
    pub async fn look_far(&self, request: v1::LookRequest, deadline: Instant) -> Result<v1::LookReply, Failure> {
        let shard = request.shard;
        match self.ask_for(&[shard], &Question::Look(request), false, Patience::until(deadline)).await? {
            Said::Looked(reply) => Ok(reply),
            _ => Err(other_reply()),
        }
    }
}
