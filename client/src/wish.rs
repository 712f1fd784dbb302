//! What a call would like to be answered by: the node that leads what it is about, one that has it, or any.

use loci_wire::v1::{self, pipeline_request::Call};
use loci_wire::{About, slot};

/// The namespace of calls that name none.
const NAMESPACE_DEFAULT: &str = "default";

/// The least and the greatest slot of a call's keys. Shards have slots in order: what has both has all.
pub(crate) type Span = (u16, u16);

/// What a call would like to be answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish<'c> {
    /// Any node.
    Any,
    /// The one that leads all of this namespace.
    Leader(&'c str),
    /// The one that leads the shard of this namespace with these slots; if they are in several, as `Leader`.
    LeaderOf(&'c str, Span),
    /// Any that has that shard; if they are in several, any.
    HolderOf(&'c str, Span),
}

impl<'c> Wish<'c> {
    /// Writes and reads at `latest` are answered without a detour where the shard is led, other reads where it is.
    pub fn of(call: &'c Call) -> Wish<'c> {
        match call {
            Call::Put(put) => Wish::to(put, true),
            Call::Delete(delete) => Wish::to(delete, true),
            Call::Batch(batch) => Wish::to(batch, true),
            Call::Get(get) => Wish::to(get, is_latest(&get.consistency)),
            Call::Scan(scan) => Wish::of_scan(scan),
            Call::Count(count) => Wish::to(count, is_latest(&count.consistency)),
            Call::Search(search) => Wish::to(search, is_latest(&search.consistency)),
            Call::Execute(execute) => Wish::to(execute, is_latest(&execute.consistency)),
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

    /// Which namespace it is about, if that makes a difference.
    pub fn namespace(self) -> Option<&'c str> {
        match self {
            Wish::Any => None,
            Wish::Leader(namespace) | Wish::LeaderOf(namespace, _) | Wish::HolderOf(namespace, _) => Some(namespace),
        }
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
        assert_eq!(Wish::of(&Call::Put(put.clone())), Wish::LeaderOf("n", of("foo")));
        let both = Call::Put(v1::PutRequest { records: vec![record("foo"), record("hello")], ..put });
        assert_eq!(Wish::of(&both), Wish::LeaderOf("n", (866, 12_182)));
        let latest = v1::GetRequest { collection: name(""), keys: vec!["foo".into()], ..Default::default() };
        assert_eq!(Wish::of(&Call::Get(latest.clone())), Wish::LeaderOf("default", of("foo")));
        let count = v1::CountRequest { collection: name(""), ..Default::default() };
        assert_eq!(Wish::of(&Call::Count(count.clone())), Wish::Leader("default"));
        for level in [Level::Stale(true), Level::Token(v1::Token::default())] {
            let get = Call::Get(v1::GetRequest { consistency: at(level.clone()), ..latest.clone() });
            assert_eq!(is_stale(&get), matches!(level, Level::Stale(_)));
            assert_eq!(Wish::of(&get), Wish::HolderOf("default", of("foo")));
            let count = Call::Count(v1::CountRequest { consistency: at(level), ..count.clone() });
            assert_eq!(Wish::of(&count), Wish::Any);
        }
    }
}
