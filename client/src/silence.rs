//! Silence: when a call stops waiting for a node of which nothing is heard any more, because its machine has died or it hangs.
//!
//! ```text
//!   a call waits --so long without an answer to any call--> the node is asked for a sign of life, on a connection of its own
//!     it answers -----------------------------------------> the call waits on, and so forth
//!     ANSWER_TIME without one, and another could be asked --> the call is made again there, and the node is left out
//! ```
//!
//! A connection that breaks says so at once; of one at whose other end nothing happens only time tells. Every call can be made
//! twice: reads by their nature, writes by their request id. Streams are the same as long as something is due on them: a reply on a
//! pipeline, a page of a scan. On a watch nothing may be due for long, so it is asked less often there.
//!
//! Always: with nobody else to ask, a call waits as long as its time lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::Error;
use crate::breaker::Verdict;
use crate::nodes::{Failed, Node, Nodes};

/// Nothing was heard of a node for so long while a call waited: then it is asked.
pub(crate) const QUIET: Duration = Duration::from_millis(500);
/// The same, where it may be that nothing is to be said.
pub(crate) const QUIET_WATCH: Duration = Duration::from_secs(1);
/// How long the sign of life may take.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// How often is looked whether it came.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// When something was last heard of a node.
#[derive(Debug)]
pub(crate) struct Heard {
    begun: Instant,
    micros: AtomicU64,
    /// Somebody is asking.
    asking: AtomicBool,
    /// For that alone: what is asked there waits behind no large call.
    channel: Channel,
}

impl Heard {
    /// Of a node that was not asked yet, and is asked on this connection.
    pub fn new(channel: Channel) -> Heard {
        Heard { begun: Instant::now(), micros: AtomicU64::new(0), asking: AtomicBool::new(false), channel }
    }

    /// The node has answered somebody.
    pub fn note(&self) {
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_max(micros, Ordering::Relaxed);
    }

    fn at(&self) -> Instant {
        self.begun + Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }
}

/// Asks a node for a sign of life, unless somebody does.
fn ask(node: &Arc<Node>) {
    if node.heard.asking.swap(true, Ordering::Relaxed) {
        return;
    }
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let mut health = HealthClient::new(node.heard.channel.clone());
        // Whether it serves, and whom, is not the question.
        match timeout(ANSWER_TIME, health.check(HealthCheckRequest::default())).await {
            Ok(Ok(_)) => node.heard.note(),
            Ok(Err(status)) if Verdict::of(&status) == Verdict::Answered => node.heard.note(),
            Ok(Err(_)) | Err(_) => {}
        }
        node.heard.asking.store(false, Ordering::Relaxed);
    });
}

impl Nodes {
    /// Returns once nothing is heard of a node any more and another could be asked; never, if that does not come to be. Whoever
    /// waits for an answer from the node, since a moment, waits for this, too.
    pub async fn silence(&self, node: &Arc<Node>, quiet: Duration, since: Instant) {
        loop {
            let heard = node.heard.at().max(since);
            sleep_until(heard + quiet).await;
            if node.heard.at() > heard {
                continue;
            }
            let asked = Instant::now();
            ask(node);
            while node.heard.at() <= heard && asked.elapsed() < ANSWER_TIME {
                sleep(LOOK_EVERY).await;
            }
            if node.heard.at() <= heard && self.has_other(node) {
                return self.ended(node, Verdict::Nobody);
            }
        }
    }
}

/// How a call ends that stops waiting.
pub(crate) fn gave_up(node: &Node) -> Failed {
    let message = format!("the node at {} has stopped answering", node.address());
    // It was no load there, as far as anybody knows.
    Failed { error: Error::Unavailable { message }, reached: false }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Addresses that take connections and never answer.
    fn mute(count: usize) -> (Vec<TcpListener>, Arc<Nodes>) {
        let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let nodes = Nodes::connect(&addresses, 1, true).unwrap();
        (listeners, nodes)
    }

    #[tokio::test]
    async fn a_node_of_which_nothing_is_heard_is_given_up_where_there_is_another() {
        let (_listeners, nodes) = mute(2);
        let node = nodes.choose(crate::wish::Wish::Any, None);
        let begun = Instant::now();
        timeout(Duration::from_secs(30), nodes.silence(&node, QUIET, Instant::now())).await.expect("it is given up");
        assert!(begun.elapsed() >= QUIET + ANSWER_TIME);
        assert!(!node.lets_in(), "others do not have to find out");
    }

    #[tokio::test]
    async fn with_nobody_else_to_ask_and_while_others_are_answered_a_call_waits_on() {
        let (_listeners, nodes) = mute(1);
        let node = nodes.choose(crate::wish::Wish::Any, None);
        let patience = 2 * (QUIET + ANSWER_TIME);
        timeout(patience, nodes.silence(&node, QUIET, Instant::now())).await.expect_err("there is nobody else");
        let (_listeners, nodes) = mute(2);
        let node = nodes.choose(crate::wish::Wish::Any, None);
        let answers = async {
            loop {
                nodes.ended(&node, Verdict::Answered);
                sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = nodes.silence(&node, QUIET, Instant::now()) => panic!("it answers others"),
            () = answers => {}
            () = sleep(patience) => {}
        }
    }

    #[tokio::test]
    async fn whoever_refuses_to_say_how_it_is_lives() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        // It has no service of health, and says so.
        let server = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
        tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
        let (_listeners, others) = mute(1);
        let other = others.choose(crate::wish::Wish::Any, None).address().to_owned();
        let nodes = Nodes::connect(&[address, other], 1, true).unwrap();
        let node = nodes.choose(crate::wish::Wish::Any, None);
        timeout(3 * (QUIET + ANSWER_TIME), nodes.silence(&node, QUIET, Instant::now())).await.expect_err("it lives");
        assert!(node.lets_in());
    }
}
