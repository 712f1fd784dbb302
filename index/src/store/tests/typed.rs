//! Typed values in the store: against a keyspace that knows nothing of stores, through checkpoints, restarts and reclaims.

use super::*;
use crate::command::{Execution, Refusal, SchemaChange, Watched};
use crate::record::{CollectionId, Position};
use crate::table::call::{Chance, Packed};
use crate::table::eviction::{NamespaceRoom, Policy, Room};
use crate::table::execute::{self, Moment};
use crate::table::tape::{Item, Items, Tape};
use crate::table::{At, Event, Keyspace, Listening};

fn calls(lines: &[String]) -> Vec<u8> {
    let mut packed = Packed::new();
    for line in lines {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        packed.push(0, args.into_iter());
    }
    packed.into_bytes()
}

fn execution(collection: u64, lines: &[String], atomic: bool) -> Command {
    let execution = Execution { collections: vec![collection], calls: calls(lines), atomic, ..Execution::default() };
    Command::Execute(execution.into())
}

fn line(chance: &mut Chance) -> String {
    let key = format!("k{}", chance.below(40));
    let other = format!("k{}", chance.below(40));
    let long = "x".repeat(chance.below(300));
    let (tag, second) = (format!("t{}", chance.below(8)), format!("t{}", chance.below(8)));
    match chance.below(22) {
        0..3 => format!("SET {key} {long}"),
        3 => format!("SET {key} {} PX {}", chance.below(100), 1 + chance.below(3_000)),
        4 => format!("INCRBY {key} {}", chance.below(9)),
        5 => format!("APPEND {key} {long}"),
        6 => format!("SETRANGE {key} {} {long}", chance.below(500)),
        7 => format!("DEL {key} {other}"),
        8 => format!("PEXPIRE {key} {}", chance.below(5_000)),
        9 => format!("PERSIST {key}"),
        10 => format!("RENAME {key} {other}"),
        11 => format!("COPY {key} {other} REPLACE"),
        12 => format!("MSET {key} 1 {other} {long}"),
        13 => format!("GETEX {key} PX {}", 1 + chance.below(5_000)),
        14 if chance.below(30) == 0 => "FLUSHDB".into(),
        15 | 16 => format!("TAG.SET {key} {tag} {second}"),
        17 => format!("TAG.ADD {key} {tag}"),
        18 => format!("TAG.REM {key} {tag} {second}"),
        19 if chance.below(8) == 0 => format!("TAG.DROP {tag}"),
        20 => format!("SET {key} {} PX {} TAGS 2 {tag} {second}", chance.below(100), 1 + chance.below(3_000)),
        21 => format!("TAG.KEYS {tag}"),
        _ => format!("GET {key}"),
    }
}

fn reply(keyspace: &mut Keyspace, line: &str, moment: Moment, out: &mut Tape) {
    let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    execute::write(keyspace, execute::find(&args).unwrap(), &args, moment, out);
}

#[test]
fn a_store_with_checkpoints_and_restarts_is_the_keyspace_that_had_none() {
    for seed in 0..60 {
        let mut chance = Chance::new(seed);
        let mut shard = Shard::new(StoreOptions::default());
        let collection = shard.collection("c", 0);
        let mut model = Keyspace::new(u64::from_le_bytes([3; 8]));
        let (mut clock, mut running) = (1_000_000, None);
        for _ in 0..chance.below(400) {
            clock += chance.below(200) as u64;
            let lines: Vec<String> = (0..1 + chance.below(50)).map(|_| line(&mut chance)).collect();
            let mut commands = vec![envelope(execution(collection, &lines, chance.below(2) == 0))];
            let index = shard.log.len() as u64 + 1;
            let mut expected = Tape::new();
            for (number, line) in (0..).zip(&lines) {
                let moment = Moment { now: clock, version: Position::new(index, number as usize).get(), number };
                reply(&mut model, line, moment, &mut expected);
            }
            let reclaims = shard.store.reclaims(clock, &Room::default());
            let at = At { version: 0, now: clock };
            for command in &reclaims {
                let Command::Reclaim(reclaim) = command else { panic!("{command:?}") };
                model.remove_expired(reclaim.keys.iter().map(|key| &key[..]), at.now);
            }
            commands.extend(reclaims.into_iter().map(envelope));
            let outcomes = shard.entry(clock, commands);
            assert_eq!(outcomes[0], Outcome::Executed(Some(expected.into_bytes())), "seed {seed}");
            match chance.below(12) {
                0 if running.is_none() => {
                    shard.store.request_checkpoint();
                    running = shard.store.next_job().map(|job| {
                        let directory = shard.directory.clone();
                        std::thread::spawn(move || job.run(&directory, &AtomicBool::new(false)))
                    });
                }
                1 => {
                    if let Some(job) = running.take() {
                        let done = job.join().unwrap();
                        let installed = shard.store.install(done);
                        assert!(installed.error.is_none(), "seed {seed}: {:?}", installed.error);
                    }
                }
                2 if running.is_none() => shard.restart(),
                _ => {}
            }
            assert_eq!(shard.store.digest(), shard.store.digest_from_records(), "seed {seed}");
            let view = shard.store.view();
            let table = view.collection_by_id(CollectionId(collection)).unwrap().table().unwrap().clone();
            assert_eq!(table.read(|keyspace| keyspace.sum()), model.sum(), "seed {seed}");
        }
        if let Some(job) = running {
            let done = job.join().unwrap();
            let _ = shard.store.install(done);
        }
        let before = shard.store.digest();
        shard.checkpoint();
        shard.restart();
        assert_eq!(shard.store.digest(), before, "seed {seed}");
    }
}

#[test]
fn a_watched_key_that_changed_stops_the_calls() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    shard.command(execution(collection, &["SET a 1".into()], false));
    let view = shard.store.view();
    let table = view.collection_by_id(CollectionId(collection)).unwrap().table().unwrap().clone();
    let version = table.read(|keyspace| keyspace.version(b"a", 0)).unwrap();
    let attempt = |key: &str, version| {
        let conditions = vec![Watched { database: 0, key: key.into(), version }];
        let calls = calls(&["INCR a".into()]);
        Command::Execute(Execution { collections: vec![collection], conditions, calls, atomic: true }.into())
    };
    let done = Outcome::Executed(Some({
        let mut tape = Tape::new();
        tape.int(2);
        tape.into_bytes()
    }));
    assert_eq!(shard.command(attempt("b", 5)), Outcome::Executed(None));
    assert_eq!(shard.command(attempt("a", version)), done);
    assert_eq!(shard.command(attempt("a", version)), Outcome::Executed(None));
    assert!(matches!(shard.command(attempt("b", 0)), Outcome::Executed(Some(_))));
}

#[test]
fn what_expired_is_reclaimed_on_every_member_and_listeners_hear_of_it() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    let listening = Listening::default();
    listening.to_names(true);
    shard.store.listen(listening);
    shard.entry(1_000, vec![envelope(execution(collection, &["SET a 1 PX 500".into(), "SET b 1".into()], false))]);
    let set = |key: &str| Event::Named { class: b'$', name: "set", key: key.as_bytes().into() };
    let expire = Event::Named { class: b'g', name: "expire", key: b"a"[..].into() };
    let id = CollectionId(collection);
    let new = |key: &str| Event::Named { class: b'n', name: "new", key: key.as_bytes().into() };
    let heard = [new("a"), set("a"), expire, new("b"), set("b")].map(|event| (id, event));
    assert_eq!(shard.store.take_events(), heard);
    let due = shard.store.due().unwrap();
    assert!((1_500..3_000).contains(&due));
    assert!(shard.store.reclaims(due - 1, &Room::default()).is_empty());
    let reclaims = shard.store.reclaims(due, &Room::default());
    assert_eq!(reclaims.len(), 1);
    shard.entry(due, reclaims.into_iter().map(envelope).collect());
    assert_eq!(shard.store.take_events(), [(id, Event::Named { class: b'x', name: "expired", key: b"a"[..].into() })]);
    let view = shard.store.view();
    let table = view.collection_by_id(id).unwrap().table().unwrap().clone();
    assert_eq!(table.read(|keyspace| keyspace.len()), 1);
}

#[test]
fn a_call_that_is_none_is_an_error_and_a_collection_that_is_none_a_refusal() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    let Outcome::Executed(Some(tape)) = shard.command(execution(collection, &["NOPE".into(), "GET".into()], false))
    else {
        panic!("it is carried out")
    };
    assert!(Items::new(&tape).all(|item| matches!(item, Item::Error(_))) && Items::new(&tape).count() == 2);
    let twice = Execution { collections: vec![collection, collection], ..Execution::default() };
    assert_eq!(shard.command(Command::Execute(twice.into())), Outcome::Refused(Refusal::UnknownCollection(collection)));
}

#[test]
fn a_cache_keeps_to_its_budget_and_what_is_used_stays() {
    for policy in [Policy::S3Fifo, Policy::Lru, Policy::Lfu, Policy::Random] {
        let mut shard = Shard::new(StoreOptions::default());
        let collection = shard.collection("c", 0);
        let change = SchemaChange { eviction_bytes: Some(300_000), ..SchemaChange::default() };
        shard.command(Command::AlterCollection { collection, change });
        let mut chance = Chance::new(5);
        let (mut hits, mut gets) = (0, 0);
        for round in 0..400u64 {
            let view = shard.store.view();
            let table = view.collection_by_id(CollectionId(collection)).unwrap().table().cloned();
            let mut lines = Vec::new();
            for _ in 0..50 {
                let key = match chance.below(4) {
                    0 => format!("scan{}", chance.next_u64()),
                    _ => format!("hot{}", chance.below(600)),
                };
                let found = table.as_ref().is_some_and(|table| {
                    table.read(|keyspace| keyspace.string(key.as_bytes(), 0).is_ok_and(|found| found.is_some()))
                });
                if key.starts_with("hot") {
                    (hits, gets) = (hits + usize::from(found), gets + 1);
                }
                if !found {
                    lines.push(format!("SET {key} {}", "x".repeat(100)));
                }
            }
            let mut commands = vec![envelope(execution(collection, &lines, false))];
            commands.extend(shard.store.reclaims(round, &Room { policy, namespace: None }).into_iter().map(envelope));
            shard.entry(round, commands);
            let view = shard.store.view();
            let table = view.collection_by_id(CollectionId(collection)).unwrap().table().unwrap().clone();
            let bytes = table.read(|keyspace| keyspace.memory_bytes());
            // What an entry adds makes room with the next; queues have room to grow into.
            assert!(bytes < 300_000 + 40_000, "{policy:?}: {bytes} bytes after round {round}");
        }
        assert_eq!(shard.store.digest(), shard.store.digest_from_records());
        if policy != Policy::Random {
            assert!(hits * 10 > gets * 8, "{policy:?}: {hits} of {gets}");
        }
    }
}

/// The keys of a collection.
fn keys_of(shard: &Shard, collection: u64) -> Vec<String> {
    let view = shard.store.view();
    let table = view.collection_by_id(CollectionId(collection)).unwrap().table().unwrap().clone();
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let all = |keyspace: &Keyspace| {
        (0..Keyspace::PARTS).flat_map(|part| keyspace.keys_of_part(part, 0).map(text).collect::<Vec<_>>()).collect()
    };
    table.read(all)
}

#[test]
fn each_collection_evicts_by_its_own_policy_whatever_the_node_is_told() {
    // The latter half of the keys have deadlines, the later the higher their numbers.
    let line = |number: usize| match number {
        0..500 => format!("SET plain{number} {}", "x".repeat(100)),
        _ => format!("SET timed{number} {} PXAT {}", "x".repeat(100), 1_000_000 + number),
    };
    let lines: Vec<String> = (0..1_000).map(line).collect();
    let room = |policy| Room { policy, namespace: None };
    let mut shard = Shard::new(StoreOptions::default());
    let [ttl, none, usual] = ["ttl", "none", "usual"].map(|name| shard.collection(name, 0));
    for (collection, policy) in [(ttl, Some(Policy::VolatileTtl)), (none, Some(Policy::None)), (usual, None)] {
        let change = SchemaChange {
            eviction_bytes: Some(120_000),
            eviction_policy: policy.map(Some),
            ..SchemaChange::default()
        };
        assert_eq!(shard.command(Command::AlterCollection { collection, change }), Outcome::Done);
        shard.command(execution(collection, &lines, false));
    }
    let over = |shard: &Shard, room: &Room, collection: u64| {
        room.is_over_budget(&shard.store.view().collection_by_id(CollectionId(collection)).unwrap())
    };
    // Told to evict nothing, a node does so where the collection says nothing itself.
    let told = room(Policy::None);
    assert_eq!([ttl, none, usual].map(|collection| over(&shard, &told, collection)), [false, true, true]);
    let reclaims = shard.store.reclaims(1, &told);
    shard.entry(1, reclaims.into_iter().map(envelope).collect());
    assert_eq!((keys_of(&shard, none).len(), keys_of(&shard, usual).len()), (1_000, 1_000));
    let told = room(Policy::S3Fifo);
    assert_eq!([ttl, none, usual].map(|collection| over(&shard, &told, collection)), [false, true, false]);
    let reclaims = shard.store.reclaims(2, &told);
    shard.entry(2, reclaims.into_iter().map(envelope).collect());
    let (ttl_keys, usual_keys) = (keys_of(&shard, ttl), keys_of(&shard, usual));
    assert!(ttl_keys.len() < 900 && usual_keys.len() < 900, "{} {}", ttl_keys.len(), usual_keys.len());
    assert_eq!(keys_of(&shard, none).len(), 1_000);
    let plain = |keys: &[String]| keys.iter().filter(|key| key.starts_with("plain")).count();
    assert_eq!(plain(&ttl_keys), 500, "one without a deadline went");
    assert!(plain(&usual_keys) < 500, "only those with deadlines went");
    // Back to what the node is told, and over what a namespace may take together those that keep all leave it to the others.
    let change = SchemaChange { eviction_policy: Some(None), eviction_bytes: Some(0), ..SchemaChange::default() };
    for collection in [ttl, usual] {
        shard.command(Command::AlterCollection { collection, change: change.clone() });
    }
    let namespace = NamespaceRoom { name: "n".into(), bytes: 100_000, all_bytes: 100_000, policy: Some(Policy::Lru) };
    let told = Room { policy: Policy::S3Fifo, namespace: Some(namespace) };
    let before = keys_of(&shard, ttl).len() + keys_of(&shard, usual).len();
    assert!(!told.is_over_together(&shard.store.view(), "n"));
    let reclaims = shard.store.reclaims(3, &told);
    shard.entry(3, reclaims.into_iter().map(envelope).collect());
    let after = keys_of(&shard, ttl).len() + keys_of(&shard, usual).len();
    assert!(after + 100 < before && keys_of(&shard, none).len() == 1_000, "{before} {after}");
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
}

#[test]
fn replies_of_one_command_are_bounded_also_those_of_calls_that_write() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    shard.command(execution(collection, &["SETRANGE big 16777215 x".into()], false));
    let mut lines = vec!["GETEX big PX 1000".to_owned(); 40];
    lines.push("SET after 1".into());
    // A transaction is carried out as a whole all the same.
    for (atomic, there) in [(false, "(integer) 0"), (true, "(integer) 1")] {
        let Outcome::Executed(Some(tape)) = shard.command(execution(collection, &lines, atomic)) else {
            panic!("it is carried out")
        };
        assert!(tape.len() < 6 * (16 << 20), "{} bytes", tape.len());
        let items: Vec<_> = Items::new(&tape).collect();
        assert_eq!(items.len(), lines.len());
        assert!(matches!(items[0], Item::Bulk(_)) && matches!(items[39], Item::Error(_)));
        assert_eq!(matches!(items[40], Item::Error(_)), !atomic);
        assert_eq!(replies(&mut shard, collection, &[&["EXISTS", "after"]]), [there]);
    }
}

#[test]
fn the_reply_to_one_call_is_bounded_and_what_would_be_lost_with_it_is_not() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    shard.command(execution(collection, &["SETRANGE big 9999999 x".into(), "HSET h f 1".into()], false));
    shard.command(execution(collection, &[format!("HSET h big {}", "x".repeat(1_000_000))], false));
    let mget = [&["MGET"][..], &["big"; 10]].concat();
    let hgetex = [&["HGETEX", "h", "PERSIST", "FIELDS", "70"][..], &["big"; 70]].concat();
    let (long, few) = ("(error) ERR the reply would take more than 64 MiB: ask for less at a time", &mget[..7]);
    let told = replies(&mut shard, collection, &[&mget, &["INCR", "n"], &hgetex, few, &["INCR", "n"]]);
    assert_eq!([&*told[0], &told[1], &told[2], &told[4]], [long, "(integer) 1", long, "(integer) 2"]);
    assert!(told[3].starts_with("[\""));
    // One that has no room because of the others.
    let told = replies(&mut shard, collection, &[few, few]);
    assert!(told[0].starts_with("[\"") && told[1].contains("not carried out: the replies to the calls"), "{}", told[1]);
    // What is taken away is given, however much it is.
    let element = "x".repeat(1_000_000);
    let elements = [&["LPUSH", "l"][..], &[&*element; 70]].concat();
    assert_eq!(replies(&mut shard, collection, &[&elements]), ["(integer) 70"]);
    assert_eq!(replies(&mut shard, collection, &[&["LRANGE", "l", "0", "-1"]]), [long]);
    assert!(replies(&mut shard, collection, &[&["LPOP", "l", "70"]])[0].len() > 70_000_000);
}

#[test]
fn once_replies_take_too_much_what_must_be_done_answers_little() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    shard.command(execution(collection, &["SETRANGE big 16777215 x".into(), "SET n 1".into()], false));
    let mut lines = vec!["GETEX big PX 1000".to_owned(); 6];
    lines.extend(
        ["INCR n", "GET n", "GET big", "LPUSH n x", "EVAL return(redis.error_reply(string.rep('x',2000))) 0"]
            .map(str::to_owned),
    );
    let Outcome::Executed(Some(tape)) = shard.command(execution(collection, &lines, true)) else {
        panic!("it is carried out")
    };
    let items: Vec<_> = Items::new(&tape).collect();
    let error = |item: &Item<'_>| match item {
        Item::Error(error) => String::from_utf8_lossy(&error[..20]).into_owned(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(items[3], Item::Bulk(_)));
    assert_eq!(error(&items[5]), "ERR carried out, but");
    assert_eq!(items[6], Item::Int(2));
    assert_eq!([&error(&items[7]), &error(&items[8])], ["ERR not carried out:"; 2]);
    assert_eq!([&error(&items[9])[..9], &error(&items[10])[..6]], ["WRONGTYPE", "ERR xx"]);
}

#[test]
fn a_transaction_may_grow_more_than_calls_that_came_together_by_chance() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    let lines: Vec<String> = (0..6).map(|number| format!("SETRANGE g{number} 15999999 x")).collect();
    for (atomic, refused) in [(false, 1), (true, 0)] {
        let Outcome::Executed(Some(tape)) = shard.command(execution(collection, &lines, atomic)) else {
            panic!("it is carried out")
        };
        assert_eq!(Items::new(&tape).filter(|item| matches!(item, Item::Error(_))).count(), refused);
        shard.command(execution(collection, &["FLUSHDB".into()], false));
    }
}

/// The replies to calls, each given as its arguments.
fn replies(shard: &mut Shard, collection: u64, calls: &[&[&str]]) -> Vec<String> {
    let mut packed = Packed::new();
    for args in calls {
        packed.push(0, args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>().into_iter());
    }
    let execution = Execution { collections: vec![collection], calls: packed.into_bytes(), ..Execution::default() };
    let Outcome::Executed(Some(tape)) = shard.command(Command::Execute(execution.into())) else {
        panic!("it is carried out")
    };
    let mut items = Items::new(&tape);
    std::iter::from_fn(|| items.whole()).map(execute::tests::text).collect()
}

#[test]
fn scripts_run_in_the_log_and_are_kept_over_a_restart() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    let source = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('INCR', KEYS[1])";
    let digest = crate::table::script::sha1_hex(source.as_bytes());
    let found = replies(
        &mut shard,
        collection,
        &[
            &["EVALSHA", &digest, "1", "k", "41"],
            &["EVAL", source, "1", "k", "41"],
            &["EVALSHA", &digest, "1", "k", "9"],
        ],
    );
    assert!(found[0].starts_with("(error) NOSCRIPT"), "{found:?}");
    assert_eq!(found[1..], ["(integer) 42", "(integer) 10"]);
    let endless = "redis.call('SET', KEYS[1], 'gone'); redis.call('DEL', KEYS[2]); while true do end";
    let found = replies(&mut shard, collection, &[&["SET", "l", "1"], &["EVAL", endless, "2", "k", "l"]]);
    assert!(found[1].starts_with("(error) ERR script over its budget"), "{found:?}");
    let found = replies(&mut shard, collection, &[&["MGET", "k", "l"], &["EVAL_RO", source, "1", "k", "1"]]);
    assert_eq!(found[0], "[\"10\" \"1\"]");
    assert!(found[1].contains("Write commands are not allowed from read-only scripts"), "{found:?}");
    for name in ["PUBLISH", "SPUBLISH"] {
        let sends = format!("return redis.call('{name}', 'c', 'm')");
        let found = replies(&mut shard, collection, &[&["EVAL", &sends, "0"], &["EVAL_RO", &sends, "0"]]);
        assert_eq!(found[0], "(integer) 0");
        assert!(found[1].contains("Write commands are not allowed from read-only scripts"), "{found:?}");
    }
    // What its commands walk over counts, so that a few lines do not keep everybody waiting.
    let walking = "for n = 1, 1000 do redis.call('RPUSH', KEYS[1], n) end for n = 1, 4000 do \
                   redis.call('SORT', KEYS[1], 'BY', 'nosort', 'LIMIT', 0, 0) end return 'done'";
    let found = replies(&mut shard, collection, &[&["EVAL", walking, "1", "long"], &["EXISTS", "long"]]);
    assert!(found[0].starts_with("(error) ERR script over its budget"), "{found:?}");
    assert_eq!(found[1], "(integer) 0");
    // A guard that does not hold leaves nothing of the script, unless that goes on.
    let guarded = "redis.call('SET', 'l', 'late') local got = redis[ARGV[1]]('VERSION.IF', 'k', 77) \
                   redis.call('SET', 'm', 'after') return 'done'";
    let calls: [&[&str]; 4] =
        [&["EVAL", guarded, "0", "call"], &["MGET", "l", "m"], &["EVAL", guarded, "0", "pcall"], &["MGET", "l", "m"]];
    let found = replies(&mut shard, collection, &calls);
    assert!(found[0].starts_with("(error) CONFLICT"), "{found:?}");
    assert_eq!(found[1..], ["[\"1\" (nil)]", "\"done\"", "[\"late\" \"after\"]"]);
    let found = replies(&mut shard, collection, &[&["EVAL", "return redis.call('TIME')", "0"]]);
    assert_eq!(found, ["[\"0\" \"0\"]"], "the log's clock has not moved");
    shard.checkpoint();
    shard.restart();
    let found =
        replies(&mut shard, collection, &[&["SCRIPT", "EXISTS", &digest, "no"], &["EVALSHA", &digest, "1", "k", "1"]]);
    assert_eq!(found, ["[(integer) 1 (integer) 0]", "(integer) 2"]);
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
}

#[test]
fn swapped_databases_are_swapped_also_for_checkpoints_that_run_and_after_restarts() {
    for seed in 0..60 {
        let mut chance = Chance::new(seed);
        let mut shard = Shard::new(StoreOptions::default());
        let collections = ["a", "b"].map(|name| shard.collection(name, 0));
        let mut models = [(); 2].map(|()| Keyspace::new(u64::from_le_bytes([3; 8])));
        let mut running = None;
        for _ in 0..chance.below(60) {
            let clock = 1_000_000;
            let mut packed = Packed::new();
            let index = shard.log.len() as u64 + 1;
            for number in 0..chance.below(20) as u32 {
                if chance.below(6) == 0 {
                    packed.push(0, [&b"swapdb"[..], b"0", b"1"].into_iter());
                    models.swap(0, 1);
                    continue;
                }
                let (place, line) = (chance.below(2), line(&mut chance));
                packed.push(place as u8, line.split(' ').map(str::as_bytes).collect::<Vec<_>>().into_iter());
                let moment = Moment { now: clock, version: Position::new(index, number as usize).get(), number };
                reply(&mut models[place], &line, moment, &mut Tape::new());
            }
            let (calls, atomic) = (packed.into_bytes(), chance.below(2) == 0);
            let execution = Execution { collections: collections.into(), calls, atomic, ..Execution::default() };
            shard.entry(clock, vec![envelope(Command::Execute(execution.into()))]);
            match chance.below(6) {
                0 if running.is_none() => {
                    shard.store.request_checkpoint();
                    running = shard.store.next_job().map(|job| {
                        let directory = shard.directory.clone();
                        std::thread::spawn(move || job.run(&directory, &AtomicBool::new(false)))
                    });
                }
                1 => {
                    if let Some(job) = running.take() {
                        let installed = shard.store.install(job.join().unwrap());
                        assert!(installed.error.is_none(), "seed {seed}: {:?}", installed.error);
                    }
                }
                2 if running.is_none() => shard.restart(),
                _ => {}
            }
            assert_eq!(shard.store.digest(), shard.store.digest_from_records(), "seed {seed}");
            let view = shard.store.view();
            for (id, model) in collections.iter().zip(&models) {
                let table = view.collection_by_id(CollectionId(*id)).unwrap().table().cloned();
                let sum = table.map_or(0, |table| table.read(|keyspace| keyspace.sum()));
                assert_eq!(sum, model.sum(), "seed {seed}");
            }
        }
        if let Some(job) = running {
            let _ = shard.store.install(job.join().unwrap());
        }
        let before = shard.store.digest();
        shard.checkpoint();
        shard.restart();
        assert_eq!(shard.store.digest(), before, "seed {seed}");
    }
}

#[test]
fn the_collections_of_a_namespace_keep_to_what_they_may_take_together() {
    for policy in [Policy::Lru, Policy::VolatileLru, Policy::VolatileTtl, Policy::S3Fifo, Policy::None] {
        let mut shard = Shard::new(StoreOptions::default());
        let collections = ["a", "b", "c"].map(|name| shard.collection(name, 0));
        let namespace =
            shard.store.view().collection_by_id(CollectionId(collections[0])).unwrap().namespace().to_owned();
        let bytes = |shard: &Shard| {
            let view = shard.store.view();
            let tables = collections.map(|id| view.collection_by_id(CollectionId(id)).unwrap().table().cloned());
            tables.map(|table| table.map_or(0, |table| table.read(|keyspace| keyspace.memory_bytes())))
        };
        let lines = |round: u64| -> Vec<String> {
            (0..50).map(|at| format!("SET k{round}-{at} {} PX 1000000", "x".repeat(100))).collect()
        };
        let room = |bytes| {
            let namespace = NamespaceRoom { name: namespace.clone(), bytes, all_bytes: bytes, policy: Some(policy) };
            Room { policy: Policy::None, namespace: Some(namespace) }
        };
        shard.entry(1, vec![envelope(execution(collections[1], &["SET kept 1".into()], false))]);
        for round in 0..300 {
            // The third has a third of what the first has.
            let collection = collections[if round % 4 == 3 { 2 } else { 0 }];
            let mut commands = vec![envelope(execution(collection, &lines(round), false))];
            commands.extend(shard.store.reclaims(1, &room(600_000)).into_iter().map(envelope));
            shard.entry(1, commands);
        }
        let taken = bytes(&shard);
        if policy == Policy::None {
            assert!(taken.iter().sum::<usize>() > 2_000_000, "{taken:?}");
            continue;
        }
        assert!(taken.iter().sum::<usize>() < 650_000, "{policy:?}: {taken:?}");
        assert!(taken[0] > taken[2] && taken[2] > 60_000, "{policy:?}: {taken:?}");
        let view = shard.store.view();
        let table = |id: u64| view.collection_by_id(CollectionId(id)).unwrap().table().cloned().unwrap();
        if policy.is_volatile() {
            assert_eq!(table(collections[1]).read(|keyspace| keyspace.len()), 1, "{policy:?}");
        }
        assert!(table(collections[0]).read(Keyspace::evicted) > 1_000, "{policy:?}");
        assert!(shard.store.reclaims(1, &room(0)).is_empty(), "zero is no limit");
    }
}

#[test]
fn functions_are_kept_over_a_restart() {
    let mut shard = Shard::new(StoreOptions::default());
    let collection = shard.collection("c", 0);
    let source =
        "#!lua name=lib\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)";
    let found = replies(&mut shard, collection, &[&["FUNCTION", "LOAD", source], &["FCALL", "put", "1", "k", "v"]]);
    assert_eq!(found, ["\"lib\"", "OK"]);
    shard.checkpoint();
    shard.restart();
    let found = replies(&mut shard, collection, &[&["FCALL", "put", "1", "k", "w"], &["GET", "k"]]);
    assert_eq!(found, ["OK", "\"w\""]);
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
}
