"""T5 1.0, T5 1.1 (Flan-T5) and mT5: encoder-decoders with relative positions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.tables import BUCKETS, DOWN, EMBEDDING, UP, attention, dense, norm
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.fields import ACTIVATIONS, Field, Renamed, Required, Tied, constant
from llmjax.convert.hf.names import NameRow, NameTable
from llmjax.model.config import ModelConfig


@dataclass(frozen=True)
class FeedForward:
    """The MLP's activation and gating: relu, gated-gelu, gated-silu."""

    default: str

    def read(self, hf: HFConfig) -> dict[str, Any]:
        hf.names_read.update(
            ("dense_act_fn", "is_gated_act")
        )  # both derived from feed_forward_proj
        value = hf.get("feed_forward_proj", str, self.default)
        gate, _, name = value.rpartition("-")
        name = "gelu_new" if value == "gated-gelu" else name
        if gate not in ("", "gated") or name not in ACTIVATIONS:
            raise hf.error("feed_forward_proj", value, "it is not supported")
        return {"gated": bool(gate), "activation": ACTIVATIONS[name]}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        tanh = "gelu" if config.gated else "gelu_new"
        name = tanh if config.activation == "gelu_tanh" else config.activation
        return {"feed_forward_proj": f"gated-{name}" if config.gated else name}


@dataclass(frozen=True)
class ScaledOutput:
    """T5 1.0, with a tied embedding, divides by sqrt(d_model) before the logits."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        shared = hf.values.get("tie_word_embeddings") is not False
        scaled = hf.get("scale_decoder_outputs", bool, shared)
        return {"logit_scale": hf.get("d_model", int) ** -0.5 if scaled else 1.0}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"scale_decoder_outputs": config.logit_scale != 1.0}


@dataclass(frozen=True)
class DecoderLayers:
    """The number of decoder layers; by default that of the encoder."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        layers = hf.get("num_layers", int)
        return {"num_decoder_layers": hf.get("num_decoder_layers", int, layers)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {"num_decoder_layers": config.num_decoder_layers}


def _stack(stack: str, *, mlp_index: int) -> tuple[NameRow, ...]:
    """Name rows of the encoder or decoder; `mlp_index`: index of the MLP in a block."""
    block = f"{stack}.block.{{layer}}.layer"
    inner = f"{block}.{mlp_index}.DenseReluDense"
    up = f"{stack}.layers.mlp.up.kernel"
    return (
        NameRow(
            f"{stack}.relative.rows",
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            BUCKETS,
        ),
        *attention(
            f"{stack}.layers.attention",
            *(f"{block}.0.SelfAttention.{p}" for p in ("q", "k", "v", "o")),
        ),
        *norm(f"{stack}.layers.attention_norm", f"{block}.0.layer_norm"),
        *dense(f"{stack}.layers.mlp.gate", f"{inner}.wi_0", UP),
        NameRow(up, f"{inner}.wi.weight", UP[0], only=("gated", False)),
        NameRow(up, f"{inner}.wi_1.weight", UP[0], only=("gated", True)),
        *dense(f"{stack}.layers.mlp.down", f"{inner}.wo", DOWN),
        *norm(f"{stack}.layers.mlp_norm", f"{block}.{mlp_index}.layer_norm"),
        *norm(f"{stack}.norm", f"{stack}.final_layer_norm"),
    )


_CROSS = "decoder.block.{layer}.layer.1"
TABLE = NameTable(
    rows=(
        NameRow("embedding.rows", "shared.weight", EMBEDDING),
        NameRow("unembedding", "lm_head.weight", EMBEDDING),
        *_stack("encoder", mlp_index=1),
        *_stack("decoder", mlp_index=2),
        *attention(
            "decoder.layers.cross_attention",
            *(f"{_CROSS}.EncDecAttention.{p}" for p in ("q", "k", "v", "o")),
        ),
        *norm("decoder.layers.cross_attention_norm", f"{_CROSS}.layer_norm"),
    ),
    # The first files have unused relative positions in cross attention.
    ignorable=(r"EncDecAttention\.relative_attention_bias\.weight$",),
    copies=dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"),
        "shared.weight",
    ),
)


def _family(
    model_type: str, architecture: str, mlp: str, output: Field, examples: Mapping[str, str]
) -> Family:
    return Family(
        model_type,
        architecture,
        (
            Renamed("vocab_size", "vocab_size", int),
            Renamed("max_length", "n_positions", int, 512),
            Renamed("d_model", "d_model", int),
            Renamed("head_dim", "d_kv", int, written_as="head_width"),
            Renamed("d_ff", "d_ff", int, written_as="mlp_width"),
            Renamed("num_encoder_layers", "num_layers", int),
            DecoderLayers(),
            Renamed("num_heads", "num_heads", int),
            Renamed("relative_buckets", "relative_attention_num_buckets", int, 32),
            Renamed("relative_max_distance", "relative_attention_max_distance", int, 128),
            Renamed("norm_epsilon", "layer_norm_epsilon", float, 1e-6),
            FeedForward(mlp),
            Tied("lm_head.weight", "shared.weight", True, tied_without_head=True),
            output,
            Required("is_decoder", (False,)),
            Required("is_encoder_decoder", (True,)),
            constant(positions="relative", attention_scale=1.0),
        ),
        TABLE,
        examples=examples,
    )


T5 = _family(
    "t5",
    "T5ForConditionalGeneration",
    "relu",
    ScaledOutput(),
    {"google-t5/t5-small": "60.5M", "google/flan-t5-base": "248M"},
)
MT5 = _family(
    "mt5",
    "MT5ForConditionalGeneration",
    "gated-gelu",
    Required("scale_decoder_outputs", (False,)),
    {"google/mt5-small": "300M"},
)
