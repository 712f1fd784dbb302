//! `cache`: a command on typed values, as clients of Redis have them.

use bytes::Bytes;
use clap::Args;
use loci_client::CacheReply;
use serde_json::{Value as Json, json};

use super::connect::Connection;
use super::failure::Failure;
use super::output::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  loci cache SET greeting hello EX 60
  loci cache GET greeting
  loci cache --collection db0 --namespace redis HGETALL user:42
  loci cache TAG.DROP postgres:users:42")]
pub struct CacheArgs {
    /// The collection. What clients of Redis see are db0 to db15 of the namespace redis.
    #[arg(long, short, env = "LOCI_CACHE", default_value = "cache")]
    collection: String,
    /// The command and its arguments, after all options.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

pub async fn cache(args: CacheArgs) -> Result<(), Failure> {
    let cache = args.connection.collection(&args.collection)?.cache();
    let reply = cache
        .call(args.command.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())))
        .await
        .map_err(|error| Failure::call(&args.collection, error))?;
    if args.connection.json {
        return print_json(&json!({ "reply": to_json(&reply) }));
    }
    let mut text = String::new();
    write(&reply, "", &mut text);
    print(text.trim_end())
}

/// Bytes that are no text become the list of their values.
fn to_json(reply: &CacheReply) -> Json {
    match reply {
        CacheReply::Status(text) | CacheReply::Error(text) => json!(text),
        CacheReply::Int(number) => json!(number),
        CacheReply::Bytes(bytes) => {
            std::str::from_utf8(bytes).map_or_else(|_| json!(bytes.to_vec()), |text| json!(text))
        }
        CacheReply::Double(number) => json!(number),
        CacheReply::Bool(truth) => json!(truth),
        CacheReply::Null => Json::Null,
        CacheReply::Array(replies) | CacheReply::Set(replies) => replies.iter().map(to_json).collect(),
        CacheReply::Map(pairs) => pairs.iter().map(|(key, value)| json!([to_json(key), to_json(value)])).collect(),
    }
}

/// As `redis-cli` shows it; `indent` stands before every line but the first.
fn write(reply: &CacheReply, indent: &str, text: &mut String) {
    match reply {
        CacheReply::Status(status) => *text += status,
        CacheReply::Error(error) => *text += &format!("(error) {error}"),
        CacheReply::Int(number) => *text += &format!("(integer) {number}"),
        CacheReply::Bytes(bytes) => *text += &format!("\"{}\"", bytes.escape_ascii()),
        CacheReply::Double(number) => *text += &format!("(double) {number}"),
        CacheReply::Bool(truth) => *text += if *truth { "(true)" } else { "(false)" },
        CacheReply::Null => *text += "(nil)",
        CacheReply::Array(replies) | CacheReply::Set(replies) => {
            let lines = replies.iter().map(|reply| vec![reply]);
            write_lines(lines.collect(), "(empty array)", indent, text);
        }
        CacheReply::Map(pairs) => {
            let lines = pairs.iter().map(|(key, value)| vec![key, value]);
            write_lines(lines.collect(), "(empty hash)", indent, text);
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
}

fn write_lines(lines: Vec<Vec<&CacheReply>>, empty: &str, indent: &str, text: &mut String) {
    if lines.is_empty() {
        *text += empty;
    }
    let width = lines.len().to_string().len();
    for (number, line) in (1..).zip(lines) {
        let before = if number == 1 { "" } else { indent };
        let head = format!("{number:>width$}) ");
        *text += &format!("{before}{head}");
        let deeper = format!("{indent}{}", " ".repeat(head.len()));
        for (place, reply) in line.into_iter().enumerate() {
            if place > 0 {
                text.truncate(text.trim_end_matches('\n').len());
                *text += " => ";
            }
            write(reply, &deeper, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_look_as_people_know_them() {
        let bytes = |text: &'static str| CacheReply::Bytes(text.into());
        let nested = CacheReply::Array(vec![
            CacheReply::Int(7),
            CacheReply::Array(vec![bytes("a\n"), CacheReply::Null]),
            CacheReply::Map(vec![(bytes("k"), bytes("v")), (bytes("l"), CacheReply::Array(vec![]))]),
        ]);
        let mut text = String::new();
        write(&nested, "", &mut text);
        let expected =
            "1) (integer) 7\n2) 1) \"a\\n\"\n   2) (nil)\n3) 1) \"k\" => \"v\"\n   2) \"l\" => (empty array)\n";
        assert_eq!(text, expected);
        assert_eq!(to_json(&nested), json!([7, ["a\n", null], [["k", "v"], ["l", []]]]));
    }
}
