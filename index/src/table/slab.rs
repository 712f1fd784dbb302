//! Slabs: memory for what is short, in places of 8, 16, 24 .. 1,024 bytes.
//!
//! ```text
//!   region, 4 MiB, at a multiple of it:   | heads, 64 KiB | page | page | ... |      a page is 64 KiB of places of one size
//!
//!   head of a page:  places given out | places never given out begin | first free place --> next, in the place itself
//!   shelf of a size: pages with room, by how full they are             the fullest gives the next place
//! ```
//!
//! The general allocator keeps eight bytes of its own with each piece and rounds up to sixteen; here a piece takes its own
//! bytes, rounded up to eight. All tables of the process share the pages, because most of what they hold is alike, and any
//! thread may give a place back. Each size has a lock of its own, held for some ten instructions.
//!
//! A page without places goes back to the system, a few aside that are kept for the next. Pages become sparse when places are
//! given back here and there. A size is sparse when more than a quarter of its places are free, and more than 128 KiB:
//! then [`is_sparse`] says of places in its emptier pages that what is in them should move, until it is sparse no more. Whoever
//! holds a place moves what is in it; nobody else can.
//!
//! Always:
//! - of a page, places below `fresh` are given out or in the list of free ones, and those above were never touched;
//! - a page with room is in its shelf's list by its fullness, a full one in none, an empty one belongs to its region;
//! - a page's head changes under its size's lock alone, a region's under that of regions. Regions are locked last.

#![expect(unsafe_code, reason = "it gives out memory, in half the bytes that the library's keeps for short pieces")]

use std::alloc::{Layout, handle_alloc_error};
use std::ptr::{NonNull, null_mut};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sizes are multiples of it.
const STEP: usize = 8;
/// The longest that has a place here.
pub(super) const PLACE_BYTES_MAX: usize = 1_024;
const SIZES: usize = PLACE_BYTES_MAX / STEP;
const PAGE_BYTES: usize = 64 << 10;
const REGION_BYTES: usize = 4 << 20;
const PAGES: usize = REGION_BYTES / PAGE_BYTES;
/// All pages of a region but the first, in which the heads are.
const ALL_FREE: u64 = !1;
/// So many parts of fullness tell pages of one size apart.
const PARTS: usize = 8;
/// So many empty pages are not given back to the system at once: a place that comes and goes must not cost a page each time.
const KEPT_MAX: usize = 16;
/// A size is left alone while it has no more than so many bytes of free places.
const SPARE_BYTES_MIN: usize = 2 * PAGE_BYTES;
/// And while no more than one of so many of its places is free.
const SPARE_PART: usize = 4;

const _: () = assert!(PAGES == u64::BITS as usize, "a bit for each page");
const _: () = assert!(size_of::<Region>() <= PAGE_BYTES, "heads are in the first page");
const _: () = assert!(PAGE_BYTES / STEP <= 1 << 13, "places of a page are counted in sixteen bits");

/// A page's. All zeros is that of an empty one.
#[repr(C)]
struct Head {
    next: *mut Head,
    previous: *mut Head,
    used: AtomicU16,
    fresh: u16,
    /// The first free place's number and one; zero: there is none.
    free: u16,
    /// Of its places. It stays while one of them is given out.
    size: u16,
}

#[repr(C)]
struct Region {
    heads: [Head; PAGES],
    next: *mut Region,
    previous: *mut Region,
    /// A bit for each page that is empty.
    free: u64,
    /// Of these, those that the system has not got back.
    kept: u64,
}

/// Pages of one size that have room, by how full they are.
struct Lists([*mut Head; PARTS]);

// SAFETY: the pages of a list are changed by whoever holds its lock, on whatever thread.
unsafe impl Send for Lists {}

#[repr(align(128))]
struct Shelf {
    lists: Mutex<Lists>,
    pages: AtomicUsize,
    /// Places that are given out.
    used: AtomicUsize,
    /// Places that were, of the pages there are.
    touched: AtomicUsize,
    /// Whether more of its places are free than should be.
    sparse: AtomicBool,
}

static SHELVES: [Shelf; SIZES] = [const {
    Shelf {
        lists: Mutex::new(Lists([null_mut(); PARTS])),
        pages: AtomicUsize::new(0),
        used: AtomicUsize::new(0),
        touched: AtomicUsize::new(0),
        sparse: AtomicBool::new(false),
    }
}; SIZES];

/// How many sizes are sparse.
static SPARSE: AtomicUsize = AtomicUsize::new(0);

/// Regions with empty pages.
struct Regions {
    first: *mut Region,
    kept: usize,
}

// SAFETY: regions are changed by whoever holds the lock, on whatever thread.
unsafe impl Send for Regions {}

static REGIONS: Mutex<Regions> = Mutex::new(Regions { first: null_mut(), kept: 0 });

/// What so many bytes take here, if they are no more than [`PLACE_BYTES_MAX`].
pub(super) const fn place_bytes(bytes: usize) -> usize {
    if bytes == 0 { STEP } else { bytes.next_multiple_of(STEP) }
}

fn shelf_of(size: usize) -> &'static Shelf {
    &SHELVES[size / STEP - 1]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The list for a page with so many places given out, unless it is full.
fn part_of(used: u16, size: usize) -> Option<usize> {
    let (used, places) = (usize::from(used), PAGE_BYTES / size);
    (used < places).then(|| used * PARTS / places)
}

/// The region that something is in.
fn region_of<T>(inside: *mut T) -> *mut Region {
    inside.map_addr(|address| address & !(REGION_BYTES - 1)).cast()
}

/// Where the page of a head begins.
///
/// # Safety
/// `head` is one of a region.
unsafe fn page_of(head: *mut Head) -> *mut u8 {
    let region = region_of(head);
    let number = (head.addr() - region.addr()) / size_of::<Head>();
    // SAFETY: a region has as many pages as heads.
    unsafe { region.cast::<u8>().add(number * PAGE_BYTES) }
}

/// The head of the page that a place is in.
///
/// # Safety
/// `place` is inside a region.
unsafe fn head_of(place: *mut u8) -> *mut Head {
    let region = region_of(place);
    // SAFETY: a region begins with its heads, as many as it has pages.
    unsafe { region.cast::<Head>().add((place.addr() - region.addr()) / PAGE_BYTES) }
}

impl Lists {
    /// # Safety
    /// The page is of this size and in no list.
    unsafe fn link(&mut self, head: *mut Head, part: usize) {
        let next = std::mem::replace(&mut self.0[part], head);
        // SAFETY: heads of this size are changed under the lock, which the caller has.
        unsafe {
            (*head).previous = null_mut();
            (*head).next = next;
            if !next.is_null() {
                (*next).previous = head;
            }
        }
    }

    /// # Safety
    /// The page is in this list.
    unsafe fn unlink(&mut self, head: *mut Head, part: usize) {
        // SAFETY: heads of this size are changed under the lock, which the caller has.
        unsafe {
            let (previous, next) = ((*head).previous, (*head).next);
            if previous.is_null() {
                self.0[part] = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    /// A page has as many places given out as it says, and had another number.
    ///
    /// # Safety
    /// The page is of this size, and where it belonged with that number.
    unsafe fn relink(&mut self, head: *mut Head, before: Option<usize>, after: Option<usize>) {
        if before == after {
            return;
        }
        // SAFETY: the caller says that it is in that list, or in none.
        unsafe {
            if let Some(part) = before {
                self.unlink(head, part);
            }
            if let Some(part) = after {
                self.link(head, part);
            }
        }
    }
}

/// A place for so many bytes, at most [`PLACE_BYTES_MAX`]. It is at a multiple of eight.
pub(super) fn take(bytes: usize) -> NonNull<u8> {
    assert!(bytes <= PLACE_BYTES_MAX, "longer ones are the general allocator's");
    let size = place_bytes(bytes);
    let shelf = shelf_of(size);
    let mut lists = lock(&shelf.lists);
    let fullest = lists.0.iter().rev().find(|first| !first.is_null()).copied();
    let head = fullest.unwrap_or_else(|| {
        let head = lock(&REGIONS).take_page();
        shelf.pages.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the page was empty, so it is in no list and of this size from now on.
        unsafe {
            (*head).size = size as u16;
            lists.link(head, 0);
        }
        head
    });
    // SAFETY: the head is of a page of this size with room, and heads are changed under the lock, which is held. The list of free
    // places has numbers of places that are not given out, each with the next number in its first bytes; without one, there are
    // places that were never given out.
    let place = unsafe {
        let used = (*head).used.load(Ordering::Relaxed);
        let number = match (*head).free {
            0 => {
                shelf.touched.fetch_add(1, Ordering::Relaxed);
                (*head).fresh += 1;
                (*head).fresh - 1
            }
            free => free - 1,
        };
        let place = page_of(head).add(usize::from(number) * size);
        if (*head).free != 0 {
            (*head).free = place.cast::<u16>().read();
        }
        (*head).used.store(used + 1, Ordering::Relaxed);
        lists.relink(head, part_of(used, size), part_of(used + 1, size));
        place
    };
    shelf.used.fetch_add(1, Ordering::Relaxed);
    shelf.weigh(size);
    // SAFETY: a place inside a region is not at zero.
    unsafe { NonNull::new_unchecked(place) }
}

/// Gives a place back.
///
/// # Safety
/// It came from [`take`] with as many bytes, or others that have a place of the same size, and nobody uses it any more.
pub(super) unsafe fn give_back(place: NonNull<u8>, bytes: usize) {
    let size = place_bytes(bytes);
    let shelf = shelf_of(size);
    let mut lists = lock(&shelf.lists);
    // SAFETY: the place is inside a page of this size, whose head is changed under the lock, which is held; its first bytes are
    // free for the list.
    unsafe {
        let head = head_of(place.as_ptr());
        let number = (place.as_ptr().addr() - page_of(head).addr()) / size;
        let used = (*head).used.load(Ordering::Relaxed);
        place.cast::<u16>().write((*head).free);
        (*head).free = number as u16 + 1;
        (*head).used.store(used - 1, Ordering::Relaxed);
        let (before, after) = (part_of(used, size), part_of(used - 1, size));
        if used > 1 {
            lists.relink(head, before, after);
        } else {
            lists.relink(head, before, None);
            shelf.touched.fetch_sub(usize::from((*head).fresh), Ordering::Relaxed);
            shelf.pages.fetch_sub(1, Ordering::Relaxed);
            ((*head).fresh, (*head).free) = (0, 0);
            lock(&REGIONS).give_page_back(head);
        }
    }
    shelf.used.fetch_sub(1, Ordering::Relaxed);
    shelf.weigh(size);
}

impl Shelf {
    /// Says whether it is sparse, after a place was taken or given back. Its lock is held.
    fn weigh(&self, size: usize) {
        let places = self.pages.load(Ordering::Relaxed) * (PAGE_BYTES / size);
        let spare = places - self.used.load(Ordering::Relaxed);
        let sparse = spare * size > SPARE_BYTES_MIN && spare * SPARE_PART > places;
        if sparse == self.sparse.load(Ordering::Relaxed) {
            return;
        }
        self.sparse.store(sparse, Ordering::Relaxed);
        if sparse {
            SPARSE.fetch_add(1, Ordering::Relaxed);
        } else {
            SPARSE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether there is a size with so many free places that what is in others should move.
pub(crate) fn are_sparse() -> bool {
    SPARSE.load(Ordering::Relaxed) > 0
}

/// Whether what is in a place should move to another, because there are too many free ones of its size and its page is no fuller
/// than others.
///
/// # Safety
/// The place is one that [`take`] gave out.
pub(super) unsafe fn is_sparse(place: NonNull<u8>) -> bool {
    // SAFETY: the place is inside a region. The size of its page stays, and the number of places that are given out is one that
    // all may read.
    let (used, size) = unsafe {
        let head = head_of(place.as_ptr());
        ((*head).used.load(Ordering::Relaxed), usize::from((*head).size))
    };
    let shelf = shelf_of(size);
    let (pages, all_used) = (shelf.pages.load(Ordering::Relaxed), shelf.used.load(Ordering::Relaxed));
    shelf.sparse.load(Ordering::Relaxed) && usize::from(used) * pages <= all_used
}

/// What all places together take, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Those that are given out.
    pub given_out: usize,
    /// Those that were at some time, of the pages there are: so much is in memory.
    pub in_memory: usize,
    /// So much is, at the most, once what should move has moved.
    pub in_memory_max: usize,
}

/// As things stand.
pub fn figures() -> Figures {
    let mut figures = Figures::default();
    for size in (1..=SIZES).map(|number| number * STEP) {
        let (used, touched) = figures_of(size);
        figures.given_out += used * size;
        figures.in_memory += touched * size;
        figures.in_memory_max += (used * size + SPARE_BYTES_MIN).max(used * size * SPARE_PART / (SPARE_PART - 1));
    }
    figures
}

/// Of one size, places that are given out, and places that are in memory.
pub(super) fn figures_of(size: usize) -> (usize, usize) {
    let shelf = shelf_of(size);
    (shelf.used.load(Ordering::Relaxed), shelf.touched.load(Ordering::Relaxed))
}

impl Regions {
    /// An empty page, which nobody else has from now on.
    fn take_page(&mut self) -> *mut Head {
        if self.first.is_null() {
            self.add_region();
        }
        let region = self.first;
        // SAFETY: regions in the list are there, and are changed under the lock, which is held. Each has an empty page.
        unsafe {
            let (free, kept) = ((*region).free, (*region).free & (*region).kept);
            let number = if kept == 0 { free } else { kept }.trailing_zeros();
            if kept != 0 {
                self.kept -= 1;
            }
            (*region).free &= !(1 << number);
            (*region).kept &= !(1 << number);
            if (*region).free == 0 {
                self.unlink(region);
            }
            (&raw mut (*region).heads).cast::<Head>().add(number as usize)
        }
    }

    /// # Safety
    /// The page is empty, and nobody uses it any more.
    unsafe fn give_page_back(&mut self, head: *mut Head) {
        let region = region_of(head);
        // SAFETY: the head is one of a region, and regions are changed under the lock, which is held.
        unsafe {
            let page = page_of(head);
            let bit = 1u64 << ((page.addr() - region.addr()) / PAGE_BYTES);
            if (*region).free == 0 {
                self.link(region);
            }
            (*region).free |= bit;
            if self.kept < KEPT_MAX || !discard(page) {
                (*region).kept |= bit;
                self.kept += 1;
            }
            // One region stays.
            let alone = (*region).next.is_null() && (*region).previous.is_null();
            if (*region).free == ALL_FREE && !alone {
                self.unlink(region);
                self.kept -= (*region).kept.count_ones() as usize;
                unmap(region.cast(), REGION_BYTES);
            }
        }
    }

    /// # Safety
    /// The region is in no list.
    unsafe fn link(&mut self, region: *mut Region) {
        let next = std::mem::replace(&mut self.first, region);
        // SAFETY: regions are changed under the lock, which the caller has.
        unsafe {
            (*region).previous = null_mut();
            (*region).next = next;
            if !next.is_null() {
                (*next).previous = region;
            }
        }
    }

    /// # Safety
    /// The region is in the list.
    unsafe fn unlink(&mut self, region: *mut Region) {
        // SAFETY: regions are changed under the lock, which the caller has.
        unsafe {
            let (previous, next) = ((*region).previous, (*region).next);
            if previous.is_null() {
                self.first = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
        }
    }

    fn add_region(&mut self) {
        let layout = Layout::new::<[u8; REGION_BYTES]>();
        let Some(start) = map(REGION_BYTES * 2) else { handle_alloc_error(layout) };
        let before = start.addr().next_multiple_of(REGION_BYTES) - start.addr();
        // SAFETY: of the mapping one region is kept, at a multiple of its size, and what is before and after it goes. It is all
        // zeros, which is a region without empty pages, in no list.
        unsafe {
            let region = start.add(before);
            unmap(start, before);
            unmap(region.add(REGION_BYTES), REGION_BYTES - before);
            let region = region.cast::<Region>();
            (*region).free = ALL_FREE;
            self.link(region);
        }
    }
}

/// Memory from the system, all zeros.
fn map(bytes: usize) -> Option<*mut u8> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    // SAFETY: a new mapping, wherever the system puts it, is nobody else's.
    let start = unsafe { mmap_anonymous(null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE) };
    start.ok().map(|start| start.cast())
}

/// # Safety
/// These are whole pages of the system's in a mapping of [`map`], and nobody uses them any more.
unsafe fn unmap(start: *mut u8, bytes: usize) {
    if bytes == 0 {
        return;
    }
    // SAFETY: as the caller says. Where the system refuses, the addresses stay taken, and nothing else is wrong.
    if let Err(error) = unsafe { rustix::mm::munmap(start.cast(), bytes) } {
        tracing::debug!(%error, "memory was not given back");
    }
}

/// Gives the memory of a page back to the system, and says whether it took it.
///
/// # Safety
/// Nobody uses the page.
unsafe fn discard(page: *mut u8) -> bool {
    #[cfg(target_os = "linux")]
    // SAFETY: the page is in a mapping of our own without a file behind it; what is in it is of no use any more.
    return unsafe { rustix::mm::madvise(page.cast(), PAGE_BYTES, rustix::mm::Advice::LinuxDontNeed) }.is_ok();
    #[cfg(not(target_os = "linux"))]
    {
        let _ = page;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::call::Chance;
    use super::*;

    /// A place with what was written into all of it.
    struct Held {
        place: NonNull<u8>,
        bytes: usize,
        mark: u8,
    }

    // SAFETY: whoever holds it is the only one that uses the place.
    unsafe impl Send for Held {}

    impl Held {
        fn new(bytes: usize, mark: u8) -> Held {
            let place = take(bytes);
            assert_eq!(place.addr().get() % STEP, 0);
            // SAFETY: the place has so many bytes.
            unsafe { place.write_bytes(mark, bytes) };
            Held { place, bytes, mark }
        }

        fn check(&self) {
            // SAFETY: so many bytes were written there.
            let found = unsafe { std::slice::from_raw_parts(self.place.as_ptr(), self.bytes) };
            assert!(found.iter().all(|byte| *byte == self.mark), "{} bytes at {:?}", self.bytes, self.place);
        }

        fn is_sparse(&self) -> bool {
            // SAFETY: it is given out.
            unsafe { is_sparse(self.place) }
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.check();
            // SAFETY: it is given back once.
            unsafe { give_back(self.place, self.bytes) };
        }
    }

    #[test]
    fn places_are_nobody_elses_on_any_thread() {
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel::<Held>();
            scope.spawn(move || receiver.iter().for_each(drop));
            for thread in 0..3u64 {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut chance = Chance::new(thread);
                    let mut held: Vec<Held> = Vec::new();
                    for round in 0..60_000 {
                        let many = if round / 10_000 % 2 == 0 { 6 } else { 2 };
                        if chance.below(8) < many {
                            let bytes = [chance.below(990), 100, 1_024, chance.below(30)][chance.below(4)];
                            held.push(Held::new(bytes, chance.next_u64() as u8));
                        } else if !held.is_empty() {
                            let one = held.swap_remove(chance.below(held.len()));
                            match chance.below(3) {
                                0 => sender.send(one).expect("it is taken"),
                                1 if one.is_sparse() => held.push(Held::new(one.bytes, one.mark)),
                                _ => drop(one),
                            }
                        }
                        if round % 5_000 == 0 {
                            held.iter().for_each(Held::check);
                        }
                    }
                });
            }
            drop(sender);
        });
    }

    #[test]
    fn what_moves_when_it_is_sparse_makes_pages_empty() {
        // A size of which other tests have next to none.
        const BYTES: usize = 1_000;
        const FEW: usize = 100;
        let figures = || figures_of(place_bytes(BYTES));
        for (seed, left) in [(1, 2), (2, 10), (3, 60), (4, 74)] {
            let mut chance = Chance::new(seed);
            let mut held: Vec<Held> = (0..20_000).map(|number| Held::new(BYTES, number as u8)).collect();
            assert!((20_000..20_000 + FEW).contains(&figures().1));
            held.retain(|_| chance.below(100) < left);
            assert!(figures().1 > held.len() * 5 / 4, "seed {seed}: nothing is sparse");
            let others = figures().0 - held.len();
            let mut moved = 0;
            for _ in 0..3 {
                for one in &mut held {
                    if one.is_sparse() {
                        *one = Held::new(BYTES, one.mark);
                        moved += 1;
                    }
                }
            }
            let (used, touched) = figures();
            println!("{left} of a hundred left: {used} in {touched} places, {moved} moved");
            let spare = (touched - used) * place_bytes(BYTES);
            assert!(spare <= SPARE_BYTES_MIN || (touched - used) * SPARE_PART <= touched + FEW);
            assert!(moved <= used, "seed {seed}: moved more than once");
            drop(held);
            assert!(others < FEW && figures().1 < 2 * FEW);
        }
    }

    #[test]
    fn what_takes_less_than_eight_bytes_takes_eight() {
        let sizes = [(0, 8), (1, 8), (8, 8), (9, 16), (1_023, 1_024), (1_024, 1_024)];
        sizes.into_iter().for_each(|(bytes, size)| assert_eq!(place_bytes(bytes), size));
        let two = [Held::new(0, 0), Held::new(1, 1)];
        assert_ne!(two[0].place, two[1].place);
    }
}
