"""Fields that say in which layers there is what: windows, rotary positions."""

from dataclasses import dataclass
from typing import Any

from llmjax.convert.hf.fields import Theirs
from llmjax.convert.hf.rotary_fields import FULL, SLIDING
from llmjax.model.config import ModelConfig


@dataclass(frozen=True)
class Windows:
    """Which layers see how far: layer_types, or a pattern."""

    name: str = "sliding_window"
    default: int | None = None
    every: int | None = None
    """Where no layer_types are given, one layer in so many is without a window."""
    first: bool = False
    """Whether that is the first of them, not the last."""
    every_name: str | None = None
    """A field that says how many."""
    switch: str | None = None
    """A field that must be true for there to be windows at all."""
    from_layer: str | None = None
    """A field that says from which layer on there are windows, where nothing else does."""
    halved: bool = False
    """Theirs is the width on both sides together, without the token itself."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        width = theirs.take(self.name, int, None if self.name in theirs.values else self.default)
        on = self.switch is None or theirs.take(self.switch, bool, False)
        layers = layers_of(theirs)
        pattern = self._pattern(theirs, layers)
        types = theirs.take("layer_types", list, pattern)
        if len(types) != layers or any(kind not in (FULL, SLIDING) for kind in types):
            raise theirs.refusal("layer_types", types, f"one of {FULL}, {SLIDING} for each layer")
        if not on or width is None or SLIDING not in types:
            return {"window": None, "global_layers": ()}
        window = width // 2 + 1 if self.halved else width
        full = tuple(i for i, kind in enumerate(types) if kind == FULL)
        return {"window": window, "global_layers": full}

    def _pattern(self, theirs: Theirs, layers: int) -> list[str]:
        every, begin = self.every, 0
        if self.every_name is not None:
            every = theirs.take(self.every_name, int, every)
        if self.from_layer is not None:
            begin = theirs.take(self.from_layer, int, layers)
        at = 0 if self.first or not every else every - 1
        return [
            FULL if i < begin or (every and i % every == at) else SLIDING for i in range(layers)
        ]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        layers = max(config.num_encoder_layers, config.num_decoder_layers)
        window, full = config.window, set(config.global_layers)
        full = set(range(layers)) if window is None else full
        width = self.default if window is None else 2 * (window - 1) if self.halved else window
        found: dict[str, Any] = {
            self.name: width,
            "layer_types": [FULL if i in full else SLIDING for i in range(layers)],
        }
        if self.switch is not None:
            found[self.switch] = window is not None
        if self.from_layer is not None and window is not None:
            found[self.from_layer] = next((i for i in range(layers) if i not in full), layers)
        if self.every_name is not None:
            for n in range(1, layers + 1):
                if full == set(range(0 if self.first else n - 1, layers, n)):
                    found[self.every_name] = n
        return found


@dataclass(frozen=True)
class Window:
    """The same window in every layer."""

    default: int | None
    """Where the file does not say; where it says null there is none."""
    name: str = "sliding_window"

    def read(self, theirs: Theirs) -> dict[str, Any]:
        default = None if self.name in theirs.values else self.default
        return {"window": theirs.take(self.name, int, default)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.name: config.window}


def layers_of(theirs: Theirs) -> int:
    """How many layers there are."""
    return int(theirs.take("num_hidden_layers", int))


@dataclass(frozen=True)
class Unrotated:
    """Layers without rotary positions (SmolLM3): a list with 0 for each, or one in so many."""

    every: int = 4

    def read(self, theirs: Theirs) -> dict[str, Any]:
        every = theirs.take("no_rope_layer_interval", int, self.every)
        layers = layers_of(theirs)
        plain = [int((i + 1) % every != 0) for i in range(layers)]
        rotated = theirs.take("no_rope_layers", list, plain)
        if len(rotated) != layers or any(one not in (0, 1) for one in rotated):
            raise theirs.refusal("no_rope_layers", rotated, "it must have 0 or 1 for each layer")
        return {"unrotated_layers": tuple(i for i, on in enumerate(rotated) if not on)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        layers = range(config.num_decoder_layers)
        return {"no_rope_layers": [int(i not in config.unrotated_layers) for i in layers]}
