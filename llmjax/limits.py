"""Bounds of every number that a user may set.

Fields are identified by name, which means the same in every config. Sizes are limited, far above
any published model, so that a typo is refused before it exhausts memory. Other numbers are limited
to the range in which float32 neither overflows nor underflows.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

LARGEST_INTEGER = 2**31 - 1
"""Devices count in int32; sizes in bytes, which the host counts, may be larger."""
LARGEST_BYTES = 2**53
"""8 PiB; exact as a float64 too."""
LARGEST_NUMBER, SMALLEST_NUMBER = 1e30, 1e-30
"""Magnitudes, besides 0, that float32 represents with headroom."""
MAX_BATCH_TOKENS = 2**28
"""Rows x length of a batch; the largest published runs use about 2**27."""

MAX_SIZES: Mapping[str, int] = {
    "vocab_size": 2**24,
    "max_length": 2**24,
    "length": 2**24,
    "context": 2**24,
    "d_model": 2**20,
    "d_ff": 2**22,
    "num_encoder_layers": 1024,
    "num_decoder_layers": 1024,
    "num_heads": 2**14,
    "num_kv_heads": 2**14,
    "head_dim": 2**14,
    "num_experts": 2**12,
    "experts_per_token": 2**12,
    "expert_width": 2**20,
    "shared_width": 2**20,
    "groups": 2**12,
    "groups_per_token": 2**12,
    "kv_rank": 2**16,
    "query_rank": 2**16,
    "nope_head_dim": 2**14,
    "rope_head_dim": 2**14,
    "value_head_dim": 2**14,
    "key_head_dim": 2**14,
    "key_heads": 2**14,
    "value_heads": 2**14,
    "conv_width": 2**10,
    "first_position": 2**24,
    "query_growth_length": 2**24,
    "token_types": 2**16,
    "relative_buckets": 2**16,
    "rank": 2**16,
    "batch_size": 2**20,
    "workers": 1024,
    "shards": 2**16,
    "max_tokens": LARGEST_BYTES,
    "prefetch": 1024,
    "recent": 2**20,
    "cpu_devices": 1024,
    "sentinels": 2**14,
    "newton_schulz_steps": 32,
    "samples": 2**16,
    "beams": 1024,
    "candidates": 1024,
    "chunk_bytes": 2**30,
    "streams": 2**16,
    "seed": 2**32 - 1,
}
"""Field name -> largest value of a size."""

RANGES: Mapping[str, tuple[float, float]] = {
    "norm_epsilon": (SMALLEST_NUMBER, 1.0),
    "rope_theta": (1.0, 1e15),
    "window_rope_theta": (1.0, 1e15),
    "attention_scale": (1e-6, 1e6),
    "attention_softcap": (1e-6, 1e6),
    "embed_multiplier": (1e-6, 1e6),
    "residual_multiplier": (1e-6, 1e6),
    "activation_limit": (1e-6, 1e6),
    "query_growth": (1e-6, 1e6),
    "up_offset": (1e-6, 1e6),
    "weight_scale": (1e-6, 1e6),
    "capacity_factor": (1e-6, 1e6),
    "balance_loss": (SMALLEST_NUMBER, 1e6),
    "bias_update_rate": (SMALLEST_NUMBER, 1e6),
    "jitter": (SMALLEST_NUMBER, 1.0),
    "noise": (SMALLEST_NUMBER, 100.0),
    "logit_scale": (1e-6, 1e6),
    "logit_softcap": (1e-6, 1e6),
    "init_std": (SMALLEST_NUMBER, 100.0),
    "factor": (1e-6, 1e6),
    "attention_factor": (1e-6, 1e6),
    "mscale": (1e-6, 1e6),
    "mscale_all_dim": (1e-6, 1e6),
    "low_frequency_factor": (SMALLEST_NUMBER, 1e6),
    "high_frequency_factor": (1e-6, 1e6),
    "beta_fast": (1e-6, 1e6),
    "beta_slow": (1e-6, 1e6),
    "learning_rate": (SMALLEST_NUMBER, 1e6),
    "weight_decay": (SMALLEST_NUMBER, 1e6),
    "update_rms": (SMALLEST_NUMBER, 1e6),
    "decay_rate": (SMALLEST_NUMBER, 100.0),
    "multi_token_weight": (SMALLEST_NUMBER, 1e6),
    "z_loss": (SMALLEST_NUMBER, 1e6),
    "temperature": (SMALLEST_NUMBER, 1e6),
    "repetition_penalty": (1e-9, 1e9),
    "length_penalty": (SMALLEST_NUMBER, 100.0),
}
"""Field name -> smallest and largest value, besides 0, of other numbers."""


def number_problems(value: Any, prefix: str = "") -> Iterator[str]:
    """Yields a line for each number of a config that is out of range, with its dotted name.

    Args:
      value: a dataclass with values of the declared types; nested dataclasses and lists of them
        are checked too.
      prefix: prepended to the names.
    """
    if isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from number_problems(item, f"{prefix}.{index}")
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            inner = getattr(value, item.name)
            yield from number_problems(inner, f"{prefix}.{item.name}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        name = prefix.strip(".")
        field = next((part for part in reversed(name.split(".")) if not part.isdigit()), "")
        yield from (f"{name}: {problem}" for problem in _problem(field, value))


def is_wild(value: Any) -> bool:
    """Whether a config has a number so wild that other checks cannot compute with it."""
    if dataclasses.is_dataclass(value):
        return any(is_wild(getattr(value, item.name)) for item in dataclasses.fields(value))
    if isinstance(value, tuple | list):
        return any(map(is_wild, value))
    if isinstance(value, int):
        return abs(value) > LARGEST_BYTES
    return isinstance(value, float) and not math.isfinite(value)


def _problem(field: str, value: float) -> Iterator[str]:
    if isinstance(value, int):
        largest = MAX_SIZES.get(
            field, LARGEST_BYTES if field.endswith("bytes") else LARGEST_INTEGER
        )
        # Python refuses to write integers of thousands of digits.
        shown = value if abs(value) < 10**20 else f"an integer of {value.bit_length()} bits"
        if value > largest:
            yield f"{shown} is more than {largest}, the maximum"
        elif value < -largest:
            yield f"{shown} is less than {-largest}, the minimum"
    elif not math.isfinite(value):
        yield f"{value} is not a finite number"
    elif field in RANGES and value != 0:
        low, high = RANGES[field]
        if value > high or 0 < value < low:
            yield f"{value} is not between {low:g} and {high:g}"
    elif abs(value) > LARGEST_NUMBER or 0 < abs(value) < SMALLEST_NUMBER:
        yield f"{value} is not between {SMALLEST_NUMBER:g} and {LARGEST_NUMBER:g} in magnitude"
