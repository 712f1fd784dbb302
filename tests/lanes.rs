//! What one client of Redis asks beside others. Light writes go to the log together: each client has its own replies, and together
//! they are few commands of the log. What is large is read elsewhere, and scripts do what their own caller may.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use loci_tests::process::{Node, Start};
use loci_tests::resp::{Client, text};

/// A node with all connections on one thread, so that they do go together.
async fn start(data: &Path, options: &[&str]) -> Node {
    Start::default().with(&["--resp", "127.0.0.1:0", "--resp-threads", "1"]).with(options).ready(data).await
}

fn client(node: &Node) -> Client {
    node.resp.as_deref().and_then(Client::open).expect("the door is open")
}

fn send(client: &mut Client, lines: &[String]) {
    let calls: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert!(client.send(&calls), "the node reads");
}

fn replies(client: &mut Client, count: usize) -> Vec<String> {
    (0..count).map(|_| text(&client.reply().expect("a reply"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_write_at_once_have_their_own_replies() {
    const CLIENTS: i64 = 24;
    const ROUNDS: i64 = 60;
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let writers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = client(&node);
            std::thread::spawn(move || {
                assert_eq!(client.line(&format!("SELECT {}", number % 3)), "OK");
                for round in 1..=ROUNDS {
                    let own = [
                        format!("INCR own:{number}"),
                        "INCR shared".into(),
                        format!("GET own:{number}"),
                        format!("SADD set:{number} {round}"),
                        format!("LPUSH own:{number} x"),
                    ];
                    send(&mut client, &own);
                    let replies = replies(&mut client, own.len());
                    assert_eq!(replies[0], round.to_string());
                    assert_eq!(replies[2..4], [round.to_string(), "1".into()]);
                    assert!(replies[4].starts_with("-WRONGTYPE"), "{replies:?}");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("what it was answered is right");
    }
    let mut client = client(&node);
    for database in 0..3 {
        assert_eq!(client.line(&format!("SELECT {database}")), "OK");
        assert_eq!(client.line("GET shared"), (CLIENTS / 3 * ROUNDS).to_string());
    }
}

/// A counter that the node serves.
fn counter(address: &str, name: &str) -> u64 {
    let mut stream = TcpStream::connect(address).expect("metrics are served");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("_total ")?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {name}: {page}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_clients_write_at_once_is_few_commands_of_the_log() {
    const CLIENTS: usize = 64;
    const ROUNDS: usize = 5;
    let data = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let metrics = port.to_string();
    let node = start(data.path(), &["--metrics", &metrics]).await;
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| client(&node)).collect();
    for client in &mut clients {
        assert_eq!(client.line("SET k here"), "OK");
    }
    let counts = || ["loci_redis_groups", "loci_redis_grouped_batches"].map(|name| counter(&metrics, name));
    let before = counts();
    for round in 0..ROUNDS {
        // All of them have written before the node looks at any.
        node.send_stop();
        std::thread::sleep(Duration::from_millis(30));
        for (number, client) in clients.iter_mut().enumerate() {
            send(client, &[format!("SET key:{number} {round}"), "INCR all".into()]);
        }
        node.send_go_on();
        let mut counted = Vec::with_capacity(CLIENTS);
        for client in &mut clients {
            let replies = replies(client, 2);
            assert_eq!(replies[0], "OK");
            counted.push(replies[1].parse::<usize>().expect("a number"));
        }
        counted.sort_unstable();
        let expected: Vec<usize> = (1..=CLIENTS).map(|count| round * CLIENTS + count).collect();
        assert_eq!(counted, expected, "each has the reply to its own call");
    }
    let after = counts();
    let [groups, batches] = [after[0] - before[0], after[1] - before[1]];
    assert_eq!(batches, (CLIENTS * ROUNDS) as u64);
    // Two or three commands for what came at once; it would be 64 if each client's were one.
    assert!(groups <= batches / 8, "what {batches} clients wrote took {groups} commands of the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_large_is_read_beside_the_rest_and_in_its_turn() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = client(&node);
    let long = "x".repeat(40);
    for part in 0..20 {
        let members: Vec<String> = (0..1_000).map(|number| format!("{number} {part:02}.{number:03}.{long}")).collect();
        assert_eq!(client.line(&format!("ZADD large {}", members.join(" "))), "1000");
    }
    // One after the other on a connection, whoever reads it.
    let lines =
        ["ZRANGE large 0 -1", "PING", "ZRANGE large 0 0", "SORT large", "ZRANGE small 0 -1", "ZUNION 2 large small"];
    send(&mut client, &lines.map(str::to_owned));
    let replies = replies(&mut client, lines.len());
    assert_eq!(replies[0].matches(&long).count(), 20_000);
    assert_eq!(&*replies[1], "PONG");
    assert_eq!(replies[2], format!("[00.000.{long}]"));
    assert_eq!(replies[3], "-ERR One or more scores can't be converted into double");
    assert_eq!(&*replies[4], "[]");
    assert_eq!(replies[5].len(), replies[0].len());
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_may_do_what_their_caller_may() {
    let data = tempfile::tempdir().unwrap();
    let node = start(data.path(), &[]).await;
    let mut client = client(&node);
    for (line, reply) in [
        ("SET b 1", "OK"),
        ("ACL SETUSER u on nopass +@all -keys ~a* %R~r* resetchannels", "OK"),
        ("ACL SETUSER v on nopass -@all (+eval +get ~*)", "OK"),
    ] {
        assert_eq!(client.line(line), reply, "{line}");
    }
    let no_key =
        "-ERR The user executing the script can't access at least one of the keys mentioned in the command arguments";
    let no_command = "-ERR The user executing the script can't run this command or subcommand";
    let mut user = self::client(&node);
    for (line, reply) in [
        ("AUTH u x", "OK"),
        ("EVAL return(redis.call('INCR',KEYS[1])) 1 a1", "1"),
        ("EVAL return(redis.call('GET',KEYS[1])) 1 b", "-NOPERM No permissions to access a key"),
        ("EVAL return(redis.pcall('GET','b')) 0", no_key),
        ("EVAL return(redis.pcall('GET','r1')) 0", "nothing"),
        ("EVAL return(redis.pcall('SET','r1','x')) 0", no_key),
        ("EVAL return(redis.pcall('KEYS','*')) 0", no_command),
        ("EVAL return(tostring(redis.acl_check_cmd('GET','b'))) 0", "false"),
        ("EVAL return(tostring(redis.acl_check_cmd('GET','a'))) 0", "true"),
        ("SCRIPT AS 0 EVAL return(1) 0", "-ERR unknown subcommand 'AS'. Try SCRIPT HELP."),
        ("MULTI", "OK"),
        ("EVAL redis.pcall('DEL','b')redis.call('INCR','a1') 0", "QUEUED"),
        ("EXEC", "[nothing]"),
        ("EVAL return(redis.call('GET','a1')) 0", "2"),
        ("AUTH v x", "OK"),
        ("EVAL return(redis.pcall('GET','b')) 0", "1"),
        ("EVAL return(redis.pcall('SET','b','2')) 0", no_command),
    ] {
        assert_eq!(user.line(line), reply, "{line}");
    }
    assert_eq!(client.line("GET b"), "1");
}
