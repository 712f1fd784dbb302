//! What scripts do, beside what the real Redis does with them, and what they cannot do.

mod cases;
mod bounds;
mod sameness;
mod damage;

use super::{Engine, Host, Limits, Reply, Script, ScriptError};
use std::collections::BTreeMap;

/// A few commands, as Redis 7.0 answers them.
#[derive(Default)]
pub struct Few {
    pub texts: BTreeMap<Vec<u8>, Vec<u8>>,
    pub calls: Vec<Vec<u8>>,
}

impl Host for Few {
    fn call(&mut self, arguments: &[&[u8]], resp3: bool) -> Reply {
        let name = arguments[0].to_ascii_lowercase();
        self.calls.push(name.clone());
        let wrong = || Reply::Error(b"ERR Wrong number of args calling Redis command from script".to_vec());
        match (&name[..], arguments) {
            (b"get", [_, key]) => self.texts.get(*key).map_or(Reply::Null, |text| Reply::Bulk(text.clone())),
            (b"set", [_, key, text, ..]) => {
                self.texts.insert(key.to_vec(), text.to_vec());
                Reply::Status(b"OK".to_vec())
            }
            (b"del", [_, key]) => Reply::Int(i64::from(self.texts.remove(*key).is_some())),
            (b"incr", [_, key]) => {
                let text = self.texts.get(*key).cloned().unwrap_or_else(|| b"0".to_vec());
                let Some(number) = str::from_utf8(&text).ok().and_then(|text| text.parse::<i64>().ok()) else {
                    return Reply::Error(b"ERR value is not an integer or out of range".to_vec());
                };
                self.texts.insert(key.to_vec(), (number + 1).to_string().into_bytes());
                Reply::Int(number + 1)
            }
            (b"forms", _) => forms(resp3),
            (b"get" | b"set" | b"del" | b"incr", _) => wrong(),
            _ => Reply::Error(b"ERR Unknown Redis command called from script".to_vec()),
        }
    }
}

/// One reply of every form.
fn forms(_: bool) -> Reply {
    Reply::Array(vec![
        Reply::Map(vec![(Reply::Bulk(b"a".to_vec()), Reply::Int(1))]),
        Reply::Set(vec![Reply::Bulk(b"m".to_vec())]),
        Reply::Double(1.5),
        Reply::Bool(true),
        Reply::Null,
        Reply::BigNumber(b"123".to_vec()),
        Reply::Verbatim { format: *b"txt", text: b"v".to_vec() },
    ])
}

pub fn run(source: &str) -> Result<Reply, ScriptError> {
    Engine::new().run(&mut Few::default(), &Script::new(source.as_bytes()), &[], &[], &Limits::default())
}

/// A reply on one line.
pub fn show(reply: &Reply) -> String {
    let all = |elements: &[Reply]| elements.iter().map(show).collect::<Vec<_>>().join(", ");
    match reply {
        Reply::Status(text) => format!("+{}", text.escape_ascii()),
        Reply::Error(text) => format!("-{}", text.escape_ascii()),
        Reply::Int(number) => format!(":{number}"),
        Reply::Bulk(text) => format!("\"{}\"", text.escape_ascii()),
        Reply::Null => "_".into(),
        Reply::Array(elements) => format!("[{}]", all(elements)),
        Reply::Set(elements) => format!("~[{}]", all(elements)),
        Reply::Map(pairs) => {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{}: {}", show(key), show(value))).collect();
            format!("%[{}]", pairs.join(", "))
        }
        Reply::Double(number) => format!(",{number}"),
        Reply::Bool(value) => format!("#{value}"),
        Reply::BigNumber(text) => format!("({}", text.escape_ascii()),
        Reply::Verbatim { format, text } => format!("={}:{}", format.escape_ascii(), text.escape_ascii()),
    }
}

pub fn shown(result: Result<Reply, ScriptError>) -> String {
    match result {
        Ok(reply) => show(&reply),
        Err(ScriptError::Compile(what)) => format!("-ERR {}", what.as_bytes().escape_ascii()),
        Err(other) => format!("-{other}"),
    }
}
