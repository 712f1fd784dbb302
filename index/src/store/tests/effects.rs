//! Effects against the state: whoever follows them has every key with its version, and is told nothing that did not happen.

use std::collections::BTreeMap;

use super::*;
use crate::command::{Execution, Reclaim};
use crate::effects::{EntryEffects, Fate};
use crate::record::{CollectionId, Position};
use crate::table::call::{Chance, Packed};
use crate::table::eviction::Room;
use crate::table::{Keyspace, Listening};

type Keys = BTreeMap<(u64, Vec<u8>), u64>;

/// Follows effects.
#[derive(Default)]
struct Follower {
    keys: Keys,
    collections: BTreeMap<u64, bool>,
    /// Of each entry, as it was encoded.
    entries: BTreeMap<u64, Vec<u8>>,
}

impl Follower {
    fn follow(&mut self, store: &Store, seed: u64) {
        let mut bytes = Vec::new();
        let index = store.applied();
        store.effects().encode(index, store.clock(), &mut bytes);
        if let Some(before) = self.entries.get(&index) {
            assert_eq!(*before, bytes, "seed {seed}: entry {index} has other effects when it is applied again");
            return;
        }
        let entry = EntryEffects::take(&mut &bytes[..]).unwrap();
        assert!(entry.is_whole());
        for effect in entry.iter() {
            let at = (effect.collection.0, effect.key.to_vec());
            let version = effect.position.get();
            let was_there = match effect.fate {
                Fate::Made => self.keys.insert(at, version).is_none(),
                Fate::Replaced => self.keys.insert(at, version).is_some(),
                Fate::Deleted | Fate::Expired | Fate::Evicted => self.keys.remove(&at).is_some(),
                Fate::Cleared => {
                    // Only tables are cleared, and here a collection has either records or a table.
                    self.keys.retain(|(id, _), _| *id != at.0);
                    true
                }
                Fate::Dropped => {
                    self.keys.retain(|(id, _), _| *id != at.0);
                    self.collections.remove(&at.0);
                    effect.key.starts_with(b"n/")
                }
            };
            assert!(was_there, "seed {seed}: entry {index}: {effect:?}");
        }
        self.entries.insert(index, bytes);
    }
}

/// What is there.
fn keys(store: &Store) -> Keys {
    let view = store.view();
    let mut keys = Keys::new();
    for collection in view.collections() {
        let id = collection.id().0;
        let request = crate::view::ScanRequest {
            after: None,
            prefix: None,
            filter: None,
            limit: usize::MAX,
            bytes_max: usize::MAX,
            now: view.clock(),
        };
        let page = collection.scan(&request, &mut || true).unwrap();
        keys.extend(page.records.iter().map(|record| ((id, record.key().to_vec()), record.version())));
        if let Some(table) = collection.table() {
            table.read(|keyspace: &Keyspace| {
                for key in keyspace.keys() {
                    keys.insert((id, key.to_vec()), keyspace.version(key, 0).unwrap_or(0));
                }
            });
        }
    }
    keys
}

fn record_change(chance: &mut Chance, collection: u64, clock: u64) -> Change {
    let key = format!("k{}", chance.below(25));
    let mut content = value(&"v".repeat(chance.below(40)));
    match chance.below(4) {
        0 => content.deadline = clock + 1 + chance.below(400) as u64,
        1 => content.ttl = 1 + chance.below(400) as u64,
        _ => {}
    }
    let action = match chance.below(8) {
        0..4 => Action::Put(content),
        4 => Action::Merge { content, remove_attributes: vec![], remove_deadline: false },
        5 => Action::DeleteVersion(Position::new(chance.below(30) as u64, 0).get()),
        _ => Action::Delete,
    };
    change(collection, &key, action)
}

fn line(chance: &mut Chance) -> String {
    let (key, other) = (format!("k{}", chance.below(25)), format!("k{}", chance.below(25)));
    match chance.below(16) {
        0 | 1 => format!("SET {key} {}", chance.below(100)),
        2 => format!("SET {key} x PX {}", 1 + chance.below(400)),
        3 => format!("APPEND {key} abc"),
        4 => format!("DEL {key} {other}"),
        5 => format!("RPUSH l{} x", chance.below(3)),
        6 => format!("LPOP l{}", chance.below(3)),
        7 => format!("SADD s{} {}", chance.below(3), chance.below(4)),
        8 => format!("SREM s{} {}", chance.below(3), chance.below(4)),
        9 => format!("PEXPIRE {key} {}", chance.below(300)),
        10 => format!("RENAME {key} {other}"),
        11 => format!("COPY {key} {other} REPLACE"),
        12 => format!("SINTERSTORE s{} s0 s1", chance.below(3)),
        13 if chance.below(20) == 0 => "FLUSHDB".into(),
        14 => format!("HSET h{} f{} 1", chance.below(3), chance.below(3)),
        15 => format!("HDEL h{} f{}", chance.below(3), chance.below(3)),
        _ => format!("GET {key}"),
    }
}

fn execution(chance: &mut Chance, collection: u64) -> Command {
    let mut packed = Packed::new();
    for _ in 0..1 + chance.below(20) {
        let line = line(chance);
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        packed.push(0, args.into_iter());
    }
    let atomic = chance.below(2) == 0;
    let execution =
        Execution { collections: vec![collection], calls: packed.into_bytes(), atomic, ..Default::default() };
    Command::Execute(execution.into())
}

fn listen(shard: &mut Shard) {
    let listening = Listening::default();
    listening.to_effects(true);
    shard.store.listen(listening);
}

#[test]
fn whoever_follows_the_effects_has_what_is_there() {
    let seeds = std::env::var("LOCI_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(80);
    for seed in 0..seeds {
        let mut chance = Chance::new(seed);
        let mut shard = Shard::new(small());
        listen(&mut shard);
        let mut follower = Follower::default();
        let (mut records, table) = (shard.collection("r0", 0), shard.collection("t", 0));
        let mut clock = 1_000_000;
        for step in 0..20 + chance.below(150) {
            clock += chance.below(120) as u64;
            let mut commands = Vec::new();
            for _ in 0..chance.below(4) {
                let command = match chance.below(30) {
                    0 => {
                        let keys = (0..chance.below(5)).map(|_| format!("k{}", chance.below(25)).into_bytes());
                        let reclaim = Reclaim { collection: table, keys: keys.collect(), evicted: true };
                        Command::Reclaim(reclaim.into())
                    }
                    1..14 => execution(&mut chance, table),
                    _ => {
                        let count = 1 + chance.below(6);
                        write((0..count).map(|_| record_change(&mut chance, records, clock)).collect())
                    }
                };
                commands.push(command);
            }
            commands.extend(shard.store.reclaims(clock, &Room::default()));
            shard.entry(clock, commands.into_iter().map(envelope).collect());
            follower.follow(&shard.store, seed);
            assert_eq!(follower.keys, keys(&shard.store), "seed {seed}, entry {}", shard.store.applied());
            match chance.below(40) {
                0 => {
                    shard.checkpoint();
                }
                1 => {
                    let log = std::mem::take(&mut shard.log);
                    shard.store = Store::open(Arc::new(shard.directory.clone()), shard.options.clone()).unwrap();
                    listen(&mut shard);
                    for index in shard.store.applied() + 1..=log.len() as u64 {
                        shard.store.apply(index, &log[index as usize - 1].0).unwrap();
                        follower.follow(&shard.store, seed);
                    }
                    shard.log = log;
                }
                2 => {
                    shard.command(Command::DropCollection { collection: records });
                    follower.follow(&shard.store, seed);
                    let schema = Schema::default();
                    let create = Command::CreateCollection { namespace: "n".into(), name: format!("r{step}"), schema };
                    let Outcome::Created { collection } = shard.command(create) else { panic!("it can be made") };
                    records = collection;
                }
                _ => {}
            }
        }
    }
}

#[test]
fn nothing_is_gathered_where_nobody_wants_it() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    shard.command(write(vec![put(collection, "a", "1")]));
    assert!(shard.store.effects().is_empty());
    listen(&mut shard);
    shard.command(write(vec![put(collection, "a", "2"), put(collection, "b", "2"), delete(collection, "nope")]));
    assert_eq!(shard.store.effects().len(), 2);
    let entry = Entry { clock: 1, commands: vec![] }.encode();
    shard.store.apply(shard.store.applied() + 1, &entry).unwrap();
    assert!(shard.store.effects().is_empty());
}

#[test]
fn a_replaced_version_is_found_where_it_was_until_it_is_merged_away() {
    let mut shard = Shard::new(small());
    let collection = shard.collection("c", 0);
    let mut versions = Vec::new();
    for number in 0..5 {
        let Outcome::Written { version, .. } = shard.command(write(vec![put(collection, "a", &number.to_string())]))
        else {
            panic!("it can be written")
        };
        versions.push(version);
    }
    let view = shard.store.view();
    let found = view.collection_by_id(CollectionId(collection)).unwrap();
    for (number, version) in versions.iter().enumerate() {
        let record = found.version_at(b"a", Position::from_u64(*version)).unwrap();
        assert_eq!((record.version(), record.value()), (*version, Some(number.to_string().as_bytes())));
        let before = found.version_at(b"a", Position::from_u64(version - 1)).map(|record| record.version());
        assert_eq!(before, number.checked_sub(1).map(|before| versions[before]));
    }
}
