//! Lines of calls with their replies; where redis-server 7.0 knows the command, those are its.

use std::collections::BTreeSet;

use crate::table::execute::tests::Trial;

fn check(trial: &mut Trial, lines: &[(&str, &str)]) {
    for (line, reply) in lines {
        assert_eq!(trial.line(line), *reply, "{line}");
    }
}

#[test]
fn members_answer_as_they_should() {
    let mut trial = Trial::new();
    check(
        &mut trial,
        &[
            ("SADD s a b a", "(integer) 2"),
            ("SADD s b c", "(integer) 1"),
            ("SMEMBERS s", "~[\"a\" \"b\" \"c\"]"),
            ("SISMEMBER s a", "(integer) 1"),
            ("SISMEMBER s z", "(integer) 0"),
            ("SMISMEMBER s a z c", "[(integer) 1 (integer) 0 (integer) 1]"),
            ("SMISMEMBER nope a", "[(integer) 0]"),
            ("SCARD s", "(integer) 3"),
            ("SCARD nope", "(integer) 0"),
            ("SREM s a z", "(integer) 1"),
            ("SREM nope a", "(integer) 0"),
            ("SMEMBERS nope", "~[]"),
            ("SADD n 3 1 2 -7", "(integer) 4"),
            ("SMEMBERS n", "~[\"-7\" \"1\" \"2\" \"3\"]"),
            ("OBJECT ENCODING n", "\"intset\""),
            ("SADD n x", "(integer) 1"),
            ("OBJECT ENCODING n", "\"listpack\""),
            ("TYPE n", "set"),
            ("SMOVE s n b", "(integer) 1"),
            ("SMOVE s n b", "(integer) 0"),
            ("SMOVE s s c", "(integer) 1"),
            ("SMOVE nope n b", "(integer) 0"),
            ("SET t x", "OK"),
            ("SMOVE s t c", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("SMOVE nope t c", "(integer) 0"),
            ("SADD t x", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("SMOVE s fresh c", "(integer) 1"),
            ("EXISTS s", "(integer) 0"),
            ("SMEMBERS fresh", "~[\"c\"]"),
        ],
    );
}

#[test]
fn several_sets_answer_as_they_should() {
    check(
        &mut Trial::new(),
        &[
            ("SADD a 1 2 3 4", "(integer) 4"),
            ("SADD b 3 4 5", "(integer) 3"),
            ("SADD c 4 x", "(integer) 2"),
            ("SINTER a b", "~[\"3\" \"4\"]"),
            ("SINTER a b c", "~[\"4\"]"),
            ("SINTER a nope", "~[]"),
            ("SINTER a a", "~[\"1\" \"2\" \"3\" \"4\"]"),
            ("SINTERCARD 2 a b", "(integer) 2"),
            ("SINTERCARD 2 a b LIMIT 1", "(integer) 1"),
            ("SINTERCARD 2 a b LIMIT 0", "(integer) 2"),
            ("SINTERCARD 2 a b LIMIT -1", "(error) ERR LIMIT can't be negative"),
            ("SINTERCARD 0 a", "(error) ERR numkeys should be greater than 0"),
            ("SINTERCARD x a", "(error) ERR numkeys should be greater than 0"),
            ("SINTERCARD 1 a LIMIT x", "(error) ERR LIMIT can't be negative"),
            ("SINTERCARD 3 a b", "(error) ERR Number of keys can't be greater than number of args"),
            ("SINTERCARD 1 a b", "(error) ERR syntax error"),
            ("SINTERCARD 1 a LIMIT", "(error) ERR syntax error"),
            ("SUNION a b nope", "~[\"1\" \"2\" \"3\" \"4\" \"5\"]"),
            ("SDIFF a b", "~[\"1\" \"2\"]"),
            ("SDIFF a b c", "~[\"1\" \"2\"]"),
            ("SDIFF nope a", "~[]"),
            ("SDIFF a a a a a a a a", "~[]"),
            ("SUNIONSTORE d a c", "(integer) 5"),
            ("OBJECT ENCODING d", "\"listpack\""),
            ("SINTERSTORE d a b", "(integer) 2"),
            ("OBJECT ENCODING d", "\"intset\""),
            ("SDIFFSTORE a a b", "(integer) 2"),
            ("SMEMBERS a", "~[\"1\" \"2\"]"),
            ("SINTERSTORE d a c", "(integer) 0"),
            ("EXISTS d", "(integer) 0"),
            ("SET t x", "OK"),
            ("SUNIONSTORE t a b", "(integer) 5"),
            ("TYPE t", "set"),
            ("SET t x", "OK"),
            ("SINTER nope t", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("SUNION a t", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
        ],
    );
}

#[test]
fn chance_and_scans_answer_as_they_should() {
    let mut trial = Trial::new();
    check(
        &mut trial,
        &[
            ("SPOP nope", "(nil)"),
            ("SPOP nope 3", "~[]"),
            ("SRANDMEMBER nope", "(nil)"),
            ("SRANDMEMBER nope 3", "[]"),
            ("SADD s a", "(integer) 1"),
            ("SRANDMEMBER s", "\"a\""),
            ("SRANDMEMBER s 4", "[\"a\"]"),
            ("SRANDMEMBER s -4", "[\"a\" \"a\" \"a\" \"a\"]"),
            ("SRANDMEMBER s 0", "[]"),
            ("SRANDMEMBER s 1 2", "(error) ERR syntax error"),
            ("SRANDMEMBER s x", "(error) ERR value is not an integer or out of range"),
            ("SPOP s 0", "~[]"),
            ("SPOP s -1", "(error) ERR value is out of range, must be positive"),
            ("SPOP s 1 2", "(error) ERR syntax error"),
            ("SPOP s x", "(error) ERR value is out of range, must be positive"),
            ("SPOP s", "\"a\""),
            ("EXISTS s", "(integer) 0"),
            ("SSCAN s 0", "[\"0\" []]"),
            ("SSCAN s x", "(error) ERR invalid cursor"),
            ("SADD s 2 1 30", "(integer) 3"),
            ("SSCAN s 0 COUNT 1", "[\"0\" [\"1\" \"2\" \"30\"]]"),
            ("SSCAN s 0 MATCH 3*", "[\"0\" [\"30\"]]"),
            ("SSCAN s 0 NOVALUES", "(error) ERR NOVALUES option can only be used in HSCAN"),
        ],
    );
    for member in 0..600 {
        trial.line(&format!("SADD large m{member}"));
    }
    assert_eq!(trial.line("OBJECT ENCODING large"), "\"hashtable\"");
    assert_eq!(trial.line("SSCAN large 0 COUNT 2"), "[\"598\" [\"m599\" \"m598\"]]");
    let words =
        |reply: &str| reply.trim_matches(['~', '[', ']']).split(' ').map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(words(&trial.line("SRANDMEMBER large 250")).len(), 250);
    let popped = words(&trial.line("SPOP large 250"));
    let left = words(&trial.line("SMEMBERS large"));
    assert_eq!((popped.len(), left.len()), (250, 350));
    assert!(popped.is_disjoint(&left));
    assert_eq!(words(&trial.line("SPOP large 1000")), left);
    assert_eq!(trial.line("EXISTS large"), "(integer) 0");
}
