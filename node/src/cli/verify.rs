//! Comparing a node's files with their checksums, on its own machine. Nothing is changed, so the node may run.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use loci_index::directory::MmapDirectory;
use loci_index::store::{StoreError, check_file, named_files};
use serde_json::json;

use super::failure::Failure;
use super::output::{Rows, print, print_json};

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

/// Reads every file that the shards' manifests name.
pub fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let folder = args.data.join("shards");
    let entries = fs::read_dir(&folder).map_err(|error| Failure::file(&folder, error))?;
    let mut shards: Vec<u32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    shards.sort_unstable();
    let all: Vec<Verified> = shards.into_iter().map(|shard| of_shard(&folder, shard)).collect();
    if args.json {
        let shard = |shard: &Verified| json!({ "shard": shard.shard, "files": shard.files, "bytes": shard.bytes, "damaged": shard.damaged });
        print_json(&json!(all.iter().map(shard).collect::<Vec<_>>()))?;
    } else {
        let mut rows = Rows::new(&[">shard", ">files", ">bytes", "damaged"]);
        for Verified { shard, files, bytes, damaged } in &all {
            let damaged = if damaged.is_empty() { "nothing".to_owned() } else { damaged.join("; ") };
            rows.push([shard.to_string(), files.to_string(), bytes.to_string(), damaged]);
        }
        print(rows.text())?;
    }
    match all.iter().map(|shard| shard.damaged.len()).sum::<usize>() {
        0 => Ok(()),
        damaged => Err(Failure::refused(format!("{}: {damaged} files are damaged", folder.display()))),
    }
}

fn of_shard(folder: &Path, shard: u32) -> Verified {
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
