"""What workers on other hosts print: logged if nothing is said, else as of local ones."""

import os
import sys

import pytest
from machine import is_alive, wait_until

from distex import Pool, WorkerLost

from .support import make_command


def chatter(size):
    """Print without an end."""
    while True:
        os.write(1, b"x" * size + b"\n")


def test_it_is_logged_with_host_and_pid(sshd, caplog):
    caplog.set_level("INFO", logger="distex.output")
    with Pool(0, sshd.spec(1)) as pool:
        pid = pool.run(os.getpid)
        pool.run(print, "some words")
        pool.run(os.write, 2, b"no end")
    host = f"127.0.0.1:{sshd.port}"
    assert f"{host}[{pid}]: some words" in caplog.messages
    assert f"{host}[{pid}]: no end" in caplog.messages


def test_workers_here_and_there_to_one_function(sshd):
    lines = []
    with Pool(1, sshd.spec(2), output=lines.append) as pool:
        workers = pool.workers()
        pool.run_on_all(lambda: print("from", os.getpid()))
    assert sorted(worker.host for worker in workers) == sorted(
        [os.uname().nodename, *[f"127.0.0.1:{sshd.port}"] * 2])
    assert sorted((line.host, line.text) for line in lines) == sorted(
        (worker.host, f"from {worker.pid}") for worker in workers)


def test_much_of_it(sshd):
    """Of each worker more than pipes, windows and sockets hold; results come all the while."""
    lines = []

    def task(k):
        for i in range(500):
            print(k, i, "x" * 1000)
        return k

    with Pool(0, sshd.spec(3), output=lines.append) as pool:
        assert list(pool.map(task, range(12), chunksize=1)) == list(range(12))
    assert sorted(line.text for line in lines) == sorted(
        f"{k} {i} " + "x" * 1000 for k in range(12) for i in range(500))


def test_the_last_words_of_a_worker_that_crashes(sshd):
    lines = []

    def crash():
        import faulthandler

        faulthandler.enable()
        print("no end", end="", flush=True)
        os.abort()

    with Pool(0, sshd.spec(1), output=lines.append) as pool, pytest.raises(WorkerLost):
        pool.run(crash)
    assert "no end" in [line.text for line in lines]
    assert "Fatal Python error: Aborted" in [line.text for line in lines]


def test_a_nanny_whose_output_nobody_takes_ends_all_the_same(
        sshd, network, behind_network, monkeypatch):
    """The host is cut off, and all buffers on the way are full."""
    from distex.launch import base

    monkeypatch.setattr(base, "ALONE_FACTOR", 2)
    with Pool(0, behind_network(2, keepalive=1.0)) as pool:
        future = pool.submit(chatter, 10_000)
        wait_until(lambda: not future.done() and len(sshd.processes()) == 3, "the workers")
        old = sshd.processes()
        network.stall()
        with pytest.raises(WorkerLost):
            future.result()
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end")
        network.cut()
        network.flow()


def test_many_workers_on_a_host_where_few_files_may_be_open(sshd, tmp_path):
    """The nanny has two pipes for each: it raises its limit."""
    lines = []
    python = make_command(tmp_path / "python", f'ulimit -Sn 64; exec "{sys.executable}" "$@"')
    with Pool(0, sshd.spec(30, python=python), output=lines.append) as pool:
        pool.run_on_all(print, "here")
    assert [line.text for line in lines] == ["here"] * 30
