"""Signals, and how processes agree on what they ask for."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class StopSignal:
    """While it is open, the first SIGTERM or SIGINT sets `name`; the next one acts as usual.

    Only a program's main thread can listen to signals: in another one nothing is caught.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        """The signal that came, such as "SIGTERM"; None so far."""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)


class Agreement:
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
