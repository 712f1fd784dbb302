//! Places: members of sorted sets whose scores are places on the earth, searched by distance.

use super::super::call::Call;
use super::super::keyspace::Keyspace;
use super::super::objects::Sorted;
use super::sorted::{When, add, read, write};
use super::sorted_ranges::store_at;
use super::{DENYOOM, Done, Failure, Keys, Spec, double, int, is, parse_double};
use crate::table::cells::{Place, Shape};

const ONE: Keys = Keys::Range(1, 1, 1);

pub(super) const SPECS: &[Spec] = &[
    write("geoadd", -5, ONE, DENYOOM, geoadd),
    read("geodist", -4, ONE, 0, geodist),
    read("geohash", -2, ONE, 0, geohash),
    read("geopos", -2, ONE, 0, geopos),
    read("geosearch", -7, ONE, 0, |keyspace, call| look(keyspace, call, Form::Search)),
    write("geosearchstore", -8, Keys::Range(1, 2, 1), DENYOOM, |keyspace, call| {
        look_or_keep(keyspace, call, Form::SearchStore)
    }),
    write("georadius", -6, Keys::Found(radius_keys), DENYOOM, |keyspace, call| {
        look_or_keep(keyspace, call, Form::Radius { storing: true })
    }),
    read("georadius_ro", -6, ONE, 0, |keyspace, call| look(keyspace, call, Form::Radius { storing: false })),
    write("georadiusbymember", -5, Keys::Found(member_keys), DENYOOM, |keyspace, call| {
        look_or_keep(keyspace, call, Form::Member { storing: true })
    }),
    read("georadiusbymember_ro", -5, ONE, 0, |keyspace, call| look(keyspace, call, Form::Member { storing: false })),
];

/// The key, and the one after the last word that says where to store.
fn keys_from(args: &[&[u8]], options: usize) -> Vec<usize> {
    let stores = |place: &usize| is(args[*place], "store") || is(args[*place], "storedist");
    let target = (options..args.len().saturating_sub(1)).rev().find(stores).map(|place| place + 1);
    std::iter::once(1).chain(target).collect()
}

fn radius_keys(args: &[&[u8]]) -> Vec<usize> {
    keys_from(args, 6)
}

fn member_keys(args: &[&[u8]]) -> Vec<usize> {
    keys_from(args, 5)
}

fn place_of(longitude: &[u8], latitude: &[u8]) -> Result<Place, Failure> {
    let (longitude, latitude) = (double(longitude)?, double(latitude)?);
    Place::new(longitude, latitude)
        .ok_or_else(|| format!("ERR invalid longitude,latitude pair {longitude:.6},{latitude:.6}").into())
}

/// How many meters a unit is.
fn unit(word: &[u8]) -> Result<f64, Failure> {
    match () {
        () if is(word, "m") => Ok(1.0),
        () if is(word, "km") => Ok(1000.0),
        () if is(word, "ft") => Ok(0.3048),
        () if is(word, "mi") => Ok(1609.34),
        () => Err("ERR unsupported unit provided. please use M, KM, FT, MI".into()),
    }
}

fn length(text: &[u8], otherwise: &'static str) -> Result<f64, Failure> {
    parse_double(text).ok_or(Failure::from(otherwise))
}

/// A radius with its unit: a shape, and the unit in meters.
fn circle(words: &[&[u8]]) -> Result<(Shape, f64), Failure> {
    let radius = length(words[0], "ERR need numeric radius")?;
    if radius < 0.0 {
        return Err("ERR radius cannot be negative".into());
    }
    let unit = unit(words[1])?;
    Ok((Shape::Circle(radius * unit), unit))
}

/// Width and height with their unit.
fn rectangle(words: &[&[u8]]) -> Result<(Shape, f64), Failure> {
    let (width, height) = (length(words[0], "ERR need numeric width")?, length(words[1], "ERR need numeric height")?);
    if width < 0.0 || height < 0.0 {
        return Err("ERR height or width cannot be negative".into());
    }
    let unit = unit(words[2])?;
    Ok((Shape::Box(width * unit, height * unit), unit))
}

fn geoadd(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (mut when, mut place) = (When::default(), 2);
    while let Some(word) = call.args.get(place) {
        match () {
            () if is(word, "nx") => when.nx = true,
            () if is(word, "xx") => when.xx = true,
            () if is(word, "ch") => when.ch = true,
            () => break,
        }
        place += 1;
    }
    let rest = &call.args[place..];
    if rest.is_empty() || !rest.len().is_multiple_of(3) || (when.nx && when.xx) {
        return Err(Failure::Syntax);
    }
    let pairs = rest.chunks_exact(3).map(|three| Ok((place_of(three[0], three[1])?.number() as f64, three[2])));
    let pairs = pairs.collect::<Result<Vec<_>, Failure>>()?;
    add(keyspace, call, when, &pairs)
}

fn geodist(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let unit = match call.args[4..] {
        [] => 1.0,
        [word] => unit(word)?,
        _ => return Err(Failure::Syntax),
    };
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    let place = |member: &[u8]| sorted.and_then(|sorted| sorted.score(member)).map(Place::of_number);
    match (place(call.args[2]), place(call.args[3])) {
        (Some(from), Some(to)) => bulk_distance(call, from.meters_to(to) / unit),
        _ => call.out.null(),
    }
    Ok(())
}

fn bulk_distance(call: &mut Call<'_>, distance: f64) {
    call.out.bulk(format!("{distance:.4}").as_bytes());
}

fn geohash(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    call.out.array(call.args.len() - 2);
    for member in &call.args[2..] {
        let text = sorted.and_then(|sorted| sorted.score(member)).map(|score| Place::of_number(score).text());
        call.out.bulk_or_null(text.as_ref().map(|text| &text[..]));
    }
    Ok(())
}

fn put_place(call: &mut Call<'_>, place: Place) {
    call.out.array(2);
    call.out.decimal(place.longitude);
    call.out.decimal(place.latitude);
}

fn geopos(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let sorted = keyspace.object::<Sorted>(call.args[1], call.now)?;
    call.out.array(call.args.len() - 2);
    for member in &call.args[2..] {
        match sorted.and_then(|sorted| sorted.score(member)) {
            Some(score) => put_place(call, Place::of_number(score)),
            None => call.out.null_array(),
        }
    }
    Ok(())
}

/// Which command searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Search,
    SearchStore,
    Radius { storing: bool },
    Member { storing: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    Near,
    Far,
}

/// What is searched for, and what is wanted of it.
struct Wanted<'a> {
    /// None where there is no key: then nothing is found.
    center: Option<Place>,
    shape: Option<(Shape, f64)>,
    order: Order,
    /// Zero: all.
    count: usize,
    any: bool,
    with_coord: bool,
    with_dist: bool,
    with_hash: bool,
    store: Option<&'a [u8]>,
    store_dist: bool,
}

struct Hit {
    member: Box<[u8]>,
    score: f64,
    meters: f64,
}

impl<'a> Wanted<'a> {
    fn new() -> Wanted<'a> {
        Wanted {
            center: None,
            shape: None,
            order: Order::Any,
            count: 0,
            any: false,
            with_coord: false,
            with_dist: false,
            with_hash: false,
            store: None,
            store_dist: false,
        }
    }

    fn of(call: &Call<'a>, form: Form, sorted: Option<&Sorted>) -> Result<Wanted<'a>, Failure> {
        let (args, mut wanted) = (call.args, Wanted::new());
        let member = |member: &[u8]| match sorted {
            None => Ok(None),
            Some(sorted) => match sorted.score(member) {
                Some(score) => Ok(Some(Place::of_number(score))),
                None => Err(Failure::from("ERR could not decode requested zset member")),
            },
        };
        let searching = matches!(form, Form::Search | Form::SearchStore);
        let storing = matches!(form, Form::Radius { storing: true } | Form::Member { storing: true });
        let (mut from_member, mut from_place) = (false, false);
        let mut words = match form {
            Form::Search => &args[2..],
            Form::SearchStore => {
                wanted.store = Some(args[1]);
                &args[3..]
            }
            Form::Radius { .. } => {
                wanted.center = Some(place_of(args[2], args[3])?);
                wanted.shape = Some(circle(&args[4..6])?);
                &args[6..]
            }
            Form::Member { .. } => {
                if sorted.is_some() {
                    wanted.center = member(args[2])?;
                    wanted.shape = Some(circle(&args[3..5])?);
                }
                &args[5..]
            }
        };
        while let Some((word, rest)) = words.split_first() {
            let mut taken = 0;
            match () {
                () if is(word, "withdist") => wanted.with_dist = true,
                () if is(word, "withhash") => wanted.with_hash = true,
                () if is(word, "withcoord") => wanted.with_coord = true,
                () if is(word, "any") => wanted.any = true,
                () if is(word, "asc") => wanted.order = Order::Near,
                () if is(word, "desc") => wanted.order = Order::Far,
                () if is(word, "count") && !rest.is_empty() => {
                    let count = int(rest[0])?;
                    wanted.count =
                        usize::try_from(count).ok().filter(|count| *count > 0).ok_or("ERR COUNT must be > 0")?;
                    taken = 1;
                }
                () if storing && (is(word, "store") || is(word, "storedist")) && !rest.is_empty() => {
                    wanted.store = Some(rest[0]);
                    wanted.store_dist = is(word, "storedist");
                    taken = 1;
                }
                () if form == Form::SearchStore && is(word, "storedist") => wanted.store_dist = true,
                () if searching && is(word, "frommember") && !rest.is_empty() && !from_place => {
                    (wanted.center, from_member, taken) = (member(rest[0])?, true, 1);
                }
                () if searching && is(word, "fromlonlat") && rest.len() >= 2 && !from_member => {
                    (wanted.center, from_place, taken) = (Some(place_of(rest[0], rest[1])?), true, 2);
                }
                () if searching && is(word, "byradius") && rest.len() >= 2 && !wanted.is_box() => {
                    (wanted.shape, taken) = (Some(circle(rest)?), 2);
                }
                () if searching && is(word, "bybox") && rest.len() >= 3 && !wanted.is_circle() => {
                    (wanted.shape, taken) = (Some(rectangle(rest)?), 3);
                }
                () => return Err(Failure::Syntax),
            }
            words = &rest[taken..];
        }
        let name = || String::from_utf8_lossy(args[0]);
        if wanted.store.is_some() && (wanted.with_coord || wanted.with_dist || wanted.with_hash) {
            let what = if form == Form::SearchStore { "GEOSEARCHSTORE" } else { "STORE option in GEORADIUS" };
            return Err(format!("ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options").into());
        }
        if searching && !(from_member || from_place) {
            return Err(format!("ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {}", name()).into());
        }
        if searching && wanted.shape.is_none() {
            return Err(format!("ERR exactly one of BYRADIUS and BYBOX can be specified for {}", name()).into());
        }
        if wanted.any && wanted.count == 0 {
            return Err("ERR the ANY argument requires COUNT argument".into());
        }
        if wanted.count > 0 && wanted.order == Order::Any && !wanted.any {
            wanted.order = Order::Near;
        }
        Ok(wanted)
    }

    fn is_box(&self) -> bool {
        matches!(self.shape, Some((Shape::Box(..), _)))
    }

    fn is_circle(&self) -> bool {
        matches!(self.shape, Some((Shape::Circle(_), _)))
    }

    /// What is found, as many as are wanted, in the order that is wanted.
    fn hits(&self, sorted: &Sorted) -> Vec<Hit> {
        let (Some(center), Some((shape, _))) = (self.center, self.shape) else { return Vec::new() };
        let most = if self.any { self.count } else { usize::MAX };
        let mut hits = Vec::new();
        for numbers in shape.ranges(center) {
            let below = |number: u64| sorted.count_by_score(|score| score < number as f64);
            for (member, score) in sorted.iter(below(numbers.start)..below(numbers.end)) {
                if hits.len() == most {
                    break;
                }
                if let Some(meters) = shape.meters(center, Place::of_number(score)) {
                    hits.push(Hit { member: member.into(), score, meters });
                }
            }
        }
        match self.order {
            Order::Any => {}
            Order::Near => hits.sort_by(|a, b| a.meters.total_cmp(&b.meters)),
            Order::Far => hits.sort_by(|a, b| b.meters.total_cmp(&a.meters)),
        }
        if self.count > 0 {
            hits.truncate(self.count);
        }
        hits
    }

    fn unit(&self) -> f64 {
        self.shape.map_or(1.0, |(_, unit)| unit)
    }

    fn put(&self, call: &mut Call<'_>, hits: &[Hit]) {
        let more = usize::from(self.with_dist) + usize::from(self.with_hash) + usize::from(self.with_coord);
        call.out.array(hits.len());
        for hit in hits {
            if more > 0 {
                call.out.array(more + 1);
            }
            call.out.bulk(&hit.member);
            if self.with_dist {
                bulk_distance(call, hit.meters / self.unit());
            }
            if self.with_hash {
                call.out.int(hit.score as i64);
            }
            if self.with_coord {
                put_place(call, Place::of_number(hit.score));
            }
        }
    }
}

fn search<'a>(keyspace: &Keyspace, call: &Call<'a>, form: Form) -> Result<(Wanted<'a>, Vec<Hit>), Failure> {
    let key = call.args[if form == Form::SearchStore { 2 } else { 1 }];
    let sorted = keyspace.object::<Sorted>(key, call.now)?;
    let wanted = Wanted::of(call, form, sorted)?;
    let hits = sorted.map(|sorted| wanted.hits(sorted)).unwrap_or_default();
    Ok((wanted, hits))
}

fn look(keyspace: &Keyspace, call: &mut Call<'_>, form: Form) -> Done {
    let (wanted, hits) = search(keyspace, call, form)?;
    wanted.put(call, &hits);
    Ok(())
}

fn look_or_keep(keyspace: &mut Keyspace, call: &mut Call<'_>, form: Form) -> Done {
    let (wanted, hits) = search(keyspace, call, form)?;
    let Some(target) = wanted.store else {
        wanted.put(call, &hits);
        return Ok(());
    };
    let mut result = Sorted::default();
    for hit in hits {
        result.insert(&hit.member, if wanted.store_dist { hit.meters / wanted.unit() } else { hit.score });
    }
    let event = if form == Form::SearchStore { "geosearchstore" } else { "georadiusstore" };
    store_at(keyspace, call, target, result, event);
    Ok(())
}
