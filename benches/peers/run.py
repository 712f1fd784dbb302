#!/usr/bin/env python3
"""Measures loci and the libraries people compare it with: same data, same M and efConstruction, same threads, one run.

  benches/peers/run.py SETS/minilm-60k                 all engines, one after the other, and a table
  benches/peers/run.py SETS/minilm-60k --engines loci,hnswlib
  benches/peers/run.py SETS/minilm-60k --minutes 20         no engine takes longer; the table says which would have
  benches/peers/run.py --table target/peers/minilm-60k.jsonl     the table again, from what was written

Needs Python 3.10 or newer with venv, and cargo for loci and hnsw_rs. The libraries are installed once into a virtual
environment in --dir (target/peers unless given), outside of what cargo builds. README.md beside this file says what
is measured, how, and where the sets come from.
"""
import argparse
import json
import math
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
import venv

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
PACKAGES = ["numpy", "hnswlib==0.8.0", "usearch==2.26.*", "faiss-cpu==1.15.*"]
PYTHON = ["exact", "hnswlib", "usearch", "usearch-i8", "faiss-hnsw", "faiss-sq8", "faiss-sq8-refine"]
RUST = ["hnsw_rs", "loci", "loci-no-codes", "loci-f16"]
RUST_OPTIONS = {"loci-no-codes": ["--no-codes"], "loci-f16": ["--half"]}
RECALLS = [0.90, 0.95, 0.98, 0.99]


def environment(folder):
    """The Python of the virtual environment, made and filled at the first run."""
    path = os.path.join(folder, "venv")
    python = os.path.join(path, "bin", "python")
    marker = os.path.join(path, "installed")
    wanted = " ".join(PACKAGES)
    if not os.path.exists(marker) or open(marker).read() != wanted:
        print(f"installing {wanted} into {path}", file=sys.stderr)
        venv.create(path, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        with open(marker, "w") as file:
            file.write(wanted)
    return python


def at_recall(ladder, recall, of):
    """The value of `of` where the ladder reaches this recall: between two rungs, its logarithm runs straight over the
    logarithm of what recall lacks. None: the ladder does not reach it; below the first rung, the first rung's."""
    def lack(rung):
        return -math.log(max(1.0 - rung["recall"], 1e-5))
    below = None
    for rung in ladder:
        if rung.get(of) is None:
            return None
        if rung["recall"] >= recall:
            if below is None or lack(rung) <= lack(below):
                return rung[of]
            part = (-math.log(1.0 - recall) - lack(below)) / (lack(rung) - lack(below))
            return math.exp((1 - part) * math.log(below[of]) + part * math.log(rung[of]))
        below = rung
    return None


def load():
    return os.getloadavg()[0]


def measure(a, engine, python):
    if engine in PYTHON:
        command = [python, os.path.join(HERE, "measure.py"), engine, a.set]
    else:
        command = ["cargo", "run", "--release", "--quiet", "--manifest-path", os.path.join(ROOT, "Cargo.toml"),
                   "-p", "loci-benches", "--bin", "ann", "--", a.set, "--engine", engine.split("-")[0],
                   *RUST_OPTIONS.get(engine, [])]
    command += ["--m", str(a.m), "--ef-construction", str(a.ef_construction), "--threads", str(a.threads)]
    if a.queries:
        command += ["--queries", str(a.queries)]
    before = load()
    row, ended = {}, "failed"
    for line in output(command, a.minutes * 60):
        if line is None:
            ended = "late"
        elif isinstance(line, int):
            ended = "done" if line == 0 else "failed"
            row.update({"exit_code": line} if line else {})
        elif line.startswith("{"):
            # The last row is the whole one; those before have as much of the ladder as was climbed.
            row = json.loads(line)
            row["load_before"] = before
    if ended != "done":
        row.update(engine=engine, ended=ended, minutes=a.minutes)
        print(f"{engine}: {unfinished(row)}", file=sys.stderr, flush=True)
    return row


def output(command, seconds):
    """The lines of a program's output, then its exit code; None instead if it took longer, and was ended with all of its
    children. 0 seconds: as long as it takes."""
    deadline = time.monotonic() + seconds if seconds else None
    child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            rest = b""
            while True:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0 or not selector.select(left):
                    yield None
                    return
                got = os.read(child.stdout.fileno(), 1 << 16)
                if not got:
                    break
                *whole, rest = (rest + got).split(b"\n")
                yield from (line.decode() for line in whole)
        yield child.wait()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        child.stdout.close()


def unfinished(row):
    """What became of an engine that did not come to its end."""
    if row["ended"] == "failed":
        return f"failed with exit code {row.get('exit_code')}"
    if "build_seconds" not in row:
        return f"not built after {row['minutes']:g} minutes"
    efforts = f"efforts up to {row['ladder'][-1]['ef']}" if row["ladder"] else "no effort"
    return f"built, and searched with {efforts} after {row['minutes']:g} minutes"


def number(value, form="{:,.0f}"):
    return "-" if value is None else form.format(value)


def noisy(row):
    """Whether somebody else had the processor meanwhile: by processor time it would have been a tenth faster."""
    if row["engine"] == "exact":
        return False
    return any(rung["qps_cpu"] > 1.1 * rung["qps"] for rung in row["ladder"])


def table(rows, clock):
    qps = "qps_cpu" if clock == "cpu" else "qps"
    head = ["engine", "build s", "cpu s", "index MB", "memory MB"]
    head += [f"qps@{recall:.2f}" for recall in RECALLS]
    head += ["p50 us", "p99 us", "dist@.95", "dist@.99", "KB@.95", "max recall"]
    lines = [head]
    built = [row for row in rows if "build_seconds" in row]
    for row in rows:
        if "build_seconds" not in row:
            lines.append([row["engine"]] + ["-"] * (len(head) - 1))
            continue
        ladder = row["ladder"]
        mark = "~" if noisy(row) else ""
        line = [row["engine"] + mark, number(row["build_seconds"], "{:.1f}"),
                number(row.get("build_cpu_seconds"), "{:.1f}"), number(row["index_bytes"] / 1e6),
                number(row["memory_bytes"] / 1e6)]
        line += [number(at_recall(ladder, recall, qps)) for recall in RECALLS]
        line += [number(at_recall(ladder, 0.95, "p50_us")), number(at_recall(ladder, 0.95, "p99_us"))]
        line += [number(at_recall(ladder, recall, "distances")) for recall in (0.95, 0.99)]
        kilobytes = at_recall(ladder, 0.95, "bytes_read")
        line += [number(kilobytes and kilobytes / 1e3), number(max((r["recall"] for r in ladder), default=None), "{:.4f}")]
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    first = built[0] if built else None
    if first:
        print(f"\n{first['set']}: {first['n']:,} x {first['d']}, {first['queries']:,} queries, M {first['m']}, "
              f"efConstruction {first['ef_construction']}, {first['threads']} threads to build, 1 to search; "
              f"vectors alone {first['vector_bytes'] / 1e6:,.0f} MB\n")
    for line in lines:
        cells = [line[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
        print("  ".join(cells).rstrip())
    for row in rows:
        if row.get("ended"):
            print(f"{row['engine']}: {unfinished(row)}")
    by = "seconds of processor time" if clock == "cpu" else "seconds"
    print(f"\nqps: by {by}, one thread, best of three passes, interpolated at that recall@10. p50, p99: single calls at 0.95; of "
          "Python's engines with its call.\nmemory: growth of the process by building, vectors included. "
          "KB: read of codes, vectors and links for each query.\n~: the processor was shared meanwhile; its qps are "
          "too low. loads before each engine: "
          + ", ".join(f"{row['load_before']:.1f}" for row in rows if "load_before" in row))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set", nargs="?", help="folder of a data set")
    parser.add_argument("--engines", default=",".join(PYTHON + RUST[:2]), help="default: %(default)s")
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2, help="threads that build; searching is always one")
    parser.add_argument("--queries", type=int, default=0, help="only so many of the queries; default: all")
    parser.add_argument("--dir", default=os.path.join(ROOT, "target", "peers"), help="environment and results")
    parser.add_argument("--table", metavar="FILE", help="only print the table of this file")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: queries a second of processor "
                        "time, on a machine that others use too")
    parser.add_argument("--minutes", type=float, default=0, help="an engine that takes longer is ended, and the table "
                        "says so; default: as long as it takes")
    parser.add_argument("--keep", action="store_true", help="add to earlier results; an engine measured again replaces "
                        "its earlier row")
    a = parser.parse_args()
    if a.table:
        with open(a.table) as file:
            table([json.loads(line) for line in file], a.clock)
        return
    if not a.set:
        parser.error("which set? give its folder")
    engines = a.engines.split(",")
    unknown = [engine for engine in engines if engine not in PYTHON + RUST]
    if unknown:
        parser.error(f"unknown engine {', '.join(unknown)}: there are {', '.join(PYTHON + RUST)}")
    os.makedirs(a.dir, exist_ok=True)
    a.set = os.path.abspath(a.set)
    python = environment(a.dir) if any(engine in PYTHON for engine in engines) else None
    if any(engine in RUST for engine in engines):
        if not shutil.which("cargo"):
            parser.error("cargo is not on the path; leave loci and hnsw_rs out with --engines")
        subprocess.run(["cargo", "build", "--release", "--manifest-path", os.path.join(ROOT, "Cargo.toml"), "-p",
                        "loci-benches", "--bin", "ann"], check=True)
    out = os.path.join(a.dir, os.path.basename(a.set) + ".jsonl")
    rows = []
    if a.keep and os.path.exists(out):
        with open(out) as file:
            rows = [row for row in map(json.loads, file) if row["engine"] not in engines]
    for number_, engine in enumerate(engines, 1):
        print(f"[{number_}/{len(engines)}] {engine} ...", file=sys.stderr, flush=True)
        rows.append(measure(a, engine, python))
        with open(out, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    if rows:
        table(rows, a.clock)
    print(f"\nrows in {out}")


if __name__ == "__main__":
    main()
