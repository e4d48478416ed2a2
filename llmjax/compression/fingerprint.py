"""Fingerprints of the model that an archive needs and of the environment that it was made in."""

import dataclasses
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

from llmjax.errors import printable
from llmjax.inference.language_model import LanguageModel
from llmjax.model.config import ModelConfig
from llmjax.run.environment import cores

MAX_SHOWN = 20
"""Differences to list."""

MAX_CHARACTERS = 500
"""Characters to show of a name or value."""

NEWER = (
    "layer_d_ff",
    "activation_limit",
    "attention_gate",
    "attention_sinks",
    "embed_multiplier",
    "linear",
    "mla",
    "moe",
    "multi_token",
    "multi_token_experts",
    "qk_norm_kind",
    "query_growth",
    "query_growth_length",
    "residual_multiplier",
    "rope_interleaved",
    "shared_norm",
    "up_offset",
    "window_chunks",
)
"""Fields of the architecture that the first archives lacked."""


def model_fingerprint(lm: LanguageModel) -> str:
    """Hashes the architecture and the parameters, in the dtype in which they are loaded."""
    fields = _stored_fields(lm)
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(lm.params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _stored_fields(lm: LanguageModel) -> dict[str, Any]:
    """Returns the architecture as the first archives hashed it: with the field names of that time,
    and without newer fields at their defaults."""
    fields = dataclasses.asdict(lm.model.config) | {"compute_dtype": lm.model.compute.dtype}
    for name in ("bias", "transform"):
        fields[f"unembed_{name}"] = fields.pop(f"lm_head_{name}")
    defaults = dataclasses.asdict(ModelConfig())
    return {k: v for k, v in fields.items() if k not in NEWER or v != defaults[k]}


def environment() -> dict[str, Any]:
    """Describes what is known to affect rounding, as small plain values."""
    device = jax.devices()[0]
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "platform": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
        "flags": _flags(),
        "precision": jax.config.values["jax_default_matmul_precision"],
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Describes the differences between two environments for a message, truncated if long."""
    names = [name for name in dict.fromkeys([*now, *then]) if then.get(name) != now.get(name)]
    shown = [
        f"{_cut(name)} was {_cut(repr(then.get(name)))}, is {_cut(repr(now.get(name)))}"
        for name in names[:MAX_SHOWN]
    ]
    more = len(names) - MAX_SHOWN
    return [*shown, f"{more} more differ"] if more > 0 else shown


def _cut(text: str) -> str:
    return printable(text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}...")


def _flags() -> str:
    """Returns the sorted compiler flags of the environment, without those that only dump files."""
    flags = " ".join(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
    return " ".join(sorted(flag for flag in flags.split() if "dump" not in flag))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
