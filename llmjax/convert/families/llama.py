"""Llama and those that took its layout: Mistral, Qwen, SmolLM3, OLMo 2, Gemma."""

from llmjax.convert.families.family import Family
from llmjax.convert.families.tables import (
    DECODER,
    EMBEDDING,
    GROUPED,
    HEAD_DIM,
    SIZES,
    attention,
    mlp,
    norm,
)
from llmjax.convert.hf.attention_fields import Rotary, TwoRotary, Unrotated, Window, Windows
from llmjax.convert.hf.fields import Activation, Field, Fixed, Must, Power, Same, Tied, fixed
from llmjax.convert.hf.names import Layout, NameTable, Row

LAYER = "model.layers.{layer}"
OURS = "decoder.layers"

ENDS = (
    Row("embedding.rows", "model.embed_tokens.weight", EMBEDDING),
    Row("unembedding", "lm_head.weight", EMBEDDING),
    *norm("decoder.norm", "model.norm"),
)
PROJECTIONS = (
    *attention(
        f"{OURS}.attention", *(f"{LAYER}.self_attn.{part}_proj" for part in ("q", "k", "v", "o"))
    ),
    *mlp(
        f"{OURS}.mlp",
        gate=f"{LAYER}.mlp.gate_proj",
        up=f"{LAYER}.mlp.up_proj",
        down=f"{LAYER}.mlp.down_proj",
    ),
)


def head_norms(query: str = "k -> k", key: str = "k -> k") -> tuple[Row, Row]:
    """Norms of queries and keys."""
    return (
        Row(
            f"{OURS}.attention.query_norm.scale", f"{LAYER}.self_attn.q_norm.weight", Layout(query)
        ),
        Row(f"{OURS}.attention.key_norm.scale", f"{LAYER}.self_attn.k_norm.weight", Layout(key)),
    )


NORMS_BEFORE = (
    *norm(f"{OURS}.attention_norm", f"{LAYER}.input_layernorm"),
    *norm(f"{OURS}.mlp_norm", f"{LAYER}.post_attention_layernorm"),
)
NORMS_AFTER = (
    *norm(f"{OURS}.attention_norm", f"{LAYER}.post_attention_layernorm"),
    *norm(f"{OURS}.mlp_norm", f"{LAYER}.post_feedforward_layernorm"),
)
NORMS_AROUND = (
    *norm(f"{OURS}.attention_norm", f"{LAYER}.input_layernorm"),
    *norm(f"{OURS}.attention_output_norm", f"{LAYER}.post_attention_layernorm"),
    *norm(f"{OURS}.mlp_norm", f"{LAYER}.pre_feedforward_layernorm"),
    *norm(f"{OURS}.mlp_output_norm", f"{LAYER}.post_feedforward_layernorm"),
)


def table(*rows: Row) -> NameTable:
    """The names that all of them share, and these."""
    return NameTable(
        rows=(*ENDS, *PROJECTIONS, *rows),
        prefix="model.",
        ignorable=(r"rotary_emb\.inv_freq$",),
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    )


def tied(default: bool) -> Tied:
    """What the head and the embedding are called."""
    return Tied("lm_head.weight", "model.embed_tokens.weight", default)


EPSILON = Same("norm_epsilon", "rms_norm_eps", float, 1e-6)
SILU = Activation("hidden_act", "silu")
ATTENTION_BIAS = Same("qkv_bias attention_out_bias", "attention_bias", bool, False)
MLP_BIAS = Same("mlp_bias", "mlp_bias", bool, False)
SHAPE: tuple[Field, ...] = (*SIZES, *DECODER, GROUPED, EPSILON)
LAYER_WINDOWS = Windows(default=4096, switch="use_sliding_window", from_layer="max_window_layers")

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    (*SHAPE, HEAD_DIM, SILU, Rotary(fraction=None), ATTENTION_BIAS, MLP_BIAS, tied(False)),
    table(*NORMS_BEFORE),
    harmless=frozenset({"is_llama_config"}),
)
MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    (*SHAPE, HEAD_DIM, SILU, Rotary(fraction=None), Window(4096), tied(False)),
    table(*NORMS_BEFORE),
)
QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    (*SHAPE, SILU, Rotary(fraction=None), LAYER_WINDOWS, fixed(qkv_bias=True), tied(False)),
    table(*NORMS_BEFORE),
)
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    (
        *SHAPE,
        Same("head_dim", "head_dim", int, 128, derived="head_width"),
        SILU,
        Rotary(fraction=None),
        LAYER_WINDOWS,
        ATTENTION_BIAS,
        fixed(qk_norm=True),
        tied(False),
    ),
    table(*NORMS_BEFORE, *head_norms()),
)
SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    (
        *SHAPE,
        SILU,
        Rotary(2_000_000.0, fraction=None),
        Windows(switch="use_sliding_window"),
        Unrotated(),
        ATTENTION_BIAS,
        MLP_BIAS,
        tied(True),
    ),
    table(*NORMS_BEFORE),
    harmless=frozenset({"max_window_layers"}),
)
OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    (
        *SHAPE[:-1],
        Same("norm_epsilon", "rms_norm_eps", float, 1e-5),
        SILU,
        Rotary(fraction=None),
        ATTENTION_BIAS,
        fixed(norm_placement="output", qk_norm=True, qk_norm_over="projection"),
        tied(False),
    ),
    table(*NORMS_AFTER, *head_norms("(h k) -> h k", "(n k) -> n k")),
)

GEMMA_NORMS = fixed(norm_unit_offset=True, embed_scale=True)
SANDWICH: Fixed = fixed(norm_placement="sandwich", norm_unit_offset=True, embed_scale=True)
WIDE_HEAD = Same("head_dim", "head_dim", int, 256, derived="head_width")
SCORES = Power("attention_scale", "query_pre_attn_scalar", -0.5, 256)
CAPS = (
    Same("logit_softcap", "final_logit_softcapping", float, None),
    Same("attention_softcap", "attn_logit_softcapping", float, None),
)
GELU = Activation("hidden_activation", "gelu_pytorch_tanh")
ONE_WAY = Must("use_bidirectional_attention", (False,))

GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    (
        *SHAPE,
        WIDE_HEAD,
        # Early files say gelu and mean its approximation: so do all programs that read them.
        Must("hidden_act", ("gelu_pytorch_tanh", "gelu")),
        Must("hidden_activation", ("gelu_pytorch_tanh",)),
        fixed(activation="gelu_tanh"),
        Rotary(fraction=None),
        ATTENTION_BIAS,
        GEMMA_NORMS,
        ONE_WAY,
        tied(True),
    ),
    table(*NORMS_BEFORE),
)
GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    (
        *SHAPE,
        WIDE_HEAD,
        GELU,
        Must("hidden_act", ("gelu_pytorch_tanh",)),
        Rotary(fraction=None),
        Windows(default=4096, every=2),
        ATTENTION_BIAS,
        SANDWICH,
        SCORES,
        Same("logit_softcap", "final_logit_softcapping", float, None),
        Same("attention_softcap", "attn_logit_softcapping", float, None),
        ONE_WAY,
        tied(True),
    ),
    table(*NORMS_AROUND),
)
GEMMA3 = Family(
    "gemma3_text",
    "Gemma3ForCausalLM",
    (
        *SHAPE,
        WIDE_HEAD,
        GELU,
        TwoRotary(1_000_000.0, "rope_theta", 10_000.0, "rope_local_base_freq"),
        Windows(default=4096, every=6, every_name="sliding_window_pattern"),
        ATTENTION_BIAS,
        SANDWICH,
        fixed(qk_norm=True),
        SCORES,
        *CAPS,
        ONE_WAY,
        tied(True),
    ),
    table(*NORMS_AROUND, *head_norms()),
    harmless=frozenset({"_sliding_window_pattern"}),
)
