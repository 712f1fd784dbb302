//! What a record is filtered by: a tree of named values, and its canonical bytes.
//!
//! ```text
//! value := tag u8, then   0 null | 1 false | 2 true | 3 int i64 | 4 float f64 | 5 string | 6 timestamp i64
//!                         | 7 list: bytes u32, count u32, value...
//!                         | 8 map:  bytes u32, count u32, (string, value)...     names ascending, each once
//! string := length u32, utf-8
//! ```
//!
//! All numbers are little-endian. `bytes` counts what follows the `count`, so a reader can step over a list or a map
//! without looking into it. A record's attributes are one map; no attributes are no bytes at all.
//!
//! Always: equal attributes have equal bytes (names are sorted, -0.0 is written as 0.0, there is no NaN). Reading never panics: bytes
//! that are not ours read as "not there".

use std::collections::BTreeMap;

use crate::record::{ATTRIBUTES_BYTES_MAX, ATTRIBUTES_DEPTH_MAX};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Present, and nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite or infinite number; never NaN.
    Float(f64),
    /// Text.
    String(String),
    /// Microseconds since 1970.
    Timestamp(i64),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name.
    Map(Attributes),
}

/// Values by name.
pub type Attributes = BTreeMap<String, Value>;

/// Why attributes cannot be stored.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AttributesError {
    /// They nest deeper than a record's may.
    #[error("attribute {0:?} nests deeper than {ATTRIBUTES_DEPTH_MAX} levels; flatten it")]
    TooDeep(String),
    /// They take more bytes than a record's may.
    #[error("attributes take {0} bytes, more than {ATTRIBUTES_BYTES_MAX}; move large parts into the value")]
    TooLarge(usize),
    /// A number is not one.
    #[error("attribute {0:?} is not a number (NaN); leave it out or use null")]
    NotANumber(String),
}

/// A value where it lies in its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ValueRef<'a> {
    /// See [`Value::Null`].
    Null,
    /// See [`Value::Bool`].
    Bool(bool),
    /// See [`Value::Int`].
    Int(i64),
    /// See [`Value::Float`].
    Float(f64),
    /// See [`Value::String`].
    String(&'a str),
    /// See [`Value::Timestamp`].
    Timestamp(i64),
    /// See [`Value::List`].
    List(ListRef<'a>),
    /// See [`Value::Map`].
    Map(MapRef<'a>),
}

/// A list where it lies in its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ListRef<'a> {
    count: u32,
    bytes: &'a [u8],
}

/// A map where it lies in its bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MapRef<'a> {
    count: u32,
    bytes: &'a [u8],
}

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const INT: u8 = 3;
const FLOAT: u8 = 4;
const STRING: u8 = 5;
const TIMESTAMP: u8 = 6;
const LIST: u8 = 7;
const MAP: u8 = 8;

/// The canonical bytes of a record's attributes.
pub fn encode(attributes: &Attributes) -> Result<Vec<u8>, AttributesError> {
    if attributes.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    encode_map(attributes, 1, "", &mut bytes)?;
    if bytes.len() > ATTRIBUTES_BYTES_MAX {
        return Err(AttributesError::TooLarge(bytes.len()));
    }
    Ok(bytes)
}

/// The attributes that `bytes` stand for, or `None` if they are not ours.
pub fn decode(bytes: &[u8]) -> Option<Attributes> {
    if bytes.is_empty() {
        return Some(Attributes::new());
    }
    let mut reader = Reader(bytes);
    let ValueRef::Map(map) = reader.value()? else { return None };
    if !reader.0.is_empty() {
        return None;
    }
    own_map(map, 1)
}

/// The map that `bytes` stand for. Empty bytes are an empty map.
pub fn map(bytes: &[u8]) -> Option<MapRef<'_>> {
    if bytes.is_empty() {
        return Some(MapRef { count: 0, bytes: &[] });
    }
    match Reader(bytes).value()? {
        ValueRef::Map(map) => Some(map),
        _ => None,
    }
}

/// Follows `path` from the top. `None`: there is nothing there.
pub fn lookup<'a>(bytes: &'a [u8], path: &[String]) -> Option<ValueRef<'a>> {
    let mut value = ValueRef::Map(map(bytes)?);
    for name in path {
        let ValueRef::Map(map) = value else { return None };
        value = map.get(name)?;
    }
    Some(value)
}

/// A path as users write it: names joined by dots, and a backslash before a dot or a backslash that is part of a name.
pub fn path_text(path: &[String]) -> String {
    let mut text = String::new();
    for (place, name) in path.iter().enumerate() {
        if place > 0 {
            text.push('.');
        }
        for character in name.chars() {
            if matches!(character, '.' | '\\') {
                text.push('\\');
            }
            text.push(character);
        }
    }
    text
}

/// What `over` says replaces what `under` says, name by name at the top level; then the names in `remove` go.
///
/// The bytes of both are canonical, and so are the merged ones. The caller checks their length.
pub fn merge<'a>(under: &[u8], over: &[u8], remove: impl Iterator<Item = &'a str> + Clone) -> Option<Vec<u8>> {
    let mut values: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for part in [under, over] {
        let mut reader = Reader(map(part)?.bytes);
        while !reader.0.is_empty() {
            let name = reader.string()?;
            let before = reader.0;
            reader.value()?;
            values.insert(name, &before[..before.len() - reader.0.len()]);
        }
    }
    for name in remove {
        values.remove(name);
    }
    if values.is_empty() {
        return Some(Vec::new());
    }
    let mut bytes = vec![MAP];
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&u32::try_from(values.len()).ok()?.to_le_bytes());
    for (name, value) in values {
        encode_string(name, &mut bytes);
        bytes.extend_from_slice(value);
    }
    fill_length(&mut bytes, 1);
    Some(bytes)
}

fn encode_map(map: &Attributes, depth: usize, name: &str, bytes: &mut Vec<u8>) -> Result<(), AttributesError> {
    bytes.push(MAP);
    let length_at = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&count(map.len())?.to_le_bytes());
    for (name, value) in map {
        encode_string(name, bytes);
        encode_value(value, depth, name, bytes)?;
    }
    fill_length(bytes, length_at);
    debug_assert!(depth <= ATTRIBUTES_DEPTH_MAX, "{name}");
    Ok(())
}

fn encode_value(value: &Value, depth: usize, name: &str, bytes: &mut Vec<u8>) -> Result<(), AttributesError> {
    if bytes.len() > ATTRIBUTES_BYTES_MAX {
        return Err(AttributesError::TooLarge(bytes.len()));
    }
    match value {
        Value::Null => bytes.push(NULL),
        Value::Bool(false) => bytes.push(FALSE),
        Value::Bool(true) => bytes.push(TRUE),
        Value::Int(number) => {
            bytes.push(INT);
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Value::Float(number) if number.is_nan() => return Err(AttributesError::NotANumber(name.into())),
        Value::Float(number) => {
            bytes.push(FLOAT);
            // -0.0 + 0.0 is 0.0: equal numbers have equal bytes.
            bytes.extend_from_slice(&(number + 0.0).to_le_bytes());
        }
        Value::String(text) => {
            if text.len() > ATTRIBUTES_BYTES_MAX {
                return Err(AttributesError::TooLarge(text.len()));
            }
            bytes.push(STRING);
            encode_string(text, bytes);
        }
        Value::Timestamp(micros) => {
            bytes.push(TIMESTAMP);
            bytes.extend_from_slice(&micros.to_le_bytes());
        }
        Value::List(_) | Value::Map(_) if depth == ATTRIBUTES_DEPTH_MAX => {
            return Err(AttributesError::TooDeep(name.into()));
        }
        Value::List(values) => {
            bytes.push(LIST);
            let length_at = bytes.len();
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&count(values.len())?.to_le_bytes());
            for value in values {
                encode_value(value, depth + 1, name, bytes)?;
            }
            fill_length(bytes, length_at);
        }
        Value::Map(map) => encode_map(map, depth + 1, name, bytes)?,
    }
    Ok(())
}

/// Counts beyond what attributes may hold are caught here, lengths by the caller's limit.
fn count(len: usize) -> Result<u32, AttributesError> {
    if len > ATTRIBUTES_BYTES_MAX {
        return Err(AttributesError::TooLarge(len));
    }
    Ok(len as u32)
}

fn encode_string(text: &str, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Writes how many bytes follow the count, whose place is right behind the length's.
fn fill_length(bytes: &mut [u8], length_at: usize) {
    let length = (bytes.len() - length_at - 8) as u32;
    bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn i64(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn value(&mut self) -> Option<ValueRef<'a>> {
        Some(match self.take(1)?[0] {
            NULL => ValueRef::Null,
            FALSE => ValueRef::Bool(false),
            TRUE => ValueRef::Bool(true),
            INT => ValueRef::Int(self.i64()?),
            FLOAT => ValueRef::Float(f64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            STRING => ValueRef::String(self.string()?),
            TIMESTAMP => ValueRef::Timestamp(self.i64()?),
            tag @ (LIST | MAP) => {
                let len = self.u32()? as usize;
                let count = self.u32()?;
                let bytes = self.take(len)?;
                match tag {
                    LIST => ValueRef::List(ListRef { count, bytes }),
                    _ => ValueRef::Map(MapRef { count, bytes }),
                }
            }
            _ => return None,
        })
    }
}

impl<'a> ListRef<'a> {
    /// How many values.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The values in order.
    pub fn iter(&self) -> impl Iterator<Item = ValueRef<'a>> + use<'a> {
        let mut reader = Reader(self.bytes);
        std::iter::from_fn(move || reader.value())
    }
}

impl<'a> MapRef<'a> {
    /// How many names.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values, ascending by name.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, ValueRef<'a>)> + use<'a> {
        let mut reader = Reader(self.bytes);
        std::iter::from_fn(move || Some((reader.string()?, reader.value()?)))
    }

    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<ValueRef<'a>> {
        self.iter().find(|&(found, _)| found == name).map(|(_, value)| value)
    }
}

impl ValueRef<'_> {
    /// A copy that stands alone. `None` if its bytes are not ours.
    pub fn to_value(self) -> Option<Value> {
        own(self, 0)
    }
}

fn own(value: ValueRef<'_>, depth: usize) -> Option<Value> {
    if depth > ATTRIBUTES_DEPTH_MAX {
        return None;
    }
    Some(match value {
        ValueRef::Null => Value::Null,
        ValueRef::Bool(bool) => Value::Bool(bool),
        ValueRef::Int(number) => Value::Int(number),
        ValueRef::Float(number) => Value::Float(number),
        ValueRef::String(text) => Value::String(text.into()),
        ValueRef::Timestamp(micros) => Value::Timestamp(micros),
        ValueRef::List(list) => {
            let mut reader = Reader(list.bytes);
            let mut values = Vec::new();
            while !reader.0.is_empty() {
                values.push(own(reader.value()?, depth + 1)?);
            }
            if values.len() != list.len() {
                return None;
            }
            Value::List(values)
        }
        ValueRef::Map(map) => Value::Map(own_map(map, depth + 1)?),
    })
}

fn own_map(map: MapRef<'_>, depth: usize) -> Option<Attributes> {
    let mut reader = Reader(map.bytes);
    let mut values = Attributes::new();
    while !reader.0.is_empty() {
        let name = reader.string()?.to_owned();
        if values.last_key_value().is_some_and(|(last, _)| *last >= name) {
            return None;
        }
        values.insert(name, own(reader.value()?, depth)?);
    }
    (values.len() == map.len()).then_some(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Attributes {
        Attributes::from([
            ("none".into(), Value::Null),
            ("yes".into(), Value::Bool(true)),
            ("n".into(), Value::Int(-7)),
            ("x".into(), Value::Float(1.5)),
            ("text".into(), Value::String("caf\u{e9}".into())),
            ("at".into(), Value::Timestamp(1_700_000_000_000_000)),
            ("list".into(), Value::List(vec![Value::Int(1), Value::String("a".into()), Value::List(vec![])])),
            ("map".into(), Value::Map(Attributes::from([("inner".into(), Value::Int(3))]))),
        ])
    }

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(String::from).collect()
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(decode(&encode(&sample()).unwrap()).unwrap(), sample());
        assert_eq!(encode(&Attributes::new()).unwrap(), Vec::<u8>::new());
        assert_eq!(decode(&[]).unwrap(), Attributes::new());
    }

    #[test]
    fn version_1_never_changes() {
        let attributes = Attributes::from([("a".into(), Value::Int(1)), ("b".into(), Value::List(vec![Value::Null]))]);
        let golden = [
            8, 29, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, b'a', 3, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, b'b', 7, 1, 0, 0, 0,
            1, 0, 0, 0, 0,
        ];
        assert_eq!(encode(&attributes).unwrap(), golden);
    }

    #[test]
    fn a_path_finds_what_is_there() {
        let bytes = encode(&sample()).unwrap();
        assert_eq!(lookup(&bytes, &path("map.inner")), Some(ValueRef::Int(3)));
        assert_eq!(lookup(&bytes, &path("none")), Some(ValueRef::Null));
        assert_eq!(lookup(&bytes, &path("map.other")), None);
        assert_eq!(lookup(&bytes, &path("n.inner")), None);
        assert_eq!(lookup(&[], &path("n")), None);
    }

    #[test]
    fn a_path_is_written_so_that_it_can_be_read_back() {
        assert_eq!(path_text(&path("map.inner")), "map.inner");
        assert_eq!(path_text(&["a.b".into(), "c\\".into()]), r"a\.b.c\\");
    }

    #[test]
    fn merging_replaces_adds_and_removes() {
        let under = encode(&sample()).unwrap();
        let over = encode(&Attributes::from([("n".into(), Value::Int(8)), ("new".into(), Value::Null)])).unwrap();
        let mut expected = sample();
        expected.insert("n".into(), Value::Int(8));
        expected.insert("new".into(), Value::Null);
        expected.remove("map");
        let merged = merge(&under, &over, ["map", "absent"].into_iter()).unwrap();
        assert_eq!(merged, encode(&expected).unwrap());
        assert_eq!(merge(&[], &[], [].into_iter()).unwrap(), Vec::<u8>::new());
        assert_eq!(merge(&over, &[], ["n", "new"].into_iter()).unwrap(), Vec::<u8>::new());
    }

    #[test]
    fn too_deep_and_nan_are_refused() {
        let mut value = Value::Int(1);
        for _ in 0..ATTRIBUTES_DEPTH_MAX - 1 {
            value = Value::List(vec![value]);
        }
        assert!(encode(&Attributes::from([("a".into(), value.clone())])).is_ok());
        let deeper = Attributes::from([("a".into(), Value::List(vec![value]))]);
        assert_eq!(encode(&deeper), Err(AttributesError::TooDeep("a".into())));
        let nan = Attributes::from([("a".into(), Value::Float(f64::NAN))]);
        assert_eq!(encode(&nan), Err(AttributesError::NotANumber("a".into())));
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let bytes = encode(&sample()).unwrap();
        for len in 0..bytes.len() {
            assert!(len == 0 || decode(&bytes[..len]).is_none(), "cut at {len}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&damaged);
            let _ = lookup(&damaged, &path("map.inner"));
            let _ = merge(&damaged, &bytes, [].into_iter());
        }
    }
}
