//! How clients find the node that answers without a detour.
//!
//! ```text
//!   client --Route--> any node     the map: slots --> shard --> who leads it, who has it; as of a version
//!   client --call, "I go to shard 5 by version 80"--> the node that leads 5, so it believes
//!   client <--answer, "shard 5 is led by db3, in term 9; said by version 80"-- if that is not so, or there is more to know
//! ```
//!
//! Always:
//! - whoever is asked answers, by its own map, and asks others where it must: what a client believes decides nothing;
//! - the version is the position in the catalog's log at which the map last changed (of what is said of one shard: at which that did;
//!   of a namespace without shards of its own: the last that the node has), the term is the shard's. Greater beats smaller;
//! - a client asks for the map when it hears of a greater version than it has, or has none. Of shard 1 it need not: what is there
//!   is all there, on every node;
//! - a call about several shards is redirected nowhere.
//!
//! Of a call of its own all that is in the metadata of request and reply or status:
//!
//! ```text
//!   loci-known-version: 80            loci-leader: 10.0.0.3:7700          loci-leader-term: 9
//!   loci-known-shard: 5               loci-leader-shard: 5                loci-leader-version: 80
//! ```
//!
//! On a pipeline they are fields of its messages.

use tonic::metadata::{MetadataMap, MetadataValue};

use crate::v1::{self, KnownRoute, Leader};

/// Where the leader is reached.
pub const LEADER_KEY: &str = "loci-leader";
/// Which shard it leads.
pub const LEADER_SHARD_KEY: &str = "loci-leader-shard";
/// In which term.
pub const LEADER_TERM_KEY: &str = "loci-leader-term";
/// As of which version.
pub const LEADER_VERSION_KEY: &str = "loci-leader-version";
/// By which version a client chose the node.
pub const KNOWN_VERSION_KEY: &str = "loci-known-version";
/// For which shard.
pub const KNOWN_SHARD_KEY: &str = "loci-known-shard";
/// The shard that holds the catalog, and all records of namespaces without shards of their own. Every node has it.
pub const CATALOG: u32 = 1;
/// Addresses are shorter: a DNS name has at most 253 characters.
const ADDRESS_BYTES_MAX: usize = 300;

/// Writes down who leads. An address that is no text for a header is left out.
pub fn insert_leader(metadata: &mut MetadataMap, leader: &Leader) {
    if let Ok(address) = MetadataValue::try_from(&*leader.address) {
        metadata.insert(LEADER_KEY, address);
        metadata.insert(LEADER_SHARD_KEY, MetadataValue::from(leader.shard));
        metadata.insert(LEADER_TERM_KEY, MetadataValue::from(leader.term));
        metadata.insert(LEADER_VERSION_KEY, MetadataValue::from(leader.version));
    }
}

/// Who leads, if somebody said so. Nodes of older versions say nothing of term and version.
pub fn leader(metadata: &MetadataMap) -> Option<Leader> {
    let address = metadata.get(LEADER_KEY)?.to_str().ok()?;
    if address.is_empty() || address.len() > ADDRESS_BYTES_MAX {
        return None;
    }
    let shard = number(metadata, LEADER_SHARD_KEY)?;
    let (term, version) = (number(metadata, LEADER_TERM_KEY), number(metadata, LEADER_VERSION_KEY));
    let (term, version) = (term.unwrap_or_default(), version.unwrap_or_default());
    Some(Leader { shard, address: address.to_owned(), term, version })
}

/// Writes down what a client believes.
pub fn insert_known(metadata: &mut MetadataMap, known: KnownRoute) {
    metadata.insert(KNOWN_VERSION_KEY, MetadataValue::from(known.version));
    metadata.insert(KNOWN_SHARD_KEY, MetadataValue::from(known.shard));
}

/// What a client believes, if it says so.
pub fn known(metadata: &MetadataMap) -> Option<KnownRoute> {
    Some(KnownRoute { version: number(metadata, KNOWN_VERSION_KEY)?, shard: number(metadata, KNOWN_SHARD_KEY)? })
}

fn number<N: std::str::FromStr>(metadata: &MetadataMap, key: &str) -> Option<N> {
    metadata.get(key)?.to_str().ok()?.parse().ok()
}

/// A call about records.
pub trait About {
    /// Which namespace it is about. Empty: "default".
    fn namespace(&self) -> &str;

    /// The keys that it names, if it is about nothing but these. None at all: it is about all records.
    fn each_key(&self, each: &mut dyn FnMut(&[u8])) {
        let _ = each;
    }
}

fn of(collection: Option<&v1::CollectionName>) -> &str {
    collection.map_or("", |name| &name.namespace)
}

macro_rules! about_collection {
    ($($request:ident $(, $self:ident, $each:ident => $keys:expr)?;)*) => {$(
        impl About for v1::$request {
            fn namespace(&self) -> &str {
                of(self.collection.as_ref())
            }

            $(fn each_key(&$self, $each: &mut dyn FnMut(&[u8])) {
                $keys
            })?
        }
    )*};
}

about_collection! {
    PutRequest, self, each => {
        self.records.iter().for_each(|record| each(&record.key));
        self.conditions.iter().for_each(|condition| each(&condition.key));
    };
    GetRequest, self, each => self.keys.iter().for_each(|key| each(key));
    DeleteRequest, self, each => {
        self.keys.iter().for_each(|key| each(key));
        self.conditions.iter().for_each(|condition| each(&condition.key));
    };
    ScanRequest;
    CountRequest;
    SearchRequest;
    SemanticPutRequest;
    SemanticGetRequest;
    SemanticDropTaggedRequest;
    SemanticDropPartitionRequest;
}

impl About for v1::BatchRequest {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    fn each_key(&self, each: &mut dyn FnMut(&[u8])) {
        use v1::change::Action;
        for change in &self.changes {
            match &change.action {
                Some(Action::Put(record)) => each(&record.key),
                Some(Action::Merge(merge)) => merge.record.iter().for_each(|record| each(&record.key)),
                Some(Action::Delete(key)) => each(key),
                None => {}
            }
        }
        self.conditions.iter().for_each(|condition| each(&condition.key));
    }
}

/// Where keys stand in commands only nodes know for sure. Nearly always they do after the name, in scripts after what is run and
/// the number of keys.
impl About for v1::ExecuteRequest {
    fn namespace(&self) -> &str {
        of(self.collection.as_ref())
    }

    fn each_key(&self, each: &mut dyn FnMut(&[u8])) {
        const SCRIPTS: [&str; 6] = ["eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"];
        for v1::CacheCommand { arguments } in &self.commands {
            let Some(name) = arguments.first() else { continue };
            let is_script = SCRIPTS.iter().any(|script| name.eq_ignore_ascii_case(script.as_bytes()));
            if let Some(key) = arguments.get(if is_script { 3 } else { 1 }) {
                each(key);
            }
        }
        self.conditions.iter().for_each(|condition| each(&condition.key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_arrives_as_it_was_sent_and_nonsense_is_none() {
        let sent = Leader { shard: 7, address: "db2.example.org:7700".into(), term: 9, version: 80 };
        let mut metadata = MetadataMap::new();
        assert_eq!(leader(&metadata), None);
        insert_leader(&mut metadata, &sent);
        assert_eq!(leader(&metadata), Some(sent.clone()));
        for key in [LEADER_TERM_KEY, LEADER_VERSION_KEY] {
            metadata.insert(key, MetadataValue::from_static("-1"));
        }
        assert_eq!(leader(&metadata), Some(Leader { term: 0, version: 0, ..sent.clone() }), "from an older node");
        metadata.insert(LEADER_SHARD_KEY, MetadataValue::from_static("first"));
        assert_eq!(leader(&metadata), None);
        let mut metadata = MetadataMap::new();
        insert_leader(&mut metadata, &Leader { address: "a\nb".into(), ..sent });
        assert!(metadata.is_empty());
    }

    #[test]
    fn what_a_client_believes_arrives_and_nonsense_is_none() {
        let sent = KnownRoute { version: u64::MAX, shard: 5 };
        let mut metadata = MetadataMap::new();
        assert_eq!(known(&metadata), None);
        insert_known(&mut metadata, sent);
        assert_eq!(known(&metadata), Some(sent));
        metadata.insert(KNOWN_SHARD_KEY, MetadataValue::from_static("4294967296"));
        assert_eq!(known(&metadata), None);
    }

    #[test]
    fn a_call_is_about_every_key_that_it_names() {
        let keys = |call: &dyn About| {
            let mut keys = Vec::new();
            call.each_key(&mut |key| keys.push(String::from_utf8_lossy(key).into_owned()));
            keys
        };
        let record = |key: &str| v1::Record { key: key.to_owned().into(), ..Default::default() };
        let conditions = vec![v1::Condition { key: "c".into(), ..Default::default() }];
        let put = v1::PutRequest {
            records: vec![record("a"), record("b")],
            conditions: conditions.clone(),
            ..Default::default()
        };
        assert_eq!(keys(&put), ["a", "b", "c"]);
        let change = |action| v1::Change { collection: None, action: Some(action) };
        let merge = v1::Merge { record: Some(record("m")), ..Default::default() };
        let changes = vec![
            change(v1::change::Action::Put(record("p"))),
            change(v1::change::Action::Merge(merge)),
            change(v1::change::Action::Delete("d".into())),
        ];
        assert_eq!(
            keys(&v1::BatchRequest { changes, conditions: conditions.clone(), ..Default::default() }),
            ["p", "m", "d", "c"]
        );
        let command =
            |line: &str| v1::CacheCommand { arguments: line.split(' ').map(|word| word.to_owned().into()).collect() };
        let commands = vec![command("SET s 1"), command("EvalSha f 1 e x"), command("PING")];
        assert_eq!(keys(&v1::ExecuteRequest { commands, conditions, ..Default::default() }), ["s", "e", "c"]);
        assert_eq!(keys(&v1::ScanRequest::default()), [""; 0]);
    }
}
