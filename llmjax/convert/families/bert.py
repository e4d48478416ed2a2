"""Encoders: BERT, RoBERTa, XLM-RoBERTa and DistilBERT, with or without a head."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family
from llmjax.convert.families.tables import (
    DENSE,
    EMBEDDING,
    ENCODER,
    OUT,
    POSITIONS,
    SIZES,
    TOKEN_TYPES,
    VOCABULARY,
    attention,
    dense,
    fused,
    halves,
    mlp,
    norm,
    thirds,
)
from llmjax.convert.hf.attention_fields import TwoRotary, Windows
from llmjax.convert.hf.fields import Activation, Agree, Head, Must, Same, Theirs, Tied, fixed
from llmjax.convert.hf.names import NameTable, Row
from llmjax.model.config import ModelConfig

OURS = "encoder.layers"
EARLY = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
"""What the first checkpoints called a norm's scale and bias."""
BUFFERS = (r"embeddings\.(position_ids|token_type_ids)$",)
ENCODER_ONLY = fixed(num_decoder_layers=0)
AS_IN_2018 = fixed(
    gated=False,
    norm="layernorm",
    norm_bias=True,
    norm_placement="post",
    embed_norm=True,
    positions="learned",
    qkv_bias=True,
    attention_out_bias=True,
    mlp_bias=True,
)
NO_DECODER = (
    ENCODER_ONLY,
    AS_IN_2018,
    Must("is_decoder", (False,)),
    Must("add_cross_attention", (False,)),
    Must("position_embedding_type", ("absolute",)),
)


def bert_rows(base: str) -> tuple[Row, ...]:
    """BERT's body, under a name."""
    layer, embeddings = f"{base}.encoder.layer.{{layer}}", f"{base}.embeddings"
    parts = ("self.query", "self.key", "self.value", "output.dense")
    return (
        Row("embedding.rows", f"{embeddings}.word_embeddings.weight", EMBEDDING),
        Row("encoder.positions.rows", f"{embeddings}.position_embeddings.weight", POSITIONS),
        Row("encoder.token_types.rows", f"{embeddings}.token_type_embeddings.weight", TOKEN_TYPES),
        *norm("encoder.embed_norm", f"{embeddings}.LayerNorm"),
        *attention(f"{OURS}.attention", *(f"{layer}.attention.{part}" for part in parts)),
        *norm(f"{OURS}.attention_norm", f"{layer}.attention.output.LayerNorm"),
        *mlp(f"{OURS}.mlp", up=f"{layer}.intermediate.dense", down=f"{layer}.output.dense"),
        *norm(f"{OURS}.mlp_norm", f"{layer}.output.LayerNorm"),
        *dense("pooler", f"{base}.pooler.dense", DENSE),
    )


def head_rows(dense_name: str, norm_name: str, unembedding: str, bias: str) -> tuple[Row, ...]:
    """A masked-word head. Its bias has a name of its own where the matrix is the embedding's."""
    return (
        *dense("transform.dense", dense_name, DENSE),
        *norm("transform.norm", norm_name),
        Row("unembedding", f"{unembedding}.weight", EMBEDDING),
        Row("unembedding_bias", bias, VOCABULARY, only=("tie_embeddings", True)),
        Row("unembedding_bias", f"{unembedding}.bias", VOCABULARY, only=("tie_embeddings", False)),
    )


_PREDICTIONS = "cls.predictions"
BERT = Family(
    "bert",
    "BertForMaskedLM",
    (
        *SIZES,
        *ENCODER,
        Same("token_types", "type_vocab_size", int, 2),
        Same("norm_epsilon", "layer_norm_eps", float, 1e-12),
        Activation("hidden_act", "gelu"),
        *NO_DECODER,
        Head(f"{_PREDICTIONS}.transform.dense.weight", "bert.pooler.dense.weight"),
        Tied(f"{_PREDICTIONS}.decoder.weight", "bert.embeddings.word_embeddings.weight", True),
    ),
    NameTable(
        rows=(
            *bert_rows("bert"),
            *head_rows(
                f"{_PREDICTIONS}.transform.dense",
                f"{_PREDICTIONS}.transform.LayerNorm",
                f"{_PREDICTIONS}.decoder",
                f"{_PREDICTIONS}.bias",
            ),
        ),
        prefix="bert.",
        renames=EARLY,
        ignorable=(*BUFFERS, r"^cls\.seq_relationship\."),
        copies={
            f"{_PREDICTIONS}.decoder.weight": "bert.embeddings.word_embeddings.weight",
            f"{_PREDICTIONS}.decoder.bias": f"{_PREDICTIONS}.bias",
        },
        stand_ins={f"{_PREDICTIONS}.bias": f"{_PREDICTIONS}.decoder.bias"},
    ),
    base_architecture="BertModel",
    harmless=frozenset(
        """directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type""".split()
    ),
)


@dataclass(frozen=True)
class AfterPadding:
    """RoBERTa's table of positions begins after the row of the padding token."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        first = theirs.take("pad_token_id", int, 1) + 1
        rows = theirs.take("max_position_embeddings", int)
        return {"first_position": first, "max_length": rows - first}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        first = config.first_position
        return {"pad_token_id": first - 1, "max_position_embeddings": config.max_length + first}


def _roberta(model_type: str, class_name: str) -> Family:
    return Family(
        model_type,
        f"{class_name}ForMaskedLM",
        (
            *SIZES,
            AfterPadding(),
            *ENCODER,
            Same("token_types", "type_vocab_size", int, 2),
            Same("norm_epsilon", "layer_norm_eps", float, 1e-12),
            Activation("hidden_act", "gelu"),
            *NO_DECODER,
            Head("lm_head.dense.weight", "roberta.pooler.dense.weight"),
            Tied("lm_head.decoder.weight", "roberta.embeddings.word_embeddings.weight", True),
        ),
        NameTable(
            rows=(
                *bert_rows("roberta"),
                *head_rows(
                    "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"
                ),
            ),
            prefix="roberta.",
            renames=EARLY,
            ignorable=BUFFERS,
            copies={
                "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
                "lm_head.decoder.bias": "lm_head.bias",
            },
            stand_ins={"lm_head.bias": "lm_head.decoder.bias"},
        ),
        base_architecture=f"{class_name}Model",
    )


ROBERTA = _roberta("roberta", "Roberta")
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRoberta")

_D = "distilbert.transformer.layer.{layer}"
DISTILBERT = Family(
    "distilbert",
    "DistilBertForMaskedLM",
    (
        Same("vocab_size", "vocab_size", int),
        Same("max_length", "max_position_embeddings", int, 512),
        Same("d_model", "dim", int),
        Same("d_ff", "hidden_dim", int, derived="mlp_width"),
        Same("num_heads", "n_heads", int),
        Same("num_encoder_layers", "n_layers", int),
        Activation("activation", "gelu"),
        ENCODER_ONLY,
        AS_IN_2018,
        fixed(norm_epsilon=1e-12),
        Head("vocab_transform.weight"),
        Tied("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight", True),
    ),
    NameTable(
        rows=(
            Row("embedding.rows", "distilbert.embeddings.word_embeddings.weight", EMBEDDING),
            Row(
                "encoder.positions.rows",
                "distilbert.embeddings.position_embeddings.weight",
                POSITIONS,
            ),
            *norm("encoder.embed_norm", "distilbert.embeddings.LayerNorm"),
            *attention(
                f"{OURS}.attention", *(f"{_D}.attention.{p}_lin" for p in ("q", "k", "v", "out"))
            ),
            *norm(f"{OURS}.attention_norm", f"{_D}.sa_layer_norm"),
            *mlp(f"{OURS}.mlp", up=f"{_D}.ffn.lin1", down=f"{_D}.ffn.lin2"),
            *norm(f"{OURS}.mlp_norm", f"{_D}.output_layer_norm"),
            *head_rows(
                "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
            ),
        ),
        prefix="distilbert.",
        ignorable=BUFFERS,
        copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ),
    base_architecture="DistilBertModel",
    # Sinusoids, where there are any, are stored as if they were learned.
    harmless=frozenset({"sinusoidal_pos_embds", "tie_weights_"}),
)


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
