//! Who votes, and who leads: looked at every half second by the member that leads, changed one step at a time.
//!
//! How many are to vote in the catalog and in every other shard that is on all nodes stands in the book: three, or five
//! ([`book::Settings`]). Of those shards ([`next`]):
//!
//! | seen | done |
//! |---|---|
//! | the catalog: a member that has not been heard of for as long as [`Cluster::replace_after`] says; that is heard of again | the book says that it is absent; that it is not |
//! | a voter that is absent, or is to be without a vote (`loci cluster drain`), and a learner that has caught up | they change places, in all shards |
//! | fewer voters than are to vote, and learners that have caught up | as many of them become voters as make the number odd |
//! | more voters than are to vote | the others become learners, those first that are silent or drained, and not the leader |
//! | four voters, and no learner that has caught up | one becomes a learner: three survive as much |
//! | five voters, no learner that has caught up, and one of them drained, or two absent | it and another, or both, become learners: three that are there survive one more, and so do five no longer |
//! | another shard than the catalog: somebody in the book who has no part in it | a learner |
//!
//! and of all:
//!
//! | seen | done |
//! |---|---|
//! | a leader that is to be without a lead | another voter leads |
//! | a shard with holders of its own ([`super::placement`]): other members than those | one step towards them ([`towards`]) |
//! | another shard than the catalog: this node has led it for [`LEAD_KEPT`], and leads two more than another voter | that one leads it |
//!
//! Who is removed is first marked in the book, so that its number cannot be given again whatever happens in between.
//!
//! Always:
//! - one voter and one learner stay as they are: with two voters the death of either would stop the shard;
//! - where three vote, no change leaves fewer; and none lets the shard survive fewer losses than before, or than it is to.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use loci_raft::{MemberChange, MemberId, Members, Part};

use super::book::ShardLine;
use super::{Cluster, book};
use crate::shard::{Level, MemberProgress};
use crate::shards::CATALOG;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long this node keeps a lead before it gives it to another for the sake of balance: longer than most nodes take to stop, which
/// have handed theirs over.
const LEAD_KEPT: Duration = Duration::from_secs(10);
/// The least time between two such gifts of a node.
const BALANCE_EVERY: Duration = Duration::from_secs(3);
/// How many entries a learner may be behind to count as caught up.
const LAG_MAX: u64 = 1_000;
const CHANGE_TIME: Duration = Duration::from_secs(10);

/// Fewer voters than these are never had by taking votes away.
const VOTERS_LEAST: usize = 3;

/// A shard's members, as the node sees them that leads it.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Who takes part.
    pub members: &'a Members,
    /// How far each has come.
    pub progress: &'a [MemberProgress],
    /// The last entry.
    pub last: u64,
    /// Who leads.
    pub me: MemberId,
    /// How many are to vote.
    pub wanted: usize,
}

/// What is to become of a member's vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It may have one.
    Stays,
    /// It is to have none, if others can have it.
    Drained,
    /// The same, until it is heard of again.
    Absent,
    /// Its part is to end.
    Gone,
}

/// Whether a member has what the others have, but for what is on its way: one that has nothing yet has not, in however short a log.
fn has_caught_up(known: &MemberProgress, last: u64) -> bool {
    known.active && known.matched > 0 && known.matched + LAG_MAX >= last
}

/// Who is to change, given what is to become of each member.
pub fn next(seen: &Seen<'_>, fate: impl Fn(MemberId) -> Fate) -> Vec<MemberChange> {
    let Seen { members, progress, last, me, wanted } = *seen;
    if members.joint() {
        return Vec::new();
    }
    let known = |member: MemberId| progress.iter().find(|known| known.member == member);
    let stays = |member: MemberId| fate(member) == Fate::Stays;
    let fit = |member: &&MemberId| stays(**member) && known(**member).is_some_and(|known| has_caught_up(known, last));
    let mut ready: Vec<MemberId> = members.learners().iter().filter(fit).copied().collect();
    ready.sort_by_key(|member| std::cmp::Reverse(known(*member).map_or(0, |known| known.matched)));
    let voters = members.voters();
    let more = wanted.saturating_sub(voters.len()).min(ready.len());
    // An even number of voters survives no more than one fewer does.
    let more = if (voters.len() + more).is_multiple_of(2) { more.saturating_sub(1) } else { more };
    let of = |wanted: Fate| voters.iter().find(|voter| fate(**voter) == wanted);
    let gone = of(Fate::Gone);
    let drained = of(Fate::Absent).or(of(Fate::Drained));
    match (gone, drained, ready.first()) {
        _ if voters.len() < VOTERS_LEAST => {}
        (Some(gone), _, Some(ready)) => return vec![MemberChange::Remove(*gone), MemberChange::Promote(*ready)],
        (None, Some(drained), Some(ready)) => {
            return vec![MemberChange::Demote(*drained), MemberChange::Promote(*ready)];
        }
        _ => {}
    }
    if more > 0 {
        return ready.into_iter().take(more).map(MemberChange::Promote).collect();
    }
    let missed = |member: MemberId| fate(member) == Fate::Absent;
    let mut others: Vec<MemberId> = voters.iter().copied().filter(|voter| *voter != me).collect();
    let in_vain = others.iter().any(|voter| fate(*voter) == Fate::Drained)
        || others.iter().filter(|voter| missed(**voter)).count() >= 2;
    let fewer = match voters.len() {
        many if many > wanted => many - wanted,
        many if many > VOTERS_LEAST && many.is_multiple_of(2) => 1,
        many if many >= VOTERS_LEAST + 2 && in_vain => 2,
        _ => 0,
    };
    let worth = |member: MemberId| {
        let known = known(member);
        let active = known.is_some_and(|known| known.active);
        (
            !missed(member),
            stays(member),
            active,
            known.is_some_and(|it| has_caught_up(it, last)),
            std::cmp::Reverse(member),
        )
    };
    others.sort_by_key(|member| worth(*member));
    others.into_iter().take(fewer).map(MemberChange::Demote).collect()
}

/// What is to be done next for a shard whose members are to be others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Its members change.
    Change(Vec<MemberChange>),
    /// A holder is to lead it, so that this node can go.
    GiveLead,
    /// Nothing, just now.
    Wait,
}

/// One step from the members that there are to the holders that the book wants. There are never fewer voters than before, but
/// for those that leave when every holder votes.
pub fn towards(members: &Members, progress: &[MemberProgress], last: u64, holders: &[u64], me: MemberId) -> Step {
    let is_holder = |member: &MemberId| holders.contains(&member.0);
    if members.joint() || holders.is_empty() {
        return Step::Wait;
    }
    let missing = holders.iter().map(|holder| MemberId(*holder)).find(|holder| members.part(*holder) == Part::Removed);
    if let Some(missing) = missing {
        return Step::Change(vec![MemberChange::AddLearner(missing)]);
    }
    let caught_up = |member: &&MemberId| {
        let known = progress.iter().find(|known| known.member == **member);
        is_holder(member) && known.is_some_and(|known| has_caught_up(known, last))
    };
    let ready: Vec<MemberId> = members.learners().iter().filter(caught_up).copied().collect();
    let wait_for_none = !members.learners().iter().any(is_holder);
    let voters = members.voters();
    let leaving: Vec<MemberId> = voters.iter().filter(|voter| !is_holder(voter)).copied().collect();
    // This node last: whoever leads sees the others off first.
    match leaving.iter().find(|member| **member != me).or(leaving.first()).copied() {
        Some(last) if last == me && voters.iter().any(is_holder) => return Step::GiveLead,
        Some(last) if last == me => {
            // The only voter: the other votes too, for as long as it takes to hand over the lead.
            return ready.first().map_or(Step::Wait, |next| Step::Change(vec![MemberChange::Promote(*next)]));
        }
        Some(leaving) => match ready.first() {
            Some(next) => return Step::Change(vec![MemberChange::Remove(leaving), MemberChange::Promote(*next)]),
            None if wait_for_none => return Step::Change(vec![MemberChange::Remove(leaving)]),
            None => return Step::Wait,
        },
        None => {}
    }
    if let Some(learner) = members.learners().iter().find(|learner| !is_holder(learner)) {
        return Step::Change(vec![MemberChange::Remove(*learner)]);
    }
    let wanted = holders.len().saturating_sub(voters.len()).min(ready.len());
    let wanted = if (voters.len() + wanted).is_multiple_of(2) { wanted.saturating_sub(1) } else { wanted };
    match wanted {
        0 => Step::Wait,
        wanted => Step::Change(ready.into_iter().take(wanted).map(MemberChange::Promote).collect()),
    }
}

/// Who is to lead a shard in the place of this node, if it leads many more shards than somebody else who could. `leads` says
/// how many a member leads, `unfit` who is not to.
pub fn relief(
    me: MemberId,
    members: &Members,
    progress: &[MemberProgress],
    last: u64,
    leads: impl Fn(MemberId) -> usize,
    unfit: impl Fn(MemberId) -> bool,
) -> Option<MemberId> {
    let fit = progress.iter().filter(|known| {
        known.member != me
            && !unfit(known.member)
            && has_caught_up(known, last)
            && members.voters().contains(&known.member)
    });
    let least = fit.map(|known| known.member).min_by_key(|member| (leads(*member), *member))?;
    (!members.joint() && leads(me) >= leads(least) + 2).then_some(least)
}

/// How many shards a member leads, as far as this node knows.
fn leads(cluster: &Cluster, member: MemberId) -> usize {
    let elsewhere = book::shards(&cluster.catalog().newest()).into_keys();
    let all: std::collections::BTreeSet<u32> = elsewhere.chain([CATALOG]).collect();
    all.into_iter().filter(|shard| cluster.leader_of(*shard) == Some(member)).count()
}

/// Gives the lead away if somebody else should have it: of all shards of this node one at a time, and not again for a while.
async fn give_lead(
    cluster: &Cluster,
    (members, progress, last): (&Members, &[MemberProgress], u64),
    leaves: bool,
    drained: impl Fn(MemberId) -> bool,
) {
    let mut given = cluster.gifts().lock().await;
    let me = cluster.me();
    if (!leaves && given.elapsed() < BALANCE_EVERY) || cluster.shard().leader() != Some(me) {
        return;
    }
    let leads = |member| if leaves && member == me { usize::MAX } else { leads(cluster, member) };
    let shard = cluster.shard();
    // Where it is out of service it would be handed back.
    let unfit = |member| drained(member) || cluster.sightings().is_not_ready(member, shard.id());
    let Some(next) = relief(me, members, progress, last, leads, unfit) else { return };
    match shard.transfer(next, Instant::now() + CHANGE_TIME).await {
        Ok(()) => tracing::info!(shard = shard.id(), member = next.0, "another member leads now"),
        Err(error) => tracing::info!(shard = shard.id(), %error, "the lead has to stay"),
    }
    *given = Instant::now();
}

/// Looks for as long as the node runs.
pub async fn run(cluster: Cluster) {
    let mut heard: HashMap<MemberId, Instant> = HashMap::new();
    let mut leading_since = Instant::now();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let shard = cluster.shard();
        if shard.is_stopping() {
            return;
        }
        let now = Instant::now();
        let (Some(members), Some(leader)) = (shard.members(), shard.leader()) else { continue };
        if leader != cluster.me() {
            // Whoever leads next begins to count anew.
            heard.clear();
            leading_since = now;
            continue;
        }
        let progress = shard.progress();
        for known in &progress {
            if known.active || known.member == cluster.me() {
                heard.insert(known.member, now);
            } else {
                heard.entry(known.member).or_insert(now);
            }
        }
        let silent = |member| heard.get(&member).map_or(Duration::ZERO, |heard| now - *heard);
        let view = cluster.catalog().newest();
        let lines = book::read(&view);
        let last = shard.newest().index();
        let marked = members.all().find(|member| lines.get(member).is_some_and(|line| line.removed));
        let drained = |member| lines.get(&member).is_some_and(|line| line.drained);
        let fate = |member| match lines.get(&member) {
            Some(line) if line.removed && member != cluster.me() => Fate::Gone,
            Some(line) if line.absent && member != cluster.me() => Fate::Absent,
            Some(line) if line.drained => Fate::Drained,
            _ => Fate::Stays,
        };
        if shard.id() == CATALOG {
            // Who is silent in one shard only may have trouble with that: whether a node is there, the catalog's leader says.
            for known in progress.iter().filter(|known| known.member != cluster.me()) {
                let long = silent(known.member) >= cluster.replace_after();
                let is_news = |line: &book::Line| !line.removed && if line.absent { known.active } else { long };
                if lines.get(&known.member).is_some_and(is_news) {
                    tracing::info!(member = known.member.0, absent = long, "whether a member is there");
                    if let Err(failure) = cluster.mark_absent(known.member, long, now + CHANGE_TIME).await {
                        tracing::info!(
                            member = known.member.0,
                            message = failure.message,
                            "it could not be written down"
                        );
                    }
                }
            }
        }
        if let Some((line, _)) = book::shard(&view, shard.id()).filter(|(line, _)| line.is_placed()) {
            let kept = leading_since.elapsed() >= LEAD_KEPT;
            step_towards(&cluster, &line, (&members, &progress, last), drained, kept).await;
            continue;
        }
        let wanted = book::settings(&view).voters as usize;
        let seen = Seen { members: &members, progress: &progress, last, me: cluster.me(), wanted };
        let mut changes = next(&seen, fate);
        if let Some(marked) = marked
            && !changes.contains(&MemberChange::Remove(marked))
            && marked != cluster.me()
            && !members.joint()
        {
            // Its removal was begun, and got no further than the book.
            changes = vec![MemberChange::Remove(marked)];
        }
        if shard.id() != CATALOG {
            // The catalog's members are let in one by one, and take part in every other shard.
            let missing = lines.iter().find(|(member, line)| !line.removed && members.part(**member) == Part::Removed);
            if let Some((missing, _)) = missing.filter(|_| changes.is_empty() && !members.joint()) {
                changes = vec![MemberChange::AddLearner(*missing)];
            }
        }
        let me = cluster.me();
        let leaves = shard.id() != CATALOG && (marked == Some(me) || cluster.catalog().is_removed());
        let balances = shard.id() != CATALOG && changes.is_empty() && leading_since.elapsed() >= LEAD_KEPT;
        if leaves || balances || drained(me) {
            give_lead(&cluster, (&members, &progress, last), leaves || drained(me), drained).await;
        }
        if leaves {
            continue;
        }
        if changes.is_empty() {
            continue;
        }
        let removed = changes.iter().filter(|change| matches!(change, MemberChange::Remove(_)));
        let mut all_marked = true;
        for change in removed {
            all_marked &= cluster.mark_removed(change.member(), now + CHANGE_TIME).await.is_ok();
        }
        if !all_marked {
            continue;
        }
        tracing::info!(shard = shard.id(), ?changes, "changing who votes");
        if let Err(error) = shard.change_members(changes, now + CHANGE_TIME).await {
            tracing::info!(%error, "the change has to wait");
        }
    }
}

/// One step of a shard that has holders of its own, at the node that leads it.
async fn step_towards(
    cluster: &Cluster,
    line: &ShardLine,
    (members, progress, last): (&Members, &[MemberProgress], u64),
    drained: impl Fn(MemberId) -> bool,
    kept: bool,
) {
    let (shard, me) = (cluster.shard(), cluster.me());
    let unfit = |member: MemberId| drained(member) || !line.holders.contains(&member.0);
    match towards(members, progress, last, &line.holders, me) {
        Step::Change(changes) => {
            // Whoever has thrown away what he had, and is no holder any more, must not be made a member by an old book.
            let newest = cluster.catalog().view(Level::Latest, Some(Instant::now() + CHANGE_TIME)).await;
            if newest.ok().and_then(|view| book::shard(&view, shard.id())).is_none_or(|(newest, _)| newest != *line) {
                return;
            }
            tracing::info!(shard = shard.id(), ?changes, "changing who takes part");
            if let Err(error) = shard.change_members(changes, Instant::now() + CHANGE_TIME).await {
                tracing::info!(shard = shard.id(), %error, "the change has to wait");
            }
        }
        Step::GiveLead => give_lead(cluster, (members, progress, last), true, unfit).await,
        Step::Wait if drained(me) => give_lead(cluster, (members, progress, last), true, unfit).await,
        Step::Wait if kept => give_lead(cluster, (members, progress, last), false, unfit).await,
        Step::Wait => {}
    }
}

#[cfg(test)]
mod tests;
