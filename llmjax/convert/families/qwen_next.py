"""Qwen3-Next: layers with linear attention, and some with gated softmax attention."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import (
    ATTENTION,
    ATTENTION_BIAS,
    GATED_MLP,
    HF_LAYER,
    LAYERS,
    NORMS_BEFORE,
    SHAPE,
    SILU,
    decoder_table,
    head_norms,
    tied,
)
from llmjax.convert.families.moe import IGNORED, MLP, QWEN_EXPERTS, router, shared
from llmjax.convert.families.next_tokens import BESIDE
from llmjax.convert.families.tables import decoder_classes
from llmjax.convert.hf.attention_fields import FULL, Rotary, num_layers
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.expert_fields import EveryNth, Experts
from llmjax.convert.hf.fields import Renamed, constant
from llmjax.convert.hf.names import Layout, NameRow, Segment
from llmjax.model.config import ModelConfig
from llmjax.model.linear import LinearConfig

LINEAR = "linear_attention"
"""Value of layer_types."""
SIZES = {
    "key_heads": "linear_num_key_heads",
    "value_heads": "linear_num_value_heads",
    "key_head_dim": "linear_key_head_dim",
    "value_head_dim": "linear_value_head_dim",
    "conv_width": "linear_conv_kernel_dim",
}
"""Field of LinearConfig, with the family's defaults -> field of config.json."""


@dataclass(frozen=True)
class Linear:
    """Sizes of linear attention, and which layers have it: layer_types, or all but every few."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        layers, default = num_layers(hf), LinearConfig()
        every = hf.get("full_attention_interval", int, 4)
        if every < 1:
            raise hf.error("full_attention_interval", every, "it must be positive")
        pattern = [LINEAR if (layer + 1) % every else FULL for layer in range(layers)]
        types = hf.get("layer_types", list, pattern)
        if len(types) != layers or any(kind not in (FULL, LINEAR) for kind in types):
            raise hf.error("layer_types", types, f"one of {FULL}, {LINEAR} for each layer")
        sizes = {name: hf.get(there, int, getattr(default, name)) for name, there in SIZES.items()}
        if LINEAR not in types:
            return {"linear": None}
        full = tuple(layer for layer, kind in enumerate(types) if kind == FULL)
        return {"linear": LinearConfig(**sizes, attention_layers=full)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        sizes, linear = config.linear or LinearConfig(), config.linear_layers
        types = [LINEAR if i in linear else FULL for i in range(config.num_decoder_layers)]
        return {there: getattr(sizes, name) for name, there in SIZES.items()} | {
            "layer_types": types
        }


def _part(param: str, tensor: str, notation: str, lengths: tuple[str, ...], number: int) -> NameRow:
    """A parameter that others stand beside in a tensor, along axis j."""
    segment = Segment("j", lengths, number)
    return NameRow(f"{LAYERS}.{param}", f"{HF_LAYER}.{tensor}", Layout(notation, segment))


_A, _L, _HERE, _THERE = "attention", "linear_attention", f"{LAYERS}.linear_attention", "linear_attn"
_QUERY, _GROUP = ("1", "1"), ("l", "l", "y", "y")
ROWS = (
    *(row for row in ATTENTION if ".query." not in row.param),
    *(
        row
        for number, name in enumerate(("query", "output_gate"))
        for row in (
            _part(
                f"{_A}.{name}.kernel",
                "self_attn.q_proj.weight",
                "(h j k) d -> d h k",
                _QUERY,
                number,
            ),
            _part(f"{_A}.{name}.bias", "self_attn.q_proj.bias", "(h j k) -> h k", _QUERY, number),
        )
    ),
    *head_norms(),
    *(
        _part(
            f"{_L}.{name}.kernel",
            f"{_THERE}.in_proj_qkvz.weight",
            "(lh j) d -> d lh j",
            _GROUP,
            number,
        )
        for number, name in enumerate(("query", "key", "value", "output_gate"))
    ),
    *(
        _part(
            f"{_L}.{name}.kernel",
            f"{_THERE}.in_proj_ba.weight",
            "(lh j) d -> d lh j",
            ("r",) * 2,
            n,
        )
        for n, name in enumerate(("beta", "decay"))
    ),
    *(
        _part(
            f"{_L}.{name}_conv", f"{_THERE}.conv1d.weight", "j i z -> j z", ("lhl", "lhl", "lhy"), n
        )
        for n, name in enumerate(("query", "key", "value"))
    ),
    *(
        NameRow(f"{_HERE}.{here}", f"{HF_LAYER}.{_THERE}.{there}", Layout(notation))
        for here, there, notation in (
            ("log_rate", "A_log", "(lh r) -> lh r"),
            ("decay_bias", "dt_bias", "(lh r) -> lh r"),
            ("norm.scale", "norm.weight", "lw -> lw"),
            ("out.kernel", "out_proj.weight", "d (lh y) -> lh y d"),
        )
    ),
)

QWEN3_NEXT = Family(
    "qwen3_next",
    "Qwen3NextForCausalLM",
    (
        *SHAPE,
        Renamed("head_dim", "head_dim", int, 256, written_as="head_width"),
        SILU,
        Rotary(fraction=0.25),
        ATTENTION_BIAS,
        constant(qk_norm=True, norm_unit_offset=True, attention_gate=True),
        Linear(),
        Experts(
            count=512,
            chosen=10,
            dense=EveryNth(),
            width=512,
            normalize=True,
            shared_width=512,
            fixed={"shared_gate": True},
        ),
        tied(False),
        BESIDE,
    ),
    BESIDE.table(
        decoder_table(
            *ROWS,
            *NORMS_BEFORE,
            *GATED_MLP,
            *router("mlp.gate"),
            *QWEN_EXPERTS,
            *shared("mlp.shared_expert"),
            NameRow(
                f"{MLP}.shared_gate.kernel",
                f"{HF_LAYER}.mlp.shared_expert_gate.weight",
                Layout("i d -> d i"),
            ),
            ignorable=(r"^mtp\.",),
        )
    ),
    ignored=IGNORED,
    task_classes=decoder_classes("Qwen3Next"),
    examples={"Qwen/Qwen3-Next-80B-A3B-Instruct": "81.3B"},
)
