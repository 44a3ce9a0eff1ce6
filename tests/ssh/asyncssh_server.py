"""An ssh server in this process, for what a real sshd can't be made to do.

    pool ──ssh──> AsyncSshd ── a process for the nanny
                     └──relay──< workers' sockets: slowed down, or dropped in the midst of a frame
"""

import asyncio
import contextlib
import os
import threading

import asyncssh
from machine import wait_until

from .support import Sshd

PIECE_BYTES = 4096  # what the relay passes on at a time


class Listener(asyncssh.SSHListener):
    """Where workers connect, as asyncssh wants it."""

    def __init__(self, server):
        super().__init__()
        self._server = server

    def close(self):
        self._server.close()

    async def wait_closed(self):
        await self._server.wait_closed()


class Server(asyncssh.SSHServer):
    """What one connection may do."""

    def __init__(self, sshd):
        self.sshd = sshd
        self.lost = asyncio.Event()

    def connection_made(self, conn):
        self.conn = conn
        self.sshd.connections.append(conn)

    def connection_lost(self, exc):
        self.sshd.connections.remove(self.conn)
        self.lost.set()

    async def begin_auth(self, username):
        if not self.sshd.lets_in:
            await self.lost.wait()
        return True

    def unix_server_requested(self, listen_path):
        answer = self.sshd.forwards
        return self._listen(listen_path) if answer is True else answer

    async def _listen(self, path):
        if self.sshd.forwards_late is not None:
            await self.sshd.forwards_late.wait()
        return Listener(await asyncio.start_unix_server(
            lambda reader, writer: self._relay(path, reader, writer), path))

    async def _relay(self, path, reader, writer):
        channel_reader, channel_writer = await self.conn.open_unix_connection(path, encoding=None)
        with contextlib.suppress(OSError, asyncssh.Error):
            await asyncio.gather(
                self._pump(channel_reader, writer, channel_writer, "to_workers"),
                self._pump(reader, channel_writer, channel_writer, "from_workers"))
        writer.close()
        channel_writer.close()

    async def _pump(self, source, target, channel, direction):
        while data := await source.read(PIECE_BYTES):
            left = self.sshd.bytes_left[direction]
            if left is not None:
                self.sshd.bytes_left[direction] = left - len(data)
                if left < len(data):  # what there is of the frame, and then nothing more
                    target.write(data[:left])
                    self.sshd.bytes_left[direction] = None
                    channel.channel.abort()
                    raise BrokenPipeError
            target.write(data)
            await target.drain()
            if self.sshd.pause:
                await asyncio.sleep(self.sshd.pause)
        target.write_eof()


class AsyncSshd(Sshd):
    """It is used as an Sshd.

    Attributes:
        lets_in: whether it comes to an end with authentication.
        forwards: whether sockets are forwarded.
        forwards_late: an asyncio.Event before which no request to forward is answered, or None.
        bytes_left: that may still pass "to_workers" and "from_workers"; None: all.
        pause: seconds after each piece that passes to or from a worker.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self.lets_in = True
        self.forwards = True
        self.forwards_late = None
        self.bytes_left = {"to_workers": None, "from_workers": None}
        self.pause = 0.0
        self.connections = []
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def start(self):
        async def listen():
            return await asyncssh.listen(
                self.address, self.port, server_host_keys=[str(self.host_key)],
                authorized_client_keys=str(self.folder / "authorized_keys"), encoding=None,
                server_factory=lambda: Server(self), process_factory=self._process)

        self._thread.start()
        self._server = self._run(listen())
        return self

    async def _process(self, process):
        """Run a command."""
        child = await asyncio.create_subprocess_shell(
            process.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "TMPDIR": str(self.tmp)})
        lost = contextlib.suppress(OSError, asyncssh.Error)

        async def feed():
            with lost:
                while data := await process.stdin.read(PIECE_BYTES):
                    child.stdin.write(data)
                    await child.stdin.drain()
            child.stdin.close()

        async def tell(source, target):
            while data := await source.read(PIECE_BYTES):
                with lost:
                    target.write(data)
                    await target.drain()

        feeding = asyncio.create_task(feed())
        await asyncio.gather(
            tell(child.stdout, process.stdout), tell(child.stderr, process.stderr))
        status = await child.wait()
        feeding.cancel()
        await asyncio.wait([feeding])
        process.exit(status)

    def cut(self):
        """Break the connections that there are."""
        async def abort():
            for connection in list(self.connections):
                connection.abort()

        self._run(abort())

    def sessions(self):
        return []

    def stop(self):
        self.cut()
        wait_until(lambda: not self.processes(), "the end of what it ran")

        async def close():
            self._server.close()
            await self._server.wait_closed()
            for _ in range(20):
                await asyncio.sleep(0)

        self._run(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
