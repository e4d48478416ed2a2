"""Sparse upcycling (arXiv:2212.05055): a sparse model begins with a dense one's parameters.

Of a layer's MLP, the first `moe.shared_width` units become the shared expert and the others, in
pieces of `expert_width`, one copy of the experts after another. The pieces of a copy begin with
equal router logits, so that a token chooses whole copies (the virtual groups of arXiv:2410.07524),
and kernels are scaled so that the sum over copies is the MLP: the sparse model begins with the
dense one's function.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.layer_types import layer_groups, layer_types
from llmjax.model.moe_config import MoEConfig
from llmjax.state import Tree


def check_upcycling(name: str, dense: ModelConfig, sparse: ModelConfig) -> None:
    """Checks that a sparse model can begin with the parameters of a dense one.

    Args:
      name: of the dense model's run, for messages.
      dense: its config.
      sparse: the same with `moe`.

    Raises:
      UserError: lists all problems.
    """
    mistakes = list(_problems(dense, sparse))
    if mistakes:
        raise UserError(f"model.moe, from {name}", "; ".join(mistakes))


def _problems(dense: ModelConfig, sparse: ModelConfig) -> Iterator[str]:
    moe = sparse.moe
    assert moe is not None
    if dense.moe is not None:
        yield "that model has experts already; leave model.moe out to train it as it is"
        return
    if sparse.lora is not None:
        yield "the router would not be trained with model.lora; upcycle without, then add adapters"
    if moe.scores == "sparsemixer" or moe.weight_inputs:
        yield "scores sparsemixer and weight_inputs have no weights that sum to one; choose others"
    if dense.mlp_bias and not moe.expert_bias:
        yield "expert_bias must be true, since its MLPs have biases"
    for stack, layers in _stacks(sparse):
        out_of_range = [n for n in moe.dense_layers if not 0 <= n < layers]
        if out_of_range and not dense.is_encoder_decoder:
            yield f"dense_layers {out_of_range} are not among its {layers} {stack} layers"
        for number, layer in enumerate(layer_types(sparse, layers)):
            problem = layer.is_sparse and _layer_problem(sparse, _width(dense, layers, number))
            if problem:
                yield f"{stack} layer {number}: {problem}"
                return  # the others have the same


def _layer_problem(sparse: ModelConfig, width: int) -> str | None:
    """Why an MLP of this width does not become the experts of a layer; None: it does."""
    moe = sparse.moe
    assert moe is not None
    pieces, rest = divmod(width - moe.shared_width, sparse.expert_width)
    if pieces < 1 or rest:
        return (
            f"its MLP of width {width} is not shared_width {moe.shared_width} and one or more "
            f"experts of expert_width {sparse.expert_width}"
        )
    for name in ("num_experts", "experts_per_token"):
        if getattr(moe, name) % pieces:
            return f"{name} {getattr(moe, name)} is no multiple of the {pieces} pieces of its MLP"
    if moe.num_experts // moe.groups % pieces:
        return f"a group of experts is no multiple of the {pieces} pieces of its MLP"
    return None


def upcycled(
    dense: Tree, new: Tree, key: jax.Array, configs: tuple[ModelConfig, ModelConfig], noise: float
) -> Tree:
    """The first parameters of the sparse model.

    Args:
      dense: parameters of the dense model, stacked.
      new: random ones of the sparse model, of which those that the dense one lacks stay: routers,
        heads of tasks.
      key: for the noise.
      configs: of both, resolved and checked.
      noise: standard deviation of what is added to each expert's kernels, relative to theirs.
    """
    before, after = configs
    result = _overlaid(new, dense)
    for stack, layers in _stacks(after):
        old, groups = layer_groups(layer_types(before, layers)), {}
        keys = jax.random.split(jax.random.fold_in(key, stack == "encoder"), layers)
        for name, numbers in layer_groups(layer_types(after, layers)).items():
            stacked = [
                _layer(
                    _taken(dense[stack], old, number),
                    jax.tree.map(lambda x, i=index: x[i], new[stack][name]),
                    _Copying(after, noise, keys[number]),
                )
                for index, number in enumerate(numbers)
            ]
            groups[name] = jax.tree.map(lambda *parts: jnp.stack(parts), *stacked)
        rest = {name: part for name, part in result[stack].items() if name in new[stack]}
        result[stack] = rest | groups
    return result


@dataclass(frozen=True)
class _Copying:
    """How an MLP becomes experts."""

    config: ModelConfig
    noise: float
    key: jax.Array

    @property
    def moe(self) -> MoEConfig:
        assert self.config.moe is not None
        return self.config.moe

    def factor(self, pieces: int) -> float:
        """Of down kernels: what makes the weighted sum over experts the sum over pieces."""
        moe = self.moe
        total = {"softmax": moe.experts_per_token / moe.num_experts}  # as the router begins
        weights = total.get(moe.scores, moe.experts_per_token / 2)
        return pieces / ((1.0 if moe.normalize else weights) * moe.weight_scale)


def _layer(dense: Tree, new: Tree, how: _Copying) -> Tree:
    """A layer: the dense one's parameters, and experts in place of its MLP where `new` has them."""
    if "experts" not in new["mlp"]:
        return _overlaid(new, dense)
    mlp, moe, router = dense["mlp"], how.moe, dict(new["mlp"]["router"])
    pieces = (mlp["up"]["kernel"].shape[-1] - moe.shared_width) // how.config.expert_width
    copies = moe.num_experts // pieces
    router["kernel"] = jnp.repeat(router["kernel"][:, :copies], pieces, axis=-1)
    experts = {}
    for number, (name, projection) in enumerate(sorted(mlp.items())):
        part = partial(_pieces, shared=moe.shared_width, pieces=pieces, copies=copies)
        is_down = name == "down"
        kernel = part(projection["kernel"], axis=0 if is_down else 1)
        scale = how.factor(pieces) if is_down else 1.0
        deviation = how.noise * jnp.std(kernel)
        key = jax.random.fold_in(how.key, number)
        experts[name] = {"kernel": scale * (kernel + deviation * _normal(key, kernel, how.noise))}
        if "bias" in new["mlp"]["experts"][name]:
            empty = jnp.zeros_like(new["mlp"]["experts"][name]["bias"])
            experts[name]["bias"] = empty
            if "bias" in projection and not is_down:
                experts[name]["bias"] = part(projection["bias"], axis=0)
            elif "bias" in projection and not moe.shared_width:
                experts[name]["bias"] = empty + projection["bias"] * (scale / pieces)
    sparse = {**new["mlp"], "router": router, "experts": experts}
    if moe.shared_width:
        sparse["shared"] = _shared(mlp, moe)
    if moe.shared_gate:  # begins as sigmoid(0)
        sparse["shared_gate"] = jax.tree.map(jnp.zeros_like, new["mlp"]["shared_gate"])
    return _overlaid({**new, "mlp": sparse}, {**dense, "mlp": {}})


def _normal(key: jax.Array, like: jax.Array, noise: float) -> jax.Array | float:
    return jax.random.normal(key, like.shape) if noise else 0.0


def _pieces(x: jax.Array, axis: int, *, shared: int, pieces: int, copies: int) -> jax.Array:
    """The units of an axis after the first `shared`, in pieces: [N, ...], copy after copy."""
    parts = jnp.split(jax.lax.slice_in_dim(x, shared, None, axis=axis), pieces, axis)
    return jnp.tile(jnp.stack(parts), (copies,) + (1,) * x.ndim)


def _shared(mlp: Tree, moe: MoEConfig) -> Tree:
    """The shared expert: the MLP's first units, and the bias of its output."""
    width, scale = moe.shared_width, 2.0 if moe.shared_gate else 1.0
    first = jax.tree.map(lambda x: x[..., :width], {n: p for n, p in mlp.items() if n != "down"})
    down = {"kernel": scale * mlp["down"]["kernel"][:width]}
    if "bias" in mlp["down"]:
        down["bias"] = scale * mlp["down"]["bias"]
    return {**first, "down": down}


def _stacks(config: ModelConfig) -> list[tuple[str, int]]:
    counts = ("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)
    return [(name, layers) for name, layers in counts if layers]


def _width(config: ModelConfig, layers: int, number: int) -> int:
    return layer_types(config, layers)[number].mlp_width


def _taken(stack: Tree, groups: dict[str, tuple[int, ...]], number: int) -> Tree:
    """The parameters of one layer of stacked groups."""
    name = next(name for name, numbers in groups.items() if number in numbers)
    index = groups[name].index(number)
    layer: Tree = jax.tree.map(lambda x: x[index], stack[name])
    return layer


def _overlaid(tree: Tree, over: Tree) -> Tree:
    """The leaves of `over`, and those of `tree` that it lacks."""
    result = dict(tree)
    for name, value in over.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        result[name] = _overlaid(tree[name], value) if both else value
    return result
