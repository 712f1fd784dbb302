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

impl Candidate {
    fn live(&self) -> u64 {
        u64::from(self.rows.saturating_sub(self.ended))
    }

    /// Grows by one with every fourfold size.
    fn tier(&self) -> u32 {
        let share = self.bytes / ROW_BYTES * self.live() / u64::from(self.rows.max(1));
        (self.live().max(share) / TIER_ROWS).max(1).ilog2() / 2
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
    }

    #[test]
    fn large_values_weigh_as_many_records() {
        let large = Candidate { rows: 10, ended: 0, bytes: 1 << 30, unlinked: 0 };
        check(&[large, segment(10, 0, 0), segment(10, 0, 0), segment(10, 0, 0)], None);
        check(&[large; 4], Some((3, &[0, 1, 2, 3])));
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
