"""A small config with everything that a config may hold."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import (
    AnyTokenizerConfig,
    BytesConfig,
    SentencePieceConfig,
)
from llmjax.registry import Registry


@dataclass(frozen=True)
class Optimizer:
    """What all have."""

    learning_rate: float = 1e-3
    """Peak
    learning rate."""


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam."""

    clip: float | None = 1.0
    """Longest gradient."""
    kind: Literal["adam"] = "adam"


@dataclass(frozen=True)
class Muon(Optimizer):
    """Muon."""

    learning_rate: float = 2e-2
    """Peak learning rate."""
    momentum: float = 0.95
    """Of matrices."""
    kind: Literal["muon"] = "muon"


OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer", {"adam": "toy_config:Adam", "muon": "toy_config:Muon"}
)


@dataclass(frozen=True)
class Toy:
    """A toy."""

    name: str = "toy"
    """What it is called."""
    steps: int = 10
    """How many."""
    gated: bool = False
    """Whether it is."""
    window: int | None = None
    """How wide."""
    prompts: tuple[str, ...] = ()
    """What to say."""
    norm: Literal["layer", "rms"] = "rms"
    """Which."""
    optimizer: Annotated[Optimizer, OPTIMIZERS] = field(default_factory=Adam)
    """How to go."""
    tokenizer: AnyTokenizerConfig = field(default_factory=SentencePieceConfig)
    """How to spell."""
    data: DataConfig = field(default_factory=DataConfig)
    """What to read."""


BYTES = BytesConfig()
