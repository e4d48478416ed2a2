"""What the backward pass is left with instead of computing it again."""

from collections.abc import Callable

import jax

from llmjax.model.attention import cudnn as attention_cudnn


def keeping(*names: str) -> Callable[..., bool]:
    """The remat policy that keeps what has one of these names, and what a fused attention keeps."""
    named = jax.checkpoint_policies.save_only_these_names(*names)
    return jax.checkpoint_policies.save_from_both_policies(named, attention_cudnn.is_forward)
