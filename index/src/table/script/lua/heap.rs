//! Everything a run makes: texts, tables, functions, captured variables, threads.
//!
//! ```text
//!   0 ............. base | base ............................ |
//!   the libraries,       | what this run made; its numbers   |
//!   read-only            | start at base in every run        |
//! ```
//!
//! Objects lie in lists and are named by their place. After a run the lists are cut back to the base, and what lies below it
//! was read-only: so every run starts from the same heap, on every member, whatever ran before. What is unreachable is
//! collected when a count of bytes says so, never when an allocator or a clock does.

use super::code::Proto;
use super::table::Table;
use super::value::Value;
use super::vm::NativeFn;
use std::sync::Arc;

const TEXT_BYTES: usize = 40;
const FUNCTION_BYTES: usize = 64;
const UP_BYTES: usize = 32;
/// Of an empty thread.
pub const THREAD_BYTES: usize = 1024;
const COLLECT_BYTES_MIN: usize = 1 << 20;

/// A list of objects with places to use again.
#[derive(Debug)]
pub struct Pool<T> {
    items: Vec<T>,
    free: Vec<u32>,
    base: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Pool<T> {
        Pool { items: Vec::new(), free: Vec::new(), base: 0 }
    }
}

impl<T: Default> Pool<T> {
    fn add(&mut self, item: T) -> u32 {
        if let Some(at) = self.free.pop() {
            self.items[at as usize] = item;
            return at;
        }
        self.items.push(item);
        self.items.len() as u32 - 1
    }

    #[inline]
    pub fn get(&self, at: u32) -> &T {
        &self.items[at as usize]
    }

    #[inline]
    pub fn get_mut(&mut self, at: u32) -> &mut T {
        &mut self.items[at as usize]
    }

    fn cut(&mut self) {
        self.items.truncate(self.base);
        self.free.clear();
        // One large run must not keep its memory for ever.
        if self.items.capacity() > 4 * self.base + (1 << 12) {
            self.items.shrink_to(self.base + (1 << 10));
        }
        if self.free.capacity() > 1 << 12 {
            self.free.shrink_to(0);
        }
    }
}

#[derive(Default, Debug)]
struct Text {
    bytes: Box<[u8]>,
    hash: u32,
}

/// All texts.
#[derive(Default, Debug)]
pub struct Texts(Pool<Text>);

/// The hash of Lua 5.1: it looks at 32 bytes at most, and has no seed.
fn hash(bytes: &[u8]) -> u32 {
    let mut hash = bytes.len() as u32;
    let step = (bytes.len() >> 5) + 1;
    let mut at = bytes.len();
    while at >= step {
        hash ^= hash.wrapping_shl(5).wrapping_add(hash >> 2).wrapping_add(u32::from(bytes[at - 1]));
        at -= step;
    }
    hash
}

impl Texts {
    #[inline]
    pub fn get(&self, text: u32) -> &[u8] {
        &self.0.get(text).bytes
    }

    #[inline]
    pub fn hash(&self, text: u32) -> u32 {
        self.0.get(text).hash
    }

    #[inline]
    pub fn equal(&self, a: u32, b: u32) -> bool {
        a == b || {
            let (a, b) = (self.0.get(a), self.0.get(b));
            a.hash == b.hash && a.bytes == b.bytes
        }
    }
}

/// A function with what it keeps.
pub enum Function {
    Script { proto: u32, ups: Box<[u32]> },
    Native { native: NativeFn, keeps: [Value; 4] },
}

impl Default for Function {
    fn default() -> Function {
        Function::Script { proto: 0, ups: Box::default() }
    }
}

/// A captured variable: still in a register of a thread, or on its own.
#[derive(Clone, Copy, Debug)]
pub enum Up {
    Open { thread: u32, at: u32 },
    Closed(Value),
}

impl Default for Up {
    fn default() -> Up {
        Up::Closed(Value::Nil)
    }
}

/// A function's code with its constants as values of this run.
#[derive(Debug)]
pub struct Loaded {
    pub proto: Arc<Proto>,
    pub constants: Box<[Value]>,
    /// Where its kids are loaded.
    pub kids: Box<[u32]>,
}

/// A call that is going on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame {
    pub function: u32,
    pub proto: u32,
    /// The register that was called, and where results go.
    pub called: u32,
    pub base: u32,
    pub at: u32,
    /// One more than the number of results wanted; 0 is all.
    pub want: u16,
    /// The results go to a native function, not to a script's.
    pub entry: bool,
    pub varargs: u32,
    /// Tail calls that took its place.
    pub tails: u32,
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Status {
    #[default]
    Fresh,
    Suspended,
    Running,
    /// Has resumed another one.
    Normal,
    Dead,
}

/// A thread that is not the one running.
#[derive(Default, Debug)]
pub struct Thread {
    pub stack: Vec<Value>,
    pub frames: Vec<Frame>,
    pub open: Vec<(u32, u32)>,
    pub status: Status,
    pub function: Value,
    pub nested: u32,
    pub top: usize,
    pub open_top: usize,
}

/// More memory is needed than a run may have.
pub struct Full;

#[derive(Default)]
pub struct Heap {
    pub texts: Texts,
    pub tables: Pool<Table>,
    pub functions: Pool<Function>,
    pub ups: Pool<Up>,
    pub threads: Pool<Thread>,
    pub protos: Vec<Arc<Loaded>>,
    pub bytes: usize,
    pub bytes_max: usize,
    pub collect_at: usize,
    /// The most there ever was in this run.
    pub bytes_peak: usize,
}

impl Heap {
    /// Everything made so far belongs to every run from now on.
    pub fn seal(&mut self) {
        self.texts.0.base = self.texts.0.items.len();
        self.tables.base = self.tables.items.len();
        self.functions.base = self.functions.items.len();
        self.ups.base = self.ups.items.len();
        self.threads.base = self.threads.items.len();
    }

    /// Forgets what a run made.
    pub fn reset(&mut self, bytes_max: usize) {
        self.texts.0.cut();
        self.tables.cut();
        self.functions.cut();
        self.ups.cut();
        self.threads.cut();
        self.protos.clear();
        self.bytes = 0;
        self.bytes_peak = 0;
        self.bytes_max = bytes_max;
        self.collect_at = COLLECT_BYTES_MIN.min(bytes_max / 2);
    }

    /// The number of an object as a script may see it: counted from the first one of the run.
    pub fn ordinal(&self, value: Value) -> u32 {
        match value {
            Value::Table(at) => at.wrapping_sub(self.tables.base as u32),
            Value::Function(at) => at.wrapping_sub(self.functions.base as u32),
            Value::Thread(at) => at.wrapping_sub(self.threads.base as u32),
            Value::Native(at) => u32::from(at),
            _ => 0,
        }
    }

    #[inline]
    pub fn take(&mut self, bytes: usize) -> Result<(), Full> {
        self.bytes += bytes;
        if self.bytes > self.bytes_max {
            return Err(Full);
        }
        Ok(())
    }

    pub fn give(&mut self, bytes: usize) {
        self.bytes_peak = self.bytes_peak.max(self.bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    pub fn text(&mut self, bytes: &[u8]) -> Result<Value, Full> {
        self.take(TEXT_BYTES + bytes.len())?;
        Ok(self.add_text(bytes.into()))
    }

    pub fn own_text(&mut self, bytes: Vec<u8>) -> Result<Value, Full> {
        self.take(TEXT_BYTES + bytes.len())?;
        Ok(self.add_text(bytes.into_boxed_slice()))
    }

    fn add_text(&mut self, bytes: Box<[u8]>) -> Value {
        let hash = hash(&bytes);
        Value::Text(self.texts.0.add(Text { bytes, hash }))
    }

    pub fn table(&mut self, array: usize, hash: usize) -> Result<u32, Full> {
        let bytes = super::table::TABLE_BYTES
            + array * super::table::SLOT_BYTES
            + if hash == 0 { 0 } else { hash.next_power_of_two() * super::table::NODE_BYTES };
        self.take(bytes)?;
        Ok(self.tables.add(Table::with_sizes(array, hash)))
    }

    /// Sets a key that has passed [`Table::check`], and says what it cost.
    #[inline]
    pub fn set(&mut self, table: u32, key: Value, value: Value) -> Result<u32, Full> {
        let object = self.tables.get_mut(table);
        let (done, looks) = object.replace(&self.texts, key, value);
        if done || matches!(value, Value::Nil) {
            return Ok(looks);
        }
        let before = object.bytes();
        // Memory for a larger table is refused before it is allocated.
        if self.bytes + before * 3 + 256 > self.bytes_max && !object.has_room(&self.texts, key) {
            return Err(Full);
        }
        let cost = object.set(&self.texts, key, value);
        let after = object.bytes();
        if after > before {
            self.bytes += after - before;
        } else if after < before {
            self.give(before - after);
        }
        Ok(looks + cost)
    }

    /// Makes the array part at least this long.
    pub fn make_array(&mut self, table: u32, len: usize) -> Result<(), Full> {
        let object = self.tables.get(table);
        let (have, hash) = object.sizes();
        if len > have {
            self.take((len - have) * super::table::SLOT_BYTES)?;
            self.tables.get_mut(table).resize(&self.texts, len, hash);
        }
        Ok(())
    }

    pub fn function(&mut self, function: Function) -> Result<Value, Full> {
        self.take(FUNCTION_BYTES)?;
        Ok(Value::Function(self.functions.add(function)))
    }

    pub fn up(&mut self, up: Up) -> Result<u32, Full> {
        self.take(UP_BYTES)?;
        Ok(self.ups.add(up))
    }

    pub fn thread(&mut self, thread: Thread) -> Result<u32, Full> {
        self.take(THREAD_BYTES)?;
        Ok(self.threads.add(thread))
    }

    /// Brings a function's code and that of the functions inside into this run.
    pub fn load(&mut self, proto: &Arc<Proto>) -> Result<u32, Full> {
        let mut constants = Vec::with_capacity(proto.constants.len());
        self.take(128 + 16 * proto.constants.len() + 4 * proto.kids.len())?;
        for constant in &proto.constants {
            constants.push(match constant {
                super::code::Constant::Nil => Value::Nil,
                super::code::Constant::Bool(value) => Value::Bool(*value),
                super::code::Constant::Number(number) => Value::Number(*number),
                super::code::Constant::Text(text) => self.text(text)?,
            });
        }
        let mut kids = Vec::with_capacity(proto.kids.len());
        for kid in &proto.kids {
            kids.push(self.load(kid)?);
        }
        let loaded = Loaded { proto: proto.clone(), constants: constants.into(), kids: kids.into() };
        self.protos.push(Arc::new(loaded));
        Ok(self.protos.len() as u32 - 1)
    }

    /// Collects what cannot be reached from `roots`. Gives what it cost in steps.
    pub fn collect(&mut self, roots: impl Iterator<Item = Value>, root_ups: &[u32]) -> u64 {
        let mut marks = Marks {
            texts: vec![false; self.texts.0.items.len()],
            tables: vec![false; self.tables.items.len()],
            functions: vec![false; self.functions.items.len()],
            ups: vec![false; self.ups.items.len()],
            threads: vec![false; self.threads.items.len()],
            todo: Vec::new(),
            cost: 0,
        };
        for root in roots {
            marks.mark(root);
        }
        for &up in root_ups {
            marks.up(up, &self.ups);
        }
        for loaded in &self.protos {
            for &constant in &loaded.constants {
                marks.mark(constant);
            }
        }
        while let Some(value) = marks.todo.pop() {
            marks.cost += 1;
            match value {
                Value::Table(at) => {
                    let table = self.tables.get(at);
                    marks.cost += table.places() as u64 / 4;
                    if let Some(meta) = table.meta {
                        marks.mark(Value::Table(meta));
                    }
                    for value in table.every() {
                        marks.mark(value);
                    }
                }
                Value::Function(at) => match self.functions.get(at) {
                    Function::Script { ups, .. } => {
                        for &up in ups {
                            marks.up(up, &self.ups);
                        }
                    }
                    Function::Native { keeps, .. } => {
                        for &value in keeps {
                            marks.mark(value);
                        }
                    }
                },
                Value::Thread(at) => {
                    let thread = self.threads.get(at);
                    marks.cost += thread.stack.len() as u64 / 4;
                    marks.mark(thread.function);
                    for &value in &thread.stack {
                        marks.mark(value);
                    }
                    for frame in &thread.frames {
                        marks.mark(Value::Function(frame.function));
                    }
                    for &(_, up) in &thread.open {
                        marks.up(up, &self.ups);
                    }
                }
                _ => {}
            }
        }
        let mut freed = 0;
        sweep(&mut self.texts.0, &marks.texts, |text| freed += TEXT_BYTES + text.bytes.len());
        sweep(&mut self.tables, &marks.tables, |table| freed += table.bytes());
        sweep(&mut self.functions, &marks.functions, |_| freed += FUNCTION_BYTES);
        sweep(&mut self.ups, &marks.ups, |_| freed += UP_BYTES);
        sweep(&mut self.threads, &marks.threads, |thread| freed += THREAD_BYTES + thread.stack.len() * 16);
        let objects = marks.texts.len() + marks.tables.len() + marks.functions.len() + marks.ups.len();
        self.give(freed);
        self.collect_at = (self.bytes * 2).max(COLLECT_BYTES_MIN).min(self.bytes.midpoint(self.bytes_max));
        marks.cost + objects as u64 / 8
    }
}

struct Marks {
    texts: Vec<bool>,
    tables: Vec<bool>,
    functions: Vec<bool>,
    ups: Vec<bool>,
    threads: Vec<bool>,
    todo: Vec<Value>,
    cost: u64,
}

impl Marks {
    fn mark(&mut self, value: Value) {
        let marks = match value {
            Value::Text(at) => {
                self.texts[at as usize] = true;
                return;
            }
            Value::Table(at) => &mut self.tables[at as usize],
            Value::Function(at) => &mut self.functions[at as usize],
            Value::Thread(at) => &mut self.threads[at as usize],
            _ => return,
        };
        if !std::mem::replace(marks, true) {
            self.todo.push(value);
        }
    }

    fn up(&mut self, at: u32, ups: &Pool<Up>) {
        if !std::mem::replace(&mut self.ups[at as usize], true) {
            // An open one lies in the stack of a thread.
            match *ups.get(at) {
                Up::Closed(value) => self.mark(value),
                Up::Open { thread, .. } => self.mark(Value::Thread(thread)),
            }
        }
    }
}

/// Empties the places above the base that have no mark. They are used again from the lowest on.
fn sweep<T: Default>(pool: &mut Pool<T>, marks: &[bool], mut freed: impl FnMut(&T)) {
    let mut was_free = vec![false; marks.len()];
    for &at in &pool.free {
        was_free[at as usize] = true;
    }
    pool.free.clear();
    for at in (pool.base..pool.items.len()).rev() {
        if !marks[at] {
            if !was_free[at] {
                freed(&pool.items[at]);
                pool.items[at] = T::default();
            }
            pool.free.push(at as u32);
        }
    }
}
