//! Objects: the values that are more than a short string.
//!
//! Each kind is a plain data structure that knows nothing of keys, commands or logs. It keeps count of what it takes in
//! memory and of a sum over what it holds, so that both are known without a walk.
//!
//! Always, of every kind:
//! - `heap_bytes` is what its allocations take now, as [`allocated`](super::allocated) counts, in constant time;
//! - `sum` is a function of what it holds alone, however it came to hold it: for what has an order, of the order too;
//! - an order that a reader or chance can see is kept by `encode` and `decode`.

pub mod dense;
mod fields;
pub mod hash;
mod lease;
mod list;
mod places;
mod ranks;
mod run;
pub mod set;
pub mod stream;
pub mod limiter;
mod sorted;
mod steps;
mod text;

pub use hash::Hash;
pub use lease::Lease;
pub use limiter::Limiter;
pub use list::{End, List};
pub use places::keep_secret;
pub(crate) use places::place_of;
pub use set::Set;
pub use sorted::{Sorted, SortedIter};
pub use stream::Stream;
pub use text::Text;

/// So many bytes of a string count as an element.
pub const STRING_BYTES: usize = 64;

/// A value.
#[derive(Debug, Clone)]
pub enum Object {
    /// A string that is changed in place, or a long one.
    Text(Text),
    /// Fields with values.
    Hash(Hash),
    /// Members, each once.
    Set(Set),
    /// Entries in the order in which they came.
    Stream(Stream),
    /// How much was taken lately.
    Limiter(Limiter),
    /// A list.
    List(List),
    /// A sorted set.
    Sorted(Sorted),
    /// Who holds something, under which number.
    Lease(Lease),
}

/// What each kind of object can do.
pub trait Kind: Sized + Clone {
    /// What the type is called (Redis: `TYPE`).
    const NAME: &'static str;
    /// Which one of the objects it is, in files.
    const TAG: u8;

    /// It, if the object is of this kind.
    fn of(object: &Object) -> Option<&Self>;
    /// The same, to change it.
    fn of_mut(object: &mut Object) -> Option<&mut Self>;
    /// As an object.
    fn into_object(self) -> Object;
    /// How it is kept, in Redis' words (`OBJECT ENCODING`).
    fn encoding(&self) -> &'static str;
    /// What its allocations take.
    fn heap_bytes(&self) -> usize;
    /// Whether nothing is in it: then its key goes.
    fn is_empty(&self) -> bool;
    /// A hash of what it holds.
    fn sum(&self) -> u64;
    /// The earliest deadline of its parts, where those have deadlines; zero: none.
    fn first_deadline(&self) -> u64 {
        0
    }
    /// Whether some of it has not expired.
    fn is_live(&self, _now: u64) -> bool {
        true
    }
    /// Removes those of its parts that have expired, and says whether there were any.
    fn expire(&mut self, _now: u64) -> bool {
        false
    }
    /// Keeps the [`steps`] back from now on. Says no where a copy is as good.
    fn begin_steps(&mut self) -> bool {
        false
    }
    /// Goes all of them back.
    fn step_back(&mut self) {}
    /// Keeps them no longer.
    fn end_steps(&mut self) {}
    /// What it was before the first of them, beside what it is; keeps them no longer.
    fn before_steps(&mut self) -> Self {
        self.clone()
    }
    /// Its bytes in a file, added to `out`.
    fn encode(&self, out: &mut Vec<u8>);
    /// From those bytes, which may be damaged: then none.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// Makes a type a [`Kind`] of the variant that has its name: the parts that are the same for all.
macro_rules! variant {
    ($variant:ident) => {
        fn of(object: &$crate::table::objects::Object) -> Option<&Self> {
            match object {
                $crate::table::objects::Object::$variant(it) => Some(it),
                #[expect(clippy::allow_attributes, reason = "there may be only one kind")]
                #[allow(unreachable_patterns, reason = "there may be only one kind")]
                _ => None,
            }
        }

        fn of_mut(object: &mut $crate::table::objects::Object) -> Option<&mut Self> {
            match object {
                $crate::table::objects::Object::$variant(it) => Some(it),
                #[expect(clippy::allow_attributes, reason = "there may be only one kind")]
                #[allow(unreachable_patterns, reason = "there may be only one kind")]
                _ => None,
            }
        }

        fn into_object(self) -> $crate::table::objects::Object {
            $crate::table::objects::Object::$variant(self)
        }
    };
}
pub(crate) use variant;

/// Does the same with whatever kind it is.
macro_rules! each {
    ($object:expr, $it:ident => $do:expr) => {
        match $object {
            Object::Text($it) => $do,
            Object::Hash($it) => $do,
            Object::Set($it) => $do,
            Object::Stream($it) => $do,
            Object::Limiter($it) => $do,
            Object::List($it) => $do,
            Object::Sorted($it) => $do,
            Object::Lease($it) => $do,
        }
    };
}

fn tag_of<K: Kind>(_: &K) -> u8 {
    K::TAG
}

fn name_of<K: Kind>(_: &K) -> &'static str {
    K::NAME
}

impl Object {
    /// What the type is called.
    pub fn type_name(&self) -> &'static str {
        each!(self, it => name_of(it))
    }

    /// How many elements it has; of a string, every [`STRING_BYTES`] count as one.
    pub fn elements(&self) -> usize {
        match self {
            Object::Text(text) => text.bytes().len() / STRING_BYTES,
            Object::Hash(hash) => hash.len(),
            Object::Set(set) => set.len(),
            Object::Stream(stream) => stream.entries().len(),
            Object::List(list) => list.len(),
            Object::Sorted(sorted) => sorted.len(),
            Object::Limiter(_) | Object::Lease(_) => 1,
        }
    }

    /// See [`Kind::encoding`].
    pub fn encoding(&self) -> &'static str {
        each!(self, it => it.encoding())
    }

    /// See [`Kind::heap_bytes`].
    pub fn heap_bytes(&self) -> usize {
        each!(self, it => it.heap_bytes())
    }

    /// See [`Kind::is_empty`].
    pub fn is_empty(&self) -> bool {
        each!(self, it => Kind::is_empty(it))
    }

    /// See [`Kind::sum`].
    pub fn sum(&self) -> u64 {
        each!(self, it => it.sum())
    }

    /// See [`Kind::begin_steps`].
    pub fn begin_steps(&mut self) -> bool {
        each!(self, it => it.begin_steps())
    }

    /// See [`Kind::step_back`].
    pub fn step_back(&mut self) {
        each!(self, it => it.step_back());
    }

    /// See [`Kind::end_steps`].
    pub fn end_steps(&mut self) {
        each!(self, it => it.end_steps());
    }

    /// See [`Kind::before_steps`].
    pub fn before_steps(&mut self) -> Object {
        each!(self, it => it.before_steps().into_object())
    }

    /// See [`Kind::first_deadline`].
    pub fn first_deadline(&self) -> u64 {
        each!(self, it => it.first_deadline())
    }

    /// See [`Kind::is_live`].
    pub fn is_live(&self, now: u64) -> bool {
        each!(self, it => it.is_live(now))
    }

    /// See [`Kind::expire`].
    pub fn expire(&mut self, now: u64) -> bool {
        each!(self, it => it.expire(now))
    }

    /// See [`Kind::TAG`].
    pub fn tag(&self) -> u8 {
        each!(self, it => tag_of(it))
    }

    /// See [`Kind::encode`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        each!(self, it => it.encode(out));
    }

    /// See [`Kind::decode`].
    pub fn decode(tag: u8, bytes: &[u8]) -> Option<Object> {
        fn of<K: Kind>(bytes: &[u8]) -> Option<Object> {
            K::decode(bytes).map(Kind::into_object)
        }
        match tag {
            Text::TAG => of::<Text>(bytes),
            Hash::TAG => of::<Hash>(bytes),
            Set::TAG => of::<Set>(bytes),
            Stream::TAG => of::<Stream>(bytes),
            Limiter::TAG => of::<Limiter>(bytes),
            List::TAG => of::<List>(bytes),
            Sorted::TAG => of::<Sorted>(bytes),
            Lease::TAG => of::<Lease>(bytes),
            _ => None,
        }
    }
}
