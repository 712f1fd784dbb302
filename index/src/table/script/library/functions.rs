//! `redis.register_function`: how a library says what functions it has.

use super::redis_api::throw_table;
use crate::table::script::ScriptFlags;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Throw, Vm};

/// What registering one costs, in steps.
const STEPS: u64 = 100;
/// The most functions of a library.
const FUNCTIONS_MAX: usize = 1_000;
/// The longest name.
const NAME_BYTES_MAX: usize = 256;
/// What a function takes besides its name, in two places, and its description.
const OVERHEAD: usize = 128;
/// The longest description that is kept.
const DESCRIPTION_BYTES_MAX: usize = 4096;

/// A function that a library registered.
#[derive(Debug, Clone, Default)]
pub struct Registered {
    /// Its name.
    pub name: Vec<u8>,
    /// What its author says of it.
    pub description: Option<Vec<u8>>,
    /// What it promises.
    pub flags: ScriptFlags,
    /// Meaningful in the run that made it.
    pub(in crate::table::script) callback: Value,
}

impl Registered {
    /// What is kept of it.
    pub fn bytes(&self) -> usize {
        2 * self.name.len() + self.description.as_ref().map_or(0, Vec::len) + OVERHEAD
    }
}

/// Whether a library or function may be called so.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

pub(super) fn register(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    vm.charge(STEPS)?;
    if !vm.session.loading {
        return refuse(vm, "redis.register_function can only be called on FUNCTION LOAD command");
    }
    if args.count == 0 || args.count > 2 {
        return refuse(vm, "wrong number of arguments to redis.register_function");
    }
    let registered = if args.count == 1 { named(vm, args)? } else { plain(vm, args)? };
    if !is_name(&registered.name) {
        let what = "Function names can only contain letters, numbers, or underscores(_) and must be at least one character long";
        return refuse(vm, what);
    }
    if vm.session.registered.iter().any(|known| known.name == registered.name) {
        return refuse(vm, "Function already exists in the library");
    }
    if vm.session.registered.len() >= FUNCTIONS_MAX {
        return refuse(vm, "too many functions in the library");
    }
    vm.extra_roots.push(registered.callback);
    vm.session.registered.push(registered);
    Ok(())
}

fn refusal(vm: &mut Vm<'_>, what: &str) -> Throw {
    throw_table(vm, what.as_bytes())
}

fn refuse<T>(vm: &mut Vm<'_>, what: &str) -> Run<T> {
    Err(refusal(vm, what))
}

fn text(vm: &mut Vm<'_>, value: Value, otherwise: &str) -> Run<Vec<u8>> {
    match value {
        Value::Text(text) => Ok(vm.bytes(text).to_vec()),
        _ => refuse(vm, otherwise),
    }
}

fn callback(vm: &mut Vm<'_>, value: Value, otherwise: &str) -> Run<Value> {
    match value {
        Value::Function(_) | Value::Native(_) => Ok(value),
        _ => refuse(vm, otherwise),
    }
}

/// A name and a function.
fn plain(vm: &mut Vm<'_>, args: Args) -> Run<Registered> {
    let (name, function) = (vm.arg(args, 0), vm.arg(args, 1));
    let name = text(vm, name, "first argument to redis.register_function must be a string")?;
    let callback = callback(vm, function, "second argument to redis.register_function must be a function")?;
    Ok(Registered { name, callback, ..Registered::default() })
}

/// A table that names everything.
fn named(vm: &mut Vm<'_>, args: Args) -> Run<Registered> {
    let Value::Table(table) = vm.arg(args, 0) else {
        return refuse(
            vm,
            "calling redis.register_function with a single argument is only applicable to Lua table (representing named arguments).",
        );
    };
    let (mut name, mut function) = (None, None);
    let mut registered = Registered::default();
    let mut place = 0;
    while let Some((found, key, value)) = vm.heap.tables.get(table).pair_from(place) {
        place = found + 1;
        vm.charge(1)?;
        let key = text(vm, key, "named argument key given to redis.register_function is not a string")?;
        match &key[..] {
            b"function_name" => {
                let what = "function_name argument given to redis.register_function must be a string";
                name = Some(text(vm, value, what)?);
            }
            b"description" => {
                let what = "description argument given to redis.register_function must be a string";
                let mut description = text(vm, value, what)?;
                description.truncate(DESCRIPTION_BYTES_MAX);
                registered.description = Some(description);
            }
            b"callback" => {
                let what = "callback argument given to redis.register_function must be a function";
                function = Some(callback(vm, value, what)?);
            }
            b"flags" => {
                let Value::Table(flags) = value else {
                    let what = "flags argument to redis.register_function must be a table representing function flags";
                    return refuse(vm, what);
                };
                registered.flags = flags_of(vm, flags)?;
            }
            _ => return refuse(vm, "unknown argument given to redis.register_function"),
        }
    }
    let Some(name) = name else {
        return refuse(vm, "redis.register_function must get a function name argument");
    };
    let Some(callback) = function else {
        return refuse(vm, "redis.register_function must get a callback argument");
    };
    Ok(Registered { name, callback, ..registered })
}

fn flags_of(vm: &mut Vm<'_>, table: u32) -> Run<ScriptFlags> {
    let mut flags = ScriptFlags { declared: true, ..ScriptFlags::default() };
    for index in 1.. {
        let value = vm.raw_get(table, Value::Number(f64::from(index)))?;
        let known = match value {
            Value::Nil => break,
            Value::Text(text) => std::str::from_utf8(vm.bytes(text)).is_ok_and(|name| flags.set(name)),
            _ => false,
        };
        if !known {
            return refuse(vm, "unknown flag given");
        }
    }
    Ok(flags)
}
