//! Compiles the protobuf files without a protoc on the machine.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const FILES: [&str; 7] = [
    "proto/loci/v1/types.proto",
    "proto/loci/v1/cache.proto",
    "proto/loci/v1/records.proto",
    "proto/loci/v1/admin.proto",
    "proto/loci/v1/watch.proto",
    "proto/loci/v1/semantic_cache.proto",
    "proto/loci/v1/peers.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
