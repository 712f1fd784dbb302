//! Calls what loci is compared with: so many callers, each one call after the other, for so long.
//!
//! ```text
//! peer-driver put|get ADDRESS CALLERS SECONDS   etcd, as `loci bench put` and `loci bench get` do with loci: over two connections
//! peer-driver set|wait ADDRESS CALLERS SECONDS  Redis and its like, a connection for each caller: SET; or SET and WAIT 1 together
//!     -->  one line of JSON: calls a second, p50 and p99 in milliseconds, errors
//! ```
//!
//! Of etcd's `KV` service there is as much here as is asked: the fields of a put and of a linearizable range of one key.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 100;
const CONNECTIONS: usize = 2;

#[derive(Clone, PartialEq, prost::Message)]
struct Put {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(bytes, tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Range {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Reply {}

async fn call<M: prost::Message + 'static>(
    channel: &Channel,
    path: &'static str,
    message: M,
) -> Result<(), tonic::Status> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let codec: ProstCodec<M, Reply> = ProstCodec::default();
    client.unary(tonic::Request::new(message), PathAndQuery::from_static(path), codec).await.map(drop)
}

async fn once(channel: &Channel, puts: bool, number: u64) -> Result<(), tonic::Status> {
    let key = format!("key {:08}", number % KEYS).into_bytes();
    if puts {
        call(channel, "/etcdserverpb.KV/Put", Put { key, value: vec![b'v'; VALUE_BYTES] }).await
    } else {
        call(channel, "/etcdserverpb.KV/Range", Range { key }).await
    }
}

/// A connection to Redis or its like.
struct Speaker(BufReader<TcpStream>);

impl Speaker {
    async fn new(address: &str) -> Speaker {
        let stream = TcpStream::connect(address).await.expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        Speaker(BufReader::new(stream))
    }

    /// Sets a key, and with `waits` has one replica say that it has it.
    async fn set(&mut self, number: u64, waits: bool) -> std::io::Result<bool> {
        let value = [b'v'; VALUE_BYTES];
        let mut request = format!("*3\r\n$3\r\nSET\r\n$16\r\nkey:{:012}\r\n${VALUE_BYTES}\r\n", number % KEYS).into_bytes();
        request.extend_from_slice(&value);
        request.extend_from_slice(b"\r\n");
        if waits {
            request.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n");
        }
        self.0.get_mut().write_all(&request).await?;
        let mut line = String::new();
        self.0.read_line(&mut line).await?;
        let mut done = line == "+OK\r\n";
        if waits {
            line.clear();
            self.0.read_line(&mut line).await?;
            done &= line.trim_start_matches(':').trim_end().parse::<u64>().is_ok_and(|replicas| replicas >= 1);
        }
        Ok(done)
    }
}

/// One caller of Redis or its like.
async fn speak(address: String, waits: bool, caller: u64, callers: u64, until: Instant) -> (Vec<Duration>, u64) {
    let mut speaker = Speaker::new(&address).await;
    let (mut times, mut errors, mut turn) = (Vec::new(), 0, 0);
    while Instant::now() < until {
        let called = Instant::now();
        match speaker.set(caller + turn * callers, waits).await {
            Ok(true) => times.push(called.elapsed()),
            Ok(false) => errors += 1,
            Err(error) => panic!("{error}"),
        }
        turn += 1;
    }
    (times, errors)
}

#[tokio::main]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, address, callers, seconds] = &words[..] else { panic!("put|get|set|wait ADDRESS CALLERS SECONDS") };
    let (puts, callers) = (what == "put", callers.parse::<u64>().expect("callers"));
    let time = Duration::from_secs(seconds.parse().expect("seconds"));
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true);
    let channels: Vec<Channel> = (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect();
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for caller in 0..callers {
        if what == "set" || what == "wait" {
            tasks.push(tokio::spawn(speak(address.clone(), what == "wait", caller, callers, begun + time)));
            continue;
        }
        let channel = channels[caller as usize % CONNECTIONS].clone();
        tasks.push(tokio::spawn(async move {
            let (mut times, mut errors, mut turn) = (Vec::new(), 0u64, 0);
            while begun.elapsed() < time {
                let called = Instant::now();
                match once(&channel, puts, caller + turn * callers).await {
                    Ok(()) => times.push(called.elapsed()),
                    Err(_) => errors += 1,
                }
                turn += 1;
            }
            (times, errors)
        }));
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    for task in tasks {
        let (more, failed) = task.await.expect("a caller does not panic");
        times.extend(more);
        errors += failed;
    }
    let took = begun.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times.get((times.len() as f64 * share) as usize).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let (p50, p99) = (at(0.5), at(0.99));
    println!(
        "{{\"rate\": {:.0}, \"p50_ms\": {p50:.3}, \"p99_ms\": {p99:.3}, \"errors\": {errors}}}",
        times.len() as f64 / took
    );
}
