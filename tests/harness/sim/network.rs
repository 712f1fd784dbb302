//! The network between members: messages are lost, doubled, damaged, late, and so out of order; links are cut.
//!
//! What travels is bytes, encoded and decoded as on a wire.

use super::{MICROS, MILLIS, Nanos};
use crate::chance::Chance;

/// How the network behaves.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Of ten thousand messages so many are lost.
    pub lost: u64,
    /// So many are doubled.
    pub doubled: u64,
    /// So many arrive with a flipped bit.
    pub damaged: u64,
    /// The least time on the way.
    pub delay: Nanos,
    /// How much longer most messages take.
    pub jitter: Nanos,
    /// Of ten thousand messages so many take far longer.
    pub late: u64,
    /// How much longer.
    pub lateness: Nanos,
}

impl Weather {
    /// Draws what a seed's network is like.
    pub fn draw(chance: &mut Chance) -> Weather {
        let per_mille = |chance: &mut Chance, most: u64| match chance.below(3) {
            0 => 0,
            1 => chance.below(most / 10 + 1),
            _ => chance.below(most + 1),
        };
        Weather {
            lost: per_mille(chance, 1500),
            doubled: per_mille(chance, 1000),
            damaged: per_mille(chance, 100),
            delay: chance.below(2 * MILLIS) + 20 * MICROS,
            jitter: [MICROS, MILLIS, 10 * MILLIS, 60 * MILLIS][chance.index(4)],
            late: per_mille(chance, 500),
            lateness: [50 * MILLIS, 300 * MILLIS, 1500 * MILLIS][chance.index(3)],
        }
    }

    /// Fair.
    pub fn fair() -> Weather {
        Weather { lost: 0, doubled: 0, damaged: 0, delay: 200 * MICROS, jitter: MILLIS, late: 0, lateness: 0 }
    }
}

/// All links between members.
pub struct Network {
    /// How it behaves just now.
    pub weather: Weather,
    /// From, to: whether nothing gets through.
    cut: Vec<Vec<bool>>,
    /// From, to: what was sent before this is lost.
    reset: Vec<Vec<Nanos>>,
}

impl Network {
    /// Between so many.
    pub fn new(members: usize, weather: Weather) -> Network {
        Network { weather, cut: vec![vec![false; members]; members], reset: vec![vec![0; members]; members] }
    }

    /// Whether a link is cut.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from][to]
    }

    /// Cuts a link in one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cut[from][to] = true;
    }

    /// Cuts everything between two sides.
    pub fn split(&mut self, is_left: impl Fn(usize) -> bool) {
        for from in 0..self.cut.len() {
            for to in 0..self.cut.len() {
                self.cut[from][to] |= is_left(from) != is_left(to);
            }
        }
    }

    /// The links of one machine work again.
    pub fn join(&mut self, at: usize) {
        self.cut[at].fill(false);
        self.cut.iter_mut().for_each(|links| links[at] = false);
    }

    /// Two sides reach each other only through one machine.
    pub fn bridge(&mut self, bridge: usize, is_left: impl Fn(usize) -> bool) {
        self.split(is_left);
        self.join(bridge);
    }

    /// All that is on its way between two machines is lost.
    pub fn reset(&mut self, one: usize, other: usize, now: Nanos) {
        (self.reset[one][other], self.reset[other][one]) = (now, now);
    }

    /// Whether what was sent then is lost.
    pub fn is_reset(&self, from: usize, to: usize, sent: Nanos) -> bool {
        sent < self.reset[from][to]
    }

    /// All links work.
    pub fn heal(&mut self) {
        self.cut.iter_mut().for_each(|links| links.fill(false));
    }

    /// How long each copy of a message is on its way; none: it is lost.
    pub fn travel(&self, chance: &mut Chance, from: usize, to: usize) -> Vec<Nanos> {
        let weather = &self.weather;
        if self.is_cut(from, to) || chance.below(10_000) < weather.lost {
            return Vec::new();
        }
        let copies = if chance.below(10_000) < weather.doubled { 2 } else { 1 };
        let delay = |chance: &mut Chance| {
            let late = if chance.below(10_000) < weather.late { chance.below(weather.lateness + 1) } else { 0 };
            weather.delay + chance.below(weather.jitter + 1) + late
        };
        (0..copies).map(|_| delay(chance)).collect()
    }
}
