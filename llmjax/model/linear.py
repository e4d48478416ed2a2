"""Linear attention by the gated delta rule (arXiv:2412.06464): its config."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LinearConfig:
    """Linear attention in place of softmax attention (Gated DeltaNet, arXiv:2412.06464): each value
    head keeps a matrix from keys to values, which every token decays and corrects, so a decoder's
    memory does not grow with the text. Queries, keys and values pass a causal convolution; a norm
    and a gate follow the result."""

    key_heads: int = 16
    """Heads of queries and keys."""
    value_heads: int = 32
    """Heads of values, a multiple: as many in a row share the queries and keys of one head."""
    key_head_dim: int = 128
    """Width of a head's queries and keys."""
    value_head_dim: int = 128
    """Width of a head's values."""
    conv_width: int = 4
    """Tokens that the convolution of each channel reads, including its own."""
    attention_layers: tuple[int, ...] = ()
    """Layers with softmax attention instead, counted from 0; at least one."""
    kind: Literal["linear"] = "linear"

    @property
    def values_per_key(self) -> int:
        """Value heads of each key head."""
        return self.value_heads // self.key_heads

    @property
    def group_width(self) -> int:
        """Width of the values of one key head."""
        return self.values_per_key * self.value_head_dim

    @property
    def conv_channels(self) -> int:
        """Channels of one key head that are convolved: of its query, its key and its values."""
        return 2 * self.key_head_dim + self.group_width

    @property
    def state_size(self) -> int:
        """Numbers that a decoder keeps of a row in each layer, however long the text."""
        matrices = self.value_heads * self.key_head_dim * self.value_head_dim
        return matrices + (self.conv_width - 1) * self.key_heads * self.conv_channels


def linear_problems(linear: LinearConfig, layers: int) -> Iterator[str]:
    """Yields what is wrong with the values, in a decoder of so many layers, a line each."""
    for name in ("key_heads", "value_heads", "key_head_dim", "value_head_dim", "conv_width"):
        if (size := getattr(linear, name)) < 1:
            yield f"linear.{name} must be positive, not {size}"
    if linear.key_heads > 0 and linear.value_heads % linear.key_heads:
        yield (
            f"linear.value_heads {linear.value_heads} is no multiple of linear.key_heads "
            f"{linear.key_heads}"
        )
    listed = linear.attention_layers
    if any(not 0 <= layer < layers for layer in listed):
        yield f"linear.attention_layers {list(listed)} are not all among the {layers} layers"
    if not listed:
        yield "linear.attention_layers is empty: give at least one layer with attention"
