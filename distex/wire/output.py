"""stdout and stderr of workers, on their way to the terminal, the log or a function.

    worker ──fds 1, 2──> pipe ──> nanny: Pipe ──whole lines, Printed──> pool: a sink ──> terminal,
                                                                        logger or function

Lines of different workers never mix. A worker that prints faster than it can be told to the pool
waits in its print, as it would for a slow terminal, so no side ever holds much.
"""

import logging
import os
import sys
from collections.abc import Callable
from typing import Literal, NamedTuple

LINE_LIMIT_BYTES = 64 * 1024  # a longer line is cut into pieces
PIPE_BYTES = 1024 * 1024  # no less than what is in a pipe

logger = logging.getLogger("distex.output")


class OutputLine(NamedTuple):
    """A line that a worker has printed.

    Attributes:
        host: name of the worker's host.
        pid: the worker's process id there.
        stream: "stdout" or "stderr".
        text: the line, without its end; one of more than 64 KB comes in pieces.
    """

    host: str
    pid: int
    stream: str
    text: str

    def __str__(self) -> str:
        return f"{self.host}[{self.pid}]: {self.text}"


Sink = Callable[[OutputLine], object]
Output = Literal["terminal", "log"] | Sink | None


def _to_terminal(line: OutputLine) -> None:
    stream = sys.stderr if line.stream == "stderr" else sys.stdout
    if stream is not None:
        stream.write(f"{line}\n")
        stream.flush()


def _to_log(line: OutputLine) -> None:
    logger.info("%s", line, extra={
        "worker_host": line.host, "worker_pid": line.pid, "worker_stream": line.stream})


def sink(output: Output) -> Sink:
    """Where lines go, as Pool's argument of that name says.

    Raises:
        ValueError, TypeError: it says nothing that is known.
    """
    if output == "terminal":
        return _to_terminal
    if output is None or output == "log":
        return _to_log
    if isinstance(output, str):
        raise ValueError(f"output must be 'terminal', 'log', a function or None, not {output!r}")
    if not callable(output):
        raise TypeError("output must be 'terminal', 'log', a function or None, "
                        f"not {type(output).__name__}")
    return output


class Pipe:
    """The nanny's end of what one worker prints to stdout or to stderr.

    Args:
        stream: 1 or 2.
    """

    def __init__(self, stream: int) -> None:
        self.stream = stream
        self.pid = 0  # not known before there is the process
        self.ended = False
        self._line = b""  # the beginning of one that has no end yet
        self._source, self._target = os.pipe()
        os.set_blocking(self._source, False)

    def fileno(self) -> int:
        """What to wait for input on."""
        return self._source

    def become(self) -> None:
        """In the worker: print to it."""
        os.dup2(self._target, self.stream)
        self.close()

    def belongs_to(self, pid: int) -> None:
        """In the nanny: the worker has the other end now."""
        self.pid = pid
        os.close(self._target)
        self._target = -1

    def read(self, size: int = LINE_LIMIT_BYTES) -> bytes | None:
        """The lines that are complete, without the end of the last one; None: there are none."""
        try:
            data = os.read(self._source, size)
        except BlockingIOError:
            return None
        self.ended = not data
        lines, end, self._line = (self._line + data).rpartition(b"\n")
        if end:
            return lines
        return self.rest() if self.ended or len(self._line) >= LINE_LIMIT_BYTES else None

    def rest(self) -> bytes | None:
        """The beginning of a line whose end will not come; None: there is none."""
        line, self._line = self._line, b""
        return line or None

    def close(self) -> None:
        """Close what is open of it here."""
        os.close(self._source)
        if self._target >= 0:
            os.close(self._target)
