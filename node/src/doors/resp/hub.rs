//! The hub: who is to be told what happened to keys and channels.
//!
//! ```text
//!   shard: entry applied --events--> hub --> subscribers of a channel, those who wait for a key, caches in clients
//! ```
//!
//! Every node tells its own clients, since every node applies every entry, or hears of it from one that does
//! ([`ears`](super::ears)). Clients are told by a push into their outbox, which never waits.
//!
//! Always: whoever waits for a key is in its queue, and changes are told, before he looks whether it is there, so that none escapes
//! him; or he is roused once they are. Of those who wait for a key the first is woken; once he is done the next is, for as long as
//! the key is there. A message is told once, also while another begins to tell of its shard, as far as both say what it is part of.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use loci_index::record::CollectionId;
use loci_index::table::{Event, glob};
use loci_index::view::View;
use loci_wire::resp::{Protocol, Writer};
use loci_wire::v1;
use loci_wire::v1::heard;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::client::Client;
use super::databases::Databases;
use super::ears::{Ear, FarEar};
use super::places::Home;
use super::settings::notify;
use crate::cluster::Cluster;
use crate::shard::{Happened, Wants};

/// The most keys that are remembered for caches in clients. Past it some are called changed.
const TRACKED_KEYS_MAX: usize = 1 << 20;
/// How long somebody waits until he is told of changes. Longer: all may have changed meanwhile.
const HEARD_WITHIN: Duration = Duration::from_millis(500);
/// Changes are told for so long after the last who wanted them: he may come again.
const LINGERS: Duration = Duration::from_secs(10);

/// The kinds of subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To a channel.
    Channel,
    /// To all channels that a pattern matches.
    Pattern,
    /// To a channel that belongs to a slot.
    Sharded,
}

/// Who waits for keys.
#[derive(Debug)]
pub struct Waiter {
    client: Arc<Client>,
    keys: Vec<Box<[u8]>>,
    /// Something happened to one of the keys.
    ready: AtomicBool,
}

impl Waiter {
    /// For these keys of a database, each once.
    pub fn new<'k>(client: Arc<Client>, database: u8, keys: impl Iterator<Item = &'k [u8]>) -> Arc<Waiter> {
        let mut all: Vec<Box<[u8]>> = keys.map(|key| place(database, key)).collect();
        all.sort_unstable();
        all.dedup();
        Arc::new(Waiter { client, keys: all, ready: AtomicBool::new(false) })
    }

    /// Whether something happened since it was asked last.
    pub fn take_ready(&self) -> bool {
        self.ready.swap(false, Ordering::AcqRel)
    }

    fn rouse(&self) {
        self.ready.store(true, Ordering::Release);
        self.client.wake.notify_one();
    }
}

/// Whose cache is told of changes.
#[derive(Debug)]
pub struct Tracker {
    client: Arc<Client>,
    /// Who is told in its place.
    redirect: Option<Arc<Client>>,
    /// Whether its own changes are not told.
    no_loop: bool,
    /// Keys that it is changing just now.
    writing: Mutex<HashSet<Box<[u8]>>>,
}

impl Tracker {
    /// For a client, or for another that is told in its place.
    pub fn new(client: Arc<Client>, redirect: Option<Arc<Client>>, no_loop: bool) -> Tracker {
        Tracker { client, redirect, no_loop, writing: Mutex::default() }
    }

    /// Says which keys are being changed by the client itself.
    pub fn set_writing(&self, keys: HashSet<Box<[u8]>>) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn is_own(&self, key: &[u8]) -> bool {
        self.no_loop && self.writing.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn tell(&self, keys: Option<&[u8]>) {
        let target = self.redirect.as_ref().unwrap_or(&self.client);
        let protocol = target.protocol();
        let mut message = Writer::new(protocol);
        match protocol {
            _ if target.has_left() => return self.tell_nobody_is_there(target.id),
            Protocol::Three => {
                message.push(2);
                message.bulk("invalidate");
            }
            // In the older protocol only who subscribed expects anything besides replies.
            Protocol::Two if self.redirect.is_none() || !target.is_subscribed() => return,
            Protocol::Two => {
                message.array(3);
                message.bulk("message");
                message.bulk("__redis__:invalidate");
            }
        }
        match keys {
            Some(key) => {
                message.array(1);
                message.bulk(key);
            }
            None => message.null(),
        }
        target.push(message.into_bytes().into());
    }

    /// Who was to be told in its place has left.
    fn tell_nobody_is_there(&self, id: u64) {
        if self.client.protocol() == Protocol::Three {
            let mut message = Writer::new(Protocol::Three);
            message.push(2);
            message.bulk("tracking-redir-broken");
            message.int(id as i64);
            self.client.push(message.into_bytes().into());
        }
    }
}

#[derive(Default)]
struct Inner {
    channels: HashMap<Box<[u8]>, Vec<Arc<Client>>>,
    sharded: HashMap<Box<[u8]>, Vec<Arc<Client>>>,
    patterns: BTreeMap<Box<[u8]>, Vec<Arc<Client>>>,
    waiting: HashMap<Box<[u8]>, VecDeque<Arc<Waiter>>>,
    /// Who waits, all keys together.
    waiters: usize,
    trackers: HashMap<u64, Arc<Tracker>>,
    /// Which trackers have read a key.
    tracked: HashMap<Box<[u8]>, Vec<u64>>,
    /// Which trackers want to hear of all keys that begin so.
    prefixes: Vec<(Box<[u8]>, u64)>,
    monitors: Vec<Arc<Client>>,
    /// How each shard is heard of.
    attentions: BTreeMap<u32, Attention>,
    /// So many ears were made.
    made: u64,
    /// Those that are needed no more. They are not let go of while a shard tells something.
    discarded: Vec<Ear>,
    is_closed: bool,
    listening: Wants,
    /// Since when less would do.
    idle_since: Option<Instant>,
}

/// How a shard is heard of.
#[derive(Default)]
struct Attention {
    /// Which ear counts, if it is made.
    number: u64,
    ear: Option<Ear>,
    /// What it is told by now; none: it has not begun.
    told: Option<Wants>,
    /// Somebody did not wait for that.
    is_late: bool,
    /// The ears before it, which go on until it has begun.
    before: Vec<Ear>,
    /// What happened up to this entry was told to subscribers.
    heard: u64,
}

/// Something that happened, wherever it was told.
enum Heard<'e> {
    Published { channel: &'e [u8], message: &'e [u8], sharded: bool },
    Changed(&'e [u8]),
    Flushed,
    Named { class: u8, name: &'e str, key: &'e [u8] },
}

/// Which databases collections are.
struct Numbers<'v> {
    databases: &'v Databases,
    view: &'v View,
    last: Option<(CollectionId, Option<u8>)>,
}

impl<'v> Numbers<'v> {
    fn new(databases: &'v Databases, view: &'v View) -> Numbers<'v> {
        Numbers { databases, view, last: None }
    }

    fn of(&mut self, collection: CollectionId) -> Option<u8> {
        match self.last {
            Some((known, database)) if known == collection => database,
            _ => {
                let database = self.databases.number(self.view, collection);
                self.last = Some((collection, database));
                database
            }
        }
    }
}

/// See the module's front page.
pub struct Hub {
    inner: Mutex<Inner>,
    databases: Arc<Databases>,
    /// What `notify-keyspace-events` says.
    notify: AtomicU32,
    is_monitored: AtomicBool,
    /// Changes when an ear is told more.
    begun: watch::Sender<()>,
}

/// A key with its database before it.
fn place(database: u8, key: &[u8]) -> Box<[u8]> {
    let mut place = Vec::with_capacity(key.len() + 1);
    place.push(database);
    place.extend_from_slice(key);
    place.into()
}

/// One message in both protocols, each written when it is first needed.
struct Message<'m> {
    parts: &'m [&'m [u8]],
    two: Option<Bytes>,
    three: Option<Bytes>,
}

impl<'m> Message<'m> {
    fn new(parts: &'m [&'m [u8]]) -> Message<'m> {
        Message { parts, two: None, three: None }
    }

    fn send(&mut self, to: &Client) {
        let protocol = to.protocol();
        let written = if protocol == Protocol::Two { &mut self.two } else { &mut self.three };
        let bytes = written.get_or_insert_with(|| {
            let mut out = Writer::new(protocol);
            out.push(self.parts.len());
            self.parts.iter().for_each(|part| out.bulk(part));
            out.into_bytes().into()
        });
        to.push(bytes.clone());
    }
}

impl Inner {
    fn subscribers(&mut self, kind: Kind) -> &mut HashMap<Box<[u8]>, Vec<Arc<Client>>> {
        if kind == Kind::Sharded { &mut self.sharded } else { &mut self.channels }
    }

    fn publish(&self, channel: &[u8], message: &[u8], sharded: bool) {
        if sharded {
            let parts: [&[u8]; 3] = [b"smessage", channel, message];
            let mut out = Message::new(&parts);
            self.sharded.get(channel).into_iter().flatten().for_each(|to| out.send(to));
            return;
        }
        let parts: [&[u8]; 3] = [b"message", channel, message];
        let mut out = Message::new(&parts);
        self.channels.get(channel).into_iter().flatten().for_each(|to| out.send(to));
        for (pattern, subscribers) in self.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            let parts: [&[u8]; 4] = [b"pmessage", pattern, channel, message];
            let mut out = Message::new(&parts);
            subscribers.iter().for_each(|to| out.send(to));
        }
    }

    fn changed(&mut self, database: u8, key: &[u8]) {
        if self.waiters > 0
            && let Some(first) = self.waiting.get(&place(database, key)).and_then(VecDeque::front)
        {
            first.rouse();
        }
        if self.trackers.is_empty() {
            return;
        }
        let mut told = self.tracked.remove(key).unwrap_or_default();
        let interested = self.prefixes.iter().filter(|(prefix, _)| key.starts_with(prefix));
        told.extend(interested.map(|(_, id)| *id));
        told.sort_unstable();
        told.dedup();
        for tracker in told.iter().filter_map(|id| self.trackers.get(id)) {
            if !tracker.is_own(key) {
                tracker.tell(Some(key));
            }
        }
    }

    /// Anything may have happened.
    fn jumped(&mut self) {
        self.waiting.values().flatten().for_each(|waiter| waiter.rouse());
        self.tracked.clear();
        self.trackers.values().for_each(|tracker| tracker.tell(None));
    }

    fn want(&mut self, wants: Wants) {
        self.listening = wants;
        self.idle_since = None;
        for attention in self.attentions.values_mut() {
            attention.told = attention.told.map(|told| told.common(wants));
            attention.ear.iter().chain(&attention.before).for_each(|ear| ear.wants(wants));
        }
    }

    /// Something is told of a shard, as of this entry. Whether it was not told before.
    fn hears(&mut self, shard: u32, index: u64) -> bool {
        let Some(attention) = self.attentions.get_mut(&shard) else { return false };
        let is_new = index > attention.heard;
        attention.heard = attention.heard.max(index);
        is_new
    }

    /// Wakes the first who waits for a key, or the one behind another.
    fn pass_on(&self, place: &[u8], behind: Option<&Arc<Waiter>>) {
        let Some(queue) = self.waiting.get(place) else { return };
        let next = match behind {
            None => queue.front(),
            Some(one) => queue.iter().skip_while(|waiter| !Arc::ptr_eq(waiter, one)).nth(1),
        };
        if let Some(next) = next {
            next.rouse();
        }
    }
}

impl Hub {
    /// For the clients of a node.
    pub fn new(databases: Arc<Databases>) -> Hub {
        let (inner, begun) = (Mutex::default(), watch::Sender::new(()));
        Hub { inner, databases, notify: AtomicU32::new(0), is_monitored: AtomicBool::new(false), begun }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears of these shards from now on, and of no others. Not for two at a time.
    pub fn attend(self: &Arc<Hub>, homes: &[Home], cluster: &Cluster, runtime: &Handle) {
        let mut inner = self.lock();
        let attends = |home: &Home| {
            let known = inner.attentions.get(&home.id());
            known.and_then(|known| known.ear.as_ref()).is_some_and(|ear| ear.is_of(home.heard_here()))
        };
        if inner.is_closed || homes.len() == inner.attentions.len() && homes.iter().all(attends) {
            return;
        }
        let is_wanted = |id: &u32| homes.iter().any(|home| home.id() == *id);
        let (kept, left): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut inner.attentions).into_iter().partition(|(id, _)| is_wanted(id));
        inner.attentions = kept;
        let mut missing = Vec::new();
        for home in homes {
            let number = inner.made + 1;
            let attention = inner.attentions.entry(home.id()).or_default();
            if attention.ear.as_ref().is_some_and(|ear| ear.is_of(home.heard_here())) {
                continue;
            }
            attention.before.extend(attention.ear.take());
            (attention.number, attention.told) = (number, None);
            inner.made = number;
            missing.push((home, number));
        }
        let (wants, discarded) = (inner.listening, std::mem::take(&mut inner.discarded));
        // A shard that tells something waits for what is held here.
        drop(inner);
        drop((left, discarded));
        for (home, number) in missing {
            let (id, hub) = (home.id(), Arc::downgrade(self));
            let ear = match home.heard_here() {
                None => Ear::Far(FarEar::new(hub, cluster.clone(), (id, number), wants, runtime)),
                Some(shard) => {
                    let told = move |view: &View, happened: &Happened| {
                        if let Some(hub) = hub.upgrade() {
                            hub.take((id, number), view, happened);
                        }
                    };
                    Ear::Here(shard.clone(), shard.listen(Arc::new(told), wants))
                }
            };
            let mut inner = self.lock();
            let listening = inner.listening;
            let attention = inner.attentions.get_mut(&id).filter(|attention| attention.number == number);
            let unwanted = match attention {
                Some(attention) => {
                    if listening != wants {
                        ear.wants(listening);
                    }
                    attention.ear = Some(ear);
                    None
                }
                None => Some(ear),
            };
            drop(inner);
            drop(unwanted);
        }
    }

    /// Lets go of the shards, for good: their handles must not outlive them.
    pub fn detach(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        let left = (std::mem::take(&mut inner.attentions), std::mem::take(&mut inner.discarded));
        drop(inner);
        drop(left);
    }

    /// Wants to hear more, if somebody needs it. Less: see [`Hub::rest`].
    fn listen(&self, inner: &mut Inner) {
        let wanted = self.wanted(inner);
        if !inner.listening.are_all_of(wanted) {
            inner.want(inner.listening.and(wanted));
        }
    }

    fn wanted(&self, inner: &Inner) -> Wants {
        Wants {
            changes: inner.waiters > 0 || !inner.trackers.is_empty(),
            names: self.notify.load(Ordering::Relaxed) != 0,
        }
    }

    /// Wants to hear less, once nobody has needed more for a while. Called now and then.
    pub fn rest(&self) {
        let mut inner = self.lock();
        let wanted = self.wanted(&inner);
        if wanted == inner.listening {
            inner.idle_since = None;
        } else if inner.idle_since.get_or_insert_with(Instant::now).elapsed() >= LINGERS {
            inner.want(wanted);
        }
        let discarded = std::mem::take(&mut inner.discarded);
        drop(inner);
        drop(discarded);
    }

    /// Returns once all changes are told that are wanted, of one shard or of all. If that takes long, who waits is roused when it is so,
    /// and nobody waits for it again until then.
    pub async fn heard(&self, shard: Option<u32>) {
        let (mut begun, until) = (self.begun.subscribe(), Instant::now() + HEARD_WITHIN);
        loop {
            {
                let mut inner = self.lock();
                let wanted = Wants { names: false, ..inner.listening };
                let all = inner.attentions.iter_mut();
                let mut silent = all.filter(|(id, attention)| {
                    let is_told = attention.told.is_some_and(|told| told.are_all_of(wanted));
                    !is_told && !attention.is_late && shard.is_none_or(|shard| shard == **id)
                });
                let Some((_, first)) = silent.next() else { return };
                if Instant::now() >= until {
                    first.is_late = true;
                    silent.for_each(|(_, attention)| attention.is_late = true);
                    return;
                }
            }
            // Looked at again in any case.
            let _ = tokio::time::timeout_at(until.into(), begun.changed()).await;
        }
    }

    /// An ear was told what happened in a shard that is here: called by its thread.
    fn take(&self, (shard, number): (u32, u64), view: &View, happened: &Happened) {
        let mut inner = self.lock();
        match happened {
            Happened::Jumped => inner.jumped(),
            Happened::Begun(wants) => self.has_begun(&mut inner, (shard, number), *wants),
            Happened::Events(events) => {
                let is_new = inner.hears(shard, view.index());
                let mut numbers = Numbers::new(&self.databases, view);
                for (collection, event) in events {
                    let Some(database) = numbers.of(*collection) else { continue };
                    let event = match event {
                        Event::Published { channel, message, sharded } => {
                            Heard::Published { channel, message, sharded: *sharded }
                        }
                        Event::Changed { key } => Heard::Changed(key),
                        Event::Flushed => Heard::Flushed,
                        Event::Named { class, name, key } => Heard::Named { class: *class, name, key },
                    };
                    self.happens(&mut inner, database, event, is_new);
                }
            }
        }
    }

    /// An ear was told by another node what happened in a shard.
    pub fn take_far(&self, (shard, number): (u32, u64), catalog: &View, reply: v1::HearReply) {
        let mut inner = self.lock();
        if reply.jumped {
            inner.jumped();
        }
        if let Some(v1::HearingBegun { changes, names }) = reply.begun {
            self.has_begun(&mut inner, (shard, number), Wants { changes, names });
        }
        let is_new = !reply.events.is_empty() && inner.hears(shard, reply.index);
        let mut numbers = Numbers::new(&self.databases, catalog);
        for v1::Heard { collection, event } in &reply.events {
            let Some(database) = numbers.of(CollectionId(*collection)) else { continue };
            let event = match event {
                Some(heard::Event::Published(v1::PublishedMessage { channel, message, sharded })) => {
                    Heard::Published { channel, message, sharded: *sharded }
                }
                Some(heard::Event::Changed(key)) => Heard::Changed(key),
                Some(heard::Event::Flushed(_)) => Heard::Flushed,
                Some(heard::Event::Named(v1::NamedEvent { class, name, key })) => {
                    Heard::Named { class: u8::try_from(*class).unwrap_or(0), name, key }
                }
                None => continue,
            };
            self.happens(&mut inner, database, event, is_new);
        }
    }

    fn has_begun(&self, inner: &mut Inner, (shard, number): (u32, u64), wants: Wants) {
        let listening = inner.listening;
        let Some(attention) = inner.attentions.get_mut(&shard).filter(|attention| attention.number == number) else {
            return;
        };
        // What was wanted in between and is no more may be told no longer.
        let is_first = attention.told.replace(wants.common(listening)).is_none();
        let was_late = std::mem::take(&mut attention.is_late);
        let before = std::mem::take(&mut attention.before);
        inner.discarded.extend(before);
        if is_first || was_late {
            inner.jumped();
        }
        self.begun.send_replace(());
    }

    /// `is_new`: subscribers have not been told of it by another ear.
    fn happens(&self, inner: &mut Inner, database: u8, event: Heard<'_>, is_new: bool) {
        match event {
            Heard::Published { .. } | Heard::Named { .. } if !is_new => {}
            Heard::Published { channel, message, sharded } => inner.publish(channel, message, sharded),
            Heard::Changed(key) => inner.changed(database, key),
            Heard::Flushed => {
                // Databases may have been exchanged.
                inner.jumped();
            }
            Heard::Named { class, name, key } => self.named(inner, database, class, name, key),
        }
    }

    fn named(&self, inner: &Inner, database: u8, class: u8, name: &str, key: &[u8]) {
        let wanted = self.notify.load(Ordering::Relaxed);
        if wanted & notify::bit(class) == 0 {
            return;
        }
        if wanted & notify::KEYSPACE != 0 {
            let channel = [format!("__keyspace@{database}__:").as_bytes(), key].concat();
            inner.publish(&channel, name.as_bytes(), false);
        }
        if wanted & notify::KEYEVENT != 0 {
            inner.publish(format!("__keyevent@{database}__:{name}").as_bytes(), key, false);
        }
    }

    /// Which events on keys are told to subscribers.
    pub fn set_notify(&self, flags: u32) {
        let mut inner = self.lock();
        self.notify.store(flags, Ordering::Relaxed);
        self.listen(&mut inner);
    }

    /// A client subscribes to a channel or pattern that it was not subscribed to.
    pub fn subscribe(&self, kind: Kind, name: &[u8], client: &Arc<Client>) {
        let mut inner = self.lock();
        let subscribers = match kind {
            Kind::Pattern => inner.patterns.entry(name.into()).or_default(),
            _ => inner.subscribers(kind).entry(name.into()).or_default(),
        };
        subscribers.push(client.clone());
    }

    /// It no longer is.
    pub fn unsubscribe(&self, kind: Kind, name: &[u8], client: &Arc<Client>) {
        let mut inner = self.lock();
        let subscribers = match kind {
            Kind::Pattern => inner.patterns.get_mut(name),
            _ => inner.subscribers(kind).get_mut(name),
        };
        let Some(subscribers) = subscribers else { return };
        subscribers.retain(|known| known.id != client.id);
        if subscribers.is_empty() {
            match kind {
                Kind::Pattern => inner.patterns.remove(name),
                _ => inner.subscribers(kind).remove(name),
            };
        }
    }

    /// How many would get a message.
    pub fn receivers(&self, channel: &[u8], sharded: bool) -> usize {
        let inner = self.lock();
        if sharded {
            return inner.sharded.get(channel).map_or(0, Vec::len);
        }
        let matching = inner.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel));
        inner.channels.get(channel).map_or(0, Vec::len) + matching.map(|(_, all)| all.len()).sum::<usize>()
    }

    /// The channels that have subscribers, and match.
    pub fn channels(&self, pattern: Option<&[u8]>, sharded: bool) -> Vec<Box<[u8]>> {
        let inner = self.lock();
        let channels = if sharded { &inner.sharded } else { &inner.channels };
        let fits = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
        channels.keys().filter(|name| fits(name)).cloned().collect()
    }

    /// How many subscribers a channel has, without patterns.
    pub fn subscribers(&self, channel: &[u8], sharded: bool) -> usize {
        let inner = self.lock();
        let channels = if sharded { &inner.sharded } else { &inner.channels };
        channels.get(channel).map_or(0, Vec::len)
    }

    /// Channels, patterns and sharded channels that have subscribers; clients that wait; clients whose caches are told.
    pub fn counts(&self) -> [usize; 5] {
        let inner = self.lock();
        [inner.channels.len(), inner.patterns.len(), inner.sharded.len(), inner.waiters, inner.trackers.len()]
    }

    /// Somebody begins to wait.
    pub fn wait(&self, waiter: &Arc<Waiter>) {
        let mut inner = self.lock();
        for key in &waiter.keys {
            inner.waiting.entry(key.clone()).or_default().push_back(waiter.clone());
        }
        inner.waiters += 1;
        self.listen(&mut inner);
    }

    /// He got nothing, though this key was there: it may be for the one behind him.
    pub fn pass_on(&self, waiter: &Arc<Waiter>) {
        let inner = self.lock();
        waiter.keys.iter().for_each(|key| inner.pass_on(key, Some(waiter)));
    }

    /// He waits no longer.
    pub fn leave(&self, waiter: &Arc<Waiter>) {
        let mut inner = self.lock();
        for key in &waiter.keys {
            if let Some(queue) = inner.waiting.get_mut(key) {
                queue.retain(|known| !Arc::ptr_eq(known, waiter));
                if queue.is_empty() {
                    inner.waiting.remove(key);
                } else {
                    inner.pass_on(key, None);
                }
            }
        }
        inner.waiters -= 1;
        self.listen(&mut inner);
    }

    /// A client's cache is told of changes from now on: of the keys it reads, or of all that begin with one of the prefixes.
    pub fn track(&self, tracker: Arc<Tracker>, prefixes: Option<&[Box<[u8]>]>) {
        let mut inner = self.lock();
        let id = tracker.client.id;
        inner.prefixes.retain(|(_, known)| *known != id);
        inner.prefixes.extend(prefixes.into_iter().flatten().map(|prefix| (prefix.clone(), id)));
        inner.trackers.insert(id, tracker);
        self.listen(&mut inner);
    }

    /// It is told no longer.
    pub fn track_no_more(&self, id: u64) {
        let mut inner = self.lock();
        inner.trackers.remove(&id);
        inner.prefixes.retain(|(_, known)| *known != id);
        // What it has read is forgotten when it changes.
        self.listen(&mut inner);
    }

    /// A client reads keys, and is to be told when they change.
    pub fn reads<'k>(&self, id: u64, keys: impl Iterator<Item = &'k [u8]>) {
        let mut inner = self.lock();
        for key in keys {
            match inner.tracked.get_mut(key) {
                Some(readers) if readers.contains(&id) => {}
                Some(readers) => readers.push(id),
                None => {
                    if inner.tracked.len() >= TRACKED_KEYS_MAX
                        && let Some(some) = inner.tracked.keys().next().cloned()
                    {
                        for reader in inner.tracked.remove(&some).into_iter().flatten() {
                            if let Some(tracker) = inner.trackers.get(&reader) {
                                tracker.tell(Some(&some));
                            }
                        }
                    }
                    inner.tracked.insert(key.into(), vec![id]);
                }
            }
        }
    }

    /// A client watches all commands from now on.
    pub fn monitor(&self, client: &Arc<Client>) {
        let mut inner = self.lock();
        inner.monitors.push(client.clone());
        self.is_monitored.store(true, Ordering::Relaxed);
    }

    /// It does not any more.
    pub fn monitor_no_more(&self, id: u64) {
        let mut inner = self.lock();
        inner.monitors.retain(|client| client.id != id);
        self.is_monitored.store(!inner.monitors.is_empty(), Ordering::Relaxed);
    }

    /// Whether anybody watches all commands.
    pub fn is_monitored(&self) -> bool {
        self.is_monitored.load(Ordering::Relaxed)
    }

    /// Tells those who watch all commands of one.
    pub fn tell_monitors(&self, line: &str) {
        let message = Bytes::from(format!("+{line}\r\n"));
        self.lock().monitors.iter().for_each(|client| client.push(message.clone()));
    }
}
