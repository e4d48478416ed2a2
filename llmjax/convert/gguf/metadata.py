"""Checked access to the metadata of one architecture, and two-way conversion of rotary scaling."""

import math
from typing import Any, NoReturn

import numpy as np

from llmjax.convert.gguf.file import GgufFile, dequantizer
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.rope import LinearScaling, Llama3Scaling, Unscaled, YarnScaling, rope_frequencies

MAX_NUMBER = float(np.finfo(np.float32).max)
MAX_MESSAGE = 400
"""Characters of a message, which may quote the file."""
IGNORED = {
    "vocab_size",
    "tensor_data_layout",
    "attention.causal",
    "attention.value_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_log_multiplier",
}
"""Keys without effect; sizes come from the tensors."""

SAMPLING = {
    "temperature": "general.sampling.temp",
    "top_k": "general.sampling.top_k",
    "top_p": "general.sampling.top_p",
    "min_p": "general.sampling.min_p",
    "repetition_penalty": "general.sampling.penalty_repeat",
}
"""Field of generation_config.json -> key of the sampling that the publisher recommends."""


def recommended_sampling(file: GgufFile) -> dict[str, Any] | None:
    """The recommended sampling, as fields of generation_config.json; None: the file has none."""
    values = {name: file.metadata.get(key) for name, key in SAMPLING.items()}
    return {
        name: value if isinstance(value, int) else shortest(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    } or None


class Metadata:
    """The keys of one architecture; tracks which were read."""

    def __init__(self, file: GgufFile):
        self.file = file
        self.architecture = str(file.metadata.get("general.architecture"))
        self._read = set(IGNORED)

    def fail(self, why: str) -> NoReturn:
        raise UserError(
            self.file.path, why if len(why) <= MAX_MESSAGE else f"{why[:MAX_MESSAGE]}..."
        )

    def get(self, key: str, default: Any = None) -> Any:
        """The number or string of a key, else the default."""
        self._read.add(key)
        value = self.file.metadata.get(f"{self.architecture}.{key}", default)
        if isinstance(value, list | np.ndarray):
            self.fail(f"{self.architecture}.{key} is a list, not one value")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            shown = "missing" if value is None else f"{value!r}, not a positive number"
            self.fail(f"{self.architecture}.{key} is {shown}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if not isinstance(value, int | float) or not 0 < value <= MAX_NUMBER:
            shown = "missing" if value is None else f"{value!r}, not a positive number"
            self.fail(f"{self.architecture}.{key} is {shown}")
        return shortest(value)

    def head_width(self, width: int, heads: int) -> int:
        """The width of a head if all heads together are as wide as the model."""
        if width % heads:
            self.fail(f"has {heads} heads, which do not divide its width {width}")
        return width // heads

    def floats(self, tensor: str) -> list[float] | None:
        """Read a small 1-D tensor; None if the file does not have it."""
        stored = self.file.tensors.get(tensor)
        if stored is None:
            return None
        if len(stored.shape) != 1:
            self.fail(f"{tensor} {list(stored.shape)} is not a list")
        _, dequantize = dequantizer(stored.kind)
        return [shortest(value) for value in dequantize(self.file.rows(tensor, 0, 1))[0]]

    def check_no_others(self) -> None:
        """Refuse keys that were not read."""
        prefix = f"{self.architecture}."
        keys = [key for key in self.file.metadata if key.startswith(prefix)]
        unknown = [key for key in keys if key.removeprefix(prefix) not in self._read]
        if unknown:
            self.fail(f"has keys that are not supported: {', '.join(unknown[:5])}")


def shortest(value: Any) -> float:
    """The shortest decimal of a float32 (1e-5, not 9.99999974738e-06)."""
    return float(str(np.float32(value)))


def read_rope_scaling(
    metadata: Metadata, config: dict[str, Any], width: int
) -> dict[str, Any] | None:
    """Transformers' `rope_scaling`; None for unscaled positions.

    Args:
      metadata: of the file.
      config: has max_position_embeddings and rope_theta.
      width: rotated dimensions of a head.

    Raises:
      UserError: the type of scaling is not supported.
    """
    kind = metadata.get("rope.scaling.type", "none")
    factor = metadata.get("rope.scaling.factor") or metadata.get("rope.scale_linear") or 0.0
    factor = shortest(factor) if isinstance(factor, int | float) else 0.0
    original = metadata.get("rope.scaling.original_context_length")
    long_factors = metadata.floats("rope_factors_long.weight")
    short_factors = metadata.floats("rope_factors_short.weight")
    divisors = metadata.floats("rope_freqs.weight")
    if long_factors and short_factors:
        return _longrope(metadata, config, short_factors, long_factors)
    if divisors is not None:
        return _llama3(config, divisors, width)
    if kind == "none" or kind is None or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        metadata.fail(f"has rotary scaling {kind!r}, which is not supported")
    yarn = {"rope_type": "yarn", "factor": metadata.number("rope.scaling.factor")}
    yarn["original_max_position_embeddings"] = original or config["max_position_embeddings"]
    for name in ("beta_fast", "beta_slow"):
        if metadata.get(f"rope.scaling.yarn_{name}") is not None:
            yarn[name] = metadata.number(f"rope.scaling.yarn_{name}")
    if metadata.architecture == "gpt-oss":
        yarn["truncate"] = False  # of all of them; llama.cpp rounds nevertheless
    return yarn


def _longrope(
    metadata: Metadata, config: dict[str, Any], short: list[float], long: list[float]
) -> dict[str, Any]:
    scaling: dict[str, Any] = {"rope_type": "longrope", "short_factor": short, "long_factor": long}
    original = metadata.integer("rope.scaling.original_context_length")
    stretch = config["max_position_embeddings"] / original
    default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    factor = metadata.number("rope.scaling.attn_factor", default)
    if not math.isclose(factor, default, rel_tol=1e-5):
        scaling["attention_factor"] = factor
    return scaling


def _llama3(config: dict[str, Any], divisors: list[float], width: int) -> dict[str, Any] | None:
    """Recover Llama 3's scaling from the frequency divisors, which are all that a file stores.

    Given the published low and high factors 1 and 4, each blended frequency determines the original
    length; with 1 and 1 (Llama 4) none is blended, and it is the power of two that fits. Divisors
    that do not fit are kept as LongRoPE factors.
    """
    theta, highest = config["rope_theta"], max(divisors)
    if highest == min(divisors) == 1.0:
        return None
    unscaled = theta ** (-np.arange(width // 2) * 2 / width)
    smooth = (1 / np.asarray(divisors) - 1 / highest) / (1 - 1 / highest)
    blended = (smooth > 0.01) & (smooth < 0.99)
    if (original := step_length(np.asarray(divisors), unscaled)) is not None:
        return _llama3_values(highest, original, 1.0)
    if len(divisors) == width // 2 and highest > 1 and blended.any():
        lengths = (3 * smooth + 1) * 2 * math.pi / unscaled
        original = round(float(np.median(lengths[blended])))
        guess = Llama3Scaling(highest, original)
        scaled, _ = rope_frequencies(guess, theta, width, config["max_position_embeddings"])
        if np.allclose(scaled, unscaled / divisors, rtol=1e-4, atol=0):
            return _llama3_values(highest, original, 4.0)
    return {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "original_max_position_embeddings": config["max_position_embeddings"],
        "attention_factor": 1.0,
    }


def _llama3_values(factor: float, original: int, high: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


def step_length(divisors: np.ndarray, unscaled: np.ndarray) -> int | None:
    """The largest power of two over which all pairs that make a turn are kept, and all others
    divided by one number; None: there is none.

    Args:
      divisors: [n] of frequencies.
      unscaled: [n] frequencies, which fall.
    """
    kept = int((divisors == 1.0).sum())
    fits = divisors.shape == unscaled.shape and 0 < kept < len(divisors)
    if not fits or (divisors[:kept] != 1.0).any() or (divisors[kept:] != divisors[-1]).any():
        return None
    shortest_length, end = 2 * math.pi / unscaled[kept - 1], 2 * math.pi / unscaled[kept]
    length = 1 << (math.ceil(end) - 1).bit_length() - 1
    return length if shortest_length <= length < end else None


def rope_keys(shape: ModelConfig) -> dict[str, Any] | None:
    """The keys rope.scaling.* of a model; None if they cannot express its scaling."""
    match shape.rope_scaling:
        case Unscaled():
            return {}
        case Llama3Scaling(low_frequency_factor=1.0, high_frequency_factor=4.0):
            return {}  # stored as a tensor
        case Llama3Scaling(low_frequency_factor=1.0, high_frequency_factor=1.0) as steps:
            unscaled, _ = rope_frequencies(
                Unscaled(), shape.rope_theta, shape.head_width, shape.max_length
            )
            length = step_length(llama3_divisors(steps, shape), unscaled.astype(np.float64))
            return {} if length == steps.original_length else None
        case LinearScaling(factor=factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        case YarnScaling(attention_factor=None) as yarn if _has_keys(yarn, shape):
            log = {} if shape.mla is None else {"rope.scaling.yarn_log_multiplier": _log(yarn)}
            return log | {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(yarn.factor),
                "rope.scaling.original_context_length": yarn.original_length,
                "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
                "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
            }
    return None


def _has_keys(yarn: YarnScaling, shape: ModelConfig) -> bool:
    """Whether GGUF has keys for all of a scaling. Files of gpt-oss state none for `truncate`."""
    if yarn.truncate == shape.attention_sinks or yarn.mscale != yarn.mscale_all_dim:
        return False
    return (yarn.mscale is None) == (shape.mla is None)


def _log(yarn: YarnScaling) -> float:
    """What multiplies ln(factor) in the scale of attention, plus 1."""
    return 0.1 * (yarn.mscale_all_dim or 0.0)


def llama3_divisors(scaling: Llama3Scaling, shape: ModelConfig) -> np.ndarray:
    """The divisor of each frequency, float32 [head_dim / 2]."""
    width, theta = shape.head_width, shape.rope_theta
    unscaled, _ = rope_frequencies(Unscaled(), theta, width, shape.max_length)
    scaled, _ = rope_frequencies(scaling, theta, width, shape.max_length)
    return (unscaled.astype(np.float64) / scaled).astype(np.float32)
