//! Which segments become one.
//!
//! Merging drops ended versions, gives records that were searched one by one a graph, and keeps the number of segments
//! small. Each record's graph is built again about once for every fourfold growth of its collection: segments of like
//! size (a tier is a factor of four) wait until there are four.
//!
//! In this order:
//! 1. a segment in which nothing lives goes;
//! 2. all segments that lack a graph, once enough records for one lie in them together;
//! 3. segments of which more than a quarter has ended, and of their size;
//! 4. four segments of like size.
//!
//! While nobody writes, a fifth ([`choose_at_rest`]): the smaller segments with the next larger ones, as long as the largest
//! of them is at most eight times the others together, and all of them make one that may be. A search walks every
//! segment's graph, so one where there were three is three times as fast; and linking few records to many is cheap. Each
//! time writes at most nine times what the others hold, and leaves segments that this rule does not choose again until
//! there are new records of an eighth of the smallest of them.

/// What the choice depends on, of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Rows, ended ones too.
    pub rows: u32,
    pub ended: u32,
    /// Of the file.
    pub bytes: u64,
    /// How many rows have an embedding that no graph leads to.
    pub unlinked: u32,
}

/// So many segments of like size become one.
const FAN_IN: usize = 4;
/// The first tier ends at four times so many records.
const TIER_ROWS: u64 = 1_024;
/// A record counts as one for each so many bytes, so that large values weigh.
const ROW_BYTES: u64 = 4_096;
/// A segment of so many records is not merged with others any more: its graph would take too much memory to build.
pub(crate) const MERGE_ROWS_MAX: u64 = 1 << 20;

/// While nobody writes, a segment is written again with others that hold at least an eighth of it.
const AT_REST_TIMES: u64 = 8;

impl Candidate {
    /// A segment that may not be read: it looks so large that it is never chosen.
    pub const NEVER: Candidate = Candidate { rows: u32::MAX, ended: 0, bytes: 0, unlinked: 0 };

    fn live(&self) -> u64 {
        u64::from(self.rows.saturating_sub(self.ended))
    }

    /// How many records it counts as.
    fn size(&self) -> u64 {
        let share = self.bytes / ROW_BYTES * self.live() / u64::from(self.rows.max(1));
        self.live().max(share)
    }

    /// Grows by one with every fourfold size.
    fn tier(&self) -> u32 {
        (self.size() / TIER_ROWS).max(1).ilog2() / 2
    }

    fn wasteful(&self) -> bool {
        u64::from(self.ended) * 4 > u64::from(self.rows)
    }
}

/// The segments to merge, by their place in the list, and how urgent that is (less is more urgent).
pub(crate) fn choose(segments: &[Candidate], graph_rows_min: u32) -> Option<(u32, Vec<usize>)> {
    let places = |taken: &dyn Fn(&Candidate) -> bool| -> Vec<usize> {
        (0..segments.len()).filter(|&place| taken(&segments[place])).collect()
    };
    let dead = places(&|segment| segment.live() == 0);
    if !dead.is_empty() {
        return Some((0, dead));
    }
    let unlinked = limited(segments, places(&|segment| segment.unlinked > 0));
    let total: u64 = unlinked.iter().map(|&place| u64::from(segments[place].unlinked)).sum();
    let ended: u64 = unlinked.iter().map(|&place| u64::from(segments[place].ended)).sum();
    if total >= u64::from(graph_rows_min) + ended {
        return Some((1, unlinked));
    }
    let wasteful = places(&|segment| segment.wasteful());
    if let Some(tier) = wasteful.iter().map(|&place| segments[place].tier()).min() {
        let alike = wasteful.into_iter().filter(|&place| segments[place].tier() == tier).collect();
        return Some((2, limited(segments, alike)));
    }
    let small = |segment: &Candidate| segment.live() < MERGE_ROWS_MAX / 2;
    let mut tiers: Vec<u32> = segments.iter().filter(|segment| small(segment)).map(Candidate::tier).collect();
    tiers.sort_unstable();
    tiers.dedup();
    let full = tiers.into_iter().find_map(|tier| {
        let alike = limited(segments, places(&|segment| small(segment) && segment.tier() == tier));
        (alike.len() >= FAN_IN).then_some(alike)
    })?;
    Some((3, full))
}

/// The segments to merge while nobody writes and [`choose`] finds none, by their place in the list: two or more.
pub(crate) fn choose_at_rest(segments: &[Candidate]) -> Option<Vec<usize>> {
    let mut smallest_first: Vec<usize> = (0..segments.len()).collect();
    smallest_first.sort_by_key(|&place| segments[place].size());
    let (mut rows, mut size, mut taken) = (0, 0u64, 0);
    for (number, &place) in smallest_first.iter().enumerate() {
        let segment = &segments[place];
        rows += segment.live();
        if rows > MERGE_ROWS_MAX || size + segment.size() > MERGE_ROWS_MAX {
            break;
        }
        // A larger one may take in what the next smaller one could not: all before it count.
        if segment.size() <= size * AT_REST_TIMES {
            taken = number + 1;
        }
        size += segment.size();
    }
    let mut places = smallest_first;
    places.truncate(taken);
    places.sort_unstable();
    (places.len() >= 2).then_some(places)
}

/// As many as may become one segment; one is always allowed.
fn limited(segments: &[Candidate], mut places: Vec<usize>) -> Vec<usize> {
    let mut rows = 0;
    let fit = places.iter().take_while(|&&place| {
        rows += segments[place].live();
        rows <= MERGE_ROWS_MAX
    });
    let fit = fit.count().max(1);
    places.truncate(fit);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(rows: u32, ended: u32, unlinked: u32) -> Candidate {
        Candidate { rows, ended, bytes: 0, unlinked }
    }

    fn check(segments: &[Candidate], expected: Option<(u32, &[usize])>) {
        let chosen = choose(segments, 1_024);
        assert_eq!(chosen.as_ref().map(|(urgency, places)| (*urgency, &places[..])), expected, "{segments:?}");
    }

    #[test]
    fn what_is_chosen_and_what_is_left_alone() {
        check(&[], None);
        check(&[segment(100, 0, 100)], None);
        check(&[segment(100, 100, 100)], Some((0, &[0])));
        check(&[segment(8_192, 0, 8_192)], Some((1, &[0])));
        check(&[segment(8_192, 0, 8_192), segment(8_192, 0, 0), segment(10, 0, 10)], Some((1, &[0, 2])));
        check(&[segment(1_100, 100, 1_100)], None);
        check(&[segment(1_000, 251, 0), segment(1_000, 250, 0)], Some((2, &[0])));
        check(&[segment(1_000, 0, 0); 3], None);
        check(&[segment(1_000, 0, 0); 4], Some((3, &[0, 1, 2, 3])));
        check(&[segment(50, 0, 50); 4], Some((3, &[0, 1, 2, 3])));
        check(&[segment(600_000, 0, 0); 9], None);
        check(&[segment(600_000, 200_000, 0); 2], Some((2, &[0, 1])));
        check(&[segment(900_000, 300_000, 0); 2], Some((2, &[0])));
        check(&[Candidate::NEVER; 4], None);
        check(&[segment(8_192, 0, 8_192), Candidate::NEVER, segment(10, 0, 10)], Some((1, &[0, 2])));
        check(&[Candidate::NEVER, segment(9, 9, 0)], Some((0, &[1])));
    }

    #[test]
    fn large_values_weigh_as_many_records() {
        let large = Candidate { rows: 10, ended: 0, bytes: 1 << 30, unlinked: 0 };
        check(&[large, segment(10, 0, 0), segment(10, 0, 0), segment(10, 0, 0)], None);
        check(&[large; 4], Some((3, &[0, 1, 2, 3])));
    }

    fn check_at_rest(rows: &[u32], expected: Option<&[usize]>) {
        let segments: Vec<Candidate> = rows.iter().map(|&rows| segment(rows, 0, 0)).collect();
        assert_eq!(choose_at_rest(&segments).as_deref(), expected, "{rows:?}");
    }

    #[test]
    fn at_rest_small_segments_are_merged_as_far_as_that_is_worth_it() {
        check_at_rest(&[], None);
        check_at_rest(&[60_000], None);
        check_at_rest(&[8_000, 16_000, 36_000], Some(&[0, 1, 2]));
        check_at_rest(&[36_000, 4_500], Some(&[0, 1]));
        check_at_rest(&[36_000, 4_499], None);
        check_at_rest(&[4_000, 900_000, 3_000, 20_000], Some(&[0, 2, 3]));
        // Too little by itself for the next, but not together with others.
        check_at_rest(&[10, 1_000, 1_000], Some(&[0, 1, 2]));
        check_at_rest(&[10, 1_000], None);
        // No segment becomes larger than may be.
        check_at_rest(&[600_000, 600_000], None);
        check_at_rest(&[600_000, 400_000, 300_000], Some(&[1, 2]));
        check_at_rest(&[400_000, 400_000, 400_000], Some(&[0, 1]));
        let large = Candidate { rows: 10, ended: 0, bytes: 3 << 30, unlinked: 0 };
        let alike = [segment(9, 0, 0), Candidate::NEVER, segment(9, 0, 0)];
        assert_eq!(choose_at_rest(&alike), Some(vec![0, 2]), "what may not be read is left alone");
        assert_eq!(choose_at_rest(&[large, large]), None, "large values weigh as many records");
    }

    /// Whatever segments there are, merging at rest ends, within a bound on what is written, and with few segments.
    #[test]
    fn merging_at_rest_comes_to_an_end_and_writes_at_most_nine_times_what_is_new() {
        for seed in 0..300u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut next = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let mut segments: Vec<Candidate> = Vec::new();
            for _ in 0..30 {
                let rows = (next(1 << 18) >> next(18)) as u32 + 1;
                segments.insert(0, segment(rows, 0, 0));
                let mut steps = 0;
                while let Some(places) = choose_at_rest(&segments) {
                    let sizes: Vec<u64> = places.iter().map(|&place| segments[place].size()).collect();
                    let (sum, largest) = (sizes.iter().sum::<u64>(), sizes.iter().max().copied().unwrap_or(0));
                    assert!(places.len() >= 2 && sum <= MERGE_ROWS_MAX, "seed {seed}: {segments:?}");
                    assert!(sum <= 9 * (sum - largest), "seed {seed}: {segments:?}");
                    for &place in places.iter().rev() {
                        segments.remove(place);
                    }
                    segments.insert(0, segment(sum as u32, 0, 0));
                    steps += 1;
                    assert!(steps <= 30, "seed {seed}: {segments:?}");
                }
                // Of those that could be merged with anything each is more than eight times all smaller ones.
                let mut sizes: Vec<u64> = segments.iter().map(Candidate::size).collect();
                sizes.sort_unstable();
                let mut before = 0;
                for size in sizes {
                    assert!(before + size > MERGE_ROWS_MAX || size > 8 * before, "seed {seed}: {segments:?}");
                    before += size;
                }
            }
        }
    }

    /// Ingests records in flat segments, merging to rest after each, and counts how often a graph is built of a record.
    #[test]
    fn each_record_is_linked_about_twice_and_segments_stay_few() {
        let (mut segments, mut linked) = (Vec::new(), 0u64);
        for _ in 0..8 {
            segments.insert(0, segment(7_500, 0, 7_500));
            while let Some((_, places)) = choose(&segments, 1_024) {
                let rows = places.iter().map(|&place| segments[place].rows).sum();
                linked += u64::from(rows);
                for &place in places.iter().rev() {
                    segments.remove(place);
                }
                segments.insert(0, segment(rows, 0, 0));
            }
            assert!(segments.len() <= 8);
        }
        assert!(linked <= 60_000 * 2, "{linked}");
    }
}
