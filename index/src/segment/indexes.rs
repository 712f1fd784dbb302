//! The attribute indexes of a segment, and the filters they answer.

use std::ops::Range;

use super::Segment;
use crate::attribute_index::{self, IndexRef, Truth, truth};
use crate::command::IndexSpec;
use crate::filter::{Filter, Path};

/// Which indexes there are, and where.
#[derive(Default)]
pub(super) struct Indexes(Vec<Index>);

struct Index {
    spec: IndexSpec,
    section: Range<usize>,
    /// Whether it can answer; one that would have been too large is there, but cannot.
    readable: bool,
}

impl Indexes {
    /// From the sections that are indexes. One that cannot be read (as of a later version) counts as not there: filters look
    /// at rows then.
    pub fn open<'a>(sections: impl Iterator<Item = (Range<usize>, &'a [u8])>, rows: u32) -> Indexes {
        let open = |(section, bytes): (Range<usize>, &[u8])| {
            let (spec, of_rows, readable) = attribute_index::describe(bytes)?;
            (of_rows == rows).then_some(Index { spec, section, readable })
        };
        Indexes(sections.filter_map(open).collect())
    }
}

impl Segment {
    /// The indexes that it was written with, those that were left out as too large among them.
    pub fn indexed(&self) -> impl Iterator<Item = &IndexSpec> {
        self.indexes().0.iter().map(|index| &index.spec)
    }

    /// Whether an index answers filters on this path.
    pub fn has_index(&self, path: &[String]) -> bool {
        self.index(path).is_some()
    }

    fn index(&self, path: &[String]) -> Option<IndexRef<'_>> {
        let index = self.indexes().0.iter().find(|index| index.readable && index.spec.path == path)?;
        IndexRef::read(self.part(&index.section))
    }

    /// The rows that the filter takes, as far as indexes can tell. `None`: they can tell nothing.
    pub(crate) fn truth(&self, filter: &Filter) -> Option<Truth<'_>> {
        if self.indexes().0.is_empty() {
            return None;
        }
        Some(truth(filter, true, self.len(), &|path: &Path| self.index(path)))
    }
}
