//! Scripts over a keyspace: `EVAL` and its like, and the scripts that are kept.
//!
//! ```text
//!   EVAL source / EVALSHA digest --> Scripts --> Engine::run --redis.call--> Reach --> commands on the keyspace
//!                                                    |
//!                                                    '-- over its budget: what it changed is taken back
//! ```
//!
//! `FUNCTION` and `FCALL` are next door: [`functions`](super::functions).
//!
//! Where a namespace is spread over several shards, a script is told which slot it may reach ([`Within`]): a key that it makes up
//! may belong to another shard, where nobody would see what was written here. The door writes that before the call, as
//! `SCRIPT WITHIN slot EVAL ...`; and what the caller may do if that is not everything ([`Permits`]).
//!
//! A script runs where its command stands in the log, on every member alike; which scripts are kept is part of the state, so
//! that they survive a failover. The oldest leave when all of them take more than [`SCRIPTS_BYTES_MAX`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::commands::{self, Failure, GUARD, Keys, NOSCRIPT, Run, WRITE, is};
use super::execute::{self, Moment};
use super::functions::{Libraries, Library};
use super::keyspace::Keyspace;
use super::permits::{Permits, Refused};
use super::script::{Engine, Host, Limits, Reply, Script, ScriptError};
use super::slots::Within;
use super::tape::{Item, Items, Tape, decimals};
use super::weight;

/// The most bytes of all kept scripts together.
pub const SCRIPTS_BYTES_MAX: usize = 4 << 20;
/// The most bytes of one script.
pub const SCRIPT_BYTES_MAX: usize = 1 << 20;
/// What a command costs a script besides what it is given, walks over and answers, in steps.
const STEPS_PER_CALL: u64 = 20;
/// Of arguments and of a reply, so many bytes cost a step.
const BYTES_PER_STEP: u64 = 16;
/// How deep a reply may nest that a script is given.
const DEPTH_MAX: usize = 32;

/// The scripts that are kept.
#[derive(Default)]
pub struct Scripts {
    pub(super) engine: Engine,
    /// By their digests.
    sources: BTreeMap<Box<[u8]>, Arc<Script>>,
    /// Digests, the oldest first.
    order: VecDeque<Box<[u8]>>,
    bytes: usize,
    pub(super) libraries: Libraries,
}

impl Scripts {
    /// Those that [`Scripts::sources`] gave.
    pub fn of(sources: Vec<Vec<u8>>) -> Scripts {
        let mut scripts = Scripts::default();
        for source in sources {
            // Only a library's first line names it: a script with such a line is refused.
            match Library::named(&source) {
                Ok(_) => scripts.reload(&source),
                Err(_) => scripts.keep(Script::new(&source).into()),
            }
        }
        scripts
    }

    /// The sources of scripts, the oldest first, and of libraries.
    pub fn sources(&self) -> Vec<Vec<u8>> {
        let scripts = self.order.iter().filter_map(|digest| self.sources.get(digest)).map(|it| it.source().to_vec());
        scripts.chain(self.libraries.sources().map(<[u8]>::to_vec)).collect()
    }

    /// What they take.
    pub fn bytes(&self) -> usize {
        self.bytes + self.libraries.bytes()
    }

    fn keep(&mut self, script: Arc<Script>) {
        let digest: Box<[u8]> = script.sha1().into_bytes().into();
        let bytes = script.source().len();
        if self.sources.insert(digest.clone(), script).is_some() {
            return;
        }
        self.order.push_back(digest);
        self.bytes += bytes;
        while self.bytes > SCRIPTS_BYTES_MAX && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|digest| self.sources.remove(&digest));
            self.bytes -= oldest.map_or(0, |script| script.source().len());
        }
    }

    /// Carries out a command about scripts. The reply, a failure too, is added to the tape.
    pub fn call(&mut self, keyspace: &mut Keyspace, args: &[&[u8]], moment: Moment, out: &mut Tape) {
        let before = out.len();
        let done = match Given::of(args, moment) {
            Some(given) => self.run(keyspace, given, out),
            None => Err(Failure::Syntax),
        };
        if let Err(failure) = done {
            out.truncate(before);
            out.error(failure.text());
        }
    }

    fn run(&mut self, keyspace: &mut Keyspace, given: Given<'_>, out: &mut Tape) -> Result<(), Failure> {
        let args = given.args;
        match args.first() {
            Some(name) if is(name, "script") => self.script(args, out),
            Some(name) if is(name, "function") => self.function(args, out),
            Some(name) if is(name, "fcall") || is(name, "fcall_ro") => {
                self.call_function(keyspace, given, is(name, "fcall_ro"), out)
            }
            Some(name) if is(&name[..name.len().min(4)], "eval") => {
                let read_only = name.len() > 3 && is(&name[name.len() - 3..], "_ro");
                let by_digest = is(&name[..name.len().min(7)], "evalsha");
                self.eval(keyspace, given, by_digest, read_only, out)
            }
            _ => Err(Failure::Syntax),
        }
    }

    fn script(&mut self, args: &[&[u8]], out: &mut Tape) -> Result<(), Failure> {
        let wrong = || {
            let what = String::from_utf8_lossy(args[1]);
            Failure::from(format!("ERR unknown subcommand '{what}'. Try SCRIPT HELP."))
        };
        match args[1] {
            what if is(what, "load") && args.len() == 3 => {
                too_long(args[2])?;
                let script = Script::new(args[2]);
                self.engine.check(&script).map_err(not_a_script)?;
                out.bulk(script.sha1().as_bytes());
                self.keep(script.into());
            }
            what if is(what, "exists") && args.len() > 2 => {
                out.array(args.len() - 2);
                for digest in &args[2..] {
                    out.flag(self.sources.contains_key(&*digest.to_ascii_lowercase()));
                }
            }
            what if is(what, "flush") => {
                if args.len() > 3 || args.get(2).is_some_and(|how| !is(how, "sync") && !is(how, "async")) {
                    return Err("ERR SCRIPT FLUSH only support SYNC|ASYNC option".into());
                }
                (self.sources, self.order, self.bytes) = Default::default();
                out.ok();
            }
            // None runs for longer than its budget, and none runs while this one is looked at.
            what if is(what, "kill") && args.len() == 2 => {
                return Err("NOTBUSY No scripts in execution right now.".into());
            }
            what if is(what, "help") && args.len() == 2 => {
                let help = [
                    "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                    "EXISTS <sha1> [<sha1> ...]",
                    "FLUSH [ASYNC|SYNC]",
                    "KILL",
                    "LOAD <script>",
                    "HELP",
                ];
                out.array(help.len());
                help.iter().for_each(|line| out.status(line));
            }
            _ => return Err(wrong()),
        }
        Ok(())
    }

    fn eval(
        &mut self,
        keyspace: &mut Keyspace,
        given: Given<'_>,
        by_digest: bool,
        read_only: bool,
        out: &mut Tape,
    ) -> Result<(), Failure> {
        let args = given.args;
        let keys = commands::int(args[2])?;
        if keys > args.len() as i64 - 3 {
            return Err("ERR Number of keys can't be greater than number of args".into());
        }
        if keys < 0 {
            return Err("ERR Number of keys can't be negative".into());
        }
        let (keys, arguments) = args[3..].split_at(keys as usize);
        let script = if by_digest {
            let kept = self.sources.get(&*args[1].to_ascii_lowercase());
            Arc::clone(kept.ok_or("NOSCRIPT No matching script. Please use EVAL.")?)
        } else {
            too_long(args[1])?;
            Arc::new(Script::new(args[1]))
        };
        let flags = self.engine.check(&script).map_err(not_a_script)?;
        if !by_digest {
            self.keep(Arc::clone(&script));
        }
        if read_only && flags.declared && !flags.no_writes {
            return Err("ERR Can not execute a script with write flag using *_ro command.".into());
        }
        let read_only = read_only || flags.no_writes;
        let engine = &mut self.engine;
        in_reach(keyspace, given, read_only, out, |reach| {
            engine.run(reach, &script, keys, arguments, &Limits::default()).map(Some)
        })
    }
}

/// A call of a script.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    /// The command's name first.
    pub args: &'a [&'a [u8]],
    /// What it may reach.
    pub within: Within,
    /// What its caller may do.
    pub permits: Permits<'a>,
    /// When.
    pub moment: Moment,
}

impl<'a> Given<'a> {
    /// Of a command, with what doors write before it. None: it is none.
    fn of(args: &'a [&'a [u8]], moment: Moment) -> Option<Given<'a>> {
        let mut given = Given { args, within: Within::Anything, permits: Permits::default(), moment };
        while let [script, what, rest @ ..] = given.args
            && is(script, "script")
        {
            if is(what, "within") {
                let (slot, call) = rest.split_first()?;
                (given.within, given.args) = (Within::parse(slot)?, call);
            } else if is(what, "as") {
                (given.permits, given.args) = Permits::split(rest)?;
            } else {
                break;
            }
        }
        // Only what runs a script has anything before it.
        let runs = || execute::find(given.args).is_ok_and(|spec| matches!(spec.keys, Keys::Counted(..)));
        (given.args.len() == args.len() || runs()).then_some(given)
    }
}

/// Runs a script, and takes back what it did if it went over a budget, or ended with an error after a guard that did not hold. It
/// says none where there was nothing to run.
pub(super) fn in_reach(
    keyspace: &mut Keyspace,
    given: Given<'_>,
    read_only: bool,
    out: &mut Tape,
    run: impl FnOnce(&mut dyn Host) -> Result<Option<Reply>, ScriptError>,
) -> Result<(), Failure> {
    keyspace.begin_journal();
    let Given { within, permits, moment, .. } = given;
    let tape = Tape::new();
    let mut reach =
        Reach { keyspace: &mut *keyspace, moment, within, permits, calls: 0, read_only, tape, spent: 0, unmet: false };
    let result = run(&mut reach);
    let unmet = reach.unmet;
    match result {
        Ok(Some(reply @ Reply::Error(_))) if unmet => {
            keyspace.take_back();
            write(&reply, out);
            Ok(())
        }
        Ok(Some(reply)) => {
            keyspace.keep_changes();
            write(&reply, out);
            Ok(())
        }
        Ok(None) => {
            keyspace.take_back();
            Err("ERR Function not found".into())
        }
        Err(error) => {
            keyspace.take_back();
            Err(not_a_script(error))
        }
    }
}

pub(super) fn too_long(source: &[u8]) -> Result<(), Failure> {
    if source.len() <= SCRIPT_BYTES_MAX {
        return Ok(());
    }
    Err(format!("ERR a script may have at most {SCRIPT_BYTES_MAX} bytes").into())
}

pub(super) fn not_a_script(error: ScriptError) -> Failure {
    let text = match error {
        ScriptError::Compile(what) => what,
        over => format!("{over}; nothing of it took effect: let it do less at a time"),
    };
    format!("ERR {text}").into()
}

/// What a script reaches: the keyspace, call by call.
struct Reach<'k> {
    keyspace: &'k mut Keyspace,
    moment: Moment,
    within: Within,
    permits: Permits<'k>,
    calls: u32,
    read_only: bool,
    tape: Tape,
    spent: u64,
    /// A guard did not hold.
    unmet: bool,
}

/// The reply to what is about a connection, and needs none.
fn of_a_connection(args: &[&[u8]]) -> Option<Reply> {
    Some(match args {
        [name] if is(name, "ping") => Reply::Status(b"PONG".to_vec()),
        [name, text] if is(name, "ping") || is(name, "echo") => Reply::Bulk(text.to_vec()),
        [name, ..] if is(name, "ping") => Reply::Error(b"ERR wrong number of arguments for 'ping' command".to_vec()),
        [name, ..] if is(name, "echo") => {
            Reply::Error(b"ERR Wrong number of args calling Redis command from script".to_vec())
        }
        _ => return None,
    })
}

impl Host for Reach<'_> {
    fn call(&mut self, args: &[&[u8]], resp3: bool) -> Reply {
        self.calls += 1;
        if let Some(name) = args.first()
            && commands::is_of_scripts(name)
        {
            self.spent = self.permits.cost(args) / BYTES_PER_STEP;
            if self.permits.forbid(name) {
                return Reply::Error(Refused::Command.text().into());
            }
        }
        if let [name] = args
            && is(name, "time")
        {
            let text = |number: u64| Reply::Bulk(number.to_string().into_bytes());
            return Reply::Array(vec![text(self.moment.now / 1_000), text(self.moment.now % 1_000 * 1_000)]);
        }
        if let Some(reply) = of_a_connection(args) {
            return reply;
        }
        let spec = match execute::find(args) {
            Ok(spec) => spec,
            Err(_) if args.first().is_some_and(|name| commands::is_of_doors(name)) => {
                return Reply::Error(b"ERR This Redis command is not allowed from script".to_vec());
            }
            Err(Failure::Text(text)) if text.starts_with("ERR unknown command") => {
                return Reply::Error(b"ERR Unknown Redis command called from script".to_vec());
            }
            Err(_) => return Reply::Error(b"ERR Wrong number of args calling Redis command from script".to_vec()),
        };
        if spec.is(NOSCRIPT) || !matches!(spec.run, Run::Read(_) | Run::Write(_)) {
            return Reply::Error(b"ERR This Redis command is not allowed from script".to_vec());
        }
        // A message goes through the log as well, though it changes nothing there.
        if self.read_only && (spec.is(WRITE) || matches!(spec.run, Run::Write(_))) {
            return Reply::Error(b"ERR Write commands are not allowed from read-only scripts.".to_vec());
        }
        let bytes = self.permits.cost(args) + args.iter().map(|arg| arg.len() as u64).sum::<u64>();
        self.spent = STEPS_PER_CALL + bytes / BYTES_PER_STEP;
        if let Some(refused) = self.permits.refuse(spec, args) {
            return Reply::Error(refused.text().into());
        }
        if !self.within.admits(spec, args) {
            return Reply::Error(b"ERR Script attempted to access keys that do not hash to the same slot".to_vec());
        }
        // Calls of the script have numbers of their own, far from those of other calls.
        let number = self.moment.number ^ self.calls.wrapping_mul(0x9e37_79b9);
        self.tape.truncate(0);
        if is(args[0], "keys") {
            return self.keys(args, resp3);
        }
        self.spent += weight::walked(self.keyspace, spec, args, self.moment.now);
        execute::write(self.keyspace, spec, args, Moment { number, ..self.moment }, &mut self.tape);
        self.spent += self.tape.len() as u64 / BYTES_PER_STEP;
        self.unmet |= spec.is(GUARD) && matches!(self.tape.items().next(), Some(Item::Error(_)));
        reply(&mut self.tape.items(), resp3, 0)
    }

    fn spent(&mut self) -> u64 {
        std::mem::take(&mut self.spent)
    }

    fn may(&mut self, args: &[&[u8]]) -> Option<bool> {
        let name = args.first()?;
        match commands::find(name) {
            Some(spec) => Some(!spec.is(NOSCRIPT) && self.permits.refuse(spec, args).is_none()),
            None => commands::is_of_doors(name).then(|| commands::is_of_scripts(name) && !self.permits.forbid(name)),
        }
    }
}

impl Reach<'_> {
    /// Keys come in the order of a table, which differs from member to member; a script gets them sorted.
    fn keys(&mut self, args: &[&[u8]], resp3: bool) -> Reply {
        let spec = execute::find(args);
        if let Ok(spec) = spec {
            execute::read(self.keyspace, spec, args, self.moment, &mut self.tape);
        }
        self.spent += self.keyspace.len() as u64 / 4;
        let mut reply = reply(&mut self.tape.items(), resp3, 0);
        if let Reply::Array(keys) = &mut reply {
            keys.sort_by(|a, b| match (a, b) {
                (Reply::Bulk(a), Reply::Bulk(b)) => a.cmp(b),
                _ => std::cmp::Ordering::Equal,
            });
        }
        reply
    }
}

/// The next reply of a tape, for a script.
fn reply(items: &mut Items<'_>, resp3: bool, depth: usize) -> Reply {
    if depth > DEPTH_MAX {
        return Reply::Null;
    }
    let next = |items: &mut Items<'_>| reply(items, resp3, depth + 1);
    let many = |items: &mut Items<'_>, n: usize| (0..n).map(|_| next(items)).collect::<Vec<_>>();
    match items.next() {
        None | Some(Item::Null | Item::NullArray) => Reply::Null,
        Some(Item::Status(status)) => Reply::Status(status.to_vec()),
        Some(Item::Error(error)) => Reply::Error(error.to_vec()),
        Some(Item::Int(number)) => Reply::Int(number),
        Some(Item::Bulk(bytes)) => Reply::Bulk(bytes.to_vec()),
        Some(Item::BigNumber(digits)) => Reply::BigNumber(digits.to_vec()),
        Some(Item::Verbatim(text)) => Reply::Verbatim { format: *b"txt", text: text.to_vec() },
        Some(Item::Decimal(number)) if !resp3 => Reply::Bulk(decimals(number).into_bytes()),
        Some(Item::Double(number) | Item::Decimal(number)) => Reply::Double(number),
        Some(Item::Bool(truth)) => Reply::Bool(truth),
        Some(Item::Array(n)) => Reply::Array(many(items, n)),
        Some(Item::Set(n)) => Reply::Set(many(items, n)),
        Some(Item::Map(n)) => Reply::Map((0..n).map(|_| (next(items), next(items))).collect()),
        Some(Item::Entries(n)) if resp3 => Reply::Map((0..n).map(|_| (next(items), next(items))).collect()),
        Some(Item::Pairs(n)) if !resp3 => Reply::Array(many(items, n * 2)),
        Some(Item::Pairs(n) | Item::Entries(n)) => Reply::Array((0..n).map(|_| Reply::Array(many(items, 2))).collect()),
    }
}

/// A script's reply on the tape.
fn write(reply: &Reply, out: &mut Tape) {
    match reply {
        Reply::Status(status) => out.status(&String::from_utf8_lossy(status)),
        Reply::Error(error) => out.error(&String::from_utf8_lossy(error)),
        Reply::Int(number) => out.int(*number),
        Reply::Bulk(bytes) => out.bulk(bytes),
        Reply::BigNumber(digits) => out.big_number(digits),
        Reply::Verbatim { text, .. } => out.verbatim(&String::from_utf8_lossy(text)),
        Reply::Null => out.null(),
        Reply::Double(number) => out.double(*number),
        Reply::Bool(truth) => out.bool(*truth),
        Reply::Array(replies) => {
            out.array(replies.len());
            replies.iter().for_each(|reply| write(reply, out));
        }
        Reply::Set(replies) => {
            out.set(replies.len());
            replies.iter().for_each(|reply| write(reply, out));
        }
        Reply::Map(pairs) => {
            out.map(pairs.len());
            for (key, value) in pairs {
                write(key, out);
                write(value, out);
            }
        }
    }
}
