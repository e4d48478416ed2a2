"""Attention fields of a config.json: rotary positions and per-layer windows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmjax.convert.hf.config import HFConfig, as_float
from llmjax.model.config import ModelConfig
from llmjax.model.latent import LatentConfig
from llmjax.model.rope import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RopeScaling,
    Unscaled,
    YarnScaling,
    attention_factor,
)

FULL, SLIDING = "full_attention", "sliding_attention"
"""Values of layer_types."""


@dataclass(frozen=True)
class Rotary:
    """Base, scaling and fraction of rotary positions.

    Reads both formats: rope_theta and rope_scaling of older files, and rope_parameters of
    Transformers 5. Writes the older one, which every version and engine reads.
    """

    theta: float = 10000.0
    """Default base."""
    fraction: float | None = 1.0
    """Default fraction of rotated dimensions; None if the family always rotates all."""
    theta_name: str = "rope_theta"
    fraction_name: str = "partial_rotary_factor"
    renamed: tuple[tuple[str, str], ...] = (("su", "longrope"),)
    """Former names of scaling types -> current ones."""
    scales: tuple[str, ...] = ()
    """Fields of LongRoPE's attention factor, for short texts and for long ones, which must agree;
    none: it is attention_factor."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        theta = hf.get(self.theta_name, float, None)
        fraction = hf.get(self.fraction_name, float, None) if self.fraction is not None else None
        scaling = hf.get("rope_scaling", dict, None)
        parameters = hf.get("rope_parameters", dict, {})
        old = HFConfig(scaling or parameters, where=f"{hf.where}: rope_scaling")
        new = HFConfig(parameters, where=f"{hf.where}: rope_parameters")
        theta = new.get("rope_theta", float, self.theta) if theta is None else theta
        config: dict[str, Any] = {"rope_theta": float(old.get("rope_theta", float, theta))}
        if self.fraction is not None:
            name = "partial_rotary_factor"
            fraction = new.get(name, float, self.fraction) if fraction is None else fraction
            config["rotary_fraction"] = float(old.get(name, float, fraction))
        scales = {name: old.get(name, float, None) for name in self.scales}
        scaling = read_scaling(old, hf, dict(self.renamed))
        if len(set(scales.values())) > 1:
            raise old.error(self.scales[0], scales, "they must be equal")
        if isinstance(scaling, LongRopeScaling) and scales:
            scaling = replace(scaling, attention_factor=scales[self.scales[0]])
        config["rope_scaling"] = scaling
        return config

    def write(self, config: ModelConfig) -> dict[str, Any]:
        values = {self.theta_name: config.rope_theta, **write_scaling(config.rope_scaling)}
        if isinstance(config.rope_scaling, LongRopeScaling) and self.scales:
            factor = attention_factor(config.rope_scaling, config.max_length)
            values["rope_scaling"].pop("attention_factor", None)
            values["rope_scaling"] |= dict.fromkeys(self.scales, factor)
        if self.fraction is not None:
            values[self.fraction_name] = config.rotary_fraction
        return values


@dataclass(frozen=True)
class TwoRotary:
    """Rotary bases of families whose windowed layers use a separate base (Gemma 3, ModernBERT)."""

    theta: float
    theta_name: str
    window_theta: float
    window_theta_name: str

    def read(self, hf: HFConfig) -> dict[str, Any]:
        theta = hf.get(self.theta_name, float, self.theta)
        window_theta = hf.get(self.window_theta_name, float, self.window_theta)
        parameters = hf.get("rope_parameters", dict, {})
        scaling = hf.get("rope_scaling", dict, None)
        new = HFConfig(parameters, where=f"{hf.where}: rope_parameters")
        full = new.get(FULL, dict, {})
        old = HFConfig(full | (scaling or {}), where=f"{hf.where}: rope_scaling")
        window = HFConfig(new.get(SLIDING, dict, {}), where=f"{hf.where}: {SLIDING}")
        if not isinstance(read_scaling(window, hf, {}), Unscaled):
            raise hf.error("rope_parameters", parameters, "windowed layers cannot be scaled")
        return {
            "rope_theta": float(old.get("rope_theta", float, theta)),
            "rope_scaling": read_scaling(old, hf, {}),
            "window_rope_theta": float(window.get("rope_theta", float, window_theta)),
        }

    def write(self, config: ModelConfig) -> dict[str, Any]:
        window = config.window_rope_theta
        return {
            self.theta_name: config.rope_theta,
            self.window_theta_name: config.rope_theta if window is None else window,
            **write_scaling(config.rope_scaling),
        }


def read_scaling(values: HFConfig, hf: HFConfig, renamed: Mapping[str, str]) -> RopeScaling:
    """Read a rope_scaling object.

    Args:
      values: the object.
      hf: the config.json that contains it.
      renamed: former names of types -> current ones.

    Raises:
      UserError: the type or a field is not supported.
    """
    kind = values.get("rope_type", str, None) or values.get("type", str, "default")
    values.names_read.add("type")
    kind = renamed.get(kind, kind)
    max_length = hf.values.get("max_position_embeddings")
    top_level = hf.get("original_max_position_embeddings", int, None)

    def original() -> int:
        nested = values.get("original_max_position_embeddings", int, None)
        length = top_level or nested or max_length or 0
        if length < 2:
            raise values.error("original_max_position_embeddings", length, "it is too short")
        return int(length)

    scaling: RopeScaling
    match kind:
        case "default":
            scaling = Unscaled()
            values.names_read.update(("factor", "original_max_position_embeddings"))
        case "linear":
            scaling = LinearScaling(values.get("factor", float))
        case "llama3":
            low = values.get("low_freq_factor", float, 1.0)
            high = values.get("high_freq_factor", float, 4.0)
            if low > high:
                raise values.error("low_freq_factor", low, "it must not exceed high_freq_factor")
            scaling = Llama3Scaling(values.get("factor", float), original(), low, high)
        case "yarn":
            scaling = _read_yarn(values, original(), max_length)
        case "longrope":
            scaling = _read_longrope(values, original())
        case "dynamic":
            scaling = DynamicScaling(values.get("factor", float), int(max_length or original()))
        case _:
            supported = "default, linear, llama3, yarn, longrope, dynamic"
            raise values.error("rope_type", kind, f"supported are {supported}")
    values.check_no_others(frozenset({"rope_theta", "partial_rotary_factor"}))
    return scaling


def _read_yarn(values: HFConfig, original: int, max_length: int | None) -> YarnScaling:
    factor = values.get("factor", float, float(max_length or original) / original)
    return YarnScaling(
        factor=factor,
        original_length=original,
        beta_fast=values.get("beta_fast", float, 32.0),
        beta_slow=values.get("beta_slow", float, 1.0),
        attention_factor=values.get("attention_factor", float, None),
        mscale=values.get("mscale", float, None),
        mscale_all_dim=values.get("mscale_all_dim", float, None),
        truncate=values.get("truncate", bool, True),
    )


def _read_longrope(values: HFConfig, original: int) -> LongRopeScaling:
    short, long = (_factors(values, name) for name in ("short_factor", "long_factor"))
    factor = values.get("factor", float, None)
    attention = values.get("attention_factor", float, None)
    if attention is None and factor is not None:
        growth = math.log(factor) / math.log(original) if factor > 1 else 0.0
        attention = math.sqrt(1 + growth)
    return LongRopeScaling(short, long, original, attention)


def _factors(values: HFConfig, name: str) -> tuple[float, ...]:
    numbers = values.get(name, list)
    if not all(type(number) in (int, float) for number in numbers) or not numbers:
        raise values.error(name, numbers, "it must be a list of numbers")
    factors = tuple(map(as_float, numbers))
    if not all(0 < factor < math.inf for factor in factors):
        raise values.error(name, numbers, "its numbers must be positive and finite")
    return factors


def write_scaling(scaling: RopeScaling) -> dict[str, Any]:
    """rope_scaling in the older format; null for unscaled positions."""
    values: dict[str, Any]
    match scaling:
        case Unscaled():
            return {"rope_scaling": None}
        case LinearScaling():
            values = {"rope_type": "linear", "factor": scaling.factor}
        case DynamicScaling():
            values = {"rope_type": "dynamic", "factor": scaling.factor}
        case Llama3Scaling():
            values = {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
            }
        case YarnScaling():
            values = {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "beta_fast": scaling.beta_fast,
                "beta_slow": scaling.beta_slow,
                "attention_factor": scaling.attention_factor,
                "mscale": scaling.mscale,
                "mscale_all_dim": scaling.mscale_all_dim,
                "truncate": scaling.truncate,
            }
        case LongRopeScaling():
            values = {
                "rope_type": "longrope",
                "short_factor": list(scaling.short_factors),
                "long_factor": list(scaling.long_factors),
                "attention_factor": scaling.attention_factor,
            }
    values["type"] = values["rope_type"]  # the key's name before 2024
    original = getattr(scaling, "original_length", None)
    if original is not None and not isinstance(scaling, DynamicScaling):
        values["original_max_position_embeddings"] = original
    return {"rope_scaling": {name: value for name, value in values.items() if value is not None}}


@dataclass(frozen=True)
class Latent:
    """Sizes of multi-head latent attention."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        default = None if "q_lora_rank" in hf.values else 1536  # null: not compressed
        sizes = LatentConfig(
            kv_rank=hf.get("kv_lora_rank", int, 512),
            query_rank=hf.get("q_lora_rank", int, default),
            nope_head_dim=hf.get("qk_nope_head_dim", int, 128),
            rope_head_dim=hf.get("qk_rope_head_dim", int, 64),
            value_head_dim=hf.get("v_head_dim", int, 128),
        )
        for name, width in (
            ("head_dim", sizes.rope_head_dim),
            ("qk_head_dim", sizes.head_width),
        ):  # copies that Transformers writes
            if (stated := hf.get(name, int, width)) != width:
                raise hf.error(name, stated, f"the other widths make it {width}")
        return {"mla": sizes}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        mla = config.mla or LatentConfig()
        return {
            "kv_lora_rank": mla.kv_rank,
            "q_lora_rank": mla.query_rank,
            "qk_nope_head_dim": mla.nope_head_dim,
            "qk_rope_head_dim": mla.rope_head_dim,
            "v_head_dim": mla.value_head_dim,
        }


@dataclass(frozen=True)
class Window:
    """One window for all layers."""

    default: int | None
    """Window if the field is absent; null in the file means no window."""
    name: str = "sliding_window"

    def read(self, hf: HFConfig) -> dict[str, Any]:
        default = None if self.name in hf.values else self.default
        return {"window": hf.get(self.name, int, default)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.name: config.window}


@dataclass(frozen=True)
class Windows:
    """Windows in some layers, given by layer_types or a pattern."""

    name: str = "sliding_window"
    default: int | None = None
    every: int | None = None
    """Without layer_types: one of every so many layers has no window."""
    first: bool = False
    """Whether that layer is the first of its group; else the last."""
    every_name: str | None = None
    """Field that holds `every`."""
    switch: str | None = None
    """Field that must be true to enable windows."""
    from_layer: str | None = None
    """Without layer_types: field with the first layer that has a window."""
    zero_is_off: bool = False
    """Whether files say 0 where windows are off."""
    halved: bool = False
    """Whether the file's width counts both sides together, without the token itself."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        on = self.switch is None or hf.get(self.switch, bool, False)
        width = None
        if on or not (self.zero_is_off and hf.values.get(self.name) == 0):
            width = hf.get(self.name, int, None if self.name in hf.values else self.default)
        hf.names_read.add(self.name)
        layers = num_layers(hf)
        types = hf.get("layer_types", list, self._pattern(hf, layers))
        if len(types) != layers or any(kind not in (FULL, SLIDING) for kind in types):
            raise hf.error("layer_types", types, f"one of {FULL}, {SLIDING} for each layer")
        if not on or width is None or SLIDING not in types:
            return {"window": None, "global_layers": ()}
        window = width // 2 + 1 if self.halved else width
        full = tuple(i for i, kind in enumerate(types) if kind == FULL)
        return {"window": window, "global_layers": full}

    def _pattern(self, hf: HFConfig, layers: int) -> list[str]:
        every, begin = self.every, 0
        if self.every_name is not None:
            every = hf.get(self.every_name, int, every)
        if self.from_layer is not None:
            begin = hf.get(self.from_layer, int, layers)
        remainder = 0 if self.first or not every else every - 1
        return [
            FULL if i < begin or (every and i % every == remainder) else SLIDING
            for i in range(layers)
        ]

    def write(self, config: ModelConfig) -> dict[str, Any]:
        layers = max(config.num_encoder_layers, config.num_decoder_layers)
        window, full = config.window, set(config.global_layers)
        full = set(range(layers)) if window is None else full
        width = self.default if window is None else 2 * (window - 1) if self.halved else window
        values: dict[str, Any] = {
            self.name: width,
            "layer_types": [FULL if i in full else SLIDING for i in range(layers)],
        }
        if self.switch is not None:
            values[self.switch] = window is not None
        if self.from_layer is not None and window is not None:
            values[self.from_layer] = next((i for i in range(layers) if i not in full), layers)
        if self.every_name is not None:
            for n in range(1, layers + 1):
                if full == set(range(0 if self.first else n - 1, layers, n)):
                    values[self.every_name] = n
        return values


@dataclass(frozen=True)
class Unrotated:
    """Layers without rotary positions (SmolLM3): zeros in a list, or one layer of every few where
    there is none, or an empty one."""

    every: int = 4
    written_every: bool = False
    """Whether to write how many too, where that says it all."""

    def read(self, hf: HFConfig) -> dict[str, Any]:
        every = hf.get("no_rope_layer_interval", int, self.every)
        layers = num_layers(hf)
        pattern = [int((i + 1) % every != 0) for i in range(layers)]
        rotated = hf.get("no_rope_layers", list, pattern) or pattern
        if len(rotated) != layers or any(flag not in (0, 1) for flag in rotated):
            raise hf.error("no_rope_layers", rotated, "it must have 0 or 1 for each layer")
        return {"unrotated_layers": tuple(i for i, on in enumerate(rotated) if not on)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        layers, without = range(config.num_decoder_layers), config.unrotated_layers
        values: dict[str, Any] = {"no_rope_layers": [int(i not in without) for i in layers]}
        if self.written_every:
            steps = (n for n in range(1, len(layers) + 1) if without == tuple(layers[n - 1 :: n]))
            values["no_rope_layer_interval"] = next(steps, self.every)
        return values


def num_layers(hf: HFConfig) -> int:
    """The number of layers in a config.json."""
    return int(hf.get("num_hidden_layers", int))
