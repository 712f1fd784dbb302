//! Functions: libraries that are kept by name, and called by the names of their functions.
//!
//! ```text
//!   FUNCTION LOAD "#!lua name=lib ..." --> Engine::load: which functions? --> Libraries { lib: source, functions }
//!   FCALL f keys... args...            --> the library of f, loaded anew  --> f(keys, args)
//! ```
//!
//! Like scripts they are part of the state, and their calls are in the log. A library is loaded anew for every call: what one
//! leaves in its variables is not there for the next, which is how every member answers alike after a restart too. Libraries
//! are not forgotten by themselves; all of them take at most [`LIBRARIES_BYTES_MAX`].
//!
//! Always: no two libraries have a function of the same name, whatever its case; one of them is found by its name in any case.

use std::collections::BTreeMap;

use super::commands::{self, Failure, is};
use super::glob;
use super::keyspace::Keyspace;
use super::rdb;
use super::script::{Limits, Registered, Script, is_name};
use super::scripting::{Given, Scripts, in_reach, not_a_script, too_long};
use super::tape::Tape;

/// The most bytes of all libraries together.
pub const LIBRARIES_BYTES_MAX: usize = 4 << 20;
/// The most libraries.
const LIBRARIES_MAX: usize = 1_000;
/// What loading a library may use.
const LOAD_LIMITS: Limits = Limits { steps: 5_000_000, memory_bytes: 16 << 20, reply_bytes: 1 << 20 };
/// Begins a library in a dump.
const DUMPED: u8 = 245;

/// A library.
pub struct Library {
    name: Vec<u8>,
    script: Script,
    functions: Vec<Registered>,
    /// What its source, and the names and descriptions of its functions take.
    bytes: usize,
}

/// All libraries, by name.
#[derive(Default)]
pub struct Libraries {
    all: BTreeMap<Vec<u8>, Library>,
    /// The libraries of functions, by the names of these in lower case.
    of: BTreeMap<Vec<u8>, Vec<u8>>,
    bytes: usize,
}

/// What is done where a library is there already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Flush,
    Append,
    Replace,
}

impl Library {
    /// The name that a source's first line gives.
    pub fn named(source: &[u8]) -> Result<Vec<u8>, Failure> {
        let said = |text: String| Failure::from(format!("ERR {text}"));
        let line = source.strip_prefix(b"#!").ok_or_else(|| said("Missing library metadata".into()))?;
        let end = line.iter().position(|byte| *byte == b'\n').ok_or_else(|| said("Invalid library metadata".into()))?;
        let mut parts = line[..end].split(u8::is_ascii_whitespace).filter(|part| !part.is_empty());
        let engine = parts.next().unwrap_or_default();
        let mut name = None;
        for part in parts {
            match part.split_at_checked(5) {
                Some((key, value)) if is(key, "name=") => {
                    if name.replace(value.to_vec()).is_some() {
                        return Err(said("Invalid metadata value, name argument was given multiple times".into()));
                    }
                }
                _ => return Err(said(format!("Invalid metadata value given: {}", String::from_utf8_lossy(part)))),
            }
        }
        let name = name.ok_or_else(|| said("Library name was not given".into()))?;
        if !is_name(&name) {
            let what = "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";
            return Err(said(what.into()));
        }
        if !is(engine, "lua") {
            return Err(said(format!("Engine '{}' not found", String::from_utf8_lossy(engine))));
        }
        Ok(name)
    }
}

impl Libraries {
    /// Their sources, by name.
    pub fn sources(&self) -> impl Iterator<Item = &[u8]> {
        self.all.values().map(|library| library.script.source())
    }

    /// What they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn remove(&mut self, name: &[u8]) -> bool {
        let Some(library) = self.all.remove(name) else { return false };
        self.bytes -= library.bytes;
        for function in &library.functions {
            let known = function.name.to_ascii_lowercase();
            if self.of.get(&known).is_some_and(|of| *of == library.name) {
                self.of.remove(&known);
            }
        }
        true
    }

    /// Adds one; in the place of one of its name only if that may be.
    fn add(&mut self, library: Library, replace: bool) -> Result<(), Failure> {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        if !replace && self.all.contains_key(&library.name) {
            return Err(format!("ERR Library '{}' already exists", text(&library.name)).into());
        }
        let elsewhere =
            |name: &[u8]| self.of.get(&name.to_ascii_lowercase()).is_some_and(|other| *other != library.name);
        if let Some(function) = library.functions.iter().find(|function| elsewhere(&function.name)) {
            return Err(format!("ERR Function {} already exists", text(&function.name)).into());
        }
        let old = self.all.get(&library.name).map_or(0, |old| old.bytes);
        if self.all.len() >= LIBRARIES_MAX && !self.all.contains_key(&library.name) {
            return Err(format!("ERR there may be at most {LIBRARIES_MAX} libraries").into());
        }
        if self.bytes - old + library.bytes > LIBRARIES_BYTES_MAX {
            return Err(format!("ERR all libraries together may have at most {LIBRARIES_BYTES_MAX} bytes").into());
        }
        self.put(library);
        Ok(())
    }

    /// Adds one that may be there.
    fn put(&mut self, library: Library) {
        self.remove(&library.name);
        self.bytes += library.bytes;
        let names = library.functions.iter().map(|function| function.name.to_ascii_lowercase());
        self.of.extend(names.map(|name| (name, library.name.clone())));
        self.all.insert(library.name.clone(), library);
    }
}

impl Scripts {
    fn library(&mut self, source: &[u8]) -> Result<Library, Failure> {
        too_long(source)?;
        let name = Library::named(source)?;
        let script = Script::new(source);
        let functions = self.engine.load(&script, &LOAD_LIMITS).map_err(not_a_script)?;
        if functions.is_empty() {
            return Err("ERR No functions registered".into());
        }
        let bytes = source.len() + functions.iter().map(Registered::bytes).sum::<usize>();
        Ok(Library { name, script, functions, bytes })
    }

    /// Takes in a library that was written down.
    pub(super) fn reload(&mut self, source: &[u8]) {
        // It was one when it was loaded first.
        if let Ok(library) = self.library(source) {
            self.libraries.put(library);
        }
    }

    /// FUNCTION.
    pub(super) fn function(&mut self, args: &[&[u8]], out: &mut Tape) -> Result<(), Failure> {
        let (what, rest) = (args[1], &args[2..]);
        match rest {
            [source] if is(what, "load") => self.load(source, false, out),
            [word, source] if is(what, "load") => match is(word, "replace") {
                true => self.load(source, true, out),
                false => Err(format!("ERR Unknown option given: {}", String::from_utf8_lossy(word)).into()),
            },
            [name] if is(what, "delete") => {
                if !self.libraries.remove(name) {
                    return Err("ERR Library not found".into());
                }
                out.ok();
                Ok(())
            }
            [] | [_] if is(what, "flush") => {
                if rest.first().is_some_and(|how| !is(how, "sync") && !is(how, "async")) {
                    return Err("ERR FUNCTION FLUSH only supports SYNC|ASYNC option".into());
                }
                self.libraries = Libraries::default();
                out.ok();
                Ok(())
            }
            _ if is(what, "list") => self.list(rest, out),
            [] if is(what, "dump") => {
                let mut payload = Vec::new();
                for source in self.libraries.sources() {
                    payload.push(DUMPED);
                    rdb::put_string(&mut payload, source);
                }
                rdb::seal(&mut payload, 10);
                out.bulk(&payload);
                Ok(())
            }
            [payload] if is(what, "restore") => self.restore(payload, Policy::Append, out),
            [payload, policy] if is(what, "restore") => {
                let policy = match () {
                    () if is(policy, "flush") => Policy::Flush,
                    () if is(policy, "append") => Policy::Append,
                    () if is(policy, "replace") => Policy::Replace,
                    () => {
                        let what = "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.";
                        return Err(what.into());
                    }
                };
                self.restore(payload, policy, out)
            }
            [] if is(what, "stats") => {
                out.map(2);
                out.bulk(b"running_script");
                out.null();
                out.bulk(b"engines");
                out.map(1);
                out.bulk(b"LUA");
                out.map(2);
                for (name, count) in
                    [("libraries_count", self.libraries.all.len()), ("functions_count", self.libraries.of.len())]
                {
                    out.bulk(name.as_bytes());
                    out.int(count as i64);
                }
                Ok(())
            }
            // None runs for longer than its budget, and none runs while this one is looked at.
            [] if is(what, "kill") => Err("NOTBUSY No scripts in execution right now.".into()),
            [] if is(what, "help") => {
                let help = [
                    "FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
                    "LOAD [REPLACE] <library code>",
                    "DELETE <library name>",
                    "LIST [LIBRARYNAME <pattern>] [WITHCODE]",
                    "STATS",
                    "KILL",
                    "FLUSH [ASYNC|SYNC]",
                    "DUMP",
                    "RESTORE <payload> [FLUSH|APPEND|REPLACE]",
                    "HELP",
                ];
                out.array(help.len());
                help.iter().for_each(|line| out.status(line));
                Ok(())
            }
            _ => {
                let what = String::from_utf8_lossy(what);
                Err(format!("ERR unknown subcommand '{what}'. Try FUNCTION HELP.").into())
            }
        }
    }

    fn load(&mut self, source: &[u8], replace: bool, out: &mut Tape) -> Result<(), Failure> {
        let name = Library::named(source)?;
        if !replace && self.libraries.all.contains_key(&name) {
            return Err(format!("ERR Library '{}' already exists", String::from_utf8_lossy(&name)).into());
        }
        let library = self.library(source)?;
        self.libraries.add(library, replace)?;
        out.bulk(&name);
        Ok(())
    }

    fn list(&self, words: &[&[u8]], out: &mut Tape) -> Result<(), Failure> {
        let (mut pattern, mut code) = (None, false);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match () {
                () if is(word, "withcode") && !code => code = true,
                () if is(word, "libraryname") && pattern.is_none() => {
                    pattern = Some(*words.next().ok_or("ERR library name argument was not given")?);
                }
                () => return Err(format!("ERR Unknown argument {}", String::from_utf8_lossy(word)).into()),
            }
        }
        let wanted = |library: &&Library| {
            pattern
                .is_none_or(|pattern| glob::matches(&pattern.to_ascii_lowercase(), &library.name.to_ascii_lowercase()))
        };
        let found: Vec<&Library> = self.libraries.all.values().filter(wanted).collect();
        out.array(found.len());
        for library in found {
            out.map(3 + usize::from(code));
            out.bulk(b"library_name");
            out.bulk(&library.name);
            out.bulk(b"engine");
            out.bulk(b"LUA");
            out.bulk(b"functions");
            out.array(library.functions.len());
            for function in &library.functions {
                out.map(3);
                out.bulk(b"name");
                out.bulk(&function.name);
                out.bulk(b"description");
                out.bulk_or_null(function.description.as_deref());
                out.bulk(b"flags");
                let flags = function.flags.names();
                out.set(flags.len());
                flags.iter().for_each(|flag| out.status(flag));
            }
            if code {
                out.bulk(b"library_code");
                out.bulk(library.script.source());
            }
        }
        Ok(())
    }

    /// All libraries of a dump, or none.
    fn restore(&mut self, payload: &[u8], policy: Policy, out: &mut Tape) -> Result<(), Failure> {
        let content = rdb::unseal(payload).ok_or("ERR DUMP payload version or checksum are wrong")?;
        let mut reader = rdb::Reader::new(content);
        // They are loaded before any is kept: all together within what one script may use.
        let (mut libraries, mut bytes, mut steps) = (Vec::new(), 0, 0);
        while !reader.rest.is_empty() {
            let source = (reader.byte() == Some(DUMPED)).then(|| reader.string()).flatten();
            let source = source.ok_or("ERR failed loading functions: given type is not a function")?;
            let library = self.library(&source)?;
            (bytes, steps) = (bytes + library.bytes, steps + self.engine.used().steps);
            if bytes > LIBRARIES_BYTES_MAX || steps > Limits::default().steps || libraries.len() >= LIBRARIES_MAX {
                return Err("ERR the libraries of the dump are too many, too large, or take too long to load".into());
            }
            libraries.push(library);
        }
        let mut all = match policy {
            Policy::Flush => Libraries::default(),
            Policy::Append | Policy::Replace => std::mem::take(&mut self.libraries),
        };
        let before: Vec<Vec<u8>> = match policy {
            Policy::Flush => self.libraries.sources().map(<[u8]>::to_vec).collect(),
            _ => all.sources().map(<[u8]>::to_vec).collect(),
        };
        let added = libraries.into_iter().try_for_each(|library| all.add(library, policy == Policy::Replace));
        self.libraries = all;
        if let Err(failure) = added {
            self.libraries = Libraries::default();
            before.iter().for_each(|source| self.reload(source));
            return Err(failure);
        }
        out.ok();
        Ok(())
    }

    /// FCALL.
    pub(super) fn call_function(
        &mut self,
        keyspace: &mut Keyspace,
        given: Given<'_>,
        read_only: bool,
        out: &mut Tape,
    ) -> Result<(), Failure> {
        let args = given.args;
        let library = self.libraries.of.get(&args[1].to_ascii_lowercase());
        let library = library.and_then(|name| self.libraries.all.get(name)).ok_or("ERR Function not found")?;
        let exact = library.functions.iter().find(|function| function.name == args[1]);
        let in_any_case = || library.functions.iter().find(|function| function.name.eq_ignore_ascii_case(args[1]));
        let function = exact.or_else(in_any_case).ok_or("ERR Function not found")?;
        let keys = commands::parse_int(args[2]).ok_or("ERR Bad number of keys provided")?;
        if keys > args.len() as i64 - 3 {
            return Err("ERR Number of keys can't be greater than number of args".into());
        }
        if keys < 0 {
            return Err("ERR Number of keys can't be negative".into());
        }
        let no_writes = function.flags.no_writes;
        if read_only && !no_writes {
            return Err("ERR Can not execute a script with write flag using *_ro command.".into());
        }
        let words = args[3..].split_at(keys as usize);
        let (engine, script) = (&mut self.engine, &library.script);
        in_reach(keyspace, given, no_writes, out, |reach| {
            engine.call(reach, script, &function.name, words, &Limits::default())
        })
    }
}

#[cfg(test)]
mod tests;
