//! loci
fn main() {}
