//! The engine: compiles scripts, keeps them, and runs them one at a time.

use super::library::{self, Registered, Session, redis_api};
use super::lua::code::Proto;
use super::lua::compile::compile;
use super::lua::heap::{Function, Heap, Thread};
use super::lua::value::Value;
use super::lua::vm::{Base, Mode, Run, Throw, Vm};
use super::{Budget, Host, Limits, Reply, Script, ScriptError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Compiled scripts are forgotten together when they take more than this. It makes no difference but in time.
const KEPT_BYTES_MAX: usize = 16 << 20;
const CHUNK: &str = "user_script";
const LIBRARY_CHUNK: &str = "user_function";

/// What a first line with `#!lua flags=...` says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ScriptFlags {
    /// There was such a line. Without one the older, laxer rules hold.
    pub declared: bool,
    /// `no-writes`: the script only reads.
    pub no_writes: bool,
    /// `allow-oom`: it may run when memory is short.
    pub allow_oom: bool,
    /// `allow-stale`: it may run where data may be old.
    pub allow_stale: bool,
    /// `no-cluster`: it does not run in a cluster.
    pub no_cluster: bool,
    /// `allow-cross-slot-keys`: its keys may lie in several slots.
    pub allow_cross_slot_keys: bool,
}

impl ScriptFlags {
    /// Sets the one of that name. Says no where there is none.
    pub(super) fn set(&mut self, name: &str) -> bool {
        match name {
            "no-writes" => self.no_writes = true,
            "allow-oom" => self.allow_oom = true,
            "allow-stale" => self.allow_stale = true,
            "no-cluster" => self.no_cluster = true,
            "allow-cross-slot-keys" => self.allow_cross_slot_keys = true,
            _ => return false,
        }
        true
    }

    /// The names of those that are set.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.no_writes, "no-writes"),
            (self.allow_oom, "allow-oom"),
            (self.allow_stale, "allow-stale"),
            (self.no_cluster, "no-cluster"),
            (self.allow_cross_slot_keys, "allow-cross-slot-keys"),
        ];
        all.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect()
    }
}

struct Kept {
    proto: Arc<Proto>,
    flags: ScriptFlags,
}

/// Runs scripts. It has no state that a script could see; it may be made anew at any time.
pub struct Engine {
    heap: Heap,
    base: Base,
    kept: BTreeMap<[u8; 20], Kept>,
    kept_bytes: usize,
    stack: Vec<Value>,
    /// What the last run used.
    used: Used,
}

/// What a run has used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Of the steps.
    pub steps: u64,
    /// The most bytes at one time.
    pub memory_bytes: usize,
}

impl Default for Engine {
    fn default() -> Engine {
        Engine::new()
    }
}

impl Engine {
    /// An engine without scripts.
    pub fn new() -> Engine {
        let mut heap = Heap { bytes_max: usize::MAX / 2, ..Heap::default() };
        let base = match library::build(&mut heap) {
            Ok(base) => base,
            Err(_) => unreachable!("the libraries are smaller than half of all memory"),
        };
        heap.seal();
        Engine { heap, base, kept: BTreeMap::new(), kept_bytes: 0, stack: Vec::new(), used: Used::default() }
    }

    /// Whether a source is a script, and what its first line says. The compiled form is kept.
    pub fn check(&mut self, script: &Script) -> Result<ScriptFlags, ScriptError> {
        self.prepared(script).map(|prepared| prepared.1)
    }

    /// What the last run has used.
    pub fn used(&self) -> Used {
        self.used
    }

    fn prepared(&mut self, script: &Script) -> Result<(Arc<Proto>, ScriptFlags), ScriptError> {
        let source = &script.source[..];
        if let Some(kept) = self.kept.get(&script.digest) {
            return Ok((kept.proto.clone(), kept.flags));
        }
        let (flags, skip) = shebang(source).map_err(ScriptError::Compile)?;
        let proto = compile(&source[skip..], CHUNK)
            .map_err(|what| ScriptError::Compile(format!("Error compiling script (new function): {what}")))?;
        self.make_room(proto.bytes());
        self.kept.insert(script.digest, Kept { proto: proto.clone(), flags });
        Ok((proto, flags))
    }

    /// Runs a script. An error that it raises is a reply like any other, and what it did before stays; only a
    /// [`ScriptError`] takes back everything, which is the host's work.
    pub fn run(
        &mut self,
        host: &mut dyn Host,
        script: &Script,
        keys: &[&[u8]],
        arguments: &[&[u8]],
        limits: &Limits,
    ) -> Result<Reply, ScriptError> {
        let (proto, _) = self.prepared(script)?;
        self.in_vm(host, limits, Session::default(), |vm| {
            let done = start(vm, &proto, keys, arguments);
            let reply = finish(vm, done, limits, || script.sha1());
            settled(reply)
        })
    }

    fn prepared_library(&mut self, library: &Script) -> Result<Arc<Proto>, ScriptError> {
        let mut digest = library.digest;
        // A script of the same bytes is compiled under another name.
        digest[0] ^= 0xff;
        if let Some(kept) = self.kept.get(&digest) {
            return Ok(kept.proto.clone());
        }
        let skip = library.source.iter().position(|c| *c == b'\n').unwrap_or(library.source.len());
        let proto = compile(&library.source[skip..], LIBRARY_CHUNK)
            .map_err(|what| ScriptError::Compile(format!("Error compiling function: {what}")))?;
        self.make_room(proto.bytes());
        self.kept.insert(digest, Kept { proto: proto.clone(), flags: ScriptFlags::default() });
        Ok(proto)
    }

    fn make_room(&mut self, bytes: usize) {
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.kept.clear();
            self.kept_bytes = 0;
        }
        self.kept_bytes += bytes;
    }

    /// The functions that a library registers; its first line is the caller's.
    pub fn load(&mut self, library: &Script, limits: &Limits) -> Result<Vec<Registered>, ScriptError> {
        let proto = self.prepared_library(library)?;
        let session = Session { loading: true, ..Session::default() };
        self.in_vm(&mut Nobody, limits, session, |vm| match load(vm, &proto) {
            Ok(()) => Ok(std::mem::take(&mut vm.session.registered)),
            Err(Throw::Error(value)) => {
                let text = match said(vm, value) {
                    Ok(text) => String::from_utf8_lossy(&text).into_owned(),
                    Err(_) => "execution failure".to_owned(),
                };
                let text = text.strip_prefix("ERR ").unwrap_or(&text);
                let at = match (vm.thrown_line, &vm.thrown_in) {
                    (Some(line), Some(chunk)) if chunk.as_ref() == LIBRARY_CHUNK => format!("@{chunk}: {line}: "),
                    _ => String::new(),
                };
                // What an error says of its place is said once.
                let text = text.strip_prefix(&at.replace(": ", ":").replace('@', "")).unwrap_or(text).trim_start();
                Err(ScriptError::Compile(format!("Error registering functions: {at}{text}")))
            }
            Err(Throw::Over(budget)) => Err(ScriptError::OverBudget(budget)),
            Err(Throw::Yield) => Err(ScriptError::Compile("Error registering functions: it yields".into())),
        })
    }

    /// Runs a function of a library, which is loaded anew to that end: nothing is left over from one call to the next. None:
    /// the library registers no such function.
    pub fn call(
        &mut self,
        host: &mut dyn Host,
        library: &Script,
        name: &[u8],
        (keys, arguments): (&[&[u8]], &[&[u8]]),
        limits: &Limits,
    ) -> Result<Option<Reply>, ScriptError> {
        let proto = self.prepared_library(library)?;
        let session = Session { loading: true, ..Session::default() };
        self.in_vm(host, limits, session, |vm| {
            let loaded = load(vm, &proto);
            let callback = vm.session.registered.iter().find(|function| function.name == name);
            let callback = callback.map(|function| function.callback);
            vm.session.loading = false;
            let done = match (loaded, callback) {
                (Ok(()), Some(callback)) => enter_function(vm, callback, keys, arguments),
                (Ok(()), None) => return Ok(None),
                (Err(throw), _) => Err(throw),
            };
            let reply = finish(vm, done, limits, || String::from_utf8_lossy(name).into_owned());
            settled(reply).map(Some)
        })
    }

    /// One run: the heap is as it was when the engine was made, before and after.
    fn in_vm<R>(
        &mut self,
        host: &mut dyn Host,
        limits: &Limits,
        session: Session,
        run: impl FnOnce(&mut Vm<'_>) -> R,
    ) -> R {
        self.heap.reset(limits.memory_bytes);
        let mut vm = Vm {
            heap: &mut self.heap,
            base: &self.base,
            host,
            stack: std::mem::take(&mut self.stack),
            frames: Vec::with_capacity(8),
            open: Vec::new(),
            top: 0,
            open_top: 0,
            ret: Vec::with_capacity(8),
            steps: i64::try_from(limits.steps).unwrap_or(i64::MAX),
            mode: Mode::Script,
            nested: 0,
            nested_here: 0,
            current: 0,
            parents: Vec::new(),
            extra_roots: Vec::new(),
            thrown_line: None,
            thrown_in: None,
            session,
        };
        vm.stack.clear();
        let result = run(&mut vm);
        let left = vm.steps.max(0) as u64;
        let mut stack = std::mem::take(&mut vm.stack);
        drop(vm);
        if stack.capacity() < 1 << 14 {
            stack.clear();
            self.stack = stack;
        }
        self.used = Used { steps: limits.steps - left, memory_bytes: self.heap.bytes_peak.max(self.heap.bytes) };
        self.heap.reset(limits.memory_bytes);
        result
    }
}

/// What a library reaches while it is loaded.
struct Nobody;

impl Host for Nobody {
    fn call(&mut self, _: &[&[u8]], _: bool) -> Reply {
        Reply::Error(b"ERR This Redis command is not allowed from script".to_vec())
    }
}

/// What a run came to.
fn finish(vm: &mut Vm<'_>, done: Run<()>, limits: &Limits, name: impl FnOnce() -> String) -> Run<Reply> {
    match done {
        Ok(()) => {
            let value = vm.ret.first().copied().unwrap_or(Value::Nil);
            vm.mode = Mode::Inner;
            let mut left = limits.reply_bytes;
            redis_api::to_reply(vm, value, 0, &mut left)
        }
        Err(Throw::Error(value)) => failure(vm, value, name),
        Err(other) => Err(other),
    }
}

fn settled(reply: Run<Reply>) -> Result<Reply, ScriptError> {
    match reply {
        Ok(reply) => Ok(reply),
        Err(Throw::Over(budget)) => Err(ScriptError::OverBudget(budget)),
        // Neither comes from making a reply.
        Err(Throw::Error(_) | Throw::Yield) => Ok(Reply::Error(b"ERR execution failure".to_vec())),
    }
}

fn texts(vm: &mut Vm<'_>, texts: &[&[u8]]) -> Run<u32> {
    let table = vm.heap.table(0, 0)?;
    vm.extra_roots.push(Value::Table(table));
    for (index, text) in (1..).zip(texts) {
        let text = vm.text(text)?;
        vm.raw_set(table, Value::Number(f64::from(index)), text)?;
    }
    Ok(table)
}

/// The one place of the globals that changes, and it changes for every run.
fn set_global(vm: &mut Vm<'_>, name: &str, value: Value) -> Run<()> {
    let key = vm.heap.text(name.as_bytes())?;
    vm.heap.tables.get_mut(vm.base.globals).replace(&vm.heap.texts, key, value);
    Ok(())
}

fn enter_chunk(vm: &mut Vm<'_>, proto: &Arc<Proto>) -> Run<()> {
    let proto = vm.heap.load(proto)?;
    let function = vm.heap.function(Function::Script { proto, ups: Box::default() })?;
    vm.ensure(1)?;
    vm.stack[0] = function;
    if let Value::Function(function) = function {
        vm.enter(function, 0, 0, 0, true, 0)?;
        vm.execute()?;
    }
    Ok(())
}

fn load(vm: &mut Vm<'_>, proto: &Arc<Proto>) -> Run<()> {
    vm.current = vm.heap.thread(Thread::default())?;
    for name in ["KEYS", "ARGV"] {
        set_global(vm, name, Value::Nil)?;
    }
    enter_chunk(vm, proto)
}

fn enter_function(vm: &mut Vm<'_>, callback: Value, keys: &[&[u8]], arguments: &[&[u8]]) -> Run<()> {
    let (keys, arguments) = (texts(vm, keys)?, texts(vm, arguments)?);
    vm.top = 0;
    vm.ret.clear();
    vm.call(callback, &[Value::Table(keys), Value::Table(arguments)])
}

fn start(vm: &mut Vm<'_>, proto: &Arc<Proto>, keys: &[&[u8]], arguments: &[&[u8]]) -> Run<()> {
    vm.current = vm.heap.thread(Thread::default())?;
    for (name, given) in [("KEYS", keys), ("ARGV", arguments)] {
        let table = texts(vm, given)?;
        set_global(vm, name, Value::Table(table))?;
    }
    enter_chunk(vm, proto)
}

/// What an error says that nothing caught.
fn said(vm: &mut Vm<'_>, value: Value) -> Run<Vec<u8>> {
    vm.mode = Mode::Inner;
    let text = match value {
        Value::Table(table) => match vm.field(table, "err")? {
            error @ (Value::Text(_) | Value::Number(_)) => vm.as_bytes(error).map(|bytes| bytes.into_owned()),
            _ => None,
        },
        value => {
            let shown = vm.as_bytes(value).map(|bytes| bytes.into_owned());
            let shown = match (shown, value) {
                (Some(shown), _) => shown,
                (None, Value::Bool(value)) => value.to_string().into_bytes(),
                (None, value) => value.kind().as_bytes().to_vec(),
            };
            Some([b"ERR ", &shown[..]].concat())
        }
    };
    let mut text = text.unwrap_or_else(|| b"ERR execution failure".to_vec());
    text.truncate(1 << 16);
    Ok(text)
}

/// The reply for an error that nothing caught, in the words of Redis.
fn failure(vm: &mut Vm<'_>, value: Value, name: impl FnOnce() -> String) -> Run<Reply> {
    let mut text = said(vm, value)?;
    if let (Some(at), Some(chunk)) = (vm.thrown_line, &vm.thrown_in) {
        let mark = if [CHUNK, LIBRARY_CHUNK].contains(&&chunk[..]) { "@" } else { "" };
        text.extend_from_slice(format!(" script: {}, on {mark}{chunk}:{at}.", name()).as_bytes());
    }
    Ok(Reply::Error(redis_api::line(&text)))
}

/// Reads a first line with `#!`. Gives what it says, and how much to skip: up to the end of the line, which stays so that
/// lines keep their numbers.
fn shebang(source: &[u8]) -> Result<(ScriptFlags, usize), String> {
    let mut flags = ScriptFlags::default();
    if !source.starts_with(b"#!") {
        return Ok((flags, 0));
    }
    let Some(end) = source.iter().position(|c| *c == b'\n') else {
        return Err("Invalid script shebang".into());
    };
    let line = String::from_utf8_lossy(&source[..end]).into_owned();
    let mut parts = line.split_ascii_whitespace();
    let engine = parts.next().unwrap_or_default();
    if engine != "#!lua" {
        return Err(format!("Unexpected engine in script shebang: {engine}"));
    }
    flags.declared = true;
    for part in parts {
        let Some(names) = part.strip_prefix("flags=") else {
            return Err(format!("Unknown lua shebang option: {part}"));
        };
        for name in names.split(',').filter(|_| !names.is_empty()) {
            if !flags.set(name) {
                return Err(format!("Unexpected flag in script shebang: {name}"));
            }
        }
    }
    Ok((flags, end))
}

/// A budget in words.
impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Budget::Steps => "steps",
            Budget::Memory => "memory",
            Budget::Reply => "reply bytes",
        })
    }
}
