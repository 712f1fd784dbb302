//! Source into functions: reads statements and has [`Emitter`] write what they do.

use super::code::{Constant, Op, Proto, Rk};
use super::emit::{Block, Complaint, Emitter, Expr, Func, Node, Want};
use super::lexer::{Lexer, Token, Wrong};
use std::rc::Rc;
use std::sync::Arc;

/// Statements and expressions inside each other.
pub(super) const LEVELS_MAX: usize = 190;
const LOCALS_MAX: usize = 200;
/// A tree of a hundred times this is built for a moment.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Compiles a source whose positions are to be called `chunk`; an error is the whole message.
pub fn compile(source: &[u8], chunk: &str) -> Result<Arc<Proto>, String> {
    let chunk: Arc<str> = chunk.into();
    if source.len() > SOURCE_BYTES_MAX {
        return Err(format!("{chunk}:1: source too long"));
    }
    let parser = Parser {
        lexer: Lexer::new(source),
        token: Token::End,
        text: Vec::new(),
        line: 1,
        ahead: None,
        emitter: Emitter { nodes: Vec::new(), funcs: Vec::new(), line: 1 },
        levels: 0,
        chunk: chunk.clone(),
    };
    parser.whole().map_err(|wrong| {
        let near = wrong.near.map_or(String::new(), |near| format!(" near '{}'", String::from_utf8_lossy(&near)));
        format!("{chunk}:{}: {}{near}", wrong.line, wrong.what)
    })
}

pub(super) struct Parser<'s> {
    pub(super) lexer: Lexer<'s>,
    pub(super) token: Token,
    pub(super) text: Vec<u8>,
    /// Of the word at hand.
    pub(super) line: u32,
    pub(super) ahead: Option<(Token, Vec<u8>, u32)>,
    pub(super) emitter: Emitter,
    pub(super) levels: usize,
    pub(super) chunk: Arc<str>,
}

pub(super) type Parsed<T> = Result<T, Wrong>;

impl Parser<'_> {
    pub(super) fn whole(mut self) -> Parsed<Arc<Proto>> {
        self.begin(Func {
            proto: Proto { varargs: true, chunk: self.chunk.clone(), ..Proto::default() },
            ..Func::default()
        });
        self.next()?;
        self.block()?;
        if self.token != Token::End {
            return Err(self.expected("<eof>"));
        }
        Ok(self.end())
    }

    pub(super) fn begin(&mut self, mut func: Func) {
        func.blocks.push(Block { is_loop: false, first: 0, captured: false, breaks: Vec::new() });
        self.emitter.funcs.push(func);
    }

    pub(super) fn end(&mut self) -> Arc<Proto> {
        self.emitter.emit(Op::Return { a: 0, count: 1 });
        self.emitter.f().proto.registers += 4;
        self.emitter.finish()
    }

    pub(super) fn scan(&mut self) -> Parsed<(Token, Vec<u8>, u32)> {
        let token = self.lexer.next()?;
        Ok((token, self.lexer.text().to_vec(), self.lexer.line))
    }

    pub(super) fn next(&mut self) -> Parsed<()> {
        self.emitter.line = self.line;
        let (token, text, line) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => self.scan()?,
        };
        (self.token, self.text, self.line) = (token, text, line);
        Ok(())
    }

    pub(super) fn peek(&mut self) -> Parsed<&Token> {
        if self.ahead.is_none() {
            self.ahead = Some(self.scan()?);
        }
        Ok(self.ahead.as_ref().map_or(&Token::End, |ahead| &ahead.0))
    }

    pub(super) fn near(&self) -> Vec<u8> {
        match self.token {
            Token::End => b"<eof>".to_vec(),
            Token::Other(byte) if byte < 32 => format!("char({byte})").into_bytes(),
            _ => self.text[..self.text.len().min(200)].to_vec(),
        }
    }

    pub(super) fn wrong(&self, what: &str) -> Wrong {
        Wrong { what: what.into(), line: self.line, near: Some(self.near()) }
    }

    pub(super) fn expected(&self, what: &str) -> Wrong {
        self.wrong(&format!("'{what}' expected"))
    }

    pub(super) fn said<T>(&self, done: Result<T, Complaint>) -> Parsed<T> {
        done.map_err(|what| self.wrong(what))
    }

    pub(super) fn is(&self, word: &str) -> bool {
        matches!(self.token, Token::Word(found) if found == word)
    }

    pub(super) fn take(&mut self, word: &str) -> Parsed<bool> {
        let found = self.is(word);
        if found {
            self.next()?;
        }
        Ok(found)
    }

    pub(super) fn must(&mut self, word: &str) -> Parsed<()> {
        if self.take(word)? { Ok(()) } else { Err(self.expected(word)) }
    }

    /// The word that closes what `open` began.
    pub(super) fn closes(&mut self, word: &str, open: &str, line: u32) -> Parsed<()> {
        if self.take(word)? {
            return Ok(());
        }
        if line == self.line {
            return Err(self.expected(word));
        }
        Err(self.wrong(&format!("'{word}' expected (to close '{open}' at line {line})")))
    }

    pub(super) fn ident(&mut self) -> Parsed<Rc<[u8]>> {
        let Token::Name(name) = &self.token else { return Err(self.wrong("'<name>' expected")) };
        let name: Rc<[u8]> = name[..].into();
        self.next()?;
        Ok(name)
    }

    pub(super) fn deeper(&mut self) -> Parsed<()> {
        self.levels += 1;
        if self.levels > LEVELS_MAX {
            return Err(Wrong { what: "chunk has too many syntax levels".into(), line: self.line, near: None });
        }
        Ok(())
    }

    // Blocks and variables.

    pub(super) fn open_block(&mut self, is_loop: bool) {
        let f = self.emitter.f();
        let first = f.actives.len();
        f.blocks.push(Block { is_loop, first, captured: false, breaks: Vec::new() });
    }

    /// Ends the innermost block. The jumps out of it, if it is a loop, arrive here.
    pub(super) fn close_block(&mut self) {
        let f = self.emitter.f();
        let Some(block) = f.blocks.pop() else { return };
        let register = f.actives.get(block.first).map(|active| active.1);
        f.actives.truncate(block.first);
        if let Some(register) = register {
            f.free = register;
            if block.captured {
                self.emitter.emit(Op::Close { a: register });
            }
        }
        self.emitter.patch_here(&block.breaks);
    }

    /// Makes a variable of the register, which must be reserved.
    pub(super) fn declare(&mut self, name: &[u8], register: u8) -> Parsed<()> {
        if self.emitter.f().actives.len() >= LOCALS_MAX {
            return Err(self.wrong("too many local variables"));
        }
        self.emitter.f().actives.push((name.into(), register));
        Ok(())
    }

    pub(super) fn reserve(&mut self, count: usize) -> Parsed<u8> {
        let done = self.emitter.reserve(count);
        self.said(done)
    }

    /// Registers above the variables are free between statements.
    pub(super) fn settle(&mut self) {
        let f = self.emitter.f();
        f.free = f.actives.last().map_or(0, |active| active.1 + 1);
    }

    pub(super) fn ends_block(&self) -> bool {
        self.token == Token::End || ["end", "else", "elseif", "until"].iter().any(|word| self.is(word))
    }

    pub(super) fn block(&mut self) -> Parsed<()> {
        self.deeper()?;
        loop {
            if self.ends_block() {
                break;
            }
            let last = self.statement()?;
            self.take(";")?;
            self.settle();
            if last {
                break;
            }
        }
        self.levels -= 1;
        Ok(())
    }

    pub(super) fn scoped(&mut self) -> Parsed<()> {
        self.open_block(false);
        self.block()?;
        self.close_block();
        Ok(())
    }

    // Statements. Each says whether it must be the last of its block.

    pub(super) fn statement(&mut self) -> Parsed<bool> {
        let line = self.line;
        let Token::Word(word) = self.token else { return self.expression_statement().map(|()| false) };
        match word {
            "if" => self.if_statement(line)?,
            "while" => self.while_statement(line)?,
            "do" => {
                self.next()?;
                self.scoped()?;
                self.closes("end", "do", line)?;
            }
            "for" => self.for_statement(line)?,
            "repeat" => self.repeat_statement(line)?,
            "function" => self.function_statement(line)?,
            "local" => {
                self.next()?;
                if self.take("function")? {
                    let name = self.ident()?;
                    let register = self.reserve(1)?;
                    self.declare(&name, register)?;
                    let kid = self.function(false, line)?;
                    self.emitter.emit(Op::Closure { a: register, kid });
                } else {
                    self.local_statement()?;
                }
            }
            "return" => {
                self.return_statement()?;
                return Ok(true);
            }
            "break" => {
                self.next()?;
                self.break_statement()?;
                return Ok(true);
            }
            _ => self.expression_statement()?,
        }
        Ok(false)
    }

    pub(super) fn condition(&mut self) -> Parsed<Vec<usize>> {
        let node = self.expression()?;
        let done = self.emitter.jump(node, false);
        self.said(done)
    }

    pub(super) fn if_statement(&mut self, line: u32) -> Parsed<()> {
        let mut done = Vec::new();
        self.next()?;
        let mut otherwise = self.condition()?;
        self.must("then")?;
        self.scoped()?;
        loop {
            if self.is("elseif") {
                done.push(self.emitter.emit(Op::Jump { to: 0 }));
                self.emitter.patch_here(&otherwise);
                self.next()?;
                otherwise = self.condition()?;
                self.must("then")?;
                self.scoped()?;
            } else if self.is("else") {
                done.push(self.emitter.emit(Op::Jump { to: 0 }));
                self.emitter.patch_here(&otherwise);
                otherwise.clear();
                self.next()?;
                self.scoped()?;
                break;
            } else {
                break;
            }
        }
        self.closes("end", "if", line)?;
        self.emitter.patch_here(&otherwise);
        self.emitter.patch_here(&done);
        Ok(())
    }

    pub(super) fn while_statement(&mut self, line: u32) -> Parsed<()> {
        self.next()?;
        let top = self.emitter.here();
        let exit = self.condition()?;
        self.open_block(true);
        self.must("do")?;
        self.scoped()?;
        self.emitter.emit(Op::Jump { to: top as u32 });
        self.closes("end", "while", line)?;
        self.close_block();
        self.emitter.patch_here(&exit);
        Ok(())
    }

    pub(super) fn repeat_statement(&mut self, line: u32) -> Parsed<()> {
        self.next()?;
        let top = self.emitter.here();
        self.open_block(true);
        self.open_block(false);
        self.block()?;
        self.closes("until", "repeat", line)?;
        let again = self.condition()?;
        let captured = self.emitter.f().blocks.last().is_some_and(|block| block.captured);
        if captured {
            // Both ways out close the variables of the body.
            let first = self.emitter.f().blocks.last().map_or(0, |block| block.first);
            let a = self.emitter.f().actives.get(first).map_or(0, |active| active.1);
            self.emitter.emit(Op::Close { a });
            let out = self.emitter.emit(Op::Jump { to: 0 });
            self.emitter.patch_here(&again);
            self.close_block();
            self.emitter.emit(Op::Jump { to: top as u32 });
            self.emitter.patch_here(&[out]);
        } else {
            self.emitter.patch(&again, top);
            self.close_block();
        }
        self.close_block();
        Ok(())
    }

    pub(super) fn for_statement(&mut self, line: u32) -> Parsed<()> {
        self.open_block(true);
        self.next()?;
        let name = self.ident()?;
        if self.is("=") {
            self.for_numbers(&name, line)?;
        } else if self.is(",") || self.is("in") {
            self.for_in(name, line)?;
        } else {
            return Err(self.wrong("'=' or 'in' expected"));
        }
        self.closes("end", "for", line)?;
        self.close_block();
        Ok(())
    }

    pub(super) fn for_numbers(&mut self, name: &[u8], line: u32) -> Parsed<()> {
        self.next()?;
        let base = self.emitter.f().free;
        self.next_value()?;
        self.must(",")?;
        self.next_value()?;
        if self.take(",")? {
            self.next_value()?;
        } else {
            let a = self.reserve(1)?;
            let k = self.emitter.constant(Constant::Number(1.0));
            self.emitter.emit(Op::Constant { a, k });
        }
        for (index, hidden) in [&b"(for index)"[..], b"(for limit)", b"(for step)"].into_iter().enumerate() {
            self.declare(hidden, base + index as u8)?;
        }
        self.must("do")?;
        self.emitter.line = line;
        let prepare = self.emitter.emit(Op::ForPrepare { a: base, to: 0 });
        self.open_block(false);
        let register = self.reserve(1)?;
        self.declare(name, register)?;
        self.block()?;
        self.close_block();
        self.emitter.patch_here(&[prepare]);
        let at = self.emitter.emit(Op::ForLoop { a: base, to: prepare as u32 + 1 });
        self.emitter.f().proto.lines[at] = line;
        Ok(())
    }

    pub(super) fn for_in(&mut self, first: Rc<[u8]>, line: u32) -> Parsed<()> {
        let mut names = vec![first];
        while self.take(",")? {
            names.push(self.ident()?);
        }
        self.must("in")?;
        let base = self.emitter.f().free;
        let values = self.expressions()?;
        self.adjust(&values, 3)?;
        for (index, hidden) in [&b"(for generator)"[..], b"(for state)", b"(for control)"].into_iter().enumerate() {
            self.declare(hidden, base + index as u8)?;
        }
        self.must("do")?;
        let into = self.emitter.emit(Op::Jump { to: 0 });
        let top = self.emitter.here();
        self.open_block(false);
        // The iterator is called in the place of the first variables.
        let register = self.reserve(names.len().max(3))?;
        self.emitter.f().free = register + names.len() as u8;
        for (index, name) in names.iter().enumerate() {
            self.declare(name, register + index as u8)?;
        }
        self.block()?;
        self.close_block();
        self.emitter.patch_here(&[into]);
        let at = self.emitter.emit(Op::ForIn { a: base, count: names.len() as u8 });
        self.emitter.f().proto.lines[at] = line;
        self.emitter.emit(Op::ForTest { a: base, to: top as u32 });
        Ok(())
    }

    pub(super) fn function_statement(&mut self, line: u32) -> Parsed<()> {
        self.next()?;
        let name = self.ident()?;
        let mut target = self.name_node(&name)?;
        let mut method = false;
        while self.is(".") || self.is(":") {
            method = self.is(":");
            self.next()?;
            let field = self.ident()?;
            let key = self.emitter.node(Expr::Text(field));
            target = self.emitter.node(Expr::Index(target, key));
            if method {
                break;
            }
        }
        let kid = self.function(method, line)?;
        let value = self.emitter.node(Expr::Function(kid));
        self.emitter.line = line;
        self.assign_one(target, value)
    }

    pub(super) fn local_statement(&mut self) -> Parsed<()> {
        let mut names = vec![self.ident()?];
        while self.take(",")? {
            names.push(self.ident()?);
        }
        let values = if self.take("=")? { self.expressions()? } else { Vec::new() };
        let base = self.emitter.f().free;
        self.adjust(&values, names.len())?;
        for (index, name) in names.iter().enumerate() {
            self.declare(name, base + index as u8)?;
        }
        Ok(())
    }

    pub(super) fn return_statement(&mut self) -> Parsed<()> {
        self.next()?;
        if self.ends_block() || self.is(";") {
            self.emitter.emit(Op::Return { a: 0, count: 1 });
            return Ok(());
        }
        let values = self.expressions()?;
        let single = values.len() == 1;
        let last = values[values.len() - 1];
        let op = if single && matches!(self.emitter.expr(last), Expr::Call(..) | Expr::Method(..)) {
            let done = self.emitter.chain(last, Want::Tail);
            Op::Return { a: self.said(done)?, count: 0 }
        } else if single && !self.emitter.is_open(last) {
            let done = self.emitter.put_any(last);
            Op::Return { a: self.said(done)?, count: 2 }
        } else {
            let a = self.emitter.f().free;
            let open = self.values_in_order(&values)?;
            Op::Return { a, count: if open { 0 } else { values.len() as u16 + 1 } }
        };
        self.emitter.emit(op);
        Ok(())
    }

    pub(super) fn break_statement(&mut self) -> Parsed<()> {
        let f = self.emitter.f();
        let Some(target) = f.blocks.iter().rposition(|block| block.is_loop) else {
            return Err(self.wrong("no loop to break"));
        };
        let captured = f.blocks[target..].iter().any(|block| block.captured);
        let first = f.blocks[target].first;
        let register = f.actives.get(first).map(|active| active.1);
        if let (true, Some(a)) = (captured, register) {
            self.emitter.emit(Op::Close { a });
        }
        let jump = self.emitter.emit(Op::Jump { to: 0 });
        self.emitter.f().blocks[target].breaks.push(jump);
        Ok(())
    }

    pub(super) fn expression_statement(&mut self) -> Parsed<()> {
        let node = self.suffixed()?;
        if matches!(self.emitter.expr(node), Expr::Call(..) | Expr::Method(..)) && !self.is("=") && !self.is(",") {
            let done = self.emitter.chain(node, Want::Count(0));
            self.said(done)?;
            return Ok(());
        }
        let mut targets = vec![node];
        while self.take(",")? {
            targets.push(self.suffixed()?);
        }
        for &target in &targets {
            let fine =
                matches!(self.emitter.expr(target), Expr::Local(_) | Expr::Up(_) | Expr::Global(_) | Expr::Index(..));
            if !fine {
                return Err(self.wrong("syntax error"));
            }
        }
        self.must("=")?;
        let values = self.expressions()?;
        if let (&[target], &[value]) = (&targets[..], &values[..]) {
            return self.assign_one(target, value);
        }
        self.assign_many(&targets, &values)
    }

    pub(super) fn assign_one(&mut self, target: Node, value: Node) -> Parsed<()> {
        let done = self.store(target, value);
        self.said(done)
    }

    pub(super) fn store(&mut self, target: Node, value: Node) -> Result<(), Complaint> {
        let emitter = &mut self.emitter;
        match emitter.expr(target).clone() {
            Expr::Local(a) if emitter.writes_early(value) => {
                let b = emitter.put_next(value)?;
                emitter.emit(Op::Move { a, b });
            }
            Expr::Local(a) => emitter.put(value, a)?,
            Expr::Up(up) => {
                let b = emitter.put_any(value)?;
                emitter.emit(Op::SetUp { up, b });
            }
            Expr::Global(name) => {
                let b = emitter.put_any(value)?;
                let k = emitter.text(&name);
                emitter.emit(Op::SetGlobal { k, b });
            }
            Expr::Index(object, key) => {
                let a = emitter.put_any(object)?;
                let b = emitter.put_rk(key)?;
                let c = emitter.put_rk(value)?;
                let at = emitter.emit(Op::Set { a, b, c });
                emitter.name(at, 0, object);
            }
            _ => {}
        }
        Ok(())
    }

    /// Everything is read before anything is written.
    pub(super) fn assign_many(&mut self, targets: &[Node], values: &[Node]) -> Parsed<()> {
        let mut places = Vec::new();
        for &target in targets {
            if let Expr::Index(object, key) = *self.emitter.expr(target) {
                let done = self.emitter.put_next(object);
                let object = self.said(done)?;
                let done = self.emitter.put_next(key);
                places.push((object, self.said(done)?));
            } else {
                places.push((0, 0));
            }
        }
        let base = self.emitter.f().free;
        self.adjust(values, targets.len())?;
        for (index, &target) in targets.iter().enumerate().rev() {
            let b = base + index as u8;
            match self.emitter.expr(target).clone() {
                Expr::Local(a) => {
                    self.emitter.emit(Op::Move { a, b });
                }
                Expr::Up(up) => {
                    self.emitter.emit(Op::SetUp { up, b });
                }
                Expr::Global(name) => {
                    let k = self.emitter.text(&name);
                    self.emitter.emit(Op::SetGlobal { k, b });
                }
                Expr::Index(object, _) => {
                    let (a, key) = places[index];
                    let at = self.emitter.emit(Op::Set { a, b: Rk(u16::from(key)), c: Rk(u16::from(b)) });
                    self.emitter.name(at, 0, object);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts the values into exactly `count` new registers.
    pub(super) fn adjust(&mut self, values: &[Node], count: usize) -> Parsed<()> {
        if count > LOCALS_MAX {
            return Err(self.wrong("too many local variables"));
        }
        let base = self.emitter.f().free;
        for (index, &value) in values.iter().enumerate() {
            if index + 1 == values.len() && index < count && self.emitter.is_open(value) {
                let done = self.emitter.exactly(value, (count - index) as u8);
                self.said(done)?;
                return Ok(());
            }
            let done = self.emitter.put_next(value);
            self.said(done)?;
            if index >= count {
                self.emitter.f().free = base + count as u8;
            }
        }
        if values.len() < count {
            let missing = count - values.len();
            let a = self.reserve(missing)?;
            self.emitter.emit(Op::Nil { a, count: missing as u8 });
        }
        Ok(())
    }

    /// Puts values one after the other; says whether the last one has left the number open.
    pub(super) fn values_in_order(&mut self, values: &[Node]) -> Parsed<bool> {
        for (index, &value) in values.iter().enumerate() {
            if index + 1 == values.len() && self.emitter.is_open(value) {
                let done = self.emitter.open(value);
                self.said(done)?;
                return Ok(true);
            }
            let done = self.emitter.put_next(value);
            self.said(done)?;
        }
        Ok(false)
    }

    pub(super) fn next_value(&mut self) -> Parsed<()> {
        let node = self.expression()?;
        let done = self.emitter.put_next(node);
        self.said(done)?;
        Ok(())
    }
}
