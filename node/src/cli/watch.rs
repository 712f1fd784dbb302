//! `watch`: what changes, a line each, until it is stopped.

use clap::Args;
use loci_client::{Filter, Parts, Token, WatchEvent, WatchKind};
use serde_json::{Value as Json, json};

use super::connect::{Connection, filter};
use super::failure::{Failure, Kind};
use super::json::{bytes_to_json, moment_to_text, record_to_json};
use super::output::{bytes_shown, print, print_json, printable};
use super::records::FILTER_HELP;

#[derive(Debug, Args)]
#[command(after_help = FILTER_HELP)]
pub struct WatchArgs {
    /// The namespace, if it is not that of --namespace, and the collection; with only a namespace and /, all of its
    /// collections: "redis/".
    #[arg(required = true, num_args = 1..=2, value_names = ["NAMESPACE", "COLLECTION"])]
    names: Vec<String>,
    /// Only this key; may be given several times.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Only keys that begin with this.
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only records that this takes, before or after the change.
    #[arg(long, value_parser = filter)]
    filter: Option<Filter>,
    /// Everything after this token, which each line shows: SHARD:INDEX. From now on unless this is given.
    #[arg(long, value_name = "TOKEN")]
    from: Option<Token>,
    /// Show what records hold, too.
    #[arg(long)]
    values: bool,
    /// Stop after so many changes.
    #[arg(long, value_name = "CHANGES")]
    count: Option<u64>,
    #[command(flatten)]
    connection: Connection,
}

pub async fn watch(args: WatchArgs) -> Result<(), Failure> {
    let (namespace, collection) = match args.names.as_slice() {
        [name] => match name.strip_suffix('/') {
            Some(namespace) => (namespace.to_owned(), None),
            None => (args.connection.namespace.clone(), Some(name.clone())),
        },
        [namespace, collection] => (namespace.clone(), Some(collection.clone())),
        _ => return Err(Failure::usage("name a collection")),
    };
    let subject = match &collection {
        Some(collection) => format!("collection {collection}"),
        None => format!("namespace {namespace}"),
    };
    let mut watch = args.connection.client()?.watch(namespace).prefix(args.prefix).filter(args.filter);
    if let Some(collection) = &collection {
        watch = watch.collection(collection);
    }
    for key in args.keys {
        watch = watch.key(key);
    }
    if args.values {
        watch = watch.with_parts(Parts::default());
    }
    if let Some(from) = args.from {
        watch = watch.from(from);
    }
    let mut left = args.count;
    let stopped = tokio::signal::ctrl_c();
    tokio::pin!(stopped);
    while left != Some(0) {
        let event = tokio::select! {
            event = watch.next() => event.map_err(|error| Failure::call(&subject, error))?,
            _ = &mut stopped => return Err(Failure::new(Kind::Interrupted, format!("stopped at {}", watch.token()))),
        };
        match args.connection.json {
            true => print_json(&json_of(&event))?,
            false => print(line(&event))?,
        }
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn json_of(event: &WatchEvent) -> Json {
    let mut json = json!({
        "collection": event.collection,
        "kind": event.kind.name(),
        "token": format!("{}:{}", event.shard, event.index),
        "number": event.number,
        "version": event.version,
        "at": moment_to_text(event.at),
    });
    if let Json::Object(fields) = &mut json {
        bytes_to_json(fields, "key", &event.key);
        if let Some(record) = &event.record {
            fields.insert("record".into(), record_to_json(record));
        }
        if let Some(name) = &event.type_name {
            fields.insert("type".into(), json!(name));
        }
    }
    json
}

fn line(event: &WatchEvent) -> String {
    let token = format!("{}:{}", event.shard, event.index);
    let key = match event.kind {
        WatchKind::Cleared | WatchKind::Dropped => event.collection.clone(),
        _ => format!("{}/{}", event.collection, bytes_shown(&event.key, 80)),
    };
    let value = event.record.as_ref().and_then(|record| record.value.as_ref());
    let shown = match (value, &event.type_name) {
        (Some(value), _) => bytes_shown(value, 60),
        (None, Some(name)) => format!("({name})"),
        (None, None) => String::new(),
    };
    let line = format!("{:<24}  {token:<12}  {:<8}  {key:<32}  {shown}", moment_to_text(event.at), event.kind.name());
    printable(line.trim_end())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use loci_client::Record;

    use super::*;

    #[test]
    fn lines_are_aligned_and_say_where_to_go_on() {
        let event = |kind, key: &'static str, record| WatchEvent {
            collection: "notes".into(),
            key: key.into(),
            kind,
            shard: 1,
            index: 42,
            number: 0,
            at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            version: 7,
            record,
            type_name: None,
        };
        let one = line(&event(WatchKind::Created, "n1", Some(Record::new("n1").with_value("a\u{1b}text"))));
        let other = line(&event(WatchKind::Deleted, "n1", None));
        assert_eq!(one, "2023-11-14T22:13:20.123Z  1:42          created   notes/n1                          a text");
        assert_eq!(other, "2023-11-14T22:13:20.123Z  1:42          deleted   notes/n1");
        assert_eq!(json_of(&event(WatchKind::Left, "x", None))["token"], "1:42");
        assert_eq!("1:42".parse::<Token>().unwrap().to_string(), "1:42");
        assert_eq!("1:42,3:7".parse::<Token>().unwrap().to_string(), "1:42,3:7");
        assert!("42".parse::<Token>().is_err());
    }
}
