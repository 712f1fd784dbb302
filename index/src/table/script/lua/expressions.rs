//! Expressions and function bodies, read by how strongly their operators bind.

use super::code::Proto;
use super::compile::{LEVELS_MAX, Parsed, Parser};
use super::emit::{Binary, Expr, Func, Node, Unary};
use super::lexer::Token;
use std::rc::Rc;

impl Parser<'_> {
    pub(super) fn expressions(&mut self) -> Parsed<Vec<Node>> {
        let mut nodes = vec![self.expression()?];
        while self.take(",")? {
            nodes.push(self.expression()?);
        }
        Ok(nodes)
    }

    pub(super) fn expression(&mut self) -> Parsed<Node> {
        self.operators(0)
    }

    pub(super) fn operators(&mut self, limit: u8) -> Parsed<Node> {
        const UNARY: u8 = 8;
        self.deeper()?;
        let unary = match self.token {
            Token::Word("not") => Some(Unary::Not),
            Token::Word("-") => Some(Unary::Neg),
            Token::Word("#") => Some(Unary::Len),
            _ => None,
        };
        let mut left = match unary {
            Some(op) => {
                self.next()?;
                let inner = self.operators(UNARY)?;
                match (op, self.emitter.expr(inner)) {
                    (Unary::Neg, &Expr::Number(number)) if !number.is_nan() => self.emitter.node(Expr::Number(-number)),
                    _ => self.emitter.node(Expr::Unary(op, inner)),
                }
            }
            None => self.simple()?,
        };
        let mut comparisons = 0;
        while let Some((op, before, after)) = self.binary()
            && before > limit
        {
            self.next()?;
            let right = self.operators(after)?;
            let decided = matches!(
                (op, self.emitter.expr(left)),
                (Binary::And, Expr::Number(_) | Expr::Text(_) | Expr::Bool(true))
                    | (Binary::Or, Expr::Nil | Expr::Bool(false))
            );
            // What is left is one value, even of a call.
            let expr = if decided { Expr::Paren(right) } else { Expr::Binary(op, left, right) };
            left = self.emitter.node(expr);
            if before == 3 {
                // The one chain that is not walked in a loop.
                comparisons += 1;
                if self.levels + comparisons > LEVELS_MAX {
                    return Err(self.wrong("chunk has too many syntax levels"));
                }
            }
        }
        self.levels -= 1;
        Ok(left)
    }

    /// The operator at hand, and how strongly it binds on its left and on its right.
    pub(super) fn binary(&self) -> Option<(Binary, u8, u8)> {
        let Token::Word(word) = self.token else { return None };
        Some(match word {
            "or" => (Binary::Or, 1, 1),
            "and" => (Binary::And, 2, 2),
            "<" => (Binary::Less, 3, 3),
            ">" => (Binary::Greater, 3, 3),
            "<=" => (Binary::LessEqual, 3, 3),
            ">=" => (Binary::GreaterEqual, 3, 3),
            "~=" => (Binary::Unequal, 3, 3),
            "==" => (Binary::Equal, 3, 3),
            ".." => (Binary::Concat, 5, 4),
            "+" => (Binary::Add, 6, 6),
            "-" => (Binary::Sub, 6, 6),
            "*" => (Binary::Mul, 7, 7),
            "/" => (Binary::Div, 7, 7),
            "%" => (Binary::Mod, 7, 7),
            "^" => (Binary::Pow, 10, 9),
            _ => return None,
        })
    }

    pub(super) fn simple(&mut self) -> Parsed<Node> {
        let expr = match &self.token {
            Token::Number(number) => Expr::Number(*number),
            Token::Text(text) => Expr::Text(text[..].into()),
            Token::Word("nil") => Expr::Nil,
            Token::Word("true") => Expr::Bool(true),
            Token::Word("false") => Expr::Bool(false),
            Token::Word("...") => {
                if !self.emitter.f().proto.varargs {
                    return Err(self.wrong("cannot use '...' outside a vararg function"));
                }
                self.emitter.f().proto.old_varargs = false;
                Expr::Varargs
            }
            Token::Word("{") => return self.table(),
            Token::Word("function") => {
                let line = self.line;
                self.next()?;
                let kid = self.function(false, line)?;
                return Ok(self.emitter.node(Expr::Function(kid)));
            }
            _ => return self.suffixed(),
        };
        self.next()?;
        Ok(self.emitter.node(expr))
    }

    pub(super) fn name_node(&mut self, name: &[u8]) -> Parsed<Node> {
        let level = self.emitter.funcs.len() - 1;
        let done = self.emitter.resolve(level, name);
        let expr = self.said(done)?;
        Ok(self.emitter.node(expr))
    }

    pub(super) fn suffixed(&mut self) -> Parsed<Node> {
        let mut node = match self.token {
            Token::Name(_) => {
                let name = self.ident()?;
                self.name_node(&name)?
            }
            Token::Word("(") => {
                let line = self.line;
                self.next()?;
                let inner = self.expression()?;
                self.closes(")", "(", line)?;
                self.emitter.node(Expr::Paren(inner))
            }
            _ => return Err(self.wrong("unexpected symbol")),
        };
        loop {
            match self.token {
                Token::Word(".") => {
                    self.next()?;
                    let name = self.ident()?;
                    let key = self.emitter.node(Expr::Text(name));
                    node = self.emitter.node(Expr::Index(node, key));
                }
                Token::Word("[") => {
                    self.next()?;
                    let key = self.expression()?;
                    self.must("]")?;
                    node = self.emitter.node(Expr::Index(node, key));
                }
                Token::Word(":") => {
                    self.next()?;
                    let name = self.ident()?;
                    let line = self.line;
                    let arguments = self.arguments()?;
                    node = self.emitter.node(Expr::Method(node, name, arguments));
                    self.emitter.nodes[node as usize].1 = line;
                }
                Token::Word("(" | "{") | Token::Text(_) => {
                    let line = self.line;
                    let arguments = self.arguments()?;
                    node = self.emitter.node(Expr::Call(node, arguments));
                    self.emitter.nodes[node as usize].1 = line;
                }
                _ => return Ok(node),
            }
        }
    }

    pub(super) fn arguments(&mut self) -> Parsed<Rc<[Node]>> {
        match &self.token {
            Token::Text(text) => {
                let text = text[..].into();
                self.next()?;
                Ok([self.emitter.node(Expr::Text(text))].into())
            }
            Token::Word("{") => Ok([self.table()?].into()),
            Token::Word("(") => {
                let line = self.line;
                if line != self.emitter.line {
                    return Err(self.wrong("ambiguous syntax (function call x new statement)"));
                }
                self.next()?;
                let arguments = if self.is(")") { Vec::new() } else { self.expressions()? };
                self.closes(")", "(", line)?;
                Ok(arguments.into())
            }
            _ => Err(self.wrong("function arguments expected")),
        }
    }

    pub(super) fn table(&mut self) -> Parsed<Node> {
        let line = self.line;
        self.must("{")?;
        let mut items = Vec::new();
        while !self.is("}") {
            if let Token::Name(name) = &self.token {
                let name: Rc<[u8]> = name[..].into();
                if matches!(self.peek()?, Token::Word("=")) {
                    self.next()?;
                    self.next()?;
                    let key = self.emitter.node(Expr::Text(name));
                    items.push((Some(key), self.expression()?));
                } else {
                    items.push((None, self.expression()?));
                }
            } else if self.take("[")? {
                let key = self.expression()?;
                self.must("]")?;
                self.must("=")?;
                items.push((Some(key), self.expression()?));
            } else {
                items.push((None, self.expression()?));
            }
            if !self.take(",")? && !self.take(";")? {
                break;
            }
        }
        self.closes("}", "{", line)?;
        Ok(self.emitter.node(Expr::Table(items.into())))
    }

    /// Parameters and body; `function` has been read. Gives the number among the functions of the one around it.
    pub(super) fn function(&mut self, method: bool, line: u32) -> Parsed<u16> {
        let proto = Proto { chunk: self.chunk.clone(), ..Proto::default() };
        self.begin(Func { proto, ..Func::default() });
        if method {
            let register = self.reserve(1)?;
            self.declare(b"self", register)?;
        }
        self.must("(")?;
        if !self.is(")") {
            loop {
                if self.take("...")? {
                    self.emitter.f().proto.varargs = true;
                    self.emitter.f().proto.old_varargs = true;
                    break;
                }
                if !matches!(self.token, Token::Name(_)) {
                    return Err(self.wrong("<name> or '...' expected"));
                }
                let name = self.ident()?;
                let register = self.reserve(1)?;
                self.declare(&name, register)?;
                if !self.take(",")? {
                    break;
                }
            }
        }
        self.must(")")?;
        let f = self.emitter.f();
        f.proto.parameters = f.actives.len() as u8;
        if f.proto.varargs {
            let register = self.reserve(1)?;
            self.declare(b"arg", register)?;
        }
        self.block()?;
        self.emitter.line = self.line;
        self.closes("end", "function", line)?;
        let proto = self.end();
        let kids = &mut self.emitter.f().proto.kids;
        kids.push(proto);
        u16::try_from(kids.len() - 1).map_err(|_| self.wrong("too many functions"))
    }
}
