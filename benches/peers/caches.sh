#!/usr/bin/env bash
# How often caches of as many bytes find what they are asked for: loci's policies beside moka, quick_cache and Redis.
#
#   benches/peers/caches.sh [OPTIONS OF THE BENCH]        (for example --bytes 67108864 --requests 8000000)
#
# Starts a redis-server on a free port, runs the bench against it, and stops it again. Needs Rust and redis-server.
set -euo pipefail
cd "$(dirname "$0")/../.."

command -v redis-server >/dev/null 2>&1 || { echo "caches.sh: there is no redis-server here (Debian: apt-get install redis-server)" >&2; exit 1; }
port=$((20000 + RANDOM % 10000))
folder=$(mktemp -d)
redis-server --port "$port" --bind 127.0.0.1 --save "" --appendonly no --dir "$folder" >"$folder/log" &
server=$!
trap 'kill "$server"; wait "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT
for _ in {1..100}; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    sleep 0.05
done
cargo run --release --manifest-path benches/peers/driver/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}/peers/driver" \
    --no-default-features --features caches --bin caches -- --redis "127.0.0.1:$port" "$@"
