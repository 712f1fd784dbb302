//! `struct`: numbers and texts as bytes, and back.
//!
//! ```text
//!   > < =       big endian, little endian          b B h H l L T i# I#  integers of 1, 2, 8, 8, # bytes; capitals unsigned
//!   ! #         align to # bytes at most           f d                  floats of 4 and 8 bytes
//!   x           one byte of padding                s c#                 text up to a zero, text of # bytes
//! ```

use super::Library;
use crate::table::script::lua::number::{canonical, to_u64};
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Vm};

const INTEGER_BYTES_MAX: usize = 32;
const ALIGN_MAX: usize = 8;

pub const FUNCTIONS: Library = &[("pack", pack), ("size", size), ("unpack", unpack)];

struct Layout {
    format: Vec<u8>,
    at: usize,
    big: bool,
    align: usize,
}

impl Layout {
    fn read(vm: &mut Vm<'_>, args: Args) -> Run<Layout> {
        let format = vm.need_text(args, 0)?;
        let bytes = vm.bytes(format);
        let format = bytes.split(|c| *c == 0).next().unwrap_or(bytes).to_vec();
        vm.charge_bytes(format.len())?;
        Ok(Layout { format, at: 0, big: false, align: 1 })
    }

    fn next(&mut self) -> Option<u8> {
        let option = self.format.get(self.at).copied();
        self.at += 1;
        option
    }

    fn number(&mut self, vm: &mut Vm<'_>, default: usize) -> Run<usize> {
        let mut number = None;
        while let Some(digit @ b'0'..=b'9') = self.format.get(self.at) {
            let next = number.unwrap_or(0) * 10 + (digit - b'0') as usize;
            if next > i32::MAX as usize {
                return Err(vm.complain("integral size overflow"));
            }
            number = Some(next);
            self.at += 1;
        }
        Ok(number.unwrap_or(default))
    }

    fn size(&mut self, vm: &mut Vm<'_>, option: u8) -> Run<usize> {
        Ok(match option {
            b'B' | b'b' | b'x' => 1,
            b'H' | b'h' => 2,
            b'L' | b'l' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.number(vm, 1)?,
            b'i' | b'I' => {
                let size = self.number(vm, 4)?;
                if size > INTEGER_BYTES_MAX {
                    let what = format!("integral size {size} is larger than limit of {INTEGER_BYTES_MAX}");
                    return Err(vm.complain(&what));
                }
                size
            }
            _ => 0,
        })
    }

    /// Bytes that are missing to where this begins.
    fn padding(&self, at: usize, option: u8, size: usize) -> usize {
        if size == 0 || option == b'c' {
            return 0;
        }
        let size = size.min(self.align);
        size.wrapping_sub(at & (size - 1)) & (size - 1)
    }

    fn control(&mut self, vm: &mut Vm<'_>, option: u8) -> Run<()> {
        match option {
            b' ' => {}
            b'>' => self.big = true,
            b'<' => self.big = false,
            b'!' => {
                let align = self.number(vm, ALIGN_MAX)?;
                if !align.is_power_of_two() {
                    return Err(vm.complain(&format!("alignment {align} is not a power of 2")));
                }
                self.align = align;
            }
            _ => {
                let what = format!("invalid format option '{}'", option as char);
                return Err(vm.bad_argument(1, &what));
            }
        }
        Ok(())
    }
}

/// The number to pack next.
fn number(vm: &mut Vm<'_>, args: Args, argument: usize) -> Run<f64> {
    if argument >= args.count {
        return Err(vm.bad_argument(argument + 1, "number expected, got nil"));
    }
    vm.need_number(args, argument)
}

fn pack(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let mut layout = Layout::read(vm, args)?;
    let mut built = Vec::new();
    let mut argument = 1;
    while let Some(option) = layout.next() {
        let mut size = layout.size(vm, option)?;
        let padding = layout.padding(built.len(), option, size);
        built.extend(std::iter::repeat_n(0, padding));
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = number(vm, args, argument)?;
                argument += 1;
                let value = to_u64(number);
                let from = built.len();
                let bytes = value.to_le_bytes();
                built.extend((0..size).map(|index| bytes.get(index).copied().unwrap_or(0)));
                if layout.big {
                    built[from..].reverse();
                }
            }
            b'x' => built.push(0),
            b'f' => {
                let number = number(vm, args, argument)? as f32;
                argument += 1;
                let number = if number.is_nan() { f32::from_bits(0xffc0_0000) } else { number };
                built.extend(if layout.big { number.to_be_bytes() } else { number.to_le_bytes() });
            }
            b'd' => {
                let number = canonical(number(vm, args, argument)?);
                argument += 1;
                built.extend(if layout.big { number.to_be_bytes() } else { number.to_le_bytes() });
            }
            b'c' | b's' => {
                let text = vm.need_text(args, argument)?;
                argument += 1;
                let len = vm.bytes(text).len();
                if size == 0 {
                    size = len;
                }
                if len < size {
                    return Err(vm.bad_argument(argument + 1, "string too short"));
                }
                vm.will_build(built.len() + size)?;
                built.extend_from_slice(&vm.bytes(text)[..size]);
                if option == b's' {
                    built.push(0);
                }
            }
            _ => layout.control(vm, option)?,
        }
        vm.charge(1)?;
    }
    let value = vm.own_text(built)?;
    vm.give(value)
}

fn integer(bytes: &[u8], big: bool, signed: bool) -> f64 {
    let mut value = 0_u64;
    for index in 0..bytes.len() {
        let byte = if big { bytes[index] } else { bytes[bytes.len() - 1 - index] };
        value = value << 8 | u64::from(byte);
    }
    if !signed {
        return value as f64;
    }
    match bytes.len() {
        0 => 0.0,
        size @ 1..8 => {
            let unused = 64 - 8 * size as u32;
            (((value << unused) as i64) >> unused) as f64
        }
        _ => value as i64 as f64,
    }
}

fn unpack(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let mut layout = Layout::read(vm, args)?;
    let data = vm.need_text(args, 1)?;
    let len = vm.bytes(data).len();
    let from = vm.integer_or(args, 2, 1)?;
    if from < 1 {
        return Err(vm.bad_argument(3, "offset must be 1 or greater"));
    }
    let mut at = from as usize - 1;
    let mut values: Vec<Value> = Vec::new();
    while let Some(option) = layout.next() {
        let mut size = layout.size(vm, option)?;
        at = at.saturating_add(layout.padding(at, option, size));
        if size > len || at > len - size {
            return Err(vm.bad_argument(2, "data string too short"));
        }
        vm.charge(1)?;
        match option {
            b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'T' | b'i' | b'I' => {
                let number = integer(&vm.bytes(data)[at..at + size], layout.big, option.is_ascii_lowercase());
                values.push(Value::Number(number));
            }
            b'x' => {}
            b'f' => {
                let mut bytes = [0; 4];
                bytes.copy_from_slice(&vm.bytes(data)[at..at + 4]);
                let number = if layout.big { f32::from_be_bytes(bytes) } else { f32::from_le_bytes(bytes) };
                values.push(Value::Number(canonical(f64::from(number))));
            }
            b'd' => {
                let mut bytes = [0; 8];
                bytes.copy_from_slice(&vm.bytes(data)[at..at + 8]);
                let number = if layout.big { f64::from_be_bytes(bytes) } else { f64::from_le_bytes(bytes) };
                values.push(Value::Number(canonical(number)));
            }
            b'c' => {
                if size == 0 {
                    let Some(number) = values.last().and_then(|value| vm.to_number(*value)) else {
                        return Err(vm.complain("format 'c0' needs a previous size"));
                    };
                    values.pop();
                    size = to_u64(number) as usize;
                    if size > len || at > len - size {
                        return Err(vm.bad_argument(2, "data string too short"));
                    }
                }
                let bytes = vm.bytes(data)[at..at + size].to_vec();
                values.push(vm.own_text(bytes)?);
            }
            b's' => {
                let Some(end) = vm.bytes(data)[at..].iter().position(|c| *c == 0) else {
                    return Err(vm.complain("unfinished string in data"));
                };
                vm.charge_bytes(end)?;
                let bytes = vm.bytes(data)[at..at + end].to_vec();
                values.push(vm.own_text(bytes)?);
                size = end + 1;
            }
            _ => layout.control(vm, option)?,
        }
        at += size;
        vm.will_build(values.len() * 16)?;
    }
    vm.ret.extend(values);
    vm.give(Value::Number(at as f64 + 1.0))
}

fn size(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let mut layout = Layout::read(vm, args)?;
    let mut at = 0_usize;
    while let Some(option) = layout.next() {
        let size = layout.size(vm, option)?;
        at = at.saturating_add(layout.padding(at, option, size));
        if option == b's' {
            return Err(vm.bad_argument(1, "option 's' has no fixed size"));
        }
        if option == b'c' && size == 0 {
            return Err(vm.bad_argument(1, "option 'c0' has no fixed size"));
        }
        if !option.is_ascii_alphanumeric() {
            layout.control(vm, option)?;
        }
        at = at.saturating_add(size);
    }
    vm.give(Value::Number(at as f64))
}
