//! A set of a segment's rows: a short list, or a bit for each row, borrowed from the file where it can be.
//!
//! Always: a list ascends. A row that the segment does not have may be in a set that a damaged file gave; whoever asks for
//! such a row finds nothing there.

use std::borrow::Cow;

/// A list of fewer rows than one in so many is shorter than the bits, and quicker to go through.
const SPARSE: usize = 64;

/// Some of a segment's rows.
#[derive(Debug, Clone)]
pub(crate) struct RowSet<'a> {
    /// How many rows the segment has.
    rows: u32,
    form: Form<'a>,
}

#[derive(Debug, Clone)]
enum Form<'a> {
    None,
    All,
    List(Cow<'a, [u32]>),
    Bits(Cow<'a, [u64]>),
}

/// How many words hold a bit for each row.
pub(super) fn words_of(rows: u32) -> usize {
    (rows as usize).div_ceil(64)
}

fn set(words: &mut [u64], row: u32) {
    if let Some(word) = words.get_mut(row as usize / 64) {
        *word |= 1 << (row % 64);
    }
}

impl<'a> RowSet<'a> {
    pub fn none(rows: u32) -> RowSet<'a> {
        RowSet { rows, form: Form::None }
    }

    pub fn all(rows: u32) -> RowSet<'a> {
        RowSet { rows, form: if rows == 0 { Form::None } else { Form::All } }
    }

    /// Of rows that ascend.
    pub fn of_list(rows: u32, list: impl Into<Cow<'a, [u32]>>) -> RowSet<'a> {
        let list = list.into();
        if list.is_empty() {
            return RowSet::none(rows);
        }
        if list.len() * SPARSE <= rows as usize {
            return RowSet { rows, form: Form::List(list) };
        }
        let mut gathered = Gathered::new(rows);
        gathered.add(&list);
        gathered.finish()
    }

    /// Of the rows of so many values one after the other, each of which ascend.
    pub fn of_list_of_any_order(rows: u32, list: &'a [u32], values: usize) -> RowSet<'a> {
        if values == 1 {
            return RowSet::of_list(rows, list);
        }
        let mut gathered = Gathered::new(rows);
        gathered.add(list);
        gathered.finish()
    }

    /// Of one bit for each row.
    pub fn of_bits(rows: u32, words: impl Into<Cow<'a, [u64]>>) -> RowSet<'a> {
        RowSet { rows, form: Form::Bits(words.into()) }
    }

    /// How many rows there are.
    pub fn len(&self) -> u32 {
        match &self.form {
            Form::None => 0,
            Form::All => self.rows,
            Form::List(list) => list.len() as u32,
            Form::Bits(words) => words.iter().map(|word| word.count_ones()).sum(),
        }
    }

    /// Whether it is known, without counting, that there are none.
    pub fn is_none(&self) -> bool {
        matches!(self.form, Form::None)
    }

    /// Whether it is known, without counting, that it is every row.
    pub fn is_all(&self) -> bool {
        matches!(self.form, Form::All)
    }

    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        match &self.form {
            Form::None => false,
            Form::All => row < self.rows,
            Form::List(list) => list.binary_search(&row).is_ok(),
            Form::Bits(words) => words.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1),
        }
    }

    /// The rows from `from` on, ascending.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = u32> + use<'_, 'a> {
        let (mut all, mut list, mut bits) = (from..0, &[][..], None);
        match &self.form {
            Form::None => {}
            Form::All => all = from..self.rows,
            Form::List(rows) => list = &rows[rows.partition_point(|&row| row < from)..],
            Form::Bits(words) => {
                let first = from as usize / 64;
                let word = words.get(first).map_or(0, |word| word & (u64::MAX << (from % 64)));
                bits = Some((&**words, first, word));
            }
        }
        let bits = std::iter::from_fn(move || {
            let (words, place, word) = bits.as_mut()?;
            while *word == 0 {
                *place += 1;
                *word = *words.get(*place)?;
            }
            let bit = word.trailing_zeros();
            *word &= *word - 1;
            Some(*place as u32 * 64 + bit)
        });
        all.chain(list.iter().copied()).chain(bits)
    }

    fn words(&self) -> Cow<'_, [u64]> {
        match &self.form {
            Form::Bits(words) => Cow::Borrowed(words),
            Form::None => Cow::Owned(vec![0; words_of(self.rows)]),
            Form::All => {
                let mut words = vec![u64::MAX; words_of(self.rows)];
                mask_tail(&mut words, self.rows);
                Cow::Owned(words)
            }
            Form::List(list) => {
                let mut words = vec![0; words_of(self.rows)];
                list.iter().for_each(|&row| set(&mut words, row));
                Cow::Owned(words)
            }
        }
    }

    /// The rows of the list that pass.
    fn filtered(self, pass: impl Fn(u32) -> bool) -> RowSet<'a> {
        let Form::List(list) = self.form else { return self };
        let kept: Vec<u32> = list.iter().copied().filter(|&row| pass(row)).collect();
        let form = if kept.is_empty() { Form::None } else { Form::List(kept.into()) };
        RowSet { rows: self.rows, form }
    }

    fn combined(self, other: &RowSet<'_>, combine: impl Fn(u64, u64) -> u64) -> RowSet<'a> {
        let mut words = match self.form {
            Form::Bits(words) => words.into_owned(),
            _ => self.words().into_owned(),
        };
        let others = other.words();
        for (place, word) in words.iter_mut().enumerate() {
            *word = combine(*word, others.get(place).copied().unwrap_or(0));
        }
        RowSet { rows: self.rows, form: Form::Bits(words.into()) }
    }

    /// The rows in both.
    pub fn and(self, other: RowSet<'a>) -> RowSet<'a> {
        match (&self.form, &other.form) {
            (Form::None, _) | (_, Form::All) => self,
            (Form::All, _) | (_, Form::None) => other,
            (Form::List(a), Form::List(b)) if a.len() > b.len() => other.filtered(|row| self.contains(row)),
            (Form::List(_), _) => self.filtered(|row| other.contains(row)),
            (_, Form::List(_)) => other.filtered(|row| self.contains(row)),
            (Form::Bits(_), Form::Bits(_)) => self.combined(&other, |a, b| a & b),
        }
    }

    /// The rows in either.
    pub fn or(self, other: RowSet<'a>) -> RowSet<'a> {
        match (&self.form, &other.form) {
            (Form::None, _) | (_, Form::All) => other,
            (Form::All, _) | (_, Form::None) => self,
            (Form::List(a), Form::List(b)) => {
                let mut rows = [&**a, &**b].concat();
                // Finds the two runs, and merges them.
                rows.sort();
                rows.dedup();
                RowSet::of_list(self.rows, rows)
            }
            (Form::List(_), _) => other.combined(&self, |a, b| a | b),
            _ => self.combined(&other, |a, b| a | b),
        }
    }

    /// The rows in this and not in the other.
    pub fn minus(self, other: &RowSet<'_>) -> RowSet<'a> {
        match (&self.form, &other.form) {
            (_, Form::None) => self,
            (_, Form::All) => RowSet::none(self.rows),
            (Form::None, _) => self,
            (Form::List(_), _) => self.filtered(|row| !other.contains(row)),
            _ => self.combined(other, |a, b| a & !b),
        }
    }

    /// The rows that are not in it.
    pub fn not(&self) -> RowSet<'a> {
        RowSet::all(self.rows).minus(self)
    }
}

fn mask_tail(words: &mut [u64], rows: u32) {
    if !rows.is_multiple_of(64)
        && let Some(last) = words.get_mut(rows as usize / 64)
    {
        *last &= (1 << (rows % 64)) - 1;
    }
}

/// A set that many lists are poured into.
pub(super) struct Gathered {
    rows: u32,
    list: Vec<u32>,
    /// Once the list would be too long.
    words: Option<Vec<u64>>,
}

impl Gathered {
    pub fn new(rows: u32) -> Gathered {
        Gathered { rows, list: Vec::new(), words: None }
    }

    pub fn add(&mut self, rows: &[u32]) {
        if self.words.is_none() && (self.list.len() + rows.len()) * SPARSE > self.rows as usize {
            let mut words = vec![0; words_of(self.rows)];
            self.list.drain(..).for_each(|row| set(&mut words, row));
            self.words = Some(words);
        }
        match &mut self.words {
            Some(words) => rows.iter().for_each(|&row| set(words, row)),
            None => self.list.extend_from_slice(rows),
        }
    }

    pub fn finish(mut self) -> RowSet<'static> {
        let rows = self.rows;
        match self.words {
            Some(words) => RowSet { rows, form: Form::Bits(words.into()) },
            None if self.list.is_empty() => RowSet::none(rows),
            None => {
                self.list.sort_unstable();
                self.list.dedup();
                RowSet { rows, form: Form::List(self.list.into()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Each set as the slow, obvious thing and in every form that can hold it.
    fn forms(rows: u32, set: &BTreeSet<u32>) -> Vec<RowSet<'static>> {
        let list: Vec<u32> = set.iter().copied().collect();
        let mut words = vec![0; words_of(rows)];
        list.iter().for_each(|&row| super::set(&mut words, row));
        let mut forms = vec![
            RowSet { rows, form: Form::Bits(words.into()) },
            RowSet { rows, form: Form::List(list.clone().into()) },
            RowSet::of_list(rows, list.clone()),
        ];
        if set.is_empty() {
            forms.push(RowSet::none(rows));
        }
        if set.len() == rows as usize {
            forms.push(RowSet::all(rows));
        }
        forms
    }

    fn check(found: &RowSet<'_>, expected: &BTreeSet<u32>, what: &str) {
        let rows: Vec<u32> = found.iter_from(0).collect();
        assert_eq!(rows, expected.iter().copied().collect::<Vec<_>>(), "{what}: {found:?}");
        assert_eq!(found.len() as usize, expected.len(), "{what}");
        for row in 0..found.rows + 2 {
            assert_eq!(found.contains(row), expected.contains(&row), "{what}: row {row}");
            let from: Vec<u32> = found.iter_from(row).collect();
            assert!(from.iter().eq(expected.range(row..)), "{what}: from {row}");
        }
    }

    #[test]
    fn every_form_of_a_set_is_that_set_and_so_is_all_that_is_made_of_it() {
        for rows in [0u32, 1, 63, 64, 65, 200] {
            let universe = || 0..rows;
            let sets: Vec<BTreeSet<u32>> = vec![
                BTreeSet::new(),
                universe().collect(),
                universe().filter(|row| row % 3 == 0).collect(),
                universe().filter(|row| row % 50 == 7).collect(),
                universe().filter(|row| row / 64 == 1).collect(),
                universe().filter(|row| row + 1 == rows).collect(),
            ];
            for a in &sets {
                for x in forms(rows, a) {
                    check(&x, a, "itself");
                    check(&x.not(), &universe().filter(|row| !a.contains(row)).collect(), "not");
                    for b in &sets {
                        for y in forms(rows, b) {
                            check(&x.clone().and(y.clone()), &a.intersection(b).copied().collect(), "and");
                            check(&x.clone().or(y.clone()), &a.union(b).copied().collect(), "or");
                            check(&x.clone().minus(&y), &a.difference(b).copied().collect(), "minus");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn lists_poured_together_are_one_set_however_many() {
        for step in [1, 2, 70, 5_000] {
            let rows = 10_000;
            let mut gathered = Gathered::new(rows);
            let mut expected = BTreeSet::new();
            for start in [5_000, 0, 9_000, 5_000] {
                let list: Vec<u32> = (start..(start + 3_000).min(rows)).step_by(step).collect();
                gathered.add(&list);
                expected.extend(list);
            }
            let found: Vec<u32> = gathered.finish().iter_from(0).collect();
            assert!(found.iter().eq(&expected), "step {step}");
        }
    }
}
