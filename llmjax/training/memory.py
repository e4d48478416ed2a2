"""Whether the memory of the devices can hold what training keeps, before anything is placed there.

Activations come on top and are not counted: what is refused here could not train in any case.
"""

import math

import jax
from jax.sharding import Mesh

from llmjax.errors import UserError
from llmjax.run.environment import memory
from llmjax.state import TrainState


def check_memory(state: TrainState, mesh: Mesh) -> None:
    """Checks that parameters, their gradients and the optimizer's state fit the devices.

    Args:
      state: shapes, dtypes and shardings.
      mesh: the devices; those of a CPU share the machine's memory.

    Raises:
      UserError: they take more memory than there is.
    """
    needed = _bytes((state.params, state.params, state.opt_state))
    available = _available(mesh)
    if available is not None and needed > available:
        raise UserError(
            "model",
            f"parameters, gradients and the optimizer's state take {_gib(needed)} on each device, "
            f"which has {_gib(available)}",
            "make the model smaller (d_model, layers, vocab_size), or split it over more devices "
            "(mesh.fsdp)",
        )


def _bytes(tree: object) -> int:
    """Bytes of a tree on one device: those of a shard of each leaf."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _available(mesh: Mesh) -> int | None:
    """Bytes of one device's memory; None where nobody can tell."""
    devices = [one for one in mesh.devices.flat if one.process_index == jax.process_index()]
    if devices[0].platform == "cpu":
        total = memory()
        return None if total is None else total // len(devices)
    stats = devices[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
