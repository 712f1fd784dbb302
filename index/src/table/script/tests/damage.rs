//! Texts in all the formats that scripts read: right, cut short, and changed anywhere.

use super::{Few, shown};
use crate::table::script::{Engine, Limits, Reply, Script, ScriptError};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

fn seeds() -> u64 {
    std::env::var("LOCI_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(300)
}

fn run(engine: &mut Engine, script: &str, arguments: &[&[u8]]) -> Result<Reply, ScriptError> {
    let limits = Limits { steps: 500_000, memory_bytes: 8 << 20, reply_bytes: 4 << 20 };
    engine.run(&mut Few::default(), &Script::new(script.as_bytes()), &[], arguments, &limits)
}

/// A value as source text.
fn value(dice: &mut Dice, depth: usize) -> String {
    match dice.roll(if depth == 0 { 5 } else { 7 }) {
        0 => format!("{}", dice.roll(1 << 20) as i64 - (1 << 19)),
        1 => format!("{}", dice.roll(1 << 20) as f64 / 1024.0),
        2 => format!("'{}'", "x\\n\\0y\\200\"/".repeat(dice.roll(6))),
        3 => "true".into(),
        4 => format!("{}", (dice.roll(1 << 30) as f64) * 1e10),
        5 => {
            let elements: Vec<_> = (0..dice.roll(20)).map(|_| value(dice, depth - 1)).collect();
            format!("{{{}}}", elements.join(", "))
        }
        _ => {
            let elements: Vec<_> =
                (0..dice.roll(20)).map(|n| format!("['k{n}'] = {}", value(dice, depth - 1))).collect();
            format!("{{{}}}", elements.join(", "))
        }
    }
}

const SAME: &str = "local function same(a, b) if type(a) ~= 'table' or type(b) ~= 'table' then return a == b end
    for k, v in pairs(a) do if not same(v, b[k]) then return false end end
    for k in pairs(b) do if a[k] == nil then return false end end return true end ";

#[test]
fn what_is_written_is_read_again() {
    let mut engine = Engine::new();
    for seed in 0..seeds() {
        let value = value(&mut Dice(seed), 3);
        let script = format!(
            "{SAME} local v = {value} local m = cmsgpack.unpack(cmsgpack.pack(v)) local j = cjson.decode(cjson.encode(v))
             return {{same(v, m), same(v, j)}}"
        );
        let zero = value.contains("\\0");
        let reply = shown(run(&mut engine, &script, &[]));
        // A zero ends JSON for the one who reads it, so such texts are written as an escape, which it reads.
        assert_eq!(reply, "[:1, :1]", "seed {seed} (zero {zero}): {value}");
    }
}

#[test]
fn numbers_are_packed_and_unpacked() {
    let mut engine = Engine::new();
    for seed in 0..seeds() {
        let mut dice = Dice(seed);
        let number = (dice.roll(1 << 31) as i64 - (1 << 30)) << dice.roll(22);
        for format in ["<i8", ">i8", "<l", "d", ">d"] {
            let script = format!("return struct.unpack('{format}', struct.pack('{format}', {number})) == {number}");
            assert_eq!(shown(run(&mut engine, &script, &[])), ":1", "seed {seed}: {format} {number}");
        }
    }
}

#[test]
fn damaged_texts_are_refused_or_read_but_nothing_else() {
    let mut engine = Engine::new();
    for seed in 0..seeds() {
        let mut dice = Dice(seed);
        let value = value(&mut dice, 3);
        for (write, read) in [("cmsgpack.pack", "cmsgpack.unpack"), ("cjson.encode", "cjson.decode")] {
            let Ok(Reply::Bulk(text)) = run(&mut engine, &format!("return {write}({value})"), &[]) else {
                panic!("seed {seed}: {value}");
            };
            for _ in 0..10 {
                let mut text = text.clone();
                for _ in 0..=dice.roll(3) {
                    if text.is_empty() {
                        break;
                    }
                    let at = dice.roll(text.len());
                    match dice.roll(4) {
                        0 => text.truncate(at),
                        1 => text[at] = dice.roll(256) as u8,
                        2 => text[at] ^= 1 << dice.roll(8),
                        _ => text.insert(at, dice.roll(256) as u8),
                    }
                }
                let script = format!("local v = {read}(ARGV[1]) return pcall({write}, v)");
                // That it comes back is what is tested; an error is as good as a value.
                let _ = run(&mut engine, &script, &[&text]);
            }
        }
    }
}

#[test]
fn random_formats_and_patterns_do_no_harm() {
    let mut engine = Engine::new();
    let marks = b"%abcdilsxBbHhiIlLTfd!<>=0129 ().-*+?[]^$fq\0\xff";
    for seed in 0..seeds() * 4 {
        let mut dice = Dice(seed);
        let mut text = || -> Vec<u8> { (0..dice.roll(12)).map(|_| marks[dice.roll(marks.len())]).collect() };
        let (one, two) = (text(), text());
        for script in [
            "return struct.unpack(ARGV[1], ARGV[2])",
            "return struct.pack(ARGV[1], 1, 2, 'x', 4)",
            "return struct.size(ARGV[1])",
            "return string.format(ARGV[1], 1, 2, 'x', 4)",
            "return string.find(ARGV[2], ARGV[1])",
            "return string.gsub(ARGV[2], ARGV[1], ARGV[1])",
            "local t = {} for a, b in string.gmatch(ARGV[2], ARGV[1]) do t[#t + 1] = a end return t",
            "return {tonumber(ARGV[1]), cjson.decode(ARGV[1])}",
            "return loadstring(ARGV[1])",
        ] {
            let _ = run(&mut engine, script, &[&one, &two]);
        }
    }
}

/// Pieces of the language in any order: most are no scripts, and the others end.
#[test]
fn random_sources_do_no_harm() {
    let words = [
        "local",
        "x",
        "y",
        "=",
        "function",
        "end",
        "(",
        ")",
        "{",
        "}",
        "if",
        "then",
        "else",
        "elseif",
        "while",
        "do",
        "for",
        "in",
        "repeat",
        "until",
        "return",
        "break",
        "1",
        "2.5",
        "'s'",
        "+",
        "-",
        "*",
        "/",
        "..",
        "==",
        "~=",
        "<",
        "and",
        "or",
        "not",
        "#",
        "nil",
        "true",
        ",",
        ";",
        ":",
        ".",
        "[",
        "]",
        "...",
        "pairs",
        "string.rep",
        "x.y",
        "f()",
        "local x = 1",
        "x = x + 1",
        "local function f(a, ...) return a, ... end",
        "do local y = {1, 2, x = 3} end",
        "for i = 1, 3 do",
        "pcall(",
    ];
    let mut engine = Engine::new();
    let mut scripts = 0;
    for seed in 0..seeds() * 20 {
        let mut dice = Dice(seed);
        let mut source = String::from("local x, y, f = {}, 2, function(...) return ... end ");
        for _ in 0..dice.roll(14) {
            source.push_str(words[dice.roll(words.len())]);
            source.push(' ');
        }
        if !matches!(run(&mut engine, &source, &[]), Err(ScriptError::Compile(_))) {
            scripts += 1;
        }
    }
    assert!(scripts > 0);
}
