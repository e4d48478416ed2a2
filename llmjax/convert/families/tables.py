"""Layouts, name rows and config fields shared by several families."""

from llmjax.convert.families.family import HeadKind, TaskClass
from llmjax.convert.hf.fields import Renamed
from llmjax.convert.hf.names import Layout, NameRow, Segment
from llmjax.tasks.heads import Neck

EMBEDDING = Layout("v d -> v d")
VOCABULARY = Layout("v -> v")
POSITIONS = Layout("p d -> p d")
TOKEN_TYPES = Layout("t d -> t d")
BUCKETS = Layout("b h -> b h")
VECTOR = Layout("d -> d")

# (kernel, bias). Matrices are stored [outputs, inputs].
QUERY = Layout("(h k) d -> d h k"), Layout("(h k) -> h k")
KEY_VALUE = Layout("(n k) d -> d n k"), Layout("(n k) -> n k")
OUT = Layout("d (h k) -> h k d"), VECTOR
UP = Layout("f d -> d f"), Layout("f -> f")
DOWN = Layout("d f -> f d"), VECTOR
DENSE = Layout("d e -> e d"), VECTOR

ATTENTION = {"query": QUERY, "key": KEY_VALUE, "value": KEY_VALUE, "out": OUT}
MLP = {"gate": UP, "up": UP, "down": DOWN}

SIZES = (
    Renamed("vocab_size", "vocab_size", int),
    Renamed("max_length", "max_position_embeddings", int),
    Renamed("d_model", "hidden_size", int),
    Renamed("d_ff", "intermediate_size", int, written_as="mlp_width"),
    Renamed("num_heads", "num_attention_heads", int),
)
"""Sizes under the names of most families."""
DECODER = (Renamed("num_decoder_layers", "num_hidden_layers", int),)
ENCODER = (Renamed("num_encoder_layers", "num_hidden_layers", int),)
GROUPED = Renamed("num_kv_heads", "num_key_value_heads", int, None, written_as="kv_heads")
"""Key/value heads; absent means as many as query heads."""
HEAD_DIM = Renamed("head_dim", "head_dim", int, None, written_as="head_width")

BIASES_AND_LAYERNORM = {
    "gated": False,
    "norm": "layernorm",
    "norm_bias": True,
    "positions": "learned",
    "qkv_bias": True,
    "attention_out_bias": True,
    "mlp_bias": True,
}
"""Common to GPT-2 and BERT, and not stated in config.json."""


def dense(param: str, name: str, layouts: tuple[Layout, Layout]) -> tuple[NameRow, NameRow]:
    """Name rows of a projection: kernel and bias."""
    kernel, bias = layouts
    return (
        NameRow(f"{param}.kernel", f"{name}.weight", kernel),
        NameRow(f"{param}.bias", f"{name}.bias", bias),
    )


def norm(param: str, name: str, missing_in: tuple[int, ...] = ()) -> tuple[NameRow, NameRow]:
    """Name rows of a norm over d_model: scale and bias."""
    return (
        NameRow(f"{param}.scale", f"{name}.weight", VECTOR, missing_in),
        NameRow(f"{param}.bias", f"{name}.bias", VECTOR, missing_in),
    )


def attention(param: str, *names: str) -> tuple[NameRow, ...]:
    """Name rows of separate query, key, value and output projections."""
    return tuple(
        row
        for part, name in zip(ATTENTION, names, strict=True)
        for row in dense(f"{param}.{part}", name, ATTENTION[part])
    )


def mlp(param: str, **names: str) -> tuple[NameRow, ...]:
    """Name rows of an MLP's projections: up, down and optionally gate."""
    return tuple(
        row for part, name in names.items() for row in dense(f"{param}.{part}", name, MLP[part])
    )


def fused(param: str, parts: dict[str, Layout], name: str) -> tuple[NameRow, ...]:
    """Name rows of several parameters fused in one tensor; `parts`: parameter -> layout."""
    return tuple(NameRow(f"{param}.{part}", name, layout) for part, layout in parts.items())


def thirds(kernel: str, bias: str) -> tuple[dict[str, Layout], dict[str, Layout]]:
    """Layouts of query, key and value of equal size, fused along axis j: kernels and biases."""
    return _segments(("query", "key", "value"), kernel, bias)


def halves(kernel: str, bias: str) -> tuple[dict[str, Layout], dict[str, Layout]]:
    """Layouts of gate and up, fused along axis j: kernels and biases."""
    return _segments(("gate", "up"), kernel, bias)


def _segments(
    names: tuple[str, ...], kernel: str, bias: str
) -> tuple[dict[str, Layout], dict[str, Layout]]:
    lengths = ("1",) * len(names)
    segments = {name: Segment("j", lengths, i) for i, name in enumerate(names)}
    return (
        {f"{name}.kernel": Layout(kernel, segment) for name, segment in segments.items()},
        {f"{name}.bias": Layout(bias, segment) for name, segment in segments.items()},
    )


def encoder_classes(
    name: str, text: TaskClass, *, answers: str = "qa_outputs"
) -> dict[HeadKind, TaskClass]:
    """An encoder's task classes; all but `text` have only a projection as their head.

    Args:
      name: prefix of the classes' names.
      text: the class for sequence classification.
      answers: name of the projection in the class for question answering.
    """
    necks: tuple[Neck, ...] = ("transform",) if "transform" in text.necks else ("none",)
    return {
        "SequenceClassification": text,
        "TokenClassification": TaskClass(f"{name}ForTokenClassification", "classifier", necks),
        "QuestionAnswering": TaskClass(f"{name}ForQuestionAnswering", answers, necks),
    }


def decoder_classes(
    name: str, tokens: str = "score", answers: str | None = "transformer."
) -> dict[HeadKind, TaskClass]:
    """A decoder's task classes, which have no neck.

    Args:
      name: prefix of the classes' names.
      tokens: name of the projection in the class for token classification; "" if there is none.
      answers: prefix of the body in the class for question answering, "" for the family's; None if
        there is no such class.
    """
    text = TaskClass(f"{name}ForSequenceClassification", "score", bias=False)
    classes: dict[HeadKind, TaskClass] = {"SequenceClassification": text}
    if tokens:
        classes["TokenClassification"] = TaskClass(f"{name}ForTokenClassification", tokens)
    if answers is not None:
        classes["QuestionAnswering"] = TaskClass(
            f"{name}ForQuestionAnswering", "qa_outputs", body=answers or None
        )
    return classes
