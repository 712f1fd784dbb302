//! `coroutine`: threads of a script, which take turns.

use super::Library;
use crate::table::script::lua::code::Op;
use crate::table::script::lua::heap::{Function, Status, Thread};
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Mode, Run, Throw, Vm};

/// Threads that wait for each other.
const NESTED_MAX: u32 = 190;

pub const FUNCTIONS: Library = &[
    ("create", create),
    ("resume", resume),
    ("running", running),
    ("status", status),
    ("wrap", wrap),
    ("yield", yield_),
];

fn new_thread(vm: &mut Vm<'_>, args: Args) -> Run<u32> {
    let function = vm.arg(args, 0);
    let script = match function {
        Value::Function(function) => matches!(vm.heap.functions.get(function), Function::Script { .. }),
        _ => false,
    };
    if !script {
        return Err(vm.bad_argument(1, "Lua function expected"));
    }
    Ok(vm.heap.thread(Thread { function, ..Thread::default() })?)
}

fn create(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let thread = new_thread(vm, args)?;
    vm.give(Value::Thread(thread))
}

fn wrap(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let thread = new_thread(vm, args)?;
    let keeps = [Value::Thread(thread), Value::Nil, Value::Nil, Value::Nil];
    let function = vm.heap.function(Function::Native { native: wrapped, keeps })?;
    vm.give(function)
}

fn wrapped(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let Value::Thread(thread) = args.keeps[0] else { return Ok(()) };
    let arguments = vm.stack[args.base..args.base + args.count].to_vec();
    match continue_thread(vm, thread, &arguments)? {
        Ok(()) => Ok(()),
        Err(value) => {
            let mut value = value;
            if let Some(text) = vm.as_bytes(value) {
                let mut whole = vm.position(1).into_bytes();
                whole.extend_from_slice(&text);
                value = vm.own_text(whole)?;
            }
            Err(vm.throw(value))
        }
    }
}

fn need_thread(vm: &mut Vm<'_>, args: Args) -> Run<u32> {
    match vm.arg(args, 0) {
        Value::Thread(thread) => Ok(thread),
        _ => Err(vm.bad_argument(1, "coroutine expected")),
    }
}

fn resume(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let thread = need_thread(vm, args)?;
    let arguments = vm.stack[args.base + 1..args.base + args.count].to_vec();
    match continue_thread(vm, thread, &arguments)? {
        Ok(()) => vm.ret.insert(0, Value::Bool(true)),
        Err(value) => {
            vm.ret.clear();
            vm.give(Value::Bool(false))?;
            vm.give(value)?;
        }
    }
    Ok(())
}

/// Lets a thread run until it yields, returns or fails.
fn continue_thread(vm: &mut Vm<'_>, thread: u32, arguments: &[Value]) -> Run<Result<(), Value>> {
    let fresh = match vm.heap.threads.get(thread).status {
        Status::Fresh => true,
        Status::Suspended => false,
        Status::Dead => return Ok(Err(vm.text(b"cannot resume dead coroutine")?)),
        Status::Normal => return Ok(Err(vm.text(b"cannot resume normal coroutine")?)),
        Status::Running => return Ok(Err(vm.text(b"cannot resume running coroutine")?)),
    };
    if vm.nested >= NESTED_MAX {
        return Ok(Err(vm.text(b"C stack overflow")?));
    }
    vm.charge(20)?;
    let mode = vm.mode;
    let parent = vm.current;
    vm.parents.push(parent);
    vm.nested += 1;
    let nested = vm.nested;
    vm.switch(thread, Status::Normal);
    vm.mode = Mode::Script;
    let done = if fresh { begin(vm, thread, arguments) } else { go_on(vm, arguments) };
    let (status, done) = match done {
        Ok(()) => (Status::Dead, Ok(())),
        Err(Throw::Yield) => (Status::Suspended, Ok(())),
        Err(Throw::Error(value)) => (Status::Dead, Err(value)),
        Err(over) => return Err(over),
    };
    if status == Status::Dead {
        vm.close(0)?;
        vm.heap.give(vm.stack.len() * 16);
        vm.stack = Vec::new();
        vm.frames = Vec::new();
    }
    vm.parents.pop();
    vm.switch(parent, status);
    vm.nested = nested - 1;
    vm.mode = mode;
    Ok(done)
}

fn begin(vm: &mut Vm<'_>, thread: u32, arguments: &[Value]) -> Run<()> {
    let function = vm.heap.threads.get(thread).function;
    vm.ensure(1 + arguments.len())?;
    vm.stack[0] = function;
    vm.stack[1..1 + arguments.len()].copy_from_slice(arguments);
    vm.top = 1 + arguments.len();
    if let Value::Function(function) = function {
        vm.enter(function, 0, arguments.len(), 0, true, 0)?;
        return vm.execute();
    }
    Ok(())
}

/// The arguments become the results of the call of `yield`.
fn go_on(vm: &mut Vm<'_>, arguments: &[Value]) -> Run<()> {
    let Some(frame) = vm.frames.last().copied() else { return Ok(()) };
    let code = &vm.heap.protos[frame.proto as usize].proto.code;
    let (place, want) = match code.get((frame.at as usize).saturating_sub(1)) {
        Some(Op::Call { a, want, .. }) => (*a as usize, *want),
        Some(Op::TailCall { a, .. }) => (*a as usize, 0),
        Some(Op::ForIn { a, count }) => (*a as usize + 3, u16::from(*count) + 1),
        _ => return Ok(()),
    };
    vm.ret.clear();
    vm.ret.extend_from_slice(arguments);
    vm.place_results(frame.base as usize + place, want)?;
    vm.execute()
}

fn yield_(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if vm.parents.is_empty() || vm.nested_here > 0 {
        return Err(vm.fault("attempt to yield across metamethod/C-call boundary"));
    }
    vm.ret.extend_from_slice(&vm.stack[args.base..args.base + args.count]);
    Err(Throw::Yield)
}

fn running(vm: &mut Vm<'_>, _: Args) -> Run<()> {
    let thread = if vm.parents.is_empty() { Value::Nil } else { Value::Thread(vm.current) };
    vm.give(thread)
}

fn status(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let thread = need_thread(vm, args)?;
    let status = match vm.heap.threads.get(thread).status {
        _ if thread == vm.current => "running",
        Status::Fresh | Status::Suspended => "suspended",
        Status::Running => "running",
        Status::Normal => "normal",
        Status::Dead => "dead",
    };
    vm.give_text(status.as_bytes())
}
