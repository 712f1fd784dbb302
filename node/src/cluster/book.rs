//! The address book: which member is which node, and where. Ordinary records, so that every member has them, in every
//! snapshot and backup too.
//!
//! Namespace `_loci`, collection `nodes`; the key is the member's number in decimal digits, the value this JSON:
//!
//! ```json
//! {"node": "32 hexadecimal digits", "address": "host:port", "removed": false, "note": "what its node repaired"}
//! ```
//!
//! Always: a number that stands in the book is never given to another node. One that is removed stays, marked.

use std::collections::BTreeMap;

use loci_index::command::{
    Action, Change, Command, Condition, Content, Envelope, Expect, Origin, Outcome, Refusal, Schema,
};
use loci_index::view::{ScanRequest, View};
use loci_raft::MemberId;
use serde::{Deserialize, Serialize};

/// The namespace that is not for users.
pub const NAMESPACE: &str = "_loci";
const NODES: &str = "nodes";
/// More members than a shard can have ever had in a life of being replaced.
const NODES_MAX: usize = 100_000;

/// What the book says of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The node, 32 hexadecimal digits.
    pub node: String,
    /// Where others reach it.
    pub address: String,
    /// It takes part no longer.
    #[serde(default)]
    pub removed: bool,
    /// What its node last had to repair, for people; nothing if its last start found nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// All that a view's book says, by member.
pub fn read(view: &View) -> BTreeMap<MemberId, Line> {
    let Some(nodes) = view.collection(NAMESPACE, NODES) else { return BTreeMap::new() };
    let request = ScanRequest {
        after: None,
        prefix: None,
        filter: None,
        limit: NODES_MAX,
        bytes_max: usize::MAX,
        now: view.clock(),
    };
    let Ok(page) = nodes.scan(&request, &mut || true) else { return BTreeMap::new() };
    let line = |key: &[u8], value: &[u8]| {
        let member = std::str::from_utf8(key).ok()?.parse().ok()?;
        Some((MemberId(member), serde_json::from_slice(value).ok()?))
    };
    page.records.iter().filter_map(|record| line(record.key(), record.value()?)).collect()
}

/// What the book of a view says of one member.
pub fn find(view: &View, member: MemberId) -> Option<Line> {
    let record = view.collection(NAMESPACE, NODES)?.get(member.to_string().as_bytes(), view.clock())?;
    serde_json::from_slice(record.value()?).ok()
}

/// The commands that make the book, which may be there already.
pub fn making() -> [Envelope; 2] {
    let namespace = Command::CreateNamespace { name: NAMESPACE.into() };
    let collection =
        Command::CreateCollection { namespace: NAMESPACE.into(), name: NODES.into(), schema: Schema::default() };
    [namespace, collection].map(|command| Envelope { origin: own_origin(), command })
}

/// The command that writes a line: a new one, or in the place of any other. None: there is no book yet.
pub fn writing(view: &View, member: MemberId, line: &Line, new: bool) -> Option<Envelope> {
    let collection = view.collection(NAMESPACE, NODES)?.id().0;
    let key = member.to_string().into_bytes();
    let value = serde_json::to_vec(line).expect("a line is plain data");
    let content = Content { value: Some(value), ..Content::default() };
    let expect = new.then(|| Condition { collection, key: key.clone(), expect: Expect::Absent });
    let changes = vec![Change { collection, key, action: Action::Put(content) }];
    let command = Command::Write { conditions: expect.into_iter().collect(), changes };
    Some(Envelope { origin: own_origin(), command })
}

/// Whether an outcome means that what was wanted is so now.
pub fn is_done(outcome: &Outcome) -> bool {
    !matches!(outcome, Outcome::Refused(refusal) if !matches!(refusal, Refusal::AlreadyExists(_)))
}

fn own_origin() -> Origin {
    Origin { principal: "loci".into(), task: "cluster".into(), ..Origin::default() }
}
