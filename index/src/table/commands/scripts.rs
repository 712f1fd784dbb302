//! Scripts and functions, as far as they are commands, and `SWAPDB`: what reaches further than one keyspace.
//! [`scripting`](super::super::scripting) and the store carry them out.

use super::{DENYOOM, FAST, Keys, NOSCRIPT, READONLY, Run, Spec, WRITE};

const fn eval(name: &'static str, flags: u32) -> Spec {
    Spec { name, arity: -3, flags: NOSCRIPT | flags, keys: Keys::Counted(2, None), run: Run::Script }
}

pub(super) const SPECS: &[Spec] = &[
    eval("eval", WRITE | DENYOOM),
    eval("evalsha", WRITE | DENYOOM),
    eval("eval_ro", READONLY),
    eval("evalsha_ro", READONLY),
    eval("fcall", WRITE | DENYOOM),
    eval("fcall_ro", READONLY),
    Spec { name: "function", arity: -2, flags: NOSCRIPT, keys: Keys::None, run: Run::Script },
    // Of the places that the databases have among those of the command.
    Spec { name: "swapdb", arity: 3, flags: WRITE | FAST, keys: Keys::None, run: Run::Swap },
    Spec { name: "script", arity: -2, flags: NOSCRIPT, keys: Keys::None, run: Run::Script },
];
