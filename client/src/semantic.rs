//! A semantic cache: answers that are found by the nearness of their questions.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use loci_wire::v1;
use loci_wire::v1::semantic_cache_client::SemanticCacheClient;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::wish::Wish;
use crate::{Changed, Client, Consistency, Error, Metric, Schema, Token};

/// A collection that is used as a semantic cache; see [`Client::semantic_cache`].
///
/// ```no_run
/// # async fn example() -> Result<(), loci_client::Error> {
/// use std::time::Duration;
/// use loci_client::{Answer, Client, Entry, Metric, Partition};
///
/// let client = Client::connect("127.0.0.1:7700").await?;
/// let cache = client.semantic_cache("default", "answers").threshold(0.1).margin(0.1);
/// cache.ensure(3, Metric::Cosine).await?;
///
/// let acme = Partition::new().with("tenant", "acme").with("model", "small");
/// let entry = Entry::new([0.9, 0.1, 0.0], "Closed on Sundays.").with_tag("harbour").expires_in(Duration::from_secs(3600));
/// cache.put(&acme, entry).await?;
///
/// match cache.get(&acme, [0.9, 0.12, 0.0]).await? {
///     Answer::Hit(hit) => println!("{}", hit.text().unwrap_or("-")),
///     Answer::NearMiss(near) => println!("something is {} away", near.distance),
///     Answer::Miss => println!("ask the model"),
/// }
/// cache.drop_tagged(["harbour"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SemanticCache {
    client: Client,
    name: v1::CollectionName,
    threshold: f32,
    margin: f32,
    exact: bool,
    consistency: Consistency,
    timeout: Duration,
}

/// What entries have in common that must never be mixed: names with values, such as tenant and model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Partition(BTreeMap<String, String>);

impl Partition {
    /// Without any names.
    pub fn new() -> Partition {
        Partition::default()
    }

    /// With this name and value.
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Partition {
        self.0.insert(name.into(), value.into());
        self
    }

    fn to_wire(&self) -> std::collections::HashMap<String, String> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// An answer with its question's embedding, to be kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    embedding: Vec<f32>,
    value: Bytes,
    question: String,
    tags: Vec<String>,
    ttl: Option<Duration>,
    key: Bytes,
}

impl Entry {
    /// The embedding of a question, and its answer.
    pub fn new(embedding: impl Into<Vec<f32>>, answer: impl Into<Bytes>) -> Entry {
        Entry { embedding: embedding.into(), value: answer.into(), ..Entry::default() }
    }

    /// With the question itself, which a near miss tells.
    pub fn with_question(mut self, question: impl Into<String>) -> Entry {
        self.question = question.into();
        self
    }

    /// With this tag, by which it can be dropped together with others.
    pub fn with_tag(mut self, tag: impl Into<String>) -> Entry {
        self.tags.push(tag.into());
        self
    }

    /// It lives so long.
    pub fn expires_in(mut self, ttl: Duration) -> Entry {
        self.ttl = Some(ttl);
        self
    }

    /// Under this key within its partition, rather than one that partition and embedding give.
    pub fn with_key(mut self, key: impl Into<Bytes>) -> Entry {
        self.key = key.into();
        self
    }
}

/// What was found for a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The answer to a question that is near enough.
    Hit(Nearest),
    /// The nearest question is farther than the threshold, but within the margin. Without its answer.
    NearMiss(Nearest),
    /// Nothing is near.
    Miss,
}

impl Answer {
    /// The answer, if it is one.
    pub fn hit(self) -> Option<Nearest> {
        match self {
            Answer::Hit(nearest) => Some(nearest),
            _ => None,
        }
    }
}

/// The entry whose question is nearest.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// The answer; empty of a near miss.
    pub value: Bytes,
    /// How far the question is.
    pub distance: f32,
    /// Its key.
    pub key: Bytes,
    /// The question, if it was kept.
    pub question: Option<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// When it ends.
    pub deadline: Option<SystemTime>,
}

impl Nearest {
    /// The answer, if it is text.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.value).ok()
    }
}

/// What a put did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where it is in the log.
    pub token: Token,
    /// The entry's key.
    pub key: Bytes,
    /// Whether it replaced one.
    pub replaced: bool,
}

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Where it is in the log.
    pub token: Token,
    /// How many entries.
    pub entries: u64,
}

impl Client {
    /// A collection as a semantic cache. Nothing is sent.
    pub fn semantic_cache(&self, namespace: impl Into<String>, name: impl Into<String>) -> SemanticCache {
        SemanticCache {
            client: self.clone(),
            name: v1::CollectionName { namespace: namespace.into(), collection: name.into() },
            threshold: 0.1,
            margin: 0.05,
            exact: false,
            consistency: Consistency::default(),
            timeout: self.timeout(),
        }
    }
}

impl SemanticCache {
    /// A question at most this far is the same question; 0.1 unless set.
    pub fn threshold(mut self, distance: f32) -> SemanticCache {
        self.threshold = distance;
        self
    }

    /// How much farther it may be to be a near miss; 0.05 unless set.
    pub fn margin(mut self, distance: f32) -> SemanticCache {
        self.margin = distance;
        self
    }

    /// Compares with every entry of the partition.
    pub fn exact(mut self) -> SemanticCache {
        self.exact = true;
        self
    }

    /// How new what is read must be.
    pub fn with_consistency(mut self, consistency: Consistency) -> SemanticCache {
        self.consistency = consistency;
        self
    }

    /// How long a call may take.
    pub fn with_timeout(mut self, timeout: Duration) -> SemanticCache {
        self.timeout = timeout;
        self
    }

    /// Makes the collection if it is not there, for embeddings of this dimension, with the indexes that a cache needs.
    pub async fn ensure(&self, dimension: u32, metric: Metric) -> Result<Changed, Error> {
        let schema = Schema::default().with_embedding("", dimension, metric);
        let schema = schema.with_index("partition").with_index("tags");
        self.client.collection(self.name.namespace.clone(), self.name.collection.clone()).ensure(schema).await
    }

    /// Keeps an answer. The same question in the same partition has one answer: the last.
    pub async fn put(&self, partition: &Partition, entry: Entry) -> Result<Kept, Error> {
        let Entry { embedding, value, question, tags, ttl, key } = entry;
        let request = v1::SemanticPutRequest {
            origin: self.client.origin(),
            collection: Some(self.name.clone()),
            partition: partition.to_wire(),
            embedding: Some(of(&embedding)),
            value,
            question,
            tags,
            ttl_millis: ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1)),
            key,
        };
        let reply = self.call(&request, |mut cache, request| async move { cache.put(request).await }).await?;
        Ok(Kept { token: Token::from_wire(reply.token), key: reply.key, replaced: reply.replaced })
    }

    /// The answer to the nearest question of the partition, if it is near enough.
    pub async fn get(&self, partition: &Partition, embedding: impl Into<Vec<f32>>) -> Result<Answer, Error> {
        let request = v1::SemanticGetRequest {
            collection: Some(self.name.clone()),
            partition: partition.to_wire(),
            embedding: Some(of(&embedding.into())),
            threshold: self.threshold,
            margin: self.margin,
            exact: self.exact,
            consistency: Some(self.consistency.to_wire()),
        };
        let reply = self.call(&request, |mut cache, request| async move { cache.get(request).await }).await?;
        let result = reply.result();
        let nearest = Nearest {
            value: reply.value,
            distance: reply.distance,
            key: reply.key,
            question: Some(reply.question).filter(|question| !question.is_empty()),
            tags: reply.tags,
            deadline: match reply.deadline_millis {
                0 => None,
                millis => UNIX_EPOCH.checked_add(Duration::from_millis(millis)),
            },
        };
        match result {
            v1::SemanticResult::Hit => Ok(Answer::Hit(nearest)),
            v1::SemanticResult::NearMiss => Ok(Answer::NearMiss(nearest)),
            v1::SemanticResult::Miss => Ok(Answer::Miss),
            v1::SemanticResult::Unspecified => Err(Error::protocol("a look into a cache without a result")),
        }
    }

    /// Drops every entry with one of these tags, at once.
    pub async fn drop_tagged<T: Into<String>>(&self, tags: impl IntoIterator<Item = T>) -> Result<Dropped, Error> {
        self.drop_tagged_in(&Partition::default(), tags).await
    }

    /// The same in the partitions that have this.
    pub async fn drop_tagged_in<T: Into<String>>(
        &self,
        partition: &Partition,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<Dropped, Error> {
        let request = v1::SemanticDropTaggedRequest {
            origin: self.client.origin(),
            collection: Some(self.name.clone()),
            tags: tags.into_iter().map(Into::into).collect(),
            partition: partition.to_wire(),
        };
        let reply = self.call(&request, |mut cache, request| async move { cache.drop_tagged(request).await }).await?;
        Ok(Dropped { token: Token::from_wire(reply.token), entries: reply.dropped })
    }

    /// Drops every entry of all partitions that have at least these names with these values, at once.
    pub async fn drop_partition(&self, partition: &Partition) -> Result<Dropped, Error> {
        let request = v1::SemanticDropPartitionRequest {
            origin: self.client.origin(),
            collection: Some(self.name.clone()),
            partition: partition.to_wire(),
        };
        let reply =
            self.call(&request, |mut cache, request| async move { cache.drop_partition(request).await }).await?;
        Ok(Dropped { token: Token::from_wire(reply.token), entries: reply.dropped })
    }

    async fn call<Q: Clone, R, Fut: Future<Output = Result<Response<R>, Status>>>(
        &self,
        request: &Q,
        make: impl Fn(SemanticCacheClient<Channel>, tonic::Request<Q>) -> Fut,
    ) -> Result<R, Error> {
        let namespace = if self.name.namespace.is_empty() { "default" } else { &self.name.namespace };
        self.client
            .retrying(self.timeout, Wish::Leader(namespace), |channel, remaining| {
                let cache = SemanticCacheClient::new(channel)
                    .max_decoding_message_size(loci_wire::MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(loci_wire::MESSAGE_BYTES_MAX);
                make(cache, self.client.request(request.clone(), remaining))
            })
            .await
    }
}

fn of(embedding: &[f32]) -> v1::Embedding {
    let vector: Vec<u8> = embedding.iter().flat_map(|component| component.to_le_bytes()).collect();
    v1::Embedding { vector: vector.into(), ..Default::default() }
}
