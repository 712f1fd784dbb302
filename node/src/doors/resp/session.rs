//! A session: what a connection has said so far, and what its next request does.
//!
//! ```text
//!   request --> known? arguments? allowed? which shard? --> gathered for MULTI | read | to the log | waits | done here
//! ```
//!
//! Always: replies come in the order of the requests. Whoever writes a reply that does not come from the log settles what
//! waits for the log first.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use loci_index::table::call::Chance;
use loci_index::table::commands::{ADMIN, FAST, NOAUTH, Run, SCRIPTS_OFF, Spec, WRITE, brings_code, needs_room};
use loci_index::table::execute::Moment;
use loci_index::table::tape::{Item, Items, Tape};
use loci_index::table::{ahead, execute, glob, weight};
use loci_wire::resp::{Limits, Protocol, Writer, likely_keys};

use super::acl::{Denied, User, Wanted};
use super::acl_command::{full_name, wanted};
use super::blocking::Blocked;
use super::client::Client;
use super::commands::{self, Command, Do, Way};
use super::databases::Reading;
use super::hub::Tracker;
use super::lanes::Lane;
use super::pipeline::{Answer, Pending};
use super::places::Place;
use super::slots::Reach;
use super::stats::Tally;
use super::tracking::Tracking;
use super::transactions::{Gathered, Watch};
use super::{Door, render};
use crate::doors::looks::{Look, bulks_of};
use crate::shard::Level;

/// The most subscriptions of one client.
pub const SUBSCRIPTIONS_MAX: usize = 1 << 20;

/// So much of a user's name is told to the log.
const PRINCIPAL_MAX: usize = 200;
/// A tape that became longer is given back.
const TAPE_KEPT: usize = 64 << 10;
/// How long a read waits for its turn among those of large values.
const LARGE_READ_WAIT: Duration = Duration::from_secs(10);

/// Whether a client wants replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replies {
    /// All.
    On,
    /// None.
    Off,
    /// Not to the next request.
    SkipNext,
    /// Not to this one.
    Skip,
}

/// What comes after a request.
pub enum Next {
    /// The next.
    Go,
    /// Nothing until this is over.
    Wait(Box<Blocked>),
}

/// See the module's front page.
pub struct Session {
    pub(super) door: Arc<Door>,
    /// Whose writes go together with those of this one.
    pub(super) lane: Arc<Lane>,
    pub(super) client: Arc<Client>,
    /// Replies that were not sent yet.
    pub(super) out: Writer,
    /// The selected database.
    pub(super) database: u8,
    /// Who it is; none: nobody yet.
    pub(super) user: Option<Arc<User>>,
    /// The same for the log.
    pub(super) principal: Arc<str>,
    /// Whether that one may do everything.
    free: bool,
    /// Between MULTI and EXEC.
    pub(super) gathered: Option<Gathered>,
    pub(super) watched: Vec<Watch>,
    pub(super) pending: Pending,
    /// Channels, patterns, sharded channels.
    pub(super) subscriptions: [HashSet<Box<[u8]>>; 3],
    pub(super) replies: Replies,
    pub(super) tracking: Option<Tracking>,
    pub(super) tracker: Option<Arc<Tracker>>,
    /// Reads may be as old as this node is behind.
    pub(super) stale: bool,
    /// Nothing more is read from it.
    pub(super) closing: bool,
    /// Where the request goes.
    pub(super) place: Place,
    /// Until when requests that came together wait for somebody to lead their shards.
    pub(super) waits_until: Option<Instant>,
    /// What was read last there, as long as it is new enough.
    reading: Option<Reading>,
    /// The same of other places.
    readings: Vec<(Place, Reading)>,
    pub(super) last: &'static str,
    tape: Tape,
    /// What is counted of this batch of requests.
    pub(super) tally: Tally,
    /// The command of this request, and whether it was refused.
    current: (Option<Command>, bool),
    /// Where its reply begins.
    pub(super) reply_at: usize,
    /// When what is measured by itself began at the earliest; none: with the batch.
    pub(super) measured: Option<Instant>,
    /// The script that waits to be carried out, for the log of slow commands.
    pub(super) script: Option<Vec<Vec<u8>>>,
    /// What the users' changes counted when it was looked who this is.
    users_seen: u64,
    /// What reads draw by chance depends on it.
    draws: u32,
}

impl Session {
    /// Of a new connection.
    pub fn new(door: Arc<Door>, lane: Arc<Lane>, client: Arc<Client>) -> Session {
        let draws = (client.id as u32).wrapping_mul(0x85eb_ca6b);
        let mut session = Session {
            door,
            lane,
            client,
            out: Writer::new(Protocol::Two),
            database: 0,
            user: None,
            principal: Arc::from(""),
            free: false,
            gathered: None,
            watched: Vec::new(),
            pending: Pending::default(),
            subscriptions: Default::default(),
            replies: Replies::On,
            tracking: None,
            tracker: None,
            stale: false,
            closing: false,
            place: Place::default(),
            waits_until: None,
            reading: None,
            readings: Vec::new(),
            last: "NULL",
            tape: Tape::new(),
            tally: Tally::default(),
            current: (None, false),
            reply_at: 0,
            measured: None,
            script: None,
            users_seen: 0,
            draws,
        };
        session.users_seen = session.door.users.changes();
        session.door.metrics.redis().opened();
        let anybody = session.door.users.anybody();
        session.be(anybody);
        // Also one that only listens hears of what happens in the databases.
        let _ = session.door.homes();
        session
    }

    /// Is somebody from now on.
    pub fn be(&mut self, user: Option<Arc<User>>) {
        self.free = user.as_ref().is_some_and(|user| user.is_free());
        self.client.facts().user = user.as_ref().map_or_else(String::new, |user| user.name.clone());
        let name = user.as_ref().map_or("", |user| &user.name);
        self.principal = format!("redis:{name}").chars().take(PRINCIPAL_MAX).collect::<String>().into();
        self.user = user;
    }

    /// What is believed of its requests.
    pub fn limits(&self) -> &'static Limits {
        if self.user.is_some() { &Limits::OPEN } else { &Limits::UNAUTHENTICATED }
    }

    /// Speaks this protocol from now on.
    pub fn speak(&mut self, protocol: Protocol) {
        self.out.set_protocol(protocol);
        self.client.is_three.store(protocol == Protocol::Three, Ordering::Relaxed);
    }

    /// Whether replies to this request are not wanted.
    pub fn is_silent(&self) -> bool {
        matches!(self.replies, Replies::Off | Replies::Skip)
    }

    /// How many subscriptions it has.
    pub fn subscribed(&self) -> usize {
        self.subscriptions.iter().map(HashSet::len).sum()
    }

    /// A reply that is an error, once what waits is settled.
    pub async fn refuse(&mut self, text: impl AsRef<[u8]>) -> Next {
        self.settle().await;
        if let Some(gathered) = &mut self.gathered {
            gathered.broken = true;
        }
        self.current.1 = true;
        self.out.error(text);
        Next::Go
    }

    /// Takes a request.
    pub async fn take(&mut self, args: &[&[u8]]) -> Next {
        let begun = self.tally.begin();
        self.measured.get_or_insert(begun);
        self.current = (None, false);
        let was = self.replies;
        if was == Replies::SkipNext {
            // What waits and is wanted must not be thrown away with it.
            self.settle().await;
            self.replies = Replies::Skip;
        }
        let before = self.out.len();
        self.reply_at = before;
        let next = self.decide(args).await;
        if self.tracking.is_some() && matches!(next, Next::Go) {
            self.caching_ends(self.current.0);
        }
        self.count(args);
        if was != Replies::On && self.replies != Replies::On && !self.is_told() {
            self.out.truncate(before);
        }
        if self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
        next
    }

    /// Whether what was said to this request is no reply to it: who subscribes is told so in any case.
    fn is_told(&self) -> bool {
        let (command, refused) = self.current;
        let way = command.map(|command| command.way);
        let told = matches!(
            way,
            Some(Way::Door(Do::Subscribe | Do::PSubscribe | Do::SSubscribe))
                | Some(Way::Door(Do::Unsubscribe | Do::PUnsubscribe | Do::SUnsubscribe))
        );
        told && !refused
    }

    /// Counts a request, and looks whether it took long.
    fn count(&mut self, args: &[&[u8]]) {
        let (command, refused) = self.current;
        if let Some(command) = command {
            if refused {
                self.tally.rejected(command.number);
            } else {
                self.tally.called(command.number);
            }
            let fast = command.spec.is(FAST);
            // A script is measured once it was carried out.
            let waits = self.script.is_some() && matches!(command.spec.run, Run::Script);
            // What goes to the log is only put aside here; a clock for that would cost more than it.
            if !waits && (self.door.slow.is_eager() || !fast && command.way != Way::Write) {
                let now = Instant::now();
                let took = self.measured.replace(now).map_or(Duration::ZERO, |since| now - since);
                if !matches!(command.way, Way::Door(Do::Auth | Do::Hello | Do::Exec)) {
                    let name = || self.client.facts().name.clone();
                    self.door.slow.took(took, args, fast, (self.client.address, &name));
                }
            }
        }
        self.note_error(command.filter(|_| !refused).map(|command| command.number));
    }

    /// Whether a call of this request may go to the log together with those of other clients.
    pub fn is_light(&self, spec: &Spec, args: &[&[u8]]) -> bool {
        let light = self.current.0.is_some_and(|command| command.light && std::ptr::eq(command.spec, spec));
        // SET may answer what was there before.
        light && (args.len() <= 3 || !args[3..].iter().any(|arg| arg.eq_ignore_ascii_case(b"get")))
    }

    /// Which command this request is.
    pub fn number(&self) -> u16 {
        self.current.0.map_or(u16::MAX, |command| command.number)
    }

    /// Counts the reply that was written last, if it is an error.
    #[inline]
    pub fn note_error(&mut self, number: Option<u16>) {
        let reply = self.out.bytes().get(self.reply_at..).unwrap_or_default();
        if reply.first() == Some(&b'-') {
            self.tally.failed(number, &reply[..reply.len().min(80)]);
        }
    }

    /// Looks again who this is, once a user has changed.
    fn look_who(&mut self) {
        self.users_seen = self.door.users.changes();
        let newer = self.user.as_ref().and_then(|user| self.door.users.get(&user.name));
        if newer.is_some() {
            self.be(newer);
        }
    }

    async fn decide(&mut self, args: &[&[u8]]) -> Next {
        let Some(command) = commands::find(args[0]) else {
            if self.is_http(args[0]) {
                self.closing = true;
                return Next::Go;
            }
            return self.refuse(execute::unknown(args).text()).await;
        };
        let spec = command.spec;
        self.current.0 = Some(command);
        if self.users_seen != self.door.users.changes() {
            self.look_who();
        }
        if !spec.takes(args.len()) && command.way == Way::Door(Do::Exec) {
            (self.gathered, self.watched) = (None, Vec::new());
            let text = "EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
            return self.refuse(text).await;
        }
        if !spec.takes(args.len()) {
            return self.refuse(format!("ERR wrong number of arguments for '{}' command", spec.name)).await;
        }
        if let Some(wrong) = command.wrong_part(args) {
            return self.refuse(wrong).await;
        }
        self.last = spec.name;
        if self.user.is_none() && !spec.is(NOAUTH) {
            return self.refuse("NOAUTH Authentication required.").await;
        }
        if !self.free
            && let Err(reason) = self.may(command, args)
        {
            return self.refuse(reason).await;
        }
        if !self.door.scripts && brings_code(spec, args) {
            return self.refuse(SCRIPTS_OFF).await;
        }
        if needs_room(spec, args) && self.door.limits_memory() && self.door.is_full(self.database) {
            return self.refuse("OOM command not allowed when used memory > 'maxmemory'.").await;
        }
        if self.out.protocol() == Protocol::Two && self.subscribed() > 0 && !may_while_subscribed(command) {
            let name = spec.name;
            let text = format!(
                "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            );
            return self.refuse(text).await;
        }
        // What is about the server may name passwords.
        let is_shown = !spec.is(NOAUTH) && !spec.is(ADMIN);
        if self.door.hub.is_monitored() && is_shown && command.way != Way::Door(Do::Monitor) {
            self.door.hub.tell_monitors(&self.monitored(args));
        }
        let is_client = command.way == Way::Door(Do::Client);
        let writes = spec.is(WRITE) || matches!(command.way, Way::Publish | Way::Door(Do::Exec));
        if !is_client && self.door.pauses(writes) {
            self.settle().await;
            self.door.pause_is_over(writes).await;
        }
        if self.door.databases.are_spread() {
            match self.find_place(command, args).await {
                Ok(Reach::Place) => {}
                Ok(Reach::All) if self.gathered.is_some() => {
                    let text =
                        format!("ERR '{}' is about all shards of the databases: not inside a transaction", spec.name);
                    return self.refuse(text).await;
                }
                Ok(Reach::All) => {
                    self.settle().await;
                    Box::pin(self.everywhere(command, args)).await;
                    return Next::Go;
                }
                Err(error) => return self.refuse(error).await,
            }
        } else if self.place.is_chosen() {
            self.go_to(Place::default());
        }
        if self.gathered.is_some() && !is_about_gathering(command) {
            return self.gather_for_later(command, args).await;
        }
        if self.tracking.is_some() {
            self.remember_reads(command, args);
        }
        // What is seldom asked for takes no room in every connection.
        match command.way {
            Way::Read => self.read(command, args).await,
            Way::Write => self.gather(spec, args, Answer::Whole).await,
            Way::Publish => {
                let receivers = self.door.hub.receivers(args[1], spec.name == "spublish");
                self.gather(spec, args, Answer::Count(receivers)).await;
            }
            Way::Wait => return Box::pin(self.try_or_wait(command, args)).await,
            Way::Keys => Box::pin(self.keys(args)).await,
            Way::Copy => Box::pin(self.copy(command, args)).await,
            Way::Door(what) => {
                self.settle().await;
                Box::pin(self.act(what, args)).await;
            }
        }
        Next::Go
    }

    /// A request of a browser that somebody made send it here.
    fn is_http(&self, name: &[u8]) -> bool {
        let is = name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:");
        if is {
            tracing::warn!(
                client = %self.client.address,
                "a connection was closed that spoke HTTP: somebody may be attacking this node through a browser"
            );
        }
        is
    }

    /// Whether the user may do it.
    pub fn may(&self, command: Command, args: &[&[u8]]) -> Result<(), String> {
        let Some(user) = &self.user else { return Ok(()) };
        let spec = command.spec;
        if self.free || spec.is(NOAUTH) {
            return Ok(());
        }
        if let Err(denied) = user.check(&wanted(command, args)) {
            return Err(match denied {
                Denied::Command => {
                    let full = full_name(command, args);
                    self.note_refusal("command", full.as_bytes(), &user.name);
                    format!("NOPERM User {} has no permissions to run the '{full}' command", user.name)
                }
                Denied::Key(key) => {
                    self.note_refusal("key", &key, &user.name);
                    "NOPERM No permissions to access a key".into()
                }
                Denied::Channel(channel) => {
                    self.note_refusal("channel", &channel, &user.name);
                    "NOPERM No permissions to access a channel".into()
                }
            });
        }
        Ok(())
    }

    /// What the calls of a script may do; empty: everything, or it is no script.
    pub fn permits(&self, spec: &'static Spec, args: &[&[u8]]) -> Vec<Vec<u8>> {
        match &self.user {
            Some(user) if !self.free => user.permits(&Wanted { spec, args, channels: (&[], false) }),
            _ => Vec::new(),
        }
    }

    fn monitored(&self, args: &[&[u8]]) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let quoted: Vec<String> = args.iter().map(|arg| quoted(arg)).collect();
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        format!("{seconds}.{micros:06} [{} {}] {}", self.database, self.client.address, quoted.join(" "))
    }

    /// How new what it reads must be.
    pub fn level(&self) -> Level {
        if self.stale { Level::Stale } else { Level::Latest }
    }

    /// Goes to another place, or stays.
    pub fn go_to(&mut self, place: Place) {
        if !self.place.is(&place) {
            if let Some(reading) = self.reading.take() {
                self.readings.push((self.place.clone(), reading));
            }
            let known = self.readings.iter().position(|(known, _)| known.is(&place));
            self.reading = known.map(|known| self.readings.swap_remove(known).1);
        }
        self.place = place;
    }

    /// What is read next must see all that was written until then.
    pub fn read_anew(&mut self) {
        self.reading = None;
        self.readings.clear();
    }

    /// What there is to read; an error is written instead where there is nothing.
    pub async fn look(&mut self) -> Option<&mut Reading> {
        if self.reading.as_ref().is_none_or(|reading| !reading.knows(self.database)) {
            match self.door.reading(self.level(), &self.place, self.database).await {
                Ok(reading) => self.reading = Some(reading),
                Err(error) => {
                    self.out.error(error);
                    return None;
                }
            }
        }
        self.reading.as_mut()
    }

    /// Looks ahead in what has come, if the client reads just now. Of how many requests it is then at hand what they are about.
    pub fn look_ahead(&self, input: &[u8]) -> usize {
        let Some(reading) = self.reading.as_ref().filter(|_| self.pending.is_empty()) else { return 0 };
        if input.is_empty() {
            return 0;
        }
        let mut count = 0;
        reading.look_ahead(self.database, likely_keys(input).take(ahead::AHEAD).inspect(|_| count += 1).flatten());
        count
    }

    async fn read(&mut self, command: Command, args: &[&[u8]]) {
        let spec = command.spec;
        if !self.pending.is_empty() {
            return self.gather(spec, args, Answer::Whole).await;
        }
        if self.look().await.is_none() {
            return;
        }
        // What a read draws by chance is another each time, though nothing was written in between.
        self.draws = self.draws.wrapping_add(0x9e37_79b9);
        let Session { reading, tape, out, database, draws, .. } = self;
        let Some(reading) = reading else { return };
        if reading.is_away() {
            return Box::pin(self.gather(spec, args, Answer::Whole)).await;
        }
        let moment = reading.moment();
        // The most frequent one of all, without a detour.
        if spec.name == "get" {
            return reading.look_up(*database, |keyspace| match keyspace.string(args[1], moment.now) {
                Ok(found) => out.bulk_or_null(found),
                Err(_) => out.error("WRONGTYPE Operation against a key holding the wrong kind of value"),
            });
        }
        tape.truncate(0);
        let moment = Moment { number: *draws, ..moment };
        let is_read = reading.look_up(*database, |keyspace| {
            let is_light = !weight::is_heavy(keyspace, spec, args, moment.now);
            if is_light {
                execute::read(keyspace, spec, args, moment, tape);
            }
            is_light
        });
        if is_read {
            render::reply(&mut tape.items(), out);
            if tape.len() > TAPE_KEPT {
                *tape = Tape::new();
            }
            return;
        }
        Box::pin(self.read_elsewhere(spec, args)).await;
    }

    /// Reads what is large on another thread, while this one serves its other clients.
    async fn read_elsewhere(&mut self, spec: &'static Spec, args: &[&[u8]]) {
        // A few at a time, however many clients there are.
        let door = self.door.clone();
        let Ok(turn) = tokio::time::timeout(LARGE_READ_WAIT, door.large_reads.acquire()).await else {
            return self.out.error("TRYAGAIN too many large values are being read");
        };
        // As new as its turn.
        self.read_anew();
        let Some(mut reading) = self.look().await.cloned() else { return };
        if reading.is_away() {
            // By now.
            drop(turn);
            return self.gather(spec, args, Answer::Whole).await;
        }
        let moment = Moment { number: self.draws, ..reading.moment() };
        let args: Vec<Box<[u8]>> = args.iter().map(|arg| Box::from(*arg)).collect();
        let (database, mut out) = (self.database, Writer::new(self.out.protocol()));
        let read = tokio::task::spawn_blocking(move || {
            let (mut tape, args): (Tape, Vec<&[u8]>) = (Tape::new(), args.iter().map(|arg| &**arg).collect());
            reading.look_up(database, |keyspace| execute::read(keyspace, spec, &args, moment, &mut tape));
            render::reply(&mut tape.items(), &mut out);
            out
        });
        match read.await {
            Ok(mut read) => self.out.bytes_mut().append(read.bytes_mut()),
            // It panicked, which is told as such, or the node is stopping.
            Err(_) => self.out.error("TRYAGAIN the read was not carried out"),
        }
        drop(turn);
    }

    /// What reads draw by chance depends on this.
    pub fn draws(&self) -> u32 {
        self.draws
    }

    /// Chance that is another each time.
    pub fn chance(&mut self) -> Chance {
        self.draws = self.draws.wrapping_add(0x9e37_79b9);
        Chance::new(self.draws.into())
    }

    /// Reads, and gives the reply as it stands on its tape.
    pub async fn read_tape(&mut self, command: Command, args: &[&[u8]]) -> Option<Bytes> {
        Some(self.ask_one(Look::Command(command.spec, args)).await?.into_tape())
    }

    /// `KEYS`.
    async fn keys(&mut self, args: &[&[u8]]) {
        self.settle().await;
        let mut found = Vec::new();
        if self.find_keys(args[1], &mut found).await {
            self.out.array(found.len());
            found.iter().for_each(|key| self.out.bulk(key));
        }
    }

    /// The keys that match in this place, a part of the keyspace at a time: others have their turn in between. False: an error was
    /// written.
    pub async fn find_keys(&mut self, pattern: &[u8], found: &mut Vec<Box<[u8]>>) -> bool {
        use loci_index::table::Keyspace;
        let database = self.database;
        let Some(mut reading) = self.look().await.cloned() else { return false };
        if reading.is_away() {
            return self.find_keys_far(pattern, found).await;
        }
        let now = reading.moment().now;
        let (mut counted, mut bytes) = (0, 0);
        for part in 0..Keyspace::PARTS {
            reading.read(database, |keyspace| {
                let matching = keyspace.keys_of_part(part, now).filter(|key| glob::matches(pattern, key));
                found.extend(matching.map(Box::<[u8]>::from));
            });
            bytes += found[counted..].iter().map(|key| key.len()).sum::<usize>();
            counted = found.len();
            if bytes > execute::REPLY_BYTES_MAX {
                self.out.error(execute::ASKED_TOO_MUCH);
                return false;
            }
            tokio::task::coop::consume_budget().await;
        }
        true
    }

    /// The same, where other nodes have them.
    async fn find_keys_far(&mut self, pattern: &[u8], found: &mut Vec<Box<[u8]>>) -> bool {
        let Some(command) = commands::find(b"keys") else { return false };
        let Some(tape) = self.read_tape(command, &[b"keys", pattern]).await else { return false };
        let mut items = Items::new(&tape);
        match (bulks_of(&mut items.clone()), items.next()) {
            (Some(keys), _) => found.extend(keys.into_iter().flatten().map(Box::<[u8]>::from)),
            (None, Some(Item::Error(error))) => {
                self.out.error(error);
                return false;
            }
            (None, _) => {
                self.damaged_reply();
                return false;
            }
        }
        let bytes: usize = found.iter().map(|key| key.len()).sum();
        if bytes > execute::REPLY_BYTES_MAX {
            self.out.error(execute::ASKED_TOO_MUCH);
        }
        bytes <= execute::REPLY_BYTES_MAX
    }

    /// When it is closed if it says nothing till then (`CONFIG SET timeout`).
    pub fn idle_until(&self) -> Option<std::time::Instant> {
        let seconds = self.door.figures.timeout.load(Ordering::Relaxed);
        let exempt = seconds == 0 || self.subscribed() > 0 || self.client.facts().blocked;
        (!exempt).then(|| self.client.facts().active + std::time::Duration::from_secs(seconds))
    }

    /// What others see of it is as it is now. After a batch of requests.
    pub fn tell(&mut self, input_bytes: usize, output_bytes: usize) {
        let now = Instant::now();
        self.measured = None;
        self.door.stats.take_in(&mut self.tally, now, self.door.metrics.redis());
        let mut facts = self.client.facts();
        facts.database = self.database;
        facts.command = self.last;
        facts.active = now;
        facts.gathered = self.gathered.as_ref().map(|gathered| gathered.calls.len());
        facts.watched = self.watched.len();
        facts.input_bytes = input_bytes;
        facts.output_bytes = output_bytes;
    }

    /// It is closed: nobody is to tell it anything any more.
    pub fn end(&mut self) {
        self.unsubscribe_all();
        self.track_no_more();
        self.door.hub.monitor_no_more(self.client.id);
        self.door.clients.leave(self.client.id);
        self.door.metrics.redis().closed();
    }
}

/// An argument between quotes, as Redis shows it.
fn quoted(arg: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in arg {
        match byte {
            b'\'' => text.push('\''),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            other => text.extend(other.escape_ascii().map(char::from)),
        }
    }
    text + "\""
}

fn may_while_subscribed(command: Command) -> bool {
    matches!(
        command.way,
        Way::Door(
            Do::Subscribe
                | Do::Unsubscribe
                | Do::PSubscribe
                | Do::PUnsubscribe
                | Do::SSubscribe
                | Do::SUnsubscribe
                | Do::Ping
                | Do::Quit
                | Do::Reset
        )
    )
}

/// Whether it is carried out at once also between MULTI and EXEC.
fn is_about_gathering(command: Command) -> bool {
    matches!(command.way, Way::Door(Do::Exec | Do::Discard | Do::Multi | Do::Watch | Do::Quit | Do::Reset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_called_is_shown_as_redis_shows_it() {
        for (arg, shown) in [
            (&b"a'b"[..], "\"a'b\""),
            (b"a\"b", r#""a\"b""#),
            (b"a\\b", r#""a\\b""#),
            (b"\x07\x08\r\n\t", r#""\a\b\r\n\t""#),
            (b"\x00\xff", r#""\x00\xff""#),
        ] {
            assert_eq!(quoted(arg), shown);
        }
    }
}
