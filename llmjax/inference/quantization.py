"""Loading a run's parameters with narrow weights."""

from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh

from llmjax.model.model import Model
from llmjax.model.params import Params, ParamSpec, param_specs
from llmjax.model.quantized import Quantized, Weights, quantize
from llmjax.model.trees import flatten, unflatten
from llmjax.parallel.mesh import use_mesh
from llmjax.run.checkpoint.reading import SKIPPED
from llmjax.run.folder import Run
from llmjax.run.parameters import read_parameters


def read_quantized(
    run: Run, step: int, abstract: Params, model: Model, mesh: Mesh | None, weights: Weights
) -> Params:
    """Reads the parameters of a verified checkpoint, and quantizes the weights of projections.

    Each array is read and quantized before the next one is read, so that at most one is wide.

    Args:
      run: the run.
      step: of `resolve_step`.
      abstract: shapes, and the dtypes and shardings to read into, of the complete network.
      model: its model.
      mesh: the devices of `abstract`; None: one.
      weights: int8 or int4.

    Raises:
      UserError: as `read_parameters`.
    """
    specs = {
        ".".join(spec.path): spec
        for spec in param_specs(model.config, model.compute).specs
        if spec.inner is not None
    }
    shapes = dict(flatten(abstract))

    def read(paths: frozenset[str]) -> dict[str, Any]:
        kept = {path: leaf if path in paths else SKIPPED for path, leaf in shapes.items()}
        params = dict(flatten(read_parameters(run, step, unflatten(kept))))
        return {path: params[path] for path in paths}

    arrays = read(frozenset(shapes) - frozenset(specs))
    for path, spec in specs.items():
        with use_mesh(mesh):
            arrays |= {path: _quantized(read(frozenset({path}))[path], spec, weights)}
    return unflatten(arrays)


def _quantized(array: jax.Array, spec: ParamSpec, weights: Weights) -> Quantized:
    assert spec.inner is not None
    convert = partial(quantize, axes=spec.axes, inner=spec.inner, weights=weights)
    narrow = jax.block_until_ready(jax.jit(convert)(array))
    array.delete()
    return narrow
