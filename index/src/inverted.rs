//! Walking several lists of rows at once: the heart of every inverted index.
//!
//! ```text
//!   list 0   3 . . 9 . 17      an item is a row and what the list says of it
//!   list 1   . 4 . 9 . .
//!   walk --> row 3 [0]   row 4 [1]   row 9 [0, 1]   row 17 [0]
//! ```
//!
//! Rows come in ascending order, and what the lists say of one row in the order of the lists: so whoever adds it up, adds
//! the same numbers in the same order wherever the row lies, and comes to the same sum to the last bit.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Calls `each` for every row of the lists with what they say of it: the list's number and its item. `each` says whether to
/// go on; the walk says whether it came to the end.
///
/// The rows of each list must ascend: one that does not ends its list there.
pub fn walk<T: Copy, L: Iterator<Item = (u32, T)>>(
    mut lists: Vec<L>,
    mut each: impl FnMut(u32, &[(usize, T)]) -> bool,
) -> bool {
    let mut heads = BinaryHeap::with_capacity(lists.len());
    let mut items: Vec<Option<T>> = vec![None; lists.len()];
    for (number, list) in lists.iter_mut().enumerate() {
        if let Some((row, item)) = list.next() {
            items[number] = Some(item);
            heads.push(Reverse((row, number)));
        }
    }
    let mut said: Vec<(usize, T)> = Vec::with_capacity(lists.len());
    while let Some(&Reverse((row, _))) = heads.peek() {
        said.clear();
        while let Some(mut head) = heads.peek_mut() {
            let Reverse((at, number)) = *head;
            if at != row {
                break;
            }
            said.extend(items[number].take().map(|item| (number, item)));
            match lists[number].next() {
                Some((next, item)) if next > row => {
                    items[number] = Some(item);
                    *head = Reverse((next, number));
                }
                _ => drop(std::collections::binary_heap::PeekMut::pop(head)),
            }
        }
        if !each(row, &said) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn walked(lists: &[Vec<(u32, char)>]) -> Vec<(u32, Vec<(usize, char)>)> {
        let mut all = Vec::new();
        let lists = lists.iter().map(|list| list.iter().copied()).collect();
        assert!(walk(lists, |row, said| {
            all.push((row, said.to_vec()));
            true
        }));
        all
    }

    #[test]
    fn each_row_comes_once_with_what_every_list_says_of_it() {
        assert_eq!(walked(&[]), []);
        let lists = [vec![(3, 'a'), (9, 'b'), (17, 'c')], vec![], vec![(4, 'd'), (9, 'e')]];
        let mut model: BTreeMap<u32, Vec<(usize, char)>> = BTreeMap::new();
        for (number, list) in lists.iter().enumerate() {
            list.iter().for_each(|&(row, item)| model.entry(row).or_default().push((number, item)));
        }
        assert_eq!(walked(&lists), model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_list_that_does_not_ascend_ends_there() {
        assert_eq!(walked(&[vec![(5, 'a'), (5, 'b'), (6, 'c')]]), [(5, vec![(0, 'a')])]);
        assert_eq!(walked(&[vec![(5, 'a'), (2, 'b')], vec![(7, 'c')]]), [(5, vec![(0, 'a')]), (7, vec![(1, 'c')])]);
    }

    #[test]
    fn a_walk_stops_when_it_is_told_to() {
        let mut seen = 0;
        let whole = walk(vec![(0..100).map(|row| (row, ()))], |_, _| {
            seen += 1;
            seen < 10
        });
        assert_eq!((whole, seen), (false, 10));
    }
}
