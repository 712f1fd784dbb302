//! The language of `--filter`: a line of text becomes a filter.
//!
//! ```text
//! kind = "noun" and size >= 10 and not tags has "old"
//!
//! filter   = filter "or" filter | filter "and" filter | "not" filter | "(" filter ")" | "is_true" "(" filter ")"
//!          | "true" | "false" | path test
//! test     = ("=" | "!=" | "<" | "<=" | ">" | ">=") value | ["not"] "in" "(" value, ... ")"
//!          | "between" value "and" value | "has" value | "contains" text | ("prefix" | "starts" "with") text
//!          | "exists" | "is" ["not"] "null"
//! value    = text | number | "true" | "false" | "@" moment
//! ```
//!
//! `or` binds weaker than `and`, `and` weaker than `not`. Words of the language may be in capitals. A name that is such a
//! word, or has other characters than letters, digits, `_`, `-` and `:`, stands in backticks. The parser is a Pratt parser:
//! each operator has a strength, and an expression takes operators while they are stronger than what stands before it.

use std::fmt::{self, Display};

use loci_client::{Attribute, Filter, Value};

use super::time;

/// Deeper ones are refused here: the node takes 32.
const LEVELS_MAX: usize = 32;

const OR: u8 = 1;
const AND: u8 = 2;
const NOT: u8 = 3;

const WORDS: [&str; 17] = [
    "and", "or", "not", "in", "between", "has", "contains", "prefix", "starts", "with", "exists", "is", "null", "true",
    "false", "is_true", "missing",
];

/// Why a text is no filter, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterError {
    text: String,
    /// The byte where it went wrong.
    at: usize,
    message: String,
}

impl Display for FilterError {
    /// The text, and under it a mark where it went wrong.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = self.text.get(..self.at).unwrap_or(&self.text);
        let column = before.chars().count();
        let line: String = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        writeln!(formatter, "filter, character {}: {}", column + 1, self.message)?;
        writeln!(formatter, "  {line}")?;
        write!(formatter, "  {}^", " ".repeat(column))
    }
}

impl std::error::Error for FilterError {}

/// Reads a filter.
pub fn parse(text: &str) -> Result<Filter, FilterError> {
    let wrong = |(at, message): Wrong| FilterError { text: text.to_owned(), at, message };
    let tokens = tokens(text).map_err(wrong)?;
    let mut parser = Parser { tokens: &tokens, next: 0, end: text.len(), level: 0 };
    let filter = parser.filter(0).map_err(wrong)?;
    match parser.peek() {
        None => Ok(filter),
        Some(_) => Err(wrong(parser.expected("\"and\", \"or\" or the end"))),
    }
}

type Wrong = (usize, String);

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A word of the language, in small letters.
    Word(&'static str),
    /// Names from the top down.
    Path(Vec<String>),
    Text(String),
    Int(i64),
    Float(f64),
    Moment(i64),
    Symbol(&'static str),
}

impl Display for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(word) => write!(formatter, "\"{word}\""),
            Token::Path(names) => write!(formatter, "the name {}", names.join(".")),
            Token::Text(text) => write!(formatter, "the text {text:?}"),
            Token::Int(number) => write!(formatter, "{number}"),
            Token::Float(number) => write!(formatter, "{number}"),
            Token::Moment(micros) => write!(formatter, "@{}", time::format(*micros)),
            Token::Symbol(symbol) => write!(formatter, "\"{symbol}\""),
        }
    }
}

const SYMBOLS: [&str; 12] = ["!=", "<=", ">=", "==", "=", "<", ">", "(", ")", "[", "]", ","];

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, Wrong> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let rest = &text[at..];
        let (length, token) = if let Some(symbol) = SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
            (symbol.len(), Token::Symbol(symbol))
        } else {
            match first {
                '"' | '\'' => quoted(rest, at)?,
                '@' => moment(rest, at)?,
                '0'..='9' | '-' | '+' | '.' => number(rest, at)?,
                '`' | '_' => path(rest, at)?,
                first if first.is_alphabetic() => path(rest, at)?,
                other => return Err((at, format!("{other:?} has no meaning here"))),
            }
        };
        tokens.push((at, token));
        at += length;
    }
    Ok(tokens)
}

fn quoted(rest: &str, at: usize) -> Result<(usize, Token), Wrong> {
    let mut chars = rest.char_indices();
    let quote = chars.next().map(|(_, quote)| quote);
    let mut text = String::new();
    while let Some((index, next)) = chars.next() {
        match next {
            next if Some(next) == quote => return Ok((index + 1, Token::Text(text))),
            '\\' => match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, same @ ('\\' | '"' | '\''))) => text.push(same),
                _ => return Err((at + index, "a backslash stands before n, t, a quote or a backslash".into())),
            },
            next => text.push(next),
        }
    }
    Err((at, "this text has no closing quote".into()))
}

fn moment(rest: &str, at: usize) -> Result<(usize, Token), Wrong> {
    let length = rest[1..].find(|c: char| !(c.is_ascii_alphanumeric() || "-:.+".contains(c)));
    let written = &rest[1..length.map_or(rest.len(), |length| length + 1)];
    match time::parse(written) {
        Some(micros) => Ok((1 + written.len(), Token::Moment(micros))),
        None => Err((at, format!("@{written} is no moment: write @2024-01-31 or @2024-01-31T12:30:00Z"))),
    }
}

fn number(rest: &str, at: usize) -> Result<(usize, Token), Wrong> {
    let mut before = ' ';
    let length = rest.find(|c: char| {
        let is_exponent_sign = matches!(c, '+' | '-') && matches!(before, 'e' | 'E' | ' ');
        before = c;
        !(c.is_ascii_alphanumeric() || c == '.' || is_exponent_sign)
    });
    let written = &rest[..length.unwrap_or(rest.len())];
    if let Ok(number) = written.parse::<i64>() {
        return Ok((written.len(), Token::Int(number)));
    }
    // "inf" and "nan" parse as floats, and are names here.
    let has_digit = written.contains(|c: char| c.is_ascii_digit());
    match written.parse::<f64>() {
        Ok(number) if has_digit && number.is_finite() => Ok((written.len(), Token::Float(number))),
        _ => Err((at, format!("{written} is no number"))),
    }
}

fn path(rest: &str, at: usize) -> Result<(usize, Token), Wrong> {
    let mut names = Vec::new();
    let mut length = 0;
    let mut is_quoted = false;
    loop {
        let name_rest = &rest[length..];
        if let Some(inside) = name_rest.strip_prefix('`') {
            let Some(end) = inside.find('`') else {
                return Err((at + length, "this name has no closing backtick".into()));
            };
            names.push(inside[..end].to_owned());
            length += end + 2;
            is_quoted = true;
        } else {
            let end = name_rest.find(|c: char| !(c.is_alphanumeric() || "_-:".contains(c)));
            let name = &name_rest[..end.unwrap_or(name_rest.len())];
            if name.is_empty() {
                return Err((at + length, "a name is expected after the dot".into()));
            }
            names.push(name.to_owned());
            length += name.len();
        }
        match rest[length..].strip_prefix('.') {
            Some(_) => length += 1,
            None => break,
        }
    }
    let word = match names.as_slice() {
        [only] if !is_quoted => WORDS.iter().find(|word| word.eq_ignore_ascii_case(only)),
        _ => None,
    };
    Ok((length, word.map_or(Token::Path(names), |word| Token::Word(word))))
}

struct Parser<'a> {
    tokens: &'a [(usize, Token)],
    next: usize,
    end: usize,
    level: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn expected(&self, what: &str) -> Wrong {
        let found = self.peek().map_or("the end".to_owned(), Token::to_string);
        (self.at(), format!("{what} is expected here, not {found}"))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Word(found)) if *found == word);
        self.next += usize::from(is_it);
        is_it
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Symbol(found)) if *found == symbol);
        self.next += usize::from(is_it);
        is_it
    }

    /// An expression, with the operators after it that are stronger than `strength`.
    fn filter(&mut self, strength: u8) -> Result<Filter, Wrong> {
        self.level += 1;
        if self.level > LEVELS_MAX {
            return Err((self.at(), format!("more than {LEVELS_MAX} levels")));
        }
        let mut left = self.operand()?;
        loop {
            if strength < AND && self.take_word("and") {
                left = left.and(self.filter(AND)?);
            } else if strength < OR && self.take_word("or") {
                left = left.or(self.filter(OR)?);
            } else {
                self.level -= 1;
                return Ok(left);
            }
        }
    }

    fn operand(&mut self) -> Result<Filter, Wrong> {
        if self.take_word("not") {
            return Ok(!self.filter(NOT)?);
        }
        if self.take_word("is_true") {
            if !self.take_symbol("(") {
                return Err(self.expected("\"(\""));
            }
            return Ok(self.inside()?.is_true());
        }
        if self.take_symbol("(") {
            return self.inside();
        }
        for constant in [true, false] {
            if self.take_word(if constant { "true" } else { "false" }) {
                return Ok(Filter::constant(constant));
            }
        }
        match self.peek() {
            Some(Token::Path(names)) => {
                let attribute = Attribute::at(names.iter().map(String::as_str));
                self.next += 1;
                self.test(attribute)
            }
            Some(Token::Word(word)) if !matches!(*word, "and" | "or") => {
                let message = format!("the name of an attribute is expected here: write `{word}` if it is one");
                Err((self.at(), message))
            }
            _ => Err(self.expected("the name of an attribute, \"not\" or \"(\"")),
        }
    }

    fn inside(&mut self) -> Result<Filter, Wrong> {
        let inside = self.filter(0)?;
        if self.take_symbol(")") { Ok(inside) } else { Err(self.expected("\")\"")) }
    }

    fn test(&mut self, attribute: Attribute) -> Result<Filter, Wrong> {
        if let Some(Token::Symbol(symbol)) = self.peek() {
            let make: fn(Attribute, Value) -> Filter = match *symbol {
                "=" | "==" => Attribute::equals,
                "!=" => Attribute::not_equals,
                "<" => Attribute::below,
                "<=" => Attribute::at_most,
                ">" => Attribute::above,
                ">=" => Attribute::at_least,
                _ => return Err(self.expected("a test such as = or in")),
            };
            self.next += 1;
            return Ok(make(attribute, self.value()?));
        }
        if self.take_word("not") {
            return if self.take_word("in") {
                Ok(!attribute.one_of(self.values()?))
            } else {
                Err(self.expected("\"in\""))
            };
        }
        if self.take_word("in") {
            return Ok(attribute.one_of(self.values()?));
        }
        if self.take_word("between") {
            let low = self.value()?;
            if !self.take_word("and") {
                return Err(self.expected("\"and\""));
            }
            return Ok(attribute.between(low, self.value()?));
        }
        if self.take_word("has") {
            return Ok(attribute.has(self.value()?));
        }
        if self.take_word("contains") {
            return Ok(attribute.contains(self.text()?));
        }
        if self.take_word("starts") {
            return if self.take_word("with") {
                Ok(attribute.starts_with(self.text()?))
            } else {
                Err(self.expected("\"with\""))
            };
        }
        if self.take_word("prefix") {
            return Ok(attribute.starts_with(self.text()?));
        }
        if self.take_word("exists") {
            return Ok(attribute.exists());
        }
        if self.take_word("is") {
            let negated = self.take_word("not");
            if !self.take_word("null") {
                return Err(self.expected(if negated { "\"null\"" } else { "\"null\" or \"not null\"" }));
            }
            return Ok(if negated {
                attribute.clone().exists().and(!attribute.is_null())
            } else {
                attribute.is_null()
            });
        }
        Err(self.expected("a test such as =, >=, in, has, contains, prefix, exists or is null"))
    }

    fn value(&mut self) -> Result<Value, Wrong> {
        let value = match self.peek() {
            Some(Token::Text(text)) => Value::String(text.clone()),
            Some(Token::Int(number)) => Value::Int(*number),
            Some(Token::Float(number)) => Value::Float(*number),
            Some(Token::Moment(micros)) => Value::Timestamp(*micros),
            Some(Token::Word("true")) => Value::Bool(true),
            Some(Token::Word("false")) => Value::Bool(false),
            Some(Token::Word("null")) => {
                return Err((self.at(), "nothing is equal to null: write \"is null\"".into()));
            }
            Some(Token::Path(names)) => {
                let message = format!("a text stands in quotes: write \"{}\"", names.join("."));
                return Err((self.at(), message));
            }
            _ => return Err(self.expected("a value such as \"text\", 10, 2.5, true or @2024-01-31")),
        };
        self.next += 1;
        Ok(value)
    }

    fn text(&mut self) -> Result<String, Wrong> {
        match self.peek() {
            Some(Token::Text(text)) => {
                let text = text.clone();
                self.next += 1;
                Ok(text)
            }
            _ => Err(self.expected("a text in quotes")),
        }
    }

    fn values(&mut self) -> Result<Vec<Value>, Wrong> {
        let closing = if self.take_symbol("(") {
            ")"
        } else if self.take_symbol("[") {
            "]"
        } else {
            return Err(self.expected("\"(\""));
        };
        let mut values = vec![self.value()?];
        while self.take_symbol(",") {
            values.push(self.value()?);
        }
        if self.take_symbol(closing) { Ok(values) } else { Err(self.expected(&format!("\",\" or {closing:?}"))) }
    }
}

#[cfg(test)]
mod tests {
    use loci_client::attribute;

    use super::*;

    fn check(text: &str, expected: Filter) {
        match parse(text) {
            Ok(filter) => assert_eq!(filter, expected, "{text}"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn every_test_has_its_filter() {
        check("a = 1", attribute("a").equals(1));
        check("a == -1", attribute("a").equals(-1));
        check("a != 2.5", attribute("a").not_equals(2.5));
        check("a < 1e3", attribute("a").below(1000.0));
        check("a <= 'x'", attribute("a").at_most("x"));
        check("a > \"it's\"", attribute("a").above("it's"));
        check("a>=true", attribute("a").at_least(true));
        check("a in (1, 'x')", attribute("a").one_of([Value::Int(1), "x".into()]));
        check("a in [1]", attribute("a").one_of([1]));
        check("a not in (1)", !attribute("a").one_of([1]));
        check("a between 1 and 2", attribute("a").between(1, 2));
        check("a has \"x\"", attribute("a").has("x"));
        check("a contains 'x'", attribute("a").contains("x"));
        check("a prefix 'x'", attribute("a").starts_with("x"));
        check("a starts with 'x'", attribute("a").starts_with("x"));
        check("a exists", attribute("a").exists());
        check("a is null", attribute("a").is_null());
        check("a is not null", attribute("a").exists().and(!attribute("a").is_null()));
        check("a = @1970-01-01T00:00:01Z", attribute("a").equals(Value::Timestamp(1_000_000)));
        check("is_true(a = 1)", attribute("a").equals(1).is_true());
        check("true", Filter::constant(true));
    }

    #[test]
    fn and_binds_stronger_than_or_and_not_stronger_than_both() {
        let [a, b, c] = ["a", "b", "c"].map(|name| attribute(name).exists());
        check("a exists or b exists and c exists", a.clone().or(b.clone().and(c.clone())));
        check("a exists and b exists or c exists", a.clone().and(b.clone()).or(c.clone()));
        check("not a exists and b exists", (!a.clone()).and(b.clone()));
        check("not (a exists and b exists)", !a.clone().and(b.clone()));
        check("NOT NOT a EXISTS", !!a.clone());
        check("(a exists or b exists) and c exists", a.or(b).and(c));
    }

    #[test]
    fn names_are_paths_and_backticks_make_any_name() {
        check("author.name = 'x'", attribute("author.name").equals("x"));
        check("`author.name` = 'x'", attribute("author\\.name").equals("x"));
        check("a.`in`.c exists", attribute("a.in.c").exists());
        check("`not` exists", attribute("not").exists());
        check("a-b:c_1 exists", attribute("a-b:c_1").exists());
    }

    #[test]
    fn escapes_are_read() {
        check(r#"a = "x\"\\\n\t'""#, attribute("a").equals("x\"\\\n\t'"));
    }

    #[test]
    fn errors_say_where() {
        for (text, at, part) in [
            ("", 0, "not the end"),
            ("kind =", 6, "a value such as"),
            ("kind = noun", 7, "write \"noun\""),
            ("kind = \"noun", 7, "no closing quote"),
            ("kind \"noun\"", 5, "a test such as"),
            ("a = null", 4, "is null"),
            ("a exists b exists", 9, "\"and\", \"or\" or the end"),
            ("(a exists", 9, "\")\""),
            ("a in ()", 6, "a value such as"),
            ("a in (1 2)", 8, "\",\" or \")\""),
            ("a = 1x", 4, "no number"),
            ("a = @yesterday", 4, "no moment"),
            ("a. = 1", 2, "after the dot"),
            ("in = 1", 0, "write `in`"),
            ("a between 1 or 2", 12, "\"and\""),
            ("a % 2", 2, "'%' has no meaning"),
            ("\u{e9} = 1 and ?", 11, "'?' has no meaning"),
            ("a = \"\\x\"", 5, "backslash"),
            ("and", 0, "the name of an attribute"),
        ] {
            let error = parse(text).expect_err(text);
            assert_eq!(error.at, at, "{error}");
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[test]
    fn the_mark_stands_under_the_character() {
        let error = parse("\u{e9} = x").expect_err("no quotes");
        let printed = error.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines[0], "filter, character 5: a text stands in quotes: write \"x\"");
        assert_eq!(lines[2], "      ^");
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        let deep = "(".repeat(100_000);
        assert!(parse(&deep).is_err_and(|error| error.message.contains("levels")));
        let nots = "not ".repeat(100_000);
        assert!(parse(&nots).is_err_and(|error| error.message.contains("levels")));
    }

    #[test]
    fn no_text_makes_it_panic() {
        let pieces =
            ["a", "=", "\"x", "'", "(", ")", "not", " ", "@", "1", ".", "`", "in", "\u{20ac}", "-", "\\", ",", "and"];
        let mut seed = 7_u64;
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..12 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            if let Err(error) = parse(&text) {
                assert!(text.is_char_boundary(error.at), "{error:?}");
                let _ = error.to_string();
            }
        }
    }
}
