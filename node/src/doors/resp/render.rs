//! Rendering: a reply on a tape, as the client's protocol writes it.
//!
//! | on the tape | protocol 3 | protocol 2 |
//! |---|---|---|
//! | pairs | an array of two-element arrays | one flat array |
//! | entries | a map | an array of two-element arrays |
//! | all else | as it is | as the writer translates it |

use loci_index::table::tape::{Item, Items, decimals};
use loci_wire::resp::{Protocol, Writer};

/// Pairs inside pairs; no command nests them.
const DEPTH_MAX: usize = 8;

/// Writes the next reply of a tape. False: the tape ended within it.
pub fn reply(items: &mut Items<'_>, out: &mut Writer) -> bool {
    at_depth(items, out, 0)
}

fn at_depth(items: &mut Items<'_>, out: &mut Writer, depth: usize) -> bool {
    let mut left = 1usize;
    while left > 0 {
        left -= 1;
        let Some(item) = items.next() else { return false };
        match item {
            Item::Status(text) => out.status(text),
            Item::Error(text) => out.error(text),
            Item::Int(number) => out.int(number),
            Item::Bulk(bytes) => out.bulk(bytes),
            Item::Null => out.null(),
            Item::NullArray => out.null_array(),
            Item::Decimal(number) if out.protocol() == Protocol::Two => out.bulk(decimals(number).as_bytes()),
            Item::Double(number) | Item::Decimal(number) => out.double(number),
            Item::Bool(truth) => out.bool(truth),
            Item::BigNumber(digits) => out.big_number(digits),
            Item::Verbatim(text) => out.verbatim(*b"txt", text),
            Item::Array(count) => {
                out.array(count);
                left += count;
            }
            Item::Set(count) => {
                out.set(count);
                left += count;
            }
            Item::Map(count) => {
                out.map(count);
                left += 2 * count;
            }
            Item::Pairs(count) if out.protocol() == Protocol::Two => {
                out.array(2 * count);
                left += 2 * count;
            }
            Item::Entries(count) if out.protocol() == Protocol::Three => {
                out.map(count);
                left += 2 * count;
            }
            Item::Pairs(count) | Item::Entries(count) => {
                if depth == DEPTH_MAX {
                    return false;
                }
                out.array(count);
                for _ in 0..count {
                    out.array(2);
                    if !at_depth(items, out, depth + 1) || !at_depth(items, out, depth + 1) {
                        return false;
                    }
                }
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use loci_index::table::tape::Tape;

    use super::*;

    fn check(write: impl FnOnce(&mut Tape), two: &str, three: &str) {
        let mut tape = Tape::new();
        write(&mut tape);
        for (protocol, expected) in [(Protocol::Two, two), (Protocol::Three, three)] {
            let (mut items, mut out) = (tape.items(), Writer::new(protocol));
            assert!(reply(&mut items, &mut out));
            assert!(items.rest().is_empty());
            assert_eq!(String::from_utf8_lossy(out.bytes()).replace("\r\n", " "), expected);
        }
    }

    #[test]
    fn pairs_and_entries_look_different_in_each_protocol() {
        let scored = |tape: &mut Tape| {
            tape.bulk(b"a");
            tape.double(1.5);
        };
        check(
            |tape| {
                tape.pairs(1);
                scored(tape);
            },
            "*2 $1 a $3 1.5 ",
            "*1 *2 $1 a ,1.5 ",
        );
        check(
            |tape| {
                tape.entries(1);
                scored(tape);
            },
            "*1 *2 $1 a $3 1.5 ",
            "%1 $1 a ,1.5 ",
        );
        check(
            |tape| {
                tape.array(2);
                tape.map(1);
                scored(tape);
                tape.null();
            },
            "*2 *2 $1 a $3 1.5 $-1 ",
            "*2 %1 $1 a ,1.5 _ ",
        );
    }

    #[test]
    fn a_number_of_any_size_is_one_where_the_protocol_has_such_numbers() {
        let digits = "12345678901234567890";
        check(|tape| tape.big_number(digits.as_bytes()), &format!("$20 {digits} "), &format!("({digits} "));
    }

    #[test]
    fn a_tape_that_ends_early_is_noticed() {
        let mut tape = Tape::new();
        tape.pairs(1);
        tape.bulk(b"a");
        assert!(!reply(&mut tape.items(), &mut Writer::new(Protocol::Three)));
    }
}
