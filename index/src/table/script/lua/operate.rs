//! Operators: what they do with numbers, texts and tables, and with all else by metamethods.

use super::number;
use super::table::{KeyError, Table};
use super::value::Value;
use super::vm::{Event, Run, Throw, Vm};

/// Objects in a chain of `__index`.
const CHAIN_MAX: usize = 100;

impl Vm<'_> {
    pub fn meta_of(&self, value: Value) -> Option<u32> {
        match value {
            Value::Table(table) => self.heap.tables.get(table).meta,
            Value::Text(_) => Some(self.base.text_meta),
            _ => None,
        }
    }

    pub fn metamethod(&self, value: Value, event: Event) -> Value {
        let Some(meta) = self.meta_of(value) else { return Value::Nil };
        let Some(&key) = self.base.events.get(event as usize) else { return Value::Nil };
        self.heap.tables.get(meta).get(&self.heap.texts, key).0
    }

    /// `value[key]`, metamethods included.
    pub fn index(&mut self, value: Value, key: Value) -> Run<Value> {
        let mut value = value;
        for depth in 0..CHAIN_MAX {
            let handler = if let Value::Table(table) = value {
                let (found, looks) = self.heap.tables.get(table).get(&self.heap.texts, key);
                self.looked(looks)?;
                if found.truth() || !matches!(found, Value::Nil) {
                    return Ok(found);
                }
                let handler = self.metamethod(value, Event::Index);
                if matches!(handler, Value::Nil) {
                    return Ok(Value::Nil);
                }
                handler
            } else {
                let handler = self.metamethod(value, Event::Index);
                if matches!(handler, Value::Nil) {
                    let operand = if depth == 0 { 0 } else { u8::MAX };
                    return Err(self.type_fault(value, operand, "index"));
                }
                handler
            };
            if matches!(handler, Value::Function(_) | Value::Native(_)) {
                return self.call_for_one(handler, &[value, key]);
            }
            value = handler;
        }
        Err(self.fault("loop in gettable"))
    }

    /// `value[key] = new`, metamethods included.
    pub fn set_index(&mut self, value: Value, key: Value, new: Value) -> Run<()> {
        let mut value = value;
        for depth in 0..CHAIN_MAX {
            let handler = if let Value::Table(table) = value {
                let object = self.heap.tables.get(table);
                if object.readonly {
                    return Err(self.fault("Attempt to modify a readonly table"));
                }
                if object.meta.is_none() {
                    return self.raw_set(table, key, new);
                }
                let (found, looks) = object.get(&self.heap.texts, key);
                self.looked(looks)?;
                if !matches!(found, Value::Nil) {
                    return self.raw_set(table, key, new);
                }
                let handler = self.metamethod(value, Event::NewIndex);
                if matches!(handler, Value::Nil) {
                    return self.raw_set(table, key, new);
                }
                handler
            } else {
                let handler = self.metamethod(value, Event::NewIndex);
                if matches!(handler, Value::Nil) {
                    let operand = if depth == 0 { 0 } else { u8::MAX };
                    return Err(self.type_fault(value, operand, "index"));
                }
                handler
            };
            if matches!(handler, Value::Function(_) | Value::Native(_)) {
                return self.call(handler, &[value, key, new]);
            }
            value = handler;
        }
        Err(self.fault("loop in settable"))
    }

    /// Sets without metamethods.
    pub fn raw_set(&mut self, table: u32, key: Value, new: Value) -> Run<()> {
        if self.heap.tables.get(table).readonly {
            return Err(self.fault("Attempt to modify a readonly table"));
        }
        match Table::check(key) {
            Ok(()) => {}
            Err(KeyError::Nil) => return Err(self.fault("table index is nil")),
            Err(KeyError::Nan) => return Err(self.fault("table index is NaN")),
        }
        let cost = self.heap.set(table, key, new)?;
        self.looked(cost)
    }

    pub fn raw_get(&mut self, table: u32, key: Value) -> Run<Value> {
        let (found, looks) = self.heap.tables.get(table).get(&self.heap.texts, key);
        self.looked(looks)?;
        Ok(found)
    }

    /// Sets a field of a table that we have made.
    pub fn set_field(&mut self, table: u32, name: &str, value: Value) -> Run<()> {
        let key = self.heap.text(name.as_bytes())?;
        self.raw_set(table, key, value)
    }

    pub fn field(&mut self, table: u32, name: &str) -> Run<Value> {
        let key = self.heap.text(name.as_bytes())?;
        self.raw_get(table, key)
    }

    #[inline]
    pub fn raw_equal(&self, a: Value, b: Value) -> bool {
        match (a, b) {
            (Value::Text(a), Value::Text(b)) => self.heap.texts.equal(a, b),
            _ => a.is(b),
        }
    }

    pub fn equal(&mut self, a: Value, b: Value) -> Run<bool> {
        match (a, b) {
            (Value::Text(x), Value::Text(y)) if x != y => {
                let (x, y) = (self.bytes(x).len(), self.bytes(y).len());
                if x == y {
                    self.charge_bytes(x)?;
                }
                Ok(self.raw_equal(a, b))
            }
            (Value::Table(x), Value::Table(y)) if x != y => {
                let first = self.metamethod(a, Event::Eq);
                let second = self.metamethod(b, Event::Eq);
                if matches!(first, Value::Nil) || !self.raw_equal(first, second) {
                    return Ok(false);
                }
                Ok(self.call_for_one(first, &[a, b])?.truth())
            }
            _ => Ok(a.is(b)),
        }
    }

    fn compare_fault(&mut self, a: Value, b: Value) -> Throw {
        let (a, b) = (a.kind(), b.kind());
        if a == b {
            self.fault(&format!("attempt to compare two {a} values"))
        } else {
            self.fault(&format!("attempt to compare {a} with {b}"))
        }
    }

    fn compare_by(&mut self, a: Value, b: Value, event: Event) -> Run<Option<bool>> {
        let first = self.metamethod(a, event);
        if matches!(first, Value::Nil) || !self.raw_equal(first, self.metamethod(b, event)) {
            return Ok(None);
        }
        Ok(Some(self.call_for_one(first, &[a, b])?.truth()))
    }

    pub fn less(&mut self, a: Value, b: Value) -> Run<bool> {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => Ok(a < b),
            (Value::Text(x), Value::Text(y)) => {
                self.charge_bytes(self.bytes(x).len().min(self.bytes(y).len()))?;
                Ok(self.bytes(x) < self.bytes(y))
            }
            _ if a.kind() != b.kind() => Err(self.compare_fault(a, b)),
            _ => match self.compare_by(a, b, Event::Lt)? {
                Some(less) => Ok(less),
                None => Err(self.compare_fault(a, b)),
            },
        }
    }

    pub fn less_equal(&mut self, a: Value, b: Value) -> Run<bool> {
        match (a, b) {
            (Value::Number(a), Value::Number(b)) => Ok(a <= b),
            (Value::Text(x), Value::Text(y)) => {
                self.charge_bytes(self.bytes(x).len().min(self.bytes(y).len()))?;
                Ok(self.bytes(x) <= self.bytes(y))
            }
            _ if a.kind() != b.kind() => Err(self.compare_fault(a, b)),
            _ => {
                if let Some(less) = self.compare_by(a, b, Event::Le)? {
                    return Ok(less);
                }
                match self.compare_by(b, a, Event::Lt)? {
                    Some(greater) => Ok(!greater),
                    None => Err(self.compare_fault(a, b)),
                }
            }
        }
    }

    /// Arithmetic on what are not two numbers.
    #[cold]
    pub fn arithmetic(&mut self, event: Event, a: Value, b: Value) -> Run<Value> {
        for value in [a, b] {
            if let Value::Text(text) = value {
                self.charge_bytes(self.bytes(text).len())?;
            }
        }
        if let (Some(x), Some(y)) = (self.to_number(a), self.to_number(b)) {
            let number = match event {
                Event::Add => x + y,
                Event::Sub => x - y,
                Event::Mul => x * y,
                Event::Div => x / y,
                Event::Mod => modulo(x, y),
                Event::Pow => number::power(x, y),
                _ => -x,
            };
            return Ok(Value::Number(number));
        }
        let mut handler = self.metamethod(a, event);
        if matches!(handler, Value::Nil) {
            handler = self.metamethod(b, event);
        }
        if matches!(handler, Value::Nil) {
            return Err(match self.to_number(a) {
                None => self.type_fault(a, 0, "perform arithmetic on"),
                Some(_) => self.type_fault(b, 1, "perform arithmetic on"),
            });
        }
        self.call_for_one(handler, &[a, b])
    }

    pub fn length(&mut self, value: Value) -> Run<Value> {
        match value {
            Value::Text(text) => Ok(Value::Number(self.bytes(text).len() as f64)),
            Value::Table(table) => Ok(Value::Number(self.heap.tables.get(table).len(&self.heap.texts) as f64)),
            _ => match self.metamethod(value, Event::Len) {
                Value::Nil => Err(self.type_fault(value, 0, "get length of")),
                handler => self.call_for_one(handler, &[value]),
            },
        }
    }

    /// Concatenates `count` registers from `from` on, from the right, as the language has it.
    pub fn concat(&mut self, from: usize, count: usize) -> Run<Value> {
        let fits = |value: Value| matches!(value, Value::Text(_) | Value::Number(_));
        let mut end = from + count;
        let mut right = self.stack[end - 1];
        while end - from > 1 {
            let left = self.stack[end - 2];
            if fits(left) && fits(right) {
                let mut first = end - 2;
                while first > from && fits(self.stack[first - 1]) {
                    first -= 1;
                }
                let mut bytes = Vec::new();
                for index in first..end {
                    let part = if index == end - 1 { right } else { self.stack[index] };
                    let size = match part {
                        Value::Text(text) => self.bytes(text).len(),
                        _ => 0,
                    };
                    self.will_build(bytes.len() + size)?;
                    if let Some(part) = self.as_bytes(part) {
                        bytes.extend_from_slice(&part);
                    }
                }
                right = self.own_text(bytes)?;
                end = first + 1;
            } else {
                let mut handler = self.metamethod(left, Event::Concat);
                if matches!(handler, Value::Nil) {
                    handler = self.metamethod(right, Event::Concat);
                }
                if matches!(handler, Value::Nil) {
                    let (value, at) = if fits(left) { (right, end - 1) } else { (left, end - 2) };
                    return Err(self.type_fault(value, (at - from).min(254) as u8, "concatenate"));
                }
                right = self.call_for_one(handler, &[left, right])?;
                end -= 1;
            }
            // Where it would be found, should anything be collected.
            self.stack[end - 1] = right;
        }
        Ok(right)
    }
}

/// The remainder that has the sign of the divisor.
#[inline]
pub fn modulo(a: f64, b: f64) -> f64 {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let (x, y) = (a as i64, b as i64);
    if x as f64 == a && y as f64 == b && y != 0 && a.abs() < EXACT && b.abs() < EXACT {
        let rest = x % y;
        return if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest } as f64;
    }
    a - (a / b).floor() * b
}
