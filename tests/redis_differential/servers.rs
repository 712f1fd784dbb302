//! The two servers: a redis-server of the test's own, and the one at the address that was given; and connections to either.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loci_wire::resp::{Reply, ReplyDecoder, ReplyLimits, encode_request};

/// No reply takes this long, unless it is never sent.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// A redis-server that ends with the test.
pub struct RedisServer {
    process: Child,
    /// Where it listens.
    pub address: String,
    _folder: tempfile::TempDir,
}

impl RedisServer {
    /// Starts one, if there is a redis-server on this machine.
    pub fn start() -> Option<RedisServer> {
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let folder = tempfile::tempdir().ok()?;
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"])
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let address = format!("127.0.0.1:{port}");
        let server = RedisServer { process, address, _folder: folder };
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            if TcpStream::connect(&server.address).is_ok() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection that waits for its replies.
pub struct Connection {
    stream: TcpStream,
    came: Vec<u8>,
    decoder: ReplyDecoder,
}

impl Connection {
    /// Connects, or says why not.
    pub fn open(address: &str) -> Connection {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|error| panic!("{address} cannot be connected to: {error}"));
        stream.set_nodelay(true).expect("a socket takes options");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes options");
        Connection { stream, came: Vec::new(), decoder: ReplyDecoder::new(ReplyLimits::default()) }
    }

    /// Sends a command without waiting.
    pub fn send(&mut self, args: &[Vec<u8>]) {
        let mut request = Vec::new();
        encode_request(&mut request, args);
        // A connection that was closed is noticed when the reply is missing.
        let _ = self.stream.write_all(&request);
    }

    /// The next reply. A server that says nothing, or nonsense, has said so.
    pub fn receive(&mut self) -> Result<Reply, String> {
        let mut piece = [0; 64 << 10];
        loop {
            match self.decoder.decode(&self.came) {
                Ok(Some((reply, taken))) => {
                    self.came.drain(..taken);
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(error) => return Err(format!("no reply: {error}: {:?}", String::from_utf8_lossy(&self.came))),
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Err("the connection was closed".into()),
                Ok(count) => self.came.extend_from_slice(&piece[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    return Err("no reply came".into());
                }
                Err(_) => return Err("the connection was closed".into()),
            }
        }
    }

    /// Sends a command and waits for its reply.
    pub fn call(&mut self, args: &[Vec<u8>]) -> Result<Reply, String> {
        self.send(args);
        self.receive()
    }

    /// The same, from words.
    pub fn say(&mut self, words: &str) -> Result<Reply, String> {
        self.call(&words.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    /// Sends a command and takes everything that comes, until it has answered a ping sent after that.
    pub fn drain(&mut self, args: Option<&[Vec<u8>]>) -> Result<Vec<Reply>, String> {
        if let Some(args) = args {
            self.send(args);
        }
        self.send(&[b"PING".to_vec(), b"that was all".to_vec()]);
        let mut replies = Vec::new();
        loop {
            let reply = self.receive()?;
            let end = match &reply {
                Reply::Bulk(bytes) => bytes == b"that was all",
                Reply::Array(parts) => parts.get(1) == Some(&Reply::Bulk(b"that was all".to_vec())),
                _ => false,
            };
            if end {
                return Ok(replies);
            }
            replies.push(reply);
        }
    }
}
