"""Whether a device has room for lanes, before it is asked for any."""

import os
import resource

import jax

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.storage.bounded import size_text

TOKEN_BYTES = 16
"""Bytes that a step needs for each token of the vocabulary and each lane: logits, weights, sums."""


def window_bytes(config: ModelConfig, context: int) -> int:
    """Bytes of the keys and values of a window of `context` tokens, in float32."""
    return 8 * config.num_decoder_layers * config.kv_heads * config.head_width * context


def check_room(config: ModelConfig, lanes: int, context: int) -> None:
    """Compares what lanes remember, and what their steps add up, with the device's memory.

    Raises:
      UserError: they need more than all of it.
    """
    needed = lanes * (window_bytes(config, context) + TOKEN_BYTES * (config.vocab_size or 0))
    if needed > (memory := device_memory()):
        raise UserError(
            f"lanes {lanes}, context {context}",
            f"need {size_text(needed)}, and the device has {size_text(memory)}",
            "use fewer lanes, or the machine where the archive was made",
        )


def device_memory() -> int:
    """Bytes of the first device's memory; of a CPU, what this process may have of the machine's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    return memory if allowed == resource.RLIM_INFINITY else min(memory, allowed)
