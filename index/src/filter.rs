//! Which records a read is about: one expression tree that every door's language is lowered to.
//!
//! Three-valued, as SQL and Kleene have it: a comparison with something that is not there is *unknown*, `not` unknown
//! is unknown, `and` and `or` know what they can know. A record is taken if the whole is *true*. [`Filter::IsTrue`]
//! turns unknown into false inside a tree; `not` around it is how "differs, or has no such attribute" is said.
//!
//! Rules of comparison: int and float compare as the exact numbers they are; a value of another kind is not equal, and
//! has no order (unknown); null equals nothing and has no order (unknown); lists and maps equal nothing.

mod bytes;

use std::cmp::Ordering;

pub use bytes::NoFilter;

use crate::attributes::{self, Value, ValueRef};

/// How deep filters may nest.
pub const FILTER_DEPTH_MAX: usize = 32;
/// The most expressions and listed values of one filter, all levels together.
pub const FILTER_NODES_MAX: usize = 10_000;

/// Names from the top of the attributes down to a value.
pub type Path = Vec<String>;

/// An expression about a record's attributes.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// True or false, whatever the record.
    Constant(bool),
    /// All of them. Of none: true.
    And(Vec<Filter>),
    /// At least one of them. Of none: false.
    Or(Vec<Filter>),
    /// The opposite; unknown stays unknown.
    Not(Box<Filter>),
    /// True if it is true, false if it is false or unknown.
    IsTrue(Box<Filter>),
    /// The value there is equal to this.
    Equal(Path, Value),
    /// The value there is equal to one of these.
    In(Path, Vec<Value>),
    /// The value there lies between these.
    Range(Path, Range),
    /// Something is there, if only null. Never unknown.
    Exists(Path),
    /// There is a null. Never unknown.
    IsNull(Path),
    /// The text there begins with this.
    Prefix(Path, String),
    /// The list there has an element that is equal to this.
    HasElement(Path, Value),
    /// The text there has this in it.
    HasText(Path, String),
}

/// An interval. A missing end is open.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Range {
    /// Not below this, or, if exclusive, above it.
    pub low: Option<Limit>,
    /// Not above this, or, if exclusive, below it.
    pub high: Option<Limit>,
}

/// One end of an interval.
#[derive(Debug, Clone, PartialEq)]
pub struct Limit {
    /// Where it ends.
    pub value: Value,
    /// Whether the end itself belongs to it.
    pub inclusive: bool,
}

/// Why a filter is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// It nests deeper than a filter may.
    #[error("filter nests deeper than {FILTER_DEPTH_MAX} levels; flatten it (and/or take any number of parts)")]
    TooDeep,
    /// It is larger than a filter may be.
    #[error("filter has more than {FILTER_NODES_MAX} expressions and values; split the request")]
    TooLarge,
    /// A path names nothing.
    #[error("filter has an empty path; name an attribute such as \"source\" or \"author.name\"")]
    EmptyPath,
}

impl Filter {
    /// Checks the limits once, so that nobody past the door has to.
    pub fn check(&self) -> Result<(), FilterError> {
        let mut nodes = 0;
        self.check_from(1, &mut nodes)
    }

    fn check_from(&self, depth: usize, nodes: &mut usize) -> Result<(), FilterError> {
        if depth > FILTER_DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        *nodes += match self {
            Filter::In(_, values) => 1 + values.len(),
            _ => 1,
        };
        if *nodes > FILTER_NODES_MAX {
            return Err(FilterError::TooLarge);
        }
        match self {
            Filter::Constant(_) => Ok(()),
            Filter::And(parts) | Filter::Or(parts) => {
                parts.iter().try_for_each(|part| part.check_from(depth + 1, nodes))
            }
            Filter::Not(part) | Filter::IsTrue(part) => part.check_from(depth + 1, nodes),
            Filter::Equal(path, _)
            | Filter::In(path, _)
            | Filter::Range(path, _)
            | Filter::Exists(path)
            | Filter::IsNull(path)
            | Filter::Prefix(path, _)
            | Filter::HasElement(path, _)
            | Filter::HasText(path, _) => {
                if path.is_empty() || path.iter().any(String::is_empty) {
                    Err(FilterError::EmptyPath)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Whether a record with these encoded attributes is taken.
    pub fn takes(&self, attributes: &[u8]) -> bool {
        self.evaluate(attributes) == Some(true)
    }

    /// True, false, or unknown.
    pub fn evaluate(&self, attributes: &[u8]) -> Option<bool> {
        let at = |path: &Path| attributes::lookup(attributes, path);
        match self {
            Filter::Constant(known) => Some(*known),
            Filter::And(parts) => kleene(parts, attributes, false),
            Filter::Or(parts) => kleene(parts, attributes, true),
            Filter::Not(part) => part.evaluate(attributes).map(|known| !known),
            Filter::IsTrue(part) => Some(part.takes(attributes)),
            Filter::Equal(path, value) => equal(at(path)?, value),
            Filter::In(path, values) => {
                let found = at(path)?;
                if found == ValueRef::Null {
                    return None;
                }
                Some(values.iter().any(|value| equal(found, value) == Some(true)))
            }
            Filter::Range(path, range) => {
                let found = at(path)?;
                let mut inside = true;
                for (limit, outside) in [(&range.low, Ordering::Less), (&range.high, Ordering::Greater)] {
                    if let Some(limit) = limit {
                        let order = compare(found, &limit.value)?;
                        inside &= order != outside && (limit.inclusive || order != Ordering::Equal);
                    }
                }
                if found == ValueRef::Null { None } else { Some(inside) }
            }
            Filter::Exists(path) => Some(at(path).is_some()),
            Filter::IsNull(path) => Some(at(path) == Some(ValueRef::Null)),
            Filter::Prefix(path, prefix) => text(at(path)?).map(|text| text.starts_with(prefix.as_str())),
            Filter::HasText(path, part) => text(at(path)?).map(|text| text.contains(part.as_str())),
            Filter::HasElement(path, value) => match at(path)? {
                ValueRef::List(list) => Some(list.iter().any(|element| equal(element, value) == Some(true))),
                _ => None,
            },
        }
    }
}

/// `and` decides at the first false, `or` at the first true; otherwise one unknown makes the whole unknown.
fn kleene(parts: &[Filter], attributes: &[u8], decides: bool) -> Option<bool> {
    let mut unknown = false;
    for part in parts {
        match part.evaluate(attributes) {
            Some(known) if known == decides => return Some(decides),
            Some(_) => {}
            None => unknown = true,
        }
    }
    if unknown { None } else { Some(!decides) }
}

fn text(value: ValueRef<'_>) -> Option<&str> {
    match value {
        ValueRef::String(text) => Some(text),
        _ => None,
    }
}

fn equal(found: ValueRef<'_>, wanted: &Value) -> Option<bool> {
    match (found, wanted) {
        (ValueRef::Null, _) | (_, Value::Null) => None,
        (ValueRef::Bool(a), Value::Bool(b)) => Some(a == *b),
        _ => Some(compare(found, wanted) == Some(Ordering::Equal)),
    }
}

fn compare(found: ValueRef<'_>, wanted: &Value) -> Option<Ordering> {
    match (found, wanted) {
        (ValueRef::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (ValueRef::Float(a), Value::Float(b)) => a.partial_cmp(b),
        (ValueRef::Int(a), Value::Float(b)) => compare_exactly(a, *b),
        (ValueRef::Float(a), Value::Int(b)) => compare_exactly(*b, a).map(Ordering::reverse),
        (ValueRef::String(a), Value::String(b)) => Some(a.cmp(b.as_str())),
        (ValueRef::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// Not through f64 alone, which cannot tell large integers apart.
fn compare_exactly(int: i64, float: f64) -> Option<Ordering> {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    if float.is_nan() {
        None
    } else if float >= TWO_63 {
        Some(Ordering::Less)
    } else if float < -TWO_63 {
        Some(Ordering::Greater)
    } else {
        let whole = float.trunc();
        Some(int.cmp(&(whole as i64)).then(if float > whole {
            Ordering::Less
        } else if float < whole {
            Ordering::Greater
        } else {
            Ordering::Equal
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;

    fn record() -> Vec<u8> {
        let inner = Attributes::from([("year".into(), Value::Int(2026))]);
        attributes::encode(&Attributes::from([
            ("kind".into(), Value::String("noun".into())),
            ("size".into(), Value::Int(9_223_372_036_854_775_807)),
            ("score".into(), Value::Float(2.0)),
            ("none".into(), Value::Null),
            ("ok".into(), Value::Bool(true)),
            ("tags".into(), Value::List(vec![Value::String("a".into()), Value::Int(3)])),
            ("meta".into(), Value::Map(inner)),
        ]))
        .unwrap()
    }

    fn path(text: &str) -> Path {
        text.split('.').map(String::from).collect()
    }

    fn check(filter: Filter, expected: Option<bool>) {
        assert_eq!(filter.evaluate(&record()), expected, "{filter:?}");
    }

    fn eq(at: &str, value: Value) -> Filter {
        Filter::Equal(path(at), value)
    }

    fn not(part: Filter) -> Filter {
        Filter::Not(Box::new(part))
    }

    #[test]
    fn comparisons_are_exact_and_know_what_they_do_not_know() {
        check(eq("kind", Value::String("noun".into())), Some(true));
        check(eq("kind", Value::Int(1)), Some(false));
        check(eq("size", Value::Int(i64::MAX)), Some(true));
        check(eq("size", Value::Float(9_223_372_036_854_775_807.0)), Some(false));
        check(eq("score", Value::Int(2)), Some(true));
        check(eq("ok", Value::Bool(true)), Some(true));
        check(eq("ok", Value::Int(1)), Some(false));
        check(eq("missing", Value::Int(1)), None);
        check(eq("none", Value::Null), None);
        check(not(eq("missing", Value::Int(1))), None);
        check(not(Filter::IsTrue(Box::new(eq("missing", Value::Int(1))))), Some(true));
        check(Filter::In(path("kind"), vec![Value::Int(1), Value::String("noun".into())]), Some(true));
        check(Filter::In(path("kind"), vec![]), Some(false));
        check(Filter::In(path("none"), vec![Value::Int(1)]), None);
        check(eq("meta.year", Value::Float(2026.0)), Some(true));
    }

    #[test]
    fn and_or_follow_kleene() {
        let [yes, no, unknown] = [Filter::Constant(true), Filter::Constant(false), eq("missing", Value::Int(1))];
        let parts = [(yes, Some(true)), (no, Some(false)), (unknown, None)];
        for (a, known_a) in &parts {
            for (b, known_b) in &parts {
                let and = match (known_a, known_b) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                };
                let or = match (known_a, known_b) {
                    (Some(true), _) | (_, Some(true)) => Some(true),
                    (Some(false), Some(false)) => Some(false),
                    _ => None,
                };
                check(Filter::And(vec![a.clone(), b.clone()]), and);
                check(Filter::Or(vec![a.clone(), b.clone()]), or);
            }
        }
        check(Filter::And(vec![]), Some(true));
        check(Filter::Or(vec![]), Some(false));
    }

    #[test]
    fn ranges_include_the_ends_they_say() {
        let limit = |value, inclusive| Some(Limit { value, inclusive });
        let range = |low, high| Filter::Range(path("score"), Range { low, high });
        check(range(limit(Value::Int(2), true), None), Some(true));
        check(range(limit(Value::Int(2), false), None), Some(false));
        check(range(limit(Value::Float(1.9), false), limit(Value::Int(2), true)), Some(true));
        check(range(None, limit(Value::Int(2), false)), Some(false));
        check(range(limit(Value::String("a".into()), true), None), None);
        check(range(None, None), Some(true));
        check(Filter::Range(path("none"), Range::default()), None);
    }

    #[test]
    fn existence_text_and_elements() {
        check(Filter::Exists(path("none")), Some(true));
        check(Filter::Exists(path("missing")), Some(false));
        check(Filter::IsNull(path("none")), Some(true));
        check(Filter::IsNull(path("missing")), Some(false));
        check(Filter::Prefix(path("kind"), "no".into()), Some(true));
        check(Filter::Prefix(path("size"), "no".into()), None);
        check(Filter::HasText(path("kind"), "ou".into()), Some(true));
        check(Filter::HasElement(path("tags"), Value::Float(3.0)), Some(true));
        check(Filter::HasElement(path("tags"), Value::String("b".into())), Some(false));
        check(Filter::HasElement(path("kind"), Value::String("noun".into())), None);
    }

    #[test]
    fn limits_hold_exactly() {
        let nested = |depth| (1..depth).fold(Filter::Constant(true), |filter, _| not(filter));
        assert_eq!(nested(FILTER_DEPTH_MAX).check(), Ok(()));
        assert_eq!(nested(FILTER_DEPTH_MAX + 1).check(), Err(FilterError::TooDeep));
        let listed = |count| Filter::In(path("kind"), vec![Value::Int(1); count]);
        assert_eq!(listed(FILTER_NODES_MAX - 1).check(), Ok(()));
        assert_eq!(listed(FILTER_NODES_MAX).check(), Err(FilterError::TooLarge));
        assert_eq!(Filter::Exists(vec![]).check(), Err(FilterError::EmptyPath));
        assert_eq!(Filter::Exists(path("a..b")).check(), Err(FilterError::EmptyPath));
    }
}
