//! A Lua 5.1 that is the same everywhere: compiler, heap, machine.

pub mod number;
mod lexer;
pub mod code;
mod emit;
pub mod compile;
mod expressions;
pub mod value;
pub mod table;
pub mod heap;
pub mod vm;
pub mod operate;
mod run;
