//! Places on the earth as cells: a longitude and a latitude in one number, and which cells cover a search.
//!
//! ```text
//!   north west | north | north east        the cell of the centre and its neighbours, of a size that they cover
//!   west       | cell  | east              what is searched; those that the search does not reach are left out
//!   south west | south | south east
//! ```
//!
//! A cell halves the longitudes and the latitudes in turn, 26 times each, so that near places have near numbers and a cell
//! of fewer steps is a range of numbers. Numbers, sizes and the radius of the earth are those of Redis, whose clients keep
//! such numbers as scores.
//!
//! Sine and its like come from a library that computes the same on every machine: whether a place is within a distance,
//! and the distance, may become part of what members of a shard agree on.

use std::ops::Range;

/// The highest longitude; the lowest is its negative.
pub const LONGITUDE_MAX: f64 = 180.0;
/// The highest latitude of the projection, which is nearly square.
pub const LATITUDE_MAX: f64 = 85.05112878;
/// How many times a place's longitudes and latitudes are halved.
const STEPS: u32 = 26;
const EARTH_RADIUS_METERS: f64 = 6372797.560856;
/// Half the length of the equator in the projection.
const MERCATOR_MAX_METERS: f64 = 20037726.37;

/// A place, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// From west to east.
    pub longitude: f64,
    /// From south to north.
    pub latitude: f64,
}

/// A part of the earth: the number of its steps first bits of longitude and latitude.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    bits: u64,
    steps: u32,
}

/// Edges of a part of the earth.
struct Edges {
    west: f64,
    east: f64,
    south: f64,
    north: f64,
}

/// Every second bit, from the lowest on.
const LATITUDE_BITS: u64 = 0x5555_5555_5555_5555;

/// Spreads the bits of a number, so that there is room for another's between.
fn spread(number: u32) -> u64 {
    let mut bits = u64::from(number);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, LATITUDE_BITS),
    ] {
        bits = (bits | (bits << shift)) & mask;
    }
    bits
}

/// The number that was spread to every second bit.
fn gather(bits: u64) -> u32 {
    let mut bits = bits & LATITUDE_BITS;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        bits = (bits | (bits >> shift)) & mask;
    }
    bits as u32
}

fn encode(place: Place, latitude_max: f64, steps: u32) -> u64 {
    let part = |at: f64, max: f64| ((at + max) / (2.0 * max) * (1u64 << steps) as f64) as u32;
    let (longitude, latitude) = (part(place.longitude, LONGITUDE_MAX), part(place.latitude, latitude_max));
    spread(latitude) | (spread(longitude) << 1)
}

impl Cell {
    fn of(place: Place, steps: u32) -> Cell {
        Cell { bits: encode(place, LATITUDE_MAX, steps), steps }
    }

    fn edges(self) -> Edges {
        let (latitude, longitude) = (f64::from(gather(self.bits)), f64::from(gather(self.bits >> 1)));
        let all = (1u64 << self.steps) as f64;
        let edge = |part: f64, max: f64| -max + part / all * (2.0 * max);
        Edges {
            west: edge(longitude, LONGITUDE_MAX),
            east: edge(longitude + 1.0, LONGITUDE_MAX),
            south: edge(latitude, LATITUDE_MAX),
            north: edge(latitude + 1.0, LATITUDE_MAX),
        }
    }

    /// So many cells to the east and to the north; the earth is round in both directions.
    fn moved(self, east: i32, north: i32) -> Cell {
        let by =
            |at: u32, by: i32| if by == 0 { at } else { at.wrapping_add_signed(by) & (u32::MAX >> (32 - self.steps)) };
        let (longitude, latitude) = (by(gather(self.bits >> 1), east), by(gather(self.bits), north));
        Cell { bits: spread(latitude) | (spread(longitude) << 1), ..self }
    }

    /// The numbers of the places within.
    fn numbers(self) -> Range<u64> {
        let shift = 2 * (STEPS - self.steps);
        self.bits << shift..(self.bits + 1) << shift
    }
}

impl Place {
    /// If both are in their ranges.
    pub fn new(longitude: f64, latitude: f64) -> Option<Place> {
        let within =
            (-LONGITUDE_MAX..=LONGITUDE_MAX).contains(&longitude) && (-LATITUDE_MAX..=LATITUDE_MAX).contains(&latitude);
        within.then_some(Place { longitude, latitude })
    }

    /// Its number: a whole one, and small enough to be a score.
    pub fn number(self) -> u64 {
        Cell::of(self, STEPS).bits
    }

    /// The middle of the cell with that number.
    pub fn of_number(score: f64) -> Place {
        let edges = Cell { bits: score as u64, steps: STEPS }.edges();
        Place {
            longitude: ((edges.west + edges.east) / 2.0).clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
            latitude: ((edges.south + edges.north) / 2.0).clamp(-LATITUDE_MAX, LATITUDE_MAX),
        }
    }

    /// As people write it: eleven characters, each of five bits, the last always zero.
    pub fn text(self) -> [u8; 11] {
        const LETTERS: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = encode(self, 90.0, STEPS);
        let mut text = [LETTERS[0]; 11];
        for (place, letter) in text.iter_mut().take(10).enumerate() {
            *letter = LETTERS[(bits >> (47 - 5 * place)) as usize & 31];
        }
        text
    }

    /// How far it is to another, in meters, on a ball.
    pub fn meters_to(self, other: Place) -> f64 {
        let v = libm::sin((radians(other.longitude) - radians(self.longitude)) / 2.0);
        if v == 0.0 {
            return self.meters_north_to(other);
        }
        let (from, to) = (radians(self.latitude), radians(other.latitude));
        let u = libm::sin((to - from) / 2.0);
        let a = u * u + libm::cos(from) * libm::cos(to) * v * v;
        2.0 * EARTH_RADIUS_METERS * libm::asin(a.sqrt())
    }

    fn meters_north_to(self, other: Place) -> f64 {
        EARTH_RADIUS_METERS * (radians(other.latitude) - radians(self.latitude)).abs()
    }
}

fn radians(degrees: f64) -> f64 {
    degrees * (std::f64::consts::PI / 180.0)
}

fn degrees(radians: f64) -> f64 {
    radians / (std::f64::consts::PI / 180.0)
}

/// What is searched around a place; lengths in meters.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// All that is no farther.
    Circle(f64),
    /// Width from west to east, height from south to north.
    Box(f64, f64),
}

impl Shape {
    /// How far a place is from the centre, if it is within.
    pub fn meters(self, center: Place, place: Place) -> Option<f64> {
        match self {
            Shape::Circle(radius) => Some(center.meters_to(place)).filter(|meters| *meters <= radius),
            Shape::Box(width, height) => {
                let beside = Place { longitude: center.longitude, latitude: place.latitude };
                let within = place.meters_north_to(center) <= height / 2.0 && place.meters_to(beside) <= width / 2.0;
                within.then(|| center.meters_to(place))
            }
        }
    }

    fn edges(self, center: Place) -> Edges {
        let (half_width, half_height) = match self {
            Shape::Circle(radius) => (radius, radius),
            Shape::Box(width, height) => (width / 2.0, height / 2.0),
        };
        let up = degrees(half_height / EARTH_RADIUS_METERS);
        let aside = |latitude: f64| degrees(half_width / EARTH_RADIUS_METERS / libm::cos(radians(latitude)));
        // The side that is nearer to the pole needs more degrees.
        let aside = if center.latitude < 0.0 { aside(center.latitude - up) } else { aside(center.latitude + up) };
        Edges {
            west: center.longitude - aside,
            east: center.longitude + aside,
            south: center.latitude - up,
            north: center.latitude + up,
        }
    }

    /// Ranges of numbers that hold all that is within, in the order in which they are to be looked through.
    pub fn ranges(self, center: Place) -> Vec<Range<u64>> {
        let reach = match self {
            Shape::Circle(radius) => radius,
            Shape::Box(width, height) => ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt(),
        };
        let (wanted, mut steps) = (self.edges(center), steps_for(reach, center.latitude));
        let mut cell = Cell::of(center, steps);
        let too_small = cell.moved(0, 1).edges().north < wanted.north
            || cell.moved(0, -1).edges().south > wanted.south
            || cell.moved(1, 0).edges().east < wanted.east
            || cell.moved(-1, 0).edges().west > wanted.west;
        if steps > 1 && too_small {
            steps -= 1;
            cell = Cell::of(center, steps);
        }
        let edges = cell.edges();
        let mut cells: Vec<Cell> = Vec::with_capacity(9);
        let mut last = None;
        for (east, north) in [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)] {
            let unreached = (north < 0 && edges.south < wanted.south)
                || (north > 0 && edges.north > wanted.north)
                || (east < 0 && edges.west < wanted.west)
                || (east > 0 && edges.east > wanted.east);
            let moved = cell.moved(east, north);
            // With few steps a cell is its own neighbour's neighbour.
            if !(steps >= 2 && unreached) && last != Some(moved) {
                cells.push(moved);
                last = (east, north).ne(&(0, 0)).then_some(moved);
            }
        }
        cells.into_iter().map(Cell::numbers).collect()
    }
}

/// Of which size a cell and its neighbours reach so far.
fn steps_for(meters: f64, latitude: f64) -> u32 {
    if meters == 0.0 {
        return STEPS;
    }
    let (mut meters, mut steps) = (meters, 1i32);
    while meters < MERCATOR_MAX_METERS {
        meters *= 2.0;
        steps += 1;
    }
    steps -= 2;
    // Towards the poles a degree of longitude is shorter.
    steps -= i32::from(latitude.abs() > 66.0) + i32::from(latitude.abs() > 80.0);
    steps.clamp(1, STEPS as i32) as u32
}
