"""Small models of every kind, and helpers, for the tests in this folder."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.config import ModelConfig
from llmjax.model.latent import LatentConfig
from llmjax.model.linear import LinearConfig
from llmjax.model.model import Model
from llmjax.model.params import Params
from llmjax.model.rope import YarnScaling
from llmjax.parallel import mesh
from llmjax.parallel.mesh import MeshConfig

SMALL = {"vocab_size": 32, "max_length": 16, "d_model": 16, "num_heads": 4, "num_decoder_layers": 2}

LLAMA = ModelConfig(**SMALL, num_kv_heads=2)
GPT = ModelConfig(
    **SMALL,
    activation="gelu_tanh",
    gated=False,
    norm="layernorm",
    norm_bias=True,
    positions="learned",
    qkv_bias=True,
    attention_out_bias=True,
    mlp_bias=True,
)
BERT = ModelConfig(
    **(SMALL | {"num_decoder_layers": 0}),
    num_encoder_layers=2,
    activation="gelu",
    gated=False,
    norm="layernorm",
    norm_bias=True,
    norm_placement="post",
    positions="learned",
    embed_norm=True,
    lm_head_bias=True,
)
BOTH = ModelConfig(
    **SMALL,
    num_encoder_layers=1,
    positions="sinusoidal",
    activation="relu",
    qk_norm=True,
    window=5,
    attention_softcap=2.0,
    logit_softcap=3.0,
    embed_scale=True,
    embed_multiplier=1.5,
    residual_multiplier=0.7,
    tie_embeddings=False,
)
MLA = replace(
    LLAMA,
    num_kv_heads=None,
    mla=LatentConfig(kv_rank=16, query_rank=8, nope_head_dim=6, rope_head_dim=4, value_head_dim=5),
    rope_interleaved=True,
    rope_scaling=YarnScaling(4.0, 8, mscale=1.0, mscale_all_dim=0.8),
)
HYBRID = replace(
    LLAMA,
    num_decoder_layers=4,
    attention_gate=True,
    linear=LinearConfig(2, 4, 6, 5, 3, attention_layers=(1, 3)),
)
FLOAT32 = ComputeConfig()
KINDS = {"llama": LLAMA, "gpt": GPT, "bert": BERT, "both": BOTH}

MESHES = {
    "data": MeshConfig(data=8, fsdp=1),
    "fsdp": MeshConfig(fsdp=8),
    "tensor": MeshConfig(tensor=2, fsdp=4),
    "sequence": MeshConfig(sequence=2, fsdp=4),
    "all": MeshConfig(data=1, fsdp=2, sequence=2, tensor=2),
}


@cache
def make(
    config: ModelConfig, compute: ComputeConfig = FLOAT32, scale: float = 0.15
) -> tuple[Model, Params]:
    """Makes a model, with random parameters from NumPy, which needs no compilation.

    They are large enough that attention is not near uniform.
    """
    model = Model(resolve(config, config.vocab_size), compute)
    draw = np.random.default_rng(0)

    def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        noise = scale * draw.standard_normal(shape.shape, np.float32)
        return jnp.asarray(noise + 1 if path[-1].key == "scale" else noise)

    return model, jax.tree.map_with_path(leaf, model.abstract_params())


@cache
def applied(config: ModelConfig, compute: ComputeConfig = FLOAT32) -> Callable[..., jax.Array]:
    """Returns the compiled function from tokens to logits of the model of `make`."""
    model, params = make(config, compute)
    return partial(jax.jit(model.apply), params)


def tokens(rows: int = 8, length: int = 8, seed: int = 2) -> jax.Array:
    """[rows, length] int32."""
    return jax.random.randint(jax.random.key(seed), (rows, length), 0, 32)


def source(config: ModelConfig, rows: int = 8, length: int = 12) -> dict[str, jax.Array]:
    """Further inputs of an encoder-decoder."""
    if not config.is_encoder_decoder:
        return {}
    return {"encoder_tokens": tokens(rows, length, seed=3)}


def placed(params: Params, model: Model) -> Params:
    """Shards parameters over the current mesh."""
    axes = model.logical_axes()
    return jax.tree.map(
        lambda x, a: jax.device_put(x, mesh.named_sharding(jax.sharding.get_mesh(), *a)),
        params,
        axes,
    )


def assert_close(a: object, b: object, tolerance: float = 1e-5) -> None:
    """Asserts that trees of arrays agree, relative to each array's largest entry if above 1."""

    def check(x: jax.Array, y: jax.Array) -> None:
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * max(1.0, np.abs(y).max()))

    jax.tree.map(check, a, b)


def batch(config: ModelConfig, rows: int = 8, length: int = 8) -> dict[str, jax.Array]:
    """A packed training batch: two documents per row, and padding at the end."""
    row = tokens(rows, length + 1)
    segments = jnp.where(jnp.arange(length) < 3, 1, 2) * (jnp.arange(length) < length - 1)
    segments = jnp.broadcast_to(segments, (rows, length)).astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
    weights = jax.random.uniform(jax.random.key(4), (rows, length)) * (segments > 0)
    return {
        "inputs": row[:, :-1],
        "targets": row[:, 1:],
        "segments": segments,
        "positions": jnp.where(segments == 2, positions - 3, positions),
        "weights": weights,
    } | source(config, rows)
