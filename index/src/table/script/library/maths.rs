//! `math`, computed in software where processors and C libraries would differ in the last bit; and `os`, whose clock stands.

use super::Library;
use crate::table::script::lua::number::{canonical, power, to_i64};
use crate::table::script::lua::operate::modulo;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Vm};

pub const FUNCTIONS: Library = &[
    ("abs", |vm, args| one(vm, args, f64::abs)),
    ("acos", |vm, args| one(vm, args, libm::acos)),
    ("asin", |vm, args| one(vm, args, libm::asin)),
    ("atan", |vm, args| one(vm, args, libm::atan)),
    ("atan2", |vm, args| two(vm, args, libm::atan2)),
    ("ceil", |vm, args| one(vm, args, f64::ceil)),
    ("cos", |vm, args| one(vm, args, libm::cos)),
    ("cosh", |vm, args| one(vm, args, libm::cosh)),
    ("deg", |vm, args| one(vm, args, |x| x / (core::f64::consts::PI / 180.0))),
    ("exp", |vm, args| one(vm, args, libm::exp)),
    ("floor", |vm, args| one(vm, args, f64::floor)),
    ("fmod", |vm, args| two(vm, args, |x, y| x % y)),
    ("frexp", frexp),
    ("ldexp", ldexp),
    ("log", |vm, args| one(vm, args, libm::log)),
    ("log10", |vm, args| one(vm, args, libm::log10)),
    ("max", |vm, args| extreme(vm, args, |x, best| x > best)),
    ("min", |vm, args| extreme(vm, args, |x, best| x < best)),
    ("mod", |vm, args| two(vm, args, |x, y| x % y)),
    ("modf", modf),
    ("pow", |vm, args| two(vm, args, power)),
    ("rad", |vm, args| one(vm, args, |x| x * (core::f64::consts::PI / 180.0))),
    ("random", random),
    ("randomseed", randomseed),
    ("sin", |vm, args| one(vm, args, libm::sin)),
    ("sinh", |vm, args| one(vm, args, libm::sinh)),
    ("sqrt", |vm, args| one(vm, args, f64::sqrt)),
    ("tan", |vm, args| one(vm, args, libm::tan)),
    ("tanh", |vm, args| one(vm, args, libm::tanh)),
];

/// The time of a processor differs from member to member, so none passes.
pub const OS_FUNCTIONS: Library = &[("clock", |vm, _| vm.give(Value::Number(0.0)))];

fn one(vm: &mut Vm<'_>, args: Args, calculate: fn(f64) -> f64) -> Run<()> {
    let number = vm.need_number(args, 0)?;
    vm.give(Value::Number(canonical(calculate(number))))
}

fn two(vm: &mut Vm<'_>, args: Args, calculate: fn(f64, f64) -> f64) -> Run<()> {
    // The second is looked at first, which shows in messages.
    let y = vm.need_number(args, 1)?;
    let x = vm.need_number(args, 0)?;
    vm.give(Value::Number(canonical(calculate(x, y))))
}

fn extreme(vm: &mut Vm<'_>, args: Args, better: fn(f64, f64) -> bool) -> Run<()> {
    let mut best = vm.need_number(args, 0)?;
    for index in 1..args.count {
        let number = vm.need_number(args, index)?;
        if better(number, best) {
            best = number;
        }
    }
    vm.give(Value::Number(best))
}

fn frexp(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let number = vm.need_number(args, 0)?;
    let (mantissa, exponent) = if number.is_finite() { libm::frexp(number) } else { (canonical(number), 0) };
    vm.give(Value::Number(mantissa))?;
    vm.give(Value::Number(f64::from(exponent)))
}

fn ldexp(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let number = vm.need_number(args, 0)?;
    let exponent = vm.need_integer(args, 1)? as i32;
    vm.give(Value::Number(canonical(libm::scalbn(number, exponent))))
}

fn modf(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let number = vm.need_number(args, 0)?;
    let whole = number.trunc();
    let rest = if number.is_infinite() { 0.0_f64.copysign(number) } else { (number - whole).copysign(number) };
    vm.give(Value::Number(canonical(whole)))?;
    vm.give(Value::Number(canonical(rest)))
}

/// The generator of `lrand48`, which begins alike in every run: chance that is the same on every member.
pub struct Chance(u64);

impl Default for Chance {
    /// As it stands before anything was seeded.
    fn default() -> Chance {
        Chance(0x1234_abcd_330e)
    }
}

impl Chance {
    pub fn seeded(seed: i32) -> Chance {
        Chance((u64::from(seed as u32) << 16) | 0x330e)
    }

    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(0x5_deec_e66d).wrapping_add(0xb) & 0xffff_ffff_ffff;
        (self.0 >> 17) as u32
    }
}

fn random(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    const MOST: u32 = i32::MAX as u32;
    let chance = f64::from(vm.session.chance.next() % MOST) / f64::from(MOST);
    let number = match args.count {
        0 => chance,
        1 => {
            let most = vm.need_integer(args, 0)? as i32;
            if most < 1 {
                return Err(vm.bad_argument(1, "interval is empty"));
            }
            (chance * f64::from(most)).floor() + 1.0
        }
        2 => {
            let (least, most) = (vm.need_integer(args, 0)? as i32, vm.need_integer(args, 1)? as i32);
            if least > most {
                return Err(vm.bad_argument(2, "interval is empty"));
            }
            (chance * (f64::from(most.wrapping_sub(least).wrapping_add(1)))).floor() + f64::from(least)
        }
        _ => return Err(vm.complain("wrong number of arguments")),
    };
    vm.give(Value::Number(number))
}

fn randomseed(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let seed = vm.need_integer(args, 0)? as i32;
    vm.session.chance = Chance::seeded(seed);
    Ok(())
}

/// As a number of `bit`: reduced to 32 bits.
pub fn to_bits(number: f64) -> u32 {
    if number.is_finite() && number.abs() < 9.0e15 {
        // Half away from even is how the conversion rounds.
        return number.round_ties_even() as i64 as u32;
    }
    to_i64(modulo(number, 4_294_967_296.0)) as u32
}
