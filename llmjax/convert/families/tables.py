"""What tables of names are made of: layouts that many families share, and rows in pairs."""

from llmjax.convert.hf.fields import Same
from llmjax.convert.hf.names import Layout, Part, Row

EMBEDDING = Layout("v d -> v d")
VOCABULARY = Layout("v -> v")
POSITIONS = Layout("p d -> p d")
TOKEN_TYPES = Layout("t d -> t d")
BUCKETS = Layout("b h -> b h")
VECTOR = Layout("d -> d")
SQUARE = Layout("e d -> d e")

# A matrix is stored [outputs, inputs]; its bias has the outputs' axes.
QUERY = Layout("(h k) d -> d h k"), Layout("(h k) -> h k")
KEY_VALUE = Layout("(n k) d -> d n k"), Layout("(n k) -> n k")
OUT = Layout("d (h k) -> h k d"), VECTOR
UP = Layout("f d -> d f"), Layout("f -> f")
DOWN = Layout("d f -> f d"), VECTOR
DENSE = Layout("d e -> e d"), VECTOR

ATTENTION = {"query": QUERY, "key": KEY_VALUE, "value": KEY_VALUE, "out": OUT}
MLP = {"gate": UP, "up": UP, "down": DOWN}


def dense(leaf: str, name: str, layouts: tuple[Layout, Layout]) -> tuple[Row, Row]:
    """A projection: its matrix and its bias."""
    kernel, bias = layouts
    return Row(f"{leaf}.kernel", f"{name}.weight", kernel), Row(
        f"{leaf}.bias", f"{name}.bias", bias
    )


def norm(leaf: str, name: str, missing_in: tuple[int, ...] = ()) -> tuple[Row, Row]:
    """A norm over the model's width: scale and bias."""
    return (
        Row(f"{leaf}.scale", f"{name}.weight", VECTOR, missing_in),
        Row(f"{leaf}.bias", f"{name}.bias", VECTOR, missing_in),
    )


def attention(leaf: str, *names: str) -> tuple[Row, ...]:
    """Projections to queries, keys and values, and back: each a tensor of its own."""
    return tuple(
        row
        for part, name in zip(ATTENTION, names, strict=True)
        for row in dense(f"{leaf}.{part}", name, ATTENTION[part])
    )


def mlp(leaf: str, **names: str) -> tuple[Row, ...]:
    """An MLP's projections: up and down, and gate where it has one."""
    return tuple(
        row for part, name in names.items() for row in dense(f"{leaf}.{part}", name, MLP[part])
    )


def fused(leaf: str, parts: dict[str, Layout], name: str) -> tuple[Row, ...]:
    """Several parameters in one tensor: what each is called, and where it lies."""
    return tuple(Row(f"{leaf}.{part}", name, layout) for part, layout in parts.items())


def thirds(kernel: str, bias: str, axis: str = "j") -> tuple[dict[str, Layout], dict[str, Layout]]:
    """Query, key and value of one size in one tensor: layouts of the matrices, of the biases."""
    segments = ("1", "1", "1")
    names = ("query", "key", "value")
    return (
        {f"{n}.kernel": Layout(kernel, Part(axis, segments, i)) for i, n in enumerate(names)},
        {f"{n}.bias": Layout(bias, Part(axis, segments, i)) for i, n in enumerate(names)},
    )


def halves(kernel: str, bias: str) -> tuple[dict[str, Layout], dict[str, Layout]]:
    """Gate and up in one tensor, the gate first."""
    return (
        {
            f"{n}.kernel": Layout(kernel, Part("j", ("1", "1"), i))
            for i, n in enumerate(("gate", "up"))
        },
        {f"{n}.bias": Layout(bias, Part("j", ("1", "1"), i)) for i, n in enumerate(("gate", "up"))},
    )


SIZES = (
    Same("vocab_size", "vocab_size", int),
    Same("max_length", "max_position_embeddings", int),
    Same("d_model", "hidden_size", int),
    Same("d_ff", "intermediate_size", int, derived="mlp_width"),
    Same("num_heads", "num_attention_heads", int),
)
"""What most families call their sizes."""
DECODER = (Same("num_decoder_layers", "num_hidden_layers", int),)
ENCODER = (Same("num_encoder_layers", "num_hidden_layers", int),)
GROUPED = Same("num_kv_heads", "num_key_value_heads", int, None, derived="kv_heads")
"""Heads of keys and values; as many as queries where the file does not say."""
HEAD_DIM = Same("head_dim", "head_dim", int, None, derived="head_width")
