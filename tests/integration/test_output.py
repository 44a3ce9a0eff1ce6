"""What workers print reaches the terminal, the log or a function: whole lines, none of them lost."""

import collections
import faulthandler
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from distex import OutputLine, Pool, WorkerLost
from distex.wire import output

from .support import DEADLINE, wait_until


class Lines:
    """Collects lines; a function for ``Pool(output=...)``."""

    def __init__(self):
        self.all = []

    def __call__(self, line):
        self.all.append(line)

    def texts(self, stream=None):
        return [line.text for line in self.all if stream in (None, line.stream)]


@pytest.fixture
def lines():
    return Lines()


def test_a_function_gets_each_line_with_host_pid_and_stream(lines):
    def task():
        print("to stdout")
        print("to stderr", file=sys.stderr)
        return os.getpid()

    with Pool(1, output=lines) as pool:
        pid = pool.run(task)
    host = os.uname().nodename
    assert sorted(lines.all) == [
        (host, pid, "stderr", "to stderr"), (host, pid, "stdout", "to stdout")]
    assert str(lines.all[0]).startswith(f"{host}[{pid}]: to std")


def test_lines_come_while_the_task_runs(lines, tmp_path):
    def task():
        print("it runs")
        while not go.exists():
            time.sleep(0.01)

    go = tmp_path / "go"
    with Pool(1, output=lines) as pool:
        future = pool.submit(task)
        wait_until(lambda: lines.all, what="the line")
        assert not future.done()
        go.touch()


@pytest.mark.parametrize("text", ["", "\n", "\n\n", "one", "one\n\ntwo\n", "é ü 漢字\n", "\r\n"])
def test_lines_arrive_as_they_were(lines, text):
    with Pool(1, output=lines) as pool:
        pool.run(lambda: sys.stdout.write(text) and None)
    assert lines.texts() == text.removesuffix("\n").split("\n") * bool(text)


def test_bytes_that_are_no_text(lines):
    with Pool(1, output=lines) as pool:
        pool.run(os.write, 1, b"\xff\x00\xfe\n")
    assert lines.texts() == ["\ufffd\x00\ufffd"]


def test_a_long_line_comes_in_pieces(lines):
    size = 10 * output.LINE_LIMIT_BYTES + 7
    with Pool(1, output=lines) as pool:
        pool.run(lambda: print("x" * size))
    assert "".join(lines.texts()) == "x" * size
    assert max(map(len, lines.texts())) <= 2 * output.LINE_LIMIT_BYTES


def test_lines_of_many_workers_do_not_mix(lines):
    def task(k):
        for part in ["begin", *["-" * 50] * 5, f"end {k}\n"]:  # each is written by itself
            os.write(1, f"{k} {part} ".encode() if part[0] != "e" else part.encode())

    with Pool(4, output=lines) as pool:
        list(pool.map(task, range(500), chunksize=1))
    dashes = "-" * 50
    assert sorted(lines.texts()) == sorted(
        f"{k} begin " + f"{k} {dashes} " * 5 + f"end {k}" for k in range(500))


def test_much_output_is_neither_lost_nor_in_the_way(lines):
    """More than any pipe holds, from all workers at a time, and tasks go on."""
    def task(k):
        for i in range(2000):
            print(f"{k} {i} " + "x" * 200)
        return k

    with Pool(3, output=lines) as pool:
        assert list(pool.map(task, range(10), chunksize=1)) == list(range(10))
    assert len(lines.all) == 20_000
    found = collections.defaultdict(list)
    for text in lines.texts():
        k, i, _ = text.split()
        found[k].append(int(i))
    assert all(numbers == list(range(2000)) for numbers in found.values())  # in their order too


def test_a_worker_that_prints_faster_than_it_is_taken_waits(lines, tmp_path):
    """The pool's loop is blocked, so that nobody takes what is printed: nothing grows."""
    def slow(line):
        go.wait(DEADLINE)
        lines(line)

    def task():
        for k in range(400):
            os.write(1, b"x" * 49_999 + b"\n")
            written.write_text(str(k + 1))

    go = threading.Event()
    written = tmp_path / "written"
    with Pool(1, output=slow) as pool:
        future = pool.submit(task)
        wait_until(written.exists, what="the first line")
        seen = [written.read_text()]
        while len(seen) < 20 or seen[-1] != seen[-20]:  # until it has come to a stop
            time.sleep(0.01)
            seen.append(written.read_text())
        # two pipes, what the nanny holds, and what is in sockets and the pool's transport
        assert int(seen[-1] or 0) * 50_000 < 4_000_000
        go.set()
        future.result()
    assert lines.texts() == ["x" * 49_999] * 400


@pytest.mark.parametrize("die", ["exit", "kill", "abort"])
def test_the_last_words_of_a_worker_that_dies(lines, die):
    def task():
        print("a line")
        os.write(2, b"last words")
        if die == "exit":
            os._exit(3)
        elif die == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        faulthandler.enable()
        os.abort()

    with Pool(1, output=lines) as pool, pytest.raises(WorkerLost):
        pool.run(task)
    assert "a line" in lines.texts("stdout")
    assert any(text.startswith("last words") for text in lines.texts("stderr"))
    if die == "abort":
        assert any("Fatal Python error: Aborted" in text for text in lines.texts("stderr"))


def test_a_last_line_without_an_end(lines):
    with Pool(2, output=lines) as pool:
        pool.run_on_all(print, "no end", end="")
    assert lines.texts() == ["no end", "no end"]


def test_what_a_child_of_a_worker_prints(lines):
    with Pool(1, output=lines) as pool:
        pool.run(subprocess.run, ["sh", "-c", "echo from a shell; echo its error >&2"])
    assert sorted(lines.texts()) == ["from a shell", "its error"]


def test_what_is_printed_at_the_end(lines):
    def prepare():
        import atexit

        atexit.register(print, "goodbye")

    with Pool(2, output=lines, initializer=prepare):
        pass
    assert lines.texts() == ["goodbye", "goodbye"]


def test_a_child_that_outlives_its_worker_may_go_on_to_print(lines, tmp_path):
    def leave():
        subprocess.Popen(
            ["sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done; echo still here"],
            start_new_session=True)
        os._exit(1)

    with Pool(1, output=lines) as pool:
        with pytest.raises(WorkerLost):
            pool.run(leave)
        (tmp_path / "go").touch()
        wait_until(lambda: "still here" in lines.texts(), what="its words")


def test_to_the_log(caplog):
    caplog.set_level(logging.INFO, logger="distex.output")
    with Pool(1, output="log") as pool:
        pid = pool.run(os.getpid)
        pool.run(print, "some %s words")
    (record,) = [record for record in caplog.records if record.name == "distex.output"]
    assert record.getMessage() == f"{os.uname().nodename}[{pid}]: some %s words"
    assert (record.worker_host, record.worker_pid, record.worker_stream) == (
        os.uname().nodename, pid, "stdout")


def test_to_the_terminal(capsys):
    with Pool(1, output="terminal") as pool:
        pid = pool.run(os.getpid)
        pool.run(print, "to stdout")
        pool.run(os.write, 2, b"to stderr")
    out, err = capsys.readouterr()
    name = f"{os.uname().nodename}[{pid}]"
    assert out == f"{name}: to stdout\n"
    assert err == f"{name}: to stderr\n"


def test_by_default_local_workers_write_where_this_process_does(capfd):
    with Pool(1) as pool:
        pool.run(print, "some words", flush=True)
        pool.run(os.write, 2, b"more\n")
    assert capfd.readouterr() == ("some words\n", "more\n")


def test_a_function_that_raises_harms_nothing(caplog):
    def broken(line):
        raise LookupError("no")

    with Pool(1, output=broken) as pool:
        pool.run(print, "some words")
        assert pool.run(abs, -1) == 1
    assert "Pool(output=...) failed" in caplog.text
    assert "LookupError" in caplog.text


@pytest.mark.parametrize(("value", "error"), [
    ("somewhere", ValueError), ("", ValueError), (1, TypeError), (True, TypeError)])
def test_values_that_make_no_sense(value, error):
    with pytest.raises(error, match="output must be"):
        Pool(1, output=value)


def test_a_line_can_be_made_by_hand():
    assert str(OutputLine("maxi", 12, "stdout", "words")) == "maxi[12]: words"
