//! Clients: every connection as the others see it.
//!
//! ```text
//!   hub, other connections --push, kill, unblock--> Client --wake--> the connection's task, which alone reads and writes
//! ```
//!
//! Always: what waits for a client that does not read is bounded; past the bound the client is cut off.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use loci_wire::resp::Protocol;
use tokio::sync::Notify;

/// The most bytes of messages that wait for a client.
pub const OUTBOX_BYTES_MAX: usize = 32 << 20;

/// How `CLIENT UNBLOCK` ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unblock {
    /// As if its time were up.
    Timeout,
    /// With an error.
    Error,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Counted from 1, never given again.
    pub id: u64,
    /// Where it comes from.
    pub address: SocketAddr,
    /// Where it came to.
    pub local: SocketAddr,
    /// When.
    pub since: Instant,
    /// Whether it speaks the newer protocol; for those who write to it.
    pub is_three: AtomicBool,
    /// Something is to be looked at.
    pub wake: Notify,
    killed: AtomicBool,
    left: AtomicBool,
    unblock: AtomicU8,
    facts: Mutex<Facts>,
    outbox: Mutex<Outbox>,
}

/// What `CLIENT LIST` says.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Given by `CLIENT SETNAME`.
    pub name: String,
    /// Given by `CLIENT SETINFO`.
    pub library: String,
    /// Its version.
    pub library_version: String,
    /// The selected database.
    pub database: u8,
    /// Who it is; nothing: nobody yet.
    pub user: String,
    /// What it called last.
    pub command: &'static str,
    /// When.
    pub active: Instant,
    /// Channels, patterns, sharded channels.
    pub subscriptions: [usize; 3],
    /// Calls that a transaction has gathered, if one was begun.
    pub gathered: Option<usize>,
    /// Keys that it watches.
    pub watched: usize,
    /// Bytes that came and were not looked at.
    pub input_bytes: usize,
    /// Bytes of replies that wait to be sent.
    pub output_bytes: usize,
    /// Whether it waits in a blocking command.
    pub blocked: bool,
    /// Whether it keeps what it read, and wants to hear of changes.
    pub tracking: bool,
    /// To whom it wants changes to be told instead.
    pub redirect: Option<u64>,
    /// `CLIENT NO-EVICT`.
    pub no_evict: bool,
    /// `CLIENT NO-TOUCH`.
    pub no_touch: bool,
    /// Whether it watches all commands.
    pub monitor: bool,
}

#[derive(Debug, Default)]
struct Outbox {
    messages: Vec<Bytes>,
    bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    fn new(id: u64, address: SocketAddr, local: SocketAddr) -> Client {
        let now = Instant::now();
        Client {
            id,
            address,
            local,
            since: now,
            is_three: AtomicBool::new(false),
            wake: Notify::new(),
            killed: AtomicBool::new(false),
            left: AtomicBool::new(false),
            unblock: AtomicU8::new(0),
            facts: Mutex::new(Facts {
                name: String::new(),
                library: String::new(),
                library_version: String::new(),
                database: 0,
                user: String::new(),
                command: "NULL",
                active: now,
                subscriptions: [0; 3],
                gathered: None,
                watched: 0,
                input_bytes: 0,
                output_bytes: 0,
                blocked: false,
                tracking: false,
                redirect: None,
                no_evict: false,
                no_touch: false,
                monitor: false,
            }),
            outbox: Mutex::default(),
        }
    }

    /// What is known of it, to read or to change for a moment.
    pub fn facts(&self) -> MutexGuard<'_, Facts> {
        lock(&self.facts)
    }

    /// The protocol that it speaks.
    pub fn protocol(&self) -> Protocol {
        if self.is_three.load(Ordering::Relaxed) { Protocol::Three } else { Protocol::Two }
    }

    /// Sends it a message, as its protocol writes it. One that has too many waiting is cut off.
    pub fn push(&self, message: Bytes) {
        let mut outbox = lock(&self.outbox);
        outbox.bytes += message.len();
        if outbox.bytes > OUTBOX_BYTES_MAX {
            outbox.messages = Vec::new();
            drop(outbox);
            return self.kill();
        }
        outbox.messages.push(message);
        if outbox.messages.len() == 1 {
            drop(outbox);
            self.wake.notify_one();
        }
    }

    /// Takes the messages that wait.
    pub fn take_messages(&self, out: &mut Vec<u8>) {
        let mut outbox = lock(&self.outbox);
        if outbox.messages.is_empty() {
            return;
        }
        outbox.bytes = 0;
        let messages = std::mem::take(&mut outbox.messages);
        drop(outbox);
        messages.iter().for_each(|message| out.extend_from_slice(message));
    }

    /// Ends it soon.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Whether somebody ended it.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Whether its connection is closed.
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Whether it subscribed to anything.
    pub fn is_subscribed(&self) -> bool {
        self.facts().subscriptions.iter().any(|count| *count > 0)
    }

    /// Ends its waiting, if it waits; whether it does.
    pub fn unblock(&self, how: Unblock) -> bool {
        if !self.facts().blocked {
            return false;
        }
        self.unblock.store(if how == Unblock::Timeout { 1 } else { 2 }, Ordering::Release);
        self.wake.notify_one();
        true
    }

    /// How its waiting is to end, if it is.
    pub fn take_unblock(&self) -> Option<Unblock> {
        match self.unblock.swap(0, Ordering::AcqRel) {
            0 => None,
            1 => Some(Unblock::Timeout),
            _ => Some(Unblock::Error),
        }
    }

    /// Its line of `CLIENT LIST`.
    pub fn line(&self) -> String {
        let facts = self.facts().clone();
        let waiting = lock(&self.outbox);
        let (messages, bytes) = (waiting.messages.len(), waiting.bytes + facts.output_bytes);
        drop(waiting);
        let mut flags = String::new();
        for (is, flag) in [
            (facts.monitor, 'O'),
            (facts.blocked, 'b'),
            (facts.gathered.is_some(), 'x'),
            (facts.tracking, 't'),
            (facts.subscriptions.iter().sum::<usize>() > 0, 'P'),
            (facts.no_evict, 'e'),
            (facts.no_touch, 'T'),
        ] {
            if is {
                flags.push(flag);
            }
        }
        if flags.is_empty() {
            flags.push('N');
        }
        let multi = facts.gathered.map_or(-1, |count| count as i64);
        let redirect = match (facts.tracking, facts.redirect) {
            (_, Some(id)) => id as i64,
            (true, None) => 0,
            (false, None) => -1,
        };
        let [channels, patterns, sharded] = facts.subscriptions;
        let mut line = String::new();
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={flags} db={} sub={channels} psub={patterns} \
             ssub={sharded} multi={multi} watch={} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=16384 rbp=16384 obl=0 \
             oll={messages} omem={bytes} tot-mem={} events=r cmd={} user={} redir={redirect} resp={} lib-name={} \
             lib-ver={}",
            self.id,
            self.address,
            self.local,
            self.id + 7,
            facts.name,
            self.since.elapsed().as_secs(),
            facts.active.elapsed().as_secs(),
            facts.database,
            facts.watched,
            facts.input_bytes,
            size_of::<Client>() + 4096 + facts.input_bytes + bytes,
            facts.command,
            if facts.user.is_empty() { "(superuser)" } else { &facts.user },
            if self.protocol() == Protocol::Three { 3 } else { 2 },
            facts.library,
            facts.library_version,
        );
        line
    }
}

/// All connections.
#[derive(Debug, Default)]
pub struct Clients {
    last: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
}

impl Clients {
    /// Takes in another one.
    pub fn enter(&self, address: SocketAddr, local: SocketAddr) -> Arc<Client> {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Client::new(id, address, local));
        lock(&self.open).insert(id, client.clone());
        client
    }

    /// It is closed.
    pub fn leave(&self, id: u64) {
        if let Some(client) = lock(&self.open).remove(&id) {
            client.left.store(true, Ordering::Release);
        }
    }

    /// The one with that number.
    pub fn get(&self, id: u64) -> Option<Arc<Client>> {
        lock(&self.open).get(&id).cloned()
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> Vec<Arc<Client>> {
        lock(&self.open).values().cloned().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        lock(&self.open).len()
    }

    /// How many there have been.
    pub fn seen(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}
