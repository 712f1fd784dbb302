//! The configuration file: `loci serve --config loci.toml`. Every option of `loci serve` has a key of the same name.
//!
//! ```toml
//! data = "/var/lib/loci"
//! listen = "10.0.0.1:7700"
//! join = ["10.0.0.1:7700", "10.0.0.2:7700", "10.0.0.3:7700"]
//! insecure = true
//! memory-mib = 4096
//! ```
//!
//! The keys become options of the command line, after those that were typed, so that one set of rules reads both. What was
//! typed wins. Whatever is wrong with a key is said with the file and the line.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use toml::de::{DeTable, DeValue};

use crate::config::ServeArgs;

/// The option that names the file.
const OPTION: &str = "config";
/// The option that must be there; a key is tried beside it.
const REQUIRED: &str = "data";

/// Why a file's options are not used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("--config: {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A line that cannot be meant.
    #[error("{path}:{line}: {message}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// The command line with the options of its configuration file, if it names one.
pub fn merged(mut typed: Vec<OsString>) -> Result<Vec<OsString>, FileError> {
    if typed.get(1).is_none_or(|command| command != "serve") {
        return Ok(typed);
    }
    let Some(path) = value(&typed, OPTION).map(PathBuf::from) else { return Ok(typed) };
    let text = std::fs::read_to_string(&path).map_err(|error| FileError::Unreadable { path: path.clone(), error })?;
    for (name, option) in options(&path, &text)? {
        if !is_typed(&typed, &name) {
            typed.push(option);
        }
    }
    Ok(typed)
}

/// What was typed after `--option`, or `--option=`.
fn value(typed: &[OsString], option: &str) -> Option<OsString> {
    let mut rest = typed.iter();
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        match text.strip_prefix("--").and_then(|named| named.strip_prefix(option)) {
            Some("") => return rest.next().cloned(),
            Some(value) if value.starts_with('=') => return Some(value[1..].into()),
            _ => {}
        }
    }
    None
}

fn is_typed(typed: &[OsString], option: &str) -> bool {
    typed
        .iter()
        .filter_map(|argument| argument.to_str()?.strip_prefix("--"))
        .any(|argument| argument.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
}

/// The keys of a file, each with the option that it stands for; none for `false`.
fn options(path: &Path, text: &str) -> Result<Vec<(String, OsString)>, FileError> {
    let wrong = |span: Range<usize>, message: String| {
        let line = 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
        FileError::Line { path: path.to_owned(), line, message }
    };
    let table =
        DeTable::parse(text).map_err(|error| wrong(error.span().unwrap_or_default(), error.message().to_owned()))?;
    let command = ServeArgs::augment_args(Command::new("serve"));
    let known: Vec<&str> =
        command.get_arguments().filter_map(|argument| argument.get_long()).filter(|name| *name != OPTION).collect();
    let mut options = Vec::new();
    for (key, value) in table.into_inner() {
        let name = key.get_ref().to_string();
        if !known.contains(&&*name) {
            let message =
                format!("unknown key {name:?}: the keys are the options of `loci serve`: {}", known.join(", "));
            return Err(wrong(key.span(), message));
        }
        let takes_value = command
            .get_arguments()
            .find(|argument| argument.get_long() == Some(&*name))
            .is_some_and(|argument| argument.get_action().takes_values());
        let written = match value.get_ref() {
            DeValue::Boolean(false) if !takes_value => continue,
            DeValue::Boolean(true) if !takes_value => None,
            _ if !takes_value => return Err(wrong(value.span(), format!("{name} is either true or false"))),
            DeValue::Array(values) => {
                let texts = values.iter().map(|value| scalar(value.get_ref()));
                let texts = texts.collect::<Option<Vec<_>>>();
                Some(texts.ok_or_else(|| wrong(value.span(), format!("{name} is a list of texts")))?.join(","))
            }
            other => Some(scalar(other).ok_or_else(|| wrong(value.span(), format!("{name} is a text or a number")))?),
        };
        let mut option = format!("--{name}");
        if let Some(written) = written {
            // Writing to a text does not fail.
            let _ = write!(option, "={written}");
        }
        try_one(&command, &name, &option).map_err(|message| wrong(value.span(), message))?;
        options.push((name, option.into()));
    }
    Ok(options)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Float(number) => Some(number.as_str().replace('_', "")),
        _ => None,
    }
}

/// What the command line's own rules say of one option.
fn try_one(command: &Command, name: &str, option: &str) -> Result<(), String> {
    let required = format!("--{REQUIRED}=x");
    let others = (name != REQUIRED).then_some(required.as_str());
    let arguments = ["serve"].into_iter().chain(others).chain([option]).map(OsStr::new);
    match command.clone().no_binary_name(false).try_get_matches_from(arguments) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            Err(first.trim_start_matches("error: ").to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Config;

    #[derive(Parser)]
    struct Serve {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn parsed(text: &str, typed: &[&str]) -> Result<ServeArgs, FileError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let config = format!("--config={}", file.path().display());
        let line = ["loci", "serve", &config].into_iter().chain(typed.iter().copied()).map(OsString::from);
        let merged = merged(line.collect())?;
        Ok(Serve::parse_from(merged.into_iter().skip(1)).args)
    }

    #[test]
    fn every_option_has_a_key_of_its_name_and_what_is_typed_wins() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "secret").unwrap();
        let password = format!("--resp-password-file={}", secret.path().display());
        let (_, path) = password.split_once('=').unwrap();
        let text = r#"
            # All of them.
            data = "/var/lib/loci"
            listen = "10.0.0.1:7700"
            advertise = "db1.example.org:7700"
            join = ["10.0.0.2:7700", "10.0.0.3:7700"]
            metrics = "off"
            insecure = true
            resp-cluster = true
            resp-maxmemory-policy = "noeviction"
            no-scripts = true
            memory-mib = 4_096
            recall-one-in = 0
            walk-rate = 10
            graph-threads = 2
            resp-threads = 3
            log-file-mib = 16
            otlp = "http://127.0.0.1:4317"
            trace-sample = 0.5
            log-format = "json"
            log-level = "warn"
        "#;
        let text = &format!("{text}\n            resp-password-file = '{path}'");
        // Those that are not in the text have a default, which a file can say as well.
        let command = ServeArgs::augment_args(Command::new("serve"));
        for argument in command.get_arguments() {
            let name = argument.get_long().expect("an option has a name");
            if name != OPTION && !text.contains(&format!(" {name} = ")) {
                let default = argument.get_default_values().first().and_then(|default| default.to_str());
                let default =
                    default.unwrap_or_else(|| panic!("{name} is neither in the test's file nor has it a default"));
                parsed(&format!("data = 'd'\n{name} = '{default}'"), &[]).unwrap();
            }
        }
        let from_file = Config::from_args(parsed(text, &[]).unwrap()).unwrap();
        let typed = [
            "--data=/var/lib/loci --listen 10.0.0.1:7700 --advertise db1.example.org:7700 --metrics off --insecure",
            "--resp-cluster --resp-maxmemory-policy noeviction --no-scripts",
            "--join 10.0.0.2:7700,10.0.0.3:7700 --memory-mib 4096 --recall-one-in 0 --walk-rate 10 --graph-threads 2",
            "--resp-threads 3 --log-file-mib 16 --otlp http://127.0.0.1:4317 --trace-sample 0.5 --log-format json --log-level warn",
        ];
        let typed: Vec<&str> = typed.iter().flat_map(|line| line.split(' ')).chain([&*password]).collect();
        assert_eq!(Config::from_args(parsed("", &typed).unwrap()).unwrap(), from_file);
        let both = parsed(text, &["--memory-mib", "512", "--join=10.0.0.9:7700", "--log-level", "debug"]).unwrap();
        assert_eq!(
            (both.memory_mib, both.join, &*both.log_level),
            (Some(512), vec!["10.0.0.9:7700".to_owned()], "debug")
        );
        let not = parsed("data = 'd'\ninsecure = false", &[]).unwrap();
        assert!(!not.insecure);
    }

    #[test]
    fn whatever_is_wrong_is_said_with_its_line() {
        for (text, expected) in [
            ("data = 'd'\n\nlistem = '127.0.0.1:1'", ":3: unknown key \"listem\""),
            ("data = 'd'\nmemory_mib = 1", ":2: unknown key \"memory_mib\""),
            ("config = 'other.toml'", ":1: unknown key \"config\""),
            ("data = 'd'\nmemory-mib = 'much'", ":2: invalid value 'much'"),
            ("data = 'd'\nmemory-mib = true", ":2: memory-mib is a text or a number"),
            ("data = 'd'\nlog-format = 'xml'", ":2: invalid value 'xml'"),
            ("insecure = 'yes'", ":1: insecure is either true or false"),
            ("data = 'd'\njoin = [[1]]", ":2: join is a list of texts"),
            ("[node]\ndata = 'd'", "unknown key \"node\""),
            ("data = 'd'\nlisten =", ":2: "),
            ("data = 'd'\ndata = 'e'", ":2: "),
        ] {
            let message = parsed(text, &[]).err().unwrap_or_else(|| panic!("{text:?} was taken")).to_string();
            assert!(message.contains(expected), "{message:?} lacks {expected:?}");
        }
    }

    #[test]
    fn only_serve_reads_a_file_and_a_missing_one_is_named() {
        let line = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let other = line("loci get --config nowhere.toml k");
        assert_eq!(merged(other.clone()).unwrap(), other);
        let error = merged(line("loci serve --config nowhere.toml")).unwrap_err().to_string();
        assert!(error.starts_with("--config: nowhere.toml: "), "{error}");
    }
}
