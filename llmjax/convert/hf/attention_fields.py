"""Fields of a config.json about attention: rotary positions in the spellings of all the years, and
which layers have a window or no positions.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmjax.convert.hf.fields import Theirs, as_float
from llmjax.model.config import ModelConfig
from llmjax.model.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    Unscaled,
    YarnScaling,
)

FULL, SLIDING = "full_attention", "sliding_attention"
"""Kinds of layer: those that see all, and those with a window."""


@dataclass(frozen=True)
class Rotary:
    """Base, scaling and share of rotary positions, in both spellings.

    Older files have rope_theta and rope_scaling; those of Transformers 5 have all of it in
    rope_parameters. The older one is written: every version and engine reads it.
    """

    theta: float = 10000.0
    """Where the file does not say."""
    fraction: float | None = 1.0
    """The same for the share that is rotated; None where the family rotates all."""
    theta_name: str = "rope_theta"
    fraction_name: str = "partial_rotary_factor"
    renamed: tuple[tuple[str, str], ...] = (("su", "longrope"),)
    """Kinds of scaling that have had other names."""

    def read(self, theirs: Theirs) -> dict[str, Any]:
        theta = theirs.take(self.theta_name, float, None)
        share = theirs.take(self.fraction_name, float, None) if self.fraction is not None else None
        scaling = theirs.take("rope_scaling", dict, None)
        new = theirs.take("rope_parameters", dict, {})
        values = Theirs(scaling or new, where=f"{theirs.where}: rope_scaling")
        newer = Theirs(new, where=f"{theirs.where}: rope_parameters")
        theta = newer.take("rope_theta", float, self.theta) if theta is None else theta
        theta = values.take("rope_theta", float, theta)
        found: dict[str, Any] = {"rope_theta": float(theta)}
        if self.fraction is not None:
            name = "partial_rotary_factor"
            share = newer.take(name, float, self.fraction) if share is None else share
            share = values.take(name, float, share)
            found["rotary_fraction"] = float(share)
        found["rope_scaling"] = read_scaling(values, theirs, dict(self.renamed))
        return found

    def write(self, config: ModelConfig) -> dict[str, Any]:
        found = {self.theta_name: config.rope_theta, **write_scaling(config.rope_scaling)}
        if self.fraction is not None:
            found[self.fraction_name] = config.rotary_fraction
        return found


def read_scaling(values: Theirs, theirs: Theirs, renamed: Mapping[str, str]) -> RopeScaling:
    """The scaling that a dictionary of theirs stands for.

    Raises:
      UserError: a kind or a field of it is not known.
    """
    kind = values.take("rope_type", str, None) or values.take("type", str, "default")
    values.taken.add("type")
    kind = renamed.get(kind, kind)
    longest = theirs.values.get("max_position_embeddings")
    outside = theirs.take("original_max_position_embeddings", int, None)

    def original() -> int:
        inside = values.take("original_max_position_embeddings", int, None)
        found = outside or inside or longest or 0
        if found < 2:
            raise values.refusal("original_max_position_embeddings", found, "it is too short")
        return int(found)

    scaling: RopeScaling
    match kind:
        case "default":
            scaling = Unscaled()
            values.taken.update(("factor", "original_max_position_embeddings"))
        case "linear":
            scaling = LinearScaling(values.take("factor", float))
        case "llama3":
            low, high = (
                values.take(f"{part}_freq_factor", float, default)
                for part, default in (("low", 1.0), ("high", 4.0))
            )
            if low >= high:
                raise values.refusal("low_freq_factor", low, "it must be below high_freq_factor")
            scaling = Llama3Scaling(values.take("factor", float), original(), low, high)
        case "yarn":
            scaling = _read_yarn(values, original(), longest)
        case "longrope":
            scaling = _read_longrope(values, original())
        case _:
            known = "default, linear, llama3, yarn, longrope"
            raise values.refusal("rope_type", kind, f"known are {known}")
    values.check_all_taken(frozenset({"rope_theta", "partial_rotary_factor"}))
    return scaling


def _read_yarn(values: Theirs, original: int, longest: int | None) -> YarnScaling:
    factor = values.take("factor", float, float(longest or original) / original)
    attention = values.take("attention_factor", float, None)
    one, all_dims = (values.take(name, float, None) for name in ("mscale", "mscale_all_dim"))
    if attention is None and one and all_dims and factor > 1:
        grown = math.log(factor)
        attention = (0.1 * one * grown + 1.0) / (0.1 * all_dims * grown + 1.0)
    return YarnScaling(
        factor=factor,
        original_length=original,
        beta_fast=values.take("beta_fast", float, 32.0),
        beta_slow=values.take("beta_slow", float, 1.0),
        attention_factor=attention,
        truncate=values.take("truncate", bool, True),
    )


def _read_longrope(values: Theirs, original: int) -> LongRopeScaling:
    short, long = (_numbers(values, name) for name in ("short_factor", "long_factor"))
    factor = values.take("factor", float, None)
    attention = values.take("attention_factor", float, None)
    if attention is None and factor is not None:
        grown = math.log(factor) / math.log(original) if factor > 1 else 0.0
        attention = math.sqrt(1 + grown)
    return LongRopeScaling(short, long, original, attention)


def _numbers(values: Theirs, name: str) -> tuple[float, ...]:
    found = values.take(name, list)
    if not all(type(one) in (int, float) for one in found) or not found:
        raise values.refusal(name, found, "it must be a list of numbers")
    numbers = tuple(as_float(one) for one in found)
    if not all(0 < one < math.inf for one in numbers):
        raise values.refusal(name, found, "its numbers must be positive and finite")
    return numbers


def write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """rope_scaling as older files have it; null where nothing is scaled."""
    found: dict[str, Any]
    match scaling:
        case Unscaled():
            return {"rope_scaling": None}
        case LinearScaling():
            found = {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            found = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
            }
        case YarnScaling():
            found = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
                "truncate": scaling.truncate,
            }
        case LongRopeScaling():
            found = {
                "rope_type": "longrope",
                "short_factor": list(scaling.short_factors),
                "long_factor": list(scaling.long_factors),
                "attention_factor": scaling.attention_factor,
            }
    found["type"] = found["rope_type"]  # the key's name before 2024
    if (original := getattr(scaling, "original_length", None)) is not None:
        found["original_max_position_embeddings"] = original
    return {"rope_scaling": {name: v for name, v in found.items() if v is not None}}


@dataclass(frozen=True)
class TwoRotary:
    """Families whose windowed layers rotate by a base of their own (Gemma 3, ModernBERT)."""

    theta: float
    theta_name: str
    window_theta: float
    window_theta_name: str

    def read(self, theirs: Theirs) -> dict[str, Any]:
        theta = theirs.take(self.theta_name, float, self.theta)
        window_theta = theirs.take(self.window_theta_name, float, self.window_theta)
        new = theirs.take("rope_parameters", dict, {})
        old = theirs.take("rope_scaling", dict, None)
        newer = Theirs(new, where=f"{theirs.where}: rope_parameters")
        full = newer.take(FULL, dict, {})
        values = Theirs(full | (old or {}), where=f"{theirs.where}: rope_scaling")
        window = Theirs(newer.take(SLIDING, dict, {}), where=f"{theirs.where}: {SLIDING}")
        if not isinstance(read_scaling(window, theirs, {}), Unscaled):
            raise theirs.refusal("rope_parameters", new, "layers with a window cannot be scaled")
        return {
            "rope_theta": float(values.take("rope_theta", float, theta)),
            "rope_scaling": read_scaling(values, theirs, {}),
            "window_rope_theta": float(window.take("rope_theta", float, window_theta)),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        window = config.window_rope_theta
        return {
            self.theta_name: config.rope_theta,
            self.window_theta_name: config.rope_theta if window is None else window,
            **write_scaling(config.rope_scaling),
        }


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
