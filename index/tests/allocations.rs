//! A search asks for no memory once its scratch has been used: every allocation of this thread is counted.

#![expect(unsafe_code, reason = "whoever counts allocations is the allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::borrow::Cow;
use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use loci_index::directory::RamDirectory;
use loci_index::distance::Metric;
use loci_index::graph::GraphOptions;
use loci_index::graph::search::Scratch;
use loci_index::segment::{Effort, FieldSpec, Row, Rows, Search, Segment, Spec, write};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, and how often this thread asked it for memory.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

// SAFETY: each call is passed on as it is to the system's allocator, which keeps the contract; counting asks for no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as above; `place` came from the system's allocator.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(place, layout, bytes) }
    }
}

const DIMENSION: usize = 40;
const RECORDS: usize = 3_000;
const QUERIES: usize = 200;

struct Records {
    floats: Vec<f32>,
    keys: Vec<[u8; 4]>,
}

impl Records {
    fn new() -> Records {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut floats: Vec<f32> = (0..DIMENSION * RECORDS).map(|_| next()).collect();
        for row in floats.chunks_exact_mut(DIMENSION) {
            Metric::Cosine.prepare(row).expect("it has a direction");
        }
        Records { floats, keys: (0..RECORDS as u32).map(u32::to_be_bytes).collect() }
    }

    fn get(&self, row: usize) -> &[f32] {
        &self.floats[row * DIMENSION..][..DIMENSION]
    }
}

impl Rows for Records {
    fn len(&self) -> usize {
        RECORDS
    }

    fn row(&self, i: usize) -> Row<'_> {
        Row { key: &self.keys[i], begin: 1, deadline: 0, hash: 0, value: None, attributes: &[] }
    }

    fn embedding(&self, i: usize, _field: usize) -> Option<Cow<'_, [f32]>> {
        Some(Cow::Borrowed(self.get(i)))
    }
}

/// How often the searches of some records asked for memory.
fn allocations(segment: &Segment, records: &Records, effort: Effort, taken: u32, scratch: &mut Scratch) -> u64 {
    let before = COUNT.with(Cell::get);
    for row in 0..QUERIES {
        let search = Search { field: 0, query: records.get(row), k: 10, effort };
        let found = segment.nearest(&search, |row| row.is_multiple_of(taken), || true, scratch);
        let _ = found.expect("the query fits the segment");
        assert_eq!(scratch.hits().len(), 10);
    }
    COUNT.with(Cell::get) - before
}

#[test]
fn a_search_asks_for_no_memory_once_its_scratch_was_used() {
    let records = Records::new();
    for (half, coded) in [(false, true), (true, true), (false, false), (true, false)] {
        let fields = [FieldSpec { name: "e".into(), dimension: DIMENSION as u32, metric: Metric::Cosine, half, coded }];
        let graph = Some(GraphOptions { m: 16, ef_construction: 60, threads: 1 });
        let spec = Spec { collection: 1, sparse: 0, texts: &[], fields: &fields, indexes: &[], graph, hash_seed: 1 };
        let directory = RamDirectory::new();
        write(&directory, "set", &spec, &records, &AtomicBool::new(false)).expect("it is written");
        let segment = Segment::open(&directory, "set").expect("it opens");
        let mut scratch = Scratch::new();
        for effort in [Effort::Graph { ef: 64, budget: None }, Effort::Exact] {
            for taken in [1, 3] {
                let first = allocations(&segment, &records, effort, taken, &mut scratch);
                let again = allocations(&segment, &records, effort, taken, &mut scratch);
                assert_eq!(again, 0, "half {half}, coded {coded}, {effort:?}, one of {taken}: {first} the first time");
            }
        }
    }
    assert!(COUNT.with(Cell::get) > 0, "nothing is counted");
}
