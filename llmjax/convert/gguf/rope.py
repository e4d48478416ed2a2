"""How a GGUF file states the scaling of rotary frequencies, as Transformers' rope_scaling."""

import math
from typing import Any

import numpy as np

from llmjax.convert.gguf.metadata import Metadata, short
from llmjax.model.config import ModelConfig
from llmjax.model.rope import LinearScaling, Llama3Scaling, Unscaled, YarnScaling, rope_frequencies


def read_rope_scaling(found: Metadata, config: dict[str, Any], width: int) -> dict[str, Any] | None:
    """`rope_scaling`, or None where nothing is scaled.

    Args:
      found: the file's keys.
      config: as far as it is known: max_position_embeddings and rope_theta.
      width: rotated dimensions of a head.

    Raises:
      UserError: a kind of scaling that is not supported.
    """
    kind = found.get("rope.scaling.type", "none")
    factor = found.get("rope.scaling.factor") or found.get("rope.scale_linear") or 0.0
    factor = short(factor) if isinstance(factor, int | float) else 0.0
    original = found.get("rope.scaling.original_context_length")
    for_long = found.floats("rope_factors_long.weight")
    for_short = found.floats("rope_factors_short.weight")
    factors = found.floats("rope_freqs.weight")
    if for_long and for_short:
        return _longrope(found, config, for_short, for_long)
    if factors is not None:
        return _llama3(found, config, factors, width)
    if kind == "none" or kind is None or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        found.fail(f"has rotary scaling {kind!r}, which is not supported")
    yarn = {"rope_type": "yarn", "factor": found.number("rope.scaling.factor")}
    yarn["original_max_position_embeddings"] = original or config["max_position_embeddings"]
    names = {"yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
    for key, name in names.items():
        if found.get(f"rope.scaling.{key}") is not None:
            yarn[name] = found.number(f"rope.scaling.{key}")
    return yarn


def _longrope(
    found: Metadata, config: dict[str, Any], for_short: list[float], for_long: list[float]
) -> dict[str, Any]:
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": for_short,
        "long_factor": for_long,
    }
    original = found.integer("rope.scaling.original_context_length")
    stretch = config["max_position_embeddings"] / original
    usual = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
    given = found.number("rope.scaling.attn_factor", usual)
    if not math.isclose(given, usual, rel_tol=1e-5):
        scaling["attention_factor"] = given
    return scaling


def _llama3(
    found: Metadata, config: dict[str, Any], factors: list[float], width: int
) -> dict[str, Any] | None:
    """Llama 3's scaling from the divisor of each pair, which is all that a file keeps of it.

    With the published low and high factors 1 and 4, each blended pair tells the original length.
    What does not fit is kept pair by pair, as the factors of LongRoPE are.
    """
    theta, highest = config["rope_theta"], max(factors)
    if highest == min(factors) == 1.0:
        return None
    plain = theta ** (-np.arange(width // 2) * 2 / width)
    kept = (1 / np.asarray(factors) - 1 / highest) / (1 - 1 / highest)
    blended = (kept > 0.01) & (kept < 0.99)
    if len(factors) == width // 2 and highest > 1 and blended.any():
        lengths = (3 * kept + 1) * 2 * math.pi / plain
        original = round(float(np.median(lengths[blended])))
        guess = Llama3Scaling(highest, original)
        turns, _ = rope_frequencies(guess, theta, width, config["max_position_embeddings"])
        if np.allclose(turns, plain / factors, rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": highest,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": original,
            }
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": config["max_position_embeddings"],
        "attention_factor": 1.0,
    }


def rope_keys(shape: ModelConfig) -> dict[str, Any] | None:
    """The keys rope.scaling.* for a model; None where they cannot say its scaling."""
    match shape.rope_scaling:
        case Unscaled():
            return {}
        case Llama3Scaling(low_frequency_factor=1.0, high_frequency_factor=4.0):
            return {}  # a tensor says it
        case LinearScaling(factor=factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        case YarnScaling(attention_factor=None, truncate=True) as yarn:
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(yarn.factor),
                "rope.scaling.original_context_length": yarn.original_length,
                "rope.scaling.yarn_beta_fast": float(yarn.beta_fast),
                "rope.scaling.yarn_beta_slow": float(yarn.beta_slow),
            }
    return None


def llama3_factors(scaling: Llama3Scaling, shape: ModelConfig) -> np.ndarray:
    """By what the frequency of each pair is divided, float32 [head_dim / 2]."""
    width, theta = shape.head_width, shape.rope_theta
    plain, _ = rope_frequencies(Unscaled(), theta, width, shape.max_length)
    turns, _ = rope_frequencies(scaling, theta, width, shape.max_length)
    return (plain.astype(np.float64) / turns).astype(np.float32)
