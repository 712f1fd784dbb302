//! Bytes from outside: random and mutated inputs for everything that decodes what came from a disk or a socket. None may
//! make it panic, hang, or kill the program; what is accepted is used to the full before the next.
//!
//! `LOCI_FUZZ_SECONDS=60` makes the documented run of a minute for each target.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use loci_index::attributes::{self, Attributes, Value};
use loci_index::command::{
    Action, Change, Command, Condition, Content, EmbeddingSpec, Entry, Envelope, Expect, IndexKind, IndexSpec,
    Language, Origin, Schema, SparseSpec, TextSpec,
};
use loci_index::directory::{Directory, RamDirectory};
use loci_index::filter::{Filter, Limit, Range};
use loci_index::store::{Store, StoreOptions};
use loci_index::table::rdb;
use loci_raft::{
    Append, Change as LogChange, EntryKind, HardState, Log, LogIndex, LogOptions, MemberId, Members, MemoryDisk,
    Message, ShardId, Term,
};
use loci_tests::fuzz::{self, Mutate, Target};
use loci_tests::segment_file;
use loci_wire::resp;

fn envelope(command: Command, request_id: &[u8]) -> Envelope {
    let origin = Origin {
        principal: "somebody".into(),
        task: "a task".into(),
        trace: String::new(),
        request_id: request_id.to_vec(),
    };
    Envelope { origin, command }
}

fn index(path: &str, kind: IndexKind) -> IndexSpec {
    IndexSpec { path: path.split('.').map(String::from).collect(), kind }
}

fn some_attributes() -> Attributes {
    let inner =
        Attributes::from([("deep".into(), Value::List(vec![Value::Null, Value::Bool(true), Value::Float(0.5)]))]);
    Attributes::from([
        ("name".into(), Value::String("a name".into())),
        ("number".into(), Value::Int(-3)),
        ("when".into(), Value::Timestamp(1_700_000_000_000_000)),
        ("more".into(), Value::Map(inner)),
    ])
}

/// A namespace, a collection with two embeddings, and writes of every kind.
fn entries() -> Vec<Vec<u8>> {
    let schema = Schema {
        embeddings: vec![EmbeddingSpec::new("text", 4, 1), EmbeddingSpec::new("image", 2, 3)],
        sparse: vec![SparseSpec { name: "words".into() }],
        texts: vec![TextSpec { path: vec!["name".into()], language: Language::English }],
        indexes: vec![
            index("name", IndexKind::Substring),
            index("number", IndexKind::Value),
            index("more.deep", IndexKind::Value),
        ],
        ..Schema::default()
    };
    let content = |number: u64| Content {
        value: Some(format!("value {number}").into_bytes()),
        attributes: attributes::encode(&some_attributes()).unwrap(),
        embeddings: vec![(0, vec![0.5; 4]), (1, vec![1.0, number as f32])],
        deadline: if number.is_multiple_of(7) { 10_000_000 } else { 0 },
        sparse: vec![(0, vec![(1, 0.5), (number as u32 + 2, 2.0)])],
        ..Content::default()
    };
    let change = |number: u64, action| Change { collection: 1, key: format!("key {number}").into_bytes(), action };
    let puts = (0..40).map(|number| change(number, Action::Put(content(number)))).collect();
    let merge = Action::Merge {
        content: content(3),
        remove_attributes: vec!["name".into(), "nothing".into()],
        remove_deadline: false,
    };
    let mixed = vec![
        change(3, merge),
        change(4, Action::Delete),
        change(5, Action::DeleteVersion(9)),
        change(50, Action::Put(content(50))),
    ];
    let conditions = vec![
        Condition { collection: 1, key: b"key 3".to_vec(), expect: Expect::Present },
        Condition { collection: 1, key: b"key 99".to_vec(), expect: Expect::Absent },
    ];
    let write = |conditions, changes| Command::Write { conditions, changes };
    let commands = vec![
        vec![envelope(Command::CreateNamespace { name: "default".into() }, b"1")],
        vec![envelope(Command::CreateCollection { namespace: "default".into(), name: "things".into(), schema }, b"2")],
        vec![envelope(write(vec![], puts), b"3")],
        vec![envelope(write(conditions, mixed), b"4"), envelope(write(vec![], vec![change(9, Action::Delete)]), b"5")],
        vec![],
    ];
    (1..).zip(commands).map(|(clock, commands)| Entry { clock: clock * 1_000, commands }.encode()).collect()
}

fn store_with(directory: &Arc<RamDirectory>, entries: &[Vec<u8>]) -> Store {
    let directory: Arc<dyn Directory> = Arc::clone(directory) as Arc<dyn Directory>;
    let mut store = Store::create(directory, StoreOptions::default(), [7; 32], 0).unwrap();
    for (index, entry) in (1..).zip(entries) {
        store.apply(index, entry).unwrap();
    }
    store
}

/// Reads everything a store shows.
fn read_all(store: &Store) -> u64 {
    let view = store.view();
    let mut bytes = 0;
    for collection in view.collections() {
        for number in 0..60 {
            if let Some(record) = collection.get(format!("key {number}").as_bytes(), 0) {
                bytes += record.key().len() + record.value().map_or(0, <[u8]>::len);
                bytes += attributes::decode(record.attributes()).map_or(0, |attributes| attributes.len());
                bytes += (0..3).filter_map(|field| record.embedding(field)).map(|found| found.len()).sum::<usize>();
                bytes += (0..3).filter_map(|field| record.sparse(field)).map(<[u8]>::len).sum::<usize>();
            }
        }
    }
    let digest = store.digest_from_records();
    bytes as u64 + u64::from(digest[0])
}

#[test]
fn no_entry_makes_the_store_panic() {
    let seeds = entries();
    let fresh = || store_with(&Arc::new(RamDirectory::new()), &entries()[..3]);
    let (mut store, mut applied) = (fresh(), 0);
    fuzz::run(Target {
        name: "entry",
        seeds,
        inputs: 3_000,
        mutate: Mutate::Anyhow,
        mend: &|_| {},
        decode: &mut |input| {
            let index = store.applied() + 1;
            let answer = match store.apply(index, input) {
                Ok(outcomes) => format!("{outcomes:?}"),
                Err(error) => format!("{error:?}"),
            };
            read_all(&store);
            applied += 1;
            if applied % 500 == 0 {
                store = fresh();
            }
            answer
        },
    });
}

#[test]
fn no_filter_makes_its_reader_panic() {
    let at = |path: &str| path.split('.').map(String::from).collect::<Vec<_>>();
    let end = |value, inclusive| Some(Limit { value, inclusive });
    let all = Filter::Or(vec![
        Filter::And(vec![Filter::Constant(true), Filter::Exists(at("name")), Filter::IsNull(at("more.deep"))]),
        Filter::Not(Box::new(Filter::IsTrue(Box::new(Filter::Equal(at("number"), Value::Int(-3)))))),
        Filter::In(at("name"), vec![Value::String("a name".into()), Value::Null, Value::Bool(true)]),
        Filter::Range(at("when"), Range { low: end(Value::Timestamp(1), true), high: end(Value::Float(2.5), false) }),
        Filter::Prefix(at("name"), "a".into()),
        Filter::HasText(at("name"), "nam".into()),
        Filter::HasElement(at("more.deep"), Value::List(vec![Value::Float(0.5)])),
    ]);
    let alone = Filter::Range(at("number"), Range { low: None, high: end(Value::Int(7), true) });
    let record = attributes::encode(&some_attributes()).unwrap();
    fuzz::run(Target {
        name: "filter",
        seeds: vec![all.encode().unwrap(), alone.encode().unwrap()],
        inputs: 50_000,
        mutate: Mutate::Anyhow,
        mend: &|_| {},
        decode: &mut |input| match Filter::decode(input) {
            Ok(filter) => {
                let taken = filter.evaluate(&record);
                // Whatever is taken can be written, unless it is NaN or too deep.
                let Some(again) = filter.encode() else { return format!("{taken:?}, cannot be written") };
                let read = Filter::decode(&again).expect("what was written can be read");
                assert_eq!(read.evaluate(&record), taken, "{filter:?}");
                format!("{taken:?} {}", format!("{filter:?}").split('(').next().unwrap_or_default())
            }
            Err(error) => error.to_string(),
        },
    });
}

#[test]
fn no_attributes_make_their_readers_panic() {
    let encoded = attributes::encode(&some_attributes()).unwrap();
    let over = encoded.clone();
    fuzz::run(Target {
        name: "attributes",
        seeds: vec![encoded, vec![]],
        inputs: 50_000,
        mutate: Mutate::Anyhow,
        mend: &|_| {},
        decode: &mut |input| {
            let looked = attributes::lookup(input, &["more".into(), "deep".into()]).is_some();
            let merged = attributes::merge(input, &over, ["name"].into_iter()).is_some();
            let under = attributes::merge(&over, input, [].into_iter()).is_some();
            let decoded = attributes::decode(input);
            if let Some(decoded) = &decoded {
                // Whatever is taken can be written, unless it is NaN or too deep.
                let _ = attributes::encode(decoded);
            }
            let counts = decoded.map(|decoded| "x".repeat(decoded.len().min(9)));
            format!("{looked} {merged} {under} {counts:?}")
        },
    });
}

/// Mends the checksums of a small framed file: magic, version, zero, body length, body crc, header crc, body.
fn mend_framed(bytes: &mut [u8]) {
    if bytes.len() < 32 {
        return;
    }
    let (header, body) = bytes.split_at_mut(32);
    header[16..24].copy_from_slice(&(body.len() as u64).to_le_bytes());
    header[24..28].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
}

/// The files of a store with a segment that has a graph, ended versions, and answered requests.
fn store_files() -> HashMap<String, Vec<u8>> {
    let directory = Arc::new(RamDirectory::new());
    let as_directory: Arc<dyn Directory> = Arc::clone(&directory) as Arc<dyn Directory>;
    let options = StoreOptions { graph_rows_min: 16, ..StoreOptions::default() };
    let mut store = Store::create(as_directory, options, [7; 32], 0).unwrap();
    let settle = |store: &mut Store| {
        store.request_checkpoint();
        while let Some(job) = store.next_job() {
            // What it says is for whoever keeps a log.
            let _ = store.install(job.run(&*directory, &AtomicBool::new(false)));
        }
    };
    for (index, entry) in (1..).zip(entries()) {
        store.apply(index, &entry).unwrap();
        if index == 3 {
            settle(&mut store);
        }
    }
    settle(&mut store);
    let names = directory.list().unwrap();
    names.into_iter().map(|name| (name.clone(), directory.bytes(&name).unwrap())).collect()
}

#[test]
fn no_file_of_a_store_makes_opening_or_reading_it_panic() {
    let files = store_files();
    let kinds: Vec<&str> = files.keys().map(|name| name.split('-').next().unwrap()).collect();
    for kind in ["MANIFEST", "segment", "requests"] {
        assert!(kinds.contains(&kind), "there is no {kind} among {kinds:?}");
    }
    for (name, whole) in &files {
        let kind = name.split('-').next().unwrap();
        let mend: &dyn Fn(&mut Vec<u8>) = match kind {
            "segment" => &|bytes| segment_file::sign(bytes),
            _ => &|bytes| mend_framed(bytes),
        };
        fuzz::run(Target {
            name: &format!("store-{}", kind.to_lowercase()),
            seeds: vec![whole.clone()],
            inputs: 2_000,
            mutate: if kind == "segment" { Mutate::InPlace } else { Mutate::Anyhow },
            mend,
            decode: &mut |input| {
                let directory = RamDirectory::new();
                for (other, bytes) in &files {
                    directory.put(other, if other == name { input } else { bytes });
                }
                match Store::open(Arc::new(directory), StoreOptions::default()) {
                    Ok(mut store) => {
                        read_all(&store);
                        search_all(&store);
                        let index = store.applied() + 1;
                        let applied = store.apply(index, &entries()[3]).is_ok();
                        read_all(&store);
                        format!("opened, applied {applied}")
                    }
                    Err(error) => error.to_string(),
                }
            },
        });
    }
}

/// Searches every embedding of every collection, and counts, with filters that indexes answer and one that they do not.
fn search_all(store: &Store) {
    use loci_index::ask::{Ask, Query, Within};
    use loci_index::sparse::SparseVector;
    use loci_index::view::{Effort, SearchRequest, SearchScratch};
    let at = |path: &str| path.split('.').map(String::from).collect::<Vec<_>>();
    let filters = [
        Filter::HasText(at("name"), "name".into()),
        Filter::Prefix(at("name"), "a".into()),
        Filter::Not(Box::new(Filter::Equal(at("number"), Value::Int(-3)))),
        Filter::HasElement(at("more.deep"), Value::Float(0.5)),
        Filter::And(vec![Filter::Exists(at("number")), Filter::IsNull(at("when"))]),
    ];
    let view = store.view();
    let mut scratch = SearchScratch::new();
    for collection in view.collections() {
        for filter in filters.iter().map(Some).chain([None]) {
            for (field, spec) in (0..).zip(&collection.schema().embeddings) {
                let query = vec![0.5; (spec.dimension as usize).min(20_000)];
                let request = SearchRequest {
                    field,
                    query: &query,
                    k: 10,
                    effort: Effort::default(),
                    filter,
                    max_distance: None,
                    now: 0,
                };
                // An error is an answer.
                let _ = collection.search(&request, &mut scratch, &mut || true);
            }
            let _ = collection.count(filter, 0, &mut || true);
        }
        let weights = SparseVector::new((0..50).map(|dimension| (dimension, 1.0)).collect()).unwrap();
        for query in [
            Query::Sparse { field: 0, vector: weights },
            Query::Text { text: 0, question: "a text of some words: name x y z".into() },
        ] {
            let (within, effort) = (Within::default(), Effort::Exact);
            let ask = Ask { query, k: 10, effort, filter: None, within, decay: None, mmr: None, group: None, now: 0 };
            let _ = collection.ask(&ask, &mut scratch, &mut || true);
        }
    }
}

/// Mends the checksums of a file of the log: the header's, and each frame's as far as frames follow each other.
fn mend_log(file: &mut [u8]) {
    if file.len() < 512 {
        return;
    }
    let crc = crc32fast::hash(&file[..508]).to_le_bytes();
    file[508..512].copy_from_slice(&crc);
    let number = |file: &[u8], at: usize| u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
    let salt = number(file, 24) ^ number(file, 16);
    let mut at = 512;
    while at + 16 <= file.len() {
        let length = (number(file, at) as usize).saturating_add(7) & !7;
        let Some(frame) = file.get_mut(at..(at + 16).saturating_add(length)) else { return };
        let mut hasher = crc32fast::Hasher::new_with_initial(salt);
        hasher.update(&frame[..4]);
        hasher.update(&frame[8..]);
        frame[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
        at += 16 + length;
    }
}

#[test]
fn no_file_of_the_log_makes_opening_it_panic() {
    let disk = MemoryDisk::new();
    let options = || LogOptions { file_bytes: 1 << 20, secret: 5 };
    let (mut log, _) = Log::open(disk.copy(), options()).unwrap();
    let append = |change| Append { shard: ShardId(1), change };
    let members = Arc::new(Members::voting([MemberId(1)]).unwrap());
    log.append(&[append(LogChange::Start { index: LogIndex(1), term: Term(1), members })]).unwrap();
    for index in 2..40 {
        let entry = loci_raft::Entry {
            index: LogIndex(index),
            term: Term(1),
            kind: EntryKind::Normal,
            context: Bytes::new(),
            data: vec![index as u8; 60].into(),
        };
        let state = HardState { term: Term(1), vote: Some(MemberId(1)), commit: LogIndex(index - 1) };
        log.append(&[append(LogChange::Entry(entry)), append(LogChange::HardState(state))]).unwrap();
        log.sync().unwrap();
    }
    log.forget(ShardId(1), LogIndex(10)).unwrap();
    log.sync().unwrap();
    let disk = log.disk().copy();
    use loci_raft::Disk as _;
    let names = disk.list().unwrap();
    let name = names.first().expect("the log has a file").clone();
    let whole = disk.bytes(&name).unwrap();
    // The file is mostly zeros; what is written lies at its beginning.
    let used = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    fuzz::run(Target {
        name: "log",
        seeds: vec![whole[..used].to_vec()],
        inputs: 300,
        mutate: Mutate::InPlace,
        mend: &|file| mend_log(file),
        decode: &mut |input| {
            let damaged = disk.copy();
            let mut file = input.to_vec();
            file.resize(whole.len(), 0);
            damaged.put(&name, file);
            match Log::open(damaged, options()) {
                Ok((log, recovered)) => {
                    let shard = log.shard(ShardId(1));
                    let read = log.reader(ShardId(1)).zip(shard.as_ref()).map(|(reader, shard)| {
                        let indexes = (shard.start.0 + 1..=shard.last.0).take(200);
                        let read: Result<Vec<_>, _> = indexes.map(|index| reader.read(LogIndex(index))).collect();
                        read.map_or_else(|error| error.to_string(), |entries| format!("{} read", entries.len()))
                    });
                    format!("opened {} {} {read:?}", shard.is_some(), recovered.cut.is_some())
                }
                Err(error) => error.to_string(),
            }
        },
    });
}

#[test]
fn no_message_of_another_member_makes_its_decoder_panic() {
    // By the layout that raft/src/message.rs states.
    let message = |kind: u8, context: &[u8], entries: &[&[u8]]| {
        let mut bytes = vec![1, kind, 0, 0, 1, 0, 0, 0];
        for number in [2u64, 1, 5, 4, 9, 8, 4, 0] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend((context.len() as u32).to_le_bytes());
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.extend(context);
        for data in entries {
            bytes.extend(5u64.to_le_bytes());
            bytes.extend([0; 8]);
            bytes.extend((data.len() as u32).to_le_bytes());
            bytes.extend([0; 4]);
            bytes.extend(*data);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    };
    let seeds = vec![message(3, b"", &[b"entry", b"another"]), message(8, b"context", &[]), message(5, b"", &[])];
    for seed in &seeds {
        Message::decode(&Bytes::from(seed.clone())).expect("the seed is right");
    }
    fuzz::run(Target {
        name: "message",
        seeds,
        inputs: 50_000,
        mutate: Mutate::Anyhow,
        mend: &|bytes| {
            if let Some((checked, crc)) = bytes.split_last_chunk_mut::<4>() {
                *crc = crc32fast::hash(checked).to_le_bytes();
            }
        },
        decode: &mut |input| match Message::decode(&Bytes::copy_from_slice(input)) {
            Ok(message) => {
                assert!(Message::decode(&Bytes::from(message.encode())).is_ok(), "what was read can be written");
                format!("{:?}", message.kind())
            }
            Err(error) => error.to_string(),
        },
    });
}

/// What Redis clients send: commands as arrays and as lines.
fn redis_requests() -> Vec<Vec<u8>> {
    let mut streams = vec![b"PING\r\nset \"a \\x41\" 'b c'\r\n*0\r\n\r\nget a\n".to_vec()];
    for command in ["HELLO 3 AUTH name secret SETNAME x", "SET key value PX 100 NX GET", "MULTI", "EXEC"] {
        let mut stream = Vec::new();
        resp::encode_request(&mut stream, &command.split(' ').collect::<Vec<_>>());
        streams.push(stream);
    }
    streams.push(streams.concat());
    streams
}

/// Values as a redis-server 7.0 dumped them: packed lists, sets, hashes and sorted sets, a stream with a group, and others.
fn redis_dumps() -> Vec<Vec<u8>> {
    let hex = [
        "000568656c6c6f0a006372df766534200a",
        "00c30b40780361626361e069020162630a00c494a1702ae23e06",
        "120102c325406516650000000500816102dfff02f270110104f400f2052a0120150309e04678e03c000148ff0a0099e4d269a61a80f9",
        "0b1404000000030000000100000002000000701101000a0085d5c1065b1dd055",
        "1012120000000400816602817602816e020c01ff0a0001369481d35b8974",
        "111d1d0000000600816202842d696e660581610283312e35048163020301ff0a002970c58fcde6fc31",
        "0503016300000000000008400161000000000000f83f0162000000000000f0ff0a009aa25325610ceafb",
        "13011000000000000000010000000000000001404a4a0000001f00030101010201816102816202000102010001000101010201050103010001\
         010103010401050100010401dfff0201018163020501060102010501dfff02070108010501ff03060001010101020401016700008\
         1ffffffffffffffff00010469646c653c0a4526a2010000000a006b086da7d73e3f44",
    ];
    let byte = |text: &str, at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    hex.iter().map(|text| (0..text.len() / 2).filter_map(|at| byte(text, at * 2)).collect()).collect()
}

#[test]
fn no_dump_of_redis_makes_its_reader_panic() {
    fuzz::run(Target {
        name: "redis-dump",
        seeds: redis_dumps(),
        inputs: 20_000,
        mutate: Mutate::Anyhow,
        mend: &|input| {
            input.truncate(input.len().saturating_sub(10));
            rdb::seal(input, 10);
        },
        decode: &mut |input| match rdb::unseal(input).map(|content| rdb::read(content, 1_000)) {
            None => "not whole".into(),
            Some(None) => "damaged".into(),
            Some(Some(value)) => {
                let mut again = Vec::new();
                let version = rdb::write(&value, &mut again);
                assert!(rdb::read(&again, 1_000).is_some(), "what was read is read again");
                format!("type {} version {version:?}", "x".repeat(usize::from(again[0])))
            }
        },
    });
}

#[test]
fn no_redis_request_makes_its_reader_panic() {
    fuzz::run(Target {
        name: "resp-request",
        seeds: redis_requests(),
        inputs: 50_000,
        mutate: Mutate::Anyhow,
        mend: &|_| {},
        decode: &mut |input| {
            let whole = redis_requests_of(input, input.len());
            let pieces = redis_requests_of(input, 3);
            assert_eq!(whole, pieces, "how a stream is parted makes a difference");
            compare_likely_keys(input);
            whole
        },
    });
}

/// What is said to be the key of a request, before it is read, is its second argument.
fn compare_likely_keys(input: &[u8]) {
    let (mut decoder, mut request, mut at) = (resp::Decoder::new(), resp::Request::new(), 0);
    for likely in resp::likely_keys(input) {
        match decoder.decode(&input[at..], &resp::Limits::UNAUTHENTICATED, &mut request) {
            Ok(Some(taken)) => {
                assert_eq!(likely, request.get(&input[at..], 1), "of the request at {at}");
                at += taken;
            }
            // It is not whole, or no request: then nothing comes of what was said.
            _ => return,
        }
    }
}

/// What is read of a stream that arrives in pieces.
fn redis_requests_of(input: &[u8], piece: usize) -> String {
    let (mut decoder, mut request, mut begin, mut end) = (resp::Decoder::new(), resp::Request::new(), 0, 0);
    let mut said = String::new();
    while end < input.len() {
        end = (end + piece).min(input.len());
        loop {
            match decoder.decode(&input[begin..end], &resp::Limits::UNAUTHENTICATED, &mut request) {
                Ok(Some(taken)) => {
                    let bytes: usize = request.args(&input[begin..]).map(<[u8]>::len).sum();
                    said.push_str(&format!("{} of {bytes} ", "arg ".repeat(request.len())));
                    begin += taken;
                }
                Ok(None) => break,
                Err(error) => return format!("{said} {error}"),
            }
        }
    }
    said
}

#[test]
fn no_redis_reply_makes_its_reader_panic() {
    let mut writer = resp::Writer::new(resp::Protocol::Three);
    writer.attribute(1, |writer| {
        writer.bulk("ttl");
        writer.double(1.5);
    });
    writer.map(1);
    writer.verbatim(*b"txt", "text");
    writer.set(3);
    writer.bool(true);
    writer.null();
    writer.big_number("123");
    writer.push(2);
    writer.status("OK");
    writer.error("ERR no");
    let replies = writer.into_bytes();
    fuzz::run(Target {
        name: "resp-reply",
        seeds: vec![replies, b"*2\r\n$3\r\nabc\r\n*-1\r\n:12\r\n$-1\r\n".to_vec()],
        inputs: 50_000,
        mutate: Mutate::Anyhow,
        mend: &|_| {},
        decode: &mut |input| {
            let mut decoder = resp::ReplyDecoder::new(resp::ReplyLimits { depth_max: 8, bytes_max: 4_096 });
            let (mut begin, mut said) = (0, String::new());
            loop {
                match decoder.decode(&input[begin..]) {
                    Ok(Some((reply, taken))) => {
                        said.push_str(&format!("{reply:?}"));
                        let mut again = resp::Writer::new(resp::Protocol::Two);
                        again.reply(&reply);
                        begin += taken;
                    }
                    Ok(None) => return said,
                    Err(error) => return format!("{said} {error}"),
                }
            }
        },
    });
}

#[test]
fn the_fuzzer_itself_notices_a_panic() {
    let mut decode = |input: &[u8]| {
        assert!(input.first() != Some(&b'y'), "planted");
        format!("{}", input.len().min(3))
    };
    let found = catch_unwind(AssertUnwindSafe(|| {
        fuzz::run(Target {
            name: "planted",
            seeds: vec![b"x...".to_vec()],
            inputs: 100_000,
            mutate: Mutate::Anyhow,
            mend: &|_| {},
            decode: &mut decode,
        });
    }));
    assert!(found.is_err(), "a planted panic was not found");
    std::fs::remove_dir_all(fuzz::folder("planted")).unwrap();
}
