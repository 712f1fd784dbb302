//! Who votes, and who leads: looked at every half second by the member that leads, changed one step at a time.
//!
//! | seen | done |
//! |---|---|
//! | fewer than three voters, and learners that have caught up | as many of them become voters as make the number odd |
//! | the catalog: a voter that has not been heard of for [`REPLACE_AFTER`], and a learner that has caught up | the one takes the place of the other, in all shards |
//!
//! | a voter that is to be without a vote (`loci cluster drain`), and a learner that has caught up | they change places |
//! | a leader that is to be without a lead | another voter leads |
//! | another shard than the catalog, on every node: somebody in the book who has no part in it | a learner |
//! | a shard with holders of its own ([`super::placement`]): other members than those | one step towards them ([`towards`]) |
//! | another shard than the catalog: this node has led it for [`LEAD_KEPT`], and leads two more than another voter | that one leads it |
//!
//! Who is removed is first marked in the book, so that its number cannot be given again whatever happens in between.
//!
//! One voter and one learner stay as they are: with two voters the death of either would stop the shard.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use loci_raft::{MemberChange, MemberId, Members, Part};
use loci_wire::v1;

use super::book::ShardLine;
use super::{Cluster, book, links};
use crate::shard::{Level, MemberProgress};
use crate::shards::CATALOG;

/// How many members vote once there are as many.
pub const VOTERS: usize = 3;
/// How long a voter may be silent until another takes its place.
pub const REPLACE_AFTER: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long this node keeps a lead before it gives it to another for the sake of balance: longer than most nodes take to stop, which
/// have handed theirs over.
const LEAD_KEPT: Duration = Duration::from_secs(10);
/// The least time between two such gifts of a node.
const BALANCE_EVERY: Duration = Duration::from_secs(3);
/// How many entries a learner may be behind to count as caught up.
const LAG_MAX: u64 = 1_000;
const CHANGE_TIME: Duration = Duration::from_secs(10);
/// How long one of the others may take to hear where this node is.
const TELL_TIME: Duration = Duration::from_secs(5);

/// What to change, given how long each voter has been silent, and who is to be without a vote.
pub fn next(
    members: &Members,
    progress: &[MemberProgress],
    last: u64,
    silent: impl Fn(MemberId) -> Duration,
    drained: impl Fn(MemberId) -> bool,
) -> Vec<MemberChange> {
    if members.joint() {
        return Vec::new();
    }
    let caught_up = |member: &&MemberId| {
        let known = progress.iter().find(|known| known.member == **member);
        !drained(**member) && known.is_some_and(|known| known.active && known.matched + LAG_MAX >= last)
    };
    let ready: Vec<MemberId> = members.learners().iter().filter(caught_up).copied().collect();
    let voters = members.voters().len();
    if voters < VOTERS {
        let wanted = (VOTERS - voters).min(ready.len());
        // An even number of voters survives no more than one fewer does.
        let wanted = if (voters + wanted).is_multiple_of(2) { wanted.saturating_sub(1) } else { wanted };
        return ready.into_iter().take(wanted).map(MemberChange::Promote).collect();
    }
    let dead = members.voters().iter().find(|voter| silent(**voter) >= REPLACE_AFTER);
    let leaving = members.voters().iter().find(|voter| drained(**voter));
    match (dead, leaving, ready.first()) {
        (Some(dead), _, Some(ready)) => vec![MemberChange::Remove(*dead), MemberChange::Promote(*ready)],
        (None, Some(leaving), Some(ready)) => vec![MemberChange::Demote(*leaving), MemberChange::Promote(*ready)],
        _ => Vec::new(),
    }
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
        is_holder(member) && known.is_some_and(|known| known.active && known.matched + LAG_MAX >= last)
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

/// Sees to it that the others know where this node is, which may have another address than when it was last here. Until they
/// do, a leader among them cannot reach it: so it asks them, as a node does that joins.
pub async fn tell_address(cluster: Cluster) {
    loop {
        let lines = book::read(&cluster.catalog().newest());
        match lines.get(&cluster.me()) {
            // The first node that joins sees to it that its founder is in the book.
            None => return,
            Some(line) if line.address == cluster.address() => return,
            Some(_) => {}
        }
        let others = lines.iter().filter(|(member, line)| **member != cluster.me() && !line.removed);
        let mut told = false;
        for (_, line) in others {
            let node = cluster.identity().node.0.to_vec();
            let request = v1::JoinRequest { node: node.into(), address: cluster.address().to_owned() };
            let asked = async { links::stranger(&line.address)?.join(request).await };
            told |= matches!(tokio::time::timeout(TELL_TIME, asked).await, Ok(Ok(_)));
        }
        if !told && let Err(failure) = cluster.enter_book(Instant::now() + TELL_TIME).await {
            tracing::debug!(error = failure.message, "nobody could be told where this node is");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Who is to lead a shard in the place of this node, if it leads many more shards than somebody else who could. `leads` says
/// how many a member leads.
pub fn relief(
    me: MemberId,
    members: &Members,
    progress: &[MemberProgress],
    last: u64,
    leads: impl Fn(MemberId) -> usize,
    drained: impl Fn(MemberId) -> bool,
) -> Option<MemberId> {
    let fit = progress.iter().filter(|known| {
        known.member != me
            && !drained(known.member)
            && known.active
            && known.matched + LAG_MAX >= last
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
    let Some(next) = relief(me, members, progress, last, leads, drained) else { return };
    let shard = cluster.shard();
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
        // Who is silent in one shard only may have trouble with that: whether a node is gone, the catalog's leader says.
        let silent = |member| match heard.get(&member) {
            Some(heard) if shard.id() == CATALOG => now - *heard,
            _ => Duration::ZERO,
        };
        let lines = book::read(&cluster.catalog().newest());
        let last = shard.newest().index();
        let marked = members.all().find(|member| lines.get(member).is_some_and(|line| line.removed));
        let drained = |member| lines.get(&member).is_some_and(|line| line.drained);
        if let Some((line, _)) =
            book::shard(&cluster.catalog().newest(), shard.id()).filter(|(line, _)| line.is_placed())
        {
            let kept = leading_since.elapsed() >= LEAD_KEPT;
            step_towards(&cluster, &line, (&members, &progress, last), drained, kept).await;
            continue;
        }
        let mut changes = next(&members, &progress, last, silent, drained);
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
mod tests {
    use super::*;

    #[test]
    fn members_come_to_be_the_holders_step_by_step_and_there_are_never_fewer_voters() {
        // From every set of members to every set of holders of four nodes; whoever is added has caught up at the next look.
        let sets: Vec<Vec<u64>> =
            (1_u64..16).map(|bits| (1..=4).filter(|n| bits >> (n - 1) & 1 == 1).collect()).collect();
        let all = [at(1, 9, true), at(2, 9, true), at(3, 9, true), at(4, 9, true)];
        for from in &sets {
            for to in &sets {
                let mut now = members(from, &[]);
                let mut me = MemberId(from[0]);
                let mut steps = 0;
                loop {
                    steps += 1;
                    assert!(steps < 30, "from {from:?} to {to:?}: {now:?}");
                    match towards(&now, &all, 9, to, me) {
                        Step::Change(changes) => {
                            let next = now.enter(&changes).unwrap();
                            let next = if next.joint() { next.leave() } else { next };
                            let least = now.voters().len().min(to.len());
                            assert!(next.voters().len() >= least, "from {from:?} to {to:?}: {changes:?} of {now:?}");
                            assert!(next.voters().contains(&me), "whoever leads stays: {changes:?} of {now:?}");
                            now = next;
                        }
                        Step::GiveLead => {
                            me = *now.voters().iter().find(|voter| to.contains(&voter.0)).unwrap();
                        }
                        Step::Wait => break,
                    }
                }
                let mut there: Vec<u64> = now.all().map(|member| member.0).collect();
                there.sort_unstable();
                assert_eq!(there, *to, "from {from:?}: {now:?}");
                let odd = if to.len().is_multiple_of(2) { to.len() - 1 } else { to.len() };
                assert!(now.voters().len() >= odd, "from {from:?} to {to:?}: {now:?}");
            }
        }
    }

    #[test]
    fn who_has_not_caught_up_gets_no_vote_and_takes_nobodys() {
        let behind = [at(1, 9_000, true), at(2, 9_000, true), at(3, 9_000, true), at(4, 10, true)];
        let learning = members(&[1, 2, 3], &[4]);
        assert_eq!(towards(&learning, &behind, 9_000, &[1, 2, 4], MemberId(1)), Step::Wait);
        let there = [at(1, 9_000, true), at(2, 9_000, true), at(3, 0, false), at(4, 8_500, true)];
        let changes = vec![MemberChange::Remove(MemberId(3)), MemberChange::Promote(MemberId(4))];
        assert_eq!(towards(&learning, &there, 9_000, &[1, 2, 4], MemberId(1)), Step::Change(changes));
    }

    fn members(voters: &[u64], learners: &[u64]) -> Members {
        let ids = |numbers: &[u64]| numbers.iter().map(|number| MemberId(*number)).collect::<Vec<_>>();
        Members::with_learners(ids(voters), ids(learners)).unwrap()
    }

    fn at(member: u64, matched: u64, active: bool) -> MemberProgress {
        MemberProgress { member: MemberId(member), matched, active, snapshot: false }
    }

    fn promote(numbers: &[u64]) -> Vec<MemberChange> {
        numbers.iter().map(|number| MemberChange::Promote(MemberId(*number))).collect()
    }

    fn nobody(_: MemberId) -> bool {
        false
    }

    #[test]
    fn who_is_drained_gives_vote_and_lead_to_others_if_there_are_any() {
        let never = |_| Duration::ZERO;
        let all = [at(1, 9, true), at(2, 9, true), at(3, 9, true), at(4, 9, true), at(5, 9, true)];
        let second = |member| member == MemberId(2);
        let changed = vec![MemberChange::Demote(MemberId(2)), MemberChange::Promote(MemberId(4))];
        assert_eq!(next(&members(&[1, 2, 3], &[4]), &all, 9, never, second), changed);
        assert_eq!(next(&members(&[1, 2, 3], &[]), &all, 9, never, second), [], "nobody could take its place");
        assert_eq!(next(&members(&[1, 3, 4], &[2]), &all, 9, never, second), []);
        assert_eq!(next(&members(&[1], &[2, 3, 4]), &all, 9, never, second), promote(&[3, 4]));
        let few = |_: MemberId| 0;
        let leads = |member: MemberId| if member == MemberId(2) { usize::MAX } else { few(member) };
        let first = |member| member == MemberId(1) || member == MemberId(2);
        assert_eq!(relief(MemberId(2), &members(&[1, 2, 3], &[4]), &all, 9, leads, first), Some(MemberId(3)));
    }

    #[test]
    fn the_number_of_voters_is_odd() {
        let never = |_| Duration::ZERO;
        let all = [at(1, 5_000, true), at(2, 5_000, true), at(3, 4_900, true), at(4, 10, true), at(5, 5_000, false)];
        assert_eq!(next(&members(&[1], &[2]), &all, 5_000, never, nobody), []);
        assert_eq!(next(&members(&[1], &[2, 3]), &all, 5_000, never, nobody), promote(&[2, 3]));
        assert_eq!(next(&members(&[1, 2], &[3]), &all, 5_000, never, nobody), promote(&[3]));
        assert_eq!(next(&members(&[1], &[2, 4, 5]), &all, 5_000, never, nobody), [], "two are not caught up");
        assert_eq!(next(&members(&[1, 2, 3], &[4]), &all, 5_000, never, nobody), []);
    }

    #[test]
    fn a_lead_goes_to_whoever_leads_least_and_could() {
        let all = [at(1, 9_000, true), at(2, 9_000, true), at(3, 9_000, true), at(4, 9_000, true)];
        let voters = members(&[1, 2, 3], &[4]);
        let leads = |counts: [usize; 4]| move |member: MemberId| counts[member.0 as usize - 1];
        let me = MemberId(1);
        assert_eq!(
            relief(me, &voters, &all, 9_000, leads([3, 2, 1, 0]), nobody),
            Some(MemberId(3)),
            "a learner cannot lead"
        );
        assert_eq!(relief(me, &voters, &all, 9_000, leads([2, 2, 1, 0]), nobody), None, "one more is no reason");
        let away = [at(1, 9_000, true), at(2, 9_000, true), at(3, 9_000, false)];
        assert_eq!(relief(me, &voters, &away, 9_000, leads([4, 2, 0, 0]), nobody), Some(MemberId(2)));
        let behind = [at(1, 9_000, true), at(2, 7_000, true), at(3, 9_000, false)];
        assert_eq!(relief(me, &voters, &behind, 9_000, leads([4, 0, 0, 0]), nobody), None);
    }

    #[test]
    fn a_voter_that_is_silent_for_long_is_replaced_by_one_that_is_ready() {
        let silent = |member| if member == MemberId(2) { REPLACE_AFTER } else { Duration::ZERO };
        let all = [at(1, 9, true), at(2, 3, false), at(3, 9, true), at(4, 9, true)];
        let replaced = vec![MemberChange::Remove(MemberId(2)), MemberChange::Promote(MemberId(4))];
        assert_eq!(next(&members(&[1, 2, 3], &[4]), &all, 9, silent, nobody), replaced);
        assert_eq!(next(&members(&[1, 2, 3], &[]), &all, 9, silent, nobody), [], "nobody could take its place");
    }
}
