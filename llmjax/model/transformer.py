"""The Transformer: stacks over one table of embeddings, and what stands behind them."""

import jax
import jax.numpy as jnp
from flax import nnx

from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.embedding import Table
from llmjax.model.layers import Dense, Layout, Norm, constant, normal
from llmjax.model.mlp import ACTIVATIONS
from llmjax.model.stack import Stack
from llmjax.parallel import mesh


class Transformer(nnx.Module):
    """An encoder, a decoder or both, over one table of token embeddings."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.config = config
        vocab, d, std = config.vocab_size, config.d_model, compute.init_std
        axes, dtype = ("vocab", "embed"), compute.dtype
        self.embedding = Table(vocab, d, axes, std=std, dtype=dtype, rngs=rngs)
        if config.num_encoder_layers:
            layers = config.num_encoder_layers
            self.encoder = Stack(config, compute, layers=layers, cross=False, rngs=rngs)
        if config.num_decoder_layers:
            layers, cross = config.num_decoder_layers, config.is_encoder_decoder
            self.decoder = Stack(config, compute, layers=layers, cross=cross, rngs=rngs)
        if config.unembed_transform:
            self.transform = Transform(config, compute, rngs=rngs)
        if config.pooler:
            self.pooler = square(config, compute, bias=True, rngs=rngs)
        if not config.tie_embeddings:
            self.unembedding = normal(rngs, (vocab, d), axes, std)
        if config.unembed_bias:
            self.unembedding_bias = constant(0.0, (vocab,), ("vocab",))

    def embed(self, tokens: jax.Array, layout: Layout) -> jax.Array:
        """[B, L] int32 -> [B, L, D] in the compute dtype."""
        x = self.embedding(tokens, layout)
        return x * jnp.asarray(self.config.d_model**0.5, x.dtype) if self.config.embed_scale else x

    def readout(self, hidden: jax.Array, layout: Layout) -> jax.Array:
        """[B, L, D] from the last layer -> [B, L, D], whose products with the rows are logits."""
        if self.config.unembed_transform:
            hidden = self.transform(hidden, layout)
        scale = self.config.logit_scale
        return hidden if scale == 1.0 else hidden * jnp.asarray(scale, hidden.dtype)


class Transform(nnx.Module):
    """norm(activation(dense(x))), before the logits of a masked language model (BERT)."""

    def __init__(self, config: ModelConfig, compute: ComputeConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS[config.activation]
        self.dense = square(config, compute, bias=config.mlp_bias, rngs=rngs)
        self.norm = Norm(config, config.d_model)

    def __call__(self, x: jax.Array, layout: Layout) -> jax.Array:
        """[B, L, D] -> [B, L, D], split as `layout.stream()`."""
        x = self.dense(mesh.reshard(x, *layout.whole()), layout.stream()).astype(jnp.float32)
        return self.norm(self.activation(x).astype(self.dense.dtype))


def square(config: ModelConfig, compute: ComputeConfig, *, bias: bool, rngs: nnx.Rngs) -> Dense:
    """A projection of the residual stream onto itself."""
    d = config.d_model
    std, dtype = compute.init_std, compute.dtype
    return Dense((d, d), ("embed", None), bias=bias, std=std, dtype=dtype, rngs=rngs)
