"""Signals, and how processes agree to stop or save."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from llmjax.run.telemetry.display import to_stderr

ABANDONED = 130
"""The exit code after a third signal, as a shell gives it after Ctrl-C."""


@dataclass
class StartStatus:
    """Changes as the run goes on; other threads read it."""

    step: int = 0
    """The step that is being taken, or was taken last."""
    saved: int | None = None
    """The newest checkpoint; None: there is none."""
    trained: bool = False
    """Whether this start has finished a step."""
    measuring: str = ""
    """What is being measured or written after the step, in a few words; empty: nothing."""

    def doing(self) -> str:
        """What is under way, as "finishing step 4"."""
        if self.measuring:
            return f"leaving the {self.measuring} of step {self.step}"
        return f"finishing step {self.step}"

    def lost(self) -> str:
        """What is lost without a further checkpoint, in the plural."""
        return "all steps" if self.saved is None else f"the steps since checkpoint {self.saved}"

    def kept(self) -> str:
        """What there is, where this start has trained nothing."""
        if self.saved is None:
            return "nothing was trained yet"
        return f"nothing was trained since checkpoint {self.saved}"

    def resumes(self) -> str:
        """Where the same command resumes."""
        command = "start the same command again to"
        if self.saved is None:
            return f"{command} begin again"
        return f"{command} resume from step {self.saved}"


class StoppedEarly(KeyboardInterrupt):
    """A first signal came where nothing is to be saved; raised in the midst of anything."""


class StopSignal:
    """While it is open, the first SIGTERM or SIGINT asks for a stop, and sets `name`.

    Where nothing was trained yet it stops the work at once, by StoppedEarly. A second signal raises
    KeyboardInterrupt; a third ends the process where it stands. Each is acknowledged as it comes,
    by a thread of its own: the main one may be busy with a step or a compilation.

    Only a program's main thread can listen to signals: in another one nothing is caught.
    """

    def __init__(self, standing: StartStatus) -> None:
        """Args:
        standing: what is said of the run.
        """
        self.name: str | None = None
        """The signal that came, such as "SIGTERM"; None so far."""
        self.say: Callable[[str], None] = to_stderr
        """Where signals are acknowledged."""
        self.standing, self._at_once = standing, True
        self._caught = self._seen = 0
        self._before: dict[signal.Signals, Any] = {}
        self._close = contextlib.ExitStack()

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is not threading.main_thread():
            return self
        # Python writes each signal's number to this socket as it comes, even while C code runs.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        listener = threading.Thread(target=self._listen, args=(reader,), daemon=True)
        listener.start()
        earlier = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._catch)
        self._close.callback(listener.join)
        self._close.callback(writer.close)
        self._close.callback(signal.set_wakeup_fd, earlier)
        self._close.callback(self._restore)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close.close()

    def finish_first(self) -> None:
        """From now on a first signal raises nothing: who looks at `name` saves, and leaves."""
        self._at_once = False

    def asks(self) -> bool:
        """Whether a stop is asked for.

        Raises:
          KeyboardInterrupt: two signals came so close that Python has handled them as one.
        """
        if self._seen > 1:
            raise KeyboardInterrupt
        return self.name is not None

    def tell(self, text: str) -> None:
        """Says something that has to be known, where signals are acknowledged."""
        self.say(text)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, when Python code runs there again."""
        self.name = self.name or signal.Signals(number).name
        self._caught += 1
        if max(self._caught, self._seen) > 1:
            raise KeyboardInterrupt
        if self._at_once:
            raise StoppedEarly

    def _listen(self, reader: socket.socket) -> None:
        """In a thread of its own, as signals come, until the other end is closed."""
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
        standing, again = self.standing, " again" if self._seen > 1 else ""
        if self._at_once:
            return f"{name} received{again}: stopping; {standing.kept()}"
        if again:
            return f"{name} received again: stopping without saving; {standing.lost()} are lost"
        again = "press Ctrl-C again" if name == "SIGINT" else "send it again"
        return (
            f"{name} received: {standing.doing()} and saving; {again} to stop without saving "
            f"({standing.lost()} are lost)"
        )

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            if handler is not None:  # one that was not set by Python cannot be put back by it
                signal.signal(number, handler)


class HostConsensus:
    """What any process asks for, all do, after the same step.

    Each step every process hands in its wishes; the devices compute which were voiced by anyone,
    and the answer is read one step later, when it is long there. A process alone has its wishes
    granted at once.
    """

    def __init__(self, mesh: Mesh, wishes: int):
        """Args:
        mesh: every device of every process.
        wishes: how many different ones there are.
        """
        self._alone = jax.process_count() == 1
        self._shape = (mesh.size, wishes)
        self._sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._any = jax.jit(lambda voiced: jnp.max(voiced, axis=0))
        self._pending: jax.Array | None = None

    def __call__(self, *wishes: bool) -> tuple[bool, ...]:
        """Hands in this process's wishes; returns those of all, as of the step before."""
        if self._alone:
            return wishes
        row = np.asarray([wishes], np.int32)
        voiced = jax.make_array_from_callback(
            self._shape, self._sharding, lambda index: row.repeat(_size(index, self._shape), axis=0)
        )
        before, self._pending = self._pending, self._any(voiced)
        if before is None:
            return (False,) * len(wishes)
        return tuple(bool(wish) for wish in np.asarray(before))


def _size(index: Any, shape: tuple[int, int]) -> int:
    return len(range(*index[0].indices(shape[0])))
