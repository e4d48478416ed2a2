"""A model's functions as programs of named arrays, traced for any number of rows and tokens.

Every program is a function (weights, state, inputs) -> (outputs, state) of flat dictionaries. The
state is a decoder's cache; each step takes the one before it returned.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from llmjax.errors import UserError
from llmjax.model.cache import Cache
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.trees import unflatten

PLATFORMS = ("cpu", "cuda", "tpu")
Named = dict[str, Any]
"""Arrays, or their shapes and dtypes, by name."""


def cpu() -> jax.Device:
    """The CPU, for which programs are traced, and on which they are tested.

    Raises:
      UserError: JAX_PLATFORMS leaves it out.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        platforms = jax.config.values["jax_platforms"]
        raise UserError(
            f"JAX_PLATFORMS={platforms}",
            "leaves out the CPU, for which programs are traced",
            f"set JAX_PLATFORMS={platforms},cpu",
        ) from error


@dataclass(frozen=True)
class Program:
    """A program and the shapes of its arguments."""

    name: str
    run: Callable[[Named, Named, Named], tuple[Named, Named]]
    state: Named
    inputs: Named

    def lowered(self, weights: Named, platforms: Sequence[str]) -> export.Exported:
        """The program for these platforms, traced for a CPU, whose special cases are right
        everywhere.

        Raises:
          UserError: as `cpu`.
        """
        with jax.default_device(cpu()):
            traced = export.export(jax.jit(self.run), platforms=platforms)
            return traced(weights, self.state, self.inputs)


def programs(model: Model) -> list[Program]:
    """The programs of a model, whose attention must be the reference one: it alone lowers for every
    platform.
    """
    if not model.config.num_decoder_layers:
        return _encoder(model)
    return _encoder_decoder(model) if model.config.is_encoder_decoder else _decoder(model)


def choose_platforms(
    model_programs: Sequence[Program], weights: Named, wanted: Sequence[str] | None
) -> tuple[str, ...]:
    """The platforms that all programs lower for, of those wanted (None: of all).

    Raises:
      UserError: they do not lower for a wanted one, or it is unknown.
    """
    if wanted is not None and (unknown := [name for name in wanted if name not in PLATFORMS]):
        supported = ", ".join(PLATFORMS)
        raise UserError(f"platform {', '.join(unknown)}", "is unknown", f"choose {supported}")
    with contextlib.suppress(NotImplementedError):
        model_programs[-1].lowered(weights, wanted or PLATFORMS)
        return tuple(wanted or PLATFORMS)
    supported_here = []
    for platform in wanted or PLATFORMS:
        try:
            model_programs[-1].lowered(weights, [platform])
        except NotImplementedError as error:
            if wanted is not None:
                raise UserError(f"platform {platform}", f"is not supported: {error}") from error
        else:
            supported_here.append(platform)
    return tuple(supported_here)


def flat(tree: Any) -> Named:
    """The leaves of a tree by their dotted paths."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def nested(named: Named) -> Params:
    """The inverse of `flat` for dictionaries and tuples in dictionaries."""
    tree: Params = _with_tuples(unflatten(named))
    return tree


def _with_tuples(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    nodes = {name: _with_tuples(inner) for name, inner in tree.items()}
    numbered = bool(nodes) and all(name.isdigit() for name in nodes)
    return tuple(nodes[str(i)] for i in range(len(nodes))) if numbered else nodes


def _tokens(*shape: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _symbols(model: Model, names: str) -> tuple[Any, ...]:
    """Sizes that stay open: b rows, t tokens, s slots of the cache, e tokens of the encoder.

    A single token is a step of its own program, so prompts have two at least; learned positions
    end somewhere.
    """
    limits = [f"{name} >= 2" for name in "te" if name in names]
    if model.config.positions == "learned":
        limits += [f"{name} <= {model.config.max_length}" for name in "tse" if name in names]
    return tuple(export.symbolic_shape(names, constraints=limits))


def _cached(model: Model, empty: Cache) -> Callable[[Named, Named, Named], Any]:
    """Reads tokens at positions into the cache; returns the logits of each row's last one."""
    tree = jax.tree.structure(empty)

    def run(weights: Named, state: Named, inputs: Named) -> tuple[Named, Named]:
        cache = jax.tree.unflatten(tree, [state[name] for name in flat(empty)])
        tokens, positions = inputs["tokens"], inputs["positions"]
        last = inputs.get("last")
        logits, cache = model.decode(nested(weights), tokens, positions, cache, only=last)
        return {"logits": logits[:, 0]}, flat(cache)

    return run


def _decoder(model: Model) -> list[Program]:
    b, t, s = _symbols(model, "b, t, s")
    empty = jax.eval_shape(lambda: model.init_cache(b, s))
    prompt = {"tokens": _tokens(b, t), "positions": _tokens(b, t), "last": _tokens(b)}
    prefill = Program("prefill", _cached(model, empty), flat(empty), prompt)
    b, s = _symbols(
        model, "b, s"
    )  # a program must not be constrained by a size that it does not have
    empty = jax.eval_shape(lambda: model.init_cache(b, s))
    return [prefill, _step(model, empty, b)]


def _step(model: Model, empty: Cache, rows: Any) -> Program:
    inputs = {"tokens": _tokens(rows, 1), "positions": _tokens(rows, 1)}
    return Program("decode", _cached(model, empty), flat(empty), inputs)


def _encoder_decoder(model: Model) -> list[Program]:
    def fill_cache(params: Params, tokens: Any, segments: Any, length: Any) -> Cache:
        encoded = model.encode(params, tokens, segments)
        return model.init_cache(
            tokens.shape[0], length, encoded=encoded, encoder_segments=segments, params=params
        )

    def encode(weights: Named, state: Named, inputs: Named) -> tuple[Named, Named]:
        cache = fill_cache(nested(weights), inputs["tokens"], inputs["segments"], 1)
        return {}, flat(replace(cache, keys=(), values=()))

    b, e = _symbols(model, "b, e")
    source = {"tokens": _tokens(b, e), "segments": _tokens(b, e)}
    first = Program("encode", encode, {}, source)
    b, s, e = _symbols(model, "b, s, e")
    rows = (_tokens(b, e), _tokens(b, e))
    empty = jax.eval_shape(partial(fill_cache, length=s), model.abstract_params(), *rows)
    return [first, _step(model, empty, b)]


def _encoder(model: Model) -> list[Program]:
    b, t = _symbols(model, "b, t")
    inputs = {"tokens": _tokens(b, t), "segments": _tokens(b, t)}
    if model.config.token_types:
        inputs["token_types"] = _tokens(b, t)

    def hidden(weights: Named, state: Named, inputs: Named) -> tuple[Named, Named]:
        states = model.hidden(nested(weights), **inputs)
        return {"hidden": states.astype(jnp.float32)}, {}

    def logits(weights: Named, state: Named, inputs: Named) -> tuple[Named, Named]:
        return {"logits": model.apply(nested(weights), **inputs)}, {}

    return [Program("hidden", hidden, {}, inputs), Program("forward", logits, {}, inputs)]
