//! Filters as bytes, for commands that are about all records that a filter takes.
//!
//! ```text
//! filter := op u8, then   0 false | 1 true | 2 and: count u32, filter... | 3 or: the same | 4 not: filter | 5 is true: filter
//!                         | 6 equal: path, value | 7 in: path, count u32, value... | 8 range: path, ends u8, value...
//!                         | 9 exists: path | 10 is null: path | 11 prefix: path, string | 12 has element: path, value
//!                         | 13 has text: path, string
//! path   := count u16, string...              string := length u32, utf-8
//! value  := length u32, attributes (see `attributes`) of which the only one, without a name, is the value
//! ends   := 1 there is a low end | 2 it belongs to the range | 4 there is a high end | 8 it belongs to the range
//! ```
//!
//! All numbers are little-endian. What is read has been checked against the limits of filters.

use super::{FILTER_DEPTH_MAX, FILTER_NODES_MAX, Filter, Limit, Path, Range};
use crate::attributes::{self, Attributes, Value};

/// These bytes are no filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no filter")]
pub struct NoFilter;

impl Filter {
    /// Its bytes. None: a value in it is larger than attributes may be.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        encode(self, &mut bytes)?;
        Some(bytes)
    }

    /// The filter that these bytes are.
    pub fn decode(mut bytes: &[u8]) -> Result<Filter, NoFilter> {
        let filter = decode(&mut bytes, 1, &mut FILTER_NODES_MAX.clone())?;
        let whole = bytes.is_empty() && filter.check().is_ok();
        if whole { Ok(filter) } else { Err(NoFilter) }
    }
}

fn encode(filter: &Filter, to: &mut Vec<u8>) -> Option<()> {
    let many = |op, parts: &[Filter], to: &mut Vec<u8>| {
        to.push(op);
        to.extend_from_slice(&(parts.len() as u32).to_le_bytes());
        parts.iter().try_for_each(|part| encode(part, to))
    };
    match filter {
        Filter::Constant(known) => to.push(u8::from(*known)),
        Filter::And(parts) => many(2, parts, to)?,
        Filter::Or(parts) => many(3, parts, to)?,
        Filter::Not(part) => {
            to.push(4);
            encode(part, to)?;
        }
        Filter::IsTrue(part) => {
            to.push(5);
            encode(part, to)?;
        }
        Filter::Equal(path, value) => {
            encode_path(6, path, to);
            encode_value(value, to)?;
        }
        Filter::In(path, values) => {
            encode_path(7, path, to);
            to.extend_from_slice(&(values.len() as u32).to_le_bytes());
            values.iter().try_for_each(|value| encode_value(value, to))?;
        }
        Filter::Range(path, Range { low, high }) => {
            encode_path(8, path, to);
            let ends = |end: &Option<Limit>| end.as_ref().map_or(0, |end| 1 | u8::from(end.inclusive) << 1);
            to.push(ends(low) | ends(high) << 2);
            [low, high].into_iter().flatten().try_for_each(|end| encode_value(&end.value, to))?;
        }
        Filter::Exists(path) => encode_path(9, path, to),
        Filter::IsNull(path) => encode_path(10, path, to),
        Filter::Prefix(path, text) => {
            encode_path(11, path, to);
            encode_text(text, to);
        }
        Filter::HasElement(path, value) => {
            encode_path(12, path, to);
            encode_value(value, to)?;
        }
        Filter::HasText(path, text) => {
            encode_path(13, path, to);
            encode_text(text, to);
        }
    }
    Some(())
}

fn encode_path(op: u8, path: &Path, to: &mut Vec<u8>) {
    to.push(op);
    to.extend_from_slice(&(path.len() as u16).to_le_bytes());
    path.iter().for_each(|name| encode_text(name, to));
}

fn encode_text(text: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(&(text.len() as u32).to_le_bytes());
    to.extend_from_slice(text.as_bytes());
}

fn encode_value(value: &Value, to: &mut Vec<u8>) -> Option<()> {
    let bytes = attributes::encode(&Attributes::from([(String::new(), value.clone())])).ok()?;
    to.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    to.extend_from_slice(&bytes);
    Some(())
}

/// `left`: so many filters and values may still be read.
fn decode(bytes: &mut &[u8], depth: usize, left: &mut usize) -> Result<Filter, NoFilter> {
    *left = left.checked_sub(1).filter(|_| depth <= FILTER_DEPTH_MAX).ok_or(NoFilter)?;
    let mut many = |bytes: &mut &[u8]| {
        let count = u32::from_le_bytes(array(bytes)?);
        // A part takes a byte at least, so that nobody is promised more than there is.
        let mut parts = Vec::with_capacity((count as usize).min(bytes.len()).min(FILTER_NODES_MAX));
        for _ in 0..count {
            parts.push(decode(bytes, depth + 1, left)?);
        }
        Ok(parts)
    };
    let [op] = array(bytes)?;
    Ok(match op {
        0 | 1 => Filter::Constant(op == 1),
        2 => Filter::And(many(bytes)?),
        3 => Filter::Or(many(bytes)?),
        4 => Filter::Not(Box::new(decode(bytes, depth + 1, left)?)),
        5 => Filter::IsTrue(Box::new(decode(bytes, depth + 1, left)?)),
        6 => Filter::Equal(path(bytes)?, value(bytes)?),
        7 => {
            let path = path(bytes)?;
            let count = u32::from_le_bytes(array(bytes)?) as usize;
            *left = left.checked_sub(count).ok_or(NoFilter)?;
            Filter::In(path, (0..count).map(|_| value(bytes)).collect::<Result<_, _>>()?)
        }
        8 => {
            let path = path(bytes)?;
            let [ends] = array(bytes)?;
            let mut end = |ends: u8| match ends {
                0 => Ok(None),
                1 | 3 => Ok(Some(Limit { value: value(bytes)?, inclusive: ends == 3 })),
                _ => Err(NoFilter),
            };
            Filter::Range(path, Range { low: end(ends & 3)?, high: end(ends >> 2)? })
        }
        9 => Filter::Exists(path(bytes)?),
        10 => Filter::IsNull(path(bytes)?),
        11 => Filter::Prefix(path(bytes)?, text(bytes)?),
        12 => Filter::HasElement(path(bytes)?, value(bytes)?),
        13 => Filter::HasText(path(bytes)?, text(bytes)?),
        _ => return Err(NoFilter),
    })
}

fn path(bytes: &mut &[u8]) -> Result<Path, NoFilter> {
    let count = u16::from_le_bytes(array(bytes)?);
    (0..count).map(|_| text(bytes)).collect()
}

fn text(bytes: &mut &[u8]) -> Result<String, NoFilter> {
    let length = u32::from_le_bytes(array(bytes)?);
    String::from_utf8(slice(bytes, length as usize)?.to_vec()).map_err(|_| NoFilter)
}

fn value(bytes: &mut &[u8]) -> Result<Value, NoFilter> {
    let length = u32::from_le_bytes(array(bytes)?);
    let mut decoded = attributes::decode(slice(bytes, length as usize)?).ok_or(NoFilter)?;
    decoded.remove("").filter(|_| decoded.is_empty()).ok_or(NoFilter)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], NoFilter> {
    let (first, rest) = bytes.split_first_chunk().ok_or(NoFilter)?;
    *bytes = rest;
    Ok(*first)
}

fn slice<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], NoFilter> {
    let (first, rest) = bytes.split_at_checked(length).ok_or(NoFilter)?;
    *bytes = rest;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Filter {
        let path = |text: &str| text.split('.').map(String::from).collect::<Path>();
        let limit = |value, inclusive| Some(Limit { value, inclusive });
        Filter::And(vec![
            Filter::Or(vec![Filter::Constant(true), Filter::Constant(false)]),
            Filter::Not(Box::new(Filter::IsTrue(Box::new(Filter::Equal(path("a.b"), Value::Int(-7)))))),
            Filter::In(path("c"), vec![Value::String("x".into()), Value::Bool(true), Value::Null]),
            Filter::Range(path("d"), Range { low: limit(Value::Float(1.5), true), high: None }),
            Filter::Range(path("d"), Range { low: None, high: limit(Value::Timestamp(9), false) }),
            Filter::Range(path("d"), Range { low: limit(Value::Int(1), false), high: limit(Value::Int(2), true) }),
            Filter::Exists(path("e")),
            Filter::IsNull(path("f")),
            Filter::Prefix(path("g"), "pre".into()),
            Filter::HasElement(path("tags"), Value::List(vec![Value::Int(1)])),
            Filter::HasText(path("h"), "t\u{e9}xt".into()),
        ])
    }

    #[test]
    fn what_was_encoded_is_read() {
        let filter = sample();
        let bytes = filter.encode().unwrap();
        assert_eq!(Filter::decode(&bytes), Ok(filter));
    }

    #[test]
    fn the_bytes_never_change() {
        let hex: String = sample().encode().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../golden/filter-1.hex").trim());
    }

    #[test]
    fn damaged_bytes_are_never_a_panic() {
        let bytes = sample().encode().unwrap();
        for len in 0..bytes.len() {
            assert_eq!(Filter::decode(&bytes[..len]), Err(NoFilter), "cut at {len}");
        }
        assert_eq!(Filter::decode(&[&bytes[..], &[0]].concat()), Err(NoFilter));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let _ = Filter::decode(&damaged);
        }
    }

    #[test]
    fn limits_hold() {
        let mut deep = Filter::Constant(true);
        for _ in 0..FILTER_DEPTH_MAX - 1 {
            deep = Filter::Not(Box::new(deep));
        }
        assert!(Filter::decode(&deep.encode().unwrap()).is_ok());
        assert_eq!(Filter::decode(&Filter::Not(Box::new(deep)).encode().unwrap()), Err(NoFilter));
        assert_eq!(Filter::decode(&[4; 1 << 20]), Err(NoFilter));
        let wide = Filter::Or(vec![Filter::Constant(true); FILTER_NODES_MAX]);
        assert_eq!(Filter::decode(&wide.encode().unwrap()), Err(NoFilter));
        let claimed = [&[7][..], &1u16.to_le_bytes(), &1u32.to_le_bytes(), b"a", &u32::MAX.to_le_bytes()].concat();
        assert_eq!(Filter::decode(&claimed), Err(NoFilter));
    }
}
