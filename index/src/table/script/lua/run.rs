//! The loop that carries out instructions.

use super::code::{Capture, Op, Rk};
use super::heap::Function;
use super::number;
use super::operate::modulo;
use super::value::Value;
use super::vm::{Event, Mode, Run, Throw, Vm};
use crate::table::script::Budget;

macro_rules! arithmetic {
    ($vm:ident, $base:ident, $save:ident, $rk:ident, $a:ident, $b:ident, $c:ident, $event:expr, $calculate:expr) => {{
        let (x, y) = ($rk!($b), $rk!($c));
        let value = if let (Value::Number(x), Value::Number(y)) = (x, y) {
            let calculate: fn(f64, f64) -> f64 = $calculate;
            Value::Number(calculate(x, y))
        } else {
            $save!();
            $vm.arithmetic($event, x, y)?
        };
        $vm.stack[$base + $a as usize] = value;
    }};
}

impl Vm<'_> {
    /// Runs the innermost frame until it returns to a library function or to who started the run.
    pub fn execute(&mut self) -> Run<()> {
        'frames: loop {
            let index = self.frames.len() - 1;
            let frame = self.frames[index];
            let loaded = self.heap.protos[frame.proto as usize].clone();
            let code = &loaded.proto.code[..];
            let constants = &loaded.constants[..];
            let registers = loaded.proto.registers as usize;
            let base = frame.base as usize;
            let mut at = frame.at as usize;
            self.mode = Mode::Script;
            self.top = base + registers;
            macro_rules! save {
                () => {
                    self.frames[index].at = at as u32
                };
            }
            macro_rules! rk {
                ($rk:expr) => {{
                    let Rk(rk) = $rk;
                    if rk < 256 { self.stack[base + rk as usize] } else { constants[rk as usize - 256] }
                }};
            }
            macro_rules! r {
                ($a:expr) => {
                    self.stack[base + $a as usize]
                };
            }
            loop {
                let op = code[at];
                at += 1;
                self.steps -= 1;
                if self.steps < 0 {
                    return Err(Throw::Over(Budget::Steps));
                }
                match op {
                    Op::Move { a, b } => r!(a) = r!(b),
                    Op::Constant { a, k } => r!(a) = constants[k as usize],
                    Op::Nil { a, count } => {
                        self.stack[base + a as usize..base + a as usize + count as usize].fill(Value::Nil);
                    }
                    Op::Bool { a, value } => r!(a) = Value::Bool(value),
                    Op::GetUp { a, up } => {
                        let value = match self.heap.functions.get(frame.function) {
                            Function::Script { ups, .. } => self.up_value(ups[up as usize]),
                            Function::Native { .. } => Value::Nil,
                        };
                        r!(a) = value;
                    }
                    Op::SetUp { up, b } => {
                        let value = r!(b);
                        if let Function::Script { ups, .. } = self.heap.functions.get(frame.function) {
                            let up = ups[up as usize];
                            self.set_up(up, value);
                        }
                    }
                    Op::GetGlobal { a, k } => {
                        save!();
                        let key = constants[k as usize];
                        let globals = self.heap.tables.get(self.base.globals);
                        let (found, _) = globals.get(&self.heap.texts, key);
                        r!(a) = if matches!(found, Value::Nil) {
                            self.index(Value::Table(self.base.globals), key)?
                        } else {
                            found
                        };
                    }
                    Op::SetGlobal { k, b } => {
                        save!();
                        let value = r!(b);
                        self.set_index(Value::Table(self.base.globals), constants[k as usize], value)?;
                    }
                    Op::Get { a, b, c } => {
                        let (object, key) = (r!(b), rk!(c));
                        if let Value::Table(table) = object {
                            let (found, looks) = self.heap.tables.get(table).get(&self.heap.texts, key);
                            if looks <= 4 && !matches!(found, Value::Nil) {
                                r!(a) = found;
                                continue;
                            }
                        }
                        save!();
                        r!(a) = self.index(object, key)?;
                    }
                    Op::Set { a, b, c } => {
                        save!();
                        let (object, key, value) = (r!(a), rk!(b), rk!(c));
                        self.set_index(object, key, value)?;
                    }
                    Op::NewTable { a, array, hash } => {
                        save!();
                        self.maybe_collect()?;
                        self.charge(3 + (array as u64 + hash as u64) / 8)?;
                        r!(a) = Value::Table(self.heap.table(array as usize, hash as usize)?);
                    }
                    Op::Method { a, b, c } => {
                        save!();
                        let (object, key) = (r!(b), rk!(c));
                        let function = self.index(object, key)?;
                        r!(a) = function;
                        self.stack[base + a as usize + 1] = object;
                    }
                    Op::Add { a, b, c } => arithmetic!(self, base, save, rk, a, b, c, Event::Add, |x, y| x + y),
                    Op::Sub { a, b, c } => arithmetic!(self, base, save, rk, a, b, c, Event::Sub, |x, y| x - y),
                    Op::Mul { a, b, c } => arithmetic!(self, base, save, rk, a, b, c, Event::Mul, |x, y| x * y),
                    Op::Div { a, b, c } => arithmetic!(self, base, save, rk, a, b, c, Event::Div, |x, y| x / y),
                    Op::Mod { a, b, c } => arithmetic!(self, base, save, rk, a, b, c, Event::Mod, modulo),
                    Op::Pow { a, b, c } => arithmetic!(self, base, save, rk, a, b, c, Event::Pow, number::power),
                    Op::Neg { a, b } => {
                        let value = r!(b);
                        r!(a) = if let Value::Number(number) = value {
                            Value::Number(-number)
                        } else {
                            save!();
                            self.arithmetic(Event::Neg, value, value)?
                        };
                    }
                    Op::Not { a, b } => r!(a) = Value::Bool(!r!(b).truth()),
                    Op::Len { a, b } => {
                        save!();
                        let value = r!(b);
                        r!(a) = self.length(value)?;
                    }
                    Op::Concat { a, b, count } => {
                        save!();
                        self.maybe_collect()?;
                        self.charge(3 + u64::from(count))?;
                        r!(a) = self.concat(base + b as usize, count as usize)?;
                    }
                    Op::Jump { to } => at = to as usize,
                    Op::If { a, when, to } => {
                        if r!(a).truth() == when {
                            at = to as usize;
                        }
                    }
                    Op::Eq { when, b, c } => {
                        let (x, y) = (rk!(b), rk!(c));
                        let equal = match (x, y) {
                            (Value::Number(x), Value::Number(y)) => x == y,
                            _ => {
                                save!();
                                self.equal(x, y)?
                            }
                        };
                        at = next_of(code, at, equal == when);
                    }
                    Op::Lt { when, b, c } => {
                        let (x, y) = (rk!(b), rk!(c));
                        let less = match (x, y) {
                            (Value::Number(x), Value::Number(y)) => x < y,
                            _ => {
                                save!();
                                self.less(x, y)?
                            }
                        };
                        at = next_of(code, at, less == when);
                    }
                    Op::Le { when, b, c } => {
                        let (x, y) = (rk!(b), rk!(c));
                        let less = match (x, y) {
                            (Value::Number(x), Value::Number(y)) => x <= y,
                            _ => {
                                save!();
                                self.less_equal(x, y)?
                            }
                        };
                        at = next_of(code, at, less == when);
                    }
                    Op::Call { a, count, want } => {
                        save!();
                        let place = base + a as usize;
                        let count = self.counted(place, count);
                        if self.start(place, count, want)? {
                            continue 'frames;
                        }
                        self.top = base + registers;
                    }
                    Op::TailCall { a, count } => {
                        save!();
                        let place = base + a as usize;
                        let count = self.counted(place, count);
                        let count = self.callable(place, count)?;
                        let script = match self.stack[place] {
                            Value::Function(function) => {
                                matches!(self.heap.functions.get(function), Function::Script { .. })
                            }
                            _ => false,
                        };
                        if !script {
                            // What it returns is returned by the instruction behind.
                            self.start(place, count, 0)?;
                            self.top = base + registers;
                            continue;
                        }
                        self.maybe_collect()?;
                        self.close(base)?;
                        let called = frame.called as usize;
                        self.stack.copy_within(place..=place + count, called);
                        self.frames.pop();
                        if let Value::Function(function) = self.stack[called] {
                            self.enter(function, called, count, frame.want, frame.entry, frame.tails + 1)?;
                        }
                        continue 'frames;
                    }
                    Op::Return { a, count } => {
                        let from = base + a as usize;
                        let count = if count == 0 { self.open_top.saturating_sub(from) } else { count as usize - 1 };
                        self.close(base)?;
                        self.frames.pop();
                        if frame.entry {
                            self.ret.clear();
                            self.ret.extend_from_slice(&self.stack[from..from + count]);
                            return Ok(());
                        }
                        let called = frame.called as usize;
                        if frame.want == 0 {
                            self.stack.copy_within(from..from + count, called);
                            self.open_top = called + count;
                        } else {
                            let want = frame.want as usize - 1;
                            let given = want.min(count);
                            self.stack.copy_within(from..from + given, called);
                            if want > given {
                                self.stack[called + given..called + want].fill(Value::Nil);
                            }
                        }
                        continue 'frames;
                    }
                    Op::ForPrepare { a, to } => {
                        save!();
                        let place = base + a as usize;
                        let mut numbers = [0.0; 3];
                        for (index, what) in ["initial value", "limit", "step"].into_iter().enumerate() {
                            let Some(number) = self.to_number(self.stack[place + index]) else {
                                return Err(self.fault(&format!("'for' {what} must be a number")));
                            };
                            numbers[index] = number;
                        }
                        numbers[0] -= numbers[2];
                        for (index, number) in numbers.into_iter().enumerate() {
                            self.stack[place + index] = Value::Number(number);
                        }
                        at = to as usize;
                    }
                    Op::ForLoop { a, to } => {
                        let place = base + a as usize;
                        if let (Value::Number(number), Value::Number(limit), Value::Number(step)) =
                            (self.stack[place], self.stack[place + 1], self.stack[place + 2])
                        {
                            let number = number + step;
                            if if step > 0.0 { number <= limit } else { limit <= number } {
                                self.stack[place] = Value::Number(number);
                                self.stack[place + 3] = Value::Number(number);
                                at = to as usize;
                            }
                        }
                    }
                    Op::ForIn { a, count } => {
                        save!();
                        let place = base + a as usize;
                        self.stack.copy_within(place..place + 3, place + 3);
                        if self.start(place + 3, 2, u16::from(count) + 1)? {
                            continue 'frames;
                        }
                        self.top = base + registers;
                    }
                    Op::ForTest { a, to } => {
                        let place = base + a as usize;
                        let first = self.stack[place + 3];
                        if !matches!(first, Value::Nil) {
                            self.stack[place + 2] = first;
                            at = to as usize;
                        }
                    }
                    Op::SetList { a, count, first } => {
                        save!();
                        let place = base + a as usize;
                        let count = if count == 0 { self.open_top.saturating_sub(place + 1) } else { count as usize };
                        if let Value::Table(table) = self.stack[place] {
                            self.charge(count as u64 / 4)?;
                            let last = first as usize + count - 1;
                            self.heap.make_array(table, last)?;
                            for index in 0..count {
                                let value = self.stack[place + 1 + index];
                                self.raw_set(table, Value::Number((first as usize + index) as f64), value)?;
                            }
                        }
                    }
                    Op::Close { a } => self.close(base + a as usize)?,
                    Op::Closure { a, kid } => {
                        save!();
                        self.maybe_collect()?;
                        self.charge(3)?;
                        let proto = loaded.kids[kid as usize];
                        let captures = &loaded.proto.kids[kid as usize].captures;
                        let mut ups = Vec::with_capacity(captures.len());
                        for capture in captures {
                            ups.push(match *capture {
                                Capture::Register(register) => self.capture(base + register as usize)?,
                                Capture::Up(up) => match self.heap.functions.get(frame.function) {
                                    Function::Script { ups, .. } => ups[up as usize],
                                    Function::Native { .. } => 0,
                                },
                            });
                        }
                        self.heap.take(ups.len() * 4)?;
                        r!(a) = self.heap.function(Function::Script { proto, ups: ups.into() })?;
                    }
                    Op::Varargs { a, want } => {
                        save!();
                        let place = base + a as usize;
                        let have = frame.varargs as usize;
                        let want = if want == 0 { have } else { want as usize - 1 };
                        self.ensure(place + want)?;
                        let given = have.min(want);
                        self.stack.copy_within(base - have..base - have + given, place);
                        if want > given {
                            self.stack[place + given..place + want].fill(Value::Nil);
                        }
                        self.charge(want as u64 / 8)?;
                        self.open_top = place + want;
                    }
                }
            }
        }
    }

    #[inline]
    fn counted(&self, place: usize, count: u16) -> usize {
        if count == 0 { self.open_top.saturating_sub(place + 1) } else { count as usize - 1 }
    }

    /// Starts a call from a script. True if a frame was added; otherwise the results are in their places.
    #[inline]
    fn start(&mut self, place: usize, count: usize, want: u16) -> Run<bool> {
        self.top = self.top.max(place + 1 + count);
        self.maybe_collect()?;
        self.charge(1)?;
        let mut count = count;
        loop {
            match self.stack[place] {
                Value::Native(native) => {
                    let native = self.base.natives[native as usize];
                    self.native(native, place + 1, count, [Value::Nil; 4])?;
                    break;
                }
                Value::Function(function) => match self.heap.functions.get(function) {
                    Function::Native { native, keeps } => {
                        let (native, keeps) = (*native, *keeps);
                        self.native(native, place + 1, count, keeps)?;
                        break;
                    }
                    Function::Script { .. } => {
                        self.enter(function, place, count, want, false, 0)?;
                        return Ok(true);
                    }
                },
                _ => count = self.callable(place, count)?,
            }
        }
        self.place_results(place, want)?;
        Ok(false)
    }

    /// Puts what was returned where a call wants it.
    pub fn place_results(&mut self, place: usize, want: u16) -> Run<()> {
        let have = self.ret.len();
        if want == 0 {
            self.ensure(place + have + 1)?;
            self.stack[place..place + have].copy_from_slice(&self.ret);
            self.open_top = place + have;
        } else {
            let want = want as usize - 1;
            for index in 0..want {
                self.stack[place + index] = self.ret.get(index).copied().unwrap_or(Value::Nil);
            }
        }
        Ok(())
    }
}

/// Where it goes on behind a comparison at `at - 1`.
#[inline]
fn next_of(code: &[Op], at: usize, taken: bool) -> usize {
    if taken && let Op::Jump { to } = code[at] { to as usize } else { at + 1 }
}
