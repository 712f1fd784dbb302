#!/usr/bin/env bash
# Three nodes on this machine, clients that write, and a leader that is killed with SIGKILL while they do: what do the clients see?
#
#   examples/cluster.sh [PATH OF loci]        (default: target/release/loci; `cargo build --release` makes it)
#
# Takes about half a minute, on a temporary directory that is removed at the end, like the nodes. Exit code 1 if an acknowledged
# write is missing. Needs bash 5 and the program.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
loci=${1:-$here/target/release/loci}
clients=4
before_kill=3
while_dead=5
after_restart=3

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'cluster.sh: %s\n' "$*" >&2; exit 1; }

[ "${BASH_VERSINFO[0]}" -ge 5 ] || fail "bash 5 or newer is needed, this is $BASH_VERSION"
[ -x "$loci" ] || fail "there is no program at $loci: run cargo build --release, or give the path of one"
unset LOCI_ADDRESS LOCI_NAMESPACE LOCI_PRINCIPAL

directory=$(mktemp -d "${TMPDIR:-/tmp}/loci-cluster.XXXXXX")
declare -A pids=()
writers=()

clean_up() {
    touch "$directory/stop"
    for pid in ${writers[@]+"${writers[@]}"} ${pids[@]+"${pids[@]}"}; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    # A node that is being killed may still be writing.
    rm -rf "$directory" 2>/dev/null || { sleep 1; rm -rf "$directory"; }
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# Three ports that nobody answers on just now.
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
base=$((20000 + RANDOM % 10000))
while taken $base || taken $((base + 1)) || taken $((base + 2)); do base=$((20000 + RANDOM % 10000)); done
address() { echo "127.0.0.1:$((base + $1 - 1))"; }
all="$(address 1),$(address 2),$(address 3)"

start() {
    "$loci" serve --data "$directory/$1" --listen "$(address "$1")" --join "$all" --metrics off --memory-mib 256 \
        --graph-threads 1 --log-file-mib 4 >"$directory/$1.out" 2>>"$directory/$1.log" &
    pids[$1]=$!
    # Or the shell would tell of it when it is killed.
    disown
}

# A node says where it listens once it answers.
wait_for() {
    for _ in {1..300}; do
        if grep -q '^listening' "$directory/$1.out"; then return; fi
        if ! kill -0 "${pids[$1]}" 2>/dev/null; then break; fi
        sleep 0.1
    done
    tail -n 5 "$directory/$1.out" "$directory/$1.log" >&2
    fail "node $1 does not start"
}

status() { "$loci" cluster status --address "$all"; }

now() { echo "${EPOCHREALTIME/[.,]/}"; }

# One client: one write after the other, each under a key of its own. Tells of each when it ended, how, and how long it took.
write() {
    local number=0 begun ended how
    while [ ! -e "$directory/stop" ]; do
        number=$((number + 1))
        begun=$(now)
        if "$loci" put visits "$1-$number" "of client $1" --address "$all" --timeout 10s >/dev/null 2>>"$directory/errors-$1"
        then how=ok; else how=failed; fi
        ended=$(now)
        echo "$ended $how $((ended - begun)) $1-$number"
    done >"$directory/client-$1"
}

say "three nodes, all told the same three addresses: $all"
for node in 1 2 3; do start $node; done
for node in 1 2 3; do wait_for $node; done
for _ in {1..100}; do
    if [ "$(status | grep -cE ' (leader|voter) .* ok ')" = 3 ]; then break; fi
    sleep 0.1
done
status

say "$clients clients write, each one record after the other"
"$loci" collection create visits --address "$all"
for client in $(seq $clients); do write "$client" & writers+=($!); done
sleep $before_kill

leader=$(status | awk '$2 == "leader" { print $3 }')
for node in 1 2 3; do if [ "$(address $node)" = "$leader" ]; then victim=$node; fi; done
say "the leader, $leader, is killed with SIGKILL"
kill -KILL "${pids[$victim]}"
sleep $while_dead
status

say "it is started again, on the data that it had"
start "$victim"
begun=$(now)
wait_for "$victim"
echo "ready after $((($(now) - begun) / 1000)) ms"
sleep $after_restart
touch "$directory/stop"
for writer in "${writers[@]}"; do wait "$writer"; done
writers=()
# What is known of lag is half a second old.
sleep 1
status

say "what the clients saw"
printf '%8s  %6s  %6s  %14s  %14s\n' client writes failed "longest call" "longest gap"
for client in $(seq $clients); do
    awk -v client="$client" '
        { took = $3 / 1000; if (took > longest) longest = took }
        $2 != "ok" { failed++; next }
        { writes++; if (last && ($1 - last) / 1000 > gap) gap = ($1 - last) / 1000; last = $1 }
        END { printf "%8s  %6d  %6d  %11.0f ms  %11.0f ms\n", client, writes, failed, longest, gap }
    ' "$directory/client-$client"
done
cat "$directory"/errors-* | sort | uniq -c | head -n 5

say "is every acknowledged write there?"
awk '$2 == "ok" { print $4 }' "$directory"/client-* | sort >"$directory/acknowledged"
"$loci" scan visits --limit 0 --json --address "$all" | sed -n 's/.*"key":"\([^"]*\)".*/\1/p' | sort >"$directory/there"
missing=$(comm -23 "$directory/acknowledged" "$directory/there" | wc -l)
echo "$(wc -l <"$directory/acknowledged") acknowledged, $(wc -l <"$directory/there") there, $missing missing"
[ "$missing" = 0 ] || fail "acknowledged writes are missing"
