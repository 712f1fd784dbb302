//! A whole node in this process, for tests, with a collection of made-up embeddings.

use std::time::{Duration, Instant};

use loci_index::command::{Command, EmbeddingSpec, Envelope, Origin, Outcome, Schema};
use loci_index::distance::Metric;
use loci_index::record::CollectionId;

use crate::config::Config;
use crate::run::Node;

/// The same numbers every time: from -1 to 1.
pub(crate) fn embedding(number: u32, dimension: usize) -> Vec<f32> {
    let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..dimension).map(|_| next()).collect()
}

/// Starts a node, and waits until it serves.
pub(crate) async fn start(config: Config) -> Node {
    let node = Node::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    node.ready().await;
    node
}

/// Writes without asking who does.
pub(crate) async fn write(node: &Node, command: Command) -> Outcome {
    let envelope = Envelope { origin: Origin::default(), command };
    node.shard().write(envelope, None).await.unwrap().outcome
}

/// Makes collection "c" of namespace "n", whose records have one embedding, compared by squared L2.
pub(crate) async fn create(node: &Node, dimension: usize) -> CollectionId {
    write(node, Command::CreateNamespace { name: "n".into() }).await;
    let embeddings = vec![EmbeddingSpec::new("e", dimension as u32, Metric::SquaredL2.code())];
    let schema = Schema { embeddings, ..Schema::default() };
    let created = write(node, Command::CreateCollection { namespace: "n".into(), name: "c".into(), schema }).await;
    let Outcome::Created { collection } = created else { panic!("{created:?}") };
    CollectionId(collection)
}

/// Waits until it is so; a node that never gets there fails the test.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(240), "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
