"""Task heads, and the network of a model and its heads."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from llmjax.errors import UserError
from llmjax.model.config import ModelConfig
from llmjax.model.trees import unflatten
from llmjax.parallel import mesh
from llmjax.parallel.mesh import Axes

if TYPE_CHECKING:
    from llmjax.model.model import Model
    from llmjax.model.params import Params

Neck = Literal["none", "pooler", "tanh", "relu", "transform"]
"""Layers before a head's output projection: none; the model's pooler (BERT); a projection with tanh
(RoBERTa) or relu (DistilBERT); the transform before the LM head (ModernBERT)."""


@dataclass(frozen=True)
class Head:
    """A projection of hidden states to outputs, like the published classifiers of the model family.

    Parameters: out.kernel [D, outputs], out.bias [outputs]; with the neck "tanh" or "relu" also
    dense.kernel [D, D], dense.bias [D].
    """

    outputs: int
    neck: Neck = "none"
    bias: bool = True
    initial_bias: tuple[float, ...] = ()
    """Initial value of the bias; empty: 0."""

    def declared(self, config: ModelConfig) -> dict[str, tuple[tuple[int, ...], Axes]]:
        """Return the shape and logical axes of each parameter, by dotted name."""
        d = config.d_model
        specs: dict[str, tuple[tuple[int, ...], Axes]] = {
            "out.kernel": ((d, self.outputs), ("embed", None))
        }
        if self.bias:
            specs["out.bias"] = ((self.outputs,), (None,))
        if self.neck in ("tanh", "relu"):
            specs |= {"dense.kernel": ((d, d), ("embed", None)), "dense.bias": ((d,), (None,))}
        return specs

    def __call__(
        self,
        model: "Model",
        params: "Params",
        head_params: "Params",
        states: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """Project states [B, N, D], not sharded along N, to [B, N, outputs] float32.

        Args:
          model: the model of the states.
          params: the model's parameters; "heads" is ignored.
          head_params: the head's parameters.
          states: of tokens, or of texts.
          key: for dropout at the model's rate; None: no dropout.
        """
        from llmjax.model.layers import dropout
        from llmjax.model.products import dense

        keys = (None, None) if key is None else tuple(jax.random.split(key))
        x = mesh.reshard(states, "batch", None, None)
        plain, precision = ("batch", None, None), model.compute.precision
        body = {name: value for name, value in params.items() if name != "heads"}
        if self.neck == "pooler":
            x = model.pool_each(body, x)
        elif self.neck == "transform":
            x = model.lm_head_input(body, x)
        elif self.neck != "none":
            x = dropout(x, model.compute.dropout, keys[0]) if self.neck == "tanh" else x
            layer = head_params["dense"]
            x = dense(
                x,
                layer["kernel"],
                layer["bias"],
                axes=("embed", None),
                out=plain,
                precision=precision,
            )
            x = jnp.tanh(x) if self.neck == "tanh" else jax.nn.relu(x)
        x = dropout(mesh.reshard(x, *plain), model.compute.dropout, keys[1])
        return dense(
            x,
            head_params["out"]["kernel"],
            head_params["out"].get("bias"),
            axes=("embed", None),
            out=plain,
            precision=precision,
            result="float32",
        )


def text_head(
    config: ModelConfig, outputs: int, name: str, initial_bias: tuple[float, ...] = ()
) -> Head:
    """Return the text-level head that published models of this architecture have.

    Raises:
      UserError: the model is an encoder-decoder.
    """
    if config.is_encoder_decoder:
        raise UserError(
            f"task {name}",
            "an encoder-decoder has no state that represents a text",
            "use an encoder or a decoder, or make it a sequence task",
        )
    if config.num_decoder_layers:
        return Head(outputs, "none", bias=False)
    distilled = config.positions == "learned" and not config.token_types
    neck: Neck = "relu" if distilled and not config.first_position else "tanh"
    if config.pooler:
        neck = "pooler"
    elif config.positions == "rotary" and config.lm_head_transform:
        neck = "transform"
    return Head(outputs, neck, initial_bias=initial_bias)


def token_head(config: ModelConfig, outputs: int) -> Head:
    """Return the token-level head that published models of this architecture have."""
    encodes = config.num_decoder_layers == 0
    transform = encodes and config.positions == "rotary" and config.lm_head_transform
    return Head(outputs, "transform" if transform else "none")


@dataclass(frozen=True)
class Network:
    """What is trained: a model and the heads of its tasks, if any.

    Its parameters are the model's, plus each head's under ["heads"][task name].
    """

    model: "Model"
    heads: tuple[tuple[str, Head], ...] = ()

    def init(self, key: jax.Array) -> "Params":
        """Initialize the parameters; head weights are normal with the model's `init_std`.

        Raises:
          UserError: as `Model.init`.
        """
        params = self.model.init(key)
        if not self.heads:
            return params
        std, heads = self.model.compute.init_std, {}
        for number, (name, head) in enumerate(self.heads):
            head_key = jax.random.fold_in(key, number)
            flat = {}
            for index, (path, (shape, axes)) in enumerate(head.declared(self.model.config).items()):
                sharding = mesh.out_sharding(*axes)
                if path.endswith("bias"):
                    bias = head.initial_bias if path == "out.bias" else ()
                    flat[path] = jnp.broadcast_to(jnp.array(bias or 0.0).astype(jnp.float32), shape)
                else:
                    leaf_key = jax.random.fold_in(head_key, index)
                    flat[path] = std * jax.random.normal(leaf_key, shape, out_sharding=sharding)
            heads[name] = unflatten(flat)
        return params | {"heads": heads}

    def abstract_params(self) -> "Params":
        """Return shapes and dtypes, and shardings if a mesh is set; see `Model.abstract_params`."""
        params = self.model.abstract_params()
        current = jax.sharding.get_mesh() if mesh.has_mesh() else None

        def leaf(shape: tuple[int, ...], axes: Axes) -> jax.ShapeDtypeStruct:
            sharding = None if current is None else mesh.named_sharding(current, *axes)
            return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

        return self._with_heads(params, leaf)

    def logical_axes(self) -> "Params":
        """Return the parameter tree with a tuple of logical axes at each leaf."""
        return self._with_heads(self.model.logical_axes(), lambda shape, axes: axes)

    def num_params(self) -> int:
        """Count the parameters."""
        heads = (head.declared(self.model.config).values() for _, head in self.heads)
        head_params = sum(prod(shape) for declared in heads for shape, _ in declared)
        return self.model.num_params() + head_params

    def _with_heads(
        self, params: "Params", leaf: Callable[[tuple[int, ...], Axes], Any]
    ) -> "Params":
        if not self.heads:
            return params
        config = self.model.config
        heads = {
            name: unflatten({path: leaf(*item) for path, item in head.declared(config).items()})
            for name, head in self.heads
        }
        return params | {"heads": heads}
