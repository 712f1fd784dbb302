//! Hashes against a map with deadlines.

use std::collections::BTreeMap;

use super::*;
use crate::table::call::Chance;

type Model = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

fn contents(hash: &Hash, now: u64) -> Model {
    let live = hash.all().filter(|(.., deadline)| is_live(*deadline, now));
    live.map(|(field, value, deadline)| (field.to_vec(), (value.to_vec(), deadline))).collect()
}

/// All that must hold of a hash by itself.
fn check(hash: &Hash) {
    match &hash.form {
        Form::Small(small) => {
            assert_eq!(small.iter().count(), usize::from(small.len));
            assert_eq!(small.iter().filter(|parts| parts.2 != 0).count(), usize::from(small.timed));
        }
        Form::Large(fields) => fields.check(),
    }
    let sum = hash.all().fold(0u64, |sum, (field, value, deadline)| sum.wrapping_add(sum_of(field, value, deadline)));
    assert_eq!(hash.sum(), sum);
    let mut bytes = Vec::new();
    hash.encode(&mut bytes);
    let again = Hash::decode(&bytes).expect("what was encoded");
    assert!(hash.all().eq(again.all()), "the order is kept");
    assert_eq!((again.sum(), again.encoding()), (sum, hash.encoding()));
    let mut other = Hash::default();
    let mut reversed: Vec<_> = hash.all().collect();
    reversed.reverse();
    for (field, value, deadline) in reversed {
        other.set(field, b"something else", false);
        other.set_deadline(field, 1);
        other.set(field, value, false);
        other.set_deadline(field, deadline);
    }
    assert_eq!(other.sum(), sum);
}

fn run(seed: u64, fields: usize, long: bool, steps: usize) {
    let mut chance = Chance::new(seed);
    let (mut hash, mut model, mut now) = (Hash::default(), Model::new(), 1_000u64);
    for step in 0..steps {
        let field = format!("field:{}", chance.below(fields)).into_bytes();
        let bound = if long && chance.below(50) == 0 { 200 } else { 20 };
        let value = vec![b'v'; chance.below(bound)];
        let later = now + 1 + chance.below(50) as u64;
        let live = model.get(&field).filter(|(_, deadline)| is_live(*deadline, now)).cloned();
        // First it mostly grows, then it mostly shrinks.
        match chance.below(if step < steps / 2 { 10 } else { 20 }) {
            0..5 => {
                hash.expire(now);
                model.retain(|_, (_, deadline)| is_live(*deadline, now));
                let keep = chance.below(2) == 0;
                assert_eq!(hash.set(&field, &value, keep), live.is_none(), "seed {seed}");
                let kept = live.map_or(0, |(_, deadline)| if keep { deadline } else { 0 });
                model.insert(field, (value, kept));
            }
            5..7 => {
                let deadline = if chance.below(3) == 0 { 0 } else { later };
                if live.is_some() {
                    assert!(hash.set_deadline(&field, deadline), "seed {seed}");
                    model.entry(field).and_modify(|it| it.1 = deadline);
                }
            }
            7 => now += chance.below(20) as u64,
            8 => assert_eq!(hash.get(&field, now).map(|(v, d)| (v.to_vec(), d)), live, "seed {seed}"),
            _ => {
                hash.expire(now);
                model.retain(|_, (_, deadline)| is_live(*deadline, now));
                assert_eq!(hash.remove(&field), model.remove(&field).is_some(), "seed {seed}");
            }
        }
        let lives = model.values().filter(|(_, deadline)| is_live(*deadline, now)).count();
        assert_eq!(hash.live_len(now), lives, "seed {seed}");
        assert_eq!(hash.choice(now).len(), lives, "seed {seed}");
        assert_eq!(hash.is_live(now), lives > 0 || model.is_empty(), "seed {seed}");
        let first = model.values().map(|it| it.1).filter(|&deadline| deadline != 0).min().unwrap_or(0);
        assert_eq!(hash.first_deadline(), first, "seed {seed}");
        if step % 40 == 0 {
            check(&hash);
            let expected: Model = model.clone().into_iter().filter(|(_, it)| is_live(it.1, now)).collect();
            assert_eq!(contents(&hash, now), expected, "seed {seed}");
        }
    }
    check(&hash);
}

#[test]
fn it_is_what_a_map_with_deadlines_would_be() {
    for seed in 0..300 {
        run(seed, 1 + seed as usize % 60, false, 200);
    }
    for seed in 0..150 {
        run(seed, 1 + seed as usize % 200, true, 400);
    }
    for seed in 0..4 {
        run(seed, 2_000, false, 8_000);
    }
}

#[test]
fn a_member_that_was_restored_goes_on_in_the_same_order() {
    for seed in 0..200 {
        let mut chance = Chance::new(seed);
        let mut hash = Hash::default();
        for step in 0..200 {
            let field = chance.below(30).to_string().into_bytes();
            match chance.below(4) {
                0 => {
                    hash.remove(&field);
                }
                1 => {
                    hash.set_deadline(&field, 1 + chance.below(300) as u64);
                }
                2 => {
                    hash.expire(step);
                }
                _ => {
                    hash.set(&field, &vec![0; chance.below(70)], false);
                }
            }
            let mut bytes = Vec::new();
            hash.encode(&mut bytes);
            let mut restored = Hash::decode(&bytes).expect("what was encoded");
            restored.expire(step + 20);
            let mut same = hash.clone();
            same.expire(step + 20);
            assert!(same.all().eq(restored.all()), "seed {seed}");
        }
    }
}

#[test]
fn damaged_bytes_are_no_hash_or_another() {
    let mut hash = Hash::default();
    (0..5u8).for_each(|field| assert!(hash.set(&[field], &[field; 9], false)));
    hash.set_deadline(&[3], 77);
    let mut bytes = Vec::new();
    hash.encode(&mut bytes);
    for len in 0..bytes.len() {
        assert!(Hash::decode(&bytes[..len]).is_none_or(|part| part.len() < 5), "cut at {len}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Some(other) = Hash::decode(&bytes) {
            check(&other);
        }
    }
}

#[test]
fn it_becomes_large_as_in_redis() {
    let mut hash = Hash::default();
    (0..512u32).for_each(|field| assert!(hash.set(&field.to_le_bytes(), b"", false)));
    assert_eq!(hash.encoding(), "listpack");
    hash.set_deadline(&7u32.to_le_bytes(), 5);
    assert_eq!(hash.encoding(), "listpackex");
    hash.set(b"one more", b"", false);
    assert_eq!(hash.encoding(), "hashtable");
    assert_eq!(hash.get(&7u32.to_le_bytes(), 4), Some((&b""[..], 5)));
    let mut hash = Hash::default();
    hash.set(b"f", &[0; 64], false);
    assert_eq!(hash.encoding(), "listpack");
    hash.set(b"f", &[0; 65], false);
    assert_eq!(hash.encoding(), "hashtable");
}
