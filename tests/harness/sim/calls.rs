//! How calls go: from a client to a node and back, again elsewhere if need be; and what must be true of each answer.

use loci_index::command::{Outcome, Refusal, Unmet};
use loci_index::record::{CollectionId, Position};
use loci_index::view::{CollectionView, Effort, Hit, ScanRequest, SearchRequest, SearchScratch, View};
use loci_node::shard::{Level, ReadError, ShardHandle, WriteError, Written};

use super::clients::{self, Ask, Call, Client, KEYS, NEAR, Operation, Polled, Reply, Seen, Ticket, What};
use super::histories::Told;
use super::member::Seat;
use super::planted::Planted;
use super::world::{Happening, World};
use super::{Checked, MICROS, MILLIS, violation};
use crate::linearizable::{records, values};

impl Client {
    /// Whether it has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.operation.is_none() && self.script.is_empty()
    }
}

impl World<'_> {
    /// A client begins something, if it is not at something.
    pub(super) fn client(&mut self, client: usize) {
        if self.clients[client].operation.is_some() {
            return;
        }
        let scripted = self.clients[client].scripted();
        let patient = scripted.is_some();
        let (shard, ask) = match scripted {
            Some(scripted) => scripted,
            None if self.resting || !self.troubled => return,
            None => {
                let (habits, shard) = (self.habits.clone(), self.any_shard());
                (shard, self.clients[client].draw(shard, &mut self.chance, &habits))
            }
        };
        let now = self.now;
        let call = match &ask {
            _ if patient => None,
            ask => {
                let histories = &mut self.shards[shard].histories;
                clients::recorded(ask).map(|action| histories.invoke(client as u64, now / MICROS, action))
            }
        };
        let node = match self.chance.percent(self.habits.anywhere) {
            true => self.chance.index(self.machines.len()),
            false => self.clients[client].known[shard].node,
        };
        self.clients[client].operations += 1;
        let give_up_at = if patient { u64::MAX } else { now + self.habits.patience };
        let floor = self.shards[shard].answered;
        let operation = Operation { shard, ask, call, attempt: 0, unknown: false, node, give_up_at, floor };
        self.clients[client].operation = Some(operation);
        self.attempt(client);
    }

    /// The operation is sent to its node.
    fn attempt(&mut self, client: usize) {
        let number = self.clients[client].operations;
        let Some(operation) = &mut self.clients[client].operation else { return };
        operation.attempt += 1;
        if self.run.planted == Some(Planted::RepeatWithoutId)
            && operation.attempt > 1
            && operation.give_up_at != u64::MAX
            && let Ask::Write(envelope) = &mut operation.ask
        {
            envelope.origin.request_id.clear();
        }
        let (at, attempt) = (operation.node, operation.attempt);
        let ticket = Ticket { client, operation: number, attempt };
        self.trace.note(self.now, "asks", &[client as u64, number, u64::from(attempt), at as u64]);
        if self.chance.below(1000) >= self.habits.lost {
            let wait = 50 * MICROS + self.chance.below(MILLIS);
            self.after(wait, Happening::Request { at, call: ticket });
        }
        self.after(self.habits.attempt, Happening::Late { ticket });
    }

    /// The operation that a ticket is for, if its client still waits for this attempt.
    fn current(&mut self, ticket: Ticket) -> Option<&mut Operation> {
        let client = &mut self.clients[ticket.client];
        if client.operations != ticket.operation {
            return None;
        }
        client.operation.as_mut().filter(|operation| operation.attempt == ticket.attempt)
    }

    /// A request reaches a node.
    pub(super) fn request(&mut self, at: usize, ticket: Ticket) -> Checked {
        let Some(operation) = self.current(ticket) else { return Ok(()) };
        let (shard, ask, floor) = (operation.shard, operation.ask.clone(), operation.floor);
        let latest = matches!(ask, Ask::Read(Level::Latest, _));
        let asked = ask.clone();
        let ask = match (ask, self.run.planted) {
            (Ask::Read(Level::AtLeast(_), what), Some(Planted::TokenWithoutWaiting)) => Ask::Read(Level::Stale, what),
            (Ask::Read(Level::Latest, what), Some(Planted::ReadWithoutAsking)) => Ask::Read(Level::Stale, what),
            (Ask::Read(Level::Latest, what), Some(Planted::ReadWhileLeading)) => {
                let machine = &self.machines[at];
                let leads = machine.handle(shard).is_some_and(|handle| handle.leader() == Some(machine.me));
                Ask::Read(if leads { Level::Stale } else { Level::Latest }, what)
            }
            (ask, _) => ask,
        };
        let Some(process) = &mut self.machines[at].process else {
            self.reply(ticket, Reply::Refused);
            return Ok(());
        };
        let running = &mut process.running[shard];
        let (handle, standings) = (&running.driven.handle, running.standings);
        let mut call = Call::new(ticket, ask, handle);
        (call.latest, call.floor, call.standings) = (latest, floor, standings);
        if self.run.planted == Some(Planted::TokenWithoutWaiting) {
            call.ask = asked;
        }
        match call.poll() {
            Some(polled) => self.called(Seat { at, shard }, call, polled),
            None => {
                running.calls.push(call);
                self.wake(Seat { at, shard });
                Ok(())
            }
        }
    }

    /// An answer is on its way to a client.
    pub(super) fn reply(&mut self, ticket: Ticket, reply: Reply) {
        if self.chance.below(1000) >= self.habits.lost {
            let wait = 50 * MICROS + self.chance.below(MILLIS);
            self.after(wait, Happening::Answer { ticket, reply });
        }
    }

    /// A node has answered a call: what it says must be so.
    pub(super) fn called(&mut self, seat: Seat, call: Call, polled: Polled) -> Checked {
        let reply = match polled {
            Polled::Wrote(written) => {
                if let Ok(written) = &written {
                    self.check_written(seat, &call, written)?;
                }
                Reply::Wrote(written)
            }
            Polled::View(Err(error)) => Reply::Read(Err(error)),
            Polled::View(Ok(view)) => {
                let seen = self.check_read(seat, &call, &view)?;
                Reply::Read(Ok(seen))
            }
        };
        self.reply(call.ticket, reply);
        Ok(())
    }

    fn check_written(&mut self, seat: Seat, call: &Call, written: &Written) -> Checked {
        let Written { outcome, index } = written;
        let me = self.machines[seat.at].me;
        let oracle = &self.shards[seat.shard].oracle;
        if let Ask::Write(envelope) = &call.ask
            && oracle.is_said_again(&envelope.origin, *index, outcome)
        {
            return Ok(());
        }
        if !oracle.outcomes(*index).contains(outcome) {
            return violation(format!("member {me} answered {outcome:?}, which is not an outcome of entry {index}"));
        }
        if *index <= call.floor {
            let floor = call.floor;
            return violation(format!("a write got entry {index}; {floor} was answered before it was asked for"));
        }
        Ok(())
    }

    fn check_read(&mut self, seat: Seat, call: &Call, view: &View) -> Checked<Seen> {
        let machine = &self.machines[seat.at];
        let (me, index) = (machine.me, view.index());
        let Some(running) = machine.running(seat.shard) else {
            return violation("an answer came from a machine that is down");
        };
        let Ask::Read(level, what) = &call.ask else { return violation("a write got a view") };
        if call.latest && index < call.floor {
            let floor = call.floor;
            let how = if call.waited { "asked others" } else { "did not ask" };
            return violation(format!(
                "member {me} {how} and read the latest at entry {index}; {floor} was answered before it was asked"
            ));
        }
        if let Level::AtLeast(token) = level
            && index < *token
        {
            return violation(format!("member {me} read at entry {index} what must be as new as {token}"));
        }
        let alone = self.machines.len() == 1;
        let how = match (level, call.waited, running.driven.handle.leader() == Some(me)) {
            (Level::Stale, ..) => "reads of whatever is there",
            (Level::AtLeast(_), false, _) => "reads at a token that was there",
            (Level::AtLeast(_), true, _) => "reads at a token that was waited for",
            (Level::Latest, false, _) if alone => "reads by a leader that is alone",
            (Level::Latest, false, _) => "reads by the lease",
            (Level::Latest, true, true) => "reads by a round",
            (Level::Latest, true, false) => "reads by a question to the leader",
        };
        self.reached.mark(how);
        if call.waited && running.standings != call.standings && *level == Level::Latest {
            self.reached.mark("reads of the latest that outlived a change of leader");
        }
        let handle = running.driven.handle.clone();
        let told = self.check_view(seat, &handle, view, what)?;
        Ok(Seen { index, told })
    }

    /// What a view shows must be what the oracle has at its index.
    fn check_view(&mut self, seat: Seat, handle: &ShardHandle, view: &View, what: &What) -> Checked<Option<Told>> {
        let (me, index) = (self.machines[seat.at].me, view.index());
        let (day, latest_day) = (self.machines[seat.at].day_millis(self.now), self.latest_day);
        let oracle = &self.shards[seat.shard].oracle;
        let now = if self.run.planted == Some(Planted::ShowExpired) { 0 } else { handle.now(view) };
        if self.run.planted != Some(Planted::OwnClockForTheLogs) && view.clock() != oracle.clock(index) {
            return violation(format!("member {me} has another clock at entry {index} than the log"));
        }
        let collection = |id| view.collection_by_id(CollectionId(id));
        match what {
            What::Get(id, keys) => {
                let Some(collection) = collection(*id) else { return Ok(None) };
                let mut told = Vec::new();
                for key in keys {
                    let place = (*id, key.clone());
                    let stored = oracle.record(&place, index);
                    let found = collection.get(key, now);
                    match (stored, &found) {
                        (Some(stored), Some(found)) => {
                            let deadline = found.deadline();
                            if found.version() != stored.version || found.value() != stored.value.as_deref() {
                                return violation(format!(
                                    "member {me} at entry {index} shows {found:?}, not {stored:?}"
                                ));
                            }
                            if deadline != 0 && deadline <= day {
                                return violation(format!("member {me} shows what expired at {deadline}, at {day}"));
                            }
                            if deadline != 0 {
                                self.reached.mark("records seen that will expire");
                            }
                        }
                        (None, None) => {}
                        (Some(stored), None) if stored.deadline != 0 && stored.deadline <= latest_day => {
                            self.reached.mark("records seen to have expired");
                        }
                        (stored, found) => {
                            return violation(format!("member {me} at entry {index} shows {found:?}, not {stored:?}"));
                        }
                    }
                    told.push(found.map(|found| records::Found {
                        value: found.value().map(<[u8]>::to_vec),
                        version: Some(found.version()),
                    }));
                }
                Ok(Some(Told::Record(records::Outcome::Records(told))))
            }
            What::Count => {
                let Some(collection) = collection(KEYS) else { return Ok(None) };
                let request =
                    ScanRequest { after: None, prefix: Some(b"k"), filter: None, limit: 1000, bytes_max: 1 << 20, now };
                let Ok(page) = collection.scan(&request, &mut || true) else { return violation("a scan was stopped") };
                let shown: Vec<_> = page.records.iter().map(|record| (record.key(), record.version())).collect();
                let live = oracle.live(KEYS, index, now).filter(|(key, _)| key.starts_with(b"k"));
                let expected: Vec<_> = live.map(|(key, record)| (key, record.version)).collect();
                if shown != expected {
                    return violation(format!("member {me} at entry {index} scans {shown:?}, not {expected:?}"));
                }
                Ok(Some(Told::Record(records::Outcome::Counted(shown.len() as u64))))
            }
            What::Look(id, call) => {
                let (reply, seen) = self.check_look(seat, view, *id, call)?;
                Ok(Some(Told::Looked(values::Outcome(reply), seen)))
            }
            What::Search(query, k) => {
                let earlier = match self.run.planted {
                    Some(Planted::SearchOfAnEarlierView) => self.earlier.replace(handle.newest()),
                    _ => None,
                };
                let shown = earlier.as_deref().and_then(|view| view.collection_by_id(CollectionId(NEAR)));
                let Some(collection) = shown.or_else(|| collection(NEAR)) else { return Ok(None) };
                self.check_search(seat, &collection, index, now, query, *k)?;
                Ok(None)
            }
        }
    }

    fn check_search(
        &mut self,
        seat: Seat,
        collection: &CollectionView<'_>,
        index: u64,
        now: u64,
        query: &[f32],
        k: usize,
    ) -> Checked {
        let request =
            SearchRequest { field: 0, query, k, effort: Effort::Exact, filter: None, max_distance: None, now };
        let mut found = match collection.search(&request, &mut SearchScratch::new(), &mut || true) {
            Ok(found) => found,
            Err(error) => return violation(format!("a search failed: {error}")),
        };
        if self.run.planted == Some(Planted::SearchWithoutTheBuffer) {
            let sealed = self.machines[seat.at].handle(seat.shard).map_or(0, |handle| handle.status().checkpoint);
            found.hits.retain(|hit| Position::from_u64(hit.record.version()).index() <= sealed);
        }
        let mut near: Vec<(f32, &[u8])> = Vec::new();
        for (key, record) in self.shards[seat.shard].oracle.live(NEAR, index, now) {
            let embedding = record.embedding.as_deref().unwrap_or_default();
            let distance = embedding.iter().zip(query).map(|(a, b)| (a - b) * (a - b)).sum();
            near.push((distance, key));
        }
        near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
        // Kernels round in another order, so what is equally far but for that may change places.
        let close = |a: f32, b: f32| (a - b).abs() <= 1e-5 * (1.0 + b);
        let is_there =
            |hit: &Hit<'_>| near.iter().any(|(far, key)| hit.record.key() == *key && close(hit.distance, *far));
        let alike = found.hits.len() == near.len().min(k)
            && found.hits.iter().zip(&near).all(|(hit, (far, _))| close(hit.distance, *far) && is_there(hit));
        near.truncate(k);
        if !alike {
            let hits: Vec<_> = found.hits.iter().map(|hit| (hit.distance, hit.record.key())).collect();
            let me = self.machines[seat.at].me;
            return violation(format!("member {me} at entry {index} finds {hits:?} near, not {near:?}"));
        }
        self.reached.mark("searches compared with an exact one");
        Ok(())
    }

    /// An answer reaches a client.
    pub(super) fn answer(&mut self, ticket: Ticket, reply: Reply) -> Checked {
        let Some(operation) = self.current(ticket) else { return Ok(()) };
        let (unknown_before, writes) = (operation.unknown, matches!(operation.ask, Ask::Write(_)));
        let repeats = operation.attempt > 1;
        self.trace.note(self.now, "answered", &[ticket.client as u64, ticket.operation, u64::from(ticket.attempt)]);
        match reply {
            Reply::Wrote(Ok(Written { outcome, index })) => {
                if unknown_before && repeats {
                    self.reached.mark("writes whose outcome was learnt by asking again");
                }
                match &outcome {
                    Outcome::Refused(Refusal::Unmet { unmet: Unmet::Lease { .. }, .. }) => {
                        self.reached.mark("writes refused by a fence");
                    }
                    Outcome::Refused(_) => self.reached.mark("writes refused by a condition"),
                    Outcome::Executed(None) => self.reached.mark("calls not carried out because a key had changed"),
                    Outcome::Executed(Some(_)) => self.reached.mark("writes of typed values answered"),
                    _ => {}
                }
                self.end_operation(ticket.client, index, clients::told(&outcome))
            }
            Reply::Read(Ok(Seen { index, told })) => self.end_operation(ticket.client, index, told),
            Reply::Wrote(Err(error)) => {
                let what = match error {
                    WriteError::NotLeader { .. } => "writes sent to a member that does not lead",
                    WriteError::Unconfirmed { .. } => "writes on their way when leadership was lost",
                    WriteError::Stopping => "writes at a member that stops",
                    WriteError::NotReady => "calls to a member that reads its log",
                    WriteError::Overloaded { .. } => "writes that found a full queue",
                    WriteError::DiskFull { .. } => "writes refused because the disk was full",
                    WriteError::Removed => "calls to a member that was removed",
                    ref other => return violation(format!("a write was answered: {other}")),
                };
                self.reached.mark(what);
                let unknown = matches!(error, WriteError::Unconfirmed { .. } | WriteError::Stopping);
                self.not_done(ticket.client, unknown);
                Ok(())
            }
            Reply::Read(Err(error)) => {
                self.reached.mark(match error {
                    ReadError::NotReady => "calls to a member that reads its log",
                    ReadError::Stopping => "reads at a member that stops",
                    ReadError::Removed => "calls to a member that was removed",
                    ReadError::Damaged { .. } => "reads at a member with a damaged file",
                    other => return violation(format!("a read without a deadline was answered: {other}")),
                });
                self.not_done(ticket.client, false);
                Ok(())
            }
            Reply::Refused => {
                self.not_done(ticket.client, false);
                Ok(())
            }
            Reply::Broken => {
                if writes {
                    self.reached.mark("writes on their way when their node died");
                }
                self.not_done(ticket.client, writes);
                Ok(())
            }
        }
    }

    /// A client has waited long enough.
    pub(super) fn late(&mut self, ticket: Ticket) {
        let Some(operation) = self.current(ticket) else { return };
        let writes = matches!(operation.ask, Ask::Write(_));
        self.reached.mark(if writes { "writes that were not answered in time" } else { "reads not answered in time" });
        self.not_done(ticket.client, writes);
    }

    /// An operation has its answer.
    fn end_operation(&mut self, client: usize, index: u64, told: Option<Told>) -> Checked {
        let Some(operation) = self.clients[client].operation.take() else { return Ok(()) };
        let shard = &mut self.shards[operation.shard];
        shard.answered = shard.answered.max(index);
        let scripted = operation.give_up_at == u64::MAX;
        self.clients[client].learn(operation.shard, index, told.as_ref());
        self.clients[client].known[operation.shard].node = operation.node;
        if scripted {
            self.clients[client].script.pop();
        }
        if let Some(call) = operation.call {
            shard.histories.ok(call, self.now / MICROS, told)?;
        }
        self.reached.mark(if matches!(operation.ask, Ask::Write(_)) { "writes answered" } else { "reads answered" });
        self.pause(client, scripted);
        Ok(())
    }

    /// An attempt has come to nothing, or to nobody knows what.
    fn not_done(&mut self, client: usize, unknown: bool) {
        let late = self.now;
        let Some((shard, asked)) = self.clients[client].operation.as_ref().map(|asks| (asks.shard, asks.node)) else {
            return;
        };
        let hint = self.machines[asked].handle(shard).and_then(ShardHandle::leader);
        let hint = hint.map(|leader| leader.0 as usize - 1);
        let next = match hint {
            Some(leader) if leader != asked && self.chance.percent(90) => leader,
            _ => self.chance.index(self.machines.len()),
        };
        let Some(operation) = &mut self.clients[client].operation else { return };
        operation.unknown |= unknown;
        let repeatable = match &operation.ask {
            // Without an id a repeated write could take effect twice.
            Ask::Write(envelope) => !operation.unknown || !envelope.origin.request_id.is_empty(),
            Ask::Read(..) => true,
        };
        if repeatable && late < operation.give_up_at {
            operation.node = next;
            // Answers to the last attempt come too late from now on.
            self.attempt_soon(client);
            return;
        }
        let unknown = operation.unknown;
        if let Some(call) = self.clients[client].operation.take().and_then(|operation| operation.call) {
            if unknown {
                self.shards[shard].histories.unknown(call, late / MICROS);
            } else {
                self.shards[shard].histories.failed(call, late / MICROS);
            }
        }
        self.reached.mark(if unknown { "writes whose outcome nobody learnt" } else { "operations given up" });
        self.clients[client].known[shard].node = next;
        self.pause(client, false);
    }

    fn attempt_soon(&mut self, client: usize) {
        if let Some(operation) = &mut self.clients[client].operation {
            operation.attempt += 1;
        }
        let wait = 5 * MILLIS + self.chance.below(100 * MILLIS);
        let ticket = Ticket { client, operation: self.clients[client].operations, attempt: 0 };
        self.after(wait, Happening::Again { ticket });
    }

    /// A client asks again, unless it has given up.
    pub(super) fn again(&mut self, ticket: Ticket) {
        if self.clients[ticket.client].operations == ticket.operation {
            self.attempt(ticket.client);
        }
    }

    fn pause(&mut self, client: usize, scripted: bool) {
        let wait = if scripted { 0 } else { self.chance.below(self.habits.pause) };
        self.after(wait, Happening::Client { client });
    }
}
