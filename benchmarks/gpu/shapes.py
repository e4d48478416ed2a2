"""The models that are measured on a GPU, and how much of them fits into its memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

ROPE_THETA, EPSILON = 500_000.0, 1e-5

STATE_BYTES = 18
"""Of a parameter: itself, its gradient and two moments in float32, and a copy in bfloat16."""
LOGIT_BYTES = 12
"""Of a logit in PyTorch's loss: in bfloat16 and float32, and both gradients."""
USABLE = 0.85
"""Share of the free memory that may be planned."""


@dataclass(frozen=True)
class Shape:
    """A Llama, and the rows of a training step."""

    name: str
    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    length: int
    rows: int
    tied: bool
    """Whether the embedding is the LM head."""
    remat: str
    """Of a layer, the backward pass recomputes all but attention (full), or all but projections
    (dots; PyTorch: what its compiler decides)."""

    @property
    def head_width(self) -> int:
        """Of a head."""
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.rows * self.length

    @property
    def parameters(self) -> int:
        """In matrices."""
        kv = self.kv_heads * self.head_width
        layer = self.width * (2 * self.width + 2 * kv + 3 * self.mlp)
        return self.layers * layer + self.vocab * self.width * (1 if self.tied else 2)

    @property
    def training_bytes(self) -> float:
        """Memory of a training step, roughly, in the framework that needs more: PyTorch, which
        computes all logits at once."""
        kv = self.kv_heads * self.head_width
        whole = 2 * (7 * self.width + 4 * kv + 3 * self.mlp)  # bytes of a token in a layer
        kept = 2 * 2 * self.width if self.remat == "full" else whole
        activations = self.tokens * (self.layers * kept + 2 * whole)
        return STATE_BYTES * self.parameters + activations + LOGIT_BYTES * self.tokens * self.vocab

    @property
    def decoding_bytes(self) -> float:
        """Memory of decoding, roughly: weights in float32 at first, in bfloat16, and a cache."""
        return 8.0 * self.parameters + 8 * 2**30


LLAMA_1B = Shape("Llama 1B", 128_256, 2048, 16, 32, 8, 8192, 2048, 8, True, "dots")
LLAMA_8B = Shape("Llama 8B", 128_256, 4096, 32, 32, 8, 14_336, 8192, 1, False, "full")
FULL = {"1b": LLAMA_1B, "8b": LLAMA_8B}
TOY = {
    name: replace(shape, vocab=512, width=64, layers=2, heads=4, kv_heads=2, mlp=128, length=64)
    for name, shape in FULL.items()
}


def smaller(shape: Shape) -> Iterator[Shape]:
    """The shape, then ever smaller ones: with fewer rows, then with fewer layers of one row."""
    rows = shape.rows
    while rows > 1:
        yield replace(shape, rows=rows)
        rows //= 2
    for layers in range(shape.layers, 1, -1):
        yield replace(shape, rows=1, layers=layers)


def fitted(shape: Shape, memory: float) -> Shape | None:
    """The largest of `smaller(shape)` whose training fits into so many free bytes; None: none."""
    fits = (each for each in smaller(shape) if each.training_bytes <= USABLE * memory)
    return next(fits, None)
