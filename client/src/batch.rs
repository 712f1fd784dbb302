//! Changes that happen together or not at all.

use bytes::Bytes;
use loci_wire::v1::{self, pipeline_request::Call};

use crate::{Collection, Condition, Error, Record, Written};

/// A batch being put together; see [`Collection::batch`].
///
/// ```no_run
/// # async fn example(notes: loci_client::Collection) -> Result<(), loci_client::Error> {
/// use loci_client::{Condition, Record};
///
/// let written = notes
///     .batch()
///     .condition(Condition::absent("fact-9"))
///     .put(Record::new("fact-9").with_value("water boils at 100 C"))
///     .delete_in("answers", "when does water boil?")
///     .commit()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a batch does nothing until it is committed"]
pub struct Batch {
    collection: Collection,
    conditions: Vec<Condition>,
    changes: Vec<v1::Change>,
}

/// What a merge takes away from a record, beside what it gives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removals {
    /// Attributes at the top level.
    pub attributes: Vec<String>,
    /// The deadline.
    pub deadline: bool,
}

impl Batch {
    pub(crate) fn new(collection: Collection) -> Batch {
        Batch { collection, conditions: Vec::new(), changes: Vec::new() }
    }

    /// What must hold before the first change.
    pub fn condition(mut self, condition: Condition) -> Batch {
        self.conditions.push(condition);
        self
    }

    /// Inserts or replaces a record of this collection.
    pub fn put(self, record: Record) -> Batch {
        let name = self.collection.name().to_owned();
        self.put_in(name, record)
    }

    /// Inserts or replaces a record of another collection of the namespace.
    pub fn put_in(self, collection: impl Into<String>, record: Record) -> Batch {
        self.change(collection.into(), v1::change::Action::Put(record.into()))
    }

    /// Merges a record of this collection.
    pub fn merge(self, record: Record, removals: Removals) -> Batch {
        let name = self.collection.name().to_owned();
        self.merge_in(name, record, removals)
    }

    /// Merges a record of another collection of the namespace.
    pub fn merge_in(self, collection: impl Into<String>, record: Record, removals: Removals) -> Batch {
        let merge = v1::Merge {
            record: Some(record.into()),
            remove_attributes: removals.attributes,
            remove_deadline: removals.deadline,
        };
        self.change(collection.into(), v1::change::Action::Merge(merge))
    }

    /// Deletes a record of this collection.
    pub fn delete(self, key: impl Into<Bytes>) -> Batch {
        let name = self.collection.name().to_owned();
        self.delete_in(name, key)
    }

    /// Deletes a record of another collection of the namespace.
    pub fn delete_in(self, collection: impl Into<String>, key: impl Into<Bytes>) -> Batch {
        self.change(collection.into(), v1::change::Action::Delete(key.into()))
    }

    fn change(mut self, collection: String, action: v1::change::Action) -> Batch {
        self.changes.push(v1::Change {
            collection: Some(v1::CollectionName { namespace: self.collection.namespace().to_owned(), collection }),
            action: Some(action),
        });
        self
    }

    /// How many changes it has.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Makes the changes, all of them or none.
    pub async fn commit(self) -> Result<Written, Error> {
        let call = Call::Batch(Box::new(v1::BatchRequest {
            origin: self.collection.client().origin(),
            namespace: self.collection.namespace().to_owned(),
            conditions: self.collection.conditions(self.conditions),
            changes: self.changes,
        }));
        self.collection.write(call).await
    }
}
