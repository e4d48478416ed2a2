"""Which projections of the layers have quantized products."""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from flax import nnx

from llmjax.errors import UserError
from llmjax.model.compute import ComputeConfig
from llmjax.model.layer_types import is_group
from llmjax.model.layers import Dense

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


def _projections(module: nnx.Module) -> Iterator[tuple[Path, Dense]]:
    """The projections of all layers and their paths, with the group of the layer."""
    for keys, part in nnx.iter_modules(module):
        path = tuple(map(str, keys))
        if isinstance(part, Dense) and len(path) > 2 and is_group(path[1]):
            yield path, part
