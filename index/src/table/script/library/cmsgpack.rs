//! `cmsgpack`: MessagePack from values and back.

use super::Library;
use crate::table::script::lua::number::canonical;
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, Run, Throw, Vm};

/// Tables deeper than this are packed as nil.
const PACK_DEPTH: u32 = 16;
const UNPACK_DEPTH_MAX: u32 = 500;

pub const FUNCTIONS: Library =
    &[("pack", pack), ("unpack", unpack), ("unpack_limit", unpack_limit), ("unpack_one", unpack_one)];

fn pack(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count == 0 {
        return Err(vm.bad_argument(0, "MessagePack pack needs input."));
    }
    let mut built = Vec::new();
    for index in 0..args.count {
        let value = vm.arg(args, index);
        write(vm, value, 0, &mut built)?;
    }
    let value = vm.own_text(built)?;
    vm.give(value)
}

fn write(vm: &mut Vm<'_>, value: Value, depth: u32, built: &mut Vec<u8>) -> Run<()> {
    vm.charge(2)?;
    match value {
        Value::Text(text) => {
            let len = vm.bytes(text).len();
            vm.charge_bytes(len)?;
            vm.will_build(built.len() + len)?;
            match len {
                0..32 => built.push(0xa0 | len as u8),
                32..=0xff => built.extend([0xd9, len as u8]),
                0x100..=0xffff => {
                    built.push(0xda);
                    built.extend((len as u16).to_be_bytes());
                }
                _ => {
                    built.push(0xdb);
                    built.extend((len as u32).to_be_bytes());
                }
            }
            built.extend_from_slice(vm.bytes(text));
        }
        Value::Bool(value) => built.push(if value { 0xc3 } else { 0xc2 }),
        Value::Number(number) => write_number(number, built),
        Value::Table(table) if depth < PACK_DEPTH => {
            if is_array(vm, table)? {
                let len = vm.heap.tables.get(table).len(&vm.heap.texts);
                write_count(len, 0x90, 0xdc, built);
                for index in 1..=len {
                    let value = vm.raw_get(table, Value::Number(index as f64))?;
                    write(vm, value, depth + 1, built)?;
                }
            } else {
                let mut count = 0;
                let mut place = 0;
                while let Some((found, ..)) = vm.heap.tables.get(table).pair_from(place) {
                    place = found + 1;
                    count += 1;
                }
                write_count(count, 0x80, 0xde, built);
                let mut place = 0;
                while let Some((found, key, value)) = vm.heap.tables.get(table).pair_from(place) {
                    place = found + 1;
                    write(vm, key, depth + 1, built)?;
                    write(vm, value, depth + 1, built)?;
                }
            }
        }
        _ => built.push(0xc0),
    }
    vm.will_build(built.len())
}

/// Whether the keys are 1 to some number without a hole.
fn is_array(vm: &mut Vm<'_>, table: u32) -> Run<bool> {
    let object = vm.heap.tables.get(table);
    let places = object.places() as u64;
    let (mut most, mut count) = (0_i64, 0_i64);
    let mut place = 0;
    let mut array = true;
    while let Some((found, key, _)) = object.pair_from(place) {
        place = found + 1;
        match key {
            Value::Number(number) if number > 0.0 && f64::from(number as i32) == number => {
                most = most.max(number as i64);
                count += 1;
            }
            _ => {
                array = false;
                break;
            }
        }
    }
    vm.charge(places / 8)?;
    Ok(array && most == count)
}

fn write_count(count: usize, short: u8, long: u8, built: &mut Vec<u8>) {
    match count {
        0..16 => built.push(short | count as u8),
        16..=0xffff => {
            built.push(long);
            built.extend((count as u16).to_be_bytes());
        }
        _ => {
            built.push(long + 1);
            built.extend((count as u32).to_be_bytes());
        }
    }
}

fn write_number(number: f64, built: &mut Vec<u8>) {
    let whole = number as i64;
    if whole as f64 == number && number.abs() <= 9_223_372_036_854_775_807.0 {
        match whole {
            0..=127 => built.push(whole as u8),
            128..=0xff => built.extend([0xcc, whole as u8]),
            0x100..=0xffff => {
                built.push(0xcd);
                built.extend((whole as u16).to_be_bytes());
            }
            0x1_0000..=0xffff_ffff => {
                built.push(0xce);
                built.extend((whole as u32).to_be_bytes());
            }
            0x1_0000_0000.. => {
                built.push(0xcf);
                built.extend((whole as u64).to_be_bytes());
            }
            -32..0 => built.push(whole as i8 as u8),
            -128..-32 => built.extend([0xd0, whole as i8 as u8]),
            -32768..-128 => {
                built.push(0xd1);
                built.extend((whole as i16).to_be_bytes());
            }
            -0x8000_0000..-32768 => {
                built.push(0xd2);
                built.extend((whole as i32).to_be_bytes());
            }
            _ => {
                built.push(0xd3);
                built.extend(whole.to_be_bytes());
            }
        }
        return;
    }
    let number = canonical(number);
    if f64::from(number as f32) == number {
        built.push(0xca);
        built.extend((number as f32).to_be_bytes());
    } else {
        built.push(0xcb);
        built.extend(number.to_be_bytes());
    }
}

fn unpack(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    unpack_some(vm, args, 0, 0)
}

fn unpack_one(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let offset = vm.integer_or(args, 1, 0)?;
    unpack_some(vm, args, 1, offset)
}

fn unpack_limit(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    let limit = vm.need_integer(args, 1)?;
    let offset = vm.integer_or(args, 2, 0)?;
    unpack_some(vm, args, limit, offset)
}

fn unpack_some(vm: &mut Vm<'_>, args: Args, limit: i64, offset: i64) -> Run<()> {
    let text = vm.need_text(args, 0)?;
    let len = vm.bytes(text).len();
    if offset < 0 || limit < 0 {
        let what = format!("Invalid request to unpack with offset of {} and limit of {}.", offset as i32, len as i32);
        return Err(vm.complain(&what));
    }
    if offset > len as i64 {
        return Err(vm.complain(&format!("Start offset {offset} greater than input length {len}.")));
    }
    let all = limit == 0 && offset == 0;
    let limit = if all { i64::from(i32::MAX) } else { limit };
    let mut reader = Reader { text, at: offset as usize, depth: 0 };
    let mut values = Vec::new();
    while reader.at < len && (values.len() as i64) < limit {
        values.push(reader.value(vm)?);
        vm.will_build(values.len() * 16)?;
    }
    if !all {
        let next = if reader.at == len { -1.0 } else { reader.at as f64 };
        vm.give(Value::Number(next))?;
    }
    vm.ret.extend(values);
    Ok(())
}

struct Reader {
    text: u32,
    at: usize,
    depth: u32,
}

fn missing(vm: &mut Vm<'_>) -> Throw {
    vm.complain("Missing bytes in input.")
}

impl Reader {
    fn bytes<const N: usize>(&mut self, vm: &mut Vm<'_>) -> Run<[u8; N]> {
        let found = vm.bytes(self.text).get(self.at..self.at + N).and_then(|bytes| bytes.try_into().ok());
        match found {
            Some(bytes) => {
                self.at += N;
                Ok(bytes)
            }
            None => Err(missing(vm)),
        }
    }

    fn raw(&mut self, vm: &mut Vm<'_>, len: usize) -> Run<Value> {
        let Some(bytes) = vm.bytes(self.text).get(self.at..self.at.saturating_add(len)) else {
            return Err(missing(vm));
        };
        let bytes = bytes.to_vec();
        self.at += len;
        vm.own_text(bytes)
    }

    fn array(&mut self, vm: &mut Vm<'_>, count: usize) -> Run<Value> {
        self.deeper(vm)?;
        let table = vm.heap.table(0, 0)?;
        for index in 1..=count {
            let value = self.value(vm)?;
            vm.raw_set(table, Value::Number(index as f64), value)?;
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn map(&mut self, vm: &mut Vm<'_>, count: usize) -> Run<Value> {
        self.deeper(vm)?;
        let table = vm.heap.table(0, 0)?;
        for _ in 0..count {
            let key = self.value(vm)?;
            let value = self.value(vm)?;
            vm.raw_set(table, key, value)?;
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn deeper(&mut self, vm: &mut Vm<'_>) -> Run<()> {
        self.depth += 1;
        if self.depth > UNPACK_DEPTH_MAX {
            let what = "stack overflow (too many return values at once; use unpack_one or unpack_limit instead.)";
            return Err(vm.complain(what));
        }
        Ok(())
    }

    fn value(&mut self, vm: &mut Vm<'_>) -> Run<Value> {
        vm.charge(3)?;
        let [kind] = self.bytes::<1>(vm)?;
        let number = match kind {
            0..=0x7f => f64::from(kind),
            0xe0..=0xff => f64::from(kind as i8),
            0x80..=0x8f => return self.map(vm, (kind & 0xf) as usize),
            0x90..=0x9f => return self.array(vm, (kind & 0xf) as usize),
            0xa0..=0xbf => return self.raw(vm, (kind & 0x1f) as usize),
            0xc0 => return Ok(Value::Nil),
            0xc2 => return Ok(Value::Bool(false)),
            0xc3 => return Ok(Value::Bool(true)),
            0xca => canonical(f64::from(f32::from_be_bytes(self.bytes(vm)?))),
            0xcb => canonical(f64::from_be_bytes(self.bytes(vm)?)),
            0xcc => f64::from(u8::from_be_bytes(self.bytes(vm)?)),
            0xcd => f64::from(u16::from_be_bytes(self.bytes(vm)?)),
            0xce => f64::from(u32::from_be_bytes(self.bytes(vm)?)),
            // Redis reads it with a sign, too.
            0xcf | 0xd3 => i64::from_be_bytes(self.bytes(vm)?) as f64,
            0xd0 => f64::from(i8::from_be_bytes(self.bytes(vm)?)),
            0xd1 => f64::from(i16::from_be_bytes(self.bytes(vm)?)),
            0xd2 => f64::from(i32::from_be_bytes(self.bytes(vm)?)),
            0xd9 => {
                let len = u8::from_be_bytes(self.bytes(vm)?) as usize;
                return self.raw(vm, len);
            }
            0xda => {
                let len = u16::from_be_bytes(self.bytes(vm)?) as usize;
                return self.raw(vm, len);
            }
            0xdb => {
                let len = u32::from_be_bytes(self.bytes(vm)?) as usize;
                return self.raw(vm, len);
            }
            0xdc => {
                let count = u16::from_be_bytes(self.bytes(vm)?) as usize;
                return self.array(vm, count);
            }
            0xdd => {
                let count = u32::from_be_bytes(self.bytes(vm)?) as usize;
                return self.array(vm, count);
            }
            0xde => {
                let count = u16::from_be_bytes(self.bytes(vm)?) as usize;
                return self.map(vm, count);
            }
            0xdf => {
                let count = u32::from_be_bytes(self.bytes(vm)?) as usize;
                return self.map(vm, count);
            }
            _ => return Err(vm.complain("Bad data format in input.")),
        };
        Ok(Value::Number(number))
    }
}
