//! Links between real nodes that can be cut, in both directions or in one, and slowed down: a proxy before each node, which
//! knows who connects.
//!
//! ```text
//!   node 1 --connects to what node 2 advertises--> proxy of 2 --> node 2
//!                                       who? the process that has the other end of the socket
//! ```
//!
//! Each node advertises its proxy's address, so all that others say to it goes through there. Whose process has the other end
//! of a connection is read from `/proc`; who is no node (a client that follows the advertised address) is let through.
//!
//! Always: bytes of a link that is cut wait, in both kinds of connection that carry them, those that the one node opened and
//! those that the other did; nothing is lost or changed, as on a network whose packets are sent again.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How one direction between two nodes behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// Nothing gets through.
    pub cut: bool,
    /// How long each piece is on its way, beside what it takes anyhow.
    pub delay: Duration,
}

/// All links. Ends with the runtime it was made in.
pub struct Links {
    shared: Arc<Shared>,
}

struct Shared {
    /// What each node advertises.
    advertised: Vec<String>,
    /// From, to.
    links: Vec<Vec<watch::Sender<Link>>>,
}

impl Links {
    /// Puts a proxy before each of these nodes, which listen or will.
    pub async fn before(nodes: &[String]) -> Links {
        let mut listeners = Vec::new();
        for _ in nodes {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.expect("a free port"));
        }
        let advertised = listeners.iter().map(|listener| listener.local_addr().expect("it is bound").to_string());
        let link = || watch::Sender::new(Link::default());
        let links = nodes.iter().map(|_| nodes.iter().map(|_| link()).collect()).collect();
        let shared = Arc::new(Shared { advertised: advertised.collect(), links });
        for ((to, node), listener) in nodes.iter().enumerate().zip(listeners) {
            tokio::spawn(accept(shared.clone(), to, node.clone(), listener));
        }
        Links { shared }
    }

    /// What each node is to advertise.
    pub fn advertised(&self) -> &[String] {
        &self.shared.advertised
    }

    /// Changes how one direction behaves.
    pub fn set(&self, from: usize, to: usize, link: Link) {
        self.shared.links[from][to].send_replace(link);
    }

    /// Changes how everything between two sides behaves.
    pub fn between(&self, left: &[usize], right: &[usize], link: Link) {
        for (one, other) in left.iter().flat_map(|one| right.iter().map(move |other| (*one, *other))) {
            self.set(one, other, link);
            self.set(other, one, link);
        }
    }

    /// All links work again.
    pub fn heal(&self) {
        for link in self.shared.links.iter().flatten() {
            link.send_replace(Link::default());
        }
    }
}

async fn accept(shared: Arc<Shared>, to: usize, node: String, listener: TcpListener) {
    loop {
        // What is accepted and ended at once is nobody's loss.
        let Ok((incoming, peer)) = listener.accept().await else { continue };
        let (shared, node) = (shared.clone(), node.clone());
        tokio::spawn(async move {
            let own = incoming.local_addr().ok()?;
            let asking = shared.clone();
            let from = tokio::task::spawn_blocking(move || who(peer, own, &asking.advertised)).await.ok()?;
            let outgoing = TcpStream::connect(&node).await.ok()?;
            let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
            let (there, back) = (incoming.into_split(), outgoing.into_split());
            let link = |from: Option<usize>, to: Option<usize>| {
                from.zip(to).map(|(from, to)| shared.links[from][to].subscribe())
            };
            tokio::select! {
                () = carry(there.0, back.1, link(from, Some(to))) => {}
                () = carry(back.0, there.1, link(Some(to), from)) => {}
            }
            Some(())
        });
    }
}

/// Carries one direction of a connection until it ends.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut link: Option<watch::Receiver<Link>>) {
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut piece).await.unwrap_or(0);
        if let Some(link) = &mut link {
            let delay = link.borrow().delay;
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            // An end too is not heard of through a link that is cut.
            if link.wait_for(|link| !link.cut).await.is_err() {
                return;
            }
        }
        if read == 0 || to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

/// Which node has the other end of a connection: the process that holds the socket, told by what it was started with.
fn who(peer: SocketAddr, own: SocketAddr, advertised: &[String]) -> Option<usize> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port())
        }
        SocketAddr::V6(_) => String::new(),
    };
    let (local, remote) = (hex(peer), hex(own));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let found = words.next() == Some(&local) && words.next() == Some(&remote);
        found.then(|| words.nth(6)).flatten()
    })?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.map(|process| process.path()).find_map(|process| {
        let command = fs::read(process.join("cmdline")).ok()?;
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        let at = words.iter().position(|word| *word == b"--advertise")?;
        let node = advertised.iter().position(|address| Some(&address.as_bytes()) == words.get(at + 1))?;
        let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
        let has = |file: fs::DirEntry| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == &*socket);
        files.any(has).then_some(node)
    })
}
