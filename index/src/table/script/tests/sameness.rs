//! The same script has the same outcome whatever ran before, in this engine or in another one.

use super::{Few, shown};
use crate::table::script::{Engine, Limits, Script, Used};

const SCRIPTS: [&str; 14] = [
    "return {tostring({}), tostring(function() end), tostring(print == nil), tostring(redis.call)}",
    "local t = {} for i = 1, 50 do t[{}] = i end local r = {} for k, v in pairs(t) do r[#r + 1] = v end return r",
    "local t = {} for i = 1, 50 do t[function() end] = i t['k' .. i] = i t[i / 2] = i end local r = {} for k, v in pairs(t) do r[#r + 1] = v end return r",
    "return {math.random(1000), math.random(1000), tostring(math.random())}",
    "math.randomseed(5) return math.random(1000)",
    "cjson.encode_number_precision(3) cjson.encode_max_depth(3) return cjson.encode(3.14159)",
    "return {cjson.encode(3.14159), cjson.encode({{{{{1}}}}})}",
    "redis.setresp(3) return {true, redis.call('GET', 'x') == nil}",
    "return {true, redis.call('GET', 'x') == false}",
    "local t = {} for k in pairs(_G) do t[#t + 1] = k end for k in pairs(string) do t[#t + 1] = k end return t",
    "local ok, e = pcall(function() local t = {} while true do t[#t + 1] = {} end end) return 1",
    "while true do end",
    "local t = {} for i = 1, 30000 do t[i % 100] = {i} end return #t",
    "KEYS.x = 1 ARGV[1] = 'changed' return {KEYS.x, ARGV[1], KEYS[1]}",
];

fn limits(steps: u64) -> Limits {
    Limits { steps, memory_bytes: 3 << 20, reply_bytes: 1 << 20 }
}

fn outcome(engine: &mut Engine, script: &str, steps: u64) -> (String, Used) {
    let reply =
        engine.run(&mut Few::default(), &Script::new(script.as_bytes()), &[b"key"], &[b"argument"], &limits(steps));
    (shown(reply), engine.used())
}

/// Small and good enough to shuffle with.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

#[test]
fn what_ran_before_makes_no_difference() {
    let fresh: Vec<_> = SCRIPTS.iter().map(|script| outcome(&mut Engine::new(), script, 300_000)).collect();
    for seed in 0..30 {
        let mut dice = Dice(seed);
        let mut engine = Engine::new();
        for _ in 0..40 {
            let which = dice.roll(SCRIPTS.len());
            // Sometimes one that is cut off anywhere goes before.
            if dice.roll(2) == 0 {
                let other = dice.roll(SCRIPTS.len());
                let steps = dice.roll(2000) as u64;
                outcome(&mut engine, SCRIPTS[other], steps);
            }
            let found = outcome(&mut engine, SCRIPTS[which], 300_000);
            assert_eq!(found, fresh[which], "seed {seed}: {}", SCRIPTS[which]);
        }
    }
}

#[test]
fn budgets_end_at_the_same_place() {
    // What the host has seen tells where a script was cut off.
    let script = "local t = {} for i = 1, 1000000 do t[i] = {tostring(i)} redis.call('SET', 'at', i) end";
    let ends = |history: &[&str], limits: &Limits| {
        let mut engine = Engine::new();
        for script in history {
            outcome(&mut engine, script, 100_000);
        }
        let mut host = Few::default();
        let result = engine.run(&mut host, &Script::new(script.as_bytes()), &[], &[], limits);
        (result, host.texts.remove(&b"at"[..]), engine.used())
    };
    for limits in [limits(123_456), limits(10_000_000), Limits { memory_bytes: 1 << 16, ..limits(10_000_000) }] {
        let fresh = ends(&[], &limits);
        assert!(fresh.0.is_err() && fresh.1.is_some(), "{fresh:?}");
        for history in [&SCRIPTS[..3], &SCRIPTS[9..], &SCRIPTS[..]] {
            assert_eq!(ends(history, &limits), fresh);
        }
    }
}

#[test]
fn globals_and_libraries_cannot_be_changed() {
    let mut engine = Engine::new();
    for script in [
        "x = 1",
        "_G.x = 1",
        "rawset(_G, 'x', 1)",
        "string.x = 1",
        "rawset(string, 'x', 1)",
        "table.insert(string, 1)",
        "setmetatable(_G, nil)",
        "setmetatable(string, {})",
        "getmetatable(_G).__index = nil",
        "getmetatable('').__index = nil",
        "rawset(getmetatable(''), '__add', 1)",
        "redis.call = nil",
        "cjson.null = 1",
        "KEYS = {}",
        "table.sort(table, function() return true end) math.x = 1",
        "math.random = nil",
    ] {
        let (reply, _) = outcome(&mut engine, script, 300_000);
        assert!(reply.contains("Attempt to modify a readonly table"), "{script}: {reply}");
    }
    let (reply, _) = outcome(&mut engine, "return {pcall(function() return x end)}", 300_000);
    assert!(reply.contains("nonexistent global variable"), "{reply}");
}

#[test]
fn what_does_not_belong_into_scripts_is_not_there() {
    let mut engine = Engine::new();
    for name in [
        "io", "debug", "package", "require", "module", "dofile", "loadfile", "print", "newproxy", "getfenv", "setfenv",
        "arg",
    ] {
        let (reply, _) = outcome(&mut engine, &format!("return {name}"), 300_000);
        assert!(reply.contains("nonexistent global variable"), "{name}: {reply}");
    }
    let (reply, _) =
        outcome(&mut engine, "return {string.dump == nil, os.time == nil, os.execute == nil, os.clock()}", 1000);
    assert_eq!(reply, "[:1, :1, :1, :0]");
    // Compiled code is not a source.
    let (reply, _) = outcome(
        &mut engine,
        "return {loadstring('\\27Lua') == nil, load(coroutine.wrap(function() coroutine.yield('\\27Lua') end)) == nil}",
        1000,
    );
    assert_eq!(reply, "[:1, :1]");
}

#[test]
fn chance_begins_alike() {
    let (reply, _) = outcome(&mut Engine::new(), "return {tostring(math.random()), math.random(100)}", 1000);
    assert_eq!(reply, "[\"0.39646477363839\", :85]");
}

#[test]
fn replies_have_the_forms_that_were_asked_for() {
    let script =
        |version: u8, what: &str| format!("redis.setresp({version}) local r = redis.call('forms') return {what}");
    let mut engine = Engine::new();
    let mut reply = |version, what: &str| outcome(&mut engine, &script(version, what), 10_000).0;
    assert_eq!(reply(2, "r"), "[[\"a\", :1], [\"m\"], \"1.5\", :1, _, \"123\", \"v\"]");
    assert_eq!(reply(3, "r"), "[%[\"a\": :1], ~[\"m\"], ,1.5, #true]");
    assert_eq!(
        reply(
            3,
            "{r[1].map.a, r[2].set.m, tostring(r[3].double), r[4], r[5] == nil, r[6].big_number, r[7].verbatim_string.string}"
        ),
        "[:1, #true, \"1.5\", #true, #true, \"123\", \"v\"]"
    );
    assert_eq!(
        reply(
            3,
            "{{map={a=1}}, {set={a=true}}, {double=2.5}, {big_number='12'}, {verbatim_string={format='txt', string='x'}}, false}"
        ),
        "[%[\"a\": :1], ~[\"a\"], ,2.5, (12, =txt:x, #false]"
    );
}
