//! The `Cache` service: commands on typed values, for clients of the native API.
//!
//! ```text
//!   commands --> known? which keys? --> all only read: a view as new as asked --> replies
//!                                  '--> shards of the keys: one command of the log each --> replies, in order again
//! ```
//!
//! Conditions become guards before the commands, and their replies are left out.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::join_all;
use loci_index::command::{Command, Execution, Expect, Origin, Outcome, Refusal};
use loci_index::record::VALUE_BYTES_MAX;
use loci_index::table::call::Packed;
use loci_index::table::commands::{self, FAST, Keys, Run, Spec};
use loci_index::table::execute::{self, Moment};
use loci_index::table::slots::{Span, Within};
use loci_index::table::tape::{Item, Items, Tape};
use loci_index::table::{Keyspace, Table, guards};
use loci_wire::v1::cache_reply::Kind;
use loci_wire::v1::cache_server::Cache;
use loci_wire::v1::pipeline_reply::Reply;
use loci_wire::v1::pipeline_request::Call;
use loci_wire::{About, v1};
use tonic::{Code, Request, Response, Status};

use super::calls::{Calls, REPLY_BYTES_MAX, counted, log, no_part, not_reserved, too_large_reply};
use super::convert::{self, NAMESPACE_DEFAULT};
use super::far::{self, Far, other_reply, pick};
use super::home::{self, Home, Name, Reading, Wanted, check_token, find, one_shard};
use super::records::unary;
use super::status::Failure;
use crate::metrics::Metrics;
use crate::router::Route;

/// The most commands of one call.
const COMMANDS_MAX: usize = 10_000;
/// The most conditions of one call.
const CONDITIONS_MAX: usize = 1_000;
/// Reads of more commands than this, or of ones that can take long, go to the search threads.
const COMMANDS_AT_ONCE: usize = 64;
/// How deep a reply nests at most.
const DEPTH_MAX: usize = 32;

static EMPTY: LazyLock<Arc<Table>> = LazyLock::new(|| Arc::new(Table::new(0)));

/// Serves `loci.v1.Cache`.
#[derive(Clone)]
pub struct CacheService {
    /// What the calls do.
    pub calls: Calls,
    /// Where they are counted.
    pub metrics: Arc<Metrics>,
}

#[tonic::async_trait]
impl Cache for CacheService {
    async fn execute(&self, request: Request<v1::ExecuteRequest>) -> Result<Response<v1::ExecuteReply>, Status> {
        let writes = writes(request.get_ref());
        let subject = self.calls.subject(&Named(request.get_ref()), loci_wire::known(request.metadata()));
        let execute = |request, deadline| self.calls.execute(request, deadline);
        unary(&self.calls, &self.metrics, "execute", writes, subject, request, execute).await
    }
}

/// Commands with all keys that they name.
pub struct Named<'c>(pub &'c v1::ExecuteRequest);

impl About for Named<'_> {
    fn namespace(&self) -> &str {
        self.0.namespace()
    }

    fn each_key(&self, each: &mut dyn FnMut(&[u8])) {
        for v1::CacheCommand { arguments } in &self.0.commands {
            let words: Vec<&[u8]> = arguments.iter().map(|word| &word[..]).collect();
            let Some(spec) = words.first().and_then(|name| commands::find(name)) else { continue };
            spec.key_places(&words).into_iter().filter_map(|place| words.get(place)).for_each(|key| each(key));
        }
        self.0.conditions.iter().for_each(|condition| each(&condition.key));
    }
}

/// Whether a call changes something, as far as is known of its commands.
pub fn writes(request: &v1::ExecuteRequest) -> bool {
    let only_reads = |command: &v1::CacheCommand| {
        let spec = command.arguments.first().and_then(|name| commands::find(name));
        spec.is_some_and(|spec| matches!(spec.run, Run::Read(_)))
    };
    !request.commands.iter().all(only_reads)
}

/// One command, checked.
#[derive(Clone)]
struct Asked {
    spec: &'static Spec,
    args: Vec<Bytes>,
}

impl Asked {
    fn new(args: Vec<Bytes>) -> Result<Asked, Failure> {
        let words: Vec<&[u8]> = args.iter().map(|arg| &arg[..]).collect();
        let spec = execute::find(&words).map_err(|failure| Failure::invalid("invalid_command", failure.text()))?;
        if matches!(spec.run, Run::Door | Run::Swap) {
            let message =
                format!("command '{}' is about a connection, or about several collections: not here", spec.name);
            return Err(Failure::invalid("invalid_command", message));
        }
        if let Some(long) = words.iter().find(|arg| arg.len() > VALUE_BYTES_MAX) {
            let message = format!("an argument has {} bytes; the most is {VALUE_BYTES_MAX}", long.len());
            return Err(Failure::invalid("invalid_command", message));
        }
        Ok(Asked { spec, args })
    }

    fn words(&self) -> Vec<&[u8]> {
        self.args.iter().map(|arg| &arg[..]).collect()
    }

    fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.spec.key_places(&self.words()).into_iter().filter_map(|place| self.args.get(place))
    }

    fn span(&self) -> Span {
        Span::of(self.spec, &self.words())
    }

    fn is_script(&self) -> bool {
        matches!((self.spec.run, self.spec.keys), (Run::Script, Keys::Counted(..)))
    }

    /// Whether it may reach keys beside those that it names.
    fn reaches_others(&self) -> bool {
        self.is_script() || matches!(self.spec.name, "sort" | "sort_ro")
    }

    fn only_reads(&self) -> bool {
        matches!(self.spec.run, Run::Read(_))
    }

    /// Whether each shard can be asked, and the replies put together.
    fn is_of_all(&self) -> bool {
        matches!(self.spec.name, "dbsize" | "flushdb" | "keys" | "tag.drop" | "tag.keys")
    }
}

/// The commands of a call: conditions first.
struct Asking {
    name: Name,
    asked: Vec<Asked>,
    /// How many of them are conditions.
    conditions: usize,
    atomic: bool,
}

impl Asking {
    fn new(request: &mut v1::ExecuteRequest) -> Result<Asking, Failure> {
        counted("commands", request.commands.len(), COMMANDS_MAX)?;
        let name = convert::collection_name(request.collection.take(), NAMESPACE_DEFAULT)?;
        let (commands, given) = (std::mem::take(&mut request.commands), std::mem::take(&mut request.conditions));
        let conditions = given.len();
        if conditions > CONDITIONS_MAX {
            let message = format!("a call has at most {CONDITIONS_MAX} conditions, not {conditions}");
            return Err(Failure::invalid("wrong_count", message));
        }
        let guards = given.into_iter().enumerate().map(|(number, condition)| guard(&name, condition, number));
        let commands = commands.into_iter().enumerate().map(|(number, command)| {
            let about =
                |failure: Failure| Failure { message: format!("command {number}: {}", failure.message), ..failure };
            Asked::new(command.arguments).map_err(|failure| about(failure).number(number))
        });
        let asked = guards.chain(commands).collect::<Result<Vec<_>, _>>()?;
        Ok(Asking { name, asked, conditions, atomic: request.atomic || conditions > 0 })
    }

    /// A refusal counts conditions and commands as one list.
    fn blame(&self, mut failure: Failure) -> Failure {
        let number = failure.detail.number as usize;
        if matches!(failure.detail.reason.as_str(), "fenced" | "condition_failed") && number >= self.conditions {
            failure = failure.number(number - self.conditions);
        }
        failure
    }

    /// Which commands go to which shard.
    fn shares(&self, route: Option<&Route>) -> Result<BTreeMap<u32, Vec<usize>>, Failure> {
        let Some(route) = route.filter(|route| route.shards().len() > 1) else {
            let shard = route.and_then(|route| route.shards().first()).copied().unwrap_or(crate::shards::CATALOG);
            return Ok([(shard, (0..self.asked.len()).collect())].into());
        };
        if let [alone] = &self.asked[..]
            && alone.keys().next().is_none()
            && alone.is_of_all()
        {
            return Ok(route.shards().iter().map(|shard| (*shard, vec![0])).collect());
        }
        if self.atomic {
            let keys = self.asked.iter().flat_map(Asked::keys).map(|key| &key[..]);
            let shard = one_shard(route, keys)?;
            self.check_keys()?;
            return Ok([(shard, (0..self.asked.len()).collect())].into());
        }
        self.check_keys()?;
        let mut shares: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (number, asked) in self.asked.iter().enumerate() {
            let keys: Vec<&[u8]> = asked.keys().map(|key| &key[..]).collect();
            let shard = one_shard(route, keys).map_err(|failure| failure.number(number))?;
            shares.entry(shard).or_default().push(number);
        }
        Ok(shares)
    }

    /// In several shards a command is where its keys are, and one without keys is nowhere.
    fn check_keys(&self) -> Result<(), Failure> {
        let of_several = |asked: &Asked| asked.reaches_others() && asked.span() == Span::Several;
        if let Some(number) = self.asked.iter().position(of_several) {
            let name = self.asked[number].spec.name;
            let message = format!(
                "the keys of a '{name}' must be in one slot, and so all that it may reach: give them a common {{tag}}"
            );
            return Err(Failure::invalid("several_shards", message).number(number.saturating_sub(self.conditions)));
        }
        match self.asked.iter().position(|asked| asked.keys().next().is_none()) {
            None => Ok(()),
            Some(number) => {
                let name = self.asked[number].spec.name;
                let message = format!("command '{name}' has no key, and the namespace has several shards");
                Err(Failure::invalid("several_shards", message).number(number.saturating_sub(self.conditions)))
            }
        }
    }
}

/// A condition as a guard.
fn guard(name: &Name, condition: v1::Condition, number: usize) -> Result<Asked, Failure> {
    if let Some(named) = condition.collection.clone()
        && convert::collection_name(Some(named), &name.0)? != *name
    {
        let message = "conditions of commands are about their collection";
        return Err(Failure::invalid("invalid_condition", message).number(number));
    }
    let (command, given) = match convert::expect(&condition, number)? {
        Expect::Lease(given) => ("LEASE.FENCE", given),
        Expect::Value(version) => ("VERSION.IF", version),
        Expect::Absent | Expect::Present | Expect::Version(_) => {
            let message = format!("condition {number} is about a record; commands go with lease and value_version");
            return Err(Failure::invalid("invalid_condition", message).number(number));
        }
    };
    Asked::new(vec![command.into(), condition.key, given.to_string().into()])
}

impl Calls {
    /// Carries out commands on typed values.
    pub async fn execute(
        &self,
        mut request: v1::ExecuteRequest,
        deadline: Instant,
    ) -> Result<v1::ExecuteReply, Failure> {
        let name = convert::collection_name(request.collection.clone(), NAMESPACE_DEFAULT)?;
        if let Some(far) = self.far_from_all(&name) {
            return Box::pin(self.execute_far(far, request, deadline)).await;
        }
        let asking = Asking::new(&mut request)?;
        self.check_scripts(&asking)?;
        if asking.asked.iter().all(Asked::only_reads) {
            return self.execute_reads(asking, request.consistency.as_ref(), deadline).await;
        }
        let origin = convert::origin(request.origin)?;
        not_reserved(&asking.name.0)?;
        let names = [asking.name.clone()];
        let wanted = |route: &Route| Ok(asking.shares(Some(route))?.into_keys().collect());
        let (route, homes) = Home::all(&self.cluster, &asking.name.0, &names, wanted, deadline).await?;
        let mut shares = asking.shares(route.as_ref())?;
        shares.retain(|shard, _| self.cluster.is_asked_for(*shard));
        let parts = homes.iter().zip(shares.values());
        let spread = route.as_ref().is_some_and(|route| route.shards().len() > 1);
        let written =
            join_all(parts.map(|(home, share)| write(home, &asking, share, spread, origin.clone(), deadline))).await;
        let mut replies = Replies::new(asking.asked.len());
        let mut tokens = Vec::new();
        for ((home, share), written) in homes.iter().zip(shares.values()).zip(written) {
            let (tape, index) = written.map_err(|failure| asking.blame(failure))?;
            tokens.push((home.cluster.shard().id(), index));
            replies.take(share, &tape, done_but_too_large)?;
        }
        Ok(v1::ExecuteReply { replies: replies.after(asking.conditions)?, token: home::token(tokens), lag_millis: 0 })
    }

    /// The same, where not all shards are here.
    async fn execute_far(
        &self,
        far: Far,
        request: v1::ExecuteRequest,
        deadline: Instant,
    ) -> Result<v1::ExecuteReply, Failure> {
        let asking = Asking::new(&mut request.clone())?;
        self.check_scripts(&asking)?;
        let writes = !asking.asked.iter().all(Asked::only_reads);
        if !writes {
            check_token(request.consistency.as_ref(), &far.shards)?;
        }
        // With conditions all is in one shard, and conditions are not counted among the commands there.
        let mut shares = asking.shares(Some(&far.route))?;
        if asking.conditions > 0 {
            shares.values_mut().for_each(|share| *share = (0..request.commands.len()).collect());
        }
        let call = |numbers: &[usize]| {
            let commands = pick(&request.commands, numbers);
            let v1::ExecuteRequest { origin, collection, conditions, atomic, consistency, .. } = &request;
            Call::Execute(Box::new(v1::ExecuteRequest {
                origin: origin.clone(),
                collection: collection.clone(),
                commands,
                conditions: conditions.clone(),
                atomic: *atomic,
                consistency: consistency.clone(),
            }))
        };
        let answered = self.share_far(&shares, writes, deadline, call).await?;
        let mut replies: Vec<Option<v1::CacheReply>> = vec![None; request.commands.len()];
        let (mut tokens, mut lag_millis, mut bytes) = (Vec::new(), 0, 0);
        for (share, reply) in shares.values().zip(answered) {
            let Reply::Execute(reply) = reply else { return Err(other_reply()) };
            for (number, reply) in share.iter().zip(reply.replies) {
                bytes += prost::Message::encoded_len(&reply) + 16;
                let place = replies.get_mut(*number).ok_or_else(damaged)?;
                *place = Some(match place.take() {
                    None => reply,
                    Some(before) => joined(before, reply),
                });
            }
            tokens.push(reply.token);
            lag_millis = reply.lag_millis.max(lag_millis);
        }
        if bytes > REPLY_BYTES_MAX {
            return Err(if writes { done_but_too_large() } else { too_large_reply() });
        }
        let replies = replies.into_iter().map(|reply| reply.ok_or_else(damaged)).collect::<Result<_, Failure>>()?;
        Ok(v1::ExecuteReply { replies, token: far::joined(tokens), lag_millis })
    }

    fn check_scripts(&self, asking: &Asking) -> Result<(), Failure> {
        let brings_code = |asked: &Asked| commands::brings_code(asked.spec, &asked.words());
        match asking.asked.iter().position(brings_code).filter(|_| !self.scripts) {
            None => Ok(()),
            Some(number) => {
                let failure = Failure::new(Code::PermissionDenied, "scripts_off", commands::SCRIPTS_OFF);
                Err(failure.number(number.saturating_sub(asking.conditions)))
            }
        }
    }

    async fn execute_reads(
        &self,
        asking: Asking,
        consistency: Option<&v1::Consistency>,
        deadline: Instant,
    ) -> Result<v1::ExecuteReply, Failure> {
        let keys: Vec<Bytes> = asking.asked.iter().flat_map(Asked::keys).cloned().collect();
        let wanted = if keys.is_empty() { Wanted::All } else { Wanted::Keys(&keys) };
        let reading = Reading::new(&self.cluster, asking.name.clone(), wanted, consistency, deadline).await?;
        let (token, lag_millis) = (reading.token(), reading.lag_millis(consistency));
        let short = asking.asked.len() <= COMMANDS_AT_ONCE && asking.asked.iter().all(|asked| asked.spec.is(FAST));
        let replies = match short {
            true => read(&reading, &asking)?,
            false => self.search.run(deadline, move |_, _| read(&reading, &asking)).await??,
        };
        Ok(v1::ExecuteReply { replies, token, lag_millis })
    }
}

/// Has a shard carry out its share. `spread`: other shards have other keys, so scripts are told which slot is theirs.
async fn write(
    home: &Home,
    asking: &Asking,
    share: &[usize],
    spread: bool,
    origin: Origin,
    deadline: Instant,
) -> Result<(Vec<u8>, u64), Failure> {
    let found = find(&home.view, &asking.name)?;
    let collection = found.id().0;
    let mut packed = Packed::new();
    for asked in share.iter().filter_map(|number| asking.asked.get(*number)) {
        let words = asked.words();
        match asked.span() {
            Span::One(slot) if spread && asked.is_script() => {
                let within = Within::Slot(slot).text();
                let said = [&b"script"[..], b"within", within.as_bytes()].into_iter().chain(words);
                packed.push(0, said.collect::<Vec<_>>().into_iter());
            }
            _ => packed.push(0, words.into_iter()),
        }
    }
    let execution = Execution {
        collections: vec![collection],
        conditions: Vec::new(),
        calls: packed.into_bytes(),
        atomic: asking.atomic,
    };
    match log(&home.cluster.within_room(), origin, Command::Execute(execution.into()), deadline).await? {
        (Outcome::Executed(Some(tape)), index) => Ok((tape, index)),
        (outcome, _) => Err(Failure::new(
            Code::Internal,
            "unexpected_outcome",
            format!("the command ended in {outcome:?}; please report this"),
        )),
    }
}

fn read(reading: &Reading, asking: &Asking) -> Result<Vec<v1::CacheReply>, Failure> {
    let mut shares = asking.shares(reading.route())?;
    if shares.len() > 1 {
        // Another node may ask for some of them only.
        shares.retain(|shard, _| reading.parts().iter().any(|part| part.shard.id() == *shard));
    }
    let (collections, now) = (reading.collections()?, reading.now());
    let mut replies = Replies::new(asking.asked.len());
    for (shard, share) in &shares {
        let place = reading.parts().iter().position(|part| part.shard.id() == *shard);
        let place = place.or((shares.len() == 1).then_some(0)).ok_or_else(no_part)?;
        let (part, collection) = (&reading.parts()[place], collections.get(place).ok_or_else(no_part)?);
        let table = collection.table().unwrap_or(&EMPTY);
        let mut tape = Tape::new();
        let moment = |number: usize| Moment { now, version: part.view.index(), number: number as u32 };
        let mut one = |keyspace: &Keyspace, number: usize| {
            let asked = &asking.asked[number];
            execute::read(keyspace, asked.spec, &asked.words(), moment(number), &mut tape);
            if tape.len() > REPLY_BYTES_MAX { Err(too_large_reply()) } else { Ok(()) }
        };
        if asking.atomic {
            table.read(|keyspace| {
                check_guards(keyspace, asking, now)?;
                share.iter().try_for_each(|number| one(keyspace, *number))
            })?;
        } else {
            // Others may write in between.
            share.iter().try_for_each(|number| table.read(|keyspace| one(keyspace, *number)))?;
        }
        replies.take(share, tape.bytes(), too_large_reply)?;
    }
    replies.after(asking.conditions)
}

fn check_guards(keyspace: &Keyspace, asking: &Asking, now: u64) -> Result<(), Failure> {
    for (number, asked) in (0..).zip(&asking.asked) {
        let words = asked.words();
        let unmet = guards::find(&words).and_then(|spec| guards::unmet(keyspace, spec, &words, now));
        if let Some(unmet) = unmet {
            return Err(asking.blame(Refusal::Unmet { number, unmet }.into()));
        }
    }
    Ok(())
}

/// Replies, put in the order of their commands.
struct Replies {
    replies: Vec<Option<v1::CacheReply>>,
    bytes: usize,
}

impl Replies {
    fn new(count: usize) -> Replies {
        Replies { replies: vec![None; count], bytes: 0 }
    }

    /// Takes in the replies of one shard.
    fn take(&mut self, share: &[usize], tape: &[u8], too_large: fn() -> Failure) -> Result<(), Failure> {
        self.bytes += tape.len();
        if self.bytes > REPLY_BYTES_MAX {
            return Err(too_large());
        }
        let mut items = Items::new(tape);
        for number in share {
            let reply = reply(&mut items, 0).ok_or_else(damaged)?;
            let place = self.replies.get_mut(*number).ok_or_else(damaged)?;
            *place = Some(match place.take() {
                None => reply,
                Some(before) => joined(before, reply),
            });
        }
        Ok(())
    }

    /// All of them but the first so many.
    fn after(self, first: usize) -> Result<Vec<v1::CacheReply>, Failure> {
        self.replies.into_iter().skip(first).map(|reply| reply.ok_or_else(damaged)).collect()
    }
}

/// Of commands that write: not to be tried again as if nothing had happened.
pub fn done_but_too_large() -> Failure {
    let message = "the commands were carried out, but their replies are larger than a message may be: read what they did in parts";
    Failure::new(Code::OutOfRange, "done_reply_too_large", message)
}

fn damaged() -> Failure {
    Failure::new(Code::Internal, "damaged_reply", "the replies are not those of the commands; please report this")
}

/// What two shards answer to the same command.
fn joined(one: v1::CacheReply, other: v1::CacheReply) -> v1::CacheReply {
    let kind = match (one.kind, other.kind) {
        (Some(Kind::Int(one)), Some(Kind::Int(other))) => Some(Kind::Int(one.saturating_add(other))),
        (Some(Kind::Array(mut one)), Some(Kind::Array(other))) => {
            one.replies.extend(other.replies);
            Some(Kind::Array(one))
        }
        (Some(Kind::Set(mut one)), Some(Kind::Set(other))) => {
            one.replies.extend(other.replies);
            Some(Kind::Set(one))
        }
        (_, Some(Kind::Error(error))) => Some(Kind::Error(error)),
        (one, _) => one,
    };
    v1::CacheReply { kind }
}

/// The next reply of a tape.
fn reply(items: &mut Items<'_>, depth: usize) -> Option<v1::CacheReply> {
    if depth > DEPTH_MAX {
        return None;
    }
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let many = |items: &mut Items<'_>, count: usize| -> Option<v1::CacheReplies> {
        let replies = (0..count).map(|_| reply(items, depth + 1)).collect::<Option<_>>()?;
        Some(v1::CacheReplies { replies })
    };
    let kind = match items.next()? {
        Item::Null | Item::NullArray => None,
        Item::Status(status) => Some(Kind::Status(lossy(status))),
        Item::Error(error) => Some(Kind::Error(lossy(error))),
        Item::Int(number) => Some(Kind::Int(number)),
        Item::Bulk(bytes) | Item::Verbatim(bytes) | Item::BigNumber(bytes) => {
            Some(Kind::Bytes(Bytes::copy_from_slice(bytes)))
        }
        Item::Double(number) | Item::Decimal(number) => Some(Kind::Double(number)),
        Item::Bool(truth) => Some(Kind::Bool(truth)),
        Item::Array(count) => Some(Kind::Array(many(items, count)?)),
        Item::Set(count) => Some(Kind::Set(many(items, count)?)),
        Item::Map(count) | Item::Entries(count) => Some(Kind::Map(many(items, count.checked_mul(2)?)?)),
        Item::Pairs(count) => {
            let pairs = (0..count).map(|_| Some(v1::CacheReply { kind: Some(Kind::Array(many(items, 2)?)) }));
            Some(Kind::Array(v1::CacheReplies { replies: pairs.collect::<Option<_>>()? }))
        }
    };
    Some(v1::CacheReply { kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> v1::CacheCommand {
        v1::CacheCommand { arguments: line.split(' ').map(|word| Bytes::copy_from_slice(word.as_bytes())).collect() }
    }

    fn asking(lines: &[&str]) -> Result<Asking, Failure> {
        let collection = Some(v1::CollectionName { namespace: "n".into(), collection: "c".into() });
        let commands = lines.iter().map(|line| words(line)).collect();
        Asking::new(&mut v1::ExecuteRequest { collection, commands, ..Default::default() })
    }

    #[test]
    fn commands_that_are_none_are_refused_and_named() {
        for (line, message) in [
            ("NOPE x", "command 1: ERR unknown command 'NOPE', with args beginning with: 'x' "),
            ("GET", "command 1: ERR wrong number of arguments for 'get' command"),
            ("", "command 1: ERR unknown command '', with args beginning with: "),
        ] {
            let failure = asking(&["GET a", line]).err().expect("it is refused");
            assert_eq!((failure.code, &*failure.message), (Code::InvalidArgument, message));
            assert_eq!((&*failure.detail.reason, failure.detail.number), ("invalid_command", 1));
        }
        assert!(asking(&[]).is_err());
    }

    #[test]
    fn replies_keep_their_shape() {
        let mut tape = Tape::new();
        tape.pairs(1);
        tape.bulk(b"m");
        tape.double(1.5);
        tape.map(1);
        tape.bulk(b"k");
        tape.null();
        let mut replies = Replies::new(2);
        replies.take(&[1, 0], tape.bytes(), too_large_reply).expect("they are replies");
        let found = replies.after(0).expect("both are there");
        let of = |kind| v1::CacheReply { kind };
        let bytes = |text: &'static [u8]| of(Some(Kind::Bytes(text.into())));
        let many = |replies: Vec<v1::CacheReply>| v1::CacheReplies { replies };
        let pair = of(Some(Kind::Array(many(vec![bytes(b"m"), of(Some(Kind::Double(1.5)))]))));
        let expected =
            [of(Some(Kind::Map(many(vec![bytes(b"k"), of(None)])))), of(Some(Kind::Array(many(vec![pair]))))];
        assert_eq!(found, expected);
        for len in 0..tape.len() {
            assert!(Replies::new(2).take(&[0, 1], &tape.bytes()[..len], too_large_reply).is_err());
        }
        let mut deep = Tape::new();
        (0..100).for_each(|_| deep.array(1));
        deep.int(1);
        assert!(Replies::new(1).take(&[0], deep.bytes(), too_large_reply).is_err());
    }
}
