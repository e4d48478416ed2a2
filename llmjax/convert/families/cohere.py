"""Command R: attention and MLP read one norm, rotated pairs are neighbours."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import (
    ATTENTION_BIAS,
    HF_LAYER,
    LAYERS,
    SILU,
    head_norms,
    table,
    tied,
)
from llmjax.convert.families.tables import DECODER, GROUPED, SIZES, norm
from llmjax.convert.hf.attention_fields import Rotary, Windows, num_layers
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.fields import Field, Renamed, constant

SHAPE: tuple[Field, ...] = (
    *SIZES,
    *DECODER,
    GROUPED,
    Renamed("norm_epsilon", "layer_norm_eps", float, 1e-5),
    SILU,
    ATTENTION_BIAS,
    Renamed("logit_scale", "logit_scale", float, 0.0625),
    constant(norm="layernorm", parallel_residual=True, shared_norm=True, rope_interleaved=True),
    tied(True),
)
TABLE = table(
    *norm(f"{LAYERS}.attention_norm", f"{HF_LAYER}.input_layernorm"),
    *head_norms("h k -> h k", "n k -> n k"),
)


@dataclass(frozen=True)
class RotatedWindows(Windows):
    """As `Windows`, where the layers without a window do not rotate."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        fields = super().read(hf)
        layers = range(num_layers(hf))
        unrotated = fields["global_layers"] if fields["window"] is not None else tuple(layers)
        return fields | {"unrotated_layers": unrotated}


COHERE = Family(
    "cohere",
    "CohereForCausalLM",
    (
        *SHAPE,
        Rotary(500_000.0, fraction=None),
        Renamed("qk_norm", "use_qk_norm", bool, False),
        constant(qk_norm_over="heads", qk_norm_kind="layernorm"),
    ),
    TABLE,
    ignored=frozenset({"model_max_length"}),
    examples={"CohereLabs/c4ai-command-r-v01": "35.0B"},
)
COHERE2 = Family(
    "cohere2",
    "Cohere2ForCausalLM",
    (
        *SHAPE,
        Rotary(fraction=None),
        RotatedWindows(default=4096, every=4, every_name="sliding_window_pattern"),
    ),
    TABLE,
    # Of the original code: the same in all published files, or copies of other fields.
    ignored=frozenset(
        """_sliding_window_pattern head_dim layer_switch order_of_interleaved_layers
        position_embedding_type rotary_pct use_embedding_sharing use_gated_activation
        use_parallel_block use_parallel_embedding""".split()
    ),
    examples={"CohereLabs/c4ai-command-r7b-12-2024": "8.03B"},
)
