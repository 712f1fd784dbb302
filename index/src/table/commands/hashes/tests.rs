//! Lines of calls with their replies; where redis-server 7.0 knows the command, those are its.

use crate::table::execute::tests::Trial;

fn check(trial: &mut Trial, lines: &[(&str, &str)]) {
    for (line, reply) in lines {
        assert_eq!(trial.line(line), *reply, "{line}");
    }
}

#[test]
fn fields_answer_as_they_should() {
    check(
        &mut Trial::new(),
        &[
            ("HSET h a 1 b 2", "(integer) 2"),
            ("HSET h a 3 c 4", "(integer) 1"),
            ("HSET h a", "(error) ERR wrong number of arguments for 'hset' command"),
            ("HMSET h a", "(error) ERR wrong number of arguments for 'hmset' command"),
            ("HMSET h d 5", "OK"),
            ("HMSET h d 5 e", "(error) ERR wrong number of arguments for 'hmset' command"),
            ("HGETALL h", "{\"a\" \"3\" \"b\" \"2\" \"c\" \"4\" \"d\" \"5\"}"),
            ("HKEYS h", "[\"a\" \"b\" \"c\" \"d\"]"),
            ("HVALS h", "[\"3\" \"2\" \"4\" \"5\"]"),
            ("HGET h a", "\"3\""),
            ("HGET h nope", "(nil)"),
            ("HGET nope a", "(nil)"),
            ("HMGET h a nope c", "[\"3\" (nil) \"4\"]"),
            ("HMGET nope a b", "[(nil) (nil)]"),
            ("HGETALL nope", "{}"),
            ("HKEYS nope", "[]"),
            ("HLEN h", "(integer) 4"),
            ("HEXISTS h a", "(integer) 1"),
            ("HEXISTS h z", "(integer) 0"),
            ("HSETNX h a 9", "(integer) 0"),
            ("HSETNX h z 99", "(integer) 1"),
            ("HSTRLEN h z", "(integer) 2"),
            ("HSTRLEN h y", "(integer) 0"),
            ("HINCRBY h z 1", "(integer) 100"),
            ("HINCRBY h new -5", "(integer) -5"),
            ("HINCRBY h new x", "(error) ERR value is not an integer or out of range"),
            ("HINCRBY h new -9223372036854775808", "(error) ERR increment or decrement would overflow"),
            ("HSET h text t", "(integer) 1"),
            ("HINCRBY h text 1", "(error) ERR hash value is not an integer"),
            ("HINCRBYFLOAT h text 1", "(error) ERR hash value is not a float"),
            ("HINCRBYFLOAT h f 10.5", "\"10.5\""),
            ("HINCRBYFLOAT h f 5.0e3", "\"5010.5\""),
            ("HINCRBYFLOAT h f inf", "(error) ERR value is NaN or Infinity"),
            ("HINCRBYFLOAT h f x", "(error) ERR value is not a valid float"),
            ("HDEL h a b nope c d z new text", "(integer) 7"),
            ("HDEL h f", "(integer) 1"),
            ("EXISTS h", "(integer) 0"),
            ("HDEL h f", "(integer) 0"),
            ("SET s x", "OK"),
            ("HGET s a", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("HSET s a 1", "(error) WRONGTYPE Operation against a key holding the wrong kind of value"),
            ("HINCRBY nope a x", "(error) ERR value is not an integer or out of range"),
            ("EXISTS nope", "(integer) 0"),
            ("HSET t f 1", "(integer) 1"),
            ("OBJECT ENCODING t", "\"listpack\""),
            ("TYPE t", "hash"),
            ("COPY t u", "(integer) 1"),
            ("HGETALL u", "{\"f\" \"1\"}"),
        ],
    );
}

#[test]
fn chance_and_scans_answer_as_they_should() {
    let mut trial = Trial::new();
    check(
        &mut trial,
        &[
            ("HRANDFIELD h", "(nil)"),
            ("HRANDFIELD h 2", "[]"),
            ("HSCAN h 0", "[\"0\" []]"),
            ("HSCAN h x", "(error) ERR invalid cursor"),
            ("HSET h a 1", "(integer) 1"),
            ("HRANDFIELD h", "\"a\""),
            ("HRANDFIELD h 5", "[\"a\"]"),
            ("HRANDFIELD h -3", "[\"a\" \"a\" \"a\"]"),
            ("HRANDFIELD h -2 WITHVALUES", "{\"a\" \"1\" \"a\" \"1\"}"),
            ("HRANDFIELD h 0 WITHVALUES", "[]"),
            ("HRANDFIELD h 1 NOPE", "(error) ERR syntax error"),
            ("HRANDFIELD h 1 WITHVALUES x", "(error) ERR syntax error"),
            ("HRANDFIELD h x", "(error) ERR value is not an integer or out of range"),
            ("HRANDFIELD h -9223372036854775807 WITHVALUES", "(error) ERR value is out of range"),
            ("HSET h b 2 c 3", "(integer) 2"),
            ("HSCAN h 0 COUNT 1", "[\"0\" [\"a\" \"1\" \"b\" \"2\" \"c\" \"3\"]]"),
            ("HSCAN h 0 MATCH b", "[\"0\" [\"b\" \"2\"]]"),
            ("HSCAN h 0 NOVALUES", "[\"0\" [\"a\" \"b\" \"c\"]]"),
            ("HSCAN h 0 TYPE hash", "(error) ERR syntax error"),
            ("HSCAN h 0 COUNT 0", "(error) ERR syntax error"),
        ],
    );
    for field in 0..600 {
        trial.line(&format!("HSET large {field} x"));
    }
    assert_eq!(trial.line("OBJECT ENCODING large"), "\"hashtable\"");
    assert_eq!(trial.line("HSCAN large 0 COUNT 2 NOVALUES"), "[\"598\" [\"599\" \"598\"]]");
    assert_eq!(trial.line("HSCAN large 2 COUNT 2 NOVALUES"), "[\"0\" [\"1\" \"0\"]]");
    let many = trial.line("HRANDFIELD large 300");
    assert_eq!(many.split(' ').collect::<std::collections::BTreeSet<_>>().len(), 300);
}

#[test]
fn fields_end_as_they_should() {
    let mut trial = Trial::new();
    check(
        &mut trial,
        &[
            ("HSET h a 1 b 2 c 3", "(integer) 3"),
            ("HPEXPIRE h 100 FIELDS 2 a nope", "[(integer) 1 (integer) -2]"),
            ("HEXPIRE nope 100 FIELDS 2 a b", "[(integer) -2 (integer) -2]"),
            ("HPTTL h FIELDS 3 a b nope", "[(integer) 100 (integer) -1 (integer) -2]"),
            ("HTTL h FIELDS 1 a", "[(integer) 1]"),
            ("HPEXPIRETIME h FIELDS 1 a", "[(integer) 1000100]"),
            ("HEXPIRETIME h FIELDS 1 a", "[(integer) 1001]"),
            ("HPEXPIRE h 50 GT FIELDS 2 a b", "[(integer) 0 (integer) 0]"),
            ("HPEXPIRE h 50 lt FIELDS 2 a b", "[(integer) 1 (integer) 1]"),
            ("HPEXPIRE h 60 NX FIELDS 2 a c", "[(integer) 0 (integer) 1]"),
            ("HPEXPIRE h 70 XX FIELDS 1 a", "[(integer) 1]"),
            ("OBJECT ENCODING h", "\"listpackex\""),
            ("HPERSIST h FIELDS 3 b c nope", "[(integer) 1 (integer) 1 (integer) -2]"),
            ("HPERSIST h FIELDS 1 b", "[(integer) -1]"),
            ("HEXPIRE h -1 FIELDS 1 a", "(error) ERR invalid expire time, must be >= 0"),
            ("HEXPIRE h x FIELDS 1 a", "(error) ERR value is not an integer or out of range"),
            ("HEXPIRE h 99999999999999999 FIELDS 1 a", "(error) ERR invalid expire time in 'hexpire' command"),
            ("HPEXPIREAT h 70368744177664 FIELDS 1 a", "(error) ERR invalid expire time in 'hpexpireat' command"),
            ("HEXPIRE h 1 FIELD 1 a", "(error) ERR Mandatory argument FIELDS is missing or not at the right position"),
            ("HEXPIRE h 1 FIELDS 0 a", "(error) ERR Parameter `numFields` should be greater than 0"),
            ("HEXPIRE h 1 FIELDS 2 a", "(error) ERR The `numfields` parameter must match the number of arguments"),
            ("HTTL h FIELDS 0 a", "(error) ERR Number of fields must be a positive integer"),
            ("HSET h a 1", "(integer) 0"),
            ("HPTTL h FIELDS 1 a", "[(integer) -1]"),
            ("HPEXPIRE h 10 FIELDS 2 a b", "[(integer) 1 (integer) 1]"),
            ("HINCRBY h a 4", "(integer) 5"),
            ("HPTTL h FIELDS 1 a", "[(integer) 10]"),
        ],
    );
    trial.now += 10;
    check(
        &mut trial,
        &[
            ("HGET h a", "(nil)"),
            ("HLEN h", "(integer) 1"),
            ("HGETALL h", "{\"c\" \"3\"}"),
            ("HMGET h a b c", "[(nil) (nil) \"3\"]"),
            ("HSCAN h 0", "[\"0\" [\"c\" \"3\"]]"),
            ("HRANDFIELD h 9", "[\"c\"]"),
            ("HSETNX h a 7", "(integer) 1"),
            ("HEXPIREAT h 1 FIELDS 1 a", "[(integer) 2]"),
            ("HPEXPIRE h 5 FIELDS 1 c", "[(integer) 1]"),
        ],
    );
    trial.now += 5;
    check(
        &mut trial,
        &[
            ("EXISTS h", "(integer) 0"),
            ("TYPE h", "none"),
            ("KEYS *", "[]"),
            ("HGETALL h", "{}"),
            ("HPERSIST h FIELDS 1 c", "[(integer) -2]"),
            ("HSET h x 1", "(integer) 1"),
            ("HGETALL h", "{\"x\" \"1\"}"),
            ("HEXPIRE h 0 FIELDS 1 x", "[(integer) 2]"),
            ("EXISTS h", "(integer) 0"),
            ("DBSIZE", "(integer) 0"),
        ],
    );
}

#[test]
fn fields_are_read_and_set_with_their_ends() {
    let mut trial = Trial::new();
    check(
        &mut trial,
        &[
            ("HSETEX h EX 10 FIELDS 2 a 1 b 2", "(integer) 1"),
            ("HTTL h FIELDS 2 a b", "[(integer) 10 (integer) 10]"),
            ("HSETEX h KEEPTTL FIELDS 1 a 3", "(integer) 1"),
            ("HTTL h FIELDS 1 a", "[(integer) 10]"),
            ("HSETEX h FIELDS 1 a 4", "(integer) 1"),
            ("HTTL h FIELDS 1 a", "[(integer) -1]"),
            ("HSETEX h FNX FIELDS 2 a 5 new 5", "(integer) 0"),
            ("HSETEX h PX 1500 fxx FIELDS 2 a 5 b 5", "(integer) 1"),
            ("HPTTL h FIELDS 2 a b", "[(integer) 1500 (integer) 1500]"),
            ("HSETEX none FXX FIELDS 1 a 5", "(integer) 0"),
            ("HSETEX h FXX FNX FIELDS 1 a 5", "(error) ERR Only one of FXX or FNX arguments can be specified"),
            (
                "HSETEX h EX 1 KEEPTTL FIELDS 1 a 5",
                "(error) ERR Only one of EX, PX, EXAT, PXAT or KEEPTTL arguments can be specified",
            ),
            ("HSETEX h NOPE FIELDS 1 a 5", "(error) ERR unknown argument: NOPE"),
            ("HSETEX h FIELDS 2 a 5 b", "(error) ERR wrong number of arguments for 'hsetex' command"),
            ("HSETEX h FIELDS 0 a 5", "(error) ERR invalid number of fields"),
            ("HSETEX h FNX FIELDS 1 a", "(error) ERR wrong number of arguments for 'hsetex' command"),
            ("HSETEX h EX -1 FIELDS 1 a 5", "(error) ERR invalid expire time, must be >= 0"),
            ("HGETEX h FIELDS 2 a nope", "[\"5\" (nil)]"),
            ("HGETEX h PERSIST FIELDS 1 a", "[\"5\"]"),
            ("HTTL h FIELDS 2 a b", "[(integer) -1 (integer) 2]"),
            ("HGETEX h PXAT 1000700 FIELDS 1 a", "[\"5\"]"),
            ("HPTTL h FIELDS 1 a", "[(integer) 700]"),
            ("HGETEX none EX 10 FIELDS 1 a", "[(nil)]"),
            (
                "HGETEX h EX 10 FIELD 1 a",
                "(error) ERR Mandatory argument FIELDS is missing or not at the right position",
            ),
            ("HGETEX h EX 0 FIELDS 1 a", "[\"5\"]"),
            ("HEXISTS h a", "(integer) 0"),
            ("HGETDEL h FIELDS 2 nope b", "[(nil) \"5\"]"),
            ("EXISTS h", "(integer) 0"),
            ("HGETDEL h FIELDS 1 b", "[(nil)]"),
            ("HSETEX h EXAT 1 FIELDS 1 a 5", "(integer) 1"),
            ("EXISTS h", "(integer) 0"),
        ],
    );
}

#[test]
fn what_has_ended_is_found_without_being_asked_for() {
    let mut trial = Trial::new();
    for key in 0..50 {
        trial.line(&format!("HSET k{key} a 1 b 2"));
        trial.line(&format!("HPEXPIRE k{key} {} FIELDS 1 a", 1_000 + key * 10));
        trial.line(&format!("HPEXPIRE k{key} {} FIELDS 1 b", 5_000 + key * 10));
    }
    let before = trial.keyspace.memory_bytes();
    trial.now += 2_000;
    let due = trial.keyspace.due(trial.now, 100);
    assert_eq!(due.len(), 50);
    assert_eq!(trial.keyspace.remove_expired(due.iter().map(|key| &**key), trial.now), 0);
    assert!(trial.keyspace.memory_bytes() < before);
    trial.now += 4_000;
    let due = trial.keyspace.due(trial.now, 100);
    assert_eq!(trial.keyspace.remove_expired(due.iter().map(|key| &**key), trial.now), 50);
    assert!(trial.keyspace.is_empty());
    assert_eq!(trial.keyspace.sum(), 0);
}

#[test]
fn a_script_that_fails_leaves_fields_as_they_were() {
    let mut trial = Trial::new();
    trial.line("HSET h a 1 b 2");
    trial.line("HPEXPIRE h 1000 FIELDS 1 a");
    let sum = trial.keyspace.sum();
    trial.keyspace.begin_journal();
    trial.line("HDEL h a");
    trial.line("HSET h c 3");
    trial.line("HSET other c 3");
    trial.keyspace.take_back();
    assert_eq!(trial.keyspace.sum(), sum);
    assert_eq!(trial.line("HGETALL h"), "{\"a\" \"1\" \"b\" \"2\"}");
    trial.now += 2_000;
    assert_eq!(trial.keyspace.due(trial.now, 9).len(), 1);
}
