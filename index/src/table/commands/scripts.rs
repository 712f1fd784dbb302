//! Scripts, as far as they are commands; [`scripting`](super::super::scripting) carries them out.

use super::{DENYOOM, Keys, NOSCRIPT, READONLY, Run, Spec, WRITE};

const fn eval(name: &'static str, flags: u32) -> Spec {
    Spec { name, arity: -3, flags: NOSCRIPT | flags, keys: Keys::Counted(2, None), run: Run::Script }
}

pub(super) const SPECS: &[Spec] = &[
    eval("eval", WRITE | DENYOOM),
    eval("evalsha", WRITE | DENYOOM),
    eval("eval_ro", READONLY),
    eval("evalsha_ro", READONLY),
    Spec { name: "script", arity: -2, flags: NOSCRIPT, keys: Keys::None, run: Run::Script },
];
