"""What an archive must be decoded with: the model, and where it runs."""

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

MAX_SHOWN = 20
"""Differences that are listed."""

MAX_CHARACTERS = 500
"""Characters of a name or value that are shown."""


def model_fingerprint(lm: LanguageModel) -> str:
    """A hash of the architecture, the parameters as they are held, and their dtypes."""
    fields = _stored_fields(lm)
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(lm.params):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _stored_fields(lm: LanguageModel) -> dict[str, Any]:
    """The architecture as archives have always hashed it: by the names of the first ones, and
    without what was added since where that is at its default."""
    fields = dataclasses.asdict(lm.model.config) | {"compute_dtype": lm.model.compute.dtype}
    for name in ("layer_d_ff",):
        if not fields[name]:
            del fields[name]
    return fields


def environment() -> dict[str, Any]:
    """What decides how sums are rounded, as far as known; small plain values."""
    device = jax.devices()[0]
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "platform": device.platform,
        "device": device.device_kind,
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "flags": _flags(),
        "precision": jax.config.values["jax_default_matmul_precision"],
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two environments, for messages; many or long ones are cut."""
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
    """Compiler flags of the environment, sorted; without those that only write files."""
    words = " ".join(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
    return " ".join(sorted(word for word in words.split() if "dump" not in word))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
