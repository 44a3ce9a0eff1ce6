"""Pools in the processes of servers: Celery's prefork workers, gunicorn with preload, uvicorn.

A pool that is made before the server forks is the parent's; its forks are told to make their own,
when the application starts in each (its lifespan), or at the first request.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from machine import free_port

from .support import DEADLINE, wait_until

# what each of the programs has
POOLS = """
import functools, os
from distex import LoopType, Pool
from work import triple  # the workers import that, and make no pools therefore
made_before = Pool(1, worker_loop=LoopType.KIND)
parent = os.getpid()
@functools.cache
def own_pool(): return Pool(1, worker_loop=LoopType.KIND)
def use(pool):
    try:
        return str(pool.run(triple, 5))
    except RuntimeError as exc:
        assert "make a new one here" in str(exc), exc
        return "refused"
assert use(made_before) == "15"
"""

CELERY = POOLS + """
from celery import Celery
app = Celery("program", broker="filesystem://", backend="file://FOLDER/results")
app.conf.broker_transport_options = {
    "data_folder_in": "FOLDER/queue", "data_folder_out": "FOLDER/queue",
    "control_folder": "FOLDER/control", "processed_folder": "FOLDER/processed"}
@app.task
def of_both():
    return f"{use(made_before)} {use(own_pool())} {os.getpid() == parent}"
"""

# for gunicorn's own workers
WSGI = POOLS + """
def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    answer = f"{use(made_before)} {use(own_pool())} {os.getpid() == parent}"
    return [f"{answer} by {os.getpid()}".encode()]
"""

# for uvicorn, alone or below gunicorn
ASGI = POOLS + """
made_in_lifespan = None
async def app(scope, receive, send):
    global made_in_lifespan
    if scope["type"] == "lifespan":
        await receive()
        async with Pool(1, worker_loop=LoopType.KIND) as made_in_lifespan:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    answer = f"{use(made_before)} {await made_in_lifespan.run_async(triple, 6)} {os.getpid() == parent}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{answer} by {os.getpid()}".encode()})
"""


@pytest.fixture
def write(tmp_path, loop_type):
    """Return a function that writes the program that a server imports."""
    def write(source):
        source = source.replace("KIND", loop_type.name).replace("FOLDER", str(tmp_path))
        (tmp_path / "program.py").write_text(source)
        (tmp_path / "work.py").write_text("def triple(n): return 3 * n")
    return write


@contextlib.contextmanager
def served(tmp_path, *arguments):
    """Run a server, and end it as an operator does; it has to end well, and soon."""
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=tmp_path, stdout=file, stderr=file,
            stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
        process.terminate()
        assert process.wait(DEADLINE) in (0, -signal.SIGTERM), log.read_text()
        assert "Traceback" not in log.read_text(), log.read_text()
    except BaseException:
        print(log.read_text())
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(port):
    """Return the answer of a server, once it is up, and the process that gave it."""
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=DEADLINE) as answer:
                return answer.read().split(b" by ")
        except urllib.error.HTTPError:
            raise
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def ask_both(port):
    """Return what the two workers of a server answer. One that was not up when the server is told to
    end would not hear of it: gunicorn tells it before it can."""
    answers = [ask(port) for _ in range(10)]

    def both_have_answered():
        answers.append(ask(port))
        return len({pid for _, pid in answers}) == 2

    wait_until(both_have_answered, "both to answer")
    return {answer for answer, _ in answers}


def test_gunicorn_with_preload(write, tmp_path):
    write(WSGI)
    port = free_port()
    with served(tmp_path, "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}",
                "program:app"):
        assert ask_both(port) == {b"refused 15 False"}


def test_gunicorn_with_workers_of_uvicorn(write, tmp_path):
    write(ASGI)
    port = free_port()
    with served(tmp_path, "gunicorn", "--preload", "-w", "2", "-b", f"127.0.0.1:{port}",
                "-k", "uvicorn.workers.UvicornWorker", "program:app"):
        assert ask_both(port) == {b"refused 18 False"}


def test_uvicorn(write, tmp_path):
    write(ASGI)
    port = free_port()
    with served(tmp_path, "uvicorn", "--port", str(port), "program:app"):
        assert ask(port)[0] == b"15 18 True"


def test_celery(write, tmp_path):
    write(CELERY)
    for name in "queue", "control", "processed", "results":
        (tmp_path / name).mkdir()
    send = "import program; print(program.of_both.delay().get(timeout=30))"
    with served(tmp_path, "celery", "-A", "program", "worker", "-c", "2", "-P", "prefork",
                "--without-gossip", "--without-mingle"):
        done = subprocess.run(
            [sys.executable, "-c", send], cwd=tmp_path, capture_output=True, text=True,
            timeout=50)
        assert done.stdout.strip() == "refused 15 False", done.stderr
