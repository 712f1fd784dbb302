//! Memory in large pages, where the system has any to give.
//!
//! The processor finds a page by looking it up in a table, and remembers some thousand pages. Whoever reads here and there
//! in more memory than these make up waits for the table as well as for the memory: with pages of 2 MiB instead of 4 KiB,
//! a random read took half the time. So arrays that graphs are built and searched in ask for large pages.

/// Room for so many elements, in large pages if it is large itself and the system agrees.
pub(crate) fn room_for<T>(elements: usize) -> Vec<T> {
    let mut room = Vec::with_capacity(elements);
    super::prefer_huge_pages(room.spare_capacity_mut());
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_as_any_other_whatever_its_size() {
        for elements in [0, 1, 1000, 3 << 20] {
            let mut room: Vec<u32> = room_for(elements);
            assert!(room.is_empty() && room.capacity() >= elements);
            room.extend(0..elements as u32);
            assert!(room.iter().copied().eq(0..elements as u32));
        }
    }
}
