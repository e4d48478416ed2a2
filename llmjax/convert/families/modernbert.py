"""ModernBERT: rotary positions, windows in most layers, gated MLPs."""

from llmjax.convert.families.bert import ENCODER_ONLY, OURS, head_rows
from llmjax.convert.families.family import Family
from llmjax.convert.families.parts import (
    EMBEDDING,
    ENCODER,
    OUT,
    SIZES,
    dense,
    fused,
    halves,
    mlp,
    norm,
    thirds,
)
from llmjax.convert.hf.fields import Activation, Agree, Same, fixed
from llmjax.convert.hf.head_fields import Head, Tied
from llmjax.convert.hf.layer_fields import Windows
from llmjax.convert.hf.names import NameTable, Row
from llmjax.convert.hf.rotary_fields import TwoRotary

_M = "model.layers.{layer}"
_KERNELS, _BIASES = thirds("(j h k) d -> d h k", "(j h k) -> h k")
_GATE_UP, _GATE_UP_BIASES = halves("(j f) d -> d f", "(j f) -> f")
_GELU = Activation("hidden_activation", "gelu")
_MLP_BIAS = Same("mlp_bias", "mlp_bias", bool, False)
MODERNBERT = Family(
    "modernbert",
    "ModernBertForMaskedLM",
    (
        *SIZES,
        *ENCODER,
        Same("norm_epsilon", "norm_eps", float, 1e-5),
        Same("norm_bias", "norm_bias", bool, False),
        _GELU,
        Agree("classifier_activation", _GELU),
        Same("qkv_bias attention_out_bias", "attention_bias", bool, False),
        _MLP_BIAS,
        Agree("classifier_bias", _MLP_BIAS),
        TwoRotary(160_000.0, "global_rope_theta", 10_000.0, "local_rope_theta"),
        Windows(
            name="local_attention",
            default=128,
            every=3,
            first=True,
            every_name="global_attn_every_n_layers",
            halved=True,
        ),
        ENCODER_ONLY,
        fixed(norm="layernorm", first_norm=False, embed_norm=True),
        Head("head.dense.weight", bias_field="decoder_bias"),
        Tied("decoder.weight", "model.embeddings.tok_embeddings.weight", True),
    ),
    NameTable(
        rows=(
            Row("embedding.rows", "model.embeddings.tok_embeddings.weight", EMBEDDING),
            *norm("encoder.embed_norm", "model.embeddings.norm"),
            *fused(f"{OURS}.attention", _KERNELS, f"{_M}.attn.Wqkv.weight"),
            *fused(f"{OURS}.attention", _BIASES, f"{_M}.attn.Wqkv.bias"),
            *dense(f"{OURS}.attention.out", f"{_M}.attn.Wo", OUT),
            *norm(f"{OURS}.attention_norm", f"{_M}.attn_norm", missing_in=(0,)),
            *fused(f"{OURS}.mlp", _GATE_UP, f"{_M}.mlp.Wi.weight"),
            *fused(f"{OURS}.mlp", _GATE_UP_BIASES, f"{_M}.mlp.Wi.bias"),
            *mlp(f"{OURS}.mlp", down=f"{_M}.mlp.Wo"),
            *norm(f"{OURS}.mlp_norm", f"{_M}.mlp_norm"),
            *norm("encoder.norm", "model.final_norm"),
            *head_rows("head.dense", "head.norm", "decoder", "decoder.bias"),
        ),
        prefix="model.",
        copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    ),
    base_architecture="ModernBertModel",
    harmless=frozenset(
        """position_embedding_type layer_norm_eps deterministic_flash_attn reference_compile
        repad_logits_with_grad sparse_prediction sparse_pred_ignore_index""".split()
    ),
)
