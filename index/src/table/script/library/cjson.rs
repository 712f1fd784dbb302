//! `cjson`: JSON from values and back.
//!
//! What can be set (depths, sparse arrays, odd numbers) is forgotten after the run: a script must not depend on which scripts
//! ran before it.

use super::Library;
use crate::table::script::lua::heap::Function;
use crate::table::script::lua::number::{self, Flags};
use crate::table::script::lua::value::Value;
use crate::table::script::lua::vm::{Args, NativeFn, Run, Throw, Vm};

/// However deep a script wants it.
const DEPTH_MAX: i32 = 1000;

pub const FUNCTIONS: Library = &[
    ("encode", encode),
    ("decode", decode),
    ("encode_sparse_array", encode_sparse_array),
    ("encode_max_depth", |vm, args| whole_option(vm, args, i32::MAX, |config| &mut config.encode_depth)),
    ("decode_max_depth", |vm, args| whole_option(vm, args, i32::MAX, |config| &mut config.decode_depth)),
    ("encode_number_precision", |vm, args| whole_option(vm, args, 14, |config| &mut config.precision)),
    ("encode_keep_buffer", |vm, args| switch_option(vm, args, |config| &mut config.keep_buffer)),
    ("encode_invalid_numbers", encode_invalid_numbers),
    ("decode_invalid_numbers", |vm, args| switch_option(vm, args, |config| &mut config.decode_invalid)),
    ("new", new),
];

/// What a copy of the library has been set to.
#[derive(Clone)]
pub struct Config {
    sparse_convert: bool,
    sparse_ratio: i32,
    sparse_safe: i32,
    encode_depth: i32,
    decode_depth: i32,
    precision: i32,
    keep_buffer: bool,
    encode_invalid: Invalid,
    decode_invalid: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Invalid {
    Refused,
    Shown,
    Null,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            sparse_convert: false,
            sparse_ratio: 2,
            sparse_safe: 10,
            encode_depth: 1000,
            decode_depth: 1000,
            precision: 14,
            keep_buffer: true,
            encode_invalid: Invalid::Refused,
            decode_invalid: true,
        }
    }
}

fn config_of<'v>(vm: &'v mut Vm<'_>, args: Args) -> &'v mut Config {
    let index = if let Value::Number(index) = args.keeps[0] { index as usize } else { 0 };
    let index = index.min(vm.session.json.len() - 1);
    &mut vm.session.json[index]
}

/// A copy of the library with settings of its own.
fn new(vm: &mut Vm<'_>, _: Args) -> Run<()> {
    vm.charge(300)?;
    let index = Value::Number(vm.session.json.len() as f64);
    vm.heap.take(size_of::<Config>() * 2)?;
    vm.session.json.push(Config::default());
    let table = vm.heap.table(0, FUNCTIONS.len() + 1)?;
    for &(name, native) in FUNCTIONS {
        let native: NativeFn = native;
        let function =
            vm.heap.function(Function::Native { native, keeps: [index, Value::Nil, Value::Nil, Value::Nil] })?;
        vm.set_field(table, name, function)?;
    }
    vm.set_field(table, "null", Value::Null)?;
    vm.ret.clear();
    vm.give(Value::Table(table))
}

fn at_most(vm: &mut Vm<'_>, args: Args, count: usize) -> Run<()> {
    if args.count > count {
        return Err(vm.bad_argument(count + 1, "found too many arguments"));
    }
    Ok(())
}

fn whole(vm: &mut Vm<'_>, args: Args, index: usize, least: i32, most: i32) -> Run<Option<i32>> {
    if matches!(vm.arg(args, index), Value::Nil) {
        return Ok(None);
    }
    let number = vm.need_integer(args, index)? as i32;
    if !(least..=most).contains(&number) {
        let what = format!("expected integer between {least} and {most}");
        return Err(vm.bad_argument(1, &what));
    }
    Ok(Some(number))
}

fn whole_option(vm: &mut Vm<'_>, args: Args, most: i32, field: fn(&mut Config) -> &mut i32) -> Run<()> {
    at_most(vm, args, 1)?;
    if let Some(number) = whole(vm, args, 0, 1, most)? {
        *field(config_of(vm, args)) = number;
    }
    let number = *field(config_of(vm, args));
    vm.give(Value::Number(f64::from(number)))
}

/// The place of a word among those that are possible.
fn word(vm: &mut Vm<'_>, args: Args, index: usize, words: &[&str]) -> Run<usize> {
    let text = vm.need_text(args, index)?;
    let text = String::from_utf8_lossy(vm.bytes(text)).into_owned();
    match words.iter().position(|word| *word == text) {
        Some(found) => Ok(found),
        None => Err(vm.bad_argument(index + 1, &format!("invalid option '{text}'"))),
    }
}

fn switch(vm: &mut Vm<'_>, args: Args, index: usize) -> Run<Option<bool>> {
    match vm.arg(args, index) {
        Value::Nil => Ok(None),
        Value::Bool(on) => Ok(Some(on)),
        _ => Ok(Some(word(vm, args, index, &["off", "on"])? == 1)),
    }
}

fn switch_option(vm: &mut Vm<'_>, args: Args, field: fn(&mut Config) -> &mut bool) -> Run<()> {
    at_most(vm, args, 1)?;
    if let Some(on) = switch(vm, args, 0)? {
        *field(config_of(vm, args)) = on;
    }
    let on = *field(config_of(vm, args));
    vm.give(Value::Bool(on))
}

fn encode_sparse_array(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    at_most(vm, args, 3)?;
    let convert = switch(vm, args, 0)?;
    let ratio = whole(vm, args, 1, 0, i32::MAX)?;
    let safe = whole(vm, args, 2, 0, i32::MAX)?;
    let config = config_of(vm, args);
    config.sparse_convert = convert.unwrap_or(config.sparse_convert);
    config.sparse_ratio = ratio.unwrap_or(config.sparse_ratio);
    config.sparse_safe = safe.unwrap_or(config.sparse_safe);
    let (convert, ratio, safe) = (config.sparse_convert, config.sparse_ratio, config.sparse_safe);
    vm.give(Value::Bool(convert))?;
    vm.give(Value::Number(f64::from(ratio)))?;
    vm.give(Value::Number(f64::from(safe)))
}

fn encode_invalid_numbers(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    at_most(vm, args, 1)?;
    let chosen = match vm.arg(args, 0) {
        Value::Nil => None,
        Value::Bool(true) => Some(Invalid::Shown),
        Value::Bool(false) => Some(Invalid::Refused),
        _ => Some([Invalid::Refused, Invalid::Shown, Invalid::Null][word(vm, args, 0, &["off", "on", "null"])?]),
    };
    let config = config_of(vm, args);
    config.encode_invalid = chosen.unwrap_or(config.encode_invalid);
    match config.encode_invalid {
        Invalid::Refused => vm.give(Value::Bool(false)),
        Invalid::Shown => vm.give(Value::Bool(true)),
        Invalid::Null => vm.give_text(b"null"),
    }
}

fn encode(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count != 1 {
        return Err(vm.bad_argument(1, "expected 1 argument"));
    }
    let config = config_of(vm, args).clone();
    let value = vm.arg(args, 0);
    let mut built = Vec::new();
    write(vm, &config, value, 0, &mut built)?;
    let value = vm.own_text(built)?;
    vm.give(value)
}

fn cannot(vm: &mut Vm<'_>, value: Value, why: &str) -> Throw {
    vm.complain(&format!("Cannot serialise {}: {why}", value.kind()))
}

fn write(vm: &mut Vm<'_>, config: &Config, value: Value, depth: i32, built: &mut Vec<u8>) -> Run<()> {
    vm.charge(4)?;
    match value {
        Value::Text(text) => write_text(vm, text, built)?,
        Value::Number(number) => write_number(vm, config, number, built)?,
        Value::Bool(true) => built.extend(b"true"),
        Value::Bool(false) => built.extend(b"false"),
        Value::Nil | Value::Null => built.extend(b"null"),
        Value::Table(table) => {
            let depth = depth + 1;
            if depth > config.encode_depth.min(DEPTH_MAX) {
                return Err(vm.complain(&format!("Cannot serialise, excessive nesting ({depth})")));
            }
            match array_len(vm, config, table)? {
                Some(len) if len > 0 => write_array(vm, config, table, len, depth, built)?,
                _ => write_object(vm, config, table, depth, built)?,
            }
        }
        Value::Function(_) | Value::Native(_) | Value::Thread(_) => {
            return Err(cannot(vm, value, "type not supported"));
        }
    }
    vm.will_build(built.len())
}

/// The highest index, if all keys are indexes and not too many are missing.
fn array_len(vm: &mut Vm<'_>, config: &Config, table: u32) -> Run<Option<usize>> {
    let object = vm.heap.tables.get(table);
    let places = object.places();
    let (mut most, mut count) = (0.0_f64, 0_usize);
    let mut place = 0;
    let mut array = true;
    while let Some((found, key, _)) = object.pair_from(place) {
        match key {
            Value::Number(number) if number >= 1.0 && number.floor() == number => {
                most = most.max(number);
                count += 1;
            }
            _ => {
                array = false;
                break;
            }
        }
        place = found + 1;
    }
    vm.charge(places as u64 / 8)?;
    if !array {
        return Ok(None);
    }
    let sparse = config.sparse_ratio > 0
        && most > count as f64 * f64::from(config.sparse_ratio)
        && most > f64::from(config.sparse_safe);
    if !sparse && most <= f64::from(i32::MAX) {
        return Ok(Some(most as usize));
    }
    if config.sparse_convert {
        return Ok(None);
    }
    Err(cannot(vm, Value::Table(table), "excessively sparse array"))
}

fn write_array(vm: &mut Vm<'_>, config: &Config, table: u32, len: usize, depth: i32, built: &mut Vec<u8>) -> Run<()> {
    built.push(b'[');
    for index in 1..=len {
        if index > 1 {
            built.push(b',');
        }
        let value = vm.raw_get(table, Value::Number(index as f64))?;
        write(vm, config, value, depth, built)?;
    }
    built.push(b']');
    Ok(())
}

fn write_object(vm: &mut Vm<'_>, config: &Config, table: u32, depth: i32, built: &mut Vec<u8>) -> Run<()> {
    built.push(b'{');
    let mut place = 0;
    let mut first = true;
    while let Some((found, key, value)) = vm.heap.tables.get(table).pair_from(place) {
        place = found + 1;
        if !first {
            built.push(b',');
        }
        first = false;
        match key {
            Value::Number(number) => {
                built.push(b'"');
                write_number(vm, config, number, built)?;
                built.push(b'"');
            }
            Value::Text(text) => write_text(vm, text, built)?,
            _ => return Err(cannot(vm, key, "table key must be a number or string")),
        }
        built.push(b':');
        write(vm, config, value, depth, built)?;
    }
    built.push(b'}');
    Ok(())
}

fn write_number(vm: &mut Vm<'_>, config: &Config, number: f64, built: &mut Vec<u8>) -> Run<()> {
    if !number.is_finite() {
        match config.encode_invalid {
            Invalid::Refused => return Err(cannot(vm, Value::Number(number), "must not be NaN or Inf")),
            Invalid::Null => {
                built.extend(b"null");
                return Ok(());
            }
            Invalid::Shown if number.is_nan() => {
                built.extend(b"nan");
                return Ok(());
            }
            Invalid::Shown => {}
        }
    }
    let text = if config.precision == 14 {
        number::show(number)
    } else {
        number::general(number, config.precision as usize, Flags::default())
    };
    built.extend(text.bytes());
    Ok(())
}

fn write_text(vm: &mut Vm<'_>, text: u32, built: &mut Vec<u8>) -> Run<()> {
    let len = vm.bytes(text).len();
    vm.charge_bytes(len * 2)?;
    vm.will_build(built.len() + len)?;
    built.push(b'"');
    for &c in vm.heap.texts.get(text) {
        match c {
            b'"' => built.extend(b"\\\""),
            b'\\' => built.extend(b"\\\\"),
            b'/' => built.extend(b"\\/"),
            8 => built.extend(b"\\b"),
            b'\t' => built.extend(b"\\t"),
            b'\n' => built.extend(b"\\n"),
            12 => built.extend(b"\\f"),
            b'\r' => built.extend(b"\\r"),
            0..32 | 127 => built.extend(format!("\\u{c:04x}").bytes()),
            c => built.push(c),
        }
    }
    built.push(b'"');
    Ok(())
}

enum Token {
    Text(Vec<u8>),
    Number(f64),
    Bool(bool),
    Null,
    /// A bracket, a comma, a colon, or a zero for the end.
    Sign(u8),
    Error(&'static str),
}

struct Reader {
    text: u32,
    at: usize,
    /// Where the last token begins.
    from: usize,
    depth: i32,
    config: Config,
}

fn decode(vm: &mut Vm<'_>, args: Args) -> Run<()> {
    if args.count != 1 {
        return Err(vm.bad_argument(1, "expected 1 argument"));
    }
    let text = vm.need_text(args, 0)?;
    let bytes = vm.bytes(text);
    if bytes.len() >= 2 && (bytes[0] == 0 || bytes[1] == 0) {
        return Err(vm.complain("JSON parser does not support UTF-16 or UTF-32"));
    }
    vm.charge_bytes(bytes.len() * 4)?;
    let config = config_of(vm, args).clone();
    let mut reader = Reader { text, at: 0, from: 0, depth: 0, config };
    let token = reader.next(vm)?;
    let value = reader.value(vm, token)?;
    match reader.next(vm)? {
        Token::Sign(0) => vm.give(value),
        token => Err(reader.unexpected(vm, "the end", &token)),
    }
}

impl Reader {
    fn peek(&self, vm: &Vm<'_>, ahead: usize) -> u8 {
        vm.bytes(self.text).get(self.at + ahead).copied().unwrap_or(0)
    }

    fn unexpected(&self, vm: &mut Vm<'_>, expected: &str, token: &Token) -> Throw {
        let found = match token {
            Token::Error(what) => what,
            Token::Text(_) => "T_STRING",
            Token::Number(_) => "T_NUMBER",
            Token::Bool(_) => "T_BOOLEAN",
            Token::Null => "T_NULL",
            Token::Sign(b'{') => "T_OBJ_BEGIN",
            Token::Sign(b'}') => "T_OBJ_END",
            Token::Sign(b'[') => "T_ARR_BEGIN",
            Token::Sign(b']') => "T_ARR_END",
            Token::Sign(b':') => "T_COLON",
            Token::Sign(b',') => "T_COMMA",
            Token::Sign(_) => "T_END",
        };
        vm.complain(&format!("Expected {expected} but found {found} at character {}", self.from + 1))
    }

    fn deeper(&mut self, vm: &mut Vm<'_>) -> Run<()> {
        self.depth += 1;
        if self.depth > self.config.decode_depth.min(DEPTH_MAX) {
            let what = format!("Found too many nested data structures ({}) at character {}", self.depth, self.at);
            return Err(vm.complain(&what));
        }
        Ok(())
    }

    fn value(&mut self, vm: &mut Vm<'_>, token: Token) -> Run<Value> {
        vm.charge(4)?;
        match token {
            Token::Text(text) => vm.own_text(text),
            Token::Number(number) => Ok(Value::Number(number::canonical(number))),
            Token::Bool(value) => Ok(Value::Bool(value)),
            Token::Null => Ok(Value::Null),
            Token::Sign(b'{') => self.object(vm),
            Token::Sign(b'[') => self.array(vm),
            token => Err(self.unexpected(vm, "value", &token)),
        }
    }

    fn object(&mut self, vm: &mut Vm<'_>) -> Run<Value> {
        self.deeper(vm)?;
        let table = vm.heap.table(0, 0)?;
        let mut token = self.next(vm)?;
        if matches!(token, Token::Sign(b'}')) {
            self.depth -= 1;
            return Ok(Value::Table(table));
        }
        loop {
            let key = match token {
                Token::Text(text) => vm.own_text(text)?,
                token => return Err(self.unexpected(vm, "object key string", &token)),
            };
            match self.next(vm)? {
                Token::Sign(b':') => {}
                token => return Err(self.unexpected(vm, "colon", &token)),
            }
            token = self.next(vm)?;
            let value = self.value(vm, token)?;
            vm.raw_set(table, key, value)?;
            match self.next(vm)? {
                Token::Sign(b'}') => break,
                Token::Sign(b',') => token = self.next(vm)?,
                token => return Err(self.unexpected(vm, "comma or object end", &token)),
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn array(&mut self, vm: &mut Vm<'_>) -> Run<Value> {
        self.deeper(vm)?;
        let table = vm.heap.table(0, 0)?;
        let mut token = self.next(vm)?;
        if matches!(token, Token::Sign(b']')) {
            self.depth -= 1;
            return Ok(Value::Table(table));
        }
        let mut index = 1.0;
        loop {
            let value = self.value(vm, token)?;
            vm.raw_set(table, Value::Number(index), value)?;
            index += 1.0;
            match self.next(vm)? {
                Token::Sign(b']') => break,
                Token::Sign(b',') => token = self.next(vm)?,
                token => return Err(self.unexpected(vm, "comma or array end", &token)),
            }
        }
        self.depth -= 1;
        Ok(Value::Table(table))
    }

    fn next(&mut self, vm: &mut Vm<'_>) -> Run<Token> {
        while matches!(self.peek(vm, 0), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
        self.from = self.at;
        let c = self.peek(vm, 0);
        Ok(match c {
            0 => Token::Sign(0),
            b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                self.at += 1;
                Token::Sign(c)
            }
            b'"' => {
                let left = vm.bytes(self.text).len() - self.at;
                vm.will_build(left.min(1 << 16))?;
                self.string(vm)
            }
            b'-' | b'0'..=b'9' if !self.config.decode_invalid && self.is_odd_number(vm) => {
                Token::Error("invalid number")
            }
            b'-' | b'0'..=b'9' => self.number(vm),
            _ if self.takes(vm, b"true") => Token::Bool(true),
            _ if self.takes(vm, b"false") => Token::Bool(false),
            _ if self.takes(vm, b"null") => Token::Null,
            b'+' | b'i' | b'I' | b'n' | b'N' if self.config.decode_invalid && self.is_odd_number(vm) => self.number(vm),
            _ => Token::Error("invalid token"),
        })
    }

    fn takes(&mut self, vm: &Vm<'_>, word: &[u8]) -> bool {
        let found = vm.bytes(self.text)[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Whether it is a number that JSON does not have but C reads.
    fn is_odd_number(&self, vm: &Vm<'_>) -> bool {
        let mut ahead = 0;
        match self.peek(vm, 0) {
            b'+' => return true,
            b'-' => ahead = 1,
            _ => {}
        }
        match self.peek(vm, ahead) {
            b'0' => {
                let next = self.peek(vm, ahead + 1);
                next | 0x20 == b'x' || next.is_ascii_digit()
            }
            c if c <= b'9' => false,
            _ => {
                let rest = vm.bytes(self.text).get(self.at + ahead..self.at + ahead + 3).unwrap_or(&[]);
                rest.eq_ignore_ascii_case(b"inf") || rest.eq_ignore_ascii_case(b"nan")
            }
        }
    }

    fn number(&mut self, vm: &Vm<'_>) -> Token {
        match number::prefix(&vm.bytes(self.text)[self.at..]) {
            Some((number, used)) => {
                self.at += used;
                Token::Number(number)
            }
            None => Token::Error("invalid number"),
        }
    }

    fn string(&mut self, vm: &Vm<'_>) -> Token {
        let bytes = vm.bytes(self.text);
        let mut built = Vec::new();
        self.at += 1;
        loop {
            let c = bytes.get(self.at).copied().unwrap_or(0);
            match c {
                b'"' => {
                    self.at += 1;
                    return Token::Text(built);
                }
                0 => {
                    self.from = self.at;
                    return Token::Error("unexpected end of string");
                }
                b'\\' => {
                    let escaped = match bytes.get(self.at + 1).copied().unwrap_or(0) {
                        c @ (b'"' | b'\\' | b'/') => c,
                        b'b' => 8,
                        b't' => b'\t',
                        b'n' => b'\n',
                        b'f' => 12,
                        b'r' => b'\r',
                        b'u' => {
                            let Some((code, used)) = unicode(&bytes[self.at..]) else {
                                self.from = self.at;
                                return Token::Error("invalid unicode escape code");
                            };
                            built.extend(code.encode_utf8(&mut [0; 4]).bytes());
                            self.at += used;
                            continue;
                        }
                        _ => {
                            self.from = self.at;
                            return Token::Error("invalid escape code");
                        }
                    };
                    built.push(escaped);
                    self.at += 2;
                }
                c => {
                    built.push(c);
                    self.at += 1;
                }
            }
        }
    }
}

/// The character that an escape such as `\u00e9`, or two of them, stand for.
fn unicode(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at + 2..at + 6)?;
        let marked = text[at..].starts_with(b"\\u") && digits.iter().all(u8::is_ascii_hexdigit);
        let digits = str::from_utf8(digits).ok()?;
        if marked { u32::from_str_radix(digits, 16).ok() } else { None }
    };
    let first = unit(0)?;
    if first & 0xf800 != 0xd800 {
        return Some((char::from_u32(first)?, 6));
    }
    if first & 0x400 != 0 {
        return None;
    }
    let second = unit(6)?;
    if second & 0xfc00 != 0xdc00 {
        return None;
    }
    Some((char::from_u32(((first & 0x3ff) << 10 | second & 0x3ff) + 0x10000)?, 12))
}
