"""Which parts of an unsupported architecture llmjax does not have, as far as a config tells."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmjax.convert.hf.config import IGNORED, RANGES, shortened
from llmjax.convert.hf.fields import ACTIVATIONS

SIGNS = tuple(
    (re.compile(pattern), part)
    for pattern, part in (
        (r"mamba|^ssm_|^state_size$|^time_step_rank$", "state-space layers (Mamba)"),
        (r"^kda_|^linear_attn_config$|^linear_head_dim$", "Kimi Delta Attention"),
        (r"^(linear_attn|layernorm_linear_attention)_(alpha|beta)", "lightning attention"),
        (r"^linear_(allow_neg_eigval|a_log_max)$", "its form of linear attention"),
        (r"^(lru_width|attention_window_size)$", "recurrent layers (RG-LRU)"),
        (r"^(rescale_every|wkv_.*|time_mix_.*)$", "a recurrence in place of attention (RWKV)"),
        (r"^(chunkwise_kernel|qk_dim_factor)$", "a recurrence in place of attention (xLSTM)"),
        (r"^(conv_L_cache|shortconv_.*)$", "convolutions in place of attention"),
        (r"index(er)?_(topk|top_k|n_heads|head_count)", "sparse attention by an indexer"),
        (r"^(num_random_blocks|lsh_.*|num_hashes)$", "block-sparse attention"),
        (r"^cca_", "attention within convolved, compressed heads"),
        (r"^lambda_std_dev$", "differential attention"),
        (r"^attention_value_scale$", "values of attention with a scale"),
        (r"^hc_", "hyper-connections (several residual streams)"),
        (r"^(altup|laurel)_", "AltUp and LAuReL (several residual streams)"),
        (r"_per_layer_input$", "embeddings of each layer"),
        (r"^(ngram_|heads_per_ngram$)", "embeddings of n-grams"),
        (r"^zero_expert_", "experts that compute nothing"),
        (r"^(scale_emb|scale_depth|dim_model_base)$", "scales of depth and width (MiniCPM)"),
        (r"^(key|attention_in|attention_out|lm_head)_multiplier$", "multipliers of projections"),
        (r"^(cross_attention_layers|cross_attn_k)$", "cross-attention to other inputs"),
        (r"^(n_recurrent_loops|[HL]_cycles)$", "layers that run several times"),
        (r"^(per_layer_config|num_attention_heads_per_layer)$", "layers of different sizes"),
        (r"^(encoder_ffn_dim|encoder_layers)$", "this form of encoder and decoder"),
        (r"^(patcher_config|patching_mode)$", "patches of bytes in place of tokens"),
        (r"^num_codebooks$", "several streams of tokens"),
    )
)
"""Names of fields -> the part that they are of."""
TYPES = {
    "bloom": "positions by distance (ALiBi)",
    "mpt": "positions by distance (ALiBi)",
    "xlnet": "the relative positions of Transformer-XL",
    "transfo-xl": "the relative positions of Transformer-XL",
    "dbrx": "attention with clipped projections",
    "gpt_neo": "attention without a scale, local in every other layer",
}
"""model_type -> a part that its fields do not tell."""
ACTIVATION_FIELDS = ("hidden_act", "activation_function", "hidden_activation", "mlp_hidden_act")
LAYER_FIELDS = ("layer_types", "layers_block_type", "block_types", "hybrid_override_pattern")
KINDS = (
    *("full_attention", "sliding_attention", "chunked_attention", "attention"),
    "linear_attention",  # of which other fields say the kind
)
"""Types of layers that llmjax has."""
MAX_FIELDS = 4
"""Unknown fields to name."""


def missing_parts(values: Mapping[str, Any], known: frozenset[str]) -> str:
    """What llmjax lacks for the model of a config.json, in words; a model_type that has no family.

    Args:
      values: the fields.
      known: fields that some family reads.
    """
    if parts := list(dict.fromkeys(found_parts(values))):
        return f"llmjax does not have {', '.join(parts)}"
    unknown = [
        shortened(name)
        for name, value in values.items()
        if value and name not in known | IGNORED | RANGES.keys() and not _is_dropout(name)
    ]
    if unknown:
        return f"llmjax does not know its fields {', '.join(unknown[:MAX_FIELDS])}"
    return "llmjax has no table of its tensors' names"


def _is_dropout(name: str) -> bool:
    return "dropout" in name or name.endswith("pdrop")


def found_parts(values: Mapping[str, Any]) -> Iterator[str]:
    """Parts that the fields of a config are signs of, in words."""
    model_type = values.get("model_type")
    if isinstance(model_type, str) and model_type in TYPES:
        yield TYPES[model_type]
    for pattern, part in SIGNS:
        if any(value and pattern.search(name) for name, value in values.items()):
            yield part
    if values.get("alibi") is True:
        yield "positions by distance (ALiBi)"
    for name in ACTIVATION_FIELDS:
        activation = values.get(name)
        if isinstance(activation, str) and activation not in ACTIVATIONS:
            yield f"the activation {shortened(repr(activation))}"
    for name in LAYER_FIELDS:
        types = values.get(name)
        for kind in dict.fromkeys(types if isinstance(types, list) else ()):
            if isinstance(kind, str) and kind not in KINDS:
                yield f"layers of type {shortened(repr(kind))}"
