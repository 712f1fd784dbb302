//! The functions that scripts find: Lua's own, those that Redis adds, and `redis` itself.

use super::lua::heap::{Full, Heap};
use super::lua::value::Value;
use super::lua::vm::{Base, EVENTS, NativeFn};

mod base;
mod threads;
mod pattern;
mod texts;
mod format;
mod tables;
mod maths;
mod bits;
mod structs;
mod cjson;
mod cmsgpack;
pub mod redis_api;
mod functions;

pub use functions::{Registered, is_name};

/// What the libraries remember during one run.
pub struct Session {
    pub chance: maths::Chance,
    /// The form of replies that the script has asked for.
    pub resp3: bool,
    pub json: Vec<cjson::Config>,
    /// A library is being loaded: it registers functions, and reaches nothing.
    pub loading: bool,
    pub registered: Vec<Registered>,
}

impl Default for Session {
    fn default() -> Session {
        Session {
            chance: maths::Chance::default(),
            resp3: false,
            json: vec![cjson::Config::default()],
            loading: false,
            registered: Vec::new(),
        }
    }
}

/// Functions by their names.
type Library = &'static [(&'static str, NativeFn)];

/// Builds the tables that every run begins with, and makes them read-only.
pub fn build(heap: &mut Heap) -> Result<Base, Full> {
    let mut base = Base::default();
    for event in EVENTS {
        base.events.push(heap.text(event.as_bytes())?);
    }
    // The order of these lines is the order in which `pairs(_G)` shows nothing in particular, but always the same.
    base.globals = heap.table(0, 64)?;
    let globals = base.globals;
    put(heap, globals, "_G", Value::Table(globals))?;
    let version = heap.text(b"Lua 5.1")?;
    put(heap, globals, "_VERSION", version)?;
    put(heap, globals, "KEYS", Value::Bool(false))?;
    put(heap, globals, "ARGV", Value::Bool(false))?;
    fill(heap, &mut base, globals, base::FUNCTIONS)?;
    let libraries: [(&str, Library); 10] = [
        ("coroutine", threads::FUNCTIONS),
        ("string", texts::FUNCTIONS),
        ("table", tables::FUNCTIONS),
        ("math", maths::FUNCTIONS),
        ("os", maths::OS_FUNCTIONS),
        ("bit", bits::FUNCTIONS),
        ("struct", structs::FUNCTIONS),
        ("cjson", cjson::FUNCTIONS),
        ("cmsgpack", cmsgpack::FUNCTIONS),
        ("redis", redis_api::FUNCTIONS),
    ];
    let mut tables = Vec::new();
    for (name, functions) in libraries {
        let table = heap.table(0, functions.len())?;
        fill(heap, &mut base, table, functions)?;
        put(heap, globals, name, Value::Table(table))?;
        tables.push((name, table));
    }
    let of = |name: &str| tables.iter().find(|(found, _)| *found == name).map_or(globals, |(_, table)| *table);
    put(heap, of("math"), "pi", Value::Number(core::f64::consts::PI))?;
    put(heap, of("math"), "huge", Value::Number(f64::INFINITY))?;
    put(heap, of("cjson"), "null", Value::Null)?;
    for (table, name, text) in [
        ("cjson", "_NAME", "cjson"),
        ("cjson", "_VERSION", "2.1.0"),
        ("cmsgpack", "_NAME", "cmsgpack"),
        ("cmsgpack", "_VERSION", "lua-cmsgpack 0.4.0"),
        ("redis", "REDIS_VERSION", redis_api::VERSION),
    ] {
        let text = heap.text(text.as_bytes())?;
        put(heap, of(table), name, text)?;
    }
    for (name, number) in redis_api::CONSTANTS {
        put(heap, of("redis"), name, Value::Number(*number))?;
    }
    // Texts have the functions of `string` as methods.
    base.text_meta = heap.table(0, 1)?;
    put(heap, base.text_meta, "__index", Value::Table(of("string")))?;
    // A global that is not there is an error.
    let meta = heap.table(0, 1)?;
    base.natives.push(base::ipairs_step);
    base.ipairs_step = Value::Native(base.natives.len() as u16 - 1);
    let key = heap.text(b"next")?;
    base.next = heap.tables.get(globals).get(&heap.texts, key).0;
    base.natives.push(base::missing_global);
    put(heap, meta, "__index", Value::Native(base.natives.len() as u16 - 1))?;
    heap.tables.get_mut(globals).meta = Some(meta);
    for table in tables.iter().map(|(_, table)| *table).chain([globals, base.text_meta, meta]) {
        heap.tables.get_mut(table).readonly = true;
    }
    Ok(base)
}

fn put(heap: &mut Heap, table: u32, name: &str, value: Value) -> Result<(), Full> {
    let key = heap.text(name.as_bytes())?;
    heap.set(table, key, value)?;
    Ok(())
}

fn fill(heap: &mut Heap, base: &mut Base, table: u32, functions: Library) -> Result<(), Full> {
    for (name, function) in functions {
        base.natives.push(*function);
        put(heap, table, name, Value::Native(base.natives.len() as u16 - 1))?;
    }
    Ok(())
}
