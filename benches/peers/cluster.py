#!/usr/bin/env python3
"""Three nodes of loci beside three members of etcd: durable replicated puts and linearizable gets, in one run.

    benches/peers/cluster.py --loci target/release/loci [--etcd etcd] [--dir target/peers] [--seconds 5]

Each cluster runs alone, one after the other, on this machine and this disk with everything else that it needs: three processes, and
the callers. Values have 100 bytes; all calls go to the node that leads. The driver of etcd (driver/) is built with cargo at the first
run; on Debian etcd comes with `apt-get install etcd-server`. Where there is Go and etcd's own client (`apt-get install golang-go
golang-etcd-server-dev`) etcd is driven by that too, with one connection for all callers and with one for each.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

CALLERS = [1, 64, 256]
GO_CODE = "/usr/share/gocode"
HERE = pathlib.Path(__file__).resolve().parent


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait(what, is_so, seconds=60):
    begun = time.time()
    while time.time() - begun < seconds:
        try:
            found = is_so()
            if found:
                return found
        except (OSError, subprocess.CalledProcessError, ValueError, KeyError):
            pass
        time.sleep(0.2)
    sys.exit(f"{what} did not come within {seconds} s")


def built(folder):
    """The program that drives the peers."""
    target = (folder / "driver").resolve()
    subprocess.run(["cargo", "build", "--quiet", "--release", "--target-dir", str(target)], cwd=HERE / "driver", check=True)
    return target / "release" / "peer-driver"


def own_client(folder):
    """The program that drives etcd by etcd's own client, if it can be built here."""
    if not shutil.which("go") or not pathlib.Path(GO_CODE, "src/go.etcd.io/etcd/clientv3").is_dir():
        return None
    program = (folder / "etcd-client").resolve()
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": GO_CODE}
    subprocess.run(["go", "build", "-o", program, HERE / "etcd_client" / "main.go"], env=environment, check=True)
    return program


class Running:
    """Processes that end with the block."""

    def __init__(self, commands):
        self.processes = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in commands
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def loci(program, folder, seconds):
    ports = free_ports(3)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    commands = [
        [program, "serve", "--data", str(folder / str(number)), "--listen", address, "--join", ",".join(addresses)]
        + ["--metrics", "off", "--log-level", "warn"]
        for number, address in enumerate(addresses)
    ]
    with Running(commands):

        def leader():
            text = subprocess.check_output(
                [program, "cluster", "status", "--json", "--address", ",".join(addresses)], stderr=subprocess.DEVNULL
            )
            status = json.loads(text)
            voters = [member for member in status["members"] if member["part"] in ("leader", "voter")]
            ready = len(voters) == 3 and all(member["active"] for member in voters)
            return ready and next(m["address"] for m in voters if m["member"] == status["leader"])

        at = wait("three voters of loci", leader)
        callers = ",".join(map(str, CALLERS))
        for what in ("put", "get"):
            command = [program, "bench", what, "--address", at, "--concurrency", callers, "--time", f"{seconds}s", "--json"]
            yield what, json.loads(subprocess.check_output(command))


@contextlib.contextmanager
def etcd_members(program, folder):
    """Three members of etcd that run; the address of the one that leads."""
    ports = free_ports(6)
    clients, peers = ports[:3], ports[3:]
    members = ",".join(f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
    commands = [
        [program, "--name", f"n{number}", "--data-dir", str(folder / str(number)), "--initial-cluster", members]
        + ["--listen-client-urls", f"http://127.0.0.1:{clients[number]}"]
        + ["--advertise-client-urls", f"http://127.0.0.1:{clients[number]}"]
        + ["--listen-peer-urls", f"http://127.0.0.1:{peers[number]}"]
        + ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peers[number]}"]
        for number in range(3)
    ]
    with Running(commands):

        def leader():
            for port in clients:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/v3/maintenance/status", b"{}")
                status = json.load(urllib.request.urlopen(request, timeout=2))
                if status.get("leader") and status["leader"] == status["header"]["member_id"]:
                    return f"127.0.0.1:{port}"
            return None

        yield wait("a leader of etcd", leader)


def etcd(program, driver, own, folder, seconds):
    with etcd_members(program, folder) as at:
        for what in ("put", "get"):
            for callers in CALLERS:
                command = [driver, what, at, str(callers), str(seconds)]
                yield what, callers, json.loads(subprocess.check_output(command))
                ways = {"one connection": 1, "a connection each": callers} if callers > 1 else {"one connection": 1}
                for way, connections in ways.items() if own else ():
                    command = [own, what, at, str(callers), str(connections), str(seconds)]
                    yield f"{what}, own client, {way}", callers, json.loads(subprocess.check_output(command))


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--loci", required=True)
    options.add_argument("--etcd", default=shutil.which("etcd") or "etcd")
    options.add_argument("--dir", default="target/peers", type=pathlib.Path)
    options.add_argument("--seconds", default=5, type=int)
    given = options.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    driver, own = built(given.dir), own_client(given.dir)
    print("| of | calls | callers | calls/s | p50 ms | p99 ms | errors |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        for what, callers, found in etcd(given.etcd, str(driver), own, pathlib.Path(folder), given.seconds):
            shown = f"{found['rate']:,} | {found['p50_ms']:.2f} | {found['p99_ms']:.2f} | {found['errors']}"
            print(f"| etcd | {what} | {callers} | {shown} |", flush=True)
    with tempfile.TemporaryDirectory(dir=given.dir) as folder:
        for what, found in loci(given.loci, pathlib.Path(folder), given.seconds):
            for row in rows(found):
                print(f"| loci | {what}{row}", flush=True)


def rows(found):
    for row in found["measurements"]:
        if "ping" in row["load"]:
            continue
        calls = ", pipelined" if "pipelined" in row["load"] else ""
        rate, errors = round(row["calls_per_second"]), row["errors"]
        p50, p99 = row["p50_micros"] / 1e3, row["p99_micros"] / 1e3
        yield f"{calls} | {row['callers']} | {rate:,} | {p50:.2f} | {p99:.2f} | {errors} |"


if __name__ == "__main__":
    main()
