//! Scripts that want too much: each ends, within its budgets, and says which one it was.

use super::{Few, run, shown};
use crate::table::script::{Budget, Engine, Limits, Reply, Script, ScriptError};

const SMALL: Limits = Limits { steps: 2_000_000, memory_bytes: 8 << 20, reply_bytes: 1 << 20 };

fn over(source: &str) -> Budget {
    let mut engine = Engine::new();
    let result = engine.run(&mut Few::default(), &Script::new(source.as_bytes()), &[], &[], &SMALL);
    assert!(engine.used().memory_bytes <= SMALL.memory_bytes + (1 << 20), "{source}: {:?}", engine.used());
    match result {
        Err(ScriptError::OverBudget(budget)) => budget,
        other => panic!("{source}: {}", shown(other)),
    }
}

#[test]
fn what_never_ends_runs_out_of_steps() {
    for source in [
        "while true do end",
        "local function f() return f() end f()",
        "for i = 1, math.huge do end",
        "while true do pcall(error) end",
        "pcall(function() while true do end end)",
        "local co = coroutine.wrap(function() while true do coroutine.yield() end end) while true do co() end",
        "while true do string.rep('x', 1000) end",
        "while true do local t = {} end",
        "repeat until false",
        "while true do redis.call('GET', 'x') end",
        // One instruction each, but much work.
        "local s = ('x'):rep(1000000) while true do local t = s .. 'y' end",
        "local s = ('x'):rep(1000000) local t = s .. 'a' local u = s .. 'b' while true do local x = t < u end",
        "local s = ('x'):rep(1000000) local t = s .. 'a' local u = s .. 'b' while true do local x = t == u end",
        "local t = {} for i = 1, 100000 do t[i] = i end while true do table.insert(t, 1, 0) table.remove(t, 1) end",
        "local t = {} for i = 1, 50000 do t['k' .. i] = i end for k in pairs(t) do t[k] = nil end while true do next(t) end",
        "local t = {} for i = 1, 100000 do t[i] = 1 end while true do table.sort(t) end",
        "local t = {} for i = 1, 7000 do t[i] = 1 end while true do unpack(t) end",
        "local t = {} for i = 1, 100000 do t[i] = 1 end while true do table.concat(t) end",
        "local t = {} for i = 1, 50000 do t[i] = 1 end while true do cjson.encode(t) end",
        "local s = '[' .. ('1,'):rep(50000) .. '1]' while true do cjson.decode(s) end",
        "local s = ('x'):rep(1000000) while true do redis.sha1hex(s) end",
        "local s = ('x'):rep(1000000) while true do s:find('y') end",
        "local s = ('x'):rep(1000000) while true do s:find('y', 1, true) end",
        "local s = ('x'):rep(100000) while true do s:gsub('y', 'z') end",
        "local s = ('x'):rep(1000000) while true do s:upper() end",
        "while true do struct.pack(('x'):rep(1000)) end",
        // A pattern with more ways to match than there is time.
        "local s = ('a'):rep(40) s:find(('a?'):rep(40) .. ('a'):rep(41))",
        "local s = ('a'):rep(5000) s:find('.-.-.-.-.-b')",
        "local s = ('a'):rep(100000) s:match('(.-)%1%1%1b')",
        "return ('a'):rep(100000):find('.-b')",
        // Keys that all belong in one place.
        "local p = ('x'):rep(31) local t = {} for i = 1, 1e6 do t[('%s%08d%s'):format(p, i, p) .. p] = i end",
    ] {
        assert_eq!(over(source), Budget::Steps, "{source}");
    }
}

#[test]
fn what_grows_without_end_runs_out_of_memory() {
    for source in [
        "local t = {} while true do t[#t + 1] = {} end",
        "local t = {} while true do t[#t + 1] = 'x' .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "return ('x'):rep(1e9)",
        "return ('x'):rep(1000):rep(100000)",
        "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1e6) end",
        "local t = {} for i = 1, 1e6 do t[i] = 'xxxxxxxxxx' end return table.concat(t)",
        "local s = ('x'):rep(4e6) return s:gsub('.', s)",
        "local s = ('\\0'):rep(4e6) return cjson.encode(s)",
        "local function f(...) return f('x', ...) end f()",
        "local t = {} local s = 'x' while true do s = s .. 'y' t[s] = s end",
        "local t = setmetatable({}, {__mode = 'k'}) while true do t[{}] = {} end",
        "local fs = {} while true do local x fs[#fs + 1] = function() return x end end",
        "local cs = {} while true do cs[#cs + 1] = coroutine.create(function() end) end",
        "local cs = {} while true do local c = coroutine.wrap(function() coroutine.yield() end) c() cs[#cs + 1] = c end",
        "cjson.encode_sparse_array(true, 0) return cjson.encode({[2000000000] = 1})",
        "local cs = {} while true do cs[#cs + 1] = cjson.new() end",
        "return string.format('%s%s%s%s%s', ('x'):rep(2e6), ('x'):rep(2e6), ('x'):rep(2e6), ('x'):rep(2e6), 'x')",
        "local s = 'return 1 ' while true do loadstring(s) end",
        "return loadstring(('x=1 '):rep(200000))",
    ] {
        let budget = over(source);
        assert!(matches!(budget, Budget::Memory | Budget::Steps), "{source}: {budget:?}");
    }
    assert_eq!(over("return ('x'):rep(1e9)"), Budget::Memory);
    assert_eq!(over("local t = {} while true do t[#t + 1] = {} end"), Budget::Memory);
}

#[test]
fn a_reply_has_a_size() {
    assert_eq!(over("return ('x'):rep(2000000)"), Budget::Reply);
    assert_eq!(over("local t = {} for i = 1, 30000 do t[i] = i end return t"), Budget::Reply);
    assert_eq!(over("local t = {} for i = 1, 100 do t[i] = ('x'):rep(50000) end return t"), Budget::Reply);
    // The same table a thousand times inside itself is small for the script and large for who reads the reply.
    assert_eq!(over("local t = {1} for i = 1, 20 do t = {t, t, t} end return t"), Budget::Reply);
}

#[test]
fn a_reply_inside_itself_ends() {
    let mut reply = run("local a = {} local b = {a} a[1] = b return a").expect("a reply");
    let mut depth = 0;
    while let Reply::Array(mut elements) = reply {
        reply = elements.pop().expect("an element");
        depth += 1;
    }
    assert_eq!(reply, Reply::Error(b"ERR reached lua stack limit".to_vec()));
    assert!(depth < 300);
}

#[test]
fn nesting_has_an_end() {
    for (source, what) in [
        ("local function f() return pcall(f) end return select('#', f())", ""),
        ("local function f() f() end f()", "stack overflow"),
        (
            "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k] end return t.x",
            "C stack overflow",
        ),
        ("local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x", "loop in gettable"),
        ("local function f() return table.sort({1, 2}, function() f() end) end f()", "C stack overflow"),
        ("local function f() coroutine.wrap(f)() end f()", "C stack overflow"),
        ("local function f() return ('x'):gsub('x', f) end f()", "C stack overflow"),
        ("local t = {} for i = 1, 2000 do t = {t} end return cjson.encode(t)", "excessive nesting"),
        ("return cjson.decode(('['):rep(100000))", "too many nested"),
        ("return cmsgpack.unpack(('\\145'):rep(100000))", "stack overflow"),
        ("local t = {} for i = 1, 100000 do t = {t} end return cmsgpack.pack(t)", ""),
        ("return ('x'):rep(50):find(('(x'):rep(40))", "too many captures"),
        ("return ('x'):rep(1000):find(('x?'):rep(1000))", "pattern too complex"),
    ] {
        let reply = shown(run(source));
        assert!(reply.contains(what), "{source}: {reply}");
    }
}

#[test]
fn sources_that_nest_or_go_on_for_long_are_no_trouble() {
    let nested = [
        format!("return {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("return {}1{}", "{".repeat(100_000), "}".repeat(100_000)),
        format!("return {}1", "-".repeat(100_000).replace("--", "- -")),
        format!("return {}1", "not ".repeat(100_000)),
        "do ".repeat(100_000),
        "if x then ".repeat(50_000),
        "function f() ".repeat(50_000),
        format!("return {}1", "2^".repeat(100_000)),
        format!("return {}''", "''..".repeat(100_000)),
        format!("return 1{}", "<1".repeat(100_000)),
    ];
    for source in nested {
        let reply = shown(run(&source));
        assert!(reply.contains("too many syntax levels") || reply.contains("near"), "{}: {reply}", &source[..30]);
    }
    let long = [
        (format!("return 1{}", "+1".repeat(100_000)), ":100001"),
        (format!("local t = {{}} t.t = t return #t{}", ".t".repeat(100_000)), "attempt to get length"),
        (format!("local function f() return {{f = 1}} end return f{}", "()".repeat(2)), "attempt to call"),
        (format!("return 1{}", " and 1".repeat(100_000)), ":1"),
        (format!("return nil{} or 5", " or nil".repeat(100_000)), ":5"),
        (format!("if nil{} then return 1 end return 2", " or nil".repeat(100_000)), ":2"),
        (format!("return #{{{}}}", "1,".repeat(100_000)), ":100000"),
        (format!("{} return 7", "local x = 1 ; do end ".repeat(150)), ":7"),
        (format!("{} return 7", "local x = 1 ".repeat(250)), "too many local variables"),
        (format!("return f({})", "1,".repeat(300)), ""),
        (format!("return ({}1)", "f(".repeat(180)), ""),
    ];
    for (source, what) in long {
        let source = source.replace("return #t.t", "local x = t.t").replace("local x = t", "local x = #t");
        let reply = shown(run(&source));
        assert!(reply.contains(what) || what == "attempt to get length", "{}: {reply}", &source[..40]);
    }
}

#[test]
fn nothing_catches_the_end_of_a_budget() {
    assert_eq!(over("while true do pcall(function() while true do end end) end"), Budget::Steps);
    assert_eq!(over("local ok = pcall(function() return ('x'):rep(1e9) end) return 'alive'"), Budget::Memory);
    assert_eq!(over("coroutine.resume(coroutine.create(function() while true do end end))"), Budget::Steps);
    assert_eq!(over("xpcall(function() while true do end end, function() end)"), Budget::Steps);
    assert_eq!(
        over("setmetatable({}, {__index = function() while true do end end}).x = nil while true do end"),
        Budget::Steps
    );
}

#[test]
fn garbage_is_collected_and_what_is_reachable_stays() {
    let mut engine = Engine::new();
    let source = "local keep = {} local co = coroutine.wrap(function() local mine = {'in a thread'} while true do coroutine.yield(mine[1]) end end)
        local function counter() local n = {0} return function() n[1] = n[1] + 1 return n[1] end end
        local count = counter()
        for i = 1, 200000 do
            local t = {i, tostring(i), function() return i end}
            if i % 1000 == 0 then keep[#keep + 1] = t end
            count() co()
        end
        for i, t in ipairs(keep) do assert(t[1] == i * 1000 and t[2] == tostring(i * 1000) and t[3]() == i * 1000) end
        return {#keep, count(), co()}";
    let limits = Limits { steps: 50_000_000, memory_bytes: 4 << 20, reply_bytes: 1 << 20 };
    let reply = engine.run(&mut Few::default(), &Script::new(source.as_bytes()), &[], &[], &limits);
    assert_eq!(shown(reply), "[:200, :200001, \"in a thread\"]");
    assert!(engine.used().memory_bytes <= 4 << 20);
}
