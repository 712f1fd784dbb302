//! Light writes of many clients of Redis, which go to the log together: each client has its own replies, and together they
//! are few commands of the log.

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
