//! `string.format`.

use crate::table::script::lua::number::{Flags, exponential, fixed, general, to_u64};
use crate::table::script::lua::vm::{Args, Run, Vm};

struct Spec {
    flags: Flags,
    precision: Option<usize>,
    conversion: u8,
}

/// Reads what stands behind a `%`, and how long it is.
fn spec(text: &[u8]) -> Result<(Spec, usize), &'static str> {
    let mut flags = Flags::default();
    let mut at = 0;
    while let Some(c) = text.get(at) {
        match c {
            b'-' => flags.left = true,
            b'+' => flags.plus = true,
            b' ' => flags.space = true,
            b'#' => flags.alternate = true,
            b'0' => flags.zero = true,
            _ => break,
        }
        at += 1;
    }
    if at > 5 {
        return Err("invalid format (repeated flags)");
    }
    let number = |at: &mut usize| {
        let from = *at;
        while *at < from + 2 && text.get(*at).is_some_and(u8::is_ascii_digit) {
            *at += 1;
        }
        text[from..*at].iter().fold(0, |number, c| number * 10 + (c - b'0') as usize)
    };
    flags.width = number(&mut at);
    let mut precision = None;
    if text.get(at) == Some(&b'.') {
        at += 1;
        precision = Some(number(&mut at));
    }
    if text.get(at).is_some_and(u8::is_ascii_digit) {
        return Err("invalid format (width or precision too long)");
    }
    let conversion = text.get(at).copied().unwrap_or(0);
    flags.upper = conversion.is_ascii_uppercase();
    Ok((Spec { flags, precision, conversion }, at + 1))
}

pub fn format(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let template = vm.need_text(args, 0)?;
    let template = vm.bytes(template).to_vec();
    vm.charge_bytes(template.len())?;
    let mut built = Vec::with_capacity(template.len());
    let mut argument = 0;
    let mut at = 0;
    while at < template.len() {
        let c = template[at];
        at += 1;
        if c != b'%' {
            built.push(c);
            continue;
        }
        if template.get(at) == Some(&b'%') {
            built.push(b'%');
            at += 1;
            continue;
        }
        argument += 1;
        if argument >= args.count {
            return Err(vm.bad_argument(argument + 1, "no value"));
        }
        let (spec, used) = match spec(&template[at..]) {
            Ok(read) => read,
            Err(what) => return Err(vm.complain(what)),
        };
        at += used;
        vm.charge(8)?;
        convert(vm, args, argument, &spec, &mut built)?;
        vm.will_build(built.len())?;
    }
    let value = vm.own_text(built)?;
    vm.give(value)
}

fn convert(vm: &mut Vm<'_>, args: Args, argument: usize, spec: &Spec, built: &mut Vec<u8>) -> Run<()> {
    let flags = spec.flags;
    let decimals = spec.precision.unwrap_or(6);
    if matches!(spec.conversion, b'e' | b'E' | b'f' | b'g' | b'G') {
        // All digits before the point are written out by `f`, and computed exactly by all of them.
        let large = vm.to_number(vm.arg(args, argument)).is_some_and(|number| number.abs() >= 1e15);
        vm.charge(if large { 400 } else { 20 } + decimals as u64)?;
    }
    match spec.conversion {
        b'c' => {
            let byte = vm.need_integer(args, argument)? as u8;
            let mut text = Vec::new();
            pad(&[byte], flags, &mut text);
            // As a text of C, which ends at a zero.
            built.extend(text.into_iter().take_while(|c| *c != 0));
        }
        b'd' | b'i' => {
            let number = vm.need_integer(args, argument)?;
            integer(number < 0, &number.unsigned_abs().to_string(), spec, built);
        }
        b'o' | b'u' | b'x' | b'X' => {
            let number = vm.need_number(args, argument)?;
            let number = to_u64(number);
            let (digits, mark) = match spec.conversion {
                b'o' => (format!("{number:o}"), "0"),
                b'x' => (format!("{number:x}"), "0x"),
                b'X' => (format!("{number:X}"), "0X"),
                _ => (number.to_string(), ""),
            };
            let digits = if flags.alternate && number != 0 { format!("{mark}{digits}") } else { digits };
            integer(false, &digits, &Spec { flags: Flags { plus: false, space: false, ..flags }, ..*spec }, built);
        }
        b'e' | b'E' => built.extend(exponential(vm.need_number(args, argument)?, decimals, flags).bytes()),
        b'f' => built.extend(fixed(vm.need_number(args, argument)?, decimals, flags).bytes()),
        b'g' | b'G' => built.extend(general(vm.need_number(args, argument)?, decimals, flags).bytes()),
        b'q' => {
            let text = vm.need_text(args, argument)?;
            built.push(b'"');
            for &c in vm.bytes(text) {
                match c {
                    b'"' | b'\\' | b'\n' => built.extend([b'\\', c]),
                    b'\r' => built.extend(b"\\r"),
                    0 => built.extend(b"\\000"),
                    c => built.push(c),
                }
            }
            built.push(b'"');
        }
        b's' => {
            let text = vm.need_text(args, argument)?;
            let bytes = vm.bytes(text);
            if spec.precision.is_none() && bytes.len() >= 100 {
                vm.charge_bytes(bytes.len())?;
                vm.will_build(built.len() + vm.bytes(text).len())?;
                built.extend_from_slice(vm.bytes(text));
            } else {
                // As a text of C, which ends at a zero.
                let bytes = bytes.split(|c| *c == 0).next().unwrap_or(bytes);
                pad(&bytes[..bytes.len().min(spec.precision.unwrap_or(usize::MAX))], flags, built);
            }
        }
        other => {
            let name = if other == 0 { String::new() } else { (other as char).to_string() };
            return Err(vm.complain(&format!("invalid option '%{name}' to 'format'")));
        }
    }
    Ok(())
}

fn pad(bytes: &[u8], flags: Flags, built: &mut Vec<u8>) {
    let fill = flags.width.saturating_sub(bytes.len());
    if flags.left {
        built.extend_from_slice(bytes);
    }
    built.extend(std::iter::repeat_n(b' ', fill));
    if !flags.left {
        built.extend_from_slice(bytes);
    }
}

fn integer(negative: bool, digits: &str, spec: &Spec, built: &mut Vec<u8>) {
    let text = match spec.precision {
        // A precision turns the filling with zeros off.
        Some(0) if digits == "0" => spec.flags.pad(negative, "", false),
        Some(precision) => {
            let zeros = precision.saturating_sub(digits.len());
            spec.flags.pad(negative, &format!("{}{digits}", "0".repeat(zeros)), false)
        }
        None => spec.flags.pad(negative, digits, true),
    };
    built.extend(text.bytes());
}
