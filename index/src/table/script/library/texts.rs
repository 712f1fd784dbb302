//! `string`, which texts have as methods too.

use super::Library;
use super::format::format;
use super::pattern::{Capture, Matcher, Trouble, cut};
use crate::table::script::Budget;
use crate::table::script::lua::heap::Function;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Throw, Vm};

pub const FUNCTIONS: Library = &[
    ("byte", byte),
    ("char", char),
    ("find", find),
    ("format", format),
    ("gfind", gmatch),
    ("gmatch", gmatch),
    ("gsub", gsub),
    ("len", len),
    ("lower", lower),
    ("match", match_),
    ("rep", rep),
    ("reverse", reverse),
    ("sub", sub),
    ("upper", upper),
];

/// A position as scripts give it, from the end if negative.
fn position(at: i64, len: usize) -> i64 {
    let at = if at < 0 { at.saturating_add(len as i64 + 1) } else { at };
    at.max(0)
}

/// The range of bytes between two positions, both included.
fn range(from: i64, to: i64, len: usize) -> std::ops::Range<usize> {
    let from = position(from, len).max(1) as usize;
    let to = position(to, len).min(len as i64) as usize;
    if from > to { 0..0 } else { from - 1..to }
}

fn len(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let len = vm.bytes(text).len();
    vm.give(Value::Number(len as f64))
}

fn sub(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let from = vm.need_integer(args, 1)?;
    let to = vm.integer_or(args, 2, -1)?;
    let bytes = vm.bytes(text);
    let bytes = bytes[range(from, to, bytes.len())].to_vec();
    let value = vm.own_text(bytes)?;
    vm.give(value)
}

fn changed(vm: &mut Vm<'_>, args: Args, change: impl FnOnce(&mut Vec<u8>)) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    vm.will_build(vm.bytes(text).len())?;
    let mut bytes = vm.bytes(text).to_vec();
    change(&mut bytes);
    let value = vm.own_text(bytes)?;
    vm.give(value)
}

fn lower(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    changed(vm, args, |bytes| bytes.make_ascii_lowercase())
}

fn upper(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    changed(vm, args, |bytes| bytes.make_ascii_uppercase())
}

fn reverse(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    changed(vm, args, |bytes| bytes.reverse())
}

fn rep(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let count = (vm.need_integer(args, 1)? as i32).max(0) as usize;
    let whole = vm.bytes(text).len().saturating_mul(count);
    vm.will_build(whole)?;
    vm.charge_bytes(whole)?;
    let bytes = if whole == 0 { Vec::new() } else { vm.bytes(text).repeat(count) };
    let value = vm.own_text(bytes)?;
    vm.give(value)
}

fn byte(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let from = vm.integer_or(args, 1, 1)?;
    let to = vm.integer_or(args, 2, from)?;
    let bytes = vm.bytes(text);
    let range = range(from, to, bytes.len());
    vm.will_build(range.len() * 32)?;
    vm.charge(range.len() as u64 / 4)?;
    for at in range {
        let byte = vm.bytes(text)[at];
        vm.ret.push(Value::Number(f64::from(byte)));
    }
    Ok(())
}

fn char(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let mut bytes = Vec::with_capacity(args.count);
    for index in 0..args.count {
        let code = vm.need_integer(args, index)?;
        let Ok(byte) = u8::try_from(code) else { return Err(vm.bad_argument(index + 1, "invalid value")) };
        bytes.push(byte);
    }
    let value = vm.own_text(bytes)?;
    vm.give(value)
}

/// What a capture of a match gives.
#[derive(Clone, Copy)]
enum Piece {
    Range(usize, usize),
    Position(usize),
    /// Its end never came, which is wrong once somebody asks for it.
    Unfinished,
}

/// A match: where it is, and what it captured.
struct Found {
    from: usize,
    to: usize,
    pieces: Vec<Piece>,
}

/// The first match of a pattern at or behind `from`; at `from` only if anchored. `skip` is how many bytes of the pattern
/// belong to the anchor.
fn seek(vm: &mut Vm<'_>, text: u32, pattern: u32, from: usize, skip: usize, once: bool) -> Run<Option<Found>> {
    let left = vm.steps.max(0) as u64;
    let mut matcher = Matcher::new(vm.heap.texts.get(text), cut(vm.heap.texts.get(pattern)), left);
    let size = vm.heap.texts.get(text).len();
    let mut at = from;
    let mut result = Ok(None);
    loop {
        matcher.level = 0;
        match matcher.matches(at, skip) {
            Ok(Some(to)) => {
                let pieces = matcher.captures().iter().map(|capture| match *capture {
                    Capture::Range(from, to) => Piece::Range(from, to),
                    Capture::Position(at) => Piece::Position(at),
                    Capture::Open(_) => Piece::Unfinished,
                });
                result = Ok(Some(Found { from: at, to, pieces: pieces.collect() }));
                break;
            }
            Ok(None) => {}
            Err(trouble) => {
                result = Err(trouble);
                break;
            }
        }
        at += 1;
        if once || at > size {
            break;
        }
    }
    let tries = matcher.tries;
    match result {
        Ok(found) => {
            vm.charge(tries)?;
            Ok(found)
        }
        Err(Trouble::Steps) => Err(Throw::Over(Budget::Steps)),
        Err(Trouble::Wrong(what)) => Err(vm.complain(&what)),
    }
}

fn piece(vm: &mut Vm<'_>, text: u32, piece: Piece) -> Run<Value> {
    match piece {
        Piece::Unfinished => Err(vm.complain("unfinished capture")),
        Piece::Position(at) => Ok(Value::Number(at as f64 + 1.0)),
        Piece::Range(from, to) => {
            let bytes = vm.bytes(text)[from..to].to_vec();
            vm.own_text(bytes)
        }
    }
}

/// What a match captured, or all of it if it captured nothing.
fn pieces(vm: &mut Vm<'_>, text: u32, found: &Found, whole: bool) -> Run<Vec<Value>> {
    if found.pieces.is_empty() && whole {
        return Ok(vec![piece(vm, text, Piece::Range(found.from, found.to))?]);
    }
    found.pieces.iter().map(|one| piece(vm, text, *one)).collect()
}

fn find_plain(text: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let Some(first) = what.first() else { return Some(from) };
    let mut at = from;
    while at + what.len() <= text.len() {
        at += text[at..=text.len() - what.len()].iter().position(|c| c == first)?;
        if text[at..].starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn find(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    search(vm, args, true)
}

fn match_(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    search(vm, args, false)
}

fn search(vm: &mut Vm<'_>, args: Args, positions: bool) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let pattern = vm.need_text(args, 1)?;
    let size = vm.bytes(text).len();
    let from = vm.integer_or(args, 2, 1)?;
    let from = (position(from, size) - 1).clamp(0, size as i64) as usize;
    let special = cut(vm.bytes(pattern)).iter().any(|c| b"^$*+?.([%-".contains(c));
    if positions && (vm.arg(args, 3).truth() || !special) {
        // At worst every byte of the text is compared with every byte of what is looked for.
        let what = vm.bytes(pattern).len();
        let work = (size - from).saturating_mul(1 + what / 16);
        if work / 16 > vm.steps.max(0) as usize {
            return Err(Throw::Over(Budget::Steps));
        }
        let found = find_plain(vm.bytes(text), vm.bytes(pattern), from);
        let walked = found.unwrap_or(size).saturating_sub(from) + what;
        vm.charge(walked as u64 / 4)?;
        return match found {
            Some(at) => {
                vm.give(Value::Number(at as f64 + 1.0))?;
                vm.give(Value::Number((at + what) as f64))
            }
            None => vm.give(Value::Nil),
        };
    }
    let anchored = vm.bytes(pattern).first() == Some(&b'^');
    let Some(found) = seek(vm, text, pattern, from, usize::from(anchored), anchored)? else {
        return vm.give(Value::Nil);
    };
    let values = pieces(vm, text, &found, !positions)?;
    if positions {
        vm.give(Value::Number(found.from as f64 + 1.0))?;
        vm.give(Value::Number(found.to as f64))?;
    }
    vm.ret.extend(values);
    Ok(())
}

fn gmatch(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let pattern = vm.need_text(args, 1)?;
    // Where to go on is in a table, since what a function of ours keeps does not change.
    let state = vm.heap.table(1, 0)?;
    vm.raw_set(state, Value::Number(1.0), Value::Number(0.0))?;
    let keeps = [Value::Text(text), Value::Text(pattern), Value::Table(state), Value::Nil];
    let function = vm.heap.function(Function::Native { native: gmatch_step, keeps })?;
    vm.give(function)
}

fn gmatch_step(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let [Value::Text(text), Value::Text(pattern), Value::Table(state), _] = args.keeps else { return Ok(()) };
    let Value::Number(from) = vm.raw_get(state, Value::Number(1.0))? else { return Ok(()) };
    let from = from as usize;
    if from > vm.bytes(text).len() {
        return vm.give(Value::Nil);
    }
    let Some(found) = seek(vm, text, pattern, from, 0, false)? else {
        let end = vm.bytes(text).len() + 1;
        vm.raw_set(state, Value::Number(1.0), Value::Number(end as f64))?;
        return vm.give(Value::Nil);
    };
    let next = if found.to == found.from { found.to + 1 } else { found.to };
    vm.raw_set(state, Value::Number(1.0), Value::Number(next as f64))?;
    let values = pieces(vm, text, &found, true)?;
    vm.ret.extend(values);
    Ok(())
}

fn gsub(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let pattern = vm.need_text(args, 1)?;
    let by = vm.arg(args, 2);
    if !matches!(by, Value::Number(_) | Value::Text(_) | Value::Table(_) | Value::Function(_) | Value::Native(_)) {
        return Err(vm.bad_argument(3, "string/function/table expected"));
    }
    let template = match by {
        Value::Number(_) | Value::Text(_) => Some(vm.need_text(args, 2)?),
        _ => None,
    };
    let size = vm.bytes(text).len();
    let most = vm.integer_or(args, 3, size as i64 + 1)?;
    let anchored = vm.bytes(pattern).first() == Some(&b'^');
    let mut built = Vec::new();
    let mut at = 0;
    let mut count = 0;
    while count < most {
        let found = seek(vm, text, pattern, at, usize::from(anchored), true)?;
        let mut moved = false;
        if let Some(found) = found {
            count += 1;
            replace(vm, text, &found, by, template, &mut built)?;
            vm.will_build(built.len() + size)?;
            if found.to > at {
                at = found.to;
                moved = true;
            }
        }
        if !moved {
            if at >= size {
                break;
            }
            built.push(vm.bytes(text)[at]);
            at += 1;
        }
        if anchored {
            break;
        }
    }
    built.extend_from_slice(&vm.bytes(text)[at.min(size)..]);
    let value = vm.own_text(built)?;
    vm.ret.clear();
    vm.give(value)?;
    vm.give(Value::Number(count as f64))
}

/// Writes what takes the place of a match.
fn replace(
    vm: &mut Vm<'_>,
    text: u32,
    found: &Found,
    by: Value,
    template: Option<u32>,
    built: &mut Vec<u8>,
) -> Run<()> {
    let value = match (by, template) {
        (_, Some(template)) => return fill_in(vm, text, found, template, built),
        (Value::Table(_), _) => {
            let first = found.pieces.first().copied().unwrap_or(Piece::Range(found.from, found.to));
            let key = piece(vm, text, first)?;
            vm.index(by, key)?
        }
        _ => {
            let values = pieces(vm, text, found, true)?;
            vm.call_for_one(by, &values)?
        }
    };
    if !value.truth() {
        built.extend_from_slice(&vm.bytes(text)[found.from..found.to]);
        return Ok(());
    }
    match vm.as_bytes(value) {
        Some(bytes) => {
            built.extend_from_slice(&bytes);
            Ok(())
        }
        None => Err(vm.complain(&format!("invalid replacement value (a {})", value.kind()))),
    }
}

fn fill_in(vm: &mut Vm<'_>, text: u32, found: &Found, template: u32, built: &mut Vec<u8>) -> Run<()> {
    let size = vm.bytes(template).len();
    let before = built.len();
    let mut at = 0;
    while at < size {
        let c = vm.bytes(template)[at];
        at += 1;
        if c != b'%' {
            built.push(c);
            continue;
        }
        let c = vm.bytes(template).get(at).copied().unwrap_or(0);
        at += 1;
        if !c.is_ascii_digit() {
            built.push(c);
            continue;
        }
        let index = (c - b'0') as usize;
        let piece = match index.checked_sub(1) {
            None => Piece::Range(found.from, found.to),
            Some(0) if found.pieces.is_empty() => Piece::Range(found.from, found.to),
            Some(index) => match found.pieces.get(index) {
                Some(piece) => *piece,
                None => return Err(vm.complain("invalid capture index")),
            },
        };
        match piece {
            Piece::Range(from, to) => {
                vm.will_build(built.len() + to - from)?;
                built.extend_from_slice(&vm.bytes(text)[from..to]);
            }
            Piece::Unfinished => return Err(vm.complain("unfinished capture")),
            Piece::Position(at) => built.extend_from_slice((at + 1).to_string().as_bytes()),
        }
    }
    vm.charge_bytes(size + built.len() - before)
}
