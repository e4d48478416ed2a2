"""Parameters from tensors and tensors from parameters, by a family's table of names."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from llmjax.convert.hf.names import LAYER, NameRow, NameTable, Sizes, axis_sizes
from llmjax.convert.params import host
from llmjax.convert.tensors import (
    FLOATS,
    Index,
    LazyTensor,
    TensorSource,
    assign,
    check_float,
    check_overflow,
    empty_aligned,
    equal_tensors,
)
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.params import Params
from llmjax.model.trees import flatten, unflatten
from llmjax.parallel.mesh import use_mesh


class ModelLike(Protocol):
    """What has parameters of known shapes: a `Model`, or a model with a head."""

    @property
    def config(self) -> ModelConfig: ...

    def abstract_params(self) -> Params: ...


class BoundTable:
    """A table of names and a model: every parameter with the tensors that hold it."""

    def __init__(self, table: NameTable, model: ModelLike, sizes: Sizes | None = None):
        """Args:
          table: the names.
          model: whose parameters they are.
          sizes: of axes that a config does not determine.

        Raises:
          UserError: the model has a parameter that the table does not have.
        """
        self.table, self.model = table, model
        self.sizes: Sizes = axis_sizes(model.config) | dict(sizes or {})
        self.params = dict(flatten(model.abstract_params()))
        rows = (row for row in table.rows if row.applies(model.config))
        self.rows = {row.param: row for row in rows if row.param in self.params}
        if unnamed := self.params.keys() - self.rows.keys():
            raise UserError("model", f"has parameters without a published name: {min(unnamed)}")

    def tensors(self, row: NameRow) -> list[str | None]:
        """The tensors of a row: one, or one for each layer (None where it has none)."""
        if LAYER not in row.tensor:
            return [row.tensor]
        return [
            None if layer in row.missing_in else row.tensor.replace(LAYER, str(layer))
            for layer in range(self.params[row.param].shape[0])
        ]

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the model consists of, with its shape."""
        return {
            name: row.layout.shape(self.sizes)
            for row in self.rows.values()
            for name in self.tensors(row)
            if name is not None
        }

    def locate(self, source: TensorSource) -> dict[str, str]:
        """The table's name -> the source's name of each tensor; all of them are checked.

        Raises:
          UserError: one is missing, left over, or of another shape or dtype.
        """
        expected, located = self.expected(), dict[str, str]()
        copies, fallbacks = dict[str, str](), dict[str, str]()
        known = {*expected, *self.table.copies, *self.table.fallbacks}
        for actual in source.names():
            name = self.table.name(actual, known)
            if name in expected:
                if name in located:
                    raise UserError(f"tensor {actual}", f"is there twice, also as {located[name]}")
                located[name] = actual
            elif name in self.table.copies:
                copies[actual] = self.table.copies[name]
            elif name in self.table.fallbacks:
                fallbacks[self.table.fallbacks[name]] = actual
            elif not any(re.search(pattern, name) for pattern in self.table.ignorable):
                raise UserError(
                    f"tensor {actual}", "has no place in this model", "check its config.json"
                )
        for actual, original in copies.items():
            if original not in located and original in expected:
                located[original] = actual
            elif original in located and not equal_tensors(source, located[original], actual):
                raise UserError(
                    f"tensor {actual}", f"differs from {original}, to which config.json ties it"
                )
        located = {name: fallbacks[name] for name in fallbacks if name in expected} | located
        for name, shape in expected.items():
            if name not in located:
                raise UserError(
                    f"tensor {name}", "is missing", "check that the download is complete"
                )
            check_float(source, located[name])
            if (actual_shape := source.shape(located[name])) != shape:
                raise UserError(
                    f"tensor {name}",
                    f"is {list(actual_shape)}, but config.json asks for {list(shape)}",
                )
        return located


def read_params(
    source: TensorSource,
    bound: BoundTable,
    *,
    dtype: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Params:
    """The parameters, one by one; each device's shard is read by itself.

    Args:
      source: the tensors.
      bound: their names and layouts.
      dtype: of the parameters; None for what each is stored in.
      mesh: the devices; None for the host.

    Raises:
      UserError: as `BoundTable.locate`.
    """
    located = bound.locate(source)
    with use_mesh(mesh):
        abstract = dict(flatten(bound.model.abstract_params()))
    on_host = SingleDeviceSharding(host())
    params: dict[str, jax.Array] = {}
    for path, row in bound.rows.items():
        names = [None if name is None else located[name] for name in bound.tensors(row)]
        kept = np.dtype(FLOATS[dtype]) if dtype else _stored_dtype(source, names)
        read = partial(_read_shard, source, bound, row, names, kept)
        sharding = abstract[path].sharding if mesh is not None else on_host
        params[path] = jax.make_array_from_callback(abstract[path].shape, sharding, read)
    return unflatten(params)


def _read_shard(
    source: TensorSource,
    bound: BoundTable,
    row: NameRow,
    names: list[str | None],
    dtype: np.dtype,
    index: Index,
) -> np.ndarray:
    def fill(place: np.ndarray, name: str | None, index: Index) -> None:
        if name is None:
            place[...] = 1.0 if row.param.endswith(".scale") else 0.0
        else:
            values = row.layout.read(bound.sizes, index, lambda part: source.read(name, part))
            assign(place, values)
            check_overflow(name, place, values.dtype)

    shape = bound.params[row.param].shape
    wanted = [range(n)[part] for n, part in zip(shape, index, strict=True)]
    out = empty_aligned([len(indices) for indices in wanted], dtype)
    if LAYER not in row.tensor:
        fill(out, names[0], index)
    else:
        for place, layer in zip(out, wanted[0], strict=True):
            fill(place, names[layer], index[1:])
    return out


def _stored_dtype(source: TensorSource, names: list[str | None]) -> np.dtype:
    """What all layers are stored in; float32 where they differ."""
    first, *rest = {source.dtype(name) for name in names if name is not None}
    return first if not rest and first in FLOATS.values() else FLOATS["float32"]


def lazy_tensors(
    params: Params, bound: BoundTable, dtype: str | None = None
) -> Iterator[LazyTensor]:
    """The published tensors of these parameters, each computed only when it is written.

    Args:
      params: nested dict of arrays.
      bound: names and layouts.
      dtype: what to write; None for what the arrays are in.
    """
    # Of arrays in the host's memory these are views.
    arrays = {path: np.asarray(array) for path, array in flatten(params)}
    by_name: dict[str, list[tuple[NameRow, int | None]]] = {}
    for row in bound.rows.values():
        for layer, name in enumerate(bound.tensors(row)):
            if name is not None:
                at = layer if LAYER in row.tensor else None
                by_name.setdefault(name, []).append((row, at))
    for name, parts in by_name.items():
        row = parts[0][0]
        shape = row.layout.shape(bound.sizes)
        kept = np.dtype(FLOATS[dtype]) if dtype else arrays[row.param].dtype
        yield LazyTensor(name, shape, kept, _maker(name, arrays, bound.sizes, parts, shape, kept))


def _maker(
    name: str,
    arrays: dict[str, np.ndarray],
    sizes: Sizes,
    parts: list[tuple[NameRow, int | None]],
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        out = np.empty(shape, dtype)
        for row, layer in parts:
            array = arrays[row.param]
            row.layout.write(sizes, array if layer is None else array[layer], out)
        check_overflow(name, out, array.dtype)
        return out

    return make
