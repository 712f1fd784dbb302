#!/usr/bin/env python3
"""Starts three nodes of loci in their cluster mode, with the databases over several shards, and drives them with clients that know
clusters of Redis: redis-py's RedisCluster, ioredis' Cluster and node-redis' cluster. Then with each of them again while a node that
leads is killed; at last all that was answered must be there.

Says `skipped:` and what is missing where the packages cannot be installed.
"""

import pathlib
import subprocess
import sys
import threading
import time

import nodes
import rig

SHARDS = 4


class Members(nodes.Nodes):
    """Three of them, and the databases over several shards."""

    def __init__(self, program):
        super().__init__(program, 3, ["--resp-cluster"])
        addresses = ",".join(node.listen for node in self.members)
        create = [str(program), "namespace", "create", "redis", "--shards", str(SHARDS), "--address", addresses]
        subprocess.run(create, check=True, timeout=60, stdout=subprocess.DEVNULL)
        self.wait_until_led()

    def wait_for(self, node):
        """Until a node answers as one that knows who leads."""
        import redis

        end = time.monotonic() + 60
        while True:
            try:
                client = redis.Redis.from_url(node.url, socket_timeout=5)
                if client.execute_command("CLUSTER INFO")["cluster_state"] == "ok":
                    return client.close()
            except redis.RedisError:
                pass
            if time.monotonic() > end or node.process.poll() is not None:
                sys.exit(f"node {node.listen} does not answer")
            time.sleep(0.1)

    def masters(self):
        """Which node leads how many slots, as each node says, or None while they do not agree."""
        import redis

        told = []
        for node in self.members:
            if node.process is None:
                continue
            try:
                client = redis.Redis.from_url(node.url, socket_timeout=5)
                ranges = client.execute_command("CLUSTER SLOTS")
            except redis.RedisError:
                return None
            slots = {}
            for first, last, (host, port, *_), *_ in redis_ranges(ranges):
                slots[port] = slots.get(port, 0) + last - first + 1
            told.append(slots)
        alive = {node.resp for node in self.members if node.process is not None}
        whole = all(sum(slots.values()) == 16384 and set(slots) <= alive for slots in told)
        return told[0] if whole and all(slots == told[0] for slots in told) else None

    def wait_until_led(self, nodes=1):
        """By at least so many nodes: leads are given away for the sake of balance some seconds after a start."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            masters = self.masters()
            if masters and len(masters) >= nodes:
                return masters
            time.sleep(0.1)
        sys.exit("not all slots are led")

    def startup(self):
        return ",".join(f"127.0.0.1:{node.resp}" for node in self.members)


def redis_ranges(reply):
    """CLUSTER SLOTS as it stands in the protocol, whatever a version of redis-py makes of it."""
    if isinstance(reply, dict):
        for (first, last), told in reply.items():
            yield first, last, told["primary"]
    else:
        for first, last, master, *_ in reply:
            yield first, last, master


def connect(startup, **options):
    from redis.backoff import ConstantBackoff
    from redis.cluster import ClusterNode, RedisCluster
    from redis.exceptions import RedisClusterException
    from redis.retry import Retry

    addresses = [address.rsplit(":", 1) for address in startup.split(",")]
    started = [ClusterNode(host, int(port)) for host, port in addresses]
    for _ in range(40):
        try:
            return RedisCluster(startup_nodes=started, retry=Retry(ConstantBackoff(0.25), 40), **options)
        except RedisClusterException:
            # It asks several nodes, which hear of a new leader one after the other, and wants them to agree.
            time.sleep(0.25)
    sys.exit(f"the nodes of {startup} do not agree on who leads")


def redis_py(startup):
    """Commands of every kind, by the slots of their keys, in pipelines, and to all nodes."""
    from redis.cluster import RedisCluster

    client = connect(startup, decode_responses=True)
    # Some versions of the client ask only one node for these if nothing is said.
    everywhere = {"target_nodes": RedisCluster.PRIMARIES}
    assert client.flushall(**everywhere)
    names = [f"key:{number}" for number in range(300)]
    for name in names:
        assert client.set(name, name)
    assert [client.get(name) for name in names] == names
    assert client.mget_nonatomic(names[:50]) == names[:50]
    assert client.dbsize(**everywhere) == 300 and sorted(client.keys("*", **everywhere)) == sorted(names)
    assert sorted(set(client.scan_iter(count=20, **everywhere))) == sorted(names)
    with client.pipeline() as pipe:
        for name in names:
            pipe.append(name, "!").get(name)
        assert pipe.execute()[1::2] == [f"{name}!" for name in names]
    assert client.mset({"{t}a": "1", "{t}b": "2"}) and client.mget("{t}a", "{t}b") == ["1", "2"]
    with client.pipeline(transaction=True) as pipe:
        assert pipe.incr("{t}a").incr("{t}a").execute() == [2, 3]
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert [script(keys=[f"n{number}"], args=[2]) for number in range(20)] == [2] * 20
    assert client.lpush("{q}1", "x") == 1 and client.blmove("{q}1", "{q}2", 1) == "x"
    with client.lock("lock:1", timeout=10):
        assert not client.lock("lock:1", timeout=10).acquire(blocking=False)
    hearer = client.pubsub()
    hearer.subscribe("news")
    for _ in range(20):
        message = hearer.get_message(timeout=0.2)
        if message and message["type"] == "subscribe":
            break
    client.publish("news", "hello")
    heard = [hearer.get_message(timeout=0.2) for _ in range(20)]
    assert [message["data"] for message in heard if message and message["type"] == "message"] == ["hello"]
    hearer.close()
    try:
        client.execute_command("SELECT", "1", target_nodes=client.get_random_node())
        raise AssertionError("there is one database")
    except Exception as error:  # noqa: BLE001: what it is called differs from version to version
        assert "not allowed in cluster mode" in str(error), error
    client.close()


def ioredis(startup):
    rig.node("cluster.js", startup, "ioredis", "0")


def node_redis(startup):
    rig.node("cluster.js", startup, "redis", "0")


def kept(startup):
    """redis-py adds to sets for eight seconds; what it was told to be there is there."""
    import redis

    client = connect(startup, decode_responses=True)
    client.flushall()
    answered, failed, stop = [], [], time.monotonic() + 8
    lock = threading.Lock()

    def work(number):
        own, step = connect(startup, decode_responses=True), 0
        while time.monotonic() < stop:
            step += 1
            key, name = f"set:{(number * 7 + step) % 40}", f"{number}.{step}"
            try:
                own.sadd(key, name)
                kind = answered
            except redis.RedisError as error:
                kind, name = failed, str(error)
            with lock:
                kind.append((key, name))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    there = {key: client.smembers(key) for key in {f"set:{number}" for number in range(40)}}
    lost = [(key, name) for key, name in answered if name not in there[key]]
    assert not lost, f"answered, and not there: {lost[:5]}"
    assert len(answered) > 100
    print(f"         {len(answered)} answered and none lost, {len(failed)} failed: {sorted({name for _, name in failed})[:3]}")


def ioredis_kept(startup):
    print("         " + rig.node("cluster.js", startup, "ioredis", "8").strip(), flush=True)


def node_redis_kept(startup):
    print("         " + rig.node("cluster.js", startup, "redis", "8").strip(), flush=True)


CASES = [redis_py, ioredis, node_redis]
WHILE_KILLED = [kept, ioredis_kept, node_redis_kept]


def main():
    parser = rig.arguments(__doc__)
    default = rig.TARGET.parent / "debug" / "loci"
    parser.add_argument("--bin", default=default, type=pathlib.Path, help="the program; the one that tests built if not said")
    rig.selectable(parser, CASES + WHILE_KILLED)
    options = parser.parse_args()
    if not options.bin.exists():
        sys.exit(f"there is no program at {options.bin}: run cargo build, or name another by --bin")
    try:
        rig.inside_venv()
        rig.node_modules()
    except (subprocess.CalledProcessError, OSError) as error:
        print(f"skipped: clients of a Redis Cluster: packages could not be installed: {error}")
        return
    members = Members(options.bin)
    print(f"== three nodes, {SHARDS} shards; slots by port: {members.wait_until_led(3)}", flush=True)
    failed = rig.run(CASES, options, members.startup())

    def killing(case):
        def carried_out(startup):
            def kill():
                time.sleep(2)
                port = next(iter(members.masters() or members.wait_until_led()))
                node = next(node for node in members.members if node.resp == port)
                node.kill()
                time.sleep(3)
                node.start(members.members)

            thread = threading.Thread(target=kill)
            thread.start()
            try:
                case(startup)
            finally:
                thread.join()
                for node in members.members:
                    members.wait_for(node)
                members.wait_until_led()

        carried_out.__name__ = case.__name__
        return carried_out

    print("== while a node that leads is killed", flush=True)
    failed += rig.run([killing(case) for case in WHILE_KILLED], options, members.startup())
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
