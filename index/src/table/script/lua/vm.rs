//! The machine: registers, calls, errors.
//!
//! ```text
//!   stack:  | called | arguments | registers of this call ... | called | ...
//!                                  base                       top
//! ```
//!
//! A call of one script function by another adds a frame; the loop of [`super::run`] goes on in it. Only a call through a
//! function of ours (`pcall`, `table.sort`, a metamethod) nests the loop, and that is bounded. Every instruction and every
//! unit of work of a library function takes from one count of steps, and every object from one count of bytes: where they
//! run out depends on nothing but the script and its input.

use super::code::Op;
use super::heap::{Frame, Full, Function, Heap, Status, Thread, Up};
use super::number;
use super::value::Value;
use crate::table::script::{Budget, Host};

/// Nested through functions of ours.
const NESTED_MAX: u32 = 190;
const FRAMES_MAX: usize = 20_000;
/// Looking at this many places of a table is part of the step of the instruction.
const LOOKS_FREE: u32 = 4;
/// Bytes that are moved or compared for one step.
pub const BYTES_PER_STEP: usize = 32;

/// A function of a library.
pub type NativeFn = fn(&mut Vm<'_>, Args) -> Result<(), Throw>;

/// Where the arguments of a library function are.
#[derive(Clone, Copy)]
pub struct Args {
    pub base: usize,
    pub count: usize,
    /// What the function keeps.
    pub keeps: [Value; 4],
}

/// What ends a function before it returns.
#[derive(Debug)]
pub enum Throw {
    /// An error, which the script may catch.
    Error(Value),
    /// The thread is suspended; what it gives is in `ret`.
    Yield,
    /// The script has used up a budget, which nothing catches.
    Over(Budget),
}

impl From<Full> for Throw {
    fn from(_: Full) -> Throw {
        Throw::Over(Budget::Memory)
    }
}

pub type Run<T> = Result<T, Throw>;

/// Who runs right now.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    Script,
    /// A library function that a script called.
    Native,
    /// A library function that a library function called.
    Inner,
}

/// Metamethods.
#[derive(Clone, Copy)]
pub enum Event {
    Index,
    NewIndex,
    Call,
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Neg,
    Len,
    Eq,
    Lt,
    Le,
    Concat,
    ToString,
    Metatable,
}

pub const EVENTS: [&str; 17] = [
    "__index",
    "__newindex",
    "__call",
    "__add",
    "__sub",
    "__mul",
    "__div",
    "__mod",
    "__pow",
    "__unm",
    "__len",
    "__eq",
    "__lt",
    "__le",
    "__concat",
    "__tostring",
    "__metatable",
];

/// What the libraries are made of; every run begins with it.
#[derive(Default)]
pub struct Base {
    pub natives: Vec<NativeFn>,
    pub globals: u32,
    pub text_meta: u32,
    pub events: Vec<Value>,
    /// What `pairs` and `ipairs` give.
    pub next: Value,
    pub ipairs_step: Value,
}

/// One run of one script.
pub struct Vm<'r> {
    pub heap: &'r mut Heap,
    pub base: &'r Base,
    pub host: &'r mut dyn Host,
    pub stack: Vec<Value>,
    pub frames: Vec<Frame>,
    /// Captured variables that still are registers: where, and which.
    pub open: Vec<(u32, u32)>,
    /// Registers below it are in use.
    pub top: usize,
    /// The end of the results whose number was left open.
    pub open_top: usize,
    /// What a library function or a nested call has returned.
    pub ret: Vec<Value>,
    pub steps: i64,
    pub mode: Mode,
    pub nested: u32,
    /// Of the current thread only.
    pub nested_here: u32,
    pub current: u32,
    /// Threads that wait for the current one.
    pub parents: Vec<u32>,
    pub extra_roots: Vec<Value>,
    /// Where the last error was thrown.
    pub thrown_line: Option<u32>,
    pub thrown_in: Option<std::sync::Arc<str>>,
    pub session: crate::table::script::library::Session,
}

impl Vm<'_> {
    // Budgets.

    #[inline]
    pub fn charge(&mut self, steps: u64) -> Run<()> {
        self.steps = self.steps.saturating_sub_unsigned(steps);
        if self.steps < 0 { Err(Throw::Over(Budget::Steps)) } else { Ok(()) }
    }

    /// For work on so many bytes.
    pub fn charge_bytes(&mut self, bytes: usize) -> Run<()> {
        self.charge((bytes / BYTES_PER_STEP) as u64)
    }

    #[inline]
    pub fn looked(&mut self, looks: u32) -> Run<()> {
        if looks > LOOKS_FREE { self.charge(u64::from(looks)) } else { Ok(()) }
    }

    /// Room on the stack up to `len`.
    #[inline]
    pub fn ensure(&mut self, len: usize) -> Run<()> {
        let have = self.stack.len();
        if have < len {
            let want = len + 32;
            self.heap.take((want - have) * 16)?;
            self.stack.resize(want, Value::Nil);
        }
        Ok(())
    }

    /// Collects what is unreachable, if it is time to.
    #[inline]
    pub fn maybe_collect(&mut self) -> Run<()> {
        if self.heap.bytes > self.heap.collect_at { self.collect() } else { Ok(()) }
    }

    #[cold]
    fn collect(&mut self) -> Run<()> {
        let end = self.top.max(self.open_top).min(self.stack.len());
        for slot in &mut self.stack[end..] {
            *slot = Value::Nil;
        }
        let stack = self.stack[..end].iter().copied();
        let functions = self.frames.iter().map(|frame| Value::Function(frame.function));
        let threads = self.parents.iter().chain([&self.current]).map(|thread| Value::Thread(*thread));
        let others = self.ret.iter().chain(&self.extra_roots).copied();
        let ups: Vec<u32> = self.open.iter().map(|open| open.1).collect();
        let cost = self.heap.collect(stack.chain(functions).chain(threads).chain(others), &ups);
        self.charge(cost)
    }

    // Texts.

    pub fn text(&mut self, bytes: &[u8]) -> Run<Value> {
        self.charge_bytes(bytes.len())?;
        Ok(self.heap.text(bytes)?)
    }

    pub fn own_text(&mut self, bytes: Vec<u8>) -> Run<Value> {
        self.charge_bytes(bytes.len())?;
        Ok(self.heap.own_text(bytes)?)
    }

    /// Before something of this size is built outside the heap.
    pub fn will_build(&mut self, bytes: usize) -> Run<()> {
        if self.heap.bytes.saturating_add(bytes) > self.heap.bytes_max {
            return Err(Throw::Over(Budget::Memory));
        }
        Ok(())
    }

    pub fn bytes(&self, text: u32) -> &[u8] {
        self.heap.texts.get(text)
    }

    // Errors.

    fn current_line(&self) -> Option<u32> {
        let frame = self.frames.last()?;
        self.line_of(frame)
    }

    fn line_of(&self, frame: &Frame) -> Option<u32> {
        let proto = &self.heap.protos.get(frame.proto as usize)?.proto;
        proto.lines.get((frame.at as usize).saturating_sub(1)).copied()
    }

    /// An error with this value, thrown here.
    pub fn throw(&mut self, value: Value) -> Throw {
        self.thrown_line = self.current_line();
        let loaded = self.frames.last().and_then(|frame| self.heap.protos.get(frame.proto as usize));
        self.thrown_in = loaded.map(|loaded| loaded.proto.chunk.clone());
        Throw::Error(value)
    }

    fn throw_text(&mut self, text: &[u8]) -> Throw {
        match self.heap.text(text) {
            Ok(value) => self.throw(value),
            Err(full) => full.into(),
        }
    }

    /// `chunk:line: ` of the script function that called the `level`th function up; level 1 is who called the library
    /// function at hand.
    pub fn position(&self, level: usize) -> String {
        let mut index = self.frames.len();
        let mut level = level;
        if self.mode == Mode::Inner {
            // Between here and the next frame lies another library function.
            if level == 1 {
                return String::new();
            }
            level -= 1;
        }
        while level > 0 && index > 0 {
            index -= 1;
            level -= 1;
            let frame = &self.frames[index];
            if level == 0 {
                let (Some(line), Some(loaded)) = (self.line_of(frame), self.heap.protos.get(frame.proto as usize))
                else {
                    return String::new();
                };
                return format!("{}:{line}: ", loaded.proto.chunk);
            }
            let hidden = frame.tails as usize + usize::from(frame.entry);
            if hidden >= level {
                return String::new();
            }
            level -= hidden;
        }
        String::new()
    }

    /// An error of the language itself: with a position if a script runs.
    pub fn fault(&mut self, what: &str) -> Throw {
        let position = if self.mode == Mode::Script { self.position(1) } else { String::new() };
        self.throw_text(format!("{position}{what}").as_bytes())
    }

    /// An error of a library function: with the position of the script that called it.
    pub fn complain(&mut self, what: &str) -> Throw {
        self.complain_bytes(what.as_bytes())
    }

    pub fn complain_bytes(&mut self, what: &[u8]) -> Throw {
        let mut text = self.position(1).into_bytes();
        text.extend_from_slice(what);
        self.throw_text(&text)
    }

    /// How the script calls the library function at hand.
    fn called_name(&self) -> Option<(&'static str, String)> {
        if self.mode != Mode::Native {
            return None;
        }
        let frame = self.frames.last()?;
        let proto = &self.heap.protos.get(frame.proto as usize)?.proto;
        let at = (frame.at as usize).checked_sub(1)?;
        if !matches!(proto.code.get(at)?, Op::Call { .. } | Op::TailCall { .. }) {
            return None;
        }
        let named = proto.named(at, 0)?;
        Some((named.kind, String::from_utf8_lossy(&named.name).into_owned()))
    }

    /// Argument `number`, from 1, is wrong.
    pub fn bad_argument(&mut self, number: usize, what: &str) -> Throw {
        let (kind, name) = self.called_name().unwrap_or(("", "?".into()));
        let mut number = number;
        if kind == "method" {
            number = number.wrapping_sub(1);
            if number == 0 {
                return self.complain(&format!("calling '{name}' on bad self ({what})"));
            }
        }
        self.complain(&format!("bad argument #{number} to '{name}' ({what})"))
    }

    /// The value of an operand is of the wrong type for what is done with it.
    pub fn type_fault(&mut self, value: Value, operand: u8, doing: &str) -> Throw {
        let kind = value.kind();
        let mut text = format!("attempt to {doing} a {kind} value");
        if self.mode == Mode::Script
            && let Some(frame) = self.frames.last()
            && let Some(loaded) = self.heap.protos.get(frame.proto as usize)
            && let Some(named) = loaded.proto.named((frame.at as usize).saturating_sub(1), operand)
        {
            let name = String::from_utf8_lossy(&named.name);
            text = format!("attempt to {doing} {} '{name}' (a {kind} value)", named.kind);
        }
        self.fault(&text)
    }

    // Arguments of library functions.

    #[inline]
    pub fn arg(&self, args: Args, index: usize) -> Value {
        if index < args.count { self.stack[args.base + index] } else { Value::Nil }
    }

    pub fn wrong_type(&mut self, args: Args, index: usize, expected: &str) -> Throw {
        let got = if index < args.count { self.arg(args, index).kind() } else { "no value" };
        self.bad_argument(index + 1, &format!("{expected} expected, got {got}"))
    }

    pub fn need_any(&mut self, args: Args, index: usize) -> Run<Value> {
        if index >= args.count {
            return Err(self.bad_argument(index + 1, "value expected"));
        }
        Ok(self.arg(args, index))
    }

    pub fn need_number(&mut self, args: Args, index: usize) -> Run<f64> {
        match self.to_number(self.arg(args, index)) {
            Some(number) => Ok(number),
            None => Err(self.wrong_type(args, index, "number")),
        }
    }

    pub fn need_integer(&mut self, args: Args, index: usize) -> Run<i64> {
        self.need_number(args, index).map(number::to_i64)
    }

    pub fn integer_or(&mut self, args: Args, index: usize, default: i64) -> Run<i64> {
        match self.arg(args, index) {
            Value::Nil => Ok(default),
            _ => self.need_integer(args, index),
        }
    }

    pub fn need_text(&mut self, args: Args, index: usize) -> Run<u32> {
        match self.arg(args, index) {
            Value::Text(text) => Ok(text),
            Value::Number(number) => {
                let value = self.text(number::show(number).as_bytes())?;
                // The argument becomes the text, so that it stays alive with the call.
                self.stack[args.base + index] = value;
                match value {
                    Value::Text(text) => Ok(text),
                    _ => Err(self.wrong_type(args, index, "string")),
                }
            }
            _ => Err(self.wrong_type(args, index, "string")),
        }
    }

    pub fn need_table(&mut self, args: Args, index: usize) -> Run<u32> {
        match self.arg(args, index) {
            Value::Table(table) => Ok(table),
            _ => Err(self.wrong_type(args, index, "table")),
        }
    }

    pub fn give(&mut self, value: Value) -> Run<()> {
        self.ret.push(value);
        Ok(())
    }

    pub fn give_text(&mut self, bytes: &[u8]) -> Run<()> {
        let value = self.text(bytes)?;
        self.give(value)
    }

    // Conversions.

    #[inline]
    pub fn to_number(&self, value: Value) -> Option<f64> {
        match value {
            Value::Number(number) => Some(number),
            Value::Text(text) => number::whole(self.bytes(text)),
            _ => None,
        }
    }

    /// A text or a number as bytes.
    pub fn as_bytes(&self, value: Value) -> Option<std::borrow::Cow<'_, [u8]>> {
        match value {
            Value::Text(text) => Some(self.bytes(text).into()),
            Value::Number(number) => Some(number::show(number).into_bytes().into()),
            _ => None,
        }
    }

    // Calls.

    pub fn call_for_one(&mut self, function: Value, arguments: &[Value]) -> Run<Value> {
        self.call(function, arguments)?;
        Ok(self.ret.first().copied().unwrap_or(Value::Nil))
    }

    /// Calls a function; what it returns is in `ret`.
    pub fn call(&mut self, function: Value, arguments: &[Value]) -> Run<()> {
        let at = self.top;
        self.ensure(at + arguments.len() + 1)?;
        self.stack[at] = function;
        self.stack[at + 1..at + 1 + arguments.len()].copy_from_slice(arguments);
        self.call_at(at, arguments.len())
    }

    /// Calls what lies at `at` with the `count` values behind it.
    pub fn call_at(&mut self, at: usize, count: usize) -> Run<()> {
        self.charge(4)?;
        if self.nested >= NESTED_MAX {
            return Err(self.fault("C stack overflow"));
        }
        let (mode, top) = (self.mode, self.top);
        self.nested += 1;
        self.nested_here += 1;
        self.top = at + 1 + count;
        let done = self.call_here(at, count);
        self.nested -= 1;
        self.nested_here = self.nested_here.saturating_sub(1);
        self.mode = mode;
        self.top = top;
        done
    }

    fn call_here(&mut self, at: usize, count: usize) -> Run<()> {
        let count = self.callable(at, count)?;
        match self.stack[at] {
            Value::Native(native) => {
                let native = self.base.natives[native as usize];
                self.native(native, at + 1, count, [Value::Nil; 4])
            }
            Value::Function(function) => match self.heap.functions.get(function) {
                Function::Native { native, keeps } => self.native(*native, at + 1, count, *keeps),
                Function::Script { .. } => {
                    self.enter(function, at, count, 0, true, 0)?;
                    self.execute()
                }
            },
            value => Err(self.type_fault(value, 0, "call")),
        }
    }

    /// Makes sure that a function lies at `at`: an object with `__call` becomes the first argument. Gives the count.
    pub fn callable(&mut self, at: usize, count: usize) -> Run<usize> {
        let value = self.stack[at];
        if matches!(value, Value::Function(_) | Value::Native(_)) {
            return Ok(count);
        }
        let handler = self.metamethod(value, Event::Call);
        if !matches!(handler, Value::Function(_) | Value::Native(_)) {
            return Err(self.type_fault(value, 0, "call"));
        }
        self.ensure(at + count + 2)?;
        self.stack.copy_within(at..=at + count, at + 1);
        self.stack[at] = handler;
        Ok(count + 1)
    }

    /// Runs a library function.
    #[inline]
    pub fn native(&mut self, native: NativeFn, base: usize, count: usize, keeps: [Value; 4]) -> Run<()> {
        let mode = self.mode;
        self.mode = if mode == Mode::Script { Mode::Native } else { Mode::Inner };
        self.top = base + count;
        self.ret.clear();
        let done = native(self, Args { base, count, keeps });
        self.mode = mode;
        done
    }

    /// Adds a frame for a script's function that lies at `called`, with `count` arguments behind it.
    pub fn enter(&mut self, function: u32, called: usize, count: usize, want: u16, entry: bool, tails: u32) -> Run<()> {
        if self.frames.len() >= FRAMES_MAX {
            return Err(self.fault("stack overflow"));
        }
        let Function::Script { proto, .. } = self.heap.functions.get(function) else { return Ok(()) };
        let proto = *proto;
        let code = &self.heap.protos[proto as usize].proto;
        let (parameters, registers) = (code.parameters as usize, code.registers as usize);
        let (varargs, old_varargs) = (code.varargs, code.old_varargs);
        let mut base = called + 1;
        let mut extra = 0;
        if varargs {
            base = called + 1 + count;
            extra = count.saturating_sub(parameters);
        }
        self.ensure(base + registers)?;
        let fixed = count.min(parameters);
        if varargs {
            for index in 0..fixed {
                self.stack[base + index] = std::mem::take(&mut self.stack[called + 1 + index]);
            }
        }
        self.stack[base + fixed..base + registers].fill(Value::Nil);
        self.frames.push(Frame {
            function,
            proto,
            called: called as u32,
            base: base as u32,
            at: 0,
            want,
            entry,
            varargs: extra as u32,
            tails,
        });
        self.top = base + registers;
        if old_varargs {
            let table = self.heap.table(extra, 1)?;
            for index in 0..extra {
                let value = self.stack[base - extra + index];
                self.raw_set(table, Value::Number((index + 1) as f64), value)?;
            }
            self.set_field(table, "n", Value::Number(extra as f64))?;
            self.stack[base + parameters] = Value::Table(table);
        }
        self.mode = Mode::Script;
        Ok(())
    }

    /// Runs `call` and catches an error of the script: then everything is as before, and the error's value is given.
    pub fn protect(&mut self, call: impl FnOnce(&mut Self) -> Run<()>) -> Run<Result<(), Value>> {
        let frames = self.frames.len();
        let (mode, top, nested, nested_here) = (self.mode, self.top, self.nested, self.nested_here);
        match call(self) {
            Ok(()) => Ok(Ok(())),
            Err(Throw::Error(value)) => {
                self.close(top)?;
                self.frames.truncate(frames);
                (self.mode, self.top, self.nested, self.nested_here) = (mode, top, nested, nested_here);
                self.open_top = 0;
                Ok(Err(value))
            }
            Err(other) => Err(other),
        }
    }

    // Captured variables.

    #[inline]
    pub fn up_value(&self, up: u32) -> Value {
        match *self.heap.ups.get(up) {
            Up::Closed(value) => value,
            Up::Open { thread, at } if thread == self.current => self.stack[at as usize],
            Up::Open { thread, at } => {
                self.heap.threads.get(thread).stack.get(at as usize).copied().unwrap_or(Value::Nil)
            }
        }
    }

    pub fn set_up(&mut self, up: u32, value: Value) {
        match *self.heap.ups.get(up) {
            Up::Closed(_) => *self.heap.ups.get_mut(up) = Up::Closed(value),
            Up::Open { thread, at } if thread == self.current => self.stack[at as usize] = value,
            Up::Open { thread, at } => {
                if let Some(slot) = self.heap.threads.get_mut(thread).stack.get_mut(at as usize) {
                    *slot = value;
                }
            }
        }
    }

    /// The captured variable of a register, made if nobody has captured it yet.
    pub fn capture(&mut self, at: usize) -> Run<u32> {
        let at = at as u32;
        match self.open.binary_search_by_key(&at, |open| open.0) {
            Ok(found) => Ok(self.open[found].1),
            Err(place) => {
                let up = self.heap.up(Up::Open { thread: self.current, at })?;
                self.open.insert(place, (at, up));
                Ok(up)
            }
        }
    }

    /// Captured variables from register `from` of the stack on get a life of their own.
    #[inline]
    pub fn close(&mut self, from: usize) -> Run<()> {
        while let Some(&(at, up)) = self.open.last() {
            if (at as usize) < from {
                break;
            }
            self.open.pop();
            *self.heap.ups.get_mut(up) = Up::Closed(self.stack[at as usize]);
        }
        Ok(())
    }

    // Threads.

    /// Makes `thread` the one that runs; the current one is put away.
    pub fn switch(&mut self, thread: u32, status: Status) {
        let next = std::mem::take(self.heap.threads.get_mut(thread));
        let Thread { stack, frames, open, function, nested, top, open_top, .. } = next;
        let old = Thread {
            stack: std::mem::replace(&mut self.stack, stack),
            frames: std::mem::replace(&mut self.frames, frames),
            open: std::mem::replace(&mut self.open, open),
            status,
            function: Value::Nil,
            nested: self.nested_here,
            top: self.top,
            open_top: self.open_top,
        };
        *self.heap.threads.get_mut(self.current) = old;
        *self.heap.threads.get_mut(thread) = Thread { status: Status::Running, function, ..Thread::default() };
        self.current = thread;
        (self.nested_here, self.top, self.open_top) = (nested, top, open_top);
    }
}
