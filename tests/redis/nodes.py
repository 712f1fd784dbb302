#!/usr/bin/env python3
"""Starts nodes of loci and drives them with the clients and programs of this folder: first one node, then three of which the
leader is killed in the middle of each of several programs, and started again before the next.

Says `skipped:` and what is missing where the packages cannot be installed. Everything is in target/redis and ends with it.
"""

import atexit
import collections
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import rig

# With one node: all of these, and of the programs those that people ask for most.
PROGRAMS = ["rq", "celery", "bullmq", "redlock", "lock"]
# While this one runs, the leader is killed too; who talks to another node is to notice nothing but a pause.
WHILE_KILLED = "redis_py_asyncio"
# How often something is tried anew that met an answer that says that nobody knows: that is what a killed leader leaves.
AGAIN_MAX = 2


class Node:
    """A process, its folder and its addresses."""

    def __init__(self, program, folder, number, options=()):
        self.program, self.folder, self.options = program, folder / str(number), options
        self.listen = f"127.0.0.1:{rig.free_port()}"
        self.resp = rig.free_port()
        self.process, self.log = None, open(f"{self.folder}.log", "ab")

    def start(self, members):
        command = [
            str(self.program), "serve", "--data", str(self.folder), "--listen", self.listen,
            "--resp", f"127.0.0.1:{self.resp}", "--metrics", "off", "--memory-mib", "256", "--log-file-mib", "8",
        ]  # fmt: skip
        if len(members) > 1:
            command += ["--join", ",".join(node.listen for node in members)]
        command += self.options
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.resp}"


class Nodes:
    """Nodes that are one cluster."""

    def __init__(self, program, count, options=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="rig-loci-"))
        self.members = [Node(program, self.folder, number, options) for number in range(1, count + 1)]
        self.program = program
        atexit.register(self.end)
        # So that it is called too where the time of this program is up.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
        for node in self.members:
            node.start(self.members)
        for node in self.members:
            self.wait_for(node)

    def wait_for(self, node):
        """Until a node answers as one that takes part and has all that was written before."""
        import redis

        end = time.monotonic() + 60
        while True:
            try:
                client = redis.Redis.from_url(node.url, socket_timeout=5)
                client.set("rig:ready", node.listen)
                # Read here, once this node has as much as the one that leads.
                assert client.get("rig:ready").decode() == node.listen
                return client.close()
            except redis.RedisError as error:
                if time.monotonic() > end or node.process.poll() is not None:
                    sys.exit(f"node {node.listen} does not answer: {error}\n{self.said()}")
                time.sleep(0.1)

    def status(self):
        """What `loci cluster status` says of the members, until it says what is looked for."""
        alive = [node.listen for node in self.members if node.process is not None]
        for _ in range(100):
            command = [str(self.program), "cluster", "status", "--address", ",".join(alive)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            yield [line.split() for line in done.stdout.splitlines()]
            time.sleep(0.1)

    def said(self):
        """What the nodes logged last, and what each says of the others."""
        text = []
        for node in self.members:
            log = pathlib.Path(f"{node.folder}.log").read_text(errors="replace")
            command = [str(self.program), "cluster", "status", "--address", node.listen]
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            text.append(f"== {node.listen}\n{log[-2500:]}\n{done.stdout}{done.stderr}")
        return "\n".join(text)

    def leader(self):
        """The node that leads."""
        for lines in self.status():
            for words in lines:
                if "leader" in words:
                    for node in self.members:
                        if node.listen in words and node.process is not None:
                            return node
        sys.exit("nobody leads")

    def wait_for_votes(self):
        """Until all members vote: before, nobody may die."""
        for lines in self.status():
            if sum("voter" in words or "leader" in words for words in lines) == len(self.members):
                return
        sys.exit("not all members vote")

    def one_that_stays(self):
        """The url of a node that does not lead, and how the one that leads is killed: it returns when another leads."""
        self.wait_for_votes()
        leader = self.leader()

        def death():
            leader.kill()
            self.leader()

        return next(node.url for node in self.members if node is not leader), death

    def restore(self):
        """Starts what was killed, and waits until it has everything."""
        for node in self.members:
            if node.process is None:
                node.start(self.members)
                self.wait_for(node)

    def end(self):
        for node in self.members:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def again(case):
    """The case, tried anew where a write was answered with UNCONFIRMED: its leader had just been killed."""

    def carried_out(url):
        for tried in range(AGAIN_MAX + 1):
            try:
                return case(url)
            except rig.Skipped:
                raise
            except Exception as error:  # noqa: BLE001: libraries wrap errors in whatever they like
                if "UNCONFIRMED" not in str(error) or tried == AGAIN_MAX:
                    raise
                print(f"         {case.__name__} heard that nobody knows what became of a write, and begins anew", flush=True)
        return None

    carried_out.__name__ = case.__name__
    return carried_out


def counted(nodes, url, death):
    """Eight clients count and push while the leader is killed: what was answered is there once, and nothing is there twice."""
    import redis

    first = redis.Redis.from_url(url)
    first.flushall()
    answered, unknown, lock = set(), set(), threading.Lock()
    heard = collections.Counter()
    stop = threading.Event()

    def work(number):
        client, step = redis.Redis.from_url(url), 0
        while not stop.is_set():
            step += 1
            name = f"{number}.{step}"
            try:
                with client.pipeline(transaction=True) as pipe:
                    pipe.incr("count").rpush("names", name).execute()
                kind = answered
            except redis.RedisError as error:
                kind = None if "TRYAGAIN" in str(error) else unknown
                heard[str(error)] += 1
            if kind is not None:
                with lock:
                    kind.add(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    time.sleep(1.5)
    before = len(answered)
    death()
    time.sleep(3)
    stop.set()
    [thread.join() for thread in threads]
    assert before > 0 and len(answered) > before, f"{before} were answered before, {len(answered)} in all"
    there = [name.decode() for name in first.lrange("names", 0, -1)]
    assert len(there) == len(set(there)), "some are there twice"
    missing = answered - set(there)
    assert not missing, f"answered, and not there: {sorted(missing)[:5]}"
    assert set(there) <= answered | unknown and int(first.get("count")) == len(there)
    nodes.restore()
    for node in nodes.members:
        client = redis.Redis.from_url(node.url)
        assert client.llen("names") == len(there), node.listen
    print(f"         {len(answered)} answered, {len(unknown)} of which nobody knows, none lost and none twice", flush=True)
    for error, times in heard.most_common(4):
        print(f"         {times:6} times: {error}", flush=True)


def main():
    parser = rig.arguments(__doc__)
    default = rig.TARGET.parent / "debug" / "loci"
    parser.add_argument("--bin", default=default, type=pathlib.Path, help="the program; the one that tests built if not said")
    parser.add_argument("--all", action="store_true", help="all programs, also against three nodes")
    import clients
    import killed
    import programs

    rig.selectable(parser, clients.CASES + programs.CASES)
    options = parser.parse_args()
    if not options.bin.exists():
        sys.exit(f"there is no program at {options.bin}: run cargo build, or name another by --bin")
    try:
        rig.inside_venv()
        rig.node_modules()
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"skipped: clients of Redis: packages could not be installed: {error}")
        return
    asked = [case for case in programs.CASES if options.all or case.__name__ in PROGRAMS]

    print("== one node", flush=True)
    failed = rig.run(clients.CASES + asked, options, Nodes(options.bin, 1).members[0].url)

    print("== three nodes", flush=True)
    nodes = Nodes(options.bin, 3)

    def killing(case):
        """The case, while the leader is killed by the clock."""

        def carried_out(url):
            url, death = nodes.one_that_stays()
            timer = threading.Timer(0.3, death)
            timer.start()
            try:
                again(case)(url)
            finally:
                timer.join()
                nodes.restore()

        carried_out.__name__ = case.__name__
        return carried_out

    def in_the_middle(case):
        """The case, which says itself when the leader is to be killed."""

        def carried_out(_):
            url, death = nodes.one_that_stays()
            died = []

            def once():
                death()
                died.append(True)

            try:
                case(url, once)
                assert died, "it had no middle"
            finally:
                nodes.restore()

        carried_out.__name__ = case.__name__
        return carried_out

    def nothing_is_lost(url, death):
        counted(nodes, url, death)

    cases = [killing(case) if case.__name__ == WHILE_KILLED else again(case) for case in clients.CASES + asked]
    url, _ = nodes.one_that_stays()
    failed += rig.run(cases, options, url)
    print("== three nodes, the leader of which is killed in the middle of each", flush=True)
    failed += rig.run([in_the_middle(case) for case in [*killed.CASES, nothing_is_lost]], options, None)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
