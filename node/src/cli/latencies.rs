//! How long calls took, from many callers: percentiles and rate.

use std::time::Duration;

/// Every call's time, in microseconds; a measurement has a few million at most.
#[derive(Debug, Clone, Default)]
pub struct Latencies {
    micros: Vec<u32>,
}

impl Latencies {
    pub fn add(&mut self, time: Duration) {
        self.micros.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    pub fn merge(&mut self, other: Latencies) {
        self.micros.extend(other.micros);
    }

    pub fn count(&self) -> usize {
        self.micros.len()
    }

    /// Those within which `percent` of the calls were done, for each percent; zero without calls.
    pub fn percentiles<const N: usize>(&self, percents: [f64; N]) -> [Duration; N] {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        percents.map(|percent| {
            let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
            let micros = sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0);
            Duration::from_micros(u64::from(micros))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_rank() {
        let mut latencies = Latencies::default();
        for micros in (1..=100).rev() {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!(latencies.percentiles([50.0, 99.0, 100.0]).map(|time| time.as_micros()), [50, 99, 100]);
        assert_eq!(Latencies::default().percentiles([50.0]), [Duration::ZERO]);
    }
}
