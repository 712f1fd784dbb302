//! The file of answered requests: written whole with every checkpoint, so it is quick to write.
//!
//! ```text
//!   framed header, version 2, then for each request, oldest first, little-endian:
//!
//!   | principal length: u32 | its bytes | id length: u32 | its bytes | fingerprint: 16 | clock: u64 | kind: u8 | outcome |
//!
//!   kind 0: one change was written, to a new record   | version: u64 |
//!        1: the same, to one that was there           | version: u64 |
//!        2: any other outcome                         | length: u32 | its archive |
//! ```
//!
//! Version 1 was one archive of all of them; it is read still.

use rkyv::rancor;

use super::{Answer, Answered, Asked, Chunk, OutcomeKind, Requests, RequestsPicture};
use crate::command::Outcome;
use crate::framed::{self, FramedError, HEADER_BYTES, Kind};

const BYTES_MAX: u64 = 256 << 20;
const FILE: Kind = Kind { magic: b"lociasks", version: 2, bytes_max: BYTES_MAX };
const FIRST: Kind = Kind { magic: b"lociasks", version: 1, bytes_max: BYTES_MAX };

const CREATED: u8 = 0;
const REPLACED: u8 = 1;
const OTHER: u8 = 2;

/// What a request takes besides its principal, its id and its outcome.
const FIXED_BYTES: usize = 4 + 4 + 16 + 8 + 1 + 8;

impl RequestsPicture {
    /// The bytes of its file.
    pub fn encode(&self) -> Vec<u8> {
        let chunks = || self.chunks.iter().map(|chunk| &**chunk).chain([&self.open]);
        let each = |chunk: &Chunk| FIXED_BYTES * chunk.kept.len() + chunk.names.len();
        let mut body = Vec::with_capacity(chunks().map(each).sum());
        let all = chunks().flat_map(|chunk| chunk.kept.iter().map(move |kept| Answer { kept, chunk }));
        for answer in all.skip(self.skip) {
            write(&mut body, answer);
        }
        framed::encode(&FILE, &body)
    }
}

fn write(body: &mut Vec<u8>, answer: Answer<'_>) {
    let mut sized = |bytes: &[u8]| {
        // Principals, ids and replies are bounded far below that.
        body.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        body.extend_from_slice(bytes);
    };
    sized(answer.principal());
    sized(answer.request_id());
    body.extend_from_slice(&answer.fingerprint());
    body.extend_from_slice(&answer.kept.clock.to_le_bytes());
    match answer.other() {
        None => {
            body.push(if answer.kept.kind == OutcomeKind::Replaced { REPLACED } else { CREATED });
            body.extend_from_slice(&answer.kept.outcome.to_le_bytes());
        }
        Some(outcome) => {
            let archive = outcome.encode();
            body.push(OTHER);
            body.extend_from_slice(&(archive.len() as u32).to_le_bytes());
            body.extend_from_slice(&archive);
        }
    }
}

impl Requests {
    pub const FILE_BYTES_MAX: u64 = BYTES_MAX;

    /// The table from the bytes of its file.
    pub fn decode(bytes: &[u8], budget: usize, evicted: u64) -> Result<Requests, FramedError> {
        let mut requests = Requests::new(usize::MAX);
        match framed::decode(&FILE, bytes) {
            Ok(body) => {
                let mut rest = &body[..];
                while !rest.is_empty() {
                    let at = HEADER_BYTES + body.len() - rest.len();
                    let damaged = |what: String| FramedError::Damaged { what, offset: at as u64 };
                    read(&mut rest, &mut requests).map_err(damaged)?;
                }
            }
            Err(FramedError::UnknownVersion(1)) => {
                let body = framed::decode(&FIRST, bytes)?;
                let damaged = |error: rancor::Error| FramedError::Damaged {
                    what: error.to_string(),
                    offset: HEADER_BYTES as u64,
                };
                for answered in rkyv::from_bytes::<Vec<Answered>, rancor::Error>(&body).map_err(damaged)? {
                    let Answered { principal, request_id, fingerprint, clock, outcome } = answered;
                    requests.remember(&Asked::new(&principal, &request_id), fingerprint, clock, &outcome);
                }
            }
            Err(error) => return Err(error),
        }
        requests.budget = budget;
        requests.evicted = evicted;
        Ok(requests)
    }
}

/// Takes one in.
fn read(rest: &mut &[u8], requests: &mut Requests) -> Result<(), String> {
    let principal = sized(rest)?;
    let principal = std::str::from_utf8(principal).map_err(|error| error.to_string())?;
    let request_id = sized(rest)?;
    let fingerprint = array(rest)?;
    let clock = u64::from_le_bytes(array(rest)?);
    let [kind] = array(rest)?;
    let outcome = match kind {
        CREATED | REPLACED => {
            let version = u64::from_le_bytes(array(rest)?);
            Outcome::Written { version, existed: vec![kind == REPLACED] }
        }
        OTHER => Outcome::decode(sized(rest)?).map_err(|error| error.to_string())?,
        _ => return Err(format!("kind {kind} of an outcome is not known")),
    };
    requests.remember(&Asked::new(principal, request_id), fingerprint, clock, &outcome);
    Ok(())
}

fn sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = u32::from_le_bytes(array(rest)?) as usize;
    let (bytes, after) = rest.split_at_checked(length).ok_or("it ends within a request")?;
    *rest = after;
    Ok(bytes)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or("it ends within a request")?;
    *rest = after;
    Ok(*bytes)
}
