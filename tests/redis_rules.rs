//! What holds for the databases of Redis' clients, and who says so, from outside: policies of collections and of the node, settings,
//! figures, what scripts and users may, what caches in clients are told, and who may connect.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use loci_client::{Alteration, Error, EvictionPolicy};
use loci_tests::process::{Node, PATIENCE, Start, command};
use loci_tests::resp::Client;
use loci_wire::resp::Reply;
use loci_wire::v1;
use loci_wire::v1::cache_client::CacheClient;
use tonic::Code;

async fn start(data: &Path, options: &[&str]) -> Node {
    Start::default().with(&["--resp", "127.0.0.1:0"]).with(options).ready(data).await
}

fn client_of(node: &Node) -> Client {
    Client::open(node.resp.as_deref().expect("the node has a door for clients of Redis")).expect("it listens")
}

/// Calls lines one after the other and compares the replies.
fn check(client: &mut Client, lines: &[(&str, &str)]) {
    for (line, expected) in lines {
        assert_eq!(client.line(line), *expected, "{line}");
    }
}

/// The reply to a call whose arguments have spaces.
fn call(client: &mut Client, args: &[&str]) -> String {
    assert!(client.send(&[args.to_vec()]), "{args:?}: nobody listens");
    loci_tests::resp::text(&client.reply().expect("a reply"))
}

/// A figure of INFO.
fn info(client: &mut Client, name: &str) -> Option<String> {
    let text = match client.call("INFO all") {
        Reply::Bulk(text) | Reply::Verbatim(_, text) => String::from_utf8_lossy(&text).into_owned(),
        other => panic!("INFO is a text, not {other:?}"),
    };
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::to_owned)
}

fn number(client: &mut Client, line: &str) -> u64 {
    client.line(line).parse().expect("a number")
}

/// What `loci collection WORDS --namespace redis` says.
fn collection(node: &Node, words: &[&str]) -> String {
    let rest = ["--namespace", "redis", "--address", &node.address];
    let output = command(&[&["collection"], words, &rest].concat()).output().expect("the program runs");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text")
}

/// Writes 3,000 keys of a kilobyte each, fifty at a time, and says how many of the sixty calls were refused for want of room.
fn fill(client: &mut Client) -> usize {
    let value = "x".repeat(1_000);
    let mut refused = 0;
    for from in (0..3_000).step_by(50) {
        let keys: Vec<String> = (from..from + 50).map(|number| format!("key:{number}")).collect();
        let words: Vec<&str> = ["MSET"].into_iter().chain(keys.iter().flat_map(|key| [&**key, &*value])).collect();
        match call(client, &words).as_str() {
            "OK" => {}
            error if error.starts_with("-OOM") => refused += 1,
            other => panic!("{other}"),
        }
        // It is looked every few milliseconds whether there is room.
        std::thread::sleep(Duration::from_millis(4));
    }
    refused
}

/// What a client is told of the policy of the database that it has selected.
fn policy(client: &mut Client) -> String {
    let told = info(client, "maxmemory_policy").expect("INFO says it");
    assert_eq!(client.line("CONFIG GET maxmemory-policy"), format!("[maxmemory-policy {told}]"));
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_of_one_node_evict_each_by_its_own_policy_also_after_a_restart() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let (mut kept, mut evicting) = (client_of(&node), client_of(&node));
    check(&mut evicting, &[("SELECT 1", "OK"), ("SET first 1", "OK")]);
    check(&mut kept, &[("SET first 1", "OK")]);
    let native = loci_client::Client::connect(&node.address).await.expect("it answers");
    let alteration = Alteration {
        eviction_bytes: Some(1 << 20),
        eviction_policy: Some(Some(EvictionPolicy::NoEviction)),
        ..Alteration::default()
    };
    native.collection("redis", "db0").alter(alteration).await.expect("it is altered");
    collection(&node, &["alter", "db1", "--eviction-budget", "1MiB", "--eviction-policy", "lru"]);
    let described = collection(&node, &["describe", "db1"]);
    assert!(described.contains("eviction policy") && described.contains("allkeys-lru"), "{described}");
    let listed = collection(&node, &["list"]);
    assert!(listed.contains("MiB noeviction") && listed.contains("MiB allkeys-lru"), "{listed}");
    assert_eq!((policy(&mut kept), policy(&mut evicting)), ("noeviction".into(), "allkeys-lru".into()));
    let mut api = CacheClient::connect(format!("http://{}", node.address)).await.expect("it answers");
    let count = v1::ExecuteRequest {
        origin: Some(v1::Origin { request_id: "counted once".into(), ..v1::Origin::default() }),
        collection: Some(v1::CollectionName { namespace: "redis".into(), collection: "db0".into() }),
        commands: vec![v1::CacheCommand { arguments: vec!["INCR".into(), "counter".into()] }],
        ..v1::ExecuteRequest::default()
    };
    let counted = api.execute(count.clone()).await.expect("there is room").into_inner().replies;
    let refused = (fill(&mut kept), fill(&mut evicting));
    assert!(refused.0 > 20 && refused.1 == 0, "{refused:?}");
    // What was there is there where nothing is evicted; where something is, what comes is.
    check(&mut kept, &[("EXISTS first", "1"), ("EXISTS key:2999", "0")]);
    check(&mut evicting, &[("EXISTS key:2999", "1")]);
    let keys = (number(&mut kept, "DBSIZE"), number(&mut evicting, "DBSIZE"));
    assert!((500..1_500).contains(&keys.0) && (100..1_500).contains(&keys.1), "{keys:?}");
    // The same by gRPC; what makes it smaller is let in.
    let cache = native.collection("redis", "db0").cache();
    let failed = cache.set("more", "x").await.expect_err("it is refused");
    let is_full =
        |error: &Error| matches!(error, Error::Overloaded { message, retry_after: None } if message.contains("budget"));
    assert!(is_full(&failed), "{failed:?}");
    let again = api.execute(count.clone()).await.expect("it was carried out before there was no more room");
    assert_eq!(again.into_inner().replies, counted);
    let other = v1::ExecuteRequest { origin: None, ..count };
    assert_eq!(api.execute(other).await.expect_err("it is refused").code(), Code::ResourceExhausted);
    assert_eq!(cache.delete("nope").await, Ok(false));
    native.collection("redis", "db1").cache().set("more", "x").await.expect("it is set");
    node.kill();
    let node = start(data.path(), &[]).await;
    let native = loci_client::Client::connect(&node.address).await.expect("it answers");
    let described = native.collection("redis", "db1").describe().await.expect("it is there");
    assert_eq!(described.schema.eviction_policy, Some(EvictionPolicy::Lru));
    let mut kept = client_of(&node);
    assert_eq!(policy(&mut kept), "noeviction");
    assert!(fill(&mut kept) > 50, "it is as full as before");
    // As the node is told again: then it evicts.
    collection(&node, &["alter", "db0", "--eviction-policy", "node"]);
    assert_eq!((fill(&mut kept), policy(&mut kept)), (0, "s3-fifo".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn that_nothing_is_evicted_means_the_same_however_it_is_said() {
    for given in [None, Some("noeviction"), Some("allkeys-lfu")] {
        let data = tempfile::tempdir().expect("a temporary directory");
        let options: Vec<&str> = given.into_iter().flat_map(|policy| ["--resp-maxmemory-policy", policy]).collect();
        let node = start(data.path(), &options).await;
        let mut client = client_of(&node);
        check(&mut client, &[("SET first 1", "OK")]);
        // Without a budget nothing is evicted, whatever it would go by.
        assert_eq!(policy(&mut client), given.unwrap_or("noeviction"));
        collection(&node, &["alter", "db0", "--eviction-budget", "1MiB"]);
        assert_eq!(policy(&mut client), given.unwrap_or("s3-fifo"));
        let (refused, evicted) = (fill(&mut client), info(&mut client, "evicted_keys").expect("INFO says it"));
        assert_eq!(
            (refused > 20, evicted == "0"),
            (given == Some("noeviction"), given == Some("noeviction")),
            "{given:?}"
        );
        check(&mut client, &[("CONFIG SET maxmemory-policy noeviction", "OK")]);
        assert_eq!(policy(&mut client), "noeviction");
        let evicted = info(&mut client, "evicted_keys");
        assert!(fill(&mut client) > 20, "{given:?}");
        assert_eq!(info(&mut client, "evicted_keys"), evicted, "{given:?}: something was evicted");
        check(&mut client, &[("CONFIG SET maxmemory-policy allkeys-random", "OK")]);
        assert_eq!((fill(&mut client), policy(&mut client)), (0, "allkeys-random".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_as_redis_does_and_figures_are_true() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let mut client = client_of(&node);
    let set = |name: &str, why: &str| format!("-ERR CONFIG SET failed (possibly related to argument '{name}') - {why}");
    let range = "argument must be between 1 and 4294967295 inclusive";
    check(
        &mut client,
        &[
            ("CONFIG SET maxclients -5", &set("maxclients", range)),
            ("CONFIG SET maxclients 0", &set("maxclients", range)),
            ("CONFIG SET timeout -1", &set("timeout", "argument must be between 0 and 2147483647 inclusive")),
            (
                "CONFIG SET appendfsync nonsense",
                &set("appendfsync", "argument(s) must be one of the following: everysec, always, no"),
            ),
            ("CONFIG GET maxclients", "[maxclients 10000]"),
            ("SET a 1", "OK"),
            ("MEMORY USAGE a SAMPLES abc", "-ERR value is not an integer or out of range"),
            ("MEMORY USAGE nope SAMPLES abc", "-ERR value is not an integer or out of range"),
            ("MEMORY USAGE a FOO 1", "-ERR syntax error"),
            ("MEMORY USAGE a SAMPLES -1", "-ERR syntax error"),
            ("MEMORY USAGE a SAMPLES", "-ERR syntax error"),
            ("MEMORY USAGE nope SAMPLES 5", "nothing"),
            ("COMMAND GETKEYS MEMORY USAGE a", "[a]"),
            ("COMMAND GETKEYS MEMORY USAGE a SAMPLES 5", "[a]"),
            ("COMMAND GETKEYS MEMORY DOCTOR", "-ERR The command has no key arguments"),
            ("COMMAND INFO nope", "[nothing]"),
            ("WAIT 0 abc", "-ERR timeout is not an integer or out of range"),
            ("WAIT abc 0", "-ERR value is not an integer or out of range"),
            ("SLOWLOG GET abc", "-ERR count should be greater than or equal to -1"),
            ("SCRIPT FLUSH SYNC SYNC", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
            ("ACL GENPASS abc", "-ERR value is not an integer or out of range"),
            ("CLIENT TRACKING on OPTIN OPTOUT", "-ERR You can't specify both OPTIN mode and OPTOUT mode"),
            ("ZADD z 1e-400 m", "-ERR value is not a valid float"),
            ("GEOADD g 1e-400 1 m", "-ERR value is not a valid float"),
            ("ZCOUNT z 1e-400 inf", "0"),
            ("INCRBYFLOAT f 1e-400", "0"),
            ("DEL f", "1"),
            ("GETEX nope EX abc", "nothing"),
            ("GETEX nope EX 0", "nothing"),
            ("GETEX nope EX", "-ERR syntax error"),
            ("GETEX a EX abc", "-ERR value is not an integer or out of range"),
            ("GETEX a EX 0", "-ERR invalid expire time in 'getex' command"),
            ("SCAN -1", "[0 []]"),
            ("SCAN -0", "[0 [a]]"),
            ("SCAN -x", "-ERR invalid cursor"),
            ("HSCAN nope -5", "[0 []]"),
            // Each once, the newest first.
            ("CONFIG SET slowlog-log-slower-than 0", "OK"),
            ("SLOWLOG RESET", "OK"),
            ("EVAL return(1) 0", "1"),
            ("CONFIG SET slowlog-log-slower-than -1", "OK"),
            ("SLOWLOG LEN", "2"),
        ],
    );
    assert!(number(&mut client, "MEMORY USAGE a SAMPLES 0") > 0);
    assert!(client.send(&[vec!["COMMAND", "INFO", "nope"]]));
    assert_eq!(client.reply(), Some(Reply::Array(vec![Reply::Null])));
    for (rules, which, all) in [
        (&["allkeys", "~x"][..], "~x", "allkeys"),
        (&["~*", "%R~x"], "%R~x", "allkeys"),
        (&["resetchannels", "&a", "&*", "&b"], "&b", "allchannels"),
    ] {
        let reply = call(&mut client, &[&["ACL", "SETUSER", "u"], rules].concat());
        let expected = format!(
            "-ERR Error in ACL SETUSER modifier '{which}': Adding a pattern after the * pattern (or the '{all}' flag) is not valid \
             and does not have any effect."
        );
        assert!(reply.starts_with(&expected), "{rules:?}: {reply}");
    }
    check(&mut client, &[("ACL SETUSER u ~* ~*", "OK"), ("ACL SETUSER u resetkeys %R~* ~x", "OK")]);
    // As many commands in a second as are called.
    let begin = Instant::now();
    while info(&mut client, "instantaneous_ops_per_sec").expect("INFO says it") == "0" {
        assert!(begin.elapsed() < PATIENCE, "no command is counted");
    }
    let bytes = |client: &mut Client, name| info(client, name).expect("INFO says it").parse::<u64>().expect("a number");
    // The most that there was stays when it is no longer there.
    let wait_until = |client: &mut Client, what: &str, holds: fn(u64, u64) -> bool| {
        let begin = Instant::now();
        while !holds(bytes(client, "used_memory"), bytes(client, "used_memory_peak")) {
            assert!(begin.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    check(&mut client, &[("SETRANGE big 16000000 x", "16000001")]);
    wait_until(&mut client, "what was written is not counted", |used, _| used > 16_000_000);
    check(&mut client, &[("DEL big", "1"), ("SET a 1", "OK")]);
    wait_until(&mut client, "the most there was is not kept", |used, peak| used < 16_000_000 && peak > 16_000_000);
    let seconds =
        |client: &mut Client, name| info(client, name).expect("INFO says it").parse::<f64>().expect("a number");
    assert!(seconds(&mut client, "used_cpu_sys") > 0.0 && seconds(&mut client, "used_cpu_user") > 0.0);
    assert_eq!(info(&mut client, "number_of_cached_scripts"), None, "it is not known there");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_told_what_they_may_not() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let mut client = client_of(&node);
    let script = "local words = {} for word in string.gmatch(ARGV[1], '%S+') do words[#words + 1] = word end \
                  local reply = redis.pcall(unpack(words)) \
                  return type(reply) == 'table' and (reply.err or reply.ok) or reply";
    let mut said = |line: &str| call(&mut client, &["EVAL", script, "0", line]);
    for (line, expected) in [
        ("ping", "PONG"),
        ("PING hi", "hi"),
        ("ping a b", "ERR wrong number of arguments for 'ping' command"),
        ("echo hi", "hi"),
        ("echo", "ERR Wrong number of args calling Redis command from script"),
        ("nope", "ERR Unknown Redis command called from script"),
    ] {
        assert_eq!(said(line), expected, "{line}");
    }
    for line in [
        "subscribe c",
        "multi",
        "exec",
        "watch a",
        "config get x",
        "client id",
        "wait 0 0",
        "acl whoami",
        "auth x",
        "hello",
        "select 1",
        "info",
        "memory usage a",
        "command",
        "monitor",
        "eval x 0",
        "script flush",
        "function list",
        "swapdb 0 1",
        "flushall",
    ] {
        assert_eq!(said(line), "ERR This Redis command is not allowed from script", "{line}");
    }
}

/// An address of this machine that is not its loopback's.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: it is only asked which way that would go.
    socket.connect("198.51.100.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_password_only_programs_of_the_same_machine_are_let_in() {
    let Some(own) = own_address() else {
        return println!("skipped: this machine has no address but its loopback's");
    };
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = Start::default().with(&["--resp", "0.0.0.0:0", "--insecure"]).ready(data.path()).await;
    let port = node.resp.as_deref().and_then(|address| address.rsplit(':').next()).expect("it has a port").to_owned();
    let mut here = Client::open(&format!("127.0.0.1:{port}")).expect("it listens");
    let from_outside = || Client::open(&format!("{own}:{port}")).expect("it listens");
    // It is told why, whatever it says, and then the connection ends.
    let mut refused = from_outside();
    let reply = loci_tests::resp::text(&refused.reply().expect("a reply"));
    assert!(reply.starts_with("-DENIED Redis is running in protected mode"), "{reply}");
    assert_eq!(refused.reply(), None);
    check(&mut here, &[("SET k v", "OK"), ("CONFIG SET protected-mode no", "OK")]);
    check(&mut from_outside(), &[("GET k", "v")]);
    check(&mut here, &[("CONFIG SET protected-mode yes", "OK")]);
    assert!(loci_tests::resp::text(&from_outside().reply().expect("a reply")).starts_with("-DENIED"));
    // With a password everybody may try.
    check(&mut here, &[("CONFIG SET requirepass secret", "OK")]);
    check(&mut from_outside(), &[("GET k", "-NOAUTH Authentication required."), ("AUTH secret", "OK"), ("GET k", "v")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transactions_scripts_may_do_counts_to_its_size() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let (mut admin, mut user) = (client_of(&node), client_of(&node));
    let rules = "on nopass +eval +get +multi +exec ~*";
    check(&mut admin, &[(&*format!("ACL SETUSER few {rules}"), "OK"), ("ACL SETUSER all on nopass +@all ~* &*", "OK")]);
    for (name, fits) in [("few", false), ("all", true)] {
        check(&mut user, &[(&format!("AUTH {name} x"), "OK"), ("MULTI", "OK")]);
        for _ in 0..200 {
            let calls = vec![vec!["EVAL", "return 1", "0"]; 120];
            assert!(user.send(&calls), "nobody listens");
            for _ in &calls {
                assert_eq!(user.reply().map(|reply| loci_tests::resp::text(&reply)), Some("QUEUED".into()));
            }
        }
        let done = user.line("EXEC");
        assert_eq!(done.starts_with("[1 1"), fits, "{name}: {}", &done[..done.len().min(100)]);
        assert_eq!(done.starts_with("-EXECABORT"), !fits, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_waits_for_members_and_names_what_it_refuses() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let mut client = client_of(&node);
    for (line, expected) in [
        ("WAIT 0 0", "0"),
        ("WAITAOF 0 0 0", "[1 0]"),
        ("UNSUBSCRIBE a", "[unsubscribe a 0]"),
        ("PUNSUBSCRIBE a", "[punsubscribe a 0]"),
        ("SUNSUBSCRIBE a", "[sunsubscribe a 0]"),
        ("BGSAVE", "Background saving started"),
        ("BGREWRITEAOF", "Background append only file rewriting started"),
        ("REPLICAOF a 1", "-ERR nodes find their members themselves: see `loci cluster`"),
    ] {
        check(&mut client, &[("MULTI", "OK"), ("SET k 1", "QUEUED"), (line, "QUEUED")]);
        assert_eq!(client.line("EXEC"), format!("[OK {expected}]"), "{line}");
    }
    for line in ["SUBSCRIBE a", "HELLO 3", "AUTH x", "MONITOR", "MOVE k 1", "SAVE", "SHUTDOWN"] {
        check(&mut client, &[("MULTI", "OK"), (line, "-ERR Command not allowed inside a transaction")]);
        assert_eq!(client.line("EXEC"), "-EXECABORT Transaction discarded because of previous errors.", "{line}");
    }
}

/// What a client with a cache is told after these calls, when another makes these changes.
fn told(cache: &mut Client, calls: &[&str], other: &mut Client, changes: &[&str]) -> Vec<String> {
    for line in calls {
        let reply = cache.line(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    for line in changes {
        let reply = other.line(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    // Messages come in the order of the changes.
    other.line("PUBLISH end of-it");
    let replies = std::iter::from_fn(|| cache.reply().map(|reply| loci_tests::resp::text(&reply)));
    let told = replies.take_while(|reply| reply != ">[message end of-it]");
    let of = |push: String| push.trim_start_matches(">[invalidate [").trim_end_matches("]]").to_owned();
    told.map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn caches_are_told_of_all_that_was_read_however_it_was() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let mut other = client_of(&node);
    let sets = ["SET j 1", "SET i 1", "SET k 1"];
    let digest = other.line("SCRIPT LOAD return{redis.call('GET',KEYS[1])}");
    for (mode, calls, changes, expected) in [
        ("optin", &["CLIENT CACHING YES", "GET k", "GET j"][..], &sets[..], "k"),
        ("optin", &["CLIENT CACHING YES", "CLIENT ID", "GET k"], &sets, "k"),
        ("optin", &["CLIENT CACHING YES", "SET x 1", "GET k"], &sets, ""),
        ("optin", &["CLIENT CACHING YES", "MULTI", "GET k", "GET j", "GET i", "EXEC"], &sets, "j i k"),
        ("optin", &["MULTI", "CLIENT CACHING YES", "GET k", "GET j", "EXEC", "GET i"], &sets, "j k"),
        ("optin", &["MULTI", "GET i", "CLIENT CACHING YES", "GET k", "EXEC"], &sets, "k"),
        ("optin", &["CLIENT CACHING YES", "MULTI", "GET k", "DISCARD", "GET j"], &sets, ""),
        ("optout", &["CLIENT CACHING NO", "MULTI", "GET k", "GET j", "EXEC", "GET i"], &sets, "i"),
        ("", &["XREAD STREAMS x 0"], &["XADD x 1-1 f v"], "x"),
        ("", &["XADD x 1-1 f v", "XREAD STREAMS x 0"], &["DEL x"], "x"),
        ("", &["MULTI", "XREAD STREAMS x 0", "EXEC"], &["XADD x 1-1 f v"], "x"),
        ("", &["XREAD BLOCK 1 STREAMS x 0"], &["XADD x 2-1 f v"], "x"),
        ("", &["MEMORY USAGE a"], &["SET a 1", "SET b 1"], "a"),
        ("", &["EVAL return{} 1 a", "EVAL_RO return{} 2 b c"], &["SET a 1", "SET b 1", "SET c 1", "SET d 1"], "a b c"),
        ("", &[&format!("EVALSHA {digest} 1 a"), "EVAL return{} 0"], &["SET a 1", "SET b 1"], "a"),
        ("", &["MULTI", "EVAL return{} 1 a", "EXEC"], &["SET a 1", "SET b 1"], "a"),
        ("optin", &["EVAL return{} 1 a"], &["SET a 1"], ""),
        ("bcast prefix b", &["GET a"], &["SET a 1", "SET b 1"], "b"),
    ] {
        other.line("DEL x");
        let mut cache = client_of(&node);
        for line in ["HELLO 3", "SUBSCRIBE end", format!("CLIENT TRACKING on {mode}").trim_end()] {
            cache.call(line);
        }
        let told = told(&mut cache, calls, &mut other, changes);
        assert_eq!(told.join(" "), expected, "{mode}: {calls:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_told_in_the_place_of_another_subscribes_and_may_leave() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let node = start(data.path(), &[]).await;
    let (mut other, mut cache, mut target) = (client_of(&node), client_of(&node), client_of(&node));
    let id = target.line("CLIENT ID");
    for line in ["HELLO 3", "SUBSCRIBE end", &format!("CLIENT TRACKING on REDIRECT {id}")] {
        cache.call(line);
    }
    // In the older protocol nothing stands between replies but for those who subscribed.
    assert!(told(&mut cache, &["GET a"], &mut other, &["SET a 1"]).is_empty());
    check(&mut target, &[("PING", "PONG"), ("SUBSCRIBE __redis__:invalidate", "[subscribe __redis__:invalidate 1]")]);
    assert!(told(&mut cache, &["GET a"], &mut other, &["SET a 1"]).is_empty());
    let reply = target.reply().expect("a message");
    assert_eq!(loci_tests::resp::text(&reply), "[message __redis__:invalidate [a]]");
    other.line(&format!("CLIENT KILL ID {id}"));
    assert_eq!(target.reply(), None);
    let broken = format!(">[tracking-redir-broken {id}]");
    let deadline = Instant::now() + PATIENCE;
    while told(&mut cache, &["GET a"], &mut other, &["SET a 1"]) != [&*broken] {
        assert!(Instant::now() < deadline, "it is not told that nobody is there");
    }
    // One that could not be told is not disturbed either.
    let mut old = client_of(&node);
    check(&mut old, &[("CLIENT TRACKING on", "OK"), ("GET a", "1")]);
    check(&mut other, &[("SET a 2", "OK"), ("SET a 3", "OK")]);
    std::thread::sleep(Duration::from_millis(50));
    check(&mut old, &[("GET a", "3")]);
}
