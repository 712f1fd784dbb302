//! The cache beyond Redis, from outside: the examples of docs/cache.md as they stand there, typed values over gRPC and on the
//! command line, versions, leases that a paused holder does not outlive, and tags.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use loci_client::{CacheReply, Client, Condition, Consistency, Error, PutOptions, Record, Schema};
use loci_tests::chance::Chance;
use loci_tests::process::{Node, PATIENCE, Start, program};
use loci_wire::resp::{Reply, ReplyDecoder, ReplyLimits, encode_request};
use loci_wire::v1;
use loci_wire::v1::cache_client::CacheClient;
use loci_wire::v1::cache_reply::Kind;

/// A connection of a client of Redis.
struct Resp {
    stream: TcpStream,
    input: Vec<u8>,
    decoder: ReplyDecoder,
}

impl Resp {
    fn of(node: &Node) -> Resp {
        Resp::at(node.resp.as_deref().expect("the node has a door for clients of Redis")).expect("it listens")
    }

    fn at(address: &str) -> std::io::Result<Resp> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Resp { stream, input: Vec::new(), decoder: ReplyDecoder::new(ReplyLimits::default()) })
    }

    /// The reply to a call; none: the connection broke.
    fn call(&mut self, args: &[&str]) -> Option<Reply> {
        let mut bytes = Vec::new();
        encode_request(&mut bytes, args);
        self.stream.write_all(&bytes).ok()?;
        loop {
            if let Some((reply, taken)) = self.decoder.decode(&self.input).expect("a reply") {
                self.input.drain(..taken);
                return Some(reply);
            }
            let mut part = [0; 4096];
            match self.stream.read(&mut part) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.input.extend_from_slice(&part[..count]),
            }
        }
    }

    /// The reply to a line as `redis-cli` shows it.
    fn line(&mut self, line: &str) -> String {
        let args: Vec<&str> = line.split(' ').collect();
        let reply = self.call(&args).expect("the node answers");
        let mut text = String::new();
        show(&reply, "", &mut text);
        text
    }

    fn int(&mut self, line: &str) -> Option<i64> {
        match self.call(&line.split(' ').collect::<Vec<_>>())? {
            Reply::Int(number) => Some(number),
            _ => None,
        }
    }
}

fn show(reply: &Reply, indent: &str, text: &mut String) {
    match reply {
        Reply::Status(status) => *text += &String::from_utf8_lossy(status),
        Reply::Error(error) => *text += &format!("(error) {}", String::from_utf8_lossy(error)),
        Reply::Int(number) => *text += &format!("(integer) {number}"),
        Reply::Bulk(bytes) => *text += &format!("{:?}", String::from_utf8_lossy(bytes)),
        Reply::Null | Reply::NullArray => *text += "(nil)",
        Reply::Array(replies) if replies.is_empty() => *text += "(empty array)",
        Reply::Array(replies) => {
            for (number, reply) in (1..).zip(replies) {
                let before = if number == 1 { String::new() } else { format!("\n{indent}") };
                *text += &format!("{before}{number}) ");
                show(reply, &format!("{indent}   "), text);
            }
        }
        other => panic!("not in protocol 2: {other:?}"),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

async fn start(data: &Path) -> Node {
    Start::default().with(&["--resp", "127.0.0.1:0"]).ready(data).await
}

/// Numbers of the document that are positions in a log, and what they are here.
#[derive(Default)]
struct Positions(HashMap<String, String>);

impl Positions {
    fn is_one(word: &str) -> bool {
        word.len() >= 6 && word.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// Whether a reply is the one that the document shows, but for positions that it shows for the first time.
    fn fits(&mut self, expected: &str, found: &str) -> bool {
        let words = |text: &str| -> Vec<String> {
            text.split_inclusive(|c: char| !c.is_ascii_alphanumeric())
                .flat_map(|part| {
                    let cut = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len();
                    [part[..cut].to_owned(), part[cut..].to_owned()]
                })
                .filter(|part| !part.is_empty())
                .collect()
        };
        let (expected, found) = (words(expected), words(found));
        expected.len() == found.len()
            && expected.iter().zip(&found).all(|(expected, found)| {
                if !Positions::is_one(expected) {
                    return expected == found;
                }
                *self.0.entry(expected.clone()).or_insert_with(|| found.clone()) == *found
            })
    }

    fn translate(&self, line: &str) -> String {
        let words = line.split(' ').map(|word| self.0.get(word).map_or(word, |here| here));
        words.collect::<Vec<_>>().join(" ")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_shows_is_what_happens() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let document = std::fs::read_to_string(root().join("docs/cache.md")).expect("the document is there");
    let mut resp = Resp::of(&node);
    let (mut positions, mut language, mut compared) = (Positions::default(), "", 0);
    let (mut asked, mut expected, mut shell) = (None::<String>, Vec::new(), String::new());
    for line in document.lines() {
        let fence = line.strip_prefix("```");
        let over = fence.is_some() || line.starts_with("> ");
        if language == "redis"
            && over
            && let Some(asked) = asked.take()
        {
            let found = resp.line(&positions.translate(&asked));
            let expected = std::mem::take(&mut expected).join("\n");
            assert!(positions.fits(&expected, &found), "{asked}\n{found}\nis not\n{expected}");
            compared += 1;
        }
        if language == "output" && fence.is_some() {
            let expected = std::mem::take(&mut expected).join("\n");
            assert!(positions.fits(&expected, shell.trim_end()), "{shell}\nis not\n{expected}");
            compared += 1;
        }
        match (fence, language) {
            (Some(""), "sh") => {
                shell = run(&std::mem::take(&mut expected).join("\n"), &node);
                language = "";
            }
            (Some(""), _) => language = "",
            (Some(begins), _) => language = begins,
            (None, "redis") => match line.strip_prefix("> ") {
                Some(call) => asked = Some(call.to_owned()),
                None => expected.push(line.to_owned()),
            },
            (None, "sh" | "output") => expected.push(line.to_owned()),
            _ => {}
        }
    }
    let shown = document.lines().filter(|line| line.starts_with("> ") || *line == "```output").count();
    assert_eq!(compared, shown, "every reply that is shown is compared");
}

/// Runs lines of shell in which `loci` is the program and the node is this one.
fn run(lines: &str, node: &Node) -> String {
    let folder = program().parent().expect("a program lies in a folder");
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new("sh");
    command.args(["-e", "-c", lines]).env("PATH", path).env("LOCI_ADDRESS", &node.address);
    let output = command.output().expect("a shell runs");
    assert!(output.status.success(), "{lines}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text")
}

async fn client_and_cache(node: &Node) -> (Client, loci_client::Cache) {
    let client = Client::connect(&node.address).await.expect("it answers");
    let collection = client.collection("default", "cache");
    collection.ensure(Schema::default()).await.expect("a collection is made");
    (client, collection.cache())
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_values_are_there_for_clients_of_the_native_api() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let (_, cache) = client_and_cache(&node).await;
    assert_eq!(cache.get("k").await, Ok(None));
    cache.set("k", "v").await.expect("it is set");
    assert_eq!(cache.get("k").await.expect("it is read").as_deref(), Some(&b"v"[..]));
    cache.set_for("short", "v", Duration::from_millis(1)).await.expect("it is set");
    assert_eq!(cache.increment("n", 41).await, Ok(41));
    assert_eq!(cache.increment("n", 1).await, Ok(42));
    assert_eq!(cache.hash_set("h", [("a", "1"), ("b", "2")]).await, Ok(2));
    assert_eq!(cache.hash_get("h", "b").await.expect("it is read").as_deref(), Some(&b"2"[..]));
    assert_eq!(cache.hash_all("h").await.expect("it is read").len(), 2);
    assert_eq!(cache.expire("h", Duration::from_secs(60)).await, Ok(true));
    assert_eq!(cache.delete("h").await, Ok(true));
    assert_eq!(cache.delete("h").await, Ok(false));
    let failed = cache.increment("k", 1).await.expect_err("it is no number");
    assert!(matches!(&failed, Error::Command { message } if message.contains("not an integer")), "{failed:?}");
    for wrong in [&["NOPE"][..], &["GET"], &["MULTI"], &["SUBSCRIBE", "c"]] {
        let failed = cache.call(wrong.iter().copied()).await.expect_err("it is refused");
        assert_eq!(failed.reason(), Some("invalid_command"), "{failed:?}");
    }
    // Other kinds, and shapes of replies.
    cache.call(["ZADD", "z", "1.5", "a", "2", "b"]).await.expect("it is added");
    let scores = cache.call(["ZRANGE", "z", "0", "-1", "WITHSCORES"]).await;
    let pair = |member: &'static str, score| {
        CacheReply::Array(vec![CacheReply::Bytes(member.into()), CacheReply::Double(score)])
    };
    assert_eq!(scores, Ok(CacheReply::Array(vec![pair("a", 1.5), pair("b", 2.0)])));
    assert_eq!(cache.call(["BLPOP", "nope", "0"]).await, Ok(CacheReply::Null), "it does not wait");
    let script = "redis.call('SET', KEYS[1], ARGV[1]); return {1, redis.call('GET', KEYS[1])}";
    let done = cache.call(["EVAL", script, "1", "s", "x"]).await;
    assert_eq!(done, Ok(CacheReply::Array(vec![CacheReply::Int(1), CacheReply::Bytes("x".into())])));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_go_together_or_not_at_all_and_reads_are_as_new_as_asked() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let (client, cache) = client_and_cache(&node).await;
    cache.set("k", "v").await.expect("it is set");
    assert_eq!(cache.increment("n", 42).await, Ok(42));
    let version = cache.version("k").await.expect("it has one");
    let write = |version| {
        let both = cache.commands().command(["SET", "k", "w"]).command(["INCR", "n"]);
        both.condition(Condition::value_version("k", version)).execute()
    };
    let failed = write(version + 1).await.expect_err("it has another version");
    assert!(
        matches!(&failed, Error::ConditionFailed { version: Some(found), number: 0, message } if *found == version
        && message.contains("key \"k\"") && message.contains(&(version + 1).to_string())),
        "{failed:?}"
    );
    let done = write(version).await.expect("the version is that");
    assert_eq!(done.replies, [CacheReply::Status("OK".into()), CacheReply::Int(43)]);
    // As new as a token says, and as old as a node is behind.
    for level in [Consistency::AtLeast(done.token), Consistency::Stale, Consistency::Latest] {
        let reader = client.collection("default", "cache").with_consistency(level).cache();
        assert_eq!(reader.get("k").await.expect("it is read").as_deref(), Some(&b"w"[..]));
        assert_eq!(reader.increment("n", 0).await, Ok(43), "writes go on as ever");
    }
    // On a pipeline too.
    let piped = client.pipeline().collection("default", "cache").cache();
    assert_eq!(piped.increment("n", 1).await, Ok(44));
    // Compare and set, without reading anew.
    let first = cache.set_if_version("c", 0, "1").await.expect("it is not there");
    let second = cache.set_if_version("c", first, "2").await.expect("it is what it was");
    assert!(second > first);
    assert!(matches!(cache.set_if_version("c", first, "3").await, Err(Error::ConditionFailed { .. })));
    assert_eq!(cache.get_versioned("c").await, Ok((second, Some("2".into()))));
    // Clients of Redis see it, in their database of that name.
    client.ensure_namespace_with("redis", 0).await.expect("a namespace is made");
    client.collection("redis", "db3").ensure(Schema::default()).await.expect("a collection is made");
    client.collection("redis", "db3").cache().set("seen", "yes").await.expect("it is set");
    let mut resp = Resp::of(&node);
    resp.line("SELECT 3");
    assert_eq!(resp.line("GET seen"), "\"yes\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_call_does_nothing_more_and_answers_the_same() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    client_and_cache(&node).await;
    let mut api = CacheClient::connect(format!("http://{}", node.address)).await.expect("it answers");
    let request = |id: &'static [u8], words: &'static [&'static str]| v1::ExecuteRequest {
        origin: Some(v1::Origin { request_id: id.into(), ..Default::default() }),
        collection: Some(v1::CollectionName { namespace: String::new(), collection: "cache".into() }),
        commands: vec![v1::CacheCommand { arguments: words.iter().map(|word| (*word).into()).collect() }],
        ..Default::default()
    };
    for _ in 0..3 {
        let reply = api.execute(request(b"once", &["INCR", "n"])).await.expect("it is done").into_inner();
        assert_eq!(reply.replies, [v1::CacheReply { kind: Some(Kind::Int(1)) }]);
    }
    let other = api.execute(request(b"once", &["INCR", "m"])).await.expect_err("the id was used");
    assert_eq!(other.code(), tonic::Code::Aborted);
    let reply = api.execute(request(b"", &["INCR", "n"])).await.expect("it is done").into_inner();
    assert_eq!(reply.replies, [v1::CacheReply { kind: Some(Kind::Int(2)) }]);
    let mut unknown = request(b"", &["GET", "n"]);
    unknown.collection = Some(v1::CollectionName { namespace: String::new(), collection: "nope".into() });
    let failed = api.execute(unknown).await.expect_err("there is no such collection");
    assert_eq!(failed.code(), tonic::Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_several_shards_a_command_is_where_its_keys_are() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let client = Client::connect(&node.address).await.expect("it answers");
    client.ensure_namespace_with("wide", 3).await.expect("a namespace is made");
    let collection = client.collection("wide", "cache");
    collection.ensure(Schema::default()).await.expect("a collection is made");
    let cache = collection.cache();
    let mut commands = cache.commands();
    for number in 0..30 {
        commands = commands.command(["SET".to_owned(), format!("k{number}"), "v".to_owned()]);
        commands = commands.command(["TAG.SET".to_owned(), format!("k{number}"), format!("t{}", number % 2)]);
    }
    let done = commands.execute().await.expect("each is done where it belongs");
    assert!(done.replies.iter().all(|reply| !matches!(reply, CacheReply::Error(_))), "{done:?}");
    assert!(done.token.parts().count() > 1, "they are in several shards");
    assert_eq!(cache.call(["DBSIZE"]).await, Ok(CacheReply::Int(30)));
    assert_eq!(cache.drop_tagged(["t0"]).await, Ok(15));
    assert_eq!(cache.call(["DBSIZE"]).await, Ok(CacheReply::Int(15)));
    let across = cache.commands().command(["SET", "k1", "a"]).command(["SET", "k2", "a"]).command(["SET", "k3", "a"]);
    let failed = across.clone().atomic().execute().await.expect_err("they are not together");
    assert_eq!(failed.reason(), Some("several_shards"), "{failed:?}");
    across.execute().await.expect("each for itself");
    let lonely = cache.commands().command(["SET", "k1", "a"]).command(["DBSIZE"]).execute().await;
    assert_eq!(lonely.expect_err("it has no key").reason(), Some("several_shards"));
    let together = cache.commands().command(["SET", "{a}1", "x"]).command(["SET", "{a}2", "y"]).atomic();
    let lease = cache.acquire("{a}", "me", Duration::from_secs(60)).await.expect("it answers").expect("it is free");
    together.condition(lease.condition()).execute().await.expect("they are together");
}

/// A worker that holds a lease now and then, pauses for longer than it lasts, and writes what it still believes to be its own.
fn work(address: &str, worker: usize, stop: &AtomicBool) -> Vec<i64> {
    let (mut chance, mut written) = (Chance::new(worker as u64 + 1), Vec::new());
    let mut connection = Resp::at(address).ok();
    while !stop.load(Ordering::Relaxed) {
        let Some(resp) = &mut connection else {
            std::thread::sleep(Duration::from_millis(20));
            connection = Resp::at(address).ok();
            continue;
        };
        let acquired = resp.call(&["LEASE.ACQUIRE", "job", &format!("worker-{worker}"), "60"]);
        let number = match acquired {
            Some(Reply::Int(number)) => number,
            Some(_) => {
                std::thread::sleep(Duration::from_millis(chance.below(30)));
                continue;
            }
            None => {
                connection = None;
                continue;
            }
        };
        for _ in 0..chance.below(6) {
            // Sometimes a moment, sometimes for far longer than the lease.
            let pause = if chance.below(3) == 0 { chance.below(200) } else { chance.below(10) };
            std::thread::sleep(Duration::from_millis(pause));
            let mut done = None;
            for line in ["MULTI", &format!("LEASE.FENCE job {number}"), &format!("RPUSH journal {number}"), "EXEC"] {
                done = resp.call(&line.split(' ').collect::<Vec<_>>());
            }
            match done {
                Some(Reply::Array(_)) => written.push(number),
                Some(_) => {}
                None => break,
            }
        }
    }
    written
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_that_pause_for_longer_than_their_lease_never_both_write() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let address = port.to_string();
    let begin = || Start::default().with(&["--resp", &address]).ready(data.path());
    let node = begin().await;
    let stop = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|worker| {
            let (address, stop) = (address.clone(), Arc::clone(&stop));
            std::thread::spawn(move || work(&address, worker, &stop))
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.kill();
    let node = begin().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    stop.store(true, Ordering::Relaxed);
    let written: Vec<Vec<i64>> = workers.into_iter().map(|worker| worker.join().expect("it ends")).collect();
    let Some(Reply::Array(journal)) = Resp::of(&node).call(&["LRANGE", "journal", "0", "-1"]) else {
        panic!("there is a journal")
    };
    let number = |reply: &Reply| match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).parse::<i64>().expect("a number"),
        other => panic!("{other:?}"),
    };
    let journal: Vec<i64> = journal.iter().map(number).collect();
    assert!(journal.is_sorted(), "an older holder wrote after a newer: {journal:?}");
    let answered: usize = written.iter().map(Vec::len).sum();
    assert!(answered > 20, "only {answered} writes");
    assert!(journal.len() >= answered, "what was answered is there");
    for (one, written) in written.iter().enumerate() {
        let others = written.iter().all(|number| journal.contains(number));
        assert!(others, "worker {one}: what was answered is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_written_under_a_lease_and_not_after_it() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let (client, cache) = client_and_cache(&node).await;
    let records = client.collection("default", "notes");
    records.ensure(Schema::default()).await.expect("a collection is made");
    let lease = cache.acquire("job", "me", Duration::from_secs(60)).await.expect("it answers").expect("it is free");
    assert_eq!(cache.acquire("job", "you", Duration::from_secs(60)).await, Ok(None));
    let put = |lease: &loci_client::Lease| {
        let conditions = vec![lease.condition().in_collection("cache")];
        records.put_with([Record::new("r").with_value("1")], PutOptions { conditions, ..PutOptions::default() })
    };
    put(&lease).await.expect("it is held");
    records.batch().condition(lease.condition().in_collection("cache")).delete("r").commit().await.expect("it is held");
    assert_eq!(cache.renew(&lease, Duration::from_millis(1)).await, Ok(true));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(matches!(put(&lease).await, Err(Error::Fenced { held: None, .. })));
    let next = cache.acquire("job", "you", Duration::from_secs(60)).await.expect("it answers").expect("it is free");
    assert!(next.number > lease.number);
    let failed = put(&lease).await.expect_err("another holds it");
    assert!(matches!(&failed, Error::Fenced { held: Some(held), .. } if *held == next.number), "{failed:?}");
    assert_eq!(failed.reason(), Some("fenced"));
    assert_eq!((cache.release(&lease).await, cache.release(&next).await), (Ok(false), Ok(true)));
    // Of a record's own condition it is said what was expected.
    let first = records.put(Record::new("r").with_value("1")).await.expect("it is written").version;
    let conditions = vec![Condition::version("r", first + 1)];
    let options = PutOptions { conditions, ..PutOptions::default() };
    let failed = records.put_with([Record::new("r")], options).await.expect_err("it has another version");
    let text = failed.to_string();
    assert!(text.contains("\"r\"") && text.contains(&first.to_string()), "{text}");
    assert!(text.contains(&format!("version {} was expected", first + 1)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_lock_of_clients_of_redis_works() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let (mut one, mut other) = (Resp::of(&node), Resp::of(&node));
    let release = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end";
    let free = |resp: &mut Resp, token: &str| match resp.call(&["EVAL", release, "1", "lock", token]) {
        Some(Reply::Int(number)) => number,
        other => panic!("{other:?}"),
    };
    assert_eq!(one.line("SET lock one NX PX 60000"), "OK");
    assert_eq!(other.line("SET lock other NX PX 60000"), "(nil)");
    assert_eq!((free(&mut other, "other"), free(&mut one, "one"), free(&mut one, "one")), (0, 1, 0));
    assert_eq!(other.line("SET lock other NX PX 30"), "OK");
    assert_eq!(one.line("SET lock one NX PX 60000"), "(nil)");
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(one.line("SET lock one NX PX 60000"), "OK");
    // A holder that was too slow does not free what another holds.
    assert_eq!((free(&mut other, "other"), one.int("EXISTS lock")), (0, Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_tagged_goes_at_once_also_after_a_restart() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path()).await;
    let (_, cache) = client_and_cache(&node).await;
    cache.set_tagged("page:1", "..", ["users:42", "posts:7"]).await.expect("it is set");
    cache.hash_set("profile", [("name", "Ann")]).await.expect("it is set");
    assert_eq!(cache.tag("profile", ["users:42"]).await, Ok(true));
    assert_eq!(cache.tag("nope", ["users:42"]).await, Ok(false));
    cache.set_tagged("page:2", "..", ["users:43"]).await.expect("it is set");
    assert_eq!(cache.tagged("users:42").await, Ok(vec!["page:1".into(), "profile".into()]));
    node.kill();
    let node = start(data.path()).await;
    let (_, cache) = client_and_cache(&node).await;
    assert_eq!(cache.tagged("users:42").await, Ok(vec!["page:1".into(), "profile".into()]));
    assert_eq!(cache.drop_tagged(["users:42"]).await, Ok(2));
    assert_eq!(cache.drop_tagged(["users:42", "posts:7"]).await, Ok(0));
    assert_eq!(cache.call(["EXISTS", "page:1", "profile", "page:2"]).await, Ok(CacheReply::Int(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_told_so_runs_no_scripts_at_any_door() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let library = "#!lua name=l\nredis.register_function{function_name='f', callback=function() return 1 end, flags={'no-writes'}}";
    let digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    let node = start(data.path()).await;
    let mut resp = Resp::of(&node);
    assert_eq!(resp.call(&["SCRIPT", "LOAD", "return 1"]), Some(Reply::Bulk(digest.into())));
    assert_eq!(resp.call(&["FUNCTION", "LOAD", library]), Some(Reply::Bulk("l".into())));
    assert_eq!(resp.line("FCALL f 0"), "(integer) 1");
    node.kill();
    let node = Start::default().with(&["--resp", "127.0.0.1:0", "--no-scripts"]).ready(data.path()).await;
    let mut resp = Resp::of(&node);
    let refused = [
        &["EVAL", "return 1", "0"][..],
        &["eval_ro", "return 1", "0"],
        &["EVALSHA", digest, "0"],
        &["EVALSHA_RO", digest, "0"],
        &["FCALL", "f", "0"],
        &["FCALL_RO", "f", "0"],
        &["SCRIPT", "LOAD", "return 2"],
        &["FUNCTION", "LOAD", library],
        &["FUNCTION", "RESTORE", "x"],
    ];
    for call in refused {
        let Some(Reply::Error(error)) = resp.call(call) else { panic!("{call:?} is refused") };
        let error = String::from_utf8_lossy(&error).into_owned();
        assert!(error.starts_with("ERR scripts and functions are turned off"), "{call:?}: {error}");
    }
    assert_eq!(resp.line("MULTI"), "OK");
    assert!(resp.line("EVAL return 0").contains("turned off"));
    assert!(resp.line("EXEC").contains("EXECABORT"));
    // The rest goes on, and what was kept can be looked at and removed.
    assert_eq!(resp.line("SET k v"), "OK");
    assert_eq!(resp.line(&format!("SCRIPT EXISTS {digest}")), "1) (integer) 1");
    assert_eq!(resp.line("FUNCTION DELETE l"), "OK");
    let (_, cache) = client_and_cache(&node).await;
    // What the doors tell the log before a call is not said by clients either.
    for call in refused.into_iter().chain([&["SCRIPT", "WITHIN", "7", "EVAL", "return 1", "0"][..]]) {
        let failed = cache.call(call.iter().copied()).await.expect_err("it is refused");
        assert!(matches!(&failed, Error::Denied { message } if message.contains("turned off")), "{call:?}: {failed:?}");
    }
    cache.set("k", "v").await.expect("it is set");
}
