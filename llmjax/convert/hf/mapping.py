"""Convert between published tensors and parameters, using a family's name table."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Protocol

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from llmjax.convert.hf.names import EXPERT, FURTHER, LAYER, NameRow, NameTable, Sizes, axis_sizes
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
from llmjax.model.layer_types import stacked_layers
from llmjax.model.params import Params
from llmjax.model.trees import flatten, unflatten
from llmjax.parallel.devices import host_device
from llmjax.parallel.mesh import use_mesh

Place = tuple[int, ...]
"""Where a tensor's part of a stacked parameter is: its layer, and expert."""


class ModelLike(Protocol):
    """A `Model`, or anything else with a config and parameters of known shapes."""

    @property
    def config(self) -> ModelConfig: ...

    def abstract_params(self) -> Params: ...


def _paths(
    row: NameRow, groups: Mapping[tuple[str, ...], tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The paths of a row's parameter, one per group of layers, and the layers' numbers."""
    stack, _, rest = row.param.partition(".layers.")
    if not rest:
        yield row.param, ()
    for (name, group), numbers in groups.items():
        if rest and name == stack:
            yield f"{stack}.{group}.{rest}", numbers


def _stacking(row: NameRow) -> int:
    """How many leading axes of the parameter are spread over tensors: layers, and experts."""
    return (".layers" in row.param) + (EXPERT in row.tensor)


class BoundTable:
    """A name table bound to a model: each parameter with the tensors that hold it."""

    def __init__(self, table: NameTable, model: ModelLike, sizes: Sizes | None = None):
        """Args:
          table: the name table.
          model: the model that has the parameters.
          sizes: lengths of axes that the config does not determine.

        Raises:
          UserError: the table lacks a parameter of the model.
        """
        self.table, self.model = table, model
        self.sizes: Sizes = axis_sizes(model.config) | dict(sizes or {})
        self.params = dict(flatten(model.abstract_params()))
        self.rows: dict[str, NameRow] = {}
        self._numbers: dict[str, tuple[int, ...]] = {}
        self.copies = table.copies | table.copies_of(model.config)
        groups, last = stacked_layers(model.config), model.config.num_decoder_layers
        groups[("multi_token.stack", "layers")] = (last,)
        for row in (row for row in table.rows if row.applies(model.config)):
            for path, numbers in _paths(row, groups):
                if path in self.params:
                    tensor = row.tensor.replace(FURTHER, str(last))
                    self.rows[path] = replace(row, param=path, tensor=tensor)
                    self._numbers[path] = numbers
        if unnamed := self.params.keys() - self.rows.keys():
            raise UserError("model", f"has parameters without a published name: {min(unnamed)}")

    def tensors(self, row: NameRow) -> list[str | None]:
        """The tensor names of a row: one, or one per layer (None for layers without it), or one per
        expert of each layer."""
        numbers = self._numbers[row.param]
        if not numbers:
            return [row.tensor]
        names = [
            None if layer in row.missing_in else row.tensor.replace(LAYER, str(layer))
            for layer in numbers
        ]
        if EXPERT not in row.tensor:
            return names
        experts = range(self.sizes["a"])
        return [name and name.replace(EXPERT, str(e)) for name in names for e in experts]

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor of the model."""
        return {
            name: row.layout.shape(self.sizes)
            for row in self.rows.values()
            for name in self.tensors(row)
            if name is not None
        }

    def locate(self, source: TensorSource) -> dict[str, str]:
        """Match the source's tensors to the table, checking all of them.

        Returns:
          Name in the table -> name in the source.

        Raises:
          UserError: a tensor is missing, unexpected, or of the wrong shape or dtype.
        """
        expected, located = self.expected(), dict[str, str]()
        copies, fallbacks = dict[str, str](), dict[str, str]()
        known = {*expected, *self.copies, *self.table.fallbacks}
        for actual in source.names():
            name = self.table.name(actual, known)
            if name in expected:
                if name in located:
                    raise UserError(f"tensor {actual}", f"also exists as {located[name]}")
                located[name] = actual
            elif name in self.copies:
                copies[actual] = self.copies[name]
            elif name in self.table.fallbacks:
                fallbacks[self.table.fallbacks[name]] = actual
            elif not self.table.is_ignored(name, self.model.config.num_decoder_layers):
                raise UserError(
                    f"tensor {actual}", "is not part of this model", "check its config.json"
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
    """Read parameters one by one, and each device's shard separately.

    Args:
      source: the tensors.
      bound: their names and layouts.
      dtype: of the parameters; None for their stored dtypes.
      mesh: the devices; None for the host.

    Raises:
      UserError: as `BoundTable.locate`.
    """
    located = bound.locate(source)
    with use_mesh(mesh):
        abstract = dict(flatten(bound.model.abstract_params()))
    on_host = SingleDeviceSharding(host_device())
    params: dict[str, jax.Array] = {}
    for path, row in bound.rows.items():
        names = [None if name is None else located[name] for name in bound.tensors(row)]
        param_dtype = np.dtype(FLOATS[dtype]) if dtype else _stored_dtype(source, names)
        read = partial(_read_shard, source, bound, row, names, param_dtype)
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
    def fill(target: np.ndarray, name: str | None, index: Index) -> None:
        if name is None:
            target[...] = 1.0 if row.param.endswith(".scale") else 0.0
        else:
            values = row.layout.read(bound.sizes, index, lambda part: source.read(name, part))
            assign(target, values)
            check_overflow(name, target, values.dtype)

    shape = bound.params[row.param].shape
    ranges = [range(n)[part] for n, part in zip(shape, index, strict=True)]
    out = empty_aligned([len(indices) for indices in ranges], dtype)
    depth = _stacking(row)
    for place in product(*(enumerate(indices) for indices in ranges[:depth])):
        within, number = [at for at, _ in place], 0
        for size, (_, at) in zip(shape, place, strict=False):
            number = number * size + at
        fill(out[tuple(within)], names[number], index[depth:])
    return out


def _stored_dtype(source: TensorSource, names: list[str | None]) -> np.dtype:
    """The stored dtype of all layers; float32 if they differ."""
    first, *rest = {source.dtype(name) for name in names if name is not None}
    return first if not rest and first in FLOATS.values() else FLOATS["float32"]


def lazy_tensors(
    params: Params, bound: BoundTable, dtype: str | None = None
) -> Iterator[LazyTensor]:
    """The published tensors of parameters, each computed only when it is written.

    Args:
      params: nested dict of arrays.
      bound: names and layouts.
      dtype: dtype to write; None for the arrays' dtypes.
    """
    # No copies: the arrays are in host memory.
    arrays = {path: np.asarray(array) for path, array in flatten(params)}
    by_name: dict[str, list[tuple[NameRow, Place]]] = {}
    for row in bound.rows.values():
        stacked = arrays[row.param].shape[: _stacking(row)]
        for place, name in zip(np.ndindex(stacked), bound.tensors(row), strict=True):
            if name is not None:
                by_name.setdefault(name, []).append((row, place))
    for name, parts in by_name.items():
        row = parts[0][0]
        shape = row.layout.shape(bound.sizes)
        out_dtype = np.dtype(FLOATS[dtype]) if dtype else arrays[row.param].dtype
        make = _maker(name, arrays, bound.sizes, parts, shape, out_dtype)
        yield LazyTensor(name, shape, out_dtype, make)


def _maker(
    name: str,
    arrays: dict[str, np.ndarray],
    sizes: Sizes,
    parts: list[tuple[NameRow, Place]],
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        out = np.empty(shape, dtype)
        for row, place in parts:
            array = arrays[row.param]
            row.layout.write(sizes, array[place], out)
        check_overflow(name, out, array.dtype)
        return out

    return make
