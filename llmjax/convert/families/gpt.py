"""Decoders without a gate or with fused projections: GPT-2, GPT-NeoX, Phi-3, StarCoder 2."""

from llmjax.convert.families.family import Family
from llmjax.convert.families.llama import ATTENTION, NORMS_BEFORE, SILU, decoder_table, shape
from llmjax.convert.families.tables import (
    BIASES_AND_LAYERNORM,
    DECODER,
    EMBEDDING,
    GROUPED,
    OUT,
    POSITIONS,
    SIZES,
    VECTOR,
    decoder_classes,
    dense,
    fused,
    halves,
    mlp,
    norm,
    thirds,
)
from llmjax.convert.hf.attention_fields import Rotary, Window
from llmjax.convert.hf.fields import Activation, Renamed, Required, Tied, constant
from llmjax.convert.hf.names import Layout, NameRow, NameTable, Segment

LAYERS = "decoder.layers"

_H = "transformer.h.{layer}"
# GPT-2 stores matrices [inputs, outputs].
_KERNELS, _BIASES = thirds("d (j h k) -> d h k", "(j h k) -> h k")

GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    (
        Renamed("vocab_size", "vocab_size", int),
        Renamed("max_length", "n_positions", int, 1024),
        Renamed("d_model", "n_embd", int),
        Renamed("num_decoder_layers", "n_layer", int),
        Renamed("num_heads", "n_head", int),
        Renamed("d_ff", "n_inner", int, None, written_as="mlp_width"),
        Renamed("norm_epsilon", "layer_norm_epsilon", float, 1e-5),
        Activation("activation_function", "gelu_new", tanh="gelu_new"),
        Required("scale_attn_weights", (True,)),
        Required("scale_attn_by_inverse_layer_idx", (False,)),
        Required("add_cross_attention", (False,)),
        constant(**BIASES_AND_LAYERNORM),
        Tied("lm_head.weight", "transformer.wte.weight", True),
    ),
    NameTable(
        rows=(
            NameRow("embedding.rows", "transformer.wte.weight", EMBEDDING),
            NameRow("unembedding", "lm_head.weight", EMBEDDING),
            NameRow("decoder.positions.rows", "transformer.wpe.weight", POSITIONS),
            *norm("decoder.norm", "transformer.ln_f"),
            *norm(f"{LAYERS}.attention_norm", f"{_H}.ln_1"),
            *norm(f"{LAYERS}.mlp_norm", f"{_H}.ln_2"),
            *fused(f"{LAYERS}.attention", _KERNELS, f"{_H}.attn.c_attn.weight"),
            *fused(f"{LAYERS}.attention", _BIASES, f"{_H}.attn.c_attn.bias"),
            *dense(
                f"{LAYERS}.attention.out", f"{_H}.attn.c_proj", (Layout("(h k) d -> h k d"), VECTOR)
            ),
            *dense(f"{LAYERS}.mlp.up", f"{_H}.mlp.c_fc", (Layout("d f -> d f"), Layout("f -> f"))),
            *dense(f"{LAYERS}.mlp.down", f"{_H}.mlp.c_proj", (Layout("f d -> f d"), VECTOR)),
        ),
        prefix="transformer.",
        ignorable=(r"\.attn\.(masked_)?bias$",),
        copies={"lm_head.weight": "transformer.wte.weight"},
    ),
    ignored=frozenset(
        """n_ctx reorder_and_upcast_attn summary_type summary_use_proj summary_activation
        summary_proj_to_labels summary_first_dropout""".split()
    ),
    task_classes=decoder_classes("GPT2", "classifier", ""),
    examples={"openai-community/gpt2": "124M"},
)

_N = "gpt_neox.layers.{layer}"
# Query, key and value are fused per head.
_HEADWISE, _HEADWISE_BIASES = thirds("(h j k) d -> d h k", "(h j k) -> h k")

GPT_NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    (
        *SIZES,
        *DECODER,
        Renamed("norm_epsilon", "layer_norm_eps", float, 1e-5),
        Activation("hidden_act", "gelu"),
        Renamed("parallel_residual", "use_parallel_residual", bool, True),
        Renamed("qkv_bias attention_out_bias", "attention_bias", bool, True),
        Rotary(fraction=0.25, theta_name="rotary_emb_base", fraction_name="rotary_pct"),
        constant(gated=False, norm="layernorm", norm_bias=True, mlp_bias=True),
        Tied("embed_out.weight", "gpt_neox.embed_in.weight", False),
    ),
    NameTable(
        rows=(
            NameRow("embedding.rows", "gpt_neox.embed_in.weight", EMBEDDING),
            NameRow("unembedding", "embed_out.weight", EMBEDDING),
            *norm("decoder.norm", "gpt_neox.final_layer_norm"),
            *norm(f"{LAYERS}.attention_norm", f"{_N}.input_layernorm"),
            *norm(f"{LAYERS}.mlp_norm", f"{_N}.post_attention_layernorm"),
            *fused(f"{LAYERS}.attention", _HEADWISE, f"{_N}.attention.query_key_value.weight"),
            *fused(f"{LAYERS}.attention", _HEADWISE_BIASES, f"{_N}.attention.query_key_value.bias"),
            *dense(f"{LAYERS}.attention.out", f"{_N}.attention.dense", OUT),
            *mlp(f"{LAYERS}.mlp", up=f"{_N}.mlp.dense_h_to_4h", down=f"{_N}.mlp.dense_4h_to_h"),
        ),
        prefix="gpt_neox.",
        renames=((r"^lm_head\.", "embed_out."),),
        ignorable=(r"\.attention\.(masked_)?bias$", r"rotary_emb\.inv_freq$"),
        copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
    ),
    # Pythia's files also have rope_theta, a copy of rotary_emb_base.
    ignored=frozenset({"rope_theta"}),
    task_classes=decoder_classes("GPTNeoX", "classifier", ""),
    examples={"EleutherAI/pythia-160m": "162M"},
)

_P = "model.layers.{layer}"
_SEGMENTS = ("h", "n", "n")
_GATE_UP, _ = halves("(j f) d -> d f", "(j f) -> f")

PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    (
        *shape(1e-5),
        SILU,
        # Former names of the scaling: su in the first files, then yarn.
        Rotary(renamed=(("su", "longrope"), ("yarn", "longrope"))),
        Window(None),
        Tied("lm_head.weight", "model.embed_tokens.weight", False),
    ),
    decoder_table(
        *NORMS_BEFORE,
        *(
            NameRow(
                f"{LAYERS}.attention.{name}.kernel",
                f"{_P}.self_attn.qkv_proj.weight",
                Layout("(x k) d -> d x k", Segment("x", _SEGMENTS, number)),
            )
            for number, name in enumerate(("query", "key", "value"))
        ),
        *dense(f"{LAYERS}.attention.out", f"{_P}.self_attn.o_proj", OUT),
        *fused(f"{LAYERS}.mlp", _GATE_UP, f"{_P}.mlp.gate_up_proj.weight"),
        *mlp(f"{LAYERS}.mlp", down=f"{_P}.mlp.down_proj"),
    ),
    # Used by Phi-4's own code, never by Transformers.
    ignored=frozenset({"full_attn_mod", "interpolate_factor"}),
    task_classes=decoder_classes("Phi3", answers=None),
    examples={"microsoft/Phi-3-mini-4k-instruct": "3.82B"},
)

_S = "model.layers.{layer}"

STARCODER2 = Family(
    "starcoder2",
    "Starcoder2ForCausalLM",
    (
        *SIZES,
        *DECODER,
        GROUPED,
        Renamed("norm_epsilon", "norm_epsilon", float, 1e-5),
        Activation("hidden_act", "gelu_pytorch_tanh"),
        Rotary(fraction=None),
        Window(None),
        Renamed("qkv_bias attention_out_bias mlp_bias", "use_bias", bool, True),
        constant(gated=False, norm="layernorm", norm_bias=True),
        Tied("lm_head.weight", "model.embed_tokens.weight", True),
    ),
    decoder_table(
        *NORMS_BEFORE,
        *ATTENTION,
        *mlp(f"{LAYERS}.mlp", up=f"{_S}.mlp.c_fc", down=f"{_S}.mlp.c_proj"),
    ),
    # Of the original training code, the same in all published files.
    ignored=frozenset({"mlp_type", "norm_type"}),
    task_classes=decoder_classes("Starcoder2", answers=None),
    examples={"bigcode/starcoder2-3b": "3.03B"},
)
