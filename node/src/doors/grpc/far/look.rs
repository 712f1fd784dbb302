//! Reading typed values for the door for clients of Redis of another node.

use std::time::{Duration, Instant};

use loci_index::record::CollectionId;
use loci_index::table::execute::Moment;
use loci_index::view::View;
use loci_wire::v1;
use tonic::Code;

use super::super::calls::{Calls, REPLY_BYTES_MAX};
use super::super::home::running;
use super::super::status::Failure;
use super::{OLDER_NODE, Patience, Question, Said, other_reply};
use crate::doors::looks::Asked;
use crate::shard::Level;

impl Calls {
    /// What calls say that only read, in a shard that is here.
    pub async fn look(&self, request: v1::LookRequest, deadline: Instant) -> Result<v1::LookReply, Failure> {
        let shard = running(&self.cluster, request.shard)?;
        let level = if request.stale { Level::Stale } else { Level::Latest };
        let (view, newest) = (shard.view(level, Some(deadline)).await?, shard.clone());
        let chance = request.chance;
        let (collections, calls) = (request.collections, request.calls);
        let asked = move |view: &View| {
            let mut missing = false;
            let table = |id: &u64| {
                let found = view.collection_by_id(CollectionId(*id));
                missing |= *id != 0 && found.is_none();
                found?.table().cloned()
            };
            let tables = collections.iter().map(table).collect();
            let moment = Moment { now: shard.now(view), version: view.index(), number: chance };
            (Asked { tables, calls: calls.clone(), moment, bytes_max: REPLY_BYTES_MAX }, missing)
        };
        let reply = |(asked, missing): (Asked, bool)| {
            let (tape, answered) = asked.answer();
            v1::LookReply { tape: tape.into_bytes().into(), index: asked.moment.version, missing, answered }
        };
        let now = asked(&view);
        let reply = match now.0.is_short() {
            true => reply(now),
            // Of the state as it is once its turn has come.
            false => self.search.run(deadline, move |_, _| reply(asked(&newest.newest()))).await?,
        };
        if reply.answered == 0 {
            let message = "a call is not known here, or does not only read: this node may be of an older version";
            return Err(Failure::new(Code::Unimplemented, OLDER_NODE, message));
        }
        Ok(reply)
    }

    /// The same, of a node that has the shard, for which it is looked no longer than this.
    pub async fn look_far(
        &self,
        request: v1::LookRequest,
        look: Duration,
        deadline: Instant,
    ) -> Result<v1::LookReply, Failure> {
        let (shard, patience) = (request.shard, Patience { look, deadline });
        match self.ask_for(&[shard], &Question::Look(request), false, patience).await? {
            Said::Looked(reply) => Ok(reply),
            _ => Err(other_reply()),
        }
    }
}
