//! A mixed load: writers with seeds, each with keys of its own, that put, merge, delete, batch across two collections,
//! cache with deadlines, repeat requests, and try what must be refused. Each keeps the model of what it was answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use loci_index::store::Store;
use loci_wire::v1;
use tonic::{Code, Status};

use crate::api::{self, Api};
use crate::chance::Chance;
use crate::model::{Collection, Found, Held, Model, Pending, Place, Resolved};

/// Memories: two embeddings, so that both a normalised and a plain one are kept.
pub const MEMORIES: Collection = Collection {
    id: 1,
    name: "memories",
    embeddings: &[("text", 24, v1::Metric::Cosine), ("image", 8, v1::Metric::SquaredL2)],
};
/// Cached answers.
pub const ANSWERS: Collection = Collection { id: 2, name: "answers", embeddings: &[] };
/// Both.
pub const COLLECTIONS: [Collection; 2] = [MEMORIES, ANSWERS];

/// Keys of each writer in each collection.
const KEYS: u64 = 60;
/// Begins the keys whose deadlines are short. They are only put: whether one still exists is for the node to say.
const FLEETING: &str = "fleeting";

/// Milliseconds since 1970.
pub fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_millis() as u64
}

/// What all writers share.
#[derive(Debug, Default)]
pub struct Shared {
    /// Stop after the write under way.
    pub stop: AtomicBool,
    /// The power is off: an answer that arrives from now on may be false.
    pub cut: AtomicBool,
    /// Writes that were acknowledged.
    pub acknowledged: AtomicU64,
    /// Writes that were refused, as they had to be.
    pub refused: AtomicU64,
    /// The latest deadline that any short-lived record can have.
    pub fleeting_until: AtomicU64,
}

/// A write as it is sent.
#[derive(Debug, Clone)]
pub enum Write {
    /// See [`v1::PutRequest`].
    Put(v1::PutRequest),
    /// See [`v1::DeleteRequest`].
    Delete(Box<v1::DeleteRequest>),
    /// See [`v1::BatchRequest`].
    Batch(v1::BatchRequest),
}

/// What the node said to a write.
enum Answer {
    /// It took effect: the version, and which records were there before.
    Done(u64, Vec<bool>),
    /// It did not, and the node says why.
    Refused(Status),
    /// Nobody knows.
    Unknown(Status),
}

/// A write, what it must do, and whether it can be sent again.
struct Attempt {
    write: Write,
    after: BTreeMap<Place, Option<Held>>,
    existed: Option<Vec<bool>>,
    refused: Option<Code>,
}

/// One writer.
pub struct Writer {
    number: u64,
    chance: Chance,
    requests: u64,
    /// What it knows.
    pub model: Model,
    /// The last acknowledged write that has a request id, and its version.
    last: Option<(Write, u64)>,
    /// The write whose outcome is not known.
    unknown: Option<Write>,
}

impl Writer {
    /// A writer with nothing written yet.
    pub fn new(number: u64, chance: Chance) -> Writer {
        Writer { number, chance, requests: 0, model: Model::default(), last: None, unknown: None }
    }

    /// Writes until told to stop, or until the node does not answer. `Err`: the node said something wrong.
    pub async fn run(&mut self, mut api: Api, shared: Arc<Shared>) -> Result<(), String> {
        while !shared.stop.load(Ordering::SeqCst) {
            let attempt = match self.chance.below(100) {
                0..6 => match self.repeat(&mut api, &shared).await? {
                    true => continue,
                    false => return Ok(()),
                },
                6..12 => match self.read(&mut api).await? {
                    true => continue,
                    false => return Ok(()),
                },
                12..45 => self.put(),
                45..60 => self.merge(),
                60..70 => self.delete(),
                70..90 => self.batch(),
                90..97 => self.fleeting(&shared),
                _ => self.delete_where(),
            };
            if !self.send(&mut api, attempt, &shared).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn key(&mut self) -> Vec<u8> {
        format!("{}/{}", self.number, self.chance.below(KEYS)).into_bytes()
    }

    fn request_id(&mut self) -> Option<v1::Origin> {
        self.requests += 1;
        let mut id = self.number.to_le_bytes().to_vec();
        id.extend_from_slice(&self.requests.to_le_bytes());
        let mut origin = api::origin(&id)?;
        origin.principal = "load".into();
        origin.task = format!("writer {}", self.number);
        Some(origin)
    }

    /// A record with whatever a record can have.
    fn record(&mut self, collection: Collection) -> v1::Record {
        let key = self.key();
        let chance = &mut self.chance;
        let len = match chance.below(100) {
            // So that checkpoints and segments come about within a run.
            0..4 => 100_000,
            4..20 => 0,
            _ => chance.below(300) as usize,
        };
        let mut record = v1::Record { key: key.into(), ..Default::default() };
        if chance.percent(85) {
            record.value = Some(chance.bytes(len).into());
        }
        if chance.percent(70) {
            let bucket = chance.below(5) as i64;
            let list = v1::ListValue { values: vec![api::text("a"), api::int(bucket)] };
            record.attributes = api::attributes([
                ("writer", api::int(self.number as i64)),
                ("bucket", api::int(bucket)),
                ("tags", v1::Value { kind: Some(v1::value::Kind::List(list)) }),
            ]);
            let name = format!("extra{}", chance.below(3));
            record.attributes.insert(name, api::text(&format!("{}", chance.next_u64())));
        }
        for (name, dimension, _) in collection.embeddings {
            if chance.percent(80) {
                let components: Vec<f32> = (0..*dimension).map(|_| chance.component()).collect();
                record.embeddings.push(api::embedding(name, &components));
            }
        }
        if chance.percent(10) {
            record.deadline_millis = now_millis() + 3_600_000;
        }
        record
    }

    fn any_collection(&mut self) -> Collection {
        COLLECTIONS[self.chance.index(2)]
    }

    /// One to four records of different keys.
    fn records(&mut self, collection: Collection) -> Vec<v1::Record> {
        let count = 1 + self.chance.index(4);
        let records: BTreeMap<_, _> = (0..count).map(|_| self.record(collection)).map(|r| (r.key.clone(), r)).collect();
        records.into_values().collect()
    }

    fn place(collection: Collection, key: &[u8]) -> Place {
        (collection, key.to_vec())
    }

    fn put(&mut self) -> Attempt {
        let collection = self.any_collection();
        let records = self.records(collection);
        let (mut after, mut existed) = (BTreeMap::new(), Vec::new());
        for record in &records {
            let place = Self::place(collection, &record.key);
            existed.push(self.model.get(&place).is_some());
            after.insert(place, Some(Held::put(collection, record, now_millis())));
        }
        let (mode, fits) = match self.chance.below(4) {
            0 => (v1::PutMode::Insert, existed.iter().all(|existed| !existed)),
            1 => (v1::PutMode::Update, existed.iter().all(|existed| *existed)),
            _ => (v1::PutMode::Replace, true),
        };
        let write = Write::Put(v1::PutRequest {
            origin: self.request_id(),
            collection: api::collection(collection.name),
            records,
            mode: mode as i32,
            ..Default::default()
        });
        Attempt { write, after, existed: Some(existed), refused: (!fits).then_some(Code::FailedPrecondition) }
    }

    fn merge(&mut self) -> Attempt {
        let collection = self.any_collection();
        let records = self.records(collection);
        let remove_deadline = self.chance.percent(20) && records.iter().all(|record| record.deadline_millis == 0);
        let remove = if self.chance.percent(40) { vec!["extra1".to_owned()] } else { vec![] };
        let (mut after, mut existed) = (BTreeMap::new(), Vec::new());
        for record in &records {
            let place = Self::place(collection, &record.key);
            let over = Held::put(collection, record, now_millis());
            let under = self.model.get(&place);
            existed.push(under.is_some());
            let nothing = Held::put(collection, &v1::Record::default(), 0);
            after.insert(place, Some(under.unwrap_or(&nothing).merged(over, &remove, remove_deadline)));
        }
        let write = Write::Put(v1::PutRequest {
            origin: self.request_id(),
            collection: api::collection(collection.name),
            records,
            mode: v1::PutMode::Merge as i32,
            remove_attributes: remove,
            remove_deadline,
            ..Default::default()
        });
        Attempt { write, after, existed: Some(existed), refused: None }
    }

    fn delete(&mut self) -> Attempt {
        let collection = self.any_collection();
        let mut keys: Vec<Vec<u8>> = (0..1 + self.chance.index(3)).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let places = || keys.iter().map(|key| Self::place(collection, key));
        let existed = places().map(|place| self.model.get(&place).is_some()).collect();
        let after = places().map(|place| (place, None)).collect();
        let write = Write::Delete(Box::new(v1::DeleteRequest {
            origin: self.request_id(),
            collection: api::collection(collection.name),
            keys: keys.into_iter().map(Into::into).collect(),
            ..Default::default()
        }));
        Attempt { write, after, existed: Some(existed), refused: None }
    }

    /// Deletes what a filter takes. Not sent again: a repetition would find other records.
    fn delete_where(&mut self) -> Attempt {
        let bucket = self.chance.below(5) as i64;
        let taken = |held: &Held| {
            held.attributes.get("bucket") == Some(&api::int(bucket))
                && held.attributes.get("writer") == Some(&api::int(self.number as i64))
        };
        let records = self.model.records.iter().filter(|((collection, _), held)| *collection == ANSWERS && taken(held));
        let after = records.map(|(place, _)| (place.clone(), None)).collect();
        let filters = vec![api::equal("bucket", api::int(bucket)), api::equal("writer", api::int(self.number as i64))];
        let write = Write::Delete(Box::new(v1::DeleteRequest {
            collection: api::collection(ANSWERS.name),
            filter: Some(api::filter(v1::filter::Expression::And(v1::Filters { filters }))),
            ..Default::default()
        }));
        Attempt { write, after, existed: None, refused: None }
    }

    /// What loci is for: a memory is written and the cached answers that it makes wrong are dropped, or neither.
    fn batch(&mut self) -> Attempt {
        let (mut after, mut existed, mut changes) = (BTreeMap::new(), Vec::new(), Vec::new());
        for record in self.records(MEMORIES) {
            let place = Self::place(MEMORIES, &record.key);
            existed.push(self.model.get(&place).is_some());
            after.insert(place, Some(Held::put(MEMORIES, &record, now_millis())));
            changes.push(v1::Change {
                collection: api::collection(MEMORIES.name),
                action: Some(v1::change::Action::Put(record)),
            });
        }
        for _ in 0..1 + self.chance.index(2) {
            let key = self.key();
            let place = Self::place(ANSWERS, &key);
            let there = match after.get(&place) {
                Some(held) => held.is_some(),
                None => self.model.get(&place).is_some(),
            };
            existed.push(there);
            after.insert(place, None);
            changes.push(v1::Change {
                collection: api::collection(ANSWERS.name),
                action: Some(v1::change::Action::Delete(key.into())),
            });
        }
        let (mut conditions, mut refused) = (Vec::new(), None);
        if self.chance.percent(50) {
            let key = self.key();
            let current = self.model.get(&Self::place(MEMORIES, &key)).map(|held| held.version);
            let wrong = self.chance.percent(30);
            let expect = match (current, wrong) {
                (Some(version), false) => v1::condition::Expect::Version(version),
                (Some(version), true) => v1::condition::Expect::Version(version + 1),
                (None, false) => v1::condition::Expect::Absent(true),
                (None, true) => v1::condition::Expect::Present(true),
            };
            refused = wrong.then_some(Code::FailedPrecondition);
            conditions.push(v1::Condition {
                collection: api::collection(MEMORIES.name),
                key: key.into(),
                expect: Some(expect),
            });
        }
        let write =
            Write::Batch(v1::BatchRequest { origin: self.request_id(), namespace: String::new(), conditions, changes });
        Attempt { write, after, existed: Some(existed), refused }
    }

    /// A cached answer that lives for moments.
    fn fleeting(&mut self, shared: &Shared) -> Attempt {
        let key = format!("{FLEETING}/{}/{}", self.number, self.chance.below(8)).into_bytes();
        let ttl = 100 + self.chance.below(1_000);
        let value = self.chance.bytes(40);
        let record = v1::Record { ttl_millis: ttl, ..api::record(&key, &value) };
        // The node's clock is this machine's, and adds when it logs the write.
        shared.fleeting_until.fetch_max(now_millis() + ttl + 2_000, Ordering::SeqCst);
        let after = BTreeMap::from([(Self::place(ANSWERS, &key), Some(Held::put(ANSWERS, &record, now_millis())))]);
        let write = Write::Put(v1::PutRequest {
            origin: self.request_id(),
            collection: api::collection(ANSWERS.name),
            records: vec![record],
            ..Default::default()
        });
        Attempt { write, after, existed: None, refused: None }
    }

    /// Sends a write and checks the answer. `false`: there was none, and its outcome is not known.
    async fn send(&mut self, api: &mut Api, attempt: Attempt, shared: &Shared) -> Result<bool, String> {
        let Attempt { write, after, existed, refused } = attempt;
        let answer = send(api, &write).await;
        if shared.cut.load(Ordering::SeqCst) {
            self.model.pending = refused.is_none().then_some(Pending { after });
            self.unknown = self.model.pending.is_some().then_some(write);
            return Ok(false);
        }
        match answer {
            Answer::Done(version, reported) => {
                if let Some(code) = refused {
                    return Err(format!("{write:?} took effect; it must be refused with {code:?}"));
                }
                if existed.is_some_and(|existed| existed != reported) {
                    return Err(format!("{write:?}: the records' existence before is reported as {reported:?}"));
                }
                if matches!(&write, Write::Delete(delete) if delete.filter.is_some()) && reported.len() != after.len() {
                    return Err(format!("{write:?} deleted {} records instead of {}", reported.len(), after.len()));
                }
                self.model.acknowledge(after, version);
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
                if request_id(&write).is_some() {
                    self.last = Some((write, version));
                }
                Ok(true)
            }
            Answer::Refused(status) if Some(status.code()) == refused => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                Ok(true)
            }
            // Full or overloaded: nothing happened.
            Answer::Refused(status) if status.code() == Code::ResourceExhausted => Ok(true),
            Answer::Refused(status) => Err(format!("{write:?} was refused: {status:?}")),
            Answer::Unknown(_) => {
                self.model.pending = refused.is_none().then_some(Pending { after });
                self.unknown = self.model.pending.is_some().then_some(write);
                Ok(false)
            }
        }
    }

    /// Sends the last acknowledged write again, as it was or with other bytes under its id.
    async fn repeat(&mut self, api: &mut Api, shared: &Shared) -> Result<bool, String> {
        let Some((write, version)) = self.last.clone() else {
            return Ok(true);
        };
        if self.chance.percent(30) {
            let Write::Put(mut other) = write else {
                return Ok(true);
            };
            other.records[0].value = Some(self.chance.bytes(20).into());
            return match send(api, &Write::Put(other)).await {
                _ if shared.cut.load(Ordering::SeqCst) => Ok(false),
                Answer::Unknown(_) => Ok(false),
                Answer::Refused(status) if status.code() == Code::Aborted => Ok(true),
                Answer::Refused(status) => Err(format!("another write under a used request id: {status:?}")),
                Answer::Done(..) => Err("another write under a used request id took effect".into()),
            };
        }
        match send(api, &write).await {
            _ if shared.cut.load(Ordering::SeqCst) => Ok(false),
            Answer::Unknown(_) => Ok(false),
            Answer::Done(again, _) if again == version => Ok(true),
            Answer::Done(again, _) => Err(format!("{write:?} repeated: version {again} instead of {version}")),
            Answer::Refused(status) => Err(format!("{write:?} repeated, and refused: {status:?}")),
        }
    }

    /// Reads a few keys: what was acknowledged is there at once.
    async fn read(&mut self, api: &mut Api) -> Result<bool, String> {
        let collection = self.any_collection();
        let keys: Vec<Vec<u8>> = (0..5).map(|_| self.key()).collect();
        let request = v1::GetRequest {
            collection: api::collection(collection.name),
            keys: keys.iter().map(|key| key.clone().into()).collect(),
            ..Default::default()
        };
        let reply = match api.records.get(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if reason(&status).is_none() => return Ok(false),
            Err(status) => return Err(format!("get: {status:?}")),
        };
        for (key, found) in keys.iter().zip(&reply.records) {
            let held = self.model.get(&Self::place(collection, key)).map(|held| held.version);
            let found = found.record.as_ref().map(|record| record.version);
            if held != found {
                return Err(format!("{:?} has version {found:?} instead of {held:?}", String::from_utf8_lossy(key)));
            }
        }
        Ok(true)
    }

    /// After a restart: compares everything with what was found. Then, in half of the cases, sends the write again
    /// whose outcome was not known: it must take effect exactly once.
    pub async fn resolve(&mut self, found: &Found, api: &mut Api) -> Result<(), String> {
        let unknown = self.unknown.take();
        let pending = self.model.pending.clone();
        let resolved = self.model.check(found).map_err(|wrong| {
            let unknown = unknown.as_ref().map(|write| format!("{write:?}").chars().take(600).collect::<String>());
            format!("writer {}: {}\nthe unknown write: {unknown:?}", self.number, wrong.join("\n"))
        })?;
        let (Some(write), Some(pending)) = (unknown, pending) else {
            return Ok(());
        };
        if request_id(&write).is_none() || self.chance.percent(50) {
            return Ok(());
        }
        let version = match (send(api, &write).await, resolved) {
            (Answer::Done(version, _), Resolved::Took(first)) if first == 0 || version == first => version,
            (Answer::Done(version, _), Resolved::DidNot | Resolved::Either) => version,
            (Answer::Done(version, _), Resolved::Took(first)) => {
                return Err(format!("{write:?} took effect twice: as {first} and, sent again, as {version}"));
            }
            (Answer::Refused(status) | Answer::Unknown(status), _) => {
                return Err(format!("{write:?} sent again after a restart: {status:?}"));
            }
        };
        if matches!(resolved, Resolved::DidNot | Resolved::Either) {
            self.model.acknowledge(pending.after, version);
        }
        self.last = Some((write, version));
        Ok(())
    }
}

fn request_id(write: &Write) -> Option<&[u8]> {
    let origin = match write {
        Write::Put(request) => &request.origin,
        Write::Delete(request) => &request.origin,
        Write::Batch(request) => &request.origin,
    };
    origin.as_ref().map(|origin| &origin.request_id[..]).filter(|id| !id.is_empty())
}

/// Why the node itself refused a call; `None`: the status was made by the broken connection.
pub fn reason(status: &Status) -> Option<String> {
    loci_wire::decode_detail(status.details()).map(|detail| detail.reason)
}

async fn send(api: &mut Api, write: &Write) -> Answer {
    let reply = match write.clone() {
        Write::Put(request) => api.records.put(request).await.map(|reply| {
            let reply = reply.into_inner();
            (reply.version, reply.existed)
        }),
        Write::Batch(request) => api.records.batch(request).await.map(|reply| {
            let reply = reply.into_inner();
            (reply.version, reply.existed)
        }),
        Write::Delete(request) => api.records.delete(*request).await.map(|reply| {
            let reply = reply.into_inner();
            // A deletion by filter tells only how many.
            let existed = if reply.existed.is_empty() { vec![true; reply.deleted as usize] } else { reply.existed };
            (0, existed)
        }),
    };
    match reply {
        Ok((version, existed)) => Answer::Done(version, existed),
        Err(status) => match reason(&status).as_deref() {
            None | Some("stopping" | "not_leader" | "unconfirmed" | "deadline_exceeded" | "starting") => {
                Answer::Unknown(status)
            }
            Some(_) => Answer::Refused(status),
        },
    }
}

/// Everything in both collections.
pub async fn find_all(api: &mut Api) -> Found {
    let before = now_millis();
    let mut records = BTreeMap::new();
    for collection in COLLECTIONS {
        for record in api.all(collection.name).await {
            records.insert((collection, record.key.to_vec()), record);
        }
    }
    Found { records, before, after: now_millis() }
}

/// The key of the store's digest, from a copy of a data directory's store.
pub fn digest_key(data: &std::path::Path) -> [u8; 32] {
    let copy = tempfile::tempdir().expect("a temporary folder");
    let store = data.join("shards/1");
    for entry in std::fs::read_dir(&store).unwrap_or_else(|error| panic!("{}: {error}", store.display())) {
        let entry = entry.expect("a folder can be read");
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("a file can be copied");
    }
    let directory = loci_index::directory::MmapDirectory::open(copy.path()).expect("a copy can be opened");
    let store = Store::open(Arc::new(directory), Default::default()).expect("the store can be opened");
    store.digest_key()
}
