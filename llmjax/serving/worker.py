"""A thread that steps an engine, and the streams that the server reads from it."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from llmjax.engine.config import RequestOptions
from llmjax.engine.engine import Busy, Engine
from llmjax.engine.requests import Output
from llmjax.errors import UserError


class Stopped(Exception):
    """The engine has stopped."""


class _Stream:
    """The outputs of one submission, filled by the engine's thread."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.outputs: asyncio.Queue[tuple[int, Output] | Exception] = asyncio.Queue()
        self.ids: list[int] = []

    def put(self, item: tuple[int, Output] | Exception) -> None:
        """From the engine's thread."""
        with suppress(RuntimeError):  # the server has closed its loop
            self.loop.call_soon_threadsafe(self.outputs.put_nowait, item)


class Worker:
    """Runs an engine in a thread of its own, the only one that touches it."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self.tokens = 0
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[int, tuple[_Stream, int]] = {}
        self._is_alive = True
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether the engine runs."""
        return self._is_alive

    def close(self) -> None:
        """Stop after the current step; requests that are still running fail."""
        self._inbox.put(None)
        self._thread.join()

    async def stream(
        self, prompt: str | Sequence[int], options: RequestOptions, seconds: float
    ) -> AsyncIterator[tuple[int, Output]]:
        """Yield each output with the index of its sample. Closing early frees the rows.

        Raises:
          UserError, Busy: as `Engine.submit`.
          Stopped: the engine stopped.
          TimeoutError: it took more than `seconds`.
        """
        end = time.monotonic() + seconds
        if not self._is_alive:
            raise Stopped
        stream, unfinished = _Stream(), options.decoding.samples
        self._inbox.put(lambda: self._submit(stream, prompt, options))
        try:
            while unfinished:
                item = await asyncio.wait_for(stream.outputs.get(), end - time.monotonic())
                if isinstance(item, Exception):
                    raise item
                unfinished -= item[1].completion is not None
                yield item
        finally:
            if unfinished:
                self._inbox.put(lambda: self._drop(stream))

    def _submit(
        self, stream: _Stream, prompt: str | Sequence[int], options: RequestOptions
    ) -> None:
        try:
            stream.ids = self.engine.submit(prompt, options)
        except (UserError, Busy) as error:
            stream.put(error)
            return
        for index, id in enumerate(stream.ids):
            self._streams[id] = stream, index

    def _drop(self, stream: _Stream) -> None:
        for id in stream.ids:
            self.engine.cancel(id)
            self._streams.pop(id, None)

    def _run(self) -> None:
        try:
            while self._obey():
                for output in self.engine.step():
                    self._deliver(output)
        finally:
            self._is_alive = False
            for stream, _ in self._streams.values():
                stream.put(Stopped())

    def _obey(self) -> bool:
        """Do what was asked, waiting for it if the engine is idle; returns whether to go on."""
        with suppress(queue.Empty):
            while True:
                command = self._inbox.get(block=self.engine.is_idle)
                if command is None:
                    return False
                command()
        return True

    def _deliver(self, output: Output) -> None:
        self.tokens += len(output.tokens)
        stream, index = self._streams[output.id]
        if output.completion is not None:
            del self._streams[output.id]
        stream.put((index, output))
