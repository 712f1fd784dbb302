//! Hashes of records, of the catalog and of commands.
//!
//! The store's digest is the sum of the keyed hashes of all live records, so that it can be kept with every change and
//! does not depend on the order of anything, together with a hash of the catalog. The key keeps clients from choosing
//! records whose hashes cancel out.

use rkyv::option::ArchivedOption;
use rkyv::rancor;
use rkyv::rend::f32_le;

use crate::buffer::RowContent;
use crate::command::{
    ArchivedAction, ArchivedCodes, ArchivedCommand, ArchivedContent, ArchivedDurability, ArchivedEmbeddingSpec,
    ArchivedExpect, ArchivedIndexKind, ArchivedIndexSpec, ArchivedLanguage, ArchivedPolicy, ArchivedSchema,
    ArchivedStorage, Codes, Durability, IndexKind, Language, Policy, Schema, Storage,
};
use crate::record::SPARSE_MAX;
use crate::view::{RecordRef, Structure};

/// Hashes what is given to it piece by piece, as if it were one. Most pieces have eight bytes, so they are gathered first; little
/// is hashed at once, without the large state that much would take.
struct Hasher<'k> {
    key: Option<&'k [u8; 32]>,
    gathered: [u8; GATHERED],
    len: usize,
    much: Option<blake3::Hasher>,
}

/// All that is hashed of a small record or command.
const GATHERED: usize = 512;

impl<'k> Hasher<'k> {
    #[inline]
    fn new() -> Hasher<'k> {
        Hasher { key: None, gathered: [0; GATHERED], len: 0, much: None }
    }

    #[inline]
    fn new_keyed(key: &'k [u8; 32]) -> Hasher<'k> {
        Hasher { key: Some(key), gathered: [0; GATHERED], len: 0, much: None }
    }

    #[inline]
    fn update(&mut self, bytes: &[u8]) {
        match self.gathered[self.len..].get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.pass_on(bytes),
        }
    }

    /// Hashes what is gathered, and these bytes after it.
    #[cold]
    fn pass_on(&mut self, bytes: &[u8]) {
        let new = || self.key.map_or_else(blake3::Hasher::new, blake3::Hasher::new_keyed);
        let much = self.much.get_or_insert_with(new);
        much.update(&self.gathered[..self.len]);
        much.update(bytes);
        self.len = 0;
    }

    #[inline]
    fn finalize(&mut self) -> blake3::Hash {
        let gathered = &self.gathered[..self.len];
        match (&mut self.much, self.key) {
            (Some(much), _) => much.update(gathered).finalize(),
            (None, Some(key)) => blake3::keyed_hash(key, gathered),
            (None, None) => blake3::hash(gathered),
        }
    }
}

/// Adds bytes with their length, so that no two lists of parts look alike.
fn part(hasher: &mut Hasher<'_>, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn number(hasher: &mut Hasher<'_>, number: u64) {
    hasher.update(&number.to_le_bytes());
}

fn flag(hasher: &mut Hasher<'_>, flag: bool) {
    hasher.update(&[u8::from(flag)]);
}

fn first_16(hasher: &mut Hasher<'_>) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    first
}

/// One version of a record, as it is hashed.
struct Hashed<'a> {
    collection: u64,
    key: &'a [u8],
    version: u64,
    deadline: u64,
    value: Option<&'a [u8]>,
    attributes: &'a [u8],
}

impl Hashed<'_> {
    /// The keyed hash, with the embeddings of both kinds by their numbers, ascending.
    fn hash<'a>(
        &self,
        digest_key: &[u8; 32],
        embeddings: impl Iterator<Item = (u16, &'a [f32])>,
        sparse: impl Iterator<Item = (u16, &'a [u8])>,
    ) -> u128 {
        let mut hasher = Hasher::new_keyed(digest_key);
        number(&mut hasher, self.collection);
        part(&mut hasher, self.key);
        number(&mut hasher, self.version);
        number(&mut hasher, self.deadline);
        flag(&mut hasher, self.value.is_some());
        part(&mut hasher, self.value.unwrap_or_default());
        part(&mut hasher, self.attributes);
        for (field, embedding) in embeddings {
            number(&mut hasher, u64::from(field));
            // Segments are cast in place, so this program runs on little-endian machines only.
            part(&mut hasher, bytemuck::cast_slice(embedding));
        }
        for (field, weights) in sparse {
            // No number of an embedding is as large.
            number(&mut hasher, 1 << 32 | u64::from(field));
            part(&mut hasher, weights);
        }
        u128::from_le_bytes(first_16(&mut hasher))
    }
}

/// The keyed hash of a version that is being written.
pub(super) fn of_content(
    digest_key: &[u8; 32],
    collection: u64,
    key: &[u8],
    version: u64,
    content: &RowContent<'_>,
) -> u128 {
    let RowContent { value, attributes, embeddings, sparse, deadline } = content;
    let (value, deadline) = (value.as_deref(), *deadline);
    let embeddings = (0..).zip(embeddings).filter_map(|(field, e)| Some((field, e.as_deref()?)));
    let sparse = (0..).zip(sparse).filter_map(|(field, weights)| Some((field, weights.as_deref()?)));
    Hashed { collection, key, version, deadline, value, attributes }.hash(digest_key, embeddings, sparse)
}

/// The keyed hash of a stored version, computed anew.
pub(super) fn of_record(digest_key: &[u8; 32], collection: u64, fields: usize, record: &RecordRef<'_>) -> u128 {
    let embeddings: Vec<_> = (0..fields as u16).filter_map(|field| Some((field, record.embedding(field)?))).collect();
    let embeddings = embeddings.iter().map(|(field, embedding)| (*field, &**embedding));
    let hashed = Hashed {
        collection,
        key: record.key(),
        version: record.version(),
        deadline: record.deadline(),
        value: record.value(),
        attributes: record.attributes(),
    };
    let sparse = (0..SPARSE_MAX as u16).filter_map(|field| Some((field, record.sparse(field)?)));
    hashed.hash(digest_key, embeddings, sparse)
}

/// The hash of namespaces, collections and their rules.
pub(super) fn catalog<'a>(
    namespaces: impl Iterator<Item = &'a str>,
    collections: impl Iterator<Item = (u64, &'a str, &'a str, &'a Schema)>,
    next_collection: u64,
) -> [u8; 32] {
    let mut hasher = Hasher::new();
    for namespace in namespaces {
        part(&mut hasher, namespace.as_bytes());
    }
    number(&mut hasher, u64::MAX);
    for (id, namespace, name, schema) in collections {
        number(&mut hasher, id);
        part(&mut hasher, namespace.as_bytes());
        part(&mut hasher, name.as_bytes());
        for embedding in &schema.embeddings {
            part(&mut hasher, embedding.name.as_bytes());
            number(&mut hasher, u64::from(embedding.dimension));
            number(&mut hasher, u64::from(embedding.metric));
        }
        number(&mut hasher, u64::MAX);
        later_rules(&mut hasher, schema);
        if let Some(policy) = schema.eviction_policy {
            // No flag begins like this.
            hasher.update(&[3, policy as u8]);
        }
        flag(&mut hasher, schema.durability == Durability::Buffered);
        number(&mut hasher, schema.retention_millis);
        number(&mut hasher, schema.eviction_bytes);
    }
    number(&mut hasher, next_collection);
    *hasher.finalize().as_bytes()
}

/// The rules that came with version 2. A schema without any of them is hashed as version 1 did: with nothing.
fn later_rules(h: &mut Hasher<'_>, schema: &Schema) {
    let Schema { embeddings, sparse, texts, indexes, .. } = schema;
    let usual = embeddings.iter().all(|e| e.storage == Storage::F32 && e.codes == Codes::Int8);
    if usual && sparse.is_empty() && texts.is_empty() && indexes.is_empty() {
        return;
    }
    // No flag begins like this.
    h.update(&[2]);
    for embedding in embeddings {
        flag(h, embedding.storage == Storage::F16);
        flag(h, embedding.codes == Codes::None);
    }
    number(h, sparse.len() as u64);
    sparse.iter().for_each(|sparse| part(h, sparse.name.as_bytes()));
    number(h, texts.len() as u64);
    for text in texts {
        path(h, text.path.iter().map(String::as_str));
        flag(h, text.language == Language::English);
    }
    number(h, indexes.len() as u64);
    for index in indexes {
        path(h, index.path.iter().map(String::as_str));
        flag(h, index.kind == IndexKind::Substring);
    }
}

fn path<'a>(h: &mut Hasher<'_>, names: impl ExactSizeIterator<Item = &'a str>) {
    number(h, names.len() as u64);
    names.for_each(|name| part(h, name.as_bytes()));
}

/// The store's digest from its parts.
pub(super) fn whole(structure: &Structure, record_sum: u128) -> [u8; 32] {
    let mut hasher = Hasher::new_keyed(&structure.digest_key);
    hasher.update(&record_sum.to_le_bytes());
    hasher.update(&structure.catalog_hash);
    *hasher.finalize().as_bytes()
}

/// The head of the chain of applied entries.
pub(super) fn chain(head: &[u8; 32], index: u64, entry: &[u8]) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.update(head);
    number(&mut hasher, index);
    hasher.update(entry);
    *hasher.finalize().as_bytes()
}

/// What tells one command from another, wherever in an entry it lies. What version 1 could say has the fingerprint that
/// it had then, so that a request is recognised across an upgrade.
pub(super) fn fingerprint(command: &ArchivedCommand) -> [u8; 16] {
    let mut hasher = Hasher::new();
    let h = &mut hasher;
    match command {
        ArchivedCommand::CreateNamespace { name } => {
            h.update(b"a");
            part(h, name.as_bytes());
        }
        ArchivedCommand::DropNamespace { name } => {
            h.update(b"b");
            part(h, name.as_bytes());
        }
        ArchivedCommand::CreateCollection { namespace, name, schema } => {
            h.update(b"c");
            part(h, namespace.as_bytes());
            part(h, name.as_bytes());
            archived_schema(h, schema);
        }
        ArchivedCommand::AlterCollection { collection, change } => {
            h.update(b"d");
            number(h, collection.to_native());
            if !change.add_indexes.is_empty() || !change.remove_indexes.is_empty() {
                // No flag begins like this.
                h.update(&[2]);
                archived_indexes(h, &change.add_indexes);
                number(h, change.remove_indexes.len() as u64);
                for removed in change.remove_indexes.iter() {
                    path(h, removed.iter().map(|name| name.as_str()));
                }
            }
            if let ArchivedOption::Some(policy) = &change.eviction_policy {
                // Nor like this.
                h.update(&[3, archived_policy(policy)]);
            }
            let durability = change.durability.as_ref().map(|d| u64::from(matches!(d, ArchivedDurability::Buffered)));
            let retention = change.retention_millis.as_ref().map(|millis| millis.to_native());
            let eviction = change.eviction_bytes.as_ref().map(|bytes| bytes.to_native());
            for part in [durability, retention, eviction] {
                flag(h, part.is_some());
                number(h, part.unwrap_or(0));
            }
        }
        ArchivedCommand::DropCollection { collection } => {
            h.update(b"e");
            number(h, collection.to_native());
        }
        ArchivedCommand::Write { conditions, changes } => {
            h.update(b"f");
            number(h, conditions.len() as u64);
            for condition in conditions.iter() {
                number(h, condition.collection.to_native());
                part(h, &condition.key);
                let (kind, version) = match condition.expect {
                    ArchivedExpect::Absent => (0, 0),
                    ArchivedExpect::Present => (1, 0),
                    ArchivedExpect::Version(version) => (2, version.to_native()),
                    ArchivedExpect::Lease(number) => (3, number.to_native()),
                    ArchivedExpect::Value(version) => (4, version.to_native()),
                };
                number(h, kind);
                number(h, version);
            }
            number(h, changes.len() as u64);
            for change in changes.iter() {
                number(h, change.collection.to_native());
                part(h, &change.key);
                archived_action(h, &change.action);
            }
        }
        ArchivedCommand::InstallCollection(installation) => {
            h.update(b"g");
            number(h, installation.collection.to_native());
            part(h, installation.namespace.as_bytes());
            part(h, installation.name.as_bytes());
            archived_schema(h, &installation.schema);
        }
        ArchivedCommand::Execute(execution) => {
            h.update(b"h");
            number(h, execution.collections.len() as u64);
            execution.collections.iter().for_each(|collection| number(h, collection.to_native()));
            number(h, execution.conditions.len() as u64);
            for watched in execution.conditions.iter() {
                number(h, u64::from(watched.database));
                part(h, &watched.key);
                number(h, watched.version.to_native());
            }
            part(h, &execution.calls);
            flag(h, execution.atomic);
        }
        ArchivedCommand::Reclaim(reclaim) => {
            h.update(b"i");
            number(h, reclaim.collection.to_native());
            number(h, reclaim.keys.len() as u64);
            reclaim.keys.iter().for_each(|key| part(h, key));
            flag(h, reclaim.evicted);
        }
        ArchivedCommand::Remove(removal) => {
            h.update(b"r");
            number(h, removal.collection.to_native());
            part(h, &removal.filter);
        }
    }
    first_16(&mut hasher)
}

/// Stands where a number of embeddings would, which is never so large, and says that more follows than version 1 had.
const MORE: u64 = u64::MAX;

fn archived_indexes(h: &mut Hasher<'_>, indexes: &[ArchivedIndexSpec]) {
    number(h, indexes.len() as u64);
    for index in indexes {
        path(h, index.path.iter().map(|name| name.as_str()));
        flag(h, matches!(index.kind, ArchivedIndexKind::Substring));
    }
}

/// Its number, or what is none.
fn archived_policy(policy: &ArchivedOption<ArchivedPolicy>) -> u8 {
    let number = |policy| rkyv::deserialize::<Policy, rancor::Error>(policy).map_or(u8::MAX, |policy| policy as u8);
    policy.as_ref().map_or(u8::MAX, number)
}

fn archived_schema(h: &mut Hasher<'_>, schema: &ArchivedSchema) {
    let usual =
        |e: &ArchivedEmbeddingSpec| matches!((&e.storage, &e.codes), (ArchivedStorage::F32, ArchivedCodes::Int8));
    let ArchivedSchema { embeddings, sparse, texts, indexes, .. } = schema;
    let as_before = embeddings.iter().all(usual) && sparse.is_empty() && texts.is_empty() && indexes.is_empty();
    if !as_before {
        number(h, MORE);
        number(h, embeddings.len() as u64);
        for embedding in embeddings.iter() {
            flag(h, matches!(embedding.storage, ArchivedStorage::F16));
            flag(h, matches!(embedding.codes, ArchivedCodes::None));
        }
        number(h, sparse.len() as u64);
        sparse.iter().for_each(|sparse| part(h, sparse.name.as_bytes()));
        number(h, texts.len() as u64);
        for text in texts.iter() {
            path(h, text.path.iter().map(|name| name.as_str()));
            flag(h, matches!(text.language, ArchivedLanguage::English));
        }
        archived_indexes(h, indexes);
    }
    number(h, schema.embeddings.len() as u64);
    for embedding in schema.embeddings.iter() {
        part(h, embedding.name.as_bytes());
        number(h, u64::from(embedding.dimension.to_native()));
        number(h, u64::from(embedding.metric));
    }
    if schema.eviction_policy.is_some() {
        // No flag begins like this.
        h.update(&[3, archived_policy(&schema.eviction_policy)]);
    }
    flag(h, matches!(schema.durability, ArchivedDurability::Buffered));
    number(h, schema.retention_millis.to_native());
    number(h, schema.eviction_bytes.to_native());
}

fn archived_action(h: &mut Hasher<'_>, action: &ArchivedAction) {
    match action {
        ArchivedAction::Put(content) => {
            h.update(b"p");
            archived_content(h, content);
        }
        ArchivedAction::Merge { content, remove_attributes, remove_deadline } => {
            h.update(b"m");
            archived_content(h, content);
            number(h, remove_attributes.len() as u64);
            for name in remove_attributes.iter() {
                part(h, name.as_bytes());
            }
            flag(h, *remove_deadline);
        }
        ArchivedAction::Delete => h.update(b"d"),
        ArchivedAction::DeleteVersion(version) => {
            h.update(b"v");
            number(h, version.to_native());
        }
    }
}

fn archived_content(h: &mut Hasher<'_>, content: &ArchivedContent) {
    flag(h, content.value.is_some());
    part(h, content.value.as_ref().map_or(&[][..], |value| value));
    part(h, &content.attributes);
    if !content.sparse.is_empty() {
        number(h, MORE);
        number(h, content.sparse.len() as u64);
        for sparse in content.sparse.iter() {
            number(h, u64::from(sparse.0.to_native()));
            number(h, sparse.1.len() as u64);
            for weighted in sparse.1.iter() {
                h.update(&weighted.0.to_native().to_le_bytes());
                h.update(&weighted.1.to_native().to_le_bytes());
            }
        }
    }
    number(h, content.embeddings.len() as u64);
    for embedding in content.embeddings.iter() {
        number(h, u64::from(embedding.0.to_native()));
        number(h, embedding.1.len() as u64);
        floats(h, &embedding.1);
    }
    number(h, content.deadline.to_native());
    number(h, content.ttl.to_native());
}

/// Many components at a time: hashing is fast only for large pieces.
fn floats(h: &mut Hasher<'_>, floats: &[f32_le]) {
    let mut bytes = [0; 1024];
    for piece in floats.chunks(bytes.len() / 4) {
        for (place, float) in bytes.chunks_exact_mut(4).zip(piece) {
            place.copy_from_slice(&float.to_native().to_le_bytes());
        }
        h.update(&bytes[..piece.len() * 4]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::tests::golden_1;
    use crate::command::{EmbeddingSpec, Entry, IndexSpec, SparseSpec, TextSpec};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn what_is_given_in_pieces_is_hashed_as_one() {
        let bytes: Vec<u8> = (0..5_000).map(|at| (at * 7 % 251) as u8).collect();
        let key = [9; 32];
        for step in 1..700usize {
            for len in [0, 1, step, 8 * step % 1_500, GATHERED - 1, GATHERED, GATHERED + 1, 1_024, 4_999] {
                let bytes = &bytes[..len];
                let (mut plain, mut keyed) = (Hasher::new(), Hasher::new_keyed(&key));
                for (turn, piece) in bytes.chunks(step).enumerate() {
                    // Short pieces and long ones.
                    let (first, rest) = piece.split_at(piece.len() * (turn % 3) / 2);
                    for piece in [first, rest] {
                        plain.update(piece);
                        keyed.update(piece);
                    }
                }
                assert_eq!(plain.finalize(), blake3::hash(bytes), "{len} bytes by {step}");
                assert_eq!(keyed.finalize(), blake3::keyed_hash(&key, bytes), "{len} bytes by {step}");
            }
        }
    }

    #[test]
    fn fingerprints_of_what_version_1_could_say_never_change() {
        let commands = |entry: &crate::command::ArchivedEntry| {
            entry.commands.iter().map(|envelope| hex(&fingerprint(&envelope.command))).collect::<Vec<_>>()
        };
        let found = Entry::access(&golden_1(), commands).unwrap();
        let golden: Vec<&str> = vec![
            "07ab10dbf5674280c5dfd22d69cb4faa",
            "082e4899d0fdeddb06ffba51951d71c3",
            "db764484c65605c9437ada1123067823",
            "57d4fd243a35223429275896c722419e",
            "9a2f3a3c31f9f434de342f62319e2439",
            "95818f13ab4ef750eb3434cc10b8ad1f",
        ];
        assert_eq!(found, golden);
    }

    fn catalog_of(schema: &Schema) -> String {
        hex(&catalog(["n"].into_iter(), [(7, "n", "c", schema)].into_iter(), 8))
    }

    #[test]
    fn each_rule_changes_the_catalogs_hash_and_those_of_version_1_have_the_hash_they_had() {
        let plain = Schema { embeddings: vec![EmbeddingSpec::new("text", 384, 1)], ..Schema::default() };
        assert_eq!(catalog_of(&plain), "932103a47238a39ab898cd9d941efd867fb5771dcb836fb6ce28fac59dc5266a");
        let mut hashes = vec![catalog_of(&plain)];
        let changes: [&dyn Fn(&mut Schema); 11] = [
            &|schema| schema.embeddings[0].storage = Storage::F16,
            &|schema| schema.embeddings[0].codes = Codes::None,
            &|schema| schema.sparse = vec![SparseSpec { name: "words".into() }],
            &|schema| schema.texts = vec![TextSpec { path: vec!["a".into()], language: Language::Plain }],
            &|schema| schema.texts = vec![TextSpec { path: vec!["a".into()], language: Language::English }],
            &|schema| schema.indexes = vec![IndexSpec { path: vec!["a".into()], kind: IndexKind::Value }],
            &|schema| schema.indexes = vec![IndexSpec { path: vec!["a".into()], kind: IndexKind::Substring }],
            &|schema| schema.indexes = vec![IndexSpec { path: vec!["a".into(); 2], kind: IndexKind::Value }],
            &|schema| schema.durability = Durability::Buffered,
            &|schema| schema.eviction_policy = Some(Policy::S3Fifo),
            &|schema| schema.eviction_policy = Some(Policy::None),
        ];
        for change in changes {
            let mut schema = plain.clone();
            change(&mut schema);
            hashes.push(catalog_of(&schema));
        }
        let all = hashes.len();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }
}
