"""Programs that work all the time while the node that leads is killed: RQ, Celery, BullMQ, redlock.

Each is a function of the url of a node that stays and of `death`, which kills the one that leads and returns when another leads. It
calls that in the middle of its work and goes on for as long again; then everything that was answered is to hold. What is done writes its number to a file,
so that nobody needs to be believed. `nodes.py` runs them.

Where a library gives up on an error it is helped as its users help it: workers are started again by what looks after services,
calls are tried again by redis-py's `Retry`, lost jobs are looked for by the library's own maintenance.
"""

import itertools
import threading
import time

import rig
from programs import Tasks, fresh, until

# How much is done before the node that leads is killed, and after another leads.
HALF = 25
# The longest time until all is done that was asked for.
DONE_SECONDS = 60


def again(call):
    """Calls until it is answered with something else than that nothing changed or that nobody knows."""
    import redis
    from redis.backoff import ConstantBackoff
    from redis.retry import Retry

    return Retry(ConstantBackoff(0.05), 500, supported_errors=(redis.ConnectionError, Lost)).call_with_retry(
        lambda: lost_or(call), lambda error: None
    )


class Lost(Exception):
    """Nothing changed, or nobody knows."""


def lost_or(call):
    try:
        return call()
    except Exception as error:  # noqa: BLE001: libraries wrap errors in whatever they like
        if "TRYAGAIN" in str(error) or "UNCONFIRMED" in str(error):
            raise Lost(str(error)) from error
        raise


class Work:
    """Asks for numbers to be done, all the time: before, while, and after the node that leads is killed."""

    def __init__(self, done, ask, pause):
        self.done, self.ask, self.pause = done, ask, pause
        self.asked, self.error, self.enough = {}, None, False
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        for number in itertools.count():
            if self.enough:
                return
            try:
                self.asked[number] = again(lambda: self.ask(number))  # noqa: B023
            except Exception as error:  # noqa: BLE001: told by `through`
                self.error = error
                return
            time.sleep(self.pause)

    def through(self, death):
        """All that was asked for, by its number."""
        self.thread.start()
        until(lambda: self.error or len(set(self.done())) >= HALF, "what is done before", DONE_SECONDS)
        assert len(self.asked) >= HALF, f"asking ended: {self.error}"
        death()
        before = len(self.asked)
        until(lambda: self.error or len(self.asked) >= before + HALF, "what is asked for afterwards", DONE_SECONDS)
        self.enough = True
        self.thread.join()
        if self.error:
            raise self.error
        return self.asked


def noted(folder):
    """Forgets what was done, and returns how to learn what is."""
    file = folder / "done"
    file.write_text("")
    return lambda: [int(line) for line in file.read_text().split()]


def told(what, done, unknown):
    twice = len(done) - len(set(done))
    print(f"         {len(set(done))} {what}, {twice} times one of them again; the workers heard {unknown} times that nobody knows", flush=True)


def log():
    """What the workers said."""
    return (Tasks.folder() / "log").read_text(errors="replace")


def rq(url, death):
    """Jobs of which some come while nobody leads. Each ends with its result."""
    client = fresh(url)
    text = """
    import time
    def double(number):
        with open("done", "a") as file:
            file.write(f"{number}\\n")
        time.sleep(0.01)
        return 2 * number
    """
    from rq import Queue, Retry, Worker
    from rq.job import Job

    done = noted(Tasks.folder())
    with Tasks(text, "rq", "worker-pool", "rig", "-u", url, "-n", "2", forever=True) as tasks:
        queue = Queue("rig", connection=client)
        ask = lambda number: queue.enqueue(tasks.double, number, job_id=f"job{number}", retry=Retry(max=20))
        asked = Work(done, ask, 0.05).through(death)

        def look_after():
            """What RQ's maintenance does with jobs whose worker came to an end, without waiting for a minute."""
            waiting = queue.intermediate_queue
            for job_id in waiting.get_job_ids():
                client.set(waiting.get_first_seen_key(job_id), 0)
            waiting.cleanup(Worker([queue], connection=client), queue)
            queue.started_job_registry.cleanup(time.time() + 3600)

        def is_over():
            """Looks after what is left once the queue is empty and nothing has been done for a while."""
            now = len(done())
            if now != is_over.done or len(queue):
                is_over.done, is_over.since = now, time.monotonic()
            elif time.monotonic() - is_over.since > 2:
                again(look_after)
                is_over.since = time.monotonic()
            return all(job.is_finished for job in Job.fetch_many([job.id for job in asked.values()], connection=client))

        is_over.done, is_over.since = -1, 0
        until(is_over, "the end of all jobs", DONE_SECONDS)
        assert {number: job.return_value() for number, job in asked.items()} == {number: 2 * number for number in asked}
    assert set(done()) == set(asked)
    assert len(queue.failed_job_registry) == len(queue.started_job_registry) == len(queue) == 0
    told("jobs", done(), log().count("ResponseError: UNCONFIRMED"))


def celery(url, death):
    """Tasks of which some come while nobody leads, acknowledged once they are done. Each is done, and has its result.

    Celery takes a task from Redis and remembers it in two steps. One whose taking was answered with UNCONFIRMED is gone, as it
    is when a Redis dies before it has answered, and one whose result was answered so may count as failed: whoever sent it sends it
    again. So many there may be as the workers heard of, and no more.
    """
    fresh(url)
    text = f"""
    import time
    from celery import Celery
    app = Celery("rig_tasks", broker="{url}/0", backend="{url}/1")
    app.conf.update(broker_connection_retry_on_startup=True, broker_channel_error_retry=True)
    app.conf.update(worker_hijack_root_logger=False, task_acks_late=True)
    app.conf.broker_transport_options = dict(
        visibility_timeout=4, unacked_restore_interval=1, unacked_restore_throttle=1)
    @app.task
    def double(number):
        with open("done", "a") as file:
            file.write(f"{{number}}\\n")
        time.sleep(0.01)
        return 2 * number
    """
    done = noted(Tasks.folder())
    command = ["celery", "-A", "rig_tasks", "worker", "-P", "threads", "-c", "4", "-l", "INFO"]
    with Tasks(text, *command, forever=True) as tasks:
        ask = lambda number: tasks.double.apply_async((number,), task_id=f"task{number}")
        state = lambda number: again(lambda: tasks.app.AsyncResult(f"task{number}").state)
        asked = Work(done, ask, 0.03).through(death)

        def rest():
            """Those without a result, once none has come for longer than what was taken stays with who took it."""
            left, since = set(asked), time.monotonic()
            while left and time.monotonic() < since + 8:
                time.sleep(0.2)
                now = {number for number in left if state(number) != "SUCCESS"}
                left, since = now, since if now == left else time.monotonic()
            return left

        lost, failed = 0, 0
        for number in rest():
            lost += number not in done()
            failed += number in done()
            again(lambda: ask(number))  # noqa: B023
        left = rest()
        assert not left, f"no result of {sorted(left)}"
        results = {number: again(lambda: tasks.app.AsyncResult(f"task{number}").get(timeout=20)) for number in asked}  # noqa: B023
        assert results == {number: 2 * number for number in asked}
    assert set(done()) == set(asked)
    taking, storing = log().count("Connection to broker lost"), log().count("ResponseError: UNCONFIRMED")
    assert lost <= taking and failed <= storing, f"{lost} lost, {failed} failed: {taking} and {storing} were heard of"
    told("tasks", done(), taking + storing)
    print(f"         {lost} were lost on their way to a worker, {failed} failed when their result was stored", flush=True)


def bullmq(url, death):
    rig.node_killed("killed.js", url, "bullmq", death)


def redlock(url, death):
    rig.node_killed("killed.js", url, "redlock", death)


CASES = [rq, celery, bullmq, redlock]
