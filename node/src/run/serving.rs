//! A node for as long as the process is to serve, which may be several in turn: one whose store is damaged stops and starts again,
//! with what another member has (see [`repair`](crate::cluster::repair)).

use std::future::Future;
use std::io::Write;

use super::{Node, RunError};
use crate::config::Config;

/// Runs a node until `shutdown` resolves. Says on standard output where it listens, once it does.
pub async fn serve(mut config: Config, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    tokio::pin!(shutdown);
    let mut said = false;
    loop {
        // A node may wait for others for long.
        let node = tokio::select! {
            node = Node::start(config.clone()) => node?,
            () = &mut shutdown => return Ok(()),
        };
        let serving = async {
            node.ready().await;
            if !std::mem::replace(&mut said, true) {
                say_where(&node);
            }
            node.is_to_start_again().await;
        };
        let again = tokio::select! {
            () = serving => true,
            () = &mut shutdown => false,
        };
        // Where it was is where clients look for it.
        config.listen = node.local_addr();
        config.metrics = config.metrics.and(node.metrics_addr());
        config.resp = config.resp.and(node.resp_addr());
        node.shutdown().await?;
        if !again {
            return Ok(());
        }
        tracing::warn!("starting again, with what was fetched from another member");
    }
}

fn say_where(node: &Node) {
    let mut stdout = std::io::stdout();
    // Whoever started this may have closed it.
    if let Some(address) = node.resp_addr() {
        let _ = writeln!(stdout, "redis clients on {address}");
    }
    let _ = writeln!(stdout, "listening on {}", node.local_addr()).and_then(|()| stdout.flush());
}
