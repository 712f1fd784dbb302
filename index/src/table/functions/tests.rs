//! Functions as they are loaded, called, dumped and kept, with what Redis says where they are wrong.

use super::*;
use crate::table::execute::{Moment, tests::text};

struct Trial {
    scripts: Scripts,
    keyspace: Keyspace,
}

impl Trial {
    fn new() -> Trial {
        Trial { scripts: Scripts::default(), keyspace: Keyspace::new(7) }
    }

    fn call(&mut self, args: &[&str]) -> String {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let mut out = Tape::new();
        self.scripts.call(&mut self.keyspace, &args, Moment { now: 1_000, version: 1 << 16, number: 0 }, &mut out);
        text(out.bytes())
    }
}

const LIBRARY: &str = "#!lua name=lib\n\
    local function get(keys, args) return redis.call('GET', keys[1]) end\n\
    redis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1]) end)\n\
    redis.register_function{function_name='get', callback=get, flags={'no-writes'}, description='reads'}\n";

#[test]
fn functions_are_loaded_called_listed_and_deleted() {
    let mut trial = Trial::new();
    for (args, reply) in [
        (&["FUNCTION", "LOAD", LIBRARY][..], "\"lib\""),
        (&["FUNCTION", "LOAD", LIBRARY], "(error) ERR Library 'lib' already exists"),
        (&["FUNCTION", "LOAD", "REPLACE", LIBRARY], "\"lib\""),
        (&["FCALL", "put", "1", "k", "v"], "OK"),
        (&["FCALL_RO", "get", "1", "k"], "\"v\""),
        (
            &["FCALL_RO", "put", "1", "k", "w"],
            "(error) ERR Can not execute a script with write flag using *_ro command.",
        ),
        (&["FCALL", "PUT", "1", "k", "v"], "OK"),
        (&["FCALL_RO", "Get", "1", "k"], "\"v\""),
        (&["FCALL", "nope", "0"], "(error) ERR Function not found"),
        (&["FCALL", "get", "x"], "(error) ERR Bad number of keys provided"),
        (&["FCALL", "get", "2", "k"], "(error) ERR Number of keys can't be greater than number of args"),
        (&["FCALL", "get", "-1", "k"], "(error) ERR Number of keys can't be negative"),
        (
            &["FUNCTION", "LOAD", "#!lua name=other\nredis.register_function('get', function() end)"],
            "(error) ERR Function get already exists",
        ),
        (
            &["FUNCTION", "LOAD", "#!lua name=other\nredis.register_function('GET', function() end)"],
            "(error) ERR Function GET already exists",
        ),
        (
            &[
                "FUNCTION",
                "LOAD",
                "#!lua name=two\nredis.register_function('x', function() return 1 end)\n\
                 redis.register_function('X', function() return 2 end)",
            ],
            "\"two\"",
        ),
        (&["FCALL", "x", "0"], "(integer) 1"),
        (&["FCALL", "X", "0"], "(integer) 2"),
        (&["FUNCTION", "DELETE", "two"], "OK"),
        (&["FCALL", "x", "0"], "(error) ERR Function not found"),
        (
            &["FUNCTION", "LIST", "LIBRARYNAME", "LI*"],
            "[{\"library_name\" \"lib\" \"engine\" \"LUA\" \"functions\" [{\"name\" \"put\" \"description\" (nil) \"flags\" ~[]} \
             {\"name\" \"get\" \"description\" \"reads\" \"flags\" ~[no-writes]}]}]",
        ),
        (
            &["FUNCTION", "STATS"],
            "{\"running_script\" (nil) \"engines\" {\"LUA\" {\"libraries_count\" (integer) 1 \"functions_count\" (integer) 2}}}",
        ),
        (&["FUNCTION", "KILL"], "(error) NOTBUSY No scripts in execution right now."),
        (&["FUNCTION", "DELETE", "nope"], "(error) ERR Library not found"),
        (&["FUNCTION", "DELETE", "lib"], "OK"),
        (&["FCALL", "get", "1", "k"], "(error) ERR Function not found"),
        (&["FUNCTION", "LIST"], "[]"),
    ] {
        assert_eq!(trial.call(args), reply, "{args:?}");
    }
}

#[test]
fn a_number_of_any_size_stays_a_number() {
    let script = "return {big_number='12345678901234567890'}";
    assert_eq!(Trial::new().call(&["EVAL", script, "0"]), "(big) 12345678901234567890");
}

#[test]
fn what_is_no_library_is_refused_as_redis_does() {
    for (source, reply) in [
        ("return 1", "Missing library metadata"),
        ("#!lua name=x", "Invalid library metadata"),
        ("#!lua\nreturn 1", "Library name was not given"),
        ("#!lua name=a name=b\n", "Invalid metadata value, name argument was given multiple times"),
        ("#!lua name=a foo=b\n", "Invalid metadata value given: foo=b"),
        ("#!js name=a\n", "Engine 'js' not found"),
        ("#!lua name=a\n", "No functions registered"),
        (
            "#!lua name=bad-name\n",
            "Library names can only contain letters, numbers, or underscores(_) and must be at least one character long",
        ),
        (
            "#!lua name=a\nredis.register_function('f', 1)",
            "Error registering functions: @user_function: 2: second argument to redis.register_function must be a function",
        ),
        (
            "#!lua name=a\nredis.register_function('f', function() end)\nredis.register_function('f', function() end)",
            "Error registering functions: @user_function: 3: Function already exists in the library",
        ),
        (
            "#!lua name=a\nredis.call('GET', 'x')",
            "Error registering functions: @user_function: 2: attempted to access nonexistent global variable 'call'",
        ),
        ("#!lua name=a\nif", "Error compiling function: user_function:2: unexpected symbol near '<eof>'"),
    ] {
        assert_eq!(Trial::new().call(&["FUNCTION", "LOAD", source]), format!("(error) ERR {reply}"), "{source:?}");
    }
    let endless = "#!lua name=a\nwhile true do end";
    assert!(Trial::new().call(&["FUNCTION", "LOAD", endless]).contains("over its budget of steps"));
}

#[test]
fn nothing_is_left_over_from_a_call_and_errors_say_where() {
    let mut trial = Trial::new();
    let source = "#!lua name=lib\nlocal n = 0\n\
        redis.register_function('count', function() n = n + 1 return n end)\n\
        redis.register_function('fail', function() error('no') end)\n\
        redis.register_function('late', function() redis.register_function('f', function() end) end)\n\
        redis.register_function('keys', function() return KEYS end)";
    assert_eq!(trial.call(&["FUNCTION", "LOAD", source]), "\"lib\"");
    for _ in 0..2 {
        assert_eq!(trial.call(&["FCALL", "count", "0"]), "(integer) 1");
    }
    let error = trial.call(&["FCALL", "fail", "0"]);
    assert_eq!(error, "(error) ERR user_function:4: no script: fail, on @user_function:4.");
    assert!(trial.call(&["FCALL", "late", "0"]).contains("can only be called on FUNCTION LOAD command"));
    assert!(trial.call(&["FCALL", "keys", "0"]).contains("nonexistent global variable 'KEYS'"));
    assert_eq!(trial.call(&["EVAL", "return #KEYS", "1", "k"]), "(integer) 1");
}

#[test]
fn libraries_take_no_more_than_they_may() {
    let mut trial = Trial::new();
    // A short source that describes many functions at length.
    let many = |name: &str| {
        format!(
            "#!lua name={name}\nlocal d = string.rep('d', 4096)\nfor i = 1, 900 do \
             redis.register_function{{function_name='{name}' .. i, callback=function() end, description=d}} end"
        )
    };
    assert_eq!(trial.call(&["FUNCTION", "LOAD", &many("a")]), "\"a\"");
    assert!(trial.call(&["FUNCTION", "LOAD", &many("b")]).contains("at most 4194304 bytes"));
    let long = "#!lua name=l\nredis.register_function(string.rep('f', 257), function() end)";
    assert!(trial.call(&["FUNCTION", "LOAD", long]).contains("Function names"), "a long name");
    assert_eq!(trial.call(&["FUNCTION", "FLUSH"]), "OK");
    // Each is loaded quickly enough, all of them together are not.
    let slow = |number: usize| {
        format!("#!lua name=l{number}\nfor i = 1, 600000 do end redis.register_function('f{number}', function() end)")
    };
    let mut payload = Vec::new();
    for number in 0..200 {
        payload.push(DUMPED);
        rdb::put_string(&mut payload, slow(number).as_bytes());
    }
    rdb::seal(&mut payload, 12);
    let mut out = Tape::new();
    let restored = trial.scripts.function(&[b"FUNCTION", b"RESTORE", &payload], &mut out);
    assert!(restored.unwrap_err().text().contains("take too long to load"));
    assert_eq!(trial.scripts.bytes(), 0);
}

#[test]
fn libraries_are_dumped_and_restored_and_survive_a_restart_with_scripts() {
    let mut trial = Trial::new();
    trial.call(&["FUNCTION", "LOAD", LIBRARY]);
    trial.call(&["SCRIPT", "LOAD", "return 7"]);
    let mut out = Tape::new();
    trial.scripts.function(&[b"FUNCTION", b"DUMP"], &mut out).unwrap();
    let Some(super::super::tape::Item::Bulk(payload)) = out.items().next() else { panic!("a dump") };
    let restored = |scripts: &mut Scripts, words: &[&[u8]]| {
        let args = [&[&b"FUNCTION"[..], b"RESTORE"], words].concat();
        let mut out = Tape::new();
        match scripts.function(&args, &mut out) {
            Ok(()) => text(out.bytes()),
            Err(failure) => failure.text().to_owned(),
        }
    };
    assert_eq!(restored(&mut trial.scripts, &[payload]), "ERR Library 'lib' already exists");
    assert_eq!(trial.call(&["FCALL", "put", "1", "k", "v"]), "OK");
    assert_eq!(restored(&mut trial.scripts, &[payload, b"REPLACE"]), "OK");
    assert_eq!(restored(&mut trial.scripts, &[payload, b"FLUSH"]), "OK");
    assert_eq!(restored(&mut trial.scripts, &[&payload[1..]]), "ERR DUMP payload version or checksum are wrong");
    let other = "#!lua name=z\nredis.register_function('z', function() return 1 end)";
    trial.call(&["FUNCTION", "LOAD", other]);
    let mut again = Trial { scripts: Scripts::of(trial.scripts.sources()), keyspace: Keyspace::new(7) };
    assert_eq!(again.scripts.sources(), trial.scripts.sources());
    assert_eq!(again.scripts.bytes(), trial.scripts.bytes());
    assert_eq!(again.call(&["FCALL", "z", "0"]), "(integer) 1");
    assert_eq!(again.call(&["FUNCTION", "FLUSH"]), "OK");
    assert_eq!(again.call(&["EVAL", "return 7", "0"]), "(integer) 7");
}

#[test]
fn a_script_within_a_slot_reaches_no_other_keys() {
    let mut trial = Trial::new();
    let foo = crate::table::slots::slot(b"foo").to_string();
    let elsewhere = "(error) ERR Script attempted to access keys that do not hash to the same slot";
    let set = "return redis.call('SET', ARGV[1], 'v')";
    trial.call(&["FUNCTION", "LOAD", LIBRARY]);
    for (args, reply) in [
        (&["SCRIPT", "WITHIN", &foo, "EVAL", set, "1", "foo", "a{foo}"][..], "OK"),
        (&["SCRIPT", "WITHIN", &foo, "EVAL", set, "1", "foo", "bar"], elsewhere),
        (&["SCRIPT", "WITHIN", "none", "EVAL", set, "0", "foo"], elsewhere),
        (&["SCRIPT", "WITHIN", "none", "EVAL", "return 7", "0"], "(integer) 7"),
        (&["SCRIPT", "WITHIN", "any", "EVAL", set, "0", "bar"], "OK"),
        (&["SCRIPT", "WITHIN", &foo, "EVAL", "return redis.call('DBSIZE')", "1", "foo"], elsewhere),
        (&["SCRIPT", "WITHIN", &foo, "EVAL", "return redis.call('PUBLISH', 'c', 'm')", "1", "foo"], "(integer) 0"),
        (&["SCRIPT", "WITHIN", &foo, "FCALL", "put", "1", "foo", "w"], "OK"),
        (&["SCRIPT", "WITHIN", "1", "FCALL", "put", "1", "foo", "w"], elsewhere),
        (&["SCRIPT", "WITHIN", "16384", "EVAL", "return 1", "0"], "(error) ERR syntax error"),
        (&["SCRIPT", "WITHIN", "any", "SCRIPT", "FLUSH"], "(error) ERR syntax error"),
        (&["SCRIPT", "WITHIN", "any"], "(error) ERR syntax error"),
    ] {
        let said = trial.call(args);
        assert!(said.starts_with(reply), "{args:?}: {said}");
    }
}
