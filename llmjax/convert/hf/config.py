"""What numbers a config.json may have: a line for each field, whichever family it is of.

Anything may be in a file. A number beyond these lines is a damaged or hostile one, and would make
lists, divisions or arrays of any size before a tensor is looked at.
"""

import math
from dataclasses import dataclass

MOST_LAYERS = 10_000
"""Lists are made as long as this before any tensor is looked at."""
WIDEST = 2**24
"""Of widths, heads, vocabularies and tables."""
LONGEST = 2**30
"""Positions, whose numbers are int32; nothing of this length is made when a model is imported."""
LARGEST = 2**31 - 1
"""Of integers that have no line of their own."""


@dataclass(frozen=True)
class Range:
    """Numbers from `lowest` to `highest`; without `lowest` itself where it is `open`."""

    lowest: float
    highest: float = math.inf
    open: bool = False

    def problem(self, value: float) -> str:
        """What is wrong with a number; "" where nothing is."""
        if value < self.lowest or (self.open and value == self.lowest):
            return f"it must be {'above' if self.open else 'at least'} {self.lowest:g}"
        if value > self.highest:
            return f"it must be at most {self.highest:,.10g}"
        return ""


LAYERS = Range(1, MOST_LAYERS)
SIZE = Range(1, WIDEST)
POSITIONS = Range(1, LONGEST)
POSITIVE = Range(0, open=True)

RANGES: dict[str, Range] = {
    "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "num_decoder_layers": LAYERS,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "vocab_size": SIZE,
    "type_vocab_size": SIZE,
    "hidden_size": SIZE,
    "d_model": SIZE,
    "dim": SIZE,
    "n_embd": SIZE,
    "intermediate_size": SIZE,
    "hidden_dim": SIZE,
    "d_ff": SIZE,
    "n_inner": SIZE,
    "head_dim": SIZE,
    "d_kv": SIZE,
    "num_attention_heads": SIZE,
    "num_key_value_heads": SIZE,
    "num_heads": SIZE,
    "n_heads": SIZE,
    "n_head": SIZE,
    "relative_attention_num_buckets": SIZE,
    "relative_attention_max_distance": POSITIONS,
    "max_position_embeddings": POSITIONS,
    "original_max_position_embeddings": POSITIONS,
    "n_positions": POSITIONS,
    "sliding_window": POSITIONS,
    "local_attention": POSITIONS,
    "pad_token_id": Range(0, WIDEST),
    "sliding_window_pattern": LAYERS,
    "global_attn_every_n_layers": LAYERS,
    "no_rope_layer_interval": LAYERS,
    "max_window_layers": Range(0, MOST_LAYERS),
    "rms_norm_eps": POSITIVE,
    "layer_norm_eps": POSITIVE,
    "layer_norm_epsilon": POSITIVE,
    "norm_eps": POSITIVE,
    "rope_theta": POSITIVE,
    "rotary_emb_base": POSITIVE,
    "rope_local_base_freq": POSITIVE,
    "global_rope_theta": POSITIVE,
    "local_rope_theta": POSITIVE,
    "partial_rotary_factor": Range(0, 1, open=True),
    "rotary_pct": Range(0, 1, open=True),
    "query_pre_attn_scalar": POSITIVE,
    "final_logit_softcapping": POSITIVE,
    "attn_logit_softcapping": POSITIVE,
    "factor": POSITIVE,
    "low_freq_factor": POSITIVE,
    "high_freq_factor": POSITIVE,
    "attention_factor": POSITIVE,
    "beta_fast": POSITIVE,
    "beta_slow": POSITIVE,
    "mscale": POSITIVE,
    "mscale_all_dim": POSITIVE,
}


def number_problem(name: str, value: float) -> str:
    """What is wrong with a field's number; "" where nothing is."""
    if isinstance(value, float) and not math.isfinite(value):
        return "it must be finite"
    whole = Range(-LARGEST, LARGEST) if isinstance(value, int) else Range(-math.inf)
    return RANGES.get(name, whole).problem(value)
