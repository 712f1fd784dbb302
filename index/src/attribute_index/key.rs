//! The key of a value: bytes that sort as the values compare, equal where they are equal.
//!
//! ```text
//!   1 | 0 or 1                        false, true
//!   2 | f64                           numbers below every i64
//!   3 | i64 | nothing or f64          numbers from there on: the greatest whole number that is not above, and, unless it
//!                                     is that number, the number itself
//!   4 | bytes                         texts
//!   5 | i64                           timestamps
//! ```
//!
//! An i64 stands with its sign turned, most significant byte first; so does an f64, with all other bits turned too if it is
//! negative. Where one key begins like another, the shorter one comes first. So an int and a float that are the same number
//! have the same key, and no two numbers that differ do. What has no order and equals nothing has no key: null, lists, maps.

use crate::attributes::{Value, ValueRef};

/// A longer text has no key of its own: rows with one are looked at.
pub const INDEXED_TEXT_BYTES_MAX: usize = 1 << 12;

/// What kind of value a row has, as far as filters tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null = 0,
    Bool = 1,
    Number = 2,
    Text = 3,
    Timestamp = 4,
    List = 5,
    /// Equals nothing and has no order: maps.
    Other = 6,
}

/// How many kinds there are.
pub(super) const KINDS: usize = 7;

const BOOL: u8 = 1;
const BELOW: u8 = 2;
const NUMBER: u8 = 3;
const TEXT: u8 = 4;
const TIMESTAMP: u8 = 5;

const SIGN: u64 = 1 << 63;
const TWO_63: f64 = 9_223_372_036_854_775_808.0;

/// A value's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// Equals nothing that a filter can name.
    None,
    Bytes(Vec<u8>),
    /// A text too long for a key.
    Long,
}

fn ordered_int(int: i64) -> [u8; 8] {
    (int as u64 ^ SIGN).to_be_bytes()
}

fn ordered_float(float: f64) -> [u8; 8] {
    // -0.0 + 0.0 is 0.0.
    let bits = (float + 0.0).to_bits();
    (if bits & SIGN == 0 { bits | SIGN } else { !bits }).to_be_bytes()
}

fn int_key(int: i64) -> Key {
    let mut bytes = vec![NUMBER];
    bytes.extend(ordered_int(int));
    Key::Bytes(bytes)
}

fn float_key(float: f64) -> Key {
    if float.is_nan() {
        return Key::None;
    }
    let mut bytes = Vec::with_capacity(17);
    if float < -TWO_63 {
        bytes.push(BELOW);
        bytes.extend(ordered_float(float));
        return Key::Bytes(bytes);
    }
    let below = float.floor();
    let above_all = float >= TWO_63;
    bytes.push(NUMBER);
    bytes.extend(ordered_int(if above_all { i64::MAX } else { below as i64 }));
    if above_all || below != float {
        bytes.extend(ordered_float(float));
    }
    Key::Bytes(bytes)
}

/// The first key of all texts that begin with this.
pub(super) fn text_key(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + text.len());
    bytes.push(TEXT);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// The text that has this key.
pub(super) fn text_of(key: &[u8]) -> Option<&[u8]> {
    match key {
        [TEXT, text @ ..] => Some(text),
        _ => None,
    }
}

/// The kind and the key of a value that is there.
pub(super) fn of_ref(value: ValueRef<'_>) -> (Kind, Key) {
    match value {
        ValueRef::Null => (Kind::Null, Key::None),
        ValueRef::Bool(is) => (Kind::Bool, Key::Bytes(vec![BOOL, u8::from(is)])),
        ValueRef::Int(int) => (Kind::Number, int_key(int)),
        // Stored attributes have none, but damaged ones might.
        ValueRef::Float(float) if float.is_nan() => (Kind::Other, Key::None),
        ValueRef::Float(float) => (Kind::Number, float_key(float)),
        ValueRef::String(text) if text.len() > INDEXED_TEXT_BYTES_MAX => (Kind::Text, Key::Long),
        ValueRef::String(text) => (Kind::Text, Key::Bytes(text_key(text))),
        ValueRef::Timestamp(micros) => {
            let mut bytes = vec![TIMESTAMP];
            bytes.extend(ordered_int(micros));
            (Kind::Timestamp, Key::Bytes(bytes))
        }
        ValueRef::List(_) => (Kind::List, Key::None),
        ValueRef::Map(_) => (Kind::Other, Key::None),
    }
}

/// The kind and the key of a value that a filter names. A number that is none is of no kind.
pub(super) fn of_value(value: &Value) -> (Kind, Key) {
    match value {
        Value::Null => (Kind::Null, Key::None),
        Value::Bool(is) => of_ref(ValueRef::Bool(*is)),
        Value::Int(int) => of_ref(ValueRef::Int(*int)),
        Value::Float(float) => of_ref(ValueRef::Float(*float)),
        Value::String(text) => of_ref(ValueRef::String(text)),
        Value::Timestamp(micros) => of_ref(ValueRef::Timestamp(*micros)),
        Value::List(_) => (Kind::List, Key::None),
        Value::Map(_) => (Kind::Other, Key::None),
    }
}

/// The tags of the keys that a kind's values have, the first and the last.
pub(super) fn tags(kind: Kind) -> Option<(u8, u8)> {
    match kind {
        Kind::Bool => Some((BOOL, BOOL)),
        Kind::Number => Some((BELOW, NUMBER)),
        Kind::Text => Some((TEXT, TEXT)),
        Kind::Timestamp => Some((TIMESTAMP, TIMESTAMP)),
        Kind::Null | Kind::List | Kind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;

    #[test]
    fn keys_of_numbers_sort_as_the_exact_numbers_do() {
        // Ascending; those in one row are one number.
        let rows: Vec<Vec<Value>> = vec![
            vec![Value::Float(f64::NEG_INFINITY)],
            vec![Value::Float(-1e300)],
            vec![Value::Float(-9_223_372_036_854_777_856.0)],
            vec![Value::Int(i64::MIN), Value::Float(-9_223_372_036_854_775_808.0)],
            vec![Value::Int(i64::MIN + 1)],
            vec![Value::Float(-9_007_199_254_740_993.0), Value::Int(-9_007_199_254_740_992)],
            vec![Value::Int(-2), Value::Float(-2.0)],
            vec![Value::Float(-1.5)],
            vec![Value::Int(-1)],
            vec![Value::Float(-0.5)],
            vec![Value::Float(-1e-300)],
            vec![Value::Float(-f64::from_bits(1))],
            vec![Value::Int(0), Value::Float(0.0), Value::Float(-0.0)],
            vec![Value::Float(f64::from_bits(1))],
            vec![Value::Float(0.1)],
            vec![Value::Int(1)],
            vec![Value::Float(1.0 + f64::EPSILON)],
            vec![Value::Int((1 << 53) + 1)],
            vec![Value::Int(i64::MAX - 1)],
            vec![Value::Int(i64::MAX)],
            vec![Value::Float(9_223_372_036_854_775_807.0)],
            vec![Value::Float(1e300)],
            vec![Value::Float(f64::INFINITY)],
        ];
        let keys: Vec<(usize, Vec<u8>)> = (0..)
            .zip(&rows)
            .flat_map(|(place, row)| {
                row.iter().map(move |value| match of_value(value) {
                    (Kind::Number, Key::Bytes(key)) => (place, key),
                    other => panic!("{value:?}: {other:?}"),
                })
            })
            .collect();
        for (a, key_a) in &keys {
            for (b, key_b) in &keys {
                assert_eq!(a.cmp(b), key_a.cmp(key_b), "{a} {b}");
            }
        }
    }

    #[test]
    fn kinds_do_not_mix_and_long_texts_have_no_key() {
        let keys = [Value::Bool(true), Value::Float(1e300), Value::String(String::new()), Value::Timestamp(i64::MIN)];
        let keys = keys.map(|value| match of_value(&value).1 {
            Key::Bytes(key) => key,
            other => panic!("{value:?}: {other:?}"),
        });
        for pair in keys.windows(2) {
            assert_eq!(pair[0].cmp(&pair[1]), Ordering::Less);
        }
        let text = |len| of_value(&Value::String("x".repeat(len))).1;
        assert!(matches!(text(INDEXED_TEXT_BYTES_MAX), Key::Bytes(_)));
        assert_eq!(text(INDEXED_TEXT_BYTES_MAX + 1), Key::Long);
        assert_eq!(of_value(&Value::Float(f64::NAN)), (Kind::Other, Key::None));
    }
}
