"""Parameters from tensors and tensors from parameters, by a family's table of names."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

from llmjax.convert.hf.layout import Sizes, axis_sizes
from llmjax.convert.hf.names import LAYER, NameTable, Row, canonical
from llmjax.convert.tensors import (
    FLOATS,
    Index,
    Planned,
    TensorSource,
    aligned,
    assign,
    check_float,
    check_range,
    same,
)
from llmjax.convert.trees import flatten, unflatten
from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.params import Params
from llmjax.parallel.mesh import use_mesh


class Shaped(Protocol):
    """What is known of parameters before they are there: a `Model`, or what stands on one."""

    @property
    def config(self) -> ModelConfig: ...

    def abstract_params(self) -> Params: ...


class Match:
    """A table and a model together: every parameter with the row that fills it."""

    def __init__(self, table: NameTable, model: Shaped, sizes: Sizes | None = None):
        """Args:
          table: the names.
          model: whose parameters they are.
          sizes: of axes that a config says nothing of.

        Raises:
          UserError: the model has a parameter that the table does not know.
        """
        self.table, self.model = table, model
        self.sizes: Sizes = axis_sizes(model.config) | dict(sizes or {})
        self.leaves = dict(flatten(model.abstract_params()))
        rows = (row for row in table.rows if row.counts(model.config))
        self.rows = {row.leaf: row for row in rows if row.leaf in self.leaves}
        if unknown := self.leaves.keys() - self.rows.keys():
            raise UserError("model", f"has parameters without a name there: {sorted(unknown)[0]}")

    def names(self, row: Row) -> list[str | None]:
        """The tensors of a row: one, or one for each layer (None where it has none)."""
        if LAYER not in row.name:
            return [row.name]
        return [
            None if layer in row.missing_in else row.name.replace(LAYER, str(layer))
            for layer in range(self.leaves[row.leaf].shape[0])
        ]

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the model is made of, with its shape."""
        return {
            name: row.layout.shape(self.sizes)
            for row in self.rows.values()
            for name in self.names(row)
            if name is not None
        }

    def locate(self, source: TensorSource) -> dict[str, str]:
        """Our table's name -> the source's name of each tensor; all of them checked.

        Raises:
          UserError: one is missing, or is too many, or is of another shape or kind.
        """
        expected, found = self.expected(), dict[str, str]()
        copies, stand_ins = dict[str, str](), dict[str, str]()
        known = {*expected, *self.table.copies, *self.table.stand_ins}
        for actual in source.names():
            name = canonical(self.table, actual, known)
            if name in expected:
                if name in found:
                    raise UserError(f"tensor {actual}", f"is there twice, also as {found[name]}")
                found[name] = actual
            elif name in self.table.copies:
                copies[actual] = self.table.copies[name]
            elif name in self.table.stand_ins:
                stand_ins[self.table.stand_ins[name]] = actual
            elif not any(re.search(pattern, name) for pattern in self.table.ignorable):
                raise UserError(
                    f"tensor {actual}", "has no place in this model", "config.json says otherwise"
                )
        for actual, original in copies.items():
            if original not in found and original in expected:
                found[original] = actual
            elif original in found and not same(source, found[original], actual):
                raise UserError(
                    f"tensor {actual}",
                    f"is not the same as {original}, to which config.json ties it",
                )
        found = {name: stand_ins[name] for name in stand_ins if name in expected} | found
        for name, shape in expected.items():
            if name not in found:
                raise UserError(
                    f"tensor {name}", "is missing", "check that the download is complete"
                )
            check_float(source, found[name])
            if (there := source.shape(found[name])) != shape:
                raise UserError(
                    f"tensor {name}", f"is {list(there)}, but config.json asks for {list(shape)}"
                )
        return found


def host() -> jax.Device:
    """The device whose arrays lie in the host's memory: a model in files need not fit a GPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return jax.local_devices()[0]


def read_params(
    source: TensorSource,
    match: Match,
    *,
    dtype: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Params:
    """The parameters, leaf by leaf, each device's share read by itself.

    Args:
      source: the tensors.
      match: their names and layouts.
      dtype: what to hold them in; None for what each is stored in.
      mesh: the devices; None for the host.

    Raises:
      UserError: as `Match.locate`.
    """
    where = match.locate(source)
    with use_mesh(mesh):
        abstract = dict(flatten(match.model.abstract_params()))
    one = SingleDeviceSharding(host())
    params: dict[str, jax.Array] = {}
    for leaf, row in match.rows.items():
        names = [None if name is None else where[name] for name in match.names(row)]
        kept = np.dtype(FLOATS[dtype]) if dtype else _stored_dtype(source, names)
        read = partial(_read_leaf, source, match, row, names, kept)
        sharding = abstract[leaf].sharding if mesh is not None else one
        params[leaf] = jax.make_array_from_callback(abstract[leaf].shape, sharding, read)
    return unflatten(params)


def _read_leaf(
    source: TensorSource,
    match: Match,
    row: Row,
    names: list[str | None],
    dtype: np.dtype,
    index: Index,
) -> np.ndarray:
    def fill(place: np.ndarray, name: str | None, index: Index) -> None:
        if name is None:
            place[...] = 1.0 if row.leaf.endswith(".scale") else 0.0
        else:
            values = row.layout.read(match.sizes, index, lambda cut: source.read(name, cut))
            assign(place, values)
            check_range(name, place, values.dtype)

    whole = match.leaves[row.leaf].shape
    wanted = [range(n)[cut] for n, cut in zip(whole, index, strict=True)]
    out = aligned([len(one) for one in wanted], dtype)
    if LAYER not in row.name:
        fill(out, names[0], index)
    else:
        for place, layer in zip(out, wanted[0], strict=True):
            fill(place, names[layer], index[1:])
    return out


def _stored_dtype(source: TensorSource, names: list[str | None]) -> np.dtype:
    """What all layers are stored in; float32 where they differ."""
    found = {source.dtype(name) for name in names if name is not None}
    only = found.pop()
    return only if not found and only in FLOATS.values() else FLOATS["float32"]


def plan_tensors(params: Params, match: Match, dtype: str | None = None) -> Iterator[Planned]:
    """The tensors that these parameters are to others, made only when they are written.

    Args:
      params: nested dict of arrays.
      match: names and layouts.
      dtype: what to write; None for what the arrays are in.
    """
    # Of arrays in the host's memory these are views.
    arrays = {leaf: np.asarray(array) for leaf, array in flatten(params)}
    by_name: dict[str, list[tuple[Row, int | None]]] = {}
    for row in match.rows.values():
        for layer, name in enumerate(match.names(row)):
            if name is not None:
                by_name.setdefault(name, []).append((row, layer if LAYER in row.name else None))
    for name, parts in by_name.items():
        shape = parts[0][0].layout.shape(match.sizes)
        kept = np.dtype(FLOATS[dtype]) if dtype else arrays[parts[0][0].leaf].dtype
        yield Planned(name, shape, kept, _maker(name, arrays, match.sizes, parts, shape, kept))


def _maker(
    name: str,
    arrays: dict[str, np.ndarray],
    sizes: Sizes,
    parts: list[tuple[Row, int | None]],
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        out = np.empty(shape, dtype)
        for row, layer in parts:
            array = arrays[row.leaf]
            row.layout.write(sizes, array if layer is None else array[layer], out)
        check_range(name, out, array.dtype)
        return out

    return make
