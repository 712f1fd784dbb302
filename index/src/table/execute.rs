//! Carrying calls out: one, or several that were packed for the log.

use super::call::Call;
use super::commands::{self, DENYOOM, Failure, Run, Spec};
use super::keyspace::{KEY_BYTES_MAX, Keyspace};
use super::tape::Tape;

/// When a call happens, for the call.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The log's clock, or a reader's: milliseconds since 1970.
    pub now: u64,
    /// The position in the log; for reads that of the view.
    pub version: u64,
    /// Which call of its command it is.
    pub number: u32,
}

/// The command of a call, if there is one and it takes so many arguments.
pub fn find(args: &[&[u8]]) -> Result<&'static Spec, Failure> {
    let name = args.first().copied().unwrap_or_default();
    let spec = commands::find(name).ok_or_else(|| unknown(args))?;
    if spec.takes(args.len()) {
        return Ok(spec);
    }
    Err(format!("ERR wrong number of arguments for '{}' command", spec.name).into())
}

/// As Redis says that there is no such command.
pub fn unknown(args: &[&[u8]]) -> Failure {
    let shown = |arg: &[u8]| {
        let text = String::from_utf8_lossy(&arg[..arg.len().min(128)]).into_owned();
        text.replace(['\r', '\n'], " ")
    };
    let name = args.first().map(|name| shown(name)).unwrap_or_default();
    let mut beginning = String::new();
    for arg in args.iter().skip(1) {
        if beginning.len() > 128 {
            break;
        }
        beginning.push_str(&format!("'{}' ", shown(arg)));
    }
    format!("ERR unknown command '{name}', with args beginning with: {beginning}").into()
}

/// Carries out a call that writes, or reads among calls that write. The reply, a failure too, is added to the tape.
pub fn write(keyspace: &mut Keyspace, spec: &Spec, args: &[&[u8]], moment: Moment, out: &mut Tape) {
    let (room, too_much) =
        if asks(spec) { (REPLY_BYTES_MAX, ASKED_TOO_MUCH) } else { (TAKEN_BYTES_MAX, TOOK_TOO_MUCH) };
    if !write_within(keyspace, spec, args, moment, room, out) {
        out.error(too_much);
    }
}

/// Whether a call answers with what stays where it is, which may be as much as is asked for.
pub fn asks(spec: &Spec) -> bool {
    matches!(spec.run, Run::Read(_)) || matches!(spec.name, "sort" | "georadius" | "georadiusbymember")
}

/// The same, with a reply of so many bytes at most. Whether there was room: if not, there is no reply, and what writes was carried out.
pub fn write_within(
    keyspace: &mut Keyspace,
    spec: &Spec,
    args: &[&[u8]],
    moment: Moment,
    room: usize,
    out: &mut Tape,
) -> bool {
    let Moment { now, version, number } = moment;
    let before = out.len();
    out.bound(room);
    let call = &mut Call { args, now, version, number, out };
    let done = match spec.run {
        Run::Read(run) => run(keyspace, call),
        Run::Write(_) if has_long_key(spec, args) => Err(too_long()),
        Run::Write(_) if spec.is(DENYOOM) && keyspace.has_grown() => Err(GROWN.into()),
        Run::Write(run) => run(keyspace, call),
        Run::Script | Run::Swap | Run::Door => Err(not_here(spec)),
    };
    let fits = out.unbound() || done.is_err();
    if !fits {
        out.truncate(before);
    }
    failed(done, before, out);
    fits
}

/// Carries out a call that only reads. The reply, a failure too, is added to the tape.
pub fn read(keyspace: &Keyspace, spec: &Spec, args: &[&[u8]], moment: Moment, out: &mut Tape) {
    let Moment { now, version, number } = moment;
    let before = out.len();
    out.bound(REPLY_BYTES_MAX);
    let call = &mut Call { args, now, version, number, out };
    let done = match spec.run {
        Run::Read(run) => run(keyspace, call),
        Run::Write(_) | Run::Script | Run::Swap | Run::Door => Err(not_here(spec)),
    };
    let done = if out.unbound() { done } else { done.and(Err(ASKED_TOO_MUCH.into())) };
    failed(done, before, out);
}

/// The most that the reply to a call takes that reads: the same may be asked for again and again in one call.
pub const REPLY_BYTES_MAX: usize = 64 << 20;
/// The same of a call that writes, which gives what it takes away.
pub const TAKEN_BYTES_MAX: usize = 512 << 20;
/// The most bytes that the calls of one command of the log may add besides what they bring along, as `SETRANGE` and `COPY` do.
pub const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// The same of calls that stand together, a transaction: they are to be carried out as a whole.
pub const GROWTH_TOGETHER_BYTES_MAX: u64 = 512 << 20;

const GROWN: &str = "OOM the calls that came together make the data grow too much (64 MiB, 512 MiB in a transaction): send fewer at \
                     a time";
/// What a call is answered whose reply would be too long.
pub const ASKED_TOO_MUCH: &str = "ERR the reply would take more than 64 MiB: ask for less at a time";
const TOOK_TOO_MUCH: &str = "ERR carried out, but the reply would take more than 512 MiB";

/// Whether a key is longer than it may be. Nobody can have such a key, so only writers have to look.
fn has_long_key(spec: &Spec, args: &[&[u8]]) -> bool {
    let long = |arg: &&[u8]| arg.len() > KEY_BYTES_MAX;
    args.iter().any(long) && spec.key_places(args).into_iter().filter_map(|place| args.get(place)).any(long)
}

fn too_long() -> Failure {
    format!("ERR a key may have at most {KEY_BYTES_MAX} bytes").into()
}

fn not_here(spec: &Spec) -> Failure {
    format!("ERR command '{}' is not allowed here", spec.name).into()
}

fn failed(done: Result<(), Failure>, before: usize, out: &mut Tape) {
    if let Err(failure) = done {
        out.truncate(before);
        out.error(failure.text());
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tape::{Item, Items};
    use super::*;

    /// A keyspace with a clock, to try commands on: each line is a call, its words apart by spaces.
    pub(crate) struct Trial {
        pub keyspace: Keyspace,
        pub now: u64,
        version: u64,
    }

    impl Trial {
        pub fn new() -> Trial {
            Trial { keyspace: Keyspace::new(7), now: 1_000_000, version: 0 }
        }

        pub fn call(&mut self, args: &[&[u8]]) -> Tape {
            let mut out = Tape::new();
            self.version += 1 << 16;
            let moment = Moment { now: self.now, version: self.version, number: 0 };
            match find(args) {
                Ok(spec) => write(&mut self.keyspace, spec, args, moment, &mut out),
                Err(failure) => out.error(failure.text()),
            }
            assert_eq!(self.keyspace.sum(), self.keyspace.sum_from_entries(), "after {args:?}");
            out
        }

        /// The reply to a line as text, in the way of a command line: `OK`, `(integer) 1`, `"x"`, `(nil)`, `[...]`.
        pub fn line(&mut self, line: &str) -> String {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            text(self.call(&args).bytes())
        }
    }

    /// A reply as text.
    pub(crate) fn text(tape: &[u8]) -> String {
        let mut items = Items::new(tape);
        let text = one(&mut items);
        assert!(items.rest().is_empty(), "one reply: {text}");
        text
    }

    fn one(items: &mut Items<'_>) -> String {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let many = |items: &mut Items<'_>, n: usize| (0..n).map(|_| one(items)).collect::<Vec<_>>().join(" ");
        match items.next().expect("a reply") {
            Item::Status(status) => lossy(status),
            Item::Error(error) => format!("(error) {}", lossy(error)),
            Item::Int(number) => format!("(integer) {number}"),
            Item::Bulk(bytes) | Item::Verbatim(bytes) => format!("{:?}", lossy(bytes)),
            Item::BigNumber(digits) => format!("(big) {}", lossy(digits)),
            Item::Null | Item::NullArray => "(nil)".into(),
            Item::Array(n) => format!("[{}]", many(items, n)),
            Item::Set(n) => format!("~[{}]", many(items, n)),
            Item::Map(n) | Item::Pairs(n) | Item::Entries(n) => format!("{{{}}}", many(items, n * 2)),
            Item::Double(number) | Item::Decimal(number) => format!("(double) {number}"),
            Item::Bool(truth) => format!("(bool) {truth}"),
        }
    }

    #[test]
    fn strings_and_keys_answer_as_they_should() {
        let mut trial = Trial::new();
        for (line, reply) in [
            ("SET a 1", "OK"),
            ("get a", "\"1\""),
            ("INCRBY a 41", "(integer) 42"),
            ("APPEND a 7", "(integer) 3"),
            ("GET a", "\"427\""),
            ("SET a x NX", "(nil)"),
            ("SET a y XX GET", "\"427\""),
            ("SETRANGE a 3 z", "(integer) 4"),
            ("GETRANGE a 0 -1", "\"y\\0\\0z\""),
            ("PEXPIRE a 100", "(integer) 1"),
            ("PTTL a", "(integer) 100"),
            ("RENAME a b", "OK"),
            ("EXISTS a b b", "(integer) 2"),
            ("PTTL b", "(integer) 100"),
            ("MSET p 1 q 2", "OK"),
            ("MGET p nope q", "[\"1\" (nil) \"2\"]"),
            ("DEL p q nope", "(integer) 2"),
            ("SET s v EX 0", "(error) ERR invalid expire time in 'set' command"),
            ("MSETEX 2 n 1 m 2 NX EX 5", "(integer) 1"),
            ("MSETEX 1 n 3 NX", "(integer) 0"),
            ("MSETEX 2 n 3 m", "(error) ERR wrong number of key-value pairs"),
            ("MSETEX 0 n 3", "(error) ERR invalid numkeys value"),
            ("MSETEX 1 n 3 KEEPTTL", "(integer) 1"),
            ("PTTL n", "(integer) 5000"),
            ("SET late v PXAT 99999999999501", "OK"),
            ("EXPIRETIME late", "(integer) 100000000000"),
            ("PEXPIRETIME late", "(integer) 99999999999501"),
            ("DEL late", "(integer) 1"),
            ("SET m 1 EXAT 1", "OK"),
            ("DEL n m", "(integer) 1"),
            ("SET n v NX NX", "OK"),
            ("SET n v NX XX", "(error) ERR syntax error"),
            ("SET n v EX 5 ex 6", "OK"),
            ("SET n v EX 5 PX 6", "(error) ERR syntax error"),
            ("SET n v KEEPTTL EX 6", "(error) ERR syntax error"),
            ("DEL n", "(integer) 1"),
            ("ZADD z 1e308 a", "(integer) 1"),
            ("ZRANGEBYSCORE z -inf 1e400", "[\"a\"]"),
            ("ZCOUNT z (1e400 +inf", "(integer) 0"),
            ("ZCOUNT z \t-0x1p4 \n1e308", "(integer) 1"),
            ("ZCOUNT z 0 7\t", "(error) ERR min or max is not a float"),
            ("ZADD z 1e400 a", "(error) ERR value is not a valid float"),
            ("DEL z", "(integer) 1"),
            ("NOPE x", "(error) ERR unknown command 'NOPE', with args beginning with: 'x' "),
            ("GET", "(error) ERR wrong number of arguments for 'get' command"),
            ("SET i 10 IFEQ 9", "(nil)"),
            ("INCRBYFLOAT f 10.5", "\"10.5\""),
            ("LCS b f", "\"\""),
            ("DBSIZE", "(integer) 2"),
        ] {
            assert_eq!(trial.line(line), reply, "{line}");
        }
        trial.now += 101;
        assert_eq!(trial.line("GET b"), "(nil)");
        assert_eq!(trial.keyspace.due(trial.now + 1_000, 10), [Box::from(&b"b"[..])]);
    }
}
