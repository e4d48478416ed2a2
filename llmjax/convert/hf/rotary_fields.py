"""Fields that say how positions are rotated, in the spellings of all the years."""

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
