"""A small config with everything that a config may hold."""

from dataclasses import dataclass, field
from typing import Literal

from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import (
    BytesConfig,
    SentencePieceConfig,
    TokenizerConfig,
)


@dataclass(frozen=True)
class Adam:
    """Adam."""

    learning_rate: float = 1e-3
    """Peak
    learning rate."""
    clip: float | None = 1.0
    """Longest gradient."""
    kind: Literal["adam"] = "adam"


@dataclass(frozen=True)
class Muon:
    """Muon."""

    learning_rate: float = 2e-2
    """Peak learning rate."""
    momentum: float = 0.95
    """Of matrices."""
    kind: Literal["muon"] = "muon"


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
    optimizer: Adam | Muon = field(default_factory=Adam)
    """How to go."""
    tokenizer: TokenizerConfig = field(default_factory=SentencePieceConfig)
    """How to spell."""
    data: DataConfig = field(default_factory=DataConfig)
    """What to read."""


BYTES = BytesConfig()
