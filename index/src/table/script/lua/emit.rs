//! Expressions into instructions.
//!
//! An expression is a small tree whose nodes lie in one list and name each other by number, so that neither a long chain of
//! operators nor its end costs a level of the program's own stack. Chains that lean to the left are walked in a loop.

use super::code::{Capture, Constant, Named, Op, Proto, RK_CONSTANTS_MAX, Rk};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

const REGISTERS_MAX: usize = 240;

/// A node of the tree.
pub type Node = u32;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Concat,
    Equal,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    And,
    Or,
}

impl Binary {
    fn compares(self) -> bool {
        use Binary::{Equal, Greater, GreaterEqual, Less, LessEqual, Unequal};
        matches!(self, Equal | Unequal | Less | LessEqual | Greater | GreaterEqual)
    }

    fn calculates(self) -> bool {
        !self.compares() && !matches!(self, Binary::And | Binary::Or | Binary::Concat)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    Neg,
    Not,
    Len,
}

#[derive(Clone, Debug)]
pub enum Expr {
    Nil,
    Bool(bool),
    Number(f64),
    Text(Rc<[u8]>),
    Varargs,
    Function(u16),
    Local(u8),
    Up(u8),
    Global(Rc<[u8]>),
    Index(Node, Node),
    Call(Node, Rc<[Node]>),
    Method(Node, Rc<[u8]>, Rc<[Node]>),
    Binary(Binary, Node, Node),
    Unary(Unary, Node),
    Paren(Node),
    /// With key or in order.
    Table(Rc<[(Option<Node>, Node)]>),
}

pub struct Block {
    pub is_loop: bool,
    /// How many variables there were when it began.
    pub first: usize,
    pub captured: bool,
    pub breaks: Vec<usize>,
}

/// A function being compiled.
#[derive(Default)]
pub struct Func {
    pub proto: Proto,
    pub actives: Vec<(Rc<[u8]>, u8)>,
    pub ups: Vec<Rc<[u8]>>,
    pub blocks: Vec<Block>,
    pub free: u8,
    pub known: BTreeMap<Vec<u8>, u32>,
}

/// Where the results of a call go.
#[derive(Clone, Copy, PartialEq)]
pub enum Want {
    Into(u8),
    Count(u8),
    Open,
    Tail,
}

/// Why an expression cannot be compiled.
pub type Complaint = &'static str;
type Done<T> = Result<T, Complaint>;

/// The tree of the expressions, and the functions around the place that is being compiled, the innermost last.
pub struct Emitter {
    pub nodes: Vec<(Expr, u32)>,
    pub funcs: Vec<Func>,
    /// Of the word that was read last.
    pub line: u32,
}

impl Emitter {
    pub fn node(&mut self, expr: Expr) -> Node {
        self.nodes.push((expr, self.line));
        self.nodes.len() as Node - 1
    }

    pub fn expr(&self, node: Node) -> &Expr {
        &self.nodes[node as usize].0
    }

    pub fn f(&mut self) -> &mut Func {
        self.funcs.last_mut().expect("something is being compiled")
    }

    pub fn emit(&mut self, op: Op) -> usize {
        let line = self.line;
        let proto = &mut self.f().proto;
        proto.code.push(op);
        proto.lines.push(line);
        proto.code.len() - 1
    }

    fn emit_at(&mut self, op: Op, node: Node) -> usize {
        let at = self.emit(op);
        let line = self.nodes[node as usize].1;
        self.f().proto.lines[at] = line;
        at
    }

    pub fn here(&mut self) -> usize {
        self.f().proto.code.len()
    }

    pub fn patch(&mut self, jumps: &[usize], target: usize) {
        for &jump in jumps {
            if let Op::Jump { to } | Op::If { to, .. } | Op::ForPrepare { to, .. } = &mut self.f().proto.code[jump] {
                *to = target as u32;
            }
        }
    }

    pub fn patch_here(&mut self, jumps: &[usize]) {
        let here = self.here();
        self.patch(jumps, here);
    }

    pub fn reserve(&mut self, count: usize) -> Done<u8> {
        let f = self.f();
        let first = f.free;
        let free = first as usize + count;
        if free > REGISTERS_MAX {
            return Err("function or expression too complex");
        }
        f.free = free as u8;
        f.proto.registers = f.proto.registers.max(free as u16 + 4);
        Ok(first)
    }

    pub fn constant(&mut self, constant: Constant) -> u32 {
        let key = match &constant {
            Constant::Nil => vec![0],
            Constant::Bool(value) => vec![1, u8::from(*value)],
            Constant::Number(number) => {
                let mut key = vec![2];
                key.extend(number.to_bits().to_le_bytes());
                key
            }
            Constant::Text(text) => {
                let mut key = vec![3];
                key.extend(text);
                key
            }
        };
        let f = self.f();
        if let Some(&k) = f.known.get(&key) {
            return k;
        }
        let k = f.proto.constants.len() as u32;
        f.proto.constants.push(constant);
        f.known.insert(key, k);
        k
    }

    pub fn text(&mut self, text: &[u8]) -> u32 {
        self.constant(Constant::Text(text.into()))
    }

    /// How the source calls a value.
    fn describe(&mut self, node: Node) -> Option<(&'static str, Box<[u8]>)> {
        match self.expr(node).clone() {
            Expr::Local(register) => {
                let found = self.f().actives.iter().rev().find(|active| active.1 == register)?;
                Some(("local", found.0[..].into()))
            }
            Expr::Up(up) => Some(("upvalue", self.f().ups.get(up as usize)?[..].into())),
            Expr::Global(name) => Some(("global", name[..].into())),
            Expr::Index(_, key) => match self.expr(key) {
                Expr::Text(name) => Some(("field", name[..].into())),
                _ => Some(("field", b"?"[..].into())),
            },
            Expr::Method(_, name, _) => Some(("method", name[..].into())),
            Expr::Paren(inner) => match self.expr(inner) {
                Expr::Local(_) | Expr::Up(_) | Expr::Global(_) | Expr::Index(..) | Expr::Paren(_) => {
                    self.describe(inner)
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub fn name(&mut self, at: usize, operand: u8, node: Node) {
        if let Some((kind, name)) = self.describe(node) {
            self.f().proto.names.push(Named { at: at as u32, operand, kind, name });
        }
    }

    /// Whether it may have any number of results.
    pub fn is_open(&self, node: Node) -> bool {
        matches!(self.expr(node), Expr::Call(..) | Expr::Method(..) | Expr::Varargs)
    }

    fn literal(&self, node: Node) -> Option<Constant> {
        match self.expr(node) {
            Expr::Nil => Some(Constant::Nil),
            Expr::Bool(value) => Some(Constant::Bool(*value)),
            Expr::Number(number) => Some(Constant::Number(*number)),
            Expr::Text(text) => Some(Constant::Text(text[..].into())),
            _ => None,
        }
    }

    /// The value in a new register.
    pub fn put_next(&mut self, node: Node) -> Done<u8> {
        if matches!(self.expr(node), Expr::Call(..) | Expr::Method(..)) {
            let first = self.chain(node, Want::Count(1))?;
            self.f().free = first;
            return self.reserve(1);
        }
        let register = self.reserve(1)?;
        self.put(node, register)?;
        Ok(register)
    }

    /// The value in some register: a variable's own, or a new one.
    pub fn put_any(&mut self, node: Node) -> Done<u8> {
        match self.expr(node) {
            Expr::Local(register) => Ok(*register),
            Expr::Paren(inner) if matches!(self.expr(*inner), Expr::Local(_)) => self.put_any(*inner),
            _ => self.put_next(node),
        }
    }

    pub fn put_rk(&mut self, node: Node) -> Done<Rk> {
        if let Some(constant) = self.literal(node) {
            let k = self.constant(constant);
            if k < RK_CONSTANTS_MAX {
                return Ok(Rk(256 + k as u16));
            }
        }
        Ok(Rk(u16::from(self.put_any(node)?)))
    }

    /// Whether the register of the result is written before everything has been read.
    pub fn writes_early(&self, node: Node) -> bool {
        match self.expr(node) {
            Expr::Binary(Binary::And | Binary::Or, ..) | Expr::Table(_) => true,
            Expr::Paren(inner) => self.writes_early(*inner),
            _ => false,
        }
    }

    /// The value in this register. Registers above it that were free are free again.
    pub fn put(&mut self, node: Node, a: u8) -> Done<()> {
        let mark = self.f().free;
        match self.expr(node).clone() {
            Expr::Nil => {
                self.emit(Op::Nil { a, count: 1 });
            }
            Expr::Bool(value) => {
                self.emit(Op::Bool { a, value });
            }
            Expr::Number(number) => {
                let k = self.constant(Constant::Number(number));
                self.emit(Op::Constant { a, k });
            }
            Expr::Text(text) => {
                let k = self.text(&text);
                self.emit(Op::Constant { a, k });
            }
            Expr::Varargs => {
                self.emit(Op::Varargs { a, want: 2 });
            }
            Expr::Function(kid) => {
                self.emit(Op::Closure { a, kid });
            }
            Expr::Local(b) if a == b => {}
            Expr::Local(b) => {
                self.emit(Op::Move { a, b });
            }
            Expr::Up(up) => {
                self.emit(Op::GetUp { a, up });
            }
            Expr::Global(name) => {
                let k = self.text(&name);
                self.emit_at(Op::GetGlobal { a, k }, node);
            }
            Expr::Index(..) | Expr::Call(..) | Expr::Method(..) => {
                self.chain(node, Want::Into(a))?;
            }
            Expr::Paren(inner) => self.put(inner, a)?,
            Expr::Unary(op, inner) => {
                let b = self.put_any(inner)?;
                let at = match op {
                    Unary::Neg => self.emit_at(Op::Neg { a, b }, node),
                    Unary::Not => self.emit_at(Op::Not { a, b }, node),
                    Unary::Len => self.emit_at(Op::Len { a, b }, node),
                };
                self.name(at, 0, inner);
            }
            Expr::Binary(Binary::Concat, ..) => self.concat(node, a)?,
            Expr::Binary(Binary::And | Binary::Or, ..) => self.either(node, a)?,
            Expr::Binary(op, ..) if op.compares() => {
                let yes = self.jump(node, true)?;
                self.emit(Op::Bool { a, value: false });
                let over = self.emit(Op::Jump { to: 0 });
                self.patch_here(&yes);
                self.emit(Op::Bool { a, value: true });
                self.patch_here(&[over]);
            }
            Expr::Binary(..) => self.calculate(node, a)?,
            Expr::Table(items) => self.table(&items, a)?,
        }
        self.f().free = mark;
        Ok(())
    }

    fn calculate(&mut self, node: Node, a: u8) -> Done<()> {
        let mark = self.f().free;
        let mut links = Vec::new();
        let mut first = node;
        while let Expr::Binary(op, left, right) = *self.expr(first)
            && op.calculates()
        {
            links.push((op, left, right, first));
            first = left;
        }
        let mut b = self.put_rk(first)?;
        for (index, (op, left, right, at)) in links.into_iter().enumerate().rev() {
            let c = self.put_rk(right)?;
            let last = index == 0;
            self.f().free = mark;
            let a = if last { a } else { self.reserve(1)? };
            let op = match op {
                Binary::Add => Op::Add { a, b, c },
                Binary::Sub => Op::Sub { a, b, c },
                Binary::Mul => Op::Mul { a, b, c },
                Binary::Div => Op::Div { a, b, c },
                Binary::Mod => Op::Mod { a, b, c },
                _ => Op::Pow { a, b, c },
            };
            let at = self.emit_at(op, at);
            self.name(at, 0, left);
            self.name(at, 1, right);
            b = Rk(u16::from(a));
        }
        Ok(())
    }

    fn concat(&mut self, node: Node, a: u8) -> Done<()> {
        let mut parts = Vec::new();
        let mut rest = node;
        while let Expr::Binary(Binary::Concat, left, right) = *self.expr(rest) {
            parts.push(left);
            rest = right;
        }
        parts.push(rest);
        let b = self.f().free;
        for &part in &parts {
            self.put_next(part)?;
        }
        let at = self.emit_at(Op::Concat { a, b, count: parts.len() as u8 }, node);
        for (index, &part) in parts.iter().enumerate() {
            self.name(at, index as u8, part);
        }
        Ok(())
    }

    fn either(&mut self, node: Node, a: u8) -> Done<()> {
        let mut links = Vec::new();
        let mut first = node;
        while let Expr::Binary(op @ (Binary::And | Binary::Or), left, right) = *self.expr(first) {
            links.push((op, right));
            first = left;
        }
        self.put(first, a)?;
        for (op, right) in links.into_iter().rev() {
            let skip = self.emit(Op::If { a, when: op == Binary::Or, to: 0 });
            self.put(right, a)?;
            self.patch_here(&[skip]);
        }
        Ok(())
    }

    fn table(&mut self, items: &[(Option<Node>, Node)], a: u8) -> Done<()> {
        /// As many as are collected before they move into the table.
        const BATCH: usize = 50;
        let open = items.last().is_some_and(|(key, value)| key.is_none() && self.is_open(*value));
        let array = items.iter().filter(|(key, _)| key.is_none()).count() - usize::from(open);
        let hash = items.iter().filter(|(key, _)| key.is_some()).count();
        // The elements are collected right after the table.
        let table = if a + 1 == self.f().free { a } else { self.reserve(1)? };
        self.emit(Op::NewTable { a: table, array: rounded(array), hash: rounded(hash) });
        let mut waiting = 0_usize;
        let mut stored = 0_u32;
        for (index, &(key, value)) in items.iter().enumerate() {
            let last = index + 1 == items.len();
            if let Some(key) = key {
                let mark = self.f().free;
                let b = self.put_rk(key)?;
                let c = self.put_rk(value)?;
                self.emit_at(Op::Set { a: table, b, c }, value);
                self.f().free = mark;
            } else if last && open {
                self.open(value)?;
                self.emit(Op::SetList { a: table, count: 0, first: stored + 1 });
                waiting = 0;
            } else {
                self.put_next(value)?;
                waiting += 1;
                if waiting == BATCH {
                    self.emit(Op::SetList { a: table, count: waiting as u8, first: stored + 1 });
                    stored += waiting as u32;
                    waiting = 0;
                    self.f().free = table + 1;
                }
            }
        }
        if waiting > 0 {
            self.emit(Op::SetList { a: table, count: waiting as u8, first: stored + 1 });
        }
        if table != a {
            self.emit(Op::Move { a, b: table });
        }
        Ok(())
    }

    /// All results of a call or of `...`, from the first free register on.
    pub fn open(&mut self, node: Node) -> Done<u8> {
        if let Expr::Varargs = self.expr(node) {
            let a = self.f().free;
            self.reserve(1)?;
            self.f().free = a;
            self.emit(Op::Varargs { a, want: 0 });
            return Ok(a);
        }
        self.chain(node, Want::Open)
    }

    /// Exactly `count` results of a call or of `...`, in new registers.
    pub fn exactly(&mut self, node: Node, count: u8) -> Done<()> {
        if let Expr::Varargs = self.expr(node) {
            let a = self.reserve(count as usize)?;
            self.emit(Op::Varargs { a, want: u16::from(count) + 1 });
            return Ok(());
        }
        let first = self.chain(node, Want::Count(count))?;
        self.f().free = first;
        self.reserve(count as usize)?;
        Ok(())
    }

    /// A chain of indexing and calls, such as `a.b(c):d()`.
    pub fn chain(&mut self, node: Node, want: Want) -> Done<u8> {
        let mark = self.f().free;
        let mut links = Vec::new();
        let mut object = node;
        while let Expr::Index(inner, _) | Expr::Call(inner, _) | Expr::Method(inner, ..) = self.expr(object) {
            links.push(object);
            object = *inner;
        }
        let mut current = self.put_any(object)?;
        for (index, link) in links.into_iter().enumerate().rev() {
            let last = index == 0;
            match self.expr(link).clone() {
                Expr::Index(inner, key) => {
                    let c = self.put_rk(key)?;
                    self.f().free = mark;
                    let a = match want {
                        Want::Into(a) if last => a,
                        _ => self.reserve(1)?,
                    };
                    let at = self.emit_at(Op::Get { a, b: current, c }, link);
                    self.name(at, 0, inner);
                    current = a;
                }
                Expr::Call(_, arguments) => {
                    if current != mark || self.f().free != mark + 1 {
                        self.f().free = mark;
                        let a = self.reserve(1)?;
                        self.emit(Op::Move { a, b: current });
                    }
                    current = self.call(link, mark, 0, &arguments, last, want)?;
                }
                Expr::Method(inner, name, arguments) => {
                    let k = self.text(&name);
                    let c = if k < RK_CONSTANTS_MAX {
                        Rk(256 + k as u16)
                    } else {
                        let a = self.reserve(3)?;
                        self.emit(Op::Constant { a: a + 2, k });
                        Rk(u16::from(a + 2))
                    };
                    self.f().free = mark;
                    let a = self.reserve(2)?;
                    let at = self.emit_at(Op::Method { a, b: current, c }, link);
                    self.name(at, 0, inner);
                    current = self.call(link, mark, 1, &arguments, last, want)?;
                }
                _ => {}
            }
        }
        Ok(current)
    }

    /// A call of what is in `a`; `given` arguments are there already.
    fn call(&mut self, node: Node, a: u8, given: u16, arguments: &[Node], last: bool, want: Want) -> Done<u8> {
        let mut count = given + 1 + arguments.len() as u16;
        for (index, &argument) in arguments.iter().enumerate() {
            if index + 1 == arguments.len() && self.is_open(argument) {
                self.open(argument)?;
                count = 0;
            } else {
                self.put_next(argument)?;
            }
        }
        let want_here = if last { want } else { Want::Count(1) };
        let op = match want_here {
            Want::Tail => Op::TailCall { a, count },
            Want::Open => Op::Call { a, count, want: 0 },
            Want::Into(_) => Op::Call { a, count, want: 2 },
            Want::Count(results) => Op::Call { a, count, want: u16::from(results) + 1 },
        };
        let at = self.emit_at(op, node);
        let called = match self.expr(node) {
            Expr::Call(called, _) => *called,
            _ => node,
        };
        self.name(at, 0, called);
        self.f().free = a;
        if !last {
            self.reserve(1)?;
        } else if let Want::Into(into) = want {
            self.reserve(1)?;
            self.f().free = a;
            if into != a {
                self.emit(Op::Move { a: into, b: a });
            }
        } else if let Want::Count(results) = want {
            self.reserve(results as usize)?;
            self.f().free = a;
        }
        Ok(a)
    }

    /// Jumps that are taken where the truth of the expression is `when`; otherwise it goes on behind them.
    pub fn jump(&mut self, node: Node, when: bool) -> Done<Vec<usize>> {
        let mark = self.f().free;
        let jumps = match self.expr(node).clone() {
            Expr::Paren(inner) => self.jump(inner, when)?,
            Expr::Unary(Unary::Not, inner) => self.jump(inner, !when)?,
            Expr::Nil | Expr::Bool(false) if when => Vec::new(),
            Expr::Nil | Expr::Bool(false) => vec![self.emit(Op::Jump { to: 0 })],
            Expr::Bool(true) | Expr::Number(_) | Expr::Text(_) if when => vec![self.emit(Op::Jump { to: 0 })],
            Expr::Bool(true) | Expr::Number(_) | Expr::Text(_) => Vec::new(),
            Expr::Binary(op @ (Binary::And | Binary::Or), ..) => {
                let mut parts = Vec::new();
                let mut first = node;
                while let Expr::Binary(same, left, right) = *self.expr(first)
                    && same == op
                {
                    parts.push(right);
                    first = left;
                }
                parts.push(first);
                parts.reverse();
                // What one part alone decides.
                let decides = op == Binary::Or;
                let mut taken = Vec::new();
                let mut skipped = Vec::new();
                for (index, &part) in parts.iter().enumerate() {
                    if when == decides || index + 1 == parts.len() {
                        taken.extend(self.jump(part, when)?);
                    } else {
                        skipped.extend(self.jump(part, decides)?);
                    }
                }
                self.patch_here(&skipped);
                taken
            }
            Expr::Binary(op, left, right) if op.compares() => {
                let l = self.put_rk(left)?;
                let r = self.put_rk(right)?;
                let op = match op {
                    Binary::Equal => Op::Eq { when, b: l, c: r },
                    Binary::Unequal => Op::Eq { when: !when, b: l, c: r },
                    Binary::Less => Op::Lt { when, b: l, c: r },
                    Binary::LessEqual => Op::Le { when, b: l, c: r },
                    Binary::Greater => Op::Lt { when, b: r, c: l },
                    _ => Op::Le { when, b: r, c: l },
                };
                self.emit_at(op, node);
                vec![self.emit(Op::Jump { to: 0 })]
            }
            _ => {
                let a = self.put_any(node)?;
                vec![self.emit(Op::If { a, when, to: 0 })]
            }
        };
        self.f().free = mark;
        Ok(jumps)
    }

    /// What a name means in the function at this level.
    pub fn resolve(&mut self, level: usize, name: &[u8]) -> Done<Expr> {
        let f = &self.funcs[level];
        if let Some(active) = f.actives.iter().rev().find(|active| &active.0[..] == name) {
            return Ok(Expr::Local(active.1));
        }
        if let Some(up) = f.ups.iter().position(|up| &up[..] == name) {
            return Ok(Expr::Up(up as u8));
        }
        if level == 0 {
            return Ok(Expr::Global(name.into()));
        }
        let capture = match self.resolve(level - 1, name)? {
            Expr::Local(register) => {
                let outer = &mut self.funcs[level - 1];
                let index = outer.actives.iter().rposition(|active| &active.0[..] == name).unwrap_or(0);
                if let Some(block) = outer.blocks.iter_mut().rev().find(|block| block.first <= index) {
                    block.captured = true;
                }
                Capture::Register(register)
            }
            Expr::Up(up) => Capture::Up(up),
            global => return Ok(global),
        };
        let f = &mut self.funcs[level];
        if f.ups.len() >= 60 {
            return Err("function has more than 60 upvalues");
        }
        f.ups.push(name.into());
        f.proto.captures.push(capture);
        Ok(Expr::Up(f.ups.len() as u8 - 1))
    }

    pub fn finish(&mut self) -> Arc<Proto> {
        let f = self.funcs.pop().expect("something is being compiled");
        Arc::new(f.proto)
    }
}

/// Sizes of tables are rounded up where they are large, as they are in the instructions of Lua itself: the order in which a
/// table is walked depends on it.
fn rounded(size: usize) -> u16 {
    let mut mantissa = size;
    let mut exponent = 0;
    while mantissa >= 16 {
        mantissa = mantissa.div_ceil(2);
        exponent += 1;
    }
    u16::try_from(mantissa << exponent).unwrap_or(u16::MAX)
}
