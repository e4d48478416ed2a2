"""Multi-head latent attention."""

from dataclasses import replace
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shapes import MESHES, MLA, assert_close, batch, make, placed, tokens

from llmjax.compression.plan import window_bytes
from llmjax.errors import UserError
from llmjax.losses.token_loss import token_loss
from llmjax.model.checks import resolve
from llmjax.model.compute import ComputeConfig
from llmjax.model.flops import flops_per_token
from llmjax.model.lora import LoraConfig, merged
from llmjax.model.model import Model
from llmjax.model.params import param_specs
from llmjax.parallel.mesh import make_mesh

SIZES = MLA.mla


def test_the_cache_holds_compressed_vectors_only():
    cache = Model(MLA).init_cache(2, 12)
    assert [leaf.shape for leaf in jax.tree.leaves(cache)] == [(2, 1, 4, 12)] * 2 + [
        (2, 1, 12, 16)
    ] * 2
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(cache))
    assert held == 2 * window_bytes(MLA, 12)


def test_flops_count_every_kernel():
    specs = param_specs(MLA, ComputeConfig()).specs
    kernels = sum(prod(spec.shape.shape) for spec in specs if spec.path[-1] in ("kernel", "rows"))
    attended = 2 * 4 * 16 * (10 + 5)  # layers, heads, keys, widths
    assert flops_per_token(MLA, 16, backward=False) == 2 * kernels + 2 * attended
    adapted = replace(MLA, lora=LoraConfig(rank=2, targets=("query_down", "key", "out", "value")))
    specs = param_specs(adapted, ComputeConfig()).specs
    added = sum(prod(spec.shape.shape) for spec in specs if "lora" in spec.path[-1])
    assert flops_per_token(adapted, 16) == 4 * kernels + 6 * attended + 6 * added


def test_a_mesh():
    """Loss and gradients with heads over tensor and compressed vectors on all of its devices."""
    model, params = make(MLA)

    def run(params):
        loss = lambda p: token_loss(model, p, batch(MLA)).objective  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    expected = run(params)
    with jax.set_mesh(make_mesh(MESHES["all"])):
        assert_close(jax.device_get(run(placed(params, model))), jax.device_get(expected), 2e-5)


def test_adapters_are_absorbed_too():
    """Decoding with adapters equals that of the merged model."""
    lora = LoraConfig(
        rank=2, targets=("query_down", "query", "kv_down", "key_rope", "key", "value")
    )
    model, params = make(replace(MLA, lora=lora))
    plain = Model(MLA)
    row, positions = tokens(2, 6), np.broadcast_to(np.arange(6), (2, 6))
    out = [
        jax.jit(model.decode)(params, row, positions, model.init_cache(2, 8))[0]
        for model, params in ((model, params), (plain, merged(params, lora)))
    ]
    assert_close(*out, 1e-5)


def test_long_prompts_are_read_in_blocks(monkeypatch):
    """As absorbed, without all of their scores."""
    from llmjax.model import latent_attention

    model, params = make(MLA)
    row, positions = tokens(2, 6), np.broadcast_to(np.arange(6), (2, 6))
    expected = model.decode(params, row, positions, model.init_cache(2, 8))[0]
    monkeypatch.setattr(latent_attention, "SMALL", 0)
    logits = model.decode(params, row, positions, model.init_cache(2, 8))[0]
    assert_close(logits, expected, 1e-5)


def test_bfloat16_decodes():
    model = Model(MLA, ComputeConfig(dtype="bfloat16"))
    _, params = make(MLA)
    logits, cache = jax.jit(model.decode)(
        params, tokens(2, 1), np.zeros((2, 1), np.int32), model.init_cache(2, 8)
    )
    assert np.isfinite(logits).all()
    assert cache.values[0].dtype == jnp.float32  # on a CPU


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 2}, "num_kv_heads 2 with mla"),
        ({"qk_norm": True}, "qk_norm has no meaning with mla"),
        ({"num_encoder_layers": 1}, "mla needs a single stack"),
        ({"mla": replace(SIZES, rope_head_dim=3)}, "mla.rope_head_dim must be even"),
        ({"mla": replace(SIZES, kv_rank=0)}, "mla.kv_rank must be positive"),
        (
            {"mla": replace(SIZES, query_rank=None), "lora": LoraConfig(targets=("query_down",))},
            "lora.targets has query_down, but the model's attention has none",
        ),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(UserError, match=message):
        resolve(replace(MLA, **change), 32)
