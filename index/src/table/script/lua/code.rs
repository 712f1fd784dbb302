//! What a script is compiled to: instructions of a machine with registers.

use std::sync::Arc;

/// A register below 256, and a constant from there on.
#[derive(Clone, Copy, Debug)]
pub struct Rk(pub u16);

/// Constants that fit into an [`Rk`].
pub const RK_CONSTANTS_MAX: u32 = 65_000;

/// One instruction: `a` is the register of the result where there is one, `to` an index of the code.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Move {
        a: u8,
        b: u8,
    },
    Constant {
        a: u8,
        k: u32,
    },
    Nil {
        a: u8,
        count: u8,
    },
    Bool {
        a: u8,
        value: bool,
    },
    GetUp {
        a: u8,
        up: u8,
    },
    SetUp {
        up: u8,
        b: u8,
    },
    GetGlobal {
        a: u8,
        k: u32,
    },
    SetGlobal {
        k: u32,
        b: u8,
    },
    Get {
        a: u8,
        b: u8,
        c: Rk,
    },
    /// `a[b] = c`
    Set {
        a: u8,
        b: Rk,
        c: Rk,
    },
    NewTable {
        a: u8,
        array: u16,
        hash: u16,
    },
    /// `a+1 = b; a = b[c]`
    Method {
        a: u8,
        b: u8,
        c: Rk,
    },
    Add {
        a: u8,
        b: Rk,
        c: Rk,
    },
    Sub {
        a: u8,
        b: Rk,
        c: Rk,
    },
    Mul {
        a: u8,
        b: Rk,
        c: Rk,
    },
    Div {
        a: u8,
        b: Rk,
        c: Rk,
    },
    Mod {
        a: u8,
        b: Rk,
        c: Rk,
    },
    Pow {
        a: u8,
        b: Rk,
        c: Rk,
    },
    Neg {
        a: u8,
        b: u8,
    },
    Not {
        a: u8,
        b: u8,
    },
    Len {
        a: u8,
        b: u8,
    },
    /// Of the `count` registers from `b` on.
    Concat {
        a: u8,
        b: u8,
        count: u8,
    },
    Jump {
        to: u32,
    },
    /// Jumps where the truth of `a` is `when`.
    If {
        a: u8,
        when: bool,
        to: u32,
    },
    /// The jump that follows is taken if the comparison comes out as `when`.
    Eq {
        when: bool,
        b: Rk,
        c: Rk,
    },
    Lt {
        when: bool,
        b: Rk,
        c: Rk,
    },
    Le {
        when: bool,
        b: Rk,
        c: Rk,
    },
    /// `count` and `want` are one more than the number of arguments and results; 0 is as many as there are.
    Call {
        a: u8,
        count: u16,
        want: u16,
    },
    TailCall {
        a: u8,
        count: u16,
    },
    Return {
        a: u8,
        count: u16,
    },
    ForPrepare {
        a: u8,
        to: u32,
    },
    ForLoop {
        a: u8,
        to: u32,
    },
    /// Calls the iterator in `a`; its results go behind the three hidden variables.
    ForIn {
        a: u8,
        count: u8,
    },
    /// Goes on at `to` while the first of them is not nil.
    ForTest {
        a: u8,
        to: u32,
    },
    /// Registers after `a` become the elements from `first` on; a `count` of 0 is as many as there are.
    SetList {
        a: u8,
        count: u8,
        first: u32,
    },
    /// Variables from `a` on that functions have captured get a life of their own.
    Close {
        a: u8,
    },
    Closure {
        a: u8,
        kid: u16,
    },
    /// `want` is one more than the number.
    Varargs {
        a: u8,
        want: u16,
    },
}

/// A value that stands in the source.
#[derive(Clone, Debug)]
pub enum Constant {
    Nil,
    Bool(bool),
    Number(f64),
    Text(Box<[u8]>),
}

/// What a new function captures.
#[derive(Clone, Copy, Debug)]
pub enum Capture {
    /// A register of the function around it.
    Register(u8),
    /// What that function captured itself.
    Up(u8),
}

/// How the source calls the value that an instruction works on, for messages.
#[derive(Clone, Debug)]
pub struct Named {
    pub at: u32,
    /// 0 is the first operand, or what is called; 1 the second.
    pub operand: u8,
    pub kind: &'static str,
    pub name: Box<[u8]>,
}

/// One function of a script.
#[derive(Debug, Default)]
pub struct Proto {
    pub code: Vec<Op>,
    /// Of each instruction.
    pub lines: Vec<u32>,
    pub constants: Vec<Constant>,
    pub kids: Vec<Arc<Proto>>,
    pub captures: Vec<Capture>,
    /// Sorted by place.
    pub names: Vec<Named>,
    pub parameters: u8,
    pub varargs: bool,
    /// The extra arguments are wanted in a table called `arg`, as before 5.1.
    pub old_varargs: bool,
    pub registers: u16,
    /// For positions in messages.
    pub chunk: Arc<str>,
}

impl Proto {
    /// How the source calls an operand of the instruction.
    pub fn named(&self, at: usize, operand: u8) -> Option<&Named> {
        let key = (at as u32, operand);
        let found = self.names.binary_search_by_key(&key, |named| (named.at, named.operand)).ok()?;
        self.names.get(found)
    }

    /// What it takes in memory, about, with the functions in it.
    pub fn bytes(&self) -> usize {
        let text = |constant: &Constant| match constant {
            Constant::Nil | Constant::Bool(_) | Constant::Number(_) => 16,
            Constant::Text(text) => 32 + text.len(),
        };
        self.code.len() * 12
            + self.constants.iter().map(text).sum::<usize>()
            + self.names.iter().map(|named| 48 + named.name.len()).sum::<usize>()
            + self.kids.iter().map(|kid| kid.bytes()).sum::<usize>()
            + 200
    }
}
