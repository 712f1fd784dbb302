//! The mirror: every shard of a namespace has the collections that the catalog says, under the same numbers.
//!
//! ```text
//!   create, change, drop --> catalog --> every shard of the namespace --> answered
//!                               |
//!        looked at now and then where a shard is led: what a node that died in between left undone is done
//! ```
//!
//! Always:
//! - a collection's number is given out by the catalog, once, and grows; a shard that has a collection of the same name under a
//!   greater number keeps that one. Whoever reads or writes a collection looks whether catalog and shards have it under the
//!   same number;
//! - what a shard has and the catalog does not was dropped: the shard is looked at first, and the catalog, as new as it can
//!   be, after it.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use loci_index::command::{Command, Installation, Outcome, Refusal, Schema};
use loci_index::view::View;

use super::{Cluster, book};
use crate::doors::grpc::Failure;
use crate::shard::Level;
use crate::shards::CATALOG;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a namespace may be in the making, or its line be left.
const LEFT_AFTER: Duration = Duration::from_secs(60);
/// How long one change may take.
const CHANGE_TIME: Duration = Duration::from_secs(5);

/// A collection of the catalog.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    namespace: String,
    name: String,
    schema: Schema,
}

/// What the catalog wants a shard to have.
fn wanted(catalog: &View, shard: u32) -> BTreeMap<u64, Wanted> {
    let here = book::namespaces(catalog);
    let collections = catalog.collections().filter(|collection| {
        here.get(collection.namespace()).is_some_and(|line| line.made && line.shards.contains(&shard))
    });
    let each = collections.map(|collection| {
        let (namespace, name) = (collection.namespace().to_owned(), collection.name().to_owned());
        (collection.id().0, Wanted { namespace, name, schema: collection.schema().clone() })
    });
    each.collect()
}

/// What has to be done in a shard so that it has what the catalog wants.
fn differences(shard: &View, wanted: &BTreeMap<u64, Wanted>) -> Vec<Command> {
    let gone = shard.collections().map(|collection| collection.id().0).filter(|id| !wanted.contains_key(id));
    let gone = gone.map(|collection| Command::DropCollection { collection });
    let other = wanted.iter().filter(|(id, wanted)| {
        let there = shard.collection(&wanted.namespace, &wanted.name);
        !there.is_some_and(|there| there.id().0 == **id && *there.schema() == wanted.schema)
    });
    let other = other.map(|(id, wanted)| installation(*id, &wanted.namespace, &wanted.name, &wanted.schema));
    gone.chain(other).collect()
}

/// The command that makes a shard have a collection.
pub fn installation(collection: u64, namespace: &str, name: &str, schema: &Schema) -> Command {
    let (namespace, name, schema) = (namespace.to_owned(), name.to_owned(), schema.clone());
    Command::InstallCollection(Installation { collection, namespace, name, schema }.into())
}

/// Has a shard do what another way may have done already. Says where its log then stands.
pub async fn bring_about(
    cluster: &Cluster,
    shard: u32,
    command: Command,
    deadline: Instant,
) -> Result<(u32, u64), Failure> {
    let written = cluster.write_in(shard, book::own(command), deadline).await?;
    match written.outcome {
        Outcome::Refused(refusal) if !matches!(refusal, Refusal::UnknownCollection(_) | Refusal::AlreadyExists(_)) => {
            Err(refusal.into())
        }
        _ => Ok((shard, written.index)),
    }
}

/// Takes out the lines of namespaces that are not there: whoever was about to make or to drop one has gone. `seen` is since when
/// each of them looks so.
async fn clean(cluster: &Cluster, seen: &mut HashMap<(String, u64), Instant>, deadline: Instant) {
    let Ok(view) = cluster.catalog().view(Level::Latest, Some(deadline)).await else { return };
    let left: Vec<(String, u64)> = book::namespaces(&view)
        .into_iter()
        .filter(|(name, line)| !line.made || !view.has_namespace(name))
        .filter_map(|(name, _)| Some((name.clone(), book::namespace(&view, &name)?.1)))
        .collect();
    seen.retain(|line, _| left.contains(line));
    for line in left {
        let since = *seen.entry(line.clone()).or_insert_with(Instant::now);
        if since.elapsed() < LEFT_AFTER {
            continue;
        }
        if let Some(envelope) = book::replacing(&view, &line.0, line.1, None) {
            tracing::info!(namespace = line.0, "the shards of a namespace that is not there are given back");
            // Refused if somebody makes it now.
            let _ = cluster.of_catalog().write(envelope, deadline).await;
        }
    }
}

/// Looks for as long as the node runs.
pub async fn run(cluster: Cluster) {
    let mut seen = HashMap::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if cluster.catalog().leader() == Some(cluster.me()) {
            clean(&cluster, &mut seen, Instant::now() + CHANGE_TIME).await;
        }
        for shard in cluster.shards().handles() {
            if shard.id() == CATALOG || shard.leader() != Some(cluster.me()) {
                continue;
            }
            let deadline = Instant::now() + CHANGE_TIME;
            let Ok(view) = shard.view(Level::Latest, Some(deadline)).await else { continue };
            let Ok(catalog) = cluster.catalog().view(Level::Latest, Some(deadline)).await else { continue };
            for command in differences(&view, &wanted(&catalog, shard.id())) {
                tracing::info!(shard = shard.id(), "the shard is brought into line with the catalog");
                if let Err(failure) = bring_about(&cluster, shard.id(), command, deadline).await {
                    tracing::warn!(shard = shard.id(), error = failure.message, "a shard has not what the catalog has");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loci_index::command::Entry;
    use loci_index::directory::RamDirectory;
    use loci_index::store::{Store, StoreOptions};

    use super::*;

    struct Trial(Store);

    impl Trial {
        fn new() -> Trial {
            Trial(Store::create(Arc::new(RamDirectory::new()), StoreOptions::default(), [7; 32], 0).unwrap())
        }

        fn take(&mut self, commands: Vec<Command>) {
            for command in commands {
                let entry = Entry { clock: 1, commands: vec![book::own(command)] };
                self.0.apply(self.0.applied() + 1, &entry.encode()).unwrap();
            }
        }

        fn names(&self) -> Vec<(u64, String)> {
            let view = self.0.view();
            view.collections().map(|found| (found.id().0, found.name().to_owned())).collect()
        }
    }

    #[test]
    fn a_shard_comes_to_have_what_the_catalog_has_and_no_more() {
        let (mut catalog, mut shard) = (Trial::new(), Trial::new());
        catalog.take(book::making().into_iter().map(|envelope| envelope.command).collect());
        let create = |name: &str| Command::CreateCollection {
            namespace: "wide".into(),
            name: name.into(),
            schema: Schema::default(),
        };
        let line = book::NamespaceLine { shards: vec![2, 3], made: true, replicas: 0 };
        let founding = book::founding(&catalog.0.view(), "wide", &line, &BTreeMap::new()).unwrap();
        catalog.take(vec![founding.command, Command::CreateNamespace { name: "wide".into() }]);
        catalog.take(vec![Command::CreateNamespace { name: "other".into() }, create("a"), create("b")]);
        let elsewhere =
            Command::CreateCollection { namespace: "other".into(), name: "x".into(), schema: Schema::default() };
        catalog.take(vec![elsewhere]);
        let (view, seen) = (catalog.0.view(), shard.0.view());
        assert_eq!(differences(&seen, &wanted(&view, 4)), [], "it is none of the namespace's shards");
        let all = wanted(&view, 2);
        assert_eq!(all.len(), 2);
        let [a, b] = [0, 1].map(|place| *all.keys().nth(place).unwrap());
        shard.take(differences(&seen, &all));
        assert_eq!(shard.names(), [(a, "a".into()), (b, "b".into())]);
        assert_eq!(differences(&shard.0.view(), &all), []);
        catalog.take(vec![Command::DropCollection { collection: a }, create("a")]);
        let again = wanted(&catalog.0.view(), 2);
        let commands = differences(&shard.0.view(), &again);
        shard.take(commands);
        let c = *again.keys().last().unwrap();
        assert!(c > b);
        assert_eq!(shard.names(), [(b, "b".into()), (c, "a".into())]);
        // Somebody who still believes in the first `a` does no harm.
        shard.take(vec![installation(a, "wide", "a", &Schema::default())]);
        assert_eq!(shard.names(), [(b, "b".into()), (c, "a".into())]);
        catalog.take(vec![Command::DropNamespace { name: "wide".into() }]);
        let commands = differences(&shard.0.view(), &wanted(&catalog.0.view(), 2));
        shard.take(commands);
        assert_eq!(shard.names(), []);
    }
}
