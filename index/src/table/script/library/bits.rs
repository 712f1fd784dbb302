//! `bit`: operations on 32 bits, whose results are signed.

use super::Library;
use super::maths::to_bits;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Vm};

pub const FUNCTIONS: Library = &[
    ("arshift", |vm, args| shifted(vm, args, |x, by| (x as i32 >> by) as u32)),
    ("band", |vm, args| folded(vm, args, |x, y| x & y)),
    ("bnot", |vm, args| single(vm, args, |x| !x)),
    ("bor", |vm, args| folded(vm, args, |x, y| x | y)),
    ("bswap", |vm, args| single(vm, args, u32::swap_bytes)),
    ("bxor", |vm, args| folded(vm, args, |x, y| x ^ y)),
    ("lshift", |vm, args| shifted(vm, args, |x, by| x << by)),
    ("rol", |vm, args| shifted(vm, args, u32::rotate_left)),
    ("ror", |vm, args| shifted(vm, args, u32::rotate_right)),
    ("rshift", |vm, args| shifted(vm, args, |x, by| x >> by)),
    ("tobit", |vm, args| single(vm, args, |x| x)),
    ("tohex", tohex),
];

fn give(vm: &mut Vm<'_>, bits: u32) -> Run<()> {
    vm.give(Value::Number(f64::from(bits as i32)))
}

fn need(vm: &mut Vm<'_>, args: Args, index: usize) -> Run<u32> {
    vm.need_number(args, index).map(to_bits)
}

fn single(vm: &mut Vm<'_>, args: Args, calculate: fn(u32) -> u32) -> Run<()> {
    let bits = need(vm, args, 0)?;
    give(vm, calculate(bits))
}

fn folded(vm: &mut Vm<'_>, args: Args, calculate: fn(u32, u32) -> u32) -> Run<()> {
    let mut bits = need(vm, args, 0)?;
    for index in 1..args.count {
        bits = calculate(bits, need(vm, args, index)?);
    }
    give(vm, bits)
}

fn shifted(vm: &mut Vm<'_>, args: Args, calculate: fn(u32, u32) -> u32) -> Run<()> {
    let bits = need(vm, args, 0)?;
    let by = need(vm, args, 1)? & 31;
    give(vm, calculate(bits, by))
}

fn tohex(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let bits = need(vm, args, 0)?;
    let digits = if args.count > 1 { need(vm, args, 1)? as i32 } else { 8 };
    let width = digits.unsigned_abs().min(8) as usize;
    let text = if digits < 0 { format!("{bits:08X}") } else { format!("{bits:08x}") };
    vm.give_text(&text.as_bytes()[8 - width..])
}
