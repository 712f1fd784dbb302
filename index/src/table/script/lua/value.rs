//! Values: what a register holds, sixteen bytes that are copied freely.

/// A value of a script. Objects are named by their number in the heap of the run.
#[derive(Clone, Copy, Debug, Default)]
pub enum Value {
    #[default]
    Nil,
    Bool(bool),
    Number(f64),
    Text(u32),
    Table(u32),
    /// A function of the script, or one of ours with values that it keeps.
    Function(u32),
    /// One of ours, by its place in the list of all.
    Native(u16),
    Thread(u32),
    /// What stands for `null` in JSON.
    Null,
}

impl Value {
    /// Everything but nil and false.
    #[inline]
    pub fn truth(self) -> bool {
        !matches!(self, Value::Nil | Value::Bool(false))
    }

    /// Equal without a look at texts.
    #[inline]
    pub fn is(self, other: Value) -> bool {
        match (self, other) {
            (Value::Nil, Value::Nil) | (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Text(a), Value::Text(b))
            | (Value::Table(a), Value::Table(b))
            | (Value::Function(a), Value::Function(b))
            | (Value::Thread(a), Value::Thread(b)) => a == b,
            (Value::Native(a), Value::Native(b)) => a == b,
            _ => false,
        }
    }

    /// As `type` calls it.
    pub fn kind(self) -> &'static str {
        match self {
            Value::Nil => "nil",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::Text(_) => "string",
            Value::Table(_) => "table",
            Value::Function(_) | Value::Native(_) => "function",
            Value::Thread(_) => "thread",
            Value::Null => "userdata",
        }
    }
}
