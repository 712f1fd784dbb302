//! A client of the door for clients of Redis, for the tests that only want replies.

use std::io::{Read, Write};
use std::net::TcpStream;

use loci_wire::resp::{Reply, ReplyDecoder, ReplyLimits, encode_request};

use crate::process::PATIENCE;

/// A connection.
pub struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    decoder: ReplyDecoder,
}

impl Client {
    /// To an address; none: nobody listens there.
    pub fn open(address: &str) -> Option<Client> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Client { stream, input: Vec::new(), decoder: ReplyDecoder::new(ReplyLimits::default()) })
    }

    /// Sends calls, all at once. Whether that was possible.
    pub fn send<W: AsRef<[u8]>>(&mut self, calls: &[Vec<W>]) -> bool {
        let mut bytes = Vec::new();
        for call in calls {
            encode_request(&mut bytes, &call.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>());
        }
        self.stream.write_all(&bytes).is_ok()
    }

    /// The next reply; none: the node is gone.
    pub fn reply(&mut self) -> Option<Reply> {
        loop {
            if let Some((reply, taken)) = self.decoder.decode(&self.input).expect("a reply") {
                self.input.drain(..taken);
                return Some(reply);
            }
            let mut part = [0; 64 << 10];
            match self.stream.read(&mut part) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.input.extend_from_slice(&part[..count]),
            }
        }
    }

    /// Calls a line, whose words are apart by spaces, and gives its reply.
    pub fn call(&mut self, line: &str) -> Reply {
        assert!(self.send(&[line.split(' ').collect::<Vec<_>>()]), "{line}: nobody listens");
        self.reply().unwrap_or_else(|| panic!("{line}: no reply"))
    }

    /// The same, with its reply as text.
    pub fn line(&mut self, line: &str) -> String {
        text(&self.call(line))
    }
}

/// A reply in words.
pub fn text(reply: &Reply) -> String {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match reply {
        Reply::Status(word) => lossy(word),
        Reply::Error(error) => format!("-{}", lossy(error)),
        Reply::Int(number) => number.to_string(),
        Reply::Bulk(bytes) => lossy(bytes),
        Reply::Null | Reply::NullArray => "nothing".into(),
        Reply::Array(parts) => format!("[{}]", parts.iter().map(text).collect::<Vec<_>>().join(" ")),
        Reply::Push(parts) => format!(">[{}]", parts.iter().map(text).collect::<Vec<_>>().join(" ")),
        other => format!("{other:?}"),
    }
}
