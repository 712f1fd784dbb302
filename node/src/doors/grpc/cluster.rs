//! What `Admin` says of the cluster, and does with it. Asked anywhere, answered where the shard is led.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::{Duration, Instant};

use loci_raft::{MemberChange, MemberId, Part};
use loci_wire::v1;
use loci_wire::v1::admin_client::AdminClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::status::Failure;
use crate::cluster::transfers::Direction;
use crate::cluster::{Cluster, book, links, placement, sightings};
use crate::shard::{ChangeError, Level, ShardHandle};
use crate::shards::CATALOG;

/// How often a change is tried that has to wait for another.
const CHANGE_RETRY: Duration = Duration::from_millis(100);
/// How often the settings are written anew that others change at the same time.
const SETTING_ATTEMPTS: usize = 10;
/// A node that answered in this time runs.
const HEARD_OF: Duration = Duration::from_secs(5);

/// Who takes part, and how they are doing.
pub async fn describe(
    cluster: &Cluster,
    request: v1::DescribeClusterRequest,
    deadline: Instant,
) -> Result<v1::DescribeClusterReply, Failure> {
    let shard = cluster.shard();
    // A node that nobody leads, or whose leader does not answer, says what it knows itself.
    let soon = deadline.min(Instant::now() + Duration::from_secs(2));
    if let Some(leader) = cluster.leader(soon).await
        && leader != cluster.me()
        && let Ok(reply) =
            there(
                cluster,
                leader,
                soon,
                request,
                |mut admin, request| async move { admin.describe_cluster(request).await },
            )
            .await
    {
        return Ok(v1::DescribeClusterReply { member: cluster.me().0, ..reply });
    }
    let view = shard.newest();
    let lines = book::read(&view);
    if cluster.shards().handles().len() > 1 || !book::shards(&view).is_empty() {
        // How far the members of a shard are knows who leads it.
        let others = lines.iter().filter(|(_, line)| !line.removed);
        cluster.look_at(others.map(|(member, _)| *member).collect::<Vec<_>>()).await;
    }
    let shards = places(cluster);
    let members = shard.members();
    let part = |member: MemberId| members.as_ref().map_or(Part::Removed, |members| members.part(member));
    let leader = shard.leader();
    let last = view.index();
    let known = shard.progress().into_iter().map(|known| v1::MemberProgress {
        member: known.member.0,
        active: known.active || known.member == cluster.me(),
        // What its own disk has not yet is no lag of the one that leads.
        lag: if known.member == cluster.me() { 0 } else { last.saturating_sub(known.matched) },
        snapshot: known.snapshot,
    });
    let known: Vec<_> = known.collect();
    let sending = cluster.transfers().under_way();
    let strangers = cluster.links().strangers();
    let mut all: Vec<MemberId> = lines.keys().copied().collect();
    all.extend(members.iter().flat_map(|members| members.all()).filter(|member| !lines.contains_key(member)));
    all.sort_unstable();
    let own = cluster.own_line();
    let members = all.into_iter().map(|member| {
        let line = lines.get(&member).or_else(|| (member == cluster.me()).then_some(&own));
        let in_catalog = known.iter().find(|known| known.member == member.0);
        let alone = v1::MemberProgress { active: member == cluster.me(), ..v1::MemberProgress::default() };
        let worst = worst(in_catalog.unwrap_or(&alone), &shards, member);
        let sent = sending.iter().find(|sent| sent.member == member && sent.direction == Direction::Sent);
        let part = match part(member) {
            _ if leader == Some(member) => "leader",
            Part::Voter => "voter",
            Part::Learner => "learner",
            Part::Leaving => "leaving",
            Part::Removed if line.is_some_and(|line| line.removed) => "removed",
            Part::Removed => "joining",
        };
        v1::Member {
            member: member.0,
            node: line.map(|line| line.node.clone()).unwrap_or_default(),
            address: line.map(|line| line.address.clone()).unwrap_or_default(),
            part: part.into(),
            active: worst.active,
            lag: worst.lag,
            snapshot: worst.snapshot,
            snapshot_bytes: sent.map_or(0, |sent| sent.bytes),
            snapshot_bytes_total: sent.map_or(0, |sent| sent.bytes_total),
            note: line.map(|line| line.note.clone()).unwrap_or_default(),
            drained: line.is_some_and(|line| line.drained),
            stranger: line.and_then(|line| strangers.at(&line.address)).unwrap_or_default(),
        }
    });
    let members = members.collect();
    Ok(v1::DescribeClusterReply {
        cluster: cluster.identity().cluster.to_string(),
        member: cluster.me().0,
        leader: leader.map_or(0, |leader| leader.0),
        term: shard.status().term,
        members,
        shards,
        voters: book::settings(&cluster.catalog().newest()).voters,
    })
}

/// How a member is doing in the catalog and in all other shards, where it is doing worst.
fn worst(in_catalog: &v1::MemberProgress, shards: &[v1::ShardPlace], member: MemberId) -> v1::MemberProgress {
    let others = shards.iter().filter(|place| place.shard != CATALOG).flat_map(|place| &place.progress);
    others.filter(|known| known.member == member.0).fold(*in_catalog, |worst, known| v1::MemberProgress {
        member: member.0,
        active: worst.active && known.active,
        lag: worst.lag.max(known.lag),
        snapshot: worst.snapshot || known.snapshot,
    })
}

/// Says how many members are to vote where every node has a part.
pub async fn set_voters(
    cluster: &Cluster,
    request: v1::SetVotersRequest,
    deadline: Instant,
) -> Result<v1::SetVotersReply, Failure> {
    let voters = request.voters;
    if !book::VOTERS.contains(&voters) {
        let message =
            format!("3 or 5 members vote, not {voters}: 3 survive the loss of one node, 5 of any two at once");
        return Err(Failure::invalid("out_of_bounds", message));
    }
    let catalog = cluster.of_catalog();
    for envelope in book::making() {
        catalog.write(envelope, deadline).await?;
    }
    for _ in 0..SETTING_ATTEMPTS {
        let view = cluster.catalog().view(Level::Latest, Some(deadline)).await?;
        if book::settings(&view).voters == voters {
            return Ok(v1::SetVotersReply {});
        }
        let Some(envelope) = book::setting(&view, &book::Settings { voters }) else { break };
        if book::is_done(&catalog.write(envelope, deadline).await?.outcome) {
            tracing::info!(voters, "another number of members is to vote");
            return Ok(v1::SetVotersReply {});
        }
        // Somebody else set something meanwhile.
    }
    Err(Failure::new(Code::Aborted, "conflict", "others set the cluster at the same time; retry"))
}

/// Where the shards are, as this node sees it.
fn places(cluster: &Cluster) -> Vec<v1::ShardPlace> {
    let view = cluster.catalog().newest();
    let (namespaces, lines) = (book::namespaces(&view), book::shards(&view));
    let mut all: BTreeSet<u32> = lines.keys().copied().collect();
    all.extend(cluster.shards().handles().iter().map(ShardHandle::id));
    let place = |id: u32| {
        // Of one that is elsewhere, what its nodes said.
        let here = cluster.held(id).map(|shard| sightings::part(&shard));
        let v1::ShardPart { leader, term, voters, learners, records, .. } =
            here.or_else(|| cluster.sighted(id)).unwrap_or_default();
        let progress = cluster.led(id).map(|part| part.progress).unwrap_or_default();
        let (replicas, holders, leaving) =
            lines.get(&id).map(|line| (line.replicas, line.holders.clone(), line.leaving.clone())).unwrap_or_default();
        let namespaces = namespaces.iter().filter(|(_, line)| line.shards.contains(&id));
        v1::ShardPlace {
            shard: id,
            leader,
            term,
            voters,
            learners,
            namespaces: namespaces.map(|(name, _)| name.clone()).collect(),
            records,
            replicas,
            holders,
            leaving,
            progress,
        }
    };
    all.into_iter().map(place).collect()
}

/// Hands the lead to another member.
pub async fn transfer(
    cluster: &Cluster,
    request: v1::TransferLeaderRequest,
    deadline: Instant,
) -> Result<v1::TransferLeaderReply, Failure> {
    let id = request.shard.max(CATALOG);
    let Some(shard) = cluster.held(id) else {
        if book::shard(&cluster.catalog().newest(), id).is_none() {
            let message = format!("there is no shard {}; `loci cluster status` lists them", request.shard);
            return Err(Failure::new(Code::NotFound, "unknown_shard", message));
        }
        let leader = cluster.leader_of(id).filter(|leader| *leader != cluster.me());
        let nobody = || Failure::new(Code::Unavailable, "not_leader", "nobody is known to lead the shard; retry");
        return there(cluster, leader.ok_or_else(nobody)?, deadline, request, |mut admin, request| async move {
            admin.transfer_leader(request).await
        })
        .await;
    };
    let cluster = &cluster.of(shard);
    let to = MemberId(request.member);
    let takes_part = || cluster.shard().members().is_some_and(|members| members.part(to) != Part::Removed);
    if book::find(&cluster.catalog().newest(), to).is_none_or(|line| line.removed) && !takes_part() {
        let message = format!("there is no member {to}; `loci cluster status` lists them");
        return Err(Failure::new(Code::NotFound, "unknown_member", message));
    }
    let leader = leader(cluster, deadline).await?;
    if leader == to {
        return Ok(v1::TransferLeaderReply {});
    }
    if leader != cluster.me() {
        return there(cluster, leader, deadline, request, |mut admin, request| async move {
            admin.transfer_leader(request).await
        })
        .await;
    }
    cluster.shard().transfer(to, deadline).await?;
    Ok(v1::TransferLeaderReply {})
}

/// Takes a member's part away, and marks it in the book.
pub async fn remove(
    cluster: &Cluster,
    request: v1::RemoveMemberRequest,
    deadline: Instant,
) -> Result<v1::RemoveMemberReply, Failure> {
    let member = MemberId(request.member);
    let leader = leader(cluster, deadline).await?;
    if leader != cluster.me() {
        return there(cluster, leader, deadline, request, |mut admin, request| async move {
            admin.remove_member(request).await
        })
        .await;
    }
    if member == cluster.me() {
        let message = format!("member {member} leads the shard; hand the lead to another member first");
        return Err(Failure::new(Code::FailedPrecondition, "leads", message));
    }
    let view = cluster.shard().newest();
    let line = book::find(&view, member);
    let takes_part = || cluster.shard().members().is_some_and(|members| members.part(member) != Part::Removed);
    if line.is_none() && !takes_part() {
        let message = format!("there is no member {member}; `loci cluster status` lists them");
        return Err(Failure::new(Code::NotFound, "unknown_member", message));
    }
    let held = held_by(cluster, member);
    if !held.is_empty() && cluster.sightings().silent(member) < HEARD_OF {
        let message = format!(
            "member {member} holds shards {held:?}, which are on some nodes only: `loci cluster drain {member}` moves them away first"
        );
        return Err(Failure::new(Code::FailedPrecondition, "holds_shards", message));
    }
    let lost = only_copies(cluster, member);
    if !lost.is_empty() && !request.lose_copies {
        let message = format!(
            "member {member} does not answer and has the only copies of shards {lost:?} (`loci cluster status` shows whose they are): \
             start it again and drain it, or give up their records for good with --lose-copies"
        );
        return Err(Failure::new(Code::FailedPrecondition, "only_copies", message));
    }
    cluster.mark_removed(member, deadline).await?;
    while takes_part() {
        match cluster.shard().change_members(vec![MemberChange::Remove(member)], deadline).await {
            Ok(()) | Err(ChangeError::Busy) => tokio::time::sleep(CHANGE_RETRY).await,
            Err(error) => return Err(error.into()),
        }
    }
    // The other shards' leaders see the mark, and let it go.
    let still = || {
        cluster.shards().handles().into_iter().find(|shard| {
            shard.id() != CATALOG && shard.members().is_some_and(|members| members.part(member) != Part::Removed)
        })
    };
    while let Some(shard) = still() {
        if Instant::now() >= deadline {
            let message = format!(
                "member {member} is out of the catalog and still takes part in shard {}; it goes as soon as that shard's leader \
                 can let it go: repeat the call to wait for it",
                shard.id()
            );
            return Err(Failure::new(Code::DeadlineExceeded, "still_takes_part", message));
        }
        tokio::time::sleep(CHANGE_RETRY).await;
    }
    Ok(v1::RemoveMemberReply {})
}

/// Takes a member's votes and leads away, and waits until others have them; or lets it have some again.
pub async fn drain(
    cluster: &Cluster,
    request: v1::DrainMemberRequest,
    deadline: Instant,
) -> Result<v1::DrainMemberReply, Failure> {
    let member = MemberId(request.member);
    if book::find(&cluster.catalog().newest(), member).is_none_or(|line| line.removed) {
        if member == cluster.me() {
            let message = format!(
                "member {member} is the only one: nobody else can have its votes. Start another node with --join"
            );
            return Err(Failure::new(Code::FailedPrecondition, "nobody_else", message));
        }
        let message = format!("there is no member {member}; `loci cluster status` lists them");
        return Err(Failure::new(Code::NotFound, "unknown_member", message));
    }
    cluster.mark_drained(member, !request.undo, deadline).await?;
    let holds = || -> BTreeSet<u32> {
        let votes = |shard: &ShardHandle| {
            shard.leader() == Some(member) || shard.members().is_some_and(|members| members.voters().contains(&member))
        };
        let here = cluster.shards().handles();
        let votes = here.iter().filter(|shard| votes(shard)).map(ShardHandle::id);
        votes.chain(held_by(cluster, member)).collect()
    };
    // Whoever asks wants to hear why it does not come to an end, and not that his time is up.
    let until = deadline - Duration::from_millis(200).min(deadline.saturating_duration_since(Instant::now()) / 2);
    while !request.undo && !holds().is_empty() {
        if Instant::now() >= until {
            if placement::pending(cluster) {
                let message =
                    format!("shards {:?} are still being moved away: repeat the call to wait for it", holds());
                return Err(Failure::new(Code::DeadlineExceeded, "still_takes_part", message));
            }
            let held = held_by(cluster, member);
            let fewer = match held.is_empty() {
                true => String::new(),
                false => format!(", have fewer members of shards {held:?} with `loci namespace replicas`"),
            };
            let message = format!(
                "member {member} still has a part in shards {:?}: nobody else could have it. Start another node with --join, which \
                 takes its place as soon as it has caught up{fewer}, or let it be as it was with `loci cluster drain {member} --undo`",
                holds()
            );
            return Err(Failure::new(Code::FailedPrecondition, "nobody_else", message));
        }
        tokio::time::sleep(CHANGE_RETRY).await;
    }
    Ok(v1::DrainMemberReply {})
}

/// The shards on some nodes only that a member holds, or has not thrown away yet.
fn held_by(cluster: &Cluster, member: MemberId) -> Vec<u32> {
    let has = |line: &book::ShardLine| line.holders.contains(&member.0) || line.leaving.contains(&member.0);
    placement::placed(cluster).into_iter().filter(|(_, line)| has(line)).map(|(id, _)| id).collect()
}

/// The shards on some nodes only, with records of some namespace, of which nobody but a member can have what is in them.
fn only_copies(cluster: &Cluster, member: MemberId) -> Vec<u32> {
    let view = cluster.catalog().newest();
    let (lines, namespaces) = (book::read(&view), book::namespaces(&view));
    let is_there = |holder: u64| lines.get(&MemberId(holder)).is_some_and(|line| !line.removed);
    let is_used = |id: u32| namespaces.values().any(|line| line.shards.contains(&id));
    // Who answers without it was only named to hold the shard; who does not answer may have it.
    let may_have = |id: u32, holder: u64| match MemberId(holder) {
        me if me == cluster.me() => cluster.answers(id),
        other => cluster.sightings().silent(other) >= HEARD_OF || cluster.sightings().is_ready(other, id),
    };
    let alone = |(id, line): (u32, book::ShardLine)| {
        let holders: Vec<u64> = line.holders.into_iter().chain(line.leaving).collect();
        let mut others = holders.iter().filter(|holder| **holder != member.0 && is_there(**holder));
        let is_last = holders.contains(&member.0) && !others.any(|other| may_have(id, *other));
        (is_last && is_used(id)).then_some(id)
    };
    placement::placed(cluster).into_iter().filter_map(alone).collect()
}

async fn leader(cluster: &Cluster, deadline: Instant) -> Result<MemberId, Failure> {
    let nobody = || Failure::new(Code::Unavailable, "not_leader", "nobody leads the shard just now; retry");
    cluster.leader(deadline).await.ok_or_else(nobody)
}

/// Asks the same where the shard is led.
async fn there<Q, R, F: Future<Output = Result<Response<R>, Status>>>(
    cluster: &Cluster,
    leader: MemberId,
    deadline: Instant,
    request: Q,
    call: impl FnOnce(AdminClient<Channel>, Request<Q>) -> F,
) -> Result<R, Failure> {
    let line = book::find(&cluster.catalog().newest(), leader);
    let unknown = || Failure::new(Code::Unavailable, "not_leader", format!("nothing is known of member {leader} yet"));
    let address = line.ok_or_else(unknown)?.address;
    let channel = links::endpoint(&address).map_err(|status| Failure::from_status(&status))?.connect_lazy();
    let mut request = Request::new(request);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    match call(AdminClient::new(channel), request).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(Failure::from_status(&status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_as_well_as_where_it_is_doing_worst() {
        let known = |member, active, lag, snapshot| v1::MemberProgress { member, active, lag, snapshot };
        let place = |shard, progress: &[v1::MemberProgress]| v1::ShardPlace {
            shard,
            progress: progress.to_vec(),
            ..v1::ShardPlace::default()
        };
        let shards = [
            place(1, &[known(2, false, 900, true)]),
            place(2, &[known(1, true, 0, false), known(2, true, 70, false)]),
            place(3, &[known(1, true, 5, true), known(2, false, 7, false)]),
        ];
        let of = |member| worst(&known(member, true, 3, false), &shards, MemberId(member));
        assert_eq!(of(1), known(1, true, 5, true));
        assert_eq!(of(2), known(2, false, 70, false), "the catalog's leader has spoken for the catalog");
        assert_eq!(of(3), known(3, true, 3, false));
    }
}
