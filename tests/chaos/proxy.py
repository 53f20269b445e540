"""A TCP proxy that a test has in its hands: it delays, cuts in the middle of a frame, or refuses.

Runs on an event loop in a thread of its own. Every connection goes to the target as it is at that moment, so that a
server may come back on another port.
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_CHUNK = 64 << 10


class Proxy:
    """Listens on a free port of loopback. The attributes may be set at any time, by any thread."""

    def __init__(self, target: Callable[[], tuple[str, int]], seed: int = 0) -> None:
        self.target = target
        self.refusing = False
        """Closes connections as they come, as a machine does on which nothing listens."""
        self.silent = False
        """Takes what comes and passes nothing on, as a network does that has lost its route."""
        self.answer_delay = 0.0
        """Seconds that everything from the server to the client waits."""
        self.connections = 0
        self.cuts = 0
        self._tripwire: tuple[int, Callable[[], None]] | None = None
        self._random = random.Random(seed)
        self._open: set[asyncio.StreamWriter] = set()
        self._cut_after: int | None = None
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut_soon(self, most_bytes: int = 20_000) -> None:
        """Cuts every connection after a random number of further bytes: mostly in the middle of a frame."""
        self._cut_after = self._random.randint(1, most_bytes)

    def cut_now(self) -> None:
        """Resets all connections."""
        self._loop.call_soon_threadsafe(self._reset_all)

    def on_bytes(self, count: int, action: Callable[[], None]) -> None:
        """Calls `action` once, on the proxy's thread, when a chunk of at least `count` bytes goes to the server."""
        self._tripwire = (count, action)

    def close(self) -> None:
        """Ends the proxy with all its connections."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._socket.close()

    async def _end(self) -> None:
        self._reset_all()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refusing:
            self._reset(writer)
            return
        try:
            upstream, downstream = await asyncio.open_connection(*self.target())
        except OSError:
            self._reset(writer)
            return
        self._open |= {writer, downstream}
        try:
            await _first_of(self._pass(reader, downstream, to_server=True), self._pass(upstream, writer))
        finally:
            self._open -= {writer, downstream}
            self._reset(writer)
            self._reset(downstream)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, to_server: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                if to_server and self._tripwire is not None and len(data) >= self._tripwire[0]:
                    (_, action), self._tripwire = self._tripwire, None
                    action()
                if not to_server and self.answer_delay:
                    await asyncio.sleep(self.answer_delay)
                while self.silent:
                    await asyncio.sleep(0.05)
                if self._cut_after is not None:
                    if self._cut_after <= len(data):
                        writer.write(data[: self._cut_after])
                        self._cut_after = None
                        self.cuts += 1
                        # Those that are open now, and none that come meanwhile.
                        self._loop.call_later(0.01, self._reset_each, list(self._open))
                        return
                    self._cut_after -= len(data)
                writer.write(data)
                await writer.drain()

    def _reset_all(self) -> None:
        self._reset_each(list(self._open))

    def _reset_each(self, writers: list[asyncio.StreamWriter]) -> None:
        for writer in writers:
            self._reset(writer)

    def _reset(self, writer: asyncio.StreamWriter) -> None:
        """Ends a connection at once, with what is on its way."""
        with contextlib.suppress(Exception):
            writer.transport.abort()


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(way) for way in ways]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
