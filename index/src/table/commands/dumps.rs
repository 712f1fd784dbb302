//! Dumps: a key's value as bytes, to be put elsewhere: in Redis' own form ([`rdb`]), so that values go to a Redis and come from
//! one. What Redis has no type for is in a form of our own:
//!
//! ```text
//!   tag of the kind (1), the value's bytes in a file, "loci" (4), version (2), xxh3 of all before it (8)
//! ```

use xxhash_rust::xxh3::xxh3_64;

use super::super::call::Call;
use super::super::keyspace::{Keyspace, Taken, TakenValue};
use super::{DENYOOM, Done, Failure, Keys, READONLY, Run, Spec, WRITE, int, is};
use crate::table::objects::Object;
use crate::table::rdb;

const ONE: Keys = Keys::Range(1, 1, 1);
const MAGIC: &[u8; 4] = b"loci";
const VERSION: u16 = 1;
/// Stands for a plain string, which is no object.
const STRING: u8 = 0;
const TRAILER: usize = 14;

pub(super) const SPECS: &[Spec] = &[
    Spec { name: "dump", arity: 2, flags: READONLY, keys: ONE, run: Run::Read(dump) },
    Spec { name: "restore", arity: -4, flags: WRITE | DENYOOM, keys: ONE, run: Run::Write(restore) },
];

fn encode(taken: &Taken) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(version) = rdb::write(&taken.value, &mut out) {
        rdb::seal(&mut out, version);
        return out;
    }
    out.clear();
    match &taken.value {
        TakenValue::String(value) => {
            out.push(STRING);
            out.extend_from_slice(value);
        }
        TakenValue::Object(object) => {
            out.push(object.tag());
            object.encode(&mut out);
        }
    }
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&xxh3_64(&out).to_le_bytes());
    out
}

fn decode(payload: &[u8], now: u64) -> Result<TakenValue, Failure> {
    if let Some(content) = rdb::unseal(payload) {
        return rdb::read(content, now).ok_or_else(|| "ERR Bad data format".into());
    }
    let foreign = || Failure::from("ERR DUMP payload version or checksum are wrong");
    let (value, trailer) = payload.split_last_chunk::<TRAILER>().ok_or_else(foreign)?;
    let (sealed, sum) = payload.split_at(payload.len() - 8);
    let ours = trailer[..4] == *MAGIC && trailer[4..6] == VERSION.to_le_bytes();
    if !ours || xxh3_64(sealed).to_le_bytes() != *sum {
        return Err(foreign());
    }
    let bad = || Failure::from("ERR Bad data format");
    match value.split_first().ok_or_else(bad)? {
        (&STRING, value) => Ok(TakenValue::String(value.into())),
        (&tag, value) => {
            let object = Object::decode(tag, value).filter(|object| !object.is_empty());
            object.map(TakenValue::Object).ok_or_else(bad)
        }
    }
}

fn dump(keyspace: &Keyspace, call: &mut Call<'_>) -> Done {
    let payload = keyspace.copy_of(call.args[1], call.now).map(|taken| encode(&taken));
    call.out.bulk_or_null(payload.as_deref());
    Ok(())
}

fn restore(keyspace: &mut Keyspace, call: &mut Call<'_>) -> Done {
    let (mut replace, mut absolute, mut idle, mut frequent) = (false, false, false, false);
    let mut words = call.args[4..].iter();
    while let Some(word) = words.next() {
        match () {
            () if is(word, "replace") => replace = true,
            () if is(word, "absttl") => absolute = true,
            // How much a key was used is found out anew.
            () if is(word, "idletime") && int(words.next().ok_or(Failure::Syntax)?)? < 0 => {
                return Err("ERR Invalid IDLETIME value, must be >= 0".into());
            }
            () if is(word, "idletime") && !frequent => idle = true,
            () if is(word, "freq") && !(0..=255).contains(&int(words.next().ok_or(Failure::Syntax)?)?) => {
                return Err("ERR Invalid FREQ value, must be >= 0 and <= 255".into());
            }
            () if is(word, "freq") && !idle => frequent = true,
            () => return Err(Failure::Syntax),
        }
    }
    let (key, life) = (call.args[1], int(call.args[2])?);
    if !replace && keyspace.contains(key, call.now) {
        return Err("BUSYKEY Target key name already exists.".into());
    }
    let life = u64::try_from(life).map_err(|_| Failure::from("ERR Invalid TTL value, must be >= 0"))?;
    let value = decode(call.args[3], call.now)?;
    let deadline = match life {
        0 => 0,
        life if absolute => life,
        life => life.saturating_add(call.now),
    };
    if deadline != 0 && deadline <= call.now {
        if keyspace.remove(key, call.at()) {
            keyspace.notify(b'g', "del", key);
        }
    } else {
        keyspace.put_copy(key, Taken { value, deadline, tags: Vec::new() }, call.at());
        keyspace.notify(b'g', "restore", key);
    }
    call.out.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::table::execute::tests::{Trial, text};
    use crate::table::tape::{Item, Items};

    #[test]
    fn what_was_dumped_comes_back_and_nothing_else_does() {
        let mut trial = Trial::new();
        for line in ["SET s text", "APPEND t long", "XADD x 1-1 a b", "XGROUP CREATE x g 0", "RL.WINDOW w 5 1000"] {
            assert!(!trial.line(line).starts_with("(error)"), "{line}");
        }
        for key in ["s", "t", "x", "w"] {
            let tape = trial.call(&[b"DUMP", key.as_bytes()]);
            let Some(Item::Bulk(payload)) = Items::new(tape.bytes()).next() else { unreachable!("{key} is there") };
            let mut restore =
                |to: &[u8], payload: &[u8]| text(trial.call(&[b"RESTORE", to, b"0", payload, b"REPLACE"]).bytes());
            assert_eq!(restore(b"copy", payload), "OK", "{key}");
            for bit in 0..payload.len() * 8 {
                let mut damaged = payload.to_vec();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(restore(b"no", &damaged), "(error) ERR DUMP payload version or checksum are wrong");
            }
            let again = trial.call(&[b"DUMP", b"copy"]);
            assert_eq!(again, tape, "{key}");
            assert_eq!(trial.line(&format!("TYPE {key}")), trial.line("TYPE copy"));
            assert_eq!(text(trial.call(&[b"RESTORE", b"copy", b"0", payload]).bytes()), {
                "(error) BUSYKEY Target key name already exists."
            });
        }
        assert_eq!(trial.line("EXISTS no"), "(integer) 0");
        assert_eq!(trial.line("RESTORE a -1 x"), "(error) ERR Invalid TTL value, must be >= 0");
        for (options, why) in [
            ("IDLETIME 5 FREQ 5", "ERR syntax error"),
            ("FREQ 5 IDLETIME 5", "ERR syntax error"),
            ("IDLETIME 5 IDLETIME 6", "ERR DUMP payload version or checksum are wrong"),
            ("FREQ 256", "ERR Invalid FREQ value, must be >= 0 and <= 255"),
        ] {
            assert_eq!(trial.line(&format!("RESTORE new 0 x {options}")), format!("(error) {why}"), "{options}");
        }
        assert_eq!(trial.line("DUMP nope"), "(nil)");
    }
}
