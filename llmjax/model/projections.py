"""Which projections of the layers have quantized products, and their quantized kernels."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import jax
from flax import nnx

from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig
from llmjax.model.layer_types import is_group
from llmjax.model.layers import Dense
from llmjax.model.quantized_products import Kernel
from llmjax.parallel.chips import NarrowDtype
from llmjax.parallel.mesh import Axes

Path = tuple[str, ...]


def quantize_products(module: nnx.Module, compute: ComputeConfig) -> frozenset[Path]:
    """Sets how the projections that a config chooses are quantized.

    Returns:
      The paths of their kernels.

    Raises:
      UserError: a pattern matches no projection; names some.
    """
    if compute.quantized is None:
        return frozenset()
    unused, found, names = set(compute.quantized_params), set[Path](), list[str]()
    for path, projection in _projections(module):
        name = ".".join((path[0], "layers", *path[2:], "kernel"))
        names.append(name)
        matched = {glob for glob in compute.quantized_params if fnmatchcase(name, glob)}
        unused -= matched
        if matched or not compute.quantized_params:
            projection.quantization = compute.quantized
            found.add((*path, "kernel"))
    if unused:
        raise UserError(
            f"compute.quantized_params: {', '.join(sorted(unused))}",
            "matches no projection of the layers",
            f"they are named like {', '.join(sorted(set(names))[:4])}",
        )
    return frozenset(found)


def quantized_once(
    params: Mapping[str, Any],
    kernels: Mapping[Path, tuple[Axes, tuple[int, ...]]],
    dtype: NarrowDtype,
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Quantizes kernels, those of all layers at once; see `Model.quantized_once`.

    Args:
      params: a tree of dicts.
      kernels: path -> logical axes, and the dimensions that products sum over, from the end.
      dtype: of the quantized values.
    """
    found = {path: Kernel.of(_at(params, path), *how, dtype) for path, how in kernels.items()}

    def prepared(params: Mapping[str, Any]) -> dict[str, Any]:
        result = dict(params)
        for path, kernel in found.items():
            result = _replaced(result, path, kernel.with_derivative(_at(params, path)))
        return result

    return prepared


def _at(tree: Any, path: Path) -> jax.Array:
    for name in path:
        tree = tree[name]
    return tree


def _replaced(tree: Mapping[str, Any], path: Path, leaf: Any) -> dict[str, Any]:
    name, *rest = path
    return {**tree, name: _replaced(tree[name], tuple(rest), leaf) if rest else leaf}


def _projections(module: nnx.Module) -> Iterator[tuple[Path, Dense]]:
    """The projections of all layers and their paths, with the group of the layer."""
    for keys, part in nnx.iter_modules(module):
        path = tuple(map(str, keys))
        if isinstance(part, Dense) and len(path) > 2 and is_group(path[1]):
            yield path, part
