"""Encoders, with or without a head: BERT, RoBERTa, XLM-RoBERTa, DistilBERT and ModernBERT."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmjax.convert.families.family import Family, TaskClass
from llmjax.convert.families.tables import (
    BIASES_AND_LAYERNORM,
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
    encoder_classes,
    fused,
    halves,
    mlp,
    norm,
    thirds,
)
from llmjax.convert.hf.attention_fields import TwoRotary, Windows
from llmjax.convert.hf.config import HFConfig
from llmjax.convert.hf.fields import (
    Activation,
    EncoderHead,
    Equal,
    Field,
    Renamed,
    Required,
    Tied,
    constant,
)
from llmjax.convert.hf.names import NameRow, NameTable
from llmjax.model.config import ModelConfig

LAYERS = "encoder.layers"
EARLY = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
"""Names of a norm's scale and bias in the first checkpoints."""
BUFFERS = (r"embeddings\.(position_ids|token_type_ids)$",)
ENCODER_ONLY = constant(num_decoder_layers=0)
POST_NORM = constant(**BIASES_AND_LAYERNORM, norm_placement="post", embed_norm=True)


def bert_rows(base: str) -> tuple[NameRow, ...]:
    """Name rows of BERT's body; `base` is the prefix."""
    layer, embeddings = f"{base}.encoder.layer.{{layer}}", f"{base}.embeddings"
    parts = ("self.query", "self.key", "self.value", "output.dense")
    return (
        NameRow("embedding.rows", f"{embeddings}.word_embeddings.weight", EMBEDDING),
        NameRow("encoder.positions.rows", f"{embeddings}.position_embeddings.weight", POSITIONS),
        NameRow(
            "encoder.token_types.rows", f"{embeddings}.token_type_embeddings.weight", TOKEN_TYPES
        ),
        *norm("encoder.embed_norm", f"{embeddings}.LayerNorm"),
        *attention(f"{LAYERS}.attention", *(f"{layer}.attention.{part}" for part in parts)),
        *norm(f"{LAYERS}.attention_norm", f"{layer}.attention.output.LayerNorm"),
        *mlp(f"{LAYERS}.mlp", up=f"{layer}.intermediate.dense", down=f"{layer}.output.dense"),
        *norm(f"{LAYERS}.mlp_norm", f"{layer}.output.LayerNorm"),
        *dense("pooler", f"{base}.pooler.dense", DENSE),
    )


def head_rows(dense_name: str, norm_name: str, lm_head: str, bias: str) -> tuple[NameRow, ...]:
    """Name rows of a masked-language-model head; `bias` is that of a head tied to the embedding."""
    return (
        *dense("transform.dense", dense_name, DENSE),
        *norm("transform.norm", norm_name),
        NameRow("unembedding", f"{lm_head}.weight", EMBEDDING),
        NameRow("unembedding_bias", bias, VOCABULARY, only=("tie_embeddings", True)),
        NameRow("unembedding_bias", f"{lm_head}.bias", VOCABULARY, only=("tie_embeddings", False)),
    )


@dataclass(frozen=True)
class AfterPadding:
    """RoBERTa's positions start after the row of the padding token."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        first = hf.get("pad_token_id", int, 1) + 1
        rows = hf.get("max_position_embeddings", int)
        return {"first_position": first, "max_length": rows - first}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        first = config.first_position
        return {"pad_token_id": first - 1, "max_position_embeddings": config.max_length + first}


def _bert_like(
    model_type: str,
    class_name: str,
    base: str,
    head: tuple[str, str, str, str],
    text: TaskClass,
    *,
    fields: tuple[Field, ...] = (),
    ignorable: tuple[str, ...] = (),
    ignored: frozenset[str] = frozenset(),
    examples: Mapping[str, str],
) -> Family:
    """A family with BERT's architecture.

    Args:
      model_type: of the family.
      class_name: prefix of its classes.
      base: prefix of its tensors.
      head: names in the masked-language-model head: dense, norm, decoder and bias.
      text: the class for sequence classification.
      fields: further config fields.
      ignorable, ignored, examples: as in NameTable and Family.
    """
    embedding = f"{base}.embeddings.word_embeddings.weight"
    dense_name, _, decoder, bias = head
    return Family(
        model_type,
        f"{class_name}ForMaskedLM",
        (
            *SIZES,
            *fields,
            *ENCODER,
            Renamed("token_types", "type_vocab_size", int, 2),
            Renamed("norm_epsilon", "layer_norm_eps", float, 1e-12),
            Activation("hidden_act", "gelu"),
            ENCODER_ONLY,
            POST_NORM,
            Required("is_decoder", (False,)),
            Required("add_cross_attention", (False,)),
            Required("position_embedding_type", ("absolute",)),
            EncoderHead(f"{dense_name}.weight", f"{base}.pooler.dense.weight"),
            Tied(f"{decoder}.weight", embedding, True),
        ),
        NameTable(
            rows=(*bert_rows(base), *head_rows(*head)),
            prefix=f"{base}.",
            renames=EARLY,
            ignorable=(*BUFFERS, *ignorable),
            copies={f"{decoder}.weight": embedding, f"{decoder}.bias": bias},
            fallbacks={bias: f"{decoder}.bias"},
        ),
        base_architecture=f"{class_name}Model",
        ignored=ignored,
        task_classes=encoder_classes(class_name, text),
        examples=examples,
    )


_PREDICTIONS = "cls.predictions"
BERT = _bert_like(
    "bert",
    "Bert",
    "bert",
    (
        f"{_PREDICTIONS}.transform.dense",
        f"{_PREDICTIONS}.transform.LayerNorm",
        f"{_PREDICTIONS}.decoder",
        f"{_PREDICTIONS}.bias",
    ),
    TaskClass(
        "BertForSequenceClassification",
        "classifier",
        ("pooler", "tanh"),
        dense="bert.pooler.dense",
    ),
    ignorable=(r"^cls\.seq_relationship\.",),
    ignored=frozenset(
        """directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type""".split()
    ),
    examples={
        "google-bert/bert-base-uncased": "110M",
        "sentence-transformers/all-MiniLM-L6-v2": "22.7M",
    },
)


def _roberta(model_type: str, class_name: str, examples: Mapping[str, str]) -> Family:
    text = TaskClass(
        f"{class_name}ForSequenceClassification",
        "classifier.out_proj",
        ("tanh", "pooler"),
        dense="classifier.dense",
    )
    head = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")
    return _bert_like(
        model_type, class_name, "roberta", head, text, fields=(AfterPadding(),), examples=examples
    )


ROBERTA = _roberta("roberta", "Roberta", {"FacebookAI/roberta-base": "125M"})
XLM_ROBERTA = _roberta("xlm-roberta", "XLMRoberta", {"FacebookAI/xlm-roberta-base": "278M"})

_D = "distilbert.transformer.layer.{layer}"
DISTILBERT = Family(
    "distilbert",
    "DistilBertForMaskedLM",
    (
        Renamed("vocab_size", "vocab_size", int),
        Renamed("max_length", "max_position_embeddings", int, 512),
        Renamed("d_model", "dim", int),
        Renamed("d_ff", "hidden_dim", int, written_as="mlp_width"),
        Renamed("num_heads", "n_heads", int),
        Renamed("num_encoder_layers", "n_layers", int),
        Activation("activation", "gelu"),
        ENCODER_ONLY,
        POST_NORM,
        constant(norm_epsilon=1e-12),
        EncoderHead("vocab_transform.weight"),
        Tied("vocab_projector.weight", "distilbert.embeddings.word_embeddings.weight", True),
    ),
    NameTable(
        rows=(
            NameRow("embedding.rows", "distilbert.embeddings.word_embeddings.weight", EMBEDDING),
            NameRow(
                "encoder.positions.rows",
                "distilbert.embeddings.position_embeddings.weight",
                POSITIONS,
            ),
            *norm("encoder.embed_norm", "distilbert.embeddings.LayerNorm"),
            *attention(
                f"{LAYERS}.attention", *(f"{_D}.attention.{p}_lin" for p in ("q", "k", "v", "out"))
            ),
            *norm(f"{LAYERS}.attention_norm", f"{_D}.sa_layer_norm"),
            *mlp(f"{LAYERS}.mlp", up=f"{_D}.ffn.lin1", down=f"{_D}.ffn.lin2"),
            *norm(f"{LAYERS}.mlp_norm", f"{_D}.output_layer_norm"),
            *head_rows(
                "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias"
            ),
        ),
        prefix="distilbert.",
        ignorable=BUFFERS,
        copies={"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"},
    ),
    base_architecture="DistilBertModel",
    # Sinusoidal positions are stored like learned ones.
    ignored=frozenset({"sinusoidal_pos_embds", "tie_weights_"}),
    task_classes=encoder_classes(
        "DistilBert",
        TaskClass(
            "DistilBertForSequenceClassification",
            "classifier",
            ("relu",),
            dense="pre_classifier",
        ),
    ),
    examples={"distilbert/distilbert-base-uncased": "67M"},
)


_M = "model.layers.{layer}"
_KERNELS, _BIASES = thirds("(j h k) d -> d h k", "(j h k) -> h k")
_GATE_UP, _GATE_UP_BIASES = halves("(j f) d -> d f", "(j f) -> f")
_GELU = Activation("hidden_activation", "gelu")
_MLP_BIAS = Renamed("mlp_bias", "mlp_bias", bool, False)
MODERNBERT = Family(
    "modernbert",
    "ModernBertForMaskedLM",
    (
        *SIZES,
        *ENCODER,
        Renamed("norm_epsilon", "norm_eps", float, 1e-5),
        Renamed("norm_bias", "norm_bias", bool, False),
        _GELU,
        Equal("classifier_activation", _GELU),
        Renamed("qkv_bias attention_out_bias", "attention_bias", bool, False),
        _MLP_BIAS,
        Equal("classifier_bias", _MLP_BIAS),
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
        constant(norm="layernorm", first_norm=False, embed_norm=True),
        EncoderHead("head.dense.weight", bias_field="decoder_bias"),
        Tied("decoder.weight", "model.embeddings.tok_embeddings.weight", True),
    ),
    NameTable(
        rows=(
            NameRow("embedding.rows", "model.embeddings.tok_embeddings.weight", EMBEDDING),
            *norm("encoder.embed_norm", "model.embeddings.norm"),
            *fused(f"{LAYERS}.attention", _KERNELS, f"{_M}.attn.Wqkv.weight"),
            *fused(f"{LAYERS}.attention", _BIASES, f"{_M}.attn.Wqkv.bias"),
            *dense(f"{LAYERS}.attention.out", f"{_M}.attn.Wo", OUT),
            *norm(f"{LAYERS}.attention_norm", f"{_M}.attn_norm", missing_in=(0,)),
            *fused(f"{LAYERS}.mlp", _GATE_UP, f"{_M}.mlp.Wi.weight"),
            *fused(f"{LAYERS}.mlp", _GATE_UP_BIASES, f"{_M}.mlp.Wi.bias"),
            *mlp(f"{LAYERS}.mlp", down=f"{_M}.mlp.Wo"),
            *norm(f"{LAYERS}.mlp_norm", f"{_M}.mlp_norm"),
            *norm("encoder.norm", "model.final_norm"),
            *head_rows("head.dense", "head.norm", "decoder", "decoder.bias"),
        ),
        prefix="model.",
        copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
    ),
    base_architecture="ModernBertModel",
    ignored=frozenset(
        """position_embedding_type layer_norm_eps deterministic_flash_attn reference_compile
        repad_logits_with_grad sparse_prediction sparse_pred_ignore_index""".split()
    ),
    task_classes=encoder_classes(
        "ModernBert",
        TaskClass("ModernBertForSequenceClassification", "classifier", ("transform",)),
        answers="classifier",
    ),
    examples={"answerdotai/ModernBERT-base": "149M"},
)
