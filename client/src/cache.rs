//! Typed values: the commands of Redis on a collection, and what goes beyond them.

use std::time::Duration;

use bytes::Bytes;
use loci_wire::v1::{self, cache_reply::Kind, pipeline_reply::Reply as Wire, pipeline_request::Call};

use crate::collection::unexpected;
use crate::{Collection, Condition, Error, Token};

/// The typed values of a collection; see [`Collection::cache`].
///
/// ```no_run
/// # async fn example(client: loci_client::Client) -> Result<(), loci_client::Error> {
/// use std::time::Duration;
///
/// let cache = client.collection("default", "cache").cache();
/// cache.set_for("greeting", "hello", Duration::from_secs(60)).await?;
/// assert_eq!(cache.get("greeting").await?.as_deref(), Some(&b"hello"[..]));
/// cache.increment("visits", 1).await?;
/// cache.hash_set("user:42", [("name", "Ann"), ("city", "Oslo")]).await?;
/// // Whatever there is no method for:
/// let members = cache.call(["ZRANGE", "board", "0", "9", "WITHSCORES"]).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Cache {
    collection: Collection,
}

/// What a command answers.
#[derive(Debug, Clone, PartialEq)]
pub enum CacheReply {
    /// A short word, as `OK`.
    Status(String),
    /// The command did nothing: a word in capitals that says of which kind it is, and what is wrong.
    Error(String),
    /// A whole number.
    Int(i64),
    /// Bytes.
    Bytes(Bytes),
    /// A number with a fraction.
    Double(f64),
    /// Yes or no.
    Bool(bool),
    /// Nothing.
    Null,
    /// In order.
    Array(Vec<CacheReply>),
    /// In no order, each once.
    Set(Vec<CacheReply>),
    /// Keys with values.
    Map(Vec<(CacheReply, CacheReply)>),
}

/// Commands that are sent together; see [`Cache::commands`].
///
/// ```no_run
/// # async fn example(cache: loci_client::Cache) -> Result<(), loci_client::Error> {
/// let done = cache
///     .commands()
///     .command(["SET", "answer", "42"])
///     .command(["TAG.SET", "answer", "postgres:users:42"])
///     .atomic()
///     .execute()
///     .await?;
/// assert_eq!(done.replies.len(), 2);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "commands do nothing until they are executed"]
pub struct Commands {
    cache: Cache,
    commands: Vec<v1::CacheCommand>,
    conditions: Vec<Condition>,
    atomic: bool,
}

/// What several commands answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Executed {
    /// One for each command, in order.
    pub replies: Vec<CacheReply>,
    /// Where that is in the log.
    pub token: Token,
}

/// A lease that was acquired; see [`Cache::acquire`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: Bytes,
    /// The number that tells this holder from all before it. Give it with writes: [`Lease::condition`].
    pub number: u64,
}

impl Lease {
    /// That this lease is still held under this number.
    pub fn condition(&self) -> Condition {
        Condition::lease(self.name.clone(), self.number)
    }
}

impl CacheReply {
    fn of(reply: v1::CacheReply) -> CacheReply {
        let many = |replies: v1::CacheReplies| replies.replies.into_iter().map(CacheReply::of);
        match reply.kind {
            None => CacheReply::Null,
            Some(Kind::Status(status)) => CacheReply::Status(status),
            Some(Kind::Error(error)) => CacheReply::Error(error),
            Some(Kind::Int(number)) => CacheReply::Int(number),
            Some(Kind::Bytes(bytes)) => CacheReply::Bytes(bytes),
            Some(Kind::Double(number)) => CacheReply::Double(number),
            Some(Kind::Bool(truth)) => CacheReply::Bool(truth),
            Some(Kind::Array(replies)) => CacheReply::Array(many(replies).collect()),
            Some(Kind::Set(replies)) => CacheReply::Set(many(replies).collect()),
            Some(Kind::Map(replies)) => {
                let mut replies = many(replies);
                let mut pairs = Vec::new();
                while let (Some(key), Some(value)) = (replies.next(), replies.next()) {
                    pairs.push((key, value));
                }
                CacheReply::Map(pairs)
            }
        }
    }

    /// The bytes, if it is bytes or a short word.
    pub fn bytes(&self) -> Option<Bytes> {
        match self {
            CacheReply::Bytes(bytes) => Some(bytes.clone()),
            CacheReply::Status(status) => Some(Bytes::copy_from_slice(status.as_bytes())),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn int(&self) -> Option<i64> {
        match self {
            CacheReply::Int(number) => Some(*number),
            _ => None,
        }
    }

    fn failed(self, wanted: &str) -> Error {
        match self {
            CacheReply::Error(message) => Error::Command { message },
            other => Error::protocol(format!("{other:?} where {wanted} was expected")),
        }
    }
}

impl Commands {
    /// Another command: its name and its arguments.
    pub fn command<A: Into<Bytes>>(mut self, arguments: impl IntoIterator<Item = A>) -> Commands {
        let arguments = arguments.into_iter().map(Into::into).collect();
        self.commands.push(v1::CacheCommand { arguments });
        self
    }

    /// What must hold before the first command: [`Condition::lease`], [`Condition::value_version`]. All is done then, or nothing.
    pub fn condition(mut self, condition: Condition) -> Commands {
        self.conditions.push(condition);
        self
    }

    /// Nobody sees some of it done.
    pub fn atomic(mut self) -> Commands {
        self.atomic = true;
        self
    }

    /// Has them carried out. A command that fails is an error among the replies, and the others are carried out.
    pub async fn execute(self) -> Result<Executed, Error> {
        let Commands { cache, commands, conditions, atomic } = self;
        let (collection, count) = (&cache.collection, commands.len());
        let call = Call::Execute(Box::new(v1::ExecuteRequest {
            origin: collection.client().origin(),
            collection: collection.wire_name(),
            commands,
            atomic,
            conditions: collection.conditions(conditions),
            consistency: collection.wire_consistency(),
        }));
        // The way of a call takes much room, which those who make many in one function would pay for each.
        match Box::pin(collection.send(call)).await? {
            Wire::Execute(reply) if reply.replies.len() == count => Ok(Executed {
                replies: reply.replies.into_iter().map(CacheReply::of).collect(),
                token: Token::from_wire(reply.token),
            }),
            other => Err(unexpected("execution", &other)),
        }
    }
}

fn arguments<const N: usize>(arguments: [Bytes; N]) -> Vec<Bytes> {
    arguments.into()
}

fn number(number: impl ToString) -> Bytes {
    number.to_string().into()
}

/// At least one: a time of nothing would be none.
fn millis(time: Duration) -> Bytes {
    number(time.as_millis().max(1))
}

impl Cache {
    pub(crate) fn new(collection: Collection) -> Cache {
        Cache { collection }
    }

    /// Carries out one command, and gives what it answers. What it answers with is an error if it is one.
    pub async fn call<A: Into<Bytes>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<CacheReply, Error> {
        let executed = self.commands().command(arguments).execute().await?;
        match executed.replies.into_iter().next() {
            Some(CacheReply::Error(message)) => Err(Error::Command { message }),
            Some(reply) => Ok(reply),
            None => Err(Error::protocol("no reply to a command")),
        }
    }

    /// Several commands in one call, atomic if asked.
    pub fn commands(&self) -> Commands {
        Commands { cache: self.clone(), commands: Vec::new(), conditions: Vec::new(), atomic: false }
    }

    async fn int(&self, arguments: Vec<Bytes>) -> Result<i64, Error> {
        match self.call(arguments).await? {
            CacheReply::Int(number) => Ok(number),
            other => Err(other.failed("a number")),
        }
    }

    async fn bytes(&self, arguments: Vec<Bytes>) -> Result<Option<Bytes>, Error> {
        match self.call(arguments).await? {
            CacheReply::Bytes(bytes) => Ok(Some(bytes)),
            CacheReply::Null => Ok(None),
            other => Err(other.failed("bytes")),
        }
    }

    /// The string under a key.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        self.bytes(arguments(["GET".into(), key.into()])).await
    }

    /// Sets a string, whatever the key had.
    pub async fn set(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<(), Error> {
        self.call(arguments(["SET".into(), key.into(), value.into()])).await.map(drop)
    }

    /// Sets a string that goes after so long.
    pub async fn set_for(&self, key: impl Into<Bytes>, value: impl Into<Bytes>, time: Duration) -> Result<(), Error> {
        self.call(arguments(["SET".into(), key.into(), value.into(), "PX".into(), millis(time)])).await.map(drop)
    }

    /// Deletes a key, whatever it holds; says whether it was there.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        Ok(self.int(arguments(["DEL".into(), key.into()])).await? > 0)
    }

    /// Has a key go after so long; says whether it is there.
    pub async fn expire(&self, key: impl Into<Bytes>, time: Duration) -> Result<bool, Error> {
        Ok(self.int(arguments(["PEXPIRE".into(), key.into(), millis(time)])).await? > 0)
    }

    /// Adds to the number under a key, and gives the sum.
    pub async fn increment(&self, key: impl Into<Bytes>, by: i64) -> Result<i64, Error> {
        self.int(arguments(["INCRBY".into(), key.into(), number(by)])).await
    }

    /// A field of the hash under a key.
    pub async fn hash_get(&self, key: impl Into<Bytes>, field: impl Into<Bytes>) -> Result<Option<Bytes>, Error> {
        self.bytes(arguments(["HGET".into(), key.into(), field.into()])).await
    }

    /// Sets fields of the hash under a key; says how many are new.
    pub async fn hash_set<F: Into<Bytes>, V: Into<Bytes>>(
        &self,
        key: impl Into<Bytes>,
        fields: impl IntoIterator<Item = (F, V)>,
    ) -> Result<i64, Error> {
        let mut all = arguments(["HSET".into(), key.into()]);
        all.extend(fields.into_iter().flat_map(|(field, value)| [field.into(), value.into()]));
        self.int(all).await
    }

    /// All fields of the hash under a key.
    pub async fn hash_all(&self, key: impl Into<Bytes>) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let pairs = match self.call(arguments(["HGETALL".into(), key.into()])).await? {
            CacheReply::Map(pairs) => pairs,
            other => return Err(other.failed("a map")),
        };
        let both = |(field, value): (CacheReply, CacheReply)| field.bytes().zip(value.bytes());
        pairs.into_iter().map(|pair| both(pair).ok_or_else(|| Error::protocol("a hash of other things"))).collect()
    }

    /// The version of a key, of whatever kind its value is; zero: there is no such key.
    pub async fn version(&self, key: impl Into<Bytes>) -> Result<u64, Error> {
        match self.call(arguments(["VERSION.OF".into(), key.into()])).await? {
            CacheReply::Array(versions) if versions.len() == 1 => {
                Ok(versions[0].int().and_then(|version| u64::try_from(version).ok()).unwrap_or_default())
            }
            other => Err(other.failed("a version")),
        }
    }

    /// The version and the string of a key, as they were at one moment.
    pub async fn get_versioned(&self, key: impl Into<Bytes>) -> Result<(u64, Option<Bytes>), Error> {
        let reply = self.call(arguments(["VERSION.GET".into(), key.into()])).await?;
        let CacheReply::Array(parts) = &reply else { return Err(reply.failed("a version and a value")) };
        match &parts[..] {
            [CacheReply::Int(version), value] => Ok((u64::try_from(*version).unwrap_or_default(), value.bytes())),
            _ => Err(reply.failed("a version and a value")),
        }
    }

    /// Sets a string if the key has this version (zero: is not there), and gives the new version. Otherwise
    /// [`Error::ConditionFailed`].
    pub async fn set_if_version(
        &self,
        key: impl Into<Bytes>,
        version: u64,
        value: impl Into<Bytes>,
    ) -> Result<u64, Error> {
        let key = key.into();
        let commands = self
            .commands()
            .condition(Condition::value_version(key.clone(), version))
            .command(["SET".into(), key.clone(), value.into()])
            .command(["VERSION.OF".into(), key]);
        let mut replies = commands.execute().await?.replies.into_iter();
        match (replies.next(), replies.next()) {
            (Some(CacheReply::Status(_)), Some(CacheReply::Array(versions))) => {
                let version = versions.first().and_then(CacheReply::int);
                Ok(version.and_then(|version| u64::try_from(version).ok()).unwrap_or_default())
            }
            (Some(other), _) => Err(other.failed("a new version")),
            (None, _) => Err(Error::protocol("no reply to a command")),
        }
    }

    /// Acquires a lease for so long, for a holder of this name; none: another holds it. Who holds it already gets a new number, and
    /// the old one no longer counts.
    pub async fn acquire(
        &self,
        name: impl Into<Bytes>,
        holder: impl Into<Bytes>,
        time: Duration,
    ) -> Result<Option<Lease>, Error> {
        let name = name.into();
        let call = arguments(["LEASE.ACQUIRE".into(), name.clone(), holder.into(), millis(time)]);
        match self.call(call).await? {
            CacheReply::Int(number) => Ok(Some(Lease { name, number: u64::try_from(number).unwrap_or_default() })),
            CacheReply::Null => Ok(None),
            other => Err(other.failed("a number")),
        }
    }

    /// Has a lease last for so long from now; says whether it is still held.
    pub async fn renew(&self, lease: &Lease, time: Duration) -> Result<bool, Error> {
        let call = arguments(["LEASE.RENEW".into(), lease.name.clone(), number(lease.number), millis(time)]);
        Ok(self.int(call).await? > 0)
    }

    /// Gives a lease up; says whether it was still held.
    pub async fn release(&self, lease: &Lease) -> Result<bool, Error> {
        let call = arguments(["LEASE.RELEASE".into(), lease.name.clone(), number(lease.number)]);
        Ok(self.int(call).await? > 0)
    }

    /// Sets a string that depends on what these tags name.
    pub async fn set_tagged<T: Into<Bytes>>(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<(), Error> {
        let tags: Vec<Bytes> = tags.into_iter().map(Into::into).collect();
        let mut call = arguments(["SET".into(), key.into(), value.into()]);
        if !tags.is_empty() {
            call.extend(["TAGS".into(), number(tags.len())]);
        }
        call.extend(tags);
        self.call(call).await.map(drop)
    }

    /// Gives a key, whatever it holds, exactly these tags; says whether it is there.
    pub async fn tag<T: Into<Bytes>>(
        &self,
        key: impl Into<Bytes>,
        tags: impl IntoIterator<Item = T>,
    ) -> Result<bool, Error> {
        let mut call = arguments(["TAG.SET".into(), key.into()]);
        call.extend(tags.into_iter().map(Into::into));
        Ok(self.int(call).await? > 0)
    }

    /// The keys with a tag, in order.
    pub async fn tagged(&self, tag: impl Into<Bytes>) -> Result<Vec<Bytes>, Error> {
        match self.call(arguments(["TAG.KEYS".into(), tag.into()])).await? {
            CacheReply::Array(keys) => Ok(keys.iter().filter_map(CacheReply::bytes).collect()),
            other => Err(other.failed("keys")),
        }
    }

    /// Drops every key that has one of these tags, of whatever kind, all at once; says how many there were.
    pub async fn drop_tagged<T: Into<Bytes>>(&self, tags: impl IntoIterator<Item = T>) -> Result<u64, Error> {
        let mut call = arguments(["TAG.DROP".into()]);
        call.extend(tags.into_iter().map(Into::into));
        Ok(u64::try_from(self.int(call).await?).unwrap_or_default())
    }
}
