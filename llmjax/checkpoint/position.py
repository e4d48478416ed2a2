"""Where a run stands."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """Where a run stands: which batch comes next, and what was counted so far."""

    step: int
    """Steps taken; also the number of the next batch."""
    seed: int
    batch_size: int
    length: int
    corpus: str
    """Fingerprint of the tokenized text: with the four above it decides every batch."""
    epoch: float = 0.0
    """Passes through the training text."""
    tokens: int = 0
    """Targets trained on."""
    skipped: int = 0
    """Updates left out because something was not finite."""
    seconds: float = 0.0
    """Time spent in training steps."""
    heldout_loss: float | None = None
    """Nats per token of held-out text, where it was measured at this very step."""
