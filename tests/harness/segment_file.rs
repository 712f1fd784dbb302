//! A segment taken apart, so that a test can change what it says and put it together again with everything in its place
//! and every checksum right: what is changed then really reaches whoever reads that section.
//!
//! Written from the front page of `index/src/segment`, not with its code.

use std::ops::Range;

use crate::chance::Chance;

const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 32;
const PAGE: usize = 4096;

/// What is in a segment.
#[derive(Debug, Clone)]
pub struct SegmentFile {
    header: [u8; HEADER_BYTES],
    /// In the order of the file.
    pub sections: Vec<Section>,
}

/// A section, without its padding.
#[derive(Debug, Clone)]
pub struct Section {
    /// What it is.
    pub kind: u16,
    /// Whose it is: a field's, an index's or a text's number.
    pub field: u16,
    /// What it says.
    pub bytes: Vec<u8>,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(N)?)?;
    let mut all = [0; 8];
    all[..N].copy_from_slice(part);
    Some(u64::from_le_bytes(all))
}

/// Where each section's line of the table is, and where the section is.
fn table(bytes: &[u8]) -> Option<Vec<(usize, Range<usize>)>> {
    let count = number::<4>(bytes, 12)? as usize;
    let line = |i: usize| {
        let at = HEADER_BYTES + i * ENTRY_BYTES;
        let begin = number::<8>(bytes, at + 8)? as usize;
        let end = begin.checked_add(number::<8>(bytes, at + 16)? as usize)?;
        Some((at, begin..end))
    };
    (0..count.min(bytes.len() / ENTRY_BYTES)).map(line).collect()
}

/// Puts right checksums over whatever the bytes say now: of each section that the table names, of the table, of the header.
pub fn sign(bytes: &mut [u8]) {
    let Some(table) = table(bytes).filter(|_| bytes.len() >= PAGE) else { return };
    let mut first = bytes.len();
    for (at, section) in table {
        let padded = section.start..section.end.saturating_add(PAGE - 1) & !(PAGE - 1);
        if let Some(padded) = bytes.get(padded) {
            first = first.min(section.start);
            let crc = crc32fast::hash(padded).to_le_bytes();
            bytes[at + 4..at + 8].copy_from_slice(&crc);
        }
    }
    if first >= HEADER_BYTES {
        let crc = crc32fast::hash(&bytes[HEADER_BYTES..first]).to_le_bytes();
        bytes[56..60].copy_from_slice(&crc);
    }
    let crc = crc32fast::hash(&bytes[..60]).to_le_bytes();
    bytes[60..64].copy_from_slice(&crc);
}

impl SegmentFile {
    /// Takes the bytes of a whole segment apart.
    pub fn decode(bytes: &[u8]) -> Option<SegmentFile> {
        let header = *bytes.first_chunk()?;
        let section = |(at, range): (usize, Range<usize>)| {
            let (kind, field) = (number::<2>(bytes, at)? as u16, number::<2>(bytes, at + 2)? as u16);
            Some(Section { kind, field, bytes: bytes.get(range)?.to_vec() })
        };
        let sections = table(bytes)?.into_iter().map(section).collect::<Option<_>>()?;
        Some(SegmentFile { header, sections })
    }

    /// Puts it together again.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        bytes.resize((HEADER_BYTES + self.sections.len() * ENTRY_BYTES).next_multiple_of(PAGE), 0);
        for (i, section) in self.sections.iter().enumerate() {
            let line = HEADER_BYTES + i * ENTRY_BYTES;
            bytes[line..line + 2].copy_from_slice(&section.kind.to_le_bytes());
            bytes[line + 2..line + 4].copy_from_slice(&section.field.to_le_bytes());
            let begin = bytes.len() as u64;
            bytes[line + 8..line + 16].copy_from_slice(&begin.to_le_bytes());
            bytes[line + 16..line + 24].copy_from_slice(&(section.bytes.len() as u64).to_le_bytes());
            bytes.extend_from_slice(&section.bytes);
            bytes.resize(bytes.len().next_multiple_of(PAGE), 0);
        }
        let file_bytes = bytes.len() as u64;
        bytes[12..16].copy_from_slice(&(self.sections.len() as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&file_bytes.to_le_bytes());
        sign(&mut bytes);
        bytes
    }

    /// How many rows it says it has.
    pub fn rows(&self) -> u32 {
        number::<4>(&self.header, 24).map_or(0, |rows| rows as u32)
    }

    /// Makes it lie: a few numbers, lengths or whole sections are not what they should be.
    pub fn damage(&mut self, chance: &mut Chance) {
        for _ in 0..1 + chance.below(3) {
            if self.sections.is_empty() {
                return;
            }
            let (rows, at) = (u64::from(self.rows()), chance.index(self.sections.len()));
            match chance.below(40) {
                0 => {
                    // The version, the magic and the checksums stay: those that read no further say so at once.
                    let place = [24, 32, 40][chance.index(3)];
                    change(chance, &mut self.header[place..place + 8], rows);
                }
                1 => self.sections[at].field = chance.below(6) as u16,
                2 => {
                    let other = chance.index(self.sections.len());
                    self.sections[at].kind = self.sections[other].kind;
                }
                3 => {
                    // One section says what another does.
                    let other = chance.index(self.sections.len());
                    self.sections[at].bytes = self.sections[other].bytes.clone();
                }
                4 => drop(self.sections.remove(at)),
                5 => {
                    let again = self.sections[at].clone();
                    self.sections.push(again);
                }
                6 | 7 => self.sections[at].resize(chance),
                _ => change(chance, &mut self.sections[at].bytes, rows),
            }
        }
    }
}

impl Section {
    fn resize(&mut self, chance: &mut Chance) {
        let len = self.bytes.len();
        let unit = [1, 2, 4, 8, 16, 64][chance.index(6)];
        let new = match chance.below(5) {
            0 => 0,
            1 => len.saturating_sub(unit),
            2 => len + unit,
            3 => len / 2,
            _ => chance.index(len + 1),
        };
        self.bytes.resize(new, chance.next_u64() as u8);
    }
}

/// Writes another number somewhere: one that is nearly right more often than any.
fn change(chance: &mut Chance, bytes: &mut [u8], rows: u64) {
    if bytes.is_empty() {
        return;
    }
    let width = [1, 2, 4, 4, 4, 8, 8, 8][chance.index(8)];
    // What steers the reading of a section stands at its beginning.
    let area = if chance.percent(40) { bytes.len().min(256) } else { bytes.len() };
    let at = chance.index(area) / width * width;
    let read = |at: usize| {
        let mut all = [0; 8];
        all.iter_mut().zip(bytes.iter().skip(at)).take(width).for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(all)
    };
    let old = read(at);
    let new = match chance.below(14) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => old.wrapping_add(1),
        4 => old.wrapping_sub(1),
        5 => old ^ 1 << (8 * width - 1),
        6 => rows,
        7 => rows.wrapping_sub(1),
        8 => chance.below(2 * rows.max(1)),
        9 => bytes.len() as u64,
        10 => bytes.len() as u64 / [4, 8][chance.index(2)],
        // The next one's, and the last one's: nothing ascends any more.
        11 => read(at + width),
        12 => read(bytes.len() - bytes.len().min(width)),
        _ => chance.next_u64(),
    };
    bytes.iter_mut().skip(at).zip(&new.to_le_bytes()[..width]).for_each(|(byte, new)| *byte = *new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_apart_is_put_together_as_it_was() {
        let section = |kind, len: usize| Section { kind, field: 3, bytes: vec![7; len] };
        let whole =
            SegmentFile { header: [1; 64], sections: vec![section(1, 0), section(2, 5_000), section(9, 4_096)] };
        let bytes = whole.encode();
        assert_eq!(bytes.len(), 4_096 * 4);
        let again = SegmentFile::decode(&bytes).unwrap();
        assert_eq!(again.sections[1].bytes, whole.sections[1].bytes);
        assert_eq!(again.encode(), bytes);
    }
}
