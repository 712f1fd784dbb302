//! Source text into words of the language.

use super::number;

/// What a script is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Name(Vec<u8>),
    Text(Vec<u8>),
    Number(f64),
    /// A keyword or an operator.
    Word(&'static str),
    /// A byte that means nothing.
    Other(u8),
    End,
}

const KEYWORDS: [&str; 21] = [
    "and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not", "or",
    "repeat", "return", "then", "true", "until", "while",
];

/// Longest first.
const OPERATORS: [&str; 26] = [
    "...", "..", "==", "~=", "<=", ">=", "+", "-", "*", "/", "%", "^", "#", "<", ">", "=", "(", ")", "{", "}", "[",
    "]", ";", ":", ",", ".",
];

/// What is wrong with the source, where, and at which text.
pub struct Wrong {
    pub what: String,
    pub line: u32,
    pub near: Option<Vec<u8>>,
}

/// Walks through the source.
pub struct Lexer<'s> {
    source: &'s [u8],
    at: usize,
    /// Where the word that was read last begins.
    start: usize,
    pub line: u32,
}

impl<'s> Lexer<'s> {
    pub fn new(source: &'s [u8]) -> Lexer<'s> {
        Lexer { source, at: 0, start: 0, line: 1 }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.source.get(self.at + ahead).copied()
    }

    fn wrong(&self, what: &str, from: usize) -> Wrong {
        let near = &self.source[from.min(self.at)..self.at.min(self.source.len())];
        Wrong { what: what.into(), line: self.line, near: Some(near[..near.len().min(200)].to_vec()) }
    }

    /// A line ends here; two different bytes of line end are one.
    fn newline(&mut self) {
        let first = self.peek(0);
        self.at += 1;
        if matches!(self.peek(0), Some(b'\n' | b'\r')) && self.peek(0) != first {
            self.at += 1;
        }
        self.line += 1;
    }

    /// The level of a long bracket that starts here, `[[` being 0.
    fn long_level(&self) -> Option<usize> {
        let level = self.source[self.at + 1..].iter().take_while(|c| **c == b'=').count();
        (self.peek(1 + level) == Some(b'[')).then_some(level)
    }

    fn long(&mut self, level: usize, what: &str) -> Result<Vec<u8>, Wrong> {
        let from = self.at;
        self.at += level + 2;
        if matches!(self.peek(0), Some(b'\n' | b'\r')) {
            self.newline();
        }
        let mut text = Vec::new();
        loop {
            match self.peek(0) {
                None => {
                    return Err(Wrong {
                        what: format!("unfinished long {what}"),
                        line: self.line,
                        near: Some(b"<eof>".to_vec()),
                    });
                }
                Some(b']') => {
                    let same = self.source[self.at + 1..].iter().take_while(|c| **c == b'=').count();
                    if same == level && self.peek(1 + level) == Some(b']') {
                        self.at += level + 2;
                        return Ok(text);
                    }
                    text.push(b']');
                    self.at += 1;
                }
                Some(b'[') if level == 0 && self.peek(1) == Some(b'[') => {
                    self.at += 2;
                    return Err(self.wrong("nesting of [[...]] is deprecated", from));
                }
                Some(b'\n' | b'\r') => {
                    self.newline();
                    text.push(b'\n');
                }
                Some(c) => {
                    text.push(c);
                    self.at += 1;
                }
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Vec<u8>, Wrong> {
        let from = self.at;
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(c) = self.peek(0) else {
                return Err(Wrong { what: "unfinished string".into(), line: self.line, near: Some(b"<eof>".to_vec()) });
            };
            match c {
                b'\n' | b'\r' => return Err(self.wrong("unfinished string", from)),
                b'\\' => {
                    let escape = self.at;
                    self.at += 1;
                    let Some(c) = self.peek(0) else { continue };
                    self.at += 1;
                    match c {
                        b'a' => text.push(7),
                        b'b' => text.push(8),
                        b'f' => text.push(12),
                        b'n' => text.push(b'\n'),
                        b'r' => text.push(b'\r'),
                        b't' => text.push(b'\t'),
                        b'v' => text.push(11),
                        b'\n' | b'\r' => {
                            self.at -= 1;
                            self.newline();
                            text.push(b'\n');
                        }
                        b'0'..=b'9' => {
                            let mut code = u32::from(c - b'0');
                            for _ in 0..2 {
                                if let Some(digit @ b'0'..=b'9') = self.peek(0) {
                                    code = code * 10 + u32::from(digit - b'0');
                                    self.at += 1;
                                }
                            }
                            let Ok(byte) = u8::try_from(code) else {
                                self.at = escape;
                                return Err(self.wrong("escape sequence too large", from));
                            };
                            text.push(byte);
                        }
                        c => text.push(c),
                    }
                }
                c => {
                    self.at += 1;
                    if c == quote {
                        return Ok(text);
                    }
                    text.push(c);
                }
            }
        }
    }

    fn numeral(&mut self) -> Result<f64, Wrong> {
        let from = self.at;
        while matches!(self.peek(0), Some(b'0'..=b'9' | b'.')) {
            self.at += 1;
        }
        if matches!(self.peek(0), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(0), Some(b'+' | b'-')) {
                self.at += 1;
            }
        }
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_') {
            self.at += 1;
        }
        number::whole(&self.source[from..self.at]).ok_or_else(|| self.wrong("malformed number", from))
    }

    /// The text of the word that was read last.
    pub fn text(&self) -> &'s [u8] {
        &self.source[self.start..self.at]
    }

    /// The next word.
    pub fn next(&mut self) -> Result<Token, Wrong> {
        loop {
            self.start = self.at;
            let Some(c) = self.peek(0) else { return Ok(Token::End) };
            match c {
                b'\n' | b'\r' => self.newline(),
                b' ' | b'\t' | 11 | 12 => self.at += 1,
                b'-' if self.peek(1) == Some(b'-') => {
                    self.at += 2;
                    let level = if self.peek(0) == Some(b'[') { self.long_level() } else { None };
                    match level {
                        Some(level) => {
                            self.long(level, "comment")?;
                        }
                        None => {
                            while !matches!(self.peek(0), None | Some(b'\n' | b'\r')) {
                                self.at += 1;
                            }
                        }
                    }
                }
                b'[' => match self.long_level() {
                    Some(level) => return self.long(level, "string").map(Token::Text),
                    None if self.peek(1) == Some(b'=') => {
                        self.at += 2;
                        return Err(self.wrong("invalid long string delimiter", self.at - 2));
                    }
                    None => return Ok(self.operator()),
                },
                b'"' | b'\'' => return self.quoted(c).map(Token::Text),
                b'0'..=b'9' => return self.numeral().map(Token::Number),
                b'.' if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => return self.numeral().map(Token::Number),
                c if c.is_ascii_alphabetic() || c == b'_' => {
                    let from = self.at;
                    while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_') {
                        self.at += 1;
                    }
                    let name = &self.source[from..self.at];
                    let keyword = KEYWORDS.iter().find(|word| word.as_bytes() == name);
                    return Ok(keyword.map_or_else(|| Token::Name(name.to_vec()), |word| Token::Word(word)));
                }
                _ => return Ok(self.operator()),
            }
        }
    }

    fn operator(&mut self) -> Token {
        let rest = &self.source[self.at..];
        match OPERATORS.iter().find(|word| rest.starts_with(word.as_bytes())) {
            Some(word) => {
                self.at += word.len();
                Token::Word(word)
            }
            None => {
                self.at += 1;
                Token::Other(rest[0])
            }
        }
    }
}
