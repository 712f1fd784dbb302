//! The table itself and this model say the same of any calls.

use loci_index::table::execute::{self, Moment};
use loci_index::table::keyspace::Keyspace;
use loci_index::table::scripting::Scripts;

use super::*;
use crate::chance::Chance;
use crate::sim::tables::{self, Drawn};

#[test]
fn the_table_says_the_same() {
    let mut answered = BTreeMap::<String, [u32; 2]>::new();
    for seed in 0..600 {
        let mut chance = Chance::new(seed);
        let (mut table, mut scripts) = (Keyspace::new(seed), Scripts::default());
        let (mut plain, mut loaded) = (Plain::default(), Loaded::new());
        let mut now = 1_000_000;
        let keys: Vec<String> = ["k", "t", "m", "h", "l", "r", "c"]
            .into_iter()
            .flat_map(|prefix| (0..4).map(move |number| format!("{prefix}{number}")))
            .collect();
        let mut lease = None;
        for version in 1..300 {
            now += chance.below(400);
            let drawn = Drawn { keys: 4, turn: seed, value: &format!("{version}"), lease: lease.clone() };
            let words = match chance.below(3) {
                0 => {
                    let key = &keys[chance.index(keys.len())];
                    tables::any_look(&mut chance, key.as_bytes(), &drawn)
                }
                _ => tables::any_words(&mut chance, &drawn),
            };
            let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let (mut mine, mut its) = (Tape::new(), Tape::new());
            plain.call(&mut loaded, &args, When { now, version }, &mut mine);
            let moment = Moment { now, version, number: 0 };
            let spec = execute::find(&args).expect("a command");
            assert_eq!(
                matches!(spec.run, loci_index::table::commands::Run::Read(_)),
                is_look(&args),
                "whether {} only looks",
                spec.name
            );
            if matches!(spec.run, loci_index::table::commands::Run::Script) {
                scripts.call(&mut table, &args, moment, &mut its);
            } else {
                execute::write(&mut table, spec, &args, moment, &mut its);
            }
            let (mine, its) = (in_order(mine.bytes()), in_order(its.bytes()));
            assert_eq!(
                tables::told(&mine),
                tables::told(&its),
                "seed {seed}, call {version}: {}",
                tables::shown(&words)
            );
            assert_eq!(mine, its, "seed {seed}, call {version}: {}", tables::shown(&words));
            let failed = matches!(Items::new(&its).next(), Some(Item::Error(_)));
            answered.entry(lossy(args[0])).or_default()[usize::from(failed)] += 1;
            for key in &keys {
                let key = key.as_bytes();
                let mine = plain.live(key, now).map(|kept| (kept.version, kept.deadline));
                let its = table.version(key, now).zip(table.deadline(key, now));
                assert_eq!(mine, its, "seed {seed}, call {version}: {}: {}", tables::shown(&words), lossy(key));
                if let Some(number) = plain.held(key, now) {
                    lease = Some((key.to_vec(), number));
                }
            }
        }
    }
    for (name, [well, failed]) in &answered {
        assert!(*well > 20, "{name} went well only {well} times, and failed {failed} times");
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
