"""Stop signals, and consensus among processes on when to stop or save."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.run.telemetry.display import to_stderr
from llmjax.run.telemetry.program import Program

ABANDONED = 130
"""The exit code after a third signal, as a shell gives it after Ctrl-C."""


@dataclass
class StartStatus:
    """How far this start of the run is; updated by the trainer, read by other threads."""

    step: int = 0
    """The current step, or the last one."""
    saved: int | None = None
    """The newest checkpoint; None: there is none."""
    trained: bool = False
    """Whether this start has finished a step."""
    program: Program | None = None
    """This process, where it does nothing else than this start."""
    started: float = field(default_factory=time.time)
    """When this start began, in seconds since the epoch, if it is not the whole program."""
    measuring: str = ""
    """What runs after the step: "evaluation" or "samples"; empty: nothing."""

    @property
    def began(self) -> float:
        """When this start, or its program, began, in seconds since the epoch."""
        return self.program.began if self.program else self.started

    def doing(self) -> str:
        """The current activity, as "finishing step 4"."""
        if self.measuring:
            return f"leaving the {self.measuring} of step {self.step}"
        return f"finishing step {self.step}"

    def lost(self) -> str:
        """What is lost without another checkpoint, in the plural."""
        return "all steps" if self.saved is None else f"the steps since checkpoint {self.saved}"

    def kept(self) -> str:
        """What can be said if this start has finished no step."""
        if self.saved is None:
            return "nothing was trained yet"
        return f"nothing was trained since checkpoint {self.saved}"

    def resumes(self) -> str:
        """How to resume."""
        command = "start the same command again to"
        if self.saved is None:
            return f"{command} start over"
        return f"{command} resume from step {self.saved}"


class StoppedEarly(KeyboardInterrupt):
    """A first signal came while there is nothing to save; raised anywhere in the main thread."""


class StopSignal:
    """A context manager in which the first SIGTERM or SIGINT requests a stop, and sets `name`.

    Before the first step it raises StoppedEarly. A second signal raises KeyboardInterrupt; a third
    exits the process immediately. Each is acknowledged at once by a separate thread, as the main
    one may be busy with a step or a compilation.

    Python handles signals in the main thread only; in any other, this does nothing.
    """

    def __init__(self, status: StartStatus) -> None:
        """Args:
        status: what the acknowledgements say of the run.
        """
        self.name: str | None = None
        """The signal received, such as "SIGTERM"; None so far."""
        self.say: Callable[[str], None] = to_stderr
        """Prints acknowledgements."""
        self.status, self._at_once = status, True
        self._caught = self._seen = 0
        self._before: dict[signal.Signals, Any] = {}
        self._close = contextlib.ExitStack()

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self
        # Python writes each signal's number to this socket at once, even while C code runs.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        listener.start()
        wakeup_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._catch)
        self._close.callback(listener.join)
        self._close.callback(writer.close)
        self._close.callback(signal.set_wakeup_fd, wakeup_fd)
        self._close.callback(self._restore)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def finish_first(self) -> None:
        """From now on a first signal raises nothing; the trainer polls `asks`, saves and stops."""
        self._at_once = False

    def asks(self) -> bool:
        """Whether a stop is requested.

        Raises:
          KeyboardInterrupt: two signals came so close together that Python handled them as one.
        """
        if self._seen > 1:
            raise KeyboardInterrupt
        return self.name is not None

    def tell(self, text: str) -> None:
        """Prints a line where signals are acknowledged."""
        self.say(text)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        """Python's signal handler, in the main thread."""
        self.name = self.name or signal.Signals(number).name
        self._caught += 1
        if max(self._caught, self._seen) > 1:
            raise KeyboardInterrupt
        if self._at_once:
            raise StoppedEarly

    def _listen(self, reader: socket.socket) -> None:
        """Acknowledges signals, in a separate thread, until the other end is closed."""
        with reader:
            while numbers := reader.recv(1):
                if numbers[0] not in (signal.SIGTERM, signal.SIGINT):
                    continue
                self._seen += 1
                name = signal.Signals(numbers[0]).name
                if self._seen > 2:
                    os._exit(ABANDONED)
                self.say(f"llmjax: {self._answer(name)}")

    def _answer(self, name: str) -> str:
        status, again = self.status, " again" if self._seen > 1 else ""
        if self._at_once:
            return f"{name} received{again}: stopping; {status.kept()}"
        if again:
            return f"{name} received again: stopping without saving; {status.lost()} are lost"
        again = "press Ctrl-C again" if name == "SIGINT" else "send it again"
        return (
            f"{name} received: {status.doing()} and saving; {again} to stop without saving "
            f"({status.lost()} are lost)"
        )

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            if handler is not None:  # Python cannot restore a handler that it did not install
                signal.signal(number, handler)


class HostConsensus:
    """Flags that every process sees set, after the same step, once any process sets them.

    In each step every process passes its flags; the devices compute their disjunction, which is
    read one step later, so that nobody waits for it. A single process gets its flags back at once.
    """

    def __init__(self, mesh: Mesh, flags: int):
        """Args:
        mesh: every device of every process.
        flags: how many there are.
        """
        self._is_single = jax.process_count() == 1
        self._shape = (mesh.size, flags)
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(lambda flags: jnp.max(flags, axis=0))
        self._pending: jax.Array | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        """Passes this process's flags; returns the disjunction over all, as of the step before."""
        if self._is_single:
            return flags
        row = np.asarray([flags], np.int32)
        global_flags = jax.make_array_from_callback(
            self._shape, self._sharding, lambda index: row.repeat(_size(index, self._shape), axis=0)
        )
        previous, self._pending = self._pending, self._any(global_flags)
        if previous is None:
            return (False,) * len(flags)
        return tuple(bool(flag) for flag in np.asarray(previous))


def _size(index: Any, shape: tuple[int, int]) -> int:
    return len(range(*index[0].indices(shape[0])))
