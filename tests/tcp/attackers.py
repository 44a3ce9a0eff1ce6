"""What strangers can do to a port: connect, say nothing, the half of it, or the wrong thing, and
come again as soon as they are dropped. Run as a process of its own:

    python attackers.py KIND PORT SECRET CONNECTIONS SOURCE
"""

import contextlib
import selectors
import socket
import ssl
import sys

from distex.wire.secret import Secret


def client_hello(secret):
    """The first bytes of a client with this secret."""
    context = Secret(secret).context([], server_side=False)
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


# what each kind says, given what those with the secret would say
KINDS = {
    "silent": lambda hello: b"",
    "half-open": lambda hello: hello[:100],
    "wrong mark": lambda hello: hello.replace(b"distex-", b"wrong--"),
    "no TLS": lambda hello: b"\xff" * 100_000,
    "has listened": lambda hello: hello,
}


def attack(said, port, number, source):
    """Keep this many connections open, each of which says this, until stdin ends."""
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("begins", flush=True)
    made = 0
    while True:
        while len(selector.get_map()) <= number:
            sock = socket.socket()
            try:
                sock.bind((source, 0))
                sock.connect(("127.0.0.1", port))
                sock.setblocking(False)
                if said:
                    sock.send(said)
            except OSError:
                sock.close()
                break
            made += 1
            selector.register(sock, selectors.EVENT_READ)
            if not made % 20:
                break
        for key, _ in selector.select(0.01):
            if key.fileobj is sys.stdin:
                return
            with contextlib.suppress(OSError):
                if key.fileobj.recv(1000):
                    continue
            selector.unregister(key.fileobj)
            key.fileobj.close()


if __name__ == "__main__":
    kind, port, secret, connections, source = sys.argv[1:]
    attack(KINDS[kind](client_hello(secret)), int(port), int(connections), source)
