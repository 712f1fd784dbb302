//! Steps back: what elements of a large object were before a script changed them.
//!
//! ```text
//!   begin --change, note--change, note--> done: forgotten, or taken back from the last to the first
//! ```
//!
//! A script whose changes must not stay has all of them taken back. Of a small object a copy is made before the first change. A
//! copy of a large one for the sake of one element would make every script on it as slow as it is large.
//!
//! Always: taken back, an object holds the same elements with the same sum. The order in which chance and scans see them may be
//! another one, on every member the same.

/// With fewer elements a copy is made.
pub(super) const STEPS_MIN: usize = 256;

/// An element, and what it was; none: it was not there.
pub(super) type Step<T> = (Box<[u8]>, Option<T>);

/// The steps of an object, if it keeps them.
#[derive(Debug)]
#[expect(clippy::box_collection, reason = "every object has one, and hardly any keeps steps")]
pub(super) struct Steps<T>(Option<Box<Vec<Step<T>>>>);

impl<T> Default for Steps<T> {
    fn default() -> Steps<T> {
        Steps(None)
    }
}

/// A copy begins anew.
impl<T> Clone for Steps<T> {
    fn clone(&self) -> Steps<T> {
        Steps(None)
    }
}

impl<T> Steps<T> {
    /// Keeps them from now on.
    pub fn begin(&mut self) {
        self.0 = Some(Box::default());
    }

    /// Whether they are kept.
    pub fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// An element is not what it was any more.
    pub fn note(&mut self, element: &[u8], was: Option<T>) {
        if let Some(steps) = &mut self.0 {
            steps.push((element.into(), was));
        }
    }

    /// Those that were kept, the last first. No more are.
    pub fn take(&mut self) -> impl Iterator<Item = Step<T>> + use<T> {
        self.0.take().map(|steps| *steps).unwrap_or_default().into_iter().rev()
    }
}
