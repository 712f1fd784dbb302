//! From a filter to the rows it takes.
//!
//! Asked for the rows of which a filter is true, or of which it is false; what is left is unknown. `not` asks its part for
//! the opposite, so no set is turned around that need not be.
//!
//! Always: `sure` is within `may`, and both are exact about every part of the filter that indexes cover. A part that none
//! covers may be true of any row, and may be false of any.

use super::key::{self, Key, Kind};
use super::{IndexRef, RowSet};
use crate::attributes::Value;
use crate::filter::{Filter, Limit, Path, Range};

/// The rows a filter takes, as far as indexes can tell.
#[derive(Debug, Clone)]
pub(crate) struct Truth<'a> {
    /// Those it surely takes.
    pub sure: RowSet<'a>,
    /// Those among which the ones it takes are, where that is more.
    more: Option<RowSet<'a>>,
}

impl<'a> Truth<'a> {
    fn exact(sure: RowSet<'a>) -> Truth<'a> {
        Truth { sure, more: None }
    }

    fn between(sure: RowSet<'a>, may: RowSet<'a>) -> Truth<'a> {
        Truth { sure, more: Some(may) }
    }

    /// Those among which the ones it takes are.
    pub fn may(&self) -> &RowSet<'a> {
        self.more.as_ref().unwrap_or(&self.sure)
    }

    /// Whether nothing has to be looked at to know.
    pub fn is_exact(&self) -> bool {
        self.more.is_none()
    }

    fn join(self, other: Truth<'a>, join: impl Fn(RowSet<'a>, RowSet<'a>) -> RowSet<'a>) -> Truth<'a> {
        if self.is_exact() && other.is_exact() {
            return Truth::exact(join(self.sure, other.sure));
        }
        let may = join(self.may().clone(), other.may().clone());
        Truth::between(join(self.sure, other.sure), may)
    }
}

/// The rows of which the filter is true, if `wanted`, or else false. `index_of` gives the index of a path, if there is one.
pub(crate) fn truth<'a>(
    filter: &Filter,
    wanted: bool,
    rows: u32,
    index_of: &dyn Fn(&Path) -> Option<IndexRef<'a>>,
) -> Truth<'a> {
    let of = |part: &Filter, wanted| truth(part, wanted, rows, index_of);
    let (none, all) = (RowSet::none(rows), RowSet::all(rows));
    match filter {
        Filter::Constant(known) => Truth::exact(if *known == wanted { all } else { none }),
        // All of them true, or one of them false; and the other way round.
        Filter::And(parts) | Filter::Or(parts) => {
            let together = matches!(filter, Filter::And(_)) == wanted;
            let mut joined = Truth::exact(if together { all } else { none });
            for part in parts {
                joined = joined.join(of(part, wanted), if together { RowSet::and } else { RowSet::or });
                if together && joined.may().is_none() {
                    break;
                }
            }
            joined
        }
        Filter::Not(part) => of(part, !wanted),
        Filter::IsTrue(part) if wanted => of(part, true),
        Filter::IsTrue(part) => {
            let taken = of(part, true);
            match taken.is_exact() {
                true => Truth::exact(taken.sure.not()),
                false => Truth::between(taken.may().not(), taken.sure.not()),
            }
        }
        Filter::Equal(path, _)
        | Filter::In(path, _)
        | Filter::Range(path, _)
        | Filter::Exists(path)
        | Filter::IsNull(path)
        | Filter::Prefix(path, _)
        | Filter::HasElement(path, _)
        | Filter::HasText(path, _) => match index_of(path).and_then(|index| leaf(filter, &index, rows)) {
            Some(Known { truth, .. }) if wanted => truth,
            Some(Known { within, truth }) => match truth.is_exact() {
                true => Truth::exact(within.minus(&truth.sure)),
                false => Truth::between(within.clone().minus(truth.may()), within.minus(&truth.sure)),
            },
            None => Truth::between(none, all),
        },
    }
}

/// What an index knows of an expression: of which rows it is true or false at all, and of which it is true.
struct Known<'a> {
    within: RowSet<'a>,
    truth: Truth<'a>,
}

fn leaf<'a>(filter: &Filter, index: &IndexRef<'a>, rows: u32) -> Option<Known<'a>> {
    let none = || RowSet::none(rows);
    let exact = |within, taken| Some(Known { within, truth: Truth::exact(taken) });
    match filter {
        // Nothing is equal to null, and nobody can say that it is not.
        Filter::Equal(_, Value::Null) => exact(none(), none()),
        Filter::Equal(_, value) => {
            Some(Known { within: index.not_null(), truth: one_of(index, rows, std::slice::from_ref(value)) })
        }
        Filter::In(_, values) => Some(Known { within: index.not_null(), truth: one_of(index, rows, values) }),
        Filter::Range(_, range) => Some(between(index, rows, range)),
        Filter::Exists(_) => exact(RowSet::all(rows), index.present()),
        Filter::IsNull(_) => exact(RowSet::all(rows), index.of_kind(Kind::Null)),
        Filter::Prefix(_, prefix) => {
            let low = key::text_key(prefix);
            let sure = index.between(&low, after(&low).as_deref());
            Some(Known { within: index.of_kind(Kind::Text), truth: with(sure, index.long_texts()) })
        }
        Filter::HasText(_, part) => {
            let (sure, may) = index.with_text(part)?;
            let long = index.long_texts();
            let is_exact = long.is_none() && sure.len() == may.len();
            let truth = if is_exact { Truth::exact(sure) } else { Truth::between(sure, may.or(long)) };
            Some(Known { within: index.of_kind(Kind::Text), truth })
        }
        Filter::HasElement(_, value) => {
            let truth = match key::of_value(value).1 {
                Key::None => Truth::exact(none()),
                Key::Bytes(key) => Truth::exact(index.lists_with(&key)),
                Key::Long => with(none(), index.long_elements()),
            };
            Some(Known { within: index.of_kind(Kind::List), truth })
        }
        Filter::Constant(_) | Filter::And(_) | Filter::Or(_) | Filter::Not(_) | Filter::IsTrue(_) => None,
    }
}

fn with<'a>(sure: RowSet<'a>, more: RowSet<'a>) -> Truth<'a> {
    if more.is_none() {
        return Truth::exact(sure);
    }
    let may = sure.clone().or(more);
    Truth::between(sure, may)
}

fn one_of<'a>(index: &IndexRef<'a>, rows: u32, values: &[Value]) -> Truth<'a> {
    let keys: Vec<Key> = values.iter().map(|value| key::of_value(value).1).collect();
    let bytes = keys.iter().filter_map(|key| match key {
        Key::Bytes(bytes) => Some(&bytes[..]),
        Key::None | Key::Long => None,
    });
    let sure = index.with_keys(bytes);
    // A short text is never equal to a long one.
    let long = keys.contains(&Key::Long);
    with(sure, if long { index.long_texts() } else { RowSet::none(rows) })
}

fn between<'a>(index: &IndexRef<'a>, rows: u32, range: &Range) -> Known<'a> {
    let nothing = Known { within: RowSet::none(rows), truth: Truth::exact(RowSet::none(rows)) };
    let of = |limit: &Option<Limit>| limit.as_ref().map(|limit| key::of_value(&limit.value));
    let (low, high) = (of(&range.low), of(&range.high));
    let kind = match (&low, &high) {
        (None, None) => return Known { within: index.not_null(), truth: Truth::exact(index.not_null()) },
        (Some((low, _)), Some((high, _))) if low != high => return nothing,
        (Some((kind, _)), _) | (None, Some((kind, _))) => *kind,
    };
    // Bools have no order.
    let Some((first, last)) = key::tags(kind).filter(|_| kind != Kind::Bool) else { return nothing };
    let within = index.of_kind(kind);
    let inclusive = |limit: &Option<Limit>| limit.as_ref().is_some_and(|limit| limit.inclusive);
    let low = match low {
        None => vec![first],
        Some((_, Key::Bytes(key))) if inclusive(&range.low) => key,
        // The next key there can be.
        Some((_, Key::Bytes(key))) => [&key[..], &[0]].concat(),
        Some((_, Key::None | Key::Long)) => return unknown_range(within, rows),
    };
    let high = match high {
        None => vec![last + 1],
        Some((_, Key::Bytes(key))) if inclusive(&range.high) => [&key[..], &[0]].concat(),
        Some((_, Key::Bytes(key))) => key,
        Some((_, Key::None | Key::Long)) => return unknown_range(within, rows),
    };
    let sure = index.between(&low, Some(&high));
    let long = if kind == Kind::Text { index.long_texts() } else { RowSet::none(rows) };
    Known { within, truth: with(sure, long) }
}

/// A range that ends at a text too long for a key: every text may lie in it.
fn unknown_range(within: RowSet<'_>, rows: u32) -> Known<'_> {
    Known { truth: Truth::between(RowSet::none(rows), within.clone()), within }
}

/// The first key after all that begin with this one; `None` if there is none.
fn after(key: &[u8]) -> Option<Vec<u8>> {
    let last = key.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut after = key[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Turns the rows a filter may take into those it takes, by asking `look` about each that is not sure.
#[cfg(test)]
pub(super) fn settle(truth: Truth<'_>, look: impl Fn(u32) -> bool) -> Vec<u32> {
    truth.may().iter_from(0).filter(|&row| truth.sure.contains(row) || look(row)).collect()
}
