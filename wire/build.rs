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

/// A pipeline's message is as small as its smallest call, on all of its way: each kind of call is behind a pointer.
const CALLS: [&str; 8] = ["put", "get", "delete", "batch", "scan", "count", "search", "execute"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let calls = CALLS.map(|call| format!(".loci.v1.PipelineRequest.call.{call}"));
    let messages = tonic_prost_build::configure().bytes(".").build_server(false);
    let messages = calls.iter().fold(messages, |messages, call| messages.boxed(call));
    messages.compile_fds(descriptors.clone())?;
    // Servers read requests by a codec of ours, clients read replies by tonic's: each is generated with its own.
    let servers = out.join("servers");
    fs::create_dir_all(&servers)?;
    tonic_prost_build::configure()
        .build_client(false)
        .extern_path(".loci.v1", "crate::v1")
        .codec_path("crate::codec::RequestCodec")
        .out_dir(servers)
        .compile_fds(descriptors)?;
    Ok(())
}
