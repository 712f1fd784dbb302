//! The functions without a table: `pairs`, `pcall`, `tostring` and the like.

use super::Library;
use crate::table::script::lua::compile::{SOURCE_BYTES_MAX, compile};
use crate::table::script::lua::heap::Function;
use crate::table::script::lua::number;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Event, Run, Vm};

/// Values that `unpack` gives at once.
const UNPACK_MAX: usize = 7_999;
/// A tree of a source takes this many times its length, at most.
pub const SOURCE_TREE_FACTOR: usize = 100;

pub const FUNCTIONS: Library = &[
    ("assert", assert),
    ("collectgarbage", collectgarbage),
    ("error", error),
    ("gcinfo", gcinfo),
    ("getmetatable", getmetatable),
    ("ipairs", ipairs),
    ("load", load),
    ("loadstring", loadstring),
    ("next", next),
    ("pairs", pairs),
    ("pcall", pcall),
    ("rawequal", rawequal),
    ("rawget", rawget),
    ("rawset", rawset),
    ("select", select),
    ("setmetatable", setmetatable),
    ("tonumber", tonumber),
    ("tostring", tostring),
    ("type", type_of),
    ("unpack", unpack),
    ("xpcall", xpcall),
];

/// What reading a global that is not there comes to.
pub fn missing_global(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let name = vm.arg(args, 1);
    let Some(name) = vm.as_bytes(name).map(|name| name.into_owned()) else {
        return Err(vm.complain("Second argument to luaProtectedTableError must be a string or number"));
    };
    let mut text = b"Script attempted to access nonexistent global variable '".to_vec();
    text.extend(name);
    text.push(b'\'');
    Err(vm.complain_bytes(&text))
}

fn assert(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if vm.need_any(args, 0)?.truth() {
        vm.ret.extend_from_slice(&vm.stack[args.base..args.base + args.count]);
        return Ok(());
    }
    if matches!(vm.arg(args, 1), Value::Nil) {
        return Err(vm.complain("assertion failed!"));
    }
    let text = vm.need_text(args, 1)?;
    let text = vm.bytes(text).to_vec();
    Err(vm.complain_bytes(&text))
}

/// Scripts do not decide when memory is collected, and do not see how much there is: it would differ between versions.
fn collectgarbage(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    const OPTIONS: [&[u8]; 7] = [b"stop", b"restart", b"collect", b"count", b"step", b"setpause", b"setstepmul"];
    if args.count > 0 && !matches!(vm.arg(args, 0), Value::Nil) {
        let option = vm.need_text(args, 0)?;
        let option = vm.bytes(option);
        if !OPTIONS.contains(&option) {
            let what = format!("invalid option '{}'", String::from_utf8_lossy(option));
            return Err(vm.bad_argument(1, &what));
        }
        if option == b"step" {
            return vm.give(Value::Bool(true));
        }
    }
    vm.give(Value::Number(0.0))
}

fn gcinfo(vm: &mut Vm<'_>, _: Args) -> Run<()> {
    vm.give(Value::Number(0.0))
}

fn error(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let level = vm.integer_or(args, 1, 1)?;
    let mut value = vm.arg(args, 0);
    if level > 0
        && let Some(text) = vm.as_bytes(value)
    {
        let mut whole = vm.position(level.min(1 << 20) as usize).into_bytes();
        whole.extend_from_slice(&text);
        value = vm.own_text(whole)?;
    }
    Err(vm.throw(value))
}

fn getmetatable(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let value = vm.need_any(args, 0)?;
    let guard = vm.metamethod(value, Event::Metatable);
    let meta = vm.meta_of(value).map_or(Value::Nil, Value::Table);
    vm.give(if matches!(guard, Value::Nil) { meta } else { guard })
}

fn setmetatable(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let meta = match vm.arg(args, 1) {
        Value::Nil if args.count > 1 => None,
        Value::Table(meta) => Some(meta),
        _ => return Err(vm.bad_argument(2, "nil or table expected")),
    };
    if !matches!(vm.metamethod(Value::Table(table), Event::Metatable), Value::Nil) {
        return Err(vm.complain("cannot change a protected metatable"));
    }
    if vm.heap.tables.get(table).readonly {
        return Err(vm.fault("Attempt to modify a readonly table"));
    }
    vm.heap.tables.get_mut(table).meta = meta;
    vm.give(Value::Table(table))
}

fn next(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let key = vm.arg(args, 1);
    match pair_after(vm, table, key)? {
        Some((key, value)) => {
            vm.give(key)?;
            vm.give(value)
        }
        None => vm.give(Value::Nil),
    }
}

/// The pair behind `key` in the walk through a table; the first one for nil.
pub fn pair_after(vm: &mut Vm<'_>, table: u32, key: Value) -> Run<Option<(Value, Value)>> {
    let object = vm.heap.tables.get(table);
    let Some(place) = object.place_after(&vm.heap.texts, key) else {
        return Err(vm.fault("invalid key to 'next'"));
    };
    let found = object.pair_from(place);
    let walked = found.map_or(object.places(), |found| found.0).saturating_sub(place);
    vm.charge(walked as u64 / 8)?;
    Ok(found.map(|(_, key, value)| (key, value)))
}

fn pairs(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let next = vm.base.next;
    vm.give(next)?;
    vm.give(Value::Table(table))?;
    vm.give(Value::Nil)
}

fn ipairs(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let step = vm.base.ipairs_step;
    vm.give(step)?;
    vm.give(Value::Table(table))?;
    vm.give(Value::Number(0.0))
}

pub fn ipairs_step(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let index = vm.need_integer(args, 1)? + 1;
    let table = vm.need_table(args, 0)?;
    let value = vm.raw_get(table, Value::Number(index as f64))?;
    if matches!(value, Value::Nil) {
        return Ok(());
    }
    vm.give(Value::Number(index as f64))?;
    vm.give(value)
}

/// How a chunk from a text is called in messages.
fn chunk_name(name: &[u8]) -> String {
    const SHOWN_MAX: usize = 45;
    let text = String::from_utf8_lossy(name);
    if let Some(name) = text.strip_prefix(['=', '@']) {
        return name.chars().take(59).collect();
    }
    let line = text.split(['\n', '\r']).next().unwrap_or("");
    if line.len() < text.len() || line.chars().count() > SHOWN_MAX {
        let line: String = line.chars().take(SHOWN_MAX).collect();
        return format!("[string \"{line}...\"]");
    }
    format!("[string \"{line}\"]")
}

fn loaded(vm: &mut Vm<'_>, source: &[u8], name: &[u8]) -> Run<()> {
    vm.will_build(source.len().min(SOURCE_BYTES_MAX).saturating_mul(SOURCE_TREE_FACTOR))?;
    vm.charge(source.len() as u64)?;
    match compile(source, &chunk_name(name)) {
        Ok(proto) => {
            vm.heap.take(proto.bytes())?;
            let proto = vm.heap.load(&proto)?;
            let function = vm.heap.function(Function::Script { proto, ups: Box::default() })?;
            vm.ret.clear();
            vm.give(function)
        }
        Err(message) => {
            vm.ret.clear();
            vm.give(Value::Nil)?;
            vm.give_text(message.as_bytes())
        }
    }
}

fn loadstring(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let source = vm.need_text(args, 0)?;
    let name = if matches!(vm.arg(args, 1), Value::Nil) { source } else { vm.need_text(args, 1)? };
    let (source, name) = (vm.bytes(source).to_vec(), vm.bytes(name).to_vec());
    loaded(vm, &source, &name)
}

fn load(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let function = vm.arg(args, 0);
    if !matches!(function, Value::Function(_) | Value::Native(_)) {
        return Err(vm.wrong_type(args, 0, "function"));
    }
    let name = match vm.arg(args, 1) {
        Value::Nil => b"=(load)".to_vec(),
        _ => {
            let name = vm.need_text(args, 1)?;
            vm.bytes(name).to_vec()
        }
    };
    let mut source = Vec::new();
    loop {
        let piece = match vm.protect(|vm| vm.call_for_one(function, &[]).map(|_| ()))? {
            Ok(()) => vm.ret.first().copied().unwrap_or(Value::Nil),
            Err(value) => {
                vm.ret.clear();
                vm.give(Value::Nil)?;
                return vm.give(value);
            }
        };
        let Some(bytes) = vm.as_bytes(piece) else {
            if matches!(piece, Value::Nil) {
                break;
            }
            return Err(vm.complain("reader function must return a string"));
        };
        if bytes.is_empty() {
            break;
        }
        source.extend_from_slice(&bytes);
        vm.will_build(source.len())?;
        vm.charge_bytes(source.len())?;
    }
    loaded(vm, &source, &name)
}

/// As Redis has it: of an error that is a table with a text called `err`, the script gets that text.
fn pcall(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    vm.need_any(args, 0)?;
    match vm.protect(|vm| vm.call_at(args.base, args.count - 1))? {
        Ok(()) => vm.ret.insert(0, Value::Bool(true)),
        Err(value) => {
            let mut value = value;
            if let Value::Table(table) = value {
                let text = vm.field(table, "err")?;
                if matches!(text, Value::Text(_) | Value::Number(_)) {
                    value = text;
                }
            }
            vm.ret.clear();
            vm.give(Value::Bool(false))?;
            vm.give(value)?;
        }
    }
    Ok(())
}

fn xpcall(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count < 2 {
        return Err(vm.bad_argument(2, "value expected"));
    }
    let (function, handler) = (vm.arg(args, 0), vm.arg(args, 1));
    match vm.protect(|vm| vm.call(function, &[]))? {
        Ok(()) => vm.ret.insert(0, Value::Bool(true)),
        Err(value) => {
            let handled = vm.protect(|vm| vm.call(handler, &[value]))?;
            if let Err(value) = handled {
                vm.ret.clear();
                vm.give(value)?;
            }
            vm.ret.truncate(1);
            vm.ret.resize(1, Value::Nil);
            vm.ret.insert(0, Value::Bool(false));
        }
    }
    Ok(())
}

fn rawequal(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let (a, b) = (vm.need_any(args, 0)?, vm.need_any(args, 1)?);
    let equal = vm.raw_equal(a, b);
    vm.give(Value::Bool(equal))
}

fn rawget(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let key = vm.need_any(args, 1)?;
    let value = vm.raw_get(table, key)?;
    vm.give(value)
}

fn rawset(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let (key, value) = (vm.need_any(args, 1)?, vm.need_any(args, 2)?);
    vm.raw_set(table, key, value)?;
    vm.give(Value::Table(table))
}

fn select(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if let Value::Text(text) = vm.arg(args, 0)
        && vm.bytes(text).first() == Some(&b'#')
    {
        return vm.give(Value::Number(args.count as f64 - 1.0));
    }
    let index = vm.need_integer(args, 0)?;
    let count = args.count as i64;
    let from = if index < 0 { count + index } else { index.min(count) };
    if from < 1 {
        return Err(vm.bad_argument(1, "index out of range"));
    }
    vm.charge((count - from) as u64 / 8)?;
    vm.ret.extend_from_slice(&vm.stack[args.base + from as usize..args.base + args.count]);
    Ok(())
}

fn tonumber(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let radix = vm.integer_or(args, 1, 10)?;
    if radix == 10 {
        let value = vm.need_any(args, 0)?;
        if let Value::Text(text) = value {
            vm.charge_bytes(vm.bytes(text).len())?;
        }
        let number = vm.to_number(value).map_or(Value::Nil, Value::Number);
        return vm.give(number);
    }
    let text = vm.need_text(args, 0)?;
    if !(2..=36).contains(&radix) {
        return Err(vm.bad_argument(2, "base out of range"));
    }
    let number = whole_of_radix(vm.bytes(text), radix as u32);
    vm.give(number.map_or(Value::Nil, Value::Number))
}

/// As `strtoul` reads it: a minus wraps around.
fn whole_of_radix(text: &[u8], radix: u32) -> Option<f64> {
    let text = text.trim_ascii();
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let digits = match digits {
        [b'0', b'x' | b'X', rest @ ..] if radix == 16 && !rest.is_empty() => rest,
        digits => digits,
    };
    if digits.is_empty() {
        return None;
    }
    let mut number = 0_u64;
    let mut over = false;
    for &c in digits {
        let digit = (c as char).to_digit(radix)?;
        match number.checked_mul(u64::from(radix)).and_then(|number| number.checked_add(u64::from(digit))) {
            Some(next) => number = next,
            None => over = true,
        }
    }
    let number = if over { u64::MAX } else { number };
    Some(if negative && !over { number.wrapping_neg() } else { number } as f64)
}

fn tostring(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let value = vm.need_any(args, 0)?;
    let shown = show(vm, value)?;
    vm.ret.clear();
    vm.give(shown)
}

/// A value as `tostring` shows it.
pub fn show(vm: &mut Vm<'_>, value: Value) -> Run<Value> {
    let handler = vm.metamethod(value, Event::ToString);
    if !matches!(handler, Value::Nil) {
        return vm.call_for_one(handler, &[value]);
    }
    let text = match value {
        Value::Text(_) => return Ok(value),
        Value::Nil => "nil".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number::show(number),
        Value::Null => "userdata: (nil)".into(),
        // Not an address: the number of the object in this run.
        Value::Native(_) => format!("function: builtin: {:06x}", vm.heap.ordinal(value)),
        _ => format!("{}: 0x{:012x}", value.kind(), vm.heap.ordinal(value)),
    };
    vm.text(text.as_bytes())
}

fn type_of(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let kind = vm.need_any(args, 0)?.kind();
    let value = vm.heap.text(kind.as_bytes())?;
    vm.give(value)
}

fn unpack(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let from = vm.integer_or(args, 1, 1)? as i32;
    let to = match vm.arg(args, 2) {
        Value::Nil => vm.heap.tables.get(table).len(&vm.heap.texts) as i64,
        _ => vm.need_integer(args, 2)?,
    } as i32;
    if from > to {
        return Ok(());
    }
    let count = (i64::from(to) - i64::from(from)) as usize + 1;
    if count > UNPACK_MAX {
        return Err(vm.complain("too many results to unpack"));
    }
    vm.charge(count as u64)?;
    vm.will_build(count * 32)?;
    for index in from..=to {
        let value = vm.raw_get(table, Value::Number(f64::from(index)))?;
        vm.ret.push(value);
    }
    Ok(())
}
