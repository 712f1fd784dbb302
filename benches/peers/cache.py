#!/usr/bin/env python3
"""loci beside redis-server as a cache: rate, latency and processor time of GET and SET, memory per key and connection, and restart.

    benches/peers/cache.py --loci target/release/loci [--redis redis-server] [--clients 50,1000] [--seconds 4] [--only get,set]
    benches/peers/cache.py --loci target/release/loci --only connections    # memory of those that are open and say nothing
    benches/peers/cache.py --loci target/release/loci --only nodes  # three nodes, beside Redis with two replicas and WAIT 1, and etcd

The driver is redis-benchmark, with 16-byte keys out of 100,000 and 100-byte values; servers run one at a time, each with an empty
directory on the same disk. On Debian both come with `apt-get install redis-server redis-tools`. "cpu" is what of the processors the server
took for one operation, its log and its system calls included.
"""

import argparse
import contextlib
import csv
import io
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

from cluster import Running, built, etcd_members, free_ports, wait

KEYS = 100_000
VALUE = 100
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Server:
    """A running server of a kind, and the calls of the rig on it."""

    def __init__(self, command, port):
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        try:
            wait("an answer to PING", lambda: ask(self.port, "PING") == b"+PONG")
        except SystemExit:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def cpu(self):
        return cpu_of(self.process.pid)

    def resident(self):
        return int(pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE


def cpu_of(process):
    fields = pathlib.Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def encode(*words):
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def ask(port, *words):
    """The first line of a reply; the text of a bulk string."""
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(encode(*words))
        with connection.makefile("rb") as replies:
            line = replies.readline().rstrip(b"\r\n")
            if line.startswith(b"$") and line != b"$-1":
                return replies.read(int(line[1:]))
            return line


def redis_command(given, port, folder, *options):
    return [given.redis, "--port", str(port), "--dir", str(folder), "--save", "", "--daemonize", "no", *options]


def loci_command(given, folder, resp, listen, *options):
    command = [given.loci, "serve", "--data", str(folder / "loci"), "--listen", f"127.0.0.1:{listen}", "--metrics", "off"]
    return command + ["--resp", f"127.0.0.1:{resp}", "--resp-connections", "20000", "--log-level", "warn", *options]


def servers(given, what):
    """Names, and how to start what is compared."""
    kinds = {"redis, nothing kept": ["--appendonly", "no"]}
    if what == "set":
        kinds["redis, everysec"] = ["--appendonly", "yes", "--appendfsync", "everysec"]
        kinds["redis, always"] = ["--appendonly", "yes", "--appendfsync", "always"]
    for name, options in kinds.items():
        yield name, lambda folder, port, options=options: redis_command(given, port, folder, *options)
    yield "loci", lambda folder, port: loci_command(given, folder, port, free_ports(1)[0])
    if what == "set":
        buffered = ["--resp-durability", "buffered"]
        yield "loci, buffered", lambda folder, port: loci_command(given, folder, port, free_ports(1)[0], *buffered)


def drive(given, port, what, clients, pipeline, requests):
    """One run of redis-benchmark: its row."""
    command = [given.benchmark, "-p", str(port), "-t", what, "-c", str(clients), "-P", str(pipeline), "-n", str(requests)]
    command += ["-r", str(KEYS), "-d", str(VALUE), "--csv", "--precision", "3"]
    out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True, timeout=300).stdout
    rows = [row for row in csv.DictReader(io.StringIO(out)) if row.get("test", "").lower().startswith(what)]
    if not rows:
        sys.exit(f"redis-benchmark said nothing of {what}: {out[:300]}")
    return rows[-1]


def measure(given, what, clients, pipeline):
    for name, command in servers(given, what):
        if given.servers and name not in given.servers:
            continue
        with tempfile.TemporaryDirectory(dir=given.dir) as folder:
            port = free_ports(1)[0]
            with Server(command(pathlib.Path(folder), port), port) as server:
                if what == "get":
                    fill(port, KEYS, "key:%012d")
                # Once to see how fast it is, once for the figures.
                trial = 40_000 if pipeline > 1 else 10_000
                rate = float(drive(given, port, what, clients, pipeline, max(trial, 2 * clients))["rps"])
                requests = max(int(rate * given.seconds), 4 * clients)
                before = server.cpu()
                row = drive(given, port, what, clients, pipeline, requests)
                cpu = (server.cpu() - before) / requests * 1e6
                yield name, row, cpu


def fill(port, count, form):
    """So many keys, in pipelines."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        replies = connection.makefile("rb")
        for begin in range(0, count, 1000):
            numbers = range(begin, min(begin + 1000, count))
            connection.sendall(b"".join(encode("SET", form % number, value_of(number)) for number in numbers))
            for _ in numbers:
                reply = replies.readline()
                if reply != b"+OK\r\n":
                    sys.exit(f"SET was answered {reply!r}")


def value_of(number):
    return b"%0*d" % (VALUE, number)


def speed(given):
    print("| call | clients | pipeline | server | calls/s | p50 ms | p99 ms | cpu us |\n|---|---|---|---|---|---|---|---|")
    for what in [what for what in ("get", "set") if what in given.only]:
        for clients in given.clients:
            for pipeline in given.pipeline:
                for name, row, cpu in measure(given, what, clients, pipeline):
                    rate, p50, p99 = float(row["rps"]), row["p50_latency_ms"], row["p99_latency_ms"]
                    print(f"| {what.upper()} | {clients:,} | {pipeline} | {name} | {rate:,.0f} | {p50} | {p99} | {cpu:.1f} |", flush=True)


def memory(given):
    """Bytes of the process for each of a million keys, and how soon the first of them is answered after a start."""
    keys = 1_000_000
    print(f"| {keys:,} keys | bytes each | restart s |\n|---|---|---|")
    kinds = {
        "redis, everysec": lambda folder, port: redis_command(given, port, folder, "--appendonly", "yes"),
        "loci": lambda folder, port: loci_command(given, folder, port, free_ports(1)[0]),
    }
    for name, command in kinds.items():
        if given.servers and name not in given.servers:
            continue
        with tempfile.TemporaryDirectory(dir=given.dir) as folder:
            folder, port = pathlib.Path(folder), free_ports(1)[0]
            with Server(command(folder, port), port) as server:
                before = server.resident()
                fill(port, keys, "key:%012d")
                each = [(server.resident() - before) / keys]
                # Once more when what is done in the background is done.
                time.sleep(5)
                each.append((server.resident() - before) / keys)
            begun = time.time()
            with Server(command(folder, port), port) as server:
                wait("the value", lambda: ask(port, "GET", "key:%012d" % (keys - 1)) == value_of(keys - 1))
                took = time.time() - begun
            print(f"| {name} | {each[0]:.0f}, {each[1]:.0f} at rest | {took:.2f} |", flush=True)


def connections(given):
    """Bytes of the process for each connection that is open and idle, after each asked for something once."""
    print("| connections | server | bytes each |\n|---|---|---|")
    kinds = {
        "redis": lambda folder, port: redis_command(given, port, folder, "--maxclients", "20000"),
        "loci": lambda folder, port: loci_command(given, folder, port, free_ports(1)[0]),
    }
    for count in given.clients:
        for name, command in kinds.items():
            with tempfile.TemporaryDirectory(dir=given.dir) as folder:
                port = free_ports(1)[0]
                with Server(command(pathlib.Path(folder), port), port) as server, contextlib.ExitStack() as open_ones:
                    fill(port, 1000, "key:%012d")
                    before = server.resident()
                    for number in range(count):
                        connection = open_ones.enter_context(socket.create_connection(("127.0.0.1", port)))
                        connection.sendall(encode("GET", "key:%012d" % (number % 1000)))
                        reply = b"$%d\r\n%s\r\n" % (VALUE, value_of(number % 1000))
                        if connection.recv(len(reply), socket.MSG_WAITALL) != reply:
                            sys.exit(f"connection {number} of {name} got another reply")
                    time.sleep(3)
                    print(f"| {count:,} | {name} | {(server.resident() - before) / count:,.0f} |", flush=True)


def nodes(given):
    """SET that a majority of three disks keeps, beside Redis' WAIT 1 (one of two replicas has it in memory) and puts to etcd."""
    driver = built(given.dir)
    print("| server | clients | calls/s | p50 ms | p99 ms | errors |\n|---|---|---|---|---|---|")
    synced = ["--appendonly", "yes", "--appendfsync", "always"]
    for clients in given.clients:
        for name, options in {"redis, WAIT 1": [], "redis, appendfsync always, WAIT 1": synced}.items():
            with tempfile.TemporaryDirectory(dir=given.dir) as folder:
                ports = free_ports(3)
                of = [["--replicaof", "127.0.0.1", str(ports[0])] if port != ports[0] else [] for port in ports]
                folders = [pathlib.Path(folder) / str(port) for port in ports]
                [each.mkdir() for each in folders]
                commands = [redis_command(given, *one, *options, *more) for *one, more in zip(ports, folders, of)]
                with Running(commands):
                    wait("two replicas", lambda: info(ports[0], "replication").count("state=online") == 2)
                    driven(driver, "wait", f"127.0.0.1:{ports[0]}", clients, given.seconds, name)
        if shutil.which(given.etcd):
            with tempfile.TemporaryDirectory(dir=given.dir) as folder:
                with etcd_members(given.etcd, pathlib.Path(folder)) as at:
                    driven(driver, "put", at, clients, given.seconds, "etcd, put")
        with tempfile.TemporaryDirectory(dir=given.dir) as folder:
            folder, listen, ports = pathlib.Path(folder), free_ports(3), free_ports(3)
            join = ",".join(f"127.0.0.1:{port}" for port in listen)
            commands = [
                loci_command(given, folder / str(number), ports[number], listen[number], "--join", join) for number in range(3)
            ]
            with Running(commands):
                wait("three nodes", lambda: all(ask(port, "SET", "key", "value") == b"+OK" for port in ports))
                leads = lambda port: "role:master" in info(port, "replication")
                leader = wait("a leader", lambda: next((port for port in ports if leads(port)), None))
                driven(driver, "set", f"127.0.0.1:{leader}", clients, given.seconds, "loci, a majority's disks")


def info(port, section):
    return ask(port, "INFO", section).decode()


def driven(driver, what, address, clients, seconds, name):
    command = [str(driver), what, address, str(clients), str(max(1, round(seconds)))]
    found = json.loads(subprocess.check_output(command))
    rate, p50, p99, errors = found["rate"], found["p50_ms"], found["p99_ms"], found["errors"]
    print(f"| {name} | {clients:,} | {rate:,} | {p50:.2f} | {p99:.2f} | {errors} |", flush=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = lambda text: [int(number) for number in text.split(",")]
    options.add_argument("--loci", required=True)
    options.add_argument("--redis", default=shutil.which("redis-server") or "redis-server")
    options.add_argument("--etcd", default="etcd", help="beside three nodes, where it is installed")
    options.add_argument("--benchmark", default=shutil.which("redis-benchmark") or "redis-benchmark")
    options.add_argument("--dir", default="target/peers", type=pathlib.Path)
    options.add_argument("--clients", default=[50, 1000], type=numbers)
    options.add_argument("--pipeline", default=[1, 16], type=numbers)
    options.add_argument("--seconds", default=4, type=float)
    options.add_argument("--servers", default=[], type=lambda text: text.split(";"), help="only these, separated by semicolons")
    options.add_argument("--only", default=["get", "set", "memory"], type=lambda text: text.split(","))
    given = options.parse_args()
    given.dir.mkdir(parents=True, exist_ok=True)
    given.dir = given.dir.resolve()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if "get" in given.only or "set" in given.only:
        speed(given)
    if "memory" in given.only:
        memory(given)
    if "connections" in given.only:
        connections(given)
    if "nodes" in given.only:
        nodes(given)


if __name__ == "__main__":
    main()
