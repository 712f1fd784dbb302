//! Both ends of a pipe, on loopback.

use std::sync::mpsc;
use std::time::Instant;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);
const CLUSTER: ClusterId = ClusterId([7; 16]);
const TO: MemberId = MemberId(2);

/// An append with one entry of so many bytes, and a number.
fn message(number: u64, bytes: usize) -> Message {
    let mut out = vec![1, 3, 0, 0];
    out.extend(1_u32.to_le_bytes());
    // To, from, term, term and index before, commit, its term, hint.
    for field in [TO.0, 1, 5, 5, number + 1, 0, 0, 0] {
        out.extend(u64::to_le_bytes(field));
    }
    out.extend(0_u32.to_le_bytes());
    out.extend(1_u32.to_le_bytes());
    out.extend(5_u64.to_le_bytes());
    out.extend([0; 8]);
    out.extend((bytes as u32).to_le_bytes());
    out.extend([0; 4]);
    out.extend((0..bytes).map(|at| (at as u64 ^ number) as u8));
    out.extend(crc32fast::hash(&out).to_le_bytes());
    Message::decode(&out.into()).unwrap()
}

/// Who sent it, and which of its messages it is, by the index that [`message`] wrote down.
fn number(message: &Bytes) -> u64 {
    u64::from_le_bytes(message[40..48].try_into().unwrap()) - 1
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// The end that takes messages, as long as that is not an error.
fn take(
    listener: TcpListener,
    mut each: impl FnMut(&[Bytes], bool) + Send + Sync + 'static,
) -> JoinHandle<Result<(), Error>> {
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        assert!(is_one(&stream).await.unwrap());
        let is_me = |cluster, to| (cluster, to) == (CLUSTER, TO);
        let take = |messages: &[_], may_wait| {
            each(messages, may_wait);
            false
        };
        serve(stream, is_me, take).await
    })
}

/// A pipe whose other end is left to the test.
async fn opened_by_hand() -> (TcpStream, Arc<Pipe>) {
    let (listener, address) = listen().await;
    let opening = tokio::spawn(async move { Pipe::open(&address, CLUSTER, TO).await.expect("it is opened") });
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; HELLO_BYTES]).await.unwrap();
    stream.write_all(&[OPENED]).await.unwrap();
    (stream, opening.await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_is_sent_arrives_whole_and_each_senders_in_order() {
    let (listener, address) = listen().await;
    let (arrived, arriving) = mpsc::channel();
    let taking = take(listener, move |messages, _| messages.iter().for_each(|one| arrived.send(one.clone()).unwrap()));
    let pipe = Pipe::open(&address, CLUSTER, TO).await.expect("it is opened");
    let driving = tokio::spawn({
        let pipe = pipe.clone();
        async move { pipe.drive().await }
    });
    // Small, and so large that somebody else has to write them.
    let bytes = |number: u64| [3, 900, AT_ONCE_BYTES_MAX - 50, AT_ONCE_BYTES_MAX + 50, 3 << 20][number as usize % 5];
    let each = 60;
    let senders: Vec<_> = (0..3_u64)
        .map(|sender| {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                for number in sender * 1_000..sender * 1_000 + each {
                    // What waits has a limit.
                    while !pipe.send(message(number, bytes(number))) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            })
        })
        .collect();
    let mut next = [0, 1_000, 2_000];
    tokio::task::spawn_blocking(move || {
        for _ in 0..3 * each {
            let got = arriving.recv_timeout(PATIENCE).expect("a message is lost");
            let number = number(&got);
            let expected = &mut next[number as usize / 1_000];
            assert_eq!(number, *expected);
            assert!(got == message(number, bytes(number)).encode(), "message {number} is another");
            *expected += 1;
        }
    })
    .await
    .unwrap();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    // A second in which nobody sends anything, and both ends hear that the other is there.
    tokio::time::sleep(ALIVE_EVERY * 3 / 2).await;
    assert!(!driving.is_finished() && !taking.is_finished());
    driving.abort();
    drop((driving.await, pipe));
    assert!(taking.await.unwrap().is_ok(), "the end of a pipe is no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_together_is_taken_together() {
    let (listener, address) = listen().await;
    let (arrived, arriving) = mpsc::channel();
    let taking = take(listener, move |messages, may_wait| {
        arrived.send((messages.iter().map(number).collect::<Vec<_>>(), may_wait)).unwrap();
    });
    let pipe = Pipe::open(&address, CLUSTER, TO).await.expect("it is opened");
    assert!(pipe.send(message(1, 10)));
    assert_eq!(arriving.recv_timeout(PATIENCE), Ok((vec![1], true)));
    let mut together = Vec::new();
    [2, 3].into_iter().for_each(|number| frame(&message(number, 10), &mut together));
    assert_eq!(pipe.stream.try_write(&together).unwrap(), together.len());
    assert_eq!(arriving.recv_timeout(PATIENCE), Ok((vec![2, 3], true)));
    taking.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_looked_at_of_who_means_another() {
    for (cluster, to) in [(ClusterId([8; 16]), TO), (CLUSTER, MemberId(3))] {
        let (listener, address) = listen().await;
        let taking = take(listener, |_, _| panic!("it is taken"));
        assert!(Pipe::open(&address, cluster, to).await.is_err(), "it is opened");
        assert!(taking.await.unwrap().is_ok());
    }
}

#[tokio::test]
async fn a_call_is_no_pipe_and_a_server_of_calls_opens_none() {
    let (listener, address) = listen().await;
    let calling = tokio::spawn(async move {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream
    });
    assert!(!is_one(&listener.accept().await.unwrap().0).await.unwrap());
    drop(calling.await);
    let (listener, address) = listen().await;
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(tonic_health::server::health_reporter().1)
            .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
    );
    let refused = Pipe::open(&address, CLUSTER, TO).await.err().expect("it speaks HTTP/2");
    assert_ne!(refused.kind(), ErrorKind::TimedOut, "at once");
}

#[tokio::test]
async fn what_is_no_pipe_ends_and_nothing_of_it_is_taken() {
    let hello = |version: u32| [&OPENING[..], &version.to_le_bytes(), &CLUSTER.0, &TO.0.to_le_bytes()].concat();
    let too_long = [&hello(VERSION)[..], &(MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes(), &[0; 90]].concat();
    for (bytes, is_error) in [
        (hello(VERSION + 1), false),
        ([b"LOCIPIPA", &hello(VERSION)[8..]].concat(), false),
        (hello(VERSION)[..HELLO_BYTES - 1].to_vec(), true),
        (too_long, true),
        // The end comes in the middle of a message.
        ([&hello(VERSION)[..], &1_000_u32.to_le_bytes(), &[0; 90]].concat(), false),
    ] {
        let (listener, address) = listen().await;
        let taking = take(listener, |_, _| panic!("it is taken"));
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let ended = timeout(PATIENCE, taking).await.expect("it ends").unwrap();
        assert_eq!(ended.is_err(), is_error, "{bytes:?}: {ended:?}");
    }
}

#[tokio::test]
async fn sending_never_waits_and_what_waits_is_bounded() {
    let (mut stream, pipe) = opened_by_hand().await;
    // Nobody reads, nor writes what waits.
    let begun = Instant::now();
    let large = message(1, 1 << 20);
    let sent = (0..2 * QUEUE).take_while(|_| pipe.send(large.clone())).count();
    assert_eq!(sent, QUEUE);
    assert!(begun.elapsed() < PATIENCE);
    assert!(!pipe.send(message(2, 1)), "there is no room");
    let driving = tokio::spawn({
        let pipe = pipe.clone();
        async move { pipe.drive().await }
    });
    let mut read = vec![0; QUEUE * (LENGTH_BYTES + large.bytes())];
    timeout(PATIENCE, stream.read_exact(&mut read)).await.expect("it is written").unwrap();
    assert!(read.ends_with(&large.encode()));
    assert!(pipe.send(message(2, 1)), "there is room again");
    driving.abort();
}

#[tokio::test]
async fn an_end_that_says_nothing_is_given_up() {
    let (_stream, pipe) = opened_by_hand().await;
    let begun = Instant::now();
    let broke = timeout(PATIENCE, pipe.drive()).await.expect("it is given up");
    assert_eq!(broke.kind(), ErrorKind::TimedOut);
    assert!((SILENCE_MAX..SILENCE_MAX * 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(!pipe.send(message(1, 1)), "it is broken");
    // And one that does not answer at all.
    let (_listener, address) = listen().await;
    assert_eq!(Pipe::open(&address, CLUSTER, TO).await.err().map(|error| error.kind()), Some(ErrorKind::TimedOut));
}

#[tokio::test]
async fn a_sender_that_says_nothing_is_given_up() {
    let (listener, address) = listen().await;
    let taking = take(listener, |_, _| {});
    let pipe = Pipe::open(&address, CLUSTER, TO).await.expect("it is opened");
    // Nobody drives it.
    let ended = timeout(PATIENCE, taking).await.expect("it is given up").unwrap();
    assert_eq!(ended.map_err(|error| error.kind()), Err(ErrorKind::TimedOut));
    drop(pipe);
}
