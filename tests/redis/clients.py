#!/usr/bin/env python3
"""Drives real clients against a server that speaks the protocol of Redis: redis-py with both protocols and with asyncio,
node-redis, ioredis and redis-cli. Each case prints one line.
"""

import asyncio
import shutil
import subprocess
import sys
import threading
import time

import rig


def redis_py(url, protocol):
    """Every family of commands through redis-py."""
    import redis

    client = redis.Redis.from_url(url, protocol=protocol, decode_responses=True, client_name="rig")
    client.flushall()
    assert client.ping() and client.client_getname() == "rig"
    assert "redis_version" in client.info("server")

    assert client.set("key", "value", ex=100) and client.get("key") == "value"
    assert client.set("key", "other", nx=True) is None
    assert client.set("key", "new", xx=True, get=True) == "value"
    assert client.ttl("key") == -1 and client.expire("key", 100) and 98 <= client.ttl("key") <= 100
    assert client.mset({"a": 1, "b": 2}) and client.mget("a", "b", "c") == ["1", "2", None]
    assert client.incr("a", 5) == 6 and client.incrbyfloat("a", 0.5) == 6.5
    assert client.append("key", "er") == 5 and client.getrange("key", 0, 2) == "new"
    assert client.setbit("bits", 7, 1) == 0 and client.bitcount("bits") == 1
    assert client.set("short", "x", px=20) and time.sleep(0.06) is None and client.get("short") is None

    assert client.hset("hash", mapping={"f": "1", "g": "x"}) == 2
    assert client.hgetall("hash") == {"f": "1", "g": "x"} and client.hincrby("hash", "f", 2) == 3
    assert client.hmget("hash", "f", "none") == ["3", None] and client.hdel("hash", "g") == 1
    assert client.rpush("list", "a", "b", "c") == 3 and client.lrange("list", 0, -1) == ["a", "b", "c"]
    assert client.lmove("list", "other", "LEFT", "RIGHT") == "a" and client.lpos("list", "c") == 1
    assert client.sadd("set", "x", "y") == 2 and set(client.smembers("set")) == {"x", "y"}
    assert set(client.sinter("set", "set")) == {"x", "y"} and client.sismember("set", "x")
    assert client.zadd("zset", {"one": 1, "two": 2.5}) == 2 and client.zscore("zset", "two") == 2.5
    assert [list(pair) for pair in client.zrange("zset", 0, -1, withscores=True)] == [["one", 1.0], ["two", 2.5]]
    assert client.zrangebyscore("zset", "-inf", "(2.5") == ["one"] and client.zrank("zset", "two") == 1
    assert str(client.zpopmin("zset")).strip("[]()") == "'one', 1.0"

    first = client.xadd("stream", {"n": "1"})
    client.xadd("stream", {"n": "2"}, maxlen=10)
    assert client.xlen("stream") == 2 and client.xgroup_create("stream", "group", "0")
    read = client.xreadgroup("group", "me", {"stream": ">"}, count=1)
    assert str(first) in str(read), read
    assert client.xpending("stream", "group")["pending"] == 1 and client.xack("stream", "group", first) == 1
    assert client.xinfo_stream("stream")["length"] == 2

    with client.pipeline(transaction=True) as pipe:
        pipe.watch("a")
        pipe.multi()
        pipe.set("a", "1").incr("a").hgetall("hash")
        assert pipe.execute() == [True, 2, {"f": "3"}]
    with client.pipeline() as pipe:
        pipe.watch("a")
        client.set("a", "theirs")
        pipe.multi()
        pipe.set("a", "mine")
        try:
            pipe.execute()
            raise AssertionError("a watched key was changed unseen")
        except redis.WatchError:
            pass
    pipe = client.pipeline(transaction=False)
    for number in range(1000):
        pipe.set(f"many:{number}", number)
    assert all(pipe.execute())
    assert len(set(client.scan_iter("many:*", count=50))) == 1000
    assert dict(client.hscan_iter("hash")) == {"f": "3"}

    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(keys=["n"], args=[5]) == 5 and script(keys=["n"], args=[5]) == 10
    client.script_flush()
    assert script(keys=["n"], args=[1]) == 11
    with client.lock("lock", timeout=5, blocking_timeout=1) as lock:
        assert not client.lock("lock", timeout=5, blocking_timeout=0.05).acquire()
        assert lock.extend(5) and lock.owned()

    pubsub = client.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("news")
    pubsub.psubscribe("ne*")
    wait(lambda: client.pubsub_numsub("news")[0][1] == 1 and client.pubsub_numpat() == 1)
    assert client.publish("news", "hello") == 2
    heard = []
    wait(lambda: heard.append(pubsub.get_message(timeout=1)) or len([one for one in heard if one]) == 2)
    assert {one["type"] for one in heard if one} == {"message", "pmessage"}
    pubsub.close()

    threading.Timer(0.05, lambda: redis.Redis.from_url(url).rpush("queue", "job")).start()
    assert list(client.blpop(["none", "queue"], timeout=5)) == ["queue", "job"]
    assert client.bzpopmin("none", timeout=0.05) is None
    begin = time.monotonic()
    assert client.brpop("none", timeout=0.1) is None and time.monotonic() - begin < 3

    for wrong, text in [(("NOSUCH",), "unknown command"), (("LPUSH", "key", "x"), "WRONGTYPE"), (("GET",), "wrong number")]:
        try:
            client.execute_command(*wrong)
            raise AssertionError(f"{wrong} is answered")
        except redis.ResponseError as error:
            # The client takes some codes off.
            assert text.lower() in str(error).lower() or text == "WRONGTYPE" and "wrong kind" in str(error), error
    other = redis.Redis.from_url(url, db=1, protocol=protocol)
    other.set("there", "1")
    assert client.exists("there") == 0 and other.dbsize() == 1


def wait(ready):
    """Until it is so, for some seconds."""
    end = time.monotonic() + 5
    while not ready():
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.005)


def redis_py_2(url):
    redis_py(url, 2)


def redis_py_3(url):
    redis_py(url, 3)


def redis_py_asyncio(url):
    import redis.asyncio as redis

    async def drive(protocol):
        client = redis.Redis.from_url(url, protocol=protocol, decode_responses=True)
        await client.flushall()
        assert await client.set("key", "value", px=5000) and await client.get("key") == "value"
        results = await asyncio.gather(*(client.incr("count") for _ in range(80)))
        assert sorted(results) == list(range(1, 81))
        async with client.pipeline(transaction=True) as pipe:
            assert await pipe.set("a", 1).incr("a").execute() == [True, 2]
        blocked = asyncio.create_task(client.blpop("queue", timeout=5))
        await asyncio.sleep(0.03)
        await client.rpush("queue", "job")
        assert list(await blocked) == ["queue", "job"]
        async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe("news")
            await pubsub.get_message(timeout=1)
            await client.publish("news", "hello")
            message = None
            while message is None:
                message = await pubsub.get_message(timeout=1)
            assert message["data"] == "hello"
        assert len([key async for key in client.scan_iter()]) >= 3
        await client.aclose()

    for protocol in (2, 3):
        asyncio.run(drive(protocol))


def node_redis_3(url):
    rig.node("clients.js", url, "redis", "3")


def node_redis_2(url):
    rig.node("clients.js", url, "redis", "2")


def ioredis(url):
    rig.node("clients.js", url, "ioredis")


def redis_cli(url):
    """One command at a time, many from a pipe, and what its modes ask for."""
    if not shutil.which("redis-cli"):
        raise rig.Skipped("there is no redis-cli here")

    def cli(*args, given=None):
        command = ["redis-cli", "-u", url, *args]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert cli("FLUSHALL") == "OK\n"
    assert cli("SET", "key", "value") == "OK\n" and cli("GET", "key") == "value\n"
    assert cli("-3", "HSET", "hash", "f", "v") == "1\n" and "f" in cli("-3", "HGETALL", "hash")
    assert cli(given="SET a 1\nINCR a\nGET a\nMULTI\nINCR a\nEXEC\n") == "OK\n2\n2\nOK\nQUEUED\n3\n"
    assert "unknown command" in cli("NOSUCH") and cli("--scan").split() and "key" in cli("--scan", "--pattern", "k*")
    assert cli("EVAL", "return {1, 2, ARGV[1]}", "0", "x") == "1\n2\nx\n"
    assert cli("-n", "1", "DBSIZE") == "0\n" and "redis_version" in cli("INFO", "server")
    stream = "".join(f"*3\r\n$3\r\nSET\r\n$7\r\nk:{number:05}\r\n$1\r\nx\r\n" for number in range(2000))
    assert "errors: 0, replies: 2000" in cli("--pipe", given=stream)
    assert cli("DBSIZE") == "2003\n"
    assert "summary" in cli("--bigkeys").lower()


CASES = [redis_py_2, redis_py_3, redis_py_asyncio, node_redis_3, node_redis_2, ioredis, redis_cli]


def main():
    parser = rig.arguments(__doc__)
    rig.selectable(parser, CASES)
    options = parser.parse_args()
    rig.inside_venv()
    sys.exit(1 if rig.run(CASES, options, rig.server(options)) else 0)


if __name__ == "__main__":
    main()
