//! The node's socket: who connects, and what for.
//!
//! ```text
//!   accept --first byte--> a call (HTTP/2): the gRPC server
//!                    \---> a pipe: the door to other nodes
//! ```
//!
//! Always: nobody who connects and says nothing holds up others, or stays for long.

use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::door::Door;
use crate::cluster::pipe;

/// Until then whoever connected has to say something.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Out of file descriptors, most likely: some come back meanwhile.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// Connections that wait for the gRPC server.
const WAITING: usize = 64;

/// Connections for a gRPC server; inside the runtime that is to accept them, until nobody takes them any more.
pub fn start(listener: StdListener, door: Arc<Door>) -> std::io::Result<ReceiverStream<std::io::Result<TcpStream>>> {
    let listener = TcpListener::from_std(listener)?;
    let (calls, incoming) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&listener, &door, &calls) => {}
            () = calls.closed() => {}
        }
    });
    Ok(ReceiverStream::new(incoming))
}

async fn accept(listener: &TcpListener, door: &Arc<Door>, calls: &mpsc::Sender<std::io::Result<TcpStream>>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        // Replies are sent when they are whole; waiting for more helps nobody.
        let _ = stream.set_nodelay(true);
        let (door, calls) = (door.clone(), calls.clone());
        tokio::spawn(async move {
            match timeout(SILENCE_MAX, pipe::is_one(&stream)).await {
                Ok(Ok(false)) => drop(calls.send(Ok(stream)).await),
                Ok(Ok(true)) => {
                    let is_me = |cluster, member| door.is(cluster, member);
                    let take = |messages: &[_], may_wait| door.receive(messages, may_wait);
                    if let Err(error) = pipe::serve(stream, is_me, take).await {
                        tracing::debug!(%from, %error, "a pipe broke");
                    }
                }
                // It is gone, or silent.
                Ok(Err(_)) | Err(_) => {}
            }
        });
    }
}
