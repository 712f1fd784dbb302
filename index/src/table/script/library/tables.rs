//! `table`.

use super::Library;
use super::base::pair_after;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Vm};

pub const FUNCTIONS: Library = &[
    ("concat", concat),
    ("foreach", foreach),
    ("foreachi", foreachi),
    ("getn", getn),
    ("insert", insert),
    ("maxn", maxn),
    ("remove", remove),
    ("setn", setn),
    ("sort", sort),
];

fn len_of(vm: &Vm<'_>, table: u32) -> i64 {
    vm.heap.tables.get(table).len(&vm.heap.texts) as i64
}

fn at(vm: &mut Vm<'_>, table: u32, index: i64) -> Run<Value> {
    vm.raw_get(table, Value::Number(index as f64))
}

fn put(vm: &mut Vm<'_>, table: u32, index: i64, value: Value) -> Run<()> {
    vm.raw_set(table, Value::Number(index as f64), value)
}

fn getn(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let len = len_of(vm, table);
    vm.give(Value::Number(len as f64))
}

fn setn(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    vm.need_table(args, 0)?;
    Err(vm.complain("'setn' is obsolete"))
}

fn maxn(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let mut most = 0.0_f64;
    let mut key = Value::Nil;
    while let Some((next, _)) = pair_after(vm, table, key)? {
        if let Value::Number(number) = next {
            most = most.max(number);
        }
        key = next;
        vm.charge(1)?;
    }
    vm.give(Value::Number(most))
}

fn insert(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let end = len_of(vm, table) + 1;
    match args.count {
        2 => {
            let value = vm.arg(args, 1);
            put(vm, table, end, value)
        }
        3 => {
            let position = vm.need_integer(args, 1)? as i32 as i64;
            let end = end.max(position);
            let moved = end - position;
            vm.charge(moved.max(0) as u64)?;
            for index in (position..end).rev() {
                let value = at(vm, table, index)?;
                put(vm, table, index + 1, value)?;
            }
            let value = vm.arg(args, 2);
            put(vm, table, position, value)
        }
        _ => Err(vm.complain("wrong number of arguments to 'insert'")),
    }
}

fn remove(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let end = len_of(vm, table);
    let position = vm.integer_or(args, 1, end)? as i32 as i64;
    if !(1..=end).contains(&position) {
        return Ok(());
    }
    let removed = at(vm, table, position)?;
    vm.charge((end - position) as u64)?;
    for index in position..end {
        let value = at(vm, table, index + 1)?;
        put(vm, table, index, value)?;
    }
    put(vm, table, end, Value::Nil)?;
    vm.give(removed)
}

fn concat(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let between = if matches!(vm.arg(args, 1), Value::Nil) { None } else { Some(vm.need_text(args, 1)?) };
    let from = vm.integer_or(args, 2, 1)? as i32 as i64;
    let to = match vm.arg(args, 3) {
        Value::Nil => len_of(vm, table),
        _ => vm.need_integer(args, 3)? as i32 as i64,
    };
    let mut built = Vec::new();
    for index in from..=to {
        let value = at(vm, table, index)?;
        vm.charge(2)?;
        let Some(bytes) = vm.as_bytes(value) else {
            let what = format!("invalid value ({}) at index {index} in table for 'concat'", value.kind());
            return Err(vm.complain(&what));
        };
        let size = built.len() + bytes.len() + between.map_or(0, |between| vm.bytes(between).len());
        if vm.heap.bytes.saturating_add(size) > vm.heap.bytes_max {
            vm.will_build(size)?;
        } else {
            built.extend_from_slice(&bytes);
        }
        if index < to
            && let Some(between) = between
        {
            built.extend_from_slice(vm.bytes(between));
        }
    }
    let value = vm.own_text(built)?;
    vm.give(value)
}

fn foreach(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let function = need_function(vm, args)?;
    let mut key = Value::Nil;
    while let Some((next, value)) = pair_after(vm, table, key)? {
        let result = vm.call_for_one(function, &[next, value])?;
        if !matches!(result, Value::Nil) {
            vm.ret.clear();
            return vm.give(result);
        }
        key = next;
    }
    vm.ret.clear();
    Ok(())
}

fn foreachi(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let function = need_function(vm, args)?;
    for index in 1..=len_of(vm, table) {
        let value = at(vm, table, index)?;
        let result = vm.call_for_one(function, &[Value::Number(index as f64), value])?;
        if !matches!(result, Value::Nil) {
            vm.ret.clear();
            return vm.give(result);
        }
    }
    vm.ret.clear();
    Ok(())
}

fn need_function(vm: &mut Vm<'_>, args: Args) -> Run<Value> {
    match vm.arg(args, 1) {
        function @ (Value::Function(_) | Value::Native(_)) => Ok(function),
        _ => Err(vm.wrong_type(args, 1, "function")),
    }
}

fn sort(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let table = vm.need_table(args, 0)?;
    let order = if matches!(vm.arg(args, 1), Value::Nil) { None } else { Some(need_function(vm, args)?) };
    let end = len_of(vm, table);
    sort_range(vm, table, order, 1, end)?;
    vm.ret.clear();
    Ok(())
}

fn before(vm: &mut Vm<'_>, order: Option<Value>, a: Value, b: Value) -> Run<bool> {
    vm.charge(4)?;
    match order {
        Some(order) => Ok(vm.call_for_one(order, &[a, b])?.truth()),
        None => vm.less(a, b),
    }
}

/// Quicksort with the median of three as Lua 5.1 does it, since the order of what compares equal depends on how.
fn sort_range(vm: &mut Vm<'_>, table: u32, order: Option<Value>, low: i64, high: i64) -> Run<()> {
    let (mut low, mut high) = (low, high);
    while low < high {
        let (a, b) = (at(vm, table, low)?, at(vm, table, high)?);
        if before(vm, order, b, a)? {
            put(vm, table, low, b)?;
            put(vm, table, high, a)?;
        }
        if high - low == 1 {
            break;
        }
        let middle = (low + high) / 2;
        let (m, a) = (at(vm, table, middle)?, at(vm, table, low)?);
        if before(vm, order, m, a)? {
            put(vm, table, middle, a)?;
            put(vm, table, low, m)?;
        } else {
            let b = at(vm, table, high)?;
            if before(vm, order, b, m)? {
                put(vm, table, middle, b)?;
                put(vm, table, high, m)?;
            }
        }
        if high - low == 2 {
            break;
        }
        let pivot = at(vm, table, middle)?;
        let beside = at(vm, table, high - 1)?;
        put(vm, table, middle, beside)?;
        put(vm, table, high - 1, pivot)?;
        let (mut i, mut j) = (low, high - 1);
        loop {
            i += 1;
            let mut x = at(vm, table, i)?;
            while before(vm, order, x, pivot)? {
                if i > high {
                    return Err(vm.complain("invalid order function for sorting"));
                }
                i += 1;
                x = at(vm, table, i)?;
            }
            j -= 1;
            let mut y = at(vm, table, j)?;
            while before(vm, order, pivot, y)? {
                if j < low {
                    return Err(vm.complain("invalid order function for sorting"));
                }
                j -= 1;
                y = at(vm, table, j)?;
            }
            if j < i {
                break;
            }
            put(vm, table, i, y)?;
            put(vm, table, j, x)?;
        }
        let (a, b) = (at(vm, table, high - 1)?, at(vm, table, i)?);
        put(vm, table, high - 1, b)?;
        put(vm, table, i, a)?;
        // The smaller half nests, so the depth stays logarithmic.
        if i - low < high - i {
            sort_range(vm, table, order, low, i - 1)?;
            low = i + 1;
        } else {
            sort_range(vm, table, order, i + 1, high)?;
            high = i - 1;
        }
    }
    Ok(())
}
