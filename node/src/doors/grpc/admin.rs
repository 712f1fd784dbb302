//! The `Admin` service: namespaces, collections, and how the node is doing.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use loci_index::command::{Command, Outcome, Refusal, SchemaChange};
use loci_index::record::CollectionId;
use loci_index::view::{CollectionView, View};
use loci_wire::v1;
use loci_wire::v1::admin_server::Admin;
use tonic::{Code, Request, Response, Status};

use super::calls::{Calls, no_part, not_reserved};
use super::cluster;
use super::convert::{self, NAMESPACE_DEFAULT};
use super::home::{find, token};
use super::records::{deadline, measured, unary, with_leader};
use super::redirect::Subject;
use super::status::Failure;
use crate::cluster::{Cluster, book};
use crate::gate;
use crate::metrics::Metrics;
use crate::router::Route;
use crate::shards::CATALOG;
use crate::status::NodeStatus;

/// How long another node may take to say how much it holds.
const FIGURES_TIME: Duration = Duration::from_secs(2);

/// Serves `loci.v1.Admin`.
#[derive(Clone)]
pub struct AdminService {
    /// What the calls do.
    pub calls: Calls,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
    /// How the node is doing.
    pub status: Arc<NodeStatus>,
}

impl AdminService {
    async fn unary<Q: prost::Message, R, F: Future<Output = Result<R, Failure>>>(
        &self,
        method: &'static str,
        writes: bool,
        request: Request<Q>,
        call: impl FnOnce(Q, Instant) -> F,
    ) -> Result<Response<R>, Status> {
        unary(&self.calls, &self.metrics, method, writes, Subject::catalog(), request, call).await
    }

    async fn create_namespace(
        &self,
        request: v1::CreateNamespaceRequest,
        deadline: Instant,
    ) -> Result<v1::AdminReply, Failure> {
        let origin = convert::origin(request.origin)?;
        let name = convert::namespace_name(request.name)?;
        not_reserved(&name)?;
        let cluster = &self.calls.cluster;
        let line = cluster.give_shards(&name, request.shards, request.replicas, deadline).await?;
        let made = self.calls.log(origin, Command::CreateNamespace { name: name.clone() }, deadline).await;
        let existed = match made {
            Ok(_) => false,
            Err(failure) if failure.code == Code::AlreadyExists => {
                if let Some(version) = line {
                    cluster.take_out(&name, version, deadline).await?;
                }
                if !request.if_absent {
                    return Err(failure);
                }
                true
            }
            Err(failure) => return Err(failure),
        };
        if let Some(version) = line.filter(|_| !existed) {
            cluster.made(&name, version, deadline).await?;
        }
        let view = self.calls.newest(deadline).await?;
        let there = Route::find(&view, &name).route().map_or(0, |route| route.shards().len());
        if there != request.shards as usize && (!existed || request.shards != 0) {
            let message = format!("namespace {name:?} exists with {there} shards of its own, not {}", request.shards);
            return Err(Failure::new(Code::AlreadyExists, "other_shards", message));
        }
        let replicas = book::replicas(&view, &name);
        if replicas != request.replicas && (!existed || request.replicas != 0) {
            let message =
                format!("namespace {name:?} exists with {replicas} members of each shard, not {}", request.replicas);
            return Err(Failure::new(Code::AlreadyExists, "other_shards", message));
        }
        Ok(self.done(view.index(), [], existed))
    }

    async fn create_collection(
        &self,
        request: v1::CreateCollectionRequest,
        deadline: Instant,
    ) -> Result<v1::AdminReply, Failure> {
        let origin = convert::origin(request.origin)?;
        let (namespace, name) = convert::collection_name(request.name, NAMESPACE_DEFAULT)?;
        not_reserved(&namespace)?;
        let schema = convert::schema(request.schema)?;
        let view = self.calls.newest(deadline).await?;
        if namespace == NAMESPACE_DEFAULT && !view.has_namespace(&namespace) {
            // The one namespace that nobody has to create. Somebody else may do so at the same moment.
            let command = Command::CreateNamespace { name: namespace.clone() };
            let nameless = loci_index::command::Origin { request_id: Vec::new(), ..origin.clone() };
            match self.calls.log(nameless, command, deadline).await {
                Err(failure) if failure.code != Code::AlreadyExists => return Err(failure),
                _ => {}
            }
        }
        let wanted = (schema.embeddings.clone(), schema.sparse.clone(), schema.texts.clone());
        let command = Command::CreateCollection { namespace: namespace.clone(), name: name.clone(), schema };
        let created = self.calls.log(origin, command, deadline).await;
        let shards = self.calls.cluster.install(&namespace, &name, deadline).await?;
        match created {
            Ok((Outcome::Created { .. }, index)) => Ok(self.done(index, shards, false)),
            Ok((outcome, _)) => {
                Err(Failure::new(Code::Internal, "unexpected_outcome", format!("creating ended in {outcome:?}")))
            }
            Err(failure) if failure.code == Code::AlreadyExists && request.if_absent => {
                let view = self.calls.newest(deadline).await?;
                let there = find(&view, &(namespace, name))?;
                let found = there.schema();
                let fits = (&found.embeddings, &found.sparse, &found.texts) == (&wanted.0, &wanted.1, &wanted.2);
                if fits {
                    return Ok(self.done(view.index(), shards, true));
                }
                let message = format!(
                    "collection {:?} exists with other embeddings or texts; drop it or use another name",
                    there.name()
                );
                Err(Failure::new(Code::AlreadyExists, "other_schema", message))
            }
            Err(failure) => Err(failure),
        }
    }

    async fn alter(&self, request: v1::AlterCollectionRequest, deadline: Instant) -> Result<v1::AdminReply, Failure> {
        let origin = convert::origin(request.origin)?;
        let name = convert::collection_name(request.name, NAMESPACE_DEFAULT)?;
        let change = SchemaChange {
            durability: convert::durability(request.durability)?,
            retention_millis: request.retention_millis,
            eviction_bytes: request.eviction_bytes,
            eviction_policy: request.eviction_policy.map(convert::eviction_policy).transpose()?,
            add_indexes: convert::indexes(request.add_indexes)?,
            remove_indexes: request.remove_indexes.iter().map(|at| convert::path(at)).collect::<Result<_, _>>()?,
        };
        if change == SchemaChange::default() {
            let message = "nothing to change; set durability, retention_millis, eviction_bytes, eviction_policy, add_indexes or \
                           remove_indexes";
            return Err(Failure::invalid("nothing_to_change", message));
        }
        not_reserved(&name.0)?;
        let view = self.calls.newest(deadline).await?;
        let collection = find(&view, &name)?.id().0;
        let (_, index) = self.calls.log(origin, Command::AlterCollection { collection, change }, deadline).await?;
        let shards = self.calls.cluster.install(&name.0, &name.1, deadline).await?;
        Ok(self.done(index, shards, false))
    }

    async fn drop(&self, request: v1::DropCollectionRequest, deadline: Instant) -> Result<v1::AdminReply, Failure> {
        let origin = convert::origin(request.origin)?;
        let name = convert::collection_name(request.name, NAMESPACE_DEFAULT)?;
        not_reserved(&name.0)?;
        let view = self.calls.newest(deadline).await?;
        let collection = find(&view, &name)?.id().0;
        let route = Route::find(&view, &name.0).route();
        let (_, index) = self.calls.log(origin, Command::DropCollection { collection }, deadline).await?;
        let shards = match route {
            Some(route) => self.calls.cluster.drop_in(&route, &[collection], deadline).await?,
            None => Vec::new(),
        };
        Ok(self.done(index, shards, false))
    }

    async fn drop_namespace(
        &self,
        request: v1::DropNamespaceRequest,
        deadline: Instant,
    ) -> Result<v1::AdminReply, Failure> {
        let origin = convert::origin(request.origin)?;
        // Dropping everything needs a name that was said.
        if request.name.is_empty() {
            return Err(Failure::invalid("invalid_name", "say which namespace to drop, even if it is \"default\""));
        }
        let name = convert::namespace_name(request.name)?;
        not_reserved(&name)?;
        let view = self.calls.newest(deadline).await?;
        let line = book::namespace(&view, &name);
        let route = Route::find(&view, &name).route();
        let own = view.collections().filter(|collection| collection.namespace() == name);
        let collections: Vec<u64> = own.map(|collection| collection.id().0).collect();
        let (_, index) = self.calls.log(origin, Command::DropNamespace { name: name.clone() }, deadline).await?;
        let mut shards = Vec::new();
        if let Some(route) = route {
            // One that was made in between is dropped by the shards themselves, a moment later.
            shards = self.calls.cluster.drop_in(&route, &collections, deadline).await?;
        }
        if let Some((_, version)) = line {
            self.calls.cluster.take_out(&name, version, deadline).await?;
        }
        Ok(self.done(index, shards, false))
    }

    /// What was done to the catalog, and to some shards.
    fn done(&self, index: u64, shards: impl IntoIterator<Item = (u32, u64)>, existed: bool) -> v1::AdminReply {
        v1::AdminReply { token: token([(CATALOG, index)].into_iter().chain(shards)), existed }
    }
}

/// What there is of a collection in these views.
fn figures(id: CollectionId, parts: &[CollectionView<'_>], status: &NodeStatus) -> v1::CollectionStats {
    let (known, walked) = (status.recall().known(id), status.walker().walked(id));
    let Some((first, rest)) = parts.split_first() else { return v1::CollectionStats::default() };
    let mut stats = first.stats();
    rest.iter().for_each(|part| stats.add(part.stats()));
    let graphs = || stats.segments.iter().filter(|segment| segment.graph);
    v1::CollectionStats {
        records: stats.records,
        bytes: stats.bytes,
        buffer_records: stats.buffer_rows,
        buffer_bytes: stats.buffer_bytes,
        segments: u32::try_from(stats.segments.len()).unwrap_or(u32::MAX),
        graph_segments: u32::try_from(graphs().count()).unwrap_or(u32::MAX),
        unmerged_deletes: stats.segments.iter().map(|segment| segment.ended).sum(),
        disk_bytes: stats.segments.iter().map(|segment| segment.bytes).sum(),
        memory_bytes: stats.memory_bytes,
        indexed_records: graphs().map(|segment| segment.rows - segment.ended).sum(),
        recall_samples: known.samples,
        recall_nearest: known.nearest,
        recall_found: known.found,
        walk_checked: walked.checked,
        walk_unfound: walked.unfound,
    }
}

/// What two nodes say of a collection, each of its own shards.
fn added(one: &v1::CollectionStats, other: &v1::CollectionStats) -> v1::CollectionStats {
    v1::CollectionStats {
        records: one.records + other.records,
        bytes: one.bytes + other.bytes,
        buffer_records: one.buffer_records + other.buffer_records,
        buffer_bytes: one.buffer_bytes + other.buffer_bytes,
        segments: one.segments.saturating_add(other.segments),
        graph_segments: one.graph_segments.saturating_add(other.graph_segments),
        unmerged_deletes: one.unmerged_deletes + other.unmerged_deletes,
        disk_bytes: one.disk_bytes + other.disk_bytes,
        memory_bytes: one.memory_bytes + other.memory_bytes,
        indexed_records: one.indexed_records + other.indexed_records,
        recall_samples: one.recall_samples + other.recall_samples,
        recall_nearest: one.recall_nearest + other.recall_nearest,
        recall_found: one.recall_found + other.recall_found,
        walk_checked: one.walk_checked + other.walk_checked,
        walk_unfound: one.walk_unfound + other.walk_unfound,
    }
}

/// Figures of collections in those of these shards that run here.
pub fn figures_here(
    cluster: &Cluster,
    status: &NodeStatus,
    shards: &[u32],
    collections: &[u64],
) -> Vec<v1::CollectionStats> {
    let views: Vec<_> = shards
        .iter()
        .filter_map(|id| cluster.held(*id))
        .filter(|shard| shard.is_ready())
        .map(|shard| shard.newest())
        .collect();
    let of = |id: &u64| {
        let id = CollectionId(*id);
        let parts: Vec<_> = views.iter().filter_map(|view| view.collection_by_id(id)).collect();
        figures(id, &parts, status)
    };
    collections.iter().map(of).collect()
}

impl AdminService {
    /// Collections of the catalog, with what there is of each in its shards, if it has any.
    async fn describe(
        &self,
        catalog: &View,
        found: &[CollectionView<'_>],
        deadline: Instant,
    ) -> Result<Vec<v1::DescribeCollectionReply>, Failure> {
        let cluster = &self.calls.cluster;
        let mut replies = Vec::with_capacity(found.len());
        // What is asked of each shard that is elsewhere: numbers of replies, and of collections.
        let mut elsewhere: BTreeMap<u32, Vec<(usize, u64)>> = BTreeMap::new();
        for (number, collection) in found.iter().enumerate() {
            let id = collection.id();
            let stats = match Route::find(catalog, collection.namespace()).route() {
                None => figures(id, &[*collection], &self.status),
                Some(route) => {
                    for shard in route.shards().iter().filter(|shard| cluster.held(**shard).is_none()) {
                        elsewhere.entry(*shard).or_default().push((number, id.0));
                    }
                    figures_here(cluster, &self.status, route.shards(), &[id.0]).pop().unwrap_or_default()
                }
            };
            replies.push(v1::DescribeCollectionReply {
                name: Some(v1::CollectionName {
                    namespace: collection.namespace().into(),
                    collection: collection.name().into(),
                }),
                schema: Some(convert::schema_reply(collection.schema())),
                stats: Some(stats),
            });
        }
        for (shard, asked) in elsewhere {
            let collections: Vec<u64> = asked.iter().map(|(_, id)| *id).collect();
            let request = v1::FiguresRequest { shards: vec![shard], collections };
            // Figures of what does not answer are missing, and nothing else is.
            let until = deadline.min(Instant::now() + FIGURES_TIME);
            let asking = self.figures_there(shard, request, until);
            let Ok(Ok(there)) = tokio::time::timeout_at(until.into(), asking).await else { continue };
            for ((number, _), figures) in asked.into_iter().zip(there.collections) {
                let stats = &mut replies[number].stats;
                *stats = Some(added(&stats.unwrap_or_default(), &figures));
            }
        }
        Ok(replies)
    }

    /// What another node says of a shard's collections.
    async fn figures_there(
        &self,
        shard: u32,
        request: v1::FiguresRequest,
        deadline: Instant,
    ) -> Result<v1::FiguresReply, Failure> {
        let cluster = &self.calls.cluster;
        if cluster.leader_of(shard).is_none() {
            cluster.look_for(shard).await;
        }
        let mut last =
            Failure::new(Code::Unavailable, "no_such_shard", format!("nobody says that he has shard {shard}; retry"));
        for member in cluster.answering(shard) {
            match cluster.links().figures(member, request.clone(), deadline).await {
                Ok(reply) => return Ok(reply),
                Err(status) => last = Failure::from_status(&status),
            }
        }
        Err(last)
    }
}

/// The collections of a namespace, or of all that are not the cluster's own.
fn all_of<'v>(view: &'v View, namespace: &str) -> Vec<CollectionView<'v>> {
    let mut found: Vec<_> = view
        .collections()
        .filter(|found| match namespace {
            "" => found.namespace() != book::NAMESPACE,
            _ => found.namespace() == namespace,
        })
        .collect();
    found.sort_by_key(|found| (found.namespace(), found.name()));
    found
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn create_namespace(
        &self,
        request: Request<v1::CreateNamespaceRequest>,
    ) -> Result<Response<v1::AdminReply>, Status> {
        self.unary("create_namespace", true, request, |request, deadline| self.create_namespace(request, deadline))
            .await
    }

    async fn list_namespaces(
        &self,
        request: Request<v1::ListNamespacesRequest>,
    ) -> Result<Response<v1::ListNamespacesReply>, Status> {
        self.unary("list_namespaces", false, request, |_, deadline| async move {
            let view = self.calls.newest(deadline).await?;
            let names: Vec<String> =
                view.namespaces().filter(|name| *name != book::NAMESPACE).map(String::from).collect();
            let namespaces = names.iter().map(|name| v1::NamespaceDescription {
                name: name.clone(),
                shards: Route::find(&view, name).route().map_or_else(Vec::new, |route| route.shards().to_vec()),
                replicas: book::replicas(&view, name),
            });
            Ok(v1::ListNamespacesReply { namespaces: namespaces.collect(), names })
        })
        .await
    }

    async fn drop_namespace(
        &self,
        request: Request<v1::DropNamespaceRequest>,
    ) -> Result<Response<v1::AdminReply>, Status> {
        self.unary("drop_namespace", true, request, |request, deadline| self.drop_namespace(request, deadline)).await
    }

    async fn create_collection(
        &self,
        request: Request<v1::CreateCollectionRequest>,
    ) -> Result<Response<v1::AdminReply>, Status> {
        self.unary("create_collection", true, request, |request, deadline| self.create_collection(request, deadline))
            .await
    }

    async fn describe_collection(
        &self,
        request: Request<v1::DescribeCollectionRequest>,
    ) -> Result<Response<v1::DescribeCollectionReply>, Status> {
        self.unary("describe_collection", false, request, |request, deadline| async move {
            let name = convert::collection_name(request.name, NAMESPACE_DEFAULT)?;
            let view = self.calls.newest(deadline).await?;
            let described = self.describe(&view, &[find(&view, &name)?], deadline).await?;
            described.into_iter().next().ok_or_else(no_part)
        })
        .await
    }

    async fn list_collections(
        &self,
        request: Request<v1::ListCollectionsRequest>,
    ) -> Result<Response<v1::ListCollectionsReply>, Status> {
        self.unary("list_collections", false, request, |request, deadline| async move {
            let view = self.calls.newest(deadline).await?;
            let namespace = request.namespace;
            if !namespace.is_empty() && !view.has_namespace(&namespace) && namespace != NAMESPACE_DEFAULT {
                return Err(Refusal::UnknownNamespace(namespace).into());
            }
            let collections = self.describe(&view, &all_of(&view, &namespace), deadline).await?;
            Ok(v1::ListCollectionsReply { collections })
        })
        .await
    }

    async fn alter_collection(
        &self,
        request: Request<v1::AlterCollectionRequest>,
    ) -> Result<Response<v1::AdminReply>, Status> {
        self.unary("alter_collection", true, request, |request, deadline| self.alter(request, deadline)).await
    }

    async fn drop_collection(
        &self,
        request: Request<v1::DropCollectionRequest>,
    ) -> Result<Response<v1::AdminReply>, Status> {
        self.unary("drop_collection", true, request, |request, deadline| self.drop(request, deadline)).await
    }

    async fn stats(&self, request: Request<v1::StatsRequest>) -> Result<Response<v1::StatsReply>, Status> {
        // Also of a node that nobody leads, that is full, or that was removed: this is how one finds out.
        let deadline = deadline(request.metadata(), gate::TIMEOUT_DEFAULT);
        let reply =
            measured(&self.metrics, "stats", false, deadline, None, pin!(async { Ok(self.status.reply()) })).await;
        with_leader(&self.calls, &Subject::catalog(), reply)
    }

    async fn describe_cluster(
        &self,
        request: Request<v1::DescribeClusterRequest>,
    ) -> Result<Response<v1::DescribeClusterReply>, Status> {
        self.unary("describe_cluster", false, request, |request, deadline| {
            cluster::describe(&self.calls.cluster, request, deadline)
        })
        .await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderReply>, Status> {
        self.unary("transfer_leader", true, request, |request, deadline| {
            cluster::transfer(&self.calls.cluster, request, deadline)
        })
        .await
    }

    async fn remove_member(
        &self,
        request: Request<v1::RemoveMemberRequest>,
    ) -> Result<Response<v1::RemoveMemberReply>, Status> {
        self.unary("remove_member", true, request, |request, deadline| {
            cluster::remove(&self.calls.cluster, request, deadline)
        })
        .await
    }

    async fn drain_member(
        &self,
        request: Request<v1::DrainMemberRequest>,
    ) -> Result<Response<v1::DrainMemberReply>, Status> {
        self.unary("drain_member", true, request, |request, deadline| {
            cluster::drain(&self.calls.cluster, request, deadline)
        })
        .await
    }

    async fn set_voters(&self, request: Request<v1::SetVotersRequest>) -> Result<Response<v1::SetVotersReply>, Status> {
        self.unary("set_voters", true, request, |request, deadline| {
            cluster::set_voters(&self.calls.cluster, request, deadline)
        })
        .await
    }

    async fn set_replicas(
        &self,
        request: Request<v1::SetReplicasRequest>,
    ) -> Result<Response<v1::SetReplicasReply>, Status> {
        self.unary("set_replicas", true, request, |request, deadline| async move {
            let name = convert::namespace_name(request.name)?;
            not_reserved(&name)?;
            self.calls.cluster.set_replicas(&name, request.replicas, deadline).await?;
            Ok(v1::SetReplicasReply {})
        })
        .await
    }
}
