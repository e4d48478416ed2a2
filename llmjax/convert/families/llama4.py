"""Llama 4: attention within chunks, layers without positions, and experts in some layers."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import (
    ATTENTION,
    ATTENTION_BIAS,
    HF_LAYER,
    NORMS_BEFORE,
    SILU,
    decoder_table,
    tied,
)
from llmjax.convert.families.moe import IGNORED, MLP, router, shared
from llmjax.convert.families.tables import DECODER, GROUPED, SIZES, mlp
from llmjax.convert.hf.attention_fields import FULL, Rotary, Unrotated, num_layers
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.expert_fields import Experts, Interleaved
from llmjax.convert.hf.fields import Renamed, constant
from llmjax.convert.hf.names import Layout, NameRow, Segment
from llmjax.model.config import ModelConfig

CHUNKED = "chunked_attention"
"""Value of layer_types."""


@dataclass(frozen=True)
class Chunks:
    """Chunks of attention, in the layers that layer_types says, or all that rotate positions."""

    rotated: Unrotated

    def read(self, hf: HFConfig) -> dict[str, Any]:
        name, layers = "attention_chunk_size", num_layers(hf)
        size = hf.get(name, int, None if name in hf.values else 8192)
        unrotated = self.rotated.read(hf)["unrotated_layers"]
        chunked = [size is not None and layer not in unrotated for layer in range(layers)]
        types = hf.get("layer_types", list, [CHUNKED if each else FULL for each in chunked])
        if len(types) != layers or any(kind not in (FULL, CHUNKED) for kind in types):
            raise hf.error("layer_types", types, f"one of {FULL}, {CHUNKED} for each layer")
        if CHUNKED not in types:
            return {"window": None, "window_chunks": False, "global_layers": ()}
        if size is None:
            raise hf.error("layer_types", types, f"{CHUNKED} needs {name}")
        full = tuple(layer for layer, kind in enumerate(types) if kind == FULL)
        return {"window": size, "window_chunks": True, "global_layers": full}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        chunks = config.window if config.window_chunks else None
        full = config.global_layers if chunks is not None else range(config.num_decoder_layers)
        types = [FULL if i in full else CHUNKED for i in range(config.num_decoder_layers)]
        return {"attention_chunk_size": chunks, "layer_types": types}


@dataclass(frozen=True)
class Growth:
    """How queries grow with their positions; the switch is a number in the first files."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        on = hf.get("attn_temperature_tuning", (bool, int), True)
        growth, length = hf.get("attn_scale", float, 0.1), hf.get("floor_scale", int, 8192)
        return {"query_growth": growth if on else 0.0, "query_growth_length": length}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        growth = config.query_growth
        return {
            "attn_temperature_tuning": bool(growth),
            "attn_scale": growth or 0.1,
            "floor_scale": config.query_growth_length,
        }


_EXPERTS = f"{HF_LAYER}.feed_forward.experts"
UNROTATED = Unrotated(written_every=True)
LLAMA4 = Family(
    "llama4_text",
    "Llama4ForCausalLM",
    (
        *(field for field in SIZES if field.hf_name != "intermediate_size"),
        *DECODER,
        GROUPED,
        Renamed("norm_epsilon", "rms_norm_eps", float, 1e-5),
        Renamed("d_ff", "intermediate_size_mlp", int, 16384, written_as="mlp_width"),
        Renamed("head_dim", "head_dim", int, 128, written_as="head_width"),
        SILU,
        Rotary(500_000.0, fraction=None),
        UNROTATED,
        Chunks(UNROTATED),
        Growth(),
        ATTENTION_BIAS,
        Renamed("qk_norm", "use_qk_norm", bool, True),
        constant(qk_norm_over="rotated", rope_interleaved=True),
        Experts(
            ("num_local_experts", "num_experts"),
            count=16,
            chosen=1,
            dense=Interleaved(),
            width_name="intermediate_size",
            width=8192,
            shares_width=True,
            fixed={"scores": "sigmoid", "normalize": False, "weight_inputs": True},
        ),
        tied(False),
    ),
    decoder_table(
        *ATTENTION,
        *NORMS_BEFORE,
        *mlp(
            MLP,
            **{part: f"{HF_LAYER}.feed_forward.{part}_proj" for part in ("gate", "up", "down")},
        ),
        *router("feed_forward.router"),
        *(
            NameRow(
                f"{MLP}.experts.{name}.kernel",
                f"{_EXPERTS}.gate_up_proj",
                Layout("a d (j m) -> a d m", Segment("j", ("1", "1"), number)),
            )
            for number, name in enumerate(("gate", "up"))
        ),
        NameRow(f"{MLP}.experts.down.kernel", f"{_EXPERTS}.down_proj", Layout("a m d -> a m d")),
        *shared("feed_forward.shared_expert"),
    ),
    ignored=IGNORED,
    examples={"meta-llama/Llama-4-Scout-17B-16E": "109B"},
)
