//! Comparing a node's files with their checksums, on its own machine. Nothing is changed, so the node may run.
//!
//! ```text
//!   checkpoint of each shard ---> log ---> checkpoint of each shard, and its files
//!   first applied <= the log's last        its start <= then applied       (both only grow while the node runs)
//! ```

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use loci_index::directory::MmapDirectory;
use loci_index::store::{StoreError, check_file, checkpoint_files, named_files};
use loci_raft::{LogError, LogIndex, RestoreError, ShardId, VerifiedFile, VerifiedLog};
use serde_json::json;

use super::failure::Failure;
use super::output::{Rows, print, print_json};
use crate::cluster::snapshot::Stand;
use crate::run::RunError;
use crate::shards::CATALOG;

#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The node's data directory.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// One JSON value.
    #[arg(long)]
    json: bool,
}

/// What was found of one shard.
#[derive(Default)]
struct Verified {
    shard: u32,
    files: u64,
    bytes: u64,
    damaged: Vec<String>,
}

/// Reads every file that the shards' manifests name, and every frame of the log.
pub fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let folder = args.data.join("shards");
    let entries = fs::read_dir(&folder).map_err(|error| Failure::file(&folder, error))?;
    let mut shards: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    shards.sort_unstable();
    let before: Vec<Option<LogIndex>> = shards.iter().map(|shard| applied(&folder, *shard)).collect();
    let path = args.data.join("log");
    let log_bytes = bytes_in(&path);
    let bar = bar(bytes_in(&folder) + log_bytes);
    bar.set_message("log");
    let (log, unread) = match VerifiedLog::read(&path) {
        Ok(log) => (log, None),
        Err(error) => (VerifiedLog::default(), Some(Failure::file(&path, whole(&error)))),
    };
    bar.inc(log_bytes);
    let of_shard = |(shard, before): (u32, Option<LogIndex>)| {
        bar.set_message(format!("shard {shard}"));
        let mut verified = of_shard(&folder, shard, &bar);
        verified.damaged.extend(misfit(&args.data, shard, before, &log));
        verified
    };
    let all: Vec<Verified> = shards.into_iter().zip(before).map(of_shard).collect();
    bar.finish_and_clear();
    if args.json {
        let shard = |shard: &Verified| json!({ "shard": shard.shard, "files": shard.files, "bytes": shard.bytes, "damaged": shard.damaged });
        let file = |file: &VerifiedFile| {
            let cut = file.cut.as_ref().map(|cut| json!({ "offset": cut.offset, "bytes": cut.bytes }));
            let damaged = file.damage.as_ref().map(whole);
            json!({ "file": file.name, "frames": file.frames, "bytes": file.bytes, "damaged": damaged, "cut": cut })
        };
        let shards: Vec<_> = all.iter().map(shard).collect();
        print_json(&json!({ "shards": shards, "log": log.files.iter().map(file).collect::<Vec<_>>() }))?;
    } else {
        let mut rows = Rows::new(&[">shard", ">files", ">bytes", "damaged"]);
        for Verified { shard, files, bytes, damaged } in &all {
            let damaged = if damaged.is_empty() { "nothing".to_owned() } else { damaged.join("; ") };
            rows.push([shard.to_string(), files.to_string(), bytes.to_string(), damaged]);
        }
        print(rows.text())?;
        let mut rows = Rows::new(&["log", ">frames", ">bytes", "damaged"]);
        for file in &log.files {
            let damaged = match (&file.damage, &file.cut) {
                (Some(error), _) => whole(error),
                (None, None) => "nothing".to_owned(),
                (None, Some(cut)) => {
                    format!("nothing; not closed: a start cuts what lies behind byte {}", cut.offset)
                }
            };
            rows.push([file.name.clone(), file.frames.to_string(), file.bytes.to_string(), damaged]);
        }
        print(format!("\n{}", rows.text()))?;
    }
    if let Some(unread) = unread {
        return Err(unread);
    }
    let of_log = log.files.iter().filter(|file| file.damage.is_some()).count();
    match all.iter().map(|shard| shard.damaged.len()).sum::<usize>() + of_log {
        0 => Ok(()),
        damaged => Err(Failure::refused(format!("{}: {damaged} files are damaged", args.data.display()))),
    }
}

/// How far it is, on a terminal.
fn bar(bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {percent:>3}% {bytes} of {total_bytes}, {eta} left");
    let bar = ProgressBar::new(bytes);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

/// What the files in a folder take, and in those in it. What comes or goes meanwhile does not matter.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        metadata => metadata.map_or(0, |metadata| metadata.len()),
    };
    entries.map(bytes).sum()
}

/// What went wrong with the log, and what the disk said of it.
fn whole(error: &LogError) -> String {
    error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}

/// Up to where a shard's checkpoint has the log's entries; none if that cannot be read.
fn applied(folder: &Path, shard: u32) -> Option<LogIndex> {
    let directory = MmapDirectory::used(folder.join(shard.to_string()));
    checkpoint_files(&directory).ok().map(|(_, applied, _)| LogIndex(applied))
}

/// Why a node does not start with this checkpoint and this log, one of which is older than it was. (A log that does not know the
/// snapshot that a store came as begins anew behind it.)
fn misfit(data: &Path, number: u32, before: Option<LogIndex>, log: &VerifiedLog) -> Option<String> {
    let (folder, shard) = (data.join("shards"), ShardId(number));
    let (before, applied) = (before?, applied(&folder, number)?);
    let stand = Stand::read(&folder.join(number.to_string())).ok().flatten();
    let Some((start, last)) = log.kept.get(&shard).copied() else {
        let came = stand.is_some_and(|stand| stand.index == applied);
        let missing = RunError::NotInLog { path: data.into(), shard: number };
        return (log.whole && number == CATALOG && !came).then(|| missing.to_string());
    };
    if applied < start {
        return Some(RestoreError::StoreBehind { shard, applied, start }.to_string());
    }
    let came = stand.is_some_and(|stand| stand.index == before);
    (before > last && !came).then(|| RestoreError::LogBehind { shard, applied: before, last }.to_string())
}

fn of_shard(folder: &Path, shard: u32, bar: &ProgressBar) -> Verified {
    let directory = MmapDirectory::used(folder.join(shard.to_string()));
    let mut verified = Verified { shard, ..Verified::default() };
    let names = match named_files(&directory) {
        Ok(names) => names,
        Err(error) => {
            verified.damaged.push(error.to_string());
            return verified;
        }
    };
    for name in names {
        let mut read = 0;
        let mut check = || -> Result<(), StoreError> {
            read = 0;
            check_file(&directory.open_to_check(&name)?, &mut |bytes| {
                read += bytes;
                bar.inc(bytes);
                true
            })?;
            Ok(())
        };
        let is_named = || named_files(&directory).map_or(true, |names| names.contains(&name));
        // A running node may have replaced it meanwhile.
        if let Err(error) = check()
            && is_named()
            && check().is_err()
        {
            verified.damaged.push(error.to_string());
        }
        verified.files += 1;
        verified.bytes += read;
    }
    verified
}
