//! What a call would like to be answered by: the node that leads what it is about, one that has it, or any.

use std::sync::Arc;

use loci_wire::v1::{self, pipeline_request::Call};
use loci_wire::{About, slot};

/// The namespace of calls that name none.
const NAMESPACE_DEFAULT: &str = "default";

/// The least and the greatest slot of a call's keys. Shards have slots in order: what has both has all.
pub(crate) type Span = (u16, u16);

/// What a call would like to be answered by.
pub(crate) type Wish<'c> = Wished<&'c str>;

/// The same, whoever has the name of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wished<N> {
    /// Any node.
    Any,
    /// The one that leads all of this namespace.
    Leader(N),
    /// The one that leads the shard of this namespace with these slots; if they are in several, as `Leader`.
    LeaderOf(N, Span),
    /// Any that has that shard; if they are in several, any.
    HolderOf(N, Span),
}

impl Wished<Arc<str>> {
    /// What outlives the call.
    pub fn kept(wish: Wish<'_>) -> Wished<Arc<str>> {
        match wish {
            Wished::Any => Wished::Any,
            Wished::Leader(namespace) => Wished::Leader(namespace.into()),
            Wished::LeaderOf(namespace, span) => Wished::LeaderOf(namespace.into(), span),
            Wished::HolderOf(namespace, span) => Wished::HolderOf(namespace.into(), span),
        }
    }

    pub fn wish(&self) -> Wish<'_> {
        match self {
            Wished::Any => Wished::Any,
            Wished::Leader(namespace) => Wished::Leader(namespace),
            Wished::LeaderOf(namespace, span) => Wished::LeaderOf(namespace, *span),
            Wished::HolderOf(namespace, span) => Wished::HolderOf(namespace, *span),
        }
    }
}

impl<N> Wished<N> {
    /// Which namespace it is about, if that makes a difference.
    pub fn namespace(self) -> Option<N> {
        match self {
            Wished::Any => None,
            Wished::Leader(namespace) | Wished::LeaderOf(namespace, _) | Wished::HolderOf(namespace, _) => {
                Some(namespace)
            }
        }
    }
}

impl<'c> Wish<'c> {
    /// Writes and reads at `latest` are answered without a detour where the shard is led, other reads where it is.
    pub fn of(call: &'c Call) -> Wish<'c> {
        match call {
            Call::Put(put) => Wish::to(&**put, true),
            Call::Delete(delete) => Wish::to(&**delete, true),
            Call::Batch(batch) => Wish::to(&**batch, true),
            Call::Get(get) => Wish::to(&**get, is_latest(&get.consistency)),
            Call::Scan(scan) => Wish::of_scan(scan),
            Call::Count(count) => Wish::to(&**count, is_latest(&count.consistency)),
            Call::Search(search) => Wish::to(&**search, is_latest(&search.consistency)),
            Call::Execute(execute) => Wish::to(&**execute, is_latest(&execute.consistency)),
        }
    }

    /// As `of` a scan that is a call.
    pub fn of_scan(scan: &'c v1::ScanRequest) -> Wish<'c> {
        Wish::to(scan, is_latest(&scan.consistency))
    }

    fn to(request: &'c impl About, leads: bool) -> Wish<'c> {
        let namespace = match request.namespace() {
            "" => NAMESPACE_DEFAULT,
            namespace => namespace,
        };
        let mut span: Option<Span> = None;
        request.each_key(&mut |key| {
            let slot = slot(key);
            span = Some(span.map_or((slot, slot), |(least, most)| (least.min(slot), most.max(slot))));
        });
        match (leads, span) {
            (true, Some(span)) => Wish::LeaderOf(namespace, span),
            (false, Some(span)) => Wish::HolderOf(namespace, span),
            (true, None) => Wish::Leader(namespace),
            (false, None) => Wish::Any,
        }
    }

    /// Whether it wants a leader.
    pub fn leads(self) -> bool {
        matches!(self, Wish::Leader(_) | Wish::LeaderOf(..))
    }
}

fn is_latest(consistency: &Option<v1::Consistency>) -> bool {
    use v1::consistency::Level;
    matches!(consistency.as_ref().and_then(|consistency| consistency.level.as_ref()), None | Some(Level::Latest(_)))
}

/// Whether any node may answer from whatever it has.
pub(crate) fn is_stale(call: &Call) -> bool {
    use v1::consistency::Level;
    let consistency = match call {
        Call::Get(get) => &get.consistency,
        Call::Scan(scan) => &scan.consistency,
        Call::Count(count) => &count.consistency,
        Call::Search(search) => &search.consistency,
        Call::Execute(execute) => &execute.consistency,
        Call::Put(_) | Call::Delete(_) | Call::Batch(_) => return false,
    };
    matches!(consistency.as_ref().and_then(|consistency| consistency.level.as_ref()), Some(Level::Stale(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_latest_reads_want_the_leader_of_their_keys() {
        use v1::consistency::Level;
        let name = |namespace: &str| Some(v1::CollectionName { namespace: namespace.into(), collection: "c".into() });
        let at = |level| Some(v1::Consistency { level: Some(level) });
        let of = |key: &str| (slot(key.as_bytes()), slot(key.as_bytes()));
        let record = |key: &str| v1::Record { key: key.to_owned().into(), ..Default::default() };
        let put = v1::PutRequest { collection: name("n"), records: vec![record("foo")], ..Default::default() };
        assert_eq!(Wish::of(&Call::Put(Box::new(put.clone()))), Wish::LeaderOf("n", of("foo")));
        let both = Call::Put(Box::new(v1::PutRequest { records: vec![record("foo"), record("hello")], ..put }));
        assert_eq!(Wish::of(&both), Wish::LeaderOf("n", (866, 12_182)));
        let latest = v1::GetRequest { collection: name(""), keys: vec!["foo".into()], ..Default::default() };
        assert_eq!(Wish::of(&Call::Get(Box::new(latest.clone()))), Wish::LeaderOf("default", of("foo")));
        let count = v1::CountRequest { collection: name(""), ..Default::default() };
        assert_eq!(Wish::of(&Call::Count(Box::new(count.clone()))), Wish::Leader("default"));
        for level in [Level::Stale(true), Level::Token(v1::Token::default())] {
            let get = Call::Get(Box::new(v1::GetRequest { consistency: at(level.clone()), ..latest.clone() }));
            assert_eq!(is_stale(&get), matches!(level, Level::Stale(_)));
            assert_eq!(Wish::of(&get), Wish::HolderOf("default", of("foo")));
            let count = Call::Count(Box::new(v1::CountRequest { consistency: at(level), ..count.clone() }));
            assert_eq!(Wish::of(&count), Wish::Any);
        }
    }
}
