"""Read and write the sentence-transformers modules after pooling."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmjax.convert.hf.config import read_object, write_json
from llmjax.convert.hf.safetensors import TensorFiles, read_header, write_file
from llmjax.convert.tensors import LazyTensor, check_float
from llmjax.errors import UserError
from llmjax.inference.embedding_layers import EmbeddingLayer, Nonlinearity

WEIGHTS = "model.safetensors"
INPUT = "sentence_embedding"
"""The feature that modules read and write."""
ACTIVATIONS: dict[Nonlinearity, str] = {
    "identity": "torch.nn.modules.linear.Identity",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "gelu": "torch.nn.modules.activation.GELU",
    "silu": "torch.nn.modules.activation.SiLU",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
}
DENSE = {"weight": "linear.weight", "bias": "linear.bias", "residual": "residual.weight"}
LAYERNORM = {"weight": "norm.weight", "bias": "norm.bias"}
"""Array -> its name in the module's file."""
MAX_BYTES = 64 << 20
"""Limit per array, since origin.json stores it; a 4096 -> 1024 projection has 16 MiB."""


def read_layer(kind: str, folder: Path) -> EmbeddingLayer | None:
    """Read a module as a layer; None if it has no effect in inference.

    Args:
      kind: the module's class.
      folder: the module's folder.

    Raises:
      UserError: the module is not supported, or damaged.
    """
    path = folder / "config.json"
    match kind:
        case "Dropout":
            return None
        case "Normalize":
            _check_input(path, read_object(path) if path.exists() else {})
            return EmbeddingLayer("normalize")
        case "LayerNorm":
            return EmbeddingLayer("layernorm", arrays=_read_arrays(folder, LAYERNORM))
        case "Dense":
            return _read_dense(path, read_object(path))
    raise UserError(
        folder.parent / "modules.json",
        f"lists {kind[:60]} after pooling",
        "supported are Dense, LayerNorm, Normalize, Dropout",
    )


def _read_dense(path: Path, settings: dict[str, Any]) -> EmbeddingLayer:
    _check_input(path, settings)
    activation = settings.get("activation_function", ACTIVATIONS["tanh"])
    if not isinstance(activation, str):
        raise UserError(path, "activation_function is not a name", "restore the file")
    module, _, name = activation.rpartition(".")
    activation_of = {path.rpartition(".")[2]: name for name, path in ACTIVATIONS.items()}
    if name not in activation_of or module.split(".")[0:2] != ["torch", "nn"]:
        supported = f"supported are {', '.join(activation_of)}"
        raise UserError(path, f"activation_function is {activation[:80]}", supported)
    residual = settings.get("use_residual", False)
    bias = settings.get("bias", True)
    if not isinstance(residual, bool) or not isinstance(bias, bool):
        raise UserError(path, "bias or use_residual is neither true nor false", "restore the file")
    shape = (settings.get("out_features"), settings.get("in_features"))
    exists = {"weight": True, "bias": bias, "residual": residual and shape[0] != shape[1]}
    arrays = _read_arrays(path.parent, {name: DENSE[name] for name in DENSE if exists[name]})
    if arrays["weight"].shape != shape:
        raise UserError(path, f"has sizes {shape}, but its matrix is {arrays['weight'].shape}")
    return EmbeddingLayer("dense", activation_of[name], residual, arrays)


def _check_input(path: Path, settings: dict[str, Any]) -> None:
    """Refuse a module that reads or writes another feature than INPUT."""
    for name in ("module_input_name", "module_output_name"):
        value = settings.get(name)
        if value not in (None, INPUT):
            raise UserError(path, f"{name} is {repr(value)[:60]}, not {INPUT}")


def _read_arrays(folder: Path, names: dict[str, str]) -> dict[str, np.ndarray]:
    """Read a module's tensors as float32; the file must hold exactly those of `names`."""
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = (folder / "pytorch_model.bin").exists()
        reason = (
            "has pickled weights, which can execute code when they are loaded"
            if pickled
            else "has no weights"
        )
        raise UserError(folder, reason, f"save the model again with a recent version ({WEIGHTS})")
    files = TensorFiles(read_header(path))
    if mismatched := set(files.names()) ^ set(names.values()):
        reason = f"{min(mismatched)[:60]} is unexpected or missing"
        raise UserError(path, reason, "restore the file")
    arrays = {}
    for name, tensor in names.items():
        check_float(files, tensor)
        if int(np.prod(files.shape(tensor), dtype=np.float64)) * 4 > MAX_BYTES:
            raise UserError(path, f"{tensor} has more than {MAX_BYTES:,} bytes")
        arrays[name] = files.read(tensor).astype(np.float32)
    return arrays


def write_layer(folder: Path, layer: EmbeddingLayer) -> None:
    """Write a module's config.json and weights, if it has any."""
    if layer.kind == "normalize":
        return
    weight, names = layer.arrays["weight"], LAYERNORM
    settings: dict[str, Any] = {"dimension": weight.shape[0]}
    if layer.kind == "dense":
        names = DENSE
        settings = {
            "in_features": weight.shape[1],
            "out_features": weight.shape[0],
            "bias": "bias" in layer.arrays,
            "activation_function": ACTIVATIONS[layer.activation],
        }
        settings |= {"use_residual": True} if layer.residual else {}
    write_json(folder / "config.json", settings)
    tensors = []
    for name, array in layer.arrays.items():
        array = np.ascontiguousarray(array, np.float32)
        tensors.append(LazyTensor(names[name], array.shape, array.dtype, partial(np.array, array)))
    write_file(folder / WEIGHTS, tensors)
