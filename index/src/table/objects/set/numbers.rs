//! Numbers in ascending order, each in as few bytes as the widest of them needs.

use crate::table::allocated;

/// Numbers, each once.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    bytes: Vec<u8>,
    /// 2, 4 or 8.
    width: u8,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers { bytes: Vec::new(), width: 2 }
    }
}

fn width_of(number: i64) -> u8 {
    match number {
        _ if i16::try_from(number).is_ok() => 2,
        _ if i32::try_from(number).is_ok() => 4,
        _ => 8,
    }
}

impl Numbers {
    pub fn len(&self) -> usize {
        self.bytes.len() / usize::from(self.width)
    }

    pub fn heap_bytes(&self) -> usize {
        allocated(self.bytes.capacity())
    }

    fn number(&self, bytes: &[u8]) -> i64 {
        // Whatever is above the width is as the sign.
        let mut wide = [if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        i64::from_le_bytes(wide)
    }

    fn at(&self, place: usize) -> i64 {
        let width = usize::from(self.width);
        self.number(&self.bytes[place * width..(place + 1) * width])
    }

    pub fn iter(&self) -> impl Iterator<Item = i64> {
        self.bytes.chunks_exact(usize::from(self.width)).map(|bytes| self.number(bytes))
    }

    /// Where a number is, or where it would be.
    pub fn find(&self, number: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.at(middle).cmp(&number) {
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Puts a number where [`Numbers::find`] says that it would be.
    pub fn insert(&mut self, place: usize, number: i64) {
        let width = width_of(number);
        if width > self.width {
            let wide: Vec<i64> = self.iter().collect();
            let mut bytes = Vec::with_capacity((wide.len() + 1) * usize::from(width));
            wide.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()[..usize::from(width)]));
            *self = Numbers { bytes, width };
        }
        let width = usize::from(self.width);
        if self.bytes.capacity() < self.bytes.len() + width {
            // A little ahead, but not double.
            self.bytes.reserve_exact(width + self.bytes.len() / 8);
        }
        let at = place * width;
        self.bytes.splice(at..at, number.to_le_bytes()[..width].iter().copied());
    }

    pub fn remove(&mut self, place: usize) {
        let width = usize::from(self.width);
        self.bytes.drain(place * width..(place + 1) * width);
        if self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.shrink_to_fit();
        }
    }
}
