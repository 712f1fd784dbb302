//! The command line: `loci serve` is a node, every other command is a client of one.
//!
//! ```text
//! main --> Command --> serve                                     (a node in this process)
//!               |----> admin, records, cache, search                  (one call, one answer)
//!               |----> ingest --> source (jsonl, npy, fvecs, parquet)
//!               `----> bench, demo
//! ```
//!
//! Results go to standard output as tables or, with `--json`, one JSON value; everything else goes to standard error.

mod connect;
mod admin;
mod cluster;
mod cluster_add;
mod cluster_voters;
mod replicas;
mod records;
mod search;
mod watch;
mod explain;
mod filter_language;
mod json;
mod time;
mod output;
mod latencies;
mod failure;
mod source;
mod ingest;
mod bench;
mod cache;
mod demo;
mod verify;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::ServeArgs;
use failure::Failure;

/// Memory and hot cache for teams of agents: records found by key and by nearness.
#[derive(Debug, Parser)]
#[command(name = "loci", version, max_term_width = 100, after_help = failure::EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Serve(ServeArgs),
    /// Ask a node whether it is ready.
    Ping(admin::PingArgs),
    /// Namespaces: create, list, change on how many nodes one is, drop.
    #[command(subcommand)]
    Namespace(admin::NamespaceCommand),
    /// Collections: create, list, describe, alter, drop.
    #[command(subcommand)]
    Collection(admin::CollectionCommand),
    /// The cluster: who takes part and who leads, and who is to; show it and change it.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Compare the files of a node on this machine, stores and log, with their checksums; it may run.
    Verify(verify::VerifyArgs),
    /// How the node is doing.
    Stats(admin::StatsArgs),
    /// Write a record.
    Put(records::PutArgs),
    /// Read records by key.
    Get(records::GetArgs),
    /// Delete records by key, or all that a filter takes.
    Delete(records::DeleteArgs),
    /// Find records: near a vector or another record, with words, or by several of these together.
    Search(Box<search::SearchArgs>),
    /// List records in the order of their keys.
    Scan(records::ScanArgs),
    /// Show what changes in a collection, a line for each change, from now or from a token on.
    Watch(watch::WatchArgs),
    /// Count records.
    Count(records::CountArgs),
    /// Carry out a command on typed values, as clients of Redis have them.
    Cache(cache::CacheArgs),
    /// Write the records of files: JSONL, .npy, .fvecs, Parquet.
    Ingest(ingest::IngestArgs),
    /// Drive a running node and measure it.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show what loci does, on a node of its own with real data. Takes under a minute.
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

/// The program.
pub fn main() -> ExitCode {
    let line = match crate::config_file::merged(std::env::args_os().collect()) {
        Ok(line) => line,
        Err(error) => {
            let failure = Failure::usage(error.to_string());
            eprintln!("loci: {failure}");
            return failure.exit_code();
        }
    };
    let command = Cli::parse_from(line).command;
    let command = match command {
        Command::Serve(args) => {
            return match crate::run::serve_command(args) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("loci: {error}");
                    ExitCode::from(error.exit_code())
                }
            };
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "loci", &mut io::stdout());
            return ExitCode::SUCCESS;
        }
        command => command,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("loci: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(command));
    // A reader of files may still be blocked; nothing waits for it.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("loci: {failure}");
            failure.exit_code()
        }
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(_) | Command::Completions { .. } => unreachable!("main has done these"),
        Command::Ping(args) => admin::ping(args).await,
        Command::Namespace(command) => admin::namespace(command).await,
        Command::Collection(command) => admin::collection(command).await,
        Command::Cluster(command) => cluster::cluster(command).await,
        Command::Verify(args) => verify::verify(&args),
        Command::Stats(args) => admin::stats(args).await,
        Command::Put(args) => records::put(args).await,
        Command::Get(args) => records::get(args).await,
        Command::Delete(args) => records::delete(args).await,
        Command::Search(args) => search::search(*args).await,
        Command::Scan(args) => records::scan(args).await,
        Command::Count(args) => records::count(args).await,
        Command::Watch(args) => watch::watch(args).await,
        Command::Cache(args) => cache::cache(args).await,
        Command::Ingest(args) => ingest::ingest(args).await,
        Command::Bench(command) => bench::bench(command).await,
        Command::Demo(args) => demo::demo(args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
