//! The address book: which member is which node, where, and which shards there are. Ordinary records, so that every member has them, in every
//! snapshot and backup too.
//!
//! Namespace `_loci`. Values are JSON:
//!
//! | collection | key | value |
//! |---|---|---|
//! | `nodes` | the member's number in decimal digits | `{"node": "32 hexadecimal digits", "address": "host:port", "removed": false, "drained": false, "absent": false, "note": "what its node repaired", "resp": 6379}` |
//! | `shards` | the shard's number in decimal digits, from 2 on | `{"founders": [1, 2, 3], "digest_key": "64 hexadecimal digits"}`, and of one that is on some nodes only `"replicas": 3, "holders": [1, 2, 3], "leaving": [4], "moved": true` |
//! | `namespaces` | the name of a namespace with shards of its own | `{"shards": [2, 3, 4], "made": true}`, and if they are on some nodes only `"replicas": 3` |
//! | `settings` | `cluster` | `{"voters": 5}` |
//! | `settings` | `away` | `{"member": 2}`: that node stops to be repaired, see [`super::turns`] |
//!
//! Always:
//! - a number that stands in the book is never given to another node. One that is removed stays, marked;
//! - founders and digest key of a shard never change, and no shard is ever taken out: its founders begin with the same state;
//! - a shard with `replicas` is on its `holders`, see [`super::placement`]. Who is to hold it no longer stands in `leaving` until
//!   its node has thrown away what it had, and is no holder before that: so a member that comes again begins with nothing;
//! - the `replicas` of a shard come to be those of the namespace of its that wants most, see [`ShardLine::wanted`];
//! - the shards of a namespace do not change as long as it is there. Its line is written before it is made, and again, as made,
//!   after that; a line that is taken out is named by its version. So a line that is made, and whose namespace is there, is
//!   believed, and nobody takes it out because of what he saw before; one that is not made yet is nobody's word.

use std::collections::BTreeMap;

use loci_index::command::{
    Action, Change, Command, Condition, Content, Envelope, Expect, Origin, Outcome, Refusal, Schema,
};
use loci_index::view::{ScanRequest, View};
use loci_raft::MemberId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The namespace that is not for users.
pub const NAMESPACE: &str = "_loci";
const NODES: &str = "nodes";
const SHARDS: &str = "shards";
const NAMESPACES: &str = "namespaces";
const SETTINGS: &str = "settings";
/// The keys of the settings.
const CLUSTER: &str = "cluster";
const AWAY: &str = "away";
/// More members than a shard can have ever had in a life of being replaced.
const NODES_MAX: usize = 100_000;

/// What the book says of a member.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The node, 32 hexadecimal digits.
    pub node: String,
    /// Where others reach it.
    pub address: String,
    /// It takes part no longer.
    #[serde(default)]
    pub removed: bool,
    /// It is to have no votes and no leads, if others can have them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// It has not been heard of for long: others are to have its votes until it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// What its node last had to repair, for people; nothing if its last start found nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// The port where clients of Redis connect; zero: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resp: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "so it is called")]
fn is_zero(port: &u16) -> bool {
    *port == 0
}

/// What the book says of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLine {
    /// The members that it began with.
    pub founders: Vec<u64>,
    /// The key of its store's digest, 64 hexadecimal digits.
    pub digest_key: String,
    /// How many members it is to have; zero: every node has one.
    #[serde(default, skip_serializing_if = "is_everywhere")]
    pub replicas: u32,
    /// If not every node has one: those that are to have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<u64>,
    /// Those that had one, and may still have what was in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<u64>,
    /// The holders are others than the founders, or were.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
}

fn is_everywhere(replicas: &u32) -> bool {
    *replicas == 0
}

impl ShardLine {
    /// Whether it is on some nodes only.
    pub fn is_placed(&self) -> bool {
        self.replicas > 0
    }

    /// How many members a shard of this number is to have, as the namespaces want it that have records in it.
    pub fn wanted(&self, id: u32, namespaces: &BTreeMap<String, NamespaceLine>) -> u32 {
        let of = namespaces.values().filter(|line| line.shards.contains(&id));
        let most = of.map(|line| if line.replicas == 0 { self.replicas } else { line.replicas }).max();
        if self.is_placed() { most.unwrap_or(self.replicas) } else { 0 }
    }

    /// Whether a node is to have a member of it.
    pub fn is_held_by(&self, member: MemberId) -> bool {
        !self.is_placed() || self.holders.contains(&member.0)
    }
}

/// Whether a node that had a part in a shard is to have none any more: it was removed, or the shard went to others.
pub fn has_left(view: &View, shard: u32, member: MemberId) -> bool {
    let is_removed = find(view, member).is_some_and(|line| line.removed);
    let went = |line: ShardLine| !line.is_held_by(member) || line.leaving.contains(&member.0);
    is_removed || self::shard(view, shard).is_some_and(|(line, _)| went(line))
}

/// Where the records of a namespace are, if not where the catalog is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceLine {
    /// Its shards, in the order of the slots that they hold.
    pub shards: Vec<u32>,
    /// Whether the namespace was made with them. Until then nothing is read or written in it.
    #[serde(default)]
    pub made: bool,
    /// How many members each is to have at least, if they are on some nodes only; zero: as many as it has. Nobody said so
    /// before it could change.
    #[serde(default, skip_serializing_if = "is_everywhere")]
    pub replicas: u32,
}

/// What the whole cluster is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How many members vote in the catalog, and in every shard that is on all nodes, once there are as many: one of [`VOTERS`].
    #[serde(default = "usual_voters")]
    pub voters: u32,
}

/// How many members may be set to vote; the first is so where nobody has said anything. Fewer survive nobody's death, of an even
/// number as many may die as of one fewer, and more would only have every write wait for more disks.
pub const VOTERS: [u32; 2] = [3, 5];

fn usual_voters() -> u32 {
    VOTERS[0]
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { voters: usual_voters() }
    }
}

/// What the cluster is set to.
pub fn settings(view: &View) -> Settings {
    let record =
        view.collection(NAMESPACE, SETTINGS).and_then(|settings| settings.get(CLUSTER.as_bytes(), view.clock()));
    let there = record.and_then(|record| serde_json::from_slice::<Settings>(record.value()?).ok());
    there.filter(|settings| VOTERS.contains(&settings.voters)).unwrap_or_default()
}

/// The command that sets the cluster to this, in the place of what the view has. Refused if it is set to something else by then.
/// None: there is no book yet.
pub fn setting(view: &View, settings: &Settings) -> Option<Envelope> {
    instead(view, SETTINGS, CLUSTER, settings)
}

/// Who stops to be repaired, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Away {
    /// The member.
    pub member: u64,
}

/// Who is away, and the version of that.
pub fn away(view: &View) -> Option<(Away, u64)> {
    let record = view.collection(NAMESPACE, SETTINGS)?.get(AWAY.as_bytes(), view.clock())?;
    // One that nobody can read is nobody's.
    let away = serde_json::from_slice(record.value()?).unwrap_or(Away { member: 0 });
    Some((away, record.version()))
}

/// The command that says that a member goes, in the place of what the view says. Refused if it is something else by then. None:
/// there is no place for it yet.
pub fn going(view: &View, member: MemberId) -> Option<Envelope> {
    instead(view, SETTINGS, AWAY, &Away { member: member.0 })
}

/// The command that says that whoever is away by this view is back. Refused if that is something else by then.
pub fn back(view: &View) -> Option<Envelope> {
    let (collection, key) = (view.collection(NAMESPACE, SETTINGS)?.id().0, AWAY.as_bytes().to_vec());
    let condition = Condition { collection, key: key.clone(), expect: Expect::Version(away(view)?.1) };
    let change = Change { collection, key, action: Action::Delete };
    Some(own(Command::Write { conditions: vec![condition], changes: vec![change] }))
}

/// All that a view's book says of members.
pub fn read(view: &View) -> BTreeMap<MemberId, Line> {
    read_all(view, NODES).into_iter().filter_map(|(key, line)| Some((MemberId(key.parse().ok()?), line))).collect()
}

/// All that it says of shards.
pub fn shards(view: &View) -> BTreeMap<u32, ShardLine> {
    read_all(view, SHARDS).into_iter().filter_map(|(key, line)| Some((key.parse().ok()?, line))).collect()
}

/// All that it says of namespaces.
pub fn namespaces(view: &View) -> BTreeMap<String, NamespaceLine> {
    read_all(view, NAMESPACES)
}

/// What it says of one shard, and the version of that.
pub fn shard(view: &View, id: u32) -> Option<(ShardLine, u64)> {
    let record = view.collection(NAMESPACE, SHARDS)?.get(id.to_string().as_bytes(), view.clock())?;
    Some((serde_json::from_slice(record.value()?).ok()?, record.version()))
}

/// The command that says another thing of a shard than its line of this version does. Refused if the line has another version.
pub fn moving(view: &View, id: u32, version: u64, line: &ShardLine) -> Option<Envelope> {
    let change = put(view, SHARDS, &id.to_string(), line)?;
    let expect = Expect::Version(version);
    let condition = Condition { collection: change.collection, key: change.key.clone(), expect };
    Some(own(Command::Write { conditions: vec![condition], changes: vec![change] }))
}

/// What it says of one namespace, and the version of that.
pub fn namespace(view: &View, name: &str) -> Option<(NamespaceLine, u64)> {
    let record = view.collection(NAMESPACE, NAMESPACES)?.get(name.as_bytes(), view.clock())?;
    Some((serde_json::from_slice(record.value()?).ok()?, record.version()))
}

/// How many members each shard of a namespace has, as that wants it; zero: one on every node.
pub fn replicas(view: &View, namespace: &str) -> u32 {
    let Some((line, _)) = self::namespace(view, namespace) else { return 0 };
    let first = || shard(view, *line.shards.first()?).map(|(line, _)| line.replicas);
    if line.replicas == 0 { first().unwrap_or(0) } else { line.replicas }
}

fn read_all<L: DeserializeOwned>(view: &View, collection: &str) -> BTreeMap<String, L> {
    let Some(lines) = view.collection(NAMESPACE, collection) else { return BTreeMap::new() };
    let request = ScanRequest {
        after: None,
        prefix: None,
        filter: None,
        limit: NODES_MAX,
        bytes_max: usize::MAX,
        now: view.clock(),
    };
    let Ok(page) = lines.scan(&request, &mut || true) else { return BTreeMap::new() };
    let line =
        |key: &[u8], value: &[u8]| Some((String::from_utf8(key.to_vec()).ok()?, serde_json::from_slice(value).ok()?));
    page.records.iter().filter_map(|record| line(record.key(), record.value()?)).collect()
}

/// What the book of a view says of one member.
pub fn find(view: &View, member: MemberId) -> Option<Line> {
    let record = view.collection(NAMESPACE, NODES)?.get(member.to_string().as_bytes(), view.clock())?;
    serde_json::from_slice(record.value()?).ok()
}

/// The commands that make the book, which may be there already.
pub fn making() -> Vec<Envelope> {
    let namespace = Command::CreateNamespace { name: NAMESPACE.into() };
    let collections = [NODES, SHARDS, NAMESPACES, SETTINGS].map(|name| Command::CreateCollection {
        namespace: NAMESPACE.into(),
        name: name.into(),
        schema: Schema::default(),
    });
    [namespace].into_iter().chain(collections).map(own).collect()
}

/// The command that writes a line, in the place of the one that the view has, if it has one. Refused if there is another by then.
/// None: there is no book yet.
pub fn writing(view: &View, member: MemberId, line: &Line) -> Option<Envelope> {
    instead(view, NODES, &member.to_string(), line)
}

/// The command that writes a line in the place of the one that the view has, if it has one.
fn instead(view: &View, collection: &str, key: &str, line: &impl Serialize) -> Option<Envelope> {
    let change = put(view, collection, key, line)?;
    let there = view.collection(NAMESPACE, collection)?.get(&change.key, view.clock()).map(|record| record.version());
    let expect = there.map_or(Expect::Absent, Expect::Version);
    let condition = Condition { collection: change.collection, key: change.key.clone(), expect };
    Some(own(Command::Write { conditions: vec![condition], changes: vec![change] }))
}

/// The command that has each shard of a namespace have so many members. Other namespaces with the same shards want as many as
/// they have. Refused if one of them is another by then. None: there is no such namespace.
pub fn resizing(view: &View, namespace: &str, replicas: u32) -> Option<Envelope> {
    let (namespaces, shards) = (self::namespaces(view), shards(view));
    let own = namespaces.get(namespace)?;
    let (mut conditions, mut changes) = (Vec::new(), Vec::new());
    for (name, line) in &namespaces {
        let shared = line.shards.iter().filter(|shard| own.shards.contains(shard));
        let has = shared.filter_map(|shard| shards.get(shard)).map(|line| line.replicas).max();
        let replicas = match has {
            _ if name == namespace => replicas,
            Some(has) if line.replicas == 0 => has,
            _ => continue,
        };
        let (there, version) = self::namespace(view, name)?;
        let change = put(view, NAMESPACES, name, &NamespaceLine { replicas, ..there })?;
        let expect = Expect::Version(version);
        conditions.push(Condition { collection: change.collection, key: change.key.clone(), expect });
        changes.push(change);
    }
    Some(self::own(Command::Write { conditions, changes }))
}

/// The command that says where a namespace's records are, and makes shards, or none of it if one of them is in the book.
pub fn founding(
    view: &View,
    namespace: &str,
    line: &NamespaceLine,
    shards: &BTreeMap<u32, ShardLine>,
) -> Option<Envelope> {
    let mut changes = vec![put(view, NAMESPACES, namespace, line)?];
    for (id, line) in shards {
        changes.push(put(view, SHARDS, &id.to_string(), line)?);
    }
    Some(write(changes))
}

/// The command that says another thing of a namespace than its line of this version does, or nothing any more. Refused if the
/// line has another version.
pub fn replacing(view: &View, namespace: &str, version: u64, line: Option<&NamespaceLine>) -> Option<Envelope> {
    let collection = view.collection(NAMESPACE, NAMESPACES)?.id().0;
    let key = namespace.as_bytes().to_vec();
    let change = match line {
        Some(line) => put(view, NAMESPACES, namespace, line)?,
        None => Change { collection, key: key.clone(), action: Action::Delete },
    };
    let condition = Condition { collection, key, expect: Expect::Version(version) };
    Some(own(Command::Write { conditions: vec![condition], changes: vec![change] }))
}

fn put(view: &View, collection: &str, key: &str, line: &impl Serialize) -> Option<Change> {
    let collection = view.collection(NAMESPACE, collection)?.id().0;
    let value = serde_json::to_vec(line).expect("a line is plain data");
    let content = Content { value: Some(value), ..Content::default() };
    Some(Change { collection, key: key.as_bytes().to_vec(), action: Action::Put(content) })
}

/// New lines, all of them.
fn write(changes: Vec<Change>) -> Envelope {
    let absent =
        |change: &Change| Condition { collection: change.collection, key: change.key.clone(), expect: Expect::Absent };
    let conditions = changes.iter().map(absent).collect();
    own(Command::Write { conditions, changes })
}

/// A command of the cluster's own.
pub fn own(command: Command) -> Envelope {
    Envelope { origin: own_origin(), command }
}

/// Whether an outcome means that what was wanted is so now.
pub fn is_done(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Refused(refusal) if !matches!(refusal, Refusal::AlreadyExists(_)))
}

fn own_origin() -> Origin {
    Origin { principal: "loci".into(), task: "cluster".into(), ..Origin::default() }
}
