//! Which records a read or a deletion is about.
//!
//! Three-valued: comparing with an attribute that is missing or null is unknown, `not` unknown is unknown, and a record is
//! taken only if the whole is true.

use std::ops::Not;

use loci_wire::v1;
use v1::filter::Expression;

use crate::Value;

/// A condition on attributes. Made from [`attribute`], put together with [`and`](Filter::and), [`or`](Filter::or) and `!`.
///
/// ```
/// use loci_client::attribute;
///
/// let nouns = attribute("kind").equals("noun").and(attribute("size").at_least(10));
/// let others = !attribute("tags").has("old").or(attribute("author.name").starts_with("Ann"));
/// let both = nouns.and(others);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(pub(crate) v1::Filter);

/// The attribute that a filter is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attribute {
    path: String,
}

/// The attribute at this path: names from the top down, joined by dots. A backslash before a dot or a backslash makes it
/// part of a name.
pub fn attribute(path: impl Into<String>) -> Attribute {
    Attribute { path: path.into() }
}

impl Attribute {
    /// The attribute with these names from the top down, whatever characters they have.
    pub fn at<'a>(names: impl IntoIterator<Item = &'a str>) -> Attribute {
        let names: Vec<String> = names.into_iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect();
        Attribute { path: names.join(".") }
    }

    /// It is equal to this.
    pub fn equals(self, value: impl Into<Value>) -> Filter {
        let comparison = self.comparison(value);
        Filter::of(Expression::Equal(comparison))
    }

    /// It is there and not equal to this.
    pub fn not_equals(self, value: impl Into<Value>) -> Filter {
        let comparison = self.comparison(value);
        Filter::of(Expression::NotEqual(comparison))
    }

    /// It is equal to one of these.
    pub fn one_of<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Filter {
        Filter::of(Expression::In(v1::InValues {
            path: self.path,
            values: values.into_iter().map(|value| value.into().into()).collect(),
        }))
    }

    /// `>=`
    pub fn at_least(self, value: impl Into<Value>) -> Filter {
        self.range(|range, value| range.at_least = value, value.into())
    }

    /// `>`
    pub fn above(self, value: impl Into<Value>) -> Filter {
        self.range(|range, value| range.above = value, value.into())
    }

    /// `<=`
    pub fn at_most(self, value: impl Into<Value>) -> Filter {
        self.range(|range, value| range.at_most = value, value.into())
    }

    /// `<`
    pub fn below(self, value: impl Into<Value>) -> Filter {
        self.range(|range, value| range.below = value, value.into())
    }

    /// Between these two, both included.
    pub fn between(self, low: impl Into<Value>, high: impl Into<Value>) -> Filter {
        Filter::of(Expression::Range(v1::RangeOf {
            path: self.path,
            at_least: Some(low.into().into()),
            at_most: Some(high.into().into()),
            ..Default::default()
        }))
    }

    /// It is there, if only null.
    pub fn exists(self) -> Filter {
        Filter::of(Expression::Exists(self.path))
    }

    /// It is there and null.
    pub fn is_null(self) -> Filter {
        Filter::of(Expression::IsNull(self.path))
    }

    /// It is a text that begins with this.
    pub fn starts_with(self, text: impl Into<String>) -> Filter {
        Filter::of(Expression::Prefix(v1::TextOf { path: self.path, text: text.into() }))
    }

    /// It is a text that has this in it.
    pub fn contains(self, text: impl Into<String>) -> Filter {
        Filter::of(Expression::HasText(v1::TextOf { path: self.path, text: text.into() }))
    }

    /// It is a list with an element equal to this.
    pub fn has(self, element: impl Into<Value>) -> Filter {
        let comparison = self.comparison(element);
        Filter::of(Expression::HasElement(comparison))
    }

    fn comparison(self, value: impl Into<Value>) -> v1::Comparison {
        v1::Comparison { path: self.path, value: Some(value.into().into()) }
    }

    fn range(self, set: fn(&mut v1::RangeOf, Option<v1::Value>), value: Value) -> Filter {
        let mut range = v1::RangeOf { path: self.path, ..Default::default() };
        set(&mut range, Some(value.into()));
        Filter::of(Expression::Range(range))
    }
}

impl Filter {
    fn of(expression: Expression) -> Filter {
        Filter(v1::Filter { expression: Some(expression) })
    }

    /// True of every record, or of none.
    pub fn constant(value: bool) -> Filter {
        Filter::of(Expression::Constant(value))
    }

    /// Both hold.
    pub fn and(self, other: Filter) -> Filter {
        let mut filters = match self.0.expression {
            Some(Expression::And(filters)) => filters,
            expression => v1::Filters { filters: vec![v1::Filter { expression }] },
        };
        filters.filters.push(other.0);
        Filter::of(Expression::And(filters))
    }

    /// At least one of the two holds.
    pub fn or(self, other: Filter) -> Filter {
        let mut filters = match self.0.expression {
            Some(Expression::Or(filters)) => filters,
            expression => v1::Filters { filters: vec![v1::Filter { expression }] },
        };
        filters.filters.push(other.0);
        Filter::of(Expression::Or(filters))
    }

    /// All of them hold.
    pub fn all(filters: impl IntoIterator<Item = Filter>) -> Filter {
        let filters = filters.into_iter().map(|filter| filter.0).collect();
        Filter::of(Expression::And(v1::Filters { filters }))
    }

    /// At least one of them holds.
    pub fn any(filters: impl IntoIterator<Item = Filter>) -> Filter {
        let filters = filters.into_iter().map(|filter| filter.0).collect();
        Filter::of(Expression::Or(v1::Filters { filters }))
    }

    /// True if it is true, false if it is false or unknown. `!filter.is_true()` takes records that lack the attribute.
    pub fn is_true(self) -> Filter {
        Filter::of(Expression::IsTrue(Box::new(self.0)))
    }

    /// As the wire has it.
    pub fn into_wire(self) -> v1::Filter {
        self.0
    }
}

impl Not for Filter {
    type Output = Filter;

    /// It does not hold. Unknown stays unknown.
    fn not(self) -> Filter {
        Filter::of(Expression::Not(Box::new(self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_are_escaped() {
        assert_eq!(Attribute::at(["a.b", "c\\d"]).path, "a\\.b.c\\\\d");
    }

    #[test]
    fn chains_of_and_stay_flat() {
        let filter = attribute("a").equals(1).and(attribute("b").equals(2)).and(attribute("c").equals(3));
        match filter.0.expression {
            Some(Expression::And(filters)) => assert_eq!(filters.filters.len(), 3),
            other => panic!("{other:?}"),
        }
    }
}
