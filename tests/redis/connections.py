#!/usr/bin/env python3
"""Holds 10,000 connections to one node that say nothing, and some that say a lot: all are answered, each takes little memory, one
too many is refused as Redis refuses it, and once one is closed another may come.

Starts loci by itself and speaks the protocol by plain sockets. Says `skipped:` where so many files cannot be open.
"""

import argparse
import contextlib
import os
import pathlib
import resource
import socket
import sys
import threading
import time

import nodes
import rig

IDLE, ACTIVE = 10_000, 16
# What a node may take for each that is open, its buffers, its task and what is known of it included.
BYTES_EACH_MAX = 32 << 10
# Beside the connections: the log's files, what this program has open.
FILES_BESIDE = 150
ACTIVE_SECONDS = 3
REFUSED = b"-ERR max number of clients reached\r\n"


class Alone(nodes.Nodes):
    """One node."""

    def wait_for(self, node):
        """Until it has read its log and writes."""
        end = time.monotonic() + 60
        while time.monotonic() < end and node.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.resp), 5) as connection:
                connection.sendall(encode("SET", "rig:ready", "1"))
                if connection.recv(100) == b"+OK\r\n":
                    return
            time.sleep(0.1)
        sys.exit(f"node {node.listen} does not answer")


def encode(*words):
    words = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def bulk(text):
    return b"$%d\r\n%s\r\n" % (len(text), text.encode())


def said(connection, request, reply):
    """Sends a request, and hears the reply."""
    connection.sendall(request)
    heard(connection, reply)


def heard(connection, reply):
    got = connection.recv(len(reply), socket.MSG_WAITALL)
    assert got == reply, f"{got!r} and not {reply!r}"


def resident(process):
    pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def work(connection, number, until, errors):
    """Writes and reads, a pipeline at a time."""
    try:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            calls = [(f"active:{number}:{one}", f"{turn}.{one}") for one in range(20)]
            request = b"".join(encode("SET", key, value) + encode("GET", key) for key, value in calls)
            said(connection, request, b"".join(b"+OK\r\n" + bulk(value) for _, value in calls))
    except (OSError, AssertionError) as error:
        errors.append(error)


def one_too_many(address):
    """Hears that it is, and the end."""
    with socket.create_connection(address, 10) as connection:
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(100):
                got += more
        assert got == REFUSED, f"one too many heard {got!r}"


def many(node):
    address = ("127.0.0.1", node.resp)
    with contextlib.ExitStack() as stack:
        connect = lambda: stack.enter_context(socket.create_connection(address, 30))
        active = [connect() for _ in range(ACTIVE)]
        said(active[0], encode("SET", "key", "value"), b"+OK\r\n")
        before = resident(node.process)
        idle = []
        for _ in range(IDLE):
            idle.append(connect())
            said(idle[-1], encode("GET", "key"), bulk("value"))
        each = [(resident(node.process) - before) / IDLE]
        one_too_many(address)

        errors, until = [], time.monotonic() + ACTIVE_SECONDS
        threads = [threading.Thread(target=work, args=(one, number, until, errors)) for number, one in enumerate(active)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not errors, errors
        one_too_many(address)

        # All at once.
        [connection.sendall(encode("GET", "key")) for connection in idle]
        [heard(connection, bulk("value")) for connection in idle]
        each.append((resident(node.process) - before) / IDLE)
        most = max(each)
        print(f"         {each[0]:,.0f} bytes for each of {IDLE:,}, {each[1]:,.0f} after all were used", flush=True)
        assert most < BYTES_EACH_MAX, f"{most:,.0f} bytes for each connection"

        idle.pop().close()
        end = time.monotonic() + 10
        while True:
            with socket.create_connection(address, 10) as connection:
                connection.sendall(encode("GET", "key"))
                got = connection.recv(100)
            if got == bulk("value"):
                break
            assert got in (b"", REFUSED) and time.monotonic() < end, f"nobody may come once another went: {got!r}"
            time.sleep(0.02)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = rig.TARGET.parent / "debug" / "loci"
    parser.add_argument("--bin", default=default, type=pathlib.Path, help="the program; the one that tests built if not said")
    options = parser.parse_args()
    if not options.bin.exists():
        sys.exit(f"there is no program at {options.bin}: run cargo build, or name another by --bin")
    wanted = IDLE + ACTIVE + FILES_BESIDE
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < wanted:
        print(f"skipped: {IDLE:,} connections: {most:,} files may be open here (ulimit -Hn), and {wanted:,} are needed")
        return
    # For this process and for the node, which has it from here.
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else most, most))
    options.only, options.skip, options.verbose = [], [], False
    one = Alone(options.bin, 1, ["--resp-connections", str(IDLE + ACTIVE)]).members[0]

    def ten_thousand_connections(_):
        many(one)

    sys.exit(1 if rig.run([ten_thousand_connections], options, None) else 0)


if __name__ == "__main__":
    main()
