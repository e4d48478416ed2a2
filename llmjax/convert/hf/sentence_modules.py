"""Modules of sentence-transformers behind pooling: Dense, LayerNorm, Normalize, Dropout."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.hf.safetensors import TensorFiles, read_header, read_object
from llmjax.convert.tensors import check_float
from llmjax.errors import UserError
from llmjax.inference.vector_steps import Nonlinearity, Step

WEIGHTS = "model.safetensors"
VECTOR = "sentence_embedding"
"""What the modules read and write, of all that is computed of a text."""
ACTIVATIONS: dict[Nonlinearity, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
LARGEST = 64 << 20
"""Bytes of a module's arrays, which origin.json keeps; a projection 4096 -> 1024 has 16 MiB."""


def read_step(kind: str, folder: Path) -> Step | None:
    """What a module does; None for one that does nothing in inference.

    Args:
      kind: its class.
      folder: its own.

    Raises:
      UserError: it is not supported, or damaged.
    """
    path = folder / "config.json"
    match kind:
        case "Dropout":
            return None
        case "Normalize":
            _check_vector(path, read_object(path) if path.exists() else {})
            return Step("normalize")
        case "LayerNorm":
            names = {"norm.weight": "weight", "norm.bias": "bias"}
            return Step("layernorm", arrays=_arrays(folder, names, names))
        case "Dense":
            return _dense(folder, read_object(path))
    raise UserError(
        folder.parent / "modules.json",
        f"lists {kind[:60]} behind pooling",
        "supported there are Dense, LayerNorm, Normalize, Dropout",
    )


def _dense(folder: Path, settings: dict[str, Any]) -> Step:
    path = folder / "config.json"
    _check_vector(path, settings)
    said = settings.get("activation_function", ACTIVATIONS["tanh"])
    if not isinstance(said, str):
        raise UserError(path, "activation_function is no name", "restore the file")
    module, _, name = said.rpartition(".")
    known = {theirs.rpartition(".")[2]: ours for ours, theirs in ACTIVATIONS.items()}
    if name not in known or module.split(".")[0:2] != ["torch", "nn"]:
        raise UserError(
            path, f"activation_function is {said[:80]}", f"known are {', '.join(known)}"
        )
    residual = settings.get("use_residual", False)
    bias = settings.get("bias", True)
    if not isinstance(residual, bool) or not isinstance(bias, bool):
        raise UserError(path, "bias or use_residual is neither true nor false", "restore the file")
    wanted = {"linear.weight": "weight"} | ({"linear.bias": "bias"} if bias else {})
    projected = residual and settings.get("in_features") != settings.get("out_features")
    wanted |= {"residual.weight": "residual"} if projected else {}
    arrays = _arrays(folder, wanted, wanted)
    shape = (settings.get("out_features"), settings.get("in_features"))
    if arrays["weight"].shape != shape:
        raise UserError(path, f"states {shape}, but its matrix is {arrays['weight'].shape}")
    return Step("dense", known[name], residual, arrays)


def _check_vector(path: Path, settings: dict[str, Any]) -> None:
    """Refuses a module that reads or writes anything but a text's vector."""
    for name in ("module_input_name", "module_output_name"):
        value = settings.get(name)
        if value not in (None, VECTOR):
            raise UserError(path, f"{name} is {repr(value)[:60]}, not {VECTOR}")


def _arrays(
    folder: Path, names: dict[str, str], required: Collection[str]
) -> dict[str, np.ndarray]:
    """Tensors of a module's file as float32, under our names."""
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "pytorch_model.bin").exists()
        reason = "has pickled weights, which could run any program" if pickled else "has no weights"
        raise UserError(folder, reason, f"save the model anew: then it has a {WEIGHTS}")
    files = TensorFiles(read_header(folder / WEIGHTS))
    there = set(files.names())
    if there != set(required):
        odd = sorted(there ^ set(required))[0]
        raise UserError(folder / WEIGHTS, f"{odd[:60]} is too many, or missing", "restore the file")
    found = {}
    for theirs, ours in names.items():
        check_float(files, theirs)
        size = int(np.prod(files.shape(theirs), dtype=np.float64)) * 4
        if size > LARGEST:
            raise UserError(folder / WEIGHTS, f"{theirs} has more than {LARGEST:,} bytes")
        found[ours] = files.read(theirs).astype(np.float32)
    return found
