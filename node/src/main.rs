//! The program: see [`loci_node::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    loci_node::cli::main()
}
