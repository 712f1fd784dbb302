//! loci

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "loci", version)]
enum Cli {
    Serve(loci_node::config::ServeArgs),
}

fn main() -> ExitCode {
    let Cli::Serve(args) = Cli::parse();
    match loci_node::run::serve_command(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loci: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
