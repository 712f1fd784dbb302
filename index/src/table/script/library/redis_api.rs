//! `redis`: the way from a script to the commands, and the forms of replies.

use super::Library;
use crate::table::script::lua::number;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Throw, Vm};
use crate::table::script::{Budget, Reply, sha1_hex};

/// The Redis whose scripts these are.
pub const VERSION: &str = "7.0.15";

pub const CONSTANTS: &[(&str, f64)] = &[
    ("LOG_DEBUG", 0.0),
    ("LOG_VERBOSE", 1.0),
    ("LOG_NOTICE", 2.0),
    ("LOG_WARNING", 3.0),
    ("REPL_NONE", 0.0),
    ("REPL_AOF", 1.0),
    ("REPL_SLAVE", 2.0),
    ("REPL_REPLICA", 2.0),
    ("REPL_ALL", 3.0),
    ("REDIS_VERSION_NUM", 458_767.0),
];

/// What a command costs, whatever it does; the host says what it cost beyond.
const CALL_STEPS: u64 = 50;
/// Replies inside replies.
const DEPTH_MAX: u32 = 200;
/// What an element of a reply takes, for the budget.
const ELEMENT_BYTES: usize = 48;

pub const FUNCTIONS: Library = &[
    ("acl_check_cmd", acl_check_cmd),
    ("breakpoint", |vm, _| vm.give(Value::Bool(false))),
    ("call", |vm, args| command(vm, args, true)),
    ("debug", |_, _| Ok(())),
    ("error_reply", error_reply),
    ("log", log),
    ("pcall", |vm, args| command(vm, args, false)),
    ("register_function", super::functions::register),
    ("replicate_commands", |vm, _| vm.give(Value::Bool(true))),
    ("set_repl", set_repl),
    ("setresp", setresp),
    ("sha1hex", sha1hex),
    ("status_reply", status_reply),
];

/// An error as scripts see it: a table whose field `err` has code and message.
fn error_table(vm: &mut Vm<'_>, error: &[u8]) -> Run<u32> {
    let (code, message): (&[u8], &[u8]) = match error.strip_prefix(b"-") {
        Some(rest) => match rest.iter().position(|c| *c == b' ') {
            Some(space) => (&rest[..space], &rest[space + 1..]),
            None => (b"ERR", rest),
        },
        None => (b"ERR", error),
    };
    let ends = |c: &u8| matches!(c, b'\r' | b'\n');
    let from = message.iter().position(|c| !ends(c)).unwrap_or(message.len());
    let to = message.iter().rposition(|c| !ends(c)).map_or(from, |last| last + 1);
    let mut text = code.to_vec();
    text.push(b' ');
    text.extend_from_slice(&message[from..to]);
    let text = vm.own_text(text)?;
    let table = vm.heap.table(0, 2)?;
    vm.set_field(table, "err", text)?;
    Ok(table)
}

pub(super) fn throw_table(vm: &mut Vm<'_>, error: &[u8]) -> Throw {
    match error_table(vm, error) {
        Ok(table) => vm.throw(Value::Table(table)),
        Err(throw) => throw,
    }
}

fn command(vm: &mut Vm<'_>, args: Args, raise: bool) -> Run<()> {
    vm.charge(CALL_STEPS)?;
    if vm.session.loading {
        let name = if raise { "call" } else { "pcall" };
        return Err(vm.complain(&format!("attempted to access nonexistent global variable '{name}'")));
    }
    let complaint: &[u8] = if args.count == 0 {
        b"Please specify at least one argument for this redis lib call"
    } else if !(0..args.count).all(|index| matches!(vm.arg(args, index), Value::Text(_) | Value::Number(_))) {
        b"Lua redis lib command arguments must be strings or integers"
    } else {
        let reply = run_command(vm, args)?;
        let failed = matches!(reply, Reply::Error(_));
        let value = to_value(vm, &reply, 0)?;
        if failed && raise {
            return Err(vm.throw(value));
        }
        return vm.give(value);
    };
    if raise {
        return Err(throw_table(vm, complaint));
    }
    let table = error_table(vm, complaint)?;
    vm.give(Value::Table(table))
}

fn run_command(vm: &mut Vm<'_>, args: Args) -> Run<Reply> {
    let mut numbers = Vec::new();
    let mut size = 0;
    for index in 0..args.count {
        match vm.arg(args, index) {
            Value::Number(number) => numbers.push(number::show_exactly(number).into_bytes()),
            Value::Text(text) => size += vm.bytes(text).len(),
            _ => {}
        }
    }
    vm.charge_bytes(size)?;
    let mut numbers = numbers.iter();
    let values = vm.stack[args.base..args.base + args.count].iter();
    let arguments: Vec<&[u8]> = values
        .map(|value| match value {
            Value::Text(text) => vm.heap.texts.get(*text),
            _ => numbers.next().map_or(&b""[..], |number| &number[..]),
        })
        .collect();
    let reply = vm.host.call(&arguments, vm.session.resp3);
    let spent = vm.host.spent();
    vm.charge(spent)?;
    Ok(reply)
}

/// What a reply is for a script, in the form that the script has asked for.
fn to_value(vm: &mut Vm<'_>, reply: &Reply, depth: u32) -> Run<Value> {
    if depth > DEPTH_MAX {
        return Err(vm.complain("reply nested too deeply"));
    }
    vm.charge(1)?;
    let resp3 = vm.session.resp3;
    let inner = depth + 1;
    match reply {
        Reply::Status(text) => {
            let value = vm.text(text)?;
            single(vm, "ok", value)
        }
        Reply::Error(text) => {
            let mut error = b"-".to_vec();
            error.extend_from_slice(text);
            let table = error_table(vm, &error)?;
            vm.set_field(table, "ignore_error_stats_update", Value::Bool(true))?;
            Ok(Value::Table(table))
        }
        Reply::Int(number) => Ok(Value::Number(*number as f64)),
        Reply::Bulk(text) => vm.text(text),
        Reply::Null => Ok(if resp3 { Value::Nil } else { Value::Bool(false) }),
        Reply::Array(elements) => {
            let table = vm.heap.table(0, 0)?;
            for (index, element) in (1..).zip(elements) {
                let value = to_value(vm, element, inner)?;
                vm.raw_set(table, Value::Number(f64::from(index)), value)?;
            }
            Ok(Value::Table(table))
        }
        Reply::Set(elements) if resp3 => {
            let table = vm.heap.table(0, 0)?;
            for element in elements {
                let key = to_value(vm, element, inner)?;
                vm.raw_set(table, key, Value::Bool(true))?;
            }
            single(vm, "set", Value::Table(table))
        }
        Reply::Set(elements) => {
            let table = vm.heap.table(0, 0)?;
            for (index, element) in (1..).zip(elements) {
                let value = to_value(vm, element, inner)?;
                vm.raw_set(table, Value::Number(f64::from(index)), value)?;
            }
            Ok(Value::Table(table))
        }
        Reply::Map(pairs) => {
            let table = vm.heap.table(0, 0)?;
            let mut index = 0.0;
            for (key, value) in pairs {
                let (key, value) = (to_value(vm, key, inner)?, to_value(vm, value, inner)?);
                if resp3 {
                    vm.raw_set(table, key, value)?;
                } else {
                    vm.raw_set(table, Value::Number(index + 1.0), key)?;
                    vm.raw_set(table, Value::Number(index + 2.0), value)?;
                    index += 2.0;
                }
            }
            if resp3 { single(vm, "map", Value::Table(table)) } else { Ok(Value::Table(table)) }
        }
        Reply::Double(number) if resp3 => single(vm, "double", Value::Number(number::canonical(*number))),
        Reply::Double(number) => vm.text(number::show_exactly(*number).as_bytes()),
        Reply::Bool(value) => Ok(if resp3 { Value::Bool(*value) } else { Value::Number(f64::from(u8::from(*value))) }),
        Reply::BigNumber(text) if resp3 => {
            let value = vm.text(text)?;
            single(vm, "big_number", value)
        }
        Reply::BigNumber(text) => vm.text(text),
        Reply::Verbatim { format, text } if resp3 => {
            let inner = vm.heap.table(0, 2)?;
            let (format, text) = (vm.text(format)?, vm.text(text)?);
            vm.set_field(inner, "string", text)?;
            vm.set_field(inner, "format", format)?;
            single(vm, "verbatim_string", Value::Table(inner))
        }
        Reply::Verbatim { text, .. } => vm.text(text),
    }
}

fn single(vm: &mut Vm<'_>, field: &str, value: Value) -> Run<Value> {
    let table = vm.heap.table(0, 1)?;
    vm.set_field(table, field, value)?;
    Ok(Value::Table(table))
}

/// What a script returns as a reply. `left` is how many bytes it may still take.
pub fn to_reply(vm: &mut Vm<'_>, value: Value, depth: u32, left: &mut usize) -> Run<Reply> {
    if depth > DEPTH_MAX {
        return Ok(Reply::Error(b"ERR reached lua stack limit".to_vec()));
    }
    vm.charge(1)?;
    let size = match value {
        Value::Text(text) => vm.bytes(text).len(),
        _ => 0,
    };
    *left = left.checked_sub(size + ELEMENT_BYTES).ok_or(Throw::Over(Budget::Reply))?;
    vm.charge_bytes(size)?;
    match value {
        Value::Text(text) => Ok(Reply::Bulk(vm.bytes(text).to_vec())),
        Value::Number(number) => Ok(Reply::Int(number::to_i64(number))),
        Value::Bool(value) if vm.session.resp3 => Ok(Reply::Bool(value)),
        Value::Bool(true) => Ok(Reply::Int(1)),
        Value::Table(table) => table_to_reply(vm, table, depth, left),
        _ => Ok(Reply::Null),
    }
}

fn table_to_reply(vm: &mut Vm<'_>, table: u32, depth: u32, left: &mut usize) -> Run<Reply> {
    if let Value::Text(text) = vm.field(table, "err")? {
        let text = line(vm.bytes(text));
        *left = left.checked_sub(text.len()).ok_or(Throw::Over(Budget::Reply))?;
        return Ok(Reply::Error(text));
    }
    if let Value::Text(text) = vm.field(table, "ok")? {
        let text = line(vm.bytes(text));
        *left = left.checked_sub(text.len()).ok_or(Throw::Over(Budget::Reply))?;
        return Ok(Reply::Status(text));
    }
    if let Value::Number(number) = vm.field(table, "double")? {
        return Ok(Reply::Double(number::canonical(number)));
    }
    if let Value::Text(text) = vm.field(table, "big_number")? {
        return Ok(Reply::BigNumber(line(vm.bytes(text))));
    }
    if let Value::Table(inner) = vm.field(table, "verbatim_string")?
        && let (Value::Text(format), Value::Text(text)) = (vm.field(inner, "format")?, vm.field(inner, "string")?)
    {
        let mut three = *b"txt";
        for (to, from) in three.iter_mut().zip(vm.bytes(format)) {
            *to = *from;
        }
        let text = vm.bytes(text).to_vec();
        *left = left.checked_sub(text.len()).ok_or(Throw::Over(Budget::Reply))?;
        return Ok(Reply::Verbatim { format: three, text });
    }
    if let Value::Table(inner) = vm.field(table, "map")? {
        let mut pairs = Vec::new();
        let mut place = 0;
        while let Some((found, key, value)) = vm.heap.tables.get(inner).pair_from(place) {
            place = found + 1;
            let key = to_reply(vm, key, depth + 1, left)?;
            pairs.push((key, to_reply(vm, value, depth + 1, left)?));
        }
        return Ok(Reply::Map(pairs));
    }
    if let Value::Table(inner) = vm.field(table, "set")? {
        let mut elements = Vec::new();
        let mut place = 0;
        while let Some((found, key, _)) = vm.heap.tables.get(inner).pair_from(place) {
            place = found + 1;
            elements.push(to_reply(vm, key, depth + 1, left)?);
        }
        return Ok(Reply::Set(elements));
    }
    let mut elements = Vec::new();
    for index in 1.. {
        let value = vm.raw_get(table, Value::Number(f64::from(index)))?;
        if matches!(value, Value::Nil) {
            break;
        }
        elements.push(to_reply(vm, value, depth + 1, left)?);
    }
    Ok(Reply::Array(elements))
}

/// A text that travels on one line: up to a zero, without line ends.
pub fn line(text: &[u8]) -> Vec<u8> {
    let text = text.split(|c| *c == 0).next().unwrap_or(text);
    text.trim_ascii_end().iter().map(|c| if matches!(c, b'\r' | b'\n') { b' ' } else { *c }).collect()
}

fn sha1hex(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count != 1 {
        return Err(throw_table(vm, b"wrong number of arguments"));
    }
    let bytes = vm.as_bytes(vm.arg(args, 0)).map_or(Vec::new(), |bytes| bytes.into_owned());
    vm.charge_bytes(bytes.len() * 4)?;
    vm.give_text(sha1_hex(&bytes).as_bytes())
}

fn one_text(vm: &Vm<'_>, args: Args) -> Option<u32> {
    match vm.arg(args, 0) {
        Value::Text(text) if args.count == 1 => Some(text),
        _ => None,
    }
}

fn error_reply(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let error = match one_text(vm, args) {
        Some(text) if vm.bytes(text).starts_with(b"-") => vm.bytes(text).to_vec(),
        Some(text) => [b"-", vm.bytes(text)].concat(),
        None => b"wrong number or type of arguments".to_vec(),
    };
    let table = error_table(vm, &error)?;
    vm.give(Value::Table(table))
}

fn status_reply(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let value = match one_text(vm, args) {
        Some(text) => single(vm, "ok", Value::Text(text))?,
        None => Value::Table(error_table(vm, b"wrong number or type of arguments")?),
    };
    vm.give(value)
}

fn setresp(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count != 1 {
        return Err(throw_table(vm, b"redis.setresp() requires one argument."));
    }
    match vm.to_number(vm.arg(args, 0)).map(|number| number as i32) {
        Some(2) => vm.session.resp3 = false,
        Some(3) => vm.session.resp3 = true,
        _ => return Err(throw_table(vm, b"RESP version must be 2 or 3.")),
    }
    Ok(())
}

/// Scripts are agreed on as they are, so there is nothing to choose; only wrong flags are noticed.
fn set_repl(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count != 1 {
        return Err(throw_table(vm, b"redis.set_repl() requires two arguments."));
    }
    let flags = vm.to_number(vm.arg(args, 0)).unwrap_or(0.0) as i32;
    if flags & !3 != 0 {
        let what = b"Invalid replication flags. Use REPL_AOF, REPL_REPLICA, REPL_ALL or REPL_NONE.";
        return Err(throw_table(vm, what));
    }
    Ok(())
}

fn log(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count < 2 {
        return Err(throw_table(vm, b"redis.log() requires two arguments or more."));
    }
    let Some(level) = vm.to_number(vm.arg(args, 0)) else {
        return Err(throw_table(vm, b"First argument must be a number (log level)."));
    };
    let level = level as i32;
    if !(0..=3).contains(&level) {
        return Err(throw_table(vm, b"Invalid debug level."));
    }
    let mut text = Vec::new();
    for index in 1..args.count {
        if let Some(part) = vm.as_bytes(vm.arg(args, index)) {
            if index > 1 {
                text.push(b' ');
            }
            text.extend_from_slice(&part);
        }
        vm.will_build(text.len())?;
    }
    vm.charge_bytes(text.len())?;
    vm.host.log(level as u8, &text);
    Ok(())
}

fn acl_check_cmd(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    // The same text may be given again and again.
    let bytes: usize = (0..args.count).filter_map(|index| Some(vm.as_bytes(vm.arg(args, index))?.len())).sum();
    vm.charge_bytes(bytes)?;
    vm.will_build(bytes)?;
    let texts: Option<Vec<Vec<u8>>> =
        (0..args.count).map(|index| Some(vm.as_bytes(vm.arg(args, index))?.into_owned())).collect();
    let Some(texts) = texts.filter(|texts| !texts.is_empty()) else {
        return Err(throw_table(vm, b"Lua redis lib command arguments must be strings or integers"));
    };
    let texts: Vec<&[u8]> = texts.iter().map(|text| &text[..]).collect();
    match vm.host.may(&texts) {
        Some(may) => vm.give(Value::Bool(may)),
        None => Err(throw_table(vm, b"Invalid command passed to redis.acl_check_cmd()")),
    }
}
