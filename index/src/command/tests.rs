//! Entries of every version: their bytes, which never change, and what is made of damaged ones.

use super::*;

/// What version 1 could say.
fn sample_1() -> Entry {
    let origin = Origin {
        principal: "agent-7 for ann".into(),
        task: "summarise".into(),
        trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        request_id: vec![1, 2, 3],
    };
    let content = Content {
        value: Some(b"value".into()),
        attributes: vec![8, 0, 0, 0, 0, 0, 0, 0, 0],
        embeddings: vec![(0, vec![1.0, -0.5]), (3, vec![0.25])],
        deadline: 1_700_000_000_001,
        ttl: 60_000,
        ..Content::default()
    };
    let schema = Schema {
        embeddings: vec![EmbeddingSpec::new("text", 2, 1)],
        durability: Durability::Buffered,
        retention_millis: 5,
        eviction_bytes: 6,
        ..Schema::default()
    };
    let change = |key: &[u8], action| Change { collection: 9, key: key.into(), action };
    let condition = |key: &[u8], expect| Condition { collection: 9, key: key.into(), expect };
    let merge =
        Action::Merge { content: content.clone(), remove_attributes: vec!["old".into()], remove_deadline: true };
    let commands = [
        Command::CreateNamespace { name: "n".into() },
        Command::DropNamespace { name: "m".into() },
        Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema },
        Command::AlterCollection {
            collection: 9,
            change: SchemaChange {
                durability: Some(Durability::Synced),
                retention_millis: None,
                eviction_bytes: Some(7),
                ..SchemaChange::default()
            },
        },
        Command::DropCollection { collection: 9 },
        Command::Write {
            conditions: vec![
                condition(b"a", Expect::Absent),
                condition(b"b", Expect::Present),
                condition(b"c", Expect::Version(77)),
            ],
            changes: vec![
                change(b"a", Action::Put(content)),
                change(b"b", merge),
                change(b"c", Action::Delete),
                change(b"d", Action::DeleteVersion(78)),
            ],
        },
    ];
    let commands = commands.map(|command| Envelope { origin: origin.clone(), command });
    Entry { clock: 1_700_000_000_000, commands: commands.into() }
}

/// The same, with everything that version 2 added.
fn sample() -> Entry {
    let mut entry = sample_1();
    let path = |path: &str| path.split('.').map(String::from).collect::<Vec<_>>();
    for envelope in &mut entry.commands {
        match &mut envelope.command {
            Command::CreateCollection { schema, .. } => {
                schema.embeddings[0].storage = Storage::F16;
                schema.embeddings[0].codes = Codes::None;
                schema.sparse = vec![SparseSpec { name: "words".into() }];
                schema.texts = vec![TextSpec { path: path("body"), language: Language::English }];
                schema.indexes = vec![IndexSpec { path: path("author.name"), kind: IndexKind::Substring }];
            }
            Command::AlterCollection { change, .. } => {
                change.add_indexes = vec![IndexSpec { path: path("year"), kind: IndexKind::Value }];
                change.remove_indexes = vec![path("author.name")];
            }
            Command::Write { changes, .. } => {
                if let Action::Put(content) = &mut changes[0].action {
                    content.sparse = vec![(0, vec![(3, 0.5), (70_000, 1.5)])];
                }
            }
            _ => {}
        }
    }
    entry
}

/// The same, with everything that version 3 added.
fn sample_3() -> Entry {
    let mut entry = sample();
    let Command::CreateCollection { namespace, name, schema } = entry.commands[2].command.clone() else {
        panic!("the third command of the sample creates a collection")
    };
    let installation = Installation { collection: 12, namespace, name, schema };
    let command = Command::InstallCollection(installation.into());
    entry.commands.push(Envelope { origin: Origin::default(), command });
    entry
}

/// The same, with everything that version 4 added.
fn sample_4() -> Entry {
    let mut entry = sample_3();
    let execution = Execution {
        collections: vec![9, 12],
        conditions: vec![Watched { database: 1, key: b"w".into(), version: 7 << 16 }],
        calls: b"\x00\x01\x00\x00\x00\x04\x00\x00\x00PING".into(),
        atomic: true,
    };
    let reclaim = Reclaim { collection: 9, keys: vec![b"x".into(), b"yy".into()], evicted: true };
    for command in [Command::Execute(execution.into()), Command::Reclaim(reclaim.into())] {
        entry.commands.push(Envelope { origin: Origin::default(), command });
    }
    entry
}

/// The same, with everything that version 5 added.
fn sample_5() -> Entry {
    let mut entry = sample_4();
    if let Command::Write { conditions, .. } = &mut entry.commands[5].command {
        for expect in [Expect::Lease(79), Expect::Value(80)] {
            conditions.push(Condition { collection: 9, key: b"e".into(), expect });
        }
    }
    entry
}

/// The same, with everything that version 6 added.
fn sample_6() -> Entry {
    let mut entry = sample_5();
    let filter = crate::filter::Filter::HasElement(vec!["tags".into()], crate::attributes::Value::Int(7));
    let removal = Removal { collection: 9, filter: filter.encode().unwrap() };
    entry.commands.push(Envelope { origin: Origin::default(), command: Command::Remove(removal.into()) });
    entry
}

/// The same, with everything that version 7 added.
fn sample_7() -> Entry {
    let mut entry = sample_6();
    for envelope in &mut entry.commands {
        match &mut envelope.command {
            Command::CreateCollection { schema, .. } => schema.eviction_policy = Some(Policy::VolatileTtl),
            Command::AlterCollection { change, .. } => change.eviction_policy = Some(Some(Policy::Lfu)),
            Command::InstallCollection(wanted) => wanted.schema.eviction_policy = Some(Policy::None),
            _ => {}
        }
    }
    let change = SchemaChange { eviction_policy: Some(None), ..SchemaChange::default() };
    let command = Command::AlterCollection { collection: 12, change };
    entry.commands.push(Envelope { origin: Origin::default(), command });
    entry
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An entry as version 1 wrote it.
pub(crate) fn golden_1() -> Vec<u8> {
    let digits = include_str!("../../golden/entry-1.hex").trim();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn version_2_never_changes() {
    assert_eq!(hex(&sample().encode()), include_str!("../../golden/entry-2.hex").trim());
}

#[test]
fn version_3_never_changes() {
    assert_eq!(hex(&sample_3().encode()), include_str!("../../golden/entry-3.hex").trim());
}

#[test]
fn version_4_never_changes() {
    assert_eq!(hex(&sample_4().encode()), include_str!("../../golden/entry-4.hex").trim());
}

#[test]
fn versions_5_to_7_never_change() {
    assert_eq!(hex(&sample_5().encode()), include_str!("../../golden/entry-5.hex").trim());
    assert_eq!(hex(&sample_6().encode()), include_str!("../../golden/entry-6.hex").trim());
    assert_eq!(hex(&sample_7().encode()), include_str!("../../golden/entry-7.hex").trim());
}

#[test]
fn version_1_is_still_read() {
    assert_eq!(Entry::decode(&golden_1()), Ok(sample_1()));
}

#[test]
fn what_was_encoded_is_read_wherever_it_lies() {
    for entry in [sample(), sample_3(), sample_4(), sample_5(), sample_6(), sample_7()] {
        let bytes = entry.encode();
        for shift in 0..16 {
            let shifted = [&vec![0; shift][..], &bytes].concat();
            assert_eq!(Entry::decode(&shifted[shift..]).as_ref(), Ok(&entry));
        }
    }
}

#[test]
fn a_cut_entry_is_an_error_and_a_flipped_bit_never_a_panic() {
    for bytes in [sample().encode(), sample_5().encode(), sample_6().encode(), sample_7().encode(), golden_1()] {
        for len in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
        assert!(Entry::decode(&[&bytes[..], &[0; 16]].concat()).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let read = Entry::decode(&damaged);
            assert!(bit >= HEADER_BYTES * 8 || read.is_err(), "bit {bit} of the header");
        }
        let mut newer = bytes;
        newer[4] = 8;
        assert_eq!(Entry::decode(&newer), Err(EntryError::UnknownVersion(8)));
    }
}

#[test]
fn every_command_that_names_a_policy_is_of_version_7_and_no_other_is() {
    for place in 0..sample_7().commands.len() {
        let entry = Entry { clock: 1, commands: vec![sample_7().commands[place].clone()] };
        let names = matches!(place, 2 | 3 | 6) || place + 1 == sample_7().commands.len();
        assert_eq!(entry.version() == 7, names, "command {place}");
        let mut bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes), Ok(entry));
        bytes[4] = if names { 6 } else { 7 };
        assert!(Entry::decode(&bytes).is_err(), "command {place} under another version");
    }
}
