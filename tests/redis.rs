//! The door for clients of Redis, from outside: a real node, TCP, and a client of our own that sees every byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use loci_tests::cluster::{Cluster, Plan};
use loci_tests::process::{Node, PATIENCE, Start};
use loci_wire::resp::{Reply, ReplyDecoder, ReplyLimits, encode_request};

/// A connection.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    decoder: ReplyDecoder,
}

impl Client {
    fn new(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, input: Vec::new(), decoder: ReplyDecoder::new(ReplyLimits::default()) }
    }

    fn of(node: &Node) -> Client {
        Client::new(node.resp.as_deref().expect("the node has a door for clients of Redis"))
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the node reads");
    }

    /// Sends lines, each a call whose words are apart by spaces, all at once.
    fn send(&mut self, lines: &[&str]) {
        let mut bytes = Vec::new();
        for line in lines {
            encode_request(&mut bytes, &line.split(' ').collect::<Vec<_>>());
        }
        self.send_bytes(&bytes);
    }

    /// The next reply; none: the node closed the connection.
    fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, taken)) = self.decoder.decode(&self.input).expect("a reply") {
                self.input.drain(..taken);
                return Some(reply);
            }
            let mut part = [0; 16 << 10];
            match self.stream.read(&mut part) {
                Ok(0) => return None,
                Ok(count) => self.input.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no reply: {error}"),
            }
        }
    }

    /// The next reply as text.
    fn reply(&mut self) -> String {
        self.next().map_or_else(|| "(closed)".into(), |reply| text(&reply))
    }

    /// Calls a line and gives its reply as text.
    fn call(&mut self, line: &str) -> String {
        self.send(&[line]);
        self.reply()
    }

    /// Calls with arguments that have spaces.
    fn call_with(&mut self, args: &[&str]) -> String {
        let mut bytes = Vec::new();
        encode_request(&mut bytes, args);
        self.send_bytes(&bytes);
        self.reply()
    }

    /// A figure of INFO.
    fn info(&mut self, name: &str) -> u64 {
        let Some(Reply::Bulk(text) | Reply::Verbatim(_, text)) = ({
            self.send(&["INFO all"]);
            self.next()
        }) else {
            panic!("INFO is a text")
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name}: {text}")).parse().expect("a number")
    }

    /// Whether there is nothing to read within a moment.
    fn is_quiet(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
        let mut part = [0; 64];
        let quiet = self.input.is_empty() && self.stream.peek(&mut part).is_err();
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        quiet
    }
}

fn text(reply: &Reply) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let all = |replies: &[Reply]| replies.iter().map(text).collect::<Vec<_>>().join(" ");
    match reply {
        Reply::Status(status) => lossy(status),
        Reply::Error(error) => format!("-{}", lossy(error)),
        Reply::Int(number) => format!(":{number}"),
        Reply::Bulk(bytes) => format!("{:?}", lossy(bytes)),
        Reply::Verbatim(_, bytes) => format!("={:?}", lossy(bytes)),
        Reply::Null => "nil".into(),
        Reply::NullArray => "nil-array".into(),
        Reply::Array(replies) => format!("[{}]", all(replies)),
        Reply::Set(replies) => format!("~[{}]", all(replies)),
        Reply::Push(replies) => format!(">[{}]", all(replies)),
        Reply::Map(pairs) => {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{} {}", text(name), text(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Reply::Double(number) => format!(",{number}"),
        Reply::Bool(truth) => format!("#{truth}"),
        Reply::BigNumber(digits) => format!("({}", lossy(digits)),
        Reply::Attributed(_, reply) => text(reply),
    }
}

async fn start(data: &Path, options: &[&str]) -> Node {
    Start::default().with(&["--resp", "127.0.0.1:0"]).with(options).ready(data).await
}

/// Calls lines one after the other and compares the replies.
fn check(client: &mut Client, lines: &[(&str, &str)]) {
    for (line, expected) in lines {
        assert_eq!(client.call(line), *expected, "{line}");
    }
}

/// Waits until so many clients wait in a blocking command.
fn wait_for_blocked(client: &mut Client, count: usize) {
    let begin = Instant::now();
    let wanted = format!("blocked_clients:{count}\r\n");
    loop {
        client.send(&["INFO clients"]);
        if let Some(Reply::Bulk(text) | Reply::Verbatim(_, text)) = client.next()
            && String::from_utf8_lossy(&text).contains(&wanted)
        {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{count} clients do not wait");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_introduce_themselves_as_they_do_to_redis() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    // In lower case, and inline, as people type.
    client.send_bytes(b"ping\r\nPING hello\r\n");
    assert_eq!((client.reply(), client.reply()), ("PONG".into(), "\"hello\"".into()));
    let hello = client.call("hello 3");
    assert!(hello.starts_with("{\"server\" \"redis\", \"version\" \"7.4.0\", \"proto\" :3, \"id\" :"), "{hello}");
    assert!(hello.ends_with("\"mode\" \"standalone\", \"role\" \"master\", \"modules\" []}"), "{hello}");
    check(
        &mut client,
        &[
            (
                "CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type external-ip",
                "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.",
            ),
            ("CLIENT SETINFO LIB-NAME redis-py", "OK"),
            ("CLIENT SETINFO LIB-VER 8.1.0", "OK"),
            ("CLIENT SETNAME me", "OK"),
            ("CLIENT GETNAME", "\"me\""),
            ("SELECT 3", "OK"),
            ("SELECT 16", "-ERR DB index is out of range"),
            ("SELECT x", "-ERR value is not an integer or out of range"),
            ("HELLO 4", "-NOPROTO unsupported protocol version"),
            ("ECHO x", "\"x\""),
            ("NONSENSE a b", "-ERR unknown command 'NONSENSE', with args beginning with: 'a' 'b' "),
            ("GET", "-ERR wrong number of arguments for 'get' command"),
            ("CONFIG GET maxmemory-pol*", "{\"maxmemory-policy\" \"noeviction\"}"),
            ("CONFIG SET maxmemory-policy allkeys-lru", "OK"),
            ("CONFIG GET maxmemory-policy", "{\"maxmemory-policy\" \"allkeys-lru\"}"),
            ("CONFIG SET nonsense 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'nonsense'"),
            ("COMMAND GETKEYS MSET a 1 b 2", "[\"a\" \"b\"]"),
            ("CLUSTER KEYSLOT foo", ":12182"),
            ("MULTI", "OK"),
            ("RESET", "RESET"),
            ("CLIENT GETNAME", "nil"),
        ],
    );
    let info = client.call("INFO");
    for part in ["redis_version:7.4.0", "loading:0", "role:master", "used_memory:", "connected_clients:1"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    let list = client.call("CLIENT LIST");
    assert!(list.contains("db=0") && list.contains("lib-name=redis-py") && list.contains("cmd=client"), "{list}");
    assert_eq!(client.call("QUIT"), "OK");
    assert_eq!(client.next(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_come_in_order_whatever_a_pipeline_mixes() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    let mut lines = Vec::new();
    for number in 0..300 {
        lines.push(format!("SET k{} {number}", number % 7));
        lines.push(format!("GET k{}", number % 7));
        lines.push(match number % 5 {
            0 => format!("ECHO {number}"),
            1 => "NOPE".into(),
            2 => "STRLEN".into(),
            _ => format!("INCR n{}", number % 3),
        });
    }
    client.send(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let mut counts = [0; 3];
    for number in 0..300 {
        assert_eq!(client.reply(), "OK");
        assert_eq!(client.reply(), format!("\"{number}\""));
        let expected = match number % 5 {
            0 => format!("\"{number}\""),
            1 => "-ERR unknown command 'NOPE', with args beginning with: ".into(),
            2 => "-ERR wrong number of arguments for 'strlen' command".into(),
            _ => {
                counts[number % 3] += 1;
                format!(":{}", counts[number % 3])
            }
        };
        assert_eq!(client.reply(), expected, "{number}");
    }
    // A request in pieces, and one that is large.
    for byte in b"*2\r\n$3\r\nGET\r\n$2\r\nk0\r\n" {
        client.send_bytes(&[*byte]);
    }
    assert_eq!(client.reply(), "\"294\"");
    let large = "x".repeat(5 << 20);
    let set = format!("SET large {large}");
    client.send(&[&set, "STRLEN large"]);
    assert_eq!((client.reply(), client.reply()), ("OK".into(), format!(":{}", 5 << 20)));
    client.send(&["GET large"]);
    assert_eq!(client.next(), Some(Reply::Bulk(large.into_bytes())));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_there_after_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    check(
        &mut client,
        &[("SET a 1", "OK"), ("SELECT 2", "OK"), ("SET a 2", "OK"), ("APPEND a 3", ":2"), ("EXPIRE a 1000", ":1")],
    );
    node.kill();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    check(&mut client, &[("GET a", "\"1\""), ("SELECT 2", "OK"), ("GET a", "\"23\""), ("DBSIZE", ":1")]);
    let left = client.call("TTL a");
    assert!(left == ":1000" || left.starts_with(":9"), "{left}");
    // From one database to another.
    check(
        &mut client,
        &[
            ("SELECT 2", "OK"),
            ("MOVE a 3", ":1"),
            ("MOVE a 3", ":0"),
            ("SELECT 3", "OK"),
            ("COPY a a DB 2", ":1"),
            ("COPY a a DB 2", ":0"),
            ("SET a 4", "OK"),
            ("COPY a a DB 2 REPLACE", ":1"),
            ("SELECT 2", "OK"),
            ("GET a", "\"4\""),
        ],
    );
    check(&mut client, &[("FLUSHALL", "OK"), ("DBSIZE", ":0"), ("SELECT 0", "OK"), ("DBSIZE", ":0")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_happens_as_a_whole_or_not_at_all() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let (mut one, mut other) = (Client::of(&node), Client::of(&node));
    check(
        &mut one,
        &[
            ("EXEC", "-ERR EXEC without MULTI"),
            ("DISCARD", "-ERR DISCARD without MULTI"),
            ("MULTI", "OK"),
            ("MULTI", "-ERR MULTI calls can not be nested"),
            ("WATCH k", "-ERR WATCH inside MULTI is not allowed"),
            ("SET k 1", "QUEUED"),
            ("INCR k", "QUEUED"),
            ("PING", "QUEUED"),
            ("SELECT 1", "QUEUED"),
            ("SET other 5", "QUEUED"),
            ("GET k", "QUEUED"),
        ],
    );
    assert_eq!(other.call("GET k"), "nil");
    assert_eq!(one.call("EXEC"), "[OK :2 PONG OK OK nil]");
    check(&mut one, &[("GET other", "\"5\""), ("SELECT 0", "OK"), ("GET k", "\"2\"")]);
    // Refused while it was gathered: nothing of it happens.
    check(
        &mut one,
        &[
            ("MULTI", "OK"),
            ("SET k 9", "QUEUED"),
            ("NOPE", "-ERR unknown command 'NOPE', with args beginning with: "),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
            ("GET k", "\"2\""),
        ],
    );
    // A failure of one does not undo the others.
    check(
        &mut one,
        &[
            ("MULTI", "OK"),
            ("SET k x", "QUEUED"),
            ("INCR k", "QUEUED"),
            ("APPEND k y", "QUEUED"),
            ("EXEC", "[OK -ERR value is not an integer or out of range :2]"),
        ],
    );
    // Watched keys, one that is not there among them.
    for (change, expected) in [("SET k 1", "nil-array"), ("SET unrelated 1", "[OK]"), ("SET fresh 1", "nil-array")] {
        check(&mut one, &[("DEL fresh", ":0"), ("WATCH k fresh", "OK")]);
        assert_eq!(other.call(change), "OK");
        check(&mut one, &[("MULTI", "OK"), ("SET k mine", "QUEUED")]);
        assert_eq!(one.call("EXEC"), expected, "{change}");
    }
    check(&mut one, &[("WATCH k", "OK"), ("UNWATCH", "OK")]);
    assert_eq!(other.call("SET k 5"), "OK");
    check(&mut one, &[("MULTI", "OK"), ("GET k", "QUEUED"), ("EXEC", "[\"5\"]")]);
    check(&mut one, &[("MULTI", "OK"), ("SET k 6", "QUEUED"), ("DISCARD", "OK"), ("GET k", "\"5\"")]);
    check(&mut one, &[("MULTI", "OK"), ("EXEC", "[]")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_reach_those_who_subscribed() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let (mut two, mut three, mut sender) = (Client::of(&node), Client::of(&node), Client::of(&node));
    two.send(&["SUBSCRIBE a b", "PSUBSCRIBE n*"]);
    assert_eq!(two.reply(), "[\"subscribe\" \"a\" :1]");
    assert_eq!(two.reply(), "[\"subscribe\" \"b\" :2]");
    assert_eq!(two.reply(), "[\"psubscribe\" \"n*\" :3]");
    let refused = two.call("GET k");
    assert!(refused.starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE"), "{refused}");
    assert_eq!(two.call("PING"), "[\"pong\" \"\"]");
    three.call("HELLO 3");
    assert_eq!(three.call("SUBSCRIBE a"), ">[\"subscribe\" \"a\" :1]");
    assert_eq!(three.call("SSUBSCRIBE s"), ">[\"ssubscribe\" \"s\" :1]");
    check(
        &mut sender,
        &[
            ("PUBLISH a 1", ":2"),
            ("PUBLISH news 2", ":1"),
            ("PUBLISH nobody x", ":1"),
            ("PUBLISH other x", ":0"),
            ("SPUBLISH s 3", ":1"),
            ("PUBSUB NUMSUB a b c", "[\"a\" :2 \"b\" :1 \"c\" :0]"),
            ("PUBSUB NUMPAT", ":1"),
            ("PUBSUB SHARDCHANNELS", "[\"s\"]"),
        ],
    );
    assert_eq!(two.reply(), "[\"message\" \"a\" \"1\"]");
    assert_eq!(two.reply(), "[\"pmessage\" \"n*\" \"news\" \"2\"]");
    assert_eq!(two.reply(), "[\"pmessage\" \"n*\" \"nobody\" \"x\"]");
    assert_eq!(three.reply(), ">[\"message\" \"a\" \"1\"]");
    assert_eq!(three.reply(), ">[\"smessage\" \"s\" \"3\"]");
    // Protocol 3 may go on with other commands.
    assert_eq!(three.call("SET k v"), "OK");
    assert_eq!(two.call("UNSUBSCRIBE a"), "[\"unsubscribe\" \"a\" :2]");
    sender.send(&["MULTI", "PUBLISH a in-order-1", "PUBLISH a in-order-2", "EXEC"]);
    let replies: Vec<String> = (0..4).map(|_| sender.reply()).collect();
    assert_eq!(replies, ["OK", "QUEUED", "QUEUED", "[:1 :1]"]);
    assert_eq!(three.reply(), ">[\"message\" \"a\" \"in-order-1\"]");
    assert_eq!(three.reply(), ">[\"message\" \"a\" \"in-order-2\"]");
    // What happens to keys, where it was asked for.
    assert_eq!(sender.call("CONFIG SET notify-keyspace-events KEA"), "OK");
    two.send(&["PUNSUBSCRIBE", "UNSUBSCRIBE", "PSUBSCRIBE __key*__:*"]);
    (0..3).for_each(|_| drop(two.reply()));
    assert_eq!(sender.call("SET key v"), "OK");
    assert_eq!(two.reply(), "[\"pmessage\" \"__key*__:*\" \"__keyspace@0__:key\" \"set\"]");
    assert_eq!(two.reply(), "[\"pmessage\" \"__key*__:*\" \"__keyevent@0__:set\" \"key\"]");
    // Keys that were not there before, of every type.
    assert_eq!(sender.call("CONFIG SET notify-keyspace-events En"), "OK");
    for call in
        ["SET key w", "SET new 1", "INCR new", "RPUSH list a", "RPUSH list b", "RENAME list other", "COPY key again"]
    {
        assert!(!sender.call(call).starts_with('-'), "{call}");
    }
    for key in ["new", "list", "other", "again"] {
        assert_eq!(two.reply(), format!("[\"pmessage\" \"__key*__:*\" \"__keyevent@0__:new\" \"{key}\"]"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_are_served_first_come_first_served() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut main = Client::of(&node);
    if main.call("BLPOP k").starts_with("-ERR unknown command") {
        return;
    }
    let begin = Instant::now();
    check(&mut main, &[("BLPOP k 0.05", "nil-array"), ("BLPOP k x", "-ERR timeout is not a float or out of range")]);
    assert!(begin.elapsed() >= Duration::from_millis(50));
    let mut waiting: Vec<Client> = (0..5).map(|_| Client::of(&node)).collect();
    for (place, client) in waiting.iter_mut().enumerate() {
        client.send(&["BLPOP other k 0"]);
        wait_for_blocked(&mut main, place + 1);
    }
    // One that leaves has its turn no more.
    drop(waiting.remove(1));
    wait_for_blocked(&mut main, 4);
    assert_eq!(main.call("RPUSH k 1 2"), ":2");
    assert_eq!(waiting[0].reply(), "[\"k\" \"1\"]");
    assert_eq!(waiting[1].reply(), "[\"k\" \"2\"]");
    wait_for_blocked(&mut main, 2);
    // Another type of value wakes nobody.
    check(&mut main, &[("SET k x", "OK"), ("DEL k", ":1")]);
    assert!(waiting[2].is_quiet());
    waiting[2].send(&["PING"]);
    check(&mut main, &[("MULTI", "OK"), ("RPUSH other a", "QUEUED"), ("RPUSH k 3", "QUEUED"), ("EXEC", "[:1 :1]")]);
    assert_eq!(waiting[2].reply(), "[\"other\" \"a\"]");
    assert_eq!(waiting[2].reply(), "PONG");
    assert_eq!(waiting[3].reply(), "[\"k\" \"3\"]");
    check(&mut main, &[("MULTI", "OK"), ("BLPOP k 0", "QUEUED"), ("EXEC", "[nil-array]")]);
    // What came cannot be taken: it can be put nowhere, or another key has a value of another type by now.
    for (place, line) in ["BRPOPLPUSH k word 0", "BLMOVE k word LEFT LEFT 0", "BLPOP k word 0"].iter().enumerate() {
        main.call("DEL k word");
        if place < 2 {
            main.call("SET word x");
        }
        waiting[0].send(&[line]);
        wait_for_blocked(&mut main, 1);
        check(&mut main, &[("SET word x", "OK"), ("RPUSH k 1", ":1")]);
        let reply = waiting[0].reply();
        match place {
            0 | 1 => assert!(reply.starts_with("-WRONGTYPE"), "{line}: {reply}"),
            _ => assert_eq!(reply, "[\"k\" \"1\"]"),
        }
    }
    main.call("DEL k word");
    // Somebody else ends the wait.
    for (how, expected) in [("TIMEOUT", "nil-array"), ("ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK")] {
        let id = waiting[0].call("CLIENT ID");
        waiting[0].send(&["BLPOP k 0"]);
        wait_for_blocked(&mut main, 1);
        assert_eq!(main.call(&format!("CLIENT UNBLOCK {} {how}", &id[1..])), ":1");
        assert_eq!(waiting[0].reply(), expected);
        assert_eq!(main.call(&format!("CLIENT UNBLOCK {} {how}", &id[1..])), ":0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_in_clients_are_told_of_changes() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let (mut cache, mut other) = (Client::of(&node), Client::of(&node));
    cache.call("HELLO 3");
    check(&mut other, &[("SET a 1", "OK"), ("SET b 1", "OK")]);
    check(&mut cache, &[("CLIENT TRACKING ON", "OK"), ("GET a", "\"1\""), ("GETRANGE b 0 0", "\"1\"")]);
    check(&mut other, &[("SET a 2", "OK"), ("SET c 2", "OK"), ("SET a 3", "OK")]);
    assert_eq!(cache.reply(), ">[\"invalidate\" [\"a\"]]");
    assert!(cache.is_quiet(), "it did not read it again");
    check(&mut other, &[("FLUSHDB", "OK")]);
    assert_eq!(cache.reply(), ">[\"invalidate\" nil]");
    check(&mut cache, &[("CLIENT TRACKING OFF", "OK"), ("CLIENT TRACKING ON BCAST PREFIX x: PREFIX y: NOLOOP", "OK")]);
    check(&mut other, &[("SET x:1 1", "OK"), ("SET z:1 1", "OK"), ("SET y:2 1", "OK")]);
    assert_eq!(cache.reply(), ">[\"invalidate\" [\"x:1\"]]");
    assert_eq!(cache.reply(), ">[\"invalidate\" [\"y:2\"]]");
    check(&mut cache, &[("SET x:1 mine", "OK")]);
    assert!(cache.is_quiet(), "it knows what it changed");
    let info = cache.call("CLIENT TRACKINGINFO");
    assert_eq!(info, "{\"flags\" ~[\"on\" \"bcast\" \"noloop\"], \"redirect\" :0, \"prefixes\" [\"x:\" \"y:\"]}");
    check(&mut cache, &[("CLIENT TRACKING OFF", "OK"), ("CLIENT TRACKING ON BCAST", "OK")]);
    assert!(cache.call("CLIENT TRACKINGINFO").ends_with("\"prefixes\" [\"\"]}"), "all keys");
    // Told to another connection, of the older protocol.
    let mut told = Client::of(&node);
    let id = told.call("CLIENT ID");
    assert_eq!(told.call("SUBSCRIBE __redis__:invalidate"), "[\"subscribe\" \"__redis__:invalidate\" :1]");
    let mut reader = Client::of(&node);
    let track = format!("CLIENT TRACKING ON REDIRECT {}", &id[1..]);
    check(&mut reader, &[(&*track, "OK"), ("GET q", "nil")]);
    assert_eq!(other.call("SET q 1"), "OK");
    assert_eq!(told.reply(), "[\"message\" \"__redis__:invalidate\" [\"q\"]]");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_password_does_nothing() {
    let data = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let password = elsewhere.path().join("password");
    std::fs::write(&password, "secret\nand a remark\n").unwrap();
    let node = start(data.path(), &["--resp-password-file", password.to_str().unwrap()]).await;
    let mut client = Client::of(&node);
    check(
        &mut client,
        &[
            ("GET k", "-NOAUTH Authentication required."),
            ("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled."),
            ("AUTH default secret", "OK"),
            ("SET k v", "OK"),
            ("ACL WHOAMI", "\"default\""),
            ("ACL SETUSER reader on >pw ~k* +@read +client|id", "OK"),
        ],
    );
    let mut reader = Client::of(&node);
    let hello = reader.call("HELLO 3 AUTH reader pw SETNAME r");
    assert!(hello.contains("\"proto\" :3"), "{hello}");
    check(
        &mut reader,
        &[
            ("GET k", "\"v\""),
            ("GET other", "-NOPERM No permissions to access a key"),
            ("SET k w", "-NOPERM User reader has no permissions to run the 'set' command"),
            ("CLIENT LIST", "-NOPERM User reader has no permissions to run the 'client|list' command"),
        ],
    );
    assert!(reader.call("CLIENT ID").starts_with(':'));
    assert_eq!(client.call("ACL DELUSER reader"), ":1");
    assert_eq!(reader.next(), None);
    // Limits are narrow before one says who one is.
    let mut stranger = Client::of(&node);
    stranger.send_bytes(b"*1000\r\n");
    assert_eq!(stranger.reply(), "-ERR Protocol error: unauthenticated multibulk length");
    assert_eq!(stranger.next(), None);
    let mut stranger = Client::of(&node);
    stranger.send_bytes(b"*2\r\n$4\r\nAUTH\r\n$1000000\r\n");
    assert_eq!(stranger.reply(), "-ERR Protocol error: unauthenticated bulk length");
    assert_eq!(stranger.next(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_keep_to_the_rules_is_cut_off() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &["--resp-connections", "20"]).await;
    for (bytes, expected) in [
        (&b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a b\r\n"[..], "(closed)"),
        (b"*1\r\n+PING\r\n", "-ERR Protocol error: expected '$', got '+'"),
        (b"*9999999999\r\n", "-ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length"),
        (b"PING \"x\r\n", "-ERR Protocol error: unbalanced quotes in request"),
    ] {
        let mut client = Client::of(&node);
        client.send_bytes(bytes);
        assert_eq!(client.reply(), expected, "{:?}", String::from_utf8_lossy(bytes));
        assert_eq!(client.reply(), "(closed)");
    }
    assert_eq!(Client::of(&node).call("EXISTS a"), ":0");
    // A subscriber that never reads is given up, and nobody else notices.
    let mut slow = Client::of(&node);
    assert_eq!(slow.call("SUBSCRIBE c"), "[\"subscribe\" \"c\" :1]");
    let mut sender = Client::of(&node);
    let message = format!("PUBLISH c {}", "x".repeat(4 << 20));
    let begin = Instant::now();
    while sender.call(&message) == ":1" {
        assert!(begin.elapsed() < PATIENCE, "the slow subscriber is still there");
    }
    // Too many connections.
    let mut all: Vec<Client> = Vec::new();
    let refused = loop {
        let mut client = Client::of(&node);
        match client.call("PING").as_str() {
            "PONG" => all.push(client),
            refused => break refused.to_owned(),
        }
        assert!(all.len() <= 20);
    };
    assert_eq!(refused, "-ERR max number of clients reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_want_no_replies_get_none() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    client.send(&["SET a 1", "CLIENT REPLY SKIP", "SET a 2", "GET a"]);
    assert_eq!((client.reply(), client.reply()), ("OK".into(), "\"2\"".into()));
    client.send(&["CLIENT REPLY OFF", "SET a 3", "GET a", "NOPE", "CLIENT REPLY ON", "GET a"]);
    assert_eq!((client.reply(), client.reply()), ("OK".into(), "\"3\"".into()));
    // What is heard of subscriptions is no reply.
    let mut hearer = Client::of(&node);
    hearer.send(&["CLIENT REPLY OFF", "SUBSCRIBE c", "PING", "CLIENT REPLY OFF", "PSUBSCRIBE c*"]);
    assert_eq!(
        (hearer.reply(), hearer.reply()),
        ("[\"subscribe\" \"c\" :1]".into(), "[\"psubscribe\" \"c*\" :2]".into())
    );
    assert_eq!(client.call("PUBLISH c x"), ":2");
    assert_eq!(hearer.reply(), "[\"message\" \"c\" \"x\"]");
    assert_eq!(hearer.reply(), "[\"pmessage\" \"c*\" \"c\" \"x\"]");
    hearer.send(&["PUNSUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE c", "GET a", "CLIENT REPLY ON"]);
    let heard = ["[\"punsubscribe\" \"c*\" :1]", "[\"unsubscribe\" \"c\" :0]", "OK"];
    assert_eq!([0; 3].map(|_| hearer.reply()), heard);
    // Others can be made to wait.
    let mut other = Client::of(&node);
    assert_eq!(other.call("CLIENT PAUSE 60000 WRITE"), "OK");
    assert_eq!(client.call("GET a"), "\"3\"");
    client.send(&["SET a 4"]);
    assert!(client.is_quiet());
    assert_eq!(other.call("CLIENT UNPAUSE"), "OK");
    assert_eq!(client.reply(), "OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_of_three_answers_and_goes_on_without_the_one_that_led() {
    let options = ["--resp", "127.0.0.1:0"].map(String::from).to_vec();
    let mut cluster = Cluster::start(Plan { options, ..Plan::default() }).await;
    let mut clients: Vec<Client> = (0..3).map(|number| Client::of(cluster.node(number))).collect();
    // What one node answered is what every node answers from then on.
    for round in 0..30 {
        let (writer, reader) = (round % 3, (round / 3) % 3);
        assert_eq!(clients[writer].call(&format!("SET k {round}")), "OK");
        assert_eq!(clients[reader].call("GET k"), format!("\"{round}\""), "written at {writer}, read at {reader}");
    }
    // Watched on one node, changed on another.
    assert_eq!(clients[1].call("WATCH k"), "OK");
    assert_eq!(clients[2].call("INCR k"), ":30");
    clients[1].send(&["MULTI", "SET k lost", "EXEC"]);
    assert_eq!([0; 3].map(|_| clients[1].reply()), ["OK", "QUEUED", "nil-array"]);
    // Heard on all nodes.
    let mut hearers: Vec<Client> = (0..3).map(|number| Client::of(cluster.node(number))).collect();
    for hearer in &mut hearers {
        assert_eq!(hearer.call("SUBSCRIBE c"), "[\"subscribe\" \"c\" :1]");
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.call(&format!("PUBLISH c from-{number}")), ":1");
    }
    for hearer in &mut hearers {
        let heard = [0; 3].map(|_| hearer.reply());
        assert_eq!(heard, [0, 1, 2].map(|number| format!("[\"message\" \"c\" \"from-{number}\"]")));
    }
    let leader = cluster.leader().await;
    let rest: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    assert_eq!(clients[rest[0]].call("READONLY"), "OK");
    assert!(clients[rest[0]].call("GET k").starts_with('"'));
    assert_eq!(clients[rest[0]].call("READWRITE"), "OK");
    assert_eq!(clients[leader].call("SET last word"), "OK");
    cluster.nodes[leader].take().expect("it ran").kill();
    // What was on its way there is asked for again. Later writes reach nobody and wait until there is somebody.
    for number in 0..10 {
        assert_eq!(clients[rest[number % 2]].call("INCR waited"), format!(":{}", number + 1));
    }
    for number in &rest {
        let begin = Instant::now();
        loop {
            match clients[*number].call("GET last").as_str() {
                "\"word\"" => break,
                error => assert!(error.starts_with("-TRYAGAIN"), "{error}"),
            }
            assert!(begin.elapsed() < PATIENCE, "nobody leads");
        }
    }
    assert_eq!(clients[rest[0]].call("APPEND last s"), ":5");
    assert_eq!(clients[rest[1]].call("GET last"), "\"words\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_drawn_by_chance_is_another_each_time() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    check(&mut client, &[("SADD s a b c d e f", ":6"), ("MSET x 1 y 2 z 3", "OK")]);
    for line in ["SRANDMEMBER s", "RANDOMKEY"] {
        let mut seen: Vec<String> = (0..60).map(|_| client.call(line)).collect();
        seen.sort();
        seen.dedup();
        assert!(seen.len() > 2, "{line}: {seen:?}");
    }
    let text = "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command";
    check(&mut client, &[("MULTI", "OK"), ("EXEC 1", text), ("EXEC", "-ERR EXEC without MULTI")]);
    check(&mut client, &[("BLMOVE none s LEFT LEFT 0.01", "nil-array"), ("BRPOPLPUSH none s 0.01", "nil-array")]);
    assert_eq!(client.call("COPY x y DB one"), "-ERR value is not an integer or out of range");
}

/// Sets keys, a thousand at a time, and says how many were refused for want of memory.
fn fill(client: &mut Client, prefix: &str, count: usize, more: &str) -> usize {
    let mut refused = 0;
    for first in (0..count).step_by(1000) {
        let lines: Vec<String> =
            (first..first + 1000).map(|number| format!("SET {prefix}{number} {}{more}", "x".repeat(100))).collect();
        client.send(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        for _ in first..first + 1000 {
            refused += usize::from(client.reply().starts_with("-OOM"));
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn what_databases_may_take_evicts_keys_or_refuses_writes() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &["--resp-maxmemory-mib", "4"]).await;
    let mut client = Client::of(&node);
    check(
        &mut client,
        &[
            ("CONFIG GET maxmemory", "[\"maxmemory\" \"4194304\"]"),
            (
                "CONFIG SET maxmemory-policy best",
                "-ERR CONFIG SET failed (possibly related to argument 'maxmemory-policy') - \
             argument(s) must be one of the following: s3-fifo, allkeys-lru, allkeys-lfu, allkeys-random, volatile-lru, \
             volatile-lfu, volatile-random, volatile-ttl, noeviction",
            ),
        ],
    );
    // Nothing makes room: what came first stays.
    assert!(fill(&mut client, "a", 40_000, "") > 5_000);
    check(
        &mut client,
        &[
            ("EXISTS a0", ":1"),
            ("SET b 1", "-OOM command not allowed when used memory > 'maxmemory'."),
            ("XGROUP CREATE a0 g 0", "-OOM command not allowed when used memory > 'maxmemory'."),
            ("XGROUP DESTROY a0 g", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("MULTI", "OK"),
            ("SET b 1", "-OOM command not allowed when used memory > 'maxmemory'."),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
            // No key has a deadline.
            ("CONFIG SET maxmemory-policy volatile-lru", "OK"),
            ("SET b 1", "-OOM command not allowed when used memory > 'maxmemory'."),
            ("DEL a0", ":1"),
            ("CONFIG SET maxmemory-policy allkeys-lru", "OK"),
            ("SET b 1", "OK"),
        ],
    );
    assert_eq!(fill(&mut client, "c", 40_000, ""), 0);
    assert!(client.info("evicted_keys") > 20_000);
    let keys: usize = client.call("DBSIZE").trim_start_matches(':').parse().unwrap();
    assert!((10_000..40_000).contains(&keys), "{keys} keys");
    // Less room: they go without another write.
    assert_eq!(client.call("CONFIG SET maxmemory 1mb"), "OK");
    let (begin, mut last) = (Instant::now(), usize::MAX);
    loop {
        let keys: usize = client.call("DBSIZE").trim_start_matches(':').parse().unwrap();
        if keys == last && keys < 8_000 {
            break;
        }
        last = keys;
        assert!(begin.elapsed() < PATIENCE, "nothing makes room: {keys} keys");
        std::thread::sleep(Duration::from_millis(200));
    }
    // Only those with a deadline go.
    check(&mut client, &[("CONFIG SET maxmemory 6mb", "OK"), ("CONFIG SET maxmemory-policy volatile-ttl", "OK")]);
    let before: usize = client.call("DBSIZE").trim_start_matches(':').parse().unwrap();
    assert_eq!(fill(&mut client, "d", 60_000, " EX 10000"), 0);
    let (mut kept, mut cursor) = (0, "0".to_owned());
    loop {
        client.send(&[&format!("SCAN {cursor} COUNT 10000 MATCH [abc]*")]);
        let Some(Reply::Array(parts)) = client.next() else { panic!("a scan") };
        let (Reply::Bulk(next), Reply::Array(found)) = (&parts[0], &parts[1]) else { panic!("a cursor and keys") };
        kept += found.len();
        cursor = String::from_utf8(next.clone()).unwrap();
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(kept, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_swapped_databases_and_dumps_outlive_the_node() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    let library =
        "#!lua name=lib\nredis.register_function('put', function(k, a) return redis.call('SET', k[1], a[1]) end)";
    assert_eq!(client.call_with(&["FUNCTION", "LOAD", library]), "\"lib\"");
    check(
        &mut client,
        &[
            ("FCALL put 1 k v", "OK"),
            ("SWAPDB 0 x", "-ERR invalid second DB index"),
            ("SWAPDB 0 16", "-ERR DB index is out of range"),
            ("SWAPDB 0 5", "OK"),
            ("EXISTS k", ":0"),
            ("SELECT 5", "OK"),
            ("GET k", "\"v\""),
            // A watched key that went elsewhere has changed.
            ("WATCH k", "OK"),
            ("SWAPDB 5 6", "OK"),
            ("MULTI", "OK"),
            ("PING", "QUEUED"),
            ("EXEC", "nil-array"),
            ("MULTI", "OK"),
            ("SWAPDB 6 5", "QUEUED"),
            ("GET k", "QUEUED"),
            ("CONFIG nope", "-ERR unknown subcommand 'nope'. Try CONFIG HELP."),
            ("EXEC", "-EXECABORT Transaction discarded because of previous errors."),
            ("MULTI", "OK"),
            ("SWAPDB 6 5", "QUEUED"),
            ("GET k", "QUEUED"),
            ("EXEC", "[OK \"v\"]"),
        ],
    );
    let mut waiting = Client::of(&node);
    waiting.send(&["BLPOP l 0"]);
    wait_for_blocked(&mut client, 1);
    check(&mut client, &[("RPUSH l x", ":1"), ("SWAPDB 5 0", "OK")]);
    assert_eq!(waiting.reply(), "[\"l\" \"x\"]");
    // As a redis-server 7.0 dumped it: a list.
    let payload = b"\x12\x01\x02\x0c\x0c\x00\x00\x00\x01\x00\x83xxx\x04\xff";
    let mut restore = b"*4\r\n$7\r\nRESTORE\r\n$1\r\nr\r\n$1\r\n0\r\n".to_vec();
    restore.extend(format!("${}\r\n", payload.len()).bytes().chain(payload.iter().copied()).chain(*b"\r\n"));
    client.send_bytes(&restore);
    assert_eq!(client.reply(), "-ERR DUMP payload version or checksum are wrong");
    node.kill();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    check(
        &mut client,
        &[("GET k", "\"v\""), ("FCALL put 1 k w", "OK"), ("GET k", "\"w\""), ("FUNCTION DELETE lib", "OK")],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_slow_refused_found_and_called_is_told() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = Client::of(&node);
    check(
        &mut client,
        &[
            ("CONFIG SET slowlog-log-slower-than 100000 latency-monitor-threshold 100", "OK"),
            ("PING", "PONG"),
            ("SLOWLOG LEN", ":0"),
            ("DEBUG SLEEP 0.15", "OK"),
            ("SLOWLOG LEN", ":1"),
            ("CONFIG SET slowlog-log-slower-than 0 slowlog-max-len 3", "OK"),
            ("PING", "PONG"),
            ("PING", "PONG"),
            ("SLOWLOG LEN", ":3"),
            ("CONFIG SET slowlog-log-slower-than -1", "OK"),
            ("SLOWLOG RESET", "OK"),
            ("SLOWLOG GET", "[]"),
            ("SLOWLOG GET -2", "-ERR count should be greater than or equal to -1"),
            ("LATENCY RESET", ":1"),
            ("LATENCY LATEST", "[]"),
            ("CONFIG RESETSTAT", "OK"),
            ("SET k v", "OK"),
            ("GET k", "\"v\""),
            ("GET no", "nil"),
            ("LPUSH k x", "-WRONGTYPE Operation against a key holding the wrong kind of value"),
        ],
    );
    assert_eq!((client.info("keyspace_hits"), client.info("keyspace_misses")), (1, 1));
    let stats = client.call("INFO commandstats");
    assert!(stats.contains("cmdstat_get:calls=2,") && stats.contains("cmdstat_lpush:calls=1,"), "{stats}");
    assert!(client.call("INFO errorstats").contains("errorstat_WRONGTYPE:count=1"));
    assert!(client.call("LATENCY HISTOGRAM get").starts_with("[\"get\" [\"calls\" :2 \"histogram_usec\""));
    // Rules that change hold for connections that are open, and what is refused is noted.
    check(&mut client, &[("ACL SETUSER u on nopass +@all ~a* &*", "OK")]);
    let mut other = Client::of(&node);
    check(&mut other, &[("AUTH u x", "OK"), ("SET a1 v", "OK"), ("SET b v", "-NOPERM No permissions to access a key")]);
    check(&mut client, &[("ACL SETUSER u -set", "OK")]);
    check(
        &mut other,
        &[
            ("SET a1 v", "-NOPERM User u has no permissions to run the 'set' command"),
            ("AUTH u2 x", "-WRONGPASS invalid username-password pair or user is disabled."),
        ],
    );
    let log = client.call("ACL LOG");
    for part in ["\"reason\" \"auth\"", "\"object\" \"set\"", "\"reason\" \"key\"", "\"object\" \"b\""] {
        assert!(log.contains(part), "{part}: {log}");
    }
    check(
        &mut client,
        &[
            ("ACL LOG RESET", "OK"),
            ("ACL LOG", "[]"),
            ("ACL SETUSER u (+set ~c*)", "OK"),
            ("ACL DRYRUN u set c1 v", "OK"),
            ("ACL DRYRUN u set a1 v", "\"User u has no permissions to access the 'a1' key\""),
            ("COMMAND GETKEYSANDFLAGS LMOVE a b left left", "[[\"a\" [RW access delete]] [\"b\" [RW insert]]]"),
            ("REPLICAOF NO ONE", "OK"),
        ],
    );
}
