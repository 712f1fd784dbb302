//! The engine: compiles scripts, keeps them, and runs them one at a time.

use super::library::{self, Session, redis_api};
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
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.kept.clear();
            self.kept_bytes = 0;
        }
        self.kept_bytes += proto.bytes();
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
            session: Session::default(),
        };
        vm.stack.clear();
        let reply = match start(&mut vm, &proto, keys, arguments) {
            Ok(()) => {
                let value = vm.ret.first().copied().unwrap_or(Value::Nil);
                vm.mode = Mode::Inner;
                let mut left = limits.reply_bytes;
                redis_api::to_reply(&mut vm, value, 0, &mut left)
            }
            Err(Throw::Error(value)) => failure(&mut vm, value, script),
            Err(other) => Err(other),
        };
        let reply = match reply {
            Ok(reply) => Ok(reply),
            Err(Throw::Over(budget)) => Err(ScriptError::OverBudget(budget)),
            // Neither comes from making a reply.
            Err(Throw::Error(_) | Throw::Yield) => Ok(Reply::Error(b"ERR execution failure".to_vec())),
        };
        let left = vm.steps.max(0) as u64;
        let mut stack = std::mem::take(&mut vm.stack);
        drop(vm);
        if stack.capacity() < 1 << 14 {
            stack.clear();
            self.stack = stack;
        }
        self.used = Used { steps: limits.steps - left, memory_bytes: self.heap.bytes_peak.max(self.heap.bytes) };
        self.heap.reset(limits.memory_bytes);
        reply
    }
}

fn start(vm: &mut Vm<'_>, proto: &Arc<Proto>, keys: &[&[u8]], arguments: &[&[u8]]) -> Run<()> {
    vm.current = vm.heap.thread(Thread::default())?;
    for (name, texts) in [("KEYS", keys), ("ARGV", arguments)] {
        let table = vm.heap.table(0, 0)?;
        vm.extra_roots.push(Value::Table(table));
        for (index, text) in (1..).zip(texts) {
            let text = vm.text(text)?;
            vm.raw_set(table, Value::Number(f64::from(index)), text)?;
        }
        // The one place of the globals that changes, and it changes for every run.
        let key = vm.heap.text(name.as_bytes())?;
        vm.heap.tables.get_mut(vm.base.globals).replace(&vm.heap.texts, key, Value::Table(table));
    }
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

/// The reply for an error that nothing caught, in the words of Redis.
fn failure(vm: &mut Vm<'_>, value: Value, script: &Script) -> Run<Reply> {
    vm.mode = Mode::Inner;
    let mut text = match value {
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
    }
    .unwrap_or_else(|| b"ERR execution failure".to_vec());
    text.truncate(1 << 16);
    if let (Some(at), Some(chunk)) = (vm.thrown_line, &vm.thrown_in) {
        let mark = if &chunk[..] == CHUNK { "@" } else { "" };
        text.extend_from_slice(format!(" script: {}, on {mark}{chunk}:{at}.", script.sha1()).as_bytes());
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
            match name {
                "no-writes" => flags.no_writes = true,
                "allow-oom" => flags.allow_oom = true,
                "allow-stale" => flags.allow_stale = true,
                "no-cluster" => flags.no_cluster = true,
                "allow-cross-slot-keys" => flags.allow_cross_slot_keys = true,
                _ => return Err(format!("Unexpected flag in script shebang: {name}")),
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
