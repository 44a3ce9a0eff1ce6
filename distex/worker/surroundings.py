"""What a nanny, and so its workers, have around them, whatever the process had that started it:
signals, standard streams, the environment."""

import os
import signal
import sys

from distex import machine

HASH_SEED = "PYTHONHASHSEED"
# Python ignores them, for reads and writes to fail with an exception
IGNORED = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ")}


def put_in_order(hash_seed: str) -> None:
    """Have no signal blocked or ignored, standard streams that can be used, and the environment as
    the user has it.

    Args:
        hash_seed: the user's PYTHONHASHSEED; empty: there is none. This process was started with
            that of the pool.
    """
    _default_signals()
    machine.open_standard_files()
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(  # noqa: SIM115
                fd, "w" if fd else "r", errors="backslashreplace", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    if hash_seed:
        os.environ[HASH_SEED] = hash_seed
    else:
        os.environ.pop(HASH_SEED, None)


def _default_signals() -> None:
    for number in signal.valid_signals():
        if number not in IGNORED and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT
                          else signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
