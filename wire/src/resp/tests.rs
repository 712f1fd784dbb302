//! The codec against slow, obvious readers, over every place where a stream can break.

use super::*;

/// Small chance from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

type Args = Vec<Vec<u8>>;

/// Reads a stream that arrives in pieces of these lengths: all requests, and the error that ended it.
fn read(stream: &[u8], limits: &Limits, mut piece: impl FnMut() -> usize) -> (Vec<Args>, Option<ProtocolError>) {
    let (mut decoder, mut request, mut requests) = (Decoder::new(), Request::new(), Vec::new());
    let (mut begin, mut end) = (0, 0);
    while end < stream.len() {
        end = (end + piece().max(1)).min(stream.len());
        loop {
            let input = &stream[begin..end];
            match decoder.decode(input, limits, &mut request) {
                Ok(Some(taken)) => {
                    let args: Args = request.args(input).map(<[u8]>::to_vec).collect();
                    assert_eq!(args.len(), request.len());
                    let alone: Args = (0..request.len()).map(|at| request.get(input, at).unwrap().to_vec()).collect();
                    assert_eq!(args, alone);
                    requests.push(args);
                    assert!(taken > 0 && taken <= input.len());
                    begin += taken;
                }
                Ok(None) => {
                    assert!(decoder.missing(input) >= 1);
                    break;
                }
                Err(error) => return (requests, Some(error)),
            }
        }
    }
    (requests, None)
}

fn args(words: &[&str]) -> Args {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn check(stream: &[u8], requests: &[&[&str]], error: Option<ProtocolError>) {
    let wanted: Vec<Args> = requests.iter().map(|words| args(words)).collect();
    let whole = read(stream, &Limits::OPEN, || stream.len());
    assert_eq!(whole, (wanted.clone(), error), "{:?}", String::from_utf8_lossy(stream));
    for split in 1..stream.len() {
        let mut pieces = [split, stream.len()].into_iter();
        let found = read(stream, &Limits::OPEN, || pieces.next().unwrap_or(1));
        assert_eq!(found, (wanted.clone(), error), "split at {split}: {:?}", String::from_utf8_lossy(stream));
    }
    assert_eq!(read(stream, &Limits::OPEN, || 1), (wanted, error), "{:?}", String::from_utf8_lossy(stream));
}

#[test]
fn requests_are_read_wherever_their_bytes_are_parted() {
    check(b"*1\r\n$4\r\nPING\r\n", &[&["PING"]], None);
    check(b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n*1\r\n$1\r\nx\r\n", &[&["GET", ""], &["x"]], None);
    check(b"PING\r\n*1\r\n$2\r\nab\r\nget a\n", &[&["PING"], &["ab"], &["get", "a"]], None);
    check(b"*2\r\n$2\r\n\r\n\r\n$1\r\n*\r\n", &[&["\r\n", "*"]], None);
    check(b"\r\n*0\r\n*-10\r\n*-1\r\nPING\r\n", &[&[], &[], &[], &[], &["PING"]], None);
}

#[test]
fn lines_are_taken_apart_as_redis_does() {
    check(b"  set  a \t b  \r\n", &[&["set", "a", "b"]], None);
    check(b"set \"a b\" 'c d'\r\n", &[&["set", "a b", "c d"]], None);
    check(br#"set "\x41\n\r\t\b\a\\\"\q" 'it\'s \n'"#, &[], None);
    check(
        b"set \"\\x41\\n\\r\\t\\b\\a\\\\\\\"\\q\\x4\" 'it\\'s \\n'\n",
        &[&["set", "A\n\r\t\u{8}\u{7}\\\"qx4", "it's \\n"]],
        None,
    );
    check(b"set \"\" ''\n", &[&["set", "", ""]], None);
    check(b"foo\"bar\" x\n", &[&["foobar", "x"]], None);
    check(b"set a\0b c\n \0\n", &[&["set", "a"], &[]], None);
    check(b"set\x0b a\n", &[&["set", "a"]], None);
    let unbalanced = Some(ProtocolError::UnbalancedQuotes);
    check(b"set \"\"\"test-key\"\"\" test-value\r\n", &[], unbalanced);
    check(b"set \"a\n", &[], unbalanced);
    check(b"set 'a\n", &[], unbalanced);
    check(b"set 'a'b\n", &[], unbalanced);
    check(b"set \"a\"b\n", &[], unbalanced);
    check(b"set \"a\\\n", &[], unbalanced);
}

#[test]
fn what_is_no_request_is_refused_with_the_words_of_redis() {
    let cases: [(&[u8], &str); 15] = [
        (b"*3000000000\r\n", "Protocol error: invalid multibulk length"),
        (b"*1048577\r\n", "Protocol error: invalid multibulk length"),
        (b"*x\r\n", "Protocol error: invalid multibulk length"),
        (b"*\r\n", "Protocol error: invalid multibulk length"),
        (b"*01\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\rx", "Protocol error: invalid multibulk length"),
        (b"*99999999999999999999\r\n", "Protocol error: invalid multibulk length"),
        (b"*1\r\nfoo\r\n", "Protocol error: expected '$', got 'f'"),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\nfooz\r\n", "Protocol error: expected '$', got 'f'"),
        (b"*1\r\n\x07", "Protocol error: expected '$', got ' '"),
        (b"*1\r\n$-10\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$blabla\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$2000000000\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$16777217\r\n", "Protocol error: invalid bulk length"),
        (b"*1\r\n$1\r\nabc", "Protocol error: expected CRLF after bulk string"),
    ];
    for (stream, text) in cases {
        let (requests, error) = read(stream, &Limits::OPEN, || 1);
        assert_eq!(requests, Vec::<Args>::new());
        assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(text));
        check(stream, &[], error);
    }
    let endless: [(&[u8], &str); 3] = [
        (b"", "Protocol error: too big inline request"),
        (b"*", "Protocol error: too big mbulk count string"),
        (b"*1\r\n$", "Protocol error: too big bulk count string"),
    ];
    for (begin, text) in endless {
        let mut stream = begin.to_vec();
        stream.resize(70_000, 0);
        let (_, error) = read(&stream, &Limits::OPEN, || 1_000);
        assert_eq!(error.unwrap().to_string(), text);
    }
    let mut line = vec![b'a'; 65_537];
    line.push(b'\n');
    assert_eq!(read(&line, &Limits::OPEN, || 100_000).1, Some(ProtocolError::InlineTooLong));
}

#[test]
fn somebody_unknown_may_send_less() {
    let unknown = |stream: &[u8]| read(stream, &Limits::UNAUTHENTICATED, || 1).1.map(|error| error.to_string());
    assert_eq!(unknown(b"*10\r\n$16384\r\n"), None);
    assert_eq!(unknown(b"*11\r\n").as_deref(), Some("Protocol error: unauthenticated multibulk length"));
    assert_eq!(unknown(b"*10\r\n$16385\r\n").as_deref(), Some("Protocol error: unauthenticated bulk length"));
    assert_eq!(
        unknown(b"a b c d e f g h i j k\r\n").as_deref(),
        Some("Protocol error: unauthenticated multibulk length")
    );
}

#[test]
fn all_arguments_together_have_a_limit() {
    let limits = Limits { request_bytes_max: 100, ..Limits::OPEN };
    let mut stream = Vec::new();
    encode_request(&mut stream, &[vec![b'x'; 40], vec![b'y'; 35]]);
    assert!(stream.len() <= 100);
    assert_eq!(read(&stream, &limits, || 7).0.len(), 1);
    stream.clear();
    encode_request(&mut stream, &[vec![b'x'; 40], vec![b'y'; 50]]);
    assert_eq!(read(&stream, &limits, || 7).1, Some(ProtocolError::RequestTooLarge(100)));
}

/// Reads whole streams of arrays and lines without quotes, the obvious way.
fn naive(stream: &[u8]) -> Vec<Args> {
    fn line(rest: &mut &[u8]) -> Vec<u8> {
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
        let line = rest[..end].to_vec();
        *rest = &rest[end + 1..];
        line.strip_suffix(b"\r").unwrap_or(&line).to_vec()
    }
    let mut rest = stream;
    let mut requests = Vec::new();
    while !rest.is_empty() {
        let first = line(&mut rest);
        let Some(count) = first.strip_prefix(b"*") else {
            let text = String::from_utf8(first).unwrap();
            requests.push(text.split_whitespace().map(|word| word.as_bytes().to_vec()).collect());
            continue;
        };
        let count: usize = std::str::from_utf8(count).unwrap().parse().unwrap();
        let mut args = Args::new();
        for _ in 0..count {
            let header = line(&mut rest);
            let length: usize = std::str::from_utf8(&header[1..]).unwrap().parse().unwrap();
            args.push(rest[..length].to_vec());
            rest = &rest[length + 2..];
        }
        requests.push(args);
    }
    requests
}

#[test]
fn random_streams_are_read_as_a_plain_reader_reads_them() {
    for seed in 0..3_000 {
        let mut chance = Chance(seed);
        let mut stream = Vec::new();
        for _ in 0..1 + chance.below(8) {
            if chance.below(4) == 0 {
                for _ in 0..chance.below(5) {
                    let word: String =
                        (0..1 + chance.below(6)).map(|_| (b'a' + chance.below(26) as u8) as char).collect();
                    stream.extend_from_slice(
                        format!("{word}{}", if chance.below(2) == 0 { " " } else { "  " }).as_bytes(),
                    );
                }
                stream.extend_from_slice(if chance.below(2) == 0 { b"\n" } else { b"\r\n" });
            } else {
                let args: Args = (0..chance.below(6))
                    .map(|_| {
                        let len = if chance.below(10) == 0 { chance.below(3_000) } else { chance.below(20) };
                        chance.bytes(len)
                    })
                    .collect();
                encode_request(&mut stream, &args);
            }
        }
        let most = 1 + chance.below(60);
        let found = read(&stream, &Limits::OPEN, || 1 + chance.below(most) as usize);
        assert_eq!(found, (naive(&stream), None), "seed {seed}");
    }
}

#[test]
fn no_bytes_make_it_panic_or_hold_more_than_came() {
    let alphabet = b"*$+-:0123456789\r\n\r\n\r\n\"'\\x ab,(#_%~>|=!";
    for seed in 0..20_000 {
        let mut chance = Chance(seed);
        let len = chance.below(80);
        let stream: Vec<u8> = match chance.below(3) {
            0 => chance.bytes(len),
            _ => (0..len).map(|_| alphabet[chance.below(alphabet.len() as u64) as usize]).collect(),
        };
        let (mut decoder, mut request) = (Decoder::new(), Request::new());
        let _ = decoder.decode(&stream, &Limits::OPEN, &mut request);
        assert!(request.memory_bytes() <= 8 * 8 + stream.len() * 16, "seed {seed}");
        read(&stream, &Limits::OPEN, || 1 + chance.below(5) as usize);
        read_replies(&stream, || 3);
    }
    // A promise of a million arguments of 16 MiB is a few bytes.
    let (mut decoder, mut request) = (Decoder::new(), Request::new());
    assert_eq!(decoder.decode(b"*1048576\r\n$16777216\r\n", &Limits::OPEN, &mut request), Ok(None));
    assert_eq!(request.memory_bytes(), 0);
}

#[test]
fn a_large_argument_in_small_pieces_is_looked_at_once() {
    let mut stream = Vec::new();
    encode_request(&mut stream, &[b"SET".to_vec(), b"key".to_vec(), vec![b'\r'; 16 << 20]]);
    // Would take minutes if every piece began anew.
    let (requests, error) = read(&stream, &Limits::OPEN, || 512);
    assert_eq!((requests[0][2].len(), error), (16 << 20, None));
    let line = [vec![b'x'; 65_000], b"\r\n".to_vec()].concat();
    let stream = line.repeat(20);
    assert_eq!(read(&stream, &Limits::OPEN, || 1).0.len(), 20);
}

#[test]
fn a_request_gives_back_what_a_large_one_took() {
    let mut stream = Vec::new();
    encode_request(&mut stream, &vec![b"x"; 10_000]);
    let mut request = Request::new();
    Decoder::new().decode(&stream, &Limits::OPEN, &mut request).unwrap().unwrap();
    assert!(request.memory_bytes() >= 80_000);
    request.clear(1 << 20);
    assert!(request.memory_bytes() >= 80_000 && request.is_empty());
    request.clear(1_000);
    assert_eq!(request.memory_bytes(), 0);
}

fn read_replies(stream: &[u8], mut piece: impl FnMut() -> usize) -> (Vec<Reply>, Option<ReplyError>) {
    let (mut decoder, mut replies) = (ReplyDecoder::new(ReplyLimits::default()), Vec::new());
    let (mut begin, mut end) = (0, 0);
    while end < stream.len() {
        end = (end + piece().max(1)).min(stream.len());
        loop {
            match decoder.decode(&stream[begin..end]) {
                Ok(Some((reply, taken))) => {
                    replies.push(reply);
                    begin += taken;
                }
                Ok(None) => break,
                Err(error) => return (replies, Some(error)),
            }
        }
    }
    (replies, None)
}

fn written(protocol: Protocol, write: impl FnOnce(&mut Writer)) -> String {
    let mut writer = Writer::new(protocol);
    write(&mut writer);
    String::from_utf8(writer.into_bytes()).unwrap()
}

#[test]
fn every_reply_is_written_in_both_protocols() {
    type Write = fn(&mut Writer);
    let cases: [(Write, &str, &str); 26] = [
        (|w| w.ok(), "+OK\r\n", "+OK\r\n"),
        (|w| w.status("QUEUED"), "+QUEUED\r\n", "+QUEUED\r\n"),
        (|w| w.error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
        (|w| w.int(0), ":0\r\n", ":0\r\n"),
        (|w| w.int(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
        (|w| w.bulk("abc"), "$3\r\nabc\r\n", "$3\r\nabc\r\n"),
        (|w| w.bulk(""), "$0\r\n\r\n", "$0\r\n\r\n"),
        (|w| w.bulk_int(-12), "$3\r\n-12\r\n", "$3\r\n-12\r\n"),
        (|w| w.null(), "$-1\r\n", "_\r\n"),
        (|w| w.null_array(), "*-1\r\n", "_\r\n"),
        (|w| w.bulk_or_null(None::<&str>), "$-1\r\n", "_\r\n"),
        (|w| w.array(12), "*12\r\n", "*12\r\n"),
        (|w| w.map(6), "*12\r\n", "%6\r\n"),
        (|w| w.set(3), "*3\r\n", "~3\r\n"),
        (|w| w.push(3), "*3\r\n", ">3\r\n"),
        (|w| w.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
        (|w| w.double(3.0), "$1\r\n3\r\n", ",3\r\n"),
        (|w| w.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n"),
        (|w| w.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
        (|w| w.bulk_double(0.5), "$3\r\n0.5\r\n", "$3\r\n0.5\r\n"),
        (|w| w.bool(true), ":1\r\n", "#t\r\n"),
        (|w| w.bool(false), ":0\r\n", "#f\r\n"),
        (|w| w.big_number("123"), "$3\r\n123\r\n", "(123\r\n"),
        (|w| w.verbatim(*b"txt", "some"), "$4\r\nsome\r\n", "=8\r\ntxt:some\r\n"),
        (|w| w.attribute(1, |w| w.map(0)), "", "|1\r\n%0\r\n"),
        (|w| w.raw(b":1\r\n"), ":1\r\n", ":1\r\n"),
    ];
    for (at, (write, two, three)) in cases.into_iter().enumerate() {
        assert_eq!(written(Protocol::Two, write), two, "case {at}");
        assert_eq!(written(Protocol::Three, write), three, "case {at}");
    }
}

#[test]
fn numbers_are_written_as_the_standard_library_writes_them() {
    let mut chance = Chance(7);
    let edges = [0, 1, -1, 9, 10, 99, 100, 999, 1000, 12_345, i64::MAX, i64::MIN, -10, -100];
    let random = (0..20_000).map(|_| chance.next() as i64 >> chance.below(64));
    for value in edges.into_iter().chain(random.collect::<Vec<_>>()) {
        assert_eq!(written(Protocol::Two, |w| w.int(value)), format!(":{value}\r\n"));
    }
}

#[test]
fn doubles_are_written_as_redis_writes_them_and_read_back_the_same() {
    let cases = [
        (0.1, "0.1"),
        (-0.0, "-0"),
        (1e8, "100000000"),
        (4503599627370495.0, "4503599627370495"),
        (9007199254740992.0, "9007199254740992"),
        (1e20, "1e+20"),
        (1.5e16, "1.5e+16"),
        (-1.5e300, "-1.5e+300"),
        (1e-5, "0.00001"),
        (1.5e-7, "1.5e-7"),
        (123.456, "123.456"),
        (-0.001, "-0.001"),
        (1e-300, "1e-300"),
        (f64::NAN, "nan"),
        (f64::MAX, "1.7976931348623157e+308"),
        (5e-324, "5e-324"),
        (2.2250738585072014e-308, "2.2250738585072014e-308"),
    ];
    let mut buffer = [0; DOUBLE_BYTES_MAX];
    for (value, text) in cases {
        assert_eq!(std::str::from_utf8(double_text(value, &mut buffer)).unwrap(), text);
    }
    let mut chance = Chance(11);
    for _ in 0..50_000 {
        let value = match chance.below(3) {
            0 => f64::from_bits(chance.next()),
            1 => (chance.next() as i64 >> chance.below(64)) as f64 / 10f64.powi(chance.below(12) as i32),
            _ => (chance.next() as i64 >> chance.below(64)) as f64,
        };
        let text = std::str::from_utf8(double_text(value, &mut buffer)).unwrap();
        let back: f64 = text.parse().unwrap();
        assert!(back.to_bits() == value.to_bits() || value.is_nan(), "{value:e} is written {text}");
    }
}

#[test]
fn a_length_can_come_last() {
    for (inner, outer) in [(0, 1), (3, 9), (9, 10), (99, 120), (1_000, 1), (1, 1_000), (123_456, 2)] {
        for protocol in [Protocol::Two, Protocol::Three] {
            let text = written(protocol, |w| {
                w.status("before");
                let all = w.deferred_array();
                for _ in 1..outer {
                    w.int(5);
                }
                let map = w.deferred_map();
                for at in 0..inner {
                    w.bulk_int(at);
                    w.null();
                }
                w.finish(map, inner as usize);
                w.finish(all, outer);
                let set = w.deferred_set();
                w.finish(set, 0);
            });
            let plain = written(protocol, |w| {
                w.status("before");
                w.array(outer);
                (1..outer).for_each(|_| w.int(5));
                w.map(inner as usize);
                for at in 0..inner {
                    w.bulk_int(at);
                    w.null();
                }
                w.set(0);
            });
            assert_eq!(text, plain);
        }
    }
}

/// Any reply of protocol 3, or of protocol 2.
fn any_reply(chance: &mut Chance, protocol: Protocol, depth: u64) -> Reply {
    let two = protocol == Protocol::Two;
    let text = |chance: &mut Chance| {
        let len = chance.below(12);
        (0..len).map(|_| b' ' + chance.below(90) as u8).collect::<Vec<u8>>()
    };
    let kinds = if two { 7 } else { 16 };
    let kind = chance.below(kinds);
    let some = |chance: &mut Chance| -> Vec<Reply> {
        (0..chance.below(5)).map(|_| any_reply(chance, protocol, depth + 1)).collect()
    };
    match kind {
        0 => Reply::Status(text(chance)),
        1 => Reply::Error(text(chance)),
        2 => Reply::Int(chance.next() as i64 >> chance.below(64)),
        3 => {
            let len = chance.below(40);
            Reply::Bulk(chance.bytes(len))
        }
        4 => Reply::Null,
        5 if two => Reply::NullArray,
        _ if depth > 4 => Reply::Int(1),
        5..=8 => Reply::Array(some(chance)),
        9 => Reply::Set(some(chance)),
        10 => Reply::Push(some(chance)),
        11 => Reply::Double((chance.next() as i64) as f64 / 64.0),
        12 => Reply::Bool(chance.below(2) == 0),
        13 => Reply::BigNumber(b"-123456789012345678901234567890".to_vec()),
        14 => Reply::Verbatim(*b"txt", text(chance)),
        _ => {
            let names = some(chance);
            let pairs = names.into_iter().map(|name| (name, any_reply(chance, protocol, depth + 1))).collect();
            match chance.below(2) {
                0 => Reply::Map(pairs),
                _ => Reply::Attributed(pairs, Box::new(any_reply(chance, protocol, depth + 1))),
            }
        }
    }
}

#[test]
fn replies_are_read_back_wherever_their_bytes_are_parted() {
    for seed in 0..5_000 {
        let mut chance = Chance(seed);
        let protocol = if chance.below(2) == 0 { Protocol::Two } else { Protocol::Three };
        let replies: Vec<Reply> = (0..1 + chance.below(4)).map(|_| any_reply(&mut chance, protocol, 0)).collect();
        let mut writer = Writer::new(protocol);
        replies.iter().for_each(|reply| writer.reply(reply));
        let stream = writer.into_bytes();
        assert_eq!(read_replies(&stream, || stream.len()), (replies.clone(), None), "seed {seed}");
        let most = 1 + chance.below(30);
        let found = read_replies(&stream, || 1 + chance.below(most) as usize);
        assert_eq!(found, (replies, None), "seed {seed}");
    }
}

#[test]
fn what_is_no_reply_is_refused() {
    let cases: [(&[u8], ReplyError); 11] = [
        (b"x\r\n", ReplyError::Kind(b'x')),
        (b":x\r\n", ReplyError::Number),
        (b":\r\n", ReplyError::Number),
        (b",x\r\n", ReplyError::Number),
        (b"(12a\r\n", ReplyError::Number),
        (b"#x\r\n", ReplyError::Kind(b'#')),
        (b"$-2\r\n", ReplyError::Number),
        (b"%9223372036854775807\r\n", ReplyError::TooLarge),
        (b"$9223372036854775807\r\n", ReplyError::TooLarge),
        (b"$1\r\nabc", ReplyError::LineEnd),
        (b"=3\r\nabc\r\n", ReplyError::LineEnd),
    ];
    for (stream, error) in cases {
        assert_eq!(read_replies(stream, || 1).1, Some(error), "{stream:?}");
    }
    let deep = b"*1\r\n".repeat(1_000_000);
    assert_eq!(read_replies(&deep, || 4_096).1, Some(ReplyError::TooDeep));
    let small = ReplyLimits { depth_max: 4, bytes_max: 20 };
    assert_eq!(ReplyDecoder::new(small).decode(b"$21\r\n"), Err(ReplyError::TooLarge));
    assert_eq!(ReplyDecoder::new(small).decode(&b":1\r\n".repeat(2)).unwrap().unwrap().1, 4);
    assert_eq!(ReplyDecoder::new(small).decode(&[b'+'; 30]), Err(ReplyError::TooLarge));
}
