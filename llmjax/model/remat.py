"""What the backward pass keeps, offloads to the host, and recomputes."""

from collections.abc import Callable
from typing import Any

import jax

from llmjax.model.attention import cudnn as attention_cudnn
from llmjax.model.compute import ATTENTION, INPUT, ComputeConfig
from llmjax.parallel.host_memory import HOST
from llmjax.parallel.pipeline import GROUP

Policy = Callable[..., Any]
"""A policy of `jax.checkpoint`."""


def keeping(*kept: str, offloaded: tuple[str, ...] = ()) -> Policy:
    """Returns a policy that keeps and offloads these checkpoint names.

    With `ATTENTION` it keeps the residuals of cuDNN's attention too, which have no name.
    """
    named = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[name for name in kept if name not in offloaded],
        names_which_can_be_offloaded=offloaded,
        offload_src="device",
        offload_dst=HOST,
    )

    def policy(primitive: Any, *args: Any, **params: Any) -> Any:
        if ATTENTION in kept and attention_cudnn.is_forward(primitive):
            return True
        return named(primitive, *args, **params)

    return policy


def layer_policy(compute: ComputeConfig) -> Policy | None:
    """The policy of a whole layer; None: all of it is kept."""
    names = compute.kept_names
    return None if names is None else keeping(*names, offloaded=compute.offload)


def group_policy(compute: ComputeConfig) -> Policy:
    """The policy of a group of layers of a pipeline: it keeps what those of its layers do, and
    their inputs, but not the layers themselves."""
    names = compute.kept_names
    if names is None:
        return jax.checkpoint_policies.save_anything_except_these_names(GROUP)
    return keeping(INPUT, *names, offloaded=compute.offload)
