//! Scripts and what Redis 7.0.15 replies to them; the replies in `cases.txt` were recorded from it.
//!
//! `LOCI_REDIS_SOCKET=path` compares them with a server once more, which must be one that may be emptied.

use super::{Few, shown};
use crate::table::script::{Engine, Limits, Script};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

struct Case {
    line: usize,
    script: Vec<u8>,
    keys: Vec<Vec<u8>>,
    arguments: Vec<Vec<u8>>,
    reply: String,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let (mut script, mut keys, mut arguments) = (Vec::new(), Vec::new(), Vec::new());
    let words = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    for (number, line) in (1..).zip(include_str!("cases.txt").lines()) {
        match line.split_at_checked(2) {
            Some(("> ", text)) => script.push(text),
            Some(("k ", text)) => keys = words(text),
            Some(("a ", text)) => arguments = words(text),
            Some(("= ", text)) => {
                let script = std::mem::take(&mut script).join("\n").into_bytes();
                let (keys, arguments) = (std::mem::take(&mut keys), std::mem::take(&mut arguments));
                cases.push(Case { line: number, script, keys, arguments, reply: text.into() });
            }
            _ => {}
        }
    }
    cases
}

#[test]
fn scripts_reply_as_redis_does() {
    let mut engine = Engine::new();
    let mut wrong = Vec::new();
    for case in cases() {
        let keys: Vec<&[u8]> = case.keys.iter().map(|key| &key[..]).collect();
        let arguments: Vec<&[u8]> = case.arguments.iter().map(|argument| &argument[..]).collect();
        let reply = engine.run(&mut Few::default(), &Script::new(&case.script), &keys, &arguments, &Limits::default());
        let reply = shown(reply);
        if reply != case.reply {
            let script = String::from_utf8_lossy(&case.script);
            wrong.push(format!("line {}: {script}\n  ours  {reply}\n  redis {}", case.line, case.reply));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_replies_are_those_of_a_real_server() {
    let Ok(path) = std::env::var("LOCI_REDIS_SOCKET") else { return };
    let stream = UnixStream::connect(path).expect("a server listens there");
    let mut reader = BufReader::new(stream.try_clone().expect("a socket can be cloned"));
    let mut stream = stream;
    let mut ask = |arguments: &[&[u8]]| {
        let mut request = format!("*{}\r\n", arguments.len()).into_bytes();
        for argument in arguments {
            request.extend(format!("${}\r\n", argument.len()).bytes());
            request.extend_from_slice(argument);
            request.extend(b"\r\n");
        }
        stream.write_all(&request).expect("the server takes it");
        read(&mut reader)
    };
    for case in cases() {
        ask(&[b"FLUSHALL"]);
        // Also forgets what scripts have set in its libraries.
        ask(&[b"SCRIPT", b"FLUSH"]);
        let count = case.keys.len().to_string();
        let mut arguments: Vec<&[u8]> = vec![b"EVAL", &case.script, count.as_bytes()];
        arguments.extend(case.keys.iter().chain(&case.arguments).map(|text| &text[..]));
        assert_eq!(ask(&arguments), case.reply, "line {}", case.line);
    }
}

fn read(from: &mut impl BufRead) -> String {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line).expect("the server replies");
    let text = line[1..line.len() - 2].to_vec();
    let number = || str::from_utf8(&text).expect("a number").parse::<i64>().expect("a number");
    match line[0] {
        b':' => format!(":{}", number()),
        b'$' | b'*' if number() < 0 => "_".into(),
        b'$' => {
            let mut bytes = vec![0; number() as usize + 2];
            from.read_exact(&mut bytes).expect("the server replies");
            format!("\"{}\"", bytes[..bytes.len() - 2].escape_ascii())
        }
        b'*' => {
            let elements: Vec<_> = (0..number()).map(|_| read(from)).collect();
            format!("[{}]", elements.join(", "))
        }
        kind => format!("{}{}", kind as char, text.escape_ascii()),
    }
}
