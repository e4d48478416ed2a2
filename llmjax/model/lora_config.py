"""Low-rank adapters as data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Target = Literal["query", "key", "value", "out", "gate", "up", "down"]


@dataclass(frozen=True)
class LoraConfig:
    """Adapters beside the model's projections (LoRA, arXiv:2106.09685): W + alpha / rank A B. They
    and the tasks' heads learn; everything else stays, and has no optimizer state."""

    rank: int = 8
    """Columns of A and rows of B."""
    alpha: float = 16.0
    """Over the rank, this is the adapter's weight."""
    targets: tuple[Target, ...] = ("query", "value")
    """Which projections of every layer: query, key, value and out of attention, gate, up and down
    of the MLP."""
    kind: Literal["lora"] = "lora"

    @property
    def scale(self) -> float:
        """What the adapter's product is multiplied with."""
        return self.alpha / self.rank


def lora_problems(lora: LoraConfig, gated: bool) -> Iterator[str]:
    """Everything wrong with the values, for a model whose MLP is gated or not."""
    if lora.rank < 1:
        yield f"lora.rank {lora.rank} is not positive"
    if not 0 < lora.alpha < 1e6:
        yield f"lora.alpha {lora.alpha} is not a positive number"
    if not lora.targets:
        yield "lora.targets is empty"
    if "gate" in lora.targets and not gated:
        yield "lora.targets has gate, but the model's MLP has none"
