"""Tell clients with the secret from others by their first bytes, before TLS costs anything.

    ClientHello of TLS: 22, version, size │ ... ALPN: what it wants to speak, the mark ...

The mark is derived from the secret; a client names it beside the protocols that it speaks. It
proves nothing: whoever can listen on the way can repeat it. It keeps away those who can only
connect, at the price of a look; TLS has the proof.
"""

import contextlib
import enum
import socket

SIZE_LIMIT_BYTES = 4096  # a ClientHello has 500 to 2,000 bytes
HEADER_BYTES = 5
HANDSHAKE = 22  # type of a record of TLS
# a fatal alert, "access denied"; OpenSSL's name for it in errors
DENIAL = bytes([21, 3, 3, 0, 2, 2, 49])
DENIED = "TLSV1_ALERT_ACCESS_DENIED"


class Found(enum.Enum):
    """What the first bytes of a connection are."""

    INCOMPLETE = enum.auto()
    MARKED = enum.auto()  # by somebody with the secret, or who has listened
    UNMARKED = enum.auto()  # with another secret, say
    NO_TLS = enum.auto()
    NOTHING = enum.auto()  # and no more will come


class FirstBytes:
    """The first bytes of one connection, which stay there for TLS to read.

    Args:
        sock: of the connection; it does not block, and is readable when there is news.
        mark: to look for.
    """

    def __init__(self, sock: socket.socket, mark: bytes) -> None:
        self._sock = sock
        self._mark = mark
        self._needed = 0
        self._need(HEADER_BYTES)

    def look(self) -> Found:
        """What they are, as far as they are there."""
        try:
            data = self._sock.recv(SIZE_LIMIT_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            return Found.INCOMPLETE
        except OSError:
            return Found.NOTHING
        if data and data[0] != HANDSHAKE:
            return Found.NO_TLS
        if len(data) < self._needed:  # it is readable, so this was all
            return Found.NOTHING
        size = HEADER_BYTES + int.from_bytes(data[3:HEADER_BYTES], "big")
        if size > SIZE_LIMIT_BYTES:
            return Found.NO_TLS
        if len(data) < size:
            self._need(size)
            return Found.INCOMPLETE
        self._need(1)
        return Found.MARKED if self._mark in data[:size] else Found.UNMARKED

    def _need(self, size: int) -> None:
        """The socket is not readable before so many bytes are there, or the end."""
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
            self._needed = size


def deny(sock: socket.socket) -> None:
    """Have a client of TLS know that it does not have the secret."""
    with contextlib.suppress(OSError):
        sock.recv(SIZE_LIMIT_BYTES)  # what is unread when it is closed would cost it the answer
        sock.send(DENIAL)
