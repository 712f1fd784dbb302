//! Which slots a call is about.
//!
//! ```text
//!   call --its keys--> [`slot`](super::slot()) of each --> no slot, one, or several
//! ```

use super::commands::{Keys, Spec, is, parse_int};
pub use super::slot::{SLOTS, slot};
use super::slot::{crc16, tag};

/// The slots of some keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// There are no keys.
    None,
    /// All of them are in this one.
    One(u16),
    /// They are in several, or it is not known in which.
    Several,
}

impl Span {
    /// Of these keys and others.
    #[must_use]
    pub fn and(self, other: Span) -> Span {
        match (self, other) {
            (Span::None, span) | (span, Span::None) => span,
            (Span::One(one), Span::One(other)) if one == other => self,
            _ => Span::Several,
        }
    }

    /// Of a call, with its name first.
    pub fn of(spec: &Spec, args: &[&[u8]]) -> Span {
        let of = |place: usize| args.get(place).map_or(Span::None, |key| Span::One(slot(key)));
        if matches!(spec.name, "sort" | "sort_ro") {
            let keys = spec.key_places(args).into_iter().map(of).fold(Span::None, Span::and);
            return sorted_by(args).map(of_pattern).fold(keys, Span::and);
        }
        match spec.keys {
            Keys::None => Span::None,
            Keys::Range(first, last, _) if first == last && first >= 0 => of(first as usize),
            _ => spec.key_places(args).into_iter().map(of).fold(Span::None, Span::and),
        }
    }
}

/// The patterns of BY and GET.
fn sorted_by<'a>(args: &'a [&'a [u8]]) -> impl Iterator<Item = &'a [u8]> {
    let mut place = 2;
    std::iter::from_fn(move || {
        while let Some(word) = args.get(place) {
            let before = place;
            place += match () {
                () if is(word, "by") || is(word, "get") || is(word, "store") => 2,
                () if is(word, "limit") => 3,
                () => 1,
            };
            if (is(word, "by") || is(word, "get")) && before + 1 < args.len() {
                return args.get(before + 1).copied();
            }
        }
        None
    })
}

/// Of the keys that a pattern of SORT names: known only if what is hashed of them stands before the element, which may have a tag
/// of its own.
fn of_pattern(pattern: &[u8]) -> Span {
    // Without an element in it, it names none.
    let Some(star) = pattern.iter().position(|&byte| byte == b'*') else { return Span::None };
    tag(&pattern[..star]).map_or(Span::Several, |tag| Span::One(crc16(tag) % SLOTS))
}

/// What the calls of a script may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// Any keys.
    Anything,
    /// Keys of this slot.
    Slot(u16),
    /// No keys.
    Nothing,
}

impl Within {
    /// As it is written in the log.
    pub fn text(self) -> String {
        match self {
            Within::Anything => "any".into(),
            Within::Slot(slot) => slot.to_string(),
            Within::Nothing => "none".into(),
        }
    }

    /// As it was written.
    pub fn parse(text: &[u8]) -> Option<Within> {
        match text {
            b"any" => Some(Within::Anything),
            b"none" => Some(Within::Nothing),
            number => {
                let slot = parse_int(number).and_then(|slot| u16::try_from(slot).ok())?;
                (slot < SLOTS).then_some(Within::Slot(slot))
            }
        }
    }

    /// Whether a call may be made.
    pub fn admits(self, spec: &Spec, args: &[&[u8]]) -> bool {
        let Within::Slot(slot) = self else {
            return self == Within::Anything || Span::of(spec, args) == Span::None && !is_of_all(spec);
        };
        match Span::of(spec, args) {
            Span::None => !is_of_all(spec),
            Span::One(its) => its == slot,
            Span::Several => false,
        }
    }
}

/// Whether a command is about all keys of a database, or about all of the server.
pub fn is_of_all(spec: &Spec) -> bool {
    matches!(spec.keys, Keys::None) && !matches!(spec.name, "publish" | "spublish")
}

#[cfg(test)]
mod tests {
    use super::super::commands;
    use super::*;

    fn span(line: &str) -> (&'static Spec, Span) {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let spec = commands::find(args[0]).expect("a command");
        (spec, Span::of(spec, &args))
    }

    #[test]
    fn a_call_is_about_the_slots_of_all_its_keys() {
        let foo = Span::One(slot(b"foo"));
        for (line, expected) in [
            ("GET foo", foo),
            ("MSET foo 1 a{foo} 2", foo),
            ("MSET foo 1 bar 2", Span::Several),
            ("RENAME foo bar", Span::Several),
            ("EVAL x 2 foo {foo}1 bar", foo),
            ("EVAL x 2 foo bar", Span::Several),
            ("EVAL x 0 bar", Span::None),
            ("DBSIZE", Span::None),
            ("ZUNIONSTORE {foo}d 2 foo {foo}", foo),
            ("ZUNIONSTORE bar 1 foo", Span::Several),
            ("XREAD COUNT 1 STREAMS foo x{foo} 0 0", foo),
            ("XREAD STREAMS foo bar 0 0", Span::Several),
            ("SORT foo", foo),
            ("SORT foo BY nosort GET #", foo),
            ("SORT foo BY w*", Span::Several),
            ("SORT foo BY w{foo}*", foo),
            ("SORT foo BY w{bar}*", Span::Several),
            ("SORT foo LIMIT 0 1 GET {foo}*->field STORE {foo}d", foo),
            ("SORT foo GET w*->{foo}", Span::Several),
            ("SORT foo GET w*{foo}", Span::Several),
            ("SORT foo GET {}{foo}*", Span::Several),
            ("SORT foo STORE bar", Span::Several),
            ("SORT_RO foo GET {*}", Span::Several),
            ("OBJECT HELP", Span::None),
        ] {
            assert_eq!(span(line).1, expected, "{line}");
        }
    }

    #[test]
    fn what_a_script_may_reach_is_written_and_read() {
        for within in [Within::Anything, Within::Nothing, Within::Slot(0), Within::Slot(SLOTS - 1)] {
            assert_eq!(Within::parse(within.text().as_bytes()), Some(within));
        }
        for wrong in ["", "16384", "-1", "Any", "01"] {
            assert_eq!(Within::parse(wrong.as_bytes()), None, "{wrong:?}");
        }
        for (line, anything, slot, nothing) in [
            ("GET foo", true, true, false),
            ("GET bar", true, false, false),
            ("MGET foo bar", true, false, false),
            ("DBSIZE", true, false, false),
            ("FLUSHDB", true, false, false),
            ("PUBLISH c m", true, true, true),
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let spec = commands::find(args[0]).expect("a command");
            let admitted = [Within::Anything, Within::Slot(super::slot(b"foo")), Within::Nothing]
                .map(|within| within.admits(spec, &args));
            assert_eq!(admitted, [anything, slot, nothing], "{line}");
        }
    }
}
