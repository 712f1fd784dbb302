//! Namespaces with shards of their own: how one comes to have them, and how what is said of one reaches them all.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use loci_index::command::{Command, Outcome, Refusal};
use loci_index::view::View;
use tonic::Code;

use super::book::{NamespaceLine, ShardLine};
use super::{Cluster, book, mirror, placement};
use crate::doors::grpc::{Failure, being_made};
use crate::identity::random_bytes;
use crate::router::{Found, Route, SHARDS_MAX};
use crate::shard::Level;
use crate::shards::CATALOG;

/// How often it is looked whether a shard answers.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often shards are asked for when others ask for some at the same time.
const ATTEMPTS: usize = 10;
/// How long a shard is waited for that nobody leads, where it can do later what is asked for.
const UNLED_TIME: Duration = Duration::from_secs(5);

impl Cluster {
    /// Gives a namespace that is about to be made so many shards, which answer then. Says the version of its line, which
    /// [`Cluster::made`] needs; none if there is nothing to say: it wants none, or it is there already.
    pub async fn give_shards(
        &self,
        namespace: &str,
        count: u32,
        replicas: u32,
        deadline: Instant,
    ) -> Result<Option<u64>, Failure> {
        if !matches!(replicas, 0 | 1 | 3 | 5) {
            let message = format!("a shard has 1, 3 or 5 members, or one on every node (0), not {replicas}");
            return Err(Failure::invalid("out_of_bounds", message));
        }
        if replicas > 0 && count == 0 {
            let message = "only a namespace with shards of its own can be on some nodes only: give it --shards";
            return Err(Failure::invalid("out_of_bounds", message));
        }
        if count > SHARDS_MAX {
            let message = format!("a namespace has at most {SHARDS_MAX} shards, not {count}");
            return Err(Failure::invalid("out_of_bounds", message));
        }
        let catalog = self.of_catalog();
        if replicas > 0 {
            // Which nodes answer just now.
            self.look_at(book::read(&self.catalog().newest()).into_keys()).await;
        }
        if count > 0 {
            for envelope in book::making() {
                catalog.write(envelope, deadline).await?;
            }
        }
        for _ in 0..ATTEMPTS {
            let view = self.catalog().view(Level::Latest, Some(deadline)).await?;
            if view.has_namespace(namespace) {
                // Making it will say so.
                return Ok(None);
            }
            if let Some((_, version)) = book::namespace(&view, namespace) {
                // Of one that was dropped, or that nobody made in the end. Whoever is making it just now is told.
                self.take_out(namespace, version, deadline).await?;
                continue;
            }
            if count == 0 {
                return Ok(None);
            }
            let (line, new) = self.choose_shards(&view, count, replicas)?;
            let shards = line.shards.clone();
            let envelope = book::founding(&view, namespace, &line, &new).ok_or_else(nobody)?;
            // Refused if somebody else has just made one of them; then those are there.
            if let Outcome::Written { version, .. } = catalog.write(envelope, deadline).await?.outcome {
                self.wait_for(shards, deadline).await?;
                return Ok(Some(version));
            }
        }
        Err(Failure::new(Code::Aborted, "conflict", "others make shards at the same time; retry"))
    }

    /// Shards are shared: those that there are come first, beginning with those that hold the fewest namespaces.
    fn choose_shards(
        &self,
        view: &View,
        count: u32,
        replicas: u32,
    ) -> Result<(NamespaceLine, BTreeMap<u32, ShardLine>), Failure> {
        let there = book::shards(view);
        // One that nobody leads may be lost for good.
        let is_led = |id: u32, line: &ShardLine| !line.is_placed() || self.led(id).is_some();
        let alike = there.iter().filter(|(id, line)| line.replicas == replicas && is_led(**id, line));
        let mut load: BTreeMap<u32, usize> = alike.map(|(id, _)| (*id, 0)).collect();
        for shard in book::namespaces(view).values().flat_map(|line| &line.shards) {
            if let Some(load) = load.get_mut(shard) {
                *load += 1;
            }
        }
        let nodes = placement::nodes(self);
        let placed = there.iter().filter(|(_, line)| line.is_placed());
        let mut held: BTreeMap<u32, placement::Held> =
            placed.map(|(id, line)| (*id, placement::Held::of(line, None))).collect();
        let mut shards: Vec<u32> = load.keys().copied().collect();
        shards.sort_by_key(|id| (load[id], *id));
        shards.truncate(count as usize);
        let mut new = BTreeMap::new();
        let mut next = there.last_key_value().map_or(CATALOG, |(last, _)| *last);
        while shards.len() < count as usize {
            next += 1;
            let members = self.catalog().members().ok_or_else(nobody)?;
            let founders: Vec<u64> = match replicas {
                0 => members.voters().iter().map(|member| member.0).collect(),
                replicas => placement::founders(&nodes, &held, replicas as usize),
            };
            if founders.is_empty() {
                let message = "no node can be given a shard just now: all are drained, or not heard of; retry";
                return Err(Failure::new(Code::Unavailable, "no_node", message));
            }
            let holders = if replicas == 0 { Vec::new() } else { founders.clone() };
            let key: [u8; 32] =
                random_bytes().map_err(|error| Failure::new(Code::Internal, "no_random_bytes", error.to_string()))?;
            let digest_key = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let line = ShardLine { founders, digest_key, replicas, holders, leaving: Vec::new(), moved: false };
            if replicas > 0 {
                held.insert(next, placement::Held::of(&line, None));
            }
            new.insert(next, line);
            shards.push(next);
        }
        shards.sort_unstable();
        Ok((NamespaceLine { shards, made: false, replicas }, new))
    }

    /// Says that a namespace was made with the shards of its line, which is of this version. Not if it has another by now.
    pub async fn made(&self, namespace: &str, version: u64, deadline: Instant) -> Result<(), Failure> {
        let view = self.catalog().view(Level::Latest, Some(deadline)).await?;
        if let Some((line, found)) = book::namespace(&view, namespace)
            && found == version
            && let Some(envelope) =
                book::replacing(&view, namespace, version, Some(&NamespaceLine { made: true, ..line }))
            && book::is_done(&self.of_catalog().write(envelope, deadline).await?.outcome)
        {
            return Ok(());
        }
        let message =
            format!("somebody else made or dropped namespace {namespace:?} at the same time: drop it, and retry");
        Err(Failure::new(Code::Aborted, "conflict", message))
    }

    /// Has every shard of a namespace that is on some nodes only have so many members from now on: they come or go one at a time.
    pub async fn set_replicas(&self, namespace: &str, replicas: u32, deadline: Instant) -> Result<(), Failure> {
        if !matches!(replicas, 1 | 3 | 5) {
            return Err(Failure::invalid("out_of_bounds", format!("a shard has 1, 3 or 5 members, not {replicas}")));
        }
        for _ in 0..ATTEMPTS {
            let view = self.catalog().view(Level::Latest, Some(deadline)).await?;
            if !view.has_namespace(namespace) {
                return Err(Refusal::UnknownNamespace(namespace.into()).into());
            }
            let shards = match Route::find(&view, namespace) {
                Found::Catalog => Vec::new(),
                Found::BeingMade => return Err(being_made(namespace)),
                Found::Route(route) => route.shards().to_vec(),
            };
            let is_placed = |id: &u32| book::shard(&view, *id).is_some_and(|(line, _)| line.is_placed());
            if shards.is_empty() || !shards.iter().all(is_placed) {
                let message = format!(
                    "every node has all of namespace {namespace:?}, which was made without --replicas, and that cannot change: make \
                     another with `loci namespace create NAME --shards N --replicas {replicas}`, and write its records there. How \
                     many members vote where every node has a part, `loci cluster voters` says"
                );
                return Err(Failure::new(Code::FailedPrecondition, "on_all_nodes", message));
            }
            let nodes = placement::nodes(self).into_iter().filter(|node| !node.leaves).count();
            if nodes < replicas as usize {
                let message = format!(
                    "{replicas} members of a shard are on {replicas} nodes, and there are {nodes} that are not drained, removed or \
                     silent for long: have more nodes join, then repeat this"
                );
                return Err(Failure::new(Code::FailedPrecondition, "too_few_nodes", message));
            }
            let envelope = book::resizing(&view, namespace, replicas).ok_or_else(nobody)?;
            if book::is_done(&self.of_catalog().write(envelope, deadline).await?.outcome) {
                tracing::info!(namespace, replicas, "the shards of a namespace are to have another number of members");
                return self.wait_lines(&shards, deadline).await;
            }
            // Somebody else has changed one of the lines meanwhile.
        }
        Err(Failure::new(Code::Aborted, "conflict", "others change namespaces at the same time; retry"))
    }

    /// Waits until these shards are to have as many members as namespaces want, which is written down where the catalog is led.
    async fn wait_lines(&self, shards: &[u32], deadline: Instant) -> Result<(), Failure> {
        loop {
            let view = self.catalog().view(Level::Latest, Some(deadline)).await?;
            let namespaces = book::namespaces(&view);
            let told = |id: &u32| {
                book::shard(&view, *id).is_none_or(|(line, _)| line.replicas == line.wanted(*id, &namespaces))
            };
            if shards.iter().all(told) {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes out a namespace's line of this version.
    pub async fn take_out(&self, namespace: &str, version: u64, deadline: Instant) -> Result<(), Failure> {
        let view = self.catalog().view(Level::Latest, Some(deadline)).await?;
        if let Some(envelope) = book::replacing(&view, namespace, version, None) {
            // Refused if it has another by now.
            self.of_catalog().write(envelope, deadline).await?;
        }
        Ok(())
    }

    /// Waits until these shards are led, here or elsewhere.
    async fn wait_for(&self, shards: Vec<u32>, deadline: Instant) -> Result<(), Failure> {
        for id in shards {
            loop {
                let here = self.held(id);
                if here.as_ref().is_some_and(|shard| shard.is_ready() && shard.leader().is_some())
                    || (here.is_none() && self.led(id).is_some_and(|part| part.ready))
                {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(Failure::new(
                        Code::Unavailable,
                        "starting",
                        format!("shard {id} does not answer yet; retry"),
                    ));
                }
                tokio::time::sleep(LOOK_EVERY).await;
                // One that not every node has is asked of those that are to have it.
                self.look_for(id).await;
            }
        }
        Ok(())
    }

    /// Has every shard of a collection's namespace have it as the catalog does now. Says where their logs then stand; nothing for
    /// one without shards.
    pub async fn install(&self, namespace: &str, name: &str, deadline: Instant) -> Result<Vec<(u32, u64)>, Failure> {
        let catalog = self.catalog().view(Level::Latest, Some(deadline)).await?;
        let Some(route) = Route::find(&catalog, namespace).route() else { return Ok(Vec::new()) };
        // Somebody may have dropped it meanwhile.
        let Some(found) = catalog.collection(namespace, name) else { return Ok(Vec::new()) };
        let command = mirror::installation(found.id().0, namespace, name, found.schema());
        let each = route.shards().iter();
        try_join_all(each.map(|shard| mirror::bring_about(self, *shard, command.clone(), deadline))).await
    }

    /// Has every shard of a namespace drop what the catalog has dropped. Says where their logs then stand. One that nobody leads
    /// does it when somebody does again; whoever asked does not wait for that.
    pub async fn drop_in(
        &self,
        route: &Route,
        collections: &[u64],
        deadline: Instant,
    ) -> Result<Vec<(u32, u64)>, Failure> {
        let dropping = route.shards().iter().map(|&shard| async move {
            let mut at = None;
            for &collection in collections {
                loop {
                    // Who led a moment ago may have died since, which is not known at once.
                    let until = deadline.min(Instant::now() + UNLED_TIME);
                    let command = Command::DropCollection { collection };
                    match mirror::bring_about(self, shard, command, until).await {
                        Ok(index) => break at = Some(index),
                        Err(failure) if self.leader_of(shard).is_none() => {
                            tracing::warn!(shard, error = failure.message, "nobody leads it: it drops later");
                            return Ok(at);
                        }
                        Err(_) if (until..deadline).contains(&Instant::now()) => {}
                        Err(failure) => return Err(failure),
                    }
                }
            }
            Ok::<_, Failure>(at)
        });
        Ok(try_join_all(dropping).await?.into_iter().flatten().collect())
    }
}

fn nobody() -> Failure {
    Failure::new(Code::Unavailable, "starting", "the catalog is not there yet; retry")
}
