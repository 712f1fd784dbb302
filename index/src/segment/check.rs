//! Checking a segment while it is in use: what is on the disk, against its checksums.
//!
//! A segment is checked when it opens, and is then read as it lies, for as long as the process runs. Whatever happens to its
//! bytes meanwhile is noticed by nobody but whoever checks it again: before what was read from it is written elsewhere, and
//! now and then.

use super::SegmentError;
use super::read::Opening;
use crate::directory::{Readable, checksum};

/// Reads all of a segment and compares it with its checksums. Before each part `go_on` is asked, with the part's bytes; a no ends
/// it, and is the answer.
pub fn check(file: &dyn Readable, go_on: &mut dyn FnMut(u64) -> bool) -> Result<bool, SegmentError> {
    let opening = Opening::of(file)?;
    for line in opening.lines(&opening.head()?)? {
        match checksum(file, line.start..line.end, go_on)? {
            Some(crc) if crc == line.crc => {}
            Some(_) => return Err(opening.corrupt(line.start, "a section's checksum is wrong")),
            None => return Ok(false),
        }
    }
    Ok(true)
}
