"""DeepSeek V2 and V3 (also Kimi K2): multi-head latent attention and mixtures of experts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import GATED_MLP, NORMS_BEFORE, SHAPE, SILU, decoder_table, tied
from llmjax.convert.families.moe import QWEN_EXPERTS, router, shared
from llmjax.convert.families.next_tokens import AFTER_LAST
from llmjax.convert.families.tables import decoder_classes, dense
from llmjax.convert.hf.attention_fields import Latent, Rotary
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.expert_fields import Experts, FirstDense
from llmjax.convert.hf.fields import Field, Renamed, constant
from llmjax.convert.hf.names import Layout, NameRow, Segment
from llmjax.model.config import ModelConfig

_D = "model.layers.{layer}"
_A = "decoder.layers.attention"
_HEADS = Layout("(h k) d -> d h k"), Layout("(h k) -> h k")


def _part(param: str, tensor: str, kernel: str, sizes: tuple[str, str], number: int) -> NameRow:
    """The name row of one of two projections side by side in a tensor, along axis j."""
    return NameRow(f"{_A}.{param}", tensor, Layout(kernel, Segment("j", sizes, number)))


_KV_DOWN, _KV_UP = f"{_D}.self_attn.kv_a_proj_with_mqa", f"{_D}.self_attn.kv_b_proj"
_DOWN, _UP = ("c", "s"), ("g", "w")
LATENT_ROWS = (
    *(
        NameRow(row.param, row.tensor, row.layout, only=("compresses_queries", compressed))
        for name, layout, compressed in (
            ("q_proj", _HEADS, False),
            ("q_b_proj", (Layout("(h k) q -> q h k"), Layout("(h k) -> h k")), True),
        )
        for row in dense(f"{_A}.query", f"{_D}.self_attn.{name}", layout)
    ),
    *dense(
        f"{_A}.query_down", f"{_D}.self_attn.q_a_proj", (Layout("q d -> d q"), Layout("q -> q"))
    ),
    NameRow(f"{_A}.query_norm.scale", f"{_D}.self_attn.q_a_layernorm.weight", Layout("q -> q")),
    *(
        row
        for number, name in enumerate(("kv_down", "key_rope"))
        for row in (
            _part(f"{name}.kernel", f"{_KV_DOWN}.weight", "j d -> d j", _DOWN, number),
            _part(f"{name}.bias", f"{_KV_DOWN}.bias", "j -> j", _DOWN, number),
        )
    ),
    NameRow(f"{_A}.kv_norm.scale", f"{_D}.self_attn.kv_a_layernorm.weight", Layout("c -> c")),
    _part("key.kernel", f"{_KV_UP}.weight", "(h j) c -> c h j", _UP, 0),
    _part("value.kernel", f"{_KV_UP}.weight", "(h j) c -> c h j", _UP, 1),
    *dense(f"{_A}.out", f"{_D}.self_attn.o_proj", (Layout("d (h w) -> h w d"), Layout("d -> d"))),
)


@dataclass(frozen=True)
class GreedyExperts(Experts):
    """As `Experts`, with groups only if topk_method says so (DeepSeek V2)."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        method = hf.get("topk_method", str, "greedy")
        if method not in ("greedy", "group_limited_greedy"):
            raise hf.error("topk_method", method, "supported are greedy and group_limited_greedy")
        hf.names_read.update(("n_group", "topk_group"))
        grouped = replace(self, groups=(1, 1)) if method != "greedy" else self
        return super(GreedyExperts, grouped).read(hf)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        if config.moe is None or config.moe.groups == 1:
            return super().write(config) | {"topk_method": "greedy"}
        grouped = super(GreedyExperts, replace(self, groups=(1, 1))).write(config)
        return grouped | {"topk_method": "group_limited_greedy"}


def _deepseek(
    model_type: str,
    name: str,
    experts: Experts,
    rows: tuple[NameRow, ...],
    *fields: Field,
    examples: Mapping[str, str],
    tokens: str = "score",
) -> Family:
    return Family(
        model_type,
        f"{name}ForCausalLM",
        (
            *SHAPE,
            SILU,
            Latent(),
            Rotary(fraction=None),
            Renamed("qkv_bias attention_out_bias", "attention_bias", bool, False),
            experts,
            tied(False),
            AFTER_LAST,
            *fields,
        ),
        AFTER_LAST.table(
            replace(
                decoder_table(
                    *LATENT_ROWS,
                    *NORMS_BEFORE,
                    *GATED_MLP,
                    *rows,
                    *QWEN_EXPERTS,
                    *shared("mlp.shared_experts"),
                ),
                further_layers=True,
            )
        ),
        # Of training, and the same in all files.
        ignored=frozenset(
            """aux_loss_alpha ep_size moe_layer_freq norm_topk_prob num_local_experts
            output_router_logits scoring_func seq_aux topk_method""".split()
        ),
        task_classes=decoder_classes(name, tokens, answers=None),
        examples=examples,
    )


DEEPSEEK_V2 = _deepseek(
    "deepseek_v2",
    "DeepseekV2",
    GreedyExperts(
        ("n_routed_experts",),
        count=64,
        chosen=6,
        dense=FirstDense(0),
        width=1407,
        scale=1.0,
        shared=2,
        fixed={"normalize": False, "group_score": "max"},
    ),
    router("mlp.gate"),
    Renamed("mlp_bias", "mlp_bias", bool, False),
    constant(rope_interleaved=True),
    examples={"deepseek-ai/DeepSeek-V2-Lite": "15.7B"},
    tokens="",
)
DEEPSEEK_V3 = _deepseek(
    "deepseek_v3",
    "DeepseekV3",
    Experts(
        ("n_routed_experts", "num_local_experts"),
        count=256,
        chosen=8,
        dense=FirstDense(3),
        width=2048,
        normalize=True,
        scale=2.5,
        shared=1,
        groups=(8, 4),
        fixed={"scores": "sigmoid", "selection_bias": True},
    ),
    router("mlp.gate", "mlp.gate.e_score_correction_bias"),
    Renamed("rope_interleaved", "rope_interleave", bool, True),
    examples={"deepseek-ai/DeepSeek-V3": "671B"},
)
