//! The listener: who may connect.
//!
//! Protected mode: as long as anybody may do everything, only programs on this machine may connect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use super::lanes::Lanes;
use super::{Door, connection};

/// How long somebody who is turned away may take to read why.
const FAREWELL: Duration = Duration::from_millis(500);
/// Out of file descriptors, most likely: some come back meanwhile.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const FULL: &str = "-ERR max number of clients reached\r\n";
const DENIED: &str = "-DENIED Redis is running in protected mode because protected mode is enabled and no password is set for the \
                      default user. In this mode connections are only accepted from the loopback interface. Start the node with \
                      --resp-password-file, or set a password with CONFIG SET requirepass from this machine.\r\n";

/// Lets clients in for as long as the door is open.
pub async fn run(listener: TcpListener, door: Arc<Door>, lanes: Arc<Lanes>) {
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if let Some(reason) = refusal(&door, from) {
            door.figures.rejected.fetch_add(1, Ordering::Relaxed);
            door.metrics.redis().rejected.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(turn_away(stream, reason));
            continue;
        }
        // Replies are sent when they are whole; waiting for more helps nobody.
        let _ = stream.set_nodelay(true);
        let local = stream.local_addr().unwrap_or(door.address);
        let Ok(stream) = stream.into_std() else { continue };
        let client = door.clients.enter(from, local);
        lanes.serve(|lane| connection::serve(stream, door.clone(), lane, client));
    }
}

fn refusal(door: &Door, from: SocketAddr) -> Option<&'static str> {
    if door.clients.len() >= door.figures.connections_max.load(Ordering::Relaxed) {
        return Some(FULL);
    }
    let open = || door.users.anybody().is_some() && door.settings.get("protected-mode") != "no";
    (!from.ip().to_canonical().is_loopback() && open()).then_some(DENIED)
}

async fn turn_away(mut stream: TcpStream, reason: &'static str) {
    // It may have gone already.
    let _ = tokio::time::timeout(FAREWELL, async {
        stream.write_all(reason.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}
