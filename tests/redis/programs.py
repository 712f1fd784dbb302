#!/usr/bin/env python3
"""Runs short programs on the libraries that people build on Redis: queues of jobs, locks, limits, sessions, caches. Each checks
what it came to, and prints one line.
"""

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import rig


def fresh(url):
    """A client of an empty server."""
    import redis

    client = redis.Redis.from_url(url)
    client.flushall()
    return client


def until(ready, what, seconds=20):
    """Waits for something."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"{what() if callable(what) else what} did not come"
        time.sleep(0.02)


class Tasks:
    """A module with tasks, in a folder of its own, and a program that runs them until the block ends.

    `forever`: the program is started again whenever it ends, as what looks after services does. `python`: of another environment,
    where the module cannot be imported here, and the block gets its folder.
    """

    def __init__(self, text, *command, forever=False, python=None):
        self.text, self.command, self.forever, self.python = text, command, forever, python

    @staticmethod
    def folder():
        """Where the program runs."""
        folder = rig.TARGET / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def __enter__(self):
        folder = self.folder()
        (folder / "rig_tasks.py").write_text(textwrap.dedent(self.text))
        sys.path.insert(0, str(folder))
        sys.modules.pop("rig_tasks", None)
        self.log = open(folder / "log", "wb")
        programs = pathlib.Path(self.python or sys.executable).parent
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(programs / self.command[0]), *self.command[1:]]
        if self.forever:
            command = ["sh", "-c", 'while kill -0 $PPID; do "$@"; sleep 0.2; done', "sh", *command]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        if self.python is not None:
            return folder
        sys.dont_write_bytecode = True
        import rig_tasks

        return rig_tasks

    def __exit__(self, kind, error, trace):
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, how)
                self.process.wait(5)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                pass
        self.log.close()
        sys.path.remove(str(self.folder()))
        if kind is not None:
            print((self.folder() / "log").read_text(errors="replace")[-1500:])


def rq(url):
    """Jobs, one that fails, one that depends on another, one for later, and what is registered of them."""
    client = fresh(url)
    text = """
    def add(a, b):
        return a + b
    def fail():
        raise ValueError("no")
    """
    from datetime import timedelta

    from rq import Queue, Retry

    with Tasks(text, "rq", "worker", "-u", url, "--with-scheduler", "-q", "rig") as tasks:
        queue = Queue("rig", connection=client)
        jobs = [queue.enqueue(tasks.add, number, 1) for number in range(20)]
        failing = queue.enqueue(tasks.fail, retry=Retry(max=1))
        after = queue.enqueue(tasks.add, 1, 1, depends_on=jobs[-1])
        later = queue.enqueue_in(timedelta(seconds=1), tasks.add, 2, 2)
        until(lambda: all(job.is_finished for job in jobs), "the results")
        assert [job.return_value() for job in jobs] == list(range(1, 21))
        until(lambda: after.is_finished and failing.get_status(refresh=True).value == "failed", "the rest")
        until(lambda: later.is_finished, "the later one", 40)
        assert len(queue.failed_job_registry) == 1 and len(queue.finished_job_registry) == 22


def celery(url):
    """Tasks, a group, a chain, a chord, a retry, and one for later."""
    fresh(url)
    text = f"""
    from celery import Celery
    app = Celery("rig_tasks", broker="{url}/0", backend="{url}/1")
    app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
    @app.task
    def add(a, b):
        return a + b
    @app.task
    def total(numbers):
        return sum(numbers)
    @app.task(bind=True, max_retries=3)
    def flaky(self):
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries
    """
    with Tasks(text, "celery", "-A", "rig_tasks", "worker", "-P", "threads", "-c", "4", "-l", "INFO") as tasks:
        from celery import chain, chord, group

        assert tasks.add.delay(2, 3).get(timeout=30) == 5
        assert group(tasks.add.s(n, n) for n in range(20))().get(timeout=30) == [2 * n for n in range(20)]
        assert chain(tasks.add.s(1, 2), tasks.add.s(10))().get(timeout=30) == 13
        assert chord((tasks.add.s(n, 1) for n in range(10)), tasks.total.s())().get(timeout=30) == 55
        assert tasks.flaky.delay().get(timeout=30) == 2
        assert tasks.add.apply_async((1, 1), countdown=1).get(timeout=30) == 2
        assert tasks.app.control.ping(timeout=3)


# Wants redis-py older than 6, which nothing else here does.
ARQ = "arq==0.28.0"


def arq(url):
    """Jobs of asyncio, one tried again, one for later, one that is there already."""
    client = fresh(url)
    text = f"""
    from arq import Retry
    from arq.connections import RedisSettings
    async def add(ctx, a, b):
        return a + b
    async def flaky(ctx):
        if ctx["job_try"] < 3:
            raise Retry(defer=0.05)
        return ctx["job_try"]
    class WorkerSettings:
        functions = [add, flaky]
        redis_settings = RedisSettings.from_dsn("{url}")
        poll_delay = 0.05
    """
    drive = """
    import asyncio
    from arq import create_pool
    from rig_tasks import WorkerSettings
    async def drive():
        pool = await create_pool(WorkerSettings.redis_settings)
        jobs = [await pool.enqueue_job("add", number, 1) for number in range(20)]
        assert [await job.result(timeout=20, poll_delay=0.05) for job in jobs] == list(range(1, 21))
        assert await (await pool.enqueue_job("flaky")).result(timeout=20, poll_delay=0.05) == 3
        later = await pool.enqueue_job("add", 1, 1, _defer_by=0.3, _job_id="once")
        assert await pool.enqueue_job("add", 1, 1, _job_id="once") is None
        assert await later.result(timeout=20, poll_delay=0.05) == 2
        await pool.aclose()
    asyncio.run(drive())
    """
    python = rig.environment("arq", ARQ)
    with Tasks(text, "arq", "rig_tasks.WorkerSettings", python=python) as folder:
        command = [str(python), "-c", textwrap.dedent(drive)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-1500:]
    assert client.dbsize() > 0


def dramatiq(url):
    """Messages, results, a retry, and one for later."""
    fresh(url)
    text = f"""
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend
    broker = RedisBroker(url="{url}")
    broker.add_middleware(Results(backend=RedisBackend(url="{url}")))
    dramatiq.set_broker(broker)
    tries = []
    @dramatiq.actor(store_results=True)
    def add(a, b):
        return a + b
    @dramatiq.actor(store_results=True, min_backoff=50, max_retries=3)
    def flaky():
        tries.append(1)
        if len(tries) < 3:
            raise ValueError("again")
        return len(tries)
    """
    with Tasks(text, "dramatiq", "rig_tasks", "-p", "1", "-t", "4") as tasks:
        sent = [tasks.add.send(number, 1) for number in range(20)]
        assert [message.get_result(block=True, timeout=30_000) for message in sent] == list(range(1, 21))
        assert tasks.flaky.send().get_result(block=True, timeout=30_000) == 3
        assert tasks.add.send_with_options(args=(1, 1), delay=300).get_result(block=True, timeout=30_000) == 2


def huey(url):
    """Tasks, results, a delay, a lock, and a pipeline."""
    fresh(url)
    text = f"""
    from huey import RedisHuey
    huey = RedisHuey("rig", url="{url}")
    @huey.task()
    def add(a, b):
        return a + b
    @huey.task(retries=2)
    def flaky(task=None):
        if not huey.get("seen", peek=True):
            huey.put("seen", 1)
            raise ValueError("again")
        return "fine"
    """
    with Tasks(text, "huey_consumer", "rig_tasks.huey", "-w", "2", "-d", "0.05", "-s", "1") as tasks:
        results = [tasks.add(number, 1) for number in range(20)]
        assert [result(blocking=True, timeout=20) for result in results] == list(range(1, 21))
        piped = tasks.huey.enqueue(tasks.add.s(1, 2).then(tasks.add, 10))
        assert piped.get(blocking=True, timeout=20) == [3, 13]
        assert tasks.add.schedule((1, 1), delay=1)(blocking=True, timeout=20) == 2
        with tasks.huey.lock_task("lock"):
            assert tasks.huey.is_locked("lock")


def lock(url):
    """redis-py's lock: one holder at a time, also when many want it."""
    import redis

    client = fresh(url)
    counter = [0]

    def work():
        mine = redis.Redis.from_url(url)
        for _ in range(10):
            with mine.lock("lock", timeout=10, sleep=0.002):
                seen = counter[0]
                time.sleep(0.0005)
                counter[0] = seen + 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert counter[0] == 80
    held = client.lock("lock", timeout=0.05)
    assert held.acquire()
    time.sleep(0.1)
    try:
        held.release()
        raise AssertionError("a lock that ran out was released")
    except redis.exceptions.LockError:
        pass


def limits(url):
    """Three ways to count calls in a time."""
    fresh(url)
    import limits as library

    store = library.storage.storage_from_string(url)
    limit = library.parse("5/second")
    for way in (
        library.strategies.FixedWindowRateLimiter,
        library.strategies.MovingWindowRateLimiter,
        library.strategies.SlidingWindowCounterRateLimiter,
    ):
        limiter = way(store)
        # Not across the border of two windows.
        time.sleep(1.05 - time.time() % 1)
        allowed = sum(limiter.hit(limit, way.__name__) for _ in range(9))
        assert allowed == 5, (way.__name__, allowed)
        assert limiter.get_window_stats(limit, way.__name__).remaining == 0
        until(lambda: limiter.test(limit, way.__name__), "the next window", 4)  # noqa: B023
        limiter.clear(limit, way.__name__)


def langgraph_cache(url):
    """The cache of LangGraph."""
    client = fresh(url)
    from langgraph.cache.redis import RedisCache

    cache = RedisCache(client)
    key, other = (("space",), "one"), (("space", "deeper"), "two")
    cache.set({key: ({"answer": 42}, 100), other: (["x"], None)})
    assert cache.get([key, other, (("space",), "none")]) == {key: {"answer": 42}, other: ["x"]}
    cache.set({(("short",), "k"): (1, 1)})
    until(lambda: cache.get([(("short",), "k")]) == {}, "the end of what is short", 4)
    cache.clear([("space",)])
    assert cache.get([key]) == {}
    cache.clear()
    assert cache.get([other]) == {}


def bullmq(url):
    rig.node("programs.js", url, "bullmq")


def redlock(url):
    rig.node("programs.js", url, "redlock")


def socketio(url):
    rig.node("programs.js", url, "socketio")


def connect_redis(url):
    rig.node("programs.js", url, "connect_redis")


def rate_limiter(url):
    rig.node("programs.js", url, "rate_limiter")


CASES = [
    rq, celery, arq, dramatiq, huey, lock, limits, langgraph_cache, bullmq, redlock, socketio, connect_redis, rate_limiter,
]  # fmt: skip


def main():
    parser = rig.arguments(__doc__)
    rig.selectable(parser, CASES)
    options = parser.parse_args()
    rig.inside_venv()
    sys.exit(1 if rig.run(CASES, options, rig.server(options)) else 0)


if __name__ == "__main__":
    main()
