//! What each call that writes records does, whichever way it came.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use loci_index::command::{Action, CHANGES_MAX, Change, Command, Condition, Content, Expect, Origin, Outcome, Refusal};
use loci_index::filter::Filter;
use loci_index::record::CollectionId;
use loci_index::view::{self, CollectionView, View};
use loci_index::way::Steps;
use loci_wire::v1;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;
use tonic::Code;

use super::calls::{Calls, KEYS_MAX, counted, envelope, log, name_reply, no_part, not_refused, not_reserved};
use super::convert::{self, NAMESPACE_DEFAULT};
use super::far::{Far, other_reply};
use super::home::{self, Home, Name, find, one_shard, other_shards};
use super::status::Failure;
use crate::router::Route;
use crate::shard::BegunWrite;

/// So many records are translated in a few hundred microseconds.
const RECORDS_AT_ONCE: u32 = 64;

/// What a call does something with, record by record.
trait Keyed {
    fn key(&self) -> &[u8];
}

impl Keyed for v1::Record {
    fn key(&self) -> &[u8] {
        &self.key
    }
}

impl Keyed for Bytes {
    fn key(&self) -> &[u8] {
        self
    }
}

/// A part of a call that is written to one shard, and the numbers of its records in the call.
struct Share<T> {
    home: Home,
    items: Vec<T>,
    numbers: Vec<usize>,
}

impl<T> Share<T> {
    /// A failure tells the number in the call.
    fn blame(&self, failure: Failure) -> Failure {
        match self.numbers.get(failure.detail.number as usize) {
            Some(number) => failure.number(*number),
            None => failure,
        }
    }
}

impl Calls {
    /// Where the records of a write to one collection go: to one shard, or with `spread` to several.
    async fn shares<T: Keyed>(
        &self,
        name: &Name,
        conditions: &[v1::Condition],
        items: Vec<T>,
        spread: bool,
        deadline: Instant,
    ) -> Result<Vec<Share<T>>, Failure> {
        if spread && !conditions.is_empty() {
            let message =
                "a call that is spread over shards has no conditions: what they say can change between two writes";
            return Err(Failure::invalid("several_shards", message));
        }
        let names = names(conditions.iter().map(|condition| &condition.collection), name)?;
        let wanted = |route: &Route| match spread {
            true => Ok(items.iter().map(|item| route.shard(item.key())).collect::<BTreeSet<_>>().into_iter().collect()),
            false => {
                let keys = items.iter().map(T::key).chain(conditions.iter().map(|condition| &condition.key[..]));
                Ok(vec![one_shard(route, keys)?])
            }
        };
        let (route, homes) = Home::all(&self.cluster, &name.0, &names, wanted, deadline).await?;
        let mut shares: Vec<Share<T>> =
            homes.into_iter().map(|home| Share { home, items: Vec::new(), numbers: Vec::new() }).collect();
        for (number, item) in items.into_iter().enumerate() {
            let shard = route.as_ref().map(|route| route.shard(item.key()));
            let its = |share: &&mut Share<T>| shard.is_none_or(|shard| share.home.cluster.shard().id() == shard);
            // Nothing that is not written is acknowledged.
            let share = shares.iter_mut().find(its).ok_or_else(other_shards)?;
            share.items.push(item);
            share.numbers.push(number);
        }
        Ok(shares)
    }

    /// The shards that a write of these keys is about, if they are not all here; what cannot be is said elsewhere.
    fn far_from_keys<'k>(
        &self,
        collection: &Option<v1::CollectionName>,
        keys: impl Iterator<Item = &'k [u8]>,
        conditions: &'k [v1::Condition],
        spread: bool,
    ) -> Option<Far> {
        let name = convert::collection_name(collection.clone(), NAMESPACE_DEFAULT).ok()?;
        self.far(&name.0, |route| match spread {
            true if !conditions.is_empty() => None,
            true => Some(keys.map(|key| route.shard(key)).collect::<BTreeSet<_>>().into_iter().collect()),
            false => {
                let keys = keys.chain(conditions.iter().map(|condition| &condition.key[..]));
                one_shard(route, keys).ok().map(|shard| vec![shard])
            }
        })
    }

    /// Inserts, replaces or merges records. The records of one call after another reach the log in this order, where the shard is
    /// led here.
    pub async fn put(&self, request: Box<v1::PutRequest>, deadline: Instant) -> Result<v1::WriteReply, Failure> {
        counted("records", request.records.len(), CHANGES_MAX)?;
        match self.begin_put(request, deadline)? {
            Beginning::Begun(begun) => begun.reply().await,
            // What waits for anything else is many times as large.
            Beginning::NotYet(request) => Box::pin(self.put_wherever(request, deadline)).await,
        }
    }

    /// Has the log take in a put, if nothing else has to be waited for.
    fn begin_put(&self, mut request: Box<v1::PutRequest>, deadline: Instant) -> Result<Beginning, Failure> {
        let conditions = &request.conditions;
        if !conditions.is_empty() && (request.spread || conditions.iter().any(|one| one.collection.is_some())) {
            return Ok(Beginning::NotYet(request));
        }
        let name = convert::collection_name(request.collection.take(), NAMESPACE_DEFAULT)?;
        let keys = request.records.iter().map(|record| &record.key[..]);
        let keys = keys.chain(request.conditions.iter().map(|condition| &condition.key[..]));
        let Some(home) = Home::at_once(&self.cluster, &name, keys) else {
            request.collection = Some(name_reply(name));
            return Ok(Beginning::NotYet(request));
        };
        let put = Put::of(&name, &mut request)?;
        let origin = convert::origin(request.origin.take())?;
        let records = std::mem::take(&mut request.records);
        let (conditions, changes) = put.changes(&home, records, 0..)?;
        Ok(Beginning::Begun(begin(&home, origin, conditions, changes, deadline)?))
    }

    async fn put_wherever(
        &self,
        mut request: Box<v1::PutRequest>,
        deadline: Instant,
    ) -> Result<v1::WriteReply, Failure> {
        let keys = request.records.iter().map(|record| &record.key[..]);
        if let Some(far) = self.far_from_keys(&request.collection, keys, &request.conditions, request.spread) {
            return Box::pin(self.put_far(far, request, deadline)).await;
        }
        let name = convert::collection_name(request.collection.take(), NAMESPACE_DEFAULT)?;
        let put = Put::of(&name, &mut request)?;
        let origin = convert::origin(request.origin.take())?;
        let records = std::mem::take(&mut request.records);
        let shares = self.shares(&name, &put.conditions, records, request.spread, deadline).await?;
        let changes = |home: &Home, records, numbers: &[usize]| put.changes(home, records, numbers.iter().copied());
        self.write_shares(origin, shares, deadline, changes).await
    }

    /// Several changes at once.
    pub async fn batch(&self, request: v1::BatchRequest, deadline: Instant) -> Result<v1::WriteReply, Failure> {
        use v1::change::Action as Wire;
        counted("changes", request.changes.len(), CHANGES_MAX)?;
        let namespace = convert::namespace_name(request.namespace.clone())?;
        let wanted = |route: &Route| {
            one_shard(route, keys_of_batch(&request.conditions, &request.changes)).ok().map(|shard| vec![shard])
        };
        if let Some(far) = self.far(&namespace, wanted) {
            return match Box::pin(self.write_far(&far, Call::Batch(Box::new(request)), deadline)).await? {
                Reply::Write(reply) => Ok(reply),
                _ => Err(other_reply()),
            };
        }
        let origin = convert::origin(request.origin)?;
        let home = self.home_of_batch(&namespace, &request.conditions, &request.changes, deadline).await?;
        let now = home.now();
        let translation = Translation { view: &home.view, namespace: &namespace, own: None };
        let conditions = translation.conditions(request.conditions)?;
        let mut changes = Vec::with_capacity(request.changes.len());
        let mut steps = Steps::of(RECORDS_AT_ONCE);
        for (number, change) in request.changes.into_iter().enumerate() {
            steps.step();
            let collection = translation.collection(change.collection).map_err(|failure| failure.number(number))?;
            let (key, action) = match change.action {
                Some(Wire::Put(record)) => {
                    let (key, content) = convert::record(record, collection.schema(), number, now)?;
                    (key, Action::Put(content))
                }
                Some(Wire::Merge(wire)) => {
                    let record = wire.record.unwrap_or_default();
                    let (key, content) = convert::record(record, collection.schema(), number, now)?;
                    (key, merge(content, wire.remove_attributes, wire.remove_deadline)?)
                }
                Some(Wire::Delete(key)) => (convert::key(key, number)?, Action::Delete),
                None => {
                    let message = format!("change {number} does nothing; set put, merge or delete");
                    return Err(Failure::invalid("invalid_change", message).number(number));
                }
            };
            changes.push(Change { collection: collection.id().0, key, action });
        }
        write(&home, origin, conditions, changes, deadline).await
    }

    async fn home_of_batch(
        &self,
        namespace: &str,
        conditions: &[v1::Condition],
        changes: &[v1::Change],
        deadline: Instant,
    ) -> Result<Home, Failure> {
        let named = changes.iter().map(|change| &change.collection);
        let named = named.chain(conditions.iter().map(|condition| &condition.collection)).flatten();
        // What names none, or one of another namespace, is refused when it is translated.
        let named = named.filter_map(|name| convert::collection_name(Some(name.clone()), namespace).ok());
        let named: BTreeSet<Name> = named.filter(|name| name.0 == namespace).collect();
        let wanted = |route: &Route| Ok(vec![one_shard(route, keys_of_batch(conditions, changes))?]);
        let named: Vec<Name> = named.into_iter().collect();
        let (_, homes) = Home::all(&self.cluster, namespace, &named, wanted, deadline).await?;
        homes.into_iter().next().ok_or_else(no_part)
    }

    /// Writes each share to its shard, side by side, and puts what they answer together.
    async fn write_shares<T>(
        &self,
        origin: Origin,
        shares: Vec<Share<T>>,
        deadline: Instant,
        changes: impl Fn(&Home, Vec<T>, &[usize]) -> Result<(Vec<Condition>, Vec<Change>), Failure>,
    ) -> Result<v1::WriteReply, Failure> {
        let count = shares.iter().map(|share| share.items.len()).sum();
        let mut under_way = Vec::with_capacity(shares.len());
        for mut share in shares {
            // All are checked before any is written.
            let (conditions, changes) = changes(&share.home, std::mem::take(&mut share.items), &share.numbers)?;
            under_way.push((share, conditions, changes));
        }
        if under_way.len() == 1
            && let Some((share, conditions, changes)) = under_way.pop()
        {
            return write(&share.home, origin, conditions, changes, deadline).await;
        }
        let written = under_way.into_iter().map(|(share, conditions, changes)| {
            let origin = origin.clone();
            async move {
                let reply = write(&share.home, origin, conditions, changes, deadline).await;
                (reply.map_err(|failure| share.blame(failure)), share)
            }
        });
        let mut existed = vec![false; count];
        let mut tokens = Vec::new();
        for (reply, share) in join_all(written).await {
            let reply = reply?;
            for (number, there) in share.numbers.iter().zip(reply.existed) {
                existed[*number] = there;
            }
            tokens.extend(reply.token.map(|token| (token.shard, token.index)));
        }
        Ok(v1::WriteReply { token: home::token(tokens), version: 0, existed })
    }

    /// Deletes by key or by filter.
    pub async fn delete(&self, request: v1::DeleteRequest, deadline: Instant) -> Result<v1::DeleteReply, Failure> {
        let far = match &request.filter {
            None => {
                counted("keys", request.keys.len(), KEYS_MAX)?;
                let keys = request.keys.iter().map(|key| &key[..]);
                self.far_from_keys(&request.collection, keys, &request.conditions, request.spread)
            }
            Some(_) if request.keys.is_empty() && request.conditions.is_empty() => {
                let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
                self.far_from_all(&name)
            }
            Some(_) => None,
        };
        if let Some(far) = far {
            return Box::pin(self.delete_far(far, request, deadline)).await;
        }
        let v1::DeleteRequest { origin, collection, keys, filter, conditions, spread } = request;
        let origin = convert::origin(origin)?;
        let name = convert::collection_name(collection, NAMESPACE_DEFAULT)?;
        let filter = convert::filter(filter)?;
        not_reserved(&name.0)?;
        match filter {
            Some(_) if !keys.is_empty() => Err(Failure::invalid("invalid_delete", "set keys or a filter, not both")),
            Some(_) if !conditions.is_empty() => {
                Err(Failure::invalid("invalid_delete", "conditions go with keys, not with a filter"))
            }
            Some(filter) => self.delete_everywhere(origin, &name, filter, deadline).await,
            None => {
                let shares = self.shares(&name, &conditions, keys, spread, deadline).await?;
                let changes = |home: &Home, keys: Vec<Bytes>, numbers: &[usize]| {
                    let own = find(&home.view, &name)?;
                    let translation = Translation { view: &home.view, namespace: &name.0, own: Some(own) };
                    let conditions = translation.conditions(conditions.clone())?;
                    let changes = keys.into_iter().zip(numbers).map(|(key, number)| {
                        let key = convert::key(key, *number)?;
                        Ok(Change { collection: own.id().0, key, action: Action::Delete })
                    });
                    Ok((conditions, changes.collect::<Result<_, Failure>>()?))
                };
                let reply = self.write_shares(origin, shares, deadline, changes).await?;
                let deleted = reply.existed.iter().filter(|&&existed| existed).count() as u64;
                Ok(v1::DeleteReply { token: reply.token, deleted, existed: reply.existed })
            }
        }
    }

    async fn delete_everywhere(
        &self,
        origin: Origin,
        name: &Name,
        filter: Filter,
        deadline: Instant,
    ) -> Result<v1::DeleteReply, Failure> {
        // Not remembered under the request id: a repetition finds other records, and deletes those that are left.
        let origin = Origin { request_id: Vec::new(), ..origin };
        let filter = Arc::new(filter);
        let wanted = |route: &Route| Ok(route.shards().to_vec());
        let (_, homes) = Home::all(&self.cluster, &name.0, std::slice::from_ref(name), wanted, deadline).await?;
        // Before anything is deleted: another node can do it then.
        homes.iter().try_for_each(Home::sound)?;
        let (mut deleted, mut tokens) = (0, Vec::new());
        for home in homes {
            let collection = find(&home.view, name)?.id();
            let (gone, index) = self.delete_where(&origin, &home, collection, &filter, deadline).await?;
            deleted += gone;
            tokens.push((home.cluster.shard().id(), index));
        }
        Ok(v1::DeleteReply { token: home::token(tokens), deleted, existed: vec![] })
    }

    /// The keys are found on one view. Each deletion names the version it saw, so a record that changed meanwhile stays.
    async fn delete_where(
        &self,
        origin: &Origin,
        home: &Home,
        collection: CollectionId,
        filter: &Arc<Filter>,
        deadline: Instant,
    ) -> Result<(u64, u64), Failure> {
        let mut after: Option<Vec<u8>> = None;
        let (mut deleted, mut index) = (0, home.view.index());
        loop {
            let (shown, filter, now) = (Arc::clone(&home.view), Arc::clone(filter), home.now());
            let found = self.search.run(deadline, move |_, keep_going| {
                let collection = by_id(&shown, collection)?;
                let request = view::ScanRequest {
                    after: after.as_deref(),
                    prefix: None,
                    filter: Some(&filter),
                    limit: CHANGES_MAX,
                    bytes_max: usize::MAX,
                    now,
                };
                let page = collection.scan(&request, keep_going).map_err(|_| Failure::late(false))?;
                let changes = page.records.iter().map(|record| Change {
                    collection: collection.id().0,
                    key: record.key().to_vec(),
                    action: Action::DeleteVersion(record.version()),
                });
                Ok::<_, Failure>((changes.collect::<Vec<_>>(), page.next))
            });
            let (changes, next) = found.await??;
            if !changes.is_empty() {
                let reply = write(home, origin.clone(), vec![], changes, deadline).await?;
                deleted += reply.existed.iter().filter(|&&existed| existed).count() as u64;
                index = reply.token.map_or(index, |token| token.index);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok((deleted, index)),
            }
        }
    }
}

/// Every key that a batch names.
fn keys_of_batch<'k>(conditions: &'k [v1::Condition], changes: &'k [v1::Change]) -> impl Iterator<Item = &'k [u8]> {
    use v1::change::Action as Wire;
    let changed = changes.iter().filter_map(|change| match change.action.as_ref()? {
        Wire::Put(record) => Some(&record.key[..]),
        Wire::Merge(merge) => Some(&merge.record.as_ref()?.key[..]),
        Wire::Delete(key) => Some(&key[..]),
    });
    changed.chain(conditions.iter().map(|condition| &condition.key[..]))
}

/// What a put does with each record.
struct Put<'p> {
    name: &'p Name,
    mode: v1::PutMode,
    conditions: Vec<v1::Condition>,
    remove_attributes: Vec<String>,
    remove_deadline: bool,
}

impl<'p> Put<'p> {
    /// What a request says of all its records.
    fn of(name: &'p Name, request: &mut v1::PutRequest) -> Result<Put<'p>, Failure> {
        let mode = v1::PutMode::try_from(request.mode)
            .map_err(|_| Failure::invalid("invalid_mode", format!("put mode {} is not known", request.mode)))?;
        let (remove_attributes, remove_deadline) =
            (std::mem::take(&mut request.remove_attributes), request.remove_deadline);
        if mode != v1::PutMode::Merge && (!remove_attributes.is_empty() || remove_deadline) {
            return Err(Failure::invalid("invalid_mode", "only a merge can remove attributes or the deadline"));
        }
        // Every record's change names them again: a small message must not become a huge one.
        let named: usize = remove_attributes.iter().map(|name| name.len() + size_of::<String>()).sum();
        if named.saturating_mul(request.records.len()) > loci_wire::MESSAGE_BYTES_MAX {
            let message =
                "the attributes to remove, named for each record, are larger than a message may be; split the call";
            return Err(Failure::invalid("wrong_count", message));
        }
        let conditions = std::mem::take(&mut request.conditions);
        Ok(Put { name, mode, conditions, remove_attributes, remove_deadline })
    }

    /// `numbers`: of the records, in the call.
    fn changes(
        &self,
        home: &Home,
        records: Vec<v1::Record>,
        numbers: impl IntoIterator<Item = usize>,
    ) -> Result<(Vec<Condition>, Vec<Change>), Failure> {
        let now = home.now();
        let collection = find(&home.view, self.name)?;
        not_reserved(&self.name.0)?;
        let translation = Translation { view: &home.view, namespace: &self.name.0, own: Some(collection) };
        let mut conditions = translation.conditions(self.conditions.clone())?;
        let mut changes = Vec::with_capacity(records.len());
        // Not by waiting: the writes of a pipeline reach the log in the order they came.
        let mut steps = Steps::of(RECORDS_AT_ONCE);
        for (record, number) in records.into_iter().zip(numbers) {
            steps.step();
            let (key, content) = convert::record(record, collection.schema(), number, now)?;
            let expect = match self.mode {
                v1::PutMode::Insert => Some(Expect::Absent),
                v1::PutMode::Update => Some(Expect::Present),
                v1::PutMode::Unspecified | v1::PutMode::Replace | v1::PutMode::Merge => None,
            };
            if let Some(expect) = expect {
                conditions.push(Condition { collection: collection.id().0, key: key.clone(), expect });
            }
            let action = match self.mode {
                v1::PutMode::Merge => merge(content, self.remove_attributes.clone(), self.remove_deadline)?,
                _ => Action::Put(content),
            };
            changes.push(Change { collection: collection.id().0, key, action });
        }
        Ok((conditions, changes))
    }
}

/// A write that the log may have taken in.
enum Beginning {
    Begun(Begun),
    /// Something else is to be waited for first.
    NotYet(Box<v1::PutRequest>),
}

/// A write that the log takes in.
struct Begun {
    write: BegunWrite,
    shard: u32,
    expects: Vec<Expect>,
}

impl Begun {
    async fn reply(self) -> Result<v1::WriteReply, Failure> {
        let Begun { write, shard, expects } = self;
        let written = write.written().await.map_err(Failure::from).and_then(not_refused);
        reply(written.map_err(|failure| failure.expected(&expects))?, shard)
    }
}

fn expects(conditions: &[Condition]) -> Vec<Expect> {
    conditions.iter().map(|condition| condition.expect).collect()
}

/// Begins a write to a shard that is led here.
fn begin(
    home: &Home,
    origin: Origin,
    conditions: Vec<Condition>,
    changes: Vec<Change>,
    deadline: Instant,
) -> Result<Begun, Failure> {
    let expects = expects(&conditions);
    let envelope = envelope(origin, Command::Write { conditions, changes });
    let write = home.cluster.begin_write(envelope, deadline)?;
    Ok(Begun { write, shard: home.cluster.shard().id(), expects })
}

async fn write(
    home: &Home,
    origin: Origin,
    conditions: Vec<Condition>,
    changes: Vec<Change>,
    deadline: Instant,
) -> Result<v1::WriteReply, Failure> {
    let expects = expects(&conditions);
    let written = log(&home.cluster, origin, Command::Write { conditions, changes }, deadline).await;
    reply(written.map_err(|failure| failure.expected(&expects))?, home.cluster.shard().id())
}

fn reply(written: (Outcome, u64), shard: u32) -> Result<v1::WriteReply, Failure> {
    match written {
        (Outcome::Written { version, existed }, index) => {
            Ok(v1::WriteReply { token: home::token([(shard, index)]), version, existed })
        }
        (outcome, _) => Err(unexpected(&outcome)),
    }
}

fn by_id(view: &View, id: CollectionId) -> Result<CollectionView<'_>, Failure> {
    view.collection_by_id(id).ok_or_else(|| Refusal::UnknownCollection(id.0).into())
}

/// An outcome that the command cannot have.
pub fn unexpected(outcome: &Outcome) -> Failure {
    Failure::new(Code::Internal, "unexpected_outcome", format!("the command ended in {outcome:?}; please report this"))
}

fn merge(content: Content, remove_attributes: Vec<String>, remove_deadline: bool) -> Result<Action, Failure> {
    if remove_deadline && (content.deadline != 0 || content.ttl != 0) {
        return Err(Failure::invalid("invalid_deadline", "give a new deadline or remove it, not both"));
    }
    Ok(Action::Merge { content, remove_attributes, remove_deadline })
}

/// The collections that a write to `own` names.
fn names<'n>(named: impl Iterator<Item = &'n Option<v1::CollectionName>>, own: &Name) -> Result<Vec<Name>, Failure> {
    let others = named.flatten().map(|name| convert::collection_name(Some(name.clone()), &own.0));
    let all: BTreeSet<Name> = std::iter::once(Ok(own.clone())).chain(others).collect::<Result<_, Failure>>()?;
    Ok(all.into_iter().filter(|name| name.0 == own.0).collect())
}

/// What a write's names mean in one view.
struct Translation<'v> {
    view: &'v View,
    /// Of names that do not say one.
    namespace: &'v str,
    /// Of conditions that do not name one.
    own: Option<CollectionView<'v>>,
}

impl<'v> Translation<'v> {
    fn collection(&self, name: Option<v1::CollectionName>) -> Result<CollectionView<'v>, Failure> {
        match (name, self.own) {
            (None, Some(own)) => Ok(own),
            (name, _) => {
                let name = convert::collection_name(name, self.namespace)?;
                if name.0 != self.namespace {
                    let message =
                        format!("a write stays in one namespace, {:?}; {:?} is another", self.namespace, name.0);
                    return Err(Failure::invalid("foreign_namespace", message));
                }
                find(self.view, &name)
            }
        }
    }

    fn conditions(&self, conditions: Vec<v1::Condition>) -> Result<Vec<Condition>, Failure> {
        if conditions.len() > CHANGES_MAX {
            let message = format!("a call has at most {CHANGES_MAX} conditions, not {}; split it", conditions.len());
            return Err(Failure::invalid("wrong_count", message));
        }
        let translated = conditions.into_iter().enumerate().map(|(number, condition)| {
            let expect = convert::expect(&condition, number)?;
            let collection = self.collection(condition.collection).map_err(|failure| failure.number(number))?;
            Ok(Condition { collection: collection.id().0, key: convert::key(condition.key, number)?, expect })
        });
        translated.collect()
    }
}
