"""A model's functions as programs over named arrays, traced with symbolic batch size and lengths.

Every program is a function (weights, state, inputs) -> (outputs, state) of flat dictionaries. The
state is a decoder's cache, passed from step to step.
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
"""Name -> array, or its shape and dtype."""


def cpu_device() -> jax.Device:
    """The CPU device, on which programs are traced and tested.

    Raises:
      UserError: JAX_PLATFORMS excludes it.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError as error:
        platforms = jax.config.values["jax_platforms"]
        raise UserError(
            f"JAX_PLATFORMS={platforms}",
            "excludes the CPU, on which programs are traced",
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
        """Lower the program for these platforms.

        It is traced on a CPU, whose special cases are valid on every platform.

        Raises:
          UserError: as `cpu_device`.
        """
        with jax.default_device(cpu_device()):
            traced = export.export(jax.jit(self.run), platforms=platforms)
            return traced(weights, self.state, self.inputs)


def programs(model: Model) -> list[Program]:
    """The programs of a model, which must use reference attention to lower for every platform."""
    if not model.config.num_decoder_layers:
        return _encoder(model)
    return _encoder_decoder(model) if model.config.is_encoder_decoder else _decoder(model)


def choose_platforms(
    model_programs: Sequence[Program], weights: Named, requested: Sequence[str] | None
) -> tuple[str, ...]:
    """The platforms to lower for: those requested, or (None) all that the programs lower for.

    Raises:
      UserError: a requested platform is unknown, or the programs do not lower for it.
    """
    if requested is not None and (unknown := [name for name in requested if name not in PLATFORMS]):
        supported = ", ".join(PLATFORMS)
        raise UserError(f"platform {', '.join(unknown)}", "is unknown", f"choose {supported}")
    with contextlib.suppress(NotImplementedError):
        model_programs[-1].lowered(weights, requested or PLATFORMS)
        return tuple(requested or PLATFORMS)
    platforms = []
    for platform in requested or PLATFORMS:
        try:
            model_programs[-1].lowered(weights, [platform])
        except NotImplementedError as error:
            if requested is not None:
                raise UserError(f"platform {platform}", f"is not supported: {error}") from error
        else:
            platforms.append(platform)
    return tuple(platforms)


def flat(tree: Any) -> Named:
    """Flatten a tree to a dict: dotted path -> leaf."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def nested(named: Named) -> Params:
    """The inverse of `flat`, for dicts and for tuples in dicts."""
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
    """Symbolic dimensions: b rows, t tokens, s cache slots, e encoder tokens.

    Prompts have at least two tokens, since a single one is a decoding step; learned positions
    limit the length.
    """
    constraints = [f"{name} >= 2" for name in "te" if name in names]
    if model.config.positions == "learned":
        constraints += [f"{name} <= {model.config.max_length}" for name in "tse" if name in names]
    return tuple(export.symbolic_shape(names, constraints=constraints))


def _cached(model: Model, empty: Cache) -> Callable[[Named, Named, Named], Any]:
    """A program that writes tokens to the cache and returns the logits of each row's last one."""
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
    b, s = _symbols(model, "b, s")  # new scope: decode has no t to be constrained by
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
    encode_program = Program("encode", encode, {}, source)
    b, s, e = _symbols(model, "b, s, e")
    rows = (_tokens(b, e), _tokens(b, e))
    empty = jax.eval_shape(partial(fill_cache, length=s), model.abstract_params(), *rows)
    return [encode_program, _step(model, empty, b)]


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
