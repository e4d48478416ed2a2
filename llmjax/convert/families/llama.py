"""Llama and families with its layout: Mistral, Qwen, SmolLM3, OLMo 2, Gemma."""

from llmjax.convert.families.family import Family
from llmjax.convert.families.tables import (
    DECODER,
    EMBEDDING,
    GROUPED,
    HEAD_DIM,
    SIZES,
    attention,
    decoder_classes,
    mlp,
    norm,
)
from llmjax.convert.hf.attention_fields import Rotary, TwoRotary, Unrotated, Window, Windows
from llmjax.convert.hf.fields import (
    Activation,
    Constant,
    Field,
    Power,
    Renamed,
    Required,
    Tied,
    constant,
)
from llmjax.convert.hf.names import Layout, NameRow, NameTable

HF_LAYER = "model.layers.{layer}"
LAYERS = "decoder.layers"

ENDS = (
    NameRow("embedding.rows", "model.embed_tokens.weight", EMBEDDING),
    NameRow("unembedding", "lm_head.weight", EMBEDDING),
    *norm("decoder.norm", "model.norm"),
)
ATTENTION = attention(
    f"{LAYERS}.attention",
    *(f"{HF_LAYER}.self_attn.{part}_proj" for part in ("q", "k", "v", "o")),
)
GATED_MLP = mlp(
    f"{LAYERS}.mlp",
    gate=f"{HF_LAYER}.mlp.gate_proj",
    up=f"{HF_LAYER}.mlp.up_proj",
    down=f"{HF_LAYER}.mlp.down_proj",
)


def head_norms(query: str = "k -> k", key: str = "k -> k") -> tuple[NameRow, NameRow]:
    """Name rows of query and key norms."""
    return (
        NameRow(
            f"{LAYERS}.attention.query_norm.scale",
            f"{HF_LAYER}.self_attn.q_norm.weight",
            Layout(query),
        ),
        NameRow(
            f"{LAYERS}.attention.key_norm.scale", f"{HF_LAYER}.self_attn.k_norm.weight", Layout(key)
        ),
    )


NORMS_BEFORE = (
    *norm(f"{LAYERS}.attention_norm", f"{HF_LAYER}.input_layernorm"),
    *norm(f"{LAYERS}.mlp_norm", f"{HF_LAYER}.post_attention_layernorm"),
)
NORMS_AFTER = (
    *norm(f"{LAYERS}.attention_norm", f"{HF_LAYER}.post_attention_layernorm"),
    *norm(f"{LAYERS}.mlp_norm", f"{HF_LAYER}.post_feedforward_layernorm"),
)
NORMS_AROUND = (
    *norm(f"{LAYERS}.attention_norm", f"{HF_LAYER}.input_layernorm"),
    *norm(f"{LAYERS}.attention_output_norm", f"{HF_LAYER}.post_attention_layernorm"),
    *norm(f"{LAYERS}.mlp_norm", f"{HF_LAYER}.pre_feedforward_layernorm"),
    *norm(f"{LAYERS}.mlp_output_norm", f"{HF_LAYER}.post_feedforward_layernorm"),
)


def decoder_table(*rows: NameRow, ignorable: tuple[str, ...] = ()) -> NameTable:
    """A name table of embedding, final norm and LM head under these families' names, and `rows`.

    `ignorable`: further tensors to ignore.
    """
    return NameTable(
        rows=(*ENDS, *rows),
        prefix="model.",
        ignorable=(r"rotary_emb\.inv_freq$", *ignorable),
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    )


def table(*rows: NameRow) -> NameTable:
    """`decoder_table` of separate projections of attention and a gated MLP, and `rows`."""
    return decoder_table(*ATTENTION, *GATED_MLP, *rows)


def tied(default: bool) -> Tied:
    """The field for a head tied to the embedding."""
    return Tied("lm_head.weight", "model.embed_tokens.weight", default)


SILU = Activation("hidden_act", "silu")
ATTENTION_BIAS = Renamed("qkv_bias attention_out_bias", "attention_bias", bool, False)
MLP_BIAS = Renamed("mlp_bias", "mlp_bias", bool, False)


def shape(epsilon: float = 1e-6) -> tuple[Field, ...]:
    """Fields of sizes, and of RMSNorm's epsilon with this default."""
    return (*SIZES, *DECODER, GROUPED, Renamed("norm_epsilon", "rms_norm_eps", float, epsilon))


SHAPE = shape()
GRANITE_FACTORS: tuple[Field, ...] = (
    Renamed("embed_multiplier", "embedding_multiplier", float, 1.0),
    Renamed("residual_multiplier", "residual_multiplier", float, 1.0),
    Power("logit_scale", "logits_scaling", -1, 1.0),
    Power("attention_scale", "attention_multiplier", 1, 1.0),
)
LAYER_WINDOWS = Windows(default=4096, switch="use_sliding_window", from_layer="max_window_layers")

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    (*SHAPE, HEAD_DIM, SILU, Rotary(fraction=None), ATTENTION_BIAS, MLP_BIAS, tied(False)),
    table(*NORMS_BEFORE),
    ignored=frozenset({"is_llama_config"}),
    task_classes=decoder_classes("Llama"),
    examples={
        "meta-llama/Llama-3.2-1B": "1.24B",
        "meta-llama/Llama-3.1-8B": "8.03B",
        "HuggingFaceTB/SmolLM2-135M": "135M",
    },
)
MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    (*SHAPE, HEAD_DIM, SILU, Rotary(fraction=None), Window(4096), tied(False)),
    table(*NORMS_BEFORE),
    task_classes=decoder_classes("Mistral", answers=""),
    examples={"mistralai/Mistral-7B-v0.3": "7.25B"},
)
QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    (*SHAPE, SILU, Rotary(fraction=None), LAYER_WINDOWS, constant(qkv_bias=True), tied(False)),
    table(*NORMS_BEFORE),
    task_classes=decoder_classes("Qwen2"),
    examples={"Qwen/Qwen2.5-0.5B": "494M", "Qwen/Qwen2.5-7B": "7.62B"},
)
QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    (
        *SHAPE,
        Renamed("head_dim", "head_dim", int, 128, written_as="head_width"),
        SILU,
        Rotary(fraction=None),
        LAYER_WINDOWS,
        ATTENTION_BIAS,
        constant(qk_norm=True),
        tied(False),
    ),
    table(*NORMS_BEFORE, *head_norms()),
    task_classes=decoder_classes("Qwen3"),
    examples={"Qwen/Qwen3-0.6B": "596M", "Qwen/Qwen3-8B": "8.19B"},
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
    ignored=frozenset({"max_window_layers"}),
    task_classes=decoder_classes("SmolLM3"),
    examples={"HuggingFaceTB/SmolLM3-3B": "3.08B"},
)
OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    (
        *shape(1e-5),
        SILU,
        Rotary(fraction=None),
        ATTENTION_BIAS,
        constant(norm_placement="output", qk_norm=True, qk_norm_over="projection"),
        tied(False),
    ),
    table(*NORMS_AFTER, *head_norms("(h k) -> h k", "(n k) -> n k")),
    task_classes=decoder_classes("Olmo2", "", None),
    examples={"allenai/OLMo-2-0425-1B": "1.48B"},
)
INTERNLM3 = Family(
    "internlm3",
    "InternLM3ForCausalLM",
    (
        *shape(1e-5),
        Renamed("head_dim", "head_dim", int, 128, written_as="head_width"),
        SILU,
        Rotary(fraction=None),
        Renamed("qkv_bias", "qkv_bias", bool, False, alias="attention_bias"),
        Renamed("attention_out_bias mlp_bias", "bias", bool, False, alias="mlp_bias"),
        tied(False),
    ),
    table(*NORMS_BEFORE),
    examples={"internlm/internlm3-8b-instruct": "8.80B"},
)
GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    (
        *SHAPE,
        SILU,
        Rotary(fraction=None),
        ATTENTION_BIAS,
        MLP_BIAS,
        *GRANITE_FACTORS,
        tied(False),
    ),
    table(*NORMS_BEFORE),
    examples={"ibm-granite/granite-3.3-2b-base": "2.53B"},
)

GEMMA_NORMS = constant(norm_unit_offset=True, embed_scale=True)
SANDWICH: Constant = constant(norm_placement="sandwich", norm_unit_offset=True, embed_scale=True)
WIDE_HEAD = Renamed("head_dim", "head_dim", int, 256, written_as="head_width")
SCORES = Power("attention_scale", "query_pre_attn_scalar", -0.5, 256)
CAPS = (
    Renamed("logit_softcap", "final_logit_softcapping", float, None),
    Renamed("attention_softcap", "attn_logit_softcapping", float, None),
)
GELU = Activation("hidden_activation", "gelu_pytorch_tanh")
ONE_WAY = Required("use_bidirectional_attention", (False,))

GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    (
        *SHAPE,
        WIDE_HEAD,
        # Early files state gelu but mean its tanh approximation.
        Required("hidden_act", ("gelu_pytorch_tanh", "gelu")),
        Required("hidden_activation", ("gelu_pytorch_tanh",)),
        constant(activation="gelu_tanh"),
        Rotary(fraction=None),
        ATTENTION_BIAS,
        GEMMA_NORMS,
        ONE_WAY,
        tied(True),
    ),
    table(*NORMS_BEFORE),
    task_classes=decoder_classes("Gemma", answers=None),
    examples={"google/gemma-2b": "2.51B"},
)
GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    (
        *SHAPE,
        WIDE_HEAD,
        GELU,
        Required("hidden_act", ("gelu_pytorch_tanh",)),
        Rotary(fraction=None),
        Windows(default=4096, every=2),
        ATTENTION_BIAS,
        SANDWICH,
        SCORES,
        *CAPS,
        ONE_WAY,
        tied(True),
    ),
    table(*NORMS_AROUND),
    task_classes=decoder_classes("Gemma2", answers=None),
    examples={"google/gemma-2-2b": "2.61B"},
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
        constant(qk_norm=True),
        SCORES,
        *CAPS,
        ONE_WAY,
        tied(True),
    ),
    table(*NORMS_AROUND, *head_norms()),
    ignored=frozenset({"_sliding_window_pattern"}),
    task_classes=decoder_classes("Gemma3Text", "", None),
    examples={"google/gemma-3-1b-it": "1.00B"},
)
