"""Mixtures of experts: Mixtral, Qwen, OLMoE, GLM 4.5, Granite, gpt-oss."""

from dataclasses import replace

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import (
    ATTENTION_BIAS,
    GRANITE_FACTORS,
    HF_LAYER,
    LAYER_WINDOWS,
    LAYERS,
    NORMS_BEFORE,
    SHAPE,
    SILU,
    head_norms,
    shape,
    table,
    tied,
)
from llmjax.convert.families.next_tokens import AFTER_LAST
from llmjax.convert.families.tables import HEAD_DIM, VECTOR, VOCABULARY, decoder_classes
from llmjax.convert.hf.attention_fields import Rotary, Window, Windows
from llmjax.convert.hf.expert_fields import EveryNth, Experts, FirstDense
from llmjax.convert.hf.fields import Renamed, Required, constant
from llmjax.convert.hf.names import Layout, NameRow, Segment

MLP = f"{LAYERS}.mlp"
ROUTER = Layout("a d -> d a")


def router(name: str, bias: str = "") -> tuple[NameRow, ...]:
    """Name rows of a router, whose selection bias is the tensor `bias`."""
    rows = (
        NameRow(f"{MLP}.router.kernel", f"{HF_LAYER}.{name}.weight", ROUTER),
        NameRow(f"{MLP}.router.bias", f"{HF_LAYER}.{name}.bias", Layout("a -> a")),
    )
    tensor = f"{HF_LAYER}.{bias}"
    chosen = (NameRow(f"{MLP}.router.selection_bias", tensor, Layout("a -> a")),)
    return rows + (chosen if bias else ())


def experts(prefix: str, gate: str, up: str, down: str) -> tuple[NameRow, ...]:
    """Name rows of experts with three matrices each."""
    each = f"{HF_LAYER}.{prefix}.{{expert}}"
    return (
        NameRow(f"{MLP}.experts.gate.kernel", f"{each}.{gate}.weight", Layout("m d -> d m")),
        NameRow(f"{MLP}.experts.up.kernel", f"{each}.{up}.weight", Layout("m d -> d m")),
        NameRow(f"{MLP}.experts.down.kernel", f"{each}.{down}.weight", Layout("d m -> m d")),
    )


def shared(name: str) -> tuple[NameRow, ...]:
    """Name rows of the expert that all tokens use."""
    up, down = (Layout("u d -> d u"), Layout("u -> u")), (Layout("d u -> u d"), VECTOR)
    return tuple(
        NameRow(f"{MLP}.shared.{part}.{kind}", f"{HF_LAYER}.{name}.{part}_proj.{end}", layout)
        for part, layouts in (("gate", up), ("up", up), ("down", down))
        for kind, end, layout in zip(("kernel", "bias"), ("weight", "bias"), layouts, strict=True)
    )


IGNORED = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})
"""Of training."""
QWEN_EXPERTS = experts("mlp.experts", "gate_proj", "up_proj", "down_proj")

MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    (
        *shape(1e-5),
        HEAD_DIM,
        SILU,
        Rotary(1_000_000.0, fraction=None),
        Window(None),
        Experts(("num_local_experts", "num_experts")),
        tied(False),
    ),
    table(
        *NORMS_BEFORE,
        *router("block_sparse_moe.gate"),
        *experts("block_sparse_moe.experts", "w1", "w3", "w2"),
    ),
    ignored=IGNORED,
    task_classes=decoder_classes("Mixtral", answers=""),
    examples={"mistralai/Mixtral-8x7B-v0.1": "46.7B"},
)
PHIMOE = Family(
    "phimoe",
    "PhimoeForCausalLM",
    (
        *shape(1e-5),
        SILU,
        Rotary(1_000_000.0, fraction=None, scales=("short_mscale", "long_mscale")),
        Window(None),
        ATTENTION_BIAS,
        Renamed("lm_head_bias", "lm_head_bias", bool, False),
        constant(norm="layernorm", norm_bias=True),
        Experts(
            ("num_local_experts", "num_experts"),
            count=16,
            jitter=0.01,
            fixed={"scores": "sparsemixer", "normalize": False},
        ),
        tied(False),
    ),
    table(
        *NORMS_BEFORE,
        *router("block_sparse_moe.gate"),
        *experts("block_sparse_moe.experts", "w1", "w3", "w2"),
        NameRow("unembedding_bias", "lm_head.bias", VOCABULARY),
    ),
    ignored=IGNORED | {"input_jitter_noise"},
    task_classes=decoder_classes("Phimoe", "", None),
    examples={"microsoft/Phi-3.5-MoE-instruct": "41.9B"},
)
QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    (
        *SHAPE,
        SILU,
        Rotary(fraction=None),
        replace(LAYER_WINDOWS, zero_is_off=True),
        Renamed("qkv_bias", "qkv_bias", bool, True),
        Experts(
            count=60,
            chosen=4,
            dense=EveryNth(),
            width=1408,
            normalize=False,
            shared_width=5632,
            fixed={"shared_gate": True},
        ),
        tied(False),
    ),
    table(
        *NORMS_BEFORE,
        *router("mlp.gate"),
        *QWEN_EXPERTS,
        *shared("mlp.shared_expert"),
        NameRow(
            f"{MLP}.shared_gate.kernel",
            f"{HF_LAYER}.mlp.shared_expert_gate.weight",
            Layout("i d -> d i"),
        ),
    ),
    ignored=IGNORED,
    task_classes=decoder_classes("Qwen2Moe", answers=""),
    examples={"Qwen/Qwen1.5-MoE-A2.7B": "14.3B"},
)
QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    (
        *SHAPE,
        HEAD_DIM,
        SILU,
        Rotary(fraction=None),
        Windows(default=4096, switch="use_sliding_window"),
        ATTENTION_BIAS,
        constant(qk_norm=True),
        Experts(count=128, chosen=8, dense=EveryNth(), width=768, normalize=False),
        tied(False),
    ),
    table(*NORMS_BEFORE, *router("mlp.gate"), *QWEN_EXPERTS, *head_norms()),
    ignored=IGNORED | {"max_window_layers"},
    task_classes=decoder_classes("Qwen3Moe"),
    examples={"Qwen/Qwen3-30B-A3B": "30.5B"},
)
OLMOE = Family(
    "olmoe",
    "OlmoeForCausalLM",
    (
        *shape(1e-5),
        SILU,
        Rotary(fraction=None),
        ATTENTION_BIAS,
        Required("clip_qkv", (None,)),
        constant(qk_norm=True, qk_norm_over="projection"),
        Experts(count=64, chosen=8, normalize=False),
        tied(False),
    ),
    table(
        *NORMS_BEFORE,
        *router("mlp.gate"),
        *QWEN_EXPERTS,
        *head_norms("(h k) -> h k", "(n k) -> n k"),
    ),
    ignored=IGNORED,
    examples={"allenai/OLMoE-1B-7B-0924": "6.92B"},
)
GLM4_MOE = Family(
    "glm4_moe",
    "Glm4MoeForCausalLM",
    (
        *shape(1e-5),
        HEAD_DIM,
        SILU,
        Rotary(fraction=0.5),
        Renamed("qkv_bias", "attention_bias", bool, False),
        Renamed("qk_norm", "use_qk_norm", bool, False),
        Experts(
            ("n_routed_experts", "num_local_experts"),
            count=128,
            chosen=8,
            dense=FirstDense(1),
            width=1408,
            normalize=True,
            scale=1.0,
            shared=1,
            groups=(1, 1),
            fixed={"scores": "sigmoid", "selection_bias": True},
        ),
        tied(False),
        AFTER_LAST,
    ),
    AFTER_LAST.table(
        replace(
            table(
                *NORMS_BEFORE,
                *router("mlp.gate", "mlp.gate.e_score_correction_bias"),
                *QWEN_EXPERTS,
                *shared("mlp.shared_experts"),
                *head_norms(),
            ),
            further_layers=True,
        )
    ),
    ignored=IGNORED,
    examples={"zai-org/GLM-4.5-Air": "110B"},
)
_FUSED = f"{HF_LAYER}.block_sparse_moe"
GRANITE_MOE = Family(
    "granitemoe",
    "GraniteMoeForCausalLM",
    (
        *SHAPE,
        SILU,
        Rotary(fraction=None),
        ATTENTION_BIAS,
        *GRANITE_FACTORS,
        Experts(("num_local_experts", "num_experts")),
        tied(False),
    ),
    table(
        *NORMS_BEFORE,
        NameRow(f"{MLP}.router.kernel", f"{_FUSED}.router.layer.weight", ROUTER),
        *(
            NameRow(
                f"{MLP}.experts.{name}.kernel",
                f"{_FUSED}.input_linear.weight",
                Layout("a (j m) d -> a d m", Segment("j", ("1", "1"), number)),
            )
            for number, name in enumerate(("gate", "up"))
        ),
        NameRow(
            f"{MLP}.experts.down.kernel",
            f"{_FUSED}.output_linear.weight",
            Layout("a d m -> a m d"),
        ),
    ),
    ignored=IGNORED,
    examples={"ibm-granite/granite-3.1-3b-a800m-base": "3.30B"},
)
_EXPERTS = f"{HF_LAYER}.mlp.experts"
GPT_OSS = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    (
        *shape(1e-5),
        Renamed("head_dim", "head_dim", int, 64, written_as="head_width"),
        Rotary(150_000.0, fraction=None),
        Windows(default=128, every=2),
        Renamed("qkv_bias attention_out_bias", "attention_bias", bool, True),
        Renamed("activation_limit", "swiglu_limit", float, 7.0),
        Required("swiglu_alpha", (1.702,)),
        Required("hidden_act", ("silu",)),
        constant(activation="quick_gelu", up_offset=1.0, attention_sinks=True),
        Experts(
            ("num_local_experts", "num_experts"),
            count=128,
            chosen=4,
            fixed={"router_bias": True, "expert_bias": True},
        ),
        tied(False),
    ),
    table(
        *NORMS_BEFORE,
        NameRow(f"{LAYERS}.attention.sinks", f"{HF_LAYER}.self_attn.sinks", Layout("h -> h")),
        *router("mlp.router"),
        *(
            NameRow(f"{MLP}.experts.{name}.{kind}", f"{_EXPERTS}.gate_up_proj{end}", layout)
            for number, name in enumerate(("gate", "up"))
            for kind, end, layout in (
                ("kernel", "", Layout("a d (m j) -> a d m", Segment("j", ("1", "1"), number))),
                ("bias", "_bias", Layout("a (m j) -> a m", Segment("j", ("1", "1"), number))),
            )
        ),
        NameRow(f"{MLP}.experts.down.kernel", f"{_EXPERTS}.down_proj", Layout("a m d -> a m d")),
        NameRow(f"{MLP}.experts.down.bias", f"{_EXPERTS}.down_proj_bias", Layout("a d -> a d")),
    ),
    ignored=IGNORED | {"initial_context_length", "experts_per_token"},
    task_classes=decoder_classes("GptOss", answers=None),
    examples={"openai/gpt-oss-20b": "20.9B"},
)
