//! Sets against one of the library.

use std::collections::BTreeSet;

use super::*;
use crate::table::call::Chance;

type Model = BTreeSet<Vec<u8>>;

fn check(set: &Set) {
    match &set.form {
        Form::Numbers(numbers) => assert!(numbers.iter().is_sorted()),
        Form::Small { bytes, len } => assert_eq!(small_members(bytes).count(), usize::from(*len)),
        Form::Large(dense) => dense.check(),
    }
    let sum = set.iter().fold(0u64, |sum, member| sum.wrapping_add(xxh3_64(&member)));
    assert_eq!(set.sum(), sum);
    let mut bytes = Vec::new();
    set.encode(&mut bytes);
    let again = Set::decode(&bytes).expect("what was encoded");
    let all = |set: &Set| set.iter().map(|member| member.to_vec()).collect::<Vec<_>>();
    assert_eq!(all(set), all(&again), "the order is kept");
    assert_eq!((again.sum(), again.encoding()), (sum, set.encoding()));
    let mut other = Set::default();
    for member in all(set).into_iter().rev() {
        other.add(b"passes by");
        other.add(&member);
    }
    other.remove(b"passes by");
    assert_eq!(other.sum(), sum);
}

fn member(chance: &mut Chance, kind: usize, many: usize) -> Vec<u8> {
    let number = chance.below(many) as i64;
    match kind {
        0 => number.to_string().into_bytes(),
        1 => (number * [1, -1, 40_000, -40_000, 5_000_000_000][number as usize % 5]).to_string().into_bytes(),
        2 => format!("member:{number}").into_bytes(),
        // What is no number although it looks like one.
        3 => format!("0{number}").into_bytes(),
        _ if chance.below(100) == 0 => vec![b'x'; 60 + number as usize % 10],
        _ => number.to_string().into_bytes(),
    }
}

#[test]
fn it_is_what_a_set_of_the_library_would_be() {
    for seed in 0..800 {
        let mut chance = Chance::new(seed);
        let (mut set, mut model) = (Set::default(), Model::new());
        let (kind, many) = (seed as usize % 5, [3, 30, 150, 700][seed as usize / 5 % 4]);
        let steps = many * 4;
        for step in 0..steps {
            let member = member(&mut chance, kind, many);
            // First it mostly grows, then it mostly shrinks.
            match chance.below(10) {
                0..2 => assert_eq!(set.contains(&member), model.contains(&member), "seed {seed}"),
                it if (it < 8) == (step < steps / 2) => {
                    assert_eq!(set.add(&member), model.insert(member), "seed {seed}");
                }
                _ => assert_eq!(set.remove(&member), model.remove(&member), "seed {seed}"),
            }
            assert_eq!(set.len(), model.len(), "seed {seed}");
            if step % (1 + steps / 8) == 0 {
                check(&set);
                let choice = set.choice();
                let chosen: Model = (0..choice.len()).map(|place| choice.at(place).to_vec()).collect();
                assert_eq!(chosen, model, "seed {seed}");
            }
        }
        check(&set);
    }
}

#[test]
fn it_changes_how_it_is_kept_as_in_redis() {
    let mut set = Set::default();
    (0..512).for_each(|number| assert!(set.add(number.to_string().as_bytes())));
    assert_eq!(set.encoding(), "intset");
    set.add(b"512");
    assert_eq!(set.encoding(), "hashtable");
    let mut set = Set::default();
    (0..100).for_each(|number| assert!(set.add(number.to_string().as_bytes())));
    set.add(b"a");
    assert_eq!((set.encoding(), set.len()), ("listpack", 101));
    (100..128).for_each(|number| assert!(set.add(number.to_string().as_bytes())));
    assert_eq!((set.encoding(), set.len()), ("hashtable", 129));
    let mut set = Set::default();
    set.add(&[b'a'; 65]);
    assert_eq!(set.encoding(), "hashtable");
    let mut set = Set::default();
    set.expect(b"a", 129);
    assert_eq!(set.encoding(), "hashtable");
}

#[test]
fn damaged_bytes_are_no_set_or_another() {
    for kind in 0..3 {
        let mut chance = Chance::new(kind);
        let mut set = Set::default();
        for _ in 0..6 {
            set.add(&member(&mut chance, kind as usize, 100));
        }
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        for len in 0..bytes.len() {
            assert!(Set::decode(&bytes[..len]).is_none_or(|part| part.len() < set.len()), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Some(other) = Set::decode(&bytes) {
                check(&other);
            }
        }
    }
}
