//! Single sentences about single commands.

use super::*;
use crate::attributes::{self, Attributes, Value};
use crate::command::{Found, Refusal};
use crate::manifest::Ends;
use crate::record::{CollectionId, Position};
use crate::store::{ApplyError, DUE_PER_ENTRY_MAX, JobKind, REQUEST_AGE_MAX_MILLIS, StoreError};
use crate::view::{Cancelled, Effort, ScanRequest, SearchError, SearchRequest, SearchScratch};

fn read(shard: &Shard, collection: u64, key: &str) -> Option<String> {
    let view = shard.store.view();
    let record = view.collection_by_id(CollectionId(collection))?.get(key.as_bytes(), 0)?;
    Some(String::from_utf8_lossy(record.value().unwrap_or(b"<none>")).into_owned())
}

/// Each command in an entry of its own, then what is there; again after a checkpoint, and again after a restart.
fn check(commands: &[&dyn Fn(u64) -> Command], expected: &[(&str, Option<&str>)]) {
    let mut shard = Shard::new(small());
    let collection = shard.collection("c", 1);
    for command in commands {
        shard.command(command(collection));
    }
    for round in 0..3 {
        for (key, value) in expected {
            assert_eq!(read(&shard, collection, key).as_deref(), *value, "key {key} round {round}");
        }
        match round {
            0 => drop(shard.checkpoint()),
            _ => shard.restart(),
        }
    }
}

#[test]
fn a_deleted_key_can_come_back() {
    check(
        &[&|c| write(vec![put(c, "a", "1")]), &|c| write(vec![delete(c, "a")]), &|c| write(vec![put(c, "a", "3")])],
        &[("a", Some("3")), ("b", None)],
    );
}

#[test]
fn within_a_write_the_last_change_of_a_key_stays() {
    check(
        &[&|c| write(vec![put(c, "a", "1"), delete(c, "a"), put(c, "a", "2"), put(c, "b", "3"), delete(c, "b")])],
        &[("a", Some("2")), ("b", None)],
    );
}

#[test]
fn a_write_with_one_wrong_change_changes_nothing() {
    let wrong = |c| change(c, "b", Action::Put(Content { embeddings: vec![(0, vec![1.0; 3])], ..Content::default() }));
    check(
        &[&|c| write(vec![put(c, "a", "1"), wrong(c)]), &|c| write(vec![put(c, "b", "1"), put(99, "a", "1")])],
        &[("a", None), ("b", None)],
    );
}

#[test]
fn an_outcome_says_which_records_were_there() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let outcome = shard.command(write(vec![put(c, "a", "1"), put(c, "a", "2"), delete(c, "a"), delete(c, "b")]));
    let version = Position::new(3, 0).get();
    assert_eq!(outcome, Outcome::Written { version, existed: vec![false, true, true, false] });
    shard.command(write(vec![put(c, "a", "1")]));
    let version = Position::new(4, 0).get();
    let stale = change(c, "a", Action::DeleteVersion(version - 1));
    let current = change(c, "a", Action::DeleteVersion(version));
    let outcome = shard.command(write(vec![stale, current.clone(), current]));
    assert_eq!(outcome, Outcome::Written { version: Position::new(5, 0).get(), existed: vec![false, true, false] });
}

#[test]
fn conditions_look_at_the_state_before_the_write() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let claim = write_if(vec![condition(c, "lock", Expect::Absent)], vec![put(c, "lock", "mine")]);
    assert!(matches!(shard.command(claim.clone()), Outcome::Written { .. }));
    let version = Position::new(3, 0).get();
    assert_eq!(
        shard.command(claim),
        Outcome::Refused(Refusal::ConditionFailed { number: 0, key: b"lock".into(), found: Found::Version(version) })
    );
    let swap = |version| write_if(vec![condition(c, "lock", Expect::Version(version))], vec![put(c, "lock", "new")]);
    assert!(matches!(shard.command(swap(version)), Outcome::Written { .. }));
    assert!(matches!(shard.command(swap(version)), Outcome::Refused(Refusal::ConditionFailed { .. })));
}

#[test]
fn merging_keeps_what_is_not_given() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 2);
    let attributes = |pairs: &[(&str, i64)]| {
        let map = pairs.iter().map(|(name, number)| (name.to_string(), Value::Int(*number)));
        attributes::encode(&map.collect::<Attributes>()).unwrap()
    };
    let first = Content {
        value: Some(b"v".into()),
        attributes: attributes(&[("a", 1), ("b", 2)]),
        embeddings: vec![(0, vec![1.0; 4])],
        deadline: 5_000,
        ..Content::default()
    };
    shard.command(write(vec![change(c, "k", Action::Put(first))]));
    let content = Content {
        attributes: attributes(&[("b", 3), ("c", 4)]),
        embeddings: vec![(1, vec![2.0; 4])],
        ..Content::default()
    };
    let remove_attributes = vec!["a".into()];
    let merge = Action::Merge { content, remove_attributes, remove_deadline: false };
    shard.command(write(vec![change(c, "k", merge)]));
    let view = shard.store.view();
    let record = view.collection("n", "c").unwrap().get(b"k", 0).unwrap();
    assert_eq!(record.value(), Some(&b"v"[..]));
    assert_eq!(record.attributes(), attributes(&[("b", 3), ("c", 4)]));
    assert_eq!(record.embedding(0).as_deref(), Some(&[1.0; 4][..]));
    assert_eq!(record.embedding(1).as_deref(), Some(&[2.0; 4][..]));
    assert_eq!(record.deadline(), 5_000);
}

#[test]
fn a_record_is_gone_once_its_deadline_has_passed() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let timed = Content { deadline: 1_000, ..value("x") };
    shard.entry(500, vec![envelope(write(vec![change(c, "k", Action::Put(timed))]))]);
    let view = shard.store.view();
    let collection = view.collection("n", "c").unwrap();
    assert_eq!(shard.store.due(), Some(1_000));
    assert!(collection.get(b"k", 999).is_some() && collection.get(b"k", 1_000).is_none());
    let counts = [999, 1_000].map(|now| collection.count(None, now, &mut || true).unwrap());
    assert_eq!(counts, [1, 0]);
    // An entry without commands moves the clock and ends it.
    shard.entry(1_000, vec![]);
    assert_eq!((shard.store.due(), shard.store.view().stats().records), (None, 0));
    let outcome = shard.entry(1_000, vec![envelope(write(vec![put(c, "k", "again")]))]).remove(0);
    assert!(matches!(outcome, Outcome::Written { existed, .. } if existed == [false]));
    assert!(view.collection("n", "c").unwrap().get(b"k", 999).is_some(), "an old view stays as it was");
}

#[test]
fn a_ttl_counts_from_the_clock_of_the_entry() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let timed = Content { ttl: 250, ..value("x") };
    let put = request(b"r", write(vec![change(c, "k", Action::Put(timed))]));
    let first = shard.entry(1_000, vec![put.clone()]);
    assert_eq!(shard.store.due(), Some(1_250));
    assert_eq!(shard.entry(1_100, vec![put]), first, "the same request at a later clock is the same");
    assert_eq!(shard.store.due(), Some(1_250));
}

#[test]
fn expired_records_are_ended_a_few_at_a_time_and_are_absent_at_once() {
    let mut shard = Shard::new(StoreOptions { buffer_rows_max: u32::MAX, ..small() });
    let c = shard.collection("c", 0);
    let count = DUE_PER_ENTRY_MAX as u64 * 2 + 5;
    let changes = (0..count).map(|i| {
        let content = Content { deadline: 100 + i % 7, ..Content::default() };
        change(c, &format!("k{i}"), Action::Put(content))
    });
    shard.entry(1, vec![envelope(write(changes.collect()))]);
    for (round, left) in [DUE_PER_ENTRY_MAX as u64 + 5, 5, 0].into_iter().enumerate() {
        shard.entry(200, vec![]);
        let view = shard.store.view();
        assert_eq!(view.stats().records, left, "round {round}");
        assert_eq!(view.collection("n", "c").unwrap().count(None, 0, &mut || true), Ok(0));
        assert_eq!(shard.store.due().is_some(), left > 0);
    }
}

#[test]
fn a_repeated_request_gets_its_first_outcome_and_another_one_is_a_conflict() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 1);
    let content = Content { embeddings: vec![(0, vec![1.0, 2.0, 3.0, 4.0])], ..value("1") };
    let first = request(b"r1", write(vec![change(c, "a", Action::Put(content.clone()))]));
    let [outcome] = &shard.entry(0, vec![first.clone()])[..] else { panic!() };
    for round in 0..3 {
        let others = vec![envelope(write(vec![delete(c, "x")])), first.clone()];
        assert_eq!(&shard.entry(10, others)[1], outcome, "round {round}");
        let mut content = content.clone();
        content.embeddings[0].1[3] = 4.5;
        let other = request(b"r1", write(vec![change(c, "a", Action::Put(content))]));
        assert_eq!(shard.entry(10, vec![other]), [Outcome::Refused(Refusal::RequestConflict)]);
        match round {
            0 => drop(shard.checkpoint()),
            _ => shard.restart(),
        }
    }
    let mut bob = first.clone();
    bob.origin.principal = "bob".into();
    assert_ne!(&shard.entry(20, vec![bob])[0], outcome, "another principal's request is another request");
    assert_ne!(&shard.entry(REQUEST_AGE_MAX_MILLIS, vec![first])[0], outcome, "a day later it is a new request");
}

#[test]
fn the_clock_never_goes_back() {
    let mut shard = Shard::new(small());
    for (clock, expected) in [(5, 5), (3, 5), (9, 9)] {
        shard.entry(clock, vec![]);
        assert_eq!((shard.store.clock(), shard.store.view().clock()), (expected, expected));
    }
}

#[test]
fn entries_are_applied_in_order_and_bytes_that_are_none_change_nothing() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    let before = (shard.store.digest(), shard.store.chain_head());
    let entry = Entry { clock: 7, commands: vec![envelope(write(vec![put(c, "a", "1")]))] }.encode();
    for index in [1, 2, 4] {
        assert_eq!(shard.store.apply(index, &entry), Err(ApplyError::OutOfOrder { expected: 3, found: index }));
    }
    for len in 1..entry.len() {
        assert!(matches!(shard.store.apply(3, &entry[..len]), Err(ApplyError::Entry { index: 3, .. })), "cut at {len}");
    }
    assert_eq!((shard.store.digest(), shard.store.chain_head(), shard.store.applied()), (before.0, before.1, 2));
    assert_eq!(shard.store.apply(3, &[]), Ok(vec![]));
    assert_eq!((shard.store.digest(), shard.store.chain_head(), shard.store.applied()), (before.0, before.1, 3));
    assert_eq!(shard.store.apply(4, &entry).map(|outcomes| outcomes.len()), Ok(1));
    assert!(shard.store.digest() != before.0 && shard.store.chain_head() != before.1);
}

#[test]
fn any_flipped_bit_of_an_entry_is_an_error_or_another_entry_but_never_a_panic() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 1);
    let content = Content { embeddings: vec![(0, vec![1.0; 4])], ..value("1") };
    let commands = vec![request(
        b"r",
        write_if(vec![condition(c, "a", Expect::Absent)], vec![change(c, "a", Action::Put(content))]),
    )];
    let entry = Entry { clock: 7, commands }.encode();
    let mut index = shard.store.applied();
    for bit in 0..entry.len() * 8 {
        let mut damaged = entry.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // The log's checksum is what notices damage; this is only about not dying of it.
        if shard.store.apply(index + 1, &damaged).is_ok() {
            index += 1;
        }
    }
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
}

#[test]
fn a_dropped_collection_takes_its_records_deadlines_and_files_with_it() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 1);
    let empty = shard.store.view().stats();
    for round in 0..100 {
        let content = Content { deadline: 1_000, embeddings: vec![(0, vec![round as f32; 4])], ..value("x") };
        shard.command(write(vec![change(c, &format!("k{round}"), Action::Put(content))]));
        shard.rest();
    }
    assert!(shard.files().len() > 2);
    shard.command(Command::DropCollection { collection: c });
    assert_eq!(shard.command(write(vec![put(c, "a", "1")])), Outcome::Refused(Refusal::UnknownCollection(c)));
    shard.rest();
    assert_eq!((shard.files(), shard.store.due()), (vec!["MANIFEST".to_owned()], None));
    assert!(shard.store.view().collection("n", "c").is_none());
    let again = shard.collection("c", 1);
    assert_ne!(again, c, "ids are not used again");
    assert_eq!(read(&shard, again, "k1"), None);
    assert_eq!(shard.store.view().stats().records, empty.records);
    shard.restart();
    assert_eq!(shard.store.digest(), shard.store.digest_from_records());
}

#[test]
fn a_checkpoint_says_how_much_of_the_log_may_go_and_is_not_repeated_for_nothing() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    shard.command(write(vec![put(c, "a", "1")]));
    shard.store.request_checkpoint();
    let job = shard.store.next_job().unwrap();
    assert_eq!(job.kind(), JobKind::Checkpoint);
    shard.command(write(vec![put(c, "a", "2"), put(c, "b", "2")]));
    let done = shard.run(job);
    let installed = shard.store.install(done);
    assert_eq!((installed.forget_up_to, installed.error.is_none()), (Some(3), true));
    assert_eq!(read(&shard, c, "a").as_deref(), Some("2"), "what came meanwhile is there");
    assert_eq!(shard.checkpoint()[0].forget_up_to, Some(4));
    assert!(shard.checkpoint().is_empty());
    let reopened = Store::open(Arc::new(shard.directory.clone()), small()).unwrap();
    assert_eq!((reopened.applied(), reopened.digest()), (4, shard.store.digest()));
}

#[test]
fn opening_says_what_is_wrong() {
    let open = |directory: &RamDirectory| Store::open(Arc::new(directory.clone()), small()).err();
    let empty = RamDirectory::new();
    assert!(matches!(open(&empty), Some(StoreError::Missing)));
    empty.put("MANIFEST", &[7; 100]);
    assert!(matches!(open(&empty), Some(StoreError::Foreign { file }) if file == "MANIFEST"));

    let mut shard = Shard::new(small());
    let c = shard.collection("c", 1);
    shard.command(write(["a", "b", "c", "d", "e"].map(|key| put(c, key, "1")).into()));
    shard.checkpoint();
    // One in five: few enough for the segment to stay.
    shard.entry(0, vec![request(b"r", write(vec![delete(c, "a")]))]);
    shard.checkpoint();
    let again = Store::create(Arc::new(shard.directory.clone()), small(), [3; 32], 0);
    assert!(matches!(again.err(), Some(StoreError::Exists)));
    let files = shard.files();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let whole = shard.directory.bytes(&file).unwrap();
        shard.directory.flip(&file, whole.len() / 2 * 8);
        let error = open(&shard.directory).expect("damage is noticed").to_string();
        assert!(error.contains(&file) && error.contains("damaged at byte"), "{error}");
        if file != "MANIFEST" {
            use crate::directory::Directory;
            shard.directory.remove(&file).unwrap();
            let error = open(&shard.directory).expect("absence is noticed").to_string();
            assert!(error.contains(&file), "{error}");
        }
        shard.directory.put(&file, &whole);
    }
    shard.restart();
}

#[test]
fn a_version_that_ended_at_no_time_is_refused() {
    let mut shard = Shard::new(small());
    let c = shard.collection("c", 0);
    shard.command(write(["a", "b", "c", "d", "e"].map(|key| put(c, key, "1")).into()));
    shard.checkpoint();
    shard.command(write(vec![delete(c, "a")]));
    shard.checkpoint();
    let name = shard.files().into_iter().find(|file| file.starts_with("ends-")).expect("one has ended");
    let mut ends = Ends::decode(&shard.directory.bytes(&name).unwrap()).unwrap();
    ends.ends[0].1 = Position::NEVER.get();
    shard.directory.put(&name, &ends.encode());
    let error = Store::open(Arc::new(shard.directory.clone()), small()).expect_err("it is counted, and has not ended");
    assert!(error.to_string().contains(&name), "{error}");
}

#[test]
fn leftover_files_are_removed_and_foreign_ones_are_not() {
    let shard = Shard::new(small());
    for name in ["segment-00000000000000ff", "ends-0000000000000010", "notes.txt"] {
        shard.directory.put(name, b"x");
    }
    let mut store = Store::open(Arc::new(shard.directory.clone()), small()).unwrap();
    assert_eq!(shard.files(), ["MANIFEST", "notes.txt"]);
    assert_eq!(store.next_file(), 256, "numbers of leftovers are not given again");
}

#[test]
fn reads_stop_when_told() {
    let mut shard = Shard::new(StoreOptions { buffer_rows_max: u32::MAX, ..small() });
    let c = shard.collection("c", 1);
    let content = Content { embeddings: vec![(0, vec![1.0; 4])], ..Content::default() };
    let changes = (0..3_000).map(|i| change(c, &format!("k{i}"), Action::Put(content.clone())));
    shard.command(write(changes.collect()));
    for _ in 0..2 {
        let view = shard.store.view();
        let collection = view.collection("n", "c").unwrap();
        let filter = crate::filter::Filter::Constant(true);
        let scan = ScanRequest { after: None, prefix: None, filter: None, limit: 5_000, bytes_max: 1 << 30, now: 0 };
        assert_eq!(collection.scan(&scan, &mut || false).err(), Some(Cancelled));
        assert_eq!(collection.count(Some(&filter), 0, &mut || false), Err(Cancelled));
        let search = SearchRequest {
            field: 0,
            query: &[0.0; 4],
            k: 3_000,
            effort: Effort::default(),
            filter: Some(&filter),
            max_distance: None,
            now: 0,
        };
        let scratch = &mut SearchScratch::new();
        assert!(matches!(collection.search(&search, scratch, &mut || false), Err(SearchError::Cancelled(_))));
        let wrong = SearchRequest { field: 1, ..search };
        assert!(matches!(collection.search(&wrong, scratch, &mut || true), Err(SearchError::UnknownField { .. })));
        let wrong = SearchRequest { query: &[0.0; 3], ..search };
        assert!(matches!(collection.search(&wrong, scratch, &mut || true), Err(SearchError::WrongDimension { .. })));
        shard.checkpoint();
    }
}

#[test]
fn a_store_on_a_real_disk_comes_back() {
    let place = tempfile::tempdir().unwrap();
    let directory = || Arc::new(crate::directory::MmapDirectory::open(place.path().join("shard")).unwrap());
    let first = directory();
    let mut store = Store::create(first.clone(), small(), [3; 32], 0).unwrap();
    let schema = Schema { embeddings: specs(1, 4, Metric::Dot), ..Schema::default() };
    let create = Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema };
    let commands = vec![envelope(Command::CreateNamespace { name: "n".into() }), envelope(create)];
    store.apply(1, &Entry { clock: 0, commands }.encode()).unwrap();
    for index in 2..200u64 {
        let content = Content { embeddings: vec![(0, vec![index as f32; 4])], ..value("x") };
        let changes = vec![change(1, &format!("k{}", index % 150), Action::Put(content))];
        let commands = vec![request(&index.to_le_bytes(), write(changes))];
        store.apply(index, &Entry { clock: index, commands }.encode()).unwrap();
        if index.is_multiple_of(30) {
            store.request_checkpoint();
        }
        while let Some(job) = store.next_job() {
            let done = job.run(&*first, &AtomicBool::new(false));
            assert!(store.install(done).error.is_none());
        }
    }
    store.request_checkpoint();
    let done = store.next_job().unwrap().run(&*first, &AtomicBool::new(false));
    assert_eq!(store.install(done).forget_up_to, Some(199));
    let digest = store.digest();
    drop(store);
    let store = Store::open(directory(), small()).unwrap();
    assert_eq!((store.applied(), store.digest(), store.digest_from_records()), (199, digest, digest));
    assert_eq!(store.view().stats().records, 150);
}

#[test]
fn a_store_that_begins_at_a_later_entry_goes_on_from_there() {
    let directory = Arc::new(RamDirectory::new());
    let mut store = Store::create(directory.clone(), small(), [3; 32], 41).unwrap();
    assert_eq!((store.applied(), store.view().index()), (41, 41));
    let entry = Entry { clock: 1, commands: vec![envelope(Command::CreateNamespace { name: "n".into() })] }.encode();
    assert_eq!(store.apply(42, &entry), Ok(vec![Outcome::Done]));
    assert_eq!(Store::open(directory, small()).unwrap().applied(), 41);
}
