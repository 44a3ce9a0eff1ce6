"""A nanny's stream to its pool: none of its calls wait."""

import os


class Stream:
    """The stream to the pool: two file descriptors, which it owns. None of its calls wait.

    A nanny must never wait for the pool: on a host that is cut off it would not come to end itself.
    """

    def __init__(self, source: int, target: int) -> None:
        self.source = source
        self.target = target
        self.backlog = bytearray()  # what is to be written
        for fd in (source, target):
            os.set_blocking(fd, False)

    def recv(self) -> bytes | None:
        """The next bytes; empty: the end; None: there are none yet."""
        try:
            return os.read(self.source, 65536)
        except BlockingIOError:
            return None
        except OSError:  # the pool died with our messages unread
            return b""

    def send(self, data: bytes = b"") -> None:
        """Write what can be written now, of this and of the backlog."""
        self.backlog += data
        try:
            while self.backlog:
                del self.backlog[: os.write(self.target, self.backlog)]
        except BlockingIOError:
            pass
        except OSError:  # the pool is gone, as the next recv will tell
            self.backlog.clear()

    def close(self) -> None:
        """Close both."""
        os.close(self.source)
        os.close(self.target)
