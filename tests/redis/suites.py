#!/usr/bin/env python3
"""Runs public test suites of others against a server that speaks the protocol of Redis, and counts.

suite     what it is
cts       the compatibility suite of tair-opensource, 350 cases of Redis up to 7.0
tcl       the tests of Redis 7.0 itself, in external-server mode
redis-py  tests/test_commands.py of redis-py

They are cloned from GitHub into target/redis. Where that is not reachable, `--source NAME=DIR` names a local clone.

With `--baseline` the same is run against a redis-server of the rig's own, and what passes there and not here is listed.
What `exclusions.txt` names is listed apart, with its reason. Ends with 1 if anything else that passes there fails here.
"""

import os
import re
import signal
import subprocess
import sys

import rig

SOURCES = {
    "cts": ("https://github.com/tair-opensource/compatibility-test-suite-for-redis", "HEAD"),
    "tcl": ("https://github.com/redis/redis", "7.0.15"),
    "redis-py": ("https://github.com/redis/redis-py", "v8.1.0"),
}
UNITS = [
    "unit/protocol",
    "unit/keyspace",
    "unit/scan",
    "unit/type/string",
    "unit/type/incr",
    "unit/type/hash",
    "unit/type/list",
    "unit/type/list-2",
    "unit/type/list-3",
    "unit/type/set",
    "unit/expire",
    "unit/pubsub",
]


def fetch(name, options):
    """A checkout of a suite."""
    url, ref = SOURCES[name]
    folder = rig.TARGET / "suites" / name
    if not (folder / "checked-out").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        local = dict(source.split("=", 1) for source in options.source).get(name, url)
        subprocess.run(["git", "clone", "-q", "--no-checkout", local, str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", "-q", ref], check=True)
        (folder / "checked-out").write_text(ref)
    return folder


# The suite expects the replies of protocol 2, which redis-py no longer asks for by itself.
PROTOCOL_2 = """
import redis, runpy, sys
begin = redis.Redis.__init__
redis.Redis.__init__ = lambda self, *args, **named: begin(self, *args, **{**named, "protocol": 2})
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def cts(url, options):
    """Names of cases that pass, and of those that fail with what was said."""
    folder = fetch("cts", options)
    host, port = rig.address(url)
    command = [sys.executable, "-c", PROTOCOL_2, "redis_compatibility_test.py", "--testfile", "cts.json"]
    command += ["--host", host, "--port", str(port), "--show-failed", "--specific-version", "7.0.0"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=1800)
    said = dict(re.findall(r"^FailedTest\(name='(.*?)', reason=(.*)\)$", done.stdout, re.M))
    passed, failed, times = set(), {}, {}
    for name, word in re.findall(r"^test: (.*) (passed|failed)$", done.stdout, re.M):
        times[name] = times.get(name, 0) + 1
        # Some names are given twice.
        unique = name if times[name] == 1 else f"{name} ({times[name]})"
        if word == "passed":
            passed.add(unique)
        else:
            failed[unique] = said.get(name, "")
    if not passed and not failed:
        print(done.stdout[-500:], done.stderr[-500:])
    return passed, failed


def tcl(url, options):
    """The same of Redis's own tests. One that aborts its unit fails, and so does all that was to come after it."""
    folder = fetch("tcl", options)
    host, port = rig.address(url)
    (folder / "tests" / "tmp").mkdir(exist_ok=True)
    # Some tests start this program; it need not be of the same version.
    for program in ["redis-cli", "redis-benchmark"]:
        link = folder / "src" / program
        if not link.exists():
            found = subprocess.run(["which", program], capture_output=True, text=True, check=False).stdout.strip()
            if found:
                link.symlink_to(found)
    passed, failed = set(), {}
    for unit in options.unit or UNITS:
        command = ["./runtest", "--host", host, "--port", str(port), "--single", unit, "--clients", "1", "--durable"]
        # Of its own: other runs may be under way.
        command += ["--baseport", str(10_000 + os.getpid() % 20_000)]
        command += ["--tags", "-slow -needs:debug -needs:repl -large-memory", "--ignore-digest", "--timeout", "300"]
        if options.ignore_encoding:
            command.append("--ignore-encoding")
        for name in options.left_out:
            if name.startswith(f"{unit}: "):
                command += ["--skiptest", name.split(": ", 1)[1]]
                failed[name] = "not run"
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)
        try:
            out, _ = process.communicate(timeout=options.unit_seconds)
        except subprocess.TimeoutExpired:
            # With the processes that it has started.
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            failed[f"{unit}: takes longer than {options.unit_seconds} s"] = ""
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.decode("utf-8", "replace"))
        passed |= {f"{unit}: {name}" for name in re.findall(r"^\[ok\]: (.*?)(?: \(\d+ ms\))?$", text, re.M)}
        for name, why in re.findall(r"^\[err\]: (.*?) in tests/\S+\.tcl\n?(.*)$", text, re.M):
            failed[f"{unit}: {name}"] = why
        for what in re.findall(r"^\[exception\]: (.*)$", text, re.M):
            failed[f"{unit}: aborted"] = what
        is_there = any(case.startswith(f"{unit}: ") for case in [*passed, *failed])
        if not is_there and "All tests passed" not in text:
            failed[f"{unit}: does not run"] = text[-300:]
        if options.verbose:
            print(text)
    return passed - set(failed), failed


def redis_py(url, options):
    """The same of redis-py's tests of commands."""
    folder = fetch("redis-py", options)
    report = rig.TARGET / f"redis-py-{rig.address(url)[1]}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--redis-url={url}/0", "--timeout=30"]
    command += [f"--junitxml={report}", "-o", "junit_family=xunit1", "-m", "not redismod and not onlycluster"]
    command += options.pytest or ["tests/test_commands.py"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=3600
    )
    passed, failed = set(), {}
    if not report.exists():
        print(done.stdout[-2000:], done.stderr[-2000:])
        return passed, {"it does not run": ""}
    import xml.etree.ElementTree as tree

    for case in tree.parse(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}".replace("tests.test_commands.", "")
        wrong = [part for part in case if part.tag in ("failure", "error")]
        if wrong:
            failed[name] = (wrong[0].get("message") or "").splitlines()[0] if wrong[0].get("message") else ""
        elif not [part for part in case if part.tag == "skipped"]:
            passed.add(name)
    return passed - set(failed), failed


def by_unit(cases):
    """How many cases there are of each unit of Redis's own tests."""
    counts = {}
    for case in cases:
        unit = case.split(": ", 1)[0]
        counts[unit] = counts.get(unit, 0) + 1
    return counts


SUITES = {"cts": cts, "tcl": tcl, "redis-py": redis_py}


def exclusions():
    """What is known to differ: `SUITE<tab>NAME<tab>REASON` in each line."""
    found = {}
    for line in (rig.HERE / "exclusions.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            suite, name, reason = line.split("\t")
            found[suite, name] = reason
    return found


def main():
    parser = rig.arguments(__doc__)
    parser.add_argument("--suite", action="append", choices=SUITES, help="all of them unless named")
    parser.add_argument("--source", action="append", default=[], metavar="NAME=DIR", help="a local clone of a suite")
    parser.add_argument("--unit", action="append", help="units of Redis's own tests, instead of those that are asked for")
    parser.add_argument("--unit-seconds", type=int, default=240)
    parser.add_argument("--ignore-encoding", action="store_true", help="do not ask how values are encoded")
    parser.add_argument("--pytest", action="append", help="what of redis-py's tests is run, instead of test_commands.py")
    parser.add_argument("--baseline", action="store_true", help="compare with a redis-server")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    rig.inside_venv()
    url = rig.server(options)
    excluded = exclusions()
    wrong = 0
    for name in options.suite or SUITES:
        # What fails in the middle of a unit of Redis's own tests leaves clients behind that others trip over.
        options.left_out = [case for suite, case in excluded if suite == name]
        passed, failed = SUITES[name](url, options)
        print(f"{name}: {len(passed)} passed, {len(failed)} failed", flush=True)
        there = None
        if options.baseline:
            options.left_out = []
            there, failed_there = SUITES[name](rig.start_redis(), options)
            print(f"{name}: {len(there)} passed, {len(failed_there)} failed with redis-server", flush=True)
        if name == "tcl":
            counts, counts_there, wrong_here = by_unit(passed), by_unit(there or ()), by_unit(failed)
            for unit in options.unit or UNITS:
                beside = f", {counts_there.get(unit, 0)} with redis-server" if there is not None else ""
                print(f"  {unit}: {counts.get(unit, 0)} passed, {wrong_here.get(unit, 0)} failed{beside}", flush=True)
        for case in sorted(set(failed) | (there or set()) - passed):
            reason = excluded.get((name, case))
            only_here = there is None or case in there
            wrong += only_here and reason is None
            mark = "excluded" if reason else "FAIL" if only_here else "also there"
            print(f"  {mark}: {case}: {(reason or failed.get(case, 'was not reached'))[:300]}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
